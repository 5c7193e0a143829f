"""Ending the sessions on a database, again and again: an app connects anew as soon as it is thrown out.

A superuser's sessions only a superuser may end. Autovacuum, which belongs to no role, gives way to a renaming by itself.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors

from polyladder_ops.postgres.session import hang_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.session import Connection

__all__ = ["Ender"]

_LOOK_S = 0.002
_STOPPED_S = 1.0
_ENDED = """
SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity
WHERE datname = %s AND pid <> pg_catalog.pg_backend_pid() AND usesysid IS NOT NULL
"""


@dataclass(frozen=True)
class Ender:
    """Ends the sessions on the database of this name; its connection is to another one."""

    connection: Connection
    name: str

    def end(self) -> int:
        """End who is there now, and return how many that are."""
        row = self.connection.execute(_ENDED, [self.name]).fetchone()
        assert row is not None
        return int(row[0])

    def clear(self, *, within_s: float, surely: bool = True) -> None:
        """Return when no session is left; if they keep coming, after this time.

        Raise psycopg's ObjectInUse then if it must be `surely`; its InsufficientPrivilege if we may not end one.
        """
        until = time.monotonic() + within_s
        while self.end():
            if time.monotonic() > until:
                if surely:
                    raise errors.ObjectInUse(f"sessions on {self.name} did not end")
                return
            time.sleep(_LOOK_S)

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """Within the block whoever is seen is ended, beside what is done in it on another connection."""
        stop = threading.Event()

        def work() -> None:
            # What we may not end, or a link that is cut, shows in what waits for it.
            with contextlib.suppress(psycopg.Error):
                while not stop.is_set():
                    self.end()
                    stop.wait(_LOOK_S)

        thread = threading.Thread(target=work, daemon=True, name="ending sessions")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(_STOPPED_S)
            if thread.is_alive():  # its link is silent
                hang_up(self.connection.fileno())
                thread.join(_STOPPED_S)
