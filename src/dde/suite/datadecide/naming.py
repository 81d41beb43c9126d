"""Names and order of DataDecide's lineages, sizes, recipes, seeds, metrics and checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dde.errors import SourceError, UnknownNameError
from dde.lineage.filters import as_values
from dde.suite.datadecide.names import (
    find_base_by_label,
    find_size,
    parse_metric,
    resolve_recipe,
    resolve_seed,
    resolve_size,
    suite_order,
)

__all__ = [
    "Checkpoints",
    "canonical_values",
    "checkpoints_of",
    "lineage_title",
    "listed_value",
    "mean_over_seeds_label",
    "metric_alias",
    "order_lineages",
    "step_text",
]

_LAST = (10**6, 0, 0)


def order_lineages(labels: Iterable[str]) -> list[str]:
    """Return the labels of lineages by recipe, size and seed; labels of no pretraining run come last.

    Examples
    --------
    >>> order_lineages(["other", "dolma1_7-1B-default", "dolma1_7-4M-default"])
    ['dolma1_7-4M-default', 'dolma1_7-1B-default', 'other']
    """
    return sorted(labels, key=lambda label: suite_order(base) if (base := find_base_by_label(label)) else _LAST)


def canonical_values(name: str, wanted: Any) -> Any:
    """Return values of a coordinate under their canonical names: any name of a size, recipe or seed.

    Raises
    ------
    UnknownNameError
        When it is a name of none.

    Examples
    --------
    >>> canonical_values("data", "dolma1_7"), canonical_values("learning_rate", 1e-5)
    (['Dolma1.7'], 1e-05)
    """
    if name == "data":
        return [resolve_recipe(str(v)).name for v in as_values(wanted)]
    if name == "params":
        return [resolve_size(str(v)).name for v in as_values(wanted)]
    if name == "seed":
        return [resolve_seed(v).index for v in as_values(wanted)]
    return wanted


def listed_value(name: str, value: Any) -> Any:
    """Return a size, recipe or seed, by any of its names, as lists of what to choose from show it.

    Raises
    ------
    UnknownNameError
        When it is a name of none.

    Examples
    --------
    >>> listed_value("seed", 0), listed_value("params", "4m")
    ('default', '4M')
    """
    if name not in ("params", "data", "seed"):
        return value
    return resolve_seed(value).name if name == "seed" else canonical_values(name, value)[0]


def metric_alias(name: str) -> str:
    """Return the name of the metric that an alias means; "" if it is not an alias.

    Examples
    --------
    >>> metric_alias("pile-valppl")
    'pile_valppl'
    """
    try:
        return parse_metric(name).name
    except UnknownNameError:
        return ""


def mean_over_seeds_label(label: str) -> str:
    """Return what the mean of lineages that differ in their seed is called.

    Examples
    --------
    >>> mean_over_seeds_label("dolma1_7-4M-small-aux-2")
    'dolma1_7-4M'
    """
    base = find_base_by_label(label)
    return label if base is None else f"{base.recipe.slug}-{base.size.name}"


def lineage_title(facts: Mapping[Any, Any]) -> str:
    """Return what a lineage is called above a panel, from its coordinates; its label where they name no size.

    Examples
    --------
    >>> lineage_title({"lineage": "c4-1B-large-aux-2", "params": "1B", "data": "C4", "seed_name": "large aux 2"})
    '1B on C4, seed large aux 2'
    """
    label = str(facts["lineage"])
    if not (facts.get("data") and facts.get("params")) or find_size(str(facts["params"])) is None:
        return label
    seed = str(facts.get("seed_name", "default"))
    # A lineage that is a mean over seeds has none.
    if "seed_name" not in facts and find_base_by_label(label) is not None:
        return label
    return f"{facts['params']} on {facts['data']}" + (f", seed {seed}" if seed != "default" else "")


def step_text(facts: Mapping[Any, Any], tokens: float) -> str:
    """Return the step of a checkpoint of a base; "" between two checkpoints, and without a known size.

    Examples
    --------
    >>> step_text({"params": "150M"}, 393_216 * 5), step_text({"params": "150M"}, 5), step_text({"width": 64}, 5)
    ('5', '', '')
    """
    size = find_size(str(facts.get("params", "")))
    # Checkpoints are at integer steps.
    return f"{tokens / size.tokens_per_step:.0f}" if size and not tokens % size.tokens_per_step else ""


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Checkpoints of one pretraining run on the Hub.

    Attributes
    ----------
    hub_model : str
        Repository of the model.
    tokens_per_step, scheduled_tokens : int
        Tokens of a training step, and at the planned end.
    seed : str
        The seed as revisions spell it.
    """

    hub_model: str
    tokens_per_step: int
    scheduled_tokens: int
    seed: str

    def revision(self, step: int) -> str:
        """Return the revision of a step."""
        return f"step{step}-seed-{self.seed}"


def checkpoints_of(lineage: str) -> Checkpoints:
    """Return the checkpoints that the base of a lineage has on the Hub.

    Raises
    ------
    SourceError
        When the suite has no such lineage.

    Examples
    --------
    >>> checkpoints_of("dolma1_7-4M-default").revision(1250)
    'step1250-seed-default'
    """
    base = find_base_by_label(lineage)
    if base is None:
        raise SourceError(
            f"the lineage {lineage!r} is none of the DataDecide suite, so its checkpoints have no revision "
            "that is known here."
        )
    return Checkpoints(base.hub_model, base.size.tokens_per_step, base.size.scheduled_tokens, base.seed.dashed)
