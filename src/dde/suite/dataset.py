"""The Dataset of a declared suite, with coordinates and grid points from its run table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.array_types import Float64, Int64, Texts
from dde.curves.alignment import Interpolation
from dde.curves.axes import AXES, TOKENS, AxisRule, Lines, positions_on
from dde.curves.grids import Points, TokenGrid
from dde.curves.metric import Metric
from dde.dataset.build import DatasetParts, assemble_dataset, count_texts, packed, variable
from dde.dataset.lazy import BlockReader
from dde.lineage.chain_texts import format_chain
from dde.lineage.related import parents_of
from dde.lineage.run_table import RunTable
from dde.lineage.selection import Selection
from dde.schema import CELL_NUMBERS, CELL_TEXTS, CELLS, CHANGING_PARAMS, FACTOR_OF
from dde.sources.values import text_array
from dde.suite.suite_runs import SuiteRuns

__all__ = ["build_suite_dataset"]


# An automatic grid has every evaluated row up to this number of rows; more rows are thinned like dense logs.
_REQUIRED_POINTS = 8_192


def build_suite_dataset(
    runs: SuiteRuns,
    selection: Selection,
    metrics: Sequence[Metric],
    grid: TokenGrid,
    how: Interpolation,
    attrs: Mapping[str, Any],
    rule: AxisRule = TOKENS,
) -> xr.Dataset:
    """Return the lazy Dataset of a selection.

    Parameters
    ----------
    runs : SuiteRuns
    selection : Selection
    metrics : sequence of Metric
    grid : TokenGrid
    how : Interpolation
    attrs : mapping
        Attributes on the sources; attributes on grid, interpolation and counts are added.
    rule : AxisRule
        Axis on which runs are aligned.

    Returns
    -------
    xarray.Dataset
        Dimensions ``(lineage, run, axis)``; no metric has been read.
    """
    table = runs.table
    cells = np.nonzero(np.asarray(selection.run_ids != "", bool))
    rows = table.rows(selection.run_ids[cells].tolist())
    is_dense = bool(metrics) and all(m.kind == "log" for m in metrics)

    def positions(lines: Lines | None, numbers: Sequence[Mapping[str, Float64]]) -> tuple[Points, Points, Points]:
        return _positions_on(runs, rows, cells, rule, lines, grid.needs_logs, is_dense)

    labelled = {name for kind in runs.suite.run_types for name in runs.suite.run_template(kind).fields}
    coords = _coordinates(table, selection, rows, cells, labelled)
    parts = DatasetParts(BlockReader(runs, how, tuple(metrics)), packed(selection.run_ids), coords, (), positions)
    left_out = dict(selection.left_out)
    for reason, count in (*runs.tables.left_out.items(), *runs.made.left_out.items()):
        left_out[reason] = left_out.get(reason, 0) + count
    estimates = [text for text in table.estimate[rows].tolist() if text]
    counts = {
        "left_out": count_texts(left_out),
        "estimates": "; ".join(dict.fromkeys(estimates)),
    }
    dataset = assemble_dataset(parts, metrics, grid, how, rule, counts, attrs)
    if "n_params" in coords and coords["n_params"].attrs.get(CHANGING_PARAMS) and rule is TOKENS:
        compute = _compute(table, rows, cells, selection.run_ids.shape, dataset["cumulative_tokens"].values)
        attrs_of_compute = AXES["cumulative_compute"].attrs
        dataset = dataset.assign_coords(cumulative_compute=((*CELLS, rule.name), compute, attrs_of_compute))
    return dataset


def _coordinates(
    table: RunTable,
    selection: Selection,
    rows: Int64,
    cells: tuple[npt.NDArray[np.intp], ...],
    labelled: Collection[str],
) -> dict[str, xr.Variable]:
    """Return the coordinates of the selected runs: labels, factors, and positions of each run."""
    shape = selection.run_ids.shape
    coords = {
        "lineage": variable("lineage", text_array(selection.lineages), {"long_name": "lineage"}),
        "run": variable("run", text_array(selection.runs), {"long_name": "run"}),
    }
    # One run of each label along both dimensions; any will do, as factors along a dimension are equal in all of them.
    first_of = {
        "lineage": _first(cells[0], rows, shape[0]),
        "run": _first(cells[1], rows, shape[1]),
    }
    for name, factor in table.factors.items():
        attrs = {"long_name": name.replace("_", " "), FACTOR_OF: factor.along}
        is_own = factor.is_text and factor.along != "lineage" and name not in labelled
        if is_own and bool((factor.values == table.run_id)[table.is_used].all()):
            # A column of run ids differs in every run, so as a factor it would leave no replicates.
            del attrs[FACTOR_OF]
        if factor.along == "cell":
            blank: Any = "" if factor.is_text else np.nan
            values = np.full(shape, blank, factor.values.dtype)
            values[cells] = factor.values[rows]
            coords[name] = variable(CELLS, packed(values), attrs)
        else:
            coords[name] = variable(factor.along, factor.values[first_of[factor.along]], attrs)
    if "run_type" not in coords:
        types = table.run_type[first_of["run"]]
        coords["run_type"] = variable("run", types, {"long_name": "type of the run"})
    coords["replicate"] = variable(
        "run", table.replicate[first_of["run"]].astype(np.float64), {"long_name": "replicate, by the suite's order"}
    )
    coords |= _params(table, rows, cells, shape, first_of["lineage"])
    roots, origins = table.roots(rows)
    texts = {
        "run_id": table.run_id[rows],
        "parent_run_id": _first_parents(table, rows),
        "root_run_id": table.run_id[roots],
        "state": table.state[rows],
        "token_source": table.token_source[rows],
        "parent_evidence": table.parent_evidence[rows],
        "chain": text_array([format_chain(table.stages(row)) for row in rows.tolist()]),
    }
    if (table.n_parents > 1).any():
        texts["parent_run_ids"] = text_array([_ALSO.join(parents_of(table, row)) for row in rows.tolist()])
    for name, values in texts.items():
        out = np.full(shape, "", object)
        out[cells] = values
        attrs = CELL_TEXTS[name].attrs if name in CELL_TEXTS else {"long_name": _LABELS[name]}
        coords[name] = variable(CELLS, packed(out), attrs)
    is_root = table.is_root[rows]
    numbers = {
        "branch_tokens": np.where(is_root, np.nan, table.branch_tokens[rows]),
        "origin_tokens": np.where(is_root, np.nan, np.nan_to_num(origins, nan=0.0)),
        "start_tokens": table.start_tokens[rows].astype(np.float64),
        "end_tokens": np.where(table.end_tokens[rows] >= 0, table.end_tokens[rows], np.nan),
        "schedule_tokens": table.schedule_tokens[rows],
    }
    for name, values in numbers.items():
        numbers_out = np.full(shape, np.nan)
        numbers_out[cells] = values
        known = {"long_name": "cumulative tokens at the run's own token 0", "units": "tokens"}
        attrs = CELL_NUMBERS[name].attrs if name in CELL_NUMBERS else known
        coords[name] = variable(CELLS, packed(numbers_out), attrs)
    return coords


def _params(
    table: RunTable, rows: Int64, cells: tuple[npt.NDArray[np.intp], ...], shape: tuple[int, ...], first: Int64
) -> dict[str, xr.Variable]:
    """Return the coordinate of parameter counts: along lineages if each has one count, else per cell; or nothing."""
    if np.isnan(table.n_params[table.is_used]).all():
        return {}
    attrs: dict[str, Any] = {"long_name": "parameters", "units": "1"}
    counts: dict[str, float] = {}
    # Over the complete suite, so that the shape does not depend on the selection.
    known = table.is_used
    # Two unknown counts are equal.
    same = all(
        n == counts.setdefault(lineage, n) or (n != n and counts[lineage] != counts[lineage])
        for lineage, n in zip(table.lineage[known].tolist(), table.n_params[known].tolist(), strict=True)
    )
    if same:
        of_lineages = table.n_params[first]
        is_integer = np.isfinite(of_lineages).all() and (of_lineages == np.rint(of_lineages)).all()
        return {"n_params": variable("lineage", of_lineages.astype(np.int64) if is_integer else of_lineages, attrs)}
    values = np.full(shape, np.nan)
    values[cells] = table.n_params[rows]
    return {"n_params": variable(CELLS, packed(values), {**attrs, CHANGING_PARAMS: 1})}


def _first(at: npt.NDArray[np.intp], rows: Int64, size: int) -> Int64:
    """Return a row for each position along a dimension."""
    first = np.zeros(size, np.int64)
    first[at[::-1]] = rows[::-1]
    return first


# Separator of the ids of several parents.
_ALSO = " & "
_LABELS = {"root_run_id": "id of the run without parents", "parent_run_ids": "ids of all parents of the run"}


def _first_parents(table: RunTable, rows: Int64) -> Texts:
    edge = np.searchsorted(table.edge_child, rows)
    has_parent = table.n_parents[rows] > 0
    out = np.full(len(rows), "", object)
    out[has_parent] = table.run_id[table.edge_parent[edge[has_parent]]]
    return out


def _positions_on(
    runs: SuiteRuns,
    rows: Int64,
    cells: tuple[npt.NDArray[np.intp], ...],
    rule: AxisRule,
    lines: Lines | None,
    with_rows: bool,
    is_dense: bool,
) -> tuple[Points, Points, Points]:
    """Return the positions on an axis that a grid must have, those of dense logs, and the grid's anchors.

    Required are the rows of evaluated runs, branch points and last tokens, including those of ancestors. An axis that
    begins at the branch leaves out ancestors, which may have trained for much longer than the run itself.
    """
    table = runs.table
    none: Points = np.empty(0, np.int64 if rule.is_whole else np.float64)
    found: list[list[Points]] = []

    def anchors(members: Int64) -> Int64:
        ends = np.concatenate([table.branch_tokens[members], table.start_tokens[members], table.end_tokens[members]])
        # A root starts at token 0, where it may not have been observed.
        ends = np.delete(ends, np.flatnonzero(table.is_root[members]) + len(members))
        return np.unique(ends[ends >= 0])

    def parts_of(members: Int64) -> list[Int64]:
        """Return anchors, rows of the suite's own runs, and rows of dense logs."""
        skipped: Int64 = np.empty(0, np.int64)
        own = runs.positions(members) if with_rows or not is_dense else skipped
        return [anchors(members), own, runs.positions(members, is_attached=True) if with_rows else skipped]

    if lines is None or rule.by != "run":
        scale = np.ones(len(rows)) if lines is None else lines.scale[cells]
        for s in set(scale[np.isfinite(scale)].tolist()):
            members = table.with_ancestors(rows[scale == s])
            found.append(positions_on(parts_of(members), 0.0, s, rule))
    else:
        for i in np.flatnonzero(np.isfinite(lines.scale[cells])).tolist():
            member = rows[i : i + 1]
            offset, scale_here = float(lines.offset[cells][i]), float(lines.scale[cells][i])
            found.append(positions_on(parts_of(member), offset, scale_here, rule))
    fixed, own, logged = (np.unique(np.concatenate([none, *(f[k] for f in found)])) for k in range(3))
    if is_dense or len(own) > _REQUIRED_POINTS:
        return fixed, np.union1d(own, logged), fixed
    return np.union1d(fixed, own), logged, fixed


def _compute(
    table: RunTable,
    rows: Int64,
    cells: tuple[npt.NDArray[np.intp], ...],
    shape: tuple[int, ...],
    tokens: Int64,
) -> Float64:
    """Return training compute where parameter counts change: 6 N tokens, summed over the runs of each curve."""
    out = np.full((*shape, len(tokens)), np.nan)
    for i, j, row in zip(*cells, rows.tolist(), strict=True):
        for member, left_at in table.curve(row):
            stop = np.inf if left_at is None else left_at
            start, first = int(table.start_tokens[member]), int(table.branch_tokens[member])
            is_merge = table.n_parents[member] > 1
            own_part = (tokens <= stop) & ((tokens >= start) if is_merge or first < 0 else (tokens > first))
            out[i, j, own_part] = table.compute(member, tokens[own_part])
    return out
