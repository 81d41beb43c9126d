"""The run table of DataDecide, and the relations of runs that the registry alone knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dde.lineage.counts import training_compute
from dde.lineage.filters import matches
from dde.lineage.run_table import Along, Factor, RunTable
from dde.schema import CELL_NUMBERS, CELL_TEXTS, LINEAGE_COORDINATES, PRETRAINING, RUN_COORDINATES
from dde.suite.datadecide.names import Base, suite_order
from dde.suite.datadecide.runs.derived_columns import DerivedColumns
from dde.suite.datadecide.runs.derived_runs import DerivedRun
from dde.suite.datadecide.runs.evidence import Evidence
from dde.suite.datadecide.runs.registry import Registry
from dde.suite.datadecide.runs.select_runs import run_order
from dde.suite.datadecide.runs.token_counts import TOKEN_SOURCES

__all__ = [
    "compare_lineages",
    "differences",
    "make_store_table",
    "same_base",
    "same_treatment",
    "siblings",
]

_NUMBERS = ("batch_size", "training_seed", "weight_decay", "warmup_ratio", "max_seq_length")


def make_store_table(registry: Registry) -> RunTable:
    """Return the run table of both stores: bases in the order of the suite, then derived runs, parents first."""
    columns = registry.columns
    bases = sorted(registry.bases.values(), key=suite_order)
    base_row = {b.label: i for i, b in enumerate(bases)}
    n_bases, n = len(bases), len(bases) + len(columns)
    lineages = columns.lineages
    parent_ids = columns.parent_run_id.texts()
    # A parent is another derived run, or a checkpoint of the base.
    of_base = (columns.parent < 0) & (lineages != "") & (parent_ids == lineages)
    rows_of_base = np.array([base_row.get(x, -1) for x in lineages.tolist()], np.int64)
    parent = np.where(columns.parent >= 0, columns.parent + n_bases, np.where(of_base, rows_of_base, -1))
    has_parent = parent >= 0
    branch = columns.branch
    parent_start = np.where(columns.parent >= 0, branch[np.maximum(columns.parent, 0)], 0)
    is_placed = has_parent & (branch >= 0) & (parent_start >= 0)
    depth = np.zeros(len(columns), np.int64)
    for row in range(len(columns)):
        depth[row] = 1 + (depth[columns.parent[row]] if columns.parent[row] >= 0 else 0)
    ends = [registry.base_end_tokens(b.label) for b in bases]
    n_params = np.array([b.size.n_params for b in bases], np.float64)
    own_params = np.where(rows_of_base >= 0, n_params[np.maximum(rows_of_base, 0)] if n_bases else np.nan, np.nan)

    def joined(of_bases: list[Any], of_derived: npt.NDArray[Any]) -> npt.NDArray[Any]:
        first = np.empty(n_bases, object) if of_derived.dtype == object else np.empty(n_bases, of_derived.dtype)
        first[:] = of_bases
        return np.concatenate([first, of_derived])

    sources = np.where(columns.end >= 0, np.array(TOKEN_SOURCES, object)[columns.source], "")
    table_status = ["used" if end is not None else "no data: not in the tables" for end in ends]
    return RunTable(
        run_id=joined([b.label for b in bases], columns.ids),
        run_type=joined([PRETRAINING] * n_bases, columns.run_type.texts()),
        state=joined(["finished"] * n_bases, columns.state.texts()),
        lineage=joined([b.label for b in bases], lineages),
        run=joined([PRETRAINING] * n_bases, columns.plain_label.texts()),
        replicate=joined([1] * n_bases, columns.replicate),
        is_root=np.arange(n) < n_bases,
        depth=joined([0] * n_bases, depth),
        edge_child=(np.flatnonzero(has_parent) + n_bases).astype(np.int32),
        edge_parent=parent[has_parent].astype(np.int32),
        edge_tokens=np.where(is_placed, branch - parent_start, -1)[has_parent],
        absent_parent=joined([""] * n_bases, np.where(has_parent, "", parent_ids)),
        curve_parent=joined([-1] * n_bases, np.where(is_placed, parent, -1).astype(np.int32)),
        start_tokens=joined([0] * n_bases, branch),
        branch_tokens=joined([-1] * n_bases, branch),
        end_tokens=joined([-1 if end is None else end for end in ends], columns.end),
        n_params=joined(n_params.tolist(), own_params),
        schedule_tokens=joined(
            [float(b.size.scheduled_tokens) for b in bases], np.where(columns.schedule >= 0, columns.schedule, np.nan)
        ),
        start_compute=joined([0.0] * n_bases, np.where(branch >= 0, training_compute(own_params, branch), np.nan)),
        token_source=joined(["" if end is None else "logged" for end in ends], sources),
        status=joined(table_status, columns.status.texts()),
        parent_evidence=joined([""] * n_bases, columns.evidence.texts()),
        contradictions=joined([""] * n_bases, columns.contradictions.texts()),
        estimate=joined([""] * n_bases, columns.estimate.texts()),
        factors=_factors(columns, bases, rows_of_base),
        lineages=tuple(b.label for b in bases),
        runs=(),
    )


def _factors(columns: DerivedColumns, bases: Sequence[Base], rows_of_base: npt.NDArray[np.int64]) -> dict[str, Factor]:
    """Return the factors of bases and of post-training runs, in this order, by name."""
    n_bases = len(bases)
    found: dict[str, Factor] = {}
    of_bases: dict[str, list[Any]] = {
        "params": [b.size.name for b in bases],
        "data": [b.recipe.name for b in bases],
        "seed": [float(b.seed.index) for b in bases],
        "seed_name": [b.seed.name for b in bases],
        "recipe_family": [b.recipe.family for b in bases],
    }
    known = rows_of_base >= 0
    for name, values in of_bases.items():
        is_text = LINEAGE_COORDINATES[name].kind == "text"
        first = np.array(values, object if is_text else np.float64)
        rest = np.full(len(columns), "" if is_text else np.nan, first.dtype)
        rest[known] = first[rows_of_base[known]]
        found[name] = Factor("lineage", np.concatenate([first, rest]))
    for name, coordinate in RUN_COORDINATES.items():
        if name in ("run_type", "replicate", "variant", "parent_treatment"):
            continue
        is_text = coordinate.kind == "text"
        attribute = "run_type" if name == "posttraining_method" else name
        distinct = [getattr(t, attribute) for t in columns.treatments]
        blank: Any = "" if is_text else np.nan
        rest = np.array([*distinct, blank], object if is_text else np.float64)[columns.treatment]
        found[name] = _with_blank("run", rest, n_bases)
    for name in _NUMBERS:
        found[name] = _with_blank("cell", getattr(columns, name), n_bases)
    found["reduce_loss"] = _with_blank("cell", columns.reduce_loss.texts(), n_bases)
    assert set(found) <= {*LINEAGE_COORDINATES, *RUN_COORDINATES, *CELL_TEXTS, *CELL_NUMBERS}
    return found


def _with_blank(along: Along, values: npt.NDArray[Any], n_bases: int) -> Factor:
    """Return a factor that bases have no value of."""
    blank = np.full(n_bases, "" if values.dtype == object else np.nan, values.dtype)
    return Factor(along, np.concatenate([blank, values]))


# Batch sizes are compared over all GPUs. Repetitions differ in the seed of the training.
_APART = frozenset({"per_device_train_batch_size", "gradient_accumulation_steps", "training_seed"})


def differences(run: Evidence, other: Evidence) -> dict[str, tuple[object, object]]:
    """Return the hyperparameters in which two runs differ, with both values.

    Those that only one of the runs states are left out, and so is the seed of the training. ``sequences_per_step`` is
    the batch over all GPUs, ``dataset`` the training mixture.
    """
    settings, others = _settings(run), _settings(other)
    shared = [key for key in settings if key in others]
    return {key: (settings[key], others[key]) for key in shared if not matches(settings[key], others[key])}


def _settings(run: Evidence) -> dict[str, object]:
    found = {key: value for key, value in run.hyperparameters.items() if key not in _APART and value != ""}
    found |= {"sequences_per_step": run.sequences_per_step} if run.sequences_per_step else {}
    return found | ({"dataset": run.dataset} if run.dataset else {})


def same_treatment(registry: Registry, run_id: str) -> list[str]:
    """Return the runs with the treatment of a run on other bases, in the order of the suite.

    Runs of one label whose chains differ in a hyperparameter that both state are different treatments. For a
    pretraining run, the other pretraining runs.
    """
    run = registry.derived.get(run_id)
    if run is None:
        others = (base for label, base in registry.bases.items() if label != run_id)
        return [base.label for base in sorted(others, key=suite_order)]
    if run.treatment is None:
        return []
    found = [
        other
        for other in registry.derived.values()
        if other.treatment is not None
        and other.treatment.label == run.treatment.label
        and other.lineage != run.lineage
        and not any(differences(a, b) for a, b in zip(_links(registry, run), _links(registry, other), strict=False))
    ]
    found.sort(key=lambda other: (suite_order(registry.bases[other.lineage]), other.replicate))
    return [other.run_id for other in found]


def _links(registry: Registry, run: DerivedRun) -> Iterator[Evidence]:
    """Yield what is known of a run and of the derived runs that it descends from, the run first."""
    for member in reversed(registry.chain(run.run_id)):
        if member in registry.derived:
            yield registry.derived[member].evidence


def same_base(registry: Registry, run_id: str) -> list[str]:
    """Return the derived runs of a run's lineage that had another treatment, parents before children."""
    run = registry.derived.get(run_id)
    identity = None if run is None or run.treatment is None else run.treatment.identity
    members = registry.members.get(run_id if run is None else run.lineage, [])
    others = [registry.derived[member] for member in members if member != run_id]
    return [other.run_id for other in others if other.treatment is None or other.treatment.identity != identity]


def siblings(registry: Registry, run_id: str) -> list[str]:
    """Return the other runs that start from the parent of a run, at any of its checkpoints."""
    run = registry.derived.get(run_id)
    found = [] if run is None else registry.children.get(run.parent_run_id, [])
    return [other for other in found if other != run_id]


def compare_lineages(registry: Registry, label: str, other_registry: Registry, other_label: str) -> pd.DataFrame:
    """Return the runs of two lineages side by side; see :meth:`dde.TrainingLineage.compare`."""
    by_label, others_by_label = _by_label(registry, label), _by_label(other_registry, other_label)
    order = sorted({**others_by_label, **by_label}.items(), key=lambda item: run_order(item[1]))
    bases = registry.bases[label], other_registry.bases[other_label]
    ends = registry.base_end_tokens(label), other_registry.base_end_tokens(other_label)
    rows: list[tuple[object, ...]] = [(PRETRAINING, label, other_label, *ends, _written(_base_differences(*bases)))]
    for name, _ in order:
        run, other = by_label.get(name), others_by_label.get(name)
        differs = differences(run.evidence, other.evidence) if run is not None and other is not None else {}
        rows.append(
            (
                name,
                "" if run is None else run.run_id,
                "" if other is None else other.run_id,
                None if run is None else registry.placed[run.run_id].end_tokens,
                None if other is None else other_registry.placed[other.run_id].end_tokens,
                _written(differs),
            )
        )
    columns = ["run", "run_id", "other_run_id", "end_tokens", "other_end_tokens", "differs"]
    frame = pd.DataFrame(rows, columns=columns).astype({"end_tokens": float, "other_end_tokens": float})
    frame.attrs["left_out"] = [*_without_label(registry, label), *_without_label(other_registry, other_label)]
    return frame


def _by_label(registry: Registry, lineage: str) -> dict[str, DerivedRun]:
    found: dict[str, DerivedRun] = {}
    for run_id in registry.members.get(lineage, []):
        run = registry.derived[run_id]
        if run.treatment is None:
            continue
        # Variants of one treatment stand beside each other, unless one lineage has several of them.
        plain = run.treatment.label + (f"#{run.replicate}" if run.replicate > 1 else "")
        found[run.label if plain in found else plain] = run
    return found


def _without_label(registry: Registry, lineage: str) -> list[str]:
    return [run_id for run_id in registry.members.get(lineage, []) if not registry.derived[run_id].label]


def _base_differences(base: Base, other: Base) -> dict[str, tuple[object, object]]:
    facts = {
        "params": (base.size.name, other.size.name),
        "data": (base.recipe.name, other.recipe.name),
        "seed": (base.seed.index, other.seed.index),
    }
    return {name: pair for name, pair in facts.items() if pair[0] != pair[1]}


def _written(differs: dict[str, tuple[object, object]]) -> str:
    def text(value: object) -> str:
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)

    return "; ".join(f"{name}: {text(value)}, {text(other)}" for name, (value, other) in differs.items())
