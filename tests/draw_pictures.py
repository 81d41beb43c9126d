"""Draw every picture of dde with both backends in every format, to look at: ``python tests/draw_pictures.py FOLDER``.

The folder gets PNG, SVG, PDF and HTML of each picture, a screenshot of each page where Chromium is installed, the first
page of each PDF as PNG where pdftoppm is, and ``index.html`` that shows the three beside each other. A picture that was
drawn with Bokeh and printed must be the one that Matplotlib draws; where it is not, or a picture can't be drawn, the
script says so and ends with an error.
"""

from __future__ import annotations

import html
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import xarray as xr

import dde
from browser import Visit, running_chromium
from dde.errors import DdeWarning

#: A picture: a function of the backend.
Picture = Callable[[str], Any]

METRICS = ["arc_easy", "hellaswag", "piqa", "pile_valppl", "train_loss"]


def pictures() -> Iterator[tuple[str, Picture]]:
    """Yield the name of each picture and the function that draws it."""
    ds = dde.tutorial.open_lineages("small", metrics=METRICS).load()
    bases, large = ds.dde.base_curves(), ds.dde.sel(params="150M", seed=0)
    sft = ds.dde.sel(run_type="supervised_ft", branch_point="", params="150M")
    two = large.dde.sel(data=["Dolma1.7", "DCLM-Baseline"])

    def of(dataset: xr.Dataset, method: str, *args: Any, **options: Any) -> Picture:
        return lambda backend: getattr(dataset.dde, method)(*args, **options, backend=backend)

    yield "curves", of(two, "plot", ["arc_easy", "train_loss"])
    yield "curves_of_one", of(large.dde.sel(data="Dolma1.7"), "plot", "arc_easy", zoom=False, title="One lineage")
    yield "curves_gain", of(two, "plot", "arc_easy", x="post_tokens", relative_to="base", facet_by="data")
    yield "curves_means", of(bases, "plot", "arc_easy", x="cumulative_compute", log_x=True, band="seed",
                             hue_by="params", facet_by="data")  # fmt: skip
    yield "curves_many", of(ds, "plot", "arc_easy", facet_by="params", hue_by="data", zoom=False)
    yield "curves_paper", of(two, "plot", "arc_easy", facet_by="data", zoom=False, size=(6.5, 3), font_size=7,
                             legend="bottom", palette="viridis", caption=False)  # fmt: skip
    yield "heatmap", of(sft.dde.sweep("learning_rate", "epochs"), "plot_heatmap", "arc_easy")
    yield "scaling", of(bases, "plot_scaling", "arc_easy")
    yield "tree", of(two, "plot_tree", "arc_easy")
    for method in ("plot_final", "plot_slopes", "plot_parallel"):
        if hasattr(ds.dde, method):
            yield method.removeprefix("plot_"), of(sft, method, "arc_easy")
    for question, answer in answers(bases, sft).items():
        yield f"answer_{question}", of(answer, "plot")


def answers(bases: xr.Dataset, sft: xr.Dataset) -> dict[str, xr.Dataset]:
    """Return an answer of each question."""
    recipes = bases.dde.sel(data=["Dolma1.7", "C4"])
    return {
        "reach": bases.dde.reach("arc_easy", 0.45),
        "match": bases.dde.sel(params=["150M", "300M"]).dde.match("hellaswag", {"params": "150M"}),
        "effect": sft.dde.effect("arc_easy"),
        "best": sft.dde.best("arc_easy", over="learning_rate"),
        "ranks": bases.dde.ranks(["arc_easy", "piqa"], over="data", a={"params": "20M"}, b={"params": "150M"}),
        "decision_accuracy": bases.dde.decision_accuracy("arc_easy", over="data", target={"params": "150M"}),
        "signal_to_noise": bases.dde.signal_to_noise(["arc_easy", "piqa"], over="data"),
        "fit": recipes.dde.fit("pile_valppl"),
        "compare": dde.compare(bases.dde.sel(data="C4"), bases.dde.sel(data="Dolma1.7"), "arc_easy", over="seed"),
    }


def write(name: str, draw: Picture, folder: Path) -> None:
    """Write a picture in every format, and check that print does not depend on the backend it was drawn with."""
    printed, page = draw("matplotlib"), draw("bokeh")
    for suffix in (".png", ".svg", ".pdf"):
        dde.save(printed, folder / f"{name}{suffix}")
    dde.save(page, folder / f"{name}.html", title=name)
    again = dde.save(page, folder / "again.svg")
    same = again.read_bytes() == (folder / f"{name}.svg").read_bytes()
    again.unlink()
    if not same:
        raise AssertionError("Bokeh's picture is printed in another way than Matplotlib's")


def main(folder: Path) -> int:
    """Draw everything, and return the number of pictures that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    failed, names = 0, []
    for name, draw in pictures():
        try:
            write(name, draw, folder)
        except Exception as error:
            failed += 1
            print(f"{name}: {type(error).__name__}: {error}")
        else:
            names.append(name)
            print(name)
    if shutil.which("pdftoppm"):
        for name in names:
            stem = folder / f"{name}.pdf"
            subprocess.run(["pdftoppm", "-png", "-r", "100", "-singlefile", f"{stem}", f"{stem}"], check=True)
    if any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        with running_chromium() as browser:
            for name in names:
                visit = Visit(browser, (folder / f"{name}.html").resolve().as_uri())
                visit.page.wait_for_function("() => window.Bokeh && Bokeh.documents.length")
                visit.page.wait_for_timeout(500)
                visit.page.screenshot(path=folder / f"{name}.html.png", full_page=True)
                failed += bool(visit.complaints)
                print(*visit.complaints, sep="\n", end="")
                visit.close()
    (folder / "index.html").write_text(index(names), encoding="utf-8")
    print(f"{len(names)} pictures in {folder / 'index.html'}, {failed} failures")
    return failed


def index(names: list[str]) -> str:
    """Return a page with all pictures: SVG, PDF and page."""
    cell = '<td style="vertical-align: top"><a href="{0}"><img src="{1}" width="480"></a></td>'
    rows = [
        f"<tr><th colspan=3 align=left>{html.escape(name)}</th></tr><tr>"
        + cell.format(f"{name}.svg", f"{name}.svg")
        + cell.format(f"{name}.pdf", f"{name}.pdf.png")
        + cell.format(f"{name}.html", f"{name}.html.png")
        + "</tr>"
        for name in names
    ]
    return f"<!DOCTYPE html><meta charset='utf-8'><title>Pictures</title><table>{''.join(rows)}</table>"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} FOLDER")
    # The generated suite has a contradictory row.
    warnings.filterwarnings("ignore", ".*repeated rows", DdeWarning)
    sys.exit(min(main(Path(sys.argv[1])), 1))
