"""What is renamed or dropped while it is dumped, seen past the snapshot: dumped again, or no backup; never two spellings."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import loading, restoring
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import watched
from polyladder_ops.postgres.session import connect
from tests import majors
from tests.faults.places import Place, ask, login, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.snapshot import Snapshot
    from polyladder_ops.sandbox import server as servers

SWAP = (
    "ALTER TYPE mood RENAME VALUE 'well' TO 'x'; ALTER TYPE mood RENAME VALUE 'sad' TO 'well';"
    "ALTER TYPE mood RENAME VALUE 'x' TO 'sad'"
)
# What a row can name, by the type of its column: the thing, what it is called in a row, and how it gets another name.
NAMES = {
    "regclass": ("CREATE VIEW thing AS SELECT 1 AS id", "thing", "ALTER VIEW thing RENAME TO other"),
    "regclass[]": ("CREATE SCHEMA s; CREATE VIEW s.v AS SELECT 1", "{s.v}", "ALTER SCHEMA s RENAME TO t"),
    "regproc": (
        "CREATE FUNCTION thing() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "thing",
        "ALTER FUNCTION thing RENAME TO other",
    ),
    "regprocedure": (
        "CREATE TYPE thing AS (a int);CREATE FUNCTION f(thing) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "f(thing)",
        "ALTER TYPE thing RENAME TO other",
    ),
    "regoper": (
        "CREATE SCHEMA s; CREATE OPERATOR <+++> (leftarg=int, rightarg=int, function=int4pl)",
        "<+++>",
        "ALTER OPERATOR <+++> (int, int) SET SCHEMA s",
    ),
    "regtype": ("CREATE TYPE thing AS (a int)", "thing", "ALTER TYPE thing RENAME TO other"),
    "regnamespace": ("CREATE SCHEMA thing", "thing", "ALTER SCHEMA thing RENAME TO other"),
    "regcollation": (
        'CREATE COLLATION thing FROM "C"',
        "thing",
        "ALTER COLLATION thing RENAME TO other",
    ),
    "regconfig": (
        "CREATE TEXT SEARCH CONFIGURATION thing (COPY=simple)",
        "thing",
        "ALTER TEXT SEARCH CONFIGURATION thing RENAME TO other",
    ),
    "regdictionary": (
        "CREATE TEXT SEARCH DICTIONARY thing (TEMPLATE=simple)",
        "thing",
        "ALTER TEXT SEARCH DICTIONARY thing RENAME TO other",
    ),
    "domain": (
        "CREATE DOMAIN domain AS regclass; CREATE VIEW thing AS SELECT 1 AS id",
        "thing",
        "ALTER VIEW thing RENAME TO other",
    ),
    "composite": (
        "CREATE TYPE composite AS (a regclass); CREATE VIEW thing AS SELECT 1 AS id",
        "(thing)",
        "ALTER VIEW thing RENAME TO other",
    ),
}


@pytest.fixture
def place(own_place: Place) -> Place:
    """The place of these tests has a database of its own; `note`, between the two other tables, keeps pg_dump busy."""
    return own_place


class Tries:
    """How often a dump was begun, and what is done once or each time after a snapshot or while rows come."""

    def __init__(self, place: Place, statements: str, *, always: bool = False) -> None:
        self.number = 0
        self._place, self._statements, self._always = place, statements, always
        self._done_in: list[int] = []

    def begun(self, _snapshot: Snapshot) -> None:
        self.number += 1

    def at_definitions(self, snapshot: Snapshot) -> None:
        self.begun(snapshot)
        self._do()

    def at_rows(self, _size: int) -> None:
        self._do()

    def _do(self) -> None:
        if self.number not in self._done_in and (self._always or not self._done_in):
            self._done_in.append(self.number)
            say(self._place.target, self._statements)


def come_back(backup: Backup, place: Place, server: servers.Server, question: str) -> object:
    """Return the answer of the backup, brought back on the same server and proved against its manifest."""
    name = f"{place.target.database}_back"
    restoring.make_database(server.target(), name, backup.manifest)
    try:
        loading.load(server.target(name), backup, [])
        assert list(restoring.prove(server.target(), name, backup, [])) == []
        return ask(server.target(name), question)
    finally:
        say(server.target(), "DROP DATABASE {} WITH (FORCE)", name)


def two_tables(place: Place, column_type: str, value: str) -> None:
    say(
        place.target,
        f"CREATE TABLE a (a {column_type}); CREATE TABLE z (a {column_type});"
        f"INSERT INTO a VALUES ('{value}'); INSERT INTO z VALUES ('{value}')",
    )


def test_labels_of_an_enum_that_are_swapped_while_rows_come_are_all_of_one_instant(
    place: Place, server: servers.Server
) -> None:
    say(place.target, "CREATE TYPE mood AS ENUM ('well', 'sad')")
    two_tables(place, "mood", "well")
    tries = Tries(place, SWAP)
    made = place.succeeds(exported=tries.begun, progress=tries.at_rows)
    assert come_back(made, place, server, "SELECT a.a::text || z.a::text FROM public.a, public.z") == "sadsad"
    assert tries.number == 2


def test_labels_that_are_swapped_during_every_try_are_no_backup(place: Place) -> None:
    say(place.target, "CREATE TYPE mood AS ENUM ('well', 'sad')")
    two_tables(place, "mood", "well")
    tries = Tries(place, SWAP, always=True)
    error = place.fails(OpsError, exported=tries.begun, progress=tries.at_rows)
    assert error.message == "the tables changed during each of 5 tries"
    assert error.detail == "a label of an enum was changed while rows were read."


@pytest.mark.parametrize("column_type", NAMES)
def test_a_name_in_rows_that_becomes_another_while_they_come_is_dumped_again(
    column_type: str, place: Place
) -> None:
    statements, value, rename = NAMES[column_type]
    say(place.target, statements)
    two_tables(place, column_type, value)
    tries = Tries(place, rename)
    place.succeeds(exported=tries.begun, progress=tries.at_rows)
    assert tries.number == 2


@pytest.mark.parametrize("column_type", ["regrole", "aclitem"])
def test_a_role_in_rows_that_is_renamed_while_they_come_is_dumped_again(
    column_type: str, place: Place, a_role: str
) -> None:
    two_tables(place, column_type, a_role if column_type == "regrole" else f"{a_role}=r/{a_role}")
    tries = Tries(place, f"ALTER ROLE {a_role} RENAME TO {a_role}_new")
    place.succeeds(exported=tries.begun, progress=tries.at_rows)
    assert tries.number == 2


@pytest.mark.parametrize(
    "statements",
    [
        "CREATE TABLE other (); CREATE INDEX ON other ((1))",
        "ALTER TYPE mood ADD VALUE 'sad'",
        "DROP TYPE unused",
        "ALTER VIEW v RENAME TO w",
        "DROP VIEW v",
        "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2'",
        "CREATE SCHEMA more",
        "GRANT SELECT ON note TO PUBLIC",
        "COMMENT ON TABLE note IS 'new'",
        "ANALYZE note",
        "REINDEX TABLE keyed",
    ],
)
def test_what_rows_are_not_spelled_by_may_change_while_they_come(statements: str, place: Place) -> None:
    say(
        place.target,
        "CREATE TYPE mood AS ENUM ('well'); CREATE TYPE unused AS ENUM ('x'); CREATE VIEW v AS SELECT id FROM note;"
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TABLE keyed (id int PRIMARY KEY)",
    )
    two_tables(place, "mood", "well")
    tries = Tries(place, statements)
    place.succeeds(exported=tries.begun, progress=tries.at_rows)
    assert tries.number == 1


@pytest.fixture
def a_role(place: Place) -> Iterator[str]:
    name = f"{place.target.database}_role"
    say(place.target, "CREATE ROLE {}", name)
    yield name
    for left in (name, f"{name}_new"):
        if ask(place.target, f"SELECT count(*) FROM pg_roles WHERE rolname = '{left}'"):
            say(place.target, "DROP OWNED BY {0}; DROP ROLE {0}", left)


RENAMES = {
    "collation": (
        "CREATE COLLATION thing FROM \"C\"; CREATE TABLE t (a text COLLATE thing CHECK (a < 'x' COLLATE thing))",
        "ALTER COLLATION thing RENAME TO other",
    ),
    "text search configuration": (
        (
            "CREATE TEXT SEARCH CONFIGURATION thing (COPY=simple); CREATE TABLE t (a text);"
            "CREATE INDEX ON t (to_tsvector('thing'::regconfig, a))"
        ),
        "ALTER TEXT SEARCH CONFIGURATION thing RENAME TO other",
    ),
    "text search dictionary": (
        (
            "CREATE TEXT SEARCH DICTIONARY thing (TEMPLATE=simple); CREATE TEXT SEARCH CONFIGURATION c (COPY=simple);"
            "ALTER TEXT SEARCH CONFIGURATION c ALTER MAPPING FOR word WITH thing;"
            "CREATE VIEW v AS SELECT ts_lexize('thing'::regdictionary, 'a')"
        ),
        "ALTER TEXT SEARCH DICTIONARY thing RENAME TO other",
    ),
    "operator class": (
        (
            "CREATE OPERATOR CLASS thing FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =,"
            " OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 btint4cmp(int, int);"
            "CREATE TABLE t (a int); CREATE INDEX ON t (a thing)"
        ),
        "ALTER OPERATOR CLASS thing USING btree RENAME TO other",
    ),
    "operator family": (
        "CREATE OPERATOR FAMILY thing USING btree; ALTER OPERATOR FAMILY thing USING btree ADD OPERATOR 1 < (int, int)",
        "ALTER OPERATOR FAMILY thing USING btree RENAME TO other",
    ),
    "operator": (
        (
            "CREATE SCHEMA s; CREATE OPERATOR @@@ (leftarg=int, rightarg=int, function=int4pl);"
            "CREATE VIEW v AS SELECT id @@@ 1 AS a FROM note"
        ),
        "ALTER OPERATOR @@@ (int, int) SET SCHEMA s",
    ),
    "label of an enum": (
        "CREATE TYPE mood AS ENUM ('well'); CREATE VIEW v AS SELECT 'well'::mood",
        "ALTER TYPE mood RENAME VALUE 'well' TO 'sad'",
    ),
    "column of a view": (
        "CREATE VIEW v AS SELECT id FROM note; CREATE VIEW w AS SELECT id FROM v",
        "ALTER VIEW v RENAME COLUMN id TO number",
    ),
}


@pytest.mark.parametrize("kind", RENAMES)
def test_what_is_renamed_while_definitions_are_read_is_dumped_again(
    kind: str, place: Place, server: servers.Server
) -> None:
    statements, rename = RENAMES[kind]
    say(place.target, statements)
    tries = Tries(place, rename)
    made = place.succeeds(exported=tries.at_definitions)
    come_back(made, place, server, "SELECT 1")
    assert tries.number == 2


def test_a_role_that_is_renamed_while_definitions_are_read_is_dumped_again(
    place: Place, server: servers.Server, a_role: str
) -> None:
    say(
        place.target,
        "ALTER TABLE note OWNER TO {0}; CREATE VIEW v AS SELECT 1; GRANT SELECT ON v TO {0}",
        a_role,
    )
    tries = Tries(place, f"ALTER ROLE {a_role} RENAME TO {a_role}_new")
    made = place.succeeds(exported=tries.at_definitions)
    come_back(made, place, server, "SELECT 1")
    assert tries.number == 2


def test_a_role_that_owns_nothing_here_may_go_at_any_time(place: Place, a_role: str) -> None:
    tries = Tries(place, f"DROP ROLE {a_role}")
    place.succeeds(exported=tries.at_definitions)
    assert tries.number == 1


@pytest.mark.parametrize(
    ("statements", "drop"),
    [
        (
            "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO pg_monitor",
            "ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM pg_monitor",
        ),
        (
            (
                "CREATE TYPE mood AS ENUM ('well'); CREATE CAST (mood AS bytea) WITH INOUT;"
                " CREATE CAST (mood AS int) WITH INOUT"
            ),
            "DROP CAST (mood AS bytea)",
        ),
        ("CREATE AGGREGATE total (int) (sfunc = int4pl, stype = int)", "DROP AGGREGATE total (int)"),
    ],
)
def test_what_is_dropped_while_its_name_is_read_is_dumped_again(
    statements: str, drop: str, place: Place, server: servers.Server
) -> None:
    say(place.target, statements)
    tries = Tries(place, drop)
    made = place.succeeds(exported=tries.at_definitions)
    come_back(made, place, server, "SELECT 1")
    assert tries.number == 2


@pytest.mark.skipif(sys.platform != "linux", reason="the packages of other majors are Linux's")
@pytest.mark.parametrize("major", majors.SERVERS)
def test_every_role_may_look_at_what_is_watched_on_every_major(
    major: int, need: Callable[[object, str], None]
) -> None:
    need(majors.programs(major), f"no PostgreSQL {major}")
    with majors.running(major) as target:
        for who in (target, login(target)):
            with closing(connect(who)) as connection:
                before = watched.read(connection)
                assert watched.changed(connection, before) == []
                assert watched.in_rows(connection) == {"a label of an enum"}
                say(target, "CREATE ROLE {}", f"r{major}")
                before = watched.read(connection)
                say(target, "ALTER ROLE {} RENAME TO other", f"r{major}")
                assert watched.changed(connection, before) == ["a role"]
                say(target, "DROP ROLE other")
