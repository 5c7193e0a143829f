"""Putting a backup into a new database and proving that it is there, all of it; the live one is not touched.

Look first (what would make a proof impossible on that server), then make the database from template0 with the source's
encoding and locale, apply its properties as values, load, and read everything back on new connections.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from polyladder_ops import storage
from polyladder_ops.catalog import Backup
from polyladder_ops.errors import OpsError
from polyladder_ops.manifest import Manifest
from polyladder_ops.postgres import databases, inventory, proof, properties, session
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.postgres.inventory import CatalogEntry
from polyladder_ops.postgres.lexer import Lexer
from polyladder_ops.postgres.load import Loader
from polyladder_ops.postgres.proof import Difference

__all__ = [
    "Obstacles",
    "load",
    "make_database",
    "obstacles",
    "prove",
    "temporary_database",
    "temporary_roles",
]

Progress = Callable[[int], None] | None


@dataclass(frozen=True)
class Obstacles:
    """Why a restore on this server proves less than it should: `fatal` ones keep it from being tried at all."""

    fatal: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def obstacles(server: Target, manifest: Manifest) -> Obstacles:
    """Return what stands between this server and a proof: another major, extensions that are missing or differ."""
    with closing(session.connect(server)) as connection:
        major = session.identify(connection).major
        available = databases.available_extensions(connection)
    fatal = [
        f"the extension {e.name} is not available" for e in manifest.extensions if e.name not in available
    ]
    doubts = [
        f"the extension {e.name} would be {available[e.name]} instead of {e.version}"
        for e in manifest.extensions
        if e.name in available and available[e.name] != e.version
    ]
    if major != manifest.source.server_major:
        source = manifest.source.server_major
        doubts.insert(0, f"the server's major version is {major}, the source's was {source}")
    return Obstacles(tuple(fatal), tuple(doubts))


def make_database(server: Target, name: str, manifest: Manifest) -> None:
    """Create the database from template0 and apply the source's properties to it as values.

    Raise databases.LocaleMissing if the server lacks encoding, locale or provider; OpsError if it refuses.
    """
    with closing(session.connect(server)) as connection:
        databases.create(connection, name, manifest.properties)
        try:
            properties.apply(connection, name, manifest.properties)
        except BaseException:
            databases.drop(connection, name)
            raise


@contextlib.contextmanager
def temporary_database(server: Target, manifest: Manifest, *, purpose: str) -> Iterator[Target]:
    """Within the block a new empty database with the source's properties; dropped afterwards, whatever happened."""
    name = f"polyladder_{purpose}_{secrets.token_hex(5)}"
    make_database(server, name, manifest)
    try:
        yield server.with_database(name)
    finally:
        with closing(session.connect(server)) as connection:
            databases.drop(connection, name)


@contextlib.contextmanager
def temporary_roles(server: Target, manifest: Manifest, *, trusted: bool) -> Iterator[tuple[str, ...]]:
    """Within the block every role of the source exists, the missing ones made without login; those are dropped after.

    On a `trusted` server (our own, thrown away) missing superusers are made superusers: some objects need such an owner.
    """
    with closing(session.connect(server)) as connection:
        made = databases.make_roles(connection, manifest.roles, superusers=trusted)
    try:
        yield made
    finally:
        with closing(session.connect(server)) as connection:
            databases.drop_roles(connection, made)


def load(target: Target, backup: Backup, keys: Sequence[Any], *, progress: Progress = None) -> None:
    """Load a backup into an empty database, checking once more that these are the bytes of its manifest.

    Raise OpsError if the server refuses anything or the bytes are others: the database is to be dropped then.
    """
    found = _feed(target, backup, keys, schema_only=False, progress=progress)
    if differences := proof.compare_contents(backup.manifest.contents, found):
        raise OpsError(
            f"backup {backup.id} changed while it was read",
            detail=f"{differences[0]}.",
            hint=f"Run `invoke verify --backup={backup.id}`.",
        )


def _feed(
    target: Target, backup: Backup, keys: Sequence[Any], *, schema_only: bool, progress: Progress
) -> Any:
    manifest = backup.manifest
    with closing(session.connect(target, settings=_values_of(manifest))) as connection:
        loader = Loader(connection, schema_only=schema_only)
        lexer = Lexer(loader)

        def sink(block: bytes) -> None:
            lexer.feed(block)
            if progress:
                progress(len(block))

        storage.read(backup.path, sink, keys=keys, encrypted=manifest.encrypted)
        lexer.close()
        loader.finish()
        return loader.ledger.contents


def _values_of(manifest: Manifest) -> dict[str, str]:
    """Return the settings under which the dump's text means what it meant (money depends on lc_monetary)."""
    return {name: manifest.session[name] for name in ("lc_monetary",) if name in manifest.session}


def prove(
    server: Target, database: str, backup: Backup, keys: Sequence[Any], *, progress: Progress = None
) -> list[Difference]:
    """Return every difference between the database and what the manifest says; none means that it is proved.

    Reads rows, sequences, large objects, objects with owner and grants, extensions, and database properties.
    """
    manifest = backup.manifest
    target = server.with_database(database)
    with closing(session.connect(target, settings=_values_of(manifest))) as connection:
        contents = proof.read_contents(connection, manifest.contents, progress=progress)
    with closing(session.connect(target)) as connection:
        objects = inventory.entries(connection)
        extensions = properties.extensions(connection)
        own = properties.read(connection)

    def replayed() -> Sequence[CatalogEntry]:
        with temporary_database(server, manifest, purpose="replay") as empty:
            _feed(empty, backup, keys, schema_only=True, progress=None)
            with closing(session.connect(empty)) as connection:
                return inventory.entries(connection)

    return [
        *proof.compare_contents(manifest.contents, contents),
        *proof.compare_objects(manifest.objects, objects, replayed),
        *_extensions_differ(manifest, extensions),
        *(Difference("database", database, why) for why in properties.compare(manifest.properties, own)),
    ]


def _extensions_differ(manifest: Manifest, found: Sequence[Any]) -> Iterator[Difference]:
    there = {extension.name: extension for extension in found}
    for extension in manifest.extensions:
        if (other := there.get(extension.name)) and other != extension:
            yield Difference(
                "extension", extension.name, f"it is version {other.version} instead of {extension.version}"
            )
