"""The tasks as a person runs them: real processes, their exit codes, what they print where, and what they leave."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pyrage
import pytest
from invoke.program import Program

from polyladder_ops import backups, portable
from polyladder_ops.postgres import session
from polyladder_ops.sandbox import place, seed
from polyladder_ops.sandbox import server as servers
from polyladder_ops.tasks import ns
from tests.conftest import NOBODY_AT_FLY
from tests.forging import damaged, dump_of, forged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target

ROOT = Path(__file__).parents[1]
SECRETS = ("sesame-live", "AKIASESAME", "fm2_sesame")
LIVE = {
    "DATABASE_URL": f"postgres://app:{SECRETS[0]}@127.0.0.1:1/live",
    "POLYLADDER_SCRATCH_URL": f"postgres://app:{SECRETS[0]}@127.0.0.1:1/scratch",
    "AWS_SECRET_ACCESS_KEY": SECRETS[1],
    "AWS_S3_BUCKET": "live-backups",
    "FLY_API_TOKEN": SECRETS[2],
}
IGNORED = "note: site sandbox is closed, so these are ignored: " + ", ".join(
    [*sorted([*LIVE, "FLY_CONFIG_DIR"]), ".env"]
)


@dataclass(frozen=True)
class Ended:
    """How a process ended and what it said."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Project:
    """A folder with tasks.py, an environment, and the commands that are given there."""

    root: Path
    variables: dict[str, str]

    @property
    def state(self) -> Path:
        return Path(self.variables["POLYLADDER_STATE_DIR"])

    def start(self, *argv: str, **more: str) -> subprocess.Popen[str]:
        paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
        environment = {**portable.clean_environment(), "PYTHONPATH": paths, **self.variables, **more}
        return subprocess.Popen(
            [sys.executable, "-m", "invoke", *argv],
            cwd=self.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def run(self, *argv: str, **more: str) -> Ended:
        """Run a command to its end; no secret of the environment may come out of it."""
        process = self.start(*argv, **more)
        out, err = process.communicate(timeout=120)
        assert not [secret for secret in SECRETS if secret in out + err]
        return Ended(process.returncode, out, err)

    def ask(self, *argv: str, **more: str) -> Ended:
        """Run a command in this process, which is quicker by half a second."""
        out, err, code = io.StringIO(), io.StringIO(), 0
        environment = {**portable.clean_environment(), **self.variables, **more}
        with (
            mock.patch.dict(os.environ, environment, clear=True),
            contextlib.chdir(self.root),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                Program(namespace=ns).run(["invoke", *argv])
            except SystemExit as end:
                code = int(end.code or 0)
        assert not [secret for secret in SECRETS if secret in out.getvalue() + err.getvalue()]
        return Ended(code, out.getvalue(), err.getvalue())


def project(folder: Path, **variables: str) -> Project:
    folder.mkdir(parents=True)
    (folder / "tasks.py").write_text("from polyladder_ops.tasks import ns\n")
    ours = {"POLYLADDER_STATE_DIR": str(folder / "state"), "FLY_CONFIG_DIR": NOBODY_AT_FLY}
    return Project(folder, {**ours, **variables})


# Without a server ----------------------------------------------------------------------------------------------------


def tasks() -> list[str]:
    return sorted(ns.task_names)


@pytest.mark.parametrize("name", tasks())
def test_the_help_of_a_task_has_examples_that_it_would_take(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(SystemExit):
        Program(namespace=ns).run(["invoke", "--help", name], exit=False)
    text = capsys.readouterr().out
    _, examples = text.split("Examples:", 1)
    shown = [line.strip() for line in examples.split("\nOptions:")[0].splitlines() if line.strip()]
    assert shown
    flags = {flag for argument in ns[name].get_arguments() for flag in argument.names}
    for line in shown:
        command = re.sub(r"\s+(\||\().*", "", line).split()
        called = [word for word in command[1:] if not word.startswith("-") and not word.isdigit()]
        assert command[0] == "invoke", line
        assert ns[called[0]] is ns[name], line
        given = {word[2:].split("=")[0] for word in command if word.startswith("--")}
        assert {flag.removeprefix("no-") for flag in given} <= flags, line


def test_a_sandbox_that_is_not_there_is_told_and_nothing_is_made(tmp_path: Path) -> None:
    where = project(tmp_path / "project")
    found = where.ask("sandbox.status", "--json")
    assert found.code == 3
    assert json.loads(found.out) == {
        "exists": False, "running": False, "folder": str(where.state / "sandbox" / "server"),
    }  # fmt: skip
    assert found.err.splitlines()[-1] == "hint: Start it with `invoke sandbox.up`."
    assert where.run("sandbox").code == 3
    assert where.run("sandbox.down", "--force").out == "there is no sandbox\n"
    broken = where.run("sandbox.break", "--force")
    assert (broken.code, broken.err.splitlines()[-1]) == (1, "hint: Run `invoke sandbox.up`.")
    assert not where.state.exists()


@pytest.mark.parametrize("scale", ["0", "-1", "nan", "inf", "many", "1e9"])
def test_a_size_that_is_none_is_wrong_usage(scale: str, tmp_path: Path) -> None:
    where = project(tmp_path / "project")
    found = where.ask("sandbox.up", f"--scale={scale}")
    assert found.code == 2, found
    assert not where.state.exists()


# The sandbox ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sandbox(
    tmp_path_factory: pytest.TempPathFactory, need: Callable[[object, str], None]
) -> Iterator[Project]:
    """A running sandbox, started where everything of production is exported and written into .env."""
    servers_there = shutil.which("postgres", path=str(servers.programs()))
    need(servers_there, "the embedded PostgreSQL is not installed")
    where = project(tmp_path_factory.mktemp("sandbox") / "project", **LIVE)
    (where.root / ".env").write_text(f"DATABASE_URL={LIVE['DATABASE_URL']}\nFLY_API_TOKEN={SECRETS[2]}\n")
    found = where.run("sandbox.up", "--scale=0.02")
    assert found.code == 0, found
    assert IGNORED in found.err.splitlines()
    yield where
    where.run("sandbox.down", "--force")


def server_of(where: Project) -> servers.Server:
    return servers.open_server(where.state / "sandbox" / "server")


@dataclass(frozen=True)
class Left:
    """What a server has on this machine: a process and places."""

    pid: int
    name: str
    places: tuple[Path, ...]

    def is_there(self) -> bool:
        return portable.runs(self.pid, "postgres", self.name) or any(path.exists() for path in self.places)


def left_by(server: servers.Server) -> Left:
    state, pid = place.read(server.folder), server.pid
    assert pid is not None
    places = (server.folder, Path(state.home), *([Path(state.sockets)] if state.sockets else []))
    return Left(pid, state.name, places)


def rows(where: Project) -> int:
    with session.connect(server_of(where).target(seed.DATABASE)) as connection:
        found = connection.execute("SELECT count(*) FROM learning.translation").fetchone()
    assert found is not None
    return int(found[0])


def test_the_sandbox_ignores_what_leads_to_production_and_says_so(sandbox: Project) -> None:
    for command in ("sandbox.status", "backup.list --site=sandbox", "doctor --site=sandbox"):
        found = sandbox.ask(*command.split())
        assert IGNORED in found.err.splitlines(), command
    own = server_of(sandbox).target()
    assert (own.host, own.port) != ("127.0.0.1", 1)


def test_up_twice_is_one_sandbox(sandbox: Project) -> None:
    before = (server_of(sandbox).pid, server_of(sandbox).system_identifier(), rows(sandbox))
    again = sandbox.run("sandbox.up", "--scale=5")
    assert again.code == 0
    assert "filling" not in again.err
    assert (server_of(sandbox).pid, server_of(sandbox).system_identifier(), rows(sandbox)) == before


@pytest.mark.parametrize("command", ["sandbox", "sandbox.status"])
def test_status_shows_what_runs(command: str, sandbox: Project) -> None:
    found = sandbox.run(command)
    assert found.code == 0
    assert re.search(r"^running +yes$", found.out, re.MULTILINE)
    facts = json.loads(sandbox.ask(command, "--json").out)
    assert facts["databases"].keys() >= {"polyladder", "postgres"}
    assert facts["pid"] == server_of(sandbox).pid


def test_a_sandbox_that_was_killed_comes_up_with_its_data(sandbox: Project) -> None:
    pid, before = server_of(sandbox).pid, rows(sandbox)
    assert pid is not None
    os.kill(pid, signal.Signals["SIGKILL"])
    wait_for(lambda: not server_of(sandbox).is_running())
    assert sandbox.ask("sandbox.status").code == 3
    refused = sandbox.run("backup", "--site=sandbox")
    assert (refused.code, refused.err.splitlines()[-1]) == (1, "hint: Start it with `invoke sandbox.up`.")
    assert sandbox.run("sandbox.up").code == 0
    assert rows(sandbox) == before


def test_the_way_of_a_backup_in_the_sandbox(sandbox: Project) -> None:
    drilled = sandbox.run("sandbox.drill", "--json")
    assert drilled.code == 0, drilled
    facts = json.loads(drilled.out)
    assert facts["passed"] is True
    assert [step["ok"] for step in facts["steps"]] == [True] * 6

    taken = sandbox.run("backup", "--site=sandbox", "--json")
    assert taken.code == 0, taken
    newest = json.loads(taken.out)["id"]

    found = json.loads(sandbox.ask("backup.list", "--site=sandbox", "--json").out)
    assert [row["id"] for row in found[:2]] == [newest, facts["backup"]]
    promised = {"id", "site", "database", "taken_at", "size_bytes", "sha256", "complete", "verified", "encrypted", "pinned"}  # fmt: skip
    assert all(promised <= row.keys() for row in found)
    assert [(row["verified"], row["site"], row["database"]) for row in found[:2]] == [
        (False, "sandbox", "polyladder"), (True, "sandbox", "polyladder"),
    ]  # fmt: skip

    changes = sandbox.ask("backup.list", "--site=sandbox", "--changes").out.splitlines()
    assert changes[0].startswith(newest)
    assert changes[-2:] == [changes[-2], "  the first one"]
    assert any(re.fullmatch(r"  audit\.log grew by [\d,]+ \(.* rows\)", line) for line in changes), changes
    assert any(line == "  learning.note changed (still 60 rows)" for line in changes), changes
    (*_, first) = json.loads(sandbox.ask("backup.list", "--site=sandbox", "--changes", "--json").out)
    assert first["changes"] is None

    verified = sandbox.run("verify", "--site=sandbox", "--backup=latest", "--level=restore", "--json")
    assert verified.code == 0, verified
    assert {**json.loads(verified.out), "seconds": 0} == {
        "backup": newest, "level": "restore", "verdict": "passed", "reasons": [], "seconds": 0,
    }  # fmt: skip
    assert list((sandbox.state / "scratch").iterdir()) == []
    listed = sandbox.ask("backup.list", "--site=sandbox").out.splitlines()
    at = listed[0].index("verified")
    assert listed[1][at:].split() == ["restores", "no", "no", "2", "WARNINGS"]
    assert listed[2][at:].split()[:3] == ["bytes", "no", "no"]

    shown = sandbox.ask("backup.show", "--site=sandbox", f"--backup={newest}")
    assert (shown.code, shown.out.splitlines()[0]) == (0, newest)
    assert "passed at level restore" in shown.out
    manifest = json.loads(sandbox.ask("backup.show", "--site=sandbox", "--backup=latest", "--json").out)[
        "manifest"
    ]
    assert manifest["id"] == newest


@pytest.mark.parametrize("command", ["sandbox.break", "sandbox.down"])
def test_nothing_is_destroyed_without_a_yes(command: str, sandbox: Project) -> None:
    before = rows(sandbox)
    found = sandbox.run(command)
    assert (found.code, found.out) == (4, "")
    assert found.err.splitlines()[-1] == "hint: Add --force if you mean it."
    assert rows(sandbox) == before


@pytest.mark.parametrize(
    "command",
    ["sandbox.up", "sandbox.status", "sandbox.break --force", "sandbox.drill", "sandbox.down --force"],
)
def test_a_server_that_is_not_the_one_that_was_made_is_not_touched(command: str, sandbox: Project) -> None:
    state = sandbox.state / "sandbox" / "server" / place.STATE
    recorded, before = state.read_text(), rows(sandbox)
    real = server_of(sandbox).system_identifier()
    state.write_text(recorded.replace(real, "7000000000000000001"))
    found = sandbox.run(*command.split())
    state.write_text(recorded)
    assert found.code == 4, found
    assert f"It is system {real}, the sandbox was made as 7000000000000000001." in found.err
    assert rows(sandbox) == before


def test_what_was_broken_is_seen_in_the_changes_and_gone_with_a_new_sandbox(sandbox: Project) -> None:
    sandbox.ask("backup", "--site=sandbox")
    broken = sandbox.run("sandbox.break", "--force")
    assert broken.code == 0
    assert broken.out.startswith("Dropped the table learning.translation with its 800 rows.\n")
    assert sandbox.ask("sandbox.break", "--force").code == 1
    after = sandbox.ask("backup", "--site=sandbox")
    assert after.code == 0
    assert re.search(
        r"WARNING: table learning\.translation_en fell from \d+ rows to nothing: it is gone", after.err
    )
    changes = (
        sandbox.ask("backup.list", "--site=sandbox", "--changes").out.split("polyladder_")[1].splitlines()
    )
    assert re.search(r"learning\.translation_en is gone", "\n".join(changes))
    assert any(line.startswith("  learning.review_2025_q1 fell by") for line in changes)
    drilled = sandbox.ask("sandbox.drill")
    assert (drilled.code, drilled.err.splitlines()[-1]) == (
        1, "hint: If it was broken, make it anew: `invoke sandbox.down`, then `invoke sandbox.up`.",
    )  # fmt: skip

    kept = sandbox.ask("backup.list", "--site=sandbox", "--json").out
    found = left_by(server_of(sandbox))
    assert [path for path in found.places if not path.exists()] == []
    down = sandbox.run("sandbox.down", "--force")
    assert (down.code, down.out) == (0, "the sandbox is gone\n")
    assert not found.is_there()
    assert sandbox.ask("backup.list", "--site=sandbox", "--json").out == kept

    anew = sandbox.ask("sandbox.drill", "--scale=0.02")
    assert anew.code == 0, anew
    assert anew.out.splitlines()[-1].endswith("restores to exactly what was dumped")


# verify --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taken(sample: Target, tmp_path_factory: pytest.TempPathFactory) -> Backup:
    folder = tmp_path_factory.mktemp("taken")
    return backups.take(sample, folder / "backups", site="production", private=folder / "private")


@pytest.fixture
def place_(taken: Backup, tmp_path: Path) -> Project:
    """A site production with one backup, and without a database."""
    damaged(taken, tmp_path / "backups", taken.path.read_bytes())
    return project(tmp_path / "project", BACKUP_DIR=str(tmp_path / "backups"))


def last_verdict(where: Project) -> dict[str, Any] | None:
    (found,) = json.loads(where.ask("backup.list", "--json").out)
    verdict: dict[str, Any] | None = found["verification"]
    return verdict


def url(target: Target) -> str:
    return f"postgres://{target.user}:{target.password}@{target.host}:{target.port}/{target.database}"


def test_a_damaged_backup_exits_3_and_is_listed_so(place_: Project, taken: Backup) -> None:
    file = Path(place_.variables["BACKUP_DIR"], taken.path.name)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    found = place_.run("verify", "--backup=latest", "--json")
    assert found.code == 3
    said = json.loads(found.out)
    assert (said["verdict"], said["reasons"][0]) == (
        "failed",
        "the file's sha256 is not the one in the manifest",
    )
    assert found.err.splitlines()[-1] == "hint: Choose another backup: `invoke backup.list`."
    assert last_verdict(place_) == {**(last_verdict(place_) or {}), "verdict": "failed", "level": "stored"}
    assert " FAILED " in place_.ask("backup.list").out


@pytest.mark.parametrize("level", ["stored", "restore"])
def test_without_a_key_that_fits_nothing_is_proved_and_the_exit_code_is_3(
    level: str, sample: Target, tmp_path: Path
) -> None:
    options = backups.Options(recipients=(str(pyrage.x25519.Identity.generate().to_public()),))
    backups.take(
        sample, tmp_path / "backups", site="production", private=tmp_path / "private", options=options
    )
    where = project(tmp_path / "project", BACKUP_DIR=str(tmp_path / "backups"))
    key = tmp_path / "identity.txt"
    key.write_text(str(pyrage.x25519.Identity.generate()))
    words = ("verify", "--backup=latest", f"--level={level}")
    for variables, why in (
        ({}, "no private key is named"),
        ({"BACKUP_AGE_IDENTITY_FILE": str(key)}, "none of our keys opens the backup"),
    ):
        found = where.run(*words, **variables)
        assert (found.code, f"was not looked at, since {why}" in found.out) == (3, True), found
        assert "BACKUP_AGE_IDENTITY_FILE to the file with the key" in found.err
        assert "AGE-SECRET-KEY" not in found.out + found.err
        last = last_verdict(where)
        assert last is not None
        assert (last["level"], last["verdict"]) == ("stored", "not proved")


def test_an_older_server_of_ones_own_proves_nothing_and_exits_3(
    place_: Project, older_server: Target
) -> None:
    found = place_.run(
        "verify", "--backup=latest", "--level=restore", POLYLADDER_SCRATCH_URL=url(older_server)
    )
    assert found.code == 3, found
    assert "is NOT PROVED at level restore" in found.out
    assert found.err.splitlines()[-1].startswith("hint: Install PostgreSQL 18's server")
    assert older_server.password not in found.out + found.err
    verdict = last_verdict(place_)
    assert (verdict or {})["verdict"] == "not proved"


def test_a_server_of_ones_own_proves_the_sandboxs_backup(place_: Project, server: servers.Server) -> None:
    before = session.database_sizes(server.target()).keys()
    found = place_.run(
        "verify", "--backup=latest", "--level=restore", POLYLADDER_SCRATCH_URL=url(server.target())
    )
    assert found.code == 0, found
    assert "restores to exactly what was dumped" in found.out
    assert session.database_sizes(server.target()).keys() == before


def test_a_dry_run_of_verify_does_nothing(place_: Project) -> None:
    found = place_.run("-R", "verify", "--backup=latest")
    assert (found.code, found.out.startswith("would verify polyladder_")) == (0, True)
    assert last_verdict(place_) is None


@pytest.fixture
def slow(place_: Project, taken: Backup) -> Project:
    """The same with a backup that takes its time to load."""
    folder = Path(place_.variables["BACKUP_DIR"])
    shutil.rmtree(folder)
    sleep = (
        b"CREATE TABLE public.slow (\n    a integer,\n    CONSTRAINT c CHECK (((pg_catalog.pg_sleep((60)::double precision))::text"
        b" = ''::text))\n);\nINSERT INTO public.slow VALUES (1);\n"
    )
    forged(taken, folder, dump_of(taken).replace(b"CREATE SCHEMA", sleep + b"CREATE SCHEMA", 1))
    return place_


def wait_for(reached: Callable[[], object], *, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def scratch_servers(where: Project) -> list[servers.Server]:
    """Return the scratch servers that are complete."""
    folders = [state.parent for state in (where.state / "scratch").glob(f"*/{place.STATE}")]
    return [servers.open_server(folder) for folder in folders if servers.exists(folder)]


def is_loading(target: Target) -> bool:
    """Whether a backup is being loaded on the server: it sleeps."""
    with session.connect(target) as connection:
        return bool(
            connection.execute("SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'").fetchall()
        )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal that a process can answer")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_in_the_middle_leaves_no_server_behind(name: str, slow: Project) -> None:
    process = slow.start("verify", "--backup=latest", "--level=restore")
    wait_for(lambda: scratch_servers(slow))
    (scratch,) = scratch_servers(slow)
    left = left_by(scratch)
    wait_for(lambda: is_loading(scratch.target()))
    process.send_signal(signal.Signals[name])
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err.splitlines()[-1]) == (130, f"error: interrupted by {name}")
    assert not left.is_there()
    assert last_verdict(slow) is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal that a process can answer")
def test_a_signal_in_the_middle_leaves_nothing_on_a_server_of_ones_own(
    slow: Project, server: servers.Server
) -> None:
    before = session.database_sizes(server.target()).keys()
    process = slow.start(
        "verify", "--backup=latest", "--level=restore", POLYLADDER_SCRATCH_URL=url(server.target())
    )
    wait_for(lambda: is_loading(server.target()))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert session.database_sizes(server.target()).keys() == before
    assert not is_loading(server.target())


def test_a_scratch_server_whose_run_was_killed_is_removed_by_the_next(slow: Project, taken: Backup) -> None:
    process = slow.start("verify", "--backup=latest", "--level=restore")
    wait_for(lambda: scratch_servers(slow))
    (scratch,) = scratch_servers(slow)
    wait_for(lambda: is_loading(scratch.target()))
    left = left_by(scratch)
    process.kill()
    process.communicate()
    assert left.is_there(), "a server outlives the run that made it"
    damaged(taken, Path(slow.variables["BACKUP_DIR"]), taken.path.read_bytes())
    assert slow.run("verify", "--backup=latest", "--level=restore").code == 0
    assert not left.is_there()
    assert list((slow.state / "scratch").iterdir()) == []
