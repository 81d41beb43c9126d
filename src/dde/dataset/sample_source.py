"""A Dataset as the source of samples to interpolate: its runs, their stages, and sample positions on any axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.array_types import Float64
from dde.curves.axes import TOKENS, AxisRule, Lines, axis_lines, positions_on
from dde.curves.grids import Points
from dde.dataset.dimensions import (
    axis_of,
    branch_or_start,
    broadcast_values,
    cells_along,
    points_along,
    require_params,
    run_dims,
    run_ids_along,
    texts_along,
)
from dde.dataset.provenance import stages_along
from dde.dataset.samples import flags_join, is_set, number_of, samplings_in
from dde.errors import SelectionError, SourceError
from dde.schema import MEMBERS, SAMPLED, TABLE_SAMPLINGS

__all__ = ["SampleSource", "require_complete"]


@dataclass(frozen=True, eq=False)
class SampleSource:
    """A Dataset whose cells provide the samples of new curves.

    Attributes
    ----------
    dataset : xarray.Dataset
    rule : AxisRule
        Its axis.
    points : (point,) array
    cells : tuple of str
        Dimensions of the runs.
    run_ids, parents : object arrays over `cells`
    starts : object array over `cells`
        For each run, a tuple of the tokens after which the stages of its curve begin, that of the base first.
    merges : object array over `cells`
        For each run, a tuple that says which stages of its curve are merges; curves of merges do not join their
        parents'.
    branch, end : float64 arrays over `cells`
    """

    dataset: xr.Dataset
    rule: AxisRule
    points: Points
    cells: tuple[str, ...]
    run_ids: npt.NDArray[np.object_]
    parents: npt.NDArray[np.object_]
    starts: npt.NDArray[np.object_]
    merges: npt.NDArray[np.object_]
    branch: Float64
    end: Float64

    @classmethod
    def of(cls, dataset: xr.Dataset) -> SampleSource:
        """Return a Dataset as a source.

        Raises
        ------
        SelectionError, SourceError
            When it has no dimension of tokens, holds means, or has no coordinate that is needed.
        """
        rule = axis_of(dataset)
        if rule is None or rule.name not in dataset.dims:
            raise SelectionError(
                "the Dataset has no dimension of tokens with its coordinate, so it can't be aligned on a grid. "
                "Select several points, and keep the coordinate."
            )
        if MEMBERS in dataset.coords:
            raise SelectionError(
                "the Dataset holds means, which have no observations of their own, so it can't be aligned. Align the "
                "runs first: ds.dde.align(...).dde.mean_over(...)."
            )
        # A suite that states no parameter counts has no compute either.
        needed = ["n_params"] if "cumulative_compute" in dataset.coords else []
        if missing := [n for n in (*needed, "cumulative_tokens") if n not in dataset.coords]:
            raise SelectionError(
                f"the Dataset has no coordinates {', '.join(missing)}, so the positions of its cells on another axis "
                "are unknown. Keep the coordinates that dde.open_lineages() gives."
            )
        points = points_along(dataset, rule)
        cells = run_dims(dataset)
        run_ids = run_ids_along(dataset, cells)
        stages = stages_along(dataset, cells)
        starts, merges = np.empty(stages.shape, object), np.empty(stages.shape, object)
        for at in np.ndindex(stages.shape):
            starts[at] = tuple(stage.start for stage in stages[at])
            merges[at] = tuple(stage.merged_at is not None for stage in stages[at])
        if "parent_run_id" not in dataset.coords:
            raise SourceError(
                "the Dataset has no coordinate parent_run_id, so the curves that its runs continue are unknown. "
                "Keep the coordinates that dde.open_lineages() gives."
            )
        parents = texts_along(dataset, "parent_run_id", cells)
        branch, end = (cells_along(dataset, n, cells) for n in ("branch_tokens", "end_tokens"))
        return cls(dataset, rule, points, cells, run_ids, parents, starts, merges, branch, end)

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of the dimensions of the runs."""
        return {d: self.dataset.sizes[d] for d in self.cells}

    def lines(self, rule: AxisRule) -> Lines | None:
        """Return how tokens follow from points of an axis; None where the points are cumulative tokens."""
        if not rule.by:
            return None
        schedule = (
            cells_along(self.dataset, "schedule_tokens", self.cells)
            if rule.name == "fraction_of_training"
            else np.full(self.branch.shape, np.nan)
        )
        n_params = np.ones(self.branch.shape)
        if rule.by == "lineage":
            require_params(self.dataset.coords, rule)
            n_params = cells_along(self.dataset, "n_params", self.cells)
        return axis_lines(rule, self._starts(), schedule, np.where(self.run_ids != "", n_params, np.nan))

    @property
    def params(self) -> xr.Variable | None:
        """Exact parameters; None where the Dataset has none."""
        return self.dataset["n_params"].variable if "n_params" in self.dataset.coords else None

    def _starts(self) -> Float64:
        """Return the cumulative tokens at which the own tokens of derived runs begin.

        For a merge they begin at the merge itself, not where the curves of its parents part.
        """
        if "start_tokens" not in self.dataset.coords:
            return self.branch
        return np.where(np.isnan(self.branch), np.nan, cells_along(self.dataset, "start_tokens", self.cells))

    def require_samples(self, array: xr.DataArray, sampling: str, rule: AxisRule) -> None:
        """Raise where samples that curves on an axis need are not points of the Dataset.

        An axis that differs by run needs the run's own samples, any other axis all samples of the curve.

        Raises
        ------
        SelectionError
        SourceError
            When the coordinate that counts the samples is missing.
        """
        of_runs = rule.by == "run"
        number = number_of(array, sampling, "own" if of_runs else "count")
        count = np.asarray(broadcast_values(number, self.sizes), np.float64)
        is_sample = is_set(self.dataset.coords[SAMPLED + sampling].variable)
        if of_runs:
            branch = xr.Variable(self.cells, branch_or_start(self.branch))
            is_sample = is_sample & (self.dataset["cumulative_tokens"].variable > branch)
            # A run without a position on the axis needs no samples.
            is_on_axis = np.isfinite(self.branch) if rule.name == "post_tokens" else np.True_
            count = np.where(is_on_axis, count, 0.0)
            is_sample = is_sample & xr.Variable(self.cells, np.broadcast_to(is_on_axis, self.branch.shape))
        seen = np.asarray(broadcast_values(is_sample.sum(self.rule.name), self.sizes))
        require_complete(self.run_ids.ravel(), seen.ravel(), count.ravel(), sampling)

    def positions(self, rule: AxisRule, lines: Lines | None, with_logs: bool) -> tuple[Points, Points, Points]:
        """Return the positions that a grid on an axis must hold, those of dense logs, and the anchors of the grid.

        Required positions are samples of the tables, branch points and last tokens; on an axis that begins at the
        branch, only those of the run's own part. Anchors are branch points, last tokens, and the last samples of each
        run and of its base.
        """
        none: Points = np.empty(0, np.int64 if rule.is_whole else np.float64)
        required, logs, anchors = [none], [none], [none]
        names = samplings_in(self.dataset)
        # Each evaluation of another suite has its own sampling; these count as samplings of a table.
        evaluated = {n for n in names if n in TABLE_SAMPLINGS or flags_join(self.dataset.coords[SAMPLED + n].variable)}
        if not with_logs:
            names = [n for n in names if n in evaluated]
        tokens, flags = self._tokens(), {n: self._flags(n) for n in names}
        for at in np.ndindex(self.run_ids.shape):
            if not self.run_ids[at]:
                continue
            of_run = tokens if tokens.ndim == 1 else tokens[at]
            own = self.branch[at] if rule.by == "run" and np.isfinite(self.branch[at]) else -1.0
            starts = self.starts[at][1:]
            fixed = [t for t in (*starts, self.end[at]) if np.isfinite(t) and t >= own]
            required_of_run: list[npt.NDArray[Any]] = [np.array(fixed)]
            dense_of_run: list[npt.NDArray[Any]] = []
            for name, flag in flags.items():
                seen = of_run[is_set(flag[at]) & (of_run > own)]
                (required_of_run if name in evaluated else dense_of_run).append(seen)
                if name in evaluated and len(seen):
                    fixed.append(float(seen.max()))
                    fixed += [float(seen[seen <= starts[0]].max())] if starts and (seen <= starts[0]).any() else []
            offset, scale = (0.0, 1.0) if lines is None else (float(lines.offset[at]), float(lines.scale[at]))
            if np.isfinite(scale):
                parts = (required_of_run, dense_of_run, [np.array(fixed)])
                token_parts = [np.concatenate([np.empty(0), *p]).astype(np.int64) for p in parts]
                for kind, positions in zip(
                    (required, logs, anchors), positions_on(token_parts, offset, scale, rule), strict=True
                ):
                    kind.append(positions)
        required_points, log_points, anchor_points = (
            np.unique(np.concatenate(kind)) for kind in (required, logs, anchors)
        )
        return required_points, log_points, anchor_points

    def _tokens(self) -> Float64:
        """Return the cumulative tokens of the points, (point,), or of each cell."""
        variable = self.dataset["cumulative_tokens"].variable
        if self.rule is TOKENS:
            return np.asarray(variable.values, np.float64)
        return np.asarray(broadcast_values(variable, {**self.sizes, self.rule.name: len(self.points)}), np.float64)

    def _flags(self, sampling: str) -> npt.NDArray[Any]:
        flag = self.dataset.coords[SAMPLED + sampling].variable
        return broadcast_values(flag, {**self.sizes, self.rule.name: len(self.points)})


def require_complete(run_ids: npt.NDArray[np.object_], seen: npt.NDArray[Any], count: Float64, sampling: str) -> None:
    """Raise where runs have samples that are not points of the Dataset.

    Raises
    ------
    SelectionError
    """
    fewer = (run_ids != "") & (seen != np.nan_to_num(count))
    if fewer.any():
        at = int(np.flatnonzero(fewer)[0])
        raise SelectionError(
            f"{int(fewer.sum())} runs have samples of {sampling} that are not points of this Dataset, such as "
            f"{run_ids[at]}: {int(seen[at])} of {int(np.nan_to_num(count[at]))} are (the coordinate "
            f"{SAMPLED}{sampling}_count counts them), so values between its points are unknown. Open the Dataset on "
            "the requested points, which gives exact values: dde.open_lineages(..., grid=..., axis=...); call this "
            "before selecting a part of the axis; or leave the metric out."
        )
