"""The functions behind the methods of ``ds.dde``, imported when they are called, and their docstrings.

A method has the docstring of its function without the parameter that is the object itself. The docstring is copied when
the method is first looked up, because importing all functions takes longer than importing xarray.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

__all__ = ["FUNCTIONS", "Documented", "function_of"]

#: Module and function of each method.
FUNCTIONS = {
    "sel": "dde.dataset.select:select",
    "align": "dde.dataset.align:align",
    "derive": "dde.dataset.align:derive",
    "sweep": "dde.dataset.sweep:sweep",
    "mean_over": "dde.dataset.averages:mean_over",
    "final": "dde.dataset.finals:final",
    "base_curves": "dde.dataset.bases:base_curves",
    "difference_to_base": "dde.dataset.bases:difference_to_base",
    "support": "dde.dataset.provenance:support",
    "observed": "dde.dataset.provenance:observed",
    "sampled_as": "dde.dataset.samples:sampled_as",
    "checkpoint_type": "dde.dataset.provenance:checkpoint_type",
    "revision": "dde.dataset.provenance:revision",
    "to_frame": "dde.dataset.long_table:to_frame",
    "to_parquet": "dde.dataset.long_table:to_parquet",
    "plot": "dde.plots.curves:plot_curves",
    "plot_heatmap": "dde.plots.heatmap:plot_heatmap",
    "plot_scaling": "dde.plots.scaling:plot_scaling",
    "plot_tree": "dde.plots.tree:plot_tree",
    "plot_final": "dde.plots.final:plot_final",
    "plot_slopes": "dde.plots.slopes:plot_slopes",
    "plot_parallel": "dde.plots.parallel:plot_parallel",
    "explore": "dde.explore.page:explore",
    "reach": "dde.analysis.crossings:reach",
    "match": "dde.analysis.matching:match",
    "smooth": "dde.analysis.smoothing:smooth",
    "effect": "dde.analysis.effects:effect",
    "best": "dde.analysis.choices:best",
    "fit": "dde.analysis.fits:fit",
    "predict": "dde.analysis.predictions:predict",
    "ranks": "dde.analysis.rankings:ranks",
    "decision_accuracy": "dde.analysis.decisions:decision_accuracy",
    "signal_to_noise": "dde.analysis.signal:signal_to_noise",
}

_NO_PARAMETERS = re.compile(r" *Parameters\n *-+\n\s*(?=\n *\w+\n *-+\n|\Z)")


def function_of(name: str) -> Callable[..., Any]:
    """Return the function of a method, imported.

    Examples
    --------
    >>> function_of("final").__module__
    'dde.dataset.finals'
    """
    module, _, function = FUNCTIONS[name].partition(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return loaded


def _documentation(function: Callable[..., Any], method: Callable[..., Any]) -> str:
    """Return the docstring of a function without the parameters that its method does not have."""
    text = function.__doc__ or ""
    parameters = inspect.signature(method).parameters
    for name in inspect.signature(function).parameters:
        if name not in parameters:
            # The line of a parameter and the indented lines below it.
            block = re.compile(rf"^( *){name}\b *(?::[^\n]*)?\n(?:\1 +[^\n]*\n)*", re.MULTILINE)
            text = block.sub("", text, count=1)
    return _NO_PARAMETERS.sub("", text)


class Documented:
    """A class whose methods get the docstrings of the functions that they call."""

    def __getattribute__(self, name: str) -> Any:
        if name in FUNCTIONS:
            method = getattr(type(self), name)
            if not getattr(method, "is_documented", False):
                method.__doc__ = _documentation(function_of(name), method)
                method.is_documented = True
        return super().__getattribute__(name)
