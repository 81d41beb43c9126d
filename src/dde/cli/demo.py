"""``dde demo``: generate a suite, open it, and plot a sweep."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dde.tutorial
from dde.cli.options import CacheDir
from dde.cli.output import busy, note, say

if TYPE_CHECKING:
    import xarray as xr

    from dde.entities.repository import RunRepository

__all__ = ["SWEEP", "Demo", "demo", "run_demo"]

#: The sweep that the demonstration shows: several learning rates on two data recipes.
SWEEP: dict[str, Any] = {
    "params": "150M",
    "data": ["Dolma1.7", "DCLM-Baseline"],
    "seed": "default",
    "method": "supervised_ft",
    "epochs": 2,
    "metrics": ["arc_easy", "train_loss"],
    # Enough for every logged row, so that the curves show exactly the logs.
    "max_points": 4096,
}

_TITLE = "A learning-rate sweep, pretraining and finetuning joined"
_TEXT = (
    "Two 150M models of a generated suite, each finetuned at several learning rates. Left: the complete training; "
    "middle: the shaded part enlarged, in tokens since the branch to finetuning; right: the training loss. "
    "Points are observations, and dashed lines bridge gaps in the data. Hover over a curve to see its run."
)


@dataclass(frozen=True)
class Demo:
    """Result of the demonstration.

    Attributes
    ----------
    repository : RunRepository
        All runs of the generated suite.
    dataset : xarray.Dataset
        The sweep.
    page, picture : Path
        Files of the interactive page and of the static picture.
    """

    repository: RunRepository
    dataset: xr.Dataset
    page: Path
    picture: Path


def run_demo(
    cache_dir: str | os.PathLike[str] = "data_cache", progress: Callable[[str], None] = lambda doing: None
) -> Demo:
    """Generate the small suite, open it, and plot a sweep; the generated suite is reused the next time.

    Parameters
    ----------
    cache_dir : path-like
        Everything is written to its folder ``demo/``.
    progress : callable
        Called with a description of each step.

    Returns
    -------
    Demo
        The repository, the Dataset, and the paths of the two files.
    """
    folder = Path(cache_dir) / "demo"
    progress("generating the suite")
    repository = dde.tutorial.open_repository("small", cache_dir=folder)
    progress("reading the registry of runs")
    dataset = repository.to_dataset(**SWEEP)
    progress("loading the sweep")
    dataset.load()
    from dde.plots.files import save

    metrics = SWEEP["metrics"]
    progress("drawing the picture")
    picture = save(dataset.dde.plot(metrics, backend="matplotlib"), folder / "sweep.png")
    progress("drawing the page")
    page = save(dataset.dde.plot(metrics, backend="bokeh"), folder / "sweep.html", title=_TITLE, text=_TEXT)
    return Demo(repository, dataset, page, picture)


def demo(cache_dir: CacheDir = "data_cache") -> None:
    """Generate a small suite, open it, print a summary, and plot a learning-rate sweep.

    All files are written to data_cache/demo in the current folder. It takes less than half a minute, and less the
    second time.

    \b
    Examples:
      dde demo
      dde demo --cache-dir /tmp/dde
    """
    with busy("starting") as progress:
        result = run_demo(cache_dir, progress)
    repository = result.repository
    frame = repository.coverage()
    bases = frame[frame["run_type"] == "pretraining"]
    runs = frame[frame["run_type"] != "pretraining"]
    used = runs[runs["status"] == "used"]
    say(f"A generated suite in {Path(cache_dir) / 'demo'}, with pretraining as tables and post-training as parquet.\n")
    kinds = ", ".join(f"{n} {kind}" for kind, n in used["run_type"].value_counts().items())
    say(f"{len(bases)} lineages, and {len(used)} of {len(runs)} post-training runs placed on them ({kinds}).")
    say("Left out, by reason:")
    for status, count in runs.loc[runs["status"] != "used", "status"].str.partition(":")[0].value_counts().items():
        say(f"  {count:3d}  {status}")
    say("\nOne of its learning-rate sweeps:\n")
    say(str(result.dataset))
    say(f"\nInteractive page: {result.page}\nPicture:          {result.picture}")
    note("\nNext: dde ls --help, or the Python example at the top of the README.")
