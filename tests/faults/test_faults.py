"""Damaged files, killed processes and lost servers, a few of each; the scripts beside it try them at length."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from damaged_files import Store, is_fault, make_stores, try_damage
from killed_fills import try_kills
from lost_servers import try_losses

from postgres_server import PostgresServer


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Store]:
    return make_stores(tmp_path_factory.mktemp("stores"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_file_is_read_right_or_named(stores: list[Store], seed: int) -> None:
    for store in stores:
        _, outcome, details = try_damage(store, seed)
        assert not is_fault(store, outcome), f"{outcome}: {details}"


@pytest.mark.slow
def test_a_cache_whose_writers_were_killed_gives_what_the_sources_give(tmp_path: Path) -> None:
    killed, differences = try_kills(tmp_path, kills=6, seed=3)
    assert killed
    assert not differences


@pytest.mark.slow
def test_a_server_that_ends_sessions_gives_all_or_an_error(postgres: PostgresServer, tmp_path: Path) -> None:
    outcomes, faults = try_losses(postgres, tmp_path, tries=40, seed=5)
    assert not faults
    assert outcomes["error"]
