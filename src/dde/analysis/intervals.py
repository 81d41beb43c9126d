"""Uncertainty of answers: intervals of means over repetitions, and resampling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from dde.array_types import Float64
from dde.curves.statistics import summarize
from dde.errors import UnknownNameError, near_names

__all__ = [
    "Interval",
    "check_interval",
    "check_level",
    "interval_attrs",
    "interval_of",
    "interval_of_mean",
    "percentiles",
    "resampled_means",
    "resamples",
]

#: Method of an interval: Student's t over repetitions, the percentile bootstrap, or none.
Interval = Literal["t", "bootstrap", "none"]

_NAMES = {"t": "Student's t", "bootstrap": "percentile bootstrap", "none": "none"}


def check_interval(interval: str, level: float) -> None:
    """Check the options of an interval.

    Raises
    ------
    UnknownNameError
        When there is no such method, or the level is not between 0 and 1.
    """
    if interval not in get_args(Interval):
        raise UnknownNameError(
            f"interval={interval!r} is not a method of an interval.{near_names(str(interval), get_args(Interval))} "
            f"Pass {', '.join(map(repr, get_args(Interval)))}; the confidence level is level=."
        )
    check_level(level)


def check_level(level: float) -> None:
    """Check a confidence level.

    Raises
    ------
    UnknownNameError
        When it is not a number between 0 and 1.
    """
    is_number = isinstance(level, (int, float, np.number)) and not isinstance(level, bool)
    if not is_number or not 0 < level < 1:
        raise UnknownNameError(f"level={level!r} is not between 0 and 1, so it is not a confidence level. Pass 0.95.")


def interval_attrs(interval: Interval, level: float, of: str) -> dict[str, str | float]:
    """Return the attributes that describe an interval.

    Parameters
    ----------
    interval : {"t", "bootstrap", "none"}
    level : float
    of : str
        What the interval is taken over, such as "seed".

    Examples
    --------
    >>> interval_attrs("t", 0.95, "seed")
    {'interval': 0.95, 'interval_method': "Student's t over seed"}
    >>> interval_attrs("none", 0.95, "seed")
    {'interval': 'none', 'interval_method': 'none'}
    """
    if interval == "none":
        return {"interval": "none", "interval_method": "none"}
    return {"interval": level, "interval_method": f"{_NAMES[interval]} over {of}" if of else _NAMES[interval]}


def interval_of(seeds: str, interval: Interval | None, level: float) -> Interval:
    """Return the method of an interval of a statistic of means, or of the mean of statistics of each repetition.

    Parameters
    ----------
    seeds : {"mean", "each"}
    interval : {"t", "bootstrap", "none"} or None
        Student's t for "each", and the bootstrap for "mean", when None.
    level : float

    Raises
    ------
    UnknownNameError
        When there is no such option, or the two do not go together.
    """
    if seeds not in ("mean", "each"):
        raise UnknownNameError(f"seeds={seeds!r} is not a way to use repetitions. Pass 'mean' or 'each'.")
    default: Interval = "bootstrap" if seeds == "mean" else "t"
    method = default if interval is None else interval
    check_interval(method, level)
    if method == ("t" if seeds == "mean" else "bootstrap"):
        raise UnknownNameError(
            f"interval={method!r} does not go with seeds={seeds!r}: the order of means has no repetitions for "
            "Student's t, and orders of single repetitions are averaged. Pass 'bootstrap' for 'mean', 't' for 'each', "
            "or 'none'."
        )
    return method


def interval_of_mean(
    values: Float64, interval: Interval, level: float
) -> tuple[Float64, npt.NDArray[np.int64], Float64, Float64]:
    """Return mean, number of values, and both bounds of the mean over the last dimension, ignoring NaN.

    Parameters
    ----------
    values : (..., member) float64 array
    interval : {"t", "bootstrap", "none"}
    level : float

    Returns
    -------
    mean : (...) float64 array
        NaN without any value.
    n : (...) int64 array
    low, high : (...) float64 arrays
        NaN for fewer than two values, and for ``"none"``. See :func:`dde.curves.statistics.t_interval` and
        :func:`dde.curves.statistics.bootstrap_interval` for their assumptions and coverage.

    Examples
    --------
    >>> mean, n, low, high = interval_of_mean(np.array([[1.0, 2.0, 3.0, np.nan]]), "t", 0.95)
    >>> mean.tolist(), n.tolist(), low.round(3).tolist(), high.round(3).tolist()
    ([2.0], [3], [-0.484], [4.484])
    """
    required = np.ones(values.shape[:-1], np.int64)
    method: Literal["t", "bootstrap"] = "bootstrap" if interval == "bootstrap" else "t"
    statistics = summarize(values, required, None if interval == "none" else level, method)
    return statistics[..., 0], statistics[..., 1].astype(np.int64), statistics[..., 4], statistics[..., 5]


def resamples(n: int, samples: int, seed: int) -> npt.NDArray[np.intp]:
    """Return positions of members drawn with replacement, (sample, n); the same for the same seed.

    Examples
    --------
    >>> resamples(3, 2, seed=0).shape
    (2, 3)
    """
    return np.random.default_rng(seed).integers(0, n, size=(samples, n)).astype(np.intp)


def resampled_means(values: Float64, samples: int, seed: int) -> Iterator[Float64]:
    """Yield means over the last dimension of members drawn with replacement, for each cell from its own members.

    Parameters
    ----------
    values : (metric, ..., member) float64 array
        NaN where a cell has no such member. All metrics share the drawn members, so the answer for one of them does
        not depend on the others.
    samples : int
        Number of draws.
    seed : int
        Seed of the draws.

    Yields
    ------
    (metric, ...) float64 array
        NaN for cells without members. A cell with one member always has its value.

    Examples
    --------
    >>> draws = list(resampled_means(np.array([[1.0, 3.0, np.nan]]), 50, seed=0))
    >>> sorted({float(d[0]) for d in draws})
    [1.0, 2.0, 3.0]
    """
    order = np.argsort(np.isnan(values), axis=-1, kind="stable")
    packed = np.take_along_axis(values, order, axis=-1)
    count = (~np.isnan(values)).sum(axis=-1)
    rank = np.arange(values.shape[-1])
    drawn = rank < count[..., None]
    rng = np.random.default_rng(seed)
    for _ in range(samples):
        # As many draws as the cell has members; positions after them are not used.
        at = np.minimum((rng.random((1, *packed.shape[1:])) * count[..., None]).astype(np.intp), packed.shape[-1] - 1)
        total = np.where(drawn, np.take_along_axis(packed, at, axis=-1), 0.0).sum(axis=-1)
        yield np.where(count > 0, total / np.maximum(count, 1), np.nan)


def percentiles(draws: Float64, level: float) -> tuple[Float64, Float64]:
    """Return the bounds that hold the middle share of draws over the first dimension, ignoring NaN.

    Examples
    --------
    >>> low, high = percentiles(np.arange(101.0)[:, None], 0.9)
    >>> low.round(6).tolist(), high.round(6).tolist()
    ([5.0], [95.0])
    """
    low, high = (np.full(draws.shape[1:], np.nan) for _ in range(2))
    some = (~np.isnan(draws)).any(axis=0)
    if some.any():
        tail = (1 - level) / 2
        low[some], high[some] = np.nanquantile(draws[:, some], [tail, 1 - tail], axis=0)
    return low, high
