"""Answers to the questions that runs are trained for, each with the runs that entered and with its uncertainty.

Each function takes a Dataset of runs and returns a Dataset; ``ds.dde`` has a method of the same name.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "best": "dde.analysis.choices",
    "compare": "dde.analysis.comparison",
    "decision_accuracy": "dde.analysis.decisions",
    "effect": "dde.analysis.effects",
    "fit": "dde.analysis.fits",
    "match": "dde.analysis.matching",
    "predict": "dde.analysis.predictions",
    "ranks": "dde.analysis.rankings",
    "reach": "dde.analysis.crossings",
    "signal_to_noise": "dde.analysis.signal",
    "smooth": "dde.analysis.smoothing",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dde.analysis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
