"""Rows of one declared table: the run, step and tokens of each, and the fields that are constant within a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.array_types import Bool, Int64
from dde.errors import FormatError, UnknownNameError
from dde.suite.patterns import Template
from dde.suite.reading.counters import count_rows, names_of_rule, numbers_of_rows
from dde.suite.reading.fields import Field, combine
from dde.suite.reading.row_values import OpenedFile, RowValues
from dde.suite.reading.wandb_places import FORMAT
from dde.suite.table import Table

__all__ = ["TableRows", "names_in_table", "read_table"]


@dataclass(eq=False)
class TableRows:
    """Rows of one declared table, in the order of its files.

    Attributes
    ----------
    what : str
        Name of the table in errors: ``"tables[2]"``.
    table : Table
        The declaration, completed with the defaults of the suite.
    values : RowValues
        Values of the rows by name.
    run : (row,) int64 array
        Number of each row's run.
    run_ids : list of str
        Runs in the order of their first rows.
    step, tokens : (row,) int64 array
    file : (row,) int32 array
    row : (row,) int64 array
        Source of each row: number of the file in the table, and row in the file.
    keys : tuple of str
        Keys of a long table.
    key : (row,) int64 array or None
        Number of each row's key; None for a wide table.
    used : frozenset of str
        Columns that position rows or name runs.
    named : frozenset of str
        Fields that labels, ids and lookups need: each run has one value of them.
    left_out : dict of str to int
        Number of rows that belong to no run, by reason.
    """

    what: str
    table: Table
    values: RowValues
    run: Int64
    run_ids: list[str]
    step: Int64
    tokens: Int64
    file: npt.NDArray[np.int32]
    row: Int64
    keys: tuple[str, ...]
    key: Int64 | None
    used: frozenset[str]
    named: frozenset[str]
    left_out: dict[str, int]
    _order: Int64 | None = field(default=None)

    def describe_row(self, row: int) -> str:
        """Return the name of a row in errors."""
        return f"row {int(self.row[row])} of {self.values.opened[int(self.file[row])].name}"

    def per_run(self, name: str) -> tuple[Field, npt.NDArray[np.int64]]:
        """Return a field of the runs, and the runs with several values of it, which have no value in the field."""
        found = template_field(self.values, self.table, name)
        order, starts = self._by_run()
        codes = found.codes[order]
        if not len(starts):
            return Field(np.empty(0, np.int64), found.values), np.empty(0, np.int64)
        most = np.maximum.reduceat(codes, starts)
        least = np.minimum.reduceat(np.where(codes < 0, len(found.values), codes), starts)
        several = (most >= 0) & (least != most)
        return Field(np.where(several, -1, most), found.values), np.flatnonzero(several)

    def first_rows_of_values(self, name: str, run: int) -> tuple[int, int]:
        """Return two rows of a run that have different values of a field."""
        codes = template_field(self.values, self.table, name).codes
        rows = np.flatnonzero((self.run == run) & (codes >= 0))
        other = rows[codes[rows] != codes[rows[0]]]
        return int(rows[0]), int(other[0])

    def repeated(self, name: str) -> int | None:
        """Return a row whose value of a field differs from one of the same run, step and key; None if there is none."""
        codes = template_field(self.values, self.table, name).codes
        order = np.lexsort((*(() if self.key is None else (self.key,)), self.step, self.run))
        same = (np.diff(self.run[order]) == 0) & (np.diff(self.step[order]) == 0)
        if self.key is not None:
            same &= np.diff(self.key[order]) == 0
        before, after = codes[order[:-1]], codes[order[1:]]
        found = np.flatnonzero(same & (before >= 0) & (after >= 0) & (before != after))
        return int(order[found[0] + 1]) if len(found) else None

    @property
    def states(self) -> Field | None:
        """State of the W&B run of each row; None where the rows are of files or frames."""
        return self.values.field("state") if self.table.format == FORMAT and self.values.opened else None

    def _by_run(self) -> tuple[Int64, Int64]:
        if self._order is None:
            self._order = np.argsort(self.run, kind="stable")
        runs = self.run[self._order]
        starts = np.flatnonzero(np.diff(runs, prepend=-1)) if len(runs) else np.empty(0, np.int64)
        return self._order, starts


def names_in_table(table: Table, texts: Iterable[str], replicate: str | None) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names that position rows and define runs, and the subset that must be constant within a run.

    Names in `where` are not included, as rows may be selected by a metric.

    Parameters
    ----------
    table : Table
    texts : iterable of str
        Templates of the labels of lineages and runs.
    replicate : str or None
        Factor that numbers replicates.
    """
    named: set[str] = set()
    for text in (*texts, *filter(None, [table.run_id])):
        named.update(Template(text).fields)
    used: set[str] = set(table.parse)
    for template, at in table.parents:
        named.update(template.fields)
        if not isinstance(at, str):
            used.update(name for rule in at.values() for name in names_of_rule(rule))
    if isinstance(table.tokens, Mapping):
        named |= names_of_rule(table.tokens)
    if replicate is not None:
        named.add(replicate)
    rules = (table.step, table.tokens, table.n_params, table.schedule_tokens, *table.factors.values())
    for rule in rules:
        used |= names_of_rule(rule)
    if table.key is not None and table.value is not None:
        used.update(Template(table.key).fields)
    if table.value is not None:
        used.add(table.value)
    used |= named
    return frozenset(used), frozenset(named)


def template_field(values: RowValues, table: Table, name: str) -> Field:
    """Return the field that a template names: values of rows, or the run type, which all rows share."""
    if name == "run_type" and name not in values:
        return Field(np.zeros(values.n_rows, np.int64), (table.run_type,))
    if name not in values:
        return Field(np.full(values.n_rows, -1, np.int64), ())
    return values.field(name)


def read_table(
    table: Table,
    opened: Sequence[OpenedFile],
    what: str,
    *,
    used: frozenset[str],
    named: frozenset[str],
) -> tuple[TableRows, list[tuple[int, Bool]]]:
    """Return the rows of a declared table; reads only the columns that position rows and name runs.

    Parameters
    ----------
    table : Table
        The declaration, completed with the defaults of the suite.
    opened : sequence of OpenedFile
    what : str
        Name of the table in errors.
    used, named : frozenset of str
        As :func:`names_in_table` returns them.

    Returns
    -------
    rows : TableRows
    taken : list of (int, (row,) bool array)
        Rows of each file that the table selects by `parse` and `where`.

    Raises
    ------
    FormatError, UnknownNameError, SourceError
        When the declaration does not fit the files; names the table, the file and the row.
    """
    values = RowValues(opened, what, table.factors)
    if not opened:
        # Without a file, its rules can't be checked.
        none = np.empty(0, np.int64)
        no_files = none.astype(np.int32)
        return TableRows(what, table, values, none, [], none, none, no_files, none, (), None, used, named, {}), []
    columns = {name for file in opened for name in file.content.columns}
    values.load(sorted(((used | names_of_rule(table.where)) & columns) - {table.value or ""}))
    for column, pattern in table.parse.items():
        values.select(values.add_parsed(column, pattern))
    if table.where is not None:
        values.select(_mask(values.evaluate(table.where, f"{what}.where"), values, f"{what}.where"))
    taken = _taken(values)
    left_out: dict[str, int] = {}
    step = _counter(values, left_out, "step", lambda: numbers_of_rows(table.step, values, f"{what}.step"))
    values.add_counter("step", step)
    tokens = _counter(
        values, left_out, "tokens", lambda: count_rows(table.tokens, values, values._counters["step"], f"{what}.tokens")
    )
    values.add_counter("tokens", tokens)
    run, run_ids = _runs(table, values, left_out, what)
    keys, key = _keys(table, values, what)
    file, row = values.sources()
    rows = TableRows(
        what, table, values, run, run_ids, values._counters["step"], values._counters["tokens"], file, row, keys, key,
        used, named, left_out,
    )  # fmt: skip
    return rows, taken


def _mask(result: Any, values: RowValues, what: str) -> Bool:
    found = np.broadcast_to(np.asarray(result), (values.n_rows,))
    if found.dtype != np.bool_:
        raise FormatError(
            f"{what} gives {found[:1].tolist()} instead of True or False, so no rows can be selected. "
            "Write a comparison, such as \"split == 'val'\"."
        )
    return found


def _taken(values: RowValues) -> list[tuple[int, Bool]]:
    """Return for each file a mask of its selected rows."""
    rows = np.zeros(values.n_read, np.bool_)
    rows[values.index] = True
    return list(enumerate(np.split(rows, np.cumsum(values.lengths)[:-1])))


def _counter(values: RowValues, left_out: dict[str, int], name: str, read: Any) -> Int64:
    """Return a counter of the rows; rows without it are left out and counted."""
    found = read()
    wrong = np.zeros(values.n_rows, np.bool_)
    for reason, rows in found.problems.items():
        left_out[f"rows whose {name} {reason}"] = int(rows.sum())
        wrong |= rows
    if wrong.all() and len(wrong):
        reasons = "; ".join(f"it {reason} in {int(rows.sum())}" for reason, rows in found.problems.items())
        raise FormatError(
            f"{values.what}: none of {len(wrong)} rows, such as {values.describe_row(0)}, has a usable {name} "
            f"({reasons}), so no row has a position. Declare {name}= as a column or rule that gives whole numbers."
        )
    if wrong.any():
        file, _ = values.sources()
        emptied = sorted(set(np.unique(file).tolist()) - set(np.unique(file[~wrong]).tolist()))
        if emptied:
            left_out[f"files of which no row has a usable {name} ({_named(values, emptied)})"] = len(emptied)
        values.select(~wrong)
    return np.asarray(found.values[~wrong], np.int64)


def _named(values: RowValues, files: Sequence[int]) -> str:
    names = [values.opened[number].name.rpartition("/")[2] for number in files[:3]]
    return ", ".join(names) + (", ..." if len(files) > 3 else "")


def _runs(table: Table, values: RowValues, left_out: dict[str, int], what: str) -> tuple[Int64, list[str]]:
    if table.run_id is None:
        raise FormatError(
            f"{what} declares no run_id, and neither does the suite, so rows can't be assigned to runs. "
            "Write run_id= with the fields that distinguish its runs."
        )
    template = Template(table.run_id, f"{what}.run_id")
    codes, combinations = combine(
        {name: template_field(values, table, name) for name in template.fields}, values.n_rows
    )
    run_of: dict[str, int] = {}
    ids = [template.format(combination) for combination in combinations]
    of_code = [run_of.setdefault(run_id, len(run_of)) if run_id else -1 for run_id in ids]
    run = np.array([*of_code, -1], np.int64)[codes]
    nameless = run < 0
    if nameless.any():
        left_out["rows without a run id"] = int(nameless.sum())
        values.select(~nameless)
        run = run[~nameless]
    return run, list(run_of)


def _keys(table: Table, values: RowValues, what: str) -> tuple[tuple[str, ...], Int64 | None]:
    """Return the keys of a long table, and the number of each row's key."""
    if table.value is None:
        return (), None
    if not any(table.value in file.content.columns for file in values.opened):
        raise UnknownNameError(
            f"{what} names the column of values {table.value!r}, and no file of the table has it, so its metrics "
            "have no values. Correct value=."
        )
    template = Template(table.key or "{key}", f"{what}.key")
    for name in template.fields:
        if name not in values:
            # Raises an error that lists the known names.
            values.field(name)
    codes, combinations = combine({name: values.field(name) for name in template.fields}, values.n_rows)
    key_index: dict[str, int] = {}
    of_code = [key_index.setdefault(template.format(combination), len(key_index)) for combination in combinations]
    return tuple(key_index), np.array([*of_code, -1], np.int64)[codes]
