"""Choices of the application, the Dataset they select, and code that makes the same selection."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any, get_args

import numpy as np
import xarray as xr

from dde.curves.alignment import Method
from dde.curves.grids import TokenGrid
from dde.dataset.samples import metrics_alone
from dde.errors import SelectionError, UnknownNameError, near_names
from dde.plots.curves import plot_curves
from dde.plots.defaults import default_hue
from dde.printable import printable
from dde.schema import DIMS, PRETRAINING, is_datadecide

__all__ = [
    "GRIDS",
    "INTERPOLATIONS",
    "Choices",
    "Opened",
    "apply",
    "call_code",
    "check_dataset",
    "code_of",
    "plot_options",
    "source_code",
    "text_literal",
]

#: Names of grids in the application. The last three take a number of points.
GRIDS = ("as opened", "auto", "observed", "linear", "log", "quantile")
#: Interpolation methods; the first is the one with which the Dataset was opened.
INTERPOLATIONS = ("as opened", *get_args(Method))

_WIDTH = 100


@dataclass(frozen=True)
class Choices:
    """Choices in the application.

    Attributes
    ----------
    lineages : tuple of str
        Labels.
    runs : tuple of str, or None
        Labels of derived runs; None for all of them. The base is always included, as when a Dataset is opened. In
        suites other than DataDecide, labels of any runs.
    metrics : tuple of str
    x : str
        One of :data:`dde.curves.axes.AXES`.
    log_x : bool
    grid : str
        One of `GRIDS`.
    points : int
        Number of points of a linear, log or quantile grid.
    interp : str
        One of `INTERPOLATIONS`.
    hue_by, style_by, facet_by : str or None
        Coordinates that distinguish runs.
    band : tuple of str
        Factors that means are over, drawn with their interval; none when empty.
    group_by : str or None
        Coordinate; runs with the same value of it are drawn as their mean with the range from lowest to highest.
    min_count : int or None
        Runs that must have a value for a mean to be drawn; all of them when None.
    smooth : float or None
        Tokens over which curves are smoothed.
    zoom : bool
        Enlarge curves after the branch where :func:`dde.plots.curves.plot_curves` does by default.
    log_y : bool
    relative_to : str or None
        "base" for the difference to it, or the id of a run for the difference to that run.

    Examples
    --------
    >>> Choices(("dolma1_7-4M-default",), None, ("piqa",)).x
    'cumulative_tokens'
    """

    lineages: tuple[str, ...]
    runs: tuple[str, ...] | None
    metrics: tuple[str, ...]
    x: str = "cumulative_tokens"
    log_x: bool = False
    grid: str = GRIDS[0]
    points: int = 200
    interp: str = INTERPOLATIONS[0]
    hue_by: str | None = "learning_rate"
    style_by: str | None = "checkpoint_type"
    facet_by: str | None = "lineage"
    band: tuple[str, ...] = ()
    group_by: str | None = None
    min_count: int | None = None
    smooth: float | None = None
    zoom: bool = True
    log_y: bool = False
    relative_to: str | None = None

    @property
    def data_key(self) -> tuple[object, ...]:
        """The choices that decide which values are loaded; the others affect appearance only."""
        return self.lineages, self.runs, self.metrics, self.grid, self.points, self.interp


@dataclass(frozen=True)
class Opened:
    """How a Dataset was opened, so that code can open it again.

    Attributes
    ----------
    function : str
        ``dde.open_lineages`` or the like.
    arguments : tuple of str
        Source code of its first arguments, without credentials.
    options : tuple of (str, object)
        Its keywords except ``metrics``: code opens only the metrics shown.
    imports : tuple of str
        Modules that the arguments need, besides dde.
    """

    function: str
    arguments: tuple[str, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    imports: tuple[str, ...] = ()

    def code(self, metrics: Sequence[str]) -> str:
        """Return the expression that opens the Dataset with these metrics."""
        return call_code(self.function, self.arguments, {**dict(self.options), "metrics": list(metrics)})


@dataclass(frozen=True)
class _Code:
    """A value whose source code differs from its repr."""

    text: str
    value: Any


def check_dataset(dataset: xr.Dataset) -> None:
    """Raise when a Dataset can't be explored: a dimension is missing, or it is empty.

    Raises
    ------
    SelectionError
    """
    missing = [dim for dim in DIMS if dim not in dataset.dims]
    if missing:
        raise SelectionError(
            f"the Dataset has no dimension {' and '.join(missing)} any more, so there is nothing to choose from along "
            "it. Select with a list to keep the dimension: ds.dde.sel(lineage=[...])."
        )
    empty = [dim for dim in DIMS if not dataset.sizes[dim]]
    if empty or not dataset.data_vars:
        raise SelectionError(
            f"the Dataset has no {' and no '.join(empty) or 'metric'}, so there is nothing to explore. "
            "Open it with other filters, or with metrics=[...]."
        )


def apply(dataset: xr.Dataset, choices: Choices) -> xr.Dataset:
    """Return the chosen part of a Dataset on the chosen grid; lazy if the Dataset is.

    Raises
    ------
    SelectionError
        When nothing is chosen, or nothing matches.
    UnknownNameError
        When a metric does not exist.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", metrics=["piqa", "train_loss"])
    >>> shown = apply(ds, Choices(("dolma1_7-4M-default",), None, ("piqa",), grid="linear", points=8))
    >>> list(shown.data_vars), shown.sizes["lineage"], shown.sizes["cumulative_tokens"] >= 8
    (['piqa'], 1, True)
    """
    shown = metrics_alone(dataset, _known_metrics(dataset, choices))
    for method, arguments in _steps(dataset, choices):
        values = {name: v.value if isinstance(v, _Code) else v for name, v in arguments.items()}
        shown = getattr(shown.dde, method)(**values)
    return shown


def plot_options(choices: Choices, dataset: xr.Dataset | None = None) -> dict[str, Any]:
    """Return the chosen arguments of ``ds.dde.plot``, except those that equal its defaults.

    Parameters
    ----------
    choices : Choices
    dataset : xarray.Dataset, optional
        The explored Dataset. In suites other than DataDecide the colour is always included, because its default
        depends on the runs shown.

    Examples
    --------
    >>> plot_options(Choices(("a",), None, ("piqa",), log_x=True, facet_by=None))
    {'y': ['piqa'], 'log_x': True, 'facet_by': None}
    """
    known = inspect.signature(plot_curves).parameters
    chosen = {
        # The axis of an explored Dataset is that of tokens.
        "x": None if choices.x == "cumulative_tokens" else choices.x,
        "log_x": choices.log_x or None,
        "log_y": choices.log_y,
        "hue_by": choices.hue_by,
        "style_by": choices.style_by,
        "facet_by": choices.facet_by,
        "band": (choices.band[0] if len(choices.band) == 1 else list(choices.band)) or None,
        "group_by": choices.group_by,
        "min_count": choices.min_count if choices.band or choices.group_by else None,
        "smooth": choices.smooth,
        "relative_to": choices.relative_to,
        "zoom": None if choices.zoom else False,
    }
    chosen = {n: v for n, v in chosen.items() if n in known}
    defaults = {n: known[n].default for n in chosen}
    if dataset is None or is_datadecide(dataset):
        defaults["hue_by"] = default_hue(dataset) if dataset is not None else "learning_rate"
    return {"y": list(choices.metrics)} | {n: v for n, v in chosen.items() if v != defaults[n]}


def code_of(dataset: xr.Dataset, choices: Choices, opened: Opened | None = None) -> str:
    """Return code that makes the same selection as :func:`apply`, named ``shown``, and its picture.

    Parameters
    ----------
    dataset : xarray.Dataset
    choices : Choices
    opened : Opened, optional
        How the Dataset was opened. Without it, the code assumes a Dataset named ``ds``.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", metrics=["piqa"])
    >>> how = Opened("dde.tutorial.open_lineages", ('"tiny"',))
    >>> print(code_of(ds, Choices(("dolma1_7-4M-default",), None, ("piqa",)), how))
    import dde
    <BLANKLINE>
    ds = dde.tutorial.open_lineages("tiny", metrics=["piqa"])
    shown = ds[["piqa"]].dde.sel(lineage=["dolma1_7-4M-default"])
    picture = shown.dde.plot(y=["piqa"])
    """
    metrics = _known_metrics(dataset, choices)
    if opened is None:
        sources = [dataset.attrs.get(n) for n in ("source", "pretraining_source", "posttraining_source")]
        # Keep it on one line: a second line of the comment would be code.
        named = " ".join(printable(" and ".join(filter(None, sources)) or "memory").split())
        lines = ["import dde", "", f"# ds is the Dataset that was explored, opened from {named}."]
    else:
        lines = [*(f"import {name}" for name in sorted({"dde", *opened.imports})), ""]
        lines.append(f"ds = {opened.code(metrics)}")
    target = f"ds[{source_code(metrics)}]"
    for method, arguments in _steps(dataset, choices):
        lines.append(f"shown = {call_code(f'{target}.dde.{method}', (), arguments)}")
        target = "shown"
    lines.append(f"picture = {call_code('shown.dde.plot', (), plot_options(choices, dataset))}")
    return "\n".join(lines)


def _known_metrics(dataset: xr.Dataset, choices: Choices) -> list[str]:
    if not choices.metrics:
        raise SelectionError("no metric is chosen, so there is nothing to draw. Choose one.")
    for name in choices.metrics:
        if name not in dataset.data_vars:
            raise UnknownNameError(
                f"{name!r} is not a metric of this Dataset, so it can't be shown."
                f"{near_names(name, map(str, dataset.data_vars))} Choose another, or open the Dataset with it."
            )
    return list(choices.metrics)


def _steps(dataset: xr.Dataset, choices: Choices) -> list[tuple[str, dict[str, Any]]]:
    """Return the methods of ``.dde`` that make the selection, with their arguments."""
    if not choices.lineages:
        raise SelectionError("no lineage is chosen, so there is nothing to draw. Choose one, or loosen a filter.")
    selected: dict[str, Any] = {"lineage": list(choices.lineages)}
    if choices.runs is not None:
        if not choices.runs:
            kind = "post-training run" if is_datadecide(dataset) else "run"
            raise SelectionError(f"no {kind} matches, so there is nothing to draw. Loosen a filter on runs.")
        # In other suites, curves show the bases they left, and bases are chosen like any other run.
        base = [PRETRAINING] if is_datadecide(dataset) and PRETRAINING in dataset["run"].values else []
        selected["run"] = [*base, *choices.runs]
    steps = [("sel", selected)]
    if (choices.grid, choices.interp) != (GRIDS[0], INTERPOLATIONS[0]):
        steps.append(("align", _alignment(dataset, choices)))
    return steps


def _alignment(dataset: xr.Dataset, choices: Choices) -> dict[str, Any]:
    _check_name("grid", choices.grid, GRIDS)
    _check_name("interp", choices.interp, INTERPOLATIONS)
    grids: dict[str, Any] = {
        "as opened": _Code('ds["cumulative_tokens"].values', dataset["cumulative_tokens"].values),
        "auto": "auto",
        "observed": "union",
    }
    if choices.grid in grids:
        grid = grids[choices.grid]
    else:
        make = f"dde.TokenGrid.{choices.grid}({choices.points})"
        grid = _Code(make, getattr(TokenGrid, choices.grid)(choices.points))
    arguments: dict[str, Any] = {"grid": grid}
    if choices.interp != INTERPOLATIONS[0]:
        arguments["interp"] = choices.interp
    return arguments


def _check_name(argument: str, name: str, known: Iterable[str]) -> None:
    known = list(known)
    if name not in known:
        raise UnknownNameError(
            f"{argument}={name!r} is not known, so nothing is shown.{near_names(name, known)} "
            f"There are {', '.join(known)}."
        )


def call_code(function: str, arguments: Sequence[str], options: Mapping[str, Any]) -> str:
    """Return the source code of a call, with a line for each argument when it does not fit one line.

    Parameters
    ----------
    function : str
    arguments : sequence of str
        Source code of the positional arguments.
    options : mapping of str to value
        Keyword arguments.

    Examples
    --------
    >>> call_code("ds.dde.best", ['"piqa"'], {"at": "last"})
    'ds.dde.best("piqa", at="last")'
    >>> call_code("ds.dde.sel", [], {"batch size": 32})
    'ds.dde.sel(**{"batch size": 32})'
    """

    def keywords(spread: bool) -> list[str]:
        # Factors of a suite may have names that are no identifiers.
        plain = {n: v for n, v in options.items() if n.isidentifier() and not iskeyword(n)}
        others = {n: v for n, v in options.items() if n not in plain}
        written = [f"{name}={source_code(value, spread)}" for name, value in plain.items()]
        return [*written, *([f"**{source_code(others)}"] if others else [])]

    parts = [*arguments, *keywords(spread=False)]
    line = f"{function}({', '.join(parts)})"
    if len(line) <= _WIDTH:
        return line
    spread = [*arguments, *keywords(spread=True)]
    return "\n".join([f"{function}(", *(f"    {part}," for part in spread), ")"])


def text_literal(text: str) -> str:
    """Return the source code of a text in double quotes, without characters that could disguise the code.

    Examples
    --------
    >>> text_literal('a "name"')
    '"a \\\\"name\\\\""'
    """
    return printable(json.dumps(text, ensure_ascii=False))


def source_code(value: Any, spread: bool = False) -> str:
    """Return the source code of a value, with texts in double quotes; with `spread`, long lists over several lines.

    Examples
    --------
    >>> source_code({"params": ["4M", "1B"]})
    '{"params": ["4M", "1B"]}'
    """
    if isinstance(value, _Code):
        return value.text
    if isinstance(value, str):
        return text_literal(value)
    if isinstance(value, (list, tuple)):
        items = [source_code(item) for item in value]
        line = f"[{', '.join(items)}]"
        if not spread or len(line) <= _WIDTH - 24:
            return line
        return "\n".join(["[", *(f"        {item}," for item in items), "    ]"])
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{source_code(key)}: {source_code(item)}' for key, item in value.items())}}}"
    if isinstance(value, slice):
        return f"slice({source_code(value.start)}, {source_code(value.stop)})"
    return repr(value.item() if isinstance(value, np.generic) else value)
