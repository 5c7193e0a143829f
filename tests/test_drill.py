"""The drill passes on a sound sandbox and can fail: it says which thing came back otherwise."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.postgres import session
from polyladder_ops.sandbox import drill

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target


def run(live: Target, tmp_path: Path, *, damage: str = "") -> drill.Result:
    def before_proof(restored: Target) -> None:
        with closing(session.connect(restored)) as connection:
            connection.execute(damage.encode())

    return drill.run(
        live,
        tmp_path / "backups",
        tmp_path / "private",
        site="sandbox",
        say=lambda _text: None,
        before_proof=before_proof if damage else None,
    )


def test_a_drill_proves_a_backup_that_was_taken_under_a_writer(
    sample_database: Target, tmp_path: Path
) -> None:
    result = run(sample_database, tmp_path)
    assert result.passed, result.steps
    assert [step.name for step in result.steps] == [
        "backup under a writer",
        "verify",
        "restore",
        "proof",
        "live is told apart",
    ]


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (
            "UPDATE learning.word SET lemma = overlay(lemma placing '~' from 1 for 1) WHERE id = 7",
            "learning.word",
        ),
        ("SELECT nextval('learning.word_id_seq')", "learning.word_id_seq"),
        ("REVOKE SELECT ON learning.word FROM polyladder_readonly", "learning.word"),
    ],
)
def test_a_drill_fails_if_what_came_back_is_changed(
    damage: str, name: str, sample_database: Target, tmp_path: Path
) -> None:
    result = run(sample_database, tmp_path, damage=damage)
    assert not result.passed
    (failed,) = [step for step in result.steps if not step.ok]
    assert failed.name == "proof"
    assert name in failed.seen
