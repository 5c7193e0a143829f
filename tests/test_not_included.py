"""What pg_dump never writes: said with each backup, on servers of three majors; and nothing is said without a cause."""

from __future__ import annotations

import re
import secrets
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from polyladder_ops import backups, restoring
from polyladder_ops.loading import load
from polyladder_ops.postgres import inventory, session
from tests import majors
from tests.conftest import numbers, run
from tests.faults.places import with_other

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target

MAJORS = (13, 15, 18)
REFUSED = ("constraint", "doubted on public.strict")
ON_EXTENSION = "on what belongs to the extension hstore"
_HEAD = re.compile(r"-- (?P<name>[^(]+?)(?: \((?P<since>\d+)(?:\+|-(?P<until>\d+))\))?")


@dataclass(frozen=True)
class Piece:
    """Something that pg_dump loses: the statements that make it, and what is said of it."""

    name: str
    since: int
    until: int
    statements: tuple[str, ...]
    sentences: frozenset[str]

    def is_for(self, major: int) -> bool:
        return self.since <= major <= self.until


def pieces() -> list[Piece]:
    text = (Path(__file__).parent / "lost_shapes.sql").read_text(encoding="utf-8")
    return [*map(piece, text.strip().split("\n\n")[1:])]


def piece(text: str) -> Piece:
    head, *lines = text.splitlines()
    found = _HEAD.fullmatch(head)
    assert found, head
    said = frozenset(line.removeprefix("--> ") for line in lines if line.startswith("--> "))
    statements = tuple(line for line in lines if not line.startswith("--"))
    return Piece(found["name"], int(found["since"] or 13), int(found["until"] or 99), statements, said)


NEEDED, *LOST = pieces()


@pytest.fixture(scope="module", params=MAJORS)
def server(request: pytest.FixtureRequest, need: Callable[[object, str], None]) -> Iterator[Target]:
    """A server of one of the majors, with a role."""
    need(majors.programs(request.param) and majors.client(request.param), "python -m tests.majors")
    with majors.running(request.param, max_prepared_transactions="1") as target:
        run(target, "CREATE ROLE lost_role")
        yield target


@pytest.fixture
def plain(server: Target) -> Iterator[Target]:
    """A fresh database on it."""
    name = f"lost_{next(numbers)}"
    run(server, "CREATE DATABASE %I TEMPLATE template0", name)
    yield server.with_database(name)
    run(server, "DROP DATABASE IF EXISTS %I WITH (FORCE)", name)


@pytest.fixture(scope="module")
def odd(server: Target, tmp_path_factory: pytest.TempPathFactory) -> Backup:
    """A backup of a database with all that is lost in it."""
    run(server, "CREATE DATABASE odd TEMPLATE template0")
    target = server.with_database("odd")
    with closing(session.connect(target)) as connection:
        say(connection, *NEEDED.statements)
        for each in LOST:
            if each.is_for(connection.info.server_version // 10000):
                say(connection, *each.statements)
    return taken(target, tmp_path_factory.mktemp("odd"))


def say(connection: session.Connection, *statements: str) -> None:
    for statement in statements:
        try:
            connection.execute(statement.encode())
        except psycopg.errors.UniqueViolation:  # an index that can't be finished stays as it is
            assert "CONCURRENTLY" in statement


def taken(target: Target, folder: Path, **options: Any) -> Backup:
    with closing(session.connect(target)) as connection:
        client = majors.client(connection.info.server_version // 10000)
    assert client is not None
    return backups.take(
        target,
        folder / "backups",
        site="test",
        private=folder / "private",
        options=backups.Options(clients=[client], **options),
    )


@pytest.mark.parametrize("each", LOST, ids=[each.name for each in LOST])
def test_what_pg_dump_leaves_out_is_named(odd: Backup, each: Piece) -> None:
    if not each.is_for(odd.manifest.source.server_major):
        pytest.skip("this major has no such thing, or its pg_dump keeps it")
    assert each.sentences <= set(odd.manifest.not_included)


def test_nothing_is_said_to_be_lost_that_is_not(odd: Backup) -> None:
    met = [each.sentences for each in LOST if each.is_for(odd.manifest.source.server_major)]
    assert set(odd.manifest.lost) == frozenset().union(*met)


def test_what_is_lost_is_all_that_does_not_come_back(odd: Backup, server: Target) -> None:
    """The proof needs an excuse for one thing that is named; what else it compares is equal without one."""
    with restoring.temporary_database(server, odd.manifest, purpose="test") as copy:
        load(copy, odd, [], accept={":".join(REFUSED)})
        with closing(session.connect(copy)) as connection:
            found = inventory.entries(connection)
    differing = {*odd.manifest.objects} ^ {*found}
    known = {REFUSED, ("schema", "public")}  # what 13 and 14 lose of it
    assert {(o.kind, o.name) for o in differing} <= known


def test_a_database_with_every_extension_has_lost_nothing(plain: Target, tmp_path: Path) -> None:
    with closing(session.connect(plain)) as connection:
        say(connection, *NEEDED.statements)
        names = connection.execute("SELECT name FROM pg_available_extensions ORDER BY 1").fetchall()
        made = [name for (name,) in names if is_made(connection, name)]
        connection.execute("SELECT pg_import_system_collations('pg_catalog')")
    assert len(made) > 20
    assert taken(plain, tmp_path).manifest.lost == ()


def is_made(connection: session.Connection, name: str) -> bool:
    for where in ("SCHEMA public CASCADE", "CASCADE"):
        try:
            connection.execute(f'CREATE EXTENSION IF NOT EXISTS "{name}" {where}'.encode())
        except psycopg.Error:
            continue
        return True
    return False


def test_an_extension_that_was_updated_has_lost_nothing_and_still_shows_what_hangs_on_it(
    plain: Target, tmp_path: Path
) -> None:
    with closing(session.connect(plain)) as connection:
        say(
            connection,
            "CREATE EXTENSION hstore SCHEMA public VERSION '1.4'",
            "CREATE TABLE public.member (id int); ALTER EXTENSION hstore UPDATE; ALTER EXTENSION hstore ADD TABLE public.member",
        )
        assert taken(plain, tmp_path / "before").manifest.lost == ()
        say(connection, "CREATE INDEX later ON public.member (id)")
    assert taken(plain, tmp_path / "after").manifest.lost == (f"the index public.later, {ON_EXTENSION}",)


def test_a_part_of_a_scripts_own_transaction_is_not_taken_for_something_added(
    plain: Target, tmp_path: Path
) -> None:
    """As a script makes members within a block that has an EXCEPTION, and others after it."""
    with closing(session.connect(plain)) as connection:
        say(
            connection,
            "BEGIN; CREATE EXTENSION hstore SCHEMA public; SAVEPOINT part; CREATE TABLE public.a (id int);"
            "ALTER EXTENSION hstore ADD TABLE public.a; RELEASE part; CREATE TABLE public.b (id int);"
            "ALTER EXTENSION hstore ADD TABLE public.b; COMMIT",
        )
        assert taken(plain, tmp_path / "before").manifest.lost == ()
        say(connection, "CREATE INDEX hung ON public.a (id)")
    assert taken(plain, tmp_path / "after").manifest.lost == (f"the index public.hung, {ON_EXTENSION}",)


NOT_SEEN = {
    "of one transaction with CREATE": [
        "BEGIN; CREATE EXTENSION unaccent SCHEMA public; ALTER FUNCTION public.unaccent(text) IMMUTABLE; COMMIT"
    ],
    "before the last update": [
        "CREATE EXTENSION hstore SCHEMA public VERSION '1.4'",
        "ALTER FUNCTION public.akeys(public.hstore) COST 7",
        "ALTER EXTENSION hstore UPDATE",
    ],
    "made and added in one transaction": [
        "CREATE EXTENSION hstore SCHEMA public",
        "BEGIN; CREATE TABLE public.a (id int); ALTER EXTENSION hstore ADD TABLE public.a; COMMIT",
    ],
    "beside privileges": [
        "CREATE EXTENSION hstore SCHEMA public",
        "REVOKE EXECUTE ON FUNCTION public.akeys(public.hstore) FROM PUBLIC",
        "ALTER FUNCTION public.akeys(public.hstore) COST 7",
    ],
}


@pytest.mark.parametrize("statements", NOT_SEEN.values(), ids=NOT_SEEN)
def test_what_is_not_seen_is_what_readme_says(statements: list[str], plain: Target, tmp_path: Path) -> None:
    with closing(session.connect(plain)) as connection:
        say(connection, *statements)
    assert taken(plain, tmp_path).manifest.lost == ()


def test_who_owns_an_extension_is_shown_and_no_warning(server: Target, plain: Target, tmp_path: Path) -> None:
    owner = f"lost_owner_{next(numbers)}"
    run(server, f"CREATE ROLE {owner}")
    run(server, f"ALTER DATABASE %I OWNER TO {owner}", plain.database)
    with closing(session.connect(plain)) as connection:
        say(connection, f"SET SESSION AUTHORIZATION {owner}", "CREATE EXTENSION citext SCHEMA public")
    manifest = taken(plain, tmp_path).manifest
    sentence = f"that {owner} owns the extension citext, which comes back with who restores as its owner"
    assert sentence in manifest.not_included
    assert manifest.lost == ()


def test_what_a_plain_owner_may_not_read_is_named_and_a_superuser_has_it(
    server: Target, plain: Target, tmp_path: Path
) -> None:
    password = secrets.token_urlsafe()
    owner = f"lost_owner_{next(numbers)}"
    run(server, f"CREATE ROLE {owner} LOGIN PASSWORD '{password}'")
    run(server, f"ALTER DATABASE %I OWNER TO {owner}", plain.database)
    with closing(session.connect(plain)) as connection:
        say(
            connection,
            "CREATE EXTENSION postgres_fdw SCHEMA public; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw;"
            "CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (password 'canary');"
            f"CREATE USER MAPPING FOR {owner} SERVER far OPTIONS (password 'canary'); GRANT USAGE ON FOREIGN SERVER far TO {owner}",
        )
        connection.execute(
            "CREATE SUBSCRIPTION heard CONNECTION 'dbname=none' PUBLICATION p WITH (connect = false)"
        )
    try:
        poor = with_other(plain, user=owner, password=password)
        lost = taken(poor, tmp_path / "owner").manifest.lost
        assert lost == (
            "the subscription heard, which only a superuser can dump",
            "the user mapping for public on server far: its options (a password can be among them), which this role may not read",
        )
        whole = taken(plain, tmp_path / "superuser").manifest
        assert whole.lost == ()
    finally:
        with closing(session.connect(plain)) as connection:
            say(connection, "ALTER SUBSCRIPTION heard SET (slot_name = NONE)", "DROP SUBSCRIPTION heard")
