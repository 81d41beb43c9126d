"""Hyperparameters that act, and are in no label of their own: runs that differ in one of them are no replicates.

A treatment's label gives its method, learning rate, budget and so on. Where runs of one label differ in the reduction
of the loss, the batch, weight decay or the like, they are different treatments: each is a variant of the label, which a
selection that holds several of them spells out, as in ``sft_lr=2e-05_10Mx1_reduce=mean``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from dde.sources.values import as_float
from dde.suite.datadecide.runs.evidence import Evidence
from dde.suite.datadecide.runs.treatments import Treatment, join_links

__all__ = ["acting_values", "spelled_labels", "with_variants"]

#: Hyperparameters that act, by the names of the coordinates, and how labels call them.
_SHORT = {
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
    for name in _SHORT:
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
        `variant` holds, for each link of the chain, the values in which runs of that link's label differ. One that
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
        own = tuple((name, acting[run_id].get(name, _UNKNOWN)) for name in _SHORT if name in differing)
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
    held: dict[str, dict[tuple[int, str], set[str]]] = {}
    for treatment in treatments:
        values = held.setdefault(treatment.label, {})
        for key, value in _values(treatment):
            values.setdefault(key, set()).add(value)
    spelled: list[tuple[str, str]] = []
    for treatment in treatments:
        differing = {key for key, values in held[treatment.label].items() if len(values) > 1}
        if not differing:
            spelled.append((treatment.label, ""))
            continue
        added: list[str] = []
        links: list[tuple[str, str]] = []
        for k, (text, branch) in enumerate(treatment.links):
            parts = [f"{_SHORT[n]}={v}" for n, v in treatment.variant[k] if (k, n) in differing]
            links.append(("_".join([text, *parts]), branch))
            added += parts
        spelled.append((join_links(links), ", ".join(added)))
    return spelled


def _values(treatment: Treatment) -> Iterable[tuple[tuple[int, str], str]]:
    return (((k, name), value) for k, link in enumerate(treatment.variant) for name, value in link)
