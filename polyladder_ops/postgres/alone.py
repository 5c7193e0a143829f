"""A database that nobody enters any more: whoever is in it is one of ours, so that what is proved is what goes live."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from psycopg import errors

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import switch
from polyladder_ops.postgres.session import backend_of, translated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polyladder_ops.postgres.session import Connection

__all__ = ["shut"]

_ENDING_S = 10.0
_LOOK_S = 0.02
_OTHERS = """
SELECT a.pid, coalesce(a.usename, '')::text, pg_catalog.pg_terminate_backend(a.pid)
FROM pg_catalog.pg_stat_activity a
WHERE a.datname = %s AND a.pid <> ALL (%s) AND a.usesysid IS NOT NULL
"""
# Autovacuum enters a closed database, and runs code of whoever owns a table there (an index's functions), as him.
_WORKERS = """
SELECT pg_catalog.pg_terminate_backend(a.pid)
FROM pg_catalog.pg_stat_activity a JOIN pg_catalog.pg_roles r ON r.rolname = current_user
WHERE a.datname = %s AND a.backend_type = 'autovacuum worker' AND r.rolsuper
"""
# Whatever is not known to have changed since it was analyzed needs no worker.
_NOTHING_TO_DO = "SELECT pg_catalog.pg_stat_reset()"


def shut(server: Connection, name: str, ours: Sequence[Connection]) -> None:
    """Let nobody into the database `name` any more, a superuser neither, and end every session there but `ours`.

    `server` is a session of ours in another database. Raise OpsError if one does not end: it could write still.
    """
    with translated(f"could not close {name}"):
        pids = [backend_of(connection) for connection in ours]
        switch.close(server, name)
        for connection in ours[:1]:
            with contextlib.suppress(errors.InsufficientPrivilege):
                connection.execute(_NOTHING_TO_DO)
        server.execute(_WORKERS, [name])
        deadline = time.monotonic() + _ENDING_S
        while others := server.execute(_OTHERS, [name, pids]).fetchall():
            if time.monotonic() > deadline:
                who = "; ".join(f"process {pid} of {role}" for pid, role, _ in others[:5])
                raise OpsError(
                    f"somebody is in {name} and does not go",
                    detail=f"It is {who}. What is proved there could be changed.",
                    hint="End that session as a superuser, then run the same command again.",
                )
            time.sleep(_LOOK_S)
