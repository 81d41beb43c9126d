"""Handle standard streams that are closed or can't be written: one line on stderr, and an exit code."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

__all__ = ["OutputError", "checked_streams"]

# Exit code that a shell reports for a program ended by SIGPIPE, such as one that writes to `head`.
_BROKEN_PIPE = 141


class OutputError(Exception):
    """Standard output can't be written.

    It is not a subclass of OSError, because commands handle OSError as an error of reading.
    """

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause.strerror or str(cause))
        self.errno = cause.errno


@contextmanager
def checked_streams() -> Iterator[None]:
    """End the command with one line if standard output can't be written; ignore failed writes to stderr.

    If the reader of a pipe closes it, as `head` does, the command ends without a message.
    """
    _reopen_closed_streams()
    original = sys.stdout, sys.stderr
    try:
        # Streams that were replaced, as in tests, are left as they are.
        if sys.stdout is sys.__stdout__:
            sys.stdout = _wrap(sys.stdout, raises=True)
        if sys.stderr is sys.__stderr__:
            sys.stderr = _wrap(sys.stderr, raises=False)
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
        sys.stdout, sys.stderr = original


class _CheckedStream(io.RawIOBase):
    """Raw stream whose failed writes raise OutputError, or are ignored.

    Parameters
    ----------
    raw : io.RawIOBase or io.BufferedWriter
        Stream to write to.
    raises : bool
        Whether a failed write raises OutputError.
    """

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


def _wrap(stream: Any, raises: bool) -> io.TextIOWrapper:
    """Return a text stream that writes to a standard stream and checks each write."""
    stream.flush()
    raw = _CheckedStream(getattr(stream.buffer, "raw", stream.buffer), raises)
    # Characters that the encoding can't represent are escaped rather than raising an error.
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.isatty(),
    )


def _reopen_closed_streams() -> None:
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
    """Discard buffered output, which the interpreter would otherwise try to write again when it ends."""
    with suppress(OSError):
        number = os.open(os.devnull, os.O_WRONLY)
        os.dup2(number, 1)
        os.close(number)
