"""Kernels that watch every access to memory and every undefined operation, and Python with them.

``python tests/faults/sanitized.py tests/test_kernels.py`` runs tests, or a script, so. Needs GCC.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "src" / "dde" / "native"
_FLAGS = "-std=c11 -O1 -g -fPIC -shared -ffp-contract=off -fno-math-errno -fno-omit-frame-pointer".split()
_WATCHED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

# Started by run_sanitized, in a process of its own.
_START = """
import runpy, sys
from pathlib import Path
import dde.native.library as library
library._LIBRARY = Path(sys.argv[1])
assert library.is_compiled(), "the watched kernels can't be loaded"
sys.argv = sys.argv[2:]
if sys.argv[0].endswith("dict_texts.py"):
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    import pytest
    sys.exit(pytest.main(sys.argv))
"""


def has_compiler() -> bool:
    """Return whether a GCC with the two sanitizers is here."""
    return shutil.which("gcc") is not None and all(os.path.isabs(_runtime(name)) for name in ("asan", "ubsan"))


def _runtime(name: str) -> str:
    # GCC gives the bare name back where it has no such library.
    asked = ["gcc", f"-print-file-name=lib{name}.so"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def compile_watched(target: Path) -> None:
    """Compile the kernels so that an access outside of an array, or undefined arithmetic, ends the process."""
    sources = map(str, sorted(FOLDER.glob("*.c")))
    subprocess.run(["gcc", *_FLAGS, *_WATCHED, *sources, "-lm", "-o", str(target)], check=True)


def run_sanitized(arguments: list[str]) -> int:
    """Run a script of this folder, or pytest, with watched kernels; return its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "kernels.watched"
        compile_watched(library)
        surroundings = {
            **os.environ,
            "LD_PRELOAD": f"{_runtime('asan')} {_runtime('ubsan')}",
            # What the interpreter keeps to its end is no leak of ours.
            "ASAN_OPTIONS": "detect_leaks=0",
            # Arrays and texts of their own: pools would hide where one ends.
            "PYTHONMALLOC": "malloc",
            "ARROW_DEFAULT_MEMORY_POOL": "system",
        }
        started = [sys.executable, "-c", _START, str(library), *arguments]
        return subprocess.run(started, env=surroundings, check=False).returncode


if __name__ == "__main__":
    sys.exit(run_sanitized(sys.argv[1:]))
