"""Picture of what post-training changed: the gain of each derived run, beside zero for its base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from dde.dataset.dimensions import broadcast_values, text_values
from dde.errors import SelectionError
from dde.plots.answers.cells import (
    MOST_PANELS,
    Dot,
    Hue,
    dot_elements,
    interval_entries,
    interval_label,
    labels_in,
    left_out_words,
    metric_names,
    place_words,
    short_label,
    subject_of,
    value_axis,
)
from dde.plots.axis_format import axis_label
from dde.plots.backends.base import Backend, BackendName
from dde.plots.backends.choice import drawing_with
from dde.plots.captions import caption_of, counted, range_text
from dde.plots.colours import INK, is_given, is_number, is_ordered, markers_of
from dde.plots.curves import columns_for_facets
from dde.plots.figure_layout import Axis, Frame, PanelLayout, arrange
from dde.plots.figures import Content, draw_figure
from dde.plots.legends import LegendEntry
from dde.plots.option_docs import with_picture_options
from dde.plots.picture_options import LegendPlace, Limits, Order, Palette, PictureOptions
from dde.plots.redrawing import redrawable
from dde.schema import factors_of

__all__ = ["plot_effect"]

# Most labels of one panel.
_MOST_LABELS = 80


@redrawable
@with_picture_options
def plot_effect(
    answer: xr.Dataset,
    *,
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
    """Draw the gain of each derived run, with a line at zero for its base.

    There is a panel for each type of run and each metric. Runs are on one line per learning rate, or another factor of
    runs in which most differ, else per label; their colour is the size, or the first factor in which lineages differ,
    and their marker the second one.

    Parameters
    ----------
    answer : xarray.Dataset
        As :func:`dde.analysis.effects.effect` returns it, a selection of it, or saved and opened again.
    backend : {"bokeh", "matplotlib"}
    columns : int, optional
        Maximum number of panels in a row.
    frame_size : tuple of int, optional
        Width and height of a panel, in pixels.

    Returns
    -------
    holoviews.Layout

    Raises
    ------
    UnknownNameError
        When the backend does not exist.
    SelectionError
        When no run entered, or there is more than can be looked at.

    Examples
    --------
    >>> import dde
    >>> from dde.analysis.effects import effect
    >>> ds = dde.tutorial.open_lineages("tiny", params="150M", metrics=["arc_easy"])
    >>> picture = plot_effect(effect(ds, "arc_easy"), backend="matplotlib")
    """
    options = PictureOptions.of(locals())
    answer = answer.compute()
    rows = _rows(answer)
    if rows.empty:
        raise SelectionError(
            f"no run has a change from its base, so there is nothing to draw ({left_out_words(answer)}). Select other "
            "runs, ask at another place, at='last', or allow bases that were observed further away: max_distance=..."
        )
    with drawing_with(backend) as drawing:
        return _drawn(answer, rows, drawing, columns, frame_size, options)


def _rows(answer: xr.Dataset) -> pd.DataFrame:
    """Return a row for each gain, with the coordinates of its run as columns."""
    sizes = {str(d): n for d, n in answer.gain.sizes.items()}
    names = ["gain", *(n for n in ("low", "high", "n", "stderr", "base_distance") if n in answer.variables)]
    columns: dict[str, Any] = {n: broadcast_values(answer[n].variable, sizes).ravel() for n in names}
    for name, coordinate in answer.coords.items():
        if name not in columns and set(coordinate.dims) <= set(sizes):
            values = broadcast_values(coordinate.variable, sizes).ravel()
            columns[str(name)] = text_values(values) if values.dtype.kind in "OUT" else values
    rows = pd.DataFrame(columns)
    return rows[rows["gain"].notna()].reset_index(drop=True)


def _category(answer: xr.Dataset, rows: pd.DataFrame) -> str:
    """Return the coordinate whose values are the lines of the picture."""
    factors = [n for n, of in factors_of(answer).items() if of != "lineage" and n != "run_type" and n in rows]
    given = {n: [v for v in rows[n] if is_given(v)] for n in ("learning_rate", *factors) if n in rows}
    for name, values in given.items():
        if len(set(values)) > 1 and len(values) == len(rows) and all(map(is_number, values)):
            return name
    return "run" if "run" in rows else next((str(d) for d in answer.gain.dims if d != "metric"), "metric")


def _lineage_factors(answer: xr.Dataset, rows: pd.DataFrame) -> list[str]:
    """Return factors in which lineages differ: that of the size first."""
    known = [n for n, of in factors_of(answer).items() if of == "lineage" and n in rows]
    varying = [n for n in known if rows[n].nunique() > 1]
    varying.sort(key=lambda n: not (is_ordered(rows[n]) and not all(map(is_number, rows[n]))))
    return varying or (["lineage"] if "lineage" in rows and rows["lineage"].nunique() > 1 else [])


def _drawn(
    answer: xr.Dataset,
    rows: pd.DataFrame,
    backend: Backend,
    columns: int | None,
    frame_size: tuple[int, int] | None,
    options: PictureOptions,
) -> Any:
    import holoviews as hv

    category = _category(answer, rows)
    factors = _lineage_factors(answer, rows)
    hue_by, style_by = [*factors, None, None][:2]
    options.check_order(hue_by, [category, hue_by, style_by, "run_type", "metric"])
    options.check_labels(labels_in(answer))
    markers = markers_of(options.ordered(style_by, rows[style_by]) if style_by else [""], backend.name)
    hue = _hue(answer, rows, hue_by, options)
    keys = [n for n in ("run_type", "metric") if n in rows and rows[n].nunique() > 1 and n != category]
    facets = list(rows.groupby(keys, sort=False)) if keys else [((), rows)]
    for k, name in reversed(list(enumerate(keys))):
        # The order within is kept, so the first key matters most.
        places = options.ordered(name, [key[k] for key, _ in facets])
        facets = [facet for place in places for facet in facets if facet[0][k] == place]
    longest = max(part[category].nunique() for _, part in facets)
    if len(facets) > MOST_PANELS or longest > _MOST_LABELS:
        raise SelectionError(
            f"the answer has {len(facets)} panels of up to {longest} lines, more than can be looked at. Select fewer "
            "runs first: answer.sel(...) or answer.isel(...)."
        )
    size = frame_size or (330, int(np.clip(longest * 24, 140, 900)))
    first = next(iter(markers.values()))
    legend = hue.legend(backend, _entries(answer, markers, style_by, options, backend), marker=first)
    names = metric_names(answer, options)
    contents = []
    for k, (key, part) in enumerate(facets):
        labels = _sorted(part[category], category, options)
        dots = _dots(part, category, labels, hue, style_by, markers)
        each = [d for of_marker in dots.values() for d in of_marker]
        metric = dict(zip(keys, key, strict=True)).get("metric")
        named = f"{names[str(metric)]}, change from the base" if metric else axis_label(answer.gain)
        named = options.label("gain", named)
        x = value_axis(f"gain_{metric}" if metric else "gain", named, each, zero=True)
        ticks = tuple((float(len(labels) - 1 - i), short_label(v, options)) for i, v in enumerate(labels))
        title = options.label(category, str(answer[category].attrs.get("long_name") or category.replace("_", " ")))
        y = Axis(f"category_{k}", title, limits=(-0.6, len(labels) - 0.4), ticks=ticks)
        heading = ", ".join(names.get(str(v)) or options.label(v) for v in key)
        elements = partial(_elements, hv, dots, backend)
        contents.append(Content.of_elements(Frame(x, y), heading, elements, backend))
    grid = arrange([[content] for content in contents], columns or columns_for_facets(len(facets), 1))
    subject = subject_of(answer, options)
    change = f"change of {subject} from the base" if subject else "change from the base"
    text = caption_of(f"{change}, {place_words(answer)}", *_notes(answer, rows))
    return draw_figure(grid, size, legend, text, options, backend, (110, 14 * longest))


def _elements(
    hv: Any, dots: Mapping[str, Sequence[Dot]], backend: Backend, frame: Frame, layout: PanelLayout
) -> list[Any]:
    elements: list[Any] = [hv.VLine(0.0).opts(**backend.zero_line())]
    for marker, of_marker in dots.items():
        elements += dot_elements(of_marker, (frame.x, frame.y), backend, across=True, marker=marker)
    return elements


def _sorted(values: pd.Series, category: str, options: PictureOptions) -> list[Any]:
    labels = options.ordered(category, values)
    return [*labels, *([""] if len(labels) < values.nunique(dropna=False) else [])]


def _hue(answer: xr.Dataset, rows: pd.DataFrame, name: str | None, options: PictureOptions) -> Hue:
    if name is None:
        return Hue("", "", {}, options)
    label = options.label(name, str(answer[name].attrs.get("long_name") or name.replace("_", " ")))
    return Hue(name, label, options.colours(name, rows[name]), options)


def _dots(
    part: pd.DataFrame, category: str, labels: list[Any], hue: Hue, style_by: str | None, markers: dict[Any, str]
) -> dict[str, list[Dot]]:
    """Return the dots of each marker."""
    dots: dict[str, list[Dot]] = {}
    shades = list(hue.colours)
    for row in part.to_dict("records"):
        value = row[category]
        at = len(labels) - 1 - labels.index(value if is_given(value) else "")
        shade = row[hue.dim] if hue.dim else ""
        # Dots of one line are beside each other, in the order of the legend from above.
        shift = 0.6 * (0.5 - (shades.index(shade) + 0.5) / len(shades)) if len(shades) > 1 and shade in shades else 0.0
        notes = [
            f"n = {int(row['n'])}" if "n" in row else "",
            f"standard error {row['stderr']:.3g}"
            if row.get("stderr", np.nan) == row.get("stderr", np.nan) and "stderr" in row
            else "",
            str(row.get("run_id", "")),
        ]
        name = ", ".join(str(row[n]) for n in ("lineage", "run") if n in row)
        dot = Dot(
            at + shift, row["gain"], row.get("low", np.nan), row.get("high", np.nan),
            hue.colour(shade), name, "; ".join(filter(None, notes)),
        )  # fmt: skip
        style = row[style_by] if style_by else ""
        dots.setdefault(markers.get(style, next(iter(markers.values()))), []).append(dot)
    return dots


def _entries(
    answer: xr.Dataset, markers: dict[Any, str], style_by: str | None, options: PictureOptions, backend: Backend
) -> list[LegendEntry]:
    entries = []
    if style_by and len(markers) > 1:
        entries += [LegendEntry(options.label(v), backend.points(INK, m), "marker") for v, m in markers.items()]
    return [*entries, *(interval_entries(answer, backend, is_band=False) if "low" in answer else [])]


def _notes(answer: xr.Dataset, rows: pd.DataFrame) -> list[str]:
    over = str(answer.attrs.get("averaged_over", ""))
    if "n" in rows and over:
        members = f"means of {range_text(rows['n'], 'run')} over {over}"
    else:
        members = counted(rows["run_id"].nunique() if "run_id" in rows else len(rows), "run")
    return [members, interval_label(answer) if "low" in answer else "", left_out_words(answer)]
