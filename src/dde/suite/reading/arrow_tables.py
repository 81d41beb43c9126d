"""Columns of parquet files, Arrow files and data frames; each column can be read alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dde.errors import FormatError, SourceError
from dde.sources.arrow_columns import Numbers
from dde.sources.parquet_files import open_parquet
from dde.suite.reading.contents import ColumnKind, Columns, Content, arrow_kind, numbers_of
from dde.suite.reading.suite_files import SuiteFile

__all__ = ["ArrowFile", "Frame", "ParquetFile", "frame_content", "is_frame"]


@dataclass(frozen=True, slots=True)
class _ArrowColumns:
    """A file whose schema gives the types of its columns; subclasses read them."""

    file: SuiteFile
    kinds_by_column: Mapping[str, ColumnKind]

    @property
    def name(self) -> str:
        """Path of the file."""
        return self.file.path

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns."""
        return tuple(self.kinds_by_column)

    def read(self, columns: Sequence[str]) -> Columns:
        """Return columns with the types that their writer gave them."""
        raise NotImplementedError

    def read_numbers(self, columns: Sequence[str]) -> dict[str, Numbers]:
        """Return columns as numbers."""
        return numbers_of(self.read(columns), self.name)

    def kinds(self) -> Mapping[str, ColumnKind]:
        """Return the kind of each column."""
        return self.kinds_by_column


@dataclass(frozen=True, slots=True)
class ParquetFile(_ArrowColumns):
    """A parquet file.

    Parameters
    ----------
    file : SuiteFile
    kinds_by_column : mapping of str to {"number", "text", "empty"}
        Kind of each column, in the order of the file.
    n_rows : int
    """

    n_rows: int

    untyped = False

    @classmethod
    def open(cls, file: SuiteFile) -> ParquetFile:
        """Read the footer of a file.

        Raises
        ------
        FormatError
            When the file is not parquet, or two of its columns have the same name.
        SourceError
            When the file is remote and can't be read.
        """
        with _parquet_reader(file) as parquet:
            return cls(file, _kinds(parquet.schema_arrow, file.path), parquet.metadata.num_rows)

    def read(self, columns: Sequence[str]) -> Columns:
        """Return columns with the types that their writer gave them."""
        known = [column for column in columns if column in self.kinds_by_column]
        with _parquet_reader(self.file) as parquet:
            table = parquet.read(known, use_threads=False)
            return {column: table.column(column) for column in known}


@contextmanager
def _parquet_reader(file: SuiteFile) -> Iterator[pq.ParquetFile]:
    """Open a file as `open_parquet` does; an unreadable file on this machine counts as damaged."""
    try:
        with open_parquet(file) as parquet:
            yield parquet
    except SourceError as error:
        if file.is_remote:
            raise
        raise FormatError(str(error)) from error
    except ValueError as error:
        if not file.is_remote or "range requests" not in str(error):
            raise
        raise SourceError(
            f"{file.path} is on a server that sends complete files only, and parquet is read in parts, so its rows "
            "can't be read. Copy the files to this machine, or to a server that answers range requests."
        ) from error


@dataclass(frozen=True, slots=True)
class ArrowFile(_ArrowColumns):
    """An Arrow IPC file or stream, which includes feather version 2.

    Parameters
    ----------
    file : SuiteFile
    kinds_by_column : mapping of str to {"number", "text", "empty"}
        Kind of each column, in the order of the file.
    """

    untyped = False
    n_rows = None

    @classmethod
    def open(cls, file: SuiteFile) -> ArrowFile:
        """Read the schema of a file.

        Raises
        ------
        FormatError
            When the file is not an Arrow file, or two of its columns have the same name.
        """
        with _arrow_reader(file, None) as reader:
            return cls(file, _kinds(reader.schema, file.path))

    def read(self, columns: Sequence[str]) -> Columns:
        """Return columns with the types that their writer gave them."""
        numbers = {column: at for at, column in enumerate(self.kinds_by_column) if column in columns}
        with _arrow_reader(self.file, sorted(numbers.values())) as reader:
            table = reader.read_all()
            return {column: table.column(column) for column in numbers}


@contextmanager
def _arrow_reader(file: SuiteFile, fields: Sequence[int] | None) -> Iterator[Any]:
    fs, path = file.open_place()
    options = pa.ipc.IpcReadOptions(included_fields=None if fields is None else list(fields))
    try:
        with fs.open(path, "rb") as source:
            is_file = source.read(6) == b"ARROW1"
            source.seek(0)
            opener = pa.ipc.open_file if is_file else pa.ipc.open_stream
            with opener(source, options=options) as reader:
                yield reader
        return
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        reason = file.root.scrub(error)[:300] or type(error).__name__
    # Raised outside the handler: the store's error may quote a signed address.
    raise FormatError(
        f"{file.path} is not a readable Arrow file ({reason}), so its rows are unknown. "
        "Write it again as Arrow IPC or feather version 2, or remove it."
    )


def _kinds(schema: pa.Schema, name: str) -> dict[str, ColumnKind]:
    if repeated := sorted({column for column in schema.names if schema.names.count(column) > 1}):
        raise FormatError(
            f"{name} has {len(repeated)} column names that occur more than once, such as {repeated[0]!r}, so the "
            "column that a declaration means is ambiguous. Rename or remove the repeated columns."
        )
    return {field.name: arrow_kind(field.type) for field in schema}


def is_frame(source: object) -> bool:
    """Return whether an object is a data frame rather than a pattern of files.

    Examples
    --------
    >>> is_frame({"step": [0, 1]}), is_frame([{"step": 0}]), is_frame("runs/{run}.csv"), is_frame(["a.csv", "b.csv"])
    (True, True, False, False)
    """
    if isinstance(source, (str, bytes)):
        return False
    if isinstance(source, (list, tuple)):
        return bool(source) and all(isinstance(row, Mapping) for row in source)
    return isinstance(source, Mapping) or hasattr(source, "__arrow_c_stream__") or hasattr(source, "to_arrow")


class Frame:
    """A data frame; each column is converted to Arrow on first use.

    Parameters
    ----------
    name : str
        Name in errors.
    columns : mapping of str to callable
        Return each column as an Arrow array.
    """

    untyped = False

    def __init__(self, name: str, columns: Mapping[str, Callable[[], pa.Array | pa.ChunkedArray]]) -> None:
        self.name = name
        self._makers = dict(columns)
        self._made: dict[str, pa.ChunkedArray] = {}

    def __getstate__(self) -> dict[str, object]:
        # The functions that make columns do not pickle; their results, columns or errors, do.
        columns: dict[str, pa.ChunkedArray | FormatError] = {}
        for column in self._makers:
            try:
                columns[column] = self._column(column)
            except FormatError as error:
                columns[column] = error
        return {"name": self.name, "columns": columns}

    def __setstate__(self, state: dict[str, Any]) -> None:
        columns: dict[str, pa.ChunkedArray | FormatError] = state["columns"]
        self.name = state["name"]
        self._makers = {column: functools.partial(_value_or_raise, values) for column, values in columns.items()}
        self._made = {}

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns."""
        return tuple(self._makers)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self._column(next(iter(self._makers)))) if self._makers else 0

    def read(self, columns: Sequence[str]) -> Columns:
        """Return columns with the types that their writer gave them.

        Raises
        ------
        FormatError
            When a column holds values of several types.
        """
        return {column: self._column(column) for column in columns if column in self._makers}

    def read_numbers(self, columns: Sequence[str]) -> dict[str, Numbers]:
        """Return columns as numbers."""
        return numbers_of(self.read(columns), self.name)

    def kinds(self) -> Mapping[str, ColumnKind]:
        """Return the kind of each column; a column of mixed types counts as text."""
        kinds: dict[str, ColumnKind] = {}
        for column in self._makers:
            try:
                kinds[column] = arrow_kind(self._column(column).type)
            except FormatError:
                kinds[column] = "text"
        return kinds

    def _column(self, column: str) -> pa.ChunkedArray:
        if column not in self._made:
            try:
                values = self._makers[column]()
            except FormatError:
                raise
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise FormatError(
                    f"the column {column!r} of {self.name} can't be read ({str(error)[:200]}), so its rows are "
                    "unknown. Give it values of one type."
                ) from error
            made = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
            self._made[column] = made
        return self._made[column]


def frame_content(source: Any, name: str) -> Content:
    """Return the columns of a data frame.

    Parameters
    ----------
    source : pandas.DataFrame, mapping, sequence of mappings, or object
        A mapping of columns, a list of rows, or anything with Arrow's C stream: polars, DuckDB, Arrow tables. Named
        levels of a pandas index become columns.
    name : str
        Name in errors: ``"the frame of tables[0]"``.

    Raises
    ------
    FormatError
        When the source has none of these forms, columns of unequal length, or two columns of the same name.

    Examples
    --------
    >>> frame = frame_content([{"step": 0}, {"step": 1, "loss": 2.5}], "the frame")
    >>> frame.columns, frame.read(["loss"])["loss"].to_pylist()
    (('step', 'loss'), [None, 2.5])
    """
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        return _pandas_frame(source, name)
    if isinstance(source, Mapping):
        lengths = {str(column): len(values) for column, values in source.items()}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{column!r} has {length}" for column, length in list(lengths.items())[:5])
            raise FormatError(
                f"The columns of {name} have different numbers of rows ({shown}), so they form no rows. "
                "Give columns of equal length."
            )
        return Frame(name, {str(column): functools.partial(_arrow_array, values) for column, values in source.items()})
    if isinstance(source, (list, tuple)):
        columns = dict.fromkeys(str(column) for row in source for column in row)
        return Frame(name, {column: functools.partial(_column_of_rows, source, column) for column in columns})
    try:
        table = pa.table(source if hasattr(source, "__arrow_c_stream__") else source.to_arrow())
    except (pa.ArrowException, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"{name[:1].upper()}{name[1:]} is a {type(source).__name__}, which can't be converted to an Arrow table "
            f"({str(error)[:200]}), so its rows are unknown. Give a pandas or polars frame, a mapping of columns, or "
            "a list of rows."
        ) from error
    _kinds(table.schema, name)
    return Frame(
        name, {column: functools.partial(_value_or_raise, table.column(column)) for column in table.column_names}
    )


def _pandas_frame(frame: Any, name: str) -> Content:
    levels = [level for level in frame.index.names if level is not None]
    if levels:
        frame = frame.reset_index(level=levels)
    columns = [str(column) for column in frame.columns]
    _kinds(pa.schema([(column, pa.null()) for column in columns]), name)
    return Frame(
        name, {column: functools.partial(_pandas_column, frame, position) for position, column in enumerate(columns)}
    )


def _pandas_column(frame: Any, position: int) -> pa.Array | pa.ChunkedArray:
    return pa.array(frame.iloc[:, position], from_pandas=True)


def _arrow_array(values: Any) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values
    return pa.array(values, from_pandas=True)


def _column_of_rows(rows: Sequence[Mapping[str, Any]], column: str) -> pa.Array:
    return pa.array([row.get(column) for row in rows], from_pandas=True)


def _value_or_raise(values: pa.ChunkedArray | FormatError) -> pa.ChunkedArray:
    if isinstance(values, FormatError):
        raise values
    return values
