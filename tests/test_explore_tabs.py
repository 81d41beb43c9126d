"""Tabs of the application that show runs, each on a page of its own in a real Chromium."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import panel as pn
import pytest
import xarray as xr

import dde
from browser import FIGURES, Visit
from dde.errors import DdeError
from dde.explore.choices import Choices, apply
from dde.explore.listing import run_table
from dde.explore.parallel_tab import ParallelTab, scaled
from dde.explore.run_columns import columns_of, place, wants_log
from dde.explore.scatter_tab import ScatterTab
from dde.explore.table_tab import TableTab
from dde.explore.tabs import Marks, Shown
from dde.plots.colours import PRIMARY
from dde.tutorial import Suite

pytestmark = [pytest.mark.slow, pytest.mark.browser]

HOSTILE = ['<img src=x onerror="window.hacked=1">', "$$x^2$$ \\[y\\]", "=1+1"]


@pytest.fixture(scope="module")
def dataset(tiny_suite: Suite) -> xr.Dataset:
    chosen: dict[str, Any] = {"params": "4M", "metrics": ["arc_easy", "piqa", "train_loss"], "cache_dir": None}
    return dde.open_lineages(tiny_suite.data, tiny_suite.wandb, **chosen).load()


@pytest.fixture(scope="module")
def hostile(dataset: xr.Dataset) -> xr.Dataset:
    """The same with runs, states and a metric whose names are more than names."""
    sizes = dataset.sizes
    states = [[HOSTILE[k % 3] for k in range(sizes["run"])]] * sizes["lineage"]
    state = dataset["state"].astype(object).copy(data=states)
    runs = [f"{HOSTILE[k % 3]} {k}" if k else label for k, label in enumerate(dataset["run"].values)]
    return dataset.assign_coords(run=("run", runs), state=state).rename(train_loss=HOSTILE[0], piqa=HOSTILE[1])


def shown_of(dataset: xr.Dataset, *metrics: str) -> Shown:
    choices = Choices(tuple(dataset["lineage"].values.tolist()), None, metrics)
    selection = apply(dataset, choices).compute()
    table = run_table(selection)
    return Shown(dataset, selection, choices, table, dict.fromkeys(table["run_id"], PRIMARY))


@dataclass
class Served:
    """What the page of the latest visitor has."""

    url: str
    tab: Any = None
    marks: Any = None
    buttons: dict[str, Callable[[], None]] = field(default_factory=dict)


@contextmanager
def serving(make: Callable[[Marks], Any], shown: Shown, **acts: Callable[[Served], None]) -> Iterator[Served]:
    """A tab on a server, with a button for each act."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = Served(f"http://127.0.0.1:{port}")

    def page() -> Any:
        served.marks = Marks()
        served.tab = make(served.marks)
        served.tab.show(shown)
        buttons = []
        for name, act in acts.items():
            buttons.append(pn.widgets.Button(label=name))
            buttons[-1].on_click(lambda _, act=act: act(served))
        return pn.Column(served.tab.view, pn.Row(*buttons), sizing_mode="stretch_width")

    server = pn.serve(
        page, port=port, address="127.0.0.1", websocket_origin=[f"127.0.0.1:{port}"], show=False, threaded=True
    )
    try:
        yield served
    finally:
        server.stop()


def until(visit: Visit, true: Callable[[], bool]) -> None:
    """Wait for something that the page causes on the server."""
    for _ in range(200):
        # The rows that match are not known while the table is being filled.
        with suppress(DdeError):
            if true():
                return
        visit.page.wait_for_timeout(50)
    pytest.fail("the page did not reach the server")


def close(visit: Visit, width: int = 1280) -> None:
    """Check what holds of every page, and close it."""
    for size in (1000, 1920, width):
        visit.page.set_viewport_size({"width": size, "height": 900})
        visit.page.wait_for_timeout(200)
        assert visit.page.evaluate("() => document.documentElement.scrollWidth") <= size
    assert visit.complaints == []
    assert visit.hosts() == {"127.0.0.1"}
    assert visit.page.evaluate("() => window.hacked") is None
    visit.close()


def count(visit: Visit, text: str) -> None:
    visit.page.locator(".count", has_text=text).wait_for()


def heading(visit: Visit, title: str) -> None:
    visit.page.locator(".tabulator-col-title", has_text=title).wait_for(state="attached")


def header_filter(visit: Visit, title: str, text: str) -> None:
    column = visit.page.locator(".tabulator-col", has=visit.page.locator(f'.title:text-is("{title}")'))
    column.locator("input.filter").fill(text)


def test_the_table_sorts_filters_marks_and_gives_files(dataset: xr.Dataset, browser: Any) -> None:
    shown = shown_of(dataset, "arc_easy", "train_loss")
    other = shown_of(dataset, "arc_easy", "piqa")
    ids = shown.table["run_id"].tolist()
    n = len(ids)

    def select(served: Served) -> None:
        served.marks.selected = ids[:2]

    with serving(TableTab, shown, other=lambda served: served.tab.show(other), select=select) as served:
        visit = Visit(browser, served.url, 1280)
        page = visit.page
        count(visit, f"{n} runs")
        heading(visit, "last train_loss")

        # Marks, both ways.
        rows = page.locator(".tabulator-row")
        rows.nth(0).get_by_label("show the curve of").click()
        until(visit, lambda: served.marks.hidden == ids[:1])
        page.locator(".tabulator-row.hidden-run").wait_for()
        rows.nth(1).locator("input[type=checkbox]").click()
        until(visit, lambda: served.marks.selected == ids[1:2])
        page.get_by_text("select", exact=True).click()
        page.locator(".tabulator-row.tabulator-selected").nth(1).wait_for()
        assert served.marks.selected == ids[:2]
        rows.nth(1).locator(".tabulator-cell").nth(3).dblclick()
        until(visit, lambda: served.marks.opened == ids[1])

        # A baseline adds differences, which can be left out again for good.
        rows.nth(1).get_by_label("as baseline").click()
        heading(visit, "Δ arc_easy")
        until(visit, lambda: "difference:train_loss" in served.tab.rows)
        value = shown.table["arc_easy"]
        assert served.tab.rows["difference:arc_easy"].tolist() == pytest.approx(
            (value - value[1]).tolist(), nan_ok=True
        )
        page.locator(".chooser summary").click()
        page.get_by_label("search columns").fill("arc_easy Δ")
        page.get_by_label("Δ arc_easy").click()
        page.get_by_label("search columns").fill("model size")
        page.get_by_text("params", exact=True).click()
        until(visit, lambda: "params" in served.tab.rows and "difference:arc_easy" not in served.tab.rows)
        page.keyboard.press("Escape")

        # Filters of numbers and texts, and a search of everything.
        rate = shown.table["learning_rate"]
        header_filter(visit, "rate", ">0")
        count(visit, f"{int((rate > 0).sum())} of {n} runs")
        header_filter(visit, "rate", "none")
        count(visit, f"{int(rate.isna().sum())} of {n} runs")
        header_filter(visit, "rate", "1e-7..3e-7")
        count(visit, f"{int(rate.between(1e-7, 3e-7).sum())} of {n} runs")
        header_filter(visit, "rate", "1e-7.. x")
        page.locator("input.filter.wrong").wait_for()
        count(visit, f"{n} runs")
        header_filter(visit, "rate", ">0")
        header_filter(visit, "run", "/^sft.*x1$/")
        matching = (rate > 0) & shown.table["run"].str.match(r"sft.*x1$")
        assert 0 < matching.sum() < n
        count(visit, f"{int(matching.sum())} of {n} runs")

        # They stay while metrics change.
        page.get_by_text("other", exact=True).click()
        heading(visit, "last piqa")
        count(visit, f"{int(matching.sum())} of {n} runs")
        csv = pd.read_csv(io.BytesIO(visit.download("CSV")))
        assert csv["run_id"].tolist() == shown.table["run_id"][matching].tolist()
        assert "params" in csv
        assert "difference:piqa" in csv
        assert "difference:arc_easy" not in csv
        assert csv["arc_easy"].tolist() == pytest.approx(other.table["arc_easy"][matching].tolist(), nan_ok=True)
        page.get_by_text("Clear filters").click()
        count(visit, f"{n} runs")
        page.locator('.title:text-is("end")').click()
        page.locator('.tabulator-col[aria-sort="ascending"]').wait_for()
        page.locator('.title:text-is("end")').click()
        page.locator('.tabulator-col[aria-sort="descending"]').wait_for()
        until(visit, lambda: served.tab.rows["end_tokens"].is_monotonic_decreasing)
        parquet = pd.read_parquet(io.BytesIO(visit.download("Parquet")))
        assert parquet["end_tokens"].tolist() == sorted(shown.table["end_tokens"], reverse=True)
        page.get_by_label("search all columns shown").fill(ids[3])
        count(visit, f"1 of {n} runs")

        # Copying gives what matches, exactly; the order can be changed from the keyboard.
        visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.get_by_text("Copy rows").click()
        page.get_by_text("Copied").wait_for()
        copied = pd.read_csv(io.StringIO(page.evaluate("() => navigator.clipboard.readText()")), sep="\t")
        assert copied["run_id"].tolist() == [ids[3]]
        assert copied["end_tokens"].tolist() == [shown.table["end_tokens"][3]]
        assert copied["arc_easy"].tolist() == pytest.approx([other.table["arc_easy"][3]], nan_ok=True)
        page.locator('.title:text-is("end")').focus()
        page.keyboard.press("Enter")
        page.locator('.tabulator-col[aria-sort="ascending"]').wait_for()
        close(visit)


def test_the_table_shows_hostile_names_as_text(hostile: xr.Dataset, browser: Any) -> None:
    shown = shown_of(hostile, HOSTILE[0], HOSTILE[1])
    with serving(TableTab, shown) as served:
        visit = Visit(browser, served.url, 1280)
        count(visit, f"{len(shown.table)} runs")
        visit.page.get_by_text(f"{HOSTILE[0]} 3").first.wait_for()
        heading(visit, f"last {HOSTILE[0]}")
        csv = pd.read_csv(io.BytesIO(visit.download("CSV")))
        assert not any(str(text).startswith("=") for text in csv["state"])
        close(visit)


def place_of(visit: Visit, x: float, y: float) -> tuple[float, float]:
    """Where a point of the visible figure is on the screen."""
    found = visit.page.evaluate(
        f"""([x, y]) => {{
          {FIGURES}
          const view = figures.map((figure) => Bokeh.index.find_one(figure)).find((view) => view?.el.clientWidth)
          const box = view.canvas_view.el.getBoundingClientRect()
          return [box.x + view.frame.x_scale.compute(x), box.y + view.frame.y_scale.compute(y)]
        }}""",
        [x, y],
    )
    return found[0], found[1]


def drag(visit: Visit, start: tuple[float, float], end: tuple[float, float]) -> None:
    mouse = visit.page.mouse
    mouse.move(*start)
    mouse.down()
    mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, steps=3)
    mouse.move(*end, steps=3)
    mouse.up()


def pick(visit: Visit, label: str, text: str) -> None:
    visit.group(label).locator("select").select_option(label=text)


def test_a_scatter_plot_brushes_and_follows_its_axes(dataset: xr.Dataset, browser: Any) -> None:
    shown = shown_of(dataset, "arc_easy", "train_loss")
    other = shown_of(dataset, "arc_easy", "piqa")
    ids = shown.table["run_id"].tolist()

    def select(served: Served) -> None:
        served.marks.selected = ids[1:2]

    def hide(served: Served) -> None:
        served.marks.hidden = ids[1:2]

    acts: dict[str, Any] = {"other": lambda served: served.tab.show(other), "select": select, "hide": hide}
    with serving(ScatterTab, shown, **acts) as served:
        visit = Visit(browser, served.url, 1280)
        visit.page.locator("canvas:visible").first.wait_for()
        pick(visit, "Horizontal", "end")
        pick(visit, "Vertical", "last arc_easy")
        until(visit, lambda: (served.tab.x.value, served.tab.y.value) == ("end_tokens", "arc_easy"))
        has = shown.table["arc_easy"].notna()
        until(visit, lambda: len(visit.points()) == has.sum())
        points = {p["run_id"]: p for p in visit.points()}
        assert {run: p["value"] for run, p in points.items()} == dict(
            zip(shown.table["run_id"][has], shown.table["arc_easy"][has], strict=True)
        )
        visit.page.get_by_text("Spearman").wait_for()

        chosen = next(run for run in ids if run in points)
        at = points[chosen]["x"], points[chosen]["y"]
        drag(visit, (at[0] - 12, at[1] - 12), (at[0] + 12, at[1] + 12))
        until(visit, lambda: chosen in served.marks.selected and len(served.marks.selected) < len(points))
        visit.page.get_by_text("select", exact=True).click()
        until(visit, lambda: served.marks.selected == ids[1:2])
        visit.page.wait_for_timeout(300)
        assert served.marks.selected == ids[1:2], "a selection from elsewhere is not sent back as another"

        # A category, a logarithmic axis, colours, other metrics, a hidden run.
        scales = f"""() => {{
          {FIGURES}
          const views = figures.map((figure) => Bokeh.index.find_one(figure))
          return views.filter((view) => view?.el.clientWidth).map((view) => view.model.x_scale.type)
        }}"""
        visit.page.get_by_text("log horizontally", exact=True).click()
        until(visit, lambda: served.tab.log_x.value != wants_log(shown.table["end_tokens"]))
        other_scale = "LinearScale" if wants_log(shown.table["end_tokens"]) else "LogScale"
        until(visit, lambda: visit.page.evaluate(scales) == [other_scale])
        pick(visit, "Horizontal", "run")
        pick(visit, "Colour", "rate")
        visit.page.locator("b", has_text="rate").wait_for()
        until(visit, lambda: served.tab.log_x.disabled)
        visit.page.get_by_text("other", exact=True).click()
        pick(visit, "Vertical", "last piqa")
        until(visit, lambda: served.tab.y.value == "piqa")
        assert served.tab.x.value == "run", "an axis stays while metrics change"
        visit.page.get_by_text("hide", exact=True).click()
        visit.page.get_by_text("1 run hidden").wait_for()
        until(visit, lambda: ids[1] not in {p["run_id"] for p in visit.points()})
        until(visit, lambda: visit.page.evaluate(scales) == ["LinearScale"])
        close(visit)


def test_parallel_coordinates_select_what_is_inside_the_ranges(dataset: xr.Dataset, browser: Any) -> None:
    shown = shown_of(dataset, "arc_easy", "train_loss")
    other = shown_of(dataset, "arc_easy", "piqa")
    ids = shown.table["run_id"].tolist()

    def select(served: Served) -> None:
        served.marks.selected = ids[:1]

    def restore(served: Served) -> None:
        assert served.tab.restore({"range.arc_easy": ["0.5..1.05"], "range.gone": ["0..1"]}) == {"range.gone": ["0..1"]}

    acts: dict[str, Any] = {"other": lambda served: served.tab.show(other), "select": select, "restore": restore}
    with serving(ParallelTab, shown, **acts) as served:
        visit = Visit(browser, served.url, 1280)
        visit.page.locator("canvas:visible").first.wait_for()
        axes = list(served.tab.axes.value)
        assert axes[-2:] == ["arc_easy", "train_loss"]
        columns = columns_of(shown.dataset, shown.table)
        heights = {name: scaled(place(columns, name)).heights for name in axes}
        at, rate = axes.index("arc_easy"), axes.index("learning_rate")

        def ranged(*ranges: tuple[str, float, float]) -> list[str]:
            inside = [all(low <= heights[n][k] <= high for n, low, high in ranges) for k in range(len(ids))]
            return [run for run, is_in in zip(ids, inside, strict=True) if is_in]

        drag(visit, place_of(visit, at, 0.5), place_of(visit, at, 1.05))
        high = ranged(("arc_easy", 0.5, 2))
        assert 0 < len(high) < len(ids)
        until(visit, lambda: served.marks.selected == high)
        drag(visit, place_of(visit, rate, -0.17), place_of(visit, rate, -0.06))
        both = ranged(("arc_easy", 0.5, 2), ("learning_rate", -1, -0.06))
        assert len(both) < len(high)
        until(visit, lambda: served.marks.selected == both)
        until(visit, lambda: set(served.tab.state) == {"range.arc_easy", "range.learning_rate"})
        visit.page.mouse.dblclick(*place_of(visit, rate, 0.5))
        until(visit, lambda: served.marks.selected == high)
        visit.page.mouse.dblclick(*place_of(visit, at + 0.5, 1.2))
        until(visit, lambda: served.marks.selected == [])

        # A selection of another tab removes ranges; other metrics have axes of their own.
        drag(visit, place_of(visit, at, 0.5), place_of(visit, at, 1.05))
        until(visit, lambda: served.marks.selected == high)
        visit.page.get_by_text("select", exact=True).click()
        until(visit, lambda: served.marks.selected == ids[:1])
        ranges = """() => {
          const reached = Bokeh.documents[0].roots().flatMap((root) => [...root.references()])
          return reached.filter((model) => model.data?.high && !model.data.title).map((m) => m.data.x.length)
        }"""
        until(visit, lambda: set(visit.page.evaluate(ranges)) == {0})
        until(visit, lambda: served.tab.state == {})
        visit.page.get_by_text("restore", exact=True).click()
        until(visit, lambda: served.marks.selected == high)
        until(visit, lambda: set(visit.page.evaluate(ranges)) == {1})
        visit.page.wait_for_timeout(300)
        assert served.tab.state == {"range.arc_easy": ["0.5..1.05"]}
        visit.page.mouse.dblclick(*place_of(visit, at, 0.7))
        until(visit, lambda: served.marks.selected == [] and served.tab.state == {})
        visit.page.get_by_text("select", exact=True).click()
        until(visit, lambda: served.marks.selected == ids[:1])
        visit.page.get_by_text("other", exact=True).click()
        until(visit, lambda: list(served.tab.axes.value)[-2:] == ["arc_easy", "piqa"])
        pick(visit, "Colour", "last arc_easy")
        visit.page.locator("b", has_text="last arc_easy").wait_for()
        assert served.marks.selected == ids[:1]
        close(visit)


@pytest.mark.parametrize("tab", [ScatterTab, ParallelTab])
def test_pictures_show_hostile_names_as_text(tab: Any, hostile: xr.Dataset, browser: Any) -> None:
    shown = shown_of(hostile, HOSTILE[0], HOSTILE[1])
    with serving(tab, shown) as served:
        visit = Visit(browser, served.url, 1280)
        visit.page.locator("canvas:visible").first.wait_for()
        pick(visit, "Colour", "state")
        visit.page.get_by_text(HOSTILE[2], exact=True).first.wait_for()
        if tab is ScatterTab:
            pick(visit, "Horizontal", "run")
            pick(visit, "Vertical", f"last {HOSTILE[1]}")
            until(visit, lambda: served.tab.y.value == HOSTILE[1])
        else:
            visit.page.locator(".choices__item", has_text=f"last {HOSTILE[0]}").first.wait_for()
        visit.page.wait_for_timeout(500)
        close(visit)
