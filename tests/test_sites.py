"""Which site is meant: a name that was mistyped is said, and where only backups are, no command reaches a database."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import backups
from polyladder_ops.postgres import session
from tests.test_tasks import Project, project, url

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target

NEW = "note: this is the first backup of site prodution here; there are 1 of production. --site=NAME means another one"


@pytest.fixture
def place(database: Target, tmp_path: Path) -> Project:
    with closing(session.connect(database)) as connection:
        connection.execute(b"CREATE TABLE public.t AS SELECT 1 AS a")
    checks = tmp_path / "checks.sql"
    checks.write_text("-- check: one\n-- expect: 1\nSELECT 1;\n", encoding="ascii")
    folder = str(tmp_path / "backups")
    return project(
        tmp_path / "project", DATABASE_URL=url(database), BACKUP_DIR=folder, POLYLADDER_CHECKS=str(checks)
    )


def test_the_first_backup_of_a_site_beside_those_of_others_is_said(place: Project) -> None:
    first = place.ask("backup")
    assert (first.code, "first backup of site" in first.err) == (0, False), first
    dry, typo, again = (
        place.ask(*words)
        for words in (("-R", "backup", "--site=prodution"), *2 * [("backup", "--site=prodution")])
    )
    assert [found.code for found in (dry, typo, again)] == [0, 0, 0]
    assert NEW in dry.err.splitlines()
    assert NEW in typo.err.splitlines()
    assert "first backup of site" not in again.err


@pytest.fixture
def aside(place: Project, database: Target, tmp_path: Path) -> Project:
    """A folder with a backup of what was set aside, and DATABASE_URL of what is live."""
    backups.take(database, tmp_path / "backups", site="production-aside", private=tmp_path / "private")
    return place


@pytest.mark.parametrize(
    "command",
    [
        "backup",
        "restore --latest --force",
        "restore --latest --into=look",
        "restore.extract --backup=latest --table=t --into=look",
        "restore.check",
        "restore.undo --force",
        "restore.abort",
        "restore.discard --force",
        "restore.status",
    ],
)
def test_a_site_of_what_was_set_aside_has_no_database(command: str, aside: Project, database: Target) -> None:
    found = aside.ask(*command.split(), "--site=production-aside")
    assert (found.code, found.out) == (4, ""), found
    assert "site production-aside has backups and no database of its own" in found.err
    assert found.err.splitlines()[-1].startswith("hint: Say --site=production, and a backup ")
    with closing(session.connect(database)) as connection:
        there = connection.execute("SELECT FROM pg_database WHERE datname = 'look'").fetchall()
        assert (connection.execute("SELECT a FROM public.t").fetchall(), there) == ([(1,)], [])


@pytest.mark.parametrize(
    "command",
    ["backup.list", "backup.show --backup=latest", "verify --backup=latest", "backup.prune",
     "restore.extract --backup=latest --table=t --to-file=t.sql.gz"],
)  # fmt: skip
def test_its_backups_are_looked_at_as_any_other(command: str, aside: Project) -> None:
    found = aside.ask(*command.split(), "--site=production-aside")
    assert found.code == 0, found
