"""A Dataset as a long table with the seed's columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from dde.arrays.lazy import DIMS
from dde.arrays.provenance import CHECKPOINT_TYPES, checkpoint_type
from dde.curves.frames import LEADING_COLUMNS

__all__ = ["to_frame"]


def to_frame(dataset: xr.Dataset, dropna: bool = True) -> pd.DataFrame:
    """Return one row per lineage, run and token, with the seed's columns.

    Parameters
    ----------
    dataset : xarray.Dataset
        As :func:`dde.open_lineages` gives it, or a selection of it.
    dropna : bool, default True
        Leave out rows without any metric.

    Returns
    -------
    pandas.DataFrame
        The columns of :func:`dde.curves.frames.continuous_curves` but for `step`; `run_id` is the curve's own run
        and `checkpoint_type` the type of the run that was training there.
    """
    missing = [d for d in DIMS if d not in dataset.dims]
    wide = dataset.expand_dims(missing)
    metrics = [str(n) for n, v in wide.data_vars.items() if set(v.dims) == set(DIMS)]
    values = {name: wide[name].transpose(*DIMS).values for name in metrics}
    run_ids = _along(wide, "run_id", ("lineage", "run"))
    shape = tuple(wide.sizes[d] for d in DIMS)
    keep = np.broadcast_to((run_ids != "")[:, :, None], shape)
    if dropna:
        some = np.zeros(shape, bool)
        for column in values.values():
            some |= ~np.isnan(column)
        keep = keep & some
    # Rows are picked before columns are made: most cells of a Dataset hold nothing.
    at = dict(zip(DIMS, np.nonzero(keep), strict=True))
    table: dict[str, object] = {}
    for name in LEADING_COLUMNS:
        source = "lineage" if name == "lineage_id" else name
        if source in dataset.coords:
            dims = _NATIVE.get(source, (source,) if source in DIMS else _LINEAGE)
            table[name] = _along(wide, source, dims)[tuple(at[d] for d in dims)]
    for name in metrics:
        table[name] = values[name][keep]
    kinds = checkpoint_type(dataset).expand_dims(missing).transpose(*DIMS).values[keep]
    table["checkpoint_type"] = np.array(CHECKPOINT_TYPES, object)[kinds]
    return pd.DataFrame(table)


_CELL, _LINEAGE, _RUN = ("lineage", "run"), ("lineage",), ("run",)
# Dimensions of the columns, whatever a selection has dropped.
_NATIVE: dict[str, tuple[str, ...]] = {
    "run_id": _CELL,
    "cumulative_compute": ("lineage", "cumulative_tokens"),
    "run_type": _RUN,
    "learning_rate": _RUN,
    "posttraining_method": _RUN,
    "finetune_tokens": _RUN,
    "epochs": _RUN,
    "dpo_beta": _RUN,
}


def _along(dataset: xr.Dataset, name: str, dims: tuple[str, ...]) -> npt.NDArray[Any]:
    """Return a coordinate's values along `dims`, also those that a selection has dropped from it."""
    coordinate = dataset[name].variable.set_dims({d: dataset.sizes[d] for d in dims})  # type: ignore[no-untyped-call]
    return np.asarray(coordinate.transpose(*dims).values)
