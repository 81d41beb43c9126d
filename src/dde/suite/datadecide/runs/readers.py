"""Read rows of the tables and of the store, through the cache if there is one."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dde.cache.storage import source_storage
from dde.curves.metric import Metric
from dde.errors import ConflictWarning, DdeWarning, SourceError, warn
from dde.sources.connection import Connection, redact
from dde.sources.protocols import History, PosttrainingSource, RunRecord
from dde.suite.datadecide.names import Base
from dde.suite.datadecide.runs.positions import MAX_ROWS_IN_MEMORY
from dde.suite.datadecide.runs.token_counts import COUNTER, OTHER_COUNTERS
from dde.suite.datadecide.tables.pretraining_tables import DataDecide, TableCheckpoints

if TYPE_CHECKING:
    from dde.cache.ragged import Fetch, RaggedCache
    from dde.cache.storage import Storage
    from dde.curves.observations import Observations
    from dde.suite.datadecide.runs.derived_columns import DerivedColumns, PlacedRows
    from dde.suite.datadecide.runs.run_index import RunIndex

__all__ = ["Readers"]

# Part of the version of cached values; increased whenever the parser returns other values for the same rows.
_PARSER_VERSION = 2


@dataclass
class Readers:
    """Readers of the pretraining tables and of the post-training store.

    Attributes
    ----------
    tables : DataDecide or None
    store : PosttrainingSource or None
    cache_dir : str or path or None
        Folder or URL of the cache; None disables the cache.
    opened_fingerprint : str
        Fingerprint of the store when the records of its runs were read; "" for a store without fingerprints.
    """

    tables: DataDecide | None
    store: PosttrainingSource | None
    cache_dir: str | os.PathLike[str] | Connection | None = None
    opened_fingerprint: str = ""
    _warned: set[str] = field(default_factory=set)
    _index_read: RunIndex | None = None
    _notes: list[str] = field(default_factory=list)
    _siblings: OrderedDict[tuple[tuple[str, ...], str], Observations] = field(default_factory=OrderedDict, repr=False)
    _logs: OrderedDict[tuple[tuple[str, ...], str], Observations] = field(default_factory=OrderedDict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_siblings": OrderedDict(), "_logs": OrderedDict()}

    def cached_log(self, run_ids: tuple[str, ...], name: str) -> Observations | None:
        """Return the observations of a logged metric if they are in memory, else None."""
        return self._logs.get((run_ids, name))

    def cache_log(self, run_ids: tuple[str, ...], name: str, observed: Observations) -> None:
        """Cache the observations of a logged metric in memory, since its values and its samples are read in turn."""
        self._logs[run_ids, name] = observed
        while len(self._logs) > _MAX_LOGS:
            with suppress(KeyError):  # another thread was faster
                self._logs.popitem(last=False)

    def take_sibling(self, run_ids: tuple[str, ...], name: str) -> Observations | None:
        """Remove the observations of a metric that was read along with another one; return them, or None."""
        return self._siblings.pop((run_ids, name), None)

    def cache_sibling(self, run_ids: tuple[str, ...], name: str, observed: Observations) -> None:
        """Cache the observations of a metric that was read along with another one, as it is often requested next."""
        self._siblings[run_ids, name] = observed
        while len(self._siblings) > _MAX_SIBLINGS:
            with suppress(KeyError):  # another thread was faster
                self._siblings.popitem(last=False)

    def table_checkpoints(self) -> TableCheckpoints:
        """Return the runs and checkpoints in the tables."""
        tables = self.tables
        if tables is None:
            return TableCheckpoints((), np.empty(0, np.int32), np.empty(0, np.int64))
        folder = self._folder("index", tables)
        if folder is not None and isinstance(tables, DataDecide):
            from dde.suite.datadecide.tables.table_index import TableIndexCache

            tables.keep_index(TableIndexCache(folder))
        return tables.catalog()

    def records(self, extra_config_keys: Iterable[str] = (), all_options: bool = False) -> tuple[list[RunRecord], bool]:
        """Return the record of every run of the store, by run id, and whether they have all launch options.

        Cached records have only the options that are used as evidence; see :mod:`dde.suite.datadecide.runs.run_index`.

        Parameters
        ----------
        extra_config_keys : iterable of str
            Config keys to return in addition to the usual ones; they are not cached.
        all_options : bool
            Whether to return all options of the launch commands, which are not cached.
        """
        store = self.store
        if store is None:
            return [], True
        extra = list(extra_config_keys)
        self.opened_fingerprint = self._fingerprint
        index = None if extra or all_options else self._run_index
        cached = None if index is None else index.load()
        if cached is not None:
            cached_records, notes = cached
            self._index_read, self._notes = index, notes
            _report_once(notes)
            return cached_records, False
        records = store.runs(extra)
        # Records that were read while the store changed belong to neither of its states.
        if self._fingerprint != self.opened_fingerprint:
            raise self._changed("while its runs were read")
        self._notes = notes = list(getattr(store, "conflicts", ()))
        if index is not None and self._run_index == index:
            _REPORTED.update(notes)
            if index.save(records, notes):
                self._index_read = index
        return records, True

    def load_columns(self, settings: list[Any], records: Sequence[RunRecord] | None) -> DerivedColumns | None:
        """Return the columns of all runs of the store from the cache; None if they are not cached.

        Parameters
        ----------
        settings : list
            Options that the columns depend on, in addition to the content of the store.
        records : sequence of RunRecord or None
            Records of the runs, if they were read. They are needed for a store that has no fingerprint of its entire
            content, but a version of each run.
        """
        fingerprint = self._fingerprint
        index = self._columns_index(records)
        cached = None if index is None else index.load_columns(settings)
        if cached is None:
            return None
        if fingerprint:
            self.opened_fingerprint, self._index_read = fingerprint, index
        columns, notes = cached
        _report_once(notes)
        return columns

    def save_columns(self, settings: list[Any], records: Sequence[RunRecord], columns: DerivedColumns) -> None:
        """Cache the columns of all runs, unless the store has changed since its records were read."""
        index = self._columns_index(records)
        if index is not None and self._is_as_opened:
            index.save_columns(settings, columns, self._notes)

    def load_placed_rows(self, settings: list[Any] | None, records: Sequence[RunRecord] | None) -> PlacedRows | None:
        """Return the rows of all runs of the store by own tokens from the cache; None if they are not cached."""
        index = None if settings is None or not self._is_as_opened else self._columns_index(records)
        return None if index is None or settings is None else index.load_placed_rows(settings)

    def save_placed_rows(self, settings: list[Any], records: Sequence[RunRecord], rows: PlacedRows) -> None:
        """Cache the rows of all runs, unless the store has changed since its records were read."""
        index = self._columns_index(records)
        if index is not None and self._is_as_opened:
            index.save_placed_rows(settings, rows)

    @property
    def _is_as_opened(self) -> bool:
        """Whether the store is unchanged since its records were read, or has a version of each run instead."""
        return self._fingerprint == self.opened_fingerprint and (
            self._index_read is not None or not self.opened_fingerprint
        )

    def _columns_index(self, records: Sequence[RunRecord] | None) -> RunIndex | None:
        """Return the index that caches the columns of the store; None if changes of the store can't be detected."""
        if self._fingerprint or records is None:
            return self._run_index
        from dde.suite.datadecide.runs.run_index import RunIndex, versions_digest

        digest = versions_digest((r.run_id, r.version) for r in records)
        folder = self._folder("runs", self.store) if digest else None
        if folder is None:
            return None
        return RunIndex(folder, digest)

    def metric_names(self) -> tuple[list[str], list[tuple[str, str]]]:
        """Return the keys of all logs and the (task, entry) of all evaluations of the store, both sorted."""
        store = self.store
        if store is None:
            return [], []
        index = self._run_index
        names = None if index is None else index.load_metric_names()
        if names is None:
            names = store.metric_names()
            # Names that were read while the store changed belong to neither of its states.
            if index is not None and self._run_index == index:
                index.save_metric_names(*names)
        return names

    def counters(self, run_ids: Sequence[str], versions: Mapping[str, str], use_cache: bool) -> History:
        """Return the usual token counter: all rows of the training logs of runs.

        Parameters
        ----------
        run_ids : sequence of str
        versions : mapping of str to str
            Version of each run.
        use_cache : bool
            Whether to cache the rows. The cache has the counters of all runs, which every opening reads.
        """
        return self._cached_counters("counters", run_ids, versions, (COUNTER,), use_cache)

    def other_counters(self, run_ids: Sequence[str], versions: Mapping[str, str], use_cache: bool) -> History:
        """Return the other token counters and the training step of runs, as far as any of the runs logged them.

        Parameters
        ----------
        run_ids : sequence of str
        versions : mapping of str to str
            Version of each run.
        use_cache : bool
            Whether to cache the rows. The cache has the counters of all runs without the usual counter.
        """
        return self._cached_counters("other_counters", run_ids, versions, OTHER_COUNTERS, use_cache)

    def logged_counters(self, run_ids: Sequence[str], versions: Mapping[str, str], keys: Sequence[str]) -> History:
        """Return the given counters of runs, from the cache of an earlier opening if it has them."""
        rows = None
        if self._index_read is not None:
            for name, cached_keys in (("counters", (COUNTER,)), ("other_counters", OTHER_COUNTERS)):
                if set(keys) <= set(cached_keys):
                    rows = self._index_read.load_logs(name, run_ids, cached_keys)
                    break
        if rows is None:
            return self.logs(run_ids, versions, keys)
        absent = np.full(len(rows.step), np.nan)
        return History(rows.run, rows.step, {key: rows.values.get(key, absent) for key in keys})

    def _cached_counters(
        self, name: str, run_ids: Sequence[str], versions: Mapping[str, str], keys: Sequence[str], use_cache: bool
    ) -> History:
        index = self._index_read if use_cache else None
        rows = None if index is None else index.load_logs(name, run_ids, keys)
        if rows is None:
            rows = self.logs(run_ids, versions, keys)
            # Few runs log another counter than the usual one, so columns without values are dropped.
            logged = {key: values for key, values in rows.values.items() if key == COUNTER or np.isfinite(values).any()}
            rows = History(rows.run, rows.step, logged)
            if index is not None and self._run_index == index and len(rows.step) <= MAX_ROWS_IN_MEMORY:
                index.save_logs(name, run_ids, keys, rows)
        return rows

    @property
    def store_fingerprint(self) -> str:
        """Fingerprint of the store when its records were read; "" if the records are not cached."""
        return "" if self._index_read is None else self._index_read.fingerprint

    @property
    def _run_index(self) -> RunIndex | None:
        """The index that caches the runs of the store; None without a cache, or for a store without fingerprints."""
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
    def caches_tables(self) -> bool:
        """Whether values of the tables are cached; those of a parsed table are not, as it has columns already."""
        return self._tables_cache is not None and self.tables is not None and self.tables.layout != "parsed"

    def evaluations(self, bases: Sequence[Base], metrics: Sequence[Metric], along: Sequence[Metric] = ()) -> History:
        """Return evaluations of the checkpoints of pretraining runs.

        Parameters
        ----------
        bases : sequence of Base
        metrics : sequence of Metric
        along : sequence of Metric
            Metrics to cache as well if the tables have to be read anyway and they are read together with `metrics` at
            little cost.

        Returns
        -------
        History
            Rows by run, as an index into `bases`, and step; values by the names of the metrics.
        """
        tables = self.tables
        if tables is None or not bases:
            return _no_rows([m.name for m in metrics])
        cache = self._tables_cache
        if cache is None or not self.caches_tables:
            return tables.evaluations(bases, metrics)
        by_label = {b.label: b for b in bases}

        def fetch(labels: Sequence[str], names: Sequence[str]) -> History:
            # Here rather than before: a Dataset of all metrics requests each of them beside all others.
            together = [m for metric in metrics for m in tables.read_together(metric, along)]
            by_name = {m.name: m for m in (*metrics, *together)}
            # All entries of a text are parsed and cached, since reading the text takes most of the time.
            all_entries = tables.whole_tasks([by_name[n] for n in dict.fromkeys([*names, *by_name])])
            return tables.evaluations([by_label[x] for x in labels], all_entries)

        version = f"{tables.fingerprint}-{tables.on_error}-{_PARSER_VERSION}"
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
        """Warn of conflicts that were met when the cache was filled, once by these readers.

        Tables that are read without a cache warn once, too, each time they are opened.
        """
        if new := sorted(conflicts - self._warned):
            self._warned.update(new)
            warn(
                f"{len(new)} repeated rows disagreed with the first row of the same run and step when the cache was "
                f"filled ({'; '.join(new[:3])}{'; ...' if len(new) > 3 else ''}); the first one is used. "
                "Remove the wrong rows from the tables to silence this.",
                ConflictWarning,
                stacklevel=2,
            )

    def logs(self, run_ids: Sequence[str], versions: Mapping[str, str], keys: Sequence[str]) -> History:
        """Return rows of training logs, by run and step, with values by key."""
        store = self.store
        if store is None or not run_ids:
            return _no_rows(keys)
        cache, fetch = self._history_cache, self._of_one_version(store.history, versions)
        if cache is None or not self.caches_store(run_ids, versions):
            return fetch(run_ids, keys)
        return cache.read(run_ids, [versions[r] for r in run_ids], keys, fetch)

    def final_evaluations(
        self, run_ids: Sequence[str], versions: Mapping[str, str], metrics: Sequence[Metric]
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Return one value per run for every metric, by the name of the metric."""
        store = self.store
        if store is None or not run_ids:
            return {m.name: np.empty(0) for m in metrics}
        # Encoded as JSON, as tasks and entries may contain any character.
        names = {json.dumps([m.task, m.entry]): m for m in metrics}

        def fetch(ids: Sequence[str], keys: Sequence[str]) -> History:
            pairs = [(names[k].task, names[k].entry) for k in keys]
            by_pair = store.evaluations(ids, pairs)
            values = {k: by_pair[pair] for k, pair in zip(keys, pairs, strict=True)}
            return History(np.arange(len(ids), dtype=np.int32), np.zeros(len(ids), np.int64), values)

        cache, checked = self._summary_cache, self._of_one_version(fetch, versions)
        if cache is None or not self.caches_store(run_ids, versions):
            rows = checked(run_ids, list(names))
        else:
            rows = cache.read(run_ids, [versions[r] for r in run_ids], list(names), checked)
        return {m.name: rows.values[key] for key, m in names.items()}

    @property
    def _fingerprint(self) -> str:
        return str(getattr(self.store, "fingerprint", ""))

    def _of_one_version(self, fetch: Fetch, versions: Mapping[str, str]) -> Fetch:
        """Return `fetch` with checks that the runs have the given versions before and after the read.

        The cache and the Dataset label the values with these versions.
        """

        def checked(run_ids: Sequence[str], keys: Sequence[str]) -> History:
            before = self._fingerprint
            if before != self.opened_fingerprint and self.opened_fingerprint:
                self._check_runs(run_ids, versions)
                self.opened_fingerprint = before
            rows = fetch(run_ids, keys)
            if self._fingerprint != before:
                raise self._changed("while it was read")
            return rows

        return checked

    def _check_runs(self, run_ids: Sequence[str], versions: Mapping[str, str]) -> None:
        """Raise SourceError if the version of any of the runs has changed.

        The fingerprint of a store also changes when other runs are added, or when the store is copied.
        """
        assert self.store is not None
        now = {record.run_id: record.version for record in self.store.runs()}
        changed = [run_id for run_id in run_ids if now.get(run_id) != versions[run_id]]
        if changed:
            raise self._changed(f"since it was opened: {len(changed)} runs, such as {changed[0]!r}")

    def _changed(self, when: str) -> SourceError:
        description = "" if self.store is None else redact(self.store.description)
        return SourceError(
            f"{description} changed {when}, so its values no longer belong to the open Dataset, and the values of this "
            "read were discarded. Open it again."
        )

    def caches_store(self, run_ids: Sequence[str], versions: Mapping[str, str]) -> bool:
        """Return whether values of these runs of the store are cached, which needs a version of each run."""
        return self._history_cache is not None and bool(run_ids) and all(versions[r] for r in run_ids)

    def fill_store_cache(self, run_ids: Sequence[str], versions: Mapping[str, str], metrics: Sequence[Metric]) -> None:
        """Read metrics of runs of the store into the cache.

        Raises
        ------
        SourceError
            When the cache can't be written.
        """
        self.logs(run_ids, versions, [m.entry for m in metrics if m.kind == "log"])
        self.check_caches()
        self.final_evaluations(run_ids, versions, [m for m in metrics if m.kind == "evaluation"])
        self.check_caches()

    def check_caches(self) -> None:
        """Raise SourceError if a cache could not be written."""
        for cache in (self._tables_cache, self._history_cache, self._summary_cache):
            if cache is not None and cache.problem is not None:
                raise SourceError(
                    f"the cache {cache.storage} can't be written ({cache.problem}), so the values were not stored. "
                    "Free space, or pass cache_dir= with a folder or URL that can be written."
                )

    def compact_caches(self) -> None:
        """Merge the small segments of the caches and remove superseded ones.

        Warns
        -----
        DdeWarning
            When a cache can't be compacted. It is complete, but has more segments than necessary.
        """
        from dde.cache.compaction import compact

        for cache in (self._tables_cache, self._history_cache, self._summary_cache):
            if cache is None:
                continue
            try:
                compact(cache.storage, least=_FEWER_SEGMENTS)
            except OSError as error:
                warn(
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
        """Return the storage that caches a source; None if it is not cached."""
        if source is None:
            return None
        return source_storage(self.cache_dir, kind, redact(getattr(source, "location", "") or source.description))


# A fill merges segments if that saves so many, because a merge rewrites all small ones: about 16 MB per set of metrics.
_FEWER_SEGMENTS = 8
# Number of logged metrics in memory, about 30 MB for a thousand runs.
_MAX_LOGS = 4
# Number of metrics in memory that were read along with others but not requested yet, enough for a few blocks.
_MAX_SIBLINGS = 256

# What sources reported of their runs in this process: what is read from the cache does not report it again.
_REPORTED: set[str] = set()


def _report_once(notes: Sequence[str]) -> None:
    for note in notes:
        if note not in _REPORTED:
            _REPORTED.add(note)
            warn(note, ConflictWarning, stacklevel=3)


def _no_rows(keys: Sequence[str]) -> History:
    return History(np.empty(0, np.int32), np.empty(0, np.int64), {k: np.empty(0) for k in keys})
