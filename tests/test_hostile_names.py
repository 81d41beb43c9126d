"""Names that are more than names: scripts, formulas, codes of terminals. They are shown, and do nothing."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import xarray as xr

import dde
from browser import Visit, exploring
from command_process import run
from dde.explore.choices import Choices, code_of
from dde.explore.page import Explorer
from dde.plots.files import save_page, svg_bytes
from dde.printable import printable, spreadsheet_safe
from dde.tutorial import Suite

pytestmark = pytest.mark.filterwarnings("ignore:the runs reduce train_loss in different ways")

NAMES = [
    '<img src=x onerror="window.hacked=1">',
    "<script>window.hacked=2</script>",
    "\"&'<b>bold",
    "{{ 7*7 }} {a} %s",
    "$\\frac{a}{b$ $x^2$",
    "$$x$$ \\[y\\]",
    "@{run_id} @x $index",
    "\u202eevil\u202c",
    "\x1b[31mred[/red][bold]:smile:",
    "[click](javascript:window.hacked=3) `code` **b**",
    "=1+1",
    "@SUM(A1)",
    "-1+1",
    "\ttab",
]


@pytest.fixture(scope="module")
def suite(tiny_suite: Suite) -> Suite:
    return tiny_suite


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs, states, a hyperparameter and metrics with such names."""
    folder = tmp_path_factory.mktemp("hostile") / "store"
    folder.mkdir()
    with (folder / "runs.jsonl").open("w") as runs, (folder / "history.jsonl").open("w") as history:
        for k, name in enumerate(NAMES):
            run = {
                "run_id": name,
                "run_name": name,
                "state": name if k % 2 else "finished",
                "project": name,
                "entity": name,
                "config": {
                    "parent_run_id": "allenai/DataDecide-dolma1_7-4M",
                    "learning_rate": (k + 1) * 1e-6,
                    "reduce_loss": name,
                    "num_train_epochs": 1,
                    "finetune_tokens": 1e6,
                },
                "summary": {"oe_eval_metrics/arc_easy": {"primary_score": 0.3 + k / 100}},
                "wandb_metadata": {"program": "finetune.py", "args": []},
                "system_attrs": {"tags": [name]},
            }
            runs.write(json.dumps(run) + "\n")
            for step in range(1, 4):
                metrics = {
                    "total_tokens": step * 200_000,
                    "train_loss": 3 - step / 10,
                    **dict.fromkeys(NAMES[:7], step),
                }
                history.write(json.dumps({"run_id": name, "step": step, "metrics": metrics}) + "\n")
    return folder


@pytest.fixture(scope="module")
def dataset(suite: Suite, store: Path) -> xr.Dataset:
    chosen: dict[str, Any] = {"params": "4M", "data": "Dolma1.7", "seed": 0, "state": "all", "metrics": "all"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = dde.open_lineages(suite.data, str(store), cache_dir=None, **chosen)
        names = [n for n, v in opened.data_vars.items() if v.attrs.get("source_name") in (*NAMES, "train_loss")]
        return opened[[*names, "arc_easy"]].load()


# The command line

WORDS = ["{data}", "{store}", "--state", "all", "--no-cache"]


def command(suite: Suite, store: Path, *words: str, folder: Path) -> str:
    code, out, err = run(*(w.format(data=suite.data, store=store) for w in words), folder=folder)
    assert code == 0, err
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", out + err)
    return out


def test_tables_obey_no_name(suite: Suite, store: Path, tmp_path: Path) -> None:
    listed = command(suite, store, "ls", *WORDS, "--runs", folder=tmp_path)
    rows = pd.read_csv(io.StringIO(listed), sep="\t", keep_default_na=False, dtype=str)
    found = set(rows["run_id"])
    assert {"\\u202eevil\\u202c", "\\x1b[31mred[/red][bold]:smile:", "'=1+1", "'-1+1", "\\ttab", NAMES[0]} <= found
    assert not any(
        text.startswith(("=", "+", "-", "@")) for column in rows for text in rows[column] if not number(text)
    )
    assert (pd.to_numeric(rows.loc[rows["learning_rate"] != "", "learning_rate"]) > 0).all()
    command(suite, store, "coverage", *WORDS, folder=tmp_path)
    command(suite, store, "open", *WORDS, folder=tmp_path)


def number(text: str) -> bool:
    return bool(re.fullmatch(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", text))


def test_a_csv_computes_nothing_and_says_what_it_changed(suite: Suite, store: Path, tmp_path: Path) -> None:
    words = ["coverage", suite.data, store, "--no-cache", "--state", "all", "--to"]
    code, _, err = run(*words, "safe.csv", folder=tmp_path)
    assert code == 0, err
    assert re.search(r"^\d+ texts of safe\.csv start like a formula", err, re.MULTILINE)
    with (tmp_path / "safe.csv").open(newline="") as file:
        safe = list(csv.DictReader(file))
    ids = {row["run_id"] for row in safe}
    assert {"'=1+1", "'@SUM(A1)", "'-1+1", "\\ttab"} <= ids
    assert not ids & {"=1+1", "@SUM(A1)", "-1+1", "\ttab"}
    code, _, err = run(*words, "exact.csv", "--exact-text", folder=tmp_path)
    assert "formula" not in err
    with (tmp_path / "exact.csv").open(newline="") as file:
        exact = list(csv.DictReader(file))
    assert set(NAMES) <= {row["run_id"] for row in exact}
    assert [row["end_tokens"] for row in exact] == [row["end_tokens"] for row in safe]


def test_numbers_stay_numbers() -> None:
    frame = pd.DataFrame({"x": [-1.5, 2.0], "text": ["-5", "-5e-3"], "@name": ["+a", "b"], "when": [None, "=b"]})
    safe, changed = spreadsheet_safe(frame)
    assert safe["x"].tolist() == [-1.5, 2.0]
    assert safe["text"].tolist() == ["-5", "-5e-3"]
    assert safe.columns.tolist() == ["x", "text", "'@name", "when"]
    assert safe["'@name"].tolist() == ["'+a", "b"]
    assert pd.isna(safe["when"][0])
    assert safe["when"][1] == "'=b"
    assert changed == 2
    assert frame.columns.tolist() == ["x", "text", "@name", "when"], "what was given stays as it is"


def test_an_error_shows_what_a_terminal_would_obey(suite: Suite, store: Path, tmp_path: Path) -> None:
    for word in ("\x1b]0;title\x07", "\u202e4M", "[red]4M[/red]"):
        code, _, err = run("ls", suite.data, store, "--no-cache", "--params", word, folder=tmp_path)
        assert code == 1
        assert printable(word) in err.encode().decode("unicode_escape", "replace") or printable(word) in err
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", err)


# Pictures and pages


def svg_texts(picture: Any) -> set[str]:
    return {html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg_bytes(picture).decode())}


def test_matplotlib_shows_names_letter_by_letter(dataset: xr.Dataset) -> None:
    shown = svg_texts(dataset.dde.plot("train_loss", backend="matplotlib", hue_by="reduce_loss"))
    assert {printable(name) for name in NAMES} <= shown
    # Titles are cut where they are long.
    titles = svg_texts(dataset.dde.plot("train_loss", backend="matplotlib", facet_by="state", zoom=False))
    assert "state: {{ 7*7 }} {a} %s" in titles


def test_matplotlib_draws_metrics_of_any_name(dataset: xr.Dataset) -> None:
    names = [str(n) for n, v in dataset.data_vars.items() if v.attrs["source_name"] in NAMES]
    assert len(names) >= 6
    svg_bytes(dataset.dde.plot(names, backend="matplotlib", zoom=False))


def test_a_page_runs_no_name(dataset: xr.Dataset, browser: Any, tmp_path: Path) -> None:
    said = " ".join(NAMES)
    metric = next(str(n) for n, v in dataset.data_vars.items() if v.attrs["source_name"] == NAMES[0])
    for k, (y, options) in enumerate([("train_loss", {"hue_by": "reduce_loss"}), (metric, {"facet_by": "run_id"})]):
        picture = dataset.dde.plot(y, zoom=False, **options)
        visit = Visit(browser, save_page(picture, tmp_path / f"{k}.html", f"run {said}", f"text {said}").as_uri())
        visit.page.locator("canvas").first.wait_for()
        shown = " ".join(visit.page.locator("h1").inner_text().split())
        assert shown == " ".join(f"run {printable(said)}".split())
        assert visit.page.locator("p").first.inner_text().startswith("text <img")
        assert visit.page.title().startswith("run <img")
        assert visit.page.evaluate("() => window.hacked") is None
        assert visit.complaints == []
        assert visit.hosts() == {None} or visit.hosts() == {""} or not visit.hosts()
        visit.close()


def test_the_application_runs_no_name(suite: Suite, store: Path, browser: Any, tmp_path: Path) -> None:
    words = [suite.data, store, "--no-cache", "--state", "all", "--params", "4M", "--data", "Dolma1.7", "--seed", 0]
    with exploring(*words, folder=tmp_path) as (address, _):
        visit = Visit(browser, address)
        visit.drawn(1)
        visit.pick("To draw", "img_src_x_onerror_window_hacked_1")
        visit.page.locator("pre", has_text="img_src_x").wait_for(state="attached")
        visit.choose("Colour", "reduce loss")
        visit.page.locator("pre", has_text='hue_by="reduce_loss"').wait_for(state="attached")
        # Pointing at an observation shows its run, as it is called.
        point = next(p for p in visit.points() if p["run_id"].startswith(("<", "$", "@", "{", '"')))
        visit.page.mouse.move(point["x"] - 40, point["y"] - 40)
        visit.page.mouse.move(point["x"], point["y"])
        visit.page.locator(".tip").wait_for()
        titles = visit.page.locator(".run .name").evaluate_all("(names) => names.map((name) => name.title)")
        assert any(NAMES[0] in title for title in titles)
        assert visit.page.evaluate("() => window.hacked") is None
        assert visit.page.locator("a[href^='javascript']").count() == 0
        assert visit.complaints == []
        visit.close()


def test_what_the_application_says_is_no_markup(dataset: xr.Dataset) -> None:
    from dde.explore.session import _Failure, _paragraph

    page = Explorer(dataset, metrics="arc_easy").session
    page._show(_Failure(f"no run {NAMES[0]} and {NAMES[9]}\n\n# heading"))
    shown = page._alert.object
    assert not re.search("<(?!/?p>)", shown)
    for name in (NAMES[0], NAMES[9]):
        assert name in html.unescape(shown)
    assert _paragraph("a\n\nb's train_loss") == "<p>a b&#x27;s train_loss</p>"


def test_code_does_what_it_shows(dataset: xr.Dataset) -> None:
    shown = dataset.copy()
    shown.attrs["posttraining_source"] = "store\nimport os; os.abort()  # \u202e"
    lineage = (str(shown["lineage"].values[0]),)
    code = code_of(shown, Choices(lineage, (NAMES[7], NAMES[8], "a\udc80"), ("arc_easy",)))
    assert "\u202e" not in code
    assert "\x1b" not in code
    assert "\nimport os" not in code
    code.encode()
    compile(code, "code", "exec")
