"""Write Datasets and tables to files; a full disk is one error, and the old file stays."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import dask
import pandas as pd
import typer
import xarray as xr
from dask.callbacks import Callback

from dde.atomic_files import atomic_path
from dde.cli.output import Advance, note
from dde.dataset.long_table import frames_of, write_frames
from dde.errors import DdeError, near_names
from dde.printable import spreadsheet_safe

__all__ = [
    "DATASET_SUFFIXES",
    "check_target",
    "write_dataset",
    "write_frame",
    "write_netcdf",
]


def write_netcdf(dataset: xr.Dataset, path: Path) -> None:
    """Write a Dataset with h5netcdf.

    HDF5 continues after a failed write: it retries whenever an object is freed, prints each failure, and crashes at
    the end of the process. Failures are therefore hidden from it: the file stores in memory what it can't write, and
    raises the error after the current block.

    Raises
    ------
    OSError
        If the file can't be written.
    """
    with _DeferredErrorFile(path) as file, _CheckAfterBlock(file):
        try:
            dataset.to_netcdf(cast(Any, file), engine="h5netcdf")
        finally:
            file.check()


class _DeferredErrorFile(io.FileIO):
    """A new file whose writes never raise; `check` raises the first error, and unwritten content stays readable."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "x+")
        self._failure: OSError | None = None
        self._unwritten: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raise the first failure, if there was one."""
        if self._failure is not None:
            raise self._failure

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        done = 0
        try:
            while self._failure is None and done < len(view):
                done += super().write(view[done:])
        except OSError as error:
            self._failure = error
        if done < len(view):
            at = self.tell()
            self._unwritten.append((at, bytes(view[done:])))
            self.seek(at + len(view) - done)
        return len(view)

    def readinto(self, buffer: Any) -> int:
        if self._failure is None:
            return super().readinto(buffer)
        view = memoryview(buffer).cast("B")
        first = self.tell()
        read = super().readinto(view)
        view[read:] = bytes(len(view) - read)
        for at, content in self._unwritten:
            low, high = max(at, first), min(at + len(content), first + len(view))
            if low < high:
                view[low - first : high - first] = content[low - at : high - at]
        self.seek(first + len(view))
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        size = self.tell() if size is None else size
        try:
            if self._failure is None:
                super().truncate(size)
        except OSError as error:
            self._failure = error
        return size


class _CheckAfterBlock(Callback):
    """Raise a deferred error after each block."""

    def __init__(self, file: _DeferredErrorFile) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._file = file

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        self._file.check()


DATASET_SUFFIXES = (".zarr", ".nc", ".parquet", ".csv")

# Bytes of one metric that are in memory at a time.
_BLOCK = 64_000_000


def check_target(path: Path, suffixes: Sequence[str], overwrite: bool) -> None:
    """Check that a file of that name can be written, before any work is done for it.

    Raises
    ------
    typer.BadParameter
        If its suffix is not that of a supported format.
    DdeError
        If it already exists, its folder does not, or a package for its format is missing.
    """
    if path.suffix not in suffixes:
        raise typer.BadParameter(
            f"--to {path}: the suffix {path.suffix!r} is not a format.{near_names(path.suffix, suffixes)} "
            f"Use one of {', '.join(suffixes)}."
        )
    if not path.parent.is_dir():
        raise DdeError(
            f"the folder {path.parent} does not exist, so {path.name} can't be written there. Create it first."
        )
    if path.exists() and not overwrite:
        raise DdeError(f"{path} exists, so nothing was written. Pass --overwrite to replace it.")
    if path.is_dir() and not (path.suffix == ".zarr" and any((path / n).exists() for n in ("zarr.json", ".zgroup"))):
        raise DdeError(f"{path} is a folder with other content, so it is not replaced. Choose another name.")
    missing = [name for name in ("h5netcdf", "h5py") if find_spec(name) is None]
    if path.suffix == ".nc" and missing:
        raise DdeError(
            f"{' and '.join(missing)} is not installed, so no netCDF file can be written. "
            "Install it with: pip install 'dde[netcdf]'"
        )


def write_dataset(dataset: xr.Dataset, path: Path, advance: Advance, exact_text: bool = False) -> None:
    """Write a Dataset in the format given by the suffix of `path`, a few lineages at a time.

    Parameters
    ----------
    dataset : xarray.Dataset
        Lazy, as returned by ``dde.open_lineages``.
    path : Path
        ``.zarr`` and ``.nc`` store the Dataset itself; ``.parquet`` and ``.csv`` store its long table.
    advance : callable
        Progress callback; its arguments are the amount done and the total amount.
    exact_text : bool, default False
        As in :func:`write_frame`.
    """
    if path.suffix in (".parquet", ".csv"):
        write_frame(_frames(dataset, advance), path, exact_text)
        return
    cells = max(dataset.sizes["run"] * dataset.sizes["cumulative_tokens"], 1)
    size = {"lineage": max(_BLOCK // (8 * cells), 1), "run": -1, "cumulative_tokens": -1}
    # Chunk metrics only: the type of a text coordinate is known only while it is in memory.
    blocks = dataset.assign({n: dataset.variables[n].chunk(size) for n in dataset.data_vars})
    # Synchronous, which limits memory; most time is spent on reading anyway.
    with _write_errors(path), atomic_path(path) as part, dask.config.set(scheduler="synchronous"), _Progress(advance):
        if path.suffix == ".zarr":
            blocks.to_zarr(part, mode="w", zarr_format=3, consolidated=False)
        else:
            write_netcdf(blocks, part)


def write_frame(frames: Iterable[pd.DataFrame], path: Path, exact_text: bool = False) -> None:
    """Write frames with the same columns, one after the other, to a ``.csv`` or ``.parquet`` file.

    Parameters
    ----------
    frames : iterable of pandas.DataFrame
    path : Path
    exact_text : bool, default False
        Write the text of a ``.csv`` unchanged, also where a spreadsheet would take it for a formula or a terminal for
        a control sequence. Otherwise :func:`dde.printable.spreadsheet_safe` is applied, and a remark gives the number
        of changed texts.
    """
    changes: list[int] = []
    with _write_errors(path):
        write_frames(frames if exact_text or path.suffix != ".csv" else _safe(frames, changes), path)
    if count := sum(changes):
        note(
            f"{count} texts of {path.name} start like a formula or have control characters, and were escaped so that "
            "they are shown as text (--exact-text writes them unchanged)"
        )


def _safe(frames: Iterable[pd.DataFrame], changes: list[int]) -> Iterator[pd.DataFrame]:
    for frame in frames:
        safe, changed = spreadsheet_safe(frame)
        if not changes:
            changes.append(sum(a != b for a, b in zip(frame.columns, safe.columns, strict=True)))
        changes.append(changed)
        yield safe


def _frames(dataset: xr.Dataset, advance: Advance) -> Iterator[pd.DataFrame]:
    for k, frame in enumerate(frames_of(dataset)):
        yield frame
        advance(k + 1, dataset.sizes["lineage"])


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Convert an OSError to a DdeError on the file being written; errors of reading are already DdeErrors."""
    try:
        yield
    except DdeError:
        raise
    except OSError as error:
        raise DdeError(
            f"{path} can't be written ({error.strerror or error}). Free space, or choose another folder."
        ) from error


class _Progress(Callback):
    """Report the number of finished dask tasks."""

    def __init__(self, advance: Advance) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._advance = advance
        self._done = self._total = 0

    def _start_state(self, dsk: Any, state: Any) -> None:
        self._total = sum(len(state[kind]) for kind in ("ready", "waiting"))

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        self._done += 1
        self._advance(self._done, max(self._total, self._done))
