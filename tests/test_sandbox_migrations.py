"""The sandbox's checkout: the bad evening is a migration like any other, and after a restore it is pending again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.errors import OpsError
from polyladder_ops.sandbox import checkout
from tests.test_tasks import sandbox  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.test_tasks import Project


def test_the_evening_of_the_sandbox_from_its_first_migration_to_the_restore(sandbox: Project) -> None:  # noqa: F811
    site = {"POLYLADDER_SITE": "sandbox"}
    level = sandbox.run("migrate.status", "--json", **site)
    assert level.code == 0, level
    assert json.loads(level.out)["noted"] == 21
    assert sandbox.run("backup", **site).code == 0
    assert sandbox.run("sandbox.break", "--force").code == 0
    broken = sandbox.run("migrate", **site)
    assert (broken.code, "has all 22 migrations" in broken.out) == (0, True), broken
    back = sandbox.run("migrate.down", "--force", **site)
    assert (back.code, "has no way back" in back.err) == (4, True), back
    assert sandbox.run("restore", "--backup=latest", "--force", **site).code == 0
    again = sandbox.run("migrate.status", "--json", **site)
    assert again.code == 3, again
    assert json.loads(again.out)["pending"] == [checkout.BAD]
    assert "line 4: drops or empties: DROP TABLE learning.translation CASCADE" in again.err
    assert f"Do not run what did the damage again: {checkout.BAD}.sql" in again.err


def test_the_bad_evening_runs_as_a_migration_only_for_one_who_means_it(sandbox: Project) -> None:  # noqa: F811
    site = {"POLYLADDER_SITE": "sandbox"}
    assert sandbox.run("backup", **site).code == 0
    assert sandbox.run("sandbox.break", "--force").code == 0
    assert sandbox.run("restore", "--backup=latest", "--force", **site).code == 0
    asked = sandbox.run("migrate", **site)
    assert (asked.code, "this needs a yes" in asked.err) == (4, True), asked
    assert json.loads(sandbox.run("migrate.status", "--json", **site).out)["pending"] == [checkout.BAD]
    meant = sandbox.run("migrate", "--force", **site)
    assert (meant.code, "has 1 migration more" in meant.out) == (0, True), meant


def test_what_leads_to_production_is_not_read(sandbox: Project) -> None:  # noqa: F811
    found = sandbox.run(
        "migrate.status",
        POLYLADDER_SITE="sandbox",
        POLYLADDER_APP_DIR="/nowhere",
        POLYLADDER_MIGRATE_COMMAND="no-such-program",
    )
    assert "POLYLADDER_APP_DIR" in found.err.splitlines()[0]
    assert "names no folder" not in found.err


def test_without_a_checkout_nothing_is_pulled(tmp_path: Path) -> None:
    with pytest.raises(OpsError, match="there is no checkout"):
        checkout.pull_bad_migration(tmp_path)
