"""The plan of a replacement: what would be replaced by what, and what stands in the way; nothing is touched for it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from polyladder_ops import preflight
from polyladder_ops.errors import Refused, UsageError
from polyladder_ops.postgres import facts, locks, marks, session
from polyladder_ops.restore import room

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyladder_ops.catalog import Backup
    from polyladder_ops.checks import Check
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.facts import Live, Server
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.preflight import Obstacle

__all__ = ["Host", "Options", "Plan", "look", "maintenance", "preview", "refuse"]

_TEMPLATES = ("template0", "template1")


class Host(Protocol):
    """The machine that the server runs on, where more leads to it than SQL."""

    def more_memory(self) -> str:
        """Return the sentence that says how it gets more memory."""

    def more_room(self, total_bytes: int, wanted_bytes: int) -> str:
        """Return the sentence that says how its disk of `total_bytes` gets `wanted_bytes`."""

    def enlarge(self, total_bytes: int, wanted_bytes: int) -> bool:
        """Enlarge the disk if that is wanted, and return whether that was done. Raise OpsError or Refused if it can't be."""


@dataclass(frozen=True)
class Options:
    """How a restore is done. `name` is the database to end as, `replaces` whether one of that name may be there.

    `jobs` connections work side by side; None: as many as the server bears.
    """

    name: str
    replaces: bool = True
    accept: frozenset[str] = frozenset()
    create_roles: bool = False
    jobs: int | None = None
    checks: tuple[Check, ...] = ()
    progress: Callable[[str], Callable[[int], None]] | None = None
    host: Host | None = None


@dataclass(frozen=True)
class Plan:
    """What would be replaced by what, and what stands in the way; `obstacles` without those that are accepted."""

    target: Target
    backup: Backup
    server: Server
    live: Live | None
    obstacles: tuple[Obstacle, ...]
    accepted: tuple[str, ...]
    unknowns: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def look(connection: Connection, server: Target, target: Target, backup: Backup, options: Options) -> Plan:
    """Return the plan: the facts of now, and what follows from them.

    Raise OpsError if the server fails, Refused if the database to replace is itself one that was set aside.
    """
    found_server = facts.read_server(connection, server, target.database)
    _refuse_set_aside(connection, found_server.live_oid)
    live = facts.read_live(target) if found_server.live_oid is not None else None
    found = preflight.obstacles(
        found_server, live, backup.manifest, name=target.database, create_roles=options.create_roles
    )
    through = [o for o in found if o.acceptable and o.item in options.accept]
    return Plan(
        target,
        backup,
        found_server,
        live,
        obstacles=tuple(_with_cure(o, found_server, backup, options) for o in found if o not in through),
        accepted=tuple(map(str, through)),
        unknowns=preflight.unknowns(found_server, live),
        warnings=preflight.warnings(found_server, _more_memory(options)),
    )


def _more_memory(options: Options) -> str:
    return options.host.more_memory() if options.host else "More memory for that machine is the cure."


def _with_cure(obstacle: Obstacle, server: Server, backup: Backup, options: Options) -> Obstacle:
    """Return the obstacle with the cure that the server's machine has for it, if it has one."""
    lack = room.of(server, backup.manifest) if obstacle.item == preflight.SPACE else None
    if lack is None or options.host is None:
        return obstacle
    return replace(obstacle, cure=options.host.more_room(lack.total_bytes, lack.wanted_bytes))


def _refuse_set_aside(connection: Connection, oid: int | None) -> None:
    """Return unless the database is as a restore set it aside: another mark over its own would lose the way back."""
    with session.translated("could not look for set-aside databases"):
        found = marks.of(connection, oid) if oid is not None else None
    if found is None or found.is_claim or found.use or found.name == found.mark.live:
        return
    raise Refused(
        f"{found.name} is what a restore set aside from {found.mark.live}",
        detail="To replace it would lose the way back.",
        hint="Choose another name; `invoke restore.status` shows what is set aside.",
    )


def preview(target: Target, backup: Backup, options: Options) -> Plan:
    """Return the plan of now without touching anything, not even a lock.

    Raise OpsError if the server fails, Refused if the name is taken.
    """
    server = maintenance(target, options.name)
    with closing(session.connect(server)) as connection:
        plan = look(connection, server, target.with_database(options.name), backup, options)
    _refuse_taken(plan, options)
    return plan


def maintenance(target: Target, name: str) -> Target:
    """Return the database from which one of this name is made and renamed.

    Raise UsageError if the name is too long for the server, Refused if it is one of the server's own.
    """
    if (size := len(name.encode())) > marks.NAME_BYTES:
        raise UsageError(
            f"the name {name} is too long for a database",
            detail=f"It has {size} bytes; the server would cut it to {marks.NAME_BYTES}, perhaps to another one's name.",
            hint="Choose a shorter one.",
        )
    if name in _TEMPLATES or (name == "postgres" and name != target.database):
        raise Refused(
            f"{name} is a database of the server itself",
            detail="Others are made from it, or managed from it.",
            hint="Choose another name.",
        )
    return locks.maintenance(target.with_database(name))


def _refuse_taken(plan: Plan, options: Options) -> None:
    if plan.server.live_oid is not None and not options.replaces:
        raise Refused(
            f"there is a database {plan.target.database} already",
            detail="It was not touched.",
            hint="Choose another name, or add --replace: it is set aside then, not dropped.",
        )


def refuse(plan: Plan, options: Options) -> None:
    """Return if nothing stands in the way. Raise Refused if the name is taken, or with all that does and its cure."""
    _refuse_taken(plan, options)
    if plan.obstacles:
        acceptable = [o.item for o in plan.obstacles if o.acceptable]
        accept = f" To let one through: `{preflight.flag(acceptable[0])}`." if acceptable else ""
        if fixed := sorted(o.item for o in plan.obstacles if o.item in options.accept):
            accept = f" --accept can't let {', '.join(fixed)} through.{accept}"
        raise Refused(
            f"{len(plan.obstacles)} {'thing stands' if len(plan.obstacles) == 1 else 'things stand'} in the way",
            detail="\n        ".join(f"{o}. {o.cure}" for o in plan.obstacles),
            hint=f"Nothing was touched. Cure this, then run the same command again.{accept}",
        )
