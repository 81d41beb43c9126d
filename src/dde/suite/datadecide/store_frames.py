"""Curves of DataDecide's runs as DataFrames: observed rows only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dde.curves.metric import Metric
from dde.curves.observations import join_observations
from dde.dataset.loss_reductions import warn_of_reductions
from dde.errors import warn_caller
from dde.lineage.counts import training_compute
from dde.schema import LEADING_COLUMNS, PRETRAINING
from dde.suite.datadecide.datadecide_runs import read_observations
from dde.suite.datadecide.names import DEFAULT_METRICS
from dde.suite.datadecide.runs.positions import NO_DATA
from dde.suite.datadecide.runs.registry import Registry

__all__ = ["continuous_curves", "empty_curves", "own_rows"]

_NUMBERS = ("learning_rate", "finetune_tokens", "epochs", "dpo_beta")
_AXES = ("step", "cumulative_tokens", "cumulative_compute")


def continuous_curves(
    registry: Registry, run_ids: Sequence[str], metrics: Sequence[Metric] | None = None
) -> pd.DataFrame:
    """Return the continuous curves of runs: ancestors' rows up to each branch, then the run's own.

    Parameters
    ----------
    registry : Registry
    run_ids : sequence of str
        Runs whose curves to return, in order.
    metrics : sequence of Metric, optional
        The default metrics when None.

    Returns
    -------
    pandas.DataFrame
        One row per run and observed position, ordered by run as asked, then tokens. Hyperparameters (`reduce_loss`,
        "" where there is none, among them) and `run_type` are those of the curve's run; `run_id` is the run that
        logged the row and `checkpoint_type` that run's type. Without rows, the columns have the types that they have
        in a frame with rows.

    Warns
    -----
    DdeWarning
        When a run can't be placed on its lineage, so that it has no rows; and when runs of one method reduced the
        `train_loss` of its rows in different ways, so that the values can't be compared.

    Examples
    --------
    >>> import dde
    >>> repository = dde.tutorial.open_repository("tiny")
    >>> frame = continuous_curves(repository.registry, ["dolma1_7-4M-default"])
    >>> frame["checkpoint_type"].unique().tolist()
    ['pretraining']
    """
    return _curves(registry, run_ids, metrics)


def own_rows(registry: Registry, run_id: str, metrics: Sequence[Metric] | None = None) -> pd.DataFrame:
    """Return a run's own observed rows, without its ancestors'; columns and warnings as of :func:`continuous_curves`.

    Parameters
    ----------
    registry : Registry
    run_id : str
    metrics : sequence of Metric, optional
        The default metrics when None.
    """
    return _curves(registry, [run_id], metrics, with_ancestors=False)


def _curves(
    registry: Registry, run_ids: Sequence[str], metrics: Sequence[Metric] | None, with_ancestors: bool = True
) -> pd.DataFrame:
    """Return the rows of the curves of runs, or with ``with_ancestors=False`` of the runs alone."""
    metrics = list(DEFAULT_METRICS if metrics is None else metrics)
    run_ids = _placed(registry, run_ids)
    chains = {run_id: registry.chain(run_id) if with_ancestors else [run_id] for run_id in run_ids}
    members = list(dict.fromkeys(m for chain in chains.values() for m in chain))
    observed = list(read_observations(registry, members, metrics).values())
    tables = {m: join_observations(observed, i) for i, m in enumerate(members)}
    segments: list[_Segment] = []
    for run_id in run_ids:
        chain = chains[run_id]
        for position, member in enumerate(chain):
            tokens, step, values = tables[member]
            # A member contributes its rows after its own branch, up to the branch of the next member.
            start = _branch(registry, member)
            low = 0 if start is None else int(np.searchsorted(tokens, start, side="right"))
            child = chain[position + 1] if position + 1 < len(chain) else None
            stop = None if child is None else _branch(registry, child)
            high = len(tokens) if stop is None else int(np.searchsorted(tokens, stop, side="right"))
            if high > low:
                part = slice(low, high)
                facts = _facts(registry, run_id, member)
                segments.append(_Segment(facts, tokens[part], step[part], [v[part] for v in values]))
    _warn_of_reductions(registry, segments, metrics)
    return _joined(segments, metrics) if segments else empty_curves(metrics)


def empty_curves(metrics: Sequence[Metric]) -> pd.DataFrame:
    """Return a frame of :func:`continuous_curves` without rows: the same columns, of the same types."""
    facts: dict[str, Any] = {name: "" for name in (*LEADING_COLUMNS, "checkpoint_type") if name not in _AXES}
    facts |= {"n_params": 0, "seed": 0} | {name: np.nan for name in _NUMBERS}
    row = _Segment(facts, np.zeros(1, np.int64), np.zeros(1, np.int64), [np.empty(1) for _ in metrics])
    return _joined([row], metrics).iloc[:0]


def _placed(registry: Registry, run_ids: Sequence[str]) -> list[str]:
    """Return the runs that have a curve; warn of the others."""
    placed: list[str] = []
    for run_id in run_ids:
        if run_id in registry.derived:
            status = registry.placed[run_id].status
        else:
            status = "used" if run_id in registry.checkpoint_steps else f"{NO_DATA}: not in the tables"
        if status == "used":
            placed.append(run_id)
        else:
            warn_caller(
                f"the run {run_id!r} can't be placed on its lineage ({status}), so it has no rows here. "
                f"{_remedy(status)} repository.coverage() has the status of every run."
            )
    return placed


def _remedy(status: str) -> str:
    if status.startswith(NO_DATA):
        return "The sources have no rows of it: leave it out, or open sources that have them."
    if status.startswith("tokens unknown"):
        return "Pass tokens_per_sequence= to settle how many tokens a step has."
    return "Pass parents={run id: parent} to settle where it starts."


def _warn_of_reductions(registry: Registry, segments: Sequence[_Segment], metrics: Sequence[Metric]) -> None:
    """Warn where rows of training loss were reduced in different ways by the runs of one method that logged them.

    The losses of two methods are of different objectives, whatever their reductions.
    """
    at = next((k for k, metric in enumerate(metrics) if metric.name == "train_loss"), None)
    if at is None:
        return
    reductions: dict[str, set[str]] = {}
    for run_id in {p.facts["run_id"] for p in segments if np.isfinite(p.values[at]).any()}:
        run = registry.derived.get(run_id)
        if run is not None:
            reductions.setdefault(run.run_type, set()).add(str(run.hyperparameters.get("reduce_loss", "")))
    for ways in reductions.values():
        warn_of_reductions(ways)


def _branch(registry: Registry, run_id: str) -> int | None:
    placed = registry.placed.get(run_id) if run_id in registry.derived else None
    return None if placed is None else placed.branch_tokens


@dataclass(frozen=True, slots=True)
class _Segment:
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
        "reduce_loss": "" if run is None else str(run.hyperparameters.get("reduce_loss", "")),
        "n_params": base.size.n_params,
        "checkpoint_type": PRETRAINING if logged_by is None else logged_by.run_type,
    }


def _joined(segments: Sequence[_Segment], metrics: Sequence[Metric]) -> pd.DataFrame:
    # One frame of whole columns: a frame for each segment takes ten times as long.
    counts = [len(segment.tokens) for segment in segments]

    def repeated(name: str) -> npt.NDArray[Any]:
        values = [segment.facts[name] for segment in segments]
        return np.repeat(np.array(values, object if isinstance(values[0], str) else None), counts)

    columns: dict[str, object] = {name: repeated(name) for name in LEADING_COLUMNS if name in segments[0].facts}
    columns["step"] = np.concatenate([segment.step for segment in segments])
    columns["cumulative_tokens"] = tokens = np.concatenate([segment.tokens for segment in segments])
    columns["cumulative_compute"] = training_compute(repeated("n_params"), tokens)
    for k, metric in enumerate(metrics):
        columns[metric.name] = np.concatenate([segment.values[k] for segment in segments])
    columns["checkpoint_type"] = repeated("checkpoint_type")
    return pd.DataFrame(columns)
