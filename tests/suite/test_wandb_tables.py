"""W&B runs of any project as tables of a suite: exports of both forms and a real PostgreSQL, one declaration."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr

import dde
from dde import Metric, Suite, Table
from dde.errors import FormatError, SourceError, UnknownNameError
from dde.sources.ingest import ingest
from dde.suite.reading.read_runs import SuiteTables
from dde.suite.reading.wandb_tables import WandbRows
from postgres_server import LOCKED_PASSWORD, PostgresServer

BATCH = 4_000
DECAY_STEPS = 40


def run(run_id: str, name: str, config: dict[str, Any], rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Return a run as W&B has it: config as it was passed to ``wandb.init``, and a row per call of ``wandb.log``."""
    attributes = {"tags": more.pop("tags", [])}
    return {
        "run_id": run_id, "run_name": name, "state": "finished", "project": "annealing", "entity": "lab",
        "created_at": "2026-03-01T10:00:00Z", "config": config, "summary": {}, "wandb_metadata": {},
        "system_metrics": {}, "system_attrs": attributes, "sweep_info": {}, **more, "rows": rows,
    }  # fmt: skip


def loss(width: int, step: int, is_decay: bool = False) -> float:
    return round(8 / (1 + step / width) + (0.25 if not is_decay else 0.125), 6)


def rows_of(width: int, first: int, last: int, *, is_decay: bool = False) -> list[dict[str, Any]]:
    """Return logged rows: training loss at every tenth step, an evaluation at every twentieth."""
    rows = []
    for step in range(first, last + 1, 10):
        row = {"_step": step, "throughput/tokens": step * BATCH, "train/loss": loss(width, step, is_decay)}
        if step % 20 == 0:
            row["eval/c4/loss"] = loss(width, step, is_decay) + 1
        rows.append(row)
    return rows


def project() -> list[dict[str, Any]]:
    """Return trunks of two widths and two rates, decays from each, and runs that belong to no curve."""
    runs = []
    for width in (64, 128):
        for rate in (0.01, 0.02):
            shared = {
                "model": {"width": width, "n_params": width * 1000},
                "optimizer": {"lr": rate, "betas": [0.9, 0.95]},
                "seed": 1,
            }
            trunk = f"t{width}{int(rate * 100)}"
            runs.append(run(trunk, f"trunk-w{width}", shared | {"kind": "trunk"}, rows_of(width, 0, 200)))
            for start in (80, 160):
                config = shared | {"kind": "decay", "branch": {"run": trunk, "step": start}}
                rows = rows_of(width, start + 10, start + DECAY_STEPS, is_decay=True)
                runs.append(run(f"d{trunk}{start}", f"decay-w{width}-{start}", config, rows))
    runs[-1]["state"] = "crashed"
    runs.append(run("debug", "debug", {"kind": "debug"}, rows_of(64, 0, 20), tags=["scratch"]))
    runs.append(run("silent", "trunk-w32", {"kind": "trunk", "model": {"width": 32}}, []))
    return runs


def write_jsonl(folder: Path, runs: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    with (folder / "runs.jsonl").open("w") as lines:
        for one in runs:
            lines.write(json.dumps({k: v for k, v in one.items() if k != "rows"}) + "\n")
    with (folder / "history.jsonl").open("w") as lines:
        for one in runs:
            for row in one["rows"]:
                lines.write(json.dumps({"run_id": one["run_id"], **row}) + "\n")
    return folder


def write_parquet(folder: Path, runs: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    texts = ("config", "summary", "wandb_metadata", "system_metrics", "system_attrs", "sweep_info")
    meta = [{k: json.dumps(v) if k in texts else v for k, v in one.items() if k != "rows"} for one in runs]
    pq.write_table(pa.Table.from_pylist(meta), folder / "runs_metadata.parquet")
    keys = list(dict.fromkeys(key for one in runs for row in one["rows"] for key in row if key != "_step"))
    rows = [
        {"run_id": one["run_id"], "step": row["_step"], **{key: row.get(key) for key in keys}}
        for one in runs
        for row in one["rows"]
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "runs_history.parquet")
    return folder


def annealing(files: Any = ".", **more: Any) -> Suite:
    """Declare the project: which key of the config is what, and which runs are trunks and decays."""
    table: dict[str, Any] = {"format": "wandb", **more}
    return Suite(
        "annealing",
        lineage="w{config.model.width}-{lr}",
        run={"trunk": "trunk", "decay": "decay@{from_step}"},
        run_id="{run_id}",
        step="_step",
        tokens="throughput/tokens",
        counts="cumulative",
        n_params="config.model.n_params",
        metrics={
            "train/loss": Metric("train_loss", "nats", "lower", kind="log"),
            "eval/{set}/loss": Metric("{set}_loss", "nats", "lower"),
        },
        tables=[
            Table(files, run_type="trunk", where="kind == 'trunk'", factors={"lr": "optimizer.lr"}, **table),
            Table(
                files,
                run_type="decay",
                parse={"run_name": "decay-w{width:int}-{from_step:int}"},
                factors={"lr": "config.optimizer.lr"},
                parent="{branch.run}",
                at={"step": "`config.branch.step`"},
                **table,
            ),
        ],
    )


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "export", project())


def test_a_project_opens_with_its_branch_points_factors_and_values(exported: Path) -> None:
    ds = dde.open_lineages(exported, suite=annealing(), cache_dir=None)
    assert ds.lineage.values.tolist() == ["w64-0.01", "w64-0.02", "w128-0.01", "w128-0.02"]
    assert ds.run.values.tolist() == ["trunk", "decay@80", "decay@160"]
    assert ds["config.model.width"].values.tolist() == [64, 64, 128, 128]
    assert ds.lr.values.tolist() == [0.01, 0.02, 0.01, 0.02]
    assert ds.n_params.values.tolist() == [64_000, 64_000, 128_000, 128_000]
    cells = ds.sel(run=["decay@80", "decay@160"])
    np.testing.assert_array_equal(cells.branch_tokens.values[:3], [[80 * BATCH, 160 * BATCH]] * 3)
    np.testing.assert_array_equal(cells.end_tokens.values[:3], [[120 * BATCH, 200 * BATCH]] * 3)
    for i, width in enumerate((64, 64, 128)):
        for start in (80, 160):
            curve = ds.train_loss.isel(lineage=i).sel(run=f"decay@{start}").to_series().dropna()
            expected = {s * BATCH: loss(width, s, s > start) for s in range(0, start + DECAY_STEPS + 1, 10)}
            assert {t: v for t, v in curve.items() if t in expected} == expected
            scores = ds.c4_loss.isel(lineage=i).sel(run=f"decay@{start}").to_series()
            assert scores[(start + 20) * BATCH] == loss(width, start + 20, True) + 1
    # The crashed one is known by its state, and stands in coverage.
    assert ds.run_id.values[3].tolist() == ["t1282", "dt128280", ""]
    assert "state crashed: 1" in ds.attrs["left_out"]
    assert "runs that belong to no table: 1" in ds.attrs["left_out"]
    assert "runs without logged rows, in tables[0]: 1" in ds.attrs["left_out"]
    whole = dde.open_lineages(exported, suite=annealing(), cache_dir=None, state="all")
    assert whole.state.sel(lineage="w128-0.02").values.tolist() == ["finished", "finished", "crashed"]
    assert set(ds.data_vars) == {"train_loss", "c4_loss"}


def test_both_forms_of_exports_and_a_database_are_one_suite(
    exported: Path, tmp_path: Path, postgres: PostgresServer
) -> None:
    parquet = write_parquet(tmp_path / "tables", project())
    database = postgres.new_database()
    ingest(exported, database)
    opened = [
        dde.open_lineages(place, suite=annealing(), cache_dir=None, state="all").load()
        for place in (exported, parquet, database)
    ]
    # Where it is stands in the declaration, or is passed.
    opened.append(dde.open_lineages(annealing(database), cache_dir=None, state="all").load())
    opened.append(dde.open_lineages(tmp_path, suite=annealing("tables"), cache_dir=None, state="all").load())
    opened.append(dde.open_lineages(annealing(str(exported)), cache_dir=None, state="all").load())
    for other in opened[1:]:
        xr.testing.assert_equal(opened[0], other)
    assert opened[0].train_loss.notnull().sum() > 200


def test_a_metric_reads_its_own_key_alone(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    read = WandbRows._read_history

    def watched(self: WandbRows, names: Any) -> Any:
        asked.append(tuple(names))
        return read(self, names)

    monkeypatch.setattr(WandbRows, "_read_history", watched)
    ds = dde.open_lineages(exported, suite=annealing(), cache_dir=None)
    assert {name for names in asked for name in names} == {"throughput/tokens"}
    asked.clear()
    assert np.isfinite(ds.train_loss.values).any()
    assert asked == [("train/loss",), ("train/loss",)]


def test_only_the_runs_of_a_table_are_asked_for(exported: Path) -> None:
    tables = SuiteTables(annealing(), exported)
    tables.runs()
    opened = tables._open().opened
    contents = [file.content for of_table in opened for file in of_table]
    ids = [[r.run_id for r in content.records] for content in contents if isinstance(content, WandbRows)]
    assert ids[0] == ["silent", "t1281", "t1282", "t641", "t642"]
    assert all(run_id.startswith("dt") for run_id in ids[1])
    assert len(ids[1]) == 8


def test_a_changed_run_changes_the_fingerprint_and_its_own_version_alone(exported: Path, tmp_path: Path) -> None:
    before = SuiteTables(annealing(), exported)
    changed = project()
    changed[0]["rows"][3]["train/loss"] = 1.0
    after = SuiteTables(annealing(), write_jsonl(tmp_path / "changed", changed))
    assert before.fingerprint != after.fingerprint
    trunks, others = before.runs()[0], after.runs()[0]
    pairs = list(zip(trunks.run_ids, before.versions(trunks), after.versions(others), strict=True))
    assert sum(a != b for _, a, b in pairs) == 1
    assert next(run_id for run_id, a, b in pairs if a != b) == "t641"
    assert SuiteTables(annealing(), exported).fingerprint == before.fingerprint


def test_a_password_stands_nowhere(postgres: PostgresServer, exported: Path) -> None:
    database = postgres.new_database()
    ingest(exported, database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO ada")
    locked = postgres.locked(database)
    suite = annealing(locked)
    ds = dde.open_lineages(suite, cache_dir=None)
    assert ds.train_loss.notnull().any()
    for opened in (
        dde.open_lineages(locked, suite=annealing(), cache_dir=None),
        dde.open_lineages(dataclasses.replace(annealing(), root=locked), cache_dir=None),
    ):
        assert LOCKED_PASSWORD not in f"{opened.attrs}{opened.encoding}"
        assert LOCKED_PASSWORD.encode() not in pickle.dumps(opened)
        xr.testing.assert_equal(opened.train_loss, ds.train_loss)
    rooted = dataclasses.replace(annealing(), root=locked)
    assert not any(quote(LOCKED_PASSWORD, safe="") in text for text in (repr(rooted), rooted.to_toml()))
    repository = dde.RunRepository.from_suite(rooted)
    shown = [
        repr(repository),
        repository._repr_html_(),
        repr(suite),
        repr(suite.tables),
        str(suite.to_dict()),
        suite.to_toml(),
        str(ds.attrs),
        repr(suite.digest),
    ]
    sent = pickle.dumps(suite) + pickle.dumps(ds)
    for secret in (LOCKED_PASSWORD, quote(LOCKED_PASSWORD, safe="")):
        assert not any(secret in text for text in shown)
        assert secret.encode() not in sent
    assert Suite.from_dict(suite.to_dict()) == suite


# Forks and rewinds


def losses(first: int, last: int, offset: float = 0.0) -> list[dict[str, Any]]:
    return [{"_step": step, "loss": step + offset} for step in range(first, last + 1)]


def branched(run_id: str, name: str, point: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    return run(run_id, name, {"_wandb": {"branch_point": point}, "size": "s"}, rows)


def forked_suite(*tables: Table) -> Suite:
    labels = {"pretraining": "trunk", "fork": "fork@{forked_at}", "rewind": "rewind@{rewound_at}"}
    return Suite(
        "forked", lineage="{size}", run={table.run_type: labels[table.run_type] for table in tables},
        run_id="{run_id}", step="_step", tokens={"per_step": 10}, counts="cumulative",
        metrics={"loss": Metric("loss", "nats", "lower", kind="log")}, tables=tables,
    )  # fmt: skip


@pytest.mark.parametrize("inherited", [[], losses(0, 5)])
def test_forks_of_wandb_name_their_parent_and_step(inherited: list[dict[str, Any]], tmp_path: Path) -> None:
    runs = [
        run("trunk", "trunk", {"size": "s"}, losses(0, 8)),
        branched("child", "child", {"run_id": "trunk", "step": 5}, [*inherited, *losses(6, 10, 0.5)]),
        branched("grandchild", "again", {"run_id": "child", "step": 8}, losses(9, 12, 0.75)),
    ]
    suite = forked_suite(
        Table(".", format="wandb", where="forked_from == ''"),
        Table(
            ".", format="wandb", run_type="fork", where="forked_from != ''", parent="{forked_from}",
            at={"step": "forked_at"},
        ),
    )  # fmt: skip
    ds = dde.open_lineages(write_jsonl(tmp_path / "e", runs), suite=suite, cache_dir=None)
    assert ds.run.values.tolist() == ["trunk", "fork@5", "fork@5+fork@8"]
    np.testing.assert_array_equal(ds.branch_tokens.values[0], [np.nan, 50, 80])
    curve = ds.loss.sel(run="fork@5+fork@8").squeeze("lineage").to_series()
    np.testing.assert_array_equal(curve[[50, 60, 80, 90, 120]], [5, 6.5, 8.5, 9.75, 12.75])
    assert ("rows at or before the branch of their run: 6" in ds.attrs["left_out"]) == bool(inherited)


def test_a_rewound_run_branches_from_its_own_replaced_rows(tmp_path: Path) -> None:
    # W&B drops the rows after the step, so that they are there in an export made before alone.
    before = write_jsonl(tmp_path / "before", [run("r", "r", {"size": "s"}, losses(0, 8))])
    point = {"run_id": "r", "step": 4}
    after = write_parquet(tmp_path / "after", [branched("r", "r", point, [*losses(0, 4), *losses(5, 10, 0.5)])])
    suite = forked_suite(
        Table(before.name, format="wandb"),
        Table(
            after.name, format="wandb", run_type="rewind", run_id="{run_id}-rewound", where="_step > rewound_at",
            parent="{run_id}", at={"step": "rewound_at"},
        ),
    )  # fmt: skip
    ds = dde.open_lineages(tmp_path, suite=suite, cache_dir=None)
    assert ds.run.values.tolist() == ["trunk", "rewind@4"]
    assert ds.end_tokens.values.tolist() == [[80, 100]]
    curves = ds.loss.squeeze("lineage").transpose("run", ...).to_pandas()
    np.testing.assert_array_equal(curves.loc["rewind@4"][[0, 40, 50, 100]], [0, 4, 5.5, 10.5])
    np.testing.assert_array_equal(curves.loc["trunk"][[0, 40, 50, 80]], [0, 4, 5, 8])


def test_a_run_resumed_under_another_id_is_one_run_in_the_state_of_the_last(tmp_path: Path) -> None:
    runs = [
        run("a1", "long", {"size": "s"}, losses(0, 4), state="crashed"),
        run("a2", "long", {"size": "s"}, losses(5, 8)),
        run("b1", "cut", {"size": "t"}, losses(0, 4)),
        run("b2", "cut", {"size": "t"}, losses(5, 8), state="killed"),
    ]
    suite = Suite(
        "resumed", lineage="{size}", run_id="{run_name}", tokens={"per_step": 10},
        metrics={"loss": Metric("loss", "nats", "lower", kind="log")}, tables=[Table(".", format="wandb")],
    )  # fmt: skip
    ds = dde.open_lineages(write_jsonl(tmp_path / "e", runs), suite=suite, cache_dir=None, state="all")
    assert ds.state.values.tolist() == [["finished"], ["killed"]]
    assert ds.loss.sel(lineage="s").squeeze().values.tolist() == list(range(9))
    with pytest.raises(UnknownNameError, match="'crashed' is not a state"):
        dde.open_lineages(tmp_path / "e", suite=suite, cache_dir=None, state="crashed")


# What goes on, and what can't be


def one_table(**more: Any) -> Suite:
    said: dict[str, Any] = {"lineage": "{run_name}", "run_id": "{run_id}", "tokens": {"per_step": 10}, **more}
    table = {key: said.pop(key) for key in ("where", "factors", "parse") if key in said}
    return Suite("one", **said, tables=[Table(".", format="wandb", **table)])


def test_a_run_that_is_written_on_while_it_is_read(postgres: PostgresServer, tmp_path: Path) -> None:
    database = postgres.new_database()
    runs = [run("a", "a", {}, losses(0, 4)), run("b", "b", {}, losses(0, 4))]
    ingest(write_jsonl(tmp_path / "first", runs), database)
    ds = dde.open_lineages(database, suite=one_table(), cache_dir=None)
    more = [run("a", "a", {}, losses(0, 9)), run("b", "b", {}, losses(0, 4))]
    ingest(write_jsonl(tmp_path / "second", more), database)
    assert ds.loss.sel(lineage="a").squeeze().values.tolist() == [0, 1, 2, 3, 4]
    assert ds.loss.sel(lineage="b").squeeze().values.tolist() == [0, 1, 2, 3, 4]
    again = dde.open_lineages(database, suite=one_table(), cache_dir=None)
    assert again.end_tokens.values.ravel().tolist() == [90, 40]
    assert again.attrs["source_fingerprint"] != ds.attrs["source_fingerprint"]
    ingest(write_jsonl(tmp_path / "third", [run("a", "a", {}, losses(3, 9)), run("b", "b", {}, [])]), database)
    with pytest.raises(SourceError, match="fewer rows than when it was opened: 8 are gone"):
        again.copy().loss.load()


def test_without_metrics_each_key_of_the_history_is_one_and_facts_of_runs_are_none(exported: Path) -> None:
    suite = one_table(lineage="{run_name}-{config.optimizer.lr}", where="kind == 'trunk'")
    ds = dde.open_lineages(exported, suite=suite, cache_dir=None)
    assert set(ds.data_vars) == {"train_loss", "eval_c4_loss", "throughput_tokens"}
    patterns = {"{a}/{b}": Metric("{a}_{b}", kind="log"), "{key}": Metric("{key}", kind="log")}
    named = one_table(
        lineage="{run_name}-{lr}", where="kind == 'trunk'", factors={"lr": "optimizer.lr"}, metrics=patterns
    )
    ds = dde.open_lineages(exported, suite=named, cache_dir=None)
    assert set(ds.data_vars) == {"train_loss", "throughput_tokens"}


@pytest.mark.parametrize(
    ("key", "text"),
    [("betas", "[0.9, 0.95]"), ("flag", "True"), ("mixed", "auto"), ("whole", 3), ("deep.er.key", "x"), ("a.b", 1.5)],
)
def test_values_of_configs_of_any_type(key: str, text: Any, tmp_path: Path) -> None:
    config = {
        "betas": [0.9, 0.95], "flag": True, "mixed": "auto", "whole": 3, "deep": {"er": {"key": "x"}}, "a.b": 1.5,
    }  # fmt: skip
    other = {"mixed": 7}
    folder = write_parquet(tmp_path / "e", [run("a", "a", config, losses(0, 2)), run("b", "b", other, losses(0, 2))])
    for name in (key, f"config.{key}"):
        ds = dde.open_lineages(folder, suite=one_table(factors={"found": name}), cache_dir=None)
        found = ds.found.sel(lineage="a").values.ravel().tolist()
        assert found == [text]
        other_found = ds.found.sel(lineage="b").values.ravel().tolist()[0]
        assert other_found == ("7" if key == "mixed" else "") or other_found != other_found


def test_a_name_of_the_config_and_of_the_history_is_ambiguous(tmp_path: Path) -> None:
    rows = [{"_step": step, "lr": 0.1 / (step + 1), "loss": 1.0} for step in range(3)]
    folder = write_jsonl(tmp_path / "e", [run("a", "a", {"lr": 0.1}, rows)])
    with pytest.raises(FormatError, match="'lr' is a key of the config and one of the history of the runs"):
        dde.open_lineages(folder, suite=one_table(factors={"rate": "lr"}), cache_dir=None)
    suite = one_table(factors={"rate": "config.lr"}, where="`history.lr` < 0.1")
    ds = dde.open_lineages(folder, suite=suite, cache_dir=None)
    assert ds.rate.values.ravel().tolist() == [0.1]
    assert ds.cumulative_tokens.values.tolist() == [10, 20]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"lineage": "{config.optimiser.lr}"},
            r"No run .* the config key 'optimiser.lr'.* Did you mean optimizer.lr or",
        ),
        ({"lineage": "{optimiser.lr}"}, "no table has the field 'optimiser.lr'"),
        ({"factors": {"lr": "optimiser.lr"}}, "optimiser"),
        ({"tokens": "throughput/token"}, "throughput/token"),
    ],
)
def test_names_that_no_run_has(said: dict[str, Any], message: str, exported: Path) -> None:
    with pytest.raises(UnknownNameError, match=message):
        dde.open_lineages(exported, suite=one_table(**said), cache_dir=None)


@pytest.mark.parametrize(
    ("files", "more", "message"),
    [
        ("runs/{size}", {}, "'runs/{size}' is a pattern"),
        ("", {}, "needs a folder of an export"),
        ((), {}, "needs a folder of an export"),
        (".", {"key": "{k}", "value": "v"}, "key= and value= have no meaning"),
    ],
)
def test_places_that_are_none(files: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        Table(files, format="wandb", **more)


def test_places_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no root"):
        dde.open_lineages(one_table(), cache_dir=None)
    with pytest.raises(SourceError, match=r"Write files='\.'"):
        dde.open_lineages("postgresql://localhost/wandb", suite=annealing("folder"), cache_dir=None)
    with pytest.raises(SourceError):
        dde.open_lineages(tmp_path, suite=one_table(), cache_dir=None)


def test_a_suite_of_wandb_runs_is_plain_data(tmp_path: Path) -> None:
    suite = annealing(["first", "second"])
    path = tmp_path / "annealing.toml"
    suite.to_toml(path)
    assert Suite.from_toml(path) == suite
    assert Suite.from_toml(path).digest == suite.digest


def test_a_sent_dataset_is_read_elsewhere(exported: Path) -> None:
    ds = dde.open_lineages(exported, suite=annealing(), cache_dir=None)
    xr.testing.assert_equal(pickle.loads(pickle.dumps(ds)).load(), ds.load())


def test_runs_without_the_counter_are_named(tmp_path: Path) -> None:
    rows = [{"_step": step, "tokens": 10 * step, "loss": 1.0} for step in range(1, 4)]
    rows.append({"_step": 9, "loss": 2.0})
    runs = [run("a", "a", {}, rows), run("b", "b", {}, losses(0, 4))]
    with_counter = one_table(tokens="tokens", metrics={"loss": Metric("loss", "nats", "lower", kind="log")})
    ds = dde.open_lineages(write_jsonl(tmp_path / "e", runs), suite=with_counter, cache_dir=None)
    assert ds.lineage.values.tolist() == ["a"]
    assert ds.end_tokens.values.tolist() == [[30]]
    assert "rows whose tokens is missing, in tables[0]: 6" in ds.attrs["left_out"]
    assert "runs of which no row has a step and tokens, in tables[0]: 1" in ds.attrs["left_out"]
    repository = dde.RunRepository.from_suite(with_counter, tmp_path / "e")
    assert repository.suite_runs is not None
    assert repository.coverage().run_id.tolist() == ["a"]
    notes = getattr(repository.suite_runs.tables, "notes", [])
    assert "1 runs of which no row has a step and tokens, in tables[0]: b" in notes


def test_a_real_export_is_read_as_any_project(real_data: Path) -> None:
    suite = Suite(
        "tuning", lineage="{run_name}", run_id="{run_id}", tokens={"per_step": 1}, n_params="config.model_size",
        metrics={"train_loss": Metric("train_loss", "nats", "lower", kind="log")},
        tables=[Table(real_data.name, format="wandb", factors={"lr": "config.learning_rate"})],
    )  # fmt: skip
    ds = dde.open_lineages(real_data.parent, suite=suite, cache_dir=None, state="all")
    store = dde.WandBStore(real_data)
    ids = [run_id for run_id in ds.run_id.values.ravel().tolist() if run_id]
    assert 0 < len(ids) <= len(store.runs())
    for run_id in ids:
        history = store.history([run_id], ["train_loss"])
        known = ~np.isnan(history.values["train_loss"]) & (history.step > 0)
        tables = SuiteTables(suite, real_data.parent)
        [runs] = tables.runs()
        at = runs.run_ids.index(run_id)
        rows = slice(int(runs.row_offsets[at]), int(runs.row_offsets[at + 1]))
        values = tables.values("train_loss", runs)[rows]
        found = dict(zip(runs.step[rows].tolist(), values.tolist(), strict=True))
        steps, losses_there = history.step[known].tolist(), history.values["train_loss"][known].tolist()
        assert [found[step] for step in steps] == losses_there
