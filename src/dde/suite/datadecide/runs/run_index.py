"""Cache of the runs of a post-training store: records, columns, token positions, counters and names of metrics.

A launch command may contain secrets (``--hf_token=...``, ``WANDB_API_KEY=...``). Therefore only the options and config
keys that are used as evidence are cached, and nothing is cached if one of them looks like a secret.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.cache.index_files import read_index_file, write_index_file
from dde.cache.storage import Storage
from dde.lineage.ragged_rows import rows_of
from dde.sources.protocols import History, RunRecord
from dde.sources.values import as_float
from dde.suite.datadecide.runs.derived_columns import CACHED_KEYS, DerivedColumns, PlacedRows
from dde.suite.datadecide.runs.evidence import USED_EXTRAS, is_training_program, key_values, parse_command

__all__ = ["RunIndex", "is_versions_digest", "reduced", "versions_digest"]

_OF_VERSIONS = "runs:"

_KEYS = [*sorted(CACHED_KEYS), *USED_EXTRAS]

#: Increased whenever the same records give other columns.
_COLUMNS = 1

# Separator of the parts of a command, and of tags.
_SEPARATOR = "\n"
_TEXTS = ("run_id", "run_name", "state", "project", "entity", "version")
# Options that take several values. Words after the value of another option may be anything, even a secret.
_LISTS = frozenset({"dataset_mixer_list"})
_SECRET = re.compile(
    r"(?:pass(?:word|wd|phrase)?|secret|(?:api|access|private|auth)[_-]?key|(?<![A-Za-z])token|credentials?)\s*[\"']?[=:]"
    r"|\bhf_[A-Za-z0-9]{16,}|\bAKIA[A-Z0-9]{12,}|\bbearer\s|://[^/\s\"]*@",
    re.IGNORECASE,
)


def reduced(record: RunRecord) -> RunRecord | None:
    """Return a record with only the options used as evidence; None if they can't be separated from others."""
    config = dict(record.config)
    command: tuple[str, ...] = ()
    if is_training_program(record.program):
        options = parse_command(record.command)
        used = {key: value for key, value in options.items() if key in CACHED_KEYS}
        if any(isinstance(value, list) and not _takes_all(key, value) for key, value in used.items()):
            return None
        command = tuple(part for key, value in used.items() for part in _command_parts(key, value))
        extras_text = config.get("wandb_config") or options.get("wandb_config")
    else:
        extras_text = config.get("wandb_config")
    if extras_text:
        extras = key_values(extras_text)
        config["wandb_config"] = ",".join(f"{key}={extras[key]}" for key in USED_EXTRAS if key in extras)
    return RunRecord(
        run_id=record.run_id,
        run_name=record.run_name,
        state=record.state,
        project=record.project,
        entity=record.entity,
        created_at=record.created_at,
        config=config,
        summary=record.summary,
        command=command,
        program=PurePosixPath(record.program).name,
        gpu_count=record.gpu_count,
        tags=record.tags,
        evaluated=record.evaluated,
        version=record.version,
        rows_without_step=record.rows_without_step,
        problem=record.problem,
        notes=record.notes,
    )


def versions_digest(versions: Iterable[tuple[str, str]]) -> str:
    """Return a digest of the versions of all runs, which identifies the store's content; "" if a version is missing.

    Parameters
    ----------
    versions : iterable of (str, str)
        Run id and version of each run.
    """
    pairs = list(versions)
    if not all(version for _, version in pairs):
        return ""
    digest = hashlib.sha256()
    for text in sorted(f"{run_id}\0{version}\0" for run_id, version in pairs):
        digest.update(text.encode("utf-8", "surrogatepass"))
    return _OF_VERSIONS + digest.hexdigest()[:16]


def is_versions_digest(fingerprint: str) -> bool:
    """Return whether a fingerprint is a digest of the versions of runs, rather than the fingerprint of a store."""
    return fingerprint.startswith(_OF_VERSIONS)


def _takes_all(key: str, values: list[str]) -> bool:
    """Return whether all values can be cached: the option takes several, or the values after its own are numbers."""
    return key in _LISTS or all(math.isfinite(as_float(value)) for value in values[1:])


def _parts(text: str) -> tuple[str, ...]:
    return tuple(text.split(_SEPARATOR)) if text else ()


def _command_parts(key: str, value: str | list[str]) -> list[str]:
    first, *rest = value if isinstance(value, list) else [value]
    return [f"--{key}={first}", *rest]


@dataclass(frozen=True)
class RunIndex:
    """Cache of the runs of one store in one state.

    Parameters
    ----------
    folder : Storage
    fingerprint : str
        Fingerprint of the store's content; files with another fingerprint are ignored.
    """

    folder: Storage
    fingerprint: str

    def load(self) -> tuple[list[RunRecord], list[str]] | None:
        """Return the cached records, by run id, and the conflicts that the store reported; None without them."""
        found = read_index_file(self.folder, "runs.npz")
        # Another release may use other keys as evidence.
        if found is None or (found[0].get("fingerprint"), found[0].get("keys")) != (self.fingerprint, _KEYS):
            return None
        facts, arrays = found
        try:
            texts = zip(*(facts[name] for name in _TEXTS), strict=True)
            columns = (facts[name] for name in ("config", "summary", "command", "program", "gpu_count", "tags"))
            others = (facts[name] for name in ("rows_without_step", "problem", "record_notes"))
            records = [
                RunRecord(
                    run_id, run_name, state, project, entity, created_at, config, summary, _parts(command), program,
                    gpu_count, _parts(tags), evaluated, version, rows, problem, tuple(record_notes),
                )
                for (run_id, run_name, state, project, entity, version), config, summary, command, program, gpu_count,
                tags, created_at, evaluated, rows, problem, record_notes
                in zip(texts, *columns, arrays["created_at"], arrays["evaluated"].tolist(), *others, strict=True)
            ]  # fmt: skip
            return records, list(facts["notes"])
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def save(self, records: Sequence[RunRecord], notes: Sequence[str]) -> bool:
        """Cache records. Return whether this succeeded: they may contain a secret, or the cache can't be written."""
        cached: list[RunRecord] = []
        for record in records:
            if (without_rest := reduced(record)) is None:
                return False
            cached.append(without_rest)
        facts: dict[str, Any] = {
            "title": "post-training runs",
            "fingerprint": self.fingerprint,
            "keys": _KEYS,
            "notes": list(notes),
        }
        for name in (*_TEXTS, "summary", "program", "gpu_count", "rows_without_step", "problem"):
            facts[name] = [getattr(record, name) for record in cached]
        facts["record_notes"] = [list(record.notes) for record in cached]
        facts["config"] = [dict(record.config) for record in cached]
        facts["command"] = [_SEPARATOR.join(record.command) for record in cached]
        facts["tags"] = [_SEPARATOR.join(record.tags) for record in cached]
        if any(_SEPARATOR in part for record in cached for part in (*record.command, *record.tags)):
            return False
        arrays = {
            "created_at": np.array([record.created_at for record in cached], "datetime64[us]"),
            "evaluated": np.array([record.evaluated for record in cached], bool),
        }
        # On failure, or if a value has no JSON form, the store is read again at the next opening.
        with suppress(OSError, TypeError, ValueError):
            # The n of an escaped line feed would be taken for the beginning of the next word.
            if not _SECRET.search(json.dumps(facts).replace("\\n", " ")):
                write_index_file(self.folder, "runs.npz", facts, arrays)
                return True
        return False

    def load_columns(self, settings: list[Any]) -> tuple[DerivedColumns, list[str]] | None:
        """Return the columns of all runs, and the conflicts that the store reported; None if they are not cached.

        Parameters
        ----------
        settings : list
            Options that the columns depend on, in addition to the content of the store.
        """
        found = read_index_file(self.folder, "columns.npz")
        if found is None or found[0].get("key") != self._columns_key(settings):
            return None
        try:
            return DerivedColumns.unpacked(*found), list(found[0]["notes"])
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def save_columns(self, settings: list[Any], columns: DerivedColumns, notes: Sequence[str]) -> None:
        """Cache the columns of all runs, unless they may contain a secret or the cache can't be written."""
        facts, arrays = columns.packed()
        facts |= {"title": "run table", "key": self._columns_key(settings), "notes": list(notes)}
        with suppress(OSError, TypeError, ValueError):
            if not _SECRET.search(json.dumps(facts).replace("\\n", " ")):
                write_index_file(self.folder, "columns.npz", facts, arrays)

    def load_placed_rows(self, settings: list[Any]) -> PlacedRows | None:
        """Return the rows of all runs by own tokens; None if they are not cached."""
        found = read_index_file(self.folder, "placed_rows.npz")
        if found is None or found[0].get("key") != self._columns_key(settings):
            return None
        try:
            return PlacedRows(found[1]["offsets"], found[1]["steps"], found[1]["tokens"])
        except KeyError:
            return None

    def save_placed_rows(self, settings: list[Any], rows: PlacedRows) -> None:
        """Cache the rows of all runs, unless the cache can't be written."""
        facts = {"title": "rows of post-training runs by their own tokens", "key": self._columns_key(settings)}
        with suppress(OSError):
            write_index_file(self.folder, "placed_rows.npz", facts, vars(rows))

    def load_metric_names(self) -> tuple[list[str], list[tuple[str, str]]] | None:
        """Return the keys of the logs and the (task, entry) of the evaluations; None if they are not cached."""
        found = read_index_file(self.folder, "metric_names.npz")
        if found is None or found[0].get("fingerprint") != self.fingerprint:
            return None
        try:
            return list(map(str, found[0]["keys"])), [(str(t), str(e)) for t, e in found[0]["evaluations"]]
        except (KeyError, TypeError, ValueError):
            return None

    def save_metric_names(self, keys: Sequence[str], evaluations: Sequence[tuple[str, str]]) -> None:
        """Cache the keys of the logs and the (task, entry) of the evaluations, as :meth:`save_columns` does."""
        facts: dict[str, Any] = {"title": "metrics of post-training runs", "fingerprint": self.fingerprint}
        facts = {**facts, "keys": list(keys), "evaluations": list(map(list, evaluations))}
        with suppress(OSError, TypeError, ValueError):
            if not _SECRET.search(json.dumps(facts).replace("\\n", " ")):
                write_index_file(self.folder, "metric_names.npz", facts, {})

    def _columns_key(self, settings: list[Any]) -> list[Any]:
        # In the form in which it is read from JSON.
        key: list[Any] = json.loads(json.dumps([self.fingerprint, _COLUMNS, _KEYS, settings]))
        return key

    def load_logs(self, name: str, run_ids: Sequence[str], keys: Sequence[str]) -> History | None:
        """Return the rows of some keys of the runs' logs; None if they are not cached.

        Parameters
        ----------
        name : str
            Name of the file, as passed to `save_logs`.
        run_ids, keys : sequences of str
        """
        found = read_index_file(self.folder, f"{name}.npz")
        if found is None or (found[0].get("fingerprint"), found[0].get("keys")) != (self.fingerprint, list(keys)):
            return None
        try:
            row_of = {run_id: i for i, run_id in enumerate(found[0]["run_id"])}
            at = np.array([row_of[run_id] for run_id in run_ids], np.int64)
            offsets, step = found[1]["row_offset"], found[1]["step"]
            values = {key: found[1][f"values_{i}"] for i, key in enumerate(found[0]["logged"])}
        except KeyError:
            return None
        lengths = offsets[at + 1] - offsets[at]
        rows = rows_of(offsets, at)
        run = np.repeat(np.arange(len(at), dtype=np.int32), lengths)
        return History(run, step[rows], {key: of_key[rows] for key, of_key in values.items()})

    def save_logs(self, name: str, run_ids: Sequence[str], keys: Sequence[str], rows: History) -> None:
        """Cache the rows of some keys of the logs of runs, unless the cache can't be written.

        Parameters
        ----------
        name : str
            Name of the file.
        run_ids, keys : sequences of str
            Runs and keys that were read.
        rows : History
            Rows with the keys that any of the runs logged.
        """
        logged = list(rows.values)
        facts = {
            "title": "token counters",
            "fingerprint": self.fingerprint,
            "keys": list(keys),
            "logged": logged,
            "run_id": list(run_ids),
        }
        arrays: Mapping[str, npt.NDArray[Any]] = {
            "row_offset": np.searchsorted(rows.run, np.arange(len(run_ids) + 1)).astype(np.int64),
            "step": rows.step,
            **{f"values_{i}": rows.values[key] for i, key in enumerate(logged)},
        }
        with suppress(OSError):
            write_index_file(self.folder, f"{name}.npz", facts, arrays)
