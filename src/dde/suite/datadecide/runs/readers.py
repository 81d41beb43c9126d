"""Reading rows of both stores, through the cache where there is one."""

from __future__ import annotations

import json
import os
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dde.cache.index_files import source_storage
from dde.curves.metric import Metric
from dde.errors import ConflictWarning, DdeWarning, SourceError
from dde.sources.connection import Connection, redact
from dde.sources.protocols import History, PosttrainingSource, RunRecord
from dde.suite.datadecide.names import Base
from dde.suite.datadecide.runs.positions import HELD_ROWS
from dde.suite.datadecide.runs.token_counts import COUNTER, OTHER_COUNTERS
from dde.suite.datadecide.tables.pretraining_tables import Catalog, DataDecide

if TYPE_CHECKING:
    from dde.cache.ragged import Fetch, RaggedCache
    from dde.cache.storage import Storage
    from dde.curves.observations import Observations
    from dde.suite.datadecide.runs.derived_columns import DerivedColumns, PlacedRows
    from dde.suite.datadecide.runs.run_index import RunIndex

__all__ = ["Readers"]

# Raised whenever the same rows of tables make other values.
_VALUES = 2


@dataclass
class Readers:
    """Rows of tables and store.

    Attributes
    ----------
    tables : DataDecide or None
    store : PosttrainingSource or None
    cache_dir : str or path or None
        Folder or URL of the cache; None for none.
    opened : str
        What the store said of its content when the records of its runs were read; "" where it can't tell.
    """

    tables: DataDecide | None
    store: PosttrainingSource | None
    cache_dir: str | os.PathLike[str] | Connection | None = None
    opened: str = ""
    _warned: set[str] = field(default_factory=set)
    _index_read: RunIndex | None = None
    _notes: list[str] = field(default_factory=list)
    _siblings: OrderedDict[tuple[tuple[str, ...], str], Observations] = field(default_factory=OrderedDict, repr=False)
    _logs: OrderedDict[tuple[tuple[str, ...], str], Observations] = field(default_factory=OrderedDict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_siblings": OrderedDict(), "_logs": OrderedDict()}

    def find_log(self, run_ids: tuple[str, ...], name: str) -> Observations | None:
        """Return what was read last of a log; None where that was of other runs or metrics."""
        return self._logs.get((run_ids, name))

    def keep_log(self, run_ids: tuple[str, ...], name: str, observed: Observations) -> None:
        """Keep what was read of a log: its values, and where it has samples, are asked for one after the other."""
        self._logs[run_ids, name] = observed
        while len(self._logs) > _LOGS:
            with suppress(KeyError):  # another thread was faster
                self._logs.popitem(last=False)

    def take_sibling(self, run_ids: tuple[str, ...], name: str) -> Observations | None:
        """Return what was read of a metric along with another one, and forget it; None where nothing was."""
        return self._siblings.pop((run_ids, name), None)

    def keep_sibling(self, run_ids: tuple[str, ...], name: str, observed: Observations) -> None:
        """Keep what was read of a metric along with another one, which tends to be asked for next."""
        self._siblings[run_ids, name] = observed
        while len(self._siblings) > _SIBLINGS:
            with suppress(KeyError):  # another thread was faster
                self._siblings.popitem(last=False)

    def catalog(self) -> Catalog:
        """Return the runs and checkpoints of the tables."""
        tables = self.tables
        if tables is None:
            return Catalog((), np.empty(0, np.int32), np.empty(0, np.int64))
        folder = self._folder("index", tables)
        if folder is not None and isinstance(tables, DataDecide):
            from dde.suite.datadecide.tables.table_index import TableIndexCache

            tables.keep_index(TableIndexCache(folder))
        return tables.catalog()

    def records(self, extra_config_keys: Iterable[str] = (), whole: bool = False) -> tuple[list[RunRecord], bool]:
        """Return a record of every run of the store, by run id, and whether they are whole.

        Records that were kept hold what evidence is made from; see :mod:`dde.suite.datadecide.runs.run_index`.

        Parameters
        ----------
        extra_config_keys : iterable of str
            Keys of config to return beside the usual ones, which are never kept.
        whole : bool
            Whether all options of the launch commands are asked for.
        """
        store = self.store
        if store is None:
            return [], True
        extra = list(extra_config_keys)
        self.opened = self._fingerprint
        index = None if extra or whole else self._run_index
        found = None if index is None else index.load()
        if found is not None:
            self._index_read, self._notes = index, found[1]
            _report_once(found[1])
            return found[0], False
        records = store.runs(extra)
        # What changed meanwhile is kept under neither state of it, and known to be of neither.
        if self._fingerprint != self.opened:
            raise self._changed("while its runs were read")
        self._notes = notes = list(getattr(store, "conflicts", ()))
        if index is not None and self._run_index == index:
            _REPORTED.update(notes)
            if index.save(records, notes):
                self._index_read = index
        return records, True

    def load_columns(self, settings: list[Any], records: Sequence[RunRecord] | None) -> DerivedColumns | None:
        """Return the columns of all runs of the store from the cache; None where it has none.

        Parameters
        ----------
        settings : list
            What the columns depend on beside the store's content.
        records : sequence of RunRecord or None
            Runs of the store, where they were read, as they are where the store tells of each run alone whether it
            changed.
        """
        fingerprint = self._fingerprint
        index = self._columns_index(records)
        found = None if index is None else index.load_columns(settings)
        if found is None:
            return None
        if fingerprint:
            self.opened, self._index_read = fingerprint, index
        _report_once(found[1])
        return found[0]

    def save_columns(self, settings: list[Any], records: Sequence[RunRecord], columns: DerivedColumns) -> None:
        """Keep the columns of all runs of the store, in the state in which its records were read."""
        index = self._columns_index(records)
        if index is not None and self._is_as_opened:
            index.save_columns(settings, columns, self._notes)

    def load_placed_rows(self, settings: list[Any] | None, records: Sequence[RunRecord] | None) -> PlacedRows | None:
        """Return the rows of all runs of the store by their own tokens from the cache; None where it has none."""
        index = None if settings is None or not self._is_as_opened else self._columns_index(records)
        return None if index is None or settings is None else index.load_placed_rows(settings)

    def save_placed_rows(self, settings: list[Any], records: Sequence[RunRecord], rows: PlacedRows) -> None:
        """Keep the rows of all runs of the store, in the state in which its records were read."""
        index = self._columns_index(records)
        if index is not None and self._is_as_opened:
            index.save_placed_rows(settings, rows)

    @property
    def _is_as_opened(self) -> bool:
        """Whether the store is in the state in which its runs were read, or tells of each run alone."""
        return self._fingerprint == self.opened and (self._index_read is not None or not self.opened)

    def _columns_index(self, records: Sequence[RunRecord] | None) -> RunIndex | None:
        """Return where the columns of the store are kept; None where it doesn't tell when it changes."""
        if self._fingerprint or records is None:
            return self._run_index
        from dde.suite.datadecide.runs.run_index import RunIndex, versions_digest

        digest = versions_digest((r.run_id, r.version) for r in records)
        folder = self._folder("runs", self.store) if digest else None
        if folder is None:
            return None
        return RunIndex(folder, digest)

    def counters(self, run_ids: Sequence[str], versions: Mapping[str, str], keep: bool) -> History:
        """Return the token counter of most runs: all rows of their training logs.

        Parameters
        ----------
        run_ids, versions
        keep : bool
            Whether these are all runs, whose counters every opening reads.
        """
        return self._kept_logs("counters", run_ids, versions, (COUNTER,), keep)

    def other_counters(self, run_ids: Sequence[str], versions: Mapping[str, str], keep: bool) -> History:
        """Return the other token counters of runs, and their training step: those that any of the runs logged.

        Parameters
        ----------
        run_ids, versions
        keep : bool
            Whether these are all runs without the usual counter.
        """
        return self._kept_logs("other_counters", run_ids, versions, OTHER_COUNTERS, keep)

    def logged_counters(self, run_ids: Sequence[str], versions: Mapping[str, str], keys: Sequence[str]) -> History:
        """Return the counters that are known to place the rows of runs, from what opening kept where it has them."""
        kept = (("counters", (COUNTER,)), ("other_counters", OTHER_COUNTERS))
        found = next(((name, names) for name, names in kept if set(keys) <= set(names)), None)
        rows = (
            None
            if self._index_read is None or found is None
            else self._index_read.load_logs(found[0], run_ids, found[1])
        )
        if rows is None:
            return self.logs(run_ids, versions, keys)
        absent = np.full(len(rows.step), np.nan)
        return History(rows.run, rows.step, {key: rows.values.get(key, absent) for key in keys})

    def _kept_logs(
        self, name: str, run_ids: Sequence[str], versions: Mapping[str, str], keys: Sequence[str], keep: bool
    ) -> History:
        index = self._index_read if keep else None
        rows = None if index is None else index.load_logs(name, run_ids, keys)
        if rows is None:
            rows = self.logs(run_ids, versions, keys)
            # Few runs log any but the first, and none logs all.
            logged = {key: values for key, values in rows.values.items() if key == COUNTER or np.isfinite(values).any()}
            rows = History(rows.run, rows.step, logged)
            if index is not None and self._run_index == index and len(rows.step) <= HELD_ROWS:
                index.save_logs(name, run_ids, keys, rows)
        return rows

    @property
    def store_fingerprint(self) -> str:
        """What the store said of its content when its records were read; "" where they are not kept."""
        return "" if self._index_read is None else self._index_read.fingerprint

    @property
    def _run_index(self) -> RunIndex | None:
        """Where what the store says of its runs is kept; None where it doesn't tell when it changes."""
        store = self.store
        if store is None or self.cache_dir is None:
            return None
        fingerprint = self._fingerprint
        folder = self._folder("runs", store) if fingerprint else None
        if folder is None:
            return None
        from dde.suite.datadecide.runs.run_index import RunIndex

        return RunIndex(folder, fingerprint)

    @property
    def keeps_tables(self) -> bool:
        """Whether what is read of the tables is kept; a parsed one is columns already, of which nothing is."""
        return self._tables_cache is not None and self.tables is not None and self.tables.layout != "parsed"

    def checkpoints(self, bases: Sequence[Base], metrics: Sequence[Metric], along: Sequence[Metric] = ()) -> History:
        """Return rows of pretraining runs, by run and step; values by the metrics' names.

        Parameters
        ----------
        bases : sequence of Base
        metrics : sequence of Metric
        along : sequence of Metric
            Metrics that are worth keeping, too, where the tables have to be read anyway.
        """
        tables = self.tables
        if tables is None or not bases:
            return _no_rows([m.name for m in metrics])
        cache = self._tables_cache
        if cache is None or not self.keeps_tables:
            return tables.evaluations(bases, metrics)
        by_label, by_name = {b.label: b for b in bases}, {m.name: m for m in (*metrics, *along)}

        def fetch(labels: Sequence[str], names: Sequence[str]) -> History:
            # A text that is read is parsed whole, and kept whole: reading is what takes the time.
            whole = tables.whole_tasks([by_name[n] for n in dict.fromkeys([*names, *by_name])])
            return tables.evaluations([by_label[x] for x in labels], whole)

        version = f"{tables.fingerprint}-{tables.on_error}-{_VALUES}"
        rows = cache.read(
            list(by_label),
            [version] * len(by_label),
            [m.name for m in metrics],
            fetch,
            lambda: tables.conflicts,
        )
        self._repeat_warning(set(cache.notes).difference(tables.conflicts))
        return rows

    def _repeat_warning(self, conflicts: set[str]) -> None:
        """Warn of conflicts that were met when the cache was filled, once in a process."""
        if new := sorted(conflicts - self._warned):
            self._warned.update(new)
            warnings.warn(
                f"{len(new)} repeated rows disagreed with the first row of the same run and step when the cache was "
                f"filled ({'; '.join(new[:3])}{'; ...' if len(new) > 3 else ''}); the first one is used. "
                "Remove the wrong rows from the tables to silence this.",
                ConflictWarning,
                stacklevel=2,
            )

    def logs(self, run_ids: Sequence[str], versions: Mapping[str, str], keys: Sequence[str]) -> History:
        """Return rows of training logs, by run and step; values by the log's keys."""
        store = self.store
        if store is None or not run_ids:
            return _no_rows(keys)
        cache, fetch = self._history_cache, self._of_one_version(store.history, versions)
        if cache is None or not self.keeps_store(run_ids, versions):
            return fetch(run_ids, keys)
        return cache.read(run_ids, [versions[r] for r in run_ids], keys, fetch)

    def final_evaluations(
        self, run_ids: Sequence[str], versions: Mapping[str, str], metrics: Sequence[Metric]
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Return one value per run for every metric, by the metric's name."""
        store = self.store
        if store is None or not run_ids:
            return {m.name: np.empty(0) for m in metrics}
        # JSON: any character may occur in a task or an entry.
        names = {json.dumps([m.task, m.entry]): m for m in metrics}

        def fetch(ids: Sequence[str], keys: Sequence[str]) -> History:
            pairs = [(names[k].task, names[k].entry) for k in keys]
            found = store.evaluations(ids, pairs)
            rows = np.arange(len(ids))
            values = {k: found[pair] for k, pair in zip(keys, pairs, strict=True)}
            return History(rows.astype(np.int32), np.zeros(len(ids), np.int64), values)

        cache, checked = self._summary_cache, self._of_one_version(fetch, versions)
        if cache is None or not self.keeps_store(run_ids, versions):
            rows = checked(run_ids, list(names))
        else:
            rows = cache.read(run_ids, [versions[r] for r in run_ids], list(names), checked)
        return {m.name: rows.values[key] for key, m in names.items()}

    @property
    def _fingerprint(self) -> str:
        return str(getattr(self.store, "fingerprint", ""))

    def _of_one_version(self, fetch: Fetch, versions: Mapping[str, str]) -> Fetch:
        """Return `fetch` with a check, before and after, that the runs are in the versions that they were opened in.

        What is read goes into the cache and into a Dataset under these versions.
        """

        def checked(run_ids: Sequence[str], keys: Sequence[str]) -> History:
            before = self._fingerprint
            if before != self.opened and self.opened:
                self._check_runs(run_ids, versions)
                self.opened = before
            rows = fetch(run_ids, keys)
            if self._fingerprint != before:
                raise self._changed("while it was read")
            return rows

        return checked

    def _check_runs(self, run_ids: Sequence[str], versions: Mapping[str, str]) -> None:
        """Raise SourceError where any of the runs has another version than it was opened in.

        A store that grew by other runs, or was copied as it is, has the same.
        """
        assert self.store is not None
        now = {record.run_id: record.version for record in self.store.runs()}
        changed = [run_id for run_id in run_ids if now.get(run_id) != versions[run_id]]
        if changed:
            raise self._changed(f"since it was opened: {len(changed)} runs, such as {changed[0]!r}")

    def _changed(self, when: str) -> SourceError:
        description = "" if self.store is None else redact(self.store.description)
        return SourceError(
            f"{description} changed {when}, so its values are no longer those of the Dataset that is open, and nothing "
            "of this read is kept. Open it again."
        )

    def keeps_store(self, run_ids: Sequence[str], versions: Mapping[str, str]) -> bool:
        """Return whether what is read of these runs of the store is kept: where it tells when each of them changes."""
        return self._history_cache is not None and bool(run_ids) and all(versions[r] for r in run_ids)

    def keep_store(self, run_ids: Sequence[str], versions: Mapping[str, str], metrics: Sequence[Metric]) -> None:
        """Read metrics of runs of the store into the cache.

        Raises
        ------
        SourceError
            When what was read could not be kept.
        """
        self.logs(run_ids, versions, [m.entry for m in metrics if m.kind == "log"])
        self.check_kept()
        self.final_evaluations(run_ids, versions, [m for m in metrics if m.kind == "evaluation"])
        self.check_kept()

    def check_kept(self) -> None:
        """Raise SourceError where something that was read could not be kept."""
        for cache in (self._tables_cache, self._history_cache, self._summary_cache):
            if cache is not None and cache.problem is not None:
                raise SourceError(
                    f"the cache {cache.storage} can't be written ({cache.problem}), so what was read was not kept. "
                    "Free space, or pass cache_dir= with a folder or URL that can be written."
                )

    def compact_caches(self) -> None:
        """Merge the small segments of the caches and remove superseded ones.

        Warns
        -----
        DdeWarning
            When a cache can't be compacted. All that was read is in it, in more segments.
        """
        from dde.cache.compaction import compact

        for cache in (self._tables_cache, self._history_cache, self._summary_cache):
            if cache is None:
                continue
            try:
                compact(cache.storage)
            except OSError as error:
                warnings.warn(
                    f"the cache {cache.storage} can't be compacted ({error}). It is complete, but reading it is slower "
                    "than necessary. Free space and run `dde cache compact`.",
                    DdeWarning,
                    stacklevel=2,
                )

    @cached_property
    def _tables_cache(self) -> RaggedCache | None:
        return self._cache("tables", self.tables)

    @cached_property
    def _history_cache(self) -> RaggedCache | None:
        return self._cache("history", self.store)

    @cached_property
    def _summary_cache(self) -> RaggedCache | None:
        return self._cache("summaries", self.store)

    def _cache(self, kind: str, source: DataDecide | PosttrainingSource | None) -> RaggedCache | None:
        folder = self._folder(kind, source)
        if folder is None or source is None:
            return None
        from dde.cache import RaggedCache
        from dde.cache.maintenance import KINDS

        return RaggedCache(folder, f"{KINDS[kind]} of {source.description}")

    def _folder(self, kind: str, source: DataDecide | PosttrainingSource | None) -> Storage | None:
        """Return where the cache of a source is; None where nothing is kept."""
        if source is None:
            return None
        return source_storage(self.cache_dir, kind, redact(getattr(source, "location", "") or source.description))


# Metrics of logs that were read last, each of some thousand runs at most: some 30 MB.
_LOGS = 4
# Metrics that were read along with another one and not asked for yet: those of a few blocks.
_SIBLINGS = 256

# What sources reported of their runs, once in a process, whether they were read or kept.
_REPORTED: set[str] = set()


def _report_once(notes: Sequence[str]) -> None:
    for note in notes:
        if note not in _REPORTED:
            _REPORTED.add(note)
            warnings.warn(note, ConflictWarning, stacklevel=3)


def _no_rows(keys: Sequence[str]) -> History:
    return History(np.empty(0, np.int32), np.empty(0, np.int64), {k: np.empty(0) for k in keys})
