"""Curves as DataFrames: the seed's columns, observed rows only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dde.curves.observations import Observations, read_observations
from dde.names import DEFAULT_METRICS, Metric
from dde.relations.registry import Registry
from dde.relations.treatments import PRETRAINING

__all__ = ["LEADING_COLUMNS", "continuous_curves", "own_rows"]

#: Columns before the metrics: lineage and run, base, treatment, axis.
LEADING_COLUMNS = (
    "lineage_id",
    "run",
    "run_id",
    "run_type",
    "params",
    "data",
    "seed",
    "learning_rate",
    "posttraining_method",
    "finetune_tokens",
    "epochs",
    "dpo_beta",
    "step",
    "cumulative_tokens",
    "cumulative_compute",
)


def continuous_curves(
    registry: Registry, run_ids: Sequence[str], metrics: Sequence[Metric] | None = None
) -> pd.DataFrame:
    """Return the continuous curves of runs: ancestors' rows up to each branch, then the run's own.

    Parameters
    ----------
    registry : Registry
    run_ids : sequence of str
        Runs whose curves are wanted, in order.
    metrics : sequence of Metric, optional
        The default metrics when None.

    Returns
    -------
    pandas.DataFrame
        One row per run and observed position, ordered by run as asked, then tokens. Hyperparameters and
        `run_type` are those of the curve's run; `run_id` is the run that logged the row and `checkpoint_type`
        that run's type.
    """
    metrics = list(DEFAULT_METRICS if metrics is None else metrics)
    chains = {run_id: registry.chain(run_id) for run_id in run_ids}
    members = list(dict.fromkeys(m for chain in chains.values() for m in chain))
    observed = read_observations(registry, members, metrics)
    tables = {m: _table(observed, i) for i, m in enumerate(members)}
    pieces: list[_Piece] = []
    for run_id in run_ids:
        chain = chains[run_id]
        for position, member in enumerate(chain):
            tokens, step, values = tables[member]
            # A member's rows count from behind its own branch up to the branch of the next one.
            start = _branch(registry, member)
            low = 0 if start is None else int(np.searchsorted(tokens, start, side="right"))
            child = chain[position + 1] if position + 1 < len(chain) else None
            stop = None if child is None else _branch(registry, child)
            high = len(tokens) if stop is None else int(np.searchsorted(tokens, stop, side="right"))
            if high > low:
                part = slice(low, high)
                facts = _facts(registry, run_id, member)
                pieces.append(_Piece(facts, tokens[part], step[part], [v[part] for v in values]))
    if not pieces:
        return _empty(metrics)
    return _joined(pieces, metrics)


def own_rows(registry: Registry, run_id: str, metrics: Sequence[Metric] | None = None) -> pd.DataFrame:
    """Return a run's own observed rows, without its ancestors'; columns as in :func:`continuous_curves`."""
    frame = continuous_curves(registry, [run_id], metrics)
    return frame[frame["run_id"] == run_id].reset_index(drop=True)


def _branch(registry: Registry, run_id: str) -> int | None:
    placed = registry.placed.get(run_id) if run_id in registry.derived else None
    return None if placed is None else placed.branch_tokens


def _table(
    observed: dict[str, Observations], run: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list[npt.NDArray[np.float64]]]:
    """Return the union of a run's positions over all metrics, with steps and a column per metric."""
    parts = [(o.tokens[o.offsets[run] : o.offsets[run + 1]], o) for o in observed.values()]
    tokens = np.unique(np.concatenate([t for t, _ in parts])) if parts else np.empty(0, np.int64)
    step = np.full(len(tokens), -1, np.int64)
    columns: list[npt.NDArray[np.float64]] = []
    for own, o in parts:
        column = np.full(len(tokens), np.nan)
        at = np.searchsorted(tokens, own)
        part = slice(int(o.offsets[run]), int(o.offsets[run + 1]))
        column[at] = o.values[part]
        step[at] = np.maximum(step[at], o.step[part])
        columns.append(column)
    return tokens, step, columns


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows that one member of a chain has logged, and what is the same in all of them."""

    facts: dict[str, Any]
    tokens: npt.NDArray[np.int64]
    step: npt.NDArray[np.int64]
    values: list[npt.NDArray[np.float64]]


def _facts(registry: Registry, run_id: str, member: str) -> dict[str, Any]:
    run, logged_by = registry.derived.get(run_id), registry.derived.get(member)
    base = registry.bases[run.lineage if run else run_id]
    treatment = None if run is None else run.treatment
    return {
        "lineage_id": base.label,
        "run": PRETRAINING if run is None else run.label,
        "run_id": member,
        "run_type": PRETRAINING if run is None else run.run_type,
        "params": base.size.name,
        "data": base.recipe.name,
        "seed": base.seed.index,
        "learning_rate": np.nan if treatment is None else treatment.learning_rate,
        "posttraining_method": "" if run is None else run.run_type,
        "finetune_tokens": np.nan if treatment is None else treatment.finetune_tokens,
        "epochs": np.nan if treatment is None else treatment.epochs,
        "dpo_beta": np.nan if treatment is None else treatment.dpo_beta,
        "n_params": base.size.n_params,
        "checkpoint_type": PRETRAINING if logged_by is None else logged_by.run_type,
    }


def _joined(pieces: Sequence[_Piece], metrics: Sequence[Metric]) -> pd.DataFrame:
    # One frame of whole columns: a frame for each piece takes ten times as long.
    counts = [len(piece.tokens) for piece in pieces]

    def repeated(name: str) -> npt.NDArray[Any]:
        values = [piece.facts[name] for piece in pieces]
        return np.repeat(np.array(values, object if isinstance(values[0], str) else None), counts)

    columns: dict[str, object] = {name: repeated(name) for name in LEADING_COLUMNS if name in pieces[0].facts}
    columns["step"] = np.concatenate([piece.step for piece in pieces])
    columns["cumulative_tokens"] = tokens = np.concatenate([piece.tokens for piece in pieces])
    columns["cumulative_compute"] = 6.0 * repeated("n_params") * tokens
    for k, metric in enumerate(metrics):
        columns[metric.name] = np.concatenate([piece.values[k] for piece in pieces])
    columns["checkpoint_type"] = repeated("checkpoint_type")
    return pd.DataFrame(columns)


def _empty(metrics: Sequence[Metric]) -> pd.DataFrame:
    return pd.DataFrame(columns=[*LEADING_COLUMNS, *(m.name for m in metrics), "checkpoint_type"])
