"""Serve the application, on loopback by default and without fetching anything from elsewhere."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from dde.errors import DdeError

__all__ = ["is_loopback", "origins_of", "serve"]


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach an address.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    return address in ("localhost", "::1") or address.startswith("127.")


def origins_of(address: str, port: int) -> list[str]:
    """Return the origins from which pages may connect to a server: those of its own address.

    Examples
    --------
    >>> origins_of("127.0.0.1", 5006)
    ['127.0.0.1:5006', 'localhost:5006']
    """
    if is_loopback(address):
        names = [address, "localhost"]
    elif address in ("0.0.0.0", "::"):
        names = ["localhost", "127.0.0.1", socket.gethostname(), socket.getfqdn()]
    else:
        names = [address]
    return [f"{name}:{port}" for name in dict.fromkeys(names)]


def serve(make_page: Callable[[], Any], address: str, port: int, title: str, ready: Callable[[str], None]) -> None:
    """Serve a page until the process ends; each browser session has its own.

    Parameters
    ----------
    make_page : callable
        Returns a new page.
    address : str
    port : int
        0 for any free port.
    title : str
    ready : callable
        Called with the address of the page once it can be opened.

    Raises
    ------
    DdeError
        When the address or the port is not available.
    """
    from panel.io.server import get_server

    port = port or _free_port(address)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server = get_server(
            make_page, port=port, address=address, websocket_origin=origins_of(address, port), title=title, start=False
        )
    except OSError as error:
        raise DdeError(
            f"{address}:{port} can't be served on ({error.strerror or error}), so there is no page. "
            "Choose another --port, or an --address of this machine."
        ) from error
    server.start()
    _ignore_closed_sessions(server.io_loop)
    if threading.current_thread() is threading.main_thread():
        # The server handles Ctrl-C itself; how the process ends is the decision of its caller.
        loop: Any = server.io_loop
        for number, handler in handlers.items():
            with suppress(NotImplementedError):
                loop.asyncio_loop.remove_signal_handler(number)
            signal.signal(number, handler)
    host = socket.gethostname() if address in ("0.0.0.0", "::") else address
    failed: list[Exception] = []

    def say_ready() -> None:
        try:
            ready(f"http://{host}:{port}/")
        except Exception as error:
            # The loop would only log the error, and serve a page whose address nobody knows.
            failed.append(error)
            server.io_loop.stop()

    try:
        server.io_loop.add_callback(say_ready)
        server.io_loop.start()
    finally:
        server.stop()
    if failed:
        raise failed[0]


def _ignore_closed_sessions(io_loop: Any) -> None:
    """Log nothing when a message can't be sent because the browser left.

    Panel does not wait for the last messages to a session that it destroys, so that asyncio would report each as a
    task whose exception was never retrieved, with a traceback. All other errors are logged as before.
    """
    from tornado.websocket import WebSocketClosedError

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), WebSocketClosedError):
            loop.default_exception_handler(context)

    io_loop.asyncio_loop.set_exception_handler(handle)


def _free_port(address: str) -> int:
    try:
        with socket.socket() as probe:
            probe.bind((address, 0))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise DdeError(
            f"{address} can't be served on ({error.strerror or error}), so there is no page. "
            "Pass an --address of this machine, such as 127.0.0.1."
        ) from error
