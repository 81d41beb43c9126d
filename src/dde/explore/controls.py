"""The widgets of the page, and the choices they represent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import panel as pn
import xarray as xr

from dde.curves.axes import AXES
from dde.dataset.naming import listed_value
from dde.errors import UnknownNameError, near_names
from dde.explore.choices import BANDS, GRIDS, INTERPOLATIONS, Choices
from dde.explore.filters import Filters
from dde.explore.listing import runs_of, starting_lineages, starting_metric
from dde.plots.defaults import default_hue

__all__ = ["INITIAL", "Controls"]

# Entries of a long list that are on the page at once; the others are found by typing.
_LISTED = 60
_NONE = "none"

#: Names of widgets whose initial value :func:`dde.explore.page.explore` takes, besides the filters of the suite.
INITIAL = (
    "lineage", "run", "metrics", "x", "log_x", "grid", "points", "interp", "hue_by", "style_by", "facet_by", "band",
    "zoom", "log_y", "relative_to",
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
    """

    def __init__(self, dataset: xr.Dataset, initial: Mapping[str, Any], changed: Callable[[], None]) -> None:
        self._dataset, self._runs, self._changed = dataset, runs_of(dataset), changed
        self._filters = Filters.of(dataset, self._runs, (*INITIAL, "tuned"))
        self._ignores_events = True
        self.widgets: dict[str, Any] = {
            **{key: _several(f.label, f.options) for key, f in self._filters.of_lineages.items()},
            "tuned": pn.widgets.Checkbox(label=f"only with matching {self._filters.noun}", margin=(0, 10, 6, 10)),
            "lineage": _several("Lineages", [], placeholder="type to search"),
            **{key: _several(f.label, f.options) for key, f in self._filters.of_runs.items()},
            "run": _several("Runs", []),
            "metrics": _several(
                "To draw, side by side", list(map(str, dataset.data_vars)), placeholder="type to search"
            ),
            "x": _one("Axis", {rule.label: name for name, rule in AXES.items()}),
            "log_x": pn.widgets.Checkbox(label="logarithmic axis", margin=(2, 10)),
            "log_y": pn.widgets.Checkbox(label="logarithmic values", margin=(2, 10)),
            "zoom": pn.widgets.Checkbox(label="enlarge what follows the branch", value=True, margin=(2, 10, 8, 10)),
            "relative_to": _one("Values", {"as they are": "", "difference to the base": "base"}),
            "grid": _one("Grid", list(GRIDS)),
            "points": pn.widgets.IntInput(label="Points", value=200, start=2, end=4096, step=50, **_WIDE),
            "interp": _one("Between observations", list(INTERPOLATIONS)),
            "hue_by": _one("Colour", _coordinates(dataset, types=True)),
            "style_by": _one("Marker", _coordinates(dataset, types=True)),
            "facet_by": _one("Rows", _coordinates(dataset, types=False)),
            "band": _one("Band", list(dict.fromkeys([*BANDS[:1], *self._filters.bands]))),
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
            band=chosen["band"],
            zoom=chosen["zoom"],
            **{name: chosen[name] or None for name in ("hue_by", "style_by", "facet_by", "relative_to")},
        )

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
            _heading("Axes and grid"), w["x"], w["relative_to"], w["log_x"], w["log_y"], w["zoom"],
            pair("grid", "points"), w["interp"],
            _heading("Look"), pair("hue_by", "style_by"), pair("facet_by", "band"),
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
            widget.param.update(options=matching, value=chosen)
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
        if not hasattr(widget, "options"):
            widget.value = value
            return
        known = list(widget.options.values()) if isinstance(widget.options, dict) else list(widget.options)
        several = isinstance(widget, pn.widgets.MultiChoice)
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


def _several(name: str, options: Any, placeholder: str = "all") -> Any:
    return pn.widgets.MultiChoice(
        label=name, options=options, placeholder=placeholder, option_limit=_LISTED, search_option_limit=_LISTED, **_WIDE
    )


def _one(name: str, options: Any) -> Any:
    return pn.widgets.Select(label=name, options=options, **_WIDE)


def _heading(text: str) -> Any:
    return pn.pane.HTML(f"<h2>{text}</h2>", sizing_mode="stretch_width", margin=(8, 10, 0, 10), stylesheets=[_HEADING])


_HEADING = (
    "h2 { font-size: 13px; font-weight: 600; margin: 4px 0 0; color: #3b4252; border-bottom: 1px solid #e3e6ec; }"
)


def _coordinates(dataset: xr.Dataset, types: bool) -> dict[str, str]:
    """Return the coordinates that can distinguish runs, after the option for none."""
    names = [str(name) for name, c in dataset.coords.items() if "cumulative_tokens" not in c.dims]
    return {_NONE: ""} | {n.replace("_", " "): n for n in [*names, *(["checkpoint_type"] if types else [])]}
