"""Logged rows as a PostgreSQL server sends them: decoded while they arrive, so that little stands in memory twice."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from dde.sources.json_text import load_json
from dde.sources.log_rows import as_float_array, log_order
from dde.sources.protocols import History
from dde.sources.values import as_float, as_object

__all__ = ["read_history"]

# Bytes that are decoded at once: enough that decoding costs no more than for the whole, few enough to be nothing
# beside the result.
_PORTION = 1 << 20

# Rows that there is room for at first.
_FIRST_ROWS = 1 << 12


def read_history(blocks: Iterable[bytes | bytearray | memoryview], keys: Sequence[str]) -> History:
    """Return the history in the answer to `history_query`, as its rows arrive.

    Parameters
    ----------
    blocks : iterable of bytes, bytearray or memoryview
        The answer as CSV; a block ends where a row ends.
    keys : sequence of str
        Keys that were asked for, each once.
    """
    columns = _Columns(len(keys))
    waiting: deque[Future[list[npt.NDArray[Any]]]] = deque()
    # One thread decodes while this one takes in what the server sends; neither may get far ahead.
    with ThreadPoolExecutor(1, "dde-log") as decoder:
        content = bytearray()
        for block in blocks:
            content += block
            if len(content) >= _PORTION:
                waiting.append(decoder.submit(_decoded, content, keys))
                content = bytearray()
                if len(waiting) > 2:
                    columns.append(waiting.popleft().result())
        if content:
            waiting.append(decoder.submit(_decoded, content, keys))
        while waiting:
            columns.append(waiting.popleft().result())
    columns.finish()
    # The server gives rows as it finds them; ids tell the order in which they were logged.
    row_id = columns.pop(2)
    order = log_order(columns.arrays[0], columns.arrays[1], row_id)
    del row_id
    run, step, *values = (columns.pop(0, order) for _ in range(2 + len(keys)))
    return History(run=run, step=step, values=dict(zip(keys, values, strict=True)))


class _Columns:
    """Columns that grow: run, step, id and a number per key.

    They are made longer where they stand, which for large ones copies nothing: so nothing is in memory twice but
    the one column that is being put in order.
    """

    def __init__(self, keys: int) -> None:
        types = [np.int32, np.int64, np.int64, *[np.float64] * keys]
        self.arrays: list[npt.NDArray[Any]] = [np.empty(_FIRST_ROWS, kind) for kind in types]
        self._rows = 0

    def append(self, rows: list[npt.NDArray[Any]]) -> None:
        end = self._rows + len(rows[0])
        if end > len(self.arrays[0]):
            self._resize(max(end, len(self.arrays[0]) * 5 // 4))
        for array, part in zip(self.arrays, rows, strict=True):
            array[self._rows : end] = part
        self._rows = end

    def finish(self) -> None:
        self._resize(self._rows)

    def pop(self, position: int, order: npt.NDArray[np.intp] | None = None) -> npt.NDArray[Any]:
        array = self.arrays.pop(position)
        return array if order is None else array[order]

    def _resize(self, rows: int) -> None:
        for array in self.arrays:
            array.resize(rows, refcheck=False)


def _decoded(content: bytearray, keys: Sequence[str]) -> list[npt.NDArray[Any]]:
    """Return the columns of some rows: run, step, id, and a number per key."""
    names = ["run", "step", "id", *(f"key{position}" for position in range(len(keys)))]
    packed = ["packed"] if keys else []
    positions: dict[str, pa.DataType] = {"run": pa.int32(), "step": pa.int64(), "id": pa.int64()}

    def read(value_type: pa.DataType) -> pa.Table:
        return pyarrow.csv.read_csv(
            pa.BufferReader(content),
            # A row of any length is one block.
            read_options=pyarrow.csv.ReadOptions(
                column_names=names + packed, use_threads=False, block_size=len(content) + 1
            ),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=positions | dict.fromkeys(names[3:], value_type) | dict.fromkeys(packed, pa.string()),
                strings_can_be_null=True,
            ),
        )

    try:
        table = read(pa.float64())
    except pa.ArrowInvalid:
        table = read(pa.string())  # some text is no number
    if table["id"].null_count:
        table = table.set_column(2, "id", pc.fill_null(table["id"], np.iinfo(np.int64).max))
    rows = [
        *(table[name].to_numpy() for name in names[:3]),
        *(as_float_array(table[name]) for name in names[3:]),
    ]
    if packed and table["packed"].null_count < len(table):
        # The server looks into no text, and what Python writes of NaN it could not parse.
        texts = table["packed"]
        rows[3:] = [values if values.flags.writeable else values.copy() for values in rows[3:]]
        for row in np.flatnonzero(texts.is_valid().to_numpy()):
            metrics = as_object(load_json(texts[row].as_py()))
            for values, key in zip(rows[3:], keys, strict=True):
                if key in metrics:
                    values[row] = as_float(metrics[key])
    return rows
