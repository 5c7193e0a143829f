"""Runs pg_dump in somebody's snapshot and hands its bytes on; its exit code and its last words are heard.

No secret in argv: host, user and options go by PG* variables of a clean environment, the password by a 0600 passfile
that is deleted as soon as pg_dump has logged in.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from psycopg import pq

from polyladder_ops import portable
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.clients import Client
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.postgres.snapshot import Changed, lock_exhaustion
from polyladder_ops.redaction import redact

__all__ = ["LocksExhausted", "run"]

STALL_S = 900.0  # pg_dump is silent while it reads the catalog of ten thousand tables, but not for a quarter of an hour
_LOCK_WAIT_MS = 10_000
_BLOCK = 1 << 18
_LAST_WORDS = 20_000
# As in session.PINNED: what bends how rows are written as text. pg_dump pins DateStyle and the like itself.
_OPTIONS = "-c bytea_output=hex -c idle_in_transaction_session_timeout=0 -c row_security=off"


class LocksExhausted(OpsError):
    """The server ran out of room for locks while pg_dump took its own."""


def run(
    client: Client,
    target: Target,
    snapshot: str,
    sink: Callable[[bytes], None],
    *,
    private: Path,
    need_tls: bool,
    stall_s: float = STALL_S,
) -> None:
    """Hand the whole plain dump to `sink`, block by block; return only if pg_dump says that it is done.

    `private` is a folder for the passfile. Raise Changed if a table changed under pg_dump, OpsError if pg_dump fails,
    says nothing for `stall_s` seconds, or is ended.
    """
    argv = [str(client.program), "--no-password", "--format=plain", f"--snapshot={snapshot}"]
    argv += [f"--lock-wait-timeout={_LOCK_WAIT_MS}", *_unnamed_options(target)]
    variables = _variables(target, need_tls=need_tls)
    passfile = private / "pgpass"
    if target.password:
        portable.write_private(passfile, _passfile_line(target.password))
        variables["PGPASSFILE"] = str(passfile)
    try:
        env = portable.clean_environment(variables)
        process = portable.start(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        try:
            _pump(process, sink, passfile, stall_s)
        finally:
            portable.end(process)
            for pipe in (process.stdout, process.stderr):
                assert pipe is not None
                pipe.close()
    finally:
        passfile.unlink(missing_ok=True)


def _pump(
    process: subprocess.Popen[bytes], sink: Callable[[bytes], None], passfile: Path, stall_s: float
) -> None:
    assert process.stdout is not None and process.stderr is not None
    with _last_words(process.stderr) as words, _watch(process, stall_s) as watch:
        try:
            while block := process.stdout.read(_BLOCK):
                if watch.blocks == 0:
                    passfile.unlink(missing_ok=True)  # it has logged in
                watch.blocks += 1
                sink(block)
            process.wait()  # the watch ends it if it hangs
        except BaseException:
            portable.end(process)  # before its stderr is waited for, which it holds open
            raise
    if watch.stalled:
        raise OpsError(
            f"pg_dump said nothing for {stall_s:g} s and was ended",
            hint="Look for locks and for a hanging network with `invoke doctor`, then try again.",
        )
    if process.returncode != 0:
        raise _failure(process.returncode, redact(words.decode("utf-8", "replace")).strip())


class _Watch:
    """Counts blocks; a thread of it ends a process whose count stands still."""

    def __init__(self, process: subprocess.Popen[bytes], stall_s: float) -> None:
        self.blocks = 0
        self.stalled = False
        self._process = process
        self._stall_s = stall_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True, name="watch")

    def _look(self) -> None:
        seen, since = 0, time.monotonic()
        while not self._over.wait(min(1.0, self._stall_s / 4)):
            if self.blocks != seen:
                seen, since = self.blocks, time.monotonic()
            elif time.monotonic() - since > self._stall_s:
                self.stalled = True
                portable.end(self._process)
                return


@contextlib.contextmanager
def _watch(process: subprocess.Popen[bytes], stall_s: float) -> Iterator[_Watch]:
    watch = _Watch(process, stall_s)
    watch._thread.start()  # noqa: SLF001 - the same module
    try:
        yield watch
    finally:
        watch._over.set()  # noqa: SLF001
        watch._thread.join()  # noqa: SLF001


@contextlib.contextmanager
def _last_words(stderr: IO[bytes]) -> Iterator[bytearray]:
    """Drain stderr beside the main stream (a full pipe would stop pg_dump for ever) and keep its end."""
    words = bytearray()

    def drain() -> None:
        while data := stderr.read(4096):
            words.extend(data)
            del words[:-_LAST_WORDS]

    thread = threading.Thread(target=drain, daemon=True, name="stderr")
    thread.start()
    try:
        yield words
    finally:
        thread.join(5)


def _failure(returncode: int, words: str) -> Exception:
    """Return what this end of pg_dump means; its own words are the detail."""
    detail = " ".join(words.split())[-1500:]
    if returncode < 0:
        return OpsError(
            f"pg_dump was killed by signal {-returncode}", detail=detail or "It said nothing.", hint=_AGAIN
        )
    if (
        "lock timeout" in words
        or "could not obtain lock" in words
        or re.search(r"OID \d+ does not exist", words)
    ):
        return Changed(detail)
    if "out of shared memory" in words or "max_locks_per_transaction" in words:
        exhausted = lock_exhaustion(detail.rstrip("."))
        return LocksExhausted(exhausted.message, detail=exhausted.detail, hint=exhausted.hint)
    return OpsError(
        f"pg_dump failed with exit code {returncode}", detail=detail or "It said nothing.", hint=_hint(words)
    )


_AGAIN = "Nothing was kept. Run `invoke backup` again."


def _hint(words: str) -> str:
    known = {
        "version mismatch": "Install the client of the server's version.",
        "row-level security": "Back up as a superuser or a role with BYPASSRLS; a dump without it would miss rows.",
        "permission denied": "Grant SELECT on it (or the role pg_read_all_data), or use the owner's DATABASE_URL.",
        "no encryption": "The server wants TLS: install a pg_dump that speaks it and add sslmode=require to the URL.",
        "snapshot": "Connect to the server itself, not through something that balances between servers.",
        "No space left": "Free space on the server's disk.",
    }
    return next((hint for piece, hint in known.items() if piece in words), _AGAIN)


def _variables(target: Target, *, need_tls: bool) -> dict[str, str]:
    """Return the PG* variables that name the target; libpq itself says which parameter has which variable."""
    names = {o.keyword.decode(): o.envvar.decode() for o in pq.Conninfo.get_defaults() if o.envvar}
    given = {name: value for name, value in target.parameters.items() if name not in ("password", "options")}
    variables = {names[name]: value for name, value in given.items() if name in names}
    if need_tls and given.get("sslmode", "prefer") in ("disable", "allow", "prefer"):
        variables["PGSSLMODE"] = "require"  # what our own session got must not be less for the rows
    variables["PGOPTIONS"] = f"{target.parameters.get('options', '')} {_OPTIONS}".strip()
    variables |= {"PGTZ": "UTC", "PGAPPNAME": "polyladder-ops pg_dump", "PGCONNECT_TIMEOUT": "15"}
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
