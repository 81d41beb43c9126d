"""A stand-in for S3 on this machine: a real server in a process of its own, and a count of what it is asked for."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Requests", "counted_requests", "running_s3"]


@contextmanager
def running_s3(log: Path) -> Iterator[str]:
    """Yield the address of a server that lasts as long as the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=output, stderr=output
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except urllib.error.HTTPError as error:
                error.close()
                break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        server.kill()
        server.wait()


class Requests:
    """Requests by their names, and the bytes that came and went with them."""

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()
        self.keys: list[tuple[str, str]] = []
        self.read = 0
        self.written = 0

    @property
    def count(self) -> int:
        return self.names.total()


@contextmanager
def counted_requests() -> Iterator[Requests]:
    """Count what this process asks of S3."""
    import s3fs

    requests = Requests()
    genuine = s3fs.S3FileSystem._call_s3

    async def noted(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        requests.names[method] += 1
        requests.keys.append((method, str(kwargs.get("Key", kwargs.get("Prefix", "")))))
        if (body := kwargs.get("Body")) is not None and hasattr(body, "__len__"):
            requests.written += len(body)
        answer = await genuine(self, method, *args, **kwargs)
        if method == "get_object":
            requests.read += int(answer["ContentLength"])
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "_call_s3", noted)
        yield requests
