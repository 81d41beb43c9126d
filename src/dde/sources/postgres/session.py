"""A session with a PostgreSQL server: it begins and ends within a stated time, and says why where it fails."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from dde.errors import SourceError
from dde.sources.connection import CONNECTION_VARIABLE, Connection

__all__ = ["CONNECT_SECONDS", "Deadline", "connect", "explain", "is_conflict", "leave_after"]

#: Seconds after which connecting gives up, over all hosts and addresses, where the connection says nothing else.
CONNECT_SECONDS = 10

_Session = psycopg.Connection[tuple[Any, ...]]

# How the socket finds a machine that is gone; nothing of it is sent to the server. Idle and interval are seconds,
# the last, for what was sent and not acknowledged, milliseconds.
_KEEP_ALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}

# A standby that must apply a change to rows that are being read ends the question, or the session.
_CONFLICTS = frozenset({"40001", "40P01"})

# What servers and poolers say before they answer anything: libpq hands no code of these on.
_FULL_HOUSE = ("too many", "remaining connection slots", "no more connections allowed", "connection limit")
_NOT_NOW = ("starting up", "shutting down", "in recovery", "not yet accepting", "not accepting connections")
_REFUSED = (
    "password", "authentication", "pg_hba.conf", "role ", "not permitted to log in", "permission denied for database",
    "certificate",
)  # fmt: skip
_GONE_CODES = frozenset({"57P01", "57P02", "57P03", "57P04", "57P05", "25P03", "25P04"})


def connect(connection: Connection, timeout: int = CONNECT_SECONDS) -> _Session:
    """Return an open connection to the server; closing it is the caller's.

    Nothing is prepared on the server, and no startup option is sent that the connection does not name, so that a
    pooler in between may give each transaction another server.

    Parameters
    ----------
    connection : Connection
        ``connect_timeout`` in it, or ``PGCONNECT_TIMEOUT``, comes before `timeout`.
    timeout : int
        Seconds for all hosts and addresses together; each has its share before the next is tried.

    Raises
    ------
    SourceError
        Where there is no session to be had, with the reason.
    """
    seconds: float = timeout
    try:
        settings: dict[str, Any] = dict(conninfo_to_dict(connection.reveal()))
        given = settings.get("connect_timeout", os.environ.get("PGCONNECT_TIMEOUT"))
        seconds = timeout if given is None else float(given)
        settings = {"application_name": "dde", **_KEEP_ALIVE} | settings | {"connect_timeout": int(seconds)}
        addresses = _addresses(settings)
        return _open_one_of([settings | address for address in addresses], seconds)
    except (psycopg.Error, ValueError) as error:
        problem = _explain_refusal(error, connection, seconds)
    # Raised outside of the handler: the driver's error holds the password and must not ride along.
    raise problem


def _open(settings: dict[str, Any]) -> _Session:
    return psycopg.connect(**settings, prepare_threshold=None, client_encoding="utf8")


def _addresses(settings: dict[str, Any]) -> list[dict[str, str]]:
    """Return what is to be tried one after the other, as settings; one without any where the driver has to choose."""
    if settings.get("target_session_attrs") == "prefer-standby" or settings.get("load_balance_hosts") == "random":
        return [{}]
    hosts, numbers, ports = (
        str(settings.get(key) or os.environ.get(variable, "")).split(",")
        for key, variable in (("host", "PGHOST"), ("hostaddr", "PGHOSTADDR"), ("port", "PGPORT"))
    )
    count = max(len(hosts), len(numbers))
    hosts, numbers = (part if len(part) == count else [""] * count for part in (hosts, numbers))
    ports = ports if len(ports) == count else ports[:1] * count
    found: list[dict[str, str]] = []
    for host, number, port in zip(hosts, numbers, ports, strict=True):
        resolved = [number] if number or not host or host.startswith(("/", "@")) else _resolved(host)
        found += [{k: v for k, v in (("host", host), ("hostaddr", n), ("port", port)) if v} for n in resolved]
    return found if len(found) > 1 else [{}]


def _resolved(host: str) -> list[str]:
    """Return the addresses of a host; "" for the driver to say why there is none."""
    try:
        entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return [""]
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


def _open_one_of(attempts: Sequence[dict[str, Any]], seconds: float) -> _Session:
    """Return a session with the first that gives one; each has its share of the time before the next is tried as well.

    The driver waits two seconds for each at least, and one after the other: so each is tried in a thread.
    """
    if len(attempts) == 1 or seconds <= 0:
        return _open(attempts[0])
    sessions: dict[int, _Session] = {}
    errors: dict[int, Exception] = {}
    changed = threading.Condition()
    chosen = threading.Event()

    def attempt(number: int) -> None:
        try:
            session = _open(attempts[number])
        except Exception as error:
            with changed:
                errors[number] = error
                changed.notify()
            return
        with changed:
            if not chosen.is_set():
                sessions[number] = session
                changed.notify()
                return
        session.close()

    start = time.monotonic()
    with changed:
        for number in range(len(attempts)):
            threading.Thread(target=attempt, args=(number,), name="dde-connect", daemon=True).start()
            end = start + seconds * (number + 1) / len(attempts)
            while not sessions and number not in errors and (left := end - time.monotonic()) > 0:
                changed.wait(left)
            if sessions:
                break
        chosen.set()
    if sessions:
        first = sessions.pop(min(sessions))
        for session in sessions.values():
            session.close()
        return first
    if len(errors) < len(attempts):
        raise psycopg.errors.ConnectionTimeout("connection timeout expired")
    for error in errors.values():
        if not isinstance(error, psycopg.OperationalError):
            raise error
    raise psycopg.OperationalError("; ".join(dict.fromkeys(" ".join(str(error).split()) for error in errors.values())))


class Deadline:
    """A time at which a session is left whose server says nothing; a server that is frozen keeps its socket open."""

    def __init__(self, session: _Session) -> None:
        self._session = session
        self._changed = threading.Condition()
        self._at: float | None = None
        self._is_over = False
        self._thread: threading.Thread | None = None
        #: Seconds after which the session was left; None where it was not.
        self.left_after: float | None = None

    def set(self, seconds: float | None) -> None:
        """Leave the session in so many seconds from now on; None for never."""
        with self._changed:
            self._seconds = seconds
            self._at = None if seconds is None else time.monotonic() + seconds
            self._changed.notify()
        if self._thread is None and seconds is not None:
            self._thread = threading.Thread(target=self._wait, name="dde-deadline", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Leave the session alone from now on."""
        with self._changed:
            self._is_over = True
            self._changed.notify()

    def _wait(self) -> None:
        with self._changed:
            while not self._is_over:
                left = None if self._at is None else self._at - time.monotonic()
                if left is None or left > 0:
                    self._changed.wait(left)
                    continue
                self.left_after = self._seconds
                # Wakes whoever waits for the server. The lock keeps the number of the socket from being reused.
                with suppress(OSError, psycopg.Error):
                    sock = socket.socket(fileno=self._session.pgconn.socket)
                    try:
                        sock.shutdown(socket.SHUT_RDWR)
                    finally:
                        sock.detach()
                return


@contextmanager
def leave_after(session: _Session, seconds: float | None) -> Iterator[Deadline]:
    """Yield the deadline of a session, which is closed at the end."""
    deadline = Deadline(session)
    deadline.set(seconds)
    try:
        yield deadline
    finally:
        deadline.end()
        session.close()


def is_conflict(error: psycopg.Error) -> bool:
    """Return whether a question failed for what else happened on the server, and may be asked again."""
    return error.sqlstate in _CONFLICTS


def explain(error: psycopg.Error, connection: Connection, left_after: float | None = None) -> SourceError:
    """Return what the driver raised in a session as an error of ours, without credentials: cause, meaning, remedy.

    Parameters
    ----------
    left_after : float, optional
        Seconds after which the session was left, where it was.
    """
    store, said, code = connection.redacted, connection.scrub(error), error.sqlstate or ""
    if left_after is not None:
        return SourceError(
            f"{store} did not answer for {left_after:g} s, beyond its own limit of time: it is frozen or cut off. "
            "So nothing was read. Ask again when it answers; a smaller statement_timeout gives up sooner."
        )
    if isinstance(error, psycopg.errors.QueryCanceled):
        if "timeout" in said or not said:
            return SourceError(
                f"{store} took longer than the time allowed ({said}). So nothing was read. "
                "Ask again with a larger statement_timeout, or when the server is less busy."
            )
        return SourceError(
            f"The question was cancelled on {store}, by this or another user ({said}). So nothing was read. Ask again."
        )
    if code in _CONFLICTS:
        return SourceError(
            f"{store} gave the question up again and again ({said}): it is a standby whose primary changes what is "
            "read, or a server whose transactions are in each other's way. So nothing was read. Ask the primary, or "
            "have max_standby_streaming_delay raised or hot_standby_feedback switched on."
        )
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        if "row-level security" in said:
            return SourceError(
                f"{store} shows this user a part of the rows alone: {said}. A part would be taken for the whole, so "
                "nothing was read. Name a user with BYPASSRLS, the owner of the tables, or the schema of views that "
                "hold what is meant to be read."
            )
        return SourceError(
            f"{store} refuses this user: {said}. So its runs can't be read or written. "
            "Have SELECT granted on wandb_runs and wandb_history (and INSERT, DELETE to ingest)."
        )
    if code in ("22021", "22P05"):
        return SourceError(
            f"{store} holds text that can't be read: {said}. So nothing was read. Have the text repaired; that of a "
            "database in SQL_ASCII has to be UTF-8."
        )
    if code.startswith(("XX", "58")):
        return SourceError(
            f"{store} finds its own files damaged or unreadable: {said}. So nothing was read. "
            "Have whoever keeps the server check it; other runs of the store may still be whole."
        )
    if code.startswith("53"):
        return SourceError(
            f"{store} ran out of memory, space or connections: {said}. So nothing was read. "
            "Ask again when the server is less busy, or for fewer runs at once."
        )
    if code in _GONE_CODES or (not code and isinstance(error, psycopg.OperationalError)):
        return SourceError(
            f"{store} went away before its answer was whole: {said}. So nothing was read. "
            "Ask again when the server is back; if an administrator ended the session, ask why."
        )
    return SourceError(
        f"{store} could not answer: {said}. So its runs can't be read. "
        "Check that its tables are those of dr_wandb and intact."
    )


def _explain_refusal(error: Exception, connection: Connection, seconds: float) -> SourceError:
    """Return why there is no session as an error of ours."""
    store, said = connection.redacted, connection.scrub(error)
    if "connect_timeout" in said or "could not convert string to float" in said:
        return SourceError(
            f"{store} has a connect_timeout, or PGCONNECT_TIMEOUT, that is no number of seconds. So no server could be "
            "asked. Give a number such as 10, or leave it out."
        )
    if not isinstance(error, psycopg.OperationalError):
        # libpq quotes the piece that it could not read, which may be a piece of a password.
        return SourceError(
            f"{store} is no valid connection string. So no server could be asked. "
            "Escape signs such as @ / ? % in the password by percent codes, or give it by PGPASSWORD."
        )
    if isinstance(error, psycopg.errors.ConnectionTimeout):
        return SourceError(
            f"{store} can't be reached: nothing answered within {seconds:g} s. So its runs can't be read. Check host "
            "and port, and that the server runs; connect_timeout=<seconds> in the connection waits longer."
        )
    if "unsupported startup parameter" in said:
        return SourceError(
            f"{store} is a pooler that takes no startup options: {said}. So its runs can't be read. Leave options out "
            "of the connection and of PGOPTIONS; schema= names the schema of the tables."
        )
    if any(words in said for words in _FULL_HOUSE):
        return SourceError(
            f"{store} has no connection left: {said}. So its runs can't be read. "
            "Ask again when others are done, or have the limit raised."
        )
    if any(words in said for words in _NOT_NOW):
        return SourceError(
            f"{store} takes no connections at present: {said}. So its runs can't be read. Ask again in a moment."
        )
    if "database" in said and "does not exist" in said:
        return SourceError(
            f"{store} has no such database: {said}. So its runs can't be read. "
            "Name the database that dr_wandb wrote to, behind the host: postgresql://user@host/database."
        )
    if any(words in said for words in _REFUSED):
        if connection.lost_secret:
            return SourceError(
                f"{store} asks for a password that this process does not have ({said}). "
                "A pickled store carries no credentials, so a worker must have them in its own surroundings. "
                f"Set {CONNECTION_VARIABLE} to the full URL there, or PGPASSWORD, or a password file."
            )
        return SourceError(
            f"{store} refuses to log this user in: {said}. So its runs can't be read. "
            "Check user and password, in the URL, PGPASSWORD or the password file."
        )
    return SourceError(
        f"{store} can't be reached: {said}. So its runs can't be read. "
        "Check host, port and database, and that the server runs."
    )
