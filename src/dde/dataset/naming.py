"""Names of lineages and metrics in the suite of an object: their order, aliases and titles.

DataDecide's recipes, sizes, seeds and metrics have several names each, and an order. Lineages of other suites have the
labels of their declaration, no aliases, and the order in which they appear.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dde.errors import SourceError
from dde.schema import Labelled, is_datadecide
from dde.suite.datadecide import naming as datadecide
from dde.suite.datadecide.naming import Checkpoints, mean_over_seeds_label

__all__ = [
    "canonical_values",
    "checkpoints_of",
    "listed_value",
    "mean_over_seeds_label",
    "metric_alias",
    "ordered_lineages",
    "step_of",
    "title_of",
]


def ordered_lineages(labels: Iterable[str], objects: Iterable[Labelled]) -> list[str]:
    """Return the labels of lineages in the order of their suite.

    Parameters
    ----------
    labels : iterable of str
        In the order in which they appear, each once.
    objects : iterable of Dataset
        The Datasets of the lineages.
    """
    return datadecide.order_lineages(labels) if all(map(is_datadecide, objects)) else list(labels)


def canonical_values(obj: Labelled, name: str, requested: Any) -> Any:
    """Return the values of a coordinate that a filter names, resolving aliases.

    Raises
    ------
    UnknownNameError
        When the suite has names for the values, and this is none of them.

    Examples
    --------
    >>> import xarray as xr
    >>> canonical_values(xr.Dataset(), "data", "dolma1_7")
    ['Dolma1.7']
    """
    if callable(requested) or isinstance(requested, slice) or not is_datadecide(obj):
        return requested
    return datadecide.canonical_values(name, requested)


def listed_value(obj: Labelled, name: str, value: Any) -> Any:
    """Return the name under which lists of options show a value of a coordinate, given any of its names.

    Raises
    ------
    UnknownNameError
        When the suite has names for the values, and this is none of them.

    Examples
    --------
    >>> import xarray as xr
    >>> listed_value(xr.Dataset(), "seed", 0)
    'default'
    """
    return datadecide.listed_value(name, value) if is_datadecide(obj) else value


def metric_alias(obj: Labelled, name: str) -> str:
    """Return the metric of an alias; "" where it is not an alias.

    Examples
    --------
    >>> import xarray as xr
    >>> metric_alias(xr.Dataset(), "pile-valppl")
    'pile_valppl'
    """
    return datadecide.metric_alias(name) if is_datadecide(obj) else ""


def title_of(facts: Mapping[Any, Any]) -> str:
    """Return the title of a lineage's panel, from its coordinates; its label where the suite has no other name.

    Examples
    --------
    >>> title_of({"lineage": "w64-s1", "width": 64})
    'w64-s1'
    """
    return str(facts["lineage"]) if "root_run_id" in facts else datadecide.lineage_title(facts)


def step_of(facts: Mapping[Any, Any], tokens: float) -> str:
    """Return the step of a checkpoint of a base as text; "" between two steps, and where the suite does not say.

    Examples
    --------
    >>> step_of({"width": 64}, 5)
    ''
    """
    return "" if "root_run_id" in facts else datadecide.step_text(facts, tokens)


def checkpoints_of(obj: Labelled, lineage: str) -> Checkpoints:
    """Return the checkpoints on the Hub that a lineage starts from.

    Raises
    ------
    SourceError
        When the suite declares no checkpoints, or has no such lineage.
    """
    if not is_datadecide(obj):
        raise SourceError(
            "the suite of this object declares no `checkpoints`, so the revisions of its cells are unknown. "
            "The coordinates run_id and cumulative_tokens give the run and the position of a cell."
        )
    return datadecide.checkpoints_of(lineage)
