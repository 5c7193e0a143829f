"""Several connections that work at the same time, each in a thread, and stop together with the first failure as the cause.

The first one works in the calling thread, which is where a Ctrl-C arrives. Whoever waits must wait here (`wait_until`)
or for the server: both end when the team is told to stop.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

import psycopg
from psycopg import pq

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.session import hang_up, is_full

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from polyladder_ops.postgres.session import Connection

__all__ = ["Stopped", "Team", "opened"]

_LOOK_S = 0.1  # on Windows a Ctrl-C gets through only between two waits
_CANCEL_S = 1.0
_PATIENCE_S = 2.0
_GRACE_S = 1.0
_NO_PLACE = -1  # of who does something else than the work


class Stopped(Exception):  # noqa: N818 - an order, not an accident
    """The team was told to stop, because another one failed; no caller of `run` ever sees it."""


@contextlib.contextmanager
def opened(connect: Callable[[], Connection], number: int) -> Iterator[tuple[Connection, ...]]:
    """Within the block up to this many connections: what a server that has no more free ones does not give is done without.

    Raise what `connect` raises for any other reason.
    """
    with contextlib.ExitStack() as stack:
        connections: list[Connection] = []
        try:
            connections.extend(stack.enter_context(contextlib.closing(connect())) for _ in range(number))
        except OpsError as error:
            if not is_full(error):
                raise
        yield tuple(connections)


class Team:
    """Connections that share one piece of work; `run` gives each a thread.

    What the workers share they change within `changed`, and wait for it by `wait_until`. A team that has failed is over.
    """

    def __init__(self, connections: Sequence[Connection]) -> None:
        self.connections = tuple(connections)
        self.stopping = False
        self._changed = threading.Condition()
        self._cause: BaseException | None = None
        self._working: set[int] = set()
        self._stopper = threading.Thread(target=self._stop, daemon=True, name="stop")

    def run(self, work: Callable[[int], None], *, here: Callable[[], object] | None = None) -> None:
        """Call ``work(0)`` here and ``work(1)`` to ``work(n - 1)`` in threads; return when all are done.

        With something else to do `here`, on connections of its own, every work is done in a thread. A work that fails
        does not end what is done here.
        Raise what the first of them raised, or KeyboardInterrupt, once the others are stopped: they are told, and their
        queries cancelled on the server. After three seconds one that still does not end (its network is dead) is left
        alone, its connection hung up.
        """
        if len(self.connections) == 1 and here is None:
            work(0)
            return
        self._working = set(range(len(self.connections)))
        threads = [
            threading.Thread(target=self._part, args=(work, place), daemon=True, name=f"work {place}")
            for place in range(1 if here is None else 0, len(self.connections))
        ]
        try:
            if here is None:
                self._together(threads, lambda: work(0), 0)
            else:
                self._together(threads, here, _NO_PLACE)
        except BaseException:  # a second Ctrl-C: nobody waits any longer, but all are told
            self.stopping = True
            raise
        if self._cause:
            raise self._cause

    def share(
        self, tasks: Iterable[Callable[[Connection], object]], *, here: Callable[[], object] | None = None
    ) -> None:
        """Do the tasks, begun in this order, each on the connection that is free first. `here` and errors as in `run`."""
        left = deque(tasks)

        def work(place: int) -> None:
            while True:
                self.check()
                try:
                    task = left.popleft()
                except IndexError:
                    return
                task(self.connections[place])

        self.run(work, here=here)

    def _together(
        self, threads: Sequence[threading.Thread], mine: Callable[[], object], my_place: int
    ) -> None:
        try:
            for thread in threads:
                thread.start()
            mine()
            self._done(my_place)
            self.wait_until(lambda: not self._working)
        except BaseException as error:
            self._failed(my_place, error)
        if self.stopping:
            _joined([self._stopper], _PATIENCE_S + _CANCEL_S + _GRACE_S)
        _joined(threads, 0 if self._working else _GRACE_S)

    def _part(self, work: Callable[[int], None], place: int) -> None:
        try:
            work(place)
        except BaseException as error:
            self._hush(place)
            self._failed(place, error)
        else:
            self._done(place)

    def _hush(self, place: int) -> None:
        """Close a connection whose answer nobody reads any more, and on which its server process waits for ever.

        Until it gets on, no DROP DATABASE comes to its end in any session (ProcSignalBarrier, since PostgreSQL 15; tried).
        """
        connection = self.connections[place]
        if connection.info.transaction_status == pq.TransactionStatus.ACTIVE:
            connection.close()

    def _done(self, place: int) -> None:
        with self.changed():
            self._working.discard(place)

    def _failed(self, place: int, error: BaseException) -> None:
        with self.changed():
            self._working.discard(place)
            if self.stopping:  # this one failed because it was stopped
                return
            self._cause, self.stopping = error, True
            self._stopper.start()

    # While it runs ------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise Stopped if another one failed; for loops that wait for something else than the team or the server."""
        if self.stopping:
            raise Stopped

    @contextlib.contextmanager
    def changed(self) -> Iterator[None]:
        """Within the block what the workers share is one's own; those who wait look at it again afterwards."""
        with self._changed:
            yield
            self._changed.notify_all()

    def wait_until(self, predicate: Callable[[], bool]) -> None:
        """Return when `predicate` holds; it is asked under the lock of `changed`. Raise Stopped if another one failed."""
        with self._changed:
            self.check()
            while not predicate():
                self._changed.wait(_LOOK_S)
                self.check()

    # How it ends --------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Cancel until nobody works: a cancel between two queries hits nothing. Hang up on those who don't hear."""
        end = time.monotonic() + _PATIENCE_S
        while self._working and time.monotonic() < end:
            self._cancel()
            self._all_gone(_LOOK_S)
        for place in self._still_working():
            with contextlib.suppress(psycopg.Error):  # it has just closed by itself
                hang_up(self.connections[place].pgconn.socket)
        self._all_gone(_GRACE_S)

    def _cancel(self) -> None:
        """Cancel all queries at once, so that a dead server costs its second once."""
        asking = [
            threading.Thread(target=_cancelled, args=(self.connections[place],), daemon=True, name="cancel")
            for place in self._still_working()
        ]
        for thread in asking:
            thread.start()
        _joined(asking, _CANCEL_S)

    def _still_working(self) -> list[int]:
        with self._changed:
            return sorted(self._working)

    def _all_gone(self, timeout_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._working, timeout_s)


def _cancelled(connection: Connection) -> None:
    """Ask the server to end the query; what our sessions do else if it does not answer is not for another's thread."""
    with contextlib.suppress(psycopg.Error):
        psycopg.Connection.cancel_safe(connection, timeout=_CANCEL_S)


def _joined(threads: Sequence[threading.Thread], timeout_s: float) -> None:
    """Wait for threads that were started, in short steps that a Ctrl-C can end."""
    end = time.monotonic() + timeout_s
    for thread in threads:
        while thread.is_alive() and time.monotonic() < end:
            thread.join(_LOOK_S)
