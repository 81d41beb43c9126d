"""Opening again: what is kept is enough, is the same, holds no secret, and follows the sources."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr

import dde
from dde.cache import cache_size
from dde.cache.index_files import read_index_file, write_index_file
from dde.cache.storage import Storage
from dde.dataset.build import PackedArray, packed, packed_product
from dde.errors import ConflictWarning, DdeError, SourceError
from dde.sources.ingest import ingest
from dde.sources.wandb import export_folder
from dde.suite.datadecide.runs.registry_handle import origin_of, resolve_runs
from dde.suite.datadecide.tables import table_files
from dde.tutorial.suite import Suite
from fakes import FakeStore, sft
from small_stores import example

SECRET = "zq7Wc0vBexample9"


@pytest.fixture(scope="module")
def suite(tiny_suite: Suite) -> Suite:
    return tiny_suite


def _with_secrets(suite: Suite, folder: Path, form: str) -> Path:
    """Copy an export; every command and config holds a secret beside what dde reads."""
    folder.mkdir()
    rows = pq.read_table(Path(suite.wandb) / "runs_metadata.parquet").to_pylist()
    for i, row in enumerate(rows):
        launch, config = json.loads(row["wandb_metadata"] or "{}"), json.loads(row["config"])
        secrets = [f"--hf_token={SECRET}", "--colour", "red" if i % 2 else "blue", "--api_key", SECRET]
        launch["args"] = [f"WANDB_API_KEY={SECRET}", *launch.get("args", ()), *secrets]
        launch["email"] = SECRET
        config |= {"hf_token": SECRET, "shade": i % 3}
        config["wandb_config"] = f"{config.get('wandb_config') or 'a=b'},hf_token={SECRET}"
        row |= {"wandb_metadata": json.dumps(launch), "config": json.dumps(config)}
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "runs_metadata.parquet")
        shutil.copy(Path(suite.wandb) / "runs_history.parquet", folder)
        return folder
    for row in rows:
        row["created_at"] = str(row["created_at"])
    (folder / "runs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    logged = pq.read_table(Path(suite.wandb) / "runs_history.parquet").to_pylist()
    text = "".join(json.dumps({k: v for k, v in row.items() if v is not None}, default=str) + "\n" for row in logged)
    (folder / "history.jsonl").write_text(text)
    return folder


@pytest.fixture(scope="module", params=["parquet", "jsonl"])
def export(request: pytest.FixtureRequest, suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _with_secrets(suite, tmp_path_factory.mktemp("export") / "wandb", request.param)


def _outcome(suite: Suite, export: Path, cache: Path | None, options: dict[str, Any]) -> object:
    try:
        return dde.open_lineages(suite.data, export, cache_dir=cache, **options)
    except DdeError as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"state": "all"},
        {"learning_rate": slice(1e-6, 1e-4)},
        {"shade": 1},
        {"colour": "red"},
        {"colour": "green"},
        {"project": "nobody's"},
        {"num_train_epochs": 2},
        {"epochs": 1, "shade": [0, 2]},
        {"use_lora": False},
        {"wandb_config": lambda value: SECRET in str(value)},
        {"hf_token": SECRET},
        {"shadow": 3},
        {"learning_rate": 77.0},
        {"method": "sftt"},
        {"state": "done"},
        {"replicate": 1, "branch_point": ""},
        {"tokens_per_sequence": 400.0},
    ],
    ids=lambda options: ", ".join(f"{k}={'callable' if callable(v) else v}" for k, v in options.items()),
)
def test_the_same_with_and_without_what_is_kept(
    suite: Suite, export: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    plain = _outcome(suite, export, None, options)
    for _ in range(3):
        kept = _outcome(suite, export, tmp_path, options)
        if isinstance(plain, xr.Dataset):
            assert isinstance(kept, xr.Dataset)
            xr.testing.assert_identical(kept.drop_vars(kept.data_vars), plain.drop_vars(plain.data_vars))
            assert list(kept.data_vars) == list(plain.data_vars)
        else:
            assert kept == plain


def test_no_secret_is_kept(suite: Suite, export: Path, tmp_path: Path) -> None:
    for options in ({}, {"shade": 1}, {"colour": "red"}, {"hf_token": SECRET}):
        for _ in range(2):
            dataset = dde.open_lineages(suite.data, export, cache_dir=tmp_path, **options)
    assert list(tmp_path.glob("runs/*/runs.npz"))
    dataset[["train_loss", "arc_easy"]].load()
    for path in tmp_path.rglob("*"):
        assert SECRET not in path.name
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
    assert SECRET.encode() not in pickle.dumps(dataset)
    assert SECRET not in repr(dataset.attrs)


@pytest.mark.parametrize("behind", ["--learning_rate", "--model_name_or_path"])
def test_a_store_whose_kept_options_hold_anything_else_is_not_kept(suite: Suite, tmp_path: Path, behind: str) -> None:
    export = tmp_path / "wandb"
    shutil.copytree(suite.wandb, export)
    rows = pq.read_table(export / "runs_metadata.parquet").to_pylist()
    launch = json.loads(rows[0]["wandb_metadata"])
    launch["args"] += [behind, "1e-5", SECRET]
    launch["program"] = "finetune.py"
    rows[0]["wandb_metadata"] = json.dumps(launch)
    pq.write_table(pa.Table.from_pylist(rows), export / "runs_metadata.parquet")
    for _ in range(2):
        ds = dde.open_lineages(suite.data, export, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("runs/*/*"))
    assert SECRET.encode() not in b"".join(p.read_bytes() for p in (tmp_path / "cache").rglob("*") if p.is_file())
    assert pickle.loads(pickle.dumps(ds)).sizes == ds.sizes


def test_opening_again_reads_no_source(
    suite: Suite, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = dde.open_lineages(suite.data, export, cache_dir=tmp_path)

    def refused(*args: object, **options: object) -> None:
        raise AssertionError("a source is read")

    for module, name in ((table_files, "open_parquet"), (export_folder, "run_record")):
        monkeypatch.setattr(module, name, refused)
    again = dde.open_lineages(suite.data, export, cache_dir=tmp_path)
    xr.testing.assert_identical(again.drop_vars(again.data_vars), first.drop_vars(first.data_vars))
    assert {"runs", "index"} <= {entry.name.split("/")[0] for entry in cache_size(tmp_path)}


def test_what_opening_imports(suite: Suite, export: Path, tmp_path: Path) -> None:
    code = (
        "import sys, dde\n"
        f"ds = dde.open_lineages({suite.data!r}, {str(export)!r}, cache_dir={str(tmp_path)!r})\n"
        "print(*{'zarr', 'psycopg', 'dask.array', 'holoviews', 'scipy'} & set(sys.modules))"
    )
    dde.open_lineages(suite.data, export, cache_dir=tmp_path)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


@pytest.mark.parametrize("damage", [lambda b: b[:-40], lambda b: b"no zip", lambda b: b.replace(b"a", b"b"), None])
@pytest.mark.parametrize(
    "name",
    ["columns.npz", "placed_rows.npz", "runs.npz", "counters.npz", "other_counters.npz", "catalog.npz", "files.npz"],
)
def test_damaged_files_are_made_again(
    suite: Suite, tmp_path: Path, name: str, damage: Callable[[bytes], bytes] | None
) -> None:
    expected = dde.open_lineages(suite.data, suite.wandb, cache_dir=tmp_path)
    (path,) = tmp_path.rglob(name)
    content = path.read_bytes()
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(content))
    if name != "columns.npz":
        # With the run table, opening needs no record.
        next(tmp_path.rglob("columns.npz")).unlink()
    again = dde.open_lineages(suite.data, suite.wandb, cache_dir=tmp_path)
    xr.testing.assert_identical(again.drop_vars(again.data_vars), expected.drop_vars(expected.data_vars))
    (tmp_path / "before.npz").write_bytes(content)
    found, whole = read_index_file(Storage(path.parent), path.name), read_index_file(Storage(tmp_path), "before.npz")
    assert found is not None
    assert whole is not None
    assert found[0] == whole[0]


def test_a_changed_export_is_read_again(suite: Suite, tmp_path: Path) -> None:
    export = tmp_path / "wandb"
    shutil.copytree(suite.wandb, export)
    first = dde.open_lineages(suite.data, export, cache_dir=tmp_path / "cache")
    table = pq.read_table(export / "runs_metadata.parquet")
    rows = table.to_pylist()
    for row in rows:
        row["state"] = "crashed"
    pq.write_table(pa.Table.from_pylist(rows, table.schema), export / "runs_metadata.parquet")
    again = dde.open_lineages(suite.data, export, cache_dir=tmp_path / "cache", state="all")
    assert "crashed" in again.state.values
    assert first.attrs["posttraining_fingerprint"] != again.attrs["posttraining_fingerprint"]


def test_conflicts_are_told_again(suite: Suite, tmp_path: Path) -> None:
    export = tmp_path / "wandb"
    shutil.copytree(suite.wandb, export)
    table = pq.read_table(export / "runs_metadata.parquet")
    rows = table.to_pylist()
    pq.write_table(
        pa.Table.from_pylist([*rows, rows[0] | {"state": "odd"}], table.schema), export / "runs_metadata.parquet"
    )
    with pytest.warns(ConflictWarning, match="rows that disagree for 1 runs"):
        dde.open_lineages(suite.data, export, cache_dir=tmp_path / "cache")
    code = f"import dde; dde.open_lineages({suite.data!r}, {str(export)!r}, cache_dir={str(tmp_path / 'cache')!r})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "rows that disagree for 1 runs" in ran.stderr


def test_kept_files_are_read_by_numpy(tmp_path: Path) -> None:
    write_index_file(Storage(tmp_path / "a"), "x.npz", {"n": 1}, {"values": np.arange(3.0)})
    with np.load(tmp_path / "a" / "x.npz") as content:
        assert content["values"].tolist() == [0, 1, 2]
        assert json.loads(content["facts.json"])["n"] == 1
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x.npz"]
    assert read_index_file(Storage(tmp_path), "absent.npz") is None


# Sending


def test_packed_arrays() -> None:
    texts = np.array([["a", ""], ["", "b"]], object)
    for values in (texts, np.array([[1.0, np.nan]]), np.empty((0, 3)), np.array([[1, "x"]], object), texts.T[:, :1]):
        again = pickle.loads(pickle.dumps(packed(values)))
        assert isinstance(again, PackedArray)
        assert (again.dtype, again.shape) == (values.dtype, values.shape)
        np.testing.assert_array_equal(np.asarray(again), values)
        assert again.flags.writeable
    assert repr(packed(texts)) == repr(texts)
    product = packed_product(np.arange(1e3), np.arange(1000))
    content = pickle.dumps(product)
    assert len(content) < 20_000
    np.testing.assert_array_equal(pickle.loads(content), np.arange(1e3)[:, None] * np.arange(1000))
    product[3, 4] = 7.0
    assert pickle.loads(pickle.dumps(product))[3, 4] == 7.0
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(product[:2])), product[:2])


def test_what_is_sent_opens_no_registry(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(suite.data).parent)
    # Sent from a process that reads by a relative path.
    ds = dde.open_lineages(Path(suite.data).name, suite.wandb, cache_dir=os.path.relpath(tmp_path))
    content = pickle.dumps(ds)
    assert len(content) < 100_000
    assert len(pickle.dumps(ds.arc_easy)) < 60_000
    (tmp_path / "sent").write_bytes(content)
    code = (
        "import pickle, sys\n"
        "from dde.suite.datadecide.runs.registry import Registry\n"
        "def refused(*args, **options): raise AssertionError('a registry is opened')\n"
        "Registry.__init__ = refused\n"
        "ds = pickle.loads(open(sys.argv[1], 'rb').read())\n"
        "print(repr(float(ds.arc_easy.sum())), repr(float(ds.train_loss.sum())))\n"
        "print(float(ds.dde.final('arc_easy').count()), int(ds.dde.checkpoint_type().sum()))"
    )
    other = tmp_path / "elsewhere"
    other.mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "sent")], capture_output=True, text=True, check=True, cwd=other
    )
    assert ran.stdout.split() == [
        repr(float(ds.arc_easy.sum())),
        repr(float(ds.train_loss.sum())),
        repr(float(ds.dde.final("arc_easy").count())),
        str(int(ds.dde.checkpoint_type().sum())),
    ]


def test_sent_to_where_the_sources_changed(suite: Suite, tmp_path: Path) -> None:
    export = tmp_path / "wandb"
    shutil.copytree(suite.wandb, export)
    ds = dde.open_lineages(suite.data, export, cache_dir=tmp_path / "cache")
    (tmp_path / "sent").write_bytes(pickle.dumps(ds))
    os.utime(export / "runs_history.parquet", (1, 1))
    code = "import pickle, sys; pickle.loads(open(sys.argv[1], 'rb').read()).train_loss.load()"
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path / "sent")], capture_output=True, text=True)
    assert "SourceError" in ran.stderr
    assert "changed since the Dataset was opened" in ran.stderr
    # Where the sources are open, nothing changes.
    assert pickle.loads(pickle.dumps(ds)).sizes == ds.sizes


def test_a_database_is_sent_as_a_place(suite: Suite, database: str, tmp_path: Path) -> None:
    ingest(suite.wandb, database)
    ds = dde.open_lineages(suite.data, database, cache_dir=tmp_path / "cache")
    content = pickle.dumps(ds)
    assert len(content) < 50_000
    (tmp_path / "sent").write_bytes(content)
    expected = repr(float(ds.train_loss.sum()))
    code = (
        "import pickle, sys\n"
        "from dde.sources.postgres.store import PostgresStore\n"
        "def refused(*args): raise AssertionError('the database is read')\n"
        "if sys.argv[2] == 'refuse': PostgresStore._run = refused\n"
        "ds = pickle.loads(open(sys.argv[1], 'rb').read())\n"
        "print(repr(float(ds.train_loss.sum())))\n"
        "if sys.argv[2] != 'refuse': print(len(ds[['train_loss']].dde.to_frame()))"
    )

    def loaded(argument: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, str(tmp_path / "sent"), argument]
        return subprocess.run(command, capture_output=True, text=True)

    # All that values are made of lies in the cache.
    refused = loaded("refuse")
    assert refused.stdout.split() == [expected], refused.stderr
    assert loaded("read").stdout.split() == [expected, str(len(ds[["train_loss"]].dde.to_frame()))]
    with psycopg.connect(database) as session:
        session.execute("UPDATE wandb_runs SET state = 'failed'")
    # Whatever became of the runs since: values and frames are those of the runs that were sent.
    assert loaded("read").stdout.split() == [expected, str(len(ds[["train_loss"]].dde.to_frame()))]


def test_a_repository_that_was_sent_is_sent_on(suite: Suite, tmp_path: Path) -> None:
    code = (
        "import dde, pickle, sys\n"
        "repository = pickle.loads(sys.stdin.buffer.read())\n"
        "ds = dde.open_lineages(repository, metrics=['train_loss'])\n"
        "sys.stdout.buffer.write(pickle.dumps(ds))"
    )
    repository = dde.DataDecideEvolved(suite.data, suite.wandb, cache_dir=tmp_path).repository
    ds = dde.open_lineages(repository, metrics=["train_loss"])
    ran = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(repository), capture_output=True, check=True)
    (tmp_path / "sent").write_bytes(ran.stdout)
    code = "import pickle, sys; print(len(pickle.loads(open(sys.argv[1], 'rb').read()).dde.to_frame()))"
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path / "sent")], capture_output=True, check=True)
    assert int(ran.stdout) == len(ds.dde.to_frame())


def test_sources_of_others_are_sent_whole() -> None:
    tables, store = example()
    repository = dde.RunRepository(tables, store)  # type: ignore[arg-type]
    assert origin_of(repository.registry) is None
    ds = repository.to_dataset()
    again = pickle.loads(pickle.dumps(ds))
    xr.testing.assert_identical(again.load(), ds.load())


def test_an_origin_finds_what_is_open(suite: Suite, tmp_path: Path) -> None:
    registry = dde.DataDecideEvolved(suite.data, suite.wandb, cache_dir=tmp_path).repository.registry
    origin = origin_of(registry)
    assert origin is not None
    assert resolve_runs(origin) is registry
    with pytest.raises(SourceError, match="changed"):
        resolve_runs(type(origin)(**{**vars(origin), "key": "other", "tables_fingerprint": "x"}))


def test_stores_that_do_not_tell_are_not_kept(tmp_path: Path) -> None:
    store = FakeStore([sft("a", [1e8])], description="memory")
    for _ in range(2):
        dde.RunRepository(None, store, cache_dir=tmp_path).to_dataset()  # type: ignore[arg-type]
    assert store.listed == 2
