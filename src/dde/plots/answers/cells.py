"""Cells of an answer as panels, colours and categories, and dots with bars for their intervals."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from dde.errors import SelectionError
from dde.plots.axis_format import axis_label, padded_range
from dde.plots.backends.base import Backend
from dde.plots.captions import left_out_text, subject_text
from dde.plots.colours import INK, NEUTRAL, PRIMARY, colours_of, is_given, is_ordered, label_of
from dde.plots.figure_layout import Axis
from dde.plots.legends import MOST_ENTRIES, ColourBar, Legend, LegendEntry
from dde.plots.panels import coloured_lines, coloured_points
from dde.plots.picture_options import NO_OPTIONS, PictureOptions
from dde.plots.run_values import labels_of, short_names

__all__ = [
    "MOST_PANELS",
    "Dot",
    "Facet",
    "Hue",
    "arranged",
    "category_axis",
    "dot_elements",
    "facets_along",
    "has_bounds",
    "hue_along",
    "interval_entries",
    "interval_label",
    "label_along",
    "labels_in",
    "left_out_words",
    "metric_label",
    "metric_names",
    "place_words",
    "short_label",
    "subject_of",
    "title_along",
    "value_axis",
    "varying_dims",
    "with_values",
]

#: Most panels of one picture.
MOST_PANELS = 36
# Longest label of a category, in letters: a recipe of DataDecide with a hyperparameter has 38.
_LONGEST = 42


@dataclass(frozen=True)
class Facet:
    """A panel: the part of an answer that it shows, and its title."""

    part: xr.Dataset
    title: str


@dataclass(frozen=True)
class Hue:
    """Colours along one dimension of an answer.

    Attributes
    ----------
    dim : str
        "" where all dots have one colour.
    label : str
        Title of the legend.
    colours : mapping of label to colour
    """

    dim: str
    label: str
    colours: Mapping[Any, str]
    options: PictureOptions = NO_OPTIONS

    def parts(self, answer: xr.Dataset) -> list[tuple[str, xr.Dataset]]:
        """Return the colour of each label, and its part of an answer."""
        if not self.dim:
            return [(self.options.plain(PRIMARY), answer)]
        return [
            (self.colours[label_along(answer, self.dim, k)], answer.isel({self.dim: k}))
            for k in range(answer.sizes[self.dim])
        ]

    def colour(self, label: Any) -> str:
        """Return the colour of a label."""
        return self.colours.get(label, NEUTRAL if self.dim else self.options.plain(PRIMARY))

    def legend(self, backend: Backend, more: Sequence[LegendEntry] = (), marker: str = "") -> Legend:
        """Return a legend of the colours: entries, or a bar where an ordered hue has many labels.

        Parameters
        ----------
        backend : Backend
        more : sequence of LegendEntry
            Entries after those of the colours.
        marker : str
            Marker of the entries, where no lines are drawn; "" for lines.
        """
        if not self.dim:
            return Legend("", more)
        if len(self.colours) > MOST_ENTRIES and is_ordered(self.colours):
            bar = ColourBar.of_ranks(self.label, self.colours, [self.options.label(v) for v in self.colours])
            return Legend("", more, bar)
        names = self.options.names(self.colours)
        entries = [
            LegendEntry(label_of(v, names), backend.points(colour, marker), "marker")
            if marker
            else LegendEntry(label_of(v, names), backend.line(colour))
            for v, colour in self.colours.items()
        ]
        return Legend(self.label, [*entries, *more])


@dataclass(frozen=True)
class Dot:
    """A number with the ends of its interval, NaN for none, at a position among categories.

    Attributes
    ----------
    position, value, low, high : float
    colour : str
    name : str
        What it is of, for a tooltip.
    note : str
        Numbers of members and the like, for a tooltip.
    """

    position: float
    value: float
    low: float
    high: float
    colour: str
    name: str
    note: str = ""


def label_along(answer: xr.Dataset, dim: str, k: int) -> Any:
    """Return the label at a position of a dimension; "" where it is missing, the position where there are none."""
    if dim not in answer.coords:
        return k
    value = answer[dim].values[k]
    return value.item() if isinstance(value, np.generic) else value if is_given(value) else ""


def varying_dims(array: xr.DataArray, *but: str) -> list[str]:
    """Return the dimensions of a variable with several labels, the metric first, without some."""
    dims = [str(d) for d in array.dims if d not in but and array.sizes[d] > 1]
    return sorted(dims, key=lambda d: d != "metric")


def with_values(answer: xr.Dataset, shown: str, *keep: str) -> xr.Dataset:
    """Return an answer without labels for which a variable has no value, and without dimensions of a single label.

    Parameters
    ----------
    answer : xarray.Dataset
    shown : str
        The variable.
    *keep : str
        Dimensions that are kept even with a single label.
    """
    for dim in map(str, answer[shown].dims):
        some = answer[shown].notnull()
        some = some.any([d for d in some.dims if d != dim])
        if bool(some.any()):
            answer = answer.isel({dim: np.flatnonzero(some.values)})
    return answer.squeeze([d for d, n in answer.sizes.items() if n == 1 and d not in keep])


def place_words(answer: xr.Dataset) -> str:
    """Return the place of an answer in words.

    Examples
    --------
    >>> [place_words(xr.Dataset(attrs={"at": at})) for at in ("schedule", "cumulative_tokens=2000000000")]
    ['at the planned end', 'at cumulative tokens=2000000000']
    """
    at = str(answer.attrs.get("at", ""))
    words = {"schedule": "the planned end", "last": "the last observation"}.get(at, at.replace("_", " "))
    return f"at {words}" if words else ""


def arranged(answer: xr.Dataset, hue_dim: str | None, options: PictureOptions) -> xr.Dataset:
    """Return an answer with the labels along its dimensions in the order of the options.

    Parameters
    ----------
    answer : xarray.Dataset
    hue_dim : str or None
        Dimension of the colours.
    options : PictureOptions

    Raises
    ------
    UnknownNameError
        When the options label or order what the answer does not have.
    SelectionError
        When an order misses a label.
    """
    dims = [str(d) for d in answer.dims if d in answer.coords]
    options.check_order(hue_dim, dims)
    options.check_labels(labels_in(answer))
    for dim in dims:
        if options.orders(dim, is_hue=dim == hue_dim):
            labels = [label_along(answer, dim, k) for k in range(answer.sizes[dim])]
            places = [labels.index(v) for v in options.ordered(dim, labels, is_hue=dim == hue_dim)]
            answer = answer.isel({dim: [*places, *(k for k, v in enumerate(labels) if not is_given(v))]})
    return answer


def labels_in(answer: xr.Dataset) -> list[Any]:
    """Return what a label in the picture of an answer may be of: names of variables, and values of coordinates."""
    values = [v for n in answer.coords for v in np.ravel(answer[n].values).tolist()]
    return [*map(str, answer.variables), *map(str, answer.dims), *dict.fromkeys(v for v in values if is_given(v))]


def subject_of(answer: xr.Dataset, options: PictureOptions) -> str:
    """Return the metrics of an answer, for a caption.

    Examples
    --------
    >>> subject_of(xr.Dataset(coords={"metric": ["arc_easy", "piqa"]}), PictureOptions(labels={"piqa": "PIQA"}))
    'arc easy and PIQA'
    """
    if "metric" not in answer.coords:
        return ""
    metrics = np.atleast_1d(answer["metric"].values).tolist()
    names = metrics
    if "metric_label" in answer.coords and answer["metric_label"].size == len(metrics):
        names = np.atleast_1d(answer["metric_label"].values).tolist()
    return subject_text([options.label(m, label_of(n)) for m, n in zip(metrics, names, strict=True)])


def metric_names(answer: xr.Dataset, options: PictureOptions = NO_OPTIONS) -> dict[str, str]:
    """Return the names of an answer's metrics for titles and ticks: those of their tasks where these differ.

    Examples
    --------
    >>> labels = ["ARC-Easy, primary metric", "PIQA, primary metric"]
    >>> coords = {"metric": ["arc_easy", "piqa"], "metric_label": ("metric", labels)}
    >>> metric_names(xr.Dataset(coords=coords))
    {'arc_easy': 'ARC-Easy', 'piqa': 'PIQA'}
    """
    if "metric" not in answer.coords:
        return {}
    metrics = [str(m) for m in np.atleast_1d(answer["metric"].values)]
    labels = [label_of(m) for m in metrics]
    if "metric_label" in answer.coords and answer["metric_label"].size == len(metrics):
        labels = [str(v) for v in np.atleast_1d(answer["metric_label"].values)]
    tasks = [label.partition(", ")[0] for label in labels]
    shown = tasks if len(set(tasks)) == len(set(metrics)) else labels
    return {m: options.label(m, text) for m, text in zip(metrics, shown, strict=True)}


def metric_label(answer: xr.Dataset, name: str, options: PictureOptions = NO_OPTIONS) -> str:
    """Return the axis label of a variable: the name of the metric where the answer has several of them.

    Examples
    --------
    >>> of_two = xr.Dataset({"value": ((), 0.5, {"long_name": "metric"})}, {"metric": "arc_easy"})
    >>> metric_label(of_two, "value")
    'arc easy'
    """
    array, metric = answer[name], answer.coords.get("metric")
    if array.attrs.get("long_name", "").partition(",")[0] != "metric" or metric is None or metric.ndim:
        return options.label(name, axis_label(array))
    units = str(answer["units"].item()) if "units" in answer.coords and not answer["units"].ndim else ""
    named = answer.coords.get("metric_label")
    label = options.label(metric.item(), None if named is None or named.ndim else str(named.item())) + str(
        array.attrs["long_name"]
    ).removeprefix("metric")
    return axis_label(array.copy().assign_attrs(long_name=label, units=units))


def left_out_words(answer: xr.Dataset) -> str:
    """Return how many runs were left out and why, without their names; "" for none.

    Examples
    --------
    >>> left_out_words(xr.Dataset(attrs={"left_out": "a: no counterpart: 2 (c4-4M, c4-20M); no observation: 1"}))
    'left out: 2 (a: no counterpart), 1 (no observation)'
    """
    return left_out_text(str(answer.attrs.get("left_out", "")))


def hue_along(answer: xr.Dataset, dim: str | None, options: PictureOptions = NO_OPTIONS) -> Hue:
    """Return the colours along a dimension, or one colour for None."""
    if dim is None:
        return Hue("", "", {}, options)
    labels = [label_along(answer, dim, k) for k in range(answer.sizes[dim])]
    label = str(answer[dim].attrs.get("long_name", "")) if dim in answer.coords else ""
    # Those without a label have a colour, too, unless the palette names values.
    colours = options.colours(dim, labels)
    if not all(map(is_given, labels)):
        colours |= {"": NEUTRAL} if options.palette else colours_of([*(v for v in labels if is_given(v)), "none"])
        colours[""] = colours.pop("none", NEUTRAL)
    title = options.label(dim, label or dim.replace("_", " "))
    return Hue(dim, title, {v: colours[v if is_given(v) else ""] for v in labels}, options)


def facets_along(
    answer: xr.Dataset, dims: Sequence[str], shown: str, options: PictureOptions = NO_OPTIONS
) -> list[Facet]:
    """Return a panel for each combination of labels along some dimensions in which a variable has a value.

    Parameters
    ----------
    answer : xarray.Dataset
    dims : sequence of str
    shown : str
        Variable that panels without any value of are left out by.
    options : PictureOptions

    Raises
    ------
    SelectionError
        When nothing has a value, or there are too many panels.
    """
    found = []
    has_value = answer[shown].notnull()
    some = has_value.any([d for d in has_value.dims if d not in dims]).transpose(*dims).values
    for at in itertools.product(*(range(answer.sizes[d]) for d in dims)):
        if bool(some[at]):
            where = dict(zip(dims, at, strict=True))
            found.append(Facet(answer.isel(where), title_along(answer, where, options)))
    if not found:
        left_out = str(answer.attrs.get("left_out", ""))
        raise SelectionError(
            f"the answer has no number, so there is nothing to draw{f' (left out: {left_out})' if left_out else ''}. "
            "Select other runs, or ask at another place: at=..."
        )
    if len(found) > MOST_PANELS:
        raise SelectionError(
            f"the answer has {len(found)} panels along {', '.join(dims)}, more than can be looked at. Select fewer "
            "first: answer.sel(...) or answer.isel(...)."
        )
    return found


def title_along(answer: xr.Dataset, where: Mapping[str, int], options: PictureOptions = NO_OPTIONS) -> str:
    """Return the labels at some positions as a title: texts as they are, numbers after the name of their dimension."""
    texts = []
    for dim, k in where.items():
        value = label_along(answer, dim, k)
        named = isinstance(value, str) and value != ""
        text = _text_of(value, options, _names_along(answer, dim, options))
        texts.append(text if named else f"{options.label(dim, dim.replace('_', ' '))} {text}")
    return ", ".join(texts)


def _names_along(answer: xr.Dataset, dim: str, options: PictureOptions) -> Mapping[Any, str]:
    """Return names of labels along a dimension that are shorter than the labels: of metrics, and of runs.

    Answers call a run by all its hyperparameters: ``finetune_tokens=1e+08_epochs=1_max_train_samples=140000``.
    """
    if dim == "metric":
        return metric_names(answer, options)
    own = {str(n): c.values for n, c in answer.coords.items() if c.dims == (dim,) and n != dim}
    if dim != "run" or not own or "run" not in answer.coords:
        return {}
    rows = pd.DataFrame(own)
    names: list[str] = []
    count = 0
    for name in own:
        found = len(rows[[*names, name]].astype(str).drop_duplicates())
        has_none = not all(any(map(is_given, row)) for row in rows[names].itertuples(index=False))
        if found > max(count, 1) or (names and has_none):
            names, count = [*names, name], found
    labels = [str(v) for v in answer["run"].values]
    texts = labels_of(rows, names, short_names(names), options.label) if names else labels
    # A label of one part has no factors in it.
    named = {v: text for v, text in zip(labels, texts, strict=True) if "=" in v and text not in ("", "none")}
    return named if len(set(named.values())) == len(named) else {}


def _text_of(value: Any, options: PictureOptions, names: Mapping[Any, str] = MappingProxyType({})) -> str:
    """Return the label of the options for a value, else its name, else the value as a legend shows it."""
    return options.label(value, names.get(value)) if is_given(value) else "none"


def category_axis(
    answer: xr.Dataset, dim: str | None, name: str, descending: bool = False, options: PictureOptions = NO_OPTIONS
) -> Axis:
    """Return an axis with evenly spaced categories: the labels of a dimension.

    Parameters
    ----------
    answer : xarray.Dataset
    dim : str or None
        None for a single category without a label.
    name : str
        Of the axis, by which panels are linked.
    descending : bool, default False
        Whether the first label comes last, as on a vertical axis that is read from above.
    options : PictureOptions
    """
    if dim is None:
        return Axis(name, "", limits=(-0.5, 0.5), ticks=((0.0, " "),))
    labels = [label_along(answer, dim, k) for k in range(answer.sizes[dim])]
    names = _names_along(answer, dim, options)
    texts = [_shortened(_text_of(v, options, names)) for v in labels]
    title = str(answer[dim].attrs.get("long_name", "")) if dim in answer.coords else ""
    count = len(labels)
    ticks = tuple((float(count - 1 - k if descending else k), text) for k, text in enumerate(texts))
    label = options.label(dim, title or dim.replace("_", " "))
    return Axis(name, label, limits=(-0.5, count - 0.5), ticks=ticks)


def short_label(value: Any, options: PictureOptions = NO_OPTIONS) -> str:
    """Return a label as a tick shows it, shortened in the middle.

    Examples
    --------
    >>> short_label(2e-5), short_label(""), short_label("sft_lr=5e-06_100Mx1_seed=2+dpo_lr=2e-07_40000seqx1_beta=5")
    ('2e-5', 'none', 'sft_lr=5e-06_100Mx1_s…07_40000seqx1_beta=5')
    """
    return _shortened(_text_of(value, options))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[-(_LONGEST // 2 - 1) :]}"


def dot_elements(
    dots: Sequence[Dot], axes: tuple[Axis, Axis], backend: Backend, across: bool, marker: str
) -> list[Any]:
    """Return dots with bars as HoloViews elements.

    Parameters
    ----------
    dots : sequence of Dot
    axes : (Axis, Axis)
        Horizontal and vertical axis.
    backend : Backend
    across : bool
        Whether values are on the horizontal axis, and categories on the vertical one.
    marker : str
        Name of a marker in the backend.
    """
    import holoviews as hv

    dims = [hv.Dimension(axis.name) for axis in axes]
    value = axes[0] if across else axes[1]
    bars = []
    for d in dots:
        if np.isfinite(d.low) and np.isfinite(d.high):
            ends, position = [d.low, d.high], [d.position, d.position]
            bars.append((ends, position, d.colour) if across else (position, ends, d.colour))
    points = [(d.value, d.position) if across else (d.position, d.value) for d in dots]
    rows = [(*p, d.colour, d.name, d.note) for p, d in zip(points, dots, strict=True)]
    tooltips = [("", "@what"), (value.label, f"@{{{value.name}}}{{0.00000}}"), ("", "@note")]
    options = backend.points("colour", marker, False, tooltips)
    shown = coloured_points(dims, rows, ["colour", "what", "note"], options)
    return [*coloured_lines(dims, bars, backend.line("colour")), *shown]


def value_axis(name: str, label: str, dots: Sequence[Dot], zero: bool = False) -> Axis:
    """Return the axis of values that shows all dots with their intervals, and zero if wanted."""
    ends = [v for d in dots for v in (d.value, d.low, d.high) if np.isfinite(v)]
    return Axis(name, label, limits=padded_range([*ends, *([0.0] if zero else [])]))


def interval_label(answer: xr.Dataset) -> str:
    """Return what bars and bands are, for a legend; "" where the answer has no intervals, as of single runs.

    Examples
    --------
    >>> interval_label(xr.Dataset(attrs={"interval": 0.95, "interval_method": "Student's t over seed"}))
    "95% interval (Student's t over seed)"
    """
    level = answer.attrs.get("interval", "none")
    return (
        ""
        if level == "none" or not has_bounds(answer)
        else f"{float(level):.0%} interval ({answer.attrs.get('interval_method', '')})"
    )


def has_bounds(answer: xr.Dataset) -> bool:
    """Return whether a value of an answer has an interval; True where the answer has no variables of bounds.

    Examples
    --------
    >>> has_bounds(xr.Dataset({"low": ("params", [0.5, float("nan")])})), has_bounds(xr.Dataset({"low": float("nan")}))
    (True, False)
    """
    # In laws, x_low is the smallest size.
    bounds = [n for n in map(str, answer.data_vars) if n == "low" or (n.endswith("_low") and n != "x_low")]
    return not bounds or any(bool(answer[n].notnull().any()) for n in bounds)


def interval_entries(answer: xr.Dataset, backend: Backend, is_band: bool) -> list[LegendEntry]:
    """Return the legend entry of the interval, where the answer has any."""
    label = interval_label(answer)
    if not label or not bool((answer["high"] > answer["low"]).any()):
        return []
    kind: Any = "marker" if is_band else "line"
    return [LegendEntry(label, backend.interval_sample(INK) if is_band else backend.line(INK), kind)]
