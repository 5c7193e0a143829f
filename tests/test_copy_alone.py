"""While a copy is loaded and proved it is ours alone; in the switch it gets what its source is: owner, grants, settings."""

from __future__ import annotations

import sys
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from polyladder_ops import backups, replacement, restoring
from polyladder_ops.errors import Mismatch
from polyladder_ops.postgres import properties, session, switch
from polyladder_ops.postgres.conninfo import Target
from tests import majors
from tests.conftest import numbers, run
from tests.forging import lying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.properties import DatabaseProperties
    from polyladder_ops.replacement import Result
    from polyladder_ops.sandbox.server import Server

ROWS = 1000
PHASES = ["load", "analyze", "proof", "switch"]
ANSWER = "SELECT count(*) FROM public.note"


@dataclass
class Source:
    """A database with an owner, an app and settings of its own, whose rows an app's role may delete; and its backup."""

    server: Target  # as a superuser
    ours: Target  # as who restores
    number: int
    folder: Path
    backup: Backup = field(init=False)
    wanted: DatabaseProperties = field(init=False)

    def __post_init__(self) -> None:
        for role in (self.owner, self.app):
            run(self.server, "CREATE ROLE %I LOGIN PASSWORD 'x'", role)
        if self.ours.user != self.server.user:
            run(self.server, f"GRANT {self.owner} TO %I", self.ours.user)
        run(self.server, "CREATE DATABASE %I TEMPLATE template0 OWNER %I", self.name, self.owner)
        for statement in (
            "REVOKE ALL ON DATABASE %1$I FROM PUBLIC",
            "GRANT CONNECT ON DATABASE %1$I TO %3$I",
            "GRANT CREATE, CONNECT ON DATABASE %1$I TO %4$I",
            "ALTER DATABASE %1$I CONNECTION LIMIT 9",
            "ALTER DATABASE %1$I SET work_mem = '5MB'",
            "ALTER ROLE %2$I IN DATABASE %1$I SET work_mem = '6MB'",
            "COMMENT ON DATABASE %1$I IS 'what it is for'",
        ):
            run(self.server, statement, self.name, self.set_for, self.app, self.ours.user)
        self.fill()
        with closing(session.connect(self.server)) as connection:
            self.wanted = properties.read(connection, self.name)
        private = self.folder / "private"
        self.backup = backups.take(self.ours.with_database(self.name), self.folder, site="s", private=private)

    @property
    def name(self) -> str:
        return f"source_{self.number}"

    @property
    def owner(self) -> str:
        return f"boss_{self.number}"

    @property
    def set_for(self) -> str:
        """Which role has settings there: who is no superuser may give them to himself."""
        return self.app if self.ours.user == self.server.user else self.ours.user

    @property
    def app(self) -> str:
        return f"app_{self.number}"

    def fill(self) -> None:
        theirs = self.ours.with_database(self.name)
        run(theirs, "CREATE TABLE public.note AS SELECT g AS id FROM generate_series(1, %s) g", str(ROWS))
        run(theirs, "GRANT ALL ON public.note TO %I", self.app)

    def restored(
        self,
        begins: Callable[[str], None] = lambda _phase: None,
        backup: Backup | None = None,
        **options: Any,
    ) -> Result:
        def begin(phase: str) -> Callable[[int], None]:
            begins(phase)
            return lambda _size: None

        made = replacement.Options(**{"name": self.name, **options}, progress=begin)
        return replacement.replace(
            self.ours.with_database(self.name),
            backup or self.backup,
            [],
            made,
            say=lambda _: None,
            confirm=lambda _: None,
        )

    def as_app(self, name: str) -> psycopg.Connection[Any]:
        server = self.server
        return psycopg.connect(
            host=server.host, port=server.port, user=self.app, password="x", dbname=name, autocommit=True
        )

    def deletes(self, name: str) -> str:
        """Return what the app's role hears who would delete rows of a database."""
        try:
            with self.as_app(name) as connection:
                connection.execute("DELETE FROM public.note WHERE id <= 990")
        except psycopg.Error as error:
            return str(error)
        return "deleted"

    def found(self, name: str = "") -> DatabaseProperties:
        with closing(session.connect(self.server)) as connection:
            return properties.read(connection, name or self.name)

    def oid(self) -> int | None:
        with closing(session.connect(self.server)) as connection:
            return switch.oid_of(connection, self.name)

    def copies(self) -> list[str]:
        with closing(session.connect(self.server)) as connection:
            return [name for name in switch.names(connection) if name.startswith("polyladder_")]

    def rows(self, name: str = "") -> int:
        with closing(session.connect(self.server.with_database(name or self.name))) as connection:
            row = connection.execute(ANSWER.encode()).fetchone()
        assert row is not None
        return int(row[0])

    def drop(self) -> None:
        with closing(session.connect(self.server)) as connection:
            mine = [name for name in switch.names(connection) if name.startswith((self.name, "polyladder_"))]
        for name in mine:
            run(self.server, "DROP DATABASE IF EXISTS %I WITH (FORCE)", name)
        for role in dict.fromkeys((self.owner, self.app, self.ours.user)):
            if role != self.server.user:
                run(self.server, "DROP OWNED BY %I", role)
                run(self.server, "DROP ROLE %I", role)


@pytest.fixture
def source(server: Server, tmp_path: Path) -> Iterator[Source]:
    made = Source(server.target(), server.target(), next(numbers), tmp_path)
    yield made
    made.drop()


def test_an_app_with_rights_on_the_rows_does_not_get_into_the_copy_before_the_switch(source: Source) -> None:
    heard: dict[str, str] = {}
    seen: list[DatabaseProperties] = []

    def begins(phase: str) -> None:
        for copy in source.copies():
            heard[phase] = source.deletes(copy)
            seen.append(source.found(copy))

    source.restored(begins)
    assert list(heard) == PHASES
    for said in heard.values():
        assert "permission denied for database" in said or "not currently accepting connections" in said
    for now in seen:
        assert (now.owner, now.comment) == ("postgres", "")  # settings let nobody in
        # A login that loads it has them, too, as long as it does.
        assert {grant.partition("=")[0].rpartition("_")[0] for grant in now.grants} <= {
            "",
            "polyladder_beside",
        }
    assert source.rows() == ROWS
    assert source.deletes(source.name) == "deleted"


def test_after_the_switch_the_database_is_what_its_source_was_and_the_old_one_stays_what_it_was(
    source: Source,
) -> None:
    run(source.server, "COMMENT ON DATABASE %I IS 'since then'", source.name)
    run(source.server, "ALTER DATABASE %I OWNER TO %I", source.name, source.app)
    run(source.server, "ALTER DATABASE %I SET work_mem = '7MB'", source.name)
    changed = source.found()
    done = source.restored()
    assert source.found() == source.wanted
    assert source.found(done.switched.aside) == changed
    assert done.accepted == ()


def test_a_database_of_another_name_gets_the_same(source: Source) -> None:
    name = f"{source.name}_other"
    source.restored(name=name, replaces=False)
    assert source.found(name) == source.wanted
    assert source.rows(name) == ROWS


def odd(source: Source) -> Backup:
    """Return the backup of a source with a setting that no server takes."""

    def lie(fields: dict[str, Any]) -> None:
        fields["properties"]["settings"].append(["", "max_connections", "5"])

    return lying(source.backup, source.folder / "odd", lie)


def test_a_property_that_the_server_refuses_is_known_before_the_app_is_interrupted(source: Source) -> None:
    begun, backup, before = list[str](), odd(source), source.oid()
    with closing(source.as_app(source.name)) as app:
        with pytest.raises(Mismatch, match="not what was dumped") as caught:
            source.restored(begun.append, backup)
        assert app.execute(ANSWER.encode()).fetchone() == (ROWS,)  # its session goes on
    assert "database:setting max_connections: the setting max_connections is missing" in caught.value.detail
    assert "switch" not in begun
    assert (source.oid(), source.copies()) == (before, [])
    done = source.restored(backup=backup, accept=frozenset({"database:setting max_connections"}))
    assert done.accepted == ("database:setting max_connections: the setting max_connections is missing",)
    assert source.found() == source.wanted


def test_a_property_that_is_refused_in_the_switch_itself_takes_it_back(source: Source) -> None:
    before, other = source.oid(), f"{source.owner}_other"

    def begins(phase: str) -> None:
        if phase == "switch":
            run(source.server, "ALTER ROLE %I RENAME TO %I", source.owner, other)

    with pytest.raises(Mismatch, match="can't be given what the source is") as caught:
        source.restored(begins)
    assert f"database:owner: the owner is 'postgres', not '{source.owner}'" in caught.value.detail
    assert (source.oid(), source.copies(), source.rows()) == (before, [], ROWS)
    run(source.server, "ALTER ROLE %I RENAME TO %I", other, source.owner)
    source.restored()
    assert source.found() == source.wanted


def test_a_proof_without_a_switch_looks_at_properties_that_the_database_does_not_keep(source: Source) -> None:
    with restoring.temporary_database(source.server, source.backup.manifest, purpose="test") as target:
        with closing(session.connect(target)) as connection:
            assert restoring.properties_differ(connection, target.database, source.backup.manifest) == []
        assert source.found(target.database).owner == "postgres"
        assert "permission denied for database" in source.deletes(target.database)
        found = restoring.lacking(source.server, target.database, odd(source).manifest)
    assert found == ("the setting max_connections is missing",)


@pytest.mark.skipif(sys.platform != "linux", reason="the packages of other majors are Linux's")
@pytest.mark.parametrize("major", [13, 15, 18])
def test_a_plain_owner_who_may_make_databases_gives_all_and_hands_it_over(
    major: int, need: Callable[[object, str], None], tmp_path: Path
) -> None:
    with plain(major, need, tmp_path) as source:
        before = source.oid()
        done = source.restored()
        assert source.oid() != before
        assert source.found() == source.wanted
        assert source.rows() == ROWS
        assert source.found(done.switched.aside) == source.wanted


@pytest.mark.skipif(sys.platform != "linux", reason="the packages of other majors are Linux's")
def test_who_may_make_another_the_owner_but_has_none_of_its_rights_gives_all_before(
    need: Callable[[object, str], None], tmp_path: Path
) -> None:
    """Since 16 there are such members; once the database is the other's, they can't even rename it."""
    with plain(18, need, tmp_path) as source:
        run(source.server, f"GRANT {source.owner} TO %I WITH INHERIT FALSE, SET TRUE", source.ours.user)
        name = f"{source.name}_other"
        source.restored(name=name, replaces=False)
        assert source.found(name) == source.wanted


@contextmanager
def plain(major: int, need: Callable[[object, str], None], folder: Path) -> Iterator[Source]:
    """Within the block a source whose restorer is a member of its owner with CREATEDB, no more, on a server of its own."""
    need(majors.programs(major), f"no PostgreSQL {major} (python -m tests.majors)")
    with majors.running(major) as server:
        role = f"plain_{next(numbers)}"
        run(server, "CREATE ROLE %I LOGIN CREATEDB PASSWORD 'x'", role)
        ours = Target.of(**{**server.parameters, "user": role, "password": "x"})
        yield Source(server, ours, next(numbers), folder)
