"""Metrics of an evaluation, written as the text of a Python dict or of a JSON object, parsed column-wise.

The suite's raw tables hold 1.4 million such texts of about 1 KB, nearly all with the same keys in the same
order. The fast path never builds an object per row: it finds the colons and the ends of all values of a batch at
once, checks that the keys asked for stand where they stand in the batch's first row, and casts the text
between them to numbers where it lies. Rows that differ in any way are read one by one with a strict grammar.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["ParsedDicts", "parse_dict_row", "parse_dicts"]

_COLON, _COMMA, _CLOSE, _OPEN, _SPACE = b":,}{ "
_QUOTES = (ord("'"), ord('"'))

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|NaN|inf|Infinity)"
_PAIR = re.compile(rf"""\s*(?P<q>['"])(?P<key>(?:(?!(?P=q)).)*)(?P=q)\s*:\s*(?P<value>{_NUMBER}|None|null)\s*""")
# Key sets differ by size and task: a batch holds a handful of them, and more only where something is odd.
_KINDS = 12
_NULLS = pa.array(["None", "null"])


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
    body = text.strip()
    if not (body.startswith("{") and body.endswith("}")):
        raise ValueError(f"it is not a dict in braces: {_excerpt(body, 0)}")
    found: dict[str, float] = {}
    position, end = 1, len(body) - 1
    if not body[1:end].strip():
        return found
    while True:
        match = _PAIR.match(body, position, end)
        if match is None:
            raise ValueError(f"no key with a number stands at character {position}: {_excerpt(body, position)}")
        if match["key"] in found:
            raise ValueError(f"the key {match['key']!r} stands twice")
        value = match["value"]
        found[match["key"]] = float("nan") if value in ("None", "null") else float(value)
        position = match.end()
        if position == end:
            return found
        if body[position] != ",":
            raise ValueError(f"no comma stands at character {position}: {_excerpt(body, position)}")
        position += 1


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
    n_rows = len(texts)
    result = ParsedDicts(np.full((n_rows, len(entries)), np.nan))
    if n_rows == 0 or not entries:
        return result
    texts = texts.cast(pa.large_string())
    slow = np.ones(n_rows, bool)
    if texts.null_count == 0:
        _parse_alike(texts, list(entries), result.values, slow)
    columns = {entry: column for column, entry in enumerate(entries)}
    for row in np.flatnonzero(slow).tolist():
        text = texts[row].as_py()
        try:
            if text is None:
                raise ValueError("it is null")
            parsed = parse_dict_row(text)
        except ValueError as error:
            result.malformed[row] = str(error)
            result.values[row] = np.nan
            continue
        for key, column in columns.items():
            result.values[row, column] = parsed.get(key, np.nan)
    return result


def _parse_alike(
    texts: pa.Array, entries: list[str], out: npt.NDArray[np.float64], slow: npt.NDArray[np.bool_]
) -> None:
    """Fill `out` for the rows that look like the first row of their kind, and clear `slow` there."""
    buffer = texts.buffers()[2]
    if buffer is None:
        return
    data = np.frombuffer(buffer, np.uint8)
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    window = data[first:last]
    colons = np.flatnonzero(window == _COLON) + first
    ends = np.flatnonzero((window == _COMMA) | (window == _CLOSE)) + first
    colon_at = np.searchsorted(colons, offsets)
    end_at = np.searchsorted(ends, offsets)
    n_colons, n_ends = np.diff(colon_at), np.diff(end_at)
    sane = (n_colons == n_ends) & (n_colons > 0) & (np.diff(offsets) > 1)
    sane[sane] = (data[offsets[:-1][sane]] == _OPEN) & (data[offsets[1:][sane] - 1] == _CLOSE)
    for count in np.unique(n_colons[sane]).tolist():
        rows = np.flatnonzero(sane & (n_colons == count))
        steps = np.arange(count)
        colon = colons[colon_at[rows][:, None] + steps]
        end = ends[end_at[rows][:, None] + steps]
        for _ in range(_KINDS):
            if not len(rows):
                break
            other = ~_parse_kind(data, buffer, offsets, rows, colon, end, entries, out, slow)
            # The first row was the model: where it resembles nothing, not even itself, it is read singly.
            other[0] = False
            rows, colon, end = rows[other], colon[other], end[other]


def _parse_kind(
    data: npt.NDArray[np.uint8],
    buffer: pa.Buffer,
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.intp],
    colon: npt.NDArray[np.int64],
    end: npt.NDArray[np.int64],
    entries: list[str],
    out: npt.NDArray[np.float64],
    slow: npt.NDArray[np.bool_],
) -> npt.NDArray[np.bool_]:
    """Parse the rows that have the keys of the first one, and return which they are.

    All rows have one number of entries; `colon` and `end` are (row, position) offsets into `data`.
    """
    # A key runs from behind its opening quote to before its closing one: {'key': value, 'key': value}.
    key_start = np.empty_like(colon)
    key_start[:, 0] = offsets[rows] + 2
    key_start[:, 1:] = end[:, :-1] + 3
    key_end = colon - 1
    good = (key_end > key_start).all(axis=1) & (end > colon + 1).all(axis=1)
    good &= (data[colon + 1] == _SPACE).all(axis=1) & (end[:, -1] == offsets[rows + 1] - 1)
    if not good[0]:
        return np.zeros(len(rows), bool)
    keys = [bytes(data[a:b]) for a, b in zip(key_start[0], key_end[0], strict=True)]
    good &= ((key_end - key_start) == (key_end[0] - key_start[0])).all(axis=1)
    position_of = {key: position for position, key in enumerate(keys)}
    wanted = [(column, position_of.get(entry.encode())) for column, entry in enumerate(entries)]
    if len(position_of) < len(keys):
        # A key that stands twice is for the strict grammar to report.
        return np.zeros(len(rows), bool)
    # Every key is compared, also those nobody asked for: only then is an absent key known to be absent, and a
    # repeated one to be malformed.
    for number in range(len(keys)):
        start, stop = key_start[:, number], key_end[:, number]
        good &= np.isin(data[start - 1], _QUOTES) & (data[stop] == data[start - 1])
        good[good] = _same_bytes(data, start[good], keys[number])
    # The text before the first colon and between a value's end and the next key is fixed by the positions.
    good &= (data[end[:, :-1]] == _COMMA).all(axis=1) & (data[end[:, :-1] + 1] == _SPACE).all(axis=1)
    columns: list[tuple[int, npt.NDArray[np.float64]]] = []
    readable = np.ones(int(good.sum()), bool)
    for column, position in wanted:
        if position is not None:
            numbers, is_number = _cast_spans(buffer, colon[good, position] + 2, end[good, position])
            columns.append((column, numbers))
            readable &= is_number
    kept = rows[good][readable]
    for column, numbers in columns:
        out[kept, column] = numbers[readable]
    slow[kept] = False
    alike: npt.NDArray[np.bool_] = good
    return alike


def _same_bytes(data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], key: bytes) -> npt.NDArray[np.bool_]:
    """Return for each start whether `key` stands there; compares eight bytes at a time."""
    same = np.ones(len(starts), bool)
    if len(key) < 8 or len(data) < 8:
        for i, byte in enumerate(key):
            same &= data[starts + i] == byte
        return same
    words = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))
    # The last word overlaps the one before it rather than running past the key.
    for at in (*range(0, len(key) - 8, 8), len(key) - 8):
        same &= words[starts + at] == int.from_bytes(key[at : at + 8], "little")
    return same


def _cast_spans(
    buffer: pa.Buffer, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return the numbers in the spans of a text buffer, None as NaN, and which spans held a number or None."""
    bounds = np.empty(2 * len(starts), np.int64)
    bounds[0::2], bounds[1::2] = starts, stops
    # Offsets alternate start, stop: every other string of this view of the buffer is a value.
    view = pa.LargeStringArray.from_buffers(max(len(bounds) - 1, 0), pa.py_buffer(bounds), buffer)
    values = view.take(pa.array(np.arange(0, len(bounds), 2)))
    readable = np.ones(len(starts), bool)
    try:
        numbers = values.cast(pa.float64())
    except pa.ArrowInvalid:
        # Rare: some value is None or no number at all. Only then are all of them looked at.
        empty = pc.is_in(values, value_set=_NULLS.cast(pa.large_string()))
        is_number = pc.match_substring_regex(values, f"^({_NUMBER})$")
        # A leading plus is a number in the strict grammar, but not to the cast: those rows are read singly.
        is_number = pc.and_not(is_number, pc.starts_with(values, "+"))
        numbers = pc.if_else(is_number, values, None).cast(pa.float64())
        readable = np.asarray(pc.or_(empty, is_number).to_numpy(zero_copy_only=False), bool)
    return np.asarray(numbers.to_numpy(zero_copy_only=False), np.float64), readable
