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

from dde.arrays.cube import TOKENS, keep_cube
from dde.arrays.lazy import lazy_variable
from dde.arrays.packed import packed, packed_product
from dde.curves.alignment import Interpolation
from dde.curves.axes import AXES, AxisRule, axis_lines, positions_on
from dde.curves.grids import Points, TokenGrid
from dde.names import Metric
from dde.relations.registry import Registry
from dde.relations.selection import Selection
from dde.relations.treatments import PRETRAINING

__all__ = ["attrs_of", "build_dataset", "positions_of"]

# Rows of each run that a grid is made from where all of them would be too many.
_LOGGED_POINTS = 64


_RUN_ATTRS: dict[str, dict[str, str]] = {
    "run_type": {"long_name": "type of the run"},
    "posttraining_method": {"long_name": "post-training method"},
    "learning_rate": {"long_name": "peak learning rate", "units": "1"},
    "finetune_tokens": {"long_name": "nominal token budget of an epoch", "units": "tokens"},
    "epochs": {"long_name": "epochs", "units": "1"},
    "max_train_samples": {"long_name": "limit on training sequences", "units": "sequences"},
    "dpo_beta": {"long_name": "DPO beta", "units": "1"},
    "branch_point": {"long_name": "starting checkpoint, where it is not the parent's final one"},
    "parent_treatment": {"long_name": "treatment of the parent"},
    "replicate": {"long_name": "replicate of the treatment, by creation time"},
}
_CELL_TEXTS: dict[str, str] = {
    "run_id": "id of the run",
    "parent_run_id": "id of the parent run",
    "state": "state of the run",
    "token_source": "how the last token is known",
    "reduce_loss": "reduction of the training loss",
    "parent_evidence": "where the parent stands written",
}
_CELL_NUMBERS: dict[str, dict[str, str]] = {
    "branch_tokens": {"long_name": "cumulative tokens at the branch", "units": "tokens"},
    "end_tokens": {"long_name": "cumulative tokens at the end", "units": "tokens"},
    "training_seed": {"long_name": "random seed of the post-training run", "units": "1"},
    "weight_decay": {"long_name": "weight decay", "units": "1"},
    "warmup_ratio": {"long_name": "warmup ratio", "units": "1"},
    "max_seq_length": {"long_name": "longest training sequence", "units": "tokens"},
}


def build_dataset(
    registry: Registry,
    selection: Selection,
    metrics: Sequence[Metric],
    grid: TokenGrid,
    how: Interpolation,
    attrs: Mapping[str, Any],
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

    Returns
    -------
    xarray.Dataset
        Dimensions ``(lineage, run, cumulative_tokens)``; no metric has been read.
    """
    tokens = grid.build(*positions_of(registry, selection.run_ids, with_logs=grid.needs_logs)).astype(np.int64)
    facts = [str(attrs.get(k, "")) for k in sorted(attrs)]
    cube = keep_cube(
        registry, how, metrics, [*facts, repr(how), repr(registry.parents), repr(registry.tokens_per_sequence)]
    )
    variables: dict[str, xr.Variable] = {}
    run_ids = packed(selection.run_ids)
    for metric in metrics:
        variables[metric.name] = lazy_variable(cube, metric, run_ids, tokens, _metric_attrs(metric))
    coords = _coordinates(registry, selection, tokens)
    coords["run_id"].attrs["dde_cube"] = cube.key
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
    told = distribution("dde").read_text("METADATA") or ""
    found = re.search(r"^Version: *(\S+)", told, re.MULTILINE)
    return found[1] if found else distribution("dde").version


def attrs_of(grid: TokenGrid, how: Interpolation) -> dict[str, Any]:
    """Return the attributes that say how the values of a Dataset were made; -1 where gaps of any length are filled."""
    return {
        "grid": str(grid),
        "interpolation": how.method,
        "max_gap": -1 if how.max_gap is None else how.max_gap,
        "bridge": int(how.bridge),
    }


def positions_of(
    registry: Registry, run_ids: npt.NDArray[np.object_], rule: AxisRule = TOKENS, with_logs: bool = True
) -> tuple[Points, Points]:
    """Return the required positions of runs on an axis, and those of their dense logs.

    Required are evaluations, branch points and last tokens: those of ancestors, too, but on an axis that begins at
    the branch, where ancestors may have gone on for much longer than the run itself. Without `with_logs` there are
    no others. Of the logs of a store that is too large to hold, some rows of each run are given.
    """
    asked = np.array(list(dict.fromkeys(r for r in run_ids.ravel().tolist() if r)), object)
    offset, scale = axis_lines(registry, asked, rule)
    if rule.by != "run":
        # Runs of one base share their positions, and their ancestors'.
        parts = {
            s: [registry.chain(r) for r, other in zip(asked, scale, strict=True) if other == s] for s in set(scale)
        }
        found = [
            positions_on(
                _positions(registry, list(dict.fromkeys(m for c in chains for m in c)), with_logs), 0.0, s, rule
            )
            for s, chains in parts.items()
        ]
    else:
        found = [
            positions_on(_positions(registry, [r], with_logs), offset[i], scale[i], rule)
            for i, r in enumerate(asked)
            if np.isfinite(scale[i])
        ]
    none: Points = np.empty(0, np.int64 if rule.is_whole else np.float64)
    required, dense = ([f[k] for f in found] for k in (0, 1))
    return np.unique(np.concatenate([none, *required])), np.unique(np.concatenate([none, *dense]))


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


def _coordinates(registry: Registry, selection: Selection, tokens: npt.NDArray[np.int64]) -> dict[str, xr.Variable]:
    bases = [registry.bases[label] for label in selection.lineages]
    n_params = np.array([b.size.n_params for b in bases], np.int64)
    coords: dict[str, xr.Variable] = {
        "lineage": _variable("lineage", _texts(selection.lineages), {"long_name": "lineage"}),
        "run": _variable("run", _texts(selection.runs), {"long_name": "treatment"}),
        "cumulative_tokens": _variable("cumulative_tokens", tokens, TOKENS.attrs),
        "params": _variable("lineage", _texts([b.size.name for b in bases]), {"long_name": "model size"}),
        "data": _variable("lineage", _texts([b.recipe.name for b in bases]), {"long_name": "data recipe"}),
        "seed": _variable(
            "lineage", np.array([b.seed.index for b in bases], np.int64), {"long_name": "pretraining seed"}
        ),
        "seed_name": _variable("lineage", _texts([b.seed.name for b in bases]), {"long_name": "pretraining seed"}),
        "n_params": _variable("lineage", n_params, {"long_name": "non-embedding parameters", "units": "1"}),
        "recipe_family": _variable(
            "lineage", _texts([b.recipe.family for b in bases]), {"long_name": "family of the data recipe"}
        ),
        # 6 N tokens exceeds int64 for the larger sizes, so FLOPs are floats.
        "cumulative_compute": _variable(
            ("lineage", "cumulative_tokens"), packed_product(6.0 * n_params, tokens), AXES["cumulative_compute"].attrs
        ),
    }
    coords |= _run_coordinates(registry, selection)
    coords |= _cell_coordinates(registry, selection)
    return coords


def _variable(dims: str | tuple[str, ...], values: npt.NDArray[Any], attrs: Mapping[str, str]) -> xr.Variable:
    # Without the fast path xarray imports dask.array, which takes twice as long as opening, to see that a NumPy array
    # is none of dask's.
    return xr.Variable(dims, values, dict(attrs), fastpath=True)


def _run_coordinates(registry: Registry, selection: Selection) -> dict[str, xr.Variable]:
    columns: dict[str, list[Any]] = {name: [] for name in _RUN_ATTRS}
    # Any run of a label will do: the label's own fields are the same in all of them.
    held = selection.run_ids != ""
    first = held.argmax(axis=0)
    for j, label in enumerate(selection.runs):
        run = registry.derived.get(selection.run_ids[first[j], j]) if label != PRETRAINING else None
        treatment = None if run is None else run.treatment
        for name, values in columns.items():
            if run is None or treatment is None:
                text = name in ("run_type", "posttraining_method", "branch_point", "parent_treatment")
                values.append(
                    PRETRAINING if name == "run_type" else "" if text else 1 if name == "replicate" else np.nan
                )
            elif name == "replicate":
                values.append(run.replicate)
            else:
                values.append(getattr(treatment, "run_type" if name == "posttraining_method" else name))
    return {
        name: _variable("run", _texts(values) if isinstance(values[0], str) else np.array(values), _RUN_ATTRS[name])
        for name, values in columns.items()
    }


def _cell_coordinates(registry: Registry, selection: Selection) -> dict[str, xr.Variable]:
    run_ids = selection.run_ids
    texts = {name: np.full(run_ids.shape, "", object) for name in _CELL_TEXTS}
    numbers = {name: np.full(run_ids.shape, np.nan) for name in _CELL_NUMBERS}
    texts["run_id"] = run_ids.copy()
    texts["state"][:, 0] = "finished"
    for i, label in enumerate(selection.lineages):
        end = registry.base_end_tokens(label)
        if end is not None:
            numbers["end_tokens"][i, 0] = end
            texts["token_source"][i, 0] = "logged"
    at = np.nonzero(np.asarray(run_ids[:, 1:] != "", bool))
    cells = (at[0], at[1] + 1)
    runs = [registry.derived[run_id] for run_id in run_ids[cells].tolist()]
    placed = [registry.placed[run.run_id] for run in runs]
    texts["parent_run_id"][cells] = _texts([run.parent_run_id for run in runs])
    texts["state"][cells] = _texts([run.state for run in runs])
    texts["token_source"][cells] = _texts([place.token_source for place in placed])
    texts["reduce_loss"][cells] = _texts([str(run.hyperparameters.get("reduce_loss", "")) for run in runs])
    texts["parent_evidence"][cells] = _texts([run.parentage.evidence for run in runs])
    numbers["branch_tokens"][cells] = np.array([place.branch_tokens for place in placed], np.float64)
    numbers["end_tokens"][cells] = np.array([place.end_tokens for place in placed], np.float64)
    for name in ("training_seed", "weight_decay", "warmup_ratio", "max_seq_length"):
        numbers[name][cells] = [run.hyperparameters.get(name, np.nan) for run in runs]
    dims = ("lineage", "run")
    coords = {n: _variable(dims, packed(v), {"long_name": _CELL_TEXTS[n]}) for n, v in texts.items()}
    return coords | {n: _variable(dims, packed(v), _CELL_NUMBERS[n]) for n, v in numbers.items()}


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
    return "; ".join(f"{count} run{'s'[: count > 1]} by {rule}" for rule, count in sorted(rules.items()))
