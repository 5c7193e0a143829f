"""What a restore says to people and to programs; pure, and no name out of a database can bend it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from polyladder_ops import restore_report
from polyladder_ops.catalog import Backup
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.postgres.facts import Live
from polyladder_ops.postgres.leftovers import Leftover
from polyladder_ops.postgres.marks import Mark, Marked
from polyladder_ops.postgres.proof.differences import Difference
from polyladder_ops.postgres.since import Since
from polyladder_ops.postgres.switch import Switched
from polyladder_ops.records import Record
from polyladder_ops.replacement import Plan, Result
from polyladder_ops.restore.undo import Undoing
from polyladder_ops.setaside import Status
from tests.factories import NIGHT, manifest, table
from tests.test_preflight import SERVER

NOW = NIGHT + timedelta(hours=5)
TARGET = Target.of(host="db.example", port=5432, user="admin", password="sesame-report", dbname="polyladder")
MIB = 1 << 20


def backup(**changes: Any) -> Backup:
    """Return a verified backup."""
    made = manifest(plain_bytes=80 * MIB, **changes)
    passed = Record(
        kind="verify", backup=made.id, sha256=made.sha256, at=NIGHT, by="x", level="stored", verdict="passed"
    )
    return Backup(made, Path("/b") / made.file, 0, (passed,))


PLAN = Plan(
    TARGET,
    backup(),
    SERVER,
    Live("0043_more", ("learning.review", NOW - timedelta(minutes=3))),
    obstacles=(),
    accepted=(),
    unknowns=(),
)
SWITCHED = Switched("polyladder", "polyladder_aside_20260105_070000", 0.0421, NOW)
MARK = Mark(
    kind="aside",
    live="polyladder",
    at=NOW - timedelta(days=2),
    by="anna@laptop",
    backup="polyladder_20260103_020000",
    migration_head="0042_decks",
)
ASIDE = Marked(name="polyladder_aside_20260103_070000", oid=7, is_open=False, size_bytes=3 * MIB, mark=MARK)  # fmt: skip


# The plan ------------------------------------------------------------------------------------------------------------


def test_a_person_sees_what_is_replaced_by_what_side_by_side() -> None:
    cells = [re.split(r" {2,}", line.strip()) for line in restore_report.plan(PLAN, NOW).splitlines()]
    server = "PostgreSQL 18.6, system 7400000000000000001"
    assert cells == [
        ["now", "backup polyladder_20260105_020000"],
        ["database", "polyladder on db.example:5432", "polyladder"],
        ["server", server, server],
        ["size", "1.0 GiB", "80.0 MiB of SQL, 3 rows"],
        ["newest", "2026-01-05 06:57:00Z, 3 min ago (learning.review)", "2026-01-05 02:00:00Z, 5 h ago"],
        ["migration", "0043_more", "0042_decks"],
    ]


def test_what_a_restore_endangers_stands_among_the_warnings_of_the_plan() -> None:
    shown = replace(PLAN, warnings=("the server's machine has 213.0 MiB of memory: …",))
    assert "\nWARNING: the server's machine has 213.0 MiB of memory: …" in restore_report.plan(shown, NOW)


def test_what_is_let_through_and_what_is_not_known_stands_below() -> None:
    shown = replace(PLAN, accepted=("slot:x: stays",), unknowns=("not checked: the space",))
    warned = replace(shown, backup=backup(warnings=("table a fell from 9 rows to nothing",)))
    assert restore_report.plan(warned, NOW).splitlines()[6:] == [
        "WARNING: table a fell from 9 rows to nothing",
        "accepted: slot:x: stays",
        "note: not checked: the space",
    ]


def test_a_database_that_is_not_there_yet_is_called_so() -> None:
    shown = replace(PLAN, server=replace(SERVER, live_oid=None, live_bytes=None), live=None)
    lines = restore_report.plan(shown, NOW).splitlines()
    assert "polyladder on db.example:5432 (not there yet)" in lines[1]
    assert "no row with a time" in lines[4]
    assert "none noted" in lines[5]


def test_no_name_out_of_a_database_steers_the_terminal() -> None:
    evil = "x\x1b[2J\nerror: gone"
    shown = replace(PLAN, live=Live(evil, (evil, NOW), unread=()), accepted=(evil,), unknowns=(evil,))
    undo = Undoing(
        TARGET,
        ASIDE.model_copy(update={"name": evil}),
        evil,
        Since((Difference("table", evil, "gone"),), evil),
    )
    texts = [
        restore_report.plan(shown, NOW),
        restore_report.done(shown, Result(replace(SWITCHED, aside=evil, live=evil), (evil,))),
        restore_report.undoing(undo, NOW),
        restore_report.status(Status((undo.aside,), (Leftover(evil, "half"),), evil), NOW),
    ]
    for text in texts:
        assert "\x1b" not in text
        assert not [line for line in text.splitlines() if line.startswith("error: gone")]


# The choice ----------------------------------------------------------------------------------------------------------


def test_the_choices_show_what_changed_in_each_and_which_is_chosen() -> None:
    nights = [NIGHT - timedelta(days=n) for n in range(3)]
    rows = [10, 400, 380]
    found = [backup(taken_at=at, tables=(table(rows=n),)) for at, n in zip(nights, rows, strict=True)]
    found[0] = replace(found[0], records=())
    (looked,) = found[2].records
    found[2] = replace(found[2], records=(looked.model_copy(update={"verdict": "failed"}),))
    assert restore_report.choices(found, found[1], NOW).splitlines() == [
        "  polyladder_20260105_020000  2026-01-05 02:00:00Z, 5 h ago, 10 rows, not verified",
        "      public.decks fell by 390 (400 → 10 rows)",
        "* polyladder_20260104_020000  2026-01-04 02:00:00Z, 1 d ago, 400 rows, bytes verified",
        "      public.decks grew by 20 (380 → 400 rows)",
        "  polyladder_20260103_020000  2026-01-03 02:00:00Z, 2 d ago, 380 rows, verification FAILED",
    ]


def test_of_many_changed_tables_five_are_named_and_the_rest_counted() -> None:
    before = backup(taken_at=NIGHT - timedelta(days=1), tables=())
    now = backup(tables=tuple(table(f"public.t{n}") for n in range(9)))
    lines = restore_report.choices([now, before], None, NOW).splitlines()
    assert lines[6] == "      and 4 more, none worse: `invoke backup.list --changes`"
    assert len(lines) == 8


# What was done -------------------------------------------------------------------------------------------------------


def test_what_was_done_says_what_is_live_how_it_was_proved_and_the_way_back() -> None:
    result = Result(SWITCHED, seconds={"load": 2.5, "proof": 1.5})
    live, aside = restore_report.done(PLAN, result).splitlines()
    assert live == (
        "polyladder is polyladder_20260105_020000 now, proved equal (1 table, 1 object, 3 rows) in 4.0 s;"
        " nobody got in for 42 ms"
    )
    assert aside == (
        "what it was is kept as polyladder_aside_20260105_070000: `invoke restore.undo` brings it back,"
        " `invoke restore.discard` drops it"
    )


def test_of_an_old_file_no_more_is_claimed_than_the_file_says() -> None:
    old = replace(PLAN, backup=backup(knows_objects=False))
    (line,) = (line for line in restore_report.plan(old, NOW).splitlines() if line.startswith("migration"))
    assert line.endswith("not known: noted in a manifest only")
    text = restore_report.done(old, Result(SWITCHED))
    assert "proved to hold what the file says (1 table, 3 rows)" in text
    assert "equal" not in text
    assert restore_report.as_json(old, Result(SWITCHED))["proved"] is False


def test_what_was_let_through_is_never_called_proved() -> None:
    result = Result(SWITCHED, ("statement:12: it failed", "slot:x: stays"))
    text = restore_report.done(PLAN, result)
    assert "proved" not in text
    assert "but for what was accepted" in text
    assert [line for line in text.splitlines() if line.startswith("  accepted: ")] == [
        "  accepted: statement:12: it failed",
        "  accepted: slot:x: stays",
    ]
    assert restore_report.as_json(PLAN, result)["proved"] is False


def test_a_new_database_has_no_way_back() -> None:
    text = restore_report.done(PLAN, Result(replace(SWITCHED, aside="")))
    assert len(text.splitlines()) == 1
    assert restore_report.as_json(PLAN, Result(replace(SWITCHED, aside="")))["aside"] is None


def test_a_program_reads_the_same() -> None:
    result = Result(SWITCHED, seconds={"load": 2.50049}, roles=("app",), undo=("ALTER …;",))
    document = restore_report.as_json(PLAN, result)
    assert json.loads(json.dumps(document)) == document
    assert document == {
        "backup": "polyladder_20260105_020000",
        "database": "polyladder",
        "aside": "polyladder_aside_20260105_070000",
        "switched_at": "2026-01-05T07:00:00Z",
        "outage_s": 0.042,
        "seconds": {"load": 2.5},
        "accepted": [],
        "roles_made": ["app"],
        "not_given": [],
        "undo_sql": ["ALTER …;"],
        "checks_failed": [],
        "proved": True,
    }


def test_a_difference_is_accepted_by_its_kind_and_name_but_the_copys_own_name_is_none() -> None:
    assert Difference("table", "public.decks", "x").item == "table:public.decks"
    assert Difference("database", "polyladder_beside_0123", "x", "owner").item == "database:owner"


# The way back --------------------------------------------------------------------------------------------------------


def test_an_undo_names_what_comes_back_and_what_was_written_since() -> None:
    writes = tuple(Difference("table", f"public.t{n}", "it has 4 rows instead of 3") for n in range(22))
    lines = restore_report.undoing(Undoing(TARGET, ASIDE, "0043_more", Since(writes)), NOW).splitlines()
    assert lines[0] == (
        "polyladder_aside_20260103_070000, set aside 2 d ago (2026-01-03 07:00:00Z) for polyladder_20260103_020000,"
        " becomes polyladder on db.example:5432"
    )
    assert lines[1] == "migration: 0043_more → 0042_decks"
    assert lines[2] == "written since, and set aside with the database (22):"
    assert lines[3] == "  table public.t0: it has 4 rows instead of 3"
    assert len(lines) == 3 + 20 + 1
    assert lines[-1] == "  and 2 more"


def test_an_undo_tells_nothing_written_from_not_known() -> None:
    none = restore_report.undoing(Undoing(TARGET, ASIDE, None, Since(is_certain=True)), NOW)
    found = restore_report.undoing(Undoing(TARGET, ASIDE, None, Since()), NOW)
    unknown = restore_report.undoing(Undoing(TARGET, ASIDE, None, Since(unsure="it took too long")), NOW)
    assert none.splitlines()[-1] == "nothing was written since"
    assert found.splitlines()[-1] == (
        "no row, sequence, object or setting was found that was written since; whatever was is kept aside."
        " Not seen: rows of who had track_counts off, and of foreign tables"
    )
    shut = restore_report.undoing(Undoing(TARGET, ASIDE, None, Since(unread=("subscriptions",))), NOW)
    assert shut.endswith("track_counts off, and of foreign tables, subscriptions")
    assert (
        unknown.splitlines()[-1]
        == "note: what was written since can't be told: it took too long. It is kept aside"
    )
    assert "migration: none noted → 0042_decks" in none


# What is there -------------------------------------------------------------------------------------------------------


def test_the_status_shows_what_stands_aside_who_works_and_what_is_left_over() -> None:
    unsized = ASIDE.model_copy(update={"size_bytes": None, "name": "b"})
    found = Status(
        (ASIDE, unsized), (Leftover("polyladder", "closed by a switch"),), "It is restore anna@laptop"
    )
    lines = restore_report.status(found, NOW).splitlines()
    assert lines[0].split() == ["set", "aside", "was", "when", "size", "replaced", "by", "migration", "by"]
    assert "2 d ago" in lines[1]
    assert "3.0 MiB" in lines[1]
    assert "?" in lines[2].split()
    assert lines[3:] == [
        "a run is at work: It is restore anna@laptop",
        "LEFTOVER polyladder: closed by a switch",
    ]
    document = restore_report.status_as_json(found)
    assert json.loads(json.dumps(document)) == document
    assert document["asides"][0] == {
        "name": "polyladder_aside_20260103_070000",
        "was": "polyladder",
        "at": "2026-01-03T07:00:00Z",
        "size_bytes": 3 * MIB,
        "backup": "polyladder_20260103_020000",
        "migration_head": "0042_decks",
        "by": "anna@laptop",
    }
    assert document["leftovers"] == [
        {"database": "polyladder", "role": None, "detail": "closed by a switch", "is_used": False}
    ]
    assert document["holder"] == "It is restore anna@laptop"


def test_a_server_without_anything_says_so() -> None:
    assert restore_report.status(Status((), (), ""), NOW) == (
        "nothing is set aside, no run is at work, nothing is left over"
    )
    assert restore_report.status_as_json(Status((), (), "")) == {
        "asides": [],
        "in_use": [],
        "noted": [],
        "leftovers": [],
        "of_others": [],
        "holder": None,
    }


def test_no_password_is_in_any_of_it() -> None:
    moment = datetime.now(UTC)
    assert "sesame-report" not in restore_report.plan(PLAN, moment) + repr(PLAN)
    assert "sesame-report" not in repr(Undoing(TARGET, ASIDE, None, Since(unsure="it took too long")))
