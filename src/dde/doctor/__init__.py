"""The doctor: checks runs for faults that make a Dataset wrong though it looks plausible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dde.doctor.examination import CHECKS as CHECKS
    from dde.doctor.examination import examine as examine

__all__ = ["CHECKS", "examine"]


def __getattr__(name: str) -> Any:
    # Imported at the first use: suites import `dde.doctor.examined_runs`, and the checks import suites.
    if name in __all__:
        from dde.doctor import examination

        return getattr(examination, name)
    raise AttributeError(f"module 'dde.doctor' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
