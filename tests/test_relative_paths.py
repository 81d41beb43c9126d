"""Relative paths mean what they meant when a Dataset was opened, whatever the working directory is later."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import dde
from dde.entities.repository import DataDecideEvolved
from dde.sources.connection import absolute_path
from dde.sources.wandb.store import WandBStore
from dde.suite.datadecide.tables.pretraining_tables import DataDecide
from dde.tutorial.suite import Suite

METRICS = ["arc_easy", "pile_valppl", "train_loss"]
OPTIONS = {"params": "4M", "data": "Dolma1.7", "metrics": METRICS}


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Suite, Suite]:
    """Two suites that differ in their values alone."""
    folder = tmp_path_factory.mktemp("suites")
    return tuple(dde.tutorial.make_suite(folder / str(seed), "tiny", seed=seed) for seed in (0, 1))  # type: ignore[return-value]


@pytest.fixture
def here_and_there(suites: tuple[Suite, Suite], tmp_path: Path) -> tuple[Path, Path]:
    """Two working directories with other data under the same names."""
    places = []
    for name, suite in zip(("here", "there"), suites, strict=True):
        place = tmp_path / name
        shutil.copytree(suite.data, place / "data")
        shutil.copytree(suite.wandb, place / "wandb")
        places.append(place)
    return places[0], places[1]


def values(ds: xr.Dataset) -> dict[str, np.ndarray]:
    return {name: ds[name].values for name in METRICS}


@pytest.mark.parametrize("cache", [None, "cache"])
@pytest.mark.parametrize("layout", ["auto", "raw"])
def test_a_dataset_reads_what_it_was_opened_from(
    here_and_there: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, cache: str | None, layout: str
) -> None:
    here, there = here_and_there
    monkeypatch.chdir(here)
    truth = values(dde.open_lineages(here / "data", here / "wandb", cache_dir=None, **OPTIONS))
    tables = "data" if layout == "auto" else DataDecide("data", "raw")
    ds = dde.open_lineages(tables, "wandb", cache_dir=cache, **OPTIONS)
    repository = DataDecideEvolved("data", "wandb", cache_dir=cache).repository
    monkeypatch.chdir(there)
    other = values(dde.open_lineages("data", "wandb", cache_dir=None, **OPTIONS))
    assert not np.array_equal(other["arc_easy"], truth["arc_easy"], equal_nan=True)
    for name, expected in truth.items():
        np.testing.assert_array_equal(ds[name], expected)
    # The repository had read nothing before.
    for name, expected in values(repository.to_dataset(**OPTIONS)).items():
        np.testing.assert_array_equal(expected, truth[name])
    assert not (there / "cache").exists()
    assert (here / "cache").exists() == (cache is not None)


def test_what_is_kept_is_found_again_from_another_working_directory(
    here_and_there: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = here_and_there
    monkeypatch.chdir(here)
    ds = dde.open_lineages("data", "wandb", cache_dir=here / "cache", **OPTIONS)
    monkeypatch.chdir(there)
    ds.load()
    places = sorted((here / "cache").glob("*/*"))
    dde.open_lineages(here / "data", here / "wandb", cache_dir=here / "cache", **OPTIONS).load()
    assert sorted((here / "cache").glob("*/*")) == places


@pytest.mark.parametrize("cache", [None, "cache"])
def test_a_pickle_reads_from_another_working_directory(
    here_and_there: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: str | None
) -> None:
    here, there = here_and_there
    monkeypatch.chdir(here)
    ds = dde.open_lineages("data", "wandb", cache_dir=cache, **OPTIONS)
    sent = tmp_path / "sent"
    sent.write_bytes(pickle.dumps((ds, DataDecide("data"), WandBStore("wandb"))))
    code = (
        "import pickle, sys\n"
        "ds, tables, store = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(repr(float(ds.arc_easy.sum())), repr(float(ds.train_loss.sum())))\n"
        "print(repr(float(tables.select_subset(metrics='piqa').piqa.sum())), len(store.runs()))"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(sent)], capture_output=True, text=True, check=True, cwd=there)
    piqa = DataDecide(here / "data").select_subset(metrics="piqa").piqa
    expected = [repr(float(v)) for v in (ds.arc_easy.sum(), ds.train_loss.sum(), piqa.sum())]
    assert ran.stdout.split() == [*expected, str(len(WandBStore(here / "wandb").runs()))]
    assert not (there / "cache").exists()


def test_paths_are_absolute_and_urls_are_untouched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("USERPROFILE", "/home/ada")
    assert absolute_path("data") == absolute_path(Path("data")) == os.path.join(os.getcwd(), "data")
    assert absolute_path("~/data") == os.path.abspath("/home/ada/data")
    for url in ("s3://bucket/data", "memory://suite", "zip://a.parquet::s3://bucket/a.zip"):
        assert absolute_path(url) == url
    for given, used in {
        "s3://bucket/cache": "s3://bucket/cache",
        "c": os.path.join(os.getcwd(), "c"),
        None: None,
    }.items():
        assert dde.RunRepository(None, None, cache_dir=given).cache_dir == used
    # The current folder is not meant by a path without a name.
    assert absolute_path("") == ""
