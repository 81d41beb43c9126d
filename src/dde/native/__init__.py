"""Kernels in C: parsing of dict texts, exact means, alignment. Without them NumPy does the same, more slowly.

They are compiled when the package is installed, and called through ctypes, which lets other threads run meanwhile.
`library` loads them, `calls` checks every argument. Each caller keeps its NumPy form beside the call: it serves where
nothing could be compiled, and tests hold the two against each other.
"""

from __future__ import annotations

import os

from dde.native.calls import METHODS, MOST_KEYS, CurvePlan, means_of_columns, parse_dicts, scatter_rows
from dde.native.library import is_compiled

__all__ = [
    "METHODS",
    "MOST_KEYS",
    "CurvePlan",
    "is_compiled",
    "means_of_columns",
    "parse_dicts",
    "processors",
    "scatter_rows",
]


def processors() -> int:
    """Return how many processors this process may use: as many threads run kernels at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
