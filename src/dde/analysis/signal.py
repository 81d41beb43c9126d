"""Signal to noise: how far recipes are apart, compared with the scatter over seeds and over the last checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.analysis.answers import as_answer
from dde.analysis.arrangement import arrange_by, replicate_dims
from dde.analysis.checkpoints import SAMPLE, checkpoints_at
from dde.analysis.conditions import count_without, mean_of, require_same_tokens
from dde.analysis.footing import Place, count_left_out, resolve_place, values_at
from dde.analysis.intervals import check_level
from dde.analysis.observations import metric_names
from dde.array_types import Float64
from dde.errors import SelectionError, UnknownNameError, near_names

__all__ = ["signal_to_noise"]

_SPREADS = {"std": "standard deviation", "range": "range"}


def signal_to_noise(
    dataset: xr.Dataset,
    metric: str | Sequence[str] | None = None,
    over: str = "data",
    *,
    last: int = 5,
    spread: Literal["std", "range"] = "std",
    at: Place | None = None,
    replicates: str | Sequence[str] | None = None,
    interval: Literal["f", "none"] = "f",
    level: float = 0.95,
) -> xr.Dataset:
    """Return the spread over recipes, the scatter over seeds and last checkpoints, and their ratio.

    Parameters
    ----------
    dataset : xarray.Dataset
        A Dataset of runs: opened, a selection, sweep or alignment of it, or saved and opened again.
    metric : str or several, optional
        Names or aliases; may be omitted where there is only one variable.
    over : str, default "data"
        The factor whose values are compared.
    last : int, default 5
        Number of the last checkpoints of each run, up to the place of the comparison, whose scatter is noise.
    spread : {"std", "range"}, default "std"
        Measure of the signal: the standard deviation over the values of `over`, or the largest less the smallest.
    at : "schedule", "last", "common", number or mapping, optional
        Place at which runs are compared: their planned end where a schedule is known, else their last observation; a
        number of cumulative tokens; or a position on another axis, such as ``{"fraction_of_training": 0.5}``.
    replicates : str or several, optional
        Factors whose values are repetitions; ``seed`` and ``replicate`` by default.
    interval : {"f", "none"}, default "f"
        ``f``: interval of the ratio by the F distribution, for ``spread="std"`` only.
    level : float, default 0.95
        Confidence level.

    Returns
    -------
    xarray.Dataset
        Along all dimensions other than `over` and the repetitions: ``signal``, in the unit of the metric. Along
        ``source``, "seeds" and "checkpoints", too: ``noise``, the pooled standard deviation within recipes or runs;
        ``signal_to_noise``, with ``_low`` and ``_high``; and ``degrees_of_freedom`` of the noise. ``n`` is the number
        of recipes, and ``n_replicates``, along `over`, the number of runs of each. NaN where nothing is repeated.
        ``left_out`` counts the runs without a value, by reason.

    Raises
    ------
    UnknownNameError
        When there is no such metric, factor or option.
    SelectionError
        When samples are not points of the Dataset, or runs end at different tokens and no place was chosen.
    SourceError
        When a coordinate is missing.

    Notes
    -----
    Signal and noise are those of [1]_, who take the range over models and the standard deviation of the last
    checkpoints. The signal is that of means over repetitions, so it contains their noise: without any difference
    between recipes, the ratio to the scatter of n seeds is about ``1 / sqrt(n)``. The noise is pooled: the square root
    of the sum of squared deviations from each recipe's (or run's) mean, divided by its degrees of freedom.

    For normal scatter of one variance, the squared ratio of estimated and true signal-to-noise ratio has an F
    distribution, whose degrees of freedom are the number of recipes less one and those of the noise; exact where
    all recipes have the same number of repetitions. Neighbouring checkpoints are correlated and may have a trend, so
    the interval of the ratio to their scatter is too narrow.

    References
    ----------
    .. [1] Heineman et al. (2025), Signal and Noise: A Framework for Reducing Uncertainty in Language Model Evaluation.
       arXiv:2508.13144

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("small", metrics=["arc_easy"]).dde.base_curves()
    >>> answer = ds.dde.sel(params="20M").dde.signal_to_noise("arc_easy")
    >>> answer.signal_to_noise.dims, answer.source.values.tolist()
    (('source',), ['seeds', 'checkpoints'])
    """
    _check(last, spread, interval, level)
    names = metric_names(dataset, metric)
    place = resolve_place(dataset, at)
    of_runs = values_at(dataset, names, place)
    values = arrange_by(of_runs, over)
    repeated = replicate_dims(values, over, replicates)
    if place == "last":
        require_same_tokens(values, [over, *repeated], is_given=at is not None)
    array = values["value"]
    others = [str(d) for d in array.dims if d not in (over, *repeated)]
    order = (*others, over, *repeated)
    shape = tuple(array.sizes[d] for d in (*others, over))
    members = array.transpose(*order).values.reshape(*shape, -1)
    samples = arrange_by(checkpoints_at(dataset, names), over)
    at_end = values["tokens"].transpose(*order).values.reshape(*shape, -1)
    samples["tokens"] = samples["tokens"].broadcast_like(samples["value"])
    seen, tokens = (
        samples[n].transpose(*order, SAMPLE).values.reshape(*members.shape, -1) for n in ("value", "tokens")
    )
    checkpoints = _last(np.where(tokens <= at_end[..., None], seen, np.nan), last)
    means = mean_of(members)
    n = (~np.isnan(means)).sum(axis=-1)
    signal = _spread(means, spread)
    noise, freedom = [], []
    for squares, degrees in (_within(members), _within(checkpoints)):
        total, free = squares.sum(axis=-1), degrees.sum(axis=-1)
        if squares.ndim > len(shape):
            total, free = total.sum(axis=-1), free.sum(axis=-1)
        noise.append(np.where(free > 0, np.sqrt(total / np.maximum(free, 1)), np.nan))
        freedom.append(free)
    pooled, degrees_of_freedom = np.stack(noise, axis=-1), np.stack(freedom, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = signal[..., None] / pooled
    low, high = _bounds(ratio, n[..., None] - 1, degrees_of_freedom, interval if spread == "std" else "none", level)
    cells = (*others, "source")
    variables: dict[str, tuple[Any, Any, dict[str, str]]] = {
        "signal": (others, signal, {"long_name": f"{_SPREADS[spread]} over {over}"}),
        "noise": (cells, pooled, {"long_name": "standard deviation of repetitions"}),
        "signal_to_noise": (cells, ratio, {"long_name": "signal to noise", "units": "1"}),
        "signal_to_noise_low": (cells, low, {"long_name": "signal to noise, low end", "units": "1"}),
        "signal_to_noise_high": (cells, high, {"long_name": "signal to noise, high end", "units": "1"}),
        "degrees_of_freedom": (cells, degrees_of_freedom, {"long_name": "degrees of freedom of the noise"}),
        "n": (others, n, {"long_name": f"number of values of {over}"}),
        "n_replicates": ((*others, over), (~np.isnan(members)).sum(axis=-1), {"long_name": "number of runs"}),
    }
    coords = {str(k): c.variable for k, c in values.coords.items() if set(map(str, c.dims)) <= {*others, over}}
    coords["source"] = xr.Variable(("source",), np.array(["seeds", "checkpoints"], object))
    is_given = interval == "f" and spread == "std"
    attrs = {
        "over": over, "at": values.attrs["at"], "last": last, "spread": spread,
        "left_out": "; ".join(filter(None, (count_left_out(values["status"]), count_without(of_runs, {}, over)))),
        "interval": level if is_given else "none", "interval_method": "F distribution" if is_given else "none",
    }  # fmt: skip
    return as_answer(xr.Dataset(variables, coords), "signal_to_noise", metric, attrs)


def _check(last: int, spread: str, interval: str, level: float) -> None:
    """Check the options.

    Raises
    ------
    UnknownNameError, SelectionError
    """
    if spread not in tuple(_SPREADS):
        raise UnknownNameError(
            f"spread={spread!r} is not a measure of spread.{near_names(str(spread), _SPREADS)} Pass 'std' or 'range'."
        )
    if interval not in ("f", "none"):
        raise UnknownNameError(f"interval={interval!r} is not an interval of a ratio of spreads. Pass 'f' or 'none'.")
    check_level(level)
    if isinstance(last, bool) or not isinstance(last, (int, np.integer)) or last < 2:
        raise SelectionError(f"last={last!r} checkpoints have no scatter. Pass a whole number of at least 2.")


def _last(values: Float64, count: int) -> Float64:
    """Return the last values over the last dimension; NaN for runs that have fewer."""
    some = ~np.isnan(values)
    # Rank of each value from the end: 1 for the last.
    rank = np.cumsum(some[..., ::-1], axis=-1)[..., ::-1]
    chosen = some & (rank <= count)
    enough = chosen.sum(axis=-1, keepdims=True) == count
    return np.where(chosen & enough, values, np.nan)


def _within(values: Float64) -> tuple[Float64, npt.NDArray[np.int64]]:
    """Return the sum of squared deviations from the mean over the last dimension, and its degrees of freedom."""
    some = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        # Nothing is known about the scatter of infinite values.
        deviation = np.where(some, values - mean_of(values)[..., None], 0.0)
    return (deviation**2).sum(axis=-1), np.maximum(some.sum(axis=-1) - 1, 0)


def _spread(means: Float64, spread: Literal["std", "range"]) -> Float64:
    """Return the spread over the last dimension; NaN for fewer than two values."""
    some = ~np.isnan(means)
    n = some.sum(axis=-1)
    if spread == "range":
        highest = np.where(some, means, -np.inf).max(axis=-1, initial=-np.inf)
        lowest = np.where(some, means, np.inf).min(axis=-1, initial=np.inf)
        return np.where(n > 1, highest - lowest, np.nan)
    squares, _ = _within(means)
    return np.where(n > 1, np.sqrt(squares / np.maximum(n - 1, 1)), np.nan)


def _bounds(
    ratio: Float64, of_signal: Any, of_noise: Any, interval: Literal["f", "none"], level: float
) -> tuple[Float64, Float64]:
    """Return the bounds of signal-to-noise ratios by the F distribution; NaN where there is no ratio."""
    if interval == "none":
        return np.full_like(ratio, np.nan), np.full_like(ratio, np.nan)
    # A local import, because opening a Dataset does not need scipy.
    from scipy.stats import f

    known = np.isfinite(ratio) & (of_signal > 0) & (of_noise > 0)
    tail = (1 - level) / 2
    one, two = np.where(known, of_signal, 1), np.where(known, of_noise, 1)
    low, high = (np.where(known, ratio / np.sqrt(f.ppf(q, one, two)), np.nan) for q in (1 - tail, tail))
    return low, high
