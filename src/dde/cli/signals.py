"""End the process on signals: one line on stderr, the exit code that shells expect, no partial files."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from dde.atomic_files import remove_unfinished, unfinished_targets

__all__ = ["end_process", "exit_on_signals", "stop_on_signal"]

# Handled signals, and what the line on stderr says of them.
_SIGNAL_TEXTS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "the terminal is gone"}

# Functions to call before a signal ends the process.
_STOP_FUNCTIONS: list[Callable[[], object]] = []


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """End the process with one line on stderr on Ctrl-C, SIGTERM or SIGHUP.

    The process ends within the handler, with 128 plus the signal's number (130 for Ctrl-C, 143 for SIGTERM). An
    exception, as Python raises by default, would be swallowed by callbacks of C libraries, and event loops of other
    threads would report each of their lost tasks. In threads other than the main one, signals can't be handled, and
    nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous: dict[signal.Signals, Any] = {}
    for name in _SIGNAL_TEXTS:
        number = getattr(signal, name, None)
        # Ignored signals stay ignored, as under nohup and in background jobs of scripts.
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            previous[number] = signal.signal(number, _exit_on_signal)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def end_process(code: object) -> None:
    """Run the functions registered with `atexit`, and end the process without the shutdown of the interpreter.

    The shutdown takes long, and first restores the default signal handlers.

    Parameters
    ----------
    code : object
        Argument of `SystemExit`. If it is neither None nor an int, this returns: the interpreter prints it.
    """
    if code is None or isinstance(code, int):
        # A private function of CPython; the interpreter calls it at its regular end.
        atexit._run_exitfuncs()
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit((code or 0) & 0xFF)


@contextmanager
def stop_on_signal(stop: Callable[[], object]) -> Iterator[None]:
    """Call `stop` if a signal ends the process within the block, as for a display that hides the cursor."""
    _STOP_FUNCTIONS.append(stop)
    try:
        yield
    finally:
        _STOP_FUNCTIONS.remove(stop)


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    """Stop displays, name the files that were not written, remove their parts, and end the process."""
    # A second signal must not interrupt this.
    for name in _SIGNAL_TEXTS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    for stop in _STOP_FUNCTIONS:
        with suppress(Exception):
            stop()
    missing = ", ".join(dict.fromkeys(path.name for path in unfinished_targets()))
    with suppress(OSError):
        line = f"error: {_SIGNAL_TEXTS[signal.Signals(number).name]}" + (
            f", so {missing} was not written" if missing else ""
        )
        os.write(2, f"{line}\n".encode(errors="backslashreplace"))
    remove_unfinished()
    os._exit(128 + number)
