"""Plot signal-to-noise ratios as bars with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from dde.plots.answers.cells import arranged, metric_names
from dde.plots.answers.series import Panel, Series, answer_caption, cells_of, draw_panels, label_of_cell, name_of
from dde.plots.backends.base import BackendName
from dde.plots.figure_layout import Axis
from dde.plots.option_docs import with_picture_options
from dde.plots.picture_options import LegendPlace, Limits, Order, Palette, PictureOptions
from dde.plots.redrawing import redrawable

__all__ = ["plot_signal_to_noise"]

_SHIFT = 0.12


@redrawable
@with_picture_options
def plot_signal_to_noise(
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
    """Draw the ratio of signal to each source of noise, task by task, in a panel for each size.

    Parameters
    ----------
    answer : xarray.Dataset
        Of :func:`dde.analysis.signal_to_noise`.
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
    answer = arranged(answer, "source", options)
    ratio = answer["signal_to_noise"]
    others = [str(d) for d in ratio.dims if d not in ("metric", "source")]
    # One task: its sizes are along x. Several: the tasks.
    along = "metric" if "metric" in answer.dims else (others[-1] if others else "metric")
    facets = [d for d in others if d != along]
    tasks = metric_names(answer, options)
    names = [tasks.get(v) or options.label(v) for v in np.atleast_1d(answer[along].values)]
    sources = [str(s) for s in answer["source"].values]
    colours = options.colours("source", sources)
    label = options.label(along, "" if along == "metric" else name_of(answer, along))
    x = Axis(along, label, limits=(-0.6, len(names) - 0.4), ticks=tuple((float(k), t) for k, t in enumerate(names)))
    y = Axis("signal_to_noise", "signal to noise", True)
    panels = []
    for cell in cells_of(answer, facets):
        series = []
        for k, source in enumerate(sources):
            part = cell.sel(source=source)
            values, low, high = (
                np.atleast_1d(part[n].values).astype(np.float64)
                for n in ("signal_to_noise", "signal_to_noise_low", "signal_to_noise_high")
            )
            at = np.arange(len(values), dtype=np.float64) + _SHIFT * (2 * k - len(sources) + 1)
            name = options.label(source, f"noise of {source}")
            series.append(Series(at, values, colours[source], low, high, name, line=False, names=names))
        if any(np.isfinite(s.y).any() for s in series):
            panels.append(Panel(series, x, y, label_of_cell(cell, facets or ["metric"], options, tasks), across=[1.0]))
    spread = f"signal: {answer.attrs['spread']} over {name_of(answer, str(answer.attrs['over']))}"
    text = answer_caption(answer, "ratio of signal to noise", options, spread)
    return draw_panels(panels, backend, columns, frame_size, options, text)
