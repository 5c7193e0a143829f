"""The README says what the program does: its tables are rendered from the program and compared."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import errors
from polyladder_ops.bench.targets import COMPARISONS, MEMORY
from polyladder_ops.settings import VARIABLES
from polyladder_ops.tasks import ns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from invoke.collection import Collection

README = Path(__file__).parents[1] / "README.md"


def block(name: str) -> str:
    """Return what stands between the markers of this name."""
    found = re.search(
        rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", README.read_text(encoding="utf-8"), re.DOTALL
    )
    assert found, f"README.md has no block <!-- {name} -->"
    return found[1].strip()


def markdown(headers: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [headers, tuple("---" for _ in headers), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def settings_table() -> str:
    rows = [
        (
            f"`{variable.name}`",
            f"`{variable.default}`" if variable.default else "",
            variable.needed_by,
            f"{variable.help}{' A secret.' if variable.is_secret else ''}",
        )
        for variable in VARIABLES
    ]
    return markdown(("Variable", "Default", "Needed for", "Meaning"), rows)


def tasks_table() -> str:
    rows = {(f"`invoke {short_name(name)}`", first_line(name)) for name in task_names(ns)}
    return markdown(("Task", "What it does"), sorted(rows, key=lambda row: ("." in row[0], row)))


def task_names(collection: Collection) -> list[str]:
    return sorted(collection.task_names)


def short_name(name: str) -> str:
    """Return what a person types: the default of a thing goes by the thing's name alone."""
    thing, _, verb = name.rpartition(".")
    return thing if thing and ns.collections[thing].default == verb else name


def first_line(name: str) -> str:
    return (ns[name].__doc__ or "").strip().splitlines()[0]


def exit_codes_table() -> str:
    meanings: dict[int, list[str]] = {0: ["Done, and the stated end was looked at."]}
    public = [getattr(errors, name) for name in errors.__all__]
    kinds: list[type[errors.OpsError]] = [one for one in public if isinstance(one, type)]
    for kind in sorted(kinds, key=lambda kind: kind.exit_code):
        text, _, code = (kind.__doc__ or "").partition("; exit code ")
        assert code == f"{kind.exit_code}.", f"{kind.__name__} says another exit code than it has"
        meanings.setdefault(kind.exit_code, []).append(f"{text}.")
    return markdown(
        ("Code", "Meaning"), [(f"{code}", " ".join(texts)) for code, texts in sorted(meanings.items())]
    )


@pytest.mark.parametrize(
    ("name", "render"),
    [("settings", settings_table), ("tasks", tasks_table), ("exit codes", exit_codes_table)],
)
def test_a_table_of_the_readme_equals_the_program(name: str, render: Callable[[], str]) -> None:
    assert block(name) == render()


def test_the_benchmark_in_the_readme_is_of_all_that_is_compared_and_of_these_targets() -> None:
    cells = [re.split(r" {2,}", line) for line in block("benchmark").splitlines()]
    begins = cells.index(["what", "against", "ratio", "CPU ratio", "target", "met"]) + 1
    rows = cells[begins : cells.index([""], begins)]
    assert [row[:2] for row in rows] == [[each.what, each.against] for each in (*COMPARISONS, MEMORY)]
    for each, row in zip((*COMPARISONS, MEMORY), rows, strict=True):
        assert (each.target in row) if each.target else not set(row) & {"yes", "no"}


@pytest.mark.parametrize("name", task_names(ns))
def test_a_task_is_one_sentence_in_the_list_and_each_of_its_flags_is_helped(name: str) -> None:
    line = first_line(name)
    assert 0 < len(line) <= 60
    assert line.endswith(".")
    for argument in ns[name].get_arguments():
        assert argument.help, f"--{argument.name} of {name} has no help"
        assert len(argument.names) == 1, f"--{argument.name} of {name} has a short flag"


@pytest.mark.parametrize("name", task_names(ns))
def test_a_flag_of_a_task_is_a_text_a_yes_or_a_list(name: str) -> None:
    # Invoke answers `--keep abc` for a number with a traceback and exit 1; a text is parsed by us and exits 2.
    for argument in ns[name].get_arguments():
        assert argument.kind in (str, bool, list), (
            f"--{argument.name} of {name} is a {argument.kind.__name__}"
        )


def test_each_task_that_replaces_an_old_script_is_there_with_its_flags() -> None:
    calls = re.findall(r"`invoke ([^`]+)`", block("old scripts"))
    assert len(calls) >= 10
    for call in calls:
        task, *flags = call.split()
        names = {name for argument in ns[task].get_arguments() for name in argument.names}
        unknown = [flag for flag in flags if flag.removeprefix("--").partition("=")[0] not in names]
        assert not unknown, f"`invoke {call}` in README.md: the task has no {unknown}"
