"""Suites by name: the built-in ones, and those of installed packages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points

from dde.errors import SourceError, UnknownNameError, near_names
from dde.suite.builtin import datadecide, olmo3_32b, olmo_ladder, pythia
from dde.suite.declare import Suite

__all__ = ["GROUP", "Suites", "UnknownSuiteError", "suites"]

#: Group of the entry points with which packages add suites.
GROUP = "dde.suites"

_BUILT_IN: dict[str, Callable[[], Suite]] = {
    "datadecide": datadecide.declare,
    "olmo3_32b": olmo3_32b.declare,
    "olmo_ladder": olmo_ladder.declare,
    "pythia": pythia.declare,
}


class UnknownSuiteError(UnknownNameError, KeyError):
    """A name that no suite has."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument, which would quote and escape the message.
        return str(self.args[0]) if self.args else ""


class Suites(Mapping[str, Suite]):
    """Suites by name: the built-in ones, then those of installed packages.

    A package adds a suite with an entry point of the group ``dde.suites``: a :class:`dde.Suite`, or a function that
    returns one. The package is imported when its suite is first requested.

    Examples
    --------
    >>> import dde
    >>> "pythia" in dde.suites
    True
    >>> dde.suites["olmo_ladder"].run_types
    ('cosine', 'constant', 'decay')
    """

    def __init__(self) -> None:
        self._read: dict[str, Suite] = {}

    def __getitem__(self, name: str) -> Suite:
        """Return a suite.

        Raises
        ------
        UnknownSuiteError
            When there is no suite of this name; also a KeyError.
        SourceError
            When the package of the suite can't be loaded, has no suite there, or another package uses the same name.
        """
        if name not in self:
            raise UnknownSuiteError(
                f"There is no suite {name!r}. Suites: {', '.join(self)}.{near_names(name, self)} A suite of your own "
                "is a dde.Suite or a TOML file: suite=Suite.from_toml('suite.toml')."
            )
        entries = [entry for entry in _entries() if entry.name == name]
        if len(entries) + (name in _BUILT_IN) > 1:
            packages = [*(["dde"] if name in _BUILT_IN else []), *(_package(entry) for entry in entries)]
            raise SourceError(
                f"The suite {name!r} is declared more than once, by {' and '.join(packages)}, so the name is "
                "ambiguous. Uninstall one package, or import the suite and pass the object."
            )
        if not entries:
            if name not in self._read:
                self._read[name] = _BUILT_IN[name]()
            return self._read[name]
        return _load(entries[0])

    def __contains__(self, name: object) -> bool:
        return name in _BUILT_IN or any(entry.name == name for entry in _entries())

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*_BUILT_IN, *sorted(entry.name for entry in _entries())]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        packages = {entry.name: _package(entry) for entry in _entries()}
        counts = Counter([*_BUILT_IN, *(entry.name for entry in _entries())])
        lines = [
            f"    {name}"
            + (f"  (of {packages[name]})" if name in packages else "")
            + ("  declared more than once" if counts[name] > 1 else "")
            for name in self
        ]
        return "\n".join(["<dde.suites>", *lines])


def _entries() -> list[EntryPoint]:
    return list(entry_points(group=GROUP))


def _package(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.value


def _load(entry: EntryPoint) -> Suite:
    try:
        found = entry.load()
        suite = found() if callable(found) and not isinstance(found, Suite) else found
    except Exception as error:  # Code of another package may raise anything.
        raise SourceError(
            f"The suite {entry.name!r} of {_package(entry)} can't be loaded from {entry.value}: "
            f"{type(error).__name__}: {error}. Repair or uninstall the package."
        ) from error
    if not isinstance(suite, Suite):
        raise SourceError(
            f"The suite {entry.name!r} of {_package(entry)}: {entry.value} is a {type(suite).__name__}, not a "
            "dde.Suite or a function that returns one. Repair or uninstall the package."
        )
    return suite


#: The suites by name.
suites = Suites()
