"""JSON text of the stores: decoding it whole, reading one key of it, and making it fit for PostgreSQL."""

from __future__ import annotations

import json
import math
import re
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

__all__ = ["as_jsonb_text", "count_negative_zeros", "dump_json", "load_json", "top_level_value"]

# int() refuses text of more digits, and no double is near such a number anyway.
_MAX_DIGITS = 4000


def _whole_number(text: str) -> int | float:
    return int(text) if len(text) <= _MAX_DIGITS else math.copysign(math.inf, -1 if text[0] == "-" else 1)


_DECODER = json.JSONDecoder(parse_int=_whole_number)
_SPACE = re.compile(r"[ \t\r\n]*")


def load_json(text: str | bytes | None) -> Any:
    """Return the value of JSON text; None for no text, blank text and text that is no JSON.

    NaN and Infinity stand for the numbers, as Python and W&B write them.
    """
    if text is None:
        return None
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


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
