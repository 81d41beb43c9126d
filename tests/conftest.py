"""Fixtures for all tests: a PostgreSQL server, generated suites, the real samples; and the markers of the subsets."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import dde
from browser import running_chromium
from dde.native import processors
from postgres_server import PostgresServer, running_server
from samples import sample_folder

if TYPE_CHECKING:
    from dde.tutorial import Suite

#: Modules of the fast subset, ``pytest -m fast``: every layer is represented, and it takes less than 30 s.
FAST = {
    "test_alignment",
    "test_dict_text",
    "test_layers",
    "test_formats",
    "test_html",
    "test_names",
    "test_patterns",
    "test_rules",
    "test_run_graph",
    "test_start",
    "test_statistics",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    # Each has suites, a browser and a server of its own.
    return min(processors(), 4)


def pytest_configure() -> None:
    # A shell starts what it puts into the background with Ctrl-C ignored, and every process started by a test would
    # inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # Importing all test modules takes longer than the fast subset itself.
    is_other = collection_path.suffix == ".py" and collection_path.stem not in FAST
    return True if is_other and config.option.markexpr == "fast" else None


# Before -m chooses by the markers.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name in {"postgres", "browser"}.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(name)
        if item.path.stem in FAST and not any(map(item.get_closest_marker, ("slow", "browser", "postgres"))):
            item.add_marker("fast")


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
def tiny_suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """The generated suite `tiny` of seed 0, for tests that only read it."""
    return dde.tutorial.make_suite(tmp_path_factory.mktemp("suites") / "tiny", "tiny")


@pytest.fixture(scope="session")
def small_suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """The generated suite `small` of seed 0, for tests that only read it."""
    return dde.tutorial.make_suite(tmp_path_factory.mktemp("suites") / "small", "small")


@pytest.fixture(scope="session")
def parsed_suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """The suite `tiny` with the wide table that `datadec` writes, for tests that only read it."""
    folder = tmp_path_factory.mktemp("suites") / "parsed"
    return dde.tutorial.make_suite(folder, "tiny", formats=("parsed",))


@pytest.fixture
def own_suite(tiny_suite: Suite, tmp_path: Path) -> Suite:
    """A copy of the suite `tiny`, for a test that changes its files."""
    folder = tmp_path / "suite"
    shutil.copytree(tiny_suite.path, folder)
    return replace(tiny_suite, path=folder, data=str(folder / "datadecide"), wandb=str(folder / "wandb"))


# Playwright leaves its event loop running in this thread, where other modules start loops of their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A running Chromium; skips the test where none is installed."""
    with running_chromium() as chromium:
        yield chromium


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real samples of DataDecide."""
    return sample_folder("real")
