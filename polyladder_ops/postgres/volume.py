"""How full the disk below a server's data is, where that can be seen; a full disk stops the live database too.

Two ways: the folder itself, if the server runs on this machine and its control file says that it is this server's (a
tunnel makes a far server look near); or `df`, run by the server for a role that may run programs there. Else nobody knows.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from polyladder_ops.postgres.session import Connection

__all__ = ["Volume", "measure", "wal_bytes"]


@dataclass(frozen=True)
class Volume:
    """A file system: its bytes, and those that are free for the server."""

    total_bytes: int
    free_bytes: int

    @property
    def used_share(self) -> float:
        """Between 0 and 1."""
        return 1 - self.free_bytes / self.total_bytes


def measure(connection: Connection, *, is_far: bool = False) -> Volume | None:
    """Return the volume of the server's data folder, None if it can't be seen from here.

    Of a server that is known to be on another machine (`is_far`), what lies here under the same name is not looked at.
    """
    return (None if is_far else _near(connection)) or _far(connection)


def _near(connection: Connection) -> Volume | None:
    try:
        row = connection.execute(
            "SELECT pg_catalog.current_setting('data_directory'), system_identifier FROM pg_catalog.pg_control_system()"
        ).fetchone()
        assert row is not None
        folder, identifier = Path(row[0]), int(row[1])
        with (folder / "global" / "pg_control").open("rb") as control:
            # Its first eight bytes; see ControlFileData in PostgreSQL's pg_control.h.
            theirs = control.read(8)
        if identifier not in {int.from_bytes(theirs, order, signed=True) for order in ("little", "big")}:
            return None
        usage = shutil.disk_usage(folder)
    except (psycopg.Error, OSError):
        return None
    return Volume(usage.used + usage.free, usage.free)  # as df counts: what is kept for root is nobody's


def _far(connection: Connection) -> Volume | None:
    """Ask by `df`: a server process works in its data folder."""
    try:
        with connection.transaction():
            connection.execute("CREATE TEMPORARY TABLE pg_temp.polyladder_df (line text) ON COMMIT DROP")
            connection.execute("COPY pg_temp.polyladder_df FROM PROGRAM 'LC_ALL=C df -Pk .'")
            lines = [
                line for (line,) in connection.execute("SELECT line FROM pg_temp.polyladder_df").fetchall()
            ]
    except psycopg.Error:
        return None
    numbers = lines[-1].split()[1:4] if len(lines) > 1 else []
    if len(numbers) < 3 or not all(number.isdigit() for number in numbers):
        return None
    used, free = int(numbers[1]) * 1024, int(numbers[2]) * 1024
    return Volume(used + free, free)


_WAL = """
SELECT greatest(0, pg_catalog.pg_size_bytes(pg_catalog.current_setting('max_wal_size')) - coalesce(sum(size), 0))::int8
FROM pg_catalog.pg_ls_waldir()
"""
_MAY_LIST_WAL = "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_ls_waldir()', 'EXECUTE')"


def wal_bytes(connection: Connection) -> int:
    """Return how much the server's WAL may still grow before it gives any back; 0 if our role may not look.

    A slot or an archive that lags keeps more. Raise psycopg.Error if the server fails.
    """
    if connection.execute(_MAY_LIST_WAL).fetchone() != (True,):
        return 0
    row = connection.execute(_WAL).fetchone()
    return int(row[0]) if row else 0
