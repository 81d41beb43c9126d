"""Kernels in C: parsing dict texts, and evaluating aligned curves. Python and NumPy do the same, more slowly.

They are compiled when the package is installed, and called through ctypes, which lets other threads run meanwhile.
`library` loads them, `calls` checks every argument.
"""

from __future__ import annotations

import os

from dde.native.calls import MOST_KEYS, LineCells, parse_dicts
from dde.native.library import is_compiled

__all__ = ["MOST_KEYS", "LineCells", "is_compiled", "parse_dicts", "processors"]


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
