"""Compaction: small segments are merged into few, and segments that newer ones supersede are removed.

Any number of processes may read, write and compact at once: a segment is removed only if newer ones have all of its
runs and keys, and all processes agree on which is newer. A reader that loses a segment looks up again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from dde.cache.lookup import gather, look_up
from dde.cache.manifest import Manifest, digests_of, newest_first, read_manifests, segment_name
from dde.cache.memory import Memory
from dde.cache.segments import DamagedError, SegmentReader, write_segment
from dde.cache.storage import Storage

__all__ = ["Compaction", "compact"]

# Segments of less than this are merged: larger ones are so few that their number costs nothing beside their size.
_SMALL_BYTES = 16 << 20
# Values of a merged segment, large enough not to be merged again. A merge has up to five times as much in memory.
_SEGMENT_BYTES = 32 << 20
# A writer of a large segment may be so slow.
_UNFINISHED_SECONDS = 86_400.0
# Plans of one compaction: each leaves out the segments that were found damaged.
_MAX_PLANS = 8


@dataclass(frozen=True)
class Compaction:
    """What a compaction did.

    Attributes
    ----------
    before, after : int
        Number of segments.
    damaged : int
        Those of them that can't be read; their content is read from the source again when it is needed.
    """

    before: int
    after: int
    damaged: int


@dataclass(frozen=True)
class _Rectangle:
    """Runs and keys that become one segment; attributes as those of :class:`Manifest`."""

    name: str
    runs: tuple[str, ...]
    versions: tuple[str, ...]
    digests: tuple[int, ...]
    keys: tuple[str, ...]


def compact(storage: Storage) -> Compaction:
    """Merge the small segments of a cache, remove superseded ones and what killed writers left a day ago.

    Parameters
    ----------
    storage : Storage
        Storage of one :class:`dde.cache.RaggedCache`.

    Raises
    ------
    OSError
        If it can't be read or written. All that was written by then is complete.
    """
    found = manifests = read_manifests(storage)
    reader = SegmentReader(storage, Memory(0))
    damaged: set[str] = set()
    for _ in range(_MAX_PLANS):
        try:
            for rectangle in _plan(manifests, damaged):
                merged = _merge(storage, manifests, rectangle, damaged, reader)
                if merged is not None:
                    manifests = newest_first([merged, *manifests])
            break
        except DamagedError as error:
            damaged.update(error.args)
    # Other processes may have added segments meanwhile.
    manifests = read_manifests(storage, manifests)
    live = {i for sources, _ in _live_runs(manifests)[1] for i, _ in sources}
    for i, manifest in enumerate(manifests):
        if i not in live:
            (storage / manifest.name).remove()
    names = {manifest.name for manifest in manifests}
    for name in storage.names():
        metadata = f"{name}/zarr.json"
        # Metadata that is there and can't be read now may be that of a complete segment.
        if name not in names and (storage.read([metadata]) or "zarr.json" not in (storage / name).names()):
            (storage / name).remove_if_older(_UNFINISHED_SECONDS)
    return Compaction(len(found), len(live), len(damaged))


def _merge(
    storage: Storage,
    manifests: Sequence[Manifest],
    rectangle: _Rectangle,
    damaged: Collection[str],
    reader: SegmentReader,
) -> Manifest | None:
    """Write a rectangle as a segment and return its manifest; None if the rows are not those of the plan."""
    found = look_up(manifests, rectangle.runs, rectangle.versions, rectangle.keys, damaged)
    if not found.is_complete:
        return None
    rows = gather(found, rectangle.keys, reader)
    digests = digests_of(found.lengths, rows.step)
    if tuple(digests.tolist()) != rectangle.digests:
        return None
    notes = tuple(sorted({note for manifest in found.manifests for note in manifest.notes}))
    title = found.manifests[0].title
    merged = Manifest(
        rectangle.name, title, rectangle.runs, rectangle.versions, found.lengths, digests, rectangle.keys, notes
    )
    return write_segment(storage, merged, rows.step, [rows.values[key] for key in rectangle.keys])


# Version, rows and digest of the steps of a run.
_Facts = tuple[str, int, int]
# Segments that rows of a run are read from, by their position, with the keys that are read from each.
_Sources = tuple[tuple[int, frozenset[str]], ...]


def _live_runs(
    manifests: Sequence[Manifest], damaged: Collection[str] = ()
) -> tuple[dict[str, _Facts], list[tuple[_Sources, list[str]]]]:
    """Return the newest facts of each run, and the runs in groups of the same sources.

    A segment that is no source of any run is superseded.
    """
    current: dict[str, _Facts] = {}
    # The number of each run's sources in `distinct`: comparing numbers takes less time than comparing sources.
    number: dict[str, int] = {}
    distinct: list[_Sources] = [()]
    for i, manifest in enumerate(manifests):
        keys = frozenset(manifest.keys)
        extended: dict[int, int] = {}
        facts = zip(manifest.versions, manifest.lengths.tolist(), manifest.digests.tolist(), strict=True)
        for run, own in zip(manifest.runs, facts, strict=True):
            if current.setdefault(run, own) != own or manifest.name in damaged:
                continue
            before = number.get(run, 0)
            if before not in extended:
                sources = distinct[before]
                added = keys.difference(*(of_source for _, of_source in sources))
                # A segment without keys has rows, which any other segment has too.
                if added or not sources:
                    extended[before] = len(distinct)
                    distinct.append((*sources, (i, added)))
                else:
                    extended[before] = before
            number[run] = extended[before]
    groups: dict[int, list[str]] = {}
    for run, of_run in number.items():
        groups.setdefault(of_run, []).append(run)
    return current, [(distinct[n], runs) for n, runs in groups.items()]


def _plan(manifests: Sequence[Manifest], damaged: Collection[str]) -> list[_Rectangle]:
    """Return what the small segments are merged into; [] if that is no fewer segments."""
    current, groups = _live_runs(manifests, damaged)
    keys_of: dict[str, frozenset[str]] = {}
    merged: set[int] = set()
    for sources, runs in groups:
        small = [(i, keys) for i, keys in sources if manifests[i].nbytes < _SMALL_BYTES]
        merged.update(i for i, _ in small)
        if small:
            keys_of.update(dict.fromkeys(runs, frozenset().union(*(keys for _, keys in small))))
    # In the order of the largest segment, which is the one in which runs are read.
    largest_first = sorted(merged, key=lambda i: -manifests[i].rows)
    together: dict[frozenset[str], list[str]] = {}
    for run in dict.fromkeys(run for i in largest_first for run in manifests[i].runs if run in keys_of):
        together.setdefault(keys_of[run], []).append(run)
    all_keys = dict.fromkeys(key for i in largest_first for key in manifests[i].keys)
    rectangles = []
    for keys, runs in together.items():
        ends = np.cumsum([8 * current[run][1] * max(len(keys), 1) for run in runs])
        for piece in np.split(np.arange(len(runs)), np.flatnonzero(np.diff(ends // _SEGMENT_BYTES)) + 1):
            of_piece = tuple(runs[at] for at in piece)
            versions, _, digests = zip(*(current[run] for run in of_piece), strict=True)
            name = segment_name(manifests[min(merged)].name, merged=True)
            rectangles.append(_Rectangle(name, of_piece, versions, digests, tuple(k for k in all_keys if k in keys)))
    return rectangles if len(rectangles) < len(merged) else []
