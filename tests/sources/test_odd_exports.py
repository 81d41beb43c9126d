"""Exports as other programs leave them, and content that can't be used: read right, counted, or refused by name."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr

import dde
from dde.errors import ConflictWarning, DdeError, FormatError, SourceError, UnknownNameError
from dde.sources.wandb.jsonl_export import JsonlStore
from dde.sources.wandb.parquet_export import ExportStore

BASE = "allenai/DataDecide-dolma1_7-4M"
CONFIGS: list[dict[str, Any]] = [
    {"parent_run_id": BASE, "learning_rate": 1e-05},
    {"parent_run_id": BASE, "learning_rate": 2e-05},
]
SUMMARIES: list[dict[str, Any]] = [
    {"oe_eval_metrics/csqa": {"primary_score": 0.5}, "_step": 3},
    {"oe_eval_metrics/csqa": {"primary_score": 0.25}, "_step": 2},
]
LAUNCH = {"program": "finetune.py", "args": ["--seed", "8"]}
#: Run, step and what was logged.
LOGGED: list[tuple[str, int, dict[str, float]]] = [
    ("a", 1, {"train_loss": 3.0, "total_tokens": 100}),
    ("a", 2, {"train_loss": 2.9, "total_tokens": 200}),
    ("a", 3, {"train_loss": 2.8, "total_tokens": 300}),
    ("b", 1, {"train_loss": 4.0, "total_tokens": 100}),
    ("b", 2, {"train_loss": 3.9, "total_tokens": 200}),
]
IDS = [run_id for run_id, _, _ in LOGGED]
METRICS = [metrics for _, _, metrics in LOGGED]
VIEWS, BINARY, MAP = pa.string_view(), pa.binary(), pa.map_(pa.string(), pa.string())
BROKEN = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 3], np.int32)), pa.py_buffer(b"ab\xff")]
)


def runs(**columns: Any) -> pa.Table:
    return pa.table(
        {
            "run_id": ["a", "b"],
            "run_name": ["a", "b"],
            "state": ["finished", "finished"],
            "created_at": [dt.datetime(2025, 1, 1), dt.datetime(2025, 1, 2)],
            "config": [json.dumps(config) for config in CONFIGS],
            "summary": [json.dumps(summary) for summary in SUMMARIES],
            "wandb_metadata": [json.dumps(LAUNCH)] * 2,
            "system_attrs": ["{}"] * 2,
            **columns,
        }
    )


def log(**columns: Any) -> pa.Table:
    made = {
        "run_id": IDS,
        "step": [step for _, step, _ in LOGGED],
        **{key: [metrics[key] for metrics in METRICS] for key in METRICS[0]},
        **columns,
    }
    return pa.table({name: column for name, column in made.items() if column is not None})


def packed(metrics: Iterable[Any], **columns: Any) -> pa.Table:
    return log(train_loss=None, total_tokens=None, metrics=metrics, **columns)


def as_type(table: pa.Table, change: Callable[[pa.ChunkedArray], Any]) -> pa.Table:
    texts = [name for name in table.column_names if pa.types.is_string(table[name].type)]
    return pa.table({name: change(table[name]) if name in texts else table[name] for name in table.column_names})


def write_export(folder: Path, of_runs: pa.Table | None = None, rows: pa.Table | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(runs() if of_runs is None else of_runs, folder / "runs_metadata.parquet")
    pq.write_table(log() if rows is None else rows, folder / "runs_history.parquet")
    return folder


def run(run_id: str = "a", **parts: Any) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "run_name": run_id,
        "state": "finished",
        "config": CONFIGS[0],
        "summary": SUMMARIES[0],
        "wandb_metadata": LAUNCH,
        **parts,
    }


def row(step: Any, run_id: str = "a", **metrics: Any) -> dict[str, Any]:
    return {"run_id": run_id, "step": step, "metrics": metrics}


ROWS = [row(step, run_id, **metrics) for run_id, step, metrics in LOGGED]


def write_lines(folder: Path, *lines: Any, rows: Iterable[Any] = ROWS) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in (("runs.jsonl", lines), ("history.jsonl", rows)):
        texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in content]
        (folder / name).write_bytes(b"".join(text + b"\n" for text in texts))
    return folder


def opened(folder: Path) -> xr.Dataset:
    return dde.open_lineages(
        None, folder, state="all", metrics=["csqa", "train_loss"], grid="union", cache_dir=None
    ).load()


def coverage(folder: Path) -> pd.DataFrame:
    found = dde.DataDecideEvolved(None, folder, cache_dir=None).repository.coverage("all").set_index("run_id")
    return found[found.run_type != "pretraining"]


def losses(dataset: xr.Dataset) -> list[float]:
    return sorted(dataset.train_loss.to_series().dropna().tolist())


# Parquet as any program writes it

TWICE = [json.dumps(json.dumps(metrics)) for metrics in METRICS]
LISTS = [[{"_step": s, **m} for r, s, m in LOGGED if r == run_id] for run_id in "ab"]
TABLES: dict[str, tuple[pa.Table, pa.Table]] = {
    "string views": (as_type(runs(), lambda c: c.cast(VIEWS)), as_type(log(), lambda c: c.cast(VIEWS))),
    "dictionaries": (
        as_type(runs(), lambda c: c.dictionary_encode()),
        pa.table({name: column.dictionary_encode() for name, column in zip(log().column_names, log(), strict=True)}),
    ),
    "bytes": (as_type(runs(), lambda c: c.cast(BINARY)), as_type(log(), lambda c: c.cast(BINARY))),
    "structs": (runs(config=CONFIGS, summary=SUMMARIES, wandb_metadata=[LAUNCH] * 2), log()),
    "maps of text": (
        runs(config=pa.array([[(k, str(v)) for k, v in config.items()] for config in CONFIGS], MAP)),
        log(),
    ),
    "maps of JSON": (
        runs(
            **{
                name: pa.array([[(k, json.dumps(v)) for k, v in one.items()] for one in column], MAP)
                for name, column in (("config", CONFIGS), ("summary", SUMMARIES), ("wandb_metadata", [LAUNCH] * 2))
            }
        ),
        log(),
    ),
    "JSON twice": (
        as_type(runs(), lambda c: c if c[0].as_py()[0] != "{" else pa.array([json.dumps(t) for t in c.to_pylist()])),
        log(),
    ),
    "keys in one text": (runs(), packed([json.dumps(metrics) for metrics in METRICS])),
    "keys in one text, twice": (runs(), packed(TWICE)),
    "keys in a struct": (runs(), packed(METRICS)),
    "keys in a map": (
        runs(),
        packed(pa.array([list(m.items()) for m in METRICS], pa.map_(pa.string(), pa.float64()))),
    ),
    "a list of rows for a run": (runs(), pa.table({"run_id": ["a", "b"], "metrics": LISTS})),
    "a list as text": (runs(), pa.table({"run_id": ["a", "b"], "metrics": [json.dumps(rows) for rows in LISTS]})),
    "decimals": (
        runs(),
        log(
            train_loss=pa.array([Decimal(str(m["train_loss"])) for m in METRICS], pa.decimal128(10, 4)),
            step=pa.array([Decimal(s) for _, s, _ in LOGGED], pa.decimal128(10, 2)),
        ),
    ),
    "numbers as text": (
        runs(),
        log(step=[str(s) for _, s, _ in LOGGED], **{k: [str(m[k]) for m in METRICS] for k in METRICS[0]}),
    ),
    "times of any zone and unit": (runs(created_at=pa.array([1, 2], pa.timestamp("ns", "Europe/Berlin"))), log()),
    "dates": (runs(created_at=pa.array([1, 2], pa.date32())), log()),
    "columns that are not metrics": (
        runs(),
        log(runtime=pa.array([b"\xff" * 12] * 5, pa.binary(12)), bins=[[1]] * 5, image=[{"x": 1.0}] * 5),
    ),
}


@pytest.mark.parametrize("kind", TABLES)
def test_parquet_of_any_writer(kind: str, tmp_path: Path) -> None:
    folder = write_export(tmp_path, *TABLES[kind])
    dataset = opened(folder)
    assert losses(dataset) == [2.8, 2.9, 3.0, 3.9, 4.0]
    assert sorted(dataset.csqa.to_series().dropna()) == [0.25, 0.5]
    assert dataset.run.values.tolist()[1:] == ["sft_lr=1e-05_full", "sft_lr=2e-05_full"]
    found = coverage(folder)
    assert found.token_source.tolist() == ["logged", "logged"]
    assert (found.contradictions == "").all()
    records = ExportStore(folder).runs(["seed"])
    assert not any(np.isnat(record.created_at) for record in records)
    assert [record.command for record in records] == [("--seed", "8")] * 2


def test_ids_of_other_types_become_text(tmp_path: Path) -> None:
    known = {name: uuid.uuid5(uuid.NAMESPACE_DNS, name) for name in "ab"}

    def ids(names: Iterable[str]) -> pa.Array:
        return pa.ExtensionArray.from_storage(pa.uuid(), pa.array([known[n].bytes for n in names], pa.binary(16)))

    store = ExportStore(write_export(tmp_path / "uuid", runs(run_id=ids("ab")), log(run_id=ids(IDS))))
    assert {record.run_id for record in store.runs()} == {str(one) for one in known.values()}
    assert len(store.history([str(known["a"])], []).step) == 3
    store = ExportStore(
        write_export(tmp_path / "number", runs(run_id=[1, 2]), log(run_id=["ab".index(i) + 1 for i in IDS]))
    )
    assert [record.run_id for record in store.runs()] == ["1", "2"]
    assert len(store.history(["2"], []).step) == 2


def test_columns_without_numbers_are_refused_by_name(tmp_path: Path) -> None:
    store = ExportStore(write_export(tmp_path, rows=log(bins=[[1]] * 5)))
    assert store.metric_names()[0] == ["total_tokens", "train_loss"]
    with pytest.raises(FormatError, match=r"the column 'bins' of .*runs_history.parquet"):
        store.history(["a"], ["bins"])


def test_a_map_with_a_key_twice_is_refused(tmp_path: Path) -> None:
    twice = pa.array([[("parent_run_id", BASE), ("parent_run_id", "other")]] * 2, MAP)
    with pytest.raises(FormatError, match=r"'config' of .*runs_metadata.parquet has a map with a repeated key"):
        ExportStore(write_export(tmp_path, runs(config=twice))).runs()


def test_files_under_other_names_are_known_by_their_columns(tmp_path: Path) -> None:
    write_export(tmp_path / "plain", None, packed([json.dumps(metrics) for metrics in METRICS]))
    named = tmp_path / "named"
    named.mkdir()
    (tmp_path / "plain/runs_metadata.parquet").rename(named / "me_ft_runs.parquet")
    (tmp_path / "plain/runs_history.parquet").rename(named / "me_ft_histories.parquet")
    pq.write_table(pa.table({"x": [1]}), named / "other.parquet")
    (named / "broken.parquet").write_bytes(b"PAR1")
    assert losses(opened(named)) == losses(opened(named / "me_ft_runs.parquet")) == [2.8, 2.9, 3.0, 3.9, 4.0]
    shutil.copy(named / "me_ft_histories.parquet", named / "more.parquet")
    with pytest.raises(SourceError, match=r"2 parquet files of logged rows: .*me_ft_histories.parquet, .*more.parquet"):
        opened(named)


@pytest.mark.parametrize("name", ["runs_metadata.parquet", "runs_history.parquet"])
@pytest.mark.parametrize("checksums", [True, False])
def test_damaged_pages_name_the_file(name: str, checksums: bool, tmp_path: Path) -> None:
    path = write_export(tmp_path) / name
    table = (runs if "metadata" in name else log)(note=pa.array(["?" * 5000] * (2 if "metadata" in name else 5)))
    pq.write_table(table, path, write_page_checksum=checksums, compression="none", use_dictionary=False)
    content = path.read_bytes()
    # Without checksums, damage shows where it hits more than the text of a value.
    at = content.index(b"?" * 100) + 50 if checksums else 4
    path.write_bytes(content[:at] + bytes(40) + content[at + 40 :])
    with pytest.raises(FormatError, match=rf"{name} is damaged or incomplete.*Export it again"):
        ExportStore(tmp_path).runs()


@pytest.mark.parametrize("name", ["runs_metadata.parquet", "runs_history.parquet"])
@pytest.mark.parametrize("what", ["link to nothing", "link to itself", "folder", "pipe", "empty"])
def test_what_is_no_file_is_refused_by_name(name: str, what: str, tmp_path: Path) -> None:
    path = write_export(tmp_path) / name
    path.unlink()
    if what.startswith("link"):
        path.symlink_to(path if what.endswith("itself") else tmp_path / "nothing")
    elif what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.touch()
    with pytest.raises(DdeError, match=name):
        opened(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_rights_is_refused_by_name(tmp_path: Path) -> None:
    (write_export(tmp_path) / "runs_history.parquet").chmod(0)
    with pytest.raises(SourceError, match=r"runs_history.parquet can't be read"):
        opened(tmp_path)


# JSON

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "parts",
    [
        {"config": json.dumps(json.dumps(CONFIGS[0]))},
        {"summary": json.dumps({**SUMMARIES[0], "oe_eval_metrics/csqa": json.dumps({"primary_score": 0.5})})},
        {"wandb_metadata": json.dumps(json.dumps(LAUNCH))},
        {"config": {key: {"value": value, "desc": None} for key, value in CONFIGS[0].items()}},
        {"summary": {"oe_eval_metrics/csqa": {"primary_score": {"max": 0.6, "last": 0.5}}, "_step": {"value": 3}}},
        {"summary": {"oe_eval_metrics/csqa": {"primary_score": {"min": 0.5, "max": 0.5}}}},
    ],
)
def test_json_of_other_shapes(parts: dict[str, Any], tmp_path: Path) -> None:
    folder = write_lines(tmp_path, run(**parts))
    dataset = opened(folder)
    assert dataset.csqa.to_series().dropna().tolist() == [0.5]
    assert dataset.learning_rate.values.tolist()[1:] == [1e-05]
    assert losses(dataset) == [2.8, 2.9, 3.0]
    assert coverage(folder).contradictions.tolist() == [""]


@pytest.mark.parametrize(
    "rows",
    [
        [ROWS[:3]],
        [{"run_id": "a", "metrics": [{"_step": r["step"], **r["metrics"]} for r in ROWS[:3]]}],
        [{**r, "metrics": json.dumps(json.dumps(r["metrics"]))} for r in ROWS[:3]],
        [{"run_id": "a", "_step": r["step"], **r["metrics"]} for r in ROWS[:3]],
        [{"run_id": "a", "step": None, "_step": r["step"], "metrics": r["metrics"]} for r in ROWS[:3]],
    ],
    ids=["rows in a line", "metrics are rows", "text of text", "flat", "step under the name of W&B"],
)
def test_rows_of_other_shapes(rows: list[Any], tmp_path: Path) -> None:
    folder = write_lines(tmp_path, run(), rows=rows)
    assert losses(opened(folder)) == [2.8, 2.9, 3.0]
    before = JsonlStore(folder).runs()[0].version
    changed = json.loads(json.dumps(rows).replace("2.9", "2.5"))
    assert JsonlStore(write_lines(tmp_path, run(), rows=changed)).runs()[0].version != before


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"config": DEEP}, "the config is not JSON"),
        ({"summary": DEEP}, "the summary is not JSON"),
        ({"wandb_metadata": DEEP}, "the launch metadata is not JSON"),
        ({"summary": {"oe_eval_metrics/csqa": DEEP}}, "oe_eval_metrics/csqa is not JSON"),
        ({"config": "[]"}, "the config is not a JSON object"),
        ({"created_at": "0001-01-01T00:00:00+14:00"}, r"created_at 0001-01-01T00:00:00\+14:00 is not a date"),
        ({"created_at": 1e300}, "created_at 1e\\+300 is not a date"),
        (
            {"config": {**CONFIGS[0], "finetune_unique_sequences": 1e300}},
            "finetune_unique_sequences 1e\\+300 is beyond",
        ),
        ({"config": {**CONFIGS[0], "dataset_mixer_list": json.loads("[" * 90 + "]" * 90)}}, "more than 20 levels"),
        ({"state": "fin\udfff"}, "state has characters or bytes that are not text"),
        ({"run_name": "café".encode("latin-1")}, "run_name has characters or bytes that are not text"),
        ({"summary": {"oe_eval_metrics/csqa": {"acc_raw": 0.5}, "oe_eval_metrics/csqa/acc_raw": 0.4}}, "disagree on"),
        ({"summary": {"oe_eval_metrics/csqa/acc_raw": {"min": 0.4}}}, "aggregated without the last value"),
        ({"summary": {"oe_eval_metrics/csqa/acc_raw": {"x": 0.4}}}, "holds no single number"),
    ],
)
def test_what_can_not_be_used_of_a_run_is_said(parts: dict[str, Any], said: str, tmp_path: Path) -> None:
    name = parts.get("run_name")
    line: Any = run(**parts) if not isinstance(name, bytes) else None
    if line is None:
        line = json.dumps(run(run_name="?")).encode().replace(b'"?"', b'"' + name + b'"')
    folder = write_lines(tmp_path, line, run("b", config=CONFIGS[1], summary=SUMMARIES[1]))
    found = coverage(folder)
    assert found.contradictions.str.contains(said).tolist() == [True, False]
    # One bad run never blocks the store.
    assert found.status["b"] == "used"
    assert {3.9, 4.0} <= set(losses(opened(folder)))


@pytest.mark.parametrize("line", ["config", "metrics"])
def test_deep_json_within_a_line(line: str, tmp_path: Path) -> None:
    deep = b"[" * 5000 + b"]" * 5000
    lines = [json.dumps(run(config={**CONFIGS[0], "x": "?"})).encode(), run("b", config=CONFIGS[1])]
    rows = [json.dumps(row(4, train_loss=2.5, x="?")).encode(), *ROWS]
    if line == "config":
        lines[0] = lines[0].replace(b'"?"', deep)
    else:
        rows[0] = rows[0].replace(b'"?"', deep)
    found = coverage(write_lines(tmp_path, *lines, rows=rows))
    said = {"config": "more than 100 levels deep", "metrics": "1 logged row with metrics that can't be read"}[line]
    assert said in found.contradictions["a"]
    assert found.status.tolist() == ["used", "used"]
    assert losses(opened(tmp_path)) == [2.5, 2.8, 2.9, 3.0, 3.9, 4.0]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_run_whose_id_is_no_text_is_set_aside(form: str, tmp_path: Path) -> None:
    if form == "jsonl":
        folder = write_lines(tmp_path, run("a"), run("b\udcff", config=CONFIGS[1]))
    else:
        folder = write_export(tmp_path, runs(run_id=BROKEN))
    found = coverage(folder)
    assert found.status.to_dict() == {"a": "used", "b\\udcff": "its run id has characters or bytes that are not text"}
    dataset = opened(folder)
    assert losses(dataset) == [2.8, 2.9, 3.0]
    assert "its run id has characters or bytes that are not text: 1" in dataset.attrs["left_out"]


def test_names_that_no_file_takes_are_written_out(tmp_path: Path) -> None:
    odd = "x\ud800\0"
    parts = {"config": {**CONFIGS[0], "reduce_loss": odd}, "summary": {"oe_eval_metrics/csqa": {odd: 0.5}}}
    rows = [row(1, **{"train_loss": 3.0, "total_tokens": 5, odd: 4.0})]
    folder = write_lines(tmp_path / "export", run(run_name=odd, state=odd, **parts), rows=rows)
    dataset = dde.open_lineages(None, folder, state="all", metrics="all", grid="union", cache_dir=tmp_path / "cache")
    dataset.load().to_zarr(tmp_path / "zarr", consolidated=False)
    dataset.to_netcdf(tmp_path / "data.nc", engine="h5netcdf")
    assert {"x\\ud800\\x00", "csqa_x\\ud800\\x00"} <= {str(v.attrs["source_name"]) for v in dataset.values()}
    assert dataset.state.values[0, 1] == "x\\ud800\\x00"


def test_rows_of_runs_without_an_id_are_counted(tmp_path: Path) -> None:
    store = ExportStore(write_export(tmp_path, runs(run_id=["a", None])))
    with pytest.warns(ConflictWarning, match=r"has 1 rows without a run_id"):
        assert [record.run_id for record in store.runs()] == ["a"]


def test_marks_and_ends_of_lines_of_windows(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbf" + json.dumps(run()).encode() + b"\r\n\r\n" + json.dumps(run("b")).encode() + b"\r"
    folder = write_lines(tmp_path, text)
    assert [record.run_id for record in JsonlStore(folder).runs()] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(b"{}", mtime=0), "is compressed by gzip"),
        (json.dumps(run()).encode("utf-16"), "is UTF-16 text"),
        (json.dumps(run()).encode()[:80], "line 1, is not a JSON object: .*truncated"),
    ],
)
def test_files_of_another_form_are_refused_by_name(content: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=f"runs.jsonl.*{said}|runs.jsonl {said}"):
        opened(write_lines(tmp_path, content))


def test_a_compressed_export_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl.gz").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(SourceError, match=r"runs.jsonl.gz is compressed, which is not supported: decompress it"):
        opened(tmp_path)


# Steps and counts

NO_STEPS = [None, -1, 1.5, "x", True, 2**63, 2**63 - 1, 1e300, float("nan"), float("inf")]


@pytest.mark.parametrize("step", NO_STEPS, ids=str)
def test_rows_without_a_step_are_counted(step: Any, tmp_path: Path) -> None:
    folder = write_lines(tmp_path, run(), rows=[*ROWS, row(step, train_loss=9.0)])
    dataset, found = opened(folder), coverage(folder)
    # The row's neighbours stay.
    assert losses(dataset) == [2.8, 2.9, 3.0]
    assert dataset.attrs["left_out"] == "logged rows without a step that can be used: 1"
    assert found.contradictions["a"] == "logged rows without a step that can be used: 1"
    assert (found.status["a"], found.token_source["a"]) == ("used", "logged")


@pytest.mark.parametrize(
    "steps",
    [
        pa.array([1.0, 2.5, None, -1.0, np.nan]),
        pa.array([1, -2, None, 2**63 - 1, 2**60]),
        pa.array([1, 2**63, 2**64 - 1, None, 2**53], pa.uint64()),
        pa.array(["1", "2.5", "", "-1", "9" * 5000]),
    ],
    ids=["float", "int64", "uint64", "text"],
)
def test_rows_without_a_step_of_parquet(steps: pa.Array, tmp_path: Path) -> None:
    folder = write_export(tmp_path, rows=log(step=steps, run_id=["a"] * 5))
    assert losses(opened(folder)) == [3.0]
    assert coverage(folder).contradictions.tolist() == ["logged rows without a step that can be used: 4", ""]


def test_a_run_without_any_step_says_so(tmp_path: Path) -> None:
    bare = run(summary={})
    folder = write_lines(tmp_path, bare, run("b", config=CONFIGS[1]), rows=[row(None, train_loss=3.0), *ROWS[3:]])
    assert coverage(folder).status["a"] == "no data: none of its 1 logged rows has a step that can be used"
    assert opened(folder).attrs["left_out"] == "no data: 1"


def test_repeated_and_rewound_steps_are_counted(tmp_path: Path) -> None:
    again = [row(2, train_loss=2.7), row(3, train_loss=2.6), row(4, train_loss=2.5)]
    folder = write_lines(tmp_path, run(), rows=[*ROWS[:3], *again])
    with pytest.warns(ConflictWarning, match=r"2 rows of train_loss disagree"):
        dataset = opened(folder)
    assert losses(dataset) == [2.5, 2.8, 2.9, 3.0]
    assert dataset.attrs["left_out"] == "logged rows at a step that was logged before: 2"
    assert coverage(folder).contradictions["a"] == "logged rows at a step that was logged before: 2"


@pytest.mark.parametrize("count", [2**63, 1e300, float("inf"), -5])
def test_counts_that_are_none_have_no_place(count: float, tmp_path: Path) -> None:
    folder = write_lines(tmp_path, run(), rows=[*ROWS[:3], row(4, train_loss=2.5, total_tokens=count)])
    found, dataset = coverage(folder), opened(folder)
    # The row lies where its step puts it.
    assert found.end_tokens["a"] - found.branch_tokens["a"] == 400
    assert losses(dataset) == [2.5, 2.8, 2.9, 3.0]
    assert found.contradictions["a"] != ""


# Names


def test_keys_that_become_one_name_are_kept_apart(tmp_path: Path) -> None:
    logged = {"train_loss": 3.0, "train/loss": 4.0, "a/b": 5.0, "a.b": 6.0, "arc_easy": 7.0, "total_tokens": 100}
    folder = write_lines(tmp_path, run(), rows=[row(1, **logged)])

    def values(metrics: Any) -> dict[str, float]:
        dataset = dde.open_lineages(None, folder, state="all", metrics=metrics, grid="union", cache_dir=None).load()
        return {str(dataset[n].source_name): float(dataset[n].max()) for n in dataset.data_vars if dataset[n].any()}

    assert values(["train_loss"]) == {"train_loss": 3.0}
    assert values(["train/loss"]) == {"train/loss": 4.0}
    assert values(["a/b", "a.b"]) == {"a/b": 5.0, "a.b": 6.0}
    every = values("all")
    assert {name: every[name] for name in logged} == logged
    with pytest.raises(UnknownNameError, match=r"'a_b' may be any of 2 keys of training logs, 'a.b', 'a/b'"):
        values(["a_b"])


# Hyperparameters


def test_numbers_off_by_one_place_are_one(tmp_path: Path) -> None:
    noisy = [5e-06, 4.9999999999999996e-06, 5.0000000000000004e-06]
    lines = [
        run(name, config={"parent_run_id": BASE, "learning_rate": rate, "weight_decay": 0.1 + 0.2 * (rate > 5e-06)})
        for name, rate in zip("abc", noisy, strict=True)
    ]
    folder = write_lines(tmp_path, *lines)
    dataset = dde.open_lineages(None, folder, state="all", metrics=["csqa"], cache_dir=None)
    assert set(dataset.learning_rate.values[1:]) == {5e-06}
    only = dde.open_lineages(None, folder, state="all", metrics=["csqa"], cache_dir=None, learning_rate=5e-06)
    assert only.sizes["run"] == dataset.sizes["run"]
    assert "run" not in dataset.dde.sel(run_type="supervised_ft").dde.sweep("learning_rate").dims


def test_long_numbers_stay_as_they_are(tmp_path: Path) -> None:
    rate = 3.4871236412345678e-05
    lines = [run(n, config={"parent_run_id": BASE, "learning_rate": r}) for n, r in (("a", rate), ("b", 1 / 3))]
    dataset = opened(write_lines(tmp_path, *lines))
    assert set(dataset.learning_rate.values[1:]) == {rate, 1 / 3}


# Exports that change

SCRIPT = """
import sys, dde
data = dde.open_lineages(None, sys.argv[1], state="all", metrics=["train_loss"], grid="union", cache_dir=sys.argv[2])
print(float(data.train_loss.max()))
"""


def rewrite(path: Path, of: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(of(pq.read_table(path)), path)


@pytest.mark.parametrize("cache", [True, False])
def test_a_change_of_an_open_export_is_refused_and_not_kept(cache: bool, tmp_path: Path) -> None:
    folder = write_export(tmp_path / "export")
    history, kept = folder / "runs_history.parquet", tmp_path / "kept.parquet"
    shutil.copy2(history, kept)
    place = tmp_path / "cache" if cache else None
    dataset = dde.open_lineages(None, folder, state="all", metrics=["train_loss"], grid="union", cache_dir=place)
    rewrite(history, lambda table: table.set_column(2, "train_loss", pa.array([30.0] * 5)))
    with pytest.raises(SourceError, match=r"changed since it was opened: 2 runs, such as 'a'.*Open it again"):
        dataset.load()
    shutil.copy2(kept, history)
    # Set back, it is what was opened.
    assert float(dataset.train_loss.max()) == 4.0
    if cache:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", SCRIPT, folder, str(place)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert float(done.stdout) == 4.0


def test_an_export_that_grew_by_other_runs_is_read_on(tmp_path: Path) -> None:
    folder = write_lines(tmp_path, run(), rows=ROWS)
    dataset = dde.open_lineages(None, folder, state="all", metrics=["train_loss"], grid="union", cache_dir=None)
    with open(folder / "history.jsonl", "a") as file:
        file.write(json.dumps(row(1, "other", train_loss=9.0)) + "\n")
    assert losses(dataset.load()) == [2.8, 2.9, 3.0]
    with open(folder / "history.jsonl", "a") as file:
        file.write(json.dumps(row(4, train_loss=2.7)) + "\n")
    fresh = dde.open_lineages(None, folder, state="all", metrics=["train_loss"], grid="union", cache_dir=None)
    assert losses(fresh.load()) == [2.7, 2.8, 2.9, 3.0]


def test_other_content_of_the_same_size_and_time_is_noticed(tmp_path: Path) -> None:
    folder = write_lines(tmp_path, run(), rows=ROWS)
    path = folder / "history.jsonl"
    store, before = JsonlStore(folder), os.stat(path)
    versions = [record.version for record in store.runs()]
    fingerprint = store.fingerprint
    path.write_text(path.read_text().replace("2.9", "2.7"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (os.stat(path).st_size, os.stat(path).st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert store.fingerprint != fingerprint
    assert [record.version for record in store.runs()] != versions
    assert store.history(["a"], ["train_loss"]).values["train_loss"].tolist() == [3.0, 2.7, 2.8]


def test_a_change_during_a_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_export(tmp_path)
    store = ExportStore(folder)
    store.runs()
    original = pq.ParquetFile.read_row_group

    def changing(self: pq.ParquetFile, *args: Any, **options: Any) -> pa.Table:
        table = original(self, *args, **options)
        with open(folder / "runs_metadata.parquet", "ab") as file:
            file.write(b"x")
        return table

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", changing)
    with pytest.raises(SourceError, match=r"runs_metadata.parquet was changed since it was opened"):
        store.history(["a"], ["train_loss"])
