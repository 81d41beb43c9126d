"""Metrics of an evaluation, one value a row of a column: as text, or as the object that the text describes.

Some programs parse the texts of the suite's tables and write structs or maps in their place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dde.errors import FormatError
from dde.sources.arrow_columns import Numbers, encode_texts, read_numbers, read_texts
from dde.suite.datadecide.tables.dict_text import parse_dict_row, parse_dicts_into

__all__ = ["names_of_entries", "read_entries_into"]

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_NULL = "it is null"


def read_entries_into(
    column: pa.Array, entries: Sequence[str], target: Int64, out: Float64, where: str
) -> dict[int, str]:
    """Put the values of `entries` where they belong.

    Parameters
    ----------
    column : pyarrow.Array of shape (row,)
        Dict texts of any layout; structs, whose fields are the entries; or maps of names to numbers.
    entries : sequence of str
    target : (row,) int64 array
        Row of `out` that a row goes to; one with -1 is not read.
    out : (row, entry) float64 array
        Contiguous. NaN where a row lacks the entry or it is null, and all of the row where it is malformed.
    where : str
        What the column is, for errors.

    Returns
    -------
    dict of int to str
        Malformed rows, by number, with the reason.

    Raises
    ------
    FormatError
        When the column has a type that holds no metrics.

    Examples
    --------
    >>> out = np.empty((2, 2))
    >>> read_entries_into(pa.array([{"a": 1.5}, None]), ["a", "b"], np.arange(2), out, "the column 'metrics'")
    {1: 'it is null'}
    >>> out.tolist()
    [[1.5, nan], [nan, nan]]
    """
    kind = column.type
    if pa.types.is_struct(kind) or pa.types.is_map(kind):
        read = _struct_entries if pa.types.is_struct(kind) else _map_entries
        values, malformed = read(column, entries, target >= 0, where)
        rows = np.flatnonzero(target >= 0)
        values[list(malformed)] = np.nan
        out[target[rows]] = values[rows]
        return malformed
    malformed = {}
    start = 0
    # Whether texts are UTF-8 is for each of them to be asked: one that is not leaves the others as they are.
    for texts in _texts(column, where).chunks:
        part = target[start : start + len(texts)]
        malformed |= {start + row: why for row, why in parse_dicts_into(texts, entries, part, out).items()}
        start += len(texts)
    return malformed


def names_of_entries(column: pa.ChunkedArray, rows: Int64, where: str) -> list[frozenset[str] | str]:
    """Return the names of the entries that some rows have, or the reason why a row can't be read.

    Parameters
    ----------
    column : pyarrow.ChunkedArray of shape (row,)
        As for :func:`read_entries_into`.
    rows : (asked,) int64 array
    where : str
        What the column is, for errors.

    Examples
    --------
    >>> names_of_entries(pa.chunked_array([["{'a': 1}", "{"]]), np.arange(2), "the column 'metrics'")
    [frozenset({'a'}), "it is not a dict in braces: '{'"]
    """
    kind = column.type
    if pa.types.is_struct(kind):
        _refuse_variant(kind, where)
        found = column.take(pa.array(rows)).to_pylist()
        # All rows of a struct have all fields; those that a row lacks are null.
        return [_NULL if row is None else frozenset(k for k, v in row.items() if v is not None) for row in found]
    if pa.types.is_map(kind):
        pairs = column.take(pa.array(rows)).to_pylist()
        return [_NULL if row is None else frozenset(str(key) for key, _ in row) for row in pairs]
    return [_names_in(text) for text in _texts(column, where).take(pa.array(rows))]


def _names_in(text: pa.Scalar) -> frozenset[str] | str:
    try:
        content = text.as_py()
        return _NULL if content is None else frozenset(parse_dict_row(content))
    except ValueError as error:
        return str(error)


def _texts(column: pa.Array | pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    try:
        return read_texts(column, where, check=False)
    except FormatError as error:
        raise FormatError(f"{error} Metrics are the text of a dict, a struct, or a map.") from None


def _struct_entries(
    column: pa.StructArray, entries: Sequence[str], wanted: npt.NDArray[np.bool_], where: str
) -> tuple[Float64, dict[int, str]]:
    _refuse_variant(column.type, where)
    values = np.full((len(column), len(entries)), np.nan)
    malformed = dict.fromkeys(_null_rows(column, wanted), _NULL)
    # Fields of a null struct count as null, which their own arrays need not say.
    fields = column.flatten()
    for k, entry in enumerate(entries):
        places = column.type.get_all_field_indices(entry)
        if len(places) > 1:
            raise FormatError(
                f"{where} has {len(places)} fields named {entry!r}, so which of them counts is unknown. "
                "Rename or remove the others."
            )
        for place in places:
            numbers = read_numbers(fields[place], f"the field {entry!r} of {where}")
            values[:, k] = numbers.values
            _mark(malformed, numbers, wanted, entry)
    return values, malformed


def _refuse_variant(kind: pa.StructType, where: str) -> None:
    """Raise FormatError for an object in the binary form that parquet calls a variant: its fields are no entries."""
    parts = {field.name: field.type for field in kind}
    if "metadata" in parts and pa.types.is_binary(parts["metadata"]) and {"value", "typed_value"} & set(parts):
        raise FormatError(
            f"{where} holds objects in the variant form of parquet, which can't be read here, so its rows are unknown. "
            "Write the column as text (JSON), a struct or a map."
        )


def _map_entries(
    column: pa.MapArray, entries: Sequence[str], wanted: npt.NDArray[np.bool_], where: str
) -> tuple[Float64, dict[int, str]]:
    values = np.full((len(column), len(entries)), np.nan)
    malformed = dict.fromkeys(_null_rows(column, wanted), _NULL)
    offsets = np.asarray(column.offsets, np.int64)
    first, last = (int(offsets[0]), int(offsets[-1])) if len(offsets) else (0, 0)
    row_of = np.repeat(np.arange(len(column)), np.diff(offsets))
    codes, names = encode_texts(column.keys[first:last], f"the keys of {where}")
    numbers = read_numbers(column.items[first:last], f"the values of {where}")
    for k, entry in enumerate(entries):
        at = np.flatnonzero(codes == names.index(entry)) if entry in names else np.empty(0, np.int64)
        rows = row_of[at]
        values[rows, k] = numbers.values[at]
        counts = np.bincount(rows, minlength=len(column))
        for row in np.flatnonzero((counts > 1) & wanted).tolist():
            malformed.setdefault(row, f"the key {entry!r} stands twice")
        problems = {}
        for why, has_problem in numbers.problems.items():
            problems[why] = np.zeros(len(column), np.bool_)
            problems[why][rows[has_problem[at]]] = True
        _mark(malformed, Numbers(values[:, k], problems), wanted, entry)
    return values, malformed


def _null_rows(column: pa.Array, wanted: npt.NDArray[np.bool_]) -> list[int]:
    if not column.null_count:
        return []
    return [int(row) for row in np.flatnonzero(np.asarray(column.is_null()) & wanted)]


def _mark(malformed: dict[int, str], numbers: Numbers, wanted: npt.NDArray[np.bool_], entry: str) -> None:
    for why, rows in numbers.problems.items():
        for row in np.flatnonzero(rows & wanted).tolist():
            malformed.setdefault(row, f"the entry {entry!r} {why}")
