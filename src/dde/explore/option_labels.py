"""Words of the application for the options of questions: labels, choices, and help from the documentation."""

from __future__ import annotations

import inspect
import re
from functools import cache

import dde.analysis

__all__ = ["help_text", "label_of_none", "option_label"]

# By question and option, or by option alone.
_LABELS = {
    "at": "Compare values at",
    "ceiling": "Accuracy at a loss of zero",
    "checkpoints": "Checkpoints of the small scales",
    "delta": "Limit of Huber's loss",
    "direction": "Better values are",
    "forgetting": "show forgetting",
    "hold_out": "Runs to predict",
    "interval": "Interval",
    "last": "Number of last checkpoints",
    "law": "Law",
    "level": "Confidence level",
    "loss": "Loss that predicts the metric",
    "max_distance": "Distance of the base at most",
    "offset": "law has an asymptote E",
    "paired": "Compare pairs of runs",
    "points": "Observations of each run",
    "proxy": "Metric at the small scales",
    "replicates": "Repetitions differ in",
    "resamples": "Permutations, at most",
    "rule": "Crossing that counts",
    "samples": "Resamples of the interval",
    "seed": "Seed of random draws",
    "seeds": "Rank each seed, or their mean",
    "skip": "Share of first observations to skip",
    "small": "Small scales",
    "spread": "Measure of the signal",
    "starts": "Starts of the minimization",
    "test": "Test",
    "ties": "Tied pairs count as",
    "window": "Mean over last observations",
    "x": "Size is measured in",
    "best over": "Hyperparameter to choose",
    "compare a": "Baseline runs",
    "compare b": "Runs to compare with them",
    "compare over": "Pairs agree in",
    "decision_accuracy over": "Factor to decide",
    "decision_accuracy target": "Target scale",
    "effect over": "Average over",
    "fit by": "A fit for each",
    "match to": "Target",
    "match at": "Take the value of another run at",
    "ranks a": "First condition",
    "ranks b": "Second condition",
    "ranks over": "Factor to rank",
    "reach target": "Target",
    "reach at": "Take the value of another run at",
    "signal_to_noise over": "Signal is the spread over",
}
# What the value None of an option means.
_NONE = {
    "ceiling": "not bounded",
    "direction": "as the metric states",
    "interval": "default",
    "loss": "none",
    "max_distance": "any",
    "paired": "where there are pairs",
    "points": "as the law needs",
    "proxy": "the metric itself",
    "x": "as the law needs",
    "compare at": "each common point",
}


def option_label(question: str, option: str) -> str:
    """Return the label of an option, with its name in the code where the label does not contain it.

    Examples
    --------
    >>> option_label("best", "over"), option_label("fit", "law")
    ('Hyperparameter to choose (over)', 'Law')
    """
    label = _LABELS.get(f"{question} {option}", _LABELS.get(option, option.replace("_", " ")))
    name = option.replace("_", " ")
    return label if re.search(rf"\b{name}\b", label, re.IGNORECASE) else f"{label} ({option})"


def label_of_none(question: str, option: str) -> str:
    """Return what the value None of an option means, as a choice.

    Examples
    --------
    >>> label_of_none("decision_accuracy", "proxy")
    'the metric itself'
    """
    return _NONE.get(f"{question} {option}", _NONE.get(option, "default"))


def help_text(question: str, option: str) -> str:
    """Return the documentation of an option, as Markdown.

    Examples
    --------
    >>> help_text("fit", "starts")
    'Minima that are sought from the best points of a grid; the lowest is taken.'
    """
    return _documented(question).get(option, "")


@cache
def _documented(question: str) -> dict[str, str]:
    """Return the texts of the section of parameters."""
    text = inspect.getdoc(getattr(dde.analysis, question)) or ""
    section = text.partition("Parameters\n----------\n")[2].partition("\nReturns\n")[0]
    found = {}
    for part in re.split(r"\n(?=\S)", section):
        heading, _, body = part.partition("\n")
        for name in heading.partition(" : ")[0].split(", "):
            found[name] = _without_roles(" ".join(body.split()))
    return found


def _without_roles(text: str) -> str:
    """Return text without references, which lead nowhere in a tooltip, and without markup of formulas."""
    text = re.sub(r"[,;] see :func:`[^`]*`", "", text)
    return re.sub(r":[a-z]+:`([^`]*)`", lambda m: f"`{_plain(m[1])}`", text)


def _plain(formula: str) -> str:
    return re.sub(r"\^\{([^}]*)\}", r"^(\1)", formula.replace("\\", ""))
