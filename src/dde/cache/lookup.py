"""Lookup: which segment has which run and key, and the rows of runs gathered from the segments that have them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.array_types import Int64
from dde.cache.manifest import Manifest
from dde.cache.segments import CHUNK_ROWS, DamagedError, SegmentReader
from dde.errors import SourceError
from dde.sources.protocols import History

__all__ = ["Lookup", "gather", "look_up"]

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Lookup:
    """Where the rows of runs are.

    Attributes
    ----------
    manifests : list of Manifest
        Segments that have some of the runs, newest first.
    positions : list of (run,) int64 arrays
        For each segment, the position of each requested run in it; -1 where it does not have its newest rows.
    lengths : (run,) int64 array
        Rows of each run; -1 where no segment has it.
    groups : list of (keys, (run,) int64 array)
        Keys, with the number of the segment that each run's values are read from; -1 where no segment has them. The key
        of the steps is None.
    """

    manifests: list[Manifest]
    positions: list[Int64]
    lengths: Int64
    groups: list[tuple[list[str | None], Int64]]

    @property
    def lacking(self) -> Flags:
        """Which runs lack some key."""
        lacking: Flags = np.logical_or.reduce([segment < 0 for _, segment in self.groups])
        return lacking

    def missing(self) -> list[tuple[Int64, list[str]]]:
        """Return runs and keys that were not found, in at most two rectangles."""
        lacks_all: Flags = np.logical_and.reduce([segment < 0 for _, segment in self.groups])
        rectangles = []
        for runs in (lacks_all, self.lacking & ~lacks_all):
            if runs.any():
                keys = [key for members, segment in self.groups if (segment[runs] < 0).any() for key in members]
                rectangles.append((np.flatnonzero(runs), [key for key in keys if key is not None]))
        return rectangles


def look_up(
    manifests: Iterable[Manifest],
    runs: tuple[str, ...],
    versions: tuple[str, ...],
    keys: Sequence[str],
    unreadable: Collection[str] = (),
) -> Lookup:
    """Find the segments that have runs in these versions.

    Parameters
    ----------
    manifests : iterable of Manifest
        Newest first: of two segments that have the same rows of a run, the newer one is read.
    runs, versions : tuple of str
    keys : sequence of str
    unreadable : collection of str
        Names of segments that are not to be read. Older rows do not count all the same.
    """
    found: list[Manifest] = []
    positions: list[Int64] = []
    fetched, lengths, digests = np.full((3, len(runs)), -1, np.int64)
    for manifest in manifests:
        at = manifest.positions(runs, versions)
        newer = np.flatnonzero(at >= 0)
        if newer.size:
            found.append(manifest)
            positions.append(at)
            newer = newer[manifest.fetched[at[newer]] > fetched[newer]]
            for facts, of_segment in zip(
                (fetched, lengths, digests), (manifest.fetched, manifest.lengths, manifest.digests), strict=True
            ):
                facts[newer] = of_segment[at[newer]]
    for i, (manifest, at) in enumerate(zip(found, positions, strict=True)):
        agrees = (at >= 0) & (manifest.digests[at] == digests) & (manifest.name not in unreadable)
        positions[i] = np.where(agrees, at, -1)
    # Keys that the same segments have are read together.
    together: dict[tuple[int, ...], list[str | None]] = {}
    for key in (None, *keys):
        holders = tuple(i for i, manifest in enumerate(found) if key is None or key in manifest.key_positions)
        together.setdefault(holders, []).append(key)
    groups = []
    for holders, members in together.items():
        segment = np.full(len(runs), -1, np.int64)
        for i in holders:
            segment[(segment < 0) & (positions[i] >= 0)] = i
        groups.append((members, segment))
    return Lookup(found, positions, lengths, groups)


def gather(found: Lookup, keys: Sequence[str], reader: SegmentReader) -> History:
    """Return the rows of a lookup that lacks nothing, by run in the requested order.

    Parameters
    ----------
    found : Lookup
    keys : sequence of str
        The order of the values.
    reader : SegmentReader

    Raises
    ------
    DamagedError
        With the segments that can't be read.
    SourceError
        If the lookup is not complete.
    """
    if found.lacking.any():
        raise SourceError(
            f"the cache has no values of {int(found.lacking.sum()):,} of {len(found.lengths):,} runs after they were "
            "fetched, so these are unknown. Delete the cache with dde.cache.clear_cache() or `dde cache clear`, or "
            "pass cache_dir=None."
        )
    lengths = found.lengths
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total = int(offsets[-1])
    columns: dict[str | None, npt.NDArray[Any]] = {}
    damaged: set[str] = set()
    for names, segment in found.groups:
        for i in np.unique(segment[lengths > 0]).tolist():
            manifest = found.manifests[i]
            runs = np.flatnonzero((segment == i) & (lengths > 0))
            starts = manifest.offsets[found.positions[i][runs]]
            for members in _clusters(starts, lengths[runs]):
                some = runs[members]
                first, end = _chunk_range(starts[members], lengths[some], manifest.rows)
                try:
                    read = reader.read(manifest, names, first, end)
                except DamagedError:
                    damaged.add(manifest.name)
                    break
                source = _row_index(starts[members] - first, lengths[some])
                target = _row_index(offsets[some], lengths[some])
                for name in names:
                    piece = read[name][source]
                    if len(piece) == total:
                        columns[name] = piece.view()
                        continue
                    if name not in columns:
                        columns[name] = np.empty(total, piece.dtype)
                    columns[name][target] = piece
    if damaged:
        raise DamagedError(*damaged)
    run = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    step = columns.get(None, np.empty(0, np.int64))
    values = {key: columns.get(key, np.empty(0)) for key in keys}
    for array in (run, step, *values.values()):
        # Shared with other callers.
        array.flags.writeable = False
    return History(run, step, values)


def _clusters(starts: Int64, lengths: Int64) -> list[Int64]:
    """Group runs of a segment so that the rows between two groups, if more than a chunk, are not read."""
    order = np.argsort(starts, kind="stable")
    ends = starts[order] + lengths[order]
    is_apart = starts[order][1:] // CHUNK_ROWS > (ends[:-1] - 1) // CHUNK_ROWS + 1
    return [np.sort(members) for members in np.split(order, np.flatnonzero(is_apart) + 1)]


def _chunk_range(starts: Int64, lengths: Int64, rows: int) -> tuple[int, int]:
    """Return the range of rows of the chunks that have these."""
    first = int(starts.min()) // CHUNK_ROWS * CHUNK_ROWS
    end = -(-int((starts + lengths).max()) // CHUNK_ROWS) * CHUNK_ROWS
    return first, min(end, rows)


def _row_index(starts: Int64, lengths: Int64) -> slice | Int64:
    """Return the index of `lengths` rows from each of `starts` on: a slice, which needs no copy, if they are adjacent.

    Examples
    --------
    >>> _row_index(np.array([4, 6]), np.array([2, 1])), _row_index(np.array([4, 0]), np.array([2, 1]))
    (slice(4, 7, None), array([4, 5, 0]))
    """
    ends = starts + lengths
    if (starts[1:] == ends[:-1]).all():
        return slice(int(starts[0]), int(ends[-1]))
    first = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    index: Int64 = np.arange(int(lengths.sum())) - np.repeat(first, lengths) + np.repeat(starts, lengths)
    return index
