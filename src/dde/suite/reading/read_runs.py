"""Read a declared suite: its runs with their positions, its metrics, and the values of a metric at the positions."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.array_types import Float64
from dde.cache.storage import source_storage
from dde.errors import SourceError, UnknownNameError, list_names, near_names
from dde.sources.connection import Connection
from dde.suite.declare import Suite, Table
from dde.suite.patterns import Template
from dde.suite.reading.counters import names_of_rule
from dde.suite.reading.declared_runs import DeclaredRuns, Report, join_tables
from dde.suite.reading.metric_keys import MetricSource, collect_metrics, match_keys
from dde.suite.reading.open_files import FoundFile, find_files, frame_contents, keep_results, open_tables
from dde.suite.reading.read_values import ValueReader
from dde.suite.reading.row_values import OpenedFile, read_together
from dde.suite.reading.table_rows import TableRows, names_in_table, read_table
from dde.suite.reading.wandb_places import FORMAT, connect_places
from dde.suite.reading.wandb_tables import (
    metric_columns,
    open_stores,
    report_silent_runs,
    row_versions,
    store_versions,
)

__all__ = ["DeclaredRuns", "MetricSource", "SuiteTables"]


_INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True, eq=False)
class _OpenedTables:
    """The opened tables: files and runs of each, and the names that are not metrics."""

    opened: list[list[OpenedFile]]
    runs: list[DeclaredRuns]
    keys: list[tuple[str, ...]]
    used: list[frozenset[str]]
    factors: frozenset[str]
    values: ValueReader


class SuiteTables:
    """The files or frames of a declared suite.

    Parameters
    ----------
    suite : Suite
    root : str or path, optional
        Folder or URL that the patterns are relative to; by default the suite's own. Frames need none.
    cache_dir : str, path or Storage, optional
        Folder or URL that caches the numbers of parsed result files; None disables the cache.

    Attributes
    ----------
    suite : Suite

    Raises
    ------
    SourceError
        When a folder is absent or can't be listed, or no pattern of the suite matches any file.

    Notes
    -----
    Opening reads only the columns that position rows and name runs; reading a metric reads its own column of the files
    that have it. Instances can be pickled, and threads may share one.

    Examples
    --------
    >>> import pandas as pd
    >>> frame = pd.DataFrame({"id": ["a", "a"], "lr": 0.1, "step": [0, 10], "tokens": [0, 80], "loss": [9.0, 3.5]})
    >>> tables = SuiteTables(Suite.from_frame(frame, run="id", lineage="lr={lr}"))
    >>> [runs] = tables.runs()
    >>> runs.run_ids, runs.tokens.tolist(), tables.values("loss", runs).tolist()
    (('a',), [0, 80], [9.0, 3.5])
    """

    def __init__(
        self,
        suite: Suite,
        root: str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | Connection | None = None,
    ) -> None:
        self.suite = suite
        self._report = Report()
        self._tables = [suite.resolved(table) for table in suite.tables]
        self._lock = threading.RLock()
        self._opening: _OpenedTables | None = None
        self._metrics: dict[str, MetricSource] | None = None
        self._frames = frame_contents(self._tables)
        self._place: Connection | None = None
        self._files: list[list[FoundFile]] = [[] for _ in self._tables]
        where = suite.root if root is None else root
        self._stores = {
            number: connect_places(table.files, where, suite.name, f"tables[{number}]")
            for number, table in enumerate(self._tables)
            if table.format == FORMAT
        }
        if len(self._frames) + len(self._stores) < len(self._tables):
            if where is None:
                raise SourceError(
                    f"The suite {suite.name!r} names files by patterns, and there is no folder to search, so it has no "
                    "rows. Pass the folder or URL of the files, or declare root=."
                )
            self._place = Connection(where)
            if self._place.kind == "postgres":
                raise SourceError(
                    f"{self._place.redacted} is a database, and the tables of the suite {suite.name!r} are files, so "
                    "it has no rows. Pass the folder or URL of the files."
                )
            self._files = find_files(self._tables, self._place, suite.name, self._report)
        self._cache = source_storage(cache_dir, "results", self.location)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.description!r})"

    @property
    def left_out(self) -> dict[str, int]:
        """Number of files, rows and values that belong to no run, by reason; rows are counted by `runs`."""
        return self._report.left_out

    @property
    def notes(self) -> list[str]:
        """Sentences on content that was left out or is doubtful."""
        return self._report.notes

    @property
    def location(self) -> str:
        """Folder or URL of the files, without credentials; "" where all tables are frames."""
        return "" if self._place is None else self._place.location

    @property
    def description(self) -> str:
        """Name and location of the suite, for messages and attributes; without credentials."""
        places = [] if self._place is None else [self._place]
        places += [place for of_table in self._stores.values() for place in of_table]
        shown = ", ".join(dict.fromkeys(place.redacted for place in places))
        return f"suite {self.suite.name}" + (f" at {shown}" if shown else "")

    @property
    def fingerprint(self) -> str:
        """Digest of the declaration, of the versions of all files, and of the content of all frames."""
        digest = hashlib.sha256(self.suite.digest.encode())
        for number, files in enumerate(self._files):
            for file, fields in files:
                digest.update(repr((number, file.name, file.version, sorted(fields.items()))).encode())
        for number in self._stores:
            for of_store in self._open().opened[number]:
                digest.update(repr((number, store_versions(of_store))).encode())
        return digest.hexdigest()[:16]

    def runs(self) -> list[DeclaredRuns]:
        """Return the runs of each declared table; reads only the columns that position rows and name runs.

        Raises
        ------
        FormatError
            When a file is damaged, one id stands for several runs, or a counter is not a whole number; names file and
            row.
        UnknownNameError
            When a template or rule names something that no file has.
        SourceError
            When a file can't be read.

        Warns
        -----
        ConflictWarning
            When rows of one run and step have different tokens; the first are used.
        """
        return list(self._open().runs)

    def metrics(self) -> dict[str, MetricSource]:
        """Return the metrics of the suite, by name.

        Raises
        ------
        FormatError
            When two keys become the same metric, or two tables define it differently.
        """
        opening = self._open()
        with self._lock:
            if self._metrics is None:
                self._metrics = self._find_metrics(opening)
            return dict(self._metrics)

    def values(self, metric: str, runs: DeclaredRuns, which: Sequence[int] | None = None) -> Float64:
        """Return the values of a metric at the rows of runs, NaN where their files do not have it.

        Parameters
        ----------
        metric : str
            Name of the metric.
        runs : DeclaredRuns
        which : sequence of int, optional
            Numbers of the runs; by default all.

        Returns
        -------
        (row,) float64 array
            Aligned with the rows of these runs, one run after the other.

        Raises
        ------
        UnknownNameError
            When there is no such metric.

        Warns
        -----
        ConflictWarning
            When rows of one run and step have different values; the first is used.
        """
        return self.values_of([metric], runs, which)[metric]

    def values_of(
        self, metrics: Sequence[str], runs: DeclaredRuns, which: Sequence[int] | None = None
    ) -> dict[str, Float64]:
        """Return the values of several metrics as :meth:`values` does; each file is read once."""
        known = self.metrics()
        for metric in metrics:
            if metric not in known:
                raise UnknownNameError(
                    f"The suite {self.suite.name!r} has no metric {metric!r}, so it has no values."
                    f"{near_names(metric, known)} It has {len(known)} metrics."
                )
        requested = list(dict.fromkeys(metrics))
        values_by_metric = {metric: np.full(len(runs.step), np.nan) for metric in requested}
        chosen = None
        if which is not None:
            chosen = np.zeros(len(runs.run_ids), np.bool_)
            chosen[np.asarray(which, np.int64)] = True
        for sources in runs.sources:
            keys = {metric: key for metric in requested if (key := known[metric].keys[sources.table])}
            if keys:
                others = [metric.keys[sources.table] for metric in known.values()]
                self._open().values.fill(values_by_metric, keys, runs, sources, chosen, others)
        if which is None:
            return values_by_metric
        rows = [np.arange(runs.row_offsets[run], runs.row_offsets[run + 1]) for run in which]
        at = np.concatenate([np.empty(0, np.int64), *rows])
        return {metric: values[at] for metric, values in values_by_metric.items()}

    def keep_results(self) -> bool:
        """Parse the result files into the cache; return whether there are any.

        Raises
        ------
        SourceError
            When the cache can't be written.
        """
        self._open()
        return keep_results(self._tables, self._files, self._cache)

    def versions(self, runs: DeclaredRuns) -> tuple[str, ...]:
        """Return the version of each run, a digest of its files or frame and of the declaration.

        Parameters
        ----------
        runs : DeclaredRuns
        """
        of_run: list[list[str]] = [[] for _ in runs.run_ids]
        for sources in runs.sources:
            opened = self._open().opened[sources.table]
            texts = ["" if of_file.file is None else of_file.file.version for of_file in opened]
            if sources.table in self._stores:
                for run, version in row_versions(opened, sources.run, sources.file, sources.row):
                    of_run[run].append(f"{sources.table} {version}")
                continue
            pairs = np.unique(sources.run * len(opened) + sources.file)
            for run, file in zip((pairs // len(opened)).tolist(), (pairs % len(opened)).tolist(), strict=True):
                of_run[run].append(f"{sources.table} {opened[file].name} {texts[file]}")
        declared = self.suite.digest
        return tuple(hashlib.sha256("\0".join([declared, *files]).encode()).hexdigest()[:16] for files in of_run)

    def _open(self) -> _OpenedTables:
        with self._lock:
            if self._opening is None:
                left_out, notes = dict(self.left_out), list(self.notes)
                try:
                    opened = open_tables(self._tables, self._files, self._frames, self._cache, self._report)
                    for number, of_stores in self._open_stores().items():
                        opened[number] = of_stores
                    self._opening = self._read(opened)
                except BaseException:
                    # The next attempt reports the same again.
                    self._report.left_out, self._report.notes = left_out, notes
                    raise
            return self._opening

    def _open_stores(self) -> dict[int, list[OpenedFile]]:
        """Return the W&B runs of the tables that have some; reads no history."""
        names = {}
        for number in self._stores:
            table = self._with_labels(self._tables[number], frozenset())
            labels = (self.suite.lineage, self.suite.run_template(table.run_type).text)
            used, _ = names_in_table(table, labels, self.suite.replicate)
            names[number] = (used | names_of_rule(table.where)) - table.declared_fields.difference(table.factors)
        return open_stores(self._tables, self._stores, names, self._report)

    def _read(self, opened: list[list[OpenedFile]]) -> _OpenedTables:
        """Read the key columns of all tables, and report the rows that are left out."""
        columns = [frozenset(name for file in of_table for name in file.content.columns) for of_table in opened]
        tables = [self._with_labels(table, columns[number]) for number, table in enumerate(self._tables)]
        # A field that one table does not have is "" there; one that no table has is an error.
        self.suite.check_fields([columns[n] | table.declared_fields for n, table in enumerate(tables)])
        rows: list[TableRows] = []
        taken: dict[str, npt.NDArray[np.bool_]] = {}
        for number, table in enumerate(tables):
            labels = (self.suite.lineage, self.suite.run_template(table.run_type).text)
            used, named = names_in_table(table, labels, self.suite.replicate)
            of_table, takes = read_table(table, opened[number], f"tables[{number}]", used=used, named=named)
            rows.append(of_table)
            for file, mask in takes:
                name = opened[number][file].name
                taken[name] = taken[name] | mask if name in taken else mask
            for reason, count in of_table.left_out.items():
                text = f"{reason}, in tables[{number}]"
                self._report.add(text, count, f"{count} {text}, are left out")
            if hidden := sorted((table.declared_fields - set(table.factors)) & columns[number]):
                self.notes.append(
                    f"tables[{number}]: a path or parsed text gives {', '.join(hidden)}, so columns of that name are "
                    "not read"
                )
            if number in self._stores:
                what = f"tables[{number}]"
                report_silent_runs(opened[number], of_table.file, of_table.row, what, self._report)
            if not len(of_table.run) and opened[number]:
                self.notes.append(f"tables[{number}] has no rows in its {len(opened[number])} files")
        no_table = {name: int((~mask).sum()) for name, mask in taken.items() if not mask.all()}
        if no_table:
            reason, count = "rows that belong to no table", sum(no_table.values())
            shown = list_names([f"{n} of {name}" for name, n in no_table.items()])
            self._report.add(reason, count, f"{count} {reason}: {shown}")
        runs = join_tables(rows, self._report)
        keys = [of_table.keys for of_table in rows]
        return _OpenedTables(
            opened,
            runs,
            keys,
            [of_table.used & columns[number] for number, of_table in enumerate(rows)],
            frozenset(name for of_runs in runs for name in of_runs.fields),
            ValueReader(opened, keys, [table.value for table in tables], self._report),
        )

    def _with_labels(self, table: Table, columns: frozenset[str]) -> Table:
        """Return a table whose run_id has the templates of the labels in place of ``{lineage}`` and ``{run}``."""
        made = table.run_id
        labels = {"lineage": self.suite.lineage, "run": self.suite.run_template(table.run_type).text}
        for label, text in labels.items():
            if made is not None and label not in columns and label in Template(made).fields:
                made = made.replace(f"{{{label}}}", text)
        return table if made == table.run_id else dataclasses.replace(table, run_id=made)

    def _find_metrics(self, opening: _OpenedTables) -> dict[str, MetricSource]:
        """Return the metrics that the keys of the tables give, and report patterns that match no key."""
        patterns: dict[str, None] = {}
        matched: set[str] = set()
        unused_keys: dict[str, None] = {}
        by_table = []
        for number, table in enumerate(self._tables):
            keys = self._keys(number, opening)
            if opening.opened[number]:
                patterns.update(dict.fromkeys(table.metrics or ()))
                unused_keys.update(dict.fromkeys(key for key in keys if key not in opening.used[number]))
            by_table.append(
                match_keys(
                    keys,
                    table.metrics,
                    used=opening.used[number],
                    factors=opening.factors,
                    what=f"tables[{number}]",
                    matched=matched,
                )
            )
        unmatched = [text for text in patterns if text not in matched]
        if unmatched and not matched and unused_keys:
            near = near_names(unmatched[0], unused_keys)
            raise UnknownNameError(
                f"The suite {self.suite.name!r} has patterns of metrics ({list_names(unmatched)}), and none of them "
                f"matches a key, so there are no metrics.{near} Keys: {list_names(unused_keys)}."
            )
        if unmatched:
            self._report.add_names("patterns of metrics that match no key", unmatched)
        return collect_metrics(by_table)

    def _keys(self, number: int, opening: _OpenedTables) -> Sequence[str]:
        """Return the keys of a table that may be metrics."""
        table, opened = self._tables[number], opening.opened[number]
        if table.value is not None:
            return opening.keys[number]
        columns = dict.fromkeys(name for file in opened for name in metric_columns(file.content))
        if table.metrics is not None:
            return list(columns)
        kinds: dict[str, set[str]] = {}
        for of_file in read_together(opened, lambda file: file.content.kinds()):
            for column, kind in of_file.items():
                kinds.setdefault(column, set()).add(kind)
        numbers = [column for column in columns if kinds[column] - {"empty"} == {"number"}]
        # pandas writes an unnamed index, which only numbers the rows, under such a name.
        return [column for column in numbers if not _INDEX.fullmatch(column)]
