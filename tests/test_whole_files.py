"""Files that appear whole: under no name that can be guessed, through no link, with the usual permissions."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dde.atomic_files import atomic_path
from dde.cache.storage import Storage

OLD = time.time() - 3600


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_what_is_written_takes_its_place_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    target.write_text("old")
    with atomic_path(target) as part:
        part.write_text("new")
        assert target.read_text() == "old"
        assert part.parent.stat().st_mode & 0o777 == 0o700, "nobody else can put anything there"
    assert target.read_text() == "new"
    assert names(tmp_path) == ["table.csv"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "store.zarr"
    target.mkdir()
    (target / "old").write_text("old")

    def write_half() -> None:
        with atomic_path(target) as part:
            part.mkdir()
            (part / "new").write_text("half")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        write_half()
    assert names(tmp_path) == ["store.zarr", "store.zarr/old"]


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    target = tmp_path / "store.zarr"
    (target / "deep").mkdir(parents=True)
    with atomic_path(target) as part:
        part.mkdir()
        (part / "new").write_text("whole")
    assert names(tmp_path) == ["store.zarr", "store.zarr/new"]


def test_a_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "work.csv").mkdir()
    (tmp_path / "work.csv" / "thesis").write_text("years")
    with pytest.raises(OSError, match="directory"), atomic_path(tmp_path / "work.csv") as part:
        part.write_text("new")
    assert names(tmp_path) == ["work.csv", "work.csv/thesis"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_file(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with atomic_path(tmp_path / "a.csv") as part:
            part.write_text("")
        with atomic_path(tmp_path / "a.zarr") as part:
            part.mkdir()
        Storage(tmp_path / "cache").write({"kept": b""})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.csv").stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE((tmp_path / "a.zarr").stat().st_mode) == 0o777 & ~mask
    assert stat.S_IMODE((tmp_path / "cache" / "kept").stat().st_mode) == 0o666 & ~mask


def test_a_link_in_the_place_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("years")
    (tmp_path / "a.csv").symlink_to(tmp_path / "precious")
    with atomic_path(tmp_path / "a.csv") as part:
        part.write_text("new")
    assert (tmp_path / "precious").read_text() == "years"
    assert not (tmp_path / "a.csv").is_symlink()
    Storage(tmp_path).write({"a.csv": b"newer"})
    assert (tmp_path / "a.csv").read_bytes() == b"newer"


def test_names_can_not_be_guessed(tmp_path: Path) -> None:
    seen = set()
    for _ in range(20):
        with atomic_path(tmp_path / "a.csv") as part:
            part.write_text("")
            seen.add(part.parent.name)
    assert len(seen) == 20
    assert not any(str(os.getpid()) in name.removeprefix(".a.csv.dde-") for name in seen)


def test_a_cache_writes_through_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Guessed:
        hex = "0" * 32

    monkeypatch.setattr("dde.cache.storage.uuid.uuid4", Guessed)
    (tmp_path / "precious").write_text("years")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f".making-{'0' * 16}").symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError):
        Storage(tmp_path / "cache").write({"kept": b"new"})
    assert (tmp_path / "precious").read_text() == "years"


def test_a_cleared_cache_leaves_what_its_links_point_to(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("years")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "tables").symlink_to(tmp_path / "elsewhere")
    (Storage(tmp_path / "cache") / "tables").remove()
    assert names(tmp_path) == ["cache", "elsewhere", "elsewhere/precious"]


# What writers leave that are killed

_KILLED = """
import sys, time
from pathlib import Path
from dde.atomic_files import atomic_path
with atomic_path(Path(sys.argv[1])) as part:
    part.write_text("half")
    print("writing", flush=True)
    time.sleep(1000)
"""


def writer(target: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(target)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def test_what_a_killed_writer_has_left_goes_with_the_next_one(tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    kill(writer(target))
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".a.csv.dde-")
    alive = writer(target)
    try:
        for folder in tmp_path.iterdir():
            os.utime(folder, (OLD, OLD))
        with atomic_path(target) as part:
            part.write_text("whole")
        assert not left.exists()
        # A writer that lives keeps what it has, however long it takes.
        assert len(list(tmp_path.glob(".a.csv.dde-*/new.csv"))) == 1
        assert target.read_text() == "whole"
    finally:
        kill(alive)


def test_an_old_folder_that_a_killed_writer_had_moved_is_put_back(tmp_path: Path) -> None:
    left = tmp_path / ".a.zarr.dde-x"
    (left / "old").mkdir(parents=True)
    (left / "old" / "precious").write_text("years")
    os.utime(left, (OLD, OLD))
    with pytest.raises(RuntimeError, match="halfway"), atomic_path(tmp_path / "a.zarr"):
        raise RuntimeError("halfway")
    assert names(tmp_path) == ["a.zarr", "a.zarr/precious"]


def test_folders_of_other_files_and_links_stay(tmp_path: Path) -> None:
    for name in (".a.csv", ".ab.csv.dde-x", "a.csv.dde-x"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (OLD, OLD))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("years")
    (tmp_path / ".a.csv.dde-link").symlink_to(tmp_path / "elsewhere")
    before = names(tmp_path)
    with atomic_path(tmp_path / "a.csv") as part:
        part.write_text("")
    assert names(tmp_path) == sorted([*before, "a.csv"])


def test_a_temporary_suite_lies_in_a_folder_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dde.tutorial
    from dde.errors import DdeError

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dde.tutorial.open_repository("tiny", cache_dir=None)
    (folder,) = tmp_path.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (tmp_path / "elsewhere").mkdir()
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DdeError, match="is not a folder"):
        dde.tutorial.open_repository("tiny", cache_dir=None)
