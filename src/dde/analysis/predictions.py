"""Values of fitted laws at other sizes, with their interval and how far they lie beyond the runs that entered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.analysis.answers import ANSWER, as_answer
from dde.analysis.fit_intervals import quantiles_of_samples, t_quantiles
from dde.analysis.laws import QUANTITIES, SIGMOID, Law, LawName, LossLaw
from dde.array_types import Float64
from dde.errors import SelectionError, UnknownNameError, near_names

__all__ = ["predict"]

Sizes = float | Sequence[float] | npt.NDArray[Any] | xr.DataArray


def predict(
    answer: xr.Dataset,
    *,
    n_params: Sizes | None = None,
    tokens: Sizes | None = None,
    compute: Sizes | None = None,
    loss: Sizes | None = None,
) -> xr.Dataset:
    """Evaluate the laws of an answer of :func:`dde.analysis.fits.fit` at other sizes.

    Parameters
    ----------
    answer : xarray.Dataset
        It may have been saved and opened again.
    n_params, tokens, compute, loss : number, array or DataArray, optional
        The quantities of the law. Compute may be given as `n_params` and `tokens`. A one-dimensional array has the name
        of its quantity as dimension; DataArrays combine by their dimensions.

    Returns
    -------
    xarray.Dataset
        ``predicted``, ``low`` and ``high``, along the dimensions of the fits and those of the sizes, in the unit of the
        metric; for ``two_step`` also ``predicted_loss``. The interval is of the law, not of the value of a single run;
        it has the method and level of the fit, and is NaN where that has none. The coordinate ``beyond`` is the largest
        factor by which a quantity lies outside of the range that entered; 1 within it.

    Raises
    ------
    UnknownNameError
        When a quantity of the law is missing, or a superfluous one is given.
    SelectionError
        When the Dataset is no answer of ``fit``, or a size is not positive.

    Notes
    -----
    With ``interval="t"``, the interval follows from the covariance of the coefficients and the derivatives of the law
    (delta method); with ``"bootstrap"``, it has the percentiles of the laws of the resamples.

    Examples
    --------
    >>> import dde
    >>> runs = dde.tutorial.open_lineages("small", data=["Dolma1.7", "C4"], metrics=["c4_en_valppl"])
    >>> runs = runs.dde.sel(run="pretraining")
    >>> larger = runs.dde.fit("c4_en_valppl").dde.predict(compute=[1e21, 1e22])
    >>> larger.predicted.dims, bool((larger.low < larger.predicted).all())
    (('data', 'compute'), True)
    """
    law = _law_of(answer)
    order = list(law.parameters)
    answer = answer.sel(parameter=order, parameter2=order, quantity=list(law.features))
    x = _quantities(law, {"n_params": n_params, "tokens": tokens, "compute": compute, "loss": loss})
    template = xr.broadcast(*x.values())[0]
    size_dims = tuple(template.dims)
    if overlap := set(size_dims) & set(answer["coefficient"].dims):
        raise SelectionError(
            f"the sizes have the dimension {min(map(str, overlap))}, which the fits have, too, so they can't be "
            "combined. Rename it: sizes.rename(...)."
        )
    fit_dims = tuple(d for d in answer["coefficient"].dims if d != "parameter")
    fit_shape = tuple(answer.sizes[d] for d in fit_dims)
    count = len(law.parameters)
    coefficient = answer["coefficient"].transpose(*fit_dims, "parameter").values.reshape(-1, count)
    values = {f: np.broadcast_to(xr.broadcast(v, template)[0].transpose(*size_dims).values, template.shape).reshape(-1)
              for f, v in x.items()}  # fmt: skip
    with np.errstate(all="ignore"):
        predicted = law.value(coefficient[:, None, :], values)
        low, high = _band(answer, law, coefficient, values, predicted, fit_dims)

    def shaped(flat: Float64, **attrs: str) -> xr.Variable:
        return xr.Variable((*fit_dims, *size_dims), flat.reshape((*fit_shape, *template.shape)), attrs)

    found = {
        "predicted": shaped(predicted, long_name="predicted value"),
        "low": shaped(low, long_name="lower end of the interval of the law"),
        "high": shaped(high, long_name="upper end of the interval of the law"),
    }
    if law.loss and law.has_sigmoid:
        with np.errstate(all="ignore"):
            of_loss = law.loss.value(law.split(coefficient)[0][:, None, :], values)
        found["predicted_loss"] = shaped(of_loss, long_name="predicted loss")
    bounds = [answer[n].transpose(*fit_dims, "quantity").values.reshape(-1, len(x)) for n in ("x_low", "x_high")]
    beyond = np.ones(predicted.shape)
    with np.errstate(all="ignore"):
        for k, size in enumerate(values.values()):
            beyond = np.maximum(beyond, np.maximum(size / bounds[1][:, k, None], bounds[0][:, k, None] / size))
    coords: dict[str, Any] = {
        str(n): c.variable for n, c in answer.coords.items() if set(c.dims) <= set(fit_dims) and n not in x
    }
    coords |= {str(n): c.variable for n, c in template.coords.items()}
    for name, sizes in x.items():
        label, units = QUANTITIES.get(name, ("loss", ""))
        coords[name] = sizes.variable.copy(deep=False)
        coords[name].attrs = {"long_name": label, **({"units": units} if units else {})}
    coords["beyond"] = shaped(beyond, long_name="largest factor beyond the sizes that entered", units="1")
    attrs = {k: v for k, v in answer.attrs.items() if k != ANSWER}
    return as_answer(xr.Dataset(found, coords), "predict", [], attrs)


def _law_of(answer: xr.Dataset) -> Law:
    """Return the law of an answer.

    Raises
    ------
    SelectionError
        When it is no answer of ``fit``.
    """
    needed = {"coefficient", "x_low", "x_high", "covariance", "degrees_of_freedom"}
    missing = ", ".join(sorted(needed - set(map(str, answer.data_vars))))
    if answer.attrs.get(ANSWER) != "fit" or missing:
        raise SelectionError(
            "the Dataset is no answer of fit, so it has no laws that predict. Pass what ds.dde.fit(...) returned, with "
            f"all its variables and attributes{f', {missing} among them' if missing else ''}."
        )
    if "parameter" not in answer["coefficient"].dims or "quantity" not in answer["x_low"].dims:
        raise SelectionError(
            "single parameters or quantities were selected, so the law can't be evaluated. Select metrics or groups "
            "only."
        )
    names, quantities = (set(map(str, answer[d].values)) for d in ("parameter", "quantity"))
    # Positions of labels say nothing: a Dataset may have been sorted or reindexed.
    features = tuple(f for f in ("n_params", "tokens", "compute") if f in quantities)
    name: LawName = answer.attrs["law"]
    law = Law(name, LossLaw(features, "E" in names) if features else None, bool(set(SIGMOID) & names))
    if lost := [p for p in law.parameters if p not in names] or sorted(names - set(law.parameters)):
        raise SelectionError(
            f"the answer lacks the parameter {lost[0]} of {law.formula}, so the law can't be evaluated. Select metrics "
            "or groups only."
            if lost[0] not in names
            else f"the answer lacks the quantity that the parameter {lost[0]} belongs to, so the law can't be "
            "evaluated. Select metrics or groups only."
        )
    if hidden := set(law.parameters) - set(map(str, answer["parameter2"].values)):
        raise SelectionError(
            f"the covariance of {min(hidden)} is missing, so the law has no interval. Select metrics or groups only."
        )
    return law


def _quantities(law: Law, given: dict[str, Sizes | None]) -> dict[str, xr.DataArray]:
    """Return the quantities of the law as DataArrays.

    Raises
    ------
    UnknownNameError
    SelectionError
    """
    sizes = {name: _as_array(name, value) for name, value in given.items() if value is not None}
    if "compute" in law.features and "compute" not in sizes and {"n_params", "tokens"} <= set(sizes):
        sizes = {"compute": (6.0 * sizes["n_params"] * sizes["tokens"]).rename("compute")}
    if missing := [f for f in law.features if f not in sizes]:
        raise UnknownNameError(
            f"{law.formula} needs {' and '.join(law.features)}, and {', '.join(missing)} is not given. Pass "
            f"{', '.join(f'{f}=' for f in law.features)}."
        )
    if extra := [f for f in sizes if f not in law.features]:
        raise UnknownNameError(
            f"{extra[0]}= is not a quantity of {law.formula}, so it would do nothing."
            f"{near_names(extra[0], law.features)} Leave it out."
        )
    for name, size in sizes.items():
        if not (size.values > 0).all():
            raise SelectionError(f"{name}= has values that are not positive, at which no law has a value. Remove them.")
    return {f: sizes[f] for f in law.features}


def _as_array(name: str, value: Sizes) -> xr.DataArray:
    if isinstance(value, xr.DataArray):
        if value.dtype.kind not in "fiu":
            raise _no_sizes(name, value.values)
        return value.astype(np.float64)
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise _no_sizes(name, value) from error
    if numbers.ndim > 1:
        raise SelectionError(
            f"{name}= has {numbers.ndim} dimensions without names. Pass an xarray.DataArray with named dimensions."
        )
    return xr.DataArray(numbers, {name: numbers} if numbers.ndim else None, (name,) if numbers.ndim else ())


def _no_sizes(name: str, value: object) -> UnknownNameError:
    """Return the error about a quantity that is no number."""
    return UnknownNameError(f"{name}={value!r} is not a number, so no law has a value there. Pass one, or several.")


def _band(
    answer: xr.Dataset, law: Law, coefficient: Float64, x: dict[str, Float64], predicted: Float64, dims: tuple[Any, ...]
) -> tuple[Float64, Float64]:
    """Return both ends of the interval of each law, (fit, size)."""
    none = np.full(predicted.shape, np.nan)
    count = len(law.parameters)
    if answer.attrs.get("interval") == "none":
        return none, none.copy()
    level = float(answer.attrs["interval"])
    if "sample_coefficient" in answer:
        samples = answer["sample_coefficient"].transpose("sample_number", *dims, "parameter").values
        samples = samples.reshape(samples.shape[0], -1, 1, count)
        curves = np.stack([law.value(s, x) for s in samples])
        return quantiles_of_samples(curves, level)
    degrees = answer["degrees_of_freedom"].transpose(*dims, "parameter").values.reshape(-1, count).min(axis=1)
    scale = np.where(law.is_log, coefficient, 1.0)
    natural = answer["covariance"].transpose(*dims, "parameter", "parameter2").values.reshape(-1, count, count)
    covariance = natural / (scale[:, :, None] * scale[:, None, :])
    gradient = law.gradient(coefficient[:, None, :], x)
    half = t_quantiles(degrees, level)[:, None] * np.sqrt(
        np.einsum("fsi,fij,fsj->fs", gradient, covariance, gradient).clip(min=0.0)
    )
    return predicted - half, predicted + half
