"""The call of the kernel, with checks of types, shapes and indexes, so that it never leaves an array.

The kernel trusts its arguments, and this module is its only caller. NumPy checks the rest when an array becomes an
argument: its type, and that it is contiguous, aligned and, where it is written to, writable. An array that fails a
check is an error of the caller, not of the data in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.array_types import Float64, Int64
from dde.native.library import kernels

__all__ = ["MOST_KEYS", "parse_dicts"]


#: Keys that :func:`parse_dicts` can look for; the kernel numbers those of a batch, 256 at most.
MOST_KEYS = 128


def parse_dicts(
    data: npt.NDArray[np.uint8], offsets: Int64, keys: Sequence[bytes], target: Int64, out: Float64
) -> npt.NDArray[np.bool_]:
    """Write the numbers under some keys of dict texts to an array.

    Parameters
    ----------
    data : (byte,) uint8 array
    offsets : (text + 1,) int64 array
        Text `i` is ``data[offsets[i]:offsets[i + 1]]``; ascending.
    keys : sequence of bytes
        Distinct; at most `MOST_KEYS`.
    target : (text,) int64 array
        Row of `out` for each text; a text with a negative one is not read.
    out : (row, key) float64 array
        NaN where a text lacks the key or its value is None.

    Returns
    -------
    (text,) bool array
        Texts that need the grammar in Python; their rows are NaN.

    Raises
    ------
    ValueError, TypeError
        When an array has another type, shape or content than this.

    Examples
    --------
    >>> text, out = b"{'a': 1.5}{'a': x}", np.empty((2, 1))
    >>> parse_dicts(np.frombuffer(text, np.uint8), np.array([0, 10, 18]), [b"a"], np.arange(2), out).tolist()
    [False, True]
    >>> out[:, 0].tolist()
    [1.5, nan]
    """
    n = len(target)
    _expect_shapes(offsets=(offsets, (n + 1,)), out=(out, (len(out), len(keys))), target=(target, (n,)))
    _expect(data.ndim == 1, "data is not flat")
    _expect(len(keys) <= MOST_KEYS and len(set(keys)) == len(keys), f"keys repeat or are more than {MOST_KEYS}")
    _expect_offsets(offsets, len(data))
    _expect(n == 0 or int(target.max()) < len(out), "a target is after the last row")
    key_offsets = np.concatenate([[0], np.cumsum([len(k) for k in keys])]).astype(np.int32)
    joined = np.frombuffer(b"".join(keys), np.uint8)
    unread = np.zeros(n, np.uint8)
    kernels().dde_parse_dicts(data, offsets, n, joined, key_offsets, len(keys), target, out, len(keys), unread)
    return unread.view(np.bool_)


def _expect(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(f"{problem}: no kernel is called.")


def _expect_shapes(**arrays: tuple[npt.NDArray[Any], tuple[int, ...]]) -> None:
    for name, (array, shape) in arrays.items():
        if array.shape != shape:
            raise ValueError(f"{name} has the shape {array.shape}, not {shape}: no kernel is called.")


def _expect_offsets(offsets: Int64, size: int) -> None:
    _expect(offsets.dtype == np.int64 and len(offsets) > 0, "offsets are no numbers of 64 bits")
    _expect(bool((offsets[1:] >= offsets[:-1]).all()), "offsets do not ascend")
    _expect(int(offsets[0]) >= 0 and int(offsets[-1]) <= size, "offsets leave what they divide")
