"""A pg_dump of this machine, as a process of ours that ends with us.

No secret in argv: host, user and options go by PG* variables of a clean environment, the password by a file without a name
or, where the system has no such thing, by a 0600 passfile that is deleted as soon as pg_dump has logged in.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from psycopg import pq

from polyladder_ops import portable
from polyladder_ops.lifeline import lifeline
from polyladder_ops.postgres.programs import End
from polyladder_ops.undoing import standing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from polyladder_ops.postgres.clients import Client
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.programs import Call

__all__ = ["Here"]

_BLOCK = 1 << 19
_PAUSE_S = 0.002  # for a wide pipe to fill: pg_dump writes 4 KiB at a time and would wake us for each of them
_GRACE_S = 1.0  # it has nothing to clean up; what it would do is tell a server that may not answer
_WORDS = 8_000  # bytes kept of each end of what pg_dump says: it quotes a LOCK of 2,000 names


@dataclass(frozen=True)
class Here:
    """What a client is when it is run."""

    client: Client

    @property
    def version(self) -> str:
        """Its version, as it says it."""
        return self.client.version

    @property
    def packs(self) -> bool:
        """Whether its output comes compressed: from here it never does."""
        return False

    @property
    def major(self) -> int:
        """The part of the version that must match the server's."""
        return self.client.major

    def __str__(self) -> str:
        return str(self.client)

    @contextlib.contextmanager
    def running(self, call: Call) -> Iterator[_Process]:
        """Within the block it runs; after it, it is ended. Raise OpsError if it can't be started."""
        argv = [str(self.client.program), *call.arguments, *_unnamed_options(call.target)]
        variables = {**_reaching(call.target, need_tls=call.need_tls), **call.variables}
        passfile = call.private / "pgpass"
        pipes: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        with _handed(call.target, passfile, variables) as inherited, lifeline() as ends_with_us:
            env = portable.clean_environment(variables)
            process = portable.start(argv, env=env, bufsize=0, **pipes, **inherited)
            ends_with_us(process)  # behind a silent link it waits, and hears of nobody's end
            run = _Process(process, passfile)
            try:
                with standing("", partial(portable.end, process, grace_s=0)):
                    yield run
            finally:
                run.close()


@contextlib.contextmanager
def _handed(target: Target, passfile: Path, variables: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Within the block the password lies where `variables` say then, for a program that is started with these arguments."""
    if not target.password:
        yield {}
        return
    with portable.handed_file(passfile, _passfile_line(target.password)) as (path, inherited):
        variables["PGPASSFILE"] = path
        yield inherited


class _Process:
    """The process, with a thread that drains its stderr: a full pipe would stop it for ever."""

    def __init__(self, process: subprocess.Popen[bytes], passfile: Path) -> None:
        assert process.stdout is not None
        self._process = process
        self._passfile = passfile
        self._stdout = process.stdout
        self._room = portable.widen(process.stdout, 2 * _BLOCK)
        self._last = self._room
        self._has_begun = False
        self._words = bytearray()
        self._drain = threading.Thread(
            target=self._listen, args=(process.stderr,), daemon=True, name="stderr"
        )
        self._drain.start()

    def read(self) -> bytes:
        if self._last < self._room // 4:
            time.sleep(_PAUSE_S)
        block: bytes = self._stdout.read(_BLOCK)
        if not self._has_begun:
            self._passfile.unlink(missing_ok=True)  # it has logged in
            self._has_begun = True
        self._last = len(block)
        return block

    def packed(self) -> list[bytes]:
        return []

    def ended(self) -> End:
        code = self._process.wait()
        self._drain.join(5)
        return End(code, bytes(self._words))

    def end(self, *, grace_s: float) -> None:
        portable.end(self._process, grace_s=grace_s)

    def close(self) -> None:
        """End it, and let go of its pipes."""
        portable.end(self._process, grace_s=_GRACE_S)
        self._drain.join(5)
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()

    def _listen(self, stderr: IO[bytes]) -> None:
        """Keep the beginning and the end of what it says."""
        with contextlib.suppress(ValueError):  # it is closed, and nobody asks any more
            while data := stderr.read(4096):
                self._words.extend(data)
                if len(self._words) > 3 * _WORDS:
                    del self._words[_WORDS:-_WORDS]


def _reaching(target: Target, *, need_tls: bool) -> dict[str, str]:
    """Return the PG* variables that name the target; libpq itself says which parameter has which variable."""
    names = {o.keyword.decode(): o.envvar.decode() for o in pq.Conninfo.get_defaults() if o.envvar}
    given = {name: value for name, value in target.parameters.items() if name not in ("password", "options")}
    variables = {names[name]: value for name, value in given.items() if name in names}
    if need_tls and given.get("sslmode", "prefer") in ("disable", "allow", "prefer"):
        variables["PGSSLMODE"] = "require"  # what our own session got must not be less for the rows
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
