"""Digests of everything that opening DataDecide gives: the tutorial suites and, where they are at hand, real samples.

``python tests/datadecide_digests.py`` (with ``src`` on the path) writes them to ``tests/datadecide_digests.json``. That
is done once, on code that is known to be right, and again only when a change of the answers is meant; each entry names
one variable, coordinate, text or list, so that a change says what it changed.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

import dde
from dde.schema import SAMPLED, TABLE_SAMPLINGS, sampling_of
from dde.tutorial import make_suite

STORED = Path(__file__).with_suffix(".json")

#: Attributes that follow from where files lie, when they were written, or which release read them.
NOT_CONTENT = {
    "dde_version", "pretraining_source", "posttraining_source", "pretraining_fingerprint", "posttraining_fingerprint",
}  # fmt: skip

# Python's digits of a float are exact, so equal texts mean equal bits.
Digests = dict[str, str]


def digest(content: object) -> str:
    """Return the digest of a text, number, list or mapping."""
    text = json.dumps(content, sort_keys=True, default=_plain, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"no digest of {type(value)}")


def digest_values(values: npt.ArrayLike) -> str:
    """Return the digest of an array: its shape, kind, and the bytes of its numbers or its texts."""
    array = np.asarray(values)
    shape = "x".join(map(str, array.shape))
    if array.dtype.kind in "OUTS":
        return f"text {shape} {digest([str(v) for v in array.ravel().tolist()])}"
    if array.dtype.kind == "f":
        # One NaN, whichever operation made it.
        array = np.where(np.isnan(array), np.nan, array)
    order = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
    return f"{array.dtype.name} {shape} {hashlib.sha256(order.tobytes()).hexdigest()[:16]}"


def digests_of_dataset(dataset: xr.Dataset, every: int = 1) -> Digests:
    """Return the digests of all variables, coordinates and attributes of a Dataset, and of their order.

    Of every so many metrics the values are in it, and of all others the attributes.
    """
    silent = {name for k, name in enumerate(dataset.data_vars) if k % every}
    found = {
        "variables": digest(list(map(str, dataset.data_vars))),
        "coordinates": digest(sorted(map(str, dataset.coords))),
        "sizes": digest({str(d): n for d, n in dataset.sizes.items()}),
        **{f"attribute {n}": digest(v) for n, v in dataset.attrs.items() if n not in NOT_CONTENT},
    }
    groups: dict[str, list[str]] = {}
    for name, variable in dataset.variables.items():
        dims = ",".join(map(str, variable.dims))
        values = "" if name in silent else digest_values(variable.values)
        content = f"{name} ({dims}) {values} {digest(variable.attrs)}"
        groups.setdefault(_group(str(name), dataset), []).append(content)
    for group, contents in groups.items():
        found[group] = contents[0] if len(contents) == 1 else digest(contents)
    return found


def _group(name: str, dataset: xr.Dataset) -> str:
    """Return what a variable is digested with: its own name, but of thousands of metrics those of a task together."""
    if sampling := sampling_of(name):
        return f"{SAMPLED}{sampling}" if sampling in TABLE_SAMPLINGS else f"{SAMPLED} logs"
    if name not in dataset.data_vars or len(dataset.data_vars) < 100:
        return name
    # A variable rather than an array: of thousands each array looks through all coordinates.
    return f"metrics of {dataset.variables[name].attrs.get('task', '') or 'logs'}"


def digests_of_frame(frame: pd.DataFrame) -> Digests:
    """Return the digests of the columns of a frame and of their order."""
    found = {"columns": digest(list(map(str, frame.columns))), "attributes": digest(dict(frame.attrs))}
    for name in frame.columns:
        column = frame[name]
        # What pandas calls its type of texts changes from release to release.
        array = column.to_numpy() if column.dtype.kind in "fiub" else column.astype(object).to_numpy()
        found[str(name)] = digest_values(array)
    return found


def _prefixed(prefix: str, digests: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return ((f"{prefix}: {name}", value) for name, value in digests.items())


def digests_of_repository(repository: dde.RunRepository) -> Digests:
    """Return the digests of the coverage, the lineages with their runs, and the continuous curves of a repository.

    The first curves are of all metrics, the others of the default ones.
    """
    found: Digests = {}
    for state in ("finished", "all"):
        found.update(_prefixed(f"coverage {state}", digests_of_frame(repository.coverage(state=state))))
    facts = ("name", "kind", "task", "entry", "long_name", "units", "direction")
    found["metrics"] = digest({n: [str(getattr(m, f)) for f in facts] for n, m in repository.metrics().items()})
    lineages = repository.find_lineages()
    found["lineages"] = digest([lineage.lineage_id for lineage in lineages])
    found["lineages with dpo"] = digest([x.lineage_id for x in repository.find_lineages(posttraining_method="dpo")])
    found["lineages of 150M"] = digest([repr(x) for x in repository.find_lineages(base_params="150M")])
    for k, lineage in enumerate(lineages):
        found[f"{lineage.lineage_id}: runs"] = digest(list(map(repr, [lineage.base_run, *lineage.derived_runs])))
        curves = digests_of_frame(lineage.get_continuous_curves(metrics=None if k else "all"))
        found[f"{lineage.lineage_id}: curves"] = digest(list(curves.items()))
    return found


def _rounded(means: xr.Dataset) -> xr.Dataset:
    """Return means with six digits: the last ones of spreads and intervals change with releases of NumPy and SciPy."""
    texts = {
        str(name): (array.dims, np.array([f"{v:.6g}" for v in array.values.ravel()], object).reshape(array.shape))
        for name, array in means.data_vars.items()
    }
    return means.assign(texts)


def digests_of_operations(dataset: xr.Dataset) -> Digests:
    """Return the digests of what the operations of ``ds.dde`` make of a Dataset of DataDecide's lineages."""
    metrics = [str(n) for n in ("mmlu_average", "pile_valppl", "train_loss") if n in dataset]
    small = dataset[metrics]
    # A dense log is thinned on the grid as opened, so that it can't be put on another one.
    evaluated = small.drop_vars("train_loss")
    made: dict[str, xr.Dataset | xr.DataArray | pd.DataFrame] = {
        "mean over seed": _rounded(small.dde.mean_over("seed")),
        "mean over replicate": _rounded(small.dde.mean_over("replicate")),
        "mean over both": _rounded(small.dde.mean_over(["seed", "replicate"])),
        "base curves": small.dde.base_curves(),
        "difference to base": small.dde.difference_to_base(),
        "observed": small.dde.observed(),
        "checkpoint type": small.dde.checkpoint_type(),
        "support": small.dde.support("mmlu_average"),
        "revision": small.dde.revision(),
        "compute axis": evaluated.dde.align(50, axis="cumulative_compute"),
        "fraction axis": evaluated.dde.align(50, axis="fraction_of_training"),
        "branch axis": evaluated.dde.align(50, axis="post_tokens"),
        "union grid": evaluated.dde.align("union", "log"),
        "pchip": evaluated.dde.align(300, "pchip"),
        "sweep": small.dde.sel(run_type="supervised_ft").isel(lineage=[0]).dde.sweep("learning_rate"),
        "sel": small.dde.sel(params="150M", learning_rate=slice(1e-6, 1e-4)),
        "final": small.dde.final("mmlu_average"),
        "final at schedule": small.dde.final("mmlu_average", at="schedule"),
        "frame": small.isel(lineage=[0]).dde.to_frame(),
    }
    halves = [small.isel(lineage=slice(k, None, 2)) for k in (1, 0)]
    made["concat"] = dde.concat(halves)
    found: Digests = {}
    for name, result in made.items():
        if isinstance(result, pd.DataFrame):
            digests = digests_of_frame(result)
        else:
            digests = digests_of_dataset(result if isinstance(result, xr.Dataset) else result.to_dataset(name="result"))
        found[name] = digest(digests)
    return found


def digests_of_tutorial(size: str, folder: Path, operations: bool, every: int, **filters: Any) -> Digests:
    """Return all digests of a generated suite.

    Parameters
    ----------
    size : str
        As for `dde.tutorial.make_suite`.
    folder : Path
        Empty; the suite is written to it.
    operations : bool
        Also of what the operations make of it.
    every : int
        Of every so many metrics, where all are opened, the values are taken.
    **filters
        What of the suite is opened.
    """
    suite = make_suite(folder, size)
    return _digests_of_stores(suite.data, suite.wandb, operations, every, filters)


def digests_of_real_samples(folder: Path) -> Digests:
    """Return all digests of the real samples."""
    return _digests_of_stores(str(folder), str(folder), False, 8, {})


def _digests_of_stores(tables: str, store: str, operations: bool, every: int, filters: Mapping[str, Any]) -> Digests:
    repository = dde.DataDecideEvolved(tables, store, cache_dir=None).repository
    found = dict(_prefixed("repository", digests_of_repository(repository)))
    finished = repository.to_dataset(**filters)
    found.update(_prefixed("finished", digests_of_dataset(finished)))
    if operations:
        found.update(_prefixed("operation", digests_of_operations(finished)))
    with tempfile.TemporaryDirectory() as cache:
        # Into a cache two thousand metrics are read in one pass, and one by one without.
        kept = dde.DataDecideEvolved(tables, store, cache_dir=cache).repository
        kept.fill_cache()
        opened = kept.to_dataset(metrics="all", state="all", **filters)
        found.update(_prefixed("all", digests_of_dataset(opened, every)))
    return found


#: What is taken of the generated suites, by name; the larger ones in the parts that fit a test.
TUTORIALS: dict[str, dict[str, Any]] = {
    "tiny": {"size": "tiny", "operations": True, "every": 1},
    "small": {"size": "small", "operations": True, "every": 8, "params": ["4M", "150M"], "data": ["Dolma1.7", "C4"]},
}


def main(real: Path) -> None:
    """Write the digests of the present code."""
    stored: dict[str, Digests] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, options in TUTORIALS.items():
            with tempfile.TemporaryDirectory() as folder:
                stored[name] = digests_of_tutorial(folder=Path(folder), **options)
        stored["real"] = digests_of_real_samples(real)
    STORED.write_text(json.dumps(stored, indent=0, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
