"""Differences of runs to one run, at the same points of the axis."""

from __future__ import annotations

import numpy as np
import xarray as xr

from dde.dataset.dimensions import axis_of, run_dims, run_ids_along
from dde.errors import SelectionError, UnknownNameError, near_names
from dde.schema import MEMBERS, PRETRAINING

__all__ = ["difference_to_run"]


def difference_to_run(dataset: xr.Dataset, run_id: str) -> xr.Dataset:
    """Return the difference of every metric to the curve of one run, at the same point of the axis.

    Parameters
    ----------
    dataset : xarray.Dataset
        A Dataset of :func:`dde.open_lineages`, a selection, sweep or alignment of it.
    run_id : str
        Id of a run of the Dataset, as in its coordinate ``run_id``.

    Returns
    -------
    xarray.Dataset
        With the same dimensions, lazy where `dataset` is. NaN where the run has no value: nothing is extrapolated. A
        cell counts as observed where the run that it belongs to was observed there.

    Raises
    ------
    UnknownNameError
        When no run has this id.
    SelectionError
        When the Dataset holds means, or has no dimension of tokens.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["piqa"])
    >>> base = ds.run_id.sel(run="pretraining").values[0]
    >>> change = difference_to_run(ds, base)
    >>> float(abs(change.piqa.where(ds.run_id == base)).max())
    0.0
    """
    if MEMBERS in dataset.coords:
        raise SelectionError(
            "the Dataset holds means, and a mean is not a run to compare with. Take the differences "
            "first, then their mean."
        )
    rule = axis_of(dataset)
    if rule is None or rule.name not in dataset.dims:
        raise SelectionError(
            "the Dataset has no dimension of tokens, so its runs have no curves to subtract. Select several points."
        )
    dims = run_dims(dataset)
    run_ids = run_ids_along(dataset, dims)
    found = np.argwhere(run_ids == run_id)
    if not len(found):
        known = sorted(set(run_ids.ravel().tolist()) - {""})
        raise UnknownNameError(
            f"no run of the Dataset has the id {run_id!r}, so there is nothing to show differences to."
            f"{near_names(run_id, known)} ds.run_id has the ids."
        )
    at = dict(zip(dims, map(int, found[0]), strict=True))
    label = _label_of(dataset, at) or run_id
    changed = {}
    for name, array in dataset.data_vars.items():
        if set(dims) <= set(map(str, array.dims)) and rule.name in array.dims:
            attrs = array.attrs | {"long_name": f"{array.attrs.get('long_name', name)}, difference to {label}"}
            changed[name] = (array.variable - array.variable.isel(at)).transpose(*array.dims)
            changed[name].attrs = attrs
    return dataset.assign(changed)


def _label_of(dataset: xr.Dataset, at: dict[str, int]) -> str:
    """Return the label of a run: of a base, that of its lineage."""
    texts = {
        n: str(dataset[n].isel(at, missing_dims="ignore").values) for n in ("lineage", "run") if n in dataset.coords
    }
    run = texts.get("run", "")
    return texts.get("lineage", run) if run in ("", PRETRAINING) else run
