"""Reading the two parquet files of an export: rows of runs, and logged rows of some runs.

What is decoded is kept per process and version of the file, so that asking again costs nothing and a changed
file is read anew.
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
from dde.sources.wandb.logs import LOG_COLUMNS, MOST_STEPS, Log, LogBuilder, logged_metrics, step_of
from dde.sources.wandb.records import EVALUATION_PREFIX
from dde.sources.wandb.summaries import SummaryTable

__all__ = [
    "AskedRows",
    "LogDigests",
    "asked_rows",
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
    "step_column",
    "summary_table",
]

# Rows of JSON text held at once: at 200 KB a run, some 13 MB.
_BATCH = 64
# Columns of a flat export that are no key of config or summary.
_STANDARD = frozenset({"run_id", "run_name", "state", "project", "entity", "created_at", "runtime"})


@contextmanager
def _opened(file: ExportFile) -> Iterator[pq.ParquetFile]:
    """Open a file for reading parts of it; what goes wrong in the block becomes an error that names the file."""
    try:
        with file.open() as stream:
            yield _parquet(stream, file)
        return
    except DdeError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        connection = Connection(file.path)
        said = connection.scrub(error)
        if connection.has_secret:
            # It stays in the chain of the new one, and may quote a credential.
            error.args = (said,)
        problem = FormatError(
            f"{file.shown} can't be read: {said[:200]}. So a part of it is damaged, and what "
            "its rows hold is unknown. Export it again, or restore it from a copy."
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
    """Return whether config and summary stand in one object, or a column per key, as before dr_wandb 0.1."""
    return not {"config", "summary"} & set(column_names(runs))


def flat_object(row: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the keys of config and summary of a row of a flat export, and why not all; "" where they are whole."""
    if "raw_data" in row:
        return read_object(row["raw_data"])
    # A key that another run has and this one has not is a null here.
    return {key: value for key, value in row.items() if value is not None and key not in _STANDARD}, ""


def run_rows(runs: ExportFile, columns: Iterable[str] | None) -> Iterator[dict[str, Any]]:
    """Yield each run's row once, those columns of it that the file has; all of them where None.

    Values are plain: text, numbers, `numpy.datetime64`, objects without nulls. Of rows with one run id the first
    counts; `run_digests` tells where they differ.
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
    """Yield some rows at a time as a list of values per column, in the order of the file."""
    with _opened(runs) as parquet:
        names = parquet.schema_arrow.names
        if "run_id" not in names:
            raise _not_an_export(runs, "no column run_id", names)
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise _not_an_export(runs, f"more than one column {twice}", names)
        wanted = None if columns is None else [name for name in names if name in {"run_id", *columns}]
        for batch in parquet.iter_batches(batch_size=_BATCH, columns=wanted, use_threads=runs.is_local):
            yield {
                name: _values(batch.column(at), f"the column {name!r} of {runs.shown}", is_id=name == "run_id")
                for at, name in enumerate(batch.schema.names)
            }


def _values(column: pa.Array, where: str, *, is_id: bool = False) -> Sequence[Any]:
    """Return the values of a column as Python has them, whichever type it was written in."""
    kind = column.type
    if is_id:
        codes, names = _encoded_texts(column, where)
        return [None if code < 0 else names[code] for code in codes.tolist()]
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        try:
            return list(read_times(column, where))
        except FormatError:
            # One of them is beyond what 64 bits hold: that one is none.
            return [value for at in range(len(column)) for value in _time_or_text(column.slice(at, 1), where)]
    if _holds_text(kind):
        try:
            return _listed(read_texts(column, where))
        except FormatError:
            # A byte that is no UTF-8 somewhere: what it is part of is noted, the others are as they are.
            return [None if value is None else decode_line(value) for value in _listed(_raw_texts(column, where))]
    if pa.types.is_nested(kind):
        try:
            return [_without_nulls(value) for value in column.to_pylist(maps_as_pydicts="strict")]
        except KeyError:
            raise FormatError(
                f"{where} has a map with one key more than once, so which value is meant is open. "
                "Write the file again with each key once."
            ) from None
    return _listed(column)


def _listed(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    values: list[Any] = column.to_pylist()
    return values


def _encoded_texts(column: pa.Array | pa.ChunkedArray, where: str) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return texts as `encode_texts` does; bytes that are no UTF-8 become halves of surrogate pairs."""
    try:
        return encode_texts(column, where, numbers=True)
    except FormatError:
        if not _holds_text(column.type):
            raise
    raw = _raw_texts(column, where)
    encoded = (raw.combine_chunks() if isinstance(raw, pa.ChunkedArray) else raw).dictionary_encode()
    codes = np.asarray(encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
    return codes, [decode_line(name) for name in encoded.dictionary.to_pylist()]


def _raw_texts(column: pa.Array | pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    return read_texts(column, where, check=False).cast(pa.large_binary())


def _holds_text(kind: pa.DataType) -> bool:
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
    """Return an object of a struct or map column less its nulls: a key that another row has is a null in this one."""
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return value


@functools.lru_cache(maxsize=4)
def run_digests(runs: ExportFile) -> RunDigests:
    """Return a digest of the whole row of each run."""
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
    """Return what is kept of all summaries, in the order of `run_rows`."""
    names = column_names(runs)
    if not is_flat(runs):
        wanted = ["summary"]
    elif "raw_data" in names:
        wanted = ["raw_data"]
    else:
        wanted = [name for name in names if name.startswith(EVALUATION_PREFIX) or name in SUMMARY_KEYS]

    def summaries() -> Iterator[tuple[str, object]]:
        for row in run_rows(runs, wanted):
            if "raw_data" in row or "summary" in row:
                yield row["run_id"], row.get("summary", row.get("raw_data"))
            else:
                yield row["run_id"], flat_object(row)[0]

    return SummaryTable.from_summaries(summaries())


def step_column(names: Iterable[str], history: ExportFile) -> str:
    """Return the name of the column with steps."""
    for name in ("step", "_step"):
        if name in names:
            return name
    raise _not_an_export(history, "no column step", names)


@dataclass(frozen=True, slots=True)
class AskedRows:
    """Some logged rows of a wide log, of the runs that were asked for.

    Attributes
    ----------
    table : pyarrow.Table
        The columns that were asked for, run id and step among them.
    run : (row,) int32 array
        Position of the run.
    step : (row,) int64 array
        Step; -1 for a row without one that can be used.
    """

    table: pa.Table
    run: npt.NDArray[np.int32]
    step: npt.NDArray[np.int64]


def asked_rows(history: ExportFile, positions: Mapping[str, int], keys: Iterable[str] | None) -> Iterator[AskedRows]:
    """Yield the logged rows of some runs, in the order of the file.

    Parameters
    ----------
    positions : mapping of str to int
        Position of each run that is asked for.
    keys : iterable of str or None
        Columns to read beside run and step, where the file has them; all where None.
    """
    with _opened(history) as parquet:
        names = parquet.schema_arrow.names
        _check_log(history, names)
        step_name = step_column(names, history)
        wanted = {"run_id", step_name, *(names if keys is None else keys)}
        columns = [name for name in names if name in wanted]
        run_index = parquet.schema.names.index("run_id") if "run_id" in parquet.schema.names else None
        # Compared as UTF-8, as the statistics of the file are made.
        ids = sorted(run_id.encode("utf-8", "surrogatepass") for run_id in positions)
        known = {run_id: at for run_id, at in positions.items() if is_unicode(run_id)}
        asked = pa.array(known, type=pa.large_string())
        numbers = np.fromiter(known.values(), dtype=np.int32, count=len(known))
        for group in range(parquet.num_row_groups):
            if run_index is not None and not _may_hold(parquet.metadata.row_group(group).column(run_index), ids):
                continue
            table = parquet.read_row_group(group, columns=columns, use_threads=history.is_local)
            texts = read_texts(table["run_id"], _where("run_id", history), numbers=True, check=False)
            found = pc.index_in(texts.cast(pa.large_string()), value_set=asked)
            is_asked = pc.is_valid(found)
            if not pc.all(is_asked).as_py():
                table, found = table.filter(is_asked), found.filter(is_asked)
            yield AskedRows(table, numbers[found.to_numpy()], _steps(table[step_name], history))


def is_unicode(text: str) -> bool:
    """Return whether text has no half of a surrogate pair, which no column can hold."""
    return readable_text(text) == text


def _steps(column: pa.ChunkedArray, history: ExportFile) -> npt.NDArray[np.int64]:
    return read_whole_numbers(column, _where("step", history), most=MOST_STEPS - 1).values


def _where(name: str, file: ExportFile) -> str:
    return f"the column {name!r} of {file.shown}"


def _check_log(history: ExportFile, names: Sequence[str]) -> None:
    if "run_id" not in names:
        raise _not_an_export(history, "no column run_id", names)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise _not_an_export(history, f"more than one column {twice}", names)


def number_column(table: pa.Table, key: str, history: ExportFile) -> npt.NDArray[np.float64]:
    """Return a column of a wide log as numbers; NaN where a row has none."""
    return read_numbers(table[key], _where(key, history)).values


@functools.lru_cache(maxsize=4)
def log_columns(history: ExportFile) -> tuple[str, ...]:
    """Return the columns of a wide log that can be metrics, sorted: not those of lists, objects and times."""
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
    """Return whether all logged keys of a row stand in one column ``metrics``, or all rows of a run.

    dr_wandb 0.2 writes them so, as JSON text; other programs as a map, an object or a list of objects.
    """
    schema = _schema(history)
    at = schema.get_field_index("metrics")
    if at < 0:
        return False
    kind = schema.field(at).type
    return bool(pa.types.is_nested(kind)) or _holds_text(kind)


@functools.lru_cache(maxsize=2)
def read_packed_log(history: ExportFile) -> Log:
    """Return all logged rows of a log whose keys stand in one column."""
    builder = LogBuilder()
    names = column_names(history)
    _check_log(history, names)
    kept = [name for name in ("run_id", "step", "_step", "metrics") if name in names]
    with _opened(history) as parquet:
        for batch in parquet.iter_batches(columns=kept, use_threads=history.is_local):
            columns = {
                name: _values(batch.column(at), _where(name, history), is_id=name == "run_id")
                for at, name in enumerate(batch.schema.names)
            }
            step_name = next((name for name in ("step", "_step") if name in columns), None)
            steps = None if step_name is None else _steps(batch.column(step_name), history).tolist()
            for at, run_id in enumerate(columns["run_id"]):
                if run_id is None:
                    continue
                written = columns["metrics"][at]
                digest = hashlib.blake2b(f"{steps and steps[at]}\0{written}".encode(errors="replace"), digest_size=8)
                number = int.from_bytes(digest.digest())
                value, problem = read_json(written) if isinstance(written, str) else (written, "")
                if isinstance(value, list) and all(isinstance(row, dict) for row in value):
                    for row in value:
                        builder.add(run_id, step_of(row), logged_metrics(row)[0], number, problem=problem)
                    continue
                metrics, problem = read_object(value)
                step = np.nan if steps is None or steps[at] < 0 else float(steps[at])
                if steps is None:
                    step = as_float(metrics.get("_step"))
                builder.add(run_id, step, metrics, number, problem=problem)
    return builder.log()


def row_counts(history: ExportFile) -> dict[str, int]:
    """Return how many logged rows there are of each run; those without a run id are of ""."""
    counts: dict[str, int] = {}
    with _opened(history) as parquet:
        _check_log(history, parquet.schema_arrow.names)
        for group in range(parquet.num_row_groups):
            column = parquet.read_row_group(group, columns=["run_id"], use_threads=history.is_local)["run_id"]
            codes, names = _encoded_texts(column, _where("run_id", history))
            found = np.bincount(codes % (len(names) + 1), minlength=len(names) + 1).tolist()
            for run_id, count in zip([*names, ""], found, strict=True):
                if count:
                    counts[run_id] = counts.get(run_id, 0) + count
    return counts


def _may_hold(column: Any, ids: Sequence[bytes]) -> bool:
    """Return whether a part of the file may hold any of the ascending ids, by the least and the greatest in it."""
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
    """Return what tells the logged rows of each run from any others."""
    if is_packed(history):
        log = read_packed_log(history)
        return LogDigests(log.digests, log.rows_without_step, log.unreadable)
    counts: dict[str, int] = {}
    last: dict[str, float] = {}
    hashes: dict[str, int] = {}
    lost: dict[str, int] = {}
    with _opened(history) as parquet:
        _check_log(history, parquet.schema_arrow.names)
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group, use_threads=history.is_local)
            rows = np.zeros(table.num_rows, np.uint64)
            for name in table.column_names:
                # The same number means the same whatever its type, so that a file written anew by another
                # program changes nothing; the multiplier keeps columns apart.
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
                    lost[run_id] = lost.get(run_id, 0) + without_step
    digests = {run_id: f"{counts[run_id]}.{last[run_id]:.0f}.{hashes[run_id]:016x}" for run_id in counts}
    return LogDigests(digests, lost, {})


@dataclass(frozen=True, slots=True)
class LogDigests:
    """What tells the logged rows of each run from any others.

    Attributes
    ----------
    of_run : mapping of str to str
        Per run: how many rows, the last step, a hash of all they hold.
    rows_without_step, unreadable : mapping of str to int
        As of :class:`dde.sources.wandb.logs.Log`.
    """

    of_run: Mapping[str, str]
    rows_without_step: Mapping[str, int]
    unreadable: Mapping[str, int]


def _hashed(column: pa.ChunkedArray, where: str) -> npt.NDArray[np.uint64]:
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return np.asarray(pd.util.hash_array(read_numbers(column, where).values), dtype=np.uint64)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        # A run's id stands in all of its rows: each text is hashed once.
        return np.concatenate([np.empty(0, np.uint64), *map(_hashed_texts, column.chunks)])
    if pa.types.is_decimal(kind):
        return np.asarray(pd.util.hash_array(read_numbers(column, where).values), dtype=np.uint64)
    if _holds_text(kind):
        # Bytes that are no text, such as an interval, count as well.
        codes, names = _encoded_texts(column, where)
        return _hashed_objects([*map(readable_text, names), None])[codes]
    return _hashed_objects([None if value is None else str(value) for value in column.to_pylist()])


def _hashed_texts(texts: pa.Array) -> npt.NDArray[np.uint64]:
    encoded = texts.dictionary_encode()
    known = _hashed_objects([*encoded.dictionary.to_pylist(), None])
    numbers: npt.NDArray[np.int32] = encoded.indices.fill_null(len(known) - 1).to_numpy()
    return known[numbers]


def _hashed_objects(values: list[str | None]) -> npt.NDArray[np.uint64]:
    return np.asarray(pd.util.hash_array(np.array(values, dtype=object)), dtype=np.uint64)


@functools.lru_cache(maxsize=4)
def last_rates(history: ExportFile) -> Mapping[str, float]:
    """Return the learning rate that each run logged last; needed for flat exports alone."""
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
    """Return an export's file for reading parts of it; of one that is not local, without threads.

    A thread of Arrow that lets go of a Python file when the interpreter has ended would abort the process.
    """
    try:
        # Where a writer left checksums of pages, damage to a value is seen as well.
        return pq.ParquetFile(file.path if file.is_local else stream, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise FormatError(
            f"{file.shown} is no parquet file ({error}). So its runs can't be read. Export it again."
        ) from None


def _not_an_export(file: ExportFile, problem: str, names: Iterable[str]) -> FormatError:
    return FormatError(
        f"{file.shown} has {problem}, but {', '.join(list(names)[:10])}. So it is no export of dr_wandb. "
        "Export the project again, or remove the file from the folder."
    )
