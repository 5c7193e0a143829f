"""A connection that is cut at any statement of any command that looks at, or works on, databases: told, never a bug of ours."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.faults.places import Ended, Place
from tests.faults.restores import Stage, stage
from tests.faults.wire import Strike, wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.postgres.conninfo import Target

# So many of a command's statements are struck at, chosen by a seed; a sweep strikes at all of them.
SOME = int(os.environ.get("TEST_CUTS", "5"))


@pytest.fixture(scope="module")
def shared_stage(role: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("cuts")
    place = Place(role, folder / "backups", folder / "state" / "runs")
    with stage(place, name=f"live_cuts_{os.getpid()}") as made:
        yield made


@pytest.fixture
def on_stage(shared_stage: Stage) -> Stage:
    """A live database with one that a restore has set aside."""
    shared_stage.set_up()
    shared_stage.replace()
    return shared_stage


def through(on_stage: Stage, words: list[str], watch: Callable[[str, str], Strike | None]) -> Ended:
    """How the command ends whose statements pass a relay that is told each."""
    with wire(on_stage.target.port, watch) as by:
        url = on_stage.place.url().replace(f":{on_stage.target.port}/", f":{by.port}/")
        return on_stage.place.invoke(*words, DATABASE_URL=url)


def cut_at(wanted: int) -> Callable[[str, str], Strike | None]:
    seen = 0

    def watch(_application: str, _text: str) -> Strike | None:
        nonlocal seen
        seen += 1
        return Strike("before") if seen == wanted else None

    return watch


@pytest.mark.parametrize(
    "words",
    [
        ["restore.status"],
        ["-R", "restore.undo"],
        ["restore.undo", "--force"],
        ["restore.abort"],
        ["-R", "restore.discard"],
        ["restore.discard", "--without-backup", "--force"],
        ["-R", "restore", "--backup=latest"],
        ["doctor"],
        ["backup"],
        ["restore", "--backup=latest", "--force"],
        ["restore", "--backup=latest", "--in-place", "--without-backup", "--force"],
    ],
    ids=" ".join,
)
def test_a_command_that_loses_its_connection_tells_so(words: list[str], on_stage: Stage) -> None:
    told: list[str] = []
    through(on_stage, words, lambda _application, text: told.append(text))
    count = len(told)
    assert count
    for wanted in sorted(random.Random(0).sample(range(1, count + 1), min(SOME, count))):
        on_stage.set_up()
        on_stage.replace()
        ended = through(on_stage, words, cut_at(wanted))
        said = f"cut at statement {wanted} of {count} ({told[wanted - 1][:90]}):\n{ended.said}"
        assert "Traceback" not in ended.said, said
        assert "this is a bug" not in ended.said, said


def test_an_undo_that_is_cut_while_it_looks_for_what_killed_runs_left_changes_nothing(
    on_stage: Stage,
) -> None:
    ended = through(
        on_stage,
        ["restore.undo", "--force"],
        lambda _application, text: Strike("before") if "UNION ALL SELECT rolname FROM" in text else None,
    )
    assert ended.code == 1, ended.said
    assert "error: the server failed during `undo`\n" in ended.err
    on_stage.is_restored()
