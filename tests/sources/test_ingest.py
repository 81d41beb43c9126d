from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store_data import (
    EVALUATION_NAMES,
    EXPECTED,
    EXPECTED_EVALUATIONS,
    EXPECTED_STEP,
    KEYS,
    RUNS,
    fill_tables,
    write_jsonl,
    write_parquet,
)

from dde.errors import ConflictWarning, SourceError
from dde.sources import ingest as module
from dde.sources.ingest import ingest
from dde.sources.postgres.ingest_queries import LOCK_RUNS
from dde.sources.postgres.store import PostgresStore
from postgres_server import PostgresServer

_IDS = ["b_sft", "a_dpo", "c_no_log"]


def _contents(dsn: str) -> tuple[list[Any], list[Any]]:
    """All rows with the transactions that wrote them."""
    with psycopg.connect(dsn) as connection:
        runs = connection.execute("SELECT xmin::text, r::text FROM wandb_runs r ORDER BY run_id").fetchall()
        logs = connection.execute("SELECT xmin::text, h::text FROM wandb_history h ORDER BY id").fetchall()
    return runs, logs


@pytest.fixture(params=["parquet", "jsonl", "plain jsonl"])
def export(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "parquet":
        return write_parquet(tmp_path)
    return write_jsonl(tmp_path, plain="plain" in request.param)


@pytest.mark.parametrize("layout", ["0.1", "old"])
def test_what_is_loaded_is_what_was_exported(export: Path, database: str, layout: Any) -> None:
    report = ingest(export, database, layout=layout)
    assert sorted(report.added) == ["a_dpo", "b_sft", "c_no_log"]
    assert (report.layout, report.replaced, report.unchanged, report.rows_written) == (layout, [], [], 7)
    store = PostgresStore(database)
    history = store.history(_IDS[:2], KEYS)
    assert history.step.tolist() == EXPECTED_STEP
    for key, values in EXPECTED.items():
        np.testing.assert_array_equal(history.values[key], values, err_msg=key)
    values = store.evaluations(["a_dpo", "b_sft", "c_no_log"], list(EXPECTED_EVALUATIONS))
    for name, expected in EXPECTED_EVALUATIONS.items():
        np.testing.assert_array_equal(values[name], expected, err_msg=str(name))
    assert store.metric_names()[1] == EVALUATION_NAMES
    assert [run.evaluated for run in store.runs()] == [False, True, True]


def test_the_tables_are_those_of_dr_wandb(database: str, postgres: PostgresServer, tmp_path: Path) -> None:
    def columns(dsn: str) -> list[Any]:
        with psycopg.connect(dsn) as connection:
            return connection.execute(
                """SELECT table_name, column_name, data_type FROM information_schema.columns
                WHERE table_schema = 'public' ORDER BY table_name, ordinal_position"""
            ).fetchall()

    for layout in ("0.1", "old"):
        ours, theirs = postgres.new_database(), postgres.new_database()
        ingest(write_parquet(tmp_path), ours, layout=layout)
        fill_tables(theirs, layout)
        assert columns(ours) == columns(theirs)
        with psycopg.connect(ours) as connection:
            indexes = connection.execute("SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'").fetchone()
        assert indexes == (2,)  # the primary keys: none on the run ids of the log


def test_whole_objects_arrive(database: str, tmp_path: Path) -> None:
    ingest(write_parquet(tmp_path), database)
    with psycopg.connect(database) as connection:
        for run in RUNS:
            row = connection.execute(
                """SELECT config, summary, wandb_metadata, system_metrics, system_attrs, sweep_info
                FROM wandb_runs WHERE run_id = %s""",
                (run["run_id"],),
            ).fetchone()
            names = ("config", "summary", "wandb_metadata", "system_metrics", "system_attrs", "sweep_info")
            assert row == tuple(run[name] for name in names)
        kept = connection.execute("SELECT metrics FROM wandb_history WHERE run_id = 'b_sft' ORDER BY id").fetchall()
    # Null in the wide table is a key that was not logged.
    assert kept[0][0].keys() == {"train_loss", "learning_rate", "total_tokens", 'eval/50%s "it\'s", a\\b %(x)s'}


@pytest.mark.parametrize("layout", ["0.1", "old"])
def test_a_second_run_changes_nothing(export: Path, database: str, layout: Any) -> None:
    ingest(export, database, layout=layout)
    before, versions = _contents(database), [run.version for run in PostgresStore(database).runs()]
    report = ingest(export, database)
    assert (report.layout, report.added, report.replaced, len(report.unchanged)) == (layout, [], [], 3)
    assert report.rows_written == 0
    assert _contents(database) == before
    assert [run.version for run in PostgresStore(database).runs()] == versions


def test_changed_runs_are_replaced_and_others_stay(database: str, tmp_path: Path) -> None:
    write_parquet(tmp_path)
    ingest(tmp_path, database)
    with psycopg.connect(database) as connection:
        # A run of another project, a log that grew since, and a row that was lost.
        connection.execute(
            """INSERT INTO wandb_runs SELECT 'other', run_name, state, 'q', entity, created_at, config, summary,
            wandb_metadata, system_metrics, system_attrs, sweep_info FROM wandb_runs WHERE run_id = 'a_dpo';
            INSERT INTO wandb_history (run_id, step, wandb_metadata, metrics) VALUES ('other', 1, '{}', '{}');
            UPDATE wandb_runs SET state = 'running' WHERE run_id = 'b_sft';
            DELETE FROM wandb_history WHERE run_id = 'a_dpo' AND step = 2"""
        )
    before = {run.run_id: run.version for run in PostgresStore(database).runs()}
    report = ingest(tmp_path, database)
    assert (report.added, sorted(report.replaced), report.unchanged) == ([], ["a_dpo", "b_sft"], ["c_no_log"])
    assert report.rows_written == 2  # of b_sft only the run's own row had changed
    store = PostgresStore(database)
    after = {run.run_id: run.version for run in store.runs()}
    assert {run_id for run_id in after if after[run_id] == before[run_id]} == {"c_no_log", "other"}
    assert [run.state for run in store.runs()] == ["running", "finished", "failed", "running"]
    assert store.history(["a_dpo"], []).step.tolist() == [1, 2]
    assert store.history(["other"], []).step.tolist() == [1]


def test_an_export_without_logs_leaves_those_there_are(database: str, tmp_path: Path) -> None:
    ingest(write_parquet(tmp_path / "all"), database)
    report = ingest(write_parquet(tmp_path / "runs", history=False), database)
    assert len(report.unchanged) == 3
    assert len(PostgresStore(database).history(["b_sft"], []).step) == 4


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_runs_that_contradict_themselves_are_told(form: str, database: str, tmp_path: Path) -> None:
    if form == "parquet":
        path = write_parquet(tmp_path) / "runs_metadata.parquet"
        table = pq.read_table(path)
        other = table.set_column(table.column_names.index("state"), "state", pa.array(["other"] * 3, pa.large_string()))
        pq.write_table(pa.concat_tables([table, other]), path)
    else:
        path = write_jsonl(tmp_path) / "runs.jsonl"
        path.write_text(path.read_text() + path.read_text().replace("running", "other"))
    with pytest.warns(ConflictWarning, match="disagree for"):
        ingest(tmp_path, database)
    assert [run.state for run in PostgresStore(database).runs()] == ["running", "finished", "failed"]


def test_characters_that_have_no_place(database: str, tmp_path: Path) -> None:
    run = {"run_id": "a\0", "run_name": "a", "config": {"note": "x\0y", "kept": "\\u0000 \U0001f600"}, "summary": {}}
    text = json.dumps(run).replace('"kept"', '"half": "\\ud83d", "kept"')
    (tmp_path / "runs.jsonl").write_text(text + "\n")
    report = ingest(tmp_path, database)
    assert list(report.replaced_characters.values()) == [3]
    assert "3 characters that PostgreSQL can't store replaced in 1 runs" in str(report)
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT run_id, config FROM wandb_runs").fetchone()
    assert row == ("a\ufffd", {"note": "x\ufffdy", "half": "\ufffd", "kept": "\\u0000 \U0001f600"})


def _write(folder: Path, runs: list[bytes], history: list[bytes] = []) -> Path:  # noqa: B006
    folder.mkdir(exist_ok=True)
    (folder / "runs.jsonl").write_bytes(b"".join(line + b"\n" for line in runs))
    if history:
        (folder / "history.jsonl").write_bytes(b"".join(line + b"\n" for line in history))
    return folder


def _stored(dsn: str) -> tuple[dict[str, Any], list[Any]]:
    """Config of each run, and (step, metrics) of each row, as text."""
    with psycopg.connect(dsn) as connection:
        runs = connection.execute("SELECT run_id, config::text FROM wandb_runs").fetchall()
        logs = connection.execute("SELECT step, metrics::text FROM wandb_history ORDER BY id").fetchall()
    return dict(runs), logs


@pytest.mark.parametrize(
    ("number", "stored"),
    [
        ("3.14159265358979323846", "3.14159265358979323846"),
        ("1.50", "1.50"),
        ("1e400", "1" + "0" * 400),
        ("1e-300", f"0.{'0' * 299}1"),
        ("9" * 5000, "9" * 5000),
        ("18446744073709551617", "18446744073709551617"),
    ],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_numbers_of_lines_are_stored_exactly(
    database: str, tmp_path: Path, number: str, stored: str, as_text: bool
) -> None:
    whole = f'{{"x": {number}}}'
    value = json.dumps(whole) if as_text else whole
    runs = [f'{{"run_id": "a", "config": {value}}}'.encode()]
    history = [f'{{"run_id": "a", "step": 1, "metrics": {value}}}'.encode()]
    history += [f'{{"run_id": "a", "_step": 2, "x": {number}}}'.encode()]
    report = ingest(_write(tmp_path, runs, history), database)
    assert (report.refused_runs, report.refused_rows, report.changed) == ({}, {}, {})
    configs, logs = _stored(database)
    assert configs == {"a": f'{{"x": {stored}}}'}
    assert logs == [(step, f'{{"x": {stored}}}') for step in (1, 2)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"run_id": "bad", "config": [1, 2]}', "config is not a JSON object"),
        (b'{"run_id": "bad", "summary": "hello"}', "summary is not a JSON object"),
        (b'{"run_id": "bad", "config": 5}', "config is not a JSON object"),
        (b'{"run_id": "bad", "config": "[1]"}', "config is not a JSON object"),
        (b'{"run": {"run_id": "bad", "config": [1]}}', "config is not a JSON object"),
        (b'{"run_id": "bad", "config": {"a": 1, "a": 2}}', "the run has a key twice"),
        (b'{"run_id": "bad", "config": "{\\"a\\": 1, \\"a\\": 2}"}', "config has a key twice"),
        (b'{"run_id": "bad", "config": {"a": 1e200000}}', "value overflows numeric format (config)"),
        (b'{"run_id": "bad", "summary": {"a": 1e-200000}}', "value overflows numeric format (summary)"),
        (b'{"run_id": "b\xe9d", "config": {}}', "the run has a run id that is not valid UTF-8"),
    ],
)
@pytest.mark.parametrize("layout", ["0.1", "old"])
def test_a_run_that_can_not_be_stored_is_refused_and_the_others_are_not(
    database: str, tmp_path: Path, line: bytes, reason: str, layout: Any
) -> None:
    good = [b'{"run_id": "%d", "config": {"k": %d}}' % (k, k) for k in range(5)]
    report = ingest(_write(tmp_path, [*good[:3], line, *good[3:]]), database, layout=layout)
    assert list(report.refused_runs.values()) == [reason]
    assert sorted(report.added) == ["0", "1", "2", "3", "4"]
    assert "1 runs refused" in str(report)
    (remark,) = report.remarks()
    assert remark.endswith(f"refused, for {reason}")
    assert len(ingest(tmp_path, database).unchanged) == 5


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b'{"run_id": "a", "step": 2147483648, "metrics": {}}', "step is beyond the range of its column, integer"),
        (b'{"run_id": "a", "step": 1e300, "metrics": {}}', "step is beyond the range of its column, integer"),
        (b'{"run_id": "a", "step": 1.5, "metrics": {}}', "step is not a whole number"),
        (b'{"run_id": "a", "step": "soon", "metrics": {}}', "step is not a whole number"),
        (b'{"run_id": "a", "step": Infinity, "metrics": {}}', "step is not a whole number"),
        (b'{"run_id": "a", "step": true, "metrics": {}}', "step is not a whole number"),
        (b'{"run_id": "a", "step": 2, "metrics": "hello"}', "metrics is not a JSON object"),
        (b'{"run_id": "a", "step": 2, "metrics": [1]}', "metrics is not a JSON object"),
        (b'{"run_id": "a", "step": 2, "x": 1, "x": 2}', "the row has a key twice"),
        (b'{"run_id": "a", "step": 2, "runtime": 1e12, "x": 2}', "runtime is beyond the range of its column, integer"),
        (b'{"run_id": "lost", "step": 2, "metrics": {}}', "the export has no such run"),
    ],
)
def test_a_row_that_can_not_be_stored_is_refused_and_the_others_are_not(
    database: str, tmp_path: Path, row: bytes, reason: str
) -> None:
    runs = [b'{"run_id": "a", "config": {}}', b'{"run_id": "b", "config": {}}']
    good = [b'{"run_id": "a", "step": 1, "metrics": {"x": 1}}', b'{"run_id": "b", "step": 1, "metrics": {"x": 1}}']
    report = ingest(_write(tmp_path, runs, [good[0], row, good[1], row]), database)
    run_id = "lost" if b"lost" in row else "a"
    assert report.refused_rows == {run_id: {reason: 2}}
    assert (report.added, report.rows_written, report.refused_runs) == (["a", "b"], 2, {})
    assert "2 logged rows of 1 runs refused" in str(report)
    assert f"{run_id}: 2 logged rows refused, for {reason}" in report.remarks()


def test_rows_of_parquet_that_can_not_be_stored(database: str, tmp_path: Path) -> None:
    runs = {"run_id": ["a", "b", "c"], "config": ["{}", "[1]", "no JSON"], "summary": ["{}"] * 3}
    pq.write_table(pa.table(runs), tmp_path / "runs_metadata.parquet")
    rows = {"run_id": ["a", "a", "lost", None, "b"], "step": [1.0, 2.5, 1.0, 1.0, 1.0], "x": [0.5] * 5}
    pq.write_table(pa.table(rows), tmp_path / "runs_history.parquet")
    report = ingest(tmp_path, database)
    assert report.refused_runs == dict.fromkeys(["b", "c"], "config is not a JSON object")
    lost = {"the export has no such run": 1}
    assert report.refused_rows == {"a": {"step is not a whole number": 1}, "lost": lost, "": lost}
    assert _stored(database) == ({"a": "{}"}, [(1, '{"x": 0.5}')])


def test_decimal_numbers_of_parquet_keep_their_digits(database: str, tmp_path: Path) -> None:
    from decimal import Decimal

    pq.write_table(pa.table({"run_id": ["a"], "config": ["{}"], "summary": ["{}"]}), tmp_path / "runs_metadata.parquet")
    exact = Decimal("0.12345678901234567890123456789")
    rows = pa.table({"run_id": ["a"], "step": [1], "x": pa.array([exact], pa.decimal128(38, 29))})
    pq.write_table(rows, tmp_path / "runs_history.parquet")
    ingest(tmp_path, database)
    assert _stored(database)[1] == [(1, f'{{"x": {exact}}}')]


def test_bytes_that_are_no_text_are_counted(database: str, tmp_path: Path) -> None:
    runs = [b'{"run_id": "a", "run_name": "caf\xe9", "config": {"note": "\xff\xfe", "k\xe9y": 1}}']
    history = [b'{"run_id": "a", "step": 1, "metrics": {"x": "\xe9"}}', b'{"run_id": "a", "step": 2, "y\xe9": 1}']
    report = ingest(_write(tmp_path, runs, history), database)
    assert report.replaced_characters == {"a": 6}
    configs, logs = _stored(database)
    assert json.loads(configs["a"]) == {"note": "\ufffd\ufffd", "k\ufffdy": 1}
    assert [json.loads(metrics) for _, metrics in logs] == [{"x": "\ufffd"}, {"y\ufffd": 1}]


def test_halves_of_pairs_in_names_are_counted_and_ids_stay_apart(database: str, tmp_path: Path) -> None:
    runs = [b'{"run_id": "a\\ud800", "run_name": "\\udc00"}', b'{"run_id": "a\\u0000"}']
    report = ingest(_write(tmp_path, runs), database)
    assert report.replaced_characters == {"a\ud800": 2}
    assert report.refused_runs == {"a\0": "another run has this id, once characters are replaced in it"}
    assert list(_stored(database)[0]) == ["a\ufffd"]


def test_what_is_stored_in_another_way_is_counted(database: str, tmp_path: Path) -> None:
    runs = [
        b'{"run_id": "zero", "config": {"a": -0.0, "b": [-0, 1e-05, -0.5], "-0": "-0.0"}}',
        b'{"run_id": "when", "created_at": "yesterday"}',
        b'{"run_id": "early", "created_at": "0001-01-01T00:00:00+14:00"}',
        b'{"run_id": "fine", "created_at": "2025-01-02T03:04:05Z"}',
    ]
    rows = [b'{"run_id": "fine", "step": NaN, "metrics": {}}', b'{"run_id": "fine", "step": 1, "timestamp": "soon"}']
    report = ingest(_write(tmp_path, runs, rows), database)
    no_time = {"created_at is not a time, null is stored": 1}
    assert report.changed == {
        "zero": {"a negative zero loses its sign": 2},
        "when": no_time,
        "early": no_time,
        "fine": {"step is NaN, null is stored": 1, "timestamp is not a time, null is stored": 1},
    }
    assert len(report.added) == 4
    assert "6 values of 4 runs stored differently" in str(report)


def test_objects_in_json_text_become_objects_where_columns_are_put_together(database: str, tmp_path: Path) -> None:
    wrapped = json.dumps(json.dumps({"learning_rate": 1e-06}))
    runs = [f'{{"run_id": "a", "config": {json.dumps(wrapped)}, "summary": {{"x": 1}}}}'.encode()]
    ingest(_write(tmp_path, runs), database, layout="old")
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT raw_data FROM wandb_runs").fetchone()
    assert row == ({"x": 1, "learning_rate": 1e-06, "wandb_metadata": {}},)


def test_numbers_keep_their_digits(database: str, tmp_path: Path) -> None:
    config = (
        '{"a": 0.1000000000000000055511151231257827, "b": 12345678901234567890, "c": 1e-05, "d": NaN, "e": -Infinity}'
    )
    table = pa.table({"run_id": ["a"], "config": [config], "summary": ["{}"]})
    pq.write_table(table, tmp_path / "runs_metadata.parquet")
    ingest(tmp_path, database)
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT config::text FROM wandb_runs").fetchone()
    assert row is not None
    expected = config.replace("1e-05", "0.00001").replace("NaN", '"NaN"').replace("-Infinity", '"-Infinity"')
    assert row[0] == expected


def test_batches_and_progress(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 2)
    seen: list[tuple[int, int]] = []
    ingest(write_parquet(tmp_path), database, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 3), (3, 3)]
    assert len(PostgresStore(database).runs()) == 3


def test_a_batch_is_written_whole_or_not_at_all(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "insert_logs", lambda layout: "SELECT 1/0 + length(%(run_ids)s::text)")
    with pytest.raises(SourceError, match="division by zero"):
        ingest(write_parquet(tmp_path), database)
    assert _contents(database) == ([], [])


def test_two_ingests_at_once(export: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 1)
    reports: list[Any] = []
    errors: list[BaseException] = []

    def load() -> None:
        try:
            reports.append(ingest(export, database))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(run_id for report in reports for run_id in report.added) == ["a_dpo", "b_sft", "c_no_log"]
    assert sum(report.rows_written for report in reports) == 7
    assert len(_contents(database)[1]) == 7


_PROCESS = """
import sys
from dde.sources.ingest import ingest
sys.stdin.readline()
print(ingest(sys.argv[1], sys.argv[2]))
"""


def _ingest_in_processes(exports: list[Path], dsn: str) -> list[str]:
    """Load exports, each in a process of its own, all at once; what each says of it."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, str(export), dsn],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for export in exports
    ]
    # They wait for a line once they have started, so that none is done before another begins.
    with ThreadPoolExecutor(len(processes)) as pool:
        said = list(pool.map(lambda process: process.communicate("go\n", timeout=120)[0], processes))
    assert [process.returncode for process in processes] == [0] * len(processes)
    return said


def _renamed(folder: Path, prefix: str, *, rows: int) -> Path:
    """Write an export of two runs with names of their own and long logs."""
    folder.mkdir()
    runs = [{"run_id": f"{prefix}{k}", "config": {"seed": k}, "summary": {}} for k in range(2)]
    (folder / "runs.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs))
    lines = (
        json.dumps({"run_id": f"{prefix}{k}", "_step": step, "train_loss": step / 7}) + "\n"
        for k in range(2)
        for step in range(rows)
    )
    (folder / "history.jsonl").write_text("".join(lines))
    return folder


def test_processes_that_load_different_runs(database: str, tmp_path: Path) -> None:
    exports = [_renamed(tmp_path / prefix, prefix, rows=2000) for prefix in "pqr"]
    said = _ingest_in_processes(exports, database)
    assert all("2 runs added, 0 replaced, 0 unchanged; 4000 logged rows written" in text for text in said)
    store = PostgresStore(database)
    ids = [f"{prefix}{k}" for prefix in "pqr" for k in range(2)]
    assert [run.run_id for run in store.runs()] == ids
    history = store.history(ids, ["train_loss"])
    assert history.step.tolist() == [*range(2000)] * 6
    np.testing.assert_array_equal(history.values["train_loss"], history.step / 7)
    with psycopg.connect(database) as connection:
        # Each log stands in the order in which it was exported.
        falling = connection.execute(
            """SELECT count(*) FROM (
                SELECT step - lag(step) OVER (PARTITION BY run_id ORDER BY id) AS rise FROM wandb_history
            ) s WHERE rise <> 1"""
        ).fetchone()
    assert falling == (0,)


def test_processes_that_load_the_same_runs(database: str, tmp_path: Path) -> None:
    export = _renamed(tmp_path / "p", "p", rows=2000)
    said = _ingest_in_processes([export] * 3, database)
    assert sorted("2 runs added" in text for text in said) == [False, False, True]
    assert sum("4000 logged rows written" in text for text in said) == 1
    runs, logs = _contents(database)
    assert (len(runs), len(logs)) == (2, 4000)


def test_whoever_loads_a_run_holds_up_nobody_but_those_who_load_it(database: str, tmp_path: Path) -> None:
    first, second = (_renamed(tmp_path / prefix, prefix, rows=10) for prefix in "pq")
    hasty = f"{database}&options=-clock_timeout%3D300ms"
    ingest(first, database)
    with psycopg.connect(database) as other:
        # Another one in the midst of loading the first export.
        other.execute("CREATE TEMPORARY TABLE dde_incoming_runs AS SELECT run_id FROM wandb_runs")
        other.execute(LOCK_RUNS)
        assert len(ingest(second, hasty).added) == 2
        with pytest.raises(SourceError, match="lock timeout"):
            ingest(first, hasty)
        other.commit()
    assert len(ingest(first, hasty).unchanged) == 2


def test_layouts_that_do_not_fit(database: str, postgres: PostgresServer, tmp_path: Path) -> None:
    write_parquet(tmp_path / "new")
    write_parquet(tmp_path / "flat", layout="raw_data")
    ingest(tmp_path / "new", database)
    with pytest.raises(SourceError, match=r"have the layout '0.1', not 'old'"):
        ingest(tmp_path / "new", database, layout="old")
    with pytest.raises(SourceError, match=r"can't be separated.*layout='old'"):
        ingest(tmp_path / "flat", database)
    flat = postgres.new_database()
    assert ingest(tmp_path / "flat", flat).layout == "old"
    values = PostgresStore(flat).evaluations(["b_sft"], [("csqa", "primary_metric")])
    assert values["csqa", "primary_metric"].tolist() == [0.4864864865]


def test_ends_that_do_not_fit(database: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not a database"):
        ingest(write_parquet(tmp_path), str(tmp_path))
    with pytest.raises(SourceError, match="is a database, not an export"):
        ingest(database, database)
    with pytest.raises(SourceError, match="can't be reached") as raised:
        ingest(tmp_path, "postgresql://u:hush@127.0.0.1:1/db")
    assert "hush" not in str(raised.value)


def test_no_password_in_the_report(postgres: PostgresServer, database: str, tmp_path: Path) -> None:
    postgres.execute(f"GRANT ALL ON DATABASE {database.partition('@/')[2].partition('?')[0]} TO ada")
    with psycopg.connect(database) as connection:
        connection.execute("GRANT ALL ON SCHEMA public TO ada")
    locked = postgres.locked(database)
    report = ingest(write_parquet(tmp_path), locked)
    assert len(report.added) == 3
    assert "hush" not in str(report) + repr(report)


def test_real_export(real_data: Path, database: str) -> None:
    report = ingest(real_data, database)
    assert (len(report.added), report.rows_written) == (4, 2393)
    assert len(ingest(real_data, database).unchanged) == 4
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT run_id, config, summary, system_attrs FROM wandb_runs").fetchall()
    stored = {row[0]: row[1:] for row in rows}
    for row in pq.read_table(real_data / "runs_metadata.parquet").to_pylist():
        expected = tuple(json.loads(row[name]) for name in ("config", "summary", "system_attrs"))
        assert stored[row["run_id"]] == expected
