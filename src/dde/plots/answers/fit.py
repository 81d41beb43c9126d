"""Plot fitted laws with their interval, the runs that entered and those held out, and the residuals below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.analysis.predictions import predict
from dde.dataset.dimensions import broadcast_values
from dde.errors import SelectionError
from dde.plots.answers.cells import labels_in, left_out_words, subject_of
from dde.plots.answers.series import name_of
from dde.plots.axis_format import padded_range
from dde.plots.backends.base import Backend, BackendName
from dde.plots.backends.choice import drawing_with
from dde.plots.captions import caption_of, range_text
from dde.plots.colours import INK, PRIMARY, label_of
from dde.plots.figure_layout import Axis, Frame, PanelLayout
from dde.plots.figures import Content, draw_figure
from dde.plots.legends import MOST_ENTRIES, ColourBar, Legend, LegendEntry
from dde.plots.option_docs import with_picture_options
from dde.plots.panels import coloured_lines, coloured_points
from dde.plots.picture_options import LegendPlace, Limits, Order, Palette, PictureOptions
from dde.plots.redrawing import redrawable

__all__ = ["plot_fit"]

_POINTS = 80
# Members of a panel beyond which they are drawn small.
_DENSE = 120
_MOST_PANELS = 24
_LABELS = {
    "compute": "compute [FLOP]",
    "tokens": "cumulative tokens",
    "n_params": "parameters",
    "loss": "loss",
}
_AT_TEXTS = {
    "schedule": "at the end of the schedule",
    "last": "where each run was last observed",
    "common": "at the last tokens that all runs reach",
    "table": "one value per run",
}


@redrawable
@with_picture_options
def plot_fit(
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
    """Draw the laws of :func:`dde.analysis.fits.fit`, a panel per metric with its residuals below it.

    Laws of one quantity are curves over it, dashed beyond the runs that entered, with the interval as a band. Laws of
    parameters and tokens are drawn as observed against predicted values. Runs held out are squares.

    Parameters
    ----------
    answer : xarray.Dataset
        It may have been saved and opened again, or be a selection of metrics and groups.
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
        When the Dataset is no answer of ``fit``, no member has a value, or there are too many metrics.

    Examples
    --------
    >>> import dde
    >>> from dde.analysis.fits import fit
    >>> runs = dde.tutorial.open_lineages("small", data=["Dolma1.7", "C4"], metrics=["c4_en_valppl"])
    >>> laws = fit(runs.dde.sel(run="pretraining"), "c4_en_valppl")
    >>> picture = plot_fit(laws, backend="matplotlib")
    """
    options = PictureOptions.of(locals())
    if answer.attrs.get("answer") != "fit" or "coefficient" not in answer:
        raise SelectionError(
            "the Dataset is no answer of fit, so there are no laws to draw. Pass what ds.dde.fit(...) returned."
        )
    drawn = answer if "metric" in answer["coefficient"].dims else answer.expand_dims("metric")
    if drawn.sizes["metric"] > _MOST_PANELS:
        raise SelectionError(
            f"{drawn.sizes['metric']} metrics are more panels than can be looked at. Select fewer: "
            "answer.sel(metric=[...])."
        )
    by = str(drawn.attrs.get("by", "none"))
    options.check_order(None if ", " in by or by == "none" else by, [*by.split(", "), "metric", "n_params"])
    options.check_labels([*labels_in(drawn), *_LABELS, "residual"])
    drawn = drawn.isel(metric=_metric_order(drawn, options))
    groups = _groups(drawn, options)
    panels = [_panel(drawn, groups, k, options) for k in range(drawn.sizes["metric"])]
    if not any(len(p.value) for p in panels):
        raise SelectionError(
            "no run that entered or was held out has a value, so there is nothing to draw. fit_status and status say "
            "why."
        )
    with drawing_with(backend) as drawing:
        return _drawn(drawn, groups, panels, drawing, columns, frame_size, options)


@dataclass(frozen=True)
class _Groups:
    """The fits of one metric: their labels and values, and the position of each member's among them; -1 for others."""

    title: str
    labels: list[str]
    values: list[str]
    of_member: npt.NDArray[np.intp]


def _metric_order(answer: xr.Dataset, options: PictureOptions) -> list[int]:
    metrics = [str(m) for m in np.atleast_1d(answer["metric"].values)]
    return [metrics.index(m) for m in options.ordered("metric", metrics)]


def _groups(answer: xr.Dataset, options: PictureOptions) -> _Groups:
    by = [n for n in str(answer.attrs.get("by", "none")).split(", ") if n != "none"]
    shape = tuple(np.atleast_1d(answer[n].values).size for n in by)
    status = answer["status"].isel(metric=0)
    code = np.zeros(status.shape, np.intp)
    inside = np.ones(status.shape, bool)
    labels, values = [""], [""]
    for name, size in zip(by, shape, strict=True):
        known = np.atleast_1d(answer[name].values)
        texts = [options.label(v) if v not in ("", None) else "none" for v in known.tolist()]
        plain = [label_of(v) if v not in ("", None) else "none" for v in known.tolist()]
        labels = [f"{a}, {t}" if a else t for a in labels for t in texts]
        values = [f"{a}, {t}" if a else t for a in values for t in plain]
        along = answer[f"{name}_of_run"] if f"{name}_of_run" in answer.coords else answer[name]
        own = broadcast_values(along.variable, {str(d): n for d, n in status.sizes.items()})
        here = np.full(own.shape, -1, np.intp)
        for k, value in enumerate(known.tolist()):
            here[(own == value) | ((own != own) & (value != value))] = k
        inside &= here >= 0
        code = code * size + here
    title = ", ".join(options.label(n, name_of(answer, n)) for n in by)
    return _Groups(title, labels, values, np.where(inside, code, -1))


@dataclass(frozen=True)
class _Panel:
    """What is drawn of one metric.

    Attributes
    ----------
    title : str
    x, value, predicted : (member,) float64 arrays
    group : (member,) int array
    run : list of str
    held_out : (member,) bool array
    curves : list of (group, x, value, low, high, is_beyond)
    """

    title: str
    x: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]
    predicted: npt.NDArray[np.float64]
    group: npt.NDArray[np.intp]
    n_params: npt.NDArray[np.float64]
    run: list[str]
    held_out: npt.NDArray[np.bool_]
    curves: list[tuple[int, Any, Any, Any, Any]]
    ends: npt.NDArray[np.float64]
    units: str

    @property
    def residual(self) -> npt.NDArray[np.float64]:
        """Value over prediction less one."""
        return self.value / self.predicted - 1


def _panel(answer: xr.Dataset, groups: _Groups, number: int, options: PictureOptions) -> _Panel:
    one = answer.isel(metric=number)
    quantity = [str(q) for q in np.atleast_1d(one["quantity"].values)]
    has_samples = "sample" in one["value"].dims
    cells = one["status"].dims
    order = (*cells, "sample") if has_samples else cells
    value = one["value"].transpose(*order)
    law = one["predicted"].sel(predictor="law").transpose(*order).values.ravel()

    def wide(array: xr.DataArray | npt.NDArray[Any]) -> npt.NDArray[Any]:
        variable = array.variable if isinstance(array, xr.DataArray) else xr.Variable(cells, array)
        return broadcast_values(variable, {str(d): value.sizes[d] for d in order}).ravel()

    status, group = wide(one["status"]), wide(groups.of_member)
    sizes = wide(one["n_params"]) if "n_params" in one else np.full(value.size, np.nan)
    if len(quantity) == 2 or quantity == ["n_params"]:
        x = law if len(quantity) == 2 else sizes
    else:
        x = wide(one[quantity[0]])
    numbers = value.values.ravel()
    there = np.isin(status, ["entered", "held out"]) & np.isfinite(numbers) & np.isfinite(x) & (group >= 0)
    runs = wide(one["run_id"]) if "run_id" in one.coords else np.full(value.size, "")
    held = status[there] == "held out"
    of_fits = [d for d in one["coefficient"].dims if d != "parameter"]
    curves, ends = [], np.full(len(groups.labels), np.nan)
    if len(quantity) == 1 and there.any():
        high = one["x_high"].transpose(*of_fits, "quantity").values.reshape(len(groups.labels))
        grid = _grid(x[there], quantity[0])
        band = predict(answer.isel(metric=[number]), **{quantity[0]: xr.DataArray(grid, dims="position_on_curve")})
        parts = [
            band[n].isel(metric=0).transpose(*of_fits, "position_on_curve").values.reshape(-1, len(grid))
            for n in ("predicted", "low", "high")
        ]
        for k in range(len(groups.labels)):
            own = x[there][group[there] == k]
            if len(own) and np.isfinite(parts[0][k]).any():
                inside = (grid >= own.min() * 0.999) & (grid <= own.max() * 1.001)
                curves.append((k, grid[inside], *(p[k][inside] for p in parts)))
                ends[k] = high[k]
    units = str(np.atleast_1d(one["units"].values)[0]) if "units" in one.coords else ""
    name = str(one["metric"].values)
    label = str(one["metric_label"].values) if "metric_label" in one.coords else label_of(name)
    units = f" [{units}]" if units not in ("", "1") else ""
    return _Panel(
        options.label(name, label), x[there], numbers[there], law[there], group[there], sizes[there].astype(np.float64),
        [str(r) for r in runs[there]], held, curves, ends, units,
    )  # fmt: skip


def _grid(x: npt.NDArray[np.float64], quantity: str) -> npt.NDArray[np.float64]:
    if quantity == "loss":
        return np.linspace(x.min(), x.max(), _POINTS)
    return np.geomspace(x.min(), x.max(), _POINTS)


def _drawn(
    answer: xr.Dataset,
    groups: _Groups,
    panels: Sequence[_Panel],
    backend: Backend,
    columns: int | None,
    frame_size: tuple[int, int] | None,
    options: PictureOptions,
) -> Any:
    quantity = [str(q) for q in np.atleast_1d(answer["quantity"].values)]
    look = _look(answer, groups, panels, quantity, options)
    across = columns or min(len(panels), 3)
    blocks = [range(k, min(k + across, len(panels))) for k in range(0, len(panels), across)]
    size = frame_size or ((420, 260) if len(panels) == 1 else (300, 210))
    contents = {
        (k, below): Content.of_elements(
            _frame(panel, below, quantity, k, options),
            "" if below else panel.title,
            partial(_elements, panel, below, look, backend),
            backend,
        )
        for k, panel in enumerate(panels)
        for below in (False, True)
    }
    # Residuals are below their law.
    rows = [[contents[k, below] for k in block] for block in blocks for below in (False, True)]
    legend = _legend(answer, groups, panels, look, options, backend)
    return draw_figure(rows, size, legend, _caption(answer, panels, options), options, backend)


@dataclass(frozen=True)
class _Look:
    """Colours of members by the position of their fit, or by their size where there is one fit."""

    hues: dict[Any, str]
    by_size: bool
    is_curve: bool
    plain: str = PRIMARY

    def of_member(self, panel: _Panel) -> list[str]:
        """Return the colour of each member."""
        keys = panel.n_params if self.by_size else panel.group
        return [self.hues.get(key, self.plain) for key in keys.tolist()]

    def of_law(self, group: int) -> str:
        """Return the colour of a law."""
        return INK if self.by_size else self.hues.get(group, self.plain)


def _look(
    answer: xr.Dataset, groups: _Groups, panels: Sequence[_Panel], quantity: Sequence[str], options: PictureOptions
) -> _Look:
    is_curve = len(quantity) == 1
    if len(groups.labels) > 1:
        used = sorted({int(g) for p in panels for g in p.group})
        # A fit of members without a value of the factor has the label "none".
        colours = options.colours(str(answer.attrs.get("by")), [groups.values[g] for g in used])
        by_value = {groups.values[g]: g for g in used}
        return _Look({by_value[v]: colour for v, colour in colours.items()}, False, is_curve, PRIMARY)
    every = np.concatenate([p.n_params for p in panels])
    sizes = np.unique(every[np.isfinite(every)]).tolist()
    if len(sizes) > 1 and list(quantity) != ["n_params"]:
        return _Look(options.colours("n_params", sizes), True, is_curve, PRIMARY)
    plain = options.plain(PRIMARY)
    return _Look({0: plain}, False, is_curve, plain)


def _frame(panel: _Panel, below: bool, quantity: Sequence[str], number: int, options: PictureOptions) -> Frame:
    is_curve = len(quantity) == 1
    log_x = is_curve and quantity[0] != "loss"
    if is_curve:
        name, label = quantity[0], options.label(quantity[0], _LABELS[quantity[0]])
        x = Axis(name if log_x else f"loss {number}", label, log_x, padded_range(panel.x, log=log_x))
    else:
        x = Axis(f"predicted {number}", f"predicted{panel.units}", False, padded_range(panel.x))
    if below:
        residual = 100 * panel.residual
        most = float(np.nanmax(np.abs(residual), initial=0.0)) * 1.15 or 1.0
        return Frame(x, Axis(f"residual {number}", options.label("residual", "residual [%]"), False, (-most, most)))
    shown = [panel.value, panel.predicted, *(c[2] for c in panel.curves)]
    label = panel.title + panel.units if is_curve else f"observed{panel.units}"
    return Frame(x, Axis(f"value {number}", label, False, padded_range(np.concatenate(shown))))


def _elements(
    panel: _Panel, below: bool, look: _Look, backend: Backend, frame: Frame, layout: PanelLayout
) -> list[Any]:
    import holoviews as hv

    dims = [hv.Dimension(frame.x.name), hv.Dimension(frame.y.name)]
    elements: list[Any] = []
    if below and np.isfinite(panel.predicted).any():
        elements.append(hv.HLine(0.0).opts(**backend.zero_line()))
    elif below:
        elements.append(hv.Labels([(*frame.middle(), "no coefficients")], dims, "text").opts(**backend.text(INK)))
    y = 100 * panel.residual if below else panel.value
    tooltips = [("run id", "@run_id"), (frame.y.label, f"@{{{frame.y.name}}}{{0.0000}}"), ("status", "@status")]
    colours, is_dense = look.of_member(panel), len(panel.value) > _DENSE
    points: dict[bool, list[Any]] = {False: [], True: []}
    for a, b, colour, run, held in zip(panel.x, y, colours, panel.run, panel.held_out.tolist(), strict=True):
        if np.isfinite(b):
            points[held].append((a, b, colour, run, "held out" if held else "entered"))
    bands, laws = ([], []) if below else _laws(hv, panel, dims, frame, look, backend)
    elements += bands
    for held, shown in points.items():
        if shown:
            options = backend.points("colour", _marker(backend, held), is_dense, tooltips)
            elements += coloured_points(dims, shown, ["colour", "run_id", "status"], options)
    return elements + laws


def _marker(backend: Backend, held_out: bool) -> str:
    if backend.name == "bokeh":
        return "square" if held_out else "circle"
    return "s" if held_out else "o"


def _laws(
    hv: Any, panel: _Panel, dims: list[Any], frame: Frame, look: _Look, backend: Backend
) -> tuple[list[Any], list[Any]]:
    """Return bands, and laws, dashed beyond the runs that entered; or the line at which predictions are right."""
    if not look.is_curve:
        both = np.concatenate([frame.x.limits or (0.0, 1.0), frame.y.limits or (0.0, 1.0)])
        ends = [float(both.min()), float(both.max())]
        return [], coloured_lines(dims, [(ends, ends, INK)], backend.line("colour"))
    bands, solid, dashed = [], [], []
    low_limit, high_limit = frame.y.span()
    for k, x, value, low, high in panel.curves:
        colour = look.of_law(k)
        known = np.isfinite(low) & np.isfinite(high)
        if known.sum() > 1:
            # Far bounds would make the backends compute ranges of their own.
            span = high_limit - low_limit
            clipped = (np.clip(e[known], low_limit - span, high_limit + span) for e in (low, high))
            area = hv.Area((x[known], *clipped), dims[0], [dims[1], f"{dims[1].name}_end"])
            bands.append(area.opts(**backend.interval_band(colour)))
        inside = x <= panel.ends[k] * 1.0001
        if inside.sum() > 1:
            solid.append((x[inside], value[inside], colour))
        if (~inside).sum() > 1:
            joined = ~inside
            joined[max(int(np.argmax(~inside)) - 1, 0)] = True
            dashed.append((x[joined], value[joined], colour))
    lines = coloured_lines(dims, solid, backend.line("colour"))
    return bands, lines + coloured_lines(dims, dashed, backend.line("colour", dashed=True))


def _legend(
    answer: xr.Dataset,
    groups: _Groups,
    panels: Sequence[_Panel],
    look: _Look,
    options: PictureOptions,
    backend: Backend,
) -> Legend:
    entries: list[LegendEntry] = []
    title, bar = "", None
    if look.by_size and len(look.hues) > MOST_ENTRIES:
        name = options.label("n_params", "parameters")
        bar = ColourBar.of_ranks(name, look.hues, [options.label(float(v)) for v in look.hues])
    elif len(look.hues) > 1:
        title = options.label("n_params", "parameters") if look.by_size else groups.title
        for value, colour in look.hues.items():
            text = options.label(float(value)) if look.by_size else groups.labels[value]
            entries.append(LegendEntry(text, backend.points(colour, _marker(backend, False)), "marker"))
    entries.append(LegendEntry("entered", backend.points(INK, _marker(backend, False)), "marker"))
    if any(p.held_out.any() for p in panels):
        entries.append(LegendEntry("held out", backend.points(INK, _marker(backend, True)), "marker"))
    entries.append(LegendEntry("law" if look.is_curve else "observed = predicted", backend.line(INK)))
    if look.is_curve and any(np.isfinite(c[3]).any() for p in panels for c in p.curves):
        level = 100 * float(answer.attrs["interval"])
        entries.append(LegendEntry(f"{level:g}% interval of the law", backend.interval_sample(INK), "marker"))
    return Legend(title, entries, bar)


def _caption(answer: xr.Dataset, panels: Sequence[_Panel], options: PictureOptions) -> str:
    entered = range_text((int((~p.held_out).sum()) for p in panels), "member")
    at = str(answer.attrs.get("at", ""))
    method = str(answer.attrs.get("interval_method", "none"))
    return caption_of(
        f"{subject_of(answer, options)}, law: {answer.attrs.get('formula', '')}",
        f"{entered}, {_AT_TEXTS.get(at, at)}",
        f"interval: {method}" if method != "none" and any(p.curves for p in panels) else "",
        left_out_words(answer),
    )
