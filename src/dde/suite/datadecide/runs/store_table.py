"""The run table of DataDecide: pretraining runs of the tables and post-training runs of the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.relations.run_table import Along, Factor, RunTable
from dde.schema import CELL_NUMBERS, CELL_TEXTS, LINEAGE_COORDINATES, PRETRAINING, RUN_COORDINATES
from dde.suite.datadecide.names import Base, suite_order
from dde.suite.datadecide.runs.derived_columns import DerivedColumns
from dde.suite.datadecide.runs.registry import Registry
from dde.suite.datadecide.runs.token_counts import TOKEN_SOURCES

__all__ = ["make_store_table"]

_NUMBERS = ("batch_size", "training_seed", "weight_decay", "warmup_ratio", "max_seq_length")


def make_store_table(registry: Registry) -> RunTable:
    """Return the run table of both stores: bases in the order of the suite, then derived runs, parents first."""
    columns = registry.columns
    bases = sorted(registry.bases.values(), key=suite_order)
    base_row = {b.label: i for i, b in enumerate(bases)}
    n_bases, n = len(bases), len(bases) + len(columns)
    lineages = columns.lineages
    parent_ids = columns.parent_run_id.texts()
    # A parent is another derived run, or a checkpoint of the base.
    of_base = (columns.parent < 0) & (lineages != "") & (parent_ids == lineages)
    rows_of_base = np.array([base_row.get(x, -1) for x in lineages.tolist()], np.int64)
    parent = np.where(columns.parent >= 0, columns.parent + n_bases, np.where(of_base, rows_of_base, -1))
    has_parent = parent >= 0
    branch = columns.branch
    parent_start = np.where(columns.parent >= 0, branch[np.maximum(columns.parent, 0)], 0)
    is_placed = has_parent & (branch >= 0) & (parent_start >= 0)
    depth = np.zeros(len(columns), np.int64)
    for row in range(len(columns)):
        depth[row] = 1 + (depth[columns.parent[row]] if columns.parent[row] >= 0 else 0)
    ends = [registry.base_end_tokens(b.label) for b in bases]
    n_params = np.array([b.size.n_params for b in bases], np.float64)
    own_params = np.where(rows_of_base >= 0, n_params[np.maximum(rows_of_base, 0)] if n_bases else np.nan, np.nan)

    def joined(of_bases: list[Any], of_derived: npt.NDArray[Any]) -> npt.NDArray[Any]:
        first = np.empty(n_bases, object) if of_derived.dtype == object else np.empty(n_bases, of_derived.dtype)
        first[:] = of_bases
        return np.concatenate([first, of_derived])

    sources = np.where(columns.end >= 0, np.array(TOKEN_SOURCES, object)[columns.source], "")
    table_status = ["used" if end is not None else "no data: not in the tables" for end in ends]
    return RunTable(
        run_id=joined([b.label for b in bases], columns.ids),
        run_type=joined([PRETRAINING] * n_bases, columns.run_type.texts()),
        state=joined(["finished"] * n_bases, columns.state.texts()),
        lineage=joined([b.label for b in bases], lineages),
        run=joined([PRETRAINING] * n_bases, columns.plain_label.texts()),
        replicate=joined([1] * n_bases, columns.replicate),
        is_root=np.arange(n) < n_bases,
        depth=joined([0] * n_bases, depth),
        edge_child=(np.flatnonzero(has_parent) + n_bases).astype(np.int32),
        edge_parent=parent[has_parent].astype(np.int32),
        edge_tokens=np.where(is_placed, branch - parent_start, -1)[has_parent],
        absent_parent=joined([""] * n_bases, np.where(has_parent, "", parent_ids)),
        curve_parent=joined([-1] * n_bases, np.where(is_placed, parent, -1).astype(np.int32)),
        start_tokens=joined([0] * n_bases, branch),
        branch_tokens=joined([-1] * n_bases, branch),
        end_tokens=joined([-1 if end is None else end for end in ends], columns.end),
        n_params=joined(n_params.tolist(), own_params),
        schedule_tokens=joined(
            [float(b.size.scheduled_tokens) for b in bases], np.where(columns.schedule >= 0, columns.schedule, np.nan)
        ),
        start_compute=joined([0.0] * n_bases, np.where(branch >= 0, 6.0 * own_params * branch, np.nan)),
        token_source=joined(["" if end is None else "logged" for end in ends], sources),
        status=joined(table_status, columns.status.texts()),
        parent_evidence=joined([""] * n_bases, columns.evidence.texts()),
        contradictions=joined([""] * n_bases, columns.contradictions.texts()),
        estimate=joined([""] * n_bases, columns.estimate.texts()),
        factors=_factors(columns, bases, rows_of_base),
        lineages=tuple(b.label for b in bases),
        runs=(),
    )


def _factors(columns: DerivedColumns, bases: Sequence[Base], rows_of_base: npt.NDArray[np.int64]) -> dict[str, Factor]:
    n_bases = len(bases)
    found: dict[str, Factor] = {}
    of_bases: dict[str, list[Any]] = {
        "params": [b.size.name for b in bases],
        "data": [b.recipe.name for b in bases],
        "seed": [float(b.seed.index) for b in bases],
        "seed_name": [b.seed.name for b in bases],
        "recipe_family": [b.recipe.family for b in bases],
    }
    known = rows_of_base >= 0
    for name, values in of_bases.items():
        is_text = LINEAGE_COORDINATES[name].kind == "text"
        first = np.array(values, object if is_text else np.float64)
        rest = np.full(len(columns), "" if is_text else np.nan, first.dtype)
        rest[known] = first[rows_of_base[known]]
        found[name] = Factor("lineage", np.concatenate([first, rest]))
    for name, coordinate in RUN_COORDINATES.items():
        if name in ("run_type", "replicate", "variant", "parent_treatment"):
            continue
        is_text = coordinate.kind == "text"
        attribute = "run_type" if name == "posttraining_method" else name
        distinct = [getattr(t, attribute) for t in columns.treatments]
        blank: Any = "" if is_text else np.nan
        rest = np.array([*distinct, blank], object if is_text else np.float64)[columns.treatment]
        found[name] = _with_blank("run", rest, n_bases)
    for name in _NUMBERS:
        found[name] = _with_blank("cell", getattr(columns, name), n_bases)
    found["reduce_loss"] = _with_blank("cell", columns.reduce_loss.texts(), n_bases)
    assert set(found) <= {*LINEAGE_COORDINATES, *RUN_COORDINATES, *CELL_TEXTS, *CELL_NUMBERS}
    return found


def _with_blank(along: Along, values: npt.NDArray[Any], n_bases: int) -> Factor:
    """Return a factor that bases have no value of."""
    blank = np.full(n_bases, "" if values.dtype == object else np.nan, values.dtype)
    return Factor(along, np.concatenate([blank, values]))
