"""Select a backend by name, and draw with it in one thread at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dde.errors import UnknownNameError, near_names
from dde.plots.backends.base import ONE_AT_A_TIME, Backend
from dde.plots.backends.bokeh import BokehBackend
from dde.plots.backends.matplotlib import MatplotlibBackend
from dde.plots.backends.notebook import load_in_notebook, running_cell

__all__ = ["drawing_with", "writing_with"]

# Backends that HoloViews' extension loaded. Importing HoloViews' plotting modules alone registers a backend without its
# options.
_LOADED: set[str] = set()
# Whether a picture is drawn for a file, so that no notebook displays it. Read and set under the lock.
_is_writing = False


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
    """Provide a backend as :func:`drawing_with` does, to write a picture to a file.

    Notebooks stay as they are: nothing is loaded in them, and the backend that displays pictures stays the current one.
    """
    global _is_writing
    with ONE_AT_A_TIME:
        import holoviews as hv

        before, was_writing = hv.Store.current_backend, _is_writing
        _is_writing = True
        try:
            with drawing_with(name) as backend:
                yield backend
        finally:
            _is_writing = was_writing
            if before in hv.Store.loaded_backends():
                hv.Store.set_current_backend(before)


def _load(name: str) -> None:
    from holoviews.util import extension

    if not _is_writing and running_cell() is not None:
        load_in_notebook(name)
    if name not in _LOADED:
        extension(name)
        _LOADED.add(name)
