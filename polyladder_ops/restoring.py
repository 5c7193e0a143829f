"""Putting a backup into a new database and proving that it is there, all of it; the live one is not touched.

Look first (what would make a proof impossible on that server), then make the database from template0 with the source's
encoding and locale, apply its properties as values, load, and read everything back on new connections.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from polyladder_ops import storage
from polyladder_ops.errors import Interrupted, OpsError
from polyladder_ops.postgres import databases, grants, inventory, proof, properties, public, session, zones
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.postgres.lexer import Lexer
from polyladder_ops.postgres.load import Loader
from polyladder_ops.postgres.olddump import PastDrops
from polyladder_ops.postgres.permitted import OnlyPermitted
from polyladder_ops.postgres.proof import Difference

if TYPE_CHECKING:
    from polyladder_ops.catalog import Backup
    from polyladder_ops.manifest import Manifest
    from polyladder_ops.postgres.contents import Contents
    from polyladder_ops.postgres.inventory import CatalogEntry
    from polyladder_ops.postgres.load import Accepted
    from polyladder_ops.postgres.properties import DatabaseProperties, Extension
    from polyladder_ops.postgres.session import Connection

__all__ = [
    "Obstacles",
    "analyze",
    "lacking",
    "load",
    "make_database",
    "make_database_by",
    "obstacles",
    "prove",
    "temporary_database",
    "temporary_roles",
    "undone",
    "undone_if_failing",
]

Progress = Callable[[int], None] | None
# What a database may have set for its application and what would change the meaning of a dump that is loaded into it.
LOADING = {"array_nulls": "on", "transform_null_equals": "off"}


@dataclass(frozen=True)
class Obstacles:
    """Why a restore on this server proves less than it should.

    `fatal` ones keep it from being tried, `doubts` from being a proof; `excuses` count only if something goes wrong.
    """

    fatal: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    excuses: tuple[str, ...] = ()


def obstacles(server: Target, manifest: Manifest) -> Obstacles:
    """Return what stands between this server and a proof: another major, missing or other extensions, a tablespace."""
    with closing(session.connect(server)) as connection:
        major = session.identify(connection).major
        available = databases.available_extensions(connection)
        tablespaces = databases.tablespaces(connection)
        knows_money = databases.takes_setting(connection, "lc_monetary", _money(manifest))
    source, tablespace = manifest.source.server_major, manifest.properties.tablespace
    doubts = [f"the server's major version is {major}, the source's was {source}"] if major != source else []
    doubts += [f"the tablespace {tablespace} is missing"] if tablespace not in tablespaces else []
    doubts += [
        f"the extension {e.name} would be {available[e.name]} instead of {e.version}"
        for e in manifest.extensions
        if e.name in available and available[e.name] != e.version
    ]
    missing = [e.name for e in manifest.extensions if e.name not in available]
    return Obstacles(
        tuple(f"the extension {name} is not available" for name in missing),
        tuple(doubts),
        () if knows_money else (f"the locale {_money(manifest)}, by which money was written, is missing",),
    )


def _money(manifest: Manifest) -> str:
    return manifest.session.get("lc_monetary", "C")


def make_database(server: Target, name: str, manifest: Manifest) -> None:
    """Create the database from template0 and apply the source's properties to it as values, as far as the server can.

    `lacking` tells what is missing then. Raise databases.LocaleMissing if the server lacks encoding, locale or
    provider; OpsError if it refuses.
    """
    with closing(session.connect(server)) as connection:
        make_database_by(connection, server, name, manifest)


def make_database_by(connection: Connection, server: Target, name: str, manifest: Manifest) -> None:
    """Do so through the session that holds the database's lock.

    When we are killed the server goes on creating. As long as it does, the session is there and the lock is held, so
    that whoever cleans up after us comes after it.
    """
    with databases.ended_if_left(server, connection):
        databases.create(connection, name, manifest.properties)
    with (
        undone_if_failing(f"the database {name}", partial(databases.drop, server, name)),
        session.released(connection),
    ):
        properties.apply(connection, name, manifest.properties)


def lacking(target: Target, manifest: Manifest) -> tuple[str, ...]:
    """Return the source's properties that a database just made has not got, in sentences: the server can't give them."""
    with closing(session.connect(target)) as connection:
        return tuple(properties.compare(manifest.properties, properties.read(connection)))


@contextlib.contextmanager
def temporary_database(server: Target, manifest: Manifest, *, purpose: str) -> Iterator[Target]:
    """Within the block a new empty database with the source's properties; dropped afterwards, whatever happened.

    What killed runs left of this kind is dropped first.
    """
    databases.drop_abandoned(server)
    name = databases.temporary_name(purpose)
    drop = partial(databases.drop, server, name)
    with databases.locked(server, name) as connection, undone(f"the database {name}", drop):
        make_database_by(connection, server, name, manifest)
        yield server.with_database(name)


@contextlib.contextmanager
def temporary_roles(server: Target, manifest: Manifest, *, trusted: bool) -> Iterator[tuple[str, ...]]:
    """Within the block every role of the source exists, the missing ones made without login; those are dropped after.

    On a `trusted` server (our own, thrown away) missing superusers are made superusers: some objects need such an owner.
    """
    made: tuple[str, ...] = ()

    def drop() -> None:
        with closing(session.connect(server, timeout_s=5)) as connection:
            databases.drop_roles(connection, made)

    with undone("a role made for the proof", drop):
        with closing(session.connect(server)) as connection:
            made = databases.make_roles(connection, manifest.roles, superusers=trusted)
        yield made


@contextlib.contextmanager
def undone(what: str, undo: Callable[[], None]) -> Iterator[None]:
    """Call `undo` when the block ends, however it ends; if both fail, the block's own error tells of both."""
    with undone_if_failing(what, undo):
        yield
    undo()


@contextlib.contextmanager
def undone_if_failing(what: str, undo: Callable[[], None]) -> Iterator[None]:
    """Call `undo` if the block fails; if that fails too, the block's own error stays the error and tells of both."""
    try:
        yield
    except BaseException as error:
        try:
            undo()
        except OpsError as left:
            stays = f"Besides, {what} is still there: {left.detail or left.message}"
            if isinstance(error, KeyboardInterrupt):
                said = f"interrupted by {str(error) or 'Ctrl-C'}"
                raise Interrupted(
                    said, detail=stays, hint="The next proof on that server drops it."
                ) from error
            if isinstance(error, OpsError):
                error.detail = f"{error.detail} {stays}".strip()
        raise


def load(
    target: Target,
    backup: Backup,
    keys: Sequence[Any],
    *,
    accept: Collection[str] = (),
    progress: Progress = None,
) -> tuple[Accepted, ...]:
    """Load a backup into an empty database, checking once more that these are the bytes of its manifest.

    Return which of the statements that `accept` names (`statement:12`) the server refused and were let through; what
    that cost is the proof's to tell. Raise OpsError if it refuses anything else or the bytes are others: the database is
    to be dropped then.
    """
    return _feed(target, backup, keys, schema_only=False, accept=accept, progress=progress)


def _feed(
    target: Target,
    backup: Backup,
    keys: Sequence[Any],
    *,
    schema_only: bool,
    accept: Collection[str],
    progress: Progress,
) -> tuple[Accepted, ...]:
    target, settings = circumstances(target, backup.manifest)
    with (
        session.translated("the server failed while it loaded the backup"),
        closing(session.connect(target, settings={**LOADING, **settings})) as connection,
    ):
        return feed(connection, backup, keys, schema_only=schema_only, accept=accept, progress=progress)


def feed(
    connection: Connection,
    backup: Backup,
    keys: Sequence[Any],
    *,
    schema_only: bool = False,
    accept: Collection[str] = (),
    progress: Progress = None,
) -> tuple[Accepted, ...]:
    """Send a backup's dump to this connection, in the caller's transaction if there is one; return what was let through.

    Raise OpsError if the server refuses anything that is not accepted, if the dump is not whole, or if these are not the
    bytes that the manifest speaks of.
    """
    manifest = backup.manifest
    if manifest.knows_objects:
        owners = [
            entry.owner for entry in manifest.objects if (entry.kind, entry.name) == ("schema", "public")
        ]
        client_major = int(re.split(r"\D", manifest.source.client_version, maxsplit=1)[0])
        public.expect(connection, client_major=client_major, owner=owners[0] if owners else None)
    loader = Loader(connection, schema_only=schema_only, accept=accept)
    lexer = Lexer(OnlyPermitted(loader if manifest.knows_objects else PastDrops(loader)))

    def sink(block: bytes) -> None:
        lexer.feed(block)
        if progress:
            progress(len(block))

    stored = storage.read(backup.path, sink, keys=keys, encrypted=manifest.encrypted)
    lexer.close()
    loader.finish()
    other = proof.compare_contents(manifest.contents, loader.ledger.contents)
    if other or stored.sha256 != manifest.sha256:
        raise OpsError(
            f"backup {backup.id} changed since it was taken or looked at",
            detail=f"{other[0] if other else 'Its sha256 is another one'}.",
            hint=f"Run `invoke verify --backup={backup.id}`. Nothing live was changed.",
        )
    return loader.accepted


def circumstances(server: Target, manifest: Manifest) -> tuple[Target, dict[str, str]]:
    """Return how to reach a restored database, and the settings under which its text means what it meant.

    Money is written by lc_monetary. Event triggers stay quiet where the server knows how: one that notes who logs in
    or what is made would change what it notes.
    """
    with closing(session.connect(server)) as connection:
        if databases.takes_setting(connection, "event_triggers", "off"):
            options = f"{server.parameters.get('options', '')} -c event_triggers=off".strip()
            server = Target.of(**{**server.parameters, "options": options})
        knows_money = databases.takes_setting(connection, "lc_monetary", _money(manifest))
    return server, {"lc_monetary": _money(manifest)} if knows_money else {}


def analyze(target: Target) -> None:
    """Give the planner its statistics: a restored database has none, and an app on it would crawl."""
    with (
        session.translated("could not analyze the restored database"),
        closing(session.connect(target)) as connection,
    ):
        connection.execute("ANALYZE")


def prove(
    server: Target,
    database: str,
    backup: Backup,
    keys: Sequence[Any],
    *,
    accept: Collection[str] = (),
    progress: Progress = None,
) -> list[Difference]:
    """Return every difference between the database and what the manifest says; none means that it is proved.

    Reads rows, sequences, large objects, objects with owner and grants, extensions, and database properties. Of an old
    file the objects are those that its own statements make in an empty database.
    """
    manifest = backup.manifest
    quiet, settings = circumstances(server, manifest)
    target = quiet.with_database(database)
    with closing(session.connect(target, settings=settings)) as connection:
        contents = proof.read_contents(connection, manifest.contents, progress=progress)
        if not manifest.knows_objects:
            contents = zones.read_again(connection, manifest.contents, contents)
    with closing(session.connect(target)) as connection:
        objects = inventory.entries(connection)
        extensions = properties.extensions(connection)
        own = properties.read(connection)

    def replayed() -> Sequence[CatalogEntry]:
        with temporary_database(server, manifest, purpose="replay") as empty:
            _feed(empty, backup, keys, schema_only=True, accept=accept, progress=None)
            with closing(session.connect(quiet.with_database(empty.database))) as connection:
                return inventory.entries(connection)

    return compare(manifest, database, Found(contents, objects, extensions, own), replayed)


@dataclass(frozen=True)
class Found:
    """What a restored database holds, read back."""

    contents: Contents
    objects: tuple[CatalogEntry, ...]
    extensions: tuple[Extension, ...]
    properties: DatabaseProperties


def compare(
    manifest: Manifest, database: str, found: Found, replayed: Callable[[], Sequence[CatalogEntry]]
) -> list[Difference]:
    """Return every difference between a manifest and what was found; `replayed` as in `proof.compare_objects`."""
    differences = [
        *proof.compare_contents(manifest.contents, found.contents),
        *_objects_differ(manifest, found.objects, replayed),
        *_extensions_differ(manifest, found.extensions),
        *(
            Difference("database", database, why, part)
            for part, why in properties.differences(manifest.properties, found.properties)
        ),
    ]
    return list(dict.fromkeys(differences))  # a missing table is missed by its rows and by its definition


def _objects_differ(
    manifest: Manifest, found: Sequence[CatalogEntry], replayed: Callable[[], Sequence[CatalogEntry]]
) -> list[Difference]:
    """Return how the objects differ; an old file's are those of the replay, which leaves large objects behind.

    A privilege that the source's major did not have yet is no difference: a newer server gives it to every owner.
    """
    if manifest.knows_objects:
        major = manifest.source.server_major
        known = [replace(entry, grants=grants.as_of(entry.grants, major)) for entry in found]
        return proof.compare_objects(manifest.objects, known, replayed)
    there = [entry for entry in found if entry.kind != "large object"]
    return proof.compare_objects(replayed(), there, list)


def _extensions_differ(manifest: Manifest, found: Sequence[Extension]) -> Iterator[Difference]:
    there = {extension.name: extension for extension in found}
    for extension in manifest.extensions:
        if (other := there.get(extension.name)) and other != extension:
            said = [f"version {e.version} in schema {e.schema}" for e in (other, extension)]
            yield Difference("extension", extension.name, f"it is {said[0]} instead of {said[1]}")
