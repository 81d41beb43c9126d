"""What a page shows within its tabs, as an address and a saved view have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import xarray as xr

import dde
from browser import FIGURES, Visit, exploring
from dde.explore.address import SavedViews
from dde.explore.page import Explorer
from dde.explore.session import Session
from dde.tutorial import Suite

LINEAGES = ("dolma1_7-150M-default", "dclm-baseline-150M-default")
START: dict[str, Any] = {"metrics": ["arc_easy", "train_loss"], "lineage": LINEAGES}


@pytest.fixture(scope="module")
def dataset(tiny_suite: Suite) -> xr.Dataset:
    metrics = ["arc_easy", "mmlu_average", "train_loss"]
    return dde.open_lineages(tiny_suite.data, tiny_suite.wandb, cache_dir=None, metrics=metrics)


def session_of(dataset: xr.Dataset, query: str = "", tab: str = "Curves") -> Session:
    session = Session(dataset, None, START, query=query)
    if tab != "Curves":
        session._tab.value = tab
    return session


def notes(session: Session) -> str:
    return str(session._notes.object) if session._notes.visible else ""


def chosen_in(tab: str, session: Session) -> None:
    """Choose something else than the defaults within a tab, as a person does."""
    session._tab.value = tab
    if tab == "Curves":
        session.curves.zoomed = {"x.cumulative_tokens": [1e9, 2.5e9], "y.arc_easy": [0.25, 0.5], "x.gone": [0, 1]}
        return
    opened: Any = session._tabs[tab]
    if tab == "Table":
        opened._table.chosen = {"params": True, "budget": False}
        order = [*reversed(opened._names)]
        opened._table.view = {
            "search": "sft & more",
            "filters": {"end_tokens": ">5", "budget": "hidden"},
            "sort": [["run", "asc"], ["arc_easy", "desc"]],
            "order": order,
        }
    elif tab == "Scatter":
        opened.x.value, opened.colour.value = "end_tokens", "run"
        opened.log_y.value = not opened.log_y.value
    elif tab == "Parallel":
        opened.axes.value = [*opened.axes.value[1:], "params"]
        opened.colour.value = "train_loss"
        # As the browser sends a range.
        opened._sources["brushes"].data = {"x": [1], "low": [0.25], "high": [1.1]}
    else:
        opened._question.value, opened._metrics.value = "reach", ["train_loss"]
        opened._widgets["reach"]["target"].value = "3.5, 4"
        opened._widgets["reach"]["rule"].value = "sustained"
        opened._button.clicks += 1


def look_of(tab: str, session: Session) -> Any:
    """What a person sees of the choices within a tab."""
    if tab == "Curves":
        return {name: ends for name, ends in session.curves.zoomed.items() if name != "x.gone"}
    opened: Any = session._tabs[tab]
    if tab == "Table":
        view = opened._table.view
        return opened._names, view["search"], view["filters"].get("end_tokens"), view["sort"]
    if tab == "Scatter":
        return [widget.value for widget in (opened.x, opened.y, opened.log_x, opened.log_y, opened.colour)]
    if tab == "Parallel":
        return opened.axes.value, opened.colour.value, opened._sources["brushes"].data
    return (opened._answer.asked, opened._answer.frame.to_json()) if opened._answer else None


TABS = ["Curves", "Table", "Scatter", "Parallel", "Answers"]


@pytest.mark.parametrize("tab", TABS)
def test_an_address_has_what_is_chosen_within_a_tab(tab: str, dataset: xr.Dataset) -> None:
    session = session_of(dataset)
    session._tab.value = tab
    start, plain = look_of(tab, session), session.query
    assert f"{tab.lower()}." not in plain, "the defaults are in no address"
    chosen_in(tab, session)
    chosen = look_of(tab, session)
    assert chosen != start

    other = session_of(dataset, session.query)
    assert notes(other) == ""
    assert look_of(tab, other) == chosen
    assert other.query == session.query

    # As a person goes back.
    other._go_to(plain)
    other.redraw()
    assert look_of(tab, other) == start
    assert other.query == plain
    other._go_to(session.query)
    other.redraw()
    assert look_of(tab, other) == chosen


@pytest.mark.parametrize("tab", TABS[1:])
def test_an_address_keeps_what_it_says_of_tabs_that_are_not_open(tab: str, dataset: xr.Dataset) -> None:
    session = session_of(dataset)
    chosen_in(tab, session)
    session._tab.value = "Curves"
    other = session_of(dataset, session.query)
    assert tab not in other._tabs, "a tab is made when it is opened"
    assert other.query == session.query
    other.controls.widgets["log_x"].value = True
    assert f"{tab.lower()}." in other.query
    other._tab.value = tab
    assert look_of(tab, other) == look_of(tab, session)


@pytest.mark.parametrize(
    ("tab", "query"),
    [
        ("Curves", "curves.x.gone=0..1"),
        ("Curves", "curves.x.cumulative_tokens=5..1"),
        ("Curves", "curves.y.arc_easy=low"),
        ("Table", "table.add=gone"),
        ("Table", "table.sort=run:up"),
        ("Table", "table.filter.gone=1"),
        ("Scatter", "scatter.x=gone"),
        ("Scatter", "scatter.log_y=perhaps"),
        ("Parallel", "parallel.axes=gone"),
        ("Parallel", "parallel.colour=gone"),
        ("Parallel", "parallel.range.arc_easy=high"),
        ("Answers", "answers.question=why"),
        ("Answers", "answers.question=reach&answers.target=3&answers.rule=soon"),
        ("Run", "run.x=1"),
        ("Gone", "tab=Gone"),
    ],
)
def test_what_an_address_names_and_does_not_exist_is_reported(tab: str, query: str, dataset: xr.Dataset) -> None:
    words = query.rpartition("&")[2]
    session = session_of(dataset, query)
    if tab not in ("Curves", "Gone"):
        assert notes(session) == "", "of a tab that is closed, nothing is known"
        session._tab.value = tab
    assert f"{words} is not among the choices" in notes(session)
    assert words.partition("=")[0] not in session.query
    if tab == "Parallel":
        assert len(session._tabs[tab].axes.value) > 1, "the defaults stay"


def test_a_view_has_what_is_chosen_within_tabs(dataset: xr.Dataset, tmp_path: Path) -> None:
    path = tmp_path / "views.json"
    explorer = Explorer(dataset, views=path, **START)
    session = explorer.session
    pick, name, save, _ = session._views_bar
    chosen_in("Scatter", session)
    chosen_in("Curves", session)
    name.value_input = "mine"
    save.clicks += 1
    assert "scatter.x=end_tokens" in SavedViews(path).queries()["mine"]
    session.curves.zoomed = {}
    other = Explorer(dataset, views=path, **START).session
    other._views_bar[0].value = "mine"
    assert look_of("Curves", other) == {"x.cumulative_tokens": [1e9, 2.5e9], "y.arc_easy": [0.25, 0.5]}
    pick.value = "Views"
    pick.value = "mine"
    session._tab.value = "Scatter"
    other._tab.value = "Scatter"
    assert look_of("Scatter", other) == look_of("Scatter", session)


def test_a_refresh_keeps_what_is_chosen_within_tabs(dataset: xr.Dataset) -> None:
    explorer = Explorer(dataset, source=lambda: (dataset, None), **START)
    chosen_in("Parallel", explorer.session)
    before = look_of("Parallel", explorer.session)
    explorer._own._refresh()
    assert look_of("Parallel", explorer.session) == before


def ranges(visit: Visit) -> list[list[float]]:
    """Start and end of both axes of each figure, rounded as in an address."""
    found: list[list[float]] = visit.page.evaluate(
        f"""() => {{ {FIGURES}
          const ends = ({{x_range, y_range}}) => [x_range.start, x_range.end, y_range.start, y_range.end]
          return figures.map((figure) => ends(figure).map((end) => Number(end.toPrecision(5)))) }}"""
    )
    return found


def reaches(visit: Visit, expected: list[list[float]]) -> None:
    """Wait until the figures have these ranges."""
    for _ in range(200):
        if ranges(visit) == expected:
            return
        visit.page.wait_for_timeout(50)
    assert ranges(visit) == expected


def zoom(visit: Visit, steps: int) -> None:
    """Zoom in both directions, as a wheel does."""
    visit.page.evaluate(
        f"""async () => {{ {FIGURES}
          for (let step = 0; step < {steps}; step++) {{
            for (const range of [figures[0].x_range, figures[0].y_range])
              range.setv({{start: range.start, end: range.start + 0.9 * (range.end - range.start)}})
            await new Promise((go_on) => setTimeout(go_on, 60))
          }} }}"""
    )


def address(visit: Visit, wanted: str, unwanted: str = "nothing") -> int:
    """Wait for an address, and return how many steps there are to go back."""
    visit.page.wait_for_function(
        "([wanted, unwanted]) => location.search.includes(wanted) && !location.search.includes(unwanted)",
        arg=[wanted, unwanted],
    )
    return int(visit.page.evaluate("() => history.length"))


def move(visit: Visit, title: str, before: str) -> None:
    """Drag a column of the table before another one."""
    here, there = (visit.page.locator(f'.title:text-is("{of}")').bounding_box() for of in (title, before))
    mouse = visit.page.mouse
    mouse.move(here["x"] + here["width"] / 2, here["y"] + 5)
    mouse.down()
    # A column is dragged once the button has been pressed for a while.
    visit.page.wait_for_timeout(600)
    mouse.move(there["x"] + 2, there["y"] + 5, steps=20)
    visit.page.wait_for_timeout(300)
    mouse.up()


@pytest.mark.slow
@pytest.mark.browser
def test_zoom_and_table_stand_in_the_address(tiny_suite: Suite, browser: Any, tmp_path: Path) -> None:
    words = [tiny_suite.data, tiny_suite.wandb, "--no-cache", "--params", "150M", "--metrics", "arc_easy"]
    with exploring(*words, folder=tmp_path) as (url, _):
        visit = Visit(browser, url)
        visit.drawn(1)
        start, steps = ranges(visit), visit.page.evaluate("() => history.length")
        zoom(visit, 6)
        zoomed = ranges(visit)
        assert zoomed[0] != start[0]
        assert address(visit, "curves.x.cumulative_tokens=") == steps + 1, "a zoom is one step, not one for each wheel"
        assert "curves.y.arc_easy=" in visit.page.url

        visit.page.get_by_role("button", name="Table", exact=True).click()
        run = visit.page.locator(".tabulator-col", has=visit.page.locator('.title:text-is("run")'))
        run.locator("input.filter").fill("sft")
        steps = address(visit, "table.filter.run=sft")
        visit.page.locator('.title:text-is("end")').click()
        assert address(visit, "table.sort=end_tokens%3Aasc") == steps + 1
        count = visit.page.locator(".bar .count:visible").last.inner_text()
        assert " of " in count
        move(visit, "state", "lineage")
        address(visit, "table.order=state")

        more = "&table.filter.gone=1&table.filter.learning_rate=1x"
        other = Visit(browser, f"{visit.page.url}{more}")
        other.drawn(1)
        other.page.locator('.tabulator-col[aria-sort="ascending"]', has_text="end").wait_for()
        other.page.locator(".bar .count", has_text=count).wait_for()
        assert visit.page.locator(".tabulator-col-title").all_inner_texts() == (
            other.page.locator(".tabulator-col-title").all_inner_texts()
        )
        other.page.get_by_text("table.filter.gone=1 is not among the choices").wait_for()
        other.page.locator("input.filter.wrong").wait_for()
        other.page.get_by_role("button", name="Curves", exact=True).click()
        other.page.locator("canvas:visible").first.wait_for()
        reaches(other, zoomed)
        assert visit.complaints + other.complaints == []
        other.close()

        answer = Visit(browser, f"{url}?tab=Answers&answers.question=reach&answers.metrics=arc_easy&answers.target=0.3")
        answer.page.locator("img[alt*=reach]").wait_for()
        assert answer.complaints == []
        answer.close()

        # One step back each.
        for wanted, gone in [
            ("table.sort=", "table.order="),
            ("table.filter.run=sft", "table.sort="),
            ("tab=Table", "table.filter"),
            ("curves.x", "tab=Table"),
        ]:
            visit.page.go_back()
            address(visit, wanted, gone)
            visit.page.wait_for_timeout(1200)
            address(visit, wanted, gone)
        visit.page.locator("canvas:visible").first.wait_for()
        reaches(visit, zoomed)
        visit.page.go_back()
        visit.page.wait_for_function("() => location.search === ''")
        reaches(visit, start)
        visit.page.go_forward()
        address(visit, "curves.x")
        reaches(visit, zoomed)
        assert visit.complaints == []
        visit.close()
