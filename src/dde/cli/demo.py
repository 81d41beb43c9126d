"""``dde demo``: from nothing to a picture."""

from __future__ import annotations

from pathlib import Path

from dde.cli.options import CacheDir
from dde.cli.output import busy, note, say

__all__ = ["demo"]


def demo(cache_dir: CacheDir = "data_cache") -> None:
    """Generate a small suite, open it, print what was found, and draw a learning-rate sweep of it.

    All of it goes to data_cache/demo in the current folder. It takes less than half a minute, and a second time
    less than that.

    \b
    Examples:
      dde demo
      dde demo --cache-dir /tmp/dde
    """
    from dde.demo import run_demo

    with busy("starting") as progress:
        made = run_demo(cache_dir, progress)
    repository = made.repository
    frame = repository.coverage()
    bases = frame[frame["run_type"] == "pretraining"]
    runs = frame[frame["run_type"] != "pretraining"]
    used = runs[runs["status"] == "used"]
    say(
        f"A generated suite in {Path(cache_dir) / 'demo'}, its pretraining as tables and its post-training as "
        "parquet.\n"
    )
    kinds = ", ".join(f"{n} {kind}" for kind, n in used["run_type"].value_counts().items())
    say(f"{len(bases)} lineages, and {len(used)} of {len(runs)} post-training runs placed on them ({kinds}).")
    say("Left out, and why:")
    for status, count in runs.loc[runs["status"] != "used", "status"].str.partition(":")[0].value_counts().items():
        say(f"  {count:3d}  {status}")
    say("\nOne learning-rate sweep of it:\n")
    say(str(made.dataset))
    say(f"\nInteractive page: {made.page}\nPicture:          {made.picture}")
    note("\nNext: dde ls --help, or the README's first lines in Python.")
