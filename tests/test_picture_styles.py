"""Options of pictures as they are drawn: size, fonts, legend, labels, order, colours and caption, on both backends."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import holoviews as hv
import pytest
import xarray as xr
from PIL import Image

import dde
from browser import Visit
from dde.errors import SelectionError, UnknownNameError
from dde.plots.files import pdf_bytes, png_bytes, save_page
from picture_checks import assert_nothing_is_cut_off, caption_of, drawn, figures_of, legend_entries, printed

BACKENDS = ("bokeh", "matplotlib")
pytestmark = pytest.mark.filterwarnings("ignore::dde.errors.DdeWarning")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[xr.Dataset]:
    with pytest.MonkeyPatch.context() as patch:
        # dde.tutorial writes its suites to the current folder.
        patch.chdir(tmp_path_factory.mktemp("styles"))
        yield dde.tutorial.open_lineages("small", metrics=["arc_easy", "piqa", "c4_en_valppl"]).load()


@pytest.fixture(scope="module")
def sweep(suite: xr.Dataset) -> xr.Dataset:
    chosen = {"params": "150M", "seed": 0, "data": ["Dolma1.7", "DCLM-Baseline"], "branch_point": ""}
    return suite.dde.sel(run_type=["pretraining", "supervised_ft"], epochs=1, **chosen)


Draw = Callable[..., Any]


@pytest.fixture(scope="module")
def pictures(suite: xr.Dataset, sweep: xr.Dataset) -> dict[str, Draw]:
    """A function that draws each kind of picture."""
    bases = suite.dde.sel(run="pretraining")
    base_metric = "arc_easy"
    c4, dolma = bases.dde.sel(data="C4"), bases.dde.sel(data="Dolma1.7")
    answers = {
        "best": bases.dde.best(base_metric, over="data"),
        "compare": dde.analysis.compare(c4, dolma, [base_metric], at="schedule"),
        "compare_along": dde.analysis.compare(c4.dde.sel(params="150M"), dolma.dde.sel(params="150M"), base_metric),
        "decision_accuracy": bases.dde.decision_accuracy(base_metric, target={"params": "150M"}),
        "effect": sweep.dde.effect(base_metric),
        "fit": bases.dde.fit("c4_en_valppl"),
        "match": bases.dde.match(base_metric, 0.35),
        "ranks": bases.dde.ranks(base_metric, a={"params": "20M"}, b={"params": "150M"}),
        "reach": bases.dde.reach(base_metric, 0.35),
        "signal_to_noise": bases.dde.signal_to_noise(base_metric),
    }
    return {
        "plot": lambda **o: sweep.dde.plot(base_metric, **o),
        "plot_scaling": lambda **o: bases.dde.plot_scaling(base_metric, **o),
        "plot_heatmap": lambda **o: sweep.dde.plot_heatmap(base_metric, **o),
        "plot_tree": lambda **o: sweep.dde.plot_tree(base_metric, **o),
        **{name: answer.dde.plot for name, answer in answers.items()},
    }


NAMES = (
    "plot", "plot_scaling", "plot_heatmap", "plot_tree", "best", "compare", "compare_along", "decision_accuracy",
    "effect", "fit", "match", "ranks", "reach", "signal_to_noise",
)  # fmt: skip


# Size


@pytest.mark.parametrize(
    ("name", "legend"), [*product(NAMES, ["right", "bottom"]), *product(["plot", "effect"], ["top", "off"])]
)
def test_a_printed_picture_has_its_size_and_all_of_its_content(
    pictures: dict[str, Draw], name: str, legend: str
) -> None:
    size = (11.0, 7.5)
    picture = pictures[name](backend="matplotlib", size=size, title="A title", legend=legend)
    with printed(picture) as figure:
        assert tuple(figure.get_size_inches()) == size
        assert_nothing_is_cut_off(figure)
        assert "A title" in [text.get_text() for text in figure.texts]
        assert legend != "off" or not any(axis.get_legend() for axis in figure.axes)
    with Image.open(io.BytesIO(png_bytes(picture))) as image:
        assert image.size == (1650, 1125)


@pytest.mark.parametrize(
    ("name", "font_size"),
    [*product(NAMES, [12]), *product(["plot", "plot_scaling", "plot_tree", "compare_along"], [6])],
)
def test_text_of_another_size_is_not_cut_off(pictures: dict[str, Draw], name: str, font_size: float) -> None:
    with printed(pictures[name](backend="matplotlib")) as figure:
        usual = sizes_of_text(figure)
    with printed(pictures[name](backend="matplotlib", font_size=font_size, caption=False)) as figure:
        assert_nothing_is_cut_off(figure)
        found = sizes_of_text(figure)
    assert found["ticks"] == pytest.approx(font_size)
    for kind, size in found.items():
        assert size == pytest.approx(usual[kind] * font_size / 8.5), kind


def sizes_of_text(figure: Any) -> dict[str, float]:
    """The size of each kind of text of a Matplotlib figure."""
    axis = next(axis for axis in figure.axes if axis.axison)
    found = {
        "ticks": {text.get_fontsize() for text in axis.get_xticklabels() + axis.get_yticklabels()},
        "labels": {axis.xaxis.label.get_fontsize()},
    }
    for shown in filter(None, (axis.get_legend() for axis in figure.axes)):
        found["legend"] = {text.get_fontsize() for text in shown.get_texts()}
    assert all(len(sizes) == 1 for sizes in found.values()), found
    return {kind: sizes.pop() for kind, sizes in found.items()}


def test_files_have_the_size_in_inches_or_pixels(pictures: dict[str, Draw]) -> None:
    pdf = pdf_bytes(pictures["plot"](backend="matplotlib", size=(6.5, 5), legend="bottom"))
    assert re.findall(rb"/MediaBox \[ ?([\d. ]+?) ?\]", pdf) == [b"0 0 468 360"]
    with Image.open(io.BytesIO(png_bytes(pictures["plot"](backend="matplotlib", size=(900, 700))))) as image:
        assert image.size == (900, 700)


@pytest.mark.parametrize("name", ["plot", "plot_scaling", "plot_heatmap", "plot_tree", "best", "reach"])
def test_a_page_has_its_size_and_all_of_its_content(
    pictures: dict[str, Draw], name: str, browser: Any, tmp_path: Path
) -> None:
    for k, (size, options) in enumerate(
        [((1100, 800), {}), ((10, 8), {"legend": "bottom", "title": "A title"}), ((1000, 800), {"legend": "top"})]
    ):
        width, height = size if size[0] > 40 else (96 * size[0], 96 * size[1])
        page = save_page(pictures[name](size=size, **options), tmp_path / f"{k}.html", "")
        visit = Visit(browser, page.as_uri())
        column = visit.page.locator(".bk-Column").first
        column.wait_for()
        visit.page.locator("canvas").last.wait_for()
        box = column.bounding_box()
        assert box["width"] == pytest.approx(width, rel=0.02)
        assert box["height"] == pytest.approx(height, rel=0.02)
        children = visit.page.locator(".bk-Column > *").all()
        bounds = [bound for child in children if (bound := child.bounding_box())]
        assert max(b["x"] + b["width"] for b in bounds) <= 1.02 * width + box["x"]
        assert max(b["y"] + b["height"] for b in bounds) <= 1.02 * height + box["y"]
        assert not visit.complaints
        visit.context.close()


@pytest.mark.parametrize(
    ("name", "backend"), [*product(NAMES, ["matplotlib"]), *product(["plot", "plot_heatmap", "reach"], ["bokeh"])]
)
def test_a_size_without_room_says_the_least_one(pictures: dict[str, Draw], name: str, backend: str) -> None:
    with pytest.raises(SelectionError, match="the least size is") as caught:
        pictures[name](backend=backend, size=(1.0, 0.6))
    least = re.search(r"the least size is \(([\d.]+), ([\d.]+)\) inches", str(caught.value))
    assert least is not None
    size = float(least[1]), float(least[2])
    assert hv.render(pictures[name](backend=backend, size=size), backend=backend)
    for smaller in ((size[0] - 0.3, size[1]), (size[0], size[1] - 0.3)):
        with pytest.raises(SelectionError, match="the least size is"):
            pictures[name](backend=backend, size=smaller)


def test_text_of_a_page_has_the_size(pictures: dict[str, Draw]) -> None:
    def sizes(**options: Any) -> list[float]:
        figures = figures_of(pictures["plot"](backend="bokeh", **options))
        (legend,) = [box for figure in figures for box in figure.legend]
        texts = [figures[0].xaxis[0].major_label_text_font_size, legend.label_text_font_size]
        return [float(text.removesuffix("pt")) for text in texts]

    assert sizes(font_size=17) == pytest.approx([2 * size for size in sizes()])


# Values


@pytest.mark.parametrize("backend", BACKENDS)
def test_palette_order_and_labels_of_the_legend(sweep: xr.Dataset, backend: str) -> None:
    rates = [2e-5, 5e-6]
    options = {
        "hue_by": "learning_rate", "palette": ["#ff0000", "#0000ff"], "order": rates,
        "labels": {"2e-05": "high", "learning_rate": "Peak LR", "arc_easy": "ARC-E"},
    }  # fmt: skip
    picture = sweep.dde.sel(learning_rate=[5e-6, 2e-5]).dde.plot("arc_easy", backend=backend, **options)
    if backend == "matplotlib":
        with printed(picture) as figure:
            assert legend_entries(figure)[:2] == ["high", "5e-6"]
            legend = next(axis.get_legend() for axis in figure.axes if axis.get_legend())
            assert legend.get_title().get_text() == "Peak LR"
            assert figure.axes[0].get_ylabel() == "ARC-E"
        return
    figures = figures_of(picture)
    (legend,) = [box for figure in figures for box in figure.legend]
    assert [item.label.value for item in legend.items][:2] == ["high", "5e-6"]
    assert legend.title == "Peak LR"
    assert figures[0].yaxis[0].axis_label == "ARC-E"
    colours = {c for f in figures for r in drawn(f, "Scatter") for c in r.data_source.data["colour"]}
    assert colours >= {"#ff0000", "#0000ff"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_facets_have_the_order_and_labels(sweep: xr.Dataset, backend: str) -> None:
    options = {"facet_by": "data", "order": {"data": ["DCLM-Baseline", "Dolma1.7"]}, "labels": {"data": "corpus"}}
    picture = sweep.dde.plot("arc_easy", zoom=False, backend=backend, **options)
    if backend == "bokeh":
        titles = [figure.title.text for figure in figures_of(picture)]
    else:
        with printed(picture) as figure:
            titles = [axis.get_title("left") for axis in figure.axes]
    assert titles == ["corpus: DCLM-Baseline", "corpus: Dolma1.7"]


def test_titles_of_lineages_have_labels(sweep: xr.Dataset) -> None:
    picture = sweep.dde.plot("arc_easy", zoom=False, labels={"Dolma1.7": "Dolma", "150M": "small"})
    assert {figure.title.text for figure in figures_of(picture)} == {"small on Dolma", "small on DCLM-Baseline"}


def test_categories_of_answers_and_heat_maps_have_the_order(pictures: dict[str, Draw], sweep: xr.Dataset) -> None:
    with printed(pictures["best"](backend="matplotlib", order={"data": ["Dolma1.7", "C4", "DCLM-Baseline"]})) as figure:
        ticks = sorted(figure.axes[0].get_yticklabels(), key=lambda text: -text.get_position()[1])
        assert [text.get_text() for text in ticks] == ["Dolma1.7", "C4", "DCLM-Baseline"]
    rates = sorted({v for v in sweep.learning_rate.values.ravel().tolist() if v == v}, reverse=True)
    with printed(pictures["plot_heatmap"](backend="matplotlib", order={"learning_rate": rates})) as figure:
        shown = [float(text.get_text()) for text in figure.axes[0].get_xticklabels()]
    assert shown == sorted(shown, reverse=True)
    assert len(shown) > 1


def test_limits_hold_in_every_panel(sweep: xr.Dataset, pictures: dict[str, Draw]) -> None:
    figures = figures_of(sweep.dde.plot("arc_easy", xlim=(0, 1e10), ylim=(0.2, None)))
    assert {figure.y_range.start for figure in figures} == {0.2}
    starts = {(figure.x_range.start, figure.x_range.end) for figure in figures if "start" in figure.xaxis[0].axis_label}
    assert starts == {(0, 1e10)}
    with pytest.raises(SelectionError, match="places for"):
        pictures["plot_tree"](xlim=(0, 1))


@pytest.mark.parametrize("name", NAMES)
def test_options_of_what_is_not_there_are_errors(pictures: dict[str, Draw], name: str) -> None:
    with pytest.raises(UnknownNameError, match="nothing in the picture has this name"):
        pictures[name](labels={"no such thing": "x"})
    with pytest.raises(UnknownNameError, match="not a coordinate of hue"):
        pictures[name](order={"no such coordinate": ["x"]})
    with pytest.raises(UnknownNameError, match="not a palette"):
        pictures[name](palette="no such palette")


# Captions


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_caption_says_what_is_shown_and_can_be_replaced(pictures: dict[str, Draw], name: str, backend: str) -> None:
    text = caption_of(pictures[name](backend=backend))
    assert re.search("ARC-Easy|arc easy|c4_en_valppl|runs", text, re.IGNORECASE)
    assert text.endswith(".")
    assert len(text) < 260
    if name in ("plot", "reach"):
        own = caption_of(pictures[name](backend=backend, caption="My own $x^2$."))
        assert own.replace("\\", "") == "My own $x^2$."
        assert caption_of(pictures[name](backend=backend, caption=False)) == ""


def test_captions_count_runs_lineages_seeds_and_what_is_left_out(suite: xr.Dataset, sweep: xr.Dataset) -> None:
    bases = suite.dde.sel(run="pretraining", params="150M")
    bases = bases.isel(lineage=bases.arc_easy.notnull().any("cumulative_tokens").values)
    text = caption_of(bases.dde.plot("arc_easy"))
    n_lineages, n_seeds = bases.sizes["lineage"], len(set(bases.seed.values.tolist()))
    assert text == (
        f"ARC-Easy (primary metric) against tokens since the start of pretraining; {n_lineages} runs of {n_lineages} "
        f"lineages, {n_seeds} seeds."
    )
    means = caption_of(bases.dde.plot("arc_easy", band="seed"))
    assert re.search(r"; \d means of [\d–]+ seeds, band: 95% interval of the mean", means)
    without = sweep.copy()
    lost = sweep.run_id.values[sweep.arc_easy.notnull().any("cumulative_tokens").values][-1]
    without["arc_easy"] = sweep.arc_easy.where(sweep.run_id != lost)
    without["arc_easy"].attrs = sweep.arc_easy.attrs
    assert "left out: 1 run without values" in caption_of(without.dde.plot("arc_easy"))
