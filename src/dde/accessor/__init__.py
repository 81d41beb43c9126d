"""The accessor ``ds.dde`` of Datasets and DataArrays."""

from __future__ import annotations

from dde.accessor.methods import DdeDataArrayAccessor, DdeDatasetAccessor

__all__ = ["DdeDataArrayAccessor", "DdeDatasetAccessor"]
