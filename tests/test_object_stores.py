"""Cache and tables in object stores: an S3 server of this machine, and fsspec's memory."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import dde
from dde.cache import RaggedCache, cache_size, clear_cache, compact_cache, compaction
from dde.cache.compaction import compact
from dde.cache.manifest import FORMAT
from dde.cache.storage import Storage
from dde.cli.app import app
from dde.errors import DdeWarning
from s3_server import counted_requests, running_s3
from test_cache import make, opened
from test_cache_parts import KEYS, RUNS, Source, check_compaction, fill_for_ever

SECRET = "s3cr3t-of-a-test"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_s3(tmp_path_factory.mktemp("s3") / "log") as address:
        yield address


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The URL of an empty bucket."""
    for name, value in (
        ("AWS_ENDPOINT_URL", server),
        ("AWS_ACCESS_KEY_ID", "testing"),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        monkeypatch.setenv(name, value)
    import s3fs

    name = f"b{abs(hash(request.node.name)) % 10**12}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def memory() -> Iterator[str]:
    fs = fsspec.filesystem("memory")
    yield "memory://dde-cache"
    if fs.exists("/dde-cache"):
        fs.rm("/dde-cache", recursive=True)


@pytest.fixture(params=["bucket", "memory"])
def store(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def test_a_cache_in_an_object_store(store: str) -> None:
    source = Source()
    url = f"{store}/c"
    source.check(RaggedCache(url, "t"), RUNS, KEYS)
    source.check(RaggedCache(url, "t"), RUNS[::-1], KEYS[1:4])
    assert len(source.calls) == 1
    source.change("run 2")
    source.check(pickle.loads(pickle.dumps(RaggedCache(url, "t"))), RUNS, KEYS)
    assert source.calls[1:] == [(("run 2",), tuple(KEYS))]
    # Large enough for being written shard by shard.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dde.cache.segments._WRITE_BYTES", 0)
        source.change("run 3")
        source.check(RaggedCache(url, "t"), RUNS, KEYS)
    source.check(RaggedCache(url, "t"), RUNS, KEYS)
    assert len(source.calls) == 3


def test_a_dataset_with_its_cache_in_an_object_store(store: str) -> None:
    url = f"{store}/d"
    first = opened(*make(), url).load()  # type: ignore[arg-type]
    tables, wandb = make()
    xr.testing.assert_identical(opened(tables, wandb, url).load(), first)  # type: ignore[arg-type]
    assert (tables.calls, wandb.history_calls, wandb.evaluation_calls) == ([], [], [])
    entries = cache_size(url)
    rows = {"pretraining evaluations", "training logs", "final evaluations"}
    assert {e.kind for e in entries} == rows | {"records of post-training runs"}
    shown = CliRunner().invoke(app, ["cache", "size", "--cache-dir", url])
    assert shown.exit_code == 0, shown.output
    assert f"{url} holds" in shown.output
    compacted = compact_cache(url)
    assert {name.partition("/")[0] for name in compacted} == {"tables", "history", "summaries"}
    assert all(done.after == 1 for done in compacted.values())
    tables, wandb = make()
    xr.testing.assert_identical(opened(tables, wandb, url).load(), first)  # type: ignore[arg-type]
    assert (tables.calls, wandb.history_calls, wandb.evaluation_calls) == ([], [], [])
    entries = cache_size(url)
    assert clear_cache(url) == sum(e.bytes for e in entries) > 0
    assert cache_size(url) == []


def test_anyone_reads_a_segment_by_its_url(bucket: str) -> None:
    source = Source()
    source.check(RaggedCache(f"{bucket}/c", "t"), RUNS, KEYS)
    [name] = Storage(f"{bucket}/c").names()
    ds = xr.open_zarr(f"{bucket}/c/{name}").load()
    np.testing.assert_array_equal(ds["values"].sel(key="b"), source.expected(RUNS, KEYS).values["b"])


def test_requests_are_few(bucket: str) -> None:
    source = Source(rows=50)
    with counted_requests() as filling:
        source.check(RaggedCache(f"{bucket}/c", "t"), RUNS, KEYS)
    assert filling.names["put_object"] == 13
    assert filling.count <= 18
    # What makes it whole comes last.
    assert [key for name, key in filling.keys if name == "put_object"][-1].count("/") == 2
    with counted_requests() as reading:
        source.check(RaggedCache(f"{bucket}/c", "t"), RUNS, ["a", "c", "f"])
    # A listing, a head, steps (their size and they), the index of the shard, three chunks.
    assert reading.count <= 8
    with counted_requests() as refreshing:
        source.change("run 1")
        source.check(RaggedCache(f"{bucket}/c", "t"), RUNS, KEYS)
    assert refreshing.names["put_object"] == 13
    cache = RaggedCache(f"{bucket}/c", "t")
    source.check(cache, RUNS, ["a"])
    with counted_requests() as again:
        source.check(cache, RUNS, ["a"])
    assert again.count == 0


def _fill(url: str, number: int) -> None:
    source = Source(rows=400)
    for turn in range(6):
        run_ids = RUNS[(turn + number) % 6 :] + RUNS[: number + 1]
        source.check(RaggedCache(url, "t"), list(dict.fromkeys(run_ids)), KEYS[turn : turn + 2 + number])


@pytest.mark.slow
def test_two_processes_fill_at_once_and_a_reader_meanwhile(bucket: str) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_fill, args=(f"{bucket}/c", n)) for n in range(2)]
    for process in writers:
        process.start()
    source = Source(rows=400)
    turn = 0
    while any(p.is_alive() for p in writers):
        source.check(RaggedCache(f"{bucket}/c", "t"), RUNS[turn % 6 :], KEYS[: 1 + turn % 6])
        turn += 1
    assert [p.exitcode for p in writers] == [0, 0]
    source.calls.clear()
    source.check(RaggedCache(f"{bucket}/c", "t"), RUNS, ["a"])


@pytest.mark.slow
def test_writers_that_are_killed_show_nothing_half(bucket: str) -> None:
    context = multiprocessing.get_context("spawn")
    url, place = f"{bucket}/c", Storage(f"{bucket}/c")
    writers = [context.Process(target=fill_for_ever, args=(url, n)) for n in range(2)]
    for process in writers:
        process.start()
    end = time.monotonic() + 60
    while not place.names() and time.monotonic() < end:
        time.sleep(0.05)
    source = Source(0, rows=2000)
    for n in range(6):
        source.check(RaggedCache(url, "t"), RUNS[: 1 + n], KEYS[n:])
    assert all(p.exitcode is None for p in writers)
    for process in writers:
        process.kill()
        process.join(60)
    source.check(RaggedCache(url, "t"), RUNS, KEYS)
    source.calls.clear()
    source.check(RaggedCache(url, "t"), RUNS, KEYS)
    assert not source.calls


@pytest.mark.slow
def test_many_small_segments_become_few(store: str) -> None:
    check_compaction(f"{store}/c", 1)


def test_what_is_not_whole_is_not_seen_and_goes_in_time(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    url = f"{store}/c"
    source.check(RaggedCache(url, "t"), RUNS, KEYS)
    place = Storage(url)
    [whole] = place.names()
    # As a writer leaves it that dies before its last request.
    dead = f"1577836800000000-{'0' * 12}.v{FORMAT}.zarr"
    files = place.read([f"{whole}/{f.path}" for f in (place / whole).files() if f.path != "zarr.json"])
    place.write({path.replace(whole, dead): content for path, content in files.items()})
    assert place.names() == [dead, whole]
    source.check(RaggedCache(url, "t"), RUNS, KEYS)
    assert len(source.calls) == 1
    # It may still be written.
    compact(place)
    assert place.names() == [dead, whole]
    monkeypatch.setattr(compaction, "_UNFINISHED_SECONDS", -1.0)
    compact(place)
    assert place.names() == [whole]
    source.check(RaggedCache(url, "t"), RUNS, KEYS)
    assert len(source.calls) == 1


def test_missing_objects_are_read_again(store: str) -> None:
    source = Source()
    url = f"{store}/c"
    for name in ("values/c/0/0", "step/c/0", "zarr.json"):
        source.check(RaggedCache(url, "t"), RUNS, KEYS)
        for part in Storage(url).names():
            (Storage(url) / part / name).remove()
            fs, path = fsspec.core.url_to_fs(f"{url}/{part}/{name}")
            if fs.exists(path):
                fs.rm(path)
        source.calls.clear()
        source.check(RaggedCache(url, "t"), RUNS, KEYS)
        assert len(source.calls) == 1


def test_a_store_that_cannot_be_reached_is_said_once_without_credentials(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source()
    cache = RaggedCache("s3://no-such-bucket-of-dde/c?token=" + SECRET, "t")
    with pytest.warns(DdeWarning, match="can't be written") as caught:
        source.check(cache, RUNS, KEYS)
    source.check(cache, RUNS, KEYS)
    assert len(caught) == 1
    assert len(source.calls) == 1
    assert SECRET not in str(caught[0].message) + repr(cache.storage) + str(pickle.dumps(cache))


# Tables


def test_tables_in_an_object_store_are_read_by_ranges(bucket: str, tmp_path: Path) -> None:
    suite = dde.tutorial.make_suite(tmp_path / "suite", "tiny")
    fs = fsspec.filesystem("s3")
    fs.put(suite.data, f"{bucket}/suite", recursive=True)
    total = sum(p.stat().st_size for p in Path(suite.data).rglob("*.parquet"))
    options = {"cache_dir": None, "metrics": ["arc_easy", "train_loss"]}
    with counted_requests() as asked:
        ds = dde.open_lineages(f"{bucket}/suite", suite.wandb, **options)
        opening = (asked.count, asked.read)
        ds.load()
    expected = dde.open_lineages(suite.data, suite.wandb, **options).load()
    xr.testing.assert_equal(ds, expected)
    # Opening reads footers and keys; neither it nor reading fetches a byte twice.
    assert opening[1] < total / 5
    assert asked.read < total
    assert asked.count <= 40
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(ds.attrs)
