"""A word on a session every few seconds, so that the server lets go of it, and of its lock, soon after we fall silent.

The server ends what is idle for `SILENT_S` seconds: `idle_session_timeout`, and within a transaction
`idle_in_transaction_session_timeout`, on 13 the latter alone, so that the session rests in a transaction there (tried on both
behind a relay that goes on to acknowledge: nothing else ends such a session within two hours). Whoever looks for the holder of
a lock sees when it was last heard.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors, pq

from polyladder_ops.postgres.opening import Session
from polyladder_ops.postgres.session import translated
from polyladder_ops.postgres.waits import hang_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.session import Connection

__all__ = ["BEAT_S", "SILENT_S", "kept"]

BEAT_S = 5.0
SILENT_S = 30
_STOPPING_S = 1.0
_LIMITS = """
SELECT pg_catalog.set_config(name, %s, false) FROM pg_catalog.pg_settings
WHERE name IN ('idle_session_timeout', 'idle_in_transaction_session_timeout')
"""
_KNOWS_IDLE_SESSIONS = 140000


@contextlib.contextmanager
def kept(connection: Connection, *, every_s: float = BEAT_S, silent_s: float = SILENT_S) -> Iterator[None]:
    """Within the block the session shows that we live, and the server ends it when it has heard nothing for so long.

    Nothing long is to be done on it meanwhile. Raise OpsError if the server does not take the limits.
    """
    assert isinstance(connection, Session)
    with translated("could not limit how long the server keeps a session that falls silent"):
        connection.execute(_LIMITS, [f"{round(silent_s * 1000)}ms"])
    beat = _Beat(connection, every_s)
    connection.beat = beat
    beat.start()
    try:
        yield
    finally:
        beat.stop()
        connection.beat = None


class _Beat:
    """The thread that says the word; on 13 it puts the session to rest, and `awake` is called before anything else is said."""

    def __init__(self, session: Session, every_s: float) -> None:
        self._session = session
        self._every_s = every_s
        self._over = threading.Event()
        self._lock = threading.RLock()
        self._rests_in_transaction = session.info.server_version < _KNOWS_IDLE_SESSIONS
        self._is_resting = False
        self._used_at = time.monotonic()
        self._thread = threading.Thread(target=self._go_on, daemon=True, name="heartbeat")

    @property
    def is_resting(self) -> bool:
        """Whether the session is in a transaction of ours, which ends before anything else is said."""
        return self._is_resting

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def awake(self) -> None:
        """Make the session free for a statement, which comes now."""
        if not self._rests_in_transaction or threading.current_thread() is self._thread:
            return
        with self._lock:
            self._used_at = time.monotonic()
            if self._is_resting:
                self._is_resting = False
                self._session.execute("COMMIT")

    def stop(self) -> None:
        """End, and let nothing of it go on: whoever closes the session next must be its only user."""
        self._over.set()
        if threading.current_thread() is self._thread:
            return
        self._thread.join(_STOPPING_S)
        if self._thread.is_alive() and not self._session.closed:  # its link is silent
            hang_up(self._session.pgconn.socket)
            self._thread.join(_STOPPING_S)
        if not self._session.closed and self._session.info.transaction_status != pq.TransactionStatus.UNKNOWN:
            with contextlib.suppress(psycopg.Error):
                self.awake()

    def _go_on(self) -> None:
        while not self._over.wait(self._every_s) and not self._session.closed:
            try:
                self._say()
            except errors.InFailedSqlTransaction:  # whoever is in it rolls it back
                continue
            except psycopg.Error:  # who holds the lock hears of it when it looks next
                return

    def _say(self) -> None:
        session = self._session
        # Who uses it is heard; and between two statements of a pipeline nothing else may be said.
        if session.lock.locked() or session.pgconn.pipeline_status != pq.PipelineStatus.OFF:
            return
        if not self._rests_in_transaction:
            session.execute("SELECT 1")
            return
        with self._lock:
            is_unused = time.monotonic() - self._used_at >= self._every_s
            if is_unused and session.info.transaction_status == pq.TransactionStatus.IDLE:
                session.execute("BEGIN READ ONLY")
                self._is_resting = True
            session.execute("SELECT 1")
