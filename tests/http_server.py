"""An HTTP server of this machine that lists folders, serves ranges of files, and asks for a user and password."""

from __future__ import annotations

import base64
import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

__all__ = ["running_http"]


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *args: Any, credentials: str, **options: Any) -> None:
        self._wanted = "Basic " + base64.b64encode(credentials.encode()).decode()
        super().__init__(*args, **options)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        if self._is_allowed():
            super().do_HEAD()

    def do_GET(self) -> None:
        if not self._is_allowed():
            return
        asked = self.headers.get("Range", "")
        path = Path(self.translate_path(self.path))
        if not asked or not path.is_file():
            super().do_GET()
            return
        content = path.read_bytes()
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, len(content) - int(last))
        end = min(int(last) + 1, len(content)) if first and last else len(content)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        self.wfile.write(content[start:end])

    def _is_allowed(self) -> bool:
        if self.headers.get("Authorization") == self._wanted:
            return True
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False


@contextmanager
def running_http(folder: Path, credentials: str) -> Iterator[str]:
    """Serve a folder to whoever gives ``user:password``; yields host and port."""
    handler = functools.partial(_Handler, directory=str(folder), credentials=credentials)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
