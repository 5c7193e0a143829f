"""Asking a database one question that changes nothing, whatever it says, and hearing an answer or why there is none."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import psycopg
from psycopg import errors

from polyladder_ops.postgres.session import connect, translated

if TYPE_CHECKING:
    from collections.abc import Generator
    from datetime import datetime

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.session import Connection

__all__ = ["Reply", "Rights", "ask", "ask_on", "rights"]

_NAMELESS = (errors.UndefinedTable, errors.UndefinedFunction, errors.UndefinedObject)
_UNQUALIFIED = "; names need their schema here, as in public.users"


@dataclass(frozen=True)
class Reply:
    """The rows as Python values, the server's clock when it was asked, and what failed (empty: nothing)."""

    rows: tuple[tuple[Any, ...], ...]
    at: datetime
    failure: str = ""


@dataclass(frozen=True)
class Rights:
    """Who asks, and whose database it is."""

    role: str
    is_superuser: bool
    owner: str
    owner_is_superuser: bool


_RIGHTS = """
SELECT current_user::text, pg_catalog.current_setting('is_superuser') = 'on', o.rolname::text, o.rolsuper
FROM pg_catalog.pg_database d JOIN pg_catalog.pg_roles o ON o.oid = d.datdba
WHERE d.datname = pg_catalog.current_database()
"""


def rights(target: Target) -> Rights:
    """Return who we are in this database, and whose it is. Raise OpsError if the server can't be reached."""
    with closing(connect(target)) as connection, translated("could not ask whose the database is"):
        ((role, is_superuser, owner, owner_is),) = connection.execute(_RIGHTS).fetchall()
    return Rights(role, is_superuser, owner, owner_is)


def ask(target: Target, question: str, *, timeout_s: float, rows: int) -> Reply:
    """Return what the server answers on a session of the question's own; as `ask_on`.

    Raise OpsError only if the server can't be reached.
    """
    with closing(connect(target)) as connection:
        return ask_on(connection, question, timeout_s=timeout_s, rows=rows)


def ask_on(connection: Connection, question: str, *, timeout_s: float, rows: int) -> Reply:
    """Return what the server answers, `rows` and one more at most, from a read-only transaction that is rolled back.

    The search path is empty: what anybody put into the schema public is not called by accident. Raise OpsError if the
    session is lost.
    """
    with translated("the session for the checks was lost"):
        connection.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = connection.execute("SELECT pg_catalog.clock_timestamp()").fetchone()
        assert row is not None
        try:
            limit = f"SET LOCAL statement_timeout = {max(1, round(timeout_s * 1000))}"
            connection.execute(limit.encode())
            # `stream` sends one statement only, whatever the text holds, and fetches no more than it is asked for.
            answer = cast("Generator[Any]", connection.cursor().stream(question.encode()))
            with closing(answer):
                return Reply(tuple(islice(answer, rows + 1)), row[0])
        except psycopg.Error as error:
            return Reply((), row[0], _said(error))
        finally:
            if not connection.closed:
                connection.execute("ROLLBACK")  # with what the question set


def _said(error: psycopg.Error) -> str:
    """Return the server's message without values: those of rows are nobody's business here."""
    message = error.diag.message_primary or str(error)
    if (error.sqlstate or "").startswith("22"):
        message = re.sub(r'".*"', '"…"', message, flags=re.DOTALL)
    hint = _UNQUALIFIED if isinstance(error, _NAMELESS) else ""
    return " ".join(message.split()).rstrip(".") + hint
