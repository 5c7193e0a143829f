"""`fly proxy`: a port of this machine that leads into Fly's network, with what it does not say and does not notice (contract 1.17)."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from polyladder_ops.sandbox.fly.arguments import FlyError
from polyladder_ops.sandbox.fly.world import changing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.sandbox.fly.session import Session
    from polyladder_ops.sandbox.fly.world import Machine, World

__all__ = ["COMMANDS", "proxy", "read_carried"]

_CARRIED = "carried.jsonl"
_PIECE = 128 << 10
_LOOK_S = 0.05


def proxy(session: Session, folder: Path) -> Iterator[str]:
    """`fly proxy`: the port is open before anything is known of the far end; it runs until a signal or the end of stdin."""
    local, remote = _ports(session)
    with changing(folder) as world:
        name, _ = session.app(world)
        _expect_network(world)
    host = session.call.arguments[1] if len(session.call.arguments) > 1 else f"{name}.internal"
    _resolve(folder, name, host)
    listener = _bind(session.call.text("bind-addr", "127.0.0.1"), local)
    road = _Road(folder, name, host, remote)
    with listener:
        over = _Over(watches_stdin=session.call.is_set("watch-stdin"))
        threading.Thread(target=road.serve, args=(listener,), daemon=True).start()
        yield f"Proxying localhost:{listener.getsockname()[1]} to remote [{host}]:{remote}\n"
        over.wait()
        road.end()


class _Over:
    """Whether it is over: by a signal, which ends it well from here on, or by the end of stdin where that is watched."""

    def __init__(self, *, watches_stdin: bool) -> None:
        self._is_so = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._end)
        if watches_stdin:
            threading.Thread(target=self._read, daemon=True).start()

    def _end(self, _number: int, _frame: object) -> None:
        self._is_so = True

    def _read(self) -> None:
        while sys.stdin.buffer.read(1):
            pass
        self._is_so = True

    def wait(self) -> None:
        while not self._is_so:
            time.sleep(_LOOK_S)


def _ports(session: Session) -> tuple[int, int]:
    if not session.call.arguments:
        raise FlyError("requires at least 1 arg(s), only received 0")
    local, _, remote = session.call.arguments[0].partition(":")
    if not re.fullmatch(r"\d+", local) or not re.fullmatch(r"\d*", remote):
        raise FlyError(f'strconv.Atoi: parsing "{session.call.arguments[0]}": invalid syntax')
    return int(local), int(remote or local)


def _expect_network(world: World) -> None:
    """Raise FlyError for what a tunnel needs beyond the app itself (contract 6.1, 6.3)."""
    if world.has_fault("no-network"):
        raise FlyError("get app network: server returned a non-200 status code: 500")
    if world.has_fault("no-tunnel"):
        raise FlyError(
            'tunnel unavailable for organization personal: failed probing "personal": context deadline exceeded'
        )


def _resolve(folder: Path, name: str, host: str) -> None:
    """Wait for a name as flyctl does, up to four minutes by its clock; an address is not looked up."""
    if ":" in host:
        return
    with changing(folder) as world:
        deadline = time.monotonic() + world.data.get("names_s", 240.0)
    while True:
        with changing(folder) as world:
            if _far_end(world, name, host):
                return
        if time.monotonic() > deadline:
            raise FlyError(f"{host}: host was not found in DNS")
        time.sleep(_LOOK_S)


def _far_end(world: World, name: str, host: str) -> Machine | None:
    """Return the started machine that an address or a name means; the app's own name means the first one."""
    up = [each for each in world.machines(name) if each["shown"]["state"] == "started"]
    if host == f"{name}.internal":
        return next(iter(up), None)
    return next(
        (
            each
            for each in up
            if host in (each["shown"]["private_ip"], f"{each['shown']['id']}.vm.{name}.internal")
        ),
        None,
    )


def _bind(address: str, port: int) -> socket.socket:
    try:
        return socket.create_server((address, port), backlog=128)
    except OSError:
        raise FlyError(f"listen tcp {address}:{port}: bind: address already in use") from None


@dataclass
class _Road:
    """Leads each connection to whoever has the address when it comes; one that nobody answers is closed without a word."""

    folder: Path
    app: str
    host: str
    remote: int
    open: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def end(self) -> None:
        """Note what the connections have carried that end with us."""
        for carried in list(self.open):
            self._note(carried)

    def _note(self, carried: dict[str, Any]) -> None:
        with self.lock:
            if carried not in self.open:
                return
            self.open.remove(carried)
        with changing(self.folder), (self.folder / _CARRIED).open("a", encoding="utf-8") as file:
            file.write(json.dumps(carried) + "\n")

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            with changing(self.folder) as world:
                closes, stalls, cuts = (
                    world.has_fault(f"tunnel-{word}") for word in ("closes", "stalls", "cuts")
                )
                machine = _far_end(world, self.app, self.host)
                after = int(world.data.get("tunnel_after", 256 << 10))
            behind = (machine or {}).get("behind", {}).get(str(self.remote))
            if closes or not behind:
                return
            with socket.create_connection(tuple(behind), timeout=10) as far:
                far.settimeout(None)
                for each in (near, far):  # as Go does with each of its sockets
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._exchange(near, far, _Trouble(stalls, cuts, after))

    def _exchange(self, near: socket.socket, far: socket.socket, trouble: _Trouble) -> None:
        carried = {"app": self.app, "port": self.remote, "up": 0, "down": 0}
        self.open.append(carried)
        up = threading.Thread(target=_move, args=(near, far, carried, "up", trouble), daemon=True)
        up.start()
        _move(far, near, carried, "down", trouble)
        up.join()
        self._note(carried)


@dataclass
class _Trouble:
    """What befalls a connection once so many bytes came down: nothing passes any more, or it is cut."""

    stalls: bool
    cuts: bool
    after: int
    came: int = 0
    silent: threading.Event = field(default_factory=threading.Event)

    def meet(self, size: int) -> None:
        """Count what came down; wait for ever, or raise OSError, once it is enough."""
        self.came += size
        if self.came > self.after and self.cuts:
            raise ConnectionResetError
        while self.came > self.after and self.stalls:
            self.silent.wait(3600)


def _move(
    source: socket.socket, target: socket.socket, carried: dict[str, Any], way: str, trouble: _Trouble
) -> None:
    """Move bytes until one end closes, and hand that on."""
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE):
            trouble.meet(len(piece) if way == "down" else 0)
            target.sendall(piece)
            carried[way] += len(piece)
    for each in (target, source) if trouble.cuts else (target,):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR if trouble.cuts else socket.SHUT_WR)


def read_carried(folder: Path) -> list[dict[str, Any]]:
    """Return what each connection that is over has carried: app, port, bytes up and down."""
    file = folder / _CARRIED
    return (
        [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    )


COMMANDS: dict[tuple[str, ...], Callable[[Session, Path], Iterator[str]]] = {("proxy",): proxy}
"""By words what runs."""
