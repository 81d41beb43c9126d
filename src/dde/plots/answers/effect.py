"""Picture of what post-training changed: the gain of each derived run, beside zero for its base."""

from __future__ import annotations

from dataclasses import replace
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
    left_out_words,
    note_label,
    place_words,
    short_label,
    value_axis,
)
from dde.plots.axis_format import axis_label
from dde.plots.backends.base import Backend, BackendName
from dde.plots.backends.choice import drawing_with
from dde.plots.colours import INK, colours_of, is_given, is_number, is_ordered, label_of, markers_of, sorted_values
from dde.plots.curves import columns_for_facets
from dde.plots.figure_layout import Axis, Frame, arrange, panel_layouts
from dde.plots.legends import Legend, LegendEntry
from dde.plots.panels import figure_of, framed
from dde.plots.redrawing import redrawable
from dde.schema import factors_of

__all__ = ["plot_effect"]

# Most labels of one panel.
_MOST_LABELS = 80


@redrawable
def plot_effect(
    answer: xr.Dataset,
    *,
    backend: BackendName = "bokeh",
    columns: int | None = None,
    frame_size: tuple[int, int] | None = None,
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
    answer = answer.compute()
    rows = _rows(answer)
    if rows.empty:
        raise SelectionError(
            f"no run has a change from its base, so there is nothing to draw ({left_out_words(answer)}). Select other "
            "runs, ask at another place, at='last', or allow bases that were observed further away: max_distance=..."
        )
    with drawing_with(backend) as drawing:
        return _drawn(answer, rows, drawing, columns, frame_size)


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
) -> Any:
    import holoviews as hv

    category = _category(answer, rows)
    factors = _lineage_factors(answer, rows)
    hue_by, style_by = [*factors, None, None][:2]
    markers = markers_of(sorted_values(rows[style_by]) if style_by else [""], backend.name)
    hue = _hue(answer, rows, hue_by)
    keys = [n for n in ("run_type", "metric") if n in rows and rows[n].nunique() > 1 and n != category]
    facets = list(rows.groupby(keys, sort=False)) if keys else [((), rows)]
    longest = max(part[category].nunique() for _, part in facets)
    if len(facets) > MOST_PANELS or longest > _MOST_LABELS:
        raise SelectionError(
            f"the answer has {len(facets)} panels of up to {longest} lines, more than can be looked at. Select fewer "
            "runs first: answer.sel(...) or answer.isel(...)."
        )
    size = frame_size or (330, int(np.clip(longest * 24, 140, 900)))
    legend = hue.legend(backend, _entries(answer, markers, style_by, backend))
    note = note_label(_notes(answer, rows), size[0])
    drawn_dots, frames, titles = [], [], []
    for k, (key, part) in enumerate(facets):
        labels = _sorted(part[category])
        dots = _dots(part, category, labels, hue, style_by, markers)
        each = [d for of_marker in dots.values() for d in of_marker]
        metric = dict(zip(keys, key, strict=True)).get("metric")
        named = f"{label_of(metric)}, change from the base" if metric else axis_label(answer.gain)
        x = value_axis(f"gain_{metric}" if metric else "gain", named, each, zero=True)
        ticks = tuple((float(len(labels) - 1 - i), short_label(v)) for i, v in enumerate(labels))
        title = str(answer[category].attrs.get("long_name") or category.replace("_", " "))
        y = Axis(f"category_{k}", title, limits=(-0.6, len(labels) - 0.4), ticks=ticks)
        frames.append(Frame(x, y))
        drawn_dots.append(dots)
        titles.append(", ".join(label_of(v) for n, v in zip(keys, key, strict=True)))
    grid = arrange([[k] for k in range(len(facets))], columns or columns_for_facets(len(facets), 1))
    layouts = panel_layouts(grid, size, legend, [replace(f, note=note) for f in frames], titles)
    drawn = []
    for dots, frame, title, layout in zip(drawn_dots, frames, titles, layouts, strict=True):
        elements: list[Any] = [hv.VLine(0.0).opts(**backend.zero_line())]
        for marker, of_marker in dots.items():
            elements += dot_elements(of_marker, (frame.x, frame.y), backend, across=True, marker=marker)
        here = replace(frame, note=note) if layout.has_note else frame
        drawn.append(framed(elements, here, backend, layout, legend if layout.has_legend else Legend(), title))
    return figure_of(drawn, layouts[0], backend)


def _sorted(values: pd.Series) -> list[Any]:
    labels = sorted_values(values)
    return [*labels, *([""] if len(labels) < values.nunique(dropna=False) else [])]


def _hue(answer: xr.Dataset, rows: pd.DataFrame, name: str | None) -> Hue:
    if name is None:
        return Hue("", "", {})
    label = str(answer[name].attrs.get("long_name") or name.replace("_", " "))
    return Hue(name, label, colours_of(rows[name]))


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


def _entries(answer: xr.Dataset, markers: dict[Any, str], style_by: str | None, backend: Backend) -> list[LegendEntry]:
    entries = []
    if style_by and len(markers) > 1:
        entries += [LegendEntry(label_of(v), backend.points(INK, m), "marker") for v, m in markers.items()]
    return [*entries, *(interval_entries(answer, backend, is_band=False) if "low" in answer else [])]


def _notes(answer: xr.Dataset, rows: pd.DataFrame) -> list[str]:
    over = str(answer.attrs.get("averaged_over", ""))
    if "n" in rows and over:
        least, most = int(rows["n"].min()), int(rows["n"].max())
        number = f"{least}–{most} runs" if least < most else f"{most} run{'s' if most > 1 else ''}"
        members = f"means of {number} over {over}"
    else:
        runs = rows["run_id"].nunique() if "run_id" in rows else len(rows)
        members = f"{runs} run{'s' if runs > 1 else ''}"
    return [f"base = 0; {place_words(answer)}", members, left_out_words(answer)]
