"""Select a backend by name, and draw with it in one thread at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dde.errors import UnknownNameError, near_names
from dde.plots.backends.base import ONE_AT_A_TIME, Backend
from dde.plots.backends.bokeh import BokehBackend
from dde.plots.backends.matplotlib import MatplotlibBackend

__all__ = ["drawing_with"]

# Backends loaded by hv.extension. Importing HoloViews' plotting modules alone registers a backend without its options.
_LOADED: set[str] = set()


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

        if name not in _LOADED or hv.Store.current_backend != name:
            hv.extension(name)
            _LOADED.add(name)
        yield backends[name]
