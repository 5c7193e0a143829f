"""What to do when a switch fails or its answer is lost: ask the server what is true.

Nothing has to be put right for the app: what was not committed the server has taken back, or does so within ten seconds.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from polyladder_ops.errors import Interrupted, OpsError
from polyladder_ops.postgres import databases, leftovers, locks, marks, session, switch
from polyladder_ops.undoing import at_work, standing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.postgres.switch import Switched

__all__ = ["after_switch", "settled"]

_LOOK = "Look with `invoke restore.status`."
_BACK = "Look with `invoke restore.status`; `invoke restore.undo` takes it back."
_CONNECT_S = "5"
_AGAIN_S = 20.0  # that a server may take to notice that a session of ours is gone, or to start again


@contextmanager
def settled(connection: Connection, server: Target, live: str, oid: int | None) -> Iterator[None]:
    """Within the block a switch to the database `oid` is tried; if it fails, what is true then is found out and told."""
    with standing(f"Which database is {live} was not found out"):
        pid = session.backend_of(connection)
        try:
            yield
        except BaseException as error:
            try:
                with at_work(f"finding out which database is {live}", error):
                    _end_if_stuck(connection, server, pid)
                    _settle(connection, server, live, oid, error)
            except OpsError as left:
                if left.__cause__ is error:
                    raise
                raise _unknown(live, error, left) from error
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted(
                    f"interrupted by {str(error) or 'Ctrl-C'}",
                    detail=f"{live} is what it was; nothing was switched.",
                    hint="`invoke restore.status` shows if anything is left.",
                ) from error
            if isinstance(error, OpsError):
                raise
            with session.translated(f"the switch failed, so {live} was left as it was"):
                raise


def _unknown(live: str, error: BaseException, left: OpsError) -> OpsError:
    stopped = isinstance(error, KeyboardInterrupt)
    said = f"interrupted by {str(error) or 'Ctrl-C'}" if stopped else "the switch failed"
    kind = Interrupted if stopped else OpsError
    return kind(
        f"{said}, and which database is {live} could not be found out",
        detail=f"{'' if stopped else f'{_said(error)}. Then: '}{left.message}. {left.detail}".rstrip(),
        hint="It takes sessions, whichever it is. As soon as the server answers, `invoke restore.status` shows what was"
        " set aside, and `invoke restore.abort` drops a copy that is left.",
    )


def _said(error: BaseException) -> str:
    said = error.in_a_line if isinstance(error, OpsError) else " ".join(str(error).split())
    return said.rstrip(".")


def _end_if_stuck(connection: Connection, server: Target, pid: int) -> None:
    """Hang up if the session can't be told anything; then the server does not go on with what it was told last."""
    if session.is_usable(connection):
        return
    with suppress(OpsError):  # who takes the lock again hears whether it is gone
        connection.close()
        databases.end_session(server, pid)


def _settle(connection: Connection, server: Target, live: str, oid: int | None, error: BaseException) -> None:
    """Find out what is true once the session that tried is done, since its COMMIT may be under way."""
    with _lock_again(connection, server, live) as holding:
        _find_out(holding, server, live, oid, error)


def _find_out(
    connection: Connection, server: Target, live: str, oid: int | None, error: BaseException
) -> None:
    """Ask which database has the live name. Raise OpsError if it is the new one; else drop what else is left half made."""
    with session.translated("could not ask which database is live"):
        now = switch.oid_of(connection, live)
    if now is not None and now == oid:
        hint = _way_back(connection, live)
        if isinstance(error, KeyboardInterrupt):
            said = f"interrupted by {str(error) or 'Ctrl-C'}, but {live} was switched before"
            raise Interrupted(said, detail="It is the new database now.", hint=hint) from error
        raise OpsError(
            f"{live} was switched, but what came after it failed",
            detail=f"It is the new database now. {_said(error)}.",
            hint=hint,
        ) from error
    leftovers.settle(connection, server, live)


def _way_back(connection: Connection, live: str) -> str:
    """Return the hint for who does not want what is live now; an undo is named only if something was set aside."""
    with suppress(OpsError):
        if any(marked.mark.live == live for marked in marks.find(connection)):
            return _BACK
    return _LOOK


@contextmanager
def _lock_again(connection: Connection, server: Target, live: str) -> Iterator[Connection]:
    """Within the block a session that holds the lock: the old one, or if it is lost, a new one.

    The server may need a while to notice that the old one is gone.
    """
    if session.is_usable(connection):
        yield connection
        return
    deadline = time.monotonic() + _AGAIN_S
    soon = server.changed(connect_timeout=_CONNECT_S)
    with ExitStack() as stack:
        again = None
        while again is None:
            try:
                again = stack.enter_context(locks.exclusive(soon, live, doing="clean-up"))
            except OpsError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        yield again


@contextmanager
def after_switch(live: str, switched: Switched, *, now: str = "the restored database") -> Iterator[None]:
    """Within the block whatever goes wrong, a Ctrl-C too, says that the switch is done; `now` is what is live."""
    aside = f" What it was before is {switched.aside}." if switched.aside else ""
    try:
        with session.translated(f"{live} was switched, but the last look at it failed"):
            yield
    except OpsError as error:
        error.detail = f"{error.detail} The switch itself was made.{aside}".strip()
        raise
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"interrupted after the switch: {live} is {now}",
            detail=f"Its last look was not made.{aside}",
            hint=_BACK if switched.aside else _LOOK,
        ) from error
