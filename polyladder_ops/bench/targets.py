"""What is measured, what is held against what, and how much of it is allowed: issue and README in one table of values."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COMPARISONS", "ENOUGH_PAIRS", "ENOUGH_SCALE", "MEMORY_LIMIT", "OURS", "Comparison"]

BACKUP, LIBRARY, ENCRYPTED = "backup", "backup, without start-up", "backup, encrypted"
OLD_BACKUP, FLOOR = "old backup", "pg_dump >/dev/null"
VERIFY, VERIFY_ENCRYPTED, GUNZIP = "verify", "verify, encrypted", "gunzip -t"
RESTORE, PROVED, ANALYZED = "restore, no proof", "restore, full proof", "restore, ANALYZE, full proof"
OLD_RESTORE, PIPED = "old restore", "gunzip -c | psql"
PG_RESTORE, PG_ANALYZED = "pg_restore -j2", "pg_restore -j2, vacuumdb -Z -j2"
LINKED, PG_LINKED = "restore over the link", "pg_restore -j4 over the link"
ROAD, SSH = "backup by the road", "ssh 'pg_dump | gzip -1' > file"
ROAD_LINKED, NEAR_LINKED = "backup by the road over the link", "the same, pg_dump on this side"
LIST, EMPTY_LIST = "invoke --list", "invoke --list, one empty task"

OURS = (BACKUP, ENCRYPTED, VERIFY, VERIFY_ENCRYPTED, RESTORE, PROVED, ANALYZED, LINKED)
"""What must stay within the limit of memory."""
MEMORY_LIMIT = 150_000_000
"""Bytes that any of ours may take, beside 2.5 times the largest row; the rows measured are of a few kilobytes."""
ENOUGH_SCALE = 12
ENOUGH_PAIRS = 5
"""From this size (600 MB of plain SQL) and this many pairs on a run is judged; a smaller one is a look."""


@dataclass(frozen=True)
class Comparison:
    """Two ways, and which ratio of their medians is allowed at most; None where one is only shown."""

    what: str
    against: str
    at_most: float | None = None
    aim: float | None = None

    @property
    def target(self) -> str | None:
        """The limit as people read it."""
        aim = f", aim {self.aim:.2f}" if self.aim else ""
        return None if self.at_most is None else f"{self.at_most:.2f}{aim}"


COMPARISONS = (
    Comparison(BACKUP, FLOOR, 1.25, aim=1.10),
    Comparison(LIBRARY, FLOOR),
    Comparison(ENCRYPTED, FLOOR, 1.45),
    Comparison(BACKUP, OLD_BACKUP, 0.35),
    Comparison(VERIFY, GUNZIP, 0.6),
    Comparison(VERIFY_ENCRYPTED, GUNZIP),
    Comparison(RESTORE, OLD_RESTORE, 0.55),
    Comparison(RESTORE, PIPED),
    Comparison(RESTORE, PG_RESTORE, 0.95),
    Comparison(PROVED, PG_RESTORE, 1.25),
    Comparison(ANALYZED, PG_ANALYZED),
    Comparison(LINKED, PG_LINKED, 0.5),
    Comparison(ROAD, SSH, 1.25),
    Comparison(ROAD_LINKED, NEAR_LINKED, 0.4),
    Comparison(LIST, EMPTY_LIST, 1.3),
)
MEMORY = Comparison("peak memory of any of ours", f"{MEMORY_LIMIT // 1_000_000} MB", 1.0)
