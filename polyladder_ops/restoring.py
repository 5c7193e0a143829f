"""Putting a backup into a new database and proving that it is there, all of it; the live one is not touched.

Look first (what would make a proof impossible on that server), then make the database from template0 with the source's
encoding and locale, load, and read everything back on new connections. It is nobody's but ours meanwhile: what the source is
besides (owner, grants, settings, comment, limit) it gets as it goes live, and here only to see that it can.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

from polyladder_ops import seal
from polyladder_ops.errors import OpsError
from polyladder_ops.loading import Loaded, circumstances, money, replay
from polyladder_ops.postgres import (
    capacity,
    databases,
    inventory,
    proof_roles,
    properties,
    session,
    statistics,
    switch,
    team,
    zones,
)
from polyladder_ops.postgres.proof import differences, read_back
from polyladder_ops.postgres.proof.differences import Difference
from polyladder_ops.postgres.switch import Ready
from polyladder_ops.restore.objects import Objects, differ, look
from polyladder_ops.undoing import undone, undone_if_failing

if TYPE_CHECKING:
    from polyladder_ops.catalog import Backup
    from polyladder_ops.manifest import Manifest
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.contents import Contents
    from polyladder_ops.postgres.described import CatalogEntry
    from polyladder_ops.postgres.properties import DatabaseProperties, Extension, NotApplied
    from polyladder_ops.postgres.script import Script
    from polyladder_ops.postgres.session import Connection

__all__ = [
    "Found",
    "Obstacles",
    "analyze",
    "as_source",
    "compare",
    "lacking",
    "limits",
    "make_database",
    "make_database_by",
    "obstacles",
    "properties_differ",
    "prove",
    "temporary_database",
]

Progress = Callable[[int], None] | None
MissingRoles = Literal["left", "made", "superusers"]


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
        knows_money = databases.takes_setting(connection, "lc_monetary", money(manifest))
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
        () if knows_money else (f"the locale {money(manifest)}, by which money was written, is missing",),
    )


def make_database(server: Target, name: str, manifest: Manifest) -> None:
    """Create the database from template0; it is ours, and nobody else may connect to it.

    Raise databases.LocaleMissing if the server lacks encoding, locale or provider; OpsError if it refuses.
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
        # A check or an extension may ask for them while the rows come; none of them lets anybody in.
        with session.translated(f"could not set up the database {name}"):
            properties.give_settings(connection, name, manifest.properties)
        switch.let_in(connection, name)


def lacking(server: Target, name: str, manifest: Manifest) -> tuple[str, ...]:
    """Return the source's properties that a database just made can't get here, in sentences."""
    with closing(session.connect(server)) as connection:
        return tuple(d.detail for d in properties_differ(connection, name, manifest))


def properties_differ(connection: Connection, name: str, manifest: Manifest) -> list[Difference]:
    """Return what the database would not have of the source's properties if it was given them all; it stays as it is.

    Raise OpsError if there is no such database, or the server fails.
    """
    with session.translated(f"could not see which properties {name} can get"):
        found = properties.as_given(connection, name, manifest.properties)
    return _as_differences(manifest, name, found)


def as_source(
    name: str,
    oid: int | None,
    manifest: Manifest,
    judge: Callable[[list[Difference]], None],
    not_given: list[NotApplied],
    *,
    also: Callable[[Connection], None],
) -> Ready:
    """Return a database that is to be live, with the source's properties, given and looked at in the switch itself.

    `also` is done there before anybody waits; `judge` hears in what it differs then, and raises what takes the switch back; `not_given` is what could not be given.
    """
    wanted = manifest.properties

    def first(connection: Connection, name: str) -> None:
        not_given[:] = properties.give(connection, name, wanted)  # a switch may be tried again
        also(connection)

    def last(connection: Connection, live: str) -> None:
        not_given.extend(properties.hand_over(connection, live, wanted))
        judge(_as_differences(manifest, live, properties.read(connection, live)))

    return Ready(name, oid, first, last)


@contextlib.contextmanager
def temporary_database(
    server: Target, manifest: Manifest, *, purpose: str, roles: MissingRoles = "left"
) -> Iterator[Target]:
    """Within the block a new empty database with the source's encoding and locale; dropped afterwards, whatever happened.

    Which of them it did not get is `lacking`'s to tell. What killed runs left of this kind is dropped first. The source's
    `roles` that are missing are left so, made without login (the last proof that needs them drops them), or made as on a
    server of our own that is thrown away: superusers as superusers, since some objects need such an owner.
    """
    databases.drop_abandoned(server)
    name = databases.temporary_name(purpose)
    drop = partial(databases.drop, server, name)
    with (
        databases.locked(server, name) as connection,
        contextlib.nullcontext() if roles == "left" else _with_roles(server, connection, manifest, roles),
        undone(f"the database {name}", drop),
    ):
        make_database_by(connection, server, name, manifest)
        yield server.with_database(name)


@contextlib.contextmanager
def _with_roles(
    server: Target, connection: Connection, manifest: Manifest, roles: MissingRoles
) -> Iterator[None]:
    """Within the block every role of the source exists; the session that holds the database's lock shares them meanwhile."""
    made: tuple[str, ...] = ()

    def drop() -> None:
        with closing(session.connect(server, timeout_s=5)) as another:
            with contextlib.suppress(OpsError):  # a session that is lost has let go of them
                proof_roles.leave(connection)
            proof_roles.drop(another, made)

    with undone("a role made for the proof", drop):
        proof_roles.share(connection)
        made = proof_roles.make(connection, manifest.roles, superusers=roles == "superusers")
        yield


def analyze(target: Target, *, jobs: int | None = None, views: bool | None = None) -> None:
    """Give the planner its statistics: a restored database has none, and an app on it would crawl.

    `views` chooses materialized views alone, or all but those; None: everything.

    `jobs` connections work side by side; None: as many as the server bears. Raise OpsError if it fails.
    """
    with (
        session.translated("could not analyze the restored database"),
        closing(session.connect(target)) as connection,
    ):
        tables = statistics.tables(connection, views=views)
        more = _more(connection, sum(table.size_bytes for table in tables), jobs)
        with team.opened(partial(session.connect, target), more) as others:
            statistics.gather([connection, *others], tables)


def limits(manifest: Manifest) -> tuple[str, ...]:
    """Return in sentences what a proof of this backup can't say, because its manifest does not hold enough."""
    if manifest.knows_objects and not manifest.expressions:
        return ("definitions compared with the dump only: the backup is from before the source's were kept",)
    return ()


_WORTH_A_CONNECTION = 8_000_000  # bytes; less is looked at before another is connected


def _more(connection: Connection, size_bytes: int, jobs: int | None) -> int:
    """Return how many connections are to help this one with so much data."""
    worth = jobs or 1 + size_bytes // _WORTH_A_CONNECTION
    return min(worth, capacity.jobs(capacity.read(connection), jobs)) - 1 if worth > 1 else 0


def prove(
    server: Target,
    database: str,
    backup: Backup,
    keys: Sequence[Any],
    *,
    accept: Collection[str] = (),
    jobs: int | None = None,
    script: Script | None = None,
    progress: Progress = None,
    loaded: Loaded | None = None,
    shut: Callable[[Sequence[Connection]], None] = lambda _ours: None,
) -> list[Difference]:
    """Return every difference between the database and what the manifest says; none means that it is proved.

    Reads rows, sequences, large objects, objects with owner and grants, extensions, and the properties that the database
    can be given, on new connections, `jobs` of them side by side; None: as many as the server bears. `script` and `loaded`
    are what its load kept and found out; where its statements are to be replayed, that may go on beside the reading. Of an
    old file the objects are those that its own statements make in an empty database. `shut` is called once all connections
    are in, with all of them: from then on nobody else needs to get in.
    """
    if loaded and loaded.changed:
        return list(loaded.changed)
    manifest = seal.opened(backup.manifest, keys)
    quiet, settings = circumstances(server, manifest)
    target = quiet.with_database(database)

    @cache
    def replayed() -> Sequence[CatalogEntry]:
        with temporary_database(server, manifest, purpose="replay") as empty:
            replay(empty, backup, keys, accept=accept, script=script)
            with closing(session.connect(quiet.with_database(empty.database))) as connection:
                return inventory.entries(connection)

    connect = partial(session.connect, target, settings={**settings, **_WITHOUT_WORKERS})
    early = _Early(replayed)
    with closing(connect()) as connection:
        more = _more(connection, manifest.contents.size_bytes, jobs)
        with early.told(), team.opened(connect, more) as others:
            shut([connection, *others])
            with session.translated("could not read the database back"):
                found = look(connection, manifest, keys, rendered=loaded.rendered if loaded else None)
                extensions = properties.extensions(connection)
                with closing(session.connect(quiet)) as outside:
                    own = properties.as_given(outside, database, manifest.properties)
            contents = read_back.read_contents(
                connection,
                manifest.contents,
                others=others,
                progress=progress,
                meanwhile=early if others and _replays_early(connection, manifest, found) else None,
            )
        if not manifest.knows_objects:
            contents = zones.read_again(connection, manifest.contents, contents)
    return compare(manifest, database, Found(contents, found, extensions, own), replayed)


# Some minors refuse workers in a database that nobody may enter any more.
_WITHOUT_WORKERS = {"max_parallel_workers_per_gather": "0", "max_parallel_maintenance_workers": "0"}


@dataclass
class _Early:
    """A replay beside other work, whose error must not keep from people what this one left behind."""

    replayed: Callable[[], object]
    failure: OpsError | None = None

    def __call__(self) -> None:
        """Do it, unless it turns out that the server has no connection to spare: then it is done afterwards."""
        try:
            self.replayed()
        except OpsError as error:
            if not session.is_full(error):
                self.failure = error
                raise

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Within the block another error that is the first cause tells of this one, too."""
        try:
            yield
        except OpsError as error:
            if self.failure is not None and self.failure is not error:
                error.detail = (
                    f"{error.detail} Besides, {self.failure.message}: {self.failure.detail}".strip()
                )
            raise


_REPLAY_TAKES = 5  # connections: three of its own, and some that others may want meanwhile


def _replays_early(connection: Connection, manifest: Manifest, objects: Objects) -> bool:
    """Whether a replay is needed, and the server has connections to spare for it while rows are read.

    It ends with dropping a database, and to that belongs a checkpoint, which writes out all that was just loaded: a
    third of the proof's time, if nothing is done meanwhile.
    """
    is_needed = not manifest.knows_objects or (
        objects.wanted is None and differences.needs_replay(manifest.objects, objects.found.entries)
    )
    return is_needed and capacity.read(connection).free_connections >= _REPLAY_TAKES


@dataclass(frozen=True)
class Found:
    """What a restored database holds, read back."""

    contents: Contents
    objects: Objects
    extensions: tuple[Extension, ...]
    properties: DatabaseProperties


def compare(
    manifest: Manifest, database: str, found: Found, replayed: Callable[[], Sequence[CatalogEntry]]
) -> list[Difference]:
    """Return every difference between a manifest and what was found; `replayed` as in `differences.compare_by_replay`."""
    wrong = [
        *differences.compare_contents(manifest.contents, found.contents),
        *differ(manifest, found.objects, replayed),
        *_extensions_differ(manifest, found.extensions),
        *_as_differences(manifest, database, found.properties),
    ]
    return list(dict.fromkeys(wrong))  # a missing table is missed by its rows and by its definition


def _as_differences(manifest: Manifest, database: str, found: DatabaseProperties) -> list[Difference]:
    """Return how these properties are not the source's."""
    unlike = properties.differences(manifest.properties, found)
    return [Difference("database", database, why, part) for part, why in unlike]


def _extensions_differ(manifest: Manifest, found: Sequence[Extension]) -> Iterator[Difference]:
    there = {extension.name: extension for extension in found}
    for extension in manifest.extensions:
        if (other := there.get(extension.name)) and other != extension:
            said = [f"version {e.version} in schema {e.schema}" for e in (other, extension)]
            yield Difference("extension", extension.name, f"it is {said[0]} instead of {said[1]}")
