"""Standard streams, and signals that end a command early: one line, the right exit code, nothing half written."""

from __future__ import annotations

import atexit
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

from dde.atomic_files import remove_unfinished, unfinished_targets

__all__ = [
    "OutputError",
    "checked_streams",
    "end_process",
    "ends_in_one_line",
    "stopped_at_end",
]

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


# What a shell reports of a program that SIGPIPE ended, as of most that write to `head`.
_BROKEN_PIPE = 141


class OutputError(Exception):
    """Standard output can't be written. No OSError, so that nobody takes it for one of reading."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause.strerror or str(cause))
        self.errno = cause.errno


@contextmanager
def checked_streams() -> Iterator[None]:
    """Write to standard output whole, or end in one line; remarks that nobody can read stop nothing.

    A reader that has seen enough, such as `head`, ends a command without a word.
    """
    _open_closed()
    before = sys.stdout, sys.stderr
    try:
        # Where something else stands in their place, such as in a test, it is left alone.
        if sys.stdout is sys.__stdout__:
            sys.stdout = _wrapped(sys.stdout, raises=True)
        if sys.stderr is sys.__stderr__:
            sys.stderr = _wrapped(sys.stderr, raises=False)
        try:
            yield
        finally:
            sys.stdout.flush()
    except OutputError as error:
        _discard_output()
        if error.errno == errno.EPIPE:
            raise SystemExit(_BROKEN_PIPE) from None
        with suppress(OSError):
            sys.stderr.write(f"error: standard output can't be written ({error}), so it is not whole.\n")
            sys.stderr.flush()
        raise SystemExit(1) from None
    finally:
        sys.stdout, sys.stderr = before


class _Raw(io.RawIOBase):
    """A stream whose failed writes raise OutputError, or are forgotten."""

    def __init__(self, raw: Any, raises: bool) -> None:
        self._raw, self._raises = raw, raises

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def isatty(self) -> bool:
        return bool(self._raw.isatty())

    def write(self, content: Any) -> int | None:
        try:
            return cast(int | None, self._raw.write(content))
        except OSError as error:
            if self._raises:
                raise OutputError(error) from None
            return len(content)


def _wrapped(stream: Any, raises: bool) -> io.TextIOWrapper:
    stream.flush()
    raw = _Raw(getattr(stream.buffer, "raw", stream.buffer), raises)
    # A name that the terminal has no letters for is spelled out; output does not end over it.
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.isatty(),
    )


def _open_closed() -> None:
    """Open streams that were closed when the process began, or files that it opens would get their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        # Writing to the first is an error, as it is to the closed stream; remarks may vanish.
        opened = os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        if number:
            stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO(number, "w", closefd=False)), encoding="utf-8")
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def _discard_output() -> None:
    """Let what is still to be written vanish: at its end the interpreter would fail on it again."""
    with suppress(OSError):
        number = os.open(os.devnull, os.O_WRONLY)
        os.dup2(number, 1)
        os.close(number)
