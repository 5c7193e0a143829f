"""Tasks for the app's machines on Fly: look, stop, start, scale; never for the database's."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection

from polyladder_ops import output
from polyladder_ops.errors import Mismatch, OpsError, UsageError
from polyladder_ops.tasks.backup import JSON, SITE, open_site, print_json
from polyladder_ops.tasks.boundary import confirm, is_dry, task, would_ask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from invoke.context import Context

    from polyladder_ops.fly.fleet import Fleet
    from polyladder_ops.fly.machines import Machine

__all__ = ["collection"]

FORCE = "Do not ask. It lets nothing through."


@task(help={"site": SITE, "json": JSON})
def status(c: Context, site: str = "", json: bool = False) -> None:
    """Show the app's machines, and whether a shape waits.

    One call of flyctl, which changes nothing. Exits 3 if no machine can answer a request, while what fly.stop or fly.scale
    took away has not come back, or while another run changes them.

    Examples:
        invoke fly.status
        invoke fly.status --site=rehearsal --json
    """
    from polyladder_ops.fly import machines

    fleet = _fleet(c, site)
    found = fleet.look()
    if not json:
        output.lines(_table(found) if found else f"{fleet.app} has no machine")
    _warn_of_others(found)
    kept = fleet.remembered(found)
    if json:
        waiting = asdict(kept.shape) if kept else None
        print_json({"app": fleet.app, "machines": [asdict(each) for each in found], "shape": waiting})
    if holder := fleet.held_by():
        raise Mismatch(
            f"a run changes the machines of {fleet.app} now",
            detail=f"It is of {holder}.{f' They were {kept.shape}.' if kept else ''}",
            hint=f"Wait until it has ended, then look again with {fleet.hint('fly.status')}.",
        )
    if kept:
        raise Mismatch(
            f"the machines of {fleet.app} wait to come back",
            detail=f"They were {kept.shape}; {kept.shape.source} keeps them.",
            hint=f"Run {fleet.hint('fly.start')}.",
        )
    lost = [each.id for each in machines.managed(found) if not each.is_known]
    if not any(
        each.is_known and (each.state == "started" or each.autostart) for each in machines.managed(found)
    ):
        raise Mismatch(
            f"no machine of {fleet.app} answers requests",
            detail=f"The host of {', '.join(lost)} can't be reached." if lost else "",
            hint="See https://status.flyio.net." if lost else f"Run {fleet.hint('fly.start')}.",
        )


@task(help={"force": FORCE, "site": SITE})
def stop(c: Context, force: bool = False, site: str = "") -> None:
    """Stop the app's machines so that no request wakes one.

    Their shape is remembered first, on disk and in the machines themselves. Each is stopped and its autostart taken away; the
    end is looked at twice, 5 s apart. What was begun and not finished a second run finishes. Asks first, or needs --force.

    Examples:
        invoke fly.stop
        invoke fly.stop --force
    """
    from polyladder_ops.fly import stopping

    fleet = _fleet(c, site)
    if is_dry(c) or not force:
        found = fleet.look()
        question = f"This stops {fleet.app} ({_counted(found)}): its users get no answer."
        if is_dry(c):
            _would_stop(fleet, found)
            would_ask(question, force=force)
            return
        confirm(question, fleet.app, force=force)
    done = stopping.stop(fleet)
    if not done.machines:
        output.line(f"{fleet.app} has no machine of its own; {fleet.hint('fly.start')} makes what was there")
    else:
        output.line(
            f"{fleet.app} is down: {_counted(done.machines)} stopped, autostart off; {fleet.hint('fly.start')} brings back"
        )
    if done.unmarked:
        output.note(
            f"note: Fly did not keep the shape in {', '.join(done.unmarked)}: only this machine knows what ran, in {fleet.path}"
        )
    _refuse_others(fleet, done.others)


@task(help={"site": SITE})
def start(c: Context, site: str = "") -> None:
    """Bring the app's machines back as they were.

    Gives autostart back first, whatever fails afterwards, makes machines that are missing, starts what ran, and compares every
    group with the shape. Run again, it goes on where it stands.

    Examples:
        invoke fly.start
        invoke fly.start --site=rehearsal
    """
    from polyladder_ops.fly import starting

    fleet = _fleet(c, site)
    if is_dry(c):
        found = fleet.look()
        kept = fleet.remembered(found)
        output.line(f"would bring back {kept.shape if kept else _counted(found)}")
        return
    done = starting.start(fleet)
    for sentence in done.said:
        output.note(f"note: {sentence}")
    _warn_of_missing(fleet, done.machines)
    started = sum(each.state == "started" for each in done.machines)
    output.line(
        f"{fleet.app} is up: {_counted(done.machines)}, {started} started; `invoke health` tells whether it is well"
    )


@task(
    help={
        "count": "How many machines the group has afterwards.",
        "group": "Process group (default: the app's only one).",
        "force": "Do not ask before machines are destroyed.",
        "site": SITE,
    }
)
def scale(c: Context, count: str = "", group: str = "", force: bool = False, site: str = "") -> None:
    """Give a group of the app so many machines.

    With --count=0 they are destroyed, as by `fly scale count 0`; what they were is remembered, and --count=1 or fly.start
    compares with it. fly.stop keeps the machines and is gentler. Fewer machines ask first, or need --force.

    Examples:
        invoke fly.scale --count=0 --force
        invoke fly.scale --count=1
        invoke fly.scale --count=2 --group=worker
    """
    from polyladder_ops.fly import releases, scaling
    from polyladder_ops.terminal import many

    wanted = _count(count)
    if group and not re.fullmatch(r"[\w-]+", group, re.ASCII):
        raise UsageError(f"--group={group} is no group's name", hint="`invoke fly.status` shows the groups.")
    fleet = _fleet(c, site)
    if is_dry(c) or not force:
        group, have = scaling.members(fleet, fleet.look(), group)
        fewer = many(len(have) - wanted, "machine") if wanted < len(have) else ""
        question = f"This destroys {fewer} of group {group} of {fleet.app}."
        if is_dry(c):
            if wanted > len(have):
                releases.promised(fleet)
            output.line(
                f"would give group {group} of {fleet.app} {many(wanted, 'machine')}; it has {len(have)}"
            )
            if fewer:
                would_ask(question, force=force)
            return
        if fewer:
            confirm(question, fleet.app, force=force)
    done = scaling.scale(fleet, group, wanted)
    rest = f"; {fleet.hint('fly.start')} brings back {done.waiting}" if done.waiting else ""
    output.line(f"group {done.group} of {fleet.app} has {many(len(done.machines), 'machine')}{rest}")
    if not done.is_compared:
        output.note("note: what the group was before is not known; size and region are the release's")
    if wanted == 0:
        _refuse_others(fleet, done.others)


def _warn_of_missing(fleet: Fleet, found: tuple[Machine, ...]) -> None:
    """Say which group has no machine: where its shape is lost everywhere, nothing else tells that it had one."""
    try:
        missing = fleet.missing(found)
    except OpsError as error:
        output.note(f"note: whether a group has no machine is not known: {error.message}")
        return
    for group in missing:
        output.note(
            f"note: group {group} of fly.toml has no machine; {fleet.hint('fly.scale')} with --count=1 --group={group} makes one"
        )


def _refuse_others(fleet: Fleet, others: Sequence[Machine]) -> None:
    """Raise Mismatch if a machine runs, or may be woken, that Fly does not deploy: it may use the database, though the app is down."""
    if others:
        one = others[0]
        cure = (
            f"machine stop {one.id} -a {fleet.app}"
            if one.state != "stopped"
            else f"machine update {one.id} -a {fleet.app} --autostart=false --skip-start -y"
        )
        raise Mismatch(
            f"beside {fleet.app}'s own machines {'; '.join(map(_beside, others))}",
            detail="Fly does not deploy that (a console, a release command, `fly machine run`), and it may use the database.",
            hint=f"Look who uses it, then `fly {cure}`.",
        )


def _beside(machine: Machine) -> str:
    is_asleep = machine.state == "stopped" and machine.autostart
    return f"{machine.id} is {machine.state}{', and a request wakes it' if is_asleep else ''}"


def _fleet(c: Context, site: str) -> Fleet:
    flags = f" --site={shlex.quote(site)}" if site else ""
    fleet: Fleet = open_site(c, site).fleet(flags, output.step)
    fleet.flyctl.version()
    return fleet


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,2}", text):
        raise UsageError(f"--count={text} is no number of machines", hint="Write --count=0, --count=1, …")
    return int(text)


def _counted(found: Sequence[Machine]) -> str:
    """Return the machines by group, such as `app: 1, worker: 2`."""
    from polyladder_ops.fly import shape

    return str(shape.of("", tuple(found)))


def _would_stop(fleet: Fleet, found: tuple[Machine, ...]) -> None:
    from polyladder_ops.fly import machines, stopping

    stopping.refuse_unreachable(machines.managed(found))
    up = [each.id for each in machines.managed(found) if not each.is_down]
    output.line(
        f"would stop {', '.join(up)} of {fleet.app}" if up else f"{fleet.app} is down; nothing would be done"
    )
    _warn_of_others(found)


def _warn_of_others(found: tuple[Machine, ...]) -> None:
    from polyladder_ops.fly import machines

    for each in machines.others(found):
        output.note(f"note: beside the app's own machines {_beside(each)}; no task stops or starts it")


def _table(found: Sequence[Machine]) -> str:
    from polyladder_ops import terminal

    rows: list[tuple[Any, ...]] = [
        (
            each.id,
            each.group if each.is_managed else f"({each.group or 'machine run'})",
            each.state if each.is_known else f"{each.state}, host unreachable",
            each.region,
            f"{each.size}, {each.memory_mb} MB" if each.memory_mb else None,
            each.autostart,
            (each.check or None) if each.state == "started" else None,
        )
        for each in found
    ]
    return terminal.table(rows, ("machine", "group", "state", "region", "size", "autostart", "failing check"))


collection = Collection("fly")
collection.add_task(status, name="status")
collection.add_task(stop, name="stop")
collection.add_task(start, name="start")
collection.add_task(scale, name="scale")
