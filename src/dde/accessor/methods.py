"""The accessor ``ds.dde``: operations on Datasets of lineages, each a thin method that calls a plain function.

A method has the docstring of its function, without the parameter that is the object itself. The docstring is copied
when the method is first looked up, because importing all functions takes longer than importing xarray.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from dde.accessor.functions import function_of
from dde.accessor.questions import ArrayQuestions, DatasetQuestions

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from dde.analysis.footing import Place
    from dde.analysis.intervals import Interval
    from dde.curves.alignment import Method
    from dde.curves.grids import TokenGrid
    from dde.curves.statistics import IntervalMethod
    from dde.dataset.finals import At
    from dde.explore.page import Explorer
    from dde.plots.backends.base import BackendName
    from dde.plots.cells import Reduce
    from dde.plots.picture_options import LegendPlace, Limits, Order, Palette

    Grid = Literal["auto", "union"] | int | npt.ArrayLike | TokenGrid
    Size = tuple[int, int]

__all__ = ["DdeDataArrayAccessor", "DdeDatasetAccessor"]

# Questions whose answers have a picture, and all whose answers are Datasets of their own.
_PICTURES = frozenset(
    ["best", "compare", "decision_accuracy", "effect", "fit", "match", "ranks", "reach", "signal_to_noise"]
)
_QUESTIONS = _PICTURES | {"predict"}
#: Options of curves with their defaults, of which the picture of an answer may have some.
_CURVE_OPTIONS = {
    "y": None, "x": None, "hue_by": "auto", "style_by": "checkpoint_type", "facet_by": "lineage", "band": None,
    "group_by": None, "min_count": None, "relative_to": None, "log_x": None, "log_y": False, "zoom": None,
    "mark_branches": True, "smooth": None, "clip_outliers": False, "highlight": None,
}  # fmt: skip


def _plot_answer(answer: xr.Dataset, question: str, options: Mapping[str, Any]) -> Any:
    """Draw an answer by the function of its question.

    Raises
    ------
    UnknownNameError
        When the picture has no such option.
    SelectionError
        When the question has no picture.
    """
    from dde.errors import SelectionError, UnknownNameError, near_names

    if question not in _PICTURES:
        raise SelectionError(
            f"an answer of {question} has no picture of its own. Draw its variables with hvPlot or Matplotlib, or draw "
            "the answer of fit, which shows its laws."
        )
    module = importlib.import_module(f"dde.plots.answers.{question}")
    draw = getattr(module, f"plot_{question}")
    known = [n for n in inspect.signature(draw).parameters if n != "answer"]
    if unknown := [n for n in options if n not in known]:
        raise UnknownNameError(
            f"{unknown[0]}= is not an option of the picture of {question}, so it would do nothing."
            f"{near_names(unknown[0], known)} Options are {', '.join(known)}."
        )
    return draw(answer, **options)


def _arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a method, given its local names when it starts, without the object itself."""
    return {name: value for name, value in given.items() if name != "self"}


def _check_factors(obj: xr.Dataset | xr.DataArray, factors: Iterable[str]) -> None:
    """Raise a TypeError where keywords are not factors of the suite, as Python does for unknown keywords."""
    from dde.schema import factors_of

    known = factors_of(obj)
    if unknown := [name for name in factors if name not in known]:
        raise TypeError(f"explore() got an unexpected keyword argument {unknown[0]!r}")


def _changed_options(method: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments that differ from their defaults; the application chooses the others."""
    return {name: given[name] for name, default in method.__kwdefaults__.items() if given[name] != default}


@xr.register_dataset_accessor("dde")  # type: ignore[no-untyped-call]
class DdeDatasetAccessor(DatasetQuestions):
    """Operations on a Dataset of lineages."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._obj = dataset

    def sel(self, **filters: Any) -> xr.Dataset:
        """Return the part of the Dataset where every coordinate matches."""
        selected: xr.Dataset = function_of("sel")(self._obj, **filters)
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
        aligned: xr.Dataset = function_of("align")(
            self._obj, grid, interp, axis=axis, max_gap=max_gap, bridge=bridge, max_points=max_points
        )
        return aligned

    def derive(self, **functions: Callable[[xr.Dataset], xr.DataArray]) -> xr.Dataset:
        """Return the Dataset with new metrics, computed from observations and then interpolated like the others."""
        derived: xr.Dataset = function_of("derive")(self._obj, **functions)
        return derived

    def sweep(self, *names: str) -> xr.Dataset:
        """Return the Dataset with hyperparameters as dimensions in place of ``run``."""
        swept: xr.Dataset = function_of("sweep")(self._obj, *names)
        return swept

    def mean_over(
        self,
        over: str | Iterable[str],
        min_count: int | None = None,
        interval: float | None = 0.95,
        method: IntervalMethod = "auto",
    ) -> xr.Dataset:
        """Return means over seeds, replicates or other factors, with their count, spread and uncertainty."""
        means: xr.Dataset = function_of("mean_over")(self._obj, over, min_count, interval, method)
        return means

    def final(self, metric: str | None = None, at: At | float = "last") -> xr.DataArray:
        """Return the final value of a metric in each run: its own last value, or its value at a common position."""
        finals: xr.DataArray = function_of("final")(self._obj, metric, at)
        return finals

    def base_curves(self) -> xr.Dataset:
        """Return only the curves of the bases."""
        bases: xr.Dataset = function_of("base_curves")(self._obj)
        return bases

    def difference_to_base(self, max_distance: float | None = 0.05) -> xr.Dataset:
        """Return the change of every metric from the base's last observation before the run's chain left it."""
        change: xr.Dataset = function_of("difference_to_base")(self._obj, max_distance)
        return change

    def support(self, metric: str) -> xr.DataArray:
        """Return whether each cell of a metric is observed, interpolated, or outside of the run's observations."""
        from dde.dataset.provenance import metric_named

        codes: xr.DataArray = function_of("support")(self._obj[metric_named(self._obj, metric)])
        return codes

    def observed(self) -> xr.Dataset:
        """Return the observations only: NaN where the run was not sampled."""
        seen: xr.Dataset = function_of("observed")(self._obj)
        return seen

    def sampled_as(self, samplings: str | Sequence[str] | None = None, **by_name: str | Sequence[str]) -> xr.Dataset:
        """Name the samplings of variables whose attribute ``ancillary_variables`` was lost."""
        named: xr.Dataset = function_of("sampled_as")(self._obj, samplings, **by_name)
        return named

    def checkpoint_type(self) -> xr.DataArray:
        """Return the type of the run that was training at each cell."""
        codes: xr.DataArray = function_of("checkpoint_type")(self._obj)
        return codes

    def revision(self) -> xr.Dataset:
        """Return the Hub model, revision and step of each cell that is a pretraining checkpoint."""
        revisions: xr.Dataset = function_of("revision")(self._obj)
        return revisions

    def to_frame(self, dropna: bool = True) -> pd.DataFrame:
        """Return one row per lineage, run and token, with columns for lineage, run and treatment."""
        if self._obj.attrs.get("answer") in _QUESTIONS:
            from dde.analysis.answers import answer_frame

            return answer_frame(self._obj)
        frame: pd.DataFrame = function_of("to_frame")(self._obj, dropna)
        return frame

    def to_parquet(self, path: str | os.PathLike[str], dropna: bool = True) -> Path:
        """Write the long table as parquet, a lineage at a time."""
        written: Path = function_of("to_parquet")(self._obj, path, dropna)
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
        group_by: str | None = None,
        min_count: int | None = None,
        relative_to: str | None = None,
        smooth: float | None = None,
        clip_outliers: float | bool = False,
        highlight: str | Sequence[str] | None = None,
        backend: BackendName = "bokeh",
        log_x: bool | None = None,
        log_y: bool = False,
        zoom: bool | None = None,
        mark_branches: bool = True,
        columns: int | None = None,
        frame_size: Size | None = None,
        title: str | None = None,
        labels: Mapping[str, str] | None = None,
        palette: Palette | None = None,
        order: Order | None = None,
        size: tuple[float, float] | None = None,
        font_size: float | None = None,
        xlim: Limits | None = None,
        ylim: Limits | None = None,
        legend: LegendPlace = "right",
        caption: bool | str = True,
    ) -> Any:
        """Draw curves of lineages, pretraining and post-training joined; or an answer of :mod:`dde.analysis`."""
        given = _arguments(locals())
        if (question := self._obj.attrs.get("answer")) in _QUESTIONS:
            given = {n: v for n, v in given.items() if n not in _CURVE_OPTIONS or v != _CURVE_OPTIONS[n]}
            return _plot_answer(self._obj, str(question), given)
        return function_of("plot")(self._obj, **given)

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
        title: str | None = None,
        labels: Mapping[str, str] | None = None,
        palette: Palette | None = None,
        order: Order | None = None,
        size: tuple[float, float] | None = None,
        font_size: float | None = None,
        xlim: Limits | None = None,
        ylim: Limits | None = None,
        legend: LegendPlace = "right",
        caption: bool | str = True,
    ) -> Any:
        """Draw a sweep as a heat map of the final values of runs."""
        return function_of("plot_heatmap")(self._obj, **_arguments(locals()))

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
        title: str | None = None,
        labels: Mapping[str, str] | None = None,
        palette: Palette | None = None,
        order: Order | None = None,
        size: tuple[float, float] | None = None,
        font_size: float | None = None,
        xlim: Limits | None = None,
        ylim: Limits | None = None,
        legend: LegendPlace = "right",
        caption: bool | str = True,
    ) -> Any:
        """Draw the final values of runs against their cost."""
        return function_of("plot_scaling")(self._obj, **_arguments(locals()))

    def plot_tree(
        self,
        metric: str | None = None,
        *,
        reduce: Reduce | None = None,
        backend: BackendName = "bokeh",
        frame_size: Size | None = None,
        title: str | None = None,
        labels: Mapping[str, str] | None = None,
        palette: Palette | None = None,
        order: Order | None = None,
        size: tuple[float, float] | None = None,
        font_size: float | None = None,
        xlim: Limits | None = None,
        ylim: Limits | None = None,
        legend: LegendPlace = "right",
        caption: bool | str = True,
    ) -> Any:
        """Draw the tree of each lineage's runs."""
        return function_of("plot_tree")(self._obj, **_arguments(locals()))

    def plot_final(
        self,
        metric: str | Sequence[str] | None = None,
        *,
        at: Place | None = None,
        group_by: str | Sequence[str] = "auto",
        hue_by: str | None = "auto",
        over: str | Sequence[str] | None = "auto",
        interval: Interval = "t",
        level: float = 0.95,
        sort: bool = True,
        log_x: bool = False,
        backend: BackendName = "bokeh",
        columns: int | None = None,
        frame_size: Size | None = None,
        title: str | None = None,
        labels: Mapping[str, str] | None = None,
        palette: Palette | None = None,
        order: Order | None = None,
        size: tuple[float, float] | None = None,
        font_size: float | None = None,
        xlim: Limits | None = None,
        ylim: Limits | None = None,
        legend: LegendPlace = "right",
        caption: bool | str = True,
    ) -> Any:
        """Draw the final values of runs as dots with intervals, sorted."""
        return function_of("plot_final")(self._obj, **_arguments(locals()))

    def plot_slopes(
        self,
        metric: str | Sequence[str] | None = None,
        *,
        at: Place | None = None,
        hue_by: str | None = "auto",
        label_by: str | Sequence[str] | None = "auto",
        over: str | Sequence[str] | None = None,
        interval: Interval = "t",
        level: float = 0.95,
        max_distance: float | None = 0.05,
        log_y: bool = False,
        backend: BackendName = "bokeh",
        columns: int | None = None,
        frame_size: Size | None = None,
        title: str | None = None,
        labels: Mapping[str, str] | None = None,
        palette: Palette | None = None,
        order: Order | None = None,
        size: tuple[float, float] | None = None,
        font_size: float | None = None,
        xlim: Limits | None = None,
        ylim: Limits | None = None,
        legend: LegendPlace = "right",
        caption: bool | str = True,
    ) -> Any:
        """Draw the values of runs before and after post-training, joined by lines."""
        return function_of("plot_slopes")(self._obj, **_arguments(locals()))

    def plot_parallel(
        self,
        metric: str | Sequence[str] | None = None,
        *,
        dimensions: Sequence[str] | None = None,
        hue_by: str | None = "auto",
        at: Place | None = None,
        log: bool | Sequence[str] | None = None,
        backend: BackendName = "bokeh",
        frame_size: Size | None = None,
        title: str | None = None,
        labels: Mapping[str, str] | None = None,
        palette: Palette | None = None,
        order: Order | None = None,
        size: tuple[float, float] | None = None,
        font_size: float | None = None,
        xlim: Limits | None = None,
        ylim: Limits | None = None,
        legend: LegendPlace = "right",
        caption: bool | str = True,
    ) -> Any:
        """Draw runs as lines through their hyperparameters and final values."""
        return function_of("plot_parallel")(self._obj, **_arguments(locals()))

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
        band: str | Sequence[str] = "none",
        group_by: str | None = None,
        min_count: int | None = None,
        smooth: float | None = None,
        zoom: bool = True,
        log_y: bool = False,
        relative_to: str | None = None,
        views: str | os.PathLike[str] | None = None,
        **factors: Any,
    ) -> Explorer:
        """Return an application with curves, the table of runs, their pages and the questions of ``dde.analysis``."""
        given = locals()
        from dde.plots.backends.notebook import use_installed_resources

        _check_factors(self._obj, factors)
        use_installed_resources()
        options = _changed_options(DdeDatasetAccessor.explore, given) | factors
        explorer: Explorer = function_of("explore")(self._obj, **options)
        return explorer


@xr.register_dataarray_accessor("dde")  # type: ignore[no-untyped-call]
class DdeDataArrayAccessor(ArrayQuestions):
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
        selected: xr.DataArray = function_of("sel")(self._obj, **filters)
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
        codes: xr.DataArray = function_of("support")(self._obj)
        return codes

    def observed(self) -> xr.DataArray:
        """Return the observations only: NaN where the run was not sampled."""
        seen: xr.DataArray = function_of("observed")(self._obj)
        return seen

    def sampled_as(self, samplings: str | Sequence[str]) -> xr.DataArray:
        """Name the samplings of an array whose attribute ``ancillary_variables`` was lost."""
        named: xr.DataArray = function_of("sampled_as")(self._obj, samplings)
        return named

    def checkpoint_type(self) -> xr.DataArray:
        """Return the type of the run that was training at each cell."""
        codes: xr.DataArray = function_of("checkpoint_type")(self._obj)
        return codes

    def revision(self) -> xr.Dataset:
        """Return the Hub model, revision and step of each cell that is a pretraining checkpoint."""
        revisions: xr.Dataset = function_of("revision")(self._obj)
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
        group_by: str | None = None,
        min_count: int | None = None,
        relative_to: str | None = None,
        smooth: float | None = None,
        clip_outliers: float | bool = False,
        highlight: str | Sequence[str] | None = None,
        backend: BackendName = "bokeh",
        log_x: bool | None = None,
        log_y: bool = False,
        zoom: bool | None = None,
        mark_branches: bool = True,
        columns: int | None = None,
        frame_size: Size | None = None,
        title: str | None = None,
        labels: Mapping[str, str] | None = None,
        palette: Palette | None = None,
        order: Order | None = None,
        size: tuple[float, float] | None = None,
        font_size: float | None = None,
        xlim: Limits | None = None,
        ylim: Limits | None = None,
        legend: LegendPlace = "right",
        caption: bool | str = True,
    ) -> Any:
        """Draw curves of lineages, pretraining and post-training joined."""
        return self._dataset.plot(None, **_arguments(locals()))

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
        title: str | None = None,
        labels: Mapping[str, str] | None = None,
        palette: Palette | None = None,
        order: Order | None = None,
        size: tuple[float, float] | None = None,
        font_size: float | None = None,
        xlim: Limits | None = None,
        ylim: Limits | None = None,
        legend: LegendPlace = "right",
        caption: bool | str = True,
    ) -> Any:
        """Draw a sweep as a heat map of the final values of runs."""
        return self._dataset.plot_heatmap(self._name, **_arguments(locals()))

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
        title: str | None = None,
        labels: Mapping[str, str] | None = None,
        palette: Palette | None = None,
        order: Order | None = None,
        size: tuple[float, float] | None = None,
        font_size: float | None = None,
        xlim: Limits | None = None,
        ylim: Limits | None = None,
        legend: LegendPlace = "right",
        caption: bool | str = True,
    ) -> Any:
        """Draw the final values of runs against their cost."""
        return self._dataset.plot_scaling(self._name, **_arguments(locals()))

    def plot_tree(
        self,
        *,
        reduce: Reduce | None = None,
        backend: BackendName = "bokeh",
        frame_size: Size | None = None,
        title: str | None = None,
        labels: Mapping[str, str] | None = None,
        palette: Palette | None = None,
        order: Order | None = None,
        size: tuple[float, float] | None = None,
        font_size: float | None = None,
        xlim: Limits | None = None,
        ylim: Limits | None = None,
        legend: LegendPlace = "right",
        caption: bool | str = True,
    ) -> Any:
        """Draw the tree of each lineage's runs."""
        return self._dataset.plot_tree(self._name, **_arguments(locals()))

    def plot_final(
        self,
        *,
        at: Place | None = None,
        group_by: str | Sequence[str] = "auto",
        hue_by: str | None = "auto",
        over: str | Sequence[str] | None = "auto",
        interval: Interval = "t",
        level: float = 0.95,
        sort: bool = True,
        log_x: bool = False,
        backend: BackendName = "bokeh",
        columns: int | None = None,
        frame_size: Size | None = None,
        title: str | None = None,
        labels: Mapping[str, str] | None = None,
        palette: Palette | None = None,
        order: Order | None = None,
        size: tuple[float, float] | None = None,
        font_size: float | None = None,
        xlim: Limits | None = None,
        ylim: Limits | None = None,
        legend: LegendPlace = "right",
        caption: bool | str = True,
    ) -> Any:
        """Draw the final values of runs as dots with intervals, sorted."""
        return self._dataset.plot_final(self._name, **_arguments(locals()))

    def plot_slopes(
        self,
        *,
        at: Place | None = None,
        hue_by: str | None = "auto",
        label_by: str | Sequence[str] | None = "auto",
        over: str | Sequence[str] | None = None,
        interval: Interval = "t",
        level: float = 0.95,
        max_distance: float | None = 0.05,
        log_y: bool = False,
        backend: BackendName = "bokeh",
        columns: int | None = None,
        frame_size: Size | None = None,
        title: str | None = None,
        labels: Mapping[str, str] | None = None,
        palette: Palette | None = None,
        order: Order | None = None,
        size: tuple[float, float] | None = None,
        font_size: float | None = None,
        xlim: Limits | None = None,
        ylim: Limits | None = None,
        legend: LegendPlace = "right",
        caption: bool | str = True,
    ) -> Any:
        """Draw the values of runs before and after post-training, joined by lines."""
        return self._dataset.plot_slopes(self._name, **_arguments(locals()))

    def plot_parallel(
        self,
        *,
        dimensions: Sequence[str] | None = None,
        hue_by: str | None = "auto",
        at: Place | None = None,
        log: bool | Sequence[str] | None = None,
        backend: BackendName = "bokeh",
        frame_size: Size | None = None,
        title: str | None = None,
        labels: Mapping[str, str] | None = None,
        palette: Palette | None = None,
        order: Order | None = None,
        size: tuple[float, float] | None = None,
        font_size: float | None = None,
        xlim: Limits | None = None,
        ylim: Limits | None = None,
        legend: LegendPlace = "right",
        caption: bool | str = True,
    ) -> Any:
        """Draw runs as lines through their hyperparameters and final values."""
        return self._dataset.plot_parallel(self._name, **_arguments(locals()))

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
        band: str | Sequence[str] = "none",
        group_by: str | None = None,
        min_count: int | None = None,
        smooth: float | None = None,
        zoom: bool = True,
        log_y: bool = False,
        relative_to: str | None = None,
        views: str | os.PathLike[str] | None = None,
        **factors: Any,
    ) -> Explorer:
        """Return an application with curves, the table of runs, their pages and the questions of ``dde.analysis``."""
        given = locals()
        from dde.plots.backends.notebook import use_installed_resources

        _check_factors(self._obj, factors)
        use_installed_resources()
        options = _changed_options(DdeDataArrayAccessor.explore, given) | factors
        explorer: Explorer = function_of("explore")(self._dataset._obj, metrics=self._name, **options)
        return explorer
