"""Variables of the answer of a fit: coefficients, values of each run, and errors on held-out runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.analysis.estimates import Estimate
from dde.analysis.fit_intervals import covariance_of_samples, interval_of_coefficients
from dde.analysis.fit_members import HELD_OUT, Groups
from dde.analysis.fit_questions import Question
from dde.analysis.footing import ENTERED
from dde.analysis.intervals import Interval
from dde.analysis.laws import QUANTITIES, Law
from dde.array_types import Bool, Float64, Int64

__all__ = ["PREDICTORS", "FitAnswer"]

#: The law, and what predicts without one: the value of the largest runs that entered, and a straight line in the
#: logarithm of size.
PREDICTORS = ("law", "last value", "line in log x")

# Runs whose size differs by less than this share are of the same, largest scale.
_SAME_SCALE = 0.05


@dataclass(frozen=True)
class FitAnswer:
    """The fits of a question, as variables.

    Attributes
    ----------
    dataset : xarray.Dataset
    law : Law
    question : Question
    groups : Groups
    rank : (row,) int64 array
        Position of each run among those of its group.
    has_held_out : bool
        Whether runs are held out.
    status : (metric, row) object array
    fits : Estimate
        Rows are metrics and groups, flattened.
    """

    dataset: xr.Dataset
    law: Law
    question: Question
    groups: Groups
    rank: Int64
    has_held_out: bool
    status: npt.NDArray[np.object_]
    fits: Estimate

    def variables(
        self, interval: Interval, level: float, ceiling: float | None
    ) -> tuple[dict[str, xr.Variable], dict[str, Any]]:
        """Return variables and coordinates, along ``metric``."""
        law, fits = self.law, self.fits
        features, entered = self._features(), self._entered()
        x_low, x_high = self._range(features, entered)
        low, high = interval_of_coefficients(law, fits, x_high, interval, level, ceiling)
        if interval == "bootstrap":
            covariance = covariance_of_samples(fits.samples)
        else:
            scale = np.where(law.is_log, fits.coefficient, 1.0)
            covariance = fits.covariance * scale[:, :, None] * scale[:, None, :]
        converged = np.isfinite(fits.coefficient).all(axis=1)
        of_fits = self.of_fits
        found = {
            "coefficient": of_fits(fits.coefficient, "parameter", long_name="coefficient"),
            "low": of_fits(low, "parameter", long_name="lower end of the interval of the coefficient"),
            "high": of_fits(high, "parameter", long_name="upper end of the interval of the coefficient"),
            "covariance": of_fits(covariance, "parameter", "parameter2", long_name="covariance of the coefficients"),
            "degrees_of_freedom": of_fits(fits.degrees, "parameter", long_name="degrees of freedom", units="1"),
            "n": of_fits(fits.n, long_name="members that entered", units="1"),
            "n_runs": of_fits(fits.runs, long_name="runs that entered", units="1"),
            "converged": of_fits(np.asarray(converged), long_name="whether there are coefficients"),
            "fit_status": of_fits(fits.status, long_name="state of the fit"),
            "x_low": of_fits(x_low, "quantity", long_name="smallest value that entered"),
            "x_high": of_fits(x_high, "quantity", long_name="largest value that entered"),
        }
        if interval == "bootstrap":
            found["sample_coefficient"] = of_fits(
                fits.samples, "sample_number", "parameter", long_name="coefficient of a resample"
            )
        per_member, predicted = self._per_member(features, entered)
        found |= per_member
        if self.has_held_out:
            found |= self._errors(predicted)
        return found, self._coords()

    def _coords(self) -> dict[str, Any]:
        law, members = self.law, self.question.finals

        def texts_of(names: tuple[str, ...], attr: str) -> list[str]:
            return [str(self.dataset[n].attrs.get(attr, "")) for n in names]

        def along(dim: str, texts: Any) -> xr.Variable:
            return xr.Variable((dim,), np.array(list(texts), object))

        units, loss_units = (texts_of(m.metrics, "units") for m in (members, self.question.of_loss))
        # Metrics of different units have theirs along `metric`.
        unit, loss_unit = (u[0] if len(set(u)) == 1 else "{units}" for u in (units, loss_units))
        coords: dict[str, Any] = {
            **{n: v for n, v in members.coords.items() if n not in (*self.groups.dims, "metric")},
            **self.groups.coords(members),
            "metric": along("metric", members.metrics),
            "units": along("metric", units),
            "direction": along("metric", texts_of(members.metrics, "direction")),
            "metric_label": along("metric", [str(self.dataset[n].attrs.get("long_name", n)) for n in members.metrics]),
            "parameter": along("parameter", law.parameters),
            "parameter_name": along("parameter", law.long_names),
            "parameter_units": along("parameter", law.units(unit, loss_unit)),
            "parameter2": along("parameter2", law.parameters),
            "quantity": along("quantity", law.features),
            "quantity_units": along("quantity", [QUANTITIES.get(f, ("", loss_unit))[1] for f in law.features]),
            "predictor": along("predictor", PREDICTORS),
        }
        if self.question.loss is not None:
            coords["loss_metric"] = along("metric", self.question.of_loss.metrics)
            coords["loss_units"] = along("metric", loss_units)
        position = np.unravel_index(self.groups.code, self.groups.shape) if self.groups.dims else ()
        for name, labels, at in zip(self.groups.dims, self.groups.labels, position, strict=True):
            # A factor that is kept apart stays a coordinate of the runs, under another name than its dimension.
            if name not in members.coords:
                coords[f"{name}_of_run"] = xr.Variable(members.cells, labels[at].reshape(members.shape))
            elif members.coords[name].dims != (name,):
                coords[f"{name}_of_run"] = members.coords[name]
        return coords

    def of_fits(self, values: npt.NDArray[Any], *more: str, **attrs: str) -> xr.Variable:
        """Return values (fit, ...) as a variable along the metric and the groups."""
        shape = (len(self.question.finals.metrics), *self.groups.shape)
        return xr.Variable(("metric", *self.groups.dims, *more), values.reshape(*shape, *values.shape[1:]), attrs)

    def _features(self) -> dict[str, Float64]:
        """Return the quantities of the law for each member of the finals, (metric, row, sample)."""
        if self.law.loss is None:
            return {"loss": cast(Float64, self.question.loss)}
        return {f: self.question.of_loss.feature(f) for f in self.law.loss.features}

    def _entered(self) -> Bool:
        """Return which members of the finals entered, (metric, row, sample)."""
        usable = np.isfinite(self.question.finals.values)
        for values in self._features().values():
            usable &= np.isfinite(values)
        return np.asarray(usable & (self.status == ENTERED)[..., None])

    def _fit_of_row(self) -> Int64:
        """Return the position of the fit of each run, (metric, row)."""
        metrics = len(self.question.finals.metrics)
        return np.arange(metrics)[:, None] * self.groups.count + self.groups.code

    def _range(self, features: Mapping[str, Float64], entered: Bool) -> tuple[Float64, Float64]:
        """Return the smallest and largest quantities that entered each fit, (fit, quantity)."""
        count = len(self.fits.n)
        low, high = np.full((count, len(features)), np.inf), np.full((count, len(features)), -np.inf)
        metric, row, sample = np.nonzero(entered)
        number = self._fit_of_row()[metric, row]
        for k, values in enumerate(features.values()):
            np.minimum.at(low[:, k], number, values[metric, row, sample])
            np.maximum.at(high[:, k], number, values[metric, row, sample])
        return np.where(np.isfinite(low), low, np.nan), np.where(np.isfinite(high), high, np.nan)

    def _per_member(self, features: Mapping[str, Float64], entered: Bool) -> tuple[dict[str, xr.Variable], Float64]:
        """Return what is known of each run, and the predictions (predictor, metric, row, sample)."""
        members, law, fits = self.question.finals, self.law, self.fits
        of_row = self._fit_of_row()
        coefficient = fits.coefficient[of_row]
        known = np.ones(members.values.shape, bool)
        for values in features.values():
            known &= np.isfinite(values)
        with np.errstate(all="ignore"):
            by_law = np.where(known, law.value(coefficient[:, :, None, :], features), np.nan)
        last, line = self._baselines(entered)
        predicted = np.stack([by_law, np.broadcast_to(last[of_row][..., None], by_law.shape), line])
        predicted[:, ~known] = np.nan
        rank = np.broadcast_to(self.rank, of_row.shape)
        there = rank < fits.present.shape[1]
        inside = np.where(there, rank, 0)
        without = np.full((*of_row.shape, len(law.parameters)), np.nan)
        if fits.present.shape[1]:
            present = fits.present[of_row, inside] & there & (self.status == ENTERED)
            without = np.where(present[..., None], fits.without[of_row, inside], np.nan)
        with np.errstate(all="ignore"):
            left_out = np.where(known, law.value(without[:, :, None, :], features), np.nan)
        of_runs, of_members = self._of_runs, self._of_members
        found = {
            "value": of_members(members.values, long_name="value"),
            "predicted": of_members(np.moveaxis(predicted, 0, -1), "predictor", long_name="predicted value"),
            "residual": of_members(members.values - by_law, long_name="value less the law's"),
            "status": of_runs(self.status, long_name="whether the run entered, or why not"),
            "leverage": of_runs(
                without - coefficient, "parameter", long_name="change of the coefficient when the run is left out"
            ),
            "left_out_residual": of_members(
                members.values - left_out, long_name="value less the prediction of the fit without the run"
            ),
        }
        found["predicted"] = found["predicted"].transpose("predictor", ...)
        sizes = self.question.of_loss if law.loss else members
        for name in ("tokens", "compute"):
            label, units = QUANTITIES[name]
            found[name] = of_members(np.array(sizes.feature(name)), long_name=label, units=units)
        if self.question.loss is not None:
            found["loss"] = of_members(self.question.loss, long_name="loss that predicts")
        if law.loss and law.has_sigmoid:
            of_loss, _ = law.split(coefficient)
            with np.errstate(all="ignore"):
                by_sizes = np.where(known, law.loss.value(of_loss[:, :, None, :], features), np.nan)
            found["predicted_loss"] = of_members(by_sizes, long_name="predicted loss")
        return found, predicted

    def _of_runs(self, values: npt.NDArray[Any], *more: str, **attrs: str) -> xr.Variable:
        """Return values (metric, row, ...) as a variable along the dimensions of the runs."""
        members = self.question.finals
        shaped = values.reshape(len(values), *members.shape, *values.shape[2:])
        return xr.Variable(("metric", *members.cells, *more), shaped, attrs)

    def _of_members(self, values: Float64, *more: str, **attrs: str) -> xr.Variable:
        """Return values (metric, row, sample, ...) as a variable, without ``sample`` where runs have one value."""
        if self.question.points != "all":
            return self._of_runs(values[:, :, 0], *more, **attrs)
        return self._of_runs(values, "sample", *more, **attrs)

    def _baselines(self, entered: Bool) -> tuple[Float64, Float64]:
        """Return the mean of the largest members of each fit (fit,), and the straight lines (metric, row, sample)."""
        members, count = self.question.finals, len(self.fits.n)
        size = self._size()
        metric, row, sample = np.nonzero(entered & np.isfinite(size))
        number = self._fit_of_row()[metric, row]
        key, y = size[metric, row, sample], members.values[metric, row, sample]
        most = np.full(count, -np.inf)
        np.maximum.at(most, number, key)
        largest = key >= most[number] + np.log1p(-_SAME_SCALE) * (self.law.loss is not None)

        def total(values: Float64) -> Float64:
            return np.bincount(number, values, count).astype(np.float64)

        with np.errstate(all="ignore"):
            last = total(y * largest) / total(largest.astype(np.float64))
            n = total(np.ones(len(y)))
            mean_x, mean_y = total(key) / n, total(y) / n
            centred = key - mean_x[number]
            slope = total(centred * y) / total(centred * centred)
            of_row = self._fit_of_row()[..., None]
            line = mean_y[of_row] + slope[of_row] * (size - mean_x[of_row])
        return last, np.where(np.isfinite(line), line, np.nan)

    def _size(self) -> Float64:
        """Return the size by which members are ordered: the logarithm of the law's quantities, or minus the loss."""
        if self.law.loss is None:
            return -cast(Float64, self.question.loss)
        with np.errstate(all="ignore"):
            logs = [np.log(self.question.of_loss.feature(f)) for f in self.law.loss.features]
        return np.asarray(sum(logs[1:], logs[0]), np.float64)

    def _errors(self, predicted: Float64) -> dict[str, xr.Variable]:
        """Return mean absolute errors over the members that are held out, the same for all predictors."""
        values = self.question.finals.values
        is_held_out = (
            (self.status == HELD_OUT)[..., None] & np.isfinite(values) & np.isfinite(predicted[1:]).all(axis=0)
        )
        metric, row, sample = np.nonzero(is_held_out)
        number, count = self._fit_of_row()[metric, row], len(self.fits.n)
        n = np.bincount(number, minlength=count)
        error = np.empty((2, count, len(predicted)))
        with np.errstate(all="ignore"):
            for k, by_predictor in enumerate(predicted):
                size = np.abs(by_predictor - values)[metric, row, sample]
                error[0, :, k] = np.bincount(number, size, count) / n
                error[1, :, k] = np.bincount(number, size / np.abs(values[metric, row, sample]), count) / n
        what = "of members held out"
        relative = self.of_fits(error[1], "predictor", long_name=f"mean absolute relative error {what}", units="1")
        return {
            "error": self.of_fits(error[0], "predictor", long_name=f"mean absolute error {what}").transpose(
                "predictor", ...
            ),
            "relative_error": relative.transpose("predictor", ...),
            "n_held_out": self.of_fits(n, long_name="members held out", units="1"),
        }
