"""Hyperparameters that differ in their last digits only, because a program that copied the store changed them.

A JSON writer that rounds wrongly turns 5e-06 into 4.9999999999999996e-06. Labels, filters and sweeps treat numbers that
agree in 12 significant digits as equal, so that two repetitions of a run do not become two treatments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["settle_numbers"]

# Units in the last place by which a wrong rounding may change a double.
_PLACES = 4


def settle_numbers(runs: Sequence[dict[str, Any]]) -> None:
    """Replace hyperparameters that agree in 12 significant digits by one number.

    A number within a few units in the last place of one with at most 12 digits becomes that number. Among longer
    numbers, the shortest spelling in the store wins, then the smallest number.

    Parameters
    ----------
    runs : sequence of dict of str to object
        Hyperparameters by name, of all runs of a store; changed in place.

    Examples
    --------
    >>> runs = [{"learning_rate": 4.9999999999999996e-06}, {"learning_rate": 1 / 3, "epochs": 2.0}]
    >>> settle_numbers(runs)
    >>> runs
    [{'learning_rate': 5e-06}, {'learning_rate': 0.3333333333333333, 'epochs': 2.0}]
    """
    values: dict[str, set[float]] = {}
    for run in runs:
        for name, value in run.items():
            if isinstance(value, float):
                values.setdefault(name, set()).add(value)
    changed = {name: _settled(found) for name, found in values.items()}
    if any(changed.values()):
        for run in runs:
            run.update({n: changed[n][v] for n, v in run.items() if isinstance(v, float) and v in changed[n]})


def _settled(values: set[float]) -> dict[float, float]:
    """Return the replacement of each value that changes."""
    alike: dict[str, list[float]] = {}
    for value in values:
        if math.isfinite(value):
            alike.setdefault(f"{value:.12g}", []).append(value)
    chosen = {value: _chosen(float(text), found) for text, found in alike.items() for value in found}
    return {value: other for value, other in chosen.items() if value != other}


def _chosen(short: float, values: list[float]) -> float:
    nearest = min(values, key=lambda value: abs(value - short))
    if abs(nearest - short) <= _PLACES * math.ulp(nearest):
        return short
    return min(values, key=lambda value: (len(repr(value)), value))
