"""Compare two runs, lineages or sweeps: their difference where both were observed, with its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from dde.analysis.answers import as_answer
from dde.analysis.footing import Place, count_left_out, place_text, resolve_place, values_at
from dde.analysis.intervals import Interval, check_interval, interval_attrs
from dde.analysis.observations import metric_names
from dde.analysis.options import check_seed
from dde.analysis.sides import Sides, observed_values, side_label, sides_of
from dde.analysis.standard_errors import errors_at, stderr_names
from dde.analysis.two_samples import Test, check_test, of_independent, of_pairs, smallest_p
from dde.array_types import Bool, Float64
from dde.curves.axes import AXES
from dde.dataset.loss_reductions import is_train_loss, warn_of_reductions
from dde.errors import SelectionError, UnknownNameError

__all__ = ["compare"]

# Coordinates of the runs of one side.
_OF_RUNS = ("run_id", "branch_tokens", "origin_tokens", "replicate")
_TESTS = {
    ("permutation", True): "exact or Monte Carlo sign flips of pairs",
    ("permutation", False): "exact or Monte Carlo permutations of independent members",
    ("t", True): "Student's t of pairs",
    ("t", False): "Welch's t",
}


def compare(
    a: xr.Dataset | xr.DataArray,
    b: xr.Dataset | xr.DataArray,
    metric: str | Sequence[str] | None = None,
    *,
    over: str | Sequence[str] | None = None,
    at: Place | None = None,
    paired: bool | None = None,
    interval: Interval = "t",
    level: float = 0.95,
    test: Test = "permutation",
    resamples: int = 9999,
    seed: int = 0,
) -> xr.Dataset:
    """Return the difference b - a of two runs, lineages or sweeps where both were observed.

    Parameters
    ----------
    a, b : xarray.Dataset or DataArray
        Datasets of runs, such as two selections of one Dataset. They are compared label by label along the dimensions
        that both have (lineages by their factors, so that size 4M of one recipe meets size 4M of the other); a side
        with a single label of a dimension is compared with every label of the other side. Where labels of runs
        differ, their factors are compared, except those in which the sides differ.
    metric : str, several or None
        Names or aliases of variables; may be omitted where there is only one.
    over : str or several, optional
        Factors whose values make pairs, over which differences are averaged: members of the same seed, replicate or
        recipe. When None, ``seed`` and ``replicate``, where there are any.
    at : "schedule", "last", "common", number or mapping, optional
        Compare one value of each run, at this place; see :func:`dde.analysis.footing.resolve_place`. ``common`` is
        the furthest position that all runs of both sides reach. When None, curves are compared at each point of the
        axis where a run of both sides was observed, after its branch; nothing is interpolated.
    paired : bool, optional
        Whether members of one label are pairs. When None, they are where any such pair has values on both sides.
        Members without a partner do not enter then.
    interval : {"t", "bootstrap", "none"}, default "t"
    level : float, default 0.95
    test : {"permutation", "t", "none"}, default "permutation"
    resamples : int, default 9999
        Largest number of permutations that are enumerated; of more, this number is drawn.
    seed : int, default 0
        Of the random numbers of permutations and of the bootstrap.

    Returns
    -------
    xarray.Dataset
        Variables along the common dimensions without those of `over`, and the axis unless `at` is given:

        - ``difference``, ``low``, ``high``: mean difference b - a and its interval, in the unit of the metric; the
          bounds are NaN with fewer than two pairs (members on each side).
        - ``p_value``: two-sided, NaN with fewer than two pairs, and of a permutation test where a member is infinite.
          Two and three pairs can't give less than 0.5 and 0.25; the attribute
          ``smallest_p`` is the least p-value that the members of the answer can give.
        - ``n``: pairs, where the attribute ``paired`` is 1. ``n_a``, ``n_b``: members with a value on each side.
        - ``stderr``: where both sides have the standard errors of the metric (a variable with the attribute
          ``stderr_of``), the standard error of the difference that follows from them: the scatter of the items of an
          evaluation, beside that of the members. It takes the errors of both sides as independent, which is too large
          where both were evaluated on the same items.
        - ``tokens_a``, ``tokens_b``: with `at`, mean cumulative tokens of the values.

        Attributes: ``a`` and ``b``, the factors in which the sides differ; ``paired_over`` or ``averaged_over``;
        ``left_out``, the runs without a counterpart; ``at``, ``interval``, ``interval_method``, ``test``.

    Raises
    ------
    UnknownNameError
        When a metric, factor or option does not exist, or arrays have different names.
    SelectionError
        When the sides have no label or no observed point in common, or their metrics have different units; and
        when they hold means.
    SourceError
        When a coordinate is missing.

    Warns
    -----
    DdeWarning
        When training losses of the sides are reduced in different ways.

    Notes
    -----
    With pairs, the interval is that of the mean of their differences, Student's t with n - 1 degrees of freedom. It
    covers the true difference with the stated probability if the differences are normal. Without pairs, it is Welch's.
    Where 95 % is claimed and both sides scatter alike, it covers the difference in about 97 % of samples for two and
    three members on each side, in 95 % for five and ten, and in 94 % for two against five. The bootstrap is too narrow
    for few members, see :func:`dde.curves.statistics.bootstrap_interval`. The permutation test is SciPy's
    (:func:`scipy.stats.permutation_test`); where permutations are drawn, the p-value is not 0 [1]_.

    p-values of neighbouring points of a curve are not independent, and none is corrected for the number of points.

    References
    ----------
    .. [1] Phipson and Smyth (2010), Permutation p-values should never be zero. Statistical Applications in Genetics and
       Molecular Biology 9 (1), 39. doi:10.2202/1544-6115.1585

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("small", metrics=["arc_easy"]).dde.sel(run="pretraining")
    >>> found = compare(ds.dde.sel(data="C4"), ds.dde.sel(data="Dolma1.7"), at="schedule")
    >>> found.difference.dims, found.attrs["a"], found.attrs["b"], found.attrs["paired_over"]
    (('params',), 'data=C4', 'data=Dolma1.7', 'seed')
    >>> found.n.sel(params="150M").item(), found.p_value.attrs["smallest_p"]
    (3, 0.25)
    """
    check_interval(interval, level)
    check_test(test, resamples)
    check_seed(seed)
    if paired is not None and not isinstance(paired, (bool, np.bool_, int)):
        raise UnknownNameError(
            f"paired={paired!r} says neither that members are pairs nor that they are not. Pass "
            "True, False, or None, where members of one label are pairs if there are any."
        )
    one, other = _as_datasets(a, b)
    names = metric_names(one, metric)
    if metric_names(other, metric) != names:
        raise UnknownNameError(
            f"a holds {', '.join(names)} and b {', '.join(metric_names(other, metric))}, which are different. "
            "Rename one of them if they are."
        )
    units = _units(one, other, names)
    if at is None:
        values, place = [observed_values(side, names) for side in (one, other)], "each point where both were observed"
    else:
        values, place = _values_at(one, other, names, at)
    _warn_of_losses(one, other, names)
    left, right = _variances(one, other, names, at, values)
    # Coordinates of a Dataset in chunks are lazy, and labels are compared.
    found = sides_of(left.compute(), right.compute(), over, paired)
    directions = [str(one[n].attrs.get("direction", "")) for n in names]
    labels = [str(one[n].attrs.get("long_name", n)) for n in names]
    answer = _answer(found, interval, level, test, resamples, seed).assign_coords(
        metric=("metric", np.array(names, object), {"long_name": "metric"}),
        units=("metric", np.array(units, object)),
        direction=("metric", np.array(directions, object)),
        metric_label=("metric", np.array(labels, object)),
    )
    _describe(answer, one, names)
    left_out = []
    for side, entered, lost in zip("ab", values, found.left_out, strict=True):
        reasons = "; ".join(filter(None, [count_left_out(entered.status), lost]))
        left_out += [f"{side}: {reasons}"] if reasons else []
    attrs: dict[str, Any] = {
        "a": side_label(found.facts, 0),
        "b": side_label(found.facts, 1),
        "at": place,
        "paired": int(found.paired),
        "paired_over" if found.paired else "averaged_over": found.over,
        **_interval_attrs(found, interval, level),
        "test": "none" if test == "none" else _TESTS[test, found.paired],
        "left_out": "; ".join(left_out),
    }
    return as_answer(answer, "compare", metric, attrs)


def _interval_attrs(found: Sides, interval: Interval, level: float) -> dict[str, str | float]:
    of = f"pairs{f' of {found.over}' if found.over else ''}" if found.paired else found.over
    attrs = interval_attrs(interval, level, of)
    if interval == "t" and not found.paired:
        attrs["interval_method"] = f"Welch's t{f' over {of}' if of else ''}"
    return attrs


def _as_datasets(a: xr.Dataset | xr.DataArray, b: xr.Dataset | xr.DataArray) -> tuple[xr.Dataset, xr.Dataset]:
    one, other = (
        side.to_dataset(name=side.name or "value") if isinstance(side, xr.DataArray) else side for side in (a, b)
    )
    for side in (one, other):
        if not isinstance(side, xr.Dataset):
            raise UnknownNameError(
                f"compare() got a {type(side).__name__}, which is no Dataset of runs. Pass Datasets or DataArrays, "
                "such as ds.dde.sel(learning_rate=1e-5)."
            )
    return one, other


def _units(a: xr.Dataset, b: xr.Dataset, names: Sequence[str]) -> list[str]:
    units = []
    for name in names:
        one, other = (str(side[name].attrs.get("units", "")) for side in (a, b))
        if one and other and one != other:
            raise SelectionError(
                f"{name} is in {one} in a and in {other} in b, so their difference has no meaning. Convert one of them."
            )
        units.append(one or other)
    return units


def _values_at(a: xr.Dataset, b: xr.Dataset, names: Sequence[str], at: Place) -> tuple[list[xr.Dataset], str]:
    """Return values of both sides at one place, and the text of the place."""
    place = resolve_place(a, at)
    if place == "common":
        ends = np.concatenate([values_at(side, list(names), "common").tokens.values.ravel() for side in (a, b)])
        place = float(np.nanmin(ends)) if not np.isnan(ends).all() else place
        return [_labelled(side, names, place) for side in (a, b)], f"common: {place_text(place)}"
    return [_labelled(side, names, place) for side in (a, b)], place_text(place)


def _labelled(side: xr.Dataset, names: Sequence[str], place: Place) -> xr.Dataset:
    """Return values at a place, with the labels of a single lineage and run."""
    labels = {n: side[n].variable for n in ("lineage", "run") if n in side.coords and not side[n].ndim}
    return values_at(side, list(names), place).assign_coords(labels)


def _warn_of_losses(a: xr.Dataset, b: xr.Dataset, names: Sequence[str]) -> None:
    if any(is_train_loss(side[n]) for side in (a, b) for n in names):
        reductions = [side[n].values.ravel().tolist() for side in (a, b) for n in ("reduce_loss",) if n in side.coords]
        warn_of_reductions(v for texts in reductions for v in texts if isinstance(v, str))


def _variances(
    a: xr.Dataset, b: xr.Dataset, names: Sequence[str], at: Place | None, values: Sequence[xr.Dataset]
) -> list[xr.Dataset]:
    """Return values with the squared standard errors of each, where both sides have any."""
    known = [stderr_names(side, names) for side in (a, b)]
    if not set(known[0]) & set(known[1]):
        return list(values)
    found = []
    for side, of, there in zip((a, b), known, values, strict=True):
        squares = np.full(there.value.shape, np.nan)
        for k, name in enumerate(names):
            value = there.value.isel(metric=k, drop=True)
            if name in of and at is None:
                error = observed_values(side, [of[name]]).value.isel(metric=0, drop=True)
                axis = [d for d in value.dims if d in AXES]
                squares[k] = error.reindex({d: value[d] for d in axis}).transpose(*value.dims).values ** 2
            elif name in of:
                squares[k] = errors_at(side, of[name], there.tokens.isel(metric=k, drop=True)) ** 2
        found.append(there.assign(variance=(there.value.dims, squares)))
    return found


def _answer(found: Sides, interval: Interval, level: float, test: Test, resamples: int, seed: int) -> xr.Dataset:
    """Return difference, interval, p-value and numbers of members along the common dimensions."""
    members = found.members
    one, other = xr.broadcast(found.a.value, found.b.value, exclude=set(members))
    cells = [d for d in one.dims if d not in members]
    a, b = (_rows(side, cells, members) for side in (one, other))
    shape = tuple(one.sizes[d] for d in cells)
    of = of_pairs if found.paired else of_independent
    result = of(a, b, interval, level, test, resamples, seed)
    n_a, n_b = ((~np.isnan(side)).sum(axis=1) for side in (a, b))
    variables: dict[str, Any] = {
        "difference": result.estimate,
        "low": result.low,
        "high": result.high,
        "p_value": result.p_value,
    }
    if found.paired:
        variables["n"] = _are_pairs(a, b).sum(axis=1)
    variables |= {"n_a": n_a, "n_b": n_b}
    if "variance" in found.a and "variance" in found.b:
        variables["stderr"] = _error_of_difference(found, cells, a, b)
    if "tokens" in found.a:
        for name, side in (("tokens_a", found.a), ("tokens_b", found.b)):
            spread = side.tokens.broadcast_like(side.value).broadcast_like(one, exclude=members)
            variables[name] = _mean(_rows(spread, cells, members))
    coords = (one.isel(dict.fromkeys(members, 0), drop=True) - other.isel(dict.fromkeys(members, 0), drop=True)).coords
    kept = {n: c.variable for n, c in coords.items() if n not in _OF_RUNS and not (c.ndim == 0 and _is_blank(c.item()))}
    answer = xr.Dataset({n: (cells, np.reshape(v, shape)) for n, v in variables.items()}, kept)
    axis = [str(d) for d in cells if d in AXES]
    answer = answer.transpose("metric", *(d for d in cells if d not in ("metric", *axis)), *axis)
    if axis:
        # Points at which no cell has members on both sides say nothing.
        some = answer.difference.notnull().any([d for d in cells if d not in axis])
        if not bool(some.any()):
            raise SelectionError(
                f"no run of a and its counterpart of b were observed at one point of {axis[0]}, so there is no place "
                "where they can be compared: values between observations are not compared. Compare them at one place: "
                "at='last', at='schedule' or a number of tokens."
            )
        answer = answer.isel({axis[0]: np.flatnonzero(some.values)})
    numbers = np.unique(
        np.stack([n_a, n_b], axis=1) if not found.paired else np.stack([variables["n"]] * 2, axis=1), axis=0
    )
    least = [smallest_p(int(x), int(y), found.paired, resamples) for x, y in numbers if min(x, y) > 0 and x + y > 2]
    if test == "permutation" and least:
        answer["p_value"].attrs["smallest_p"] = min(least)
    return answer


def _is_blank(value: Any) -> bool:
    return value in ("", None) or value != value


def _rows(array: xr.DataArray, cells: Sequence[Any], members: Sequence[str]) -> Float64:
    ordered = array.transpose(*cells, *members)
    count = int(np.prod([array.sizes[d] for d in cells]))
    return np.asarray(ordered.values, np.float64).reshape(count, -1)


def _mean(values: Float64) -> Float64:
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(there, values, 0.0).sum(axis=1) / there.sum(axis=1), np.float64)


def _are_pairs(a: Float64, b: Float64) -> Bool:
    """Return which pairs have a difference: not those of two equal infinite values."""
    with np.errstate(invalid="ignore"):
        return np.asarray(~np.isnan(b - a))


def _error_of_difference(found: Sides, cells: Sequence[Any], a: Float64, b: Float64) -> Float64:
    """Return the standard error of the mean difference by those of the values; NaN where one is unknown."""
    squares = []
    one, other = xr.broadcast(found.a.variance, found.b.variance, exclude=set(found.members))
    enters = _are_pairs(a, b) if found.paired else None
    for side, values in ((one, a), (other, b)):
        there = enters if enters is not None else ~np.isnan(values)
        n = there.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            # An unknown error of a member that entered is NaN, and so is the sum.
            squares.append(np.where(there, _rows(side, cells, found.members), 0.0).sum(axis=1) / n**2)
    return np.asarray(np.sqrt(squares[0] + squares[1]), np.float64)


def _describe(answer: xr.Dataset, dataset: xr.Dataset, names: Sequence[str]) -> None:
    """Set long names and units of the variables of an answer."""
    units = set(answer["units"].values.tolist())
    unit = {"units": units.pop()} if len(units) == 1 else {}
    what = str(dataset[names[0]].attrs.get("long_name", names[0])) if len(names) == 1 else "metric"
    texts: dict[str, tuple[str, dict[str, str]]] = {
        "difference": (f"{what}, difference b - a", unit),
        "low": ("lower bound of the difference", unit),
        "high": ("upper bound of the difference", unit),
        "p_value": ("p-value of no difference, two-sided", {"units": "1"}),
        "n": ("pairs", {"units": "1"}),
        "n_a": ("members of a with a value", {"units": "1"}),
        "n_b": ("members of b with a value", {"units": "1"}),
        "stderr": ("standard error of the difference from those of the evaluations", unit),
        "tokens_a": ("mean cumulative tokens of the values of a", {"units": "tokens"}),
        "tokens_b": ("mean cumulative tokens of the values of b", {"units": "tokens"}),
    }
    for name, (long_name, attrs) in texts.items():
        if name in answer:
            answer[name].attrs = {"long_name": long_name, **attrs, **answer[name].attrs}
