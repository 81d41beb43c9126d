"""What the benchmarks share: rows of the table, timing in turns, fresh processes with their peak memory."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["fresh", "in_turns", "row", "table"]


def row(
    job: str,
    ours: float,
    *,
    floor: float | None = None,
    peer: float | None = None,
    unit: str = "s",
    counts: Mapping[str, Any] | None = None,
    note: str = "",
) -> dict[str, Any]:
    """Return one line of the table: what was measured beside what, and the ratios that count."""
    return {
        "job": job,
        "ours": ours,
        "floor": floor,
        "peer": peer,
        "unit": unit,
        "ratio_to_floor": ours / floor if floor else None,
        "times_faster_than_peer": peer / ours if peer else None,
        "counts": dict(counts or {}),
        "note": note,
    }


def in_turns(repeats: int, **jobs: Callable[[], object]) -> dict[str, float]:
    """Return the median seconds of each job; they take turns, so that a busy moment meets all of them."""
    for job in jobs.values():
        job()  # memory touched for the first time costs time
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


_REPORT = """
import json as _json, resource as _resource
_status = open("/proc/self/status").read() if __import__("os").path.exists("/proc/self/status") else ""
_peak = [int(_l.split()[1]) for _l in _status.splitlines() if _l.startswith("VmHWM")]
_peak = _peak[0] if _peak else _resource.getrusage(_resource.RUSAGE_SELF).ru_maxrss
print("REPORT " + _json.dumps({**report, "peak_mb": _peak / 1e3}))
"""


def fresh(code: str, path: str = "", **environment: str) -> dict[str, Any]:
    """Run code in a fresh process; it fills the dict `report`, to which the peak of its memory is added.

    Parameters
    ----------
    code : str
        Python; `clock()` gives seconds.
    path : str
        Folder to import from, before all others.
    """
    lines = f"from time import perf_counter as clock\nreport = {{}}\n{code}\n{_REPORT}"
    surroundings = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore", **environment}
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, env=surroundings, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("REPORT "):
            found: dict[str, Any] = json.loads(line.removeprefix("REPORT "))
            return found
    raise RuntimeError(f"the process told nothing: {done.stderr[-2000:]}")


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table."""
    lines = [
        "| job | ours | floor | ours / floor | peer | times faster | counts |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        told = (r.get("counts") or {}).items()
        counts = ", ".join(f"{k.replace('_', ' ')} {_short(v)}" for k, v in told if isinstance(v, (int, float, str)))
        unit, note = r.get("unit", "s"), r.get("note")
        cells = [f"{r['job']} ({note})" if note else r["job"]]
        cells += [_with_unit(r.get(k), unit) for k in ("ours", "floor")]
        cells += [_short(r.get("ratio_to_floor")), _with_unit(r.get("peer"), unit)]
        cells += [_short(r.get("times_faster_than_peer")), counts]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _with_unit(value: float | None, unit: str) -> str:
    return "" if value is None else f"{_short(value)} {unit}".strip()


def _short(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
