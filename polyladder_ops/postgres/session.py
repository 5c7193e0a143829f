"""Connections to PostgreSQL that reach the named server and no other, and that the database's settings can't bend."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import psycopg
from psycopg import pq, sql
from psycopg.rows import TupleRow

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import application, hints, links, login_triggers, poolers, silence, waits
from polyladder_ops.postgres.opening import Session, opened
from polyladder_ops.postgres.waits import hang_up
from polyladder_ops.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from polyladder_ops.postgres.conninfo import Target

__all__ = [
    "PINNED",
    "Connection",
    "Identity",
    "backend_of",
    "connect",
    "database_size",
    "database_sizes",
    "failed",
    "given_up_after",
    "hang_up",
    "identify",
    "in_short",
    "is_full",
    "is_relayed",
    "is_usable",
    "link_of",
    "pin",
    "relayed",
    "translated",
    "users_of",
]

Connection = psycopg.Connection[TupleRow]

# How values are written as text is a matter of session settings; both sides of a comparison use these.
# synchronize_seqscans: a COPY TO beside another scan may start in the middle of the table.
PINNED: Mapping[str, str] = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "3",
    "xmloption": "content",
    "synchronize_seqscans": "off",
    "search_path": "",
}
# What a database or role may have set for its application, and what would end or bend our long transactions.
_OVERRIDDEN = {
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "statement_timeout": "0",
    # Behind somebody's ALTER TABLE a wait would have no end; a load's own sessions wait for each other as long as a dump says.
    "lock_timeout": "60s",
    "idle_in_transaction_session_timeout": "0",
    "row_security": "off",
    "standard_conforming_strings": "on",
    "client_min_messages": "warning",
}
_ASKING_S = 5.0
_ONCE_MORE_S = 3.0  # for an address that has just fallen silent: a clean-up tries it, and says what is left
_BY_MAJOR = {14: "idle_session_timeout", 17: "transaction_timeout"}
# Within a minute; the system's own defaults take two hours.
_NOTICING_A_DEAD_NETWORK = {
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
# The targets of this run before which something stands that keeps our session ours: found once, at the first connection.
_RELAYED: set[tuple[str, ...]] = set()
_NAMING = ("host", "hostaddr", "port", "user", "dbname")
_OPTION = re.compile(r"(?:-c\s*|--)([\w.]+)=((?:[^\s\\]|\\.)*)")
logging.getLogger("psycopg").addHandler(logging.NullHandler())  # what it has to tell comes to us as errors


def _asking(parameters: Mapping[str, str], database: str) -> Session:
    """Return a connection over which the server is asked what our sessions do."""
    return opened({**parameters, "dbname": database, "application_name": "polyladder-ops watch"}, _ASKING_S)


@contextlib.contextmanager
def given_up_after(connection: Connection, seconds: float) -> Iterator[None]:
    """Within the block whoever waits for the server on this connection is not kept longer: then we hang up.

    No setting of TCP notices a relay that falls silent and goes on to acknowledge.
    """
    timer = threading.Timer(seconds, hang_up, [connection.fileno()])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def connect(
    target: Target, *, settings: Mapping[str, str] | None = None, timeout_s: float = 15
) -> Connection:
    """Return a connection in autocommit mode whose settings are `PINNED` plus `settings`.

    Read-only defaults and timeouts that the database carries for its application do not reach it. Raise OpsError
    if the server can't be reached or refuses us, Pooled if a pooler would give the session to others: nothing is set then.
    """
    timeout_s = float(target.parameters.get("connect_timeout") or timeout_s) or timeout_s
    timeout_s = min(timeout_s, silence.limits().each_s or timeout_s)
    parameters = {
        "application_name": "polyladder-ops",
        **_NOTICING_A_DEAD_NETWORK,
        **target.parameters,
        # Of a SQL_ASCII database psycopg would hand out texts as bytes.
        "client_encoding": "UTF8",
        # A limit that the role or database carries would hit the statement that lifts it.
        "options": f"{target.parameters.get('options', '')} -c statement_timeout=0".strip(),
    }
    with translated(f"could not connect to {target}", databases=target.way.databases if target.way else ()):
        connection = login_triggers.opened(parameters, partial(_reached, timeout_s=timeout_s))
        try:
            _begin(connection, target, parameters, settings or {})
        except BaseException:
            connection.close()
            raise
    return connection


def _reached(parameters: Mapping[str, str], timeout_s: float) -> Session:
    """Return a session each of whose waits ends at last. An address that has just fallen silent is not waited for long."""
    address = (parameters.get("host", ""), parameters.get("hostaddr", ""), parameters.get("port", ""))
    connection = opened(parameters, min(timeout_s, _ONCE_MORE_S) if address in waits.silent else timeout_s)
    waits.silent.discard(address)
    by = {**parameters, "hostaddr": connection.info.hostaddr}
    connection.watched(links.link(address, parameters.get("user", ""), partial(_asking, by)))
    return connection


def _begin(
    connection: Session, target: Target, parameters: Mapping[str, str], settings: Mapping[str, str]
) -> None:
    """Pin a new session. Where something stands between, that is only done once it is known that the session stays ours."""
    if not relayed(target):
        connection.backend = _pinned(connection, settings, by=connection.info.backend_pid)
        if connection.backend is not None:
            _expect_the_same(connection, target)
            return
        _expect_own_session(connection, target, parameters)
        _RELAYED.add(_key(target))
    # What a pooler was told to ignore at the start has not reached the server.
    given = dict(_OPTION.findall(parameters["options"]))
    more = {name: value for name, value in given.items() if name not in {**PINNED, **_OVERRIDDEN}}
    connection.backend = _pinned(connection, {**more, **settings})


def _expect_the_same(connection: Connection, target: Target) -> None:
    """Return if a session by a way of its own is on the server that it leads to, and that is a primary still.

    A failover in the middle of a run leaves the machine where it is, as a standby. Raise OpsError if that has happened.
    """
    if target.way is None or not target.way.system_identifier:
        return
    found = identify(connection)
    if found.system_identifier != target.way.system_identifier:
        raise OpsError(
            f"another server answers as {target.way.name}",
            detail=f"It has the system identifier {found.system_identifier}, before it was {target.way.system_identifier}.",
            hint="Run it again, from its beginning.",
        )
    if found.is_standby:
        raise OpsError(
            f"{target.way.name} is no primary any more",
            detail="Another machine of its cluster has taken over meanwhile.",
            hint="Run it again, from its beginning: it looks for the primary first.",
        )


def _expect_own_session(connection: Session, target: Target, parameters: Mapping[str, str]) -> None:
    """Return if each connection has a session of its own. Raise Pooled if not: whatever we set, others would get."""
    reach = partial(_reached, timeout_s=_ASKING_S)
    with closing(login_triggers.opened(parameters, reach)) as second:
        if poolers.keeps_our_session(connection, second, hang_up):
            return
    raise poolers.Pooled(
        f"a pooler in transaction or statement mode stands before {target}",
        detail="It gives our session to others after each transaction, with what is set on it. Nothing was set.",
        hint=poolers.CURE,
    )


def _key(target: Target) -> tuple[str, ...]:
    return tuple(target.parameters.get(name, "") for name in _NAMING)


def relayed(target: Target) -> bool:
    """Whether this run has found that something stands before the target, which gives each connection its own session."""
    return _key(target) in _RELAYED


def is_relayed(connection: Connection) -> bool:
    """Whether libpq was told another process than the one that answers: a pooler, or a proxy that makes numbers up."""
    return backend_of(connection) != connection.info.backend_pid


def backend_of(connection: Connection) -> int:
    """Return the server's process of this session; libpq's own number (`info.backend_pid`) can be made up on the way."""
    return connection.process if isinstance(connection, Session) else connection.info.backend_pid


def link_of(connection: Connection) -> links.Link | None:
    """Return the way by which the server is asked what a session does."""
    waiting = connection.waiting if isinstance(connection, Session) else None
    return waiting.link if waiting else None


def pin(connection: Connection, settings: Mapping[str, str] | None = None) -> None:
    """Give the session the settings with which `connect` begins, whatever has bent them since."""
    _pinned(connection, settings or {})


def _pinned(connection: Connection, settings: Mapping[str, str], *, by: int | None = None) -> int | None:
    """Set what is pinned and return the process that did it; None if it is not the one it should be `by`: nothing is set.

    To ask first would be a round trip more for every connection.
    """
    major = connection.info.server_version // 10000
    newer = {name: "0" for since, name in _BY_MAJOR.items() if major >= since}
    wanted = {**PINNED, **_OVERRIDDEN, "client_encoding": "UTF8", **settings, **newer}
    calls = [
        sql.SQL("pg_catalog.set_config({}, {}, false)").format(name, value) for name, value in wanted.items()
    ]
    statement = sql.SQL("SELECT pg_catalog.pg_backend_pid(), {}").format(sql.SQL(", ").join(calls))
    if by is not None:
        statement += sql.SQL(" WHERE pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {}").format(by)
    row = connection.execute(statement).fetchone()
    connection.prepare_threshold = None  # a pooler or a proxy may not keep prepared statements
    return None if row is None else int(row[0])


def is_usable(connection: Connection) -> bool:
    """Whether a session can be told something: it is there, nothing runs on it, and it is in no transaction.

    A Ctrl-C can leave it in the middle of a statement.
    """
    if isinstance(connection, Session):
        return connection.is_usable
    return connection.info.transaction_status == pq.TransactionStatus.IDLE


@contextlib.contextmanager
def released(connection: Connection) -> Iterator[None]:
    """Hang up if the block fails inside a transaction that could not be rolled back.

    An interrupt can come so that even ROLLBACK fails; whoever cleans up then would wait for our own locks, for ever.
    """
    try:
        yield
    except BaseException:
        if not is_usable(connection):
            connection.close()
        raise


@contextlib.contextmanager
def translated(message: str, *, databases: Sequence[str] = ()) -> Iterator[None]:
    """Within the block libpq's and the server's errors become OpsError with this message and a hint that fits.

    `databases` are those that the server has, where that is known.
    """
    try:
        yield
    except psycopg.Error as error:
        text = " ".join(redact(str(error)).split())
        raise OpsError(
            message, detail=f"{text}.".replace("..", "."), hint=hints.following(error, databases)
        ) from error


def failed(error: Exception) -> OpsError | None:
    """Return what to tell of a server that failed, if this is such an error and nobody who knew more has told it; else None.

    A statement that the server finds wrong is none: that is our fault.
    """
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return None
    text = " ".join(redact(str(error)).split()).rstrip(".")
    hint = (
        hints.following(error)
        or "Look at the server with `invoke doctor`, which also names what is left; then run it again."
    )
    return OpsError("the server failed, or the connection to it", detail=f"{text}.", hint=hint)


def in_short(error: psycopg.Error) -> str:
    """Return the server's message in a line, without its full stop and without secrets."""
    return " ".join(redact(error.diag.message_primary or str(error)).split()).rstrip(".")


def is_full(error: OpsError) -> bool:
    """Whether a server refused a connection because it has no more of them to give."""
    full = (
        "too many clients already",
        "too many connections for",
        "connection slots are reserved",
        "no more connections allowed",
    )
    return any(text in error.detail for text in full)


def database_size(target: Target) -> int:
    """Return the bytes that the database takes on the server's disk; a dump is usually smaller."""
    with connect(target) as connection, translated("could not ask for the size of the database"):
        row = connection.execute(
            "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())"
        ).fetchone()
    assert row is not None
    return int(row[0])


def setting(target: Target, name: str) -> str:
    """Return a setting as a new session of this database has it, empty if the database lets us not in or has none."""
    with contextlib.suppress(OpsError), connect(target) as connection:
        row = connection.execute("SELECT pg_catalog.current_setting(%s, true)", [name]).fetchone()
        return (row and row[0]) or ""
    return ""


def database_sizes(target: Target) -> dict[str, int]:
    """Return the server's databases, templates left out, with the bytes that each takes."""
    with connect(target) as connection, translated("could not list the databases"):
        rows = connection.execute(
            "SELECT datname, pg_catalog.pg_database_size(oid) FROM pg_catalog.pg_database"
            " WHERE NOT datistemplate ORDER BY datname"
        ).fetchall()
    return dict(rows)


def users_of(connection: Connection, database: str) -> tuple[str, ...]:
    """Return in words who is connected to a database of this server, without ourselves."""
    with translated("could not look who is connected"):
        rows = connection.execute(
            "SELECT DISTINCT usename::text, application_name FROM pg_catalog.pg_stat_activity WHERE datname = %s"
            f" AND usename IS NOT NULL AND application_name !~ '{application.OURS}' ORDER BY 1, 2",
            [database],
        ).fetchall()
    return tuple(f"{role} ({application.shown(name) or 'no name'})" for role, name in rows)


@dataclass(frozen=True)
class Identity:
    """Which server and database answered; the system identifier alone is none, since clones share it."""

    system_identifier: str
    database: str
    database_oid: int
    server_version: str
    major: int
    is_standby: bool
    encoding: str


def identify(connection: Connection) -> Identity:
    """Return who answers on this connection, as the server itself says it."""
    row = connection.execute(
        "SELECT c.system_identifier::text, d.datname, d.oid::int8, pg_catalog.current_setting('server_version'),"
        " pg_catalog.pg_is_in_recovery(), pg_catalog.pg_encoding_to_char(d.encoding)"
        " FROM pg_catalog.pg_control_system() c, pg_catalog.pg_database d"
        " WHERE d.datname = pg_catalog.current_database()"
    ).fetchone()
    assert row is not None
    system, database, oid, version, standby, encoding = row
    return Identity(
        system, database, oid, version, connection.info.server_version // 10000, standby, encoding
    )
