"""The application in a real Chromium: from the command to the first curves, and from a click to drawn curves.

python tests/benchmarks/bench_explore.py SUITE --cache FOLDER
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).parents[1]))

from measure import row, table

from browser import Visit, exploring, running_chromium

_METRICS = ("arc_easy", "piqa", "hellaswag", "boolq")
_OTHERS = ("arc_challenge", "csqa", "openbookqa", "winogrande", "socialiqa", "mmlu_average", "dolma_wiki_valppl")
_REPEATS = 7
# The last drawing of the page: its mark counts them.
_COUNT = """() => performance.getEntriesByType("mark").filter((m) => m.name.startsWith("dde drawn ")).length"""
# The time of the latest event that changes a widget; `change` does not leave the shadow of a widget, `input` does.
_CLICKED = """() => {
  for (const kind of ["click", "input"])
    document.addEventListener(kind, () => { window.clicked = performance.now() }, {capture: true})
}"""


def rows(data: str, wandb: str, cache: str) -> list[dict[str, Any]]:
    """Return the rows of the table."""
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, running_chromium() as browser:
        for attempt in ("first start, nothing cached", "start again"):
            start = time.perf_counter()
            with exploring(data, wandb, "--cache-dir", cache, folder=Path(folder)) as (address, process):
                served = time.perf_counter() - start
                visit = Visit(browser, address)
                visit.drawn(1)
                counts: dict[str, Any] = {"until the address is printed, s": round(served, 2)}
                if attempt == "start again":
                    found.append(row("start to first curves", time.perf_counter() - start, counts=counts))
                    visit.close()
                    for name, lineages in _selections(data, wandb, cache).items():
                        visit = Visit(browser, f"{address}?{_query(lineages)}")
                        visit.drawn(1)
                        visit.page.wait_for_timeout(1500)
                        found += _clicks(visit, name, process.pid)
                        visit.close()
    return found


def _selections(data: str, wandb: str, cache: str) -> dict[str, list[str]]:
    import dde

    ds = dde.open_lineages(data, wandb, cache_dir=cache, metrics=list(_METRICS))
    counts = (ds.run_id != "").sum("run").values
    labels = ds.lineage.values
    # Lineages with post-training runs until there are fifty curves, and the first five hundred.
    few, total = [], 0
    for k in sorted(range(len(counts)), key=lambda k: -counts[k]):
        if total + counts[k] <= 55:
            few.append(str(labels[k]))
            total += int(counts[k])
    many, total = [], 0
    for label, count in zip(labels, counts, strict=True):
        if total < 500:
            many.append(str(label))
            total += int(count)
    return {"50 curves in four panels": few, "500 curves in four panels": many}


def _query(lineages: list[str]) -> str:
    parts = [("metrics", m) for m in _METRICS] + [("lineage", label) for label in lineages]
    return urlencode([*parts, ("facet_by", ""), ("zoom", "false")])


def _clicks(visit: Visit, name: str, pid: int) -> list[dict[str, Any]]:
    page = visit.page
    page.evaluate(_CLICKED)
    curves = page.locator(".run").count()
    found = []

    def colour(k: int) -> None:
        visit.choose("Colour", ("data", "params")[k % 2])

    def metric(k: int) -> None:
        # One that was not read yet; the last event is the click on its name.
        visit.pick("To draw", _OTHERS[k])

    acts: dict[str, Callable[[int], None]] = {
        "a metric more": metric,
        "another colour": colour,
        "logarithmic axis": lambda k: visit.tick("logarithmic axis"),
        "difference to the base": lambda k: visit.choose("Values", ("difference to the base", "as they are")[k % 2]),
    }
    for label, act in acts.items():
        times = []
        for k in range(_REPEATS):
            times.append(_timed(page, act, k))
            if act is metric:
                count = page.evaluate(_COUNT)
                visit.unpick("To draw", _OTHERS[k])
                page.wait_for_function(f"({_COUNT})() > {count}")
        found.append(
            row(
                f"{label}, {name}",
                statistics.median(times),
                counts={"curves": curves, "slowest, s": round(max(times), 3), "server MB": _megabytes(pid)},
            )
        )
    times = [_hidden(page) for _ in range(_REPEATS)]
    found.append(row(f"hide a run, {name}", statistics.median(times), counts={"slowest, s": round(max(times), 3)}))
    return found


def _timed(page: Any, act: Callable[[int], None], k: int) -> float:
    """Return seconds from a click to the drawing that it led to, by the clock of the page."""
    count = page.evaluate(_COUNT)
    act(k)
    page.wait_for_function(f"({_COUNT})() > {count}")
    return float(
        page.evaluate(
            """() => {
  const marks = performance.getEntriesByType("mark").filter((m) => m.name.startsWith("dde drawn "))
  return (marks.at(-1).startTime - window.clicked) / 1000
}"""
        )
    )


def _hidden(page: Any) -> float:
    """Return seconds from hiding a run to the page that is painted without it."""
    return float(
        page.locator(".run .eye").first.evaluate(
            """(eye) => new Promise((resolve) => {
  const start = performance.now()
  eye.click()
  requestAnimationFrame(() => setTimeout(() => resolve((performance.now() - start) / 1000)))
})"""
        )
    )


def _megabytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4 // 1024


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("suite", type=Path, help="folder that dde.tutorial.make_suite(..., 'full') has written")
    arguments.add_argument("--cache", default="", help="folder of the cache; a temporary one by default")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = given.cache or f"{folder}/cache"
        print(table(rows(str(given.suite / "datadecide"), str(given.suite / "wandb"), cache)))


if __name__ == "__main__":
    main()
