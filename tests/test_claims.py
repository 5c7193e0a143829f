"""What lists and prompts claim of backups, tried as a person would read them at night."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import backups, history, verification
from polyladder_ops.postgres import databases, session, switch
from tests.conftest import run
from tests.factories import put, record
from tests.test_prune import url
from tests.test_tasks import Project, project
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target

MADE = """
CREATE TABLE public.deck (id serial PRIMARY KEY, title text);
CREATE INDEX by_title ON public.deck (title);
INSERT INTO public.deck (title) SELECT 'deck ' || n FROM generate_series(1, 30) n;
GRANT SELECT ON public.deck TO PUBLIC;
SELECT lo_from_bytea(4711, 'a picture');
CREATE TABLE public.item (z integer, y integer);
CREATE TABLE public.article (x integer, y integer, w integer, z integer);
INSERT INTO public.article VALUES (1, 2, 3, 4);
ALTER TABLE public.article INHERIT public.item;
CREATE VIEW public.short AS SELECT d.title FROM public.deck d WHERE length(d.title) < 7;
"""


@pytest.fixture
def filled(database: Target) -> Target:
    with session.connect(database) as connection:
        connection.execute(MADE)
    return database


def take(source: Target, folder: Path) -> Backup:
    private = folder.parent / "private"
    return backups.take(source, folder / "backups", site="production", private=private)


def done(source: Target, *statements: str) -> None:
    with session.connect(source) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def said(before: Backup, now: Backup) -> list[str]:
    return [str(change) for change in history.everything(before, now)]


def test_an_index_a_sequence_a_large_object_and_a_grant_that_are_gone_are_changes(
    filled: Target, tmp_path: Path
) -> None:
    before = take(filled, tmp_path)
    done(filled, "DROP INDEX public.by_title", "SELECT setval('public.deck_id_seq', 3)", "SELECT lo_unlink(4711)",
         "REVOKE SELECT ON public.deck FROM PUBLIC")  # fmt: skip
    assert said(before, take(filled, tmp_path)) == [
        "large object 4711 is gone",
        "sequence public.deck_id_seq was set back: 30 → 3",
        "index public.by_title is gone",
        "table public.deck is no longer granted to PUBLIC: SELECT",
    ]


CHANGES = {
    "ALTER TABLE public.deck ALTER COLUMN title SET NOT NULL": "public.deck is defined otherwise",
    "ALTER TABLE public.deck DROP CONSTRAINT deck_pkey": "is gone",
    "CREATE OR REPLACE VIEW public.short AS SELECT d.title FROM public.deck d WHERE length(d.title) < 9":
        "view public.short is defined otherwise",
    "DROP VIEW public.short": "view public.short is gone",
    "GRANT DELETE ON public.deck TO PUBLIC": "table public.deck is granted to PUBLIC: DELETE",
    "SELECT lo_put(4711, 0, 'b')": "large object 4711 changed",
    "SELECT nextval('public.deck_id_seq')": "sequence public.deck_id_seq went on: 30 → 31",
    "CREATE FUNCTION public.one() RETURNS integer LANGUAGE sql AS 'SELECT 1'": "function public.one() is new",
    "CREATE EXTENSION pg_trgm SCHEMA public": "extension pg_trgm is new",
    "UPDATE public.deck SET title = 'x' WHERE id = 1": "public.deck changed (still 30 rows)",
    "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = ''9MB''', current_database()); END $$":
        "the database's setting work_mem is new",
    "DO $$ BEGIN EXECUTE format('COMMENT ON DATABASE %I IS ''ours''', current_database()); END $$":
        "the database's comment changed",
    "DO $$ BEGIN EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database()); END $$":
        "the database is no longer granted to PUBLIC: CONNECT",
}  # fmt: skip


@pytest.mark.parametrize("statement", CHANGES)
def test_each_kind_of_thing_that_a_manifest_holds_is_compared(
    statement: str, filled: Target, tmp_path: Path
) -> None:
    before = take(filled, tmp_path)
    done(filled, statement)
    found = said(before, take(filled, tmp_path))
    assert [line for line in found if CHANGES[statement] in line], found


def test_two_backups_of_one_state_are_equal(filled: Target, tmp_path: Path) -> None:
    assert said(take(filled, tmp_path), take(filled, tmp_path)) == []


@pytest.fixture
def shop(filled: Target, tmp_path: Path) -> Project:
    folder = str(tmp_path / "backups")
    return project(tmp_path / "project", DATABASE_URL=url(filled), BACKUP_DIR=folder)


def test_after_a_restore_no_table_is_called_changed_whose_inherited_columns_came_back_in_another_order(
    shop: Project, filled: Target, tmp_path: Path
) -> None:
    before = take(filled, tmp_path)
    restored = shop.ask("restore", "--latest", "--force", "--json")
    assert restored.code == 0, restored.err
    found = said(before, take(filled, tmp_path))
    run(filled.with_database("postgres"), "DROP DATABASE %I", json.loads(restored.out)["aside"])
    assert [line for line in found if "changed" in line or "otherwise" in line] == []
    assert found == ["public.article has its columns in another order (still 1 row, as many bytes)"]


def test_the_list_says_all_of_it_and_so_does_json(shop: Project, filled: Target, tmp_path: Path) -> None:
    take(filled, tmp_path)
    done(filled, "DROP INDEX public.by_title")
    take(filled, tmp_path)
    assert "  index public.by_title is gone" in shop.ask("backup.list", "--changes").out.splitlines()
    newest, first = json.loads(shop.ask("backup.list", "--changes", "--json").out)
    assert (newest["changes"], first["changes"], first["other_changes"]) == ([], None, None)
    assert [(c["thing"], c["name"], c["what"]) for c in newest["other_changes"]] == [
        ("index", "public.by_title", "is gone")
    ]
    assert "index public.by_title is gone" in shop.ask("restore", "--list").out


# Checks --------------------------------------------------------------------------------------------------------------


ASKS = """
-- check: no secret in a record
-- expect: {}
SELECT count(*) FROM public.deck;
"""


def test_checks_that_fail_are_kept_beside_the_backup_and_shown_until_they_pass(
    shop: Project, filled: Target, tmp_path: Path
) -> None:
    take(filled, tmp_path)
    asked = tmp_path / "checks.sql"
    asked.write_text(ASKS.format(31))
    failed = shop.ask("restore", "--latest", "--force", POLYLADDER_CHECKS=str(asked))
    assert failed.code == 3, failed.err
    assert shop.ask("backup.list").out.rstrip().endswith("checks FAILED: no secret in a record")
    assert "checks FAILED: no secret in a record" in shop.ask("restore", "--list").out
    assert json.loads(shop.ask("backup.list", "--json").out)[0]["checks_failed"] == ["no secret in a record"]
    assert (
        "your checks FAILED on a copy of it: no secret in a record"
        in shop.ask("-R", "restore", "--latest").out
    )
    asked.write_text(ASKS.format(30))
    passed = shop.ask("restore", "--latest", "--force", "--json", POLYLADDER_CHECKS=str(asked))
    assert passed.code == 0, passed.err
    run(filled.with_database("postgres"), "DROP DATABASE %I", json.loads(passed.out)["aside"])
    assert "FAILED" not in shop.ask("backup.list").out


def test_a_check_that_failed_stands_by_its_name_until_it_passes_itself(
    shop: Project, filled: Target, tmp_path: Path
) -> None:
    taken = take(filled, tmp_path)

    def stand() -> object:
        return json.loads(shop.ask("backup.list", "--json").out)[0]["checks_failed"]

    assert verification.keep_checks(taken, ["users", "decks"], ["one is one"]) == ""
    assert verification.keep_checks(taken, [], ["one is one"]) == ""
    assert verification.keep_checks(taken, []) == ""
    assert stand() == ["users", "decks"]
    assert verification.keep_checks(taken, ["cards"], ["decks"]) == ""
    assert stand() == ["users", "cards"]
    assert verification.keep_checks(taken, [], ["users", "cards"]) == ""
    assert stand() == []


def test_a_record_of_checks_that_has_rotted_takes_no_earlier_failure_away(
    shop: Project, filled: Target, tmp_path: Path
) -> None:
    taken = take(filled, tmp_path)
    assert verification.keep_checks(taken, ["users"]) == ""
    assert verification.keep_checks(taken, ["decks"], []) == ""
    newest = max(taken.path.parent.glob("*.checks-*.json"))
    newest.write_text("{")

    def stand() -> list[str]:
        found: list[str] = json.loads(shop.ask("backup.list", "--json").out)[0]["checks_failed"]
        return found

    assert (stand()[0], len(stand())) == ("users", 2)
    assert verification.keep_checks(taken, [], ["decks"]) == ""
    assert stand() == ["users"]


def test_checks_of_which_a_record_has_rotted_have_failed(
    shop: Project, filled: Target, tmp_path: Path
) -> None:
    taken = take(filled, tmp_path)
    assert verification.keep_checks(taken, ["decks"]) == ""
    (path,) = taken.path.parent.glob("*.checks-*.json")
    path.write_text(path.read_text().replace("failed", "passed"))
    assert f"the record {path.name} can't be read" in shop.ask("backup.list").out


def test_checks_of_a_file_without_a_manifest_are_kept_nowhere(filled: Target, tmp_path: Path) -> None:
    taken = take(filled, tmp_path)
    taken.path.with_name(f"{taken.path.name}.json").unlink()
    assert verification.keep_checks(taken, ["decks"]) == ""
    assert list(taken.path.parent.glob("*.checks-*.json")) == []


def test_checks_that_fail_in_a_database_to_look_at_are_told_and_it_is_there(
    shop: Project, filled: Target, tmp_path: Path
) -> None:
    """Who looks into a copy may do so for just what the check found."""
    take(filled, tmp_path)
    asked = tmp_path / "checks.sql"
    asked.write_text(ASKS.format(31))
    beside = filled.with_database(f"{filled.database}_look")
    words = ("restore", "--latest", "--force", f"--into={beside.database}")
    try:
        ended = shop.ask(*words, POLYLADDER_CHECKS=str(asked))
        assert ended.code == 3, ended
        assert f"{beside.database} is there to look at, but 1 of your checks failed on it" in ended.err
        assert "check:no secret in a record: " in ended.err
        with session.connect(beside) as connection:
            assert connection.execute("SELECT count(*) FROM public.deck").fetchone() == (30,)
        again = shop.ask(*words, "--replace", POLYLADDER_CHECKS=str(asked))
        assert (again.code, "so it did not replace anything" in again.err) == (3, True), again
    finally:
        databases.drop(filled.with_database("postgres"), beside.database)
    assert shop.ask("backup.list").out.rstrip().endswith("checks FAILED: no secret in a record")


@pytest.mark.parametrize("expected", [30, 31], ids=["done", "not done"])
def test_roles_that_were_made_go_again_when_the_restore_does_not_happen(
    expected: int, shop: Project, filled: Target, tmp_path: Path
) -> None:
    owner = f"owner_{filled.database}"
    run(filled, "CREATE ROLE %I", owner)
    run(filled, "ALTER TABLE public.deck OWNER TO %I", owner)
    take(filled, tmp_path)
    run(filled, "REASSIGN OWNED BY %I TO CURRENT_USER", owner)
    run(filled, "DROP ROLE %I", owner)
    asked = tmp_path / "checks.sql"
    asked.write_text(ASKS.format(expected))
    ended = shop.ask("restore", "--latest", "--force", "--create-roles", POLYLADDER_CHECKS=str(asked))
    assert f"made the roles {owner}, without passwords" in ended.err
    is_done = expected == 30
    with session.connect(filled.with_database("postgres")) as connection:
        count = connection.execute("SELECT count(*) FROM pg_roles WHERE rolname = %s", [owner]).fetchone()
        names = switch.names(connection)
    for name in (name for name in names if name.startswith(f"{filled.database}_aside_")):
        databases.drop(filled.with_database("postgres"), name)
    if is_done:
        run(filled, "REASSIGN OWNED BY %I TO CURRENT_USER", owner)
        run(filled, "DROP ROLE %I", owner)
    assert (ended.code, count) == ((0, (1,)) if is_done else (3, (0,))), ended


def test_roles_of_a_killed_restore_are_named_and_go_before_the_next_one_makes_them_again(
    shop: Project, filled: Target, tmp_path: Path
) -> None:
    name, owner = filled.database, f"owner_{filled.database}"
    for statement in (
        "CREATE ROLE %I LOGIN",
        "COMMENT ON ROLE %I IS 'owns'",
        "ALTER TABLE public.deck OWNER TO %I",
    ):
        run(filled, statement, owner)
    take(filled, tmp_path)
    run(filled, "REASSIGN OWNED BY %I TO CURRENT_USER", owner)
    run(filled, "DROP ROLE %I", owner)

    def asked(question: str, *values: str) -> list[tuple[object, ...]]:
        with session.connect(filled.with_database("postgres")) as connection:
            return connection.execute(question.encode(), values or None).fetchall()

    looks = "SELECT rolcanlogin, shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = %s"
    words = ["restore", "--latest", "--force", "--create-roles"]
    process = shop.start(*words)
    until(lambda: asked(looks, owner) or process.poll() is not None, "the role is made")
    process.kill()
    process.communicate()
    mine = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'polyladder-ops%' AND pid <> pg_backend_pid()"
    until(lambda: not asked(mine), "the server has let go of the killed run")
    ((can_log_in, _),) = asked(looks, owner)
    assert not can_log_in
    told = shop.ask("restore.status")
    assert (told.code, f"LEFTOVER the role {owner}: made for a restore that died\n" in told.out) == (
        3,
        True,
    ), told
    assert f"the role {owner}: made for a restore that died" in shop.ask("doctor").out
    assert f"would settle the role {owner}" in shop.ask("-R", "restore.abort").out
    again = shop.ask(*words)
    assert (again.code, f"dropped the role {owner}" in again.err) == (0, True), again
    assert f"made the roles {owner}, without passwords" in again.err
    assert asked(looks, owner) == [(True, "owns")]
    assert shop.ask("restore.status").code == 0
    for (aside,) in asked("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", f"{name}_aside_"):
        databases.drop(filled.with_database("postgres"), str(aside))
    run(filled, "REASSIGN OWNED BY %I TO CURRENT_USER", owner)
    run(filled, "DROP ROLE %I", owner)


# What speaks against a backup ----------------------------------------------------------------------------------------


def test_a_dry_run_of_a_backup_that_failed_is_red_and_its_plan_says_why(
    shop: Project, filled: Target, tmp_path: Path
) -> None:
    taken = take(filled, tmp_path)
    record(taken.path.parent, taken.manifest, level="restore", verdict="failed", details=("a row is gone",))
    ended = shop.ask("-R", "restore", "--latest")
    assert (ended.code, "its verification FAILED at level restore" in ended.out) == (3, True), ended
    assert "a row is gone" in ended.out
    in_place = shop.ask("-R", "restore", "--latest", "--in-place", "--accept=rights")
    assert (in_place.code, "its verification FAILED at level restore" in in_place.out) == (3, True), in_place
    assert f"the verification of {taken.id} FAILED" in in_place.err
    assert "hint: Choose another backup" in ended.err


def test_a_backup_with_warnings_is_marked_in_the_lists(shop: Project, filled: Target, tmp_path: Path) -> None:
    take(filled, tmp_path)
    done(filled, "DELETE FROM public.deck")
    take(filled, tmp_path)
    rows = shop.ask("backup.list").out.splitlines()
    assert (rows[1].endswith("3 WARNINGS"), rows[2].endswith("1 WARNING")) == (True, True)
    assert "3 WARNINGS" in shop.ask("restore", "--list").out


def test_the_prompt_shows_the_largest_loss_and_the_times(
    shop: Project, filled: Target, tmp_path: Path
) -> None:
    done(filled, "CREATE TABLE public.review AS SELECT generate_series(1, 300) AS id")
    for number in range(9):
        done(filled, f"CREATE TABLE public.t{number} AS SELECT generate_series(1, 5) AS id")
    take(filled, tmp_path)
    done(filled, "DELETE FROM public.review WHERE id > 200", *(f"DELETE FROM public.t{n}" for n in range(9)))
    take(filled, tmp_path)
    lines = shop.ask("restore", "--list").out.splitlines()
    assert re.match(r"  polyladder_\S+  20\d\d-\d\d-\d\d \d\d:\d\d:\d\dZ, (just now|\d+ min ago), ", lines[0])
    assert lines[1] == "      public.review fell by 100 (300 → 200 rows)"
    assert len([line for line in lines if "emptied by 5" in line]) == 9


# No backup at all ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_there", [False, True], ids=["no folder", "an empty folder"])
def test_no_backup_at_all_is_red_everywhere_and_nobody_is_told_to_save_the_damage(
    is_there: bool, filled: Target, tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    if is_there:
        folder.mkdir()
    shop = project(tmp_path / "project", DATABASE_URL=url(filled), BACKUP_DIR=str(folder))
    for words, code in (
        (("backup.list",), 3),
        (("backup.list", "--changes"), 3),
        (("backup.list", "--json"), 3),
        (("restore", "--list"), 3),
        (("restore", "--list", "--json"), 3),
        (("restore", "--latest", "--force"), 1),
        (("restore", "--latest", "--dry"), 1),
        (("doctor",), 3),
    ):
        ended = shop.ask(*words)
        assert (ended.code, str(folder) in ended.err) == (code, True), (words, ended)
        assert ("is not there" in ended.err) is not is_there
        assert "invoke restore --backup=./FILE.sql.gz" in ended.err
        assert "invoke restore.status" in ended.err
        if words == ("doctor",):
            assert "If it never was backed up, run `invoke backup`. If it was: look elsewhere" in ended.err
            continue
        assert "`invoke backup`" not in ended.err
        assert json.loads(ended.out) == [] if "--json" in words else ended.out == ""


def test_backups_without_their_data_are_not_taken_for_backups(tmp_path: Path) -> None:
    made = put(tmp_path)
    (tmp_path / made.file).unlink()
    shop = project(tmp_path / "project", BACKUP_DIR=str(tmp_path))
    for words in (("backup.list",), ("restore", "--list")):
        ended = shop.ask(*words)
        assert (ended.code, "1 are listed and none is complete" in ended.err) == (3, True), ended
        assert "its data file is missing" in ended.out


@pytest.mark.parametrize(
    "words", [("backup",), ("restore", "--latest"), ("restore.status",), ("restore.undo",)]
)
def test_where_database_url_is_missing_the_site_that_was_meant_is_named(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    shop = project(tmp_path / "project", BACKUP_DIR=str(tmp_path))
    assert "DATABASE_URL is not set for site production" in shop.ask(*words).err
    assert "DATABASE_URL is not set for site staging" in shop.ask(*words, "--site=staging").err
