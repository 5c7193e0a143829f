"""Opening a session, and what becomes of it while somebody waits for it: a Ctrl-C and silence both end that."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from weakref import ref

import psycopg
from psycopg import pq
from psycopg.rows import TupleRow

from polyladder_ops.postgres import resolve, waits
from polyladder_ops.postgres.waits import hang_up

if TYPE_CHECKING:
    from collections.abc import Mapping

    from polyladder_ops.postgres.links import Link

__all__ = ["Session", "opened"]

# How long a Ctrl-C waits for a server: until it hears that the query is to be cancelled, and until it has obeyed.
_CANCEL_S, _OBEY_S = 1.0, 1.5
_A_WORD_S = 1.0


class Beat(Protocol):
    """What shows a server that a session lives (`heartbeat.py`)."""

    @property
    def is_resting(self) -> bool:
        """Whether the session is in a transaction that is the heartbeat's own."""

    def awake(self) -> None:
        """Make the session free for a statement."""

    def stop(self) -> None:
        """End."""


class Session(psycopg.Connection[TupleRow]):
    """A connection that gives way to a Ctrl-C in two seconds, even if the server does not answer."""

    _giving_way: threading.Timer | None = None
    backend: int | None = None
    waiting: waits.Waiting | None = None
    beat: Beat | None = None

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """Return a cursor for a statement that comes now."""
        self._awake()
        return super().cursor(*args, **kwargs)

    def transaction(self, *args: Any, **kwargs: Any) -> Any:
        """Return a transaction that begins now."""
        self._awake()
        return super().transaction(*args, **kwargs)

    def pipeline(self) -> Any:
        """Return a pipeline that begins now."""
        self._awake()
        return super().pipeline()

    def _awake(self) -> None:
        if self.beat:
            self.beat.awake()

    @property
    def is_usable(self) -> bool:
        """Whether nothing runs on it, and it is in no transaction; a word of its heartbeat takes a moment."""
        if not self.beat:
            return self.info.transaction_status == pq.TransactionStatus.IDLE
        if not self.lock.acquire(timeout=_A_WORD_S):
            return False
        try:
            status, rests = self.info.transaction_status, self.beat.is_resting
        finally:
            self.lock.release()
        return status == pq.TransactionStatus.IDLE or (rests and status == pq.TransactionStatus.INTRANS)

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Wait for the server; after a Ctrl-C not for long. Raise Silent if that was ended because nothing came."""
        try:
            if self.waiting is None:
                return super().wait(gen, *args, **kwargs)
            return super().wait(waits.noted(self.waiting, gen), *args, **kwargs)
        except psycopg.OperationalError as error:
            if self.waiting and self.waiting.ended_for:
                raise waits.Silent(self.waiting.ended_for) from error
            raise
        finally:
            self._keep()

    def watched(self, link: Link) -> None:
        """Have each wait of this session end at last."""
        self.waiting = waits.watched(
            waits.Waiting(link, wake=partial(_wake, ref(self)), backend=partial(_process, ref(self)))
        )

    @property
    def process(self) -> int:
        """The server's process of this session; libpq's own number can be made up on the way."""
        return self.info.backend_pid if self.backend is None else self.backend

    def close(self) -> None:
        """Hang up."""
        if self.beat:
            self.beat.stop()
        self._keep()
        if self.waiting is None:
            super().close()
            return
        with self.waiting.guard:
            self.waiting.passed()
            super().close()

    def _keep(self) -> None:
        """Don't hang up any more: the socket's number may soon be another one's."""
        if self._giving_way:
            self._giving_way.cancel()
            self._giving_way.join()
            self._giving_way = None

    def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """Ask the server to stop the query; hang up if it does not even answer that, or does not obey."""
        if not self._giving_way and not self.closed:
            self._giving_way = threading.Timer(_OBEY_S, hang_up, [self.pgconn.socket])
            self._giving_way.daemon = True
            self._giving_way.start()
        try:
            super().cancel_safe(timeout=min(timeout, _CANCEL_S))
        except psycopg.Error:
            self._keep()
            if self.waiting:
                waits.silent.add(self.waiting.link.address)
            self.pgconn.finish()
            raise


def _wake(session: ref[Session]) -> None:
    """Hang up on a session, so that whoever waits for it wakes up."""
    one = session()
    if one is not None and not one.closed:
        hang_up(one.pgconn.socket)


def _process(session: ref[Session]) -> int | None:
    one = session()
    return None if one is None or one.closed else one.process


class _WithoutPgVariables:
    """PGHOSTADDR beats the host of the URL, PGSERVICE fills what it omits: libpq must see none of them.

    Several threads may connect at once: the last one gives them back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._hidden: dict[str, str] = {}

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._hidden = {
                    name: os.environ.pop(name) for name in list(os.environ) if name.startswith("PG")
                }
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                os.environ.update(self._hidden)


_without_pg_variables = _WithoutPgVariables()


def opened(parameters: Mapping[str, str], timeout_s: float) -> Session:
    """Return a connection, or leave none behind; all addresses of a host share the time.

    An interrupt keeps a half-open one alive in its traceback. The server would wait a minute for that one's password, and every
    DROP DATABASE would wait for the server's process that does.
    """
    deadline = time.monotonic() + timeout_s
    try:
        with _without_pg_variables:
            *others, last = ways = _ways(parameters, timeout_s)
            for place, way in enumerate(others):
                with contextlib.suppress(psycopg.OperationalError):
                    return _connected(way, (deadline - time.monotonic()) / (len(ways) - place))
            return _connected(last, deadline - time.monotonic())
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise


def _ways(parameters: Mapping[str, str], timeout_s: float) -> list[Mapping[str, str]]:
    """Return the parameters once for each address of the host; what needs no name server stays as it is."""
    if parameters.get("hostaddr"):
        return [parameters]
    host, port = parameters.get("host", ""), parameters.get("port", "5432")
    found = resolve.addresses(host, port, within_s=timeout_s)
    return [{**parameters, "hostaddr": address} for address in found] or [parameters]


def _connected(parameters: Mapping[str, str], timeout_s: float) -> Session:
    given: Mapping[str, Any] = {**parameters, "connect_timeout": f"{max(1.0, timeout_s):.0f}"}
    return Session.connect(**given, autocommit=True)
