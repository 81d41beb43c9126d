"""Decode JSON text of the stores, read single keys, preserve exact digits, and convert it to valid jsonb."""

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

#: Levels of objects and lists that are read; W&B writes about five.
MAX_DEPTH = 100
#: Reason why a part of JSON was left out.
TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep"

# int() rejects text with more digits, and such a number exceeds every double anyway.
_MAX_DIGITS = 4000


def _whole_number(text: str) -> int | float:
    return int(text) if len(text) <= _MAX_DIGITS else math.copysign(math.inf, -1 if text[0] == "-" else 1)


_DECODER = json.JSONDecoder(parse_int=_whole_number)
_SPACE = re.compile(r"[ \t\r\n]*")


def load_json(text: str | bytes | None) -> Any:
    """Return the value of JSON text; None for None, blank text and invalid JSON.

    NaN and Infinity are read as numbers, as Python and W&B write them. If the nesting is too deep for Python to
    decode, values below `MAX_DEPTH` levels are None.
    """
    return read_json(text)[0]


def read_json(text: str | bytes | None) -> tuple[Any, str]:
    """Return the value of JSON text as `load_json` does, and the problem with it; "" if it is complete or absent.

    Examples
    --------
    >>> read_json('{"lr": 1e-05}'), read_json("lr=1e-05")
    (({'lr': 1e-05}, ''), (None, 'is not JSON'))
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
        return (None, "is not JSON") if text.strip() else (None, "")
    try:
        return _DECODER.decode(_without_depths(text)), TOO_DEEP
    except (ValueError, RecursionError):
        return None, "is not JSON"


# A string, so that brackets within it are skipped, or one bracket. An unterminated string causes no backtracking.
_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)


def _without_depths(text: str) -> str:
    """Return JSON text with null in place of every value below `MAX_DEPTH` levels, in one pass."""
    pieces: list[str] = []
    depth = start = 0
    for match in _BRACKET.finditer(text):
        token = match.group()
        if token in "[{":
            depth += 1
            if depth == MAX_DEPTH + 1:
                pieces += [text[start : match.start()], "null"]
        elif token in "]}":
            if depth == MAX_DEPTH + 1:
                start = match.end()
            depth -= 1
    if depth > MAX_DEPTH:
        # Truncated within a removed value, so it is invalid JSON in any case.
        return "".join(pieces)
    return "".join([*pieces, text[start:]])


def top_level_value(text: str, name: str) -> Any:
    """Return the value of one key of a JSON object, without decoding the text after it; None where absent.

    The attributes of a run are about 100 KB of text, and only the tags near the start are needed.
    """
    at = _SPACE.match(text, 0).end()  # type: ignore[union-attr]
    if text[at : at + 1] != "{":
        nested = load_json(text)  # JSON text encoded again, or not an object
        return top_level_value(nested, name) if isinstance(nested, str) else None
    try:
        while True:
            at = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
            if text[at] != '"':
                return None
            key, at = scanstring(text, at + 1)
            at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
            at = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
            value, at = _DECODER.raw_decode(text, at)
            if key == name:
                return value
            at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
    except (ValueError, IndexError, RecursionError):
        return None


def dump_json(value: Any) -> str:
    """Return `value` as JSON text; other types are converted with ``str``, and NaN is written as Python does."""
    return json.dumps(value, default=str)


# jsonb has no NaN or Infinity, no U+0000 and no lone surrogate. Strings are matched as one token, so that NaN and
# Infinity are matched only outside strings, and escapes only inside.
_SUSPECT = re.compile(r"NaN|Infinity|\\u0000|\\u[dD][89a-fA-F]|[\x00\ud800-\udfff]")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?Infinity|NaN', re.DOTALL)
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a surrogate pair, which is a valid character
    r"|\\u0000|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|[\x00\ud800-\udfff]|\\.",
    re.DOTALL,
)


def as_jsonb_text(text: str) -> tuple[str, int]:
    """Return JSON text that PostgreSQL accepts as jsonb, and the number of characters replaced in it.

    Numbers keep their digits. NaN and Infinity become text, as W&B writes them. U+0000 and lone surrogates, which
    jsonb can't represent, become U+FFFD.

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
        text = match.group()
        if len(text) == 2 or len(text) == 12:
            return text
        replaced += 1
        return "\\ufffd"

    def token(match: re.Match[str]) -> str:
        text = match.group()
        return _ESCAPE.sub(escape, text) if text[0] == '"' else f'"{text}"'

    return _TOKEN.sub(token, text), replaced


_ZERO = re.compile(r'"(?:[^"\\]|\\.)*"|(?<![eE])-0(?:\.0+)?(?:[eE][+-]?\d+)?(?![\d.])', re.DOTALL)


def count_negative_zeros(text: str) -> int:
    """Return the number of negative zeros in JSON text, whose sign jsonb loses.

    Examples
    --------
    >>> count_negative_zeros('{"-0": [-0.0, -0.5, 1e-05, -0]}')
    2
    """
    return sum(token[0] == "-" for token in _ZERO.findall(text)) if "-0" in text else 0


class NotExactError(ValueError):
    """Content that can't be stored unchanged; the message is a predicate that follows the name of the content."""


class Part(NamedTuple):
    """A value and, if it was read from JSON, its text, which preserves the digits."""

    text: str | None
    value: Any


NOTHING = Part(None, None)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    decoded = dict(pairs)
    if len(decoded) != len(pairs):
        # A database would drop one of them.
        raise NotExactError("has a key twice")
    return decoded


# Long integers stay text, because Python refuses to parse more than some thousand digits.
_EXACT_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=lambda text: text if len(text) > 300 else int(text)
)


def decode_line(line: bytes) -> str:
    """Return a line of JSON as text; bytes that are not UTF-8 become lone surrogates, which can be counted."""
    return line.decode("utf-8", "surrogateescape")


def split_object(text: str) -> dict[str, Part]:
    """Return the parts of a JSON object.

    Raises
    ------
    NotExactError
        If it is not a JSON object, or has a key twice.

    Examples
    --------
    >>> split_object('{"a": 1e400, "b": [1.50]}')["b"]
    Part(text='[1.50]', value=[1.5])
    """
    parts: dict[str, Part] = {}
    try:
        at = _SPACE.match(text, 0).end()  # type: ignore[union-attr]
        if text[at] != "{":
            raise NotExactError("is not a JSON object")
        at = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
        while text[at] != "}" or parts:
            if text[at] != '"':
                raise NotExactError("is not a JSON object")
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
        raise NotExactError("is not a JSON object") from None
    return parts


def join_parts(parts: Mapping[str, Part]) -> Part:
    """Return a JSON object composed of parts that have text."""
    text = "{" + ", ".join(f"{json.dumps(key)}: {part.text}" for key, part in parts.items()) + "}"
    return Part(text, {key: part.value for key, part in parts.items()})


def object_text(part: Part) -> str:
    """Return the JSON text of an object, which may already be encoded once or twice; "{}" for null and blank text.

    Raises
    ------
    NotExactError
        If it is not an object.

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
        # A value of a map column.
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
    raise NotExactError("is not a JSON object")


def _value_text(value: Any) -> str:
    """Return a Python value as JSON text; decimal numbers in an object keep their digits."""
    if isinstance(value, Mapping) and any(isinstance(inner, Decimal) for inner in value.values()):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {_value_text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, Decimal) and value.is_finite():
        return format(value, "f")
    return dump_json(value)
