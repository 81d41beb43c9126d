"""Post-training runs with all that their evidence shows, and the columns that are made of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dde.array_types import Float64, Int64
from dde.suite.datadecide.runs.derived_columns import CACHED_KEYS, Column, DerivedColumns
from dde.suite.datadecide.runs.evidence import Evidence
from dde.suite.datadecide.runs.parents import Parentage
from dde.suite.datadecide.runs.positions import PlacedRun
from dde.suite.datadecide.runs.treatments import Treatment

__all__ = ["DerivedRun", "derived_columns", "key_column"]


# Coordinates that are numbers among a run's hyperparameters.
_NUMBERS = ("training_seed", "weight_decay", "warmup_ratio", "max_seq_length")


@dataclass(frozen=True, slots=True)
class DerivedRun:
    """One post-training run as the registry knows it: identity and relations, no positions.

    Attributes
    ----------
    run_id : str
    evidence : Evidence
    parentage : Parentage
    treatment : Treatment or None
        None where no parent was found.
    replicate : int
        From 1; 0 where there is no treatment.
    plain_label : str
        Label of the treatment, spelled out where the store holds several variants of it; "" where there is none.
    """

    run_id: str
    evidence: Evidence
    parentage: Parentage
    treatment: Treatment | None = None
    replicate: int = 0
    plain_label: str = ""

    @property
    def run_type(self) -> str:
        """``supervised_ft``, ``dpo`` or ``other``."""
        return self.evidence.run_type

    @property
    def state(self) -> str:
        """State as W&B has it."""
        return self.evidence.record.state

    @property
    def rows_without_step(self) -> int:
        """Logged rows that the store left out."""
        return self.evidence.record.rows_without_step

    @property
    def parent_run_id(self) -> str:
        """Id of the parent run, the lineage's label for a pretraining checkpoint; "" where unknown."""
        return self.parentage.parent_run_id

    @property
    def lineage(self) -> str:
        """Label of the lineage; "" where unknown."""
        return self.parentage.base.label if self.parentage.base else ""

    @property
    def label(self) -> str:
        """Label along the dimension ``run`` in the entire store, with ``#<replicate>`` from the second replicate on."""
        return self.plain_label + (f"#{self.replicate}" if self.replicate > 1 else "")

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Hyperparameters by the names of the coordinates, and any other requested config key."""
        return self.evidence.hyperparameters


def derived_columns(
    runs: Sequence[DerivedRun], places: Sequence[PlacedRun], schedules: Sequence[int | None]
) -> DerivedColumns:
    """Return derived runs as columns.

    Parameters
    ----------
    runs : sequence of DerivedRun
        All runs of the store, parents before children.
    places : sequence of PlacedRun
        Position of each run.
    schedules : sequence of int or None
        Cumulative tokens at the planned end of each run; None where unknown.
    """
    ends = [place.end for place in places]
    evidence = [run.evidence for run in runs]
    records = [item.record for item in evidence]
    row_of = {run.run_id: i for i, run in enumerate(runs)}

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
            names.update(dict.fromkeys(key for key in options if key in CACHED_KEYS))
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
        parent=np.array([row_of.get(r.parent_run_id, -1) if r.parentage.in_store else -1 for r in runs], np.int32),
        branch=counts(p.branch_tokens for p in places),
        end=counts(p.end_tokens for p in places),
        own_end=counts(e.tokens for e in ends),
        last_step=np.array([e.last_step for e in ends], np.int64),
        forked_at=counts(e.forked_at for e in ends),
        schedule=counts(schedules),
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
        keys={name: key_column(runs, name) for name in names},
    )


def key_column(runs: Iterable[DerivedRun], key: str) -> Column:
    """Return the values of a hyperparameter, or of a key of config or launch command, of some runs."""
    values = []
    for run in runs:
        item = run.evidence
        value = item.hyperparameters.get(key)
        if value is None:
            value = item.record.config.get(key)
        values.append(item.command.get(key) if value is None else value)
    return Column.of(values)


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)
