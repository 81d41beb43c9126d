"""The checks by name, and examining runs by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import pandas as pd

from dde.doctor.branches import find_branches_off_rows, find_branches_off_values
from dde.doctor.counters import (
    find_falling_counters,
    find_irregular_steps,
    find_jumping_counters,
    find_lagging_counters,
    find_other_rates,
    find_rows_beyond_schedule,
)
from dde.doctor.examined_runs import ExaminedRuns, Finding, findings_frame
from dde.doctor.examined_suite import examined_suite_runs
from dde.doctor.identical import find_duplicate_logs, find_identical_rows
from dde.doctor.outliers import find_outliers
from dde.errors import UnknownNameError, near_names
from dde.suite.datadecide.examined_stores import examined_store_runs
from dde.suite.datadecide.runs.registry import Registry

if TYPE_CHECKING:
    from dde.suite.suite_runs import SuiteRuns

__all__ = ["CHEAP_CHECKS", "CHECKS", "examine"]

#: Function of each check, the most serious first.
CHECKS: Mapping[str, Callable[[ExaminedRuns], Iterator[Finding]]] = MappingProxyType(
    {
        "counter_falls": find_falling_counters,
        "duplicate_log": find_duplicate_logs,
        "identical_rows": find_identical_rows,
        "counter_lags": find_lagging_counters,
        "counter_jumps": find_jumping_counters,
        "counter_rate": find_other_rates,
        "branch_row": find_branches_off_rows,
        "branch_value": find_branches_off_values,
        "beyond_schedule": find_rows_beyond_schedule,
        "step_spacing": find_irregular_steps,
        "outlier": find_outliers,
    }
)
#: Checks that read no values.
CHEAP_CHECKS = (
    "counter_falls",
    "counter_lags",
    "counter_jumps",
    "counter_rate",
    "branch_row",
    "beyond_schedule",
    "step_spacing",
)


def examine(
    runs: Registry | SuiteRuns,
    checks: str | Iterable[str] | None = None,
    metrics: str | Iterable[str] | None = None,
    outliers: bool = False,
) -> pd.DataFrame:
    """Return what checks find in runs; see :meth:`dde.RunRepository.doctor`.

    Parameters
    ----------
    runs : Registry or SuiteRuns
        Runs of the two stores of DataDecide, or of a declared suite.
    checks, metrics, outliers
        As for :meth:`dde.RunRepository.doctor`.

    Returns
    -------
    pandas.DataFrame
        A row per finding.

    Raises
    ------
    UnknownNameError
        When there is no such check or metric; names the nearest ones.
    """
    wanted = choose_checks(checks, outliers)
    examined = examined_store_runs(runs, metrics) if isinstance(runs, Registry) else examined_suite_runs(runs, metrics)
    return findings_frame((finding for name in wanted for finding in CHECKS[name](examined)), list(CHECKS))


def choose_checks(checks: str | Iterable[str] | None, outliers: bool) -> list[str]:
    """Return the names of the requested checks, the most serious first.

    Raises
    ------
    UnknownNameError
        When there is no such check.

    Examples
    --------
    >>> choose_checks(["branch_row", "counter_falls"], outliers=False)
    ['counter_falls', 'branch_row']
    """
    if checks is None:
        names = {name for name in CHECKS if name != "outlier"}
    else:
        names = {checks} if isinstance(checks, str) else set(checks)
    for name in sorted(names, key=str):
        if name not in CHECKS:
            raise UnknownNameError(
                f"{name!r} is not a check of the doctor, so nothing was examined.{near_names(name, CHECKS)} Checks: "
                f"{', '.join(CHECKS)}."
            )
    return [name for name in CHECKS if name in names or (outliers and name == "outlier")]
