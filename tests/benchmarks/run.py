"""All benchmarks in one command: a table and a plot of growth, as a page of the documentation.

    python tests/benchmarks/run.py --to docs/benchmarks.md

makes the full suite in a temporary folder first; ``--suite`` names one that is there already. Peers and floors are
measured in the same run, for machines are shared and seconds alone say little.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bench_alignment
import bench_cache
import bench_decisions
import bench_explore
import bench_fits
import bench_growth
import bench_opening
import bench_postgres
import bench_tables
import bench_values
from measure import table

from dde.native import processors
from dde.tutorial import make_suite

_PACKAGES = ("numpy", "pandas", "pyarrow", "xarray", "zarr", "dask", "psycopg")


def main() -> None:
    """Run what is asked for, and write the page."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--to", type=Path, help="page to write; printed where not given")
    arguments.add_argument("--suite", type=Path, help="folder that dde.tutorial.make_suite(..., 'full') has written")
    arguments.add_argument("--only", nargs="*", help="names of benchmarks, such as tables")
    arguments.add_argument("--no-peer", action="store_true", help="leave the package datadec out, which takes minutes")
    told = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        suite = told.suite or Path(folder) / "suite"
        if told.suite is None:
            make_suite(suite, "full", workers=processors())
        data, wandb, cache = str(suite / "datadecide"), str(suite / "wandb"), str(Path(folder) / "cache")
        jobs = {
            "tables": lambda: bench_tables.rows(data, not told.no_peer),
            "opening": lambda: bench_opening.rows(data, wandb, cache),
            "values": lambda: bench_values.rows(data, wandb, cache),
            "decisions": lambda: bench_decisions.rows(data, cache),
            "alignment": bench_alignment.rows,
            "postgres": bench_postgres.rows,
            "cache": bench_cache.rows,
            "fits": bench_fits.rows,
            "explore": lambda: bench_explore.rows(data, wandb, cache),
            "growth": lambda: bench_growth.rows(told.to.with_name("growth.png") if told.to else None),
        }
        sections: list[tuple[str, list[dict[str, Any]], float]] = []
        for name, job in jobs.items():
            if told.only is None or name in told.only:
                start = time.perf_counter()
                sections.append((name, job(), time.perf_counter() - start))
                print(f"## {name}\n\n{table(sections[-1][1])}\n", flush=True)
    if told.to:
        told.to.write_text(_page(sections))


def _page(sections: list[tuple[str, list[dict[str, Any]], float]]) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    lines = [
        "# Benchmarks",
        "",
        f"Made by `python tests/benchmarks/run.py --to docs/benchmarks.md` on {processors()} processors "
        f"({platform.machine()}), CPython {platform.python_version()}, {packages}. Floors and peers were measured in "
        "the same run as what stands beside them; the machine was not idle. Ratios count, seconds are of that day.",
    ]
    for name, rows, seconds in sections:
        lines += ["", f"## {name.capitalize()}", "", table(rows), "", f"Taken in {seconds:.0f} s."]
        if name == "growth":
            lines += ["", "![Seconds and memory from 10 to 10,000 lineages](growth.png)"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
