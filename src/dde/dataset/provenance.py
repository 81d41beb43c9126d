"""Provenance of cells: observed or interpolated, the type of run that was training, the checkpoint on the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.dataset.cell_operations import mask_cells
from dde.dataset.dimensions import (
    broadcast_values,
    cells_along,
    require_axis,
    run_dims,
    run_ids_along,
    texts_along,
    tokens_along,
)
from dde.dataset.naming import checkpoints_of, metric_alias
from dde.dataset.samples import checked_positions, flags_of, has_samplings, is_sampled, is_set
from dde.errors import SourceError, UnknownNameError, near_names
from dde.lineage.chain_texts import Stage, parse_chain
from dde.schema import PRETRAINING, SAMPLED, TABLE_SAMPLINGS, is_datadecide

__all__ = [
    "CHECKPOINT_TYPES",
    "checkpoint_type",
    "metric_named",
    "observed",
    "revision",
    "run_types_of",
    "stages_along",
    "support",
    "support_codes",
    "training_types",
]

T = TypeVar("T", xr.Dataset, xr.DataArray)

#: Flags of :func:`checkpoint_type`, by code.
CHECKPOINT_TYPES = ("outside", PRETRAINING, "supervised_ft", "dpo", "other")
SUPPORT = ("outside", "observed", "interpolated")


def metric_named(dataset: xr.Dataset, name: str) -> str:
    """Return the name of a variable of a Dataset, given its name or an alias.

    Raises
    ------
    UnknownNameError
        When there is no such variable.
    """
    if isinstance(name, str) and name in dataset.data_vars:
        return name
    alias = metric_alias(dataset, name) if isinstance(name, str) else ""
    if alias not in dataset.data_vars:
        raise UnknownNameError(
            f"{name!r} is not a variable of this Dataset, so it can't be shown or used in a computation."
            f"{near_names(name, map(str, dataset.data_vars))} "
            f"There are {', '.join(map(str, dataset.data_vars)) or 'none'}."
        )
    return alias


def support(array: xr.DataArray) -> xr.DataArray:
    """Return whether each cell of a metric is observed, interpolated, or outside of the run's observations.

    Parameters
    ----------
    array : xarray.DataArray
        A metric of :func:`dde.open_lineages`, values computed from it cell by cell, or a selection, sweep or
        alignment of it. It may have been saved and opened again.

    Returns
    -------
    xarray.DataArray
        int8 with the dimensions of `array`: 0 outside of the run's observations, 1 observed, 2 interpolated.

    Raises
    ------
    SourceError
        When a coordinate, or the attribute that says which cells are samples, is missing.
    SelectionError
        When points of the axis were moved.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["piqa"])
    >>> bool((ds.piqa.dde.support() == (100 * ds.piqa).dde.support()).all())
    True
    """
    return _flags(array, array.dims, support_codes(array), SUPPORT, "support")


def support_codes(array: xr.DataArray) -> npt.NDArray[np.int8]:
    """Return the codes of :func:`support` without coordinates, which take longer to copy than codes to compute."""
    sampled = is_sampled(array)
    not_null = array.variable.notnull().compute()
    sizes = {str(d): n for d, n in array.sizes.items()}
    has_value, is_sample = broadcast_values(not_null, sizes), broadcast_values(sampled.variable, sizes)
    # 0 outside, 1 observed, 2 interpolated.
    codes: npt.NDArray[np.int8] = has_value.astype(np.int8) << (~is_sample.astype(bool)).view(np.int8)
    return codes


def observed(obj: T) -> T:
    """Return the observations only: NaN where the run was not sampled.

    Parameters
    ----------
    obj : xarray.Dataset or DataArray
        A Dataset of :func:`dde.open_lineages`, or values computed from it cell by cell. Variables of a Dataset that
        name no sampling are left out.

    Returns
    -------
    xarray.Dataset or DataArray
        Lazy where `obj` is.

    Raises
    ------
    SourceError
        When a coordinate, or the attribute that says which cells are samples, is missing.
    SelectionError
        When points of the axis were moved.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["piqa"], grid=500)
    >>> int(ds.dde.observed().piqa.count()) < int(ds.piqa.count())
    True
    """
    if isinstance(obj, xr.DataArray):
        return obj.copy(data=mask_cells(obj.variable, flags_of(obj))._data)
    sampled = {str(n): a for n, a in obj.data_vars.items() if has_samplings(a)}
    if not sampled and len(obj.data_vars):
        raise SourceError(
            f"no variable of this Dataset ({', '.join(map(str, obj.data_vars))}) names a sampling, so the observed "
            "cells are unknown. Name the samplings: ds.dde.sampled_as('evaluations')."
        )
    return obj[list(sampled)].assign({n: mask_cells(a.variable, flags_of(a)) for n, a in sampled.items()})


def checkpoint_type(obj: xr.Dataset | xr.DataArray) -> xr.DataArray:
    """Return the type of the run that was training at each cell: pretraining, supervised_ft, dpo, or outside.

    Returns
    -------
    xarray.DataArray
        int8 codes along the dimensions of the cells. A cell after the run's last token is outside, and so is one
        between the last token that the parents of a merge have in common and the merge. ``flag_meanings`` names the
        type of each code; for suites other than DataDecide these are the suite's own types, in the order in which
        they appear.

    Raises
    ------
    SourceError
        When the coordinates `chain`, `end_tokens` or `cumulative_tokens` are missing.
    """
    dims, codes, types, _ = training_types(obj)
    return _flags(obj, dims, codes, types, "checkpoint_type")


def training_types(
    obj: xr.Dataset | xr.DataArray,
) -> tuple[tuple[str, ...], npt.NDArray[np.int8], tuple[str, ...], npt.NDArray[np.int16]]:
    """Return the codes of :func:`checkpoint_type`, and the stage of its curve that was training at each cell.

    Returns
    -------
    dims : tuple of str
        Dimensions of the cells: those of runs, then the axis.
    codes : int8 array
        Code of the type at each cell.
    types : tuple of str
        Type of each code; "outside" is 0.
    stage : int16 array
        Position among the stages of the curve, 0 for the base; -1 outside of all stages.

    Raises
    ------
    SourceError
        When the coordinates `chain`, `end_tokens` or `cumulative_tokens` are missing.
    """
    require_axis(obj)
    checked_positions(obj)
    dims, stage, chains = _training_stages(obj)
    types = run_types_of(obj, chains)
    codes = np.zeros(stage.shape, np.int8)
    last_code = len(types) - 1
    for at in np.ndindex(chains.shape):
        # Types that DataDecide does not have get the last code, "other".
        of_chain = [types.index(t) if (t := _flag_meaning(s.run_type)) in types else last_code for s in chains[at]]
        codes[at] = np.array([*of_chain, 0], np.int8)[stage[at]]
    return dims, codes, types, stage


def run_types_of(obj: xr.Dataset | xr.DataArray, stages: npt.NDArray[np.object_]) -> tuple[str, ...]:
    """Return the flags of :func:`checkpoint_type`: `CHECKPOINT_TYPES` for DataDecide, else the types in the chains."""
    if is_datadecide(obj):
        return CHECKPOINT_TYPES
    types = dict.fromkeys(_flag_meaning(stage.run_type) for chain in stages.ravel().tolist() for stage in chain)
    return (CHECKPOINT_TYPES[0], *types)


def _flag_meaning(run_type: str) -> str:
    # CF separates flag meanings by spaces.
    return "_".join(run_type.split())


def _training_stages(
    obj: xr.Dataset | xr.DataArray,
) -> tuple[tuple[str, ...], npt.NDArray[np.int16], npt.NDArray[np.object_]]:
    """Return the dimensions of cells, the stage that was training at each, and the stages of each run, () for none."""
    rule = require_axis(obj)
    cells = run_dims(obj)
    run_ids = run_ids_along(obj, cells)
    axis = (rule.name,) if rule.name in obj.dims else ()
    tokens = tokens_along(obj, (*cells, *axis))
    end, stages = cells_along(obj, "end_tokens", cells), stages_along(obj, cells)
    training = np.full(tokens.shape, -1, np.int16)
    for at in np.ndindex(run_ids.shape):
        if not run_ids[at]:
            stages[at] = ()
            continue
        tokens_of_run, chain = tokens[at], stages[at]
        for k, stage in enumerate(chain):
            start, stop = (-1 if not k else stage.start), (end[at] if k + 1 == len(chain) else chain[k + 1].start)
            begins = tokens_of_run > start if stage.merged_at is None else tokens_of_run >= stage.merged_at
            training[at] = np.where(begins & (tokens_of_run <= stop), k, training[at])
    return (*cells, *axis), training, stages


def stages_along(obj: xr.Dataset | xr.DataArray, dims: tuple[str, ...]) -> npt.NDArray[np.object_]:
    """Return the stages of each run's curve along dimensions of cells; () where there is no run.

    Raises
    ------
    SourceError
        When the coordinate `chain` is missing.
    """
    if "chain" not in obj.coords:
        raise SourceError(
            "this object has no coordinate chain, so the types of run of its cells are unknown. Keep the coordinates "
            "that dde.open_lineages() gives. A Dataset that was saved before this coordinate existed has to be opened "
            "from its stores and saved again."
        )
    texts = texts_along(obj, "chain", dims)
    parsed: dict[str, tuple[Stage, ...]] = {text: parse_chain(text) for text in set(texts.ravel().tolist())}
    out = np.empty(texts.shape, object)
    for at in np.ndindex(texts.shape):
        out[at] = parsed[str(texts[at])]
    return out


def revision(obj: xr.Dataset | xr.DataArray) -> xr.Dataset:
    """Return the Hub model, revision and step of each cell that is a pretraining checkpoint.

    Returns
    -------
    xarray.Dataset
        `hub_model`, `revision` (object text) and `step` (int64) along the dimensions of the cells. They are "" and -1
        where the cell is after the branch, or is not a checkpoint of the base that was evaluated, branched from or
        final.

    Raises
    ------
    SourceError
        When a coordinate that it needs is missing, or the suite declares no checkpoints or has no such lineage.
    """
    rule = require_axis(obj)
    checked_positions(obj)
    if not is_datadecide(obj):
        checkpoints_of(obj, "")
    if "lineage" not in obj.coords:
        raise SourceError(
            "this object has no coordinate lineage, so the models of its checkpoints are unknown. "
            "Keep the coordinates that dde.open_lineages() gives."
        )
    cells = run_dims(obj)
    run_ids = run_ids_along(obj, cells)
    axis = (rule.name,) if rule.name in obj.dims else ()
    dims = (*cells, *axis)
    sizes = {d: obj.sizes[d] for d in dims}
    tokens = np.nan_to_num(tokens_along(obj, dims), nan=-1.0).astype(np.int64)
    lineages = texts_along(obj, "lineage", cells)
    origin, end = cells_along(obj, "origin_tokens", cells), cells_along(obj, "end_tokens", cells)
    evaluated = np.zeros(tokens.shape, bool)
    if missing := [SAMPLED + s for s in TABLE_SAMPLINGS if SAMPLED + s not in obj.coords]:
        raise SourceError(
            f"this object has no coordinate {', '.join(missing)}, so its evaluated checkpoints are unknown. "
            "Keep the coordinates that dde.open_lineages() gives."
        )
    for name in TABLE_SAMPLINGS:
        evaluated |= is_set(broadcast_values(obj.coords[SAMPLED + name].variable, sizes))
    model, revisions = np.full(tokens.shape, "", object), np.full(tokens.shape, "", object)
    step = np.full(tokens.shape, -1, np.int64)
    for at in np.ndindex(run_ids.shape):
        if not run_ids[at]:
            continue
        base = checkpoints_of(obj, str(lineages[at]))
        # The Hub has revisions of some steps: those that were evaluated, the final one, and the one branched from.
        last, per_step = (end[at] if np.isnan(origin[at]) else origin[at]), base.tokens_per_step
        others = [base.scheduled_tokens, -1 if np.isnan(last) else int(last) // per_step * per_step]
        of_run = tokens[at]
        is_checkpoint = (evaluated[at] | np.isin(of_run, others)) & (of_run % per_step == 0)
        is_checkpoint &= (of_run >= 0) & (of_run <= last)
        step[at] = np.where(is_checkpoint, of_run // per_step, -1)
        model[at] = np.where(is_checkpoint, base.hub_model, "")
        texts = [base.revision(s) if s >= 0 else "" for s in np.atleast_1d(step[at]).tolist()]
        revisions[at] = np.array(texts, object).reshape(step[at].shape)
    variables = {"hub_model": model, "revision": revisions, "step": step}
    return xr.Dataset({n: (dims, v) for n, v in variables.items()}, _coords_of(obj, dims))


def _coords_of(obj: xr.Dataset | xr.DataArray, dims: Sequence[Any]) -> dict[str, xr.DataArray]:
    return {str(n): c for n, c in obj.coords.items() if set(c.dims) <= set(dims)}


def _flags(
    obj: xr.Dataset | xr.DataArray,
    dims: Sequence[Any],
    codes: npt.NDArray[np.int8],
    meanings: tuple[str, ...],
    name: str,
) -> xr.DataArray:
    attrs = {
        "long_name": name.replace("_", " "),
        "flag_values": np.arange(len(meanings), dtype=np.int8),
        "flag_meanings": " ".join(meanings),
    }
    return xr.DataArray(xr.Variable(tuple(dims), codes), _coords_of(obj, dims), name=name, attrs=attrs)
