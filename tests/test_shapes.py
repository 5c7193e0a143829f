"""Whatever a database holds, it comes back: dumped, loaded into another one on the same server, and proved equal."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import backups, loading, restoring
from polyladder_ops.postgres import session
from tests import shapes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server


def taken(source: Target, tmp_path: Path) -> Backup:
    return backups.take(source, tmp_path / "backups", site="test", private=tmp_path / "private")


def round_trip(server: Server, source: Target, tmp_path: Path) -> tuple[Backup, list[str]]:
    backup = taken(source, tmp_path)
    with restoring.temporary_database(server.target(), backup.manifest, purpose="shape") as target:
        loading.load(target, backup, [], jobs=3)
        return backup, [str(d) for d in restoring.prove(server.target(), target.database, backup, [])]


def fill(target: Target, *statements: str) -> None:
    with closing(session.connect(target, settings={"search_path": "public"})) as connection:
        for statement in filter(None, statements):
            connection.execute(statement.encode())


@pytest.fixture
def roles(server: Server) -> Iterator[None]:
    """The roles that shapes name, for as long as a test's database needs them."""
    shapes.make_roles(server.target())
    yield
    shapes.drop_roles(server.target())


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_it_comes_back(shape: str, server: Server, roles: None, database: Target, tmp_path: Path) -> None:
    shapes.fill(database, [shape])
    _backup, differences = round_trip(server, database, tmp_path)
    assert differences == []


def test_an_empty_database_comes_back(server: Server, database: Target, tmp_path: Path) -> None:
    backup, differences = round_trip(server, database, tmp_path)
    assert (differences, backup.manifest.tables) == ([], ())


def test_a_row_of_30_mb_comes_back(server: Server, database: Target, tmp_path: Path) -> None:
    fill(database, "CREATE TABLE long AS SELECT repeat(md5('x') || E'\\n', 1000000) AS body, 1 AS last")
    backup, differences = round_trip(server, database, tmp_path)
    assert differences == []
    assert max(table.size_bytes for table in backup.manifest.tables) > 30_000_000


@pytest.mark.parametrize(
    ("encoding", "letters"), [("LATIN1", r"E'\xe4\xf6'"), ("SQL_ASCII", r"E'\xff\xc3\x28'")]
)
def test_another_encoding_comes_back(encoding: str, letters: str, server: Server, tmp_path: Path) -> None:
    name = f"shape_{encoding.lower()}"
    options = f"TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C' LOCALE_PROVIDER libc"
    fill(server.target(), f"CREATE DATABASE {name} {options}")
    try:
        with closing(session.connect(server.target(name))) as connection:
            connection.execute(f"SET client_encoding = '{encoding}'".encode())
            made = (
                'CREATE TABLE public."t-é" (body text)'
                if encoding == "LATIN1"
                else "CREATE TABLE public.t (body text)"
            )
            connection.execute(made.encode("latin1"))
            table = 'public."t-é"' if encoding == "LATIN1" else "public.t"
            connection.execute(f"INSERT INTO {table} VALUES ({letters}), ('plain')".encode("latin1"))
        backup, differences = round_trip(server, server.target(name), tmp_path)
        assert differences == []
        assert (backup.manifest.encoding, backup.manifest.rows) == (encoding, 2)
    finally:
        fill(server.target(), f"DROP DATABASE {name} WITH (FORCE)")


def test_settings_that_fence_an_application_do_not_stop_us(
    server: Server, database: Target, tmp_path: Path
) -> None:
    fill(
        database,
        "CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) g",
        f"ALTER DATABASE {database.database} SET default_transaction_read_only = on",
        f"ALTER DATABASE {database.database} SET statement_timeout = '1ms'",
        f"ALTER DATABASE {database.database} SET bytea_output = 'escape'",
        f"ALTER DATABASE {database.database} SET \"DateStyle\" = 'German'",
        f'ALTER DATABASE {database.database} SET search_path = "$user", "a b", public',
    )
    backup, differences = round_trip(server, database, tmp_path)
    assert differences == []
    assert ("", "search_path", '"$user", "a b", public') in backup.manifest.properties.settings


def test_a_check_that_was_changed_is_not_taken_for_a_reworded_one(
    server: Server, database: Target, tmp_path: Path
) -> None:
    fill(database, "CREATE TABLE k (s varchar(9) CONSTRAINT one CHECK (s IN ('a', 'b')))")
    backup = taken(database, tmp_path)
    with restoring.temporary_database(server.target(), backup.manifest, purpose="shape") as target:
        loading.load(target, backup, [], jobs=3)
        fill(
            target,
            "ALTER TABLE k DROP CONSTRAINT one",
            "ALTER TABLE k ADD CONSTRAINT one CHECK (s IN ('a', 'b', 'c'))",
        )
        found = restoring.prove(server.target(), target.database, backup, [])
    assert [(d.kind, "public.k" in d.name or "one" in d.name) for d in found] == [("constraint", True)]
