"""Reading and loading a PostgreSQL store, beside the floor that the server itself sets and beside a usual way.

Alone: ``python tests/benchmarks/bench_postgres.py --scale 0.1``. At scale 1: 400 runs, 1,000,000 logged rows, no
index. The peer needs SQLAlchemy; where it is absent, its columns are empty.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psycopg
import pytest

_TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TESTS), str(_TESTS / "sources"), str(_TESTS / "benchmarks")]

from postgres_store import ROWS, RUNS, fill_store, write_exports  # noqa: E402
from store_data import watched_traffic  # noqa: E402

from dde.sources.postgres.queries import Layout  # noqa: E402
from dde.sources.postgres.store import PostgresStore  # noqa: E402
from dde.sources.protocols import CONFIG_KEYS  # noqa: E402
from postgres_server import running_server  # noqa: E402

KEYS = ["train_loss", "learning_rate", "total_tokens"]

_LISTING_FLOOR = """
SELECT r.run_id, picked.config FROM wandb_runs r CROSS JOIN LATERAL (
    SELECT jsonb_object_agg(e.key, e.value) FILTER (WHERE e.key = ANY(%(keys)s::text[])) AS config
    FROM jsonb_each(r.config) e
) picked
"""
_NUMBERS = ", ".join(f"(metrics ->> '{key}')::float8" for key in KEYS)
_PEER_ROWS = 100_000


def rows(scale: float = 1.0) -> list[dict[str, Any]]:
    """Run every measurement at a scale, and return what each took."""
    with running_server() as server:
        dsn = server.new_database()
        fill_store(dsn, runs=max(8, round(RUNS * scale)), rows=max(1000, round(ROWS * scale)))
        return [
            *_listing(dsn),
            *_logs(dsn, scale),
            *_summaries(dsn),
            *_refresh(dsn),
            *_loading(server, scale),
        ]


def _row(
    job: str,
    ours: float,
    *,
    unit: str = "s",
    floor: float | None = None,
    peer: float | None = None,
    counts: dict[str, Any] | None = None,
    note: str = "",
) -> dict[str, Any]:
    return {
        "job": job,
        "peer": peer,
        "floor": floor,
        "ours": ours,
        "unit": unit,
        "ratio_to_floor": None if floor is None else ours / floor,
        "times_faster_than_peer": None if peer is None else peer / ours,
        "counts": counts or {},
        "note": note,
    }


def _best(*jobs: Callable[[], Any], repeats: int = 5) -> list[float]:
    """Return the least time of each job; they take turns, so that a busy machine meets them alike."""
    best = [float("inf")] * len(jobs)
    for _ in range(repeats):
        for position, job in enumerate(jobs):
            start = time.perf_counter()
            job()
            best[position] = min(best[position], time.perf_counter() - start)
    return best


def _traffic(job: Callable[[], Any]) -> dict[str, int]:
    with pytest.MonkeyPatch.context() as patch, watched_traffic(patch) as traffic:
        job()
    return {"queries": len(traffic.statements), "bytes": traffic.received}


@contextmanager
def _without_versions_of_logs() -> Iterator[None]:
    found = Layout.from_catalog
    layout = lambda *args: dataclasses.replace(found(*args), history=frozenset())  # noqa: E731
    with mock.patch.object(Layout, "from_catalog", layout):
        yield


def _listing(dsn: str) -> list[dict[str, Any]]:
    store = PostgresStore(dsn)

    def listed() -> None:
        with _without_versions_of_logs():
            store.runs()

    with psycopg.connect(dsn, autocommit=True) as session:

        def ask(query: str, **parameters: Any) -> list[Any]:
            return session.execute(query, parameters).fetchall()

        def floor() -> list[Any]:
            return ask(_LISTING_FLOOR, keys=list(CONFIG_KEYS))

        def scan() -> list[Any]:
            return ask("SELECT run_id, count(*) FROM wandb_history GROUP BY run_id")

        whole, rest = ask(
            """SELECT sum(octet_length(config::text))::int,
            sum(octet_length(concat(summary, wandb_metadata, system_metrics, system_attrs, sweep_info)))::int
            FROM wandb_runs"""
        )[0]
        picked = sum(len(json.dumps(config)) for _, config in floor())
        list_time, floor_time, run_time, scan_time = _best(listed, floor, store.runs, scan)
    counts = _traffic(listed)
    return [
        _row(
            f"list {len(store.runs())} runs, {len(CONFIG_KEYS)} config keys",
            list_time,
            floor=floor_time,
            counts=counts
            | {
                "bytes_of_config_keys": picked,
                "bytes_of_whole_configs": whole,
                "bytes_of_whole_rows": whole + rest,
                "times_fewer_than_configs": whole / picked,
                "times_fewer_than_rows": (whole + rest) / counts["bytes"],
            },
            note="without versions of logs; beside config keys, the bytes hold launch commands, names and tags; "
            "floor: one jsonb_each pass over config, on an open connection",
        ),
        _row(
            "list runs, with the version of every log",
            run_time,
            floor=floor_time + scan_time,
            counts=_traffic(store.runs),
            note=f"floor: that pass, and count(*) of the log by run ({scan_time:.3f} s)",
        ),
    ]


def _floor_columns(session: psycopg.Connection[Any]) -> list[np.ndarray]:
    """Read three keys by binary COPY: fixed width where a block has no nulls, field by field where it has."""
    with (
        session.cursor() as cursor,
        cursor.copy(f"COPY (SELECT {_NUMBERS} FROM wandb_history) TO STDOUT (FORMAT binary)") as copy,
    ):
        content = bytearray()
        for block in copy:
            content += block
    body = np.frombuffer(content, np.uint8)[19:-2]  # what stands before and after the rows
    # A row is 2 bytes and per field 4 of length and 8 of value, less 8 where it is null: as many rows of one pattern
    # of nulls as follow each other are decoded at once, up to a bound.
    columns: list[list[np.ndarray]] = [[] for _ in KEYS]
    at = 0
    while at < len(body):
        lengths, end = [], at + 2
        for _ in KEYS:
            lengths.append(int.from_bytes(content[19 + end : 23 + end], "big", signed=True))
            end += 4 + max(lengths[-1], 0)
        fields: list[tuple[str, str]] = [("fields", ">i2")]
        for k, length in enumerate(lengths):
            fields += [(f"length{k}", ">i4"), (f"value{k}", ">f8")][: 2 if length == 8 else 1]
        kind = np.dtype(fields)
        table = np.frombuffer(body, kind, min(8192, (len(body) - at) // kind.itemsize), at)
        same = table["fields"] == len(KEYS)
        for k, length in enumerate(lengths):
            same &= table[f"length{k}"] == length
        count = len(table) if same.all() else int(np.argmin(same))
        for k, column in enumerate(columns):
            column.append(table[f"value{k}"][:count].astype(np.float64) if lengths[k] == 8 else np.full(count, np.nan))
        at += count * kind.itemsize
    return [np.concatenate(column) for column in columns]


def _logs(dsn: str, scale: float) -> list[dict[str, Any]]:
    store = PostgresStore(dsn)
    run_ids = [run.run_id for run in store.runs()]
    with psycopg.connect(dsn, autocommit=True) as session:
        ours, floor = _best(lambda: store.history(run_ids, KEYS), lambda: _floor_columns(session))
        expected = _floor_columns(session)
    history = store.history(run_ids, KEYS)
    for key, column in zip(KEYS, expected, strict=True):
        assert np.array_equal(np.sort(history.values[key]), np.sort(column), equal_nan=True)
    result = history.run.nbytes + history.step.nbytes + sum(array.nbytes for array in history.values.values())
    counts = _traffic(lambda: store.history(run_ids, KEYS)) | {"rows": len(history.run)}
    peak = json.loads(_in_process(_OURS, dsn, json.dumps(KEYS)))["peak"]
    peer = peer_peak = None
    note = "floor: binary COPY of the keys as float8, decoded by NumPy; no run, step or order"
    if importlib.util.find_spec("sqlalchemy"):
        limit = max(1000, round(_PEER_ROWS * min(1.0, scale)))
        said = json.loads(_in_process(_PEER, dsn, str(limit)))
        factor = len(history.run) / limit
        peer, peer_peak = said["seconds"] * factor, said["peak"] * factor
        note += f"; peer: SQLAlchemy ORM into pandas, {limit:,} rows, times {factor:g}"
    megabyte = 2**20
    found = [
        _row(f"history of {len(KEYS)} metrics", ours, floor=floor, peer=peer, counts=counts, note=note),
        _row(
            "history, peak memory",
            peak / megabyte,
            unit="MB",
            floor=result / megabyte,
            peer=None if peer_peak is None else peer_peak / megabyte,
            note="resident at the peak beyond before, in a fresh process; floor: the result",
        ),
    ]
    if importlib.util.find_spec("adbc_driver_postgresql"):
        found.append(_adbc(dsn, store, run_ids))
    return found


def _adbc(dsn: str, store: PostgresStore, run_ids: list[str]) -> dict[str, Any]:
    import adbc_driver_postgresql.dbapi

    # Its libpq takes a user with an empty password for one without a name.
    with adbc_driver_postgresql.dbapi.connect(dsn.replace(":@", "@")) as session, session.cursor() as cursor:

        def fetch() -> None:
            cursor.execute(f"SELECT step, id, {_NUMBERS} FROM wandb_history")
            cursor.fetch_arrow_table()

        ours, adbc = _best(lambda: store.history(run_ids, KEYS), fetch)
    return _row("history, beside ADBC", ours, peer=adbc, note="peer: ADBC, the keys as float8, step and id")


def _in_process(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", _PEAK + code, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]


_PEAK = """
import json, sys, time
from pathlib import Path
def peak():
    # What getrusage tells of a child begins with the size of the process that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
"""
_OURS = """
from dde.sources.postgres.store import PostgresStore
store, keys = PostgresStore(sys.argv[1]), json.loads(sys.argv[2])
run_ids = [run.run_id for run in store.runs()]
store.history(run_ids[:1], keys)
before = peak()
history = store.history(run_ids, keys)
print(json.dumps({"peak": max(1, peak() - before)}))
"""
_PEER = """
import pandas as pd
from sqlalchemy import Integer, String, create_engine, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
class Base(DeclarativeBase):
    pass
class Row(Base):
    __tablename__ = "wandb_history"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    run_id: Mapped[str] = mapped_column(String)
    step: Mapped[int] = mapped_column(Integer)
    metrics: Mapped[dict] = mapped_column(JSONB)
engine = create_engine(sys.argv[1].replace("postgresql://", "postgresql+psycopg://"))
with Session(engine) as session:
    session.scalars(select(Row).limit(1)).all()
    before, start = peak(), time.perf_counter()
    rows = session.scalars(select(Row).order_by(Row.id).limit(int(sys.argv[2]))).all()
    frame = pd.DataFrame([{"run_id": row.run_id, "step": row.step, **row.metrics} for row in rows])
print(json.dumps({"peak": peak() - before, "seconds": time.perf_counter() - start}))
"""


def _summaries(dsn: str) -> list[dict[str, Any]]:
    store = PostgresStore(dsn)
    run_ids = [run.run_id for run in store.runs()]
    names = store.metric_names()[1]
    primary = [name for name in names if name[1] == "primary_metric"]
    few, every, listed = _best(
        lambda: store.evaluations(run_ids, primary),
        lambda: store.evaluations(run_ids, names),
        store.metric_names,
        repeats=3,
    )
    return [
        _row(f"{len(primary)} final evaluations", few, counts=_traffic(lambda: store.evaluations(run_ids, primary))),
        _row(f"{len(names)} final evaluations", every, counts=_traffic(lambda: store.evaluations(run_ids, names))),
        _row("names of all metrics", listed, counts=_traffic(store.metric_names)),
    ]


def _refresh(dsn: str) -> list[dict[str, Any]]:
    store = PostgresStore(dsn)
    run_ids = [run.run_id for run in store.runs()]
    one = [run_ids[len(run_ids) // 2]]
    refreshed, full = _best(lambda: store.history(one, KEYS), lambda: store.history(run_ids, KEYS), repeats=3)
    counts, whole = _traffic(lambda: store.history(one, KEYS)), _traffic(lambda: store.history(run_ids, KEYS))
    with psycopg.connect(dsn, autocommit=True) as session:
        query = "SELECT count(*) FROM wandb_history WHERE run_id = %s"
        (scan,) = _best(lambda: session.execute(query, one).fetchone(), repeats=3)
        session.execute("CREATE INDEX added ON wandb_history (run_id)")
        (indexed,) = _best(lambda: store.history(one, KEYS), repeats=3)
        session.execute("DROP INDEX added")
    return [
        _row(
            f"refresh 1 of {len(run_ids)} runs",
            refreshed,
            floor=scan,
            peer=full,
            counts=counts | {"bytes_of_a_full_read": whole["bytes"]},
            note="floor: count(*) of that run, which scans; peer: a full read",
        ),
        _row(f"refresh 1 of {len(run_ids)} runs, run_id indexed", indexed, peer=full, note="peer: a full read"),
    ]


_LOADER = """
import sys
from dde.sources.ingest import ingest
print("ready", flush=True)
sys.stdin.readline()
report = ingest(sys.argv[1], sys.argv[2])
print(len(report.added), report.rows_written, flush=True)
"""


def _load(exports: list[Path], dsn: str) -> float:
    """Load exports, each in a process of its own, all at once; return the seconds that all of it takes."""
    command = [sys.executable, "-c", _LOADER]
    processes = [
        subprocess.Popen([*command, str(export), dsn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for export in exports
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    start = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    return time.perf_counter() - start


def _loading(server: Any, scale: float) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        runs, logged = max(4, round(100 * scale)), max(100, round(60_000 * scale))
        exports = write_exports(Path(folder), 2, runs=runs, rows=logged)
        alone, together, same = [], [], []
        for _ in range(2):
            dsn = server.new_database()
            alone.append(sum(_load([export], dsn) for export in exports))
            together.append(_load(exports, server.new_database()))
            dsn = server.new_database()
            same.append(_load([exports[0]] * 2, dsn))
            with psycopg.connect(dsn) as session:
                counted = session.execute(
                    "SELECT (SELECT count(*) FROM wandb_runs), (SELECT count(*) FROM wandb_history)"
                ).fetchone()
            assert counted == (runs, logged // runs * runs)
    what = f"{runs} runs and {logged:,} rows each"
    return [
        _row("load 2 exports, 2 processes", min(together), peer=min(alone), note=f"peer: one after the other; {what}"),
        _row("load 1 export, 2 processes", min(same), note="both at once; one copy is there in the end"),
    ]


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    found = rows(parser.parse_args().scale)

    def text(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}" if value < 100 else f"{value:,.0f}"

    heads = ("job", "peer", "floor", "ours", "unit", "/floor", "x peer")
    names = ("peer", "floor", "ours", "unit", "ratio_to_floor", "times_faster_than_peer")
    print(f"{heads[0]:45}" + "".join(f"{head:>9}" for head in heads[1:]))
    for row in found:
        cells = [row[name] if isinstance(row[name], str) else text(row[name]) for name in names]
        print(f"{row['job']:45}" + "".join(f"{cell:>9}" for cell in cells))
        extra = ", ".join(f"{key} {value:,.0f}" for key, value in row["counts"].items())
        print("    " + "; ".join(part for part in (extra, row["note"]) if part))


if __name__ == "__main__":
    _main()
