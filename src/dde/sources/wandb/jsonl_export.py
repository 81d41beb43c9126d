"""Read JSON-lines exports of dr_wandb 3: runs in `runs.jsonl`, and training logs in `history.jsonl`.

Each file is decoded once per process and version. Logged rows become numbers, a column per key, with the offset of
each line in the file, from which the complete row can be read again.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dde.errors import FormatError
from dde.sources.json_text import (
    NOTHING,
    NotExactError,
    Part,
    decode_line,
    dump_json,
    join_parts,
    object_text,
    read_json,
    split_object,
)
from dde.sources.protocols import History, RunRecord
from dde.sources.values import as_object, as_text, read_object
from dde.sources.wandb.export_files import Export, ExportFile, RunDigests
from dde.sources.wandb.export_folder import TEXT_COLUMNS, ExportedRun, ExportFolder, export_records
from dde.sources.wandb.logs import LOG_COLUMNS, Log, LogBuilder, empty_history, logged_metrics, logged_step
from dde.sources.wandb.raw_runs import OBJECT_COLUMNS, RawRow, RawRun, raw_row, raw_run
from dde.sources.wandb.records import pick
from dde.sources.wandb.summaries import SummaryTable

__all__ = [
    "JsonlStore",
    "log_parts",
    "metric_parts",
    "read_log",
    "run_digests",
    "run_lines",
    "run_parts",
    "summary_table",
]

# The time of the snapshot is not part of the run, so digests exclude it.
_EXPORTED_AT = re.compile(rb'"exported_at"\s*:\s*"[^"]*"')

# Run attributes that dr_wandb 3 exports as keys of their own; 0.1 had all attributes in one column.
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

    Lines are snapshots of dr_wandb 3 (``{"run": {...}, "exported_at": ...}``), or runs that already use those names,
    possibly with objects as JSON text. Of several lines with the same run id, the first is used. The key "problem"
    tells why a line could not be read completely; "" if it could.
    """
    seen: set[str] = set()
    for line in _lines(runs):
        for record in line.records:
            run_id = _run_id(record, runs)
            if run_id not in seen:
                seen.add(run_id)
                yield {**_columns(record), "run_id": run_id, "problem": line.problem}


@functools.lru_cache(maxsize=4)
def run_digests(runs: ExportFile) -> RunDigests:
    """Return a digest of the line of each run, excluding the time of the export."""
    return RunDigests.of(_line_digests(runs), runs, "lines")


def _line_digests(runs: ExportFile) -> Iterator[tuple[str, str]]:
    for line in _lines(runs):
        digest = hashlib.blake2b(_EXPORTED_AT.sub(b"", line.text), digest_size=8).hexdigest()
        for record in line.records:
            yield _run_id(record, runs), digest


@functools.lru_cache(maxsize=4)
def summary_table(runs: ExportFile) -> SummaryTable:
    """Return the table of all summaries, in the order of `run_lines`."""
    return SummaryTable.from_summaries((run["run_id"], run["summary"]) for run in run_lines(runs))


@functools.lru_cache(maxsize=2)
def read_log(history: ExportFile) -> Log:
    """Return all logged rows of an export."""
    builder = LogBuilder()
    for line in _lines(history):
        # A line with several rows needs a digest per row; otherwise the digest of the line is that of the row.
        of_line = hashlib.blake2b(line.text, digest_size=8).digest() if len(line.records) == 1 else b""
        for record in line.records:
            metrics, problem = logged_metrics(record)
            digest = of_line or hashlib.blake2b(dump_json(record).encode(errors="replace"), digest_size=8).digest()
            builder.add(
                _run_id(record, history),
                logged_step(record),
                metrics,
                int.from_bytes(digest),
                line.offset,
                problem or line.problem,
            )
    return builder.log()


def run_parts(runs: ExportFile) -> Iterator[tuple[dict[str, Part], str]]:
    """Yield each run once as `run_lines` does, with the JSON text of each column, and the problem with it."""
    seen: set[str] = set()
    records = ((line.text, record) for line in _lines(runs) for record in line.records)
    for text, record in records:
        run_id = _run_id(record, runs)
        if run_id in seen:
            continue
        seen.add(run_id)
        try:
            parts, problem = split_object(decode_line(text)), ""
            if isinstance(record.get("run"), dict):
                parts = split_object(parts["run"].text or "")
                columns = _snapshot_columns(parts)
            else:
                columns = _plain_columns(parts)
            # `decode_line` turns bytes that are not UTF-8 into these surrogates.
            if any("\udc80" <= letter <= "\udcff" for letter in run_id):
                raise NotExactError("has a run id that is not valid UTF-8")
        except NotExactError as error:
            columns, problem = {}, f"the run {error}"
        yield {**columns, "run_id": Part(None, run_id)}, problem


def log_parts(history: ExportFile, run_ids: Sequence[str]) -> Iterator[tuple[str, dict[str, Part], str]]:
    """Yield the logged rows of some runs, in the order of the file: run id, parts, and the problem with them."""
    log = read_log(history)
    names = list(log.run_ids)
    selected = [log.run_ids[run_id] for run_id in run_ids if run_id in log.run_ids]
    rows = np.flatnonzero(np.isin(log.run, selected))
    with history.open() as stream:
        for offset, run in zip(log.offset[rows].tolist(), log.run[rows].tolist(), strict=True):
            stream.seek(offset)
            try:
                parts, problem = split_object(decode_line(_text(stream.readline(), offset))), ""
            except NotExactError as error:
                parts, problem = {}, f"the row {error}"
            yield names[run], parts, problem


def metric_parts(parts: Mapping[str, Part]) -> Part:
    """Return the metrics of a row; see :func:`dde.sources.wandb.logs.logged_metrics`."""
    if "metrics" in parts:
        return parts["metrics"]
    return join_parts({k: part for k, part in parts.items() if k not in LOG_COLUMNS and not k.startswith("_")})


def _columns(record: Mapping[str, Any]) -> dict[str, Any]:
    run = record.get("run")
    if not isinstance(run, dict):
        plain = {key: record.get(key) for key in ("run_name", "state", "project", "entity", "created_at")}
        attributes = as_object(record.get("system_attrs"))
        if "tags" in record:
            attributes.setdefault("tags", record["tags"])
        return {
            **plain,
            "config": record.get("config"),
            "summary": record.get("summary"),
            "wandb_metadata": record.get("wandb_metadata", record.get("metadata")),
            "system_metrics": record.get("system_metrics"),
            "system_attrs": attributes,
            "sweep_info": record.get("sweep_info"),
        }
    return {
        **{key: run.get(key) for key in ("state", "project", "entity", "created_at", "config")},
        "run_name": run.get("name"),
        "summary": run.get("summary_metrics"),
        "wandb_metadata": run.get("metadata"),
        "system_metrics": run.get("system_metrics"),
        "system_attrs": pick(run, _ATTRIBUTES),
        "sweep_info": {"sweep_id": run.get("sweep_name")},
    }


def _plain_columns(parts: dict[str, Part]) -> dict[str, Part]:
    """Return the parts of a line with the column names of dr_wandb 0.1."""
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
    if isinstance(run_id, int) and not isinstance(run_id, bool):
        return str(run_id)
    raise FormatError(
        f"{file.shown} has a line without a run_id: {dump_json(dict(record))[:80]}, so it is not an export "
        "of dr_wandb. Export the project again, or remove the file from the folder."
    )


class _Line(NamedTuple):
    """A line of a file.

    Attributes
    ----------
    offset : int
        Byte offset of its start.
    text : bytes
        Content without surrounding white space.
    records : sequence of dict
        The object in the line, or the objects of the list in it.
    problem : str
        Why it could not be read completely; "" if it could.
    """

    offset: int
    text: bytes
    records: Sequence[dict[str, Any]]
    problem: str


_UTF8_MARK = b"\xef\xbb\xbf"
# First bytes of files that are not UTF-8 text, with a description.
_OTHER_FORMS = {
    b"\x1f\x8b": "compressed by gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"BZh": "compressed by bzip2",
    b"PK\x03\x04": "a zip archive",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"PAR1": "a parquet file",
}


def _lines(file: ExportFile) -> Iterator[_Line]:
    """Yield the lines of a file, except blank ones; of a line that is nested too deeply, the readable part."""
    offset = 0
    with file.open() as stream:
        for number, line in enumerate(stream, start=1):
            text = _text(line, offset)
            if text:
                records, problem = _decoded(text)
                if not records:
                    raise FormatError(_not_a_row(file, number, text))
                yield _Line(offset, text, records, problem)
            offset += len(line)


def _text(line: bytes, offset: int) -> bytes:
    # Windows programs write a byte order mark.
    return (line if offset else line.removeprefix(_UTF8_MARK)).strip()


def _decoded(text: bytes) -> tuple[Sequence[dict[str, Any]], str]:
    """Return the objects of a line, none for other content, and why they are incomplete."""
    # Bytes that are not UTF-8 become lone surrogates, which later steps note or reject.
    value, problem = read_json(decode_line(text))
    if isinstance(value, str):
        # The line was encoded twice.
        value, reason = read_object(value)
        problem = problem or reason
    if isinstance(value, dict):
        return _rows_of(value), problem
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        return value, problem
    return (), problem


def _rows_of(record: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """Return the rows of a line: the line itself, or the list of a run's rows that it has instead of metrics."""
    rows = record.get("metrics", record.get("history"))
    if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
        run_columns = {key: value for key, value in record.items() if key in LOG_COLUMNS}
        return [{**run_columns, **row} for row in rows]
    return (record,)


def _not_a_row(file: ExportFile, number: int, text: bytes) -> str:
    if number == 1:
        for start, kind in _OTHER_FORMS.items():
            if text.startswith(start):
                return f"{file.shown} is {kind}, which is not supported, so it can't be read. Unpack or convert it."
    return (
        f"{file.shown}, line {number}, is not a JSON object: {text[:60].decode('utf-8', 'replace')!r}, "
        "so the file is truncated or was not written by dr_wandb. Export the project again."
    )


class JsonlStore(ExportFolder):
    """A JSON-lines export of dr_wandb.

    Parameters
    ----------
    folder : str, path or Connection
        Folder with the export, or with one folder that has it; an fsspec URL. Other files are ignored.

    Raises
    ------
    SourceError
        From any method, if the folder has no export, or several.
    FormatError
        If a line is not a JSON object or has no run id.
    """

    form = "jsonl"

    def _run_digests(self) -> RunDigests:
        return run_digests(self._export().runs)

    def _records(self, export: Export, config_keys: tuple[str, ...]) -> tuple[RunRecord, ...]:
        return _run_records(export.runs, export.history, config_keys)

    def _summaries(self, runs: ExportFile) -> SummaryTable:
        return summary_table(runs)

    def _log_keys(self, history: ExportFile) -> list[str]:
        return read_log(history).keys()

    def history(self, run_ids: Sequence[str], keys: Sequence[str]) -> History:
        """Return the logged rows of the runs with the given keys; see `PosttrainingSource`.

        Rows without a usable step are left out; `runs` counts them.
        """
        keys = list(dict.fromkeys(keys))
        with self._reading() as export:
            if export.history is None:
                return empty_history(keys)
            return read_log(export.history).history(run_ids, keys)

    def is_flat(self) -> bool:
        """Return False: config and summary are separate; see `RawExport`."""
        return False

    def raw_runs(self) -> Iterator[RawRun]:
        """Yield every run with its complete content; see `RawExport`."""
        for run, problem in run_parts(self._export().runs):
            values = {name: as_text(run[name].value) if name in run else "" for name in ("run_id", *TEXT_COLUMNS)}
            created_at = run.get("created_at", NOTHING).value
            yield raw_run(values, created_at, [run.get(name, NOTHING) for name in OBJECT_COLUMNS], problem)

    def raw_rows(self, run_ids: Sequence[str]) -> Iterator[RawRow]:
        """Yield the logged rows of these runs; see `RawExport`."""
        file = self._export().history
        if file is None:
            return
        for run_id, row, problem in log_parts(file, run_ids):
            step, time, runtime, metadata = (row.get(a, row.get(b, NOTHING)) for a, b in _ROW_KEYS)
            metrics = metric_parts(row)
            yield raw_row(run_id, step.value, time.value, runtime.value, metadata, metrics, problem)

    def row_counts(self) -> Mapping[str, int]:
        """Return the number of logged rows of each run; see `RawExport`."""
        file = self._export().history
        if file is None:
            return {}
        log = read_log(file)
        counts = np.bincount(log.run, minlength=len(log.run_ids))
        return {run_id: int(counts[number]) for run_id, number in log.run_ids.items()}


# Keys that identify a row, under the names of dr_wandb and of W&B.
_ROW_KEYS = (("step", "_step"), ("timestamp", "_timestamp"), ("runtime", "_runtime"), ("wandb_metadata", "_wandb"))


@functools.lru_cache(maxsize=4)
def _run_records(runs: ExportFile, history: ExportFile | None, config_keys: tuple[str, ...]) -> tuple[RunRecord, ...]:
    logs = None if history is None else read_log(history).digests
    return export_records(_exported_runs(runs), summary_table(runs), run_digests(runs), logs, config_keys)


def _exported_runs(runs: ExportFile) -> Iterator[ExportedRun]:
    for run in run_lines(runs):
        config, problem = read_object(run["config"])
        notes = [f"its line {run['problem']}"] if run["problem"] else []
        notes += [f"the config {problem}, and is not used"] if problem else []
        tags = as_object(run["system_attrs"]).get("tags")
        yield ExportedRun(run["run_id"], run, config, run["wandb_metadata"], tags, tuple(notes))
