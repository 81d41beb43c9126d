"""Select a backend by name, and draw with it in one thread at a time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dde.errors import UnknownNameError, near_names
from dde.plots.backends.base import ONE_AT_A_TIME, Backend
from dde.plots.backends.bokeh import BokehBackend
from dde.plots.backends.matplotlib import MatplotlibBackend

__all__ = ["drawing_with", "writing_with"]

# Backends loaded by hv.extension. Importing HoloViews' plotting modules alone registers a backend without its options.
_LOADED: set[str] = set()
# Cell of a notebook that loaded BokehJS, and the count of its execution; empty where others loaded it, or nobody.
_LOADED_IN: list[tuple[str, int]] = []


@contextmanager
def drawing_with(name: str) -> Iterator[Backend]:
    """Provide a backend by name, loaded and made HoloViews' current one, to one thread at a time.

    The backend remains HoloViews' current one afterwards, so that a notebook displays the picture.

    Parameters
    ----------
    name : {"bokeh", "matplotlib"}

    Yields
    ------
    Backend

    Raises
    ------
    UnknownNameError
        When no backend has this name.
    """
    backends: dict[str, Backend] = {"bokeh": BokehBackend(), "matplotlib": MatplotlibBackend()}
    if name not in backends:
        raise UnknownNameError(
            f"backend={name!r} is not a backend for pictures, so nothing is drawn.{near_names(name, backends)} "
            "Pass 'bokeh' or 'matplotlib'."
        )
    with ONE_AT_A_TIME:
        import holoviews as hv

        _load(name)
        if hv.Store.current_backend != name:
            hv.Store.set_current_backend(name)
        yield backends[name]


@contextmanager
def writing_with(name: str) -> Iterator[Backend]:
    """Provide a backend as :func:`drawing_with` does, and make the one before it current again.

    A notebook displays a picture by the current backend, whichever files it is written to.
    """
    with ONE_AT_A_TIME:
        import holoviews as hv

        before = hv.Store.current_backend
        try:
            with drawing_with(name) as backend:
                yield backend
        finally:
            if before in _LOADED or before in hv.Store.loaded_backends():
                hv.Store.set_current_backend(before)


def _load(name: str) -> None:
    """Load a backend; in a notebook, also BokehJS, from the installed packages rather than from a network."""
    import holoviews as hv

    notebook = _notebook()
    if notebook is None or name != "bokeh":
        if name not in _LOADED:
            # In a notebook, HoloViews would load BokehJS for pictures of Matplotlib, too.
            hv.extension(name, holoviews=False, **{name: False})
    else:
        # Resources are outputs of the cell that loads them. They are replaced when it runs again.
        runs_again = any(notebook[0] == cell and notebook[1] != count for cell, count in _LOADED_IN)
        is_loaded = name in _LOADED or getattr(hv.Store.renderers.get(name), "_loaded", False)
        if runs_again or not is_loaded:
            hv.extension(name, inline=True, logo=False)
            _LOADED_IN[:] = [notebook]
    _LOADED.add(name)


def _notebook() -> tuple[str, int] | None:
    """Return the cell that runs and the count of its execution; None outside of a notebook."""
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    return str(shell.get_parent().get("metadata", {}).get("cellId", "")), int(shell.execution_count)
