"""The boundary: every ending has its promised code and text, real `invoke` processes where signals and pipes matter."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from invoke.collection import Collection
from invoke.config import Config
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.program import Program

from polyladder_ops import errors
from polyladder_ops.redaction import hide
from polyladder_ops.tasks import boundary
from polyladder_ops.tasks.boundary import (
    OpsTask,
    confirm,
    is_dry,
    number_of,
    open_settings,
    project_root,
    refuse_dry,
    task,
)

posix = pytest.mark.skipif(sys.platform == "win32", reason="limits and folders as POSIX has them")
TASKS = '''
import sys, time
from pathlib import Path
from invoke.collection import Collection
from polyladder_ops import output
from polyladder_ops.tasks.boundary import confirm, open_settings, task

@task
def sleep(c):
    """Sleep within a block that cleans up."""
    try:
        print("ready", flush=True)
        time.sleep(30)
    finally:
        Path("cleaned").touch()

@task
def talk(c):
    """Print more than a pipe holds."""
    for number in range(100000):
        print(f"line {number}")

@task
def names(c):
    """Print a name that ASCII does not have."""
    print("na\\u00efve \\udcff")

@task
def bug(c):
    """Fail in a way nobody foresaw."""
    raise KeyError("postgres://app:sesame@host/db")

@task
def wipe(c, force=False):
    """Ask before something is lost."""
    confirm("All of staging will be lost.", "staging", force=force)
    print("wiped")

@task
def where(c, site="", backup_dir=""):
    """Show where backups are."""
    print(open_settings(c, site=site, backup_dir=backup_dir).backup_dir)

@task
def drop(c):
    """Do something that can't be done again, and tell it."""
    output.line("polyladder is what it was")
    output.document({"database": "polyladder"})

ns = Collection(sleep, talk, names, bug, wipe, where, drop)
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    # The package's own file stands for a task's: what prints lies in the folder of the tasks.
    (tmp_path / "tasks.py").write_text(TASKS)
    return tmp_path


def start(
    project: Path, *words: str, env: dict[str, str] | None = None, **options: Any
) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", "from invoke.main import program; program.run()", *words]
    clean = {
        name: text for name, text in os.environ.items() if name not in {"CI", "NO_COLOR", "DATABASE_URL"}
    }
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(
        argv, cwd=project, env={**clean, **(env or {})}, text=True, encoding="utf-8", **pipes
    )


def invoke(project: Path, *words: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    process = start(project, *words, env=env)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def ending(error: BaseException) -> Exit:
    """Return how a task ends whose body raises this."""

    @task
    def body(c: Context) -> None:
        raise error

    with pytest.raises(Exit) as caught:
        body(Context())
    return caught.value


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.OpsError, 1),
        (errors.UsageError, 2),
        (errors.SettingsError, 2),
        (errors.Mismatch, 3),
        (errors.Refused, 4),
        (errors.Interrupted, 130),
    ],
)
def test_an_error_of_ours_ends_with_its_code_and_its_three_lines(
    kind: type[errors.OpsError], code: int
) -> None:
    ended = ending(kind("it failed", detail="So it is.", hint="Try again."))
    assert ended.code == code
    assert isinstance(ended, boundary.Told)
    assert ended.told == "error: it failed\ndetail: So it is.\nhint: Try again."


def test_no_secret_and_no_escape_sequence_comes_out() -> None:
    hide("pass-canary-1")
    ended = ending(
        errors.OpsError("table \x1b[31mred\x07\u202e is gone", detail="pass-canary-1, na\u00efve.")
    )
    assert isinstance(ended, boundary.Told)
    assert ended.told == "error: table \\x1b[31mred\\x07\\u202e is gone\ndetail: ********, na\u00efve."


def test_a_keyboard_interrupt_is_said_and_ends_with_130() -> None:
    for error, name in ((KeyboardInterrupt(), "Ctrl-C"), (KeyboardInterrupt("SIGTERM"), "SIGTERM")):
        ended = ending(error)
        assert isinstance(ended, boundary.Told)
        assert (ended.code, ended.told) == (130, f"error: interrupted by {name}")


def test_a_bug_keeps_its_traceback_but_no_secret(project: Path) -> None:
    code, out, err = invoke(project, "bug")
    assert (code, out) == (1, "")
    assert "Traceback (most recent call last)" in err
    assert "tasks.py" in err
    assert "KeyError: 'postgres://app:********@host/db'" in err
    assert "sesame" not in err
    assert err.endswith("error: this is a bug in polyladder-ops; please report it with the lines above\n")


def test_an_exit_of_an_inner_task_passes_through_unchanged() -> None:
    inner = Exit("inner", 7)
    assert ending(inner) is inner


@pytest.mark.skipif(sys.platform == "win32", reason="Windows can't send these signals to one process")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_runs_what_cleans_up_and_ends_with_130(project: Path, name: str) -> None:
    process = start(project, "sleep")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (130, f"error: interrupted by {name}\n")
    assert (project / "cleaned").exists()


def test_a_task_runs_in_a_thread_too_where_no_signal_can_be_caught() -> None:
    ran: list[str] = []

    @task
    def body(c: Context) -> None:
        ran.append(threading.current_thread().name)

    thread = threading.Thread(target=body, args=(Context(),), name="other")
    thread.start()
    thread.join()
    assert ran == ["other"]


def test_a_reader_that_goes_away_is_no_bug(project: Path) -> None:
    process = start(project, "talk")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(10) == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_never_was_is_no_bug_either(project: Path, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    (project / "tasks.py").write_text(
        "from invoke.collection import Collection\n"
        "from polyladder_ops.tasks.doctor import doctor\nns = Collection(doctor)\n"
    )
    process = start(project, "doctor", stdout=writer, env={"PYTHONUNBUFFERED": unbuffered})
    os.close(writer)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


def test_a_pipe_of_the_librarys_that_breaks_is_a_bug_and_not_quiet() -> None:
    library = compile("raise BrokenPipeError(32, 'Broken pipe')", "library.py", "exec")

    @task
    def body(c: Context) -> None:
        exec(library)

    with pytest.raises(Exit, match=r"Traceback(.|\n)*library\.py(.|\n)*this is a bug"):
        body(Context())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_can_not_be_written_is_an_error_and_not_a_success(project: Path, unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        process = start(project, "names", stdout=full, env={"PYTHONUNBUFFERED": unbuffered})
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err == "error: could not write the output\ndetail: No space left on device.\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_what_was_done_is_told_on_stderr_where_stdout_takes_no_result(project: Path) -> None:
    with Path("/dev/full").open("w") as full:
        process = start(project, "drop", stdout=full)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.splitlines() == [
        "note: the work was done; stdout did not take its result, which is:",
        "polyladder is what it was",
        "{",
        ' "database": "polyladder"',
        "}",
        "error: could not write the output",
        "detail: No space left on device.",
    ]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_name_that_the_terminal_can_not_show_is_written_out(project: Path, encoding: str) -> None:
    code, out, err = invoke(project, "names", env={"PYTHONIOENCODING": encoding})
    assert (code, err) == (0, "")
    assert out == ("na\\xefve \\udcff\n" if encoding == "ascii" else "na\u00efve \\udcff\n")


@pytest.mark.parametrize("words", [["--site=-x"], ["--site=--force"], ["--backup-dir", "-x"]])
def test_a_value_that_looks_like_a_flag_is_wrong_usage_and_names_the_flag(
    project: Path, words: list[str]
) -> None:
    code, out, err = invoke(project, "where", *words)
    assert (code, out) == (2, "")
    flag = words[0].split("=")[0]
    assert err.startswith(f"error: {flag} got ")
    assert f"hint: Write {flag}=VALUE" in err


def test_an_empty_value_is_an_unset_variable_of_the_shell_and_never_the_default(project: Path) -> None:
    """`restore --into=$NAME` replaced the live database, `restore.discard --database=$NAME` dropped the newest one."""
    code, out, err = invoke(project, "where", "--site=")
    assert (code, out) == (2, "")
    assert err.startswith(
        "error: --site got nothing\ndetail: Perhaps a variable of the shell is unset.\nhint: Write --site=VALUE"
    )


def test_values_in_lists_are_looked_at_too() -> None:
    boundary.refuse_flags_as_values({"table": ["a", "b-c"], "force": True, "site": "x"})
    with pytest.raises(errors.UsageError, match=r"--skip-table got '-d'"):
        boundary.refuse_flags_as_values({"skip_table": ["a", "-d"]})


def test_without_a_terminal_nobody_is_asked_and_force_is_named(project: Path) -> None:
    code, out, err = invoke(project, "wipe")
    assert (code, out) == (4, "")
    assert "detail: All of staging will be lost.\nhint: Add --force" in err
    assert invoke(project, "wipe", "--force") == (0, "wiped\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal of our own needs a pty")
@pytest.mark.parametrize(
    ("typed", "code"), [("staging\n", 0), ("yes\n", 4), ("\n", 4), ("\x04", 4), ("\x03", 130)]
)
def test_at_a_terminal_only_the_expected_word_is_a_yes(project: Path, typed: str, code: int) -> None:
    if sys.platform == "win32":
        raise AssertionError
    ours, theirs = os.openpty()
    process = start(
        project, "wipe", stdin=theirs, stderr=theirs, start_new_session=True, preexec_fn=_own_terminal
    )
    os.close(theirs)
    seen = b""
    while b"go on: " not in seen:
        seen += os.read(ours, 1000)
    # A Ctrl-C that comes between Python's last look for signals and its read waits for the next key, as a person's does.
    for _ in range(10):
        os.write(ours, typed.encode())
        with contextlib.suppress(subprocess.TimeoutExpired):
            out, _err = process.communicate(timeout=10 if typed != "\x03" else 3)
            break
    assert out == ("wiped\n" if code == 0 else "")
    assert process.returncode == code
    os.close(ours)
    assert b"All of staging will be lost." in seen


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal of our own needs a pty")
def test_a_terminal_to_read_without_one_to_answer_at_is_none(project: Path) -> None:
    if sys.platform == "win32":
        raise AssertionError
    ours, theirs = os.openpty()
    process = start(project, "wipe", stderr=theirs, stdin=subprocess.PIPE)
    os.close(theirs)
    process.communicate("staging\n", timeout=30)
    assert process.returncode == 4
    os.close(ours)


def _own_terminal() -> None:
    """Make the standard input the terminal that sends us Ctrl-C."""
    if sys.platform != "win32":
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_relative_paths_begin_at_the_folder_of_tasks_py_wherever_the_command_is_given(project: Path) -> None:
    below = project / "a" / "b"
    below.mkdir(parents=True)
    assert project_root(below) == project
    (project / ".env").write_text("BACKUP_DIR=mine\n")
    process = start(below, "where")
    assert process.communicate(timeout=30)[0] == f"{project / 'mine'}\n"
    assert project_root(Path(project.anchor)) == Path(project.anchor)


def test_settings_come_from_invoke_yaml_and_never_from_invoke_variables(project: Path) -> None:
    (project / "invoke.yaml").write_text("polyladder:\n  backup_dir: of-yaml\n")
    assert invoke(project, "where") == (0, f"{project / 'of-yaml'}\n", "")
    code, _, err = invoke(project, "where", env={"INVOKE_POLYLADDER_BACKUP_DIR": "of-variable"})
    assert code == 2
    assert "INVOKE_POLYLADDER_BACKUP_DIR (environment) is not read" in err


def test_the_closed_sandbox_says_what_it_ignores(project: Path) -> None:
    live = {"DATABASE_URL": "postgres://app:canary-9@live/db", "POLYLADDER_STATE_DIR": str(project)}
    code, out, err = invoke(project, "where", "--site=sandbox", env=live)
    assert (code, out) == (0, f"{project / 'sandbox' / 'backups'}\n")
    assert err.startswith("note: site sandbox is closed, so these are ignored: ")
    assert "DATABASE_URL" in err
    assert "canary-9" not in err


def test_a_dry_run_is_known_and_can_be_refused() -> None:
    dry = Context(Config(overrides={"run": {"dry": True}}))
    assert is_dry(dry)
    assert not is_dry(Context())
    refuse_dry(Context())
    with pytest.raises(errors.UsageError, match="no dry run"):
        refuse_dry(dry)


def test_the_core_flag_for_a_dry_run_reaches_the_task(capsys: pytest.CaptureFixture[str]) -> None:
    @task
    def look(c: Context) -> None:
        print(is_dry(c))

    for words in (["invoke", "-R", "look"], ["invoke", "look", "--dry"]):
        Program(namespace=Collection(look)).run(words, exit=False)
        assert capsys.readouterr().out == "True\n"


def test_a_task_is_ours_typed_and_has_no_short_flags() -> None:
    @task
    def body(c: Context, site: str = "", json: bool = False) -> None:
        """Do."""

    assert isinstance(body, OpsTask)
    assert {name for argument in body.get_arguments() for name in argument.names} == {"site", "json"}


def test_confirm_and_settings_can_be_used_from_the_library_of_another_repository(tmp_path: Path) -> None:
    confirm("?", "x", force=True)
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        assert open_settings(Context(), site="staging", backup_dir="here").backup_dir == tmp_path / "here"
    finally:
        os.chdir(before)


def test_a_quick_task_is_quick(project: Path) -> None:
    begun = time.monotonic()
    invoke(project, "--list")
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("text", ["0", "33", "-1", "two", "1.5", " 2", "٢", "9" * 40])
def test_a_flag_that_wants_a_number_refuses_what_is_none(text: str) -> None:
    with pytest.raises(errors.UsageError, match="is no number from 1 to 32"):
        number_of(text, "jobs")


def test_a_flag_that_was_not_given_is_no_number() -> None:
    assert (number_of("", "jobs"), number_of("1", "jobs"), number_of("32", "jobs")) == (None, 1, 32)


def _caused(error: Exception, by: Exception) -> Exception:
    error.__cause__ = by
    return error


LACKS = {
    "memory": MemoryError(),
    "memory for a program": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "a thread": RuntimeError("can't start new thread"),
    "a library": ImportError("libpq.so.5: failed to map segment from shared object"),
    "what led to it": _caused(ImportError("no pq wrapper available"), MemoryError()),
}


@pytest.mark.parametrize("lack", LACKS)
def test_too_little_memory_is_no_bug(lack: str) -> None:
    end = ending(LACKS[lack])
    assert end.code == 1
    error, detail, hint = end.told.splitlines()  # type: ignore[attr-defined]
    assert error == "error: there is too little memory for this"
    assert detail.startswith("detail: Python could get no more (")
    assert hint.startswith("hint: Look at `ulimit -v`")


@pytest.mark.parametrize(
    "other", [RuntimeError("x"), ImportError("No module named 'x'"), FileNotFoundError(2, "x")]
)
def test_what_is_something_else_stays_a_bug(other: Exception) -> None:
    assert "this is a bug" in ending(other).told  # type: ignore[attr-defined]


@posix
def test_a_real_lack_of_memory_is_told(project: Path) -> None:
    """A limit of 4 GB, and a task that wants more, whatever Python itself takes."""
    source = (project / "tasks.py").read_text().replace("ns = Collection(", EATS + "ns = Collection(eat, ")
    (project / "tasks.py").write_text(source)
    code, _, err = invoke(project, "eat")
    assert (code, err.splitlines()[0]) == (1, "error: there is too little memory for this")
    assert "Traceback" not in err


EATS = """
@task
def eat(c):
    import resource
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 32, most))
    bytearray(1 << 33)

"""


@posix
def test_a_folder_that_was_deleted_meanwhile_is_told(project: Path) -> None:
    (gone := project / "gone").mkdir()
    leaving = "import os; os.rmdir(os.getcwd()); from invoke.main import program; program.run()"
    argv = [sys.executable, "-c", leaving, "-r", str(project), "where"]
    done = subprocess.run(argv, cwd=gone, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "error: the folder that this was said in is gone",
        "hint: Go to the folder that holds tasks.py, `cd FOLDER`, and say it again.",
    ]
