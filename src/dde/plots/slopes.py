"""Plot slopes: the value of each run before and after post-training, joined by a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from dde.analysis.footing import Place
from dde.analysis.intervals import Interval
from dde.analysis.options import names_of
from dde.errors import SelectionError
from dde.plots.axis_format import padded_range
from dde.plots.backends.base import Backend, BackendName
from dde.plots.backends.choice import drawing_with
from dde.plots.colours import EDGE, INK, NEUTRAL, PRIMARY, is_given, markers_of
from dde.plots.curves import columns_for_facets
from dde.plots.defaults import AUTO, check_names, default_hue, hue_label, known_labels
from dde.plots.direct_labels import places_of_labels
from dde.plots.figure_layout import FRAME_PIXELS_PER_INCH, Axis, Frame, PanelLayout, arrange
from dde.plots.figures import Content, draw_figure
from dde.plots.hue_legend import hue_legend
from dde.plots.legends import Legend, LegendEntry, text_width_inches
from dde.plots.option_docs import with_picture_options
from dde.plots.panels import coloured_lines, framed
from dde.plots.picture_options import LegendPlace, Limits, Order, Palette, PictureOptions
from dde.plots.redrawing import redrawable
from dde.plots.run_values import (
    Means,
    RunValues,
    caption_of_means,
    changes_of,
    labels_of,
    means_of,
    metric_texts,
    metrics_in_panels,
    metrics_words,
    not_drawn_words,
    place_in_words,
    require_drawable,
    resolve_over,
    short_names,
    varying_names,
)

__all__ = ["plot_slopes"]

# Pixels of a line of a label and of the gap before it; the largest share of a frame that labels may take.
_LINE_PIXELS, _GAP_PIXELS, _MOST_SHARE = 15, 26, 0.75
_WIDTH = 210
# With more lines than this, labels are a column of text that no reader follows to its lines.
_MOST_LABELS = 40
# Longest label, in letters.
_LONGEST = 52


@redrawable
@with_picture_options
def plot_slopes(
    dataset: xr.Dataset,
    metric: str | Sequence[str] | None = None,
    *,
    at: Place | None = None,
    hue_by: str | None = AUTO,
    label_by: str | Sequence[str] | None = AUTO,
    over: str | Sequence[str] | None = None,
    interval: Interval = "t",
    level: float = 0.95,
    max_distance: float | None = 0.05,
    log_y: bool = False,
    backend: BackendName = "bokeh",
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
    """Draw a slope chart of post-training: the value of each run's base, and that of the run, joined by a line.

    The value before is the last one of the base at the point where the chain of runs left it; the value after is that
    of the run at its end. There is a panel for each metric. Lines have labels at their right ends, moved apart so that
    they don't overlap; where there are more lines than fit, only colours distinguish them.

    Parameters
    ----------
    dataset : xarray.Dataset
        As returned by :func:`dde.open_lineages`, a selection or a sweep of it, or saved and opened again. The bases
        need not be in it.
    metric : str or several, optional
        Names, aliases, patterns such as ``"*"``, or ``"olmes"`` for the tasks of OLMES, in their order. The first
        metric when None.
    at : {"schedule", "last", "common"}, float or mapping, optional
        Place of the value after, as of :func:`dde.plots.final.plot_final`. The caption counts runs that have no value
        there, or whose base has none.
    hue_by : str or None, default "auto"
        Coordinate that gives lines their colour; when "auto", that of :func:`dde.plots.curves.plot_curves`.
    label_by : str, several or None, default "auto"
        Coordinates that the labels of lines consist of; when "auto", those in which runs differ. None for no labels.
    over : str, several or None
        Factors to average over, such as "seed", with the interval of both means as bars. Each run has a line when None.
    interval : {"t", "bootstrap", "none"}, default "t"
        Of means of at least two runs.
    level : float, default 0.95
        Confidence level of the interval.
    max_distance : float or None, default 0.05
        Largest distance of the base's last value from the branch, as a share of its tokens there; None for any.
    log_y : bool, default False
    backend : {"bokeh", "matplotlib"}
    columns : int, optional
        Maximum number of panels in a row.
    frame_size : tuple of int, optional
        Width and height of a panel, in pixels; when None, they follow from the labels.

    Returns
    -------
    holoviews.Layout

    Raises
    ------
    UnknownNameError
        When a metric, coordinate, place, interval or backend does not exist.
    SelectionError
        When no run started from a base or has values before and after, means would be of runs that end at different
        tokens, or there are more panels than can be looked at.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="150M", metrics=["arc_easy", "piqa"])
    >>> picture = ds.dde.plot_slopes(["arc_easy", "piqa"], hue_by="data", backend="matplotlib")
    """
    options = PictureOptions.of(locals())
    names = metrics_in_panels(dataset, metric)
    found = changes_of(dataset, names, at, max_distance)
    means = means_of(found, resolve_over(found, over), interval, level)
    if means.rows.empty:
        raise SelectionError(
            f"no run has a value of {', '.join(names)} {place_in_words(found.place)} and one of its base before "
            f"({found.left_out or 'no runs'}), so there is nothing to draw. Pass at='last', allow bases that were "
            "observed further away with max_distance=None, or select other runs."
        )
    hue_by = default_hue(dataset, hue_by)
    by = _label_names(means, found, label_by)
    known = [str(n) for n in means.rows.columns if n != "members"]
    why = "not a coordinate of runs, so it can't distinguish them"
    for argument, name in [("hue_by", hue_by), *(("label_by", n) for n in by)]:
        check_names({argument: name}, known, why)
    options.check_order(hue_by, [])
    options.check_labels(known_labels(dataset, [*names, "before", "after"], [hue_by, *by]))
    texts = labels_of(means.rows, by, short_names(by), options.label) if by else []
    with drawing_with(backend) as drawing:
        return _drawn(dataset, found, means, texts, hue_by, log_y, options, drawing, columns, frame_size)


def _label_names(means: Means, found: RunValues, label_by: str | Sequence[str] | None) -> list[str]:
    if label_by is None:
        return []
    return varying_names(means, found.factors) if label_by == AUTO else list(names_of("label_by", label_by))


@dataclass(frozen=True)
class _Line:
    """A line: its values before and after with their bounds, its colour, and texts.

    Attributes
    ----------
    values, low, high : (before, after)
        Bounds are NaN where there are none.
    colour : str
    label : str
        At its right end; "" for none.
    what, note : str
        For a tooltip.
    """

    values: tuple[float, float]
    low: tuple[float, float]
    high: tuple[float, float]
    colour: str
    label: str
    what: str
    note: str


def _lines(
    means: Means, k: int, texts: Sequence[str], hue_by: str | None, colours: Mapping[Any, str], plain: str
) -> list[_Line]:
    """Return the lines of a metric."""
    ends = ("before", "value")
    lines = []
    for g, facts in enumerate(means.rows.to_dict("records")):
        values, low, high = (
            (float(part[ends[0]][k, g]), float(part[ends[1]][k, g])) for part in (means.mean, means.low, means.high)
        )
        if not np.isfinite(values).all():
            continue
        count = int(means.count[k, g])
        what = ", ".join(str(facts[c]) for c in ("lineage", "run") if is_given(facts.get(c)))
        note = f"mean of {count} runs" if count > 1 else str(facts["run_id"])
        shade = facts[hue_by] if hue_by else ""
        label = texts[g] if texts else ""
        lines.append(_Line(values, low, high, colours.get(shade, plain), label, what, note))
    return lines


def _drawn(
    dataset: xr.Dataset,
    found: RunValues,
    means: Means,
    texts: Sequence[str],
    hue_by: str | None,
    log_y: bool,
    options: PictureOptions,
    backend: Backend,
    columns: int | None,
    frame_size: tuple[int, int] | None,
) -> Any:
    colours = options.colours(hue_by, means.rows[hue_by]) if hue_by else {}
    plain = NEUTRAL if colours else options.plain(PRIMARY)
    ticks = tuple((float(k), options.label(t, t)) for k, t in enumerate(("before", "after")))
    contents, most, hidden = [], 0, 0
    texts = [t if len(t) <= _LONGEST else f"{t[: _LONGEST // 2]}…{t[-(_LONGEST // 2 - 2) :]}" for t in texts]
    for k, name in enumerate(found.names):
        lines = _lines(means, k, texts, hue_by, colours, plain)
        shown = [line for line in lines if not log_y or min(line.values) > 0]
        hidden += len(lines) - len(shown)
        if not shown:
            continue
        most = max(most, len(shown))
        heading, label = metric_texts(dataset, name, len(found.names) > 1, options)
        values = [v for line in shown for v in (*line.values, *line.low, *line.high)]
        frame = Frame(
            Axis("before_and_after", "", limits=(-0.15, 1.15), ticks=ticks),
            Axis(name, label, log_y, limits=padded_range(values, log=log_y)),
        )
        contents.append(Content(frame, heading, _drawing(shown, heading, backend)))
    infinite = int((np.isinf(means.mean["before"]) | np.isinf(means.mean["value"])).sum())
    not_drawn = not_drawn_words("line", infinite, hidden)
    require_drawable(contents, not_drawn, "log_y" if hidden else "")
    usual_size = _WIDTH + int(max(map(text_width_inches, texts), default=0) * FRAME_PIXELS_PER_INCH), 260
    has_labels = bool(texts) and most <= _MOST_LABELS
    height = int(max((_LINE_PIXELS + 1) * most, usual_size[1])) if has_labels else 320
    grid = arrange([[c] for c in contents], columns or min(columns_for_facets(len(contents), 1), 3 if texts else 5))
    more = []
    if colours and any(not is_given(v) for v in means.rows[hue_by or ""]):
        more.append(LegendEntry("none", backend.line(plain)))
    if means.interval:
        more.append(LegendEntry(means.interval.partition(" (")[0], backend.line(INK)))
    drawn_legend = hue_legend(hue_label(dataset, hue_by, options), colours, options, backend, more)
    place = f"of the base where runs left it and {place_in_words(found.place)}"
    subject = f"{metrics_words(dataset, found.names, options)}, {place}"
    text = caption_of_means(subject, found, means, not_drawn)
    return draw_figure(grid, frame_size or (usual_size[0], height), drawn_legend, text, options, backend)


def _drawing(lines: Sequence[_Line], title: str, backend: Backend) -> Any:
    """Return the function that draws a panel, with room for labels as its size allows."""

    def draw(frame: Frame, layout: PanelLayout, legend: Legend) -> Any:
        scale = layout.around.scale
        labelled = [line for line in lines if line.label]
        places = places_of_labels(
            [line.values[1] for line in labelled], frame.y, layout.size[1], _LINE_PIXELS * scale
        )  # fmt: skip
        widest = max((text_width_inches(line.label) for line in labelled), default=0.0)
        share = (widest * FRAME_PIXELS_PER_INCH * scale + _GAP_PIXELS) / layout.size[0]
        if not labelled or len(labelled) > _MOST_LABELS or places is None or share > _MOST_SHARE:
            places, share = [], 0.1
        left = 0.12
        # The lines take what labels leave.
        frame = frame.with_limits(x_range=(-left, (1 + left) / (1 - share) - left))
        elements = _elements(lines, frame, backend)
        elements += _labels(labelled, places, frame, layout, backend) if places else []
        return framed(elements, frame, backend, layout, legend, title)

    return draw


def _elements(lines: Sequence[_Line], frame: Frame, backend: Backend) -> list[Any]:
    """Return lines, bars of intervals and points at both ends."""
    import holoviews as hv

    dims = [hv.Dimension(axis.name) for axis in (frame.x, frame.y)]
    crowd = len(lines)
    bars = []
    # Bars at one place would hide each other.
    has_bars = crowd > 1 and any(np.isfinite(line.low).any() for line in lines)
    shifts = (np.linspace(-0.04, 0.04, crowd) if has_bars else np.zeros(crowd)).tolist()
    for line, shift in zip(lines, shifts, strict=True):
        low = frame.y.drawable(np.array(line.low)).tolist()
        for x, (a, b) in enumerate(zip(low, line.high, strict=True)):
            if np.isfinite(a) and np.isfinite(b):
                bars.append(([x + shift, x + shift], [a, b], line.colour))
    paths = [([s, 1.0 + s], list(line.values), line.colour) for line, s in zip(lines, shifts, strict=True)]
    tooltips = [("", "@what"), (frame.y.label, f"@{{{dims[1].name}}}{{0.0000}}"), ("", "@note")]
    points = [
        (x + s, line.values[x], line.colour, line.what, line.note)
        for line, s in zip(lines, shifts, strict=True)
        for x in (0, 1)
    ]
    look = backend.points("colour", markers_of([""], backend.name)[""], False, tooltips, crowd)
    return [
        *coloured_lines(dims, paths, backend.line("colour", crowd=crowd)),
        *coloured_lines(dims, bars, backend.line("colour")),
        hv.Points(points, dims, ["colour", "what", "note"]).opts(**look),
    ]


def _labels(
    lines: Sequence[_Line], places: Sequence[float], frame: Frame, layout: PanelLayout, backend: Backend
) -> list[Any]:
    """Return the labels at the right ends of lines, joined with them."""
    import holoviews as hv

    dims = [hv.Dimension(axis.name) for axis in (frame.x, frame.y)]
    low, high = frame.x.span()
    unit = (high - low) / layout.size[0]
    joints = [
        ([1 + 5 * unit, 1 + (_GAP_PIXELS - 6) * unit], [line.values[1], place], EDGE)
        for line, place in zip(lines, places, strict=True)
    ]
    texts = [
        (1 + (_GAP_PIXELS - 4) * unit, place, backend.literal_text(line.label))
        for line, place in zip(lines, places, strict=True)
    ]
    labels = hv.Labels(texts, dims, "text").opts(**backend.text(INK, align="left"))
    return [*coloured_lines(dims, joints, backend.line("colour", crowd=20)), labels]
