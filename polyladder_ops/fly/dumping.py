"""pg_dump on the machine of the database itself, by its own socket: one stream comes here, compressed on the way.

Fly's server lets a program run on when the connection is lost (contract 1.14), and a pg_dump keeps each table's lock. So it
runs under a watch of its own there: as soon as nothing has been heard of us for half a minute, or we hang up, it is ended.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import threading
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from polyladder_ops.fly.failures import FlyError
from polyladder_ops.gzipped import AsItIs, Damaged, Gunzip
from polyladder_ops.postgres.programs import End

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.fly.primary import Surroundings
    from polyladder_ops.fly.remote import Remote
    from polyladder_ops.fly.road import Road
    from polyladder_ops.fly.stream import Stream
    from polyladder_ops.postgres.programs import Call

__all__ = ["There", "there"]

_BEAT_S = 5.0
_SILENT_S = 30
_PACKER_FAILED = 100  # an exit code that pg_dump has not
_KILLED = 128  # a shell adds the signal's number to it
_TERM = 15
# A group of its own for pg_dump and gzip, and beside them who listens for us. Both codes of the pipe are looked at: one that
# packs and dies ends pg_dump by SIGPIPE.
_SCRIPT = """
set -m
low="nice -n 10"
command -v ionice >/dev/null && low="$low ionice -c 2 -n 7"
unset ${{!PG@}}
export LC_ALL=C {variables}
{{
  $low pg_dump {arguments} | {pack}
  codes=("${{PIPESTATUS[@]}}")
  test "${{codes[1]}}" = 0 || exit {packer_failed}
  exit "${{codes[0]}}"
}} </dev/null &
dump=$!
{{ while read -r -t {silent_s}; do :; done; kill -- "-$dump"; }} >/dev/null 2>&1 &
watch=$!
exec </dev/null >/dev/null
wait "$dump"
code=$?
kill -- "-$watch" 2>/dev/null
exit "$code"
"""


def there(road: Road, *, say: Callable[[str], None] = lambda _sentence: None) -> There | None:
    """Return the pg_dump of the machine at the road's end; None, which is said, where none can be used: then one of ours does it."""
    found = re.search(r"pg_dump \(PostgreSQL\) (\d+[\w.]*)", road.seen.pg_dump)
    if road.remote is None or not found:
        why = "has no pg_dump" if road.remote else "takes no key of ours for SSH"
        say(
            f"machine {road.machine.id} {why}: a pg_dump of this computer dumps through the tunnel, which is slower"
        )
        return None
    return There(road.remote, road.seen, found[1])


@dataclass(frozen=True)
class There:
    """The pg_dump of a machine."""

    remote: Remote
    seen: Surroundings
    version: str

    @property
    def packs(self) -> bool:
        """Whether its output comes compressed, if that is wanted."""
        return True

    @property
    def major(self) -> int:
        """The part of the version that must match the server's."""
        return int(re.split(r"\D", self.version, maxsplit=1)[0])

    def __str__(self) -> str:
        return f"pg_dump {self.version} on machine {self.remote.machine}"

    @contextlib.contextmanager
    def running(self, call: Call) -> Iterator[_Running]:
        """Within the block it runs; after it, it is ended. Raise FlyError if the connection is lost."""
        with self.remote.streamed(_command(self.seen, call)) as stream:
            run = _Running(stream, self.remote.machine, is_packed=call.compress)
            beat = _Beat(stream)
            try:
                yield run
            finally:
                beat.stop()
                run.end(grace_s=0)


def _command(seen: Surroundings, call: Call) -> str:
    """Return the script that runs pg_dump there, by the server's own socket and with none of the machine's settings for it."""
    where = {"PGHOST": str(PurePosixPath(seen.socket).parent), "PGPORT": str(seen.port)}
    variables = {**call.variables, **where}
    return _SCRIPT.format(
        variables=" ".join(f"{name}={shlex.quote(text)}" for name, text in variables.items()),
        arguments=shlex.join(call.arguments),
        pack="$low gzip -1" if call.compress else "cat",
        packer_failed=_PACKER_FAILED,
        silent_s=_SILENT_S,
    )


class _Beat:
    """A thread that lets the far end hear of us every few seconds."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True, name="beat")
        self._thread.start()

    def stop(self) -> None:
        self._over.set()

    def _go_on(self) -> None:
        while not self._over.wait(_BEAT_S):
            self._stream.beat()


class _Running:
    """One that runs: what comes is unpacked to the last byte, and what is not whole is no dump."""

    def __init__(self, stream: Stream, machine: str, *, is_packed: bool) -> None:
        self._stream = stream
        self._machine = machine
        self._is_ended = self._is_all = False
        self._is_packed = is_packed
        self._pieces: list[bytes] = []
        unpacker = Gunzip() if is_packed else AsItIs()
        self._blocks = unpacker.unpacked(self._came())

    def read(self) -> bytes:
        try:
            return next(self._blocks, b"")
        except Damaged as damage:
            # Who was ended packs nothing to its end, and its exit code tells more.
            if self._is_ended or (self._is_all and self.ended().code):
                return b""
            raise self._damaged(damage) from damage

    def packed(self) -> list[bytes]:
        pieces, self._pieces = self._pieces, []
        return pieces

    def ended(self) -> End:
        if self._is_ended:
            return End(-_TERM, self._stream.said().encode())
        outcome = self._stream.ended()
        if outcome.code == _PACKER_FAILED:
            raise self._not_packed(outcome.err)
        code = outcome.code
        return End(_KILLED - code if code > _KILLED else code, outcome.err.encode())

    def end(self, *, grace_s: float) -> None:
        del grace_s  # it is told, and whether it hears is not waited for
        self._is_ended = True
        self._stream.close()

    def _came(self) -> Iterator[bytes]:
        while block := self._stream.read():
            if self._is_packed:
                self._pieces.append(block)
            yield block
        self._is_all = True

    def _damaged(self, damage: Damaged) -> FlyError:
        return FlyError(
            f"what came of pg_dump from machine {self._machine} is not whole",
            detail=f"Of its compressed stream: {damage.message}. {damage.detail}",
            hint="Nothing was kept. Run `invoke backup` again.",
            name="damaged",
            passes=True,
        )

    def _not_packed(self, said: str) -> FlyError:
        words = " ".join(said.split())
        return FlyError(
            f"what compresses the dump on machine {self._machine} failed",
            detail=f"It says: {words}"
            if words
            else "It said nothing: it may have been killed for want of memory.",
            hint="Nothing was kept. Run `invoke backup` again.",
            name="not-packed",
            passes=True,
        )
