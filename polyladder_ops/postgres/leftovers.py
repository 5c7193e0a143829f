"""What a run that died left in the cluster, found by asking the server, and put right.

A copy that was being made has a sealed name whose lock nobody holds (`databases.py`). A set-aside database is closed; an
open one was being dumped. A live database is never closed by us; older versions noted on it when they did (`marks.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyladder_ops.postgres import databases, locks, marks, switch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.marks import Marked
    from polyladder_ops.postgres.session import Connection

__all__ = ["Leftover", "find", "settle"]


@dataclass(frozen=True)
class Leftover:
    """One thing that a dead run left: the database, and what has to be done with it."""

    database: str
    detail: str


def find(connection: Connection) -> tuple[Leftover, ...]:
    """Return what dead runs left on this server; what a living run holds is none. Raise OpsError if the server fails."""
    return (
        *(Leftover(name, "a half-made copy") for name in databases.abandoned(connection)),
        *(
            Leftover(marked.name, "half dropped" if marked.is_half_dropped else _SAID[marked.mark.kind])
            for marked in _dead(connection, marks.find(connection))
        ),
    )


_SAID = {"fenced": "closed by a switch that did not come to its end", "aside": "set aside, but open"}


def _dead(connection: Connection, marked: Sequence[Marked]) -> list[Marked]:
    """Return the databases that a dead run left in the wrong state."""
    wrong = [
        m
        for m in marked
        if m.mark.kind == "fenced" or m.is_open or m.name == m.mark.live or m.is_half_dropped
    ]
    return [m for m in wrong if not locks.holder(connection, m.mark.live)]


def settle(connection: Connection, server: Target, live: str) -> tuple[str, ...]:
    """Open `live` again if a dead run closed it, close what it had set aside, drop what is half made or half dropped.

    Return what was done, in sentences. `connection` holds the lock of `live`, so that whoever noted something about it is
    dead. Raise OpsError if the server refuses.
    """
    locks.check(connection, live)
    done = []
    for marked in marks.find(connection):
        if marked.mark.live != live:
            continue
        if marked.mark.kind == "fenced" or marked.name == live:  # the latter was renamed back by hand
            switch.reopen(connection, marked.name, marked.mark)
            done.append(f"opened {marked.name} again")
        elif marked.is_half_dropped:  # nobody can enter, open or close such a one any more
            databases.drop(server, marked.name)
            done.append(f"dropped the rest of {marked.name}")
        elif marked.is_open:
            switch.close(connection, marked.name)
            done.append(f"closed {marked.name} again")
    done += [f"dropped the half-made copy {name}" for name in databases.drop_abandoned(server)]
    return tuple(done)
