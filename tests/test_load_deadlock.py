"""Somebody who locks what a batch of statements wants, in another order, such as autovacuum, does not end a load."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import session
from polyladder_ops.postgres.lexer import Lexer
from polyladder_ops.postgres.load import loader
from polyladder_ops.postgres.load.loader import Loader
from tests.dumps import dump

if TYPE_CHECKING:
    from polyladder_ops.postgres.conninfo import Target

TABLES = "CREATE TABLE public.a (n integer); CREATE TABLE public.b (n integer)"
WAITING = "SELECT count(*) FROM pg_catalog.pg_locks WHERE NOT granted"
TEXT = dump(
    b"ALTER TABLE public.a ADD COLUMN m integer;\n",
    b"ALTER TABLE public.b ADD COLUMN m integer;\n",
    b"INSERT INTO public.a VALUES (1, 2);\n",
)


class Crossing:
    """Locks b, waits until somebody waits for it, then wants a; again and again, as often as it is told."""

    def __init__(self, target: Target, times: int) -> None:
        self._target, self._times = target, times
        self.ready = threading.Event()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._work)
        self.thread.start()
        assert self.ready.wait(10)

    def _work(self) -> None:
        with closing(session.connect(self._target)) as own, closing(session.connect(self._target)) as looking:
            # The one that waits longer must be the loader, since who looks for a deadlock first is ended.
            own.execute("SET deadlock_timeout = '1min'")
            for _ in range(self._times):
                own.execute("BEGIN; LOCK TABLE public.b IN SHARE UPDATE EXCLUSIVE MODE")
                self.ready.set()
                while not self.over.is_set() and looking.execute(WAITING).fetchone() == (0,):
                    time.sleep(0.005)
                own.execute("LOCK TABLE public.a IN SHARE UPDATE EXCLUSIVE MODE")
                own.execute("COMMIT")


def fed(target: Target, before: str = "") -> list[tuple[object, ...]]:
    with closing(session.connect(target, settings={"deadlock_timeout": "100ms"})) as connection:
        if before:
            connection.execute(before.encode())
        loader = Loader(connection)
        lexer = Lexer(loader)
        lexer.feed(TEXT)
        lexer.close()
        loader.finish()
        return connection.execute("SELECT * FROM public.a").fetchall()


def test_a_batch_that_met_a_deadlock_is_sent_again_and_done_once(database: Target) -> None:
    with closing(session.connect(database)) as connection:
        connection.execute(TABLES.encode())
    other = Crossing(database, 2)
    try:
        assert fed(database) == [(1, 2)]
    finally:
        other.over.set()
        other.thread.join(20)


@pytest.mark.parametrize("before", ["", "BEGIN"], ids=["too often", "in a transaction of ours"])
def test_one_that_is_met_too_often_or_can_not_be_undone_alone_ends_the_load(
    database: Target, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not before:
        monkeypatch.setattr(loader, "_TRIES", 1)
    with closing(session.connect(database)) as connection:
        connection.execute(TABLES.encode())
    other = Crossing(database, 1)
    try:
        with pytest.raises(OpsError, match="the server refused a part of the dump") as caught:
            fed(database, before)
        assert "deadlock detected" in caught.value.detail
    finally:
        other.over.set()
        other.thread.join(20)
