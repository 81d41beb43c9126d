"""Pictures as files: what each suffix holds, and pictures that several threads draw and write at once."""

from __future__ import annotations

import concurrent.futures
import gc
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import holoviews as hv
import pytest
import xarray as xr
from PIL import Image

import dde
import dde.plots
from dde.errors import SelectionError, UnknownNameError
from dde.explore.choices import Choices
from dde.explore.drawing import Loaded, draw
from dde.explore.drawing import picture_bytes as explored_bytes
from dde.plots.files import pdf_bytes, png_bytes, svg_bytes


@pytest.fixture(scope="module")
def sweep() -> xr.Dataset:
    chosen = {"params": "150M", "seed": 0, "method": "supervised_ft", "finetune_tokens": 1e8}
    return dde.tutorial.open_lineages("tiny", metrics=["arc_easy"], **chosen).load()


@pytest.fixture(scope="module")
def one_lineage(sweep: xr.Dataset) -> xr.Dataset:
    """What is drawn where pictures are many."""
    return sweep.isel(lineage=[0])


def drawn(dataset: xr.Dataset) -> Any:
    return dataset.dde.plot("arc_easy", backend="matplotlib")


BEGINNINGS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF-", ".html": b"<!DOCTYPE html>"}
PRINTED = [".png", ".svg", ".pdf"]


@pytest.mark.parametrize("backend", ["bokeh", "matplotlib"])
def test_the_suffix_says_what_is_written(one_lineage: xr.Dataset, tmp_path: Path, backend: str) -> None:
    picture = one_lineage.dde.plot("arc_easy", backend=backend)
    folder = tmp_path / "new" / "folder"
    names = [f"sweep{suffix}" for suffix in (*BEGINNINGS, ".Pdf")]
    for name in names:
        path = dde.save(picture, folder / name)
        assert path == folder / name
        assert path.read_bytes().lstrip().startswith(BEGINNINGS[path.suffix.lower()])
    assert sorted(p.name for p in folder.iterdir()) == sorted(names)
    assert dde.save(picture, str(folder / "sweep.svg")).read_bytes() == (folder / "sweep.svg").read_bytes()


@pytest.mark.parametrize("name", ["sweep.jpg", "sweep", "sweep.htm", ".png", "sweep.pdf.gz"])
def test_other_suffixes_are_named(sweep: xr.Dataset, tmp_path: Path, name: str) -> None:
    expected = re.escape(f"{name!r} has no suffix of") + r".*\.png, \.svg, \.pdf, \.html"
    with pytest.raises(UnknownNameError, match=expected):
        dde.save(drawn(sweep), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_title_and_text_are_heading_or_metadata(one_lineage: xr.Dataset, tmp_path: Path) -> None:
    picture = drawn(one_lineage)
    words = {"title": "A <sweep> & \x1b[31m", "text": "What it shows."}
    paths = {suffix: dde.save(picture, tmp_path / f"sweep{suffix}", **words) for suffix in BEGINNINGS}
    page = paths[".html"].read_text(encoding="utf-8")
    assert "<h1>A &lt;sweep&gt; &amp; " in page
    assert "<p>What it shows.</p>" in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)\s*=", page), "it fetches nothing"
    svg = ElementTree.parse(paths[".svg"])
    about = [node.text for node in svg.iter() if node.tag.startswith("{http://purl.org/dc")]
    assert {"What it shows."} < set(about)
    assert any(str(text).startswith("A <sweep> & ") for text in about)
    with Image.open(paths[".png"]) as image:
        assert image.info["Title"] == words["title"]
        assert image.info["Description"] == words["text"]
        assert round(image.info["dpi"][0]) == 150
    assert b"What it shows." in paths[".pdf"].read_bytes()
    untitled = dde.save(picture, tmp_path / "untitled.html").read_text(encoding="utf-8")
    assert "<title>untitled</title>" in untitled
    assert "<h1>" not in untitled


def test_dpi_are_pixels_of_an_inch(one_lineage: xr.Dataset, tmp_path: Path) -> None:
    picture = drawn(one_lineage)
    widths = []
    for dpi in (50, 100):
        with Image.open(dde.save(picture, tmp_path / f"{dpi}.png", dpi=dpi)) as image:
            widths.append(image.width)
    assert widths[1] / widths[0] == pytest.approx(2, rel=0.02)
    with pytest.raises(SelectionError, match="dpi=0 is not a positive number"):
        dde.save(picture, tmp_path / "0.png", dpi=0)


def test_print_is_made_of_vectors_with_its_letters(sweep: xr.Dataset) -> None:
    picture = drawn(sweep)
    svg = svg_bytes(picture).decode()
    assert "<image" not in svg
    for text in ("150M on Dolma1.7", "tokens since the branch", "peak learning rate", "no data between"):
        assert re.search(rf"<text[^>]*>{re.escape(text)}</text>", svg), text
    pdf = pdf_bytes(picture)
    assert b"/Subtype /Image" not in pdf
    assert b"/FontFile2" in pdf, "TrueType fonts are embedded"
    assert b"/Type3" not in pdf
    assert (svg_bytes(picture), pdf_bytes(picture)) == (svg.encode(), pdf), "nothing of the time is in it"


def test_writing_leaves_the_settings_of_matplotlib_alone(one_lineage: xr.Dataset) -> None:
    import matplotlib
    import matplotlib.pyplot as plt

    picture = drawn(one_lineage)
    before, figures = dict(matplotlib.rcParams), plt.get_fignums()
    for write in (png_bytes, svg_bytes, pdf_bytes):
        write(picture)
    assert (dict(matplotlib.rcParams), plt.get_fignums()) == (before, figures)


# Pictures that the other backend draws again


def test_a_picture_of_bokeh_is_printed_as_that_of_matplotlib(sweep: xr.Dataset, tmp_path: Path) -> None:
    options = {"hue_by": "learning_rate", "zoom": False, "columns": 1}
    pictures = [sweep.dde.plot("arc_easy", backend=b, **options) for b in ("bokeh", "matplotlib")]
    for suffix in PRINTED:
        files = [dde.save(p, tmp_path / f"{k}{suffix}").read_bytes() for k, p in enumerate(pictures)]
        assert files[0] == files[1]
    pages = [dde.save(p, tmp_path / f"{k}.html").read_text(encoding="utf-8") for k, p in enumerate(pictures)]
    assert [page.count('"name":"MultiLine"') for page in pages] == [pages[0].count('"name":"MultiLine"')] * 2
    assert pages[0].count('"name":"MultiLine"') > 0


def test_an_answer_is_written_in_any_format(tmp_path: Path) -> None:
    bases = dde.tutorial.open_lineages("tiny", metrics=["arc_easy"]).dde.base_curves()
    answer = bases.dde.reach("arc_easy", 0.3)
    files = [dde.save(answer.dde.plot(backend=b), tmp_path / f"{b}.svg") for b in ("bokeh", "matplotlib")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert dde.save(answer.dde.plot(backend="matplotlib"), tmp_path / "reached.html").stat().st_size > 500_000


def test_all_pictures_can_be_drawn_again() -> None:
    found = []
    for module in pkgutil.walk_packages(dde.plots.__path__, "dde.plots."):
        functions = inspect.getmembers(importlib.import_module(module.name), inspect.isfunction)
        for name, function in functions:
            public = name.startswith("plot_") and "backend" in inspect.signature(function).parameters
            if public and function.__module__ == module.name:
                found.append(name)
                assert inspect.unwrap(function) is not function, f"{name} is not decorated with redrawable"
    assert {"plot_curves", "plot_heatmap", "plot_tree", "plot_scaling", "plot_reach", "plot_fit"} <= set(found)


def test_the_backend_that_displays_pictures_stays(one_lineage: xr.Dataset, tmp_path: Path) -> None:
    for backend, suffix in (("bokeh", ".svg"), ("matplotlib", ".html")):
        picture = one_lineage.dde.plot("arc_easy", backend=backend)
        dde.save(picture, tmp_path / f"sweep{suffix}")
        assert hv.Store.current_backend == backend
    with pytest.raises(SelectionError):
        dde.save(one_lineage, tmp_path / "sweep.html")
    assert hv.Store.current_backend == "matplotlib"


CHANGES: dict[str, Callable[[Any], Any]] = {
    "options of the picture": lambda picture: picture.opts(title="mine"),
    "options of panels": lambda picture: picture.opts(hv.opts.Overlay(title="mine")),
    "options of the other backend": lambda picture: picture.opts(hv.opts.Overlay(title="mine", backend="matplotlib")),
    "columns": lambda picture: picture.cols(7),
    "a clone with options": lambda picture: picture.opts(title="mine", clone=True),
    "a panel": lambda picture: picture[0, 0],
    "a clone": lambda picture: picture.clone(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_never_lost(one_lineage: xr.Dataset, tmp_path: Path, change: str) -> None:
    picture = CHANGES[change](one_lineage.dde.plot("arc_easy", zoom=False))
    with pytest.raises(SelectionError, match=r"drawn with backend='bokeh'.*Draw it with backend='matplotlib'.*as HTML"):
        dde.save(picture, tmp_path / "sweep.pdf")
    assert not list(tmp_path.iterdir())
    assert dde.save(picture, tmp_path / "sweep.html").is_file()


def test_a_change_is_written_by_its_own_backend(one_lineage: xr.Dataset, tmp_path: Path) -> None:
    changed = drawn(one_lineage).opts(hv.opts.Overlay(xlabel="my own words"))
    assert "my own words" in dde.save(changed, tmp_path / "sweep.svg").read_text(encoding="utf-8")
    with pytest.raises(SelectionError, match=r"changed after it was drawn.*or save it as PNG, SVG or PDF"):
        dde.save(changed, tmp_path / "sweep.html")


def test_what_is_drawn_again_is_what_was_drawn(one_lineage: xr.Dataset, tmp_path: Path) -> None:
    dataset, names = one_lineage.copy(deep=True), ["arc_easy"]
    picture = dataset.dde.plot(names)
    expected = dde.save(drawn(one_lineage), tmp_path / "expected.svg").read_bytes()
    # The picture does not depend on what happens to the objects that it was made of.
    names.append("missing")
    dataset["arc_easy"] = 2 * dataset["arc_easy"]
    dataset.attrs["suite"] = "another"
    assert dde.save(picture, tmp_path / "sweep.svg").read_bytes() == expected
    # Arrays are not copied.
    picture = dataset.dde.plot("arc_easy")
    dataset["arc_easy"].values[:] *= 2
    with pytest.raises(SelectionError, match=r"values of the Dataset were changed in place.*or save it as HTML"):
        dde.save(picture, tmp_path / "doubled.svg")
    dde.save(picture, tmp_path / "doubled.html")


def test_pictures_are_not_kept_alive(one_lineage: xr.Dataset, tmp_path: Path) -> None:
    dataset = one_lineage.copy(deep=True)
    picture = dataset.dde.plot("arc_easy")
    dde.save(picture, tmp_path / "sweep.svg")
    array = weakref.ref(dataset["arc_easy"].values)
    picture_alive = weakref.ref(picture)
    del dataset, picture
    gc.collect()
    assert picture_alive() is None
    assert array() is None


def test_pictures_of_other_code(one_lineage: xr.Dataset, tmp_path: Path) -> None:
    import hvplot
    import hvplot.xarray

    array = one_lineage["arc_easy"].isel(lineage=0, run=0)
    hvplot.extension("bokeh")
    curve = array.hvplot.line(x="cumulative_tokens")
    assert dde.save(curve, tmp_path / "curve.html").is_file()
    with pytest.raises(SelectionError, match=r"drawn with backend='bokeh', and how is unknown.*or save it as HTML"):
        dde.save(curve, tmp_path / "curve.pdf")
    hvplot.extension("matplotlib")
    curve = array.hvplot.line(x="cumulative_tokens")
    assert dde.save(curve, tmp_path / "curve.pdf").is_file()
    assert dde.save(hv.Curve([1, 2]), tmp_path / "plain.pdf").is_file()
    frames = hv.HoloMap({k: hv.Curve([k]) for k in range(2)}, kdims="epoch")
    with pytest.raises(SelectionError, match=r"several frames, chosen by widgets for epoch.*picture\.layout\(\)"):
        dde.save(frames, tmp_path / "frames.pdf")


@pytest.mark.parametrize("thing", [1, "curves", None, xr.Dataset(), xr.DataArray(0)])
def test_what_is_not_a_picture_is_named(thing: Any, tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match=f"a {type(thing).__name__} is not a picture of HoloViews"):
        dde.save(thing, tmp_path / "thing.png")
    assert not list(tmp_path.iterdir())


# Threads


def test_threads_draw_and_write_what_one_alone_does(one_lineage: xr.Dataset, tmp_path: Path) -> None:
    by_name = {
        "curves": lambda: drawn(one_lineage),
        "heatmap": lambda: one_lineage.dde.plot_heatmap("arc_easy", backend="matplotlib"),
        "tree": lambda: one_lineage.dde.plot_tree("arc_easy", backend="matplotlib"),
    }
    choices = Choices(tuple(map(str, one_lineage.lineage.values)), None, ("arc_easy",))

    def made(kind: str, number: int) -> bytes:
        if kind == "page":
            picture = one_lineage.dde.plot("arc_easy", backend="bokeh")
            page = dde.save(picture, tmp_path / f"{number}.html", title="Sweep").read_text(encoding="utf-8")
            # Bokeh numbers its models anew each time.
            return str(len(re.findall(r'"name":"MultiLine"', page))).encode()
        if kind == "explored":
            return explored_bytes(draw(Loaded(one_lineage), choices), ".svg")
        # All write the same file.
        return dde.save(by_name[kind](), tmp_path / f"{kind}.svg").read_bytes()

    kinds = [*by_name, "page", "explored"]
    alone = {kind: made(kind, 0) for kind in kinds}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [(kind, pool.submit(made, kind, k + 1)) for k, kind in enumerate(kinds * 2)]
        for kind, future in asked:
            assert future.result() == alone[kind], kind
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_png_from_threads_has_its_size(one_lineage: xr.Dataset, tmp_path: Path) -> None:
    want = Image.open(dde.save(drawn(one_lineage), tmp_path / "alone.png", dpi=60))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        paths = [pool.submit(lambda k=k: dde.save(drawn(one_lineage), tmp_path / f"{k}.png", dpi=60)) for k in range(4)]
        for path in paths:
            assert Image.open(path.result()).tobytes() == want.tobytes()


def test_a_backend_that_was_imported_and_not_loaded_draws(tmp_path: Path) -> None:
    # HoloViews then lists the backend, without the options that belong to it.
    code = """
        import holoviews.plotting.mpl
        import dde
        from dde.plots.files import svg_bytes
        ds = dde.tutorial.open_lineages("tiny", metrics=["arc_easy"], params="4M")
        assert svg_bytes(ds.dde.plot("arc_easy", backend="matplotlib")).startswith(b"<?xml")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=120, cwd=tmp_path)
