"""Specifications of tutorial suites, their presets, and the result of writing one."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from dde.errors import UnknownNameError, near_names
from dde.suite.datadecide.names import RECIPES, SIZES, Base, find_base_by_label, resolve_recipe, resolve_size
from dde.suite.datadecide.names.seeds import SEEDS
from dde.tutorial.base_values import checkpoints_in_tables, extra_recipes

__all__ = ["PRESETS", "Suite", "SuiteSpec", "suite_spec"]


@dataclass(frozen=True)
class SuiteSpec:
    """Specification of a suite.

    Attributes
    ----------
    name : str
        Name of the preset.
    recipes, params : tuple of str
        Display names and sizes of the complete grid of pretraining runs.
    auxiliary_seeds : int
        Number of seeds in addition to the default one, 0 to 2.
    extra_bases : tuple of str
        Labels of pretraining runs in addition to the grid.
    early_stopped : bool
        Whether to include the extra 1B runs that stop early.
    sweep_recipes, sweep_params : tuple of str
        Recipes and sizes of the bases (default seed) of the learning-rate sweep.
    sweep_rates : tuple of float
        Learning rates of the sweep.
    sweep_budgets : tuple of str
        Token budgets of the sweep: ``"100Mtx1"`` (tokens per epoch, epochs) or ``"Ft"``, the complete mixture.
    replicates : int
        Number of runs in most cells of the sweep.
    special_runs : {"few", "all"}
        Which irregular post-training runs to include.
    posttraining_runs : int or None
        Total number of post-training runs, met by removing or adding runs of the sweep. None gives every cell its
        replicates.
    shards : int
        Number of files with raw evaluations.
    """

    name: str
    recipes: tuple[str, ...]
    params: tuple[str, ...]
    auxiliary_seeds: int = 2
    extra_bases: tuple[str, ...] = ()
    early_stopped: bool = False
    sweep_recipes: tuple[str, ...] = ("Dolma1.7", "DCLM-Baseline")
    sweep_params: tuple[str, ...] = ("150M",)
    sweep_rates: tuple[float, ...] = (5e-7, 5e-6, 2e-5, 5e-5, 2e-4)
    sweep_budgets: tuple[str, ...] = ("100Mtx1", "Ft")
    replicates: int = 1
    special_runs: str = "all"
    posttraining_runs: int | None = None
    shards: int = 4

    def bases(self) -> list[Base]:
        """Return the pretraining runs in table order: by size, recipe, seed."""
        bases = []
        for size in map(resolve_size, self.params):
            for recipe in map(resolve_recipe, self.recipes):
                # The largest models were trained with auxiliary seeds of their own.
                seeds = (SEEDS[0], *(SEEDS[3:5] if size.name == "1B" else SEEDS[1:3])[: self.auxiliary_seeds])
                bases += [Base(recipe, size, seed) for seed in seeds]
        if self.early_stopped:
            bases += [
                Base(resolve_recipe(name), SIZES[-1], seed)
                for name in extra_recipes()
                if name in self.recipes
                for seed in SEEDS[1:3]
            ]
        bases += [base for label in self.extra_bases if (base := find_base_by_label(label)) is not None]
        order = {recipe.name: k for k, recipe in enumerate(RECIPES)}
        return sorted(dict.fromkeys(bases), key=lambda b: (b.size.n_params, order[b.recipe.name], b.seed.index))

    def evaluated_checkpoints(self, seed: int = 0) -> int:
        """Return the number of (run, step) pairs with task evaluations; 66 raw rows each."""
        return sum(len(checkpoints_in_tables(seed, base).evaluated) for base in self.bases())

    def perplexity_rows(self, seed: int = 0) -> int:
        """Return the number of rows of the perplexity table."""
        return sum(len(checkpoints_in_tables(seed, base).perplexity) for base in self.bases())


PRESETS: dict[str, SuiteSpec] = {
    "tiny": SuiteSpec(
        name="tiny",
        recipes=("Dolma1.7", "DCLM-Baseline"),
        params=("4M", "150M"),
        auxiliary_seeds=0,
        extra_bases=("dolma1_7-4M-small-aux-2", "dclm-baseline-150M-small-aux-2"),
        sweep_rates=(5e-6, 5e-5),
        sweep_budgets=("100Mtx1",),
        special_runs="few",
        shards=2,
    ),
    "small": SuiteSpec(
        name="small",
        recipes=("Dolma1.7", "C4", "DCLM-Baseline"),
        params=("4M", "20M", "150M", "300M"),
        extra_bases=("dolma1_7-750M-default", "dolma1_7-1B-default", "dolma1_7-1B-small-aux-2"),
    ),
    "full": SuiteSpec(
        name="full",
        recipes=tuple(recipe.name for recipe in RECIPES),
        params=tuple(size.name for size in SIZES),
        early_stopped=True,
        sweep_recipes=("Dolma1.7", "C4", "DCLM-Baseline"),
        sweep_params=("4M", "20M", "150M", "530M"),
        sweep_rates=(5e-7, 5e-6, 5e-5, 5e-4),
        sweep_budgets=("10Mtx1", "100Mtx1", "Ft"),
        replicates=2,
        posttraining_runs=341,
    ),
}


def suite_spec(size: str | SuiteSpec) -> SuiteSpec:
    """Return the specification of a preset.

    Parameters
    ----------
    size : str or SuiteSpec
        Name of a preset; ``"scale:<K>"`` is the full suite with K times the post-training runs. A specification is
        returned unchanged.

    Raises
    ------
    UnknownNameError
        If there is no such preset.

    Examples
    --------
    >>> suite_spec("full").evaluated_checkpoints() * 66
    1410750
    """
    if isinstance(size, SuiteSpec):
        return size
    scale = re.fullmatch(r"scale:([1-9]\d*)", size)
    if scale is not None:
        factor = int(scale[1])
        full = PRESETS["full"]
        return replace(full, name=size, replicates=2 * factor, posttraining_runs=341 * factor if factor > 1 else 341)
    spec = PRESETS.get(size)
    if spec is None:
        raise UnknownNameError(
            f"{size!r} is not a size of the tutorial suite, so nothing was generated."
            f"{near_names(size, PRESETS)} Sizes are {', '.join(PRESETS)} and 'scale:<K>'."
        )
    return spec


@dataclass(frozen=True)
class Suite:
    """A suite on disk, and its truth.

    Attributes
    ----------
    path : Path
        Folder of the suite.
    data : str
        First argument for ``dde.open_lineages``: the pretraining tables.
    wandb : str
        Second argument: the post-training runs.
    bases : pandas.DataFrame
        A row per pretraining run.
    runs : pandas.DataFrame
        A row per post-training run, with the values that a reader should derive.
    """

    path: Path
    data: str
    wandb: str
    bases: pd.DataFrame
    runs: pd.DataFrame
