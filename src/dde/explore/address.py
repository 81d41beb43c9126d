"""What a page shows as the query of its address, so that a link opens the same view, and views saved under names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

from dde.atomic_files import atomic_path
from dde.errors import DdeError, SelectionError
from dde.explore.tabs import Marks, State, value_text

__all__ = ["SavedViews", "marks_in", "query_of", "states_in", "texts_in"]

# Names of marks in an address. Runs that are hidden, or those that are not, whichever are fewer.
_HIDDEN, _ONLY, _SELECTED, _BASELINE, _OPENED = "hide", "only", "select", "pin", "open"


def query_of(
    values: Mapping[str, Any],
    defaults: Mapping[str, Any],
    marks: Marks,
    runs: Sequence[str],
    tab: str = "",
    states: Mapping[str, State] | None = None,
) -> str:
    """Return the query of an address: what differs from the start of the page.

    Parameters
    ----------
    values, defaults : mapping of str to object
        Values of widgets, and those at the start.
    marks : Marks
    runs : sequence of str
        Ids of the runs shown.
    tab : str
        The open tab; "" for the first.
    states : mapping of str to mapping, optional
        Choices within tabs, by the prefix that their names have in the address.

    Examples
    --------
    >>> query_of({"x": "post_tokens", "metrics": ["a", "b"]}, {"x": "cumulative_tokens", "metrics": ["a"]}, Marks(), [])
    'x=post_tokens&metrics=a&metrics=b'
    >>> query_of({}, {}, Marks(), [], "Scatter", {"scatter": {"x": ["loss"]}})
    'tab=Scatter&scatter.x=loss'
    """
    parts: list[tuple[str, str]] = []

    def add(name: str, texts: Sequence[str]) -> None:
        # An empty list is a choice, too.
        parts.extend((name, text) for text in texts or [""])

    for name, value in values.items():
        if value != defaults.get(name):
            add(name, [value_text(v) for v in (value if isinstance(value, (list, tuple)) else [value])])
    hidden = set(marks.hidden) & set(runs)
    shown = [run for run in runs if run not in hidden]
    if hidden and len(hidden) <= len(shown):
        parts += [(_HIDDEN, run) for run in runs if run in hidden]
    elif hidden:
        parts += [(_ONLY, run) for run in shown] or [(_ONLY, "")]
    parts += [(_SELECTED, run) for run in marks.selected if run in runs]
    parts += [(name, run) for name, run in ((_BASELINE, marks.baseline), (_OPENED, marks.opened)) if run]
    if tab:
        parts.append(("tab", tab))
    for prefix, state in (states or {}).items():
        for name, texts in state.items():
            add(f"{prefix}.{name}", texts)
    return urlencode(parts)


def texts_in(query: str) -> dict[str, list[str]]:
    """Return the values of a query by name.

    Examples
    --------
    >>> texts_in("?metrics=a&metrics=b&run=")
    {'metrics': ['a', 'b'], 'run': ['']}
    """
    return parse_qs(query.removeprefix("?"), keep_blank_values=True)


def states_in(texts: Mapping[str, Sequence[str]], prefixes: Iterable[str]) -> dict[str, State]:
    """Return the choices within tabs that a query has, for each prefix.

    Examples
    --------
    >>> states_in({"x": ["tokens"], "scatter.x": ["loss"]}, ["scatter", "table"])
    {'scatter': {'x': ['loss']}, 'table': {}}
    """
    return {
        prefix: {name.removeprefix(f"{prefix}."): of for name, of in texts.items() if name.startswith(f"{prefix}.")}
        for prefix in prefixes
    }


def marks_in(texts: Mapping[str, Sequence[str]], runs: Sequence[str]) -> dict[str, Any]:
    """Return the marks in a query, by the name of the parameter of :class:`Marks`.

    Parameters
    ----------
    texts : mapping of str to sequence of str
    runs : sequence of str
        Ids of the runs shown.

    Examples
    --------
    >>> marks_in({"only": ["b"], "pin": ["a"]}, ["a", "b", "c"])
    {'hidden': ['a', 'c'], 'selected': [], 'baseline': 'a', 'opened': ''}
    """
    hidden = list(texts.get(_HIDDEN, []))
    if _ONLY in texts:
        hidden = [run for run in runs if run not in texts[_ONLY]]
    return {
        "hidden": hidden,
        "selected": list(texts.get(_SELECTED, [])),
        "baseline": texts.get(_BASELINE, [""])[-1],
        "opened": texts.get(_OPENED, [""])[-1],
    }


class SavedViews:
    """Views under names, in a small JSON file of queries.

    Parameters
    ----------
    path : str or path
        Made when the first view is saved.

    Examples
    --------
    >>> import tempfile
    >>> views = SavedViews(Path(tempfile.mkdtemp()) / "views.json")
    >>> views.save("log axes", "log_x=true")
    >>> views.queries()
    {'log axes': 'log_x=true'}
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def queries(self) -> dict[str, str]:
        """Return the queries of all views by name; {} without a file.

        Raises
        ------
        DdeError
            When the file can't be read, or holds something else.
        """
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise DdeError(
                f"{self.path} can't be read as saved views ({error}), so none is listed. Remove or restore it."
            ) from error
        if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
            raise DdeError(f"{self.path} holds no saved views, so none is listed. Name another file for views.")
        return found

    def save(self, name: str, query: str) -> None:
        """Save a view; one of the same name is replaced.

        Raises
        ------
        DdeError
            When the name is empty, or the file can't be written.
        """
        if not name.strip():
            raise SelectionError("the view has no name, so it can't be found again. Write one beside the button.")
        self._write(self.queries() | {name.strip(): query})

    def remove(self, name: str) -> None:
        """Remove a view, if there is one of this name."""
        self._write({known: query for known, query in self.queries().items() if known != name})

    def _write(self, queries: Mapping[str, str]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.path) as part:
                part.write_text(json.dumps(queries, indent=1, ensure_ascii=False), encoding="utf-8")
        except OSError as error:
            raise DdeError(
                f"{self.path} can't be written ({error.strerror or error}), so the view is not saved. "
                "Name another file for views, or make this one writable."
            ) from error
