"""A restore from this machine into a server that is far away: ours against pg_restore with four connections."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from statistics import median
from typing import TYPE_CHECKING

from polyladder_ops.bench import ending, link, restores, targets, ways
from polyladder_ops.bench.stage import Stage, url
from polyladder_ops.postgres import databases, session
from polyladder_ops.postgres.conninfo import Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyladder_ops.bench.plan import Link
    from polyladder_ops.catalog import Backup
    from polyladder_ops.usage import Usage

__all__ = ["Linked", "seen"]

_ASKED = 2_000_000


class Linked:
    """The ways of the part, each once a pair, and what the link is seen to do. To be closed by `ends`."""

    def __init__(self, stage: Stage, scale: float, asked: Link, ends: ExitStack) -> None:
        self._stage = stage
        self._asked = asked
        source = stage.filled(scale)
        taken: Backup = ways.take(stage, scale, stage.folder / "linked")
        self._backup, self.plain_bytes = taken.path, taken.manifest.plain_bytes
        self._custom = stage.folder / "linked.dump"
        stage.script(restores.CUSTOM, str(self._custom), variables={"DATABASE_URL": url(source)})
        self._wanted = ending.counts(source)
        self._restored = stage.server.with_database(restores.NAME)
        port = ends.enter_context(link.between((stage.server.host, stage.server.port), asked, stage.folder))
        self._far = Target.of(**{**stage.server.parameters, "port": str(port)})

    def ways(self) -> dict[str, Callable[[], Usage]]:
        """Return what is run, in its order."""
        return {targets.LINKED: self._ours, targets.PG_LINKED: self._pg_restore}

    def tidy(self) -> None:
        """Do nothing: every way's database is gone already."""

    def seen(self) -> str:
        """Return what the link is seen to do."""
        return seen(self._far, self._asked)

    def _ours(self) -> Usage:
        return self._looked_at(targets.LINKED, restores.ours(self._stage, self._far, self._backup))

    def _pg_restore(self) -> Usage:
        urls = {
            "SERVER_URL": url(self._far),
            "DATABASE_URL": url(self._far.with_database(restores.NAME)),
        }
        words = (str(self._custom), "4", restores.NAME)
        return self._looked_at(
            targets.PG_LINKED, self._stage.script(restores.PG_RESTORE, *words, variables=urls)
        )

    def _looked_at(self, name: str, took: Usage) -> Usage:
        ending.expect(self._wanted, self._restored, way=name)
        databases.drop(self._stage.server, restores.NAME)
        return took


def seen(target: Target, asked: Link) -> str:
    """Return what was asked of the link, and what a question and two megabytes of answer take over it."""
    with closing(session.connect(target)) as connection:
        trips = [_timed(lambda: connection.execute("SELECT 1")) for _ in range(5)]
        long = _timed(lambda: connection.execute("SELECT pg_catalog.repeat('x', %s)", [_ASKED]))
    rate = _ASKED / max(long - median(trips), 1e-6) / 1e6
    return (
        f"asked {asked.round_trip_s * 1000:.0f} ms and {asked.bytes_per_s / 1e6:.1f} MB/s,"
        f" seen {median(trips) * 1000:.0f} ms and {rate:.1f} MB/s"
    )


def _timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began
