"""Protocol of an opened file or frame: named columns that are read on request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from dde.sources.arrow_columns import Numbers, read_numbers

__all__ = ["NULL_TEXTS", "ColumnKind", "Columns", "Content", "arrow_kind", "numbers_of", "without_null_texts"]

#: Kind of a column: numbers, nothing but nulls ("empty"), or anything else ("text").
ColumnKind = Literal["number", "text", "empty"]
Columns = Mapping[str, pa.ChunkedArray]

#: Texts that mean a missing value in a column of numbers.
NULL_TEXTS = ("", "nan", "NaN", "NAN", "-nan", "null", "NULL", "None", "none", "NA", "N/A", "n/a", "#N/A", "<NA>")


class Content(Protocol):
    """The columns of one file or frame. Instances pickle; threads may share them."""

    @property
    def name(self) -> str:
        """Name in errors."""
        ...

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns, in order."""
        ...

    @property
    def n_rows(self) -> int | None:
        """Number of rows; None where it is unknown until a column is read."""
        ...

    @property
    def untyped(self) -> bool:
        """Whether all columns are texts that may represent numbers, as in CSV."""
        ...

    def read(self, columns: Sequence[str]) -> Columns:
        """Return columns with the types that their writer gave them; absent columns are left out."""
        ...

    def read_numbers(self, columns: Sequence[str]) -> dict[str, Numbers]:
        """Return columns as numbers; absent columns are left out."""
        ...

    def kinds(self) -> Mapping[str, ColumnKind]:
        """Return the kind of each column."""
        ...


def arrow_kind(kind: pa.DataType) -> ColumnKind:
    """Return the kind of a column of an Arrow type."""
    if isinstance(kind, pa.BaseExtensionType):
        return arrow_kind(kind.storage_type)
    if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        return arrow_kind(kind.value_type)
    if pt.is_null(kind):
        return "empty"
    return "number" if pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind) else "text"


def without_null_texts(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Replace texts that mean a missing number with null."""
    is_null = pc.is_in(texts, value_set=pa.array(NULL_TEXTS, texts.type))
    return pc.if_else(is_null, pa.scalar(None, texts.type), texts)


def numbers_of(columns: Columns, name: str) -> dict[str, Numbers]:
    """Return the columns of a file as numbers."""
    return {column: read_numbers(values, f"the column {column!r} of {name}") for column, values in columns.items()}
