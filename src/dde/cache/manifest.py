"""Manifests: the runs and keys of a segment, stored in the attributes of its Zarr group, and which is newer."""

from __future__ import annotations

import json
import re
import uuid
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np

from dde.array_types import Int64
from dde.cache.storage import Storage

__all__ = ["Manifest", "digests_of", "is_segment_name", "newest_first", "read_manifests", "segment_name"]


#: Raised whenever the meaning or the form of what is stored changes; segments of other formats are ignored.
_FORMAT = 4

_ENDING = ".zarr"
_TIME = "%Y%m%dT%H%M%S%f"
_NAME = re.compile(r"\d{8}T\d{12}-[0-9a-f]{12}" + re.escape(_ENDING))


@dataclass(frozen=True, eq=False)
class Manifest:
    """What a segment holds, without its values.

    Attributes
    ----------
    name : str
        Folder of the segment: as of when it holds the source's content, and something unique.
    title : str
        What the rows are, for people who look into the folder.
    runs, versions : tuple of str
    lengths : (run,) int64 array
        Rows of each run.
    digests : (run,) int64 array
        Digest of the steps of each run, which tells whether two segments have the same rows of it.
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
    keys: tuple[str, ...]
    notes: tuple[str, ...] = ()
    arrays: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def run_positions(self) -> dict[tuple[str, str], int]:
        """Position of each run by its id and version."""
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

    def to_attributes(self) -> dict[str, Any]:
        """Return the attributes of the Zarr group."""
        facts = {
            "format": _FORMAT,
            "runs": list(self.runs),
            "versions": list(self.versions),
            "lengths": self.lengths.tolist(),
            "digests": self.digests.tolist(),
            "keys": list(self.keys),
            "notes": list(self.notes),
        }
        manifest = {**facts, "crc32": _checksum(facts)}
        return {"title": self.title, "coordinates": "run_id version step", "dde_manifest": manifest}

    @classmethod
    def from_group(cls, name: str, content: bytes) -> Manifest | None:
        """Return the manifest in a ``zarr.json``; None if there is none of this format, or it is damaged."""
        try:
            group = json.loads(content)
            facts = group["attributes"]["dde_manifest"]
            if facts["format"] != _FORMAT or facts["crc32"] != _checksum(facts):
                return None
            return cls(
                name,
                group["attributes"]["title"],
                tuple(facts["runs"]),
                tuple(facts["versions"]),
                np.array(facts["lengths"], np.int64),
                np.array(facts["digests"], np.int64),
                tuple(facts["keys"]),
                tuple(facts["notes"]),
                group["consolidated_metadata"]["metadata"],
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return None


def _checksum(facts: Mapping[str, Any]) -> int:
    # Of the content and not of its JSON, which would have to be made again: that takes longer than all else.
    text = "\n".join(line for name in ("runs", "versions", "keys", "notes") for line in facts[name])
    numbers = np.array([facts["lengths"], facts["digests"]], np.int64)
    return zlib.crc32(numbers.tobytes(), zlib.crc32(text.encode(errors="surrogatepass")))


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


# Names, which order segments by age


def segment_name(newest: str = "", *, merged: bool = False) -> str:
    """Return the name of a new segment, which orders it after all that are known.

    Parameters
    ----------
    newest : str
        Newest name known, "" if there is none: the new segment is newer, whatever the clocks of two machines say.
    merged : bool
        Whether the content is that of existing segments, so that the new one comes directly after the newest of them.
    """
    now = datetime.now(UTC).replace(tzinfo=None)
    if newest:
        after = datetime.strptime(newest.partition("-")[0], _TIME) + timedelta(microseconds=1)
        now = after if merged else max(now, after)
    # Of one moment, a segment with new content comes after a merged one.
    return f"{now.strftime(_TIME)}-{'0' if merged else 'f'}{uuid.uuid4().hex[:11]}{_ENDING}"


def is_segment_name(name: str) -> bool:
    """Return whether a name is that of a segment, complete or not."""
    if _NAME.fullmatch(name) is None:
        return False
    try:
        return datetime.strptime(name.partition("-")[0], _TIME).year < datetime.max.year
    except ValueError:
        return False


def is_of_newer_format(content: bytes) -> bool:
    """Return whether a ``zarr.json`` is that of a segment which a later version of dde wrote."""
    try:
        return bool(json.loads(content)["attributes"]["dde_manifest"]["format"] > _FORMAT)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def newest_first(manifests: Iterable[Manifest]) -> list[Manifest]:
    """Return manifests in the order in which they are believed."""
    return sorted(manifests, key=lambda manifest: manifest.name, reverse=True)


def read_manifests(storage: Storage, known: Sequence[Manifest] = ()) -> list[Manifest]:
    """Return the manifests of all complete segments, newest first; those that are known are not read again.

    Raises
    ------
    OSError
        If the storage can't be read.
    """
    names = [name for name in storage.names() if is_segment_name(name)]
    found = {manifest.name: manifest for manifest in known}
    contents = storage.read([f"{name}/zarr.json" for name in names if name not in found])
    read = (Manifest.from_group(path.partition("/")[0], content) for path, content in contents.items())
    found.update((manifest.name, manifest) for manifest in read if manifest is not None)
    return newest_first(found[name] for name in names if name in found)
