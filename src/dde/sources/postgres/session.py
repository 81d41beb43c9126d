"""Sessions with a PostgreSQL server, with deadlines, and with driver errors explained."""

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

#: Seconds for connecting, over all hosts and addresses, unless the connection sets a timeout.
CONNECT_SECONDS = 10

_Session = psycopg.Connection[tuple[Any, ...]]

# Client-side socket options that detect an unreachable server. Idle and interval are in seconds; the last, for sent
# data that is not acknowledged, is in milliseconds.
_KEEP_ALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}

# Serialization failure and deadlock. A standby cancels queries with the first to apply a change to rows being read.
_CONFLICTS = frozenset({"40001", "40P01"})

# Messages of servers and poolers that refuse a connection; libpq does not pass on their codes.
_TOO_MANY = ("too many", "remaining connection slots", "no more connections allowed", "connection limit")
_NOT_NOW = ("starting up", "shutting down", "in recovery", "not yet accepting", "not accepting connections")
_REFUSED = (
    "password", "authentication", "pg_hba.conf", "role ", "not permitted to log in", "permission denied for database",
    "certificate",
)  # fmt: skip
_GONE_CODES = frozenset({"57P01", "57P02", "57P03", "57P04", "57P05", "25P03", "25P04"})


def connect(connection: Connection, timeout: int = CONNECT_SECONDS) -> _Session:
    """Return an open connection to the server, which the caller has to close.

    No statement is prepared on the server, and no startup option is sent unless the connection names it, so a pooler
    may use another server for each transaction.

    Parameters
    ----------
    connection : Connection
        Its ``connect_timeout``, or ``PGCONNECT_TIMEOUT``, takes precedence over `timeout`.
    timeout : int
        Seconds for all hosts and addresses together; each gets its share before the next is tried.

    Raises
    ------
    SourceError
        If no session can be opened; gives the reason.
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
    # Raised outside the handler: the driver's error contains the password and must not be chained.
    raise problem


def _open(settings: dict[str, Any]) -> _Session:
    return psycopg.connect(**settings, prepare_threshold=None, client_encoding="utf8")


def _addresses(settings: dict[str, Any]) -> list[dict[str, str]]:
    """Return the settings of each address to try, in order; a single empty dict if the driver has to choose."""
    if settings.get("target_session_attrs") == "prefer-standby" or settings.get("load_balance_hosts") == "random":
        return [{}]
    hosts, numbers, ports = (
        str(settings.get(key) or os.environ.get(variable, "")).split(",")
        for key, variable in (("host", "PGHOST"), ("hostaddr", "PGHOSTADDR"), ("port", "PGPORT"))
    )
    count = max(len(hosts), len(numbers))
    hosts, numbers = (part if len(part) == count else [""] * count for part in (hosts, numbers))
    ports = ports if len(ports) == count else ports[:1] * count
    addresses: list[dict[str, str]] = []
    for host, number, port in zip(hosts, numbers, ports, strict=True):
        resolved = [number] if number or not host or host.startswith(("/", "@")) else _resolved(host)
        addresses += [{k: v for k, v in (("host", host), ("hostaddr", n), ("port", port)) if v} for n in resolved]
    return addresses if len(addresses) > 1 else [{}]


def _resolved(host: str) -> list[str]:
    """Return the addresses of a host; [""] if there are none, so that the driver reports why."""
    try:
        entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return [""]
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


def _open_one_of(attempts: Sequence[dict[str, Any]], seconds: float) -> _Session:
    """Return the first session that opens; each address gets its share of the time before the next is tried too.

    Each attempt runs in a thread, because the driver tries addresses in sequence and waits at least two seconds for
    each.
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
    """Deadline of a session, at which its socket is shut down; a frozen server would keep it open for ever."""

    def __init__(self, session: _Session) -> None:
        self._session = session
        self._changed = threading.Condition()
        self._at: float | None = None
        self._is_over = False
        self._thread: threading.Thread | None = None
        #: Seconds after which the session was aborted; None if it was not.
        self.left_after: float | None = None

    def set(self, seconds: float | None) -> None:
        """Set the deadline to a number of seconds from now; None for no deadline."""
        with self._changed:
            self._seconds = seconds
            self._at = None if seconds is None else time.monotonic() + seconds
            self._changed.notify()
        if self._thread is None and seconds is not None:
            self._thread = threading.Thread(target=self._wait, name="dde-deadline", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Remove the deadline and end its thread."""
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
                # Wakes the thread that waits for the server. The lock prevents reuse of the file descriptor.
                with suppress(OSError, psycopg.Error):
                    sock = socket.socket(fileno=self._session.pgconn.socket)
                    try:
                        sock.shutdown(socket.SHUT_RDWR)
                    finally:
                        sock.detach()
                return


@contextmanager
def leave_after(session: _Session, seconds: float | None) -> Iterator[Deadline]:
    """Yield a deadline for the session, and close the session at the end."""
    deadline = Deadline(session)
    deadline.set(seconds)
    try:
        yield deadline
    finally:
        deadline.end()
        session.close()


def is_conflict(error: psycopg.Error) -> bool:
    """Return whether a query failed because of concurrent activity on the server, and can be retried."""
    return error.sqlstate in _CONFLICTS


def explain(error: psycopg.Error, connection: Connection, left_after: float | None = None) -> SourceError:
    """Convert an error of the driver within a session to a `SourceError` without credentials.

    Parameters
    ----------
    left_after : float, optional
        Seconds after which the session was aborted, if it was.
    """
    store, message, code = connection.redacted, connection.scrub(error), error.sqlstate or ""
    if left_after is not None:
        return SourceError(
            f"{store} did not answer for {left_after:g} s, longer than its own timeout: it is frozen or unreachable, "
            "so nothing was read. Retry when it answers; a smaller statement_timeout gives up sooner."
        )
    if isinstance(error, psycopg.errors.QueryCanceled):
        if "timeout" in message or not message:
            return SourceError(
                f"{store} took longer than the time allowed ({message}), so nothing was read. "
                "Retry with a larger statement_timeout, or when the server is less busy."
            )
        return SourceError(
            f"The query was cancelled on {store}, by this or another user ({message}), so nothing was read. Retry."
        )
    if code in _CONFLICTS:
        return SourceError(
            f"{store} cancelled the query repeatedly ({message}): it is a standby whose primary changes the rows being "
            "read, or a server with conflicting transactions, so nothing was read. Connect to the primary, or "
            "have max_standby_streaming_delay raised or hot_standby_feedback switched on."
        )
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        if "row-level security" in message:
            return SourceError(
                f"{store} shows this user only some of the rows: {message}. The result would be incomplete, so "
                "nothing was read. Name a user with BYPASSRLS, the owner of the tables, or a schema of views "
                "with the rows to be read."
            )
        return SourceError(
            f"{store} refuses this user, so its runs can't be read or written: {message}. "
            "Have SELECT granted on wandb_runs and wandb_history (and INSERT, DELETE to ingest)."
        )
    if code in ("22021", "22P05"):
        return SourceError(
            f"{store} has text that can't be read, so nothing was read: {message}. Have the text repaired; in an "
            "SQL_ASCII database it has to be UTF-8."
        )
    if code.startswith(("XX", "58")):
        return SourceError(
            f"{store} reports that its files are damaged or unreadable, so nothing was read: {message}. "
            "Have the administrator of the server check it; other runs of the store may be intact."
        )
    if code.startswith("53"):
        return SourceError(
            f"{store} ran out of memory, space or connections, so nothing was read: {message}. "
            "Retry when the server is less busy, or read fewer runs at once."
        )
    if code in _GONE_CODES or (not code and isinstance(error, psycopg.OperationalError)):
        return SourceError(
            f"{store} closed the connection before its answer was complete, so nothing was read: {message}. "
            "Retry when the server is back; if an administrator ended the session, ask why."
        )
    return SourceError(
        f"{store} could not answer, so its runs can't be read: {message}. "
        "Check that its tables are those of dr_wandb and intact."
    )


def _explain_refusal(error: Exception, connection: Connection, seconds: float) -> SourceError:
    """Convert an error of the driver while connecting to a `SourceError` without credentials."""
    store, message = connection.redacted, connection.scrub(error)
    if "connect_timeout" in message or "could not convert string to float" in message:
        return SourceError(
            f"{store} has a connect_timeout, or PGCONNECT_TIMEOUT, that is not a number of seconds, so no server was "
            "contacted. Give a number such as 10, or leave it out."
        )
    if not isinstance(error, psycopg.OperationalError):
        # The message is not shown: libpq quotes the part that it could not parse, which may belong to a password.
        return SourceError(
            f"{store} is not a valid connection string, so no server was contacted. "
            "Percent-encode characters such as @ / ? % in the password, or set PGPASSWORD."
        )
    if isinstance(error, psycopg.errors.ConnectionTimeout):
        return SourceError(
            f"{store} can't be reached: nothing answered within {seconds:g} s, so its runs can't be read. Check host "
            "and port, and that the server runs; connect_timeout=<seconds> in the connection waits longer."
        )
    if "unsupported startup parameter" in message:
        return SourceError(
            f"{store} is a pooler that accepts no startup options, so its runs can't be read: {message}. Leave options "
            "out of the connection and of PGOPTIONS; use schema= for the schema of the tables."
        )
    if any(words in message for words in _TOO_MANY):
        return SourceError(
            f"{store} has no connection left, so its runs can't be read: {message}. "
            "Retry when other sessions have ended, or have the limit raised."
        )
    if any(words in message for words in _NOT_NOW):
        return SourceError(
            f"{store} accepts no connections at present, so its runs can't be read: {message}. Retry in a moment."
        )
    if "database" in message and "does not exist" in message:
        return SourceError(
            f"{store} has no such database, so its runs can't be read: {message}. "
            "Name the database that dr_wandb wrote to, after the host: postgresql://user@host/database."
        )
    if any(words in message for words in _REFUSED):
        if connection.lost_secret:
            return SourceError(
                f"{store} asks for a password that this process does not have ({message}). "
                "A pickled store has no credentials, so a worker must get them from its own environment. "
                f"Set {CONNECTION_VARIABLE} to the full URL there, or PGPASSWORD, or a password file."
            )
        return SourceError(
            f"{store} refuses the login of this user, so its runs can't be read: {message}. "
            "Check user and password, in the URL, PGPASSWORD or the password file."
        )
    return SourceError(
        f"{store} can't be reached, so its runs can't be read: {message}. "
        "Check host, port and database, and that the server runs."
    )
