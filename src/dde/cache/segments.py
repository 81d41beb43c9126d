"""Segments: the result of one fetch, a rectangle of runs and keys, as a Zarr group that never changes.

Figures are of a local disk and two cores; ``tests/benchmarks/bench_cache.py`` takes them again.

- A chunk holds one key, so that a key is read without the others, and at most 131,072 rows (1 MB), so that some
  runs of very many are read without the others: 500,000 of 20 million rows in 3.0 ms, the whole column in 85 ms
  (72 ms with 4 MB).
- Shards have some 32 MB: 1,939 keys of 21,375 rows (331 MB) are written in 0.4 s as 10 files, where 1,939 files take
  1.0 s. In an object store a chunk is read from its shard by two requests for ranges.
- Nothing is compressed: of random doubles zstd saves 6 % and shuffled LZ4 12 %, for twice the time.
- Each chunk, and the index of each shard, has Zarr's own CRC-32C. A missing shard reads as fill values without an
  error, so the fill value is a number that no chunk begins with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec
from zarr.storage import MemoryStore, StorePath

from dde.array_types import Float64, Int64
from dde.cache.manifest import Manifest
from dde.cache.memory import Memory
from dde.cache.storage import Storage

__all__ = ["CHUNK_ROWS", "DamagedError", "SegmentReader", "write_segment"]


#: Rows of a chunk: 1 MB of one key.
CHUNK_ROWS = 1 << 17
# Values of a shard: 32 MB.
_SHARD_VALUES = 1 << 22
# Written together, so that an object store takes a small segment in two waves of requests.
_WRITE_BYTES = 8 << 20
# Segments whose arrays stay open.
_OPEN_SEGMENTS = 256

_NO_STEP = int(np.iinfo(np.int64).min)
_STRINGS = np.dtypes.StringDType()


class DamagedError(Exception):
    """Segments that were deleted or damaged before or while they were read; ``args`` are their names."""


def write_segment(storage: Storage, manifest: Manifest, step: Int64, values: Sequence[Float64]) -> Manifest:
    """Write a segment, which appears in one step, and return its manifest with Zarr's metadata of the arrays.

    Parameters
    ----------
    storage : Storage
    manifest : Manifest
    step : (row,) int64 array
    values : sequence of (row,) float64 arrays
        By key.

    Raises
    ------
    OSError
        If it can't be written.
    ValueError
        If a name is not valid Unicode.
    """
    rows, n_keys = manifest.rows, len(manifest.keys)
    by_row = min(max(rows, 1), CHUNK_ROWS)
    shard_rows = by_row * min(-(-max(rows, 1) // by_row), max(_SHARD_VALUES // by_row, 1))
    shard_keys = min(max(_SHARD_VALUES // shard_rows, 1), max(n_keys, 1))
    files: dict[str, Any] = {}
    buffer = MemoryStore(files)
    small = {
        "run_id": (np.array(manifest.runs, _STRINGS), "run", ""),
        "version": (np.array(manifest.versions, _STRINGS), "run", ""),
        "row_offset": (manifest.offsets, "run_bound", 0),
        "key": (np.array(manifest.keys, _STRINGS), "key", ""),
    }
    for name, (array, dim, fill) in small.items():
        _create(buffer, name, array.shape, array.dtype, (dim,), fill)[...] = array
    steps = _create(buffer, "step", (rows,), np.dtype(np.int64), ("row",), _NO_STEP, (by_row,), (shard_rows,))
    stored = _create(
        buffer,
        "values",
        (n_keys, rows),
        np.dtype(np.float64),
        ("key", "row"),
        _fill_value(values, by_row),
        (1, by_row),
        (shard_keys, shard_rows),
    )
    arrays = {name: json.loads(files[f"{name}/zarr.json"].to_bytes()) for name in (*small, "step", "values")}
    group = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": manifest.to_attributes(),
        # As zarr.consolidate_metadata writes it: a group is opened by one request.
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
    }
    with storage.publishing(manifest.name) as made:
        if rows:
            steps[...] = step
        for first in range(0, n_keys if rows else 0, shard_keys):
            # A shard at a time, so that no more than this is copied.
            stored[first : first + shard_keys] = np.stack(values[first : first + shard_keys])
            if sum(map(len, files.values())) > _WRITE_BYTES:
                made.write(_contents(files))
        made.write(_contents(files))
        # Last: in an object store this makes the segment visible.
        made.write({"zarr.json": json.dumps(group).encode()})
    return replace(manifest, arrays=arrays)


def _contents(files: dict[str, Any]) -> dict[str, memoryview]:
    """Return the content of files, and remove them from the buffer."""
    return {path: files.pop(path).as_numpy_array().data for path in list(files) if path != "zarr.json"}


def _fill_value(values: Sequence[Float64], by_row: int) -> float:
    """Return a number that no chunk begins with."""
    firsts = {float(x) for column in values for x in column[::by_row]}
    fill = float(np.finfo(np.float64).min)
    while fill in firsts:  # ends: there are more numbers than chunks
        fill = float(np.nextafter(fill, 0.0))
    return fill


def _create(
    store: Any,
    name: str,
    shape: tuple[int, ...],
    dtype: Any,
    dims: tuple[str, ...],
    fill: Any,
    chunks: tuple[int, ...] | None = None,
    shards: tuple[int, ...] | None = None,
) -> Any:
    return zarr.create_array(
        store,
        name=name,
        shape=shape,
        dtype=dtype,
        chunks=chunks or tuple(max(n, 1) for n in shape),
        shards=shards,
        compressors=[Crc32cCodec()],
        fill_value=fill,
        dimension_names=dims,
        # Zarr would not store a chunk of fill values only, which then looks like a missing one.
        config={"write_empty_chunks": True},
        zarr_format=3,
    )


class SegmentReader:
    """Ranges of the columns of segments, from memory or from where they are stored.

    Parameters
    ----------
    storage : Storage
    memory : Memory
    """

    def __init__(self, storage: Storage, memory: Memory) -> None:
        self._storage = storage
        self._memory = memory
        self._store: Any = None
        self._open = lru_cache(_OPEN_SEGMENTS)(self._opened)

    def _opened(self, manifest: Manifest) -> tuple[Any, Any]:
        if self._store is None:
            self._store = self._storage.store()
        step, values = (
            zarr.Array.from_dict(StorePath(self._store, f"{manifest.name}/{name}"), manifest.arrays[name])
            for name in ("step", "values")
        )
        if step.shape != (manifest.rows,) or values.shape != (len(manifest.keys), manifest.rows):
            raise DamagedError(manifest.name)
        return step, values

    def remember(self, manifest: Manifest, step: Int64, values: Mapping[str, Float64]) -> None:
        """Cache the columns of a segment that was just written: they are likely to be read next."""
        if manifest.nbytes <= self._memory.room // 2:
            for key, column in (*values.items(), (None, step)):
                self._memory.put((manifest.name, key, 0, manifest.rows), column)

    def read(
        self, manifest: Manifest, keys: Sequence[str | None], first: int, end: int
    ) -> dict[str | None, npt.NDArray[Any]]:
        """Return rows of columns by key; with None as a key, the steps.

        Parameters
        ----------
        manifest : Manifest
        keys : sequence of str or None
        first, end : int
            Range of rows; `first` is a multiple of ``CHUNK_ROWS``.

        Raises
        ------
        DamagedError
            If they can't be read.
        """
        found: dict[str | None, npt.NDArray[Any]] = {}
        for key in keys:
            for low, high in ((first, end), (0, manifest.rows)):
                cached = self._memory.get((manifest.name, key, low, high))
                if cached is not None:
                    found[key] = cached[first - low : end - low]
                    break
        missing = [key for key in keys if key not in found]
        if not missing:
            return found
        try:
            read = self._read(manifest, missing, first, end)
        except (DamagedError, MemoryError):
            raise
        except Exception:
            # Whatever Zarr, its codecs and file systems raise; it may hold credentials.
            raise DamagedError(manifest.name) from None
        if sum(column.nbytes for column in read.values()) <= self._memory.room // 2:
            for key, column in read.items():
                # Copy: a row of a block would keep the whole block alive.
                read[key] = column.copy() if column.base is not None else column
                self._memory.put((manifest.name, key, first, end), read[key])
        return {**found, **read}

    def _read(
        self, manifest: Manifest, keys: Sequence[str | None], first: int, end: int
    ) -> dict[str | None, npt.NDArray[Any]]:
        step, values = self._open(manifest)
        read: dict[str | None, npt.NDArray[Any]] = {}
        if None in keys:
            read[None] = np.asarray(step[first:end])
            if (read[None][::CHUNK_ROWS] == _NO_STEP).any():
                raise DamagedError(manifest.name)
        positions = sorted(manifest.key_positions[key] for key in keys if key is not None)
        # Local: indexing keys apart costs more than reading each. An object store is asked for several at a time.
        for block in _neighbours(positions) if self._storage.path is not None else filter(None, [positions]):
            index = slice(block[0], block[-1] + 1) if self._storage.path is not None else block
            columns = np.asarray(values.oindex[index, slice(first, end)])
            if (columns[:, ::CHUNK_ROWS] == values.fill_value).any():
                raise DamagedError(manifest.name)
            read.update(zip((manifest.keys[at] for at in block), columns, strict=True))
        return read


def _neighbours(positions: Sequence[int]) -> list[list[int]]:
    """Return ascending positions in groups without gaps.

    Examples
    --------
    >>> _neighbours([3, 4, 7])
    [[3, 4], [7]]
    """
    groups: list[list[int]] = []
    for at in positions:
        if groups and groups[-1][-1] == at - 1:
            groups[-1].append(at)
        else:
            groups.append([at])
    return groups
