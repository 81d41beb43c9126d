"""Table: the declaration of one table of a suite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from dde.errors import FormatError, UnknownNameError, near_names
from dde.suite import serialization
from dde.suite.field_checks import (
    FORMATS,
    check_at,
    check_metrics,
    check_name,
    check_numbers,
    check_rule,
    check_text,
    sort_of,
)
from dde.suite.metric import Metric
from dde.suite.patterns import Pattern, Template
from dde.suite.reading import wandb_places
from dde.suite.rules import Rule, RuleSource

__all__ = ["At", "Lookup", "PerStep", "Table", "branch_rule"]

#: Where a run branches from its parent: a word, or a rule for the parent's own steps or tokens, or cumulative tokens.
At = str | Mapping[str, RuleSource]
#: Tokens of a step: of all, in pieces from a step on, or by the value of a factor.
PerStep = Mapping[str, Any]
#: A lookup by the value of a factor.
Lookup = Mapping[str, Mapping[Any, int]]


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """One table of a suite: files of one format, or a data frame.

    Parameters
    ----------
    files : str, sequence of str, or data frame
        Pattern of the paths below the suite's root, with fields (``"cosine/{size}-{budget:float}xC.csv"``); several
        patterns; or any data frame. For W&B runs, the folder of an export below the root, a PostgreSQL DSN, or ``"."``
        for the root.
    format : str, optional
        Format of the files (see `dde.suite.field_checks.FORMATS`), by default given by their suffix; ``"wandb"`` for
        W&B runs.
    run_type : str
        Stage of the runs.
    run_id : str, optional
        Template of the run's id; by default the suite's.
    parse : mapping of str to str
        Pattern of the texts of a column, whose fields are added; rows that do not match do not belong to this table.
    where : str or callable, optional
        Rule that selects rows.
    factors : mapping of str to rule
        Computed fields.
    key, value : str, optional
        For a long table: template of the metric's key, and column of its value.
    parent : str or sequence, optional
        Template of the parent's run id; or several, each alone or as ``[template, at]``.
    at : str or mapping
        Branch point of the run: ``"end"`` of the parent; ``"first_row"``, if the run's first row is the parent's
        state; ``"checkpoint"``, the parent's last row before the run's first; or ``{"step": rule}``, ``{"tokens":
        rule}`` (the parent's own), ``{"cumulative": rule}``.
    step, tokens, counts, n_params, schedule_tokens, metrics : optional
        See :class:`Suite`; for this table only. Patterns of metrics are tried before those of the suite.

    Raises
    ------
    FormatError
        When a pattern, template or rule is invalid.
    UnknownNameError
        When a word is unknown, or a name is reserved.

    Notes
    -----
    Columns of W&B runs (``format="wandb"``) are

    - keys of the history, and the step, as ``_step`` or ``step``; only these can be metrics, and each is read on
      request;
    - keys of the config, nested ones with dots: ``config.optimizer.lr``, or ``optimizer.lr`` if the history has no
      key of that name. In arithmetic, such a name is written in backquotes: ``"`config.batch` * _step"``. A Python
      function gets only the keys that the declaration names elsewhere, such as in `factors`;
    - ``run_id``, ``run_name``, ``project``, ``entity``, ``state``, ``created_at``, ``tags`` (joined by commas);
    - ``forked_from`` and ``forked_at``, a step, if W&B forked the run from another; ``rewound_at`` if it rewound the
      run itself. ``parent="{forked_from}", at={"step": "forked_at"}`` follows forks; rows that a rewind
      replaced are only in exports that were made before it.

    A row without the counter that `tokens` names has no position and is counted as left out; if evaluations are logged
    without the counter, declare tokens per step. Runs are selected by `parse` and `where` before any history is read.
    The state of a run is the one that W&B reports. A password in a DSN is never shown, written or sent.

    Examples
    --------
    >>> decays = Table("postgresql://localhost/wandb", format="wandb", run_type="decay",
    ...                where="project == 'annealing' and kind == 'decay'", factors={"lr": "config.optimizer.lr"},
    ...                parent="{config.branch.run}", at={"step": "config.branch.step"})
    >>> decays.parents
    ((Template('{config.branch.run}'), {'step': 'config.branch.step'}),)
    >>> table = Table("decay/{size}-{budget:float}xC.csv", run_type="decay", parent="constant/{size}-10xC",
    ...               at="checkpoint")
    >>> table.parents
    ((Template('constant/{size}-10xC'), 'checkpoint'),)
    """

    files: Any
    _: KW_ONLY
    format: str | None = None
    run_type: str = "pretraining"
    run_id: str | None = None
    parse: Mapping[str, str] = field(default_factory=dict)
    where: RuleSource | None = None
    factors: Mapping[str, RuleSource] = field(default_factory=dict)
    key: str | None = None
    value: str | None = None
    parent: str | Sequence[Any] | None = None
    at: At = "end"
    step: RuleSource | None = None
    tokens: RuleSource | PerStep | None = None
    counts: str | None = None
    n_params: RuleSource | Lookup | None = None
    schedule_tokens: RuleSource | Lookup | None = None
    metrics: Mapping[str, Metric] | None = None

    def __post_init__(self) -> None:
        serialization.settle(self)
        if self.format == wandb_places.FORMAT:
            object.__setattr__(self, "files", wandb_places.settle_places(self.files))
        _check_table(self)

    @property
    def is_frame(self) -> bool:
        """Whether the table is a data frame."""
        return serialization.is_frame(self.files)

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """Patterns of the files; () for a data frame or W&B runs."""
        if self.is_frame or self.format == wandb_places.FORMAT:
            return ()
        return tuple(Pattern(f, "files") for f in ((self.files,) if isinstance(self.files, str) else self.files))

    @property
    def parse_patterns(self) -> dict[str, Pattern]:
        """Pattern of each column that is parsed."""
        return {column: Pattern(text, f"parse[{column!r}]") for column, text in self.parse.items()}

    @property
    def declared_fields(self) -> frozenset[str]:
        """Fields that the declaration itself defines: of paths, of parsed columns, and computed ones."""
        patterns = (*self.patterns, *self.parse_patterns.values())
        return frozenset(f for p in patterns for f in p.fields).union(self.factors)

    @property
    def parents(self) -> tuple[tuple[Template, At], ...]:
        """Template and branch of each parent, in the declared order."""
        return tuple((Template(text, "parent"), at) for text, at in serialization.split_parents(self.parent, self.at))

    def to_dict(self) -> dict[str, Any]:
        """Return what the table declares, by name, without defaults."""
        return serialization.to_dict(self)

    @classmethod
    def from_dict(cls, declared: Mapping[str, Any]) -> Table:
        """Return the table that a mapping declares."""
        return serialization.table_from_dict(cls, declared, "table")

    def __repr__(self) -> str:
        declared = self.to_dict()
        files = declared.pop("files")
        shown = [f"<{type(files).__name__}>" if self.is_frame else repr(files)]
        return f"Table({', '.join([*shown, *(f'{key}={value!r}' for key, value in declared.items())])})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and serialization.same(self.to_dict(), other.to_dict())

    def __hash__(self) -> int:
        return hash((self.run_type, self.run_id))


def branch_rule(at: At) -> tuple[str, Rule | None]:
    """Return the unit of a branch point, and its rule; a word has no rule.

    Examples
    --------
    >>> branch_rule("checkpoint")
    ('checkpoint', None)
    >>> branch_rule({"step": "first_step - 1000"})
    ('step', Rule('first_step - 1000'))
    """
    if isinstance(at, str):
        return at, None
    ((kind, rule),) = at.items()
    return kind, Rule(rule, what=f"at.{kind}")


def _check_table(table: Table) -> None:
    """Raise an error if a table is wrong by itself; messages begin with the key."""
    _check_files(table)
    check_text(table.run_type, "run_type", "the run type of a table")
    for key in ("run_id", "key"):
        if getattr(table, key) is not None:
            Template(getattr(table, key), key)
    for key in ("parse", "factors"):
        if not isinstance(getattr(table, key), Mapping):
            raise FormatError(f"{key}: {getattr(table, key)!r} is not a mapping of names.")
    _check_field_sources(table)
    if table.where is not None:
        check_rule(table.where, "where")
    if table.value is not None:
        check_text(table.value, "value", "the column of the values")
    if (table.value is None) != (table.key is None) and table.format != "lm_eval":
        raise FormatError(
            f"{'value' if table.value is None else 'key'}: a long table needs both key, the template of metrics, and "
            "value, the column of their values, and this table has only one of them."
        )
    _check_parents(table)
    check_numbers(table.step, table.tokens, table.counts, table.n_params, table.schedule_tokens)
    check_metrics(table.metrics)


def _check_files(table: Table) -> None:
    files = table.files
    if table.is_frame:
        if table.format is not None:
            raise FormatError(f"format: a data frame has no format, so {table.format!r} has no meaning. Leave it out.")
        return
    if table.format == wandb_places.FORMAT:
        wandb_places.check_places(files, table.key, table.value)
        return
    if not isinstance(files, (str, tuple)) or not files:
        raise FormatError(
            f"files: {files!r} is neither a pattern of paths nor a data frame, so the table has no rows to read."
        )
    for index, one in enumerate((files,) if isinstance(files, str) else files):
        Pattern(one, "files" if isinstance(files, str) else f"files[{index}]")
    if table.format is not None and table.format not in FORMATS:
        raise UnknownNameError(
            f"format: {table.format!r} is not a supported format. Formats: {', '.join(FORMATS)}; leave it out to go by "
            f"the suffix.{near_names(table.format, FORMATS)}"
        )


def _check_field_sources(table: Table) -> None:
    """Raise an error if a field has a reserved name or two sources."""
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
                    f"{place}: the field {name!r} is ambiguous: {sources[name]} defines it too. Give one "
                    "of the two another name."
                )
            sources[name] = place
    for name, rule in table.factors.items():
        check_rule(rule, f"factors.{name}")
    kinds: dict[str, str] = {}
    for pattern in table.patterns:
        for name, kind in pattern.kinds.items():
            if kinds.setdefault(name, sort_of(kind)) != sort_of(kind):
                raise FormatError(f"files: the field {name!r} is a number in one pattern and text in another.")


def _check_parents(table: Table) -> None:
    pairs = serialization.split_parents(table.parent, table.at)
    seen: list[tuple[str, Any]] = []
    check_at(table.at, "at")
    if not pairs and table.at != "end":
        raise FormatError(
            f"at: a branch at {table.at!r} needs a parent, and the table has none. Declare parent=, the template of "
            "the parent's run id."
        )
    several = not isinstance(table.parent, str)
    for index, (text, at) in enumerate(pairs):
        Template(text, f"parent[{index}]" if several else "parent")
        check_at(at, f"parent[{index}]" if several else "at")
        if (text, at) in seen:
            raise FormatError(f"parent[{index}]: the parent {text!r} at {at!r} is declared twice.")
        seen.append((text, at))
