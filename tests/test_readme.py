"""What the README says is so: its code runs, its commands exist, its picture is there."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

import dde
from dde.tutorial import Suite

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(small_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the README assumes: tables in ``data``, an export in ``wandb_export``."""
    here = tmp_path_factory.mktemp("readme")
    (here / "data").symlink_to(small_suite.data)
    (here / "wandb_export").symlink_to(small_suite.wandb)
    write_runs(here / "runs")
    return here


def write_runs(here: Path) -> None:
    """Write trunks and cooldowns of two corpora."""
    (here / "trunks").mkdir(parents=True)
    (here / "cooldowns").mkdir()
    for corpus, first in (("web", 4.0), ("code", 3.2)):
        rows = [f"{100 * k},{k * 10**10},{first - k / 10},70000000" for k in range(11)]
        header = "step,tokens,loss,n_non_embedding"
        (here / "trunks" / f"{corpus}-70m.csv").write_text("\n".join([header, *rows]))
        lines = [
            {"corpus": corpus, "size": "70m", "step": 10 * (start + k), "tokens": (start + k) * 10**9}
            | {"loss": first - start / 100 - k / 10, "n_non_embedding": 70_000_000}
            for start in (10, 20)
            for k in range(4)
        ]
        (here / "cooldowns" / f"{corpus}.jsonl").write_text("\n".join(map(json.dumps, lines)))


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("python"), ids=range(len(blocks("python"))))
def test_python_runs(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    run_block(code)


def run_block(code: str) -> None:
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})


def test_the_page_on_figures_runs_and_names_every_option(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import fields

    from dde.plots.picture_options import PictureOptions

    page = (ROOT / "docs" / "pictures.md").read_text(encoding="utf-8")
    monkeypatch.chdir(folder)
    for code in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        run_block(code)
    # 6.5 by 2.6 inches, in points.
    assert b"0 0 468 187.2" in (folder / "curves.pdf").read_bytes()
    named = {name for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert named == {option.name for option in fields(PictureOptions)}


def test_the_first_screen_is_five_lines_of_code() -> None:
    first = README.split("## Install")[0]
    assert len(re.findall(r"^```python", first, re.MULTILINE)) == 1
    (code,) = re.findall(r"^```python\n(.*?)^```", first, re.DOTALL | re.MULTILINE)
    assert len(code.strip().splitlines()) <= 5
    assert len(first.splitlines()) < 30


def commands() -> list[list[str]]:
    lines = [line.partition("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    found = [shlex.split(line) for line in lines if line.startswith("dde ")]
    # tests/test_explore_browser.py visits the application, which serves until it is stopped; tests/test_cli.py runs the
    # demo, and looks at what it makes.
    return [words[1:] for words in found if words[1] not in ("explore", "demo")]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_run(
    words: list[str],
    folder: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from dde.cli import main

    monkeypatch.chdir(folder)
    monkeypatch.delenv("DDE_DB_CONNECTION", raising=False)
    if "two_corpora.toml" in words:
        # The reader has run the block that writes it.
        (code,) = (block for block in blocks("python") if "two_corpora.toml" in block)
        run_block(code)
        capsys.readouterr()
    if any(word.startswith("postgresql://") for word in words):
        database = request.getfixturevalue("database")
        words = [database if word.startswith("postgresql://") else word for word in words]
    monkeypatch.setattr(sys, "argv", ["dde", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, capsys.readouterr().err


def test_the_two_commands_are_those_that_are_tested() -> None:
    assert "python -m pip install . && dde demo" in README
    test_command = 'python -m pip install -e ".[test]" && python -m pytest'
    assert test_command in README
    assert test_command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_links_and_the_picture_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
    picture = ROOT / "docs" / "sweep.png"
    assert picture.stat().st_size < 150_000
    with Image.open(picture) as image:
        assert image.width > 1500


def test_what_it_names_exists() -> None:
    for name in re.findall(r"`dde\.([A-Za-z_.]+)", README):
        thing: object = dde
        for part in name.split("."):
            if not hasattr(thing, part):
                __import__(f"dde.{name.rpartition('.')[0]}")
            thing = getattr(thing, part)
    for name in re.findall(r"`ds\.dde\.([a-z_]+)", README):
        assert hasattr(dde.accessor.DdeDatasetAccessor, name), name
