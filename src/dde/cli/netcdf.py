"""Writing netCDF so that a full disk is an error and nothing else."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import xarray as xr
from dask.callbacks import Callback

__all__ = ["write_netcdf"]


def write_netcdf(dataset: xr.Dataset, path: Path) -> None:
    """Write a Dataset with h5netcdf.

    HDF5 goes on after a write that failed: it tries again whenever an object is freed, prints each failure, and
    crashes at the end of the process. So it never sees one: the file keeps what it can't write in memory until the
    block that is being written is done, and the failure is raised then.

    Raises
    ------
    OSError
        When it can't be written.
    """
    with _PatientFile(path) as file, _AfterEachBlock(file):
        try:
            dataset.to_netcdf(cast(Any, file), engine="h5netcdf")
        finally:
            file.check()


class _PatientFile(io.FileIO):
    """A new file whose writes succeed, or seem to."""

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


class _AfterEachBlock(Callback):
    """Raises what went wrong with a block once it is written."""

    def __init__(self, file: _PatientFile) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._file = file

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        self._file.check()
