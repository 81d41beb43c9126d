"""The run table of derived runs: one row per run, columns as arrays; what opening reads in place of objects.

The resolver makes an object of evidence for every run, which takes some 100 us each. The columns hold all that a
Dataset and its values need, and are cached, so that opening again makes no object of any run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dde.lineage.ragged_rows import with_ancestors
from dde.sources.protocols import CONFIG_KEYS
from dde.suite.datadecide.runs.evidence import USED_OPTIONS
from dde.suite.datadecide.runs.treatments import Treatment

if TYPE_CHECKING:
    from dde.suite.datadecide.runs.registry import Registry

__all__ = ["KEPT_KEYS", "Column", "DerivedColumns", "PlacedRows", "derived_columns", "key_column"]

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Texts = npt.NDArray[np.object_]

_OF_TREATMENT = [f.name for f in fields(Treatment)][:-2]
#: Keys of config and command of which a kept record has what the store has.
KEPT_KEYS = (USED_OPTIONS | frozenset(CONFIG_KEYS)) - {"wandb_config"}
#: Coordinates that are numbers of a run's hyperparameters.
_NUMBERS = ("training_seed", "weight_decay", "warmup_ratio", "max_seq_length")


@dataclass(frozen=True, eq=False)
class Column:
    """Values of one key of all runs, each distinct value once.

    Attributes
    ----------
    codes : (run,) int32 array
        Index into `values`; -1 where nothing says it.
    values : tuple
        Numbers, texts, truth values or lists.
    """

    codes: npt.NDArray[np.int32]
    values: tuple[Any, ...]

    @classmethod
    def of(cls, values: Sequence[Any], absent: Any = None) -> Column:
        """Return the column of some values; those equal to `absent` are none."""
        number: dict[Any, int] = {}
        distinct: list[Any] = []
        codes = np.full(len(values), -1, np.int32)
        for i, value in enumerate(values):
            if value is absent:
                continue
            # Equal numbers of different types are different values, and a list has no hash.
            key = (type(value), value) if not isinstance(value, (list, dict)) else (type(value), json.dumps(value))
            code = number.get(key)
            if code is None:
                code = number[key] = len(distinct)
                distinct.append(value)
            codes[i] = code
        return cls(codes, tuple(distinct))

    def matching(self, matches: Callable[[Any], bool], absent: Any) -> npt.NDArray[np.bool_]:
        """Return which runs have a value that matches; `absent` stands for one that nothing says."""
        # The last one is that of code -1.
        return np.array([*map(matches, self.values), matches(absent)], bool)[self.codes]

    def text(self, row: int) -> str:
        """Return the value of one run as text; "" where nothing says it."""
        code = int(self.codes[row])
        return str(self.values[code]) if code >= 0 else ""

    def texts(self) -> Texts:
        """Return values as texts; "" where nothing says it."""
        table = np.empty(len(self.values) + 1, object)
        table[:] = [*self.values, ""]
        return np.asarray(table[self.codes])


@dataclass(frozen=True, eq=False)
class PlacedRows:
    """Logged rows of all runs on the axes of their own tokens.

    Attributes
    ----------
    offsets : (run + 1,) int64 array
        Rows of run `i` are ``offsets[i]`` to ``offsets[i + 1]``.
    steps, tokens : (row,) int64 arrays
        Logged steps, and tokens since the run's start.
    """

    offsets: Int64
    steps: Int64
    tokens: Int64

    def of(self, run: int) -> tuple[Int64, Int64]:
        """Return steps and tokens of one run."""
        part = slice(int(self.offsets[run]), int(self.offsets[run + 1]))
        return self.steps[part], self.tokens[part]


@dataclass(frozen=True, eq=False)
class DerivedColumns:
    """Derived runs of a store, parents before children.

    Attributes
    ----------
    run_id, version, run_type, state, project, entity, lineage, parent_run_id, status, contradictions, estimate : Column
        Texts. `parent_run_id` may be of a run that is not in the store.
    evidence, end_estimate, counter, reduce_loss, plain_label : Column
        Where the parent stands written; the rule and numbers of an estimated end; key of the token counter by which
        alone rows are placed; reduction of the training loss; label of the treatment without the replicate.
    replicate : (run,) int64 array
        From 1; 0 where there is no treatment.
    parent : (run,) int32 array
        Row of the parent; -1 where that is a pretraining checkpoint, unknown, or not in the store.
    branch, end, own_end, last_step, forked_at, schedule : (run,) int64 arrays
        Tokens and steps; -1 where unknown.
    rows_without_step, repeated_steps, impossible_counts : (run,) int64 arrays
        What is odd about the run's log, counted.
    n_rows : (run,) int64 array
        Logged rows that are placed.
    source : (run,) int8 array
        How the end is known: index into :data:`dde.suite.datadecide.runs.token_counts.TOKEN_SOURCES`.
    rate : (run, 2) float64 array
        Tokens, and the steps that count them, where rows are placed by their steps alone; else NaN.
    batch_size, training_seed, weight_decay, warmup_ratio, max_seq_length : (run,) float64 arrays
        NaN where unknown.
    has_training_step, has_log, evaluated : (run,) bool arrays
    treatment : (run,) int32 array
        Index into `treatments`; -1 where there is none.
    treatments : tuple of Treatment
    keys : mapping of str to Column
        Values that filters may ask for, by the name of the coordinate or the key of config and launch command.
    """

    run_id: Column
    version: Column
    run_type: Column
    state: Column
    project: Column
    entity: Column
    lineage: Column
    parent_run_id: Column
    status: Column
    contradictions: Column
    estimate: Column
    evidence: Column
    end_estimate: Column
    counter: Column
    reduce_loss: Column
    plain_label: Column
    replicate: Int64
    parent: npt.NDArray[np.int32]
    branch: Int64
    end: Int64
    own_end: Int64
    last_step: Int64
    forked_at: Int64
    schedule: Int64
    rows_without_step: Int64
    repeated_steps: Int64
    impossible_counts: Int64
    n_rows: Int64
    source: npt.NDArray[np.int8]
    rate: Float64
    batch_size: Float64
    training_seed: Float64
    weight_decay: Float64
    warmup_ratio: Float64
    max_seq_length: Float64
    has_training_step: npt.NDArray[np.bool_]
    has_log: npt.NDArray[np.bool_]
    evaluated: npt.NDArray[np.bool_]
    treatment: npt.NDArray[np.int32]
    treatments: tuple[Treatment, ...]
    keys: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.replicate)

    @cached_property
    def ids(self) -> Texts:
        """Ids of the runs."""
        return self.run_id.texts()

    @cached_property
    def number(self) -> dict[str, int]:
        """Row of each run, by its id."""
        return {run_id: i for i, run_id in enumerate(self.ids.tolist())}

    @cached_property
    def lineages(self) -> Texts:
        """Label of each run's lineage; "" where unknown."""
        return self.lineage.texts()

    @cached_property
    def labels(self) -> Texts:
        """Label of each run along ``run`` in the whole store, with ``#<replicate>`` from the second on."""
        labels = self.plain_label.texts()
        for row in np.flatnonzero(self.replicate > 1).tolist():
            labels[row] = f"{labels[row]}#{self.replicate[row]}"
        return labels

    @cached_property
    def is_used(self) -> npt.NDArray[np.bool_]:
        """Which runs have a place on their lineage."""
        return self.status.matching(lambda status: status == "used", "")

    def oddities(self, rows: Int64) -> dict[str, int]:
        """Return what is odd about the logs of runs, counted."""
        counts = {
            "logged rows without a step that can be used": self.rows_without_step,
            "logged rows at a step that was logged before": self.repeated_steps,
            "token counts that are no counts": self.impossible_counts,
        }
        return {what: total for what, column in counts.items() if (total := int(column[rows].sum()))}

    def with_ancestors(self, rows: Int64) -> Int64:
        """Return rows with those of all ancestors in the store, each once, parents before children."""
        return with_ancestors(self.parent, rows)

    def take(self, rows: Int64) -> DerivedColumns:
        """Return some runs, their ancestors among them, ascending, without what filters alone ask for."""
        number = np.full(len(self) + 1, -1, np.int32)
        number[rows] = np.arange(len(rows))
        taken: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Column):
                used, codes = np.unique(value.codes[rows], return_inverse=True)
                kept = [int(u) for u in used.tolist() if u >= 0]
                shift = int(len(used) - len(kept))
                value = Column((codes - shift).astype(np.int32), tuple(value.values[u] for u in kept))
            elif isinstance(value, np.ndarray):
                value = value[rows]
            taken[field.name] = value
        return DerivedColumns(**{**taken, "parent": number[self.parent[rows]], "keys": {}})

    def packed(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Return the columns as facts that JSON can hold, and as plain arrays."""
        facts: dict[str, Any] = {"columns": {}, "keys": {}}
        arrays: dict[str, npt.NDArray[Any]] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Column):
                facts["columns"][field.name] = value.values
                arrays[f"codes_{field.name}"] = value.codes
            elif isinstance(value, np.ndarray):
                arrays[field.name] = value
        for k, (key, column) in enumerate(self.keys.items()):
            facts["keys"][key] = column.values
            arrays[f"key_{k}"] = column.codes
        facts["treatments"] = [[getattr(t, f.name) for f in fields(t)] for t in self.treatments]
        return facts, arrays

    @classmethod
    def unpacked(cls, facts: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> DerivedColumns:
        """Return columns from what :meth:`packed` gave; raises KeyError, TypeError or ValueError where it is other."""
        made: dict[str, Any] = {}
        for field in fields(cls):
            if field.name in facts["columns"]:
                made[field.name] = Column(arrays[f"codes_{field.name}"], tuple(facts["columns"][field.name]))
            elif field.name in arrays:
                made[field.name] = arrays[field.name]
        made["keys"] = {key: Column(arrays[f"key_{k}"], tuple(v)) for k, (key, v) in enumerate(facts["keys"].items())}
        made["treatments"] = tuple(
            Treatment(
                **dict(zip(_OF_TREATMENT, values, strict=True)),
                links=tuple(map(tuple, links)),
                variant=tuple(tuple(map(tuple, v)) for v in variant),
            )
            for *values, links, variant in facts["treatments"]
        )
        return cls(**made)


def derived_columns(registry: Registry) -> DerivedColumns:
    """Return the columns of all derived runs of a registry."""
    from dde.suite.datadecide.runs.schedules import schedule_tokens

    runs = list(registry.derived.values())
    places = [registry.placed[run.run_id] for run in runs]
    ends = [place.end for place in places]
    evidence = [run.evidence for run in runs]
    records = [item.record for item in evidence]
    number = {run.run_id: i for i, run in enumerate(runs)}

    def counts(values: Iterable[int | None]) -> Int64:
        return np.array([-1 if v is None else v for v in values], np.int64)

    def numbers(name: str) -> Float64:
        return np.array([_number(item.hyperparameters.get(name)) for item in evidence], np.float64)

    treatments: dict[Treatment, int] = {}
    treatment = np.full(len(runs), -1, np.int32)
    for i, run in enumerate(runs):
        if run.treatment is not None:
            treatment[i] = treatments.setdefault(run.treatment, len(treatments))
    # Any other option of a launch command may be a secret, and is neither kept here nor cached.
    names: dict[str, None] = {}
    for item in evidence:
        names.update(dict.fromkeys(item.hyperparameters))
        for options in (item.record.config, item.command):
            names.update(dict.fromkeys(key for key in options if key in KEPT_KEYS))
    return DerivedColumns(
        run_id=Column.of([r.run_id for r in runs]),
        version=Column.of([r.version for r in records]),
        run_type=Column.of([r.run_type for r in runs]),
        state=Column.of([r.state for r in runs]),
        project=Column.of([r.project for r in records]),
        entity=Column.of([r.entity for r in records]),
        lineage=Column.of([r.lineage for r in runs]),
        parent_run_id=Column.of([r.parent_run_id for r in runs]),
        status=Column.of([p.status for p in places]),
        contradictions=Column.of(
            [
                "; ".join(
                    [
                        *run.parentage.contradictions,
                        *run.evidence.contradictions,
                        *place.end.notes,
                        *(f"{what}: {n}" for what, n in place.end.oddities(run.rows_without_step).items()),
                    ]
                )
                for run, place in zip(runs, places, strict=True)
            ]
        ),
        estimate=Column.of(["; ".join(filter(None, (p.branch_estimate, p.end_estimate))) for p in places]),
        evidence=Column.of([r.parentage.evidence for r in runs]),
        end_estimate=Column.of([e.estimate for e in ends]),
        counter=Column.of([e.counter for e in ends]),
        reduce_loss=Column.of([str(r.hyperparameters.get("reduce_loss", "")) for r in runs]),
        plain_label=Column.of([r.plain_label for r in runs]),
        replicate=np.array([r.replicate for r in runs], np.int64),
        parent=np.array([number.get(r.parent_run_id, -1) if r.parentage.in_store else -1 for r in runs], np.int32),
        branch=counts(p.branch_tokens for p in places),
        end=counts(p.end_tokens for p in places),
        own_end=counts(e.tokens for e in ends),
        last_step=np.array([e.last_step for e in ends], np.int64),
        forked_at=counts(e.forked_at for e in ends),
        schedule=counts(schedule_tokens(registry, r.run_id) for r in runs),
        rows_without_step=np.array([r.rows_without_step for r in runs], np.int64),
        repeated_steps=np.array([e.repeated_steps for e in ends], np.int64),
        impossible_counts=np.array([e.impossible_counts for e in ends], np.int64),
        n_rows=np.array([e.n_rows for e in ends], np.int64),
        source=np.array([e.source for e in ends], np.int8),
        rate=np.array([e.rate or (np.nan, np.nan) for e in ends], np.float64).reshape(-1, 2),
        batch_size=np.array([_number(item.sequences_per_step) for item in evidence], np.float64),
        **{name: numbers(name) for name in _NUMBERS},
        has_training_step=np.array([e.has_training_step for e in ends], bool),
        has_log=np.array([e.has_log for e in ends], bool),
        evaluated=np.array([r.evaluated for r in records], bool),
        treatment=treatment,
        treatments=tuple(treatments),
        keys={name: key_column(registry, name) for name in names},
    )


def key_column(registry: Registry, key: str) -> Column:
    """Return the values of a hyperparameter, or of a key of config or launch command, of all runs of a registry."""
    values = []
    for run in registry.derived.values():
        item = run.evidence
        value = item.hyperparameters.get(key)
        if value is None:
            value = item.record.config.get(key)
        values.append(item.command.get(key) if value is None else value)
    return Column.of(values)


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)
