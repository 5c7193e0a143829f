"""Restores of ours, with and without proof, against the old scripts' way, a pipe into psql, and pg_restore.

Every way begins with one file and no database, and ends with a database that is counted through before its time counts. The
old way does what the scripts do once they have asked: look at the file, unpack it whole, empty the schema public, read
it by psql, which goes on after errors. Its database is there before, as it is for the scripts, and empty.
"""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING

from polyladder_ops.bench import child, ending, targets, ways
from polyladder_ops.bench.stage import Stage, url
from polyladder_ops.postgres import databases, session

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.usage import Usage

__all__ = ["CUSTOM", "PG_RESTORE", "Restores", "ours"]

NAME = "bench_restored"
CUSTOM = 'exec pg_dump -Fc --file="$1" "$DATABASE_URL"'
PG_RESTORE = (
    'createdb --maintenance-db="$SERVER_URL" --template=template0 "$3"'
    ' && pg_restore -j"$2" --dbname="$DATABASE_URL" "$1"'
)
_ANALYZE = ' && exec vacuumdb --analyze-only -j"$2" --quiet --dbname="$DATABASE_URL"'
_PIPED = (
    'set -o pipefail; createdb --maintenance-db="$SERVER_URL" --template=template0 "$2"'
    ' && gunzip -c "$1" | psql --quiet "$DATABASE_URL"'
)
# The scripts' own steps; what psql says is thrown away as there, and what it left is seen when it is counted through.
_OLD = (
    'gunzip -t "$1" && gunzip -c "$1" > "$2"'
    ' && psql "$DATABASE_URL" -c "DROP SCHEMA IF EXISTS public CASCADE; CREATE SCHEMA public;"'
    ' && { psql "$DATABASE_URL" -f "$2" --quiet 2>&1 | grep -v "^SET$" | grep -v "^$" || true; } && rm -f "$2"'
)


def ours(stage: Stage, server: Target, backup: Path, *, analyze: bool = False, proof: bool = False) -> Usage:
    """Return what a restore by the library took, into a database of the name that all ways use."""
    return stage.measured(
        [sys.executable, "-m", child.__name__],
        said_to_it=child.job(server, NAME, backup, analyze=analyze, proof=proof),
    )


class Restores:
    """The ways of the part, each once a pair."""

    def __init__(self, stage: Stage, scale: float) -> None:
        self._stage = stage
        self._source = stage.filled(scale)
        self._restored = stage.server.with_database(NAME)
        self._urls = {"SERVER_URL": url(stage.server), "DATABASE_URL": url(self._restored)}
        source = {"DATABASE_URL": url(self._source)}
        self._old, self._custom = stage.folder / "restored-old.sql.gz", stage.folder / "restored.dump"
        taken = ways.take(stage, scale, stage.folder / "restored")
        self._backup, self.plain_bytes = taken.path, taken.manifest.plain_bytes
        stage.script(ways.OLD_BACKUP, str(self._old), variables=source)
        stage.script(CUSTOM, str(self._custom), variables=source)
        self._wanted = ending.counts(self._source)

    def ways(self) -> dict[str, Callable[[], Usage]]:
        """Return what is run, in its order."""
        found: dict[str, Callable[[], Usage]] = {
            targets.RESTORE: self._ours,
            targets.PG_RESTORE: lambda: self._pg_restore(PG_RESTORE),
            targets.PROVED: lambda: self._ours(proof=True),
            targets.OLD_RESTORE: self._old_restore,
            targets.PIPED: lambda: self._stage.script(_PIPED, str(self._backup), NAME, variables=self._urls),
            targets.ANALYZED: lambda: self._ours(analyze=True, proof=True),
            targets.PG_ANALYZED: lambda: self._pg_restore(PG_RESTORE + _ANALYZE),
        }
        return {name: self._looked_at(name, way) for name, way in found.items()}

    def tidy(self) -> None:
        """Do nothing: every way's database is gone already."""

    def _looked_at(self, name: str, way: Callable[[], Usage]) -> Callable[[], Usage]:
        def run() -> Usage:
            took = way()
            ending.expect(self._wanted, self._restored, way=name)
            databases.drop(self._stage.server, NAME)
            return took

        return run

    def _ours(self, *, analyze: bool = False, proof: bool = False) -> Usage:
        return ours(self._stage, self._stage.server, self._backup, analyze=analyze, proof=proof)

    def _pg_restore(self, line: str) -> Usage:
        return self._stage.script(line, str(self._custom), "2", NAME, variables=self._urls)

    def _old_restore(self) -> Usage:
        with closing(session.connect(self._stage.server)) as connection:
            connection.execute(f"CREATE DATABASE {NAME} TEMPLATE template0".encode())
        self._stage.settle()
        return self._stage.script(
            _OLD, str(self._old), str(self._stage.folder / "old.sql"), variables=self._urls
        )
