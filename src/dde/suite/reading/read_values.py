"""Read values of metrics at the rows of declared runs, one column of the files that have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dde.array_types import Bool, Float64, Int64
from dde.cache.memory import Memory
from dde.errors import ConflictWarning, warn, warn_caller
from dde.sources.arrow_columns import Numbers
from dde.suite.reading.declared_runs import DeclaredRuns, Report, RowSources
from dde.suite.reading.result_files import ParsedNumbers, ResultsFile
from dde.suite.reading.row_values import OpenedFile, read_together

__all__ = ["ValueReader"]


_MEMORY_BYTES = 64 << 20
# Marks columns with texts for which a warning was given.
_WARNED = (-1, -1)
_REMEDY = "Write numbers there, or leave missing values empty; or remove the column from metrics=."


class ValueReader:
    """Reader of the values of metrics.

    Parameters
    ----------
    opened : sequence of sequences of OpenedFile
        Files of each declared table.
    keys : sequence of tuples of str
        Keys of each long table; () for wide ones.
    value_columns : sequence of str or None
        Column of the values of each long table; None for wide ones.
    report : Report
        Receives values that are not numbers, or that differ.
    """

    def __init__(
        self,
        opened: Sequence[Sequence[OpenedFile]],
        keys: Sequence[Sequence[str]],
        value_columns: Sequence[str | None],
        report: Report,
    ) -> None:
        self._opened = opened
        self._keys = keys
        self._value_columns = value_columns
        self._report = report
        # Chunks of runs are read one after the other, and a file has the rows of many runs.
        self._memory = Memory(_MEMORY_BYTES)
        self._reported: dict[tuple[str, int, int], set[int]] = {}
        self._read_once: set[str] = set()
        # Number of rows with a text, and of all rows, by column and file, until a warning is given.
        self._texts: dict[tuple[str, str], tuple[int, int]] = {}
        self._blocks: dict[int, tuple[Mapping[str, Float64], Int64] | None] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_memory": None, "_blocks": {}}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._memory = Memory(_MEMORY_BYTES)

    def fill(
        self,
        found: Mapping[str, Float64],
        keys: Mapping[str, str],
        runs: DeclaredRuns,
        sources: RowSources,
        chosen: Bool | None,
        others: Sequence[str] = (),
    ) -> None:
        """Write the values of one table to those positions of runs that have none yet.

        Parameters
        ----------
        found : mapping of str to (row,) float64 array
            Values by metric; changed in place.
        keys : mapping of str to str
            Key of each metric in the table.
        runs : DeclaredRuns
        sources : RowSources
            Rows of the table.
        chosen : (run,) bool array or None
            Runs whose values are requested; None for all.
        others : sequence of str
            Keys of the metrics that may be requested next.

        Raises
        ------
        SourceError, FormatError
            When a file can't be read, is damaged, or has changed since it was opened.

        Warns
        -----
        ConflictWarning
            When rows of one run and step have different values; the first is used.
        DdeWarning
            When a row holds a text that is not a number, once for each column.
        """
        value_column = self._value_columns[sources.table]
        at = np.arange(len(sources.row)) if chosen is None else np.flatnonzero(chosen[sources.run])
        columns = list(keys.values()) if value_column is None else [value_column]
        read, starts = self._read(sources, np.unique(sources.file[at]).tolist(), columns, others)
        at = at[starts[sources.file[at]] >= 0]
        place = starts[sources.file[at]] + sources.row[at]
        for metric, key in keys.items():
            column = value_column or key
            self._warn_of_texts(column)
            if column not in read:
                continue
            values, rows = read[column][place], at
            if sources.key is not None:
                is_key = sources.key[at] == self._keys[sources.table].index(key)
                values, rows = values[is_key], at[is_key]
            self._put(found[metric], values, rows, metric, runs, sources)

    def _warn_of_texts(self, column: str) -> None:
        """Warn once of texts in a requested column: the curve through the other rows would look plausible."""
        found = {key: self._texts.get(key) for key in list(self._texts) if key[0] == column}
        if not found or any(counts == _WARNED for counts in found.values()):
            return
        counts = [c for c in found.values() if c is not None]
        file = next(iter(found))[1]
        self._texts.update(dict.fromkeys(found, _WARNED))
        warn_caller(
            f"the column {column!r} has texts that are not numbers, in {sum(c for c, _ in counts)} of "
            f"{sum(n for _, n in counts)} rows of {file}{f' and {len(counts) - 1} more' if len(counts) > 1 else ''}, "
            f"so these rows have no value. {_REMEDY}"
        )

    def _read(
        self, sources: RowSources, files: Sequence[int], columns: Sequence[str], others: Sequence[str]
    ) -> tuple[Mapping[str, Float64], Int64]:
        """Return columns of files, one file after the other, and the first row of each file; -1 if without them."""
        opened = self._opened[sources.table]
        block = self._block(sources.table)
        if block is not None:
            return block
        # Text is parsed completely even for one column, so a second request reads all columns that fit into memory.
        fits = len(sources.row) * len(others) * 8 <= _MEMORY_BYTES // 2
        next_columns = others if fits and self._value_columns[sources.table] is None else ()
        parts = read_together([opened[n] for n in files], lambda file: self._columns(file, columns, next_columns))
        read = {n: found for n, found in zip(files, parts, strict=True) if found}
        lengths = [len(next(iter(of_file.values()))) for of_file in read.values()]
        starts = np.full(len(opened), -1, np.int64)
        starts[list(read)] = np.cumsum([0, *lengths])[:-1]
        joined: dict[str, Float64] = {}
        for column in columns:
            pieces = [
                of_file[column] if column in of_file else np.full(length, np.nan)
                for of_file, length in zip(read.values(), lengths, strict=True)
            ]
            joined[column] = np.concatenate([np.empty(0), *pieces])
        return joined, starts

    def _block(self, table: int) -> tuple[Mapping[str, Float64], Int64] | None:
        """Return the columns of all result files of a table, joined once: there are many, of about one row each."""
        if table not in self._blocks:
            contents = [file.content for file in self._opened[table]]
            results = [content.parsed for content in contents if isinstance(content, ResultsFile)]
            self._blocks[table] = _joined(results) if len(results) == len(contents) else None
        return self._blocks[table]

    def _put(
        self,
        into: Float64,
        values: Float64,
        at: npt.NDArray[np.int64],
        metric: str,
        runs: DeclaredRuns,
        sources: RowSources,
    ) -> None:
        """Write values of rows to their positions in `into`; report those that differ from the first value there."""
        is_number = ~np.isnan(values)
        values, at = values[is_number], at[is_number]
        position = sources.position[at]
        free = np.isnan(into[position])
        # NumPy keeps the last assignment to a repeated position; reversed, that is the first row.
        into[position[free][::-1]] = values[free][::-1]
        if sources.is_unique and free.all():
            return
        differing = np.flatnonzero(values != into[position])
        # A run may be requested again together with other runs; it is reported once.
        known = self._reported.setdefault((metric, runs.table, sources.table), set())
        of_run = sources.run[at[differing]]
        new = np.array([run not in known for run in of_run.tolist()], np.bool_)
        differing = differing[new] if len(new) else differing
        if not len(differing):
            return
        known.update(of_run.tolist())
        row = int(differing[0])
        run_id = runs.run_ids[int(sources.run[at[row]])]
        text = (
            f"{len(differing)} values of {metric} differ from the first value of their run and step, such as run "
            f"{run_id!r} at step {int(runs.step[position[row]])}: {float(into[position[row]])!r}, "
            f"{float(values[row])!r}; the first is used"
        )
        self._report.add(f"values of {metric} that differ from the first of their step", len(differing), text)
        warn(
            f"{text}. Exclude the other rows with where=, or name the field that tells them apart in run_id= or key=.",
            ConflictWarning,
            stacklevel=4,
        )

    def _columns(self, file: OpenedFile, columns: Sequence[str], next_columns: Sequence[str]) -> dict[str, Float64]:
        """Return the requested columns that a file has, from memory where they were read before."""
        version = "" if file.file is None else file.file.version
        known = frozenset(file.content.columns)
        own = [column for column in dict.fromkeys(columns) if column in known]
        found: dict[str, Float64] = {}
        for column in own:
            cached = self._memory.get((f"{version} {file.name}", column, 0, 0))
            if cached is not None:
                found[column] = cached
        missing = [column for column in own if column not in found]
        if missing and file.content.untyped:
            if (token := f"{version} {file.name}") in self._read_once:
                missing = list(dict.fromkeys([*missing, *(column for column in next_columns if column in known)]))
            self._read_once.add(token)
        for column, numbers in (_numbers(file, missing) if missing else {}).items():
            if column in own:
                found[column] = numbers.values
            self._memory.put((f"{version} {file.name}", column, 0, 0), numbers.values)
            for reason, rows in numbers.problems.items():
                count = int(rows.sum())
                text = f"the column {column!r} of {file.name} {reason} in {count} rows"
                self._report.add(f"values of {column} of which each {reason}", count, text)
                if reason == "is not a number":
                    self._texts.setdefault((column, file.name), (count, len(rows)))
        return found


def _joined(results: Sequence[ParsedNumbers]) -> tuple[Mapping[str, Float64], Int64]:
    places = {column: at for at, column in enumerate(dict.fromkeys(c for parsed in results for c in parsed.columns))}
    starts = np.cumsum([0, *(parsed.values.shape[1] for parsed in results)])
    values = np.full((len(places), int(starts[-1])), np.nan)
    # Most files of a suite have the same results, so their rows are looked up once.
    rows: dict[tuple[str, ...], list[int]] = {}
    for parsed, start, end in zip(results, starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        if parsed.columns not in rows:
            rows[parsed.columns] = [places[column] for column in parsed.columns]
        values[rows[parsed.columns], start:end] = parsed.values
    return {column: values[at] for column, at in places.items()}, starts[:-1].astype(np.int64)


def _numbers(file: OpenedFile, columns: Sequence[str]) -> dict[str, Numbers]:
    if file.file is None:
        return file.content.read_numbers(columns)
    with file.file.unchanged():
        return file.content.read_numbers(columns)
