"""What a Dataset's cells are made of: support, the run that was training, the checkpoint on the Hub."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.arrays.cube import Cube, find_cube
from dde.arrays.layout import Places, places_of
from dde.errors import SourceError, UnknownNameError, near_names
from dde.names import Metric, log_metric, parse_metric
from dde.relations.treatments import PRETRAINING

__all__ = ["checkpoint_type", "cube_of", "metric_named", "metric_of", "revision", "support"]

#: Flags of :func:`checkpoint_type`, by code.
CHECKPOINT_TYPES = ("outside", PRETRAINING, "supervised_ft", "dpo", "other")
SUPPORT = ("outside", "observed", "interpolated")


def cube_of(obj: xr.Dataset | xr.DataArray) -> Cube:
    """Return what the values of `obj` were made from.

    Raises
    ------
    SourceError
        When `obj` is none of dde's Datasets, or its stores are not open in this process.
    """
    if "run_id" not in obj.coords or "dde_cube" not in obj.coords["run_id"].attrs:
        raise SourceError(
            "this object has no coordinate run_id of one opening, so what its values were made from is unknown: the "
            "coordinate was dropped, Datasets were joined, or runs averaged. Do it before that, and start from "
            "dde.open_lineages(...)."
        )
    return find_cube(str(obj.coords["run_id"].attrs["dde_cube"]))


def metric_named(dataset: xr.Dataset, name: str) -> str:
    """Return the variable of a Dataset that a name or an alias means.

    Raises
    ------
    UnknownNameError
        When there is none.
    """
    if name in dataset.data_vars:
        return name
    try:
        alias = parse_metric(name).name
    except UnknownNameError:
        alias = ""
    if alias not in dataset.data_vars:
        raise UnknownNameError(
            f"{name!r} is no variable of this Dataset, so there is nothing of it to show or compute."
            f"{near_names(name, map(str, dataset.data_vars))} There are {', '.join(map(str, dataset.data_vars))}."
        )
    return alias


def metric_of(obj: xr.Dataset | xr.DataArray, name: str | None) -> Metric:
    """Return the metric of a data variable, by its name or an alias; of a DataArray, its own."""
    if isinstance(obj, xr.DataArray):
        attrs, name = obj.attrs, str(name or obj.name)
    else:
        attrs = obj[metric_named(obj, str(name))].attrs
    if attrs.get("metric") and not attrs.get("task"):
        return log_metric(str(attrs["metric"]))
    return parse_metric(name or "")


def support(obj: xr.Dataset | xr.DataArray, metric: str | None = None) -> xr.DataArray:
    """Return how each cell of a metric is known.

    Returns
    -------
    xarray.DataArray
        int8 of the cells' shape: 0 outside of the run's observations, 1 observed, 2 interpolated.
    """
    cube, places = cube_of(obj), places_of(obj)
    codes = cube.support(metric_of(obj, metric), places.run_ids.values, places.points, places.rule)
    return _flags(obj, places, codes, SUPPORT, "support")


def checkpoint_type(obj: xr.Dataset | xr.DataArray) -> xr.DataArray:
    """Return which kind of run was training at each cell: pretraining, supervised_ft, dpo, or outside.

    Returns
    -------
    xarray.DataArray
        int8 of the cells' shape; a cell behind the run's last token is outside.
    """
    cube, places = cube_of(obj), places_of(obj)
    registry, run_ids = cube.registry, places.run_ids.values
    every = places.tokens(cube)
    codes = np.zeros(every.shape, np.int8)
    for at in np.ndindex(run_ids.shape):
        run_id, tokens = str(run_ids[at]), every[at]
        if not run_id:
            continue
        chain = registry.chain(run_id)
        for member in chain:
            run = registry.derived.get(member)
            if run is None:
                start, end = -1, registry.base_end_tokens(member)
                # A base goes on, evaluated or not, up to where the next run of the chain branches off.
                if len(chain) > 1:
                    end = max(end or 0, registry.placed[chain[1]].branch_tokens or 0)
                code = 1
            else:
                placed = registry.placed[member]
                start, end = placed.branch_tokens or 0, placed.end_tokens
                code = CHECKPOINT_TYPES.index(run.run_type) if run.run_type in CHECKPOINT_TYPES else 4
            inside = (tokens > start) & (tokens <= (-1 if end is None else end))
            after = tokens > start
            codes[at][after] = 0
            codes[at][inside] = code
    return _flags(obj, places, codes, CHECKPOINT_TYPES, "checkpoint_type")


def revision(obj: xr.Dataset | xr.DataArray) -> xr.Dataset:
    """Return the Hub model, revision and step of each cell that is a pretraining checkpoint.

    Returns
    -------
    xarray.Dataset
        `hub_model`, `revision` (object text, "" where the cell is no checkpoint of the base that was evaluated,
        branched from or final, or lies behind the branch) and `step` (int64, -1 there), of the cells' shape.
    """
    cube, places = cube_of(obj), places_of(obj)
    registry, run_ids = cube.registry, places.run_ids.values
    every = np.nan_to_num(places.tokens(cube), nan=-1.0).astype(np.int64)
    model, names = np.full(every.shape, "", object), np.full(every.shape, "", object)
    step = np.full(every.shape, -1, np.int64)
    for at in np.ndindex(run_ids.shape):
        run_id, tokens = str(run_ids[at]), every[at]
        if not run_id:
            continue
        chain = registry.chain(run_id)
        base = registry.bases[chain[0]]
        end = registry.base_end_tokens(chain[0]) or 0
        last = registry.placed[chain[1]].branch_tokens or 0 if len(chain) > 1 else end
        # The Hub has no revision for every step: those that were evaluated, the final one, the one branched from.
        per_step = base.size.tokens_per_step
        kept = np.union1d(registry.checkpoint_steps.get(chain[0], ()), [base.size.last_step, last // per_step])
        held = (tokens >= 0) & (tokens % per_step == 0) & (tokens <= last) & np.isin(tokens // per_step, kept)
        step[at][held] = tokens[held] // per_step
        model[at][held] = base.hub_model
        names[at][held] = [f"step{s}-seed-{base.seed.dashed}" for s in step[at][held].tolist()]
    made = {"hub_model": places.variable(model), "revision": places.variable(names), "step": places.variable(step)}
    return xr.Dataset(made, places.coords_of(obj))


def _flags(
    obj: xr.Dataset | xr.DataArray,
    places: Places,
    codes: npt.NDArray[np.int8],
    meanings: tuple[str, ...],
    name: str,
) -> xr.DataArray:
    attrs = {
        "long_name": name.replace("_", " "),
        "flag_values": np.arange(len(meanings), dtype=np.int8),
        "flag_meanings": " ".join(meanings),
    }
    return xr.DataArray(places.variable(codes), places.coords_of(obj), name=name, attrs=attrs)
