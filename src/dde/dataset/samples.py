"""Samplings of metrics: the flags that mark samples, their counts, and the check that points were not moved.

A metric names its samplings in the attribute ``ancillary_variables``, CF's name for this. The coordinate ``sampled_S``
marks the cells in which the run was sampled; ``sampled_S_last``, ``_base``, ``_own`` and ``_count`` give the positions
and the number of its samples, whether they are points of the object or not. A cell is an observation where the run was
sampled and the cell holds a value; this holds for everything that is computed from a metric as well.

xarray interpolates coordinates along with values, ``reindex(method=...)`` copies them, and rescaling an axis leaves
them unchanged. ``position_check`` detects that: its numbers are not a linear function of the position, so
interpolating, filling or rescaling makes them wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.curves.axes import AXES, AxisRule
from dde.curves.grids import Points
from dde.dataset.dimensions import axis_of, require_axis
from dde.errors import SelectionError, SourceError, UnknownNameError, near_names
from dde.schema import POSITION_CHECK, SAMPLED, SAMPLED_NUMBERS, TABLE_SAMPLINGS, sampled_names, sampling_of

__all__ = [
    "ANCILLARY",
    "check_numbers",
    "check_variable",
    "checked_positions",
    "flag_attrs",
    "flags_join",
    "flags_of",
    "has_samplings",
    "is_sampled",
    "is_set",
    "joins_at_branch",
    "metrics_alone",
    "number_of",
    "sampled_as",
    "samplings_in",
    "samplings_of",
    "with_samplings",
]

#: Attribute of a metric that names its samplings.
ANCILLARY = "ancillary_variables"

# The fraction of the golden ratio in 64 bits: products of neighbouring numbers are far apart.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
# Numbers of 31 bits are exact in float64, to which reindex and joins convert them.
_SHIFT = np.uint64(33)
# Attribute of the flags of a sampling whose metric is an evaluation; samplings of tables are evaluations without it.
_JOINS = "joins_at_branch"
#: Check number of a value that is not a position on the axis, such as half a token.
_NO_POSITION = -1
#: Marks check numbers that contradict each other.
_WRONG = -2


def check_numbers(points: Points, rule: AxisRule) -> npt.NDArray[np.int64]:
    """Return the check number of each position: the upper 31 bits of its product with a constant, modulo 2^64.

    Parameters
    ----------
    points : (point,) int64 or float64 array
    rule : AxisRule
        The axis: whole tokens are multiplied as numbers, others by their bits.

    Examples
    --------
    >>> from dde.curves.axes import TOKENS
    >>> check_numbers(np.array([0, 1, 2]), TOKENS).tolist()
    [0, 1327217884, 506952121]
    >>> check_numbers(np.array([0.5]), TOKENS).tolist()
    [-1]
    """
    is_position = np.isfinite(points)
    if rule.is_whole:
        tokens = np.where(is_position, np.rint(np.where(is_position, points, 0)), 0).astype(np.int64)
        is_position = is_position & (tokens == points)
        bits = tokens.view(np.uint64)
    else:
        # Adding zero turns negative zero into zero.
        bits = np.ascontiguousarray(np.asarray(points, np.float64) + 0.0).view(np.uint64)
    return np.where(is_position, ((bits * _MULTIPLIER) >> _SHIFT).astype(np.int64), _NO_POSITION)


def check_variable(points: Points, rule: AxisRule) -> xr.Variable:
    """Return the coordinate of check numbers of an axis."""
    attrs = {"long_name": "check number of the position"}
    return xr.Variable((rule.name,), check_numbers(points, rule), attrs, fastpath=True)


def flag_attrs(label: str, joins: bool = False) -> dict[str, Any]:
    """Return the attributes of a coordinate ``sampled_S``.

    Parameters
    ----------
    label : str
    joins : bool
        Whether curves of a metric with a sampling of its own may begin with the parent's sample at the branch.
    """
    attrs = {"long_name": f"sampled: {label}", "flag_values": np.array([0, 1], np.int8), "flag_meanings": "no yes"}
    return {**attrs, **({_JOINS: 1} if joins else {})}


def flags_join(flag: xr.Variable) -> bool:
    """Return whether the flags of a sampling say that its curves may begin with the parent's sample."""
    return bool(flag.attrs.get(_JOINS, 0))


def with_samplings(attrs: Mapping[Any, Any], samplings: Iterable[str]) -> dict[Any, Any]:
    """Return the attributes of a metric, with its samplings named in ``ancillary_variables``."""
    return {**attrs, ANCILLARY: " ".join(SAMPLED + s for s in dict.fromkeys(samplings))}


def samplings_in(obj: xr.Dataset | xr.DataArray) -> list[str]:
    """Return the samplings whose flags are coordinates of an object."""
    named = (sampling_of(str(n)) for n in obj.coords)
    return [s for s in dict.fromkeys(named) if s and SAMPLED + s in obj.coords]


def has_samplings(array: xr.DataArray) -> bool:
    """Return whether a variable names any sampling."""
    return SAMPLED in str(array.attrs.get(ANCILLARY, ""))


def samplings_of(array: xr.DataArray) -> tuple[str, ...]:
    """Return the samplings that a variable names.

    Raises
    ------
    SourceError
        When it names none, or one whose coordinate is missing.
    """
    named = [n for n in str(array.attrs.get(ANCILLARY, "")).split() if n.startswith(SAMPLED)]
    subject = f"the variable {str(array.name)!r}" if array.name is not None else "this array"
    present = samplings_in(array)
    if not named:
        known = f" It has the samplings {', '.join(present)}." if present else ""
        raise SourceError(
            f"{subject} has no attribute {ANCILLARY} that names a sampling, so its observed cells are unknown: "
            "attributes were dropped, values of several runs or metrics were combined, or it never was a metric."
            f"{known} If its cells are still those of one sampling, name it: "
            f"array.dde.sampled_as({(present or list(TABLE_SAMPLINGS))[0]!r})."
        )
    samplings = [n.removeprefix(SAMPLED) for n in named]
    if missing := [n for n in named if n not in array.coords]:
        raise SourceError(
            f"{subject} has no coordinate {', '.join(missing)}, so its observed cells are unknown: the coordinate was "
            "dropped, or runs that were sampled at different tokens were combined. Call this before that, on the "
            "Dataset of dde.open_lineages(...)."
        )
    return tuple(samplings)


def metrics_alone(dataset: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    """Return some variables of a Dataset without the samplings of other logs, which would be read with them."""
    chosen = dataset[list(names)]
    used = {n for a in chosen.data_vars.values() for n in str(a.attrs.get(ANCILLARY, "")).split()}
    unused = [s for s in samplings_in(chosen) if SAMPLED + s not in used and s not in TABLE_SAMPLINGS]
    return chosen.drop_vars([n for s in unused for n in sampled_names(s).values() if n in chosen.coords])


def number_of(array: xr.DataArray, sampling: str, number: str) -> xr.Variable:
    """Return a number of a sampling along the dimensions of the runs; see :data:`dde.schema.SAMPLED_NUMBERS`.

    Parameters
    ----------
    array : xarray.DataArray
    sampling : str
    number : {"last", "base", "own", "count"}

    Raises
    ------
    SourceError
        When the array has no such coordinate.
    """
    name = sampled_names(sampling)[number]
    if name not in array.coords:
        raise SourceError(
            f"{str(array.name)!r} has no coordinate {name} ({SAMPLED_NUMBERS[number][0]}), so whether its cells "
            "include all samples that the result needs is unknown. Keep the coordinates that dde.open_lineages(...) "
            "gives, and call this before runs are combined."
        )
    # A DataArray of the coordinate would have all others as well, which takes a hundred times as long.
    variable: xr.Variable = array.coords.variables[name]
    return variable


def joins_at_branch(array: xr.DataArray) -> bool:
    """Return whether curves of a metric may begin with the parent's sample at the branch; those of logs never do.

    Raises
    ------
    SourceError
        When the metric names no sampling, or one whose coordinate is missing.
    """
    return all(s in TABLE_SAMPLINGS or flags_join(array.coords[SAMPLED + s].variable) for s in samplings_of(array))


def checked_positions(obj: xr.Dataset | xr.DataArray) -> xr.DataArray:
    """Return which points of the axis have a check number, after checking these numbers.

    Raises
    ------
    SourceError
        When the object has no axis, or no check numbers.
    SelectionError
        When a check number is wrong.
    """
    rule = require_axis(obj)
    if POSITION_CHECK not in obj.coords:
        raise SourceError(
            f"this object has no coordinate {POSITION_CHECK}, so whether its points are still those that were sampled "
            "is unknown. Keep the coordinates that dde.open_lineages(...) gives. A Dataset that was saved before this "
            "coordinate existed has to be opened from its stores and saved again."
        )
    check = obj.coords[POSITION_CHECK].reset_coords(drop=True)
    points = obj.coords[rule.name].reset_coords(drop=True)
    stored = np.asarray(check.values, np.float64)
    if extra := tuple(i for i, d in enumerate(check.dims) if d not in points.dims):
        # Joined along another dimension, every part has its own numbers, and all of them must be right.
        is_same = (stored == stored.max(axis=extra, keepdims=True)).all(axis=extra)
        stored = np.where(is_same, stored.max(axis=extra), _WRONG)
    stored = np.broadcast_to(stored, points.shape)
    has_number = np.isfinite(stored)
    # A single selected point may have positions on several axes; its check number is of one of them.
    axes = [rule] if points.ndim else [r for n, r in AXES.items() if n in obj.coords and not obj.coords[n].ndim]
    numbers = [check_numbers(np.atleast_1d(obj.coords[r.name].values), r).reshape(points.shape) for r in axes]
    wrong = has_number & np.logical_and.reduce([stored != n for n in numbers])
    if wrong.any():
        at = np.atleast_1d(points.values)[np.atleast_1d(wrong)][0]
        raise SelectionError(
            f"{int(wrong.sum())} points of {rule.name}, such as {at}, are not the points that the cells were computed "
            f"for, so the samples among the cells are unknown: the axis was interpolated, filled by reindex, shifted "
            f"or rescaled, and no longer counts {rule.units if rule.is_whole else 'what it did'}. Do that last, after "
            "the operations of ds.dde; ds.dde.align(grid) gives a Dataset on other points."
        )
    return points.copy(data=has_number)


def is_set(flag: Any) -> Any:
    """Return whether flags are set; NaN, which joins leave in empty cells, is not set, and rounding does no harm."""
    return flag > 0.5


def flags_of(array: xr.DataArray) -> list[xr.Variable]:
    """Return the lazy flags of all samplings of a variable; a cell is a sample where all of them are set.

    Raises
    ------
    SourceError, SelectionError
        As of :func:`samplings_of`; and when points of the axis were moved.
    """
    names = samplings_of(array)
    checked_positions(array)
    return [array.coords[SAMPLED + name].variable for name in names]


def is_sampled(array: xr.DataArray) -> xr.DataArray:
    """Return whether each cell is a sample in all samplings of a variable.

    Returns
    -------
    xarray.DataArray
        bool, along dimensions of `array` in their order, without coordinates.

    Raises
    ------
    SourceError, SelectionError
        As of :func:`flags_of`.
    """
    names = samplings_of(array)
    is_sample = checked_positions(array)
    for name in names:
        flag = array.coords[SAMPLED + name].reset_coords(drop=True).compute()
        is_sample = is_sample & is_set(flag)
    return is_sample.transpose(*(d for d in array.dims if d in is_sample.dims))


def sampled_as(
    obj: xr.Dataset | xr.DataArray, samplings: str | Sequence[str] | None = None, **by_name: str | Sequence[str]
) -> Any:
    """Name the samplings of variables whose attribute ``ancillary_variables`` was lost.

    Parameters
    ----------
    obj : xarray.Dataset or DataArray
    samplings : str or several, optional
        ``evaluations``, ``perplexities`` or the name of a log metric whose flags are coordinates of `obj`. Given
        several, a cell is a sample where all of them sampled it. In a Dataset they hold for every variable along the
        axis.
    **by_name : str or several
        Samplings of single variables of a Dataset, by name.

    Returns
    -------
    xarray.Dataset or DataArray
        With the attribute ``ancillary_variables``; values are unchanged.

    Raises
    ------
    UnknownNameError
        When there is no such sampling or variable.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["arc_easy"])
    >>> plain = (ds.arc_easy * 100).drop_attrs(deep=False)
    >>> bool((plain.dde.sampled_as("evaluations").dde.support() == ds.arc_easy.dde.support()).all())
    True
    """
    known = samplings_in(obj)

    def checked(requested: str | Sequence[str]) -> list[str]:
        names = [n.removeprefix(SAMPLED) for n in ([requested] if isinstance(requested, str) else requested)]
        for name in names:
            if name not in known:
                raise UnknownNameError(
                    f"{name!r} is not a sampling of this object, so it does not mark any cells as samples."
                    f"{near_names(name, known)} There are {', '.join(known) or 'none'}."
                )
        return names

    if isinstance(obj, xr.DataArray):
        if by_name or samplings is None:
            raise UnknownNameError(
                "an array takes the samplings of its own cells only. Pass them: array.dde.sampled_as('evaluations')."
            )
        array = obj.copy(deep=False)
        array.attrs = with_samplings(obj.attrs, checked(samplings))
        return array
    if unknown := [n for n in by_name if n not in obj.data_vars]:
        raise UnknownNameError(
            f"{unknown[0]!r} is not a variable of this Dataset, so it has no samples."
            f"{near_names(unknown[0], map(str, obj.data_vars))} "
            f"There are {', '.join(map(str, obj.data_vars)) or 'none'}."
        )
    rule = axis_of(obj)
    samplings_by_name = {str(n): checked(s) for n, s in by_name.items()}
    if samplings is not None:
        along = [str(n) for n, a in obj.data_vars.items() if rule is not None and rule.name in a.dims]
        samplings_by_name = {name: checked(samplings) for name in along} | samplings_by_name
    named = obj.copy(deep=False)
    for name, names in samplings_by_name.items():
        named[name].attrs = with_samplings(named[name].attrs, names)
    return named
