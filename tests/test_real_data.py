"""The real samples, through every form of store: all known values hold, and the Datasets are equal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import xarray as xr

import dde

SFT_150M = "250901-155734_test_finetune_DD-dclm-baseline-150M_Ft_learning_rate=5e-05"
TINY_4M = "2025_08_21-08_24_43_test_finetune_DD-dolma1_7-4M_main_1Mtx1_--learning_rate=5e-07"
RESUMED_4M = "2025_08_18-22_30_05_allenai--DataDecide-dolma1_7-4M_main_default"
DPO_4M = "2025_08_27-07_52_26_test_dpo_tune_cache_dd__dolma1_7-4M__main__100Mt_lr=5e-06_default_--learning_rate=2e-07"
ABSENT_SFT = "2025_08_21-15_03_00_test_finetune_DD-dolma1_7-4M_main_100M_toks_--learning_rate=5e-06"


@pytest.fixture(scope="module", params=["parquet", "0.1", "old"])
def store(request: pytest.FixtureRequest, real_data: Path) -> str:
    """The sample runs as exported, and after being loaded into PostgreSQL in both layouts."""
    if request.param == "parquet":
        return str(real_data)
    url: str = request.getfixturevalue("postgres").new_database()
    dde.ingest(real_data, url, layout=request.param)
    return url


@pytest.fixture(scope="module")
def coverage(store: str, real_data: Path) -> pd.DataFrame:
    repository = dde.DataDecideEvolved(real_data, store, cache_dir=None).repository
    return repository.coverage(state="all").set_index("run_id")


@pytest.fixture(scope="module")
def dataset(store: str, real_data: Path) -> xr.Dataset:
    return dde.open_lineages(real_data, store, state="all", cache_dir=None).load()


def test_the_whole_finetuning_run(coverage: pd.DataFrame, dataset: xr.Dataset) -> None:
    run = coverage.loc[SFT_150M]
    assert (run.run_type, run.lineage, run.parent_run_id) == ("supervised_ft",) + ("dclm-baseline-150M-default",) * 2
    assert run.branch_tokens == 15_003_942_912
    assert run.end_tokens == 16_334_197_780
    assert run.token_source == "logged"
    assert "69369" in run.contradictions
    assert "27277000704" in run.contradictions
    cell = dataset.dde.sel(run_id=SFT_150M).squeeze().sel(cumulative_tokens=16_334_197_780)
    assert cell.csqa == 0.4864864865
    assert cell.hellaswag == 0.3566022705
    assert float(cell.learning_rate) == 5e-5
    assert float(cell.epochs) == 2


def test_the_tiny_run_without_history(coverage: pd.DataFrame, dataset: xr.Dataset) -> None:
    run = coverage.loc[TINY_4M]
    assert run.branch_tokens == 375_193_600
    assert run.end_tokens == 375_193_600 + 1_400 * 712
    assert run.token_source == "estimated"
    assert "1400 sequences" in run.estimate
    cell = dataset.dde.sel(run_id=TINY_4M).squeeze().sel(cumulative_tokens=run.end_tokens)
    assert cell.arc_challenge == 0.2192832765
    assert float(cell.finetune_tokens) == 1e6
    # At the branch there is an observation of the parent: the run's evaluation joins it.
    assert np.isnan(dataset.mmlu_average.dde.sel(run_id=TINY_4M).squeeze().sel(cumulative_tokens=run.end_tokens))


def test_the_resumed_run(store: str, coverage: pd.DataFrame, real_data: Path) -> None:
    run = coverage.loc[RESUMED_4M]
    assert (run.status, run.state, run.token_source) == ("used", "crashed", "restored")
    rows = (
        dde.DataDecideEvolved(real_data, store, cache_dir=None)
        .repository.get_run(RESUMED_4M)
        .get_training_progression()
    )
    tokens = rows["cumulative_tokens"].to_numpy() - 375_193_600
    step = rows["step"].to_numpy()
    assert (np.diff(tokens) > 0).all()
    assert tokens[step == 9_800] == 894_174_859
    # From 9,900 on: the run's own rate once, then the counter's increments.
    raw = pq.read_table(real_data / "runs_history.parquet", columns=["run_id", "step", "total_tokens"]).to_pandas()
    raw = raw[raw["run_id"] == RESUMED_4M].set_index("step")["total_tokens"]
    increments = np.diff(tokens)
    np.testing.assert_allclose(increments[step[1:] != 9_900], raw.diff().dropna().drop(9_900), atol=1)
    rate = raw.diff().dropna().drop(9_900).mean()
    assert increments[step[1:] == 9_900] == pytest.approx(rate, abs=1)


def test_the_dpo_run_whose_parent_is_absent(coverage: pd.DataFrame, dataset: xr.Dataset) -> None:
    run = coverage.loc[DPO_4M]
    assert (run.run_type, run.lineage, run.parent_run_id) == ("dpo", "dolma1_7-4M-default", ABSENT_SFT)
    assert run.status == "parent not in store"
    assert np.isnan(run.branch_tokens)
    assert DPO_4M not in dataset.run_id.values
    assert "parent not in store: 1" in dataset.attrs["left_out"]


def test_the_tables_are_read_bit_for_bit(dataset: xr.Dataset, real_data: Path) -> None:
    table = pq.read_table(real_data / "full_eval.parquet").to_pandas()
    columns = {
        "mmlu_average": "mmlu_average_primary_metric",
        "arc_challenge": "arc_challenge_primary_metric",
        "pile_valppl": "pile-valppl",
        "dolma_common_crawl_valppl": "dolma_common-crawl-valppl",
    }
    for (params, data), rows in table.groupby(["params", "data"]):
        base = dataset.dde.sel(params=params, data=data, run="pretraining").isel(lineage=0)
        cells = base.sel(cumulative_tokens=rows["tokens"].astype(np.int64).to_numpy())
        for name, column in columns.items():
            np.testing.assert_array_equal(cells[name], rows[column])
        np.testing.assert_array_equal(cells.cumulative_compute, rows["compute"])


def test_every_store_gives_an_equal_dataset(dataset: xr.Dataset, real_data: Path) -> None:
    exported = dde.open_lineages(real_data, real_data, state="all", cache_dir=None).load()
    # Of the Datasets' own attributes those differ that name the stores.
    xr.testing.assert_identical(dataset.drop_attrs(deep=False), exported.drop_attrs(deep=False))


def test_no_credential_is_shown_or_kept(postgres: object, real_data: Path, tmp_path: Path) -> None:
    import pickle

    new_database: Callable[[], str] = postgres.new_database  # type: ignore[attr-defined]
    url = new_database()
    dde.ingest(real_data, url)
    secret = "s3cr3t-p4ss"
    separator = "&" if "?" in url else "?"
    ds = dde.open_lineages(real_data, f"{url}{separator}password={secret}", cache_dir=tmp_path / "cache", state="all")
    ds.load()
    ds.to_zarr(tmp_path / "saved.zarr", consolidated=False)
    shown = (
        repr(ds)
        + ds._repr_html_()
        + str(ds.attrs)
        + str(ds.encoding)
        + str({n: v.encoding for n, v in ds.variables.items()})
    )
    assert secret not in shown
    lazy = dde.open_lineages(real_data, f"{url}{separator}password={secret}", cache_dir=None, state="all")
    assert secret.encode() not in pickle.dumps(lazy)
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert secret.encode() not in file.read_bytes()
            assert secret not in file.name
