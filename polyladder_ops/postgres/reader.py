"""The login by which a copy is asked questions: one that may read everything, and write and lend nothing.

A question is a SELECT, and whatever it selects from may run code of whoever made it. Of a copy that may be a login's that is
made for the run. Row security would hide rows from it, so it stands above that.
"""

from __future__ import annotations

import contextlib
import secrets
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import databases, session
from polyladder_ops.redaction import hide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.session import Connection

__all__ = ["Reader", "opened"]

_SINCE = 14  # knows the role pg_read_all_data
_READING = {"max_parallel_workers_per_gather": "0"}  # some minors refuse workers in a database that is closed
_GONE = "DROP OWNED BY {}; DROP ROLE {}"


@dataclass(frozen=True)
class Reader:
    """A session for questions; `by_ourselves` says why it is our own role's, empty if it is not."""

    connection: Connection
    by_ourselves: str = ""

    @property
    def said(self) -> tuple[str, ...]:
        """What people should know of it, in sentences."""
        if not self.by_ourselves:
            return ()
        return (
            f"your checks were asked by our own role, since no login could be made for them ({self.by_ourselves})",
        )


@contextlib.contextmanager
def opened(server: Connection, target: Target) -> Iterator[Reader]:
    """Within the block a session for questions to the database `target`, by a login that is gone afterwards.

    `server` is a session of ours in another database of that server. Where no such login can be made or let in, it is a
    session of ours, which is told. Raise OpsError if that can't be had either.
    """
    name = databases.temporary_name("check")
    password = secrets.token_urlsafe(24)
    hide(password)
    why = _made(server, name, password, target)
    try:
        with contextlib.ExitStack() as stack:
            if not why:
                login = target.as_login(name, password, options="")
                try:
                    connection = stack.enter_context(closing(session.connect(login, settings=_READING)))
                except OpsError as error:
                    if session.is_full(error):  # whoever may connect can bring that about
                        raise
                    why = f"{error.message}: {error.detail}".rstrip(". ")
            if why:
                connection = stack.enter_context(closing(session.connect(target, settings=_READING)))
            yield Reader(connection, why)
    finally:
        with contextlib.suppress(psycopg.Error):  # the next run drops what a lost connection leaves
            _drop(server, name)


def _made(server: Connection, name: str, password: str, target: Target) -> str:
    """Make the login; return why it could not be made, empty if it was."""
    if server.info.server_version < _SINCE * 10000:
        return f"before PostgreSQL {_SINCE} no role may read everything and nothing else"
    role = sql.Identifier(name)
    verifier = server.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
    try:
        databases.hold(server, name)
        row = server.execute("SELECT (pg_catalog.now() + '1 day')::text").fetchone()
        assert row is not None
        with server.transaction():
            for statement in (
                sql.SQL(
                    "CREATE ROLE {} LOGIN BYPASSRLS PASSWORD {} VALID UNTIL {} IN ROLE pg_read_all_data"
                ).format(role, verifier, row[0]),
                sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(target.database), role),
            ):
                server.execute(statement)
    except psycopg.Error as error:
        return session.in_short(error)
    return ""


def _drop(server: Connection, name: str) -> None:
    role = sql.Identifier(name)
    if server.execute("SELECT FROM pg_catalog.pg_roles WHERE rolname = %s", [name]).fetchone() is not None:
        server.execute(sql.SQL(_GONE).format(role, role))
