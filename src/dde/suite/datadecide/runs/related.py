"""Runs that have something in common: a treatment, a base, a parent; and what differs between two of them."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from dde.relations.filters import matches
from dde.schema import PRETRAINING
from dde.suite.datadecide.names import Base, suite_order
from dde.suite.datadecide.runs.evidence import Evidence
from dde.suite.datadecide.runs.registry import DerivedRun, Registry
from dde.suite.datadecide.runs.selection import run_order

__all__ = ["compare_lineages", "differences", "same_base", "same_treatment", "siblings"]

# The batch is compared as a whole; the seed of the training is what repetitions differ in.
_APART = frozenset({"per_device_train_batch_size", "gradient_accumulation_steps", "training_seed"})


def differences(run: Evidence, other: Evidence) -> dict[str, tuple[object, object]]:
    """Return the hyperparameters in which two runs differ, with both values.

    Those that only one of the runs states are left out, and so is the seed of the training. ``sequences_per_step`` is
    the batch over all GPUs, ``dataset`` the training mixture.
    """
    here, there = _settings(run), _settings(other)
    return {key: (here[key], there[key]) for key in here if key in there and not matches(here[key], there[key])}


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
    here, there = _by_label(registry, label), _by_label(other_registry, other_label)
    order = sorted({**there, **here}.items(), key=lambda item: run_order(item[1]))
    bases = registry.bases[label], other_registry.bases[other_label]
    ends = registry.base_end_tokens(label), other_registry.base_end_tokens(other_label)
    rows: list[tuple[object, ...]] = [(PRETRAINING, label, other_label, *ends, _written(_base_differences(*bases)))]
    for name, _ in order:
        run, other = here.get(name), there.get(name)
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

    return "; ".join(f"{name}: {text(here)}, {text(there)}" for name, (here, there) in differs.items())
