"""Metrics of an evaluation, written as the text of a Python dict or of a JSON object.

The suite's raw tables hold 1.4 million such texts of about 1 KB, nearly all with the same keys in the same order.
A kernel reads them where they lie, without an object per text; what it does not recognise at once is read by a strict
grammar, which also says what is wrong with a text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dde.native import address, library

__all__ = ["ParsedDicts", "parse_dict_row", "parse_dicts", "parse_dicts_into"]

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|NaN|inf|Infinity)"
_PAIR = re.compile(rf"""\s*(?P<q>['"])(?P<key>(?:(?!(?P=q)).)*)(?P=q)\s*:\s*(?P<value>{_NUMBER}|None|null)\s*""")
# The kernel numbers the keys of a batch, those asked for among them.
_MAX_ENTRIES = 128


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
    """
    kernels = library()
    if kernels is None or len(entries) > _MAX_ENTRIES or not len(texts):
        rest = np.flatnonzero(target >= 0)
    else:
        data, offsets = _buffers(texts)
        keys = [entry.encode() for entry in entries]
        key_offsets = np.concatenate([[0], np.cumsum([len(k) for k in keys])]).astype(np.int32)
        wanted = np.frombuffer(b"".join(keys) or b" ", np.uint8)
        target = np.ascontiguousarray(target, np.int64)
        unread = np.zeros(len(texts), np.uint8)
        left = kernels.dde_parse_dicts(
            *(address(data), address(offsets), len(texts), address(wanted), address(key_offsets), len(keys)),
            *(address(target), address(out), out.shape[1], address(unread)),
        )
        rest = np.flatnonzero(unread) if left >= 0 else np.flatnonzero(target >= 0)
    return _parse_singly(texts, entries, target, out, rest)


def _buffers(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the bytes of texts, and where each begins and ends in them."""
    buffers = texts.buffers()
    width = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    offsets = np.frombuffer(buffers[1], width)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    # Texts that are all empty or null have no bytes.
    return np.frombuffer(buffers[2] if buffers[2] is not None and buffers[2].size else b" ", np.uint8), offsets


def _parse_singly(
    texts: pa.Array,
    entries: Sequence[str],
    target: npt.NDArray[np.int64],
    out: npt.NDArray[np.float64],
    rows: npt.NDArray[np.intp],
) -> dict[int, str]:
    malformed: dict[int, str] = {}
    for row in rows.tolist():
        text = texts[row].as_py()
        out[target[row]] = np.nan
        try:
            if text is None:
                raise ValueError("it is null")
            parsed = parse_dict_row(text)
        except ValueError as error:
            malformed[row] = str(error)
            continue
        out[target[row]] = [parsed.get(entry, np.nan) for entry in entries]
    return malformed
