"""Values of metrics at the rows of declared runs: one column of the files that hold it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dde.errors import ConflictWarning
from dde.sources.arrow_columns import Numbers
from dde.suite.declared_runs import DeclaredRuns, Report, RowSources
from dde.suite.result_files import ResultsFile
from dde.suite.row_values import OpenedFile, read_together

__all__ = ["ValueReader"]

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]


class ValueReader:
    """Reads values of metrics.

    Parameters
    ----------
    opened : sequence of sequences of OpenedFile
        Files of each declared table.
    keys : sequence of tuples of str
        Keys of each long table; () for wide ones.
    value_columns : sequence of str or None
        Column of the values of each long table; None for wide ones.
    report : Report
        Takes what is no number, or differs.
    """

    def __init__(
        self,
        opened: Sequence[Sequence[OpenedFile]],
        keys: Sequence[Sequence[str]],
        value_columns: Sequence[str | None],
        report: Report,
    ) -> None:
        self._opened = opened
        self._keys = keys
        self._value_columns = value_columns
        self._report = report
        self._reported: set[tuple[str, int, int]] = set()

    def fill(
        self,
        found: Mapping[str, Float64],
        keys: Mapping[str, str],
        runs: DeclaredRuns,
        sources: RowSources,
        chosen: Bool | None,
    ) -> None:
        """Put the values that one table has at the positions of runs that have none yet.

        Parameters
        ----------
        found : mapping of str to (row,) float64 array
            By metric; written to.
        keys : mapping of str to str
            Key of each metric in the table.
        runs : DeclaredRuns
        sources : RowSources
            Rows of the table.
        chosen : (run,) bool array or None
            Runs whose values are asked for; None for all.

        Raises
        ------
        SourceError, FormatError
            When a file can't be read, is damaged, or is not the one that was opened.

        Warns
        -----
        ConflictWarning
            When rows of one run and step have different values; the first is kept.
        """
        opened, value_column = self._opened[sources.table], self._value_columns[sources.table]
        at = np.arange(len(sources.row)) if chosen is None else np.flatnonzero(chosen[sources.run])
        columns = list(keys.values()) if value_column is None else [value_column]
        wanted = np.unique(sources.file[at]).tolist()
        read = dict(
            zip(
                wanted,
                read_together([opened[n] for n in wanted], lambda file: _numbers(file, columns)),
                strict=True,
            )
        )
        lengths = {n: len(next(iter(numbers.values())).values) for n, numbers in read.items() if numbers}
        starts = np.full(len(opened), -1, np.int64)
        starts[list(lengths)] = np.cumsum([0, *lengths.values()])[:-1]
        at = at[starts[sources.file[at]] >= 0]
        place = starts[sources.file[at]] + sources.row[at]
        for metric, key in keys.items():
            column = value_column or key
            parts = [
                read[n][column].values if column in read[n] else np.full(length, np.nan)
                for n, length in lengths.items()
            ]
            values, rows = np.concatenate([np.empty(0), *parts])[place], at
            if sources.key is not None:
                is_key = sources.key[at] == self._keys[sources.table].index(key)
                values, rows = values[is_key], at[is_key]
            self._count_no_numbers(metric, column, read, opened)
            self._put(found[metric], values, rows, metric, runs, sources)

    def _put(
        self,
        into: Float64,
        values: Float64,
        at: npt.NDArray[np.int64],
        metric: str,
        runs: DeclaredRuns,
        sources: RowSources,
    ) -> None:
        is_number = ~np.isnan(values)
        values, at = values[is_number], at[is_number]
        position = sources.position[at]
        free = np.isnan(into[position])
        # Of repeated positions the last assignment stays, and the first row counts.
        into[position[free][::-1]] = values[free][::-1]
        if sources.is_unique and free.all():
            return
        differing = np.flatnonzero(values != into[position])
        case = (metric, runs.table, sources.table)
        if not len(differing) or case in self._reported:
            return
        self._reported.add(case)
        row = int(differing[0])
        run_id = runs.run_ids[int(sources.run[at[row]])]
        text = (
            f"{len(differing)} values of {metric} differ from the first value of their run and step, such as run "
            f"{run_id!r} at step {int(runs.step[position[row]])}: {float(into[position[row]])!r}, "
            f"{float(values[row])!r}; the first is kept"
        )
        self._report.add(f"values of {metric} that differ from the first of their step", len(differing), text)
        warnings.warn(
            f"{text}. Leave the other rows out by where=, or name what tells them apart in run_id= or key=.",
            ConflictWarning,
            stacklevel=4,
        )

    def _count_no_numbers(
        self, metric: str, column: str, read: Mapping[int, Mapping[str, Numbers]], opened: Sequence[OpenedFile]
    ) -> None:
        for number, numbers in read.items():
            for reason, rows in (numbers[column].problems if column in numbers else {}).items():
                count, name = int(rows.sum()), opened[number].name
                text = f"the column {column!r} of {name} {reason} in {count} rows"
                if text not in self._report.notes:
                    self._report.add(f"values of {metric} whose column {reason}", count, text)


def _numbers(file: OpenedFile, columns: Sequence[str]) -> dict[str, Numbers]:
    known = set(file.content.columns)
    own = [column for column in columns if column in known]
    if not own:
        return {}
    if file.file is None or isinstance(file.content, ResultsFile):
        return file.content.read_numbers(own)
    with file.file.unchanged():
        return file.content.read_numbers(own)
