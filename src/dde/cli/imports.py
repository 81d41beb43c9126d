"""Import what a command needs, in less time than Python takes by default."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["paused_collection"]


@contextmanager
def paused_collection() -> Iterator[None]:
    """Pause the garbage collector, and exempt from it what exists afterwards.

    For imports: nearly all objects of modules stay until the process ends, so each of the collections that their number
    causes finds nothing, which takes an eighth of the time of the imports.

    Examples
    --------
    >>> import gc
    >>> with paused_collection():
    ...     gc.isenabled()
    False
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
