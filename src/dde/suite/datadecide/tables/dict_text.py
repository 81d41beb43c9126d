"""Metrics of an evaluation, written as the text of a Python dict or of a JSON object.

The suite's raw tables hold 1.4 million such texts of about 1 KB, nearly all with the same keys in the same order.
A kernel reads them where they lie, without an object per text; what it does not recognise at once is read by a strict
grammar, which also says what is wrong with a text.
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
from dde.errors import FormatError

__all__ = ["ParsedDicts", "parse_dict_row", "parse_dicts", "parse_dicts_into"]

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|NaN|inf|Infinity)"
_KEY = r"""(?P<quote>['"])(?P<key>(?:\\.|(?!(?P=quote))[^\\\n])*)(?P=quote)"""
# Digits and white space of other scripts are no part of a number, in Python's source as in JSON.
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
            raise ValueError(f"no key with a number stands at character {position}: {_excerpt(body, position)}")
        key = _unescape(match["key"], match["quote"])
        if key in found:
            raise ValueError(f"the key {key!r} stands twice")
        value = match["value"]
        found[key] = _number(value)
        position = match.end()
        if position == end:
            return found
        if body[position] != ",":
            raise ValueError(f"no comma stands at character {position}: {_excerpt(body, position)}")
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
            # Text that is no UTF-8 is refused here: what makes it is a ValueError, too.
            text = texts[row].as_py()
            if text is None:
                raise ValueError("it is null")
            parsed = parse_dict_row(text)
        except ValueError as error:
            malformed[row] = str(error)
            continue
        out[target[row]] = [parsed.get(entry, np.nan) for entry in entries]
    return malformed
