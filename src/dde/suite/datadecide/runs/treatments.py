"""Treatments: what was done to a base, as a label that is equal for equal treatments; variants beyond the label.

A label gives method, learning rate, budget and so on. If runs of one label differ in the reduction of the loss, the
batch size, the weight decay or the like, they are variants of the treatment and no replicates of each other. A
selection with several variants spells them out, as in ``sft_lr=2e-05_10Mx1_reduce=mean``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dde.sources.values import as_float
from dde.suite.datadecide.runs.evidence import Evidence
from dde.suite.datadecide.runs.parents import Parentage

__all__ = [
    "Treatment",
    "acting_values",
    "join_links",
    "number_replicates",
    "spelled_labels",
    "treatment_of",
    "with_variants",
]

_SHORT = {"supervised_ft": "sft"}


@dataclass(frozen=True, slots=True)
class Treatment:
    """Treatment of a base by a chain of post-training runs; numbers are those of the last run.

    Attributes
    ----------
    label : str
        Label of the entire chain, without replicate.
    run_type : str
    learning_rate, finetune_tokens, epochs, max_train_samples, dpo_beta : float
        NaN where it does not apply or is unknown. `finetune_tokens` is nominal, of one epoch; infinite
        budgets do not exist: NaN means the entire mixture.
    branch_point : str
        ``@<step>`` or ``@match_<params>_<metric>``, of a checkpoint inside a post-training run ``@<step>`` or
        ``@epoch_<k>``; "" for the parent's final checkpoint.
    parent_treatment : str
        Label of the chain without its last link; "" for a run on a base.
    links : tuple of (str, str)
        Each link of the chain: its text, and the checkpoint that it starts from.
    variant : tuple of tuples of (str, str)
        For each link, hyperparameters that are in no label and in which runs of this label differ, with their values;
        see :mod:`dde.suite.datadecide.runs.treatments`.
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
        """Label and variant, which are equal for equal treatments."""
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


#: Hyperparameters that act, by the names of the coordinates, and how labels call them.
_SHORT_NAMES = {
    "reduce_loss": "reduce",
    "batch_size": "batch",
    "warmup_ratio": "warmup",
    "weight_decay": "decay",
    "max_seq_length": "seq",
    "lr_scheduler_type": "schedule",
    "dpo_loss_type": "loss",
}
# Stands where nothing says what a run had, and others of its label differ.
_UNKNOWN = "?"


def acting_values(item: Evidence) -> dict[str, str]:
    """Return the hyperparameters of a run that act and are in no label; what nothing says is absent.

    Parameters
    ----------
    item : Evidence

    Returns
    -------
    dict of str to str
        Numbers at 6 digits: stores differ in the last ones.
    """
    found: dict[str, str] = {}
    for name in _SHORT_NAMES:
        value = item.sequences_per_step if name == "batch_size" else item.hyperparameters.get(name)
        number = as_float(value)
        text = f"{number:.6g}" if math.isfinite(number) else str(value or "")
        if text:
            found[name] = text
    return found


def with_variants(
    treatments: Mapping[str, Treatment], evidence: Mapping[str, Evidence], parents: Mapping[str, str]
) -> dict[str, Treatment]:
    """Return treatments that know which variant of their label they are.

    Parameters
    ----------
    treatments : mapping of run id to Treatment
        Of every run of the store, parents before children: which variants there are does not depend on a selection.
    evidence : mapping of run id to Evidence
    parents : mapping of run id to str
        Id of the parent run.

    Returns
    -------
    dict of run id to Treatment
        `variant` has, for each link of the chain, the values in which runs of that link's label differ. One that
        nothing says of a run, where all others of the label agree, is theirs.
    """
    acting = {run_id: acting_values(evidence[run_id]) for run_id in treatments}
    known: dict[str, dict[str, set[str]]] = {}
    for run_id, treatment in treatments.items():
        values = known.setdefault(treatment.label, {})
        for name, value in acting[run_id].items():
            values.setdefault(name, set()).add(value)
    made: dict[str, Treatment] = {}
    for run_id, treatment in treatments.items():
        differing = [name for name, values in known[treatment.label].items() if len(values) > 1]
        own = tuple((name, acting[run_id].get(name, _UNKNOWN)) for name in _SHORT_NAMES if name in differing)
        parent = made.get(parents[run_id])
        before = parent.variant if parent is not None else ((),) * (len(treatment.links) - 1)
        made[run_id] = replace(treatment, variant=(*before, own))
    return made


def spelled_labels(treatments: Sequence[Treatment]) -> list[tuple[str, str]]:
    """Return labels that tell treatments of one selection apart, and what they add to their plain labels.

    Parameters
    ----------
    treatments : sequence of Treatment

    Returns
    -------
    list of (str, str)
        Label, and the variant as text: "" where all treatments of the plain label are the same.
    """
    by_label: dict[str, dict[tuple[int, str], set[str]]] = {}
    for treatment in treatments:
        values = by_label.setdefault(treatment.label, {})
        for key, value in _values(treatment):
            values.setdefault(key, set()).add(value)
    spelled: list[tuple[str, str]] = []
    for treatment in treatments:
        differing = {key for key, values in by_label[treatment.label].items() if len(values) > 1}
        if not differing:
            spelled.append((treatment.label, ""))
            continue
        added: list[str] = []
        links: list[tuple[str, str]] = []
        for k, (text, branch) in enumerate(treatment.links):
            parts = [f"{_SHORT_NAMES[n]}={v}" for n, v in treatment.variant[k] if (k, n) in differing]
            links.append(("_".join([text, *parts]), branch))
            added += parts
        spelled.append((join_links(links), ", ".join(added)))
    return spelled


def _values(treatment: Treatment) -> Iterable[tuple[tuple[int, str], str]]:
    return (((k, name), value) for k, link in enumerate(treatment.variant) for name, value in link)
