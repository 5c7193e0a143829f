"""What others do while a database is restored in place: it is in no backup, so then nothing is done and nothing lost."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
import pytest

from polyladder_ops import backups, inplace
from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.postgres import meanwhile, session, takeover
from polyladder_ops.postgres.conninfo import Target
from tests.faults.wire import wire
from tests.test_inplace import differences, execute, take
from tests.test_limits import says

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.meanwhile import Kept

SHOP = """
CREATE TABLE public.payment (id serial PRIMARY KEY, amount int); INSERT INTO public.payment (amount) VALUES (1), (2);
CREATE SCHEMA s; CREATE TABLE s.t (a int); CREATE VIEW s.v AS SELECT 1 AS one;
CREATE MATERIALIZED VIEW public.total AS SELECT sum(amount) FROM public.payment; CREATE INDEX ON public.total (sum);
CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TYPE public.e AS ENUM ('a');
SELECT lo_from_bytea(7001, 'before');
"""


@dataclass
class Shop:
    """A database, a backup of an earlier state, and a restore in place with somebody beside it."""

    target: Target
    backup: Backup
    folder: Path
    said: list[str] = field(default_factory=list)

    def asks(self, query: str) -> object:
        with closing(session.connect(self.target)) as connection:
            row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]

    def saves(self, *, before: str = "", after: str = "") -> Callable[[], Kept]:
        """Return what keeps a backup, with what somebody does just before its snapshot and just after it."""

        def keep() -> Kept:
            seen: list[Kept] = []
            execute(self.target, before or "SELECT")
            options = backups.Options(
                exported=lambda held: seen.append(meanwhile.read_at(self.target, held.name))
            )
            backups.take(
                self.target, self.folder / "kept", site="aside", private=self.folder / "p", options=options
            )
            execute(self.target, after or "SELECT")
            return seen[-1]

        return keep

    def restore(self, keep: Callable[[], Kept] | None = None, *, amid: str = "") -> inplace.Restored:
        """Restore; `amid` is what somebody does while the rows are loaded."""

        def progress(_size: int) -> None:
            if amid and not self.said:
                self.said.append(amid)
                execute(self.target, amid)

        return inplace.restore(self.target, self.backup, [], keep=keep, progress=progress)


@pytest.fixture
def shop(database: Target, tmp_path: Path) -> Shop:
    execute(database, SHOP)
    made = Shop(database, take(database, tmp_path), tmp_path)
    execute(database, "INSERT INTO public.payment (amount) VALUES (3)")
    return made


CHANGES = {
    "a table": ("CREATE TABLE public.later AS SELECT 100 AS paid", "SELECT paid FROM public.later", 100, "table"),
    "a large object": ("SELECT lo_from_bytea(7002, 'x')", "SELECT lo_get(7002)", b"x", "large object 7002"),
    "what one holds": (
        "SELECT lo_put(7001, 0, 'after!')",
        "SELECT lo_get(7001)",
        b"after!",
        "large object 7001",
    ),
    "a position": ("SELECT nextval('payment_id_seq')", "SELECT last_value FROM public.payment_id_seq", 4, "payment"),
    "a function": (
        "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2'",
        "SELECT public.f()",
        2,
        "function",
    ),
    "a label": (
        "ALTER TYPE e ADD VALUE 'b'",
        "SELECT array_length(enum_range(NULL::public.e), 1)",
        2,
        "type public.e",
    ),
    "a grant": (
        "GRANT SELECT ON payment TO PUBLIC",
        "SELECT relacl IS NOT NULL FROM pg_class WHERE relname = 'payment'",
        True,
        "table public.payment",
    ),
    "a schema": ("CREATE SCHEMA later", "SELECT count(*) FROM pg_namespace WHERE nspname = 'later'", 1, "schema later"),
    "a comment": ("COMMENT ON VIEW s.v IS 'mine'", "SELECT obj_description('s.v'::regclass)", "mine", "a comment"),
    "a setting": (
        "DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = ''5MB''', current_database()); END$$",
        "SELECT current_setting('work_mem')",
        "5MB",
        "the database's own settings",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "query", "answer", "named"), CHANGES.values(), ids=[*CHANGES])
def test_what_is_committed_behind_the_backups_snapshot_is_not_lost(
    change: str, query: str, answer: object, named: str, shop: Shop
) -> None:
    with pytest.raises(Refused, match="somebody changed the database meanwhile") as caught:
        shop.restore(shop.saves(after=change))
    assert named in caught.value.detail
    assert shop.asks(query) == answer
    assert shop.asks("SELECT count(*) FROM public.payment") == 3


def test_nobody_who_does_nothing_is_in_its_way(shop: Shop) -> None:
    """Neither is who reads, or works with temporary tables, nor the server's own housekeeping."""
    quiet = "SELECT * FROM public.payment; CREATE TEMP TABLE own (a serial PRIMARY KEY, b text); ANALYZE pg_class; "
    shop.restore(shop.saves(before=quiet, after=f"{quiet} REFRESH MATERIALIZED VIEW public.total"))
    assert differences(shop.target, shop.backup) == []


def test_a_sequence_that_was_counted_on_is_enough(shop: Shop) -> None:
    """A number that was given out must not be given out twice: it may be on an invoice."""
    with pytest.raises(Refused, match="meanwhile"):
        shop.restore(shop.saves(after="SELECT nextval('public.payment_id_seq')"))
    assert shop.asks("SELECT nextval('public.payment_id_seq')") == 5


def test_what_a_large_object_holds_is_looked_at_before_the_commit(shop: Shop) -> None:
    """No lock keeps anybody from adding to one that we are dropping."""
    large = "SELECT lo_put(7001, 4096, 'much later')"
    with pytest.raises(Refused, match="large object 7001"):
        shop.restore(shop.saves(), amid=large)
    assert shop.asks("SELECT length(lo_get(7001))") == 4106


@pytest.mark.parametrize("is_kept", [True, False], ids=["with a backup", "without one"])
def test_what_comes_while_the_rows_are_loaded_is_looked_for_before_the_commit(
    is_kept: bool, shop: Shop
) -> None:
    with pytest.raises(Refused, match=r"table public\.later") as caught:
        shop.restore(
            shop.saves() if is_kept else None, amid="CREATE TABLE public.later AS SELECT 100 AS paid"
        )
    assert caught.value.hint.startswith("Nothing was touched.")
    assert shop.asks("SELECT paid FROM public.later") == 100
    assert shop.asks("SELECT count(*) FROM public.payment") == 3


def test_a_table_that_was_made_before_the_snapshot_but_was_not_locked_can_not_lose_rows(shop: Shop) -> None:
    made = "CREATE TABLE public.late (paid int); INSERT INTO public.late VALUES (1)"
    with pytest.raises(Refused, match="meanwhile") as caught:
        shop.restore(shop.saves(before=made, after="INSERT INTO public.late VALUES (100)"))
    assert "1 new table" in caught.value.detail
    assert shop.asks("SELECT sum(paid) FROM public.late") == 101


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT nextval('public.payment_id_seq')",
        "REFRESH MATERIALIZED VIEW public.total",
        "CREATE OR REPLACE VIEW s.v AS SELECT 1 AS one, 2 AS two",
    ],
    ids=["nextval", "refresh", "view"],
)
def test_sequences_and_views_are_locked_before_anything_is_dropped(statement: str, shop: Shop) -> None:
    with (
        closing(session.connect(shop.target)) as ours,
        closing(session.connect(shop.target, settings={"lock_timeout": "200ms"})) as other,
    ):
        before = meanwhile.read(other) | meanwhile.positions(other)
        ours.execute("BEGIN")
        with takeover.lock_out(ours, shop.target), pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute(statement.encode())
        ours.execute("COMMIT")
        assert meanwhile.changed(other, before, meanwhile.read(other) | meanwhile.positions(other)) == []


def test_what_somebody_puts_into_a_schema_keeps_it_from_being_dropped(shop: Shop) -> None:
    """Between the list of what is to go and the statements that let it go."""
    put: list[str] = []

    def told(_application: str, text: str) -> None:
        if "DROP SCHEMA IF EXISTS s;" in text and not put:
            put.append(text)
            execute(shop.target, "CREATE FUNCTION s.theirs() RETURNS int LANGUAGE sql AS 'SELECT 7'")

    with wire(int(shop.target.parameters["port"]), told) as by:
        through = Target.of(**{**shop.target.parameters, "port": str(by.port)})
        with pytest.raises(OpsError, match="as it was") as caught:
            inplace.restore(through, shop.backup, [])
    assert "s.theirs" in caught.value.detail or "schema s" in caught.value.detail
    assert put
    assert shop.asks("SELECT s.theirs()") == 7
    assert shop.asks("SELECT count(*) FROM public.payment") == 3


def test_a_materialized_view_that_is_filled_anew_is_no_change_but_its_grant_is_one(shop: Shop) -> None:
    with pytest.raises(Refused, match=r"materialized view public\.total"):
        shop.restore(shop.saves(after="GRANT SELECT ON public.total TO PUBLIC"))
    assert shop.asks("SELECT relacl IS NOT NULL FROM pg_class WHERE relname = 'total'") is True
    shop.restore(shop.saves(after="REFRESH MATERIALIZED VIEW public.total"))
    assert differences(shop.target, shop.backup) == []


def test_no_catalog_is_locked_so_that_others_go_on_in_what_is_their_own(shop: Shop) -> None:
    """A lock on pg_class would stop every temporary table, and every session that begins."""
    locks: list[str] = []

    def look(_size: int) -> None:
        with closing(session.connect(shop.target)) as connection:
            rows = connection.execute(
                "SELECT l.relation::regclass::text || ' ' || l.mode FROM pg_locks l WHERE l.relation < 16384 AND l.granted"
                " AND l.pid <> pg_backend_pid() AND l.mode ~ '^(Share|Exclusive|AccessExclusive|ShareRowExclusive)Lock'"
            ).fetchall()
        locks.extend(row[0] for row in rows)

    inplace.restore(shop.target, shop.backup, [], keep=shop.saves(), progress=look)
    assert locks == []


def test_what_comes_after_the_last_look_stays_but_for_what_is_added_to_a_large_object(shop: Shop) -> None:
    says("Tables made after the last look before the COMMIT stay")
    says("what is added to a large object in that instant is lost")

    def committing() -> None:
        execute(
            shop.target, "CREATE TABLE public.late AS SELECT 100 AS paid; SELECT lo_put(7001, 4096, 'more')"
        )

    inplace.restore(shop.target, shop.backup, [], committing=committing)
    assert shop.asks("SELECT paid FROM public.late") == 100
    assert shop.asks("SELECT count(*) FROM public.payment") == 2
    assert shop.asks("SELECT lo_get(7001, 0, 6)") == b"before"
