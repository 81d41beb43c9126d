"""Filters of lineages and runs in the application, with a widget for each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import xarray as xr

from dde.explore.listing import matching_lineages, matching_runs
from dde.plots.colours import is_given, label_of, sorted_values
from dde.schema import factors_of, is_datadecide

__all__ = ["Filter", "Filters"]

# Filters of DataDecide that are beside each other.
_ROWS = ((("params", "seed"), ("data",)), (("method", "learning_rate"), ("budget", "run")))


@dataclass(frozen=True)
class Filter:
    """One filter.

    Attributes
    ----------
    coordinate : str
        Coordinate of lineages, or column of :func:`dde.explore.listing.runs_of`.
    label : str
        Label of its widget.
    options : list or dict
        Values to choose from, or labels of values.
    """

    coordinate: str
    label: str
    options: list[str] | dict[str, Any]


@dataclass(frozen=True)
class Filters:
    """The filters of a suite.

    Attributes
    ----------
    of_lineages, of_runs : mapping of str to Filter
        By the name of the widget.
    noun : str
        Noun for the runs that filters choose from.
    bands : tuple of str
        Factors that means can be over.
    """

    of_lineages: Mapping[str, Filter]
    of_runs: Mapping[str, Filter]
    noun: str
    bands: tuple[str, ...]

    @classmethod
    def of(cls, dataset: xr.Dataset, runs: pd.DataFrame, taken: Collection[str] = ()) -> Filters:
        """Return the filters of a Dataset.

        Parameters
        ----------
        dataset : xarray.Dataset
        runs : pandas.DataFrame
            As :func:`dde.explore.listing.runs_of` gives it.
        taken : collection of str
            Names of other widgets; a factor of the same name gets the suffix ``_factor``.
        """
        if is_datadecide(dataset):
            of_lineages = {
                "params": Filter("params", "Size", _texts(dataset, "params")),
                "data": Filter("data", "Data recipe", _texts(dataset, "data")),
                "seed": Filter("seed_name", "Seed", _texts(dataset, "seed_name")),
            }
            of_runs = {
                "method": Filter("method", "Method", _labelled(runs["method"])),
                "learning_rate": Filter("learning_rate", "Learning rate", _labelled(runs["learning_rate"])),
                "budget": Filter("budget", "Tokens × epochs", list(dict.fromkeys(runs["budget"]))),
            }
            return cls(of_lineages, of_runs, "post-training runs", ("seed", "replicate"))
        factors = factors_of(dataset)
        lineage_names = [n for n, of in factors.items() if of == "lineage" and dataset[n].dims == ("lineage",)]
        made = [
            {
                (f"{name}_factor" if name in taken else name): Filter(name, _heading(name), _with_none(values))
                for name, values in columns
                if len({v if is_given(v) else "" for v in values}) > 1
            }
            for columns in (
                [(n, dataset[n].values.tolist()) for n in lineage_names],
                [(str(n), runs[n].tolist()) for n in runs.columns if n != "run"],
            )
        ]
        varying = {f.coordinate for filters in made for f in filters.values()} - {"run_type"}
        bands = [n for n in factors if n in varying]
        if "replicate" in dataset.coords and float(dataset["replicate"].max()) > 1:
            bands.append("replicate")
        return cls(made[0], made[1], "runs", tuple(bands))

    def rows(self) -> tuple[list[Sequence[str]], list[Sequence[str]]]:
        """Return the names of the widgets of lineages and of runs, grouped by row."""
        if "method" in self.of_runs:
            return [*_ROWS[0]], [*_ROWS[1]]
        return _pairs([*self.of_lineages]), _pairs([*self.of_runs, "run"])

    def matching_runs(self, runs: pd.DataFrame, chosen: Mapping[str, Collection[Any]]) -> list[str]:
        """Return the labels of runs that match the values chosen in each widget."""
        if "method" in self.of_runs:
            return matching_runs(runs, chosen["method"], chosen["learning_rate"], chosen["budget"])
        return matching_runs(runs, factors={self.of_runs[key].coordinate: values for key, values in chosen.items()})

    def matching_lineages(
        self, dataset: xr.Dataset, chosen: Mapping[str, Collection[Any]], with_runs: Collection[str] | None
    ) -> list[str]:
        """Return the labels of lineages that match the values chosen in each widget."""
        factors = {self.of_lineages[key].coordinate: values for key, values in chosen.items()}
        return matching_lineages(dataset, with_runs=with_runs, factors=factors)


def _pairs(keys: Sequence[str]) -> list[Sequence[str]]:
    return [keys[k : k + 2] for k in range(0, len(keys), 2)]


def _heading(name: str) -> str:
    words = name.replace("_", " ")
    return words[0].upper() + words[1:]


def _texts(dataset: xr.Dataset, name: str) -> list[str]:
    return list(dict.fromkeys(map(str, dataset[name].values))) if name in dataset.coords else []


def _labelled(values: Iterable[Any]) -> dict[str, Any]:
    return {label_of(v): v for v in sorted_values(values)}


def _with_none(values: Sequence[Any]) -> dict[str, Any]:
    """Return values by label; "" is a value of a text factor."""
    return {**_labelled(values), **({"none": ""} if "" in values else {})}
