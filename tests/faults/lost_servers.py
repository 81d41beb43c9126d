"""A PostgreSQL server that ends sessions, stops or is away while a suite is opened and read from it.

What comes out is what the server holds, or an error of dde's own. ``python tests/faults/lost_servers.py`` tries 2,000
moments in some five minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import xarray as xr

sys.path.insert(0, str(Path(__file__).parents[1]))

import dde
import dde.tutorial
from dde.errors import DdeError
from postgres_server import PostgresServer, running_server

METRICS = ["train_loss", "arc_easy"]
#: What ends sessions: their transaction alone, or the whole connection.
STATEMENTS = ("pg_terminate_backend", "pg_cancel_backend")


def read(dsn: str) -> xr.Dataset:
    """Open and load the runs of a server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dde.open_lineages(None, dsn, cache_dir=None, metrics=METRICS, state="all").load()


@contextlib.contextmanager
def _ending_sessions(dsn: str, statement: str, delay: float) -> Iterator[None]:
    """End the sessions of others after a while, again and again."""
    done = threading.Event()

    def end() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            done.wait(delay)
            while not done.is_set():
                connection.execute(
                    f"SELECT {statement}(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                done.wait(0.005)

    thread = threading.Thread(target=end)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def try_loss(dsn: str, truth: xr.Dataset, seed: int) -> tuple[str, str]:
    """Read while sessions are ended, and return the outcome and its details."""
    draw = random.Random(seed)
    statement, delay = draw.choice(STATEMENTS), draw.random() * 0.08
    details = f"seed {seed}: {statement} after {delay:.3f} s"
    with _ending_sessions(dsn, statement, delay):
        try:
            found = read(dsn)
        except DdeError as error:
            return "error", f"{details}: {error}"
        except Exception:
            return "raw error", f"{details}: {traceback.format_exc()[-1500:]}"
    return ("same" if found.identical(truth) else "changed"), details


def try_losses(server: PostgresServer, folder: Path, tries: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Read a suite from a server so many times; return outcomes, and faults with their details."""
    suite, dsn = dde.tutorial.make_suite(folder / "suite", "tiny"), server.new_database()
    dde.ingest(suite.wandb, dsn)
    truth, outcomes, faults = read(dsn), Counter[str](), []
    for number in range(tries):
        outcome, details = try_loss(dsn, truth, seed + number)
        outcomes[outcome] += 1
        if outcome not in ("same", "error"):
            faults.append(f"{outcome}, {details}")
    return outcomes, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tries", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_server() as server:
        outcomes, faults = try_losses(server, Path(folder), asked.tries, asked.seed)
    print(f"seed {asked.seed}: {dict(outcomes)}, {len(faults)} faults")
    print(*faults[:20], sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
