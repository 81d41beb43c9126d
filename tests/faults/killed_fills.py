"""``dde cache fill`` killed at a random moment: the cache that is left gives what the sources give.

``python tests/faults/killed_fills.py`` kills 300 processes in some ten minutes.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import xarray as xr

import dde
import dde.tutorial

METRICS = ["arc_easy", "pile_valppl", "train_loss"]


def read(suite: dde.tutorial.Suite, cache: Path | None) -> xr.Dataset:
    """Open and load a suite by way of a cache."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dde.open_lineages(suite.data, suite.wandb, cache_dir=cache, metrics=METRICS, state="all").load()


def kill_fill(suite: dde.tutorial.Suite, cache: Path, delay: float) -> bool:
    """Fill a cache in a process that is killed after a while; return whether it was still running."""
    command = [sys.executable, "-m", "dde", "cache", "fill", suite.data, suite.wandb, "--cache-dir", str(cache)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(delay)
    is_running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return is_running


def try_kills(folder: Path, kills: int, seed: int) -> tuple[int, list[str]]:
    """Kill processes that fill one cache, and return how many were running and where values differ."""
    suite, draw, killed = dde.tutorial.make_suite(folder / "suite", "tiny"), random.Random(seed), 0
    truth, differences = read(suite, None), []
    for number in range(kills):
        # Every third one begins with nothing; the others go on with what was left.
        cache = folder / f"cache{number // 3}"
        delay = 0.3 + 2.2 * draw.random()
        killed += kill_fill(suite, cache, delay)
        if not read(suite, cache).broadcast_equals(truth):
            differences.append(f"kill {number} after {delay:.3f} s")
    return killed, differences


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        killed, differences = try_kills(Path(folder), asked.kills, asked.seed)
    print(
        f"seed {asked.seed}: {killed} of {asked.kills} processes killed while they ran, {len(differences)} differences"
    )
    print(*differences, sep="\n")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
