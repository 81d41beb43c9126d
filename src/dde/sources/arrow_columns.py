"""Convert Arrow columns of any type to texts, floats, integers and times.

Depending on the program that wrote a file, the same content has the type text, string view, dictionary, bytes,
decimal or an extension type, and the type may differ between files of one table. Every reader accepts an array or a
chunked array. A type that can't be converted raises an error that names it; it never gives a column of NaN. A row
that can't be read is reported with the reason, so that the caller can count or reject it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dde.array_types import Bool, Float64, Int64
from dde.errors import FormatError
from dde.sources.values import as_float

__all__ = ["Numbers", "WholeNumbers", "encode_texts", "read_numbers", "read_texts", "read_times", "read_whole_numbers"]


# Storage type of UUIDs, where the extension type was dropped.
_UUID = pa.binary(16)
# Every integer up to this one is exact as a double.
_EXACT = 2**53
# Texts that represent NaN.
_NANS = frozenset({"nan", "+nan", "-nan"})


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers of a column.

    Attributes
    ----------
    values : (row,) float64 array
        The nearest double; NaN where a row is null, NaN, or not a number.
    problems : mapping of str to (row,) bool array
        Rows that are not a number, or not exactly representable as a double, by reason; empty if there are none. A
        reason is a predicate that follows the name of the column: ``"is not a number"``,
        ``"has more digits than a double"``.
    """

    values: Float64
    problems: Mapping[str, Bool]


@dataclass(frozen=True, slots=True)
class WholeNumbers:
    """Integers of a column.

    Attributes
    ----------
    values : (row,) int64 array
        -1 where a row has no usable integer.
    problems : mapping of str to (row,) bool array
        Rows that can't be used, by reason, with one reason per row; empty if there are none. A reason is a predicate
        that follows the name of the column: ``"is missing"``, ``"is not a number"``, ``"is not a whole number"``,
        ``"is below 0"``, ``"is above 4294967295"``.
    """

    values: Int64
    problems: Mapping[str, Bool]


def read_texts(
    column: pa.Array | pa.ChunkedArray, where: str, *, numbers: bool = False, check: bool = True
) -> pa.ChunkedArray:
    """Return a column as texts.

    Parameters
    ----------
    column : pyarrow array of shape (row,)
        Text or bytes of any layout (string, large_string, string_view, binary, ...), a dictionary of them, JSON, or
        UUIDs, which are formatted as in RFC 4122.
    where : str
        Name of the column in errors: ``"the column 'data' of a.parquet"``.
    numbers : bool
        Whether to accept numbers, formatted in decimal digits: ids and seeds are text in some files and numbers in
        others. Integers have no decimal point, and NaN is null.
    check : bool
        Whether to raise an error for bytes that are not UTF-8. If False, the texts contain them and can't be decoded.

    Returns
    -------
    pyarrow.ChunkedArray of string or large_string

    Raises
    ------
    FormatError
        If the type can't be converted to text, or bytes are not UTF-8.

    Examples
    --------
    >>> read_texts(pa.array([b"4M", None]), "the column 'params'").to_pylist()
    ['4M', None]
    >>> read_texts(pa.array([0.0, 2.0]), "the column 'seed'", numbers=True).to_pylist()
    ['0', '2']
    """
    column = _plain(column)
    kind = column.type
    if pa.types.is_dictionary(kind):
        codes, names = encode_texts(column, where, numbers=numbers)
        return pa.chunked_array([pa.array([*names, None], pa.large_string()).take(pa.array(codes % (len(names) + 1)))])
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts = column
    elif pa.types.is_string_view(kind):
        texts = _cast(column, pa.large_string())
    elif _is_bytes(kind):
        large = _cast(column, pa.large_binary())
        texts = pa.chunked_array([chunk.view(pa.large_string()) for chunk in large.chunks], pa.large_string())
    elif kind == _UUID:
        ids = [None if value is None else str(uuid.UUID(bytes=value)) for value in column.to_pylist()]
        texts = pa.chunked_array([pa.array(ids, pa.large_string())])
    elif pa.types.is_null(kind):
        texts = column.cast(pa.string())
    elif numbers and _is_number(kind):
        return _number_texts(column)
    else:
        raise _type_error(where, kind, "text")
    if check:
        try:
            texts.validate(full=True)
        except pa.ArrowInvalid as error:
            raise FormatError(
                f"{where} has bytes that are not UTF-8 text ({error}), so its texts are unknown. "
                "Write the file again as UTF-8."
            ) from error
    return texts


def encode_texts(column: pa.Array | pa.ChunkedArray, where: str, *, numbers: bool = False) -> tuple[Int64, list[str]]:
    """Return the code of each row's text, -1 for null, and the distinct texts that the codes index.

    Parameters are those of :func:`read_texts`. For a dictionary-encoded column, only the dictionary is decoded.

    Examples
    --------
    >>> codes, names = encode_texts(pa.array(["C4", None, "C4"]).dictionary_encode(), "the column 'data'")
    >>> codes.tolist(), names
    ([0, -1, 0], ['C4'])
    """
    column = _plain(column)
    if not pa.types.is_dictionary(column.type):
        column = read_texts(column, where, numbers=numbers).dictionary_encode()
    with suppress(pa.ArrowNotImplementedError, pa.ArrowInvalid):
        # One dictionary for all chunks. Arrow can't unify some types, nor dictionaries with a null.
        column = pa.chunked_array([column.unify_dictionaries().combine_chunks()])
    parts: list[npt.NDArray[Any]] = []
    code_of: dict[str, int] = {}
    dictionary: pa.Array | None = None
    recode: npt.NDArray[np.int32] | None = None
    for chunk in column.chunks:
        if dictionary is None or not chunk.dictionary.equals(dictionary):
            dictionary = chunk.dictionary
            names = read_texts(dictionary, where, numbers=numbers).to_pylist()
            codes = [-1 if name is None else code_of.setdefault(name, len(code_of)) for name in names]
            # A dictionary may contain null, or a text more than once. The last entry is for the index -1.
            is_identity = codes == list(range(len(codes)))
            recode = None if is_identity else np.array([*codes, -1], np.int32)
        indices = chunk.indices
        if indices.null_count:
            indices = indices.cast(pa.int64()).fill_null(-1)
        positions = indices.to_numpy(zero_copy_only=False)
        parts.append(positions if recode is None else recode[positions])
    all_codes = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.int32), *parts])
    distinct = list(code_of)
    # The dictionary of a slice, or of categories, may have texts of no row. A sample of rows mostly uses all of them.
    used = np.zeros(len(distinct) + 1, np.bool_)
    for step in (101, 1):
        if not used[:-1].all():
            used[all_codes[::step]] = True
    if not used[:-1].all():
        all_codes = np.append(np.cumsum(used[:-1]) - 1, -1)[all_codes]
        distinct = [name for name, is_used in zip(distinct, used.tolist(), strict=False) if is_used]
    return all_codes, distinct


def read_numbers(column: pa.Array | pa.ChunkedArray, where: str) -> Numbers:
    """Return a column as numbers.

    Parameters
    ----------
    column : pyarrow array of shape (row,)
        Integers, floats, decimals or booleans of any width, numbers as text, or a dictionary of them. Decimals and
        texts are rounded correctly.
    where : str
        Name of the column in errors.

    Raises
    ------
    FormatError
        If the type can't be converted to numbers.

    Examples
    --------
    >>> found = read_numbers(pa.array(["0.1", "much", None]), "the column 'loss'")
    >>> found.values.tolist(), {reason: rows.tolist() for reason, rows in found.problems.items()}
    ([0.1, nan, nan], {'is not a number': [False, True, False]})
    """
    column = _plain(column)
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _numbers_of_dictionaries(column, where)
    problems: dict[str, Bool] = {}
    if pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        numbers = column.cast(pa.float64())
    elif pa.types.is_integer(kind):
        numbers = column.cast(pa.float64(), safe=False)
        if kind.bit_width == 64:
            inexact = _inexact(column, numbers)
            if inexact.any():
                problems["has more digits than a double"] = inexact
    elif pa.types.is_decimal(kind):
        # Arrow's cast of decimals to doubles is not correctly rounded; its cast of texts is.
        numbers = column.cast(pa.string()).cast(pa.float64())
    elif _is_text(kind):
        texts = read_texts(column, where, check=False)
        try:
            numbers = texts.cast(pa.float64())
        except pa.ArrowInvalid:
            return _numbers_of_texts(texts, where)
    else:
        raise _type_error(where, kind, "numbers")
    # The values under nulls are undefined.
    return Numbers(np.asarray(_filled(numbers, np.nan), np.float64), problems)


def read_whole_numbers(
    column: pa.Array | pa.ChunkedArray, where: str, *, least: int = 0, most: int = 2**63 - 1
) -> WholeNumbers:
    """Return a column as integers, such as steps and counts; exact at any size.

    Parameters
    ----------
    column : pyarrow array of shape (row,)
        Integers, floats or decimals of any width, numbers as text, or a dictionary of them.
    where : str
        Name of the column in errors.
    least, most : int
        Smallest and largest usable integer, both within int64.

    Raises
    ------
    FormatError
        If the type can't be converted to integers.

    Examples
    --------
    >>> found = read_whole_numbers(pa.array([1250.0, 0.5, None, -1.0]), "the column 'step'")
    >>> found.values.tolist()
    [1250, -1, -1, -1]
    >>> {reason: int(rows.sum()) for reason, rows in found.problems.items()}
    {'is missing': 1, 'is not a whole number': 1, 'is below 0': 1}
    """
    column = _plain(column)
    kind = column.type
    if pa.types.is_dictionary(kind):
        codes, parts = _each_dictionary(
            column, lambda values: read_whole_numbers(values, where, least=least, most=most)
        )
        return WholeNumbers(
            np.append(np.concatenate([part.values for part in parts]) if parts else np.empty(0, np.int64), -1)[codes],
            _spread_problems(parts, codes, missing="is missing"),
        )
    if pa.types.is_null(kind):
        column = column.cast(pa.int64())
        kind = column.type
    if pa.types.is_integer(kind):
        values = _filled(column, 0)
        if not column.null_count and len(values) and least <= int(values.min()) and int(values.max()) <= most:
            return WholeNumbers(values.astype(np.int64, copy=False), {})
        missing = _mask(column.is_null())
        below, above = values < least, values > most
        return _whole_numbers(values.astype(np.int64), missing, {}, below & ~missing, above & ~missing, least, most)
    if pa.types.is_floating(kind):
        numbers = _filled(column.cast(pa.float64()), np.nan)
        with np.errstate(invalid="ignore"):
            values = numbers.astype(np.int64)
        # Fast path for the usual case: all are integers small enough that the cast of no other value equals them.
        bound = min(most + 1, _EXACT)
        if len(values) and (values == numbers).all() and least <= int(values.min()) and int(values.max()) < bound:
            return WholeNumbers(values, {})
        missing = np.isnan(numbers)
        is_integer = np.isfinite(numbers) & (np.floor(numbers) == numbers)
        # `most` may round up to 2.0**63, which int64 can't represent.
        below, above = is_integer & (numbers < least), is_integer & (numbers >= float(most + 1))
        inside = is_integer & ~below & ~above
        values = np.where(inside, numbers, 0.0).astype(np.int64)
        odd = {"is not a whole number": ~is_integer & ~missing}
        return _whole_numbers(values, missing, odd, below, above | (values > most), least, most)
    if pa.types.is_decimal(kind) or _is_text(kind):
        return _parsed_whole_numbers(column, where, least, most)
    raise _type_error(where, kind, "whole numbers")


def read_times(column: pa.Array | pa.ChunkedArray, where: str) -> npt.NDArray[np.datetime64]:
    """Return a column of dates or timestamps as microseconds in UTC, NaT for null; finer units are rounded down.

    Parameters
    ----------
    column : pyarrow array of shape (row,)
        Timestamps of any unit, with a time zone or without one (UTC is assumed), dates, or a dictionary of them.
    where : str
        Name of the column in errors.

    Raises
    ------
    FormatError
        If the type is not one of times, or a time is beyond the range of 64-bit microseconds.

    Examples
    --------
    >>> read_times(pa.array([0, None], pa.timestamp("ns", "Europe/Berlin")), "the column 'created_at'").tolist()
    [datetime.datetime(1970, 1, 1, 0, 0), None]
    """
    column = _plain(column)
    kind = column.type
    if pa.types.is_dictionary(kind):
        codes, parts = _each_dictionary(column, lambda values: read_times(values, where))
        known = np.concatenate([*parts, np.array(["NaT"], "datetime64[us]")])
        return known[codes]
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_null(kind)):
        raise _type_error(where, kind, "times")
    try:
        if pa.types.is_timestamp(kind) and kind.unit == "ns":
            # NumPy rounds down, also before 1970; Arrow's cast would truncate towards zero or fail.
            column = column.cast(pa.int64())
            nanoseconds = _filled(column, np.iinfo(np.int64).min)
            times = np.asarray(nanoseconds.astype("datetime64[ns]").astype("datetime64[us]"))
        else:
            cast = column.cast(pa.timestamp("us")).cast(pa.int64())
            times = _filled(cast, np.iinfo(np.int64).min).astype("datetime64[us]")
    except pa.ArrowInvalid as error:
        raise FormatError(
            f"{where} has a time that is out of range ({error}), so the times of its rows are unknown. "
            "Repair the file, or remove the column."
        ) from error
    return times


def _plain(column: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column without extension types and run-end encoding."""
    if not isinstance(column, pa.ChunkedArray):
        column = pa.chunked_array([column], column.type)
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type))
    if pa.types.is_run_end_encoded(kind):
        return _plain(pa.chunked_array([pc.run_end_decode(chunk) for chunk in column.chunks], kind.value_type))
    return column


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    try:
        return column.cast(kind)
    except pa.ArrowNotImplementedError:
        # Early releases of Arrow have view types but can't cast them.
        return pa.chunked_array([pa.array(chunk.to_pylist(), kind) for chunk in column.chunks], kind)
    except pa.ArrowInvalid:
        # Invalid UTF-8; the caller decides whether to reject it.
        as_bytes = pa.large_binary() if kind == pa.large_string() else kind
        return pa.chunked_array([chunk.cast(as_bytes).view(kind) for chunk in column.chunks], kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or (pa.types.is_fixed_size_binary(kind) and kind != _UUID)
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or (_is_bytes(kind) and not pa.types.is_fixed_size_binary(kind))
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _type_error(where: str, kind: pa.DataType, target: str) -> FormatError:
    shown = str(kind)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return FormatError(
        f"{where} has the type {shown}, which can't be read as {target}, so its rows are unknown. "
        f"Write the column as {target}."
    )


def _filled(column: pa.ChunkedArray, missing: object) -> npt.NDArray[Any]:
    """Return a column as an array of its own type, with nulls replaced by `missing`."""
    if column.null_count:
        column = column.fill_null(pa.scalar(missing, column.type))
    return np.asarray(column.to_numpy())


def _mask(column: pa.ChunkedArray) -> Bool:
    return np.asarray(column.to_numpy(), np.bool_)


def _inexact(column: pa.ChunkedArray, numbers: pa.ChunkedArray) -> Bool:
    integers, doubles = _filled(column, 0), _filled(numbers, 0.0)
    inexact = np.zeros(len(integers), np.bool_)
    large = np.flatnonzero(np.abs(doubles) >= _EXACT)
    pairs = zip(integers[large].tolist(), doubles[large].tolist(), strict=True)
    inexact[large] = [int(integer) != int(double) for integer, double in pairs]
    return inexact


def _number_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Format numbers in decimal digits, integers without a point, NaN as null; each distinct number once."""
    if pa.types.is_floating(column.type):
        column = column.cast(pa.float64())

    def write(values: pa.Array) -> list[str | None]:
        return [_number_text(value) for value in values.to_pylist()]

    codes, parts = _each_dictionary(column.dictionary_encode(), write)
    names = pa.array([*(name for part in parts for name in part), None], pa.large_string())
    return pa.chunked_array([names.take(pa.array(codes % len(names)))])


def _number_text(value: int | float | Decimal | None) -> str | None:
    if value is None or value != value:
        return None
    is_integer = _is_integer(value) if isinstance(value, Decimal) else float(value).is_integer()
    return str(int(value)) if is_integer else str(value)


def _each_dictionary(column: pa.ChunkedArray, read: Any) -> tuple[Int64, list[Any]]:
    """Return each row's index into the concatenated dictionaries, -1 for null, and `read` of each dictionary."""
    results: list[Any] = []
    codes: list[Int64] = [np.empty(0, np.int64)]
    dictionary: pa.Array | None = None
    start = stop = 0
    for chunk in column.chunks:
        if dictionary is None or not chunk.dictionary.equals(dictionary):
            dictionary = chunk.dictionary
            results.append(read(dictionary))
            start, stop = stop, stop + len(dictionary)
        indices = chunk.indices.cast(pa.int64())
        codes.append(np.asarray(pc.add(indices, start).fill_null(-1).to_numpy(zero_copy_only=False), np.int64))
    return np.concatenate(codes), results


def _spread_problems(parts: list[Any], codes: Int64, missing: str | None = None) -> dict[str, Bool]:
    """Return the problems of each row, from those of its dictionary value; null has the problem `missing`."""
    problems: dict[str, Bool] = {}
    for reason in dict.fromkeys(reason for part in parts for reason in part.problems):
        of_value = [part.problems.get(reason, np.zeros(len(part.values), np.bool_)) for part in parts]
        problems[reason] = np.append(np.concatenate(of_value), False)[codes]
    if missing is not None and (codes < 0).any():
        problems[missing] = problems.get(missing, np.zeros(len(codes), np.bool_)) | (codes < 0)
    return {reason: rows for reason, rows in problems.items() if rows.any()}


def _numbers_of_dictionaries(column: pa.ChunkedArray, where: str) -> Numbers:
    codes, parts = _each_dictionary(column, lambda values: read_numbers(values, where))
    values = np.concatenate([*(part.values for part in parts), np.array([np.nan])])
    return Numbers(values[codes], _spread_problems(parts, codes))


def _numbers_of_texts(texts: pa.ChunkedArray, where: str) -> Numbers:
    """Parse texts that are not all numbers; the others tend to repeat, so each distinct text is parsed once."""
    encoded = texts.cast(pa.large_binary()).dictionary_encode()

    def read(values: pa.Array) -> Numbers:
        known = [_decoded(value) for value in values.to_pylist()]
        numbers = np.array([as_float(text) for text in known], np.float64)
        no_number = np.isnan(numbers) & np.array([text.strip().casefold() not in _NANS for text in known], np.bool_)
        return Numbers(numbers, {"is not a number": no_number} if no_number.any() else {})

    codes, parts = _each_dictionary(encoded, read)
    values = np.concatenate([*(part.values for part in parts), np.array([np.nan])])
    return Numbers(values[codes], _spread_problems(parts, codes))


def _decoded(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _whole_numbers(
    values: Int64, missing: Bool, odd: Mapping[str, Bool], below: Bool, above: Bool, least: int, most: int
) -> WholeNumbers:
    problems = {"is missing": missing, **odd, f"is below {least}": below, f"is above {most}": above}
    problems = {reason: rows for reason, rows in problems.items() if rows.any()}
    for rows in problems.values():
        values = np.where(rows, -1, values)
    return WholeNumbers(values, problems)


def _parsed_whole_numbers(column: pa.ChunkedArray, where: str, least: int, most: int) -> WholeNumbers:
    """Parse decimals and texts exactly, each distinct one once: floats would change the last digits of long ones."""
    if not pa.types.is_decimal(column.type):
        column = read_texts(column, where, check=False).cast(pa.large_binary())

    def read(values: pa.Array) -> WholeNumbers:
        known = [_parse_integer(value, least, most) for value in values.to_pylist()]
        reasons = [text for text in known if isinstance(text, str)]
        return WholeNumbers(
            np.array([-1 if isinstance(value, str) else value for value in known], np.int64),
            {reason: np.array([value == reason for value in known], np.bool_) for reason in dict.fromkeys(reasons)},
        )

    codes, parts = _each_dictionary(column.dictionary_encode(), read)
    values = np.concatenate([*(part.values for part in parts), np.array([-1])])
    return WholeNumbers(values[codes], _spread_problems(parts, codes, missing="is missing"))


def _parse_integer(value: bytes | Decimal | None, least: int, most: int) -> int | str:
    """Return an integer, or the reason why there is none."""
    if isinstance(value, bytes):
        text = _decoded(value).strip()
        try:
            # Python also accepts non-ASCII digits and "1_000", which no program writes.
            value = Decimal(text) if text.isascii() and "_" not in text else None
        except ArithmeticError:
            value = None
        if value is None:
            return "is not a number"
    if value is None or value.is_nan():
        return "is missing"
    if not value.is_finite():
        return "is not a whole number"
    # Compare first, so that a number of a million digits is never expanded.
    if value < least:
        return f"is below {least}" if _is_integer(value) else "is not a whole number"
    if value > most:
        return f"is above {most}"
    return int(value) if _is_integer(value) else "is not a whole number"


def _is_integer(value: Decimal) -> bool:
    _, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or exponent >= 0:
        return True
    return not any(digits[exponent:]) if -exponent <= len(digits) else not any(digits)
