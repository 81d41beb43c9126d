"""Checks of a whole suite: all that can be known to be wrong before a file is read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dde.errors import FormatError, UnknownNameError, near_names
from dde.suite import serialization
from dde.suite.edges import read_edges
from dde.suite.patterns import Pattern, Template
from dde.suite.rules import Rule
from dde.suite.table_checks import check_metrics, check_numbers, check_text, listed, sort_of

if TYPE_CHECKING:
    from dde.suite.declare import Suite, Table

__all__ = ["BRANCH_NAMES", "check_fields", "check_suite", "checkpoint_patterns", "column_template", "run_template"]

# Names that a template may always use, beside the fields of its table.
_MADE = frozenset(("run_type",))
#: What a rule for a branch may name beside columns and factors: step and own tokens of the run's first and last row.
BRANCH_NAMES = ("first_step", "first_tokens", "last_step", "last_tokens")


def check_suite(suite: Suite) -> None:
    """Raise where a suite is wrong; messages name the suite and the place in it."""
    with serialization.within(f"suite {suite.name!r}: "):
        check_text(suite.name, "name", "the name of a suite")
        if not suite.tables and suite.producer is None:
            raise FormatError(
                "tables: the suite has no tables, so there is nothing to open. Say its files: tables=[Table(...)]."
            )
        _check_labels(suite)
        check_numbers(suite)
        check_metrics(suite.metrics)
        if not (
            suite.producer is None or callable(suite.producer) or (isinstance(suite.producer, str) and suite.producer)
        ):
            raise FormatError(f"producer: {suite.producer!r} is neither the name of a producer nor a function.")
        _check_duplicates(suite.tables)
        _check_kinds(suite.tables)
        read_edges(suite.edges)
        _check_counts(suite)
        for index, table in enumerate(suite.tables):
            if table.run_id is None and suite.run_id is None:
                raise FormatError(
                    f"tables[{index}].run_id: neither the table nor the suite says it. It is the template that tells "
                    "all runs apart, of fields of paths, parsed texts, factors or columns."
                )
        checkpoint_patterns(suite)
        if suite.tables and all(table.is_frame for table in suite.tables):
            columns = [serialization.frame_columns(table.files) for table in suite.tables]
            _check_frame_rules(suite, columns)
            check_fields(suite, [(*c, *t.declared_fields) for c, t in zip(columns, suite.tables, strict=True)])


def check_fields(suite: Suite, available: Sequence[Collection[str]]) -> tuple[frozenset[str], ...]:
    """Return which fields of its templates each table lacks, and raise where no table has one."""
    if len(available) != len(suite.tables):
        raise ValueError(f"{len(available)} tables' fields for {len(suite.tables)} tables")
    known = _MADE.union(*available)
    lacking: list[set[str]] = [set() for _ in suite.tables]
    for path, name, users in _used_fields(suite):
        if name not in known:
            # What the declaration itself gives stands first.
            declared = {f for table in suite.tables for f in table.declared_fields} & known
            fields = [*sorted(declared), *sorted(known.difference(_MADE, declared))]
            raise UnknownNameError(
                f"{path}: no table has the field {name!r}: no path, parsed text, factor or "
                f"column is called so. Fields: {listed(fields)}.{near_names(name, fields)}"
            )
        for index in users:
            if name not in available[index] and name not in _MADE:
                lacking[index].add(name)
    return tuple(map(frozenset, lacking))


def run_template(suite: Suite, run_type: str) -> Template:
    """Return the template of the own label of runs of a type."""
    if suite.run is None:
        return Template("{run_type}", "run")
    if isinstance(suite.run, str):
        return Template(suite.run, "run")
    if run_type not in suite.run:
        raise UnknownNameError(
            f"run: there is no template for the run type {run_type!r}, so its runs have no "
            f"label. Run types: {listed(suite.run)}.{near_names(run_type, suite.run)}"
        )
    return Template(suite.run[run_type], f"run.{run_type}")


def checkpoint_patterns(suite: Suite) -> tuple[Pattern, ...]:
    """Return the patterns of checkpoints' names; a field without a type has the one it has in the tables' paths."""
    specs: dict[str, str] = {}
    for table in suite.tables:
        for pattern in (*table.patterns, *table.parse_patterns.values()):
            for name, spec in pattern.specs.items():
                choices = [*specs.get(name, spec).split("|"), *spec.split("|")]
                same = specs.setdefault(name, spec) == spec
                # Texts that several tables list are all possible; a field that one leaves open is open.
                specs[name] = spec if same else "|".join(dict.fromkeys(choices)) if spec and specs[name] else ""
    texts = suite.checkpoints
    return tuple(
        Pattern(t, f"checkpoints[{i}]" if len(texts) > 1 else "checkpoints", specs) for i, t in enumerate(texts)
    )


def column_template(column: str) -> str:
    """Return the template that is a column alone.

    Examples
    --------
    >>> column_template("run_id")
    '{run_id}'
    """
    check_text(column, "run", "the column of the run id")
    if set(column) & set("{}:"):
        raise FormatError(
            f"run: {column!r} is the name of a column, not a template, and can't hold braces or colons. Rename the "
            "column."
        )
    return f"{{{column}}}"


def _used_fields(suite: Suite) -> Iterator[tuple[str, str, list[int]]]:
    """Yield place, name and tables of each field that a template or a lookup uses."""
    every = list(range(len(suite.tables)))
    for name in Template(suite.lineage).fields:
        yield "lineage", name, every
    for run_type in suite.run_types:
        label = run_template(suite, run_type)
        for name in label.fields:
            if name != "lineage":
                yield label.what, name, [i for i in every if suite.tables[i].run_type == run_type]
    if suite.replicate is not None:
        yield "replicate", suite.replicate, every
    for key in ("run_id", "tokens", "n_params", "schedule_tokens"):
        own = [i for i in every if getattr(suite.tables[i], key) is None]
        for users, path, value in [
            (own, key, getattr(suite, key)),
            *(([i], f"tables[{i}].{key}", getattr(suite.tables[i], key)) for i in every if i not in own),
        ]:
            for name in _fields_of(key, value):
                if users:
                    yield path, name, users
    for index in every:
        table = suite.tables[index]
        for template, _ in table.parents:
            for name in template.fields:
                if name != "lineage":
                    yield f"tables[{index}].parent", name, [index]
        if table.key is not None:
            for name in Template(table.key).fields:
                # Of lm_eval files, tasks and metrics are what the files are made of.
                if table.format != "lm_eval":
                    yield f"tables[{index}].key", name, [index]


def _fields_of(key: str, value: Any) -> tuple[str, ...]:
    if key == "run_id":
        return tuple(name for name in Template(value).fields if name != "lineage") if value else ()
    if key == "tokens" and isinstance(value, Mapping):
        value = value.get("per_step")
    return tuple(value) if isinstance(value, Mapping) else ()


def _check_labels(suite: Suite) -> None:
    for name in Template(suite.lineage, "lineage").fields:
        if name in ("lineage", "run", "run_id", "cumulative_tokens"):
            raise UnknownNameError(
                f"lineage: {{{name}}} is made of the lineage's label and can't be part of it, so the name {name!r} is "
                f"reserved. Name factors of the root. Where a column is called {name!r}, give it another name by "
                f"factors={{{name + '_'!r}: {name!r}}}, and write {{{name + '_'}}}."
            )
    if isinstance(suite.run, Mapping):
        for run_type, text in suite.run.items():
            Template(text, f"run.{run_type}")
        for index, table in enumerate(suite.tables):
            if table.run_type not in suite.run:
                raise UnknownNameError(
                    f"tables[{index}].run_type: run has no template for {table.run_type!r}, so its runs have no label. "
                    f"Run types: {listed(suite.run)}.{near_names(table.run_type, suite.run)}"
                )
        if suite.producer is None:
            for run_type in suite.run:
                if run_type not in suite.run_types:
                    raise UnknownNameError(
                        f"run.{run_type}: no table has the run type {run_type!r}. Run types: "
                        f"{listed(suite.run_types)}.{near_names(run_type, suite.run_types)}"
                    )
    elif suite.run is not None:
        Template(suite.run, "run")
    if suite.run_id is not None:
        Template(suite.run_id, "run_id")
    if suite.replicate is not None:
        check_text(suite.replicate, "replicate", "the factor that orders repetitions")


def _check_duplicates(tables: Sequence[Table]) -> None:
    for index, table in enumerate(tables):
        for earlier in range(index):
            if _rows_of(tables[earlier], table):
                raise FormatError(
                    f"tables[{index}].files: tables[{earlier}] reads the same rows, so every run would be there twice. "
                    "Leave one out, or tell their rows apart by parse or where."
                )


def _rows_of(a: Table, b: Table) -> bool:
    keys = ("format", "where", "key", "value")
    files = a.files is b.files if a.is_frame or b.is_frame else a.files == b.files
    return files and a.parse == b.parse and all(getattr(a, k) == getattr(b, k) for k in keys)


def _check_kinds(tables: Sequence[Table]) -> None:
    """Raise where a field is a number in one table and text in another."""
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


def _check_counts(suite: Suite) -> None:
    if suite.counts is not None or suite.settle_counts:
        return
    for index, table in enumerate(suite.tables):
        if table.counts is None and (table.parent is not None or suite.edges is not None):
            what = "the table has a parent" if table.parent is not None else "the suite has edges"
            raise FormatError(
                f"tables[{index}].counts: {what}, and nothing says what its tokens count from. Say 'own' where the "
                "counter begins anew with the run, or 'cumulative' where it goes on from the parent's."
            )


def _check_frame_rules(suite: Suite, columns: Sequence[Collection[str]]) -> None:
    """Raise where a rule of a table that is a frame names no column of it."""
    for index, declared in enumerate(suite.tables):
        table = suite.resolved(declared)
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
