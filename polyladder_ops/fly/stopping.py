"""`fly.stop`: way B of contract 5.2, which keeps the machines: stop each, autostart off, then look twice.

The proxy may start a machine between its stop and its update, a deploy may make another one: whatever is up at a look is
stopped again. The public address is never asked: a request is what wakes a machine (contract 5.1).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyladder_ops.errors import OpsError
from polyladder_ops.fly import machines, shape
from polyladder_ops.fly.failures import FlyError
from polyladder_ops.fly.machines import MARK

if TYPE_CHECKING:
    from polyladder_ops.fly.fleet import Fleet
    from polyladder_ops.fly.machines import Machine
    from polyladder_ops.fly.shape import Shape

__all__ = ["Stopped", "refuse_unreachable", "stop"]


@dataclass(frozen=True)
class Stopped:
    """All managed machines as they were at the last of two looks that agreed, and what runs beside them.

    `unmarked` are those of which only our disk knows that they ran: Fly did not keep their part of the shape.
    """

    machines: tuple[Machine, ...]
    others: tuple[Machine, ...]
    shape: Shape | None
    unmarked: tuple[str, ...] = ()


def stop(fleet: Fleet) -> Stopped:
    """Return when every machine of the app is stopped with autostart off, seen twice.

    Raise OpsError if that can't be reached in time; the shape stays remembered then, and a second run finishes.
    """
    with fleet.alone():
        found = fleet.look()
        ours = machines.managed(found)
        refuse_unreachable(ours)
        if not ours:
            return Stopped((), machines.others(found), shape.load(fleet.path))
        kept = fleet.remember(found)
        if kept.source != "now":
            fleet.say(f"a shape waits already ({kept}); it is kept as it is")
        way = f"{fleet.hint('fly.stop')} finishes, {fleet.hint('fly.start')} undoes."
        with fleet.telling(f"Perhaps some machines are stopped already; their shape is kept: {way}"):
            return _bring_down(fleet, ours, kept)


def refuse_unreachable(ours: tuple[Machine, ...], so_far: str = " Nothing was touched.") -> None:
    """Return if Fly reaches the host of each machine. Raise OpsError if not: that app can't be called down."""
    lost = [each.id for each in ours if not each.is_known]
    if lost:
        raise OpsError(
            f"the host of machine {lost[0]} can't be reached",
            detail="Fly can neither stop it nor say what it does, so the app can't be called down." + so_far,
            hint="See https://status.flyio.net; a restore closes the database to every session anyway.",
        )


def _bring_down(fleet: Fleet, ours: tuple[Machine, ...], kept: Shape) -> Stopped:
    until = fleet.deadline()
    agreed, up, again = 0, tuple(each for each in ours if not each.is_down), set[str]()
    while True:
        for each in up:
            _press(fleet, each, kept, until)
        fleet.say("looking whether all are down …" if not agreed else "all are down; looking again …")
        time.sleep(fleet.pace.settle_s if not agreed else fleet.pace.apart_s)
        found = fleet.trying(until, fleet.look)
        ours = machines.managed(found)
        refuse_unreachable(ours, "")
        moving = [each for each in ours if each.state not in ("stopped", "started")]
        if moving:
            fleet.say(f"waiting: {', '.join(f'{each.id} is {each.state}' for each in moving)} …")
        up = tuple(each for each in ours if not each.is_down and not each.is_moving)
        agreed = agreed + 1 if not up and not moving else 0
        unmarked = _unmarked(ours, kept)
        if agreed == 1 and (up := tuple(each for each in unmarked if each.id not in again)):
            agreed, again = 0, again | {each.id for each in up}
        if agreed == 2:
            return Stopped(ours, machines.others(found), kept, tuple(each.id for each in unmarked))
        if time.monotonic() > until:
            raise _not_down(fleet, ours)


def _unmarked(ours: tuple[Machine, ...], kept: Shape) -> tuple[Machine, ...]:
    """Return what ran, or was to be woken, and does not keep it: an update can say that it was done and do nothing."""
    parts = ((each, kept.part(each)) for each in ours if not each.mark)
    return tuple(each for each, part in parts if part and (part.ran or part.autostart))


def _press(fleet: Fleet, machine: Machine, kept: Shape, until: float) -> None:
    """Stop one machine, then take its autostart away and write its part of the shape into it, in one update."""
    fleet.say(f"stopping {machine.id} ({machine.group}) …")
    call = fleet.flyctl.run
    try:
        if machine.state != "stopped":
            fleet.trying(until, lambda: call("machine", "stop", machine.id, "-w", "60s", app=fleet.app))
        mark = f"{MARK}={shape.mark_of(kept, machine)}"
        words = (
            "machine",
            "update",
            machine.id,
            "--autostart=false",
            "--metadata",
            mark,
            "--skip-start",
            "-y",
        )
        fleet.trying(until, lambda: call(*words, app=fleet.app))
    except FlyError as error:
        if error.name != "gone":
            raise
        fleet.say(f"{machine.id} is not there any more; looking anew …")


def _not_down(fleet: Fleet, ours: tuple[Machine, ...]) -> OpsError:
    said = ", ".join(
        f"{each.id} is {each.state}{'' if each.autostart is not True else ' with autostart on'}"
        for each in ours
        if not each.is_down
    )
    return OpsError(
        f"{fleet.app} is not down",
        detail=f"{said or 'Machines come and go'}.",
        hint=f"Stop a deploy that is under way, then {fleet.hint('fly.stop')}; {fleet.hint('fly.start')} undoes.",
    )
