"""Plot the ranks of two conditions as a bump chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from dde.plots.answers.cells import arranged, metric_names
from dde.plots.answers.series import Panel, Series, answer_caption, cells_of, draw_panels, label_of_cell, name_of
from dde.plots.backends.base import BackendName
from dde.plots.captions import range_text
from dde.plots.figure_layout import Axis
from dde.plots.option_docs import with_picture_options
from dde.plots.picture_options import LegendPlace, Limits, Order, Palette, PictureOptions
from dde.plots.redrawing import redrawable

__all__ = ["plot_ranks"]


@redrawable
@with_picture_options
def plot_ranks(
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
    """Draw the ranks of both conditions, joined by a line for each value of the factor.

    Parameters
    ----------
    answer : xarray.Dataset
        Of :func:`dde.analysis.ranks`; one panel for each metric and remaining dimension with two ranked values. The
        title of a panel gives Kendall's correlation with its interval, and the share of pairs ordered alike.
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
    SelectionError
        When the answer has no value.
    """
    options = PictureOptions.of(locals())
    over = str(answer.attrs["over"])
    answer = arranged(answer, over, options)
    others = [str(d) for d in answer["kendall"].dims]
    cells = [c for c in cells_of(answer, others) if int(c["n"]) > 1]
    # A value without a rank in any panel has no colour.
    shown = sorted({k for c in cells for k in np.flatnonzero(np.isfinite(c["rank_a"]) & np.isfinite(c["rank_b"]))})
    colours = options.colours(over, answer[over].values[shown])
    names = metric_names(answer, options)
    ends = [str(answer.attrs[side]) for side in ("a", "b")]
    most = max((int(c["n"]) for c in cells), default=1)
    y = Axis(
        "rank",
        "rank (1: lowest value)",
        limits=(0.5, most + 0.5),
        ticks=tuple((float(k), str(k)) for k in _ticks(most)),
    )
    x = Axis(
        "condition", "", limits=(-0.25, 1.25), ticks=((0.0, _short(ends[0], ends[1])), (1.0, _short(ends[1], ends[0])))
    )
    panels = []
    for cell in cells:
        series = [
            Series(
                np.array([0.0, 1.0]),
                np.array([float(a), float(b)]),
                colours[v],
                label=options.label(v),
                names=[str(v)] * 2,
            )
            for v, a, b in zip(answer[over].values, cell["rank_a"].values, cell["rank_b"].values, strict=True)
            if np.isfinite(a) and np.isfinite(b)
        ]
        tau = f"τ = {float(cell['kendall']):.2f}"
        if np.isfinite(cell["kendall_low"]):
            tau += f" ({float(cell['kendall_low']):.2f} to {float(cell['kendall_high']):.2f})"
        title = ", ".join(filter(None, [label_of_cell(cell, others or ["metric"], options, names), tau]))
        panels.append(Panel(series, x, y, title))
    counts = range_text(int(c["n"]) for c in cells)
    text = answer_caption(
        answer, f"ranks of {counts} values of {name_of(answer, over)}", options, f"seeds: {answer.attrs['seeds']}"
    )
    return draw_panels(panels, backend, columns, frame_size, options, text, over, name_of(answer, over))


def _ticks(most: int) -> list[int]:
    step = max(most // 6, 1)
    return list(range(1, most + 1, step))


def _short(text: str, other: str) -> str:
    """Return the parts of a condition that the other one does not have."""
    parts, others = text.split(", "), other.split(", ")
    return ", ".join(p for p in parts if p not in others) or text
