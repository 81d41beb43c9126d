"""The widgets of the page, and the choices they represent."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import panel as pn
import xarray as xr

from dde.curves.axes import AXES
from dde.dataset.naming import listed_value
from dde.errors import SelectionError, UnknownNameError, near_names
from dde.explore.choices import GRIDS, INTERPOLATIONS, Choices
from dde.explore.filters import Filters
from dde.explore.listing import runs_of, starting_lineages, starting_metric
from dde.explore.tabs import Marks
from dde.explore.widget_texts import parsed
from dde.plots.defaults import default_hue
from dde.printable import printable

__all__ = ["CLICKABLE_LABEL", "INITIAL", "PINNED", "Controls", "literal_options"]

#: Value of the widget ``relative_to`` for the run that is pinned.
PINNED = "pinned"

# Entries of a long list that are on the page at once; the others are found by typing.
_LISTED = 60
_NONE = "none"

#: Names of widgets whose initial value :func:`dde.explore.page.explore` takes, besides the filters of the suite.
INITIAL = (
    "lineage", "run", "metrics", "x", "log_x", "grid", "points", "interp", "hue_by", "style_by", "facet_by", "band",
    "group_by", "min_count", "smooth", "zoom", "log_y", "relative_to", "tuned",
)  # fmt: skip


class Controls:
    """The widgets for one Dataset.

    Parameters
    ----------
    dataset : xarray.Dataset
    initial : mapping
        Initial values, one or several each, by the names in `INITIAL` and of the filters.
    changed : callable
        Called once after each change of the choices.
    marks : Marks, optional
        Those of the page; its baseline is the run to which differences are shown.
    """

    def __init__(
        self,
        dataset: xr.Dataset,
        initial: Mapping[str, Any],
        changed: Callable[[], None],
        marks: Marks | None = None,
    ) -> None:
        self._dataset, self._runs, self._changed = dataset, runs_of(dataset), changed
        self._marks = marks or Marks()
        self._filters = Filters.of(dataset, self._runs, INITIAL)
        self._ignores_events = True
        self.widgets: dict[str, Any] = {
            **{key: _several(f.label, f.options) for key, f in self._filters.of_lineages.items()},
            "tuned": _check(f"only with matching {self._filters.noun}", (0, 10, 6, 10)),
            "lineage": _several("Lineages", [], placeholder="type to search"),
            **{key: _several(f.label, f.options) for key, f in self._filters.of_runs.items()},
            "run": _several("Runs", []),
            "metrics": _several(
                "To draw, side by side", list(map(str, dataset.data_vars)), placeholder="type to search"
            ),
            "x": _one("Axis", {rule.label: name for name, rule in AXES.items()}),
            "log_x": _check("logarithmic axis", (2, 10)),
            "log_y": _check("logarithmic values", (2, 10)),
            "zoom": _check("enlarge what follows the branch", (2, 10, 8, 10), value=True),
            "relative_to": _one(
                "Values",
                {"as they are": "", "difference to the base": "base", "difference to the pinned run": PINNED},
            ),
            "smooth": pn.widgets.FloatSlider(
                label="Smoothing, billions of tokens",
                start=0,
                end=_most_smoothing(dataset),
                step=0.01,
                value=0,
                **_WIDE,
            ),
            "grid": _one("Grid", list(GRIDS)),
            "points": pn.widgets.IntInput(label="Points", value=200, start=2, end=4096, step=50, **_WIDE),
            "interp": _one("Between observations", list(INTERPOLATIONS)),
            "hue_by": _one("Colour", _coordinates(dataset, types=True)),
            "style_by": _one("Marker", _coordinates(dataset, types=True)),
            "facet_by": _one("Panels for each", _coordinates(dataset, types=False)),
            "group_by": _one("Group by", _coordinates(dataset, types=False)),
            "band": _several("Mean over", list(dict.fromkeys(self._filters.bands)), "none"),
            "min_count": pn.widgets.IntInput(label="Runs for a mean", value=None, start=1, placeholder="all", **_WIDE),
        }
        w = self.widgets
        w["hue_by"].value, w["style_by"].value = default_hue(dataset) or "", "checkpoint_type"
        w["facet_by"].value = "lineage"
        self._start(initial)
        for name, widget in w.items():
            # Watching "value" ignores text that is still being typed.
            widget.param.watch(lambda event, name=name: self._on_change(name), "value")
        self._ignores_events = False

    @property
    def choices(self) -> Choices:
        """The current choices."""
        chosen = {name: widget.value for name, widget in self.widgets.items()}
        matching = self._matching_runs()
        picked = [run for run in chosen["run"] if run in matching]
        everything = not any(chosen[key] for key in (*self._filters.of_runs, "run"))
        order = {str(label): i for i, label in enumerate(self._dataset["lineage"].values)}
        return Choices(
            lineages=tuple(sorted(chosen["lineage"], key=order.__getitem__)),
            runs=None if everything else tuple(picked or matching),
            metrics=tuple(chosen["metrics"]),
            x=chosen["x"],
            log_x=chosen["log_x"],
            log_y=chosen["log_y"],
            grid=chosen["grid"],
            points=chosen["points"] or 2,
            interp=chosen["interp"],
            band=tuple(chosen["band"]),
            min_count=chosen["min_count"],
            # The slider counts in billions.
            smooth=1e9 * chosen["smooth"] or None,
            zoom=chosen["zoom"],
            relative_to=self._reference(chosen["relative_to"]),
            **{name: chosen[name] or None for name in ("hue_by", "style_by", "facet_by", "group_by")},
        )

    @property
    def values(self) -> dict[str, Any]:
        """The values of all widgets, by name; `smooth` in tokens."""
        values = {name: widget.value for name, widget in self.widgets.items()}
        return values | {"smooth": 1e9 * values["smooth"]}

    def parse(self, texts: Mapping[str, Sequence[str]]) -> tuple[dict[str, Any], list[str]]:
        """Return values of widgets from their texts, as an address has them, and what is wrong with the others.

        Parameters
        ----------
        texts : mapping of str to sequence of str
            By the name of the widget; names of no widget are left alone.

        Returns
        -------
        values : dict
            For :meth:`set`.
        problems : list of str
        """
        values: dict[str, Any] = {}
        problems: list[str] = []
        for name, parts in texts.items():
            widget = self.widgets.get(name)
            if widget is None:
                continue
            if not hasattr(widget, "options"):
                try:
                    values[name] = parsed(widget, parts[-1])
                except ValueError:
                    problems.append(f"{name}={parts[-1]} is not a value that the address can set, so it is ignored.")
                continue
            if name in ("lineage", "run"):
                # Their options depend on filters.
                known = {str(v): v for v in self._dataset[name].values.tolist()}
            else:
                options = widget.options.values() if isinstance(widget.options, dict) else widget.options
                known = {str(option): option for option in options}
            problems += [
                f"{name}={part} is not among the choices any more, so the address can't choose it."
                for part in parts
                if part not in known and part
            ]
            chosen = [known[part] for part in parts if part in known]
            if isinstance(widget, pn.widgets.MultiChoice):
                if chosen or not any(parts):
                    values[name] = chosen
            elif chosen:
                values[name] = chosen[-1]
        return values, problems

    def set(self, values: Mapping[str, Any]) -> None:
        """Set widgets to values as :attr:`values` gives them, and call `changed` once.

        Raises
        ------
        UnknownNameError
            When a value is not among the choices.
        """
        with self._without_events():
            self._start(values)
        self._changed()

    @contextmanager
    def silently(self) -> Iterator[None]:
        """Do not call `changed` meanwhile."""
        changed, self._changed = self._changed, lambda: None
        try:
            yield
        finally:
            self._changed = changed

    def _reference(self, chosen: str) -> str | None:
        if chosen != PINNED:
            return chosen or None
        if not self._marks.baseline:
            raise SelectionError(
                "no run is pinned, so there is nothing to show differences to. Pin one in the list of runs, or show "
                "values as they are."
            )
        return self._marks.baseline

    def panel(self) -> Any:
        """Return the widgets in one column with headings."""
        w = self.widgets

        def pair(*keys: str) -> Any:
            return pn.Row(*(w[key] for key in keys), sizing_mode="stretch_width", margin=0)

        lineages, runs = ([pair(*keys) for keys in rows] for rows in self._filters.rows())
        return pn.Column(
            _heading("Metrics"), w["metrics"],
            _heading("Lineages"), *lineages, w["tuned"], w["lineage"],
            _heading(self._filters.noun[0].upper() + self._filters.noun[1:]), *runs,
            _heading("Axes and values"), w["x"], w["relative_to"], w["log_x"], w["log_y"], w["zoom"], w["smooth"],
            _heading("Look and groups"), pair("hue_by", "style_by"), pair("facet_by", "group_by"),
            pair("band", "min_count"),
            _heading("Grid"), pair("grid", "points"), w["interp"],
            sizing_mode="stretch_width", margin=0,
        )  # fmt: skip

    # Dependencies between widgets

    def _on_change(self, name: str) -> None:
        if self._ignores_events:
            return
        with self._without_events():
            if name in ("tuned", *self._filters.of_lineages, *self._filters.of_runs):
                self._list(keep=True)
            self.widgets["points"].disabled = self.widgets["grid"].value not in GRIDS[-3:]
        self._changed()

    @contextmanager
    def _without_events(self) -> Iterator[None]:
        before, self._ignores_events = self._ignores_events, True
        try:
            yield
        finally:
            self._ignores_events = before

    def _matching_runs(self) -> list[str]:
        chosen = {key: self.widgets[key].value for key in self._filters.of_runs}
        return self._filters.matching_runs(self._runs, chosen)

    def _matching_lineages(self) -> list[str]:
        runs = None if not self.widgets["tuned"].value else self._matching_runs()
        chosen = {key: self.widgets[key].value for key in self._filters.of_lineages}
        return self._filters.matching_lineages(self._dataset, chosen, runs)

    def _list(self, keep: bool) -> None:
        """List the matching lineages and runs; with `keep`, chosen ones that still match stay chosen."""
        runs, lineages = self._matching_runs(), self._matching_lineages()
        for name, matching in (("run", runs), ("lineage", lineages)):
            widget = self.widgets[name]
            chosen = [value for value in widget.value if value in set(matching)] if keep else []
            if name == "lineage" and not chosen and matching:
                chosen = starting_lineages(self._dataset, matching)
            widget.param.update(options=literal_options(matching), value=chosen)
        total = self._dataset.sizes["lineage"]
        of = f"{len(lineages)} of {total}" if len(lineages) < total else f"{total}"
        self.widgets["lineage"].label = f"Lineages to show ({of} to choose from)"
        self.widgets["run"].label = f"Treatments ({len(runs)})"

    def _start(self, initial: Mapping[str, Any]) -> None:
        filters = (*self._filters.of_lineages, *self._filters.of_runs)
        known = (*filters, *INITIAL)
        for name in initial:
            if name not in known:
                raise UnknownNameError(
                    f"{name!r} is not the name of a choice, so the application can't start with it."
                    f"{near_names(name, known)} There are {', '.join(known)}."
                )
        for name in filters:
            if name in initial:
                self._set(name, initial[name])
        self._list(keep=False)
        for name in INITIAL:
            if name in initial and name not in filters:
                self._set(name, initial[name])
        w = self.widgets
        if "metrics" not in initial:
            w["metrics"].value = [starting_metric(self._dataset, w["lineage"].value)] if w["lineage"].value else []
        w["points"].disabled = w["grid"].value not in GRIDS[-3:]

    def _set(self, name: str, value: Any) -> None:
        widget = self.widgets[name]
        if name == "relative_to" and value not in ("", None, "base", PINNED):
            # The id of a run, as in code.
            self._marks.baseline, value = str(value), PINNED
        if not hasattr(widget, "options"):
            widget.value = (value or 0) / 1e9 if name == "smooth" else value
            return
        known = list(widget.options.values()) if isinstance(widget.options, dict) else list(widget.options)
        several = isinstance(widget, pn.widgets.MultiChoice)
        if several and value in (None, "none"):
            value = []
        values = [value] if not several or isinstance(value, (str, float, int)) else list(value)
        values = [listed_value(self._dataset, name, "" if v is None else v) for v in values]
        for v in values:
            if v not in known:
                few = ", ".join(map(str, known[:_LISTED_IN_ERRORS]))
                few += ", ..." if len(known) > _LISTED_IN_ERRORS else ""
                raise UnknownNameError(
                    f"{name}={v!r} is not among the choices, so the application can't start with it."
                    f"{near_names(str(v), map(str, known))} There are {few}."
                )
        widget.value = values if several else values[0]


# Choices that an error lists.
_LISTED_IN_ERRORS = 12
_WIDE: dict[str, Any] = {"sizing_mode": "stretch_width", "min_width": 110}
#: Style of a check box whose label can be clicked, too: in Bokeh's markup the label does not belong to the box, so the
#: box is stretched over both, and its mark is drawn beside the text.
CLICKABLE_LABEL = """
:host { position: relative; }
input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: pointer; z-index: 1; }
.bk-label { display: flex; align-items: center; gap: 6px; margin: 0; }
.bk-label::before {
  content: ""; width: 13px; height: 13px; line-height: 13px; border: 1.5px solid #7d8491; border-radius: 3px;
  box-sizing: border-box; background: white; color: white; font-size: 11px; text-align: center; flex: none;
}
input:checked + .bk-label::before { content: "\\2713"; background: #4c6a92; border-color: #4c6a92; line-height: 11px; }
input:focus-visible + .bk-label::before { outline: 2px solid #0072b2; outline-offset: 1px; }
"""


def literal_options(options: Sequence[Any] | Mapping[str, Any]) -> list[Any] | dict[str, Any]:
    """Return options whose labels a list with search shows as they are: it takes them for HTML.

    Examples
    --------
    >>> literal_options(["C4", "<i>"])
    {'C4': 'C4', '&lt;i&gt;': '<i>'}
    """
    by_label = dict(options) if isinstance(options, Mapping) else {str(option): option for option in options}
    escaped = {html.escape(printable(label)): value for label, value in by_label.items()}
    # A list stays one where it can.
    return list(options) if not isinstance(options, Mapping) and set(escaped) == set(by_label) else escaped


def _several(name: str, options: Any, placeholder: str = "all") -> Any:
    return pn.widgets.MultiChoice(
        label=name,
        options=literal_options(options),
        placeholder=placeholder,
        option_limit=_LISTED,
        search_option_limit=_LISTED,
        **_WIDE,
    )


def _check(name: str, margin: tuple[int, ...], value: bool = False) -> Any:
    return pn.widgets.Checkbox(label=name, value=value, margin=margin, stylesheets=[CLICKABLE_LABEL])


def _one(name: str, options: Any) -> Any:
    return pn.widgets.Select(label=name, options=options, **_WIDE)


def _most_smoothing(dataset: xr.Dataset) -> float:
    """Return the widest window of the slider in billions of tokens: a tenth of the axis, with two digits."""
    known = "cumulative_tokens" in dataset.coords
    tokens = float(np.nanmax(dataset.variables["cumulative_tokens"].values, initial=0.0)) if known else 0.0
    return max(float(f"{tokens / 1e10:.1g}"), 0.1)


def _heading(text: str) -> Any:
    return pn.pane.HTML(f"<h2>{text}</h2>", sizing_mode="stretch_width", margin=(8, 10, 0, 10), stylesheets=[_HEADING])


_HEADING = (
    "h2 { font-size: 13px; font-weight: 600; margin: 4px 0 0; color: #3b4252; border-bottom: 1px solid #e3e6ec; }"
)


def _coordinates(dataset: xr.Dataset, types: bool) -> dict[str, str]:
    """Return the coordinates that can distinguish runs, after the option for none."""
    # Of a Dataset of thousands of metrics, variables are looked up much faster than arrays with their coordinates.
    names = [str(name) for name in dataset.coords if "cumulative_tokens" not in dataset.variables[name].dims]
    return {_NONE: ""} | {n.replace("_", " "): n for n in [*names, *(["checkpoint_type"] if types else [])]}
