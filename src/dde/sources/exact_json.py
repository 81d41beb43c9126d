"""JSON as it stands: parts of a text that keep their digits, and objects that a database is to hold as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, NamedTuple

from dde.sources.json_text import dump_json

__all__ = ["NOTHING", "NotExactError", "Part", "decode_line", "join_parts", "object_text", "split_object"]

_SPACE = re.compile(r"[ \t\r\n]*")


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
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=lambda text: text if len(text) > 300 else int(text))


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
            value, end = _DECODER.raw_decode(text, at)
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
            inner = _DECODER.decode(value)
            if isinstance(inner, str):
                inner = _DECODER.decode(inner)
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
