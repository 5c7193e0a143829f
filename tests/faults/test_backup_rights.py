"""Roles that may not read everything, and settings that get in the way of reading it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import storage
from polyladder_ops.errors import OpsError, UsageError
from tests.faults.places import ROWS, Place, ask, login, rows_of, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target


@pytest.fixture
def place(own_place: Place) -> Place:
    """The place of these tests has a database of its own."""
    return own_place


@pytest.fixture
def app(place: Place) -> Iterator[Target]:
    """A role of few rights, which may read what everybody may and the table note."""
    made = login(place.target)
    say(place.target, "GRANT SELECT ON note TO {}", made.user)
    yield made
    say(place.target, "DROP OWNED BY {0}; DROP ROLE {0}", made.user)


def test_a_role_that_may_read_everything_needs_no_more(place: Place, app: Target) -> None:
    say(place.target, "CREATE SEQUENCE counter; SELECT nextval('counter')")
    say(place.target, "GRANT SELECT ON SEQUENCE counter TO {}", app.user)
    made = place.succeeds(app)
    assert rows_of(made) == {"public.note": ROWS}
    assert [(s.name, s.value) for s in made.manifest.sequences] == [("public.counter", 1)]


FORBIDDEN = {
    "CREATE TABLE hidden ()": ("a table can't be read by this role", "table hidden"),
    "CREATE SCHEMA vault CREATE TABLE hidden ()": ("a table can't be read by this role", "schema vault"),
    "CREATE TABLE hidden (id int); GRANT UPDATE ON hidden TO PUBLIC": ("pg_dump failed", "table hidden"),
    "CREATE SEQUENCE hidden": ("pg_dump failed", "hidden"),
    "SELECT lo_from_bytea(4711, 'x')": ("pg_dump failed", "large object 4711"),
    "ALTER TABLE note ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON note USING (id = 1)": (
        "pg_dump failed",
        "row-level security policy for table",
    ),
}


@pytest.mark.parametrize("statements", FORBIDDEN)
def test_what_a_role_may_not_read_is_named(statements: str, place: Place, app: Target) -> None:
    say(place.target, statements)
    error = place.fails(OpsError, app)
    message, named = FORBIDDEN[statements]
    assert message in error.message
    assert named in error.detail
    assert "Grant" in error.hint or "BYPASSRLS" in error.hint
    place.succeeds()


def test_a_table_that_forces_its_policies_is_read_whole_by_a_superuser(place: Place) -> None:
    say(
        place.target,
        "ALTER TABLE note ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        "CREATE POLICY own ON note USING (false)",
    )
    assert rows_of(place.succeeds()) == {"public.note": ROWS}


HOSTILE = {
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "50ms",
    "idle_session_timeout": "250ms",
    "transaction_timeout": "200ms",
    "client_encoding": "LATIN1",
    "search_path": "nowhere",
    "DateStyle": "German",
    "TimeZone": "Asia/Tokyo",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "row_security": "on",
    "quote_all_identifiers": "on",
    "standard_conforming_strings": "off",
    "synchronize_seqscans": "on",
    "default_tablespace": "nowhere",
    "temp_tablespaces": "",
    "lc_messages": "C",
    "enable_seqscan": "off",
    "session_replication_role": "replica",
}


def test_no_setting_of_database_or_role_stops_or_bends_a_backup(place: Place) -> None:
    say(
        place.target,
        "CREATE TABLE value AS SELECT '\\xff'::bytea AS b, 0.1::float8 AS f, '日本' AS t, now() AS d",
    )
    before = place.succeeds()
    for kind, name in (("DATABASE", place.target.database), ("ROLE", place.target.user)):
        for setting, value in HOSTILE.items():
            say(place.target, f"ALTER {kind} {{}} SET {setting} = '{value}'", name)

    # What would end the very statement that lifts it is lifted as the session begins.
    assert ask(place.target, "SELECT reset_val FROM pg_settings WHERE name = 'statement_timeout'") == "0"

    def slow(_event: object) -> None:
        time.sleep(0.3)

    after = place.succeeds(exported=slow, dumped=slow)
    assert after.manifest.tables == before.manifest.tables
    assert after.manifest.encoding == before.manifest.encoding == "UTF8"


def test_password_verifiers_need_an_encrypted_backup(place: Place) -> None:
    error = place.fails(UsageError, with_passwords=True)
    assert "BACKUP_AGE_RECIPIENTS" in error.hint
    ended = place.invoke("backup", "--with-passwords")
    assert ended.code == 2
    assert "only into an encrypted backup" in ended.err
    place.holds()


def test_password_verifiers_need_a_superuser(place: Place, app: Target) -> None:
    error = place.fails(OpsError, app, with_passwords=True, recipients=place.encrypting())
    assert "--with-passwords" in error.hint
    place.succeeds(app, recipients=place.encrypting())


def test_password_verifiers_are_in_the_encrypted_part_only(place: Place) -> None:
    made = place.succeeds(with_passwords=True, recipients=place.encrypting())
    inside = bytearray()
    storage.read(made.path, inside.extend, keys=place.identities, encrypted=True)
    assert inside.count(b"-- polyladder-ops password verifier: ") >= 2
    assert inside.count(b"SCRAM-SHA-256$") >= 2
    assert "SCRAM" not in made.path.with_name(f"{made.path.name}.json").read_text()
    assert b"SCRAM" not in made.path.read_bytes()
    without = place.succeeds(recipients=place.encrypting())
    inside.clear()
    storage.read(without.path, inside.extend, keys=place.identities, encrypted=True)
    assert b"SCRAM" not in inside
