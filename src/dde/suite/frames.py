"""Curves of the runs of a declared suite as DataFrames: observed rows only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dde.array_types import Float64, Int64
from dde.curves.metric import Metric
from dde.curves.observations import join_observations
from dde.dataset.loss_reductions import warn_of_reductions
from dde.errors import warn_caller
from dde.lineage.counts import training_compute
from dde.lineage.run_table import RunTable
from dde.suite.suite_runs import SuiteRuns

__all__ = ["suite_curves", "suite_own_rows"]


def suite_curves(runs: SuiteRuns, run_ids: Sequence[str], metrics: Sequence[Metric]) -> pd.DataFrame:
    """Return the continuous curves of runs: rows shared with their parents, then the runs' own rows.

    Parameters
    ----------
    runs : SuiteRuns
    run_ids : sequence of str
        Runs whose curves to return, in order.
    metrics : sequence of Metric

    Returns
    -------
    pandas.DataFrame
        One row per run and observed position, ordered as `run_ids`, then by tokens:

        - `lineage_id`, `run` (its label), `run_type` and the suite's factors, of the run that the curve belongs to;
        - `run_id`, the run that logged the row, and last `checkpoint_type`, that run's type;
        - `step` of the run that logged the row, `cumulative_tokens`, and `cumulative_compute` in FLOP where the suite
          declares parameter counts: 6 N tokens, run by run where N changes along the curve;
        - a column per metric, NaN where a row has no value.

        The curve of a run with several parents consists of the rows that the parents have in common, then its own rows.
        An empty frame has columns of the same types as a frame with rows.

    Raises
    ------
    SelectionError
        When the suite has no such run.

    Warns
    -----
    DdeWarning
        When a run can't be placed on its lineage, so that it has no rows.

    Examples
    --------
    >>> import dde
    >>> rows = pd.DataFrame({"id": ["a", "a"], "lr": 0.1, "step": [0, 10], "tokens": [0, 80], "loss": [9.0, 3.5]})
    >>> runs = SuiteRuns(dde.Suite.from_frame(rows, run="id", lineage="lr={lr}"))
    >>> frame = suite_curves(runs, ["a"], runs.choose_metrics(None))
    >>> frame[["lineage_id", "cumulative_tokens", "loss"]].values.tolist()
    [['lr=0.1', 0, 9.0], ['lr=0.1', 80, 3.5]]
    """
    return _curves(runs, run_ids, metrics, with_ancestors=True)


def suite_own_rows(runs: SuiteRuns, run_id: str, metrics: Sequence[Metric]) -> pd.DataFrame:
    """Return a run's own observed rows, without its parents' rows; columns and warnings as in :func:`suite_curves`.

    Parameters
    ----------
    runs : SuiteRuns
    run_id : str
    metrics : sequence of Metric
    """
    return _curves(runs, [run_id], metrics, with_ancestors=False)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows of one run that are part of the curve of another run, or of its own."""

    run: int
    member: int
    tokens: Int64
    step: Int64
    values: list[Float64]


def _curves(
    runs: SuiteRuns, run_ids: Sequence[str], metrics: Sequence[Metric], *, with_ancestors: bool
) -> pd.DataFrame:
    table = runs.table
    rows = _placed(runs, table.rows(run_ids))
    members = table.with_ancestors(rows) if with_ancestors else np.unique(rows)
    index_of = {row: i for i, row in enumerate(members.tolist())}
    ids = tuple(str(run_id) for run_id in table.run_id[members].tolist())
    observed = [runs.observations(metric, ids, ()) for metric in metrics] if ids else []
    own = [join_observations(observed, i) for i in range(len(ids))]
    pieces: list[_Piece] = []
    for row in rows.tolist():
        for member, stop in table.curve(row) if with_ancestors else [(row, None)]:
            tokens, step, values = own[index_of[member]]
            high = len(tokens) if stop is None else int(np.searchsorted(tokens, stop, side="right"))
            if high:
                pieces.append(_Piece(row, member, tokens[:high], step[:high], [v[:high] for v in values]))
    _warn_of_reductions(table, pieces, metrics)
    return _joined(table, pieces, metrics)


def _placed(runs: SuiteRuns, rows: Int64) -> Int64:
    """Return the rows of runs that have a curve; warn about the others."""
    table = runs.table
    for row in rows[~table.is_used[rows]].tolist():
        remedy = "Correct the declaration of its parent and tokens"
        if runs.made.is_attached[row]:
            remedy = "Pass parents={run id: parent} or tokens_per_sequence= where that helps"
        warn_caller(
            f"the run {table.run_id[row]!r} can't be placed on its lineage ({table.status[row]}), so it has no rows "
            f"here. {remedy}, or leave it out. repository.coverage() has the status of every run."
        )
    return rows[table.is_used[rows]]


def _warn_of_reductions(table: RunTable, pieces: Sequence[_Piece], metrics: Sequence[Metric]) -> None:
    """Warn where the rows of training loss of one type of runs were reduced in different ways."""
    at = next((k for k, metric in enumerate(metrics) if metric.name == "train_loss"), None)
    factor = table.factors.get("reduce_loss")
    if at is None or factor is None:
        return
    ways: dict[str, set[str]] = {}
    for member in {piece.member for piece in pieces if np.isfinite(piece.values[at]).any()}:
        if not table.is_root[member]:
            ways.setdefault(str(table.run_type[member]), set()).add(str(factor.values[member]))
    for of_type in ways.values():
        warn_of_reductions(of_type)


def _joined(table: RunTable, pieces: Sequence[_Piece], metrics: Sequence[Metric]) -> pd.DataFrame:
    if not pieces and len(table):
        # One row, then none, so that the columns of an empty frame have their types.
        none = np.zeros(1, np.int64)
        return _joined(table, [_Piece(0, 0, none, none, [np.empty(1) for _ in metrics])], metrics).iloc[:0]
    counts = [len(piece.tokens) for piece in pieces]
    run = np.repeat(np.array([piece.run for piece in pieces], np.int64), counts)
    member = np.repeat(np.array([piece.member for piece in pieces], np.int64), counts)

    def joined(arrays: Sequence[npt.NDArray[Any]], dtype: type) -> npt.NDArray[Any]:
        return np.concatenate([np.empty(0, dtype), *arrays])

    columns: dict[str, object] = {
        "lineage_id": table.lineage[run],
        "run": table.labels[run],
        "run_id": table.run_id[member],
        "run_type": table.run_type[run],
    }
    columns |= {name: factor.values[run] for name, factor in table.factors.items()}
    tokens = joined([piece.tokens for piece in pieces], np.int64)
    columns |= {"step": joined([piece.step for piece in pieces], np.int64), "cumulative_tokens": tokens}
    if not np.isnan(table.n_params).all():
        columns["cumulative_compute"] = _compute(table, member, tokens)
    for k, metric in enumerate(metrics):
        columns[metric.name] = joined([piece.values[k] for piece in pieces], np.float64)
    columns["checkpoint_type"] = table.run_type[member]
    return pd.DataFrame(columns)


def _compute(table: RunTable, member: Int64, tokens: Int64) -> Float64:
    """Return 6 N tokens in FLOP, summed over the runs of a curve where their parameter counts differ."""
    product: Float64 = training_compute(table.n_params[member], tokens)
    # With one parameter count the sum equals the product but for rounding; a Dataset has the product.
    return np.where(_has_one_size(table)[member], product, table.compute(member, tokens))


def _has_one_size(table: RunTable) -> npt.NDArray[np.bool_]:
    """Return a mask of the runs that have the same parameter count as all their ancestors."""
    child, parent = table.edge_child, table.edge_parent
    changed = np.zeros(len(table), bool)
    changed[child[table.n_params[child] != table.n_params[parent]]] = True
    while True:
        reached = changed.copy()
        reached[child[changed[parent]]] = True
        if np.array_equal(reached, changed):
            return ~changed
        changed = reached
