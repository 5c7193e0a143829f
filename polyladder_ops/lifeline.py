"""Programs that end with us, however we end: nobody hears a SIGKILL, and what we had started would go on without its run.

A process of its own reads from a pipe of which we hold the other end, and nobody else does: whatever ends us, closes it.
Then it ends the program that it was told of, with all that this one has started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from polyladder_ops import portable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["lifeline", "main"]

_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from polyladder_ops.lifeline import main; main()"
_DONE = b"done"
_PATIENCE_S = 10.0  # for it to see that there is nothing to do


@contextlib.contextmanager
def lifeline(*, grace_s: float = 0.0) -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Within the block the program that it is told of ends with us; after the block that is over, so it must be ended by then.

    The program must have been started by `portable.start`, which gives it a group. It is asked to end, and killed after
    `grace_s` seconds.
    """
    argv = [sys.executable, "-I", "-S", "-c", _PROGRAM, str(Path(__file__).parents[1]), str(grace_s)]
    nowhere = subprocess.DEVNULL
    process = portable.start(
        argv,
        env=portable.clean_environment(),
        stdin=subprocess.PIPE,
        stdout=nowhere,
        stderr=nowhere,
        bufsize=0,
    )
    pipe = process.stdin
    assert pipe is not None

    def tell(program: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(OSError):  # it was killed: then the next command finds what we leave
            pipe.write(b"%d\n" % program.pid)

    try:
        yield tell
    finally:
        with contextlib.suppress(OSError):
            pipe.write(_DONE)
        pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_S)
        portable.end(process, grace_s=0)


def main() -> None:
    """Wait until stdin ends; unless its last word is that all is done, end the group whose number it holds."""
    # What is meant for us (a Ctrl-C, a terminal that closes) must find it at its post.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    told = sys.stdin.buffer.read().split()
    if told and told[-1] != _DONE:
        _ask(int(told[-1]), float(sys.argv[2]))
        portable.kill_group(int(told[-1]))


def _ask(pid: int, grace_s: float) -> None:
    """Ask a program to end, and wait for that, so many seconds at most."""
    until = time.monotonic() + grace_s
    with contextlib.suppress(OSError):
        if grace_s:
            os.kill(pid, signal.SIGTERM)
    while time.monotonic() < until and portable.is_alive(pid):
        time.sleep(0.05)
