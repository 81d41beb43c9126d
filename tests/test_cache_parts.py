"""Segments of the cache: whatever is refreshed, deleted, compacted or killed, reads give what the source has."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
import zipfile
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

from dde.cache import RaggedCache, compact_cache, compaction, lookup, ragged, segments
from dde.cache.compaction import compact
from dde.cache.index_files import read_index_file, write_index_file
from dde.cache.manifest import FORMAT, segment_name
from dde.cache.storage import UNFINISHED, Storage
from dde.errors import SourceError
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
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


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
    def a_segment_is_deleted(self, number: int) -> None:
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

    @rule()
    def another_process_compacts(self) -> None:
        compact(Storage(self.folder))

    @rule(run_ids=some_runs, keys=some_keys)
    def compacting_loses_nothing(self, run_ids: list[str], keys: list[str]) -> None:
        self.source.check(RaggedCache(self.folder, "t"), run_ids, keys)
        compact(Storage(self.folder))
        self.source.calls.clear()
        self.source.check(RaggedCache(self.folder, "t"), run_ids, keys)
        assert not self.source.calls
        # The last pieces of a merge may be small enough to be merged once more, into fewer.
        for _ in range(10):
            left = names(self.folder)
            done = compact(Storage(self.folder))
            assert done.after <= done.before
            if names(self.folder) == left:
                break
        else:
            raise AssertionError("compacting has no end")

    @invariant()
    def nothing_half_made_is_left(self) -> None:
        if self.folder.exists():
            assert not [n for n in names(self.folder) if n.startswith(UNFINISHED)]


def test_a_cache_is_as_good_as_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As small as it goes, so that few steps meet every limit.
    for module, name, value in (
        (compaction, "_SMALL_BYTES", 400),
        (compaction, "_SEGMENT_BYTES", 500),
        (compaction, "_GRACE_SECONDS", 0.0),
        (ragged, "_MEMORY_BYTES", 600),
        (lookup, "CHUNK_ROWS", 4),
        (segments, "CHUNK_ROWS", 4),
        (segments, "_SHARD_VALUES", 16),
        (segments, "_WRITE_BYTES", 900),
    ):
        monkeypatch.setattr(module, name, value)
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

    versions = [source.versions[r] for r in RUNS]
    found = RaggedCache(tmp_path, "t").read(RUNS, versions, ["a"], generous)
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


def test_an_incomplete_lookup_has_no_rows(tmp_path: Path) -> None:
    source = Source()
    cache = RaggedCache(tmp_path, "rows")
    source.check(cache, RUNS[:2], KEYS[:1])
    manifests = list(cache._manifests.values())
    for runs, keys in ((RUNS[:3], KEYS[:1]), (RUNS[:2], KEYS[:2])):
        found = lookup.look_up(manifests, tuple(runs), tuple(source.versions[r] for r in runs), keys)
        with pytest.raises(SourceError, match=rf"values of {1 if runs == RUNS[:3] else 2} of {len(runs)} runs"):
            lookup.gather(found, keys, cache._reader)


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
    genuine = segments.SegmentReader._read

    def noted(self: Any, manifest: Any, keys: Sequence[str | None], first: int, end: int) -> Any:
        read.append(end - first)
        return genuine(self, manifest, keys, first, end)

    monkeypatch.setattr(segments.SegmentReader, "_read", noted)
    for some in (run_ids[150:170], [run_ids[399], run_ids[2], run_ids[5]]):
        read.clear()
        found = RaggedCache(tmp_path, "t").read(some, ["1"] * len(some), ["b"], _refuse)
        same(found, fetch(some, ["b"]))
        assert 0 < sum(read) <= 2 * segments.CHUNK_ROWS < count * rows


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


# Compaction


@pytest.mark.parametrize("segment_bytes", [32 << 20, 1])
def test_many_small_segments_become_few(segment_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # At the least, each run is a segment of its own, with all of its keys.
    monkeypatch.setattr(compaction, "_SEGMENT_BYTES", segment_bytes)
    check_compaction(tmp_path, 1 if segment_bytes > 1 else len(RUNS))


def check_compaction(folder: Path | str, most: int) -> None:
    """Fill a cache, a folder or URL, with the smallest segments, and compact it to a number of segments."""
    source, storage = Source(), Storage(folder)
    for key in KEYS:
        for run_id in RUNS:
            source.check(RaggedCache(folder, "t"), [run_id], [key])
    reader = RaggedCache(folder, "t")
    source.check(reader, RUNS, KEYS[:2])
    assert len(source.calls) == len(storage.names()) == 36
    done = compact(storage)
    assert (done.before, done.damaged) == (36, 0)
    assert len(storage.names()) == done.after <= most
    source.check(RaggedCache(folder, "t"), RUNS, KEYS)
    # One that knows the segments that are gone finds the new ones.
    source.check(reader, RUNS[::-1], KEYS)
    assert len(source.calls) == 36
    assert compact(storage) == compaction.Compaction(done.after, done.after, 0)


def test_a_merge_that_saves_too_few_segments_is_put_off(tmp_path: Path) -> None:
    source = Source()
    for n, key in enumerate(KEYS):
        source.check(RaggedCache(tmp_path, "t"), RUNS, [key])
        assert compact(Storage(tmp_path), least=5).after == (1 if key == KEYS[5] else n + 1)
    assert compact(Storage(tmp_path)).after == 1


def test_reading_and_writing_never_merge_or_remove(tmp_path: Path) -> None:
    source = Source()
    seen: set[str] = set()
    for n in range(40):
        source.change(RUNS[n % 6])
        source.check(RaggedCache(tmp_path, "t"), RUNS, KEYS)
        assert seen < set(names(tmp_path))
        seen = set(names(tmp_path))
    assert len(seen) == 40


def test_superseded_segments_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_GRACE_SECONDS", 0.0)
    source = Source()
    for _ in range(3):
        for run_id in RUNS:
            source.change(run_id)
        source.check(RaggedCache(tmp_path, "t"), RUNS, KEYS)
    newest = max(names(tmp_path))
    assert compact(Storage(tmp_path)).after == 1
    assert names(tmp_path) == [newest]


def test_large_segments_are_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_SMALL_BYTES", 100)
    source = Source(rows=50)
    source.check(RaggedCache(tmp_path, "t"), RUNS, KEYS)
    large = names(tmp_path)
    source.rows = 3
    for run_id in RUNS[:4]:
        source.change(run_id)
        source.check(RaggedCache(tmp_path, "t"), [run_id], KEYS[:1])
    compact(Storage(tmp_path))
    assert len(names(tmp_path)) == 2
    assert set(large) < set(names(tmp_path))
    source.calls.clear()
    source.check(RaggedCache(tmp_path, "t"), RUNS, KEYS[:1])
    assert not source.calls


def test_rows_that_changed_under_the_same_version_are_not_merged_with_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "_SMALL_BYTES", 8 * 40)
    source = Source()

    def give(rows: int, keys: str) -> None:
        """Write rows of a run again under the same version, and read some of its keys as if for the first time."""
        source.steps["run 0"] = np.arange(rows)
        for key in KEYS:
            source.content["run 0", key] = np.full(rows, float(rows))
        other = RaggedCache(tmp_path / "other", "t")
        source.check(other, ["run 0"], list(keys))
        for path in (tmp_path / "other").glob("*.zarr"):
            shutil.move(path, tmp_path / "c" / path.name)

    (tmp_path / "c").mkdir()
    # Small with 5 rows, small with 2, large with 5: what is believed of the run is the largest.
    give(5, "a")
    give(2, "b")
    give(5, "bcdef")
    source.check(RaggedCache(tmp_path / "c", "t"), ["run 0"], KEYS[:5])
    compact(Storage(tmp_path / "c"))
    source.calls.clear()
    source.check(RaggedCache(tmp_path / "c", "t"), ["run 0"], KEYS)
    assert not source.calls


def test_a_damaged_segment_is_left_and_the_others_are_merged(tmp_path: Path) -> None:
    source = Source()
    for key in KEYS:
        source.check(RaggedCache(tmp_path, "t"), RUNS, [key])
    damaged = names(tmp_path)[2]
    chunk = tmp_path / damaged / "values" / "c" / "0" / "0"
    chunk.write_bytes(flipped(chunk.read_bytes(), 3))
    done = compact(Storage(tmp_path))
    assert (done.before, done.after, done.damaged) == (6, 2, 1)
    assert damaged in names(tmp_path)
    source.calls.clear()
    source.check(RaggedCache(tmp_path, "t"), RUNS, KEYS)
    assert source.calls == [(tuple(RUNS), ("c",))]
    # What was read again supersedes it.
    assert compact(Storage(tmp_path)).damaged == 0
    assert damaged not in names(tmp_path)


def test_a_compaction_that_is_killed_before_it_removes_costs_space_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source()
    for key in KEYS:
        source.check(RaggedCache(tmp_path, "t"), RUNS, [key])
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "remove", lambda self: None)
        compact(Storage(tmp_path))
    assert len(names(tmp_path)) == 7
    source.check(RaggedCache(tmp_path, "t"), RUNS, KEYS)
    assert len(source.calls) == 6
    assert compact(Storage(tmp_path)).after == 1
    assert len(names(tmp_path)) == 1


def test_what_earlier_releases_and_dead_writers_left_goes_in_time(tmp_path: Path) -> None:
    source = Source()
    source.check(RaggedCache(tmp_path, "t"), RUNS, KEYS)
    [current] = names(tmp_path)
    dead = f"1577836800000000-{'0' * 12}.v{FORMAT}.zarr"
    for name in ("0123456789abcdef.zarr", ".making-0123456789abcdef", "current", dead):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1, 1))
    old = tmp_path / f"20200101T000000000000-{'1' * 12}.zarr"
    old.mkdir()
    (old / "zarr.json").write_text('{"attributes": {"dde_part": {"format": 3}}}')
    os.utime(old / "zarr.json", (1, 1))
    (tmp_path / ".making-now").mkdir()
    source.check(RaggedCache(tmp_path, "t"), RUNS, KEYS)
    assert len(source.calls) == 1
    compact(Storage(tmp_path))
    assert names(tmp_path) == [".making-now", current]


# Processes


def fill_for_ever(folder: str, number: int) -> None:
    """Read through a cache in a folder or at a URL, compact it and remove segments of it, without an end."""
    source = Source(0, rows=2000)
    choice = random.Random(number)
    while True:
        cache = RaggedCache(folder, "t")
        for _ in range(5):
            run_ids, keys = choice.sample(RUNS, choice.randint(1, 6)), choice.sample(KEYS, choice.randint(1, 6))
            source.check(cache, run_ids, keys)
            if choice.random() < 0.3:
                storage = Storage(folder)
                for name in [n for n in storage.names() if n.endswith(".zarr")][:1]:
                    # As the cache removes them; a deletion by hand that is killed leaves half a segment.
                    (storage / name).remove()
            if choice.random() < 0.1:
                compact(Storage(folder))


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
    for metadata in folder.glob("*.zarr/zarr.json"):
        with xr.open_zarr(metadata.parent) as ds:
            assert ds.load().sizes["key"]
            assert not (ds["values"] == zarr.open_array(metadata.parent / "values").fill_value).any()


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


# What a compaction must leave alone


def test_compaction_leaves_files_of_others_and_of_later_releases(tmp_path: Path) -> None:
    source = Source()
    folder = tmp_path / "tables" / ("0" * 16)
    source.check(RaggedCache(folder, "t"), RUNS, KEYS)
    later = folder / f"1577836800000000-{'1' * 12}.v99.zarr"
    later.mkdir()
    (later / "zarr.json").write_text("{}")
    (folder / "notes.txt").write_text("")
    foreign = tmp_path / "tables" / "exp1" / "results.csv"
    foreign.parent.mkdir()
    foreign.write_text("")
    for path in (later / "zarr.json", folder / "notes.txt", foreign):
        os.utime(path, (1, 1))
    assert list(compact_cache(tmp_path)) == [f"tables/{'0' * 16}"]
    assert later.is_dir()
    assert (folder / "notes.txt").is_file()
    assert foreign.is_file()


def test_a_manifest_with_any_flipped_digit_is_only_ignored(tmp_path: Path) -> None:
    source = Source()
    source.check(RaggedCache(tmp_path, "t"), RUNS, KEYS)
    [name] = names(tmp_path)
    whole = (tmp_path / name / "zarr.json").read_text()
    for damaged in (
        whole.replace('"numbers": "', '"numbers": "AAAA', 1),
        whole.replace('"crc32": ', '"crc32": 1', 1),
        "[" * 100_000,
    ):
        assert damaged != whole
        (tmp_path / name / "zarr.json").write_text(damaged)
        source.check(RaggedCache(tmp_path, "t"), RUNS, KEYS)
        compact(Storage(tmp_path))


def test_a_segment_that_cannot_be_read_now_counts_when_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    for key in KEYS:
        source.check(RaggedCache(tmp_path, "t"), RUNS, [key])
    # Other rows in the same version, which a cache that knew nothing fetched.
    for run_id in RUNS:
        source.change(run_id, version=False)
    source.check(RaggedCache(tmp_path / "other", "t"), RUNS, KEYS)
    [newest] = names(tmp_path / "other")
    shutil.move(tmp_path / "other" / newest, tmp_path / newest)
    read = Storage.read

    def without_newest(self: Storage, paths: list[str]) -> dict[str, bytes]:
        return {} if self.path == tmp_path / newest else read(self, [p for p in paths if not p.startswith(newest)])

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "read", without_newest)
        patch.setattr(compaction, "_UNFINISHED_SECONDS", -1.0)
        assert compact(Storage(tmp_path)).after == 1
    assert newest in names(tmp_path)
    source.calls.clear()
    source.check(RaggedCache(tmp_path, "t"), RUNS, KEYS)
    assert not source.calls
    assert compact(Storage(tmp_path)).after == 1
    assert names(tmp_path) == [newest, "other"]


def test_open_datasets_keep_their_version_for_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    source.check(RaggedCache(tmp_path, "t"), RUNS, KEYS)
    opened, content = dict(source.versions), source.expected(RUNS, KEYS)
    source.change("run 1")
    source.check(RaggedCache(tmp_path, "t"), RUNS, KEYS)
    assert compact(Storage(tmp_path)).after == 1
    same(RaggedCache(tmp_path, "t").read(RUNS, list(opened.values()), KEYS, _refuse), content)
    source.check(RaggedCache(tmp_path, "t"), RUNS, KEYS)
    assert len(source.calls) == 2
    size = len((tmp_path / names(tmp_path)[0] / "zarr.json").read_text())
    monkeypatch.setattr(compaction, "_GRACE_SECONDS", 0.0)
    source.change("run 2")
    source.check(RaggedCache(tmp_path, "t"), RUNS, KEYS)
    assert compact(Storage(tmp_path)).after == 1
    assert len((tmp_path / names(tmp_path)[0] / "zarr.json").read_text()) < size
    source.calls.clear()
    source.check(RaggedCache(tmp_path, "t"), RUNS, KEYS)
    assert not source.calls


def test_a_segment_is_newer_than_all_that_are_known_whatever_the_clocks_say() -> None:
    known = f"8000000000000000-{'f' * 12}.v{FORMAT}.zarr"
    name, moment = segment_name(known)
    assert name > known
    assert moment == 8000000000000001


def test_object_stores_take_names_literally() -> None:
    odd, other = Storage("memory://literal/ca[c]he"), Storage("memory://literal/cache")
    for storage in (odd, other):
        storage.write({"segment/zarr.json": b"{}", "segment/values": b"1"})
    odd.remove()
    assert odd.names() == []
    assert other.read(["segment/values"]) == {"segment/values": b"1"}


def test_an_index_file_that_lost_an_array_is_not_read(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    write_index_file(storage, "one.npz", {}, {"a": np.arange(3), "b": np.arange(2)})
    assert read_index_file(storage, "one.npz") is not None
    with zipfile.ZipFile(tmp_path / "one.npz") as archive, zipfile.ZipFile(tmp_path / "two.npz", "w") as shorter:
        for name in archive.namelist():
            if name != "b.npy":
                shorter.writestr(name, archive.read(name))
    assert read_index_file(storage, "two.npz") is None
