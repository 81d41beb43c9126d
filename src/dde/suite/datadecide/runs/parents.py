"""Find the checkpoint or run that a post-training run starts from: all evidence, in an explicit order of trust."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from dde.errors import LineageError, UnknownNameError, near_names
from dde.lineage.counts import shortened
from dde.sources.values import as_float, as_int, as_text
from dde.suite.datadecide.names import (
    SEEDS,
    Base,
    Checkpoint,
    RunCheckpoint,
    Seed,
    find_base_by_label,
    find_hub_model,
    find_size_by_params,
    names_step_beyond_range,
    parse_revision,
    parse_run_checkpoint,
    resolve_checkpoint,
)
from dde.suite.datadecide.runs.evidence import Evidence, Fork
from dde.suite.datadecide.runs.parent_index import FoundRun, ParentIndex, hub_depth, path_parts, path_problem
from dde.suite.datadecide.runs.run_names import NameFacts, is_run_name, parse_run_name

__all__ = ["GIVEN", "LONGEST_CHAIN", "Parentage", "chain_order", "last_epoch", "resolve_parents"]

#: Evidence of a parent that the user overrides.
GIVEN = "parents="
#: Longest chain of runs that get a position. Labels name all runs of a chain, so longer chains would fill the memory.
LONGEST_CHAIN = 1000
# Number of runs of a cycle that a message names.
_NAMED = 4
_FORK = "config._wandb.branch_point"
_NO_PATH = "model path names no run"
_EXPLICIT = "config.parent_run_id"
_FINAL = RunCheckpoint()


@dataclass(slots=True)
class Parentage:
    """Parent of a run, and the evidence for it.

    Attributes
    ----------
    checkpoint : Checkpoint or None
        Pretraining checkpoint, when the run starts from one directly.
    parent_run_id : str
        Parent: id of a post-training run, or label of a lineage; "" if none was found.
    base : Base or None
        Pretraining run at the root of the chain; it may be known although the parent run is not in the store.
    run_checkpoint : RunCheckpoint
        Checkpoint of a parent run that the run starts from; the final one unless the evidence names another.
    in_store : bool
        Whether a parent run that is known by name is in the store.
    evidence : str
        Source that names the parent; "" if none does.
    contradictions : list of str
        Evidence that disagrees.
    problem : str
        Why no parent was found.
    ambiguous : bool
        Whether the evidence fits several parents, or names no checkpoint of one. Weaker evidence is not used then.
    """

    checkpoint: Checkpoint | None = None
    parent_run_id: str = ""
    base: Base | None = None
    run_checkpoint: RunCheckpoint = _FINAL
    in_store: bool = True
    evidence: str = ""
    contradictions: list[str] = field(default_factory=list)
    problem: str = ""
    ambiguous: bool = False


def resolve_parents(evidence: Mapping[str, Evidence], parents: Mapping[str, str] | None = None) -> dict[str, Parentage]:
    """Return the parentage of every run.

    Trust, highest first: the override `parents`, an explicit parent id, config, the launch command, the
    run name. The step and seed of a pretraining checkpoint come from the run name, or from a revision that
    names them.

    Parameters
    ----------
    evidence : mapping of run id to Evidence
    parents : mapping of run id to str, optional
        Overrides: run id, lineage label or Hub revision. A checkpoint inside a run follows its
        id: ``run@step_200``, ``run@200``, ``run@epoch_0`` or ``run/step_200``; the id alone means the final one.

    Raises
    ------
    UnknownNameError
        When `parents` names a run that is not in the store, an unknown parent, or a checkpoint that
        the parent does not have.
    LineageError
        When `parents` makes a run its own parent, or runs derive from each other in a cycle.

    Notes
    -----
    Runs that derive from each other in a cycle by the store's own evidence have no parent, and the cycle is their
    problem; so is the length of a chain of more than `LONGEST_CHAIN` runs.
    """
    index = ParentIndex(evidence.values())
    given = dict(parents or {})
    for run_id in given:
        if run_id not in evidence:
            raise UnknownNameError(
                f"parents= names the run {run_id!r}, which is not in the store, so its parent can't be set."
                f"{near_names(run_id, evidence)}"
            )
    resolved = {
        run_id: _given_parent(item, given[run_id], index, evidence) if run_id in given else _find_parent(item, index)
        for run_id, item in evidence.items()
    }
    _remove_cycles(resolved)
    _fill_bases(resolved)
    for run_id, item in evidence.items():
        found = resolved[run_id]
        parent = evidence.get(found.parent_run_id)
        if parent is not None and _ends_with(parent, found.run_checkpoint):
            found.run_checkpoint = _FINAL
        _check_config(item, found)
    return resolved


def last_epoch(parent: Evidence) -> int | None:
    """Return the last planned epoch of a run, counted from 0; None where unknown."""
    epochs = float(parent.hyperparameters.get("epochs", math.nan))
    return math.ceil(epochs) - 1 if math.isfinite(epochs) and epochs > 0 else None


def _ends_with(parent: Evidence, checkpoint: RunCheckpoint) -> bool:
    """Return whether a checkpoint is the one that a finished run ended with."""
    if checkpoint.is_final or parent.record.state != "finished":
        return False
    if checkpoint.epoch is not None:
        return checkpoint.epoch == last_epoch(parent)
    return checkpoint.step == as_int(parent.record.summary.get("_step"))


def _given_parent(item: Evidence, parent: str, index: ParentIndex, evidence: Mapping[str, Evidence]) -> Parentage:
    """Return the parent that the user set for a run; UnknownNameError if no single run or checkpoint has that name."""
    run_id = item.record.run_id
    found = index.find(parent)
    if found.candidates:
        raise UnknownNameError(
            f"parents= sets the parent of {run_id!r} to {parent!r}, which {len(found.candidates)} runs are called "
            f"({', '.join(found.candidates[:4])}), so the parent is unknown. Pass the id of one of them."
        )
    if found.run_id is None:
        return _base_override(run_id, parent, evidence)
    known = evidence[found.run_id]
    problem = f"{found.unknown_part!r} is not a name of a checkpoint" if found.unknown_part else ""
    last = last_epoch(known)
    named = ["step_<N>", *(f"epoch_{k}" for k in range(100 if last is None else min(last + 1, 100))), "final"]
    if found.checkpoint.epoch is not None and last is not None and found.checkpoint.epoch > last:
        problem = f"the run has no {found.checkpoint.name}: its epochs are 0 to {last}"
    if problem:
        number = re.search(r"[0-9]+", found.unknown_part)
        near = near_names(
            found.unknown_part or found.checkpoint.name, [f"step_{number[0]}", *named] if number else named
        )
        raise UnknownNameError(
            f"parents= says that {run_id!r} starts from {parent!r}, but {problem}, so the branch is unknown.{near} "
            f"Write {found.run_id}@step_<N>, @epoch_<k> counted from 0, or the id alone for the final checkpoint."
        )
    parentage = Parentage(parent_run_id=found.run_id, run_checkpoint=found.checkpoint, evidence=GIVEN)
    _note_checkpoint(parentage, _find_parent(item, index))
    return parentage


def _base_override(run_id: str, parent: str, evidence: Mapping[str, Evidence]) -> Parentage:
    try:
        checkpoint = resolve_checkpoint(parent)
    except UnknownNameError as error:
        known = [*evidence, *(item.record.run_name for item in evidence.values())]
        raise UnknownNameError(
            f"parents= sets the parent of {run_id!r} to {parent!r}, which is neither a run of the store nor a "
            f"pretraining checkpoint, so the run can't be placed.{near_names(parent.partition('@')[0], known)} "
            "Write the id of a run, with @step_<N> or @epoch_<k> for a checkpoint inside it; a Hub revision such as "
            "'allenai/DataDecide-dolma1_7-150M@step25000-seed-default'; or a lineage label with a step such as "
            "'dolma1_7-150M-default@25000'."
        ) from error
    return Parentage(checkpoint, checkpoint.base.label, checkpoint.base, evidence=GIVEN)


def _note_checkpoint(found: Parentage, other: Parentage) -> None:
    """Note that weaker evidence names another checkpoint of the same parent run."""
    if other.parent_run_id == found.parent_run_id and other.run_checkpoint != found.run_checkpoint:
        found.contradictions.append(
            f"checkpoint: {found.evidence} {found.run_checkpoint.name}, {other.evidence} {other.run_checkpoint.name}; "
            f"{found.evidence} believed"
        )


def _find_parent(item: Evidence, index: ParentIndex) -> Parentage:
    """Return the parent of a run from its own evidence, the most explicit first; contradictions are recorded."""
    explicit = as_text(item.record.config.get("parent_run_id"))
    readings: list[Parentage] = []
    if item.fork is not None:
        # Its config is a copy of that of the run that it was forked from, which says where that one starts.
        return _fork_parent(item.fork, index, item.name)
    if explicit:
        readings.append(_named_parent(item, explicit, index))
    for source, path in (
        ("config.model_name_or_path", as_text(item.record.config.get("model_name_or_path"))),
        ("launch command", as_text(item.command.get("model_name_or_path"))),
        # What transformers' W&B callback logs of the model that a Trainer was given.
        ("config._name_or_path", as_text(item.record.config.get("_name_or_path"))),
    ):
        if path:
            readings.append(_parent_of_path(item, path, source, index))
    found = None
    for reading in readings:
        if found is None:
            found = reading
        elif found.problem and not reading.problem:
            if found.evidence == _EXPLICIT or found.ambiguous:
                reading.contradictions.append(f"parent: {found.problem}; {reading.evidence} believed")
            found = reading
        elif not reading.problem and _identity(reading) != _identity(found):
            if (
                found.evidence == _EXPLICIT
                and found.run_checkpoint.is_final
                and reading.parent_run_id == found.parent_run_id
            ):
                # An id alone says which run; the checkpoint comes from the path.
                found.run_checkpoint = reading.run_checkpoint
                continue
            found.contradictions.append(
                f"parent: {found.evidence} {_identity(found)}, {reading.evidence} {_identity(reading)}; "
                f"{found.evidence} believed"
            )
    of_name = _parent_of_name(item)
    if found is None:
        return of_name
    if found.problem and not found.ambiguous and not of_name.problem and item.run_type != "dpo":
        if found.evidence == _EXPLICIT or found.problem.startswith(_NO_PATH):
            of_name.contradictions.append(f"parent: {found.problem}; run name believed")
        return of_name
    if found.checkpoint is not None and item.name.recipe is not None and item.name.size is not None:
        named = (item.name.recipe.slug, item.name.size.name)
        believed = (found.checkpoint.base.recipe.slug, found.checkpoint.base.size.name)
        if named != believed:
            found.contradictions.append(
                f"model: {found.evidence} {'-'.join(believed)}, run name {'-'.join(named)}; {found.evidence} believed"
            )
    return found


def _named_parent(item: Evidence, name: str, index: ParentIndex) -> Parentage:
    found = index.find(name)
    if found.is_known:
        return _parent_in_store(found, f"{_EXPLICIT} {name}", _EXPLICIT)
    try:
        checkpoint = resolve_checkpoint(name)
    except UnknownNameError:
        if is_run_name(name):
            return _absent_parent(re.split("[@/]", name)[0], _EXPLICIT, item.name)
        return Parentage(
            evidence=_EXPLICIT, problem=f"{_EXPLICIT} names neither a run nor a checkpoint: {shortened(name)}"
        )
    if "@" not in name and item.name.step_in_doubt:
        return _step_in_doubt(item, checkpoint.base, _EXPLICIT)
    if "@" not in name and item.name.step is not None:
        # An id without a step says which run; the step comes from the name.
        checkpoint = Checkpoint(checkpoint.base, item.name.step)
    return _at_checkpoint(checkpoint, _EXPLICIT)


def _parent_of_path(item: Evidence, path: str, source: str, index: ParentIndex) -> Parentage:
    if problem := path_problem(path):
        return Parentage(evidence=source, problem=f"{_NO_PATH}: {problem}")
    found = index.find_by_folder(path, item)
    if found.run_id == item.record.run_id:
        return Parentage(
            evidence=source, problem=f"model path is the output folder of the run itself: {path}", ambiguous=True
        )
    if found.is_known:
        return _parent_in_store(found, "model path", source)
    parts = path_parts(path)
    depth = hub_depth(parts)
    names = [part for part in reversed(parts[depth:]) if is_run_name(part)]
    if names:
        return _absent_parent(names[0], source, item.name)
    if not depth:
        return Parentage(evidence=source, problem=f"model path names neither a Hub model nor a run: {path}")
    return _parent_on_hub(item, parts, source)


def _parent_in_store(found: FoundRun, what: str, source: str) -> Parentage:
    """Return the parentage of a run whose parent is in the store, or why it is not known which checkpoint of which."""
    if found.run_id is None:
        cut = " cut short" if found.how else ""
        problem = f"{what}{cut} fits {len(found.candidates)} runs: {', '.join(found.candidates[:4])}"
    elif found.unknown_part:
        problem = f"{what} names no checkpoint of the run {found.run_id}: {found.unknown_part}"
    else:
        return Parentage(parent_run_id=found.run_id, run_checkpoint=found.checkpoint, evidence=source + found.how)
    return Parentage(evidence=source, problem=problem, ambiguous=True)


def _parent_on_hub(item: Evidence, parts: list[str], source: str) -> Parentage:
    hub = next(filter(None, map(find_hub_model, parts)))
    revision = as_text(item.config_or_command("model_revision"))
    # A folder of checkpoints may have the revision below the model's name.
    stated = next(filter(None, map(_step_and_seed, [revision, *parts])), None)
    if stated is None:
        beyond = next(filter(names_step_beyond_range, [revision, *parts]), "")
        if beyond:
            problem = f"step of the checkpoint is beyond 64 bits: {shortened(beyond)}"
            return Parentage(evidence=source, problem=problem, ambiguous=True)
        if item.name.step_in_doubt:
            return _step_in_doubt(item, Base(*hub, item.name.seed or SEEDS[0]), source)
    # If name and revision state different steps, the name wins: the launcher ran what the name says.
    step = item.name.step if item.name.step is not None or stated is None else stated[0]
    seed = item.name.seed or (stated and stated[1]) or SEEDS[0]
    base = Base(*hub, seed)
    checkpoint = Checkpoint(base, base.size.last_step if step is None else step)
    found = _at_checkpoint(checkpoint, source)
    if (
        found.checkpoint is not None
        and stated is not None
        and (stated[0] != checkpoint.step or stated[1] not in (None, seed))
    ):
        found.contradictions.append(f"checkpoint: model_revision {revision}, run name {checkpoint.revision}")
    return found


def _at_checkpoint(checkpoint: Checkpoint, source: str) -> Parentage:
    """Return the parentage of a run that starts from a pretraining checkpoint."""
    base = checkpoint.base
    if checkpoint.is_placed:
        return Parentage(checkpoint, base.label, base, evidence=source)
    problem = f"step {checkpoint.step} of {base.label} has more tokens than 64 bits count"
    return Parentage(base=base, evidence=source, problem=problem, ambiguous=True)


def _step_in_doubt(item: Evidence, base: Base, source: str) -> Parentage:
    """Return the parentage of a run whose name states a step that can't be believed, and nothing else states one."""
    return Parentage(base=base, evidence=source, problem=item.name.model_problem, ambiguous=True)


def _fork_parent(fork: Fork, index: ParentIndex, child: NameFacts) -> Parentage:
    """Return the parentage of a run that W&B forked from another at a step."""
    found = index.find(fork.run_id)
    if fork.step is None:
        problem = f"{_FORK} names no step of the run {shortened(fork.run_id)}: {fork.stated}"
        return Parentage(evidence=_FORK, problem=problem, ambiguous=True)
    if found.run_id is not None:
        return Parentage(parent_run_id=found.run_id, run_checkpoint=RunCheckpoint(step=fork.step), evidence=_FORK)
    if found.is_known:
        return _parent_in_store(found, f"{_FORK} {fork.run_id}", _FORK)
    return _absent_parent(fork.run_id, _FORK, child)


def _step_and_seed(revision: str) -> tuple[int, Seed | None] | None:
    """Return step and seed of a Hub revision, or the step of a checkpoint whose name states no seed."""
    stated = parse_revision(revision)
    if stated is not None:
        return stated
    checkpoint = parse_run_checkpoint(revision)
    return None if checkpoint is None or checkpoint.step is None else (checkpoint.step, None)


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
        if facts.model_problem:
            return Parentage(problem=facts.model_problem)
        if facts.recipe_text:
            return Parentage(problem=f"run name has the unknown recipe {shortened(facts.recipe_text)!r}")
        return Parentage(problem="neither config, launch command nor run name says where the run starts")
    if facts.starts_from_sft:
        return Parentage(
            base=base,
            problem="run name describes the finetuning run it starts from, but nothing names that run",
        )
    if item.run_type == "other":
        return Parentage(base=base, problem="run of an unknown type; its name alone is not evidence")
    if facts.step_in_doubt:
        return _step_in_doubt(item, base, "run name")
    step = base.size.last_step if facts.step is None else facts.step
    return _at_checkpoint(Checkpoint(base, step), "run name")


def _identity(found: Parentage) -> str:
    if found.checkpoint is not None:
        return f"{found.checkpoint.base.hub_model}@{found.checkpoint.revision}"
    inside = "" if found.run_checkpoint.is_final else f"@{found.run_checkpoint.name}"
    return f"{found.parent_run_id}{inside}" or "nothing"


def chain_order(parents: Mapping[str, Parentage]) -> list[str]:
    """Return the runs with every parent before its children; no run may be its own ancestor."""
    order: list[str] = []
    done: set[str] = set()
    for start in parents:
        path: list[str] = []
        current = start
        while current in parents and current not in done:
            done.add(current)
            path.append(current)
            current = parents[current].parent_run_id
        order += reversed(path)
    return order


def _remove_cycles(parents: dict[str, Parentage]) -> None:
    """Take the parent from every run of a cycle, and from runs at the end of a chain that is too long.

    Raises
    ------
    LineageError
        When overrides by the user form the cycle.
    """
    for cycle in _cycles(parents):
        what = (
            f"the run {cycle[0]!r} is its own parent"
            if len(cycle) == 1
            else f"the runs {', '.join(map(repr, cycle[:_NAMED]))}"
            f"{f' and {len(cycle) - _NAMED} more' if len(cycle) > _NAMED else ''} derive from each other in a cycle"
        )
        said = ", ".join(dict.fromkeys(parents[run_id].evidence for run_id in cycle))
        if any(parents[run_id].evidence == GIVEN for run_id in cycle):
            raise LineageError(
                f"{what} ({said}), so their place on the token axis is undefined. "
                "Pass parents={run id: parent} to settle where one of them starts."
            )
        for run_id in cycle:
            parents[run_id] = Parentage(evidence=parents[run_id].evidence, problem=f"{what} ({said})", ambiguous=True)
    depth: dict[str, int] = {}
    for run_id in chain_order(parents):
        found = parents[run_id]
        depth[run_id] = depth.get(found.parent_run_id, 0) + 1
        if depth[run_id] == LONGEST_CHAIN + 1:
            problem = f"it follows a chain of {LONGEST_CHAIN:,} runs, and labels give all runs of a chain"
            parents[run_id] = Parentage(evidence=found.evidence, problem=problem, ambiguous=True)


def _cycles(parents: Mapping[str, Parentage]) -> list[list[str]]:
    """Return the runs of each cycle, in the order in which they derive from each other."""
    cycles: list[list[str]] = []
    seen: dict[str, str] = {}
    for start in parents:
        path: list[str] = []
        current = start
        while current in parents and current not in seen:
            seen[current] = start
            path.append(current)
            current = parents[current].parent_run_id
        if path and seen.get(current) == start:
            cycles.append(path[path.index(current) :])
    return cycles


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
