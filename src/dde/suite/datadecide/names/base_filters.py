"""Choosing pretraining runs by size, recipe and seed, each under any of its names."""

from __future__ import annotations

from collections.abc import Iterable

from dde.relations.filters import as_values
from dde.suite.datadecide.names.checkpoints import Base
from dde.suite.datadecide.names.recipes import RECIPES, resolve_recipe
from dde.suite.datadecide.names.seeds import resolve_seed
from dde.suite.datadecide.names.sizes import SIZES, resolve_size

__all__ = ["choose_bases", "suite_order"]


def suite_order(base: Base) -> tuple[int, int, int]:
    """Return the sort key of a base: recipe, size, seed as the suite lists them."""
    return _RECIPE_ORDER[base.recipe.slug], _SIZE_ORDER[base.size.name], base.seed.index


_RECIPE_ORDER = {recipe.slug: i for i, recipe in enumerate(RECIPES)}
_SIZE_ORDER = {size.name: i for i, size in enumerate(SIZES)}


def choose_bases(bases: Iterable[Base], params: object = None, data: object = None, seed: object = None) -> list[Base]:
    """Return the bases that match, in their order; each filter is a name or several, None for all.

    Raises
    ------
    UnknownNameError
        When a name is not of the suite.
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
