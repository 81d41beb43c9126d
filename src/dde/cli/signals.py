"""What ends a command early: one line, nothing half written left behind, and the exit code that shells expect."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from dde.whole_files import remove_unfinished, unfinished_targets

__all__ = ["end_process", "ends_in_one_line", "stopped_at_end"]

_WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "the terminal is gone"}

#: What has to be stopped first: displays that hide the cursor.
_DISPLAYS: list[Callable[[], object]] = []


@contextmanager
def ends_in_one_line() -> Iterator[None]:
    """End the process by one line on stderr when Ctrl-C is pressed, or it is asked to terminate.

    The process ends within the handler, with 128 and the signal's number (130 for Ctrl-C, 143 for SIGTERM). Were it
    an exception, as Python has it, libraries in C would swallow it in their callbacks, and the event loops of other
    threads would complain of each task that they lose.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {}
    for name in _WORDS:
        number = getattr(signal, name, None)
        # One that is ignored stays so: nohup, and jobs in the background of a script.
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_process(code: object) -> None:
    """End the process at once, with what is registered to be done at its end.

    The interpreter takes its time to tear itself down, and takes back handlers of signals before it does.
    """
    if code is None or isinstance(code, int):
        atexit._run_exitfuncs()
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit((code or 0) & 0xFF)


@contextmanager
def stopped_at_end(stop: Callable[[], object]) -> Iterator[None]:
    """Have a display stopped where a signal ends the process."""
    _DISPLAYS.append(stop)
    try:
        yield
    finally:
        _DISPLAYS.remove(stop)


def _end(number: int, frame: object) -> None:
    for name in _WORDS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    for stop in _DISPLAYS:
        with suppress(Exception):
            stop()
    missing = ", ".join(dict.fromkeys(path.name for path in unfinished_targets()))
    with suppress(OSError):
        line = f"error: {_WORDS[signal.Signals(number).name]}" + (f", so {missing} was not written" if missing else "")
        os.write(2, f"{line}\n".encode(errors="backslashreplace"))
    remove_unfinished()
    os._exit(128 + number)
