"""Methods of ``ds.dde`` that draw: pictures of curves, final values and answers, and the application."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from dde.accessor.functions import Documented, function_of

if TYPE_CHECKING:
    from dde.analysis.footing import Place
    from dde.analysis.intervals import Interval
    from dde.curves.alignment import Method
    from dde.dataset.finals import At
    from dde.explore.page import Explorer
    from dde.plots.backends.base import BackendName
    from dde.plots.cells import Reduce
    from dde.plots.picture_options import LegendPlace, Limits, Order, Palette

    Size = tuple[int, int]

__all__ = ["QUESTIONS", "ArrayPictures", "DatasetPictures"]

#: Questions whose answers have a picture, and all whose answers are Datasets of their own.
_PICTURES = frozenset(
    ["best", "compare", "decision_accuracy", "effect", "fit", "match", "ranks", "reach", "signal_to_noise"]
)
QUESTIONS = _PICTURES | {"predict"}
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


class DatasetPictures(Documented):
    """Pictures of a Dataset of lineages, or of an answer."""

    _obj: xr.Dataset

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
        if (question := self._obj.attrs.get("answer")) in QUESTIONS:
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
        options = _changed_options(DatasetPictures.explore, given) | factors
        explorer: Explorer = function_of("explore")(self._obj, **options)
        return explorer


class ArrayPictures(Documented):
    """Pictures of one metric, as of a Dataset with only this metric."""

    _obj: xr.DataArray

    # The accessor of arrays, which inherits from this class, defines these two.

    @property
    def _name(self) -> str:
        raise NotImplementedError

    @property
    def _dataset(self) -> DatasetPictures:
        raise NotImplementedError

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
        options = _changed_options(ArrayPictures.explore, given) | factors
        explorer: Explorer = function_of("explore")(self._dataset._obj, metrics=self._name, **options)
        return explorer
