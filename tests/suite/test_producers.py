"""Suites whose runs a third party's code reads."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import dde
from dde.errors import FormatError
from dde.sources.protocols import PretrainingSource
from dde.suite.reading.declared_runs import DeclaredRuns
from dde.suite.reading.metric_keys import MetricSource


class Simulated:
    """Two widths of a trunk and a cooldown, computed when they are asked for."""

    fingerprint = "1"
    left_out: Mapping[str, int] = {"runs that diverged": 3}
    notes: Sequence[str] = ()

    def __init__(self, place: str) -> None:
        self.description = f"simulation at {place}"
        self.asked: list[str] = []

    def runs(self) -> list[DeclaredRuns]:
        def texts(values: list[Any]) -> npt.NDArray[np.object_]:
            out = np.empty(len(values), object)
            out[:] = values
            return out

        trunks = DeclaredRuns(
            table=-1,
            run_type="trunk",
            run_ids=("t64", "t128"),
            fields={"width": texts([64, 128]), "host": texts(["a", "b"])},
            row_offsets=np.array([0, 3, 6]),
            step=np.array([0, 1, 2] * 2),
            tokens=np.array([0, 10, 20] * 2),
            n_params=np.array([1000.0, 4000.0]),
            schedule_tokens=np.array([np.nan, np.nan]),
            parents=((), ()),
            counts="own",
            sources=(),
        )
        cooldown = DeclaredRuns(
            table=-1,
            run_type="cooldown",
            run_ids=("c64",),
            fields={"width": texts([64])},
            row_offsets=np.array([0, 2]),
            step=np.array([1, 2]),
            tokens=np.array([5, 9]),
            n_params=np.array([1000.0]),
            schedule_tokens=np.array([np.nan]),
            parents=((("t64", "step", 1.0),),),
            counts="own",
            sources=(),
        )
        return [trunks, cooldown]

    def metrics(self) -> dict[str, MetricSource]:
        return {"loss": MetricSource("loss", "nats", "lower", "", "loss", "evaluation", "", ("loss",))}

    def values(self, metric: str, runs: DeclaredRuns, which: Sequence[int]) -> npt.NDArray[np.float64]:
        self.asked.append(metric)
        counts = np.diff(runs.row_offsets)
        parts = [5 - np.arange(counts[i]) / 10 - (runs.run_type == "cooldown") for i in which]
        return np.concatenate([np.empty(0), *parts])


def make(suite: dde.Suite, root: Any, cache_dir: Any) -> Simulated:
    return Simulated(str(root))


def suite(producer: Any = make) -> dde.Suite:
    return dde.Suite("simulated", lineage="w{width}", run={"trunk": "trunk", "cooldown": "cooldown"}, producer=producer)


def test_a_producer_reads_in_place_of_tables() -> None:
    ds = dde.open_lineages("somewhere", suite=suite(), cache_dir=None)
    assert ds.lineage.values.tolist() == ["w64", "w128"]
    assert ds.run.values.tolist() == ["trunk", "cooldown"]
    assert ds.attrs["left_out"] == "runs that diverged: 3"
    assert ds.attrs["source"] == "simulation at somewhere"
    np.testing.assert_allclose(
        ds.loss.sel(lineage="w64", run="cooldown").dropna("cumulative_tokens"), [5, 4.9, 4.0, 3.9]
    )
    assert ds.parent_evidence.sel(lineage="w64", run="cooldown") == "producer"
    assert ds.host.dims == ("lineage", "run")
    assert isinstance(Simulated(""), PretrainingSource)
    again = pickle.loads(pickle.dumps(dde.open_lineages("somewhere", suite=suite(), cache_dir=None)))
    np.testing.assert_array_equal(again.loss, ds.loss)


def test_opening_reads_no_values() -> None:
    made: list[Simulated] = []

    def keep(declared: dde.Suite, root: Any, cache_dir: Any) -> Simulated:
        made.append(Simulated(""))
        return made[0]

    ds = dde.open_lineages("x", suite=suite(keep), cache_dir=None)
    assert made[0].asked == []
    ds.loss.load()
    assert set(made[0].asked) == {"loss"}


def test_a_producer_of_something_else_is_named() -> None:
    with pytest.raises(FormatError, match=r"The producer of the suite 'simulated' returned a dict"):
        dde.open_lineages("x", suite=suite(lambda *_: {}), cache_dir=None)
