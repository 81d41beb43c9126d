"""What the cache costs: writing, reading, refreshing and opening, beside bare files and one Zarr array per key.

``python tests/benchmarks/bench_cache.py --scale 0.1`` prints the figures; ``rows`` gives them to a program.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from dde.cache import RaggedCache
from dde.cache.compaction import compact
from dde.cache.ragged import Fetch
from dde.cache.storage import Storage
from dde.sources.protocols import History

KEYS, RUNS, ROWS = 1939, 1060, 21_375
MANY_RUNS, MANY_ROWS = 20_000, 1000
REPEATS = 5


class Suite:
    """Runs of about the same length with random values, as a source gives them."""

    def __init__(self, runs: int, rows: int, keys: int) -> None:
        self.runs = [f"run-{n:06}" for n in range(runs)]
        self.keys = [f"task_{n:04}_metric" for n in range(keys)]
        self.lengths = np.diff(np.linspace(0, rows, runs + 1).astype(np.int64))
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        self.values = np.random.default_rng(0).random((keys, rows))
        self.versions = ["1"] * runs
        self.fetched = 0

    def fetch(self, run_ids: Sequence[str], keys: Sequence[str]) -> History:
        at = np.array([int(r[4:]) for r in run_ids])
        lengths = self.lengths[at]
        run = np.repeat(np.arange(len(at), dtype=np.int32), lengths)
        step = np.concatenate([np.arange(n) * 1250 for n in lengths])
        every = len(run_ids) == len(self.runs)
        chosen = ... if every else np.concatenate([np.arange(*self.offsets[[i, i + 1]]) for i in at])
        self.fetched += len(run_ids)
        return History(run, step, {k: self.values[int(k[5:9])][chosen] for k in keys})


def _nothing(run_ids: Sequence[str], keys: Sequence[str]) -> History:
    raise AssertionError("everything is cached")


def _best(job: Callable[[], object], repeats: int = REPEATS, before: Callable[[], object] = lambda: None) -> float:
    """Return the shortest of several times, in seconds."""
    times = []
    for _ in range(repeats):
        before()
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return min(times)


def _row(job: str, ours: float, peer: float | None, floor: float | None, counts: dict[str, Any], note: str) -> dict:
    return {
        "job": job,
        "peer": None if peer is None else round(1000 * peer, 3),
        "floor": None if floor is None else round(1000 * floor, 3),
        "ours": round(1000 * ours, 3),
        "unit": "ms",
        "ratio_to_floor": None if floor is None else round(ours / floor, 2),
        "times_faster_than_peer": None if peer is None else round(peer / ours, 2),
        "counts": counts,
        "note": note,
    }


def _size(folder: Path) -> dict[str, int]:
    files = [f for f in folder.rglob("*") if f.is_file()]
    return {"files": len(files), "bytes": sum(f.stat().st_size for f in files)}


def _read(folder: Path, suite: Suite, runs: Sequence[str], keys: Sequence[str], fetch: Fetch = _nothing) -> History:
    return RaggedCache(folder, "benchmark").read(runs, suite.versions[: len(runs)], keys, fetch)


def rows(scale: float = 1.0) -> list[dict]:
    """Return the figures; `scale` is the part of the real number of keys, runs and rows of the largest jobs.

    The peer is what the cache was before: one Zarr array for each key, written and read one by one. The floor is the
    same bytes in bare files, by ``ndarray.tofile`` and ``numpy.memmap``.
    """
    folder = Path(tempfile.mkdtemp(prefix="dde-bench-"))
    try:
        return [*_wide(folder, scale), *_long(folder, scale), *_refresh(folder, scale), *_segments(folder, scale)]
    finally:
        shutil.rmtree(folder)


def _wide(folder: Path, scale: float) -> list[dict]:
    suite = Suite(RUNS, ROWS, max(int(KEYS * scale), 10))
    kept, peer, bare = folder / "wide", folder / "peer", folder / "bare"
    few = 10
    values = suite.values

    def write_arrays(count: int) -> None:
        for n in range(count):
            zarr.create_array(peer / suite.keys[n], shape=(ROWS,), chunks=(ROWS,), dtype="f8")[...] = values[n]

    def gone(*paths: Path) -> Callable[[], None]:
        return lambda: [shutil.rmtree(p, ignore_errors=True) for p in paths] and None

    wrote = _best(lambda: _read(kept, suite, suite.runs, suite.keys, suite.fetch), 3, gone(kept))
    per_array = _best(lambda: write_arrays(few), 3, gone(peer)) / few
    floor = _best(lambda: values.tofile(bare), 3)
    found = [
        _row(
            f"writing {len(suite.keys)} keys of {ROWS} rows",
            wrote,
            per_array * len(suite.keys),
            floor,
            _size(kept),
            f"peer: {few} arrays written, times {len(suite.keys) / few:g}",
        )
    ]
    five = [suite.keys[i] for i in np.linspace(0, len(suite.keys) - 1, 5).astype(int)]
    gone(peer)()
    write_arrays(5)
    mapped = np.memmap(bare, np.float64, "r", shape=values.shape)
    at = [int(k[5:9]) for k in five]
    arrays = _best(lambda: [zarr.open_array(peer / k, mode="r")[...] for k in suite.keys[:5]])
    bytes_read = 5 * 8 * ROWS
    floor = _best(lambda: [np.array(mapped[i]) for i in at])
    ours = _best(lambda: _read(kept, suite, suite.runs, five))
    found.append(
        _row(
            f"reading 5 of {len(suite.keys)} keys",
            ours,
            arrays,
            floor,
            {"bytes": bytes_read},
            "by a new process's cache",
        )
    )
    cache = RaggedCache(kept, "benchmark")
    cache.read(suite.runs, suite.versions, five, _nothing)
    again = _best(lambda: cache.read(suite.runs, suite.versions, five, _nothing))
    found.append(
        _row("reading them once more", again, None, _best(lambda: values[at]), {"bytes": 0}, "from memory, no copy")
    )
    every = _best(lambda: _read(kept, suite, suite.runs, suite.keys), 2)
    found.append(
        _row(
            f"reading all {len(suite.keys)} keys",
            every,
            None,
            _best(lambda: np.array(mapped), 2),
            {"bytes": values.nbytes},
            "",
        )
    )
    opened = _best(lambda: RaggedCache(kept, "benchmark")._refresh())
    found.append(
        _row(
            f"opening: which of {RUNS} runs and {len(suite.keys)} keys are cached",
            opened,
            _best(lambda: [zarr.open_array(peer / k, mode="r") for k in suite.keys[:5]]) / 5 * len(suite.keys),
            _best((kept / next(iter(kept.glob("*.zarr"))).name / "zarr.json").read_bytes),
            {"files": 1},
            "peer: 5 arrays opened, times as many; floor: reading the bytes of the one file",
        )
    )
    shutil.rmtree(kept)
    return found


def _long(folder: Path, scale: float) -> list[dict]:
    count = max(int(MANY_RUNS * scale), 1000)
    suite = Suite(count, count * MANY_ROWS, 2)
    kept, bare = folder / "long", folder / "bare"
    _read(kept, suite, suite.runs, suite.keys, suite.fetch)
    some = suite.runs[count // 2 - 250 : count // 2 + 250]
    suite.values[0].tofile(bare)
    mapped = np.memmap(bare, np.float64, "r")
    first = suite.offsets[count // 2 - 250]
    key = suite.keys[:1]
    ours = _best(lambda: _read(kept, suite, some, key))
    whole = _best(lambda: _read(kept, suite, suite.runs, key), 3)
    floor = _best(lambda: np.array(mapped[first : first + 500 * MANY_ROWS]))
    opened = _best(lambda: RaggedCache(kept, "benchmark")._refresh())
    cache = RaggedCache(kept, "benchmark")
    cache._refresh()
    known = _best(lambda: cache.read(some, suite.versions[:500], key, _nothing))
    size = _size(kept)
    return [
        _row(
            f"reading a key of 500 of {count} runs of {MANY_ROWS} rows",
            ours,
            whole,
            floor,
            size,
            f"peer: reading the whole column; of that time, finding what is cached takes {1000 * opened:.1f} ms, "
            f"so that in a process that goes on it takes {1000 * known:.1f} ms",
        )
    ]


def _refresh(folder: Path, scale: float) -> list[dict]:
    suite = Suite(400, max(int(1_000_000 * scale), 4000), 20)
    kept = folder / "refresh"
    full = _best(lambda: _read(kept, suite, suite.runs, suite.keys, suite.fetch), 3, lambda: shutil.rmtree(kept, True))
    before = _size(kept)
    changes = iter(range(2, 1000))

    def change() -> None:
        suite.versions[7] = str(next(changes))

    cache = RaggedCache(kept, "benchmark")
    cache.read(suite.runs, suite.versions, suite.keys, _nothing)
    change()
    suite.fetched = 0
    _read(kept, suite, suite.runs, suite.keys[:5], suite.fetch)
    fetched, after = suite.fetched, _size(kept)
    ours = _best(lambda: _read(kept, suite, suite.runs, suite.keys[:5], suite.fetch), REPEATS, change)
    held = _best(lambda: _read(kept, suite, suite.runs, suite.keys[:5]))
    added = {name: after[name] - before[name] for name in after}
    return [
        _row(
            "refresh of 1 of 400 runs, and reading 5 keys of all",
            ours,
            full,
            held,
            {"runs_fetched": fetched, **added},
            "peer: writing all of it anew, without what the source takes; floor: reading them without a change",
        )
    ]


def _segments(folder: Path, scale: float) -> list[dict]:
    count, of_each = max(int(200 * scale), 20), 5
    suite = Suite(count * of_each, 20 * count * of_each, 20)
    storage = Storage(folder / "segments")
    cache = RaggedCache(storage, "benchmark")
    for first in range(0, len(suite.runs), of_each):
        cache.read(suite.runs[first : first + of_each], ["1"] * of_each, suite.keys, suite.fetch)
    assert storage.path is not None
    apart = _best(lambda: _read(storage.path, suite, suite.runs, suite.keys[:1]))
    start = time.perf_counter()
    done = compact(storage)
    seconds = time.perf_counter() - start
    return [
        _row(
            f"reading a key from {count} segments of {of_each} runs",
            apart,
            None,
            _best(lambda: _read(storage.path, suite, suite.runs, suite.keys[:1])),
            {"segments": done.before, "segments_after": done.after},
            f"floor: the same after compaction, which took {1000 * seconds:.0f} ms",
        )
    ]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    for row in rows(parser.parse_args().scale):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
