"""The place of every cell of a Dataset on any axis, without putting it on a common grid of that axis."""

from __future__ import annotations

import xarray as xr

from dde.arrays.layout import require_params
from dde.arrays.samples import checked_positions
from dde.curves.axes import resolve_axis
from dde.errors import SelectionError

__all__ = ["axis_values"]


def axis_values(dataset: xr.Dataset, axis: str) -> xr.DataArray:
    """Return where on an axis the cells of a Dataset lie.

    Parameters
    ----------
    dataset : xarray.Dataset
        As :func:`dde.open_lineages` gives it, or saved and opened again, or on another axis.
    axis : str
        One of :data:`dde.curves.axes.AXES`.

    Returns
    -------
    xarray.DataArray
        Dimensions a subset of the Dataset's; NaN where a run has no place on the axis: before its branch on
        ``post_tokens`` and ``fraction_of_training``, which a pretraining run is on from its start, or not at all.

    Raises
    ------
    UnknownNameError
        When there is no such axis.
    SelectionError
        When the Dataset lacks the coordinates that it follows from.

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
            f"the Dataset lacks the coordinates {', '.join(missing)}, which {rule.name} follows from. "
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
            # The own tokens of a merge begin where it stands, not where its parents part.
            branch = dataset["start_tokens"].reset_coords(drop=True).where(branch.notnull())
        if rule.name == "post_tokens":
            values = tokens - branch
        else:
            start, end = branch.fillna(0.0), dataset["schedule_tokens"].reset_coords(drop=True)
            values = (tokens - start) / (end - start).where(end > start)
        values = values.where(values >= 0)
    return values.rename(rule.name).assign_attrs(rule.attrs)
