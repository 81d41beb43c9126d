"""Remove credentials from names of sources, parsing each form as the program that reads it does.

The forms are libpq keyword strings, PostgreSQL URLs, fsspec URLs (also chained), and user, password and host without
a scheme. Malformed names are parsed as well, because error messages quote them. If a name is ambiguous, the secrets
of every reading are removed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from urllib.parse import quote, unquote, unquote_plus

__all__ = ["POSTGRES_URL", "Parsed", "is_url", "keyword_settings", "parse_source", "scrub"]

#: Start of a PostgreSQL URL, with or without an SQLAlchemy driver.
POSTGRES_URL = re.compile(r"(?P<scheme>postgres(?:ql)?)(?:\+\w+)?://", re.IGNORECASE)

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# Also with a prefix before the scheme, as in JDBC, or quoted or after a variable name, as in a shell.
_ANY_URL = re.compile(r"(?P<head>.*?(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://)(?P<rest>.*)", re.DOTALL)
_HEADED_URL = re.compile(r"(?:jdbc:|(?:export\s+)?\w+=)?[\"'<]?[A-Za-z][A-Za-z0-9+.-]*://")
# Protocols of fsspec that wrap another URL.
_WRAPPER = r"(?:zip|tar|dir|libarchive|simplecache|filecache|blockcache|cached|reference|async_wrapper)"
_CHAINED = re.compile(rf"{_WRAPPER}::")
_WRAPPED = re.compile(rf"{_WRAPPER}(?:::|://)")
# Separator of a URL chain of fsspec, but not a "::" within a password: a URL or the path of an archive follows it.
_LINK = re.compile(rf"::(?=[A-Za-z][A-Za-z0-9+.-]*://|{_WRAPPER}(?:::|$))")
_LINK_OF_WRAPPER = re.compile(rf"{_LINK.pattern}|::(?=[/~.][^@]*$)")

# Settings of libpq that are not secret. All others are removed, whether they are secret or misspelt.
_PLAIN_SETTING = re.compile(
    r"host|hostaddr|port|dbname|schema|user|passfile|service|servicefile|options|application_name"
    r"|fallback_application_name|connect_timeout|client_encoding|target_session_attrs|channel_binding|replication"
    r"|load_balance_hosts|require\w+|keepalives\w*|tcp_user_timeout|gss\w+|krbsrvname"
    r"|(?:min|max)_protocol_version|ssl(?!password)\w*",
    re.IGNORECASE,
)
_SECRET_SETTING = re.compile(r"(?:pg|ssl|\w*_)?(?:pass(?:w\w*|phrase|code)?|pwd|secret\w*)", re.IGNORECASE)
# A setting as libpq reads it: the value is quoted or ends at a space; a backslash escapes the next character. An
# unterminated quote runs to the end.
_SETTING = re.compile(r"\s*(?P<key>[^\s=]+)\s*=\s*(?P<value>'(?:[^'\\]|\\.)*'?|(?!')(?:[^\s\\]|\\.)*)", re.DOTALL)
_WORD = re.compile(r"\s*(?P<word>\S+)")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")

# Signed URLs of object stores have their credential in a parameter, under many names.
_SECRET_PARAMETER = re.compile(
    r"pass(?!file)|pwd|secret|token|sig|cred|key|auth|jwt|bearer|\bsas\b|session|cookie|ticket", re.IGNORECASE
)
# A host with an optional port.
_HOST = re.compile(r"(?:\[[^\[\]@]*\]|[^:@]*)(?::[0-9]+)?")
_NAMED_PARAMETER = re.compile(r"[A-Za-z_][\w.\[\]-]*=")
# Schemes whose URLs use ":" and "@" without user and password: github://owner:repository@revision.
_WITHOUT_USERS = frozenset({"github", "git", "file", "local"})
# User, password and host without a scheme. One letter, a colon and a slash are a drive.
_SCHEMELESS = re.compile(r"(?P<user>[^/\\\s:@]+):(?P<secret>.+)@(?P<rest>[^@]+)", re.DOTALL)
_USER_AND_SECRET = re.compile(r"://[^:@/?#]*:(?P<secret>.+)@", re.DOTALL)
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


class Parsed(NamedTuple):
    """A parsed name of a source.

    Attributes
    ----------
    shown : str
        The text without credentials.
    secrets : tuple of str
        The credentials, in every form in which a message may quote them.
    clear : bool
        Whether the text is unambiguous. If not, a program may take part of the password for the host, and send it
        over the network to resolve it.
    """

    shown: str
    secrets: tuple[str, ...]
    clear: bool = True


class _Part(NamedTuple):
    shown: str
    secrets: list[str]
    clear: bool = True


def is_url(text: str) -> bool:
    """Return whether a text is a URL for fsspec rather than a local path."""
    return _URL.match(text) is not None or "::" in text


def parse_source(text: str) -> Parsed:
    """Separate the name of a source into text without credentials, and the credentials.

    Parameters
    ----------
    text : str
        A libpq keyword string, a URL, or anything else, which is returned unchanged.

    Examples
    --------
    >>> parse_source("host=::1 user=ada password='a b'").shown
    'host=::1 user=ada'
    """
    bare = text.strip()
    if POSTGRES_URL.match(bare):
        # Not split at "::", which in a DSN belongs to an IPv6 address.
        part = _parse_link(bare)
    elif is_keyword_string(bare):
        part = _parse_settings(bare)
    elif _URL.match(bare) or _CHAINED.match(bare):
        separator = _LINK_OF_WRAPPER if _WRAPPED.match(bare) else _LINK
        links = [_parse_link(link) for link in separator.split(bare)]
        part = _Part("::".join(link.shown for link in links), [s for link in links for s in link.secrets])
    elif _HEADED_URL.match(bare):
        part = _parse_link(bare)
    elif (match := _SCHEMELESS.fullmatch(bare)) and not _DRIVE.match(bare) and not os.path.exists(text):
        # Other code takes it for a path and would show it unredacted.
        part = _Part(f"{match['user']}@{match['rest']}", [match["secret"]])
    elif "://" in bare:
        part = _parse_link(bare)
    else:
        return Parsed(text, ())
    if not part.secrets:
        return Parsed(text, ())
    # Remove the secret of the alternative reading from messages as well.
    other = [match["secret"]] if (match := _USER_AND_SECRET.search(bare)) else []
    secrets = dict.fromkeys(form for secret in (*part.secrets, *other) for form in _forms(secret) if form)
    return Parsed(part.shown, tuple(secrets), part.clear)


def scrub(message: str, secrets: Sequence[str]) -> str:
    """Return a message without secrets, and without the pieces of them that a program may take for parts of a URL."""
    pieces = {piece for secret in secrets for piece in re.split(r"[@:/?#&=\[\]\s]+", secret) if len(piece) > 3}
    for secret in sorted({*secrets, *pieces}, key=len, reverse=True):
        message = message.replace(secret, "***")
    return message


def is_keyword_string(text: str) -> bool:
    """Return whether a text consists of libpq settings; misspelt ones are tolerated."""
    first = _SETTING.match(text)
    if first is None or not _IDENTIFIER.fullmatch(first["key"]):
        return False
    if _PLAIN_SETTING.fullmatch(first["key"]) or _SECRET_SETTING.fullmatch(first["key"]):
        return True
    return any(
        key is not None and (key.lower() == "password" or _PLAIN_SETTING.fullmatch(key))
        for key, _, _ in keyword_settings(text)
    )


def keyword_settings(text: str) -> Iterator[tuple[str | None, str, str]]:
    """Yield key, raw value and complete text of each libpq setting; the key is None for any other word."""
    position = 0
    while position < len(text):
        match = _SETTING.match(text, position)
        if match is not None:
            yield match["key"], match["value"], match.group().strip()
        else:
            match = _WORD.match(text, position)
            if match is None:
                return
            yield None, match["word"], match["word"]
        position = match.end()


def _parse_settings(text: str) -> _Part:
    shown: list[str] = []
    secrets: list[str] = []
    for key, value, setting in keyword_settings(text):
        # The name of a database may itself be a DSN.
        plain = re.sub(r"\\(.)", r"\1", value.strip("'"), flags=re.DOTALL)
        inner = parse_source(plain)
        if key is not None and _PLAIN_SETTING.fullmatch(key) and not inner.secrets:
            shown.append(setting)
        else:
            # A word that is not a setting may be part of a password with spaces.
            secrets += [value, plain, *inner.secrets]
    return _Part(" ".join(shown), secrets)


def _parse_link(link: str) -> _Part:
    """Parse one URL; a word without ``://``, or a path, is returned unchanged."""
    match = _ANY_URL.fullmatch(link)
    if match is None:
        return _Part(link, [])
    scheme, rest = match["scheme"].lower(), match["rest"]
    postgres = scheme.startswith("postgres")
    if scheme in _WITHOUT_USERS:
        user, secrets, clear = "", list[str](), True
        ports = False
    else:
        user, secrets, rest, clear = _parse_user(rest, postgres=postgres)
        ports = True
    if user and scheme in ("http", "https"):
        # A user may be a token.
        secrets, user = [*secrets, user], ""
    rest, more, valid = _parse_hosts_and_path(rest, postgres=postgres, ports=ports)
    return _Part(match["head"] + (f"{user}@" if user else "") + rest, secrets + more, clear and valid)


def _parse_user(rest: str, *, postgres: bool) -> tuple[str, list[str], str, bool]:
    """Return user, secrets, the text after them, and whether this is the only possible reading.

    In libpq, user and password end at the first ``@`` before a slash; in other URLs, at the last ``@`` before ``/``,
    ``?`` or ``#``. An unescaped password with these characters is invalid, but it must not be shown either.
    """
    authority = re.split("/" if postgres else "[/?#]", rest, maxsplit=1)[0]
    at = authority.find("@") if postgres else authority.rfind("@")
    before, after = rest[: max(at, 0)], rest[at + 1 :]
    if "@" in after and (":" in before or ":" in _without_brackets(authority)) and not _is_at_in_parameter(after):
        before, _, after = rest.rpartition("@")
        user = re.split("[:@/?#]", before, maxsplit=1)[0]
        return user, [before[len(user) + 1 :]], after, False
    user, colon, password = before.partition(":")
    return user, [password] if colon else [], after, True


def _parse_hosts_and_path(rest: str, *, postgres: bool, ports: bool) -> tuple[str, list[str], bool]:
    """Return hosts, path and parameters without secrets, the secrets, and whether the hosts are valid."""
    hosts = re.split("[/?#]", rest, maxsplit=1)[0]
    if ports and not _are_hosts(hosts):
        # The port is not a number, so this is a user and password without a host.
        user, _, secret = rest.partition(":")
        return user, [secret], False
    # A fragment may have parameters as well; libpq has no fragments.
    body, *parts = re.split("([?])" if postgres else "([?#])", rest)
    secrets: list[str] = []
    for delimiter, query in zip(parts[::2], parts[1::2], strict=True):
        if secrets:
            # It may be part of the preceding secret.
            secrets.append(query)
            continue
        shown, secrets = _without_secrets(query, _is_plain_setting if postgres else _is_plain_parameter)
        body += delimiter + shown if shown or not secrets else ""
    return body, secrets, True


def _is_plain_setting(name: str) -> bool:
    return _PLAIN_SETTING.fullmatch(name) is not None


def _is_plain_parameter(name: str) -> bool:
    return _SECRET_PARAMETER.search(name) is None


def _is_at_in_parameter(rest: str) -> bool:
    """Return whether every ``@`` in hosts, path and parameters is in the value of a named parameter."""
    hosts_and_path, _, query = rest.partition("?")
    hosts, slash, path = hosts_and_path.partition("/")
    return (
        bool(slash)
        and _are_hosts(hosts)
        and not set("@#") & set(path)
        and all("@" not in p or _NAMED_PARAMETER.match(p) is not None for p in re.split("[&;]", query))
    )


def _without_secrets(query: str, is_plain: Callable[[str], bool]) -> tuple[str, list[str]]:
    """Return parameters without the secret ones, and the secrets."""
    plain: list[str] = []
    secrets: list[str] = []
    after_secret = False
    for parameter in query.split("&"):
        name, equals, value = parameter.partition("=")
        # A value may itself be a URL. A parameter without a name may be part of the preceding secret.
        inner = parse_source(unquote_plus(value))
        semicolon = next((part for part in value.split(";")[1:] if not is_plain(part.partition("=")[0])), "")
        after_secret = (after_secret and not equals) or not is_plain(unquote_plus(name)) or bool(inner.secrets)
        if after_secret or semicolon:
            secrets += [value if equals else name, *inner.secrets, *semicolon.split("=", 1)[1:]]
        else:
            plain.append(parameter)
    return "&".join(plain) if secrets else query, secrets


def _are_hosts(text: str) -> bool:
    return all(_HOST.fullmatch(host) for host in text.split(","))


def _without_brackets(text: str) -> str:
    return re.sub(r"\[[^\]]*\]", "", text)


def _forms(secret: str) -> tuple[str, ...]:
    texts = (secret, unquote(secret), unquote_plus(secret))
    return (*texts, *(form for text in texts for form in (quote(text, safe=""), quote(text), repr(text)[1:-1])))
