"""Columns of CSV and JSON lines: text that has to be read completely, plain or compressed."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.types as pt
from fsspec.implementations.local import LocalFileSystem

from dde.cache.memory import Memory
from dde.errors import FormatError, SourceError
from dde.sources.arrow_columns import Numbers
from dde.sources.json_text import read_json
from dde.suite.reading.contents import NULL_TEXTS, ColumnKind, Columns, arrow_kind, numbers_of, without_null_texts
from dde.suite.reading.suite_files import SuiteFile

__all__ = ["CsvFile", "JsonLines", "read_bytes"]

_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
# Text has to be downloaded completely for each column, so a download serves the header, key columns and metrics.
_DOWNLOADS = Memory(64 << 20)
# Largest range in which every whole number is a double.
_EXACT = 2**53
# Arrow infers column types from the first block only, which holds at most 2 GiB.
_LEAST_BLOCK, _MOST_BLOCK = 1 << 20, 1 << 30


def read_bytes(file: SuiteFile) -> pa.Buffer:
    """Return the content of a file, decompressed where the suffix of its name says so.

    Raises
    ------
    SourceError
        When the file can't be read.
    FormatError
        When it can't be decompressed.
    """
    fs, path = file.open_place()
    problem: SourceError | FormatError
    try:
        if isinstance(fs, LocalFileSystem):
            # Not memory-mapped: truncating a mapped file would crash the process.
            with pa.OSFile(path) as source:
                content = source.read_buffer()
        else:
            content = _downloaded(fs, path, file)
    except Exception as error:  # The errors of stores share no base class.
        problem = SourceError(
            f"{file.path} can't be read ({file.root.scrub(error)[:300] or type(error).__name__}), so its rows are "
            "unknown. Restore the file and the permission to read it, or remove it."
        )
    else:
        method = _COMPRESSIONS.get(os.path.splitext(file.name)[1].casefold())
        if method is None:
            return content
        try:
            with pa.CompressedInputStream(pa.BufferReader(content), method) as stream:
                return stream.read_buffer()
        except (pa.ArrowException, OSError) as error:
            problem = FormatError(
                f"{file.path} can't be decompressed ({str(error)[:200]}), so its rows are unknown. "
                "Copy it again, or remove it."
            )
    # Raised outside the handler: the store's error may quote a signed address.
    raise problem


def _downloaded(fs: Any, path: str, file: SuiteFile) -> pa.Buffer:
    """Return the content of a remote file, from memory where this version was downloaded before."""
    token = (f"{file.root.redacted} {file.version}", path, 0, 0)
    content = _DOWNLOADS.get(token)
    if content is None:
        content = np.frombuffer(fs.cat_file(path), np.uint8)
        _DOWNLOADS.put(token, content)
    return pa.py_buffer(content)


@dataclass(frozen=True, slots=True)
class CsvFile:
    """A CSV file with a header, plain or compressed.

    Parameters
    ----------
    file : SuiteFile
    columns : tuple of str
        Names in the header, in order.
    delimiter : str
        Separator of values: a comma or a tab.
    """

    file: SuiteFile
    columns: Sequence[str]
    delimiter: str

    untyped = True
    n_rows = None

    @classmethod
    def open(cls, file: SuiteFile, delimiter: str = ",") -> CsvFile:
        """Read the header of a file.

        Raises
        ------
        SourceError
            When the file can't be read.
        FormatError
            When it has no header, or can't be decompressed.
        """
        return cls(file, tuple(_header(file, read_bytes(file), delimiter)), delimiter)

    @property
    def name(self) -> str:
        """Path of the file."""
        return self.file.path

    def read(self, columns: Sequence[str]) -> Columns:
        """Return columns as texts, null where a row has no value.

        Raises
        ------
        FormatError
            When a row has more or fewer values than the header, or bytes are not UTF-8.
        """
        own = self._own_columns(columns)
        options = pacsv.ConvertOptions(
            include_columns=own,
            column_types=dict.fromkeys(own, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
        )
        return self._read(own, options)

    def read_numbers(self, columns: Sequence[str]) -> dict[str, Numbers]:
        """Return columns as numbers."""
        own = self._own_columns(columns)
        options = pacsv.ConvertOptions(
            include_columns=own, column_types=dict.fromkeys(own, pa.float64()), null_values=list(NULL_TEXTS)
        )
        read: Columns
        try:
            read = self._parse(read_bytes(self.file), options)
        except pa.ArrowException:
            # Some value is not a number: parse each row alone.
            as_text = self.read(own)
            read = {column: without_null_texts(values) for column, values in as_text.items()}
        return numbers_of(read, self.name)

    def kinds(self) -> Mapping[str, ColumnKind]:
        """Return the kind of each column: numbers where every value is one."""
        options = pacsv.ConvertOptions(null_values=list(NULL_TEXTS), strings_can_be_null=True)
        return {column: arrow_kind(values.type) for column, values in self._read(self.columns, options).items()}

    def _own_columns(self, columns: Sequence[str]) -> list[str]:
        own = [column for column in dict.fromkeys(columns) if column in self.columns]
        for column in own:
            if self.columns.count(column) > 1:
                raise FormatError(
                    f"{self.name} has {self.columns.count(column)} columns {column!r}, so the name is ambiguous. "
                    "Rename or remove all but one."
                )
        return own

    def _read(self, own: Sequence[str], options: pacsv.ConvertOptions) -> Columns:
        content = read_bytes(self.file)
        try:
            return self._parse(content, options)
        except pa.ArrowException as error:
            raise FormatError(
                f"{self.name} is not readable CSV ({_shortened(error)}), so its rows are unknown. "
                "Write it again as UTF-8 with as many values in each row as the header has, or remove it."
            ) from error

    def _parse(self, content: pa.Buffer, options: pacsv.ConvertOptions) -> Columns:
        table = pacsv.read_csv(
            pa.BufferReader(content),
            pacsv.ReadOptions(use_threads=False, block_size=_block_size(content)),
            pacsv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            options,
        )
        return dict(zip(table.column_names, table.columns, strict=True))


def _header(file: SuiteFile, content: pa.Buffer, delimiter: str) -> list[str]:
    size = 1 << 16
    while True:
        start = content.slice(0, min(size, content.size)).to_pybytes()
        text = start.decode("utf-8-sig", "replace")
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            header = next((row for row in rows if row), None)
            # A header that ends where the text ends may continue after it.
            is_complete = header is not None and next(rows, None) is not None
        except csv.Error as error:
            raise FormatError(
                f"{file.path} has no readable header ({error}), so its columns are unknown. "
                "Write it again as CSV, or remove it."
            ) from error
        if is_complete or size >= content.size:
            break
        size *= 8
    if header is None:
        raise FormatError(
            f"{file.path} is empty, so its columns are unknown. Write it again with a header, or remove it."
        )
    return header


def _block_size(content: pa.Buffer) -> int:
    return int(max(_LEAST_BLOCK, min(content.size + 1, _MOST_BLOCK)))


def _shortened(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:197]}..."


class JsonLines:
    """A file of JSON lines, one object per row, plain or compressed; parsed once.

    Nested objects become columns such as ``eval.loss``. NaN and Infinity are read as numbers, as Python writes them.

    Parameters
    ----------
    file : SuiteFile
    table : pyarrow.Table
        Its rows.
    """

    untyped = False

    def __init__(self, file: SuiteFile, table: pa.Table) -> None:
        self.file = file
        self._table = table

    @classmethod
    def open(cls, file: SuiteFile) -> JsonLines:
        """Parse a file.

        Raises
        ------
        SourceError
            When the file can't be read.
        FormatError
            When a line is not a JSON object, or the file can't be decompressed.
        """
        content = read_bytes(file)
        table = _parse_with_arrow(content)
        if table is None:
            table = _parse_by_line(content, file)
        while any(pt.is_struct(field.type) for field in table.schema):
            table = table.flatten()
        return cls(file, table)

    @property
    def name(self) -> str:
        """Path of the file."""
        return self.file.path

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns."""
        return tuple(dict.fromkeys(self._table.column_names))

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self._table.num_rows)

    def read(self, columns: Sequence[str]) -> Columns:
        """Return columns with the types that their writer gave them."""
        names = self._table.column_names
        for column in columns:
            if names.count(column) > 1:
                raise FormatError(
                    f"{self.name} has the key {column!r} and an object with the same path, so the name is ambiguous. "
                    "Rename one."
                )
        return {column: self._table.column(column) for column in columns if column in names}

    def read_numbers(self, columns: Sequence[str]) -> dict[str, Numbers]:
        """Return columns as numbers."""
        return numbers_of(self.read(columns), self.name)

    def kinds(self) -> Mapping[str, ColumnKind]:
        """Return the kind of each column."""
        return {field.name: arrow_kind(field.type) for field in self._table.schema}


def _parse_with_arrow(content: pa.Buffer) -> pa.Table | None:
    """Return the rows of JSON lines; None where Arrow can't parse them: mixed types, NaN, or damaged text."""
    if not content.size:
        return None
    reading = pajson.ReadOptions(use_threads=False, block_size=_block_size(content))
    # A key that is not UTF-8 can't be decoded.
    with suppress(pa.ArrowException, UnicodeDecodeError):
        table = pajson.read_json(pa.BufferReader(content), reading)
        _ = table.column_names
        times = [field.name for field in table.schema if pt.is_timestamp(field.type)]
        if times:
            # Texts that look like dates stay texts.
            schema = pa.schema([(name, pa.string()) for name in times])
            table = pajson.read_json(pa.BufferReader(content), reading, pajson.ParseOptions(explicit_schema=schema))
        return table
    return None


def _parse_by_line(content: pa.Buffer, file: SuiteFile) -> pa.Table:
    """Parse JSON lines one by one: slower than Arrow, but errors name the line."""
    columns: dict[str, list[Any]] = {}
    n_rows = 0
    for number, line in enumerate(io.BytesIO(content.to_pybytes()), start=1):
        text = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
        if not text:
            continue
        try:
            row, _ = read_json(text.decode())
        except UnicodeDecodeError as error:
            raise FormatError(
                f"{file.path}, line {number}, is not UTF-8 text ({error}), so its values are unknown. "
                "Write the file again as UTF-8, or remove it."
            ) from error
        if not isinstance(row, dict):
            raise FormatError(
                f"{file.path}, line {number}, is not a JSON object: {text[:60].decode('utf-8', 'replace')!r}, so the "
                "file is cut short or is not JSON lines. Write it again with one object per line, or remove it."
            )
        for key, value in _flat(row):
            values = columns.setdefault(key, [])
            values.extend([None] * (n_rows - len(values)))
            if len(values) == n_rows:
                values.append(value)
        n_rows += 1
    if not n_rows:
        raise FormatError(
            f"{file.path} is empty, so its columns are unknown. Write it again with one object per line, or remove it."
        )
    return pa.table({key: _arrow_column(values + [None] * (n_rows - len(values))) for key, values in columns.items()})


def _flat(row: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in row.items():
        path = f"{above}.{key}" if above else key
        found += _flat(value, path) if isinstance(value, dict) else [(path, value)]
    return found


def _arrow_column(values: list[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float} and all(value is None or abs(value) < _EXACT for value in values):
        return pa.array(values, pa.float64())
    if len(kinds) < 2 and not kinds & {list, dict}:
        with suppress(pa.ArrowException, OverflowError, UnicodeError):
            return pa.array(values)
    # Numbers among texts are parsed exactly later. Among texts, NaN is a missing value of pandas.
    return pa.array([None if value is None or value != value else _as_text(value) for value in values], pa.string())


def _as_text(value: Any) -> str:
    # A lone surrogate can't be encoded.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else json.dumps(value)
