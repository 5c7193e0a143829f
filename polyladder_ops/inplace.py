"""Putting a backup in the place of what a database holds, in one transaction: for a role that may not make databases.

On one connection: our BEGIN, everything dropped, the dump loaded, all of it read back and proved, and only then COMMIT.
Until that nobody sees anything of it, and whatever goes wrong leaves the database as it was. What others make or change
meanwhile, beside the rows that our locks hold still, would be in no backup: it is looked for from outside, under the
locks and once more before the COMMIT, and then nothing is done. The price: everybody who
wants a table waits from the beginning to the end, the server must have room for the locks of all old and new objects,
and for a second copy too, since it keeps the old rows until the transaction ends (tried).

The proof's replay needs no database of its own here: the dump's statements are run once more where its objects were
dropped again, and that is rolled back to a savepoint.
"""

from __future__ import annotations

import contextlib
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from polyladder_ops import loading, restoring
from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.postgres import (
    clearing,
    clearing_facts,
    inventory,
    meanwhile,
    properties,
    questions,
    session,
    takeover,
    zones,
)
from polyladder_ops.postgres.load.loader import Accepted
from polyladder_ops.postgres.proof import read_back
from polyladder_ops.postgres.script import Script
from polyladder_ops.preflight import NEED_A_SUPERUSER, flag, owners
from polyladder_ops.restore.objects import look
from polyladder_ops.restore.room import needed_bytes
from polyladder_ops.restore.sender import RIGHTS
from polyladder_ops.restoring import Found
from polyladder_ops.terminal import size

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from polyladder_ops.catalog import Backup
    from polyladder_ops.manifest import Manifest
    from polyladder_ops.postgres.clearing_facts import Facts
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.inventory import CatalogEntry
    from polyladder_ops.postgres.meanwhile import Kept, Seen
    from polyladder_ops.postgres.proof.differences import Difference
    from polyladder_ops.postgres.properties import NotApplied
    from polyladder_ops.postgres.session import Connection

__all__ = [
    "BYTES_PER_S",
    "Differs",
    "Lending",
    "Restored",
    "estimate_s",
    "lends",
    "obstacles",
    "refuse_to_lend",
    "restore",
]

BYTES_PER_S = 10_000_000
"""How much of the plain dump is loaded, indexed and proved in a second: see `estimate_s`."""
_OBJECTS_PER_S = 300
_TABLES = {"table", "materialized view"}
_STAYS = ("schema", "public")  # it is emptied, not dropped
_SHOWN = 5


class Differs(OpsError):  # noqa: N818 - an answer, not an accident
    """What was loaded is not what was dumped, beyond what was accepted; the database is as it was."""

    def __init__(self, message: str, differences: Sequence[Difference], *, hint: str) -> None:
        super().__init__(message, detail=f"{_several([str(d) for d in differences])}.", hint=hint)
        self.differences = tuple(differences)


@dataclass(frozen=True)
class Restored:
    """A restore in place that is committed: what was let through, how long everybody waited, what can't be given."""

    accepted: tuple[Accepted, ...]
    differences: tuple[Difference, ...]
    seconds: float
    not_given: tuple[NotApplied, ...] = ()


def estimate_s(manifest: Manifest) -> float:
    """Return how many seconds a restore in place will block everybody, roughly.

    At 10 MB/s of the plain dump, loaded, indexed and read back, and 300 objects a second: measured beside other work on
    two cores (198 MB in 24 s, half of it the proof), with the server on the same machine. Over a tunnel the line sets
    the pace, and twice, since the rows go there and come back.
    """
    return manifest.plain_bytes / BYTES_PER_S + len(manifest.objects) / _OBJECTS_PER_S


def obstacles(target: Target, manifest: Manifest) -> tuple[str, ...]:
    """Return in sentences why this backup can't take the place of what the database holds in one transaction.

    Empty if nothing is known that would stop it. What only the dump's own statements show (one that can't run inside a
    transaction) ends the restore itself, and is rolled back like everything else. Raise OpsError if the server fails.
    """
    with closing(session.connect(target)) as connection:
        facts = clearing_facts.read(connection)
    return tuple(_obstacles(facts, manifest))


@dataclass(frozen=True)
class Lending:
    """Whose rights the rows' own code will have: one transaction has one session, and it is ours.

    `to` are the other roles, no superusers themselves, whose code that may be; None if nobody knows.
    """

    role: str
    is_superuser: bool
    to: tuple[str, ...] | None

    @property
    def must_be_accepted(self) -> bool:
        """Whether somebody may get rights that he had no way to."""
        return self.is_superuser and self.to != ()

    def __str__(self) -> str:
        whose = "whoever wrote to that database" if self.to is None else _several(self.to) or "its own owners"
        what = ", a superuser, so it may do anything" if self.is_superuser else ""
        return f"code of {whose} that rows run has the rights of {self.role}{what}"


def lends(target: Target, manifest: Manifest) -> Lending:
    """Return whose code will have whose rights. Raise OpsError if the server can't be reached."""
    rights = questions.rights(target)
    superusers = {role.name for role in manifest.roles if role.superuser}
    others = tuple(owner for owner in owners(manifest) if owner not in superusers | {rights.role})
    return Lending(rights.role, rights.is_superuser, others if manifest.knows_objects else None)


def refuse_to_lend(lending: Lending, accept: Collection[str]) -> tuple[Accepted, ...]:
    """Return what is let through, nothing if nothing is lent. Raise Refused if `accept` does not name it."""
    if not lending.must_be_accepted:
        return ()
    if RIGHTS not in accept:
        raise Refused(
            f"{lending}",
            detail="Without --in-place a login that has nothing to lend loads the backup.",
            hint=f"Nothing was touched. If you trust that code: `{flag(RIGHTS)}`.",
        )
    return (Accepted(RIGHTS, str(lending)),)


def _obstacles(facts: Facts, manifest: Manifest) -> Iterator[str]:
    if facts.is_standby:
        yield "the server is a standby and takes no writes"
    yield from (f"the prepared transaction {gid} holds its locks until it is ended" for gid in facts.prepared)
    for name in facts.replicating:
        yield f"the subscription {name} has a replication slot and can't be dropped in a transaction"
    if not facts.may_create:
        yield f"the role {facts.role} may not make schemas in the database"
    yield from _not_ours(facts)
    yield from _not_to_be_made(facts, manifest)
    yield from _other_letters(facts, manifest)
    needed = needed_bytes(0, manifest)
    if facts.volume and facts.volume.free_bytes < needed:
        yield (
            f"the old rows stay until the end, so it needs up to {size(needed)} more,"
            f" and the server's disk has {size(facts.volume.free_bytes)} free"
        )
    wanted = facts.locks + _locks_to_come(manifest)
    if wanted > facts.capacity:
        yield (
            f"dropping and loading takes about {wanted} locks and the server has room for {facts.capacity}:"
            " raise max_locks_per_transaction and restart it"
        )


def _not_ours(facts: Facts) -> Iterator[str]:
    """Yield what our role may not drop, one sentence for each other owner."""
    other: dict[str, list[str]] = {}
    for entry in facts.objects:
        has, _ = facts.acts_as.get(entry.owner, (True, True))
        if not has and (entry.kind, entry.name) != _STAYS:
            other.setdefault(entry.owner, []).append(f"{entry.kind} {entry.name}")
    for owner, names in sorted(other.items()):
        yield f"the role {facts.role} may not drop what belongs to {owner}: {_several(names)}"
    for name, owner in facts.fixed:
        yield f"the role {facts.role} may not drop the extension {name}, which belongs to {owner}"


def _not_to_be_made(facts: Facts, manifest: Manifest) -> Iterator[str]:
    for extension in manifest.extensions:
        if extension.name not in facts.extensions:
            yield f"the extension {extension.name} is not available"
        elif not facts.extensions[extension.name] and extension.name != "plpgsql":
            yield f"the role {facts.role} may not make the extension {extension.name}"
    there = {
        (entry.kind, entry.name, entry.owner) for entry in facts.objects if (entry.kind, entry.name) == _STAYS
    }
    to_give = (e for e in manifest.objects if e.owner and (e.kind, e.name, e.owner) not in there)
    for owner in sorted({entry.owner for entry in to_give}):
        _, gives = facts.acts_as.get(owner, (True, True))
        if not gives:
            yield f"the role {facts.role} may not give objects to {owner}"
    if not facts.is_superuser:
        needing = [f"{e.kind} {e.name}" for e in manifest.objects if e.kind in NEED_A_SUPERUSER]
        if needing:
            yield f"only a superuser may make {_several(needing)}"


def _other_letters(facts: Facts, manifest: Manifest) -> Iterator[str]:
    """Yield what is chosen when a database is made and can't be changed in it."""
    words = {
        "encoding": "encoding",
        "collate": "collation",
        "ctype": "character classification",
        "locale_provider": "locale provider",
        "locale": "locale",
        "icu_rules": "ICU rules",
    }
    for name, word in words.items() if manifest.knows_objects else ():
        have, want = getattr(facts.properties, name), getattr(manifest.properties, name)
        if have != want:
            yield f"the database has the {word} {have!r}, the backup {want!r}"


def _locks_to_come(manifest: Manifest) -> int:
    """Return about how many locks the load takes: tables have a TOAST table with its index, extensions many members."""
    tables = sum(entry.kind in _TABLES for entry in manifest.objects)
    return len(manifest.objects) + 2 * tables + 100 * len(manifest.extensions)


def _several(names: Sequence[str], shown: int = _SHOWN) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return "; ".join(names[:shown]) + more


def restore(
    target: Target,
    backup: Backup,
    keys: Sequence[Any],
    *,
    accept: Collection[str] = (),
    lock_wait_s: float = takeover.LOCK_WAIT_S,
    progress: Callable[[int], None] | None = None,
    keep: Callable[[], Kept] | None = None,
    committing: Callable[[], None] = lambda: None,
    prove: bool = True,
) -> Restored:
    """Replace what the database holds by a backup, all or nothing, and return what `accept` had to let through.

    `keep` is called when nobody can write to a table any more and all can still be read, and returns what it has saved;
    `committing` before the COMMIT is sent: a KeyboardInterrupt that comes before changes nothing. `accept`
    names statements (`statement:12`) and differences (`table:public.film`). Nobody is ended for it. Raise
    Refused if it can't be done in one transaction, or if somebody changed anything since `keep` saved it, or has changed it
    and not committed for `lock_wait_s` seconds, LoadError if the server refuses a statement, Differs if something
    came out otherwise than it was dumped, OpsError if a lock is not to be had within `lock_wait_s` seconds or anything
    else fails: after each of these the database is as it was.
    """
    if reasons := obstacles(target, backup.manifest):
        raise Refused(
            f"{target} can't be restored in place",
            detail=f"{_several(reasons, 10)}.",
            hint="Remove what stands in the way, or restore beside it with a role that has CREATEDB.",
        )
    quiet, settings = loading.circumstances(target, backup.manifest)
    settings = {**loading.LOADING, **settings}
    with (
        session.translated("the server failed during the restore; the database is as it was"),
        closing(session.connect(quiet)) as outside,  # before there are locks that a new session could meet
        closing(session.connect(quiet, settings=settings)) as connection,
    ):
        began = time.monotonic()
        with takeover.transaction(connection, quiet):
            kept = _kept(connection, quiet, keep, lock_wait_s) if keep else None
            with takeover.lock_out(connection, quiet, wait_s=lock_wait_s):
                before = kept.seen if kept else meanwhile.read(outside) | meanwhile.positions(connection)
                standing = _expect_unchanged(connection, outside, before, lock_wait_s)
                clearing.clear(connection)
            work = _Work(connection, target.database, backup, keys, frozenset(accept), settings, progress)
            accepted, not_given = work.load()
            differences = work.differences() if prove else []
            # Also what else would be a difference.
            _expect_same(
                outside, standing, meanwhile.settled(outside, besides=connection, wait_s=lock_wait_s)
            )
            _expect_accepted(backup, differences, accept)
            committing()
        return Restored(accepted, tuple(differences), time.monotonic() - began, not_given)


def _kept(connection: Connection, target: Target, keep: Callable[[], Kept], lock_wait_s: float) -> Kept:
    """Return what is saved. Raise Refused if a table came between our locks and what was saved: its rows can still change."""
    locked = takeover.stop_writers(connection, target, wait_s=lock_wait_s)
    kept = keep()
    if newcomers := kept.tables - locked:
        raise _others(f"{len(newcomers)} new {'table' if len(newcomers) == 1 else 'tables'}")
    return kept


def _expect_unchanged(connection: Connection, outside: Connection, before: Seen, wait_s: float) -> Seen:
    """Return what others can still change, as it is now, under the locks. Raise Refused if anything is not as it was,
    or if somebody has something to commit.

    Where sequences stand nobody else can read while we hold them.
    """
    standing = meanwhile.settled(outside, besides=connection, wait_s=wait_s)
    _expect_same(outside, before, standing | meanwhile.positions(connection))
    return standing


def _expect_same(outside: Connection, before: Seen, now: Seen) -> None:
    if changes := meanwhile.changed(outside, before, now):
        raise _others(_several(changes))


def _others(what: str) -> Refused:
    return Refused(
        "somebody changed the database meanwhile; it is as they left it",
        detail=f"Made, changed or dropped since it was saved: {what}. Restored in place, that would be lost.",
        hint="Nothing was touched. Stop the app and whatever else writes there, then try again.",
    )


def _expect_accepted(backup: Backup, differences: Sequence[Difference], accept: Collection[str]) -> None:
    unwanted = [d for d in differences if d.item not in accept]
    if unwanted:
        items = ",".join(dict.fromkeys(d.item for d in unwanted))
        raise Differs(
            f"backup {backup.id} does not come back as it was dumped; the database is as it was",
            unwanted,
            hint=f"To restore all the same: `{flag(items)}`.",
        )


@dataclass(frozen=True)
class _Work:
    """What is done to an emptied database within the transaction."""

    connection: Connection
    database: str
    backup: Backup
    keys: Sequence[Any]
    accept: frozenset[str]
    settings: Mapping[str, str]
    progress: Callable[[int], None] | None = field(repr=False)
    script: Script = field(default_factory=Script, repr=False)

    def load(self) -> tuple[tuple[Accepted, ...], tuple[NotApplied, ...]]:
        """Load the dump; return what was let through, and which of the source's properties the database can't get."""
        session.pin(self.connection, self.settings)
        loading.expect_public(self.connection, self.backup.manifest)
        accepted = loading.feed(
            self.connection,
            self.backup,
            self.keys,
            accept=self.accept,
            script=self.script,
            progress=self.progress,
        )
        not_given = properties.apply(self.connection, self.database, self.backup.manifest.properties)
        return accepted, tuple(not_given)

    def differences(self) -> list[Difference]:
        """Return what is not as it was dumped."""
        manifest = self.backup.manifest
        with self._aside():
            contents = read_back.read_contents(self.connection, manifest.contents, progress=self.progress)
            if not manifest.knows_objects:
                contents = zones.read_again(self.connection, manifest.contents, contents)
        with self._aside():
            found = Found(
                contents,
                look(self.connection, manifest, self.keys),
                properties.extensions(self.connection),
                properties.read(self.connection),
            )
        return restoring.compare(manifest, self.database, found, self._replayed)

    def _replayed(self) -> tuple[CatalogEntry, ...]:
        """Return the objects that the dump's statements make where nothing is; what is there comes back afterwards.

        There are none if the server fails at it (it may not have the locks to do everything twice): what only they could
        have settled stays a difference then, and has a name.
        """
        with contextlib.suppress(OpsError), session.translated("could not replay the dump"), self._aside():
            clearing.clear(self.connection)
            session.pin(self.connection, self.settings)
            loading.expect_public(self.connection, self.backup.manifest)
            loading.replay_on(self.connection, self.backup, self.keys, accept=self.accept, script=self.script)
            session.pin(self.connection)
            return inventory.entries(self.connection)
        return ()

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """Within the block the session's settings are its own; what it does, and what bends them, is undone."""
        with self.connection.transaction(force_rollback=True):
            session.pin(self.connection, self.settings)
            yield
