"""Asking a server, over a connection of its own, what our sessions there do while somebody waits for them.

It leads to the maintenance database: a session in a live one would be in the way of its switch. It is opened when it is
needed, and closed when nobody waits any more. Over it a session that was given up is ended, too: the server would keep it and
its locks for hours (`pg_terminate_backend` ended all that were tried, within 5 s; nothing else ends a COPY that waits).
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg

from polyladder_ops.postgres.silence import Answer, Seen, limits
from polyladder_ops.postgres.waits import hang_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.postgres.waits import Address, Waiting

__all__ = ["Link", "link"]

_WANTED_S = 3.0  # that an answer is looked for after somebody asked
_PAUSE_S = 1.0  # between two questions
_MAINTENANCE = ("postgres", "template1")
_SESSIONS = """
SELECT a.pid, a.application_name, coalesce(a.state, ''), coalesce(a.wait_event_type, ''), coalesce(a.wait_event, ''),
       coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - a.state_change), 0)::float8
FROM pg_catalog.pg_stat_activity a WHERE a.pid = ANY (%s) OR a.application_name = ANY (%s)
"""
# A number may be another's by now: the session that we waited for began before we waited.
_END = """
SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a
WHERE a.pid = %s AND a.application_name LIKE 'polyladder-ops%%'
  AND a.backend_start < pg_catalog.clock_timestamp() - %s * '1 second'::pg_catalog.interval
"""
# With these words a server that works refuses a connection; while it starts or stops it has nobody's session any more.
_REFUSES, _IS_AWAY = "FATAL:", ("starting up", "shutting down", "in recovery mode")


_OF_A_RUN = re.compile(r"polyladder_[a-z]+_[0-9a-f]{16}")


class Link:
    """One way to a server, with a login: over it the server is asked what our sessions there do, while one of them waits.

    `connect` returns a connection of its own to a database of this name, or raises psycopg.Error.
    """

    def __init__(self, address: Address, connect: Callable[[str], psycopg.Connection[Any]]) -> None:
        self.address = address
        self._connect = connect
        self._lock = threading.Lock()
        self._wanted: dict[Waiting, float] = {}
        self._doomed: dict[int, float] = {}
        self._seen: dict[int | str, Seen] = {}
        self._heard_at = self._refused_at = 0.0
        self._is_asking = False

    def ask(self, waiting: Waiting) -> None:
        """Have the server asked about this one, in a thread; the answer comes later."""
        with self._lock:
            self._wanted[waiting] = time.monotonic()
            self._begin()

    def doom(self, pid: int, waited_s: float) -> None:
        """Have the server end a session that was given up, once it hears us: it would hold its locks for hours."""
        with self._lock:
            self._doomed[pid] = waited_s
            self._begin()

    def answer(self, waiting: Waiting, now: float) -> Answer | None:
        """Return what the server has answered since this one began to wait, None if nothing of late."""
        since = max(waiting.since or now, now - limits().silent_s)
        with self._lock:
            if self._heard_at > since:
                pid = waiting.backend()
                return Answer(self._seen.get(waiting.application if pid is None else pid))
            return Answer(None, refused=True) if self._refused_at > since else None

    def _begin(self) -> None:
        if not self._is_asking:
            self._is_asking = True
            threading.Thread(target=self._ask, daemon=True, name="asking").start()

    def _ask(self) -> None:
        given_up_at = (
            time.monotonic() + limits().silent_s
        )  # of what is doomed, if nobody wants to know anything
        connection: psycopg.Connection[Any] | None = None
        try:
            while self._goes_on(given_up_at):
                connection = self._heard(connection)
                time.sleep(min(_PAUSE_S, limits().ask_s / 4))
        finally:
            if connection:
                connection.close()
            with self._lock:
                self._is_asking = False

    def _heard(self, connection: psycopg.Connection[Any] | None) -> psycopg.Connection[Any] | None:
        """Ask once, and return the connection for the next time; None if it is of no use any more."""
        try:
            connection = connection or self._connected()
            with _woken_after(limits().silent_s, connection):
                self._hear(connection)
        except psycopg.Error as error:
            self._failed(error)
            if connection:
                connection.close()
            return None
        return connection

    def _goes_on(self, given_up_at: float) -> bool:
        now = time.monotonic()
        with self._lock:
            self._wanted = {w: at for w, at in self._wanted.items() if now - at < _WANTED_S}
            if now >= given_up_at and not self._wanted:
                self._doomed.clear()
            self._is_asking = bool(self._wanted or self._doomed)
            return self._is_asking

    def _connected(self) -> psycopg.Connection[Any]:
        for name in _MAINTENANCE[:-1]:
            with contextlib.suppress(psycopg.OperationalError):
                return self._connect(name)
        return self._connect(_MAINTENANCE[-1])

    def _hear(self, connection: psycopg.Connection[Any]) -> None:
        with self._lock:
            known = [(w.backend(), w.application) for w in self._wanted]
            doomed = list(self._doomed.items())
        pids, names = [p for p, _ in known if p is not None], [n for p, n in known if p is None]
        rows = connection.execute(_SESSIONS, [pids, names]).fetchall()
        for pid, waited_s in doomed:
            connection.execute(_END, [pid, waited_s])
        with self._lock:
            self._heard_at = time.monotonic()
            self._seen = {key: Seen(*row) for pid, name, *row in rows for key in (pid, name)}
            for pid, _ in doomed:
                self._doomed.pop(pid, None)

    def _failed(self, error: psycopg.Error) -> None:
        text = str(error)
        if _REFUSES in text and not any(words in text for words in _IS_AWAY):
            self._refused_at = time.monotonic()


@contextlib.contextmanager
def _woken_after(seconds: float, connection: psycopg.Connection[Any]) -> Iterator[None]:
    timer = threading.Timer(seconds, hang_up, [connection.fileno()])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


_links: dict[tuple[Address, str], Link] = {}


def link(address: Address, user: str, connect: Callable[[str], psycopg.Connection[Any]]) -> Link:
    """Return the link to this address with this login, which `connect` uses.

    A login that a run makes for itself is let in nowhere else: its sessions are asked about by who was there before it.
    """
    if _OF_A_RUN.fullmatch(user):
        others = [link for (there, _), link in reversed(_links.items()) if there == address]
        if others:
            return others[0]
    return _links.setdefault((address, user), Link(address, connect))
