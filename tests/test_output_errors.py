"""Full disks, closed streams and readers that have seen enough: one line, and no half file."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import xarray as xr

import dde
from command_process import PATIENCE, run, start
from dde.errors import SourceError, UnknownNameError
from dde.plots.files import save_picture
from dde.tutorial import Suite

FULL = Path("/dev/full")
#: Enough values for files that are larger than the limits below.
FEW = ["--metrics", "arc_easy", "--metrics", "train_loss"]


@pytest.fixture(scope="module")
def suite(tiny_suite: Suite) -> Suite:
    return tiny_suite


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """As on a disk that is full: no file grows beyond some kilobytes, that of the tests' own output included."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))


COMMANDS = [["--help"], ["--version"], ["ls", "--help"], ["ls", "{data}", "{wandb}", "--no-cache"],
            ["coverage", "{data}", "{wandb}", "--no-cache"], ["cache", "size"],
            ["open", "{data}", *FEW[:2], "--no-cache"]]  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:2]))
@pytest.mark.parametrize("kind", ["closed", "full"])
def test_output_that_can_not_be_written_is_said_in_one_line(
    suite: Suite, tmp_path: Path, words: list[str], kind: str
) -> None:
    if kind == "full" and not FULL.exists():
        pytest.skip("there is no /dev/full")
    filled = [word.format(data=suite.data, wandb=suite.wandb) for word in words]
    if kind == "closed":
        code, _, err = run(*filled, folder=tmp_path, stdout=None, preexec_fn=lambda: os.close(1))
    else:
        with FULL.open("w") as full:
            code, _, err = run(*filled, folder=tmp_path, stdout=full)
    assert code == 1
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: standard output can't be written (")
    assert "Traceback" not in err
    assert "Exception ignored" not in err


def test_a_reader_that_has_seen_enough_ends_it_without_a_word(suite: Suite, tmp_path: Path) -> None:
    process = start("ls", suite.data, suite.wandb, "--runs", "--no-cache", folder=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        err = process.stderr.read()
    # What a shell reports of a program that SIGPIPE ended.
    assert process.wait(PATIENCE) == 141
    assert "standard output" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize("kind", ["closed", "full"])
def test_remarks_that_nobody_can_read_stop_nothing(suite: Suite, tmp_path: Path, kind: str) -> None:
    words = ["open", suite.data, suite.wandb, *FEW, "--no-cache", "--to", "sweep.csv"]
    if kind == "closed":
        code, out, _ = run(*words, folder=tmp_path, stderr=None, preexec_fn=lambda: os.close(2))
    else:
        with FULL.open("w") as full:
            code, out, _ = run(*words, folder=tmp_path, stderr=full)
    assert code == 0
    assert out.startswith("wrote ")
    assert (tmp_path / "sweep.csv").read_text().startswith("lineage_id,")


def test_an_error_of_reading_is_none_of_output(suite: Suite, tmp_path: Path) -> None:
    code, out, err = run("ls", "nowhere", folder=tmp_path, stdout=None, preexec_fn=lambda: os.close(1))
    assert (code, out) == (1, "")
    assert err.startswith("error: 'nowhere' does not exist")
    assert err.count("\n") == 1


def test_values_that_can_not_be_read_do_not_blame_the_file_that_is_written(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dde.cli.writing import write_dataset

    dataset = dde.open_lineages(suite.data, suite.wandb, cache_dir=None, metrics=["piqa"])

    def broken(*args: object, **kwargs: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("dde.dataset.lazy.BlockReader.block", broken)
    for suffix in (".zarr", ".nc", ".csv", ".parquet"):
        with pytest.raises(SourceError, match=r"values can't be read \(Input/output error\)"):
            write_dataset(dataset, tmp_path / f"sweep{suffix}", lambda done, total: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".nc", ".zarr", ".parquet", ".csv"])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(suite: Suite, tmp_path: Path, suffix: str) -> None:
    words = ["open", suite.data, suite.wandb, *FEW, "--no-cache", "--to", f"sweep{suffix}"]
    assert run(*words, folder=tmp_path)[0] == 0
    before = {p: p.stat().st_size for p in tmp_path.rglob("*")}
    code, out, err = run(*words, "--overwrite", folder=tmp_path, preexec_fn=small_files)
    assert (code, out) == (1, "")
    errors = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: sweep{suffix} can't be written (")
    assert "File too large" in errors[0]
    assert {p: p.stat().st_size for p in tmp_path.rglob("*")} == before


def test_a_netcdf_is_what_xarray_itself_writes(suite: Suite, tmp_path: Path) -> None:
    from dde.cli.writing import write_netcdf

    dataset = dde.open_lineages(suite.data, suite.wandb, cache_dir=None, metrics=["piqa", "train_loss"])
    blocks = dataset.assign({name: dataset.variables[name].chunk({"lineage": 2}) for name in dataset.data_vars})
    write_netcdf(blocks, tmp_path / "ours.nc")
    dataset.to_netcdf(tmp_path / "theirs.nc", engine="h5netcdf")
    with (
        xr.open_dataset(tmp_path / "ours.nc", engine="h5netcdf") as ours,
        xr.open_dataset(tmp_path / "theirs.nc", engine="h5netcdf") as theirs,
    ):
        xr.testing.assert_identical(ours.load(), theirs.load())


def test_a_picture_on_a_full_disk(suite: Suite, tmp_path: Path) -> None:
    dataset = dde.open_lineages(suite.data, suite.wandb, cache_dir=None, metrics=["piqa"], params="4M").load()
    picture = dataset.dde.plot("piqa", backend="matplotlib")
    with full_disk(), pytest.raises(OSError, match="File too large"):
        save_picture(picture, tmp_path / "piqa.svg")
    with full_disk(), pytest.raises(OSError, match="File too large"):
        dde.tutorial.open_lineages("tiny", cache_dir=tmp_path / "kept")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


# A cache that can't be filled


@pytest.mark.parametrize("kind", ["full", "no folder"])
def test_a_cache_that_keeps_nothing_fails(suite: Suite, tmp_path: Path, kind: str) -> None:
    (tmp_path / "kept").write_text("no folder") if kind == "no folder" else None
    limit = small_files if kind == "full" else None
    words = ["cache", "fill", suite.data, suite.wandb, "--cache-dir", "kept"]
    code, out, err = run(*words, folder=tmp_path, preexec_fn=limit)
    assert (code, out) == (1, "")
    said = [line for line in err.splitlines() if not line.startswith("warning: 1 repeated rows")]
    assert len(said) == 1
    assert said[0].startswith("error: the cache ")
    assert "were not stored" in said[0]
    assert not list(tmp_path.rglob(".making-*"))


def test_a_cache_of_sources_that_are_not_kept_fails(parsed_suite: Suite, tmp_path: Path) -> None:
    repository = dde.DataDecideEvolved(parsed_suite.data, None, cache_dir=tmp_path / "kept").repository
    with pytest.raises(UnknownNameError, match="a cache stores nothing of these sources"):
        repository.fill_cache()


def test_a_damaged_page_is_one_line(own_suite: Suite, tmp_path: Path) -> None:
    shard = next(Path(own_suite.data).rglob("train-00000-of-*.parquet"))
    with shard.open("r+b") as file:
        file.seek(shard.stat().st_size // 2)
        file.write(bytes(64))
    for words in (["cache", "fill"], ["open"]):
        more = ["--no-cache", "--metrics", "arc_easy", "--to", "x.csv"] if words == ["open"] else []
        code, _, err = run(*words, own_suite.data, own_suite.wandb, *more, folder=tmp_path)
        assert code == 1
        assert err.count("\n") == 1
        assert err.startswith("error: ")
        assert "x.csv can't be written" not in err
