"""Results of lm-evaluation-harness and trainer states of transformers: JSON files, parsed once, cached as numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from dde.array_types import Float64
from dde.cache.index_files import read_index_file, write_index_file
from dde.cache.storage import Storage
from dde.errors import ConflictWarning, FormatError, warn
from dde.sources.arrow_columns import Numbers
from dde.sources.json_text import read_json
from dde.suite.reading.contents import ColumnKind, Columns
from dde.suite.reading.suite_files import SuiteFile
from dde.suite.reading.text_tables import read_bytes

__all__ = [
    "ParsedCache",
    "ParsedNumbers",
    "ResultsFile",
    "evaluation_results",
    "parse_results",
    "parse_trainer_state",
    "result_column",
    "trainer_rows",
    "with_keys",
]


# No name of a task contains this character.
_SEPARATOR = "\x1f"
# Keys beside the results of a task that are not results.
_OTHER_KEYS = frozenset({"alias", "name", "sample_len", "sample_count"})
# transformers writes these once, in a row after the last one of the curve, with the mean of the loss.
_SUMMARY_KEYS = frozenset({"train_runtime", "train_samples_per_second", "train_steps_per_second"})


@dataclass(frozen=True, eq=False)
class ParsedNumbers:
    """Numbers of a parsed file.

    Attributes
    ----------
    columns : tuple of str
    values : (column, row) float64 array
        NaN where a row has no value.
    notes : tuple of str
        Sentences on content that was left out.
    """

    columns: tuple[str, ...]
    values: Float64
    notes: tuple[str, ...] = ()
    _row_of_column: dict[str, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._row_of_column.update({column: at for at, column in enumerate(self.columns)})

    def column(self, name: str) -> Float64 | None:
        """Return a column; None where there is none of that name."""
        at = self._row_of_column.get(name)
        return None if at is None else self.values[at]


@dataclass(frozen=True, eq=False)
class ResultsFile:
    """A file whose numbers are all in memory.

    Parameters
    ----------
    name : str
        Path of the file.
    parsed : ParsedNumbers
    """

    name: str
    parsed: ParsedNumbers

    untyped = False

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns."""
        return self.parsed.columns

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.parsed.values.shape[1])

    def read(self, columns: Sequence[str]) -> Columns:
        """Return columns as numbers, null where a row has no value."""
        found = ((column, self.parsed.column(column)) for column in columns)
        return {column: pa.chunked_array([pa.array(v, from_pandas=True)]) for column, v in found if v is not None}

    def read_numbers(self, columns: Sequence[str]) -> dict[str, Numbers]:
        """Return columns as numbers."""
        found = ((column, self.parsed.column(column)) for column in columns)
        return {column: Numbers(values, {}) for column, values in found if values is not None}

    def kinds(self) -> Mapping[str, ColumnKind]:
        """Return the kind of each column: all hold numbers."""
        return dict.fromkeys(self.parsed.columns, "number")


def parse_results(file: SuiteFile) -> ParsedNumbers:
    """Return the results of lm-evaluation-harness in a file: one row, a column for each task and metric.

    The names of the columns are those of :func:`result_column`.

    Parameters
    ----------
    file : SuiteFile

    Raises
    ------
    SourceError
        When the file can't be read.
    FormatError
        When it holds no results.
    """
    record = _json_object(file, "results of lm-evaluation-harness")
    results = record.get("results")
    if not isinstance(results, dict):
        raise FormatError(
            f"{file.path} has no object 'results', so it holds no results of lm-evaluation-harness. "
            "Narrow the pattern of the table to files that do, or write the file again."
        )
    groups = record.get("groups")
    if isinstance(groups, dict):
        # Most releases list groups of tasks among the results too.
        results = {**groups, **results}
    values: dict[str, float] = {}
    left_out = 0
    for task, metric, value in evaluation_results(results):
        if value is None:
            left_out += 1
        else:
            values.setdefault(result_column(task, metric), value)
    notes = () if not left_out else (f"{left_out} results of {file.path} are not numbers and are left out",)
    return ParsedNumbers(tuple(values), np.array([[value] for value in values.values()]).reshape(-1, 1), notes)


def result_column(task: str, metric: str) -> str:
    """Return the column name of a result; task and metric stay separable whatever characters they contain."""
    return f"{task}{_SEPARATOR}{metric}"


def with_keys(parsed: ParsedNumbers, key: Callable[[Mapping[str, object]], str], name: str) -> ParsedNumbers:
    """Rename the columns of results with a template of the fields ``task`` and ``metric``.

    Parameters
    ----------
    parsed : ParsedNumbers
        As :func:`parse_results` returns it.
    key : callable
    name : str
        Name of the file in errors.

    Raises
    ------
    FormatError
        When two results get the same key.
    """
    column_by_key: dict[str, str] = {}
    for column in parsed.columns:
        task, _, metric = column.partition(_SEPARATOR)
        made = key({"task": task, "metric": metric})
        if made in column_by_key:
            raise FormatError(
                f"{name} has two results of the key {made!r}: {column_by_key[made].replace(_SEPARATOR, ' ')} and "
                f"{task} {metric}, so the key is ambiguous. Name {{task}} and {{metric}} in key=."
            )
        column_by_key[made] = column
    return ParsedNumbers(tuple(column_by_key), parsed.values, parsed.notes)


def evaluation_results(results: Mapping[str, Any]) -> Iterator[tuple[str, str, float | None]]:
    """Yield task, metric and value of each result, for all releases of the harness; None where it is not a number.

    Releases from 0.4 on write the filter of the answers after a comma, ``acc,none``. The filter ``none`` is left out;
    any other becomes part of the metric's name, before the ``_stderr`` of its standard error.

    Parameters
    ----------
    results : mapping of str to mapping
        The object ``results`` of a file.

    Examples
    --------
    >>> new = {"gsm8k": {"alias": "gsm8k", "exact_match,strict-match": 0.5, "exact_match_stderr,strict-match": 0.01}}
    >>> list(evaluation_results({"piqa": {"acc,none": 0.7}, **new}))  # doctest: +NORMALIZE_WHITESPACE
    [('piqa', 'acc', 0.7), ('gsm8k', 'exact_match_strict-match', 0.5),
     ('gsm8k', 'exact_match_strict-match_stderr', 0.01)]
    """
    for task, of_task in results.items():
        if not isinstance(of_task, dict):
            yield task, "", None
            continue
        for written, value in of_task.items():
            if written.strip() in _OTHER_KEYS:
                continue
            metric, _, kind = (part.strip() for part in written.partition(","))
            if kind not in ("", "none"):
                stem = metric.removesuffix("_stderr")
                metric = f"{stem}_{kind}{metric[len(stem) :]}"
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                yield task, metric, _as_double(value)
            elif not (metric.endswith("_stderr") and value in ("N/A", None)):
                # A metric without a standard error has "N/A" or null there.
                yield task, metric, None


def parse_trainer_state(file: SuiteFile) -> ParsedNumbers:
    """Return the log of a trainer_state.json of transformers, one row per step.

    Raises
    ------
    SourceError
        When the file can't be read.
    FormatError
        When it holds no log, or a row without a step.
    """
    record = _json_object(file, "the state of a trainer")
    log = record.get("log_history")
    if not isinstance(log, list) or not all(isinstance(row, dict) for row in log):
        raise FormatError(
            f"{file.path} has no list 'log_history' of rows, so it has no log of a trainer. "
            "Narrow the pattern of the table to files that do, or write the file again."
        )
    return trainer_rows(log, file.path)


def trainer_rows(log: Sequence[Mapping[str, Any]], name: str) -> ParsedNumbers:
    """Return the rows of ``log_history``, joined by step, without the summary at the end of training.

    Parameters
    ----------
    log : sequence of mapping
    name : str
        Name of the log in errors.

    Warns
    -----
    ConflictWarning
        When two rows of a step have different values of one key; the first is used.

    Examples
    --------
    >>> log = [{"step": 10, "loss": 2.0}, {"step": 10, "eval_loss": 2.1}, {"step": 10, "train_runtime": 9.0}]
    >>> rows = trainer_rows(log, "the log")
    >>> rows.columns, rows.values.tolist(), rows.notes
    (('step', 'loss', 'eval_loss'), [[10.0], [2.0], [2.1]], ())
    """
    rows: dict[float, dict[str, float]] = {}
    keys: dict[str, None] = {"step": None}
    no_numbers: dict[str, int] = {}
    conflicts: list[str] = []
    for number, row in enumerate(log):
        if not _SUMMARY_KEYS.isdisjoint(row):
            continue
        step = row.get("step")
        if not isinstance(step, (int, float)) or isinstance(step, bool):
            raise FormatError(
                f"Row {number} of {name} has the step {step!r}, so the position of its values is unknown. "
                "Repair the file, or remove the row."
            )
        joined = rows.setdefault(_as_double(step), {"step": _as_double(step)})
        for key, value in row.items():
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                no_numbers[key] = no_numbers.get(key, 0) + 1
                continue
            keys.setdefault(key)
            double = _as_double(value)
            # Two NaNs do not conflict.
            if key in joined and joined[key] != double and not (np.isnan(joined[key]) and np.isnan(double)):
                conflicts.append(f"{key} at step {step}: {joined[key]!r} and {double!r}")
            joined.setdefault(key, double)
    notes = [
        f"{count} values of {key!r} in {name} are not numbers and are left out" for key, count in no_numbers.items()
    ]
    if conflicts:
        text = (
            f"{len(conflicts)} values of {name} occur twice at one step and differ ({conflicts[0]}); the first is used"
        )
        notes.append(text)
        _warn_conflict(f"{text}. Remove one of the rows from the file.")
    values = np.array([[row.get(key, np.nan) for row in rows.values()] for key in keys], np.float64)
    return ParsedNumbers(tuple(keys), values.reshape(len(keys), len(rows)), tuple(notes))


def _json_object(file: SuiteFile, what: str) -> dict[str, Any]:
    content = read_bytes(file).to_pybytes().removeprefix(b"\xef\xbb\xbf")
    try:
        record, problem = read_json(content.decode())
    except UnicodeDecodeError as error:
        record, problem = None, f"is not UTF-8 text ({error})"
    if not isinstance(record, dict):
        reason = problem or ("is empty" if record is None else "is not a JSON object")
        raise FormatError(f"{file.path} {reason}, so it does not hold {what}. Copy it again, or remove it.")
    return record


def _as_double(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _warn_conflict(message: str) -> None:
    warn(message, ConflictWarning, stacklevel=2)


#: Version of the stored form; increased whenever its meaning or the parsing changes.
_FORMAT = 1
_NAME = "parsed.npz"

#: Name of a file, its version, and the format that it was parsed as.
FileKey = tuple[str, str, str]


@dataclass(frozen=True)
class ParsedCache:
    """Numbers of parsed files of one suite.

    Parameters
    ----------
    folder : Storage
    """

    folder: Storage

    def load(self) -> dict[FileKey, ParsedNumbers]:
        """Return the cached numbers by name, version and format of the file; empty without a complete cache file."""
        stored = read_index_file(self.folder, _NAME)
        if stored is None or stored[0].get("format") != _FORMAT:
            return {}
        facts, arrays = stored
        cached: dict[FileKey, ParsedNumbers] = {}
        try:
            names = facts["columns"]
            numbers, values = arrays["column"], arrays["value"]
            at = start = 0
            for name, version, kind, n_columns, n_rows, notes in facts["files"]:
                columns = tuple(names[i] for i in numbers[at : at + n_columns].tolist())
                size = n_columns * n_rows
                block = values[start : start + size].reshape(n_columns, n_rows)
                cached[name, version, kind] = ParsedNumbers(columns, block, tuple(notes))
                at, start = at + n_columns, start + size
        except (KeyError, IndexError, TypeError, ValueError):
            return {}
        return cached

    def save(self, files: Mapping[FileKey, ParsedNumbers]) -> None:
        """Replace the cache file with these numbers; a failure to write is ignored, as files can be parsed again."""
        code_of: dict[str, int] = {}
        facts: list[list[Any]] = []
        columns: list[int] = []
        for (name, version, kind), parsed in files.items():
            facts.append([name, version, kind, *parsed.values.shape, list(parsed.notes)])
            columns += [code_of.setdefault(column, len(code_of)) for column in parsed.columns]
        values = [np.ascontiguousarray(parsed.values).ravel() for parsed in files.values()]
        arrays = {
            "column": np.array(columns, np.int32),
            "value": np.concatenate([np.empty(0), *values]),
        }
        with suppress(OSError):
            write_index_file(
                self.folder,
                _NAME,
                {"title": "numbers of result files", "format": _FORMAT, "files": facts, "columns": list(code_of)},
                arrays,
            )
