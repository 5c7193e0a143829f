"""Giving the server more room before a copy is made, where its machine can and somebody wants it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from polyladder_ops import preflight
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import volume
from polyladder_ops.restore import room

if TYPE_CHECKING:
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.restore.plan import Options, Plan

__all__ = ["enlarged"]

_GROWS_S = 60.0
_LOOK_S = 1.0


def enlarged(connection: Connection, plan: Plan, options: Options) -> bool:
    """Return whether the server's disk is larger than it was, as the server itself says.

    Nothing is done for a restore that something else stands in the way of. Raise OpsError or Refused if it can't be enlarged.
    """
    lack = room.of(plan.server, plan.backup.manifest)
    if lack is None or options.host is None or [each.item for each in plan.obstacles] != [preflight.SPACE]:
        return False
    if not options.host.enlarge(lack.total_bytes, lack.wanted_bytes):
        return False
    _await_growth(connection, lack.total_bytes, is_far=plan.target.way is not None)
    return True


def _await_growth(connection: Connection, before: int, *, is_far: bool) -> None:
    until = time.monotonic() + _GROWS_S
    while time.monotonic() < until:
        found = volume.measure(connection, is_far=is_far)
        if found is not None and found.total_bytes > before:
            return
        time.sleep(_LOOK_S)
    raise OpsError(
        "the server's disk has not grown",
        detail=f"Its volume was made larger, but {_GROWS_S:g} s later the server still sees {before:,} bytes.",
        hint="Stop and start its machine when its users can do without it, then run the same command again.",
    )
