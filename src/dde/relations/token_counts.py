"""Where on the token axis the rows of a training log lie: logged, restored after a resume, or estimated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dde.relations.evidence import Evidence
from dde.sources.values import as_float, as_int

__all__ = [
    "ESTIMATED",
    "LOGGED",
    "RESTORED",
    "TOKEN_SOURCES",
    "TULU_TOKENS_PER_SEQUENCE",
    "Placement",
    "measure_tokens_per_sequence",
    "place_counted",
    "place_run",
    "planned_tokens",
    "restore_counter",
]

LOGGED, RESTORED, ESTIMATED = 0, 1, 2
#: Names of the codes, in order of their codes.
TOKEN_SOURCES = ("logged", "restored", "estimated")

#: Tokens that a sequence of the Tulu 3 SFT mixture counts on average, in the runs whose counters were logged.
TULU_TOKENS_PER_SEQUENCE = 712

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Placement:
    """Rows of one run on the axis of its own tokens.

    Attributes
    ----------
    steps : (row,) int64 array
        Distinct steps that were logged, ascending.
    tokens : (row,) int64 array
        Tokens since the run's own start; never falling.
    source : (row,) int8 array
        LOGGED, RESTORED or ESTIMATED.
    end : int or None
        Tokens at the run's end, where its evaluations belong; None where nothing tells.
    end_source : int
        How the end is known.
    estimate : str
        The rule and the numbers of an estimate; "" where nothing was estimated.
    rate : (float, float) or None
        Tokens, and the steps that count them, where rows are placed by their steps alone.
    """

    steps: Int64
    tokens: Int64
    source: npt.NDArray[np.int8]
    end: int | None
    end_source: int
    estimate: str = ""
    rate: tuple[float, float] | None = None


def restore_counter(steps: Int64, counter: npt.NDArray[np.float64]) -> tuple[Int64, npt.NDArray[np.int8]]:
    """Return the true count of tokens of a counter that may have fallen back.

    W&B's counter starts anew when a job resumes, while steps go on. At such a row the count goes on from the
    row before at the run's own rate, and from there with the counter's own increments.

    Parameters
    ----------
    steps : (row,) int64 array
        Ascending, distinct.
    counter : (row,) float64 array
        Logged counts; finite.

    Returns
    -------
    tokens : (row,) int64 array
        Never falling.
    source : (row,) int8 array
        LOGGED up to the first fall, RESTORED from there.

    Examples
    --------
    >>> tokens, source = restore_counter(np.array([1, 2, 3, 4]), np.array([10.0, 20.0, 5.0, 15.0]))
    >>> tokens.tolist(), source.tolist()
    ([10, 20, 30, 40], [0, 0, 1, 1])
    """
    increments = np.diff(counter)
    falls = np.concatenate([[False], increments < 0])
    source = np.where(np.cumsum(falls) > 0, RESTORED, LOGGED).astype(np.int8)
    if not falls.any():
        return np.rint(counter).astype(np.int64), source
    sound = increments >= 0
    gaps = np.diff(steps)
    # Where the counter fell between every two rows, only the count of the first row tells the rate.
    rate = increments[sound].sum() / gaps[sound].sum() if sound.any() else counter[0] / max(steps[0], 1)
    grown = np.where(falls[1:], rate * gaps, increments)
    tokens = counter[0] + np.concatenate([[0.0], np.cumsum(grown)])
    # Before the first fall the logged numbers stand as they are.
    tokens[: int(np.argmax(falls))] = counter[: int(np.argmax(falls))]
    return np.rint(tokens).astype(np.int64), source


def measure_tokens_per_sequence(
    runs: Iterable[tuple[Evidence, Int64, npt.NDArray[np.float64]]],
) -> dict[str, int]:
    """Return the mean tokens of a sequence, per training mixture, over runs with a whole logged counter.

    Parameters
    ----------
    runs : iterable of (Evidence, steps, counter)
        Runs with their distinct steps and counts.

    Returns
    -------
    dict of str to int
        Mixture to tokens per sequence, rounded to a whole token; all runs of a mixture pooled.
    """
    tokens: dict[str, float] = {}
    sequences: dict[str, float] = {}
    for item, steps, counter in runs:
        per_step = item.sequences_per_step
        if per_step is None or not item.dataset or item.run_type == "dpo":
            continue
        known = np.isfinite(counter)
        if not known.any() or (np.diff(counter[known]) < 0).any():
            continue
        last = int(np.flatnonzero(known)[-1])
        tokens[item.dataset] = tokens.get(item.dataset, 0.0) + float(counter[last])
        sequences[item.dataset] = sequences.get(item.dataset, 0.0) + float(steps[last] * per_step)
    return {d: round(tokens[d] / sequences[d]) for d in tokens if sequences[d] > 0 and tokens[d] > 0}


def place_run(
    item: Evidence,
    steps: Int64,
    counter: npt.NDArray[np.float64],
    measured: Mapping[str, int],
    tokens_per_sequence: float | None = None,
) -> Placement:
    """Return where the rows of a run lie on the axis of its own tokens.

    Parameters
    ----------
    item : Evidence
    steps : (row,) int64 array
        Distinct steps, ascending.
    counter : (row,) float64 array
        Logged counts; NaN where a row has none.
    measured : mapping of str to int
        Tokens per sequence by mixture, from :func:`measure_tokens_per_sequence`.
    tokens_per_sequence : float, optional
        Overrides what was measured.
    """
    known = np.isfinite(counter)
    if known.any():
        return place_counted(steps, counter)
    per_sequence = tokens_per_sequence or measured.get(item.dataset, TULU_TOKENS_PER_SEQUENCE)
    none = np.empty(0, np.int64)
    summary_count = as_float(item.record.summary.get("total_tokens"))
    if not len(steps) and math.isfinite(summary_count):
        return Placement(none, none, none.astype(np.int8), round(summary_count), LOGGED)
    if item.run_type == "dpo":
        return _place_by_batch(item, steps, per_sequence, pair=2)
    total, rule = _total_tokens(item, per_sequence)
    finished = item.record.state == "finished"
    if len(steps) and not (finished and total is not None):
        placed = _place_by_batch(item, steps, per_sequence, pair=1)
        if placed.end is not None:
            return placed
    if total is None or (len(steps) and not finished):
        return _unplaced()
    # A finished run has used its whole budget by its last step.
    return place_by_rate(steps, (total, max(int(steps[-1]), 1) if len(steps) else 1), total, rule)


def place_counted(steps: Int64, counter: npt.NDArray[np.float64]) -> Placement:
    """Return where the rows of a run with a token counter lie; arguments as of :func:`place_run`."""
    known = np.isfinite(counter)
    tokens, source = restore_counter(steps[known], counter[known])
    if not known.all():
        # Rows without a count between rows that have one: their place follows from the step.
        first, last = np.flatnonzero(known)[[0, -1]]
        rate = tokens[-1] / max(int(steps[last]), 1)
        x = np.concatenate([[0], steps[known]]) if steps[first] > 0 else steps[known]
        y = np.concatenate([[0], tokens]) if steps[first] > 0 else tokens
        every = np.interp(steps, x, y)
        every[last + 1 :] = tokens[-1] + rate * (steps[last + 1 :] - steps[last])
        all_source = np.full(len(steps), ESTIMATED, np.int8)
        all_source[known] = source
        placed = np.rint(every).astype(np.int64)
        placed[known] = tokens
        tokens, source = placed, all_source
    return Placement(steps, tokens, source, int(tokens[-1]), int(source[-1]))


def place_by_rate(steps: Int64, rate: tuple[float, float], end: int | None, rule: str) -> Placement:
    """Return where the rows of a run lie that nothing but their steps tells of.

    Parameters
    ----------
    steps : (row,) int64 array
    rate : (float, float)
        Tokens, and the steps that count them.
    end, rule
        As the fields `end` and `estimate` of the placement.
    """
    tokens = np.rint(steps / rate[1] * rate[0]).astype(np.int64)
    return Placement(steps, tokens, np.full(len(steps), ESTIMATED, np.int8), end, ESTIMATED, rule, rate)


def _place_by_batch(item: Evidence, steps: Int64, per_sequence: float, pair: int) -> Placement:
    """Place rows by sequences per step; `pair` is 2 where a step reads a chosen and a rejected answer."""
    per_step = item.sequences_per_step
    last = int(steps[-1]) if len(steps) else as_int(item.record.summary.get("_step"))
    if per_step is None or not last:
        return _unplaced()
    rate = per_step * pair * per_sequence
    rule = f"step x {per_step} sequences x {f'{pair} x ' if pair > 1 else ''}{per_sequence:g} tokens"
    return place_by_rate(steps, (rate, 1), round(last * rate), rule)


def _unplaced() -> Placement:
    none = np.empty(0, np.int64)
    return Placement(none, none, none.astype(np.int8), None, ESTIMATED)


def planned_tokens(item: Evidence, tokens_per_sequence: float) -> int | None:
    """Return the tokens that a finetuning run was planned to train on; None where nothing tells, and of a DPO run."""
    return None if item.run_type == "dpo" else _total_tokens(item, tokens_per_sequence)[0]


def _total_tokens(item: Evidence, per_sequence: float) -> tuple[int | None, str]:
    """Return the tokens of a whole finetuning run, and the rule: sequences where known, else the budget."""
    epochs = float(item.hyperparameters.get("epochs", 1.0))
    samples = as_float(item.hyperparameters.get("max_train_samples"))
    unique = as_float(item.record.config.get("finetune_unique_sequences"))
    for per_epoch in (samples, unique):
        if math.isfinite(per_epoch) and per_epoch > 0:
            return (
                round(per_epoch * epochs * per_sequence),
                f"{per_epoch:g} sequences x {epochs:g} epochs x {per_sequence:g} tokens",
            )
    sequences = as_float(item.record.config.get("finetune_sequences"))
    if not math.isfinite(sequences):
        sequences = as_float(item.extras.get("finetune_sequences"))
    if math.isfinite(sequences) and sequences > 0:
        return round(sequences * per_sequence), f"{sequences:g} sequences x {per_sequence:g} tokens"
    budget = as_float(item.hyperparameters.get("finetune_tokens"))
    if math.isfinite(budget) and budget > 0:
        return round(budget * epochs), f"nominal budget of {budget:g} tokens x {epochs:g} epochs"
    return None, ""
