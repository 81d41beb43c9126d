"""Parts of the cache: whatever is refreshed, deleted, merged or killed, what is read is what the source has."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dde.cache import RaggedCache, holdings, parts, places, ragged
from dde.sources.protocols import History

KEYS = list("abcdef")
RUNS = [f"run {n}" for n in range(6)]


class Source:
    """Runs with their rows; counts what is fetched."""

    def __init__(self, seed: int = 0, rows: int = 7) -> None:
        self.random = np.random.default_rng(seed)
        self.rows = rows
        self.versions: dict[str, str] = {}
        self.steps: dict[str, np.ndarray[Any, Any]] = {}
        self.content: dict[tuple[str, str], np.ndarray[Any, Any]] = {}
        self.calls: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
        for run_id in RUNS:
            self.change(run_id)

    def change(self, run_id: str, *, version: bool = True) -> None:
        """Give a run other rows, and say so or not."""
        if version:
            self.versions[run_id] = f"{len(self.calls)}-{self.random.integers(1 << 30)}"
        count = int(self.random.integers(0, self.rows))
        self.steps[run_id] = np.sort(self.random.integers(0, 1 << 40, count))
        for key in KEYS:
            column = self.random.random(count)
            column[self.random.random(count) < 0.3] = np.nan
            self.content[run_id, key] = column

    def fetch(self, run_ids: Sequence[str], keys: Sequence[str]) -> History:
        self.calls.append((tuple(run_ids), tuple(keys)))
        return self.expected(run_ids, keys)

    def expected(self, run_ids: Sequence[str], keys: Sequence[str]) -> History:
        lengths = [len(self.steps[r]) for r in run_ids]
        return History(
            np.repeat(np.arange(len(run_ids), dtype=np.int32), lengths),
            np.concatenate([np.empty(0, np.int64), *(self.steps[r] for r in run_ids)]).astype(np.int64),
            {k: np.concatenate([np.empty(0), *(self.content[r, k] for r in run_ids)]) for k in keys},
        )

    def check(self, cache: RaggedCache, run_ids: Sequence[str], keys: Sequence[str]) -> None:
        found = cache.read(run_ids, [self.versions[r] for r in run_ids], keys, self.fetch)
        same(found, self.expected(run_ids, keys))


def same(found: History, expected: History) -> None:
    np.testing.assert_array_equal(found.run, expected.run)
    np.testing.assert_array_equal(found.step, expected.step)
    assert list(found.values) == list(expected.values)
    for key, column in expected.values.items():
        np.testing.assert_array_equal(found.values[key], column)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


some_runs = st.lists(st.sampled_from(RUNS), unique=True, max_size=len(RUNS))
some_keys = st.lists(st.sampled_from(KEYS), unique=True, max_size=len(KEYS))


class CacheBesideAModel(RuleBasedStateMachine):
    """Two caches of one folder, and a source that changes, beside what the source has."""

    folder: Path

    @initialize(seed=st.integers(0, 99))
    def begin(self, seed: int) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.source = Source(seed)
        self.caches = [RaggedCache(self.folder, "t") for _ in range(2)]

    @rule(which=st.integers(0, 1), run_ids=some_runs, keys=some_keys)
    def read(self, which: int, run_ids: list[str], keys: list[str]) -> None:
        self.source.check(self.caches[which], run_ids, keys)
        self.source.calls.clear()
        self.source.check(self.caches[which], run_ids, keys)
        assert not self.source.calls

    @rule(run_id=st.sampled_from(RUNS))
    def change(self, run_id: str) -> None:
        self.source.change(run_id)

    @rule(which=st.integers(0, 1))
    def another_process(self, which: int) -> None:
        self.caches[which] = RaggedCache(self.folder, "t")

    @rule(number=st.integers(0, 10_000))
    def a_part_is_deleted(self, number: int) -> None:
        if found := sorted(self.folder.glob("*.zarr")):
            shutil.rmtree(found[number % len(found)])

    @rule(number=st.integers(0, 10_000), cut=st.booleans())
    def a_file_is_damaged(self, number: int, cut: bool) -> None:
        # A process that has read a file goes on with what it read, so a new one comes.
        if found := sorted(p for p in self.folder.rglob("*") if p.is_file()):
            path = found[number % len(found)]
            if cut:
                path.write_bytes(path.read_bytes()[: number % (path.stat().st_size + 1)])
            else:
                path.unlink()
        self.caches = [RaggedCache(self.folder, "t") for _ in range(2)]

    @rule()
    def everything_is_deleted(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @rule(which=st.integers(0, 1))
    def what_is_old_goes(self, which: int) -> None:
        self.caches[which]._tidied = float("-inf")

    @invariant()
    def nothing_half_made_is_left(self) -> None:
        if self.folder.exists():
            assert not [n for n in names(self.folder) if n.startswith(places.MAKING)]


def test_a_cache_is_as_good_as_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As small as it goes, so that few steps meet every limit.
    for module, name, value in (
        (holdings, "MERGE_PARTS", 4),
        (ragged, "MERGE_PARTS", 4),
        (ragged, "KEEP_SECONDS", -1.0),
        (ragged, "_MEMORY_BYTES", 600),
        (parts, "CHUNK_ROWS", 4),
        (parts, "_SHARD_VALUES", 16),
        (parts, "_AT_ONCE_BYTES", 900),
    ):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr("dde.cache.assembly.CHUNK_ROWS", 4)
    monkeypatch.setattr(CacheBesideAModel, "folder", tmp_path / "c", raising=False)
    case = CacheBesideAModel.TestCase
    case.settings = settings(
        max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
    )
    case().runTest()


# What is fetched


def test_a_refresh_fetches_and_writes_what_changed(tmp_path: Path) -> None:
    source = Source()
    source.check(RaggedCache(tmp_path, "t"), RUNS, KEYS)
    before = names(tmp_path)
    source.change("run 3")
    source.check(RaggedCache(tmp_path, "t"), RUNS, KEYS)
    assert source.calls == [(tuple(RUNS), tuple(KEYS)), (("run 3",), tuple(KEYS))]
    [added] = set(names(tmp_path)) - set(before)
    assert zarr.open_group(tmp_path / added)["run_id"][...].tolist() == ["run 3"]


def test_what_a_fetch_brings_beyond_what_was_asked_is_kept(tmp_path: Path) -> None:
    source = Source()

    def generous(run_ids: Sequence[str], keys: Sequence[str]) -> History:
        return source.fetch(run_ids, KEYS)

    told = [source.versions[r] for r in RUNS]
    found = RaggedCache(tmp_path, "t").read(RUNS, told, ["a"], generous)
    same(found, source.expected(RUNS, ["a"]))
    source.check(RaggedCache(tmp_path, "t"), RUNS, KEYS)
    assert len(source.calls) == 1


def test_rows_that_changed_under_the_same_version_are_those_the_source_has_now(tmp_path: Path) -> None:
    source = Source()
    cache = RaggedCache(tmp_path, "t")
    source.check(cache, RUNS, ["a", "b"])
    for run_id in RUNS:
        source.change(run_id, version=False)
    # Read in one go, so that no column has rows of its own; 'a' is fetched anew with them.
    source.check(cache, RUNS, ["a", "c"])
    source.check(RaggedCache(tmp_path, "t"), RUNS, ["a", "c"])
    source.check(RaggedCache(tmp_path, "t"), RUNS, ["b"])
    assert [keys for _, keys in source.calls] == [("a", "b"), ("c",), ("a", "c"), ("b",)]


def test_what_is_returned_cannot_be_changed_for_others(tmp_path: Path) -> None:
    source = Source()
    cache = RaggedCache(tmp_path, "t")
    for _ in range(3):
        found = cache.read(RUNS, [source.versions[r] for r in RUNS], KEYS, source.fetch)
        for column in (found.run, found.step, *found.values.values()):
            assert not column.flags.writeable
    assert source.fetch(RUNS, ["a"]).values["a"].flags.writeable


def test_some_runs_of_many_are_read_without_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, rows = 400, 1000
    run_ids = [f"{n:04}" for n in range(count)]

    def fetch(ids: Sequence[str], keys: Sequence[str]) -> History:
        number = np.array([int(i) for i in ids])
        run = np.repeat(np.arange(len(ids), dtype=np.int32), rows)
        return History(run, np.tile(np.arange(rows), len(ids)), {k: np.repeat(number * 1.0, rows) for k in keys})

    RaggedCache(tmp_path, "t").read(run_ids, ["1"] * count, KEYS, fetch)
    read: list[int] = []
    genuine = parts.PartArrays.values

    def noted(self: Any, keys: Sequence[int], first: int, end: int) -> Any:
        read.append(end - first)
        return genuine(self, keys, first, end)

    monkeypatch.setattr(parts.PartArrays, "values", noted)
    for some in (run_ids[150:170], [run_ids[399], run_ids[2], run_ids[5]]):
        read.clear()
        found = RaggedCache(tmp_path, "t").read(some, ["1"] * len(some), ["b"], _refuse)
        same(found, fetch(some, ["b"]))
        assert sum(read) <= 2 * parts.CHUNK_ROWS < count * rows


def _refuse(run_ids: Sequence[str], keys: Sequence[str]) -> History:
    raise AssertionError((run_ids, keys))


def test_a_chunk_that_begins_with_the_fill_value_is_whole(tmp_path: Path) -> None:
    least = float(np.finfo(np.float64).min)

    def fetch(ids: Sequence[str], keys: Sequence[str]) -> History:
        return History(np.zeros(3, np.int32), np.arange(3), {k: np.full(3, least) for k in keys})

    RaggedCache(tmp_path, "t").read(["r"], ["1"], ["a"], fetch)
    found = RaggedCache(tmp_path, "t").read(["r"], ["1"], ["a"], _refuse)
    assert (found.values["a"] == least).all()


def flipped(content: bytes, at: int) -> bytes:
    """Return `content` with one bit of one byte changed."""
    return content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :]


@pytest.mark.parametrize("array", ["values", "step"])
def test_a_flipped_bit_of_a_chunk_is_never_a_value(tmp_path: Path, array: str) -> None:
    source = Source(rows=9)
    whole = tmp_path / "whole"
    source.check(RaggedCache(whole, "t"), RUNS, KEYS)
    chunks = [p.relative_to(whole) for p in whole.rglob("*") if p.is_file() and f"/{array}/c/" in p.as_posix()]
    assert chunks
    refetched = 0
    for chunk in chunks:
        content = (whole / chunk).read_bytes()
        for at in np.linspace(0, len(content) - 1, 60).astype(int).tolist():
            folder = tmp_path / "damaged"
            shutil.copytree(whole, folder)
            (folder / chunk).write_bytes(flipped(content, at))
            source.calls.clear()
            # What comes out is what the source has: read from it again, or not damaged at all.
            source.check(RaggedCache(folder, "t"), RUNS, KEYS)
            refetched += bool(source.calls)
            shutil.rmtree(folder)
    assert refetched > 50 * len(chunks)


# Merging and removing


@pytest.mark.parametrize("part_bytes", [32 << 20, 1])
def test_many_small_parts_become_few_and_the_old_ones_go(
    part_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At the least, each run is a part of its own, with all of its keys.
    monkeypatch.setattr(holdings, "_PART_BYTES", part_bytes)
    check_merging(tmp_path, monkeypatch)


def check_merging(folder: Path | str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill a cache in a folder or at a URL by the smallest parts, and see what is left of them."""
    source, place = Source(), places.Place(folder)
    for key in KEYS:
        for run_id in RUNS:
            source.check(RaggedCache(folder, "t"), [run_id], [key])
    assert len(source.calls) == 36
    cache = RaggedCache(folder, "t")
    source.check(cache, RUNS, KEYS)
    assert len(source.calls) == 36
    # Those that were merged needn't be looked at, though they stay for who is reading them.
    assert len(cache._heads) < len(place.names()) - holdings.MERGE_PARTS / 2
    monkeypatch.setattr(ragged, "KEEP_SECONDS", -1.0)
    source.change("run 0")
    source.check(RaggedCache(folder, "t"), RUNS, KEYS)
    assert len(place.names()) < holdings.MERGE_PARTS
    source.calls.clear()
    source.check(RaggedCache(folder, "t"), RUNS, KEYS)
    assert not source.calls


def test_outdated_parts_go_when_nobody_can_be_reading_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    for _ in range(3):
        for run_id in RUNS:
            source.change(run_id)
        source.check(RaggedCache(tmp_path, "t"), RUNS, KEYS)
    assert len(names(tmp_path)) == 3
    monkeypatch.setattr(ragged, "KEEP_SECONDS", -1.0)
    source.change("run 1")
    source.check(RaggedCache(tmp_path, "t"), RUNS, KEYS)
    assert len(names(tmp_path)) == 2


def test_what_earlier_releases_and_dead_writers_left_goes_in_time(tmp_path: Path) -> None:
    for name in ("0123456789abcdef.zarr", ".making-0123456789abcdef", "current"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1, 1))
    (tmp_path / ".making-now").mkdir()
    source = Source()
    source.check(RaggedCache(tmp_path, "t"), RUNS, KEYS)
    assert len(names(tmp_path)) == 2
    assert ".making-now" in names(tmp_path)


# Processes


def fill_for_ever(folder: str, number: int) -> None:
    """Read through a cache in a folder or at a URL, and remove parts of it, without an end."""
    source = Source(0, rows=2000)
    choice = random.Random(number)
    while True:
        cache = RaggedCache(folder, "t")
        for _ in range(5):
            run_ids, keys = choice.sample(RUNS, choice.randint(1, 6)), choice.sample(KEYS, choice.randint(1, 6))
            source.check(cache, run_ids, keys)
            if choice.random() < 0.3:
                place = places.Place(folder)
                for name in [n for n in place.names() if n.endswith(".zarr")][:1]:
                    # As the cache removes them; a deletion by hand that is killed leaves half a part.
                    (place / name).remove()


def test_writers_that_are_killed_show_nothing_half(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    folder = tmp_path / "c"
    source = Source(0, rows=2000)
    for attempt in range(2):
        writers = [context.Process(target=fill_for_ever, args=(str(folder), 10 * attempt + n)) for n in range(2)]
        for process in writers:
            process.start()
        end = time.monotonic() + 60
        while not list(folder.glob("*.zarr")) and time.monotonic() < end:
            time.sleep(0.01)
        # A reader meanwhile, that adds too.
        for n in range(20):
            source.check(RaggedCache(folder, "t"), RUNS[: 1 + n % 6], KEYS[n % 6 :])
        assert all(p.exitcode is None for p in writers)
        for process in writers:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        for process in writers:
            process.join(60)
        source.check(RaggedCache(folder, "t"), RUNS, KEYS)
    for part in folder.glob("*.zarr"):
        with xr.open_zarr(part) as ds:
            assert ds.load().sizes["key"]
            assert not (ds["values"] == zarr.open_array(part / "values").fill_value).any()


def test_threads_and_a_folder_that_keeps_being_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    source = Source(rows=500)
    shared = RaggedCache(folder, "t")

    def work(number: int) -> None:
        choice = random.Random(number)
        for turn in range(12):
            cache = shared if number % 2 else RaggedCache(folder, "t")
            source.check(cache, choice.sample(RUNS, 4), choice.sample(KEYS, 3))
            if number == 0 and turn % 3 == 0:
                shutil.rmtree(folder, ignore_errors=True)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    source.check(RaggedCache(folder, "t"), RUNS, KEYS)
