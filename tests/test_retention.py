"""Which backups go and which stay: examples for people, and what must hold for any folder whatever."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyladder_ops.catalog import Backup
from polyladder_ops.records import Record
from polyladder_ops.retention import Rule, decide, guards
from tests.factories import manifest

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
RULE = Rule(days=30, keep_verified=3)
DAY = timedelta(days=1)


def at_age(
    age: timedelta | int,
    *,
    verified: bool = False,
    pinned: bool = False,
    stored: int | None = 4,
    number: int = 0,
    failed: bool = False,
    level: str = "stored",
) -> Backup:
    """Return a backup of this age (a number means days) of 4 bytes that lies nowhere."""
    taken_at = NOW - (age if isinstance(age, timedelta) else timedelta(days=age))
    made = manifest(id=f"polyladder_{taken_at:%Y%m%d_%H%M%S}_{number}", taken_at=taken_at, size_bytes=4)
    common = {"backup": made.id, "sha256": made.sha256, "at": NOW, "by": "tests", "level": level}
    kept = [Record(kind="verify", verdict="failed" if failed else "passed", **common)] * (verified or failed)
    kept += [Record(kind="pin", **common)] * pinned
    return Backup(made, Path("/backups") / made.file, stored, tuple(kept))


def goes(*backups: Backup, rule: Rule = RULE) -> list[int]:
    """Return the ages in days of those that go."""
    return [(NOW - d.backup.taken_at).days for d in decide(backups, rule, NOW) if d.goes]


def why(backup: Backup, *others: Backup, rule: Rule = RULE) -> str:
    return decide([backup, *others], rule, NOW)[0].why


VERIFIED = tuple(at_age(day, verified=True) for day in (1, 2, 3))


def test_what_is_older_than_the_rules_days_goes() -> None:
    assert goes(*VERIFIED, at_age(29), at_age(31), at_age(400, verified=True)) == [31, 400]
    assert why(at_age(31), *VERIFIED) == "older than 30 days"


def test_the_last_instant_of_the_days_still_counts() -> None:
    assert goes(*VERIFIED, at_age(30)) == []
    assert goes(*VERIFIED, at_age(30 * DAY + timedelta(microseconds=1))) == [30]
    assert why(at_age(30), *VERIFIED) == "not older than 30 days"
    assert why(at_age(1), rule=Rule(1, 3)) == "not older than 1 day"


def test_a_pinned_one_stays() -> None:
    assert goes(*VERIFIED, at_age(400, pinned=True)) == []
    assert why(at_age(400, pinned=True), *VERIFIED) == "pinned"


def test_the_newest_complete_one_stays_though_nobody_has_looked_at_it() -> None:
    old = [at_age(day, verified=True) for day in (41, 42, 43)]
    assert goes(at_age(40), at_age(50), *old) == [50]
    assert why(at_age(40), *old) == "the newest complete one"


def test_the_newest_complete_one_stays_though_a_newer_one_is_cut() -> None:
    old = [at_age(day, verified=True) for day in (41, 42, 43)]
    assert goes(at_age(39, stored=3), at_age(40), *old) == [39]


def test_the_newest_verified_ones_stay_however_old_they_are() -> None:
    old = [at_age(day, verified=True) for day in (100, 200, 300, 400)]
    assert goes(at_age(1), *old) == [400]
    assert why(old[2], at_age(1), *old[:2], old[3]) == "among the 3 best verified"


def test_those_that_were_restored_count_before_those_whose_bytes_were_looked_at() -> None:
    bytes_only = [at_age(day, verified=True) for day in (100, 200)]
    restored = [at_age(day, verified=True, level="restore") for day in (300, 400)]
    assert goes(at_age(1), *bytes_only, *restored) == [200]
    assert goes(at_age(1), *bytes_only, *restored, rule=Rule(30, 2)) == [100, 200]


def test_nothing_goes_while_fewer_are_verified_than_wanted() -> None:
    assert goes(*VERIFIED[:2], at_age(31), at_age(400), at_age(500, stored=None)) == []
    assert why(at_age(400), *VERIFIED[:2]) == "nothing goes while only 2 of 3 are verified"
    assert goes(*VERIFIED[:2], at_age(31), at_age(400), rule=Rule(30, 2)) == [31, 400]


@pytest.mark.parametrize(
    "looks_good",
    [
        at_age(2, failed=True),
        at_age(2, verified=True, stored=3),
        at_age(2, verified=True, stored=None),
        at_age(-2, verified=True),
    ],
    ids=["failed", "cut", "its data gone", "of the future"],
)
def test_one_that_is_not_to_be_trusted_does_not_count_as_verified(looks_good: Backup) -> None:
    assert goes(*VERIFIED[:2], looks_good, at_age(400)) == []


def test_an_old_incomplete_one_goes_and_it_is_said_so() -> None:
    assert why(at_age(31, stored=None), *VERIFIED) == (
        "older than 30 days and not complete: its data file is missing"
    )
    assert goes(*VERIFIED, at_age(31, stored=None), at_age(3, stored=None)) == [31]


def test_what_is_dated_in_the_future_stays_and_is_not_the_newest() -> None:
    old = [at_age(day, verified=True) for day in (41, 42, 43)]
    future = at_age(-400, verified=True)
    assert why(future, *old) == "dated in the future"
    assert goes(future, at_age(40), at_age(44), *old) == [44]


def test_a_server_whose_clock_is_a_little_ahead_is_believed() -> None:
    assert why(at_age(-timedelta(minutes=5)), *VERIFIED) == "not older than 30 days"


@dataclass(frozen=True)
class Folder:
    backups: tuple[Backup, ...]
    rule: Rule


@st.composite
def folders(draw: st.DrawFn) -> Folder:
    specs = st.tuples(
        st.integers(-100, 2000),  # hours; few enough that two have the same age
        st.booleans(),
        st.booleans(),
        st.sampled_from([4, 4, 4, 3, None]),
        st.booleans(),
    )
    backups = tuple(
        at_age(
            timedelta(hours=hours),
            verified=verified,
            pinned=pinned,
            stored=stored,
            failed=failed and not verified,
            number=number,
        )
        for number, (hours, verified, pinned, stored, failed) in enumerate(draw(st.lists(specs, max_size=12)))
    )
    return Folder(backups, Rule(draw(st.integers(1, 60)), draw(st.integers(1, 5))))


def gone(folder: Folder) -> set[Path]:
    return {d.backup.path for d in decide(folder.backups, folder.rule, NOW) if d.goes}


@given(folders())
def test_never_fewer_verified_stay_than_wanted_or_there(folder: Folder) -> None:
    stays = [d.backup for d in decide(folder.backups, folder.rule, NOW) if not d.goes]
    there = sum(backup.verified for backup in folder.backups)
    assert sum(backup.verified for backup in stays) >= min(there, folder.rule.keep_verified)


@given(folders())
def test_nothing_goes_unless_enough_verified_ones_stay(folder: Folder) -> None:
    made = decide(folder.backups, folder.rule, NOW)
    if any(d.goes for d in made):
        stay = [d.backup for d in made if not d.goes and d.backup.verified]
        assert len([b for b in stay if b.taken_at <= NOW + DAY]) >= folder.rule.keep_verified


@given(folders())
def test_none_that_is_pinned_young_or_of_the_future_goes_and_never_the_newest(folder: Folder) -> None:
    for decision in decide(folder.backups, folder.rule, NOW):
        if decision.goes:
            assert not decision.backup.pinned
            assert NOW - decision.backup.taken_at > timedelta(days=folder.rule.days)
    kept = guards(folder.backups, folder.rule, NOW)
    gone = {d.backup.path for d in decide(folder.backups, folder.rule, NOW) if d.goes}
    assert not gone & {backup.path for backup in kept.all}
    complete = [b for b in folder.backups if b.complete and b.taken_at <= NOW + DAY]
    if complete:
        assert kept.newest is not None
        assert kept.newest.taken_at == max(backup.taken_at for backup in complete)


@given(folders())
def test_a_second_time_nothing_goes(folder: Folder) -> None:
    stays = [d.backup for d in decide(folder.backups, folder.rule, NOW) if not d.goes]
    assert not any(d.goes for d in decide(stays, folder.rule, NOW))


@given(folders(), st.data())
def test_a_pin_keeps_its_backup_and_changes_nothing_else(folder: Folder, data: st.DataObject) -> None:
    if not folder.backups:
        return
    chosen = data.draw(st.sampled_from(folder.backups))
    pin = Record(kind="pin", backup=chosen.id, sha256=chosen.manifest.sha256, at=NOW + DAY, by="tests")
    pinned = replace(chosen, records=(*chosen.records, pin))
    after = replace(folder, backups=tuple(pinned if b is chosen else b for b in folder.backups))
    assert gone(after) == gone(folder) - {chosen.path}


@given(folders(), folders())
def test_backups_that_nobody_has_verified_push_out_no_verified_one(folder: Folder, more: Folder) -> None:
    bogus = tuple(replace(b, records=(), path=b.path.with_name(f"bogus_{b.path.name}")) for b in more.backups)
    verified = {b.path for b in folder.backups if b.verified}
    assert gone(replace(folder, backups=folder.backups + bogus)) & verified <= gone(folder)


@given(folders(), st.integers(0, 40), st.integers(0, 4))
def test_a_more_generous_rule_deletes_no_more(folder: Folder, days: int, more: int) -> None:
    generous = Rule(folder.rule.days + days, folder.rule.keep_verified + more)
    assert gone(replace(folder, rule=generous)) <= gone(folder)


@given(folders(), st.permutations(range(12)))
def test_the_order_of_the_folder_does_not_matter(folder: Folder, order: list[int]) -> None:
    shuffled = tuple(folder.backups[n] for n in order if n < len(folder.backups))
    assert gone(replace(folder, backups=shuffled)) == gone(folder)
