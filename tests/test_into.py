"""Beside the live database, with `--into`: what is said and named there never leads to the live one."""

from __future__ import annotations

import json
import re
import shlex
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops import setaside
from polyladder_ops.errors import Mismatch
from polyladder_ops.postgres import databases, marks, session, standbys, switch
from tests import node
from tests.conftest import numbers, run
from tests.test_setaside import taken  # noqa: F401 - a fixture
from tests.test_tasks_restore import shop  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.sandbox.server import Server
    from tests.test_tasks import Ended
    from tests.test_tasks_restore import Shop


@pytest.fixture
def beside(shop: Shop) -> str:  # noqa: F811
    """The name of a restored database beside a live one that was restored, too, and has a row more since."""
    name = f"look_{next(numbers)}"
    for words in ([], [f"--into={name}"]):
        done = shop.ask("restore", "--latest", "--force", *words)
        assert done.code == 0, done
    shop.tell("INSERT INTO public.deck (title) VALUES ('since')")
    return name


def replaced(shop: Shop, name: str) -> str:  # noqa: F811
    """Replace it, and return what it is called now."""
    done = shop.ask("restore", "--latest", f"--into={name}", "--replace", "--force")
    assert done.code == 0, done
    (aside,) = shop.asides(name)
    return aside


def named(done: Ended, task: str) -> list[str]:
    """Return the words of the one command of this task that a hint names."""
    found = re.findall(rf"`invoke ({task}[^`]*)`", done.err)
    assert len(found) == 1, done
    return shlex.split(found[0])


def stop_after_the_switch(patch: pytest.MonkeyPatch) -> None:
    def stop(*_words: object) -> None:
        raise KeyboardInterrupt("SIGINT")

    patch.setattr(standbys, "follow", stop)


@pytest.mark.parametrize("way", ["restore", "undo"])
def test_the_hint_of_one_that_was_stopped_after_its_switch_takes_just_that_back(
    way: str,
    beside: str,
    shop: Shop,  # noqa: F811
) -> None:
    shop.tell("CREATE TABLE public.first ()", beside)
    words = ["restore", "--latest", "--replace"]
    if way == "undo":
        replaced(shop, beside)
        shop.tell("CREATE TABLE public.second ()", beside)
        words = ["restore.undo"]
    with pytest.MonkeyPatch.context() as patch:
        stop_after_the_switch(patch)
        stopped = shop.ask(*words, f"--into={beside}", "--force")
    assert stopped.code == 130, stopped
    done = shop.ask(*named(stopped, "restore.undo"), "--force")
    assert done.code == 0, done
    shop.tell("SELECT FROM public.first" if way == "restore" else "SELECT FROM public.second", beside)
    assert shop.decks() == 501


def test_the_hint_of_one_that_made_a_database_and_was_stopped_names_no_undo(shop: Shop) -> None:  # noqa: F811
    with pytest.MonkeyPatch.context() as patch:
        stop_after_the_switch(patch)
        stopped = shop.ask("restore", "--latest", f"--into=look_{next(numbers)}", "--force")
    assert (stopped.code, "restore.undo" in stopped.err) == (130, False), stopped


def test_the_hint_of_a_discard_whose_backup_does_not_come_back_drops_just_that(
    beside: str,
    shop: Shop,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aside, live = replaced(shop, beside), shop.asides()
    take = setaside.take

    def damaged(*words: Any) -> object:
        made = take(*words)
        data = bytearray(made.path.read_bytes())
        data[len(data) // 2] ^= 1
        made.path.write_bytes(data)
        return made

    monkeypatch.setattr(setaside, "take", damaged)
    failed = shop.ask("restore.discard", f"--into={beside}", "--force")
    assert failed.code == Mismatch.exit_code, failed
    done = shop.ask(*named(failed, "restore.discard"), "--force")
    assert done.code == 0, done
    assert aside not in shop.names()
    assert shop.asides() == live


def test_migrations_of_what_was_set_aside_are_refused_with_the_undo_of_just_that(
    beside: str,
    shop: Shop,  # noqa: F811
    tmp_path: Path,
) -> None:
    migrations = node.workspace(tmp_path / "app") / "migrations"
    migrations.mkdir()
    (migrations / "1700000000001_one.sql").write_text("-- Up Migration\nSELECT 1;\n", encoding="utf-8")
    more = {"POLYLADDER_APP_DIR": str(tmp_path / "app"), "POLYLADDER_MIGRATE_COMMAND": "true"}
    aside, live = replaced(shop, beside), shop.asides()
    refused = shop.ask("migrate", f"--database={aside}", **more)
    assert refused.code == 4, refused
    assert named(refused, "restore.undo") == ["restore.undo", f"--database={aside}", f"--into={beside}"]
    refused = shop.ask("migrate", f"--database={live[0]}", **more)
    assert named(refused, "restore.undo") == ["restore.undo", f"--database={live[0]}"]


def test_what_a_dead_discard_left_open_is_named_with_its_abort_which_closes_it(
    beside: str,
    shop: Shop,  # noqa: F811
) -> None:
    aside = replaced(shop, beside)
    with closing(session.connect(shop.live.with_database("postgres"))) as connection:
        (found,) = [m for m in marks.find(connection) if m.name == aside]
        switch.open_to_dump(connection, found)
    status, doctor, plain = (shop.ask(task) for task in ("restore.status", "doctor", "restore.abort"))
    assert (status.code, plain.code) == (3, 1)
    for told in (status, plain):
        assert named(told, "restore.abort") == ["restore.abort", f"--into={beside}"]
    assert f"`invoke restore.abort --into={beside}`" in doctor.out + doctor.err
    assert shop.ask("-R", "restore.abort").out == f"would leave {aside}: set aside, but open\n"
    assert (
        shop.ask("-R", *named(status, "restore.abort")).out == f"would settle {aside}: set aside, but open\n"
    )
    done = shop.ask(*named(status, "restore.abort"))
    assert (done.code, done.out) == (0, f"closed {aside} again\n")
    assert shop.ask("restore.status").code == 0


def test_what_was_set_aside_is_not_replaced_and_stays_the_way_back(beside: str, shop: Shop) -> None:  # noqa: F811
    aside = replaced(shop, beside)
    for words in ([], ["-R"]):
        refused = shop.ask(*words, "restore", "--latest", f"--into={aside}", "--replace", "--force")
        assert refused.code == 4, refused
        assert f"{aside} is what a restore set aside from {beside}" in refused.err
    assert shop.asides(aside) == []
    assert shop.ask("restore.undo", f"--into={beside}", "--force").code == 0


def test_where_the_live_one_is_gone_nothing_is_said_of_setting_it_aside(beside: str, shop: Shop) -> None:  # noqa: F811
    aside = replaced(shop, beside)
    databases.drop(shop.live.with_database("postgres"), beside)
    shown = shop.ask("-R", "restore.undo", f"--into={beside}")
    assert shown.code == 0, shown
    assert f"there is no {beside} any more: nothing is set aside for it" in shown.err
    assert "can't be told" not in shown.err
    with pytest.MonkeyPatch.context() as patch:
        stop_after_the_switch(patch)
        stopped = shop.ask("restore.undo", f"--into={beside}", "--force")
    assert f"interrupted after the switch: {beside} is what {aside} was" in stopped.err
    assert "restore.undo" not in stopped.err


def test_one_that_was_only_opened_is_closed_by_the_lines_of_the_refusal(beside: str, shop: Shop) -> None:  # noqa: F811
    aside = replaced(shop, beside)
    shop.tell(f'ALTER DATABASE "{aside}" ALLOW_CONNECTIONS true', "postgres")
    refused = shop.ask("restore.undo", f"--into={beside}", "--force")
    assert (refused.code, "give it the name" in refused.err) == (4, False)
    for line in re.findall(r"(?:ALTER DATABASE|SELECT) [^;]+", refused.err):
        shop.tell(line, "postgres")
    assert shop.ask("restore.undo", f"--into={beside}", "--force").code == 0


def test_what_another_role_set_aside_is_not_called_gone(
    beside: str,
    shop: Shop,  # noqa: F811
    server: Server,
) -> None:
    aside, other = replaced(shop, beside), f"other_{next(numbers)}"
    run(server.target(), "CREATE ROLE %I LOGIN CREATEDB PASSWORD 'x'", other)
    with closing(session.connect(server.target())) as connection:
        (found,) = [m for m in marks.find(connection) if m.name == aside]
        connection.execute(marks.take_off(found, aside))
        connection.execute(marks.put(aside, found.mark, other))
    told = shop.ask("restore.status")
    assert told.out.splitlines()[-1] == (
        f"OF ANOTHER ROLE {aside}: the role {other} has noted that it set it aside from {beside}, as any role can;"
        f" who acts on it does so as {other} (set DATABASE_URL so)"
    )
    noted = json.loads(shop.ask("restore.status", "--json").out)["of_others"]
    assert noted == [{"name": aside, "was": beside, "role": other}]
    for words in (["restore.undo"], ["restore.undo", f"--database={aside}"], ["restore.discard"]):
        refused = shop.ask(*words, f"--into={beside}", "--force")
        assert refused.code == 4, refused
        assert f"{aside} was set aside by the role {other}" in refused.err
    databases.drop(server.target(), aside)
    run(server.target(), "DROP ROLE %I", other)


def test_a_database_beside_is_told_with_its_checks_and_what_drops_it(shop: Shop) -> None:  # noqa: F811
    name = f"look_{next(numbers)}"
    done = shop.ask("restore", "--latest", f"--into={name}", "--force")
    assert f"`invoke restore.check --database={name}`" in done.err
    (drops,) = re.findall(r"DROP DATABASE .*;", done.err)
    shop.tell(drops, "postgres")
    assert name not in shop.names()
