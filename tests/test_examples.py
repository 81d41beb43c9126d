"""The examples run as they are, and one of them on files of the user's own."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from samples import sample_folder

FOLDER = Path(__file__).parents[1] / "examples"
#: First words of the headings of each example: the seed's phases are to open, to filter, and to plot or get the data.
PHASES = {
    "datadecide_decisions": ["Open", "Answer", "Plot"],
    "eight_questions": ["Open", "When", "Which", "What", "Which", "Do", "How", "Is", "Do", "How"],
    "learning_rate_sweep": ["Open", "Filter", "Plot"],
    "published_figures": ["Decays", "Predictions", "Interventions"],
    "real_files": ["Open", "Filter", "Get"],
    "runs_and_lineages": ["Open", "Filter", "Get"],
    "sweeps_and_seeds": ["Open", "Filter", "Plot", "Average", "Align"],
    "slicing_and_aligning": ["Open", "Filter", "Group,", "Align", "Join", "Leave", "Plot"],
}


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; the surroundings name no data."""
    monkeypatch.chdir(tmp_path)
    for name in ("DDE_DATA", "DDE_DB", "DDE_DB_CONNECTION", "DDE_SUITES"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.slow
# The generated suite has a contradictory row, which one example mentions.
@pytest.mark.filterwarnings("ignore:.*repeated rows:dde.errors.DdeWarning")
@pytest.mark.parametrize("name", [name for name in PHASES if name != "published_figures"])
def test_example_runs(name: str, own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out
    assert [p.name for p in own_folder.iterdir()] == ["data_cache"]


@pytest.mark.parametrize("name", PHASES)
def test_examples_follow_the_phases(name: str) -> None:
    lines = (FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()
    assert [line.split()[2] for line in lines if line.startswith("# ## ")] == PHASES[name]


def test_every_example_is_run() -> None:
    assert sorted(p.stem for p in FOLDER.glob("*.py")) == sorted(PHASES)


def test_the_example_runs_on_real_files(
    own_folder: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DDE_DATA", str(real_data))
    monkeypatch.setenv("DDE_DB", str(real_data))
    made = runpy.run_path(str(FOLDER / "real_files.py"), run_name="__main__")
    # The known values of these files: the finetuning run of 150M, where it branches and what it ends at.
    sweep = made["sweep"]
    assert sweep["lineage"].values.tolist() == ["dclm-baseline-150M-default"]
    assert sweep["learning_rate"].values[1:].tolist() == [5e-5]
    assert sweep["branch_tokens"].values[0, 1] == 15_003_942_912
    assert sweep["hellaswag"].isel(lineage=0, run=1).sel(cumulative_tokens=16_334_197_780) == 0.3566022705
    picture = own_folder / "data_cache" / "examples" / "real_files.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert "parent not in store" in shown
    assert "config 69369" in shown


def test_published_figures_are_recomputed_from_published_files(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DDE_SUITES", str(sample_folder("suites")))
    made = runpy.run_path(str(FOLDER / "published_figures.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "decay below cosine in 25 of 25 cells\nby 0.0005 to 0.0402 nats" in printed
    assert "mean over the four far tasks: 6.88 points" in printed
    assert float(made["error"].sel(metric=made["names"][:4]).max()) < 2.2
    # Pythia's models of 1.4B were retrained twice, the others once.
    assert len(made["table"].groupby(["lineage", "run"])) == 4


def test_published_figures_name_the_files_that_they_need(own_folder: Path) -> None:
    with pytest.raises(SystemExit, match="has no folder olmo_ladder"):
        runpy.run_path(str(FOLDER / "published_figures.py"), run_name="__main__")
