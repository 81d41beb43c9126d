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
        Runs of the suite.
    run_ids : sequence of str
        Runs whose curves to return, in order.
    metrics : sequence of Metric
        Metrics to read, a column each.

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
    """Return a run's own observed rows, without its parents' rows.

    Parameters, columns, errors and warnings are those of :func:`suite_curves`, for one run.

    Examples
    --------
    >>> import dde
    >>> rows = pd.DataFrame({"id": ["a", "a", "b"], "up": ["", "", "a"], "step": [0, 10, 5], "tokens": [0, 80, 40]})
    >>> rows["loss"] = [9.0, 3.5, 3.0]
    >>> runs = SuiteRuns(dde.Suite.from_frame(rows, run="id", lineage="x", label="{id}", parent="{up}", counts="own"))
    >>> frame = suite_own_rows(runs, "b", runs.choose_metrics(None))
    >>> frame[["cumulative_tokens", "loss"]].values.tolist()
    [[120.0, 3.0]]
    """
    return _curves(runs, [run_id], metrics, with_ancestors=False)


@dataclass(frozen=True, slots=True)
class _Segment:
    """Rows of one run that are part of a curve.

    Attributes
    ----------
    run : int
        Number of the run that the curve belongs to.
    member : int
        Number of the run that logged the rows: `run` or one of its ancestors.
    tokens, step : (row,) int64 arrays
        Cumulative tokens, and steps of `member`.
    values : list of (row,) float64 array
        One for each metric; NaN where a row has no value.
    """

    run: int
    member: int
    tokens: Int64
    step: Int64
    values: list[Float64]


def _curves(
    runs: SuiteRuns, run_ids: Sequence[str], metrics: Sequence[Metric], *, with_ancestors: bool
) -> pd.DataFrame:
    """Return the rows of the curves of runs, or with ``with_ancestors=False`` of the runs alone."""
    table = runs.table
    rows = _rows_with_position(runs, table.rows(run_ids))
    members = table.with_ancestors(rows) if with_ancestors else np.unique(rows)
    index_of = {row: i for i, row in enumerate(members.tolist())}
    ids = tuple(str(run_id) for run_id in table.run_id[members].tolist())
    observed = [runs.observations(metric, ids, ()) for metric in metrics] if ids else []
    own = [join_observations(observed, i) for i in range(len(ids))]
    segments: list[_Segment] = []
    for row in rows.tolist():
        for member, stop in table.curve(row) if with_ancestors else [(row, None)]:
            tokens, step, values = own[index_of[member]]
            n_rows = len(tokens) if stop is None else int(np.searchsorted(tokens, stop, side="right"))
            if n_rows:
                segment = _Segment(row, member, tokens[:n_rows], step[:n_rows], [v[:n_rows] for v in values])
                segments.append(segment)
    _warn_of_mixed_loss(table, segments, metrics)
    return _join_segments(table, segments, metrics)


def _rows_with_position(runs: SuiteRuns, rows: Int64) -> Int64:
    """Return those of the rows of runs that have a position on the token axis; warn about the others."""
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


def _warn_of_mixed_loss(table: RunTable, segments: Sequence[_Segment], metrics: Sequence[Metric]) -> None:
    """Warn if runs of one type reduce their training loss in different ways, so that it can't be compared."""
    column = next((k for k, metric in enumerate(metrics) if metric.name == "train_loss"), None)
    factor = table.factors.get("reduce_loss")
    if column is None or factor is None:
        return
    reductions_by_type: dict[str, set[str]] = {}
    for member in {segment.member for segment in segments if np.isfinite(segment.values[column]).any()}:
        if not table.is_root[member]:
            reductions_by_type.setdefault(str(table.run_type[member]), set()).add(str(factor.values[member]))
    for reductions in reductions_by_type.values():
        warn_of_reductions(reductions)


def _join_segments(table: RunTable, segments: Sequence[_Segment], metrics: Sequence[Metric]) -> pd.DataFrame:
    """Return a frame with the rows of all segments, one after the other."""
    if not segments and len(table):
        # The frame of one row, without that row: each column has the type that it has in a frame with rows.
        zero = np.zeros(1, np.int64)
        return _join_segments(table, [_Segment(0, 0, zero, zero, [np.empty(1) for _ in metrics])], metrics).iloc[:0]
    counts = [len(segment.tokens) for segment in segments]
    run = np.repeat(np.array([segment.run for segment in segments], np.int64), counts)
    member = np.repeat(np.array([segment.member for segment in segments], np.int64), counts)

    columns: dict[str, object] = {
        "lineage_id": table.lineage[run],
        "run": table.labels[run],
        "run_id": table.run_id[member],
        "run_type": table.run_type[run],
    }
    columns |= {name: factor.values[run] for name, factor in table.factors.items()}
    tokens = _concatenate([segment.tokens for segment in segments], np.int64)
    columns |= {"step": _concatenate([segment.step for segment in segments], np.int64), "cumulative_tokens": tokens}
    if not np.isnan(table.n_params).all():
        columns["cumulative_compute"] = _compute(table, member, tokens)
    for k, metric in enumerate(metrics):
        columns[metric.name] = _concatenate([segment.values[k] for segment in segments], np.float64)
    columns["checkpoint_type"] = table.run_type[member]
    return pd.DataFrame(columns)


def _concatenate(arrays: Sequence[npt.NDArray[Any]], dtype: type) -> npt.NDArray[Any]:
    """Return arrays as one, which is empty if there are none."""
    return np.concatenate([np.empty(0, dtype), *arrays])


def _compute(table: RunTable, member: Int64, tokens: Int64) -> Float64:
    """Return 6 N tokens in FLOP, summed over the runs of a curve where their parameter counts differ."""
    product: Float64 = training_compute(table.n_params[member], tokens)
    # With one parameter count, the sum over runs differs from the product by rounding. The product is the value that a
    # Dataset has, and frames must agree with it.
    return np.where(_has_one_size(table)[member], product, table.compute(member, tokens))


def _has_one_size(table: RunTable) -> npt.NDArray[np.bool_]:
    """Return a mask of the runs that have the same parameter count as all their ancestors."""
    child, parent = table.edge_child, table.edge_parent
    changed = np.zeros(len(table), bool)
    changed[child[table.n_params[child] != table.n_params[parent]]] = True
    # Pass the mark on to children, one generation at a time.
    while True:
        n_changed = np.count_nonzero(changed)
        changed[child[changed[parent]]] = True
        if np.count_nonzero(changed) == n_changed:
            return ~changed
