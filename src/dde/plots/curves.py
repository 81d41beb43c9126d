"""Curves of pretraining and post-training, joined: the first picture of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import xarray as xr

from dde.curves.axes import AXES
from dde.dataset.align import align, axis_values
from dde.dataset.averages import mean_over
from dde.dataset.bases import difference_to_base
from dde.dataset.dimensions import axis_of
from dde.dataset.loss_reductions import is_train_loss, warn_of_reductions
from dde.dataset.provenance import metric_named
from dde.dataset.samples import metrics_alone
from dde.errors import SelectionError, UnknownNameError
from dde.plots.axes import axis_label, padded_range
from dde.plots.backends.base import BackendName
from dde.plots.backends.choice import drawing_with
from dde.plots.colours import NEUTRAL, PRIMARY, colours_of, facets_of, is_given, markers_of
from dde.plots.curve_legend import curve_legend
from dde.plots.defaults import check_names, default_hue, facet_title, task_of
from dde.plots.figure_layout import arrange, places_of
from dde.plots.panels import Axis, Frame, Look, Panel, value_of, x_values, y_values
from dde.plots.segments import Segment, find_segments
from dde.schema import AVERAGED_OVER, MEMBERS, is_datadecide

__all__ = [
    "Scale",
    "columns_for_facets",
    "curve_panels",
    "labelled_below",
    "metric_panels",
    "plot_curves",
    "titled",
]

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


# A picture of more facets or panels than this can't be looked at, and takes minutes to draw.
_MOST_ROWS, _MOST_PANELS = 64, 128
# With more facets or metrics, each has one panel, and panels are small.
_MOST_PAIRS, _MOST_METRICS, _MOST_LARGE = 8, 3, 6
_SINGLE, _LARGE, _SMALL = (480, 320), (330, 230), (240, 165)


def plot_curves(
    dataset: xr.Dataset,
    y: str | Sequence[str] | None = None,
    x: str | None = None,
    *,
    hue_by: str | None = "auto",
    style_by: str | None = "checkpoint_type",
    facet_by: str | None = "lineage",
    band: str | Sequence[str] | None = None,
    min_count: int | None = None,
    relative_to: Literal["base"] | None = None,
    backend: BackendName = "bokeh",
    log_x: bool = False,
    log_y: bool = False,
    zoom: bool | None = None,
    mark_branches: bool = True,
    columns: int | None = None,
    frame_size: tuple[int, int] | None = None,
) -> Any:
    """Draw curves of lineages, pretraining and post-training joined.

    A base is drawn once, in grey where it has no value of the hue, and each derived run in its colour from its
    branch on. Points are observations, lines interpolation between them. A dashed line joins a run's first
    evaluation to its parent's last one; the data holds nothing there.

    Parameters
    ----------
    dataset : xarray.Dataset
        As :func:`dde.open_lineages` gives it, a selection of it, or saved and opened again; aligned on another
        axis; swept; or of means (``ds.dde.mean_over``), which are drawn with their interval.
    y : str or several
        Metrics, a column of panels for each; the first one of the Dataset when None.
    x : str, optional
        ``cumulative_tokens``, ``cumulative_compute``, ``tokens_per_parameter``, ``fraction_of_training``,
        ``post_tokens``, or another coordinate along the Dataset's own axis, which it is when None. On
        ``post_tokens`` and ``fraction_of_training`` each run starts at its own branch.
    hue_by : str or None
        Coordinate that gives runs their colour: an ordered map for numbers and model sizes, distinct colours for
        other names. When "auto", the learning rate; of another suite than DataDecide the first factor in which its
        runs differ and that half of them have, else their label.
    style_by : str or None
        Coordinate that gives observations their marker; ``checkpoint_type`` is what was training.
    facet_by : str or None
        Coordinate with panels for each value; None for no such division.
    band : str or several, optional
        Draw means over "seed" or "replicate", of another suite over any of its factors, with their 95 % interval as
        a band.
    min_count : int, optional
        With `band`: runs that must have a value for the mean to be drawn. When None, every run of a mean must have
        one, so that a mean ends where the first of its runs does. Where fewer than all runs have a value, the line
        is dash-dotted, and the legend says so.
    relative_to : {"base"}, optional
        Draw what post-training changed: the difference to the base where its runs left it.
    backend : {"bokeh", "matplotlib"}
        Bokeh to explore (point at a cell to see its run), matplotlib to print. It becomes HoloViews' current one.
    log_x, log_y : bool
        Logarithmic axes; x without the point at zero, y without values that are not positive, which are counted.
    zoom : bool, optional
        Beside each panel, one that enlarges what follows the branch. A metric that the bases don't have is shown
        in that one alone. When None, of up to three metrics and eight facets, over tokens or compute.
    mark_branches : bool, default True
        Mark where runs branch off.
    columns : int, optional
        Panels in a row, at most.
    frame_size : tuple of int, optional
        Width and height of a panel, in pixels; smaller where there are many panels.

    Returns
    -------
    holoviews.Layout
        Shows itself in a notebook; ``hv.save`` and ``hv.render`` write it. Of many curves, points are thinned to
        what can be seen, extremes kept, and the title says so.

    Raises
    ------
    UnknownNameError
        When a metric, coordinate, axis or backend does not exist.
    SelectionError
        When no cell has a value.
    SourceError
        When a coordinate or the attribute that says which cells are samples is missing.

    Warns
    -----
    DdeWarning
        When cells are infinite, or not positive on a logarithmic axis: they are counted, and not drawn.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="150M", metrics=["arc_easy", "piqa"])
    >>> picture = ds.dde.plot("arc_easy", backend="matplotlib")
    >>> gain = ds.dde.plot("arc_easy", relative_to="base", x="post_tokens", facet_by="data")
    >>> tasks = ds.dde.plot(["arc_easy", "piqa"], zoom=False, facet_by=None, hue_by="data")
    """
    if relative_to not in (None, "base"):
        raise UnknownNameError(f"relative_to={relative_to!r} is nothing to draw differences to. Pass 'base', or None.")
    rows = curve_panels(
        dataset, y, x, hue_by=hue_by, style_by=style_by, facet_by=facet_by, band=band, min_count=min_count,
        relative_to=relative_to, log_x=log_x, log_y=log_y, zoom=zoom, mark_branches=mark_branches, columns=columns,
        backend=backend,
    )  # fmt: skip
    panels = [panel for row in rows for panel in row]
    is_large = len(panels) <= _MOST_LARGE and max(map(len, rows)) <= 3
    size = frame_size or (_SINGLE if len(panels) == 1 else _LARGE if is_large else _SMALL)
    panels = [replace(p, title=_with_thinning(p, size[0])) for p in panels]
    with drawing_with(backend) as drawing:
        import holoviews as hv

        legend = curve_legend(panels, drawing, _band_words(dataset, band))
        places = places_of(rows, size, legend, [p.frame for p in panels], [p.title for p in panels])
        # One legend for all panels, outside of the last one of the first row, where it covers nothing.
        drawn = [
            panel.draw(drawing, place, *([legend] if (place.row, place.column) == (0, len(rows[0]) - 1) else []))
            for panel, place in zip(panels, places, strict=True)
        ]
        filled = _filled(drawn, rows, hv.Empty)
        return hv.Layout(filled).cols(places[0].columns).opts(hv.opts.Layout(**drawing.layout(places[0])))


def curve_panels(
    dataset: xr.Dataset,
    y: str | Sequence[str] | None = None,
    x: str | None = None,
    *,
    hue_by: str | None = "auto",
    style_by: str | None = "checkpoint_type",
    facet_by: str | None = "lineage",
    band: str | Sequence[str] | None = None,
    min_count: int | None = None,
    relative_to: Literal["base"] | None = None,
    log_x: bool = False,
    log_y: bool = False,
    zoom: bool | None = None,
    mark_branches: bool = True,
    columns: int | None = None,
    backend: BackendName = "bokeh",
) -> list[list[Panel]]:
    """Return the panels of :func:`plot_curves` before they are drawn, in rows."""
    metrics = [metric_named(dataset, name) for name in _names(dataset, y)]
    rule = axis_of(dataset)
    own = rule.name if rule else "cumulative_tokens"
    x = x or own
    hue_by = default_hue(dataset, hue_by)
    _check_coordinates(dataset, x, own, {"hue_by": hue_by, "style_by": style_by, "facet_by": facet_by})
    dataset = _prepared(dataset, metrics, x, band, min_count, relative_to)
    segments = {m: find_segments(dataset, m, x, positive=log_x, positive_values=log_y) for m in metrics}
    if relative_to:
        segments = {m: [s for s in found if not s.is_base] for m, found in segments.items()}
    every = [s for found in segments.values() for s in found]
    if not every:
        without = " Bases alone have no change from the base." if relative_to else ""
        if x in AXES and AXES[x].by == "run":
            without = (
                f" On {x} runs are counted from their own branch: bases alone have none, and cells before it no place."
            )
        raise SelectionError(
            f"no cell of {', '.join(metrics)} has a value, so there is nothing to draw.{without} "
            "Select other runs or metrics; repository.coverage() says what each run has."
        )
    for metric in filter(lambda m: is_train_loss(dataset[m]), metrics):
        warn_of_reductions(s.facts.get("reduce_loss", "") for s in segments[metric] if not s.is_base)
    colours = colours_of(value_of(s, hue_by or "") for s in every)
    look = Look(
        hue_by=hue_by or "",
        style_by=style_by or "",
        colours=colours,
        markers=markers_of((value_of(s, style_by or "") for s in every), backend),
        hue_label=axis_label(dataset[hue_by]) if hue_by in dataset.coords else (hue_by or "").replace("_", " "),
        plain=NEUTRAL if colours else PRIMARY,
    )
    # Without a value to tell them apart by, all curves stand together.
    # "" is a value of a factor like any other, but of DataDecide, whose bases have no treatment.
    with_none = not is_datadecide(dataset) and any(_lacks(s, facet_by) for s in every)
    facets = (facets_of((value_of(s, facet_by) for s in every), with_none) if facet_by else []) or [None]
    facet_by = None if facets == [None] else facet_by
    many = len(facets) > _MOST_PAIRS or len(metrics) > _MOST_METRICS
    zooms = (not many if zoom is None else zoom) and x in ("cumulative_tokens", "cumulative_compute")
    scale = Scale(x, log_x, log_y, zooms, bool(relative_to))
    every_panel = [p for m in metrics for p in metric_panels(dataset, m, segments[m], look, scale, mark_branches)]
    _check_count(facet_by, len(facets), len(every_panel))
    by_task = len(metrics) > _MOST_METRICS
    blocks = []
    for facet in facets:
        here = [replace(p, segments=[s for s in p.segments if _is_in(s, facet_by, facet)]) for p in every_panel]
        title = facet_title((s.facts for p in here for s in p.segments), facet_by, facet)
        blocks.append(titled(dataset, here, title, by_task, len(facets) == 1))
    rows = arrange(blocks, columns or columns_for_facets(len(facets), len(every_panel)))
    return labelled_below(rows) if by_task or (len(rows) > 2 and len(every_panel) == 1) else rows


def _filled(drawn: Sequence[Any], rows: Sequence[Sequence[Any]], empty: Any) -> list[Any]:
    """Return drawn panels with nothing where a row is shorter than others, but for the last one."""
    columns, at = max(map(len, rows)), 0
    filled: list[Any] = []
    for i, row in enumerate(rows):
        filled += drawn[at : at + len(row)]
        at += len(row)
        if i + 1 < len(rows):
            filled += [empty() for _ in range(columns - len(row))]
    return filled


def _with_thinning(panel: Panel, width: int) -> str:
    if not panel.is_thinned(width):
        return panel.title
    curves = f"{len(panel.placed())} curves"
    return (
        f"{panel.title}, points thinned"
        if panel.title and "lineages" not in panel.title
        else f"{curves}, points thinned"
    )


def _prepared(
    dataset: xr.Dataset,
    metrics: list[str],
    x: str,
    band: str | Sequence[str] | None,
    min_count: int | None,
    relative_to: str | None,
) -> xr.Dataset:
    """Return what is drawn: the metrics, their difference to the base, or their means."""
    if MEMBERS in dataset.coords:
        over = str(dataset.attrs.get(AVERAGED_OVER, "runs"))
        if band is not None and not set([band] if isinstance(band, str) else band) <= set(over.split(", ")):
            raise SelectionError(
                f"the Dataset holds means over {over}, so there is no band={band!r} to draw. Leave band= out, or "
                "pass the Dataset of the runs."
            )
        if min_count is not None:
            raise SelectionError(
                f"the Dataset holds means over {over}, so min_count={min_count} comes too late. Leave it out, or pass "
                "it where the means are taken: ds.dde.mean_over('seed', min_count=2)."
            )
        if relative_to:
            raise SelectionError(
                "the Dataset holds means, so what each of their runs changed is unknown. Take the means of the "
                "differences: ds.dde.difference_to_base().dde.mean_over(...)."
            )
        return dataset
    if min_count is not None and band is None:
        raise SelectionError(
            f"min_count={min_count} counts the runs of a mean, and without band= no mean is drawn. "
            "Pass band='seed' or band='replicate' too, or leave min_count= out."
        )
    dataset = metrics_alone(dataset, metrics)
    if relative_to:
        dataset = difference_to_base(dataset)
    if band is None:
        return dataset
    rule = axis_of(dataset)
    if x in AXES and AXES[x].by == "run" and (rule is None or rule.name != x):
        # A mean is of runs at the same place of the picture's axis, on which each run has its own tokens.
        dataset = align(dataset, axis=x)
    return mean_over(dataset, band, min_count)


def _band_words(dataset: xr.Dataset, band: str | Sequence[str] | None) -> str:
    """Return what means are over and what their band spans, "" where there are none."""
    if MEMBERS in dataset.coords:
        # Without their attributes, means do not say what they are over nor what their interval is.
        over, interval = dataset.attrs.get(AVERAGED_OVER, "run"), dataset.attrs.get("interval", "")
    elif band:
        over, interval = band if isinstance(band, str) else ", ".join(band), 0.95
    else:
        return ""
    words = " and ".join(f"{name.strip()}s" for name in str(over).split(","))
    if interval == "none":
        return f"{words}|"
    return f"{words}|{f'{float(interval):.0%} ' if interval != '' else ''}interval of the mean"


def _names(dataset: xr.Dataset, y: str | Sequence[str] | None) -> list[str]:
    if y is None:
        y = [str(name) for name in dataset.data_vars][:1]
    names = [y] if isinstance(y, str) else list(y)
    if not names:
        raise SelectionError("the Dataset holds no metric, so there is nothing to draw. Open it with metrics=[...].")
    return names


def _check_coordinates(dataset: xr.Dataset, x: str, own: str, by: dict[str, str | None]) -> None:
    along = [str(n) for n, c in dataset.coords.items() if own in c.dims and c.dtype.kind in "fiu"]
    check_names({"x": x}, [*AXES, *along], f"no axis, and does not run along {own}, so no curve can be drawn over it")
    others = [str(name) for name in dataset.coords if name not in along]
    why = "no coordinate that whole runs have, so curves can't be told apart by it"
    check_names({"facet_by": by.pop("facet_by")}, others, why)
    check_names(by, [*others, "checkpoint_type"], why)


def _check_count(facet_by: str | None, facets: int, width: int) -> None:
    if facets > _MOST_ROWS or facets * width > _MOST_PANELS:
        what = f"facet_by={facet_by!r} has {facets} values" if facets > 1 else "the picture has one facet"
        raise SelectionError(
            f"{what} of {width} panels, more rows of panels than can be looked at. Select fewer with ds.dde.sel(...), "
            "draw fewer metrics, or pass zoom=False, facet_by=None or another coordinate."
        )


def _lacks(segment: Segment, facet_by: str | None) -> bool:
    """Return whether a segment has nothing of a coordinate, and belongs to no panel of a value of it."""
    is_everywhere = segment.is_base and facet_by not in segment.of_lineage
    return bool(facet_by) and not is_everywhere and not is_given(value_of(segment, facet_by or ""))


def _is_in(segment: Segment, facet_by: str | None, facet: object) -> bool:
    if facet_by is None:
        return True
    # A base has no treatment: it belongs to the runs of every treatment.
    return bool(value_of(segment, facet_by) == facet) or (segment.is_base and facet_by not in segment.of_lineage)
