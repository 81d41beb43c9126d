"""Decision accuracy: how often a small scale orders pairs of recipes as the target scale does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.analysis.answers import as_answer, direction_of
from dde.analysis.arrangement import arrange_by, remaining_replicates
from dde.analysis.checkpoints import at_common_checkpoints, checkpoints_at
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
from dde.analysis.observations import metric_names
from dde.analysis.options import check_draws
from dde.analysis.pairs import Ties, agreement, check_ties
from dde.array_types import Float64
from dde.errors import SelectionError, UnknownNameError
from dde.lineage.filters import matches

__all__ = ["decision_accuracy"]


def decision_accuracy(
    dataset: xr.Dataset,
    metric: str | Sequence[str] | None = None,
    over: str = "data",
    *,
    target: Mapping[str, Any],
    small: Mapping[str, Any] | None = None,
    checkpoints: Literal["last", "all"] = "last",
    proxy: str | Sequence[str] | None = None,
    at: Place | None = None,
    replicates: str | Sequence[str] | None = None,
    seeds: Literal["mean", "each"] = "mean",
    ties: Ties = "sign",
    interval: Interval | None = None,
    level: float = 0.95,
    samples: int = 200,
    seed: int = 0,
) -> xr.Dataset:
    """Return the share of pairs of recipes that small scales order as the target scale does.

    Parameters
    ----------
    dataset : xarray.Dataset
        A Dataset of runs: opened, a selection, sweep or alignment of it, or saved and opened again.
    metric : str or several, optional
        Metrics of the target; may be omitted where there is only one variable.
    over : str, default "data"
        The factor that is decided: the recipe, or any other factor.
    target : mapping of str to value
        Coordinates that select the target scale, such as ``{"params": "1B"}``. The first one is the scale; others, such
        as a run label, select at the small scales, too.
    small : mapping, optional
        Coordinates that select the small scales, such as ``{"params": ["150M", "300M"]}``. By default, all
        values of the scale with fewer parameters than the target, or all other values where parameter counts are
        unknown; and all values where `checkpoints` is "all".
    checkpoints : {"last", "all"}, default "last"
        ``last``: the small scales at the place `at`. ``all``: at each of their observed checkpoints, in a dimension
        ``checkpoint``. The target is always at the place `at`.
    proxy : str or several, optional
        Metrics by which the small scales order recipes, one for each metric of the target, or one for all; the metric
        itself by default. Where lower values of one and higher values of the other are better, orders are reversed.
    at : "schedule", "last", "common", number or mapping, optional
        Place at which runs are compared: their planned end where a schedule is known, else their last observation; a
        number of cumulative tokens; or a position on another axis, such as ``{"fraction_of_training": 0.5}``.
    replicates : str or several, optional
        Factors whose values are repetitions; ``seed`` and ``replicate`` by default. The target is always their mean.
    seeds : {"mean", "each"}, default "mean"
        ``mean``: order the means over the repetitions of a small scale. ``each``: order each repetition by itself, as
        somebody does who trains each small model once; the answer is the mean over repetitions.
    ties : {"sign", "half", "exclude"}, default "sign"
        How tied pairs count, see :func:`dde.analysis.pairs.agreement`.
    interval : {"t", "bootstrap", "none"}, optional
        ``t``, for ``seeds="each"`` and its default: Student's t over repetitions, not beyond 0 and 1. ``bootstrap``,
        for ``seeds="mean"``, and its default where `checkpoints` is "last": percentiles over `samples` draws of the
        repetitions of small scales and target, with replacement.
    level : float, default 0.95
        Confidence level.
    samples : int, default 200
        Draws of the bootstrap.
    seed : int, default 0
        Seed of the draws: equal arguments give equal intervals.

    Returns
    -------
    xarray.Dataset
        Along the dimensions of the scales (and ``checkpoint``): ``accuracy``, the share of pairs, with
        ``accuracy_low`` and ``accuracy_high``; ``naive``, the share that the metric itself gives at the place `at` of
        the same scale, on the same recipes; ``n_pairs``, ``n``, the number of recipes; ``tokens``, the mean position
        of the small runs; and ``compute_fraction``, their compute (6 N tokens) divided by that of the target runs,
        where parameter counts are known. Along `over`, too: ``value_small``, ``value_target``, ``n_replicates_small``
        and ``n_replicates_target``. ``left_out`` counts the runs without a value, by reason: at small scales those
        without a value of the proxy at the place, or without any checkpoint where `checkpoints` is "all".

    Raises
    ------
    UnknownNameError
        When there is no such metric, factor, coordinate or option.
    SelectionError
        When a condition matches nothing, fewer than two recipes have values at both scales, or samples are not points
        of the Dataset.
    SourceError
        When a coordinate is missing.

    Notes
    -----
    For a pair of recipes the small scale is right where the sign of the difference of its two values is the sign at
    the target [1]_. A checkpoint counts where all recipes have a value that have one at any checkpoint of the scale,
    so a curve does not step because its recipes change; in a mean of seeds, all seeds of a recipe must have one.

    The bootstrap describes the scatter of seeds for the given recipes, not of other recipes. With two or three seeds
    it is narrow, and it is lower than the accuracy itself where scatter decides pairs; it is not a 95 % interval of the
    accuracy of means over many seeds.

    References
    ----------
    .. [1] Magnusson et al. (2025), DataDecide: How to Predict Best Pretraining Data with Small Experiments.
       arXiv:2504.11393

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("small", metrics=["arc_easy"]).dde.base_curves()
    >>> answer = ds.dde.decision_accuracy("arc_easy", target={"params": "150M"}, small={"params": ["4M", "20M"]})
    >>> answer.accuracy.dims, answer.n.values.tolist()
    (('params',), [3, 3])
    """
    how = _checked(seeds, ties, checkpoints, interval, level)
    check_draws(samples, seed)
    _check_conditions(target, small)
    names = metric_names(dataset, metric)
    proxies = _proxies(dataset, names, proxy)
    distinct = list(dict.fromkeys(proxies))
    signs = np.array([_sign(dataset, *pair) for pair in zip(names, proxies, strict=True)])
    place = resolve_place(dataset, at)
    keys = [*target, *(small or {})]
    of_runs = values_at(dataset, names, place)
    at_place = arrange_by(of_runs, over, *keys)
    gold = pick(at_place, target, over)
    _require_one_scale(gold, target)
    is_all = checkpoints == "all"
    of_small = _small_condition(at_place, target, small, is_all)
    last = pick(at_place, of_small, over)
    own = last
    if is_all:
        own = pick(arrange_by(checkpoints_at(dataset, distinct), over, *keys), of_small, over)
    elif proxies != names:
        own = pick(arrange_by(values_at(dataset, distinct, place), over, *keys), of_small, over)
    repeated = {id(v): remaining_replicates(v, at_place, over, replicates) for v in (gold, last, own)}
    if place == "last":
        for values in (gold, last) if own is last or is_all else (gold, last, own):
            require_same_tokens(values, [over, *repeated[id(values)]], is_given=at is not None)
    left_out = []
    for name, values, condition in (("target", gold, target), ("small", own, of_small)):
        if reasons := [r for r in (count_left_out(values["status"]), count_without(of_runs, condition, over)) if r]:
            left_out.append(f"{name}: {'; '.join(reasons)}")
    of_own = repeated[id(own)]
    if is_all:
        own = at_common_checkpoints(own, [over, *of_own])
    if own is not last:
        own = own.sel(metric=proxies).assign_coords(metric=xr.Variable(("metric",), np.array(names, object)))
    answer = _decided(
        (own, of_own), (last, repeated[id(last)]), (gold, repeated[id(gold)]), over, signs,
        _Counting(seeds, ties, how, level, samples, seed),
    )  # fmt: skip
    if not is_all:
        answer = answer.squeeze("checkpoint")
    attrs = {
        "over": over, "target": condition_text({**target, "at": at_place.attrs["at"]}),
        "small": condition_text({**(small or {}), "at": "checkpoints" if is_all else at_place.attrs["at"]}),
        "at": at_place.attrs["at"], "seeds": seeds, "ties": ties,
        "left_out": "; ".join(left_out),
        **interval_attrs(how, level, " and ".join(of_own) or "repetitions"),
    }  # fmt: skip
    if proxies != names:
        attrs["proxy"] = ", ".join(distinct)
    return as_answer(answer, "decision_accuracy", metric, attrs)


def _checked(seeds: str, ties: str, checkpoints: str, interval: Interval | None, level: float) -> Interval:
    """Return the method of the interval, after checking the options.

    Raises
    ------
    UnknownNameError
    """
    if checkpoints not in ("last", "all"):
        raise UnknownNameError(
            f"checkpoints={checkpoints!r} does not name checkpoints of the small scales. Pass 'last' or 'all'."
        )
    check_ties(ties)
    how = interval_of(seeds, interval, level)
    if how == "bootstrap" and checkpoints == "all" and interval is None:
        return "none"
    return how


def _check_conditions(target: object, small: object) -> None:
    """Check that target and small scales are conditions, and that the target names its scale.

    Raises
    ------
    UnknownNameError
    """
    check_condition("target", target)
    if small is not None:
        check_condition("small", small)
    if not target:
        raise UnknownNameError(
            "target={} names no coordinate, so the target scale is unknown. Pass one, such as target={'size': 'large'}."
        )


def _require_one_scale(gold: xr.Dataset, target: Mapping[str, Any]) -> None:
    """Raise where a target has several scales, each of which would be compared with itself.

    Raises
    ------
    SelectionError
    """
    scale = next(iter(target))
    found = list(dict.fromkeys(np.atleast_1d(gold.coords[scale].values).tolist()))
    if len(found) > 1:
        raise SelectionError(
            f"target={dict(target)!r} matches {len(found)} values of {scale}: {', '.join(map(str, found))}. There is "
            "one target scale; pass one of these, and the smaller ones by small=."
        )


def _proxies(dataset: xr.Dataset, names: list[str], proxy: str | Sequence[str] | None) -> list[str]:
    """Return the metric by which small scales are ordered, for each metric of the target.

    Raises
    ------
    UnknownNameError
    """
    if proxy is None:
        return names
    is_one = isinstance(proxy, str) or not isinstance(proxy, Iterable)
    given = [metric_names(dataset, p)[0] for p in ([proxy] if is_one else proxy)]
    if len(given) not in (1, len(names)):
        raise UnknownNameError(
            f"{len(given)} proxies are given for {len(names)} metrics, so which belongs to which is unknown. Pass one, "
            "or one for each metric."
        )
    return given * len(names) if len(given) == 1 else given


def _sign(dataset: xr.Dataset, metric: str, proxy: str) -> float:
    """Return -1 where lower values of one and higher values of the other are better, else 1."""
    if metric == proxy:
        return 1.0
    return 1.0 if direction_of(dataset, metric, None) == direction_of(dataset, proxy, None) else -1.0


def _small_condition(
    values: xr.Dataset, target: Mapping[str, Any], small: Mapping[str, Any] | None, with_target: bool
) -> Mapping[str, Any]:
    """Return the condition of the small scales.

    Raises
    ------
    SelectionError
        When there are none.
    """
    if small is not None:
        return small
    scale, *others = target
    if not with_target and values.coords[scale].ndim == 0:
        raise SelectionError(
            f"all runs have {scale}={values.coords[scale].item()!r}, so there is no small scale. Open or select "
            f"runs with other values of {scale}."
        )
    smaller = {} if with_target else {scale: _smaller_than(values, scale, target[scale])}
    return smaller | {name: target[name] for name in others}


def _smaller_than(values: xr.Dataset, scale: str, target: object) -> Callable[[object], bool] | list[object]:
    """Return the values of a scale with fewer parameters than the target, or other than it where these are unknown."""
    sizes = values.coords.get("n_params")
    if sizes is None or not sizes.ndim or sizes.dims != values.coords[scale].dims:
        return lambda value: not matches(value, target)
    labels = list(values.coords[scale].values)
    largest = max((float(n) for n, v in zip(sizes.values, labels, strict=True) if matches(v, target)), default=np.nan)
    smaller = [v for n, v in zip(sizes.values, labels, strict=True) if not float(n) >= largest]
    if not smaller:
        raise SelectionError(
            f"no {scale} has fewer parameters than {target!r}, the target, so there is no small scale. Pass a larger "
            f"target, or the small scales by small=. There are {', '.join(map(str, labels))}."
        )
    return smaller


def _decided(
    own: tuple[xr.Dataset, tuple[str, ...]],
    last: tuple[xr.Dataset, tuple[str, ...]],
    gold: tuple[xr.Dataset, tuple[str, ...]],
    over: str,
    signs: Float64,
    count: _Counting,
) -> xr.Dataset:
    """Return the accuracy of each scale and checkpoint, and what it follows from."""
    x, y, dims, coords = _with_checkpoints_before_items(*aligned_members((own, gold), over))
    x = x * signs.reshape(-1, *[1] * (x.ndim - 1))
    # The target has no checkpoints.
    y = y[..., :1, :, :]
    target = mean_of(y)
    # Items of a scale: those with a value at any of its checkpoints and at the target.
    items = np.asarray((~np.isnan(x)).any(axis=(-1, -3)))[..., None, :] & ~np.isnan(target)
    if count.seeds == "mean":
        # A mean over fewer repetitions than an item has would step along the curve.
        is_repeated = (~np.isnan(x)).any(axis=-3, keepdims=True)
        x = np.where((np.isnan(x) & is_repeated).any(axis=-1, keepdims=True), np.nan, x)
    shares = count.shares(x, y, items)
    z, w, *_ = _with_checkpoints_before_items(*aligned_members((last, gold), over))
    naive = replace(count, interval="none").shares(z, w, items & ~np.isnan(mean_of(z))).accuracy
    label = "share of pairs ordered as at the target"
    cells, rest = dims[:-1], dims[:-2]
    own_values = mean_of(x) * signs.reshape(-1, *[1] * (x.ndim - 2))
    variables: dict[str, tuple[Any, Any, dict[str, str]]] = {
        "accuracy": (cells, shares.accuracy, {"long_name": label, "units": "1"}),
        "accuracy_low": (cells, shares.low, {"long_name": f"{label}, low end", "units": "1"}),
        "accuracy_high": (cells, shares.high, {"long_name": f"{label}, high end", "units": "1"}),
        "naive": (rest, naive[..., 0], {"long_name": "share of pairs that the metric itself orders", "units": "1"}),
        "n_pairs": (cells, shares.pairs, {"long_name": "number of pairs"}),
        "n": (cells, shares.entered.sum(axis=-1), {"long_name": f"number of values of {over}"}),
        "value_small": (dims, own_values, {"long_name": "value at the small scale"}),
        "value_target": ((*rest, over), target[..., 0, :], {"long_name": "value at the target"}),
        "n_replicates_small": (dims, (~np.isnan(x)).sum(axis=-1), {"long_name": "repetitions at the small scale"}),
        "n_replicates_target": (
            (*rest, over), (~np.isnan(y)).sum(axis=-1)[..., 0, :], {"long_name": "repetitions at the target"}
        ),
    }  # fmt: skip
    return _with_compute(xr.Dataset(variables, coords), own[0], gold[0])


def _with_checkpoints_before_items(
    x: Float64, y: Float64, dims: tuple[str, ...], coords: dict[str, xr.Variable]
) -> tuple[Float64, Float64, tuple[str, ...], dict[str, xr.Variable]]:
    """Return members (..., checkpoint, item, repetition); a single checkpoint where there is no such dimension."""
    if "checkpoint" not in dims:
        return x[..., None, :, :], y[..., None, :, :], (*dims[:-1], "checkpoint", dims[-1]), coords
    at = dims.index("checkpoint")
    rest = tuple(d for d in dims[:-1] if d != "checkpoint")
    return np.moveaxis(x, at, -3), np.moveaxis(y, at, -3), (*rest, "checkpoint", dims[-1]), coords


@dataclass(frozen=True)
class _Shares:
    """Shares of pairs along (..., checkpoint), and the items that count along (..., checkpoint, item)."""

    accuracy: Float64
    low: Float64
    high: Float64
    pairs: npt.NDArray[np.int64]
    entered: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Counting:
    """How pairs are counted: repetitions, ties and interval."""

    seeds: Literal["mean", "each"]
    ties: Ties
    interval: Interval
    level: float
    samples: int
    seed: int

    def shares(self, x: Float64, y: Float64, items: npt.NDArray[np.bool_]) -> _Shares:
        """Return the shares of pairs of small values `x` and target values `y`, (..., checkpoint, item, repetition).

        A checkpoint where one of the `items` has no value has no share.
        """
        target = np.where(items, mean_of(y), np.nan)
        none = np.full(np.broadcast_shapes(x.shape[:-2], target.shape[:-1]), np.nan)
        if self.seeds == "mean":
            mean = self._complete(mean_of(x), items)
            accuracy, pairs = agreement(mean, target, self.ties)
            low = high = none
            several = (((~np.isnan(x)).sum(axis=-1) > 1) | ((~np.isnan(y)).sum(axis=-1) > 1)).any(axis=-1)
            if self.interval == "bootstrap" and several.any():
                draws = zip(
                    resampled_means(x, self.samples, self.seed),
                    resampled_means(y, self.samples, self.seed + 1),
                    strict=True,
                )
                drawn = [
                    agreement(self._complete(a, items), np.where(items, b, np.nan), self.ties)[0] for a, b in draws
                ]
                known = several & ~np.isnan(accuracy)
                low, high = (np.where(known, bound, np.nan) for bound in percentiles(np.stack(drawn), self.level))
            return _Shares(accuracy, low, high, pairs, ~np.isnan(mean))
        # A repetition that misses an item orders other items than the rest.
        each = self._complete(np.moveaxis(x, -1, 0), items)
        shares, pairs = agreement(each, target[None], self.ties)
        accuracy, _, low, high = interval_of_mean(np.moveaxis(shares, 0, -1), self.interval, self.level)
        entered = np.asarray((~np.isnan(each)).any(axis=0))
        return _Shares(accuracy, np.clip(low, 0, 1), np.clip(high, 0, 1), pairs.max(axis=0), entered)

    def _complete(self, values: Float64, items: npt.NDArray[np.bool_]) -> Float64:
        """Return the values of the items, NaN in cells where one of them has none."""
        values = np.where(items, values, np.nan)
        return np.where((np.isnan(values) & items).any(axis=-1, keepdims=True), np.nan, values)


def _with_compute(answer: xr.Dataset, own: xr.Dataset, gold: xr.Dataset) -> xr.Dataset:
    """Return an answer with the mean tokens of its small runs, and their compute as a fraction of the target's."""
    along = set(answer["accuracy"].dims)

    def mean_tokens(values: xr.Dataset) -> xr.DataArray:
        tokens = values["tokens"].reset_coords(drop=True)
        return tokens.mean([d for d in tokens.dims if d not in along], skipna=True)

    tokens = mean_tokens(own)
    answer["tokens"] = tokens.assign_attrs(long_name="mean cumulative tokens of the small runs", units="tokens")
    small, large = (v.coords.get("n_params") for v in (own, gold))
    if small is not None and large is not None and set(small.dims) <= along and not large.ndim:
        compute = (small.reset_coords(drop=True) * tokens) / (large.item() * mean_tokens(gold))
        label = "compute of the small runs as a fraction of the target's"
        order = [d for d in answer["accuracy"].dims if d in compute.dims]
        answer["compute_fraction"] = compute.transpose(*order).assign_attrs(long_name=label, units="1")
    return answer
