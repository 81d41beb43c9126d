"""Where runs were planned to end."""

from __future__ import annotations

from dde.suite.datadecide.runs.registry import Registry
from dde.suite.datadecide.runs.token_counts import planned_tokens

__all__ = ["schedule_tokens"]


def schedule_tokens(registry: Registry, run_id: str) -> int | None:
    """Return the cumulative tokens at the planned end of a run; None where unknown.

    A pretraining run's is that of its size: tokens at the last scheduled step. A finetuning run that finished ended as
    planned. Of one that did not, the plan is its sequences, or its nominal budget, times its epochs; the plan
    of an unfinished DPO run is unknown.

    Parameters
    ----------
    registry : Registry
    run_id : str
        Label of a pretraining run or id of a derived one.
    """
    run = registry.derived.get(run_id)
    if run is None:
        return registry.bases[run_id].size.scheduled_tokens
    placed = registry.placed[run_id]
    if run.state == "finished":
        return placed.end_tokens
    planned = planned_tokens(run.evidence, registry.placements.tokens_per_sequence(run_id))
    return None if planned is None or placed.branch_tokens is None else placed.branch_tokens + planned
