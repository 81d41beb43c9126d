"""The command line as its users meet it: output, files, exit codes, and nothing secret on the screen."""

from __future__ import annotations

import inspect
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

import dde
from dde.cli import main
from dde.cli import writing as cli_writing
from dde.tutorial import Suite

SECRET = "hunter2"


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def suite(tiny_suite: Suite) -> Suite:
    return tiny_suite


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Ran]:
    """Run a command in an empty folder, as a script would: its output goes to a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DDE_DB_CONNECTION", raising=False)

    def run_command(*words: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["dde", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        code = ended.value.code
        return Ran(code if isinstance(code, int) else 0 if code is None else 1, captured.out, captured.err)

    return run_command


def table(ran: Ran) -> pd.DataFrame:
    assert ran.code == 0, ran.err
    return pd.read_csv(io.StringIO(ran.out), sep="\t", keep_default_na=False, dtype=str)


# Help and version


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"dde {dde.__version__}\n", "")


@pytest.mark.parametrize(
    "command", ["demo", "ls", "coverage", "open", "plot", "ingest", "cache size", "cache compact", "cache clear"]
)
def test_help_of_every_command_has_an_example_that_names_it(run: Run, command: str) -> None:
    ran = run(*command.split(), "--help")
    assert ran.code == 0
    assert "Examples:\n" in ran.out
    assert f"dde {command}" in ran.out.split("Examples:\n")[1]


def test_help_of_all_lists_the_commands(run: Run) -> None:
    ran = run("--help")
    for command in ("demo", "ls", "coverage", "open", "plot", "ingest", "cache"):
        assert f"\n  {command} " in ran.out
    assert "DDE_DB_CONNECTION" in ran.out


# Tables


def test_ls_lists_lineages(run: Run, suite: Suite) -> None:
    listed = table(run("ls", suite.data, suite.wandb, "--state", "all"))
    opened = dde.open_lineages(suite.data, suite.wandb, state="all", cache_dir=None, metrics=["train_loss"])
    assert listed["lineage"].tolist() == opened.lineage.values.tolist()
    derived = (opened.run_id.values[:, 1:] != "").sum(axis=1)
    assert listed["runs"].astype(int).tolist() == derived.tolist()
    ends = listed.set_index("lineage")["base_end_tokens"]
    for row in suite.bases.itertuples():
        assert int(ends[row.lineage]) == row.last_tokens


def test_ls_lists_runs_whole(run: Run, suite: Suite) -> None:
    ran = run("ls", suite.data, suite.wandb, "--runs", "--params", "150M", "--method", "supervised_ft")
    listed = table(ran)
    opened = dde.open_lineages(
        suite.data, suite.wandb, params="150M", method="supervised_ft", cache_dir=None, metrics=["train_loss"]
    )
    assert listed["run_id"].tolist() == [r for r in opened.run_id.values.ravel().tolist() if r]
    derived = listed[listed["run"] != "pretraining"]
    np.testing.assert_array_equal(
        derived["end_tokens"].astype(np.int64), opened.end_tokens.values[:, 1:][opened.run_id.values[:, 1:] != ""]
    )
    assert "\x1b" not in ran.out
    assert "…" not in ran.out


def test_ls_shows_a_table_with_whole_ids_on_a_terminal(run: Run, suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: self is sys.stdout)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    ran = run("ls", suite.data, suite.wandb, "--runs", "--params", "150M", "--learning-rate", "5e-6")
    assert "…" not in ran.out
    cells = [[c.strip() for c in line.split("│")] for line in ran.out.splitlines() if "│" in line]
    # Long ids go on in the next line, in the same column.
    folded = "".join(row[2] for row in cells)
    wanted = dde.open_lineages(
        suite.data, suite.wandb, params="150M", learning_rate=5e-6, cache_dir=None, metrics=["train_loss"]
    )
    for run_id in filter(None, wanted.run_id.values.ravel().tolist()):
        assert run_id in folded


@pytest.mark.parametrize(
    ("options", "filters"),
    [
        (["--learning-rate", "5e-6"], {"learning_rate": 5e-6}),
        (["--learning-rate", "0.000005", "--learning-rate", "5e-5"], {"learning_rate": [5e-6, 5e-5]}),
        (["--learning-rate", "1e-6:1e-5"], {"learning_rate": slice(1e-6, 1e-5)}),
        (["--learning-rate", ":1e-5"], {"learning_rate": slice(None, 1e-5)}),
        (["--data", "dolma17", "--seed", "0"], {"data": "Dolma1.7", "seed": 0}),
        (["--seed", "small aux 2"], {"seed": 1}),
        (["--params", "4M", "--params", "150M"], {"params": ["4M", "150M"]}),
        (["--where", "finetune_tokens=1e8", "--where", "epochs=1"], {"finetune_tokens": 1e8, "epochs": 1}),
        (["--where", "reduce_loss=sum"], {"reduce_loss": "sum"}),
        (["--method", "dpo", "--state", "all"], {"method": "dpo", "state": "all"}),
        (["--state", "finished", "--state", "crashed"], {"state": ["finished", "crashed"]}),
    ],
)
def test_options_mean_the_filters_of_open_lineages(
    run: Run, suite: Suite, options: list[str], filters: dict[str, object]
) -> None:
    listed = table(run("ls", suite.data, suite.wandb, "--runs", *options))
    opened = dde.open_lineages(suite.data, suite.wandb, cache_dir=None, metrics=["train_loss"], **filters)
    assert listed["run_id"].tolist() == [r for r in opened.run_id.values.ravel().tolist() if r]


def test_what_was_left_out_is_said(run: Run, suite: Suite) -> None:
    ran = run("ls", suite.data, suite.wandb)
    assert "left out: " in ran.err
    assert "state crashed: 1" in ran.err


def test_coverage_tells_of_every_run(run: Run, suite: Suite) -> None:
    listed = table(run("coverage", suite.data, suite.wandb))
    frame = dde.DataDecideEvolved(suite.data, suite.wandb, cache_dir=None).repository.coverage()
    assert listed["run_id"].tolist() == frame["run_id"].tolist()
    assert listed["status"].tolist() == frame["status"].tolist()
    others = table(run("coverage", suite.data, suite.wandb, "--status", "!used"))
    assert others["run_id"].tolist() == frame.loc[frame["status"] != "used", "run_id"].tolist()
    crashed = table(run("coverage", suite.data, suite.wandb, "--status", "state *"))
    assert crashed["status"].str.startswith("state ").all()
    everything = table(run("coverage", suite.data, suite.wandb, "--state", "all"))
    assert not everything["status"].str.startswith("state ").any()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_coverage_to_a_file(run: Run, suite: Suite, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"coverage{suffix}"
    assert run("coverage", suite.data, suite.wandb, "--to", path).code == 0
    read = pd.read_csv(path, keep_default_na=False, na_values=[""]) if suffix == ".csv" else pd.read_parquet(path)
    frame = dde.DataDecideEvolved(suite.data, suite.wandb, cache_dir=None).repository.coverage()
    assert read["run_id"].tolist() == frame["run_id"].tolist()
    np.testing.assert_array_equal(read["end_tokens"], frame["end_tokens"])


# Opening


def test_open_prints_the_dataset(run: Run, suite: Suite) -> None:
    ran = run("open", suite.data, suite.wandb, "--params", "4M", "--metrics", "piqa", "--grid", "7")
    assert ran.code == 0
    assert ran.out.startswith("<xarray.Dataset>")
    # Seven points, and those where runs branch off, end and were evaluated last.
    assert "cumulative_tokens: 11" in ran.out
    assert "piqa" in ran.out


OPEN = ("--params", "150M", "--metrics", "arc_easy", "--metrics", "train_loss", "--interp", "log")


def expected(suite: Suite) -> xr.Dataset:
    return dde.open_lineages(
        suite.data, suite.wandb, params="150M", metrics=["arc_easy", "train_loss"], interp="log", cache_dir=None
    ).load()


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
def test_open_writes_the_dataset_as_it_is(run: Run, suite: Suite, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"sweep{suffix}"
    ran = run("open", suite.data, suite.wandb, *OPEN, "--to", path)
    assert ran.code == 0, ran.err
    wanted = expected(suite)
    engine = {"engine": "zarr", "consolidated": False} if suffix == ".zarr" else {"engine": "h5netcdf"}
    with xr.open_dataset(path, **engine) as read:  # type: ignore[arg-type]
        for name, values in wanted.data_vars.items():
            np.testing.assert_array_equal(read[name], values)
            assert read[name].attrs == values.attrs
        for name in wanted.coords:
            assert read[name].values.tolist() == wanted[name].values.tolist() or wanted[name].dtype.kind == "f"
        assert read.attrs == wanted.attrs


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_open_writes_the_long_table(run: Run, suite: Suite, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"sweep{suffix}"
    assert run("open", suite.data, suite.wandb, *OPEN, "--to", path).code == 0
    wanted = expected(suite).dde.to_frame()
    text = {name for name in wanted if not pd.api.types.is_numeric_dtype(wanted[name])}
    if suffix == ".csv":
        read = pd.read_csv(path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values={
            name: [""] for name in set(wanted) - text
        })  # fmt: skip
    else:
        read = pd.read_parquet(path)
    pd.testing.assert_frame_equal(read, wanted, check_dtype=False)


def test_open_writes_several_blocks_as_one(
    run: Run, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_writing, "_BLOCK", 1)
    assert run("open", suite.data, suite.wandb, *OPEN, "--to", "sweep.zarr").code == 0
    with xr.open_zarr(tmp_path / "sweep.zarr", consolidated=False) as read:
        assert read.arc_easy.variable.chunksizes["lineage"] == (1,) * read.sizes["lineage"]
        np.testing.assert_array_equal(read.arc_easy, expected(suite).arc_easy)


def test_files_are_replaced_only_when_asked(run: Run, suite: Suite, tmp_path: Path) -> None:
    for name in ("sweep.csv", "sweep.zarr"):
        words = ["open", suite.data, suite.wandb, "--params", "4M", "--metrics", "piqa", "--to", name]
        assert run(*words).code == 0
        refused = run(*words)
        assert refused.code == 1
        assert refused.err == f"error: {name} exists, so nothing was written. Pass --overwrite to replace it.\n"
        assert run(*words, "--overwrite").code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data_cache", "sweep.csv", "sweep.zarr"]


def test_a_folder_that_is_no_store_is_never_replaced(run: Run, suite: Suite, tmp_path: Path) -> None:
    (tmp_path / "thesis.zarr").mkdir()
    (tmp_path / "thesis.zarr" / "chapter.txt").write_text("years of work")
    ran = run("open", suite.data, suite.wandb, "--to", "thesis.zarr", "--overwrite")
    assert ran.code == 1
    assert (tmp_path / "thesis.zarr" / "chapter.txt").read_text() == "years of work"


@pytest.mark.parametrize("suffix", [".zarr", ".nc", ".csv", ".parquet"])
def test_a_write_that_fails_leaves_what_was_there(
    run: Run, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    words = ["open", suite.data, suite.wandb, "--params", "4M", "--metrics", "piqa", "--to", f"sweep{suffix}"]
    assert run(*words).code == 0
    before = sorted((p.relative_to(tmp_path), p.stat().st_size) for p in tmp_path.glob(f"sweep{suffix}/**/*"))

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dde.dataset.lazy.BlockReader.block", full)
    ran = run(*words, "--overwrite", "--no-cache")
    assert ran.code == 1
    assert ran.err.startswith(f"error: sweep{suffix} can't be written (No space left on device)")
    assert sorted((p.relative_to(tmp_path), p.stat().st_size) for p in tmp_path.glob(f"sweep{suffix}/**/*")) == before
    assert (tmp_path / f"sweep{suffix}").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_netcdf_without_its_packages_says_what_to_install(
    run: Run, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_writing, "find_spec", lambda name: None)
    ran = run("open", suite.data, suite.wandb, "--to", "sweep.nc")
    assert ran.code == 1
    assert "pip install 'dde[netcdf]'" in ran.err


# Stores


def test_the_store_may_come_from_the_environment(run: Run, suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    named = run("ls", suite.data, suite.wandb, "--runs")
    monkeypatch.setenv("DDE_DB_CONNECTION", suite.wandb)
    assert run("ls", suite.data, "--runs").out == named.out


def test_one_store_alone(run: Run, suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = table(run("ls", suite.data))
    assert set(tables["lineage"]) == set(suite.bases["lineage"])
    runs = table(run("ls", "-", suite.wandb, "--runs"))
    assert (runs["run_type"] == "supervised_ft").any()


def test_ingest_then_the_database_is_what_the_folder_was(
    run: Run, suite: Suite, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run("ingest", suite.wandb, database)
    assert first.code == 0, first.err
    assert f"{len(suite.runs)} runs added" in first.out
    assert f"{len(suite.runs)} unchanged" in run("ingest", suite.wandb, database).out
    words = ["--runs", "--state", "all"]
    wanted = run("ls", suite.data, suite.wandb, *words).out
    assert run("ls", suite.data, database, *words).out == wanted
    # Two words name two stores; one word and the environment name one.
    monkeypatch.setenv("DDE_DB_CONNECTION", database)
    assert run("ls", suite.data, *words).out == wanted
    assert run("ls", database, *words).code == 0
    assert run("ls", database, database).code == 2


# Mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ls", "nowhere"], "'nowhere' does not exist"),
        (["ls", "{data}", "nowhere"], "'nowhere' does not exist"),
        (["ls", "{data}", "{wandb}", "--data", "Dolmo1.7"], "Did you mean"),
        (["ls", "{data}", "{wandb}", "--params", "1B"], "no lineage of these stores matches"),
        (["ls", "{data}", "{wandb}", "--learning-rate", "0.5"], "no run in state finished"),
        (["ls", "{data}", "{wandb}", "--where", "epoch=2"], "Did you mean epochs"),
        (["ls", "{data}", "{wandb}", "--state", "finnished"], "Did you mean finished"),
        (["open", "{data}", "{wandb}", "--metrics", "arc_eazy"], "Did you mean arc_easy"),
        (["open", "{data}", "{wandb}", "--grid", "autp"], "Did you mean auto"),
        (["open", "{data}", "{wandb}", "--interp", "lineer"], "Did you mean linear"),
        (["open", "{data}", "{wandb}", "--to", "no/folder/x.csv"], "does not exist"),
        (["plot", "{data}", "{wandb}", "--y", "arc_eazy"], "Did you mean arc_easy"),
        (["plot", "{data}", "{wandb}", "--y", "arc_easy", "--hue-by", "leraning_rate"], "Did you mean learning_rate"),
        (["plot", "{data}", "{wandb}", "--y", "arc_easy", "--legend", "left"], "'right', 'bottom', 'top' or 'off'"),
        (["plot", "{data}", "{wandb}", "--y", "arc_easy", "--to", "no/folder/x.pdf"], "does not exist"),
        (["ingest", "nowhere", "postgresql://localhost/x"], "'nowhere' does not exist"),
        (["ingest", "{wandb}", "{data}"], "is not a database"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(run: Run, suite: Suite, words: list[str], message: str) -> None:
    ran = run(*(word.format(data=suite.data, wandb=suite.wandb) for word in words))
    assert ran.code == 1
    assert ran.out == ""
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert message in ran.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ls"], "Missing argument"),
        (["lss"], "No such command"),
        (["ls", "-"], "neither DATA nor DB"),
        (["ls", "{data}", "{wandb}", "--learning-rate", "low"], "neither a number nor a range"),
        (["ls", "{data}", "{wandb}", "--learning-rate", "1e-6:1e-5", "--learning-rate", "1e-4"], "can't be combined"),
        (["ls", "{data}", "{wandb}", "--where", "epochs"], "not NAME=VALUE"),
        (["ls", "{data}", "{wandb}", "--where", "data=C4"], "use --data C4"),
        (["open", "{data}", "{wandb}", "--grid", "0"], "a grid of 0 points is empty"),
        (["open", "{data}", "{wandb}", "--grid", "1,two"], "two"),
        (["open", "{data}", "{wandb}", "--to", "sweep.xlsx"], ".zarr, .nc, .parquet, .csv"),
        (["coverage", "{data}", "{wandb}", "--to", "coverage.zarr"], ".csv, .parquet"),
        (["plot", "{data}", "{wandb}", "--to", "sweep.jpg"], ".png, .svg, .pdf, .html"),
        (["plot", "{data}", "{wandb}", "--size", "6.5"], "not WIDTHxHEIGHT"),
        (["plot", "{data}", "{wandb}", "--ylim", "0.5"], "not LOW:HIGH"),
        (["plot", "{data}", "{wandb}", "--label", "arc_easy"], "not NAME=TEXT"),
        (["plot", "{data}", "{wandb}", "--order", "a,b", "--order", "c"], "need the names of their coordinates"),
        (["plot", "{data}", "{wandb}", "--caption", "Mine", "--no-caption"], "Pass one of them"),
        (["ingest", "{wandb}", "postgresql://localhost/x", "--layout", "0.2"], "neither '0.1' nor 'old'"),
    ],
)
def test_wrong_usage_is_exit_code_2(run: Run, suite: Suite, words: list[str], message: str) -> None:
    ran = run(*(word.format(data=suite.data, wandb=suite.wandb) for word in words))
    assert ran.code == 2
    assert ran.out == ""
    assert message in " ".join(ran.err.split())
    assert "Traceback" not in ran.err


def test_what_is_no_mistake_of_the_user_keeps_its_traceback(
    run: Run, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("dde.cli.ls.lineage_table", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        run("ls", suite.data, suite.wandb)


def test_warnings_are_one_line_each(run: Run, suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    from dde.cli.ls import lineage_table
    from dde.errors import ConflictWarning

    def warned(dataset: xr.Dataset) -> pd.DataFrame:
        warnings.warn("two rows\ndisagree", ConflictWarning, stacklevel=2)
        return lineage_table(dataset)

    monkeypatch.setattr("dde.cli.ls.lineage_table", warned)
    ran = run("ls", suite.data, suite.wandb)
    assert ran.code == 0
    assert ran.err.startswith("warning: two rows disagree\n")


@pytest.mark.parametrize(
    "dsn", [f"postgresql://ada:{SECRET}@127.0.0.1:1/x", f"host=127.0.0.1 port=1 password={SECRET}"]
)
@pytest.mark.parametrize(
    "words",
    [
        ["ls", "{data}", "{dsn}"],
        ["ls", "{dsn}"],
        ["ls", "{dsn}", "{dsn}"],
        ["ls", "{data}", "{data}", "{dsn}"],
        ["{dsn}"],
        ["{dsn}", "--help"],
        ["coverage", "{data}", "{dsn}"],
        ["open", "{data}", "{dsn}", "--to", "x.csv"],
        ["open", "{data}", "{wandb}", "--metrics", "{dsn}"],
        ["open", "{data}", "{wandb}", "--max-points", "{dsn}"],
        ["open", "{data}", "{wandb}", "--to", "{dsn}"],
        ["ls", "{data}", "{wandb}", "--params", "{dsn}"],
        ["ls", "{data}", "{wandb}", "--learning-rate", "{dsn}"],
        ["ls", "{data}", "{wandb}", "--where", "{dsn}"],
        ["ingest", "{wandb}", "{dsn}"],
        ["ingest", "{dsn}", "{dsn}"],
        ["cache", "{dsn}"],
    ],
)
def test_no_credential_is_echoed(run: Run, suite: Suite, words: list[str], dsn: str) -> None:
    ran = run(*(word.format(data=suite.data, wandb=suite.wandb, dsn=dsn) for word in words))
    assert ran.code in (1, 2)
    assert SECRET not in ran.out + ran.err


def test_no_credential_of_the_environment_is_echoed(run: Run, suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDE_DB_CONNECTION", f"postgresql://ada:{SECRET}@127.0.0.1:1/x")
    for words in (["ls", suite.data], ["ls", "--help"], ["ingest", suite.wandb], ["ls"]):
        ran = run(*words)
        assert SECRET not in ran.out + ran.err


# Cache


def test_cache_is_shown_and_cleared(run: Run, suite: Suite, tmp_path: Path) -> None:
    assert table(run("cache", "size")).empty
    assert run("open", suite.data, suite.wandb, "--metrics", "piqa", "--to", "x.csv").code == 0
    (tmp_path / "data_cache" / "mine.txt").write_text("not dde's")
    listed = table(run("cache", "size"))
    assert (listed["bytes"].astype(int) > 0).all()
    assert {"name", "kind", "bytes", "files", "last_used"} == set(listed)
    cleared = run("cache", "clear")
    assert cleared.code == 0
    assert cleared.out.startswith("freed ")
    assert table(run("cache", "size")).empty
    assert (tmp_path / "data_cache" / "mine.txt").exists()


def test_cache_is_filled(run: Run, suite: Suite) -> None:
    filled = run("cache", "fill", suite.data, suite.wandb, "--metric", "arc_easy", "--metric", "train_loss")
    assert filled.out.startswith("2 metrics of ")
    kinds = set(table(run("cache", "size"))["kind"])
    assert {"pretraining evaluations", "training logs", "final evaluations"} <= kinds


def test_many_segments_are_pointed_out(run: Run, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for metric in ("arc_easy", "piqa"):
        assert run("open", suite.data, suite.wandb, "--metrics", metric, "--to", f"{metric}.csv").code == 0
    assert "segments" not in run("cache", "size").err
    count = len(list((tmp_path / "data_cache" / "tables").glob("*/*.zarr")))
    monkeypatch.setattr("dde.cli.cache._MANY_SEGMENTS", count - 1)
    assert f"has {count} segments, which makes reading slow; `dde cache compact` merges" in run("cache", "size").err
    run("cache", "compact")
    assert "segments" not in run("cache", "size").err


def test_cache_is_compacted(run: Run, suite: Suite, tmp_path: Path) -> None:
    assert run("cache", "compact").out == "compacted 0 segments into 0 in data_cache\n"
    for metric in ("arc_easy", "piqa", "boolq"):
        assert run("open", suite.data, suite.wandb, "--metrics", metric, "--to", f"{metric}.csv").code == 0
    assert len(list((tmp_path / "data_cache" / "tables").rglob("values"))) >= 3
    done = run("cache", "compact")
    assert done.code == 0
    assert done.out.startswith("compacted ")
    assert len(list((tmp_path / "data_cache" / "tables").rglob("values"))) == 1
    (tmp_path / "file").write_text("")
    assert run("cache", "compact", "--cache-dir", "file").code == 0
    assert run("open", suite.data, suite.wandb, "--metrics", "boolq", "--to", "again.csv").code == 0
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "boolq.csv").read_bytes()


def test_no_cache_keeps_nothing(run: Run, suite: Suite, tmp_path: Path) -> None:
    assert run("open", suite.data, suite.wandb, "--metrics", "piqa", "--to", "x.csv", "--no-cache").code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.csv"]


# The demonstration, and a pipe, as processes of their own


# Pictures

PLOT = ["--params", "150M", "--y", "arc_easy"]


def test_plot_writes_what_python_draws(run: Run, suite: Suite, tmp_path: Path) -> None:
    words = ["--seed", "0", "--x", "post_tokens", "--hue-by", "epochs", "--style-by", "none", "--facet-by", "data",
             "--no-branches", "--title", "A sweep", "--label", "epochs=passes", "--palette", "red", "--palette", "blue",
             "--palette", "green", "--size", "6.5x4", "--font-size", "8", "--ylim", "0.2:", "--legend", "bottom",
             "--caption", "Of two models."]  # fmt: skip
    ran = run("plot", suite.data, suite.wandb, *PLOT, *words, "--to", "fig.svg", "--to", "fig.pdf")
    assert ran.code == 0, ran.err
    assert ran.out == "wrote fig.svg\nwrote fig.pdf\n"
    assert ran.err.startswith("left out: ")
    dataset = dde.open_lineages(suite.data, suite.wandb, cache_dir=None, params="150M", seed=0, metrics=["arc_easy"])
    picture = dataset.dde.plot(
        "arc_easy", "post_tokens", hue_by="epochs", style_by=None, facet_by="data", mark_branches=False,
        title="A sweep", labels={"epochs": "passes"}, palette=["red", "blue", "green"], size=(6.5, 4), font_size=8,
        ylim=(0.2, None), legend="bottom", caption="Of two models.",
    )  # fmt: skip
    for name in ("fig.svg", "fig.pdf"):
        assert (tmp_path / name).read_bytes() == dde.save(picture, tmp_path / "python" / name).read_bytes()


def test_plot_names_its_file_and_replaces_it_only_when_told(run: Run, suite: Suite, tmp_path: Path) -> None:
    words = ["plot", suite.data, suite.wandb, *PLOT, "--seed", "0", "--data", "Dolma1.7", "--no-zoom"]
    assert run(*words).out == "wrote arc_easy.png\n"
    before = (tmp_path / "arc_easy.png").read_bytes()
    ran = run(*words, "--title", "Another")
    assert (ran.code, ran.out) == (1, "")
    assert "arc_easy.png exists, so nothing was written. Pass --overwrite" in ran.err
    assert (tmp_path / "arc_easy.png").read_bytes() == before
    assert run(*words, "--title", "Another", "--overwrite", "--dpi", "60").code == 0
    with Image.open(io.BytesIO(before)) as first, Image.open(tmp_path / "arc_easy.png") as second:
        assert second.width < first.width / 2


def test_plot_warns_once_for_several_formats(run: Run, suite: Suite, tmp_path: Path) -> None:
    words = [*PLOT, "--seed", "0", "--data", "Dolma1.7", "--relative-to", "base", "--log-y"]
    ran = run("plot", suite.data, suite.wandb, *words, "--to", "a.png", "--to", "a.html", "--to", "a.svg")
    assert ran.code == 0, ran.err
    warned = [line for line in ran.err.splitlines() if line.startswith("warning: ")]
    assert len(warned) == len(set(warned)) == 1
    assert sorted(p.name for p in tmp_path.glob("a.*")) == ["a.html", "a.png", "a.svg"]


def test_plot_has_the_options_of_python(run: Run) -> None:
    listed = run("plot", "--help").out
    others = {"self", "backend", "frame_size", "mark_branches", "labels", "caption"}
    for name in set(inspect.signature(xr.Dataset.dde.plot).parameters) - others:
        assert f" --{name.replace('_', '-')} " in listed, name
    for option in ("--branches", "--label", "--caption", "--no-caption"):
        assert f" {option} " in listed


@pytest.mark.slow
def test_demo_goes_from_nothing_to_a_picture(run: Run, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", "from dde.cli import main; main()", "demo"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "\x1b" not in ran.stdout + ran.stderr
    said = ran.stdout
    folder = Path("data_cache/demo")
    for wanted in ("41 lineages", "Left out, by reason:", "state crashed", "<xarray.Dataset>", "left_out"):
        assert wanted in said
    for name in ("sweep.html", "sweep.png"):
        assert str(folder / name) in said
        assert (tmp_path / folder / name).stat().st_size > 10_000
    assert [p.name for p in tmp_path.iterdir()] == ["data_cache"], "all that it makes is in the cache folder"
    with Image.open(tmp_path / folder / "sweep.png") as image:
        assert image.width > 1500
    suites = list((tmp_path / folder / "tutorial").iterdir())
    made = {p: p.stat().st_mtime_ns for p in suites[0].rglob("*")}
    # A second time, the suite is there already, and what is said is the same.
    assert run("demo")[:2] == (0, said)
    assert {p: p.stat().st_mtime_ns for p in suites[0].rglob("*")} == made


def test_a_reader_that_has_seen_enough_is_no_error(suite: Suite, tmp_path: Path) -> None:
    words = ["ls", suite.data, suite.wandb, "--runs", "--no-cache"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from dde.cli import main; main()", *words],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=60)
    assert "Traceback" not in said
