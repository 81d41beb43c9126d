"""Conditions of a comparison, such as one size against another: labels picked from arranged values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.analysis.arrangement import MISSING_LABELS
from dde.dataset.dimensions import text_values
from dde.errors import SelectionError, UnknownNameError, near_names, warn_caller
from dde.lineage.filters import matches
from dde.schema import factors_of

__all__ = [
    "aligned_members",
    "check_condition",
    "condition_text",
    "count_without",
    "mean_of",
    "pick",
    "require_same_tokens",
]


def condition_text(condition: Mapping[str, object]) -> str:
    """Return a condition as the text of an attribute.

    Examples
    --------
    >>> condition_text({"params": "1B", "at": 2e9})
    'params=1B, at=2000000000.0'
    """
    return ", ".join(f"{name}={value}" for name, value in condition.items())


def check_condition(name: str, condition: object) -> None:
    """Check that an option is a condition: a mapping of coordinates to values.

    Raises
    ------
    UnknownNameError
    """
    if not isinstance(condition, Mapping):
        raise UnknownNameError(
            f"{name}={condition!r} is not a condition: coordinates with the value that each has. Pass a mapping, such "
            f"as {name}={{'size': 'large'}}."
        )


def pick(values: xr.Dataset, condition: Mapping[str, object], over: str) -> xr.Dataset:
    """Return the values that match a condition.

    Parameters
    ----------
    values : xarray.Dataset
        Values of :func:`dde.analysis.arrangement.arrange_by`.
    condition : mapping of str to value
        Coordinates and their values, as ``ds.dde.sel`` takes them.
    over : str
        The compared factor, which is not a part of a condition.

    Returns
    -------
    xarray.Dataset
        A dimension with one match is dropped; its label stays as a coordinate.

    Raises
    ------
    UnknownNameError
        When there is no such coordinate along one dimension.
    SelectionError
        When nothing matches.
    """
    for name, wanted in condition.items():
        if name == over or name == "metric":
            raise UnknownNameError(
                f"{name} is compared, so it can't be a part of a condition. Select it before: ds.dde.sel({name}=...)."
            )
        known = [str(d) for d in values.dims if d not in ("metric", over)]
        known += [n for n in factors_of(values) if n not in known and values.coords[n].ndim == 1]
        if name not in values.coords or values.coords[name].ndim > 1:
            raise UnknownNameError(
                f"{name!r} is not a coordinate along one dimension of the compared values, so it can't be a condition."
                f"{near_names(name, known)} There are {', '.join(known)}."
            )
        coordinate = values.coords[name]
        labels = _labels(coordinate)
        match = np.array([matches(v, wanted) for v in labels], bool)
        if not match.any():
            raise SelectionError(
                f"no run has {name}={wanted!r}, so there is nothing to compare.{near_names(wanted, map(str, labels))} "
                f"There are {', '.join(dict.fromkeys(map(str, labels)))}."
            )
        if coordinate.ndim:
            (dim,) = coordinate.dims
            chosen = np.flatnonzero(match)
            values = values.isel({dim: int(chosen[0]) if len(chosen) == 1 else chosen})
    return values


def count_without(values: xr.Dataset, condition: Mapping[str, object], over: str) -> str:
    """Return a text that counts the runs of a condition without a value of the compared factor; "" for none.

    Parameters
    ----------
    values : xarray.Dataset
        Values of :func:`dde.analysis.footing.values_at`, before they are arranged.
    condition : mapping of str to value
        As of :func:`pick`.
    over : str
        The compared factor.
    """
    if over in values.dims or over not in values.coords or values.coords[over].ndim != 1:
        return ""
    counted = values["status"].isel(metric=0) != ""
    of_factor = values.coords[over]
    has_value = [v not in MISSING_LABELS for v in map(str, _labels(of_factor))]
    counted &= ~xr.DataArray(has_value, dims=of_factor.dims)
    for name, wanted in condition.items():
        if name in values.coords and values.coords[name].ndim < 2:
            coordinate = values.coords[name]
            match = np.array([matches(v, wanted) for v in _labels(coordinate)], bool).reshape(coordinate.shape)
            counted &= xr.DataArray(match, dims=coordinate.dims)
    return f"no value of {over}: {int(counted.sum())}" if counted.any() else ""


def _labels(coordinate: xr.DataArray) -> list[Any]:
    raw = np.atleast_1d(coordinate.values)
    return list(text_values(raw.astype(object)) if raw.dtype.kind in "OUT" else raw)


def mean_of(members: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return means over the last dimension, ignoring NaN; NaN where there is no value."""
    some = ~np.isnan(members)
    count = some.sum(axis=-1)
    return np.where(count > 0, np.where(some, members, 0.0).sum(axis=-1) / np.maximum(count, 1), np.nan)


def require_same_tokens(values: xr.Dataset, dims: Sequence[str], is_given: bool) -> None:
    """Raise where runs that are averaged or ranked together ended at different tokens, and no place was chosen.

    Parameters
    ----------
    values : xarray.Dataset
        Values at the last observation of each run.
    dims : sequence of str
        Dimensions that are averaged or ranked.
    is_given : bool
        Whether the caller chose the place; then a warning is issued instead.

    Raises
    ------
    SelectionError
    """
    dims = [d for d in dims if d in values["tokens"].dims]
    tokens = values["tokens"].where(values["value"].notnull())
    low, high = (np.asarray(f(dims, skipna=True).values) for f in (tokens.min, tokens.max))
    differ = high > 1.005 * low
    if not differ.any():
        return
    example = f"from {_number(low[differ])} to {_number(high[differ])} tokens"
    text = (
        f"runs that are compared over {' and '.join(dims)} end at different tokens, such as {example}, so their last "
    )
    if is_given:
        warn_caller(
            f"{text}values are on different footings, as at='last' requests. Pass at='common', at='schedule' or a "
            "number of tokens for an equal one."
        )
        return
    raise SelectionError(
        f"{text}values are not comparable. Choose the place: at='common' (the furthest that all reach), at='schedule', "
        "a number of tokens, or at='last' to compare them anyway."
    )


def _number(values: npt.NDArray[Any]) -> str:
    return f"{float(values.ravel()[0]):.0f}"


def aligned_members(
    sides: Sequence[tuple[xr.Dataset, tuple[str, ...]]], over: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], tuple[str, ...], dict[str, xr.Variable]]:
    """Return the values of two sides along common dimensions, the compared factor and repetitions last.

    Parameters
    ----------
    sides : two pairs of xarray.Dataset and tuple of str
        Values with their dimensions of repetitions.
    over : str
        The compared factor.

    Returns
    -------
    a, b : (..., over, repetition) float64 arrays
        Only labels that both sides have; NaN where a side has no value.
    dims : tuple of str
        Common dimensions, `over` last.
    coords : mapping of str to xarray.Variable
        Coordinates along these dimensions that both sides agree on.

    Raises
    ------
    SelectionError
        When the sides share fewer than two values of the factor, or no label of another dimension.
    """
    stacked = []
    for values, replicates in sides:
        array = values["value"]
        members = [d for d in replicates if d in array.dims]
        others = [str(d) for d in array.dims if d not in (*members, over)]
        ordered = array.transpose(*others, over, *members)
        flat = np.asarray(ordered.values).reshape(*(array.sizes[d] for d in (*others, over)), -1)
        labels = {d: values.coords[d].variable for d in (*others, over) if d in values.coords}
        stacked.append(xr.DataArray(flat, labels, (*others, over, "_member")))
    a, b = xr.align(*stacked, join="inner", exclude=["_member"])
    if empty := [str(d) for d in a.dims if d != "_member" and not a.sizes[d]]:
        raise SelectionError(
            f"the two conditions have no {empty[0]} in common, so there is nothing to compare. Select by {empty[0]} in "
            "both conditions, or in neither."
        )
    if a.sizes.get(over, 1) < 2:
        raise SelectionError(
            f"the two conditions share {a.sizes.get(over, 1)} value of {over}, and an order needs two. Select more, "
            "or choose conditions that both have them."
        )
    dims = tuple(dict.fromkeys([*(str(d) for d in (*a.dims, *b.dims) if d not in (over, "_member")), over]))
    sizes = {**a.sizes, **b.sizes}
    x, y = (
        np.broadcast_to(
            s.variable.set_dims({**{d: sizes[d] for d in dims}, "_member": s.sizes["_member"]})  # type: ignore[no-untyped-call]
            .transpose(*dims, "_member").values,
            (*(sizes[d] for d in dims), s.sizes["_member"]),
        )
        for s in (a, b)
    )  # fmt: skip
    coords = {str(d): (a if d in a.coords else b).coords[d].variable for d in dims if d in a.coords or d in b.coords}
    first, second = (values for values, _ in sides)
    for name, coordinate in first.coords.items():
        along = set(map(str, coordinate.dims))
        if str(name) in coords or not along <= set(dims):
            continue
        own = coordinate.reset_coords(drop=True).sel({d: coords[d].values for d in along})
        other = second.coords.get(name)
        # A coordinate of the first side alone, such as the parameters of small scales, or one that both agree on.
        if other is None or (along and along.isdisjoint(map(str, second["value"].dims))):
            coords[str(name)] = own.variable
        elif set(map(str, other.dims)) == along:
            same = other.reset_coords(drop=True).sel({d: coords[d].values for d in along})
            if own.variable.equals(same.variable):
                coords[str(name)] = own.variable
    return np.asarray(x), np.asarray(y), dims, coords
