"""Branch points inside post-training runs: the parent's own tokens at one of its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dde.lineage.counts import as_count
from dde.sources.protocols import TRAINING_STEP
from dde.sources.values import as_float, as_int
from dde.suite.datadecide.names import RunCheckpoint
from dde.suite.datadecide.runs.evidence import Evidence
from dde.suite.datadecide.runs.parents import last_epoch
from dde.suite.datadecide.runs.positions import RunEnd
from dde.suite.datadecide.runs.token_counts import LOGGED, Placement

__all__ = ["Branch", "branch_in_run"]

# A step before the first logged row is placed by the run's own rate if the count of that row agrees with the rate
# within this share. Otherwise the log, and its count, begin after a resume.
_RATE_TOLERANCE = 0.25


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch point in the parent's own tokens.

    Attributes
    ----------
    tokens : int or None
        None where unknown.
    problem : str
        Why it is unknown.
    estimate : str
        How it was estimated, where no logged row gives it.
    """

    tokens: int | None = None
    problem: str = ""
    estimate: str = ""


def branch_in_run(parent: Evidence, end: RunEnd, checkpoint: RunCheckpoint, rows: Mapping[str, Placement]) -> Branch:
    """Return the own tokens of a post-training run at one of its checkpoints.

    Parameters
    ----------
    parent : Evidence
        Evidence about the run that wrote the checkpoint.
    end : RunEnd
        End of that run.
    checkpoint : RunCheckpoint
    rows : mapping of str to Placement
        Rows of the runs with checkpoints at a step, by run id.

    Notes
    -----
    The tokens of a step are those of its logged row, or are interpolated linearly between two rows. After the last row,
    the run's own rate is trusted for one logging interval, or up to the last step of the summary, because a checkpoint
    is written by then. The end of epoch `k`, counted from 0, is at (k + 1) / epochs of the tokens of a finished run.
    """
    if checkpoint.step is not None:
        return _at_step(parent, end, checkpoint.step, rows[parent.record.run_id])
    own_end = _known_end(parent, end)
    if own_end is None:
        if end.tokens is None:
            return Branch(problem="the parent's end is unknown")
        return Branch(problem="the parent has neither history nor evaluations, and its summary has no count of tokens")
    if checkpoint.epoch is None:
        return Branch(own_end)
    return _at_epoch(parent, own_end, checkpoint.epoch)


def _known_end(parent: Evidence, end: RunEnd) -> int | None:
    """Return the end of a run; for a run without rows, only if its summary counts its steps or tokens."""
    if end.has_log or parent.record.evaluated or end.source == LOGGED:
        return end.tokens
    counts_steps = parent.run_type == "dpo" and as_int(parent.record.summary.get("_step"))
    return end.tokens if counts_steps else None


def _at_epoch(parent: Evidence, own_end: int, epoch: int) -> Branch:
    name = f"epoch_{epoch}"
    epochs, last = float(parent.hyperparameters.get("epochs", math.nan)), last_epoch(parent)
    if last is None:
        return Branch(problem=f"the parent's number of epochs is unknown, so {name} has no place in it")
    if epoch > last:
        return Branch(problem=f"the parent has no {name}: its epochs are 0 to {last}")
    if parent.record.state != "finished":
        state = parent.record.state or "unknown"
        return Branch(problem=f"the parent did not finish (state {state}), so its tokens do not give the end of {name}")
    share = min((epoch + 1) / epochs, 1.0)
    return Branch(round(own_end * share), estimate=f"branch at {name}: {epoch + 1} of {epochs:g} epochs of the parent")


def _at_step(parent: Evidence, end: RunEnd, step: int, placement: Placement) -> Branch:
    """Return the branch at a step of the parent: from a row, estimated between or beyond rows, or a problem."""
    if end.forked_at is not None and step <= end.forked_at:
        if step == end.forked_at:
            return Branch(0)
        return Branch(problem=f"step {step} lies before step {end.forked_at}, at which the parent was forked")
    if step == 0:
        return Branch(0)
    steps, tokens = placement.trained, placement.tokens
    if (np.diff(steps) < 0).any():
        return Branch(problem=f"the parent's training steps go back, so step {step} is none of its rows alone")
    reached = as_count(as_float(parent.record.summary.get("_step"))) or 0
    if placement.training is not None:
        reached = as_count(as_float(parent.record.summary.get(TRAINING_STEP))) or 0
    if not len(steps):
        count = as_count(as_float(parent.record.summary.get("total_tokens")))
        if not end.has_log and count is not None and step <= reached:
            return Branch(
                round(count * step / reached),
                estimate=f"branch at step {step}: {reached} steps count {count} tokens",
            )
        return Branch(problem=f"the parent has no logged row by which step {step} could be placed")
    first, last = int(steps[0]), int(steps[-1])
    at = int(np.searchsorted(steps, step))
    if at < len(steps) and steps[at] == step:
        return Branch(int(tokens[at]))
    if first < step < last:
        between = f"between the logged steps {steps[at - 1]} and {steps[at]}"
        return Branch(round(float(np.interp(step, steps, tokens))), estimate=f"branch at step {step}: {between}")
    many = last > first
    # The rows of a forked run begin at its fork.
    start = end.forked_at or 0
    rate = (int(tokens[-1]) - int(tokens[0])) / (last - first) if many else int(tokens[0]) / max(first - start, 1)
    if step < first:
        if not math.isclose(int(tokens[0]), rate * (first - start), rel_tol=_RATE_TOLERANCE):
            return Branch(
                problem=f"step {step} lies before the parent's first logged step {first}, whose count of "
                f"{tokens[0]} tokens does not go with the rate of the steps that follow"
            )
        return Branch(
            round(int(tokens[0]) * (step - start) / (first - start)),
            estimate=f"branch at step {step}: before the first logged step {first}",
        )
    interval = float(np.median(np.diff(steps))) if many else first - start
    if step > max(last + interval, reached) or rate <= 0:
        return Branch(problem=f"step {step} lies beyond the parent's last logged step {last}")
    return Branch(
        int(tokens[-1]) + round(rate * (step - last)),
        estimate=f"branch at step {step}: beyond the last logged step {last}",
    )
