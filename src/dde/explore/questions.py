"""Questions of the application: their options from the signatures of `dde.analysis`, their answers, and their code."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
import xarray as xr

import dde.analysis
from dde.analysis.answers import answer_frame
from dde.analysis.option_texts import parse_place, parse_target
from dde.dataset.dimensions import broadcast_values
from dde.dataset.samples import metrics_alone
from dde.errors import DdeError, SelectionError, UnknownNameError, collected_warnings, list_names
from dde.explore.choices import Choices, Opened, call_code, code_of, source_code
from dde.explore.option_labels import option_label
from dde.explore.tabs import Shown
from dde.plots.answers.cells import has_bounds, place_words
from dde.plots.backends.choice import writing_with
from dde.plots.captions import counted
from dde.plots.colours import is_given
from dde.plots.files import pdf_bytes, svg_bytes
from dde.printable import printable
from dde.schema import factors_of

__all__ = [
    "OF_BASES",
    "QUESTIONS",
    "Answer",
    "Asked",
    "Option",
    "answer_question",
    "changed_options",
    "code_of_answer",
    "factor_names",
    "has_one_base",
    "labelled_conditions",
    "options_of",
    "picture_of",
    "read_option",
    "scale_factor",
]

#: Questions with their names in the application.
QUESTIONS = {
    "best": "Best value of a hyperparameter",
    "effect": "Effect of post-training",
    "reach": "Tokens to reach a target",
    "match": "Checkpoint nearest to a target",
    "fit": "Scaling law",
    "decision_accuracy": "Decision accuracy of small scales",
    "ranks": "Agreement of two rankings",
    "signal_to_noise": "Signal to noise",
    "compare": "Difference of two selections of runs",
}
#: Questions that are asked of the pretraining runs, unless derived runs are chosen.
OF_BASES = ("fit", "decision_accuracy", "ranks", "signal_to_noise")

Kind = Literal[
    "metric", "factor", "factors", "conditions", "place", "target", "side", "choice", "flag", "whole", "number"
]  # fmt: skip

# Options that are visible at once; the others are under "more options".
_MAIN = {
    "over", "at", "target", "to", "rule", "a", "b", "small", "checkpoints", "law", "x", "by", "hold_out", "loss",
    "proxy", "direction", "seeds", "last", "paired",
}  # fmt: skip
_REMEDIES = {
    "target": "Type a number, or name a run.",
    "side": "Choose conditions or marked runs.",
    "conditions": "Choose at least one condition. Only factors with several values among the runs that are asked are "
    "listed: show more runs, or ask all that was opened.",
}  # fmt: skip
# Values of a factor that a list of conditions holds at most; a factor with more is chosen from the page's filters.
_MOST_VALUES = 200


@dataclass(frozen=True)
class Option:
    """An option of a question.

    Attributes
    ----------
    name : str
    kind : str
        What it takes: one of `Kind`.
    default : object
        As in the signature; None where it is required.
    required : bool
    values : tuple of str
        Of a choice.
    may_be_none : bool
        Whether None is a value.
    is_main : bool
        Whether it is visible at once.
    label : str
        Words for it on the page.
    """

    name: str
    kind: Kind
    default: Any
    required: bool = False
    values: tuple[str, ...] = ()
    may_be_none: bool = False
    is_main: bool = True
    label: str = ""


@dataclass(frozen=True)
class Asked:
    """A question with its options.

    Attributes
    ----------
    question : str
        One of `QUESTIONS`.
    metrics : tuple of str
    options : mapping
        Those that differ from the defaults.
    of_all : bool
        Whether it is asked of all runs that were opened, rather than of those that are shown.
    of_bases : bool
        Whether it is asked of the curves of the bases only.
    """

    question: str
    metrics: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    of_all: bool = False
    of_bases: bool = False

    @property
    def metrics_read(self) -> list[str]:
        """The metrics of the question and of its options."""
        others = [self.options.get(name) for name in ("proxy", "loss")]
        return list(dict.fromkeys([*self.metrics, *(m for m in others if m)]))


@dataclass(frozen=True)
class Answer:
    """An answer with its table, picture and code.

    Attributes
    ----------
    asked : Asked
    dataset : xarray.Dataset
    frame : pandas.DataFrame
    picture : bytes
        SVG; empty where there is none.
    notes : list of str
        What was read, places and intervals, runs that were left out, warnings.
    code : str
    """

    asked: Asked
    dataset: xr.Dataset
    frame: pd.DataFrame
    picture: bytes
    notes: list[str]
    code: str

    @property
    def empty_columns(self) -> list[str]:
        """The columns of the table that have no value in any row, such as intervals of single runs."""
        return [str(n) for n in self.frame if bool(self.frame[n].isin(["", None]).all() or self.frame[n].isna().all())]


def options_of(question: str) -> list[Option]:
    """Return the options of a question in the order of its signature, without the Dataset and the metric.

    Examples
    --------
    >>> [(o.name, o.kind, o.default) for o in options_of("reach")][:2]
    [('target', 'target', None), ('rule', 'choice', 'first')]
    >>> options_of("signal_to_noise")[0].kind
    'factor'
    """
    function = getattr(dde.analysis, question)
    hints = get_type_hints(function)
    parameters = [p for n, p in inspect.signature(function).parameters.items() if n not in ("dataset", "metric")]
    return [replace(_option(p, hints[p.name]), label=option_label(question, p.name)) for p in parameters]


def _option(parameter: inspect.Parameter, hint: Any) -> Option:
    name, required = parameter.name, parameter.default is inspect.Parameter.empty
    arms = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    may_be_none = type(None) in arms
    arms = tuple(a for a in arms if a is not type(None))
    kind: Kind
    values: tuple[str, ...] = ()
    if name == "at":
        kind = "place"
    elif xr.Dataset in arms:
        kind = "side"
    elif name in ("proxy", "loss"):
        kind = "metric"
    elif float in arms and str in arms:
        kind = "target"
    elif name in ("over", "by", "replicates"):
        kind = "factor" if arms == (str,) else "factors"
    elif any(get_origin(a) is Literal for a in arms):
        kind = "choice"
        values = tuple(v for a in arms for v in get_args(a))
    elif arms in ((bool,), (int,), (float,)):
        kinds: dict[Any, Kind] = {bool: "flag", int: "whole", float: "number"}
        kind = kinds[arms[0]]
    else:
        kind = "conditions"
    default = None if required else parameter.default
    return Option(name, kind, default, required, values, may_be_none, required or name in _MAIN)


def factor_names(dataset: xr.Dataset) -> list[str]:
    """Return the factors that have several values, and the numbers of repetitions.

    Examples
    --------
    >>> import dde
    >>> factor_names(dde.tutorial.open_lineages("tiny", metrics=["piqa"]))[:3]
    ['params', 'data', 'seed']
    """
    names = [n for n in factors_of(dataset) if len(_values_of(dataset, n)) > 1]
    return [*names, *(n for n in ("replicate",) if n in dataset.coords and n not in names)]


def labelled_conditions(dataset: xr.Dataset) -> dict[str, tuple[str, Any]]:
    """Return conditions ``name=value`` with the factor and the value, of factors with several values.

    Examples
    --------
    >>> import dde
    >>> labelled_conditions(dde.tutorial.open_lineages("tiny", metrics=["piqa"]))["params=4M"]
    ('params', '4M')
    """
    found: dict[str, tuple[str, Any]] = {}
    for name in factors_of(dataset):
        values = _values_of(dataset, name)
        if 1 < len(values) <= _MOST_VALUES:
            found |= {printable(f"{name}={value}"): (name, value) for value in values}
    return found


def scale_factor(dataset: xr.Dataset) -> tuple[str, list[Any]] | None:
    """Return the factor of lineages that gives their size, with its values from small to large; None without one.

    Sizes with less than half as many lineages as the most frequent one are left out: few recipes were trained at them.

    Examples
    --------
    >>> import dde
    >>> scale_factor(dde.tutorial.open_lineages("tiny", metrics=["piqa"]))
    ('params', ['4M', '150M'])
    """
    if "n_params" not in dataset.coords or dataset["n_params"].dims != ("lineage",):
        return None
    sizes = dataset["n_params"].values
    for name in factors_of(dataset):
        if dataset[name].dims == ("lineage",):
            counts = Counter(zip(dataset[name].values.tolist(), sizes.tolist(), strict=True))
            pairs = [pair for pair, count in counts.items() if 2 * count >= max(counts.values())]
            if len(pairs) > 1 and len({v for v, _ in counts}) == len(counts) == len({s for _, s in counts}):
                return name, [value for value, _ in sorted(pairs, key=lambda pair: pair[1])]
    return None


def has_one_base(dataset: xr.Dataset) -> bool:
    """Return whether the runs of each lineage started from one base, so that the lineages have curves of bases.

    Examples
    --------
    >>> import dde
    >>> has_one_base(dde.tutorial.open_lineages("tiny", metrics=["piqa"]))
    True
    """
    if "root_run_id" not in dataset.coords:
        return True
    sizes = {d: dataset.sizes[d] for d in ("lineage", "run")}
    roots = broadcast_values(dataset["root_run_id"].variable, sizes)
    return all(len({root for root in of_lineage if root}) <= 1 for of_lineage in roots.tolist())


def _values_of(dataset: xr.Dataset, name: str) -> list[Any]:
    values = np.asarray(dataset[name].values).ravel().tolist()
    return [v for v in dict.fromkeys(values) if is_given(v)]


def read_option(option: Option, value: Any) -> Any:
    """Return the value of an option from what its widget has.

    Parameters
    ----------
    option : Option
    value : object
        Text of a place; text or pairs of a target; pairs of coordinate and value of conditions and sides; else the
        value itself, "" for none.

    Raises
    ------
    UnknownNameError
        When a required option is missing, or a text can't be converted.

    Examples
    --------
    >>> target, rule, *_ = options_of("reach")
    >>> read_option(target, "0.5, 0.6"), read_option(rule, "sustained")
    ([0.5, 0.6], 'sustained')
    """
    if option.required and value in ("", None, [], ()):
        raise UnknownNameError(f"{option.label} is not given, so there is nothing to ask. {_REMEDIES[option.kind]}")
    if option.kind in ("conditions", "side") or (option.kind == "target" and not isinstance(value, str)):
        gathered: dict[str, list[Any]] = {}
        for name, one in value or ():
            gathered.setdefault(name, []).append(one)
        return {n: v[0] if len(v) == 1 else v for n, v in gathered.items()} or option.default
    if option.kind == "factors":
        return list(value) or option.default
    if value == "" or value is None:
        return option.default if not option.may_be_none or value == "" else None
    if option.kind == "place":
        return parse_place(value.strip())
    if option.kind == "target":
        return parse_target([part.strip() for part in value.split(",") if part.strip()], option.name)
    return value


def answer_question(shown: Shown, asked: Asked) -> Answer:
    """Answer a question, and draw the answer.

    Parameters
    ----------
    shown : Shown
        Its selection is asked, or the explored Dataset, of which the metrics of the question are read.
    asked : Asked

    Raises
    ------
    DdeError
        When the question can't be answered; its text says why.
    """
    if not asked.metrics:
        raise UnknownNameError("no metric is chosen, so there is nothing to ask. Choose at least one.")
    data = shown.explored if asked.of_all else shown.dataset
    missing = [m for m in asked.metrics_read if m not in data.data_vars]
    if missing:
        raise UnknownNameError(
            f"{missing[0]!r} is not among the metrics of the selection, so it can't be answered. Show it, or "
            "ask all that was opened."
        )
    if not (data["run_id"].values.astype(object) != "").any():
        raise SelectionError(
            "no run is among those that are asked, so there is no answer. Show other runs, or ask all that was opened."
        )
    notes = [_read_text(data, asked)]
    with collected_warnings() as messages:
        part = metrics_alone(data, asked.metrics_read)
        part = part.dde.base_curves() if asked.of_bases else part
        answer = _answer(part, asked).compute()
        try:
            picture, problem = picture_of(answer, ".svg"), ""
        except DdeError as error:
            picture, problem = b"", f"no picture: {error}"
    if place := place_words(answer):
        notes.append(f"compared {place}")
    for name, label in (("interval_method", "interval"), ("left_out", "left out")):
        text = str(answer.attrs.get(name, ""))
        if text not in ("", "none") and (name != "interval_method" or has_bounds(answer)):
            notes.append(f"{label}: {text}")
    if "fit_status" in answer:
        states = Counter(np.ravel(answer["fit_status"].values).tolist())
        notes += [f"{text} ({n} of {states.total()} fits)" for text, n in states.items() if text.startswith("not ")]
    notes += [problem] if problem else []
    notes += dict.fromkeys(messages)
    code = code_of_answer(shown.explored, shown.choices, asked, shown.opened, bool(picture))
    found = Answer(asked, answer, answer_frame(answer), picture, notes, code)
    if empty := [n for n in map(str, answer.data_vars) if n in found.empty_columns]:
        notes.append(f"no value in any row, so not in the table below: {', '.join(empty)}")
    return found


def _answer(data: xr.Dataset, asked: Asked) -> xr.Dataset:
    metric = asked.metrics[0] if len(asked.metrics) == 1 else list(asked.metrics)
    sides = [_side(data, name, asked.options[name]) for name in _sides_of(asked)]
    options = {name: value for name, value in asked.options.items() if name not in _sides_of(asked)}
    answer: xr.Dataset = getattr(dde.analysis, asked.question)(*(sides or [data]), metric, **options)
    return answer


def _sides_of(asked: Asked) -> list[str]:
    """Return the options of a question that are selections of runs."""
    return [option.name for option in options_of(asked.question) if option.kind == "side"]


def _side(data: xr.Dataset, name: str, conditions: Mapping[str, Any]) -> xr.Dataset:
    """Return the runs of a side.

    Raises
    ------
    SelectionError
        When a run is not in the Dataset, or no run has all conditions.
    """
    ids = conditions.get("run_id", [])
    present = set(data["run_id"].values.ravel().tolist())
    missing = [i for i in ([ids] if isinstance(ids, str) else ids) if i not in present]
    if missing:
        raise SelectionError(
            f"{name} has {list_names(missing, 3)}, which {'is' if len(missing) == 1 else 'are'} not among the runs "
            "that are asked, so there is nothing to compare. Show these runs, ask all that was opened, or mark others."
        )
    side: xr.Dataset = data.dde.sel(**conditions)
    return side


def _read_text(data: xr.Dataset, asked: Asked) -> str:
    lineages, labels = data.sizes["lineage"], data.sizes["run"]
    runs = int((data["run_id"].values.astype(object) != "").sum())
    metrics = asked.metrics_read
    what = "read" if asked.of_all else "asked of"
    where = "all that was opened" if asked.of_all else "what is shown"
    counts = [counted(n, noun) for n, noun in ((runs, "run"), (lineages, "lineage"), (labels, "label"))]
    return f"{what} {where}: {counts[0]} ({counts[1]}, {counts[2]}), {counted(len(metrics), 'metric')}"


def picture_of(answer: xr.Dataset, suffix: str) -> bytes:
    """Return the picture of an answer: ``.svg`` with text as text, or ``.pdf``.

    Raises
    ------
    DdeError
        When the answer has no picture, or nothing to draw.
    """
    with writing_with("matplotlib"):
        picture = answer.dde.plot(backend="matplotlib")
        return svg_bytes(picture) if suffix == ".svg" else pdf_bytes(picture)


def code_of_answer(
    dataset: xr.Dataset, choices: Choices, asked: Asked, opened: Opened | None, with_picture: bool = True
) -> str:
    """Return code that gives the same answer, its table and its picture.

    Parameters
    ----------
    dataset : xarray.Dataset
        The explored Dataset.
    choices : Choices
    asked : Asked
    opened : Opened or None
    with_picture : bool

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", metrics=["piqa"])
    >>> how = Opened("dde.tutorial.open_lineages", ('"tiny"',))
    >>> asked = Asked("effect", ("piqa",), {"at": "last"})
    >>> print(code_of_answer(ds, Choices(("dolma1_7-4M-default",), None, ("piqa",)), asked, how))
    import dde
    <BLANKLINE>
    ds = dde.tutorial.open_lineages("tiny", metrics=["piqa"])
    shown = ds[["piqa"]].dde.sel(lineage=["dolma1_7-4M-default"])
    answer = shown.dde.effect("piqa", at="last")
    table = answer.dde.to_frame()
    picture = answer.dde.plot(backend="matplotlib")
    """
    lines = code_of(dataset, replace(choices, metrics=tuple(asked.metrics_read)), opened).split("\n")
    # Statements begin without indentation: those of the selection and of its picture are left out.
    stop = "shown = " if asked.of_all else "picture = "
    kept = lines[: next(k for k, line in enumerate(lines) if line.startswith(stop))]
    target = f"ds[{source_code(asked.metrics_read)}]" if asked.of_all else "shown"
    target += ".dde.base_curves()" if asked.of_bases else ""
    metric = source_code(asked.metrics[0] if len(asked.metrics) == 1 else list(asked.metrics))
    sides = _sides_of(asked)
    options = {name: value for name, value in asked.options.items() if name not in sides}
    kept += [f"{name} = {call_code(f'{target}.dde.sel', (), asked.options[name])}" for name in sides]
    function = f"dde.{asked.question}" if sides else f"{target}.dde.{asked.question}"
    kept += [f"answer = {call_code(function, [*sides, metric], options)}", "table = answer.dde.to_frame()"]
    return "\n".join([*kept, *(['picture = answer.dde.plot(backend="matplotlib")'] if with_picture else [])])


def changed_options(question: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a question that differ from their defaults, converted from what their widgets have.

    Raises
    ------
    UnknownNameError
        When a required option is missing, or a text can't be converted.
    """
    read: Sequence[tuple[Option, Any]] = [(o, read_option(o, values[o.name])) for o in options_of(question)]
    return {o.name: value for o, value in read if o.required or value != o.default}
