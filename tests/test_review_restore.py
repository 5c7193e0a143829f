"""What a second look at restores found on a real server: what others left, other clocks, other roles, other notes."""

# ruff: noqa: F811 - fixtures of another file

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops import (
    backups,
    catalog,
    extraction,
    overwriting,
    picking,
    replacement,
    setaside,
    verification,
)
from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.postgres import databases, leftovers, locks, marks, properties, session, takeover
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.postgres.proof import differences
from polyladder_ops.records import Record, append
from polyladder_ops.restore import undo
from polyladder_ops.settling import settled
from tests.conftest import numbers, run
from tests.forging import dump_of, forged
from tests.test_setaside import Place, place, restored, taken  # noqa: F401, TC001 - fixtures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.sandbox.server import Server


def login(server: Server, name: str, **changes: str) -> Target:
    return Target.of(**{**server.target().parameters, "user": name, "password": "x", **changes})


@pytest.fixture
def poor(server: Server) -> Iterator[Target]:
    """A role that may make databases, and nothing else."""
    name = f"review_{next(numbers)}"
    run(server.target(), "CREATE ROLE %I LOGIN CREATEDB PASSWORD 'x'", name)
    yield login(server, name)
    run(server.target(), "DROP ROLE %I", name)


# Half-made copies -----------------------------------------------------------------------------------------------------


def test_a_copy_that_lives_is_seen_from_every_database_of_the_server(server: Server) -> None:
    """Advisory locks belong to one database, and not every role's maintenance database is the same one."""
    name = databases.temporary_name("beside")
    with databases.locked(server.target("template1"), name):
        run(server.target(), "CREATE DATABASE %I TEMPLATE template0", name)
        with closing(session.connect(server.target())) as connection:
            assert databases.abandoned(connection) == []
        assert databases.drop_abandoned(server.target()) == []
    _drop(server, name)


def test_what_another_role_left_does_not_block_a_restore(server: Server, poor: Target) -> None:
    name = databases.temporary_name("beside")
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0", name)
    try:
        with locks.exclusive(poor, "shop", doing="restore") as connection:
            assert leftovers.settle(connection, poor, "shop") == ()
            assert [one.database for one in leftovers.find(connection, "shop")] == [name]
    finally:
        _drop(server, name)


def _drop(server: Server, name: str) -> None:
    """A session's locks go with its server process, a moment after the session."""
    deadline = time.monotonic() + 5
    while databases.drop_abandoned(server.target()) != [name]:
        assert time.monotonic() < deadline


# Notes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["aside", "fenced"])
def test_a_note_that_came_with_another_databases_dump_is_none(kind: str, restored: Place) -> None:
    """`pg_dump -C` carries comments: what it was restored to is somebody's database and nothing of ours."""
    (aside,) = restored.asides()
    other, server = f"copy_{next(numbers)}", restored.live.with_database("postgres")
    with closing(session.connect(server)) as connection:
        (mark,) = [m.mark for m in marks.find(connection) if m.name == aside]
        run(server, "CREATE DATABASE %I TEMPLATE template0", other)
        text = mark.model_copy(
            update={"kind": kind, "at": mark.at + timedelta(days=1), "was_open": False}
        ).text
        connection.execute(marks.comment(other, text))
    assert setaside.status(restored.live).leftovers == ()
    assert restored.asides() == [aside]
    assert setaside.abort(restored.live) == ()
    assert restored.opened(other)
    restored.undo()
    assert restored.decks() == 520


# The way back ---------------------------------------------------------------------------------------------------------


def test_who_may_not_take_the_mark_off_is_told_whose_it_is(
    restored: Place, server: Server, poor: Target
) -> None:
    with pytest.raises(Refused) as caught:
        undo.undo(
            poor.with_database(restored.live.database), "", site=restored.site, accept=frozenset(), say=restored.said.append, confirm=lambda _: None
        )  # fmt: skip
    assert caught.value.message.endswith(" was set aside by the role postgres")
    assert caught.value.hint == "Do it as postgres: set DATABASE_URL so."
    assert restored.decks() == 500


def test_a_switch_that_failed_is_not_told_as_made_though_neither_database_is_there(server: Server) -> None:
    with (
        locks.exclusive(server.target(), "nowhere", doing="restore") as connection,
        pytest.raises(OpsError, match="left as it was"),
        settled(connection, server.target(), "nowhere", None),
    ):
        connection.execute("ALTER DATABASE nowhere_copy RENAME TO nowhere")


# What is dropped ------------------------------------------------------------------------------------------------------


def test_a_backup_of_what_was_live_is_none_of_what_was_set_aside_though_clocks_differ(place: Place) -> None:
    """An overwriting restore leaves one at the same site, of the same database, by the server's clock."""
    before = setaside.back_up(place.live, place.site, backups.Options(new_source=True))
    place.tell("INSERT INTO public.deck (title) VALUES ('late')")
    place.restore()
    (aside,) = place.asides()
    with closing(session.connect(place.live.with_database("postgres"))) as connection:
        (mark,) = [m.mark for m in marks.find(connection) if m.name == aside]
        early = mark.model_copy(update={"at": mark.at - timedelta(hours=1)})
        connection.execute(marks.put(aside, early))
    kept = place.discard().kept
    assert kept is not None
    assert kept.id != before.id
    assert kept.manifest.rows == 503


def test_the_servers_templates_are_never_replaced(place: Place) -> None:
    for name in ("template0", "template1"):
        options = replacement.Options(name=name)
        with pytest.raises(Refused, match=f"{name} is a database of the server itself"):
            replacement.replace(
                place.live, place.backup, [], options, say=place.said.append, confirm=place.asked.append
            )
        with pytest.raises(Refused, match=f"{name} is a database of the server itself"):
            replacement.preview(place.live, place.backup, options)


# What is accepted -----------------------------------------------------------------------------------------------------


def test_an_accepted_property_of_a_database_lets_no_other_through(database: Target) -> None:
    with closing(session.connect(database)) as connection:
        was = properties.read(connection)
    wanted = replace(
        was, owner="x", comment="y", connection_limit=3, tablespace="fast", grants=(), settings=(("", "work_mem", "1MB"), ("app", "work_mem", "1MB"))
    )  # fmt: skip
    items = [
        differences.Difference("database", database.database, why, part).item
        for part, why in properties.differences(wanted, was)
    ]
    assert len(set(items)) == len(items) > 6, items
    assert {"database:owner", "database:comment", "database:connection limit", "database:tablespace"} < set(
        items
    )
    assert "database:setting work_mem" in items
    assert "database:setting work_mem of role app" in items
    assert not any(database.database in item for item in items)


# In place -------------------------------------------------------------------------------------------------------------


def test_what_is_written_while_the_old_contents_are_backed_up_is_in_that_backup_or_refused(
    place: Place, monkeypatch: Any
) -> None:
    """Else it would be nowhere: not in the backup, and dropped with the rest."""
    take, seen = backups.take, []

    def slowly(target: Target, *args: Any, **kwargs: Any) -> Any:
        made = take(target, *args, **kwargs)
        with closing(session.connect(target, settings={"lock_timeout": "300ms"})) as app:
            assert app.execute("SELECT count(*) FROM public.deck").fetchone() == (500,)
            try:
                app.execute("INSERT INTO public.deck (title) VALUES ('meanwhile')")
            except Exception as error:
                seen.append(type(error).__name__)
        return made

    def begin(name: str) -> Callable[[int], None]:
        place.said.append(name)
        return lambda _size: None

    monkeypatch.setattr(backups, "take", slowly)
    done = overwriting.overwrite(
        place.live,
        place.backup,
        [],
        replacement.Options(name=place.live.database, progress=begin),
        site=place.site,
        before=backups.Options(new_source=True),
        say=place.said.append,
        confirm=place.asked.append,
    )
    assert seen == ["LockNotAvailable"]
    assert [sentence.split(" ")[0] for sentence in place.said] == ["kept", "restore"]
    assert done.kept is not None
    assert [one.verified for one in place.kept()] == [True]
    assert place.decks() == 500


def test_in_place_waits_for_the_disk_before_it_says_that_it_is_done(database: Target) -> None:
    """The tests' server has synchronous_commit = off, as people have it: a crash would bring the old rows back."""
    with (
        closing(session.connect(database)) as connection,
        takeover.transaction(connection, database),
    ):
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)


# Single tables --------------------------------------------------------------------------------------------------------


def test_what_pg_dump_never_writes_is_not_extracted_either(place: Place, tmp_path: Path) -> None:
    """It would run, or stand in the file, before the bytes have been compared with the manifest."""
    dumped = dump_of(place.backup)
    at = dumped.index(b");\n", dumped.index(b"CREATE TABLE public.deck ("))
    hostile = dumped[: at + 3] + b"ALTER SYSTEM SET work_mem = '8MB';\n" + dumped[at + 3 :]
    backup = forged(place.backup, tmp_path / "forged", hostile)
    wanted = picking.wanted(backup.manifest, ["deck"])
    name, path = f"rescue_{next(numbers)}", tmp_path / "deck.sql"
    with pytest.raises(OpsError, match="does not write"):
        extraction.into(place.live.with_database("postgres"), name, backup, wanted, [])
    with pytest.raises(OpsError, match="does not write"):
        extraction.to_file(path, backup, wanted, [])
    assert (place.opened(name), path.exists()) == (None, False)


# Verifications --------------------------------------------------------------------------------------------------------


def test_a_verification_by_a_clock_that_is_behind_counts_all_the_same(place: Place) -> None:
    """Else a backup that fails today goes on counting as verified, and better ones are pruned for it."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    ahead = Record(
        kind="verify",
        backup=place.backup.id,
        sha256=place.backup.manifest.sha256,
        at=tomorrow,
        by="x",
        level="stored",
        verdict="passed",
    )
    append(place.backup.path, ahead)
    data = bytearray(place.backup.path.read_bytes())
    data[len(data) // 2] ^= 1
    place.backup.path.write_bytes(data)
    backup = catalog.open_backup(place.backup.path)
    assert backup.verified
    assert not verification.verify_stored(backup, []).passed
    assert not catalog.open_backup(place.backup.path).verified
