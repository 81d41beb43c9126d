"""The OLMo model ladder: five sizes, five token budgets, cosine runs and decays of constant-rate trunks."""

from __future__ import annotations

from dde.suite.declare import Suite, Table
from dde.suite.metric import Metric

__all__ = ["declare"]


def declare() -> Suite:
    """Return the suite of the files in ``scripts/scaling/data`` of allenai/OLMo, branch ladder-1xC.

    Its folders are ``cosine`` (there ``peteish-moreeval``), ``constant`` (``peteish-moreeval-const``) and ``decay``.
    The files ``cosine/peteish*`` of larger targets are not part of the ladder, and no pattern matches them.

    Examples
    --------
    >>> declare().tables[2].parents
    ((Template('constant/{size}-10xC'), 'checkpoint'),)
    """
    return Suite(
        "olmo_ladder",
        lineage="{size}",
        # A budget of 1xC is 20 tokens per parameter.
        run={"cosine": "cosine-{budget}xC", "constant": "constant", "decay": "decay-{budget}xC"},
        run_id="{run_type}/{size}-{budget}xC{rerun}",
        replicate="rerun",
        step="_step",
        tokens="throughput/total_tokens",
        # The counter of a decay continues its trunk's: 190M-1xC begins at step 6,100 with 3,198,156,800 tokens.
        counts="cumulative",
        # Field n of scripts/scaling/const.json and final.json: parameters without embeddings.
        n_params={
            "size": {
                "190M": 190_354_176,
                "370M": 371_262_464,
                "760M": 758_220_288,
                "1B": 1_279_395_840,
                "3B": 3_169_537_280,
            }
        },
        metrics={
            "eval/{set}-validation/CrossEntropyLoss": Metric(
                "{set}_loss", "nats", "lower", task="{set}", metric="loss"
            ),
            "eval/downstream_bpb/{task}_bpb": Metric("{task}_bpb", "bits/byte", "lower"),
            "eval/downstream/{task}_{metric:len_norm|acc}": Metric("{task}", "1", "higher"),
            "optim/learning_rate_group0": Metric("lr_at_step", kind="log"),
        },
        tables=[
            Table("cosine/{size}-{budget:float}xC{rerun:|-rerun}.csv", run_type="cosine"),
            Table("constant/{size}-{budget:float}xC.csv", run_type="constant"),
            # Decays replay some steps of the trunk at its peak rate first, and these rows differ from the trunk's in
            # the fourth digit, so a decay branches where its own rows begin.
            Table(
                "decay/{size}-{budget:float}xC.csv",
                run_type="decay",
                parent="constant/{size}-10xC",
                at="checkpoint",
            ),
        ],
    )
