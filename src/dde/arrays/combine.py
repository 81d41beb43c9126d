"""Joining Datasets that were opened separately, or saved and opened again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.arrays.lazy import DIMS, lazy_variable
from dde.arrays.untouched import source_of
from dde.errors import SelectionError
from dde.names import find_base_by_label, suite_order
from dde.relations.treatments import PRETRAINING

__all__ = ["concat", "with_object_text"]


def with_object_text(dataset: xr.Dataset) -> xr.Dataset:
    """Return a Dataset whose text coordinates are Python strings, as those of an opened one are."""
    texts = {name: c.copy(data=c.values.astype(object)) for name, c in dataset.coords.items() if c.dtype.kind in "TUS"}
    return dataset.assign_coords(texts) if texts else dataset


def concat(datasets: Iterable[xr.Dataset]) -> xr.Dataset:
    """Join Datasets of lineages: the union of their lineages, runs, tokens and metrics.

    Parameters
    ----------
    datasets : iterable of xarray.Dataset
        As :func:`dde.open_lineages` gives them, or saved and opened again. A run may be in several of them.

    Returns
    -------
    xarray.Dataset
        Labels align; a cell that no Dataset holds is NaN or "". Datasets on different grids are first put on the
        union of their tokens: from the stores where they are still open, else between the saved grid's points.

    Raises
    ------
    SelectionError
        When there is nothing to join, one cell of lineage and run holds different runs, or a Dataset is a sweep or
        on another axis.

    Examples
    --------
    >>> import dde
    >>> a = dde.tutorial.open_lineages("tiny", params="4M", metrics=["piqa"])
    >>> b = dde.tutorial.open_lineages("tiny", params="150M", metrics=["piqa"])
    >>> dde.concat([a, b]).sizes["lineage"] == a.sizes["lineage"] + b.sizes["lineage"]
    True
    """
    given = [datasets] if isinstance(datasets, (xr.Dataset, xr.DataArray)) else datasets
    parts = [with_object_text(_with_dimensions(_checked(d))) for d in given]
    if not parts:
        raise SelectionError("no Dataset was given, so there is nothing to join. Pass a list of Datasets.")
    parts = _on_one_grid(parts)
    lineages = _ordered_lineages(parts)
    runs = list(dict.fromkeys(str(r) for p in parts for r in p["run"].values))
    runs.sort(key=lambda r: r != PRETRAINING)
    coords = _joined_coordinates(parts, lineages, runs)
    variables: dict[str, xr.Variable] = {}
    for name in dict.fromkeys(str(n) for p in parts for n in p.data_vars):
        holders = [p[name] for p in parts if name in p]
        sources = [source_of(h, compare=False) for h in holders]
        first = sources[0]
        if first is not None and len(holders) == len(parts) and all(s and s[0].key == first[0].key for s in sources):
            # All of one opening: the joined variable reads from there in its turn.
            tokens = coords["cumulative_tokens"].values
            variables[name] = lazy_variable(*first, coords["run_id"].values, tokens, dict(holders[0].attrs))
            continue
        labels = {"lineage": lineages, "run": runs}
        joined: xr.DataArray | None = None
        for holder in holders:
            bare = holder.reset_coords(drop=True)
            wide = bare.reindex({d: labels[str(d)] for d in bare.dims if d in labels})
            joined = wide if joined is None else joined.fillna(wide)
        assert joined is not None
        variables[name] = joined.variable
        variables[name].attrs = dict(holders[0].attrs)
    result = xr.Dataset(variables, coords)
    result.attrs = _joined_attrs([p.attrs for p in parts])
    return result


_NEEDED = ("lineage", "run", "cumulative_tokens", "run_id", "n_params")


def _checked(dataset: object) -> xr.Dataset:
    if not isinstance(dataset, xr.Dataset):
        raise SelectionError(
            f"a {type(dataset).__name__} was given where a Dataset is wanted, so it can't be joined. "
            "Pass a list of Datasets; array.to_dataset() makes one of a DataArray."
        )
    if missing := [n for n in _NEEDED if n not in dataset.coords]:
        raise SelectionError(
            f"a Dataset lacks the coordinates {', '.join(missing)}, so its cells can't be told from others. "
            "Keep the coordinates that dde.open_lineages() gives."
        )
    return dataset


def _with_dimensions(dataset: xr.Dataset) -> xr.Dataset:
    """Return a Dataset with all three dimensions, also where one was selected away."""
    for dim in DIMS:
        if dim in dataset.coords and dim not in dataset.dims:
            if dataset[dim].ndim:
                raise SelectionError(
                    f"a Dataset lies along {', '.join(map(str, dataset.dims))}, and no more along {dim}, so its cells "
                    "have no place in the joined one. Join Datasets first, then sweep or align them."
                )
            along = [
                n
                for n, c in dataset.coords.items()
                if n not in DIMS and _native_dims(str(n)).issuperset({dim}) and dim not in c.dims
            ]
            dataset = dataset.expand_dims(dim)
            for name in along:
                dataset = dataset.assign_coords({name: dataset[name].expand_dims(dim)})
    if missing := set(DIMS) - set(map(str, dataset.dims)):
        raise SelectionError(
            f"a Dataset lacks {', '.join(sorted(missing))}, so its cells have no place in the joined one. "
            "Pass Datasets as dde.open_lineages() gives them."
        )
    return dataset.transpose(*DIMS)


_LINEAGE = {"params", "data", "seed", "seed_name", "n_params", "recipe_family"}
_RUN = {
    "run_type",
    "posttraining_method",
    "learning_rate",
    "finetune_tokens",
    "epochs",
    "max_train_samples",
    "dpo_beta",
    "branch_point",
    "parent_treatment",
    "replicate",
}


def _native_dims(name: str) -> set[str]:
    if name in _LINEAGE:
        return {"lineage"}
    if name in _RUN:
        return {"run"}
    return {"lineage", "cumulative_tokens"} if name == "cumulative_compute" else {"lineage", "run"}


def _on_one_grid(parts: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    grids = [p["cumulative_tokens"].values for p in parts]
    if all(np.array_equal(g, grids[0]) for g in grids):
        return list(parts)
    from dde.arrays.regrid import regrid

    union = np.unique(np.concatenate(grids)).astype(np.int64)
    return [regrid(p, union) for p in parts]


def _ordered_lineages(parts: Sequence[xr.Dataset]) -> list[str]:
    labels = list(dict.fromkeys(str(x) for p in parts for x in p["lineage"].values))
    bases = {label: find_base_by_label(label) for label in labels}
    last = (10**6, 0, 0)
    return sorted(labels, key=lambda label: suite_order(base) if (base := bases[label]) else last)


def _joined_coordinates(parts: Sequence[xr.Dataset], lineages: list[str], runs: list[str]) -> dict[str, xr.Variable]:
    coords: dict[str, xr.Variable] = {}
    first = parts[0]
    for dim, labels in (("lineage", lineages), ("run", runs)):
        values = np.empty(len(labels), object)
        values[:] = labels
        coords[dim] = xr.Variable(dim, values, first[dim].attrs)
    coords["cumulative_tokens"] = first["cumulative_tokens"].variable
    names = dict.fromkeys(str(n) for p in parts for n in p.coords if n not in coords)
    for name in names:
        holders = [p for p in parts if name in p.coords]
        dims = holders[0][name].dims
        if "cumulative_tokens" in dims or not set(dims) <= {"lineage", "run"} or not dims:
            continue
        if len(holders) < len(parts) and holders[0][name].dtype.kind not in "Of":
            # Whole numbers and flags have no sign for "nothing": what some Datasets lack is left out.
            continue
        coords[name] = _gather(name, holders, dims, {"lineage": lineages, "run": runs})
    if "n_params" in coords:
        n_params, tokens = coords["n_params"].values, coords["cumulative_tokens"].values
        attrs = first["cumulative_compute"].attrs if "cumulative_compute" in first.coords else {}
        compute = 6.0 * n_params[:, None] * tokens[None, :]
        coords["cumulative_compute"] = xr.Variable(("lineage", "cumulative_tokens"), compute, attrs)
    return coords


def _gather(name: str, holders: Sequence[xr.Dataset], dims: Sequence[Any], labels: dict[str, list[str]]) -> xr.Variable:
    dtype = holders[0][name].dtype
    shape = tuple(len(labels[str(d)]) for d in dims)
    missing: Any = "" if dtype.kind == "O" else np.nan if dtype.kind == "f" else 0
    out: npt.NDArray[Any] = np.full(shape, missing, dtype)
    for part in reversed(holders):
        at = np.ix_(*[[labels[str(d)].index(str(x)) for x in part[str(d)].values] for d in dims])
        values = part[name].values
        if name == "run_id":
            clash = (out[at] != "") & (values != "") & (out[at] != values)
            if clash.any():
                where = tuple(np.argwhere(clash)[0])
                cell = [str(part[str(d)].values[i]) for d, i in zip(dims, where, strict=True)]
                raise SelectionError(
                    f"the cell {' / '.join(cell)} is the run {out[at][where]!r} in one Dataset and "
                    f"{values[where]!r} in another, so they can't be joined. They come from different stores: select "
                    "different lineages or runs of each."
                )
        held = (
            values != ""
            if dtype.kind == "O"
            else ~np.isnan(values)
            if dtype.kind == "f"
            else np.ones(values.shape, bool)
        )
        out[at] = np.where(held, values, out[at])
    attrs = dict(holders[0][name].attrs)
    if any(p[name].attrs.get("dde_cube") != attrs.get("dde_cube") for p in holders):
        attrs.pop("dde_cube", None)
    return xr.Variable(dims, out, attrs)


def _joined_attrs(attrs: Sequence[dict[Any, Any]]) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for key in dict.fromkeys(str(k) for a in attrs for k in a):
        held = [a[key] for a in attrs if key in a]
        # Attributes may be arrays or lists, which have no hash.
        distinct = list(dict.fromkeys(map(str, held)))
        joined[key] = held[0] if len(distinct) == 1 else " | ".join(distinct)
    return joined
