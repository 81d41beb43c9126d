"""Whether two conditions rank the values of a factor alike, such as recipes at two sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from dde.analysis.answers import as_answer
from dde.analysis.arrangement import arrange_by, remaining_replicates
from dde.analysis.conditions import (
    aligned_members,
    check_condition,
    condition_text,
    count_without,
    mean_of,
    pick,
    require_same_tokens,
)
from dde.analysis.footing import Place, count_left_out, resolve_place, values_at
from dde.analysis.intervals import (
    Interval,
    interval_attrs,
    interval_of,
    interval_of_mean,
    percentiles,
    resampled_means,
)
from dde.analysis.options import check_draws
from dde.analysis.pairs import Ties, agreement, check_ties, kendall_tau, levels, spearman_rho
from dde.array_types import Float64

__all__ = ["ranks"]

_STATISTICS = {
    "kendall": "Kendall's tau-b",
    "spearman": "Spearman's rank correlation",
    "agreement": "share of pairs ordered alike",
}


def ranks(
    dataset: xr.Dataset,
    metric: str | Sequence[str] | None = None,
    over: str = "data",
    *,
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    at: Place | None = None,
    replicates: str | Sequence[str] | None = None,
    seeds: Literal["mean", "each"] = "mean",
    ties: Ties = "sign",
    interval: Interval | None = None,
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Return how alike two conditions rank the values of a factor.

    Parameters
    ----------
    dataset : xarray.Dataset
        A Dataset of runs: opened, a selection, sweep or alignment of it, or saved and opened again.
    metric : str or several, optional
        Names or aliases; may be omitted where there is only one variable.
    over : str, default "data"
        The ranked factor, such as the recipe.
    a, b : mapping of str to value
        The conditions: coordinates with the value that each has, as in ``a={"params": "150M"}, b={"params": "1B"}`` or
        ``a={"run": "pretraining"}, b={"run": "sft_lr=5e-06_100Mx1"}``. The key ``at`` is the place of one condition:
        ``a={"at": 2e9}, b={"at": "schedule"}`` compares two checkpoints.
    at : "schedule", "last", "common", number or mapping, optional
        Place at which runs are compared where a condition does not state it: their planned end where a schedule is
        known, else their last observation; a number of cumulative tokens; or a position on another axis, such as
        ``{"fraction_of_training": 0.5}``.
    replicates : str or several, optional
        Factors whose values are repetitions; ``seed`` and ``replicate`` by default.
    seeds : {"mean", "each"}, default "mean"
        ``mean``: rank the means over the repetitions of each condition. ``each``: rank each repetition of `a` by
        itself against the mean of `b`; the answer is the mean over repetitions.
    ties : {"sign", "half", "exclude"}, default "sign"
        How tied pairs count in the share of pairs, see :func:`dde.analysis.pairs.agreement`.
    interval : {"t", "bootstrap", "none"}, optional
        ``t``, for ``seeds="each"`` and its default: Student's t over repetitions. ``bootstrap``, for ``seeds="mean"``
        and its default: percentiles of the answers of `samples` draws of the repetitions of each cell, with
        replacement.
    level : float, default 0.95
        Confidence level.
    samples : int, default 1000
        Draws of the bootstrap.
    seed : int, default 0
        Seed of the draws: equal arguments give equal intervals.

    Returns
    -------
    xarray.Dataset
        Along all dimensions other than `over` and the repetitions: ``kendall``, ``spearman`` and ``agreement`` (the
        share of pairs ordered alike), each with ``_low`` and ``_high``; ``n``, the number of ranked items, and
        ``n_pairs``. Along `over`, too: ``value_a``, ``value_b`` (means over repetitions, in the unit of the metric),
        ``rank_a``, ``rank_b`` (1 for the lowest value, ties share their mean rank; only items with both values) and
        ``n_replicates_a``, ``n_replicates_b``. ``left_out`` counts the runs without a value, by reason.

    Raises
    ------
    UnknownNameError
        When there is no such metric, factor, coordinate or option.
    SelectionError
        When a condition matches nothing, or runs end at different tokens and no place was chosen.
    SourceError
        When a coordinate is missing.

    Notes
    -----
    Both intervals describe the scatter of repetitions for the given items, not that of other items. The bootstrap of
    two or three repetitions is narrow, and each statistic is pulled towards zero by scatter, so it is not a 95 %
    interval of the correlation without scatter; read it as the range over which repetitions move the answer.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("small", metrics=["arc_easy"]).dde.base_curves()
    >>> answer = ds.dde.ranks("arc_easy", over="data", a={"params": "20M"}, b={"params": "150M"})
    >>> int(answer.n), answer.sizes["data"]
    (3, 4)
    """
    check_ties(ties)
    how = interval_of(seeds, interval, level)
    check_draws(samples, seed)
    check_condition("a", a)
    check_condition("b", b)
    sides: list[tuple[xr.Dataset, tuple[str, ...]]] = []
    texts: list[str] = []
    left_out: list[str] = []
    for name, condition in (("a", dict(a)), ("b", dict(b))):
        place = condition.pop("at", at)
        of_runs = values_at(dataset, metric, place)
        values = arrange_by(of_runs, over, *condition)
        chosen = pick(values, condition, over)
        dims = [over, *remaining_replicates(chosen, values, over, replicates)]
        if resolve_place(dataset, place) == "last":
            require_same_tokens(chosen, dims, is_given=place is not None)
        sides.append((chosen, tuple(dims[1:])))
        texts.append(condition_text({**condition, "at": chosen.attrs["at"]}))
        if reasons := [r for r in (count_left_out(chosen["status"]), count_without(of_runs, condition, over)) if r]:
            left_out.append(f"{name}: {'; '.join(reasons)}")
    answer = _compared(sides, over, seeds, ties, how, level, samples, seed)
    attrs = {
        "over": over, "a": texts[0], "b": texts[1], "at": _common(texts), "seeds": seeds, "ties": ties,
        "left_out": "; ".join(left_out), **interval_attrs(how, level, " and ".join(sides[0][1]) or "repetitions"),
    }  # fmt: skip
    return as_answer(answer, "ranks", metric, attrs)


def _common(texts: Sequence[str]) -> str:
    places = list(dict.fromkeys(text.rpartition("at=")[2] for text in texts))
    return " and ".join(places)


def _compared(
    sides: Sequence[tuple[xr.Dataset, tuple[str, ...]]],
    over: str,
    seeds: Literal["mean", "each"],
    ties: Ties,
    interval: Interval,
    level: float,
    samples: int,
    seed: int,
) -> xr.Dataset:
    """Return the statistics of two sides, each values with its dimensions of repetitions."""
    x, y, dims, coords = aligned_members(sides, over)
    means = [mean_of(m) for m in (x, y)]
    variables: dict[str, tuple[Any, Any, dict[str, str]]] = {}
    if seeds == "mean":
        center = _statistics(means[0], means[1], ties)
        bounds = [np.full_like(center, np.nan)] * 2
        several = ((~np.isnan(x)).sum(axis=-1) > 1) | ((~np.isnan(y)).sum(axis=-1) > 1)
        if interval == "bootstrap" and several.any():
            draws = np.stack(
                [
                    _statistics(p, q, ties)
                    for p, q in zip(
                        resampled_means(x, samples, seed), resampled_means(y, samples, seed + 1), strict=True
                    )
                ]
            )
            # A draw can break ties, and so have a statistic where the means have none.
            known = several.any(axis=-1) & ~np.isnan(center)
            bounds = [np.where(known, b, np.nan) for b in percentiles(draws, level)]
    else:
        # A repetition that misses an item ranks other items than the rest.
        both = ~np.isnan(means[0]) & ~np.isnan(means[1])
        complete = (~np.isnan(x) | ~both[..., None]).all(axis=-2, keepdims=True)
        each = np.moveaxis(np.where(complete & both[..., None], x, np.nan), -1, 0)
        statistics = np.moveaxis(_statistics(each, means[1][None], ties), 1, -1)
        center, n_seeds, *bounds = interval_of_mean(statistics, interval, level)
        # No statistic is beyond its range, which only makes an interval narrower.
        lowest = np.array([-1.0, -1.0, 0.0]).reshape(-1, *[1] * (center.ndim - 1))
        bounds = [np.clip(b, lowest, 1.0) for b in bounds]
        variables["n_repetitions"] = (dims[:-1], n_seeds[0], {"long_name": "number of repetitions"})
    for k, (name, label) in enumerate(_STATISTICS.items()):
        variables[name] = (dims[:-1], center[k], {"long_name": label, "units": "1"})
        for side, bound in zip(("low", "high"), bounds, strict=True):
            variables[f"{name}_{side}"] = (dims[:-1], bound[k], {"long_name": f"{label}, {side} end", "units": "1"})
    both = ~np.isnan(means[0]) & ~np.isnan(means[1])
    variables["n"] = (dims[:-1], both.sum(axis=-1), {"long_name": f"number of values of {over}"})
    variables["n_pairs"] = (dims[:-1], agreement(means[0], means[1], ties)[1], {"long_name": "number of pairs"})
    for name, members, mean in (("a", x, means[0]), ("b", y, means[1])):
        variables[f"value_{name}"] = (dims, mean, {"long_name": f"value in condition {name}"})
        variables[f"rank_{name}"] = (dims, _ranked(mean, both), {"long_name": f"rank in condition {name}"})
        count = (~np.isnan(members)).sum(axis=-1)
        variables[f"n_replicates_{name}"] = (dims, count, {"long_name": f"repetitions in condition {name}"})
    return xr.Dataset(variables, coords)


def _statistics(x: Float64, y: Float64, ties: Ties) -> Float64:
    """Return all statistics over the last dimension, (statistic, ...)."""
    return np.stack([kendall_tau(x, y), spearman_rho(x, y), agreement(x, y, ties)[0]])


def _ranked(values: Float64, both: Any) -> Float64:
    """Return ranks from 1 for the lowest value over the last dimension; NaN where an item does not count."""
    from scipy.stats import rankdata

    return np.where(both, rankdata(np.where(both, levels(values), np.inf), axis=-1), np.nan)
