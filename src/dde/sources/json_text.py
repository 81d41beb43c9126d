"""JSON text of the stores: decoding it, reading one key, keeping exact digits, and making it fit for PostgreSQL."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, NamedTuple

__all__ = [
    "NOTHING",
    "TOO_DEEP",
    "NotExactError",
    "Part",
    "as_jsonb_text",
    "count_negative_zeros",
    "decode_line",
    "dump_json",
    "join_parts",
    "load_json",
    "object_text",
    "read_json",
    "split_object",
    "top_level_value",
]

#: Levels of objects and lists that are read; what W&B writes has some five.
MAX_DEPTH = 100
#: Why a part of JSON was left out.
TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep"

# int() refuses text of more digits, and no double is near such a number anyway.
_MAX_DIGITS = 4000


def _whole_number(text: str) -> int | float:
    return int(text) if len(text) <= _MAX_DIGITS else math.copysign(math.inf, -1 if text[0] == "-" else 1)


_DECODER = json.JSONDecoder(parse_int=_whole_number)
_SPACE = re.compile(r"[ \t\r\n]*")


def load_json(text: str | bytes | None) -> Any:
    """Return the value of JSON text; None for no text, blank text and text that is no JSON.

    NaN and Infinity stand for the numbers, as Python and W&B write them. Where it nests so deeply that Python can't
    decode it, what lies below `MAX_DEPTH` levels is None.
    """
    return read_json(text)[0]


def read_json(text: str | bytes | None) -> tuple[Any, str]:
    """Return the value of JSON text as `load_json` does, and why it is not whole; "" where it is, and for no text.

    Examples
    --------
    >>> read_json('{"lr": 1e-05}'), read_json("lr=1e-05")
    (({'lr': 1e-05}, ''), (None, 'is no JSON'))
    """
    if text is None:
        return None, ""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    try:
        return _DECODER.decode(text), ""
    except RecursionError:
        pass
    except ValueError:
        return (None, "is no JSON") if text.strip() else (None, "")
    try:
        return _DECODER.decode(_without_depths(text)), TOO_DEEP
    except (ValueError, RecursionError):
        return None, "is no JSON"


# A whole string, so that brackets in it are not seen, or one bracket. A string without an end takes no backtracking.
_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)


def _without_depths(text: str) -> str:
    """Return JSON text with null in place of every value below `MAX_DEPTH` levels, in one pass."""
    kept: list[str] = []
    depth = start = 0
    for match in _BRACKET.finditer(text):
        sign = match.group()
        if sign in "[{":
            depth += 1
            if depth == MAX_DEPTH + 1:
                kept += [text[start : match.start()], "null"]
        elif sign in "]}":
            if depth == MAX_DEPTH + 1:
                start = match.end()
            depth -= 1
    if depth > MAX_DEPTH:
        # Cut short below there: no JSON, however much of it is read.
        return "".join(kept)
    return "".join([*kept, text[start:]])


def top_level_value(text: str, wanted: str) -> Any:
    """Return the value of one key of a JSON object, without decoding what follows it; None where absent.

    The attributes of a run are some 100 KB of text, of which the tags near the start are all we need.
    """
    at = _SPACE.match(text, 0).end()  # type: ignore[union-attr]
    if text[at : at + 1] != "{":
        nested = load_json(text)  # JSON text of JSON text, or no object at all
        return top_level_value(nested, wanted) if isinstance(nested, str) else None
    try:
        while True:
            at = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
            if text[at] != '"':
                return None
            key, at = scanstring(text, at + 1)
            at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
            at = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
            value, at = _DECODER.raw_decode(text, at)
            if key == wanted:
                return value
            at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
    except (ValueError, IndexError, RecursionError):
        return None


def dump_json(value: Any) -> str:
    """Return `value` as JSON text; what JSON has no form for becomes text, NaN stands as Python writes it."""
    return json.dumps(value, default=str)


# jsonb has no NaN or Infinity, no character U+0000 and no half of a surrogate pair. Strings are matched
# whole, so that the words are seen outside of strings alone and escapes inside of them alone.
_SUSPECT = re.compile(r"NaN|Infinity|\\u0000|\\u[dD][89a-fA-F]|[\x00\ud800-\udfff]")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?Infinity|NaN', re.DOTALL)
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair: one character, kept
    r"|\\u0000|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|[\x00\ud800-\udfff]|\\.",
    re.DOTALL,
)


def as_jsonb_text(text: str) -> tuple[str, int]:
    """Return JSON text that PostgreSQL takes as jsonb, and how many characters had to be replaced in it.

    Numbers keep their digits. NaN and Infinity become text, as W&B writes them. The character U+0000 and
    halves of surrogate pairs have no place in jsonb and become U+FFFD.

    Examples
    --------
    >>> as_jsonb_text('{"loss": NaN, "lr": 1e-05, "note": "NaN"}')
    ('{"loss": "NaN", "lr": 1e-05, "note": "NaN"}', 0)
    """
    if not _SUSPECT.search(text):
        return text, 0
    replaced = 0

    def escape(match: re.Match[str]) -> str:
        nonlocal replaced
        found = match.group()
        if len(found) == 2 or len(found) == 12:
            return found
        replaced += 1
        return "\\ufffd"

    def token(match: re.Match[str]) -> str:
        found = match.group()
        return _ESCAPE.sub(escape, found) if found[0] == '"' else f'"{found}"'

    return _TOKEN.sub(token, text), replaced


_ZERO = re.compile(r'"(?:[^"\\]|\\.)*"|(?<![eE])-0(?:\.0+)?(?:[eE][+-]?\d+)?(?![\d.])', re.DOTALL)


def count_negative_zeros(text: str) -> int:
    """Return how many numbers of JSON text are negative zeros, whose sign jsonb does not keep.

    Examples
    --------
    >>> count_negative_zeros('{"-0": [-0.0, -0.5, 1e-05, -0]}')
    2
    """
    return sum(found[0] == "-" for found in _ZERO.findall(text)) if "-0" in text else 0


class NotExactError(ValueError):
    """Content that can't be stored as it is; says what is wrong with it, after the name of what it is."""


class Part(NamedTuple):
    """A value with its JSON text, which keeps its digits, where it has one."""

    text: str | None
    value: Any


NOTHING = Part(None, None)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        # A database keeps one of them.
        raise NotExactError("has a key twice")
    return found


# Whole numbers stay text, of which Python reads no more than some thousand digits.
_EXACT_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=lambda text: text if len(text) > 300 else int(text)
)


def decode_line(line: bytes) -> str:
    """Return a line of JSON as text; bytes that are no UTF-8 become halves of surrogate pairs, which can be counted."""
    return line.decode("utf-8", "surrogateescape")


def split_object(text: str) -> dict[str, Part]:
    """Return the parts of a JSON object.

    Raises
    ------
    NotExactError
        When it is no JSON object, or has a key twice.

    Examples
    --------
    >>> split_object('{"a": 1e400, "b": [1.50]}')["b"]
    Part(text='[1.50]', value=[1.5])
    """
    parts: dict[str, Part] = {}
    try:
        at = _SPACE.match(text, 0).end()  # type: ignore[union-attr]
        if text[at] != "{":
            raise NotExactError("is no JSON object")
        at = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
        while text[at] != "}" or parts:
            if text[at] != '"':
                raise NotExactError("is no JSON object")
            key, at = scanstring(text, at + 1)
            at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
            at = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
            value, end = _EXACT_DECODER.raw_decode(text, at)
            if key in parts:
                raise NotExactError("has a key twice")
            parts[key] = Part(text[at:end], value)
            at = _SPACE.match(text, end).end()  # type: ignore[union-attr]
            if text[at] == "}":
                break
            at = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
    except NotExactError:
        raise
    except (ValueError, IndexError, RecursionError):
        raise NotExactError("is no JSON object") from None
    return parts


def join_parts(parts: Mapping[str, Part]) -> Part:
    """Return the JSON object of parts that have texts."""
    text = "{" + ", ".join(f"{json.dumps(key)}: {part.text}" for key, part in parts.items()) + "}"
    return Part(text, {key: part.value for key, part in parts.items()})


def object_text(part: Part) -> str:
    """Return the JSON text of an object, which may be JSON text already, once or twice over; "{}" of nothing.

    Raises
    ------
    NotExactError
        When it is no object.

    Examples
    --------
    >>> [object_text(Part(None, value)) for value in ({"lr": 1e-05}, '{"lr": 1.0e-5}', None)]
    ['{"lr": 1e-05}', '{"lr": 1.0e-5}', '{}']
    """
    value = part.value
    if isinstance(value, bytes):
        value = decode_line(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        return "{}"
    if isinstance(value, Mapping):
        return _value_text(value) if part.text is None else part.text
    if isinstance(value, list) and value and all(isinstance(item, tuple) and len(item) == 2 for item in value):
        # A column of maps.
        return _value_text(_object(value))
    if isinstance(value, str):
        try:
            inner = _EXACT_DECODER.decode(value)
            if isinstance(inner, str):
                inner = _EXACT_DECODER.decode(inner)
        except NotExactError:
            raise
        except (ValueError, RecursionError):
            inner = False
        if inner is None:
            return "{}"
        if isinstance(inner, Mapping):
            return value
    raise NotExactError("is no JSON object")


def _value_text(value: Any) -> str:
    """Return a value of Python as JSON text; decimal numbers in an object keep their digits."""
    if isinstance(value, Mapping) and any(isinstance(inner, Decimal) for inner in value.values()):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {_value_text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, Decimal) and value.is_finite():
        return format(value, "f")
    return dump_json(value)
