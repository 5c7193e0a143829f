"""Bringing back what a restore has set aside; what is live then is set aside in its place, with all that was written since."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyladder_ops import catalog, setaside
from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.portable import by_whom
from polyladder_ops.postgres import databases, facts, marks, printable, session, since, standbys, switch
from polyladder_ops.postgres.switch import Ready
from polyladder_ops.settling import after_switch, settled

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.marks import Marked
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.postgres.since import Since
    from polyladder_ops.postgres.switch import Switched
    from polyladder_ops.setaside import Chosen, Say
    from polyladder_ops.site import Site

__all__ = ["Undoing", "undo"]


@dataclass(frozen=True)
class Undoing:
    """What an undo would do: which database comes back, and what was written to the live one since.

    `in_place` is the backup that the last restore in place took of the live one since: what that replaced does not come back.
    """

    live: Target
    aside: Marked
    migration_head: str | None
    since: Since
    is_there: bool = True  # the live one, unless somebody dropped it
    in_place: Backup | None = None


def undo(
    target: Target,
    name: str,
    *,
    site: Site,
    accept: frozenset[str],
    say: Say,
    confirm: Callable[[Undoing], None],
    look_only: bool = False,
) -> tuple[Switched, tuple[str, ...]]:
    """Give the live name back to a database that was set aside; the one that is live now is set aside in its place.

    Return the switch, and in sentences what `accept` let through and what could not be done on standbys. `name` says
    which, empty means the newest; where the live one was dropped, nothing is set aside. With `look_only` nothing at all is
    changed before `confirm`, which has to raise. Raise OpsError if it is gone,
    Refused if migrations were made since that it has not seen (`--accept=migrations` lets that through), or if sessions
    don't end.
    """
    with setaside.locked(target, name, "undo", say, look_only=look_only) as chosen:
        connection, live, aside = chosen.connection, chosen.live, chosen.aside
        head = facts.read_migration_head(live)
        behind = _older_release(aside, head)
        if behind and "migrations" not in accept:
            raise Refused(
                f"{aside.name} is behind the release",
                detail=behind,
                hint="Go back to the app's older release first, then add --accept=migrations; or stay.",
            )
        _expect_whole(connection, live.database)
        _expect_no_prepared(connection, live.database)
        if switch.oid_of(connection, live.database) is None:
            confirm(Undoing(live, aside, head, since.Since(), is_there=False))
        else:
            kept = _kept_in_place(connection, live.database, aside, site)
            confirm(Undoing(live, aside, head, _since(live, aside, site), in_place=kept))
        with settled(connection, chosen.server, live.database, aside.oid):
            switched = _bring_back(chosen, head)
        with after_switch(live.database, switched, now=f"what {aside.name} was"):
            _look_again(connection, live, aside.oid)
            done, left = standbys.follow(connection, chosen.server, switched.aside)
            for sentence in (*done, *left):
                say(sentence)
    return switched, (*((f"migrations: {behind}",) if behind else ()), *left)


def _expect_whole(connection: Connection, live: str) -> None:
    """Return unless somebody began to drop the live database. Raise Refused if so: the server renames no such one."""
    if databases.is_half_dropped(connection, live):
        raise Refused(
            f"{live} is half dropped, so it can't be set aside",
            detail="Somebody began to drop it: nothing in it can be read or kept any more.",
            hint=f"In psql in another database: DROP DATABASE {printable.identifier(live)}; then try again.",
        )


def _expect_no_prepared(connection: Connection, live: str) -> None:
    """Return if no prepared transaction is open in the live database. Raise Refused if one is: no session ends it."""
    rows = connection.execute(
        "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = %s ORDER BY prepared", [live]
    ).fetchall()
    if rows:
        gids = [gid for (gid,) in rows]
        raise Refused(
            f"a prepared transaction keeps {live} from being renamed",
            detail=f"Open: {', '.join(map(printable.literal, gids))}.",
            hint=f"End it in psql, connected to {live}: ROLLBACK PREPARED {printable.literal(gids[0])}, or COMMIT PREPARED.",
        )


def _bring_back(chosen: Chosen, migration_head: str | None) -> Switched:
    connection, live, aside = chosen.connection, chosen.live.database, chosen.aside

    def take_note_off(connection: Connection, name: str) -> None:
        setaside.expect_unused(connection, aside)
        connection.execute(marks.take_off(aside, name))

    ready = Ready(aside.name, aside.oid, take_note_off)
    if switch.oid_of(connection, live) is None:  # somebody dropped it
        return switch.publish(connection, live, ready)
    note = switch.note_of(connection, live, by_whom(), f"undo:{aside.name}", migration_head)
    kept = marks.name_aside(live, note.at, switch.names(connection))
    return switch.exchange(connection, chosen.server, ready, note, kept)


def _older_release(aside: Marked, head: str | None) -> str:
    """Return in a sentence which migrations the set-aside database has not seen; empty if it has seen all."""
    old = aside.mark.migration_head
    if head is None or (old is not None and head <= old):
        return ""
    return f"The live database has the migration {head}, that one stands at {old or 'none'}."


def _since(live: Target, aside: Marked, site: Site) -> Since:
    """Return what was written to the live database since it took the place of the other; never raises."""
    return since.ask(live, aside.mark.baseline, aside.switched_in, _positions(aside, site))


def _kept_in_place(connection: Connection, live: str, aside: Marked, site: Site) -> Backup | None:
    """Return the newest backup that a restore in place took of the live database since it is live; None if none is here."""
    oid = switch.oid_of(connection, live)
    with suppress(OpsError):
        found = catalog.scan(site.folder, setaside.aside_site(site.name)).opened()
        taken = (one for one in found if one.manifest.source.database_oid == oid)
        return next((one for one in taken if one.taken_at > aside.mark.at), None)
    return None


def _positions(aside: Marked, site: Site) -> dict[str, tuple[int, bool]]:
    """Return where the backup that took its place has the sequences; nothing if it is not here, or sealed to a key that isn't."""
    with suppress(OpsError):
        entries = catalog.scan(site.folder, site.name).entries
        wanted = next((entry for entry in entries if entry.id == aside.mark.backup and entry.facts), None)
        if wanted is not None:
            manifest = site.known(wanted.open()).manifest
            return {one.name: (one.value, one.called) for one in manifest.sequences}
    return {}


def _look_again(connection: Connection, live: Target, oid: int) -> None:
    with closing(session.connect(live)) as opened:
        if session.identify(opened).database_oid == oid == switch.oid_of(connection, live.database):
            return
    raise OpsError(
        f"{live.database} is not what was switched to",
        detail="Somebody renamed databases at the same time.",
        hint="Look with `psql -l` and `invoke restore.status`.",
    )
