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
from browser import Visit
from dde.errors import DdeError
from dde.explore.choices import Choices, apply
from dde.explore.listing import run_table
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
    column = visit.page.locator(".tabulator-col", has=visit.page.locator(f'.tabulator-col-title:text-is("{title}")'))
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
        page.locator('.tabulator-col-title:text-is("end")').click()
        page.locator('.tabulator-col[aria-sort="ascending"]').wait_for()
        page.locator('.tabulator-col-title:text-is("end")').click()
        page.locator('.tabulator-col[aria-sort="descending"]').wait_for()
        until(visit, lambda: served.tab.rows["end_tokens"].is_monotonic_decreasing)
        parquet = pd.read_parquet(io.BytesIO(visit.download("Parquet")))
        assert parquet["end_tokens"].tolist() == sorted(shown.table["end_tokens"], reverse=True)
        page.get_by_label("search all columns shown").fill(ids[3])
        count(visit, f"1 of {n} runs")
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
