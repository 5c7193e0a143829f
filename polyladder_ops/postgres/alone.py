"""A database that nobody enters any more: whoever is in it is one of ours, so that what is proved is what goes live."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

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


def shut(server: Connection, name: str, ours: Sequence[Connection]) -> None:
    """Let nobody into the database `name` any more, a superuser neither, and end every session there but `ours`.

    `server` is a session of ours in another database. Raise OpsError if one does not end: it could write still.
    """
    with translated(f"could not close {name}"):
        pids = [backend_of(connection) for connection in ours]
        switch.close(server, name)
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
