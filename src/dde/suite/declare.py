"""Suite: the declaration of a suite of training runs."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Any

from dde.errors import FormatError
from dde.suite import checks, serialization
from dde.suite.edges import Edge, read_edges
from dde.suite.field_checks import check_metrics, check_numbers, check_text
from dde.suite.metric import Metric
from dde.suite.patterns import Pattern, Template
from dde.suite.reading import wandb_places
from dde.suite.rules import RuleSource
from dde.suite.table import At, Lookup, PerStep, Table, branch_rule

__all__ = ["At", "Metric", "PerStep", "Suite", "Table", "branch_rule"]


@dataclass(frozen=True, eq=False, repr=False)
class Suite:
    """A suite of training runs: the locations of its files, and their meaning.

    Parameters
    ----------
    name : str
        Name of the suite.
    lineage : str
        Template of a lineage's label; the fields are factors of its root.
    run : str or mapping of str to str, optional
        Template of a run's own label, by run type, or one for all; by default the run type.
    run_id : str, optional
        Template of a run's id, which must identify each run.
    root : str or path, optional
        Default folder or URL.
    replicate : str, optional
        Factor that orders repetitions of one label.
    step : str or rule
        Column of the step.
    tokens : str, rule or mapping
        Column or rule of the tokens of a row; or tokens per step: ``{"per_step": n}``, ``{"per_step": [[step, n],
        ...]}`` for batches that change at steps, or ``{"per_step": {factor: {value: n}}}``.
    counts : {"own", "cumulative"}, optional
        Whether `tokens` counts from the run's start or continues from the parent's; required if a run has a parent.
    n_params : str, rule or mapping, optional
        Exact number of parameters: column, rule, or ``{factor: {value: n}}``.
    schedule_tokens : str, rule or mapping, optional
        Tokens at the planned end.
    metrics : mapping of str to Metric, optional
        Metric of each pattern of a key; the first pattern that matches is used. By default, every column of numbers
        that has no other use is a metric.
    tables : sequence of Table
        The tables.
    edges : sequence of mappings, or data frame, optional
        Explicit graph: ``{"run": id, "parents": [[id, at], ...]}``; see `dde.suite.edges.read_edges`.
    checkpoints : str or sequence of str
        Patterns of the names by which other runs refer to a run's checkpoint.
    producer : str or callable, optional
        Code that reads the runs instead of `tables`: a function of the suite, the folder or URL, and the cache folder,
        which returns a :class:`dde.sources.protocols.PretrainingSource`; or the name of a producer of dde.
    settle_counts : bool
        Whether `counts` may be derived from the rows of runs and their parents; it is an error if both values fit them,
        or neither.

    Raises
    ------
    FormatError
        When a pattern, template or rule is invalid, or parts of the declaration contradict each other.
    UnknownNameError
        When a word or key is unknown, or a name is reserved.

    Examples
    --------
    >>> suite = Suite("trial", lineage="{corpus}-{size}", run_id="{corpus}-{size}", tables=[
    ...     Table("{corpus}-{size}.csv", metrics={"loss": Metric("loss", "nats", "lower")})])
    >>> suite.resolved(suite.tables[0]).tokens
    'tokens'
    >>> Suite.from_dict(suite.to_dict()) == suite
    True
    """

    name: str
    _: KW_ONLY
    lineage: str
    run: str | Mapping[str, str] | None = None
    run_id: str | None = None
    root: str | os.PathLike[str] | None = None
    replicate: str | None = None
    step: RuleSource = "step"
    tokens: RuleSource | PerStep = "tokens"
    counts: str | None = None
    n_params: RuleSource | Lookup | None = None
    schedule_tokens: RuleSource | Lookup | None = None
    metrics: Mapping[str, Metric] | None = None
    tables: Sequence[Table] = ()
    edges: Any = None
    checkpoints: str | Sequence[str] = ()
    producer: Any = None
    settle_counts: bool = False

    def __post_init__(self) -> None:
        serialization.settle(self, Table)
        object.__setattr__(self, "root", wandb_places.settle_root(self.root))
        with serialization.within(f"suite {self.name!r}: "):
            self._check()

    def _check(self) -> None:
        """Raise an error if the suite is wrong; messages begin with the key."""
        check_text(self.name, "name", "the name of a suite")
        if not self.tables and self.producer is None:
            raise FormatError(
                "tables: the suite has no tables, so there is nothing to open. Declare its files: tables=[Table(...)]."
            )
        checks.check_labels(self.lineage, self.run, self.run_id, self.replicate, self.tables, self.producer is None)
        check_numbers(self.step, self.tokens, self.counts, self.n_params, self.schedule_tokens)
        check_metrics(self.metrics)
        if not (self.producer is None or callable(self.producer) or (isinstance(self.producer, str) and self.producer)):
            raise FormatError(f"producer: {self.producer!r} is neither the name of a producer nor a function.")
        checks.check_duplicates(self.tables)
        checks.check_kinds(self.tables)
        read_edges(self.edges)
        if self.counts is None and not self.settle_counts:
            checks.check_counts(self.tables, has_edges=self.edges is not None)
        checks.check_run_ids(self.tables, self.run_id)
        checks.checkpoint_patterns(self.tables, self.checkpoints)
        if self.tables and all(table.is_frame for table in self.tables):
            columns = [serialization.frame_columns(table.files) for table in self.tables]
            checks.check_frame_rules(self.tables, [self.resolved(table) for table in self.tables], columns)
            self._missing_fields([(*c, *t.declared_fields) for c, t in zip(columns, self.tables, strict=True)])

    @property
    def run_types(self) -> tuple[str, ...]:
        """Run types of the tables, in the order in which they appear."""
        return tuple(dict.fromkeys(table.run_type for table in self.tables))

    @property
    def lineage_template(self) -> Template:
        """Template of a lineage's label."""
        return Template(self.lineage, "lineage")

    @cached_property
    def graph(self) -> tuple[Edge, ...]:
        """Edges of the suite, one per run; () if it has no `edges`."""
        return read_edges(self.edges)

    @property
    def checkpoint_patterns(self) -> tuple[Pattern, ...]:
        """Patterns of checkpoints' names; a field without a type has the one that it has in the tables' paths."""
        return checks.checkpoint_patterns(self.tables, self.checkpoints)

    def run_template(self, run_type: str) -> Template:
        """Return the template of the own label of runs of a type.

        Raises
        ------
        UnknownNameError
            When the suite has no template for this type.
        """
        with serialization.within(f"suite {self.name!r}: "):
            return checks.run_template(self.run, run_type)

    def resolved(self, table: Table) -> Table:
        """Return a table with the defaults of the suite filled in.

        Its patterns of metrics come before the suite's; `metrics` is None if neither has any.
        """
        own = {
            key: getattr(self, key)
            for key in ("run_id", "step", "tokens", "counts", "n_params", "schedule_tokens")
            if getattr(table, key) is None
        }
        if self.metrics is not None:
            own["metrics"] = {
                **(table.metrics or {}),
                **{k: v for k, v in self.metrics.items() if k not in (table.metrics or {})},
            }
        return replace(table, **own)

    def check_fields(self, available: Sequence[Collection[str]]) -> tuple[frozenset[str], ...]:
        """Return the fields of templates that each table does not have; they are "" in its runs.

        Parameters
        ----------
        available : sequence of collections of str
            Fields of each table of `tables`, and columns of its files.

        Raises
        ------
        UnknownNameError
            When no table has a field of a template.
        """
        with serialization.within(f"suite {self.name!r}: "):
            return self._missing_fields(available)

    def _missing_fields(self, available: Sequence[Collection[str]]) -> tuple[frozenset[str], ...]:
        numbers = {key: getattr(self, key) for key in ("run_id", "tokens", "n_params", "schedule_tokens")}
        return checks.check_fields(self.lineage, self.run, self.replicate, numbers, self.tables, available)

    @property
    def digest(self) -> str:
        """Short digest of the declaration, including the values of data frames; part of fingerprints."""
        # A frame is mutable; everything else is not.
        if any(table.is_frame for table in self.tables) or serialization.holds_frame("edges", self.edges):
            return serialization.digest(self.to_dict())
        return self._cached_digest

    @cached_property
    def _cached_digest(self) -> str:
        return serialization.digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return what the suite declares, by name, without defaults."""
        return serialization.to_dict(self)

    @classmethod
    def from_dict(cls, declared: Mapping[str, Any]) -> Suite:
        """Return the suite that a mapping declares: the fields of Suite, Table and Metric by name.

        Raises
        ------
        UnknownNameError, FormatError
            As the constructor; the message names the field (``tables[1].parent``).
        """
        return serialization.suite_from_dict(cls, Table, declared)

    def to_toml(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the suite as TOML; also write it to `path` if given.

        Raises
        ------
        FormatError
            When a rule is a Python function or a table is a data frame, which TOML can't represent.
        """
        return serialization.suite_to_toml(self.to_dict(), path)

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Suite:
        """Read a suite from a TOML file.

        Parameters
        ----------
        path : str or path
            Path of the file, or its text, as `to_toml` returns it.

        Raises
        ------
        SourceError
            When there is no such file, or it can't be read.
        FormatError
            When the file is not valid TOML.
        UnknownNameError
            As `from_dict`; the message names the line.

        Examples
        --------
        >>> suite = Suite("trial", lineage="{size}", run_id="{size}", tables=[Table("{size}.csv")])
        >>> Suite.from_toml(suite.to_toml()) == suite
        True
        """
        return serialization.suite_from_toml(cls, Table, path)

    @classmethod
    def from_frame(
        cls,
        df: Any,
        *,
        run: str,
        lineage: str,
        name: str = "frame",
        label: str | None = None,
        step: RuleSource = "step",
        tokens: RuleSource | PerStep = "tokens",
        n_params: RuleSource | Lookup | None = None,
        schedule_tokens: RuleSource | Lookup | None = None,
        run_type: str = "pretraining",
        parent: str | Sequence[Any] | None = None,
        at: At = "end",
        counts: str | None = None,
        metrics: Mapping[str, Metric] | None = None,
        replicate: str | None = None,
        where: RuleSource | None = None,
        factors: Mapping[str, RuleSource] | None = None,
        parse: Mapping[str, str] | None = None,
        key: str | None = None,
        value: str | None = None,
        checkpoints: str | Sequence[str] = (),
    ) -> Suite:
        """Return the suite of one data frame.

        Parameters
        ----------
        df : data frame
            pandas, or any object with Arrow's C stream interface (polars, DuckDB, pyarrow); a mapping of columns; a
            list of mappings.
        run : str
            Column of the run id.
        lineage, label : str
            Templates of the labels of lineage and run, with columns of the frame as fields.
        counts : {"own", "cumulative"}, optional
            See :class:`Suite`. If it is not given and a run has a parent, it is derived from the rows of both. Opening
            the suite is an error if that is not possible.
        name, step, tokens, n_params, schedule_tokens, run_type, parent, at, metrics, replicate, where, factors, parse
        key, value, checkpoints
            See :class:`Suite` and :class:`Table`.

        Raises
        ------
        UnknownNameError
            When a template or rule names something that is not a column of the frame.
        FormatError
            As the constructor.

        Examples
        --------
        >>> import pandas as pd
        >>> df = pd.DataFrame({"run_id": ["a", "a"], "width": 64, "lr": 0.1, "step": [0, 1], "tokens": [0, 8]})
        >>> suite = Suite.from_frame(df, run="run_id", lineage="w{width}", label="lr={lr}")
        >>> suite.run_template("pretraining").fields
        ('lr',)
        """
        if not serialization.is_frame(df):
            raise FormatError(
                f"df: {df!r} is not a data frame. Take one of pandas, polars, DuckDB or pyarrow, a mapping of columns, "
                "or a list of mappings; a file is a Table of a Suite."
            )
        table = Table(
            df,
            run_type=run_type,
            parse=parse or {},
            where=where,
            factors=factors or {},
            key=key,
            value=value,
            parent=parent,
            at=at,
        )
        return cls(
            name,
            lineage=lineage,
            run=label,
            run_id=checks.column_template(run),
            replicate=replicate,
            step=step,
            tokens=tokens,
            counts=counts,
            n_params=n_params,
            schedule_tokens=schedule_tokens,
            metrics=metrics,
            tables=[table],
            checkpoints=checkpoints,
            settle_counts=counts is None,
        )

    def __repr__(self) -> str:
        tables = f"{len(self.tables)} table{'s' * (len(self.tables) != 1)}"
        types = f" of {', '.join(self.run_types)}" if self.tables else ""
        return f"<Suite {self.name!r}: {tables}{types}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Suite) and serialization.same(self.to_dict(), other.to_dict())

    def __hash__(self) -> int:
        return hash(self.name)
