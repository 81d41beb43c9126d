"""Runs exported to parquet: `runs_metadata.parquet`, and training logs in `runs_history.parquet`.

A run's row is some 200 KB of JSON text. Columns are read as they are needed and decoded once per process and
version of the file; of the attributes, half of the text, only the beginning is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.sources import export_tables as tables
from dde.sources.exact_json import Part
from dde.sources.export_files import ExportFile, ExportFolder, RunDigests
from dde.sources.json_text import top_level_value
from dde.sources.log_rows import (
    LOG_COLUMNS,
    as_float_array,
    empty_history,
    first_positions,
    ordered_history,
)
from dde.sources.protocols import History, RunRecord
from dde.sources.raw_runs import OBJECT_COLUMNS, RawRow, RawRun, raw_row, raw_run
from dde.sources.run_records import run_record, wanted_config_keys, without_logged_rate
from dde.sources.values import as_object, as_text

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
        By any question, where the folder holds no export, or several.
    FormatError
        Where a file is no parquet or lacks its columns.
    """

    form = "parquet"

    def runs(self, extra_config_keys: Iterable[str] = ()) -> list[RunRecord]:
        """Return a record of every run, ordered by run_id; see `PosttrainingSource`.

        The version of a run is a digest of its row, and of its logged rows.
        """
        export = self._export()
        return list(_records(export.runs, export.history, wanted_config_keys(extra_config_keys)))

    def _run_digests(self) -> RunDigests:
        return tables.run_digests(self._export().runs)

    def history(self, run_ids: Sequence[str], keys: Sequence[str]) -> History:
        """Return the logged rows of the runs, with those keys alone; see `PosttrainingSource`.

        Reads the columns of these keys, and only the parts of the file that may hold the runs. Rows without
        a step can't be placed and are left out.
        """
        file = self._export().history
        keys = list(dict.fromkeys(keys))
        positions = first_positions(run_ids)
        runs = [np.empty(0, np.int32)]
        steps = [np.empty(0, np.int64)]
        values = {key: [np.empty(0)] for key in keys}
        if file is None or not positions:
            return empty_history(keys)
        for table, run in tables.asked_rows(file, positions, [key for key in keys if key not in LOG_COLUMNS]):
            step = as_float_array(table[tables.step_column(table.column_names, file)])
            placed = np.isfinite(step)
            runs.append(run[placed])
            steps.append(step[placed].astype(np.int64))
            for key in keys:
                is_metric = key in table.column_names and key not in LOG_COLUMNS
                numbers = as_float_array(table[key]) if is_metric else np.full(len(run), np.nan)
                values[key].append(numbers[placed])
        joined = {key: np.concatenate(parts) for key, parts in values.items()}
        return ordered_history(np.concatenate(runs), np.concatenate(steps), joined)

    def evaluations(
        self, run_ids: Sequence[str], names: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], npt.NDArray[np.float64]]:
        """Return final evaluations from the summaries: per (task, entry), a (run,) array.

        See `PosttrainingSource`.
        """
        return tables.summary_table(self._export().runs).select(run_ids, names)

    def metric_names(self) -> tuple[list[str], list[tuple[str, str]]]:
        """Return the keys of all histories and the (task, entry) of all evaluations, both sorted."""
        export = self._export()
        columns = [] if export.history is None else tables.column_names(export.history)
        logs = sorted(name for name in columns if name not in LOG_COLUMNS and not name.startswith("_"))
        return logs, tables.summary_table(export.runs).public_names()

    def is_flat(self) -> bool:
        """Whether config and summary stand in one object; see `RawExport`."""
        return tables.is_flat(self._export().runs)

    def raw_runs(self) -> Iterator[RawRun]:
        """Yield every run with all that the export has of it; see `RawExport`."""
        runs = self._export().runs
        flat = tables.is_flat(runs)
        for row in tables.run_rows(runs, None):
            objects = [row.get(name) for name in OBJECT_COLUMNS]
            if flat:
                objects[0] = row.get("raw_data", tables.flat_object(row))
            names = {name: as_text(row.get(name)) for name in ("run_name", "state", "project", "entity")}
            parts = [Part(None, value) for value in objects]
            yield raw_run({"run_id": row["run_id"], **names}, row.get("created_at"), parts)

    def raw_rows(self, run_ids: Sequence[str]) -> Iterator[RawRow]:
        """Yield the logged rows of these runs; see `RawExport`. A null in the file is a key not logged."""
        file = self._export().history
        if file is None:
            return
        for table, _ in tables.asked_rows(file, first_positions(run_ids), None):
            step_column = tables.step_column(table.column_names, file)
            apart = LOG_COLUMNS | {step_column}
            for row in table.to_pylist():
                metrics = {k: v for k, v in row.items() if v is not None and k not in apart}
                yield raw_row(
                    row["run_id"],
                    row[step_column],
                    row.get("timestamp"),
                    row.get("runtime"),
                    Part(None, row.get("wandb_metadata")),
                    Part(None, metrics),
                )

    def row_counts(self) -> Mapping[str, int]:
        """Return how many logged rows there are of each run; see `RawExport`."""
        file = self._export().history
        return {} if file is None else tables.row_counts(file)


@functools.lru_cache(maxsize=4)
def _records(runs: ExportFile, history: ExportFile | None, config_keys: tuple[str, ...]) -> tuple[RunRecord, ...]:
    summaries = tables.summary_table(runs)
    digests = tables.run_digests(runs)
    digests.warn()
    logged = {} if history is None else tables.history_digests(history)
    flat = tables.is_flat(runs)
    rates = tables.last_rates(history) if flat and history is not None else {}
    wanted = ["run_name", "state", "project", "entity", "created_at"]
    wanted += ["raw_data", *config_keys] if flat else ["config", "wandb_metadata", "system_attrs"]
    records = []
    for position, row in enumerate(tables.run_rows(runs, wanted)):
        run_id = row["run_id"]
        config, metadata, tags = _parts(row, flat)
        picked = summaries.picked[position]
        if flat:
            config = without_logged_rate(config, picked, rates.get(run_id))
        records.append(
            run_record(
                run_id=run_id,
                run_name=row.get("run_name"),
                state=row.get("state"),
                project=row.get("project"),
                entity=row.get("entity"),
                created_at=row.get("created_at"),
                config=config,
                summary=picked,
                metadata=metadata,
                tags=tags,
                config_keys=config_keys,
                evaluated=summaries.evaluated[position],
                version=f"{digests.of_run[run_id]}-{logged.get(run_id, '')}",
            )
        )
    return tuple(sorted(records, key=lambda record: record.run_id))


def _parts(row: Mapping[str, Any], flat: bool) -> tuple[Mapping[str, Any], object, object]:
    """Return config, launch metadata and tags of a row."""
    if flat:
        values = tables.flat_object(row)
        return values, values.get("wandb_metadata", values.get("metadata")), values.get("tags")
    attributes = row.get("system_attrs")
    tags = top_level_value(attributes, "tags") if isinstance(attributes, str) else as_object(attributes).get("tags")
    config = as_object(tables.json_value(row.get("config")))
    return config, tables.json_value(row.get("wandb_metadata")), tags
