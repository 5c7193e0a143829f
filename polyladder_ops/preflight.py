"""What stands in the way of replacing a live database by a backup, decided from facts before anything is touched; pure.

Each obstacle has a name that `--accept` takes, if it is one that a person may let through, and its cure. Most can't be:
what the server will refuse anyway, or what would make the result untrue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyladder_ops.postgres import capacity, poolers, printable
from polyladder_ops.restore import room as rooms
from polyladder_ops.terminal import quoted, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.manifest import Manifest
    from polyladder_ops.postgres.facts import Live, Server

__all__ = [
    "NEED_A_SUPERUSER",
    "SPACE",
    "Obstacle",
    "flag",
    "obstacles",
    "owners",
    "unknowns",
    "warnings",
]

SPACE = "space"
"""The obstacle of a disk on which a second copy does not fit."""
NEED_A_SUPERUSER = ("event trigger", "foreign data wrapper", "access method")
"""Kinds of objects that PostgreSQL itself lets nobody else make."""


@dataclass(frozen=True)
class Obstacle:
    """One thing in the way: its name, what it is, what cures it, and whether `--accept=<item>` lets it through."""

    item: str
    detail: str
    cure: str
    acceptable: bool = False

    def __str__(self) -> str:
        return f"{self.item}: {self.detail}"


def flag(item: str) -> str:
    """Return the flag that lets this item through, as a shell takes it."""
    return f"--accept={quoted(item)}"


def obstacles(
    server: Server, live: Live | None, manifest: Manifest, *, name: str, create_roles: bool
) -> tuple[Obstacle, ...]:
    """Return everything that stands in the way of the database `name`; `live` is None if none is replaced (`--into` a new one)."""
    found = [*_of_server(server, manifest), *_missing(server, manifest, create_roles=create_roles)]
    if server.live_oid is not None:
        found += _of_live(server, name)
    if live is not None:
        found += _inside_live(live)
    return tuple(found)


def _of_server(server: Server, manifest: Manifest) -> Iterator[Obstacle]:
    if server.identity.is_standby:
        yield Obstacle(
            "standby", "the server is a standby and takes no writes", "Point DATABASE_URL at the primary."
        )
    if not server.can_create:
        yield Obstacle(
            "createdb",
            f"the role {server.role} may not create databases",
            f"Run ALTER ROLE {server.role} CREATEDB as a superuser, or look whether `-R` with --in-place finds nothing in the way.",
        )
    major, source = server.identity.major, manifest.source.server_major
    if major < source:
        yield Obstacle(
            "major",
            f"the server is PostgreSQL {major}, the backup was taken from {source}",
            f"Restore onto PostgreSQL {source} or newer.",
        )
    yield from _space(server, manifest)
    for standby in server.out_of_reach:
        yield Obstacle(
            f"standby:{standby.name}",
            f"sessions on {standby} would go on reading the old database, and it can't be reached from here",
            "Run this where it can be reached, or accept it and restart that standby after the switch.",
            acceptable=True,
        )


def _space(server: Server, manifest: Manifest) -> Iterator[Obstacle]:
    room = rooms.of(server, manifest)
    if room is None or room.is_enough:
        return
    yield Obstacle(
        SPACE,
        f"a second copy needs up to {size(room.needed_bytes)} and {size(room.reserve_bytes)} should stay free,"
        f" but only {size(room.free_bytes)} of {size(room.total_bytes)} are",
        rooms.ENLARGE,
        acceptable=True,
    )


def _missing(server: Server, manifest: Manifest, *, create_roles: bool) -> Iterator[Obstacle]:
    for extension in manifest.extensions:
        available = server.extensions.get(extension.name)
        if available is None:
            yield Obstacle(
                f"extension:{extension.name}",
                f"version {extension.version} is not available on the server",
                "Install the extension's files on the server.",
            )
        elif available != extension.version:
            yield Obstacle(
                f"extension:{extension.name}",
                f"the server would make version {available} instead of {extension.version}",
                "Install that version on the server, or accept the other one.",
                acceptable=True,
            )
    yield from _beyond_our_role(server, manifest, create_roles=create_roles)
    for role in manifest.roles if not create_roles else ():
        if role.needed and role.name not in server.roles:
            yield Obstacle(
                f"role:{role.name}", "the role is missing on the server", "Add --create-roles, or create it."
            )
    if manifest.properties.tablespace not in server.tablespaces:
        yield Obstacle(
            f"tablespace:{manifest.properties.tablespace}",
            "the tablespace is missing on the server",
            "Create it, or accept that the database goes to the default one.",
            acceptable=True,
        )


def _beyond_our_role(server: Server, manifest: Manifest, *, create_roles: bool) -> Iterator[Obstacle]:
    """Yield what the server lets superusers do only; each may be let through, since some providers let others do it, too."""
    cure = "Use a superuser's login in DATABASE_URL, or accept it if your provider lets this role."
    for extension in manifest.extensions:
        if extension.name in server.for_superusers:
            yield Obstacle(
                f"making:{extension.name}",
                f"the role {server.role} may not make this extension",
                cure,
                acceptable=True,
            )
    for entry in manifest.objects if not server.is_superuser else ():
        if entry.kind in NEED_A_SUPERUSER:
            yield Obstacle(
                f"making:{entry.name}", f"only a superuser may make the {entry.kind}", cure, acceptable=True
            )
    mighty = {role.name for role in manifest.roles if role.superuser}
    for owner in owners(manifest):
        is_there = owner in server.roles or create_roles
        if is_there and owner not in server.gives_to and not server.is_superuser:
            grant = (
                f"As a superuser: GRANT {owner} TO {server.role}; or use a superuser's login in DATABASE_URL."
            )
            yield Obstacle(
                f"owner:{owner}",
                f"the role {server.role} may not give objects to {owner}",
                "Use a superuser's login in DATABASE_URL." if owner in mighty else grant,
                acceptable=True,
            )


def owners(manifest: Manifest) -> tuple[str, ...]:
    """Return the roles that a load gives objects to: without public's, which stands there before, and the database's own."""
    named = {e.owner for e in manifest.objects if (e.kind, e.name) != ("schema", "public")}
    return tuple(sorted(named - {"", "pg_database_owner"}))


def _of_live(server: Server, live: str) -> Iterator[Obstacle]:
    if server.is_half_dropped:
        yield Obstacle(
            "half-dropped",
            "somebody began to drop the live database: nothing in it can be read or kept any more",
            f"In psql in another database: DROP DATABASE {printable.identifier(live)};",
        )
    if not server.is_owner:
        yield Obstacle(
            "owner",
            f"the role {server.role} does not own the live database, so it can't rename it",
            "Use the owner's login or a superuser's in DATABASE_URL.",
        )
    for gid in server.prepared:
        yield Obstacle(
            f"prepared:{gid}",
            "a prepared transaction keeps the live database from being renamed",
            "In that database: COMMIT PREPARED {0} or ROLLBACK PREPARED {0}.".format(printable.literal(gid)),
        )
    for session in server.sessions:
        who = (
            f"process {session.pid} of {session.role or 'another role'} ({session.application or 'no name'})"
        )
        if not session.can_be_ended:
            yield Obstacle(
                f"session:{session.pid}",
                f"{who} can't be ended by {server.role}",
                "End it, or use a superuser's login.",
            )
        # A backup of ours is in a transaction all the time; a pooler's session can keep a name that it once was given.
        elif session.application == "pg_dump" or (
            session.application.startswith("polyladder-ops") and not session.is_idle
        ):
            yield Obstacle(
                f"session:{session.pid}",
                f"a backup seems to run: {who}",
                "Wait until it is done, or accept that it fails.",
                acceptable=True,
            )
    for slot in server.slots:
        yield Obstacle(
            f"slot:{slot}",
            "the logical replication slot stays with the database that is set aside",
            "Drop it, and set its subscriber up anew after the switch.",
            acceptable=True,
        )
    for name in server.subscriptions:
        yield Obstacle(
            f"subscription:{name}",
            "the subscription stays with the database that is set aside; the restored one is disabled",
            "Disable it, and set it up anew after the switch.",
            acceptable=True,
        )


def _inside_live(live: Live) -> Iterator[Obstacle]:
    for name in live.publications:
        yield Obstacle(
            f"publication:{name}",
            "its subscribers don't follow the switch",
            "Set them up anew after the switch.",
            acceptable=True,
        )
    for name in live.naming_extensions:
        yield Obstacle(
            f"naming:{name}",
            "this extension keeps names of databases or works of its own",
            "Pause its jobs before the switch and look at them after it.",
            acceptable=True,
        )


def unknowns(server: Server, live: Live | None) -> tuple[str, ...]:
    """Return in sentences what could not be looked at, so that nobody takes it for fine."""
    said = [poolers.SAID] if server.through_pooler else []
    if not server.can_make_roles:
        said.append(
            f"the role {server.role} may make no login, so it loads the backup itself: code of the database's users that rows run"
            " has its rights"
        )
    said += [] if server.volume else ["not checked: the space on the server's disk can't be seen from here"]
    return (*said, *(f"not read from the live database: {what}" for what in (live.unread if live else ())))


def warnings(server: Server, more_memory: str) -> tuple[str, ...]:
    """Return in sentences what a restore endangers though nothing stands in its way; `more_memory` is the cure of too little."""
    if not server.memory_bytes or not capacity.is_small(server.memory_bytes):
        return ()
    said = (
        f"the server's machine has {size(server.memory_bytes)} of memory: if it runs out while a copy is loaded, the live database"
        f" goes down with it, so one connection loads, with little of it. {more_memory}"
    )
    return (said,)
