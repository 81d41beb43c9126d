"""Raw tables to metrics, beside the published package datadec and beside reading the text alone."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from measure import fresh, row, table

# Of ours, the floor's and the peer's, one after the other; the median of each counts.
_TURNS = 3

_PEER = """
import pandas as pd
from datadec.paths import DataDecidePaths
from datadec.pipeline import DataPipeline
pipeline = DataPipeline(DataDecidePaths({folder!r}))
start = clock()
for stage in ("metrics_expand", "parse"):
    pipeline.run_stage(stage)
report["seconds"] = clock() - start
"""
_OURS = """
import dde, xarray
start = clock()
repository = dde.DataDecideEvolved({data!r}, cache_dir={cache!r}).repository
report["metrics"] = repository.fill_cache()
report["seconds"] = clock() - start
report["reads"] = repository.pretraining_source.reads
"""
_OPEN = """
import dde, xarray
start = clock()
ds = dde.open_lineages({data!r}, params={params!r}, metrics=["arc_easy"], cache_dir=None)
values = ds.arc_easy.values
report["seconds"] = clock() - start
"""
_FLOOR = """
import glob, os
import pyarrow.parquet as pq
from concurrent.futures import ThreadPoolExecutor
files = sorted(glob.glob({data!r} + "/**/*eval-results/**/train-*.parquet", recursive=True))
def read(job):
    file, groups = job
    parquet = pq.ParquetFile(file)
    return sum(parquet.read_row_group(g, columns=["metrics"], use_threads=False).nbytes for g in groups)
jobs = []
for file in files:
    groups = [g for g in range(pq.ParquetFile(file).num_row_groups) if {wanted}]
    jobs += [(file, groups[k::2]) for k in range(2)]
for _ in range(2):
    start = clock()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        report["bytes"] = sum(threads.map(read, jobs))
    report["seconds"] = clock() - start
"""


def rows(data: str, peer: bool = True) -> list[dict[str, Any]]:
    """Measure all jobs on the raw tables in a folder."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        packages = _prepare_peer(data, Path(folder) / "peer") if peer else None
        turns = []
        for turn in range(_TURNS):
            cache = Path(folder) / f"cache{turn}"
            turns.append(
                (
                    fresh(_FLOOR.format(data=data, wanted="True")),
                    None if packages is None else fresh(_PEER.format(folder=str(packages.parent)), path=str(packages)),
                    fresh(_OURS.format(data=data, cache=str(cache))),
                )
            )
        floor, theirs, ours = (_median(list(one)) for one in zip(*turns, strict=True))
        kept = [f for f in cache.rglob("*") if f.is_file()]
        counts = {
            "metrics": ours["metrics"],
            "row groups": ours["reads"]["row_groups"],
            "MB read": round(ours["reads"]["stored_bytes"] / 1e6),
            "files written": len(kept),
            "MB written": round(sum(f.stat().st_size for f in kept) / 1e6),
            "peak MB": round(ours["peak_mb"]),
        }
        if theirs is not None:
            counts["peer's peak MB"] = round(theirs["peak_mb"])
    found.append(
        row(
            "raw tables to everything queryable, cache included",
            ours["seconds"],
            floor=floor["seconds"],
            peer=None if theirs is None else theirs["seconds"],
            counts=counts,
            note=f"floor: reading the text alone; peer: datadec's metrics_expand and parse; medians of {_TURNS} turns",
        )
    )
    for params in ("150M",):
        group_has = "pq.ParquetFile(file).metadata.row_group(g).column(0).statistics.min == " + repr(params)
        part = fresh(_FLOOR.format(data=data, wanted=group_has))
        one = fresh(_OPEN.format(data=data, params=params))
        found.append(
            row(
                f"one metric of {params} straight from the raw tables, nothing cached",
                one["seconds"],
                floor=part["seconds"],
                peer=None if theirs is None else theirs["seconds"],
                counts={"peak MB": round(one["peak_mb"])},
                note="floor: reading the text of those row groups",
            )
        )
    return found


def _median(turns: list[Any]) -> Any:
    """Return the turn of median time."""
    return None if None in turns else sorted(turns, key=lambda turn: float(turn["seconds"]))[len(turns) // 2]


def _prepare_peer(data: str, folder: Path) -> Path:
    """Put tables where the published package's download would have left them; return where it can be imported."""
    packages = folder / "packages"
    wanted = ["datadec==0.1.0", "orjson"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(packages), *wanted],
        check=True,
        capture_output=True,
    )
    # It imports these to download and to draw, neither of which is measured.
    (packages / "datasets.py").write_text("load_dataset = None\n")
    target = folder / "datadecide"
    target.mkdir()
    files = sorted(Path(data).rglob("train-*.parquet"))
    evaluations = pa.concat_tables(pq.read_table(f) for f in files if "eval-results" in str(f))
    # orjson reads neither None nor nan nor inf, which the tables hold; for the peer they are nulls.
    texts = pc.replace_substring_regex(evaluations["metrics"], r": (None|nan|-?inf)\b", ": null")
    evaluations = evaluations.set_column(evaluations.column_names.index("metrics"), "metrics", texts)
    pq.write_table(evaluations, target / "downstream_eval.parquet")
    perplexities = pa.concat_tables(pq.read_table(f) for f in files if "ppl-results" in str(f))
    pq.write_table(perplexities, target / "ppl_eval.parquet")
    del evaluations, texts, perplexities
    return packages


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("data", help="folder of raw tables, as dde.tutorial.make_suite leaves them")
    arguments.add_argument("--no-peer", action="store_true")
    told = arguments.parse_args()
    print(re.sub(r"(?m)^\| --- .*\n", "", table(rows(told.data, not told.no_peer))))
