"""Intervals of means: they cover what they claim, equal SciPy's, and are chosen by the number of members."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from dde.curves.statistics import INTERVAL_METHODS, STATISTICS, bootstrap_interval, summarize
from dde.errors import UnknownNameError

LOW, HIGH = STATISTICS.index("low"), STATISTICS.index("high")
NONE_REQUIRED = np.array(1)


def coverage(n: int, method: str) -> float:
    """Return the share of 20,000 normal samples of `n` whose 95 % interval holds their true mean."""
    samples = np.random.default_rng(n).normal(3.0, 2.0, size=(20_000, n))
    found = summarize(samples, NONE_REQUIRED, 0.95, method)  # type: ignore[arg-type]
    return float(((found[:, LOW] <= 3.0) & (found[:, HIGH] >= 3.0)).mean())


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_students_t_covers_what_it_claims(n: int) -> None:
    assert 0.93 < coverage(n, "t") < 0.97


@pytest.mark.parametrize("n", [2, 3, 5])
def test_few_members_get_an_interval_that_covers_what_it_claims(n: int) -> None:
    assert 0.93 < coverage(n, "auto") < 0.97


@pytest.mark.parametrize(("n", "share"), [(2, 0.50), (3, 0.75), (5, 0.84), (10, 0.90), (30, 0.93)])
def test_the_bootstrap_covers_what_its_docstring_says(n: int, share: float) -> None:
    # Less than is claimed: the docstring of bootstrap_interval lists these numbers.
    assert coverage(n, "bootstrap") == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95, 0.999])
@pytest.mark.parametrize("n", [2, 3, 7, 12])
def test_students_t_equals_scipy(n: int, level: float) -> None:
    samples = np.random.default_rng(n).normal(size=(40, n))
    truth = stats.ttest_1samp(samples, 0.0, axis=1).confidence_interval(level)
    found = summarize(samples, NONE_REQUIRED, level, "t")
    np.testing.assert_allclose(found[:, LOW], truth.low, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found[:, HIGH], truth.high, rtol=1e-9, atol=1e-12)


def test_auto_decides_by_the_members_that_have_a_value_in_each_cell() -> None:
    samples = np.random.default_rng(0).normal(size=(4, 12))
    samples[1, :2] = np.nan  # 10 are left
    samples[2, :3] = np.nan  # 9 are left
    samples[3, 1:] = np.nan  # 1 is left
    auto, by_t, drawn = (summarize(samples, NONE_REQUIRED, 0.95, m) for m in ("auto", "t", "bootstrap"))
    np.testing.assert_array_equal(auto[:2], drawn[:2])
    np.testing.assert_array_equal(auto[2], by_t[2])
    assert not np.array_equal(by_t[:3, LOW:], drawn[:3, LOW:])
    assert np.isnan([auto[3, LOW:], by_t[3, LOW:], drawn[3, LOW:]]).all()
    np.testing.assert_array_equal(drawn[1, LOW:], bootstrap_interval(samples[1:2, 2:], 0.95)[0])
    np.testing.assert_array_equal(summarize(samples, NONE_REQUIRED, 0.95), auto)


@pytest.mark.parametrize("method", INTERVAL_METHODS)
@pytest.mark.parametrize("n", [2, 3, 11])
def test_equal_members_have_an_interval_of_no_width(n: int, method: str) -> None:
    # The mean of three times 0.1 is not 0.1 in floating point.
    found = summarize(np.full((1, n), 0.1), NONE_REQUIRED, 0.95, method)[0]  # type: ignore[arg-type]
    named = dict(zip(STATISTICS, found.tolist(), strict=True))
    assert named["std"] == named["sem"] == 0.0
    assert named["low"] == named["high"] == named["mean"] == pytest.approx(0.1)


@pytest.mark.parametrize("method", INTERVAL_METHODS)
def test_without_a_level_there_are_no_bounds(method: str) -> None:
    found = summarize(np.random.default_rng(0).normal(size=(2, 3)), NONE_REQUIRED, None, method)  # type: ignore[arg-type]
    assert np.isnan(found[:, LOW:]).all()
    assert np.isfinite(found[:, :LOW]).all()


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"bootstrp.*Did you mean.*bootstrap"):
        summarize(np.ones((1, 3)), NONE_REQUIRED, 0.95, "bootstrp")  # type: ignore[arg-type]


def test_importing_the_statistics_does_not_import_scipy() -> None:
    code = "import sys, dde.curves.statistics; assert 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
