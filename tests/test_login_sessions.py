"""The sessions of the logins made for a run: who lets them in, and what rows' code leaves in them."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import loading, restoring, verification
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import databases, reader, session
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.postgres.load import login
from tests.conftest import numbers, run
from tests.faults.places import wait_for
from tests.test_login import execute, take

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.sandbox.server import Server


def test_no_free_connection_is_no_reason_to_load_with_our_own_rights(
    database: Target, tmp_path: Path
) -> None:
    """Whoever may connect can bring that about. A limit of the database holds for the login, and not for a superuser."""
    execute(database, "CREATE TABLE public.t AS SELECT 1 AS a")
    backup = take(database, tmp_path)
    server = database.with_database("postgres")
    with restoring.temporary_database(server, backup.manifest, purpose="test") as target:
        run(server, "ALTER DATABASE %I CONNECTION LIMIT 0", target.database)
        with pytest.raises(OpsError, match="too many connections"):
            loading.load(target, backup, [])
        with closing(session.connect(target)) as connection:
            assert connection.execute("SELECT pg_catalog.to_regclass('public.t')").fetchone() == (None,)


def test_no_free_connection_is_no_reason_to_ask_with_our_own_rights(database: Target) -> None:
    server = database.with_database("postgres")
    run(server, "ALTER DATABASE %I CONNECTION LIMIT 0", database.database)
    with (
        closing(session.connect(server)) as connection,
        pytest.raises(OpsError, match="too many connections"),
        reader.opened(connection, database),
    ):
        pytest.fail("somebody was let in")


def test_two_runs_that_give_their_logins_something_at_one_moment_both_go_on(database: Target) -> None:
    """What roles may do with a setting stands in one row for all: the server refuses the second, it does not queue it."""
    server, role = database.with_database("postgres"), f"load_{next(numbers)}"
    run(server, "CREATE ROLE %I; CREATE ROLE %I", role, f"{role}_other")
    run(server, "GRANT SET ON PARAMETER event_triggers TO %I", role)
    ended: list[str] = []
    with (
        closing(session.connect(server)) as watching,
        closing(session.connect(server)) as other,
        closing(session.connect(database)) as owner,
    ):
        pid = session.backend_of(owner)
        waits = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"

        def end() -> None:
            login.end(owner, login.Login(role, database, None))
            ended.append(role)

        thread = threading.Thread(target=end)
        with other.transaction():
            other.execute(f"GRANT SET ON PARAMETER event_triggers TO {role}_other".encode())
            thread.start()
            wait_for(lambda: watching.execute(waits, [pid]).fetchone())
        thread.join()
        assert ended == [role]
    run(server, "REVOKE SET ON PARAMETER event_triggers FROM %I", f"{role}_other")
    run(server, "DROP ROLE %I", f"{role}_other")


POLLUTES = """
CREATE FUNCTION public.pollutes(a int) RETURNS bool LANGUAGE plpgsql AS $f$
BEGIN
  IF session_user LIKE 'polyladder%' THEN
    CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (VALUE <> 'never');
    CREATE DOMAIN pg_temp."character varying" AS pg_catalog.varchar;
    PERFORM set_config('quote_all_identifiers', 'on', false), set_config('search_path', 'pg_temp', false);
  END IF;
  RETURN true;
EXCEPTION WHEN duplicate_object THEN RETURN true;
END $f$;
CREATE TABLE public.t (a int CHECK (public.pollutes(a)), kind varchar(9) CHECK (kind IN ('x', 'y')));
INSERT INTO public.t VALUES (1, 'x')
"""


def test_what_rows_leave_in_the_session_bends_no_comparison(database: Target, tmp_path: Path) -> None:
    """The second check is worded otherwise once it was dumped, and so made again from the source's text, in that session."""
    execute(database, POLLUTES)
    backup = take(database, tmp_path)
    found = verification.verify_by_restore(backup, [], database.with_database("postgres"), trusted=False)
    assert (found.verdict, found.reasons) == ("passed", ())


def test_who_may_switch_event_triggers_off_but_not_let_others_is_no_reason_to_load_with_its_rights(
    server: Server, tmp_path: Path
) -> None:
    run(server.target(), "CREATE ROLE switches LOGIN CREATEDB CREATEROLE PASSWORD 'switches them'")
    run(server.target(), "GRANT SET ON PARAMETER event_triggers TO switches")
    run(server.target(), "CREATE DATABASE switched OWNER switches TEMPLATE template0")
    target = Target.of(
        **{**server.target("switched").parameters, "user": "switches", "password": "switches them"}
    )
    try:
        execute(target, "CREATE TABLE public.t AS SELECT 1 AS a")
        backup = take(target, tmp_path)
        found = verification.verify_by_restore(backup, [], target.with_database("postgres"), trusted=False)
        assert (found.verdict, found.said) == ("passed", ())
    finally:
        databases.drop(server.target(), "switched")
        run(server.target(), "REVOKE SET ON PARAMETER event_triggers FROM switches")
        run(server.target(), "DROP ROLE switches")
