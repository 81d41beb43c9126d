"""Grids: rules for the points of a Dataset's axis."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dde.errors import UnknownNameError, near_names

__all__ = ["DEFAULT_MAX_POINTS", "Points", "TokenGrid", "order_of", "resolve_grid"]

#: Points of an axis: int64 where they are whole tokens, float64 elsewhere.
Points = npt.NDArray[Any]
Kind = Literal["auto", "observed", "linear", "log", "quantile", "explicit"]

DEFAULT_MAX_POINTS = 1024

# Tokens are signed 64-bit integers.
_TOO_FAR = 2.0**63


@dataclass(frozen=True)
class TokenGrid:
    """A rule for a grid from the positions of the selected runs, in tokens or along another axis.

    Attributes
    ----------
    kind : {"auto", "observed", "linear", "log", "quantile", "explicit"}
    n : int
        Number of points of a linear, log or quantile grid; largest number of points of an auto grid.
    values : tuple of float or int
        Points of an explicit grid; integers where they were given as such, which are exact beyond 2**53.

    Examples
    --------
    >>> TokenGrid.linear(3).build(np.array([0, 50, 100]), np.array([60])).tolist()
    [0, 50, 100]
    """

    kind: Kind
    n: int = 0
    values: tuple[float, ...] = ()

    @classmethod
    def auto(cls, max_points: int = DEFAULT_MAX_POINTS) -> TokenGrid:
        """Every evaluation, branch point and last token, and dense logs thinned to about `max_points` in total."""
        return cls("auto", _positive(max_points))

    @classmethod
    def observed(cls) -> TokenGrid:
        """Every position of every selected run, including dense logs."""
        return cls("observed")

    @classmethod
    def linear(cls, n: int) -> TokenGrid:
        """`n` points at equal distances from the first to the last position, and the runs' own anchors."""
        return cls("linear", _positive(n))

    @classmethod
    def log(cls, n: int) -> TokenGrid:
        """`n` points at equal ratios from the first positive to the last position, and the runs' own anchors."""
        return cls("log", _positive(n))

    @classmethod
    def quantile(cls, n: int) -> TokenGrid:
        """`n` points with equal numbers of positions between them, and the runs' own anchors."""
        return cls("quantile", _positive(n))

    @classmethod
    def explicit(cls, values: Iterable[float]) -> TokenGrid:
        """The given points, sorted, without repetitions; tokens are rounded to integers."""
        listed = list(values)
        points = np.asarray(listed)
        if points.dtype.kind not in "iu":
            points = np.asarray(listed, np.float64)
        if not np.isfinite(points).all() or (points < 0).any():
            raise UnknownNameError(
                "a grid holds points that are negative or not finite, which no run can reach. Pass points >= 0."
            )
        return cls("explicit", values=tuple(np.unique(points).tolist()))

    @property
    def needs_logs(self) -> bool:
        """Whether the points depend on positions of dense logs, besides branch points and last tokens of runs."""
        return self.kind not in ("explicit", "linear")

    def build(self, required: Points, dense: Points, anchors: Points | None = None) -> Points:
        """Return the grid.

        Parameters
        ----------
        required : (position,) int64 or float64 array
            Evaluations, branch points and last tokens, in tokens or on another axis.
        dense : (position,) array of the same type
            Positions of dense logs.
        anchors : (position,) array of the same type, optional
            Positions that a grid with a number of points includes as well, so that values at ends and branches do not
            depend on its resolution: last samples, branch points and last tokens.

        Returns
        -------
        (point,) array of the same type
            Ascending and distinct; integers where the positions are.
        """
        required = np.unique(required)
        if self.kind == "explicit":
            return _typed_as(required, np.array(self.values))
        positions = np.union1d(required, dense)
        if self.kind == "observed" or not len(positions):
            return positions
        if self.kind == "auto":
            optional = np.setdiff1d(positions, required, assume_unique=True)
            room = max(self.n - len(required), 0)
            if len(optional) > room:
                # Evenly spaced in rank, so that the grid follows the density of the logs.
                pick = np.unique(np.rint(np.linspace(0, len(optional) - 1, room)).astype(np.int64))
                optional = optional[pick] if room else optional[:0]
            return np.union1d(required, optional)
        first, last = positions[0], positions[-1]
        if self.kind == "linear":
            points = np.linspace(first, last, self.n)
        elif self.kind == "log":
            positive = positions[positions > 0]
            if not len(positive):
                return positions[:1]  # all runs are at token 0
            points = np.geomspace(positive[0], last, self.n)
        else:
            points = np.quantile(positions, np.linspace(0, 1, self.n))
        typed = _typed_as(required, points)
        return typed if anchors is None else np.union1d(typed, anchors)

    def __str__(self) -> str:
        if self.kind == "explicit":
            return f"explicit, {len(self.values)} points"
        if self.kind == "auto":
            return f"auto, at most {self.n} points where evaluations allow"
        return self.kind if self.kind == "observed" else f"{self.kind}, {self.n} points"


def resolve_grid(grid: object, max_points: int = DEFAULT_MAX_POINTS) -> TokenGrid:
    """Return the grid of an argument: "auto", "union", a number of points, an array of tokens, or a TokenGrid.

    Raises
    ------
    UnknownNameError
        When the argument is not a grid.
    """
    if isinstance(grid, TokenGrid):
        return grid
    if isinstance(grid, str):
        if grid == "auto":
            return TokenGrid.auto(max_points)
        if grid in ("union", "observed"):
            return TokenGrid.observed()
    elif isinstance(grid, (int, np.integer)) and not isinstance(grid, bool):
        return TokenGrid.linear(int(grid))
    elif isinstance(grid, Iterable) and getattr(grid, "ndim", 1) == 1:
        return TokenGrid.explicit(grid)
    near = near_names(grid, ("auto", "union")) if isinstance(grid, str) else ""
    raise UnknownNameError(
        f"{grid!r} is not a grid, so the token axis is undefined.{near} "
        "Pass 'auto', 'union', a number of points, an array of tokens, or a dde.TokenGrid."
    )


def order_of(points: Points) -> tuple[Any, Any]:
    """Return an index that sorts points, and one that restores their order; full slices where they are sorted."""
    order = np.argsort(points, kind="stable")
    if np.array_equal(order, np.arange(len(order))):
        return slice(None), slice(None)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return order, back


def _typed_as(positions: Points, points: Points) -> Points:
    """Return distinct points, rounded to integers where the positions are integers.

    Raises
    ------
    UnknownNameError
        When a point exceeds 64 bits.
    """
    if positions.dtype.kind != "i":
        return np.unique(points.astype(np.float64))
    if points.dtype.kind == "i":
        return np.unique(points)
    if (points >= _TOO_FAR).any():
        raise UnknownNameError(
            f"a grid of tokens holds the point {points.max():g}, and tokens are counted up to {_TOO_FAR:g}. "
            "Pass points below that."
        )
    return np.unique(np.rint(points).astype(np.int64))


def _positive(n: int) -> int:
    if n < 1 or not math.isfinite(n):
        raise UnknownNameError(f"a grid of {n} points is empty. Pass a whole number of at least 1.")
    return int(n)
