"""A cache of ragged tables: the rows of many runs, by key, in segments that are added and never changed."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dde.array_types import Int64
from dde.cache.lookup import Lookup, gather, look_up
from dde.cache.manifest import Manifest, digests_of, newest_first, read_manifests, segment_name
from dde.cache.memory import Memory
from dde.cache.segments import DamagedError, SegmentReader, write_segment
from dde.cache.storage import Storage
from dde.errors import DdeWarning
from dde.sources.protocols import History

__all__ = ["Fetch", "RaggedCache"]

Fetch = Callable[[Sequence[str], Sequence[str]], History]


_MEMORY_BYTES = 64 << 20
# Lookups of one read that meet segments that are damaged, or that other processes remove meanwhile.
_MAX_LOOKUPS = 8


@dataclass(frozen=True)
class _Request:
    """The arguments of one read, and the rows that were fetched for it, by segment."""

    runs: tuple[str, ...]
    versions: tuple[str, ...]
    keys: tuple[str, ...]
    fetch: Fetch
    notes: Callable[[], Sequence[str]]
    fetched: dict[str, History] = field(default_factory=dict)


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
    in its attributes. A segment appears in one step and never changes, so any number of threads, processes and
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
        self._manifests: list[Manifest] = []
        self._damaged: set[str] = set()
        # Segments that could not be written, by name.
        self._unsaved: dict[str, History] = {}
        self._memory = Memory(_MEMORY_BYTES)
        self._reader = SegmentReader(self.storage, self._memory)
        # Positions of the runs of the last request in each segment.
        self._last: tuple[Sequence[str], Sequence[str]] = ((), ())
        self._positions: dict[str, Int64] = {}
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
        wanted = tuple(dict.fromkeys(keys))
        request = _Request(tuple(run_ids), tuple(versions), wanted, fetch, notes)
        for _ in range(_MAX_LOOKUPS):
            with self._lock:
                found = self._find(request)
            try:
                rows = gather(found, wanted, self._reader, {**self._unsaved, **request.fetched})
            except DamagedError as error:
                with self._lock:
                    self._damaged.update(error.args)
                    self._refresh()
                continue
            used = {int(i) for _, segment in found.groups for i in np.unique(segment)}
            self.notes.update(note for i in used for note in found.manifests[i].notes)
            return rows
        # Segments go as fast as they are found, so the source answers.
        rows = fetch(request.runs, wanted)
        self.notes.update(notes())
        return History(rows.run, rows.step, {key: rows.values[key] for key in wanted})

    def _find(self, request: _Request) -> Lookup:
        """Return a complete lookup, after fetching what is missing."""
        found = self._look_up(request)
        if not found.is_complete:
            # Other processes may have added what is missing.
            self._refresh()
            found = self._look_up(request)
        for at, keys in found.missing():
            self._fetch(request, at, keys)
            found = self._look_up(request)
        if not found.is_complete:
            # The source has other rows than it had, though the version is the same. Its answer counts: these runs are
            # fetched with all keys at once, which have the same rows.
            self._fetch(request, np.flatnonzero(found.lacking), request.keys)
            found = self._look_up(request)
        return found

    def _look_up(self, request: _Request) -> Lookup:
        runs, versions = request.runs, request.versions
        if self._last != (runs, versions):
            self._last, self._positions = (runs, versions), {}
        return look_up(self._manifests, runs, versions, request.keys, self._damaged, self._positions)

    def _fetch(self, request: _Request, at: Int64, keys: Sequence[str]) -> None:
        """Fetch keys of the runs at these positions, and add them as a segment."""
        of_runs, of_versions = tuple(request.runs[i] for i in at), tuple(request.versions[i] for i in at)
        rows = request.fetch(of_runs, list(keys))
        every = tuple(dict.fromkeys([*keys, *rows.values]))
        values = {key: np.ascontiguousarray(rows.values[key], np.float64) for key in every}
        step = np.ascontiguousarray(rows.step, np.int64)
        lengths = np.bincount(rows.run, minlength=len(of_runs)).astype(np.int64)
        name = segment_name(self._manifests[0].name if self._manifests else "")
        manifest = Manifest(
            name,
            self.title,
            of_runs,
            of_versions,
            lengths,
            digests_of(lengths, step),
            every,
            tuple(sorted(set(request.notes()))),
        )
        history = request.fetched[name] = History(rows.run, step, values)
        saved = self._save(manifest, history)
        self._manifests = newest_first([saved or manifest, *self._manifests])
        if saved is None:
            self._unsaved[name] = history
        else:
            self._reader.remember(saved, step, values)

    def _save(self, manifest: Manifest, history: History) -> Manifest | None:
        """Write a segment, and return its manifest with Zarr's metadata; None if it can't be written."""
        for is_last in (False, True):
            if self.problem is not None:
                break
            try:
                return write_segment(self.storage, manifest, history.step, [history.values[k] for k in manifest.keys])
            except FileNotFoundError as error:
                # A cache that is deleted under a running process is created again.
                if is_last:
                    self._give_up(error)
            except (OSError, ValueError) as error:
                # ValueError: a name is not valid Unicode.
                self._give_up(error)
        return None

    def _give_up(self, error: Exception) -> None:
        self.problem = error
        warnings.warn(
            f"the cache {self.storage} can't be written ({error}), so what was read is kept for this process "
            "alone. Pass cache_dir= with a folder or URL that can be written, or cache_dir=None.",
            DdeWarning,
            stacklevel=2,
        )

    def _refresh(self) -> None:
        """Read the manifests of segments that were added, and forget those that were removed."""
        try:
            saved = read_manifests(self.storage, [m for m in self._manifests if m.name not in self._unsaved])
        except OSError as error:
            if self.problem is None:
                self._give_up(error)
            return
        self._manifests = newest_first([*saved, *(m for m in self._manifests if m.name in self._unsaved)])
        names = {manifest.name for manifest in self._manifests}
        self._positions = {name: at for name, at in self._positions.items() if name in names}
