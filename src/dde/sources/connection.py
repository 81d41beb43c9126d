"""What a ``db_connection`` is, and how its credentials stay out of sight.

A connection is a PostgreSQL DSN or a folder of exported files. Whatever is shown, logged or pickled is the
redacted form; the full one lives in this process alone, in a registry keyed by the redacted form. Another
process gets the password again from its own surroundings: ``DDE_DB_CONNECTION``, or what libpq itself looks
at (``PGPASSWORD``, a password file, a service).
"""

from __future__ import annotations

import os
import re
from typing import Literal
from urllib.parse import unquote, unquote_plus

from dde.errors import SourceError

__all__ = ["CONNECTION_VARIABLE", "Connection", "absolute_path", "redact"]

#: Environment variable in which a worker finds a DSN with its password.
CONNECTION_VARIABLE = "DDE_DB_CONNECTION"

_POSTGRES_URL = re.compile(r"(?P<scheme>postgres(?:ql)?)(?:\+\w+)?://", re.IGNORECASE)
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://")
_SCHEMELESS_USER = re.compile(r"[^/\\\s:@]+:[^/\\\s]*@[^/\\\s]")
# Settings of libpq that are no secret. Any other is taken out of what is shown, be it a secret or one misspelt.
_PLAIN_SETTING = re.compile(
    r"host|hostaddr|port|dbname|user|passfile|service|servicefile|options|application_name|fallback_application_name"
    r"|connect_timeout|client_encoding|target_session_attrs|channel_binding|replication|load_balance_hosts"
    r"|require\w+|keepalives\w*|tcp_user_timeout|gss\w+|krbsrvname|(?:min|max)_protocol_version"
    r"|ssl(?!password)\w*",
    re.IGNORECASE,
)
_KEYWORD_STRING = re.compile(rf"\s*(?:{_PLAIN_SETTING.pattern}|(?:ssl)?password)\s*=", re.IGNORECASE)
# One setting of a keyword string; a quote left open runs to the end, so that a broken string is redacted too.
_SETTING = re.compile(r"\s*(?P<key>[A-Za-z_]\w*)\s*=\s*(?P<value>'(?:[^'\\]|\\.)*'?|(?:\\.|[^\s'\\])*\S*)")
# Signed addresses of object stores carry their credential as a parameter under many names.
_SECRET_PARAMETER = re.compile(r"pass(?!file)|pwd|secret|token|sig|credential|key", re.IGNORECASE)

# Full connections of this process by their redacted form. Only a lookup finds them: no object that is shown,
# copied or pickled holds a credential.
_FULL: dict[str, str] = {}


_State = tuple[Literal["postgres", "files"], str, str, bool]


class Connection:
    """A connection without its credentials; the full one is looked up when it is needed.

    Parameters
    ----------
    connection : str or path
        ``postgresql://``, ``postgres://`` (with or without an SQLAlchemy driver), a libpq keyword string,
        a folder, a file in it, or an fsspec URL.

    Attributes
    ----------
    kind : {"postgres", "files"}
        Which kind of store it names.
    redacted : str
        The connection as it may be shown.

    Raises
    ------
    SourceError
        Where `connection` is neither text nor a path, or is empty.

    Examples
    --------
    >>> Connection("postgresql+psycopg2://ada:secret@db.example/wandb")
    Connection('postgresql://ada@db.example/wandb')
    """

    __slots__ = ("_folder", "_has_secret", "kind", "redacted")

    kind: Literal["postgres", "files"]
    redacted: str

    def __init__(self, connection: str | os.PathLike[str]) -> None:
        text = _as_text(connection)
        self.kind = "postgres" if _is_postgres(text) else "files"
        full = _POSTGRES_URL.sub(r"\g<scheme>://", text, count=1) if self.kind == "postgres" else text
        self.redacted, secrets = _split(full)
        self._has_secret = bool(secrets)
        # Shown as it was given, but read from where it was given: a worker has another working directory.
        self._folder = absolute_path(full) if self.kind == "files" and not _is_url(full) else ""
        if secrets:
            _FULL[self.redacted] = full

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.redacted!r})"

    def __str__(self) -> str:
        return self.redacted

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Connection) and other.__getstate__() == self.__getstate__()

    def __hash__(self) -> int:
        return hash(self.redacted)

    def __getstate__(self) -> _State:
        return self.kind, self.redacted, self._folder, self._has_secret

    def __setstate__(self, state: _State) -> None:
        self.kind, self.redacted, self._folder, self._has_secret = state

    @property
    def location(self) -> str:
        """The connection without its credentials; a local path in full."""
        return self._folder or self.redacted

    @property
    def lost_secret(self) -> bool:
        """Whether the credential that the connection was made with is out of reach in this process."""
        return self._has_secret and self.reveal() == self.redacted

    def reveal(self) -> str:
        """Return the connection with its credentials, as far as this process has them; a local path in full.

        Without them the redacted form comes back: libpq then looks for a password by itself.
        """
        if self._folder:
            return self._folder
        if not self._has_secret:
            return self.redacted
        full = _FULL.get(self.redacted)
        if full is None:
            named = os.environ.get(CONNECTION_VARIABLE, "").strip()
            if named and _same_target(named, self.redacted):
                full = _POSTGRES_URL.sub(r"\g<scheme>://", named, count=1)
        return self.redacted if full is None else full

    def scrub(self, message: object) -> str:
        """Return a message of the driver with every credential of this connection taken out."""
        text = str(message).strip()
        full = self.reveal()
        text = text.replace(full, self.redacted)
        secrets = {*_split(full)[1], os.environ.get("PGPASSWORD", "")}
        for secret in sorted((s for s in secrets if s), key=len, reverse=True):
            text = text.replace(secret, "***")
        return " ".join(text.split())


def absolute_path(where: str | os.PathLike[str]) -> str:
    """Return a local path in full, with the home folder in place of ``~``; a URL as it is.

    The working directory may be another one when the path is used: later, or in a worker.

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
    return text if not text or _is_url(text) else os.path.abspath(os.path.expanduser(text))


def redact(connection: object) -> str:
    """Return a connection as it may be shown: without password, key or token.

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
        return _split(text if isinstance(text, str) else os.fsdecode(text))[0]
    description = getattr(connection, "description", None)
    return _split(description)[0] if isinstance(description, str) else type(connection).__name__


def _as_text(connection: str | os.PathLike[str]) -> str:
    if isinstance(connection, (str, os.PathLike)):
        text = os.fspath(connection)
        if isinstance(text, str) and text.strip():
            # Around a DSN white space means nothing; in a path it may be part of a name.
            return text.strip() if isinstance(connection, str) else text
    raise SourceError(
        f"A connection of type {type(connection).__name__} names no store"
        f"{' (it is empty)' if isinstance(connection, (str, os.PathLike)) else ''}. "
        "So there are no post-training runs to read. "
        "Give a postgresql:// URL, a libpq string ('host=... dbname=...') or a folder of exported files."
    )


def _is_url(text: str) -> bool:
    return _URL.match(text) is not None or "::" in text


def _is_postgres(text: str) -> bool:
    if _POSTGRES_URL.match(text):
        return True
    return bool(_KEYWORD_STRING.match(text)) and not os.path.exists(text)


def _same_target(named: str, redacted: str) -> bool:
    """Return whether two connections name one database and user, however they are written."""
    named_redacted = redact(_POSTGRES_URL.sub(r"\g<scheme>://", named, count=1))
    if named_redacted == redacted:
        return True
    if not (_is_postgres(named) and _is_postgres(redacted)):
        return False
    # Imported where a password is looked for alone: the driver takes longer to import than a folder to open.
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        ours, theirs = conninfo_to_dict(redacted), conninfo_to_dict(named_redacted)
    except psycopg.Error:
        return False
    return all(ours.get(key) == theirs.get(key) for key in ("host", "hostaddr", "port", "dbname", "user", "service"))


def _split(text: str) -> tuple[str, list[str]]:
    """Return `text` without its credentials, and the credentials, also as they read when decoded."""
    match = _URL.match(text)
    if match is not None or "::" in text:
        # fsspec chains URLs with "::", which in a DSN is a piece of an IPv6 address.
        links = [text] if _POSTGRES_URL.match(text) else text.split("::")
        parts = [_split_url(link) for link in links]
        redacted, raw = (
            "::".join(part for part, _ in parts),
            [secret for _, found in parts for secret in found],
        )
    elif _KEYWORD_STRING.match(text):
        redacted, raw = _split_settings(text)
    elif _SCHEMELESS_USER.match(text):
        # A DSN whose scheme was forgotten is taken for a path, and would be shown as one.
        user, _, rest = text.partition(":")
        secret, _, rest = rest.rpartition("@")
        redacted, raw = f"{user}@{rest}", [secret]
    else:
        return text, []
    secrets = [form for secret in raw for form in (secret, unquote(secret)) if form]
    return redacted, list(dict.fromkeys(secrets))


def _split_settings(text: str) -> tuple[str, list[str]]:
    kept: list[str] = []
    secrets: list[str] = []
    end = 0
    for match in _SETTING.finditer(text):
        if _PLAIN_SETTING.fullmatch(match["key"]):
            kept.append(match.group().strip())
        else:
            value = match["value"]
            secrets += [value, re.sub(r"\\(.)", r"\1", value.strip("'"))]
        end = match.end()
    # What follows the last setting is no setting (a broken string): it may be a piece of a password.
    return " ".join(kept), [*secrets, *text[end:].split()]


def _split_url(text: str) -> tuple[str, list[str]]:
    match = _URL.match(text)
    if match is None:
        return text, []
    scheme, rest = match["scheme"].lower(), text[match.end() :]
    postgres = scheme.startswith("postgres")
    secrets: list[str] = []
    # github://owner:repository@revision has the signs of a user and password, and neither.
    if scheme != "github":
        rest, secrets = _split_user(rest, postgres=postgres, keep_user=scheme not in ("http", "https"))
    body, mark, query = rest.partition("?")
    if mark:
        fragment = ""
        if not postgres:
            query, hash_mark, fragment = query.partition("#")
            fragment = hash_mark + fragment
        kept = []
        for parameter in query.split("&"):
            key, _, value = parameter.partition("=")
            name = unquote_plus(key)
            if _PLAIN_SETTING.fullmatch(name) if postgres else not _SECRET_PARAMETER.search(name):
                kept.append(parameter)
            else:
                secrets.append(value)
        rest = body + (mark + "&".join(kept) if kept else "") + fragment
    return text[: match.end()] + rest, secrets


def _split_user(rest: str, *, postgres: bool, keep_user: bool) -> tuple[str, list[str]]:
    """Take the password out of ``user:password@host/...``, and the user as well where it may be a token.

    A password with a raw ``@``, ``/`` or ``?`` makes no valid URL, but it must not be shown in the message
    that says so: of a DSN, everything goes up to the last ``@`` that is not plainly part of something else.
    """
    for cut in (i for i in range(len(rest) - 1, -1, -1) if rest[i] == "@"):
        before = rest[:cut]
        if "=" in before.partition("?")[2]:
            continue  # within a parameter, such as user=name@server
        head, slash, _ = before.partition("/")
        if slash and not (postgres and ":" in re.sub(r"\[[^\]]*\]", "", head)):
            continue  # within a path that follows a host without credentials
        user, colon, password = before.partition(":")
        if keep_user:
            return (f"{user}@" if user else "") + rest[cut + 1 :], [password] if colon else []
        return rest[cut + 1 :], [part for part in (user, password) if part]
    return rest, []
