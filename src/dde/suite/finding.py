"""Find the suite that an argument refers to: a declaration, a name, or a TOML file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from dde.errors import SourceError, UnknownNameError, near_names
from dde.suite.builtin import suites
from dde.suite.declare import Suite

__all__ = ["find_suite", "is_suite"]


def find_suite(suite: Suite | Mapping[str, Any] | str | os.PathLike[str]) -> Suite:
    """Return the suite that an argument refers to.

    Parameters
    ----------
    suite : Suite, mapping, str or path
        A declaration, or the mapping that `Suite.from_dict` takes; a name in ``dde.suites``; or the path of a TOML
        file.

    Raises
    ------
    UnknownNameError
        When there is no suite of that name.
    SourceError
        When there is no such file.

    Examples
    --------
    >>> find_suite("pythia").name
    'pythia'
    """
    if isinstance(suite, Suite):
        return suite
    if isinstance(suite, Mapping):
        return Suite.from_dict(suite)
    if not isinstance(suite, (str, os.PathLike)):
        raise UnknownNameError(
            f"{suite!r} is not a suite. Pass a dde.Suite, a mapping that declares one, a name ({', '.join(suites)}), "
            "or the path of a .toml file."
        )
    text = os.fspath(suite)
    if isinstance(suite, str) and suite in suites:
        return suites[suite]
    if text.endswith(".toml"):
        if not Path(text).expanduser().is_file():
            raise SourceError(
                f"There is no file {text!r}, so its suite can't be read. Correct the path, or write the file: "
                "dde.Suite(...).to_toml(path)."
            )
        return Suite.from_toml(Path(text).expanduser())
    raise UnknownNameError(
        f"{text!r} is not a known suite.{near_names(text, suites)} Known suites are {', '.join(suites)}; or pass a "
        "dde.Suite, or the path of a .toml file."
    )


def is_suite(source: object) -> TypeGuard[Suite | str]:
    """Return whether the first argument of `open_lineages` is a suite rather than a location.

    Raises
    ------
    SourceError
        When a name in ``dde.suites`` is also a folder in the working directory.
    """
    if isinstance(source, Suite):
        return True
    if not isinstance(source, str) or source not in suites:
        return False
    if os.path.exists(source):
        if suites[source].producer == "datadecide":
            # A folder named "datadecide" is opened as DataDecide tables.
            return False
        raise SourceError(
            f"{source!r} is both a suite that dde knows and a folder here, so it is ambiguous. Pass "
            f"suite={source!r} together with the folder of its files, or './{source}' for DataDecide tables in the "
            "folder."
        )
    return True
