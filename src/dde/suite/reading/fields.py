"""Dictionary-encoded values of rows: each row has the code of one of the distinct values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as pt

from dde.array_types import Int64
from dde.errors import FormatError
from dde.sources.arrow_columns import encode_texts
from dde.suite.patterns import field_text
from dde.suite.reading.contents import NULL_TEXTS, arrow_kind

__all__ = ["Field", "combine", "encode_array", "encode_columns", "parse_number"]

Objects = npt.NDArray[np.object_]

# Python and NumPy write exponents with a sign, so a text such as 12e5 is an id.
_NUMBER = re.compile(r"[+-]?(?:0|[1-9]\d{0,17})(?:\.\d*)?(?:[eE][+-]\d{1,3})?|[+-]?\.\d+(?:[eE][+-]\d{1,3})?")
_WHOLE = re.compile(r"[+-]?\d+")


@dataclass(frozen=True, eq=False)
class Field:
    """A field of rows, or of runs.

    Attributes
    ----------
    codes : (row,) int64 array
        Code of each row's value; -1 where it has none.
    values : tuple of str, int or float
        Distinct values: all texts, or all numbers.
    """

    codes: Int64
    values: tuple[str | int | float, ...]

    @property
    def is_number(self) -> bool:
        """Whether the values are numbers; False for a field without values."""
        return bool(self.values) and not isinstance(self.values[0], str)

    def take(self, rows: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Field:
        """Return the field at some rows."""
        return Field(self.codes[rows], self.values)

    def objects(self) -> Objects:
        """Return the value of each row, "" or NaN where it has none."""
        known = np.empty(len(self.values) + 1, object)
        known[: len(self.values)] = self.values
        known[-1] = np.nan if self.is_number else ""
        return known[self.codes]

    def array(self) -> npt.NDArray[np.float64] | Objects:
        """Return the values for rules: float64 with NaN, or texts with "", where a row has none."""
        if not self.is_number:
            return self.objects()
        return np.array([*self.values, np.nan], np.float64)[self.codes]

    def value(self, row: int) -> str | int | float:
        """Return the value of one row, "" where it has none."""
        code = int(self.codes[row])
        return "" if code < 0 else self.values[code]


def parse_number(text: str) -> int | float | None:
    """Parse a text of an untyped column as a number; return None where it is a text.

    A text with leading zeros, an exponent without a sign, or more digits than int64 holds stays a text, such as an id.

    Examples
    --------
    >>> parse_number("190"), parse_number("1e-05"), parse_number("007"), parse_number("12e5")
    (190, 1e-05, None, None)
    """
    if _NUMBER.fullmatch(text) is None:
        return None
    return int(text) if _WHOLE.fullmatch(text) else float(text)


def encode_columns(
    columns: Sequence[pa.ChunkedArray | None], lengths: Sequence[int], untyped: Sequence[bool], names: Sequence[str]
) -> Field:
    """Return a column of several files as one field.

    Parameters
    ----------
    columns : sequence of pyarrow.ChunkedArray or None
        The column of each file; None where a file has no such column.
    lengths : sequence of int
        Number of rows of each file.
    untyped : sequence of bool
        Whether texts of the file may represent numbers. They become numbers only if all of them, in all such files, do.
    names : sequence of str
        Name of each file's column in errors.

    Raises
    ------
    FormatError
        When a column holds lists or objects, or bytes that are not UTF-8.
    """
    parts: list[Int64] = []
    values_by_part: list[list[str | int | float]] = []
    texts_stand_for_numbers = True
    for column, length, may_be_numbers, name in zip(columns, lengths, untyped, names, strict=True):
        if column is None:
            parts.append(np.full(length, -1, np.int64))
            values_by_part.append([])
            continue
        codes, values = _encoded(column, name)
        parts.append(codes)
        values_by_part.append(values)
        texts = (value for value in values if isinstance(value, str))
        if may_be_numbers:
            texts_stand_for_numbers = texts_stand_for_numbers and all(
                parse_number(text) is not None or text in NULL_TEXTS for text in texts
            )
        elif any(True for _ in texts):
            texts_stand_for_numbers = False
    # Null texts mean missing numbers only where there are numbers; a column of null texts alone stays text.
    texts_stand_for_numbers = texts_stand_for_numbers and any(
        not isinstance(value, str) or value not in NULL_TEXTS for values in values_by_part for value in values
    )
    any_text = any(isinstance(value, str) for values in values_by_part for value in values)
    code_of: dict[str | int | float, int] = {}
    all_codes: list[Int64] = []
    for codes, values in zip(parts, values_by_part, strict=True):
        if texts_stand_for_numbers:
            meant: Iterable[str | int | float | None] = (parse_number(v) if isinstance(v, str) else v for v in values)
        else:
            meant = (field_text(v) if any_text else v for v in values)
        of_value = [-1 if value is None else code_of.setdefault(value, len(code_of)) for value in meant]
        all_codes.append(np.array([*of_value, -1], np.int64)[codes])
    return Field(np.concatenate([np.empty(0, np.int64), *all_codes]), tuple(code_of))


def _encoded(column: pa.ChunkedArray, name: str) -> tuple[Int64, list[str | int | float]]:
    kind = column.type
    if pt.is_boolean(kind):
        column = pa.chunked_array([pa.array(["False", "True"]).take(c.cast(pa.int8())) for c in column.chunks])
    elif arrow_kind(kind) == "number" and not isinstance(kind, pa.BaseExtensionType):
        return _encoded_numbers(column)
    elif pt.is_temporal(kind):
        column = pa.chunked_array([pa.array([None if v is None else str(v) for v in column.to_pylist()], pa.string())])
    elif pt.is_nested(kind):
        raise FormatError(
            f"{name} holds {kind}, which is neither a text nor a number, so it can't identify runs. "
            "Name another column, or write its parts as separate columns."
        )
    codes, texts = encode_texts(column, name)
    if "" in texts:
        # An empty text means no value.
        known = [text for text in texts if text]
        new_code = {text: at for at, text in enumerate(known)}
        codes = np.array([*(new_code.get(text, -1) for text in texts), -1], np.int64)[codes]
        return codes, list(known)
    return codes.astype(np.int64, copy=False), list(texts)


def _encoded_numbers(column: pa.ChunkedArray) -> tuple[Int64, list[str | int | float]]:
    if pt.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pt.is_decimal(column.type):
        column = column.cast(pa.string()).cast(pa.float64())
    elif pt.is_float16(column.type):
        column = column.cast(pa.float32())
    encoded = column.combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    if pt.is_float32(column.type):
        # The shortest decimal of the float, such as 1e-05, is what the writer meant; its exact double is not.
        values = [float(str(np.float32(value))) for value in values if value is not None]
    indices = encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    if any(value != value for value in values):
        new_code: dict[object, int] = {}
        for value in values:
            if value == value:
                new_code.setdefault(value, len(new_code))
        indices = np.array([*(new_code.get(value, -1) for value in values), -1], np.int64)[indices]
        values = [value for value in values if value == value]
    return np.asarray(indices, np.int64), values


def encode_array(values: npt.ArrayLike, n_rows: int) -> Field:
    """Encode the result of a rule as a field: numbers, texts, or one value for all rows.

    Parameters
    ----------
    values : array of shape (row,) or scalar
    n_rows : int

    Examples
    --------
    >>> encode_array([10.0, float("nan"), 10.0], 3).codes.tolist(), encode_array("adam", 2).values
    ([0, -1, 0], ('adam',))
    """
    array = np.broadcast_to(np.asarray(values), (n_rows,))
    if array.dtype == np.bool_:
        array = np.where(array, "True", "False").astype(object)
    if array.dtype.kind in "US":
        array = array.astype(object)
    column = pa.chunked_array([pa.array(array, from_pandas=True)])
    codes, found = _encoded(column, "a rule")
    return Field(codes, tuple(found))


def combine(fields: Mapping[str, Field], n_rows: int) -> tuple[Int64, list[dict[str, str | int | float]]]:
    """Return the code of each row's combination of values, and the combinations in the order of their first rows.

    A combination has "" for a field without a value.

    Examples
    --------
    >>> size, seed = Field(np.array([0, 0, 1]), ("1B", "7B")), Field(np.array([0, 0, -1]), (4,))
    >>> combine({"size": size, "seed": seed}, 3)
    (array([0, 0, 1]), [{'size': '1B', 'seed': 4}, {'size': '7B', 'seed': ''}])
    """
    codes = np.zeros(n_rows, np.int64)
    first = np.zeros(min(n_rows, 1), np.int64)
    for field in fields.values():
        if len(field.values) == 0:
            continue
        joined = codes * (len(field.values) + 1) + (field.codes + 1)
        encoded = pa.array(joined).dictionary_encode()
        codes = np.asarray(encoded.indices.to_numpy(zero_copy_only=False), np.int64)
    if n_rows:
        first = np.full(int(codes.max()) + 1, n_rows, np.int64)
        np.minimum.at(first, codes, np.arange(n_rows))
    return codes, [{name: field.value(row) for name, field in fields.items()} for row in first.tolist()]
