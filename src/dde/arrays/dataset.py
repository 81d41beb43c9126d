"""Building the Dataset: dimensions, coordinates, lazy variables, attributes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import distribution
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.arrays.chain_texts import Stage, format_chain
from dde.arrays.cube import Cube, Sampling, table_sampling
from dde.arrays.lazy import FlagsArray, MetricArray, SampleNumberArray, lazily
from dde.arrays.packed import packed, packed_product
from dde.arrays.regrid import attrs_of, axis_coordinates, interpolation_attrs
from dde.arrays.samples import flag_attrs, with_samplings
from dde.curves.alignment import Interpolation
from dde.curves.axes import TOKENS, AxisRule, Lines, axis_lines, positions_on
from dde.curves.grids import Points, TokenGrid
from dde.names import Metric
from dde.relations.registry import Registry
from dde.relations.schedules import schedule_tokens
from dde.relations.selection import Selection
from dde.relations.treatments import PRETRAINING
from dde.schema import (
    CELL_NUMBERS,
    CELL_TEXTS,
    CELLS,
    LINEAGE_COORDINATES,
    RUN_COORDINATES,
    SAMPLED_NUMBERS,
    TABLE_SAMPLINGS,
    log_sampling,
    sampled_names,
)

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
    run_ids = packed(selection.run_ids)
    cube = Cube(registry, how, tuple(metrics))
    coords = _coordinates(registry, selection)
    samplings: dict[str, Sampling] = {name: name for name in TABLE_SAMPLINGS}
    samplings |= {log_sampling(m.name): m for m in metrics if not table_sampling(m)}
    numbers = dict(zip(TABLE_SAMPLINGS, cube.sample_numbers(TABLE_SAMPLINGS, run_ids), strict=True))
    lines = _lines(coords, run_ids, rule)
    positions = _positions_on(registry, selection.run_ids, rule, lines, grid.needs_logs, list(numbers.values()))
    points = grid.build(*positions)
    along = axis_coordinates(points, rule, lines, coords["n_params"], CELLS)
    if rule is TOKENS:
        # 6 N tokens exceeds int64 for the larger sizes, so FLOPs are floats; a product is sent as its factors.
        compute = packed_product(6.0 * coords["n_params"].values, points)
        along["cumulative_compute"] = _variable(
            ("lineage", "cumulative_tokens"), compute, along["cumulative_compute"].attrs
        )
    coords |= along
    dims = (*CELLS, rule.name)
    for name, sampling in samplings.items():
        label = sampling if isinstance(sampling, str) else sampling.long_name
        names = sampled_names(name)
        coords[names[""]] = lazily(dims, FlagsArray(cube, sampling, run_ids, points, lines), flag_attrs(label))
        for number, (meaning, units) in SAMPLED_NUMBERS.items():
            number_attrs = {"long_name": f"{label}: {meaning}", "units": units}
            if name in numbers:
                coords[names[number]] = _variable(CELLS, packed(numbers[name][number]), number_attrs)
            else:
                array = SampleNumberArray(cube, sampling, number, run_ids)
                coords[names[number]] = lazily(CELLS, array, number_attrs)
    variables = {
        m.name: lazily(
            dims,
            MetricArray(cube, m, run_ids, points, lines),
            with_samplings(
                {**_metric_attrs(m), **interpolation_attrs(how)}, [table_sampling(m) or log_sampling(m.name)]
            ),
        )
        for m in metrics
    }
    dataset = xr.Dataset(variables, coords)
    # What a reader must know first stands first: printing cuts the middle out.
    dataset.attrs.update(
        {
            "left_out": _counts(selection.left_out),
            "estimates": _estimates(registry, selection),
            **attrs_of(grid, how),
            **attrs,
            "dde_version": _version(),
        }
    )
    return dataset


@cache
def _version() -> str:
    # `importlib.metadata.version` parses the whole description of the package, as an e-mail.
    metadata = distribution("dde").read_text("METADATA") or ""
    found = re.search(r"^Version: *(\S+)", metadata, re.MULTILINE)
    return found[1] if found else distribution("dde").version


def _lines(coords: Mapping[str, xr.Variable], run_ids: Texts, rule: AxisRule) -> Lines | None:
    """Return how tokens follow from points of an axis; None where these are tokens."""
    if not rule.by:
        return None
    n_params = np.where(run_ids != "", coords["n_params"].values[:, None].astype(np.float64), np.nan)
    branch, schedule = (np.asarray(coords[n].values) for n in ("branch_tokens", "schedule_tokens"))
    lines = axis_lines(rule, branch, schedule, n_params)
    return Lines(packed(lines.offset), packed(lines.scale))


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


def _metric_attrs(metric: Metric) -> dict[str, str]:
    return {
        "long_name": metric.long_name,
        "units": metric.units,
        "task": metric.task,
        "metric": metric.entry,
        "direction": metric.direction,
        "source_name": _source_name(metric),
    }


def _source_name(metric: Metric) -> str:
    if metric.kind == "perplexity":
        return f"eval/{metric.task}-validation/Perplexity"
    return metric.entry if metric.kind == "log" else f"{metric.task}_{metric.entry}"


def _coordinates(registry: Registry, selection: Selection) -> dict[str, xr.Variable]:
    bases = [registry.bases[label] for label in selection.lineages]
    columns: dict[str, npt.NDArray[Any]] = {
        "params": _texts([b.size.name for b in bases]),
        "data": _texts([b.recipe.name for b in bases]),
        "seed": np.array([b.seed.index for b in bases], np.int64),
        "seed_name": _texts([b.seed.name for b in bases]),
        "n_params": np.array([b.size.n_params for b in bases], np.int64),
        "recipe_family": _texts([b.recipe.family for b in bases]),
    }
    coords = {
        "lineage": _variable("lineage", _texts(selection.lineages), {"long_name": "lineage"}),
        "run": _variable("run", _texts(selection.runs), {"long_name": "treatment"}),
    }
    coords |= {name: _variable("lineage", columns[name], c.attrs) for name, c in LINEAGE_COORDINATES.items()}
    coords |= _run_coordinates(registry, selection)
    coords |= _cell_coordinates(registry, selection)
    return coords


def _variable(dims: str | tuple[str, ...], values: npt.NDArray[Any], attrs: Mapping[str, str]) -> xr.Variable:
    # Without the fast path xarray imports dask.array, which takes twice as long as opening, to see that a NumPy array
    # is none of dask's.
    return xr.Variable((dims,) if isinstance(dims, str) else dims, values, dict(attrs), fastpath=True)


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
        name: _variable("run", _texts(values) if c.kind == "text" else np.array(values), c.attrs)
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
    texts["chain"][cells] = _texts([format_chain(stages[run.run_id]) for run in runs])
    texts["parent_run_id"][cells] = _texts([run.parent_run_id for run in runs])
    texts["state"][cells] = _texts([run.state for run in runs])
    texts["token_source"][cells] = _texts([place.token_source for place in placed])
    texts["reduce_loss"][cells] = _texts([str(run.hyperparameters.get("reduce_loss", "")) for run in runs])
    texts["parent_evidence"][cells] = _texts([run.parentage.evidence for run in runs])
    numbers["branch_tokens"][cells] = np.array([place.branch_tokens for place in placed], np.float64)
    numbers["origin_tokens"][cells] = [stages[run.run_id][1].start for run in runs]
    numbers["end_tokens"][cells] = np.array([place.end_tokens for place in placed], np.float64)
    planned = [schedule_tokens(registry, run.run_id) for run in runs]
    numbers["schedule_tokens"][cells] = np.array(planned, np.float64)
    numbers["batch_size"][cells] = np.array([run.evidence.sequences_per_step for run in runs], np.float64)
    for name in ("training_seed", "weight_decay", "warmup_ratio", "max_seq_length"):
        numbers[name][cells] = [run.hyperparameters.get(name, np.nan) for run in runs]
    coords = {n: _variable(CELLS, packed(v), CELL_TEXTS[n].attrs) for n, v in texts.items()}
    return coords | {n: _variable(CELLS, packed(v), CELL_NUMBERS[n].attrs) for n, v in numbers.items()}


def _add_stages(registry: Registry, run_id: str, stages: dict[str, list[Stage]]) -> None:
    """Add the stages of a run's curve, and those of its ancestors, by run id."""
    above = [Stage(PRETRAINING, 0)]
    for member in registry.chain(run_id)[1:]:
        if member not in stages:
            branch = registry.placed[member].branch_tokens
            stages[member] = [*above, Stage(registry.derived[member].run_type, 0 if branch is None else branch)]
        above = stages[member]


def _texts(values: Sequence[str]) -> npt.NDArray[np.object_]:
    # Variable-length: fixed-width text does not go to Zarr v3 without a warning, and NumPy's StringDType does not
    # survive the reindexing that concat and merge do.
    out = np.empty(len(values), object)
    out[:] = list(values)
    return out


def _counts(left_out: Mapping[str, int]) -> str:
    return "; ".join(f"{reason}: {count}" for reason, count in sorted(left_out.items()))


def _estimates(registry: Registry, selection: Selection) -> str:
    rules: dict[str, int] = {}
    for run_id in selection.run_ids[:, 1:].ravel().tolist():
        placed = registry.placed.get(run_id) if run_id else None
        if placed is not None and placed.end.estimate:
            rules[placed.end.estimate] = rules.get(placed.end.estimate, 0) + 1
    return "; ".join(f"{count} run{'s' if count > 1 else ''} by {rule}" for rule, count in sorted(rules.items()))
