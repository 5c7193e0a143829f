"""A dry run is as red as the real run that it stands for, where looking tells: what it did not look at, it says."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

import pyrage
import pytest

from polyladder_ops import backups
from polyladder_ops.postgres import session
from tests.factories import record
from tests.test_tasks import Project, project, url

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server


@pytest.fixture
def taken(database: Target, tmp_path: Path) -> Backup:
    with closing(session.connect(database)) as connection:
        connection.execute(b"CREATE TABLE public.t AS SELECT 1 AS a")
    return backups.take(database, tmp_path / "backups", site="production", private=tmp_path / "private")


@pytest.fixture
def place(taken: Backup, database: Target, tmp_path: Path) -> Project:
    return project(tmp_path / "project", DATABASE_URL=url(database), BACKUP_DIR=str(taken.path.parent))


def test_a_dry_backup_of_another_database_is_refused_as_the_real_one(
    place: Project, database: Target
) -> None:
    other = {"DATABASE_URL": url(database.with_database("postgres"))}
    dry, real = (place.ask(*words, **other) for words in (("-R", "backup"), ("backup",)))
    assert (dry.code, dry.out, dry.err) == (4, "", real.err), (dry, real)
    assert place.ask("-R", "backup", "--new-source", **other).code == 0


@pytest.mark.parametrize(
    ("flags", "variables"),
    [
        ((), {"DATABASE_URL": "postgres://app:sesame-live@127.0.0.1:1/live"}),
        ((), {"BACKUP_AGE_RECIPIENTS": "age1" + "q" * 58}),
        (("--with-passwords",), {}),
    ],
    ids=["server", "recipients", "passwords"],
)
def test_a_dry_backup_is_red_where_the_real_one_is(
    flags: tuple[str, ...], variables: dict[str, str], place: Project
) -> None:
    dry, real = (place.ask(*words, *flags, **variables) for words in (("-R", "backup"), ("backup",)))
    assert real.code != 0
    assert (dry.code, dry.out, dry.err) == (real.code, "", real.err)


def test_a_dry_backup_into_a_folder_that_takes_no_file_is_red_and_leaves_nothing(
    place: Project, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    dry = place.ask("-R", "backup", POLYLADDER_STATE_DIR=str(tmp_path / "file"))
    assert (dry.code, dry.out) == (1, ""), dry
    assert "hint: Name a folder in POLYLADDER_STATE_DIR that you can write to" in dry.err
    before = sorted(tmp_path.rglob("*"))
    assert place.ask("-R", "backup").out.startswith("would dump ")
    assert sorted(tmp_path.rglob("*")) == before


LOOKS = [
    "restore --backup=latest",
    "restore --backup=latest --into=look",
    "restore.extract --backup=latest --table=t --into=look",
    "verify --backup=latest",
]


@pytest.mark.parametrize("words", LOOKS)
def test_a_dry_run_of_a_whole_backup_says_that_its_bytes_were_not_read(words: str, place: Project) -> None:
    dry = place.ask("-R", *words.split())
    assert (dry.code, dry.out.startswith("would ")) == (0, True), dry
    assert dry.out.splitlines()[-1].startswith("not looked at: the bytes of polyladder_")


@pytest.mark.parametrize("words", LOOKS)
def test_a_dry_run_of_a_backup_without_its_data_is_red(words: str, place: Project, taken: Backup) -> None:
    taken.path.unlink()
    dry = place.ask("-R", *words.replace("latest", taken.id).split())
    assert dry.code == 3, dry
    assert f"error: backup {taken.id} is not complete\ndetail: Its data file is missing.\n" in dry.err


@pytest.mark.parametrize("words", LOOKS)
def test_a_dry_run_of_a_backup_that_failed_is_red(words: str, place: Project, taken: Backup) -> None:
    record(taken.path.parent, taken.manifest, verdict="failed")
    dry = place.ask("-R", *words.split())
    assert dry.code == 3, dry
    assert f"error: the verification of {taken.id} FAILED\n" in dry.err


def test_a_dry_extract_of_an_encrypted_backup_finds_what_the_real_one_finds(
    place: Project, database: Target, tmp_path: Path
) -> None:
    identity, key = pyrage.x25519.Identity.generate(), tmp_path / "key"
    key.write_text(f"{identity}\n")
    sealed = json.loads(place.ask("backup", "--json", BACKUP_AGE_RECIPIENTS=str(identity.to_public())).out)
    words = ("restore.extract", f"--backup={sealed['id']}", "--table=t", f"--to-file={tmp_path / 'o.sql'}")
    dry, real = (place.ask(*dryness, *words, BACKUP_AGE_IDENTITY_FILE=str(key)) for dryness in (("-R",), ()))
    assert (dry.code, real.code) == (0, 0), (dry, real)
    assert dry.out.startswith("would extract public.t of ")
    dry, real = (
        place.ask(*dryness, *words[:-1], f"--to-file={tmp_path / 'p.sql'}") for dryness in (("-R",), ())
    )
    assert (dry.code, dry.out, dry.err) == (2, "", real.err), (dry, real)
    assert "no private key is named" in dry.err


def test_a_dry_proof_by_restore_looks_for_the_server_that_the_real_one_needs(
    place: Project, server: Server, older_server: Target
) -> None:
    words = ("verify", "--backup=latest", "--level=restore")
    fine = place.ask("-R", *words, POLYLADDER_SCRATCH_URL=url(server.target()))
    assert (fine.code, "at level restore on POLYLADDER_SCRATCH_URL, version " in fine.out) == (0, True), fine
    away = {"POLYLADDER_SCRATCH_URL": "postgres://app:sesame@127.0.0.1:1/scratch"}
    dry, real = (place.ask(*dryness, *words, **away) for dryness in (("-R",), ()))
    assert (dry.code, real.code, dry.err.splitlines()[0]) == (1, 1, real.err.splitlines()[0]), (dry, real)
    other = {"POLYLADDER_SCRATCH_URL": url(older_server)}
    dry, real = (place.ask(*dryness, *words, **other) for dryness in (("-R",), ()))
    assert (dry.code, real.code, hint(dry.err)) == (3, 3, hint(real.err)), (dry, real)
    assert "would be not proved: its server has version" in dry.err


@pytest.mark.parametrize("level", ["stored", "restore"])
def test_a_dry_proof_without_the_private_key_is_as_red_as_the_real_one(level: str, place: Project) -> None:
    identity = pyrage.x25519.Identity.generate()
    sealed = json.loads(place.ask("backup", "--json", BACKUP_AGE_RECIPIENTS=str(identity.to_public())).out)
    words = ("verify", f"--backup={sealed['id']}", f"--level={level}")
    dry, real = (place.ask(*dryness, *words) for dryness in (("-R",), ()))
    assert (dry.code, real.code, hint(dry.err)) == (3, 3, hint(real.err)), (dry, real)


def hint(err: str) -> str:
    return err.partition("hint: ")[2]
