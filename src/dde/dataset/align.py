"""Align a Dataset on another grid or axis, and derive metrics from its observations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from dde.curves.alignment import Interpolation, Method
from dde.curves.axes import AXES, TOKENS, AxisRule, Lines, axis_lines, resolve_axis
from dde.curves.grids import DEFAULT_MAX_POINTS, Points, resolve_grid
from dde.dataset.dimensions import axis_of, require_params
from dde.dataset.lazy import TokensArray, lazily
from dde.dataset.provenance import observed
from dde.dataset.reinterpolation import ReinterpolatedFlags, ReinterpolatedValues, Reinterpolation
from dde.dataset.sample_source import SampleSource
from dde.dataset.samples import (
    check_variable,
    checked_positions,
    flag_attrs,
    flags_join,
    flags_of,
    has_samplings,
    joins_at_branch,
    number_of,
    samplings_in,
    samplings_of,
)
from dde.errors import SelectionError, UnknownNameError
from dde.schema import CHANGING_PARAMS, POSITION_CHECK, SAMPLED, TABLE_SAMPLINGS, sampled_names

__all__ = [
    "align",
    "attrs_of",
    "axis_coordinates",
    "axis_values",
    "derive",
    "interpolation_attrs",
    "interpolation_of",
]


def axis_values(dataset: xr.Dataset, axis: str) -> xr.DataArray:
    """Return the positions of a Dataset's cells on an axis.

    Parameters
    ----------
    dataset : xarray.Dataset
        As :func:`dde.open_lineages` gives it, or saved and opened again, or on another axis.
    axis : str
        One of :data:`dde.curves.axes.AXES`.

    Returns
    -------
    xarray.DataArray
        Its dimensions are a subset of the Dataset's; in units of the axis. NaN where a cell has no position: on
        ``post_tokens`` and ``fraction_of_training`` before the run's branch. Pretraining runs are on
        ``fraction_of_training`` from their start, and not on ``post_tokens``.

    Raises
    ------
    UnknownNameError
        When there is no such axis.
    SelectionError
        When the Dataset has no coordinates that the axis is derived from.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["piqa"])
    >>> axis_values(ds, "post_tokens").dims
    ('cumulative_tokens', 'lineage', 'run')
    >>> float(axis_values(ds, "tokens_per_parameter").max()) > 100
    True
    """
    rule = resolve_axis(axis)
    if rule.name in dataset.coords:
        return dataset[rule.name]
    needed = {"": (), "lineage": (), "run": ("branch_tokens",)}[rule.by]
    if rule.name == "fraction_of_training":
        needed = ("branch_tokens", "schedule_tokens")
    if missing := [n for n in ("cumulative_tokens", *needed) if n not in dataset.coords]:
        raise SelectionError(
            f"the Dataset has no coordinates {', '.join(missing)}, so {rule.name} can't be derived. "
            "Keep the coordinates that dde.open_lineages() gives."
        )
    if rule.by == "lineage":
        require_params(dataset.coords, rule)
    checked_positions(dataset)
    tokens = dataset["cumulative_tokens"].reset_coords(drop=True)
    if rule.by == "lineage":
        n_params = dataset["n_params"].reset_coords(drop=True)
        values = 6.0 * n_params * tokens if rule.name == "cumulative_compute" else tokens / n_params
    else:
        branch = dataset["branch_tokens"].reset_coords(drop=True)
        if "start_tokens" in dataset.coords:
            # The own tokens of a merge begin at the merge, not where the curves of its parents part.
            branch = dataset["start_tokens"].reset_coords(drop=True).where(branch.notnull())
        if rule.name == "post_tokens":
            values = tokens - branch
        else:
            start, end = branch.fillna(0.0), dataset["schedule_tokens"].reset_coords(drop=True)
            values = (tokens - start) / (end - start).where(end > start)
        values = values.where(values >= 0)
    return values.rename(rule.name).assign_attrs(rule.attrs)


# Attributes of a metric that are wrong for values computed from it.
_OF_ONE_METRIC = ("long_name", "units", "task", "metric", "direction", "source_name")


def attrs_of(grid: object, how: Interpolation) -> dict[str, Any]:
    """Return the attributes of a Dataset that name its grid and interpolation."""
    return {"grid": str(grid), **interpolation_attrs(how)}


def interpolation_attrs(how: Interpolation) -> dict[str, Any]:
    """Return the attributes of a metric, or of its Dataset, that say how values between observations were made.

    ``max_gap`` is -1 where gaps of any length are filled.
    """
    return {
        "interpolation": how.method,
        "max_gap": -1 if how.max_gap is None else how.max_gap,
        "bridge": int(how.bridge),
    }


def interpolation_of(dataset: xr.Dataset) -> Interpolation:
    """Return how values between observations were interpolated.

    The attributes of the metrics decide, then those of the Dataset; without either it is linear.

    Raises
    ------
    SelectionError
        When the metrics were interpolated in different ways.
    """
    return _interpolation(dataset, None, None, None)


def _interpolation(
    dataset: xr.Dataset, interp: Method | None, max_gap: float | None, bridge: bool | None
) -> Interpolation:
    """Return how to interpolate; what is None is as in the Dataset.

    Raises
    ------
    SelectionError
        When something that is None differs between the metrics.
    """
    metric_attrs = [a.attrs for a in dataset.data_vars.values() if has_samplings(a)]

    def current(key: str) -> Any:
        distinct = list(dict.fromkeys(attrs[key] for attrs in metric_attrs if key in attrs))
        if len(distinct) > 1 or any(" | " in str(value) for value in distinct):
            raise SelectionError(
                f"metrics of the Dataset were interpolated in different ways ({key} is "
                f"{', '.join(map(str, distinct))}), so how to interpolate new values is ambiguous. Align one metric "
                "at a time, or align all in one way first: ds.dde.align(interp='linear', max_gap=math.inf, "
                "bridge=False)."
            )
        return distinct[0] if distinct else dataset.attrs.get(key, interpolation_attrs(Interpolation())[key])

    if max_gap is None:
        gap = int(current("max_gap"))
        max_gap = None if gap == -1 else gap
    return Interpolation(
        interp or current("interpolation"), max_gap, bool(current("bridge")) if bridge is None else bridge
    )


def align(
    dataset: xr.Dataset,
    grid: object = "auto",
    interp: Method | None = None,
    *,
    axis: str | None = None,
    max_gap: float | None = None,
    bridge: bool | None = None,
    max_points: int = DEFAULT_MAX_POINTS,
) -> xr.Dataset:
    """Return the Dataset on another grid or axis, or interpolated in another way, recomputed from its observations.

    Parameters
    ----------
    dataset : xarray.Dataset
        A Dataset of :func:`dde.open_lineages`, a selection or a sweep of it, with metrics or values computed from
        them cell by cell. It may have been saved and opened again.
    grid, max_points
        As for :func:`dde.open_lineages`, in points of the axis.
    interp : {"linear", "log", "nearest", "previous", "pchip"}, optional
        Interpolation between observations, always in tokens. When None, the attribute ``interpolation`` of the
        metrics decides, and ``linear`` where there is none.
    axis : str, optional
        Axis that runs are aligned by, and the name of the last dimension: ``cumulative_tokens``,
        ``cumulative_compute`` (6 N tokens), ``tokens_per_parameter``, ``fraction_of_training`` (of a run's own
        schedule: 0 at its branch or start, 1 at its planned end, more where it went on) or ``post_tokens`` (tokens
        since the run's own branch, so that all sweeps start at zero). The axis of the Dataset when None.
    max_gap : int or math.inf, optional
        Longest gap in tokens that is filled; ``math.inf`` fills gaps of any length. When None, the attribute
        ``max_gap`` of the metrics decides, and gaps of any length are filled where there is none.
    bridge : bool, optional
        Whether evaluations are joined across branches that the parent was not evaluated at; when None, the attribute
        ``bridge`` of the metrics decides.

    Returns
    -------
    xarray.Dataset
        Lazy. On another axis than cumulative tokens, cumulative tokens are a coordinate ``(lineage, axis)``, or
        ``(lineage, run, axis)`` where each run has its own axis. Observations stay exact, and a run without a position
        on the axis (a pretraining run on ``post_tokens``) is NaN.

    Raises
    ------
    SourceError
        When a coordinate, or the attribute that says which cells are samples, is missing.
    SelectionError
        When samples are not points of the Dataset (a dense log on an automatic grid, a part of the axis), so that
        values between them are unknown; and when metrics were interpolated in different ways, and what differs is
        None here.
    UnknownNameError
        When there is no such axis, grid or method.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["piqa"])
    >>> ds.dde.align(grid=[0, 10**8, 2 * 10**8], interp="log").sizes["cumulative_tokens"]
    3
    >>> ds.dde.align(axis="post_tokens").piqa.dims
    ('lineage', 'run', 'post_tokens')
    """
    if isinstance(grid, str) and grid in AXES:
        raise UnknownNameError(
            f"{grid!r} is an axis, not a grid, so the points are undefined. "
            f"Pass it as the axis: ds.dde.align(axis={grid!r})."
        )
    rule = resolve_axis(axis) if axis is not None else axis_of(dataset) or TOKENS
    how = _interpolation(dataset, interp, max_gap, bridge)
    token_grid = resolve_grid(grid, max_points)
    source = SampleSource.of(dataset)
    _check_variables({str(n): dataset[n] for n in dataset.data_vars}, source, rule)
    lines = source.lines(rule)
    points = token_grid.build(*source.positions(rule, lines, with_logs=token_grid.needs_logs))
    return _aligned(source, points, rule, lines, how).assign_attrs(attrs_of(token_grid, how))


def derive(dataset: xr.Dataset, **functions: Callable[[xr.Dataset], xr.DataArray]) -> xr.Dataset:
    """Return the Dataset with new metrics, computed from observations and then interpolated like the others.

    Parameters
    ----------
    dataset : xarray.Dataset
        A Dataset of :func:`dde.open_lineages`, or any that :func:`align` takes.
    **functions : callable
        A function for each new variable, by name. It takes the observations, a Dataset that is NaN where runs were
        not sampled (:func:`dde.dataset.provenance.observed`), and returns an array of the same cells, computed cell
        by cell.

    Returns
    -------
    xarray.Dataset
        With the new variables: exact at observations, interpolated between them as the metrics' attributes say. They
        have the ``long_name``, ``units`` and ``direction`` that the function sets, if it sets a ``long_name``.
        Arithmetic on the Dataset itself is as exact at observations, but between them it transforms interpolated
        values.

    Raises
    ------
    SourceError
        When a function combines metrics of different samplings, so that its result names none.
    SelectionError
        When samples are not points of the Dataset, so that values between them are unknown; and when a function does
        not return an array of all cells of the Dataset.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["arc_easy"])
    >>> odds = ds.dde.derive(odds=lambda seen: seen.arc_easy / (1 - seen.arc_easy))
    >>> bool((odds.odds.dde.support() == ds.arc_easy.dde.support()).all())
    True
    """
    source = SampleSource.of(dataset)
    seen = observed(dataset)
    how = interpolation_of(dataset)
    variables: dict[str, xr.Variable] = {}
    for name, function in functions.items():
        result = function(seen)
        if not isinstance(result, xr.DataArray):
            raise SelectionError(
                f"the function for {name!r} returned a {type(result).__name__}, so there is no metric. Return an array "
                "of the Dataset's cells, such as lambda seen: 1 - seen.arc_easy."
            )
        result = result.rename(name)
        samplings_of(result)
        if not {*source.cells, source.rule.name} <= set(result.dims) <= set(dataset.dims):
            raise SelectionError(
                f"the function for {name!r} returned an array along {', '.join(map(str, result.dims))}, which are not "
                "the cells of the Dataset, so it is not a metric of its runs. Compute it cell by cell; "
                "ds.assign() takes other arrays."
            )
        derived = dataset.assign({name: _with_labels_of(dataset, result)})[name]
        if derived.attrs.get("long_name") in {a.attrs.get("long_name") for a in dataset.data_vars.values()}:
            # Arithmetic copies the attributes of an operand, whose unit and direction are wrong for the result.
            derived.attrs = {k: v for k, v in derived.attrs.items() if k not in _OF_ONE_METRIC}
        _check_variables({name: derived}, source, source.rule)
        lines, filled = source.lines(source.rule), _interpolated_metric(source, derived)
        variables[name] = _interpolated(source, derived, source.points, source.rule, lines, how, filled=filled)
    return dataset.assign(variables)


def _interpolated_metric(source: SampleSource, derived: xr.DataArray) -> xr.Variable | None:
    """Return a metric of the Dataset with the dimensions and samplings of a derived one; None where there is none."""
    dims, names = {*source.cells, source.rule.name}, set(samplings_of(derived))
    for array in source.dataset.data_vars.values():
        if set(map(str, array.dims)) == dims and has_samplings(array) and set(samplings_of(array)) == names:
            return array.variable
    return None


def _with_labels_of(dataset: xr.Dataset, result: xr.DataArray) -> xr.Variable:
    """Return the values of an array in the order of a Dataset's labels.

    Raises
    ------
    SelectionError
        When the array has other labels.
    """
    for dim in map(str, result.dims):
        if result.sizes[dim] != dataset.sizes[dim]:
            raise SelectionError(
                f"the function for {str(result.name)!r} returned {result.sizes[dim]} of {dataset.sizes[dim]} positions "
                f"along {dim}, so the others have no value. Compute cell by cell, and select afterwards."
            )
        if dim not in dataset.indexes or dim not in result.indexes:
            continue
        ours, theirs = dataset.indexes[dim], result.indexes[dim]
        if not ours.equals(theirs):
            if not (ours.is_unique and theirs.is_unique and len(ours.difference(theirs)) == 0):
                raise SelectionError(
                    f"the function for {str(result.name)!r} returned other labels along {dim} than the Dataset has, so "
                    "the cells of its values are unknown. Compute cell by cell."
                )
            result = result.isel({dim: theirs.get_indexer(ours)})
    return result.variable


def axis_coordinates(
    points: Points, rule: AxisRule, lines: Lines | None, n_params: xr.Variable | None, cells: Sequence[str]
) -> dict[str, xr.Variable]:
    """Return the coordinates along an axis: points, check numbers, cumulative tokens and, where possible, compute.

    Parameters
    ----------
    points : (point,) int64 or float64 array
    rule : AxisRule
    lines : Lines or None
        How tokens follow from points, along the dimensions `cells`; None where points are cumulative tokens.
    n_params : xarray.Variable or None
        Exact parameter counts. Where these are unknown, or change along a curve, compute does not follow from tokens
        alone and is left out.
    cells : sequence of str
        Dimensions of the runs.
    """
    coords = {
        rule.name: xr.Variable((rule.name,), points, rule.attrs, fastpath=True),
        POSITION_CHECK: check_variable(points, rule),
    }
    if rule.by == "run":
        assert lines is not None
        array = TokensArray(np.empty(lines.scale.shape, object), points, lines)
        coords["cumulative_tokens"] = lazily((*cells, rule.name), array, dict(TOKENS.attrs))
        return coords
    if n_params is None or n_params.attrs.get(CHANGING_PARAMS):
        return coords
    n = np.asarray(n_params.values, np.float64)
    dims = (*n_params.dims, rule.name)
    if rule.by == "lineage":
        unknown = np.full(n.shape, np.nan)
        tokens = axis_lines(rule, unknown, unknown, n).tokens(points)
        coords["cumulative_tokens"] = xr.Variable(dims, tokens, dict(TOKENS.attrs), fastpath=True)
    else:
        tokens = np.broadcast_to(points.astype(np.int64), (*n.shape, len(points)))
    if rule.name != "cumulative_compute":
        compute = 6.0 * n[..., None] * tokens
        coords["cumulative_compute"] = xr.Variable(dims, compute, AXES["cumulative_compute"].attrs, fastpath=True)
    return coords


def _check_variables(arrays: Mapping[str, xr.DataArray], source: SampleSource, rule: AxisRule) -> None:
    """Raise where a variable can't be interpolated again: it names no sampling, or its samples are not points.

    Raises
    ------
    SourceError, SelectionError
    """
    checked: set[str] = set()
    for name, array in arrays.items():
        if source.rule.name not in array.dims:
            continue
        if not {*source.cells, source.rule.name} <= set(map(str, array.dims)):
            raise SelectionError(
                f"the variable {name!r} has the dimensions {', '.join(map(str, array.dims))}, which are not those of "
                "the runs, so it can't be aligned on another grid. Drop it, or join Datasets on one grid."
            )
        names = samplings_of(array)
        flags_of(array)
        for sampling in names:
            # The samples of a log are known only by reading it; they are checked when its values are read.
            if sampling not in checked and sampling in TABLE_SAMPLINGS:
                source.require_samples(array, sampling, rule)
                checked.add(sampling)


def _aligned(
    source: SampleSource, points: Points, rule: AxisRule, lines: Lines | None, how: Interpolation
) -> xr.Dataset:
    """Return the Dataset at points of an axis."""
    old = source.dataset
    coords = {str(n): c.variable for n, c in old.coords.items() if source.rule.name not in c.dims}
    for name in ("cumulative_tokens", "cumulative_compute"):
        coords.pop(name, None)
    coords |= axis_coordinates(points, rule, lines, source.params, source.cells)
    reinterpolation = Reinterpolation(source, points, rule, lines)
    for sampling in samplings_in(old):
        flag = old.coords[SAMPLED + sampling].variable
        array = ReinterpolatedFlags(reinterpolation, flag)
        coords[sampled_names(sampling)[""]] = lazily(
            (*source.cells, rule.name), array, flag_attrs(sampling, flags_join(flag))
        )
    variables = {
        str(name): array.variable
        if source.rule.name not in array.dims
        else _interpolated(source, array, points, rule, lines, how, reinterpolation)
        for name, array in old.data_vars.items()
    }
    attrs = dict(old.attrs)
    if "cumulative_compute" in old.coords and old["n_params"].attrs.get(CHANGING_PARAMS):
        dropped = "cumulative_compute, which on other points follows from the sources alone: 1"
        attrs["left_out"] = "; ".join(filter(None, [str(attrs.get("left_out", "")), dropped]))
    return xr.Dataset(variables, coords, attrs)


def _interpolated(
    source: SampleSource,
    array: xr.DataArray,
    points: Points,
    rule: AxisRule,
    lines: Lines | None,
    how: Interpolation,
    reinterpolation: Reinterpolation | None = None,
    filled: xr.Variable | None = None,
) -> xr.Variable:
    """Return a variable at points of an axis, interpolated between its samples."""
    names = samplings_of(array)
    reinterpolation = reinterpolation or Reinterpolation(source, points, rule, lines)
    flags = [source.dataset.coords[SAMPLED + n].variable for n in names]
    dims = [*source.cells, *(str(d) for d in array.dims if d not in source.cells and d != source.rule.name), rule.name]
    number = "own" if rule.by == "run" else "count"
    counts = {n: number_of(array, n, number) for n in names}
    made_alike = interpolation_attrs(how).items() <= {**source.dataset.attrs, **array.attrs}.items()
    values = ReinterpolatedValues(
        reinterpolation, array.variable, flags, counts, how, joins_at_branch(array), made_alike, filled
    )
    variable = lazily(dims, values, {**array.attrs, **interpolation_attrs(how)})
    if array.chunks is not None:
        # The chunks stay, except along the axis, whose points are new.
        chunks = dict(zip(map(str, array.dims), array.chunks, strict=True))
        variable = variable.chunk({d: chunks[d] if d != rule.name else -1 for d in dims})
    return variable
