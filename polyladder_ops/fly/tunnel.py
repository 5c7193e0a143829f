"""A port of this machine that leads to a port of one machine inside Fly's network, for as long as a block lasts.

`fly proxy` opens its port before it knows whether anybody is there, says nothing when nobody is, and nothing when the tunnel
dies (contract 1.17). So a tunnel is ready when the far end has spoken its own protocol, and whoever loses a connection asks
`why_lost` what became of the way.
"""

from __future__ import annotations

import contextlib
import queue
import re
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from polyladder_ops import portable
from polyladder_ops.fly import failures, machines
from polyladder_ops.lifeline import lifeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import BufferedReader
    from typing import IO

    from polyladder_ops.errors import OpsError
    from polyladder_ops.fly.flyctl import Flyctl
    from polyladder_ops.fly.machines import Machine

__all__ = ["HOST", "Tunnel", "opened", "postgres_answers", "ssh_answers"]

HOST = "127.0.0.1"
"""Where the port is; `localhost` may mean ::1, where flyctl does not listen."""
_READY = re.compile(r"^Proxying localhost:(\d+) to remote \[.*\]:\d+$")
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
_ANSWER_S = 10.0
_APART_S = 0.5
_ENDING_S = 3.0
_DYING_S = 0.5
_LONGEST = 64 << 10
_PIECES = 16


@dataclass(frozen=True)
class Tunnel:
    """A way to a port of a machine: `port` is ours, at `HOST`; `remote` is the machine's."""

    flyctl: Flyctl
    app: str
    machine: Machine
    remote: int
    proxy: _Proxy
    port: int

    @property
    def name(self) -> str:
        """What it leads to, for a sentence."""
        return _name(self.app, self.machine, self.remote)

    def why_lost(self) -> OpsError | None:
        """Return what became of the way, after a connection through it was lost; None if it is as it was. One call of flyctl."""
        if (code := self.proxy.code(within_s=_DYING_S)) is not None:
            return _ended(self, code)
        now = machines.read(self.flyctl.json(list, "machine", "list", "--json", app=self.app))
        return _changed(self, next((each for each in now if each.id == self.machine.id), None))


def _name(app: str, machine: Machine, remote: int) -> str:
    return f"port {remote} of machine {machine.id} of {app}"


def _ended(tunnel: Tunnel, code: int) -> OpsError:
    said = tunnel.proxy.stderr()
    if code and said:
        return failures.explain("proxy", said, code, app=tunnel.app)
    how = f"was killed (signal {-code})" if code < 0 else f"ended with exit code {code}"
    return failures.FlyError(
        f"the tunnel to {tunnel.name} is gone",
        detail=f"`fly proxy` {how} while it was in use.",
        hint="Run it again, from its beginning.",
        name="tunnel-ended",
        passes=True,
    )


def _changed(tunnel: Tunnel, now: Machine | None) -> OpsError | None:
    """Return what happened to the machine since the tunnel was opened; None if nothing did."""
    before = tunnel.machine
    if now is None:
        happened = "is not there any more"
    elif now.state != "started":
        happened = f"is {now.state}"
    elif now.address != before.address:
        happened = f"has another address now ({now.address}, it was {before.address}): Fly moved it"
    elif now.started_at != before.started_at:
        happened = "was started again meanwhile"
    else:
        return None
    return failures.FlyError(
        f"machine {before.id} of {tunnel.app} {happened}",
        detail="The connection through the tunnel was lost with it.",
        hint=f"Look with `fly status -a {tunnel.app}`; once it is started, run this again from its beginning.",
        name="machine-changed",
        passes=True,
    )


@contextlib.contextmanager
def opened(
    flyctl: Flyctl,
    app: str,
    machine: Machine,
    remote: int,
    *,
    answers: Callable[[socket.socket], bool],
    limit_s: float = 60.0,
) -> Iterator[Tunnel]:
    """Within the block a tunnel to a port of the machine; it ends with the block, and with us however we end.

    `answers` speaks the protocol's first words over a connection and tells whether the far end answered in it.
    Raise FlyError, explained, if flyctl opens no way, or if nobody answers behind it in time; SSH of a machine that has
    just started takes half a minute.
    """
    if not machine.address:
        raise failures.FlyError(
            f"Fly tells no address of machine {machine.id}",
            detail=f"The tunnel to {_name(app, machine, remote)} needs it.",
            hint=f"Look with `fly machine list -a {app}`.",
            name="no-address",
        )
    deadline = time.monotonic() + limit_s
    words = ("proxy", f"0:{remote}", machine.address, "--watch-stdin", "--quiet")
    with _running(flyctl, *words, app=app) as proxy:
        port = proxy.port(_name(app, machine, remote), app, deadline)
        tunnel = Tunnel(flyctl, app, machine, remote, proxy, port)
        _wait(tunnel, answers, deadline)
        yield tunnel


@contextlib.contextmanager
def _running(flyctl: Flyctl, *words: str, app: str) -> Iterator[_Proxy]:
    """Within the block the command runs. The other end of its stdin is ours alone: whatever ends us, ends that."""
    pipe = subprocess.PIPE
    with lifeline() as tell:
        process = flyctl.started(*words, app=app, stdin=pipe, stdout=pipe, stderr=pipe)
        try:
            tell(process)
            yield _Proxy(process)
        finally:
            with contextlib.suppress(OSError):
                cast("IO[bytes]", process.stdin).close()
            portable.end(process, grace_s=_ENDING_S)


class _Proxy:
    """`fly proxy` as it runs, and what it says, read in threads: a full pipe would stop it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._errors = bytearray()
        self._lines: queue.Queue[str] = queue.Queue()
        self._threads = [
            threading.Thread(target=self._read_lines, args=(process.stdout,), daemon=True),
            threading.Thread(target=self._read_errors, args=(process.stderr,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _read_lines(self, pipe: BufferedReader) -> None:
        with pipe:
            for line in pipe:
                self._lines.put(line.decode(errors="replace").strip())

    def _read_errors(self, pipe: BufferedReader) -> None:
        with pipe:
            while piece := pipe.read1(1 << 12):
                self._errors += piece[: max(0, _LONGEST - len(self._errors))]

    def code(self, within_s: float = 0.0) -> int | None:
        """Return the exit code, None while it runs. Its connections close a moment before it counts as ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(within_s)
        return None

    def stderr(self) -> str:
        """Return what it said of errors; it has ended, so that is all."""
        for thread in self._threads:
            thread.join(1.0)
        return bytes(self._errors).decode(errors="replace")

    def port(self, name: str, app: str, deadline: float) -> int:
        """Return the port that it opened, named behind lines of noise. Raise FlyError if it ends before, or is silent."""
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                if found := _READY.match(self._lines.get(timeout=0.1)):
                    return int(found[1])
                continue
            if (code := self.code()) is not None and self._lines.empty():
                raise failures.explain("proxy", self.stderr(), code, app=app)
        raise failures.FlyError(
            f"`fly proxy` opened no way to {name} in time",
            detail="It runs and says nothing; so it does while it waits for a tunnel into the organisation's network.",
            hint="Run `fly agent restart`, then `fly doctor`, and run it again.",
            name="silent",
            passes=True,
        )


def _wait(tunnel: Tunnel, answers: Callable[[socket.socket], bool], deadline: float) -> None:
    """Return once the far end has answered. Raise FlyError with what it did instead, if that is all it does until the deadline."""
    while True:
        instead = _try(tunnel, answers, deadline)
        if not instead:
            return
        if lost := tunnel.why_lost() if tunnel.proxy.code() is not None else None:
            raise lost
        if time.monotonic() + _APART_S > deadline:
            raise tunnel.why_lost() or _unanswered(tunnel, instead)
        time.sleep(_APART_S)


def _try(tunnel: Tunnel, answers: Callable[[socket.socket], bool], deadline: float) -> str:
    """Return what the far end did instead of answering; empty if it answered."""
    try:
        with socket.create_connection((HOST, tunnel.port), timeout=_ANSWER_S) as connection:
            connection.settimeout(max(0.1, min(_ANSWER_S, deadline - time.monotonic())))
            return "" if answers(connection) else "closed the connection"
    except TimeoutError:
        return "took the connection and said nothing"
    except ConnectionError:
        return "closed the connection"
    except OSError as error:
        return f"let go of the connection ({error.strerror or error})"


def _unanswered(tunnel: Tunnel, instead: str) -> OpsError:
    return failures.FlyError(
        f"nobody answers at {tunnel.name}",
        detail=f"The tunnel stands, but the far end {instead}: the program there is not up, or it is another port.",
        hint=f"Look with `fly status -a {tunnel.app}` and `fly logs -a {tunnel.app}`.",
        name="unanswered",
        passes=True,
    )


def postgres_answers(connection: socket.socket) -> bool:
    """Whether a PostgreSQL server is there: it answers the request for encryption by one letter (PostgreSQL docs, 55.2.10)."""
    connection.sendall(_SSL_REQUEST)
    return connection.recv(1) in (b"S", b"N", b"E")


def ssh_answers(connection: socket.socket) -> bool:
    """Whether an SSH server is there: it names its protocol first, perhaps behind other lines (RFC 4253, 4.2)."""
    came = b""
    for _ in range(_PIECES):
        if not (piece := connection.recv(256)):
            break
        came += piece
        if re.search(rb"^SSH-2\.0-.*\n", came, re.MULTILINE):
            return True
    return False
