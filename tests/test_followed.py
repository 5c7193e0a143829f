"""Whoever pastes a command that we told stays at the site that the run was for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from polyladder_ops import output
from polyladder_ops.errors import OpsError
from polyladder_ops.tasks import ns

if TYPE_CHECKING:
    from invoke.tasks import Task

SITELESS = ("sandbox", "dev")
TASKS = [name for name in ns.task_names if not name.startswith(SITELESS)]


@pytest.mark.parametrize("name", TASKS)
def test_every_command_that_any_task_tells_names_the_site_of_the_run(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def body(c: Context, **flags: Any) -> None:
        output.line("`invoke restore.undo --into=x` brings it back, `invoke restore.discard` drops it")
        output.lines("and 3 more:\n`invoke backup.show --backup=b`")
        output.note("note: see `invoke backup.list`")
        output.notes("note:\n`invoke backup.prune --apply` deletes them")
        raise OpsError(
            "half", detail="Look with `invoke restore.status`.", hint="Run `invoke restore.abort`."
        )

    task: Task[Any] = ns[name]
    monkeypatch.setattr(task, "body", body)
    with pytest.raises(Exit):
        task(Context(), site="staging")
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "`invoke restore.undo --into=x --site=staging` brings it back, `invoke restore.discard --site=staging` drops it",
        "and 3 more:",
        "`invoke backup.show --backup=b --site=staging`",
    ]
    assert err.splitlines() == [
        "note: see `invoke backup.list --site=staging`",
        "note:",
        "`invoke backup.prune --apply --site=staging` deletes them",
        "error: half",
        "detail: Look with `invoke restore.status --site=staging`.",
        "hint: Run `invoke restore.abort --site=staging`.",
    ]


def test_a_command_of_the_sandbox_takes_no_site_and_one_that_has_a_site_keeps_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with output.followed("staging"):
        output.line(
            "`invoke sandbox.up`, `invoke dev.check`, `invoke --list`, `invoke restore.abort --site=rehearsal`"
        )
    output.line("`invoke restore.abort`")
    assert capsys.readouterr().out.splitlines() == [
        "`invoke sandbox.up`, `invoke dev.check`, `invoke --list`, `invoke restore.abort --site=rehearsal`",
        "`invoke restore.abort`",
    ]


def test_in_a_document_the_hints_name_the_site_and_a_name_out_of_the_database_stays(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with output.followed("staging"):
        output.document({"checks": [{"hint": "Run `invoke restore.abort`.", "table": "`invoke x`"}]})
    assert json.loads(capsys.readouterr().out) == {
        "checks": [{"hint": "Run `invoke restore.abort --site=staging`.", "table": "`invoke x`"}]
    }
