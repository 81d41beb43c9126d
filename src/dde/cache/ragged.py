"""A cache of ragged tables: the rows of many runs, by key, in segments that are added and never changed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

import numpy as np

from dde.array_types import Int64
from dde.cache.lookup import Lookup, gather, look_up
from dde.cache.manifest import Manifest, digests_of, read_manifests, segment_name
from dde.cache.memory import Memory
from dde.cache.segments import DamagedError, SegmentReader, write_segment
from dde.cache.storage import Storage
from dde.errors import DdeWarning, warn
from dde.sources.protocols import History

__all__ = ["Fetch", "RaggedCache"]

Fetch = Callable[[Sequence[str], Sequence[str]], History]


_MEMORY_BYTES = 64 << 20
# Lookups of one read that meet segments that are damaged, or that other processes remove meanwhile.
_MAX_LOOKUPS = 8
# Attempts to write a segment while another process deletes the cache.
_MAX_WRITES = 4


class RaggedCache:
    """Rows of runs as a source gave them, cached and refreshed run by run.

    Parameters
    ----------
    storage : str, path or Storage
        Folder or URL of this cache; safe to delete at any time.
    title : str
        What the rows are, for people who look into the folder.

    Attributes
    ----------
    notes : set of str
        Remarks of the source on the rows that were returned so far.
    problem : Exception or None
        Why nothing is written any more.

    Notes
    -----
    This is a small log-structured database. Each fetch adds a segment, a Zarr v3 group with the arrays ``run_id`` and
    ``version`` (run), ``row_offset`` (run + 1), ``step`` (row), ``key`` (key) and ``values`` (key, row), and a manifest
    in its attributes. A segment appears with its last file and never changes, so any number of threads, processes and
    machines may read and add segments at once, without a lock; of two segments with the same content, either serves.
    What was deleted or damaged is read from the source again. :mod:`dde.cache.compaction` merges small segments and
    removes superseded ones; reading and writing never do.

    Examples
    --------
    >>> def fetch(run_ids, keys):
    ...     print("fetching", *run_ids)
    ...     return History(np.zeros(2, np.int32), np.array([0, 10]), {key: np.array([3.0, 2.5]) for key in keys})
    >>> cache = RaggedCache("memory://example", "losses")
    >>> _ = cache.read(["a"], ["version 1"], ["loss"], fetch)
    fetching a
    >>> cache.read(["a"], ["version 1"], ["loss"], fetch).values
    {'loss': array([3. , 2.5])}
    """

    def __init__(self, storage: str | os.PathLike[str] | Storage, title: str) -> None:
        self.storage = storage if isinstance(storage, Storage) else Storage(storage)
        self.title = title
        self.notes: set[str] = set()
        self.problem: Exception | None = None
        # Of all segments by name, newest first.
        self._manifests: dict[str, Manifest] = {}
        self._damaged: set[str] = set()
        self._reader = SegmentReader(self.storage, Memory(_MEMORY_BYTES))
        # Threads of one process share an instance; while one asks the source, the others wait for the result.
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        # Without what was read: a worker finds it in the storage.
        return RaggedCache, (self.storage, self.title)

    def read(
        self,
        run_ids: Sequence[str],
        versions: Sequence[str],
        keys: Sequence[str],
        fetch: Fetch,
        notes: Callable[[], Sequence[str]] = tuple,
    ) -> History:
        """Return the rows of runs; fetch from the source what is not cached in that version.

        Parameters
        ----------
        run_ids, versions : sequence of str
            Runs, and what their source says of their content.
        keys : sequence of str
        fetch : callable
            Called with the runs and keys that are missing. It may return more keys, which are cached as well.
        notes : callable, optional
            Called after `fetch`; the remarks of the source on those rows, which are stored with them.

        Returns
        -------
        History
            Its arrays may be shared with other callers and can't be written to.

        Raises
        ------
        ValueError
            If there are more or fewer versions than runs.
        """
        if len(run_ids) != len(versions):
            raise ValueError(f"{len(run_ids)} runs have {len(versions)} versions; give one of each.")
        runs, of_runs, wanted = tuple(run_ids), tuple(versions), tuple(dict.fromkeys(keys))
        # Segments that this read writes: it has their rows, and does not read them back.
        written: list[str] = []

        def look_up_again() -> Lookup:
            return look_up(self._manifests.values(), runs, of_runs, wanted, self._damaged)

        def add(at: Int64, missing: Sequence[str]) -> None:
            ids = tuple(runs[i] for i in at)
            rows = fetch(ids, list(missing))
            written.append(self._add(ids, tuple(of_runs[i] for i in at), missing, rows, notes()))

        try:
            for _ in range(_MAX_LOOKUPS):
                with self._lock:
                    found = look_up_again()
                    if found.lacking.any():
                        # Other processes may have added what is missing.
                        self._refresh()
                        found = look_up_again()
                    for at, missing in found.missing():
                        add(at, missing)
                        found = look_up_again()
                    if found.lacking.any():
                        # The source has other rows than it had, though the version is the same. Its answer counts:
                        # these runs are fetched with all keys at once, which have the same rows.
                        add(np.flatnonzero(found.lacking), wanted)
                        found = look_up_again()
                try:
                    rows = gather(found, wanted, self._reader)
                except DamagedError as error:
                    with self._lock:
                        self._damaged.update(error.args)
                        self._refresh()
                    continue
                used = {int(i) for _, segment in found.groups for i in np.unique(segment)}
                self.notes.update(note for i in used for note in found.manifests[i].notes)
                return rows
        finally:
            if self.problem is None:
                with self._lock:
                    for name in written:
                        self._reader.not_stored.pop(name, None)
        # Segments go as fast as they are found, so the source answers.
        rows = fetch(runs, wanted)
        self.notes.update(notes())
        return History(rows.run, rows.step, {key: rows.values[key] for key in wanted})

    def _add(
        self, runs: tuple[str, ...], versions: tuple[str, ...], keys: Sequence[str], rows: History, notes: Sequence[str]
    ) -> str:
        """Add fetched rows as a segment, and return its name."""
        every = tuple(dict.fromkeys([*keys, *rows.values]))
        values = [np.ascontiguousarray(rows.values[key], np.float64) for key in every]
        step = np.ascontiguousarray(rows.step, np.int64)
        lengths = np.bincount(rows.run, minlength=len(runs)).astype(np.int64)
        name, now = segment_name(next(iter(self._manifests), ""))
        digests, fetched, of_rows = digests_of(lengths, step), np.full(len(runs), now), tuple(sorted(set(notes)))
        manifest = Manifest(name, self.title, runs, versions, lengths, digests, fetched, every, of_rows)
        for attempt in range(_MAX_WRITES):
            if self.problem is not None:
                break
            try:
                manifest = write_segment(self.storage, manifest, step, values)
                break
            except FileNotFoundError as error:
                # A cache that is deleted under a running process is created again.
                if attempt == _MAX_WRITES - 1:
                    self._give_up(error)
            except (OSError, ValueError) as error:
                # ValueError: a name is not valid Unicode.
                self._give_up(error)
        self._reader.not_stored[name] = History(rows.run, step, dict(zip(every, values, strict=True)))
        self._manifests = {name: manifest, **self._manifests}
        return name

    def _give_up(self, error: Exception) -> None:
        self.problem = error
        warn(
            f"the cache {self.storage} can't be written ({error}), so what was read is kept for this process "
            "alone. Pass cache_dir= with a folder or URL that can be written, or cache_dir=None.",
            DdeWarning,
            stacklevel=2,
        )

    def _refresh(self) -> None:
        """Read the manifests of segments that were added, and forget those that were removed."""
        try:
            saved = read_manifests(self.storage, self._manifests)
        except OSError as error:
            if self.problem is None:
                self._give_up(error)
            return
        not_stored = {name: self._manifests[name] for name in self._reader.not_stored}
        self._manifests = dict(sorted({**saved, **not_stored}.items(), reverse=True))
