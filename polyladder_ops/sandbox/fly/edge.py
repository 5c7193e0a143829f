"""The proxy in front of the app: a request wakes a stopped machine whose autostart is not false (contract 5.1).

`python -m polyladder_ops.sandbox.fly.edge FOLDER APP PORT` serves until it is ended, or until its world is gone.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from sys import argv
from typing import TYPE_CHECKING

from polyladder_ops.sandbox.fly import machines, platform, world

if TYPE_CHECKING:
    from polyladder_ops.sandbox.fly.world import Machine

__all__ = ["Edge"]

_PATIENCE_S = 60.0


class Edge(ThreadingHTTPServer):
    """The proxy of one app on a port of this machine."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path, app: str, port: int) -> None:
        self.folder = folder
        self.app = app
        self._turns = itertools.count()
        super().__init__((machines.HOST, port), _Handler)

    def awake(self, only: str = "") -> Machine | None:
        """Return a machine that answers, woken if need be; None if none may be woken or none came up.

        They take turns, unless a request is for `only` one of them.
        """
        deadline, turn = time.monotonic() + _PATIENCE_S, next(self._turns)
        while time.monotonic() < deadline:
            with world.changing(self.folder) as here:
                found = platform.wake(here, self.app, turn=turn, only=only)
            if found is None or (found["shown"]["state"] == "started" and machines.answers(found)):
                return found
            time.sleep(0.1)
        return None


class _Handler(BaseHTTPRequestHandler):
    server: Edge
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        machine = self.server.awake(self.headers.get("fly-force-instance-id", ""))
        if machine is None:
            self._answer(503, "text/plain", b"")
            return
        try:
            status, kind, body = _ask(machine["port"], self.path)
        except OSError:
            status, kind, body = 502, "text/plain", b""
        self._answer(status, kind, body)

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Server", "Fly/stand-in")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing: whoever starts us has no place for it."""


def _ask(port: int, path: str) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(machines.HOST, port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type", "text/plain"), answer.read()


def serve(folder: Path, app: str, port: int) -> None:
    """Serve while the world is there: who deletes it ends us, too."""
    edge = Edge(folder, app, port)
    threading.Thread(target=edge.serve_forever, daemon=True).start()
    while world.exists(folder):
        time.sleep(1.0)
    edge.shutdown()


if __name__ == "__main__":
    serve(Path(argv[1]), argv[2], int(argv[3]))
