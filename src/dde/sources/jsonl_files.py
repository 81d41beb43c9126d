"""Reading the two JSON-lines files of an export: dr_wandb 3 writes a snapshot or a logged row per line.

Each file is decoded once per process and version of the file. Logged rows are kept as numbers, a column per
key, with the place of each line, from which a whole row can be read again.
"""

from __future__ import annotations

import functools
import hashlib
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.errors import FormatError
from dde.sources.connection import redact
from dde.sources.exact_json import (
    NOTHING,
    NotExactError,
    Part,
    decode_line,
    join_parts,
    object_text,
    split_object,
)
from dde.sources.export_files import ExportFile, RunDigests
from dde.sources.json_text import dump_json, load_json
from dde.sources.log_rows import LOG_COLUMNS
from dde.sources.run_records import pick
from dde.sources.summary_table import SummaryTable
from dde.sources.values import as_float, as_object

__all__ = [
    "Log",
    "log_parts",
    "logged_metrics",
    "metric_parts",
    "read_log",
    "run_digests",
    "run_lines",
    "run_parts",
    "summary_table",
]

# When a snapshot was taken says nothing of the run.
_EXPORTED_AT = re.compile(rb'"exported_at"\s*:\s*"[^"]*"')

# What dr_wandb 3 keeps of a run's attributes; 0.1 had all of them in one column.
_ATTRIBUTES = (
    "tags",
    "display_name",
    "updated_at",
    "heartbeat_at",
    "storage_id",
    "url",
    "path",
    "group",
    "job_type",
    "user",
    "read_only",
    "history_keys",
)


def run_lines(runs: ExportFile) -> Iterator[dict[str, Any]]:
    """Yield each run once, under the column names of dr_wandb 0.1, with objects decoded.

    Lines are snapshots of dr_wandb 3 (``{"run": {...}, "exported_at": ...}``), or runs under those names
    already, their objects perhaps as JSON text. Of lines with one run id the first counts.
    """
    seen: set[str] = set()
    for _, _, record in _records(runs):
        run = _columns(record)
        if run["run_id"] not in seen:
            seen.add(run["run_id"])
            yield run


@functools.lru_cache(maxsize=4)
def run_digests(runs: ExportFile) -> RunDigests:
    """Return a digest of the line of each run, less the time it was exported."""
    return RunDigests.of(_line_digests(runs), runs, "lines")


def _line_digests(runs: ExportFile) -> Iterator[tuple[str, str]]:
    for _, line, record in _records(runs):
        digest = hashlib.blake2b(_EXPORTED_AT.sub(b"", line.strip()), digest_size=8)
        yield _columns(record)["run_id"], digest.hexdigest()


@functools.lru_cache(maxsize=4)
def summary_table(runs: ExportFile) -> SummaryTable:
    """Return what is kept of all summaries, in the order of `run_lines`."""
    return SummaryTable.from_summaries((run["run_id"], as_object(run["summary"])) for run in run_lines(runs))


@dataclass(frozen=True, slots=True)
class Log:
    """All logged rows of an export.

    Attributes
    ----------
    run_ids : mapping of str to int
        Number of each run.
    run, offset : (row,) arrays
        Number of the run, and where the row's line begins in the file.
    step : (row,) array
        Step; NaN for a row without one.
    columns : mapping of str to ((value,) array, (value,) array)
        Per key, the rows that have it, and their values.
    digests : mapping of str to str
        Per run: how many rows, the last step, and a hash of all they hold.
    """

    run_ids: Mapping[str, int]
    run: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    step: npt.NDArray[np.float64]
    columns: Mapping[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]
    digests: Mapping[str, str]


@functools.lru_cache(maxsize=2)
def read_log(history: ExportFile) -> Log:
    """Return all logged rows of an export."""
    run_ids: dict[str, int] = {}
    run, offsets, steps = array("i"), array("q"), array("d")
    columns: dict[str, tuple[array[int], array[float]]] = {}
    hashes: list[int] = []
    for row, (offset, line, record) in enumerate(_records(history)):
        run_id = _run_id(record, history)
        number = run_ids.setdefault(run_id, len(run_ids))
        if number == len(hashes):
            hashes.append(0)
        # A sum, so that the order of lines means nothing.
        hashes[number] += int.from_bytes(hashlib.blake2b(line.strip(), digest_size=8).digest())
        run.append(number)
        offsets.append(offset)
        steps.append(as_float(record.get("step", record.get("_step"))))
        for key, value in logged_metrics(record).items():
            rows, values = columns.setdefault(key, (array("q"), array("d")))
            rows.append(row)
            values.append(as_float(value))
    run_array, step_array = np.array(run, dtype=np.int32), np.array(steps, dtype=np.float64)
    counts = np.bincount(run_array, minlength=len(run_ids))
    last = np.full(len(run_ids), -np.inf)
    np.fmax.at(last, run_array, step_array)
    return Log(
        run_ids=run_ids,
        run=run_array,
        offset=np.array(offsets, dtype=np.int64),
        step=step_array,
        columns={
            key: (np.array(rows, dtype=np.int64), np.array(values, dtype=np.float64))
            for key, (rows, values) in columns.items()
        },
        digests={
            run_id: f"{counts[number]}.{last[number]:.0f}.{hashes[number] % 2**64:016x}"
            for run_id, number in run_ids.items()
        },
    )


def run_parts(runs: ExportFile) -> Iterator[tuple[dict[str, Part], str]]:
    """Yield each run once as `run_lines` does, with the JSON text of each column, and why that can't be had."""
    seen: set[str] = set()
    for _, line, record in _records(runs):
        run_id = _run_id(record, runs)
        if run_id in seen:
            continue
        seen.add(run_id)
        try:
            parts, problem = split_object(decode_line(line)), ""
            if isinstance(record.get("run"), dict):
                parts = split_object(parts["run"].text or "")
                columns = _snapshot_columns(parts)
            else:
                columns = _plain_columns(parts)
            if parts["run_id"].value != run_id:
                raise NotExactError("has a run id that is no UTF-8")
        except NotExactError as error:
            columns, problem = {}, f"the run {error}"
        yield {**columns, "run_id": Part(None, run_id)}, problem


def log_parts(history: ExportFile, run_ids: Sequence[str]) -> Iterator[tuple[str, dict[str, Part], str]]:
    """Yield the logged rows of some runs, in the order of the file: run id, parts, and why these can't be had."""
    log = read_log(history)
    names = list(log.run_ids)
    wanted = [log.run_ids[run_id] for run_id in run_ids if run_id in log.run_ids]
    rows = np.flatnonzero(np.isin(log.run, wanted))
    with history.open() as stream:
        for offset, run in zip(log.offset[rows].tolist(), log.run[rows].tolist(), strict=True):
            stream.seek(offset)
            try:
                parts, problem = split_object(decode_line(stream.readline())), ""
            except NotExactError as error:
                parts, problem = {}, f"the row {error}"
            yield names[run], parts, problem


def metric_parts(parts: Mapping[str, Part]) -> Part:
    """Return what a row logged; see `logged_metrics`."""
    if "metrics" in parts:
        return parts["metrics"]
    return join_parts({k: part for k, part in parts.items() if k not in LOG_COLUMNS and not k.startswith("_")})


def logged_metrics(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a row logged: its ``metrics``, else every key that is not W&B's own or a row's place."""
    if "metrics" in record:
        return as_object(record["metrics"])
    return {key: value for key, value in record.items() if key not in LOG_COLUMNS and not key.startswith("_")}


def _columns(record: Mapping[str, Any]) -> dict[str, Any]:
    run = record.get("run")
    if not isinstance(run, dict):
        plain = {key: record.get(key) for key in ("run_name", "state", "project", "entity", "created_at")}
        attributes = as_object(record.get("system_attrs"))
        if "tags" in record:
            attributes.setdefault("tags", record["tags"])
        return {
            **plain,
            "run_id": record["run_id"],
            "config": record.get("config"),
            "summary": record.get("summary"),
            "wandb_metadata": record.get("wandb_metadata", record.get("metadata")),
            "system_metrics": record.get("system_metrics"),
            "system_attrs": attributes,
            "sweep_info": record.get("sweep_info"),
        }
    return {
        **{key: run.get(key) for key in ("run_id", "state", "project", "entity", "created_at", "config")},
        "run_name": run.get("name"),
        "summary": run.get("summary_metrics"),
        "wandb_metadata": run.get("metadata"),
        "system_metrics": run.get("system_metrics"),
        "system_attrs": pick(run, _ATTRIBUTES),
        "sweep_info": {"sweep_id": run.get("sweep_name")},
    }


def _plain_columns(parts: dict[str, Part]) -> dict[str, Part]:
    """Return the parts of a line that has the columns of dr_wandb 0.1."""
    if "wandb_metadata" not in parts and "metadata" in parts:
        parts["wandb_metadata"] = parts["metadata"]
    if "tags" in parts:
        attributes = split_object(object_text(parts.get("system_attrs", NOTHING)))
        parts["system_attrs"] = join_parts({"tags": parts["tags"], **attributes})
    return parts


def _snapshot_columns(run: dict[str, Part]) -> dict[str, Part]:
    """Return the parts of a snapshot of dr_wandb 3 under the names of the columns of 0.1; see `_columns`."""
    names = {"run_name": "name", "summary": "summary_metrics", "wandb_metadata": "metadata"}
    same = ("state", "project", "entity", "created_at", "config", "system_metrics")
    sweep = run.get("sweep_name", Part("null", None))
    return {
        **{name: run.get(names.get(name, name), NOTHING) for name in (*names, *same)},
        "system_attrs": join_parts({name: run[name] for name in _ATTRIBUTES if name in run}),
        "sweep_info": join_parts({"sweep_id": sweep}),
    }


def _run_id(record: Mapping[str, Any], file: ExportFile) -> str:
    run = record.get("run")
    run_id = (run if isinstance(run, dict) else record).get("run_id")
    if isinstance(run_id, str):
        return run_id
    raise FormatError(
        f"{redact(file.path)} has a line without a run_id: {dump_json(dict(record))[:80]}. So it is no export "
        "of dr_wandb. Export the project again, or remove the file from the folder."
    )


def _records(file: ExportFile) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
    """Yield where each line begins, the line, and what it holds; blank lines are skipped."""
    offset = 0
    with file.open() as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                record = load_json(line)
                if not isinstance(record, dict):
                    raise FormatError(
                        f"{redact(file.path)}, line {number}, is no JSON object: "
                        f"{line[:60].decode('utf-8', 'replace')!r}. So the file is cut short or was not "
                        "written by dr_wandb. Export the project again."
                    )
                _run_id(record, file)
                yield offset, line, record
            offset += len(line)
