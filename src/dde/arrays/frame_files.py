"""Long tables as files, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dde.whole_files import whole_file

__all__ = ["write_frames"]


def write_frames(frames: Iterable[pd.DataFrame], path: Path, facts: Mapping[Any, Any] | None = None) -> Path:
    """Write frames with the same columns, one after the other, to a ``.csv`` file or else as parquet.

    Parameters
    ----------
    frames : iterable of pandas.DataFrame
    path : Path
        Replaced whole where it exists.
    facts : mapping, optional
        Kept in the metadata of a parquet file, as JSON under ``dde``.
    """
    with whole_file(path) as part:
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
                    told = {**(schema.metadata or {}), b"dde": json.dumps(facts, default=_plain).encode()}
                    schema = schema.with_metadata(told)
                writer = pq.ParquetWriter(part, schema)
            writer.write_table(table.cast(writer.schema))
    finally:
        if writer is not None:
            writer.close()


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)


def _typed(schema: Any) -> Any:
    """Return a schema whose columns without any value are text, which they are wherever they have one."""
    import pyarrow as pa

    for k, field in enumerate(schema):
        if pa.types.is_null(field.type):
            schema = schema.set(k, field.with_type(pa.string()))
    return schema
