"""Plot decision accuracy against the compute of the small scale, as a fraction of the target's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from dde.plots.answers.cells import arranged, metric_names
from dde.plots.answers.series import Panel, Series, answer_caption, cells_of, draw_panels, label_of_cell, name_of
from dde.plots.backends.base import BackendName
from dde.plots.captions import range_text
from dde.plots.colours import NEUTRAL, PRIMARY
from dde.plots.figure_layout import Axis
from dde.plots.option_docs import with_picture_options
from dde.plots.picture_options import LegendPlace, Limits, Order, Palette, PictureOptions
from dde.plots.redrawing import redrawable

__all__ = ["plot_decision_accuracy"]


@redrawable
@with_picture_options
def plot_decision_accuracy(
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
    """Draw decision accuracy against the compute fraction, with a curve per scale where there are checkpoints.

    Parameters
    ----------
    answer : xarray.Dataset
        Of :func:`dde.analysis.decision_accuracy`; one panel for each metric and remaining dimension.
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
    has_compute = "compute_fraction" in answer
    x = Axis(
        "compute_fraction" if has_compute else "tokens",
        "compute, fraction of the target's" if has_compute else "tokens of the small runs",
        True,
    )
    y = Axis("accuracy", "decision accuracy", limits=(-0.02, 1.02))
    scale = str(answer.attrs["target"]).split("=")[0]
    # Scales have colours where each has a curve along its checkpoints.
    answer = arranged(answer, scale if "checkpoint" in answer.dims else None, options)
    others = [str(d) for d in answer["accuracy"].dims if d not in (scale, "checkpoint", over)]
    names = metric_names(answer, options)
    panels = []
    for cell in cells_of(answer, others):
        series = _series(cell, scale, x.name, options)
        panels.append(Panel(series, x, y, label_of_cell(cell, others or ["metric"], options, names), across=[0.5]))
    n = answer["n"].values[answer["n"].values > 0]
    text = answer_caption(
        answer, f"decision accuracy on {range_text(n)} values of {name_of(answer, over)}", options,
        f"target: {answer.attrs['target']}", f"seeds: {answer.attrs['seeds']}",
        "line: chance",
    )  # fmt: skip
    return draw_panels(panels, backend, columns, frame_size, options, text, scale, name_of(answer, scale))


def _series(cell: xr.Dataset, scale: str, x: str, options: PictureOptions) -> list[Series]:
    """Return one curve per scale along its checkpoints, or one along the scales."""
    if "checkpoint" not in cell.dims:
        part = cell if scale in cell.dims else cell.expand_dims(scale)
        at = part[x].values
        order = np.argsort(at)
        scales = [options.label(v, str(v)) for v in part[scale].values.tolist()]
        names = [f"{v} ({k} pairs)" for v, k in zip(scales, part["n_pairs"].values, strict=True)]
        series = [
            Series(at[order], part["accuracy"].values[order], options.plain(PRIMARY),
                   part["accuracy_low"].values[order], part["accuracy_high"].values[order],
                   names=[names[i] for i in order])
        ]  # fmt: skip
        if not np.array_equal(part["naive"].values, part["accuracy"].values, equal_nan=True):
            label = "the metric itself"
            series.append(Series(at[order], part["naive"].values[order], NEUTRAL, label=label, dashed=True))
            series[0] = Series(**{**series[0].__dict__, "label": "proxy"})
        return series
    # Checkpoints at which not all runs were evaluated have no accuracy; a curve goes on after them.
    parts = [p.isel(checkpoint=np.flatnonzero(np.isfinite(p["accuracy"].values))) for p in cells_of(cell, [scale])]
    colours = options.colours(scale, [_scale_of(p, scale) for p in parts])
    return [
        Series(p[x].values, p["accuracy"].values, colours[_scale_of(p, scale)], p["accuracy_low"].values,
               p["accuracy_high"].values, label=options.label(_scale_of(p, scale), str(_scale_of(p, scale))))
        for p in parts
        if p.sizes["checkpoint"]
    ]  # fmt: skip


def _scale_of(cell: xr.Dataset, scale: str) -> Any:
    return cell.coords[scale].item() if scale in cell.coords else ""
