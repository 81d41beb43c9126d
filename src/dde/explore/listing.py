"""Lists of the application: lineages and runs that match filters, the initial choice, and the table of runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from dde.dataset.dimensions import broadcast_values
from dde.dataset.samples import metrics_alone
from dde.plots.colours import label_of
from dde.schema import CELLS, PRETRAINING, SAMPLED, factors_of, is_datadecide

__all__ = [
    "matching_lineages",
    "matching_runs",
    "run_coordinates",
    "run_table",
    "runs_of",
    "starting_lineages",
    "starting_metric",
]

# The initial picture is drawn at once and visible without scrolling.
_FIRST_LINEAGES = 2
# Metrics that are examined for values before falling back to the first one.
_TRIED = 8


def runs_of(dataset: xr.Dataset) -> pd.DataFrame:
    """Return a row for each derived treatment: its label, method, learning rate and budget.

    Returns
    -------
    pandas.DataFrame
        Columns run, method, learning_rate (NaN where unknown) and budget, such as ``100M × 2``. In suites other
        than DataDecide, a row for each label, with its type and the factors of runs.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["piqa"])
    >>> runs_of(ds).columns.tolist()
    ['run', 'method', 'learning_rate', 'budget']
    """
    size = dataset.sizes["run"]
    if not is_datadecide(dataset):
        names = ["run", *(n for n, of in factors_of(dataset).items() if of == "run" and dataset[n].dims == ("run",))]
        return pd.DataFrame({name: dataset[name].values for name in names})
    frame = pd.DataFrame(
        {
            "run": dataset["run"].values.astype(object),
            "method": _along_run(dataset, "posttraining_method", "", size),
            "learning_rate": _along_run(dataset, "learning_rate", np.nan, size),
            "budget": [
                _budget(*parts)
                for parts in zip(
                    *(
                        _along_run(dataset, name, np.nan, size)
                        for name in ("finetune_tokens", "max_train_samples", "epochs")
                    ),
                    strict=True,
                )
            ],
        }
    )
    return frame[frame["run"] != PRETRAINING].reset_index(drop=True)


def matching_runs(
    runs: pd.DataFrame,
    methods: Collection[str] = (),
    learning_rates: Collection[float] = (),
    budgets: Collection[str] = (),
    factors: Mapping[str, Collection[Any]] = MappingProxyType({}),
) -> list[str]:
    """Return the labels of derived runs that match; an empty filter matches all.

    Parameters
    ----------
    runs : pandas.DataFrame
        As returned by :func:`runs_of`.
    methods, learning_rates, budgets : collection, optional
    factors : mapping, optional
        Values of other columns.

    Examples
    --------
    >>> import dde
    >>> runs = runs_of(dde.tutorial.open_lineages("tiny", params="4M", metrics=["piqa"]))
    >>> matching_runs(runs, ["dpo"])
    ['sft_lr=5e-06_100Mx1+dpo_lr=2e-07_40000seqx1_beta=5']
    """
    keep = np.ones(len(runs), bool)
    if methods:
        keep &= runs["method"].isin(list(methods)).to_numpy()
    if learning_rates:
        rates = np.array(list(learning_rates), np.float64)
        keep &= np.isclose(runs["learning_rate"].to_numpy()[:, None], rates, rtol=1e-6, atol=0).any(axis=1)
    if budgets:
        keep &= runs["budget"].isin(list(budgets)).to_numpy()
    for name, values in factors.items():
        if values:
            keep &= runs[name].isin(list(values)).to_numpy()
    labels: list[str] = runs["run"][keep].tolist()
    return labels


def matching_lineages(
    dataset: xr.Dataset,
    params: Collection[str] = (),
    data: Collection[str] = (),
    seeds: Collection[str] = (),
    with_runs: Collection[str] | None = None,
    factors: Mapping[str, Collection[Any]] = MappingProxyType({}),
) -> list[str]:
    """Return the labels of lineages that match; an empty filter matches all.

    Parameters
    ----------
    dataset : xarray.Dataset
    params, data, seeds : collection of str
        Values of the coordinates ``params``, ``data`` and ``seed_name``.
    with_runs : collection of str, optional
        Only lineages that have one of these derived runs.
    factors : mapping, optional
        Values of other coordinates of lineages.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", metrics=["piqa"])
    >>> matching_lineages(ds, params=["4M"], data=["Dolma1.7"])
    ['dolma1_7-4M-default', 'dolma1_7-4M-small-aux-2']
    """
    keep = np.ones(dataset.sizes["lineage"], bool)
    for name, values in (("params", params), ("data", data), ("seed_name", seeds), *factors.items()):
        if values:
            keep &= np.isin(dataset[name].values.astype(object), list(values))
    if with_runs is not None:
        columns = np.isin(dataset["run"].values.astype(object), list(with_runs))
        keep &= (_run_ids(dataset)[:, columns] != "").any(axis=1)
    labels: list[str] = dataset["lineage"].values[keep].tolist()
    return labels


def starting_lineages(dataset: xr.Dataset, among: Collection[str] | None = None) -> list[str]:
    """Return a few initial lineages: those with the most derived runs, of one size so that they share an axis well."""
    labels = dataset["lineage"].values.tolist()
    by = "params" if is_datadecide(dataset) else "n_params"
    sizes = dataset[by].values.tolist() if by in dataset.coords and dataset[by].ndim == 1 else [0] * len(labels)
    counts = ((_run_ids(dataset) != "") & ~_is_base(dataset)).sum(axis=1)
    allowed = None if among is None else set(among)
    by_size: dict[Any, list[int]] = {}
    for i in sorted(range(len(labels)), key=lambda i: (-counts[i], i)):
        if allowed is None or labels[i] in allowed:
            by_size.setdefault(sizes[i], []).append(i)
    first = max((rows[:_FIRST_LINEAGES] for rows in by_size.values()), key=lambda rows: counts[rows].sum(), default=[])
    return [labels[i] for i in sorted(first)]


def starting_metric(dataset: xr.Dataset, lineages: Collection[str]) -> str:
    """Return the initial metric: the first with values of both a base and its derived runs.

    Reads a few metrics for these lineages, evaluations before logs. Falls back to the first with any value, then to
    the first of all.
    """
    # Of thousands of metrics, variables are looked up much faster than arrays with their coordinates.
    variables, dims = dataset.variables, {*dataset["run_id"].dims, "cumulative_tokens"}
    metrics = list(dataset.data_vars)
    names = [str(name) for name in metrics if set(variables[name].dims) == dims] or list(map(str, metrics))
    ordered = sorted(names, key=lambda name: not variables[name].attrs.get("task"))
    some = ""
    for name in [*ordered[: _TRIED - 1], *ordered[-1:]]:
        part = metrics_alone(dataset, [name]).dde.sel(lineage=list(lineages))
        own = _own_values(part, name)
        if np.isfinite(own).any():
            some = some or name
            base = _is_base(part) & np.ones(own.shape[:2], bool)
            has_both = np.isfinite(own[base]).any() and np.isfinite(own[~base]).any()
            if has_both or base.all() or not base.any():
                return name
    return some or ordered[0]


def run_table(shown: xr.Dataset) -> pd.DataFrame:
    """Return a row for each run of a selection, with its last value of each metric.

    Parameters
    ----------
    shown : xarray.Dataset
        Dimensions ``(lineage, run, cumulative_tokens)``. Its metrics are read.

    Returns
    -------
    pandas.DataFrame
        Columns lineage, run, run_id, learning_rate, budget (in suites other than DataDecide, the factors of runs),
        state, branch_tokens, end_tokens, and one for each metric. Values that a derived run inherits from its parent
        don't count: NaN where it has none of its own.
    """
    run_ids = _run_ids(shown)
    rows, columns = np.nonzero(run_ids != "")
    runs = shown["run"].values[columns]
    table: dict[str, object] = {
        "lineage": shown["lineage"].values[rows],
        "run": runs,
        "run_id": run_ids[rows, columns],
    }
    if is_datadecide(shown):
        treatments = runs_of(shown)
        budgets: dict[str, str] = dict(zip(treatments["run"], treatments["budget"], strict=True))
        table["learning_rate"] = _along_run(shown, "learning_rate", np.nan, shown.sizes["run"])[columns]
        table["budget"] = [budgets.get(run, "") for run in runs]
    else:
        for name, of in factors_of(shown).items():
            if of != "lineage" and set(shown[name].dims) <= {"lineage", "run"}:
                cells = broadcast_values(shown[name].variable, {d: shown.sizes[d] for d in ("lineage", "run")})
                table[name] = cells[rows, columns]
    for name in ("state", "branch_tokens", "end_tokens"):
        if name in shown.coords:
            table[name] = shown[name].transpose("lineage", "run").values[rows, columns]
    for metric in map(str, shown.data_vars):
        table[metric] = _last(_own_values(shown, metric)[rows, columns])
    return pd.DataFrame(table)


def run_coordinates(shown: xr.Dataset) -> pd.DataFrame:
    """Return all coordinates of lineages and runs, with a row for each run, in the order of :func:`run_table`.

    Parameters
    ----------
    shown : xarray.Dataset
        Dimensions ``(lineage, run, cumulative_tokens)``.

    Returns
    -------
    pandas.DataFrame
        A column for each coordinate without an axis of tokens, except the marks of samples.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["piqa"])
    >>> run_coordinates(ds)[["params", "posttraining_method"]].drop_duplicates().values.tolist()
    [['4M', ''], ['4M', 'supervised_ft'], ['4M', 'dpo']]
    """
    rows, columns = np.nonzero(_run_ids(shown) != "")
    table: dict[str, object] = {}
    for name, variable in shown.coords.variables.items():
        if str(name).startswith(SAMPLED) or not set(variable.dims) <= set(CELLS):
            continue
        # Cells without a run are never visited: they are most of a suite with many treatments.
        values = variable.transpose(*(dim for dim in CELLS if dim in variable.dims)).values
        at = {"lineage": rows, "run": columns}
        table[str(name)] = (
            values[tuple(at[dim] for dim in CELLS if dim in variable.dims)]
            if values.ndim
            else [values.item()] * len(rows)
        )
    return pd.DataFrame(table)


def _own_values(shown: xr.Dataset, metric: str) -> npt.NDArray[np.float64]:
    """Return values (lineage, run, cumulative_tokens), NaN up to a run's branch."""
    dims = ("lineage", "run", "cumulative_tokens")
    array = shown[metric].transpose(*dims)
    branch = shown["branch_tokens"].transpose("lineage", "run").values if "branch_tokens" in shown.coords else np.nan
    inherited = shown["cumulative_tokens"].values <= np.asarray(branch)[..., None]
    return np.where(inherited, np.nan, array.values)


def _last(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the last finite value of each row; NaN in rows without any."""
    is_finite = np.isfinite(values)
    # Of the first of the reversed ones; of all False the first, which is not finite.
    last = values.shape[1] - 1 - np.argmax(is_finite[:, ::-1], axis=1)
    found = values[np.arange(len(values)), last]
    return np.where(is_finite.any(axis=1), found, np.nan)


def _run_ids(dataset: xr.Dataset) -> npt.NDArray[np.object_]:
    return np.asarray(dataset["run_id"].transpose("lineage", "run").values, object)


def _is_base(dataset: xr.Dataset) -> npt.NDArray[np.bool_]:
    """Return whether each run is a base, (lineage, run) or (1, run)."""
    if is_datadecide(dataset) or "branch_tokens" not in dataset.coords:
        return np.asarray(dataset["run"].values == PRETRAINING)[None, :]
    branch = dataset["branch_tokens"].transpose("lineage", "run").values
    return np.asarray(np.isnan(branch) & (_run_ids(dataset) != ""))


def _along_run(dataset: xr.Dataset, name: str, missing: object, size: int) -> npt.NDArray[np.object_]:
    if name not in dataset.coords:
        return np.full(size, missing)
    return np.asarray(dataset[name].values)


def _budget(tokens: float, samples: float, epochs: float) -> str:
    if np.isfinite(tokens):
        nominal = label_of(tokens)
    else:
        nominal = f"{label_of(samples)} sequences" if np.isfinite(samples) else "full"
    return f"{nominal} × {label_of(epochs)}" if np.isfinite(epochs) else nominal
