"""Declared facts of each run of a table: its fields, its numbers, its parents and its branch points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.array_types import Float64, Int64
from dde.errors import FormatError, UnknownNameError, list_names, near_names, warn_caller
from dde.suite.patterns import field_text
from dde.suite.reading.counters import factor_of_lookup, look_up_numbers
from dde.suite.reading.fields import Field, combine
from dde.suite.reading.table_rows import TableRows
from dde.suite.rules import Rule

__all__ = [
    "Parent",
    "RunValues",
    "fields_of_runs",
    "first_and_last",
    "numbers_of_runs",
    "parents_of_runs",
    "shared_differences",
]


#: A parent: its run id, the kind of branch, and the value of the branch where the kind has one.
Parent = tuple[str, str, int | None]

_MOST_EXACT = 2**53


def fields_of_runs(rows: TableRows, notes: list[str]) -> dict[str, Field]:
    """Return the fields of the runs of a table: of paths, parsed texts, factors, and names in templates.

    A field with several values in a run, which neither labels nor ids need, has no value there; a note says so.

    Raises
    ------
    FormatError
        When a field that labels, ids or lookups need has two values in a run, or rows of one run and step differ in
        a field: one id stands for several runs. Names both rows.
    """
    counters = {name for name in (rows.table.step, rows.table.tokens) if isinstance(name, str)}
    fields: dict[str, Field] = {}
    for name in dict.fromkeys([*rows.values.declared, *sorted(rows.named)]):
        if name not in rows.values:
            continue
        found, several = rows.per_run(name)
        if len(several):
            if name in counters and name not in rows.named:
                continue
            if name in rows.named:
                first, other = rows.first_rows_of_values(name, int(several[0]))
                raise _ambiguous(rows, name, first, other)
            repeated = rows.repeated(name)
            if repeated is not None:
                same = (rows.run == rows.run[repeated]) & (rows.step == rows.step[repeated])
                if rows.key is not None:
                    same &= rows.key == rows.key[repeated]
                codes = rows.values.field(name).codes
                first = int(np.flatnonzero(same & (codes >= 0) & (codes != codes[repeated]))[0])
                raise _ambiguous(rows, name, first, repeated)
            shown = list_names([rows.run_ids[run] for run in several.tolist()], 3)
            notes.append(
                f"{rows.what}: {name} has several values in {len(several)} runs ({shown}), so it is not a factor there"
            )
        if name not in counters or name in rows.named:
            fields[name] = found
    return fields


def _ambiguous(rows: TableRows, name: str, first: int, other: int) -> FormatError:
    field = rows.values.field(name)
    run_id = rows.run_ids[int(rows.run[first])]
    places = [f"{field.value(row)!r} in {rows.describe_row(row)}" for row in (first, other)]
    differing = [
        known
        for known in rows.values.declared
        if known != name and known != rows.table.step and _differs(rows.values.field(known), first, other)
    ]
    more = f" (they differ in {', '.join(differing)} too)" if differing else ""
    return FormatError(
        f"{rows.what}: the run id {run_id!r} is ambiguous: {name} is {places[0]} and {places[1]}{more}, so rows of "
        f"several runs would become one, or its label has two values. Name {{{name}}} in run_id={rows.table.run_id!r}, "
        "or remove it from the templates and the pattern."
    )


def _differs(field: Field, first: int, other: int) -> bool:
    return bool(field.codes[first] != field.codes[other])


class RunValues(Mapping[str, Any]):
    """Values of the runs of a table by name, as arrays for rules.

    Parameters
    ----------
    rows : TableRows
    runs : (run,) int64 array
        Runs of the table, by number.
    counters : mapping of str to (run,) array
        ``first_step``, ``last_step``, ``first_tokens``, ``last_tokens``.
    """

    def __init__(self, rows: TableRows, runs: Int64, counters: Mapping[str, npt.NDArray[Any]]) -> None:
        self.rows = rows
        self.runs = runs
        self._counters = counters

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._counters, *self.rows.values]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self._counters or name in self.rows.values

    def __getitem__(self, name: str) -> Any:
        if name in self._counters and name not in self.rows.values.declared:
            return self._counters[name]
        return self.field(name).array()

    def field(self, name: str) -> Field:
        """Return a field of the runs.

        Raises
        ------
        UnknownNameError
            When the name is unknown.
        FormatError
            When it has two values in a run.
        """
        found, several = self.rows.per_run(name)
        if name not in self.rows.values:
            raise UnknownNameError(
                f"{self.rows.what}: a rule of its runs names {name!r}, which is neither a field nor a column, so it "
                f"has no value.{near_names(name, list(self))} For steps and tokens, use first_step, last_step, "
                "first_tokens or last_tokens."
            )
        if len(several):
            first, other = self.rows.first_rows_of_values(name, int(several[0]))
            if name in (self.rows.table.step, self.rows.table.tokens, "step", "tokens"):
                raise FormatError(
                    f"{self.rows.what}: a rule of its runs names {name!r}, which changes within a run, so it is "
                    "ambiguous. Use first_step, last_step, first_tokens or last_tokens."
                )
            values = [
                f"{self.rows.values.field(name).value(row)!r} in {self.rows.describe_row(row)}"
                for row in (first, other)
            ]
            raise FormatError(
                f"{self.rows.what}: a rule of its runs names {name!r}, which has two values in the run "
                f"{self.rows.run_ids[int(self.rows.run[first])]!r}: {values[0]} and {values[1]}, so the value is "
                "ambiguous. Name a field with one value in all rows of a run, or distinguish the runs in run_id=."
            )
        return found.take(self.runs)

    def evaluate(self, source: Any, what: str) -> Float64:
        """Return the result of a rule for each run; NaN where it has no value.

        Raises
        ------
        FormatError
            When the results are texts.
        """
        if isinstance(source, str) and source in self:
            result = self[source]
        else:
            rule = Rule(source, what=what)
            if rule.is_function:
                result = rule.evaluate(self)
            else:
                rule = rule.bind(list(self))
                result = rule.evaluate({name: self[name] for name in rule.names})
        found = np.broadcast_to(np.asarray(result), (len(self.runs),))
        if found.dtype.kind == "O" and all(value == "" for value in found):
            # A column without any value in this table.
            return np.full(len(self.runs), np.nan)
        if found.dtype.kind not in "biuf":
            raise FormatError(
                f"{what}: {source!r} gives texts such as {found[0]!r}, where a number is needed. "
                "Name a column of numbers, or a rule that makes them."
            )
        return found.astype(np.float64)


def numbers_of_runs(declared: Any, runs: RunValues, what: str, notes: list[str]) -> Float64:
    """Return a declared number of each run: ``n_params``, ``schedule_tokens``; NaN where it is unknown.

    Parameters
    ----------
    declared : None, number, str, callable, or mapping
        Nothing, a number, a column, a rule, or a lookup ``{factor: {value: number}}``.

    Raises
    ------
    FormatError
        When a number is not positive and finite.
    """
    if declared is None or not len(runs.runs):
        return np.full(len(runs.runs), np.nan)
    if isinstance(declared, Mapping):
        factor = factor_of_lookup(declared, what)
        numbers, missing = look_up_numbers(declared[factor], runs.field(factor), what)
        entries = [field_text(value) for value in declared[factor]]
        if missing:
            text = f"{what} has no entry for {factor} = {', '.join(map(repr, missing))}, so it is unknown there"
            notes.append(text)
            warn_caller(f"{text}. Add an entry to {what}[{factor!r}], which has {', '.join(map(repr, entries))}.")
    else:
        numbers = runs.evaluate(declared, what)
    wrong = np.flatnonzero(~(np.isnan(numbers) | ((numbers > 0) & np.isfinite(numbers))))
    if len(wrong):
        raise FormatError(
            f"{what} is {float(numbers[wrong[0]])!r} for the run {runs.rows.run_ids[int(runs.runs[wrong[0]])]!r}, and "
            "it must be a positive number. Correct the declaration or the column, or remove the declaration."
        )
    return numbers


def parents_of_runs(runs: RunValues) -> tuple[tuple[Parent, ...], ...]:
    """Return the parents of each run in the order of the declaration; a template that gives "" means no parent.

    Parameters
    ----------
    runs : RunValues

    Raises
    ------
    FormatError
        When the rule of a branch does not give a non-negative whole number for a run that has the parent.
    """
    n_runs = len(runs.runs)
    if not n_runs:
        return ()
    found: list[list[Parent]] = [[] for _ in range(n_runs)]
    for number, (template, at) in enumerate(runs.rows.table.parents):
        what = f"{runs.rows.what}.at"
        fields = {name: runs.rows.per_run(name)[0].take(runs.runs) for name in template.fields}
        codes, combinations = combine(fields, n_runs)
        ids = [template.format(combination) for combination in combinations]
        kind, values = _branch(at, runs, what)
        has_parent = np.array([bool(run_id) for run_id in ids], np.bool_)[codes] if n_runs else np.empty(0, np.bool_)
        if values is not None:
            _check_branches(values, has_parent, runs, at, what, number)
        for run in np.flatnonzero(has_parent).tolist():
            value = None if values is None else int(values[run])
            found[run].append((ids[int(codes[run])], kind, value))
    return tuple(map(tuple, found))


def _branch(at: Any, runs: RunValues, what: str) -> tuple[str, Float64 | None]:
    if isinstance(at, str):
        return at, None
    kind, rule = next(iter(at.items()))
    return kind, runs.evaluate(rule, f"{what}[{kind!r}]")


def _check_branches(
    values: Float64, has_parent: npt.NDArray[np.bool_], runs: RunValues, at: Any, what: str, number: int
) -> None:
    is_whole = (values >= 0) & (values <= _MOST_EXACT) & (np.floor(values) == values)
    wrong = np.flatnonzero(has_parent & ~is_whole)
    if len(wrong):
        shown = field_text(float(values[wrong[0]])) or "nothing"
        raise FormatError(
            f"{what}: {dict(at)!r} gives {shown} for the run {runs.rows.run_ids[int(runs.runs[wrong[0]])]!r}, so its "
            f"branch point from its parent {number + 1} is unknown; {len(wrong)} runs have no non-negative whole "
            "number there. Correct the rule or the column, or leave the parent of these runs empty."
        )


def first_and_last(offsets: Int64, step: Int64, tokens: Int64) -> dict[str, Int64]:
    """Return the first and last step and tokens of runs, by their names in rules."""
    first, last = offsets[:-1], offsets[1:] - 1
    return {
        "first_step": step[first],
        "last_step": step[last],
        "first_tokens": tokens[first],
        "last_tokens": tokens[last],
    }


def shared_differences(
    one: Mapping[str, Field], other: Mapping[str, Field], names: Sequence[str], run: int, other_run: int
) -> list[str]:
    """Return the fields for which two tables have different values of one run."""
    return [
        name
        for name in names
        if name in one
        and name in other
        and field_text(one[name].value(run))
        and field_text(other[name].value(other_run))
        and field_text(one[name].value(run)) != field_text(other[name].value(other_run))
    ]
