"""Tables that change their shape while they are dumped: everybody waits, or we look again; never a table lost."""

from __future__ import annotations

import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.errors import OutOfMemory

from polyladder_ops import loading, restoring
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.session import connect
from polyladder_ops.postgres.snapshot import LocksExhausted
from tests.faults.places import ROWS, Place, ask, database, login, rows_of, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.postgres.snapshot import Snapshot
    from polyladder_ops.sandbox import server as servers

# What leaves the table empty or gone for who looks through an older snapshot, and how many rows it has after.
REWRITES = {
    "TRUNCATE note; INSERT INTO note VALUES (1, 'new')": {"public.note": 1},
    "ALTER TABLE note ALTER id TYPE bigint": {"public.note": ROWS},
    "ALTER TABLE note DROP COLUMN body": {"public.note": ROWS},
    "ALTER TABLE note RENAME body TO text": {"public.note": ROWS},
    "DROP TABLE note; CREATE TABLE other ()": {"public.other": 0},
    "DROP TABLE note; CREATE TABLE note AS SELECT 1 AS id": {"public.note": 1},
}


@pytest.fixture
def place(own_place: Place) -> Place:
    """The place of these tests has a database of its own."""
    return own_place


def waiting(place: Place, whose: str) -> int:
    """Return how many sessions of this name wait for a lock in the place's database."""
    question = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        f" AND datname = current_database() AND application_name LIKE '{whose}'"
    )
    return int(ask(place.target, question))


@contextmanager
def other(place: Place) -> Iterator[Connection]:
    """Within the block a transaction of somebody else, whose sessions are called migration."""
    with closing(connect(place.target, settings={"search_path": "public"})) as connection:
        connection.execute("SET application_name = 'migration'")
        connection.execute("BEGIN")
        yield connection


class Beside:
    """A call that runs beside the test; `result` waits for it and raises what it raised."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self._error:
            raise self._error
        return self._result


@pytest.mark.parametrize("statements", REWRITES)
def test_what_comes_between_lock_and_dump_waits_for_us_or_we_look_again(
    statements: str, place: Place
) -> None:
    with other(place) as migration:
        beside: list[Beside] = []

        def exported(_snapshot: Snapshot) -> None:
            if not beside:
                beside.append(Beside(lambda: migration.execute(f"{statements}; COMMIT".encode())))
                place.wait_for(lambda: waiting(place, "migration"))

        made = place.succeeds(exported=exported, lock_wait_s=0.5)
        beside[0].result()
    assert rows_of(made) == REWRITES[statements]
    assert made.manifest.tables_locked


def test_nobody_waits_long_behind_us_while_pg_dump_waits_behind_him(place: Place) -> None:
    with other(place) as migration:
        beside: list[Beside] = []

        def exported(_snapshot: Snapshot) -> None:
            if beside:
                took.append(time.monotonic() - begun)
            else:
                beside.append(Beside(lambda: migration.execute("TRUNCATE note; COMMIT")))
                place.wait_for(lambda: waiting(place, "migration"))

        took: list[float] = []
        begun = time.monotonic()
        assert rows_of(place.succeeds(exported=exported)) == {"public.note": 0}
        beside[0].result()
    assert took[0] < 6


def test_what_comes_while_rows_are_dumped_waits_until_they_are(place: Place) -> None:
    with other(place) as migration:
        beside: list[Beside] = []

        def progress(_size: int) -> None:
            if not beside:
                beside.append(
                    Beside(lambda: migration.execute("TRUNCATE note; INSERT INTO note VALUES (1); COMMIT"))
                )
                place.wait_for(lambda: waiting(place, "migration"))

        assert rows_of(place.succeeds(progress=progress)) == {"public.note": ROWS}
        beside[0].result()
    assert ask(place.target, "SELECT count(*) FROM public.note") == 1


def test_a_table_that_stays_locked_is_said_with_the_time_we_waited(place: Place) -> None:
    with other(place) as migration:
        migration.execute("LOCK TABLE note IN ACCESS EXCLUSIVE MODE")
        error = place.fails(OpsError, lock_wait_s=0.3)
    assert error.message == "a table is locked by somebody else"
    assert error.detail.startswith("Waited 0.3 s for it: ")
    assert "migration" in error.hint
    place.succeeds()


@pytest.mark.parametrize(
    ("statements", "rows"),
    [
        ("CREATE TABLE extra ()", {"public.note": ROWS, "public.second": 0, "public.extra": 0}),
        ("DROP TABLE second", {"public.note": ROWS}),
        ("ALTER TABLE second RENAME TO third", {"public.note": ROWS, "public.third": 0}),
        ("TRUNCATE note; INSERT INTO note VALUES (1)", {"public.note": 1, "public.second": 0}),
        ("ALTER TABLE note SET SCHEMA elsewhere", {"elsewhere.note": ROWS, "public.second": 0}),
    ],
)
def test_tables_that_change_while_we_wait_for_locks_are_listed_again(
    statements: str, rows: dict[str, int], place: Place
) -> None:
    say(place.target, "CREATE TABLE second (); CREATE SCHEMA elsewhere")
    with other(place) as migration:
        migration.execute("LOCK TABLE note IN ACCESS EXCLUSIVE MODE")
        taking = Beside(place.succeeds)
        place.wait_for(lambda: waiting(place, "polyladder-ops"))
        migration.execute(statements.encode())
        migration.execute("COMMIT")
        assert rows_of(taking.result()) == rows


def test_a_migration_that_wants_what_we_have_locked_goes_first(place: Place) -> None:
    # It waits for us while we wait for it: the server would end one of the two, and it must not be the migration.
    say(place.target, "CREATE TABLE second ()")
    with other(place) as migration:
        migration.execute("LOCK TABLE second IN ACCESS EXCLUSIVE MODE")
        taking = Beside(place.succeeds)
        place.wait_for(lambda: waiting(place, "polyladder-ops"))
        time.sleep(
            1.1
        )  # whoever waits looks for a deadlock after a second, and once: now it would be the migration
        migration.execute("ALTER TABLE note ADD COLUMN more int")
        migration.execute("COMMIT")
        assert rows_of(taking.result()) == {"public.note": ROWS, "public.second": 0}


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2'",
        "DROP FUNCTION f()",
        "CREATE OR REPLACE VIEW v AS SELECT id, body, 2 AS two FROM note",
        "DROP VIEW v",
        "ALTER TYPE mood ADD VALUE 'sad'",
        "COMMENT ON TABLE note IS 'new'",
        "GRANT SELECT ON note TO PUBLIC",
    ],
)
def test_what_no_table_lock_holds_still_is_in_dump_and_manifest_alike(
    statement: str, place: Place, server: servers.Server
) -> None:
    say(
        place.target,
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';"
        "CREATE VIEW v AS SELECT id, body FROM note; CREATE TYPE mood AS ENUM ('well')",
    )
    done: list[str] = []

    def exported(_snapshot: Snapshot) -> None:
        if not done:
            done.append(statement)
            say(place.target, statement)

    assert proved(place.succeeds(exported=exported), place, server)


@pytest.mark.parametrize("which", ["place", "many"])
@pytest.mark.parametrize(
    "statement", ["REFRESH MATERIALIZED VIEW m", "ALTER VIEW v SET (security_barrier)", "DROP VIEW w"]
)
def test_who_holds_a_lock_on_a_view_is_waited_for_as_pg_dump_does(
    statement: str, which: str, request: pytest.FixtureRequest
) -> None:
    there: Place = request.getfixturevalue(which)
    say(
        there.target,
        "CREATE VIEW v AS SELECT id FROM note; CREATE VIEW w AS SELECT id FROM v;"
        "CREATE MATERIALIZED VIEW m AS SELECT id FROM note",
    )
    with other(there) as migration:
        migration.execute(statement.encode())
        begun = time.monotonic()
        tries: list[Snapshot] = []
        taking = Beside(lambda: there.succeeds(exported=tries.append))
        time.sleep(1.5)  # longer than we wait for it ourselves
        migration.execute("COMMIT")
        made = taking.result()
        assert time.monotonic() - begun > 1.5
    assert len(tries) <= 2  # waited for, and once more if the definition is another now
    assert made.manifest.tables_locked == (which == "place")


def proved(backup: Backup, place: Place, server: servers.Server) -> bool:
    """Whether the backup comes back, on the same server, as what its manifest says."""
    name = f"{place.target.database}_back"
    restoring.make_database(server.target(), name, backup.manifest)
    try:
        loading.load(server.target(name), backup, [])
        differences = restoring.prove(server.target(), name, backup, [])
    finally:
        say(server.target(), "DROP DATABASE {} WITH (FORCE)", name)
    assert list(differences) == []
    return True


@contextmanager
def crowded(few_locks: servers.Server, tmp_path: Path, tables: int) -> Iterator[Place]:
    role = login(few_locks.target(), "SUPERUSER")

    def fill(connection: Connection) -> None:
        connection.execute(
            f"DO $$ BEGIN FOR n IN 1..{tables} LOOP EXECUTE format('CREATE TABLE t%s ()', n); END LOOP; END $$;"
            f"CREATE TABLE note AS SELECT g AS id, md5(g::text) AS body FROM generate_series(1, {ROWS}) AS g"
        )

    with database(role, fill) as target:
        yield Place(target, tmp_path / "backups", tmp_path / "state" / "runs")
    say(few_locks.target(), "DROP ROLE {}", role.user)


@pytest.fixture
def many(few_locks: servers.Server, tmp_path: Path) -> Iterator[Place]:
    """A database with more tables than the server can lock twice."""
    with crowded(few_locks, tmp_path, 150) as made:
        yield made


@pytest.fixture
def few(few_locks: servers.Server, tmp_path: Path) -> Iterator[Place]:
    """A database whose tables can be locked as long as nobody else locks much."""
    with crowded(few_locks, tmp_path, 60) as made:
        yield made


@pytest.mark.parametrize("statements", REWRITES)
def test_where_there_is_no_room_for_locks_a_change_is_noticed_and_dumped_again(
    statements: str, many: Place
) -> None:
    tries: list[Snapshot] = []

    def exported(snapshot: Snapshot) -> None:
        tries.append(snapshot)
        if len(tries) == 1:
            say(many.target, statements)

    made = many.succeeds(exported=exported)
    rows = {name: rows for name, rows in rows_of(made).items() if not name.startswith("public.t")}
    assert rows == REWRITES[statements]
    assert not made.manifest.tables_locked
    assert len(tries) == 2


def test_tables_that_change_during_every_try_are_no_backup(many: Place) -> None:
    def exported(_snapshot: Snapshot) -> None:
        say(many.target, "TRUNCATE note; INSERT INTO note VALUES (1)")

    error = many.fails(OpsError, exported=exported)
    assert error.message == "the tables changed during each of 5 tries"
    assert "migration" in error.hint
    assert rows_of(many.succeeds())["public.note"] == 1


@pytest.mark.parametrize("which", ["few", "many"])
def test_a_lock_table_that_others_have_filled_is_said_by_name(
    which: str, request: pytest.FixtureRequest
) -> None:
    crowd: Place = request.getfixturevalue(which)
    with closing(connect(crowd.target)) as hog:
        with pytest.raises(OutOfMemory):
            hog.execute("SELECT pg_advisory_lock(1, g) FROM generate_series(1, 100000) g")
        hog.execute("SELECT pg_advisory_unlock(1, g) FROM generate_series(1, 40) g")
        error = crowd.fails(LocksExhausted)
    assert error.message == "the server has no room for that many locks"
    assert "out of shared memory" in error.detail
    assert "max_locks_per_transaction" in error.hint
    assert crowd.succeeds().manifest.tables_locked == (which == "few")


def test_more_tables_than_pg_dump_can_lock_are_said_by_name(many: Place) -> None:
    say(
        many.target,
        "DO $$ BEGIN FOR n IN 1..2500 LOOP EXECUTE format('CREATE TABLE u%s ()', n);"
        " IF n % 100 = 0 THEN COMMIT; END IF; END LOOP; END $$",
    )
    error = many.fails(LocksExhausted)
    assert "max_locks_per_transaction" in error.hint
