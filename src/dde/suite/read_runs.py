"""Reading a declared suite: its runs with their positions, its metrics, and the values of a metric at the positions."""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dde.cache.kept_files import cache_place
from dde.cache.places import Place
from dde.errors import ConflictWarning, FormatError, SourceError, UnknownNameError, near_names
from dde.sources.arrow_columns import Numbers
from dde.sources.connection import Connection
from dde.suite.arrow_tables import frame_content
from dde.suite.contents import Content
from dde.suite.declare import Suite, Table
from dde.suite.fields import Field
from dde.suite.formats import PARSED_FORMATS, file_format, open_content, parse_file
from dde.suite.metric_keys import MetricSource, collect_metrics, match_keys
from dde.suite.parsed_cache import FileKey, ParsedCache
from dde.suite.patterns import Pattern, Template
from dde.suite.result_files import ParsedNumbers, ResultsFile, with_keys
from dde.suite.row_values import OpenedFile, read_together
from dde.suite.run_values import (
    Parent,
    RunValues,
    first_and_last,
    numbers_of_runs,
    parents_of_runs,
    settle_fields,
    shared_differences,
)
from dde.suite.suite_files import Listing, SuiteFile, read_versions
from dde.suite.table_rows import TableRows, names_in_table, read_table

__all__ = ["DeclaredRuns", "SuiteTables"]

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Objects = npt.NDArray[np.object_]

_MOST_SHOWN = 5


@dataclass(eq=False)
class _Opening:
    """What opening the tables found."""

    opened: list[list[OpenedFile]]
    rows: list[TableRows]
    runs: list[DeclaredRuns]
    keys: list[tuple[str, ...]]
    used: list[frozenset[str]]
    factors: frozenset[str]


class SuiteTables:
    """The files or frames of a declared suite.

    Parameters
    ----------
    suite : Suite
    root : str or path, optional
        Folder or URL below which the patterns name files; by default the suite's own. Frames need none.
    cache_dir : str, path or Place, optional
        Folder or URL that keeps the numbers of parsed result files; None for none.

    Attributes
    ----------
    suite : Suite
    left_out : dict of str to int
        Files and rows that belong to no run, by reason. Rows are counted once `runs` was called.
    notes : list of str
        What was left out or is doubtful, as sentences.

    Raises
    ------
    SourceError
        When a folder is absent or can't be listed, or no pattern of the suite names any file.

    Notes
    -----
    Opening reads the columns alone that place rows and name runs; a metric reads its own column of the files that hold
    it. Instances pickle; threads may share one.

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
        self.left_out: dict[str, int] = {}
        self.notes: list[str] = []
        self._tables = [suite.resolved(table) for table in suite.tables]
        self._lock = threading.RLock()
        self._opening: _Opening | None = None
        self._metrics: dict[str, MetricSource] | None = None
        self._reported: set[tuple[str, int, int]] = set()
        self._frames: dict[int, Content] = {}
        where = suite.root if root is None else root
        needs_root = any(not table.is_frame for table in self._tables)
        self._place = None if where is None or not needs_root else Connection(where)
        if needs_root and self._place is None:
            raise SourceError(
                f"The suite {suite.name!r} names files by patterns, and there is no folder to search, so it has no rows. "
                "Pass the folder or URL of its files, or declare root=."
            )
        self._files = self._find_files()
        self._cache: Place | None = cache_place(cache_dir, "results", self.location if self._place else "")

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    @property
    def location(self) -> str:
        """Folder or URL of the files, without credentials; "" where all tables are frames."""
        return "" if self._place is None else self._place.location

    @property
    def description(self) -> str:
        """What is read, for people and attributes; without credentials."""
        return f"suite {self.suite.name}" + (f" at {self._place.redacted}" if self._place is not None else "")

    @property
    def fingerprint(self) -> str:
        """Digest of the declaration and of the versions of all files, or the content of all frames."""
        digest = hashlib.sha256(self.suite.digest.encode())
        for number, table in enumerate(self._tables):
            for file, fields in self._files[number]:
                digest.update(repr((number, file.name, file.version, sorted(fields.items()))).encode())
            if table.is_frame:
                digest.update(_frame_digest(self._frame(number)))
        return digest.hexdigest()[:16]

    def runs(self) -> list[DeclaredRuns]:
        """Return the runs of each declared table; reads the columns alone that place rows and name runs.

        Raises
        ------
        FormatError
            When a file is damaged, ids do not tell runs apart, or a counter is no whole number; names file and row.
        UnknownNameError
            When a template or rule names what no file has.
        SourceError
            When a file can't be read.

        Warns
        -----
        ConflictWarning
            When rows of one run and step have different tokens; the first is kept.
        """
        return list(self._open().runs)

    def metrics(self) -> dict[str, MetricSource]:
        """Return the metrics of the suite, by name.

        Raises
        ------
        FormatError
            When two keys become one name, or two tables say different things of it.
        """
        opening = self._open()
        with self._lock:
            if self._metrics is None:
                self._metrics = collect_metrics(
                    [
                        match_keys(
                            self._keys(number, opening),
                            table.metrics,
                            used=opening.used[number],
                            factors=opening.factors,
                            what=f"tables[{number}]",
                        )
                        for number, table in enumerate(self._tables)
                    ]
                )
            return dict(self._metrics)

    def values(self, metric: str, runs: DeclaredRuns, which: Sequence[int] | None = None) -> Float64:
        """Return the values of a metric at the rows of runs, NaN where their files lack it.

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
            Aligned with the rows of these runs, one run behind the other.

        Raises
        ------
        UnknownNameError
            When there is no such metric.

        Warns
        -----
        ConflictWarning
            When rows of one run and step have different values; the first is kept.
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
        wanted = list(dict.fromkeys(metrics))
        found = {metric: np.full(len(runs.step), np.nan) for metric in wanted}
        chosen = None if which is None else np.zeros(len(runs.run_ids), np.bool_)
        if chosen is not None:
            chosen[list(which or ())] = True
        for sources in runs.sources:
            keys = {metric: key for metric in wanted if (key := known[metric].keys[sources.table])}
            if keys:
                self._fill(found, keys, runs, sources, chosen)
        if which is None:
            return found
        rows = [np.arange(runs.row_offsets[run], runs.row_offsets[run + 1]) for run in which]
        at = np.concatenate([np.empty(0, np.int64), *rows])
        return {metric: values[at] for metric, values in found.items()}

    # Files

    def _find_files(self) -> list[list[tuple[SuiteFile, dict[str, str | int | float]]]]:
        """Return the files of each table, and the fields of their paths."""
        found: list[list[tuple[SuiteFile, dict[str, str | int | float]]]] = [[] for _ in self._tables]
        if self._place is None:
            return found
        listing = Listing(self._place)
        names: dict[str, list[tuple[int, dict[str, str | int | float]]]] = {}
        for number, table in enumerate(self._tables):
            for pattern in table.patterns:
                matches = self._match(listing, pattern, number)
                for name, fields in matches.items():
                    others = names.setdefault(name, [])
                    if all(other != number for other, _ in others):
                        others.append((number, fields))
                if not matches:
                    self.notes.append(f"the pattern {pattern.text!r} of tables[{number}] names no file")
        if not names:
            patterns = [pattern.text for table in self._tables for pattern in table.patterns]
            raise SourceError(
                f"{self._place.redacted!r} holds no file that a pattern of the suite {self.suite.name!r} names, such as "
                f"{patterns[0]!r}. So there is nothing to open. Pass the folder below which the patterns begin, or "
                "correct them."
            )
        versions = read_versions(listing, names)
        for name in sorted(names):
            for number, fields in names[name]:
                found[number].append((listing.file(name, versions[name]), fields))
        listing.take(names)
        self._report_unmatched(*listing.unmatched())
        return found

    @staticmethod
    def _match(listing: Listing, pattern: Pattern, number: int) -> dict[str, dict[str, str | int | float]]:
        matches = ((name, pattern.match(name)) for name in listing.find(pattern.glob()))
        return {name: fields for name, fields in matches if fields is not None}

    def _report_unmatched(self, files: Sequence[str], folders: Sequence[str]) -> None:
        for what, names in (("files", files), ("folders", folders)):
            if names:
                reason = f"{what} that no pattern names"
                self.left_out[reason] = len(names)
                self.notes.append(f"{len(names)} {reason}: {_shown(names)}")

    def _frame(self, number: int) -> Content:
        frame = self._tables[number].files
        if id(frame) not in self._frames:
            self._frames[id(frame)] = frame_content(frame, f"the frame of tables[{number}]")
        return self._frames[id(frame)]

    # Opening

    def _open(self) -> _Opening:
        with self._lock:
            if self._opening is None:
                opened = self._open_files()
                self._opening = self._read_tables(opened)
            return self._opening

    def _open_files(self) -> list[list[OpenedFile]]:
        kinds: dict[tuple[str, str], SuiteFile] = {}
        wanted: list[list[tuple[str, str]]] = []
        for number, table in enumerate(self._tables):
            of_table = [(file.name, file_format(file.name, table.format)) for file, _ in self._files[number]]
            wanted.append(of_table)
            kinds.update(
                {key: file for key, (file, _) in zip(of_table, self._files[number], strict=True) if key not in kinds}
            )
        parsed = self._parse({key: file for key, file in kinds.items() if key[1] in PARSED_FORMATS})
        plain = {key: file for key, file in kinds.items() if key[1] not in PARSED_FORMATS}
        contents = dict(zip(plain, _together(list(plain.items()), _open_one), strict=True))
        opened: list[list[OpenedFile]] = []
        for number, table in enumerate(self._tables):
            if table.is_frame:
                opened.append([OpenedFile(self._frame(number), None, {})])
                continue
            make_key = Template(table.key or "{task}/{metric}", f"tables[{number}].key").format
            made_keys: dict[tuple[str, ...], tuple[str, ...]] = {}
            of_files: list[OpenedFile] = []
            for key, (file, fields) in zip(wanted[number], self._files[number], strict=True):
                if key in contents:
                    of_files.append(OpenedFile(contents[key], file, fields))
                    continue
                numbers = parsed[key]
                if key[1] == "lm_eval":
                    # Most files of a suite have the same results.
                    if numbers.columns not in made_keys:
                        made_keys[numbers.columns] = with_keys(numbers, make_key, file.path).columns
                    numbers = ParsedNumbers(made_keys[numbers.columns], numbers.values, numbers.notes)
                of_files.append(OpenedFile(ResultsFile(file.path, numbers), file, fields))
            opened.append(of_files)
        return opened

    def _parse(self, files: Mapping[tuple[str, str], SuiteFile]) -> dict[tuple[str, str], ParsedNumbers]:
        """Return the numbers of result files: what the cache keeps of these versions, else parsed."""
        if not files:
            return {}
        cache = None if self._cache is None else ParsedCache(self._cache)
        kept = {} if cache is None else cache.load()
        keys: dict[tuple[str, str], FileKey] = {key: (key[0], file.version, key[1]) for key, file in files.items()}
        lacking = [(key, file) for key, file in files.items() if keys[key] not in kept]
        parsed = dict(zip((key for key, _ in lacking), _together(lacking, _parse_one), strict=True))
        found = {key: parsed[key] if key in parsed else kept[keys[key]] for key in files}
        if cache is not None and (parsed or len(kept) != len(found)):
            cache.save({keys[key]: numbers for key, numbers in found.items()})
        self.notes += dict.fromkeys(note for numbers in found.values() for note in numbers.notes)
        return found

    def _read_tables(self, opened: list[list[OpenedFile]]) -> _Opening:
        tables = [self._expanded(table, opened[number]) for number, table in enumerate(self._tables)]
        columns = [frozenset(name for file in of_table for name in file.content.columns) for of_table in opened]
        lacking = self.suite.check_fields(
            [columns[number] | table.declared_fields for number, table in enumerate(tables)]
        )
        rows: list[TableRows] = []
        keys: list[tuple[str, ...]] = []
        used_of: list[frozenset[str]] = []
        taken: dict[str, Bool] = {}
        for number, table in enumerate(tables):
            labels = (self.suite.lineage, self.suite.run_template(table.run_type).text)
            used, named = names_in_table(table, labels, self.suite.replicate)
            of_table, takes = read_table(
                table, opened[number], f"tables[{number}]", used=used, named=named, lacking=lacking[number]
            )
            for file, mask in takes:
                name = opened[number][file].name
                taken[name] = taken[name] | mask if name in taken else mask
            rows.append(of_table)
            keys.append(of_table.keys)
            used_of.append(used & columns[number])
            for reason, count in of_table.left_out.items():
                self.left_out[f"{reason}, in tables[{number}]"] = count
                self.notes.append(f"{count} {reason} in tables[{number}] are left out")
            if not len(of_table.run) and opened[number]:
                self.notes.append(f"tables[{number}] has no rows in its {len(opened[number])} files")
        no_table = {name: int((~mask).sum()) for name, mask in taken.items() if not mask.all()}
        if no_table:
            count = sum(no_table.values())
            self.left_out["rows that belong to no table"] = count
            self.notes.append(
                f"{count} rows that belong to no table: {_shown([f'{n} of {f}' for f, n in no_table.items()])}"
            )
        fields = [settle_fields(of_table, self.notes) for of_table in rows]
        runs = self._join(rows, fields)
        factors = frozenset(name for of_table in fields for name in of_table)
        return _Opening(opened, [], runs, keys, used_of, factors)

    def _expanded(self, table: Table, opened: Sequence[OpenedFile]) -> Table:
        """Return a table whose run id names fields alone, where its template names the labels."""
        if table.run_id is None:
            return table
        labels = {"lineage": self.suite.lineage, "run": self.suite.run_template(table.run_type).text}
        columns = {name for file in opened for name in file.content.columns}
        made = table.run_id
        for label, text in labels.items():
            if label not in columns and label in Template(made).fields:
                made = made.replace("{" + label + "}", text)
        import dataclasses

        return table if made == table.run_id else dataclasses.replace(table, run_id=made)

    # Values

    def _keys(self, number: int, opening: _Opening) -> Sequence[str]:
        table = self._tables[number]
        if table.value is not None:
            return opening.keys[number]
        opened = opening.opened[number]
        columns = dict.fromkeys(name for file in opened for name in file.content.columns)
        if table.metrics is not None:
            return list(columns)
        kinds: dict[str, set[str]] = {}
        for of_file in read_together(opened, lambda file: file.content.kinds()):
            for column, kind in of_file.items():
                kinds.setdefault(column, set()).add(kind)
        return [column for column in columns if kinds.get(column, set()) - {"empty"} == {"number"}]

    def _fill(
        self,
        found: dict[str, Float64],
        keys: Mapping[str, str],
        runs: DeclaredRuns,
        sources: RowSources,
        chosen: Bool | None,
    ) -> None:
        """Put the values that one table has at the positions of runs that have none yet."""
        table, opening = self._tables[sources.table], self._open()
        opened = opening.opened[sources.table]
        at = np.arange(len(sources.row)) if chosen is None else np.flatnonzero(chosen[sources.run])
        if not len(at):
            return
        columns = [table.value] if table.value is not None else list(keys.values())
        file = sources.file[at]
        wanted = np.unique(file).tolist()
        contents = [opened[number] for number in wanted]
        read = read_together(contents, lambda of_file: _numbers(of_file, [c for c in columns if c is not None]))
        lengths = {
            n: len(next(iter(numbers.values())).values) for n, numbers in zip(wanted, read, strict=True) if numbers
        }
        starts = np.zeros(len(opened), np.int64)
        known = [n for n in wanted if n in lengths]
        starts[known] = np.cumsum([0, *(lengths[n] for n in known)])[:-1]
        has_rows = np.isin(file, known)
        place = (starts[file] + sources.row[at])[has_rows]
        at = at[has_rows]
        for metric, key in keys.items():
            column = key if table.value is None else table.value
            parts = [numbers[column].values if column in numbers else np.full(lengths[n], np.nan)
                     for n, numbers in zip(wanted, read, strict=True) if n in lengths]  # fmt: skip
            values = np.concatenate([np.empty(0), *parts])[place]
            rows = at
            if table.value is not None and sources.key is not None:
                is_key = sources.key[at] == opening.keys[sources.table].index(key)
                values, rows = values[is_key], at[is_key]
            self._report_no_numbers(metric, column, wanted, read, opened)
            self._put(found[metric], values, rows, metric, runs, sources)

    def _put(
        self, into: Float64, values: Float64, at: Int64, metric: str, runs: DeclaredRuns, sources: RowSources
    ) -> None:
        is_number = ~np.isnan(values)
        values, at = values[is_number], at[is_number]
        position = sources.position[at]
        before = into[position]
        free = np.isnan(before)
        # Of repeated positions the last assignment stays, and the first row counts.
        into[position[free][::-1]] = values[free][::-1]
        if sources.is_unique and free.all():
            return
        differing = np.flatnonzero(values != into[position])
        report = (metric, runs.table, sources.table)
        if not len(differing) or report in self._reported:
            return
        self._reported.add(report)
        row = int(differing[0])
        run_id = runs.run_ids[int(sources.run[at[row]])]
        text = (
            f"{len(differing)} values of {metric} differ from the first value of their run and step, such as run "
            f"{run_id!r} at step {int(runs.step[position[row]])}: {into[position[row]]!r}, {values[row]!r}; the first is "
            "kept"
        )
        reason = f"values of {metric} that differ from the first of their step"
        self.left_out[reason] = self.left_out.get(reason, 0) + len(differing)
        self.notes.append(text)
        _warn_conflict(f"{text}. Leave the other rows out by where=, or name what tells them apart in run_id= or key=.")

    def _report_no_numbers(
        self,
        metric: str,
        column: str,
        wanted: Sequence[int],
        read: Sequence[Mapping[str, Numbers]],
        opened: Sequence[OpenedFile],
    ) -> None:
        for number, numbers in zip(wanted, read, strict=True):
            for reason, rows in (numbers[column].problems if column in numbers else {}).items():
                text = f"{int(rows.sum())} values of the column {column!r} of {opened[number].name}: each {reason}"
                if text not in self.notes:
                    self.notes.append(text)
                    counted = f"values of {metric} of which each {reason}"
                    self.left_out[counted] = self.left_out.get(counted, 0) + int(rows.sum())


def _open_one(item: tuple[tuple[str, str], SuiteFile]) -> Content:
    (_, kind), file = item
    with file.unchanged():
        return open_content(file, kind)


def _parse_one(item: tuple[tuple[str, str], SuiteFile]) -> ParsedNumbers:
    (_, kind), file = item
    with file.unchanged():
        return parse_file(file, kind)


def _numbers(file: OpenedFile, columns: Sequence[str]) -> dict[str, Numbers]:
    known = set(file.content.columns)
    own = [column for column in columns if column in known]
    if not own:
        return {}
    if file.file is None or isinstance(file.content, ResultsFile):
        return file.content.read_numbers(own)
    with file.file.unchanged():
        return file.content.read_numbers(own)


def _together(items: Sequence[Any], read: Callable[[Any], Any]) -> list[Any]:
    from concurrent.futures import ThreadPoolExecutor

    from dde.native import processors

    if len(items) < 2:
        return [read(item) for item in items]
    is_remote = "://" in items[0][1].root.redacted
    with ThreadPoolExecutor(16 if is_remote else processors()) as threads:
        return list(threads.map(read, items))


def _frame_digest(content: Content) -> bytes:
    digest = hashlib.sha256()
    for column in content.columns:
        digest.update(repr(column).encode())
        try:
            table = pa.table({"values": content.read([column])[column]})
        except FormatError as error:
            digest.update(str(error).encode())
            continue
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        digest.update(sink.getvalue())
    return digest.digest()


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_SHOWN]) + (", ..." if len(names) > _MOST_SHOWN else "")


def _warn_conflict(message: str) -> None:
    warnings.warn(message, ConflictWarning, stacklevel=3)
