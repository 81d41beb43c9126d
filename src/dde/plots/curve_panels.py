"""The panels of curves: what each shows of its axes, how they stand in rows, and what is written at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from dde.arrays.axis_values import axis_values
from dde.curves.axes import AXES
from dde.plots.axes import axis_label, padded_range
from dde.plots.coordinates import task_of
from dde.plots.panels import Axis, Frame, Look, Panel, x_values, y_values
from dde.plots.segments import Segment

__all__ = ["Scale", "columns_for_facets", "labelled_below", "metric_panels", "titled"]

# Part of the panel that enlarges the branch which is left to the base before it.
_BEFORE = 0.26
_MOST_IN_ROW = 6


@dataclass(frozen=True)
class Scale:
    """What the axes of a picture are."""

    x: str
    log_x: bool
    log_y: bool
    zooms: bool
    is_difference: bool


def metric_panels(
    dataset: xr.Dataset, metric: str, segments: list[Segment], look: Look, scale: Scale, mark_branches: bool
) -> list[Panel]:
    """Return the panels of one metric with the segments of all facets: all share their ranges."""
    x = axis_values(dataset, scale.x) if scale.x in AXES else dataset[scale.x]
    along, up = Axis(scale.x, axis_label(x), scale.log_x), Axis(metric, _label(dataset[metric]), scale.log_y)
    made: list[Panel] = []
    derived = [s for s in segments if not s.is_base]
    window = None
    if scale.zooms and derived:
        units = str(x.attrs.get("units", ""))
        frame = Frame(
            Axis(f"{scale.x}_since_branch", f"{units or scale.x} since the branch"),
            replace(up, name=f"{metric}_since_branch"),
            since_branch=True,
        )
        panel = Panel(segments, look, frame, mark_branches=mark_branches, zero=scale.is_difference)
        reach = max(x_values((s, s.origin) for s in derived))
        joined = any(s.is_base or s.anchor for s in segments)
        shown = -(_BEFORE if joined else 0.04) * reach, 1.05 * reach
        y_range = _y_range(panel.placed(), *shown, scale)
        made = [replace(panel, frame=frame.showing(shown, y_range))]
        origins = {s.origin for s in derived}
        if len(origins) == 1 and y_range is not None:
            (origin,) = origins
            left = max(shown[0] + origin, min(x_values((s, 0.0) for s in segments)))
            window = (left, y_range[0], shown[1] + origin, y_range[1])
    if not made or any(s.is_base for s in segments):
        placed = [(s, 0.0) for s in segments]
        places = x_values(placed)
        x_range = padded_range(places, 0.04, log=scale.log_x)
        if scale.x in AXES and AXES[scale.x].by == "run" and not scale.log_x and any(s.anchor for s in segments):
            # Room for the connections that come from before the branch, where that is not far before it.
            before = [s.anchor[0] for s in segments if s.anchor and s.anchor[0] < 0]
            reach = float(places.max())
            near = [1.04 * b for b in before if b >= -reach]
            x_range = (min([-_BEFORE / 2 * reach, *near]), x_range[1]) if x_range else None
        y_range = _y_range(placed, *(x_range or (-np.inf, np.inf)), scale)
        frame = Frame(along, up, window=window).showing(x_range, y_range)
        made.insert(0, Panel(segments, look, frame, mark_branches=mark_branches, zero=scale.is_difference))
    return made


def _label(metric: xr.DataArray) -> str:
    """Return the label of a metric; that it is a mean, the legend says."""
    name = str(metric.attrs.get("long_name", metric.name)).partition(", mean over ")[0]
    return axis_label(metric.assign_attrs(long_name=name))


def _y_range(
    placed: Sequence[tuple[Segment, float]], left: float, right: float, scale: Scale
) -> tuple[float, float] | None:
    values = y_values(placed, left, right)
    if scale.is_difference:
        values = np.append(values, 0.0)
    return padded_range(values, log=scale.log_y)


def columns_for_facets(facets: int, width: int) -> int:
    """Return how many panels stand in a row, where each facet has so many."""
    if width > _MOST_IN_ROW:
        return 5 if width % 5 == 0 else 4
    if width == 1:
        return facets if facets < 4 else 2 if facets == 4 else 3 if facets <= 9 else 4
    # A few facets stand one below the other, so that their axes can be compared.
    return 4 if width == 2 and facets > 3 else width


def titled(dataset: xr.Dataset, panels: list[Panel], title: str, by_task: bool, alone: bool) -> list[Panel]:
    """Return the panels of a facet with titles: on the first one alone, or on each, by what its metric is of."""
    if not by_task:
        return [replace(p, title=title if k == 0 else "") for k, p in enumerate(panels)]
    named = []
    for panel in panels:
        task, measure = task_of(dataset[panel.frame.y.name.removesuffix("_since_branch")])
        whose = "" if alone and title.endswith(" lineages") else f", {title}"
        frame = replace(panel.frame, y=replace(panel.frame.y, label=measure))
        named.append(replace(panel, title=f"{task}{whose}", frame=frame))
    return named


def labelled_below(rows: list[list[Panel]]) -> list[list[Panel]]:
    """Return rows whose x has a label only where no panel stands below, and y only at the left."""
    return [
        [
            replace(panel, frame=replace(panel.frame, x=replace(panel.frame.x, label="")))
            if i + 1 < len(rows) and j < len(rows[i + 1])
            else panel
            for j, panel in enumerate(row)
        ]
        for i, row in enumerate(rows)
    ]
