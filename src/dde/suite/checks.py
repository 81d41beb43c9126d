"""Checks of a declaration: all that can be known to be wrong before a file is read."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dde.errors import FormatError, UnknownNameError, near_names
from dde.schema import CELL_NUMBERS, CELL_TEXTS, DIMS, MEMBERS, POSITION_CHECK, SAMPLED, TABLE_SAMPLINGS
from dde.suite import plain
from dde.suite.metric import Metric
from dde.suite.patterns import Pattern, Template
from dde.suite.rules import Rule

if TYPE_CHECKING:
    from dde.suite.declare import Suite, Table

__all__ = [
    "COUNTS",
    "FORMATS",
    "RESERVED",
    "check_fields",
    "check_suite",
    "check_table",
    "column_template",
    "run_template",
]

#: Forms of files that are read.
FORMATS = ("csv", "tsv", "parquet", "jsonl", "arrow", "lm_eval", "trainer_state")
#: What tokens count from: the run's start, or that of its root.
COUNTS = ("own", "cumulative")

# Coordinates that describe a hyperparameter of a run may be factors of any suite.
_HYPERPARAMETERS = ("reduce_loss", "batch_size", "training_seed", "weight_decay", "warmup_ratio", "max_seq_length")
# What `open_lineages` takes beside factors: a factor of such a name could not be selected.
_OPTIONS = (
    "source db suite method state lineages run_ids metrics grid max_points interp max_gap bridge parents "
    "tokens_per_sequence cache_dir chunks"
).split()
#: Names that no field of a suite may have: those of coordinates, and of options of ``open_lineages``.
RESERVED = frozenset(
    {
        *DIMS, *CELL_TEXTS, *CELL_NUMBERS, *TABLE_SAMPLINGS, *_OPTIONS, POSITION_CHECK, MEMBERS, "run_type",
        "start_tokens", "n_params", "replicate", "cumulative_compute", "base_distance", "last_end_tokens",
        "final_tokens", "final_compute", "own_tokens",
    }
).difference(_HYPERPARAMETERS)  # fmt: skip

# Names that a template may always use, beside the fields of its table.
_MADE = frozenset(("run_type",))


def check_table(table: Table) -> None:
    """Raise where a table alone is wrong; messages begin with the key."""
    _check_files(table)
    _check_text(table.run_type, "run_type", "the run type of a table")
    for key in ("run_id", "key"):
        if getattr(table, key) is not None:
            Template(getattr(table, key), key)
    for key in ("parse", "factors"):
        if not isinstance(getattr(table, key), Mapping):
            raise FormatError(f"{key}: {getattr(table, key)!r} is no mapping of names.")
    _check_field_sources(table)
    if table.where is not None:
        _check_rule(table.where, "where")
    if table.value is not None:
        _check_text(table.value, "value", "the column of the values")
    if (table.value is None) != (table.key is None) and table.format != "lm_eval":
        raise FormatError(
            f"{'value' if table.value is None else 'key'}: a long table says both: key, the template of metrics, and "
            "value, the column of their values. This one says one of them."
        )
    _check_parents(table)
    _check_numbers(table)
    _check_metrics(table.metrics)


def check_suite(suite: Suite) -> None:
    """Raise where a suite is wrong; messages name the suite and the place in it."""
    with plain.within(f"suite {suite.name!r}: "):
        _check_text(suite.name, "name", "the name of a suite")
        _check_labels(suite)
        _check_numbers(suite)
        _check_metrics(suite.metrics)
        if not suite.tables and suite.producer is None:
            raise FormatError(
                "tables: the suite has no tables, so there is nothing to open. Say its files: tables=[Table(...)]."
            )
        if not (
            suite.producer is None or callable(suite.producer) or (isinstance(suite.producer, str) and suite.producer)
        ):
            raise FormatError(f"producer: {suite.producer!r} is neither the name of a producer nor a function.")
        _check_duplicates(suite.tables)
        _check_kinds(suite.tables)
        _check_edges(suite.edges)
        _check_counts(suite)
        for index, table in enumerate(suite.tables):
            if table.run_id is None and suite.run_id is None:
                raise FormatError(
                    f"tables[{index}].run_id: neither the table nor the suite says it. It is the template that tells "
                    "all runs apart, of fields of paths, parsed texts, factors or columns."
                )
        checkpoint_patterns(suite)
        if suite.tables and all(table.is_frame for table in suite.tables):
            columns = [plain.frame_columns(table.files) for table in suite.tables]
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
            fields = sorted(known.difference(_MADE))
            raise UnknownNameError(
                f"suite {suite.name!r}: {path}: no table has the field {name!r}: no path, parsed text, factor or "
                f"column is called so. Fields: {_listed(fields)}.{near_names(name, fields)}"
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
            f"suite {suite.name!r}: run: there is no template for the run type {run_type!r}, so its runs have no "
            f"label. Run types: {_listed(suite.run)}.{near_names(run_type, suite.run)}"
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
    _check_text(column, "run", "the column of the run id")
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


def _check_text(value: object, key: str, what: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise FormatError(f"{key}: {what} is a text, and {value!r} is none.")


def _check_rule(value: Any, key: str) -> None:
    Rule(value, what=key)


def _check_files(table: Table) -> None:
    files = table.files
    if table.is_frame:
        if table.format is not None:
            raise FormatError(f"format: a data frame has no format, and {table.format!r} is said. Leave it out.")
        return
    if not isinstance(files, (str, tuple)) or not files:
        raise FormatError(
            f"files: a table says its files, a pattern of paths or a data frame, and {files!r} is neither."
        )
    for index, one in enumerate((files,) if isinstance(files, str) else files):
        Pattern(one, "files" if isinstance(files, str) else f"files[{index}]")
    if table.format is not None and table.format not in FORMATS:
        raise UnknownNameError(
            f"format: {table.format!r} is no format that is read. Formats: {', '.join(FORMATS)}; leave it out to go by "
            f"the suffix.{near_names(table.format, FORMATS)}"
        )


def _check_field_sources(table: Table) -> None:
    """Raise where a field has a reserved name, or two sources that may say different things of it."""
    sources: dict[str, str] = {}
    places: list[tuple[str, Iterable[str]]] = [
        ("files", dict.fromkeys(f for p in table.patterns for f in p.fields)),
        *((f"parse[{column!r}]", pattern.fields) for column, pattern in table.parse_patterns.items()),
        *((f"factors.{name}", (name,)) for name in table.factors),
    ]
    for place, names in places:
        for name in names:
            check_name(name, place)
            if name in sources:
                raise FormatError(
                    f"{place}: the field {name!r} is ambiguous: {sources[name]} gives it too, and nothing says which "
                    "counts. Give one of the two another name."
                )
            sources[name] = place
    for name, rule in table.factors.items():
        _check_rule(rule, f"factors.{name}")
    kinds: dict[str, str] = {}
    for pattern in table.patterns:
        for name, kind in pattern.kinds.items():
            if kinds.setdefault(name, _sort(kind)) != _sort(kind):
                raise FormatError(f"files: the field {name!r} is a number in one pattern and text in another.")


def check_name(name: str, place: str) -> None:
    """Raise where a field's name is reserved, or no name at all."""
    if name in RESERVED or name.startswith((SAMPLED, "base_distance")):
        raise UnknownNameError(
            f"{place}: the name {name!r} is reserved: every Dataset has a coordinate or open_lineages an option of "
            f"this name, and a factor would be taken for it. Take another name, as {name + '_'!r}."
        )
    if not name.isidentifier():
        raise FormatError(f"{place}: {name!r} can't name a factor; take a name of letters, digits and _.")


def _check_parents(table: Table) -> None:
    pairs = plain.split_parents(table.parent, table.at)
    seen: list[tuple[str, Any]] = []
    check_at(table.at, "at")
    if not pairs and table.at != "end":
        raise FormatError(
            f"at: a branch at {table.at!r} needs a parent, and the table says none. Say parent=, the template of the "
            "parent's run id."
        )
    several = not isinstance(table.parent, str)
    for index, (text, at) in enumerate(pairs):
        Template(text, f"parent[{index}]" if several else "parent")
        check_at(at, f"parent[{index}]" if several else "at")
        if (text, at) in seen:
            raise FormatError(f"parent[{index}]: the parent {text!r} at {at!r} stands there twice.")
        seen.append((text, at))


def check_at(at: Any, key: str) -> None:
    """Raise where a branch is none."""
    if isinstance(at, str):
        if at not in plain.AT_WORDS:
            raise UnknownNameError(
                f"{key}: {at!r} is no branch. Take {', '.join(plain.AT_WORDS)}, or a mapping of "
                f"{', '.join(plain.AT_KINDS)} to a rule.{near_names(at, plain.AT_WORDS)}"
            )
        return
    if not isinstance(at, Mapping) or len(at) != 1:
        raise FormatError(
            f"{key}: {at!r} is no branch. Take {', '.join(plain.AT_WORDS)}, or a mapping of one of "
            f"{', '.join(plain.AT_KINDS)} to a rule."
        )
    ((kind, rule),) = at.items()
    if kind not in plain.AT_KINDS:
        raise UnknownNameError(
            f"{key}: a branch is not counted in {kind!r}. Take one of {', '.join(plain.AT_KINDS)}."
            f"{near_names(kind, plain.AT_KINDS)}"
        )
    _check_rule(rule, f"{key}.{kind}")


def _check_numbers(declared: Suite | Table) -> None:
    """Check step, tokens, counts, n_params and schedule_tokens of a suite or a table."""
    if declared.counts is not None and declared.counts not in COUNTS:
        raise UnknownNameError(
            f"counts: {declared.counts!r} is no way to count. Take 'own', tokens since the run's start, or "
            f"'cumulative', where the counter goes on from the parent's.{near_names(declared.counts, COUNTS)}"
        )
    if declared.step is not None:
        _check_rule(declared.step, "step")
    if isinstance(declared.tokens, Mapping):
        _check_per_step(declared.tokens)
    elif declared.tokens is not None:
        _check_rule(declared.tokens, "tokens")
    for key in ("n_params", "schedule_tokens"):
        value = getattr(declared, key)
        if isinstance(value, Mapping):
            _check_lookup(value, key)
        elif value is not None:
            _check_rule(value, key)


def _check_per_step(tokens: Mapping[str, Any]) -> None:
    for key in tokens:
        if key != "per_step":
            raise UnknownNameError(f"tokens: there is no {key!r}; take per_step.{near_names(key, ['per_step'])}")
    value = tokens.get("per_step")
    if isinstance(value, Mapping):
        _check_lookup(value, "tokens.per_step")
    elif isinstance(value, list):
        _check_pieces(value)
    elif not _is_count(value):
        raise FormatError(
            f"tokens.per_step: {value!r} is no number of tokens a step. Take a whole number, pieces [[step, n], ...], "
            "or {factor: {value: n}}."
        )


def _check_pieces(pieces: list[Any]) -> None:
    before = -1
    for index, piece in enumerate(pieces):
        path = f"tokens.per_step[{index}]"
        if not isinstance(piece, list) or len(piece) != 2 or not _is_count(piece[1]):
            raise FormatError(f"{path}: {piece!r} is no piece; one is [first step, tokens a step].")
        if not (_is_count(piece[0]) or (type(piece[0]) in (int, float) and piece[0] == 0)) or piece[0] <= before:
            raise FormatError(f"{path}: steps of pieces ascend, and {piece[0]!r} does not.")
        if not index and piece[0] != 0:
            raise FormatError(f"{path}: the first piece begins at step 0, and this one at {piece[0]!r}.")
        before = piece[0]
    if not pieces:
        raise FormatError("tokens.per_step: there is no piece; one is [first step, tokens a step].")


def _check_lookup(lookup: Mapping[str, Any], key: str) -> None:
    if len(lookup) != 1:
        raise FormatError(
            f"{key}: a lookup is by one factor, {{factor: {{value: n}}}}, and this one is by {_listed(lookup)}."
        )
    ((factor, values),) = lookup.items()
    if not isinstance(values, Mapping) or not values:
        raise FormatError(f"{key}.{factor}: {values!r} is no mapping of the factor's values to numbers.")
    for value, number in values.items():
        if not _is_count(number):
            raise FormatError(f"{key}.{factor}[{value!r}]: {number!r} is no whole number above 0.")


def _is_count(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= 2**63 - 1 and math.isfinite(value) and value == int(value)


def _check_metrics(metrics: Mapping[str, Metric] | None) -> None:
    for text, metric in (metrics or {}).items():
        place = f"metrics[{text!r}]"
        pattern = Pattern(text, place)
        unknown = sorted(metric.fields.difference(pattern.fields))
        if unknown:
            raise UnknownNameError(
                f"{place}: the metric names the field {unknown[0]!r}, and the pattern of its key has no such field. "
                f"Fields: {_listed(pattern.fields)}.{near_names(unknown[0], pattern.fields)}"
            )
        if not Template(metric.name).fields:
            name = metric.name
            if name in RESERVED or name.startswith((SAMPLED, "base_distance")):
                raise UnknownNameError(
                    f"{place}.name: the name {name!r} is reserved: it is that of a coordinate or of an option. Take "
                    f"another name, as {name + '_at_step'!r}."
                )


def _check_labels(suite: Suite) -> None:
    for name in Template(suite.lineage, "lineage").fields:
        if name in ("lineage", "run", "run_id", "cumulative_tokens"):
            raise UnknownNameError(
                f"lineage: {{{name}}} is made of the lineage's label and can't be part of it. Name factors of the root."
            )
    if isinstance(suite.run, Mapping):
        for run_type, text in suite.run.items():
            Template(text, f"run.{run_type}")
        for index, table in enumerate(suite.tables):
            if table.run_type not in suite.run:
                raise UnknownNameError(
                    f"tables[{index}].run_type: run has no template for {table.run_type!r}, so its runs have no label. "
                    f"Run types: {_listed(suite.run)}.{near_names(table.run_type, suite.run)}"
                )
        if suite.producer is None:
            for run_type in suite.run:
                if run_type not in suite.run_types:
                    raise UnknownNameError(
                        f"run.{run_type}: no table has the run type {run_type!r}. Run types: "
                        f"{_listed(suite.run_types)}.{near_names(run_type, suite.run_types)}"
                    )
    elif suite.run is not None:
        Template(suite.run, "run")
    if suite.run_id is not None:
        Template(suite.run_id, "run_id")
    if suite.replicate is not None:
        _check_text(suite.replicate, "replicate", "the factor that orders repetitions")


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
                sort, first = seen.setdefault(name, (_sort(kind), path))
                if sort != _sort(kind):
                    raise FormatError(
                        f"{path}: the field {name!r} is {_sort(kind)} here and {sort} in {first}. A factor has one "
                        f"type: write {{{name}:float}} in both, or in none."
                    )


def _sort(kind: str) -> str:
    return "a number" if kind in ("int", "float") else "text"


def _check_edges(edges: Any) -> None:
    if edges is None or not isinstance(edges, list):
        return
    for index, edge in enumerate(edges):
        place = f"edges[{index}]"
        if not isinstance(edge, Mapping):
            raise FormatError(f"{place}: {edge!r} is no edge; one is {{'run': id, 'parents': [[id, at], ...]}}.")
        for key in ("run", "parents"):
            if key not in edge:
                raise FormatError(f"{place}.{key}: an edge says its {key}.{near_names(key, edge)}")
        _check_text(edge["run"], f"{place}.run", "the id of a run")
        with plain.within(f"{place}: "):
            for text, at in plain.split_parents(edge["parents"] or None, "end"):
                _check_text(text, "parents", "the id of a parent")
                check_at(at, "parents")
        for key in edge:
            if key not in ("run", "parents"):
                check_name(key, place)


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
        given += [("where", table.where), *((f"factors.{n}", r) for n, r in table.factors.items())]
        for key, rule in given:
            if rule is not None and not isinstance(rule, Mapping):
                place = key if getattr(declared, key, 0) is None else f"tables[{index}].{key}"
                Rule(rule, known, what=place)
        for column in (*table.parse, *([table.value] if table.value is not None else ())):
            if column not in known:
                raise UnknownNameError(
                    f"tables[{index}]: the frame has no column {column!r}. Columns: "
                    f"{_listed(columns[index])}.{near_names(column, columns[index])}"
                )


def _listed(names: Iterable[str], most: int = 20) -> str:
    listed = list(names)
    more = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return (", ".join(listed[:most]) or "none") + more
