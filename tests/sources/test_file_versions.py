"""Versions of files: any change of content changes them, and a read of a file that changes is refused."""

from __future__ import annotations

import os
import time
from pathlib import Path

import fsspec
import pytest

from dde.errors import SourceError
from dde.sources.file_versions import check_version, file_version, reading_one_version

LOCAL = fsspec.filesystem("file")


def overwrite(path: Path, content: bytes) -> None:
    """Write other content of the same size, and set the times back."""
    # Kernels give times in ticks of some milliseconds: what is written twice within one has the same.
    time.sleep(0.02)
    times = os.stat(path)
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_the_same_size_and_time_with_other_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"0" * 100_000)
    version = file_version(LOCAL, str(path))
    assert file_version(LOCAL, str(path)) == version
    overwrite(path, b"1" + b"0" * 99_999)
    assert file_version(LOCAL, str(path)) != version
    with pytest.raises(SourceError, match="was changed since it was opened"):
        check_version(LOCAL, str(path), version)


def test_a_replaced_file_of_the_same_size_and_time(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"old")
    version = file_version(LOCAL, str(path))
    other.write_bytes(b"new")
    os.utime(other, ns=(os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns))
    other.replace(path)
    assert file_version(LOCAL, str(path)) != version


def test_objects_without_an_entity_tag() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/versions/a", b"old")
    try:
        version = file_version(memory, "/versions/a")
        check_version(memory, "/versions/a", version)
        memory.store["/versions/a"].seek(0)
        memory.store["/versions/a"].write(b"new")
        with pytest.raises(SourceError, match="was changed"):
            check_version(memory, "/versions/a", version)
    finally:
        memory.rm("/versions", recursive=True)


def test_a_change_during_a_read_is_the_error(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    version = file_version(LOCAL, str(path))
    with reading_one_version(LOCAL, str(path), version):
        pass
    with pytest.raises(ZeroDivisionError), reading_one_version(LOCAL, str(path), version):
        raise ZeroDivisionError

    def fail_after_a_change() -> None:
        overwrite(path, b"new")
        raise ZeroDivisionError

    with pytest.raises(SourceError, match="was changed"), reading_one_version(LOCAL, str(path), version):
        fail_after_a_change()
    version = file_version(LOCAL, str(path))
    with pytest.raises(SourceError, match="was changed"), reading_one_version(LOCAL, str(path), version):
        overwrite(path, b"old")
    path.unlink()
    with pytest.raises(SourceError, match="has been removed"):
        check_version(LOCAL, str(path), version)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    dangling, loop, pipe = tmp_path / "dangling", tmp_path / "loop", tmp_path / "pipe"
    dangling.symlink_to(tmp_path / "absent")
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    for path in (dangling, loop, pipe, tmp_path, tmp_path / "absent"):
        with pytest.raises(SourceError, match=str(path)):
            file_version(LOCAL, str(path))
