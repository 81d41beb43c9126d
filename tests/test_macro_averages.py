"""Macro averages: zeros that stand for missing entries are NaN and counted, zeros that were measured stay."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr

import dde
from dde.errors import DdeWarning
from dde.names import ENTRIES, MMLU_SUBJECTS, PLAIN_TASKS, SIZES, lacks_entry
from dde.suite.datadecide.tables.pretraining_tables import DataDecide
from dde.tutorial import Suite

TASKS = (*PLAIN_TASKS, *MMLU_SUBJECTS)
STEPS = (0, 1250)
Rows = list[tuple[str, str, int, str]]


def write(path: Path, rows: Rows) -> None:
    """Write rows of (size, task, step, text of metrics)."""
    columns = {
        "params": [r[0] for r in rows],
        "data": ["C4"] * len(rows),
        "task": [r[1] for r in rows],
        "step": [float(r[2]) for r in rows],
        "seed": ["default"] * len(rows),
        "metrics": [r[3] for r in rows],
    }
    pq.write_table(pa.table(columns), path)


def macro_averages(folder: Path, values: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Write macro averages by size, task and entry, the same at every step."""
    rows = [
        (size, task, step, json.dumps(entries))
        for size, of_size in values.items()
        for task, entries in of_size.items()
        for step in STEPS
    ]
    write(folder / "macro_avg-00000-of-00001.parquet", rows)


def shards(folder: Path, entries: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Write train shards by size, task and entry; the task "" stands for all others."""
    rows = [
        (size, task, step, repr(dict(of_size.get(task, of_size[""]))))
        for size, of_size in entries.items()
        for step in STEPS
        for task in TASKS
    ]
    write(folder / "train-00000-of-00001.parquet", rows)


def values_of(dd: DataDecide, metric: str) -> dict[str, float]:
    """Return the value of a metric at the last step, by size."""
    frame = dd.select_subset(metrics=metric, steps=[STEPS[-1]])
    return dict(zip(frame["params"], frame[metric], strict=True))


def test_the_table_of_sizes_is_that_of_the_published_suite() -> None:
    middle = {
        "acc_per_byte",
        "no_answer",
        "sum_logits_corr",
        "logits_per_token_corr",
        "logits_per_char_corr",
        "logits_per_byte_corr",
        "bits_per_byte_corr",
        "predicted_index_per_byte",
    }
    for size in SIZES:
        lacking = {e for e in ENTRIES if lacks_entry(size.name, "piqa", e)}
        n = size.n_params
        assert lacking == ({"bits_per_byte_corr"} if n < 1e8 else middle if n < 1e9 else set())
        assert lacks_entry(size.name, "winogrande", "uncond_correct_prob")
        assert not lacks_entry(size.name, "piqa", "uncond_correct_prob")


def test_without_shards_the_table_of_sizes_says_which_zeros_are_missing(tmp_path: Path) -> None:
    zeros = {"acc_per_byte": 0.0, "no_answer": 0.0, "acc_raw": 0.0, "margin": 0.25}
    macro_averages(tmp_path, {size: {"piqa": zeros, "mmlu": zeros} for size in ("4M", "150M", "1B")})
    dd = DataDecide(tmp_path)
    for task in ("piqa", "mmlu"):
        for entry in ("acc_per_byte", "no_answer"):
            found = values_of(dd, f"{task}_{entry}")
            assert np.isnan(found.pop("150M"))
            assert found == {"4M": 0.0, "1B": 0.0}
        assert set(values_of(dd, f"{task}_acc_raw").values()) == {0.0}
        assert set(values_of(dd, f"{task}_margin").values()) == {0.25}
    [(reason, count)] = dd.left_out.items()
    assert "acc_per_byte, no_answer of 150M)" in reason
    assert count == 2 * len(STEPS)  # rows: each lacks both entries
    values_of(dd, "piqa_no_answer")
    assert dd.left_out == {reason: count}
    assert pickle.loads(pickle.dumps(dd)).left_out == dd.left_out


def test_a_value_that_is_not_zero_stays_whatever_the_size(tmp_path: Path) -> None:
    macro_averages(tmp_path, {"150M": {"piqa": {"acc_per_byte": 0.5}, "mmlu": {"acc_per_byte": 0.25}}})
    dd = DataDecide(tmp_path)
    assert values_of(dd, "piqa_acc_per_byte") == {"150M": 0.5}
    assert values_of(dd, "mmlu_acc_per_byte") == {"150M": 0.25}
    assert dd.left_out == {}


def test_shards_of_the_same_size_decide_where_they_are_there(tmp_path: Path) -> None:
    # The reverse of the table of sizes: 150M has the entry, 4M lacks it. 1B is in no shard.
    shards(tmp_path, {"4M": {"": {"acc_raw": 0.5}}, "150M": {"": {"acc_raw": 0.5, "acc_per_byte": 0.5}}})
    zeros = {"acc_raw": 0.0, "acc_per_byte": 0.0}
    macro_averages(tmp_path, {s: {"mmlu": zeros, "olmes_10_macro_avg": zeros} for s in ("4M", "150M", "300M", "1B")})
    dd = DataDecide(tmp_path)
    for task in ("mmlu", "olmes_10_macro_avg"):
        found = values_of(dd, f"{task}_acc_per_byte")
        assert np.isnan([found.pop("4M"), found.pop("300M")]).all()
        assert found == {"150M": 0.0, "1B": 0.0}
        assert set(values_of(dd, f"{task}_acc_raw").values()) == {0.0}
    [reason] = dd.left_out
    assert "acc_per_byte of 4M, 300M" in reason


def test_an_aggregate_lacks_what_some_of_its_tasks_lack(tmp_path: Path) -> None:
    whole = {"acc_raw": 0.5, "acc_uncond": 0.5, "margin": 0.5}
    without = {"acc_raw": 0.5, "margin": 0.5}
    shards(
        tmp_path,
        {
            "4M": {"": whole, "boolq": without, "winogrande": without},
            "6M": {"": whole, "boolq": without, "winogrande": without, "mmlu_virology": {"acc_raw": 0.5}},
        },
    )
    means = {"acc_raw": 0.5, "acc_uncond": 0.4, "margin": 0.5}
    macro_averages(tmp_path, {s: {"mmlu": means, "olmes_10_macro_avg": means} for s in ("4M", "6M")})
    dd = DataDecide(tmp_path)
    assert values_of(dd, "mmlu_acc_uncond")["4M"] == 0.4
    # Two of ten are zeros: 0.4 is neither a mean over ten tasks nor one over eight.
    assert np.isnan(list(values_of(dd, "olmes_10_macro_avg_acc_uncond").values())).all()
    assert values_of(dd, "olmes_10_macro_avg_acc_raw") == {"4M": 0.5, "6M": 0.5}
    assert values_of(dd, "olmes_10_macro_avg_margin")["4M"] == 0.5
    assert np.isnan(values_of(dd, "mmlu_margin")["6M"])
    [reason] = dd.left_out
    assert "means over tasks of which some lack the entry" in reason
    assert "acc_uncond of 4M, 6M" in reason


def test_a_row_that_cannot_be_read_says_nothing_of_entries(tmp_path: Path) -> None:
    shards(tmp_path, {"150M": {"": {"acc_raw": 0.5}}})
    path = tmp_path / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    texts = [
        "{'acc_raw': oops}" if t.startswith("mmlu_") else x
        for t, x in zip(table["task"].to_pylist(), table["metrics"].to_pylist(), strict=True)
    ]
    pq.write_table(table.set_column(table.schema.get_field_index("metrics"), "metrics", pa.array(texts)), path)
    macro_averages(tmp_path, {"150M": {"mmlu": {"acc_raw": 0.0, "acc_per_byte": 0.0}}})
    dd = DataDecide(tmp_path)
    assert values_of(dd, "mmlu_acc_raw") == {"150M": 0.0}
    assert np.isnan(values_of(dd, "mmlu_acc_per_byte")["150M"])


def test_datasets_of_the_suite_hold_no_zeros_for_missing_entries(tiny_suite: Suite, tmp_path: Path) -> None:
    metrics = ["mmlu", "mmlu_acc_per_byte", "olmes_10_macro_avg_no_answer", "mmlu_acc_uncond"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DdeWarning)
        # The second opening takes the values from the cache.
        for _ in range(2):
            ds = dde.open_lineages(tiny_suite.data, None, metrics=metrics, cache_dir=tmp_path / "cache")
            ds = ds.sel(run="pretraining").load()
            lacking = sizes_of(ds) & {"150M", "300M", "530M", "750M"}
            assert lacking
            for size in sizes_of(ds):
                of_size = ds.dde.sel(params=size)
                for name in metrics:
                    is_missing = size in lacking and name in metrics[1:3]
                    assert bool(of_size[name].notnull().any()) != is_missing, (size, name)
                assert not (of_size["mmlu"] == 0).any()


def sizes_of(ds: xr.Dataset) -> set[str]:
    return set(ds["params"].values.tolist())


@pytest.mark.parametrize("metric", ["arc_easy", "mmlu_average"])
def test_metrics_of_the_shards_are_read_without_the_averages(tmp_path: Path, metric: str) -> None:
    shards(tmp_path, {"4M": {"": {"primary_metric": 0.0}}})
    macro_averages(tmp_path, {"4M": {"mmlu": {"primary_metric": 0.0}}})
    dd = DataDecide(tmp_path)
    assert values_of(dd, metric) == {"4M": 0.0}
    assert dd.reads["rows"] <= len(STEPS) * len(TASKS)
