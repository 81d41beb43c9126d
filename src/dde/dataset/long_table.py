"""Convert a Dataset to a long table, in memory or as a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from dde.atomic_files import atomic_path
from dde.dataset.dimensions import axis_of, broadcast_values, cell_dims, run_ids_along
from dde.dataset.loss_reductions import warn_of_mixed_loss
from dde.dataset.provenance import checkpoint_type
from dde.errors import SelectionError
from dde.schema import CHANGING_PARAMS, LEADING_COLUMNS, factors_of, is_datadecide

__all__ = [
    "frames_of",
    "to_frame",
    "to_parquet",
    "write_frames",
]


def write_frames(frames: Iterable[pd.DataFrame], path: Path, facts: Mapping[Any, Any] | None = None) -> Path:
    """Write frames with the same columns, one after the other, to a ``.csv`` file or else as parquet.

    Parameters
    ----------
    frames : iterable of pandas.DataFrame
    path : Path
        Replaced atomically where it exists.
    facts : mapping, optional
        Stored in the metadata of a parquet file, as JSON under ``dde``.
    """
    with atomic_path(path) as part:
        if path.suffix == ".csv":
            with part.open("w", newline="", encoding="utf-8") as file:
                for k, frame in enumerate(frames):
                    frame.to_csv(file, index=False, header=k == 0)
        else:
            _write_parquet(frames, part, facts)
    return path


def _write_parquet(frames: Iterable[pd.DataFrame], part: Path, facts: Mapping[Any, Any] | None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    try:
        for frame in frames:
            table = pa.Table.from_pandas(frame, preserve_index=False)
            if writer is None:
                schema = _typed(table.schema)
                if facts:
                    metadata = {**(schema.metadata or {}), b"dde": json.dumps(facts, default=_plain).encode()}
                    schema = schema.with_metadata(metadata)
                writer = pq.ParquetWriter(part, schema)
            writer.write_table(table.cast(writer.schema))
    finally:
        if writer is not None:
            writer.close()


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)


def _typed(schema: Any) -> Any:
    """Return a schema in which columns without any value are text, as they are in frames that have values."""
    import pyarrow as pa

    for k, field in enumerate(schema):
        if pa.types.is_null(field.type):
            schema = schema.set(k, field.with_type(pa.string()))
    return schema


def to_frame(dataset: xr.Dataset, dropna: bool = True) -> pd.DataFrame:
    """Return one row per lineage, run and token, with columns for lineage, run and treatment.

    Parameters
    ----------
    dataset : xarray.Dataset
        A Dataset of :func:`dde.open_lineages`, or a selection of it.
    dropna : bool, default True
        Leave out rows without any metric.

    Returns
    -------
    pandas.DataFrame
        The columns of a run's continuous curves except `step`; `run_id` is the curve's own run and `checkpoint_type`
        the type of the run that was training there. The dimensions of a sweep, another axis, and the factors of
        another suite are columns, too.

    Raises
    ------
    SelectionError
        When the Dataset has no axis.
    SourceError
        When a coordinate that the columns need is missing.

    Warns
    -----
    DdeWarning
        When runs of one method reduce ``train_loss`` in different ways; the column ``reduce_loss`` says how.
    """
    rule = axis_of(dataset)
    if rule is None:
        raise SelectionError(
            "the Dataset has no coordinate of tokens, so its rows have no position on an axis. "
            "Keep cumulative_tokens, which dde.open_lineages() gives."
        )
    if rule.name not in dataset.dims:
        dataset = dataset.expand_dims(rule.name)
    # Lineages first, then runs or the dimensions of a sweep, the axis last.
    dims = sorted(cell_dims(dataset), key=lambda d: d != "lineage")
    dims.append(rule.name)
    metrics = [str(n) for n, v in dataset.data_vars.items() if rule.name in v.dims and set(v.dims) <= set(dims)]
    sizes = {d: dataset.sizes[d] for d in dims}
    values = {name: broadcast_values(dataset[name].variable, sizes) for name in metrics}
    keep = np.array(np.broadcast_to((run_ids_along(dataset, tuple(dims[:-1])) != "")[..., None], tuple(sizes.values())))
    for name in metrics:
        warn_of_mixed_loss(dataset[name], values[name], by_method=True)
    if dropna:
        some = np.zeros(keep.shape, bool)
        for column in values.values():
            some |= ~np.isnan(column)
        keep &= some
    # Rows are picked before columns are built, because most cells of a Dataset are empty.
    at = dict(zip(dims, np.nonzero(keep), strict=True))
    rows = len(at[rule.name])
    table: dict[str, Any] = {}
    # Dimensions of a sweep and another axis are columns, too.
    factors = [] if is_datadecide(dataset) else list(factors_of(dataset))
    for name in dict.fromkeys([*LEADING_COLUMNS, *factors, *(d for d in dims if d != "lineage")]):
        source = "lineage" if name == "lineage_id" else name
        if source in dataset.coords:
            coordinate = dataset[source].variable
            picked = tuple(at[str(d)] for d in coordinate.dims)
            table[name] = coordinate.values[picked] if picked else np.full(rows, coordinate.values.item())
    has_params = "n_params" in dataset.coords and not dataset["n_params"].attrs.get(CHANGING_PARAMS)
    if "cumulative_compute" not in table and has_params and "cumulative_tokens" in dataset.coords:
        table["cumulative_compute"] = broadcast_values(
            (6.0 * dataset["n_params"] * dataset["cumulative_tokens"]).variable, sizes
        )[keep]
    for name in metrics:
        table[name] = values[name][keep]
    kinds = checkpoint_type(dataset)
    table["checkpoint_type"] = np.array(kinds.attrs["flag_meanings"].split(), object)[
        broadcast_values(kinds.variable, sizes)[keep]
    ]
    return pd.DataFrame(table)


def to_parquet(dataset: xr.Dataset, path: str | os.PathLike[str], dropna: bool = True) -> Path:
    """Write the long table of :func:`to_frame` as parquet, a lineage at a time.

    Parameters
    ----------
    dataset : xarray.Dataset
    path : path-like
        File to write; replaced atomically where it exists.
    dropna : bool, default True
        Leave out rows without any metric.

    Returns
    -------
    Path
        The file. The metadata of its schema holds the Dataset's attributes, which record its origin, as JSON under
        ``dde``.

    Raises
    ------
    SourceError
        When a coordinate that the columns need is missing.

    Examples
    --------
    >>> import dde, pandas
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["piqa"])
    >>> len(pandas.read_parquet(ds.dde.to_parquet("piqa.parquet"))) == len(ds.dde.to_frame())
    True
    """
    return write_frames(frames_of(dataset, dropna), Path(path), dict(dataset.attrs))


def frames_of(dataset: xr.Dataset, dropna: bool = True) -> Iterator[pd.DataFrame]:
    """Yield the long table of one lineage after the other, with the same columns."""
    if "lineage" not in dataset.dims:
        yield to_frame(dataset, dropna)
        return
    if not dataset.sizes["lineage"]:
        yield to_frame(dataset, dropna)
    for k in range(dataset.sizes["lineage"]):
        yield to_frame(dataset.isel(lineage=[k]), dropna)
