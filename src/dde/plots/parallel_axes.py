"""Axes of parallel coordinates: linear, logarithmic or of categories, with a place for missing values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dde.plots.axis_format import linear_ticks, log_ticks, tick_labels
from dde.plots.colours import is_given, is_number, label_of

__all__ = ["ParallelAxis", "parallel_axis"]

# Places of values that have no place between the lowest and the highest one.
_MISSING, _INFINITE = -0.13, 1.12
# Values that span this factor, or more, are on a logarithmic axis.
_DECADES = 20.0
# Least distance of ticks, as a share of the axis; most values that have a tick each.
_TICK_GAP, _MOST_TICKS = 0.06, 7


@dataclass(frozen=True)
class ParallelAxis:
    """An axis of parallel coordinates.

    Attributes
    ----------
    name, title : str
    kind : {"linear", "log", "category"}
    places : sequence of float
        Place of the value of each run: between 0 and 1, below for missing values, above for infinite ones.
    texts : sequence of str
        Value of each run, for a tooltip.
    ticks : sequence of (float, str)
        Places and their labels.
    """

    name: str
    title: str
    kind: str
    places: Sequence[float]
    texts: Sequence[str]
    ticks: Sequence[tuple[float, str]]

    @property
    def has_missing(self) -> bool:
        """Whether a run has no value."""
        return _MISSING in self.places

    @property
    def has_infinite(self) -> bool:
        """Whether a run has an infinite value."""
        return _INFINITE in self.places


def parallel_axis(
    name: str,
    title: str,
    values: Sequence[Any],
    categories: Sequence[Any] = (),
    log: bool | None = None,
    label: Callable[[Any], str] = label_of,
) -> ParallelAxis:
    """Return the axis of the values of runs.

    Parameters
    ----------
    name, title : str
    values : sequence
        One for each run; numbers, or names. "", None and NaN are missing.
    categories : sequence
        Distinct values in order, for names.
    log : bool, optional
        Whether numbers are on a logarithmic axis; when None, where they are positive and span a factor of 20.
    label : callable
        Returns the text of a value.

    Examples
    --------
    >>> axis = parallel_axis("learning_rate", "peak learning rate", [1e-6, 1e-4, float("nan"), 1e-5])
    >>> axis.kind, [round(p, 2) for p in axis.places], axis.ticks[0]
    ('log', [0.0, 1.0, -0.13, 0.5], (0.0, '1e-6'))
    >>> parallel_axis("data", "data recipe", ["C4", "", "Dolma1.7"], ["C4", "Dolma1.7"]).ticks
    [(0.0, 'C4'), (1.0, 'Dolma1.7'), (-0.13, 'none')]
    """
    given = [v for v in values if is_given(v)]
    texts = [label(v) if is_given(v) else "none" for v in values]
    if not all(map(is_number, given)):
        count = len(categories)
        places = {str(v): k / (count - 1) if count > 1 else 0.5 for k, v in enumerate(categories)}
        ticks = [(places[str(v)], label(v)) for v in categories]
        at = [places[str(v)] if is_given(v) else _MISSING for v in values]
        return ParallelAxis(name, title, "category", at, texts, _with_missing(ticks, at, label, values))
    numbers = np.array([float(v) if is_given(v) else np.nan for v in values])
    finite = np.unique(numbers[np.isfinite(numbers)])
    is_log = bool(len(finite) and finite[0] > 0 and finite[-1] >= _DECADES * finite[0]) if log is None else log
    if is_log:
        finite = finite[finite > 0]
    low, high = (float(finite[0]), float(finite[-1])) if len(finite) else (0.0, 1.0)

    def place(number: float) -> float:
        if np.isnan(number) or (is_log and number <= 0) or number == -math.inf:
            return _MISSING
        if number == math.inf:
            return _INFINITE
        if low == high:
            return 0.5
        share = math.log(number / low) / math.log(high / low) if is_log else (number - low) / (high - low)
        return min(max(share, 0.0), 1.0)

    at = [place(float(v)) for v in numbers]
    own = [(place(float(v)), label(float(v))) for v in finite]
    gaps = np.diff([p for p, _ in own])
    if len(own) > _MOST_TICKS or (len(gaps) and gaps.min() < _TICK_GAP):
        even = _even_ticks(low, high, is_log)
        texts_of_even = [label(t) for t in even] if is_log else tick_labels(even, is_linear=True)
        own = [(place(t), text) for t, text in zip(even, texts_of_even, strict=True)]
    return ParallelAxis(name, title, "log" if is_log else "linear", at, texts, _with_missing(own, at, label, values))


def _even_ticks(low: float, high: float, is_log: bool) -> list[float]:
    ticks = log_ticks(low, high) if is_log else linear_ticks(low, high)
    return ticks if len(ticks) > 1 else [low, high]


def _with_missing(
    ticks: list[tuple[float, str]], places: Iterable[float], label: Callable[[Any], str], values: Sequence[Any]
) -> list[tuple[float, str]]:
    """Return ticks with those of missing and infinite values, where a run has one."""
    at = list(places)
    if _MISSING in at:
        # A number that a logarithmic axis can't show is named.
        unshown = {label(v) for p, v in zip(at, values, strict=True) if p == _MISSING and is_given(v)}
        ticks = [*ticks, (_MISSING, "none" if not unshown else f"none or {' or '.join(sorted(unshown)[:2])}")]
    if _INFINITE in at:
        ticks = [*ticks, (_INFINITE, label(math.inf))]
    return ticks
