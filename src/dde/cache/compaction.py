"""Compaction: small segments are merged into few, and segments that newer ones supersede are removed.

Any number of processes may read, write and compact at once: a segment is removed only if newer ones have all of its
runs and keys, and all processes agree on which is newer. A reader that loses a segment looks up again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from dde.cache.lookup import gather, look_up
from dde.cache.manifest import FORMAT, Manifest, read_manifests, segment_name
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
# Other versions of a run stay for so long after a newer one came: Datasets that are open may still read them.
_GRACE_SECONDS = 86_400.0
# Segments of this format, of earlier ones, and other names that releases before 0.2 gave what they stored.
_OWN = re.compile(
    rf"\d{{16}}-[0-9a-f]{{12}}\.v{FORMAT}\.zarr|\d{{8}}T\d{{12}}-[0-9a-f]{{12}}\.zarr|[0-9a-f]{{16}}\.zarr"
    r"|current|\.making-.*"
)


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


def compact(storage: Storage, least: int = 1) -> Compaction:
    """Merge the small segments of a cache, remove superseded ones and what killed writers left a day ago.

    Parameters
    ----------
    storage : Storage
        Storage of one :class:`dde.cache.RaggedCache`.
    least : int
        By how many segments there must be fewer after a merge; otherwise nothing is merged.

    Raises
    ------
    OSError
        If it can't be read or written. All that was written by then is complete.
    """
    manifests = read_manifests(storage)
    before = len(manifests)
    reader = SegmentReader(storage, Memory(0))
    plan = _plan(manifests)
    damaged = {name for name in plan.merged if len(plan.merged) > 1 and not _is_readable(manifests[name], reader)}
    if damaged:
        plan = _plan(manifests, damaged)
    # Before anything is written: on a full disk, this makes room.
    for name in plan.superseded:
        (storage / name).remove()
    if len(plan.planned) + least <= len(plan.merged):
        others = manifests.keys() - plan.merged
        try:
            for planned in plan.planned:
                found = look_up(manifests.values(), planned.runs, planned.versions, planned.keys, others)
                rows = gather(found, planned.keys, reader)
                write_segment(storage, planned, rows.step, [rows.values[key] for key in planned.keys])
        except DamagedError:
            # Another process has merged them in the meantime.
            pass
        for name in _plan(read_manifests(storage), damaged).superseded:
            (storage / name).remove()
    # Other processes may have added and removed segments.
    manifests = read_manifests(storage)
    for name in storage.names():
        # Files of others stay, and so do segments of a later version of dde.
        if name in manifests or not _OWN.fullmatch(name):
            continue
        # Metadata that is there and can't be read now may be that of a complete segment.
        if "zarr.json" not in (storage / name).names() or (storage / name).read(["zarr.json"]):
            (storage / name).remove_if_older(_UNFINISHED_SECONDS)
    return Compaction(before, len(manifests), len(damaged & manifests.keys()))


def _is_readable(manifest: Manifest, reader: SegmentReader) -> bool:
    try:
        reader.read(manifest, [None, *manifest.keys], 0, manifest.rows)
    except DamagedError:
        return False
    return True


@dataclass(frozen=True)
class _Plan:
    """Names of superseded segments and of those to merge, and manifests of the segments that they are merged into."""

    superseded: set[str]
    merged: set[str]
    planned: list[Manifest]


# Id and version of a run.
_Run = tuple[str, str]


def _plan(manifests: Mapping[str, Manifest], damaged: Collection[str] = ()) -> _Plan:
    """Return which segments are superseded, which are merged, and the manifests of the merged segments."""
    # Few different sets of keys occur, so that each union and difference is computed once.
    union, difference = cache(frozenset.union), cache(frozenset.difference)
    newest: dict[_Run, tuple[int, int, int]] = {}
    for manifest in manifests.values():
        for run, facts in manifest.entries():
            if run not in newest or facts[0] > newest[run][0]:
                newest[run] = facts
    end_of_grace = time.time_ns() // 1000 - round(1e6 * _GRACE_SECONDS)
    # When the version came that each run has had for longer than that.
    settled: dict[str, int] = {}
    for (run_id, _), (fetched, *_) in newest.items():
        if fetched < end_of_grace:
            settled[run_id] = max(settled.get(run_id, fetched), fetched)
    cached: dict[_Run, frozenset[str]] = {}
    small_keys: dict[_Run, frozenset[str]] = {}
    live: set[str] = set()
    merged: set[str] = set()
    # Damaged ones last: they count if no other has what they have.
    for name, manifest in sorted(manifests.items(), key=lambda item: item[0] in damaged):
        keys = frozenset(manifest.keys)
        is_small = manifest.nbytes < _SMALL_BYTES and name not in damaged
        for run, (_, _, digest) in manifest.entries():
            fetched, _, right_digest = newest[run]
            if digest != right_digest or fetched < settled.get(run[0], fetched):
                continue
            others = cached.get(run)
            added = keys if others is None else difference(keys, others)
            # A segment without keys has rows, which any other segment has too.
            if added or others is None:
                live.add(name)
                cached[run] = keys if others is None else union(others, keys)
                if is_small:
                    merged.add(name)
                    small_keys[run] = union(small_keys.get(run, frozenset()), added)
    superseded = manifests.keys() - live
    # In the order of the largest segment, which is the one in which runs are read.
    largest_first = sorted((manifests[name] for name in merged), key=lambda manifest: -manifest.rows)
    groups: dict[frozenset[str], list[_Run]] = {}
    for run in dict.fromkeys(run for manifest in largest_first for run, _ in manifest.entries()):
        if run in small_keys:
            groups.setdefault(small_keys[run], []).append(run)
    all_keys = dict.fromkeys(key for manifest in largest_first for key in manifest.keys)
    notes = tuple(sorted({note for manifest in largest_first for note in manifest.notes}))
    planned: list[Manifest] = []
    for keys, runs in groups.items():
        fetched, lengths, digests = np.array([newest[run] for run in runs], np.int64).T
        ends = np.cumsum(8 * lengths * max(len(keys), 1))
        for piece in np.split(np.arange(len(runs)), np.flatnonzero(np.diff(ends // _SEGMENT_BYTES)) + 1):
            ids, versions = zip(*(runs[i] for i in piece), strict=True)
            columns = tuple(key for key in all_keys if key in keys)
            name, _ = segment_name(next(iter(manifests)))
            rows = lengths[piece], digests[piece], fetched[piece]
            planned.append(Manifest(name, largest_first[0].title, ids, versions, *rows, columns, notes))
    return _Plan(superseded, merged, planned)
