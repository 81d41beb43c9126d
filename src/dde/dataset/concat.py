"""Join Datasets that were opened separately, or saved and opened again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.curves.axes import TOKENS
from dde.dataset.cell_operations import blank_value, coalesce, pick_cells
from dde.dataset.dimensions import text_values, texts_along
from dde.dataset.lazy import source_of
from dde.dataset.naming import ordered_lineages
from dde.dataset.samples import check_variable, checked_positions, samplings_in
from dde.errors import SelectionError
from dde.schema import (
    CELL_NUMBERS,
    CELLS,
    COORDINATES,
    DIMS,
    FACTOR_OF,
    POSITION_CHECK,
    PRETRAINING,
    SAMPLED,
    TEXT_COORDINATES,
    factors_of,
    is_datadecide,
    sampling_of,
)

__all__ = ["concat", "with_object_text"]


def with_object_text(dataset: xr.Dataset) -> xr.Dataset:
    """Return a Dataset whose text coordinates are Python strings, as :func:`dde.open_lineages` gives them."""
    text_names = {
        *TEXT_COORDINATES,
        "root_run_id",
        "parent_run_ids",
        *(n for n in factors_of(dataset) if dataset[n].dtype.kind == "O"),
    }
    texts = {}
    for name, c in dataset.coords.items():
        if c.dtype.kind in "TUS" or (name in text_names and c.dtype.kind == "O" and name not in dataset.dims):
            values = c.values
            as_text = text_values(values.astype(object, copy=False))
            if as_text is not values:
                texts[name] = c.variable.copy(deep=False, data=as_text)
    return dataset.assign_coords(texts) if texts else dataset


def concat(datasets: Iterable[xr.Dataset]) -> xr.Dataset:
    """Join Datasets of lineages into the union of their lineages, runs, tokens and metrics.

    Parameters
    ----------
    datasets : iterable of xarray.Dataset
        Datasets of :func:`dde.open_lineages`, which may have been saved and opened again. A run may be in several of
        them.

    Returns
    -------
    xarray.Dataset
        Joined by label; a cell that no Dataset holds is NaN or "". Lazy where they are. Datasets on different grids are
        first aligned on the union of their tokens, recomputed from their observations.

    Raises
    ------
    SelectionError
        When no Dataset is given; when one cell of lineage and run holds different runs, or one run has different
        values in two Datasets; when a Dataset is a sweep or on another axis; and when samples are not points of a
        Dataset whose grid differs from the others.

    Examples
    --------
    >>> import dde
    >>> a = dde.tutorial.open_lineages("tiny", params="4M", metrics=["piqa"])
    >>> b = dde.tutorial.open_lineages("tiny", params="150M", metrics=["piqa"])
    >>> dde.concat([a, b]).sizes["lineage"] == a.sizes["lineage"] + b.sizes["lineage"]
    True
    """
    several = [datasets] if isinstance(datasets, (xr.Dataset, xr.DataArray)) else datasets
    parts = [with_object_text(_with_dimensions(_checked(d))) for d in several]
    if not parts:
        raise SelectionError("no Dataset was given, so there is nothing to join. Pass a list of Datasets.")
    parts = _on_one_grid(parts)
    joined = _Joined(parts, _ordered_lineages(parts), _ordered_runs(parts))
    joined.check()
    coords = joined.coordinates()
    names = dict.fromkeys(str(n) for p in parts for n in p.data_vars)
    variables = {name: joined.variable(name) for name in names}
    return xr.Dataset(variables, coords, _joined_attrs([p.attrs for p in parts]))


_NEEDED = ("lineage", "run", "cumulative_tokens", "run_id")


def _checked(dataset: object) -> xr.Dataset:
    """Return a Dataset that has all that joining needs.

    Raises
    ------
    SelectionError
    """
    if not isinstance(dataset, xr.Dataset):
        raise SelectionError(
            f"a {type(dataset).__name__} is not a Dataset, so it can't be joined. "
            "Pass a list of Datasets; array.to_dataset() makes one of a DataArray."
        )
    # Other suites may state no parameter counts.
    needed = (*_NEEDED, "n_params") if is_datadecide(dataset) else _NEEDED
    if missing := [n for n in needed if n not in dataset.coords]:
        raise SelectionError(
            f"a Dataset has no coordinates {', '.join(missing)}, so its cells can't be identified. "
            "Keep the coordinates that dde.open_lineages() gives."
        )
    if POSITION_CHECK in dataset.coords and not checked_positions(dataset).values.all():
        raise SelectionError(
            "a Dataset has points of cumulative_tokens without cells, which padding and outer joins add, so it "
            "can't be joined with others. Drop them: ds.dropna('cumulative_tokens', how='all')."
        )
    return dataset


def _with_dimensions(dataset: xr.Dataset) -> xr.Dataset:
    """Return a Dataset with all three dimensions, restoring those that a selection of one label dropped.

    Raises
    ------
    SelectionError
        When it has other dimensions.
    """
    for dim in DIMS:
        if dim in dataset.coords and dim not in dataset.dims:
            if dataset[dim].ndim:
                raise SelectionError(
                    f"a Dataset has the dimensions {', '.join(map(str, dataset.dims))}, without {dim}, so its cells "
                    "have no position in the joined Dataset. Join Datasets first, then sweep or align them."
                )
            along = [
                n
                for n, c in dataset.coords.items()
                if n not in DIMS and _native_dims(str(n), c.attrs).issuperset({dim}) and dim not in c.dims
            ]
            dataset = dataset.expand_dims(dim)
            for name in along:
                dataset = dataset.assign_coords({name: dataset[name].expand_dims(dim)})
    if missing := set(DIMS) - set(map(str, dataset.dims)):
        raise SelectionError(
            f"a Dataset has no dimension {', '.join(sorted(missing))}, so its cells have no position in the joined "
            "Dataset. Pass Datasets as dde.open_lineages() gives them."
        )
    if extra := set(map(str, dataset.dims)) - set(DIMS):
        raise SelectionError(
            f"a Dataset has the dimension {', '.join(sorted(extra))} as well, which others do not have, so it can't be "
            "joined with them. Select one position of it, or join first."
        )
    return dataset.transpose(*DIMS)


def _native_dims(name: str, attrs: Mapping[Any, Any]) -> set[str]:
    if of := attrs.get(FACTOR_OF):
        return {of} if of in CELLS else set(CELLS)
    if name in COORDINATES:
        return set(COORDINATES[name].dims)
    if name == "cumulative_compute":
        return {"lineage", "cumulative_tokens"}
    if name == POSITION_CHECK:
        return {"cumulative_tokens"}
    is_flag = sampling_of(name) and name == SAMPLED + sampling_of(name)
    return set(DIMS) if is_flag else {"lineage", "run"}


def _on_one_grid(parts: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    grids = [p["cumulative_tokens"].values for p in parts]
    if all(np.array_equal(g, grids[0]) for g in grids):
        return list(parts)
    from dde.dataset.align import align

    union = np.unique(np.concatenate(grids)).astype(np.int64)
    return [p if np.array_equal(g, union) else align(p, union) for p, g in zip(parts, grids, strict=True)]


def _ordered_lineages(parts: Sequence[xr.Dataset]) -> list[str]:
    return ordered_lineages(dict.fromkeys(str(x) for p in parts for x in p["lineage"].values), parts)


def _ordered_runs(parts: Sequence[xr.Dataset]) -> list[str]:
    runs = list(dict.fromkeys(str(r) for p in parts for r in p["run"].values))
    return sorted(runs, key=lambda r: r != PRETRAINING)


def _is_same(a: xr.Variable, b: xr.Variable) -> bool:
    """Return whether two variables show the same array, so that no cell can differ; reads nothing."""
    return source_of(a) is source_of(b)


class _Joined:
    """Join Datasets on one grid: the positions of their cells, their checks, and the joined variables."""

    def __init__(self, parts: Sequence[xr.Dataset], lineages: list[str], runs: list[str]) -> None:
        self.parts = parts
        self.labels = {"lineage": lineages, "run": runs}
        shape = (len(lineages), len(runs))
        #: For each part, the positions of all labels along each of its dimensions; -1 where it has no such label.
        self.at: list[dict[str, npt.NDArray[np.int64]]] = []
        #: For each part, the run ids in the joined cells; "" where it has no run.
        self.run_ids: list[npt.NDArray[np.object_]] = []
        for part in parts:
            at = {}
            for dim, labels in self.labels.items():
                position = {str(label): k for k, label in enumerate(part[dim].values)}
                if len(position) < part.sizes[dim]:
                    raise SelectionError(
                        f"a Dataset holds a {dim} twice, so its cells are ambiguous. "
                        f"Keep each once: ds.drop_duplicates({dim!r})."
                    )
                at[dim] = np.array([position.get(label, -1) for label in labels], np.int64)
            self.at.append(at)
            ids = texts_along(part, "run_id", CELLS)
            picked = ids[np.ix_(np.maximum(at["lineage"], 0), np.maximum(at["run"], 0))]
            has_cell = (at["lineage"] >= 0)[:, None] & (at["run"] >= 0)[None, :]
            self.run_ids.append(np.where(has_cell, picked, "").reshape(shape))

    def check(self) -> None:
        """Raise where parts contradict each other.

        Raises
        ------
        SelectionError
        """
        for j, ours in enumerate(self.run_ids):
            for i in range(j):
                theirs = self.run_ids[i]
                clash = (theirs != "") & (ours != "") & (theirs != ours)
                if clash.any():
                    lineage, run = np.argwhere(clash)[0]
                    raise SelectionError(
                        f"the cell {self.labels['lineage'][lineage]} / {self.labels['run'][run]} is the run "
                        f"{theirs[lineage, run]!r} in one Dataset and {ours[lineage, run]!r} in another, so they can't "
                        "be joined. They come from different stores: select different lineages or runs from each."
                    )
                both = np.argwhere((ours != "") & (theirs == ours))
                if len(both):
                    self._check_equal(i, j, both)

    def _check_equal(self, i: int, j: int, both: npt.NDArray[np.intp]) -> None:
        """Raise where a run has different coordinates or values in two parts.

        Raises
        ------
        SelectionError
        """
        coordinates = [*CELL_NUMBERS, "start_tokens", "chain"]
        coordinates += [n for n, of in factors_of(self.parts[i]).items() if of == "cell" and n not in coordinates]
        names = [n for n in coordinates if all(n in self.parts[k].coords for k in (i, j))]
        names += [str(n) for n in self.parts[i].data_vars if n in self.parts[j].data_vars]
        for name in names:
            if _is_same(self.parts[i][name].variable, self.parts[j][name].variable):
                continue
            ours, theirs = (self._rows(k, name, both) for k in (i, j))
            if ours is None or theirs is None:
                continue
            if ours.dtype.kind in "OTU":
                differ = (text_values(ours) != text_values(theirs)) & (ours != "") & (theirs != "")
            else:
                a, b = ours.astype(np.float64), theirs.astype(np.float64)
                # A coordinate that is missing in one part is taken from the other. A value that is missing in one was
                # masked, or computed from other samples: which of the two is right can't be decided here.
                is_metric = name in self.parts[i].data_vars
                is_missing = np.isnan(a) & np.isnan(b) if is_metric else np.isnan(a) | np.isnan(b)
                differ = ~(np.isclose(a, b, rtol=1e-9, atol=0) | is_missing)
            if differ.any():
                at = np.argwhere(differ)[0]
                lineage, run = both[at[0]]
                raise SelectionError(
                    f"{name} of the run {self.run_ids[i][lineage, run]!r} is {ours[tuple(at)]} in one Dataset and "
                    f"{theirs[tuple(at)]} in another, so they contradict each other and can't be joined: they come "
                    "from different versions of a source, or were opened in different ways. Open them alike, or leave "
                    f"the run out of one of them: ds.dde.sel(run=lambda r: r != {self.labels['run'][run]!r})."
                )

    def _rows(self, part: int, name: str, cells: npt.NDArray[np.intp]) -> npt.NDArray[Any] | None:
        variable = self.parts[part][name].variable
        if not set(CELLS) <= set(variable.dims):
            return None
        at = {d: self.at[part][d][cells[:, k]] for k, d in enumerate(CELLS)}
        return np.asarray(pick_cells(variable, at, ["cell"]).values)

    def variable(self, name: str) -> xr.Variable:
        """Return a variable or coordinate along the joined labels; each cell is from the first part that has it."""
        holders = [k for k, part in enumerate(self.parts) if name in part.variables]
        first = self.parts[holders[0]].variables[name]
        dims = [d for d in CELLS if d in first.dims]
        if not dims:
            return first
        blank = blank_value(first, name)
        has_cell = [
            np.logical_and.reduce(np.meshgrid(*(self.at[k][d] >= 0 for d in dims), indexing="ij")) for k in holders
        ]
        if len(dims) == 2:
            has_cell = [mask & (self.run_ids[k] != "") for k, mask in zip(holders, has_cell, strict=True)]
        if first.dtype.kind in "iu" and np.logical_or.reduce(has_cell).all():
            # Some part has a number for every label, so no value for missing cells is needed, and integers stay.
            blank = 0
        picked: list[xr.Variable] = []
        for k, mask in zip(holders, has_cell, strict=True):
            positions = np.meshgrid(*(np.maximum(self.at[k][d], 0) for d in dims), indexing="ij")
            variable = self.parts[k].variables[name]
            picked.append(pick_cells(variable, dict(zip(dims, positions, strict=True)), dims, mask, blank))
        joined = coalesce(picked, has_cell)
        # Attributes that differ, such as the interpolation, are all listed.
        joined.attrs = _joined_attrs([v.attrs for v in picked])
        return joined

    def coordinates(self) -> dict[str, xr.Variable]:
        """Return the coordinates of the joined Dataset."""
        coords: dict[str, xr.Variable] = {}
        first = self.parts[0]
        for dim, labels in self.labels.items():
            values = np.empty(len(labels), object)
            values[:] = labels
            coords[dim] = xr.Variable(dim, values, first[dim].attrs)
        tokens = coords["cumulative_tokens"] = first["cumulative_tokens"].variable
        flags = {SAMPLED + s for part in self.parts for s in samplings_in(part)}
        for name in dict.fromkeys(str(n) for p in self.parts for n in p.coords if n not in coords):
            holders = [p for p in self.parts if name in p.coords]
            dims = holders[0][name].dims
            # Compute is recomputed from parameter counts below, unless these change along curves.
            along_tokens = "cumulative_tokens" in dims and name not in flags and "run" not in dims
            if not dims or name == POSITION_CHECK or along_tokens:
                continue
            if len(holders) < len(self.parts) and holders[0][name].dtype.kind not in "Of" and name not in flags:
                # Integers have no missing value: a coordinate that some Datasets do not have is left out.
                continue
            coords[name] = self.variable(name)
        if all(POSITION_CHECK in p.coords for p in self.parts):
            coords[POSITION_CHECK] = check_variable(np.asarray(tokens.values, np.int64), TOKENS)
        if "n_params" in coords and coords["n_params"].dims == ("lineage",) and "cumulative_compute" not in coords:
            attrs = first["cumulative_compute"].attrs if "cumulative_compute" in first.coords else {}
            compute = 6.0 * coords["n_params"].values[:, None] * tokens.values[None, :]
            coords["cumulative_compute"] = xr.Variable(("lineage", "cumulative_tokens"), compute, attrs)
        return coords


def _joined_attrs(attrs: Sequence[dict[Any, Any]]) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for key in dict.fromkeys(str(k) for a in attrs for k in a):
        values = [a[key] for a in attrs if key in a]
        # Attributes may be arrays or lists, which are not hashable.
        distinct = list(dict.fromkeys(map(str, values)))
        joined[key] = values[0] if len(distinct) == 1 else " | ".join(distinct)
    return joined
