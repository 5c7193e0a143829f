"""`fly.scale`: the seed's `fly scale count`, with the shape remembered before machines are destroyed, and the end looked at."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from polyladder_ops.errors import Mismatch, OpsError, UsageError
from polyladder_ops.fly import machines, releases, shape
from polyladder_ops.fly.starting import scale_words

if TYPE_CHECKING:
    from polyladder_ops.fly.fleet import Fleet
    from polyladder_ops.fly.machines import Machine
    from polyladder_ops.fly.shape import Shape

__all__ = ["Scaled", "members", "scale"]


@dataclass(frozen=True)
class Scaled:
    """The group's machines at the end, what runs beside the app's own, and the shape that waits still, None if none does.

    `is_compared` if the group has come back from nothing and what it was before is known.
    """

    group: str
    machines: tuple[Machine, ...]
    others: tuple[Machine, ...]
    waiting: Shape | None
    is_compared: bool = True


def scale(fleet: Fleet, group: str, count: int) -> Scaled:
    """Return when the group (the app's only one if none is named) has so many machines, the new ones started.

    Raise Refused if new ones would be of a release that did not succeed, Mismatch if they are not as before (size, region,
    autostart) or not all of the last release that did, OpsError if the count is not reached.
    """
    with fleet.alone():
        found = fleet.look()
        group, have = members(fleet, found, group)
        image = releases.promised(fleet) if count > len(have) else ""
        known = fleet.remembered(found)
        if count < len(have):
            fleet.remember(found)
        before = known.shape if known else shape.of(fleet.app, found)
        if count != len(have):
            words = scale_words(group, count, before.regions(group) if count > len(have) else ())
            fleet.say(f"scaling {group} from {len(have)} to {count} …")
            kept = f"; the shape is kept: {fleet.hint('fly.start')} undoes" if shape.waits(fleet.path) else ""
            with fleet.telling(f"Perhaps some of it is done{kept}."):
                fleet.trying(fleet.deadline(), lambda: fleet.flyctl.run(*words, app=fleet.app))
                found = _wait(fleet, group, count, have)
        elif any(each.is_moving for each in have):  # called up by somebody a moment ago: it will run
            found = _wait(fleet, group, count, have)
        if image:
            releases.look_at_images(fleet, _of(found, group), image)
        is_known = bool(have) or group in before.counts
        return replace(_judged(fleet, found, group, count, before), is_compared=is_known or not count)


def members(fleet: Fleet, found: tuple[Machine, ...], group: str) -> tuple[str, tuple[Machine, ...]]:
    """Return the group that is meant (the app's only one if none is named), and its machines.

    Raise UsageError if it has several, OpsError if the host of a machine is lost.
    """
    group = _group(fleet, group, found)
    if any(not each.is_known for each in machines.managed(found)):
        raise OpsError(
            "the host of a machine can't be reached",
            detail="`fly scale` skips such a machine without a word. Nothing was touched.",
            hint="See https://status.flyio.net, then try again.",
        )
    return group, _of(found, group)


def _of(found: tuple[Machine, ...], group: str) -> tuple[Machine, ...]:
    return tuple(each for each in machines.managed(found) if each.group == group)


def _wait(fleet: Fleet, group: str, count: int, before: tuple[Machine, ...]) -> tuple[Machine, ...]:
    """Return the machines when the group has its count, is at rest, and what is new of it runs; flyctl waits for none of it (1.12)."""
    until, old = fleet.deadline(), {each.id for each in before}
    while True:
        time.sleep(fleet.pace.settle_s)
        found = fleet.trying(until, fleet.look)
        have = _of(found, group)
        new = (each for each in have if each.id not in old)
        is_at_rest = not any(each.is_moving for each in have)
        if len(have) == count and is_at_rest and all(each.state == "started" for each in new):
            return found
        states = ", ".join(f"{each.id} is {each.state}" for each in have) or "there is none"
        fleet.say(f"waiting for {count} running machines of group {group}: {states} …")
        if time.monotonic() > until:
            raise OpsError(
                f"group {group} of {fleet.app} does not have {count} running machines",
                detail=f"{states}.",
                hint=f"Look with {fleet.hint('fly.status')}, then run this again.",
            )


def _judged(fleet: Fleet, found: tuple[Machine, ...], group: str, count: int, before: Shape) -> Scaled:
    """Return the end. What was asked for is right, so a group that grew is no longer waited for."""
    waiting = shape.load(fleet.path)
    problems: tuple[str, ...] = ()
    if count:
        if count == before.counts.get(group):
            problems = shape.differences(before, found, [group])
        if waiting and not problems:
            waiting = _without(fleet, waiting, found, group)
    if problems:
        raise Mismatch(
            f"group {group} has {count} machines, but they are not as before",
            detail="; ".join(problems) + ".",
            hint=f"{fleet.hint('fly.start')} starts what ran and gives autostart back; `fly scale vm SIZE --vm-memory MB -a {fleet.app}`"
            " sets sizes.",
        )
    return Scaled(group, _of(found, group), machines.others(found), waiting)


def _without(fleet: Fleet, waiting: Shape, found: tuple[Machine, ...], group: str) -> Shape | None:
    """Take the group out of what waits; what is as it should be by now needs no waiting either."""
    rest = shape.without(waiting, group)
    if not rest.counts or not shape.differences(rest, found, rest.counts):
        shape.forget(fleet.path)
        return None
    shape.save(fleet.path, rest, over=True)
    return rest


def _group(fleet: Fleet, named: str, found: tuple[Machine, ...]) -> str:
    """Return the group that is meant: the one named, else the only one. Raise UsageError if there are several."""
    if named:
        return named
    waiting = shape.load(fleet.path)
    groups = {each.group for each in machines.managed(found)} | set(waiting.counts if waiting else ())
    if len(groups) > 1:
        raise UsageError(
            f"{fleet.app} has several groups: {', '.join(sorted(groups))}",
            hint="Name one with --group=NAME; fly.stop stops all of them.",
        )
    return next(iter(groups), "app")
