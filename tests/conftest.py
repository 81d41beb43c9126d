"""Fixtures for all tests: a real PostgreSQL server, and the real samples where they are at hand."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from postgres_server import PostgresServer, running_server

_REAL_DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "real"


def pytest_configure() -> None:
    # A shell starts what it puts into the background with Ctrl-C ignored, and every process started by a test would
    # inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running server; ``postgres.new_database()`` gives the URL of an empty database."""
    with running_server() as server:
        yield server


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    """The URL of an empty database, of this test alone."""
    return postgres.new_database()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real samples; they are read where they are and never copied."""
    folder = _REAL_DATA.resolve()
    if not (folder / "runs_metadata.parquet").exists():
        pytest.skip("the real samples (../shared/data/real) are not here")
    return folder
