"""Runs pg_dump in somebody's snapshot and hands its bytes on; its exit code and its last words are heard.

No secret in argv: host, user and options go by PG* variables of a clean environment, the password by a file without a name
or, where the system has no such thing, by a 0600 passfile that is deleted as soon as pg_dump has logged in.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
import time
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from psycopg import pq

from polyladder_ops import portable
from polyladder_ops.errors import OpsError
from polyladder_ops.lifeline import lifeline
from polyladder_ops.postgres import login_triggers, orphans, waits
from polyladder_ops.postgres.session import backend_of, link_of
from polyladder_ops.postgres.snapshot import LOCK_WAIT_S, Changed, LocksExhausted
from polyladder_ops.postgres.waits import Waiting
from polyladder_ops.redaction import redact
from polyladder_ops.undoing import standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.postgres.clients import Client
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.links import Link
    from polyladder_ops.postgres.session import Connection

__all__ = ["STALL_S", "run"]

STALL_S = 900.0  # pg_dump is silent while it reads the catalog of ten thousand tables, but not for a quarter of an hour
_BLOCK = 1 << 19
_PAUSE_S = 0.002  # for a wide pipe to fill: pg_dump writes 4 KiB at a time and would wake us for each of them
_GRACE_S = 1.0  # it has nothing to clean up; what it would do is tell a server that may not answer
_THINKING_S = 120.0  # that pg_dump may sort what it has read of a large catalog, its session idle
_WORDS = 8_000  # bytes kept of each end of what pg_dump says: it quotes a LOCK of 2,000 names
# As in session.PINNED: what bends how rows are written as text. pg_dump pins DateStyle and the like itself, and lifts
# the time limits that a role or database may have, but by statements that are under the limit themselves.
_OPTIONS = (
    "-c bytea_output=hex -c row_security=off -c statement_timeout=0 -c lock_timeout=0"
    " -c idle_in_transaction_session_timeout=0"
)
# What pg_dump hears of the server if the catalog went on after its snapshot, and if it waited too long for a lock:
# --lock-wait-timeout is a statement_timeout around its LOCK TABLE.
_MOVED = re.compile(
    r"(?:relation|column|schema|type|function|constraint|sequence|OID) .{1,300} does not exist|cache lookup failed"
    r"|could not open relation with OID|canceling statement due to (?:statement|lock) timeout"
)


def run(
    client: Client,
    target: Target,
    snapshot: str,
    sink: Callable[[bytes], None],
    *,
    meanwhile: Callable[[], None],
    private: Path,
    need_tls: bool,
    encoding: str,
    holder: Connection,
    lock_wait_s: float = LOCK_WAIT_S,
    stall_s: float = STALL_S,
) -> None:
    """Hand the whole plain dump to `sink`, block by block; return only if pg_dump says that it is done.

    `meanwhile` is called once, when pg_dump begins to read the catalog, which keeps it and one server process busy.
    `holder` is the session whose snapshot it is. `private` is a folder for the passfile; `encoding` is the database's own, in which everything it holds can be
    written. Raise Changed if a table changed under pg_dump or was locked for `lock_wait_s` seconds, LocksExhausted if
    the server has no room for its locks, OpsError if pg_dump fails, says nothing for `stall_s` seconds, or is ended.
    """
    argv = [str(client.program), "--no-password", "--format=plain", f"--snapshot={snapshot}"]
    argv += [f"--encoding={encoding}", f"--lock-wait-timeout={int(lock_wait_s * 1000)}"]
    argv += _unnamed_options(target)
    variables = {**_variables(target, need_tls=need_tls), "PGAPPNAME": orphans.name(backend_of(holder))}
    passfile = private / "pgpass"
    with _handed(target, passfile, variables) as inherited, lifeline() as ends_with_us:
        env = portable.clean_environment(variables)
        pipes: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        process = portable.start(argv, env=env, bufsize=0, **pipes, **inherited)
        ends_with_us(process)  # behind a silent link it waits, and hears of nobody's end
        try:
            with standing("", partial(portable.end, process, grace_s=0)):
                link = link_of(holder)
                waiting = _waiting(process, link, variables["PGAPPNAME"]) if link else None
                with _watch(process, stall_s, waiting) as watch:
                    words = _pump(process, sink, meanwhile, passfile, watch)
                _judge(process, words, watch)
        finally:
            portable.end(process, grace_s=_GRACE_S)
            for pipe in (process.stdout, process.stderr):
                assert pipe is not None
                pipe.close()


@contextlib.contextmanager
def _handed(target: Target, passfile: Path, variables: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Within the block the password lies where `variables` say then, for a program that is started with these arguments."""
    if not target.password:
        yield {}
        return
    with portable.handed_file(passfile, _passfile_line(target.password)) as (path, inherited):
        variables["PGPASSFILE"] = path
        yield inherited


def _pump(
    process: subprocess.Popen[bytes],
    sink: Callable[[bytes], None],
    meanwhile: Callable[[], None],
    passfile: Path,
    watch: _Watch,
) -> bytearray:
    """Hand on what comes until the program ends, and return its last words."""
    assert process.stdout is not None
    assert process.stderr is not None
    with _last_words(process.stderr) as words:
        room = portable.widen(process.stdout, 2 * _BLOCK)
        try:
            with watch.unconcerned():
                meanwhile()
            while block := process.stdout.read(_BLOCK):
                if not watch.came_bytes:
                    passfile.unlink(missing_ok=True)  # it has logged in
                watch.came_bytes += len(block)
                with watch.unconcerned():
                    sink(block)
                if len(block) < room // 4:
                    time.sleep(_PAUSE_S)
            process.wait()  # the watch ends it if it hangs
        except BaseException:
            portable.end(process, grace_s=_GRACE_S)  # before its stderr is waited for, which it holds open
            raise
    return words


def _judge(process: subprocess.Popen[bytes], words: bytearray, watch: _Watch) -> None:
    """Raise what this end of pg_dump means, unless it says that it is done."""
    if watch.ended_for:
        raise OpsError(
            watch.ended_for,
            detail=f"It had written {watch.came_bytes:,} bytes. {_sentence(_said(words))}",
            hint="Look for locks and for a hanging network with `invoke doctor`, then try again.",
        )
    if process.returncode != 0:
        raise _failure(process.returncode, _said(words))


class _Watch:
    """A thread that ends a process for which we have waited too long."""

    def __init__(self, process: subprocess.Popen[bytes], stall_s: float, waiting: Waiting | None) -> None:
        self.came_bytes = 0
        self._waiting = waiting
        self.waiting_since: float | None = time.monotonic()
        self._stalled = ""
        self._process = process
        self._stall_s = stall_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True, name="watch")

    @property
    def ended_for(self) -> str:
        """That it was ended by us and why, empty if it ended by itself."""
        why = self._waiting.ended_for if self._waiting else ""
        return self._stalled or (why and f"pg_dump was ended: {why}")

    @contextlib.contextmanager
    def unconcerned(self) -> Iterator[None]:
        """Within the block it is we who take our time: our disk, our questions to the server."""
        self.waiting_since = None
        yield
        self.waiting_since = time.monotonic()

    def _look(self) -> None:
        while not self._over.wait(min(1.0, self._stall_s / 4)):
            since = self.waiting_since
            self._tell(since)
            if since is not None and time.monotonic() - since > self._stall_s:
                self._stalled = f"pg_dump said nothing for {self._stall_s:g} s and was ended"
                portable.end(self._process, grace_s=_GRACE_S)
                return

    def _tell(self, since: float | None) -> None:
        """Let those who tell work from silence know for how long nothing has come."""
        if self._waiting and since is None:
            self._waiting.passed()
        elif self._waiting:
            self._waiting.waits(since)


def _waiting(process: subprocess.Popen[bytes], link: Link, application: str) -> Waiting:
    """Return who waits for pg_dump's session, known to the server by its name; between two questions it may think for long."""

    def wake() -> None:
        portable.end(process, grace_s=0)

    return waits.watched(Waiting(link, wake, application=application, idle_s=_THINKING_S))


@contextlib.contextmanager
def _watch(process: subprocess.Popen[bytes], stall_s: float, waiting: Waiting | None) -> Iterator[_Watch]:
    watch = _Watch(process, stall_s, waiting)
    watch._thread.start()  # noqa: SLF001 - the same module
    try:
        yield watch
    finally:
        watch._over.set()  # noqa: SLF001
        watch._thread.join()  # noqa: SLF001


@contextlib.contextmanager
def _last_words(stderr: IO[bytes]) -> Iterator[bytearray]:
    """Drain stderr beside the main stream (a full pipe would stop pg_dump for ever), keep its beginning and its end."""
    words = bytearray()

    def drain() -> None:
        while data := stderr.read(4096):
            words.extend(data)
            if len(words) > 3 * _WORDS:
                del words[_WORDS:-_WORDS]

    thread = threading.Thread(target=drain, daemon=True, name="stderr")
    thread.start()
    try:
        yield words
    finally:
        thread.join(5)


def _said(words: bytes | bytearray) -> str:
    """Return what pg_dump said, as one line without secrets and without the full stop at its end."""
    return " ".join(redact(words.decode("utf-8", "replace")).split()).rstrip(".") or "It said nothing"


def _sentence(said: str) -> str:
    return f"{said if len(said) < 1500 else f'{said[:700]} … {said[-700:]}'}."


def _failure(returncode: int, said: str) -> Exception:
    """Return what this end of pg_dump means; its own words are the detail."""
    detail = _sentence(said)
    if returncode < 0:
        return OpsError(f"pg_dump was killed by signal {-returncode}", detail=detail, hint=_AGAIN)
    if "out of shared memory" in said or "max_locks_per_transaction" in said:
        return LocksExhausted(detail)
    if _MOVED.search(said):
        return Changed(detail)
    return OpsError(f"pg_dump failed with exit code {returncode}", detail=detail, hint=_hint(said))


_AGAIN = "Nothing was kept. Run `invoke backup` again."


def _hint(said: str) -> str:
    known = {
        "version mismatch": "Install the client of the server's version.",
        "row-level security": "Back up as a superuser or a role with BYPASSRLS; a dump without it would miss rows.",
        "may lack SELECT privilege": "Grant SELECT on the sequence, or use the owner's DATABASE_URL.",
        "permission denied": "Grant SELECT on it (or the role pg_read_all_data), or use the owner's DATABASE_URL.",
        "no encryption": "The server wants TLS: install a pg_dump that speaks it and add sslmode=require to the URL.",
        "snapshot": "Connect to the server itself, not through something that balances between servers.",
        "No space left": "Free space on the server's disk.",
    }
    return next((hint for piece, hint in known.items() if piece in said), _AGAIN)


def _variables(target: Target, *, need_tls: bool) -> dict[str, str]:
    """Return the PG* variables that name the target; libpq itself says which parameter has which variable."""
    names = {o.keyword.decode(): o.envvar.decode() for o in pq.Conninfo.get_defaults() if o.envvar}
    given = {name: value for name, value in target.parameters.items() if name not in ("password", "options")}
    variables = {names[name]: value for name, value in given.items() if name in names}
    if need_tls and given.get("sslmode", "prefer") in ("disable", "allow", "prefer"):
        variables["PGSSLMODE"] = "require"  # what our own session got must not be less for the rows
    options = (target.parameters.get("options", ""), _OPTIONS, login_triggers.option(target.parameters))
    variables["PGOPTIONS"] = " ".join(filter(None, options))
    variables |= {"PGTZ": "UTC", "PGCONNECT_TIMEOUT": "15"}
    return variables


def _unnamed_options(target: Target) -> list[str]:
    """Return as arguments the parameters that have no variable: keepalives and the like, none of them secret."""
    named = {o.keyword.decode() for o in pq.Conninfo.get_defaults() if o.envvar}
    rest = {name: value for name, value in target.parameters.items() if name not in named}
    quoted = {name: value.replace("\\", r"\\").replace("'", r"\'") for name, value in rest.items()}
    return (
        ["--dbname=" + " ".join(f"{name}='{value}'" for name, value in sorted(quoted.items()))]
        if rest
        else []
    )


def _passfile_line(password: str) -> str:
    return "*:*:*:*:" + password.replace("\\", r"\\").replace(":", r"\:") + "\n"
