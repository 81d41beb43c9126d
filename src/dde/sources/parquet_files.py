"""Open parquet files, on disk or in an object store, to read parts of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from dde.errors import DdeError, SourceError
from dde.sources.connection import Connection

__all__ = ["ReadableFile", "open_parquet"]


class ReadableFile(Protocol):
    """Protocol: location and credentials of a file for :func:`open_parquet`."""

    @property
    def path(self) -> str:
        """Path within its file system, without credentials."""
        ...

    @property
    def root(self) -> Connection:
        """Folder or URL that contains the file."""
        ...

    def open_place(self) -> tuple[Any, str]:
        """Return the file system of the file, and its path there, with credentials."""
        ...


@contextmanager
def open_parquet(
    file: ReadableFile, *, metadata: pq.FileMetaData | None = None, read_dictionary: Sequence[str] = ()
) -> Iterator[pq.ParquetFile]:
    """Open a table to read parts of it.

    `metadata` saves reading the footer again, which exceeds a megabyte for a wide table; it must come from the same
    file. The columns in `read_dictionary` are returned dictionary-encoded.

    Arrow reads a local file without the GIL. From an object store it requests only the ranges that it needs, and
    merges adjacent ones. The read-ahead of fsspec, its default, would fetch the rest as well: to open six tables of
    31 MB it reads 32 MB in 19 requests; Arrow reads 0.9 MB in 36.

    Raises
    ------
    SourceError
        If the file, or a part of it that is read within the block, is not parquet or can't be read; names the file.
    """
    fs, path = file.open_place()
    is_local = isinstance(fs, LocalFileSystem)
    try:
        with nullcontext(path) if is_local else fs.open(path, "rb", cache_type="none") as source:
            # Where the writer added page checksums, they detect damage that would otherwise read as wrong numbers.
            options: dict[str, Any] = {"pre_buffer": not is_local, "page_checksum_verification": True}
            parquet = pq.ParquetFile(source, metadata=metadata, **options)
            # Arrow accepts only existing columns that are not nested here.
            if encoded := [
                field.name
                for field in (parquet.schema_arrow if read_dictionary else ())
                if field.name in read_dictionary and not pa.types.is_nested(field.type)
            ]:
                parquet = pq.ParquetFile(source, metadata=parquet.metadata, read_dictionary=encoded, **options)
            with parquet:
                yield parquet
    except Exception as error:
        if isinstance(error, DdeError) or not _is_read_error(error, is_local):
            raise
        problem = _unreadable(file, error, is_local)
    else:
        return
    # Raised outside the handler: the error of a store may quote a signed URL.
    raise problem


def _is_read_error(error: Exception, is_local: bool) -> bool:
    if isinstance(error, (pa.ArrowException, OSError, UnicodeDecodeError)):
        return True
    # The errors of different stores have no common base class.
    return not is_local and type(error).__module__.partition(".")[0] not in ("builtins", "dde", "numpy", "pyarrow")


def _unreadable(file: ReadableFile, error: Exception, is_local: bool) -> SourceError:
    if isinstance(error, pa.ArrowNotImplementedError):
        return SourceError(
            f"{file.path} is not a readable parquet file here ({error}), so its rows are unknown. "
            "Write it again with other types or settings, or remove it."
        )
    reason = " ".join(str(error).split())[:300] if is_local else file.root.scrub(error)[:300]
    return SourceError(
        f"{file.path} is not a readable parquet file ({reason or type(error).__name__}), so its rows are unknown. "
        "Download it again or remove it."
    )
