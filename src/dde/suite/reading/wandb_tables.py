"""W&B runs as a table of a suite, with columns from the history, the config, and the record of each run."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from dde.array_types import Int32, Int64
from dde.errors import FormatError, SourceError, UnknownNameError, list_names, near_names
from dde.sources.arrow_columns import Numbers
from dde.sources.connection import Connection
from dde.sources.protocols import RunRecord
from dde.sources.values import as_float, read_object, unwrapped
from dde.sources.wandb.records import CONFIG, config_heads, config_text, config_value
from dde.sources.wandb.store import WandBStore
from dde.suite.datadecide.runs.evidence import branch_point
from dde.suite.reading.contents import ColumnKind, Columns, Content, arrow_kind, numbers_of
from dde.suite.reading.declared_runs import Report
from dde.suite.reading.row_values import OpenedFile, RowValues
from dde.suite.rules import Rule
from dde.suite.table import Table

__all__ = [
    "RUN_COLUMNS",
    "StoreRuns",
    "WandbRows",
    "metric_columns",
    "open_stores",
    "report_silent_runs",
    "row_versions",
    "store_versions",
]


#: Columns from the record of a run.
RUN_COLUMNS = (
    "run_id",
    "run_name",
    "project",
    "entity",
    "state",
    "created_at",
    "tags",
    "forked_from",
    "forked_at",
    "rewound_at",
)
#: Both names of W&B's step of a row.
STEP_COLUMNS = ("_step", "step")
#: Prefix that selects a key of the history where the config has a key of the same name.
HISTORY = "history."

_MOST_SHOWN = 5


class StoreRuns:
    """Runs of one store, with the config keys that a suite names.

    Parameters
    ----------
    connection : Connection
    names : collection of str
        Names in the declaration, which may be config keys.

    Attributes
    ----------
    store : WandBStore
    records : tuple of RunRecord
        Runs that can be used, by run id.
    log_keys : tuple of str
        Keys of all histories.
    left_out : dict of str to list of str
        Runs that can't be used, by reason.

    Raises
    ------
    SourceError
        When the store is absent or can't be read.
    FormatError
        When a name is a key of the config and of the history.
    """

    def __init__(self, connection: Connection, names: Collection[str]) -> None:
        self.store = WandBStore(connection)
        heads = {head for name in names for head in config_heads(name)}
        records = self.store.runs(sorted(heads))
        self.records: tuple[RunRecord, ...] = tuple(record for record in records if not record.problem)
        self.left_out: dict[str, list[str]] = {}
        for record in records:
            if record.problem:
                self.left_out.setdefault(record.problem, []).append(record.run_id)
        self.log_keys: tuple[str, ...] = tuple(self.store.metric_names()[0])
        self._facts: dict[str, pa.Array] = {name: _fact(name, self.records) for name in RUN_COLUMNS}
        known = frozenset((*RUN_COLUMNS, *STEP_COLUMNS))
        logged = frozenset(self.log_keys)
        self.log_aliases: dict[str, str] = {}
        for name in sorted(set(names) - known):
            bare = name.removeprefix(HISTORY)
            if name not in logged and bare in logged:
                self.log_aliases[name] = bare
                continue
            values = [config_value(record.config, name.removeprefix(CONFIG)) for record in self.records]
            if name.startswith(CONFIG) and all(value is None for value in values):
                values = [config_value(record.config, name) for record in self.records]
            if all(value is None for value in values):
                continue
            if name in logged:
                raise FormatError(
                    f"{name!r} is a key of the config and one of the history of the runs in {self.store.description}, "
                    f"so the name is ambiguous in rules and templates. Write {CONFIG + name!r} or "
                    f"{HISTORY + name!r}; in a rule, with backquotes around it."
                )
            self._facts[name] = _column(values)
        self._notes = {record.run_id: record.notes for record in self.records if record.notes}

    @property
    def facts(self) -> Mapping[str, pa.Array]:
        """Column of each name that has one value a run, aligned with `records`."""
        return self._facts

    def config_keys(self) -> list[str]:
        """Return the keys of all configs; slow, as it reads complete configs, so only for errors."""
        raw_runs = getattr(self.store._source, "raw_runs", None)
        if raw_runs is None:
            configs: Iterable[Any] = (record.config for record in self.records)
        else:
            configs = (read_object(raw.objects[0])[0] for raw in raw_runs())
        found: dict[str, None] = {}
        for config in configs:
            found.update(dict.fromkeys(_flat_keys(config)))
        return [key for key in found if not key.startswith("_")]

    def notes_of(self, run_id: str) -> list[str]:
        """Return notes on unusable values of a run's config, for the keys that the declaration reads."""
        read = [name.removeprefix(CONFIG).partition(".")[0] for name in self._facts]
        return [note for note in self._notes.get(run_id, ()) if any(f"config.{key}" in note for key in read)]


class _RunFacts:
    """The runs of a store, one row each, to select the runs of a table before any history is read."""

    untyped = False

    def __init__(self, runs: StoreRuns) -> None:
        self._runs = runs
        self.name = runs.store.description
        self.columns: Sequence[str] = tuple(runs.facts)
        self.n_rows = len(runs.records)

    def read(self, columns: Sequence[str]) -> Columns:
        return {name: pa.chunked_array([self._runs.facts[name]]) for name in columns if name in self._runs.facts}

    def read_numbers(self, columns: Sequence[str]) -> dict[str, Numbers]:
        return numbers_of(self.read(columns), self.name)

    def kinds(self) -> Mapping[str, ColumnKind]:
        return {name: arrow_kind(values.type) for name, values in self._runs.facts.items()}


class WandbRows:
    """Logged rows of some runs of a store; a :class:`dde.suite.reading.contents.Content`.

    Parameters
    ----------
    runs : StoreRuns
    which : (run,) int64 array
        Numbers of the runs among the records.
    what : str
        Name of the table in errors.

    Notes
    -----
    Keys of histories are read on first use, with one request to the store. Facts of a run are repeated in all of its
    rows, and are not metrics.
    """

    untyped = False

    def __init__(self, runs: StoreRuns, which: Int64, what: str) -> None:
        self._runs = runs
        self._which = which
        #: Records of the selected runs.
        self.records = tuple(runs.records[i] for i in which.tolist())
        self._rows: tuple[Int32, Int64] | None = None
        self.name = f"{runs.store.description} ({what})"
        own = (*RUN_COLUMNS, *STEP_COLUMNS)
        logged = (key for key in runs.log_keys if key not in own)
        self.columns: Sequence[str] = tuple(dict.fromkeys((*own, *logged, *runs.log_aliases, *runs.facts)))
        self._log_keys = {**{key: key for key in runs.log_keys if key not in own}, **runs.log_aliases}

    @property
    def n_rows(self) -> int | None:
        """Number of rows; None before the first read."""
        return None if self._rows is None else len(self._rows[0])

    @property
    def metric_columns(self) -> tuple[str, ...]:
        """Keys of histories, the columns that can be metrics."""
        return tuple(key for key in self._log_keys if key not in self._runs.log_aliases)

    def read(self, columns: Sequence[str]) -> Columns:
        """Return columns; reads all requested keys of histories with one request."""
        own = [name for name in columns if name in self.columns]
        logged = self._read_history([name for name in own if name in self._log_keys])
        assert self._rows is not None
        run, step = self._rows
        found: dict[str, pa.ChunkedArray] = {}
        for name in own:
            if name in STEP_COLUMNS:
                values = pa.array(step)
            elif name in self._log_keys:
                values = pa.array(logged[self._log_keys[name]], from_pandas=True)
            else:
                values = _repeat_per_row(self._runs.facts[name], self._which, run)
            found[name] = pa.chunked_array([values])
        return found

    def read_numbers(self, columns: Sequence[str]) -> dict[str, Numbers]:
        """Return columns as numbers."""
        return numbers_of(self.read(columns), self.name)

    def kinds(self) -> Mapping[str, ColumnKind]:
        """Return the kind of each column; facts of runs count as text, as they are not metrics."""
        metrics = frozenset(self.metric_columns)
        return {name: "number" if name in metrics else "text" for name in self.columns}

    @property
    def run_of_rows(self) -> Int32:
        """Index into `records` of the run of each row."""
        assert self._rows is not None
        return self._rows[0]

    def _read_history(self, names: Sequence[str]) -> Mapping[str, npt.NDArray[np.float64]]:
        """Return keys of the history at the rows of the first read, which fixes the set of rows."""
        keys = list(dict.fromkeys(self._log_keys[name] for name in names))
        if self._rows is not None and not keys:
            return {}
        history = self._runs.store.history([record.run_id for record in self.records], keys)
        if self._rows is None:
            self._rows = history.run, history.step
            return history.values
        run, step = self._rows
        if np.array_equal(run, history.run) and np.array_equal(step, history.step):
            return history.values
        # Runs of a database may still be written; rows added after the first read are ignored.
        order = _row_keys(history.run, history.step).get_indexer(_row_keys(run, step))
        if (order < 0).any():
            run_id = self.records[int(run[np.flatnonzero(order < 0)[0]])].run_id
            raise SourceError(
                f"{self.name} has fewer rows than when it was opened: {int((order < 0).sum())} are gone, of the run "
                f"{run_id!r} among others, so values can't be assigned to rows. Open the suite again."
            )
        return {key: values[order] for key, values in history.values.items()}


def metric_columns(content: Content) -> Sequence[str]:
    """Return the columns of a file or store that can be metrics."""
    return content.metric_columns if isinstance(content, WandbRows) else content.columns


def open_stores(
    tables: Sequence[Table],
    places: Mapping[int, Sequence[Connection]],
    names: Mapping[int, frozenset[str]],
    report: Report,
) -> dict[int, list[OpenedFile]]:
    """Return the rows of each table of W&B runs, by the number of the table; reads records of runs, not histories.

    Parameters
    ----------
    tables : sequence of Table
        Declarations, completed with the defaults of the suite.
    places : mapping of int to sequence of Connection
        Locations of the runs of each table.
    names : mapping of int to frozenset of str
        Names that each table uses.
    report : Report
        Receives runs that no table selects, or that can't be used.

    Raises
    ------
    SourceError, FormatError
        As :class:`StoreRuns`.
    """
    stores: dict[Connection, StoreRuns] = {}
    taken: dict[Connection, set[int]] = {}
    for place in dict.fromkeys(place for of_table in places.values() for place in of_table):
        used = frozenset().union(*(names[number] for number, of_table in places.items() if place in of_table))
        stores[place], taken[place] = StoreRuns(place, used), set()
        for reason, ids in stores[place].left_out.items():
            report.add(f"runs of which each can't be used: {reason}", len(ids), f"{len(ids)} runs: {reason}")
    if len(places) == len(tables):
        _check_config_names(list(stores.values()), frozenset().union(*names.values()))
    opened: dict[int, list[OpenedFile]] = {}
    for number, of_table in places.items():
        opened[number] = []
        for place in of_table:
            which = _select_runs(stores[place], tables[number], f"tables[{number}]")
            taken[place].update(which.tolist())
            opened[number].append(OpenedFile(WandbRows(stores[place], which, f"tables[{number}]"), None, {}))
    for place, runs in stores.items():
        _report(runs, taken[place], report)
    return opened


def store_versions(file: OpenedFile) -> list[tuple[str, str]]:
    """Return id and version of each run that a table selects from a store; nothing for a file."""
    content = file.content
    return [(record.run_id, record.version) for record in content.records] if isinstance(content, WandbRows) else []


def row_versions(opened: Sequence[OpenedFile], run: Int64, file: Int32, row: Int64) -> list[tuple[int, str]]:
    """Return the versions of the W&B runs behind the runs of a table.

    Parameters
    ----------
    opened : sequence of OpenedFile
        Rows of stores.
    run, file, row : (row,) int arrays
        For each row, the number of its run, its index into `opened`, and its row there.

    Returns
    -------
    list of (int, str)
        Number of a run of the table, and id and version of a W&B run that has rows of it.
    """
    found: list[tuple[int, str]] = []
    for number, of_store in enumerate(opened):
        content = of_store.content
        assert isinstance(content, WandbRows)
        in_file = file == number
        of_store_run = content.run_of_rows[row[in_file]].astype(np.int64)
        pairs = np.unique(run[in_file] * (len(content.records) + 1) + of_store_run)
        for pair in pairs.tolist():
            record = content.records[pair % (len(content.records) + 1)]
            found.append((pair // (len(content.records) + 1), f"{record.run_id} {record.version}"))
    return found


def report_silent_runs(opened: Sequence[OpenedFile], file: Int32, row: Int64, what: str, report: Report) -> None:
    """Report the W&B runs that logged nothing, or have no row with a position; the table leaves them out.

    Parameters
    ----------
    opened : sequence of OpenedFile
    file, row : (row,) int arrays
        Rows with a position: index into `opened`, and row there.
    what : str
        Name of the table in notes.
    report : Report
    """
    silent: list[str] = []
    lost: list[str] = []
    for number, of_store in enumerate(opened):
        content = of_store.content
        if not isinstance(content, WandbRows) or content.n_rows is None:
            continue
        logged = np.bincount(content.run_of_rows, minlength=len(content.records))
        placed = np.bincount(content.run_of_rows[row[file == number]], minlength=len(content.records))
        silent += [content.records[i].run_id for i in np.flatnonzero(logged == 0).tolist()]
        lost += [content.records[i].run_id for i in np.flatnonzero((logged > 0) & (placed == 0)).tolist()]
    for ids, reason in ((silent, "runs without logged rows"), (lost, "runs of which no row has a step and tokens")):
        if ids:
            report.add_names(f"{reason}, in {what}", ids)


def _check_config_names(stores: Sequence[StoreRuns], names: frozenset[str]) -> None:
    """Raise UnknownNameError where no run of any store has a config key that the declaration names."""
    for name in sorted(name for name in names if name.startswith(CONFIG)):
        if any(name in runs.facts or name in runs.log_aliases for runs in stores):
            continue
        if any(is_sign in name for is_sign in " +*(<>="):
            # A complete rule; its names are checked one by one.
            continue
        key = name.removeprefix(CONFIG)
        known = list(dict.fromkeys(key for runs in stores for key in runs.config_keys()))
        listed = f" Keys are {list_names(known, 20)}." if known else ""
        raise UnknownNameError(
            f"No run in {', '.join(runs.store.description for runs in stores)} has the config key {key!r}, which the "
            f"suite names, so it has no value.{near_names(key, known)}{listed}"
        )


def _report(runs: StoreRuns, taken: Collection[int], report: Report) -> None:
    store = runs.store.description
    records = [runs.records[i] for i in sorted(taken)]
    others = [record.run_id for i, record in enumerate(runs.records) if i not in taken]
    if others:
        report.add(
            "runs that belong to no table", len(others), f"{len(others)} runs of {store} belong to no table: "
            f"{list_names(others)}",
        )  # fmt: skip
    if lost := {record.run_id: record.rows_without_step for record in records if record.rows_without_step}:
        count = sum(lost.values())
        report.add("rows without a step", count, f"{count} rows without a step are left out, of {list_names(lost)}")
    notes = [f"{record.run_id}: {note}" for record in records for note in runs.notes_of(record.run_id)]
    report.notes += notes[:_MOST_SHOWN]
    if len(notes) > _MOST_SHOWN:
        report.notes.append(f"{len(notes) - _MOST_SHOWN} more keys of configs can't be used")


def _select_runs(runs: StoreRuns, table: Table, what: str) -> Int64:
    """Return the runs that a table selects by facts of runs: by `parse`, and by `where` if it names only facts."""
    facts = _RunFacts(runs)
    values = RowValues([OpenedFile(facts, None, {})], what, table.factors)
    values.load(())
    known = set(facts.columns)
    for column, pattern in table.parse_patterns.items():
        if column in known:
            values.select(values.add_parsed(column, pattern))
            known |= set(pattern.fields)
    for name, rule in table.factors.items():
        if not callable(rule) and _names(rule) <= known:
            known.add(name)
    if table.where is not None and not callable(table.where) and _names(table.where) <= known:
        is_selected = np.broadcast_to(np.asarray(values.evaluate(table.where, f"{what}.where")), (values.n_rows,))
        if is_selected.dtype == np.bool_:
            values.select(is_selected)
    return values.index


def _names(rule: Any) -> frozenset[str]:
    """Return the names that a rule reads; none for a function."""
    return frozenset(Rule(rule).names) if isinstance(rule, str) else frozenset()


def _flat_keys(config: Mapping[str, Any]) -> Iterator[str]:
    for key, wrapped in config.items():
        value = unwrapped(wrapped)
        if isinstance(value, dict) and value:
            yield from (f"{key}.{below}" for below in _flat_keys(value))
        else:
            yield key


def _fact(name: str, records: Sequence[RunRecord]) -> pa.Array:
    if name == "created_at":
        times = [None if np.isnat(r.created_at) else str(r.created_at.astype("datetime64[s]")) for r in records]
        return pa.array(times, pa.string())
    if name == "tags":
        return pa.array([",".join(record.tags) or None for record in records], pa.string())
    if name in ("forked_from", "forked_at", "rewound_at"):
        points = [branch_point(record) for record in records]
        is_fork = name != "rewound_at"
        has_point = [
            run_id != "" and (run_id != r.run_id) == is_fork for (run_id, _), r in zip(points, records, strict=True)
        ]
        if name == "forked_from":
            return pa.array(
                [run_id if w else None for (run_id, _), w in zip(points, has_point, strict=True)], pa.string()
            )
        steps = [as_float(step) if w else math.nan for (_, step), w in zip(points, has_point, strict=True)]
        return pa.array(np.array(steps, np.float64), from_pandas=True)
    return pa.array([getattr(record, name) or None for record in records], pa.string())


def _column(values: Sequence[Any]) -> pa.Array:
    """Return values of configs as a column: numbers where all values are numbers, else texts."""
    values = [None if isinstance(v, float) and math.isnan(v) else v for v in values]
    known = [v for v in values if v is not None]
    if all(type(v) is int and abs(v) <= 2**53 for v in known):
        return pa.array(values, pa.int64())
    if all(type(v) in (int, float) for v in known):
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    return pa.array([None if v is None else config_text(v) for v in values], pa.string())


def _repeat_per_row(facts: pa.Array, which: Int64, run: Int32) -> pa.Array:
    """Repeat a fact of runs at each of their rows; texts are dictionary-encoded."""
    of_runs = facts.take(pa.array(which))
    if not pa.types.is_string(of_runs.type):
        return of_runs.take(pa.array(run))
    encoded = of_runs.dictionary_encode()
    return pa.DictionaryArray.from_arrays(encoded.indices.take(pa.array(run)), encoded.dictionary)


def _row_keys(run: Int32, step: Int64) -> pd.MultiIndex:
    """Return unique keys of rows sorted by run and step: run, step, and the count of earlier rows with both."""
    is_first = (np.diff(run, prepend=-1) != 0) | (np.diff(step, prepend=-1) != 0)
    starts = np.flatnonzero(is_first)
    repeat = np.arange(len(run)) - np.repeat(starts, np.diff(starts, append=len(run)))
    return pd.MultiIndex.from_arrays([run, step, repeat])
