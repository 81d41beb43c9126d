"""Build the Dataset of any suite: dimensions, coordinates, lazy variables, attributes."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distribution
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from dde.array_types import Float64, Texts
from dde.curves.alignment import Interpolation
from dde.curves.axes import TOKENS, AxisRule, Lines, axis_lines
from dde.curves.grids import Points, TokenGrid
from dde.curves.metric import Metric
from dde.dataset.align import attrs_of, axis_coordinates, interpolation_attrs
from dde.dataset.dimensions import require_params
from dde.dataset.lazy import BlockReader, FlagsArray, MetricArray, SampleNumberArray, Sampling, lazily
from dde.dataset.samples import flag_attrs, with_samplings
from dde.schema import CELLS, SAMPLED_NUMBERS, log_sampling, sampled_names

__all__ = [
    "DatasetParts",
    "PackedArray",
    "assemble_dataset",
    "count_texts",
    "packed",
    "packed_product",
    "variable",
]

# Empty cells are long runs of one value, which the fastest level compresses as well as any.
_LEVEL = 1

Factors = tuple[npt.NDArray[Any], npt.NDArray[Any]]


class PackedArray(np.ndarray[Any, np.dtype[Any]]):
    """A NumPy array that is compressed when it is pickled; text as codes of its distinct values."""

    #: The row and column factors of an outer product; arrays derived from it have none.
    factors: Factors | None = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Return a function and its arguments that restore the array."""
        values = np.ascontiguousarray(self)
        if self.factors is not None and np.array_equal(values, _product(*self.factors)):
            return packed_product, self.factors
        labels: list[Any] | None = None
        if values.dtype.hasobject:
            codes, distinct = pd.factorize(values.ravel())
            labels = distinct.tolist()
            if (codes < 0).any() or not all(isinstance(label, str) for label in labels):
                return packed, (values,)
            values = codes.astype(np.min_scalar_type(len(labels)))
        return _unpacked, (zlib.compress(values.tobytes(), _LEVEL), values.dtype.str, self.shape, labels)

    def __repr__(self) -> str:
        return repr(np.asarray(self))


def packed(values: npt.NDArray[Any]) -> PackedArray:
    """Return a view of an array that is compressed when it is pickled."""
    return np.asarray(values).view(PackedArray)


def packed_product(rows: npt.NDArray[Any], columns: npt.NDArray[Any]) -> PackedArray:
    """Return the outer product of row and column factors, which is pickled as these factors."""
    array = packed(_product(rows, columns))
    array.factors = (rows, columns)
    return array


def _product(rows: npt.NDArray[Any], columns: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(rows[:, None] * columns[None, :])


def _unpacked(content: bytes, dtype: str, shape: tuple[int, ...], labels: list[str] | None) -> PackedArray:
    values = np.frombuffer(bytearray(zlib.decompress(content)), np.dtype(dtype))
    if labels is not None:
        table = np.empty(len(labels), object)
        table[:] = labels
        values = table[values]
    return packed(values.reshape(shape))


@dataclass(frozen=True, eq=False)
class DatasetParts:
    """The parts of a Dataset that a suite provides for a selection of its runs.

    Attributes
    ----------
    reader : BlockReader
    run_ids : (lineage, run) object array of str
        "" where a lineage has no such run.
    coords : mapping of str to xarray.Variable
        Coordinates along ``lineage`` and ``run``.
    samplings : tuple of str
        Samplings that several metrics share.
    positions : callable
        Returns the positions on the axis that a grid must hold, those of dense logs, and the anchors of the grid. Its
        arguments are how tokens follow from points of the axis, and the numbers of each of `samplings`.
    """

    reader: BlockReader
    run_ids: Texts
    coords: Mapping[str, xr.Variable]
    samplings: tuple[str, ...]
    positions: Callable[[Lines | None, Sequence[Mapping[str, Float64]]], tuple[Points, Points, Points]]


def assemble_dataset(
    parts: DatasetParts,
    metrics: Sequence[Metric],
    grid: TokenGrid,
    how: Interpolation,
    rule: AxisRule,
    counts: Mapping[str, Any],
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    """Return the lazy Dataset of a selection.

    Parameters
    ----------
    parts : DatasetParts
    metrics : sequence of Metric
    grid : TokenGrid
    how : Interpolation
    rule : AxisRule
        The axis that runs are aligned by.
    counts, attrs : mappings
        Attributes that count left out and estimated values, and those that name the sources. Attributes of grid and
        interpolation are between them.

    Returns
    -------
    xarray.Dataset
        Dimensions ``(lineage, run, axis)``; no metric has been read.

    Raises
    ------
    SelectionError
        When the axis needs parameter counts that the suite does not state, or that change within a lineage.
    """
    reader, run_ids, coords = parts.reader, parts.run_ids, dict(parts.coords)
    runs = reader.runs
    samplings: dict[str, Sampling] = {name: name for name in parts.samplings}
    samplings |= {log_sampling(m.name): m for m in metrics if not runs.table_sampling(m)}
    numbers = dict(zip(parts.samplings, reader.sample_numbers(parts.samplings, run_ids), strict=True))
    lines = _lines(coords, run_ids, rule)
    points = grid.build(*parts.positions(lines, list(numbers.values())))
    n_params = coords.get("n_params")
    along = axis_coordinates(points, rule, lines, n_params, CELLS)
    if rule is TOKENS and "cumulative_compute" in along and n_params is not None:
        # 6 N tokens exceeds int64 for the larger sizes, so FLOPs are floats; the product is pickled as its factors.
        compute = packed_product(6.0 * n_params.values, points)
        along["cumulative_compute"] = variable(
            ("lineage", "cumulative_tokens"), compute, along["cumulative_compute"].attrs
        )
    coords |= along
    dims = (*CELLS, rule.name)
    for name, sampling in samplings.items():
        label = sampling if isinstance(sampling, str) else sampling.long_name
        names = sampled_names(name)
        joins = not isinstance(sampling, str) and sampling.joins_at_branch
        coords[names[""]] = lazily(dims, FlagsArray(reader, sampling, run_ids, points, lines), flag_attrs(label, joins))
        for number, (meaning, units) in SAMPLED_NUMBERS.items():
            number_attrs = {"long_name": f"{label}: {meaning}", "units": units}
            if name in numbers:
                coords[names[number]] = variable(CELLS, packed(numbers[name][number]), number_attrs)
            else:
                array = SampleNumberArray(reader, sampling, number, run_ids)
                coords[names[number]] = lazily(CELLS, array, number_attrs)
    variables = {
        m.name: lazily(
            dims,
            MetricArray(reader, m, run_ids, points, lines),
            with_samplings(
                {**_metric_attrs(m), **interpolation_attrs(how)}, [runs.table_sampling(m) or log_sampling(m.name)]
            ),
        )
        for m in metrics
    }
    dataset = xr.Dataset(variables, coords)
    # The most important attributes come first, because printing omits the middle ones.
    dataset.attrs.update({**counts, **attrs_of(grid, how), **attrs, "dde_version": _version()})
    return dataset


def variable(dims: str | tuple[str, ...], values: npt.NDArray[Any], attrs: Mapping[str, Any]) -> xr.Variable:
    """Return a variable of an array in memory."""
    # Without the fast path xarray imports dask.array, which takes twice as long as opening, for a type check.
    return xr.Variable((dims,) if isinstance(dims, str) else dims, values, dict(attrs), fastpath=True)


def count_texts(counts: Mapping[str, int]) -> str:
    """Return counts by reason as the text of an attribute."""
    return "; ".join(f"{reason}: {count}" for reason, count in sorted(counts.items()))


@cache
def _version() -> str:
    # `importlib.metadata.version` parses the complete description of the package as an e-mail, which is slow.
    metadata = distribution("dde").read_text("METADATA") or ""
    line = re.search(r"^Version: *(\S+)", metadata, re.MULTILINE)
    return line[1] if line else distribution("dde").version


def _lines(coords: Mapping[str, xr.Variable], run_ids: Texts, rule: AxisRule) -> Lines | None:
    """Return how tokens follow from points of an axis; None where the points are cumulative tokens."""
    if not rule.by:
        return None
    n_params = np.ones(run_ids.shape)
    if rule.by == "lineage":
        require_params(coords, rule)
        n_params = coords["n_params"].values[:, None].astype(np.float64)
    n_params = np.where(run_ids != "", n_params, np.nan)
    # The own tokens of a merge begin at the merge, not where the curves of its parents part.
    branch = np.asarray(coords["branch_tokens"].values)
    if "start_tokens" in coords:
        branch = np.where(np.isnan(branch), np.nan, coords["start_tokens"].values)
    lines = axis_lines(rule, branch, np.asarray(coords["schedule_tokens"].values), n_params)
    return Lines(packed(lines.offset), packed(lines.scale))


def _metric_attrs(metric: Metric) -> dict[str, str]:
    return {
        "long_name": metric.long_name,
        "units": metric.units,
        "task": metric.task,
        "metric": metric.entry,
        "direction": metric.direction,
        "source_name": _source_name(metric),
        **({"stderr_of": metric.stderr_of} if metric.stderr_of else {}),
    }


def _source_name(metric: Metric) -> str:
    if metric.source_name:
        return metric.source_name
    if metric.kind == "perplexity":
        return f"eval/{metric.task}-validation/Perplexity"
    return metric.entry if metric.kind == "log" else f"{metric.task}_{metric.entry}"
