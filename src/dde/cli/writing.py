"""Writing a Dataset or a table to a file, whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dask
import pandas as pd
import typer
import xarray as xr
from dask.callbacks import Callback

from dde.cli.output import Advance
from dde.errors import DdeError, near_names

__all__ = ["DATASET_SUFFIXES", "check_target", "write_dataset", "write_frame"]

DATASET_SUFFIXES = (".zarr", ".nc", ".parquet", ".csv")

# Bytes of one metric that are in memory at once.
_BLOCK = 64_000_000


def check_target(path: Path, suffixes: Sequence[str], overwrite: bool) -> None:
    """Raise when a file of that name can't be written, before any work is done for it.

    Raises
    ------
    typer.BadParameter
        When its suffix names no format.
    DdeError
        When it exists already, its folder doesn't, or a package for its format is missing.
    """
    if path.suffix not in suffixes:
        raise typer.BadParameter(
            f"--to {path}: the suffix {path.suffix!r} names no format.{near_names(path.suffix, suffixes)} "
            f"Use one of {', '.join(suffixes)}."
        )
    if not path.parent.is_dir():
        raise DdeError(
            f"the folder {path.parent} does not exist, so {path.name} can't be written there. Make it first."
        )
    if path.exists() and not overwrite:
        raise DdeError(f"{path} exists, so nothing was written. Pass --overwrite to replace it.")
    if path.is_dir() and not (path.suffix == ".zarr" and any((path / n).exists() for n in ("zarr.json", ".zgroup"))):
        raise DdeError(f"{path} is a folder with something else in it, so it is not replaced. Choose another name.")
    missing = [name for name in ("h5netcdf", "h5py") if find_spec(name) is None]
    if path.suffix == ".nc" and missing:
        raise DdeError(
            f"{' and '.join(missing)} is not installed, so no netCDF file can be written. "
            "Install it with: pip install 'dde[netcdf]'"
        )


def write_dataset(dataset: xr.Dataset, path: Path, advance: Advance) -> None:
    """Write a Dataset in the format that the suffix of `path` names, a few lineages at a time.

    Parameters
    ----------
    dataset : xarray.Dataset
        Lazy, as ``dde.open_lineages`` gives it.
    path : Path
        ``.zarr`` and ``.nc`` keep the Dataset as it is; ``.parquet`` and ``.csv`` hold the long table.
    advance : callable
        Told how much is done and how much there is.
    """
    if path.suffix in (".parquet", ".csv"):
        write_frame(_frames(dataset, advance), path)
        return
    cells = max(dataset.sizes["run"] * dataset.sizes["cumulative_tokens"], 1)
    size = {"lineage": max(_BLOCK // (8 * cells), 1), "run": -1, "cumulative_tokens": -1}
    # Metrics alone: what type a text coordinate has is known only to one that is in memory.
    blocks = dataset.assign({n: dataset.variables[n].chunk(size) for n in dataset.data_vars})
    # One block after the other: reading is what takes long, and memory stays small.
    with _whole(path) as part, dask.config.set(scheduler="synchronous"), _Progress(advance):
        if path.suffix == ".zarr":
            blocks.to_zarr(part, mode="w", zarr_format=3, consolidated=False)
        else:
            blocks.to_netcdf(part, engine="h5netcdf")


def write_frame(frames: Iterable[pd.DataFrame], path: Path) -> None:
    """Write frames with the same columns, one after the other, to a ``.csv`` or ``.parquet`` file."""
    with _whole(path) as part:
        if path.suffix == ".csv":
            with part.open("w", newline="", encoding="utf-8") as file:
                for k, frame in enumerate(frames):
                    frame.to_csv(file, index=False, header=k == 0)
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        writer = None
        try:
            for frame in frames:
                table = pa.Table.from_pandas(frame, preserve_index=False)
                if writer is None:
                    writer = pq.ParquetWriter(part, _typed(table.schema))
                writer.write_table(table.cast(writer.schema))
        finally:
            if writer is not None:
                writer.close()


def _typed(schema: Any) -> Any:
    """Return a schema whose columns without any value are text, which they are wherever they have one."""
    import pyarrow as pa

    for k, field in enumerate(schema):
        if pa.types.is_null(field.type):
            schema = schema.set(k, field.with_type(pa.string()))
    return schema


def _frames(dataset: xr.Dataset, advance: Advance) -> Iterator[pd.DataFrame]:
    count = dataset.sizes["lineage"]
    for k in range(count):
        frame: pd.DataFrame = dataset.isel(lineage=[k]).dde.to_frame()
        yield frame
        advance(k + 1, count)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Give a path to write to, which takes the place of `path` once all is written."""
    part = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        yield part
        if path.is_dir():
            shutil.rmtree(path)
        part.replace(path)
    except OSError as error:
        if isinstance(error, DdeError):
            raise
        raise DdeError(
            f"{path} can't be written ({error.strerror or error}). Free space, or choose another place."
        ) from error
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


class _Progress(Callback):
    """Tells how many of dask's tasks are done."""

    def __init__(self, advance: Advance) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._advance = advance
        self._done = self._total = 0

    def _start_state(self, dsk: Any, state: Any) -> None:
        self._total = sum(len(state[kind]) for kind in ("ready", "waiting"))

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        self._done += 1
        self._advance(self._done, max(self._total, self._done))
