"""Pictures in a notebook without a network: what the cells of a real kernel output, and what a browser shows of it."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import Visit

pytest.importorskip("ipykernel", reason="no kernel of notebooks is installed; it is ipykernel")

#: Scripts that a notebook runs when it is opened, and a picture.
LOAD, PICTURE = "application/vnd.holoviews_load.v0+json", "application/vnd.holoviews_exec.v0+json"
START = """
import dde
ds = dde.tutorial.open_lineages("tiny", metrics=["arc_easy"], params="4M", data="Dolma1.7")
"""
DRAW = 'ds.dde.plot("arc_easy", zoom=False)'

Outputs = list[dict[str, Any]]


class Notebook:
    """A kernel that runs cells as a notebook does."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def run(self, code: str, cell: str = "") -> Outputs:
        """Run a cell, and return the data of what it outputs; any stream or error fails the test."""
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": True}
        message = self._client.session.msg("execute_request", content, metadata={"cellId": cell or code})
        self._client.shell_channel.send(message)
        outputs: Outputs = []
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                reply = self._client.get_iopub_msg(timeout=1)
            except queue.Empty:
                continue
            if reply["parent_header"].get("msg_id") != message["header"]["msg_id"]:
                continue
            kind, content = reply["msg_type"], reply["content"]
            assert kind not in ("stream", "error"), content
            if kind in ("display_data", "execute_result"):
                outputs.append(content["data"])
            if kind == "status" and content["execution_state"] == "idle":
                return outputs
        raise AssertionError("the cell did not end")


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=120)
        started = Notebook(client)
        started.run(START)
        yield started
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def scripts(outputs: Outputs) -> list[str]:
    """Scripts of BokehJS that outputs load."""
    return [data[LOAD] for data in outputs if "Bokeh" in data.get(LOAD, "") and len(data[LOAD]) > 9_000]


def test_bokeh_is_loaded_once_and_from_this_machine(notebook: Notebook) -> None:
    first, second = notebook.run(DRAW, "a"), notebook.run(DRAW, "b")
    (script,) = scripts(first)
    assert len(script) > 2_000_000, "it contains BokehJS"
    assert "cdn.bokeh.org/bokeh/release/bokeh-" not in script
    assert scripts(second) == []
    for outputs in (first, second):
        assert PICTURE in outputs[-1]
        assert not any("holoviews.org" in data.get("text/html", "") for data in outputs), "no logo"
    # Outputs of a cell that runs again are replaced, and scripts with them.
    assert len(scripts(notebook.run(DRAW, "a"))) == 1
    assert len(scripts(notebook.run(f"{DRAW}\n{DRAW}", "a"))) == 1
    assert scripts(notebook.run(DRAW, "c")) == []


def test_matplotlib_needs_no_scripts_and_saving_displays_nothing(notebook: Notebook) -> None:
    (image,) = notebook.run(DRAW.replace(")", ', backend="matplotlib")'))
    assert "data:image/png;base64" in image["text/html"]
    assert notebook.run('dde.save(ds.dde.plot("arc_easy", backend="matplotlib"), "x.html"); None') == []
    (picture,) = [data for data in notebook.run(DRAW) if "text/plain" in data]
    assert PICTURE in picture


def test_scripts_are_loaded_after_other_pictures_in_the_cell(notebook: Notebook) -> None:
    other = DRAW.replace(")", ', backend="matplotlib")')
    outputs = notebook.run(f'dde.save({other}, "x.html")\ndisplay({other})\n{DRAW}')
    (script,) = scripts(outputs)
    assert len(script) > 2_000_000, "it contains BokehJS"


def test_what_the_user_loaded_stays(notebook: Notebook) -> None:
    notebook.run('import holoviews as hv; hv.extension("bokeh", logo=False, display_formats=["html", "pdf"])')
    assert scripts(notebook.run(DRAW)) == []
    notebook.run(DRAW.replace(")", ', backend="matplotlib")'))
    (formats,) = notebook.run("hv.Store.display_formats, __import__('panel').config.inline")
    assert formats["text/plain"] == "(['html', 'pdf'], False)"


@pytest.mark.parametrize(
    ("cells", "count"),
    [
        ((DRAW, DRAW), 2),
        ((DRAW, f"{DRAW} + {DRAW}", "ds.dde.explore()"), 3),
        (("ds.dde.explore()",), 1),
    ],
)
def test_nothing_is_requested_from_a_network(
    notebook: Notebook, browser: Any, tmp_path: Path, cells: tuple[str, ...], count: int
) -> None:
    outputs = [data for name, code in zip("abcd", cells, strict=False) for data in notebook.run(code, name)]
    parts = [
        f"<script>{data['application/javascript']}</script>" if LOAD in data else data.get("text/html", "")
        for data in outputs
    ]
    page = tmp_path / "notebook.html"
    page.write_text(f"<!DOCTYPE html><meta charset='utf-8'><body>{''.join(parts)}</body>", encoding="utf-8")
    check_page_without_a_network(browser, page, count)


def test_styles_are_inline_after_an_extension_of_the_user(notebook: Notebook) -> None:
    notebook.run("import panel as pn; pn.extension(inline=True)")
    (picture,) = [data for data in notebook.run(DRAW) if "text/plain" in data]
    assert "cdn.holoviz.org" not in picture["text/html"]


def test_nothing_is_requested_by_a_saved_page(browser: Any, tmp_path: Path) -> None:
    import dde

    ds = dde.tutorial.open_lineages("tiny", metrics=["arc_easy"], params="4M", data="Dolma1.7")
    page = dde.save(ds.dde.plot("arc_easy", title="$$x$$", labels={"arc_easy": r"\(y\)"}), tmp_path / "saved.html")
    check_page_without_a_network(browser, page, 1)


def check_page_without_a_network(browser: Any, page: Path, count: int) -> None:
    """Check that a page draws without a network, and that it doesn't even try to use one."""
    visit = Visit(browser, page.as_uri())
    try:
        visit.context.set_offline(True)
        visit.page.reload()
        visit.page.wait_for_function(f"() => window.Bokeh && Bokeh.documents.length >= {count}")
        visit.page.wait_for_function(f"() => ({_DRAWN})(document) >= {count}")
        visit.page.wait_for_load_state("networkidle")
        assert visit.hosts() <= {None, ""}, visit.requests
        assert visit.complaints == []
    finally:
        visit.close()


#: JavaScript that counts canvases on which something is drawn, also inside shadow roots.
_DRAWN = """function drawn(root) {
  let count = 0
  for (const element of root.querySelectorAll("*")) {
    if (element.shadowRoot) count += drawn(element.shadowRoot)
    if (element.tagName != "CANVAS" || !element.width || !element.height) continue
    const pixels = element.getContext("2d")?.getImageData(0, 0, element.width, element.height).data ?? []
    if (new Set(new Uint32Array(pixels.buffer ?? [])).size > 20) count++
  }
  return count
}"""
