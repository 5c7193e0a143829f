"""What a program took: time, processor, memory; where the system tells. Beside `portable` the one that knows which it is."""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyladder_ops import portable
from polyladder_ops.errors import OpsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Usage", "cpu_seconds", "load_average", "measured", "peak_bytes", "sync_disks"]


@dataclass(frozen=True)
class Usage:
    """What a program and the children that it waited for took; None where the system does not tell (Windows).

    `seconds` by the clock on the wall, `cpu_seconds` of all of them together, `peak_bytes` of memory of the largest one.
    """

    returncode: int
    seconds: float
    cpu_seconds: float | None = None
    peak_bytes: int | None = None


# A small process between us and the program: Linux counts the memory of whoever starts a program as the program's own
# peak. It outlives SIGTERM, so that `end` waits for the program itself to clean up.
_LAUNCHER = """
import os, signal, sys, time
teller = int(sys.argv[1])
os.set_inheritable(teller, False)
begun = time.perf_counter()
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ, setsigdef=[signal.SIGPIPE, signal.SIGXFSZ])
signal.signal(signal.SIGTERM, signal.SIG_IGN)
_, status, used = os.wait4(child, 0)
seconds = time.perf_counter() - begun
numbers = os.waitstatus_to_exitcode(status), seconds, used.ru_utime + used.ru_stime, used.ru_maxrss
os.write(teller, " ".join(map(str, numbers)).encode())
"""


def measured(argv: Sequence[str], *, env: Mapping[str, str], **pipes: Any) -> Usage:
    """Run a program to its end, in a group of its own, and return what it took, whatever its exit code.

    Raise OpsError if it can't be started.
    """
    if sys.platform == "win32":
        begun = time.perf_counter()
        process = portable.start(argv, env=env, **pipes)
        try:
            code = process.wait()
        finally:
            portable.end(process)
        return Usage(code, time.perf_counter() - begun)
    reader, teller = os.pipe()
    with os.fdopen(reader, encoding="ascii") as told:
        try:
            launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(teller), *argv]
            process = portable.start(launcher, env=env, pass_fds=(teller,), **pipes)
        finally:
            os.close(teller)
        try:
            numbers = told.read().split()
            process.wait()
        finally:
            portable.end(process)
    if len(numbers) != 4:
        raise OpsError(f"could not start {argv[0]}")
    code, seconds, cpu, peak = numbers
    unit = 1 if sys.platform == "darwin" else 1024
    return Usage(int(code), float(seconds), float(cpu), int(peak) * unit)


def cpu_seconds() -> float | None:
    """Return the processor seconds of this process and of the children that it has waited for; None on Windows."""
    if sys.platform == "win32":
        return None  # it keeps no count of ended children
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def peak_bytes() -> int | None:
    """Return the most memory that this process ever held; None on Windows."""
    if sys.platform == "win32":
        return None
    if sys.platform == "linux":  # getrusage would count whoever started us, up to that moment, as ours
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
        return int(found[1]) << 10 if found else None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def load_average() -> tuple[float, float, float] | None:
    """Return how many processes wanted to run in the last 1, 5 and 15 minutes; None on Windows."""
    if sys.platform == "win32":
        return None
    return os.getloadavg()


def sync_disks() -> None:
    """Write out what every program left to be written later, so that the next one does not pay for it."""
    if sys.platform != "win32":
        os.sync()
