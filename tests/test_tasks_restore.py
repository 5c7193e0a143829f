"""`invoke restore …` as a person runs it: real processes against a real server, exit codes, what is said where, what is left."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import sql

from polyladder_ops import backups, portable
from polyladder_ops.postgres import databases, marks, session, switch
from tests.conftest import numbers, run
from tests.factories import NIGHT, put, table
from tests.forging import damaged, dump_of, forged, lying
from tests.test_setaside import CONTENTS
from tests.test_tasks import ROOT, Ended, Project, project, url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server

posix = pytest.mark.skipif(sys.platform == "win32", reason="a terminal of our own needs a pty")
LATE = 20


@dataclass(frozen=True)
class Shop:
    """A project whose live database has more rows than its one backup."""

    project: Project
    live: Target
    folder: Path

    @property
    def name(self) -> str:
        return self.live.database

    def run(self, *words: str, **variables: str) -> Ended:
        """Run a command as a process; the password may not come out of it."""
        done = self.project.run(*words, **variables)
        assert self.live.password not in done.out + done.err
        return done

    def ask(self, *words: str, **variables: str) -> Ended:
        """Run a command in this process, which is quicker."""
        done = self.project.ask(*words, **variables)
        assert self.live.password not in done.out + done.err
        return done

    def tell(self, statement: str, name: str = "") -> list[tuple[Any, ...]]:
        with closing(session.connect(self.live.with_database(name or self.name))) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def decks(self, name: str = "") -> int:
        return int(self.tell("SELECT count(*) FROM public.deck", name)[0][0])

    def names(self) -> frozenset[str]:
        with closing(session.connect(self.live.with_database("postgres"))) as connection:
            return switch.names(connection)

    def asides(self, live: str = "") -> list[str]:
        return sorted(name for name in self.names() if name.startswith(f"{live or self.name}_aside_"))


@pytest.fixture(scope="module")
def taken(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Target, Backup]]:
    source = server.target("tasks_restore_source")
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0", source.database)
    with closing(session.connect(source)) as connection:
        connection.execute(CONTENTS.encode())
    folder = tmp_path_factory.mktemp("taken")
    yield source, backups.take(source, folder / "backups", site="production", private=folder / "private")
    run(server.target(), "DROP DATABASE %I WITH (FORCE)", source.database)


@pytest.fixture
def shop(server: Server, taken: tuple[Target, Backup], tmp_path: Path) -> Iterator[Shop]:
    source, backup = taken
    live = server.target(f"tasks_{next(numbers)}")
    run(server.target(), "CREATE DATABASE %I TEMPLATE %I", live.database, source.database)
    folder = tmp_path / "backups"
    shutil.copytree(backup.path.parent, folder)
    where = project(tmp_path / "project", DATABASE_URL=url(live), BACKUP_DIR=str(folder))
    made = Shop(where, live, folder)
    before = made.names()
    made.tell(f"INSERT INTO public.deck (title) SELECT 'late' FROM generate_series(1, {LATE})")
    yield made
    for name in (made.names() - before) | {live.database}:
        databases.drop(server.target(), name)


def untouched(shop: Shop) -> None:
    assert shop.decks() == 500 + LATE
    assert shop.asides() == []
    assert not [name for name in shop.names() if name.startswith("polyladder_beside_")]


def instead(shop: Shop, backup: Backup) -> None:
    """Let this be the only backup in the folder."""
    shutil.rmtree(shop.folder)
    shutil.copytree(backup.path.parent, shop.folder)


# Which one is meant --------------------------------------------------------------------------------------------------


def older(shop: Shop, count: int) -> list[str]:
    """Lay backups of earlier nights into the folder, and return their ids, newest first."""
    nights = [NIGHT - timedelta(days=n) for n in range(count)]
    return [put(shop.folder, taken_at=night, tables=(table(rows=10 + night.day),)).id for night in nights]


def test_without_a_backup_named_it_is_wrong_usage_and_the_newest_three_are_told(
    shop: Shop, taken: tuple[Target, Backup]
) -> None:
    ids = older(shop, 3)
    done = shop.run("restore", "--force")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "error: no backup is named\n"
        f"detail: Newest first: {taken[1].id}, {ids[0]}, {ids[1]}.\n"
        "hint: Write `invoke restore --backup=latest`, an id, a path or a time such as 2026-01-05.\n"
    )
    untouched(shop)


def test_the_list_shows_the_last_seven_with_what_changed_and_does_nothing(
    shop: Shop, taken: tuple[Target, Backup]
) -> None:
    ids = older(shop, 8)
    done = shop.run("restore", "--list", DATABASE_URL="")
    assert (done.code, done.err) == (0, "")
    heads = [line.split()[0] for line in done.out.splitlines() if not line.startswith("      ")]
    assert heads == [taken[1].id, *ids[:6]]
    assert "      public.decks grew by 1 (" in done.out
    told = json.loads(shop.ask("restore", "--list", "--json").out)
    assert [one["id"] for one in told] == heads
    untouched(shop)


def test_a_list_of_nothing_says_so(shop: Shop) -> None:
    shutil.rmtree(shop.folder)
    done = shop.ask("restore", "--list")
    assert (done.code, done.out) == (3, "")
    assert f"there is no backup of site production in {shop.folder}" in done.err


WRONG: dict[str, tuple[int, str]] = {
    "--backup=-x": (2, "looks like a flag"),
    "--backup= --force": (2, "--backup got nothing"),
    "--latest --backup=latest": (2, "name two backups"),
    "--latest --replace": (2, "--replace goes with --into"),
    "--latest --in-place --into=x": (2, "exclude each other"),
    "--latest --without-backup": (2, "--without-backup goes with --in-place"),
    "--backup=2026-13-01": (2, "is no day"),
    "--backup=2026-01-05T02:00": (2, "has no time zone"),
    "--backup=2999-01-01": (2, "lies in the future"),
    "--backup=polyladder_1999": (1, "there is no backup polyladder_1999"),
    "--backup=nonsense": (1, "there is no backup nonsense"),
    "--backup=./nothing.sql.gz": (1, "nothing.sql.gz"),
    "--latest --into=LIVE": (2, "is the live database"),
    f"--latest --into={'ä' * 32}": (2, "is too long for a database"),
    "--latest --into=postgres --replace --force": (4, "is a database of the server itself"),
    "--latest --into=template1 --replace --force": (4, "is a database of the server itself"),
    "--latest --bakup=x": (1, ""),
}


def test_what_is_written_wrongly_touches_nothing(shop: Shop) -> None:
    for words, (code, said) in WRONG.items():
        done = shop.ask("restore", *words.replace("LIVE", shop.name).split())
        assert (done.code, said in done.err) == (code, True), (words, done)
    untouched(shop)


# It is done ----------------------------------------------------------------------------------------------------------


def test_latest_replaces_the_live_database_and_says_what_is_live_and_the_way_back(
    shop: Shop, taken: tuple[Target, Backup]
) -> None:
    done = shop.run("restore", "--latest", "--force")
    assert done.code == 0, done
    (aside,) = shop.asides()
    live, back = done.out.splitlines()
    assert live.startswith(f"{shop.name} is {taken[1].id} now, proved equal (3 tables, ")
    assert re.search(r"; nobody got in for \d+ ms$", live)
    assert back == (
        f"what it was is kept as {aside}: `invoke restore.undo` brings it back, `invoke restore.discard` drops it"
    )
    assert shop.decks() == 500
    assert re.search(rf"^database +{shop.name} on ", done.err, re.MULTILINE)
    assert f'  ALTER DATABASE "{shop.name}" ALLOW_CONNECTIONS false;' in done.err.splitlines()
    assert "Type " not in done.err


def test_json_is_one_document_on_stdout_and_its_sql_undoes_the_switch(shop: Shop) -> None:
    done = shop.run("restore", "--backup=latest", "--force", "--json")
    assert done.code == 0, done
    said = json.loads(done.out)
    assert said["database"] == shop.name
    assert [said["aside"]] == shop.asides()
    assert (said["proved"], said["accepted"], said["roles_made"]) == (True, [], [])
    assert {"load", "analyze", "proof", "switch"} <= said["seconds"].keys()
    assert 0 < said["outage_s"] < 5
    assert shop.decks() == 500
    for line in said["undo_sql"]:
        shop.tell(line, "postgres")
    assert shop.decks() == 500 + LATE


def test_dry_shows_what_would_be_replaced_and_touches_nothing(
    shop: Shop, taken: tuple[Target, Backup]
) -> None:
    done = shop.run("-R", "restore", "--latest")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0] == f"would make {shop.name} what {taken[1].id} holds"
    assert re.search(r"^migration +0042_decks +0042_decks$", done.out, re.MULTILINE)
    untouched(shop)


def test_dry_with_something_in_the_way_exits_3_and_names_it(shop: Shop) -> None:
    shop.tell("BEGIN; CREATE TABLE public.p (); PREPARE TRANSACTION 'dry'")
    done = shop.ask("-R", "restore", "--latest")
    refused = shop.ask("restore", "--latest", "--force")
    shop.tell("ROLLBACK PREPARED 'dry'")
    assert (done.code, refused.code) == (3, 4)
    assert (
        "in the way: prepared:dry: a prepared transaction keeps the live database from being renamed."
        in done.out
    )
    assert "detail: prepared:dry: " in refused.err
    assert "ROLLBACK PREPARED 'dry'" in refused.err
    untouched(shop)


# Elsewhere -----------------------------------------------------------------------------------------------------------


def test_into_another_name_leaves_the_live_database_alone(shop: Shop) -> None:
    name = f"{shop.name}_into"
    done = shop.run("restore", "--latest", f"--into={name}", "--force")
    assert done.code == 0, done
    assert len(done.out.splitlines()) == 1
    assert f"{shop.name}_into on " in done.err
    assert shop.decks(name) == 500
    untouched(shop)

    again = shop.ask("restore", "--latest", f"--into={name}", "--force")
    assert again.code == 4
    assert again.err.splitlines()[-3:] == [
        f"error: there is a database {name} already",
        "detail: It was not touched.",
        "hint: Choose another name, or add --replace: it is set aside then, not dropped.",
    ]
    assert shop.ask("-R", "restore", "--latest", f"--into={name}").code == 4
    shop.tell("DELETE FROM public.deck", name)
    replaced = shop.ask("restore", "--latest", f"--into={name}", "--replace", "--force")
    assert replaced.code == 0, replaced
    (aside,) = shop.asides(name)
    assert f"`invoke restore.undo --into={name}` brings it back" in replaced.out
    assert shop.decks(name) == 500
    refused = shop.ask("restore.undo", f"--database={aside}", "--force")
    assert (refused.code, refused.err.splitlines()[-1]) == (
        4,
        f"hint: If the place of {name} is meant, add --into={name}.",
    )
    back = shop.ask("restore.undo", f"--into={name}", "--force")
    assert back.code == 0, back
    assert shop.decks(name) == 0
    (other,) = shop.asides(name)
    dropped = shop.ask("restore.discard", f"--into={name}", "--without-backup", "--force")
    assert (dropped.code, dropped.out.startswith(f"{other} is dropped")) == (0, True), dropped
    assert shop.decks(name) == 0
    untouched(shop)


def test_a_backup_of_another_site_needs_that_sites_name(
    shop: Shop, taken: tuple[Target, Backup], tmp_path: Path
) -> None:
    instead(shop, lying(taken[1], tmp_path / "lying", lambda fields: fields.update(site="staging")))
    path = f"--backup={next(shop.folder.glob('*.sql.gz'))}"
    for more in ((), ("--allow-cross=elsewhere",)):
        refused = shop.ask("restore", path, "--force", *more)
        assert refused.code == 4, refused
        assert refused.err.splitlines()[-1] == "hint: Add --allow-cross=staging if that is meant."
    untouched(shop)
    done = shop.run("restore", path, "--force", "--allow-cross=staging")
    assert done.code == 0, done
    assert shop.decks() == 500


# Who says yes --------------------------------------------------------------------------------------------------------


def test_without_a_terminal_and_without_force_nothing_happens(
    shop: Shop, taken: tuple[Target, Backup]
) -> None:
    done = shop.run("restore", "--latest")
    assert (done.code, done.out) == (4, "")
    assert done.err.splitlines()[-3:] == [
        "error: this needs a yes, and there is no terminal to ask at",
        f"detail: This sets {shop.name} aside and puts {taken[1].id} in its place.",
        "hint: Add --force if you mean it.",
    ]
    untouched(shop)


def at_terminal(shop: Shop, answer: str, *words: str) -> tuple[int, str, str]:
    """Run a command at a terminal, type the answer when it asks; return the exit code, stdout, and the screen."""
    if sys.platform == "win32":
        raise AssertionError
    ours, theirs = os.openpty()
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    environment = {
        **portable.clean_environment(),
        "PYTHONPATH": paths,
        "TERM": "dumb",
        **shop.project.variables,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "invoke", *words], cwd=shop.project.root, env=environment,
        stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    screen, deadline = b"", time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 0.1)[0]:
                continue
            try:
                screen += os.read(ours, 65536)
            except OSError:  # Linux, when the other end is closed
                break
            if answer and b"to go on: " in screen:
                os.write(ours, f"{answer}\n".encode())
                answer = ""
        out, _ = process.communicate(timeout=60)
    finally:
        os.close(ours)
    return process.returncode, out, screen.decode()


@posix
def test_at_a_terminal_the_databases_name_has_to_be_typed(shop: Shop, taken: tuple[Target, Backup]) -> None:
    older(shop, 2)
    code, out, screen = at_terminal(shop, "yes", "restore", "--latest")
    assert (code, out) == (4, "")
    assert "error: not confirmed, so nothing was done" in screen
    assert f"* {taken[1].id}  " in screen
    assert "public.decks is gone (15 rows)" in screen
    assert f"Type {shop.name} to go on: " in screen
    untouched(shop)
    code, out, screen = at_terminal(shop, shop.name, "restore", "--latest")
    assert code == 0, screen
    assert out.startswith(f"{shop.name} is {taken[1].id} now, proved equal")
    assert shop.decks() == 500
    assert shop.live.password not in screen


# What is not as it should be -----------------------------------------------------------------------------------------


def test_a_damaged_backup_exits_3_and_touches_nothing(
    shop: Shop, taken: tuple[Target, Backup], tmp_path: Path
) -> None:
    data = bytearray(taken[1].path.read_bytes())
    data[len(data) // 2] ^= 1
    instead(shop, damaged(taken[1], tmp_path / "damaged", bytes(data)))
    done = shop.run("restore", "--latest", "--force")
    assert (done.code, done.out) == (3, "")
    assert f"error: backup {taken[1].id} is failed, so nothing was touched" in done.err
    assert done.err.splitlines()[-1] == "hint: Choose another backup: `invoke restore --list`."
    untouched(shop)


def test_a_folder_to_read_only_keeps_no_restore_from_its_end_and_verify_says_both(
    shop: Shop, taken: tuple[Target, Backup]
) -> None:
    (shop.folder / ".lock").unlink()
    (shop.folder / ".lock").mkdir()  # so that even root can't change a name in there
    before = {path.name for path in shop.folder.iterdir()}
    looked = shop.run("verify", "--backup=latest")
    assert (looked.code, looked.out.split(" (")[0]) == (
        1,
        f"{taken[1].id} is whole: every byte and every table is what the manifest says",
    )
    unkept = f"backup {taken[1].id} is passed, but that could not be recorded beside it"
    assert f"error: {unkept}" in looked.err
    assert f"could not work in {shop.folder}" in looked.err
    done = shop.run("restore", "--latest", "--force")
    assert done.code == 0, done.err
    assert f"WARNING: {unkept}. could not work in {shop.folder}" in done.err
    assert shop.decks() == 500
    assert {path.name for path in shop.folder.iterdir()} == before


def test_a_damaged_backup_in_a_folder_to_read_only_has_failed_all_the_same(
    shop: Shop, taken: tuple[Target, Backup], tmp_path: Path
) -> None:
    rotten = bytearray((shop.folder / taken[1].path.name).read_bytes())
    rotten[len(rotten) // 2] ^= 1
    (shop.folder / taken[1].path.name).write_bytes(rotten)
    (shop.folder / ".lock").unlink()
    (shop.folder / ".lock").mkdir()
    looked = shop.ask("verify", "--backup=latest")
    assert (looked.code, f"error: backup {taken[1].id} is failed\n" in looked.err) == (3, True), looked
    assert f"WARNING: backup {taken[1].id} is failed, but that could not be recorded beside it" in looked.err


def accepting(err: str) -> str:
    """Return the item that the hint says can be accepted."""
    found = re.search(r"--accept='?([\w:]+(?:\.\w+)*)", err)
    assert found, err
    return found[1]


def test_a_difference_in_the_proof_replaces_nothing_unless_it_is_accepted_by_name(
    shop: Shop, taken: tuple[Target, Backup], tmp_path: Path
) -> None:
    dump = dump_of(taken[1])
    changed = dump.replace(b"CREATE INDEX deck_title ", b"-- ")
    assert changed != dump
    instead(shop, forged(taken[1], tmp_path / "forged", changed))
    done = shop.run("restore", "--latest", "--force")
    assert (done.code, done.out) == (3, "")
    assert "error: the copy is not what was dumped, so it did not replace anything" in done.err
    assert accepting(done.err) == "index:public.deck_title"
    untouched(shop)
    other = shop.ask("restore", "--latest", "--force", "--accept=index:public.other,space,table:public.deck")
    assert other.code == 3
    untouched(shop)
    let_through = shop.run("restore", "--latest", "--force", "--accept=index:public.deck_title")
    assert let_through.code == 3, let_through
    assert "proved" not in let_through.out
    assert "  accepted: index:public.deck_title: it is missing" in let_through.out.splitlines()
    assert "was restored, but not all of it is proved" in let_through.err
    assert shop.decks() == 500
    assert len(shop.asides()) == 1


def test_a_statement_that_the_server_refuses_can_be_let_through_by_its_place(
    shop: Shop, taken: tuple[Target, Backup], tmp_path: Path
) -> None:
    dump = dump_of(taken[1])
    changed = dump.replace(
        b"CREATE TABLE public.visit", b"CREATE TABLE nowhere.t ();\nCREATE TABLE public.visit"
    )
    instead(shop, forged(taken[1], tmp_path / "forged", changed))
    done = shop.ask("restore", "--latest", "--force")
    assert done.code == 1, done
    assert 'schema "nowhere" does not exist' in done.err
    item = accepting(done.err)
    assert re.fullmatch(r"statement:\d+", item)
    untouched(shop)
    let_through = shop.ask("restore", "--latest", "--force", "--json", f"--accept={item}")
    assert let_through.code == 3
    said = json.loads(let_through.out)
    assert (said["proved"], len(said["accepted"])) == (False, 1)
    assert said["accepted"][0].startswith(f"{item}: ")
    assert shop.decks() == 500


def test_a_missing_role_is_in_the_way_unless_it_is_to_be_made(
    shop: Shop, taken: tuple[Target, Backup], tmp_path: Path
) -> None:
    name = f"restored_{next(numbers)}"
    role = {
        **json.loads(taken[1].manifest.to_json())["roles"][0],
        "name": name,
        "superuser": False,
        "memberships": [],
        "needed": True,
    }
    instead(shop, lying(taken[1], tmp_path / "lying", lambda fields: fields["roles"].append(role)))
    refused = shop.ask("restore", "--latest", "--force", f"--accept=role:{name}")
    assert refused.code == 4
    assert f"role:{name}: the role is missing on the server. Add --create-roles, or create it." in refused.err
    untouched(shop)
    done = shop.ask("restore", "--latest", "--force", "--create-roles", "--json")
    run(shop.live.with_database("postgres"), "DROP ROLE %I", name)
    assert done.code == 0, done
    assert json.loads(done.out)["roles_made"] == [name]
    assert f"made the roles {name}, without passwords" in done.err


CHECKS = """
-- check: there are decks
-- expect: {}
SELECT count(*) FROM public.deck;
"""


def test_your_own_checks_are_asked_of_the_copy_before_it_goes_live(shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "checks.sql"
    file.write_text(CHECKS.format(501))
    done = shop.ask("restore", "--latest", "--force", POLYLADDER_CHECKS=str(file))
    assert done.code == 3, done
    assert "1 of your checks failed on the copy, so it did not replace anything" in done.err
    assert "there are decks" in done.err
    untouched(shop)
    file.write_text(CHECKS.format(500))
    done = shop.ask("restore", "--latest", "--force", POLYLADDER_CHECKS=str(file))
    assert done.code == 0, done


# What stands aside ---------------------------------------------------------------------------------------------------


def test_dry_looks_at_what_would_come_back_and_settles_nothing(server: Server, shop: Shop) -> None:
    assert shop.ask("restore", "--latest", "--force").code == 0
    left = databases.temporary_name("beside")
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0", left)
    before = shop.names()
    for words in ("restore.undo", "restore.discard", "restore.discard --without-backup"):
        shown = shop.ask("-R", *words.split())
        assert (shown.code, "would" in shown.out) == (0, True), shown
        assert shop.names() == before


def test_back_again_looked_at_and_dropped(shop: Shop) -> None:
    assert shop.ask("restore", "--latest", "--force").code == 0
    (aside,) = shop.asides()

    status = shop.run("restore.status", "--json")
    assert status.code == 0, status
    (found,) = [one for one in json.loads(status.out)["asides"] if one["was"] == shop.name]
    assert (found["name"], found["migration_head"]) == (aside, "0042_decks")
    assert aside in shop.ask("restore.status").out

    for words in ("restore.undo", "restore.discard", "restore.discard --without-backup"):
        refused = shop.ask(*words.split())
        assert (refused.code, refused.out) == (4, ""), refused
        assert refused.err.splitlines()[-1] == "hint: Add --force if you mean it."
    dry = shop.ask("-R", "restore.undo")
    assert (dry.code, dry.out) == (0, "would do so\n")
    dry = shop.ask("-R", "restore.discard")
    assert (dry.code, dry.out) == (
        0,
        f"would drop {aside} after a backup that is restored on a scratch server\n",
    )
    assert (shop.decks(), shop.asides()) == (500, [aside])

    shop.tell("INSERT INTO public.deck (title) VALUES ('since')")
    undone = shop.run("restore.undo", "--force", "--json")
    assert undone.code == 0, undone
    said = json.loads(undone.out)
    assert (said["database"], [said["aside"]], said["accepted"]) == (shop.name, shop.asides(), [])
    assert (
        "  table public.deck: rows since, kept or rolled back: 1 inserted, 0 updated, 0 deleted"
        in undone.err.splitlines()
    )
    assert shop.decks() == 500 + LATE

    dropped = shop.run("restore.discard", "--force")
    assert dropped.code == 0, dropped
    assert re.fullmatch(
        rf"{said['aside']} is dropped; it is kept as backup polyladder_\w+ of site production-aside\n",
        dropped.out,
    )
    assert shop.asides() == []
    kept = dropped.out.split()[-4]
    assert f"{kept} (production-aside)" in shop.ask("backup.list").err
    refused = shop.ask("restore", f"--backup={kept}", "--force")
    assert refused.err.splitlines()[-1] == "hint: Add --allow-cross=production-aside if that is meant."
    assert shop.ask("restore.discard", "--force").code == 1
    assert shop.ask("restore.undo", "--force").code == 1


def test_what_the_restore_itself_gives_a_database_was_not_written_since(shop: Shop) -> None:
    """Its comment and settings are given at savepoints of the switch, which have numbers of their own."""
    name = sql.Identifier(shop.name).as_string()
    for statement in (
        f"COMMENT ON DATABASE {name} IS 'the shop'",
        f"ALTER DATABASE {name} SET statement_timeout = '15s'",
        f"ALTER ROLE postgres IN DATABASE {name} SET work_mem = '5MB'",
        f"ALTER DATABASE {name} CONNECTION LIMIT 50",
    ):
        shop.tell(statement)
    assert shop.ask("backup", "--new-source").code == 0
    assert shop.ask("restore", "--latest", "--force").code == 0
    assert "nothing was written since" in shop.ask("-R", "restore.undo").err
    shop.tell(f"COMMENT ON DATABASE {name} IS 'another'")
    assert "its comment was changed since" in shop.ask("-R", "restore.undo").err


def test_a_column_a_view_a_function_and_a_sequence_are_not_nothing(shop: Shop) -> None:
    assert shop.ask("restore", "--latest", "--force").code == 0
    assert "written since, and set aside" not in shop.ask("-R", "restore.undo").err
    for statement in (
        "ALTER TABLE public.deck ADD COLUMN owner text",
        "CREATE VIEW public.titles AS SELECT title FROM public.deck",
        "CREATE FUNCTION public.price() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SELECT nextval('public.deck_id_seq')",
    ):
        shop.tell(statement)
    undone = shop.ask("restore.undo", "--force")
    assert undone.code == 0, undone
    lines = undone.err.splitlines()
    assert "written since, and set aside with the database (4):" in lines
    assert {
        "  table column public.deck.owner: it was made or changed since",
        "  view public.titles: it was made since",
        "  function public.price(): it was made or changed since",
        "  sequence public.deck_id_seq: it stands at 501 (called) instead of 500 (called)",
    } <= set(lines)


def test_locked_tables_do_not_keep_an_undo_waiting(shop: Shop) -> None:
    """Who holds them is ended by the switch; until then nothing waits for them."""
    assert shop.ask("restore", "--latest", "--force").code == 0
    with closing(session.connect(shop.live)) as holder:
        holder.execute("BEGIN")
        holder.execute("LOCK TABLE public.deck, public.pgmigrations, public.visit IN ACCESS EXCLUSIVE MODE")
        undone = shop.run("restore.undo", "--force")
    assert undone.code == 0, undone
    assert shop.decks() == 500 + LATE


def test_what_a_dead_run_left_is_shown_and_put_right(shop: Shop) -> None:
    with closing(session.connect(shop.live.with_database("postgres"))) as connection:
        note = switch.note_of(connection, shop.name, "tests", "b", None)  # an older version did so
        connection.execute(marks.comment(shop.name, note.model_copy(update={"kind": "fenced"}).text))
        switch.close(connection, shop.name)
    status = shop.run("restore.status")
    assert status.code == 3
    assert f"LEFTOVER {shop.name}: closed by a switch that did not come to its end" in status.out.splitlines()
    assert status.err.splitlines()[-1] == "hint: Run `invoke restore.abort`."
    dry = shop.ask("-R", "restore.abort")
    assert f"would settle {shop.name}: " in dry.out
    done = shop.run("restore.abort")
    assert (done.code, done.out) == (0, f"opened {shop.name} again\n")
    assert shop.ask("restore.abort").out == "nothing was left over\n"
    untouched(shop)


def test_a_misspelled_accept_is_told(shop: Shop) -> None:
    done = shop.ask("restore", "--latest", "--force", "--accept=statment:5")
    assert done.code == 0, done
    assert "note: --accept=statment:5 met nothing of that name" in done.out.splitlines()
    undone = shop.ask("restore.undo", "--force", "--accept=migration")
    assert (undone.code, "Only --accept=migrations" in undone.err) == (2, True)


def test_a_second_run_is_told_who_is_at_work(shop: Shop) -> None:
    from polyladder_ops.postgres import locks

    with locks.exclusive(shop.live.with_database("postgres"), shop.name, doing="restore"):
        for words in (("restore", "--latest"), ("restore.undo",), ("restore.abort",)):
            busy = shop.ask(*words, *([] if words[0] == "restore.abort" else ["--force"]))
            if words[0] == "restore.undo":
                assert busy.code == 1  # nothing is set aside, so that nobody has to be waited for
                continue
            assert busy.code == 4, busy
            assert f"error: another run is changing {shop.name}" in busy.err
            assert "detail: It is restore " in busy.err
        assert "a run is at work: It is restore " in shop.ask("restore.status").out
    untouched(shop)


# What is no file -----------------------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("words", ["restore --force", "restore -R"])
def test_a_pipe_a_device_and_a_link_are_no_backup(
    words: str, shop: Shop, taken: tuple[Target, Backup]
) -> None:
    if sys.platform == "win32":
        raise AssertionError
    os.mkfifo(shop.folder / "pipe.sql.gz")
    (shop.folder / "device.sql").symlink_to("/dev/zero")
    (shop.folder / "real.sql.gz").write_bytes(taken[1].path.read_bytes())
    (shop.folder / "link.sql.gz").symlink_to("real.sql.gz")
    for name, what in {"pipe.sql.gz": "a pipe", "device.sql": "a link", "link.sql.gz": "a link"}.items():
        done = shop.ask(*words.split(), f"--backup={shop.folder / name}")
        assert (done.code, done.out) == (1, "")
        assert f"error: {name} can't be restored as it is: it is {what}" in done.err
        assert what != "a link" or "hint: Name the file that it leads to: --backup=/" in done.err
    untouched(shop)
