"""Read the two parquet files of an export: rows of runs, and logged rows of some runs.

Decoded content is cached per process and version of the file, so repeated calls are free and a changed file is read
again.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dde.errors import DdeError, FormatError
from dde.sources.arrow_columns import encode_texts, read_numbers, read_texts, read_times, read_whole_numbers
from dde.sources.connection import Connection
from dde.sources.json_text import decode_line, read_json
from dde.sources.protocols import SUMMARY_KEYS
from dde.sources.values import as_float, read_object, readable_text
from dde.sources.wandb.export_files import ExportFile, RunDigests
from dde.sources.wandb.logs import LOG_COLUMNS, MOST_STEPS, Log, LogBuilder, LogDigests, logged_metrics, logged_step
from dde.sources.wandb.records import EVALUATION_PREFIX
from dde.sources.wandb.summaries import SummaryTable

__all__ = [
    "SelectedRows",
    "column_names",
    "flat_object",
    "history_digests",
    "is_flat",
    "is_packed",
    "last_rates",
    "log_columns",
    "number_column",
    "read_packed_log",
    "row_counts",
    "run_digests",
    "run_rows",
    "selected_rows",
    "step_column",
    "summary_table",
]

# Rows of JSON text in memory at a time: about 13 MB at 200 KB a run.
_BATCH = 64
# Columns of a flat export that are not keys of config or summary.
_STANDARD = frozenset({"run_id", "run_name", "state", "project", "entity", "created_at", "runtime"})


@contextmanager
def _opened(file: ExportFile) -> Iterator[pq.ParquetFile]:
    """Open a file to read parts of it; errors in the block are converted to one that names the file."""
    try:
        with file.open() as stream:
            yield _parquet(stream, file)
        return
    except DdeError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        connection = Connection(file.path)
        message = connection.scrub(error)
        if connection.has_secret:
            # The error stays in the chain of the new one, and may quote a credential.
            error.args = (message,)
        problem = FormatError(
            f"{file.shown} is damaged or incomplete, so the content of its rows is unknown "
            f"({message[:200]}). Export it again, or restore it from a copy."
        )
    raise problem


def column_names(file: ExportFile) -> list[str]:
    """Return the names of a file's columns."""
    return list(_schema(file).names)


@functools.lru_cache(maxsize=8)
def _schema(file: ExportFile) -> pa.Schema:
    with _opened(file) as parquet:
        return parquet.schema_arrow


def is_flat(runs: ExportFile) -> bool:
    """Return whether config and summary share one object or one set of columns, as before dr_wandb 0.1."""
    return not {"config", "summary"} & set(column_names(runs))


def flat_object(row: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the keys of config and summary of a row of a flat export, and the problem; "" if they are complete."""
    if "raw_data" in row:
        return read_object(row["raw_data"])
    # The column of a key that only other runs have is null here.
    return {key: value for key, value in row.items() if value is not None and key not in _STANDARD}, ""


def run_rows(runs: ExportFile, columns: Iterable[str] | None) -> Iterator[dict[str, Any]]:
    """Yield one row per run, with the given columns as far as the file has them; all columns if None.

    Values are plain: text, numbers, `numpy.datetime64`, objects without nulls. Of several rows with the same run id,
    the first is used; `run_digests` reports where they differ.
    """
    seen: set[str] = set()
    for batch in _run_batches(runs, columns):
        names = list(batch)
        for values in zip(*batch.values(), strict=True):
            row = dict(zip(names, values, strict=True))
            run_id = row["run_id"]
            if run_id is not None and run_id not in seen:
                seen.add(run_id)
                yield row


def _run_batches(runs: ExportFile, columns: Iterable[str] | None) -> Iterator[dict[str, Sequence[Any]]]:
    """Yield batches of rows as a list of values per column, in the order of the file."""
    with _opened(runs) as parquet:
        names = parquet.schema_arrow.names
        _check_columns(runs, names)
        selected = None if columns is None else [name for name in names if name in {"run_id", *columns}]
        for batch in parquet.iter_batches(batch_size=_BATCH, columns=selected, use_threads=runs.is_local):
            yield {
                name: _values(batch.column(at), _where(name, runs), is_id=name == "run_id")
                for at, name in enumerate(batch.schema.names)
            }


def _values(column: pa.Array, where: str, *, is_id: bool = False) -> Sequence[Any]:
    """Return the values of a column as Python objects, whatever its type."""
    kind = column.type
    if is_id:
        codes, names = _encoded_texts(column, where)
        return [None if code < 0 else names[code] for code in codes.tolist()]
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        try:
            return list(read_times(column, where))
        except FormatError:
            # One of them is out of range; it becomes text, the others stay times.
            return [value for at in range(len(column)) for value in _time_or_text(column.slice(at, 1), where)]
    if _is_text_type(kind):
        try:
            return _listed(read_texts(column, where))
        except FormatError:
            # Some texts are not UTF-8; they get lone surrogates, which are noted later. The others are unchanged.
            return [None if value is None else decode_line(value) for value in _listed(_raw_texts(column, where))]
    if pa.types.is_nested(kind):
        try:
            return [_without_nulls(value) for value in column.to_pylist(maps_as_pydicts="strict")]
        except KeyError:
            raise FormatError(
                f"{where} has a map with a repeated key, so it is unclear which value is right. "
                "Write the file again with each key once."
            ) from None
    return _listed(column)


def _listed(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    values: list[Any] = column.to_pylist()
    return values


def _encoded_texts(column: pa.Array | pa.ChunkedArray, where: str) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return texts as `encode_texts` does; bytes that are not UTF-8 become lone surrogates."""
    try:
        return encode_texts(column, where, numbers=True)
    except FormatError:
        if not _is_text_type(column.type):
            raise
    raw = _raw_texts(column, where)
    encoded = (raw.combine_chunks() if isinstance(raw, pa.ChunkedArray) else raw).dictionary_encode()
    codes = np.asarray(encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
    return codes, [decode_line(name) for name in encoded.dictionary.to_pylist()]


def _raw_texts(column: pa.Array | pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    return read_texts(column, where, check=False).cast(pa.large_binary())


def _is_text_type(kind: pa.DataType) -> bool:
    while pa.types.is_dictionary(kind) or isinstance(kind, pa.BaseExtensionType):
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind.storage_type
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary)
    bytes_ = (pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in (*text, *bytes_))


def _time_or_text(one: pa.Array, where: str) -> list[Any]:
    try:
        return list(read_times(one, where))
    except FormatError:
        return _listed(one.cast(pa.int64()).cast(pa.string()))


def _without_nulls(value: Any) -> Any:
    """Return an object of a struct or map column without nulls, which stand for keys that only other rows have."""
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return value


@functools.lru_cache(maxsize=4)
def run_digests(runs: ExportFile) -> RunDigests:
    """Return a digest of the complete row of each run."""
    return RunDigests.of(_row_digests(runs), runs, "rows")


def _row_digests(runs: ExportFile) -> Iterator[tuple[str | None, str]]:
    for batch in _run_batches(runs, None):
        columns = list(batch.items())
        for at, run_id in enumerate(batch["run_id"]):
            digest = hashlib.blake2b(digest_size=8)
            for name, values in columns:
                digest.update(f"\0{name}\0{values[at]}".encode("utf-8", "surrogatepass"))
            yield run_id, digest.hexdigest()


@functools.lru_cache(maxsize=4)
def summary_table(runs: ExportFile) -> SummaryTable:
    """Return the table of all summaries, in the order of `run_rows`."""
    names = column_names(runs)
    if not is_flat(runs):
        columns = ["summary"]
    elif "raw_data" in names:
        columns = ["raw_data"]
    else:
        columns = [name for name in names if name.startswith(EVALUATION_PREFIX) or name in SUMMARY_KEYS]

    def summaries() -> Iterator[tuple[str, object]]:
        for row in run_rows(runs, columns):
            if "raw_data" in row or "summary" in row:
                yield row["run_id"], row.get("summary", row.get("raw_data"))
            else:
                yield row["run_id"], flat_object(row)[0]

    return SummaryTable.from_summaries(summaries())


def step_column(names: Iterable[str], history: ExportFile) -> str:
    """Return the name of the step column."""
    for name in ("step", "_step"):
        if name in names:
            return name
    raise _not_an_export(history, "no column step", names)


@dataclass(frozen=True, slots=True)
class SelectedRows:
    """Logged rows of the requested runs in a part of a wide log.

    Attributes
    ----------
    table : pyarrow.Table
        The requested columns, including run id and step.
    run : (row,) int32 array
        Position of the run.
    step : (row,) int64 array
        Step; -1 for a row without a usable one.
    """

    table: pa.Table
    run: npt.NDArray[np.int32]
    step: npt.NDArray[np.int64]


def selected_rows(
    history: ExportFile, positions: Mapping[str, int], keys: Iterable[str] | None
) -> Iterator[SelectedRows]:
    """Yield the logged rows of some runs, in the order of the file.

    Parameters
    ----------
    positions : mapping of str to int
        Position of each requested run.
    keys : iterable of str or None
        Columns to read in addition to run and step, where the file has them; all columns if None.
    """
    with _opened(history) as parquet:
        names = parquet.schema_arrow.names
        _check_columns(history, names)
        step_name = step_column(names, history)
        requested = {"run_id", step_name, *(names if keys is None else keys)}
        columns = [name for name in names if name in requested]
        run_index = parquet.schema.names.index("run_id") if "run_id" in parquet.schema.names else None
        # Compared as UTF-8, like the statistics of the file.
        ids = sorted(run_id.encode("utf-8", "surrogatepass") for run_id in positions)
        valid = {run_id: at for run_id, at in positions.items() if is_unicode(run_id)}
        value_set = pa.array(valid, type=pa.large_string())
        numbers = np.fromiter(valid.values(), dtype=np.int32, count=len(valid))
        for group in range(parquet.num_row_groups):
            if run_index is not None and not _may_contain(parquet.metadata.row_group(group).column(run_index), ids):
                continue
            table = parquet.read_row_group(group, columns=columns, use_threads=history.is_local)
            texts = read_texts(table["run_id"], _where("run_id", history), numbers=True, check=False)
            index = pc.index_in(texts.cast(pa.large_string()), value_set=value_set)
            is_selected = pc.is_valid(index)
            if not pc.all(is_selected).as_py():
                table, index = table.filter(is_selected), index.filter(is_selected)
            yield SelectedRows(table, numbers[index.to_numpy()], _steps(table[step_name], history))


def is_unicode(text: str) -> bool:
    """Return whether text has no lone surrogate, which a column can't store."""
    return readable_text(text) == text


def _steps(column: pa.ChunkedArray, history: ExportFile) -> npt.NDArray[np.int64]:
    return read_whole_numbers(column, _where("step", history), most=MOST_STEPS - 1).values


def _where(name: str, file: ExportFile) -> str:
    return f"the column {name!r} of {file.shown}"


def _check_columns(file: ExportFile, names: Sequence[str]) -> None:
    if "run_id" not in names:
        raise _not_an_export(file, "no column run_id", names)
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise _not_an_export(file, f"more than one column {repeated}", names)


def number_column(table: pa.Table, key: str, history: ExportFile) -> npt.NDArray[np.float64]:
    """Return a column of a wide log as numbers, NaN where absent."""
    return read_numbers(table[key], _where(key, history)).values


@functools.lru_cache(maxsize=4)
def log_columns(history: ExportFile) -> tuple[str, ...]:
    """Return the columns of a wide log that can be metrics, sorted; lists, objects and times are excluded."""
    return tuple(
        sorted(
            field.name
            for field in _schema(history)
            if field.name not in LOG_COLUMNS
            and not field.name.startswith("_")
            and not (pa.types.is_nested(field.type) or pa.types.is_temporal(field.type))
        )
    )


def is_packed(history: ExportFile) -> bool:
    """Return whether the column ``metrics`` contains all keys of a row, or all rows of a run.

    dr_wandb 0.2 writes such logs, as JSON text; other programs write a map, an object or a list of objects.
    """
    schema = _schema(history)
    at = schema.get_field_index("metrics")
    if at < 0:
        return False
    kind = schema.field(at).type
    return bool(pa.types.is_nested(kind)) or _is_text_type(kind)


@functools.lru_cache(maxsize=2)
def read_packed_log(history: ExportFile) -> Log:
    """Return all logged rows of a log with its keys in one column; see `is_packed`."""
    builder = LogBuilder()
    names = column_names(history)
    _check_columns(history, names)
    selected = [name for name in ("run_id", "step", "_step", "metrics") if name in names]
    with _opened(history) as parquet:
        for batch in parquet.iter_batches(columns=selected, use_threads=history.is_local):
            columns = {
                name: _values(batch.column(at), _where(name, history), is_id=name == "run_id")
                for at, name in enumerate(batch.schema.names)
            }
            step_name = next((name for name in ("step", "_step") if name in columns), None)
            steps = None if step_name is None else _steps(batch.column(step_name), history).tolist()
            for at, run_id in enumerate(columns["run_id"]):
                if run_id is None:
                    continue
                encoded = columns["metrics"][at]
                digest = hashlib.blake2b(f"{steps and steps[at]}\0{encoded}".encode(errors="replace"), digest_size=8)
                number = int.from_bytes(digest.digest())
                value, problem = read_json(encoded) if isinstance(encoded, str) else (encoded, "")
                if isinstance(value, list) and all(isinstance(row, dict) for row in value):
                    for row in value:
                        builder.add(run_id, logged_step(row), logged_metrics(row)[0], number, problem=problem)
                    continue
                metrics, problem = read_object(value)
                step = np.nan if steps is None or steps[at] < 0 else float(steps[at])
                if steps is None:
                    step = as_float(metrics.get("_step"))
                builder.add(run_id, step, metrics, number, problem=problem)
    return builder.log()


def row_counts(history: ExportFile) -> dict[str, int]:
    """Return the number of logged rows of each run; rows without a run id are counted under ""."""
    counts: dict[str, int] = {}
    with _opened(history) as parquet:
        _check_columns(history, parquet.schema_arrow.names)
        for group in range(parquet.num_row_groups):
            column = parquet.read_row_group(group, columns=["run_id"], use_threads=history.is_local)["run_id"]
            codes, names = _encoded_texts(column, _where("run_id", history))
            group_counts = np.bincount(codes % (len(names) + 1), minlength=len(names) + 1).tolist()
            for run_id, count in zip([*names, ""], group_counts, strict=True):
                if count:
                    counts[run_id] = counts.get(run_id, 0) + count
    return counts


def _may_contain(column: Any, ids: Sequence[bytes]) -> bool:
    """Return whether a row group may contain any of the ascending ids, by the statistics of its id column."""
    statistics = column.statistics
    if statistics is None or not statistics.has_min_max:
        return True
    least, greatest = statistics.min, statistics.max
    if not (isinstance(least, str) and isinstance(greatest, str)):
        return True
    at = bisect.bisect_left(ids, least.encode())
    return at < len(ids) and ids[at] <= greatest.encode()


@functools.lru_cache(maxsize=4)
def history_digests(history: ExportFile) -> LogDigests:
    """Return a digest of the logged rows of each run."""
    if is_packed(history):
        return read_packed_log(history).digests
    counts: dict[str, int] = {}
    last: dict[str, float] = {}
    hashes: dict[str, int] = {}
    rows_without_step: dict[str, int] = {}
    with _opened(history) as parquet:
        _check_columns(history, parquet.schema_arrow.names)
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group, use_threads=history.is_local)
            rows = np.zeros(table.num_rows, np.uint64)
            for name in table.column_names:
                # Equal numbers have equal hashes whatever their type, so that rewriting the file with another
                # program does not change the digest. The multiplier makes the hash depend on the column.
                rows = rows * np.uint64(0x9E3779B97F4A7C15) + _hashed(table[name], _where(name, history))
            step = _steps(table[step_column(table.column_names, history)], history)
            codes, names = _encoded_texts(table["run_id"], _where("run_id", history))
            order = np.argsort(codes, kind="stable")[np.count_nonzero(codes < 0) :]
            starts = np.searchsorted(codes[order], np.arange(len(names)))
            of_runs = zip(
                names,
                np.diff(starts, append=len(order)).tolist(),
                np.maximum.reduceat(step[order], starts).tolist() if len(names) else (),
                np.add.reduceat(rows[order], starts).tolist() if len(names) else (),
                np.add.reduceat(step[order] < 0, starts, dtype=np.int64).tolist() if len(names) else (),
                strict=True,
            )
            for run_id, count, greatest, total, without_step in of_runs:
                counts[run_id] = counts.get(run_id, 0) + count
                last[run_id] = max(last.get(run_id, -1), greatest)
                hashes[run_id] = (hashes.get(run_id, 0) + total) % 2**64
                if without_step:
                    rows_without_step[run_id] = rows_without_step.get(run_id, 0) + without_step
    digests = {run_id: f"{counts[run_id]}.{last[run_id]:.0f}.{hashes[run_id]:016x}" for run_id in counts}
    return LogDigests(digests, rows_without_step, {})


def _hashed(column: pa.ChunkedArray, where: str) -> npt.NDArray[np.uint64]:
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return np.asarray(pd.util.hash_array(read_numbers(column, where).values), dtype=np.uint64)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        # A run's id repeats in all of its rows, so each distinct text is hashed once.
        return np.concatenate([np.empty(0, np.uint64), *map(_hashed_texts, column.chunks)])
    if pa.types.is_decimal(kind):
        return np.asarray(pd.util.hash_array(read_numbers(column, where).values), dtype=np.uint64)
    if _is_text_type(kind):
        # Binary columns that are not text, such as intervals, are hashed as well.
        codes, names = _encoded_texts(column, where)
        return _hashed_objects([*map(readable_text, names), None])[codes]
    return _hashed_objects([None if value is None else str(value) for value in column.to_pylist()])


def _hashed_texts(texts: pa.Array) -> npt.NDArray[np.uint64]:
    encoded = texts.dictionary_encode()
    hashes = _hashed_objects([*encoded.dictionary.to_pylist(), None])
    codes: npt.NDArray[np.int32] = encoded.indices.fill_null(len(hashes) - 1).to_numpy()
    return hashes[codes]


def _hashed_objects(values: list[str | None]) -> npt.NDArray[np.uint64]:
    return np.asarray(pd.util.hash_array(np.array(values, dtype=object)), dtype=np.uint64)


@functools.lru_cache(maxsize=4)
def last_rates(history: ExportFile) -> Mapping[str, float]:
    """Return the learning rate that each run logged last; needed only for flat exports."""
    if is_packed(history):
        log = read_packed_log(history)
        ids = list(log.run_ids)
        rows = log.history(ids, ["learning_rate"])
        triples = zip((ids[run] for run in rows.run), rows.step, rows.values["learning_rate"], strict=True)
    else:
        with _opened(history) as parquet:
            names = parquet.schema_arrow.names
            if "learning_rate" not in names:
                return {}
            step_name = step_column(names, history)
            table = parquet.read(columns=["run_id", step_name, "learning_rate"], use_threads=history.is_local)
        texts = _values(table["run_id"], _where("run_id", history), is_id=True)
        triples = zip(
            texts, _steps(table[step_name], history), number_column(table, "learning_rate", history), strict=True
        )
    rates: dict[str, tuple[float, float]] = {}
    for run_id, step, rate in triples:
        if not np.isnan(rate) and step >= max(rates.get(run_id, (0.0, 0.0))[0], 0):
            rates[run_id] = (float(step), float(rate))
    return {run_id: rate for run_id, (_, rate) in rates.items()}


def _parquet(stream: IO[bytes], file: ExportFile) -> pq.ParquetFile:
    """Open a file of an export to read parts of it; callers read a remote file without Arrow's threads.

    If an Arrow thread released a Python file after the interpreter has ended, the process would abort.
    """
    try:
        # Where the writer added page checksums, damaged values are detected as well.
        return pq.ParquetFile(file.path if file.is_local else stream, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise FormatError(
            f"{file.shown} is not a parquet file ({error}), so its runs can't be read. Export it again."
        ) from None


def _not_an_export(file: ExportFile, problem: str, names: Iterable[str]) -> FormatError:
    return FormatError(
        f"{file.shown} has {problem}, but {', '.join(list(names)[:10])}, so it is not an export of dr_wandb. "
        "Export the project again, or remove the file from the folder."
    )
