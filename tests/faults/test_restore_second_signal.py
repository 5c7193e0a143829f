"""A real `invoke` whose clean-up somebody leaves, or that no server answers: it ends in time, and what it names is true."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.postgres.session import connect
from tests.faults.places import Place
from tests.faults.restores import Stage, stage
from tests.faults.tunnel import tunnel
from tests.faults.wire import wire

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target
    from tests.faults.places import Ended

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
WITHIN_S = 2.0
SETTLES = "SELECT oid::int8 FROM pg_catalog.pg_database WHERE datname"


@pytest.fixture(scope="module")
def on_stage(role: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A live database and a backup of what it was; the tests of the module take turns on it."""
    folder = tmp_path_factory.mktemp("second_signal")
    with stage(
        Place(role, folder / "backups", folder / "state" / "runs"), name=f"live_second_{os.getpid()}"
    ) as made:
        made.set_up()
        yield made


@dataclass
class Impatient:
    """Stops the run at the `turn`th of some words, if there are any; holds the server's ear at the words of the clean-up.

    Then it sends as many more signals as it is told, and nothing is let through any more until `release`.
    """

    words: str
    cleaning: str = "DROP DATABASE"
    turn: int = 1
    name: str = "SIGINT"
    more: int = 1
    process: list[subprocess.Popen[bytes]] = field(default_factory=list)
    stopped: bool = False
    sent_at: float = 0.0
    released: threading.Event = field(default_factory=threading.Event)

    def __call__(self, _application: str, text: str) -> None:
        if self.words and self.words in text and not self.stopped:
            self.turn -= 1
            if self.turn == 0:
                self.stopped = True
                self.send()
        elif self.cleaning in text and (self.stopped or not self.words) and not self.sent_at:
            self.sent_at = time.monotonic()
            for _ in range(self.more):
                self.send()
                time.sleep(0.05)
            self.released.wait(30)

    def send(self) -> None:
        os.kill(self.process[0].pid, getattr(signal, self.name))


def left(on_stage: Stage, impatient: Impatient, *arguments: str, **environment: str) -> Ended:
    """Return how it ended, in time after the second signal, without a traceback or half a word."""
    with wire(on_stage.target.port, impatient) as by:
        url = on_stage.place.url().replace(f":{on_stage.target.port}/", f":{by.port}/")
        told = {name: text.replace("URL", url) for name, text in environment.items()}
        impatient.process.append(on_stage.start(*arguments, **({"DATABASE_URL": url} | told)))
        try:
            ended = on_stage.place.end_of(impatient.process[0])
            ended_at = time.monotonic()
        finally:
            impatient.released.set()
    assert impatient.sent_at, ended.said
    assert ended_at - impatient.sent_at < WITHIN_S
    assert ended.code == 130, ended.said
    assert "Traceback" not in ended.err
    assert ended.err.endswith(".\n")
    return ended


def finished_by(on_stage: Stage, ended: Ended) -> str:
    """Return what the command that it named says."""
    hint = ended.err.splitlines()[-1]
    command = re.match(r"hint: Run `invoke (\S+)`", hint)
    assert command, hint
    on_stage.place.wait_for(lambda: not on_stage_holder(on_stage), within_s=5)
    done = on_stage.place.invoke(command[1])
    assert done.code == 0, done.said
    return done.out


def on_stage_holder(on_stage: Stage) -> str:
    from polyladder_ops import setaside

    return setaside.status(on_stage.target).holder


@pytest.mark.parametrize(
    ("name", "more"),
    [("SIGINT", 1), ("SIGTERM", 4)],
    ids=["Ctrl-C", "SIGTERM again and again"],
)
def test_a_second_signal_leaves_the_copy_and_names_what_drops_it(
    name: str, more: int, on_stage: Stage
) -> None:
    ended = left(on_stage, Impatient("COPY public.note", name=name, more=more))
    (copy,) = re.findall(r"^dropping the database (polyladder_beside_\w+) …$", ended.err, re.MULTILINE)
    assert f"error: interrupted by {name}, so the clean-up was left\n" in ended.err
    assert f"detail: Perhaps still there: the database {copy}." in ended.err
    said = finished_by(on_stage, ended)
    # The server may have come to the end of the drop by itself; then its login, or nothing, is left.
    assert said in (
        f"dropped the half-made copy {copy}\n",
        f"dropped the login of a copy, {copy}\n",
        "nothing was left over\n",
    )
    on_stage.is_untouched()


def test_a_second_signal_amid_the_names_leaves_nothing_but_the_copy(on_stage: Stage) -> None:
    name = on_stage.target.database
    ended = left(on_stage, Impatient(" RENAME TO ", SETTLES, turn=2))
    assert f"finding out which database is {name} …\n" in ended.err
    assert f"Which database is {name} was not found out." in ended.err
    with closing(connect(on_stage.target)) as connection:  # by itself
        assert connection.execute("SELECT answer FROM public.which").fetchone() == ("live",)
    assert finished_by(on_stage, ended).startswith("dropped the half-made copy ")
    on_stage.is_untouched()


def test_a_first_signal_amid_the_clean_up_of_a_failure_leaves_it_and_tells_of_both(
    on_stage: Stage,
) -> None:
    checks = on_stage.place.private.parent / "checks.sql"
    checks.write_text("-- check: nobody\n-- expect: 0\nSELECT count(*) FROM public.note;\n")
    ended = left(on_stage, Impatient(""), POLYLADDER_CHECKS=str(checks))
    assert "error: interrupted by SIGINT, so the clean-up was left\n" in ended.err
    assert "Before that: 1 of your checks failed on the copy" in ended.err
    finished_by(on_stage, ended)
    on_stage.is_untouched()


def test_a_proof_whose_clean_up_is_left_is_cleaned_up_by_the_next(on_stage: Stage) -> None:
    verifying = ("verify", f"--backup={on_stage.backup.id}", "--level=restore")
    ended = left(on_stage, Impatient("COPY public.note"), *verifying, POLYLADDER_SCRATCH_URL="URL")
    (copy,) = re.findall(r"^dropping the database (polyladder_verify_\w+) …$", ended.err, re.MULTILINE)
    assert f"Perhaps still there: the database {copy}." in ended.err
    assert ended.err.endswith("hint: The next `invoke verify --level=restore` removes it.\n")
    on_stage.place.wait_for(lambda: not scratch_is_held(on_stage, copy), within_s=5)
    again = on_stage.place.invoke(*verifying, POLYLADDER_SCRATCH_URL=on_stage.place.url())
    assert again.code == 0, again.said
    assert not there(on_stage, copy)


def scratch_is_held(on_stage: Stage, copy: str) -> bool:
    from polyladder_ops.postgres import locks

    return there(on_stage, copy) and bool(locks.holder(on_stage.asking, copy))


def there(on_stage: Stage, name: str) -> bool:
    found = on_stage.asking.execute("SELECT FROM pg_database WHERE datname = %s", [name])
    return found.fetchone() is not None


def test_a_signal_amid_the_drop_of_a_discard_does_not_leave_half_a_database(on_stage: Stage) -> None:
    """A DROP DATABASE that is cancelled can't be taken back, and nobody gets into what it leaves."""
    on_stage.replace()
    sent: list[float] = []

    def stop(_application: str, text: str) -> None:
        if "DROP DATABASE" in text and not sent:
            sent.append(time.monotonic())
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)

    with wire(on_stage.target.port, stop) as by:
        url = on_stage.place.url().replace(f":{on_stage.target.port}/", f":{by.port}/")
        process = on_stage.start("restore.discard", "--force", "--without-backup", DATABASE_URL=url)
        ended = on_stage.place.end_of(process)
    assert (ended.code, bool(sent)) == (130, True), ended.said
    on_stage.is_clean(asides=0)
    on_stage.set_up()


@pytest.mark.parametrize("where", ["COPY public.note", "ANALYZE"])
def test_a_server_that_falls_silent_is_not_waited_for_when_somebody_stops_it(
    where: str, on_stage: Stage
) -> None:
    sent_at: list[float] = []
    with tunnel(on_stage.target.port) as by:

        def silence(_application: str, text: str) -> None:
            if where in text and not sent_at:
                by.hold()
                sent_at.append(time.monotonic())
                os.kill(process.pid, signal.SIGINT)

        with wire(by.port, silence) as relay:
            url = on_stage.place.url().replace(f":{on_stage.target.port}/", f":{relay.port}/")
            process = on_stage.start(DATABASE_URL=url)
            ended = on_stage.place.end_of(process)
            assert time.monotonic() - sent_at[0] < 10
    assert ended.code == 130, ended.said
    (copy,) = re.findall(r"^dropping the database (polyladder_beside_\w+) …$", ended.err, re.MULTILINE)
    assert f"detail: Besides, the database {copy} is still there: " in ended.err
    finished_by(on_stage, ended)
    on_stage.is_untouched()
