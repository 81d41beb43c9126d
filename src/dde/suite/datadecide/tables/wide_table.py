"""Tables of pretraining evaluations with one column per metric."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dde.array_types import Float64, Int64
from dde.curves.metric import Metric
from dde.errors import FormatError
from dde.sources.arrow_columns import read_numbers
from dde.suite.datadecide.names import Base, wide_column_metric
from dde.suite.datadecide.tables.evaluation_tables import (
    EVALUATED,
    PERPLEXITY,
    EvaluationTable,
    first_of_each,
    others,
    same_values,
)
from dde.suite.datadecide.tables.row_index import join_keys
from dde.suite.datadecide.tables.table_files import open_unchanged

__all__ = ["WideTable"]


class WideTable(EvaluationTable):
    """A table with one row per run and step and one column per metric.

    The perplexity table of ``allenai/DataDecide-ppl-results``, and ``full_eval.parquet`` of the package
    datadec, whose details of model and recipe are not metrics.
    """

    # Cached values of `columns` and `_columns_by_file`.
    _columns: Mapping[str, str] | None = None
    _columns_of: Sequence[Mapping[str, tuple[str, ...]]] | None = None

    def _columns_by_file(self) -> Sequence[Mapping[str, tuple[str, ...]]]:
        """Return the columns of each metric, by the metric's name, for each file."""
        if self._columns_of is None:
            # Most files of a table have the same columns, which are parsed once.
            parsed = {names: _columns_by_metric(names) for names in set(self.head.columns)}
            self._columns_of = [parsed[names] for names in self.head.columns]
        return self._columns_of

    @property
    def columns(self) -> Mapping[str, str]:
        """Column of each metric, by the metric's name; the last one if there are several."""
        if self._columns is None:
            by_file = self._columns_by_file()
            self._columns = {metric: names[-1] for columns in by_file for metric, names in columns.items()}
        return self._columns

    def _column(self, file: int, metric: Metric) -> str:
        """Return the column of a metric in a file; raises FormatError if it has several."""
        names = self._columns_by_file()[file][metric.name]
        if len(names) > 1:
            raise FormatError(
                f"{self.files[file].path} has several columns of the metric {metric.name!r} ({', '.join(names)}), "
                "so its values are ambiguous. Remove all but one."
            )
        return names[0]

    def holds(self, metric: Metric) -> bool:
        """Return whether the table has the metric's column."""
        column = self.columns.get(metric.name)
        return column is not None and wide_column_metric(column) == metric

    def lacks_default(self, metric: Metric) -> bool:
        """Return whether the table has no column of one of the default metrics."""
        return metric.name not in self.columns

    def metrics(self) -> list[Metric]:
        """Return the metric of each column that is one."""
        return [m for m in map(wide_column_metric, self.columns.values()) if m is not None]

    def row_kinds(self) -> int | npt.NDArray[np.uint8]:
        """Return the kinds of metrics of each row; see :meth:`EvaluationTable.row_kinds`.

        In a table of both kinds, a row may have metrics of one kind only. This is read from its values: of all
        perplexities, and of each task's primary metric, if there is one.
        """
        index = self.index
        kinds: dict[int, list[str]] = {EVALUATED: [], PERPLEXITY: []}
        primary: list[str] = []
        for name, column in self.columns.items():
            metric = wide_column_metric(column)
            if metric is not None and metric.kind != "log":
                kinds[PERPLEXITY if metric.kind == "perplexity" else EVALUATED].append(name)
                primary += [name] if metric.entry == "primary_metric" else []
        kinds[EVALUATED] = primary or kinds[EVALUATED]
        if not all(kinds.values()):
            return sum(kind for kind, names in kinds.items() if names)
        kinds_of_rows = np.zeros(len(index), np.uint8)
        start = 0
        for file, columns in zip(self.files, self._columns_by_file(), strict=True):
            with open_unchanged(file) as parquet:
                stop = start + parquet.metadata.num_rows
                for kind, names in kinds.items():
                    present = [columns[n][-1] for n in names if n in columns]
                    table = parquet.read(columns=present)
                    for column in present:
                        # Text that is not a number is reported when its values are requested.
                        has_value = ~np.isnan(read_numbers(table[column], file.where(column)).values)
                        kinds_of_rows[start:stop] |= np.where(has_value, np.uint8(kind), np.uint8(0))
                start = stop
        return kinds_of_rows

    def evaluations(self, bases: Sequence[Base], metrics: Sequence[Metric], keys: Int64) -> list[Float64]:
        """Return the observations; reads only the requested columns.

        Of several rows of one run and step the first is used, for each metric among the files that have its column.
        """
        index = self.index
        row_base, is_requested = self._rows_of(bases)
        columns = self._columns_by_file()
        values_by_metric = [np.full(len(keys), np.nan) for _ in metrics]
        # Metrics by the files that have them: nearly always one group, as all files have all columns.
        groups: dict[tuple[int, ...], list[int]] = {}
        for k, metric in enumerate(metrics):
            groups.setdefault(tuple(n for n, of_file in enumerate(columns) if metric.name in of_file), []).append(k)
        for files, numbers in groups.items():
            if not files:
                continue
            has_columns = is_requested
            if len(files) < len(columns):
                has_columns = is_requested & np.isin(np.repeat(index.group_files, np.diff(index.group_starts)), files)
            values = self._values(row_base, has_columns, [metrics[k] for k in numbers], files, keys)
            for k, of_metric in zip(numbers, values, strict=True):
                values_by_metric[k] = of_metric
        return values_by_metric

    def _values(
        self,
        row_base: npt.NDArray[np.int32],
        is_requested: npt.NDArray[np.bool_],
        metrics: Sequence[Metric],
        files: Iterable[int],
        keys: Int64,
    ) -> list[Float64]:
        """Return the values of metrics for which all of these files have a column.

        Parameters
        ----------
        row_base : (row,) int32 array
            Index into the requested runs of each row of the table.
        is_requested : (row,) bool array
        metrics : sequence of Metric
        files : iterable of int
            Indices of the files of the requested rows.
        keys : (key,) int64 array

        Returns
        -------
        list of (key,) float64 array
            One for each metric.
        """
        index = self.index
        rows = np.flatnonzero(is_requested)
        target = np.searchsorted(keys, join_keys(row_base[rows], index.step[rows]))
        firsts, first = first_of_each(target)
        repeated = others(firsts, len(rows))
        # Repeated rows get columns after those of `keys`, for the comparison with the rows that are used.
        target[repeated] = len(keys) + np.arange(len(repeated))
        values = np.full((len(metrics), len(keys) + len(repeated)), np.nan)
        columns = {file: [self._column(file, m) for m in metrics] for file in files}
        to_read = sorted({name for of_file in columns.values() for name in of_file})

        def store_batch(numbers: Int64, table: pa.Table) -> None:
            inside = is_requested[numbers]
            at = target[np.searchsorted(rows, numbers[inside])]
            file = self._file_of(int(numbers[0]))
            for k, name in enumerate(columns[file]):
                read = read_numbers(table[name], index.files[file].where(name))
                for reason, odd in read.problems.items():
                    for row in numbers[inside & odd].tolist():
                        self._report_malformed(row, f"the column {name!r} {reason}")
                values[k, at] = read.values[inside]

        if len(rows):
            self._each_batch(rows, to_read, store_batch)
        if len(repeated):
            same = same_values(values[:, len(keys) :], values[:, target[first[repeated]]], axis=0)
            self._report_repeated(rows[repeated], same, [m.name for m in metrics])
        return list(values[:, : len(keys)])


def _columns_by_metric(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Group columns by the name of their metric; columns that are not metrics are left out."""
    columns: dict[str, tuple[str, ...]] = {}
    for name in names:
        metric = wide_column_metric(name)
        if metric is not None:
            columns[metric.name] = (*columns.get(metric.name, ()), name)
    return columns
