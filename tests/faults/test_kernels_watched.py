"""Kernels under the sanitizers of addresses and of undefined behaviour, and texts from a generator of damage."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from dict_texts import CORPUS, compare, fuzz
from sanitized import has_compiler, run_sanitized

TESTS = Path(__file__).parents[1]


def test_odd_texts_are_read_as_python_reads_them() -> None:
    assert not compare(list(CORPUS), [False] * len(CORPUS)).differences


@pytest.mark.parametrize("seed", range(3))
def test_generated_texts_are_read_as_python_reads_them(seed: int) -> None:
    outcome = fuzz(seed, 4_000)
    assert not outcome.differences
    # Three in ten are damaged, and most of these are no dict of numbers.
    assert 600 < outcome.malformed < 1_200


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="GCC with its sanitizers is not here")
def test_kernels_touch_nothing_outside_of_their_arrays() -> None:
    assert run_sanitized([str(TESTS / "faults" / "dict_texts.py"), "--texts=10000", "--seed=7"]) == 0
    modules = [str(TESTS / f"test_{name}.py") for name in ("kernels", "dict_text")]
    # Processes that tests start would load the other kernels.
    chosen = ["-k", "not (whole_suite or left_out or outlives or other_sources)"]
    assert run_sanitized([*modules, *chosen, "-q", "-p", "no:cacheprovider"]) == 0


@pytest.mark.skipif(not has_compiler(), reason="GCC with its sanitizers is not here")
def test_an_access_outside_of_an_array_is_seen(tmp_path: Path) -> None:
    script = tmp_path / "test_outside.py"
    script.write_text(
        "import numpy as np\n"
        "from dde.native.library import kernels\n"
        "def test_it():\n"
        "    data, keys = (np.frombuffer(text, np.uint8) for text in (b\"{'a': 1}\", b'a'))\n"
        "    offsets, sizes = np.array([0, 8]), np.array([0, 1], np.int32)\n"
        "    far, out = np.array([100_000]), np.zeros(1)\n"
        "    kernels().dde_parse_dicts(data, offsets, 1, keys, sizes, 1, far, out, 1, np.zeros(1, np.uint8))\n"
    )
    assert run_sanitized([str(script), "-q", "-p", "no:cacheprovider"]) != 0
