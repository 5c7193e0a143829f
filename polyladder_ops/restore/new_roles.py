"""The roles that a restore makes because the server has not got them: they go again if it does not happen.

Until the switch they bear a mark (`postgres/role_marks.py`), so that those of a run that was killed are known.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from polyladder_ops.postgres import roles, session
from polyladder_ops.undoing import undone_if_failing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.properties import Role
    from polyladder_ops.postgres.session import Connection

__all__ = ["made"]


@contextmanager
def made(
    connection: Connection,
    server: Target,
    wanted: Sequence[Role],
    live: str,
    *,
    say: Callable[[str], None],
    is_live: Callable[[Connection], bool],
) -> Iterator[tuple[str, ...]]:
    """Within the block the missing roles are there, for the database `live`; its value are their names.

    Who switches calls `roles.finish` in that very transaction. If the block fails they are dropped again, unless `is_live` says that the copy has become the database: then they own it.
    """
    names, lacking = roles.create_missing(connection, wanted, live)
    if names:
        say(f"made the roles {', '.join(names)}, without passwords")
    for not_applied in lacking:
        say(f"not given to a new role: {not_applied}")
    if not names:
        yield ()
        return
    with undone_if_failing(f"the roles {', '.join(names)}", partial(_drop, server, names, is_live)):
        yield names


def _drop(server: Target, names: Sequence[str], is_live: Callable[[Connection], bool]) -> None:
    """Drop them by a session of its own: the one that made them may be what failed."""
    with closing(session.connect(server)) as connection:
        if not is_live(connection):
            roles.drop(connection, names)
