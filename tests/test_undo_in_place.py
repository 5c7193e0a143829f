"""An undo after a restore in place: which state comes back is said, and that it is not what that restore replaced."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from tests.test_tasks_restore import shop, taken  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from tests.test_tasks_restore import Shop

IN_PLACE = ["restore", "--latest", "--in-place", "--force", "--accept=rights"]


def test_an_undo_after_a_restore_in_place_says_what_does_not_come_back(shop: Shop) -> None:  # noqa: F811
    assert shop.ask("restore", "--latest", "--force").code == 0
    quiet = shop.ask("-R", "restore.undo")
    assert (quiet.code, "in place" in quiet.out + quiet.err) == (0, False), quiet
    shop.tell("INSERT INTO public.deck (title) VALUES ('between the two')")
    done = shop.ask(*IN_PLACE)
    found = re.search(r"what it was is the backup (\S+) of site production-aside", done.out)
    assert found, done
    not_back = (
        "a restore in place was begun after that; what it replaced is not this state, but the backup"
        f" {found[1]} of site production-aside ("
    )
    dry = shop.ask("-R", "restore.undo")
    assert (dry.code, f"WARNING: {not_back}" in dry.err) == (0, True), dry
    undone = shop.ask("restore.undo", "--force")
    assert undone.code == 0, undone
    first, second = undone.out.splitlines()
    assert re.match(
        rf"{shop.name} is what it was at 20\d\d-\S+ \S+Z, when it was set aside; what was live", first
    )
    assert second.startswith(not_back)
    assert shop.decks() == 520
    back = shop.ask("restore.undo", "--force", "--json")
    assert (back.code, "state_of" in json.loads(back.out)) == (0, True), back
