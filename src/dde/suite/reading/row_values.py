"""Values of the rows of a declared table by name: fields of paths and parsed texts, factors, columns, counters."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dde.array_types import Bool, Float64, Int64
from dde.errors import FormatError, UnknownNameError, list_names, near_names
from dde.native import processors
from dde.sources.arrow_columns import WholeNumbers, read_numbers, read_whole_numbers
from dde.suite.patterns import Pattern
from dde.suite.reading.contents import Columns, Content, arrow_kind, without_null_texts
from dde.suite.reading.fields import Field, encode_array, encode_columns
from dde.suite.reading.suite_files import SuiteFile
from dde.suite.rules import Rule, RuleSource

__all__ = ["OpenedFile", "RowValues", "read_together", "run_together", "whole_numbers_of_rule"]


_MAX_REQUESTS = 16
_Read = TypeVar("_Read")
#: Whole numbers that rules give are exact up to this one.
MOST_EXACT = 2**53


@dataclass(frozen=True, eq=False)
class OpenedFile:
    """A file or frame that a table reads.

    Attributes
    ----------
    content : Content
    file : SuiteFile or None
        None for a frame.
    fields : mapping of str to object
        Fields that the pattern extracted from its path.
    """

    content: Content
    file: SuiteFile | None
    fields: Mapping[str, str | int | float]

    @property
    def name(self) -> str:
        """Name in errors."""
        return self.content.name

    def read(self, columns: Sequence[str]) -> Columns:
        """Return columns; raises SourceError when the file has changed since it was found."""
        if self.file is None:
            return self.content.read(columns)
        with self.file.unchanged():
            return self.content.read(columns)


def run_together(items: Sequence[Any], read: Callable[[Any], Any], *, is_remote: bool) -> list[Any]:
    """Call `read` with each item in threads, and return the results in order; raises the errors of `read`."""
    if len(items) < 2:
        return [read(item) for item in items]
    # Threads that wait for a remote machine may outnumber the processors.
    with ThreadPoolExecutor(_MAX_REQUESTS if is_remote else processors()) as threads:
        return list(threads.map(read, items))


def read_together(opened: Sequence[OpenedFile], read: Callable[[OpenedFile], Any]) -> list[Any]:
    """Call `read` with each file in threads, and return the results in order."""
    return run_together(opened, read, is_remote=any(f.file is not None and f.file.is_remote for f in opened))


class RowValues(Mapping[str, Any]):
    """Values of rows by name, as arrays for rules; columns are read on first use.

    Parameters
    ----------
    opened : sequence of OpenedFile
    what : str
        Name of the table in errors: ``"tables[2]"``.
    factors : mapping of str to rule
        Rules of the table's factors.

    Notes
    -----
    A name means the field of a path or of a parsed text, else a factor, else a column. Within the rule of a factor,
    the factor's own name means the column.
    """

    def __init__(self, opened: Sequence[OpenedFile], what: str, factors: Mapping[str, RuleSource]) -> None:
        self.opened = opened
        self.what = what
        self._factors = dict(factors)
        self._columns: dict[str, list[pa.ChunkedArray | None]] = {}
        self._lengths: list[int] = []
        self._index: Int64 | None = None
        self._made: dict[str, Field] = {}
        self._fields: dict[str, Field] = {}
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self._resolving: set[str] = set()
        self._counters: dict[str, Int64] = {}
        self._column_names: frozenset[str] = frozenset(name for file in opened for name in file.content.columns)
        self._path_names = tuple(dict.fromkeys(name for file in opened for name in file.fields))

    # Rows

    def load(self, names: Sequence[str]) -> None:
        """Read columns that were not read yet; the first call determines the number of rows."""
        requested = [name for name in dict.fromkeys(names) if name in self._column_names and name not in self._columns]
        is_first = not self._lengths
        if not requested and not is_first:
            return

        def read(file: OpenedFile) -> tuple[Columns, int]:
            own = [name for name in requested if name in file.content.columns]
            counted = file.content.n_rows
            if counted is None and not own and is_first:
                own = list(file.content.columns[:1])
            found = file.read(own) if own else {}
            if counted is None:
                counted = len(next(iter(found.values()))) if found else 0
            return found, counted

        results = read_together(self.opened, read)
        if is_first:
            self._lengths = [length for _, length in results]
        for name in requested:
            self._columns[name] = [found.get(name) for found, _ in results]

    @property
    def n_rows(self) -> int:
        """Number of selected rows."""
        return sum(self._lengths) if self._index is None else len(self._index)

    @property
    def n_read(self) -> int:
        """Number of rows of all files."""
        return sum(self._lengths)

    @property
    def lengths(self) -> Sequence[int]:
        """Number of rows of each file."""
        return tuple(self._lengths)

    @property
    def index(self) -> Int64:
        """Numbers of the selected rows, counted through all files."""
        return np.arange(self.n_read) if self._index is None else self._index

    def select(self, rows: Bool) -> None:
        """Select rows among those selected now."""
        if rows.all():
            return
        self._index = self.index[rows]
        self._fields = {name: field.take(rows) for name, field in self._fields.items()}
        self._arrays = {name: array[rows] for name, array in self._arrays.items()}
        self._counters = {name: values[rows] for name, values in self._counters.items()}

    def sources(self) -> tuple[npt.NDArray[np.int32], Int64]:
        """Return the file of each selected row, and its row there."""
        lengths = np.array(self._lengths, np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        index = self.index
        file = np.searchsorted(starts, index, side="right") - 1
        return file.astype(np.int32), index - starts[file]

    def describe_row(self, row: int) -> str:
        """Return the name of a selected row in errors."""
        file, at = (int(values[row]) for values in self.sources())
        return f"row {at} of {self.opened[file].name}"

    # Names

    def __contains__(self, name: object) -> bool:
        return (
            name in self._made
            or name in self._path_names
            or name in self._factors
            or name in self._column_names
            or name in self._counters
        )

    def __iter__(self) -> Iterator[str]:
        return iter(
            dict.fromkeys(
                [*self._path_names, *self._made, *self._factors, *sorted(self._column_names), *self._counters]
            )
        )

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if name not in self._arrays:
            self._arrays[name] = self._array(name)
        return self._arrays[name]

    @property
    def declared(self) -> tuple[str, ...]:
        """Names of the fields of paths and parsed texts, and of factors."""
        return tuple(dict.fromkeys([*self._path_names, *self._made, *self._factors]))

    def add_counter(self, name: str, values: Int64) -> None:
        """Make a counter available to rules, unless a field, factor or column has its name."""
        self._counters[name] = values

    def add_parsed(self, column: str, text: str | Pattern) -> Bool:
        """Extract fields from the texts of a column; returns a mask of the rows that match the pattern.

        Raises
        ------
        UnknownNameError
            When no file has the column.
        FormatError
            When two patterns of the table have a field of the same name.
        """
        pattern = text if isinstance(text, Pattern) else Pattern(text, f"{self.what}.parse[{column!r}]")
        if column in self._path_names:
            source = self._field_of_path(column)
        else:
            self._require(column, f"{self.what}.parse")
            source = self._field_of_column(column)
        texts = [value if isinstance(value, str) else str(value) for value in source.values]
        matches = [pattern.match(value) for value in texts]
        codes = np.append(np.array([match is not None for match in matches], np.bool_), False)
        for name in pattern.fields:
            if name in self._made or name in self._path_names:
                raise FormatError(
                    f"{self.what} extracts the field {name!r} from {column!r} and from another text, so the field is "
                    "ambiguous. Give one of them another name."
                )
            code_of: dict[str | int | float, int] = {}
            of_text = [
                -1 if match is None or match[name] == "" else code_of.setdefault(match[name], len(code_of))
                for match in matches
            ]
            self._made[name] = Field(np.array([*of_text, -1], np.int64)[source.codes], tuple(code_of))
        return np.asarray(codes[source.codes])[self.index]

    def field(self, name: str) -> Field:
        """Return the values of a name as a field of the selected rows.

        Raises
        ------
        UnknownNameError
            When the name is unknown.
        """
        if name not in self._fields:
            if name in self._made:
                found = self._made[name].take(self.index)
            elif name in self._path_names:
                found = self._field_of_path(name).take(self.index)
            elif name in self._factors and name not in self._resolving:
                found = self._factor(name)
            elif name in self._column_names:
                # Within the rule of a factor, its own name means the column; elsewhere, it means the factor. Therefore
                # the column is not cached under the name.
                column = self._field_of_column(name).take(self.index)
                if name in self._factors:
                    return column
                found = column
            elif name in self._counters:
                found = encode_array(self._counters[name], self.n_rows)
            elif name in self._resolving:
                raise FormatError(
                    f"{self.what}: the rules of the factors {', '.join(sorted(self._resolving))} need each other, so "
                    "none has a value. Define one of them by columns only."
                )
            else:
                raise self._unknown(name, "a template or rule")
            self._fields[name] = found
        return self._fields[name]

    def whole_numbers(self, name: str) -> WholeNumbers:
        """Return the values of a name as non-negative whole numbers."""
        is_column = name not in self._made and name not in self._path_names and name not in self._factors
        if not is_column or name not in self._column_names:
            return whole_numbers_of_rule(self[name], self.n_rows, name, self)
        parts = self._read_joined(name, _whole_numbers)
        index = self.index
        values = np.concatenate([np.empty(0, np.int64), *(part.values for part in parts)])[index]
        reasons = dict.fromkeys(reason for part in parts for reason in part.problems)
        problems = {
            reason: np.concatenate([p.problems.get(reason, np.zeros(len(p.values), np.bool_)) for p in parts])[index]
            for reason in reasons
        }
        return WholeNumbers(values, {reason: rows for reason, rows in problems.items() if rows.any()})

    def require_all(self, names: Collection[str], what: str) -> None:
        """Raise FormatError where a file has no column that others have: its rows would have no position."""
        requested = sorted(name for name in names if name in self._column_names and name not in self.declared)
        for file in self.opened:
            missing = [name for name in requested if name not in file.content.columns]
            if missing and file.content.columns:
                raise FormatError(
                    f"{file.name} has no column {missing[0]!r}, which {what} names, so the position of its rows is "
                    f"unknown.{near_names(missing[0], file.content.columns)} Narrow the pattern of the table to files "
                    "that have it, or give the others a table of their own."
                )

    def evaluate(self, source: RuleSource, what: str) -> Any:
        """Return the result of a rule for the selected rows: an array, or one value for all."""
        if isinstance(source, str) and source in self:
            return self[source]
        rule = Rule(source, what=what)
        if rule.is_function:
            return rule.evaluate(self)
        rule = rule.bind(list(self))
        self.load([name for name in rule.names if name in self._column_names])
        return rule.evaluate({name: self[name] for name in rule.names})

    def _array(self, name: str) -> npt.NDArray[Any]:
        is_column = (
            name not in self._made
            and name not in self._path_names
            and (name not in self._factors or name in self._resolving)
            and name in self._column_names
        )
        if is_column:
            self.load([name])
            numbers = self._numbers_of_column(name)
            if numbers is not None:
                return numbers[self.index]
        if name not in self:
            raise self._unknown(name, "a rule")
        if not is_column and name in self._counters and name not in self.declared:
            return self._counters[name]
        return self.field(name).array()

    def _numbers_of_column(self, name: str) -> Float64 | None:
        """Return a column as numbers; None where it holds a text."""
        parts = self._read_joined(name, _numbers_or_none)
        known = [part for part in parts if part is not None]
        return np.concatenate([np.empty(0), *known]) if len(known) == len(parts) else None

    def _read_joined(self, name: str, read: Callable[[pa.ChunkedArray, bool, str], _Read]) -> list[_Read]:
        """Return the results of `read` for a column, in the order of rows; neighboring files of one type are joined.

        Where that fails, each file is read alone, so that the error names it.
        """
        self.load([name])
        found: list[_Read] = []
        for group in self._groups(name):
            columns = [pa.chunked_array([pa.nulls(length)]) if c is None else c for c, length, _ in group]
            chunks = [chunk for column in columns for chunk in column.chunks]
            untyped = group[0][2].content.untyped and group[0][0] is not None
            try:
                describe_row = f"the column {name!r} of {group[0][2].name}"
                found.append(read(pa.chunked_array(chunks, columns[0].type), untyped, describe_row))
            except FormatError:
                if len(group) == 1:
                    raise
                for column, (_, _, file) in zip(columns, group, strict=True):
                    found.append(read(column, untyped, f"the column {name!r} of {file.name}"))
        return found

    def _groups(self, name: str) -> list[list[tuple[pa.ChunkedArray | None, int, OpenedFile]]]:
        """Return column, number of rows and file, grouped by neighboring files whose columns have one type."""
        found = zip(self._columns[name], self._lengths, self.opened, strict=True)
        groups = itertools.groupby(found, lambda item: (item[0] is None or str(item[0].type), item[2].content.untyped))
        return [list(group) for _, group in groups]

    def _factor(self, name: str) -> Field:
        source = self._factors[name]
        self._resolving.add(name)
        try:
            if isinstance(source, str) and source in self and (source != name or name in self._column_names):
                return self.field(source)
            return encode_array(self.evaluate(source, f"{self.what}.factors[{name!r}]"), self.n_rows)
        finally:
            self._resolving.discard(name)
            # While the rule ran, its own name meant the column.
            self._arrays.pop(name, None)

    def _field_of_path(self, name: str) -> Field:
        code_of: dict[str | int | float, int] = {}
        values = (file.fields.get(name, "") for file in self.opened)
        codes = [-1 if value == "" else code_of.setdefault(value, len(code_of)) for value in values]
        return Field(np.repeat(np.array(codes, np.int64), self._lengths), tuple(code_of))

    def _field_of_column(self, name: str) -> Field:
        """Return a column as a field of all rows, selected or not."""
        self.load([name])
        columns: list[pa.ChunkedArray | None] = []
        lengths, untyped, names = [], [], []
        for group in self._groups(name):
            chunks = [chunk for column, _, _ in group if column is not None for chunk in column.chunks]
            columns.append(None if group[0][0] is None else pa.chunked_array(chunks, group[0][0].type))
            lengths.append(sum(length for _, length, _ in group))
            untyped.append(group[0][2].content.untyped)
            names.append(f"the column {name!r} of {group[0][2].name}")
        try:
            return encode_columns(columns, lengths, untyped, names)
        except FormatError:
            # Each file alone, so that the error names it.
            return encode_columns(
                self._columns[name],
                self._lengths,
                [file.content.untyped for file in self.opened],
                [f"the column {name!r} of {file.name}" for file in self.opened],
            )

    def _require(self, column: str, what: str) -> None:
        if column not in self._column_names:
            raise UnknownNameError(
                f"{what} names the column {column!r}, and no file of the table has it, so its rows can't be selected."
                f"{near_names(column, self._column_names)} Columns: {list_names(sorted(self._column_names), 20)}."
            )

    def _unknown(self, name: str, what: str) -> UnknownNameError:
        return UnknownNameError(
            f"{self.what}: {what} names {name!r}, which is neither a field of a path or parsed text, a factor nor a "
            f"column, so it has no value.{near_names(name, list(self))} Names: {list_names(sorted(self), 20)}."
        )


def whole_numbers_of_rule(values: Any, n_rows: int, what: str, rows: RowValues) -> WholeNumbers:
    """Return the result of a rule as whole numbers; -1 where a row has no value.

    Raises
    ------
    FormatError
        When a number is not whole, is below 0 or above 2**53; names the first such row.
    """
    found = np.broadcast_to(np.asarray(values), (n_rows,))
    if found.dtype.kind not in "biuf":
        raise FormatError(
            f"{rows.what}: {what!r} gives texts such as {found[0] if n_rows else ''!r}, and a counter is a whole "
            "number. Name a column of numbers, or a rule that makes them."
        )
    numbers = found.astype(np.float64)
    missing = np.isnan(numbers)
    wrong = ~missing & ~((numbers >= 0) & (numbers <= MOST_EXACT) & (np.floor(numbers) == numbers))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        number = float(numbers[row])
        reason = "is below 0" if number < 0 else "is above 2**53" if number > MOST_EXACT else "is not a whole number"
        raise FormatError(
            f"{rows.what}: {what!r} gives {number!r} in {rows.describe_row(row)}, which {reason}, so the position of "
            f"the row is unknown; {int(wrong.sum())} rows have such a value. Correct the rule or the rows, or exclude "
            "them with where=."
        )
    whole_numbers = np.where(missing, -1.0, numbers).astype(np.int64)
    return WholeNumbers(whole_numbers, {"is missing": missing} if missing.any() else {})


def _whole_numbers(column: pa.ChunkedArray, untyped: bool, describe_row: str) -> WholeNumbers:
    if untyped:
        column = without_null_texts(column)
        # Fast path: all texts are integers of int64. Others are parsed one by one.
        with suppress(pa.ArrowInvalid):
            return read_whole_numbers(column.cast(pa.int64()), describe_row)
        if pc.all(pc.match_substring_regex(column, r"^[0-9]{1,15}(\.0*)?$")).as_py():
            return read_whole_numbers(column.cast(pa.float64()), describe_row)
    return read_whole_numbers(column, describe_row)


def _numbers_or_none(column: pa.ChunkedArray, untyped: bool, describe_row: str) -> Float64 | None:
    if not untyped and not _holds_numbers(column.type):
        return None
    found = read_numbers(without_null_texts(column) if untyped else column, describe_row)
    return None if "is not a number" in found.problems else found.values


def _holds_numbers(kind: pa.DataType) -> bool:
    return arrow_kind(kind) in ("number", "empty")
