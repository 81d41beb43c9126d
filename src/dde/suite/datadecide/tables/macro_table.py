"""The table of macro averages, in which a zero may mean a missing entry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dde.array_types import Float64, Int64
from dde.curves.metric import Metric
from dde.suite.datadecide.names import SIZES, Base, ModelSize, lacks_entry
from dde.suite.datadecide.tables.dict_tables import DictTable
from dde.suite.datadecide.tables.evaluation_tables import OnError
from dde.suite.datadecide.tables.row_index import key_runs, key_steps
from dde.suite.datadecide.tables.table_files import AGGREGATED_TASKS, TableFile

__all__ = ["MacroTable"]


_ZEROS = "rows of the macro averages with zeros for entries that the size lacks, which are missing"
_PARTIAL = "rows of the macro averages with means over tasks of which some lack the entry, which are missing"


class MacroTable(DictTable):
    """The macro averages of ``allenai/DataDecide-eval-results``.

    The table has a zero where an entry is missing. A zero counts as missing, and becomes NaN, if the train shards do
    not have the entry for that size and task:

    - If there are train shards, the entries of a size and task are those in its first row.
    - For a size or task without such a row, they are those of :func:`dde.names.lacks_entry`, the key sets of the
      published suite.
    - An aggregate (`mmlu`, `olmes_10_macro_avg`) has an entry if all of its tasks have it. If no task has it, a zero is
      missing. If only some have it, a mean over all tasks would include zeros and a mean over the others would be
      another quantity, and the table does not say which of the two it has, so any value becomes NaN.

    Every other zero is a value. Values that become NaN by this rule are counted in `left_out`, with entries and sizes.

    Parameters
    ----------
    files : sequence of TableFile
        Files of the macro averages.
    on_error : {"raise", "skip"}
        As in :class:`dde.suite.datadecide.tables.evaluation_tables.EvaluationTable`.
    shards : DictTable or None
        The train shards of the same suite.
    """

    def __init__(
        self, files: Sequence[TableFile], on_error: OnError = "raise", shards: DictTable | None = None
    ) -> None:
        super().__init__(files, on_error)
        self.shards = shards
        # By reason: steps of the rows, by run and task; and their missing entries, as (size, entry).
        self._missing_rows: dict[str, dict[tuple[Base, str], set[int]]] = {_ZEROS: {}, _PARTIAL: {}}
        self._missing_entries: dict[str, set[tuple[str, str]]] = {_ZEROS: set(), _PARTIAL: set()}

    @property
    def left_out(self) -> Counter[str]:
        """Number of rows left out so far, by reason, and of rows with missing entries; grows as rows are read."""
        counts = super().left_out
        for reason, rows in self._missing_rows.items():
            if rows:
                counts[f"{reason} ({_named(set(self._missing_entries[reason]))})"] = sum(map(len, list(rows.values())))
        return counts

    def evaluations(self, bases: Sequence[Base], metrics: Sequence[Metric], keys: Int64) -> list[Float64]:
        """Return the observations, NaN where a zero means a missing entry."""
        values_by_metric = super().evaluations(bases, metrics, keys)
        run = key_runs(keys)
        for size in dict.fromkeys(b.size for b in bases):
            is_size = np.array([b.size == size for b in bases])[run]
            for metric, values in zip(metrics, values_by_metric, strict=True):
                is_zero = is_size & (values == 0.0)
                is_value = is_size & ~np.isnan(values)
                # The shards are read only if the result depends on them.
                if not (is_value if metric.task in AGGREGATED_TASKS else is_zero).any():
                    continue
                missing_share = self._share_missing(size, metric)
                if missing_share == 1.0:
                    self._leave_out(_ZEROS, metric, values, is_zero, bases, keys)
                elif missing_share > 0.0:
                    self._leave_out(_PARTIAL, metric, values, is_value, bases, keys)
        return values_by_metric

    def _share_missing(self, size: ModelSize, metric: Metric) -> float:
        """Return the share of the tasks of a value in which its entry is missing at a size."""
        present = {} if self.shards is None else self.shards.entries_at(size)
        members = AGGREGATED_TASKS.get(metric.task, (metric.task,))
        is_missing = [
            metric.entry not in present[task] if task in present else lacks_entry(size.name, task, metric.entry)
            for task in members
        ]
        return sum(is_missing) / len(is_missing)

    def _leave_out(
        self, reason: str, metric: Metric, values: Float64, where: npt.NDArray[np.bool_],
        bases: Sequence[Base], keys: Int64,
    ) -> None:  # fmt: skip
        values[where] = np.nan
        run, step = key_runs(keys[where]), key_steps(keys[where])
        for r in np.unique(run).tolist():
            self._missing_rows[reason].setdefault((bases[r], metric.task), set()).update(step[run == r].tolist())
            self._missing_entries[reason].add((bases[r].size.name, metric.entry))


def _named(missing: set[tuple[str, str]]) -> str:
    """Return missing entries with their sizes as text: ``"acc_per_byte, no_answer of 150M, 300M"``."""
    sizes_of: dict[str, list[str]] = {}
    for entry in sorted({entry for _, entry in missing}):
        sizes_of[entry] = [s.name for s in SIZES if (s.name, entry) in missing]
    groups: dict[str, list[str]] = {}
    for entry, sizes in sizes_of.items():
        groups.setdefault(", ".join(sizes), []).append(entry)
    return ", and ".join(f"{', '.join(entries)} of {sizes}" for sizes, entries in groups.items())
