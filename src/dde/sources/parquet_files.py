"""Opening parquet files for reading ranges of them, on disk or in an object store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from dde.errors import DdeError, SourceError
from dde.sources.connection import Connection

__all__ = ["ParquetPlace", "open_parquet"]


class ParquetPlace(Protocol):
    """What :func:`open_parquet` has to know of a file."""

    @property
    def path(self) -> str:
        """Path within its file system, without credentials."""
        ...

    @property
    def root(self) -> Connection:
        """Folder or URL that was searched."""
        ...

    def open_place(self) -> tuple[Any, str]:
        """Return the file system that has the file, and the path that it goes by there, with credentials."""
        ...


@contextmanager
def open_parquet(
    file: ParquetPlace, *, metadata: pq.FileMetaData | None = None, read_dictionary: Sequence[str] = ()
) -> Iterator[pq.ParquetFile]:
    """Open a table for reading ranges of it.

    `metadata` spares reading the footer again: a wide table's is over a megabyte. With it, the file must be the
    one that it was read from. The columns of `read_dictionary` come dictionary-encoded.

    Arrow reads a local file without Python's lock. In an object store it asks for the ranges that it needs, neighbours
    together. Reading ahead, which fsspec does by default, fetches all else too: opening six tables of 31 MB, it reads
    32 MB in 19 requests, Arrow 0.9 MB in 36.

    Raises
    ------
    SourceError
        When the file, or a part of it that is read within the block, is no parquet or can't be read; names the file.
    """
    fs, path = file.open_place()
    is_local = isinstance(fs, LocalFileSystem)
    try:
        with nullcontext(path) if is_local else fs.open(path, "rb", cache_type="none") as source:
            # Where a writer left checksums of pages, they tell damage that would read as other numbers.
            options: dict[str, Any] = {"pre_buffer": not is_local, "page_checksum_verification": True}
            parquet = pq.ParquetFile(source, metadata=metadata, **options)
            # Only columns that the file has, as such, can be read so.
            if encoded := [
                field.name
                for field in (parquet.schema_arrow if read_dictionary else ())
                if field.name in read_dictionary and not pa.types.is_nested(field.type)
            ]:
                parquet = pq.ParquetFile(source, metadata=parquet.metadata, read_dictionary=encoded, **options)
            with parquet:
                yield parquet
    except Exception as error:
        if isinstance(error, DdeError) or not _is_of_reading(error, is_local):
            raise
        problem = _unreadable(file, error, is_local)
    else:
        return
    # Outside of the handler: the error of a store may quote a signed address.
    raise problem


def _is_of_reading(error: Exception, is_local: bool) -> bool:
    if isinstance(error, (pa.ArrowException, OSError, UnicodeDecodeError)):
        return True
    # Stores have errors of their own, which share no base.
    return not is_local and type(error).__module__.partition(".")[0] not in ("builtins", "dde", "numpy", "pyarrow")


def _unreadable(file: ParquetPlace, error: Exception, is_local: bool) -> SourceError:
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
