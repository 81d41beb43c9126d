"""What starting costs: the command line and `import dde` leave heavy packages alone until something needs them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

#: Packages that take most of the time of a command that reads data.
HEAVY = {"xarray", "pandas", "numpy", "pyarrow", "zarr", "dask", "scipy", "psycopg", "holoviews", "bokeh", "matplotlib"}


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)


def imported_by(*arguments: str) -> tuple[str, set[str]]:
    """Run the command line in a fresh process: what it prints, and the packages that it has imported by then."""
    code = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: sys.stderr.write(json.dumps(sorted(sys.modules))))\n"
        "sys.argv[0] = 'dde'\n"
        "from dde.cli import main\n"
        "main()\n"
    )
    done = run_python(code, *arguments)
    return done.stdout, {name.partition(".")[0] for name in json.loads(done.stderr)}


@pytest.mark.parametrize(("option", "begins"), [("--version", "dde "), ("--help", "Usage: dde [OPTIONS] COMMAND")])
def test_version_and_help_import_nothing_heavy(option: str, begins: str) -> None:
    printed, packages = imported_by(option)
    assert printed.startswith(begins)
    assert "typer" in packages
    assert packages & HEAVY == set()


def test_a_command_that_reads_data_imports_what_it_needs() -> None:
    # Else the test above would pass on a list that is always empty.
    printed, packages = imported_by("cache", "size", "--help")
    assert printed.startswith("Usage: dde cache size")
    assert packages >= {"xarray", "pandas", "numpy"}


def test_dde_alone_imports_no_xarray() -> None:
    code = "import json, sys, dde; print(dde.__version__); print(json.dumps(sorted(sys.modules)))"
    version, modules = run_python(code).stdout.splitlines()
    assert version[:1].isdigit()
    assert {name.partition(".")[0] for name in json.loads(modules)} & HEAVY == set()


@pytest.mark.parametrize(
    "imports",
    [
        "import xarray as xr, dde",
        "import dde, xarray as xr",
        "import dde; from xarray import Dataset",
        "import dde.accessor",
    ],
)
def test_the_accessors_are_there_in_either_order(imports: str) -> None:
    code = (
        f"import sys; {imports}\n"
        "import xarray as xr\n"
        "from dde.accessor import DdeDataArrayAccessor, DdeDatasetAccessor\n"
        "assert type(xr.Dataset().dde) is DdeDatasetAccessor\n"
        "assert type(xr.DataArray().dde) is DdeDataArrayAccessor\n"
        "print([f for f in sys.meta_path if type(f).__module__.startswith('dde')])\n"
        "print(type(xr.__spec__.loader).__name__, xr.__loader__ is xr.__spec__.loader)\n"
    )
    assert run_python(code).stdout == "[]\nSourceFileLoader True\n"


def test_looking_for_xarray_imports_nothing() -> None:
    # hvplot and dask look whether xarray is installed before they use it.
    code = (
        "import sys, importlib.util, dde\n"
        "spec = importlib.util.find_spec('xarray')\n"
        "print('xarray' in sys.modules, spec.loader.get_filename('xarray') == spec.origin)\n"
        "import xarray\n"
        "print(hasattr(xarray.Dataset, 'dde'))\n"
    )
    assert run_python(code).stdout == "False True\nTrue\n"


def test_an_import_of_xarray_that_fails_is_tried_again() -> None:
    code = (
        "import sys, dde\n"
        "sys.modules['pandas'] = None\n"
        "try:\n"
        "    import xarray\n"
        "except ImportError as error:\n"
        "    print(error.name)\n"
        "del sys.modules['pandas']\n"
        "import xarray\n"
        "print(hasattr(xarray.Dataset, 'dde'))\n"
    )
    assert run_python(code).stdout == "pandas\nTrue\n"
