"""`dde` in a process of its own, as a shell starts it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROGRAM = [sys.executable, "-c", "from dde.cli import main; main()"]
#: Seconds that anything may take on a busy machine before a test gives up.
PATIENCE = 120


def environment() -> dict[str, str]:
    """The environment of a process that imports what the tests import."""
    kept = {k: v for k, v in os.environ.items() if k != "DDE_DB_CONNECTION"}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def start(*words: object, folder: Path, **options: Any) -> subprocess.Popen[str]:
    """Start a command in a folder; its output is collected unless `options` of Popen say otherwise."""
    usual = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment()}
    return subprocess.Popen([*PROGRAM, *map(str, words)], cwd=folder, text=True, **(usual | options))


def run(*words: object, folder: Path, **options: Any) -> tuple[int, str, str]:
    """Run a command to its end: its exit code, what it wrote, and its remarks."""
    process = start(*words, folder=folder, **options)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out or "", err or ""


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that a process does; it may have ended before."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and not is_so():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.002)
