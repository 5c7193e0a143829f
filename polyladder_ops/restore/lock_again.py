"""Taking a lock again that was lost before the switch: the server let go of it, since it did not hear us for half a minute.

A laptop slept, or a link was cut. Meanwhile anybody may have taken the lock and changed whatever it kept from being changed, so
it counts only if it is free and the copy is there still, the same database by its oid: whoever cleans up drops a copy
that nobody holds. Whether the live database is the one that was looked at, the switch asks by its oid, too.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from polyladder_ops.postgres import databases, heartbeat, locks, session, switch
from polyladder_ops.postgres.locks import Busy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.errors import OpsError
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.session import Connection

__all__ = ["taken"]

_LETS_GO_S = (
    heartbeat.SILENT_S + 5.0
)  # after which the server has ended a session of ours that it does not hear
_LOOK_S = 0.5


@contextmanager
def taken(server: Target, live: str, copy: str, oid: int | None, lost: OpsError) -> Iterator[Connection]:
    """Within the block a new session that holds the lock of `live`, and that of its copy, the database `oid`.

    Raise Busy if another run has it, and what was `lost` if the copy is gone.
    """
    deadline = time.monotonic() + _LETS_GO_S
    with ExitStack() as stack:
        connection = None
        while connection is None:
            try:
                connection = stack.enter_context(locks.exclusive(server, live, doing="restore"))
            except Busy:  # our own old session, perhaps
                if time.monotonic() > deadline:
                    raise
                time.sleep(_LOOK_S)
        with session.translated(lost.message):
            databases.hold(connection, copy)
            if switch.oid_of(connection, copy) != oid:
                raise lost
        yield connection
