"""Which part answers which run and key, what no longer answers anything, and what is worth merging."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dde.cache.heads import Head, created_of

__all__ = [
    "Answer",
    "Rectangle",
    "answer",
    "merged_rectangles",
    "newest_first",
    "superseded",
    "worth_merging",
]

Int64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

#: Parts of less than this are merged: larger ones are so few that their number costs nothing beside their size.
SMALL_BYTES = 16 << 20
#: As many small parts are merged. Opening reads a head of each, which for 1,060 runs takes 0.4 ms in a folder (10 ms
#: for 24, 50 ms for 96, 0.6 ms when these have been merged); an object store is asked for 32 at a time.
MERGE_PARTS = 24
# Values that one merge takes, the smallest parts first: what is merged is written twice, and lies there twice for a
# while. Of 100,000 runs that were read a thousand at a time, 256 MB merged every part, and took 41 s where 128 MB
# left them and took 23 s.
_MERGE_BYTES = 128 << 20
# Values of a part that is made, large enough not to be merged again. A merge holds up to five times as much in memory,
# of which a worker may have 1 GB.
_PART_BYTES = 32 << 20


def newest_first(heads: Iterable[Head]) -> list[Head]:
    """Return parts in the order in which they are believed."""
    return sorted(heads, key=lambda head: (-head.as_of, -created_of(head.name), head.name))


@dataclass(frozen=True)
class Answer:
    """Where the rows of runs are.

    Attributes
    ----------
    sources : list of Head
    positions : list of (run,) int64 arrays
        For each source, where it has the runs that were asked for; -1 where it hasn't.
    rows_from : (run,) int64 array
        The source of each run's steps, by its place in `sources`; -1 where no part has the run.
    groups : list of (keys, (run,) int64 array)
        Keys with the source of each run's values; -1 where no part has them.
    """

    sources: list[Head]
    positions: list[Int64]
    rows_from: Int64
    groups: list[tuple[list[str], Int64]]

    @property
    def whole(self) -> bool:
        """Whether everything is held."""
        return bool((self.rows_from >= 0).all() and all((source >= 0).all() for _, source in self.groups))

    def missing_runs(self) -> tuple[Flags, Flags]:
        """Return which runs have nothing, and which lack some key."""
        nothing = self.rows_from < 0
        held = np.zeros(len(nothing), bool)
        lacking = nothing.copy()
        for _, source in self.groups:
            held |= source >= 0
            lacking |= source < 0
        return nothing | (lacking & ~held), lacking

    def missing_keys(self, runs: Flags) -> list[str]:
        """Return the keys that some of these runs lack."""
        return [key for keys, source in self.groups if (source[runs] < 0).any() for key in keys]


def answer(
    heads: Sequence[Head],
    run_ids: tuple[str, ...],
    versions: tuple[str, ...],
    keys: Sequence[str],
    is_damaged: Callable[[str, str | None], bool] = lambda name, key: False,
    remembered: dict[str, Int64] | None = None,
) -> Answer:
    """Find what is held of runs in these versions.

    Parameters
    ----------
    heads : sequence of Head
        Newest first: of two parts whose rows of a run differ, though its version doesn't, the newer one counts.
    run_ids, versions : tuple of str
    keys : sequence of str
    is_damaged : callable
        Whether a key of a part (None: its steps) turned out not to be readable.
    remembered : dict, optional
        Positions of these very runs in parts; what is found is added.
    """
    n = len(run_ids)
    remembered = {} if remembered is None else remembered
    sources: list[Head] = []
    positions: list[Int64] = []
    length, digest = np.full(n, -1, np.int64), np.zeros(n, np.int64)
    rows_from = np.full(n, -1, np.int64)
    for head in heads:
        if is_damaged(head.name, None):
            continue
        if head.name not in remembered:
            remembered[head.name] = _positions(head, run_ids, versions)
        at = remembered[head.name]
        if not (at >= 0).any():
            continue
        new = (at >= 0) & (rows_from < 0)
        length[new], digest[new] = head.lengths[at[new]], head.digests[at[new]]
        rows_from[new] = len(sources)
        agrees = (at >= 0) & (head.lengths[at] == length) & (head.digests[at] == digest)
        sources.append(head)
        positions.append(np.where(agrees, at, -1))
    by_holders: dict[tuple[int, ...], list[str]] = {}
    for key in keys:
        holders = tuple(
            i for i, head in enumerate(sources) if key in head.key_number and not is_damaged(head.name, key)
        )
        by_holders.setdefault(holders, []).append(key)
    groups: list[tuple[list[str], Int64]] = []
    for holders, members in by_holders.items():
        source = np.full(n, -1, np.int64)
        for i in holders:
            source[(source < 0) & (positions[i] >= 0)] = i
        groups.append((members, source))
    return Answer(sources, positions, rows_from, groups)


def _positions(head: Head, run_ids: tuple[str, ...], versions: tuple[str, ...]) -> Int64:
    if head.runs == run_ids and head.versions == versions:
        return np.arange(len(run_ids), dtype=np.int64)
    number, held = head.number, head.versions
    return np.array(
        [
            at if (at := number.get(run_id, -1)) >= 0 and held[at] == version else -1
            for run_id, version in zip(run_ids, versions, strict=True)
        ],
        np.int64,
    )


# What is superseded, and merging

# Cells of a part that nothing newer has: keys, and which of its runs.
_Cells = list[tuple[frozenset[str], Flags]]


def _live_cells(heads: Sequence[Head]) -> dict[str, tuple[_Cells, int]]:
    """Return what each part has that no newer one has, and since when that is so (microseconds since 1970)."""
    found: dict[str, tuple[_Cells, int]] = {}
    oldest_first = list(heads)[::-1]
    for i, head in enumerate(oldest_first):
        cells: _Cells = [(frozenset(head.keys), np.ones(len(head.runs), bool))]
        since = created_of(head.name)
        for newer in oldest_first[i + 1 :]:
            if not cells:
                break
            left = _without(cells, head, newer)
            if left is not cells:
                cells, since = left, max(since, created_of(newer.name))
        found[head.name] = (cells, since)
    return found


def _without(cells: _Cells, head: Head, newer: Head) -> _Cells:
    keys = frozenset(newer.key_number)
    if head.same_rows == newer.same_rows:
        # Metrics that were read one after the other, of the same runs.
        if not any(keys & held or not held for held, _ in cells):
            return cells
        return [(held - keys, runs) for held, runs in cells if held - keys]
    if head.number.keys().isdisjoint(newer.number):
        return cells
    at = np.array([newer.number.get(run_id, -1) for run_id in head.runs], np.int64)
    there = at >= 0
    same = there & (newer.lengths[at] == head.lengths) & (newer.digests[at] == head.digests)
    same &= np.array([i >= 0 and newer.versions[i] == v for i, v in zip(at, head.versions, strict=True)], bool)
    outdated = there & ~same
    left: _Cells = []
    for held, runs in cells:
        # Without any key a part holds rows, which any other part of the same rows holds too.
        remains = [(held & keys, runs & ~outdated & ~same)] + ([(held - keys, runs & ~outdated)] if held else [])
        left += [(some, of_runs) for some, of_runs in remains if of_runs.any() and (some or not held)]
    return left


def superseded(heads: Sequence[Head]) -> dict[str, int]:
    """Return the parts that newer ones leave nothing of, with when that came to be (microseconds since 1970)."""
    return {name: since for name, (cells, since) in _live_cells(heads).items() if not cells}


def worth_merging(heads: Sequence[Head]) -> list[Head]:
    """Return the small parts that are merged together, newest first; [] where there are too few of them."""
    replaced = {name for head in heads for name in head.replaces}
    small = [head for head in heads if head.bytes < SMALL_BYTES and head.name not in replaced]
    if len(small) < MERGE_PARTS:
        return []
    chosen: set[str] = set()
    total = 0
    for head in sorted(small, key=lambda h: h.bytes):
        total += head.bytes
        if total > _MERGE_BYTES:
            break
        chosen.add(head.name)
    return [head for head in small if head.name in chosen] if len(chosen) >= MERGE_PARTS else []


@dataclass(frozen=True)
class Rectangle:
    """Runs that have the same keys."""

    runs: tuple[str, ...]
    versions: tuple[str, ...]
    keys: tuple[str, ...]


def merged_rectangles(heads: Sequence[Head], chosen: Sequence[Head]) -> list[Rectangle]:
    """Return what is current of the chosen ones of all parts; [] where it would be more than half as many parts."""
    live = _live_cells(heads)
    version: dict[str, str] = {}
    rows: dict[str, int] = {}
    keys_of: dict[str, list[frozenset[str]]] = {}
    # The largest part first: runs keep its order, which is the order they will be asked for in.
    for head in sorted(chosen, key=lambda h: -h.rows):
        for keys, runs in live[head.name][0]:
            for i in np.flatnonzero(runs):
                version[head.runs[i]] = head.versions[i]
                rows[head.runs[i]] = int(head.lengths[i])
                keys_of.setdefault(head.runs[i], []).append(keys)
    order: dict[str, None] = dict.fromkeys(key for head in chosen for key in head.keys)
    together: dict[tuple[frozenset[str], ...], frozenset[str]] = {}
    members: dict[frozenset[str], list[str]] = {}
    for run_id, pieces in keys_of.items():
        signature = tuple(pieces)
        if signature not in together:
            together[signature] = frozenset().union(*pieces)
        members.setdefault(together[signature], []).append(run_id)
    found = [
        Rectangle(tuple(some), tuple(version[r] for r in some), tuple(k for k in order if k in keys))
        for keys, runs in members.items()
        for some in _pieces(runs, [8 * rows[r] * max(len(keys), 1) for r in runs])
    ]
    return [] if 2 * len(found) > len(chosen) else found


def _pieces(runs: Sequence[str], sizes: Sequence[int]) -> Iterator[Sequence[str]]:
    """Yield runs that follow each other, as many at a time as make a part."""
    first = size = 0
    for at, own in enumerate(sizes):
        if at > first and size + own > _PART_BYTES:
            yield runs[first:at]
            first, size = at, 0
        size += own
    if runs:
        yield runs[first:]


def fetched_lengths(run: npt.NDArray[np.int32], count: int) -> Int64:
    """Return the rows of each of `count` runs, of rows that are ordered by run."""
    return np.bincount(run, minlength=count).astype(np.int64) if len(run) else np.zeros(count, np.int64)


def row_numbers(starts: Int64, lengths: Int64) -> Int64:
    """Return the numbers of `lengths` rows from each of `starts` on."""
    first = np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(np.int64)
    numbers: Int64 = np.arange(int(lengths.sum())) - np.repeat(first, lengths) + np.repeat(starts, lengths)
    return numbers
