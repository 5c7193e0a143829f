"""`fly.start`: autostart is given back first and always; then machines are made and started until the shape is there again.

An autostart that stays off is an outage of its own: the next time the app sleeps nothing wakes it (contract 5.1).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from polyladder_ops.errors import Mismatch, OpsError
from polyladder_ops.fly import machines, releases, shape
from polyladder_ops.fly.failures import FlyError
from polyladder_ops.fly.fleet import Remembered
from polyladder_ops.fly.machines import MARK
from polyladder_ops.undoing import standing

if TYPE_CHECKING:
    from polyladder_ops.fly.fleet import Fleet
    from polyladder_ops.fly.machines import Machine
    from polyladder_ops.fly.shape import Shape

__all__ = ["Started", "start"]


@dataclass(frozen=True)
class Started:
    """The machines as they are now; `said` is worth knowing, though all is as it should be."""

    machines: tuple[Machine, ...]
    said: tuple[str, ...]


def start(fleet: Fleet) -> Started:
    """Return when every group is as the shape says, its autostart given back, and what ran before runs.

    Raise Mismatch if it is not after all was tried; the shape stays remembered then.
    """
    with fleet.alone():
        found = fleet.look()
        fleet.forget_what_is_over(found)
        known, unknown = _known(fleet, found)
        failed, early = _give_autostart_back(fleet, machines.managed(found), known)
        given = "Autostart was not given back everywhere" if failed else "Autostart was given back"
        with fleet.telling(
            f"{given}; perhaps not every machine runs.", f"{fleet.hint('fly.start')} goes on."
        ):
            if end := early or unknown:
                raise end
            wanted = known.shape if known else shape.of(fleet.app, found)
            failed += _scale_up(fleet, machines.managed(found), wanted)
            found, unstarted = _bring_up(fleet, wanted)
            failed += (*unstarted, *_of_another_image(fleet, found, wanted))
            if not failed and not shape.differences(shape.grown(wanted, found), found):
                found, failed = _unmark(fleet, found, wanted, known)
        return _judged(fleet, found, wanted, known, failed)


def _known(fleet: Fleet, found: tuple[Machine, ...]) -> tuple[Remembered | None, OpsError | None]:
    """Return the shape that must come back, None if all is there and awake; and what hinders us from knowing it."""
    ours = machines.managed(found)
    try:
        known = fleet.remembered(found)
        is_lost = known is None and (not ours or any(each.autostart is False for each in ours))
        if not is_lost:
            return known, None
        told = fleet.from_config(found)
        # Autostart that the app's own settings have off is no trace of a stop.
        is_so = ours and all(_autostart(each, told.shape) == each.autostart for each in ours)
        return (Remembered(shape.of(fleet.app, found)) if is_so else told), None
    except OpsError as error:
        return None, error


def _give_autostart_back(
    fleet: Fleet, ours: tuple[Machine, ...], known: Remembered | None
) -> tuple[tuple[str, ...], KeyboardInterrupt | None]:
    """Give each machine the autostart that it had, and take its mark away where a request can wake it now.

    Return what failed, after all were tried, and the Ctrl-C that came meanwhile: it must not leave an app that nothing
    wakes. A second one does, a second later.
    """
    failed: list[str] = []
    interrupted: KeyboardInterrupt | None = None
    left = list(ours)
    with standing(f"Perhaps still without autostart, so that nothing wakes them: machines of {fleet.app}"):
        while left:
            try:
                if problem := _give_back(fleet, left[0], known.shape if known else None):
                    failed.append(problem)
                left.pop(0)
            except KeyboardInterrupt as error:
                if interrupted:
                    raise
                interrupted = error
                fleet.say("interrupted; giving autostart back before the end …")
    return tuple(failed), interrupted


def _give_back(fleet: Fleet, machine: Machine, kept: Shape | None) -> str:
    """Give one machine its autostart back, if it lacks it or is marked; return what hindered it, empty if nothing did.

    What nothing wakes keeps its mark until it runs: without one nobody else would know that it has to.
    """
    wanted = _autostart(machine, kept)
    is_right = wanted is None or wanted == machine.autostart
    if not machine.is_known or (is_right and not machine.mark):
        return ""
    if is_right and wanted is not True and kept and _ran(kept, machine):
        return ""
    fleet.say(f"giving {machine.id} ({machine.group}) its autostart back …")
    return _update(fleet, machine, wanted, "--skip-start")


def _update(fleet: Fleet, machine: Machine, wanted: bool | None, *more: str) -> str:
    """Set the machine's autostart if it can have one, and take its mark away; return what hindered it."""
    flag = () if wanted is None else (f"--autostart={str(wanted).lower()}",)
    words = ("machine", "update", machine.id, *flag, "--metadata", f"{MARK}=", *more, "-y")
    try:
        fleet.trying(fleet.deadline(), partial(fleet.flyctl.run, *words, app=fleet.app))
    except FlyError as error:
        if (
            error.name != "gone"
        ):  # a deploy's new one has what the deploy gave it, and is looked at in the end
            return f"{machine.id}: {error.in_a_line}".rstrip(".")
    return ""


def _unmark(
    fleet: Fleet, found: tuple[Machine, ...], wanted: Shape, known: Remembered | None
) -> tuple[tuple[Machine, ...], tuple[str, ...]]:
    """Take the marks away that are left, once all is there; return the machines, and what failed. A second try is the last.

    An update lets a machine that runs start anew (contract 1.11), so it is waited for once more.
    """
    for _ in range(2):
        left = [each for each in machines.managed(found) if each.mark]
        for each in left:
            fleet.say(f"taking the mark of {each.id} ({each.group}) away …")
            if problem := _update(fleet, each, _autostart(each, known.shape if known else None)):
                return found, (problem,)
        if not left:
            break
        time.sleep(fleet.pace.settle_s)
        found, failed = _bring_up(fleet, wanted)
        if failed:
            return found, failed
    marked = [each for each in machines.managed(found) if each.mark]
    return found, tuple(f"machine {each.id} of group {each.group} keeps its mark `{MARK}`" for each in marked)


def _autostart(machine: Machine, kept: Shape | None) -> bool | None:
    """Return what the machine's autostart must be: as its part's, as its group's, else on; None if no request can wake it."""
    if machine.autostart is None:
        return None
    if kept is None:
        return True
    part = kept.part(machine) or next((each for each in kept.parts if each.group == machine.group), None)
    return True if part is None or part.autostart is None else part.autostart


def _scale_up(fleet: Fleet, ours: tuple[Machine, ...], wanted: Shape) -> tuple[str, ...]:
    """Make the machines that are missing, where they were; return what failed."""
    short = [
        (group, count)
        for group, count in sorted(wanted.counts.items())
        if sum(each.group == group for each in ours) < count
    ]
    try:
        if short:
            releases.promised(fleet)
    except OpsError as error:
        return (error.with_hint.rstrip("."),)
    failed: list[str] = []
    for group, count in short:
        fleet.say(f"scaling {group} to {count} …")
        words = scale_words(group, count, wanted.regions(group))
        try:
            fleet.trying(fleet.deadline(), partial(fleet.flyctl.run, *words, app=fleet.app))
        except FlyError as error:
            failed.append(f"{group}: {error.in_a_line}".rstrip("."))
    return tuple(failed)


def _of_another_image(fleet: Fleet, found: tuple[Machine, ...], wanted: Shape) -> tuple[str, ...]:
    """Return what is wrong with the image of the machines that were made since; nothing if there are none."""
    try:
        releases.look_at_images(
            fleet, (each for each in machines.managed(found) if wanted.part(each) is None)
        )
    except OpsError as error:
        return (error.with_hint.rstrip("."),)
    return ()


def scale_words(group: str, count: int, regions: tuple[str, ...]) -> tuple[str, ...]:
    """Return the call that gives a group its count, in these regions if any are known."""
    where = ("-r", ",".join(regions)) if regions and count else ()
    return ("scale", "count", f"{group}={count}", *where, "-y")


def _bring_up(fleet: Fleet, wanted: Shape) -> tuple[tuple[Machine, ...], tuple[str, ...]]:
    """Start what must run, each until Fly says `started`; return the machines at the end, and what did not start and why.

    Of what ran before and does not run now `shape.differences` tells.
    """
    until, failed = fleet.deadline(), dict[str, str]()
    found = fleet.trying(until, fleet.look)
    while True:
        missing = [each for each in _to_run(machines.managed(found), wanted) if each.state != "started"]
        ready = [each for each in missing if each.state in ("stopped", "suspended") and each.id not in failed]
        for each in ready:
            if problem := _start_one(fleet, each):
                failed[each.id] = problem
        waiting = [each for each in missing if each.id not in failed]
        if not waiting or time.monotonic() > until:
            late = [f"{each.id} is {each.state}" for each in waiting if not _ran(wanted, each)]
            return found, (*failed.values(), *late)
        fleet.say(f"waiting until all run: {', '.join(f'{each.id} is {each.state}' for each in waiting)} …")
        time.sleep(fleet.pace.settle_s)
        found = fleet.trying(until, fleet.look)


def _start_one(fleet: Fleet, machine: Machine) -> str:
    """Start a machine; return why it can't be, empty if it was started or only time is missing."""
    fleet.say(f"starting {machine.id} ({machine.group}) …")
    try:
        fleet.flyctl.run("machine", "start", machine.id, app=fleet.app)
    except FlyError as error:
        return "" if error.passes else f"{machine.id}: {error.with_hint}".rstrip(".")
    return ""


def _to_run(ours: tuple[Machine, ...], wanted: Shape) -> list[Machine]:
    """Return what must run: what ran before, what is new, and one at least of each group that answers requests."""
    chosen = [each for each in ours if wanted.part(each) is None or _ran(wanted, each)]
    for group in {each.group for each in ours}:
        members = [each for each in ours if each.group == group and each.autostart is not None]
        if members and not any(each in chosen for each in members):
            chosen.append(min(members, key=lambda each: (each.state != "started", each.id)))
    return chosen


def _ran(wanted: Shape, machine: Machine) -> bool:
    part = wanted.part(machine)
    return part is not None and part.ran


def _judged(
    fleet: Fleet, found: tuple[Machine, ...], wanted: Shape, known: Remembered | None, failed: tuple[str, ...]
) -> Started:
    """Return the end if it is the shape, which is forgotten then. Raise Mismatch with all that is not."""
    problems = (*failed, *shape.differences(shape.grown(wanted, found), found))
    if not machines.managed(found):
        problems = (*problems, "the app has no machine")
    if problems:
        to_be = f" If it is to be as it is now, delete {fleet.path}." if shape.waits(fleet.path) else ""
        raise Mismatch(
            f"{fleet.app} is not as it was",
            detail="; ".join(problems) + ".",
            hint=f"Run {fleet.hint('fly.start')} again; it goes on where it stands. `fly scale vm SIZE --vm-memory MB -a"
            f" {fleet.app}` sets sizes.{to_be}",
        )
    shape.forget(fleet.path)
    return Started(
        machines.managed(found), (*([known.said] if known and known.said else []), *_told(found, wanted))
    )


def _told(found: tuple[Machine, ...], wanted: Shape) -> tuple[str, ...]:
    """Return what differs without being wrong: a deploy meanwhile, a group of which nothing ran before either."""
    before = {part.image for part in wanted.parts if part.image}
    now = {each.image for each in machines.managed(found) if each.image}
    said = (
        [f"The image is {' '.join(sorted(now))} now; it was {' '.join(sorted(before))}."]
        if before and now - before
        else []
    )
    more = [
        f"Group {group} has {count} machines now; it had {wanted.counts[group]}."
        for group, count in sorted(shape.grown(wanted, found).counts.items())
        if count > wanted.counts[group]
    ]
    asleep = sorted(
        {each.group for each in machines.managed(found)}
        - {each.group for each in found if each.state == "started"}
    )
    return (
        *said,
        *more,
        *(f"Group {group} has no started machine, and had none before." for group in asleep),
    )
