"""The cells of a metric as arrays (row, point), one row per run, with the samples and last values of each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.array_types import Float64
from dde.curves.axes import AxisRule
from dde.dataset.dimensions import (
    axis_of,
    branch_or_start,
    broadcast_values,
    cell_dims,
    cells_along,
    run_ids_along,
    tokens_along,
)
from dde.dataset.samples import is_set, number_of
from dde.errors import SelectionError
from dde.schema import SAMPLED

__all__ = ["MetricRows"]

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MetricRows:
    """The cells of a metric as (row, point), one row per run; the points of a row are in any order.

    Attributes
    ----------
    array : xarray.DataArray
        The metric.
    cells : tuple of str
        Dimensions of the runs; rows are these dimensions flattened, in this order.
    rule : AxisRule
        Axis that the points are on.
    names : tuple of str
        Samplings of the metric.
    values, tokens : (row, point) float64 arrays
        Values and cumulative tokens of the cells.
    flags : tuple of (row, point) bool arrays
        For each sampling of `names`, whether a cell is one of its samples.
    run_ids : (row,) object array
        "" where there is no run.
    """

    array: xr.DataArray
    cells: tuple[str, ...]
    rule: AxisRule
    names: tuple[str, ...]
    values: Float64
    tokens: Float64
    flags: tuple[Mask, ...]
    run_ids: npt.NDArray[np.object_]

    @classmethod
    def of(cls, array: xr.DataArray, names: tuple[str, ...], flags: list[xr.Variable]) -> MetricRows:
        """Return the rows of a metric.

        Parameters
        ----------
        array : xarray.DataArray
        names : tuple of str
            Its samplings.
        flags : list of xarray.Variable
            Flags of each sampling.

        Raises
        ------
        SelectionError
            When the array has no dimension of an axis.
        """
        rule = axis_of(array)
        if rule is None or rule.name not in array.dims:
            raise SelectionError(
                f"{str(array.name)!r} has no dimension of tokens, so it has no last value. Select several points, or "
                "none."
            )
        cells = cell_dims(array)
        dims = (*cells, rule.name)
        sizes = {d: array.sizes[d] for d in dims}
        shape = (int(np.prod([array.sizes[d] for d in cells])), array.sizes[rule.name])

        def rows(variable: xr.Variable) -> npt.NDArray[Any]:
            return np.asarray(broadcast_values(variable, sizes)).reshape(shape)

        return cls(
            array,
            cells,
            rule,
            names,
            rows(array.variable).astype(np.float64),
            tokens_along(array, dims).reshape(shape),
            tuple(is_set(rows(flag)) for flag in flags),
            run_ids_along(array, cells).ravel(),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dimensions of runs."""
        return tuple(self.array.sizes[d] for d in self.cells)

    def number(self, name: str) -> Float64:
        """Return a coordinate of the runs, (row,)."""
        return cells_along(self.array, name, self.cells).ravel()

    @property
    def sampled(self) -> Mask:
        """Whether a cell is a sample in every sampling of the metric."""
        everywhere = np.ones(self.values.shape, bool)
        return np.asarray(np.logical_and.reduce([everywhere, *self.flags]))

    def sample_number(self, sampling: str, number: str) -> Float64:
        """Return a number of a sampling, (row,); see :data:`dde.schema.SAMPLED_NUMBERS`."""
        along_runs = number_of(self.array, sampling, number)
        return np.asarray(
            broadcast_values(along_runs, {d: self.array.sizes[d] for d in self.cells}), np.float64
        ).ravel()

    @property
    def own(self) -> Mask:
        """Whether a cell is of the run itself: after its branch, or any cell of a base."""
        return np.asarray(self.tokens > branch_or_start(self.number("branch_tokens"))[:, None])

    @property
    def off_axis(self) -> Mask:
        """Whether the run of a row has no position on an axis that differs by run."""
        if self.rule.by != "run":
            return np.zeros(len(self.run_ids), bool)
        return np.asarray(np.isnan(self.tokens).all(axis=1))

    def is_complete(self, of_run: bool) -> Mask:
        """Return whether all samples of a row are points of the object: the run's own, or those of its curve."""
        complete = np.ones(len(self.values), bool)
        for name, flag in zip(self.names, self.flags, strict=True):
            seen = (flag & self.own if of_run else flag).sum(axis=1)
            complete &= seen == np.nan_to_num(self.sample_number(name, "own" if of_run else "count"))
        return complete

    def end_samples(self, number: Literal["last", "base"]) -> tuple[Mask, Mask]:
        """Return which rows have their last sample among the points of the object, and which have no sample.

        Parameters
        ----------
        number : {"last", "base"}
            The last sample of the run itself, or of its base before the branch; of every sampling.
        """
        is_point, has_none = np.ones(len(self.values), bool), np.zeros(len(self.values), bool)
        ends = [self.sample_number(name, number) for name in self.names]
        for end, flag in zip(ends, self.flags, strict=True):
            is_point &= (flag & (self.tokens == end[:, None])).any(axis=1)
            has_none |= np.isnan(end)
        if len(ends) > 1:
            # The last sample that two samplings share may be before the last sample of either.
            is_point &= np.logical_and.reduce([end == ends[0] for end in ends]) | self.is_complete(number == "last")
        return is_point, has_none

    def last(self, where: Mask) -> tuple[Float64, Float64, Mask]:
        """Return the value and tokens of the last point of each row where `where` is True, and which rows have one."""
        some: Mask = np.asarray(where.any(axis=1))
        if not where.shape[1]:
            return np.full(len(some), np.nan), np.full(len(some), np.nan), some
        at = np.where(where, self.tokens, -np.inf).argmax(axis=1)
        row = np.arange(len(some))
        return (
            np.where(some, self.values[row, at], np.nan),
            np.where(some, self.tokens[row, at], np.nan),
            some,
        )

    def count_text(self, where: Mask, what: str) -> str:
        """Return a text that counts the runs of some rows, names up to three, and ends in `what`; "" for no rows."""
        named = sorted(map(str, self.run_ids[where]))
        if not named:
            return ""
        return f"{len(named)} runs ({', '.join(named[:3])}{', ...' if len(named) > 3 else ''}) {what}"

    def require_known(self, unsure: Mask, number: str, what: str) -> None:
        """Raise where the result for a row needs a sample that is not a point of the object.

        Raises
        ------
        SelectionError
        """
        unsure = unsure & (self.run_ids != "")
        if not unsure.any():
            return
        coordinates = ", ".join(f"{SAMPLED}{name}_{number}" for name in self.names)
        example = str(self.run_ids[unsure][0])
        tokens = self.sample_number(self.names[0], number)[unsure][0]
        raise SelectionError(
            f"{what} of {str(self.array.name)!r} is unknown for {int(unsure.sum())} runs, such as {example}: the "
            f"sample that decides it, at {tokens:.0f} tokens (coordinate {coordinates}), is not a point of this "
            "object, which is on a coarser grid or a part of the axis. Call this before selecting along the axis, or "
            "open the Dataset on a grid that includes the sample, such as grid='auto' or a number of points."
        )
