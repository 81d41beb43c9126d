"""Which cells of an object are samples, and how an object says it.

A metric names its samplings in the attribute ``ancillary_variables``, CF's name for this. The coordinate ``sampled_S``
says in which cells the run was sampled; ``sampled_S_last``, ``_base``, ``_own`` and ``_count`` say where its samples
lie and how many there are, whether they are points of the object or not. A cell is an observation where the run was
sampled and the cell holds a value, for everything that is computed from a metric as well.

xarray interpolates coordinates along with values, ``reindex(method=...)`` copies them, and rescaling an axis leaves
them. ``position_check`` notices that: its numbers are no linear function of the position, so interpolating, filling or
rescaling makes them wrong.
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

# The golden ratio's fraction in 64 bits: products of neighbouring numbers lie far apart.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
# A number of 31 bits survives being a float64, which reindex and joins make of it.
_SHIFT = np.uint64(33)
# Attribute of the flags of a sampling whose metric is an evaluation: the tables' samplings always are.
_JOINS = "joins_at_branch"
#: Check number of what is no position of the axis, such as half a token.
_NO_POSITION = -1
#: Stands for check numbers that contradict each other.
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
        whole = np.where(is_position, np.rint(np.where(is_position, points, 0)), 0).astype(np.int64)
        is_position = is_position & (whole == points)
        bits = whole.view(np.uint64)
    else:
        # A sum with zero has no negative zero.
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
    """Return attributes of a metric that name its samplings."""
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
        When it names none, or one whose coordinate is gone.
    """
    named = [n for n in str(array.attrs.get(ANCILLARY, "")).split() if n.startswith(SAMPLED)]
    what = f"the variable {str(array.name)!r}" if array.name is not None else "this array"
    there = samplings_in(array)
    if not named:
        known = f" It has the samplings {', '.join(there)}." if there else ""
        raise SourceError(
            f"{what} has no attribute {ANCILLARY} that names a sampling, so which of its cells were observed is "
            "unknown: attributes were dropped, values of several runs or metrics were put together, or it never was a "
            f"metric.{known} If its cells still are what one sampling saw, say so: "
            f"array.dde.sampled_as({(there or list(TABLE_SAMPLINGS))[0]!r})."
        )
    samplings = [n.removeprefix(SAMPLED) for n in named]
    if gone := [n for n in named if n not in array.coords]:
        raise SourceError(
            f"{what} lacks the coordinate {', '.join(gone)}, so which of its cells were observed is unknown: the "
            "coordinate was dropped, or runs that were sampled at different tokens were put together. Ask before "
            "that, on what dde.open_lineages(...) gives."
        )
    return tuple(samplings)


def metrics_alone(dataset: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    """Return some variables of a Dataset, with no samplings of logs but their own, which would be read with them."""
    chosen = dataset[list(names)]
    used = {n for a in chosen.data_vars.values() for n in str(a.attrs.get(ANCILLARY, "")).split()}
    idle = [s for s in samplings_in(chosen) if SAMPLED + s not in used and s not in TABLE_SAMPLINGS]
    return chosen.drop_vars([n for s in idle for n in sampled_names(s).values() if n in chosen.coords])


def number_of(array: xr.DataArray, sampling: str, number: str, load: bool = True) -> xr.DataArray:
    """Return a number of a sampling, along the dimensions of the runs.

    Parameters
    ----------
    array : xarray.DataArray
    sampling : str
    number : {"last", "base", "own", "count"}

    Raises
    ------
    SourceError
        When the coordinate is gone.
    """
    name = sampled_names(sampling)[number]
    if name not in array.coords:
        raise SourceError(
            f"{str(array.name)!r} lacks the coordinate {name} ({SAMPLED_NUMBERS[number][0]}), so whether its cells "
            "hold all that the answer needs is unknown. Keep the coordinates that dde.open_lineages(...) gives, and "
            "ask before runs are put together."
        )
    found: xr.DataArray = array.coords[name].reset_coords(drop=True)
    return found.compute() if load else found


def joins_at_branch(array: xr.DataArray) -> bool:
    """Return whether curves of a metric may begin with the parent's sample at the branch; those of logs never do.

    Raises
    ------
    SourceError
        When the metric names no sampling, or one whose coordinate is gone.
    """
    return all(s in TABLE_SAMPLINGS or flags_join(array.coords[SAMPLED + s].variable) for s in samplings_of(array))


def checked_positions(obj: xr.Dataset | xr.DataArray) -> xr.DataArray:
    """Return which points of the axis have a check number.

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
            f"this object lacks the coordinate {POSITION_CHECK}, so whether its points still are those that were "
            f"sampled is unknown. Keep the coordinates that dde.open_lineages(...) gives; Datasets that were saved "
            "before there was one have to be opened from their stores, and saved, again."
        )
    check = obj.coords[POSITION_CHECK].reset_coords(drop=True)
    points = obj.coords[rule.name].reset_coords(drop=True)
    given = np.asarray(check.values, np.float64)
    if extra := tuple(i for i, d in enumerate(check.dims) if d not in points.dims):
        # Joined along another dimension, every part has its own numbers; they all must be right.
        given = np.where((given == given.max(axis=extra, keepdims=True)).all(axis=extra), given.max(axis=extra), _WRONG)
    given = np.broadcast_to(given, points.shape)
    there = np.isfinite(given)
    # Of one point that was selected, several axes may know the position; it was made for one of them.
    axes = [rule] if points.ndim else [r for n, r in AXES.items() if n in obj.coords and not obj.coords[n].ndim]
    numbers = [check_numbers(np.atleast_1d(obj.coords[r.name].values), r).reshape(points.shape) for r in axes]
    wrong = there & np.logical_and.reduce([given != n for n in numbers])
    if wrong.any():
        at = np.atleast_1d(points.values)[np.atleast_1d(wrong)][0]
        raise SelectionError(
            f"{int(wrong.sum())} points of {rule.name}, such as {at}, are not the points that the cells were made "
            "for, so which cells are samples, and of which runs, is unknown: the axis does not count "
            f"{rule.units if rule.is_whole else 'what it did'} any more, for it was interpolated, filled by reindex, "
            "shifted or rescaled. Do that last, after the operations of ds.dde; ds.dde.align(grid) puts a Dataset on "
            "other points."
        )
    return points.copy(data=there)


def is_set(flag: Any) -> Any:
    """Return whether flags are set; NaN, which joins leave where there is nothing, is not; rounding does no harm."""
    return flag > 0.5


def flags_of(array: xr.DataArray) -> list[xr.Variable]:
    """Return the flags of all samplings of a variable, which must all be set where a cell is a sample; lazy.

    Raises
    ------
    SourceError, SelectionError
        As of :func:`samplings_of`; and when points of the axis were moved.
    """
    names = samplings_of(array)
    checked_positions(array)
    return [array.coords[SAMPLED + name].variable for name in names]


def is_sampled(array: xr.DataArray) -> xr.DataArray:
    """Return where the run whose cell it is was sampled, in all samplings of a variable.

    Returns
    -------
    xarray.DataArray
        bool, over dimensions of `array` in their order, without coordinates.

    Raises
    ------
    SourceError, SelectionError
        As of :func:`flags_of`.
    """
    names = samplings_of(array)
    found = checked_positions(array)
    for name in names:
        flag = array.coords[SAMPLED + name].reset_coords(drop=True).compute()
        found = found & is_set(flag)
    return found.transpose(*(d for d in array.dims if d in found.dims))


def sampled_as(
    obj: xr.Dataset | xr.DataArray, samplings: str | Sequence[str] | None = None, **by_name: str | Sequence[str]
) -> Any:
    """Say which cells of variables are samples, where the attribute that says it was lost.

    Parameters
    ----------
    obj : xarray.Dataset or DataArray
    samplings : str or several, optional
        ``evaluations``, ``perplexities`` or the name of a log metric whose flags are coordinates of `obj`; of several,
        a cell is a sample where all were sampled. For every variable of a Dataset along the axis.
    **by_name : str or several
        The same for single variables of a Dataset.

    Returns
    -------
    xarray.Dataset or DataArray
        With the attribute ``ancillary_variables``; values are not touched.

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

    def checked(given: str | Sequence[str]) -> list[str]:
        names = [n.removeprefix(SAMPLED) for n in ([given] if isinstance(given, str) else given)]
        for name in names:
            if name not in known:
                raise UnknownNameError(
                    f"{name!r} is no sampling of this object, so it tells of no cell whether it is a sample."
                    f"{near_names(name, known)} There are {', '.join(known) or 'none'}."
                )
        return names

    if isinstance(obj, xr.DataArray):
        if by_name or samplings is None:
            raise UnknownNameError(
                "an array takes the samplings of its own cells alone. Pass them: array.dde.sampled_as('evaluations')."
            )
        made = obj.copy(deep=False)
        made.attrs = with_samplings(obj.attrs, checked(samplings))
        return made
    if unknown := [n for n in by_name if n not in obj.data_vars]:
        raise UnknownNameError(
            f"{unknown[0]!r} is no variable of this Dataset, so it has no samples."
            f"{near_names(unknown[0], map(str, obj.data_vars))} "
            f"There are {', '.join(map(str, obj.data_vars)) or 'none'}."
        )
    rule = axis_of(obj)
    wanted = {str(n): checked(s) for n, s in by_name.items()}
    if samplings is not None:
        along = [str(n) for n, a in obj.data_vars.items() if rule is not None and rule.name in a.dims]
        wanted = {name: checked(samplings) for name in along} | wanted
    named = obj.copy(deep=False)
    for name, names in wanted.items():
        named[name].attrs = with_samplings(named[name].attrs, names)
    return named
