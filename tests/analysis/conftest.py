"""Tests of answers share one folder for generated suites, and expect the contradictory row that these contain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:.*repeated rows:dde.errors.DdeWarning"))


@pytest.fixture(scope="session")
def answers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("answers")


@pytest.fixture(scope="module", autouse=True)
def in_answers_folder(answers_folder: Path) -> Iterator[None]:
    """Work in a temporary folder: dde.tutorial writes its suites and their cache to the current one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(answers_folder)
        yield
