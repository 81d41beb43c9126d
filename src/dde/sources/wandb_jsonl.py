"""Runs exported as JSON lines by dr_wandb 3: `runs.jsonl`, and training logs in `history.jsonl`."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dde.sources import jsonl_files as files
from dde.sources.decoded_logs import log_notes
from dde.sources.exact_json import NOTHING
from dde.sources.export_files import ExportFile, ExportFolder, RunDigests
from dde.sources.log_rows import empty_history
from dde.sources.protocols import History, RunRecord
from dde.sources.raw_runs import OBJECT_COLUMNS, RawRow, RawRun, raw_row, raw_run
from dde.sources.run_records import run_record, wanted_config_keys
from dde.sources.values import as_object, as_text, read_object

__all__ = ["JsonlStore"]


class JsonlStore(ExportFolder):
    """A JSON-lines export of dr_wandb.

    Parameters
    ----------
    folder : str, path or Connection
        Folder with the export, or with one folder that has it; an fsspec URL. Other files are ignored.

    Raises
    ------
    SourceError
        By any question, where the folder holds no export, or several.
    FormatError
        Where a line is no JSON object or has no run id.
    """

    form = "jsonl"

    def runs(self, extra_config_keys: Iterable[str] = ()) -> list[RunRecord]:
        """Return a record of every run, ordered by run_id; see `PosttrainingSource`.

        The version of a run is a digest of its line, and of its logged lines.
        """
        with self._reading() as export:
            return list(_run_records(export.runs, export.history, wanted_config_keys(extra_config_keys)))

    def _run_digests(self) -> RunDigests:
        return files.run_digests(self._export().runs)

    def history(self, run_ids: Sequence[str], keys: Sequence[str]) -> History:
        """Return the logged rows of the runs, with those keys alone; see `PosttrainingSource`.

        Rows without a step that can be used have no place and are left out; `runs` counts them.
        """
        keys = list(dict.fromkeys(keys))
        with self._reading() as export:
            if export.history is None:
                return empty_history(keys)
            return files.read_log(export.history).history(run_ids, keys)

    def evaluations(
        self, run_ids: Sequence[str], names: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], npt.NDArray[np.float64]]:
        """Return final evaluations from the summaries: per (task, entry), a (run,) array.

        See `PosttrainingSource`.
        """
        with self._reading() as export:
            return files.summary_table(export.runs).select(run_ids, names)

    def metric_names(self) -> tuple[list[str], list[tuple[str, str]]]:
        """Return the keys of all histories and the (task, entry) of all evaluations, both sorted."""
        with self._reading() as export:
            logs = [] if export.history is None else files.read_log(export.history).keys()
            return logs, files.summary_table(export.runs).public_names()

    def is_flat(self) -> bool:
        """Whether config and summary stand in one object: never; see `RawExport`."""
        return False

    def raw_runs(self) -> Iterator[RawRun]:
        """Yield every run with all that the export has of it; see `RawExport`."""
        for run, problem in files.run_parts(self._export().runs):
            values = {name: as_text(run[name].value) if name in run else "" for name in _NAMES}
            created_at = run.get("created_at", NOTHING).value
            yield raw_run(values, created_at, [run.get(name, NOTHING) for name in OBJECT_COLUMNS], problem)

    def raw_rows(self, run_ids: Sequence[str]) -> Iterator[RawRow]:
        """Yield the logged rows of these runs; see `RawExport`."""
        file = self._export().history
        if file is None:
            return
        for run_id, row, problem in files.log_parts(file, run_ids):
            step, time, runtime, metadata = (row.get(a, row.get(b, NOTHING)) for a, b in _PLACE)
            metrics = files.metric_parts(row)
            yield raw_row(run_id, step.value, time.value, runtime.value, metadata, metrics, problem)

    def row_counts(self) -> Mapping[str, int]:
        """Return how many logged rows there are of each run; see `RawExport`."""
        file = self._export().history
        if file is None:
            return {}
        log = files.read_log(file)
        counts = np.bincount(log.run, minlength=len(log.run_ids))
        return {run_id: int(counts[number]) for run_id, number in log.run_ids.items()}


_NAMES = ("run_id", "run_name", "state", "project", "entity")
# What says where a row stands, as dr_wandb and as W&B call it.
_PLACE = (("step", "_step"), ("timestamp", "_timestamp"), ("runtime", "_runtime"), ("wandb_metadata", "_wandb"))


@functools.lru_cache(maxsize=4)
def _run_records(runs: ExportFile, history: ExportFile | None, config_keys: tuple[str, ...]) -> tuple[RunRecord, ...]:
    summaries = files.summary_table(runs)
    digests = files.run_digests(runs)
    digests.warn()
    log = None if history is None else files.read_log(history)
    records = []
    for position, run in enumerate(files.run_lines(runs)):
        run_id = run["run_id"]
        config, problem = read_object(run["config"])
        notes = [f"its line {run['problem']}"] if run["problem"] else []
        notes += [f"the config {problem}, and is not used"] if problem else []
        records.append(
            run_record(
                run_id=run_id,
                run_name=run["run_name"],
                state=run["state"],
                project=run["project"],
                entity=run["entity"],
                created_at=run["created_at"],
                config=config,
                summary=summaries.picked[position],
                metadata=run["wandb_metadata"],
                tags=as_object(run["system_attrs"]).get("tags"),
                config_keys=config_keys,
                evaluated=summaries.evaluated[position],
                version=f"{digests.of_run[run_id]}-{'' if log is None else log.digests.get(run_id, '')}",
                rows_without_step=0 if log is None else log.rows_without_step.get(run_id, 0),
                notes=[
                    *notes,
                    *summaries.problems[position],
                    *log_notes(0 if log is None else log.unreadable.get(run_id, 0)),
                ],
            )
        )
    return tuple(sorted(records, key=lambda record: record.run_id))
