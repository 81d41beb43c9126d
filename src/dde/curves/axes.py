"""Axes: what the points of a run are counted in. Each is linear in cumulative tokens, run by run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dde.curves.grids import Points
from dde.errors import UnknownNameError, near_names
from dde.relations.run_positions import RunPositions

__all__ = ["AXES", "AxisRule", "axis_lines", "positions_on", "resolve_axis", "tokens_at", "tokens_per_unit"]

Float64 = npt.NDArray[np.float64]
Texts = npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class AxisRule:
    """An axis: its name as a dimension, and what it means.

    Attributes
    ----------
    name : str
    label : str
        Long name.
    units : str
    by : {"", "lineage", "run"}
        What its relation to cumulative tokens differs by: nothing, the size of the base, or each run.
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
        # 6 N tokens with exact N: the design's rule for training compute.
        AxisRule("cumulative_compute", "training compute, 6 N tokens", "FLOP", "lineage"),
        AxisRule("tokens_per_parameter", "tokens per parameter", "1", "lineage"),
        AxisRule("fraction_of_training", "fraction of the run's own training", "1", "run"),
        AxisRule("post_tokens", "tokens since the branch", "tokens", "run"),
    )
}
_ALIASES = {"tokens": "cumulative_tokens", "compute": "cumulative_compute"}


def resolve_axis(name: str) -> AxisRule:
    """Return the axis of that name.

    Raises
    ------
    UnknownNameError
        When there is none.

    Examples
    --------
    >>> resolve_axis("compute").name
    'cumulative_compute'
    """
    rule = AXES.get(_ALIASES.get(name, name))
    if rule is None:
        raise UnknownNameError(
            f"{name!r} is no axis, so nothing can be put on it.{near_names(name, AXES)} There are {', '.join(AXES)}."
        )
    return rule


def axis_lines(registry: RunPositions, run_ids: Texts, rule: AxisRule) -> tuple[Float64, Float64]:
    """Return the line of each run: ``tokens = offset + scale * value``.

    Parameters
    ----------
    registry : RunPositions
    run_ids : object array of str
        "" where there is no run.
    rule : AxisRule

    Returns
    -------
    offset, scale : float64 arrays of the shape of `run_ids`
        Tokens, and tokens per unit of the axis. NaN where a run has no place on the axis: a pretraining run
        branches from nothing, and the share of a run whose end is unknown, or that is its branch, has no meaning.
    """
    if not rule.by:
        held = run_ids != ""
        return np.where(held, 0.0, np.nan), np.where(held, 1.0, np.nan)
    offset, scale = np.full(run_ids.shape, np.nan), np.full(run_ids.shape, np.nan)
    for at in np.ndindex(run_ids.shape):
        run_id = str(run_ids[at])
        if not run_id:
            continue
        if rule.by == "lineage":
            offset[at] = 0.0
            scale[at] = tokens_per_unit(rule, registry.bases[registry.chain(run_id)[0]].size.n_params)
            continue
        placed = registry.placed.get(run_id)
        start = 0 if placed is None else placed.branch_tokens
        if rule.name == "post_tokens":
            if placed is not None and start is not None:
                offset[at], scale[at] = start, 1.0
            continue
        end = registry.base_end_tokens(run_id) if placed is None else placed.end_tokens
        if start is not None and end is not None and end > start:
            offset[at], scale[at] = start, end - start
    return offset, scale


def tokens_per_unit(rule: AxisRule, n_params: Any) -> Any:
    """Return the tokens that a unit of an axis by lineage stands for, by the base's exact parameters."""
    return 1 / (6.0 * n_params) if rule.name == "cumulative_compute" else n_params * 1.0


def tokens_at(values: Points, offset: float, scale: Any) -> npt.NDArray[np.int64]:
    """Return the whole tokens at points of an axis.

    Examples
    --------
    >>> tokens_at(np.array([0.0, 0.5, 1.0]), 100.0, 7.0).tolist()
    [100, 104, 107]
    """
    if values.dtype.kind == "i" and np.ndim(scale) == 0 and scale == 1.0:
        return np.asarray(values + int(offset), np.int64)
    return np.asarray(np.rint(offset + scale * values), np.int64)


def positions_on(tokens: Sequence[npt.NDArray[np.int64]], offset: float, scale: float, rule: AxisRule) -> list[Points]:
    """Return positions of a run on an axis; those before its branch are on no axis that starts there."""
    if rule.is_whole:
        found: list[Points] = [t - int(offset) for t in tokens]
    else:
        found = [(t - offset) / scale for t in tokens]
    return [f[f >= 0] for f in found]
