"""Workers in other processes: the same numbers, found in the cache, from small graphs."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import dde
from dde.errors import ConflictWarning
from dde.tutorial.suite import Suite

distributed = pytest.importorskip("distributed")

METRICS = ["arc_easy", "pile_valppl", "train_loss"]

pytestmark = [
    # Of distributed itself, at its start and end.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def opened(small_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> tuple[Suite, Path, xr.Dataset]:
    cache = tmp_path_factory.mktemp("distributed")
    whole = dde.open_lineages(small_suite.data, small_suite.wandb, cache_dir=cache, metrics=METRICS)
    with pytest.warns(ConflictWarning, match="repeated rows"):
        whole.load()
    return small_suite, cache, whole


@pytest.fixture(scope="module", params=[1, 3])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cluster = distributed.LocalCluster(
            n_workers=request.param, threads_per_worker=2, processes=True, dashboard_address=None, silence_logs=50
        )
        with cluster, distributed.Client(cluster) as client:
            yield client


@pytest.mark.slow
def test_the_same_numbers_from_the_cache(opened: tuple[Suite, Path, xr.Dataset], client: Any) -> None:
    suite, cache, whole = opened
    chunks = {"lineage": max(whole.sizes["lineage"] // 5, 1)}
    lazy = dde.open_lineages(suite.data, suite.wandb, cache_dir=cache, metrics=METRICS, chunks=chunks)

    def forbid_sources() -> None:
        from dde.sources.wandb.parquet_export import ExportStore
        from dde.suite.datadecide.tables.pretraining_tables import DataDecide

        def refused(*args: object) -> None:
            raise AssertionError("a worker reads the sources")

        DataDecide.evaluations = ExportStore.history = ExportStore.evaluations = ExportStore.runs = refused

    def registries_opened() -> int:
        import gc

        from dde.suite.datadecide.runs.registry import Registry

        return sum(isinstance(found, Registry) for found in gc.get_objects())

    client.run(forbid_sources)
    for name in METRICS:
        np.testing.assert_array_equal(lazy[name].compute().values, whole[name].values)
    means, expected = (ds[METRICS].mean("lineage").compute() for ds in (lazy, whole))
    xr.testing.assert_allclose(means, expected, rtol=1e-12)
    assert set(client.run(registries_opened).values()) == {0}


def test_graphs_are_small(opened: tuple[Suite, Path, xr.Dataset]) -> None:
    suite, cache, whole = opened
    options: dict[str, Any] = {"cache_dir": cache, "chunks": {"lineage": max(whole.sizes["lineage"] // 8, 1)}}
    lazy = dde.open_lineages(suite.data, suite.wandb, **options)
    again = dde.open_lineages(suite.data, suite.wandb, **options)
    assert [v.data.name for v in lazy.data_vars.values()] == [v.data.name for v in again.data_vars.values()]
    selected = lazy.arc_easy.sel(run="pretraining")
    graph = dict(selected.__dask_graph__())
    assert len(graph) <= 5 * len(lazy.chunks["lineage"])
    assert len(pickle.dumps(graph)) < 50_000
    # One more chunk is one more place, not one more copy.
    assert len(pickle.dumps(dict(lazy.arc_easy.__dask_graph__()))) < 60_000
    assert len(pickle.dumps(lazy)) < 200_000
