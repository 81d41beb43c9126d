"""Captions of pictures: what is shown, against what, of how many runs, with which interval, and what is left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = [
    "caption_of",
    "counted",
    "in_words",
    "left_out_text",
    "range_text",
    "runs_text",
    "subject_text",
    "without_names",
]


def caption_of(*parts: str) -> str:
    """Return the parts of a caption as one text, without empty ones and repetitions.

    Examples
    --------
    >>> caption_of("accuracy against tokens", "", "4 runs")
    'Accuracy against tokens; 4 runs.'
    """
    text = "; ".join(dict.fromkeys(filter(None, (p.strip(" ;.") for p in parts))))
    # A name such as "mC4" or "c4_en_valppl" stays as it is.
    first = text.split(" ", 1)[0]
    return f"{text[:1].upper() if first.islower() and first.isalpha() else text[:1]}{text[1:]}." if text else ""


def counted(count: int, noun: str) -> str:
    """Return a number with its noun.

    Examples
    --------
    >>> counted(1, "run"), counted(1200, "lineage")
    ('1 run', '1,200 lineages')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def range_text(counts: Iterable[int], noun: str = "") -> str:
    """Return numbers as one number or the range of them, with their noun.

    Examples
    --------
    >>> range_text([3, 3]), range_text([3, 1, 2]), range_text([])
    ('3', '1–3', '0')
    >>> range_text([1, 1], "run"), range_text([1, 2], "run")
    ('1 run', '1–2 runs')
    """
    every = [int(n) for n in counts] or [0]
    text = f"{min(every)}" if min(every) == max(every) else f"{min(every)}\N{EN DASH}{max(every)}"
    return f"{text} {noun}{'' if max(every) == 1 else 's'}" if noun else text


def left_out_text(reasons: str) -> str:
    """Return how many runs were left out and why, given reasons with their numbers, without the names of runs.

    Examples
    --------
    >>> left_out_text("no observation: 2 (c4-4M, c4-20M); ends_before: its schedule: 1"), left_out_text("")
    ('left out: 2 (no observation), 1 (ends before: its schedule)', '')
    """
    parts = [part.rpartition(": ") for part in without_names(reasons).replace("_", " ").split("; ") if part]
    texts = [f"{count} ({reason})" if reason else count for reason, _, count in parts]
    return f"left out: {', '.join(texts)}" if texts else ""


def without_names(text: str) -> str:
    """Return a text on what was left out without the names in parentheses.

    Examples
    --------
    >>> without_names("2 runs (c4-4M, c4-20M) do not reach 1B tokens")
    '2 runs do not reach 1B tokens'
    """
    return re.sub(r" \([^()]*\)", "", text)


def runs_text(runs: Iterable[object], lineages: Iterable[object], seeds: Iterable[object] = ()) -> str:
    """Return how many runs of how many lineages and seeds there are.

    Examples
    --------
    >>> runs_text("abc", "xx"), runs_text("abc", "xyz", [0, 1]), runs_text("a", "x")
    ('3 runs of 1 lineage', '3 runs of 3 lineages, 2 seeds', '1 run')
    """
    n_runs, n_lineages, n_seeds = (len(set(values)) for values in (runs, lineages, seeds))
    text = counted(n_runs, "run")
    if n_runs > 1 and n_lineages:
        text += f" of {counted(n_lineages, 'lineage')}"
    return f"{text}, {counted(n_seeds, 'seed')}" if n_seeds > 1 else text


def in_words(label: str) -> str:
    """Return the label of an axis as a part of a sentence: without units, what follows a comma in parentheses.

    Examples
    --------
    >>> in_words("PIQA, primary metric"), in_words("training compute, 6 N tokens [FLOP]")
    ('PIQA (primary metric)', 'training compute (6 N tokens)')
    """
    name, _, more = label.partition(" [")[0].partition(", ")
    return f"{name} ({more})" if more else name


def subject_text(metrics: Sequence[str]) -> str:
    """Return the metrics of a picture by the labels of their axes, or their number where there are many.

    Examples
    --------
    >>> subject_text(["PIQA"]), subject_text(["PIQA", "BoolQ"]), subject_text(list("abcd"))
    ('PIQA', 'PIQA and BoolQ', '4 metrics')
    >>> subject_text(["PIQA, primary metric", "BoolQ, primary metric"])
    'PIQA and BoolQ (primary metric)'
    >>> subject_text(["PIQA, primary metric", "training loss [nats]"])
    'PIQA (primary metric) and training loss'
    """
    distinct = [label.partition(" [")[0] for label in dict.fromkeys(metrics)]
    if len(distinct) > 2:
        return counted(len(distinct), "metric")
    measures = {metric.partition(", ")[2] for metric in distinct}
    if len(measures) > 1 or measures == {""}:
        return " and ".join(map(in_words, distinct))
    return f"{' and '.join(metric.partition(', ')[0] for metric in distinct)} ({measures.pop()})"
