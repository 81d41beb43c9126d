"""The demonstration: from nothing to a sweep, looked at."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dde.tutorial

if TYPE_CHECKING:
    import xarray as xr

    from dde.repository import RunRepository

__all__ = ["SWEEP", "Demo", "run_demo"]

#: The sweep that the demonstration shows: several learning rates on two data recipes.
SWEEP: dict[str, Any] = {
    "params": "150M",
    "data": ["Dolma1.7", "DCLM-Baseline"],
    "seed": "default",
    "method": "supervised_ft",
    "epochs": 2,
    "metrics": ["arc_easy", "train_loss"],
    # Enough for every row of the logs, so that what is drawn is what was logged.
    "max_points": 4096,
}

_TITLE = "A learning-rate sweep, pretraining and finetuning joined"
_TEXT = (
    "Two 150M models of a generated suite, each finetuned at several learning rates. Left, all training so far; "
    "middle, the shaded part of it enlarged, counted from where finetuning branches off; right, the training loss. "
    "Points are observations, and a dashed line joins what the data leaves open. Point at anything to see its run."
)


@dataclass(frozen=True)
class Demo:
    """What the demonstration made.

    Attributes
    ----------
    repository : RunRepository
        All runs of the generated suite.
    dataset : xarray.Dataset
        The sweep.
    page, picture : Path
        The interactive page, and the picture to print.
    """

    repository: RunRepository
    dataset: xr.Dataset
    page: Path
    picture: Path


def run_demo(
    cache_dir: str | os.PathLike[str] = "data_cache", progress: Callable[[str], None] = lambda doing: None
) -> Demo:
    """Make the small suite, open it, and draw a sweep of it; a second time the suite is there already.

    Parameters
    ----------
    cache_dir : path-like
        Everything goes to ``demo/`` in there.
    progress : callable
        Told what is being done.

    Returns
    -------
    Demo
        The repository, the Dataset, and where the two files are.
    """
    folder = Path(cache_dir) / "demo"
    progress("generating the suite")
    repository = dde.tutorial.open_repository("small", cache_dir=folder)
    progress("reading the registry of runs")
    dataset = repository.to_dataset(**SWEEP)
    progress("loading the sweep")
    dataset.load()
    from dde.plots.files import save_page, save_picture

    metrics = SWEEP["metrics"]
    progress("drawing the picture")
    picture = save_picture(dataset.dde.plot(metrics, backend="matplotlib"), folder / "sweep.png")
    progress("drawing the page")
    page = save_page(dataset.dde.plot(metrics, backend="bokeh"), folder / "sweep.html", _TITLE, _TEXT)
    return Demo(repository, dataset, page, picture)
