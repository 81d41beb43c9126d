"""Reading the two parquet files of an export: rows of runs, and logged rows of some runs.

What is decoded is kept per process and version of the file, so that asking again costs nothing and a changed
file is read anew.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dde.errors import FormatError
from dde.sources.connection import redact
from dde.sources.export_files import ExportFile, RunDigests
from dde.sources.json_text import load_json
from dde.sources.log_rows import as_float_array
from dde.sources.protocols import SUMMARY_KEYS
from dde.sources.run_records import EVALUATION_PREFIX
from dde.sources.summary_table import SummaryTable
from dde.sources.values import as_object

__all__ = [
    "asked_rows",
    "column_names",
    "flat_object",
    "history_digests",
    "is_flat",
    "json_value",
    "last_rates",
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


def column_names(file: ExportFile) -> list[str]:
    """Return the names of a file's columns."""
    with file.open() as stream:
        return list(_parquet(stream, file).schema_arrow.names)


def is_flat(runs: ExportFile) -> bool:
    """Return whether config and summary stand in one object, or a column per key, as before dr_wandb 0.1."""
    return not {"config", "summary"} & set(column_names(runs))


def json_value(value: object) -> Any:
    """Return the value of a JSON column, which is text or was written as the object itself."""
    return load_json(value) if isinstance(value, (str, bytes)) else value


def flat_object(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of config and summary of a row of a flat export."""
    if "raw_data" in row:
        return as_object(json_value(row["raw_data"]))
    # A key that another run has and this one has not is a null here.
    return {key: value for key, value in row.items() if value is not None and key not in _STANDARD}


def run_rows(runs: ExportFile, columns: Iterable[str] | None) -> Iterator[dict[str, Any]]:
    """Yield each run's row once, those columns of it that the file has; all of them where None.

    Of rows with one run id the first counts; `run_digests` tells where they differ.
    """
    seen: set[str] = set()
    with runs.open() as stream:
        parquet = _parquet(stream, runs)
        names = parquet.schema_arrow.names
        if "run_id" not in names:
            raise _not_an_export(runs, "no column run_id", names)
        wanted = None if columns is None else [name for name in names if name in {"run_id", *columns}]
        for batch in parquet.iter_batches(batch_size=_BATCH, columns=wanted):
            for row in batch.to_pylist():
                run_id = row["run_id"]
                if isinstance(run_id, str) and run_id not in seen:
                    seen.add(run_id)
                    yield row


@functools.lru_cache(maxsize=4)
def run_digests(runs: ExportFile) -> RunDigests:
    """Return a digest of the whole row of each run."""
    return RunDigests.of(_row_digests(runs), runs, "rows")


def _row_digests(runs: ExportFile) -> Iterator[tuple[str, str]]:
    with runs.open() as stream:
        for batch in _parquet(stream, runs).iter_batches(batch_size=_BATCH):
            ids = batch.column(batch.schema.get_field_index("run_id")).to_pylist()
            columns = [(name, batch.column(at).to_pylist()) for at, name in enumerate(batch.schema.names)]
            for at, run_id in enumerate(ids):
                if not isinstance(run_id, str):
                    continue
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

    def summaries() -> Iterator[tuple[str, Mapping[str, Any]]]:
        for row in run_rows(runs, wanted):
            yield (
                row["run_id"],
                as_object(json_value(row["summary"])) if "summary" in row else flat_object(row),
            )

    return SummaryTable.from_summaries(summaries())


def step_column(names: Iterable[str], history: ExportFile) -> str:
    """Return the name of the column with steps."""
    for name in ("step", "_step"):
        if name in names:
            return name
    raise _not_an_export(history, "no column step", names)


def asked_rows(
    history: ExportFile, positions: Mapping[str, int], keys: Iterable[str] | None
) -> Iterator[tuple[pa.Table, npt.NDArray[np.int32]]]:
    """Yield the logged rows of some runs, in the order of the file, with the position of each row's run.

    Parameters
    ----------
    positions : mapping of str to int
        Position of each run that is asked for.
    keys : iterable of str or None
        Columns to read beside run and step, where the file has them; all where None.
    """
    with history.open() as stream:
        parquet = _parquet(stream, history)
        names = parquet.schema_arrow.names
        if "run_id" not in names:
            raise _not_an_export(history, "no column run_id", names)
        wanted = {"run_id", step_column(names, history), *(names if keys is None else keys)}
        columns = [name for name in names if name in wanted]
        run_index = parquet.schema.names.index("run_id") if "run_id" in parquet.schema.names else None
        # Compared as UTF-8, as the statistics of the file are made.
        ids = sorted(run_id.encode() for run_id in positions)
        asked = pa.array(positions, type=pa.large_string())
        numbers = np.fromiter(positions.values(), dtype=np.int32, count=len(positions))
        for group in range(parquet.num_row_groups):
            if run_index is not None and not _may_hold(parquet.metadata.row_group(group).column(run_index), ids):
                continue
            table = parquet.read_row_group(group, columns=columns)
            found = pc.index_in(table["run_id"].cast(pa.large_string()), value_set=asked)
            is_asked = pc.is_valid(found)
            table = table.filter(is_asked)
            yield table, numbers[found.filter(is_asked).to_numpy()]


def row_counts(history: ExportFile) -> dict[str, int]:
    """Return how many logged rows there are of each run; those without a run id are of ""."""
    counts: dict[str, int] = {}
    with history.open() as stream:
        parquet = _parquet(stream, history)
        if "run_id" not in parquet.schema_arrow.names:
            raise _not_an_export(history, "no column run_id", parquet.schema_arrow.names)
        for group in range(parquet.num_row_groups):
            found = pc.value_counts(parquet.read_row_group(group, columns=["run_id"])["run_id"])
            for pair in found.to_pylist():
                run_id = pair["values"] if isinstance(pair["values"], str) else ""
                counts[run_id] = counts.get(run_id, 0) + pair["counts"]
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
def history_digests(history: ExportFile) -> Mapping[str, str]:
    """Return a digest of each run's logged rows: how many, the last step, a hash of all they hold."""
    counts: dict[str, int] = {}
    last: dict[str, float] = {}
    hashes: dict[str, int] = {}
    with history.open() as stream:
        parquet = _parquet(stream, history)
        if "run_id" not in parquet.schema_arrow.names:
            raise _not_an_export(history, "no column run_id", parquet.schema_arrow.names)
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group)
            rows = np.zeros(table.num_rows, np.uint64)
            for name in table.column_names:
                # The same number means the same whatever its type, so that a file written anew by another
                # program changes nothing; the multiplier keeps columns apart.
                rows = rows * np.uint64(0x9E3779B97F4A7C15) + _hashed(table[name])
            step = as_float_array(table[step_column(table.column_names, history)])
            codes, names = pd.factorize(table["run_id"].to_pandas())
            order = np.argsort(codes, kind="stable")[np.count_nonzero(codes < 0) :]
            starts = np.searchsorted(codes[order], np.arange(len(names)))
            of_runs = zip(
                names,
                np.diff(starts, append=len(order)).tolist(),
                np.fmax.reduceat(step[order], starts).tolist() if len(names) else (),
                np.add.reduceat(rows[order], starts).tolist() if len(names) else (),
                strict=True,
            )
            for run_id, count, greatest, total in of_runs:
                counts[run_id] = counts.get(run_id, 0) + count
                last[run_id] = float(np.fmax(last.get(run_id, np.nan), greatest))
                hashes[run_id] = (hashes.get(run_id, 0) + total) % 2**64
    return {run_id: f"{counts[run_id]}.{last[run_id]:.0f}.{hashes[run_id]:016x}" for run_id in counts}


def _hashed(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return np.asarray(pd.util.hash_array(as_float_array(column)), dtype=np.uint64)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        # A run's id stands in all of its rows: each text is hashed once.
        return np.concatenate([np.empty(0, np.uint64), *map(_hashed_texts, column.chunks)])
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
    rates: dict[str, tuple[float, float]] = {}
    with history.open() as stream:
        parquet = _parquet(stream, history)
        names = parquet.schema_arrow.names
        if "learning_rate" not in names:
            return {}
        step_name = step_column(names, history)
        table = parquet.read(columns=["run_id", step_name, "learning_rate"])
    steps, logged = as_float_array(table[step_name]), as_float_array(table["learning_rate"])
    for run_id, step, rate in zip(table["run_id"].to_pylist(), steps, logged, strict=True):
        if not np.isnan(rate) and step >= rates.get(run_id, (-np.inf, 0.0))[0]:
            rates[run_id] = (float(step), float(rate))
    return {run_id: rate for run_id, (_, rate) in rates.items()}


def _parquet(stream: IO[bytes], file: ExportFile) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(stream)
    except pa.ArrowInvalid as error:
        raise FormatError(
            f"{redact(file.path)} is no parquet file ({error}). So its runs can't be read. Export it again."
        ) from None


def _not_an_export(file: ExportFile, problem: str, names: Iterable[str]) -> FormatError:
    return FormatError(
        f"{redact(file.path)} has {problem}, but {', '.join(list(names)[:10])}. So it is no export of dr_wandb. "
        "Export the project again, or remove the file from the folder."
    )
