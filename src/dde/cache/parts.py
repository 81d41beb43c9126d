"""Parts: what one fetch gave, a rectangle of runs and keys, as a Zarr group that never changes.

Figures are of a local disk and two cores; ``tests/benchmarks/bench_cache.py`` takes them again.

- A chunk holds one key, so that a key is read without the others, and at most 131,072 rows (1 MB), so that some
  runs of very many are read without the others: 500,000 of 20 million rows in 3.0 ms, the whole column in 85 ms
  (72 ms with 4 MB).
- Chunks lie in shards of about 32 MB: 1,939 keys of 21,375 rows (331 MB) are written in 0.4 s as 10 files, where
  1,939 files take 1.0 s. In an object store a chunk is read from its shard by two requests for ranges.
- Nothing is compressed: of random doubles zstd saves 6 % and shuffled LZ4 12 %, for twice the time.
- Each chunk, and the index of each shard, has Zarr's own CRC-32C. A shard that is gone reads as fill values without
  an error, so the fill value is a number that no chunk begins with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec
from zarr.storage import MemoryStore, StorePath

from dde.cache.heads import Head, head_json
from dde.cache.places import Place

__all__ = ["CHUNK_ROWS", "DamagedError", "PartArrays", "write_part"]

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

#: Rows of a chunk: 1 MB of one key.
CHUNK_ROWS = 1 << 17
# Values of a shard: 32 MB.
_SHARD_VALUES = 1 << 22
# Below this, a part is put together in memory and written at once: an object store then takes it in two waves of
# requests instead of one request after the other.
_AT_ONCE_BYTES = 8 << 20

_NO_STEP = int(np.iinfo(np.int64).min)
_STRINGS = np.dtypes.StringDType()


class DamagedError(Exception):
    """Something that was deleted or cut while, or before, it was read."""


# Writing


def write_part(folder: Place, what: str, head: Head, step: Int64, values: Sequence[Float64] | Float64) -> None:
    """Write a part, which appears in one step.

    Parameters
    ----------
    folder : Place
    what : str
        Title of the group.
    head : Head
    step : (row,) int64 array
    values : (key, row) float64 array or sequence of (row,) arrays

    Raises
    ------
    OSError
        When it can't be written.
    """
    rows = head.rows
    by_row = min(max(rows, 1), CHUNK_ROWS)
    chunks_of_shard = min(-(-max(rows, 1) // by_row), max(_SHARD_VALUES // by_row, 1))
    shard_rows = chunks_of_shard * by_row
    shard_keys = min(max(_SHARD_VALUES // shard_rows, 1), max(len(head.keys), 1))
    small = {
        "run_id": (np.array(head.runs, _STRINGS), ("run",)),
        "version": (np.array(head.versions, _STRINGS), ("run",)),
        "row_offset": (head.offsets, ("run_bound",)),
        "key": (np.array(head.keys, _STRINGS), ("key",)),
    }
    with folder.making(head.name) as made:
        files: dict[str, Any] = {}
        buffer = MemoryStore(files)
        for name, (array, dims) in small.items():
            _create(buffer, name, array.shape, array.dtype, dims, "" if array.dtype.kind == "T" else 0)[...] = array
        at_once = head.bytes + step.nbytes < _AT_ONCE_BYTES
        target = buffer if at_once else made.store(read_only=False)
        steps = _create(target, "step", (rows,), np.dtype(np.int64), ("row",), _NO_STEP, (by_row,), (shard_rows,))
        if rows:
            steps[...] = step
        fill = _fill_value(values, rows, by_row)
        stored = _create(
            target,
            "values",
            (len(head.keys), rows),
            np.dtype(np.float64),
            ("key", "row"),
            fill,
            (1, by_row),
            (shard_keys, shard_rows),
        )
        if rows:
            for first in range(0, len(head.keys), shard_keys):
                # A shard at a time: rows of one array are taken as they lie, several arrays are copied together.
                piece = values[first : first + shard_keys]
                if not isinstance(piece, np.ndarray):
                    piece = piece[0][np.newaxis] if len(piece) == 1 else np.stack(piece)
                stored[first : first + shard_keys] = piece
        written = {path: content.to_bytes() for path, content in files.items() if path != "zarr.json"}
        metadata = {
            name: json.loads(written[f"{name}/zarr.json"]) if f"{name}/zarr.json" in written else _metadata(array)
            for name, array in (*((n, None) for n in small), ("step", steps), ("values", stored))
        }
        made.write(written)
        group = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {"title": what, "coordinates": "run_id version step", "dde_part": head_json(head)},
            # As zarr.consolidate_metadata writes it: a group is opened by one request.
            "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": metadata},
        }
        # Last: in an object store this is what makes it whole.
        made.write({"zarr.json": json.dumps(group).encode()})


def _metadata(array: Any) -> Any:
    buffers = array.metadata.to_buffer_dict(zarr.core.buffer.default_buffer_prototype())
    return json.loads(buffers["zarr.json"].to_bytes())


def _fill_value(values: Sequence[Float64] | Float64, rows: int, by_row: int) -> float:
    """Return a number that no chunk begins with."""
    firsts = {float(x) for column in values for x in column[::by_row]} if rows else set()
    fill = float(np.finfo(np.float64).min)
    while fill in firsts:
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
        # What is all fill value would not be stored otherwise, and be taken for gone.
        config={"write_empty_chunks": True},
        zarr_format=3,
    )


# Reading


class PartArrays:
    """The values of a part as they are stored; opened when they are first read.

    Parameters
    ----------
    folder : Place
    head : Head
    """

    def __init__(self, folder: Place, head: Head) -> None:
        self._place = folder / head.name
        self._head = head

    @cached_property
    def _values(self) -> Any:
        return self._opened("values", (len(self._head.keys), self._head.rows))

    @cached_property
    def _step(self) -> Any:
        return self._opened("step", (self._head.rows,))

    def _opened(self, name: str, shape: tuple[int, ...]) -> Any:
        store = (self._place / name).store()
        if name in self._head.arrays:
            array = zarr.Array.from_dict(StorePath(store), self._head.arrays[name])
        else:
            array = zarr.open_array(store, mode="r", zarr_format=3)
        if array.shape != shape:
            raise DamagedError
        return array

    def step(self, first: int, end: int) -> Int64:
        """Return the steps of rows; `first` is a multiple of ``CHUNK_ROWS``."""
        with _damage():
            found: Int64 = np.asarray(self._step[first:end])
            if (found[::CHUNK_ROWS] == _NO_STEP).any():
                raise DamagedError
        return found

    def values(self, keys: Sequence[int], first: int, end: int) -> list[Float64]:
        """Return rows of the keys at these positions; `first` is a multiple of ``CHUNK_ROWS``."""
        found: list[Float64] = []
        with _damage():
            for low, high in _neighbours(keys) if self._place.path is not None else [(0, 0)]:
                if high - low:
                    # Local: neighbours at once; for keys apart, indexing them all costs more than reading each.
                    block = np.asarray(self._values[low:high, first:end])
                else:
                    # All at once: an object store is asked for several shards at a time.
                    block = np.asarray(self._values.oindex[list(keys), slice(first, end)])
                if (block[:, ::CHUNK_ROWS] == self._values.fill_value).any():
                    raise DamagedError
                found += list(block)
        return found


@contextmanager
def _damage() -> Iterator[None]:
    """Turn whatever zarr, its codecs and file systems raise of something missing or cut into DamagedError."""
    try:
        yield
    except (DamagedError, MemoryError):
        raise
    except Exception:
        raise DamagedError from None


def _neighbours(keys: Sequence[int]) -> list[tuple[int, int]]:
    """Return the ranges that ascending numbers make; numbers in another order are ranges of their own."""
    ranges: list[tuple[int, int]] = []
    for key in keys:
        if ranges and ranges[-1][1] == key:
            ranges[-1] = (ranges[-1][0], key + 1)
        else:
            ranges.append((key, key + 1))
    return ranges
