"""A cache of ragged tables: rows of many runs, by key, in parts that are added and never changed."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.cache.assembly import Columns, assemble
from dde.cache.heads import Head, created_of, describe, parse_head
from dde.cache.holdings import (
    MERGE_PARTS,
    Answer,
    answer,
    fetched_lengths,
    merged_rectangles,
    newest_first,
    superseded,
    worth_merging,
)
from dde.cache.memory import Memory
from dde.cache.parts import DamagedError, write_part
from dde.cache.places import KEEP_SECONDS, MAKING, Place
from dde.errors import DdeWarning
from dde.sources.protocols import History

__all__ = ["Fetch", "RaggedCache"]

Fetch = Callable[[Sequence[str], Sequence[str]], History]

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_MEMORY_BYTES = 64 << 20
# Heads asked for at once: object stores answer so many together about as fast as one.
_HEADS_AT_ONCE = 32
# A slow writer of a large part is left alone for so long.
_UNFINISHED_SECONDS = 86_400.0
# Looking for what can go compares all parts with each other: after some writes only.
_TIDY_SECONDS = 60.0


class RaggedCache:
    """Rows of runs as a source gave them, kept and refreshed run by run.

    Parameters
    ----------
    folder : str or path or Place
        Folder or URL of this cache; safe to delete at any time.
    what : str
        What the rows are, for people who look into the folder.

    Notes
    -----
    The folder holds parts, each a Zarr v3 group with what one fetch gave: the arrays ``run_id`` and ``version``
    (run), ``row_offset`` (run + 1), ``step`` (row), ``key`` (key) and ``values`` (key, row). A part appears in one
    step and never changes, so any number of threads, processes and machines may read and add parts at once, without
    a lock; of two that hold the same, either serves. What was deleted or damaged is read from the source again.
    Whoever writes also merges small parts and removes those that newer ones have left nothing of for 10 minutes.
    """

    def __init__(self, folder: str | os.PathLike[str] | Place, what: str) -> None:
        self.folder = folder if isinstance(folder, Place) else Place(folder)
        self.what = what
        #: What the source reported of the rows that were returned so far.
        self.notes: set[str] = set()
        self._heads: list[Head] = []
        self._damaged: set[tuple[str, str | None]] = set()
        # What could not be written: memory is all there is.
        self._unsaved: dict[str, History] = {}
        #: Why nothing is written any more; None where it is.
        self.problem: Exception | None = None
        self._memory = Memory(_MEMORY_BYTES)
        self._columns = Columns(self.folder, self._memory)
        self._asked: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._positions: dict[str, Int64] = {}
        self._tidied = float("-inf")
        # So many parts are worth a look at which can be merged.
        self._many = MERGE_PARTS
        # Threads of one process share an instance; while one asks the source, the others wait for what it brings.
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        # What was read stays behind: a worker finds it on disk.
        return {"folder": self.folder, "what": self.what}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def read(
        self,
        run_ids: Sequence[str],
        versions: Sequence[str],
        keys: Sequence[str],
        fetch: Fetch,
        notes: Callable[[], Sequence[str]] = tuple,
    ) -> History:
        """Return the rows of the runs; fetches from the source what is not here in that version.

        Parameters
        ----------
        run_ids, versions : sequence of str
            Runs, and what their source says of their content.
        keys : sequence of str
        fetch : callable
            Called with the runs and keys that are missing. It may return more keys than it was asked for, which are
            kept as well.
        notes : callable, optional
            Called after `fetch`; what the source has to report of those rows is kept with them.

        Returns
        -------
        History
            Its arrays may be shared with other callers and can't be written to.
        """
        runs, told, wanted = tuple(run_ids), tuple(versions), tuple(dict.fromkeys(keys))
        if len(runs) != len(told):
            raise ValueError(f"{len(runs)} runs have {len(told)} versions; give one of each.")
        while True:
            with self._lock:
                found, fetched = self._found(runs, told, wanted, fetch, notes)
            try:
                rows = assemble(found, wanted, self._columns, fetched)
            except DamagedError as error:
                # Each time round, something more is known not to be readable, so this ends at the source.
                with self._lock:
                    self._damaged.update(error.args)
                    self._look()
                continue
            used = {int(i) for _, source in found.groups for i in np.unique(source)}
            self.notes.update(note for i in used for note in found.sources[i].notes)
            return rows

    # Finding and fetching

    def _found(
        self,
        runs: tuple[str, ...],
        told: tuple[str, ...],
        keys: tuple[str, ...],
        fetch: Fetch,
        notes: Callable[[], Sequence[str]],
    ) -> tuple[Answer, Mapping[str, History]]:
        """Return where everything is, and what is in memory: what was fetched on the way, and is not saved."""
        found = self._answer(runs, told, keys)
        if not found.whole:
            # Others may have added what is missing.
            self._look()
            found = self._answer(runs, told, keys)
        fetched: dict[str, History] = {}
        every_key = False
        while not found.whole:
            nothing, lacking = found.missing_runs()
            rectangles = [(nothing, keys)]
            if every_key:
                rectangles = [(lacking, keys)]
            elif (some := lacking & ~nothing).any():
                rectangles.append((some, tuple(found.missing_keys(some))))
            for of_runs, of_keys in rectangles:
                if of_runs.any():
                    at = np.flatnonzero(of_runs)
                    some_runs, some_told = [runs[i] for i in at], [told[i] for i in at]
                    head, history = self._fetched(some_runs, some_told, of_keys, fetch, notes)
                    fetched[head.name] = history
            found = self._answer(runs, told, keys)
            # Where something is missing still, the source has other rows than it had, though its version is the
            # same. Its word counts: these runs are read with all keys at once, which have the same rows.
            every_key = True
        return found, {**self._unsaved, **fetched}

    def _answer(self, runs: tuple[str, ...], told: tuple[str, ...], keys: tuple[str, ...]) -> Answer:
        if self._asked != (runs, told):
            self._asked, self._positions = (runs, told), {}
        return answer(self._heads, runs, told, keys, lambda *key: key in self._damaged, self._positions)

    def _fetched(
        self,
        runs: list[str],
        told: list[str],
        keys: Sequence[str],
        fetch: Fetch,
        notes: Callable[[], Sequence[str]],
    ) -> tuple[Head, History]:
        rows = fetch(runs, list(keys))
        lengths = fetched_lengths(rows.run, len(runs))
        every = list(dict.fromkeys([*keys, *rows.values]))
        values = {key: np.ascontiguousarray(rows.values[key], np.float64) for key in every}
        step = np.ascontiguousarray(rows.step, np.int64)
        head = describe(runs, told, lengths, step, every, sorted(set(notes())), after=self._newest())
        history = History(rows.run, step, values)
        self._add(head, history)
        return head, history

    def _newest(self) -> int:
        return max((max(head.as_of, created_of(head.name)) for head in self._heads), default=0)

    def _add(self, head: Head, history: History) -> None:
        self._heads = newest_first([head, *self._heads])
        if not self._save(head, history):
            self._unsaved[head.name] = history
        elif self.problem is None:
            self._columns.remember(head, history)
            self._tidy()

    def _save(self, head: Head, history: History) -> bool:
        for last in (False, True):
            if self.problem is not None:
                break
            try:
                write_part(self.folder, self.what, head, history.step, [history.values[k] for k in head.keys])
                return True
            except FileNotFoundError as error:
                # A cache that is deleted under a running process is made anew.
                if last and self.folder.path is None:
                    self._give_up(error)
            except (OSError, ValueError) as error:
                # Names that are no Unicode are a ValueError.
                self._give_up(error)
        return False

    def _give_up(self, error: Exception) -> None:
        self.problem = error
        warnings.warn(
            f"the cache {self.folder} can't be written ({error}), so what was read is kept for this process "
            "alone. Pass cache_dir= with a folder or URL that can be written, or cache_dir=None.",
            DdeWarning,
            stacklevel=2,
        )

    # The folder

    def _look(self) -> None:
        """Learn of parts that were added and removed since."""
        try:
            names = [name for name in self.folder.names() if _is_part(name)]
            known = {head.name: head for head in self._heads}
            held = {name: known[name] for name in names if name in known}
            new = sorted((name for name in names if name not in known), reverse=True)
            replaced = {name for head in held.values() for name in head.replaces}
            while new:
                # The newest first: what one was merged from need not be looked at.
                together = _HEADS_AT_ONCE if self.folder.path is None else 1
                some, new = new[:together], new[together:]
                contents = self.folder.read([f"{name}/zarr.json" for name in some if name not in replaced])
                for path, content in contents.items():
                    name = path.rpartition("/")[0]
                    head = parse_head(name, content)
                    if head is not None:
                        held[name] = head
                        replaced |= head.replaces
        except OSError as error:
            if self.problem is None:
                self._give_up(error)
            return
        kept = [head for name, head in known.items() if name in self._unsaved]
        self._heads = newest_first([*(h for n, h in held.items() if n not in replaced), *kept])
        self._positions = {name: at for name, at in self._positions.items() if name in held or name in self._unsaved}

    def _tidy(self) -> None:
        """Merge small parts, and remove what no reader can be needing any more."""
        now = time.time()
        due = now - self._tidied > _TIDY_SECONDS
        if not due and len(self._heads) < self._many:
            return
        try:
            saved = [head for head in self._heads if head.name not in self._unsaved]
            chosen = [h for h in worth_merging(saved) if not any(name == h.name for name, _ in self._damaged)]
            if chosen:
                self._merge(saved, chosen)
                # Where little could be merged, the next few won't change that.
                left = len(self._heads)
                self._many = MERGE_PARTS if left < MERGE_PARTS else left + MERGE_PARTS
            if due:
                self._tidied = now
                self._sweep(now)
        except (OSError, DamagedError):
            # Another process is at it, or the folder is being deleted.
            return

    def _merge(self, heads: list[Head], chosen: list[Head]) -> None:
        rectangles = merged_rectangles(heads, chosen)
        # What these were merged from, while it lies there.
        before = frozenset().union(*(h.replaces for h in chosen)).intersection(self.folder.names())
        for i, rectangle in enumerate(rectangles):
            found = answer(chosen, rectangle.runs, rectangle.versions, rectangle.keys)
            if not found.whole:
                return
            rows = assemble(found, rectangle.keys, Columns(self.folder, Memory(0)), {})
            merged = describe(
                rectangle.runs,
                rectangle.versions,
                fetched_lengths(rows.run, len(rectangle.runs)),
                rows.step,
                rectangle.keys,
                sorted({note for head in found.sources for note in head.notes}),
                after=self._newest(),
                as_of=chosen[0].as_of,
                # The last one stands for all of them.
                replaces=before.union(h.name for h in chosen) if i == len(rectangles) - 1 else frozenset(),
            )
            write_part(self.folder, self.what, merged, rows.step, [rows.values[k] for k in rectangle.keys])
            self._heads = newest_first([merged, *(h for h in self._heads if h.name not in merged.replaces)])
            # Before the next ones are put together.
            del rows

    def _sweep(self, now: float) -> None:
        saved = [head for head in self._heads if head.name not in self._unsaved]
        since = superseded(saved)
        since.update({name: created_of(head.name) for head in saved for name in head.replaces})
        known = {head.name for head in saved}
        removed: set[str] = set()
        for name in self.folder.names():
            if not _is_part(name):
                # What was not finished, and what earlier releases kept here.
                if self.folder.path is not None:
                    (self.folder / name).remove_if_old(_UNFINISHED_SECONDS)
                continue
            if name in since:
                gone = now - since[name] / 1e6 > KEEP_SECONDS
            else:
                late = now - created_of(name) / 1e6 > _UNFINISHED_SECONDS
                gone = late and name not in known and not self._is_whole(name)
            if gone:
                (self.folder / name).remove()
                removed.add(name)
        self._heads = [head for head in self._heads if head.name not in removed]

    def _is_whole(self, name: str) -> bool:
        return any(parse_head(name, content) for content in self.folder.read([f"{name}/zarr.json"]).values())


def _is_part(name: str) -> bool:
    if name.startswith(MAKING):
        return False
    try:
        created_of(name)
    except ValueError:
        return False
    return True
