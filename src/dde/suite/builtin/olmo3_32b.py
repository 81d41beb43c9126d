"""OLMo 3 32B: a trunk, two midtraining ingredients and their soup, a long-context stage and its checkpoint soup."""

from __future__ import annotations

from typing import Any

from dde.suite.declare import Suite, Table
from dde.suite.metric import Metric

__all__ = ["declare"]

_LIST = "OLMo-3-1025-32B.csv"


def declare(by_steps: bool = False) -> Suite:
    """Return the suite of the published list of checkpoints of allenai/OLMo-core.

    Parameters
    ----------
    by_steps : bool
        Whether to count tokens as steps times the batch instead of by the list's own counter. The counters of three
        stages begin 1,000 steps late, so the two differ from the midtraining on.

    Examples
    --------
    >>> declare().tables[0].tokens, declare(by_steps=True).tables[0].tokens
    ('Tokens Seen', {'per_step': 8388608})
    """

    def counted(tokens_per_step: int) -> dict[str, Any]:
        if by_steps:
            return {"tokens": {"per_step": tokens_per_step}, "counts": "own"}
        return {"tokens": "Tokens Seen", "counts": "cumulative"}

    # A soup averages checkpoints and is not trained.
    soup: dict[str, Any] = {
        "tokens": "0 * Step" if by_steps else "Tokens Seen",
        "counts": "own" if by_steps else "cumulative",
    }
    # The batch of each stage is the growth of the list's "Tokens Seen" per step: 8,388,608 is 1,024 sequences of
    # 8,192 tokens, 4,194,304 is half of it.
    return Suite(
        "olmo3_32b",
        lineage="olmo3-32B",
        run={
            "pretraining": "pretraining",
            "midtraining": "midtrain-{ingredient}",
            "merge": "merge",
            "longcontext": "longcontext",
        },
        run_id="{Stage}",
        step="Step",
        # The list has no parameter count.
        n_params=None,
        metrics={"Tokens Seen": Metric("tokens_listed", "tokens", kind="log")},
        tables=[
            Table(_LIST, parse={"Stage": "stage1_pretraining"}, **counted(8_388_608)),
            Table(
                _LIST,
                parse={"Stage": "stage2_midtraining_ingredient{ingredient:int}"},
                run_type="midtraining",
                parent="stage1_pretraining",
                **counted(4_194_304),
            ),
            Table(
                _LIST,
                parse={"Stage": "stage2_midtraining_souped"},
                run_type="merge",
                parent=["stage2_midtraining_ingredient1", "stage2_midtraining_ingredient2"],
                **soup,
            ),
            Table(
                _LIST,
                parse={"Stage": "stage3_longcontext"},
                run_type="longcontext",
                parent="stage2_midtraining_souped",
                **counted(8_388_608),
            ),
            # Its directory names the three checkpoints: the last and those at steps 11,000 and 10,000.
            Table(
                _LIST,
                parse={"Stage": "stage3_longcontext_souped"},
                run_type="merge",
                parent=[["stage3_longcontext", {"step": n}] for n in (11_921, 11_000, 10_000)],
                **soup,
            ),
        ],
    )
