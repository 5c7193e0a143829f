"""The process that outlives us, if need be, to end our scratch server and delete its rows: nobody else hears a SIGKILL.

It reads from a pipe of which we hold the other end, and nobody else does: whatever ends us, closes it.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path

from filelock import Timeout

from polyladder_ops.errors import OpsError
from polyladder_ops.sandbox import scratch

__all__ = ["main"]


def main() -> None:
    """Wait until stdin ends, then clear the folder that is named last on the command line."""
    # What is meant for us (a Ctrl-C, a terminal that closes, a machine that shuts down) must find it at its post.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    folder = Path(sys.argv[-1])
    # What it can't remove the next command finds, and says.
    with contextlib.suppress(OpsError, OSError, Timeout):
        scratch.clear(folder)
