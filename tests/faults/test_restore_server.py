"""What a server and a dump can do to a restore: full disks, damage, refusals, obstacles, hostile bytes, odd names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops import backups, portable, replacement, setaside, verification
from polyladder_ops.errors import OpsError, Refused, UsageError
from polyladder_ops.postgres import databases, marks, switch
from polyladder_ops.postgres.lexer import DumpError
from polyladder_ops.postgres.refusals import LoadError
from polyladder_ops.postgres.session import connect
from polyladder_ops.restore import discard as discarding
from polyladder_ops.restore import undo, watch
from polyladder_ops.sandbox import server as servers
from tests.faults.places import CANARY, Place, ask, login, say, with_other
from tests.faults.restores import COMMENT, Stage, stage
from tests.faults.wire import Strike, wire
from tests.forging import dump_of, forged, lying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.replacement import Plan


@pytest.fixture(scope="module")
def shared_stage(role: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("server")
    with stage(
        Place(role, folder / "backups", folder / "state" / "runs"), name=f"live_server_{os.getpid()}"
    ) as made:
        yield made


@pytest.fixture
def on_stage(shared_stage: Stage) -> Iterator[Stage]:
    """A live database, and a backup of what it was; a test may put another backup there."""
    shared_stage.set_up()
    backup = shared_stage.backup
    yield shared_stage
    shared_stage.backup = backup


# What the dump holds --------------------------------------------------------------------------------------------------


def with_dump(on_stage: Stage, folder: Path, change: Callable[[bytes], bytes]) -> Backup:
    before = dump_of(on_stage.backup)
    assert change(before) != before
    return forged(on_stage.backup, folder / "forged", change(before))


def first_index(statement: bytes) -> Callable[[bytes], bytes]:
    """Return what puts a statement before the first index."""
    return lambda dump: dump.replace(b"CREATE INDEX", statement + b"\nCREATE INDEX", 1)


HOSTILE = {
    "a shell command": rb"\! touch CANARY",
    "a command in a setting": rb"\set x `touch CANARY`",
    "another database": rb"\connect postgres",
    "a program on the server": b"COPY public.which TO PROGRAM 'touch CANARY';",
    "a program's output": b"COPY public.which FROM PROGRAM 'touch CANARY';",
    "a file of the server": b"COPY public.which FROM '/etc/passwd';",
    "a file that is read": b"SELECT pg_catalog.pg_read_file('/etc/passwd');",
    "a file that is written": b"SELECT pg_catalog.lo_export(16400, 'CANARY');",
    "the server's settings": b"ALTER SYSTEM SET archive_command = 'touch CANARY';",
    "code": b"DO $$BEGIN PERFORM pg_terminate_backend(pid) FROM pg_stat_activity; END$$;",
    "the live database": b"ALTER DATABASE live RENAME TO gone;",
    "a note of ours": b"COMMENT ON DATABASE live IS 'polyladder-ops {}';",
    "a role": b"CREATE ROLE intruder SUPERUSER LOGIN;",
    "a password": b"ALTER ROLE postgres PASSWORD 'x';",
    "the end of a transaction": b"ROLLBACK;",
    "a value that runs": b"INSERT INTO public.which VALUES (pg_read_file('/etc/passwd'));",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_dump_is_refused_before_anything_of_it_is_done(
    what: str, on_stage: Stage, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    statement = HOSTILE[what].replace(b"CANARY", str(canary).encode())
    on_stage.backup = with_dump(on_stage, tmp_path, first_index(statement))
    verdict = verification.verify_stored(on_stage.backup, [])
    assert verdict.verdict == "failed"
    assert "the dump holds a" in verdict.reasons[0]
    on_stage.fails(DumpError)  # even if nobody had verified it
    assert not canary.exists()


def test_a_hostile_dump_is_no_verified_backup_for_the_task(on_stage: Stage, tmp_path: Path) -> None:
    made = with_dump(on_stage, tmp_path, first_index(b"ALTER SYSTEM SET archive_command = 'x';"))
    ended = on_stage.place.invoke("restore", f"--backup={made.path}", "--force")
    assert ended.code == 3, ended.said
    assert "so nothing was touched" in ended.err
    on_stage.is_untouched()


def test_a_commit_among_the_statements_changes_nothing_but_the_copy(on_stage: Stage, tmp_path: Path) -> None:
    on_stage.backup = with_dump(
        on_stage,
        tmp_path,
        first_index(b"COMMIT;\nCREATE INDEX on_nothing ON public.nowhere USING btree (x);"),
    )
    on_stage.fails(LoadError)


def test_a_statement_that_fails_is_named_and_can_be_let_through(on_stage: Stage, tmp_path: Path) -> None:
    on_stage.backup = with_dump(on_stage, tmp_path, lambda dump: dump.replace(b"(body)", b"(nobody)"))
    error = on_stage.fails(LoadError)
    assert "CREATE INDEX note_body_idx" in error.detail
    index = f"index:{'public.note_body_idx'}"
    ended = on_stage.place.invoke(
        "restore",
        f"--backup={on_stage.backup.path}",
        "--force",
        f"--accept={error.item}",
        f"--accept={index}",
    )
    assert ended.code == 3, ended.said
    assert "was restored, but not all of it is proved" in ended.err
    assert error.item in ended.err
    on_stage.is_restored()


def test_a_connection_that_dies_among_the_rows_leaves_the_live_database(on_stage: Stage) -> None:
    def cut(_application: str, text: str) -> Strike | None:
        return Strike("sent") if "COPY public.note" in text else None

    with wire(on_stage.target.port, cut) as by:
        error = on_stage.fails(OpsError, with_other(on_stage.target, port=by.port))
    assert "the server failed while it loaded the backup" in error.message
    on_stage.replace()
    on_stage.is_restored()


def test_a_session_that_an_administrator_ends_while_it_loads_leaves_the_live_database(
    on_stage: Stage,
) -> None:
    def end(_size: int) -> None:
        say(
            on_stage.server,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'polyladder_beside_%'",
        )

    on_stage.fails(OpsError, progress=lambda name: end if name == "load" else lambda _size: None)


# What the server lacks ------------------------------------------------------------------------------------------------


def test_an_extension_that_is_missing_stands_in_the_way(on_stage: Stage, tmp_path: Path) -> None:
    def lie(fields: dict[str, Any]) -> None:
        fields["extensions"].append({"name": "postgis", "version": "3.5", "schema": "public"})

    on_stage.backup = lying(on_stage.backup, tmp_path / "lying", lie)
    error = on_stage.fails(Refused)
    assert "extension:postgis: version 3.5 is not available on the server" in error.detail
    assert "--accept" not in error.hint


def test_a_role_that_is_missing_can_be_made(on_stage: Stage, tmp_path: Path) -> None:
    gone = login(on_stage.server).user
    origin = on_stage.server.with_database(on_stage.origin)
    say(origin, "GRANT SELECT ON public.note TO {}", gone)
    say(on_stage.server, "ALTER DATABASE {} ALLOW_CONNECTIONS true", on_stage.origin)
    on_stage.backup = Place(origin, tmp_path / "backups", tmp_path / "runs").take(origin)
    say(origin, "DROP OWNED BY {}; DROP ROLE {}", gone, gone)
    error = on_stage.fails(Refused)
    assert f"role:{gone}: the role is missing" in error.detail
    assert "--create-roles" in error.detail
    result = on_stage.replace(create_roles=True)
    assert result.roles == (gone,)
    on_stage.holds(on_stage.backup.manifest.contents)
    on_stage.set_up()
    say(on_stage.server, "DROP ROLE {}", gone)


# Databases that are missing, and names --------------------------------------------------------------------------------


def test_where_no_live_database_is_one_is_made(on_stage: Stage) -> None:
    on_stage.clear()
    ended = on_stage.place.end_of(on_stage.start())
    assert ended.code == 0, ended.said
    assert "psql -d postgres" not in ended.err  # there is nothing to go back to
    on_stage.is_clean(asides=0)
    on_stage.holds(on_stage.backup.manifest.contents)


ODD = 'Ümlaut \'n "quote" %s {} $1 \\ ; -- '
NAMES = {"63 bytes of umlauts": "ü" * 31 + "x", "quotes and more": ODD}


@pytest.mark.parametrize("what", NAMES)
def test_any_name_goes_there_and_back(what: str, role: Target, tmp_path: Path) -> None:
    with stage(Place(role, tmp_path / "backups", tmp_path / "state" / "runs"), name=NAMES[what]) as on_stage:
        on_stage.set_up()
        ended = on_stage.place.end_of(on_stage.start())
        assert ended.code == 0, ended.said
        aside = on_stage.is_restored()
        assert len(aside.name.encode()) <= marks.NAME_BYTES
        assert on_stage.place.invoke("restore.undo", "--force").code == 0
        on_stage.holds(on_stage.before)
        (aside,) = setaside.status(on_stage.target).asides
        ended = on_stage.place.invoke(
            "restore.discard", f"--database={aside.name}", "--without-backup", "--force"
        )
        assert ended.code == 0, ended.said
        on_stage.is_untouched()


def test_a_name_that_the_server_would_cut_is_wrong_usage(on_stage: Stage) -> None:
    error = on_stage.fails(UsageError, name="ü" * 32, replaces=False)
    assert "64 bytes" in error.detail
    with pytest.raises(UsageError):
        replacement.preview(on_stage.target, on_stage.backup, replacement.Options("x" * 64))


# What hangs on the live database, and damage in it --------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, servers.Server]]:
    """A stage on a server of its own, with logical replication."""
    from tests.faults.conftest import own_server

    folder = tmp_path_factory.mktemp("own")
    with own_server(wal_level="logical", autovacuum="off", synchronous_commit="off") as own:
        place = Place(login(own.target(), "SUPERUSER"), folder / "backups", folder / "state" / "runs")
        with stage(place, name="live") as made:
            yield made, own
            databases.drop(made.server, "live")


def test_slots_publications_and_subscriptions_stand_in_the_way_until_each_is_accepted(
    own_stage: tuple[Stage, servers.Server],
) -> None:
    on_stage, _own = own_stage
    on_stage.set_up()
    say(on_stage.target, "CREATE PUBLICATION news FOR TABLE note")
    say(
        on_stage.target,
        "CREATE SUBSCRIPTION other CONNECTION 'host=nowhere.invalid password=hush' PUBLICATION x"
        " WITH (connect = false, slot_name = NONE)",
    )
    ask(on_stage.target, "SELECT pg_create_logical_replication_slot('reporting', 'pgoutput')")
    error = on_stage.fails(Refused)
    items = ("slot:reporting", "subscription:other", "publication:news")
    assert all(f"{item}: " in error.detail for item in items)
    error = on_stage.fails(Refused, accept=items[:2])
    assert items[2] in error.detail
    result = on_stage.replace(accept=items)
    assert [item for item in items if not any(said.startswith(item) for said in result.accepted)] == []
    aside = on_stage.is_restored()
    discard(on_stage, without_backup=True)
    assert aside.name not in names_of(on_stage)
    assert setaside.status(on_stage.target).asides == ()


def names_of(on_stage: Stage) -> frozenset[str]:
    connection = on_stage.asking
    return switch.names(connection)


def discard(on_stage: Stage, *, without_backup: bool) -> None:
    discarding.discard(
        on_stage.target,
        "",
        site=on_stage.site,
        options=backups.Options(new_source=True),
        without_backup=without_backup,
        say=lambda _sentence: None,
        confirm=lambda _aside: None,
    )


def test_a_damaged_live_database_does_not_block_its_own_rescue(
    own_stage: tuple[Stage, servers.Server],
) -> None:
    on_stage, own = own_stage
    on_stage.set_up()
    path = ask(on_stage.target, "SELECT pg_relation_filepath('public.note')")
    ask(on_stage.target, "SELECT pg_catalog.pg_relation_size('public.note')")
    say(on_stage.target, "CHECKPOINT")
    own.stop()
    with (own._home / "data" / path).open("r+b") as file:
        file.seek(8192)
        file.write(b"\xde\xad\xbe\xef" * 64)
    own.start()
    plans: list[Plan] = []
    on_stage.replace(confirm=plans.append)
    assert "not read from the live database: its newest row: public.note: invalid page" in " ".join(
        plans[0].unknowns
    )
    on_stage.is_clean(asides=1)
    on_stage.holds(on_stage.backup.manifest.contents)
    with pytest.raises(OpsError, match="pg_dump") as caught:
        discard(on_stage, without_backup=False)
    on_stage.place.keeps_secret(str(caught.value))
    on_stage.is_clean(asides=1)
    (aside,) = setaside.status(on_stage.target).asides
    assert (aside.oid, aside.is_open) == (on_stage.old, False)
    undone(on_stage)  # what can be read of it is there
    assert ask(on_stage.target, "SELECT answer FROM public.which") == "live"
    undone(on_stage)
    discard(on_stage, without_backup=True)
    on_stage.is_clean(asides=0)


def test_a_server_that_crashes_right_after_the_switch_comes_back_switched(
    own_stage: tuple[Stage, servers.Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_stage, own = own_stage  # it does not wait for its disk at COMMIT
    on_stage.set_up()
    exchange = switch.exchange

    def crash(*arguments: Any) -> Any:
        switched = exchange(*arguments)
        code, said = own._run("pg_ctl", "stop", "-m", "immediate", "-D", "data", timeout_s=30)
        assert code == 0, said
        return switched

    monkeypatch.setattr(switch, "exchange", crash)
    with pytest.raises(OpsError, match="could not connect") as caught:
        on_stage.replace()
    assert "The switch itself was made." in caught.value.detail
    own.start()
    on_stage.is_restored()


def undone(on_stage: Stage) -> None:
    undo.undo(
        on_stage.target,
        "",
        site=on_stage.site,
        accept=frozenset(),
        say=lambda _sentence: None,
        confirm=lambda _shown: None,
    )


def test_the_backup_of_a_set_aside_database_brings_it_back_under_any_name(on_stage: Stage) -> None:
    on_stage.replace()
    discard(on_stage, without_backup=False)
    from polyladder_ops import catalog

    kept = catalog.scan(on_stage.place.folder, setaside.aside_site(on_stage.site.name)).backups[0]
    assert kept.verified
    on_stage.backup, backup = kept, on_stage.backup
    name = f"{on_stage.target.database}_again"
    on_stage.replace(name=name, replaces=False)
    on_stage.holds(on_stage.before, name)
    connection = on_stage.asking
    assert switch.comment_of(connection, name) == COMMENT
    assert [m for m in marks.find(connection) if name in (m.name, m.mark.live)] == []
    on_stage.backup = backup
    databases.drop(on_stage.server, name)


# A disk that fills up -------------------------------------------------------------------------------------------------

_DISK_BYTES = 260_000_000


@contextmanager
def disk(size_bytes: int) -> Iterator[Path]:
    """Within the block a folder on a file system of its own; raises OSError if we may not mount one."""
    folder = Path(tempfile.mkdtemp(prefix="plt-"))
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
    )
    if done.returncode:
        folder.rmdir()
        raise OSError(done.stderr.decode())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


@pytest.fixture(scope="module")
def small(
    need: Callable[[object, str], None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Stage, servers.Server, Path]]:
    """A stage on a server whose disk is small."""
    if sys.platform != "linux" or not portable.is_root():
        pytest.skip("only root on Linux may mount a small disk")
    place_folder = tmp_path_factory.mktemp("small")
    try:
        mounted = disk(_DISK_BYTES)
        folder = mounted.__enter__()
    except OSError as error:
        need(None, f"can't mount a small disk: {error}")
    home = folder / "home"
    home.mkdir()
    own = servers.create(
        home, settings={"fsync": "off", "autovacuum": "off", "max_wal_size": "64MB", "min_wal_size": "32MB"}
    )
    place = Place(login(own.target(), "SUPERUSER"), place_folder / "backups", place_folder / "state" / "runs")
    with stage(place, name="live") as made:
        yield made, own, folder
    own.remove()
    mounted.__exit__(None, None, None)


@contextmanager
def ballast(folder: Path, *, leaving: int) -> Iterator[Path]:
    """Within the block nothing but so many bytes is left on the disk."""
    path = folder / "ballast"
    try:
        grow(path, leaving=leaving)
        yield path
    finally:
        path.unlink(missing_ok=True)


def grow(path: Path, *, leaving: int) -> None:
    with path.open("ab") as file:
        while (free := shutil.disk_usage(path.parent).free - leaving) > 0:
            file.write(bytes(min(free, 1 << 20)))
            file.flush()


def test_a_disk_without_room_for_a_second_copy_stands_in_the_way(
    small: tuple[Stage, servers.Server, Path],
) -> None:
    on_stage, _own, folder = small
    on_stage.set_up()
    with ballast(folder, leaving=30_000_000):
        error = on_stage.fails(Refused)
    assert "space: a second copy needs up to" in error.detail
    assert "--accept=space" in error.hint


def test_a_disk_that_fills_up_while_a_copy_is_loaded_stops_the_load(
    small: tuple[Stage, servers.Server, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_stage, _own, folder = small
    on_stage.set_up()
    monkeypatch.setattr(watch, "_BEAT_S", 0.0)
    with ballast(folder, leaving=shutil.disk_usage(folder).free - 1) as path:

        def fill(_size: int) -> None:
            grow(path, leaving=_DISK_BYTES // 10)

        error = on_stage.fails(OpsError, progress=lambda name: fill if name == "load" else lambda _size: None)
    assert "the server's disk is 9" in error.message
    assert "the copy was dropped" in error.detail


def test_a_disk_that_is_full_costs_the_copy_and_nothing_else(
    small: tuple[Stage, servers.Server, Path],
) -> None:
    on_stage, own, folder = small
    on_stage.set_up()
    with ballast(folder, leaving=shutil.disk_usage(folder).free - 1) as path:

        def fill(name: str) -> Callable[[int], None]:
            if name == "load":
                grow(path, leaving=0)
            return lambda _size: None

        with pytest.raises(OpsError, match="server") as caught:
            on_stage.replace(accept=("space",), progress=fill)
        on_stage.place.keeps_secret(str(caught.value))
    on_stage.place.wait_for(lambda: answers(own))
    on_stage.abort()
    on_stage.is_untouched()
    on_stage.replace()
    on_stage.is_restored()


def answers(own: servers.Server) -> bool:
    """Whether the server takes sessions, perhaps again: without room for its log it goes down by itself."""
    if not own.is_running():
        own.start()
    with suppress(OpsError), closing(connect(own.target())):
        return True
    return False


# Secrets --------------------------------------------------------------------------------------------------------------


def test_nothing_that_a_restore_says_or_notes_holds_a_secret(on_stage: Stage) -> None:
    ended = on_stage.place.end_of(on_stage.start(*on_stage.arguments, "--json"))
    assert ended.code == 0, ended.said
    assert json.loads(ended.out)["database"] == on_stage.target.database
    connection = on_stage.asking
    notes = [m.mark.text for m in on_stage.marked(connection)]
    assert notes
    on_stage.place.keeps_secret(" ".join(notes))
    for task in (("restore.status",), ("restore.undo", "--force"), ("restore.abort",), ("doctor",)):
        on_stage.place.invoke(*task)  # looks itself
    wrong = on_stage.place.url().replace(CANARY, f"{CANARY}x")
    ended = on_stage.place.invoke(*on_stage.arguments, DATABASE_URL=wrong)
    assert ended.code == 1
    assert "password authentication failed" in ended.err
