"""Locations of the W&B runs of a table: an export below the suite's root or elsewhere, or a database."""

from __future__ import annotations

import os
from typing import Any

from dde.errors import FormatError, SourceError
from dde.sources.connection import Connection
from dde.sources.redaction import is_url

__all__ = ["FORMAT", "HERE", "StorePlace", "check_places", "connect_places", "settle_places", "settle_root"]

#: Format of tables of W&B runs.
FORMAT = "wandb"
#: ``files`` of a table whose runs are at the suite's root itself.
HERE = "."


class StorePlace(str):
    """A database or URL in a declaration; the text has no credentials, the `connection` has.

    Examples
    --------
    >>> place = StorePlace("postgresql://ada:secret@db.example/wandb")
    >>> place
    'postgresql://ada@db.example/wandb'
    >>> place.connection
    Connection('postgresql://ada@db.example/wandb')
    """

    connection: Connection

    def __new__(cls, text: str) -> StorePlace:
        """Return the location that a text names."""
        if isinstance(text, StorePlace):
            return text
        connection = Connection(text)
        made = super().__new__(cls, connection.redacted)
        made.connection = connection
        return made


def settle_places(files: Any) -> Any:
    """Return the locations of a table without credentials; other values are returned unchanged."""
    if isinstance(files, str):
        return StorePlace(files) if files.strip() and _is_elsewhere(files) else files
    return tuple(map(settle_places, files)) if isinstance(files, (list, tuple)) else files


def settle_root(root: Any) -> Any:
    """Return the root of a suite, without credentials if it is a database; else unchanged."""
    is_database = isinstance(root, str) and bool(root.strip()) and Connection(root).kind == "postgres"
    return StorePlace(root) if is_database else root


def check_places(files: Any, key: str | None, value: str | None) -> None:
    """Raise FormatError where a table of W&B runs has no locations, or has a `key` or `value`; names the key."""
    places = (files,) if isinstance(files, str) else files
    if not isinstance(places, tuple) or not places or not all(isinstance(p, str) and p.strip() for p in places):
        raise FormatError(
            f"files: a table of W&B runs needs a folder of an export or a PostgreSQL DSN, and {files!r} is "
            f"neither. Write {HERE!r} for runs at the suite's root itself."
        )
    for place in places:
        if not isinstance(place, StorePlace) and set(place) & set("{}*"):
            raise FormatError(
                f"files: {place!r} is a pattern, and a table of W&B runs names folders or databases, so it can't be "
                "opened. Name each folder, and get fields from run_name with parse=, or from config keys."
            )
    if key is not None or value is not None:
        raise FormatError(
            "key: a table of W&B runs has a column for each key of the history, so key= and value= have no meaning. "
            "Remove them."
        )


def connect_places(files: Any, root: str | os.PathLike[str] | None, suite: str, what: str) -> tuple[Connection, ...]:
    """Return the locations of the W&B runs of a table.

    Parameters
    ----------
    files : str or sequence of str
        What the table declares of them.
    root : str, path or None
        Folder, URL or DSN of the suite.
    suite, what : str
        Names of suite and table in errors.

    Raises
    ------
    SourceError
        When a location is relative to the root, and there is no root, or the root is a database.
    """
    found = []
    for place in (files,) if isinstance(files, str) else files:
        if isinstance(place, StorePlace):
            found.append(place.connection)
            continue
        if os.path.isabs(place):
            found.append(Connection(place))
            continue
        if root is None:
            raise SourceError(
                f"The suite {suite!r} has W&B runs at {place!r} ({what}), which is relative to its root, and there is "
                "no root, so there is nothing to read. Pass the folder, URL or PostgreSQL DSN first, or declare root=."
            )
        top = root.connection if isinstance(root, StorePlace) else Connection(root)
        if place.strip() == HERE:
            found.append(top)
        elif top.kind == "postgres":
            raise SourceError(
                f"{top.redacted} is a database, and {what} of the suite {suite!r} names the folder {place!r} below it, "
                f"so there is nothing to read. Write files={HERE!r} for runs of the database itself."
            )
        else:
            found.append(Connection(f"{os.fspath(root).rstrip('/')}/{place}"))
    return tuple(found)


def _is_elsewhere(text: str) -> bool:
    return is_url(text) or Connection(text).kind == "postgres"
