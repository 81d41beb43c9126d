"""Facts that the name of a post-training run states."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from dde.lineage.counts import MOST, shortened, whole_number
from dde.suite.datadecide.names import SIZES, ModelSize, Recipe, Seed, find_recipe, find_seed, find_size

__all__ = ["NameFacts", "is_run_name", "parse_run_name"]

# A run's name may have any length. Every pattern is tried once at each place where it can begin, and what it runs over
# from there ends before the next such place, so that a name is parsed in a time linear in its length.
_SIZE = "|".join(sorted((s.name for s in SIZES), key=len, reverse=True))
_DATE = re.compile(r"(?:[0-9]{4}_[0-9]{2}_[0-9]{2}-[0-9]{2}_[0-9]{2}_[0-9]{2}|[0-9]{6}-[0-9]{6})(?=_|$)")
# DD-<recipe>-<params>, dd__<recipe>-<params>__main, allenai--DataDecide-<recipe>-<params>; then -<step>-<seed>.
# A step follows a dash; a number after an underscore is never a step.
_MODEL_HEAD = re.compile(r"(?:^|[_-])(?:DD|dd|DataDecide)(?:-|_+)")
_MODEL_TAIL = re.compile(
    rf"-(?P<params>{_SIZE})"
    r"(?:(?:-|_+)(?P<main>main)|-(?:step)?(?P<step>[0-9]+))?"
    r"(?:-(?:seed-)?(?P<seed>[0-9]+|default|(?:small|large)-aux-[0-9]))?(?=_|$)"
)
_NOT_IN_RECIPE = re.compile(r"[^A-Za-z0-9_.+-]")
# The recipe with the longest name has 55 letters. What is longer is none, and is not looked at again for each head.
_LONGEST_RECIPE = 200
# The model after _match_ is the one whose metric a checkpoint was chosen to match, not the one that was trained.
_MATCHED = re.compile(r"(?:^|_)match(?=[_-])")
_MATCH_HEAD = re.compile(rf"(?:^|_)match_(?P<params>{_SIZE})_")
_MATCH_TAIL = re.compile(r"_(?:finetune|sft|dpo)(?=_|$)")
# 100Mtx2: 100 million tokens an epoch, 2 epochs; 1Gt or 1Bt: one billion, as the parser of dr_ingest reads them too.
_BUDGET = re.compile(
    r"(?:^|_)(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<unit>[KMGBT])(?:tx(?P<epochs>[0-9]+)|t|_tok(?:en)?s)(?=_|$)"
)
_FULL = re.compile(r"(?:^|_)Ft(?=_|$)")
_OPTION = re.compile(r"_--(?P<key>\w+?)=(?P<value>.+?)(?=_--|$)")
_RATE = re.compile(r"(?:^|_)(?P<key>lr|learning_rate)=(?P<value>[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)(?=_|$)")
_DPO = re.compile(r"(?:^|_)dpo(?:_|$)")
_SFT = re.compile(r"(?:^|_)(?:finetune|sft|ft)(?:_|$)")
_UNITS = {"K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
# A float64 is written with 24 signs at most.
_LONGEST_NUMBER = 64


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
        Whether the name states that the entire mixture was used.
    run_type : str
        "supervised_ft", "dpo" or "".
    starts_from_sft : bool
        Whether a DPO run's name describes the SFT run it starts from.
    parent_learning_rate : float or None
        Learning rate of that SFT run.
    options : mapping of str to str
        Options written as ``--key=value``.
    model_problem : str
        Why the model or the step that the name states can't be believed; "" where they can.
    step_in_doubt : bool
        Whether the name states a step that can't be believed, so that having none does not mean the final checkpoint.
    problems : tuple of str
        Any other facts that the name states and that can't be believed, each with its reason.
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
    model_problem: str = ""
    step_in_doubt: bool = False
    problems: tuple[str, ...] = ()


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
    date = _DATE.match(name)
    rest = name[date.end() :] if date else name
    options = {m["key"]: m["value"] for m in _OPTION.finditer(rest)}
    plain = _OPTION.sub("", rest)
    lowered = plain.casefold()
    models = _models(plain)
    model, model_problem = _own_model(models)
    budget = _BUDGET.search(plain)
    run_type = "dpo" if _DPO.search(lowered) else "supervised_ft" if _SFT.search(lowered) else ""
    problems: list[str] = []
    rates = {m["key"]: _number(m["value"], m["key"], problems) for m in _RATE.finditer(plain)}
    own_rate = _number(options["learning_rate"], "learning_rate", problems) if "learning_rate" in options else None
    if own_rate is None:
        own_rate = rates.get("learning_rate", rates.get("lr"))
    starts_from_sft = run_type == "dpo" and (budget is not None or ("lr" in rates and bool(options)))
    budget_tokens, epochs = _tokens_and_epochs(budget, problems)
    return NameFacts(
        recipe=find_recipe(model.recipe) if model else None,
        size=find_size(model.tail["params"]) if model else None,
        recipe_text=model.recipe if model else "",
        step=whole_number(model.tail["step"]) if model and model.tail["step"] else None,
        seed=find_seed(model.tail["seed"]) if model and model.tail["seed"] else None,
        match=_find_match(plain),
        learning_rate=own_rate,
        budget_tokens=budget_tokens,
        epochs=epochs,
        full=_FULL.search(plain) is not None,
        run_type=run_type,
        starts_from_sft=starts_from_sft,
        parent_learning_rate=rates.get("lr") if starts_from_sft else None,
        options=options,
        model_problem=model_problem,
        step_in_doubt=bool(model_problem) and any(m.tail["step"] for m in models),
        problems=tuple(problems),
    )


@dataclass(frozen=True, slots=True)
class _Model:
    """A model that a name states: its recipe as written, what follows it, and whether another model was matched to it.

    Attributes
    ----------
    recipe : str
    tail : re.Match
        Size, step and seed.
    is_target : bool
        Whether it follows ``_match_``.
    """

    recipe: str
    tail: re.Match[str]
    is_target: bool

    @property
    def written(self) -> str:
        return f"{self.recipe}{self.tail[0]}"


def _own_model(models: list[_Model]) -> tuple[_Model | None, str]:
    """Return the model that a run starts from as its name states it, and why none is believed where several are.

    Known recipes come first: one may itself contain something like a size. Of several models the one that is matched is
    not the run's own; nor is one without a step beside one that has step and seed, as in
    ``<exp>_DD-<recipe>-<params>_Ft_DD-<recipe>-<params>-<step>-<seed>`` (what dr_ingest parses as a matched run).
    """
    if not models:
        return None, ""
    if len(models) == 1 and not models[0].is_target:
        return models[0], _step_problem(models[0])
    known = [m for m in models if find_recipe(m.recipe)] or models[:1]
    own = [m for m in known if not m.is_target]
    if not own and len({_identity(m) for m in known}) == 1:
        return None, f"run name states the model that was matched alone: {shortened(known[0].written)}"
    exact = [m for m in own if m.tail["step"] and m.tail["seed"]]
    chosen = exact if len({_identity(m) for m in own}) > 1 and len({_identity(m) for m in exact}) == 1 else own
    if len({_identity(m) for m in chosen or known}) > 1:
        said = ", ".join(dict.fromkeys(shortened(m.written) for m in (chosen or known)[:4]))
        return None, f"run name states several models and does not say which of them was trained: {said}"
    return chosen[0], _step_problem(chosen[0])


def _step_problem(model: _Model) -> str:
    step = model.tail["step"]
    beyond = bool(step) and whole_number(step) is None
    return f"run name states the step {shortened(step, 40)}, which is beyond 64 bits" if beyond else ""


def _identity(model: _Model) -> tuple[object, ...]:
    return find_recipe(model.recipe) or model.recipe, model.tail["params"], model.tail["step"], model.tail["seed"]


def _models(text: str) -> list[_Model]:
    """Return the models that a name states, in its order, known or not."""
    tails = list(_MODEL_TAIL.finditer(text))
    ends = [m.start() for m in _NOT_IN_RECIPE.finditer(text)] + [len(text)]
    targets = {m.end() for m in _MATCHED.finditer(text)}
    models: list[_Model] = []
    tail = end = 0
    for head in _MODEL_HEAD.finditer(text):
        start = head.end()
        while tail < len(tails) and tails[tail].start() <= start:
            tail += 1
        while ends[end] < start:
            end += 1
        if tail < len(tails) and tails[tail].start() <= min(ends[end], start + _LONGEST_RECIPE):
            models.append(_Model(text[start : tails[tail].start()], tails[tail], head.start() in targets))
    return models


def _find_match(text: str) -> str:
    """Return ``match_<params>_<metric>`` as a name states it; "" where it does not."""
    head = _MATCH_HEAD.search(text)
    tail = _MATCH_TAIL.search(text, head.end() + 1) if head else None
    return f"match_{head['params']}_{text[head.end() : tail.start()]}" if head and tail else ""


def _tokens_and_epochs(budget: re.Match[str] | None, problems: list[str]) -> tuple[float | None, int | None]:
    if budget is None:
        return None, None
    number = _number(budget["number"], "tokens", problems)
    tokens = None if number is None else number * _UNITS[budget["unit"]]
    if tokens is not None and tokens > MOST:
        problems.append(f"tokens: run name {shortened(budget['number'], 40)}{budget['unit']}, beyond 64 bits; not used")
        tokens = None
    epochs = whole_number(budget["epochs"]) if budget["epochs"] else None
    if budget["epochs"] and epochs is None:
        problems.append(f"epochs: run name {shortened(budget['epochs'], 40)}, beyond 64 bits; not used")
    return tokens, epochs


def _number(text: str, what: str, problems: list[str]) -> float | None:
    """Return the number that a text writes; None and a problem where that is none or too large."""
    try:
        number = float(text) if len(text) <= _LONGEST_NUMBER else math.nan
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return number
    problems.append(f"{what}: run name {shortened(text, 40)}, which is not a number that can be used; not used")
    return None
