"""How time and memory grow with the number of lineages: opening and reading one metric, in fresh processes.

python tests/benchmarks/bench_growth.py --to growth.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from measure import fresh, row, table

_COUNTS = (10, 30, 100, 300, 1_000, 3_000, 10_000)
_CODE = """
import sys
sys.path.insert(0, {here!r})
from many_lineages import open_many
start = clock()
ds = open_many({count})
report["open"] = clock() - start
start = clock()
values = ds.arc_easy.values
report["read"] = clock() - start
report["cells"] = values.size
"""


def rows(picture: Path | None = None) -> list[dict[str, Any]]:
    """Measure each size, and draw them where a place for the picture is given."""
    here = str(Path(__file__).parent)
    told = {count: fresh(_CODE.format(here=here, count=count)) for count in _COUNTS}
    if picture is not None:
        _draw(told, picture)
    first, last = told[_COUNTS[-3]], told[_COUNTS[-1]]
    factor = _COUNTS[-1] / _COUNTS[-3]
    found = []
    for what in ("open", "read"):
        found.append(
            row(
                f"{what} {_COUNTS[-1]:,} lineages",
                last[what],
                floor=first[what] * factor,
                counts={f"{count:,}": f"{told[count][what]:.3g} s" for count in _COUNTS},
                note=f"floor: what {_COUNTS[-3]:,} took, times {factor:.0f}",
            )
        )
    found.append(
        row(
            f"memory of both, {_COUNTS[-1]:,} lineages",
            last["peak_mb"],
            unit="MB",
            counts={f"{count:,}": f"{told[count]['peak_mb']:.0f} MB" for count in _COUNTS},
        )
    )
    return found


def _draw(told: dict[int, dict[str, Any]], picture: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    counts = list(told)
    for what, colour in (("open", "#1f77b4"), ("read", "#d62728")):
        left.loglog(counts, [told[c][what] for c in counts], "o-", color=colour, label=what)
    base = told[counts[-1]]["open"] / counts[-1]
    left.loglog(counts, [base * c for c in counts], ":", color="0.5", label="linear")
    left.set(xlabel="lineages", ylabel="seconds", title="Time")
    left.legend(frameon=False)
    right.semilogx(counts, [told[c]["peak_mb"] for c in counts], "o-", color="#2ca02c")
    right.set(xlabel="lineages", ylabel="MB", title="Peak memory of the process", ylim=(0, None))
    for axes in (left, right):
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--to", type=Path)
    print(table(rows(arguments.parse_args().to)))
