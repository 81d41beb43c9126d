"""Groups of curves: the mean of all runs with one value of a coordinate, and the range from lowest to highest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dde.plots.colours import is_given
from dde.plots.curve_segments import INTERPOLATED, OBSERVED, Segment
from dde.plots.panels import value_of
from dde.schema import MEMBERS

__all__ = ["group_segments"]


def group_segments(
    segments: Iterable[Segment], group_by: str, facet_by: str | None = None, min_count: int | None = None
) -> list[Segment]:
    """Return one segment for each group of segments: its mean, with the lowest and the highest value as bounds.

    Parameters
    ----------
    segments : iterable of Segment
        On one axis, at points that all of them share.
    group_by : str
        Coordinate whose values define groups. Segments of different run types are different groups, and so are those
        without a value.
    facet_by : str, optional
        Coordinate that separates panels, and therefore groups.
    min_count : int, optional
        Runs that must have a value for a point to have a mean; one when None.

    Returns
    -------
    list of Segment
        ``counts`` has the number of runs with a value at each point. A point is observed where all of them were.

    Examples
    --------
    >>> import dde
    >>> from dde.plots.curve_segments import find_segments
    >>> ds = dde.tutorial.open_lineages("small", params="4M", metrics=["piqa"])
    >>> groups = group_segments(find_segments(ds, "piqa"), "data")
    >>> sorted({g.facts["data"] for g in groups if g.kind == "pretraining"}) == sorted(set(ds.data.values))
    True
    """
    members: dict[tuple[Any, ...], list[Segment]] = {}
    for segment in segments:
        key = _key(segment, group_by), _key(segment, facet_by), segment.kind, segment.is_base
        members.setdefault(key, []).append(segment)
    means = [_mean(of_group, group_by, facet_by, min_count or 1) for of_group in members.values()]
    return [mean for mean in means if len(mean.x)]


def _key(segment: Segment, coordinate: str | None) -> Any:
    value = value_of(segment, coordinate) if coordinate else ""
    return value if is_given(value) else ""


def _mean(segments: list[Segment], group_by: str, facet_by: str | None, min_count: int) -> Segment:
    x = np.unique(np.concatenate([s.x for s in segments]))
    values = np.full((len(segments), len(x)), np.nan)
    tokens, seen = np.full(len(x), np.nan), np.zeros((len(segments), len(x)), bool)
    # Whether a run has values on both sides of the gap before a point: a line never leads from one run to another.
    is_crossed = np.zeros(len(x), bool)
    for row, s in enumerate(segments):
        at = np.searchsorted(x, s.x)
        is_crossed[at[0] + 1 : at[-1] + 1] = True
        values[row, at], tokens[at], seen[row, at] = s.values, s.tokens, s.support == OBSERVED
    counts = np.isfinite(values).sum(axis=0)
    first = segments[0]
    mean = np.nansum(values, axis=0) / np.maximum(counts, 1)
    low = np.min(np.where(np.isnan(values), np.inf, values), axis=0)
    high = np.max(np.where(np.isnan(values), -np.inf, values), axis=0)
    keep = np.flatnonzero(counts >= min_count)
    ids = [s.run_id if s.is_of_itself else s.root for s in segments]
    facts: Mapping[str, Any] = {
        "lineage": _common(segments, "lineage"),
        "run": f"{first.kind}, {len(segments)} run{'s' if len(segments) > 1 else ''}",
        "reduce_loss": _common(segments, "reduce_loss"),
        group_by: _key(first, group_by),
        MEMBERS: float(len(segments)),
    } | ({facet_by: _key(first, facet_by)} if facet_by else {})
    return Segment(
        run_id="+".join(ids),
        kind=first.kind,
        # A group has no branch of its own, and its colour is that of its value, whichever run type it has.
        is_base=False,
        tokens=tokens[keep],
        x=x[keep],
        values=mean[keep],
        support=np.where((seen.sum(axis=0) == counts)[keep], OBSERVED, INTERPOLATED).astype(np.int8),
        breaks=np.flatnonzero((np.diff(keep) > 1) | ~is_crossed[keep[1:]]) + 1,
        start=np.nan,
        origin=np.nan,
        anchor=None,
        is_log=first.is_log,
        facts=facts,
        low=low[keep],
        high=high[keep],
        counts=counts[keep].astype(np.float64),
    )


def _common(segments: list[Segment], name: str) -> Any:
    values = {s.facts.get(name, "") for s in segments}
    return values.pop() if len(values) == 1 else ""
