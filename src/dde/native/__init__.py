"""Kernels in C: parsing of dict texts, exact means, alignment. Without them NumPy does the same, more slowly.

They are compiled when the package is installed, and called through ctypes, which lets other threads run meanwhile.
Each caller keeps its NumPy form beside the call: it serves where nothing could be compiled, and tests hold the two
against each other.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["Plan", "address", "library", "processors"]

_Pointer = ctypes.c_void_p
_Count = ctypes.c_int64

# The least and the largest power of ten that a double can be a multiple of; as in numbers.h.
_POWERS = (-342, 308)


class Plan(ctypes.Structure):
    """What ``dde_plan`` is told; fields as in curves.c."""

    _fields_ = (
        ("n_runs", _Count),
        ("parent", _Pointer),
        ("root", _Pointer),
        ("branch", _Pointer),
        ("offsets", _Pointer),
        ("tokens", _Pointer),
        ("places", _Pointer),
        ("n_points", _Count),
        ("grid", _Pointer),
        ("points", _Pointer),
        ("log_points", _Pointer),
        ("method", ctypes.c_int32),
        ("joins", ctypes.c_int32),
        ("bridges", ctypes.c_int32),
        ("max_gap", _Count),
        ("cell", _Pointer),
        ("before", _Pointer),
    )


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None where there are none; ``DDE_NATIVE=0`` does without them."""
    if os.environ.get("DDE_NATIVE", "1") == "0":
        return None
    path = Path(__file__).with_name("kernels.shared")
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError:
        # Not compiled, or for another machine.
        return None
    loaded.dde_set_powers.argtypes = [_Pointer]
    loaded.dde_set_powers.restype = None
    texts, keys, places = (
        (_Pointer, _Pointer, _Count),
        (_Pointer, _Pointer, ctypes.c_int32),
        (_Pointer, _Pointer, _Count),
    )
    loaded.dde_parse_dicts.argtypes = (*texts, *keys, *places, _Pointer)
    loaded.dde_parse_dicts.restype = _Count
    loaded.dde_exact_means.argtypes = [_Pointer, _Count, _Count, _Count, _Pointer]
    loaded.dde_exact_means.restype = None
    loaded.dde_scatter.argtypes = [_Pointer, _Count, _Count, _Pointer, _Count, _Pointer]
    loaded.dde_scatter.restype = None
    plan, part = ctypes.POINTER(Plan), (ctypes.c_int32, ctypes.c_int32)
    loaded.dde_plan.argtypes = [plan, *part]
    loaded.dde_plan.restype = None
    loaded.dde_fill.argtypes = (
        plan,
        ctypes.c_int32,
        _Pointer,
        _Pointer,
        _Pointer,
        *part,
        _Count,
        _Pointer,
        _Pointer,
        _Pointer,
    )
    loaded.dde_fill.restype = ctypes.c_int32
    # The kernels copy the table. Only a name keeps the array alive until the call returns: the address of a temporary
    # one points to memory that is already free.
    powers = _powers_of_five()
    loaded.dde_set_powers(address(powers))
    return loaded


def address(array: npt.NDArray[np.generic]) -> int:
    """Return where the numbers of a contiguous array lie; the array must outlive the call that is given it."""
    return int(array.ctypes.data)


def processors() -> int:
    """Return how many processors this process may use: as many threads run kernels at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _powers_of_five() -> npt.NDArray[np.uint64]:
    """Return the 128 leading bits of 5^q, more significant half first, for every q that a double can need.

    They are cut off, but rounded up from -27 to -1: there 5^-q has fewer than 64 bits and divides some numbers of 64
    bits exactly, whose product must not come out below the exact result.
    """
    least, largest = _POWERS
    halves: list[tuple[int, int]] = []
    for q in range(least, largest + 1):
        power = 5 ** abs(q)
        width = power.bit_length()
        # 2^(127 + b) / 5^-q has 128 bits, where 5^-q has b of them.
        bits = power << 128 >> width if q >= 0 else (1 << (127 + width)) // power + (q >= -27)
        halves.append((bits >> 64, bits & (2**64 - 1)))
    return np.array(halves, np.uint64)
