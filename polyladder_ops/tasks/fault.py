"""The task that makes the sandbox's Fly go wrong on purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyladder_ops import output
from polyladder_ops.errors import OpsError, UsageError
from polyladder_ops.tasks.boundary import number_of, open_settings, refuse_dry, task

if TYPE_CHECKING:
    from invoke.context import Context

__all__ = ["fault"]


@task(
    help={
        "name": "Which fault (without it: all are listed, with those that are on).",
        "times": "How often it comes before it is over by itself (default: always).",
        "off": "Switch it off; --name=all means every one.",
    }
)
def fault(c: Context, name: str = "", times: str = "", off: bool = False) -> None:
    """Make the sandbox's Fly fail as the real one does.

    Examples:
        invoke sandbox.fault
        invoke sandbox.fault --name=no-capacity --times=1
        invoke sandbox.fault --name=all --off
    """
    refuse_dry(c)
    from polyladder_ops import terminal
    from polyladder_ops.sandbox.fly.cloud import Cloud
    from polyladder_ops.sandbox.fly.faults import FAULTS

    cloud = Cloud(open_settings(c, site="sandbox").sandbox_cloud)
    if not cloud.exists():
        raise OpsError("the sandbox has no Fly", hint="Start it with `invoke sandbox.up`.")
    if name:
        cloud.switch(name, times=number_of(times, "times", most=1000), off=off)
    elif off or times:
        raise UsageError("no fault is named", hint="Write --name=NAME; `invoke sandbox.fault` lists them.")
    on = cloud.faults()
    rows = [
        (each, each in on, on.get(each), said)
        for each, said in FAULTS.items()
        if name in ("", "all") or each in (name, *on)
    ]
    output.lines(terminal.table(rows, ("fault", "on", "times", "what happens")))
