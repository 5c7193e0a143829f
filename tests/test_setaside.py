"""What restores set aside, on a real server: the way back keeps both, and nothing is dropped that no verified backup holds."""

from __future__ import annotations

import re
import shutil
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyrage
import pytest

from polyladder_ops import backups, catalog, replacement, setaside, settings
from polyladder_ops.errors import Mismatch, OpsError, Refused
from polyladder_ops.postgres import databases, locks, marks, session, switch
from polyladder_ops.postgres.locks import Busy
from polyladder_ops.postgres.since import Since
from polyladder_ops.restore import discard, undo
from polyladder_ops.site import Site
from tests.conftest import numbers, run
from tests.test_tasks import url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.postgres.switch import Switched
    from polyladder_ops.restore.discard import Discarded
    from polyladder_ops.restore.undo import Undoing
    from polyladder_ops.sandbox.server import Server

CONTENTS = """
CREATE TABLE public.pgmigrations (id serial PRIMARY KEY, name varchar(255), run_on timestamptz);
INSERT INTO public.pgmigrations (name, run_on) VALUES ('0041_a', '2026-01-01Z'), ('0042_decks', '2026-01-02Z');
CREATE TABLE public.deck (id serial PRIMARY KEY, title text);
INSERT INTO public.deck (title) SELECT 'deck ' || n FROM generate_series(1, 500) n;
CREATE INDEX deck_title ON public.deck (title);
CREATE TABLE public.visit (at timestamptz);
"""


@dataclass
class Place:
    """A live database that was cloned from the backed-up one, its site, and what was said and asked."""

    live: Target
    site: Site
    backup: Backup
    said: list[str] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)

    def restore(self) -> Switched:
        options = replacement.Options(name=self.live.database)
        done = replacement.replace(
            self.live, self.backup, [], options, say=self.said.append, confirm=self.asked.append
        )
        return done.switched

    def undo(self, name: str = "", *accept: str) -> tuple[Switched, tuple[str, ...]]:
        return undo.undo(
            self.live, name, site=self.site, accept=frozenset(accept), say=self.said.append, confirm=self.asked.append
        )  # fmt: skip

    def discard(
        self,
        name: str = "",
        *accept: str,
        without_backup: bool = False,
        confirm: Callable[..., None] | None = None,
        **options: Any,
    ) -> Discarded:
        return discard.discard(
            self.live,
            name,
            site=self.site,
            options=backups.Options(new_source=True, **options),
            without_backup=without_backup,
            accept=frozenset(accept),
            say=self.said.append,
            confirm=confirm or (self.asked.append),
        )

    def tell(self, statement: str, name: str = "") -> list[tuple[Any, ...]]:
        with closing(session.connect(self.live.with_database(name or self.live.database))) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def decks(self, name: str = "") -> int:
        return int(self.tell("SELECT count(*) FROM public.deck", name)[0][0])

    def asides(self) -> list[str]:
        return [m.name for m in setaside.status(self.live).asides if m.mark.live == self.live.database]

    def opened(self, name: str) -> bool | None:
        rows = self.tell(f"SELECT datallowconn FROM pg_database WHERE datname = '{name}'", "postgres")
        return rows[0][0] if rows else None

    def kept(self) -> list[Backup]:
        return list(catalog.scan(self.site.folder, "production-aside").backups)


@pytest.fixture(scope="module")
def taken(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Target, Backup]]:
    """A small database, and a backup of it."""
    source = server.target("setaside_source")
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0", source.database)
    with closing(session.connect(source)) as connection:
        connection.execute(CONTENTS.encode())
    folder = tmp_path_factory.mktemp("taken")
    yield source, backups.take(source, folder / "backups", site="production", private=folder / "private")
    run(server.target(), "DROP DATABASE %I WITH (FORCE)", source.database)


@pytest.fixture
def place(server: Server, taken: tuple[Target, Backup], tmp_path: Path) -> Iterator[Place]:
    source, backup = taken
    with closing(session.connect(server.target())) as connection:
        before = switch.names(connection)
    live = server.target(f"shop_{next(numbers)}")
    run(server.target(), "CREATE DATABASE %I TEMPLATE %I", live.database, source.database)
    environ = {
        "POLYLADDER_STATE_DIR": str(tmp_path / "state"),
        "BACKUP_DIR": str(tmp_path / "backups"),
        "POLYLADDER_SCRATCH_URL": url(server.target()),
    }
    shutil.copytree(backup.path.parent, tmp_path / "backups")
    site = Site(settings.load({}, environ=environ, root=tmp_path))
    yield Place(live, site, catalog.open_backup(tmp_path / "backups" / backup.path.name))
    with closing(session.connect(server.target())) as connection:
        for name in switch.names(connection) - before:
            databases.drop(server.target(), name)


@pytest.fixture
def restored(place: Place) -> Place:
    """A live database with 520 decks was replaced by the backup with 500."""
    place.tell("INSERT INTO public.deck (title) SELECT 'late' FROM generate_series(1, 20)")
    place.restore()
    assert place.decks() == 500
    return place


# The way back --------------------------------------------------------------------------------------------------------


def test_an_undo_brings_the_old_database_back_and_keeps_the_restored_one_with_what_was_written(
    restored: Place,
) -> None:
    (aside,) = restored.asides()
    restored.tell("INSERT INTO public.deck (title) VALUES ('after the restore')")
    restored.tell("CREATE TABLE public.made_since (x int)")
    switched, accepted = restored.undo()
    assert accepted == ()
    assert restored.decks() == 520
    shown: Undoing = restored.asked[-1]
    assert (shown.aside.name, shown.migration_head) == (aside, "0042_decks")
    assert [str(one) for one in shown.since.changes] == [
        "table public.deck: rows since, kept or rolled back: 1 inserted, 0 updated, 0 deleted",
        "table public.made_since: it was made since",
        "sequence public.deck_id_seq: it stands at 501 (called) instead of 500 (called)",
    ]
    assert restored.asides() == [switched.aside]
    assert restored.opened(switched.aside) is False
    again, _ = restored.undo()
    assert restored.decks() == 501
    assert restored.asides() == [again.aside]
    assert restored.asked[-1].since == Since(unsure="it was not noted what it held then")


@pytest.mark.parametrize("change", ["SET work_mem = '8MB'", "RESET ALL"])
def test_what_was_written_since_is_told_though_a_setting_of_our_role_there_was_changed(
    change: str, restored: Place
) -> None:
    """The server keeps all settings of a role in a database in one row, the mark among them."""
    (aside,) = restored.asides()
    restored.tell("CREATE TABLE public.made_since (x int)")
    restored.tell("UPDATE public.deck SET title = 'paid' WHERE id < 50")
    kept = restored.tell(
        f"SELECT s.setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE d.datname = '{aside}'"
    )
    run(restored.live, f"ALTER ROLE CURRENT_USER IN DATABASE %I {change}", aside)
    if change == "RESET ALL":  # and whoever did it puts back what was there
        run(restored.live, "ALTER ROLE CURRENT_USER IN DATABASE %I SET application_name = %L", aside,
            kept[0][0][0].partition("=")[2])  # fmt: skip
    restored.undo()
    assert [str(one) for one in restored.asked[-1].since.changes] == [
        "table public.deck: rows since, kept or rolled back: 0 inserted, 49 updated, 0 deleted",
        "table public.made_since: it was made since",
    ]


def test_nothing_written_since_is_told_as_nothing(restored: Place) -> None:
    restored.undo()
    assert restored.asked[-1].since == Since()


def test_an_older_one_is_brought_back_by_its_name(restored: Place) -> None:
    (first,) = restored.asides()
    restored.tell("DELETE FROM public.deck WHERE id > 100")
    restored.restore()
    assert restored.asides()[1] == first
    restored.undo(first)
    assert restored.decks() == 520
    assert len(restored.asides()) == 2


def test_the_newest_is_told_by_the_servers_transactions_and_by_no_clock(restored: Place) -> None:
    """A clock that was wrong once, and marks that are written again since (a discard that failed), change no order."""
    (first,) = restored.asides()
    restored.tell("DELETE FROM public.deck WHERE id > 100")
    restored.restore()
    with closing(session.connect(restored.live.with_database("postgres"))) as connection:
        (found,) = (m for m in marks.find(connection) if m.name == first)
        ahead = found.mark.at + timedelta(days=400)
        wrong = found.model_copy(update={"mark": found.mark.model_copy(update={"at": ahead})})
        switch.open_to_dump(connection, wrong)
        switch.close_again(connection, wrong)
    assert restored.asides()[1:] == [first]
    # Within one second the second one is named as the first with a number behind it.
    assert not re.search(rf"{first}\b", str(setaside.status(restored.live).looking))
    restored.undo()
    assert restored.decks() == 100


def test_a_database_that_is_gone_can_not_come_back(restored: Place) -> None:
    (aside,) = restored.asides()
    with pytest.raises(OpsError, match="there is no set-aside database nonsense") as caught:
        restored.undo("nonsense")
    assert caught.value.detail == f"Set aside from {restored.live.database}: {aside}."
    databases.drop(restored.live.with_database("postgres"), aside)
    with pytest.raises(OpsError, match=f"there is no set-aside database of {restored.live.database}"):
        restored.undo()
    assert restored.decks() == 500


def test_a_database_behind_the_release_comes_back_only_if_that_is_accepted(restored: Place) -> None:
    restored.tell("INSERT INTO public.pgmigrations (name, run_on) VALUES ('0043_more', '2026-01-04Z')")
    (aside,) = restored.asides()
    with pytest.raises(Refused) as caught:
        restored.undo()
    assert caught.value.message == f"{aside} is behind the release"
    assert (
        caught.value.detail == "The live database has the migration 0043_more, that one stands at 0042_decks."
    )
    assert (restored.decks(), restored.asides(), restored.opened(aside)) == (500, [aside], False)
    _, accepted = restored.undo("", "migrations")
    assert accepted == (f"migrations: {caught.value.detail}",)
    assert restored.decks() == 520


def test_a_yes_that_is_not_given_changes_nothing(restored: Place) -> None:
    (aside,) = restored.asides()

    def no(_: object) -> None:
        raise Refused("not confirmed")

    with pytest.raises(Refused, match="not confirmed"):
        undo.undo(
            restored.live, "", site=restored.site, accept=frozenset(), say=restored.said.append, confirm=no
        )
    assert (restored.decks(), restored.asides(), restored.opened(aside)) == (500, [aside], False)


def corrupt(target: Target, table: str) -> None:
    """Write over a table's file, and let the server forget what it remembers of it."""
    with closing(session.connect(target)) as connection:
        connection.execute("CREATE EXTENSION pg_buffercache SCHEMA public")
        row = connection.execute(
            "SELECT current_setting('data_directory') || '/' || pg_relation_filepath(%s::regclass)", [table]
        ).fetchone()
        connection.execute("CHECKPOINT")
        connection.execute(
            "SELECT public.pg_buffercache_evict(bufferid) FROM public.pg_buffercache WHERE reldatabase ="
            " (SELECT oid FROM pg_database WHERE datname = current_database()) AND relfilenode = pg_relation_filenode(%s::regclass)",
            [table],
        )  # fmt: skip
        connection.execute("DROP EXTENSION pg_buffercache")
    assert row is not None
    with Path(row[0]).open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 4000)


def test_a_restored_database_that_can_not_be_read_does_not_block_its_undo(restored: Place) -> None:
    corrupt(restored.live, "public.deck")
    with pytest.raises(Exception, match="invalid page"):
        restored.decks()
    restored.undo()
    assert restored.decks() == 520


def test_if_the_live_database_was_dropped_the_one_set_aside_takes_its_place(restored: Place) -> None:
    databases.drop(restored.live.with_database("postgres"), restored.live.database)
    switched, _ = restored.undo()
    assert (switched.live, switched.aside) == (restored.live.database, "")
    assert restored.decks() == 520
    assert restored.asides() == []
    comment = restored.tell("SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()")  # fmt: skip
    assert comment == [(None,)]


# A damaged live database is rescued ----------------------------------------------------------------------------------


def test_a_live_database_with_a_corrupt_page_is_replaced_and_kept_though_no_backup_can_be_taken_of_it(
    place: Place,
) -> None:
    corrupt(place.live, "public.pgmigrations")
    switched = place.restore()
    plan = place.asked[0]
    assert [said.split(":")[1].strip() for said in plan.unknowns if "not read" in said] == [
        "its newest migration"
    ]
    assert (place.decks(), place.asides()) == (500, [switched.aside])
    with pytest.raises(OpsError):
        place.discard()
    assert (place.opened(switched.aside), place.kept()) == (False, [])
    done = place.discard(without_backup=True)
    assert (done.aside.name, done.kept) == (switched.aside, None)
    assert place.opened(switched.aside) is None


# Dropping ------------------------------------------------------------------------------------------------------------


def test_what_was_set_aside_is_dropped_after_a_verified_backup_of_it_that_is_nobodys_latest(
    restored: Place,
) -> None:
    (aside,) = restored.asides()
    done = restored.discard()
    kept = done.kept
    assert (done.aside.name, done.accepted) == (aside, ())
    assert restored.opened(aside) is None
    assert kept is not None
    (made,) = restored.kept()
    assert made.id == kept.id
    assert made.level == "restore"
    assert (made.manifest.source.database, made.manifest.rows) == (aside, 522)
    latest = catalog.scan(restored.site.folder, "production").latest
    assert latest is not None
    assert latest.id == restored.backup.id
    assert f"backing up {aside} first" in restored.said


def test_a_backup_that_does_not_verify_keeps_the_database(
    restored: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (aside,) = restored.asides()
    take = backups.take

    def damaged(*words: Any, **more: Any) -> Backup:
        made = take(*words, **more)
        data = bytearray(made.path.read_bytes())
        data[len(data) // 2] ^= 1
        made.path.write_bytes(data)
        return made

    monkeypatch.setattr(backups, "take", damaged)
    with pytest.raises(Mismatch, match="does not come back as what was dumped, so nothing was dropped"):
        restored.discard()
    assert restored.opened(aside) is False


def test_a_backup_that_would_be_encrypted_needs_a_key_that_opens_it(restored: Place, tmp_path: Path) -> None:
    (aside,) = restored.asides()
    identity = pyrage.x25519.Identity.generate()
    recipients = (str(identity.to_public()),)
    with pytest.raises(Refused, match="could not be verified here"):
        restored.discard(recipients=recipients)
    assert (restored.opened(aside), restored.kept()) == (False, [])
    key = tmp_path / "identity.txt"
    key.write_text(str(identity))
    with_key = restored.site.settings.model_copy(update={"backup_age_identity_file": key})
    restored.site = Site(with_key)
    kept = restored.discard(recipients=recipients).kept
    assert kept is not None
    assert kept.manifest.encrypted
    assert restored.opened(aside) is None


def test_a_yes_that_is_not_given_drops_nothing(restored: Place) -> None:
    (aside,) = restored.asides()

    def no(*_: object) -> None:
        raise Refused("not confirmed")

    for without in (False, True):
        with pytest.raises(Refused, match="not confirmed"):
            restored.discard(without_backup=without, confirm=no)
    assert (restored.opened(aside), restored.kept()) == (False, [])


# Cleaning up, and looking --------------------------------------------------------------------------------------------


def fence_of(connection: Connection, name: str) -> str:
    """Return the note of a version that closed the live database before a switch."""
    return switch.note_of(connection, name, "tests", "b", None).model_copy(update={"kind": "fenced"}).text


def test_abort_opens_what_a_dead_run_of_an_older_version_closed_and_says_so(place: Place) -> None:
    name = place.live.database
    with closing(session.connect(place.live.with_database("postgres"))) as connection:
        connection.execute(marks.comment(name, fence_of(connection, name)))
        switch.close(connection, name)
    assert [one.database for one in setaside.status(place.live).leftovers] == [name]
    assert setaside.abort(place.live) == (f"opened {name} again",)
    assert place.decks() == 500
    assert setaside.abort(place.live) == ()
    assert setaside.status(place.live).leftovers == ()


def test_abort_leaves_a_living_run_alone_and_names_what_another_site_has_to_settle(place: Place) -> None:
    name, server = place.live.database, place.live.with_database("postgres")
    with locks.exclusive(server, name, doing="restore"):
        with pytest.raises(Busy):
            setaside.abort(place.live)
        assert setaside.status(place.live).holder.startswith("It is restore ")
    place.restore()
    (aside,) = place.asides()
    with closing(session.connect(server)) as connection:
        (marked,) = [m for m in marks.find(connection) if m.name == aside]
        switch.open_to_dump(connection, marked)
    with pytest.raises(OpsError, match="1 leftovers are still there") as caught:
        setaside.abort(server.with_database("another"))
    assert f"{aside}: set aside, but open" in caught.value.detail
    assert setaside.abort(place.live) == (f"closed {aside} again",)
    assert place.opened(aside) is False


def test_the_status_lists_newest_first_with_time_and_size(restored: Place) -> None:
    restored.restore()
    found = [m for m in setaside.status(restored.live).asides if m.mark.live == restored.live.database]
    assert len(found) == 2
    assert found[0].mark.at > found[1].mark.at
    assert all(m.size_bytes and m.size_bytes > 5_000_000 and not m.is_open for m in found)
    assert {m.mark.backup for m in found} == {restored.backup.id}
