"""Pretraining runs and their checkpoints: labels, Hub repositories and revisions, checkpoint lists, filters."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from dde.errors import UnknownNameError
from dde.lineage.counts import MOST, shortened, whole_number
from dde.lineage.filters import as_values
from dde.suite.datadecide.names.recipes import RECIPES, Recipe, find_recipe, resolve_recipe
from dde.suite.datadecide.names.seeds import SEEDS, Seed, find_seed, find_seed_by_raw, resolve_seed
from dde.suite.datadecide.names.sizes import SIZES, ModelSize, find_size, resolve_size

__all__ = [
    "Base",
    "Checkpoint",
    "RunCheckpoint",
    "choose_bases",
    "find_base_by_label",
    "find_hub_model",
    "names_step_beyond_range",
    "parse_run_checkpoint",
    "parse_training_name",
    "resolve_checkpoint",
    "suite_order",
]

_SIZE = "|".join(sorted((s.name for s in SIZES), key=len, reverse=True))
_LABEL = re.compile(rf"(?P<recipe>.+)-(?P<params>{_SIZE})-(?P<seed>[a-z]+(?:-[a-z0-9]+)*)")
_TRAINING_NAME = re.compile(rf"(?P<recipe>.+)-(?P<params>{_SIZE})(?:-5xC)?-(?P<raw>[0-9]+)")
_HUB_MODEL = re.compile(rf"(?:allenai(?:/|--))?DataDecide-(?P<recipe>[A-Za-z0-9_.\-]+?)-(?P<params>{_SIZE})")
_REVISION = re.compile(r"step(?P<step>[0-9]+)-seed-(?P<seed>[a-z0-9-]+)")
# Names that trainers and converters give to checkpoints: step_200, epoch_0 (open-instruct finetune.py), step3256-hf
# (OLMo-core and its converter), checkpoint-400 (transformers Trainer, and so TRL, axolotl, LLaMA-Factory).
_RUN_STEP = re.compile(
    r"(?:(?:global[_-]?)?step|checkpoint|ckpt)[_-]?(?P<step>[0-9]+)(?:[_-]tokens[0-9]+[KMBT]?)?(?:[_-](?:hf|unsharded))?",
    re.IGNORECASE,
)
_RUN_EPOCH = re.compile(r"epoch[_-]?(?P<epoch>[0-9]+)(?:[_-]hf)?", re.IGNORECASE)
_RUN_END = re.compile(r"final(?:[_-](?:model|checkpoint|ckpt))?(?:[_-]hf)?", re.IGNORECASE)
# Folders within a checkpoint that name its format: open-instruct's dpo.py exports the last checkpoint to hf_model;
# axolotl and LLaMA-Factory write adapters merged into their model to merged.
_STORED_AS = frozenset({"model", "hf", "hf_model", "unsharded", "merged"})


@dataclass(frozen=True, slots=True)
class Base:
    """Identity of a pretraining run: recipe, size, seed."""

    recipe: Recipe
    size: ModelSize
    seed: Seed

    @property
    def label(self) -> str:
        """Label of the run and of its lineage, e.g. ``"dolma1_7-150M-default"``."""
        return f"{self.recipe.slug}-{self.size.name}-{self.seed.dashed}"

    @property
    def hub_model(self) -> str:
        """Hub repository of the model, e.g. ``"allenai/DataDecide-dolma1_7-150M"``."""
        return f"allenai/DataDecide-{self.recipe.slug}-{self.size.name}"

    @classmethod
    def resolve(cls, params: str, data: str, seed: object) -> Base:
        """Return the base with these names; raises UnknownNameError with the nearest known names."""
        return cls(resolve_recipe(data), resolve_size(params), resolve_seed(seed))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint of a pretraining run: the base and the training step."""

    base: Base
    step: int

    @property
    def tokens(self) -> int:
        """Tokens seen at the checkpoint."""
        return self.base.size.tokens_at(self.step)

    @property
    def is_placed(self) -> bool:
        """Whether its tokens are a 64-bit integer."""
        return self.tokens <= MOST

    @property
    def is_final(self) -> bool:
        """Whether it is the checkpoint at the last scheduled step."""
        return self.step == self.base.size.last_step

    @property
    def revision(self) -> str:
        """Hub revision, e.g. ``"step69369-seed-default"``."""
        return f"step{self.step}-seed-{self.base.seed.dashed}"


@dataclass(frozen=True, slots=True)
class RunCheckpoint:
    """A checkpoint of a post-training run: at a step, at the end of an epoch, or the final one.

    Attributes
    ----------
    step : int or None
        Training step.
    epoch : int or None
        Epoch at whose end it was written, counted from 0.
    """

    step: int | None = None
    epoch: int | None = None

    @property
    def is_final(self) -> bool:
        """Whether it is the final checkpoint of its run."""
        return self.step is None and self.epoch is None

    @property
    def name(self) -> str:
        """Name as trainers write it: ``step_200``, ``epoch_0``, ``final``."""
        if self.step is not None:
            return f"step_{self.step}"
        return "final" if self.epoch is None else f"epoch_{self.epoch}"

    @property
    def branch_point(self) -> str:
        """Its form in the label of a treatment: ``@200``, ``@epoch_0``; "" for the final one."""
        if self.step is not None:
            return f"@{self.step}"
        return "" if self.epoch is None else f"@epoch_{self.epoch}"


@functools.lru_cache(maxsize=16384)
def parse_run_checkpoint(name: str) -> RunCheckpoint | None:
    """Parse the part of a path below a run's output folder as a checkpoint; None if it names none.

    Examples
    --------
    >>> parse_run_checkpoint("step_200").step, parse_run_checkpoint("model/step3256-hf").step
    (200, 3256)
    >>> parse_run_checkpoint("epoch_0/").epoch, parse_run_checkpoint("final").is_final
    (0, True)
    >>> parse_run_checkpoint("best_model") is None
    True
    """
    parts = [part for part in name.split("/") if part and part.casefold() not in _STORED_AS]
    if not parts:
        return RunCheckpoint()
    if len(parts) > 1:
        return None
    if match := _RUN_STEP.fullmatch(parts[0]):
        step = whole_number(match["step"])
        return None if step is None else RunCheckpoint(step=step)
    if match := _RUN_EPOCH.fullmatch(parts[0]):
        epoch = whole_number(match["epoch"])
        return None if epoch is None else RunCheckpoint(epoch=epoch)
    return RunCheckpoint() if _RUN_END.fullmatch(parts[0]) else None


def names_step_beyond_range(part: str) -> bool:
    """Return whether a part of a path, or a revision, names a step beyond 64 bits.

    Examples
    --------
    >>> names_step_beyond_range("step99999999999999999999-seed-default"), names_step_beyond_range("step_200")
    (True, False)
    """
    match = _REVISION.fullmatch(part) or _RUN_STEP.fullmatch(part)
    return match is not None and whole_number(match["step"]) is None


@functools.lru_cache(maxsize=16384)
def find_base_by_label(label: str) -> Base | None:
    """Return the base of a lineage label, or None.

    Examples
    --------
    >>> find_base_by_label("c4-1B-large-aux-2").seed.index
    3
    """
    match = _LABEL.fullmatch(label)
    if match is None:
        return None
    recipe, size, seed = find_recipe(match["recipe"]), find_size(match["params"]), find_seed(match["seed"])
    return Base(recipe, size, seed) if recipe and size and seed else None


@functools.lru_cache(maxsize=16384)
def find_hub_model(path: str) -> tuple[Recipe, ModelSize] | None:
    """Return recipe and size of the Hub model in a model path, or None.

    Accepts a Hub id (``allenai/DataDecide-c4-1B``), a cache path
    (``.../models--allenai--DataDecide-c4-1B/snapshots/<hash>``) and a folder of the model's name; each may end right
    after the name.

    Examples
    --------
    >>> recipe, size = find_hub_model("/x/hub/models--allenai--DataDecide-dclm-baseline-150M/snapshots/82")
    >>> recipe.name, size.name
    ('DCLM-Baseline', '150M')
    """
    for part in path.split("/"):
        match = _HUB_MODEL.fullmatch(part.removeprefix("models--"))
        if match is not None:
            recipe, size = find_recipe(match["recipe"]), find_size(match["params"])
            if recipe and size:
                return recipe, size
    return None


def parse_training_name(name: str) -> Base:
    """Return the base of an entry of a checkpoint list.

    Parameters
    ----------
    name : str
        ``<training name>-<params>-<raw seed>``, e.g. ``"dolma17-150M-6198"``.

    Raises
    ------
    UnknownNameError
        When the name does not have that form, or one of its parts is unknown.

    Examples
    --------
    >>> parse_training_name("baseline-1B-6198").label
    'dolma1_7-1B-default'
    """
    match = _TRAINING_NAME.fullmatch(name)
    if match is None:
        raise UnknownNameError(
            f"{shortened(name)!r} does not have the form '<training name>-<params>-<raw seed>' of a checkpoint list, "
            "so its run is unknown. Pass names such as 'dolma17-150M-6198'."
        )
    raw = whole_number(match["raw"])
    seed = None if raw is None else find_seed_by_raw(raw)
    if seed is None:
        raise UnknownNameError(
            f"{shortened(name)!r} ends in the raw seed {shortened(match['raw'])}, which the suite does not have. "
            f"Raw seeds are {', '.join(str(s.raw) for s in SEEDS)}."
        )
    return Base(resolve_recipe(match["recipe"]), resolve_size(match["params"]), seed)


@functools.lru_cache(maxsize=16384)
def parse_revision(revision: str) -> tuple[int, Seed] | None:
    """Return step and seed of a Hub revision (``step69369-seed-default``), or None."""
    match = _REVISION.fullmatch(revision)
    seed = find_seed(match["seed"]) if match else None
    step = whole_number(match["step"]) if match else None
    return None if step is None or seed is None else (step, seed)


def resolve_checkpoint(name: str) -> Checkpoint:
    """Return the checkpoint called `name`.

    Parameters
    ----------
    name : str
        Hub model and revision, ``allenai/DataDecide-<slug>-<params>@step<N>-seed-<seed>``; ``@main`` or no
        revision means the final checkpoint of the default seed. A lineage label with or without
        ``@<step>`` is accepted too.

    Raises
    ------
    UnknownNameError
        When it has none of these forms.

    Examples
    --------
    >>> resolve_checkpoint("allenai/DataDecide-c4-4M@step1250-seed-small-aux-2").tokens
    81920000
    """
    checkpoint = _named_checkpoint(name)
    if checkpoint is not None:
        if checkpoint.is_placed:
            return checkpoint
        raise UnknownNameError(
            f"{shortened(name)!r} names a step whose tokens are beyond 64 bits, so no run can be placed on it. "
            "Write a step that the run has."
        )
    raise UnknownNameError(
        f"{shortened(name, 200)!r} does not name a checkpoint, so no run can be placed on it. "
        "Write a Hub revision such as 'allenai/DataDecide-dolma1_7-150M@step25000-seed-default', or a lineage label "
        "with a step such as 'dolma1_7-150M-default@25000'."
    )


def _named_checkpoint(name: str) -> Checkpoint | None:
    model, _, revision = name.partition("@")
    hub = find_hub_model(model)
    if hub is not None:
        recipe, size = hub
        if revision in ("", "main"):
            return Checkpoint(Base(recipe, size, SEEDS[0]), size.last_step)
        parsed = parse_revision(revision)
        if parsed is not None:
            return Checkpoint(Base(recipe, size, parsed[1]), parsed[0])
    base = find_base_by_label(model)
    if base is None:
        return None
    if not revision:
        return Checkpoint(base, base.size.last_step)
    digits = revision.removeprefix("step")
    step = whole_number(digits) if digits.isascii() and digits.isdecimal() else None
    if step is not None:
        return Checkpoint(base, step)
    parsed = parse_revision(revision)
    return Checkpoint(base, parsed[0]) if parsed is not None and parsed[1] == base.seed else None


def suite_order(base: Base) -> tuple[int, int, int]:
    """Return the sort key of a base: recipe, size and seed in the order of the suite."""
    return _RECIPE_ORDER[base.recipe.slug], _SIZE_ORDER[base.size.name], base.seed.index


_RECIPE_ORDER = {recipe.slug: i for i, recipe in enumerate(RECIPES)}
_SIZE_ORDER = {size.name: i for i, size in enumerate(SIZES)}


def choose_bases(bases: Iterable[Base], params: object = None, data: object = None, seed: object = None) -> list[Base]:
    """Return the bases that match, in their order; each filter is a name or several, None for all.

    Raises
    ------
    UnknownNameError
        When a name is not in the suite.
    """
    sizes = None if params is None else {resolve_size(str(p)) for p in as_values(params)}
    recipes = None if data is None else {resolve_recipe(str(d)) for d in as_values(data)}
    seeds = None if seed is None else {resolve_seed(s) for s in as_values(seed)}
    return [
        b
        for b in bases
        if (sizes is None or b.size in sizes)
        and (recipes is None or b.recipe in recipes)
        and (seeds is None or b.seed in seeds)
    ]
