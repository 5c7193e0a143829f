"""Runs pg_dump in somebody's snapshot and hands its bytes on; its exit code and its last words are heard.

Where it runs is told by what is handed in (`programs.py`): here (`here.py`), or on the server's own machine.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from typing import TYPE_CHECKING

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import login_triggers, orphans, waits
from polyladder_ops.postgres.programs import Call
from polyladder_ops.postgres.session import backend_of, link_of
from polyladder_ops.postgres.snapshot import LOCK_WAIT_S, Changed, LocksExhausted
from polyladder_ops.postgres.waits import Waiting
from polyladder_ops.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.links import Link
    from polyladder_ops.postgres.programs import End, Program, Running
    from polyladder_ops.postgres.session import Connection

__all__ = ["STALL_S", "run"]

STALL_S = 900.0  # pg_dump is silent while it reads the catalog of ten thousand tables, but not for a quarter of an hour
_GRACE_S = 1.0  # it has nothing to clean up; what it would do is tell a server that may not answer
_THINKING_S = 120.0  # that pg_dump may sort what it has read of a large catalog, its session idle
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
    program: Program,
    target: Target,
    snapshot: str,
    sink: Callable[[bytes], None],
    *,
    meanwhile: Callable[[], None],
    private: Path,
    need_tls: bool,
    encoding: str,
    holder: Connection,
    compress: bool = True,
    keep: Callable[[bytes], None] = lambda _packed: None,
    lock_wait_s: float = LOCK_WAIT_S,
    stall_s: float = STALL_S,
) -> None:
    """Hand the whole plain dump to `sink`, block by block; return only if pg_dump says that it is done.

    `meanwhile` is called once, when pg_dump begins to read the catalog, which keeps it and one server process busy.
    `holder` is the session whose snapshot it is. `private` is a folder for the passfile; `encoding` is the database's own, in
    which everything it holds can be written; one far away compresses what it sends, if `compress`, and `keep` is handed that as it came. Raise Changed if a table
    changed under pg_dump or was locked for `lock_wait_s` seconds, LocksExhausted if the server has no room for its locks,
    OpsError if pg_dump fails, says nothing for `stall_s` seconds, or is ended.
    """
    arguments = ["--no-password", "--format=plain", f"--snapshot={snapshot}", f"--encoding={encoding}"]
    arguments += [f"--lock-wait-timeout={int(lock_wait_s * 1000)}"]
    name = orphans.name(backend_of(holder))
    variables = {**_variables(target), "PGAPPNAME": name}
    call = Call(target, tuple(arguments), variables, private, need_tls, compress)
    with program.running(call) as running:
        link = link_of(holder)
        waiting = _waiting(running, link, name) if link else None
        with _watch(running, stall_s, waiting) as watch:
            end = _pump(running, sink, keep, meanwhile, watch)
        _judge(end, watch)


def _pump(
    running: Running,
    sink: Callable[[bytes], None],
    keep: Callable[[bytes], None],
    meanwhile: Callable[[], None],
    watch: _Watch,
) -> End:
    """Hand on what comes until the program ends, and return how it did."""
    with watch.unconcerned():
        meanwhile()
    while block := running.read():
        watch.came_bytes += len(block)
        with watch.unconcerned():
            sink(block)
            _hand_on(running.packed(), keep)
    _hand_on(running.packed(), keep)
    return running.ended()  # the watch ends it if it hangs


def _hand_on(pieces: list[bytes], keep: Callable[[bytes], None]) -> None:
    for piece in pieces:
        keep(piece)


def _judge(end: End, watch: _Watch) -> None:
    """Raise what this end of pg_dump means, unless it says that it is done."""
    if watch.ended_for:
        raise OpsError(
            watch.ended_for,
            detail=f"It had written {watch.came_bytes:,} bytes. {_sentence(_said(end.words))}",
            hint="Look for locks and for a hanging network with `invoke doctor`, then try again.",
        )
    if end.code != 0:
        raise _failure(end.code, _said(end.words))


class _Watch:
    """A thread that ends a program for which we have waited too long."""

    def __init__(self, running: Running, stall_s: float, waiting: Waiting | None) -> None:
        self.came_bytes = 0
        self._waiting = waiting
        self.waiting_since: float | None = time.monotonic()
        self._stalled = ""
        self._running = running
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
                self._running.end(grace_s=_GRACE_S)
                return

    def _tell(self, since: float | None) -> None:
        """Let those who tell work from silence know for how long nothing has come."""
        if self._waiting and since is None:
            self._waiting.passed()
        elif self._waiting:
            self._waiting.waits(since)


def _waiting(running: Running, link: Link, application: str) -> Waiting:
    """Return who waits for pg_dump's session, known to the server by its name; between two questions it may think for long."""

    def wake() -> None:
        running.end(grace_s=0)

    return waits.watched(Waiting(link, wake, application=application, idle_s=_THINKING_S))


@contextlib.contextmanager
def _watch(running: Running, stall_s: float, waiting: Waiting | None) -> Iterator[_Watch]:
    watch = _Watch(running, stall_s, waiting)
    watch._thread.start()  # noqa: SLF001 - the same module
    try:
        yield watch
    finally:
        watch._over.set()  # noqa: SLF001
        watch._thread.join()  # noqa: SLF001


def _said(words: bytes) -> str:
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


def _variables(target: Target) -> dict[str, str]:
    """Return the PG* variables that say as whom it logs in, where in, and how its session is."""
    options = (target.parameters.get("options", ""), _OPTIONS, login_triggers.option(target.parameters))
    who = {"PGUSER": target.user, "PGDATABASE": target.database, "PGOPTIONS": " ".join(filter(None, options))}
    return {**{name: value for name, value in who.items() if value}, "PGTZ": "UTC", "PGCONNECT_TIMEOUT": "15"}
