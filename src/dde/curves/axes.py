"""Axes along which runs are aligned, such as tokens or compute; each is linear in cumulative tokens, run by run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from dde.array_types import Float64
from dde.curves.grids import Points
from dde.errors import UnknownNameError, near_names

__all__ = [
    "AXES",
    "TOKENS",
    "AxisRule",
    "Lines",
    "axis_lines",
    "positions_on",
    "resolve_axis",
    "tokens_at",
]


@dataclass(frozen=True, slots=True)
class AxisRule:
    """An axis: its name as a dimension, its meaning and units.

    Attributes
    ----------
    name : str
    label : str
        Long name.
    units : str
    by : {"", "lineage", "run"}
        What its relation to cumulative tokens depends on: nothing, the size of the base, or the run.
    """

    name: str
    label: str
    units: str
    by: Literal["", "lineage", "run"]

    @property
    def attrs(self) -> dict[str, str]:
        """Attributes of a coordinate of its points."""
        return {"long_name": self.label, "units": self.units}

    @property
    def is_whole(self) -> bool:
        """Whether its points are whole tokens."""
        return self.units == "tokens"


#: Axes by name.
AXES: dict[str, AxisRule] = {
    rule.name: rule
    for rule in (
        AxisRule("cumulative_tokens", "tokens since the start of pretraining", "tokens", ""),
        # Training compute is estimated as 6 N tokens, with the exact parameter count N.
        AxisRule("cumulative_compute", "training compute, 6 N tokens", "FLOP", "lineage"),
        AxisRule("tokens_per_parameter", "tokens per parameter", "1", "lineage"),
        AxisRule("fraction_of_training", "fraction of the run's own schedule", "1", "run"),
        AxisRule("post_tokens", "tokens since the branch", "tokens", "run"),
    )
}
TOKENS = AXES["cumulative_tokens"]
_ALIASES = {"tokens": "cumulative_tokens", "compute": "cumulative_compute"}


def resolve_axis(name: str) -> AxisRule:
    """Return the axis with a name or alias.

    Raises
    ------
    UnknownNameError
        When there is no such axis.

    Examples
    --------
    >>> resolve_axis("compute").name
    'cumulative_compute'
    """
    rule = AXES.get(_ALIASES.get(name, name))
    if rule is None:
        raise UnknownNameError(
            f"{name!r} is not an axis, so runs can't be aligned by it.{near_names(name, AXES)} "
            f"There are {', '.join(AXES)}."
        )
    return rule


@dataclass(frozen=True, eq=False)
class Lines:
    """Linear maps from points of an axis to cumulative tokens, one per run: ``tokens = offset + scale * point``.

    Attributes
    ----------
    offset, scale : float64 arrays of the shape of the runs
        Tokens at the origin of the axis, and tokens per unit of it; NaN where a run has no position on the axis.
    """

    offset: Float64
    scale: Float64

    def take(self, at: npt.NDArray[np.intp]) -> Lines:
        """Return the lines of some runs, by their positions in the flattened arrays."""
        return Lines(self.offset.ravel()[at], self.scale.ravel()[at])

    def index(self, at: tuple[npt.NDArray[np.intp], ...]) -> Lines:
        """Return the lines at an index along the dimensions of the runs."""
        return Lines(self.offset[at], self.scale[at])

    def groups(self, points: Points) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]]:
        """Return groups of runs whose points are the same tokens, with these tokens.

        A run without a position on the axis is in no group.
        """
        both = np.stack([self.offset.ravel(), self.scale.ravel()])
        distinct, which = np.unique(both, axis=1, return_inverse=True)
        return [
            (np.flatnonzero(which == k), tokens_at(points, offset, scale))
            for k, (offset, scale) in enumerate(distinct.T.tolist())
            if np.isfinite(scale)
        ]

    def tokens(self, points: Points) -> Float64:
        """Return the cumulative tokens of each run at each point; NaN where it has no position on the axis."""
        offset, scale = self.offset[..., None], self.scale[..., None]
        if points.dtype.kind == "i":
            return np.asarray(offset + scale * points)
        return np.asarray(np.rint(offset + scale * points))


def axis_lines(rule: AxisRule, branch: Float64, schedule: Float64, n_params: Float64) -> Lines:
    """Return how cumulative tokens follow from points of an axis.

    Parameters
    ----------
    rule : AxisRule
        An axis other than cumulative tokens.
    branch, schedule, n_params : float64 arrays of one shape
        Cumulative tokens at the branch, NaN for a pretraining run; cumulative tokens at the planned end, NaN where
        unknown; exact parameter count, NaN where there is no run.

    Returns
    -------
    Lines
        NaN where a run has no position on the axis: a pretraining run on ``post_tokens``, and a run whose schedule is
        unknown or ends at its branch on ``fraction_of_training``.
    """
    has_run = np.isfinite(n_params)
    if rule.name == "post_tokens":
        return Lines(np.where(has_run, branch, np.nan), np.where(has_run & np.isfinite(branch), 1.0, np.nan))
    if rule.by == "run":
        start = np.where(np.isfinite(branch), branch, 0.0)
        scale = np.where(has_run & (schedule > start), schedule - start, np.nan)
        return Lines(np.where(np.isfinite(scale), start, np.nan), scale)
    return Lines(np.where(has_run, 0.0, np.nan), _tokens_per_unit(rule, n_params))


def _tokens_per_unit(rule: AxisRule, n_params: Float64) -> Float64:
    """Return the tokens per unit of an axis that depends on the exact parameter count of the base."""
    return 1 / (6.0 * n_params) if rule.name == "cumulative_compute" else n_params * 1.0


def tokens_at(values: Points, offset: float, scale: float) -> npt.NDArray[np.int64]:
    """Return the whole tokens at points of an axis.

    Examples
    --------
    >>> tokens_at(np.array([0.0, 0.5, 1.0]), 100.0, 7.0).tolist()
    [100, 104, 107]
    """
    if values.dtype.kind == "i" and scale == 1.0:
        return np.asarray(values + int(offset), np.int64)
    return np.asarray(np.rint(offset + scale * values), np.int64)


def positions_on(tokens: Sequence[npt.NDArray[np.int64]], offset: float, scale: float, rule: AxisRule) -> list[Points]:
    """Return the positions of tokens of a run on an axis, without those before its start, such as the branch."""
    if rule.is_whole:
        positions: list[Points] = [t - int(offset) for t in tokens]
    else:
        positions = [(t - offset) / scale for t in tokens]
    return [p[p >= 0] for p in positions]
