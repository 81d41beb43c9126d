"""The examples run as they are."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["data_cache"]


def test_there_are_examples_of_arrays_and_of_entities() -> None:
    assert [p.stem for p in EXAMPLES] == ["learning_rate_sweep", "runs_and_lineages"]
    for path in EXAMPLES:
        headings = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ## ")]
        assert [h.split()[2] for h in headings] in (["Open", "Filter", "Plot"], ["Open", "Filter", "Get"])
