"""A network link to a server on this machine: a proxy in a process of its own that lets bytes arrive late and one after the other.

Each direction takes so many bytes a second, shared by all connections, and every byte then travels half a round trip. A new
connection costs a round trip before its first byte, as TCP's handshake does. Run as ``python -m polyladder_ops.bench.link``
with a job in JSON on stdin; it ends when stdin does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from polyladder_ops import portable
from polyladder_ops.bench.plan import Link
from polyladder_ops.errors import OpsError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["between", "main"]

_HOST = "127.0.0.1"
_BLOCK = 16 << 10
_BLOCKS_ON_THE_WAY = 64  # a megabyte a connection: twice what such a link holds
_PATIENCE_S = 20.0


@contextlib.contextmanager
def between(server: tuple[str, int], link: Link, folder: Path) -> Iterator[int]:
    """Within the block a port of this machine leads to the server over the link. Raise OpsError if it does not come up."""
    told, said = folder / "link-port", folder / "link-said"
    job = {"server": server, "link": asdict(link), "file": str(told)}
    with said.open("wb") as stderr:
        process = portable.start(
            [sys.executable, "-m", __name__],
            env=portable.clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
        yield _port(process, told, said)
    finally:
        with contextlib.suppress(OSError):
            process.stdin.close()
        portable.end(process)
        told.unlink(missing_ok=True)


def _port(process: subprocess.Popen[bytes], told: Path, said: Path) -> int:
    deadline = time.monotonic() + _PATIENCE_S
    while not told.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            words = " ".join(said.read_text(encoding="utf-8", errors="replace").split())[-1500:]
            raise OpsError("the link did not come up", detail=words or "It said nothing.")
        time.sleep(0.01)
    return int(told.read_text(encoding="ascii"))


class _Lane:
    """One direction of the link: when the last byte of a block that comes now will have arrived."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._free_at = 0.0

    def arrival(self, size: int, now: float) -> float:
        self._free_at = max(now, self._free_at) + size / self._link.bytes_per_s
        return self._free_at + self._link.round_trip_s / 2


class _Proxy:
    def __init__(self, server: tuple[str, int], link: Link) -> None:
        self._server = server
        self._link = link
        self._there, self._back = _Lane(link), _Lane(link)

    async def serve(self, file: Path, ended: asyncio.Event) -> None:
        """Take connections until told to end; the port stands in the file as soon as there is one."""
        listener = await asyncio.start_server(self._joined, _HOST, 0, limit=_BLOCK)
        fresh = file.with_suffix(".new")
        fresh.write_text(str(listener.sockets[0].getsockname()[1]), encoding="ascii")
        fresh.replace(file)
        await ended.wait()

    async def _joined(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        try:
            await asyncio.sleep(self._link.round_trip_s)
            far_in, far_out = await asyncio.open_connection(*self._server, limit=_BLOCK)
        except OSError:
            near_out.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_carry(near_in, far_out, self._there))
                both.create_task(_carry(far_in, near_out, self._back))
        except* OSError:
            pass  # one end hung up; the other is told so
        finally:
            near_out.transport.abort()
            far_out.transport.abort()


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter, lane: _Lane) -> None:
    """Bring bytes from one end to the other until the source has ended and its last byte has arrived."""
    clock = asyncio.get_running_loop().time
    on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_BLOCKS_ON_THE_WAY)

    async def deliver() -> None:
        while True:
            at, block = await on_the_way.get()
            if (left := at - clock()) > 0:
                await asyncio.sleep(left)
            if not block:
                sink.write_eof()
                return
            sink.write(block)
            await sink.drain()

    async with asyncio.TaskGroup() as group:
        group.create_task(deliver())
        block = b"begun"
        while block:
            block = await source.read(_BLOCK)
            await on_the_way.put((lane.arrival(len(block), clock()), block))


def main() -> None:
    """Be the link that the first line on stdin describes, until stdin ends."""
    told = json.loads(sys.stdin.readline())
    asyncio.run(_until_end(_Proxy(tuple(told["server"]), Link(**told["link"])), Path(told["file"])))


async def _until_end(proxy: _Proxy, file: Path) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def wait() -> None:
        sys.stdin.read()  # ends with whoever started us, however that ended
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait, daemon=True).start()
    await proxy.serve(file, ended)


if __name__ == "__main__":
    main()
