"""Arrays in memory that are small where they are sent: the cells of lineages and runs are mostly empty."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["PackedArray", "packed", "packed_product"]

# Empty cells are long stretches of one value, which the fastest level finds as well as any.
_LEVEL = 1

Factors = tuple[npt.NDArray[Any], npt.NDArray[Any]]


class PackedArray(np.ndarray[Any, np.dtype[Any]]):
    """A NumPy array like any other, but compressed when it is pickled; text as codes of its distinct values."""

    #: A number per row and one per column, whose product it was made as; not handed on to what is made from it.
    factors: Factors | None = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Return how to make it again."""
        values = np.ascontiguousarray(self)
        if self.factors is not None and np.array_equal(values, _product(*self.factors)):
            return packed_product, self.factors
        labels: list[Any] | None = None
        if values.dtype.hasobject:
            codes, found = pd.factorize(values.ravel())
            labels = found.tolist()
            if (codes < 0).any() or not all(isinstance(label, str) for label in labels):
                return packed, (values,)
            values = codes.astype(np.min_scalar_type(len(labels)))
        return _unpacked, (zlib.compress(values.tobytes(), _LEVEL), values.dtype.str, self.shape, labels)

    def __repr__(self) -> str:
        return repr(np.asarray(self))


def packed(values: npt.NDArray[Any]) -> PackedArray:
    """Return the same array, sharing its memory, such that it is compressed when it is pickled."""
    return np.asarray(values).view(PackedArray)


def packed_product(rows: npt.NDArray[Any], columns: npt.NDArray[Any]) -> PackedArray:
    """Return the product of a number per row and one per column, pickled as these."""
    array = packed(_product(rows, columns))
    array.factors = (rows, columns)
    return array


def _product(rows: npt.NDArray[Any], columns: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(rows[:, None] * columns[None, :])


def _unpacked(content: bytes, dtype: str, shape: tuple[int, ...], labels: list[str] | None) -> PackedArray:
    values = np.frombuffer(bytearray(zlib.decompress(content)), np.dtype(dtype))
    if labels is not None:
        table = np.empty(len(labels), object)
        table[:] = labels
        values = table[values]
    return packed(values.reshape(shape))
