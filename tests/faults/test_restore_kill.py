"""Restores, undos and discards that are killed at any instant: one complete database has the live name, all the time.

Forty instants are tried, with TEST_SWEEP (`invoke dev.kills`) four hundred.
"""

from __future__ import annotations

import os
import random
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import catalog, setaside
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import switch
from polyladder_ops.postgres.session import connect
from polyladder_ops.restore import undo
from tests.faults.places import Place, with_other
from tests.faults.restores import COMMENT, Poller, Stage, always_one, polling, stage
from tests.faults.wire import Strike, wire

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
SWEEP = 400 if os.environ.get("TEST_SWEEP") == "1" else 40
KILLED = -9
SEED = 20260105


@pytest.fixture(scope="module")
def on_stage(role: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A live database and a backup of what it was; the tests of the module take turns on it."""
    folder = tmp_path_factory.mktemp("kill")
    with stage(
        Place(role, folder / "backups", folder / "state" / "runs"), name=f"live_kill_{os.getpid()}"
    ) as made:
        yield made


@pytest.fixture(scope="module")
def poller(on_stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Poller]:
    """A process that looks at the live name every 20 ms, all the time."""
    on_stage.set_up()
    with polling(on_stage, tmp_path_factory.mktemp("poller") / "seen") as made:
        yield made


def killed(process: subprocess.Popen[bytes], began: float, after_s: float) -> None:
    """Kill the process this long after it began, unless it is done by then."""
    time.sleep(max(0.0, began + after_s - time.time()))
    process.kill()
    process.communicate()
    assert process.returncode in (0, KILLED)


@dataclass
class Instants:
    """Seeded instants of a run, half of them close around its switch; `whole_s` and `switch_s` are measured."""

    whole_s: float
    switch_s: float
    chance: random.Random = field(default_factory=lambda: random.Random(SEED))

    def next(self, turn: int) -> float:
        if turn % 2:
            return self.chance.gauss(self.switch_s, 0.05)
        return self.chance.uniform(0.3 * self.whole_s, 1.02 * self.whole_s)

    def learn(self, *, switched: bool) -> None:
        """Draw the switch closer to where it seems to be now: a machine is as fast as its other work lets it be."""
        by = 0.94 if switched else 1.06
        self.switch_s, self.whole_s = by * self.switch_s, by * self.whole_s


def measured(on_stage: Stage, poller: Poller, *arguments: str) -> Instants:
    """Return the instants of a task that switches, from one run that nobody disturbs."""
    before, began = on_stage.oid(), time.time()
    process = on_stage.start(*arguments)
    ended = on_stage.place.end_of(process)
    assert ended.code == 0, ended.said
    whole_s = time.time() - began
    time.sleep(0.05)
    after = [one for one in poller.seen(began) if one.oids != (before,)]
    return Instants(whole_s, after[0].began - began)


def test_a_restore_that_is_killed_at_any_instant(on_stage: Stage, poller: Poller) -> None:
    on_stage.set_up()
    instants = measured(on_stage, poller)
    on_stage.is_restored()
    on_stage.set_up()
    switched = 0
    for turn in range(SWEEP):
        began = time.time()
        killed(on_stage.start(), began, instants.next(turn))
        is_open_by_itself(on_stage)
        if turn % 10 == 9:  # the next run puts it right, whatever it is
            was = on_stage.oid()
            settled_by_next_run(on_stage)
            always_one(poller.seen(began), on_stage.old, was, on_stage.oid())
            on_stage.set_up()
            continue
        on_stage.abort()
        now = on_stage.oid()
        instants.learn(switched=now != on_stage.old)
        always_one(poller.seen(began), on_stage.old, now)
        if now == on_stage.old:
            on_stage.is_untouched()
        else:
            switched += 1
            on_stage.is_restored()
            on_stage.set_up()
    assert 0 < switched < SWEEP


def is_open_by_itself(on_stage: Stage) -> None:
    """Check that the app gets in although nobody has cleaned up, as soon as the server has seen that the run is dead."""
    with closing(
        connect(on_stage.target)
    ) as connection:  # waits for the lock of a rename that is still under way
        assert connection.execute("SELECT answer FROM public.which").fetchone() in (("live",), ("backup",))
    assert [m.mark.kind for m in on_stage.marked(on_stage.asking) if m.name == on_stage.target.database] == []


def settled_by_next_run(on_stage: Stage) -> None:
    process = on_stage.start()
    ended = on_stage.place.end_of(process)
    assert ended.code == 0, ended.said
    connection = on_stage.asking
    asides = len(on_stage.marked(connection))
    on_stage.is_clean(asides=asides)
    on_stage.holds(on_stage.backup.manifest.contents)


BEGINS = "SELECT pg_catalog.set_config('idle_in_transaction_session_timeout', $1, "


@dataclass
class Striking:
    """Hears the statements of the session that holds the lock, from the first one of a switch to its COMMIT; strikes one."""

    doing: str
    at: int = -1
    strike: Strike | None = None
    heard: list[str] = field(default_factory=list)

    def __call__(self, application: str, text: str) -> Strike | None:
        if not application.startswith(f"polyladder-ops {self.doing} ") or "COMMIT" in self.heard:
            return None
        if self.heard or text.startswith(BEGINS):
            self.heard.append(text)
            if len(self.heard) == self.at + 1:
                return self.strike
        return None


def test_a_restore_that_is_killed_at_each_statement_of_its_switch(on_stage: Stage, poller: Poller) -> None:
    on_stage.set_up()
    hearing = Striking("restore")
    with wire(on_stage.target.port, hearing) as by:
        on_stage.replace(with_other(on_stage.target, port=by.port))
    on_stage.is_restored()
    on_stage.set_up()
    assert sum(" RENAME TO " in text for text in hearing.heard) == 2
    assert hearing.heard[-1] == "COMMIT"
    switched = []
    for at in range(len(hearing.heard)):
        began = time.time()
        running: list[subprocess.Popen[bytes]] = []

        def kill(running: list[subprocess.Popen[bytes]] = running) -> None:
            running[0].kill()

        with wire(on_stage.target.port, Striking("restore", at, Strike("sent", kill))) as by:
            running.append(on_stage.start(DATABASE_URL=url_by(on_stage, by.port)))
            assert on_stage.place.end_of(running[0]).code == KILLED
        is_open_by_itself(on_stage)
        on_stage.abort()
        always_one(poller.seen(began), on_stage.old, on_stage.oid())
        if on_stage.oid() == on_stage.old:
            on_stage.is_untouched()
        else:
            switched.append(at)
            on_stage.is_restored()
            on_stage.set_up()
    assert switched == [len(hearing.heard) - 1]


def url_by(on_stage: Stage, port: int) -> str:
    return on_stage.place.url().replace(f":{on_stage.target.port}/", f":{port}/")


def undone(on_stage: Stage, target: Target) -> None:
    undo.undo(target, "", site=on_stage.site, accept=frozenset(), say=lambda _: None, confirm=lambda _: None)


@dataclass
class Pair:
    """Two databases that change places: after each turn one is live and complete, the other aside, closed and complete."""

    on_stage: Stage

    def __post_init__(self) -> None:
        self.on_stage.set_up()
        self.on_stage.replace()
        self.live = self.on_stage.oid()

    def looked_at(self) -> bool:
        """Return whether they have changed places since the last look."""
        on_stage = self.on_stage
        was, self.live = self.live, on_stage.oid()
        on_stage.is_clean(asides=1)
        on_stage.holds(on_stage.before if self.live == on_stage.old else on_stage.backup.manifest.contents)
        connection = on_stage.asking
        (aside,) = on_stage.marked(connection)
        switch.let_in(connection, aside.name)
        on_stage.holds(
            on_stage.before if aside.oid == on_stage.old else on_stage.backup.manifest.contents,
            aside.name,
        )
        switch.close(connection, aside.name)
        assert switch.comment_of(connection, aside.name) == COMMENT
        return was != self.live


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_undo_whose_session_is_cut_at_each_statement_says_what_is_true(when: str, on_stage: Stage) -> None:
    pair = Pair(on_stage)
    hearing = Striking("undo")
    with wire(on_stage.target.port, hearing) as by:
        undone(on_stage, with_other(on_stage.target, port=by.port))
    assert pair.looked_at()
    switched = []
    for at in range(len(hearing.heard)):
        with (
            wire(on_stage.target.port, Striking("undo", at, Strike(when))) as by,
            pytest.raises(OpsError) as caught,
        ):
            undone(on_stage, with_other(on_stage.target, port=by.port))
        assert caught.value.exit_code == 1
        if pair.looked_at():
            switched.append(at)
            assert "was switched" in caught.value.message
        else:
            said = caught.value.message
            assert "left as it was" in said or "was lost, so nothing more was changed" in said
    assert switched == ([len(hearing.heard) - 1] if when == "after" else [])


def test_an_undo_that_is_killed_at_any_instant(on_stage: Stage, poller: Poller) -> None:
    pair = Pair(on_stage)
    instants = measured(on_stage, poller, "restore.undo", "--force")
    assert pair.looked_at()
    for turn in range(SWEEP // 5):
        was, began = pair.live, time.time()
        killed(on_stage.start("restore.undo", "--force"), began, instants.next(turn))
        on_stage.abort()
        instants.learn(switched=pair.looked_at())
        answers = ("live", "backup") if was == on_stage.old else ("backup", "live")
        always_one(poller.seen(began), was, pair.live, answers=answers)


def test_a_discard_that_is_killed_at_any_instant_keeps_the_rows_somewhere(
    on_stage: Stage, poller: Poller
) -> None:
    began = time.time()
    on_stage.set_up()
    on_stage.replace()
    process = on_stage.start("restore.discard", "--force")
    assert on_stage.place.end_of(process).code == 0
    whole_s = time.time() - began
    chance = random.Random(SEED)
    dropped = True
    for _ in range(SWEEP // 5):
        if dropped:
            assert rows_are_backed_up(on_stage)
            on_stage.set_up()
            on_stage.replace()
        live, began = on_stage.oid(), time.time()
        killed(on_stage.start("restore.discard", "--force"), began, chance.uniform(0.3, 1.0) * whole_s)
        on_stage.abort()
        assert {one.oids for one in poller.seen(began)} == {(live,)}
        connection = on_stage.asking
        dropped = not on_stage.marked(connection)
        on_stage.is_clean(asides=0 if dropped else 1)
        on_stage.holds(on_stage.backup.manifest.contents)
        if not dropped:
            on_stage.is_restored()


def rows_are_backed_up(on_stage: Stage) -> bool:
    """Whether there is a verified backup of what was live before the restore."""
    found = catalog.scan(on_stage.place.folder, setaside.aside_site(on_stage.site.name)).backups
    kept = [b for b in found if b.verified and b.manifest.source.database_oid == on_stage.old]
    return bool(kept) and kept[0].manifest.contents.tables == on_stage.before.tables
