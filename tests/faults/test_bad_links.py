"""Backups, verifications, restores and undos over a link that stalls, cuts and delays: all end, and what is green is true.

A few seeded rounds, with TEST_MINUTES (`invoke dev.links`) as many as fit into that many minutes.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import catalog, setaside, verification
from polyladder_ops.postgres import databases, switch
from polyladder_ops.postgres.locks import Busy
from polyladder_ops.postgres.proof import differences, read_back
from polyladder_ops.postgres.session import connect
from tests.faults.places import Ended, Place
from tests.faults.restores import Stage, stage
from tests.faults.weather import Sky, Weather, drawn, under
from tests.forging import dump_of, forged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.catalog import Backup

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a reset can't be told from an end there")
MINUTES = float(os.environ.get("TEST_MINUTES", "0"))
ROUNDS = 6  # without TEST_MINUTES
SEED = 20261201
ENDS_WITHIN_S = 240
FREE_WITHIN_S = 90  # a server lets go of a silent run after 30 s; its machine may have other work
INDEX = b"CREATE INDEX note_body_idx ON public.note USING btree (body);\n"


@pytest.fixture(scope="module")
def on_stage(role: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A live database and a backup of what it was; the rounds take turns on it."""
    folder = tmp_path_factory.mktemp("links")
    place = Place(role, folder / "backups", folder / "state" / "runs")  # type: ignore[arg-type]
    with stage(place, name=f"live_links_{os.getpid()}") as made:
        yield made


@dataclass
class Rounds:
    """Does one thing after the other under seeded weather, and looks at what came of it."""

    on_stage: Stage
    bad: Backup
    """Its index is missing and its manifest tells of it: nothing that proves it may be green."""
    chance: random.Random = field(default_factory=lambda: random.Random(SEED))
    ended: Counter[str] = field(default_factory=Counter)
    bytes_of: dict[str, int] = field(default_factory=dict)

    def one(self) -> str:
        """Do one thing and return what it was, how the weather was, and how it ended."""
        name = self.chance.choice(sorted(self.ways))
        weather = drawn(self.chance, most_bytes=self.bytes_of[name])
        return self.under(name, weather)

    def under(self, name: str, weather: Weather) -> str:
        with under(weather, self.on_stage.target.port) as sky:
            code = self.ways[name](sky)
        self.ended[f"{name} {code}"] += 1
        return f"{name}: {weather}{'' if sky.has_struck else ' (never came)'}: {code}"

    def measured(self) -> None:
        """Do each thing once in clear weather: it is green, and its bytes are known."""
        for name, way in self.ways.items():
            with under(Weather("clear", 0, 0), self.on_stage.target.port) as sky:
                assert way(sky) == (3 if name.endswith("bad") else 0), name
            self.bytes_of[name] = sky.came

    @property
    def taken(self) -> Path:
        """Where the live database's own backups go; the stage's is of what the live one is a copy of."""
        return self.on_stage.place.folder.parent / "taken"

    @property
    def ways(self) -> dict[str, Callable[[Sky], int]]:
        return {
            "backup": self.backup,
            "verify": self.verify,
            "verify bad": self.verify_bad,
            "restore": self.restore,
            "restore bad": self.restore_bad,
            "undo": self.undo,
        }

    # What is done, and what must hold after it -------------------------------------------------------------------

    def invoke(self, sky: Sky, *arguments: str, **environment: str) -> Ended:
        url = self.on_stage.place.url().replace(f":{self.on_stage.target.port}/", f":{sky.port}/")
        environment = {"DATABASE_URL": url, "POLYLADDER_SCRATCH_URL": url, **environment}
        process = self.on_stage.start(*arguments, **environment)
        ended = self.on_stage.place.end_of(process, within_s=ENDS_WITHIN_S)
        assert ended.code in (0, 1, 3, 4), ended.said
        assert "Traceback" not in ended.said, ended.said
        return ended

    def backup(self, sky: Sky) -> int:
        known = {one.id for one in self.listed()}
        ended = self.invoke(sky, "backup", BACKUP_DIR=str(self.taken))
        new = [one for one in self.listed() if one.id not in known]
        for one in new:
            assert verification.verify_stored(one, []).passed
            with closing(connect(self.on_stage.target)) as connection:
                found = read_back.read_contents(connection, one.manifest.contents)
            assert differences.compare_contents(one.manifest.contents, found) == []
            one.path.with_name(f"{one.path.name}.json").unlink()
            one.path.unlink()
        assert len(new) == 1 if ended.code == 0 else len(new) <= 1, ended.said
        self.is_free()
        return ended.code

    def listed(self) -> tuple[Backup, ...]:
        return catalog.scan(self.taken, self.on_stage.site.name).backups

    def verify(self, sky: Sky) -> int:
        ended = self.invoke(sky, "verify", f"--backup={self.on_stage.backup.path}", "--level=restore")
        assert "FAILED" not in ended.said, ended.said
        return ended.code

    def verify_bad(self, sky: Sky) -> int:
        code = self.invoke(sky, "verify", f"--backup={self.bad.path}", "--level=restore").code
        assert code != 0
        return code

    def restore(self, sky: Sky) -> int:
        return self.switched(sky, *self.on_stage.arguments)

    def restore_bad(self, sky: Sky) -> int:
        code = self.switched(sky, "restore", f"--backup={self.bad.path}", "--force")
        assert code != 0
        assert self.on_stage.oid() == self.on_stage.old
        return code

    def undo(self, sky: Sky) -> int:
        """A restore in good weather, and its undo."""
        self.on_stage.set_up()
        old = self.on_stage.oid()
        self.on_stage.replace()
        new = self.on_stage.oid()
        ended = self.invoke(sky, "restore.undo", "--force")
        self.is_open(ended)
        self.is_free()
        live = self.on_stage.oid()
        assert live == old if ended.code == 0 else live in (old, new), ended.said
        self.on_stage.holds(self.on_stage.before if live == old else self.on_stage.backup.manifest.contents)
        return ended.code

    def switched(self, sky: Sky, *arguments: str) -> int:
        """Restore. The live database is the old one, or the proved copy with the old one aside; green is the copy."""
        self.on_stage.set_up()
        ended = self.invoke(sky, *arguments)
        self.is_open(ended)
        self.is_free()
        if self.on_stage.oid() == self.on_stage.old:
            assert ended.code != 0, ended.said
            self.on_stage.is_untouched()
        else:
            self.on_stage.is_restored()
        return ended.code

    def is_open(self, ended: Ended) -> None:
        """Check that the app gets in, although nobody has cleaned up."""
        with closing(connect(self.on_stage.target, timeout_s=60)) as app:
            assert app.execute("SELECT count(*) FROM public.which").fetchone() == (1,), ended.said

    def is_free(self) -> None:
        """Clean up by our own way, past the weather, as soon as the server has let go of a run that is gone."""
        deadline = time.monotonic() + FREE_WITHIN_S
        while True:
            with contextlib.suppress(Busy):
                setaside.abort(self.on_stage.target)
                return
            assert time.monotonic() < deadline, "the server keeps the lock of a run that is gone"
            time.sleep(0.5)

    def leaves_nothing(self) -> None:
        """Check that our own way takes away all that cut proofs and restores left, once the server has let go of them."""
        deadline = time.monotonic() + FREE_WITHIN_S
        while left := [name for name in switch.names(self.on_stage.asking) if databases.is_temporary(name)]:
            assert time.monotonic() < deadline, left
            self.is_free()
            time.sleep(0.5)


@pytest.mark.timeout(max(900, MINUTES * 60 + 600))
def test_all_ends_and_what_is_green_is_true(on_stage: Stage) -> None:
    on_stage.set_up()
    dump = dump_of(on_stage.backup)
    assert dump.count(INDEX) == 1
    bad = forged(on_stage.backup, on_stage.place.folder.parent / "bad", dump.replace(INDEX, b""))
    rounds = Rounds(on_stage, bad)
    rounds.measured()
    until = time.monotonic() + MINUTES * 60
    done = 0
    while done < ROUNDS if not MINUTES else time.monotonic() < until:
        print(f"round {done}:", rounds.one(), flush=True)
        done += 1
    print(dict(sorted(rounds.ended.items())), flush=True)
    rounds.leaves_nothing()
