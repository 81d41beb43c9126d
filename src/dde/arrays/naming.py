"""Names that one suite gives its lineages and metrics: their order, aliases and titles, asked of the object at hand.

DataDecide's recipes, sizes, seeds and metrics have several names each, and an order. Lineages of another suite are
called as its declaration says, have no aliases, and stand in the order in which they appear.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dde.errors import SourceError, UnknownNameError
from dde.names import (
    Base,
    as_values,
    find_base_by_label,
    find_size,
    parse_metric,
    resolve_recipe,
    resolve_seed,
    resolve_size,
    suite_order,
)
from dde.schema import Labelled, is_datadecide

__all__ = [
    "base_with_checkpoints",
    "canonical_values",
    "listed_value",
    "mean_over_seeds_label",
    "metric_alias",
    "ordered_lineages",
    "step_of",
    "title_of",
]

_LAST = (10**6, 0, 0)


def ordered_lineages(labels: Iterable[str], objects: Iterable[Labelled]) -> list[str]:
    """Return the labels of lineages in the order of their suite.

    Parameters
    ----------
    labels : iterable of str
        In the order in which they appear, each once.
    objects : iterable of Dataset
        Those that they are of.
    """
    found = list(labels)
    if not all(map(is_datadecide, objects)):
        return found
    bases = {label: find_base_by_label(label) for label in found}
    return sorted(found, key=lambda label: suite_order(base) if (base := bases[label]) else _LAST)


def canonical_values(obj: Labelled, name: str, wanted: Any) -> Any:
    """Return values of a coordinate under the names that it holds: any name of a recipe, size or seed of DataDecide.

    Raises
    ------
    UnknownNameError
        When it is a name of none.

    Examples
    --------
    >>> import xarray as xr
    >>> canonical_values(xr.Dataset(), "data", "dolma1_7")
    ['Dolma1.7']
    """
    if callable(wanted) or isinstance(wanted, slice) or not is_datadecide(obj):
        return wanted
    if name == "data":
        return [resolve_recipe(str(v)).name for v in as_values(wanted)]
    if name == "params":
        return [resolve_size(str(v)).name for v in as_values(wanted)]
    if name == "seed":
        return [resolve_seed(v).index for v in as_values(wanted)]
    return wanted


def listed_value(obj: Labelled, name: str, value: Any) -> Any:
    """Return a size, recipe or seed of DataDecide, by any of its names, as lists of what to choose from show it.

    Raises
    ------
    UnknownNameError
        When it is a name of none.

    Examples
    --------
    >>> import xarray as xr
    >>> listed_value(xr.Dataset(), "seed", 0), listed_value(xr.Dataset(), "params", "4m")
    ('default', '4M')
    """
    if not is_datadecide(obj) or name not in ("params", "data", "seed"):
        return value
    return resolve_seed(value).name if name == "seed" else canonical_values(obj, name, value)[0]


def metric_alias(obj: Labelled, name: str) -> str:
    """Return the name that a metric's alias stands for; "" where it stands for none.

    Examples
    --------
    >>> import xarray as xr
    >>> metric_alias(xr.Dataset(), "pile-valppl")
    'pile_valppl'
    """
    if not is_datadecide(obj):
        return ""
    try:
        return parse_metric(name).name
    except UnknownNameError:
        return ""


def mean_over_seeds_label(label: str) -> str:
    """Return what the mean of lineages of DataDecide that differ in their seed is called.

    Examples
    --------
    >>> mean_over_seeds_label("dolma1_7-4M-small-aux-2")
    'dolma1_7-4M'
    """
    base = find_base_by_label(label)
    return label if base is None else f"{base.recipe.slug}-{base.size.name}"


def title_of(facts: Mapping[Any, Any]) -> str:
    """Return what a lineage is called above a panel, from its coordinates; its label where the suite has no other name.

    Examples
    --------
    >>> title_of({"lineage": "c4-1B-large-aux-2", "params": "1B", "data": "C4", "seed_name": "large aux 2"})
    '1B on C4, seed large aux 2'
    >>> title_of({"lineage": "w64-s1", "width": 64})
    'w64-s1'
    """
    label = str(facts["lineage"])
    if "root_run_id" in facts or not (facts.get("data") and facts.get("params")):
        return label
    if find_size(str(facts["params"])) is None:
        return label
    seed = str(facts.get("seed_name", "default"))
    # A lineage that is a mean over seeds has none.
    if "seed_name" not in facts and find_base_by_label(label) is not None:
        return label
    return f"{facts['params']} on {facts['data']}" + (f", seed {seed}" if seed != "default" else "")


def step_of(facts: Mapping[Any, Any], tokens: float) -> str:
    """Return the step of a checkpoint of a base as text; "" between two, and where the suite does not say.

    Examples
    --------
    >>> step_of({"params": "150M"}, 393_216 * 5), step_of({"params": "150M"}, 5), step_of({"width": 64}, 5)
    ('5', '', '')
    """
    size = None if "root_run_id" in facts else find_size(str(facts.get("params", "")))
    # A checkpoint of the suite lies at a whole step; what is between two is none.
    return f"{tokens / size.tokens_per_step:.0f}" if size and not tokens % size.tokens_per_step else ""


def base_with_checkpoints(obj: Labelled, lineage: str) -> Base:
    """Return the pretraining run whose checkpoints a lineage starts from.

    Raises
    ------
    SourceError
        When the suite declares no checkpoints, or has no such lineage.
    """
    if not is_datadecide(obj):
        raise SourceError(
            "the suite of this object declares no `checkpoints`, so its cells have no revisions that are known here. "
            "The coordinates run_id and cumulative_tokens say which run a cell is of, and where it stands."
        )
    base = find_base_by_label(lineage)
    if base is None:
        raise SourceError(
            f"the lineage {lineage!r} is none of the DataDecide suite, so its checkpoints have no revision "
            "that is known here."
        )
    return base
