"""Every example in a docstring runs and gives what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import dde

# The hook runs where wheels are made, with what is installed there, and is in none of them.
MODULES = sorted(m.name for m in pkgutil.walk_packages(dde.__path__, "dde.") if not m.name.endswith(".hatch_build"))


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # One folder for all: the tutorial suite is made once.
    folder = tmp_path_factory.getbasetemp() / "docstrings"
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    results = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert results.failed == 0


def test_examples_run_where_methods_have_copied_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method has the docstring of its function from its first use on; the example must not need the function."""
    import xarray as xr

    from dde.accessor import methods, questions
    from dde.accessor.functions import FUNCTIONS

    monkeypatch.chdir(tmp_path)
    for accessor in (xr.Dataset().dde, xr.DataArray(0).dde):
        for name in FUNCTIONS:
            getattr(accessor, name, None)
    for module in (methods, questions):
        results = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        assert results.failed == 0
        assert results.attempted > 20


def test_public_names_have_examples_or_say_why() -> None:
    for name in dde.__all__:
        thing = getattr(dde, name)
        assert thing.__doc__, name
        if callable(thing) and name not in (
            "TrainingRun",
            "PretrainingRun",
            "PosttrainingRun",
            "DataDecide",
            "WandBStore",
            "ingest",
        ):
            assert ">>>" in thing.__doc__, name


def test_no_module_is_out_of_proportion() -> None:
    root = Path(dde.__file__).parent
    sizes = {p.relative_to(root).as_posix(): len(p.read_text().splitlines()) for p in root.rglob("*.py")}
    assert max(sizes.values()) <= 700, sizes
