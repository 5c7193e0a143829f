"""The databases that restores have set aside: the way back, until they are dropped, which takes a verified backup of them.

A set-aside database is closed, and marked (`postgres/marks.py`). What somebody has renamed, opened or entered since is in use,
and left alone; what only an older version's note says is acted on if a person has named it. To be dumped it is opened for that time; what is dumped from it belongs to a site of its own
(`production-aside`), so that it can never be somebody's `latest`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyladder_ops import backups, verification
from polyladder_ops.errors import Mismatch, OpsError, Refused
from polyladder_ops.postgres import (
    leftovers,
    locks,
    marks,
    printable,
    session,
    switch,
)
from polyladder_ops.site import ASIDE
from polyladder_ops.terminal import quoted

if TYPE_CHECKING:
    from polyladder_ops.backups import Options
    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.leftovers import Leftover
    from polyladder_ops.postgres.marks import Marked
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.site import Site

__all__ = [
    "Chosen",
    "Status",
    "abort",
    "aside_site",
    "back_up",
    "expect_unused",
    "locked",
    "pick",
    "refuse_unverifiable",
    "status",
    "take",
    "verified",
]

_UNASKED = "could not look for set-aside databases"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Status:
    """What restores have left on a server: set-aside databases newest first, leftovers of dead runs, who works now.

    `used` was set aside and taken into use since; of `claimed` only a note says so, which its owner can write, too; of `others`
    only another role, which may be true: it acts on them.
    """

    asides: tuple[Marked, ...]
    leftovers: tuple[Leftover, ...]
    holder: str
    used: tuple[Marked, ...] = ()
    claimed: tuple[Marked, ...] = ()
    looking: tuple[str, ...] = ()  # the SQL lines that open the newest to be looked into, and close it again
    live: str = ""  # the database that was asked for
    others: tuple[Marked, ...] = ()


def status(target: Target) -> Status:
    """Return what the server shows; whose databases they were is in their notes. Raise OpsError if it can't be asked."""
    server = locks.maintenance(target)
    with closing(session.connect(server)) as connection, session.translated(_UNASKED):
        found = _asides(connection)
        ours = tuple(m for m in found if not m.is_claim and not m.use)
        return Status(
            ours,
            leftovers.find(connection, target.database),
            locks.holder(connection, target.database),
            tuple(m for m in found if m.use),
            tuple(m for m in found if m.is_claim),
            switch.to_look_into(server.database, ours[0].name) if ours else (),
            target.database,
            _of_others(connection, {m.oid for m in found}),
        )


def _of_others(connection: Connection, known: Container[int]) -> tuple[Marked, ...]:
    each = (m for m in marks.of_others(connection) if m.mark.kind == "aside" and m.name != m.mark.live)
    return tuple(m for m in each if m.oid not in known and not m.is_half_dropped)


def to_settle(found: Iterable[Leftover], live: str) -> str:
    """Return as a hint the commands that put these right, for who acts on `live`."""
    names = sorted(
        {one.live or live for one in found if not one.is_used}, key=lambda name: (name != live, name)
    )
    flags = ["" if name == live else f" --into={quoted(name)}" for name in names]
    commands = " and ".join(f"`invoke restore.abort{flag}`" for flag in flags)
    return (
        f"Run {commands}."
        if commands
        else "What is in use no task touches: drop it in psql if nobody needs it."
    )


def _asides(connection: Connection) -> tuple[Marked, ...]:
    found = (*marks.find(connection), *marks.claims(connection))
    asides = [m for m in found if m.mark.kind == "aside" and m.name != m.mark.live and not m.is_half_dropped]
    return marks.newest_first(asides)


@contextmanager
def locked(target: Target, name: str, doing: str, say: Say, *, look_only: bool = False) -> Iterator[Chosen]:
    """Within the block the set-aside database that is meant, and the lock of the name that it had.

    What a dead run left is put right first, unless we are here to look only.
    """
    server = locks.maintenance(target)
    with closing(session.connect(server)) as connection, session.translated(_UNASKED):
        asides = _asides(connection)
        _expect_ours(connection, asides, name, target.database)
        live = pick(asides, name, target.database).mark.live
    with locks.exclusive(server, live, doing=doing, say=say, ends=not look_only) as connection:
        for sentence in () if look_only else leftovers.settle(connection, server, live):
            say(sentence)
        aside = pick([m for m in _asides(connection) if m.mark.live == live], name, live)
        _expect_rights(connection, aside)
        yield Chosen(connection, server, server.with_database(live), aside)


@dataclass(frozen=True)
class Chosen:
    """A set-aside database, the name that it had, and the session that holds the lock of that name."""

    connection: Connection
    server: Target
    live: Target
    aside: Marked


def abort(target: Target, *, say: Say = lambda _sentence: None) -> tuple[str, ...]:
    """Put right what a run that died left of this database; return what was done, in sentences.

    `say` gets which strangers stood in the way. Raise Busy if a run that lives holds the lock, OpsError if the server fails.
    """
    server = locks.maintenance(target)
    with locks.exclusive(server, target.database, doing="abort", say=say) as connection:
        done = leftovers.settle(connection, server, target.database)
        found = leftovers.find(connection, target.database)
        for one in (one for one in found if one.is_used):
            say(f"{one.name}: {one.detail}")
        if left := [one for one in found if not one.is_used]:
            raise OpsError(
                f"{len(left)} leftovers are still there",
                detail="; ".join((*done, *(f"{one.name}: {one.detail}" for one in left))),
                hint=f"They are of another database's restore or of another role. {to_settle(left, target.database)}",
            )
    return done


def pick(found: Sequence[Marked], name: str, live: str) -> Marked:
    """Return the set-aside database of this name; without one the newest that `live` was, and is known to have been.

    Raise Refused if somebody has taken it into use, or if it was set aside from another database than `live`; OpsError if
    there is none.
    """
    of_live = [m for m in found if m.mark.live == live]
    ours = [m for m in of_live if not m.is_claim and not m.use]
    fitting = [m for m in found if m.name == name] if name else ours or [m for m in of_live if m.use]
    if fitting and fitting[0].mark.live != live:
        raise Refused(
            f"{name} was set aside from {fitting[0].mark.live}, not from {live}",
            detail=f"Nothing was done to {live} or to {name}.",
            hint=f"If the place of {fitting[0].mark.live} is meant, add --into={quoted(fitting[0].mark.live)}.",
        )
    if fitting:
        return _unused(fitting[0])
    there = ", ".join(m.name for m in of_live)
    raise OpsError(
        f"there is no set-aside database {name}" if name else f"there is no set-aside database of {live}",
        detail=f"Set aside from {live}: {there}." if there else "None was kept, or it was discarded.",
        hint="Name one with --database; `invoke restore.status` lists them."
        if there
        else "What was discarded after a backup is one of another site: `invoke backup.list` names them.",
    )


def _expect_ours(connection: Connection, found: Sequence[Marked], name: str, live: str) -> None:
    """Return unless only another role says that it set aside what is meant. Raise Refused then: it is there, and not ours."""

    def is_meant(one: Marked) -> bool:
        return one.mark.kind == "aside" and (one.name == name if name else one.mark.live == live)

    if any(map(is_meant, found)):
        return
    for one in filter(is_meant, marks.of_others(connection)):
        raise Refused(
            f"{one.name} was set aside by the role {one.role}",
            detail="That is what this role has noted of it, and any role can note that: nothing was done to it.",
            hint=f"Do it as {one.role}: set DATABASE_URL so.",
        )


def _unused(aside: Marked) -> Marked:
    """Return it if it is as we left it. Raise Refused if not."""
    if not aside.use:
        return aside
    was = aside.mark.name
    said = f"it was {aside.use} since" + (f" (we had named it {was})" if was != aside.name else "")
    raise Refused(
        f"{aside.name} has been taken into use",
        detail=f"It was set aside from {aside.mark.live}, and {said}.",
        hint=f"If nobody needs it so, close it in psql in another database: {'; '.join(_closing(aside))}; then try again.",
    )


def _closing(aside: Marked) -> tuple[str, ...]:
    """Return what makes a database again that is as we left it."""
    name, was = printable.identifier(aside.name), printable.identifier(aside.mark.name)
    renames = (f"give it the name {aside.mark.name} again: ALTER DATABASE {name} RENAME TO {was}",)
    return (
        f"ALTER DATABASE {name} ALLOW_CONNECTIONS false",
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {printable.literal(aside.name)}",
        *(renames if aside.name != aside.mark.name else ()),
    )


def _expect_rights(connection: Connection, aside: Marked) -> None:
    """Return if we may take its mark off. Raise Refused if not: what goes live must not carry it."""
    row = connection.execute(
        "SELECT rolname::text, rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"
    ).fetchone()
    if row and not row[1] and aside.role not in ("", row[0]):
        raise Refused(
            f"{aside.name} was set aside by the role {aside.role}",
            detail=f"We are {row[0]}, who may not change that role's mark on it.",
            hint=f"Do it as {aside.role}: set DATABASE_URL so.",
        )


def expect_unused(connection: Connection, aside: Marked) -> None:
    """Return if a set-aside database is as it was chosen. Raise Refused if somebody has taken it into use since."""
    now = marks.of(connection, aside.oid)
    if now is None or now.name != aside.name or (now.is_open and not (aside.is_open or now.mark.is_dumped)):
        raise Refused(
            f"{aside.name} has been taken into use meanwhile",
            detail="It was renamed or opened after it was looked at. It was left as it is.",
            hint="Look with `invoke restore.status`.",
        )
    _unused(now)


def aside_site(site: str) -> str:
    """Return the site that backups of set-aside databases carry."""
    return f"{site}{ASIDE}"


def back_up(live: Target, site: Site, options: Options) -> Backup:
    """Return a verified backup of a database that is about to be overwritten; it belongs to the site `<site>-aside`.

    Raise Refused if it would be encrypted and no key is here to verify it, OpsError if it can't be dumped, Mismatch if
    what was dumped does not verify.
    """
    refuse_unverifiable(site, options)
    return verified(take(live, site, options), site)


def take(target: Target, site: Site, options: Options) -> Backup:
    """Return a backup of this database for the site `<site>-aside`. Raise OpsError if it can't be dumped."""
    return backups.take(
        target, site.folder, site=aside_site(site.name), private=site.private, options=options
    )


def refuse_unverifiable(site: Site, options: Options) -> None:
    """Return if a backup could be verified here. Raise Refused if it would be encrypted and no key is set."""
    if options.recipients and not site.settings.backup_age_identity_file:
        raise Refused(
            "a backup of what is there now could not be verified here",
            detail="It would be encrypted, and no private key is set.",
            hint="Set BACKUP_AGE_IDENTITY_FILE, or say --without-backup.",
        )


def verified(made: Backup, site: Site) -> Backup:
    """Return the backup if its stored bytes are what was dumped. Raise Mismatch if not, Unrecorded if that can't be kept."""
    try:
        verdict = verification.verify_stored(made, site.keys(encrypted=made.manifest.encrypted))
    except verification.Unrecorded as error:
        if error.verdict.passed:
            raise
        verdict = error.verdict
    if not verdict.passed:
        raise Mismatch(
            f"the backup {made.id} is {verdict.verdict}, so nothing was dropped",
            detail="; ".join(verdict.reasons),
            hint="Check the disk under BACKUP_DIR, then try again.",
        )
    return made
