"""A server that has no room for a load over several connections: it ends at once, its cause is named, nothing stays."""

from __future__ import annotations

import time
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg
import pytest

from polyladder_ops import backups, loading, restoring
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import session
from polyladder_ops.postgres.load.loader import LoadError
from polyladder_ops.sandbox import server as servers
from tests.conftest import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target

TABLES = 60
LITTLE = {"max_connections": "10", "max_locks_per_transaction": "10", "superuser_reserved_connections": "1"}


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """A server with room for a few hundred locks and nine connections."""
    folder = tmp_path_factory.mktemp("little") / "server"
    made = servers.create(folder, settings=LITTLE)
    yield made
    made.remove()


def taken(target: Target, folder: Path) -> Backup:
    return backups.take(target, folder / "backups", site="test", private=folder / "private")


def databases_of(server: servers.Server) -> list[str]:
    with closing(session.connect(server.target())) as connection:
        return [
            name for (name,) in connection.execute("SELECT datname FROM pg_database ORDER BY 1").fetchall()
        ]


@contextmanager
def all_locks_taken(target: Target, *, but: int) -> Iterator[None]:
    """Within the block the server's lock table is full but for a few."""
    with closing(session.connect(target)) as connection:
        with suppress(psycopg.errors.OutOfMemory):  # what it got by then it keeps
            connection.execute("SELECT pg_advisory_lock(g) FROM generate_series(1, 1000000) g")
        connection.execute("SELECT pg_advisory_unlock(g) FROM generate_series(1, %s) g", [but])
        yield


def test_a_lock_table_that_is_too_small_is_named(
    database: Target, little: servers.Server, tmp_path: Path
) -> None:
    with closing(session.connect(database)) as connection:
        for number in range(TABLES):
            connection.execute(
                b"CREATE TABLE public.t%d (id bigserial PRIMARY KEY, body text UNIQUE)" % number
            )
    backup = taken(database, tmp_path)
    before = databases_of(little)
    with (
        all_locks_taken(little.target(), but=60),
        pytest.raises(LoadError, match="the server refused a part of the dump") as caught,
        restoring.temporary_database(little.target(), backup.manifest, purpose="test") as target,
    ):
        loading.load(target, backup, [], jobs=4)
    assert caught.value.lacks
    assert "out of shared memory" in caught.value.detail
    assert "max_locks_per_transaction" in caught.value.hint
    assert databases_of(little) == before


def test_connections_that_others_have_taken_are_done_without(
    sample: Target, little: servers.Server, tmp_path: Path
) -> None:
    backup = taken(sample, tmp_path)
    others = [session.connect(little.target()) for _ in range(6)]
    try:
        with restoring.temporary_database(
            little.target(), backup.manifest, purpose="test", roles="superusers"
        ) as target:
            loading.load(target, backup, [], jobs=6)
            found = restoring.prove(little.target(), target.database, backup, [])
    finally:
        for other in others:
            other.close()
    assert [d for d in found if d.kind != "database"] == []


def test_a_server_that_goes_down_ends_it(sample: Target, little: servers.Server, tmp_path: Path) -> None:
    backup = taken(sample, tmp_path)
    went: list[float] = []

    def stop(_size: int) -> None:
        if not went:
            went.append(time.monotonic())
            little.stop()

    restoring.make_database(little.target(), "down", backup.manifest)
    with pytest.raises(OpsError, match="the server failed while it loaded the backup"):
        loading.load(little.target("down"), backup, [], jobs=3, progress=stop)
    assert time.monotonic() - went[0] < 15
    little.start()
    run(little.target(), "DROP DATABASE down WITH (FORCE)")
