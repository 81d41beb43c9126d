"""The standard streams: output that can't be written is an error of its own, and is said in one line."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

__all__ = ["OutputError", "checked_streams"]

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
