"""What a run that died left in the cluster, found by asking the server, and put right.

A copy that was being made has a sealed name whose lock nobody holds (`databases.py`). A set-aside database is closed; if its
mark says that we have opened it, it was being dumped. A role that was made for one bears a mark (`role_marks.py`). One that somebody has renamed, opened or entered since is in use, and
left alone. A live database is never closed by us; older versions noted on it when they did (`marks.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from polyladder_ops.postgres import databases, locks, logins, marks, role_marks, switch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.marks import Marked
    from polyladder_ops.postgres.role_marks import Made
    from polyladder_ops.postgres.session import Connection

__all__ = ["Leftover", "fences", "find", "settle"]


@dataclass(frozen=True)
class Leftover:
    """One thing that a dead run left: the database or role, and how it is; `live` is whose place it is about."""

    database: str
    detail: str
    is_used: bool = False  # by somebody since: it is left alone
    live: str = field(default="", compare=False)
    role: str = ""

    @property
    def name(self) -> str:
        """What it is called where people read it."""
        return self.database or f"the role {self.role}"


def find(connection: Connection, live: str) -> tuple[Leftover, ...]:
    """Return what dead runs left on this server, and fences of older versions on `live`; what a living run holds is none.

    Raise OpsError if the server fails.
    """
    wrong = [
        (marked, why)
        for marked in (*marks.find(connection), *fences(connection, live))
        if (why := _why(marked)) and not locks.holder(connection, marked.mark.live)
    ]
    copies = databases.abandoned(connection)
    return (
        *_half_made(copies, switch.names(connection)),
        *(
            Leftover(
                name,
                f"a half-made copy that somebody has taken into use ({why}): it is left alone",
                is_used=True,
            )
            for name, why in databases.used(connection).items()
        ),
        *(Leftover(marked.name, why, live=marked.mark.live) for marked, why in wrong),
        *(
            _role(made)
            for made in role_marks.find(connection, copies)
            if not locks.holder(connection, made.live)
        ),
    )


def _half_made(names: Sequence[str], databases: AbstractSet[str]) -> Iterator[Leftover]:
    for name in names:
        if name in databases:
            yield Leftover(name, "a half-made copy")
        else:
            yield Leftover("", f"the login of {logins.whose(name)} that died", role=name)


def _role(made: Made) -> Leftover:
    use = f"; somebody has taken it into use, so it stays ({made.use})" if made.use else ""
    return Leftover("", f"made for a restore that died{use}", live=made.live, role=made.name)


def fences(connection: Connection, live: str) -> tuple[Marked, ...]:
    """Return the database `live` if a note in its comment says that an older version closed it, or set it aside before.

    Its owner can write that too, and gains nothing by it that an owner can't do.
    """
    return tuple(m for m in marks.claims(connection) if m.name == m.mark.live == live)


_HALF = "half dropped"


def _why(marked: Marked) -> str:
    """Return how a dead run left a database, empty if it is as it should be or somebody's."""
    if marked.is_half_dropped and not marked.is_claim:
        return _HALF
    if marked.mark.kind == "fenced":
        return "closed by a switch that did not come to its end"
    if marked.name == marked.mark.live:
        return "renamed back by hand, and still marked"
    return "set aside, but open" if marked.is_open and not marked.use else ""


def settle(connection: Connection, server: Target, live: str) -> tuple[str, ...]:
    """Open `live` again if a dead run closed it, close what it had set aside, drop what is half made or half dropped, and roles of it.

    Return what was done, in sentences. `connection` holds the lock of `live`, so that whoever noted something about it is
    dead. Raise OpsError if the server refuses.
    """
    locks.check(connection, live)
    done = []
    for marked in (*marks.find(connection), *fences(connection, live)):
        if marked.mark.live != live or not (why := _why(marked)):
            continue
        if why == _HALF:  # nobody can enter, open or close such a one any more
            databases.drop(server, marked.name)
            done.append(f"dropped the rest of {marked.name}")
        elif marked.name == live:  # closed by an older version, or renamed back by hand
            switch.reopen(connection, marked)
            done.append(f"opened {marked.name} again")
        else:
            switch.close_again(connection, marked)
            done.append(f"closed {marked.name} again")
    there = switch.names(connection)
    for name in databases.drop_abandoned(server):
        is_copy = name in there
        done.append(
            f"dropped {'the half-made copy' if is_copy else f'the login of {logins.whose(name)},'} {name}"
        )
    return (*done, *role_marks.drop_unused(connection, live, _in_hand(connection)))


def _in_hand(connection: Connection) -> list[str]:
    """Return the copies that a living run makes, ours too: a role that is needed there is neither dropped nor in use."""
    copies = filter(databases.is_temporary, switch.names(connection))
    return [name for name in copies if locks.holder(connection, name)]
