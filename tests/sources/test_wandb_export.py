from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store_data import (
    EVALUATION_NAMES,
    EXPECTED,
    EXPECTED_EVALUATIONS,
    EXPECTED_RUN,
    EXPECTED_STEP,
    KEYS,
    ODD_KEY,
    ROWS,
    write_jsonl,
    write_parquet,
)

from dde.errors import ConflictWarning, FormatError, SourceError
from dde.sources import json_text
from dde.sources import values as value_readers
from dde.sources.values import as_float
from dde.sources.wandb import parquet_tables as export_tables
from dde.sources.wandb import summaries as summary_table
from dde.sources.wandb.export_files import ExportFile
from dde.sources.wandb.jsonl_export import JsonlStore
from dde.sources.wandb.logs import as_float_array
from dde.sources.wandb.parquet_export import ExportStore
from dde.sources.wandb.records import utc_microseconds
from dde.sources.wandb.store import WandBStore

_IDS = ["b_sft", "a_dpo", "absent"]


@pytest.fixture(params=["0.1", "raw_data", "flat"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ExportStore:
    return ExportStore(write_parquet(tmp_path, layout=request.param))


def test_runs(store: ExportStore) -> None:
    flat = store.is_flat()
    runs = store.runs(["custom", ODD_KEY, "pretrain_eval_3"])
    assert [run.run_id for run in runs] == ["a_dpo", "b_sft", "c_no_log"]
    assert [run.evaluated for run in runs] == [False, True, True]
    assert np.isnat(runs[0].created_at)
    assert runs[1].created_at == np.datetime64("2025-09-02T13:45:51.123456", "us")
    config = dict(runs[1].config)
    assert (config["model_size"], config[ODD_KEY], config["pretrain_eval_3"]) == ("530100000", "odd", 3 / 7)
    assert ("learning_rate" in config) is not flat
    assert runs[1].summary["total_tokens"] == "894174859"
    assert runs[1].command == (() if flat else ("--learning_rate", "5e-05", "7"))
    assert runs[1].gpu_count == (None if flat else 2)
    assert runs[1].tags == (() if flat else ("150M", "finetune"))
    assert [run.run_id for run in WandBStore(store).runs()] == [run.run_id for run in runs]


def test_history(store: ExportStore) -> None:
    history = store.history(_IDS, [*KEYS, "runtime"])
    assert history.run.tolist() == EXPECTED_RUN
    assert history.step.tolist() == EXPECTED_STEP
    assert (history.run.dtype, history.step.dtype) == (np.int32, np.int64)
    for key, values in EXPECTED.items():
        np.testing.assert_array_equal(history.values[key], values, err_msg=key)
    # Where a row stands is not a metric.
    assert np.isnan(history.values["runtime"]).all()
    assert store.history(["a_dpo", "b_sft"], []).run.tolist() == [0, 0, 1, 1, 1, 1]
    assert len(store.history([], ["train_loss"]).run) == len(store.history(["absent"], ["train_loss"]).run) == 0


def test_evaluations(store: ExportStore) -> None:
    values = store.evaluations(["a_dpo", "b_sft", "c_no_log"], list(EXPECTED_EVALUATIONS))
    for name, expected in EXPECTED_EVALUATIONS.items():
        np.testing.assert_array_equal(values[name], expected, err_msg=str(name))
    assert np.isnan(store.evaluations(["absent"], [("csqa", "acc_raw")])["csqa", "acc_raw"]).all()


def test_metric_names(store: ExportStore) -> None:
    logs, evaluations = store.metric_names()
    assert logs == sorted({key for _, _, metrics in ROWS for key in metrics})
    # Where each key is a column, a null is no key: which run had it as null can't be told.
    assert evaluations in (EVALUATION_NAMES, [name for name in EVALUATION_NAMES if name != ("csqa", "acc_uncond")])


def test_no_history_file(tmp_path: Path) -> None:
    store = ExportStore(write_parquet(tmp_path, history=False))
    assert len(store.runs()) == 3
    assert len(store.history(_IDS, ["train_loss"]).run) == 0
    assert store.metric_names() == ([], EVALUATION_NAMES)


def test_columns_are_read_as_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ExportStore(write_parquet(tmp_path))
    read: list[list[str]] = []
    groups: list[int] = []
    original = pq.ParquetFile.read_row_group

    def watched(self: Any, group: int, columns: Any = None, **options: Any) -> Any:
        groups.append(group)
        read.append(columns)
        return original(self, group, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", watched)
    store.history(["b_sft"], ["train_loss", "absent"])
    assert read
    assert all(columns == ["run_id", "step", "train_loss"] for columns in read)
    # The rows of unknown runs are nowhere near, by the statistics of each part.
    groups.clear()
    store.history(["zzz"], ["train_loss"])
    assert groups == []


def test_each_column_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_parquet(tmp_path)
    decoded: list[int] = []
    original = json_text.read_json
    monkeypatch.setattr(value_readers, "read_json", lambda text: (decoded.append(len(text)), original(text))[1])
    for _ in range(3):
        store = ExportStore(folder)
        store.runs()
        store.evaluations(_IDS, [("csqa", "acc_raw")])
        store.metric_names()
    # Three runs, each with config, summary and metadata; the attributes are never decoded whole.
    assert len(decoded) == 9
    assert max(decoded) < 50_000


def test_versions_follow_the_content(tmp_path: Path) -> None:
    write_parquet(tmp_path)
    store = ExportStore(tmp_path)

    def versions() -> dict[str, str]:
        return {run.run_id: run.version for run in store.runs()}

    def rewrite(name: str, change: Any) -> None:
        path = tmp_path / name
        frame = pq.read_table(path).to_pandas()
        change(frame)
        frame.to_parquet(path)
        # Coarse clocks give two writes in one moment the same time.
        os.utime(path, ns=(1, os.stat(path).st_mtime_ns + 1_000_000))

    before = versions()
    assert ExportStore(tmp_path).runs()[0].version == before["a_dpo"]
    # Written anew by another program, with other sizes and types, the content is the same.
    rewrite("runs_history.parquet", lambda frame: None)
    assert versions() == before
    changes = [
        ("b_sft", "runs_history.parquet", lambda frame: frame.__setitem__("learning_rate", frame["learning_rate"] * 2)),
        (
            "a_dpo",
            "runs_metadata.parquet",
            lambda frame: frame.__setitem__("state", frame["state"].replace("running", "x")),
        ),
    ]
    for run_id, name, change in changes:
        rewrite(name, change)
        after = versions()
        assert {key for key in after if after[key] != before[key]} == {run_id}
        before = after


def test_digests_of_logs_are_of_each_run_alone(tmp_path: Path) -> None:
    def digests(rows: list[tuple[str | None, int | None, str | None, list[int] | None]], group: int) -> dict[str, str]:
        columns = dict(zip(("run_id", "step", "text", "list"), zip(*rows, strict=True), strict=True))
        pq.write_table(pa.table({k: list(v) for k, v in columns.items()}), tmp_path / "x", row_group_size=group)
        file = ExportFile(str(tmp_path / "x"), repr((rows, group)), fsspec.filesystem("file"))
        return dict(export_tables.history_digests(file).of_run)

    rows = [("b", 1, "x", [1]), ("a", 2, None, None), (None, 9, "y", [2]), ("b", None, "y", []), ("a", 7, "x", [3])]
    found = digests(rows, 2)
    assert {run_id: version.split(".")[:2] for run_id, version in found.items()} == {"b": ["2", "1"], "a": ["2", "7"]}
    assert digests(rows[::-1], 5) == found == digests([row for row in rows if row[0]], 1)
    for changed in (("a", 2, "", None), ("a", 3, None, None), ("a", 2, None, [])):
        others = digests([changed if row == rows[1] else row for row in rows], 2)
        assert others["b"] == found["b"]
        assert others["a"] != found["a"]


def test_subfolder_url_and_file(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "exports" / "one")
    (tmp_path / "exports" / "notes.txt").write_text("not an export")
    for given in (folder, str(tmp_path / "exports"), f"file://{folder}", folder / "runs_metadata.parquet"):
        assert len(WandBStore(given).runs()) == 3
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe_file(f"/exports/one/{path.name}", path.read_bytes())
    store = ExportStore("memory://exports")
    assert len(store.runs()) == 3
    assert len(store.history(_IDS, ["train_loss"]).run) == 6
    memory.rm("/exports", recursive=True)


def test_several_exports(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_parquet(tmp_path / name)
    with pytest.raises(SourceError, match=r"has 2 exports: .*one/runs_metadata.parquet, .*two/runs_metadata"):
        ExportStore(tmp_path).runs()
    with pytest.raises(SourceError, match=r"has 2 exports"):
        WandBStore(tmp_path)
    # A folder that is itself an export is meant as such.
    write_parquet(tmp_path)
    assert len(WandBStore(tmp_path).runs()) == 3
    write_jsonl(tmp_path)
    with pytest.raises(SourceError, match=r"has 2 exports: .*runs.jsonl, .*runs_metadata.parquet"):
        WandBStore(tmp_path)


def test_no_export(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"has neither runs_metadata.parquet nor runs.jsonl, but nothing"):
        WandBStore(tmp_path)
    (tmp_path / "eval.parquet").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"but eval.parquet, so there are no .* postgresql://"):
        WandBStore(tmp_path)
    with pytest.raises(SourceError, match="does not exist"):
        WandBStore(tmp_path / "absent")
    with pytest.raises(SourceError, match="can't be read"):
        WandBStore("nosuchprotocol://x:hush@h/y")
    with pytest.raises(SourceError, match="object of type int is not a store"):
        WandBStore(3)  # type: ignore[arg-type]


def test_not_parquet(tmp_path: Path) -> None:
    (tmp_path / "runs_metadata.parquet").write_bytes(b"no parquet")
    with pytest.raises(FormatError, match=r"runs_metadata.parquet is not a parquet file.*Export it again"):
        ExportStore(tmp_path).runs()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "runs_metadata.parquet")
    with pytest.raises(FormatError, match=r"no column run_id, but a,"):
        ExportStore(tmp_path).runs()


def test_rows_that_disagree(tmp_path: Path) -> None:
    write_parquet(tmp_path)
    path = tmp_path / "runs_metadata.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table]), path)
    assert len(ExportStore(tmp_path).runs()) == 3
    other = table.set_column(table.column_names.index("state"), "state", pa.array(["other"] * 3, pa.large_string()))
    pq.write_table(pa.concat_tables([table, other]), path)
    with pytest.warns(ConflictWarning, match="disagree for 3 runs"):
        runs = ExportStore(tmp_path).runs()
    assert [run.state for run in runs] == ["running", "finished", "failed"]


def test_pickles_without_what_it_read(tmp_path: Path) -> None:
    store = WandBStore(write_parquet(tmp_path))
    store.runs()
    state = pickle.dumps(store)
    assert len(state) < 1000
    code = "import pickle,sys; print(len(pickle.loads(bytes.fromhex(sys.argv[1])).runs()))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", code, state.hex()], capture_output=True, text=True, check=True, env=environment
    )
    assert run.stdout.strip() == "3"


def test_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "export")
    monkeypatch.chdir(tmp_path)
    store = WandBStore("export")
    assert store.description == "export"
    assert repr(store) == "WandBStore('export')"
    monkeypatch.chdir("/")
    assert len(pickle.loads(pickle.dumps(store)).runs()) == 3


def test_odd_folder_names(tmp_path: Path) -> None:
    folder = tmp_path / "a [b] *c?"
    write_parquet(folder / "one")
    assert len(WandBStore(folder).runs()) == 3


def test_real_export(real_data: Path) -> None:
    store = WandBStore(real_data)
    runs = store.runs()
    assert [run.state for run in runs] == ["crashed", "finished", "finished", "finished"]
    assert [run.evaluated for run in runs] == [False, True, False, True]
    assert runs[3].tags == ("150M", "dclm-dolma", "dolma-qc", "finetune")
    ids = [run.run_id for run in runs]
    history = store.history(ids, ["total_tokens", "train_loss", "learning_rate"])
    table = pq.read_table(real_data / "runs_history.parquet").to_pandas()
    table["run"] = [ids.index(run_id) for run_id in table["run_id"]]
    table = table.sort_values(["run", "step"], kind="stable")
    assert len(history.run) == 2393
    np.testing.assert_array_equal(history.run, table["run"])
    np.testing.assert_array_equal(history.step, table["step"])
    for key, values in history.values.items():
        np.testing.assert_array_equal(values, table[key])
    names = [("csqa", "primary_metric"), ("hellaswag", "primary_metric"), ("arc_challenge", "primary_metric")]
    values = store.evaluations(ids, [*names, ("arc_challenge", "acc_uncond")])
    assert values["csqa", "primary_metric"][3] == 0.4864864865
    assert values["hellaswag", "primary_metric"][3] == 0.3566022705
    assert values["arc_challenge", "primary_metric"][1] == values["arc_challenge", "acc_uncond"][1] == 0.2192832765
    assert np.isnan(values["csqa", "primary_metric"][[0, 2]]).all()


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["1", "NaN", "Infinity", None, " 5 ", "1_0", "x", "", "1e400", "-1e-400", "0x10", "9" * 400]),
        pa.array(["1", None, "-Infinity"], pa.large_string()),
        pa.array(["a", "2", None, "2"]).dictionary_encode(),
        pa.array([None, None], pa.string()).dictionary_encode(),
        pa.array([1, None, 2**62]),
        pa.array([1.5, None, float("nan")], pa.float32()),
        pa.array([True, None, False]),
        pa.array([None, None]),
        pa.array([[1], None]),
        pa.array([], pa.string()),
    ],
)
def test_numbers_as_values_reads_them(column: pa.Array) -> None:
    numbers = as_float_array(column)
    assert numbers.dtype == np.float64
    np.testing.assert_array_equal(numbers, [as_float(value) for value in column.to_pylist()])
    np.testing.assert_array_equal(as_float_array(pa.chunked_array([column, column])), np.tile(numbers, 2))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2025-08-19T05:36:01Z", "2025-08-19T05:36:01"),
        ("2025-08-19 07:36:01+02:00", "2025-08-19T05:36:01"),
        ("2025-08-19T05:36:01.5", "2025-08-19T05:36:01.5"),
        (1755581761.25, "2025-08-19T05:36:01.25"),
        ("1755581761.25", "2025-08-19T05:36:01.25"),
        (np.datetime64("2025-08-19", "D"), "2025-08-19"),
        (None, "NaT"),
        ("infinity", "NaT"),
        ("soon", "NaT"),
        (float("nan"), "NaT"),
        (True, "NaT"),
    ],
)
def test_times(value: object, expected: str) -> None:
    time = utc_microseconds(value)
    assert time.dtype == np.dtype("datetime64[us]")
    np.testing.assert_array_equal(time, np.datetime64(expected, "us"))


@pytest.mark.parametrize(
    "text", ['{"a": {"tags": 1}, "tags": [2], "z": bad}', ' { "tags" : [2] }', '"{\\"tags\\": [2]}"']
)
def test_one_key_of_json_text(text: str) -> None:
    assert json_text.top_level_value(text, "tags") == [2]


@pytest.mark.parametrize("text", ["", "{}", "[1]", "null", '{"a": 1}', '{"a": ', "{1: 2}", '{"a" 1}'])
def test_no_such_key_of_json_text(text: str) -> None:
    assert json_text.top_level_value(text, "tags") is None


def test_numbers_keep_their_digits_on_the_way_to_jsonb() -> None:
    text = r'{"a": 1.10, "b": [NaN, -Infinity], "c": "NaN -Infinity", "d": "x\u0000 \\u0000 \ud83d\ude00 \ud83d!"}'
    fitting, replaced = json_text.as_jsonb_text(text)
    assert fitting == (
        r'{"a": 1.10, "b": ["NaN", "-Infinity"], "c": "NaN -Infinity", "d": "x\ufffd \\u0000 \ud83d\ude00 \ufffd!"}'
    )
    assert replaced == 2
    assert json_text.as_jsonb_text('{"a": 1e-05}') == ('{"a": 1e-05}', 0)


def test_no_evaluations_at_all() -> None:
    table = summary_table.SummaryTable.from_summaries([])
    assert np.isnan(table.select(["x"], [("csqa", "acc_raw")])["csqa", "acc_raw"]).all()


def test_the_two_exports_agree(tmp_path: Path) -> None:
    one, other = ExportStore(write_parquet(tmp_path / "p")), JsonlStore(write_jsonl(tmp_path / "j"))
    assert one.metric_names() == other.metric_names()
    shutil.rmtree(tmp_path / "p")
    with pytest.raises(SourceError, match="does not exist"):
        one.runs()
