"""Plot curves of pretraining and post-training as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr

from dde.curves.axes import AXES
from dde.dataset.align import align, axis_values
from dde.dataset.averages import mean_over
from dde.dataset.bases import difference_to_base
from dde.dataset.dimensions import axis_of
from dde.dataset.loss_reductions import is_train_loss, warn_of_reductions
from dde.dataset.run_differences import difference_to_run
from dde.dataset.samples import metrics_alone
from dde.errors import SelectionError, UnknownNameError, near_names
from dde.plots.axis_format import axis_label, padded_range
from dde.plots.backends.base import Backend, BackendName
from dde.plots.backends.choice import drawing_with
from dde.plots.colours import NEUTRAL, PRIMARY, is_given, label_of, markers_of
from dde.plots.curve_caption import band_words, curves_caption, label_of_curves
from dde.plots.curve_legend import KINDS, curve_legend
from dde.plots.curve_options import CurveOptions
from dde.plots.curve_segments import Segment, lineages_of, run_blocks, segments_by_metric
from dde.plots.defaults import (
    check_names,
    default_hue,
    facet_title,
    hue_label,
    known_labels,
    ordered_facets,
    task_of,
)
from dde.plots.figure_layout import FRAME_PIXELS_PER_INCH, PanelLayout, arrange
from dde.plots.figures import Content, draw_figure
from dde.plots.grouped import group_segments
from dde.plots.legends import Legend
from dde.plots.metric_order import metrics_to_draw
from dde.plots.option_docs import with_picture_options
from dde.plots.panels import Axis, Frame, Look, Panel, enlarged_range, value_of, x_values, y_values
from dde.plots.picture_options import NO_OPTIONS, LegendPlace, Limits, Order, Palette, PictureOptions
from dde.plots.redrawing import redrawable
from dde.plots.times import as_numbers
from dde.schema import AVERAGED_OVER, MEMBERS, is_datadecide

__all__ = [
    "CurveFinder",
    "Scale",
    "columns_for_facets",
    "curve_panels",
    "labelled_below",
    "metric_panels",
    "plot_curves",
    "titled",
]

# Share of the enlarged panel in which the base before the branch is drawn.
_BEFORE = 0.26
_MOST_IN_ROW = 6
# The base before the branch is below zero, which a logarithmic axis can't show.
_LINEAR = " (linear)"


@dataclass(frozen=True)
class Scale:
    """The axes of a picture."""

    x: str
    log_x: bool
    log_y: bool
    zooms: bool
    is_difference: bool


def metric_panels(
    dataset: xr.Dataset,
    metric: str,
    segments: list[Segment],
    look: Look,
    scale: Scale,
    mark_branches: bool,
    options: PictureOptions = NO_OPTIONS,
    spans: Mapping[str, tuple[float, float]] = MappingProxyType({}),
) -> list[Panel]:
    """Return the panels of one metric with the segments of all facets, so that facets share their ranges.

    Parameters
    ----------
    dataset : xarray.Dataset
    metric : str
    segments : list of Segment
    look : Look
    scale : Scale
    mark_branches : bool
    options : PictureOptions
    spans : mapping of str to (float, float)
        Limits of horizontal axes by their names; others follow from the segments.
    """
    x = axis_values(dataset, scale.x) if scale.x in AXES else dataset[scale.x]
    along = Axis(scale.x, options.label(scale.x, axis_label(x)), scale.log_x)
    up = Axis(metric, options.label(metric, label_of_curves(dataset[metric])), scale.log_y)
    made: list[Panel] = []
    derived = [s for s in segments if not s.is_base]
    window = None
    if scale.zooms and derived:
        units = str(x.attrs.get("units", ""))
        since = f"{units or scale.x} since the branch{_LINEAR if scale.log_x else ''}"
        frame = Frame(
            Axis(f"{scale.x}_since_branch", options.label(f"{scale.x}_since_branch", since)),
            replace(up, name=f"{metric}_since_branch"),
            since_branch=True,
        )
        panel = Panel(segments, look, frame, mark_branches=mark_branches, zero=scale.is_difference)
        joined = any(s.is_base or s.anchor for s in segments)
        x_range = spans.get(frame.x.name) or enlarged_range(panel.shifted_segments(), _BEFORE if joined else 0.04)
        y_range = _y_range(panel.shifted_segments(), *x_range, scale)
        made = [replace(panel, frame=frame.with_limits(x_range, y_range))]
        origins = {s.origin for s in derived}
        if len(origins) == 1 and y_range is not None:
            (origin,) = origins
            left = max(x_range[0] + origin, min(x_values((s, 0.0) for s in segments)))
            window = (left, y_range[0], x_range[1] + origin, y_range[1])
    if not made or any(s.is_base for s in segments):
        shifted = [(s, 0.0) for s in segments]
        positions = x_values(shifted)
        limits = padded_range(positions, 0.04, log=scale.log_x)
        if scale.x in AXES and AXES[scale.x].by == "run" and not scale.log_x and any(s.anchor for s in segments):
            # Make room for connections that start shortly before the branch.
            before = [s.anchor[0] for s in segments if s.anchor and s.anchor[0] < 0]
            reach = float(positions.max())
            near = [b - 0.04 * (reach - b) for b in before if b >= -reach]
            limits = (min([-_BEFORE / 2 * reach, *near]), limits[1]) if limits else None
        limits = options.limits("x", spans.get(scale.x) or limits, scale.log_x)
        y_range = _y_range(shifted, *(limits or (-np.inf, np.inf)), scale)
        frame = Frame(along, up, window=window).with_limits(limits, y_range)
        made.insert(0, Panel(segments, look, frame, mark_branches=mark_branches, zero=scale.is_difference))
    return made


def _y_range(
    shifted: Sequence[tuple[Segment, float]], left: float, right: float, scale: Scale
) -> tuple[float, float] | None:
    values = y_values(shifted, left, right)
    if scale.is_difference:
        values = np.append(values, 0.0)
    return padded_range(values, log=scale.log_y)


def columns_for_facets(facets: int, width: int) -> int:
    """Return the number of panels in a row when each facet has `width` panels."""
    if width > _MOST_IN_ROW:
        return 5 if width % 5 == 0 else 4
    if width == 1:
        return facets if facets < 4 else 2 if facets == 4 else 3 if facets <= 9 else 4
    # A few facets are stacked, so that their axes can be compared.
    return 4 if width == 2 and facets > 3 else width


def titled(
    dataset: xr.Dataset,
    panels: list[Panel],
    title: str,
    by_task: bool,
    alone: bool,
    options: PictureOptions = NO_OPTIONS,
) -> list[Panel]:
    """Return the panels of a facet with titles: on the first one only, or with `by_task` the task of each."""
    if not by_task:
        return [replace(p, title=title if k == 0 else "") for k, p in enumerate(panels)]
    named = []
    for panel in panels:
        metric = panel.frame.y.name.removesuffix("_since_branch")
        task, measure = task_of(dataset[metric])
        task = options.label(metric, task)
        facet = "" if alone and title.endswith(" lineages") else f", {title}"
        frame = replace(panel.frame, y=replace(panel.frame.y, label=measure))
        named.append(replace(panel, title=f"{task}{facet}", frame=frame))
    return named


def labelled_below(rows: list[list[Panel]]) -> list[list[Panel]]:
    """Return rows without x labels on panels that have another panel below them."""
    return [
        [
            replace(panel, frame=replace(panel.frame, x=replace(panel.frame.x, label="")))
            if i + 1 < len(rows) and j < len(rows[i + 1])
            else panel
            for j, panel in enumerate(row)
        ]
        for i, row in enumerate(rows)
    ]


# A picture of more facets or panels is unreadable, and takes minutes to draw.
_MOST_ROWS, _MOST_PANELS = 64, 128
# With more facets or metrics, zoomed panels are left out; with more panels, panels are small.
_MOST_PAIRS, _MOST_METRICS, _MOST_LARGE = 8, 3, 6
_SINGLE, _LARGE, _SMALL = (480, 320), (330, 230), (240, 165)


@redrawable
@with_picture_options
def plot_curves(
    dataset: xr.Dataset,
    y: str | Sequence[str] | None = None,
    x: str | None = None,
    *,
    hue_by: str | None = "auto",
    style_by: str | None = "checkpoint_type",
    facet_by: str | None = "lineage",
    band: str | Sequence[str] | None = None,
    group_by: str | None = None,
    min_count: int | None = None,
    relative_to: str | None = None,
    smooth: float | None = None,
    clip_outliers: float | bool = False,
    highlight: str | Sequence[str] | None = None,
    backend: BackendName = "bokeh",
    log_x: bool | None = None,
    log_y: bool = False,
    zoom: bool | None = None,
    mark_branches: bool = True,
    columns: int | None = None,
    frame_size: tuple[int, int] | None = None,
    title: str | None = None,
    labels: Mapping[str, str] | None = None,
    palette: Palette | None = None,
    order: Order | None = None,
    size: tuple[float, float] | None = None,
    font_size: float | None = None,
    xlim: Limits | None = None,
    ylim: Limits | None = None,
    legend: LegendPlace = "right",
    caption: bool | str = True,
) -> Any:
    """Draw curves of lineages, pretraining and post-training joined.

    A base is drawn once, in grey where it has no value of the hue, and each derived run in its colour from its
    branch on. Points are observations, lines interpolate between them; a training log is a line alone. A
    dashed line connects the first evaluation of a run to the last one of its parent; there is no data between them.

    Parameters
    ----------
    dataset : xarray.Dataset
        As returned by :func:`dde.open_lineages`, a selection of it, or saved and opened again; aligned on another
        axis; a sweep; or means (``ds.dde.mean_over``), which are drawn with their interval.
    y : str or several
        Metrics, with a column of panels for each; the first metric of the Dataset when None. Patterns such as ``"*"``
        are in the order of the OLMES tasks, ``"olmes"`` is these tasks, and names stay where they are listed.
    x : str, optional
        ``cumulative_tokens``, ``cumulative_compute``, ``tokens_per_parameter``, ``fraction_of_training``,
        ``post_tokens``, or another coordinate along the axis of the Dataset; that axis when None. On
        ``post_tokens`` and ``fraction_of_training`` each run starts at its own branch.
    hue_by : str or None
        Coordinate that gives runs their colour: an ordered map for numbers and model sizes, distinct colours for
        other names. When "auto", the learning rate; in suites other than DataDecide, the first factor in which runs
        differ and which at least half of them have, else the label of runs.
    style_by : str or None
        Coordinate that gives observations their marker; ``checkpoint_type`` is the type of the
        run that was training.
    facet_by : str or None
        Coordinate with separate panels for each value; None for no facets.
    band : str or several, optional
        Draw means over "seed" or "replicate", in other suites over any factor, with their 95 % interval as a band.
    group_by : str, optional
        Draw the mean of all runs with the same value of a coordinate, whatever else they differ in, with the range from
        the lowest to the highest as a band. Each value has a colour; run types stay apart.
    min_count : int, optional
        With `band`: number of runs that must have a value for the mean to be drawn. When None, all of them, so a
        mean ends where the first of its runs does. Where only some runs have a value, the line is dash-dotted, and
        the legend says so.
    relative_to : str, optional
        "base" draws the change due to post-training: the difference to the base at the point where runs left it. The
        id of a run (``run_id``) draws the difference to that run at the same position on the axis.
    smooth : float, optional
        Draw exponential means over this span in tokens, as :func:`dde.analysis.smooth` gives them, with the curves
        themselves faint behind.
    clip_outliers : float or bool, default False
        Limit y to what most values need: to the quantiles at this share of the values, 0.02 when True, and half of
        their distance beyond. A note below a panel states the number and extent of values outside.
    highlight : str or several, optional
        Runs (by label or id) or lineages that are drawn strong and on top of all others, which are pale.
    backend : {"bokeh", "matplotlib"}
        Bokeh for exploration (with a tooltip for each cell), Matplotlib for print. It becomes HoloViews' current
        backend.
    log_x, log_y : bool, optional
        Logarithmic axes; x omits the point at zero, y omits values that are not positive, with a warning.
    zoom : bool, optional
        Add a panel beside each one that enlarges the curves after the branch. A metric that the bases don't have is
        shown only there. When None, with up to three metrics and eight facets, over tokens or compute.
    mark_branches : bool, default True
        Mark the points at which runs branch off.
    columns : int, optional
        Maximum number of panels in a row.
    frame_size : tuple of int, optional
        Width and height of a panel, in pixels; the default is smaller for many panels.

    Returns
    -------
    holoviews.Layout
        Displays itself in a notebook; ``hv.save`` and ``hv.render`` write it. The points of many curves are thinned
        to the visible resolution, retaining extremes, and the caption says so.

    Raises
    ------
    UnknownNameError
        When a metric, coordinate, axis or backend does not exist.
    SelectionError
        When no cell has a value.
    SourceError
        When a coordinate, or the attribute that names the sampling of a metric, is missing.

    Warns
    -----
    DdeWarning
        When cells are infinite, or not positive on a logarithmic axis: states how many are not drawn.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="150M", metrics=["arc_easy", "piqa"])
    >>> picture = ds.dde.plot("arc_easy", backend="matplotlib")
    >>> gain = ds.dde.plot("arc_easy", relative_to="base", x="post_tokens", facet_by="data")
    >>> tasks = ds.dde.plot(["arc_easy", "piqa"], zoom=False, facet_by=None, hue_by="data")
    """
    options = PictureOptions.of(locals())
    rows = curve_panels(
        dataset, y, x, hue_by=hue_by, style_by=style_by, facet_by=facet_by, band=band, group_by=group_by,
        min_count=min_count, relative_to=relative_to, log_x=bool(log_x), log_y=log_y, zoom=zoom,
        smooth=smooth, clip_outliers=clip_outliers, highlight=highlight, mark_branches=mark_branches, columns=columns,
        backend=backend, options=options,
    )  # fmt: skip
    rows, options = _with_shared_title(rows, options)
    panels = [panel for row in rows for panel in row]
    is_large = len(panels) <= _MOST_LARGE and max(map(len, rows)) <= 3
    frame = frame_size or (_SINGLE if len(panels) == 1 else _LARGE if is_large else _SMALL)
    width = _frame_width(rows, frame, options)
    is_thinned = any(panel.is_thinned(width) for panel in panels)
    text = curves_caption(dataset, rows, band, group_by, relative_to, smooth, is_thinned, options)
    with drawing_with(backend) as drawing:
        # One legend for all panels.
        words = band_words(dataset, band, group_by)
        found = _relabelled(curve_legend(panels, drawing, words), panels[0].look, options)
        contents = [[_content(panel, drawing) for panel in row] for row in rows]
        return draw_figure(contents, frame, found, text, options, drawing)


def _with_shared_title(rows: list[list[Panel]], options: PictureOptions) -> tuple[list[list[Panel]], PictureOptions]:
    """Return panels of many tasks with the tasks alone as titles, and options with what the panels share as title."""
    panels = [panel for row in rows for panel in row]
    # Titles are a task, then the facet.
    facets = {panel.title.partition(", ")[2] for panel in panels}
    tasks = {panel.frame.y.name for panel in panels}
    if options.title is not None or len(tasks) <= _MOST_METRICS or len(facets) > 1 or facets == {""}:
        return rows, options
    short = [[replace(panel, title=panel.title.partition(", ")[0]) for panel in row] for row in rows]
    return short, replace(options, title=facets.pop())


def _content(panel: Panel, backend: Backend) -> Content:
    def draw(frame: Frame, layout: PanelLayout, legend: Legend) -> Any:
        return replace(panel, frame=frame).draw(backend, layout, legend)

    return Content(panel.frame, panel.title, draw)


def _relabelled(legend: Legend, look: Look, options: PictureOptions) -> Legend:
    """Return a legend with the labels of the options for the values of hue and style."""
    names = options.names([*look.colours, *look.markers])
    texts = {label_of(value): text for value, text in names.items()} | options.names([e.label for e in legend.entries])
    return legend.with_texts(lambda text: texts.get(text, text))


def _frame_width(rows: Sequence[Sequence[Panel]], size: tuple[int, int], options: PictureOptions) -> int:
    """Return the width of frames in pixels, about that of a picture of a given size."""
    inches = options.inches()
    return size[0] if inches is None else int(inches[0] * FRAME_PIXELS_PER_INCH / max(map(len, rows)))


class CurveFinder:
    """Read a Dataset in blocks of lineages and find its curves; a page has one that remembers both."""

    def blocks(self, dataset: xr.Dataset) -> Iterable[xr.Dataset]:
        """Return a Dataset in blocks, as :func:`dde.plots.curve_segments.run_blocks` yields them."""
        return run_blocks(dataset)

    def find(
        self,
        blocks: Iterable[xr.Dataset],
        metrics: Sequence[str],
        x: str,
        positive: bool,
        positive_values: bool,
        lineages: Sequence[str],
    ) -> dict[str, list[Segment]]:
        """Return the segments of metrics, as :func:`dde.plots.curve_segments.segments_by_metric` does."""
        return segments_by_metric(blocks, metrics, x, positive, positive_values, lineages)


def curve_panels(
    dataset: xr.Dataset,
    y: str | Sequence[str] | None = None,
    x: str | None = None,
    *,
    hue_by: str | None = "auto",
    style_by: str | None = "checkpoint_type",
    facet_by: str | None = "lineage",
    band: str | Sequence[str] | None = None,
    group_by: str | None = None,
    min_count: int | None = None,
    relative_to: str | None = None,
    smooth: float | None = None,
    clip_outliers: float | bool = False,
    highlight: str | Sequence[str] | None = None,
    log_x: bool = False,
    log_y: bool = False,
    zoom: bool | None = None,
    mark_branches: bool = True,
    columns: int | None = None,
    backend: BackendName = "bokeh",
    finder: CurveFinder | None = None,
    options: PictureOptions = NO_OPTIONS,
) -> list[list[Panel]]:
    """Return the panels of :func:`plot_curves` before they are drawn, in rows.

    A page passes a `finder` that remembers what was read and found.
    """
    metrics = metrics_to_draw(dataset, y)
    # A pattern may match hundreds; they would be read before the panels are counted.
    _check_count(None, 1, len(metrics))
    rule = axis_of(dataset)
    dataset_axis = rule.name if rule else "cumulative_tokens"
    x = x or dataset_axis
    hue_by = group_by or default_hue(dataset, hue_by)
    _check_coordinates(dataset, x, dataset_axis, {"hue_by": hue_by, "style_by": style_by, "facet_by": facet_by})
    if group_by and band is not None:
        raise SelectionError(
            f"group_by={group_by!r} and band={band!r} both draw means, of different runs. Pass one of them."
        )
    curve_options, finder = CurveOptions.of(smooth, clip_outliers, highlight), finder or CurveFinder()
    lineages = lineages_of(dataset)

    def prepared(part: xr.Dataset, is_smooth: bool) -> xr.Dataset:
        part = _with_numbers(part, metrics, x)
        part = curve_options.smoothed(part, metrics) if is_smooth else part
        return _prepared(part, metrics, x, band, group_by, min_count, relative_to)

    def found(is_smooth: bool) -> tuple[xr.Dataset, dict[str, list[Segment]]]:
        if (is_smooth or relative_to == "base") and _is_by_lineage(band, group_by, relative_to, x, dataset_axis):
            # Of many lineages with few runs, this takes a small part of the memory.
            parts = [prepared(block, is_smooth) for block in finder.blocks(dataset)]
            drawn, blocks = parts[0], iter(parts)
        else:
            drawn = prepared(dataset, is_smooth)
            blocks = iter(finder.blocks(drawn))
        segments = finder.find(blocks, metrics, x, log_x, log_y, lineages_of(drawn) if band else lineages)
        if group_by:
            segments = {m: group_segments(parts, group_by, facet_by, min_count) for m, parts in segments.items()}
        # Bases have no change from themselves.
        is_change = relative_to == "base"
        if is_change:
            hidden.update(
                (value_of(s, style_by or ""), None) for parts in segments.values() for s in parts if s.is_base
            )
        return drawn, {m: [s for s in parts if not (s.is_base and is_change)] for m, parts in segments.items()}

    # Styles of curves that may not be drawn: the others have the same markers as in a picture with those.
    hidden: dict[Any, None] = dict.fromkeys(KINDS if style_by == "checkpoint_type" and is_datadecide(dataset) else ())

    behind = {} if smooth is None else found(False)[1]
    drawn, segments = found(smooth is not None)
    all_segments = [s for of_metric in segments.values() for s in of_metric]
    if not all_segments:
        without = " Bases alone have no change from the base." if relative_to == "base" else ""
        if x in AXES and AXES[x].by == "run":
            without = f" On {x} points are counted from the branch of a run, so bases and cells before it have none."
        raise SelectionError(
            f"no cell of {', '.join(metrics)} has a value, so there is nothing to draw.{without} "
            "Select other runs or metrics; repository.coverage() says what each run has."
        )
    curve_options.check_highlight(all_segments)
    for metric in filter(lambda m: is_train_loss(drawn[m]), metrics):
        warn_of_reductions(s.facts.get("reduce_loss", "") for s in segments[metric] if not s.is_base)
    names = [hue_by, style_by, facet_by]
    options.check_order(hue_by, names)
    kinds = [s.kind for s in all_segments]
    options.check_labels(known_labels(dataset, [x, f"{x}_since_branch", *metrics, *kinds], names))
    colours = options.colours(hue_by, (value_of(s, hue_by or "") for s in all_segments))
    styles = [value_of(s, style_by or "") for s in all_segments]
    # A value without a style has a marker as well; its place is where it first appears.
    in_order = options.ordered(style_by, styles) if options.orders(style_by) else []
    markers = markers_of([*in_order, *hidden, *styles], backend)
    look = Look(
        hue_by=hue_by or "",
        style_by=style_by or "",
        colours=colours,
        markers={v: marker for v, marker in markers.items() if v in {*in_order, *styles}},
        hue_label=hue_label(dataset, hue_by, options),
        plain=NEUTRAL if colours else options.plain(PRIMARY),
        highlight=curve_options.highlight,
    )
    # Without any value of the facet, all curves share a panel. "" is a value like any other, except in DataDecide,
    # whose bases have no treatment.
    with_none = not is_datadecide(dataset) and any(_has_no_facet(s, facet_by) for s in all_segments)
    facets = ordered_facets(
        [value_of(s, facet_by) for s in all_segments] if facet_by else [], facet_by, with_none, options
    )
    facet_by = None if facets == [None] else facet_by
    many = len(facets) > _MOST_PAIRS or len(metrics) > _MOST_METRICS
    zooms = (not many if zoom is None else zoom) and not group_by and x in ("cumulative_tokens", "cumulative_compute")
    scale = Scale(x, log_x, log_y, zooms, bool(relative_to))
    metric_columns: list[Panel] = []
    # Axes of one name are linked on a page, so panels of all metrics have the same limits.
    alone = {m: metric_panels(drawn, m, segments[m], look, scale, mark_branches, options) for m in metrics}
    spans = _joint_spans([p.frame.x for panels in alone.values() for p in panels])
    for m, made in alone.items():
        if any(p.frame.x.limits != spans.get(p.frame.x.name) for p in made):
            made = metric_panels(drawn, m, segments[m], look, scale, mark_branches, options, spans)
        made = [replace(p, behind=behind.get(m, ())) for p in made]
        metric_columns += curve_options.ranged(made, scale.is_difference)
    _check_count(facet_by, len(facets), len(metric_columns))
    by_task = len(metrics) > _MOST_METRICS
    of_facets: list[list[Panel]] = []
    for facet in facets:
        of_facet = [curve_options.noted(_in_facet(p, facet_by, facet)) for p in metric_columns]
        is_all = group_by is not None and facet_by is None
        title = "" if is_all else facet_title((s.facts for p in of_facet for s in p.segments), facet_by, facet, options)
        of_facets.append(titled(drawn, of_facet, title, by_task, len(facets) == 1, options))
    rows = arrange(of_facets, columns or columns_for_facets(len(facets), len(metric_columns)))
    return labelled_below(rows) if by_task or (len(rows) > 2 and len(metric_columns) == 1) else rows


def _joint_spans(axes: Iterable[Axis]) -> dict[str, tuple[float, float]]:
    """Return limits for the axes of each name that include those of all of them."""
    spans: dict[str, tuple[float, float]] = {}
    for axis in axes:
        if axis.limits is not None:
            low, high = spans.get(axis.name, axis.limits)
            spans[axis.name] = min(low, axis.limits[0]), max(high, axis.limits[1])
    return spans


def _is_by_lineage(
    band: str | Sequence[str] | None, group_by: str | None, relative_to: str | None, x: str, axis: str
) -> bool:
    """Return whether what is drawn of a lineage follows from that lineage alone."""
    return band is None and relative_to in (None, "base") and (group_by is None or x == axis)


def _prepared(
    dataset: xr.Dataset,
    metrics: list[str],
    x: str,
    band: str | Sequence[str] | None,
    group_by: str | None,
    min_count: int | None,
    relative_to: str | None,
) -> xr.Dataset:
    """Return the Dataset to draw: the metrics, their differences to the base, or their means."""
    if MEMBERS in dataset.coords:
        over = str(dataset.attrs.get(AVERAGED_OVER, "runs"))
        if band is not None and not set([band] if isinstance(band, str) else band) <= set(over.split(", ")):
            raise SelectionError(
                f"the Dataset holds means over {over}, so there is no band={band!r} to draw. Leave out band=, or "
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
    if min_count is not None and band is None and group_by is None:
        raise SelectionError(
            f"min_count={min_count} counts the runs of a mean, and without band= or group_by= no mean is drawn. "
            "Pass band='seed' or group_by='data' too, or leave min_count= out."
        )
    dataset = metrics_alone(dataset, metrics)
    if relative_to == "base":
        dataset = difference_to_base(dataset)
    if band is None and group_by is None and relative_to in (None, "base"):
        return dataset
    rule = axis_of(dataset)
    if x in AXES and (AXES[x].by == "run" or group_by) and (rule is None or rule.name != x):
        # Runs are averaged and compared at the same position on the axis of the picture, on which each run has its own
        # tokens.
        dataset = align(dataset, axis=x)
    if relative_to not in (None, "base"):
        if relative_to not in dataset["run_id"].values:
            raise UnknownNameError(
                f"relative_to={relative_to!r} is neither 'base' nor the id of a run, so there is nothing to show "
                f"differences to.{near_names(relative_to, ['base', *map(str, dataset['run_id'].values.ravel())])} "
                "Pass 'base', or None, or one of ds.run_id."
            )
        dataset = difference_to_run(dataset, relative_to)
    return dataset if band is None else mean_over(dataset, band, min_count)


def _check_coordinates(dataset: xr.Dataset, x: str, axis: str, by: dict[str, str | None]) -> None:
    along = [str(n) for n, c in dataset.coords.items() if axis in c.dims and c.dtype.kind in "fiubmM"]
    check_names({"x": x}, [*AXES, *along], f"not an axis and has no dimension {axis}, so it can't be drawn against")
    others = [str(name) for name in dataset.coords if name not in along]
    why = "not a coordinate of runs, so it can't distinguish curves"
    check_names({"facet_by": by.pop("facet_by")}, others, why)
    check_names(by, [*others, "checkpoint_type"], why)


def _check_count(facet_by: str | None, facets: int, width: int) -> None:
    if facets > _MOST_ROWS or facets * width > _MOST_PANELS:
        subject = f"facet_by={facet_by!r} has {facets} values" if facets > 1 else "the picture has one facet"
        raise SelectionError(
            f"{subject} of {width} panels, more rows of panels than can be looked at. Select fewer with "
            "ds.dde.sel(...), draw fewer metrics, or pass zoom=False, facet_by=None or another coordinate."
        )


def _has_no_facet(segment: Segment, facet_by: str | None) -> bool:
    """Return whether a segment has no value of a facet, and is not a base that belongs to all its panels."""
    is_everywhere = segment.is_base and facet_by not in segment.of_lineage
    return bool(facet_by) and not is_everywhere and not is_given(value_of(segment, facet_by or ""))


def _with_numbers(dataset: xr.Dataset, metrics: Sequence[str], x: str) -> xr.Dataset:
    """Return the Dataset with times and durations of metrics, and of an axis that is not one of AXES, as numbers."""
    numbers = {m: as_numbers(dataset[m]) for m in metrics if dataset[m].dtype.kind not in "biuf"}
    if x not in AXES and dataset[x].dtype.kind not in "biuf":
        dataset = dataset.assign_coords({x: as_numbers(dataset[x])})
    return dataset.assign(numbers)


def _in_facet(panel: Panel, facet_by: str | None, facet: object) -> Panel:
    """Return a panel with the segments of a facet."""
    segments, behind = ([s for s in part if _is_in(s, facet_by, facet)] for part in (panel.segments, panel.behind))
    return replace(panel, segments=segments, behind=behind)


def _is_in(segment: Segment, facet_by: str | None, facet: object) -> bool:
    if facet_by is None:
        return True
    # A base has no treatment: it belongs to the runs of every treatment.
    return bool(value_of(segment, facet_by) == facet) or (segment.is_base and facet_by not in segment.of_lineage)
