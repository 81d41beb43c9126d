"""Lookup: which segment has which run and key, and the rows of runs gathered from the segments that have them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
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
        For each segment, the position of each requested run in it; -1 where it does not have the run.
    lengths : (run,) int64 array
        Rows of each run; -1 where no segment has it.
    groups : list of (keys, (run,) int64 array)
        Keys, with the number of the segment that each run's values are read from; -1 where no segment has them.
    """

    manifests: list[Manifest]
    positions: list[Int64]
    lengths: Int64
    groups: list[tuple[list[str], Int64]]

    @property
    def lacking(self) -> Flags:
        """Which runs lack some key."""
        lacking: Flags = self.lengths < 0
        for _, segment in self.groups:
            lacking = lacking | (segment < 0)
        return lacking

    @property
    def is_complete(self) -> bool:
        """Whether every key of every run was found."""
        return not self.lacking.any()

    def missing(self) -> list[tuple[Int64, list[str]]]:
        """Return runs and keys that were not found, in at most two rectangles."""
        every = [key for keys, _ in self.groups for key in keys]
        has_some = np.zeros(len(self.lengths), bool)
        for _, segment in self.groups:
            has_some |= segment >= 0
        has_some &= self.lengths >= 0
        some = self.lacking & has_some
        keys = [key for members, segment in self.groups if (segment[some] < 0).any() for key in members]
        rectangles = ((self.lacking & ~has_some, every), (some, keys))
        return [(np.flatnonzero(runs), of_keys) for runs, of_keys in rectangles if runs.any()]


def look_up(
    manifests: Sequence[Manifest],
    runs: Sequence[str],
    versions: Sequence[str],
    keys: Sequence[str],
    damaged: Collection[str] = (),
    known: dict[str, Int64] | None = None,
) -> Lookup:
    """Find the segments that have runs in these versions.

    Parameters
    ----------
    manifests : sequence of Manifest
        Newest first. Where two segments have different rows of a run in the same version, the newer one is right.
    runs, versions : sequence of str
    keys : sequence of str
    damaged : collection of str
        Names of segments that can't be read.
    known : dict, optional
        Positions of these very runs, by name of the segment; those that are computed are added.
    """
    n = len(runs)
    known = {} if known is None else known
    pairs: list[tuple[str, str]] = []
    found: list[Manifest] = []
    positions: list[Int64] = []
    lengths, digests = np.full(n, -1, np.int64), np.zeros(n, np.int64)
    for manifest in manifests:
        if manifest.name in damaged:
            continue
        if manifest.name not in known:
            pairs = pairs or list(zip(runs, versions, strict=True))
            known[manifest.name] = np.fromiter(map(manifest.run_positions.get, pairs, repeat(-1)), np.int64, n)
        at = known[manifest.name]
        has_run = at >= 0
        if not has_run.any():
            continue
        new = has_run & (lengths < 0)
        lengths[new], digests[new] = manifest.lengths[at[new]], manifest.digests[at[new]]
        agrees = has_run & (manifest.lengths[at] == lengths) & (manifest.digests[at] == digests)
        found.append(manifest)
        positions.append(np.where(agrees, at, -1))
    # Keys that the same segments have are read together.
    together: dict[tuple[int, ...], list[str]] = {}
    for key in keys:
        holders = tuple(i for i, manifest in enumerate(found) if key in manifest.key_positions)
        together.setdefault(holders, []).append(key)
    groups = []
    for holders, members in together.items():
        segment = np.full(n, -1, np.int64)
        for i in holders:
            segment[(segment < 0) & (positions[i] >= 0)] = i
        groups.append((members, segment))
    return Lookup(found, positions, lengths, groups)


def gather(
    found: Lookup, keys: Sequence[str], reader: SegmentReader, in_memory: Mapping[str, History] | None = None
) -> History:
    """Return the rows of a complete lookup, by run in the requested order.

    Parameters
    ----------
    found : Lookup
    keys : sequence of str
        The order of the values.
    reader : SegmentReader
    in_memory : mapping of str to History, optional
        Rows of segments that need not be read, by name.

    Raises
    ------
    DamagedError
        With the segments that can't be read.
    SourceError
        If the lookup is not complete.
    """
    if not found.is_complete:
        raise SourceError(
            f"the cache lacks values of {int(found.lacking.sum()):,} of {len(found.lengths):,} runs after they were "
            "fetched, so these are unknown. Delete the cache with dde.cache.clear_cache() or `dde cache clear`, or "
            "pass cache_dir=None."
        )
    lengths = found.lengths
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total = int(offsets[-1])
    columns: dict[str | None, npt.NDArray[Any]] = {}
    damaged: set[str] = set()
    for names, segment in _with_steps(found):
        for i in np.unique(segment[lengths > 0]).tolist():
            manifest = found.manifests[i]
            runs = np.flatnonzero((segment == i) & (lengths > 0))
            starts = manifest.offsets[found.positions[i][runs]]
            rows = (in_memory or {}).get(manifest.name)
            for members in _clusters(starts, lengths[runs]):
                some = runs[members]
                first, end = _chunk_range(starts[members], lengths[some], manifest.rows)
                if rows is not None:
                    first = 0
                    read = {name: rows.step if name is None else rows.values[name] for name in names}
                else:
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


def _with_steps(found: Lookup) -> list[tuple[list[str | None], Int64]]:
    """Return the groups of columns, with the steps under the key None among those of the first."""
    groups: list[tuple[list[str | None], Int64]] = [(list(keys), segment) for keys, segment in found.groups]
    if groups:
        groups[0][0].append(None)
        return groups
    segment = np.full(len(found.lengths), -1, np.int64)
    for i, at in enumerate(found.positions):
        segment[(segment < 0) & (at >= 0)] = i
    return [([None], segment)]


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
