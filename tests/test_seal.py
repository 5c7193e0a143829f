"""The manifest of an encrypted backup: nobody without a key learns a row or another value; whoever has one knows all."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyrage
import pytest
import xxhash

from polyladder_ops import backups, catalog, encryption, history, manifest, seal, verification
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import session
from tests.factories import manifest as made_up
from tests.factories import put, unchecked
from tests.test_tasks import Project, project, url

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server

    Fields = dict[str, Any]

KEY = pyrage.x25519.Identity.generate()
OTHER = pyrage.x25519.Identity.generate()
PIN = 483920
VALUES = {
    "a sequence's value": b"12321",
    "an expression's text": b"7700",
    "a setting's value": b"66006",
    "a comment": b"a comment that tells",
    "a gid": b"payment-4711",
    "a migration": b"0042_secret_project",
    "a role's comment": b"on leave since May",
}
SHAPE = """
CREATE TABLE pins (pin int); INSERT INTO pins VALUES (483920);
CREATE TABLE prices (a int DEFAULT 7700, b int CHECK (b <> 7700));
CREATE SEQUENCE counted START 12321; SELECT nextval('counted');
CREATE TABLE pgmigrations (id serial, name text, run_on timestamp DEFAULT now());
INSERT INTO pgmigrations (name) VALUES ('0042_secret_project');
SELECT lo_from_bytea(4711, '483920');
"""


def options(*keys: pyrage.x25519.Identity) -> backups.Options:
    return backups.Options(recipients=tuple(str(key.to_public()) for key in keys))


@pytest.fixture
def taken(database: Target, tmp_path: Path) -> Backup:
    with closing(session.connect(database, settings={"search_path": "public"})) as connection:
        for statement in SHAPE.split(";\n"):
            connection.execute(statement.encode())
        connection.execute(f"ALTER DATABASE {database.database} SET polyladder.most = '66006'".encode())
        connection.execute(f"COMMENT ON DATABASE {database.database} IS 'a comment that tells'".encode())
        connection.execute(b"COMMENT ON ROLE postgres IS 'on leave since May'")
        connection.execute(b"BEGIN; CREATE TABLE later (); PREPARE TRANSACTION 'payment-4711'")
    try:
        return backups.take(
            database, tmp_path / "backups", site="test", private=tmp_path / "private", options=options(KEY)
        )
    finally:
        with closing(session.connect(database)) as connection:
            connection.execute(b"ROLLBACK PREPARED 'payment-4711'")
            connection.execute(b"COMMENT ON ROLE postgres IS NULL")


def stored(backup: Backup) -> Path:
    return backup.path.with_name(f"{backup.path.name}.json")


def meet(backup: Backup) -> Backup:
    """Return the backup as whoever looks into its folder finds it."""
    return catalog.open_backup(backup.path)


def found_by_digest(text: str) -> bool:
    """Whether a number of six digits in a table of one column is found by trying each of them."""
    tables = [field["digest"] for field in json.loads(text)["tables"] if field["name"] == "public.pins"]
    return any(xxhash.xxh3_128_hexdigest(f"{pin}\n".encode()) in tables for pin in range(PIN - 9, PIN + 9))


def test_the_search_for_a_digest_finds_the_row_in_a_manifest_that_is_not_sealed(taken: Backup) -> None:
    assert found_by_digest(taken.manifest.to_json())


def test_nobody_without_a_key_learns_a_row_or_another_value(taken: Backup) -> None:
    text = stored(taken).read_bytes()
    assert not found_by_digest(text.decode())
    assert [what for what, value in VALUES.items() if value in text] == []
    whole = taken.manifest.to_json()
    digests = {table.digest for table in taken.manifest.tables} | {
        o.digest for o in taken.manifest.large_objects
    }
    digests |= {entry.definition for entry in taken.manifest.objects} | {
        e.exact for e in taken.manifest.objects
    }
    assert len(digests) > 8
    assert [digest for digest in digests - {""} if digest.encode() in text] == []
    assert [what for what, value in VALUES.items() if value not in whole.encode()] == ["an expression's text"]
    assert base64.b64decode(json.loads(text)["sealed"]).startswith(b"age-encryption.org/")


def test_names_counts_sizes_times_and_the_sha256_stand_in_the_clear(taken: Backup) -> None:
    found, known = meet(taken).manifest, taken.manifest
    assert found.is_sealed
    assert not known.is_sealed
    assert [(t.name, t.rows, t.size_bytes) for t in found.tables] == [
        (t.name, t.rows, t.size_bytes) for t in known.tables
    ]
    for name in (
        "id",
        "file",
        "site",
        "source",
        "taken_at",
        "finished_at",
        "size_bytes",
        "plain_bytes",
        "sha256",
    ):
        assert getattr(found, name) == getattr(known, name)


def test_whoever_has_a_key_knows_the_whole_manifest(taken: Backup) -> None:
    assert seal.known(meet(taken), [KEY]).manifest == taken.manifest
    assert seal.known(meet(taken), [OTHER, KEY]).manifest == taken.manifest
    with pytest.raises(encryption.NoKey):
        seal.known(meet(taken), [OTHER])


def test_a_sealed_backup_is_verified_and_restores(taken: Backup, server: Server) -> None:
    assert verification.verify_stored(meet(taken), [KEY]).reasons == ()
    verdict = verification.verify_by_restore(meet(taken), [KEY], server.target(), trusted=True)
    # The gid's table is in no dump and no fault of it.
    assert (verdict.verdict, verdict.reasons) == ("passed", ())


def exchange(fields: Fields, other: Fields) -> None:
    fields["sealed"] = other["sealed"]


def rows(fields: Fields, _other: Fields) -> None:
    fields["tables"][0]["rows"] += 1


def taken_off(fields: Fields, _other: Fields) -> None:
    del fields["tables"][0]


def cut(fields: Fields, _other: Fields) -> None:
    fields["sealed"] = str(fields["sealed"])[:-8]


def flipped(fields: Fields, _other: Fields) -> None:
    text = str(fields["sealed"])
    fields["sealed"] = f"{text[:-20]}{'A' if text[-20] != 'A' else 'B'}{text[-19:]}"


def no_base64(fields: Fields, _other: Fields) -> None:
    fields["sealed"] = "*" + str(fields["sealed"])


def another_sha256(fields: Fields, _other: Fields) -> None:
    fields["sha256"] = "0" * 64


CHANGED = [exchange, rows, taken_off, cut, flipped, no_base64, another_sha256]


@pytest.mark.parametrize("change", CHANGED)
def test_a_sealed_manifest_that_was_changed_or_exchanged_is_told(
    change: Callable[[Fields, Fields], None], tmp_path: Path
) -> None:
    recipients = encryption.recipients([str(KEY.to_public())])
    texts = []
    for data in (b"this", b"that"):
        made = put(tmp_path, data, encrypted=True)
        texts.append(seal.closed(made, recipients).to_json())
    fields, other = map(json.loads, map(unchecked, reversed(texts)))
    change(fields, other)
    path = tmp_path / f"{made.file}.json"
    path.write_text(json.dumps(fields), encoding="utf-8")
    backup = catalog.open_backup(tmp_path / made.file)
    with pytest.raises(OpsError, match=r"the sealed part of the manifest of .* is damaged"):
        seal.known(backup, [KEY])
    verdict = verification.verify_stored(backup, [KEY])
    assert verdict.verdict == "failed"
    assert "sealed part" in verdict.reasons[-1]


def test_a_damaged_seal_is_told_in_lines_of_its_own(tmp_path: Path) -> None:
    recipients = encryption.recipients([str(KEY.to_public())])
    folder = tmp_path / "backups"
    folder.mkdir()
    made = put(folder, encrypted=True)
    fields = json.loads(unchecked(seal.closed(made, recipients).to_json()))
    cut(fields, {})
    (folder / f"{made.file}.json").write_text(json.dumps(fields), encoding="utf-8")
    key = tmp_path / "identity.txt"
    key.write_text(str(KEY), encoding="ascii")
    there = project(tmp_path / "project", BACKUP_DIR=str(folder), BACKUP_AGE_IDENTITY_FILE=str(key))
    lines = there.ask("backup.show", "--backup=latest").err.splitlines()
    (first,) = (number for number, line in enumerate(lines) if line.startswith("warning: the sealed part"))
    assert [line.partition(":")[0] for line in lines[first : first + 3]] == ["warning", "detail", "hint"]
    assert "\\n" not in "".join(lines)


def test_a_seal_and_a_format_that_contradict_each_other_make_no_manifest(tmp_path: Path) -> None:
    recipients = encryption.recipients([str(KEY.to_public())])
    fields = json.loads(unchecked(seal.closed(made_up(encrypted=True), recipients).to_json()))
    wrong: list[Fields] = [{"format": 1}, {"sealed": ""}, {"format": 3}]
    for number, changes in enumerate(wrong):
        (tmp_path / str(number)).mkdir()
        path = tmp_path / str(number) / f"{fields['file']}.json"
        path.write_text(json.dumps({**fields, **changes}), encoding="utf-8")
        with pytest.raises(OpsError, match="is unusable"):
            manifest.load(path)


def test_a_seal_that_would_fill_the_memory_is_not_opened_nor_made(tmp_path: Path) -> None:
    recipients = encryption.recipients([str(KEY.to_public())])
    made = put(tmp_path, encrypted=True)
    with pytest.raises(OpsError, match="would have"):
        seal.closed(made.model_copy(update={"snapshot": "x" * seal._LIMIT_BYTES}), recipients)
    sealed = io.BytesIO()
    encryption.encrypt(io.BytesIO(gzip.compress(b"x" * (seal._LIMIT_BYTES + 1))), sealed, recipients)
    text = base64.b64encode(sealed.getvalue()).decode()
    with pytest.raises(OpsError, match="is damaged") as caught:
        seal.opened(seal.closed(made, recipients).model_copy(update={"sealed": text}), [KEY])
    assert "too large" in caught.value.detail


def test_a_manifest_of_before_is_read_as_it_is(tmp_path: Path) -> None:
    made = put(tmp_path, encrypted=True)
    backup = catalog.open_backup(tmp_path / made.file)
    assert not backup.manifest.is_sealed
    assert seal.known(backup, []) == backup
    assert backup.manifest == made


def test_the_head_of_a_sealed_manifest_is_read_from_its_first_lines(tmp_path: Path) -> None:
    made = put(tmp_path, encrypted=True)
    closed = seal.closed(made, encryption.recipients([str(KEY.to_public())]))
    path = tmp_path / f"{made.file}.json"
    path.write_text(closed.to_json()[:1500], encoding="utf-8")  # a reader of the whole would refuse it
    assert manifest.read_head(tmp_path, path.name) == (made.site, made.taken_at)


def test_changes_are_told_by_rows_and_bytes_where_one_of_the_two_is_sealed(
    database: Target, tmp_path: Path
) -> None:
    taken: list[Backup] = []
    for statement in (
        "CREATE TABLE public.t AS SELECT 1 AS a",
        "UPDATE public.t SET a = 2",
        "INSERT INTO public.t VALUES (3)",
    ):
        with closing(session.connect(database)) as connection:
            connection.execute(statement.encode())
        taken.append(
            backups.take(database, tmp_path / "b", site="test", private=tmp_path / "p", options=options(KEY))
        )
    first, second, third = taken
    grew = ["public.t grew by 1 (1 → 2 rows)"]
    assert [str(each) for each in history.changes(first, second)] == ["public.t changed (still 1 row)"]
    assert history.changes(meet(first), second) == history.changes(meet(first), meet(second)) == ()
    for old, new in ((second, third), (meet(second), third), (meet(second), meet(third))):
        assert [str(each) for each in history.changes(old, new)] == grew


def test_only_the_recipients_of_the_data_open_the_seal(database: Target, tmp_path: Path) -> None:
    both = backups.take(
        database, tmp_path / "b", site="test", private=tmp_path / "p", options=options(KEY, OTHER)
    )
    for key in (KEY, OTHER):
        assert seal.known(meet(both), [key]).manifest == both.manifest
    with pytest.raises(encryption.NoKey):
        seal.known(meet(both), [pyrage.x25519.Identity.generate()])


def test_a_manifest_stays_private_and_small(taken: Backup) -> None:
    assert stored(taken).stat().st_size < 100_000
    if os.name == "posix":
        assert stored(taken).stat().st_mode & 0o077 == 0


@pytest.fixture
def place(database: Target, tmp_path: Path) -> Project:
    secret = tmp_path / "identity.txt"
    secret.write_text(str(KEY), encoding="ascii")
    with closing(session.connect(database)) as connection:
        connection.execute(b"CREATE TABLE public.t AS SELECT 1 AS a")
        connection.execute(b"COMMENT ON TABLE public.t IS 'x'")
    return project(
        tmp_path / "project",
        DATABASE_URL=url(database),
        BACKUP_DIR=str(tmp_path / "backups"),
        BACKUP_AGE_RECIPIENTS=str(KEY.to_public()),
        BACKUP_AGE_IDENTITY_FILE=str(secret),
    )


def test_the_tasks_know_all_with_the_key_and_say_without_it_what_they_do_not(
    place: Project, database: Target
) -> None:
    assert place.ask("backup").code == 0
    with closing(session.connect(database)) as connection:
        connection.execute(b"UPDATE public.t SET a = 2")
    assert place.ask("backup", BACKUP_AGE_IDENTITY_FILE="").code == 0
    known, sealed = (
        {
            name: place.ask(*words, BACKUP_AGE_IDENTITY_FILE=key).out
            for name, words in {
                "changes": ["backup.list", "--changes"],
                "show": ["backup.show", "--backup=latest"],
                "json": ["backup.list", "--json"],
            }.items()
        }
        for key in (place.variables["BACKUP_AGE_IDENTITY_FILE"], "")
    )
    assert "public.t changed (still 1 row)" in known["changes"]
    assert "sealed" not in known["changes"] + known["show"]
    assert "public.t" not in sealed["changes"]
    assert "nothing changed" not in sealed["changes"]
    assert "sealed: set BACKUP_AGE_IDENTITY_FILE" in sealed["changes"]
    assert "extensions:" in known["show"]
    assert "extensions:" not in sealed["show"]
    assert "sealed:" in sealed["show"]
    assert [row["warnings"] for row in json.loads(sealed["json"])] == [None, None]
    assert all(isinstance(row["warnings"], list) for row in json.loads(known["json"]))


def test_without_the_key_a_look_at_the_bytes_proves_nothing_and_says_what_it_saw(place: Project) -> None:
    assert place.ask("backup").code == 0
    found = place.ask("verify", "--backup=latest", BACKUP_AGE_IDENTITY_FILE="")
    assert found.code == 3, found
    assert "is NOT PROVED at level stored" in found.out
    assert "has the size and the sha256 that the manifest says; what is inside was not looked at" in found.out
    assert found.err.splitlines()[-1].startswith("hint: Set BACKUP_AGE_IDENTITY_FILE ")
    (row,) = json.loads(place.ask("backup.list", "--json").out)
    assert (row["verified"], row["verification"]["verdict"]) == (False, "not proved")
    assert place.ask("verify", "--backup=latest").code == 0
    assert place.ask("verify", "--backup=latest", BACKUP_AGE_IDENTITY_FILE="").code == 3
    deeper = place.ask("verify", "--backup=latest", "--level=restore", BACKUP_AGE_IDENTITY_FILE="")
    assert (deeper.code, "NOT PROVED" in deeper.out) == (3, True), deeper
    (row,) = json.loads(place.ask("backup.list", "--json").out)
    assert row["verified"] is True


def test_without_the_key_a_changed_byte_and_a_file_that_is_cut_have_failed(place: Project) -> None:
    assert place.ask("backup").code == 0
    (file,) = Path(place.variables["BACKUP_DIR"]).glob("*.age")
    data = file.read_bytes()
    for other, said in (
        (data[:-1], "another size"),
        (data[:-1] + bytes([data[-1] ^ 1]), "sha256 is not the one in the manifest"),
    ):
        file.write_bytes(other)
        # By its id: one of another size is not complete, so it is not the latest.
        found = place.ask("verify", f"--backup={file.name.split('.')[0]}", BACKUP_AGE_IDENTITY_FILE="")
        assert found.code == 3, found
        assert "FAILED at level stored" in found.out
        assert said in found.out, found
    assert " FAILED " in place.ask("backup.list").out


def test_a_restore_knows_all_and_without_the_key_touches_nothing(place: Project, database: Target) -> None:
    assert place.ask("backup").code == 0
    with closing(session.connect(database)) as connection:
        connection.execute(b"DELETE FROM public.t")
    refused = place.ask("restore", "--backup=latest", "--force", BACKUP_AGE_IDENTITY_FILE="")
    assert (refused.code, "BACKUP_AGE_IDENTITY_FILE" in refused.err) == (2, True)
    done = place.ask("restore", "--backup=latest", "--force", "--json")
    assert (done.code, json.loads(done.out)["proved"]) == (0, True)
    with closing(session.connect(database)) as connection:
        assert connection.execute(b"SELECT a FROM public.t").fetchall() == [(1,)]
    undone = place.ask("restore.undo", "--force")
    assert undone.code == 0, undone.err
    assert place.ask("restore.discard", "--force", "--without-backup").code == 0


def test_a_list_names_a_damaged_seal_and_goes_on(place: Project) -> None:
    assert place.ask("backup").code == 0
    (path,) = Path(place.variables["BACKUP_DIR"]).glob("*.json")
    fields = json.loads(unchecked(path.read_text(encoding="utf-8")))
    flipped(fields, {})
    path.write_text(json.dumps(fields, indent=1), encoding="utf-8")
    listed = place.ask("backup.list")
    assert (listed.code, "sealed part" in listed.err) == (3, True)
    assert fields["id"] in listed.out
    failed = place.ask("verify", f"--backup={fields['id']}")
    assert (failed.code, "sealed part" in failed.out) == (3, True)
    shown = place.ask("backup.show", f"--backup={fields['id']}")
    assert "sealed part" in shown.err
    refused = place.ask("restore", f"--backup={fields['id']}", "--force")
    assert (refused.code, "sealed part" in refused.err) == (1, True)


def test_doctor_and_the_list_do_not_take_a_sealed_manifest_for_one_without_warnings(
    place: Project, database: Target
) -> None:
    assert place.ask("backup").code == 0
    with closing(session.connect(database)) as connection:
        connection.execute(b"DELETE FROM public.t")
    assert place.ask("backup").code == 0  # with a WARNING that it fell to 0 rows
    assert place.ask("verify", "--backup=latest").code == 0
    known, sealed = place.ask("doctor"), place.ask("doctor", BACKUP_AGE_IDENTITY_FILE="")
    assert "WARNING" in known.out
    assert "its warnings are not known, since no key for it is here" in sealed.out
    assert "Nothing stands in the way" not in sealed.out
    assert re.search(r"restore +.*Not looked at: no key for", sealed.out)
    assert "warnings sealed" in place.ask("backup.list", BACKUP_AGE_IDENTITY_FILE="").out
    assert "warnings sealed" not in place.ask("backup.list").out
