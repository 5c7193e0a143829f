"""The one module that knows which operating system this is: process groups, private files, synced folders.

Everywhere else the code is the same on Linux, macOS and Windows; what one of them can't do is refused here by name.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from polyladder_ops.errors import OpsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "Account",
    "acting_as",
    "by_whom",
    "clean_environment",
    "end",
    "end_group",
    "give_name",
    "give_to",
    "handed_file",
    "in_use",
    "is_alive",
    "is_in_use",
    "is_ours",
    "is_reachable",
    "is_readable",
    "is_root",
    "kill_group",
    "make_private_directory",
    "name_socket_folder",
    "owner",
    "runs",
    "start",
    "sync_directory",
    "system_account",
    "widen",
    "write_private",
]

# What a program needs to start at all; everything else (PG*, secrets, locale) we say ourselves.
_KEPT = (
    "PATH",
    "HOME",
    "TMPDIR",
    "TEMP",
    "TMP",
    "SYSTEMROOT",
    "COMSPEC",
    "PATHEXT",
    "LD_LIBRARY_PATH",
    "USERPROFILE",
)


if sys.platform == "win32":
    _FORCE = signal.SIGTERM  # which ends a program there as hard as there is
else:
    _FORCE = signal.SIGKILL


def clean_environment(extra: Mapping[str, str] | None = None, *, keep: Sequence[str] = ()) -> dict[str, str]:
    """Return an environment for a child: no PG* variable, no secret of ours, messages in English, plus `keep` and `extra`."""
    kept = {name: os.environ[name] for name in (*_KEPT, *keep) if name in os.environ}
    return {**kept, "LC_ALL": "C", **(extra or {})}


def start(argv: Sequence[str], *, env: Mapping[str, str], **pipes: Any) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own, so that a Ctrl-C at the terminal reaches only us.

    We then end it ourselves (`end`), whole group at once. Raise OpsError if the program can't be started.
    """
    own_group: dict[str, Any]
    if sys.platform == "win32":
        own_group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    else:
        own_group = {"start_new_session": True}
    try:
        return subprocess.Popen(list(argv), env=dict(env), **own_group, **pipes)
    except OSError as error:
        raise OpsError(
            f"could not start {argv[0]}",
            detail=f"{error.strerror or error}.",
            hint="Check that it is there, made for this system, and may be run.",
        ) from error


def widen(pipe: IO[bytes], size: int) -> int:
    """Give a pipe room for `size` bytes; return the room that it has then, 0 where the system has no such wish."""
    if sys.platform != "linux":
        return 0
    import fcntl

    with contextlib.suppress(OSError):  # all pipes of an ordinary user together may have only so much
        return fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, size)
    return 0


def end(process: subprocess.Popen[bytes], *, grace_s: float = 5.0) -> None:
    """Make sure that the program and its group are gone: asked first, killed after `grace_s` seconds."""
    if process.poll() is None:
        _signal_group(process, signal.SIGTERM)
        if sys.platform != "win32":  # one that was stopped hears nothing else but SIGKILL until it goes on
            _signal_group(process, signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    if process.poll() is None:
        _signal_group(process, _FORCE)
        process.wait()


def end_group(process: subprocess.Popen[bytes], *, grace_s: float = 5.0) -> None:
    """Make sure that the program is gone, and what it started and left in its group: pnpm starts a shell, and that Node."""
    end(process, grace_s=grace_s)
    if sys.platform != "win32":
        with contextlib.suppress(PermissionError):  # what macOS says of a group of corpses
            _signal_group(process, _FORCE)


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    if sys.platform == "win32":
        process.terminate()  # there is no group to signal; our programs start no children of their own
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def kill_group(pid: int) -> None:
    """Kill the group of a program that `start` started under this id, if any of it is still there."""
    if sys.platform == "win32":
        with contextlib.suppress(OSError):
            os.kill(pid, _FORCE)
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, _FORCE)


def is_alive(pid: int) -> bool:
    """Whether a process with this id runs, ours or not."""
    if sys.platform == "win32":
        listed = subprocess.run(["tasklist", "/FI", f"PID eq {pid}", "/NH"], capture_output=True, check=False)
        return str(pid).encode() in listed.stdout
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def by_whom() -> str:
    """Return user and host, for a record or a lock."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's nameless user id
        user = "unknown"
    return f"{user}@{platform.node()}"


def is_root() -> bool:
    """Whether we run as the superuser of a POSIX system, which PostgreSQL's server refuses."""
    return sys.platform != "win32" and os.geteuid() == 0


def make_private_directory(path: Path) -> None:
    """Make a directory, with its parents, that only we can enter (0700; on Windows the profile's own rights)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)


def write_private(path: Path, text: str) -> None:
    """Write a new file that only we can read (0600 from its first byte), to the disk; one that fails is gone again.

    Raise FileExistsError if it is there.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def give_name(fresh: Path, path: Path) -> None:
    """Give a file its final name, which must be free: a link refuses to overwrite where a rename would do it in silence."""
    try:
        os.link(fresh, path)
    except OSError:  # a file system without links (exFAT, some network drives); the folder is locked
        if path.exists():
            raise
        fresh.rename(path)


@contextlib.contextmanager
def handed_file(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Within the block a private file with this text: how a program reads it, and the arguments to `start` that with.

    On Linux it has no name, so that a kill leaves nothing of it. Elsewhere it is at `path`, which must be free, and gone
    afterwards at the latest.
    """
    if (descriptor := _nameless(text)) is not None:
        try:
            yield f"/proc/self/fd/{descriptor}", {"pass_fds": (descriptor,)}
        finally:
            os.close(descriptor)
        return
    try:
        write_private(path, text)
        yield str(path), {}
    finally:
        path.unlink(missing_ok=True)


def _nameless(text: str) -> int | None:
    """Return a file in memory with this text, which only we and whom we hand it to can read; None where there is no such thing."""
    if sys.platform != "linux" or not Path("/proc/self/fd").is_dir():
        return None
    descriptor = os.memfd_create("polyladder-ops")
    os.fchmod(descriptor, 0o600)  # else libpq takes no password from it
    os.write(descriptor, text.encode())
    return descriptor


@contextlib.contextmanager
def in_use(path: Path) -> Iterator[dict[str, Any]]:
    """Within the block a file is in use, and after it as long as a program lives that `start` got these arguments for.

    So is whatever that program starts. Windows has no such thing: there it is never in use.
    """
    if sys.platform == "win32":
        yield {}
        return
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield {"pass_fds": (descriptor,)}
    finally:
        os.close(descriptor)


def is_in_use(path: Path) -> bool:
    """Whether a program that was started `in_use`, or a child of one, still lives."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable; Windows keeps no such promise and needs no such call."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


Account = tuple[int, int]
"""User and group id of an account of low rights under which root starts a program."""


def runs(pid: int, program: str, mark: str) -> bool:
    """Whether a process with this id lives and is `program`, started with `mark` among its arguments.

    A corpse that nobody has collected does not live. Windows shows the program's name only, so that must do there.
    """
    if sys.platform == "win32":
        argv = ["tasklist", "/FI", f"PID eq {pid}", "/NH", "/FO", "CSV"]
        return program in subprocess.run(argv, capture_output=True, check=False).stdout.decode(
            errors="replace"
        )
    if sys.platform == "linux":  # a slim container has no ps
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
    else:
        argv = ["ps", "-ww", "-o", "args=", "-p", str(pid)]
        command = subprocess.run(argv, capture_output=True, check=False).stdout
    return program.encode() in command and mark.encode() in command


def system_account(name: str) -> Account | None:
    """Return the account of this name, made if missing, without home, shell or rights; None unless we are root.

    Raise OpsError if the system has no program that can make one, or if that refuses.
    """
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    import pwd

    problem = ""
    # Another process may hold the lock on the list of accounts, making ours.
    for waited_s in (0.0, 0.2, 0.5, 1.0):
        time.sleep(waited_s)
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
        problem = _make_account(name)
    raise OpsError(
        f"could not make the system account {name}",
        detail=f"PostgreSQL refuses to run as root and needs an account of low rights. {problem}",
        hint="Run the command as an ordinary user.",
    )


def _make_account(name: str) -> str:
    """Make the account by the first program that works; return what the last one said if none did."""
    said = "There is neither useradd nor adduser."
    for argv in (
        ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", name],
        ["adduser", "--system", "--group", "--no-create-home", "--home", "/nonexistent", name],
        ["adduser", "-S", "-D", "-H", "-h", "/nonexistent", name],  # busybox
    ):
        try:
            tried = subprocess.run(argv, env=clean_environment(), capture_output=True, check=False)
        except OSError:
            continue
        if tried.returncode == 0:
            return ""
        said = f"{argv[0]} says: {tried.stderr.decode(errors='replace').strip()}"
    return said


def acting_as(account: Account | None) -> dict[str, Any]:
    """Return what `start` and subprocess need to run a program under an account; nothing for our own."""
    return {} if account is None else {"user": account[0], "group": account[1], "extra_groups": []}


def give_to(path: Path, account: Account | None) -> None:
    """Make the account the owner of a file or folder of ours; nothing happens for our own account."""
    if sys.platform != "win32" and account is not None:
        os.chown(path, *account, follow_symlinks=False)


def owner(path: Path) -> Account | None:
    """Return the account that a folder belongs to, for root to act as; None unless we are root and it is not."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    found = path.stat()
    return (found.st_uid, found.st_gid) if found.st_uid else None


def is_ours(path: Path) -> bool:
    """Whether the file or folder itself belongs to the account that we run as; Windows keeps them in the profile."""
    if sys.platform == "win32":
        return True
    return path.lstat().st_uid == os.geteuid()


def name_socket_folder(account: Account | None) -> Path | None:
    """Return a name, free and not to be guessed, for a private folder of the account; it fits a Unix socket's path.

    None on Windows, where TCP does. A socket's path holds about 100 bytes, and a temporary folder may be long.
    """
    if sys.platform == "win32":
        return None
    usual = tempfile.gettempdir()
    will_do = re.fullmatch(r"[\w/.+-]{1,70}", usual, re.ASCII) and is_reachable(Path(usual), account)
    return Path(usual if will_do else "/tmp", f"pl-{secrets.token_hex(6)}")  # noqa: S108 - made private there


def is_reachable(path: Path, account: Account | None) -> bool:
    """Whether the account may enter the folder, through all the folders above it, by their modes."""
    if account is None:
        return True
    real = path.resolve()
    return all(_allows(folder, account, 0o1) for folder in (real, *real.parents))


def is_readable(path: Path, account: Account | None) -> bool:
    """Whether the account may read every file below a folder, and enter every folder, by their modes."""
    if account is None:
        return True
    if not is_reachable(path, account):
        return False
    return all(_allows(inner, account, 0o5 if inner.is_dir() else 0o4) for inner in path.rglob("*"))


def _allows(path: Path, account: Account, bits: int) -> bool:
    """Whether the mode gives the account these rights (4 read, 1 enter or execute)."""
    found = path.stat()
    user, group = account
    shift = 6 if found.st_uid == user else 3 if found.st_gid == group else 0
    return (found.st_mode >> shift) & bits == bits
