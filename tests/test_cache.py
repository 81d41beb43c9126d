"""The cache: read once, refreshed run by run, whole at any moment, and safe to delete."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray as xr

import dde
from dde.cache import RaggedCache, cache_size, clear_cache
from dde.entities.repository import RunRepository
from dde.errors import DdeWarning
from dde.sources.protocols import History
from dde.suite.datadecide.tables.row_index import RowIndex
from dde.suite.datadecide.tables.table_files import TableFile
from dde.tutorial import Suite
from fakes import FakeStore, FakeTables, sft


def make() -> tuple[FakeTables, FakeStore]:
    rows = {0: {"piqa": 0.5, "boolq": 0.4}, 5725: {"piqa": 0.6, "boolq": 0.5}}
    tables = FakeTables({"dolma1_7-4M-default": rows, "c4-4M-default": rows}, description="tables")
    store = FakeStore([sft(n, [100.0, 200.0], evaluations={"piqa": 0.7}) for n in "abc"], description="store")
    return tables, store


def opened(tables: FakeTables, store: FakeStore, folder: Path) -> xr.Dataset:
    return RunRepository(tables, store, cache_dir=folder).to_dataset(metrics=["piqa", "train_loss"])  # type: ignore[arg-type]


def test_a_second_process_reads_nothing_from_the_sources(tmp_path: Path) -> None:
    first = opened(*make(), tmp_path).load()
    tables, store = make()
    again = opened(tables, store, tmp_path).load()
    xr.testing.assert_identical(again, first)
    assert (tables.calls, store.history_calls, store.evaluation_calls) == ([], [], [])


def test_clearing_continues_what_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(*make(), tmp_path).load()
    (tmp_path / ".making-notes").mkdir()
    (tmp_path / ".making-notes" / "mine.txt").write_text("mine")

    def killed(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dde.cache.storage.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            clear_cache(tmp_path)
    assert clear_cache(tmp_path) > 0
    assert [path.name for path in tmp_path.iterdir()] == [".making-notes"]
    assert (tmp_path / ".making-notes" / "mine.txt").exists()


def test_disagreeing_rows_in_the_cache_are_warned_of_once_per_opening(tmp_path: Path) -> None:
    tables, store = make()
    tables.conflicts = ["row 7 of a.parquet"]
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        RunRepository(tables, store, cache_dir=tmp_path).to_dataset(metrics=["piqa", "boolq"]).load()  # type: ignore[arg-type]
        # The tables themselves warn of what they read.
        assert not issued
        for times in (1, 2):
            repository = RunRepository(*make(), cache_dir=tmp_path)  # type: ignore[arg-type]
            for metric in ("piqa", "boolq", "piqa"):
                repository.to_dataset(metrics=[metric]).load()
            assert [str(w.message).count("row 7 of a.parquet") for w in issued] == [1] * times


def test_a_new_or_changed_run_is_read_alone(tmp_path: Path) -> None:
    opened(*make(), tmp_path).load()
    tables, store = make()
    store.fake_runs[1] = sft("b", [100.0, 300.0], version="2", evaluations={"piqa": 0.8})
    store.fake_runs.append(sft("d", [50.0]))
    fresh = opened(tables, store, tmp_path).load()
    assert tables.calls == []
    assert {ids for ids, _ in store.history_calls} == {("b", "d")}
    assert {ids for ids, _ in store.evaluation_calls} == {("b", "d")}
    expected = opened(*make_changed(), tmp_path / "none").load()
    xr.testing.assert_equal(fresh, expected)


def make_changed() -> tuple[FakeTables, FakeStore]:
    tables, store = make()
    store.fake_runs[1] = sft("b", [100.0, 300.0], version="2", evaluations={"piqa": 0.8})
    store.fake_runs.append(sft("d", [50.0]))
    return tables, store


def test_only_what_is_asked_for_is_read_and_kept(tmp_path: Path) -> None:
    tables, store = make()
    ds = RunRepository(tables, store, cache_dir=tmp_path).to_dataset()  # type: ignore[arg-type]
    _ = ds.piqa.sel(lineage="c4-4M-default").values
    assert tables.calls == [(("c4-4M-default",), ("piqa",))]
    _ = ds.piqa.values
    # The run that is there already is not read again.
    assert tables.calls[1:] == [(("dolma1_7-4M-default",), ("piqa",))]
    _ = ds.boolq.values
    assert [c[1] for c in tables.calls[2:]] == [("boolq",)]


def test_changed_tables_are_read_anew(tmp_path: Path) -> None:
    opened(*make(), tmp_path).load()
    tables, store = make()
    tables.fingerprint = "changed"
    opened(tables, store, tmp_path).load()
    assert len(tables.calls) == 1
    assert store.history_calls == []


def test_a_run_without_a_version_is_never_cached(tmp_path: Path) -> None:
    for _ in range(2):
        tables, store = make()
        store.fake_runs = [sft("a", [100.0], version="")]
        opened(tables, store, tmp_path).load()
        assert store.history_calls


@pytest.mark.parametrize("damage", ["everything", "metadata", "chunks", "cut", "garbled", "parts"])
def test_deleting_or_damaging_anything_costs_time_only(tmp_path: Path, damage: str) -> None:
    expected = opened(*make(), tmp_path).load()
    tables, store = make()
    ds = opened(tables, store, tmp_path)
    for folder in (tmp_path / "tables", tmp_path / "history", tmp_path / "summaries"):
        [cache] = folder.iterdir()
        parts = list(cache.glob("*.zarr"))
        assert parts
        if damage == "everything":
            shutil.rmtree(tmp_path, ignore_errors=True)
            break
        for part in parts:
            if damage == "parts":
                shutil.rmtree(part)
            elif damage == "metadata":
                (part / "zarr.json").write_text((part / "zarr.json").read_text()[:-9])
            else:
                chunks = [f for f in part.rglob("*") if f.is_file() and f.name != "zarr.json"]
                for chunk in chunks:
                    content = chunk.read_bytes()
                    if damage == "chunks":
                        chunk.unlink()
                    else:
                        half = len(content) // 2
                        chunk.write_bytes(content[:half] + (b"" if damage == "cut" else bytes(len(content) - half)))
    xr.testing.assert_identical(ds.load(), expected)
    # Of the training log the dataset knows since it was opened where it is.
    assert len(tables.calls) == 1
    assert store.history_calls or damage == "metadata"


def test_anyone_reads_it_with_plain_xarray(tmp_path: Path) -> None:
    opened(*make(), tmp_path).load()
    [cache] = (tmp_path / "history").iterdir()
    part = max(cache.glob("*.zarr"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for consolidated in (None, True, False):
            ds = xr.open_zarr(part, consolidated=consolidated).load()
            xr.testing.assert_identical(xr.open_dataset(part, engine="zarr", consolidated=consolidated).load(), ds)
    assert ds.run_id.values.tolist() == ["a", "b", "c"]
    assert ds["values"].sel(key="train_loss").values.tolist() == [1.0, 0.5] * 3
    assert ds["values"].dims == ("key", "row")
    assert ds.row_offset.values.tolist() == [0, 2, 4, 6]
    assert ds.step.values.tolist() == [100, 200] * 3
    assert set(ds.coords) == {"run_id", "version", "step", "key"}


def _fill(folder: str, number: int) -> None:
    def fetch(run_ids: object, keys: object) -> History:
        return History(np.zeros(1000, np.int32), np.arange(1000), {f"k{number}": np.full(1000, float(number))})

    cache = RaggedCache(Path(folder), "test")
    for _ in range(5):
        rows = cache.read(["r"], ["1"], [f"k{number}"], fetch)
        assert (rows.values[f"k{number}"] == number).all()
        assert len(rows.step) == 1000


def test_many_writers_at_once_never_show_half_of_anything(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_fill, args=(str(tmp_path / "c"), n)) for n in range(4)]
    for process in writers:
        process.start()
    for process in writers:
        process.join(60)
    assert [p.exitcode for p in writers] == [0] * 4


def _value(run_id: str, key: str) -> float:
    return float(ord(run_id[-1]) * 1000 + ord(key[-1]))


def _rows_of(run_ids: Sequence[str], keys: Sequence[str]) -> History:
    # Runs of different lengths, so that rows of one in the place of another can't go unnoticed.
    lengths = [1 + ord(r[-1]) % 5 for r in run_ids]
    step = np.concatenate([np.arange(n) for n in lengths]).astype(np.int64)
    values = {
        k: np.concatenate([np.full(n, _value(r, k)) for r, n in zip(run_ids, lengths, strict=True)]) for k in keys
    }
    return History(np.repeat(np.arange(len(run_ids), dtype=np.int32), lengths), step, values)


def _held(cache: RaggedCache, run_ids: Sequence[str], keys: Sequence[str]) -> bool:
    rows, expected = cache.read(run_ids, ["1"] * len(run_ids), keys, _rows_of), _rows_of(run_ids, keys)
    return all(np.array_equal(rows.values[k], expected.values[k]) for k in keys)


def test_threads_that_share_a_cache_get_their_own_rows(tmp_path: Path) -> None:
    cache = RaggedCache(tmp_path, "t")
    blocks = [([r], [k]) for k in "abc" for r in "pqrstuvw"]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda block: _held(cache, *block), blocks))
    again = RaggedCache(tmp_path, "t")
    assert _held(again, list("pqrstuvw"), list("abc"))
    assert _held(pickle.loads(pickle.dumps(again)), ["q"], ["b"])


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tables, store = make()
    with pytest.warns(DdeWarning, match="can't be written") as caught:
        ds = opened(tables, store, tmp_path / "file" / "cache").load()
    assert len(caught) <= 3  # one per kind of rows
    xr.testing.assert_equal(ds, opened(*make(), tmp_path / "good").load())


def test_size_and_clearing(tmp_path: Path) -> None:
    assert cache_size(tmp_path / "absent") == []
    opened(*make(), tmp_path).load()
    (tmp_path / "mine.txt").write_text("not dde's")
    entries = cache_size(tmp_path)
    rows = {"pretraining evaluations", "training logs", "final evaluations"}
    assert {e.kind for e in entries} == rows | {"records of post-training runs"}
    assert all(e.bytes > 0 and e.files > 0 for e in entries)
    assert clear_cache(tmp_path) == sum(e.bytes for e in entries)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


# Row indexes of tables


def _suite_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have every reading of key columns noted."""
    from dde.suite.datadecide.tables import evaluation_tables

    seen: list[str] = []
    read = evaluation_tables.read_row_index

    def noted(files: Sequence[TableFile]) -> RowIndex:
        seen.extend(file.path for file in files)
        return read(files)

    monkeypatch.setattr(evaluation_tables, "read_row_index", noted)
    return seen


def test_opening_again_reads_no_keys(tiny_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = tiny_suite
    cache = tmp_path / "cache"
    seen = _suite_reads(monkeypatch)
    first = dde.open_lineages(suite.data, suite.wandb, cache_dir=cache)
    assert seen
    seen.clear()
    again = dde.open_lineages(suite.data, suite.wandb, cache_dir=cache)
    assert first.attrs == again.attrs
    assert not seen
    # A metric that is not kept yet needs the rows, which are.
    xr.testing.assert_identical(first.arc_easy.load(), again.arc_easy.load())
    assert not seen
    assert "index" in {e.name.split("/")[0] for e in cache_size(cache)}


def test_changed_tables_are_indexed_anew(own_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = own_suite
    options: dict[str, Any] = {"cache_dir": tmp_path / "cache", "metrics": ["arc_easy"]}
    dde.open_lineages(suite.data, None, **options)
    seen = _suite_reads(monkeypatch)
    path = next(p for p in sorted(Path(suite.data).rglob("*.parquet")) if "task" in pq.read_schema(p).names)
    path.write_bytes(path.read_bytes())
    os.utime(path, (1, 1))
    dde.open_lineages(suite.data, None, **options)
    assert str(path) in seen


@pytest.mark.parametrize("damage", ["cut", "foreign", "gone"])
def test_a_damaged_index_is_read_again(tiny_suite: Suite, tmp_path: Path, damage: str) -> None:
    suite = tiny_suite
    options: dict[str, Any] = {"cache_dir": tmp_path / "cache", "metrics": ["arc_easy"]}
    expected = dde.open_lineages(suite.data, None, **options).load()
    files = list((tmp_path / "cache" / "index").glob("*/rows-*.npz"))
    assert files
    for file in files:
        content = file.read_bytes()
        if damage == "cut":
            file.write_bytes(content[: len(content) // 2])
        elif damage == "foreign":
            file.write_text("{")
        else:
            file.unlink()
    shutil.rmtree(tmp_path / "cache" / "tables")
    xr.testing.assert_identical(dde.open_lineages(suite.data, None, **options).load(), expected)


def test_a_flipped_bit_of_an_index_is_read_again(tiny_suite: Suite, tmp_path: Path) -> None:
    suite = tiny_suite
    options = {"params": "4M", "metrics": ["arc_easy"], "grid": "union"}
    truth = dde.open_lineages(suite.data, None, cache_dir=None, **options).arc_easy.values
    dde.open_lineages(suite.data, None, cache_dir=tmp_path / "whole", **options)
    files = list((tmp_path / "whole").rglob("rows-*.npz"))
    assert files
    places = [(file, share) for file in files for share in (0.1, 0.3, 0.5, 0.7, 0.9)]
    for number, (file, share) in enumerate(places):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", folder)
        content = bytearray(file.read_bytes())
        content[int(len(content) * share)] ^= 4
        (folder / file.relative_to(tmp_path / "whole")).write_bytes(content)
        found = dde.open_lineages(suite.data, None, cache_dir=folder, **options).arc_easy.values
        np.testing.assert_array_equal(found, truth)
