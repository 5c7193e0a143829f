"""What a restore looks at before it touches anything, on real servers: seen as it is, and named where it can't be."""

from __future__ import annotations

import tempfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.portable import is_root
from polyladder_ops.postgres import facts, newest, session
from polyladder_ops.postgres.facts import Live
from polyladder_ops.sandbox import place
from polyladder_ops.sandbox import server as servers
from tests.conftest import FAST, numbers, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.facts import Server


def look(server: Target, live: str) -> Server:
    with closing(session.connect(server)) as connection:
        return facts.read_server(connection, server, live)


@pytest.fixture
def poor(server: servers.Server) -> Iterator[Target]:
    """A login without any right."""
    name = f"facts_{next(numbers)}"
    run(server.target(), "CREATE ROLE %I LOGIN PASSWORD 'x'", name)
    yield server.target().of(**{**server.target().parameters, "user": name, "password": "x"})
    run(server.target(), "DROP ROLE %I", name)


# The server ----------------------------------------------------------------------------------------------------------


def test_a_server_tells_who_it_is_and_what_it_has(server: servers.Server, database: Target) -> None:
    seen = look(server.target(), database.database)
    assert seen.identity.system_identifier == server.recorded_identifier
    assert (seen.identity.major, seen.identity.is_standby) == (18, False)
    assert (seen.role, seen.is_superuser, seen.can_create, seen.is_owner) == ("postgres", True, True, True)
    assert not seen.through_pooler
    assert seen.extensions["pg_trgm"] == "1.6"
    assert {"postgres", "pg_read_all_data"} <= seen.roles
    assert {"pg_default", "pg_global"} <= seen.tablespaces
    assert seen.live_bytes is not None
    assert seen.live_bytes > 1_000_000
    assert (seen.standbys, seen.out_of_reach) == ((), ())
    assert (seen.sessions, seen.prepared, seen.slots, seen.subscriptions) == ((), (), (), ())


def test_how_much_the_log_may_still_grow_is_told_to_who_may_look(
    server: servers.Server, database: Target, poor: Target
) -> None:
    with closing(session.connect(server.target())) as connection:
        row = connection.execute("SELECT pg_size_bytes(current_setting('max_wal_size'))").fetchone()
    assert row is not None
    seen = look(server.target(), database.database)
    assert 0 <= seen.wal_bytes < row[0]
    assert seen.memory_bytes > 0
    assert look(poor, database.database).wal_bytes == 0


def test_a_database_that_is_not_there_is_none(server: servers.Server) -> None:
    seen = look(server.target(), "not there")
    assert (seen.live_oid, seen.live_bytes, seen.is_owner) == (None, None, False)


def test_a_role_without_rights_sees_that_it_has_none(
    server: servers.Server, database: Target, poor: Target
) -> None:
    run(server.target(), "REVOKE CONNECT ON DATABASE %I FROM PUBLIC", database.database)
    seen = look(poor, database.database)
    assert (seen.role, seen.is_superuser, seen.can_create, seen.is_owner) == (poor.user, False, False, False)
    assert seen.live_oid is not None
    assert seen.live_bytes is None
    run(server.target(), "ALTER ROLE %I CREATEDB", poor.user)
    run(server.target(), "ALTER DATABASE %I OWNER TO %I", database.database, poor.user)
    seen = look(poor, database.database)
    assert (seen.can_create, seen.is_owner) == (True, True)
    run(server.target(), "ALTER DATABASE %I OWNER TO postgres", database.database)


def test_what_a_role_may_make_and_whose_it_may_make_it_is_told(
    server: servers.Server, database: Target, poor: Target
) -> None:
    seen = look(poor, database.database)
    assert {name for name in ("citext", "plpgsql", "postgres_fdw") if name in seen.for_superusers} == {
        "postgres_fdw"
    }
    assert seen.gives_to == {poor.user}
    ours = look(server.target(), database.database)
    assert ours.for_superusers == frozenset()
    assert {"postgres", poor.user, "pg_read_all_data"} <= ours.gives_to


def test_a_member_of_the_owner_is_an_owner(server: servers.Server, database: Target, poor: Target) -> None:
    group = f"group_{next(numbers)}"
    run(server.target(), "CREATE ROLE %I", group)
    run(server.target(), "ALTER DATABASE %I OWNER TO %I", database.database, group)
    assert not look(poor, database.database).is_owner
    run(server.target(), "GRANT %I TO %I", group, poor.user)
    assert look(poor, database.database).is_owner
    run(server.target(), "ALTER DATABASE %I OWNER TO postgres", database.database)
    run(server.target(), "DROP ROLE %I", group)


def test_sessions_are_named_and_who_of_them_can_be_ended(
    server: servers.Server, database: Target, poor: Target
) -> None:
    psql = database.of(**{**database.parameters, "application_name": "psql"})
    app = poor.of(**{**poor.parameters, "application_name": "app"}).with_database(database.database)
    with closing(session.connect(psql)) as one, closing(session.connect(app)) as two:
        as_superuser = look(server.target(), database.database).sessions
        as_app = look(poor, database.database).sessions
        run(server.target(), "GRANT pg_signal_backend TO %I", poor.user)
        as_signaller = look(poor, database.database).sessions
        run(server.target(), "REVOKE pg_signal_backend FROM %I", poor.user)
        run(server.target(), "GRANT postgres TO %I", poor.user)  # a member of a superuser is none
        as_member = look(poor, database.database).sessions
        run(server.target(), "REVOKE postgres FROM %I", poor.user)
        pids = [connection.info.backend_pid for connection in (one, two)]
    assert [(s.pid, s.role, s.application) for s in as_superuser] == [
        (pids[0], "postgres", "psql"),
        (pids[1], poor.user, "app"),
    ]
    assert [s.can_be_ended for s in as_superuser] == [True, True]
    assert {s.pid: s.can_be_ended for s in as_app} == dict(zip(pids, (False, True), strict=True))
    assert {s.pid: s.can_be_ended for s in as_member} == dict(zip(pids, (False, True), strict=True))
    assert {s.pid: s.can_be_ended for s in as_signaller} == dict(zip(pids, (False, True), strict=True))


def test_a_prepared_transaction_is_seen_in_its_own_database_only(
    server: servers.Server, database: Target
) -> None:
    with closing(session.connect(database)) as connection:
        connection.execute(b"BEGIN; CREATE TABLE public.stuck (); PREPARE TRANSACTION 'it''s stuck'")
        assert look(server.target(), database.database).prepared == ("it's stuck",)
        assert look(server.target(), "postgres").prepared == ()
        connection.execute(b"ROLLBACK PREPARED 'it''s stuck'")


def test_a_subscription_is_seen(server: servers.Server, database: Target) -> None:
    with closing(session.connect(database)) as connection:
        connection.execute(
            f"CREATE SUBSCRIPTION copied CONNECTION 'host=127.0.0.1 port={place.free_port()} dbname=x' PUBLICATION p"
            " WITH (connect = false, slot_name = 'live')".encode()
        )
        assert look(server.target(), database.database).subscriptions == ("copied",)
        for change in ("DISABLE", "SET (slot_name = NONE)"):
            connection.execute(f"ALTER SUBSCRIPTION copied {change}".encode())
        connection.execute(b"DROP SUBSCRIPTION copied")


def test_a_logical_slot_is_seen_with_its_database_and_a_physical_one_is_not(server: servers.Server) -> None:
    folder = Path(tempfile.mkdtemp(prefix="plt-"))
    logical = servers.create(folder, settings={**FAST, "wal_level": "logical"})
    try:
        target = logical.target()
        run(target, "CREATE DATABASE live")
        with closing(session.connect(target.with_database("live"))) as connection:
            connection.execute("SELECT pg_create_logical_replication_slot('reporting', 'pgoutput')")
            connection.execute("SELECT pg_create_physical_replication_slot('standby')")
        assert look(target, "live").slots == ("reporting",)
        assert look(target, "postgres").slots == ()
    finally:
        logical.remove()


# The live database ---------------------------------------------------------------------------------------------------


def test_the_newest_row_and_the_newest_migration_of_the_sandbox_are_found(sample: Target) -> None:
    seen = facts.read_live(sample)
    assert seen.unread == ()
    assert seen.newest is not None
    with closing(session.connect(sample)) as connection:
        assert seen.migration_head == newest.migration(connection)
        named = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [seen.newest[0]]).fetchone()
    assert named == (True,)
    assert datetime(2026, 1, 4, tzinfo=UTC) < seen.newest[1] < datetime.now(UTC)


def fill(database: Target, *statements: str) -> None:
    with closing(session.connect(database)) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_a_time_in_the_future_is_not_the_newest_row(database: Target) -> None:
    fill(
        database,
        "CREATE TABLE public.visit (seen_at timestamptz)",
        "CREATE INDEX ON public.visit (seen_at)",
        "CREATE TABLE public.plan (id int, created_at timestamp)",
        "CREATE TABLE public.empty (updated_at timestamptz)",
        "INSERT INTO public.visit VALUES ('2026-01-05T02:00Z'), ('2999-01-01T00:00Z')",
        "INSERT INTO public.plan VALUES (1, '2026-01-05T03:00'), (2, NULL), (3, 'infinity')",
    )
    seen = facts.read_live(database)
    assert seen.newest == ("public.plan", datetime(2026, 1, 5, 3, 0, tzinfo=UTC))
    assert seen == Live(newest=seen.newest)


def test_the_newest_migration_is_the_last_that_ran_in_any_schema(database: Target) -> None:
    assert facts.read_live(database).migration_head is None
    fill(
        database,
        "CREATE SCHEMA app",
        "CREATE TABLE app.pgmigrations (id serial, name varchar(255), run_on timestamp)",
    )
    assert facts.read_live(database).migration_head is None
    fill(
        database,
        "INSERT INTO app.pgmigrations (name, run_on) VALUES ('0002_b', '2026-01-02'), ('0001_a', '2026-01-01')",
    )
    assert facts.read_live(database).migration_head == "0002_b"


def test_publications_and_extensions_that_know_names_are_found(database: Target) -> None:
    fill(database, "CREATE PUBLICATION news FOR ALL TABLES", "CREATE EXTENSION pg_trgm SCHEMA public")
    seen = facts.read_live(database)
    assert (seen.publications, seen.naming_extensions) == (("news",), ())


# What can't be read must not block a rescue --------------------------------------------------------------------------


def test_a_database_that_takes_no_session_is_named_as_unread(
    server: servers.Server, database: Target
) -> None:
    run(server.target(), "ALTER DATABASE %I ALLOW_CONNECTIONS false", database.database)
    seen = facts.read_live(database)
    assert len(seen.unread) == 1
    assert "not currently accepting connections" in seen.unread[0]
    assert (seen.newest, seen.migration_head) == (None, None)


def test_tables_that_we_may_not_read_are_named_and_the_rest_is_read(
    server: servers.Server, database: Target, poor: Target
) -> None:
    fill(
        database,
        "CREATE TABLE public.pgmigrations (id int, name text, run_on timestamptz)",
        "CREATE PUBLICATION news",
    )
    seen = facts.read_live(poor.with_database(database.database))
    assert seen.publications == ("news",)
    assert [what.split(":")[0] for what in seen.unread] == ["its newest migration"]
    assert "permission denied for table pgmigrations" in seen.unread[0]


def test_a_corrupt_page_is_named_and_the_rest_is_read(server: servers.Server, database: Target) -> None:
    fill(
        database,
        "CREATE TABLE public.visit (created_at timestamptz)",
        "INSERT INTO public.visit VALUES (now())",
        "CREATE TABLE public.pgmigrations (id int, name text, run_on timestamptz)",
        "INSERT INTO public.pgmigrations VALUES (1, '0001_a', now())",
    )
    clone = database.with_database(f"{database.database}_clone")
    # Copied as files, so that nothing of it is in the server's memory yet.
    run(
        server.target(),
        "CREATE DATABASE %I TEMPLATE %I STRATEGY file_copy",
        clone.database,
        database.database,
    )
    with closing(session.connect(clone)) as connection:
        row = connection.execute(
            "SELECT current_setting('data_directory') || '/' || pg_relation_filepath('public.visit')"
        ).fetchone()
    assert row is not None
    if not (is_root() or Path(row[0]).exists()):
        pytest.skip("the server's files are not ours")
    with Path(row[0]).open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 4000)
    seen = facts.read_live(clone)
    run(server.target(), "DROP DATABASE %I", clone.database)
    assert seen.migration_head == "0001_a"
    assert [what.split(":")[0] for what in seen.unread] == ["its newest row"]
    assert "invalid page" in seen.unread[0]
    assert "\n" not in seen.unread[0]


def test_a_table_that_somebody_has_locked_is_named_and_the_others_are_read(database: Target) -> None:
    fill(
        database,
        "CREATE TABLE public.visit (created_at timestamptz)",
        "INSERT INTO public.visit VALUES (now())",
        "CREATE TABLE public.plan (created_at timestamptz)",
        "INSERT INTO public.plan VALUES ('2026-01-05T02:00Z')",
    )
    with closing(session.connect(database)) as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE public.visit")  # a migration that hangs
        seen = facts.read_live(database)
    assert [what.split(":")[0] for what in seen.unread] == ["its newest row"]
    assert "public.visit: canceling statement due to lock timeout" in seen.unread[0]
    assert seen.newest == ("public.plan", datetime(2026, 1, 5, 2, 0, tzinfo=UTC))
