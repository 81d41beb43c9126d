"""Parse a ``db_connection`` and keep its credentials out of everything that is shown, logged or pickled.

A connection is a PostgreSQL DSN or a folder of exported files. Only its redacted form is shown, logged or pickled.
The full form stays in a registry of this process, under a random name. Another process gets the password from its
own environment: from ``DDE_DB_CONNECTION``, or from the sources of libpq (``PGPASSWORD``, a password file, a service).
"""

from __future__ import annotations

import os
import re
import uuid
from typing import Literal
from urllib.parse import quote, unquote

from dde.errors import SourceError
from dde.sources.redaction import POSTGRES_URL, is_keyword_string, is_url, keyword_settings, parse_source, scrub

__all__ = ["CONNECTION_VARIABLE", "Connection", "absolute_path", "redact"]

#: Environment variable in which a worker finds a DSN with its password.
CONNECTION_VARIABLE = "DDE_DB_CONNECTION"

# Full connections of this process and their secrets, by random name. Objects store only the name, so none that is
# shown, copied or pickled has a credential. Connections that differ only in a credential have different names.
_FULL: dict[str, tuple[str, tuple[str, ...]]] = {}
_NAMES: dict[str, str] = {}
# Paths as the file system reports them, which may repeat the credential, by that name and by their redacted form.
_PATHS: dict[tuple[str, str], str] = {}

_State = tuple[Literal["postgres", "files"], str, str, str]


class Connection:
    """A connection without its credentials; the full form is looked up when it is needed.

    Parameters
    ----------
    connection : str or path
        ``postgresql://``, ``postgres://`` (with or without an SQLAlchemy driver), a libpq keyword string,
        a folder, a file in it, or an fsspec URL. A DSN may name the schema of the tables as ``schema``, in addition
        to the settings of libpq: ``postgresql://localhost/wandb?schema=mirror``, ``dbname=wandb schema=mirror``.
    schema : str, optional
        Schema of the tables in PostgreSQL; overrides the schema in the DSN.

    Attributes
    ----------
    kind : {"postgres", "files"}
        Kind of the store.
    redacted : str
        The connection without credentials.

    Raises
    ------
    SourceError
        If `connection` is neither text nor a path, if it is empty, or if a schema is given for a folder or file.

    Examples
    --------
    >>> Connection("postgresql+psycopg2://ada:secret@db.example/wandb")
    Connection('postgresql://ada@db.example/wandb')
    """

    __slots__ = ("_folder", "_name", "kind", "redacted")

    kind: Literal["postgres", "files"]
    redacted: str

    def __init__(self, connection: str | os.PathLike[str], schema: str | None = None) -> None:
        full = _as_text(connection)
        self.kind = "postgres" if _is_postgres(full) else "files"
        if self.kind == "postgres":
            full = POSTGRES_URL.sub(r"\g<scheme>://", full, count=1)
            if schema is not None:
                full = _with_schema(_split_schema(full)[0], schema)
        elif schema is not None:
            raise SourceError(
                f"{redact(connection)!r} is not a database, so it has no schema {schema!r}. "
                "Leave out schema=, or name a database as postgresql://user@host/database."
            )
        parsed = parse_source(full)
        self.redacted = parsed.shown
        # A relative path is shown as given, but resolved now: a worker may have another working directory.
        is_local = self.kind == "files" and not is_url(full)
        self._folder = absolute_path(self.redacted) if is_local else ""
        self._name = ""
        if parsed.secrets:
            full = absolute_path(full) if is_local else full
            self._name = _NAMES.setdefault(full, uuid.uuid4().hex)
            _FULL[self._name] = full, parsed.secrets

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.redacted!r})"

    def __str__(self) -> str:
        return self.redacted

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Connection) and other.__getstate__() == self.__getstate__()

    def __hash__(self) -> int:
        return hash(self.redacted)

    def __getstate__(self) -> _State:
        return self.kind, self.redacted, self._folder, self._name

    def __setstate__(self, state: _State) -> None:
        self.kind, self.redacted, self._folder, self._name = state

    @property
    def location(self) -> str:
        """The connection without its credentials; a local path is absolute."""
        return self._folder or self.redacted

    @property
    def schema(self) -> str:
        """Schema of the tables in PostgreSQL, from the connection; "" where it names none."""
        return _split_schema(self.redacted)[1] if self.kind == "postgres" else ""

    @property
    def lost_secret(self) -> bool:
        """Whether the connection was created with a credential that this process does not have."""
        return bool(self._name) and self._full() == self.location

    def reveal(self) -> str:
        """Return the connection with its credentials, if this process has them; a local path is absolute.

        Without credentials, the redacted form is returned, and libpq looks for a password itself. The schema is
        removed because libpq has no such setting.

        Raises
        ------
        SourceError
            If a DSN is ambiguous: libpq might take part of the password for the host.
        """
        full = self._full()
        if self.kind == "postgres":
            if not parse_source(full).clear:
                raise SourceError(
                    f"{self.redacted} is not a valid connection string, so no server was contacted. "
                    "Percent-encode characters such as @ / ? % in the password, or set PGPASSWORD."
                )
            return _split_schema(full)[0]
        return full

    def _full(self) -> str:
        if not self._name:
            return self.location
        full = _FULL.get(self._name, (None,))[0]
        if full is None and self.kind == "postgres":
            from_environment = os.environ.get(CONNECTION_VARIABLE, "").strip()
            if from_environment and _same_target(from_environment, self.redacted):
                full = POSTGRES_URL.sub(r"\g<scheme>://", from_environment, count=1)
                full = _with_schema(_split_schema(full)[0], self.schema)
        return self.location if full is None else full

    @property
    def has_secret(self) -> bool:
        """Whether the connection was created with a credential."""
        return bool(self._name)

    def hide(self, path: str) -> str:
        """Return a path below this connection, as its file system reports it, without credentials."""
        if not self._name or self._folder:
            return path
        shown = parse_source(path).shown
        for secret in parse_source(self._full()).secrets:
            shown = shown.replace(f":{secret}@", "@")
        if shown != path:
            _PATHS[self._name, shown] = path
        return shown

    def find(self, shown: str) -> str:
        """Return the path that `hide` redacted, if this process has it; otherwise the redacted path."""
        return _PATHS.get((self._name, shown), shown)

    def scrub(self, message: object) -> str:
        """Return a message, such as an error of the driver, without the credentials of this connection."""
        text = str(message).strip()
        secrets = list(filter(None, [os.environ.get("PGPASSWORD")]))
        if self._name:
            full = self._full()
            text = text.replace(full, self.redacted)
            secrets += _FULL[self._name][1] if self._name in _FULL else parse_source(full).secrets
        text = scrub(text, secrets)
        return " ".join(text.split())


def absolute_path(where: str | os.PathLike[str]) -> str:
    """Return a local path as an absolute path, with ``~`` expanded; a URL unchanged.

    The working directory may differ when the path is used: later, or in a worker.

    Parameters
    ----------
    where : str or path
        Path, or a URL that fsspec opens.

    Examples
    --------
    >>> absolute_path("s3://bucket/data"), absolute_path("data") == os.path.join(os.getcwd(), "data")
    ('s3://bucket/data', True)
    """
    text = os.fspath(where)
    return text if not text or is_url(text) else os.path.abspath(os.path.expanduser(text))


def redact(connection: object) -> str:
    """Return a connection without password, key or token.

    Parameters
    ----------
    connection : object
        Text or a path; any other object gives its ``description``, else the name of its type.

    Examples
    --------
    >>> redact("postgresql://ada:secret@db.example:5433/wandb?sslmode=require&password=secret")
    'postgresql://ada@db.example:5433/wandb?sslmode=require'
    >>> redact("host=db.example password='a b' user=ada")
    'host=db.example user=ada'
    """
    if isinstance(connection, Connection):
        return connection.redacted
    if isinstance(connection, (str, os.PathLike)):
        text = os.fspath(connection)
        return parse_source(text if isinstance(text, str) else os.fsdecode(text)).shown
    description = getattr(connection, "description", None)
    return parse_source(description).shown if isinstance(description, str) else type(connection).__name__


def _as_text(connection: str | os.PathLike[str]) -> str:
    if isinstance(connection, (str, os.PathLike)):
        text = os.fspath(connection)
        if isinstance(text, str) and text.strip():
            # White space around a DSN is insignificant; in a path object it may be part of a name.
            return text.strip() if isinstance(connection, str) else text
    raise SourceError(
        f"A connection of type {type(connection).__name__} does not name a store"
        f"{' (it is empty)' if isinstance(connection, (str, os.PathLike)) else ''}, "
        "so there are no post-training runs to read. "
        "Give a postgresql:// URL, a libpq string ('host=... dbname=...') or a folder of exported files."
    )


def _is_postgres(text: str) -> bool:
    if POSTGRES_URL.match(text):
        return True
    return is_keyword_string(text) and not os.path.exists(text)


def _split_schema(text: str) -> tuple[str, str]:
    """Return a DSN without its ``schema``, which is not a setting of libpq, and the schema."""
    if not POSTGRES_URL.match(text):
        settings = list(keyword_settings(text))
        schemas = [value for key, value, _ in settings if key == "schema"]
        if not schemas:
            return text, ""
        value = schemas[-1].strip("'") if schemas[-1].startswith("'") else schemas[-1]
        rest = " ".join(setting for key, _, setting in settings if key != "schema")
        return rest, re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
    body, _, query = text.partition("?")
    parameters = query.split("&")
    schemas = [p.partition("=")[2] for p in parameters if p.startswith("schema=")]
    if not schemas:
        return text, ""
    rest = "&".join(p for p in parameters if not p.startswith("schema="))
    return body + (f"?{rest}" if rest else ""), unquote(schemas[-1])


def _with_schema(text: str, schema: str) -> str:
    """Return a DSN with a schema added to it."""
    if not schema:
        return text
    if POSTGRES_URL.match(text):
        return f"{text}{'&' if '?' in text else '?'}schema={quote(schema, safe='')}"
    quoted = schema.replace("\\", "\\\\").replace("'", "\\'")
    return f"{text} schema='{quoted}'"


def _same_target(full: str, redacted: str) -> bool:
    """Return whether two connections name the same database and user, in whichever notation."""
    full_redacted = redact(POSTGRES_URL.sub(r"\g<scheme>://", full, count=1))
    if full_redacted == redacted:
        return True
    if not (_is_postgres(full) and _is_postgres(redacted)):
        return False
    # Imported only here: importing the driver takes longer than opening a folder.
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        ours, theirs = (conninfo_to_dict(_split_schema(text)[0]) for text in (redacted, full_redacted))
    except psycopg.Error:
        return False
    return all(ours.get(key) == theirs.get(key) for key in ("host", "hostaddr", "port", "dbname", "user", "service"))
