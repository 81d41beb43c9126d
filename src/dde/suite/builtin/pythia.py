"""Pythia: zero-shot and five-shot evaluations of its checkpoints, and its interventions on the data."""

from __future__ import annotations

from dde.suite.declare import Suite, Table
from dde.suite.metric import Metric

__all__ = ["declare"]

_MODEL = "pythia-{size}{batch:|-1MtokBS|-0.5MtokBS|-0.25MtokBS}{data:|-deduped}"


def _metrics(shots: str) -> dict[str, Metric]:
    return {
        "{task}/{metric}_stderr": Metric(f"{{task}}_{{metric}}{shots}_stderr", stderr_of=f"{{task}}_{{metric}}{shots}"),
        "{task}/{metric:ppl}": Metric(f"{{task}}_{{metric}}{shots}", "1", "lower"),
        # CrowS-Pairs measures stereotypes: 0.5 means no bias, so neither direction is better.
        "{task}/{metric:likelihood_difference|pct_stereotype}": Metric(f"{{task}}_{{metric}}{shots}"),
        "{task}/{metric}": Metric(f"{{task}}_{{metric}}{shots}", "1", "higher"),
    }


def declare() -> Suite:
    """Return the suite of the files in ``evals/pythia-v1`` of EleutherAI/pythia.

    Examples
    --------
    >>> declare().tables[2].at
    {'step': 'first_step - 1000'}
    """
    return Suite(
        "pythia",
        lineage="pythia-{size}{batch}{data}",
        run={"pretraining": "pretraining", "intervention": "intervention{long}"},
        run_id="{size}{batch}{data}-{run_type}{long}",
        step="step",
        # A batch is 1,024 sequences of 2,048 tokens (Biderman et al. 2023, arXiv:2304.01373); the folder names of runs
        # with smaller batches give 1, 0.5 or 0.25 million tokens, which are 512, 256 or 128 sequences.
        tokens={
            "per_step": {"batch": {"": 2_097_152, "-1MtokBS": 1_048_576, "-0.5MtokBS": 524_288, "-0.25MtokBS": 262_144}}
        },
        # Steps of an intervention continue those of the run that it retrains.
        counts="cumulative",
        # Non-embedding parameters, table 1 of the paper; 1b-bf16 is the model of 1b in another number format.
        n_params={
            "size": {
                "70m": 18_915_328,
                "160m": 85_056_000,
                "410m": 302_311_424,
                "1b": 805_736_448,
                "1b-bf16": 805_736_448,
                "1.4b": 1_208_602_624,
                "2.8b": 2_517_652_480,
                "6.9b": 6_444_163_072,
                "12b": 11_327_027_200,
            }
        },
        metrics=_metrics(""),
        # Revisions of the models on the Hub.
        checkpoints="EleutherAI/pythia-{size}{data}@step{step:int}",
        tables=[
            Table(f"{_MODEL}/zero-shot/{{name}}_step{{step:int}}.json", format="lm_eval", key="{task}/{metric}"),
            Table(
                f"{_MODEL}/five-shot/{{name}}_step{{step:int}}.json",
                format="lm_eval",
                key="{task}/{metric}",
                metrics=_metrics("_5shot"),
            ),
            # Evaluations are 1,000 steps apart, and an intervention begins that much before its first evaluation: it
            # retrains the last 7 % of a run on other data, the long one the last 21 %.
            Table(
                f"{_MODEL}/intervention/intervention-{{model}}-deduped{{long:|-long}}_step{{step:int}}.json",
                format="lm_eval",
                key="{task}/{metric}",
                run_type="intervention",
                parent="{size}{batch}{data}-pretraining",
                at={"step": "first_step - 1000"},
            ),
        ],
    )
