"""Every wait for a server comes to an end: what is work and what is silence is asked over another connection.

No setting of TCP or of the server notices a relay that falls silent and goes on to acknowledge (tried: keepalives,
tcp_user_timeout, client_connection_check_interval, statement_timeout). So whoever waits is watched by a thread: when nothing
has passed for ten seconds, it asks the server what that session does. As long as the server answers and the session's backend
works, the wait goes on, an index may take an hour; if the backend waits for us, or if no answer comes for thirty seconds, the
socket is shut, which wakes whoever waits for it, and the backend is ended as soon as the server hears us again.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import psycopg

from polyladder_ops.postgres.silence import Unanswered, limits, verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from polyladder_ops.postgres.links import Link

__all__ = ["Address", "Silent", "Waiting", "hang_up", "noted", "ready", "silent", "watched"]

_LOOK_S = 0.25
_FRESH_S = 3.0  # who waits looks up at least each second; under load a little later

Address = tuple[str, str, str]
"""Host, numeric address and port as they were given."""


class Silent(psycopg.OperationalError, Unanswered):
    """A wait was ended by us, because nothing came; the text says what was found out about it."""


# Who waits ------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Waiting:
    """One that may be waiting for a server: how long nothing has passed, and how it is woken.

    It is known to the server by its process (`backend`), or before that is known by the application's name.
    """

    link: Link
    wake: Callable[[], None]
    backend: Callable[[], int | None] = lambda: None
    application: str = ""
    idle_s: float | None = None
    since: float | None = None
    looked_at: float = 0.0
    ended_for: str = ""
    guard: threading.Lock = field(default_factory=threading.Lock)

    def passed(self) -> None:
        """Something went or came, or nobody waits."""
        self.since = None

    def waits(self, since: float | None = None) -> None:
        """Somebody waits, now, and has done so `since` then; a process that was halted has not waited."""
        now = time.monotonic()
        if self.since is None or now - self.looked_at > _FRESH_S:
            self.since = now
        elif since is not None:
            self.since = max(since, self.since)
        self.looked_at = now

    def waited_s(self, now: float) -> float:
        """Return for how many seconds nothing has passed; 0 if nobody waits."""
        since = self.since
        return now - since if since is not None and now - self.looked_at < _FRESH_S else 0.0

    def end(self, why: str) -> bool:
        """Wake who waits, and return whether that was done: perhaps something has passed just now."""
        with self.guard:
            if self.since is None:
                return False
            self.ended_for = why
            self.wake()
            return True

    def expect(self) -> None:
        """Raise Silent if this was ended."""
        if self.ended_for:
            raise Silent(self.ended_for)


def noted(waiting: Waiting, generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Do as psycopg's generator does, and keep in mind for how long nothing passes; psycopg looks up ten times a second."""
    waiting.passed()
    try:
        state = next(generator)
        while True:
            waiting.waits()
            readiness = yield state
            if readiness:
                waiting.passed()
            state = generator.send(readiness)
    except StopIteration as end:
        return end.value
    finally:
        waiting.passed()


def ready(connection: Any, *, write: bool = False) -> bool:
    """Wait up to a second for a connection's socket, so that a Ctrl-C gets through; return whether there is something to read.

    Raise Silent if the wait was ended because nothing came.
    """
    waiting: Waiting | None = getattr(connection, "waiting", None)
    number = connection.pgconn.socket
    if waiting:
        waiting.waits()
    readable, writable, _ = select.select([number], [number] if write else [], [], 1.0)
    if waiting:
        waiting.expect()
        if readable or writable:
            waiting.passed()
    return bool(readable)


# Who watches ----------------------------------------------------------------------------------------------------------


class _Watch:
    """Looks at all who wait, a few times a second, and ends whose time is over."""

    def __init__(self) -> None:
        self._all: WeakSet[Waiting] = WeakSet()
        self._lock = threading.Lock()
        self._has_begun = False

    def add(self, waiting: Waiting) -> None:
        with self._lock:
            self._all.add(waiting)
            if not self._has_begun:
                self._has_begun = True
                threading.Thread(target=self._look, daemon=True, name="waits").start()

    def _look(self) -> None:
        while True:
            time.sleep(_LOOK_S)
            with self._lock:
                everyone = list(self._all)
            for waiting in everyone:
                if not waiting.ended_for and (waited_s := waiting.waited_s(time.monotonic())):
                    self._judge(waiting, waited_s)

    def _judge(self, waiting: Waiting, waited_s: float) -> None:
        now, held = time.monotonic(), limits()
        if waited_s >= held.ask_s:
            waiting.link.ask(waiting)
        answer = waiting.link.answer(waiting, now)
        idle_s = held.ask_s if waiting.idle_s is None else waiting.idle_s
        why = verdict(waited_s, answer, held, idle_s=idle_s, may_come=bool(waiting.application))
        pid = waiting.backend()  # once it is woken nobody knows it any more
        if why and waiting.end(why):
            if answer is None:
                silent.add(waiting.link.address)
            if pid is not None:
                waiting.link.doom(pid, waited_s)


_watch = _Watch()
silent: set[Address] = set()
"""Addresses from which nothing came of late: whoever connects there does not wait for long."""


def watched(waiting: Waiting) -> Waiting:
    """Have this one watched for as long as somebody has it."""
    _watch.add(waiting)
    return waiting


def hang_up(socket_number: int) -> None:
    """Shut a connection's socket, so that whoever waits for it wakes up; libpq's own memory is left to that one."""
    with contextlib.suppress(OSError):
        same = socket.socket(fileno=socket_number)
        try:
            same.shutdown(socket.SHUT_RDWR)
        finally:
            same.detach()
