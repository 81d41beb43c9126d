"""Metrics of an evaluation in one value per row: the text of a Python dict or JSON object, or the object itself.

The suite's raw tables have 1.4 million such texts of about 1 KB, nearly all with the same keys in the same order. A
kernel reads them in place, without an object per text. A strict grammar reads the texts that the kernel does not
recognise, and reports what is wrong with them. Some programs parse the texts and write structs or maps in their place.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dde import native
from dde.array_types import Float64, Int64
from dde.errors import FormatError
from dde.sources.arrow_columns import Numbers, encode_texts, read_numbers, read_texts

__all__ = [
    "ParsedDicts",
    "names_of_entries",
    "parse_dict_row",
    "parse_dicts",
    "parse_dicts_into",
    "read_entries_into",
]

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|NaN|inf|Infinity)"
_KEY = r"""(?P<quote>['"])(?P<key>(?:\\.|(?!(?P=quote))[^\\\n])*)(?P=quote)"""
# Digits and white space of other scripts are not part of a number, neither in Python nor in JSON.
_PAIR = re.compile(rf"\s*{_KEY}\s*:\s*(?P<value>{_NUMBER}|None|null)\s*", re.ASCII)
_SPACE = " \t\n\r\f\v"


@dataclass(slots=True)
class ParsedDicts:
    """Values of some entries in a batch of dict texts.

    Attributes
    ----------
    values : (row, entry) float64 array
        NaN where a row lacks the key or holds None.
    malformed : mapping of int to str
        Row of the batch to the reason why it can't be read; its values are NaN.
    """

    values: npt.NDArray[np.float64]
    malformed: dict[int, str] = field(default_factory=dict)


def parse_dict_row(text: str) -> dict[str, float]:
    """Return one dict text as numbers, None as NaN; raises ValueError with the reason when it is malformed.

    Examples
    --------
    >>> parse_dict_row("{'acc_raw': 0.25, 'no_answer': None}")
    {'acc_raw': 0.25, 'no_answer': nan}
    """
    body = text.strip(_SPACE)
    if body.startswith('"'):
        body = _decode(body)
    if not (body.startswith("{") and body.endswith("}")):
        raise ValueError(f"it is not a dict in braces: {_excerpt(body, 0)}")
    found: dict[str, float] = {}
    position, end = 1, len(body) - 1
    if not body[1:end].strip(_SPACE):
        return found
    while True:
        match = _PAIR.match(body, position, end)
        if match is None:
            raise ValueError(f"there is no key with a number at character {position}: {_excerpt(body, position)}")
        key = _unescape(match["key"], match["quote"])
        if key in found:
            raise ValueError(f"the key {key!r} occurs twice")
        value = match["value"]
        found[key] = _number(value)
        position = match.end()
        if position == end:
            return found
        if body[position] != ",":
            raise ValueError(f"there is no comma at character {position}: {_excerpt(body, position)}")
        position += 1


def _decode(body: str) -> str:
    """Return the text within a JSON string: a program that encodes its objects once more leaves such."""
    try:
        return str(json.loads(body)).strip(_SPACE)
    except ValueError:
        return body


def _number(text: str) -> float:
    if text in ("None", "null"):
        return float("nan")
    # A whole number has no negative zero.
    return 0.0 if text.strip("+-0") == "" else float(text)


def _unescape(key: str, quote: str) -> str:
    """Return a key as Python or JSON reads it; raises ValueError where neither does."""
    if "\\" not in key:
        return key
    literal = f"{quote}{key}{quote}"
    try:
        # Of what Python and JSON read differently, only JSON writes pairs of surrogates and an escaped slash.
        if quote == '"':
            return str(json.loads(literal))
    except ValueError:
        pass
    try:
        with warnings.catch_warnings():
            # An escape that means nothing is a backslash.
            warnings.simplefilter("ignore")
            return str(ast.literal_eval(literal))
    except (SyntaxError, ValueError):
        raise ValueError(f"the key {key!r} has an escape that can't be read") from None


def _excerpt(text: str, position: int) -> str:
    piece = text[max(position - 10, 0) : position + 30]
    return repr(piece)


def parse_dicts(texts: pa.Array, entries: Sequence[str]) -> ParsedDicts:
    """Return the values of `entries` in every dict text.

    Parameters
    ----------
    texts : pyarrow.Array of string or large_string
        One dict text a row, as ``repr`` of a Python dict or as JSON.
    entries : sequence of str
        Keys to read.

    Examples
    --------
    >>> parse_dicts(pa.array(["{'a': 1.5, 'b': nan}", '{"b": 2}']), ["b"]).values.tolist()
    [[nan], [2.0]]
    """
    values = np.full((len(texts), len(entries)), np.nan)
    return ParsedDicts(values, parse_dicts_into(texts, entries, np.arange(len(texts)), values))


def parse_dicts_into(
    texts: pa.Array, entries: Sequence[str], target: npt.NDArray[np.int64], out: npt.NDArray[np.float64]
) -> dict[int, str]:
    """Put the values of `entries` in dict texts where they belong.

    Parameters
    ----------
    texts : pyarrow.Array of string or large_string
    entries : sequence of str
    target : (text,) int64 array
        Row of `out` that a text goes to; a text with -1 is not read.
    out : (row, entry) float64 array
        Contiguous. NaN where a text lacks the key or holds None, and all of the row where it is malformed.

    Returns
    -------
    dict of int to str
        Malformed texts, by number, with the reason.

    Raises
    ------
    FormatError
        When the column is of another type.
    """
    _check_text(texts)
    wanted = target >= 0
    if native.is_compiled() and len(entries) <= native.MOST_KEYS and len(set(entries)) == len(entries) and len(texts):
        data, offsets = _buffers(texts)
        # What lies in the place of a null is nobody's text.
        nulls = np.asarray(texts.is_null()) if texts.null_count else np.zeros(len(texts), bool)
        own = np.ascontiguousarray(np.where(nulls, -1, target), np.int64)
        unread = native.parse_dicts(data, offsets, [entry.encode() for entry in entries], own, out)
        wanted &= unread | nulls
    return _parse_singly(texts, entries, target, out, np.flatnonzero(wanted))


def _check_text(texts: pa.Array) -> None:
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        raise FormatError(
            f"A column of the Arrow type {texts.type} holds no dict texts, so no metric can be read of it. "
            "Cast it to string first."
        )


def _buffers(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the bytes of texts, and where each begins and ends in them."""
    _, offsets, data = texts.buffers()
    width = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    places = np.frombuffer(offsets, width)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    # Texts that are all empty or null may have no bytes.
    return np.frombuffer(data or b"", np.uint8), places


def _parse_singly(
    texts: pa.Array,
    entries: Sequence[str],
    target: npt.NDArray[np.int64],
    out: npt.NDArray[np.float64],
    rows: npt.NDArray[np.intp],
) -> dict[int, str]:
    malformed: dict[int, str] = {}
    for row in rows.tolist():
        out[target[row]] = np.nan
        try:
            # Text that is not valid UTF-8 is refused here, since the decoding error is a ValueError, too.
            text = texts[row].as_py()
            if text is None:
                raise ValueError("it is null")
            parsed = parse_dict_row(text)
        except ValueError as error:
            malformed[row] = str(error)
            continue
        out[target[row]] = [parsed.get(entry, np.nan) for entry in entries]
    return malformed


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
    """Raise FormatError for an object in the binary form that parquet calls a variant: its fields are not entries."""
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
            malformed.setdefault(row, f"the key {entry!r} occurs twice")
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
