"""A real Chromium without a window, and `dde explore` in a process of its own for it to look at."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
# Without the latter ones Chromium looks for its maker's hosts.
_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
#: Seconds that anything may take on a busy machine before a test gives up.
PATIENCE = 60


@contextmanager
def running_chromium() -> Iterator[Any]:
    """A browser of Playwright; skips the test where no Chromium is installed."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip(f"no Chromium is installed ({', '.join(_NAMES)}); Debian's package is chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A page in a browser, with what it asked for and complained of."""

    def __init__(self, browser: Any, url: str, width: int = 1400) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True)
        self.page = self.context.new_page()
        self.page.set_default_timeout(1000 * PATIENCE)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        self.page.goto(url)

    def hosts(self) -> set[str | None]:
        """The hosts that anything was asked of."""
        return {urlsplit(url).hostname for url in self.requests if not url.startswith(("blob:", "data:"))}

    def group(self, label: str) -> Any:
        """The widget with that label."""
        return self.page.locator(".bk-input-group", has_text=label).first

    def pick(self, label: str, text: str) -> None:
        """Choose an entry of a searchable list, by typing what it is called."""
        group = self.group(label)
        group.locator("input.choices__input").click()
        group.locator("input.choices__input").type(text)
        group.locator(".choices__list--dropdown .choices__item--selectable", has_text=text).first.click()
        self.page.keyboard.press("Escape")

    def unpick(self, label: str, text: str) -> None:
        """Take an entry away again, with its cross."""
        item = self.group(label).locator(".choices__list--multiple .choices__item", has_text=text)
        item.locator("button").click()

    def choose(self, label: str, value: str) -> None:
        """Choose one of a short list."""
        self.group(label).locator("select").select_option(value)

    def tick(self, label: str) -> None:
        """Tick the box with that label."""
        self.page.get_by_text(label, exact=True).click(force=True)

    def download(self, button: str) -> bytes:
        """Press a button that gives a file, and return what is in it."""
        with self.page.expect_download(timeout=1000 * PATIENCE) as found:
            self.page.get_by_text(button, exact=True).click()
        return Path(found.value.path()).read_bytes()

    def points(self) -> list[dict[str, Any]]:
        """The observations that are drawn: run id, value, and where on the screen, panel by panel."""
        found: list[dict[str, Any]] = self.page.evaluate(_POINTS)
        return found

    def drawn(self, count: int) -> None:
        """Wait until the curves were drawn this often."""
        self.page.wait_for_function(f"() => performance.getEntriesByName('dde drawn {count}').length > 0")

    def close(self) -> None:
        self.context.close()


#: JavaScript that finds the figures of the page.
FIGURES = """
const reached = Bokeh.documents[0].roots().flatMap((root) => [...root.references()])
const is_visible = (figure) => Bokeh.index.find_one(figure)?.el.offsetParent != null
const figures = [...new Set(reached)].filter((model) => model.type == "Figure" && is_visible(model))
"""
_POINTS = f"""() => {{
  {FIGURES}
  const found = []
  for (const [panel, figure] of figures.entries()) {{
    const view = Bokeh.index.find_one(figure)
    const box = view.canvas_view.el.getBoundingClientRect()
    for (const renderer of figure.renderers) {{
      const data = renderer.data_source?.data
      if (data === undefined || data.run_id === undefined || renderer.glyph.fill_alpha?.value === 0) continue
      const [xs, ys] = [data[renderer.glyph.x.field], data[renderer.glyph.y.field]]
      for (let i = 0; i < data.run_id.length; i++)
        found.push({{
          panel, run_id: data.run_id[i], value: ys[i],
          x: box.x + view.frame.x_scale.compute(xs[i]), y: box.y + view.frame.y_scale.compute(ys[i]),
        }})
    }}
  }}
  return found
}}"""


@contextmanager
def exploring(*words: object, folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`dde explore` with these arguments in its own process: its address, and the process."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from dde.cli import main; main()", "explore", *map(str, words), "--no-browser"],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "DDE_DB_CONNECTION"} | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=lambda: [lines.put(line) for line in process.stdout or ()], daemon=True)
    reader.start()
    said = ""
    try:
        while "Exploring at" not in said:
            said += lines.get(timeout=PATIENCE)
        yield said.partition("Exploring at ")[2].split()[0], process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
        # For whoever reads why a test failed.
        print(said, *iter(lambda: lines.get() if lines.qsize() else None, None), sep="")
        assert process.stdout is not None
        process.stdout.close()
