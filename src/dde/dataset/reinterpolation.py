"""Compute the cells of a Dataset on another grid or axis from its samples, block by block."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.array_types import Float64, Int64
from dde.curves.alignment import AlignmentPlan, Interpolation
from dde.curves.axes import TOKENS, AxisRule, Lines
from dde.curves.chains import Chains, CurvePoints
from dde.curves.filling import Curves, mark_points
from dde.curves.grids import Points, order_of
from dde.curves.observations import Observations
from dde.dataset.dimensions import branch_or_start, texts_along
from dde.dataset.lazy import BlockArray
from dde.dataset.sample_source import SampleSource, require_complete
from dde.dataset.samples import is_set
from dde.errors import SelectionError
from dde.schema import TABLE_SAMPLINGS

__all__ = ["ReinterpolatedFlags", "ReinterpolatedValues", "Reinterpolation"]


# Rows whose cells are in memory at once during interpolation.
_ROWS_AT_ONCE = 1_024
# Cached plans of recent alignments; metrics of one sampling share a plan.
_PLANS = 4


@dataclass(frozen=True, eq=False)
class _Nodes:
    """Stages of curves as nodes of a forest: each is the part of a curve between two branches, read from one row.

    Attributes
    ----------
    chains : Chains
        The forest.
    row : (node,) int64 array
        Row with the samples of each node.
    begin, stop : (node, 1) float64 arrays
        Cumulative tokens after which the node begins, and of its last cell.
    of_row : (row,) int64 array
        Last node of each row.
    """

    chains: Chains
    row: Int64
    begin: Float64
    stop: Float64
    of_row: Int64


class Reinterpolation:
    """The runs of a Dataset as rows, with their parents, and the points of the new grid.

    Parameters
    ----------
    source : SampleSource
    points : (point,) int64 or float64 array
        Points of the new axis.
    rule : AxisRule
        The new axis.
    lines : Lines or None
        How tokens follow from points; None where points are cumulative tokens.
    """

    def __init__(self, source: SampleSource, points: Points, rule: AxisRule, lines: Lines | None) -> None:
        self.cells, self.old = source.cells, source.rule.name
        self.shape = source.run_ids.shape
        self.run_ids, self.starts, self.merges = (a.ravel() for a in (source.run_ids, source.starts, source.merges))
        self.points, self.lines, self.of_runs = points, lines, rule.by == "run"
        self.branch = branch_or_start(source.branch).ravel()
        tokens = source.dataset["cumulative_tokens"].variable
        self.tokens = tokens if source.rule is not TOKENS else xr.Variable(tokens.dims, tokens.values)
        self.plans: deque[AlignmentPlan] = deque(maxlen=_PLANS)
        parents = source.parents.ravel()
        roots = np.full(self.run_ids.shape, "", object)
        # In DataDecide the id of a pretraining run is the label of its lineage; other suites have a coordinate for it.
        name = "root_run_id" if "root_run_id" in source.dataset.coords else "lineage"
        if name in source.dataset.coords and set(source.dataset[name].dims) <= set(self.cells):
            roots = texts_along(source.dataset, name, self.cells).ravel()
        #: Rows of the base and of the parent of each run; -1 where the Dataset does not hold it.
        self.base, self.parent = self._rows_of(roots), self._rows_of(parents)
        if source.rule.by == "run":
            # Where each run has its own axis, the rows of ancestors cover other parts of the curves.
            self.base[:], self.parent[:] = -1, -1

    def _rows_of(self, ancestors: npt.NDArray[np.object_]) -> Int64:
        """Return the row of an ancestor of each row, by run id; -1 where the Dataset does not hold it.

        Of several copies of the ancestor, the row that shares most positions along the dimensions of the runs is taken.

        Parameters
        ----------
        ancestors : (row,) object array of str
            Run id of the ancestor of each row; "" for none.

        Raises
        ------
        SelectionError
            When several copies of an ancestor are equally near, so that the choice is ambiguous.
        """
        rows_by_id: dict[str, list[int]] = {}
        for row, run_id in enumerate(self.run_ids.tolist()):
            if run_id:
                rows_by_id.setdefault(run_id, []).append(row)
        ancestor_rows = np.full(len(ancestors), -1, np.int64)
        for row, run_id in enumerate(ancestors.tolist()):
            copies = rows_by_id.get(run_id, [])
            if len(copies) > 1:
                at, others = (np.array(np.unravel_index(r, self.shape)) for r in (row, copies))
                shared = (others == at[:, None]).sum(axis=0)
                nearest = np.flatnonzero(shared == shared.max())
                if len(nearest) > 1 and self.run_ids[row]:
                    raise SelectionError(
                        f"the Dataset holds the run {run_id} {len(copies)} times, so the copy that "
                        f"{self.run_ids[row]} continues is unknown. Keep each run once, or join copies along a new "
                        "dimension."
                    )
                copies = [copies[nearest[0]]]
            if copies:
                ancestor_rows[row] = copies[0]
        return ancestor_rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "plans": deque(maxlen=_PLANS)}

    def rows_with_ancestors(self, rows: Int64) -> Int64:
        """Return rows and the rows of their ancestors in the Dataset, each once, ascending."""
        reached = set(rows.tolist())
        new = reached
        while new:
            ancestors = {int(a) for r in new for a in (self.parent[r], self.base[r]) if a >= 0 and a != r}
            new = ancestors - reached
            reached |= new
        return np.array(sorted(reached), np.int64)

    def read(self, variable: xr.Variable, rows: Int64, others: dict[str, Any]) -> npt.NDArray[Any]:
        """Return the cells of a variable in some rows, (row, others..., old point)."""
        at = np.unravel_index(rows, self.shape) if self.shape else ()
        index: dict[str, Any] = {}
        inverse: dict[str, Any] = {}
        for dim, positions in zip(self.cells, at, strict=True):
            if dim in variable.dims:
                index[dim], inverse[dim] = np.unique(positions, return_inverse=True)
        rest = [d for d in others if d in variable.dims]
        axis = [self.old] if self.old in variable.dims else []
        block = variable.isel({**index, **{d: others[d] for d in rest}}).transpose(*inverse, *rest, *axis).values
        if inverse:
            return np.asarray(block[tuple(inverse.values())])
        return np.broadcast_to(block, (len(rows), *block.shape))

    def nodes(self, rows: Int64) -> _Nodes:
        """Return the stages of the curves of rows, which include all of their ancestors in the Dataset.

        A stage that several rows share is taken from the row of the parent, or else of the base, where there is one.
        """
        index_of = {row: i for i, row in enumerate(rows.tolist())}
        parent: list[int] = []
        branch: list[int] = []
        is_merge: list[bool] = []
        stages: list[tuple[int, float, float]] = []  # row, and begin and end of the stage in tokens
        last_node: dict[int, int] = {}

        def add(row: int) -> int:
            """Add the stages of a row, after those of its ancestors, and return the last one."""
            if row in last_node:
                return last_node[row]
            starts = self.starts[rows[row]]
            previous, first = -1, 0
            parent_row, base_row = (index_of.get(int(a[rows[row]]), -1) for a in (self.parent, self.base))
            if len(starts) > 1 and parent_row >= 0 and parent_row != row:
                previous, first = add(parent_row), len(starts) - 1
            elif len(starts) > 1 and base_row >= 0 and base_row != row:
                previous, first = add(base_row), 1
            for k in range(first, len(starts)):
                parent.append(previous)
                branch.append(int(starts[k]) if k else -1)
                is_merge.append(self.merges[rows[row]][k])
                begin, stop = (float(starts[k]) if k else -1.0), (starts[k + 1] if k + 1 < len(starts) else np.inf)
                stages.append((row, begin, float(stop)))
                previous = len(stages) - 1
            last_node[row] = previous
            return previous

        of_row = np.array([add(row) for row in range(len(rows))], np.int64)
        chains = Chains(
            tuple(map(str, range(len(stages)))),
            np.array(parent, np.int32),
            np.array(branch, np.int64).reshape(-1),
            np.array(is_merge, bool),
        )
        row, begin, stop = np.array(stages, np.float64).reshape(-1, 3).T
        return _Nodes(chains, row.astype(np.int64), begin[:, None], stop[:, None], of_row)

    def groups(self, rows: Int64, points: Points) -> list[tuple[npt.NDArray[np.intp], Int64]]:
        """Return groups of rows whose points are the same tokens: positions along `rows`, and the tokens, ascending."""
        if self.lines is None:
            return [(np.arange(len(rows)), points.astype(np.int64))]
        return self.lines.take(rows).groups(points)


class _ReinterpolatedArray(BlockArray):
    """Cells of a Dataset on another grid, computed block by block: (cells..., others..., point)."""

    def __init__(self, reinterpolation: Reinterpolation, variable: xr.Variable) -> None:
        self.reinterpolation, self.variable = reinterpolation, variable
        self.others = [str(d) for d in variable.dims if d not in reinterpolation.cells and d != reinterpolation.old]
        self.shape = (*reinterpolation.shape, *(variable.sizes[d] for d in self.others), len(reinterpolation.points))

    def _block(self, at: tuple[npt.NDArray[np.intp], ...]) -> npt.NDArray[Any]:
        reinterpolation, n_cells = self.reinterpolation, len(self.reinterpolation.shape)
        shape = tuple(len(a) for a in at)
        rows = (
            np.ravel_multi_index(np.ix_(*at[:n_cells]), reinterpolation.shape).ravel()
            if n_cells
            else np.zeros(1, np.int64)
        )
        points = reinterpolation.points[at[-1]]
        order, back = order_of(points)
        blank = np.nan if self.dtype.kind == "f" else 0
        out = np.full((len(rows), *shape[n_cells:]), blank, self.dtype)
        others = dict(zip(self.others, at[n_cells:-1], strict=True))
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = np.flatnonzero(reinterpolation.run_ids[rows[start : start + _ROWS_AT_ONCE]] != "") + start
            if len(part) and len(points):
                filled = np.full((len(part), *shape[n_cells:]), blank, self.dtype)
                self._fill(filled, rows[part], points[order], others)
                out[part] = filled[..., back]
        return out.reshape(shape)

    def _fill(self, out: npt.NDArray[Any], rows: Int64, points: Points, others: dict[str, Any]) -> None:
        raise NotImplementedError


class ReinterpolatedFlags(_ReinterpolatedArray):
    """Flags of samples on another grid: 1 at points whose tokens are those of a sample."""

    dtype = np.dtype(np.int8)

    def _fill(self, out: npt.NDArray[Any], rows: Int64, points: Points, others: dict[str, Any]) -> None:
        flags = self.reinterpolation.read(self.variable, rows, others)
        tokens = np.broadcast_to(self.reinterpolation.read(self.reinterpolation.tokens, rows, {}), flags.shape)
        for here, grid in self.reinterpolation.groups(rows, points):
            row, point = np.nonzero(is_set(flags[here]))
            mark_points(out, here, grid, (row, tokens[here][row, point].astype(np.int64)), 1)


class ReinterpolatedValues(_ReinterpolatedArray):
    """A metric on another grid, interpolated between its samples.

    Cells just before a branch may depend on a sample of the parent after the branch. If no row holds the parent,
    existing cells are copied if they were interpolated in the same way; otherwise reading these cells is an error.

    Parameters
    ----------
    reinterpolation : Reinterpolation
    variable : xarray.Variable
    flags : list of xarray.Variable
        Flags of each sampling of `variable`, in the order of `counts`.
    counts : dict of sampling to xarray.Variable
        Number of samples of each run that the Dataset must hold.
    how : Interpolation
    joins : bool
        Whether curves may begin with the parent's sample at the branch.
    made_alike : bool
        Whether the existing cells between samples were interpolated as `how` says.
    filled : xarray.Variable, optional
        A metric of the same samplings with values between its samples, where `variable` holds samples only.
    """

    dtype = np.dtype(np.float64)

    def __init__(
        self,
        reinterpolation: Reinterpolation,
        variable: xr.Variable,
        flags: list[xr.Variable],
        counts: dict[str, xr.Variable],
        how: Interpolation,
        joins: bool,
        made_alike: bool,
        filled: xr.Variable | None = None,
    ) -> None:
        super().__init__(reinterpolation, variable)
        self.flags = {sampling: flags[k] for k, sampling in enumerate(counts)}
        self.counts, self.how, self.joins = counts, how, joins
        # The slope of a monotone cubic before the parent's last sample depends on the sample after the branch, too.
        self.may_copy = made_alike and filled is None and how.method != "pchip"
        self.filled = filled

    def _fill(self, out: npt.NDArray[Any], rows: Int64, points: Points, others: dict[str, Any]) -> None:
        """Fill `out` with the values of rows at points, interpolated between their samples again."""
        reinterpolation = self.reinterpolation
        read_rows = reinterpolation.rows_with_ancestors(rows)
        values = reinterpolation.read(self.variable, read_rows, others).astype(np.float64)
        tokens = np.broadcast_to(
            reinterpolation.read(reinterpolation.tokens, read_rows, {}), (len(read_rows), values.shape[-1])
        )
        is_sample = {
            sampling: is_set(reinterpolation.read(flag, read_rows, {})) for sampling, flag in self.flags.items()
        }
        for sampling, seen in is_sample.items():
            if sampling not in TABLE_SAMPLINGS:
                requested = np.where(np.isin(read_rows, rows), reinterpolation.run_ids[read_rows], "")
                own = seen & (tokens > reinterpolation.branch[read_rows][:, None]) if reinterpolation.of_runs else seen
                counted = reinterpolation.read(self.counts[sampling], read_rows, {}).astype(np.float64)
                require_complete(requested, own.sum(axis=-1), counted, sampling)
        flags = np.broadcast_to(np.logical_and.reduce(list(is_sample.values())), tokens.shape)
        position = np.searchsorted(read_rows, rows)
        flat, flat_out = values.reshape(len(read_rows), -1, values.shape[-1]), out.reshape(len(rows), -1, out.shape[-1])
        filled = None if self.filled is None else reinterpolation.read(self.filled, read_rows, {})
        nodes = reinterpolation.nodes(read_rows)
        for k in range(flat.shape[1]):
            old = flat[:, k]
            curves, unknown = self._curves(nodes, old, flags, tokens, old if filled is None else filled)
            target = np.full((len(rows), out.shape[-1]), np.nan)
            for here, grid in reinterpolation.groups(rows, points):
                curves.fill(target, here, nodes.of_row[position[here]], grid, self.how, reinterpolation.plans)
                for i in here[np.isin(position[here], list(unknown))].tolist() if unknown else ():
                    row = int(position[i])
                    self._copy_between(target[i], grid, unknown[row], old[row], tokens[row], read_rows[row])
            flat_out[:, k] = target

    def _copy_between(
        self,
        out: Float64,
        grid: Int64,
        stretches: list[tuple[float, float]],
        old: Float64,
        tokens: Float64,
        row: np.int64,
    ) -> None:
        """Copy cells that depend on a sample which no row holds, (point,).

        Raises
        ------
        SelectionError
            When a point is not among the cells, or the cells were interpolated in another way.
        """
        for begin, stop in stretches:
            inside = np.flatnonzero((grid > begin) & (grid <= stop))
            if not len(inside):
                continue
            position = {t: j for j, t in enumerate(tokens.tolist())}
            at = [position.get(float(t), -1) for t in grid[inside].tolist()]
            if -1 in at or not self.may_copy:
                raise SelectionError(
                    f"between {begin:.0f} tokens and its branch at {stop:.0f}, the curve of "
                    f"{self.reinterpolation.run_ids[row]} depends on a sample of its parent after the branch, and the "
                    "Dataset does not hold the parent, so new values there are unknown. Keep the parent in the "
                    "selection (run='pretraining'), or open the Dataset on the requested grid."
                )
            out[inside] = old[at]

    def _curves(
        self, nodes: _Nodes, values: Float64, flags: npt.NDArray[np.bool_], tokens: Float64, filled: Float64
    ) -> tuple[Curves, dict[int, list[tuple[float, float]]]]:
        """Return the curves of rows through their samples, and the stretches unknown to each row."""
        tokens = tokens[nodes.row]
        is_sample = flags[nodes.row] & (tokens > nodes.begin) & (tokens <= nodes.stop)
        unknown = _unknown_stretches(nodes, filled[nodes.row], tokens, is_sample)
        order = np.argsort(np.where(is_sample, tokens, np.inf), axis=1, kind="stable")
        is_sample = np.take_along_axis(is_sample, order, axis=1)
        seen = np.take_along_axis(values[nodes.row], order, axis=1)[is_sample]
        at = np.take_along_axis(tokens, order, axis=1)[is_sample].astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(is_sample.sum(axis=1))]).astype(np.int64)
        own = Observations(offsets, at, np.zeros(len(at), np.int64), seen)
        is_missing = np.isnan(seen)
        missing = CurvePoints.where(offsets, at, is_missing) if is_missing.any() else None
        of_row: dict[int, list[tuple[float, float]]] = {}
        for row, last in enumerate(nodes.of_row.tolist()) if unknown else ():
            node = last
            while node >= 0:
                if node in unknown:
                    of_row.setdefault(row, []).append(unknown[node])
                node = int(nodes.chains.parent[node])
        return Curves(nodes.chains, own, missing, self.joins), of_row


def _unknown_stretches(
    nodes: _Nodes, values: Float64, tokens: Float64, is_sample: npt.NDArray[np.bool_]
) -> dict[int, tuple[float, float]]:
    """Return the nodes whose values just before a branch depend on a sample that no row holds, with that stretch."""
    begin, stop = nodes.begin, nodes.stop
    last = np.maximum(np.where(is_sample, tokens, -np.inf).max(axis=1, initial=-np.inf)[:, None], begin)
    inside = (tokens > last) & (tokens <= stop) & np.isfinite(stop)
    has_value = (inside & ~np.isnan(values)).any(axis=1)
    # Without any cell there, whether the parent has a sample after the branch is unknown as well.
    has_none = is_sample.any(axis=1) & ~inside.any(axis=1) & np.isfinite(stop[:, 0]) & (last < stop)[:, 0]
    return {int(n): (float(last[n, 0]), float(stop[n, 0])) for n in np.flatnonzero(has_value | has_none)}
