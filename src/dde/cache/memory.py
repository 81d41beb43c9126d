"""Arrays in memory: an LRU cache that is limited in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import numpy.typing as npt

__all__ = ["Memory"]


class Memory:
    """Arrays by key; the least recently used ones are evicted.

    Parameters
    ----------
    room : int
        Bytes. An array of more than half of them is not cached.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self._arrays: OrderedDict[Hashable, npt.NDArray[Any]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> npt.NDArray[Any] | None:
        """Return an array, or None."""
        with self._lock:
            found = self._arrays.get(key)
            if found is not None:
                self._arrays.move_to_end(key)
            return found

    def put(self, key: Hashable, array: npt.NDArray[Any]) -> None:
        """Cache an array, which must own its data: a view would keep the whole parent array alive."""
        if array.nbytes > self.room // 2:
            return
        with self._lock:
            old = self._arrays.pop(key, None)
            self._bytes += array.nbytes - (0 if old is None else old.nbytes)
            self._arrays[key] = array
            while self._bytes > self.room:
                _, evicted = self._arrays.popitem(last=False)
                self._bytes -= evicted.nbytes
