"""What the name of a post-training run says of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from dde.names import SIZES, ModelSize, Recipe, Seed, find_recipe, find_seed, find_size

__all__ = ["NameFacts", "is_run_name", "parse_run_name"]

_SIZE = "|".join(sorted((s.name for s in SIZES), key=len, reverse=True))
_DATE = re.compile(r"^(?:\d{4}_\d{2}_\d{2}-\d{2}_\d{2}_\d{2}|\d{6}-\d{6})(?=_|$)")
# DD-<recipe>-<params>, dd__<recipe>-<params>__main, allenai--DataDecide-<recipe>-<params>; then -<step>-<seed>.
# A step follows a dash, so that a number behind an underscore is never taken for one.
_MODEL = re.compile(
    rf"(?:^|[_-])(?:DD|dd|DataDecide)(?:-|_+)(?P<recipe>[A-Za-z0-9_.+-]+?)-(?P<params>{_SIZE})"
    r"(?:(?:-|_+)(?P<main>main)|-(?:step)?(?P<step>\d+))?"
    r"(?:-(?:seed-)?(?P<seed>\d+|default|(?:small|large)-aux-\d))?(?=_|$)"
)
_MATCH = re.compile(rf"(?:^|_)match_(?P<params>{_SIZE})_(?P<metric>.+?)_(?:finetune|sft|dpo)(?=_|$)")
_BUDGET = re.compile(r"(?:^|_)(?P<number>\d+(?:\.\d+)?)(?P<unit>[KMB])(?:tx(?P<epochs>\d+)|t|_toks)(?=_|$)")
_FULL = re.compile(r"(?:^|_)Ft(?=_|$)")
_OPTION = re.compile(r"_--(?P<key>\w+?)=(?P<value>.+?)(?=_--|$)")
_RATE = re.compile(r"(?:^|_)(?P<key>lr|learning_rate)=(?P<value>\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?=_|$)")
_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9}


@dataclass(frozen=True, slots=True)
class NameFacts:
    """Facts that a run name states; None or empty where it is silent.

    Attributes
    ----------
    recipe, size : Recipe, ModelSize or None
        The base model named.
    recipe_text : str
        The recipe as written, also where it is unknown.
    step : int or None
        Pretraining step of the starting checkpoint; None for the final one.
    seed : Seed or None
        Pretraining seed.
    match : str
        ``match_<params>_<metric>`` where the checkpoint was chosen to match another model's.
    learning_rate : float or None
        The run's own rate. The name of a DPO run gives that of the SFT run it starts from, too.
    budget_tokens : float or None
        Tokens of an epoch; in the name of a DPO run, those of the SFT run it starts from.
    epochs : int or None
    full : bool
        Whether the name says that the whole mixture was used.
    run_type : str
        "supervised_ft", "dpo" or "".
    starts_from_sft : bool
        Whether a DPO run's name describes the SFT run it starts from.
    parent_learning_rate : float or None
        Learning rate of that SFT run.
    options : mapping of str to str
        Options written as ``--key=value``.
    """

    recipe: Recipe | None = None
    size: ModelSize | None = None
    recipe_text: str = ""
    step: int | None = None
    seed: Seed | None = None
    match: str = ""
    learning_rate: float | None = None
    budget_tokens: float | None = None
    epochs: int | None = None
    full: bool = False
    run_type: str = ""
    starts_from_sft: bool = False
    parent_learning_rate: float | None = None
    options: dict[str, str] = field(default_factory=dict)


def is_run_name(name: str) -> bool:
    """Return whether `name` begins with one of the two date forms of run names."""
    return _DATE.match(name) is not None


def parse_run_name(name: str) -> NameFacts:
    """Return what a run name says; an unknown form yields empty facts.

    Examples
    --------
    >>> facts = parse_run_name("250901-155734_test_finetune_DD-dclm-baseline-150M-25000-0_lr=5e-05")
    >>> facts.recipe.name, facts.size.name, facts.step, facts.seed.name, facts.learning_rate
    ('DCLM-Baseline', '150M', 25000, 'default', 5e-05)
    """
    rest = _DATE.sub("", name)
    options = {m["key"]: m["value"] for m in _OPTION.finditer(rest)}
    plain = _OPTION.sub("", rest)
    lowered = plain.casefold()
    model = _find_model(plain)
    match = _MATCH.search(plain)
    budget = _BUDGET.search(plain)
    run_type = (
        "dpo"
        if re.search(r"(?:^|_)dpo(?:_|$)", lowered)
        else "supervised_ft"
        if re.search(r"(?:^|_)(?:finetune|sft|ft)(?:_|$)", lowered)
        else ""
    )
    rates = {m["key"]: float(m["value"]) for m in _RATE.finditer(plain)}
    own_rate = _number(options.get("learning_rate"))
    if own_rate is None:
        own_rate = rates.get("learning_rate", rates.get("lr"))
    starts_from_sft = run_type == "dpo" and (budget is not None or ("lr" in rates and bool(options)))
    return NameFacts(
        recipe=find_recipe(model["recipe"]) if model else None,
        size=find_size(model["params"]) if model else None,
        recipe_text=model["recipe"] if model else "",
        step=int(model["step"]) if model and model["step"] else None,
        seed=find_seed(model["seed"]) if model and model["seed"] else None,
        match=f"match_{match['params']}_{match['metric']}" if match else "",
        learning_rate=own_rate,
        budget_tokens=float(budget["number"]) * _UNITS[budget["unit"]] if budget else None,
        epochs=int(budget["epochs"]) if budget and budget["epochs"] else None,
        full=_FULL.search(plain) is not None,
        run_type=run_type,
        starts_from_sft=starts_from_sft,
        parent_learning_rate=rates.get("lr") if starts_from_sft else None,
        options=options,
    )


def _find_model(text: str) -> re.Match[str] | None:
    """Return the match with a known recipe, else the first one: a recipe may itself hold something like a size."""
    first = None
    for start in (m.start() for m in re.finditer(r"(?:^|[_-])(?:DD|dd|DataDecide)", text)):
        position = start
        while (match := _MODEL.match(text, position)) is not None:
            first = first or match
            if find_recipe(match["recipe"]):
                return match
            break
    return first


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
