"""The Dataset of the DataDecide suite: coordinates and grid points of a selection of the two stores' runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.arrays.cube import Cube
from dde.arrays.dataset import DatasetParts, assemble_dataset, count_texts, text_array, variable
from dde.arrays.packed import packed
from dde.curves.alignment import Interpolation
from dde.curves.axes import TOKENS, AxisRule, Lines, positions_on
from dde.curves.grids import Points, TokenGrid
from dde.names import Metric
from dde.relations.chain_texts import Stage, format_chain
from dde.relations.registry import Registry
from dde.relations.schedules import schedule_tokens
from dde.relations.selection import Selection
from dde.relations.treatments import PRETRAINING
from dde.schema import CELL_NUMBERS, CELL_TEXTS, CELLS, LINEAGE_COORDINATES, RUN_COORDINATES, TABLE_SAMPLINGS

__all__ = ["build_dataset"]

Texts = npt.NDArray[np.object_]

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
        Cube(registry, how, tuple(metrics)),
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
    no dense ones. Of the logs of a store that is too large to hold, some rows of each run are given. Anchors are branch
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
            members = list(dict.fromkeys(m for i in here.tolist() for m in registry.chain(asked[i])))
            found = _positions(registry, members, with_logs)
            found.append(_anchors(registry, members, fixed[:, here]))
            parts.append(positions_on(found, 0.0, s, rule))
    else:
        for i in np.flatnonzero(np.isfinite(scale)).tolist():
            found = _positions(registry, [asked[i]], with_logs)
            found.append(_anchors(registry, [asked[i]], fixed[:, [i]]))
            parts.append(positions_on(found, offset[i], scale[i], rule))
    none: Points = np.empty(0, np.int64 if rule.is_whole else np.float64)
    made = [np.unique(np.concatenate([none, *(p[k] for p in parts)])) for k in range(3)]
    return made[0], made[1], made[2]


def _anchors(registry: Registry, members: Sequence[str], fixed: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    placed = [p for p in map(registry.placed.get, members) if p is not None]
    ends = [t for p in placed for t in (p.branch_tokens, p.end_tokens) if t is not None]
    ends += [t for t in map(registry.base_end_tokens, [m for m in members if m in registry.bases]) if t is not None]
    return np.unique(np.concatenate([fixed[np.isfinite(fixed)].astype(np.int64), np.array(ends, np.int64)]))


def _positions(registry: Registry, members: Sequence[str], with_logs: bool) -> list[npt.NDArray[np.int64]]:
    """Return the required positions of runs in cumulative tokens, and those of their dense logs."""
    required: list[npt.NDArray[np.int64]] = []
    points: list[int] = []
    branches: dict[str, int] = {}
    for member in members:
        steps = registry.checkpoint_steps.get(member)
        if steps is not None:
            required.append(steps * registry.bases[member].size.tokens_per_step)
        placed = registry.placed.get(member)
        if placed is not None:
            points += [p for p in (placed.branch_tokens, placed.end_tokens) if p is not None]
            if placed.branch_tokens is not None:
                branches[member] = placed.branch_tokens
    logged = registry.placements.some_tokens(list(branches), _LOGGED_POINTS) if with_logs else []
    dense = [tokens + branch for tokens, branch in zip(logged, branches.values(), strict=False)]
    none = np.empty(0, np.int64)
    required.append(np.array(points, np.int64))
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
    columns: dict[str, list[Any]] = {name: [] for name in RUN_COORDINATES}
    # Any run of a label will do: the label's own fields are the same in all of them.
    first = (selection.run_ids != "").argmax(axis=0)
    for j, label in enumerate(selection.runs):
        run = registry.derived.get(selection.run_ids[first[j], j]) if label != PRETRAINING else None
        treatment = None if run is None else run.treatment
        for name, values in columns.items():
            if run is None or treatment is None:
                blank = "" if RUN_COORDINATES[name].kind == "text" else 1 if name == "replicate" else np.nan
                values.append(PRETRAINING if name == "run_type" else blank)
            elif name == "replicate":
                values.append(run.replicate)
            elif name == "variant":
                values.append(selection.variants.get(label, ""))
            else:
                values.append(getattr(treatment, "run_type" if name == "posttraining_method" else name))
    return {
        name: variable("run", text_array(values) if c.kind == "text" else np.array(values), c.attrs)
        for (name, c), values in zip(RUN_COORDINATES.items(), columns.values(), strict=True)
    }


def _cell_coordinates(registry: Registry, selection: Selection) -> dict[str, xr.Variable]:
    run_ids = selection.run_ids
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
        numbers["schedule_tokens"][i, 0] = schedule_tokens(registry, label)
    at = np.nonzero(np.asarray(run_ids[:, 1:] != "", bool))
    cells = (at[0], at[1] + 1)
    runs = [registry.derived[run_id] for run_id in run_ids[cells].tolist()]
    placed = [registry.placed[run.run_id] for run in runs]
    stages: dict[str, list[Stage]] = {}
    for run in runs:
        _add_stages(registry, run.run_id, stages)
    texts["chain"][cells] = text_array([format_chain(stages[run.run_id]) for run in runs])
    texts["parent_run_id"][cells] = text_array([run.parent_run_id for run in runs])
    texts["state"][cells] = text_array([run.state for run in runs])
    texts["token_source"][cells] = text_array([place.token_source for place in placed])
    texts["reduce_loss"][cells] = text_array([str(run.hyperparameters.get("reduce_loss", "")) for run in runs])
    texts["parent_evidence"][cells] = text_array([run.parentage.evidence for run in runs])
    numbers["branch_tokens"][cells] = np.array([place.branch_tokens for place in placed], np.float64)
    numbers["origin_tokens"][cells] = [stages[run.run_id][1].start for run in runs]
    numbers["end_tokens"][cells] = np.array([place.end_tokens for place in placed], np.float64)
    planned = [schedule_tokens(registry, run.run_id) for run in runs]
    numbers["schedule_tokens"][cells] = np.array(planned, np.float64)
    numbers["batch_size"][cells] = np.array([run.evidence.sequences_per_step for run in runs], np.float64)
    for name in ("training_seed", "weight_decay", "warmup_ratio", "max_seq_length"):
        numbers[name][cells] = [run.hyperparameters.get(name, np.nan) for run in runs]
    coords = {n: variable(CELLS, packed(v), CELL_TEXTS[n].attrs) for n, v in texts.items()}
    return coords | {n: variable(CELLS, packed(v), CELL_NUMBERS[n].attrs) for n, v in numbers.items()}


def _add_stages(registry: Registry, run_id: str, stages: dict[str, list[Stage]]) -> None:
    """Add the stages of a run's curve, and those of its ancestors, by run id."""
    above = [Stage(PRETRAINING, 0)]
    for member in registry.chain(run_id)[1:]:
        if member not in stages:
            branch = registry.placed[member].branch_tokens
            stages[member] = [*above, Stage(registry.derived[member].run_type, 0 if branch is None else branch)]
        above = stages[member]


def _estimates(registry: Registry, selection: Selection) -> str:
    rules: dict[str, int] = {}
    for run_id in selection.run_ids[:, 1:].ravel().tolist():
        placed = registry.placed.get(run_id) if run_id else None
        if placed is not None and placed.end.estimate:
            rules[placed.end.estimate] = rules.get(placed.end.estimate, 0) + 1
    return "; ".join(f"{count} run{'s' if count > 1 else ''} by {rule}" for rule, count in sorted(rules.items()))
