"""The table of macro averages, whose zeros may stand for missing entries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dde.curves.metric import Metric
from dde.suite.datadecide.names import SIZES, Base, ModelSize, lacks_entry
from dde.suite.datadecide.tables.dict_tables import DictTable
from dde.suite.datadecide.tables.evaluation_tables import OnError
from dde.suite.datadecide.tables.row_index import key_runs, key_steps
from dde.suite.datadecide.tables.table_files import AGGREGATED_TASKS, TableFile

__all__ = ["MacroTable"]

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_ZEROS = "rows of the macro averages with zeros for entries that the size lacks, which are missing"
_PARTIAL = "rows of the macro averages with means over tasks of which some lack the entry, which are missing"


class MacroTable(DictTable):
    """The macro averages of ``allenai/DataDecide-eval-results``.

    The table has a zero where an entry is missing. A zero is taken for missing, and is NaN, where the train shards
    lack the entry for that size and task:

    - Where train shards are there, the entries of a size and task are those that its first row of them holds.
    - For a size or task without such a row, they are those of :func:`dde.names.lacks_entry`, the key sets of the
      published suite.
    - An aggregate (`mmlu`, `olmes_10_macro_avg`) has an entry if all of its tasks have it. If none has it, a zero is
      missing. If some lack it, a mean over all would hold zeros for those and a mean over the others would be another
      quantity, and the table does not say which it is: the value is NaN, whatever it is.

    Every other zero is a value. What is NaN by this rule is counted in `left_out`, with the entries and sizes.

    Parameters
    ----------
    files : sequence of TableFile
        Files of the macro averages.
    on_error : {"raise", "skip"}
        As for :class:`dde.suite.datadecide.tables.evaluation_tables.EvaluationTable`.
    shards : DictTable or None
        The train shards of the same suite.
    """

    def __init__(
        self, files: Sequence[TableFile], on_error: OnError = "raise", shards: DictTable | None = None
    ) -> None:
        super().__init__(files, on_error)
        self.shards = shards
        # By reason: steps of the rows, by run and task; and what they lack, as (size, entry).
        self._missing: dict[str, dict[tuple[Base, str], set[int]]] = {_ZEROS: {}, _PARTIAL: {}}
        self._lacked: dict[str, set[tuple[str, str]]] = {_ZEROS: set(), _PARTIAL: set()}

    @property
    def left_out(self) -> Counter[str]:
        """Rows left out so far, by reason, and rows with missing entries; grows as rows are read."""
        counts = super().left_out
        for reason, rows in self._missing.items():
            if rows:
                counts[f"{reason} ({_named(set(self._lacked[reason]))})"] = sum(map(len, list(rows.values())))
        return counts

    def evaluations(self, bases: Sequence[Base], metrics: Sequence[Metric], keys: Int64) -> list[Float64]:
        """Return the observations, NaN where a zero stands for a missing entry."""
        found = super().evaluations(bases, metrics, keys)
        run = key_runs(keys)
        for size in dict.fromkeys(b.size for b in bases):
            is_size = np.array([b.size == size for b in bases])[run]
            for metric, values in zip(metrics, found, strict=True):
                is_zero = is_size & (values == 0.0)
                is_value = is_size & ~np.isnan(values)
                # The shards are read where the answer depends on them.
                if not (is_value if metric.task in AGGREGATED_TASKS else is_zero).any():
                    continue
                lacking = self._share_lacking(size, metric)
                if lacking == 1.0:
                    self._leave_out(_ZEROS, metric, values, is_zero, bases, keys)
                elif lacking > 0.0:
                    self._leave_out(_PARTIAL, metric, values, is_value, bases, keys)
        return found

    def _share_lacking(self, size: ModelSize, metric: Metric) -> float:
        """Return the share of the tasks behind a value that lack its entry at a size."""
        present = {} if self.shards is None else self.shards.entries_at(size)
        members = AGGREGATED_TASKS.get(metric.task, (metric.task,))
        lacking = [
            metric.entry not in present[task] if task in present else lacks_entry(size.name, task, metric.entry)
            for task in members
        ]
        return sum(lacking) / len(lacking)

    def _leave_out(
        self, reason: str, metric: Metric, values: Float64, where: npt.NDArray[np.bool_],
        bases: Sequence[Base], keys: Int64,
    ) -> None:  # fmt: skip
        values[where] = np.nan
        run, step = key_runs(keys[where]), key_steps(keys[where])
        for r in np.unique(run).tolist():
            self._missing[reason].setdefault((bases[r], metric.task), set()).update(step[run == r].tolist())
            self._lacked[reason].add((bases[r].size.name, metric.entry))


def _named(lacked: set[tuple[str, str]]) -> str:
    """Return entries and the sizes that lack them: ``"acc_per_byte, no_answer of 150M, 300M"``."""
    sizes_of: dict[str, list[str]] = {}
    for entry in sorted({entry for _, entry in lacked}):
        sizes_of[entry] = [s.name for s in SIZES if (s.name, entry) in lacked]
    groups: dict[str, list[str]] = {}
    for entry, sizes in sizes_of.items():
        groups.setdefault(", ".join(sizes), []).append(entry)
    return ", and ".join(f"{', '.join(entries)} of {sizes}" for sizes, entries in groups.items())
