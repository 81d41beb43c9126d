"""A run that is left out of an answer counts once, however many metrics the question has."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import xarray as xr

import dde

TWO = ["arc_easy", "piqa"]
QUESTIONS: dict[str, Callable[[xr.Dataset, str | list[str]], xr.Dataset]] = {
    "reach": lambda ds, m: ds.dde.reach(m, 0.3),
    "match": lambda ds, m: ds.dde.match(m, 0.3),
    "effect": lambda ds, m: ds.dde.effect(m),
    "best": lambda ds, m: ds.dde.best(m, over="data"),
    "fit": lambda ds, m: ds.dde.base_curves().dde.fit(m, interval="none"),
    "compare": lambda ds, m: dde.compare(ds.dde.sel(data="C4"), ds.dde.sel(data="Dolma1.7"), m, at="schedule"),
    "signal_to_noise": lambda ds, m: ds.dde.signal_to_noise(m),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_two_metrics_that_miss_the_same_runs_leave_out_as_many_as_one(question: str) -> None:
    ds = dde.tutorial.open_lineages("small", metrics=TWO)
    ask = QUESTIONS[question]
    assert ask(ds, TWO).attrs["left_out"] == ask(ds, "arc_easy").attrs["left_out"]
