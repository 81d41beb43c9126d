"""The metrics of a picture of several panels: names and patterns, and the order of the OLMES tasks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import xarray as xr

from dde.dataset.provenance import metric_named
from dde.errors import SelectionError, UnknownNameError, near_names
from dde.schema import MEMBERS

__all__ = ["OLMES_ORDER", "in_olmes_order", "metrics_to_draw"]

#: The ten tasks of OLMES in the order of its published tables, each with its names in evaluation suites.
OLMES_ORDER: tuple[tuple[str, ...], ...] = (
    ("arc_challenge", "arc_c"),
    ("arc_easy", "arc_e"),
    ("boolq",),
    ("csqa", "commonsense_qa", "commonsenseqa"),
    ("hellaswag",),
    ("mmlu",),
    ("openbookqa", "openbook_qa", "obqa"),
    ("piqa",),
    ("socialiqa", "social_iqa", "siqa"),
    ("winogrande",),
)
_RANKS = {name: rank for rank, names in enumerate(OLMES_ORDER) for name in names}
_NAMES = "|".join(sorted(_RANKS, key=len, reverse=True))
# A task at the beginning of a name: "arc_easy_acc_per_char", "mmlu_anatomy", "social_iqa:rc::olmes".
_TASK = re.compile(rf"({_NAMES})(?![a-z0-9])")
_MMLU_AVERAGE = re.compile(r"mmlu(_(average|avg|mean|macro|micro|acc)(?![a-z]).*)?")
_PATTERN = re.compile(r"[*?\[]")
# Variables of a Dataset of means that describe another one.
_OF_MEANS = re.compile(r"(.+)_(count|std|sem|low|high|observed)")


def in_olmes_order(dataset: xr.Dataset, names: Iterable[str]) -> list[str]:
    """Return metrics in the order of the OLMES tasks; those of other tasks after them, in their own order.

    The task of a metric is its attribute ``task``, or else follows from its name. MMLU's subjects follow its average.

    Parameters
    ----------
    dataset : xarray.Dataset
    names : iterable of str
        Names of variables.

    Examples
    --------
    >>> ds = xr.Dataset({n: 0 for n in ("train_loss", "piqa", "mmlu_anatomy", "mmlu_average", "arc_easy_acc_raw")})
    >>> in_olmes_order(ds, ds.data_vars)
    ['arc_easy_acc_raw', 'mmlu_average', 'mmlu_anatomy', 'piqa', 'train_loss']
    """
    return sorted(map(str, names), key=lambda name: _rank(name, str(dataset[name].attrs.get("task", ""))))


def _rank(name: str, task: str) -> tuple[int, bool]:
    for text in (task, name):
        if match := _TASK.match(re.sub(r"[\s-]+", "_", text.lower())):
            return _RANKS[match[1]], match[1] == "mmlu" and not _MMLU_AVERAGE.fullmatch(text.lower())
    return len(OLMES_ORDER), False


def _is_task(name: str) -> bool:
    """Return whether a metric is the main one of a task of OLMES: its name is that of the task."""
    return name.lower().removesuffix("_average") in _RANKS


def metrics_to_draw(dataset: xr.Dataset, metric: str | Sequence[str] | None) -> list[str]:
    """Return the variables that a picture shows, in the order of its panels.

    Parameters
    ----------
    dataset : xarray.Dataset
    metric : str, several or None
        Names, aliases, patterns such as ``"*"`` and ``"arc_*"``, or ``"olmes"`` for the tasks of OLMES. What a pattern
        matches is in the order of these tasks; names stay where they are listed. The first variable when None.

    Raises
    ------
    UnknownNameError
        When there is no such variable, or a pattern matches none.
    SelectionError
        When the Dataset has no variable, or no name is given.

    Examples
    --------
    >>> ds = xr.Dataset({n: 0 for n in ("train_loss", "piqa", "arc_easy", "arc_challenge")})
    >>> metrics_to_draw(ds, ["train_loss", "*"])
    ['train_loss', 'arc_challenge', 'arc_easy', 'piqa']
    >>> metrics_to_draw(ds, "olmes")
    ['arc_challenge', 'arc_easy', 'piqa']
    """
    known = [str(name) for name in dataset.data_vars]
    if metric is None:
        metric = known[:1]
    found: list[str] = []
    for name in [metric] if isinstance(metric, str) else list(metric):
        if isinstance(name, str) and name not in known and name == "olmes":
            matching = [n for n in known if _is_task(n)]
        elif isinstance(name, str) and name not in known and _PATTERN.search(name):
            matching = [n for n in known if fnmatchcase(n, name) and not _describes_another(dataset, n)]
        else:
            found.append(metric_named(dataset, name))
            continue
        if not matching:
            raise UnknownNameError(
                f"no variable of this Dataset matches {name!r}, so there is nothing to draw."
                f"{near_names(re.sub(_PATTERN, '', name), known)} There are {', '.join(known) or 'none'}."
            )
        found += in_olmes_order(dataset, matching)
    if not found:
        raise SelectionError("the Dataset holds no metric, so there is nothing to draw. Open it with metrics=[...].")
    return list(dict.fromkeys(found))


def _describes_another(dataset: xr.Dataset, name: str) -> bool:
    """Return whether a variable is the standard error of another one, or the spread or count of a mean."""
    of_mean = _OF_MEANS.fullmatch(name) if MEMBERS in dataset.coords else None
    return bool(dataset[name].attrs.get("stderr_of")) or (of_mean is not None and of_mean[1] in dataset.data_vars)
