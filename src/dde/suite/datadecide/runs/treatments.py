"""Treatments: what was done to a base, as a label that is equal for equal treatments."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dde.suite.datadecide.runs.evidence import Evidence
from dde.suite.datadecide.runs.parents import Parentage

__all__ = ["Treatment", "join_links", "number_replicates", "treatment_of"]

_SHORT = {"supervised_ft": "sft"}


@dataclass(frozen=True, slots=True)
class Treatment:
    """What was done to a base: the label's own fields, for the last link of the chain.

    Attributes
    ----------
    label : str
        Whole chain, without replicate.
    run_type : str
    learning_rate, finetune_tokens, epochs, max_train_samples, dpo_beta : float
        NaN where it does not apply or is unknown. `finetune_tokens` is nominal, of one epoch; infinite
        budgets do not exist: NaN means the whole mixture.
    branch_point : str
        ``@<step>`` or ``@match_<params>_<metric>``, of a checkpoint inside a post-training run ``@<step>`` or
        ``@epoch_<k>``; "" for the parent's final checkpoint.
    parent_treatment : str
        Label of the chain without its last link; "" for a run on a base.
    links : tuple of (str, str)
        Each link of the chain: its text, and the checkpoint that it starts from.
    variant : tuple of tuples of (str, str)
        For each link, hyperparameters that are in no label and in which runs of this label differ, with their values;
        see :mod:`dde.suite.datadecide.runs.variants`.
    """

    label: str
    run_type: str
    learning_rate: float = math.nan
    finetune_tokens: float = math.nan
    epochs: float = math.nan
    max_train_samples: float = math.nan
    dpo_beta: float = math.nan
    branch_point: str = ""
    parent_treatment: str = ""
    links: tuple[tuple[str, str], ...] = ()
    variant: tuple[tuple[tuple[str, str], ...], ...] = ()

    @property
    def identity(self) -> tuple[str, tuple[tuple[tuple[str, str], ...], ...]]:
        """What is equal for equal treatments: the label with its variant."""
        return self.label, self.variant


def treatment_of(item: Evidence, found: Parentage, parent: Treatment | None) -> Treatment:
    """Return the treatment of a run whose parent's treatment is `parent` (None: a pretraining checkpoint)."""
    numbers = item.hyperparameters
    rate, tokens, epochs, samples, beta = (
        float(numbers.get(key, math.nan))
        for key in ("learning_rate", "finetune_tokens", "epochs", "max_train_samples", "dpo_beta")
    )
    branch = ""
    if found.checkpoint is not None:
        if item.name.match:
            branch = f"@{item.name.match}"
        elif not found.checkpoint.is_final:
            branch = f"@{found.checkpoint.step}"
    else:
        branch = found.run_checkpoint.branch_point
    if math.isfinite(tokens):
        budget = _short_count(tokens)
    elif math.isfinite(samples):
        budget = f"{_exact(samples)}seq"
    else:
        budget = "full"
    parts = [
        _SHORT.get(item.run_type, item.run_type),
        f"lr={_exact(rate)}" if math.isfinite(rate) else "lr=?",
        f"{budget}x{_exact(epochs)}" if math.isfinite(epochs) else budget,
    ]
    if math.isfinite(beta):
        parts.append(f"beta={_exact(beta)}")
    links = (*(() if parent is None else parent.links), ("_".join(parts), branch))
    return Treatment(
        label=join_links(links),
        run_type=item.run_type,
        learning_rate=rate,
        finetune_tokens=tokens,
        epochs=epochs,
        max_train_samples=samples,
        dpo_beta=beta,
        branch_point=branch,
        parent_treatment="" if parent is None else parent.label,
        links=links,
    )


def join_links(links: Iterable[tuple[str, str]]) -> str:
    """Return the label of a chain of links.

    Examples
    --------
    >>> join_links([("sft_lr=1e-05_full", "@20000"), ("dpo_lr=2e-07_full", "")])
    'sft_lr=1e-05_full@20000+dpo_lr=2e-07_full'
    """
    return "+".join(text + branch for text, branch in links)


def _short_count(tokens: float) -> str:
    for unit, scale in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if tokens >= scale:
            return f"{_exact(tokens / scale)}{unit}"
    return _exact(tokens)


def _exact(number: float) -> str:
    """Return the shortest text that is this number and no other: different treatments have different labels."""
    short = f"{number:g}"
    if float(short) == number:
        return short
    return str(int(number)) if number.is_integer() else repr(number)


def number_replicates(
    runs: Sequence[tuple[str, str, object, np.datetime64]],
) -> Mapping[str, int]:
    """Return the replicate number (from 1) of every run.

    Parameters
    ----------
    runs : sequence of (run id, lineage, identity of the treatment, created at)
        Every run of the store, whatever its state, so that a number never depends on a selection.

    Notes
    -----
    Runs of one lineage and treatment are numbered by (created_at, run_id); a run without a date comes last.
    """
    never = np.datetime64("9999-01-01", "us")
    ordered = sorted(runs, key=lambda r: (r[1], str(r[2]), never if np.isnat(r[3]) else r[3], r[0]))
    numbers: dict[str, int] = {}
    count = 0
    previous: tuple[str, object] | None = None
    for run_id, lineage, identity, _ in ordered:
        count = count + 1 if (lineage, identity) == previous else 1
        previous = (lineage, identity)
        numbers[run_id] = count
    return numbers
