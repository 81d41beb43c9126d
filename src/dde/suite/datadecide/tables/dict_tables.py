"""Tables of pretraining evaluations whose metrics are one text or object per run, step and task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dde.array_types import Float64, Int64
from dde.curves.metric import Metric
from dde.suite.datadecide.names import (
    ENTRIES,
    MMLU_SUBJECTS,
    SUMMARY_ONLY_ENTRIES,
    TASKS_WITHOUT_UNCONDITIONAL,
    Base,
    ModelSize,
    task_metric,
)
from dde.suite.datadecide.tables.dict_text import names_of_entries, read_entries_into
from dde.suite.datadecide.tables.evaluation_tables import EVALUATED, EvaluationTable, first_of_each, others, same_values
from dde.suite.datadecide.tables.row_index import join_keys

__all__ = [
    "DictTable",
    "exact_mean",
    "scatter",
]


def exact_mean(terms: Float64) -> Float64:
    """Return the correctly rounded sum over the first axis, divided by its length.

    Parameters
    ----------
    terms : (term, value) float64 array

    Returns
    -------
    (value,) float64 array
        NaN where a term is NaN, or infinite ones differ in sign; infinite where one is infinite.

    Examples
    --------
    >>> exact_mean(np.array([[0.1, 0.1], [0.2, np.nan], [0.3, 0.3]])).tolist()
    [0.19999999999999998, nan]
    """
    count, size = terms.shape
    totals = np.empty(size)
    for start in range(0, size, _COLUMNS_AT_ONCE):
        some = slice(start, start + _COLUMNS_AT_ONCE)
        totals[some] = _exact_sum(terms[:, some])
    means: Float64 = totals / count
    return means


# Columns that are summed at once; what these need fits into the cache of a processor.
_COLUMNS_AT_ONCE = 1 << 12


def _exact_sum(terms: Float64) -> Float64:
    """Return the correctly rounded sum over the first axis; the plain sum where that is not finite."""
    total, error, lost = (np.zeros(terms.shape[1]) for _ in range(3))
    with np.errstate(invalid="ignore", over="ignore"):
        for term in terms:
            # Each addition has a rounding error, which is known exactly and summed as well. As long as none of these
            # sums is rounded, total and error together are the exact sum.
            total, rounded = _two_sum(total, term)
            error, rounded = _two_sum(error, rounded)
            lost += np.abs(rounded)
        total = total + error
        rest = np.flatnonzero(~(lost == 0.0))
        total[rest] = terms[:, rest].sum(axis=0)
    rest = rest[np.isfinite(total[rest])]
    total[rest] = [math.fsum(column) for column in terms[:, rest].T.tolist()]
    return total


def _two_sum(a: Float64, b: Float64) -> tuple[Float64, Float64]:
    """Return the rounded sum and its rounding error (Knuth 1969)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def scatter(table: Float64, base: npt.NDArray[np.int64], step: int, out: Float64) -> None:
    """Write rows of a table to columns: entry `e` of row `r` goes to ``base[r] + e * step`` of the flat `out`.

    Parameters
    ----------
    table : (row, entry) float64 array
    base : (row,) int64 array
        Negative for a row that is not written.
    step : int
    out : float64 array
        Contiguous.

    Raises
    ------
    ValueError
        When `out` is not contiguous.

    Examples
    --------
    >>> out = np.zeros((2, 3))
    >>> scatter(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([2, 0]), 3, out)
    >>> out.tolist()
    [[3.0, 0.0, 1.0], [4.0, 0.0, 2.0]]
    """
    rows = np.flatnonzero(base >= 0)
    # A copy would be filled in vain.
    flat, place, table = np.reshape(out, -1, copy=False), base[rows], table[rows]
    # Rows that follow each other tend to have adjacent places: entry by entry, writes stay in the cache.
    for entry in range(table.shape[1]):
        flat[place + entry * step] = table[:, entry]


class DictTable(EvaluationTable):
    """A table with one row per run, step and task, whose metrics are one text, or the object that it describes.

    The train shards and the macro averages of ``allenai/DataDecide-eval-results``.
    """

    reads_complete_tasks = True

    #: Names of the entries of all rows; None until they are read, or set from a cache.
    entry_names: frozenset[str] | None = None

    # Entries of the sizes that were looked at, by size and task; replaced, never changed.
    _entries_at: Mapping[str, Mapping[str, frozenset[str]]] = MappingProxyType({})

    def metrics(self) -> list[Metric]:
        """Return every entry of every task; `mmlu_average` when the table has all 57 subjects."""
        tasks = [t for t in self.index.tasks if t]
        if set(MMLU_SUBJECTS) <= set(tasks):
            tasks.append("mmlu_average")
        if self.entry_names is None:
            self.entry_names = self.read_entry_names()
        names = self.entry_names
        entries = [e for e in ENTRIES if e in names] + sorted(names.difference(ENTRIES))
        found = [task_metric(task, entry) for task in tasks for entry in entries]
        return [m for m in found if self.holds(m)]

    def holds(self, metric: Metric) -> bool:
        """Return whether the table has the task; which entries a row has is known only by reading it."""
        if metric.kind != "evaluation" or metric.entry in SUMMARY_ONLY_ENTRIES:
            return False
        if "uncond" in metric.entry and metric.task in TASKS_WITHOUT_UNCONDITIONAL:
            return False
        if metric.task == "mmlu_average":
            return self._task_set.issuperset(MMLU_SUBJECTS)
        return metric.task in self._task_set

    def row_kinds(self) -> int:
        """Return that all rows have evaluations."""
        return EVALUATED

    def lacks_default(self, metric: Metric) -> bool:
        """Return whether the table does not have the task of one of the default metrics."""
        return not self.holds(metric)

    @cached_property
    def _task_set(self) -> frozenset[str]:
        return frozenset(self.tasks)

    def read_entry_names(self) -> frozenset[str]:
        """Return the names of the entries of the rows of all sizes, because key sets differ by size and task."""
        index = self.index
        if not len(index):
            return frozenset()
        # One row of each task in the row group where a size begins: that group is read for any one of them.
        size = np.array([b.size.n_params for b in index.bases] + [-1])[index.base]
        _, first = np.unique(size, return_index=True)
        groups = np.unique(np.searchsorted(index.group_starts, first, side="right") - 1)
        near = np.concatenate([np.arange(index.group_starts[g], index.group_starts[g + 1]) for g in groups])
        _, at = np.unique(np.stack([size[near], index.task[near]]), axis=1, return_index=True)
        present: set[str] = set()

        def use(row: int, names: frozenset[str] | str) -> None:
            if isinstance(names, str):
                self._report_malformed(row, names)
            else:
                present.update(names)

        self._each_row(np.sort(near[at]), use)
        return frozenset(present)

    def entries_at(self, size: ModelSize) -> Mapping[str, frozenset[str]]:
        """Return the entries of the rows of a size, by task, as the first row of each task has them.

        Reads one row of each task, once. Tasks whose first row can't be read are not among them: the row is
        reported when its values are requested.
        """
        if size.name not in self._entries_at:
            index = self.index
            is_size = np.array([b.size == size for b in index.bases] + [False])[index.base]
            rows = np.flatnonzero(is_size & (index.task >= 0))
            _, first = np.unique(index.task[rows], return_index=True)
            found: dict[str, frozenset[str]] = {}

            def use(row: int, names: frozenset[str] | str) -> None:
                if names and not isinstance(names, str):
                    # There are few sets of entries: equal ones are one object, also in a pickle.
                    found[index.tasks[index.task[row]]] = next((e for e in found.values() if e == names), names)

            self._each_row(np.sort(rows[first]), use)
            self._entries_at = {**self._entries_at, size.name: found}
        return self._entries_at[size.name]

    def _each_row(self, rows: Int64, use: Callable[[int, frozenset[str] | str], None]) -> None:
        """Read `rows`; `use` gets the number of each with the names of its entries, or why it can't be read."""

        def use_batch(numbers: Int64, table: pa.Table) -> None:
            inside = np.flatnonzero(np.isin(numbers, rows))
            names = names_of_entries(table["metrics"], inside, self._where(numbers))
            for row, found in zip(numbers[inside].tolist(), names, strict=True):
                use(row, found)

        self._each_batch(rows.astype(np.int64), ["metrics"], use_batch)

    def _where(self, rows: Int64) -> str:
        """Return what the metrics of a batch of rows are called in errors."""
        return self.index.files[self._file_of(int(rows[0]))].where("metrics")

    def evaluations(self, bases: Sequence[Base], metrics: Sequence[Metric], keys: Int64) -> list[Float64]:
        """Return the observations; reads only the row groups with the requested runs and tasks."""
        index = self.index
        row_base, asked = self._rows_of(bases)
        subjects = list(MMLU_SUBJECTS) if any(m.task == "mmlu_average" for m in metrics) else []
        tasks = dict.fromkeys([*subjects, *(m.task for m in metrics if m.task != "mmlu_average")])
        # Tasks by their place in the block of values; the subjects of an average stand first, beside each other.
        place = {task: k for k, task in enumerate(t for t in tasks if t in index.tasks)}
        place_of = np.array([place.get(t, -1) for t in index.tasks] + [-1], np.int64)
        rows = np.flatnonzero(asked & (place_of[index.task] >= 0))
        at = np.searchsorted(keys, join_keys(row_base[rows], index.step[rows]))
        entries = sorted({m.entry for m in metrics})
        values = self._read_block(rows, place_of[index.task[rows]], at, (len(place), len(entries), len(keys)), entries)
        column = {entry: k for k, entry in enumerate(entries)}
        if subjects:
            terms = values[: len(subjects)].reshape(len(subjects), -1)
            average = exact_mean(terms).reshape(values.shape[1:])
        found: list[Float64] = []
        for metric in metrics:
            if metric.task == "mmlu_average":
                found.append(average[column[metric.entry]])
            elif metric.task in place:
                found.append(values[place[metric.task], column[metric.entry]])
            else:
                found.append(np.full(len(keys), np.nan))
        return found

    def _read_block(
        self, rows: Int64, task: Int64, at: Int64, shape: tuple[int, int, int], entries: Sequence[str]
    ) -> Float64:
        """Return the values of texts, of shape (task, entry, key); the first row of a task and key counts.

        Parameters
        ----------
        rows : (row,) int64 array
            Rows to read.
        task, at : (row,) int64 arrays
            Indices of their values in the result.
        """
        n_tasks, width, n_keys = shape
        kept, first = first_of_each(task * n_keys + at)
        repeated = others(kept, len(rows))
        block = np.empty(shape)
        lacking = others((task * n_keys + at)[kept], n_tasks * n_keys)
        block[lacking // n_keys, :, lacking % n_keys] = np.nan
        base = np.full(len(self.index), -1, np.int64)
        base[rows[kept]] = task[kept] * width * n_keys + at[kept]
        # Rows that repeat another one are put aside, to be compared with it.
        spare = np.empty((len(repeated), width))
        spare_of = dict(zip(rows[repeated].tolist(), range(len(repeated)), strict=True))
        wanted = base >= 0
        wanted[rows[repeated]] = True

        def use(numbers: Int64, table: pa.Table) -> None:
            start = 0
            where = self._where(numbers)
            for chunk in table["metrics"].chunks:
                own = numbers[start : start + len(chunk)]
                start += len(chunk)
                tile = np.empty((len(chunk), width))
                target = np.where(wanted[own], np.arange(len(chunk)), -1)
                for local, reason in read_entries_into(chunk, entries, target, tile, where).items():
                    self._report_malformed(int(own[local]), reason)
                scatter(tile, base[own], n_keys, block)
                for local in np.flatnonzero(wanted[own] & (base[own] < 0)).tolist():
                    spare[spare_of[int(own[local])]] = tile[local]

        self._each_batch(rows, ["metrics"], use)
        if len(repeated):
            used = first[repeated]
            same = same_values(spare, block[task[used], :, at[used]], axis=1)
            self._report_repeated(rows[repeated], same, entries)
        return block
