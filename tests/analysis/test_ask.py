"""``dde ask``: questions on the command line give the answers of Python, as tables, files and pictures."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

import dde
from dde.analysis.answers import answer_frame
from dde.cli import main
from dde.tutorial import Suite

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DDE_DB_CONNECTION", raising=False)

    def command(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dde", "ask", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return command


@pytest.fixture(scope="module")
def runs(small_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    return dde.open_lineages(
        small_suite.data, small_suite.wandb, metrics=["arc_easy", "piqa", "pile_valppl"],
        cache_dir=tmp_path_factory.mktemp("cache"),
    )  # fmt: skip


QUESTIONS: dict[str, tuple[list[str], Callable[[xr.Dataset], xr.Dataset]]] = {
    "decide": (
        ["--metric", "arc_easy", "--target", "params=150M", "--seeds", "each"],
        lambda ds: ds.dde.base_curves().dde.decision_accuracy("arc_easy", target={"params": "150M"}, seeds="each"),
    ),
    "decide by a proxy": (
        ["--metric", "arc_easy", "--target", "params=150M", "--small", "params=20M", "--proxy", "pile_valppl"],
        lambda ds: ds.dde.base_curves().dde.decision_accuracy(
            "arc_easy", target={"params": "150M"}, small={"params": "20M"}, proxy="pile_valppl"
        ),
    ),
    "reach": (
        ["--metric", "arc_easy", "--target", "0.3", "--target", "0.4", "--rule", "sustained"],
        lambda ds: ds.dde.reach("arc_easy", [0.3, 0.4], rule="sustained"),
    ),
    "reach another run": (
        ["--metric", "piqa", "--target", "params=150M"],
        lambda ds: ds.dde.reach("piqa", {"params": "150M"}),
    ),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_prints_the_table_of_its_answer(
    run: Run, small_suite: Suite, runs: xr.Dataset, question: str
) -> None:
    words, ask = QUESTIONS[question]
    code, out, err = run(question.split()[0], small_suite.data, small_suite.wandb, *words)
    assert code == 0, err
    expected = ask(runs).dde.to_frame()
    printed = pd.read_csv(io.StringIO(out), sep="\t", keep_default_na=True)
    assert len(printed) == len(expected) > 0
    for name in expected.columns:
        if expected[name].dtype.kind == "f":
            np.testing.assert_allclose(printed[name].astype(float), expected[name], rtol=1e-12)


def test_metrics_may_be_globs_and_places_axes(run: Run, small_suite: Suite, runs: xr.Dataset) -> None:
    words = ["--metric", "pi*", "--target", "params=150M", "--at", "fraction_of_training=0.5"]
    code, out, err = run("decide", small_suite.data, small_suite.wandb, *words)
    assert code == 0, err
    # The glob matches piqa and all perplexities of the Pile.
    assert {"piqa", "pile_valppl"} <= set(pd.read_csv(io.StringIO(out), sep="\t")["metric"])
    assert "compared at: fraction_of_training=0.5" in err


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".png", ".html"])
def test_an_answer_is_written_in_the_format_of_the_name(
    run: Run, small_suite: Suite, runs: xr.Dataset, tmp_path: Path, suffix: str
) -> None:
    words, ask = QUESTIONS["decide"]
    path = tmp_path / f"answer{suffix}"
    code, out, err = run("decide", small_suite.data, small_suite.wandb, *words, "--to", path.name)
    assert (code, out) == (0, f"wrote {path.name}\n"), err
    expected = answer_frame(ask(runs))
    if suffix in (".csv", ".parquet"):
        written = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
        np.testing.assert_allclose(written["accuracy"], expected["accuracy"])
    elif suffix == ".png":
        with Image.open(path) as picture:
            assert min(picture.size) > 300
    else:
        assert "decision accuracy" in path.read_text(encoding="utf-8")
    code, _, err = run("decide", small_suite.data, small_suite.wandb, *words, "--to", path.name)
    assert code == 1
    assert "--overwrite" in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["decide", "--metric", "arc_easy"], 2, "Missing option '--target'"),
        (["decide", "--metric", "arc_easy", "--target", "1B"], 2, "is not NAME=VALUE"),
        (["decide", "--metric", "arc_easy", "--target", "parms=150M"], 1, "Did you mean params"),
        (["decide", "--metric", "arc_eazy", "--target", "params=150M"], 1, "Did you mean arc_easy"),
        (["decide", "--metric", "arc_easy", "--target", "params=150M", "--at", "lsat"], 1, "Did you mean last"),
        (["reach", "--metric", "arc_easy", "--target", "0.3", "--target", "pretraining"], 2, "must be numbers"),
        (["reach", "--metric", "arc_easy", "--target", "0.3", "--to", "x.docx"], 2, "is not a format"),
    ],
)
def test_mistakes_say_what_to_do(run: Run, small_suite: Suite, words: list[str], code: int, message: str) -> None:
    question, *rest = words
    ended, out, err = run(question, small_suite.data, small_suite.wandb, *rest)
    assert (ended, out) == (code, "")
    assert message in " ".join(err.split())


def test_help_of_each_question_has_an_example(run: Run) -> None:
    from dde.cli.ask import app

    names = [str(command.name) for command in app.registered_commands]
    assert names[:2] == ["reach", "best"]
    for name in names:
        code, out, _ = run(name, "--help")
        assert code == 0
        assert f"dde ask {name} data" in out.split("Examples:")[1]
