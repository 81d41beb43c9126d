"""Columns held in memory, so that what is read twice in a row is read from the cache once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy.typing as npt

__all__ = ["Memory"]

# A column: part, key (None: steps), first row, end. Parts never change and have names of their own, so this says it
# all.
Token = tuple[str, str | None, int, int]


class Memory:
    """Arrays by what they are of; those that were used longest ago make room.

    Parameters
    ----------
    room : int
        Bytes.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self._held: OrderedDict[Token, npt.NDArray[Any]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, token: Token) -> npt.NDArray[Any] | None:
        """Return an array, or None."""
        with self._lock:
            found = self._held.get(token)
            if found is not None:
                self._held.move_to_end(token)
            return found

    def put(self, token: Token, array: npt.NDArray[Any]) -> None:
        """Keep an array, which must own what it shows: a view would hold all that it was cut from."""
        if array.nbytes > self.room // 2:
            return
        with self._lock:
            old = self._held.pop(token, None)
            self._bytes += array.nbytes - (0 if old is None else old.nbytes)
            self._held[token] = array
            while self._bytes > self.room:
                _, left = self._held.popitem(last=False)
                self._bytes -= left.nbytes
