"""What ails the server, as checks of the doctor: it fills its disk, or the app can't write; a backup and a restore work all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyladder_ops.kept import Check
from polyladder_ops.postgres import condition, printable
from polyladder_ops.postgres.session import connect, translated
from polyladder_ops.terminal import plain, size

if TYPE_CHECKING:
    from polyladder_ops.postgres.condition import Condition
    from polyladder_ops.postgres.conninfo import Target

__all__ = ["judge", "look"]


def look(target: Target) -> list[Check]:
    """Return what ails the server and the database. Raise OpsError if the server fails."""
    with connect(target) as connection, translated(f"could not look what ails {target}"):
        found = condition.read(connection, target.database)
    return judge(found, target.database)


def judge(found: Condition, database: str) -> list[Check]:
    """Return a check for the log that slots keep, and for writes; warnings, since neither stops a backup or a restore."""
    return [_slots(found), _writes(found, database)]


def _slots(found: Condition) -> Check:
    name = "log kept for slots"
    if not found.slots:
        return Check(name, True, "No more than the server keeps by itself.")
    told = ", ".join(f"{size(slot.kept_bytes)} for {plain(slot.name)}" for slot in found.slots)
    drop = f"SELECT pg_drop_replication_slot({printable.literal(found.slots[0].name)});"
    return Check(
        name,
        False,
        f"Nobody reads these slots, and the server keeps {told}, until its disk is full.",
        f"If their readers are gone for good, in psql as a superuser: {drop} then CHECKPOINT;",
    )


def _writes(found: Condition, database: str) -> Check:
    name = "writes"
    if found.takes_writes:
        return Check(name, True, "The database takes them.")
    return Check(
        name,
        False,
        "The database lets nobody write who does not ask for it: default_transaction_read_only is on. Fly's image sets that on a disk"
        " that is full to 90 %, and takes it off by itself below.",
        "Make room on the server's disk first (see the slots and the space above); if it was set by hand:"
        f" ALTER DATABASE {printable.identifier(database)} RESET default_transaction_read_only;",
    )
