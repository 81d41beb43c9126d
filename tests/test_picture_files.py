"""Pictures as files: what each suffix holds, and pictures that several threads draw and write at once."""

from __future__ import annotations

import concurrent.futures
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from PIL import Image

import dde
from dde.errors import SelectionError, UnknownNameError
from dde.explore.choices import Choices
from dde.explore.drawing import Loaded, draw
from dde.explore.drawing import picture_bytes as explored_bytes
from dde.plots.files import pdf_bytes, png_bytes, save_page, save_picture, svg_bytes


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


def test_the_suffix_says_what_is_written(one_lineage: xr.Dataset, tmp_path: Path) -> None:
    picture = drawn(one_lineage)
    beginnings = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF-", ".Pdf": b"%PDF-"}
    for suffix, beginning in beginnings.items():
        path = save_picture(picture, tmp_path / f"sweep{suffix}")
        assert path.name == f"sweep{suffix}"
        assert path.read_bytes().startswith(beginning)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"sweep{suffix}" for suffix in beginnings)


@pytest.mark.parametrize("name", ["sweep.jpg", "sweep", "sweep.html", ".png", "sweep.pdf.gz"])
def test_other_suffixes_are_named(sweep: xr.Dataset, tmp_path: Path, name: str) -> None:
    with pytest.raises(UnknownNameError, match=re.escape(f"{name!r} has no suffix of") + r".*\.png, \.svg, \.pdf"):
        save_picture(drawn(sweep), tmp_path / name)
    assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_picture_of_bokeh_is_not_printed(sweep: xr.Dataset, tmp_path: Path, suffix: str) -> None:
    with pytest.raises(SelectionError, match=r"drawn with backend='bokeh'.*Draw it with backend='matplotlib'"):
        save_picture(sweep.dde.plot("arc_easy", backend="bokeh"), tmp_path / f"sweep{suffix}")
    assert not list(tmp_path.iterdir())


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
            page = save_page(picture, tmp_path / f"{number}.html", "Sweep").read_text(encoding="utf-8")
            # Bokeh numbers its models anew each time.
            return str(len(re.findall(r'"name":"MultiLine"', page))).encode()
        if kind == "explored":
            return explored_bytes(draw(Loaded(one_lineage), choices), ".svg")
        # All write the same file.
        return save_picture(by_name[kind](), tmp_path / f"{kind}.svg").read_bytes()

    kinds = [*by_name, "page", "explored"]
    alone = {kind: made(kind, 0) for kind in kinds}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [(kind, pool.submit(made, kind, k + 1)) for k, kind in enumerate(kinds * 2)]
        for kind, future in asked:
            assert future.result() == alone[kind], kind
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_png_from_threads_has_its_size(one_lineage: xr.Dataset, tmp_path: Path) -> None:
    want = Image.open(save_picture(drawn(one_lineage), tmp_path / "alone.png", dpi=60))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        paths = [
            pool.submit(lambda k=k: save_picture(drawn(one_lineage), tmp_path / f"{k}.png", dpi=60)) for k in range(4)
        ]
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
