"""Commands by `fly ssh console`, the last way in: only what stands between our marks counts, and only if it is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from polyladder_ops.fly import console, primary
from polyladder_ops.fly.console import Console
from polyladder_ops.fly.failures import FlyError
from polyladder_ops.fly.flyctl import Flyctl
from polyladder_ops.fly.stream import Outcome
from polyladder_ops.sandbox.fly import world
from polyladder_ops.sandbox.fly.cloud import Cloud
from tests.fly.conftest import APP, DB, shown, until

if TYPE_CHECKING:
    from collections.abc import Iterator

MARK = "0123456789abcdef"
WHOLE = f"{MARK}a\nout\n\n{MARK}b\n3\naside\n{MARK}c\n"


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    made = Cloud(tmp_path_factory.mktemp("far") / "fly")
    made.make(app=APP, db_app=DB, moment_s=0.2)
    until(lambda: shown(made, DB)[0]["state"] == "started")
    made.open_ssh(DB, {"PGDATA": str(made.folder / "postgresql"), "OPERATOR_PASSWORD": "pa ss='w=ord"})
    yield made
    made.remove()


@pytest.fixture
def there(far: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    flyctl = Flyctl(str(far.program), far.token, tmp_path_factory.mktemp("config") / "config")
    yield Console(flyctl, DB, shown(far, DB)[0]["id"])
    far.switch("all", off=True)


def test_a_command_is_run_by_a_shell_and_told_as_it_ended(there: Console) -> None:
    assert there.run("echo \"a  'b'\" | tr a c; printf end") == "c  'b'\nend"
    assert there.outcome("printf 'x\\n'; echo aside >&2; exit 7") == Outcome(7, "x\n", "aside")
    assert there.outcome("exec false") == Outcome(1, "", "")
    assert there.outcome("if then").code == 2


def test_a_command_that_fails_says_how_and_nothing_of_what_it_printed(there: Console) -> None:
    with pytest.raises(FlyError, match="exit 7` failed on machine") as raised:
        there.run("echo secret; echo no >&2; exit 7")
    assert raised.value.detail == "It ended with exit code 7. It says: no"


@pytest.mark.parametrize("fault", ["noise", "crlf"])
def test_what_flyctl_adds_of_its_own_does_not_count(far: Cloud, there: Console, fault: str) -> None:
    far.switch(fault)
    assert there.outcome("printf 'a\\nb\\n'; echo aside >&2") == Outcome(0, "a\nb\n", "aside")


def test_an_output_that_is_cut_is_an_error_though_flyctl_says_0(far: Cloud, there: Console) -> None:
    far.switch("output-cut")
    with pytest.raises(FlyError, match="was cut") as raised:
        there.run("echo secret")
    assert raised.value.name == "cut"
    assert "secret" not in raised.value.detail


@pytest.mark.parametrize("fault", ["ssh-denies", "no-own-certificate"])
def test_it_goes_where_a_key_of_ours_does_not(far: Cloud, there: Console, fault: str) -> None:
    far.switch(fault)
    assert there.run("echo in") == "in\n"


def test_a_refusal_of_flys_is_explained_with_what_was_tried_before(far: Cloud, there: Console) -> None:
    far.switch("no-certificate")
    with pytest.raises(FlyError) as raised:
        Console(there.flyctl, DB, there.machine, before="Before that: SSH by a key.").run("true")
    assert raised.value.name == "token-refused"
    assert "create ssh certificate" in raised.value.detail
    assert raised.value.detail.endswith("Before that: SSH by a key.")


def test_a_command_that_does_not_end_is_let_go_of(there: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_OPENING_S", 3.0)
    with pytest.raises(FlyError, match="did not end within 4 s"):
        there.run("sleep 600", limit_s=1.0)


def test_a_machine_that_is_stopped_is_named(far: Cloud, there: Console) -> None:
    try:
        with world.changing(far.folder) as here:
            here.becomes(here.machines(DB)[0], "stopped")
        with pytest.raises(FlyError, match="`fly ssh console` failed") as raised:
            there.run("true")
        assert raised.value.name == "none-started"
    finally:
        with world.changing(far.folder) as here:
            here.becomes(here.machines(DB)[0], "started")


def test_a_look_at_the_machine_by_it_brings_the_password_too(there: Console) -> None:
    seen = primary.look(there, needs_password=True)
    assert 0 < seen.free <= seen.size
    assert seen.password == "pa ss='w=ord"
    assert "pa ss" not in repr(seen)
    assert primary.look(there).password == ""


def test_nothing_of_the_password_is_in_the_words_that_flyctl_is_called_with(
    far: Cloud, there: Console
) -> None:
    primary.look(there, needs_password=True)
    assert "pa ss" not in str(far.calls())


@pytest.mark.parametrize(
    "before", ["", "No machine specified, using 1 in region iad\n", "\x1b[33mWARN\x1b[0m x\n", "x"]
)
@pytest.mark.parametrize("after", ["", "WARN late\n", "x"])
def test_what_stands_between_the_marks_counts(before: str, after: str) -> None:
    assert console.read(f"{before}{WHOLE}{after}", MARK) == Outcome(3, "out\n", "aside")


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_what_is_cut_anywhere_is_none(length: int) -> None:
    assert console.read(WHOLE[:length], MARK) is None


def test_marks_of_another_call_are_none() -> None:
    assert console.read(WHOLE, MARK[::-1]) is None
