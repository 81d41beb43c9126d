"""Exponential and running means of metrics in tokens, each over the observations of one run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.analysis.observations import metric_names, require_runs
from dde.array_types import Float64
from dde.dataset.align import derive
from dde.dataset.dimensions import axis_of, broadcast_values, run_dims
from dde.dataset.lazy import BlockArray, is_chunked, is_lazy, lazily
from dde.dataset.provenance import stages_along
from dde.dataset.samples import flags_of, has_samplings, is_set
from dde.errors import SelectionError, SourceError, UnknownNameError, near_names

__all__ = ["Smoothing", "smooth"]

#: Kind of mean: exponential moving average, or arithmetic mean over a trailing window.
Smoothing = Literal["ema", "mean"]

_TITLES = {"ema": "exponential mean", "mean": "running mean"}

#: Dimension of the runs of a curve: its base first.
_STAGE = "stage"


def smooth(
    dataset: xr.Dataset,
    metric: str | Sequence[str] | None = None,
    *,
    how: Smoothing = "ema",
    span: float,
) -> xr.Dataset:
    r"""Return the Dataset with metrics averaged over the observations of each run, weighted by distance in tokens.

    Parameters
    ----------
    dataset : xarray.Dataset
        Runs of :func:`dde.open_lineages`, a selection, sweep or alignment of it that has their samples. It may have
        been saved and opened again.
    metric : str, several or None
        Names or aliases of variables; all variables that name a sampling when None. Others are unchanged.
    how : {"ema", "mean"}, default "ema"
        Exponential moving average, or the mean over the last `span` tokens.
    span : float
        Width of the mean in tokens. Both means lag behind a steady trend by half of it.

    Returns
    -------
    xarray.Dataset
        The same variables and cells. An observation becomes the mean of the run's observations up to it, and cells
        between observations are interpolated again, as :func:`dde.dataset.align.derive` does. Flags of samples are
        unchanged, so ``support``, ``observed``, ``final`` and ``align`` take the result. Lazy where the metric is.
        The attributes ``smoothing`` and ``smoothing_span`` (in tokens) say how it was averaged.

    Raises
    ------
    UnknownNameError
        When there is no such metric or mean, or the span is not a positive number.
    SelectionError
        When samples are not points of the Dataset, or it holds means of runs. Values of a training log are checked when
        they are read.
    SourceError
        When a coordinate, or the attribute that says which cells are samples, is missing.

    Notes
    -----
    For observations :math:`x_i` at :math:`t_i` tokens, the smoothed value at :math:`t_k` is

    .. math:: y_k = \frac{\sum_{i \le k} w_{ik} x_i}{\sum_{i \le k} w_{ik}}, \qquad
              w_{ik} = e^{-2 (t_k - t_i) / \mathrm{span}}

    for ``ema``, and :math:`w_{ik} = 1` where :math:`t_k - t_i < \mathrm{span}`, else 0, for ``mean``. The weights of
    ``ema`` are those of pandas' ``ewm(halflife=span * ln(2) / 2, times=...)``, for irregular distances [1]_, with the
    correction of the first values that ``adjust=True`` makes. With this time constant, span / 2, the mean age of many
    evenly spaced observations equals that of the running mean, as it does between pandas' ``span`` and ``window``.

    A mean never goes across a branch: it starts anew with the first observation of each run. Observations before the
    branch of a derived run are those of its parent, and equal the parent's own smoothed ones, because a mean includes
    no later observations. An infinite observation makes later means infinite, as long as
    it has a weight.

    References
    ----------
    .. [1] Eckner, A. (2019). Algorithms for unevenly spaced time series: moving averages and other rolling operators.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="150M", metrics=["piqa"])
    >>> smoothed = ds.dde.smooth("piqa", span=2e9)
    >>> bool((smoothed.piqa.dde.support() == ds.piqa.dde.support()).all())
    True
    >>> smoothed.piqa.attrs["long_name"]
    'PIQA, primary metric, exponential mean over 2e9 tokens'
    """
    if how not in get_args(Smoothing):
        raise UnknownNameError(
            f"how={how!r} is not a mean over tokens.{near_names(str(how), get_args(Smoothing))} "
            f"Pass {' or '.join(map(repr, get_args(Smoothing)))}."
        )
    is_number = isinstance(span, (int, float, np.number)) and not isinstance(span, (bool, np.bool_))
    if not is_number or not 0 < float(span) < np.inf:
        raise UnknownNameError(
            f"span={span!r} is not a positive number of tokens, so the width of the mean is undefined. Pass a number, "
            "such as span=1e9."
        )
    require_runs(dataset)
    names = [str(n) for n, a in dataset.data_vars.items() if has_samplings(a)]
    if metric is not None:
        names = metric_names(dataset, metric)
    elif not names:
        raise SourceError(
            f"no variable of this Dataset ({', '.join(map(str, dataset.data_vars))}) names a sampling, so the observed "
            "cells are unknown. Name the samplings: ds.dde.sampled_as('evaluations')."
        )

    def function(name: str) -> Callable[[xr.Dataset], xr.DataArray]:
        return lambda seen: _smoothed(dataset[name], seen[name], how, float(span))

    return derive(dataset, **{name: function(name) for name in names})


def _smoothed(array: xr.DataArray, seen: xr.DataArray, how: Smoothing, span: float) -> xr.DataArray:
    """Return the smoothed observations of a metric; NaN in other cells.

    Parameters
    ----------
    array : xarray.DataArray
        The metric.
    seen : xarray.DataArray
        Its observations, NaN in other cells.
    how : {"ema", "mean"}
    span : float
    """
    rule = axis_of(array)
    assert rule is not None
    axis, cells = rule.name, run_dims(array)
    tokens = array.coords["cumulative_tokens"].variable
    starts = _stage_starts(array, cells)
    if rule.by == "run":
        _require_own(array, tokens, starts)
    average = partial(_average, how=how, span=span)
    dims = [*cells, *(str(d) for d in array.dims if d not in (*cells, axis)), axis]
    variable: xr.Variable = seen.variable.transpose(*dims)
    if is_lazy(variable):
        smoothed = lazily(dims, _SmoothedArray(variable, tokens, starts, average), {})
    else:
        if is_chunked(variable):
            variable = variable.chunk({axis: -1})
        smoothed = xr.apply_ufunc(
            average, variable, tokens, starts,
            input_core_dims=[[axis], [axis], [_STAGE]], output_core_dims=[[axis]],
            dask="parallelized", output_dtypes=[np.float64],
        )  # fmt: skip
    width = f"{span:.4g}".replace("e+0", "e").replace("e+", "e")
    title = f"{array.attrs.get('long_name', array.name)}, {_TITLES[how]} over {width} tokens"
    smoothed.attrs = {**array.attrs, "long_name": title, "smoothing": how, "smoothing_span": span}
    return array.copy(data=smoothed.transpose(*array.dims)._data).assign_attrs(smoothed.attrs)


def _stage_starts(array: xr.DataArray, cells: tuple[str, ...]) -> xr.Variable:
    """Return the tokens after which the runs of each curve begin, (cells..., stage); infinite after its last run."""
    stages = stages_along(array, cells)
    most = max((len(s) for s in stages.ravel()), default=1) or 1
    starts = np.full((*stages.shape, most), np.inf)
    for at in np.ndindex(stages.shape):
        starts[at][: len(stages[at])] = [s.start for s in stages[at]]
    # The first observation of a base is at its start.
    starts[..., 0] = -np.inf
    return xr.Variable((*cells, _STAGE), starts)


def _require_own(array: xr.DataArray, tokens: xr.Variable, starts: xr.Variable) -> None:
    """Raise where an axis of each run's own has an observation of an ancestor, whose earlier ones it does not have.

    Raises
    ------
    SelectionError
    """
    own = xr.Variable(starts.dims[:-1], np.where(np.isfinite(starts.values), starts.values, -np.inf).max(axis=-1))
    of_ancestor = tokens <= own
    for flag in flags_of(array):
        of_ancestor = of_ancestor & is_set(flag)
    if of_ancestor.any():
        raise SelectionError(
            f"on the axis {tokens.dims[-1]} the observations at branches are those of the parents, whose earlier "
            "observations are not points of it, so their means are unknown. Smooth first and align afterwards: "
            "ds.dde.smooth(...).dde.align(axis=...)."
        )


class _SmoothedArray(BlockArray):
    """Smoothed observations of a lazy metric, (cells..., others..., point); a block reads all points of its runs."""

    dtype = np.dtype(np.float64)

    def __init__(
        self, variable: xr.Variable, tokens: xr.Variable, starts: xr.Variable, average: Callable[..., Float64]
    ) -> None:
        self.variable, self.tokens, self.starts, self.average = variable, tokens, starts, average
        self.shape = variable.shape

    def _block(self, at: tuple[npt.NDArray[np.intp], ...]) -> npt.NDArray[Any]:
        index = dict(zip(self.variable.dims[:-1], at[:-1], strict=True))
        values = self.variable.isel(index)

        def beside(variable: xr.Variable) -> npt.NDArray[Any]:
            part = variable.isel({d: index[d] for d in variable.dims if d in index})
            last = str(variable.dims[-1])
            sizes = {**{str(d): values.sizes[d] for d in values.dims[:-1]}, last: variable.sizes[last]}
            return broadcast_values(part, sizes)

        return self.average(values.values, beside(self.tokens), beside(self.starts))[..., at[-1]]


def _average(values: Float64, tokens: Float64, starts: Float64, how: Smoothing, span: float) -> Float64:
    """Return the mean of the observations of the same run up to each observation; NaN in other cells.

    Parameters
    ----------
    values : (..., point) float64 array
        NaN where there is no observation.
    tokens : (..., point) array
        Broadcast against `values`.
    starts : (..., stage) float64 array
        Tokens after which the runs of a curve begin.
    how : {"ema", "mean"}
    span : float
    """
    shape = np.broadcast_shapes(values.shape, tokens.shape, (*starts.shape[:-1], 1))
    rows = math.prod(shape[:-1])
    flat_values, flat_tokens = (np.broadcast_to(a, shape).reshape(rows, shape[-1]) for a in (values, tokens))
    flat_starts = np.broadcast_to(starts, (*shape[:-1], starts.shape[-1])).reshape(rows, starts.shape[-1])
    row, point = np.nonzero(~np.isnan(flat_values) & ~np.isnan(flat_tokens))
    order = np.lexsort((flat_tokens[row, point], row))
    row, point = row[order], point[order]
    at = flat_tokens[row, point].astype(np.float64)
    stage = (flat_starts[row] < at[:, None]).sum(axis=1)
    is_first = np.ones(len(row), bool)
    is_first[1:] = (np.diff(row) != 0) | (np.diff(stage) != 0)
    function = _exponential_means if how == "ema" else _running_means
    out = np.full(flat_values.shape, np.nan)
    out[row, point] = function(flat_values[row, point], at, is_first, span)
    return out.reshape(shape)


def _exponential_means(values: Float64, tokens: Float64, is_first: npt.NDArray[np.bool_], span: float) -> Float64:
    """Return exponential means of the observations of runs, one run after the other, (sample,)."""
    begins = np.flatnonzero(is_first)
    lengths = np.diff(np.append(begins, len(values)))
    by_length = np.argsort(-lengths, kind="stable")
    begins, lengths = begins[by_length], lengths[by_length]
    decay = np.exp(-2.0 * np.diff(tokens, prepend=0.0).clip(min=0.0) / span)
    means, weights = values.astype(np.float64), np.ones(len(values))
    for k in range(1, int(lengths.max(initial=0))):
        # The k-th observation of all runs that have as many.
        here = begins[: int(np.searchsorted(-lengths, -k))] + k
        weights[here] = 1.0 + decay[here] * weights[here - 1]
        before, value = means[here - 1], values[here]
        with np.errstate(invalid="ignore"):
            # This form keeps a constant exactly.
            updated = before + (value - before) / weights[here]
            # An infinite mean stays infinite until its weight is zero.
            updated = np.where(np.isfinite(before), updated, before + value)
        means[here] = np.where(weights[here] == 1.0, value, updated)
    return means


def _running_means(values: Float64, tokens: Float64, is_first: npt.NDArray[np.bool_], span: float) -> Float64:
    """Return means over the last `span` tokens of the observations of runs, one run after the other, (sample,)."""
    if not len(values):
        return values
    # Positions of samples among all tokens, so that one search over all runs finds the begin of each window.
    places = np.unique(tokens)
    of_run = (np.cumsum(is_first) - 1) * (len(places) + 1)
    begin = np.searchsorted(
        of_run + np.searchsorted(places, tokens), of_run + np.searchsorted(places, tokens - span, side="right")
    )
    end = np.arange(1, len(values) + 1)
    # A span below the distance of floating-point numbers still includes the observation itself.
    begin = np.minimum(begin, end - 1)
    # Sums of windows rather than differences of cumulative sums, in which rounding and infinities would go on.
    windows = np.stack([begin, end], axis=1).ravel()
    sums = np.add.reduceat(np.append(values, 0.0), windows)[::2]
    return np.asarray(sums / (end - begin), np.float64)
