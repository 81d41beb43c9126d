"""Runs of declared tables, with the positions of their rows and the sources of their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dde.array_types import Float64, Int64
from dde.errors import ConflictWarning, FormatError, list_names, warn
from dde.suite.reading.fields import Field
from dde.suite.reading.run_values import (
    Parent,
    RunValues,
    fields_of_runs,
    first_and_last,
    numbers_of_runs,
    parents_of_runs,
    shared_differences,
)
from dde.suite.reading.table_rows import TableRows

__all__ = ["DeclaredRuns", "Report", "RowSources", "join_tables"]

Objects = npt.NDArray[np.object_]


@dataclass(eq=False)
class Report:
    """Content that was left out while reading a suite, and doubtful content.

    Attributes
    ----------
    left_out : dict of str to int
        Files, rows and values by reason.
    notes : list of str
        The same as sentences, with names.
    """

    left_out: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, reason: str, count: int, note: str) -> None:
        """Count content left out for a reason, once for each note."""
        if note in self.notes:
            return
        self.left_out[reason] = self.left_out.get(reason, 0) + count
        self.notes.append(note)

    def add_names(self, reason: str, names: Sequence[str]) -> None:
        """Count named content left out for a reason; the note lists the first names."""
        self.add(reason, len(names), f"{len(names)} {reason}: {list_names(names)}")


@dataclass(frozen=True, eq=False)
class RowSources:
    """Sources of the rows of runs in one declared table, in order of precedence.

    Attributes
    ----------
    table : int
        Number of the declared table.
    file : (source,) int32 array
        Number of the table's file.
    row : (source,) int64 array
        Row of the file.
    key : (source,) int64 array or None
        Number of the key in a long table; None for a wide one.
    run : (source,) int64 array
        Number of the run.
    position : (source,) int64 array
        Row of the runs' `step` and `tokens` arrays.
    is_unique : bool
        Whether no position occurs twice; in a long table, twice for the same key.
    """

    table: int
    file: npt.NDArray[np.int32]
    row: Int64
    key: Int64 | None
    run: Int64
    position: Int64
    is_unique: bool


@dataclass(frozen=True, eq=False)
class DeclaredRuns:
    """Runs of one declared table.

    A run with rows in two tables belongs to the first, with the rows of both.

    Attributes
    ----------
    table : int
        Number of the declared table.
    run_type : str
    run_ids : tuple of str
        In the order of their first rows; each id occurs once over all tables.
    fields : mapping of str to (run,) object array
        Fields of paths, parsed texts and factors, and names in templates: texts or numbers; "" or NaN where a run has
        no value.
    row_offsets : (run + 1,) int64 array
        First row of each run, then the number of rows.
    step, tokens : (row,) int64 array
        Ascending by step within a run, each step once; tokens as the suite declares them.
    n_params, schedule_tokens : (run,) float64 array
        NaN where unknown.
    parents : tuple of tuples
        Parents of each run: run id, kind of branch, and its value where the kind has one.
    counts : {"own", "cumulative"} or None
        Origin of the token counts: the run's own start, or the start of its root.
    sources : tuple of RowSources
        Sources of the rows in the declared tables.
    states : (run,) object array of str, optional
        State of each run in W&B; where several W&B runs form one run, the state of the last. None means that all runs
        are finished.
    """

    table: int
    run_type: str
    run_ids: tuple[str, ...]
    fields: Mapping[str, Objects]
    row_offsets: Int64
    step: Int64
    tokens: Int64
    n_params: Float64
    schedule_tokens: Float64
    parents: tuple[tuple[Parent, ...], ...]
    counts: str | None
    sources: tuple[RowSources, ...] = ()
    states: Objects | None = None


def join_tables(rows: Sequence[TableRows], report: Report) -> list[DeclaredRuns]:
    """Return the runs of each table; a run with rows in several tables belongs to the first.

    Parameters
    ----------
    rows : sequence of TableRows
        Rows of each declared table.
    report : Report
        Receives content that is left out or doubtful.

    Raises
    ------
    FormatError
        When one id stands for several runs; names both sources.

    Warns
    -----
    ConflictWarning
        When rows of one run and step have different tokens.
    """
    fields = [fields_of_runs(of_table, report.notes) for of_table in rows]
    owner: dict[str, tuple[int, int]] = {}
    own: list[list[int]] = [[] for _ in rows]
    parts: list[list[tuple[int, Int64, Int64]]] = [[] for _ in rows]
    for number, of_table in enumerate(rows):
        tables = np.empty(len(of_table.run_ids), np.int64)
        places = np.empty(len(of_table.run_ids), np.int64)
        for run, run_id in enumerate(of_table.run_ids):
            if run_id not in owner:
                owner[run_id] = number, len(own[number])
                own[number].append(run)
            else:
                _check_shared(rows, fields, owner[run_id], own, number, run)
            tables[run], places[run] = owner[run_id]
        for first in np.flatnonzero(np.bincount(tables, minlength=1)).tolist():
            at = np.flatnonzero(tables[of_table.run] == first)
            parts[first].append((number, at, places[of_table.run[at]]))
    return [
        _runs_of(number, rows, fields[number], np.array(own[number], np.int64), parts[number], report)
        for number in range(len(rows))
    ]


def _check_shared(
    rows: Sequence[TableRows],
    fields: Sequence[Mapping[str, Field]],
    owner: tuple[int, int],
    own: Sequence[Sequence[int]],
    number: int,
    run: int,
) -> None:
    first = owner[0]
    run_of_first = own[first][owner[1]]
    names = sorted(rows[first].named | rows[number].named)
    differing = shared_differences(fields[first], fields[number], names, run_of_first, run)
    if rows[first].table.run_type != rows[number].table.run_type:
        differing.insert(0, "run_type")
    if differing:
        places = [
            rows[table].describe_row(int(np.flatnonzero(rows[table].run == at)[0]))
            for table, at in ((first, run_of_first), (number, run))
        ]
        raise FormatError(
            f"The run id {rows[number].run_ids[run]!r} is ambiguous: {places[0]} (tables[{first}]) and {places[1]} "
            f"(tables[{number}]) have it, and they differ in {', '.join(differing)}, so two runs would become one. "
            f"Name {{{differing[0]}}} in run_id=."
        )


def _runs_of(
    number: int,
    rows: Sequence[TableRows],
    fields: Mapping[str, Field],
    own: Int64,
    parts: Sequence[tuple[int, Int64, Int64]],
    report: Report,
) -> DeclaredRuns:
    """Return the runs of one table, with the rows of all tables that have their steps."""
    none = np.empty(0, np.int64)
    run = np.concatenate([none, *(of_run for _, _, of_run in parts)])
    step = np.concatenate([none, *(rows[table].step[at] for table, at, _ in parts)])
    tokens = np.concatenate([none, *(rows[table].tokens[at] for table, at, _ in parts)])
    order = _order(run, step)
    is_first = (np.diff(run[order], prepend=-1) != 0) | (np.diff(step[order], prepend=-1) != 0)
    position = np.empty(len(order), np.int64)
    position[order] = np.cumsum(is_first) - 1
    firsts = order[is_first]
    _report_tokens(rows, parts, run, tokens, position, firsts, report)
    sources: list[RowSources] = []
    start = 0
    for table, at, of_run in parts:
        places = position[start : start + len(at)]
        start += len(at)
        of_table = rows[table]
        key = None if of_table.key is None else of_table.key[at]
        pairs = places if key is None else places * max(len(of_table.keys), 1) + key
        repeats = len(pairs) - pc.count_distinct(pa.array(pairs)).as_py()
        if repeats:
            report.notes.append(
                f"{repeats} rows of tables[{table}] repeat a step of their run; each metric takes the first value there"
            )
        sources.append(
            RowSources(table, of_table.file[at], of_table.row[at], key, of_run, places, is_unique=not repeats)
        )
    offsets = np.concatenate([[0], np.cumsum(np.bincount(run[firsts], minlength=len(own)))]).astype(np.int64)
    step, tokens = step[firsts], tokens[firsts]
    falls = np.unique(run[firsts][1:][(np.diff(run[firsts]) == 0) & (np.diff(tokens) < 0)])
    if len(falls):
        ids = [rows[number].run_ids[int(own[i])] for i in falls.tolist()]
        report.notes.append(f"tables[{number}]: tokens fall where steps rise in {len(falls)} runs: {list_names(ids)}")
    declared = rows[number].table
    what = f"tables[{number}]"
    values = RunValues(rows[number], own, first_and_last(offsets, step, tokens))
    return DeclaredRuns(
        number,
        declared.run_type,
        tuple(rows[number].run_ids[i] for i in own.tolist()),
        {name: field.take(own).objects() for name, field in fields.items()},
        offsets,
        step,
        tokens,
        numbers_of_runs(declared.n_params, values, f"{what}.n_params", report.notes),
        numbers_of_runs(declared.schedule_tokens, values, f"{what}.schedule_tokens", report.notes),
        parents_of_runs(values),
        declared.counts,
        tuple(sources),
        _states(rows, parts, run[order], order, len(own)),
    )


def _states(
    rows: Sequence[TableRows], parts: Sequence[tuple[int, Int64, Int64]], run: Int64, order: Int64, n_runs: int
) -> Objects:
    """Return the state of each run at its last row; `order` sorts the rows of all parts by run and step."""
    states = np.full(n_runs, "finished", object)
    starts = np.cumsum([0, *(len(at) for _, at, _ in parts)])
    last = order[np.searchsorted(run, np.arange(n_runs), side="right") - 1]
    for start, (table, at, _) in zip(starts.tolist(), parts, strict=False):
        runs = np.flatnonzero((last >= start) & (last < start + len(at)))
        of_table = rows[table].states
        if of_table is not None:
            states[runs] = of_table.take(at[last[runs] - start]).objects()
    return states


def _report_tokens(
    rows: Sequence[TableRows],
    parts: Sequence[tuple[int, Int64, Int64]],
    run: Int64,
    tokens: Int64,
    position: Int64,
    firsts: Int64,
    report: Report,
) -> None:
    """Report rows whose token count differs from that of the first row of their run and step."""
    differing = np.flatnonzero(tokens != tokens[firsts[position]])
    if not len(differing):
        return
    starts = np.cumsum([0, *(len(at) for _, at, _ in parts)])

    def place(row: int) -> str:
        part = int(np.searchsorted(starts, row, side="right")) - 1
        table, at, _ = parts[part]
        return f"{int(tokens[row])} in {rows[table].describe_row(int(at[row - starts[part]]))}"

    row = int(differing[0])
    text = (
        f"{len(differing)} rows have other tokens than the first row of their run and step: "
        f"{place(int(firsts[position[row]]))}, {place(row)}; the first is used"
    )
    report.add("tokens that differ from those of the first row of their step", len(differing), text)
    warn(
        f"{text}. Correct the step or the tokens of the suite, or leave the rows out by where=.",
        ConflictWarning,
        stacklevel=4,
    )


def _order(run: Int64, step: Int64) -> Int64:
    """Return the order of rows by run and step; stable within a step."""
    if not len(run):
        return np.empty(0, np.int64)
    d_run, d_step = np.diff(run), np.diff(step)
    if bool(np.all((d_run > 0) | ((d_run == 0) & (d_step >= 0)))):
        return np.arange(len(run))
    return np.lexsort((step, run))
