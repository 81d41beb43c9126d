"""Read parquet exports of dr_wandb: runs in `runs_metadata.parquet`, and training logs in `runs_history.parquet`.

A run's row is about 200 KB of JSON text. Columns are read when they are needed, and decoded once per process and
version of the file. Of the attributes, half of the text, only the beginning is decoded.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dde.sources.json_text import Part, top_level_value
from dde.sources.protocols import History, RunRecord
from dde.sources.values import as_object, as_text, read_object
from dde.sources.wandb import parquet_tables as tables
from dde.sources.wandb.export_files import Export, ExportFile, RunDigests
from dde.sources.wandb.export_folder import TEXT_COLUMNS, ExportedRun, ExportFolder, export_records
from dde.sources.wandb.logs import LOG_COLUMNS, empty_history, first_positions, ordered_history
from dde.sources.wandb.raw_runs import OBJECT_COLUMNS, RawRow, RawRun, raw_row, raw_run
from dde.sources.wandb.records import without_logged_rate
from dde.sources.wandb.summaries import SummaryTable

__all__ = ["ExportStore"]


class ExportStore(ExportFolder):
    """A parquet export of dr_wandb.

    Parameters
    ----------
    folder : str, path or Connection
        Folder with the export, or with one folder that has it; an fsspec URL. Other files are ignored.

    Raises
    ------
    SourceError
        From any method, if the folder has no export, or several.
    FormatError
        If a file is not parquet or its columns are missing.
    """

    form = "parquet"

    def _run_digests(self) -> RunDigests:
        return tables.run_digests(self._export().runs)

    def _records(self, export: Export, config_keys: tuple[str, ...]) -> tuple[RunRecord, ...]:
        return _run_records(export.runs, export.history, config_keys)

    def _summaries(self, runs: ExportFile) -> SummaryTable:
        return tables.summary_table(runs)

    def _log_keys(self, history: ExportFile) -> list[str]:
        if tables.is_packed(history):
            return tables.read_packed_log(history).keys()
        return list(tables.log_columns(history))

    def history(self, run_ids: Sequence[str], keys: Sequence[str]) -> History:
        """Return the logged rows of the runs with the given keys; see `PosttrainingSource`.

        Reads only the columns of these keys, and only row groups that may contain the runs. Rows without a usable
        step are left out; `runs` counts them.
        """
        keys = list(dict.fromkeys(keys))
        positions = first_positions(run_ids)
        with self._reading() as export:
            file = export.history
            if file is None or not positions:
                return empty_history(keys)
            if tables.is_packed(file):
                return tables.read_packed_log(file).history(run_ids, keys)
            return _wide_history(file, positions, keys)

    def is_flat(self) -> bool:
        """Return whether config and summary are in one object; see `RawExport`."""
        return tables.is_flat(self._export().runs)

    def raw_runs(self) -> Iterator[RawRun]:
        """Yield every run with its complete content; see `RawExport`."""
        runs = self._export().runs
        flat = tables.is_flat(runs)
        for row in tables.run_rows(runs, None):
            objects = [row.get(name) for name in OBJECT_COLUMNS]
            if flat:
                objects[0] = row["raw_data"] if "raw_data" in row else tables.flat_object(row)[0]
            names = {name: as_text(row.get(name)) for name in TEXT_COLUMNS}
            parts = [Part(None, value) for value in objects]
            yield raw_run({"run_id": row["run_id"], **names}, row.get("created_at"), parts)

    def raw_rows(self, run_ids: Sequence[str]) -> Iterator[RawRow]:
        """Yield the logged rows of these runs; see `RawExport`. A null in the file is a key that was not logged."""
        file = self._export().history
        if file is None:
            return
        packed = tables.is_packed(file)
        for rows in tables.selected_rows(file, first_positions(run_ids), None):
            step_column = tables.step_column(rows.table.column_names, file)
            row_columns = LOG_COLUMNS | {step_column}
            ids = [run_ids[at] for at in rows.run.tolist()]
            for run_id, row in zip(ids, rows.table.to_pylist(), strict=True):
                metrics = {k: v for k, v in row.items() if v is not None and k not in row_columns}
                yield raw_row(
                    run_id,
                    row[step_column],
                    row.get("timestamp"),
                    row.get("runtime"),
                    Part(None, row.get("wandb_metadata")),
                    Part(None, row["metrics"] if packed else metrics),
                )

    def row_counts(self) -> Mapping[str, int]:
        """Return the number of logged rows of each run; see `RawExport`."""
        file = self._export().history
        return {} if file is None else tables.row_counts(file)


def _wide_history(file: ExportFile, positions: Mapping[str, int], keys: Sequence[str]) -> History:
    metric_keys = [key for key in keys if key not in LOG_COLUMNS]
    runs = [np.empty(0, np.int32)]
    steps = [np.empty(0, np.int64)]
    values = {key: [np.empty(0)] for key in keys}
    for rows in tables.selected_rows(file, positions, metric_keys):
        usable = rows.step >= 0
        all_usable = bool(usable.all())
        runs.append(rows.run if all_usable else rows.run[usable])
        steps.append(rows.step if all_usable else rows.step[usable])
        for key in keys:
            is_metric = key in rows.table.column_names and key not in LOG_COLUMNS
            numbers = tables.number_column(rows.table, key, file) if is_metric else np.full(len(rows.run), np.nan)
            values[key].append(numbers if all_usable else numbers[usable])
    joined = {key: np.concatenate(parts) for key, parts in values.items()}
    return ordered_history(np.concatenate(runs), np.concatenate(steps), joined)


@functools.lru_cache(maxsize=4)
def _run_records(runs: ExportFile, history: ExportFile | None, config_keys: tuple[str, ...]) -> tuple[RunRecord, ...]:
    summaries = tables.summary_table(runs)
    logs = None if history is None else tables.history_digests(history)
    exported = _exported_runs(runs, history, summaries, config_keys)
    return export_records(exported, summaries, tables.run_digests(runs), logs, config_keys)


def _exported_runs(
    runs: ExportFile, history: ExportFile | None, summaries: SummaryTable, config_keys: tuple[str, ...]
) -> Iterator[ExportedRun]:
    flat = tables.is_flat(runs)
    rates = tables.last_rates(history) if flat and history is not None else {}
    columns = [*TEXT_COLUMNS, "created_at"]
    columns += ["raw_data", *config_keys] if flat else ["config", "wandb_metadata", "system_attrs"]
    for position, row in enumerate(tables.run_rows(runs, columns)):
        run_id = row["run_id"]
        parts = _parts(row, flat)
        config = parts.config
        if flat:
            config = without_logged_rate(config, summaries.counters[position], rates.get(run_id))
        notes = (f"the config {parts.problem}, and is not used",) if parts.problem else ()
        yield ExportedRun(run_id, row, config, parts.launch, parts.tags, notes)


@dataclass(frozen=True, slots=True)
class _Parts:
    """Config, launch metadata and tags of a row, and why the config is incomplete."""

    config: Mapping[str, Any]
    problem: str
    launch: object
    tags: object


def _parts(row: Mapping[str, Any], flat: bool) -> _Parts:
    if flat:
        values, problem = tables.flat_object(row)
        return _Parts(values, problem, values.get("wandb_metadata", values.get("metadata")), values.get("tags"))
    attributes = row.get("system_attrs")
    tags = top_level_value(attributes, "tags") if isinstance(attributes, str) else as_object(attributes).get("tags")
    return _Parts(*read_object(row.get("config")), row.get("wandb_metadata"), tags)
