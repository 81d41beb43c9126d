"""The application as a person meets it: `dde explore` in a process, the page in a real Chromium."""

from __future__ import annotations

import io
import re
import signal
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
        visit.page.locator("pre", has_text=part).wait_for()
    return str(visit.page.locator("pre").inner_text())


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
        ticking_a_run_makes_its_curve_stand_out(visit, tmp_path)
        choosing_lineage_metric_axis_and_rows(visit)
        visit.page.screenshot(path=tmp_path / "chosen.png", full_page=True)
        what_is_taken_away_is_what_is_shown(visit)
        what_cannot_be_drawn_is_said_in_words(visit, tmp_path)

        other = Visit(browser, address, width=760)
        other.page.locator("canvas").first.wait_for()
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
    visit.page.locator("canvas:visible, .alert:visible").first.wait_for()
    assert visit.page.locator(".alert:visible").all_inner_texts() == []
    assert visit.page.locator("h1").inner_text() == "arc_challenge"
    assert re.match(r"1 lineage, 4 runs, a grid of \d+ points", visit.page.locator("h1 + p").inner_text())
    assert len({point["run_id"] for point in visit.points()}) >= 3


def pointing_at_an_observation_says_what_it_is(visit: Visit) -> None:
    # The last of them lies on top of the others.
    point = [p for p in visit.points() if not p["run_id"].endswith("-default")][-1]
    visit.page.mouse.move(point["x"] - 40, point["y"] - 40)
    visit.page.mouse.move(point["x"], point["y"])
    visit.page.locator(".bk-tooltip-row-value").first.wait_for()
    values = visit.page.locator(".bk-tooltip-row-value").all_inner_texts()
    assert {point["run_id"], f"{point['value']:.4f}", "observed"} <= set(values)


def ticking_a_run_makes_its_curve_stand_out(visit: Visit, tmp_path: Path) -> None:
    marked = f"""() => {{ {FIGURES}
        return figures.some((figure) => figure.renderers.some((r) => r.name == "highlighted run")) }}"""
    assert not visit.page.evaluate(marked)
    tick = visit.page.locator(".tabulator-row", has_text="sft_lr").first.locator("input[type=checkbox]")
    tick.click()
    visit.page.wait_for_function(marked)
    visit.page.screenshot(path=tmp_path / "ticked.png")
    tick.click()
    visit.page.wait_for_function(f"() => !({marked})()")


def choosing_lineage_metric_axis_and_rows(visit: Visit) -> None:
    visit.pick("Lineages to show", "dolma1_7-150M-default")
    code(visit, "dolma1_7-150M-default")
    visit.pick("To draw", "train_loss")
    visit.unpick("To draw", "arc_challenge")
    visit.tick("logarithmic axis")
    visit.choose("Rows", "params")
    visit.choose("Grid", "linear")
    code(visit, 'metrics=["train_loss"]', "log_x=True", 'facet_by="params"', "TokenGrid.linear(200)")
    assert visit.page.locator("h1").inner_text() == "train_loss"
    titles = [title.strip() for title in figures(visit, "figure.title.text")]
    assert sorted(filter(None, titles)) == ["params: 150M", "params: 4M"]


def what_is_taken_away_is_what_is_shown(visit: Visit) -> None:
    said = code(visit)
    names: dict[str, Any] = {}
    exec(said.replace("picture = ", "picture = None and "), names)
    frame = pd.read_parquet(io.BytesIO(visit.download("Parquet")))
    pd.testing.assert_frame_equal(frame, names["shown"].dde.to_frame())
    with Image.open(io.BytesIO(visit.download("PNG"))) as image:
        assert image.format == "PNG"
    svg = visit.download("SVG").decode()
    assert ">tokens since the branch</text>" in svg, "text stays text"
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.page.get_by_text("Copy code", exact=True).click()
    visit.page.get_by_text("Copied", exact=True).wait_for()
    assert visit.page.evaluate("() => navigator.clipboard.readText()") == said


def what_cannot_be_drawn_is_said_in_words(visit: Visit, tmp_path: Path) -> None:
    visit.unpick("To draw", "train_loss")
    visit.page.get_by_text("no metric is chosen").wait_for()
    assert visit.page.locator("canvas:visible").count() == 0, "no old picture stays"
    visit.page.screenshot(path=tmp_path / "nothing.png")
    visit.pick("To draw", "piqa")
    code(visit, "piqa")
    visit.page.locator("canvas:visible").first.wait_for()
    assert not visit.page.get_by_text("no metric is chosen").is_visible()


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
