"""What the server's own log says of every task: no statement of ours reads a user's relation but by COPY … TO STDOUT."""

from __future__ import annotations

import re
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.postgres import session
from tests import majors
from tests.conftest import run
from tests.test_tasks import Project, project, url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.postgres.conninfo import Target

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the packages of other majors are Linux's")

CONTENTS = """
CREATE SCHEMA app;
CREATE TYPE app.mood AS ENUM ('good', 'bad');
CREATE TABLE app.pgmigrations (id serial PRIMARY KEY, name varchar(255), run_on timestamp);
INSERT INTO app.pgmigrations (name, run_on) VALUES ('0001_a', '2026-01-01');
CREATE TABLE app.deck (id serial PRIMARY KEY, title text, created_at timestamptz);
INSERT INTO app.deck (title, created_at) SELECT 'deck ' || n, '2026-01-02Z' FROM generate_series(1, 500) n;
CREATE INDEX ON app.deck (created_at);
CREATE TABLE app.card (deck int REFERENCES app.deck, mood app.mood) PARTITION BY HASH (mood);
CREATE TABLE app.card_0 PARTITION OF app.card FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE app.card_1 PARTITION OF app.card FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO app.card SELECT n, CASE WHEN n % 2 = 0 THEN 'good' ELSE 'bad' END::app.mood FROM generate_series(1, 99) n;
CREATE MATERIALIZED VIEW app.much AS SELECT count(*) FROM app.deck;
CREATE VIEW app.few AS SELECT * FROM app.deck LIMIT 3;
CREATE SEQUENCE app.free START 7;
SELECT lo_create(4711);
"""
QUESTION = "SELECT count(*) FROM app.deck"
CHECKS = f"-- check: decks\n-- expect: 500\n{QUESTION};\n"
_ENTRY = re.compile(
    r"^@([^@\n]*)@([^@\n]*)@LOG:  (?:statement|execute [^:]*): ((?:.*\n)(?:\t.*\n)*)", re.MULTILINE
)
_OF_USERS = re.compile(r'\b"?(?:app|public)"?\."?\w')
_READS = re.compile(
    r"SELECT|WITH|TABLE|VALUES|EXPLAIN|INSERT|UPDATE|DELETE|MERGE|CALL|DO\b|COPY \(", re.IGNORECASE
)
_DOOR = re.compile(r"COPY \S+ \([^()]*\) TO STDOUT|LOCK TABLE .*", re.DOTALL)
_SETVAL = re.compile(r"SELECT pg_catalog\.setval\('[^']*', -?\d+, (true|false)\)")
# Before PostgreSQL 18 there is no other way to sequences; it can meet nothing else there (test_whose_code).
_FENCED = re.compile(
    r"SET LOCAL restrict_nonsystem_relation_kind = 'view, foreign-table';\n.*'a sequence was replaced'.*\n"
    r"SELECT 0::int4 AS place, last_value, is_called FROM [^;]* ORDER BY 1",
    re.DOTALL,
)


@dataclass(frozen=True)
class Said:
    """A statement in the server's log: who sent it to which database."""

    application: str
    database: str
    text: str

    @property
    def pieces(self) -> list[str]:
        """Its statements; what reads sequences counts as one."""
        if _FENCED.fullmatch(self.text):
            return ["LOCK TABLE"]
        return [piece.strip() for piece in self.text.split(";\n")]


def reads(piece: str) -> bool:
    """Whether a statement reads or changes rows of a user's relation otherwise than by the door, the checks apart."""
    of_users = _OF_USERS.search(piece) and piece != QUESTION
    return bool(of_users and _READS.match(piece) and not _SETVAL.fullmatch(piece))


def passes_by(piece: str) -> bool:
    """Whether a statement names a user's relation and is not the door, a lock or a check: of a live database."""
    return bool(_OF_USERS.search(piece) and piece != QUESTION and not _DOOR.fullmatch(piece))


@pytest.mark.parametrize(
    ("piece", "is_read", "is_passed_by"),
    [
        ("SELECT count(*) FROM app.deck", False, False),  # the check
        ("SELECT max(a) FROM app.deck", True, True),
        ("COPY (SELECT a FROM app.deck) TO STDOUT", True, True),
        ('COPY "app"."deck" (a, b) TO STDOUT', False, False),
        ("LOCK TABLE app.deck IN ACCESS SHARE MODE", False, False),
        ("ANALYZE app.deck", False, True),
        ("SELECT pg_catalog.setval('app.deck_id_seq', 3, true)", False, True),
        ("SELECT datname FROM pg_catalog.pg_database", False, False),
        ("COPY app.deck (a) FROM stdin", False, True),
    ],
)
def test_the_judge_knows_the_door(piece: str, is_read: bool, is_passed_by: bool) -> None:
    assert (reads(piece), passes_by(piece)) == (is_read, is_passed_by)


@pytest.fixture(scope="module", params=[13, 18])
def server(request: pytest.FixtureRequest, need: Callable[[object, str], None]) -> Iterator[Target]:
    need(majors.programs(request.param), f"no PostgreSQL {request.param} (python -m tests.majors)")
    with majors.running(request.param, log_statement="all", log_line_prefix="@%a@%d@") as target:
        yield target


@pytest.fixture
def live(server: Target) -> Target:
    run(server, "CREATE DATABASE live TEMPLATE template0")
    target = server.with_database("live")
    with closing(session.connect(target)) as connection:
        connection.execute(CONTENTS.encode())
    return target


@pytest.fixture
def shop(server: Target, live: Target, tmp_path: Path) -> Project:
    (tmp_path / "checks.sql").write_text(CHECKS)
    return project(
        tmp_path / "project",
        DATABASE_URL=url(live),
        BACKUP_DIR=str(tmp_path / "backups"),
        POLYLADDER_SCRATCH_URL=url(server),
        POLYLADDER_CHECKS=str(tmp_path / "checks.sql"),
    )


def log(server: Target) -> Path:
    with closing(session.connect(server)) as connection:
        row = connection.execute("SELECT current_setting('data_directory')").fetchone()
    assert row is not None
    return Path(row[0]).parent / "log"


def statements(text: str) -> list[Said]:
    return [
        Said(app, database, said.replace("\n\t", "\n").strip())
        for app, database, said in _ENTRY.findall(text)
    ]


TASKS = (
    "backup", "doctor", "backup.list", "backup.list --changes", "backup.show --backup=latest",
    "backup.pin --backup=latest --reason=x", "backup.unpin --backup=latest", "backup.prune",
    "verify --backup=latest", "verify --backup=latest --level=restore", "doctor",
    "-R restore --backup=latest", "restore --list", "restore --backup=latest --force", "restore.status", "restore.check",
    "-R restore.undo", "restore.undo --force", "-R restore.discard", "restore.discard --force", "restore.abort",
    "restore.extract --backup=latest --table=app.deck --into=rescue",
    "restore.extract --backup=latest --table=app.card --to-file=card.sql.gz",
    "restore --backup=latest --into=yesterday --force",
)  # fmt: skip
IN_PLACE = ("-R restore --backup=latest --in-place", "restore --backup=latest --in-place --force")


def test_no_statement_of_ours_reads_a_relation_but_by_the_door(server: Target, shop: Project) -> None:
    written = log(server)
    before = written.stat().st_size

    def told() -> list[Said]:
        with written.open(errors="replace") as file:
            file.seek(before)
            return statements(file.read())

    for task in TASKS:
        done = shop.ask(*task.split())
        assert done.code == 0, f"{task}: {done}"
    said = told()
    kinds = {one.application.partition(" of ")[0] for one in said}
    assert {"polyladder-ops", "polyladder-ops pg_dump"} <= kinds, kinds
    assert kinds <= {"polyladder-ops", "polyladder-ops pg_dump", ""}
    ours = [one for one in said if not one.application.startswith("polyladder-ops pg_dump")]
    in_live = [one for one in ours if one.database == "live" or one.database.startswith("live_aside_")]
    assert len(in_live) > 20
    assert [piece for one in in_live for piece in one.pieces if passes_by(piece)] == []
    copied = [piece for one in ours for piece in one.pieces if piece.endswith("TO STDOUT")]
    assert len(copied) > 10
    for task in IN_PLACE:
        done = shop.ask(*task.split())
        assert done.code == 0, f"{task}: {done}"
    ours = [one for one in told() if not one.application.startswith("polyladder-ops pg_dump")]
    assert [piece for one in ours for piece in one.pieces if reads(piece)] == []
