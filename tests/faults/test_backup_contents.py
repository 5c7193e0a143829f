"""Databases of every kind, and what a backup says aloud about the one it has met."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest

from polyladder_ops import loading, restoring
from polyladder_ops.postgres import session
from tests.faults.places import ROWS, Place, database, notes, rows_of, say

if TYPE_CHECKING:
    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.sandbox import server as servers


def differences(backup: Backup, server: servers.Server) -> list[str]:
    """Return in what the backup, brought back on the same server, differs from its manifest."""
    name = "came_back"
    restoring.make_database(server.target(), name, backup.manifest)
    try:
        loading.load(server.target(name), backup, [])
        return [str(difference) for difference in restoring.prove(server.target(), name, backup, [])]
    finally:
        say(server.target(), "DROP DATABASE {} WITH (FORCE)", name)


@pytest.mark.parametrize(
    "name",
    [
        "it's 'two words'",
        'say \\ "so"',
        "Ünïcode 日本",
        "-a%20b;",
        "postgres://x y=z",
    ],
)
def test_a_database_of_any_name_is_dumped(name: str, place: Place) -> None:
    with database(place.target, notes, name=name) as target:
        made = place.succeeds(target)
    assert made.manifest.source.database == name
    assert rows_of(made) == {"public.note": ROWS}


def test_an_odd_name_survives_the_way_through_the_url(place: Place) -> None:
    with database(place.target, notes, name="Ü 'b\" %41") as target:
        place.target = target
        ended = place.invoke("backup", "--json")
    assert ended.code == 0, ended.said
    assert json.loads(ended.out)["database"] == "Ü 'b\" %41"


def test_an_empty_database_is_a_backup_too(place: Place, server: servers.Server) -> None:
    with database(place.target) as empty:
        made = place.succeeds(empty)
    assert made.manifest.tables == ()
    assert differences(made, server) == []


def test_a_dump_in_the_database_s_own_encoding_comes_back(place: Place, server: servers.Server) -> None:
    def fill(connection: Connection) -> None:
        connection.execute(
            'CREATE TABLE "müßig" ("größe" text); INSERT INTO "müßig" VALUES (\'Äpfel\'), (chr(255));'
            'CREATE SEQUENCE "zähler"; COMMENT ON TABLE "müßig" IS \'Öl\''
        )

    options = "TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'"
    with database(place.target, fill, options=options) as latin:
        say(latin, "ALTER DATABASE {} SET client_encoding = 'UTF8'", latin.database)
        made = place.succeeds(latin)
    assert made.manifest.encoding == "LATIN1"
    assert rows_of(made) == {'public."müßig"': 2}
    assert [sequence.name for sequence in made.manifest.sequences] == ['public."zähler"']
    assert differences(made, server) == []


def test_bytes_of_no_encoding_come_back(place: Place, server: servers.Server) -> None:
    options = "TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C'"
    with database(place.target, options=options) as ascii_only:
        login = dict(ascii_only.parameters)
        login.pop("passfile")
        with psycopg.connect(**login, client_encoding="SQL_ASCII", autocommit=True) as raw:  # type: ignore[arg-type]
            raw.execute("CREATE TABLE public.mixed (id int, body text)")
            raw.execute(b"INSERT INTO public.mixed VALUES (1, E'\\xff\\xfe'), (2, '\xc3\xbc')")
        made = place.succeeds(ascii_only)
    assert made.manifest.encoding == "SQL_ASCII"
    assert rows_of(made)["public.mixed"] == 2
    assert differences(made, server) == []


def test_tables_of_every_width_are_dumped(own_place: Place, server: servers.Server) -> None:
    columns = ", ".join(f"column_with_a_rather_long_name_number_{number:04} int" for number in range(1600))
    say(
        own_place.target,
        f"CREATE TABLE wide ({columns}); INSERT INTO wide VALUES (1), (2); CREATE TABLE narrow ();"
        "INSERT INTO narrow DEFAULT VALUES; CREATE TABLE made (id int, twice int GENERATED ALWAYS AS (id * 2) STORED);"
        "INSERT INTO made VALUES (7); ALTER TABLE made DROP COLUMN id CASCADE;"
        "CREATE UNLOGGED TABLE fleeting AS SELECT 1 AS id",
    )
    made = own_place.succeeds()
    rows = {"wide": 2, "narrow": 1, "made": 1, "fleeting": 1, "note": ROWS}
    assert rows_of(made) == {f"public.{name}": count for name, count in rows.items()}
    assert differences(made, server) == []


def test_rows_that_come_by_their_root_or_from_an_extension_are_not_missed(own_place: Place) -> None:
    say(
        own_place.target,
        "CREATE TYPE mood AS ENUM ('well', 'sad'); CREATE SCHEMA \"Odd.Schema\";"
        'CREATE TABLE "Odd.Schema"."ro""ot" (mood mood) PARTITION BY HASH (mood);'
        'CREATE TABLE leaf PARTITION OF "Odd.Schema"."ro""ot" FOR VALUES WITH (MODULUS 1, REMAINDER 0);'
        "INSERT INTO leaf VALUES ('sad'); CREATE EXTENSION hstore;"
        "CREATE TABLE settings (id int); CREATE TABLE plain (id int);"
        "ALTER EXTENSION hstore ADD TABLE settings; ALTER EXTENSION hstore ADD TABLE plain;"
        "INSERT INTO settings VALUES (1), (2); INSERT INTO plain VALUES (1);"
        "UPDATE pg_extension SET extconfig = ARRAY['settings'::regclass::oid], extcondition = ARRAY['WHERE id > 1']"
        " WHERE extname = 'hstore'",
    )
    made = own_place.succeeds()
    assert rows_of(made) == {"public.note": ROWS, '"Odd.Schema"."ro""ot"': 1, "public.settings": 1}
    assert "the rows of public.plain, which belongs to an extension" in made.manifest.not_included


def test_what_looks_like_loss_is_said_aloud(own_place: Place) -> None:
    say(own_place.target, "CREATE TABLE emptied AS SELECT 1 AS id; CREATE TABLE gone AS SELECT 1 AS id")
    assert own_place.succeeds().manifest.warnings == ()
    say(
        own_place.target,
        f"DELETE FROM note WHERE id > {ROWS // 2}; DELETE FROM emptied; DROP TABLE gone; CREATE TABLE new ()",
    )
    ended = own_place.invoke("backup")
    assert ended.code == 0
    newest, before = own_place.catalog.backups
    assert newest.manifest.warnings == (
        f"table public.emptied fell from 1 rows to 0 since {before.id}",
        f"table public.gone fell from 1 rows to nothing: it is gone since {before.id}",
        f"the total fell from {ROWS + 2:,} rows to {ROWS // 2:,} since {before.id}",
    )
    assert [line for line in ended.err.splitlines() if line.startswith("WARNING: ")] == [
        f"WARNING: {warning}" for warning in newest.manifest.warnings
    ]
    assert own_place.succeeds().manifest.warnings == ()


def test_what_no_dump_holds_is_named(own_place: Place) -> None:
    say(
        own_place.target,
        "CREATE MATERIALIZED VIEW digest AS SELECT count(*) FROM note; CREATE EXTENSION postgres_fdw;"
        "CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw; CREATE FOREIGN TABLE there (id int) SERVER far",
    )
    with database(own_place.target) as other, closing(session.connect(own_place.target)) as waiting:
        waiting.execute("BEGIN")
        waiting.execute("INSERT INTO public.note VALUES (0, 'half way')")
        waiting.execute("PREPARE TRANSACTION 'transfer \"1\"'")
        try:
            ended = own_place.invoke("backup")
        finally:
            waiting.execute("ROLLBACK PREPARED 'transfer \"1\"'")
        (made,) = own_place.catalog.backups
        missing = made.manifest.not_included
        assert {
            "passwords of roles",
            f"the database {other.database}",
            "the rows of the foreign table public.there",
            'the prepared transaction transfer "1"',
        } <= set(missing)
    assert made.manifest.materialized_views == ("public.digest",)
    assert made.manifest.prepared_transactions == ('transfer "1"',)
    assert rows_of(made)["public.note"] == ROWS
    assert 'WARNING: the prepared transaction transfer "1" is in no dump' in ended.err
    assert "note: rebuilt at a restore, not compared: public.digest" in ended.err


def test_the_pg_dump_of_the_server_s_own_major_is_taken(place: Place, older_server: Target) -> None:
    place.hide(older_server.password)
    with database(older_server, notes) as target:
        made = place.succeeds(target)
    source = made.manifest.source
    assert source.client_version.split(".")[0] == str(source.server_major)
