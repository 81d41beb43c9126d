"""Tables of pretraining evaluations whose metrics are one text per run, step and task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dde.errors import FormatError
from dde.names import (
    ENTRIES,
    MMLU_SUBJECTS,
    SUMMARY_ONLY_ENTRIES,
    TASKS_WITHOUT_UNCONDITIONAL,
    Base,
    Metric,
    task_metric,
)
from dde.sources.dict_text import parse_dict_row, parse_dicts_into
from dde.sources.evaluation_tables import EvaluationTable, first_of_each, others, same_values
from dde.sources.exact_means import exact_mean, transposed

__all__ = ["DictTable"]

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


class DictTable(EvaluationTable):
    """A table with one row per run, step and task, whose metrics are one text.

    The train shards and the macro averages of ``allenai/DataDecide-eval-results``.
    """

    reads_tasks_whole = True

    def metrics(self) -> list[Metric]:
        """Return every entry of every task; `mmlu_average` when the table has all 57 subjects."""
        tasks = [t for t in self.index.tasks if t]
        if set(MMLU_SUBJECTS) <= set(tasks):
            tasks.append("mmlu_average")
        entries = self._entries()
        found = [task_metric(task, entry) for task in tasks for entry in entries]
        return [m for m in found if self.holds(m)]

    def holds(self, metric: Metric) -> bool:
        """Return whether the table has the task; which entries a row has is known only by reading it."""
        if metric.kind != "evaluation" or metric.entry in SUMMARY_ONLY_ENTRIES:
            return False
        if "uncond" in metric.entry and metric.task in TASKS_WITHOUT_UNCONDITIONAL:
            return False
        tasks = set(self.tasks)
        return set(MMLU_SUBJECTS) <= tasks if metric.task == "mmlu_average" else metric.task in tasks

    def _entries(self) -> list[str]:
        """Return the entries that the rows of each size hold: key sets differ by size and task."""
        index = self.index
        if not len(index):
            return []
        # One row of each task in the row group where a size begins: that group is read for any one of them.
        size = np.array([b.size.n_params for b in index.bases] + [-1])[index.base]
        _, first = np.unique(size, return_index=True)
        groups = np.unique(np.searchsorted(index.group_starts, first, side="right") - 1)
        near = np.concatenate([np.arange(index.group_starts[g], index.group_starts[g + 1]) for g in groups])
        _, at = np.unique(np.stack([size[near], index.task[near]]), axis=1, return_index=True)
        rows = np.sort(near[at])
        present: set[str] = set()

        def use(numbers: Int64, table: pa.Table) -> None:
            inside = np.flatnonzero(np.isin(numbers, rows))
            texts = table["metrics"].take(pa.array(inside)).to_pylist()
            for row, text in zip(numbers[inside].tolist(), texts, strict=True):
                try:
                    present.update(parse_dict_row(text or ""))
                except ValueError as error:
                    self._malformed(row, str(error))

        self._each_batch(rows.astype(np.int64), ["metrics"], use)
        return [e for e in ENTRIES if e in present] + sorted(present.difference(ENTRIES))

    def evaluations(self, bases: Sequence[Base], metrics: Sequence[Metric]) -> tuple[Int64, Int64, list[Float64]]:
        """Return the observations; reads only the row groups that hold the runs and tasks asked for."""
        index = self.index
        row_base, asked = self._rows_of(bases)
        subjects = list(MMLU_SUBJECTS) if any(m.task == "mmlu_average" for m in metrics) else []
        tasks = dict.fromkeys([*subjects, *(m.task for m in metrics if m.task != "mmlu_average")])
        # Tasks by their place in the block of values; the subjects of an average stand first, beside each other.
        place = {task: k for k, task in enumerate(t for t in tasks if t in index.tasks)}
        place_of = np.array([place.get(t, -1) for t in index.tasks] + [-1], np.int64)
        rows = np.flatnonzero(asked & (place_of[index.task] >= 0))
        distinct, at = np.unique((row_base[rows].astype(np.int64) << 32) | index.step[rows], return_inverse=True)
        entries = sorted({m.entry for m in metrics})
        block = self._read_block(
            rows, place_of[index.task[rows]] * len(distinct) + at, len(place) * len(distinct), entries
        )
        values = block.reshape(len(place), len(distinct), len(entries))
        columns = {entry: k for k, entry in enumerate(entries)}
        by_entry: dict[str, Float64] = {}
        for task in dict.fromkeys(m.task for m in metrics):
            if task == "mmlu_average":
                of_task = exact_mean(values[: len(subjects)].reshape(len(subjects), -1)).reshape(values.shape[1:])
            elif task in place:
                of_task = values[place[task]]
            else:
                of_task = np.full(values.shape[1:], np.nan)
            by_entry[task] = transposed(of_task)
        found = [by_entry[m.task][columns[m.entry]] for m in metrics]
        return distinct >> 32, distinct & 0xFFFFFFFF, found

    def _read_block(self, rows: Int64, place: Int64, size: int, entries: Sequence[str]) -> Float64:
        """Return the entries of every place, of shape (place, entry); the first row of a place counts."""
        kept, first = first_of_each(place)
        again = others(kept, len(rows))
        # Rows that repeat another one are read behind the others, to be compared with them.
        place = place.copy()
        place[again] = size + np.arange(len(again))
        block = np.empty((size + len(again), len(entries)))
        if len(kept) < size:
            block[others(place[kept], size)] = np.nan
        target = np.full(len(self.index), -1, np.int64)
        target[rows] = place

        def use(numbers: Int64, table: pa.Table) -> None:
            start = 0
            for texts in table["metrics"].chunks:
                own = numbers[start : start + len(texts)]
                start += len(texts)
                for local, reason in parse_dicts_into(texts, entries, target[own], block).items():
                    self._malformed(int(own[local]), reason)

        self._each_batch(rows, ["metrics"], use)
        if len(again):
            same = same_values(block[size:], block[place[first[again]]], axis=1)
            self._report_repeated(rows[again], same, entries)
        return block[:size]

    def _malformed(self, row: int, reason: str) -> None:
        index = self.index
        file_number = int(index.group_files[np.searchsorted(index.group_starts, row, side="right") - 1])
        file = index.files[file_number]
        first = index.group_starts[np.searchsorted(index.group_files, file_number)]
        if self.on_error == "raise":
            raise FormatError(
                f"{file.path}, row {row - first} ({self.name_row(row)}): the metrics can't be read: {reason}. "
                "Its evaluation is unknown. Repair the file, or pass on_error='skip' to leave such rows out "
                "and have them counted."
            )
        self.malformed.add(row)
