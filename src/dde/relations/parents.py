"""Which checkpoint or run a post-training run starts from: all evidence, in an explicit order of trust."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from dde.errors import LineageError, UnknownNameError, near_names
from dde.names import (
    SEEDS,
    Base,
    Checkpoint,
    find_base_by_label,
    find_hub_model,
    find_size_by_params,
    parse_revision,
    resolve_checkpoint,
)
from dde.relations.evidence import Evidence
from dde.relations.parent_index import ParentIndex
from dde.relations.run_names import NameFacts, is_run_name, parse_run_name
from dde.sources.values import as_float, as_int, as_text

__all__ = ["Parentage", "chain_order", "resolve_parents"]


@dataclass(slots=True)
class Parentage:
    """Where a run starts from, and why that is believed.

    Attributes
    ----------
    checkpoint : Checkpoint or None
        Pretraining checkpoint, when the run starts from one directly.
    parent_run_id : str
        Parent: a post-training run's id, or the lineage's label; "" where none was found.
    base : Base or None
        Pretraining run at the root of the chain, also where the parent run is absent from the store.
    in_store : bool
        Whether a parent run that is known by name is in the store.
    evidence : str
        Where the parent stands written; "" where it does not.
    contradictions : list of str
        Evidence that disagrees.
    problem : str
        Why no parent was found.
    ambiguous : bool
        Whether the evidence fits several parents: then weaker evidence does not decide between them.
    """

    checkpoint: Checkpoint | None = None
    parent_run_id: str = ""
    base: Base | None = None
    in_store: bool = True
    evidence: str = ""
    contradictions: list[str] = field(default_factory=list)
    problem: str = ""
    ambiguous: bool = False


def resolve_parents(evidence: Mapping[str, Evidence], parents: Mapping[str, str] | None = None) -> dict[str, Parentage]:
    """Return the parentage of every run.

    Trust, highest first: the user's word (`parents`), an explicit parent id, config, the launch command, the
    run name. The step and seed of a pretraining checkpoint come from the run name, or from a revision that
    names them.

    Parameters
    ----------
    evidence : mapping of run id to Evidence
    parents : mapping of run id to str, optional
        Run id, lineage label or Hub revision that settles what evidence can't.

    Raises
    ------
    UnknownNameError
        When `parents` names a run that is not in the store, or a parent that nothing is called.
    LineageError
        When a run is its own parent or runs derive from each other in a circle.
    """
    index = ParentIndex(evidence.values())
    told = dict(parents or {})
    for run_id in told:
        if run_id not in evidence:
            raise UnknownNameError(
                f"parents= names the run {run_id!r}, which is not in the store, so its parent can't be set."
                f"{near_names(run_id, evidence)}"
            )
    resolved = {
        run_id: _told_parent(item, told[run_id], index) if run_id in told else _find_parent(item, index)
        for run_id, item in evidence.items()
    }
    _fill_bases(resolved)
    for run_id, item in evidence.items():
        _check_config(item, resolved[run_id])
    return resolved


def _told_parent(item: Evidence, parent: str, index: ParentIndex) -> Parentage:
    run_id = index.find(parent)
    if run_id is not None:
        return Parentage(parent_run_id=run_id, evidence="parents=")
    checkpoint = resolve_checkpoint(parent)
    return Parentage(checkpoint, checkpoint.base.label, checkpoint.base, evidence="parents=")


def _find_parent(item: Evidence, index: ParentIndex) -> Parentage:
    explicit = as_text(item.record.config.get("parent_run_id"))
    config_path = as_text(item.record.config.get("model_name_or_path"))
    command_path = as_text(item.command.get("model_name_or_path"))
    readings = [
        ("config.parent_run_id", _named_parent(item, explicit, index) if explicit else None),
        (
            "config.model_name_or_path",
            _parent_of_path(item, config_path, "config.model_name_or_path", index) if config_path else None,
        ),
        ("launch command", _parent_of_path(item, command_path, "launch command", index) if command_path else None),
    ]
    found = None
    for source, reading in readings:
        if reading is None:
            continue
        if found is None or (found.problem and not reading.problem):
            found = reading
        elif not reading.problem and _identity(reading) != _identity(found):
            found.contradictions.append(
                f"parent: {found.evidence} {_identity(found)}, {source} {_identity(reading)}; {found.evidence} believed"
            )
    of_name = _parent_of_name(item)
    if found is None:
        return of_name
    if found.problem and not found.ambiguous and not of_name.problem and item.run_type != "dpo":
        return of_name
    if found.checkpoint is not None and item.name.recipe is not None and item.name.size is not None:
        named = (item.name.recipe.slug, item.name.size.name)
        believed = (found.checkpoint.base.recipe.slug, found.checkpoint.base.size.name)
        if named != believed:
            found.contradictions.append(
                f"model: {found.evidence} {'-'.join(believed)}, run name {'-'.join(named)}; {found.evidence} believed"
            )
    return found


def _named_parent(item: Evidence, name: str, index: ParentIndex) -> Parentage | None:
    source = "config.parent_run_id"
    run_id = index.find(name)
    if run_id is not None:
        return Parentage(parent_run_id=run_id, evidence=source)
    try:
        checkpoint = resolve_checkpoint(name)
    except UnknownNameError:
        return _absent_parent(name, source, item.name) if is_run_name(name) else None
    if "@" not in name and item.name.step is not None:
        # An id without a step says which run; the step comes from the name.
        checkpoint = Checkpoint(checkpoint.base, item.name.step)
    return Parentage(checkpoint, checkpoint.base.label, checkpoint.base, evidence=source)


def _parent_of_path(item: Evidence, path: str, source: str, index: ParentIndex) -> Parentage:
    hub = find_hub_model(path)
    if hub is not None:
        revision = as_text(item.config_or_command("model_revision"))
        # A folder of checkpoints may have the revision below the model's name.
        stated = next(filter(None, map(parse_revision, [revision, *path.split("/")])), None)
        # A step in the name and one in a revision: the name is what the launcher was told to run.
        step = item.name.step if item.name.step is not None or stated is None else stated[0]
        seed = item.name.seed or (stated[1] if stated else SEEDS[0])
        base = Base(*hub, seed)
        checkpoint = Checkpoint(base, base.size.last_step if step is None else step)
        found = Parentage(checkpoint, base.label, base, evidence=source)
        if stated is not None and stated != (checkpoint.step, seed):
            found.contradictions.append(f"checkpoint: model_revision {revision}, run name {checkpoint.revision}")
        return found
    run_id, how, candidates = index.find_by_folder(path, item.name)
    if run_id is not None:
        return Parentage(parent_run_id=run_id, evidence=source + how)
    if candidates:
        return Parentage(
            evidence=source,
            problem=f"model path cut short fits {len(candidates)} runs: {', '.join(candidates[:4])}",
            ambiguous=True,
        )
    parts = [p for p in path.rstrip("/").split("/") if p]
    names = [p for p in reversed(parts) if is_run_name(p)]
    if names:
        return _absent_parent(names[0], source, item.name)
    return Parentage(evidence=source, problem=f"model path names neither a Hub model nor a run: {path}")


def _absent_parent(name: str, source: str, child: NameFacts) -> Parentage:
    """Return the parentage of a run whose parent is known by name but is not in the store."""
    base = _base_of_name(parse_run_name(name)) or _base_of_name(child)
    return Parentage(parent_run_id=name, base=base, in_store=False, evidence=source)


def _base_of_name(facts: NameFacts) -> Base | None:
    return Base(facts.recipe, facts.size, facts.seed or SEEDS[0]) if facts.recipe and facts.size else None


def _parent_of_name(item: Evidence) -> Parentage:
    facts = item.name
    base = _base_of_name(facts)
    if base is None:
        if facts.recipe_text:
            return Parentage(problem=f"run name has the unknown recipe {facts.recipe_text!r}")
        return Parentage(problem="neither config, launch command nor run name says where the run starts")
    if facts.starts_from_sft:
        return Parentage(
            base=base,
            problem="run name describes the finetuning run it starts from, but nothing names that run",
        )
    if item.run_type not in ("supervised_ft", "dpo"):
        return Parentage(base=base, problem="run of an unknown type; its name alone is no evidence")
    step = base.size.last_step if facts.step is None else facts.step
    return Parentage(Checkpoint(base, step), base.label, base, evidence="run name")


def _identity(found: Parentage) -> str:
    if found.checkpoint is not None:
        return f"{found.checkpoint.base.hub_model}@{found.checkpoint.revision}"
    return found.parent_run_id or "nothing"


def chain_order(parents: Mapping[str, Parentage]) -> list[str]:
    """Return the runs with every parent before its children.

    Raises
    ------
    LineageError
        When a run is its own parent or runs derive from each other in a circle; names them.
    """
    order: list[str] = []
    done: set[str] = set()
    for start in parents:
        path: list[str] = []
        on_path: set[str] = set()
        current = start
        while current in parents and current not in done:
            if current in on_path:
                circle = path[path.index(current) :]
                what = (
                    f"the run {current!r} is its own parent"
                    if len(circle) == 1
                    else f"the runs {', '.join(map(repr, circle))} derive from each other in a circle"
                )
                raise LineageError(
                    f"{what} ({parents[current].evidence}), so their place on the token axis is undefined. "
                    "Pass parents={run id: parent} to settle where one of them starts."
                )
            path.append(current)
            on_path.add(current)
            current = parents[current].parent_run_id
        for run_id in reversed(path):
            done.add(run_id)
            order.append(run_id)
    return order


def _fill_bases(parents: dict[str, Parentage]) -> None:
    """Give every run the base of its parent, down the chains."""
    for run_id in chain_order(parents):
        found = parents[run_id]
        parent = parents.get(found.parent_run_id)
        if parent is not None and found.base is None:
            found.base = parent.base


def _check_config(item: Evidence, found: Parentage) -> None:
    """Note where config's copied facts of the pretraining run disagree with the checkpoint believed."""
    base = found.base
    if base is None:
        return
    config = item.record.config
    size = find_size_by_params(as_float(config.get("model_size")))
    if size is not None and size != base.size:
        found.contradictions.append(f"model_size: config {size.name}, parent {base.size.name}")
    if found.checkpoint is None:
        return
    checkpoint = found.checkpoint
    steps = as_int(config.get("pretrain_steps"))
    if steps is not None and steps != checkpoint.step:
        found.contradictions.append(f"pretrain_steps: config {steps}, {_step_source(item)} {checkpoint.step}")
    tokens = as_float(config.get("pretrain_tokens"))
    if math.isfinite(tokens) and not math.isclose(tokens, checkpoint.tokens, rel_tol=1e-3):
        found.contradictions.append(f"pretrain_tokens: config {tokens:.0f}, checkpoint {checkpoint.tokens}")
    extra = as_int(item.extras.get("model_pretrain_steps"))
    if extra is not None and extra != checkpoint.step:
        found.contradictions.append(
            f"model_pretrain_steps: wandb_config {extra}, {_step_source(item)} {checkpoint.step}"
        )
    if item.name.seed is None and (raw := re.search(r"seed-[a-z0-9-]+", as_text(config.get("model_revision")))):
        label = f"{base.recipe.slug}-{base.size.name}-{raw.group().removeprefix('seed-')}"
        stated = find_base_by_label(label)
        if stated is not None and stated != base:
            found.contradictions.append(f"seed: model_revision {stated.seed.name}, believed {base.seed.name}")


def _step_source(item: Evidence) -> str:
    return "run name" if item.name.step is not None else "final checkpoint"
