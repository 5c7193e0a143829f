"""What the house promises beside its code: nothing secret can be committed, the workflow is safe, CI runs README."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "name",
    [
        "backups/polyladder_20260105_020000.sql.gz",
        "polyladder_20260105_020000.sql.gz",
        "elsewhere/polyladder_20260105_020000.sql.gz.age",
        "elsewhere/polyladder_20260105_020000.sql.gz.json",
        "dump.sql",
        "production.dump",
        ".env",
        ".env.production",
        "identity.txt",
    ],
)
def test_backups_dumps_and_keys_cannot_be_committed(name: str) -> None:
    done = subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT, check=False)
    assert done.returncode == 0


def test_our_own_sql_is_committed() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "polyladder_ops", "tests"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    on_disk = {
        str(path.relative_to(ROOT))
        for top in ("polyladder_ops", "tests")
        for path in (ROOT / top).rglob("*.sql")
    }
    assert on_disk
    assert on_disk <= set(listed.stdout.split())


def test_every_dependency_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    dependencies = re.findall(r'^    "[\w\[\].-]+[>;=<].*$', text, re.MULTILINE)
    assert len(dependencies) >= 15
    assert [line for line in dependencies if "#" not in line] == []


def workflow() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    return loaded


def test_the_workflow_has_no_rights_but_reading() -> None:
    ci = workflow()
    assert ci["permissions"] == {}
    assert [job["permissions"] for job in ci["jobs"].values()] == [{"contents": "read"}] * len(ci["jobs"])


def test_a_failing_pipe_fails_the_step() -> None:
    """Only `shell: bash` brings pipefail; no linter reports its absence."""
    assert workflow()["defaults"]["run"]["shell"] == "bash"


def test_every_job_ends_by_itself_and_every_action_is_pinned() -> None:
    for job in workflow()["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 60
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step["uses"])
            assert "${{" not in step.get("run", "")


def test_the_core_is_tested_on_three_systems() -> None:
    matrix = workflow()["jobs"]["core"]["strategy"]["matrix"]["include"]
    systems = {entry["os"].split("-")[0] for entry in matrix} | {
        workflow()["jobs"]["all"]["runs-on"].split("-")[0]
    }
    assert systems == {"ubuntu", "macos", "windows"}


def test_ci_runs_the_commands_that_readme_gives_to_people() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    for name in re.findall(r'^run "(.+)"$', script, re.MULTILINE):
        command = re.search(rf"<!-- {name} -->\n```bash\n(python3 .*)\n```", readme)
        assert command, name
        assert command[1].count(" && ") == 2
    assert script.count('run "') == 2
