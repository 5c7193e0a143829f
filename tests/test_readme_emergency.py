"""README's eight lines for a bad night: each is a command that exists, and in this order they bring a database back."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from polyladder_ops.postgres import databases
from polyladder_ops.tasks import ns
from tests.test_readme import README, block
from tests.test_tasks_restore import LATE, Shop, shop, taken  # noqa: F401 - two are fixtures

if TYPE_CHECKING:
    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target

CHECKS = "-- check: all decks are there\n-- expect: 500\nSELECT count(*) FROM public.deck;\n"


def lines() -> list[str]:
    shown = re.fullmatch(r"```bash\n(.*)\n```", block("emergency"), re.DOTALL)
    assert shown
    return shown[1].splitlines()


def test_the_emergency_stands_near_the_top_in_eight_lines_of_a_terminals_width() -> None:
    assert len(lines()) == 8
    assert max(map(len, lines())) <= 80
    text = README.read_text(encoding="utf-8")
    assert text[: text.index("<!-- emergency -->")].count("\n") < 12


def test_each_of_its_lines_is_a_command_that_exists_and_says_what_for() -> None:
    first, *rest = lines()
    assert first.startswith("export POLYLADDER_SITE=")
    for line in rest:
        command, _, why = line.partition("#")
        program, task, *flags = shlex.split(command)
        assert (program, bool(why.strip())) == ("invoke", True), line
        known = {name for argument in ns[task].get_arguments() for name in argument.names}
        assert {flag[2:].split("=")[0] for flag in flags} <= known, line


def test_in_this_order_they_find_the_damage_and_bring_the_database_back(
    shop: Shop,  # noqa: F811
    taken: tuple[Target, Backup],  # noqa: F811
) -> None:
    asked = shop.project.root / "checks.sql"
    asked.write_text(CHECKS)
    shop.project.variables["POLYLADDER_CHECKS"] = str(asked)
    ended = []
    for line in lines()[1:]:
        _, *words = shlex.split(line.partition("#")[0].replace("ID", taken[1].id))
        ended.append(shop.ask(*words, *(["--force"] if words[0] in ("restore", "restore.undo") else [])))
    assert [one.code for one in ended] == [3, 0, 0, 0, 0, 0, 0], ended
    assert all(taken[1].id in one.out for one in ended[1:5])
    assert shop.decks("look") == 500
    assert shop.decks() == 500 + LATE
    databases.drop(shop.live, "look")
