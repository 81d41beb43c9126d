"""Heads of parts: which runs and keys they hold, told by the attributes of the group, and who is newer."""

from __future__ import annotations

import json
import time
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Head", "created_of", "describe", "head_json", "parse_head"]

Int64 = npt.NDArray[np.int64]

#: Raised whenever what is stored, or how, changes its meaning.
FORMAT = 3

_ENDING = ".zarr"
_TIME = "%Y%m%dT%H%M%S%f"

# 1 MB of steps.
_DIGESTED_ROWS = 1 << 17


@dataclass(frozen=True, eq=False)
class Head:
    """What a part holds, without its values.

    Attributes
    ----------
    name : str
        Folder of the part: when it was written, and something unique.
    as_of : int
        Microseconds since 1970. Where parts disagree, the later one has the newer content of the source; a part
        that was merged from others is as of the latest of these.
    runs, versions : tuple of str
    lengths : (run,) int64 array
        Rows of each run.
    digests : (run,) int64 array
        Of the steps of each run: parts that were fetched at different times have the same rows, or they don't.
    keys : tuple of str
    notes : tuple of str
        What the source reported of these rows.
    replaces : frozenset of str
        Parts that this one was merged from.
    arrays : mapping
        Zarr's metadata of each array, where it is known.
    """

    name: str
    as_of: int
    runs: tuple[str, ...]
    versions: tuple[str, ...]
    lengths: Int64
    digests: Int64
    keys: tuple[str, ...]
    notes: tuple[str, ...] = ()
    replaces: frozenset[str] = frozenset()
    arrays: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def number(self) -> dict[str, int]:
        """Position of each run."""
        return {run_id: i for i, run_id in enumerate(self.runs)}

    @cached_property
    def key_number(self) -> dict[str, int]:
        """Position of each key."""
        return {key: i for i, key in enumerate(self.keys)}

    @cached_property
    def offsets(self) -> Int64:
        """The first row of each run, and the end of the last."""
        return np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)

    @cached_property
    def same_rows(self) -> int:
        """Equal for parts that have the same runs in the same versions with the same steps."""
        return hash((self.runs, self.versions, self.lengths.tobytes(), self.digests.tobytes()))

    @property
    def rows(self) -> int:
        """Rows of all runs."""
        return int(self.offsets[-1])

    @property
    def bytes(self) -> int:
        """Size of the values."""
        return 8 * self.rows * max(len(self.keys), 1)


def describe(
    runs: Sequence[str],
    versions: Sequence[str],
    lengths: Int64,
    step: Int64,
    keys: Sequence[str],
    notes: Sequence[str] = (),
    *,
    after: int = 0,
    as_of: int | None = None,
    replaces: frozenset[str] = frozenset(),
) -> Head:
    """Return the head of a new part.

    Parameters
    ----------
    after : int
        Microseconds since 1970 of the newest part known: this one is newer, whatever the clocks of two machines say.
    as_of : int, optional
        Of what it was merged from; by default, now.
    """
    now = max(time.time_ns() // 1000, after + 1)
    name = f"{datetime.fromtimestamp(now / 1e6, UTC).strftime(_TIME)}-{uuid.uuid4().hex[:12]}{_ENDING}"
    digests = _digests(lengths, step)
    return Head(
        name,
        now if as_of is None else as_of,
        tuple(runs),
        tuple(versions),
        np.asarray(lengths, np.int64),
        digests,
        tuple(keys),
        tuple(notes),
        replaces,
    )


@lru_cache(4096)
def created_of(name: str) -> int:
    """Return when a part was written, in microseconds since 1970; raises ValueError for any other name."""
    told, dash, rest = name.partition("-")
    if not dash or not rest.endswith(_ENDING):
        raise ValueError(name)
    moment = datetime.strptime(told, _TIME).replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


def _digests(lengths: Int64, step: Int64) -> Int64:
    """Return 48 bits of the steps of each run; depends on their order."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    digests = np.zeros(len(lengths), np.int64)
    first = 0
    while first < len(lengths) and len(step):
        # Some runs at a time: the steps of a part may be half of the memory that there is.
        end = max(int(np.searchsorted(offsets, offsets[first] + _DIGESTED_ROWS, side="right")) - 1, first + 1)
        rows = step[offsets[first] : offsets[end]]
        digests[first:end] = _digests_of_some(lengths[first:end], offsets[first : end + 1] - offsets[first], rows)
        first = end
    return digests


def _digests_of_some(lengths: Int64, offsets: Int64, step: Int64) -> Int64:
    place = np.arange(len(step), dtype=np.int64) - np.repeat(offsets[:-1], lengths)
    # The finalizer of splitmix64: every bit of step and place changes half of the bits.
    mixed = step.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + place.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed ^ (mixed >> np.uint64(31)))])
    digests: Int64 = ((sums[offsets[1:]] - sums[offsets[:-1]]) >> np.uint64(16)).astype(np.int64)
    return digests


# Heads in the group's attributes


def head_json(head: Head) -> dict[str, Any]:
    """Return a head as the group's attribute ``dde_part``."""
    told = {
        "format": FORMAT,
        "as_of": head.as_of,
        "runs": list(head.runs),
        "versions": list(head.versions),
        "lengths": head.lengths.tolist(),
        "digests": head.digests.tolist(),
        "keys": list(head.keys),
        "notes": list(head.notes),
        "replaces": sorted(head.replaces),
    }
    return {**told, "crc32": _checksum(told)}


def _checksum(told: Mapping[str, Any]) -> int:
    # Of the content, not of its JSON: that would have to be made again, which takes longer than all else.
    texts = ("runs", "versions", "keys", "notes", "replaces")
    text = "\n".join([str(told["as_of"]), *(line for name in texts for line in told[name])])
    numbers = np.array([told["lengths"], told["digests"]], np.int64)
    return zlib.crc32(numbers.tobytes(), zlib.crc32(text.encode(errors="surrogatepass")))


def parse_head(name: str, content: bytes) -> Head | None:
    """Return the head in the metadata of a group; None where it is no part, or not a whole one."""
    try:
        group = json.loads(content)
        told = group["attributes"]["dde_part"]
        if told.get("format") != FORMAT or told.pop("crc32") != _checksum(told):
            return None
        return Head(
            name,
            told["as_of"],
            tuple(told["runs"]),
            tuple(told["versions"]),
            np.array(told["lengths"], np.int64),
            np.array(told["digests"], np.int64),
            tuple(told["keys"]),
            tuple(told["notes"]),
            frozenset(told["replaces"]),
            group["consolidated_metadata"]["metadata"],
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
