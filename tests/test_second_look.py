"""`invoke dev.check` looks twice at the few tests that are red: what depends on chance is named, what is broken stays red."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.errors import Mismatch
from polyladder_ops.tasks import dev

if TYPE_CHECKING:
    from pathlib import Path

ONCE = """
from pathlib import Path

def test_only_at_first():
    mark = Path(__file__).with_name("was-here")
    seen = mark.exists()
    mark.touch()
    assert seen
"""
ALWAYS = "def test_always(): assert False\n"
GREEN = "def test_green(): assert True\n"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the names of tests are paths of POSIX here")


def project(root: Path, **files: str) -> Path:
    for name, text in files.items():
        (root / f"test_{name}.py").write_text(text, encoding="utf-8")
    return root


def test_a_test_that_is_red_only_at_first_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = project(tmp_path, once=ONCE, green=GREEN)
    assert dev.look_twice(root) == ("test_once.py::test_only_at_first",)
    assert (
        "CHANCE: test_once.py::test_only_at_first was red and is green alone. Mend it."
        in capfd.readouterr().err
    )


def test_a_test_that_is_red_twice_stays_red(tmp_path: Path) -> None:
    with pytest.raises(Mismatch, match="on a second look either"):
        dev.look_twice(project(tmp_path, once=ONCE, always=ALWAYS))


def test_many_red_tests_are_not_looked_at_again(tmp_path: Path) -> None:
    many = "".join(f"def test_{n}(): assert False\n" for n in range(dev.MOST + 1))
    with pytest.raises(Mismatch) as caught:
        dev.look_twice(project(tmp_path, many=many))
    assert caught.value.message == "pytest is not content"


def test_what_pytest_noted_in_an_earlier_run_does_not_count(tmp_path: Path) -> None:
    root = project(tmp_path, always=ALWAYS)
    with pytest.raises(Mismatch):
        dev.look_twice(root)
    (root / "test_always.py").write_text(GREEN, encoding="utf-8")
    assert dev.look_twice(root) == ()


def test_a_file_that_can_not_be_read_is_red_at_once(tmp_path: Path) -> None:
    with pytest.raises(Mismatch) as caught:
        dev.look_twice(project(tmp_path, odd="def ("))
    assert caught.value.message == "pytest is not content"
