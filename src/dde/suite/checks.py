"""Checks across the tables of a suite that need no file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from dde.errors import FormatError, UnknownNameError, near_names
from dde.suite.field_checks import check_text, listed, sort_of
from dde.suite.patterns import Pattern, Template
from dde.suite.rules import Rule
from dde.suite.table import Table

__all__ = [
    "BRANCH_NAMES",
    "check_counts",
    "check_duplicates",
    "check_fields",
    "check_frame_rules",
    "check_kinds",
    "check_labels",
    "check_run_ids",
    "checkpoint_patterns",
    "column_template",
    "run_template",
]

# Names that every template may use in addition to the fields of its table.
_MADE = frozenset(("run_type",))
#: Names that a rule for a branch may use in addition to columns and factors: step and own tokens of the run's first and
#: last row.
BRANCH_NAMES = ("first_step", "first_tokens", "last_step", "last_tokens")


def check_fields(
    lineage: str,
    run: str | Mapping[str, str] | None,
    replicate: str | None,
    numbers: Mapping[str, Any],
    tables: Sequence[Table],
    available: Sequence[Collection[str]],
) -> tuple[frozenset[str], ...]:
    """Return the fields of templates that each table does not have; raise an error if no table has a field.

    Parameters
    ----------
    lineage, run, replicate
        See :class:`dde.suite.declare.Suite`.
    numbers : mapping
        The suite's ``run_id``, ``tokens``, ``n_params`` and ``schedule_tokens``, which apply to tables without their
        own.
    tables : sequence of Table
    available : sequence of collections of str
        Of each table, its fields and the columns of its files.
    """
    if len(available) != len(tables):
        raise ValueError(f"{len(available)} tables' fields for {len(tables)} tables")
    known = _MADE.union(*available)
    missing: list[set[str]] = [set() for _ in tables]
    for path, name, users in _used_fields(lineage, run, replicate, numbers, tables):
        if name not in known:
            # Fields of the declaration come first.
            declared = {f for table in tables for f in table.declared_fields} & known
            fields = [*sorted(declared), *sorted(known.difference(_MADE, declared))]
            raise UnknownNameError(
                f"{path}: no table has the field {name!r}: no path, parsed text, factor or "
                f"column has this name. Fields: {listed(fields)}.{near_names(name, fields)}"
            )
        for index in users:
            if name not in available[index] and name not in _MADE:
                missing[index].add(name)
    return tuple(map(frozenset, missing))


def run_template(run: str | Mapping[str, str] | None, run_type: str) -> Template:
    """Return the template of the own label of runs of a type; `run` is as of the suite."""
    if run is None:
        return Template("{run_type}", "run")
    if isinstance(run, str):
        return Template(run, "run")
    if run_type not in run:
        raise UnknownNameError(
            f"run: there is no template for the run type {run_type!r}, so its runs have no "
            f"label. Run types: {listed(run)}.{near_names(run_type, run)}"
        )
    return Template(run[run_type], f"run.{run_type}")


def checkpoint_patterns(tables: Sequence[Table], texts: Sequence[str]) -> tuple[Pattern, ...]:
    """Return the patterns of checkpoints' names; a field without a type has the one it has in the tables' paths."""
    specs: dict[str, str] = {}
    for table in tables:
        for pattern in (*table.patterns, *table.parse_patterns.values()):
            for name, spec in pattern.specs.items():
                choices = [*specs.get(name, spec).split("|"), *spec.split("|")]
                same = specs.setdefault(name, spec) == spec
                # All texts that any table lists are possible; a field without a type in one table has none.
                specs[name] = spec if same else "|".join(dict.fromkeys(choices)) if spec and specs[name] else ""
    return tuple(
        Pattern(t, f"checkpoints[{i}]" if len(texts) > 1 else "checkpoints", specs) for i, t in enumerate(texts)
    )


def column_template(column: str) -> str:
    """Return the template that consists of one column.

    Examples
    --------
    >>> column_template("run_id")
    '{run_id}'
    """
    check_text(column, "run", "the column of the run id")
    if set(column) & set("{}:"):
        raise FormatError(
            f"run: {column!r} is the name of a column, not a template, and can't contain braces or colons. Rename the "
            "column."
        )
    return f"{{{column}}}"


def _used_fields(
    lineage: str,
    run: str | Mapping[str, str] | None,
    replicate: str | None,
    numbers: Mapping[str, Any],
    tables: Sequence[Table],
) -> Iterator[tuple[str, str, list[int]]]:
    """Yield position in the declaration, name and tables of each field that a template or a lookup uses."""
    all_tables = list(range(len(tables)))
    for name in Template(lineage).fields:
        yield "lineage", name, all_tables
    for run_type in dict.fromkeys(table.run_type for table in tables):
        label = run_template(run, run_type)
        for name in label.fields:
            if name != "lineage":
                yield label.what, name, [i for i in all_tables if tables[i].run_type == run_type]
    if replicate is not None:
        yield "replicate", replicate, all_tables
    for key, common in numbers.items():
        own = [i for i in all_tables if getattr(tables[i], key) is None]
        for users, path, value in [
            (own, key, common),
            *(([i], f"tables[{i}].{key}", getattr(tables[i], key)) for i in all_tables if i not in own),
        ]:
            for name in _fields_of(key, value):
                if users:
                    yield path, name, users
    for index in all_tables:
        table = tables[index]
        for template, _ in table.parents:
            for name in template.fields:
                if name != "lineage":
                    yield f"tables[{index}].parent", name, [index]
        if table.key is not None:
            for name in Template(table.key).fields:
                # Files of lm_eval always have tasks and metrics.
                if table.format != "lm_eval":
                    yield f"tables[{index}].key", name, [index]


def _fields_of(key: str, value: Any) -> tuple[str, ...]:
    if key == "run_id":
        return tuple(name for name in Template(value).fields if name != "lineage") if value else ()
    if key == "tokens" and isinstance(value, Mapping):
        value = value.get("per_step")
    return tuple(value) if isinstance(value, Mapping) else ()


def check_labels(
    lineage: str,
    run: str | Mapping[str, str] | None,
    run_id: str | None,
    replicate: str | None,
    tables: Sequence[Table],
    is_complete: bool,
) -> None:
    """Raise an error if a template of labels or ids is wrong; `is_complete`: whether tables have all run types."""
    for name in Template(lineage, "lineage").fields:
        if name in ("lineage", "run", "run_id", "cumulative_tokens"):
            raise UnknownNameError(
                f"lineage: {{{name}}} depends on the lineage's label and can't be part of it, so the name {name!r} is "
                f"reserved. Use factors of the root. If a column is called {name!r}, give it another name by "
                f"factors={{{name + '_'!r}: {name!r}}}, and write {{{name + '_'}}}."
            )
    if isinstance(run, Mapping):
        for run_type, text in run.items():
            Template(text, f"run.{run_type}")
        for index, table in enumerate(tables):
            if table.run_type not in run:
                raise UnknownNameError(
                    f"tables[{index}].run_type: run has no template for {table.run_type!r}, so its runs have no label. "
                    f"Run types: {listed(run)}.{near_names(table.run_type, run)}"
                )
        if is_complete:
            run_types = tuple(dict.fromkeys(table.run_type for table in tables))
            for run_type in run:
                if run_type not in run_types:
                    raise UnknownNameError(
                        f"run.{run_type}: no table has the run type {run_type!r}. Run types: "
                        f"{listed(run_types)}.{near_names(run_type, run_types)}"
                    )
    elif run is not None:
        Template(run, "run")
    if run_id is not None:
        Template(run_id, "run_id")
    if replicate is not None:
        check_text(replicate, "replicate", "the factor that orders repetitions")


def check_run_ids(tables: Sequence[Table], run_id: str | None) -> None:
    """Raise an error if neither a table nor the suite has a template of the run id."""
    for index, table in enumerate(tables):
        if table.run_id is None and run_id is None:
            raise FormatError(
                f"tables[{index}].run_id: neither the table nor the suite declares it. Declare a template that "
                "identifies each run, with fields of paths, parsed texts, factors or columns."
            )


def check_duplicates(tables: Sequence[Table]) -> None:
    """Raise an error if two tables read the same rows."""
    for index, table in enumerate(tables):
        for earlier in range(index):
            if _rows_of(tables[earlier], table):
                raise FormatError(
                    f"tables[{index}].files: tables[{earlier}] reads the same rows, so every run would occur twice. "
                    "Leave one out, or separate their rows by parse or where."
                )


def _rows_of(a: Table, b: Table) -> bool:
    keys = ("format", "where", "key", "value")
    files = a.files is b.files if a.is_frame or b.is_frame else a.files == b.files
    return files and a.parse == b.parse and all(getattr(a, k) == getattr(b, k) for k in keys)


def check_kinds(tables: Sequence[Table]) -> None:
    """Raise an error if a field is a number in one table and text in another."""
    seen: dict[str, tuple[str, str]] = {}
    for index, table in enumerate(tables):
        places = [("files", p) for p in table.patterns] + [
            (f"parse[{c!r}]", p) for c, p in table.parse_patterns.items()
        ]
        for place, pattern in places:
            for name, kind in pattern.kinds.items():
                path = f"tables[{index}].{place}"
                sort, first = seen.setdefault(name, (sort_of(kind), path))
                if sort != sort_of(kind):
                    raise FormatError(
                        f"{path}: the field {name!r} is {sort_of(kind)} here and {sort} in {first}. A factor has one "
                        f"type: write {{{name}:float}} in both, or in none."
                    )


def check_counts(tables: Sequence[Table], has_edges: bool) -> None:
    """Raise an error if runs may have parents and their table does not declare `counts`."""
    for index, table in enumerate(tables):
        if table.counts is None and (table.parent is not None or has_edges):
            what = "the table has a parent" if table.parent is not None else "the suite has edges"
            raise FormatError(
                f"tables[{index}].counts: {what}, and counts is not declared. Declare 'own' if the token counter "
                "starts at 0 in each run, or 'cumulative' if it continues from the parent's."
            )


def check_frame_rules(tables: Sequence[Table], resolved: Sequence[Table], columns: Sequence[Collection[str]]) -> None:
    """Raise an error if a rule of a data frame names something that is not a column of it.

    Parameters
    ----------
    tables, resolved : sequences of Table
        As declared, and with the defaults of the suite filled in.
    columns : sequence of collections of str
        Columns of each frame.
    """
    for index, (declared, table) in enumerate(zip(tables, resolved, strict=True)):
        known = {*columns[index], *table.declared_fields, "run_type"}
        given: list[tuple[str, Any]] = [
            (key, getattr(table, key)) for key in ("step", "tokens", "n_params", "schedule_tokens")
        ]
        at_names = known.union(BRANCH_NAMES)
        for position, (_, at) in enumerate(table.parents):
            for kind, rule in at.items() if isinstance(at, Mapping) else ():
                where = f"parent[{position}]" if isinstance(table.parent, list) else "at"
                Rule(rule, at_names, what=f"tables[{index}].{where}.{kind}")
        given += [("where", table.where), *((f"factors.{n}", r) for n, r in table.factors.items())]
        for key, rule in given:
            if rule is not None and not isinstance(rule, Mapping):
                place = key if getattr(declared, key, 0) is None else f"tables[{index}].{key}"
                Rule(rule, known, what=place)
        for column in (*table.parse, *([table.value] if table.value is not None else ())):
            if column not in known:
                raise UnknownNameError(
                    f"tables[{index}]: the frame has no column {column!r}. Columns: "
                    f"{listed(columns[index])}.{near_names(column, columns[index])}"
                )
