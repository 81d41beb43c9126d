"""Files of a suite, and of its cache, damaged at random: what comes out is right, or an error that explains itself.

``python tests/faults/damaged_files.py`` damages 2,000 files in some ten minutes. Each is opened and read in a process
that may die. Values may differ only where the form of a file holds no checksum that tells: parquet without checksums of
its pages, and JSON lines. Those are counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

import dde
import dde.tutorial
from dde.errors import DdeError

METRICS = ["arc_easy", "pile_valppl", "train_loss", "olmes_10_macro_avg"]
#: Outcomes that are no fault.
ALLOWED = {"same", "error", "fewer, counted"}


@dataclass(frozen=True)
class Store:
    """A suite in one form, and what is true of it."""

    name: str
    folder: Path
    truth: pd.Series

    @property
    def has_checksums(self) -> bool:
        """Return whether a changed value can always be told."""
        return self.name in ("parquet with checksums", "cache")


def read_values(folder: Path) -> tuple[pd.Series, str]:
    """Return every observed value by metric, lineage, run and tokens, and what was left out."""
    cache = folder / "cache"
    tables, runs = folder / "datadecide", folder / "wandb"
    ds = dde.open_lineages(
        tables, runs, cache_dir=cache if cache.exists() else None, metrics=METRICS, state="all", grid="union"
    )
    series = [ds[name].load().to_series().dropna() for name in ds.data_vars]
    said = " ".join(str(v) for k, v in ds.attrs.items() if "left_out" in k or "set_aside" in k)
    return pd.concat(dict(zip(map(str, ds.data_vars), series, strict=True))), said


def make_stores(folder: Path) -> list[Store]:
    """Write a suite in every form: plain parquet, parquet with checksums, JSON lines, and with a cache."""
    plain = folder / "parquet"
    dde.tutorial.make_suite(plain, "tiny")
    checked = folder / "parquet with checksums"
    shutil.copytree(plain, checked)
    for file in checked.rglob("*.parquet"):
        pq.write_table(pq.read_table(file), file, write_page_checksum=True, row_group_size=2_000)
    lines = folder / "JSON lines"
    shutil.copytree(plain, lines)
    _write_lines(lines / "wandb")
    cached = folder / "cache"
    shutil.copytree(plain, cached)
    (cached / "cache").mkdir()
    with warnings.catch_warnings():
        # The suite has rows that disagree, as the real one does.
        warnings.simplefilter("ignore")
        read_values(cached)
        return [Store(f.name, f, read_values(f)[0]) for f in (plain, checked, lines, cached)]


def _write_lines(export: Path) -> None:
    """Put JSON lines in place of the parquet files of an export."""
    runs = pq.read_table(export / "runs_metadata.parquet").to_pylist()
    with (export / "runs.jsonl").open("w") as file:
        for run in runs:
            texts = {k: json.loads(v) for k, v in run.items() if isinstance(v, str) and v[:1] in "{["}
            file.write(json.dumps({**run, **texts}, default=str) + "\n")
    with (export / "history.jsonl").open("w") as file:
        for row in pq.read_table(export / "runs_history.parquet").to_pylist():
            kept = {k: v for k, v in row.items() if v is not None and v == v}
            file.write(json.dumps(kept, default=str) + "\n")
    for file in export.glob("*.parquet"):
        file.unlink()


def damage_file(file: Path, draw: random.Random) -> str:
    """Damage a file in one way, and return which."""
    data = bytearray(file.read_bytes())
    at = draw.randrange(len(data) + 1)
    # Where a footer or the first line is, too.
    at = draw.choice((at, at, min(at, 64), max(len(data) - draw.randrange(1, 200), 0)))
    length = draw.randrange(1, 200)
    kind = draw.choice(("bit", "bit", "zeros", "noise", "cut", "gone", "doubled", "longer", "empty"))
    if kind == "bit" and data:
        data[min(at, len(data) - 1)] ^= 1 << draw.randrange(8)
    elif kind == "zeros":
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == "noise":
        data[at : at + length] = draw.randbytes(len(data[at : at + length]))
    elif kind == "cut":
        del data[at:]
    elif kind == "gone":
        del data[at : at + length]
    elif kind == "doubled":
        data[at:at] = data[at : at + length]
    elif kind == "longer":
        data += draw.randbytes(length)
    else:
        data.clear()
    file.write_bytes(data)
    return kind


def try_damage(store: Store, seed: int) -> tuple[str, str, str]:
    """Damage one file of a copy and read it; return the store, the outcome and the details."""
    draw = random.Random(f"{store.name} {seed}")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "suite"
        shutil.copytree(store.folder, copy)
        part = copy / "cache" if store.name == "cache" else copy
        files = sorted(f for f in part.rglob("*") if f.is_file() and "truth" not in f.parts)
        file = draw.choice(files)
        status = file.stat()
        details = f"seed {seed}: {damage_file(file, draw)} in {file.relative_to(copy)}"
        if draw.random() < 0.5:
            # A disk that forgets leaves the times of a file alone.
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                values, said = read_values(copy)
            except DdeError as error:
                whole = str(error)
                return store.name, "error" if len(whole) > 40 else "error without reason", f"{details}: {whole[:200]}"
            except Exception:
                return store.name, "raw error", f"{details}: {traceback.format_exc()[-1500:]}"
        said += " ".join(str(w.message) for w in caught)
        return store.name, _outcome(values, store, said), details


def _outcome(values: pd.Series, store: Store, said: str) -> str:
    both = store.truth.index.intersection(values.index)
    if not np.array_equal(values[both].to_numpy(), store.truth[both].to_numpy()):
        return "changed"
    if len(both) < len(values):
        return "moved"
    if len(both) == len(store.truth):
        return "same"
    return "fewer, counted" if said else "fewer"


def is_fault(store: Store, outcome: str) -> bool:
    """Return whether this must not happen."""
    unseen = () if store.has_checksums else ("changed", "moved", "fewer")
    return outcome not in {*ALLOWED, *unseen}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    asked = parser.parse_args()
    outcomes: Counter[tuple[str, str]] = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        stores = make_stores(Path(folder))
        left = [(stores[i % len(stores)], asked.seed + i) for i in range(asked.files)]
        while left:
            # A process that died takes the others of its pool along: those are tried again, one by one.
            with ProcessPoolExecutor(1 if len(left) < 50 else os.cpu_count(), max_tasks_per_child=200) as processes:
                tasks = [(task, processes.submit(try_damage, *task)) for task in left[:500]]
                undone = []
                for task, done in tasks:
                    try:
                        name, outcome, details = done.result()
                    except BrokenProcessPool:
                        undone.append(task)
                        continue
                    outcomes[name, outcome] += 1
                    if is_fault(task[0], outcome):
                        faults.append(f"{name}, {outcome}, {details}")
            if len(undone) == len(tasks):
                store, seed = undone.pop(0)
                outcomes[store.name, "process died"] += 1
                faults.append(f"{store.name}, process died, seed {seed}")
            left = undone + left[500:]
            print(f"{sum(outcomes.values()):,} files, {len(faults)} faults", flush=True)
    for (name, outcome), count in sorted(outcomes.items()):
        print(f"{name:24s} {outcome:16s} {count}")
    print(f"seed {asked.seed}: {len(faults)} faults")
    print(*faults[:20], sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
