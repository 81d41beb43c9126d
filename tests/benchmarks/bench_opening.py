"""What opening costs: imports, time, memory, what is sent to workers, and how it grows with the runs.

    python tests/benchmarks/bench_opening.py SUITE WANDB CACHE_DIR

Each opening is in a fresh process, so that nothing is warm but the disk; times are medians. Floors are what any
reader pays: Zarr's own opening of one 2-D array, after the same imports.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

_REPEATS = 7

_CLOCK = """
import json, resource, sys, time
def told(seconds, **more):
    # A child is told the peak of its parent by getrusage; the kernel's own mark begins anew with the program.
    marks = [l for l in open("/proc/self/status") if l.startswith("VmHWM")] if sys.platform == "linux" else []
    peak = int(marks[0].split()[1]) / 1024 if marks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak, **more}))
"""
_IMPORT = "start = time.perf_counter()\nimport {module}\ntold(time.perf_counter() - start)"
_OPEN = """
import dde, xarray
begun = time.perf_counter()
{before}
start = time.perf_counter()
ds = dde.open_lineages({suite!r}, {wandb!r}, cache_dir={cache!r})
told(time.perf_counter() - start, imported=sorted({{"zarr", "psycopg", "dask.array"}} & set(sys.modules)),
     before=start - begun, sizes=dict(ds.sizes))
"""
_FLOOR = """
import dde, zarr
import xarray as xr
start = time.perf_counter()
ds = xr.open_zarr({path!r}, consolidated=False)
told(time.perf_counter() - start)
"""


def _fresh(code: str, repeats: int = _REPEATS) -> dict[str, Any]:
    """Run code in fresh processes; return the run of median time, with the largest peak."""
    with tempfile.TemporaryDirectory() as compiled:
        # An installed library is compiled; so is this one, whatever the surroundings say.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = compiled
        found = []
        for _ in range(repeats + 1):
            found.append(_once(code, environment))
    found = sorted(found[1:], key=lambda one: float(one["seconds"]))
    return {**found[len(found) // 2], "peak_mb": max(one["peak_mb"] for one in found)}


def _row(job: str, ours: float | None, unit: str, **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(
        ("job", "peer", "floor", "ours", "unit", "ratio_to_floor", "times_faster_than_peer", "counts", "note")
    )
    row |= {"job": job, "ours": ours, "unit": unit, **more}
    if row["floor"] and ours is not None:
        row["ratio_to_floor"] = ours / row["floor"]
    if row["peer"] and ours:
        row["times_faster_than_peer"] = row["peer"] / ours
    return row


def _zarr_floor(folder: str) -> float:
    import numpy as np
    import xarray as xr

    path = os.path.join(folder, "floor.zarr")
    xr.Dataset({"metric": (("lineage", "cumulative_tokens"), np.zeros((1060, 1024)))}).to_zarr(path, consolidated=False)
    return float(_fresh(_FLOOR.format(path=path))["seconds"])


def _sent(suite: str, wandb: str, cache_dir: str) -> list[dict[str, Any]]:
    import dde

    lazy = dde.open_lineages(suite, wandb, cache_dir=cache_dir)
    start = time.perf_counter()
    chunked = dde.open_lineages(suite, wandb, cache_dir=cache_dir, chunks={"lineage": 512})
    seconds = time.perf_counter() - start
    name = next(iter(chunked.data_vars))
    graph = dict(chunked[name].isel(run=slice(0, 1)).__dask_graph__())
    n_chunks = len(chunked.chunks["lineage"])
    return [
        _row("pickle of the Dataset", len(pickle.dumps(lazy)) / 1e3, "kB"),
        _row("pickle of one metric's graph", len(pickle.dumps(graph)) / 1e3, "kB", counts={"tasks": len(graph)}),
        _row("tasks per chunk of 512 lineages", len(graph) / n_chunks, "tasks", counts={"chunks": n_chunks}),
        _row("open in dask chunks, process warm", seconds, "s", counts={"metrics": len(chunked.data_vars)}),
    ]


def _registries() -> list[dict[str, Any]]:
    from dde.suite.datadecide.runs.registry import Registry
    from fakes import FakeStore, sft

    rows = []
    for count in (10, 100, 1_000, 10_000):
        group = "/m/2025_08_21-15_03_00_group"
        runs = []
        for i in range(count // 2):
            name, rate = f"2025_08_21-15_{i:05d}_ft_{i}", 1e-6 * (1 + i)
            runs.append(sft(name, [1e8, 2e8], output_dir=f"{group}/{name}", learning_rate=rate))
            # Half of the DPO runs name the run they start from but for its last sign, half but for its whole name.
            cut = f"{group}/model/{name[:-1]}" if i % 2 else f"{group}/model/2025"
            dpo = f"2025_08_22-15_{i:05d}_dpo_tune_cache_dd__dolma1_7-4M__main__lr={rate}_default_--learning_rate=2e-07"
            runs.append(sft(dpo, program="dpo.py", model_name_or_path=cut, dpo_beta=5))
        store, seconds = FakeStore(runs), []
        for _ in range(3):
            registry = Registry(None, store)  # type: ignore[arg-type]
            start = time.perf_counter()
            placed = registry.placed
            seconds.append(time.perf_counter() - start)
        best = min(seconds)
        rows.append(
            _row(f"registry of {count} runs", best, "s", counts={"runs": len(placed), "us_per_run": best / count * 1e6})
        )
    return rows


def rows(suite: str, wandb: str, cache_dir: str) -> list[dict[str, Any]]:
    """Measure everything; `cache_dir` is filled where it is empty, and nothing in it is removed."""
    library, plain = (_fresh(_IMPORT.format(module=m), 2 * _REPEATS) for m in ("dde, xarray", "xarray"))
    found = [
        _row("import dde and xarray", library["seconds"], "s", floor=plain["seconds"], note="floor: import xarray")
    ]
    told = {"suite": suite, "wandb": wandb, "cache": cache_dir}
    with tempfile.TemporaryDirectory() as folder:
        floor = _zarr_floor(folder)
        warm = _fresh(_OPEN.format(before="", **told))
        apart = _fresh(_OPEN.format(before="import dask.base", **told))
        again = _fresh(_OPEN.format(before=_OPENED_BEFORE.format(**told), **told))
        cold = []
        for i in range(3):
            fresh = {**told, "cache": os.path.join(folder, f"cache-{i}")}
            cold.append(_once(_OPEN.format(before="", **fresh)))
            shutil.rmtree(fresh["cache"])
    note = "floor: xr.open_zarr of one 2-D array after import zarr"
    found += [
        _row("open, cache warm, fresh process", warm["seconds"], "s", floor=floor, note=note, counts=_counts(warm)),
        _row("the same after import dask.base", apart["seconds"], "s", floor=floor, counts=_counts(apart),
             note="xarray imports it at its first Variable"),
        _row("peak memory of it", warm["peak_mb"], "MB", note="of the whole process"),
        _row("open again in the same process", again["seconds"], "s", counts=_counts(again)),
        _row("open, no cache yet, fresh process", statistics.median(c["seconds"] for c in cold), "s",
             counts=_counts(cold[0])),
        _row("peak memory of it", max(c["peak_mb"] for c in cold), "MB"),
    ]  # fmt: skip
    return found + _sent(suite, wandb, cache_dir) + _registries()


_OPENED_BEFORE = "dde.open_lineages({suite!r}, {wandb!r}, cache_dir={cache!r})"


def _once(code: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-c", _CLOCK + code]
    found: dict[str, Any] = json.loads(subprocess.check_output(command, text=True, env=environment))
    return found


def _counts(told: dict[str, Any]) -> dict[str, Any]:
    return {"peak_mb": round(told["peak_mb"]), "imported": told["imported"], "sizes": told["sizes"]}


if __name__ == "__main__":
    for row in rows(*sys.argv[1:4]):
        print(json.dumps({k: v for k, v in row.items() if v is not None}))
