"""The shared library: found, checked and loaded once."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["is_compiled", "kernels"]

_LIBRARY = Path(__file__).with_name("kernels.shared")

# Equal to DDE_INTERFACE in export.h. An editable install keeps its library when the sources change; one compiled from
# other declarations would misread its arguments.
_INTERFACE = 6

# Smallest and largest power of ten in the text of a double; as in numbers.h.
_POWERS = (-342, 308)

_Count = ctypes.c_int64


def is_compiled() -> bool:
    """Return whether the kernels can be called; ``DDE_NATIVE=0`` turns them off."""
    return _load() is not None


def kernels() -> ctypes.CDLL:
    """Return the loaded library; each call checks arrays for type, contiguity and alignment.

    Raises
    ------
    RuntimeError
        Where it is not compiled; see :func:`is_compiled`.
    """
    loaded = _load()
    if loaded is None:
        raise RuntimeError("The kernels are not compiled, or DDE_NATIVE=0 turns them off. Use the Python form.")
    return loaded


@cache
def _load() -> ctypes.CDLL | None:
    """Load the compiled kernels and declare their arguments; None if absent, disabled or of another version."""
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
    new_bytes, new_int64, new_float64 = (_array(np.dtype(t), True) for t in (np.uint8, np.int64, np.float64))
    declared: dict[str, tuple[list[Any], Any]] = {
        "dde_set_powers": ([_array(np.dtype(np.uint64))], None),
        "dde_parse_dicts": (
            [bytes_, int64, _Count, bytes_, int32, ctypes.c_int32, int64, new_float64, _Count, new_bytes],
            _Count,
        ),
        "dde_place_points": (
            [
                *(_Count, int64, int64, int64, int64, _Count, int64, bytes_, int64, float64, bytes_),
                *(_Count, int64, float64, new_int64, new_float64),
            ],
            None,
        ),
        "dde_fill_lines": ([int64, float64, _Count, int64, int64, _Count, float64, float64, new_float64], None),
    }
    for name, (arguments, result) in declared.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, result
    # The library copies the table.
    loaded.dde_set_powers(_powers_of_five())
    return loaded


def _array(dtype: np.dtype[Any], is_written: bool = False) -> Any:
    """Return the type of an argument that accepts NumPy arrays of one type only."""
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
