"""Dropping a set-aside database for good, once a backup of this very state of it is proved.

A set-aside database is closed; it is open only while it is dumped. Before it is dropped it is closed again, nobody is in
it, the backup has been restored on a scratch server, and what the database holds then is read once more: what somebody
has written meanwhile keeps it.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polyladder_ops import loading, seal, setaside, verification
from polyladder_ops.errors import Interrupted, Mismatch, OpsError, Refused
from polyladder_ops.interrupts import cleaning, held
from polyladder_ops.postgres import application, databases, inventory, locks, session, switch
from polyladder_ops.postgres.proof import differences, read_back
from polyladder_ops.terminal import quoted
from polyladder_ops.undoing import at_work, standing, undo_after

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from polyladder_ops.backups import Options
    from polyladder_ops.catalog import Backup
    from polyladder_ops.manifest import Manifest
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.marks import Marked
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.setaside import Chosen, Say
    from polyladder_ops.site import Site

__all__ = ["ITEMS", "NOT_INCLUDED", "NOT_RESTORED", "Discarded", "discard"]

NOT_RESTORED = "not-restored"
NOT_INCLUDED = "not-included"
ITEMS = (NOT_RESTORED, NOT_INCLUDED)
"""What can be accepted."""

_LEAVING_S = 10.0  # that sessions which are on their way out may take
_LOOK_S = 0.1
_SHOWN = 10
# Workers are no sessions of anybody's, but for those that bring a subscription's rows, who have a user.
_OTHERS = """
SELECT a.pid, coalesce(a.usename, '')::text, coalesce(a.application_name, '')
FROM pg_catalog.pg_stat_activity a WHERE a.datid = %s AND a.pid <> %s AND a.usesysid IS NOT NULL
ORDER BY a.backend_start LIMIT 5
"""
# Some minors refuse workers in a database that nobody may enter any more.
_WITHOUT_WORKERS = {"max_parallel_workers_per_gather": "0"}


@dataclass(frozen=True)
class Discarded:
    """What was dropped, the backup of it, and in sentences what was let through."""

    aside: Marked
    kept: Backup | None
    accepted: tuple[str, ...] = ()


def discard(
    target: Target,
    name: str,
    *,
    site: Site,
    options: Options,
    without_backup: bool,
    say: Say,
    confirm: Callable[[Marked], None],
    accept: frozenset[str] = frozenset(),
    look_only: bool = False,
) -> Discarded:
    """Drop a set-aside database for good, after a backup of it as it is now was taken, and restored on a scratch server.

    Return what was done. The database stays: raise OpsError if there is none or it can't be dumped (a corrupt page);
    Mismatch if its backup does not come back; Refused if that can't be tried (before `confirm`, where no server of its
    major is to be had; `not-restored` lets it through, if the bytes are whole), if no dump holds all of it
    (`not-included`), or if somebody was in it or wrote to it meanwhile.
    """
    with setaside.locked(target, name, "discard", say, look_only=look_only) as chosen:
        aside, keeping = chosen.aside, _Keeping(chosen, site, options, accept, say)
        if not without_backup:
            setaside.refuse_unverifiable(site, options)
            keeping.expect_scratch()
        confirm(aside)
        setaside.expect_unused(chosen.connection, aside)
        with nullcontext() if without_backup else keeping.kept():
            locks.check(chosen.connection, chosen.live.database)
            setaside.expect_unused(chosen.connection, aside)
        _drop(chosen.connection, chosen.server, aside)
    return Discarded(aside, keeping.backup, tuple(keeping.accepted))


def _drop(connection: Connection, server: Target, aside: Marked) -> None:
    # To drop its subscriptions, if any, one must enter it. A DROP DATABASE that is cancelled leaves half a database.
    enters = databases.has_subscriptions(connection, aside.name)
    with (
        _opened(connection, aside) if enters else nullcontext(),
        _no_template(connection, aside.name),
        cleaning(limited=False),
        standing(f"The server is dropping {aside.name}"),
    ):
        databases.drop(server, aside.name)
    held()
    if switch.oid_of(connection, aside.name) is not None:
        raise OpsError(f"{aside.name} is still there", hint="Look with `invoke restore.status`.")


@contextmanager
def _no_template(connection: Connection, name: str) -> Iterator[None]:
    """Within the block the database is no template, of which the server drops none; one that stays becomes one again."""
    if not databases.is_servers_own(connection, name):
        yield
        return

    def again() -> None:
        if switch.oid_of(connection, name) is not None:
            switch.let_copy(connection, name, yes=True)

    try:
        switch.let_copy(connection, name, yes=False)
        yield
    except BaseException as error:
        undo_after(
            error, f"the mark of {name} as a template", again, words=("giving back", "gave back", "gone")
        )
        raise


class _Keeping:
    """A backup of a set-aside database as it is now, and the proof that nothing of it would be lost by dropping it."""

    def __init__(
        self, chosen: Chosen, site: Site, options: Options, accept: frozenset[str], say: Say
    ) -> None:
        self.backup: Backup | None = None
        self.accepted: list[str] = []
        self._connection, self._server, self._aside = chosen.connection, chosen.server, chosen.aside
        self._site, self._options, self._accept, self._say = site, options, accept, say

    def expect_scratch(self) -> None:
        """Return if a server to prove a backup on can be had, or that is not asked. Raise Refused, before a dump, if not."""
        if NOT_RESTORED in self._accept:
            return
        try:
            self._site.expect_scratch(session.identify(self._connection).major)
        except Interrupted:
            raise
        except OpsError as error:
            raise _unrestorable(f"a backup of {self._aside.name}", _reason(error)) from error

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within the block the database is backed up, proved, closed, without others, and as it was dumped."""
        aside = self._aside
        with ExitStack() as stack:
            with _opened(self._connection, aside):
                self._say(f"backing up {aside.name} first")
                made = setaside.take(self._server.with_database(aside.name), self._site, self._options)
                keys = self._site.keys(encrypted=made.manifest.encrypted)
                manifest = seal.opened(made.manifest, keys)
                quiet, settings = loading.circumstances(self._server, manifest)
                inside = session.connect(
                    quiet.with_database(aside.name), settings={**settings, **_WITHOUT_WORKERS}
                )
                stack.enter_context(closing(inside))
            self._expect_whole(manifest)
            self._expect_alone(inside)
            self._expect_restorable(made, keys)
            self._expect_unchanged(inside, manifest)
            self._expect_alone(inside)
            self.backup = made
            yield

    def _expect_whole(self, manifest: Manifest) -> None:
        if not manifest.lost:
            return
        shown = "\n        ".join(manifest.lost[:_SHOWN])
        more = f"\n        and {len(manifest.lost) - _SHOWN} more" if len(manifest.lost) > _SHOWN else ""
        if NOT_INCLUDED not in self._accept:
            raise Refused(
                f"{len(manifest.lost)} things of {self._aside.name} are in no dump, so it was not dropped",
                detail=shown + more,
                hint=f"Keep what you need of them, then add --accept={NOT_INCLUDED}.",
            )
        self.accepted.append(f"{NOT_INCLUDED}: {'; '.join(manifest.lost)}")

    def _expect_alone(self, inside: Connection) -> None:
        pid, deadline = session.backend_of(inside), time.monotonic() + _LEAVING_S
        while others := self._connection.execute(_OTHERS, [self._aside.oid, pid]).fetchall():
            if time.monotonic() > deadline:
                who = "; ".join(
                    f"process {pid} of {user} ({application.shown(name) or 'a session'})"
                    for pid, user, name in others
                )
                raise Refused(
                    f"somebody is in {self._aside.name}, so it was not dropped",
                    detail=f"It is {who}.",
                    hint="Let them end, then try again.",
                )
            time.sleep(_LOOK_S)

    def _expect_restorable(self, made: Backup, keys: Sequence[Any]) -> None:
        self._say(f"restoring backup {made.id} on a scratch server, to see that it comes back")
        try:
            with self._site.scratch(made.manifest.source.server_major) as scratch:
                verdict = verification.verify_by_restore(
                    made, keys, scratch.target, trusted=scratch.trusted, jobs=None
                )
            why = "; ".join(verdict.reasons)
        except Interrupted:
            raise
        except verification.Unrecorded as error:
            if error.verdict.passed:
                raise
            verdict, why = error.verdict, _reason(error)
        except OpsError as error:
            verdict, why = None, _reason(error)
        if verdict is not None and verdict.verdict == "failed":
            raise Mismatch(
                f"the backup {made.id} does not come back as what was dumped, so nothing was dropped",
                detail=why,
                hint="Look at what it names."
                f" `invoke restore.discard --database={quoted(self._aside.name)} --without-backup` drops it without one.",
            )
        if verdict is None or not verdict.passed:
            self._accept_unrestored(made, why)

    def _accept_unrestored(self, made: Backup, why: str) -> None:
        if NOT_RESTORED not in self._accept:
            raise _unrestorable(f"the backup {made.id}", why)
        setaside.verified(made, self._site)
        self.accepted.append(f"{NOT_RESTORED}: {why}")

    def _expect_unchanged(self, inside: Connection, manifest: Manifest) -> None:
        """Read all of the database again, now that nobody else gets in, and compare it with what was dumped."""
        entries = inventory.look(inside, as_restored=True).entries
        found = read_back.read_contents(inside, manifest.contents)
        wrong = [str(one) for one in differences.compare_contents(manifest.contents, found)]
        here, dumped = ({(e.kind, e.name): e for e in each} for each in (entries, manifest.objects))
        wrong += [
            f"{kind} {name}"
            for kind, name in sorted(here.keys() | dumped.keys())
            if here.get((kind, name)) != dumped.get((kind, name))
        ]
        if wrong:
            more = f"\n        and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            raise Refused(
                f"{self._aside.name} was changed while it was dumped, so it was not dropped",
                detail="\n        ".join(wrong[:_SHOWN]) + more,
                hint="Find out who uses it, then try again: the next backup holds that, too.",
            )


def _unrestorable(what: str, why: str) -> Refused:
    return Refused(
        f"{what} could not be restored here to prove it, so nothing was dropped",
        detail=why,
        hint="Set POLYLADDER_SCRATCH_URL to a server that has what is missing; or add"
        f" --accept={NOT_RESTORED}, so that its bytes alone are looked at.",
    )


def _reason(error: OpsError) -> str:
    return f"{error.message}. {error.detail}".strip()


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
