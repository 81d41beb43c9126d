"""The accessor ``ds.dde``: operations on Datasets of lineages, each a thin method that calls a plain function.

A method has the docstring of its function, without the parameter that is the object itself. The docstring is copied
when the method is first looked up, because importing all functions takes longer than importing xarray.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from dde.analysis.answers import Direction
    from dde.analysis.laws import LawName, Quantity
    from dde.analysis.footing import Place
    from dde.analysis.intervals import Interval
    from dde.analysis.pairs import Ties
    from dde.analysis.predictions import Sizes
    from dde.analysis.targets import Target
    from dde.curves.alignment import Method
    from dde.curves.grids import TokenGrid
    from dde.curves.statistics import IntervalMethod
    from dde.dataset.finals import At
    from dde.explore.page import Explorer
    from dde.plots.backends.base import BackendName
    from dde.plots.cells import Reduce

    Grid = Literal["auto", "union"] | int | npt.ArrayLike | TokenGrid
    Size = tuple[int, int]

__all__ = ["DdeDataArrayAccessor", "DdeDatasetAccessor"]

#: Module and function of each method.
_FUNCTIONS = {
    "sel": "dde.dataset.select:select",
    "align": "dde.dataset.align:align",
    "derive": "dde.dataset.align:derive",
    "sweep": "dde.dataset.sweep:sweep",
    "mean_over": "dde.dataset.averages:mean_over",
    "final": "dde.dataset.finals:final",
    "base_curves": "dde.dataset.bases:base_curves",
    "difference_to_base": "dde.dataset.bases:difference_to_base",
    "support": "dde.dataset.provenance:support",
    "observed": "dde.dataset.provenance:observed",
    "sampled_as": "dde.dataset.samples:sampled_as",
    "checkpoint_type": "dde.dataset.provenance:checkpoint_type",
    "revision": "dde.dataset.provenance:revision",
    "to_frame": "dde.dataset.long_table:to_frame",
    "to_parquet": "dde.dataset.long_table:to_parquet",
    "plot": "dde.plots.curves:plot_curves",
    "plot_heatmap": "dde.plots.heatmap:plot_heatmap",
    "plot_scaling": "dde.plots.scaling:plot_scaling",
    "plot_tree": "dde.plots.tree:plot_tree",
    "explore": "dde.explore.page:explore",
    "reach": "dde.analysis.crossings:reach",
    "match": "dde.analysis.matching:match",
    "smooth": "dde.analysis.smoothing:smooth",
    "effect": "dde.analysis.effects:effect",
    "best": "dde.analysis.choices:best",
    "fit": "dde.analysis.fits:fit",
    "predict": "dde.analysis.predictions:predict",
    "ranks": "dde.analysis.rankings:ranks",
    "decision_accuracy": "dde.analysis.decisions:decision_accuracy",
    "signal_to_noise": "dde.analysis.signal:signal_to_noise",
}

#: Options of `plot` with their defaults, of which the picture of an answer may have some.
_PLOT_OPTIONS = {
    "y": None, "x": None, "hue_by": "auto", "style_by": "checkpoint_type", "facet_by": "lineage", "band": None,
    "min_count": None, "relative_to": None, "log_x": None, "log_y": False, "zoom": None, "mark_branches": True,
}  # fmt: skip

_NO_PARAMETERS = re.compile(r" *Parameters\n *-+\n\s*(?=\n *\w+\n *-+\n|\Z)")


def _function(name: str) -> Callable[..., Any]:
    module, _, function = _FUNCTIONS[name].partition(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return loaded


def _documentation(function: Callable[..., Any], method: Callable[..., Any]) -> str:
    """Return the docstring of a function without the parameters that its method does not have."""
    text = function.__doc__ or ""
    parameters = inspect.signature(method).parameters
    for name in inspect.signature(function).parameters:
        if name not in parameters:
            # The line of a parameter and the indented lines below it.
            block = re.compile(rf"^( *){name}\b *(?::[^\n]*)?\n(?:\1 +[^\n]*\n)*", re.MULTILINE)
            text = block.sub("", text, count=1)
    return _NO_PARAMETERS.sub("", text)


def _plot_answer(
    answer: xr.Dataset,
    question: str,
    options: Mapping[str, Any],
    backend: BackendName,
    columns: int | None,
    frame_size: Size | None,
) -> Any:
    """Draw an answer by the function of its question.

    Raises
    ------
    UnknownNameError
        When the picture has no such option.
    """
    from dde.errors import UnknownNameError, near_names

    module = importlib.import_module(f"dde.plots.answers.{question}")
    draw = getattr(module, f"plot_{question}")
    known = [n for n in inspect.signature(draw).parameters if n != "answer"]
    if unknown := [n for n in options if n not in known]:
        raise UnknownNameError(
            f"{unknown[0]}= is not an option of the picture of {question}, so it would do nothing."
            f"{near_names(unknown[0], known)} Options are {', '.join(known)}."
        )
    return draw(answer, **options, backend=backend, columns=columns, frame_size=frame_size)


def _check_factors(obj: xr.Dataset | xr.DataArray, factors: Iterable[str]) -> None:
    """Raise a TypeError where keywords are not factors of the suite, as Python does for unknown keywords."""
    from dde.schema import factors_of

    known = factors_of(obj)
    if unknown := [name for name in factors if name not in known]:
        raise TypeError(f"explore() got an unexpected keyword argument {unknown[0]!r}")


def _changed_options(method: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments that differ from their defaults; the application chooses the others."""
    return {name: given[name] for name, default in method.__kwdefaults__.items() if given[name] != default}


class _Documented:
    """A class whose methods get the docstrings of the functions that they call."""

    def __getattribute__(self, name: str) -> Any:
        if name in _FUNCTIONS:
            method = getattr(type(self), name)
            if not getattr(method, "is_documented", False):
                method.__doc__ = _documentation(_function(name), method)
                method.is_documented = True
        return super().__getattribute__(name)


@xr.register_dataset_accessor("dde")  # type: ignore[no-untyped-call]
class DdeDatasetAccessor(_Documented):
    """Operations on a Dataset of lineages."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._obj = dataset

    def sel(self, **filters: Any) -> xr.Dataset:
        """Return the part of the Dataset where every coordinate matches."""
        selected: xr.Dataset = _function("sel")(self._obj, **filters)
        return selected

    def align(
        self,
        grid: Grid = "auto",
        interp: Method | None = None,
        *,
        axis: str | None = None,
        max_gap: float | None = None,
        bridge: bool | None = None,
        max_points: int = 1024,
    ) -> xr.Dataset:
        """Return the Dataset on another grid or axis, or interpolated in another way."""
        aligned: xr.Dataset = _function("align")(
            self._obj, grid, interp, axis=axis, max_gap=max_gap, bridge=bridge, max_points=max_points
        )
        return aligned

    def derive(self, **functions: Callable[[xr.Dataset], xr.DataArray]) -> xr.Dataset:
        """Return the Dataset with new metrics, computed from observations and then interpolated like the others."""
        derived: xr.Dataset = _function("derive")(self._obj, **functions)
        return derived

    def sweep(self, *names: str) -> xr.Dataset:
        """Return the Dataset with hyperparameters as dimensions in place of ``run``."""
        swept: xr.Dataset = _function("sweep")(self._obj, *names)
        return swept

    def mean_over(
        self,
        over: str | Iterable[str],
        min_count: int | None = None,
        interval: float | None = 0.95,
        method: IntervalMethod = "auto",
    ) -> xr.Dataset:
        """Return means over seeds, replicates or other factors, with their count, spread and uncertainty."""
        means: xr.Dataset = _function("mean_over")(self._obj, over, min_count, interval, method)
        return means

    def final(self, metric: str | None = None, at: At | float = "last") -> xr.DataArray:
        """Return the final value of a metric in each run: its own last value, or its value at a common position."""
        finals: xr.DataArray = _function("final")(self._obj, metric, at)
        return finals

    def base_curves(self) -> xr.Dataset:
        """Return only the curves of the bases."""
        bases: xr.Dataset = _function("base_curves")(self._obj)
        return bases

    def difference_to_base(self, max_distance: float | None = 0.05) -> xr.Dataset:
        """Return the change of every metric from the base's last observation before the run's chain left it."""
        change: xr.Dataset = _function("difference_to_base")(self._obj, max_distance)
        return change

    def support(self, metric: str) -> xr.DataArray:
        """Return whether each cell of a metric is observed, interpolated, or outside of the run's observations."""
        from dde.dataset.provenance import metric_named

        codes: xr.DataArray = _function("support")(self._obj[metric_named(self._obj, metric)])
        return codes

    def observed(self) -> xr.Dataset:
        """Return the observations only: NaN where the run was not sampled."""
        seen: xr.Dataset = _function("observed")(self._obj)
        return seen

    def sampled_as(self, samplings: str | Sequence[str] | None = None, **by_name: str | Sequence[str]) -> xr.Dataset:
        """Name the samplings of variables whose attribute ``ancillary_variables`` was lost."""
        named: xr.Dataset = _function("sampled_as")(self._obj, samplings, **by_name)
        return named

    def checkpoint_type(self) -> xr.DataArray:
        """Return the type of the run that was training at each cell."""
        codes: xr.DataArray = _function("checkpoint_type")(self._obj)
        return codes

    def revision(self) -> xr.Dataset:
        """Return the Hub model, revision and step of each cell that is a pretraining checkpoint."""
        revisions: xr.Dataset = _function("revision")(self._obj)
        return revisions

    def to_frame(self, dropna: bool = True) -> pd.DataFrame:
        """Return one row per lineage, run and token, with columns for lineage, run and treatment."""
        if "answer" in self._obj.attrs:
            from dde.analysis.answers import answer_frame

            return answer_frame(self._obj)
        frame: pd.DataFrame = _function("to_frame")(self._obj, dropna)
        return frame

    def to_parquet(self, path: str | os.PathLike[str], dropna: bool = True) -> Path:
        """Write the long table as parquet, a lineage at a time."""
        written: Path = _function("to_parquet")(self._obj, path, dropna)
        return written

    def plot(
        self,
        y: str | Sequence[str] | None = None,
        x: str | None = None,
        *,
        hue_by: str | None = "auto",
        style_by: str | None = "checkpoint_type",
        facet_by: str | None = "lineage",
        band: str | Sequence[str] | None = None,
        min_count: int | None = None,
        relative_to: Literal["base"] | None = None,
        backend: BackendName = "bokeh",
        log_x: bool | None = None,
        log_y: bool = False,
        zoom: bool | None = None,
        mark_branches: bool = True,
        columns: int | None = None,
        frame_size: Size | None = None,
    ) -> Any:
        """Draw curves of lineages, pretraining and post-training joined; or an answer of :mod:`dde.analysis`."""
        if question := self._obj.attrs.get("answer"):
            given = locals()
            options = {n: given[n] for n in _PLOT_OPTIONS if given[n] != _PLOT_OPTIONS[n]}
            return _plot_answer(self._obj, str(question), options, backend, columns, frame_size)
        return _function("plot")(
            self._obj, y, x, hue_by=hue_by, style_by=style_by, facet_by=facet_by, band=band, min_count=min_count,
            relative_to=relative_to, backend=backend, log_x=log_x, log_y=log_y, zoom=zoom,
            mark_branches=mark_branches, columns=columns, frame_size=frame_size,
        )  # fmt: skip

    def plot_heatmap(
        self,
        metric: str,
        x: str | None = None,
        y: str | None = None,
        *,
        facet_by: str | None = "auto",
        reduce: Reduce | None = None,
        average_over: str | Sequence[str] = (),
        backend: BackendName = "bokeh",
        columns: int | None = None,
        frame_size: Size | None = None,
    ) -> Any:
        """Draw a sweep as a heat map of the final values of runs."""
        return _function("plot_heatmap")(
            self._obj, metric, x, y, facet_by=facet_by, reduce=reduce, average_over=average_over, backend=backend,
            columns=columns, frame_size=frame_size,
        )  # fmt: skip

    def plot_scaling(
        self,
        metric: str,
        x: Literal[
            "cumulative_compute", "cumulative_tokens", "tokens_per_parameter", "n_params"
        ] = "cumulative_compute",
        *,
        at: At | Literal["auto"] | float = "auto",
        hue_by: str | None = "auto",
        style_by: str | None = "run_type",
        facet_by: str | None = None,
        band: str | None = "auto",
        reduce: Reduce | None = None,
        log_x: bool = True,
        log_y: bool = False,
        backend: BackendName = "bokeh",
        columns: int | None = None,
        frame_size: Size | None = None,
    ) -> Any:
        """Draw the final values of runs against their cost."""
        return _function("plot_scaling")(
            self._obj, metric, x, at=at, hue_by=hue_by, style_by=style_by, facet_by=facet_by, band=band,
            reduce=reduce, log_x=log_x, log_y=log_y, backend=backend, columns=columns, frame_size=frame_size,
        )  # fmt: skip

    def plot_tree(
        self,
        metric: str | None = None,
        *,
        reduce: Reduce | None = None,
        backend: BackendName = "bokeh",
        frame_size: Size | None = None,
    ) -> Any:
        """Draw the tree of each lineage's runs."""
        return _function("plot_tree")(self._obj, metric, reduce=reduce, backend=backend, frame_size=frame_size)

    def explore(
        self,
        *,
        params: str | Sequence[str] | None = None,
        data: str | Sequence[str] | None = None,
        seed: str | int | Sequence[str | int] | None = None,
        lineage: str | Sequence[str] | None = None,
        method: str | Sequence[str] | None = None,
        learning_rate: float | Sequence[float] | None = None,
        budget: str | Sequence[str] | None = None,
        run: str | Sequence[str] | None = None,
        metrics: str | Sequence[str] | None = None,
        x: str = "cumulative_tokens",
        log_x: bool = False,
        grid: Literal["as opened", "auto", "observed", "linear", "log", "quantile"] = "as opened",
        points: int = 200,
        interp: Literal["as opened"] | Method = "as opened",
        hue_by: str | None = "auto",
        style_by: str | None = "checkpoint_type",
        facet_by: str | None = "lineage",
        band: str = "none",
        zoom: bool = True,
        log_y: bool = False,
        relative_to: Literal["base"] | None = None,
        **factors: Any,
    ) -> Explorer:
        """Return an application with widgets, picture and table."""
        given = locals()
        _check_factors(self._obj, factors)
        options = _changed_options(DdeDatasetAccessor.explore, given) | factors
        explorer: Explorer = _function("explore")(self._obj, **options)
        return explorer

    def reach(
        self,
        metric: str | Sequence[str] | None,
        target: Target,
        *,
        rule: Literal["first", "sustained", "monotone"] = "first",
        direction: Direction | None = None,
        at: Place | None = None,
    ) -> xr.Dataset:
        """Return the tokens and compute at which runs reach a target."""
        answer: xr.Dataset = _function("reach")(self._obj, metric, target, rule=rule, direction=direction, at=at)
        return answer

    def match(
        self,
        metric: str | Sequence[str] | None,
        to: Target,
        *,
        at: Place | None = None,
    ) -> xr.Dataset:
        """Return the checkpoint of each run whose observed metric is nearest to a target."""
        answer: xr.Dataset = _function("match")(self._obj, metric, to, at=at)
        return answer

    def smooth(
        self,
        metric: str | Sequence[str] | None = None,
        *,
        how: Literal["ema", "mean"] = "ema",
        span: float,
    ) -> xr.Dataset:
        """Return metrics averaged over the observations of each run, weighted by distance in tokens."""
        smoothed: xr.Dataset = _function("smooth")(self._obj, metric, how=how, span=span)
        return smoothed

    def effect(
        self,
        metric: str | Sequence[str] | None = None,
        *,
        max_distance: float | None = 0.05,
        at: Place | None = None,
        over: str | Sequence[str] | None = None,
        forgetting: bool = True,
        direction: Direction | None = None,
        interval: Interval = "t",
        level: float = 0.95,
    ) -> xr.Dataset:
        """Return what post-training changed in each derived run."""
        answer: xr.Dataset = _function("effect")(
            self._obj, metric, max_distance=max_distance, at=at, over=over, forgetting=forgetting,
            direction=direction, interval=interval, level=level,
        )  # fmt: skip
        return answer

    def best(
        self,
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
        """Return the best value of a hyperparameter in each remaining cell, and how sure it is."""
        answer: xr.Dataset = _function("best")(
            self._obj, metric, over, at=at, replicates=replicates, direction=direction, interval=interval, level=level,
            samples=samples, seed=seed,
        )  # fmt: skip
        return answer

    def fit(
        self,
        metric: str | Sequence[str] | None = None,
        *,
        law: LawName = "power",
        x: Quantity | None = None,
        offset: bool = True,
        loss: str | Sequence[str] | Mapping[str, str] | None = None,
        at: Place | None = None,
        points: Literal["final", "all"] | None = None,
        window: int = 1,
        skip: float = 0.0,
        by: str | Sequence[str] | None = None,
        hold_out: Mapping[str, Any] | None = None,
        delta: float = 1e-3,
        ceiling: float | None = 1.0,
        starts: int = 4,
        interval: Interval = "bootstrap",
        level: float = 0.95,
        samples: int = 200,
        seed: int = 0,
    ) -> xr.Dataset:
        """Fit a scaling law, one fit per metric and per group of runs."""
        answer: xr.Dataset = _function("fit")(
            self._obj, metric, law=law, x=x, offset=offset, loss=loss, at=at, points=points, window=window, skip=skip,
            by=by, hold_out=hold_out, delta=delta, ceiling=ceiling, starts=starts, interval=interval, level=level,
            samples=samples, seed=seed,
        )  # fmt: skip
        return answer

    def predict(
        self,
        *,
        n_params: Sizes | None = None,
        tokens: Sizes | None = None,
        compute: Sizes | None = None,
        loss: Sizes | None = None,
    ) -> xr.Dataset:
        """Evaluate the laws of an answer of ``fit`` at other sizes."""
        predicted: xr.Dataset = _function("predict")(
            self._obj, n_params=n_params, tokens=tokens, compute=compute, loss=loss
        )
        return predicted

    def ranks(
        self,
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
        """Return how alike two conditions rank the values of a factor."""
        answer: xr.Dataset = _function("ranks")(
            self._obj, metric, over=over, a=a, b=b, at=at, replicates=replicates, seeds=seeds, ties=ties,
            interval=interval, level=level, samples=samples, seed=seed,
        )  # fmt: skip
        return answer

    def decision_accuracy(
        self,
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
        """Return the share of pairs of recipes that small scales order as the target scale does."""
        answer: xr.Dataset = _function("decision_accuracy")(
            self._obj, metric, over=over, target=target, small=small, checkpoints=checkpoints, proxy=proxy, at=at,
            replicates=replicates, seeds=seeds, ties=ties, interval=interval, level=level, samples=samples, seed=seed,
        )  # fmt: skip
        return answer

    def signal_to_noise(
        self,
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
        """Return the spread over recipes, the scatter over seeds and last checkpoints, and their ratio."""
        answer: xr.Dataset = _function("signal_to_noise")(
            self._obj, metric, over=over, last=last, spread=spread, at=at, replicates=replicates, interval=interval,
            level=level,
        )  # fmt: skip
        return answer


@xr.register_dataarray_accessor("dde")  # type: ignore[no-untyped-call]
class DdeDataArrayAccessor(_Documented):
    """Operations on one metric of a Dataset of lineages, as on a Dataset with only this metric."""

    def __init__(self, array: xr.DataArray) -> None:
        self._obj = array

    @property
    def _name(self) -> str:
        return str(self._obj.name or "value")

    @property
    def _dataset(self) -> DdeDatasetAccessor:
        return DdeDatasetAccessor(self._obj.to_dataset(name=self._obj.name or "value"))

    def _array(self, dataset: xr.Dataset) -> xr.DataArray:
        array = dataset[self._obj.name or "value"]
        return array if self._obj.name else array.rename(None)

    def sel(self, **filters: Any) -> xr.DataArray:
        """Return the part of the array where every coordinate matches."""
        selected: xr.DataArray = _function("sel")(self._obj, **filters)
        return selected

    def align(
        self,
        grid: Grid = "auto",
        interp: Method | None = None,
        *,
        axis: str | None = None,
        max_gap: float | None = None,
        bridge: bool | None = None,
        max_points: int = 1024,
    ) -> xr.DataArray:
        """Return the array on another grid or axis, or interpolated in another way."""
        return self._array(
            self._dataset.align(grid, interp, axis=axis, max_gap=max_gap, bridge=bridge, max_points=max_points)
        )

    def derive(self, function: Callable[[xr.DataArray], xr.DataArray]) -> xr.DataArray:
        """Return a metric that a function computes from the observations, interpolated like the array itself."""
        return self._array(self._dataset.derive(**{self._name: lambda seen: function(seen[self._name])}))

    def sweep(self, *names: str) -> xr.DataArray:
        """Return the array with hyperparameters as dimensions in place of ``run``."""
        return self._array(self._dataset.sweep(*names))

    def mean_over(
        self,
        over: str | Iterable[str],
        min_count: int | None = None,
        interval: float | None = 0.95,
        method: IntervalMethod = "auto",
    ) -> xr.Dataset:
        """Return means over seeds, replicates or other factors, with their count, spread and uncertainty."""
        return self._dataset.mean_over(over, min_count, interval, method)

    def final(self, at: At | float = "last") -> xr.DataArray:
        """Return the final value of each run: its own last value, or its value at a common position."""
        return self._array(self._dataset.final(self._name, at).to_dataset(name=self._obj.name or "value"))

    def base_curves(self) -> xr.DataArray:
        """Return only the curves of the bases."""
        return self._array(self._dataset.base_curves())

    def difference_to_base(self, max_distance: float | None = 0.05) -> xr.DataArray:
        """Return the change of the metric from the base's last observation before the run's chain left it."""
        return self._array(self._dataset.difference_to_base(max_distance))

    def support(self) -> xr.DataArray:
        """Return whether each cell is observed, interpolated, or outside of the run's observations."""
        codes: xr.DataArray = _function("support")(self._obj)
        return codes

    def observed(self) -> xr.DataArray:
        """Return the observations only: NaN where the run was not sampled."""
        seen: xr.DataArray = _function("observed")(self._obj)
        return seen

    def sampled_as(self, samplings: str | Sequence[str]) -> xr.DataArray:
        """Name the samplings of an array whose attribute ``ancillary_variables`` was lost."""
        named: xr.DataArray = _function("sampled_as")(self._obj, samplings)
        return named

    def checkpoint_type(self) -> xr.DataArray:
        """Return the type of the run that was training at each cell."""
        codes: xr.DataArray = _function("checkpoint_type")(self._obj)
        return codes

    def revision(self) -> xr.Dataset:
        """Return the Hub model, revision and step of each cell that is a pretraining checkpoint."""
        revisions: xr.Dataset = _function("revision")(self._obj)
        return revisions

    def to_frame(self, dropna: bool = True) -> pd.DataFrame:
        """Return one row per lineage, run and token, with columns for lineage, run and treatment."""
        return self._dataset.to_frame(dropna)

    def to_parquet(self, path: str | os.PathLike[str], dropna: bool = True) -> Path:
        """Write the long table as parquet, a lineage at a time."""
        return self._dataset.to_parquet(path, dropna)

    def plot(
        self,
        x: str | None = None,
        *,
        hue_by: str | None = "auto",
        style_by: str | None = "checkpoint_type",
        facet_by: str | None = "lineage",
        band: str | Sequence[str] | None = None,
        min_count: int | None = None,
        relative_to: Literal["base"] | None = None,
        backend: BackendName = "bokeh",
        log_x: bool | None = None,
        log_y: bool = False,
        zoom: bool | None = None,
        mark_branches: bool = True,
        columns: int | None = None,
        frame_size: Size | None = None,
    ) -> Any:
        """Draw curves of lineages, pretraining and post-training joined."""
        return self._dataset.plot(
            None, x, hue_by=hue_by, style_by=style_by, facet_by=facet_by, band=band, min_count=min_count,
            relative_to=relative_to, backend=backend, log_x=log_x, log_y=log_y, zoom=zoom,
            mark_branches=mark_branches, columns=columns, frame_size=frame_size,
        )  # fmt: skip

    def plot_heatmap(
        self,
        x: str | None = None,
        y: str | None = None,
        *,
        facet_by: str | None = "auto",
        reduce: Reduce | None = None,
        average_over: str | Sequence[str] = (),
        backend: BackendName = "bokeh",
        columns: int | None = None,
        frame_size: Size | None = None,
    ) -> Any:
        """Draw a sweep as a heat map of the final values of runs."""
        return self._dataset.plot_heatmap(
            self._name, x, y, facet_by=facet_by, reduce=reduce, average_over=average_over, backend=backend,
            columns=columns, frame_size=frame_size,
        )  # fmt: skip

    def plot_scaling(
        self,
        x: Literal[
            "cumulative_compute", "cumulative_tokens", "tokens_per_parameter", "n_params"
        ] = "cumulative_compute",
        *,
        at: At | Literal["auto"] | float = "auto",
        hue_by: str | None = "auto",
        style_by: str | None = "run_type",
        facet_by: str | None = None,
        band: str | None = "auto",
        reduce: Reduce | None = None,
        log_x: bool = True,
        log_y: bool = False,
        backend: BackendName = "bokeh",
        columns: int | None = None,
        frame_size: Size | None = None,
    ) -> Any:
        """Draw the final values of runs against their cost."""
        return self._dataset.plot_scaling(
            self._name, x, at=at, hue_by=hue_by, style_by=style_by, facet_by=facet_by, band=band, reduce=reduce,
            log_x=log_x, log_y=log_y, backend=backend, columns=columns, frame_size=frame_size,
        )  # fmt: skip

    def plot_tree(
        self, *, reduce: Reduce | None = None, backend: BackendName = "bokeh", frame_size: Size | None = None
    ) -> Any:
        """Draw the tree of each lineage's runs."""
        return self._dataset.plot_tree(self._name, reduce=reduce, backend=backend, frame_size=frame_size)

    def explore(
        self,
        *,
        params: str | Sequence[str] | None = None,
        data: str | Sequence[str] | None = None,
        seed: str | int | Sequence[str | int] | None = None,
        lineage: str | Sequence[str] | None = None,
        method: str | Sequence[str] | None = None,
        learning_rate: float | Sequence[float] | None = None,
        budget: str | Sequence[str] | None = None,
        run: str | Sequence[str] | None = None,
        x: str = "cumulative_tokens",
        log_x: bool = False,
        grid: Literal["as opened", "auto", "observed", "linear", "log", "quantile"] = "as opened",
        points: int = 200,
        interp: Literal["as opened"] | Method = "as opened",
        hue_by: str | None = "auto",
        style_by: str | None = "checkpoint_type",
        facet_by: str | None = "lineage",
        band: str = "none",
        zoom: bool = True,
        log_y: bool = False,
        relative_to: Literal["base"] | None = None,
        **factors: Any,
    ) -> Explorer:
        """Return an application with widgets, picture and table."""
        given = locals()
        _check_factors(self._obj, factors)
        options = _changed_options(DdeDataArrayAccessor.explore, given) | factors
        explorer: Explorer = _function("explore")(self._dataset._obj, metrics=self._name, **options)
        return explorer

    def reach(
        self,
        target: Target,
        *,
        rule: Literal["first", "sustained", "monotone"] = "first",
        direction: Direction | None = None,
        at: Place | None = None,
    ) -> xr.Dataset:
        """Return the tokens and compute at which runs reach a target."""
        answer: xr.Dataset = self._dataset.reach(self._name, target, rule=rule, direction=direction, at=at)
        return answer

    def match(
        self,
        to: Target,
        *,
        at: Place | None = None,
    ) -> xr.Dataset:
        """Return the checkpoint of each run whose observed metric is nearest to a target."""
        answer: xr.Dataset = self._dataset.match(self._name, to, at=at)
        return answer

    def smooth(
        self,
        *,
        how: Literal["ema", "mean"] = "ema",
        span: float,
    ) -> xr.DataArray:
        """Return metrics averaged over the observations of each run, weighted by distance in tokens."""
        return self._array(self._dataset.smooth(self._name, how=how, span=span))

    def effect(
        self,
        *,
        max_distance: float | None = 0.05,
        at: Place | None = None,
        over: str | Sequence[str] | None = None,
        forgetting: bool = True,
        direction: Direction | None = None,
        interval: Interval = "t",
        level: float = 0.95,
    ) -> xr.Dataset:
        """Return what post-training changed in each derived run."""
        answer: xr.Dataset = self._dataset.effect(
            self._name, max_distance=max_distance, at=at, over=over, forgetting=forgetting,
            direction=direction, interval=interval, level=level,
        )  # fmt: skip
        return answer

    def best(
        self,
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
        """Return the best value of a hyperparameter in each remaining cell, and how sure it is."""
        answer: xr.Dataset = self._dataset.best(
            self._name, over, at=at, replicates=replicates, direction=direction, interval=interval, level=level,
            samples=samples, seed=seed,
        )  # fmt: skip
        return answer

    def fit(
        self,
        *,
        law: LawName = "power",
        x: Quantity | None = None,
        offset: bool = True,
        at: Place | None = None,
        points: Literal["final", "all"] | None = None,
        window: int = 1,
        skip: float = 0.0,
        by: str | Sequence[str] | None = None,
        hold_out: Mapping[str, Any] | None = None,
        delta: float = 1e-3,
        ceiling: float | None = 1.0,
        starts: int = 4,
        interval: Interval = "bootstrap",
        level: float = 0.95,
        samples: int = 200,
        seed: int = 0,
    ) -> xr.Dataset:
        """Fit a scaling law, one fit per metric and per group of runs."""
        answer: xr.Dataset = self._dataset.fit(
            self._name, law=law, x=x, offset=offset, at=at, points=points, window=window, skip=skip,
            by=by, hold_out=hold_out, delta=delta, ceiling=ceiling, starts=starts, interval=interval, level=level,
            samples=samples, seed=seed,
        )  # fmt: skip
        return answer

    def ranks(
        self,
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
        """Return how alike two conditions rank the values of a factor."""
        answer: xr.Dataset = self._dataset.ranks(
            self._name, over=over, a=a, b=b, at=at, replicates=replicates, seeds=seeds, ties=ties, interval=interval,
            level=level, samples=samples, seed=seed,
        )  # fmt: skip
        return answer

    def decision_accuracy(
        self,
        over: str = "data",
        *,
        target: Mapping[str, Any],
        small: Mapping[str, Any] | None = None,
        checkpoints: Literal["last", "all"] = "last",
        at: Place | None = None,
        replicates: str | Sequence[str] | None = None,
        seeds: Literal["mean", "each"] = "mean",
        ties: Ties = "sign",
        interval: Interval | None = None,
        level: float = 0.95,
        samples: int = 200,
        seed: int = 0,
    ) -> xr.Dataset:
        """Return the share of pairs of recipes that small scales order as the target scale does."""
        answer: xr.Dataset = self._dataset.decision_accuracy(
            self._name, over=over, target=target, small=small, checkpoints=checkpoints, at=at,
            replicates=replicates, seeds=seeds, ties=ties, interval=interval, level=level, samples=samples, seed=seed,
        )  # fmt: skip
        return answer

    def signal_to_noise(
        self,
        over: str = "data",
        *,
        last: int = 5,
        spread: Literal["std", "range"] = "std",
        at: Place | None = None,
        replicates: str | Sequence[str] | None = None,
        interval: Literal["f", "none"] = "f",
        level: float = 0.95,
    ) -> xr.Dataset:
        """Return the spread over recipes, the scatter over seeds and last checkpoints, and their ratio."""
        answer: xr.Dataset = self._dataset.signal_to_noise(
            self._name, over=over, last=last, spread=spread, at=at, replicates=replicates, interval=interval,
            level=level,
        )  # fmt: skip
        return answer
