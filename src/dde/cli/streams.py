"""Handle signals and failed standard streams: one line on stderr, the right exit code, no partial files."""

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

#: Functions that stop displays which hide the cursor; called before a signal ends the process.
_DISPLAYS: list[Callable[[], object]] = []


@contextmanager
def ends_in_one_line() -> Iterator[None]:
    """End the process with one line on stderr on Ctrl-C, SIGTERM or SIGHUP.

    The process ends within the handler, with 128 plus the signal's number (130 for Ctrl-C, 143 for SIGTERM). An
    exception, as Python raises by default, would be swallowed by callbacks of C libraries, and event loops of other
    threads would report each of their lost tasks.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {}
    for name in _WORDS:
        number = getattr(signal, name, None)
        # Ignored signals stay ignored, as under nohup and in background jobs of scripts.
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_process(code: object) -> None:
    """Run the functions registered with `atexit`, and end the process at once.

    The regular shutdown of the interpreter takes long, and restores the default signal handlers first.
    """
    if code is None or isinstance(code, int):
        atexit._run_exitfuncs()
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit((code or 0) & 0xFF)


@contextmanager
def stopped_at_end(stop: Callable[[], object]) -> Iterator[None]:
    """Within the block, stop a display if a signal ends the process."""
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


# Exit code that a shell reports for a program ended by SIGPIPE, such as one that writes to `head`.
_BROKEN_PIPE = 141


class OutputError(Exception):
    """Standard output can't be written. It is not an OSError, so that it is not mistaken for an error of reading."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause.strerror or str(cause))
        self.errno = cause.errno


@contextmanager
def checked_streams() -> Iterator[None]:
    """End the command with one line if standard output can't be written; ignore failed writes to stderr.

    If the reader of a pipe closes it, as `head` does, the command ends without a message.
    """
    _open_closed()
    before = sys.stdout, sys.stderr
    try:
        # Streams that were replaced, as in tests, are left as they are.
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
            sys.stderr.write(f"error: standard output can't be written ({error}), so it is incomplete.\n")
            sys.stderr.flush()
        raise SystemExit(1) from None
    finally:
        sys.stdout, sys.stderr = before


class _Raw(io.RawIOBase):
    """A stream whose failed writes raise OutputError or are ignored."""

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
    # Characters that the encoding can't represent are escaped rather than raising an error.
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.isatty(),
    )


def _open_closed() -> None:
    """Open standard streams that were closed at the start; otherwise new files would get their descriptors."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        # Writing to this stdout fails, as with the closed stream; writes to stderr are discarded.
        opened = os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        if number:
            stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO(number, "w", closefd=False)), encoding="utf-8")
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def _discard_output() -> None:
    """Discard buffered output; otherwise the interpreter would fail on it again at its end."""
    with suppress(OSError):
        number = os.open(os.devnull, os.O_WRONLY)
        os.dup2(number, 1)
        os.close(number)
