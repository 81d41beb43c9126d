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
from dde.sources.protocols import History

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
    """Write a segment, which appears with its last file, and return its manifest with Zarr's metadata of the arrays.

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
    buffer, metadata = MemoryStore(files), dict[str, Any]()

    def create(name: str, dtype: Any, dims: Mapping[str, int], fill: Any, **layout: Any) -> Any:
        array = zarr.create_array(
            buffer,
            name=name,
            shape=tuple(dims.values()),
            dtype=dtype,
            compressors=[Crc32cCodec()],
            fill_value=fill,
            dimension_names=tuple(dims),
            # Zarr would not store a chunk of fill values only, which then looks like a missing one.
            config={"write_empty_chunks": True},
            zarr_format=3,
            **{"chunks": tuple(max(n, 1) for n in dims.values()), **layout},
        )
        metadata[name] = json.loads(files[f"{name}/zarr.json"].to_bytes())
        return array

    small = {"run_id": (manifest.runs, "run"), "version": (manifest.versions, "run"), "key": (manifest.keys, "key")}
    for name, (texts, dim) in small.items():
        create(name, _STRINGS, {dim: len(texts)}, "")[...] = np.array(texts, _STRINGS)
    create("row_offset", np.int64, {"run_bound": len(manifest.offsets)}, 0)[...] = manifest.offsets
    steps = create("step", np.int64, {"row": rows}, _NO_STEP, chunks=(by_row,), shards=(shard_rows,))
    layout = {"chunks": (1, by_row), "shards": (shard_keys, shard_rows)}
    stored = create("values", np.float64, {"key": n_keys, "row": rows}, _fill_value(values, by_row), **layout)
    group = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": manifest.to_attributes(),
        # As zarr.consolidate_metadata writes it: a group is opened by one request.
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": metadata},
    }
    made = storage / manifest.name
    try:
        if rows:
            steps[...] = step
        for first in range(0, n_keys if rows else 0, shard_keys):
            # A shard at a time, so that no more than this is copied.
            stored[first : first + shard_keys] = np.stack(values[first : first + shard_keys])
            if sum(map(len, files.values())) > _WRITE_BYTES:
                _move(files, made)
        _move(files, made)
        # Last: this makes the segment visible.
        made.write({"zarr.json": json.dumps(group).encode()})
    except BaseException:
        made.remove()
        raise
    return replace(manifest, arrays=metadata)


def _move(files: dict[str, Any], made: Storage) -> None:
    """Write files to a segment, and remove them from memory."""
    contents = {path: files.pop(path).as_numpy_array().data for path in list(files) if path != "zarr.json"}
    made.write(contents)


def _fill_value(values: Sequence[Float64], by_row: int) -> float:
    """Return a number that no chunk begins with."""
    firsts = {float(x) for column in values for x in column[::by_row]}
    fill = float(np.finfo(np.float64).min)
    while fill in firsts:  # ends: there are more numbers than chunks
        fill = float(np.nextafter(fill, 0.0))
    return fill


class SegmentReader:
    """Ranges of the columns of segments, from memory or from where they are stored.

    Parameters
    ----------
    storage : Storage
    memory : Memory

    Attributes
    ----------
    not_stored : dict of str to History
        Rows of segments that are not read from the storage, by name.
    """

    def __init__(self, storage: Storage, memory: Memory) -> None:
        self.not_stored: dict[str, History] = {}
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
        rows = self.not_stored.get(manifest.name)
        if rows is not None:
            return {key: (rows.step if key is None else rows.values[key])[first:end] for key in keys}
        cached = {key: self._memory.get((manifest.name, key, first, end)) for key in keys}
        found = {key: column for key, column in cached.items() if column is not None}
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
        at = np.sort(np.array([manifest.key_positions[key] for key in keys if key is not None], np.int64))
        is_local = self._storage.path is not None
        # On a local disk, one read per block of adjacent keys is fastest; an object store serves all keys at once.
        for block in np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if is_local else [at]:
            if block.size:
                index = slice(block[0], block[-1] + 1) if is_local else block
                columns = np.asarray(values.oindex[index, slice(first, end)])
                if (columns[:, ::CHUNK_ROWS] == values.fill_value).any():
                    raise DamagedError(manifest.name)
                read.update(zip((manifest.keys[i] for i in block), columns, strict=True))
        return read
