"""Questions of ``ds.dde``: thin methods of the functions of :mod:`dde.analysis`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from dde.accessor.functions import Documented, function_of

if TYPE_CHECKING:
    from dde.analysis.answers import Direction
    from dde.analysis.footing import Place
    from dde.analysis.intervals import Interval
    from dde.analysis.laws import LawName, Quantity
    from dde.analysis.pairs import Ties
    from dde.analysis.predictions import Sizes
    from dde.analysis.targets import Target

__all__ = ["ArrayQuestions", "DatasetQuestions"]


class DatasetQuestions(Documented):
    """Questions of the runs of a Dataset, and predictions of an answer."""

    _obj: xr.Dataset

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
        answer: xr.Dataset = function_of("reach")(self._obj, metric, target, rule=rule, direction=direction, at=at)
        return answer

    def match(
        self,
        metric: str | Sequence[str] | None,
        to: Target,
        *,
        at: Place | None = None,
    ) -> xr.Dataset:
        """Return the checkpoint of each run whose observed metric is nearest to a target."""
        answer: xr.Dataset = function_of("match")(self._obj, metric, to, at=at)
        return answer

    def smooth(
        self,
        metric: str | Sequence[str] | None = None,
        *,
        how: Literal["ema", "mean"] = "ema",
        span: float,
    ) -> xr.Dataset:
        """Return metrics averaged over the observations of each run, weighted by distance in tokens."""
        smoothed: xr.Dataset = function_of("smooth")(self._obj, metric, how=how, span=span)
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
        answer: xr.Dataset = function_of("effect")(
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
        answer: xr.Dataset = function_of("best")(
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
        answer: xr.Dataset = function_of("fit")(
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
        predicted: xr.Dataset = function_of("predict")(
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
        answer: xr.Dataset = function_of("ranks")(
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
        answer: xr.Dataset = function_of("decision_accuracy")(
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
        answer: xr.Dataset = function_of("signal_to_noise")(
            self._obj, metric, over=over, last=last, spread=spread, at=at, replicates=replicates, interval=interval,
            level=level,
        )  # fmt: skip
        return answer


class ArrayQuestions(Documented):
    """Questions of one metric, as of a Dataset with only this metric."""

    # The accessor of arrays, which inherits from this class, defines these three.

    @property
    def _name(self) -> str:
        raise NotImplementedError

    @property
    def _dataset(self) -> DatasetQuestions:
        raise NotImplementedError

    def _array(self, dataset: xr.Dataset) -> xr.DataArray:
        raise NotImplementedError

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
