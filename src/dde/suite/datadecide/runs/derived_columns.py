"""The run table of derived runs: one row per run, columns as arrays; what opening reads in place of objects.

The resolver makes an object of evidence for every run, which takes some 100 us each. The columns hold all that a
Dataset and its values need, and are cached, so that opening again makes no object of any run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.array_types import Float64, Int64, Texts
from dde.lineage.ragged_rows import with_ancestors
from dde.sources.protocols import CONFIG_KEYS
from dde.suite.datadecide.runs.evidence import USED_OPTIONS
from dde.suite.datadecide.runs.treatments import Treatment

__all__ = ["CACHED_KEYS", "Column", "DerivedColumns", "PlacedRows"]


_OF_TREATMENT = [f.name for f in fields(Treatment)][:-2]
#: Keys of config and launch command that cached records contain.
CACHED_KEYS = (USED_OPTIONS | frozenset(CONFIG_KEYS)) - {"wandb_config"}


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
        """Return the column of some values; `absent` stands for no value."""
        code_of: dict[Any, int] = {}
        distinct: list[Any] = []
        codes = np.full(len(values), -1, np.int32)
        for i, value in enumerate(values):
            if value is absent:
                continue
            # Equal numbers of different types are different values; a list is not hashable.
            key = (type(value), value) if not isinstance(value, (list, dict)) else (type(value), json.dumps(value))
            code = code_of.get(key)
            if code is None:
                code = code_of[key] = len(distinct)
                distinct.append(value)
            codes[i] = code
        return cls(codes, tuple(distinct))

    def matching(self, matches: Callable[[Any], bool], absent: Any) -> npt.NDArray[np.bool_]:
        """Return which runs have a value that matches; `absent` stands for no value."""
        # The last element belongs to code -1.
        return np.array([*map(matches, self.values), matches(absent)], bool)[self.codes]

    def text(self, row: int) -> str:
        """Return the value of one run as text; "" if it has none."""
        code = int(self.codes[row])
        return str(self.values[code]) if code >= 0 else ""

    def texts(self) -> Texts:
        """Return the values of all runs as texts; "" for runs without a value."""
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
        Texts. `parent_run_id` may be the id of a run that is not in the store.
    evidence, end_estimate, counter, reduce_loss, plain_label : Column
        Source of the parent; rule and numbers of an estimated end; key of the token counter that alone determines the
        positions of rows; reduction of the training loss; label of the treatment without the replicate.
    replicate : (run,) int64 array
        From 1; 0 for a run without a treatment.
    parent : (run,) int32 array
        Row of the parent; -1 if the parent is a pretraining checkpoint, unknown, or not in the store.
    branch, end, own_end, last_step, forked_at, schedule : (run,) int64 arrays
        Tokens and steps; -1 where unknown.
    rows_without_step, repeated_steps, impossible_counts : (run,) int64 arrays
        Number of rows or token counts of the run's log with these problems.
    n_rows : (run,) int64 array
        Number of logged rows with a token position.
    source : (run,) int8 array
        Source of the end: index into :data:`dde.suite.datadecide.runs.token_counts.TOKEN_SOURCES`.
    rate : (run, 2) float64 array
        Tokens, and the number of steps that they take, if rows are positioned by their steps alone; else NaN.
    batch_size, training_seed, weight_decay, warmup_ratio, max_seq_length : (run,) float64 arrays
        NaN where unknown.
    has_training_step, has_log, evaluated : (run,) bool arrays
    treatment : (run,) int32 array
        Index into `treatments`; -1 for a run without a treatment.
    treatments : tuple of Treatment
    keys : mapping of str to Column
        Values for filters, by the name of the coordinate or the key of config and launch command.
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
    def row_by_id(self) -> dict[str, int]:
        """Row of each run, by its id."""
        return {run_id: i for i, run_id in enumerate(self.ids.tolist())}

    @cached_property
    def lineages(self) -> Texts:
        """Label of each run's lineage; "" where unknown."""
        return self.lineage.texts()

    @cached_property
    def labels(self) -> Texts:
        """Label of each run along ``run`` in the entire store, with ``#<replicate>`` from the second replicate on."""
        labels = self.plain_label.texts()
        for row in np.flatnonzero(self.replicate > 1).tolist():
            labels[row] = f"{labels[row]}#{self.replicate[row]}"
        return labels

    @cached_property
    def is_used(self) -> npt.NDArray[np.bool_]:
        """Which runs have a position on their lineage."""
        return self.status.matching(lambda status: status == "used", "")

    def oddities(self, rows: Int64) -> dict[str, int]:
        """Return the number of problems in the logs of runs, by kind."""
        counts = {
            "logged rows without a step that can be used": self.rows_without_step,
            "logged rows at a step that was logged before": self.repeated_steps,
            "token counts that are not counts": self.impossible_counts,
        }
        return {what: total for what, column in counts.items() if (total := int(column[rows].sum()))}

    def with_ancestors(self, rows: Int64) -> Int64:
        """Return rows with those of all ancestors in the store, each once, parents before children."""
        return with_ancestors(self.parent, rows)

    def take(self, rows: Int64) -> DerivedColumns:
        """Return the columns of some runs without `keys`; `rows` ascend and include all ancestors."""
        new_row = np.full(len(self) + 1, -1, np.int32)
        new_row[rows] = np.arange(len(rows))
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
        return DerivedColumns(**{**taken, "parent": new_row[self.parent[rows]], "keys": {}})

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
