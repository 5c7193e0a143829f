"""What Invoke reads for itself: a fault in it is told as one of ours, by real `invoke` processes, and nothing is waited for."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.test_boundary import invoke, project  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

posix = pytest.mark.skipif(sys.platform == "win32", reason="links and pipes as POSIX has them")
WORDS = ("where", "--list")


def put(name: str, content: str | bytes) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: void((folder / name).write_bytes(data))


def pipe(folder: Path) -> None:
    if sys.platform != "win32":
        os.mkfifo(folder / "invoke.yaml")


def void(_: object) -> None:
    """Let a lambda be a statement."""


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a slip": (put("invoke.yaml", "a: [1,\n  b: }\n"), "Line 2 can't be understood."),
    "a tab": (put("invoke.yml", "polyladder:\n\tbackup_dir: x\n"), "Line 2 can't be understood."),
    "an alias": (put("invoke.yaml", "polyladder:\n  a: *canary\n"), "Line 2 can't be understood."),
    "a tag": (put("invoke.yaml", "a: !!python/name:os.system\n"), "Line 1 can't be understood."),
    "UTF-16": (put("invoke.yaml", "a: 1\n".encode("utf-16")), "It is no text in UTF-8."),
    "UTF-16 without a mark": (put("invoke.yaml", "a: 1\n".encode("utf-16-le")), "It is no text in UTF-8."),
    "a folder": (lambda folder: (folder / "invoke.yaml").mkdir(), "It is a folder."),
    "a list": (put("invoke.yaml", "- canary\n"), "It is not made of sections and keys with names."),
    "a number": (put("invoke.yaml", "5\n"), "It is not made of sections and keys with names."),
    "a number for a name": (put("invoke.yaml", "a: {1: 5}\n"), "It is not made of sections and keys with names."),
    "a value for a section": (put("invoke.yaml", "run:\n"), "A section of Invoke's own has a value in it, or the reverse; they are run, runners, sudo, tasks, timeouts."),
    "itself": (put("invoke.yaml", "a: &x {b: *x}\n"), "It is nested too deeply, or holds itself."),
    "a depth": (put("invoke.yaml", "a: " + "[" * 9000), "It is nested too deeply, or holds itself."),
    "a size": (put("invoke.yaml", b"#" * (1 << 20) + b"\n"), "It has 1,048,577 bytes, and settings are short."),
    "a name of Invoke's": (put("invoke.yaml", "get: 1\n"), "It has a section get, which would hide how the others are found."),
    "JSON": (put("invoke.json", '{"a": }'), "Line 1 can't be understood."),
}  # fmt: skip
ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "a pipe": (pipe, "It is a pipe."),
    "a device": (lambda folder: (folder / "invoke.yaml").symlink_to("/dev/zero"), "It is a device."),
    "a link to nothing": (lambda folder: (folder / "invoke.yaml").symlink_to("nowhere"), "It is a link."),
    "a link in a circle": (lambda folder: (folder / "invoke.yaml").symlink_to("invoke.yaml"), "It is a link."),
}  # fmt: skip


def refused(folder: Path, sentence: str, *words: str) -> None:
    code, out, err = invoke(folder, *words)
    assert (code, out) == (2, ""), err
    error, detail, hint = err.splitlines()
    assert error.startswith(f"error: {folder / 'invoke.'}")
    assert error.endswith(" can't be used")
    assert detail == f"detail: {sentence}"
    assert hint == "hint: Mend it, or move it away: Invoke reads it at every command."


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_project_s_file_that_can_t_be_used_is_told_as_any_other_setting(
    fault: str,
    words: str,
    project: Path,  # noqa: F811
) -> None:
    make, sentence = FAULTS[fault]
    make(project)
    refused(project, sentence, words)


@posix
@pytest.mark.parametrize("fault", ODD)
def test_what_is_no_file_is_not_waited_for(fault: str, project: Path) -> None:  # noqa: F811
    make, sentence = ODD[fault]
    make(project)
    refused(project, sentence, "where")


@posix
def test_a_link_to_a_file_and_a_file_that_is_hidden_are_read(project: Path) -> None:  # noqa: F811
    (project / "mine.txt").write_text("polyladder: {backup_dir: linked}\n")
    (project / "invoke.yaml").symlink_to("mine.txt")
    assert invoke(project, "where") == (0, f"{project / 'linked'}\n", "")
    (project / "invoke.yaml").unlink()
    (project / "invoke.yaml").symlink_to(os.devnull)
    assert invoke(project, "where", env={"BACKUP_DIR": "x"}) == (0, f"{project / 'x'}\n", "")


@pytest.mark.parametrize("text", ["", "# nothing\n", "keys: {a: 1}\n", "other: [1, {2: 3}]\n"])
def test_a_file_that_says_nothing_to_us_is_none_of_our_business(text: str, project: Path) -> None:  # noqa: F811
    (project / "invoke.yaml").write_text(text)
    assert invoke(project, "where", env={"BACKUP_DIR": "x"}) == (0, f"{project / 'x'}\n", "")


@pytest.mark.parametrize("name", ["nowhere.yaml", "mine.conf"])
@pytest.mark.parametrize("how", ["flag", "variable"])
def test_a_file_that_was_named_and_is_not_read_is_an_error(name: str, how: str, project: Path) -> None:  # noqa: F811
    """Invoke passes over one that is not there: the settings would be another site's."""
    (project / "mine.conf").touch()
    named = invoke(project, "-f", name, "where") if how == "flag" else invoke(project, "where", env={"INVOKE_RUNTIME_CONFIG": name})  # fmt: skip
    code, out, err = named
    assert (code, out) == (2, ""), err
    assert err.startswith(("error: there is no file nowhere.yaml", "error: mine.conf is of no kind that"))
    assert "\nhint: -f and INVOKE_RUNTIME_CONFIG take a file that ends in .yaml" in err


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("mine.yaml", "a: [1\n", "Line 2 can't be understood."),
        ("mine.py", "raise KeyError('canary')\n", "It can't be understood (KeyError)."),
        ("mine.py", "x = (\n", "Line 1 can't be understood."),
    ],
)
def test_a_file_that_was_named_is_read_as_carefully(name: str, text: str, said: str, project: Path) -> None:  # noqa: F811
    (project / name).write_text(text)
    code, _, err = invoke(project, "-f", name, "where")
    assert (code, err.splitlines()[:2]) == (2, [f"error: {name} can't be used", f"detail: {said}"])


@pytest.mark.parametrize(
    ("file", "variable", "said"),
    [
        (
            "",
            {"INVOKE_RUN_WATCHERS": "canary"},
            "a list has no variable: INVOKE_RUN_WATCHERS.",
        ),
        (
            "mine: 3\n",
            {"INVOKE_MINE": "canary"},
            "a list has no variable: INVOKE_MINE.",
        ),
        ("run: {x: 1}\nrun_x: 2\n", {}, "two keys of what Invoke reads would be set by one variable."),
    ],
    ids=["a list", "no number", "two keys"],
)
def test_a_variable_that_does_not_fit_is_told_without_its_value(
    file: str,
    variable: dict[str, str],
    said: str,
    project: Path,  # noqa: F811
) -> None:
    (project / "invoke.yaml").write_text(file)
    code, out, err = invoke(project, "where", env=variable)
    assert (code, out) == (2, ""), err
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "detail", "hint"]
    assert err.splitlines()[1].endswith(said)
    assert "canary" not in err
