"""Type aliases of NumPy arrays by the type of their elements."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Bool", "Float64", "Int8", "Int32", "Int64", "Texts"]

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
#: Text of any length; "" for none.
Texts = npt.NDArray[np.object_]
