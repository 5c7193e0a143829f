"""The sandbox's web app: as little as `health` needs to look at, and in that like the real one.

`python -m polyladder_ops.sandbox.app --port N` answers on 127.0.0.1 until SIGINT or SIGTERM. DATABASE_URL in its environment
names the database, as for the real app, and is read once, at the start. ``/health`` asks `SELECT 1` on a pool of ten sessions
without an application_name: it says neither which database that is nor what is in it, so it stays 200 over a dropped table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import signal
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import session
from polyladder_ops.postgres.conninfo import Target, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.session import Connection

__all__ = ["App", "serve"]

_POOL = 10
_CONNECT_S = (
    5  # longer than Fly's check waits (2 s): without a database the check times out and never reads 503
)
_VERSION = "0.1.0"
_HOST = "127.0.0.1"


class _Pool:
    """Sessions of the app's role, at most ten at a time, kept open between questions."""

    def __init__(self, target: Target) -> None:
        # libpq sends no empty name, so pg_stat_activity shows none: the real app says none either.
        self._target = Target.of(**{**target.parameters, "application_name": ""})
        self._idle: queue.LifoQueue[Connection] = queue.LifoQueue()
        self._room = threading.BoundedSemaphore(_POOL)

    def ask(self) -> None:
        """Return if the database answers. Raise OpsError if it does not."""
        if not self._room.acquire(timeout=_CONNECT_S):
            raise OpsError("the pool has no free session")
        try:
            self._ask()
        finally:
            self._room.release()

    def _ask(self) -> None:
        with contextlib.suppress(OpsError), self._kept() as connection:
            _select(connection)
            return
        # The kept one was ended meanwhile, as a swap of databases does: pools open another one then.
        with self._opened() as connection:
            _select(connection)

    def close(self) -> None:
        """Hang up on all that is kept."""
        while not self._idle.empty():
            self._idle.get_nowait().close()

    @contextlib.contextmanager
    def _kept(self) -> Iterator[Connection]:
        """Within the block a session that was asked before. Raise OpsError if there is none."""
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            raise OpsError("no session is kept") from None
        with self._lent(connection):
            yield connection

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Connection]:
        connection = session.connect(self._target, timeout_s=_CONNECT_S)
        with self._lent(connection):
            yield connection

    @contextlib.contextmanager
    def _lent(self, connection: Connection) -> Iterator[None]:
        """Keep the session for the next question unless this one failed."""
        try:
            yield
        except BaseException:
            connection.close()
            raise
        self._idle.put(connection)


def _select(connection: Connection) -> None:
    with session.given_up_after(connection, _CONNECT_S), session.translated("the database does not answer"):
        connection.execute("SELECT 1")


class App(ThreadingHTTPServer):
    """The app on a port of this machine; 0 lets the system choose one, and `port` says which."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, target: Target, port: int) -> None:
        self.pool = _Pool(target)
        self.began = time.monotonic()
        super().__init__((_HOST, port), _Handler)

    def server_close(self) -> None:
        """Let the port and the database go."""
        super().server_close()
        self.pool.close()

    @property
    def port(self) -> int:
        """The port it answers on."""
        return int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    server: App
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/health":
            self._answer(*self._health())
        elif path == "/":
            self._answer(
                200,
                {"service": "PolyLadder API", "version": _VERSION, "endpoints": {"health": "/health"}},
            )
        else:
            said = {"statusCode": 404, "message": "Route not found", "requestId": "-", "code": "NOT_FOUND"}
            self._answer(404, {"error": said})

    def _health(self) -> tuple[int, dict[str, Any]]:
        begun = time.monotonic()
        try:
            self.server.pool.ask()
        except OpsError:
            return 503, self._body("unhealthy", {"connected": False})
        latency = round((time.monotonic() - begun) * 1000)
        return 200, self._body("healthy", {"connected": True, "latencyMs": latency})

    def _body(self, status: str, database: dict[str, Any]) -> dict[str, Any]:
        return {
            "status": status,
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "service": "polyladder-api",
            "version": _VERSION,
            "uptime": time.monotonic() - self.server.began,
            "database": database,
            "memory": {"heapUsedMB": 41, "heapTotalMB": 64, "rssMB": 92},
        }

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Say nothing: whoever starts us has no place for it."""


def serve(app: App) -> None:
    """Answer until SIGINT or SIGTERM, both of which the real app handles."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    threading.Thread(target=app.serve_forever, daemon=True).start()
    while not ended.wait(1.0):  # Windows: a wait without end hears no signal
        pass
    app.shutdown()
    app.server_close()


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=3000)
    arguments = parser.parse_args()
    serve(App(parse(os.environ.get("DATABASE_URL", "")), arguments.port))


if __name__ == "__main__":
    _main()
