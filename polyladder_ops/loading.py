"""Putting a backup's dump into an empty database, over as many connections as the server bears, or in one transaction.

What is sent is checked once more against the manifest while it passes: the bytes, and every table's digest.
"""

from __future__ import annotations

import re
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from polyladder_ops import expressions, seal, storage
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import capacity, databases, inventory, public, session, team
from polyladder_ops.postgres.contents import decode
from polyladder_ops.postgres.lexer import Lexer
from polyladder_ops.postgres.load.bare import OnlyAccepted
from polyladder_ops.postgres.load.loader import Accepted, Loader
from polyladder_ops.postgres.olddump import PastDrops
from polyladder_ops.postgres.parallel import A_TABLE, Crew
from polyladder_ops.postgres.permitted import OnlyPermitted
from polyladder_ops.postgres.proof import differences, renderings
from polyladder_ops.postgres.proof.differences import Difference
from polyladder_ops.restore import objects, sender

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from polyladder_ops.catalog import Backup
    from polyladder_ops.manifest import Manifest
    from polyladder_ops.postgres.capacity import Capacity
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.contents import Contents
    from polyladder_ops.postgres.described import Expressions, Inventory
    from polyladder_ops.postgres.lexer import Handler
    from polyladder_ops.postgres.load.handover import Handover
    from polyladder_ops.postgres.script import Script
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.restore.sender import Sender
    from polyladder_ops.storage import Stored

    Progress = Callable[[int], None] | None

__all__ = [
    "LOADING",
    "Begun",
    "Loaded",
    "begun",
    "circumstances",
    "expect_public",
    "feed",
    "load",
    "money",
    "replay",
    "replay_on",
]

LOADING = {"array_nulls": "on", "transform_null_equals": "off"}
"""What a database may have set for its application and what would change the meaning of a dump that is loaded into it."""

# A crash of the server before the end means a new restore anyway; the switch's own COMMIT flushes everything before it.
_NOBODY_WAITS = {"synchronous_commit": "off"}
_WORTH_A_CONNECTION = 4_000_000  # bytes of rows; a dump of few is in before others are connected


@dataclass(frozen=True)
class Loaded:
    """What a load had to let through, and why the dump was not sent by a login made for it (empty: it was).

    `rendered` is what the source's expressions come to on this server, as far as they come out otherwise; None if that is to be found out yet. `changed` is what
    the rows' own code made of the definitions: then nothing was given to whom it belongs, and nothing needs to be proved.
    """

    accepted: tuple[Accepted, ...] = ()
    by_ourselves: str = ""
    rendered: Expressions | None = None
    changed: tuple[Difference, ...] = ()

    @property
    def said(self) -> tuple[str, ...]:
        """What people should know of it, in sentences."""
        if not self.by_ourselves:
            return ()
        why = f"loaded by our own role, since no login could be made for it ({self.by_ourselves})"
        return (f"{why}: code of the database's users ran with its rights",)


def load(
    target: Target,
    backup: Backup,
    keys: Sequence[Any],
    *,
    accept: Collection[str] = (),
    jobs: int | None = None,
    script: Script | None = None,
    progress: Progress = None,
) -> Loaded:
    """Load a backup into an empty database of ours; arguments, result and errors as of `begun` and its `finish`."""
    with begun(target, backup, keys, accept=accept, jobs=jobs, script=script, progress=progress) as loading:
        return loading.finish()


@contextmanager
def begun(
    target: Target,
    backup: Backup,
    keys: Sequence[Any],
    *,
    accept: Collection[str] = (),
    jobs: int | None = None,
    script: Script | None = None,
    progress: Progress = None,
) -> Iterator[Begun]:
    """Within the block a backup is loaded into an empty database of ours, but belongs to nobody else yet: `Begun.finish`.

    Checks once more that these are the bytes of its manifest. The dump is sent by a login that is made for it, where one can
    be made: rows run code of whoever owned their tables. `jobs` is how many connections work side by side; None: as many as
    the server's cores, memory and free connections allow. `script` keeps the statements for a replay. `accept` names
    statements (`statement:12`) that the server may refuse; what that costs is the proof's to tell. Raise OpsError if it
    refuses anything else or the bytes are others: the database is to be dropped then.
    """
    backup = seal.known(backup, keys)
    target, settings = circumstances(target, backup.manifest)
    with (
        session.translated("the server failed while it loaded the backup"),
        closing(session.connect(target)) as owner,
    ):
        room = capacity.read(owner)
        number = _jobs(room, backup.manifest, jobs, accept)
        settings |= {**LOADING, **_NOBODY_WAITS, **capacity.settings(room, number)}
        session.pin(owner, settings)
        expect_public(owner, backup.manifest)
        tick = partial(progress, 0) if progress else None
        with sender.opened(owner, target, settings, backup.manifest, accept=accept, tick=tick) as sends:
            with team.opened(sends.connect, number - 1) as others:
                sends.shut_out()
                accepted: tuple[Accepted, ...] = ()
                if others:
                    _feed_all([sends.first, *others], backup, keys, script, progress, owner=sends.owner)
                else:
                    accepted = feed(
                        sends.first,
                        backup,
                        keys,
                        accept=accept,
                        script=script,
                        progress=progress,
                        owner=sends.owner,
                    )
            yield Begun(owner, sends, backup.manifest, keys, frozenset(accept), accepted)


@dataclass(frozen=True)
class Begun:
    """A backup whose rows and indexes are in a database, and still belong to the login that loaded it."""

    owner: Connection
    sends: Sender
    manifest: Manifest
    keys: Sequence[Any]
    accept: frozenset[str]
    accepted: tuple[Accepted, ...]

    def finish(self) -> Loaded:
        """Look whether the definitions are still the source's, and only then give everything to whom it belongs.

        What was changed meanwhile, and `accept` does not name, is the result's `changed`: then nothing was given.
        """
        given = self.sends.owner
        if given is None:
            lent = [Accepted(sender.RIGHTS, self.sends.by_ourselves)] if self.manifest.changes_roles else []
            return Loaded((*lent, *_in_order(self.accepted)), self.sends.by_ourselves)
        given.annotate()
        rewritten = [
            Difference("function", name, "it was changed while the rows were loaded")
            for name in given.changed()
        ]
        if self._is_too_much(rewritten):
            self.sends.first.close()
            return Loaded(_in_order(self.accepted), changed=tuple(rewritten))
        texts = expressions.unpacked(self.manifest, self.keys)
        loaded = self._given_unjudged(given) if texts is None else self._given_if_equal(given, texts)
        return replace(loaded, accepted=(*loaded.accepted, *_let_through(rewritten)))

    def _is_too_much(self, changed: Iterable[Difference]) -> bool:
        return any(difference.item not in self.accept for difference in changed)

    def _given_unjudged(self, given: Handover) -> Loaded:
        """Give what nobody knows the source's definitions of: views are filled as the login."""
        given.refresh(self.sends.first)
        self.sends.first.close()
        given.give()
        given.fill()
        return Loaded(_in_order((*self.accepted, *given.accepted)))

    def _given_if_equal(self, given: Handover, texts: Expressions) -> Loaded:
        """Give what has the source's definitions; else give nothing."""
        rendered, changed = self._compared(given, texts)
        if self._is_too_much(changed):
            return Loaded(_in_order(self.accepted), "", rendered, tuple(changed))
        given.settle()
        given.give()
        # Autovacuum runs code of the rows' owner, too, and that was the login: only now nobody has its rights any more.
        rows = given.rewritten_rows()
        again = [*objects.changed(self.manifest, texts, rendered, self._found(given)), *rows]
        if self._is_too_much(again):
            return Loaded(_in_order(self.accepted), "", rendered, tuple(again))
        given.settle()
        given.fill()
        through = (*_in_order((*self.accepted, *given.accepted)), *_let_through(rows))
        return Loaded(through, "", rendered)

    def _found(self, given: Handover) -> Inventory:
        """Return what the objects are now, as the source's manifest tells them."""
        session.pin(self.owner)
        populated = {decode(name, self.manifest.encoding) for name in given.refreshed}
        return inventory.look(self.owner, as_of=self.manifest.source.server_major, populated=populated)

    def _compared(self, given: Handover, texts: Expressions) -> tuple[Expressions, list[Difference]]:
        """Return what the source's expressions come to here, and how the definitions differ; the login's last session ends."""
        # What the dump has set, or what rows' code has, bends how the server writes definitions and reads texts.
        self.sends.first.execute("DISCARD ALL")
        session.pin(self.sends.first, LOADING)
        found = self._found(given)
        # What is made again from the manifest's text is made by who has nothing to lend.
        rendered = renderings.rendered(self.sends.first, texts, found.expressions)
        self.sends.first.close()
        return rendered, objects.changed(self.manifest, texts, rendered, found)


def _let_through(seen: Iterable[Difference]) -> tuple[Accepted, ...]:
    """Return as let through what no proof will see any more: it was put back."""
    return tuple(Accepted(difference.item, difference.detail) for difference in seen)


def _in_order(through: Iterable[Accepted]) -> tuple[Accepted, ...]:
    """Return what was let through once each, in the dump's order."""
    return tuple(sorted(dict.fromkeys(through), key=lambda accepted: int(accepted.item.partition(":")[2])))


def _jobs(room: Capacity, manifest: Manifest, wanted: int | None, accept: Collection[str]) -> int:
    """Return how many connections to open: no more than there is work for, and one if a statement may be refused."""
    if any(item.startswith("statement:") for item in accept):
        return 1  # what comes after it may depend on it; the dump's own order is known to work
    tables = manifest.contents.tables
    worth = 1 + sum(table.size_bytes + A_TABLE for table in tables) // _WORTH_A_CONNECTION
    return max(1, min(wanted or worth, capacity.jobs(room, wanted), len(tables)))


def _feed_all(
    connections: Sequence[Connection],
    backup: Backup,
    keys: Sequence[Any],
    script: Script | None,
    progress: Progress,
    *,
    owner: Handover | None,
) -> None:
    def wrap(handler: Handler, number: int) -> Handler:
        return _guarded(backup.manifest, handler, None if number else script)

    crew = Crew(connections, backup.manifest.contents, wrap=wrap, progress=progress, owner=owner)
    read: list[Stored] = []

    def unpack(sink: Callable[[bytes], None], number: int) -> None:
        leads = number == 0  # the others' bytes are judged by the digests of their tables
        encrypted = backup.manifest.encrypted
        stored = storage.read(backup.path, sink, keys=keys, encrypted=encrypted, hashed=leads)
        if leads:
            read.append(stored)

    crew.run(unpack)
    _expect_same(backup, crew.contents, read[0])


def replay(
    target: Target,
    backup: Backup,
    keys: Sequence[Any],
    *,
    accept: Collection[str] = (),
    script: Script | None = None,
) -> None:
    """Do the statements of a backup in an empty database, without any rows and values. Raise as `load` does.

    They come from the `script` that a load of this backup kept, or else from the file.
    """
    target, settings = circumstances(target, backup.manifest)
    settings |= {**LOADING, **_NOBODY_WAITS}
    with (
        session.translated("the server failed while it loaded the backup"),
        closing(session.connect(target, settings=settings)) as owner,
    ):
        expect_public(owner, backup.manifest)
        with sender.opened(owner, target, settings, backup.manifest, accept=accept) as sends:
            sends.shut_out()
            replay_on(sends.first, backup, keys, accept=accept, script=script, owner=sends.owner)
            sends.finish()


def replay_on(
    connection: Connection,
    backup: Backup,
    keys: Sequence[Any],
    *,
    accept: Collection[str] = (),
    script: Script | None = None,
    owner: Handover | None = None,
) -> None:
    """Do the statements on this connection, in the caller's transaction if there is one. Raise as `load` does.

    `expect_public` goes before.
    """
    if script is None or script.statements is None:
        feed(connection, backup, keys, schema_only=True, accept=accept, owner=owner)
        return
    loader = Loader(connection, schema_only=True, accept=accept, owner=owner)
    for text, place in script.statements:
        loader.do(text, place)
    loader.finish()


def feed(
    connection: Connection,
    backup: Backup,
    keys: Sequence[Any],
    *,
    schema_only: bool = False,
    accept: Collection[str] = (),
    script: Script | None = None,
    progress: Progress = None,
    owner: Handover | None = None,
) -> tuple[Accepted, ...]:
    """Send a backup's dump to this connection, in the caller's transaction if there is one; return what was let through.

    `expect_public` goes before. `owner` as in `Loader`.

    Raise OpsError if the server refuses anything that is not accepted, if the dump is not whole, or if these are not the
    bytes that the manifest speaks of.
    """
    manifest = backup.manifest
    tick = partial(progress, 0) if progress else None
    rows = {table.name: table.rows for table in manifest.contents.tables}
    loader = Loader(connection, schema_only=schema_only, accept=accept, tick=tick, owner=owner, rows=rows)
    met: list[Accepted] = []
    lexer = Lexer(_guarded(manifest, loader, script, accept=accept, met=met))

    def sink(block: bytes) -> None:
        lexer.feed(block)
        if progress:
            progress(len(block))

    stored = storage.read(backup.path, sink, keys=keys, encrypted=manifest.encrypted)
    lexer.close()
    loader.finish()
    _expect_same(backup, loader.ledger.contents, stored)
    return _in_order([*met, *loader.accepted])


def _guarded(
    manifest: Manifest,
    handler: Handler,
    script: Script | None,
    *,
    accept: Collection[str] = (),
    met: list[Accepted] | None = None,
) -> Handler:
    """Return what the dump goes through before this handler; `met` gets what was unsafe and accepted."""
    handler = script.before(handler) if script else handler
    if not manifest.knows_objects:
        handler = PastDrops(OnlyAccepted(handler, accept=accept, met=[] if met is None else met))
    return OnlyPermitted(handler)


def expect_public(connection: Connection, manifest: Manifest) -> None:
    """Make the schema public what this dump's client expects; of an old file nobody knows."""
    if not manifest.knows_objects:
        return
    owners = [entry.owner for entry in manifest.objects if (entry.kind, entry.name) == ("schema", "public")]
    client_major = int(re.split(r"\D", manifest.source.client_version, maxsplit=1)[0])
    public.expect(connection, client_major=client_major, owner=owners[0] if owners else None)


def _expect_same(backup: Backup, contents: Contents, stored: Stored) -> None:
    """Raise OpsError if what was read is not what the manifest says."""
    other = differences.compare_contents(backup.manifest.contents, contents)
    if other or stored.sha256 != backup.manifest.sha256:
        raise OpsError(
            f"backup {backup.id} changed since it was taken or looked at",
            detail=f"{other[0] if other else 'Its sha256 is another one'}.",
            hint=f"Run `invoke verify --backup={backup.id}`. Nothing live was changed.",
        )


def circumstances(server: Target, manifest: Manifest) -> tuple[Target, dict[str, str]]:
    """Return how to reach a restored database, and the settings under which its text means what it meant.

    Money is written by lc_monetary. Event triggers stay quiet where the server knows how: one that notes who logs in
    or what is made would change what it notes.
    """
    with closing(session.connect(server)) as connection:
        can_be_quiet, knows_money = databases.can_read_as(connection, money(manifest))
    if can_be_quiet:
        options = f"{server.parameters.get('options', '')} -c event_triggers=off".strip()
        server = server.changed(options=options)
    return server, {"lc_monetary": money(manifest)} if knows_money else {}


def money(manifest: Manifest) -> str:
    """Return the locale by which the source wrote money."""
    return manifest.session.get("lc_monetary", "C")
