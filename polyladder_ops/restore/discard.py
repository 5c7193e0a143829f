"""Dropping a set-aside database for good, once a backup of it is verified.

A set-aside database is closed; it is open only while it is dumped.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from polyladder_ops import catalog, setaside
from polyladder_ops.errors import OpsError
from polyladder_ops.interrupts import cleaning, held
from polyladder_ops.postgres import databases, locks, session, switch
from polyladder_ops.undoing import at_work, standing, undo_after

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.backups import Options
    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.marks import Marked
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.setaside import Say
    from polyladder_ops.site import Site

__all__ = ["discard"]


def discard(
    target: Target,
    name: str,
    *,
    site: Site,
    options: Options,
    without_backup: bool,
    say: Say,
    confirm: Callable[[Marked, Backup | None], None],
    look_only: bool = False,
) -> tuple[Marked, Backup | None]:
    """Drop a set-aside database for good, after a verified backup of it exists; one is taken if there is none yet.

    Return it and its backup. Raise OpsError if there is no such database or it can't be dumped (a corrupt page): it stays then. Raise Mismatch
    if its backup does not verify.
    """
    with setaside.locked(target, name, "discard", say, look_only=look_only) as chosen:
        connection, aside = chosen.connection, chosen.aside
        kept = None if without_backup else _kept(aside, connection, site)
        confirm(aside, kept)
        if not without_backup and kept is None:
            say(f"backing up {aside.name} first")
            kept = _keep(connection, chosen.server, aside, site, options)
        locks.check(connection, chosen.live.database)
        setaside.expect_unused(connection, aside)
        _drop(connection, chosen.server, aside)
    return aside, kept


def _drop(connection: Connection, server: Target, aside: Marked) -> None:
    # To drop its subscriptions, if any, one must enter it. A DROP DATABASE that is cancelled leaves half a database.
    with (
        _opened(connection, aside),
        cleaning(limited=False),
        standing(f"The server is dropping {aside.name}"),
    ):
        databases.drop(server, aside.name)
    if switch.oid_of(connection, aside.name) is not None:
        raise OpsError(f"{aside.name} is still there", hint="Look with `invoke restore.status`.")


def _kept(aside: Marked, connection: Connection, site: Site) -> Backup | None:
    """Return a verified backup of exactly this database, taken since it was set aside."""
    system = session.identify(connection).system_identifier
    for backup in catalog.scan(site.folder, setaside.aside_site(site.name)).opened():
        source = backup.manifest.source
        # By its name too: an overwriting restore leaves a backup of the same database from when it was live.
        is_it = (source.system_identifier, source.database_oid, source.database) == (
            system,
            aside.oid,
            aside.name,
        )
        if is_it and backup.verified and backup.taken_at > aside.mark.at:
            return backup
    return None


def _keep(connection: Connection, server: Target, aside: Marked, site: Site, options: Options) -> Backup:
    """Return a verified backup of a set-aside database, which is open only while it is dumped."""
    setaside.refuse_unverifiable(site, options)
    with _opened(connection, aside):
        made = setaside.take(server.with_database(aside.name), site, options)
    return setaside.verified(made, site)


@contextmanager
def _opened(connection: Connection, aside: Marked) -> Iterator[None]:
    """Within the block the set-aside database takes sessions; if it is still there afterwards, it takes none."""

    def close() -> None:
        with session.translated(f"could not close {aside.name}"):
            if switch.oid_of(connection, aside.name) == aside.oid:
                switch.close_again(connection, aside)

    with standing(f"If {aside.name} is still there, it may take sessions"):
        try:
            switch.open_to_dump(connection, aside)
            yield
        except BaseException as error:
            undo_after(error, aside.name, close, words=("closing", "closed", "open"))
            raise
        with at_work(f"closing {aside.name}"):
            close()
    held()
