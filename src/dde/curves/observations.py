"""Reading metrics of runs as ragged arrays on the axis of cumulative tokens."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dde.errors import ConflictWarning, DdeWarning
from dde.names import Metric
from dde.relations.positions import tokens_of_steps
from dde.relations.ragged_rows import rows_of
from dde.relations.run_positions import RunPositions

__all__ = ["Observations", "assemble_observations", "read_observations"]

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Observations:
    """Own observations of one metric, of several runs: ancestors' observations are not repeated.

    Attributes
    ----------
    offsets : (run + 1,) int64 array
        Observations of run `i` are ``offsets[i]`` to ``offsets[i + 1]``.
    tokens : (observation,) int64 array
        Cumulative tokens; ascending and distinct within a run.
    step : (observation,) int64 array
        Step of the run itself; for an evaluation of a derived run its last logged step, -1 without any.
    values : (observation,) float64 array
        NaN where the metric has no sample, which is no observation. Such places are kept while they are few, so that
        metrics of one source lie on the same ones.
    """

    offsets: Int64
    tokens: Int64
    step: Int64
    values: Float64

    def of(self, run: int) -> tuple[Int64, Float64]:
        """Return tokens and values of one run, those alone that it has a sample at."""
        part = slice(int(self.offsets[run]), int(self.offsets[run + 1]))
        tokens, values = self.tokens[part], self.values[part]
        some = ~np.isnan(values)
        return (tokens, values) if some.all() else (tokens[some], values[some])

    def take(self, runs: Sequence[int]) -> Observations:
        """Return the observations of some runs, in that order."""
        at = np.asarray(runs, np.int64)
        counts = (self.offsets[1:] - self.offsets[:-1])[at]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        where = rows_of(self.offsets, at)
        return Observations(offsets, self.tokens[where], self.step[where], self.values[where])


def read_observations(
    registry: RunPositions, run_ids: Sequence[str], metrics: Sequence[Metric], along: Sequence[Metric] = ()
) -> dict[str, Observations]:
    """Return the own observations of every metric, by the metric's name; reads what is asked for alone.

    Parameters
    ----------
    registry : RunPositions
    run_ids : sequence of str
        Labels of pretraining runs and ids of derived ones.
    metrics : sequence of Metric
    along : sequence of Metric
        Metrics to keep in the cache, too, where the tables have to be read anyway.

    Warns
    -----
    ConflictWarning
        When rows of one run and step disagree; the first is kept.
    DdeWarning
        When a run's counter stands still between steps: one row of each count is kept.
    """
    parts: dict[str, list[tuple[Int64, Int64, Int64, Float64]]] = {m.name: [] for m in metrics}
    _read_tables(registry, run_ids, metrics, along, parts)
    _read_store(registry, run_ids, metrics, parts)
    return {m.name: assemble_observations(m, parts[m.name], run_ids) for m in metrics}


def _read_tables(
    registry: RunPositions,
    run_ids: Sequence[str],
    metrics: Sequence[Metric],
    along: Sequence[Metric],
    parts: dict[str, list[tuple[Int64, Int64, Int64, Float64]]],
) -> None:
    tables = registry.tables
    if tables is None:
        return
    number = [i for i, r in enumerate(run_ids) if r in registry.checkpoint_steps]
    held = [m for m in metrics if tables.holds(m)]
    if not number or not held:
        return
    bases = [registry.bases[run_ids[i]] for i in number]
    rows = registry.readers.checkpoints(bases, held, along)
    run = np.array(number, np.int64)[rows.run]
    tokens = rows.step * np.array([b.size.tokens_per_step for b in bases], np.int64)[rows.run]
    for metric in held:
        parts[metric.name].append((run, tokens, rows.step, rows.values[metric.name]))


def _read_store(
    registry: RunPositions,
    run_ids: Sequence[str],
    metrics: Sequence[Metric],
    parts: dict[str, list[tuple[Int64, Int64, Int64, Float64]]],
) -> None:
    store = registry.store
    number = [i for i, r in enumerate(run_ids) if r in registry.derived]
    if store is None or not number:
        return
    ids = [run_ids[i] for i in number]
    placed = [registry.placed[r] for r in ids]
    logs = [m for m in metrics if m.kind == "log"]
    if logs:
        rows = registry.readers.logs(ids, registry.versions, [m.entry for m in logs])
        bounds = np.searchsorted(rows.run, np.arange(len(ids) + 1))
        tokens = np.zeros(len(rows.run), np.int64)
        known = np.zeros(len(rows.run), bool)
        for i, (run, placement) in enumerate(zip(placed, registry.placements.of(ids), strict=True)):
            part = slice(bounds[i], bounds[i + 1])
            if run.branch_tokens is not None and part.stop > part.start:
                own, known[part] = tokens_of_steps(placement, rows.step[part])
                tokens[part] = run.branch_tokens + own
        run_number = np.array(number, np.int64)[rows.run]
        for metric in logs:
            parts[metric.name].append(
                (run_number[known], tokens[known], rows.step[known], rows.values[metric.entry][known])
            )
    evaluations = [m for m in metrics if m.kind == "evaluation"]
    ended = [i for i, run in enumerate(placed) if run.end_tokens is not None]
    if evaluations and ended:
        found = registry.readers.final_evaluations([ids[i] for i in ended], registry.versions, evaluations)
        run_number = np.array([number[i] for i in ended], np.int64)
        end = np.array([placed[i].end_tokens for i in ended], np.int64)
        last = np.array([placed[i].end.last_step for i in ended], np.int64)
        for metric in evaluations:
            parts[metric.name].append((run_number, end, last, found[metric.name]))


def assemble_observations(
    metric: Metric, parts: list[tuple[Int64, Int64, Int64, Float64]], run_ids: Sequence[str]
) -> Observations:
    """Order observations by run and tokens, and collapse repeated ones."""
    n_runs = len(run_ids)
    if not parts:
        none = np.empty(0, np.int64)
        return Observations(np.zeros(n_runs + 1, np.int64), none, none, np.empty(0))
    run, tokens, step, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    if not _ascend(run, tokens):
        order = np.lexsort((tokens, run))
        run, tokens, step, values = run[order], tokens[order], step[order], values[order]
    repeated = _repeated(run, tokens)
    some = ~np.isnan(values)
    if repeated.any() or np.count_nonzero(some) < _KEPT_SHARE * len(some):
        run, tokens, step, values = run[some], tokens[some], step[some], values[some]
        repeated = _repeated(run, tokens)
    if repeated.any():
        first = np.maximum.accumulate(np.where(repeated, 0, np.arange(len(run))))
        # Different steps that count the same tokens are no conflict: the count stood still between them. An axis of
        # tokens has room for one of them.
        stalled = repeated & (step != step[first])
        if stalled.any():
            named = sorted({run_ids[run[i]] for i in np.flatnonzero(stalled)})
            warnings.warn(
                f"{int(stalled.sum())} rows of {metric.name} count the same tokens as an earlier step of their run "
                f"({', '.join(named[:3])}{', ...' if len(named) > 3 else ''}), so the axis has no place for them; "
                "the first row stays. They are in the store's own history.",
                DdeWarning,
                stacklevel=2,
            )
        conflicts = np.flatnonzero(repeated & (values != values[first]) & (step == step[first]))
        if len(conflicts):
            named = sorted({run_ids[run[i]] for i in conflicts})
            warnings.warn(
                f"{len(conflicts)} rows of {metric.name} disagree with the first row of the same run and step "
                f"({', '.join(named[:3])}{', ...' if len(named) > 3 else ''}), so which value is right is "
                "unknown; the first one is used. Remove the wrong rows from the store to silence this.",
                ConflictWarning,
                stacklevel=2,
            )
        keep = ~repeated
        run, tokens, step, values = run[keep], tokens[keep], step[keep], values[keep]
    return Observations(np.searchsorted(run, np.arange(n_runs + 1)), tokens, step, values)


def _ascend(run: Int64, tokens: Int64) -> bool:
    later = run[1:] > run[:-1]
    return bool((later | ((run[1:] == run[:-1]) & (tokens[1:] >= tokens[:-1]))).all())


def _repeated(run: Int64, tokens: Int64) -> npt.NDArray[np.bool_]:
    """Return which observations are at the place of the one before them; ordered by run and tokens."""
    again = np.zeros(len(run), bool)
    again[1:] = (run[1:] == run[:-1]) & (tokens[1:] == tokens[:-1])
    return again


# A metric that has samples at fewer of its places is faster on its own.
_KEPT_SHARE = 0.5
