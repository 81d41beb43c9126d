"""Compaction: small segments are merged into few, and segments that newer ones supersede are removed.

Any number of processes may read, write and compact at once: a segment is removed only if newer ones have all of its
runs and keys, and all processes agree on which is newer. A reader that loses a segment looks up again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from dde.cache.lookup import gather, look_up
from dde.cache.manifest import (
    Manifest,
    digests_of,
    is_of_newer_format,
    is_segment_name,
    read_manifests,
    segment_name,
)
from dde.cache.memory import Memory
from dde.cache.segments import DamagedError, SegmentReader, write_segment
from dde.cache.storage import UNFINISHED, Storage
from dde.sources.protocols import History

__all__ = ["Compaction", "compact"]

# Segments of less than this are merged: larger ones are so few that their number costs nothing beside their size.
_SMALL_BYTES = 16 << 20
# Values of a merged segment, large enough not to be merged again. A merge has up to five times as much in memory.
_SEGMENT_BYTES = 32 << 20
# A writer of a large segment may be so slow.
_UNFINISHED_SECONDS = 86_400.0
# Names that releases before 0.2 gave what they stored.
_OF_EARLIER = re.compile(r"[0-9a-f]{16}\.zarr|current")
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
    manifests = read_manifests(storage)
    before = len(manifests)
    _check_readable(storage, manifests)
    reader = SegmentReader(storage, Memory(0))
    damaged: set[str] = set()
    for _ in range(_MAX_PLANS):
        try:
            plan = _plan(manifests, damaged)
            # Everything is read before anything is written: a merge that damage interrupts would be repeated for ever.
            if all(_read_planned(manifests, planned, damaged, reader) is not None for planned in plan):
                for planned in plan:
                    rows = _read_planned(manifests, planned, damaged, reader)
                    if rows is not None:
                        write_segment(storage, planned, rows.step, [rows.values[key] for key in planned.keys])
            break
        except DamagedError as error:
            damaged.update(error.args)
        except OSError:
            # On a full disk, this makes room for the next attempt. Until then superseded rows may replace damaged ones.
            _remove_superseded(storage, manifests)
            raise
    # Other processes may have added segments meanwhile.
    manifests = _remove_superseded(storage, read_manifests(storage, manifests))
    names = {manifest.name for manifest in manifests}
    for name in storage.names():
        # Files of others stay, and so do segments of a later version of dde.
        is_own = name.startswith(UNFINISHED) or is_segment_name(name) or _OF_EARLIER.fullmatch(name)
        if name in names or not is_own:
            continue
        metadata = f"{name}/zarr.json"
        content = storage.read([metadata]).get(metadata)
        # Metadata that is there and can't be read now may be that of a complete segment.
        if is_of_newer_format(content) if content is not None else "zarr.json" in (storage / name).names():
            continue
        (storage / name).remove_if_older(_UNFINISHED_SECONDS)
    return Compaction(before, len(manifests), len(damaged & names))


def _read_planned(
    manifests: Sequence[Manifest], planned: Manifest, damaged: Collection[str], reader: SegmentReader
) -> History | None:
    """Return the rows of a planned segment; None if the newest rows of a run are damaged: older ones never count."""
    found = look_up(manifests, planned.runs, planned.versions, planned.keys, damaged)
    rows = gather(found, planned.keys, reader) if found.is_complete else None
    return None if rows is None or (digests_of(found.lengths, rows.step) != planned.digests).any() else rows


def _check_readable(storage: Storage, manifests: Sequence[Manifest]) -> None:
    """Raise OSError if a segment can't be read now: merging older ones would put their rows before its own."""
    known = {manifest.name for manifest in manifests}
    for name in storage.names():
        if name in known or not is_segment_name(name):
            continue
        if "zarr.json" in (storage / name).names() and not storage.read([f"{name}/zarr.json"]):
            raise OSError(
                f"the segment {name} of the cache {storage} can't be read now, so nothing is merged. Compact the cache "
                "again when it can be read."
            )


def _remove_superseded(storage: Storage, manifests: Sequence[Manifest]) -> list[Manifest]:
    """Remove the segments of which newer ones have all runs and keys, and return the others."""
    live = {i for sources, _ in _live_runs(manifests)[1] for i, _ in sources}
    for i, manifest in enumerate(manifests):
        if i not in live:
            (storage / manifest.name).remove()
    return [manifest for i, manifest in enumerate(manifests) if i in live]


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


def _plan(manifests: Sequence[Manifest], damaged: Collection[str]) -> list[Manifest]:
    """Return manifests of the segments that the small ones are merged into; [] if they are no fewer."""
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
    notes = tuple(sorted({note for i in merged for note in manifests[i].notes}))
    planned: list[Manifest] = []
    for keys, runs in together.items():
        ends = np.cumsum([8 * current[run][1] * max(len(keys), 1) for run in runs])
        for piece in np.split(np.arange(len(runs)), np.flatnonzero(np.diff(ends // _SEGMENT_BYTES)) + 1):
            of_piece = tuple(runs[i] for i in piece)
            versions, lengths, digests = zip(*(current[run] for run in of_piece), strict=True)
            newest = manifests[min(merged)]
            planned.append(
                Manifest(
                    segment_name(newest.name, merged=True),
                    newest.title,
                    of_piece,
                    versions,
                    np.array(lengths, np.int64),
                    np.array(digests, np.int64),
                    tuple(key for key in all_keys if key in keys),
                    notes,
                )
            )
    return planned if len(planned) < len(merged) else []
