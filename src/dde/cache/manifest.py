"""Manifests: the runs and keys of a segment, stored in the attributes of its Zarr group."""

from __future__ import annotations

import json
import re
import time
import uuid
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from itertools import pairwise, repeat
from typing import Any

import numpy as np

from dde.array_types import Int64
from dde.cache.storage import Storage

__all__ = ["Manifest", "digests_of", "read_manifests", "segment_name"]


#: Raised whenever the meaning or the form of what is stored changes. It is part of the name of each segment, so that
#: releases ignore segments of other formats without opening them.
FORMAT = 5

_NAME = re.compile(rf"(\d{{16}})-[0-9a-f]{{12}}\.v{FORMAT}\.zarr")


@dataclass(eq=False)
class Manifest:
    """What a segment holds, without its values.

    Attributes
    ----------
    name : str
        Folder of the segment.
    title : str
        What the rows are, for people who look into the folder.
    runs, versions : tuple of str
    lengths : (run,) int64 array
        Rows of each run.
    digests : (run,) int64 array
        Digest of the steps of each run, which shows whether two segments have the same rows of it.
    fetched : (run,) int64 array
        When the source gave each run (microseconds since 1970). Of different rows of a run in one version, the newest
        are right; merging segments does not change this time.
    keys : tuple of str
    notes : tuple of str
        Remarks of the source on these rows.
    arrays : mapping
        Zarr's metadata of each array; empty before the segment is written.
    """

    name: str
    title: str
    runs: tuple[str, ...]
    versions: tuple[str, ...]
    lengths: Int64
    digests: Int64
    fetched: Int64
    keys: tuple[str, ...]
    notes: tuple[str, ...] = ()
    arrays: Mapping[str, Any] = field(default_factory=dict, repr=False)
    _positions: tuple[Any, Int64 | None] = field(default=(None, None), repr=False)

    @cached_property
    def _run_positions(self) -> dict[tuple[str, str], int]:
        return {run: i for i, run in enumerate(zip(self.runs, self.versions, strict=True))}

    @cached_property
    def key_positions(self) -> dict[str, int]:
        """Position of each key."""
        return {key: i for i, key in enumerate(self.keys)}

    @cached_property
    def offsets(self) -> Int64:
        """The first row of each run, and the end of the last: (run + 1,) int64 array."""
        return np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)

    @property
    def rows(self) -> int:
        """Rows of all runs."""
        return int(self.offsets[-1])

    @property
    def nbytes(self) -> int:
        """Size of the values."""
        return 8 * self.rows * max(len(self.keys), 1)

    def positions(self, runs: tuple[str, ...], versions: tuple[str, ...]) -> Int64:
        """Return the position of each of these runs; -1 where the segment does not have it in this version."""
        # The same runs are requested for one metric after the other.
        request, positions = self._positions
        if positions is None or request != (runs, versions):
            pairs = zip(runs, versions, strict=True)
            positions = np.fromiter(map(self._run_positions.get, pairs, repeat(-1)), np.int64, len(runs))
            self._positions = (runs, versions), positions
        return positions

    def entries(self) -> Iterator[tuple[tuple[str, str], tuple[int, int, int]]]:
        """Yield id and version of each run, with when it was fetched, its rows and its digest."""
        facts = zip(self.fetched.tolist(), self.lengths.tolist(), self.digests.tolist(), strict=True)
        return zip(zip(self.runs, self.versions, strict=True), facts, strict=True)

    def to_attributes(self) -> dict[str, Any]:
        """Return the attributes of the Zarr group."""
        numbers = np.array([self.lengths, self.digests, self.fetched], "<i8").tobytes()
        facts = {name: list(getattr(self, name)) for name in _TEXTS}
        # Base64, as parsing a million numbers takes longer than all else.
        manifest = {**facts, "numbers": b64encode(numbers).decode(), "crc32": _checksum(facts, numbers)}
        return {"title": self.title, "coordinates": "run_id version step", "dde_manifest": manifest}

    @classmethod
    def from_group(cls, name: str, content: bytes) -> Manifest | None:
        """Return the manifest in a ``zarr.json``; None if there is none, or it is damaged."""
        try:
            group = json.loads(content)
            facts = group["attributes"]["dde_manifest"]
            numbers = b64decode(facts["numbers"])
            if facts["crc32"] != _checksum(facts, numbers):
                return None
            runs, versions, keys, notes = (tuple(facts[text]) for text in _TEXTS)
            lengths, digests, fetched = np.frombuffer(numbers, "<i8").astype(np.int64).reshape(3, len(runs))
            arrays = group["consolidated_metadata"]["metadata"]
            title = group["attributes"]["title"]
            return cls(name, title, runs, versions, lengths, digests, fetched, keys, notes, arrays)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None


_TEXTS = ("runs", "versions", "keys", "notes")


def _checksum(facts: Mapping[str, Any], numbers: bytes) -> int:
    # Of the content and not of its JSON, which would have to be made again: that takes longer than all else.
    text = "\n".join(line for name in _TEXTS for line in facts[name])
    return zlib.crc32(numbers, zlib.crc32(text.encode(errors="surrogatepass")))


def digests_of(lengths: Int64, step: Int64) -> Int64:
    """Return 64 bits of a digest of the steps of each run.

    Parameters
    ----------
    lengths : (run,) int64 array
    step : (row,) int64 array

    Examples
    --------
    >>> first, second, third = digests_of(np.array([2, 2, 2]), np.array([0, 5, 0, 5, 5, 0]))
    >>> bool(first == second), bool(first == third)
    (True, False)
    """
    content = step.view(np.uint8).data
    ends = (8 * np.cumsum(lengths)).tolist()
    digests = [
        int.from_bytes(blake2b(content[first:end], digest_size=8).digest(), "little", signed=True)
        for first, end in pairwise([0, *ends])
    ]
    return np.array(digests, np.int64)


def segment_name(newest: str = "") -> tuple[str, int]:
    """Return the name of a new segment, and the time in it (microseconds since 1970).

    Parameters
    ----------
    newest : str
        Newest name known, "" if there is none: the new segment is newer, whatever the clocks of two machines say.
    """
    known = _NAME.fullmatch(newest)
    moment = max(time.time_ns() // 1000, int(known[1]) + 1 if known else 0)
    return f"{moment:016d}-{uuid.uuid4().hex[:12]}.v{FORMAT}.zarr", moment


def read_manifests(storage: Storage, known: Mapping[str, Manifest] | None = None) -> dict[str, Manifest]:
    """Return the manifests of all complete segments by name, newest first; those that are known are not read again.

    Raises
    ------
    OSError
        If the storage can't be read.
    """
    found = dict(known or {})
    names = sorted(filter(_NAME.fullmatch, storage.names()), reverse=True)
    contents = storage.read([f"{name}/zarr.json" for name in names if name not in found])
    for path, content in contents.items():
        name = path.partition("/")[0]
        manifest = Manifest.from_group(name, content)
        if manifest is not None:
            found[name] = manifest
    return {name: found[name] for name in names if name in found}
