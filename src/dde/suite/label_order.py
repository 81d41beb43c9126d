"""Order of labels: texts in natural order, and the numbers of runs that have one label."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dde.array_types import Int64, Texts
from dde.errors import UnknownNameError, list_names

__all__ = ["NO_FACTORS", "natural_key", "number_replicates"]

#: Fields with the names of coordinates; templates may use them, but they are not factors.
NO_FACTORS = frozenset({"run_id", "run", "run_type", "lineage", "cumulative_tokens", "state"})

# A letter after a number is a scale only if no other letter follows: 10B, but not 10ep or 9step.
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)(?:([kKmMbBtT])(?![A-Za-z]))?")
_SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


def number_replicates(
    run_ids: Sequence[str],
    lineage: Sequence[str],
    labels: Sequence[str],
    replicate: str | None,
    fields: Mapping[str, Texts],
    created: Mapping[int, np.datetime64],
) -> Int64:
    """Return the rank of each run among those of the same lineage and label, from 1.

    Parameters
    ----------
    run_ids, lineage, labels : sequences of str
        By run.
    replicate : str or None
        Factor that orders the runs of one label.
    fields : mapping of str to (run,) object array
    created : mapping of int to numpy.datetime64
        Times of creation by run. Runs of one label that all have one are numbered by it, as in DataDecide.

    Raises
    ------
    UnknownNameError
        When runs of one lineage and label have no order.

    Examples
    --------
    >>> seed = np.array(["10", "9", "9"], object)
    >>> number_replicates(["a", "b", "c"], ["L", "L", "M"], ["base"] * 3, "seed", {"seed": seed}, {}).tolist()
    [2, 1, 1]
    """
    numbers = np.ones(len(labels), np.int64)
    groups: dict[tuple[str, str], list[int]] = {}
    for run, key in enumerate(zip(lineage, labels, strict=True)):
        groups.setdefault(key, []).append(run)
    orders = None if replicate is None else fields.get(replicate)
    for (where, label), runs in groups.items():
        if len(runs) == 1:
            continue
        keys: list[Any] = [] if orders is None else [natural_key(orders[run]) for run in runs]
        if all(run in created for run in runs):
            keys = [(np.isnat(created[run]), str(created[run]), run_ids[run]) for run in runs]
        if len(set(keys)) < len(runs):
            counts = Counter(keys)
            tied = [run for run, key in zip(runs, keys, strict=True) if counts[key] > 1] if keys else runs
            name = replicate if keys else None
            raise UnknownNameError(_explain_ties(run_ids, where, label, tied, name, fields))
        for k, (_, run) in enumerate(sorted(zip(keys, runs, strict=True)), 1):
            numbers[run] = k
    return numbers


def _explain_ties(
    run_ids: Sequence[str],
    lineage: str,
    label: str,
    tied: list[int],
    replicate: str | None,
    fields: Mapping[str, Texts],
) -> str:
    """Return the error of runs that have one label, and the same value of `replicate` as another one if it is given."""
    ids = [run_ids[run] for run in tied]
    values = {
        name: column[tied].tolist() for name, column in fields.items() if name not in NO_FACTORS and name != replicate
    }
    # The factor that sets most of them apart, but not the ids: with these, no two runs would be replicates.
    apart = {name: len(set(of_runs)) for name, of_runs in values.items() if of_runs != ids}
    best = max(apart, key=apart.__getitem__, default="")
    remedy = f"Add {{{best}}} to the template of run or lineage" if apart.get(best, 0) > 1 else "Add a factor to them"
    if replicate is None:
        order, other = "", "declare replicate= with the factor that numbers replicates"
    else:
        shared = list_names(dict.fromkeys(str(fields[replicate][run]) for run in tied))
        order = f" and not each its own {replicate}, which numbers replicates ({shared})"
        other = f"give each its own {replicate}"
    return (
        f"{len(tied)} runs of the lineage {lineage!r} have the label {label!r}{order}: "
        f"{list_names(map(repr, ids))}. So their labels are ambiguous. {remedy}, or {other}."
    )


def natural_key(value: Any) -> tuple[tuple[int, float, str], ...]:
    """Return a natural sort key, which compares numbers within texts by value: 190M before 1B, step 9 before step 10.

    Examples
    --------
    >>> sorted(["1B", "190M", "3B"], key=natural_key)
    ['190M', '1B', '3B']
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return ((1, float(value) if value == value else np.inf, ""),)
    parts: list[tuple[int, float, str]] = []
    end = 0
    text = str(value)
    for match in _NUMBER.finditer(text):
        if match.start() > end:
            parts.append((2, 0.0, text[end : match.start()]))
        parts.append((1, float(match[1]) * _SCALES[(match[2] or "").casefold()], match[2] or ""))
        end = match.end()
    if end < len(text):
        parts.append((2, 0.0, text[end:]))
    return tuple(parts)
