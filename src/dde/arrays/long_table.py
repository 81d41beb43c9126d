"""A Dataset as a long table with the seed's columns."""

from __future__ import annotations

import pandas as pd
import xarray as xr

from dde.arrays.provenance import CHECKPOINT_TYPES, checkpoint_type
from dde.curves.frames import LEADING_COLUMNS

__all__ = ["to_frame"]

_DIMS = ("lineage", "run", "cumulative_tokens")


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
    kinds = checkpoint_type(dataset)
    wide = dataset.assign(checkpoint_type=kinds)
    missing = [d for d in _DIMS if d not in wide.dims]
    table = wide.expand_dims(missing).to_dataframe(dim_order=list(_DIMS)).reset_index()
    table = table.rename(columns={"lineage": "lineage_id"})
    table["checkpoint_type"] = pd.Series([CHECKPOINT_TYPES[k] for k in table["checkpoint_type"]], dtype=object)
    metrics = [str(n) for n in dataset.data_vars]
    leading = [c for c in LEADING_COLUMNS if c in table.columns]
    table = table[[*leading, *metrics, "checkpoint_type"]]
    table = table[table["run_id"] != ""]
    if dropna:
        table = table.dropna(subset=metrics, how="all")
    return table.reset_index(drop=True)
