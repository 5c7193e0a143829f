"""Names that steer terminals and forge lines, wherever a name can come from: nothing raw comes out of any task."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from psycopg import sql

from polyladder_ops import portable
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import databases, printable, session, switch
from polyladder_ops.sandbox import server as servers
from tests import majors
from tests.dumps import old_dump
from tests.factories import manifest, put
from tests.test_oldfiles import put as lay
from tests.test_tasks import Ended, Project, project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the packages of other majors are Linux's")

FORGED = "FORGED"
# A title of the window, a turned direction, CSI in one byte, nothing to see, and two kinds of a new line.
EVIL = f"\x1b]0;\u202e\x9b\u200b\x7f\u2028\r\n{FORGED}"
FLAT = EVIL.replace("\r\n", "")  # a name with a line break is no backup's
ODD = f"'\"{EVIL}"
CONTENTS = """
CREATE ROLE {owner};
CREATE SCHEMA {odd};
CREATE TYPE {odd}.{odd} AS ENUM ('a', {text});
CREATE TABLE {odd}.{table} ({column} serial PRIMARY KEY, mood {odd}.{odd}, made_at timestamptz DEFAULT now());
ALTER TABLE {odd}.{table} OWNER TO {owner};
COMMENT ON TABLE {odd}.{table} IS {text};
INSERT INTO {odd}.{table} (mood) SELECT {text} FROM generate_series(1, 20);
CREATE INDEX {index} ON {odd}.{table} (mood);
CREATE MATERIALIZED VIEW {odd}.{mv} AS SELECT count(*) FROM {odd}.{table};
CREATE VIEW {odd}.{view} AS SELECT {column} FROM {odd}.{table};
CREATE FUNCTION {odd}.{function}() RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$;
COMMENT ON DATABASE {database} IS {text};
"""


@pytest.fixture(scope="module", params=[13, 18])
def server(request: pytest.FixtureRequest, need: Callable[[object, str], None]) -> Iterator[Target]:
    need(majors.programs(request.param), f"no PostgreSQL {request.param} (python -m tests.majors)")
    with majors.running(request.param, max_prepared_transactions="4") as target:
        yield target


def made(server: Target) -> Target:
    """Make a database of such names, called by one."""
    target = server.with_database("live\u202e\u200b")  # a URL's own control characters are refused
    name = sql.Identifier(target.database)
    with closing(session.connect(server)) as connection:
        connection.execute(
            sql.SQL(
                "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
            ).format(name)
        )
    names = {word: f"{word}{ODD}" for word in ("owner", "table", "column", "index", "mv", "view", "function")}
    words = {word: sql.Identifier(text) for word, text in {**names, "odd": ODD}.items()}
    with closing(session.connect(target)) as connection:
        connection.execute(sql.SQL(CONTENTS).format(**words, text=sql.Literal(ODD), database=name))
        connection.execute(
            sql.SQL("BEGIN; SELECT 1; PREPARE TRANSACTION {}").format(sql.Literal(f"gid{EVIL}"))
        )
    return target


def finish_prepared(target: Target) -> None:
    with closing(session.connect(target)) as connection:
        for (gid,) in connection.execute("SELECT gid FROM pg_prepared_xacts").fetchall():
            connection.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.SQL(printable.literal(gid))))


@pytest.fixture
def live(server: Target) -> Iterator[Target]:
    target = made(server)
    yield target
    finish_prepared(target)
    with closing(session.connect(server)) as connection:
        names = switch.names(connection) - {"postgres", "template0", "template1"}
    for name in names:
        databases.drop(server, name)
    with closing(session.connect(server)) as connection:
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(f"owner{ODD}")))


def url(target: Target) -> str:
    return f"postgres://{target.user}:{target.password}@{target.host}:{target.port}/{quote(target.database)}"


@pytest.fixture
def place(server: Target, live: Target, tmp_path: Path) -> Project:
    checks = tmp_path / "checks.sql"
    checks.write_text(
        "-- check: one\n-- expect: 1\nSELECT 1;\n-- check: two\n-- expect: 'x'\nSELECT E'\\x1b]0;\\nFORGED';\n"
    )
    folder = tmp_path / f"backups{EVIL}"
    folder.mkdir()
    (folder / f"litter{FLAT}.sql.gz").write_bytes(b"")
    (folder / f"odd{FLAT}.sql.gz.json").write_text(f'{{"{ODD!r}": 1}}')
    put(folder, site=f"site{EVIL}")
    return project(
        tmp_path / "project",
        DATABASE_URL=url(live),
        BACKUP_DIR=str(folder),
        POLYLADDER_SCRATCH_URL=url(server),
        POLYLADDER_CHECKS=str(checks),
    )


def is_seen(done: Ended, *words: str) -> None:
    """Nothing raw was printed, no line was forged, and the task did not end by a bug."""
    for text in (done.out, done.err):
        assert not [char for char in text if not char.isprintable() and char != "\n"], (words, text)
        assert not [line for line in text.split("\n") if line.strip().startswith(FORGED)], (words, text)
    assert "Traceback" not in done.err, (words, done.err)


LOOKS = (
    "doctor", "backup --new-source", "backup.list", "backup.list --changes", "backup.show --backup=latest",
    "backup.pin --backup=latest --reason=REASON", "backup.list", "backup.prune", "verify --backup=latest",
    "verify --backup=latest --level=restore", "-R restore --backup=latest", "restore --list",
    "-R backup", "-R restore --backup=latest --in-place", "restore.check", "-R restore.abort", "restore.status",
    "restore.extract --backup=latest --table=nothingEVIL --into=x", "restore --backup=nothingEVIL",
    "restore --backup=latest --force", "restore --backup=latest --force --accept=nothingEVIL --into=intoEVIL",
    "restore.status", "-R restore.undo", "restore.abort",
)  # fmt: skip
SWITCHES = (
    "restore --backup=latest --force", "restore.status", "-R restore.undo", "restore.undo --force", "-R restore.discard",
    "restore.discard --force --without-backup", "restore.status",
)  # fmt: skip
CODES = {"backup --new-source": 0, "backup.show --backup=latest": 0, "backup.list": 3, "restore.status": 0}


def test_nothing_raw_and_no_secret_comes_out_of_any_task(place: Project, live: Target) -> None:
    for words in LOOKS:
        argv = [word.replace("EVIL", EVIL).replace("REASON", f"why{EVIL}") for word in words.split()]
        done = place.ask(*argv)
        is_seen(done, words)
        assert live.password not in done.out + done.err
        assert done.code == CODES.get(words, done.code), (words, done)


def test_nothing_raw_comes_out_of_a_switch_and_its_way_back(place: Project, live: Target) -> None:
    assert place.ask("backup", "--new-source").code == 0
    finish_prepared(live)
    place.variables["POLYLADDER_CHECKS"] = ""
    for words in SWITCHES:
        done = place.ask(*words.split())
        is_seen(done, words)
        assert done.code == 0, (words, done)


def test_documents_keep_the_names_as_they_are_escaped(place: Project, live: Target) -> None:
    done = place.ask("backup", "--new-source", "--json")
    is_seen(done, "backup")
    assert json.loads(done.out)["database"] == live.database
    for words in ("backup.list", "backup.show --backup=latest", "doctor", "restore.status", "restore.check"):
        done = place.ask(*words.split(), "--json")
        is_seen(done, words)
        assert json.loads(done.out), words
    shown = json.loads(place.ask("backup.show", "--backup=latest", "--json").out)
    assert f"owner{ODD}" in [role["name"] for role in shown["manifest"]["roles"]]


def test_a_bare_file_says_nothing_raw(place: Project, tmp_path: Path) -> None:
    odd = tmp_path / f"FAKE{EVIL}.sql"
    odd.write_bytes(b"PGDMP")
    old = lay(tmp_path, old_dump(), name=f"old{EVIL}.sql.gz")
    for path in (odd, old):
        for words in (
            "restore --force",
            "-R restore",
            "verify",
            "backup.show",
            "restore.extract --table=x --into=y",
        ):
            done = place.ask(*words.split(), f"--backup={path}")
            is_seen(done, words)
            assert done.code != 0 or words != "restore --force" or path == old, done


@pytest.mark.usefixtures("live")
def test_the_sql_to_undo_a_switch_by_hand_runs_as_it_is_shown(server: Target) -> None:
    odd, aside = f"now{EVIL}", f"now_aside_20260105{EVIL}"
    with closing(session.connect(server)) as connection:
        for name in (odd, aside):
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        lines = switch.by_hand(odd, aside, f"owner{ODD}")
        assert all(line.isprintable() for line in lines)
        for line in lines:
            for statement in re.split(r"(?<=;) ", line):
                connection.execute(statement.encode())
        assert {odd, aside.replace("_aside_", "_other_")} <= switch.names(connection)


@pytest.mark.parametrize("name", ["an Aside", 'it\'s "odd"', "a=b", "postgresql://x", "grün:x", "50%", EVIL])
def test_psql_gets_into_a_closed_database_by_the_lines_that_are_shown(name: str, server: Target) -> None:
    name += "_aside_20260105"
    with closing(session.connect(server)) as connection:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ALLOW_CONNECTIONS false")
        connection.execute(statement.format(sql.Identifier(name)))
    enter, *lines = switch.to_look_into(server.database, name)
    assert all(line.isprintable() for line in lines)
    done = subprocess.run(
        [str(servers.programs() / "psql"), "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", *enter.split()[1:],
         "-h", server.host, "-p", str(server.port), "-U", server.user],
        input="\n".join([*lines[:2], "SELECT encode(current_database()::bytea, 'hex');", *lines[2:], ""]),
        capture_output=True,
        env={**portable.clean_environment(), "PGPASSWORD": server.password},
        check=False,
        encoding="utf-8",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == name.encode().hex()
    with pytest.raises(OpsError), closing(session.connect(server.with_database(name))):
        pass


@pytest.mark.parametrize("text", ["plain", 'it\'s "odd" \\', ODD, "\U0001f600\U000e0001", ""])
def test_names_and_texts_are_read_as_they_were(text: str, server: Target) -> None:
    name = sql.Identifier(text).as_string(None) if text.isprintable() else printable.identifier(text)
    with closing(session.connect(server)) as connection:
        for conforming in ("on", "off") if "\\" not in text else ("on",):
            connection.execute(f"SET standard_conforming_strings = {conforming}".encode())
            question = f"SELECT {printable.literal(text)} AS {name if text else 'x'}"
            assert question.isprintable()
            cursor = connection.execute(question.encode())
            assert cursor.fetchone() == (text or None,)
            assert cursor.description is not None
            assert cursor.description[0].name == (text or "x")


def test_a_manifest_of_such_names_is_told_in_printable_characters(tmp_path: Path) -> None:
    made_up = put(tmp_path, warnings=(f"w{EVIL}",), lost=(f"l{EVIL}",), migration_head=f"m{EVIL}")
    place = project(tmp_path / "project", BACKUP_DIR=str(tmp_path))
    for words in ("backup.list", "backup.show --backup=latest", "restore --list"):
        is_seen(place.ask(*words.split()), words)
    assert made_up.id == manifest().id
    assert portable.clean_environment()
