"""The application as a person meets it: `dde explore` in a process, the page in a real Chromium."""

from __future__ import annotations

import io
import re
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import pytest
from PIL import Image

from browser import FIGURES, PATIENCE, Visit, exploring
from dde.tutorial import Suite

METRICS = [word for name in ("arc_challenge", "train_loss", "piqa") for word in ("--metrics", name)]


@pytest.fixture(scope="module")
def suite(tiny_suite: Suite) -> Suite:
    return tiny_suite


def figures(visit: Visit, wanted: str) -> list[Any]:
    """What an expression of JavaScript says of each figure."""
    found: list[Any] = visit.page.evaluate(f"() => {{ {FIGURES} return figures.map((figure) => {wanted}) }}")
    return found


def code(visit: Visit, *parts: str) -> str:
    """The code of what is shown, once it holds all parts; it comes with the picture of the same choices."""
    for part in parts:
        visit.page.locator("pre", has_text=part).wait_for(state="attached")
    return str(visit.page.locator("pre").text_content())


@pytest.mark.slow
@pytest.mark.browser
def test_the_page_as_a_person_uses_it(suite: Suite, browser: Any, tmp_path: Path) -> None:
    with exploring(
        suite.data, suite.wandb, "--no-cache", "--data", "Dolma1.7", "--seed", 0, *METRICS, folder=tmp_path
    ) as (
        address,
        process,
    ):
        visit = Visit(browser, address)
        starts_with_few_lineages_and_a_metric_that_has_values(visit)
        visit.page.screenshot(path=tmp_path / "start.png", full_page=True)
        pointing_at_an_observation_says_what_it_is(visit)
        visit.page.screenshot(path=tmp_path / "hover.png")
        finding_hiding_selecting_and_pinning_runs(visit, tmp_path)
        zooming_stays_while_the_axis_does(visit)
        a_link_opens_the_same_view(visit, browser, tmp_path)
        choosing_lineage_metric_axis_and_rows(visit)
        visit.page.screenshot(path=tmp_path / "chosen.png", full_page=True)
        what_is_taken_away_is_what_is_shown(visit)
        what_cannot_be_drawn_is_said_in_words(visit, tmp_path)

        other = Visit(browser, address, width=760)
        other.drawn(1)
        assert "log_x" not in code(other, "shown = "), "each visitor has choices of their own"
        assert other.page.evaluate("() => document.documentElement.scrollWidth") <= 760, "nothing is cut off"
        other.page.screenshot(path=tmp_path / "narrow.png", full_page=True)

        assert visit.complaints + other.complaints == []
        assert visit.hosts() | other.hosts() == {"127.0.0.1"}, "works without a network"
        assert talks_to(address, "http://elsewhere.example") == 403
        assert talks_to(address, address.rstrip("/")) == 101
        visit.close()
        other.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130


def starts_with_few_lineages_and_a_metric_that_has_values(visit: Visit) -> None:
    visit.drawn(1)
    assert visit.page.locator(".alert:visible").all_inner_texts() == []
    assert visit.page.locator("h1").inner_text() == "arc_challenge"
    assert re.match(r"1 lineage, 4 runs, a grid of \d+ points", visit.page.locator("h1 + p").inner_text())
    assert len({point["run_id"] for point in visit.points()}) >= 3
    caption = visit.page.locator(".caption")
    assert caption.inner_text().startswith(
        "ARC-Challenge (primary metric) against tokens since the start of pretraining; 4"
    )
    panel = visit.page.locator("canvas:visible").last.bounding_box()
    assert caption.bounding_box()["y"] >= panel["y"] + panel["height"]


def pointing_at_an_observation_says_what_it_is(visit: Visit) -> None:
    # The last of them lies on top of the others.
    point = [p for p in visit.points() if not p["run_id"].endswith("-default")][-1]
    visit.page.mouse.move(point["x"] - 40, point["y"] - 40)
    visit.page.mouse.move(point["x"], point["y"])
    tip = visit.page.locator(".tip")
    tip.wait_for()
    lines = tip.locator("div").all_inner_texts()
    assert len(lines) <= 8
    assert f"{point['value']:.4f}" in lines[1]
    assert "observed" in lines[1]
    # The line through the pointer is in each panel with this axis, and nowhere else.
    assert visit.page.locator(".cross:visible").count() >= 1
    visit.page.mouse.move(5, 5)
    tip.wait_for(state="hidden")


def finding_hiding_selecting_and_pinning_runs(visit: Visit, tmp_path: Path) -> None:
    def drawn_runs() -> set[str]:
        return {point["run_id"] for point in visit.points()}

    before, search = drawn_runs(), visit.page.locator("input.search")
    search.fill("/sft_lr=5e-0[56]/")
    assert re.match(r"\d of \d runs", visit.page.locator(".runs .count").inner_text())
    search.press("Enter")
    found = drawn_runs()
    assert found
    assert found < before
    search.fill("/[/")
    assert "wrong" in str(search.get_attribute("class"))
    search.fill("")
    visit.page.get_by_role("button", name="all", exact=True).click()
    assert drawn_runs() == before
    first = visit.page.locator(".run").first
    first.locator(".eye").click()
    assert len(drawn_runs()) == len(before) - 1
    first.locator(".eye").press("Enter")
    assert drawn_runs() == before, "reached and pressed by keyboard"
    visit.page.locator(".run .pick").nth(1).click()
    visit.page.locator(".clear:visible").wait_for()
    visit.page.locator(".run .pin").first.click()
    visit.page.screenshot(path=tmp_path / "selected.png")
    visit.choose("Values", "difference to the pinned run")
    code(visit, "relative_to=")
    visit.choose("Values", "as they are")
    visit.page.locator(".clear").click()
    visit.page.locator(".run .pin").first.click()
    visit.page.wait_for_function("() => !location.search.includes('pin=')")


def zooming_stays_while_the_axis_does(visit: Visit) -> None:
    zoomed = f"""() => {{ {FIGURES}
        const range = figures[0].x_range
        range.setv({{start: range.start, end: (range.start + range.end) / 2}}) }}"""
    visit.page.evaluate(zoomed)
    end = figures(visit, "figure.x_range.end")[0]
    visit.pick("To draw", "piqa")
    code(visit, 'metrics=["arc_challenge", "piqa"]')
    assert figures(visit, "figure.x_range.end")[0] == end
    visit.unpick("To draw", "piqa")
    code(visit, 'metrics=["arc_challenge"]')
    visit.page.evaluate(f"() => {{ {FIGURES} figures.forEach((f) => f.x_range.end = f.x_range.reset_end) }}")


def a_link_opens_the_same_view(visit: Visit, browser: Any, tmp_path: Path) -> None:
    visit.page.locator(".run .eye").first.click()
    visit.page.wait_for_function("() => /hide=|only=/.test(location.search)")
    other = Visit(browser, visit.page.url)
    other.drawn(1)
    assert code(other) == code(visit)
    assert {p["run_id"] for p in other.points()} == {p["run_id"] for p in visit.points()}
    other.page.get_by_role("button", name="Run", exact=True).click()
    other.page.screenshot(path=tmp_path / "link.png")
    other.close()
    visit.page.locator(".run .eye").first.click()


def choosing_lineage_metric_axis_and_rows(visit: Visit) -> None:
    visit.pick("Lineages to show", "dolma1_7-150M-default")
    code(visit, "dolma1_7-150M-default")
    visit.pick("To draw", "train_loss")
    visit.unpick("To draw", "arc_challenge")
    visit.tick("logarithmic axis")
    visit.choose("Panels for each", "params")
    visit.choose("Grid", "linear")
    code(visit, 'metrics=["train_loss"]', "log_x=True", 'facet_by="params"', "TokenGrid.linear(200)")
    assert visit.page.locator("h1").inner_text() == "train_loss"
    titles = [title.strip() for title in figures(visit, "figure.title.text")]
    assert sorted(filter(None, titles)) == ["params: 150M", "params: 4M"]


def what_is_taken_away_is_what_is_shown(visit: Visit) -> None:
    said = code(visit)
    visit.page.get_by_text("Export", exact=True).click()
    names: dict[str, Any] = {}
    exec(said.replace("picture = ", "picture = None and "), names)
    frame = pd.read_parquet(io.BytesIO(visit.download("Parquet")))
    pd.testing.assert_frame_equal(frame, names["shown"].dde.to_frame())
    with Image.open(io.BytesIO(visit.download("PNG"))) as image:
        assert image.format == "PNG"
    svg = visit.download("SVG").decode()
    assert ">tokens since the branch" in svg, "text stays text"
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.page.get_by_text("Copy code", exact=True).click()
    visit.page.get_by_text("Copied", exact=True).wait_for()
    assert visit.page.evaluate("() => navigator.clipboard.readText()") == said
    assert visit.download("PDF").startswith(b"%PDF")
    visit.page.get_by_text("Curves", exact=True).click()


def what_cannot_be_drawn_is_said_in_words(visit: Visit, tmp_path: Path) -> None:
    visit.unpick("To draw", "train_loss")
    visit.page.get_by_text("no metric is chosen").wait_for()
    assert visit.page.locator("canvas:visible").count() == 0, "no old picture stays"
    visit.page.screenshot(path=tmp_path / "nothing.png")
    visit.pick("To draw", "piqa")
    code(visit, "piqa")
    visit.page.locator("canvas:visible").first.wait_for()
    assert not visit.page.get_by_text("no metric is chosen").is_visible()


@pytest.mark.slow
@pytest.mark.browser
def test_tabs_open_on_every_page_that_was_open_before(suite: Suite, browser: Any, tmp_path: Path) -> None:
    with exploring(suite.data, suite.wandb, "--no-cache", *METRICS, folder=tmp_path) as (address, _):
        visits = [Visit(browser, address) for _ in range(2)]
        for visit in visits:
            visit.drawn(1)
        for visit in visits:
            visit.page.get_by_text("Table", exact=True).click()
            visit.page.locator(".tabulator-row").first.wait_for()
        for visit in visits:
            visit.page.get_by_text("Answers", exact=True).click()
            visit.page.get_by_role("button", name="Answer", exact=True).wait_for()
            assert visit.complaints == []
            visit.close()


@pytest.mark.slow
@pytest.mark.browser
def test_browsers_that_leave_while_something_is_drawn_are_no_error(
    suite: Suite, browser: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with exploring(suite.data, suite.wandb, "--no-cache", *METRICS, folder=tmp_path) as (address, _):
        for k in range(8):
            visit = Visit(browser, address)
            visit.drawn(1)
            visit.pick("To draw, side by side", "piqa")
            visit.page.wait_for_timeout(60 * k)
            visit.close()
        last = Visit(browser, address)
        last.drawn(1)
        last.close()
    # What the process said is printed when it ends.
    said = capsys.readouterr().out
    assert "Exploring at" in said
    assert "Traceback" not in said, said
    assert "never retrieved" not in said


def talks_to(address: str, origin: str) -> int:
    """The status that a page from an origin gets when it wants to talk to the server."""
    connection = HTTPConnection(urlsplit(address).netloc, timeout=PATIENCE)
    headers = {
        "Origin": origin,
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol": "bokeh, token",
    }
    connection.request("GET", "/ws", headers=headers)
    status = connection.getresponse().status
    connection.close()
    return status


_SERVED = """
import sys
import panel, dde
dataset = dde.open_lineages(sys.argv[1], sys.argv[2], cache_dir=None, metrics=["arc_easy"])
panel.serve(dataset.dde.explore(), port=int(sys.argv[3]), show=False)
"""


@pytest.mark.slow
@pytest.mark.browser
def test_visitors_of_one_served_object_have_pages_of_their_own(suite: Suite, browser: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-c", _SERVED, str(suite.data), str(suite.wandb), str(port)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(port)
            one, other = (Visit(browser, f"http://localhost:{port}/") for _ in range(2))
            one.drawn(1)
            other.drawn(1)
            one.tick("logarithmic axis")
            assert "log_x=True" in code(one, "log_x=True")
            other.tick("logarithmic values")
            assert "log_x" not in code(other, "log_y=True")
            assert "log_y" not in code(one)
            assert one.complaints + other.complaints == []
            one.close()
            other.close()
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.browser
def test_the_list_leaves_out_what_all_names_of_a_group_begin_with(suite: Suite, browser: Any, tmp_path: Path) -> None:
    with exploring(suite.data, suite.wandb, "--no-cache", *METRICS, folder=tmp_path) as (address, _):
        visit = Visit(browser, f"{address}?lineage=dolma1_7-150M-default&lineage=dclm-baseline-150M-default")
        visit.drawn(1)
        names = visit.page.locator(".run .name").evaluate_all(
            "(all) => all.map((name) => [name.textContent, name.getAttribute('aria-label')])"
        )
        visit.close()
    shortened = [(text, full) for text, full in names if text != full]
    assert shortened
    for text, full in shortened:
        assert text[0] == "\u2026"
        assert full.endswith(text[1:])
        assert re.search(r"[\s_,/]$", full.removesuffix(text[1:])), "names are cut at the end of a word"
    assert len({full for _, full in names}) == len(names)


def wait_for(port: int) -> None:
    """Wait until something listens on a port."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("localhost", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < end, "nothing listens"
            time.sleep(0.1)
        else:
            return
