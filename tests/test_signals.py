"""Ctrl-C and SIGTERM: one line, the exit code that shells expect, and nothing half written left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from command_process import PATIENCE, environment, start, wait_until
from dde.cli.signals import exit_on_signals
from dde.tutorial import Suite

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc, to see what is caught")

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


@pytest.fixture(scope="module")
def suite(small_suite: Suite) -> Suite:
    return small_suite


def has_begun(process: subprocess.Popen[str]) -> bool:
    """Whether a command catches SIGTERM, which is the first thing that it does."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def ended(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """Send a signal, and return the only line that follows it; what was warned of before is no part of it."""
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == CODES[number], err
    lines = err.splitlines()
    assert [line for line in lines[:-1] if not line.startswith("warning: ")] == []
    return lines[-1]


@pytest.mark.parametrize("number", list(CODES))
@pytest.mark.parametrize("suffix", [".nc", ".zarr", ".parquet", ".csv"])
def test_a_file_that_is_being_written_is_gone(
    suite: Suite, tmp_path: Path, suffix: str, number: signal.Signals
) -> None:
    process = start("open", suite.data, suite.wandb, "--no-cache", "--to", f"sweep{suffix}", folder=tmp_path)
    wait_until(lambda: any(tmp_path.glob(f".sweep{suffix}.dde-*/new*")), process)
    assert ended(process, number) == f"error: {WORDS[number]}, so sweep{suffix} was not written"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("delay", [0.0, 0.4, 0.8, 1.2])
def test_filling_a_cache(suite: Suite, tmp_path: Path, delay: float) -> None:
    number = [signal.SIGINT, signal.SIGTERM][round(delay * 5) % 2]
    process = start("cache", "fill", suite.data, suite.wandb, "--cache-dir", "kept", folder=tmp_path)
    wait_until(lambda: has_begun(process), process)
    time.sleep(delay)
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    # On a fast machine it may be done.
    assert process.returncode in (0, CODES[number])
    said = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert said == ([] if process.returncode == 0 else [f"error: {WORDS[number]}"])
    assert not list(tmp_path.rglob(".making-*"))


@pytest.mark.parametrize("number", list(CODES))
@pytest.mark.parametrize("words", [["demo"], ["explore", "--no-browser"], ["ls", "{data}", "{wandb}"]], ids=str)
def test_every_command_ends_in_one_line(suite: Suite, tmp_path: Path, words: list[str], number: signal.Signals) -> None:
    process = start(*(word.format(data=suite.data, wandb=suite.wandb) for word in words), folder=tmp_path)
    wait_until(lambda: has_begun(process), process)
    assert ended(process, number) == f"error: {WORDS[number]}"
    assert not list(tmp_path.rglob(".making-*"))


@pytest.mark.parametrize("number", list(CODES))
def test_the_application_ends_while_it_serves(tiny_suite: Suite, tmp_path: Path, number: signal.Signals) -> None:
    words = ["explore", tiny_suite.data, tiny_suite.wandb, "--metrics", "arc_easy", "--no-cache", "--no-browser"]
    process = start(*words, folder=tmp_path, env=environment() | {"PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Exploring at ")
    assert ended(process, number) == f"error: {WORDS[number]}"


def test_a_signal_that_is_ignored_stays_ignored(suite: Suite, tmp_path: Path) -> None:
    process = start("ls", suite.data, folder=tmp_path, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    wait_until(lambda: has_begun(process), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert out.startswith("lineage\t")


def test_a_program_that_calls_the_command_line_keeps_its_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [signal.getsignal(number) for number in CODES]
    with exit_on_signals():
        assert [signal.getsignal(number) for number in CODES] != before
    assert [signal.getsignal(number) for number in CODES] == before


def test_an_old_file_is_put_back_where_a_new_one_had_not_taken_its_place(tmp_path: Path) -> None:
    code = """
import os, signal
from pathlib import Path
from dde.cli.signals import exit_on_signals
from dde.atomic_files import atomic_path
replace = os.replace
def interrupted(*places):
    os.kill(os.getpid(), signal.SIGINT)
os.replace = interrupted
with exit_on_signals(), atomic_path(Path("store")) as part:
    part.mkdir()
"""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "old").write_text("whole")
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert process.returncode == 130, process.stderr
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == ["store", "store/old"]
