"""The Dataset of the DataDecide suite: coordinates and grid points of a selection of the two stores' runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.array_types import Texts
from dde.curves.alignment import Interpolation
from dde.curves.axes import TOKENS, AxisRule, Lines, positions_on
from dde.curves.grids import Points, TokenGrid
from dde.curves.metric import Metric
from dde.dataset.build import DatasetParts, assemble_dataset, count_texts, packed, variable
from dde.dataset.lazy import BlockReader
from dde.lineage.chain_texts import Stage, extend_chain, format_chain
from dde.lineage.selection import Selection
from dde.schema import (
    CELL_NUMBERS,
    CELL_TEXTS,
    CELLS,
    LINEAGE_COORDINATES,
    PRETRAINING,
    RUN_COORDINATES,
    TABLE_SAMPLINGS,
)
from dde.sources.values import text_array
from dde.suite.datadecide.datadecide_runs import DataDecideRuns
from dde.suite.datadecide.runs.derived_columns import DerivedColumns
from dde.suite.datadecide.runs.registry import Registry
from dde.suite.datadecide.runs.token_counts import TOKEN_SOURCES

__all__ = ["build_dataset"]


# Rows of each run that a grid is made from where all of them would be too many.
_LOGGED_POINTS = 64


def build_dataset(
    registry: Registry,
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
    registry : Registry
    selection : Selection
    metrics : sequence of Metric
    grid : TokenGrid
    how : Interpolation
    attrs : mapping
        Attributes on the sources; those on grid, interpolation and counts are added.
    rule : AxisRule
        The axis that runs are aligned by.

    Returns
    -------
    xarray.Dataset
        Dimensions ``(lineage, run, axis)``; no metric has been read.
    """

    def positions(
        lines: Lines | None, numbers: Sequence[Mapping[str, npt.NDArray[np.float64]]]
    ) -> tuple[Points, Points, Points]:
        return _positions_on(registry, selection.run_ids, rule, lines, grid.needs_logs, numbers)

    parts = DatasetParts(
        BlockReader(DataDecideRuns(registry), how, tuple(metrics)),
        packed(selection.run_ids),
        _coordinates(registry, selection),
        TABLE_SAMPLINGS,
        positions,
    )
    counts = {"left_out": count_texts(selection.left_out), "estimates": _estimates(registry, selection)}
    return assemble_dataset(parts, metrics, grid, how, rule, counts, attrs)


def _positions_on(
    registry: Registry,
    run_ids: Texts,
    rule: AxisRule,
    lines: Lines | None,
    with_logs: bool,
    numbers: Sequence[Mapping[str, npt.NDArray[np.float64]]],
) -> tuple[Points, Points, Points]:
    """Return the required positions of runs on an axis, those of their dense logs, and its anchors.

    Required are evaluations, branch points and last tokens: those of ancestors, too, but on an axis that begins at
    the branch, where ancestors may have gone on for much longer than the run itself. Without `with_logs` there are
    no dense ones. If the rows of a store do not fit in memory, some rows of each run are given. Anchors are branch
    points, last tokens, and the last samples of each run and of its base.
    """
    at = np.flatnonzero(np.asarray(run_ids.ravel() != "", bool))
    asked = run_ids.ravel()[at].tolist()
    n = len(asked)
    offset, scale = (np.zeros(n), np.ones(n)) if lines is None else (lines.offset.ravel()[at], lines.scale.ravel()[at])
    fixed = np.stack([v.ravel()[at] for found in numbers for name, v in found.items() if name in ("last", "base")])
    parts: list[list[Points]] = []
    if rule.by != "run":
        # Runs of one base share their positions, and their ancestors'.
        for s in set(scale[np.isfinite(scale)].tolist()):
            here = np.flatnonzero(scale == s)
            members = _Members.of(registry, [asked[i] for i in here.tolist()], with_ancestors=True)
            found = members.positions(registry, with_logs)
            found.append(members.anchors(registry, fixed[:, here]))
            parts.append(positions_on(found, 0.0, s, rule))
    else:
        for i in np.flatnonzero(np.isfinite(scale)).tolist():
            members = _Members.of(registry, [asked[i]], with_ancestors=False)
            found = members.positions(registry, with_logs)
            found.append(members.anchors(registry, fixed[:, [i]]))
            parts.append(positions_on(found, offset[i], scale[i], rule))
    none: Points = np.empty(0, np.int64 if rule.is_whole else np.float64)
    made = [np.unique(np.concatenate([none, *(p[k] for p in parts)])) for k in range(3)]
    return made[0], made[1], made[2]


@dataclass(frozen=True, eq=False)
class _Members:
    """Pretraining runs by label, and rows of derived ones."""

    bases: list[str]
    rows: npt.NDArray[np.int64]

    @classmethod
    def of(cls, registry: Registry, run_ids: Sequence[str], with_ancestors: bool) -> _Members:
        columns, bases = registry.columns, registry.bases
        rows = np.array([columns.row_by_id[r] for r in run_ids if r in columns.row_by_id], np.int64)
        labels = [r for r in run_ids if r not in columns.row_by_id]
        if with_ancestors:
            rows = columns.with_ancestors(rows)
            labels += columns.lineages[rows].tolist()
        return cls([label for label in dict.fromkeys(labels) if label in bases], rows)

    def ends(self, registry: Registry) -> npt.NDArray[np.int64]:
        """Return branch points and last tokens of the derived runs."""
        columns = registry.columns
        ends = np.concatenate([columns.branch[self.rows], columns.end[self.rows]])
        return ends[ends >= 0]

    def anchors(self, registry: Registry, fixed: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        of_bases = [t for t in map(registry.base_end_tokens, self.bases) if t is not None]
        parts = [fixed[np.isfinite(fixed)].astype(np.int64), self.ends(registry), np.array(of_bases, np.int64)]
        return np.unique(np.concatenate(parts))

    def positions(self, registry: Registry, with_logs: bool) -> list[npt.NDArray[np.int64]]:
        """Return the required positions in cumulative tokens, and those of dense logs."""
        columns = registry.columns
        required = [self.ends(registry)]
        for label in self.bases:
            steps = registry.checkpoint_steps.get(label)
            if steps is not None:
                required.append(steps * registry.bases[label].size.tokens_per_step)
        placed = self.rows[columns.branch[self.rows] >= 0]
        dense: list[npt.NDArray[np.int64]] = []
        if with_logs:
            logged = registry.positions.placements.some_tokens(columns.ids[placed].tolist(), _LOGGED_POINTS)
            dense = [t + b for t, b in zip(logged, columns.branch[placed].tolist(), strict=True)]
        none = np.empty(0, np.int64)
        return [np.unique(np.concatenate(required)), np.unique(np.concatenate([none, *dense]))]


def _coordinates(registry: Registry, selection: Selection) -> dict[str, xr.Variable]:
    bases = [registry.bases[label] for label in selection.lineages]
    columns: dict[str, npt.NDArray[Any]] = {
        "params": text_array([b.size.name for b in bases]),
        "data": text_array([b.recipe.name for b in bases]),
        "seed": np.array([b.seed.index for b in bases], np.int64),
        "seed_name": text_array([b.seed.name for b in bases]),
        "n_params": np.array([b.size.n_params for b in bases], np.int64),
        "recipe_family": text_array([b.recipe.family for b in bases]),
    }
    coords = {
        "lineage": variable("lineage", text_array(selection.lineages), {"long_name": "lineage"}),
        "run": variable("run", text_array(selection.runs), {"long_name": "treatment"}),
    }
    coords |= {name: variable("lineage", columns[name], c.attrs) for name, c in LINEAGE_COORDINATES.items()}
    coords |= _run_coordinates(registry, selection)
    coords |= _cell_coordinates(registry, selection)
    return coords


def _run_coordinates(registry: Registry, selection: Selection) -> dict[str, xr.Variable]:
    columns = registry.columns
    values: dict[str, list[Any]] = {name: [] for name in RUN_COORDINATES}
    # Any run of a label will do: the label's own fields are the same in all of them.
    first = (selection.run_ids != "").argmax(axis=0)
    for j, label in enumerate(selection.runs):
        row = columns.row_by_id.get(selection.run_ids[first[j], j], -1) if label != PRETRAINING else -1
        treatment = columns.treatments[columns.treatment[row]] if row >= 0 and columns.treatment[row] >= 0 else None
        for name, found in values.items():
            if treatment is None:
                blank = "" if RUN_COORDINATES[name].kind == "text" else 1 if name == "replicate" else np.nan
                found.append(PRETRAINING if name == "run_type" else blank)
            elif name == "replicate":
                found.append(int(columns.replicate[row]))
            elif name == "variant":
                found.append(selection.variants.get(label, ""))
            else:
                found.append(getattr(treatment, "run_type" if name == "posttraining_method" else name))
    return {
        name: variable("run", text_array(found) if c.kind == "text" else np.array(found), c.attrs)
        for (name, c), found in zip(RUN_COORDINATES.items(), values.values(), strict=True)
    }


def _cell_coordinates(registry: Registry, selection: Selection) -> dict[str, xr.Variable]:
    """Return the coordinates along (lineage, run) by name."""
    run_ids, columns = selection.run_ids, registry.columns
    texts = {name: np.full(run_ids.shape, "", object) for name in CELL_TEXTS}
    numbers = {name: np.full(run_ids.shape, np.nan) for name in CELL_NUMBERS}
    texts["run_id"] = run_ids.copy()
    texts["state"][:, 0] = "finished"
    texts["chain"][:, 0] = format_chain([Stage(PRETRAINING, 0)])
    for i, label in enumerate(selection.lineages):
        end = registry.base_end_tokens(label)
        if end is not None:
            numbers["end_tokens"][i, 0] = end
            texts["token_source"][i, 0] = "logged"
        numbers["schedule_tokens"][i, 0] = registry.bases[label].size.scheduled_tokens
    at = np.nonzero(np.asarray(run_ids[:, 1:] != "", bool))
    cells = (at[0], at[1] + 1)
    rows = np.array([columns.row_by_id[r] for r in run_ids[cells].tolist()], np.int64)
    chain, origin = _chains(columns, rows)
    sources = np.array(TOKEN_SOURCES, object)[columns.source[rows]]
    texts["chain"][cells] = chain
    texts["token_source"][cells] = np.where(columns.end[rows] >= 0, sources, "")
    for name, column in (
        ("parent_run_id", columns.parent_run_id),
        ("state", columns.state),
        ("reduce_loss", columns.reduce_loss),
        ("parent_evidence", columns.evidence),
    ):
        texts[name][cells] = column.texts()[rows]
    numbers["origin_tokens"][cells] = origin
    for name, counts in (
        ("branch_tokens", columns.branch),
        ("end_tokens", columns.end),
        ("schedule_tokens", columns.schedule),
    ):
        numbers[name][cells] = np.where(counts[rows] >= 0, counts[rows], np.nan)
    for name in ("batch_size", "training_seed", "weight_decay", "warmup_ratio", "max_seq_length"):
        numbers[name][cells] = getattr(columns, name)[rows]
    coords = {n: variable(CELLS, packed(v), CELL_TEXTS[n].attrs) for n, v in texts.items()}
    return coords | {n: variable(CELLS, packed(v), CELL_NUMBERS[n].attrs) for n, v in numbers.items()}


def _chains(columns: DerivedColumns, rows: npt.NDArray[np.int64]) -> tuple[Texts, npt.NDArray[np.float64]]:
    """Return the text of each run's chain, and where it left its base."""
    types, branch = columns.run_type.texts(), np.maximum(columns.branch, 0)
    texts: dict[int, str] = {}
    origins: dict[int, int] = {}
    base = format_chain([Stage(PRETRAINING, 0)])
    # Parents come before children.
    for row in columns.with_ancestors(rows).tolist():
        parent = int(columns.parent[row])
        texts[row] = extend_chain(texts.get(parent, base), Stage(types[row], int(branch[row])))
        origins[row] = origins.get(parent, int(branch[row]))
    return text_array([texts[r] for r in rows.tolist()]), np.array([origins[r] for r in rows.tolist()], np.float64)


def _estimates(registry: Registry, selection: Selection) -> str:
    columns = registry.columns
    rows = [columns.row_by_id[r] for r in selection.run_ids[:, 1:].ravel().tolist() if r]
    found = columns.end_estimate.texts()[np.array(rows, np.int64)]
    rules = Counter(rule for rule in found.tolist() if rule)
    return "; ".join(f"{count} run{'s' if count > 1 else ''} by {rule}" for rule, count in sorted(rules.items()))
