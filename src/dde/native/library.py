"""The shared library of kernels: found, checked and loaded once."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Plan", "is_compiled", "kernels"]

_LIBRARY = Path(__file__).with_name("kernels.shared")

# As DDE_INTERFACE in export.h. An editable install keeps its library when the sources change: one compiled from other
# declarations would take arguments for what they are not.
_INTERFACE = 3

# The least and the largest power of ten that a double can be a multiple of; as in numbers.h.
_POWERS = (-342, 308)

_Count = ctypes.c_int64
_Address = ctypes.c_void_p


class Plan(ctypes.Structure):
    """Argument of ``dde_plan`` and ``dde_fill``; fields as in curves.c. Whoever makes it keeps the arrays alive."""

    _fields_ = (
        ("n_runs", _Count),
        ("parent", _Address),
        ("root", _Address),
        ("branch", _Address),
        ("joins", _Address),
        ("offsets", _Address),
        ("tokens", _Address),
        ("places", _Address),
        ("n_points", _Count),
        ("grid", _Address),
        ("points", _Address),
        ("log_points", _Address),
        ("method", ctypes.c_int32),
        ("bridges", ctypes.c_int32),
        ("max_gap", _Count),
        ("cell", _Address),
        ("before", _Address),
    )


def is_compiled() -> bool:
    """Return whether kernels can be called; ``DDE_NATIVE=0`` does without them."""
    return _load() is not None


def kernels() -> ctypes.CDLL:
    """Return the loaded library, whose arrays are checked for type, contiguity and alignment at each call.

    Raises
    ------
    RuntimeError
        Where it is not compiled; see :func:`is_compiled`.
    """
    loaded = _load()
    if loaded is None:
        raise RuntimeError("The kernels are not compiled, or DDE_NATIVE=0 leaves them out. Use the NumPy form.")
    return loaded


@cache
def _load() -> ctypes.CDLL | None:
    if os.environ.get("DDE_NATIVE", "1") == "0":
        return None
    try:
        loaded = ctypes.CDLL(str(_LIBRARY))
        loaded.dde_interface.restype = ctypes.c_int32
        if loaded.dde_interface() != _INTERFACE:
            return None
    except (OSError, AttributeError):
        # Not compiled, for another machine, or older than the check.
        return None
    bytes_, int32, int64, float64 = (_array(np.dtype(t)) for t in (np.uint8, np.int32, np.int64, np.float64))
    new_bytes, new_int32, new_float64 = (_array(np.dtype(t), True) for t in (np.uint8, np.int32, np.float64))
    plan, number = ctypes.POINTER(Plan), ctypes.c_int32
    declared: dict[str, tuple[list[Any], Any]] = {
        "dde_set_powers": ([_array(np.dtype(np.uint64))], None),
        "dde_parse_dicts": (
            [bytes_, int64, _Count, bytes_, int32, number, int64, new_float64, _Count, new_bytes],
            _Count,
        ),
        "dde_exact_means": ([float64, _Count, _Count, _Count, new_float64], None),
        "dde_scatter": ([float64, _Count, _Count, int64, _Count, new_float64], None),
        "dde_plan": ([plan, number, number], None),
        "dde_fill": (
            [plan, number, float64, new_float64, new_int32, number, number, _Count, int64, int64, new_float64],
            number,
        ),
    }
    for name, (arguments, result) in declared.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, result
    # The library copies the table.
    loaded.dde_set_powers(_powers_of_five())
    return loaded


def _array(dtype: np.dtype[Any], is_written: bool = False) -> Any:
    """Return the type of an argument that takes NumPy arrays of one type alone, and keeps them alive in the call."""
    if is_written:
        return np.ctypeslib.ndpointer(dtype, flags=("C_CONTIGUOUS", "ALIGNED", "WRITEABLE"))
    return np.ctypeslib.ndpointer(dtype, flags=("C_CONTIGUOUS", "ALIGNED"))


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
