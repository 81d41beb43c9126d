"""The code in docs/questions.md runs, and names every question that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dde.analysis

PAGE = (Path(__file__).parents[2] / "docs" / "questions.md").read_text(encoding="utf-8")


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        exec(compile(block, "docs/questions.md", "exec"), {})
    assert "censored" in capsys.readouterr().out


def test_every_question_is_explained() -> None:
    calls = set(re.findall(r"dde\.(\w+)\(", PAGE))
    assert set(dde.analysis.__all__) <= calls


def test_every_command_is_one_of_the_command_line() -> None:
    from dde.cli.ask import app

    named = set(re.findall(r"^dde ask (\w+)", PAGE, re.MULTILINE))
    assert named == {command.name for command in app.registered_commands}
