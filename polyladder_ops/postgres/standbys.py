"""Standbys of a server: they replay a switch a little later, and their open sessions go on reading the old database.

A renaming does not disturb a session (a drop would), so sessions there have to be ended there. A standby is reached under
the address from which it fetches WAL, with the login of the primary.
"""

from __future__ import annotations

import contextlib
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.postgres.session import connect, identify, translated

if TYPE_CHECKING:
    from polyladder_ops.postgres.session import Connection

__all__ = ["Standby", "find", "follow", "reach"]

_REPLAY_S = 60.0
_LOOK_S = 0.05
_REACH_S = 5
# Without port 5432's proxy in between, PostgreSQL itself listens there on Fly.
_DIRECT_PORT = 5433


@dataclass(frozen=True)
class Standby:
    """A server that replays this one's WAL, by the name and the address that the primary sees; empty for a socket."""

    name: str
    address: str

    def __str__(self) -> str:
        return f"{self.name} at {self.address or 'its own machine'}"


_STANDBYS = """
SELECT coalesce(nullif(r.application_name, ''), 'a standby'), coalesce(pg_catalog.host(r.client_addr), '')
FROM pg_catalog.pg_stat_replication r
WHERE r.application_name NOT IN ('pg_basebackup', 'pg_receivewal') AND r.state IS DISTINCT FROM 'backup'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_type = 'logical')
ORDER BY 1, 2
"""


def find(connection: Connection) -> tuple[Standby, ...]:
    """Return the standbys that fetch WAL from this server now. Raise psycopg.Error if it fails."""
    return tuple(Standby(*row) for row in connection.execute(_STANDBYS).fetchall())


def reach(server: Target, standby: Standby) -> Target | None:
    """Return how to reach a standby of this server with the same login, None if it can't be reached from here."""
    with closing(connect(server)) as primary:
        system = identify(primary).system_identifier
    for port in (server.port, _DIRECT_PORT):
        parameters = {**server.parameters, "host": standby.address or server.host, "port": str(port)}
        parameters.pop("hostaddr", None)
        target = Target.of(**parameters)
        with contextlib.suppress(OpsError), closing(connect(target, timeout_s=_REACH_S)) as there:
            found = identify(there)
            if found.is_standby and found.system_identifier == system:
                return target
    return None


def follow(connection: Connection, server: Target, aside: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Wait until every standby has replayed the switch, and end their sessions on the database that was set aside.

    Return in sentences what was done, and what could not be done. Raise OpsError if the primary fails.
    """
    with translated("could not ask for the standbys"):
        behind = _behind(connection)
        there = find(connection)
    done, left = (
        [],
        [f"the standby {name} has not replayed the switch within {_REPLAY_S:.0f} s" for name in behind],
    )
    for standby in there if aside else ():
        target = reach(server, standby)
        if target is None:
            left.append(f"sessions on the standby {standby} may go on reading {aside}")
            continue
        with (
            translated(f"could not end sessions on the standby {standby}"),
            closing(connect(target)) as session,
        ):
            row = session.execute(
                "SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity WHERE datname = %s",
                [aside],
            ).fetchone()
        done.append(f"ended {row[0] if row else 0} sessions on the standby {standby}")
    return tuple(done), tuple(left)


def _behind(connection: Connection) -> list[str]:
    """Return the standbys that have not replayed what is written now, after waiting for them."""
    row = connection.execute("SELECT pg_catalog.pg_current_wal_insert_lsn()::text").fetchone()
    deadline = time.monotonic() + _REPLAY_S
    while True:
        late = connection.execute(
            _STANDBYS.replace(
                "ORDER BY", "AND r.replay_lsn IS DISTINCT FROM greatest(r.replay_lsn, %s::pg_lsn) ORDER BY"
            ),
            row,
        ).fetchall()
        if not late or time.monotonic() > deadline:
            return [str(Standby(*one)) for one in late]
        time.sleep(_LOOK_S)
