"""Which machine of the database's app holds the primary, and what stands in the way there: found before anything begins.

Fly's checks tell a machine's role, up to fifteen seconds late (contract 1.4), so who goes there asks the server again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.fly import kinds, machines
from polyladder_ops.fly.failures import FlyError
from polyladder_ops.redaction import hide_password

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyladder_ops.fly.flyctl import Flyctl
    from polyladder_ops.fly.machines import Machine
    from polyladder_ops.fly.shell import Shell

__all__ = ["USER", "Surroundings", "choose", "find", "look", "parsed"]

USER = "postgres"
"""Whom the server's own socket lets in without a password; nobody else (contract 4.2)."""
_ROLES = ("primary", "leader")
# PGDATA and PGHOST are as the image sets them; the socket's folder is Debian's where it says nothing (contract 4.2, 4.3).
_SCRIPT = """
port=${PG_PORT:-5433}
data=$(dirname "${PGDATA:-/data/postgresql}")
echo "port=$port"
df -PB1 "$data" | awk 'NR == 2 { print "size=" $2; print "free=" $4 }'
awk '/^MemTotal:/ { print "memory=" $2 * 1024 }' /proc/meminfo
test -e "$data/readonly.lock" && echo read_only=1
test -e "$data/zombie.lock" && echo zombie=1
for folder in "${PGHOST:-/nowhere}" /var/run/postgresql /tmp; do
  if test -S "$folder/.s.PGSQL.$port"; then echo "socket=$folder/.s.PGSQL.$port"; break; fi
done
if command -v socat >/dev/null; then echo socat=1; else asked=1; fi
command -v pg_dump >/dev/null && echo "pg_dump=$(pg_dump --version)"
test -n "$asked" && printf "password=%s\\n" "$OPERATOR_PASSWORD"
echo end=1
"""


@dataclass(frozen=True)
class Surroundings:
    """What the primary's machine is like: sizes in bytes, the server's own socket and port, which programs are there.

    The password is that of the role postgres, as Fly has it; it is asked for where nobody gets in without it.
    """

    port: int
    size: int
    free: int
    memory: int
    socket: str = ""
    pg_dump: str = ""
    password: str = field(default="", repr=False)
    has_socat: bool = False
    is_read_only: bool = False
    is_zombie: bool = False


def find(flyctl: Flyctl, app: str, *, organisation: Callable[[], str] | None = None) -> Machine:
    """Return the machine that holds the primary; one call. Raise Refused or OpsError, with the cure, if there is none to go to.

    `organisation` tells the slug by which a Managed Postgres of that name is looked for where there is no such app.
    """
    try:
        found = machines.read(flyctl.json(list, "machine", "list", "--json", app=app))
    except FlyError as error:
        if (
            error.name == "unknown-app"
            and organisation
            and (refusal := kinds.managed(flyctl, app, organisation))
        ):
            raise refusal from error
        raise
    return choose(found, app)


def choose(found: tuple[Machine, ...], app: str) -> Machine:
    """Return the one machine that holds the primary. Raise Refused or OpsError, with the cure, if none or several do."""
    cluster = [each for each in found if each.is_flex]
    if not cluster:
        raise _of_another_kind(found, app)
    primaries = [each for each in cluster if each.state == "started" and each.role in _ROLES]
    if len(primaries) > 1:
        raise Refused(
            f"{app} has {len(primaries)} primaries",
            detail=f"Machines {', '.join(each.id for each in primaries)} each say so: the cluster is split.",
            hint=f"Look with `fly checks list -a {app}`; end the one whose data is older before anything else.",
        )
    if primaries:
        return primaries[0]
    raise _without_primary(cluster, app)


def _of_another_kind(found: tuple[Machine, ...], app: str) -> OpsError:
    if not found:
        return OpsError(
            f"{app} has no machine",
            detail="There is nothing to go to: its machines were destroyed, or it never had one.",
            hint=f"Look with `fly volumes list -a {app}`: a volume or its snapshots may hold the data still.",
        )
    return kinds.of_another_kind(found, app)


def _without_primary(cluster: list[Machine], app: str) -> OpsError:
    if lost := [each for each in cluster if not each.is_known]:
        return OpsError(
            f"the host of machine {lost[0].id} of {app} can't be reached",
            detail="Nobody knows when it comes back, and whether with its volume.",
            hint="Restore the newest backup to another server, or wait: https://status.flyio.net.",
        )
    if zombies := [each for each in cluster if each.role == "zombie"]:
        return OpsError(
            f"{app} has lost its quorum: machine {zombies[0].id} is a zombie",
            detail="PostgreSQL is stopped there on purpose; the data is whole. A member that was destroyed is still counted.",
            hint=f"In `fly ssh console -a {app}` as postgres: `repmgr -f /data/repmgr.conf cluster show`, then unregister"
            " the member that is gone (`repmgr standby unregister --node-id N`).",
        )
    up = [each for each in cluster if each.state == "started"]
    if not up:
        first = cluster[0]
        return OpsError(
            f"no machine of {app} is started",
            detail=f"Machine {first.id} is {first.state}.",
            hint=f"Run `fly machine start {first.id} -a {app}`, wait until its checks pass, then run this again.",
        )
    told = ", ".join(f"{each.id} is {each.role or 'of no role yet'}" for each in up)
    return OpsError(
        f"no machine of {app} holds the primary",
        detail=f"Machine {told}. A role is told up to 15 s late, and not at all while its check fails.",
        hint=f"Look with `fly checks list -a {app}`, then run this again.",
    )


def look(shell: Shell, *, needs_password: bool = False) -> Surroundings:
    """Return what the machine is like, with the password where it is needed or there is no socat. Raise OpsError if it does not tell all."""
    asked = "asked=1" if needs_password else "asked="
    seen = parsed(shell.run(f"{asked}{_SCRIPT}"), shell.machine)
    hide_password(seen.password, (USER,))
    return seen


def parsed(text: str, machine: str) -> Surroundings:
    """Return what the lines of the look say; OpsError if their end, or what every machine has, is missing."""
    said = dict(line.split("=", 1) for line in text.split("\n") if "=" in line)
    try:
        _ = said["end"]  # what was cut before it is no answer
        numbers = {name: int(float(said[name])) for name in ("port", "size", "free", "memory")}
    except (KeyError, ValueError, OverflowError) as error:
        raise OpsError(
            f"machine {machine} does not tell what it is like",
            detail=f"Of the look at its disk, memory and programs this is missing: {error}.",
            hint="Run it again; report it if this stays.",
        ) from error
    return Surroundings(
        numbers["port"],
        numbers["size"],
        numbers["free"],
        numbers["memory"],
        socket=said.get("socket", ""),
        pg_dump=said.get("pg_dump", ""),
        password=said.get("password", ""),
        has_socat="socat" in said,
        is_read_only="read_only" in said,
        is_zombie="zombie" in said,
    )
