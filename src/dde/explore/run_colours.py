"""Colours of runs by a column of their table, with the legend that explains them. Shared by tabs that draw runs."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dde.explore.run_columns import Placed, RunColumns, place
from dde.plots.colours import EDGE, INK, NEUTRAL, colours_of, label_of, shades
from dde.printable import printable

__all__ = ["Coloured", "coloured"]

# Up to this many different numbers each has its own colour; more have a colour bar.
_MOST_DISTINCT = 10
# A longer legend of names can't be read.
_MOST_NAMES = 24


@dataclass(frozen=True)
class Coloured:
    """Colours of runs.

    Attributes
    ----------
    colours : list of str
        Of each run; neutral where it has no value.
    texts : list of str
        Value of each run, for a tooltip; empty when colours are those of the curves.
    legend : str
        HTML: a colour bar, or a list of values; "" when colours are those of the curves.
    """

    colours: list[str]
    texts: list[str]
    legend: str


def coloured(columns: RunColumns, name: str, of_runs: Mapping[str, str]) -> Coloured:
    """Return colours of runs by a column.

    Parameters
    ----------
    columns : RunColumns
    name : str
        Of a column; "" for the colours of the curves.
    of_runs : mapping of str to str
        Colours of the curves, by the id of a run.

    Examples
    --------
    >>> import pandas as pd
    >>> from dde.explore.run_columns import RunColumn
    >>> rate = RunColumn("rate", "rate", "", "number", "run", True, True)
    >>> columns = RunColumns(pd.DataFrame({"rate": [1e-5, 1e-6, float("nan")]}), (rate,))
    >>> coloured(columns, "rate", {}).colours
    ['#4a1079', '#f56c5b', '#7d8491']
    """
    if not name:
        return Coloured([of_runs.get(run, NEUTRAL) for run in columns.frame["run_id"]], [], "")
    placed, title = place(columns, name), columns[name].title
    missing = not placed.given.all()
    # Distinct texts as they are shown: numbers that look the same have the same colour.
    distinct = dict.fromkeys(np.sort(placed.positions[placed.given]).tolist())
    if placed.kind == "text" or (placed.kind == "number" and len(distinct) <= _MOST_DISTINCT):
        values = placed.names if placed.kind == "text" else tuple(distinct)
        of_values = colours_of(values)
        at = dict(enumerate(values)) if placed.kind == "text" else {v: v for v in distinct}
        colours = [of_values[at[p]] if np.isfinite(p) else NEUTRAL for p in placed.positions.tolist()]
        entries = [(label_of(v) if placed.kind == "number" else v, of_values[v]) for v in values]
        return Coloured(colours, placed.texts, _list(title, entries, missing))
    return Coloured(_shaded(placed), placed.texts, _bar(title, placed, missing))


def _shaded(placed: Placed) -> list[str]:
    scale = shades()
    numbers = np.log(placed.positions) if placed.log else placed.positions
    low, high = _limits(numbers)
    at = np.clip((numbers - low) / ((high - low) or 1.0), 0, 1) * (len(scale) - 1)
    return [scale[round(k)] if np.isfinite(k) else NEUTRAL for k in at.tolist()]


def _limits(numbers: np.ndarray) -> tuple[float, float]:
    finite = numbers[np.isfinite(numbers)]
    return (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)


def _list(title: str, entries: list[tuple[str, str]], missing: bool) -> str:
    """Return a legend with an entry for each value."""
    more = len(entries) - _MOST_NAMES
    shown = [*entries[:_MOST_NAMES], *([("none", NEUTRAL)] if missing else [])]
    items = "".join(f"{_swatch(colour)}{_escaped(text)}</span>" for text, colour in shown)
    return _framed(title, items + (f"<span>and {more} more</span>" if more > 0 else ""))


def _bar(title: str, placed: Placed, missing: bool) -> str:
    """Return a colour bar with the limits of the values."""
    scale = shades(16)
    given = np.flatnonzero(placed.given)
    if not len(given):
        return _framed(title, f"{_swatch(NEUTRAL)}none</span>")
    ends = [placed.texts[given[at]] for at in (placed.positions[given].argmin(), placed.positions[given].argmax())]
    gradient = (
        f'<span style="display:inline-block;width:150px;height:11px;border-radius:2px;vertical-align:-1px;'
        f'background:linear-gradient(to right,{",".join(scale)})"></span>'
    )
    note = ", logarithmic" if placed.log else ""
    bar = f"<span>{_escaped(ends[0])} {gradient} {_escaped(ends[1])}{note}</span>"
    return _framed(title, bar + (f"{_swatch(NEUTRAL)}none</span>" if missing else ""))


def _framed(title: str, items: str) -> str:
    style = f"display:flex;flex-wrap:wrap;gap:2px 12px;font:12px system-ui,sans-serif;color:{INK}"
    return f'<div style="{style}"><b>{_escaped(title)}</b>{items}</div>'


def _swatch(colour: str) -> str:
    style = f"display:inline-block;width:10px;height:10px;border-radius:5px;margin-right:4px;border:1px solid {EDGE}"
    return f'<span style="white-space:nowrap"><span style="{style};background:{colour}"></span>'


def _escaped(text: str) -> str:
    return html.escape(printable(text))
