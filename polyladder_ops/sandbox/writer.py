"""The application at work: small transactions over seven tables, one after the other, while a backup is taken.

It is a process of its own, so that it does not share Python's lock with the backup's stream. It gets where to
connect over stdin, never by its arguments, and stops when that closes: it can't outlive us.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count, takewhile
from typing import IO, TYPE_CHECKING, Self

from polyladder_ops import portable
from polyladder_ops.errors import OpsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from polyladder_ops.postgres.conninfo import Target

__all__ = ["TABLES", "Commit", "Record", "Writer"]

_PATIENCE_S = 30.0
_COMMITS_PER_S = 1000  # at full speed it would take a core from the backup that it runs beside
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CLOCK = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
# One transaction a table; {n} counts them. The audit log takes additions only.
_WORK = {
    "learning.review": (
        "INSERT INTO learning.review"
        " (user_number, word_id, grade, ease, interval_days, elapsed_ms, reviewed_at)"
        " VALUES (1 + {n} % 100, 1 + {n} % 300, {n} % 6, 2.5, {n} % 30, 900 + {n}, clock_timestamp())"
    ),
    "public.users": (
        "UPDATE public.users SET streak_days = streak_days + 1, last_seen_at = clock_timestamp()"
        " WHERE number = 1 + {n} % 100"
    ),
    "learning.progress_event": (
        "INSERT INTO learning.progress_event (user_id, kind, payload, happened_at)"
        " SELECT id, 'word.learned', jsonb_build_object('word', {n}, 'mistakes', '[]'::jsonb), clock_timestamp()"
        " FROM public.users WHERE number = 1 + {n} % 100"
    ),
    "learning.session": (
        "INSERT INTO learning.session (user_id, lesson_id, started_at)"
        " SELECT id, 1 + {n} % 30, clock_timestamp() FROM public.users WHERE number = 1 + {n} % 100;"
        " UPDATE learning.session SET xp = xp + 1, ended_at = greatest(ended_at, started_at) + '1 s'"
        " WHERE id = 1 + {n} % 300"
    ),
    "public.notification": (
        "DELETE FROM public.notification WHERE id = {n};"
        " INSERT INTO public.notification (user_id, kind, title, body, sent_at)"
        " SELECT id, 'streak', 'Weiter so!', 'Tag ' || {n}, clock_timestamp()"
        " FROM public.users WHERE number = 1 + {n} % 100"
    ),
    "learning.note": (
        "UPDATE learning.note SET body = body || '.', edited_at = clock_timestamp() WHERE id = 1 + {n} % 50"
    ),
    "audit.log": (
        "INSERT INTO audit.log (action, object, after) VALUES ('update', 'users/{n}', '{{\"n\": {n}}}')"
    ),
}
TABLES = tuple(_WORK)
"""The tables that are written to, with their schemas."""


@dataclass(frozen=True)
class Commit:
    """One committed transaction: it became visible between two instants of the server's clock."""

    table: str
    after: datetime
    before: datetime


@dataclass(frozen=True)
class Record:
    """What a writer committed, in order."""

    commits: tuple[Commit, ...]

    def commits_between(self, start: datetime, end: datetime) -> dict[str, int]:
        """Return the number of commits per table that surely fell between two instants of the server's clock."""
        return dict(Counter(c.table for c in self.commits if start <= c.after and c.before <= end))


class Writer:
    """Writes to a filled sandbox database from `start`, or from entering the block, until `stop`, or its end."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._commits: list[Commit] = []
        self._error = ""
        self._begun = threading.Event()

    def start(self) -> None:
        """Start to write; return when every table has had its first commit. Raise OpsError if that fails."""
        process = self._process = portable.start(
            [sys.executable, "-m", "polyladder_ops.sandbox.writer"],
            env=portable.clean_environment({"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        self._reader.start()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone already; the reader knows
            process.stdin.write(json.dumps(dict(self._target.parameters)).encode() + b"\n")
            process.stdin.flush()
        if not self._begun.wait(_PATIENCE_S) or len(self._commits) < len(TABLES):
            self._end()
            raise OpsError("the writer did not start", detail=self._error or "It ended without a word.")

    def commits_since(self, instant: datetime) -> dict[str, int]:
        """Return the number of commits per table, so far, that surely came after an instant of the server's clock."""
        return dict(
            Counter(c.table for c in takewhile(lambda c: c.after >= instant, reversed(self._commits)))
        )

    def stop(self) -> Record:
        """Stop to write and return what was committed. Raise OpsError if the writer had to stop before."""
        self._end()
        if self._error:
            raise OpsError("the writer could not go on", detail=self._error)
        return Record(tuple(self._commits))

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()  # this ends it
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_S)
        portable.end(process)
        if process.returncode:
            self._error = self._error or f"It ended with code {process.returncode}."
        if self._reader:
            self._reader.join()
        process.stdout.close()

    def _read(self, lines: IO[bytes]) -> None:
        for line in lines:
            told = json.loads(line)
            if isinstance(told, str):
                self._error = told
                break
            table, after, before = told
            self._commits.append(Commit(TABLES[table], _instant(after), _instant(before)))
            if len(self._commits) == len(TABLES):
                self._begun.set()
        self._begun.set()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._end()


def _instant(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _write(target: Target, stopped: threading.Event, tell: Callable[[object], None]) -> None:
    """Commit until `stopped` is set; tell each commit's place in TABLES, and the clock before and after it."""
    from polyladder_ops.postgres.session import connect, translated

    settings = {"synchronous_commit": "off"}
    with connect(target, settings=settings) as connection, translated("could not write"):
        begun = time.monotonic()
        for number in count():
            if stopped.wait(max(0.0, begun + number / _COMMITS_PER_S - time.monotonic())):
                return
            n, table = divmod(number, len(TABLES))
            work = _WORK[TABLES[table]].format(n=n + 1)
            # One round trip. The clock is read again after COMMIT: by then everybody sees the rows.
            cursor = connection.execute(f"BEGIN; {work}; {_CLOCK}; COMMIT; {_CLOCK}".encode())
            instants = [row[0] for result in cursor.results() if result.description for row in result]
            tell([table, *instants])


def _main() -> None:
    from polyladder_ops.postgres.conninfo import Target

    # Unbuffered: a thread that waits in a buffered stdin can't be left behind at exit.
    with (
        open(0, "rb", buffering=0, closefd=False) as asked,
        open(1, "wb", buffering=0, closefd=False) as told,
    ):
        target = Target.of(**json.loads(asked.readline()))
        stopped = threading.Event()

        def wait_for_the_end() -> None:
            asked.read()
            stopped.set()

        def tell(what: object) -> None:
            told.write(json.dumps(what).encode() + b"\n")

        threading.Thread(target=wait_for_the_end, daemon=True).start()
        try:
            _write(target, stopped, tell)
        except OpsError as error:
            tell(f"{error.message}: {error.detail}")


if __name__ == "__main__":
    _main()
