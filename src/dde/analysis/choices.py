"""The best value of a hyperparameter, how far it leads, and how often it wins when repetitions are resampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.analysis.answers import Direction, as_answer, direction_of
from dde.analysis.arrangement import REPLICATES, replicate_dims
from dde.analysis.footing import ENTERED, Place, count_left_out, place_text, resolve_place, values_at
from dde.analysis.intervals import Interval, check_interval, interval_attrs, interval_of_mean
from dde.analysis.observations import metric_names
from dde.analysis.options import check_draws, names_of
from dde.analysis.pairs import TIED
from dde.analysis.repetitions import arrange_over, has_factor, require_same_tokens
from dde.array_types import Float64
from dde.errors import SelectionError, UnknownNameError

__all__ = ["best"]

Mask = npt.NDArray[np.bool_]

# Number of resampled values in memory at once.
_BLOCK = 4_000_000
# Stands for an infinite value in sums.
_INFINITE = 1e200


def best(
    dataset: xr.Dataset,
    metric: str | Sequence[str] | None = None,
    over: str = "learning_rate",
    *,
    at: Place | None = None,
    replicates: str | Sequence[str] | None = None,
    direction: Direction | None = None,
    interval: Interval = "t",
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> xr.Dataset:
    """Return the best value of a hyperparameter for each combination of the other factors.

    Parameters
    ----------
    dataset : xarray.Dataset
        Dataset of runs, or a sweep.
    metric : str, several or None
        Names or aliases of variables; may be omitted where there is only one.
    over : str, default "learning_rate"
        Hyperparameter or any other factor, such as ``data``.
    at : "schedule", "last", "common", number or mapping, optional
        Place of each run's value, see :func:`dde.analysis.footing.resolve_place`; by default its planned end, or its
        last observation where no schedule is known.
    replicates : str or several, optional
        Factors whose values are repetitions, over which values are averaged; ``()`` for none. When None, ``seed`` and
        ``replicate``, where there are any.
    direction : {"higher", "lower"}, optional
        Which values are better; the attribute ``direction`` of the metric when None.
    interval : {"t", "bootstrap", "none"}, default "t"
        Of the mean over repetitions.
    level : float, default 0.95
    samples : int, default 2000
        Resamples of the repetitions.
    seed : int, default 0
        Of the random numbers of the resamples.

    Returns
    -------
    xarray.Dataset
        Along `over`, and the dimensions of the remaining factors (cells):

        - ``mean_value``, ``low``, ``high``: mean over repetitions and its interval, in the unit of the metric;
          ``n_replicates``, their number.
        - ``win_share``: share of resamples in which this value is the best one of its cell. Ties share a resample.

        Along the remaining factors only:

        - ``best``, ``second``: values of `over` with the best and the second best mean; NaN (or "") where fewer than
          two were tried. ``value``: mean of the best. ``margin``: how much better it is than the second, at least 0.
        - ``wins``: ``win_share`` of the best; NaN unless the best and the second are both repeated.
        - ``at_edge``: whether the best value is the smallest or largest one that was tried in the cell, so that a
          better one may lie outside. Only of numbers.
        - ``ties``: other values with the best mean, up to rounding. ``n``: values that were tried. ``status``:
          "compared", "fewer than two values", or "" where there is no run.

        The attribute ``left_out`` counts the runs that did not enter, by reason.

    Raises
    ------
    UnknownNameError
        When a metric, factor or option does not exist, or the direction of a metric is unknown.
    SelectionError
        When no run has a value of `over`, no cell has two of them, or lineages agree in all factors; and when runs end
        at different tokens and no place is given.
    SourceError
        When a coordinate is missing.

    Notes
    -----
    Resamples are drawn with replacement (Efron and Tibshirani [1]_). Seeds, and other repetitions that the compared
    values share, are drawn together for all values of a cell, so that what they have in common cancels; members along
    ``replicate`` are drawn for each value by itself. With few repetitions the shares are too sure of themselves: of
    three seeds, a value that leads in each wins in every resample.

    References
    ----------
    .. [1] Efron and Tibshirani (1993), An Introduction to the Bootstrap. Chapman & Hall, chapter 6.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("small", metrics=["arc_easy"]).dde.sel(run="pretraining")
    >>> found = ds.dde.best("arc_easy", over="data")
    >>> found.best.dims, found.mean_value.dims
    (('params',), ('params', 'data'))
    >>> found.best.sel(params="150M").item(), found.n_replicates.sel(params="150M", data="C4").item()
    ('DCLM-Baseline', 3)
    """
    check_interval(interval, level)
    check_draws(samples, seed)
    names = metric_names(dataset, metric)
    signs = np.array([1.0 if direction_of(dataset, name, direction) == "higher" else -1.0 for name in names])
    place = resolve_place(dataset, at)
    values = values_at(dataset, names, place)
    reasons = [count_left_out(values.status)]
    if len(several := names_of("over", over)) != 1:
        raise UnknownNameError(f"over={over!r} is not one factor, so no best value can be chosen. Pass one name.")
    over = several[0]
    values, lost = arrange_over(values, [over])
    wanted = REPLICATES if replicates is None else names_of("replicates", replicates)
    values, more = arrange_over(values, [n for n in wanted if n != over and has_factor(values, n)])
    reasons += [f"{reason}: {count}" for reason, count in (lost | more).items()]
    if over not in values.dims:
        raise SelectionError(
            f"averages over repetitions put factors in the place of {over}, so its labels can't be compared. Pass "
            "replicates=() to compare single runs, or over= one of the factors."
        )
    repeated = replicate_dims(values, over, replicates)
    require_same_tokens(values, [over, *repeated], at, place, f"a comparison over {over}")
    answer = _with_runs(_answer(values, over, repeated, signs, (interval, level), samples, seed), over)
    _describe(answer, dataset, names, over)
    attrs: dict[str, Any] = {
        "over": over,
        "at": place_text(place),
        "left_out": "; ".join(filter(None, reasons)),
        "averaged_over": ", ".join(repeated),
        **interval_attrs(interval if repeated else "none", level, ", ".join(repeated)),
        "resamples": int(samples),
    }
    return as_answer(answer, "best", metric, attrs)


def _answer(
    values: xr.Dataset,
    over: str,
    repeated: Sequence[str],
    signs: Float64,
    of_interval: tuple[Interval, float],
    samples: int,
    seed: int,
) -> xr.Dataset:
    """Return the variables of the answer along ``metric``, the remaining factors, and the compared one."""
    cells = [str(d) for d in values.value.dims if d not in (over, *repeated)]
    # Repetitions that all compared values share come first, those of each value by itself last.
    shared, alone = [d for d in repeated if d != "replicate"], [d for d in repeated if d == "replicate"]
    ordered = values.value.where(values.status == ENTERED).transpose(*cells, over, *shared, *alone)
    shape = tuple(ordered.sizes[d] for d in cells)
    tried = ordered.sizes[over]
    counts = (int(np.prod([ordered.sizes[d] for d in dims])) for dims in (cells, [over], shared, alone))
    members = np.asarray(ordered.values, np.float64).reshape(*counts)
    mean, n, low, high = interval_of_mean(members.reshape(*members.shape[:2], np.prod(members.shape[2:])), *of_interval)
    # Metrics are the first of the cells.
    sign = np.repeat(signs, len(members) // len(signs))
    rank = _ranks(mean, sign)
    row = np.arange(len(mean))
    enough = rank.n > 1
    is_sure = enough & (np.minimum(n[row, rank.first], n[row, rank.second]) > 1)
    wins = np.full(mean.shape, np.nan)
    wins[is_sure] = _win_shares((members * sign[:, None, None, None])[is_sure], samples, seed)
    has_run = (values.status != "").any([over, *repeated]).transpose(*cells).values
    if not enough.any():
        raise SelectionError(
            f"no cell has two values of {over} with a value of the metric, so none is the best. Select runs that agree "
            f"in everything else, or average over the factors in which they differ: replicates=[...]. Cells are the "
            f"combinations of {', '.join(d for d in cells if d != 'metric') or 'no other factor'}."
        )
    with np.errstate(invalid="ignore"):
        # The margin between two infinite means is unknown.
        margin = np.abs(mean[row, rank.first] - mean[row, rank.second])
        margin[_are_tied(mean[row, rank.first], mean[row, rank.second]) & np.isfinite(margin)] = 0.0
    variables: dict[str, Any] = {
        "best": _labels_at(values[over], rank.first, enough),
        "value": np.where(enough, mean[row, rank.first], np.nan),
        "second": _labels_at(values[over], rank.second, enough),
        "margin": np.where(enough, margin, np.nan),
        "wins": wins[row, rank.first],
        "ties": np.where(enough, rank.ties, 0),
        "n": rank.n,
        "status": np.where(enough, "compared", np.where(has_run.ravel(), "fewer than two values", "")).astype(object),
    }
    if values[over].dtype.kind in "fiu":
        there = ~np.isnan(mean)
        last = tried - 1 - there[:, ::-1].argmax(axis=1)
        variables["at_edge"] = enough & ((rank.first == there.argmax(axis=1)) | (rank.first == last))
    along = {"mean_value": mean, "low": low, "high": high, "n_replicates": n, "win_share": wins}
    coords = {
        n: c.variable
        for n, c in values.coords.items()
        if set(c.dims) <= {*cells, over} and (n in c.dims or n not in ("run_id", "replicate"))
    }
    return xr.Dataset(
        {n: (cells, np.reshape(v, shape)) for n, v in variables.items()}
        | {n: ((*cells, over), np.reshape(v, (*shape, tried))) for n, v in along.items()},
        coords,
    )


def _with_runs(answer: xr.Dataset, over: str) -> xr.Dataset:
    """Return an answer without labels of the remaining factors that have no run at all."""
    has_run = answer.status != ""
    for dim in (d for d in has_run.dims if d != "metric"):
        answer = answer.isel({dim: np.flatnonzero(has_run.any([d for d in has_run.dims if d != dim]).values)})
    return answer


class _Ranks:
    """Positions of the best and second best mean of each row, the number of means, and of others equal to the best."""

    def __init__(self, score: Float64) -> None:
        row = np.arange(len(score))
        there = ~np.isnan(score)
        filled = np.where(there, score, -np.inf)
        highest = filled.max(axis=1, keepdims=True, initial=-np.inf)
        filled = np.where(_are_tied(filled, highest), highest, filled)
        self.n = there.sum(axis=1)
        self.first = filled.argmax(axis=1)
        self.ties = (there & (filled == filled[row, self.first][:, None])).sum(axis=1) - 1
        rest = filled.copy()
        rest[row, self.first] = -np.inf
        # Infinite scores could tie with the one that was taken out.
        rest_there = there.copy()
        rest_there[row, self.first] = False
        order = np.lexsort((np.broadcast_to(np.arange(score.shape[1]), score.shape), -rest, ~rest_there), axis=-1)
        self.second = order[:, 0]


def _are_tied(one: Float64, other: Float64) -> Mask:
    """Return whether values are equal, but for the rounding of sums of several members."""
    with np.errstate(invalid="ignore"):
        near = np.abs(one - other) <= TIED * np.abs(other)
        return np.asarray((one == other) | (np.isfinite(one) & np.isfinite(other) & near))


def _ranks(mean: Float64, sign: Float64) -> _Ranks:
    return _Ranks(mean * sign[:, None])


def _labels_at(labels: xr.DataArray, at: npt.NDArray[np.intp], where: Mask) -> npt.NDArray[Any]:
    picked = labels.values[at]
    if picked.dtype.kind in "fiu":
        return np.where(where, picked.astype(np.float64), np.nan)
    return np.where(where, picked.astype(object), "")


def _win_shares(score: Float64, samples: int, seed: int) -> Float64:
    """Return the share of resamples in which each value has the highest mean of its cell.

    Parameters
    ----------
    score : (cell, value, shared, alone) float64 array
        Higher is better. Members along ``shared`` are drawn together for all values of a cell, members along ``alone``
        for each value by itself.
    samples, seed : int

    Returns
    -------
    (cell, value) float64 array
        NaN for values without members.
    """
    generator = np.random.default_rng(seed)
    cells, tried, shared, alone = score.shape
    for_shared = generator.random((samples, shared))
    for_alone = generator.random((samples, tried, shared, alone)) if alone > 1 else None
    there = ~np.isnan(score)
    wins = np.full((cells, tried), np.nan)
    step = max(_BLOCK // (samples * tried * shared * (alone if alone > 1 else 1)), 1)
    for start in range(0, cells, step):
        rows = slice(start, start + step)
        # An infinite score that is not drawn must not count: 0 times infinity is NaN.
        values, known = np.where(there[rows], score[rows], 0.0).clip(-_INFINITE, _INFINITE), there[rows]
        # Only members that any value of the cell has are drawn.
        weights = _drawn(np.asarray(known.any(axis=(1, 3))), for_shared)
        if for_alone is None:
            sums, counts = values[..., 0][:, None], known[..., 0][:, None].astype(np.float64)
        else:
            inner = _drawn(known, for_alone.transpose(1, 2, 0, 3)[None])
            sums = np.einsum("cvstr,cvsr->ctvs", inner, values)
            counts = known.sum(axis=-1)[:, None].astype(np.float64)
        total = (weights[:, :, None] * sums).sum(axis=-1)
        count = (weights[:, :, None] * counts).sum(axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = np.where(count > 0, total / count, -np.inf)
            means = np.where(np.abs(means) > _INFINITE / 1e10, np.copysign(np.inf, means), means)
        highest = means.max(axis=-1, keepdims=True)
        is_best = _are_tied(means, highest) & (count > 0)
        share = (is_best / np.maximum(is_best.sum(axis=-1, keepdims=True), 1)).sum(axis=1)
        drawn = np.maximum(is_best.any(axis=-1).sum(axis=1), 1)
        wins[rows] = np.where(known.any(axis=(2, 3)), share / drawn[:, None], np.nan)
    return wins


def _drawn(known: Mask, uniform: Float64) -> Float64:
    """Return how often each known member is drawn in each resample of as many members.

    Parameters
    ----------
    known : (..., member) bool array
    uniform : (..., sample, member) float64 array, broadcastable
        Uniform random numbers between 0 and 1.

    Returns
    -------
    (..., sample, member) float64 array
    """
    n = known.sum(axis=-1)[..., None, None]
    # Positions among the known members, and back to those among all.
    at = np.minimum((uniform * n).astype(np.intp), np.maximum(n - 1, 0))
    order = np.argsort(~known, axis=-1, kind="stable")[..., None, :]
    size = known.shape[-1]
    weights = np.zeros(np.broadcast_shapes(at.shape, order.shape))
    for member in range(size):
        weights[..., member] = ((at == member) & (np.arange(size) < n)).sum(axis=-1)
    back = np.broadcast_to(np.argsort(order, axis=-1), weights.shape)
    return np.take_along_axis(weights, back, axis=-1)


def _describe(answer: xr.Dataset, dataset: xr.Dataset, names: Sequence[str], over: str) -> None:
    """Set long names and units of the variables of an answer."""
    units = set(answer["units"].values.tolist())
    unit = units.pop() if len(units) == 1 else None
    what = str(dataset[names[0]].attrs.get("long_name", names[0])) if len(names) == 1 else "metric"
    factor = str(answer[over].attrs.get("long_name") or over.replace("_", " "))
    of_factor = answer[over].attrs.get("units")
    texts: dict[str, tuple[str, str | None]] = {
        "best": (f"best {factor}", of_factor),
        "second": (f"second best {factor}", of_factor),
        "value": (f"{what}, of the best {factor}", unit),
        "margin": (f"{what}, lead over the second best {factor}", unit),
        "wins": ("share of resamples in which the best wins", "1"),
        "at_edge": ("whether the best is the smallest or largest value tried", None),
        "ties": ("other values as good as the best", "1"),
        "n": ("values tried", "1"),
        "status": ("whether values were compared, or why not", None),
        "mean_value": (what, unit),
        "low": ("lower bound of the mean", unit),
        "high": ("upper bound of the mean", unit),
        "n_replicates": ("repetitions", "1"),
        "win_share": ("share of resamples in which this value wins", "1"),
    }
    for name, (long_name, of) in texts.items():
        if name in answer:
            answer[name].attrs = {"long_name": long_name, **({"units": of} if of is not None else {})}
