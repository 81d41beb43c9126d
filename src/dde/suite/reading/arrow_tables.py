"""Columns of parquet files, Arrow files and data frames, of which each column is read by itself."""

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
    """A file whose schema types its columns; a subclass reads them."""

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
        """Return columns as their writer typed them."""
        raise NotImplementedError

    def read_numbers(self, columns: Sequence[str]) -> dict[str, Numbers]:
        """Return columns as numbers."""
        return numbers_of(self.read(columns), self.name)

    def kinds(self) -> Mapping[str, ColumnKind]:
        """Return what each column holds."""
        return self.kinds_by_column


@dataclass(frozen=True, slots=True)
class ParquetFile(_ArrowColumns):
    """A parquet file.

    Parameters
    ----------
    file : SuiteFile
    kinds_by_column : mapping of str to {"number", "text", "empty"}
        What its columns hold, in order.
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
            When the file is no parquet, or two of its columns have one name.
        SourceError
            When it is behind a URL and can't be read.
        """
        with _parquet_reader(file) as parquet:
            return cls(file, _kinds(parquet.schema_arrow, file.path), parquet.metadata.num_rows)

    def read(self, columns: Sequence[str]) -> Columns:
        """Return columns as their writer typed them."""
        wanted = [column for column in columns if column in self.kinds_by_column]
        with _parquet_reader(self.file) as parquet:
            table = parquet.read(wanted, use_threads=False)
            return {column: table.column(column) for column in wanted}


@contextmanager
def _parquet_reader(file: SuiteFile) -> Iterator[pq.ParquetFile]:
    """Open a file as `open_parquet` does; one on this machine that can't be read is damaged."""
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
            f"{file.path} is on a server that gives files whole alone, and parquet is read in parts, so its rows can't "
            "be read. Copy the files to this machine, or to a server that answers range requests."
        ) from error


@dataclass(frozen=True, slots=True)
class ArrowFile(_ArrowColumns):
    """An Arrow IPC file or stream; feather of version 2 is one.

    Parameters
    ----------
    file : SuiteFile
    kinds_by_column : mapping of str to {"number", "text", "empty"}
        What its columns hold, in order.
    """

    untyped = False
    n_rows = None

    @classmethod
    def open(cls, file: SuiteFile) -> ArrowFile:
        """Read the schema of a file.

        Raises
        ------
        FormatError
            When the file is no Arrow file, or two of its columns have one name.
        """
        with _arrow_reader(file, None) as reader:
            return cls(file, _kinds(reader.schema, file.path))

    def read(self, columns: Sequence[str]) -> Columns:
        """Return columns as their writer typed them."""
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
    # Outside of the handler: the error of a store may quote a signed address.
    raise FormatError(
        f"{file.path} is no readable Arrow file ({reason}), so its rows are unknown. "
        "Write it again as Arrow IPC or feather of version 2, or remove it."
    )


def _kinds(schema: pa.Schema, name: str) -> dict[str, ColumnKind]:
    if repeated := sorted({column for column in schema.names if schema.names.count(column) > 1}):
        raise FormatError(
            f"{name} has {len(repeated)} columns whose name another one has too, such as {repeated[0]!r}, so which of "
            "them a declaration means is open. Rename or remove them."
        )
    return {field.name: arrow_kind(field.type) for field in schema}


def is_frame(source: object) -> bool:
    """Return whether an object holds columns itself, and is no pattern of files.

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
    """A data frame, whose columns become Arrow's when they are asked for.

    Parameters
    ----------
    name : str
        What it is called in errors.
    columns : mapping of str to callable
        Gives each column as an Arrow array.
    """

    untyped = False

    def __init__(self, name: str, columns: Mapping[str, Callable[[], pa.Array | pa.ChunkedArray]]) -> None:
        self.name = name
        self._makers = dict(columns)
        self._made: dict[str, pa.ChunkedArray] = {}

    def __getstate__(self) -> dict[str, object]:
        # A function that makes a column of a frame does not pickle; the column does, or why there is none.
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
        self._makers = {column: functools.partial(_itself, values) for column, values in columns.items()}
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
        """Return columns as their writer typed them.

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
        """Return what each column holds; one of several types is no column of numbers."""
        found: dict[str, ColumnKind] = {}
        for column in self._makers:
            try:
                found[column] = arrow_kind(self._column(column).type)
            except FormatError:
                found[column] = "text"
        return found

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
        levels of a pandas index are columns.
    name : str
        What it is called in errors: ``"the frame of tables[0]"``.

    Raises
    ------
    FormatError
        When it has no such form, columns of unequal length, or two columns of one name.

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
                f"The columns of {name} have different numbers of rows ({shown}), so which values belong together is "
                "unknown. Give columns of one length."
            )
        return Frame(name, {str(column): functools.partial(_arrow_array, values) for column, values in source.items()})
    if isinstance(source, (list, tuple)):
        columns = dict.fromkeys(str(column) for row in source for column in row)
        return Frame(name, {column: functools.partial(_column_of_rows, source, column) for column in columns})
    try:
        table = pa.table(source if hasattr(source, "__arrow_c_stream__") else source.to_arrow())
    except (pa.ArrowException, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"{name[:1].upper()}{name[1:]} is a {type(source).__name__}, which gives no Arrow table "
            f"({str(error)[:200]}). So its rows are unknown. Give a pandas or polars frame, a mapping of columns, or a "
            "list of rows."
        ) from error
    _kinds(table.schema, name)
    return Frame(name, {column: functools.partial(_itself, table.column(column)) for column in table.column_names})


def _pandas_frame(frame: Any, name: str) -> Content:
    levels = [level for level in frame.index.names if level is not None]
    if levels:
        frame = frame.reset_index(level=levels)
    columns = [str(column) for column in frame.columns]
    _kinds(pa.schema([(column, pa.null()) for column in columns]), name)
    return Frame(
        name, {column: functools.partial(_pandas_column, frame, place) for place, column in enumerate(columns)}
    )


def _pandas_column(frame: Any, place: int) -> pa.Array | pa.ChunkedArray:
    return pa.array(frame.iloc[:, place], from_pandas=True)


def _arrow_array(values: Any) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values
    return pa.array(values, from_pandas=True)


def _column_of_rows(rows: Sequence[Mapping[str, Any]], column: str) -> pa.Array:
    return pa.array([row.get(column) for row in rows], from_pandas=True)


def _itself(values: pa.ChunkedArray | FormatError) -> pa.ChunkedArray:
    if isinstance(values, FormatError):
        raise values
    return values
