"""Many runs through the whole way: open, align, mean over seeds, Zarr; workers are processes with little memory.

python tests/benchmarks/bench_scale.py SUITE --runs 100000 --rows 1000 --workers 2
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from many_runs import write_runs
from measure import row, table

_GRID, _LINEAGES = 256, 64


def rows(
    data: str, n_runs: int = 100_000, n_rows: int = 1_000, workers: int = 2, folder: str = ""
) -> list[dict[str, Any]]:
    """Measure each stage with workers of 1 GB."""
    import dask
    from dask.distributed import Client, LocalCluster

    import dde

    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as made:
        place = Path(folder or made)
        export, cache = place / "runs", place / "cache"
        written = 0
        if not (export / "runs_metadata.parquet").exists():
            written = write_runs(export, n_runs, n_rows)
        size = {"runs": written or n_runs, "rows": (written or n_runs) * n_rows}

        def note(job: str, start: float, client: Client | None = None, **counts: Any) -> None:
            peaks = client.run(_peak) if client is not None else {}
            counts = {
                "peak MB of a worker": round(max(peaks.values(), default=0)),
                "of this process": round(_peak()),
            } | counts
            found.append(row(job, time.perf_counter() - start, counts=counts))
            print(table(found[-1:]).splitlines()[-1], flush=True)

        start = time.perf_counter()
        options: dict[str, Any] = {"metrics": ["train_loss"], "grid": _GRID, "cache_dir": str(cache)}
        dde.open_lineages(data, str(export), **options)
        note("open, nothing kept", start, **size)
        start = time.perf_counter()
        ds = dde.open_lineages(data, str(export), chunks={"lineage": _LINEAGES}, **options)
        note("open again", start, **{k: int(v) for k, v in ds.sizes.items()})
        dask.config.set({"distributed.scheduler.worker-saturation": 1.0})
        with (
            LocalCluster(
                n_workers=workers, threads_per_worker=1, memory_limit="1GB", dashboard_address=None
            ) as cluster,
            Client(cluster) as client,
        ):
            for again in ("", ", again"):
                start = time.perf_counter()
                target = str(place / f"aligned{len(again)}.zarr")
                aligned = ds.dde.align(grid=128, interp="log")
                aligned.to_zarr(target, consolidated=False, mode="w")
                tasks = len(aligned.train_loss.__dask_graph__())
                note(f"align on 128 points, to Zarr{again}", start, client, tasks=tasks)
            start = time.perf_counter()
            means = ds.dde.mean_over("seed")
            means.to_zarr(str(place / "means.zarr"), consolidated=False, mode="w")
            note("mean over seeds, to Zarr", start, client, tasks=len(means.train_loss.__dask_graph__()))
        files = [f for f in cache.rglob("*") if f.is_file()]
        total = sum(f.stat().st_size for f in files)
        found.append(row("files of the cache", float(len(files)), unit="", counts={"MB": round(total / 1e6)}))
    return found


def _peak() -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1e3


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", help="folder of tables of the full suite")
    arguments.add_argument("--runs", type=int, default=100_000)
    arguments.add_argument("--rows", type=int, default=1_000)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--folder", default="", help="where to write; a temporary folder where not given")
    told = arguments.parse_args()
    print(table(rows(told.data, told.runs, told.rows, told.workers, told.folder)))
