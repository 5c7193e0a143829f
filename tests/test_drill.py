"""The drill passes on a sound sandbox and can fail: it says which thing came back otherwise."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import backups, catalog, checks
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import databases, session
from polyladder_ops.sandbox import damage, drill
from tests.forging import lying

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target

SANDBOX_CHECKS = Path(drill.__file__).parent / "checks.sql"
DAMAGE = {
    "table learning.word: its 400 rows are not the rows that were dumped": (
        "UPDATE learning.word SET lemma = overlay(lemma placing '~' from 1 for 1) WHERE id = 7"
    ),
    "sequence learning.word_id_seq: it stands at 401": "SELECT nextval('learning.word_id_seq')",
    "table learning.course: its grants differ": "REVOKE SELECT ON learning.course FROM polyladder_readonly",
    "index learning.word_lemma_trgm_idx: it is missing": "DROP INDEX learning.word_lemma_trgm_idx",
    "large object 91001: its 3200 bytes are not": "SELECT lo_put(91001, 3, '\\x00')",
}


@pytest.fixture
def live(sample_database: Target) -> Iterator[Target]:
    """A database that is drilled on; what a drill leaves on purpose is dropped."""
    yield sample_database
    databases.drop(sample_database.with_database("postgres"), drill.RESTORED)


def run(
    live: Target, tmp_path: Path, *, damaged: bool = False, questions: tuple[checks.Check, ...] = ()
) -> drill.Result:
    def before_proof(restored: Target) -> None:
        with closing(session.connect(restored)) as connection:
            for statement in DAMAGE.values():
                connection.execute(statement.encode())

    return drill.run(
        live,
        tmp_path / "backups",
        tmp_path / "private",
        site="sandbox",
        say=lambda _text: None,
        questions=questions,
        before_proof=before_proof if damaged else None,
    )


def test_a_drill_proves_a_backup_that_was_taken_under_a_writer(live: Target, tmp_path: Path) -> None:
    """Also where a sandbox that is gone has left its backups: it was another server, and may have been."""
    earlier = backups.take(live, tmp_path / "earlier", site="sandbox", private=tmp_path / "private")
    lying(earlier, tmp_path / "backups", lambda fields: fields["source"].update(system_identifier="1"))
    result = run(live, tmp_path, questions=checks.read(SANDBOX_CHECKS))
    assert result.passed, result.steps
    assert [step.name for step in result.steps] == [
        "backup under a writer",
        "verify",
        "restore",
        "proof",
        "checks",
        "live is told apart",
    ]
    assert result.backup is not None
    assert catalog.scan(tmp_path / "backups", "sandbox").latest == catalog.open_backup(result.backup.path)
    assert drill.RESTORED in session.database_sizes(live)


def test_a_drill_fails_and_names_what_came_back_otherwise(live: Target, tmp_path: Path) -> None:
    result = run(live, tmp_path, damaged=True)
    assert not result.passed
    assert [step.name for step in result.steps if not step.ok] == ["proof"]
    found = [str(difference) for difference in result.differences]
    for said in DAMAGE:
        assert any(difference.startswith(said) for difference in found), (said, found)
    assert len(found) == len(DAMAGE)


def test_a_drill_fails_if_the_restored_database_gives_another_answer(live: Target, tmp_path: Path) -> None:
    asked = (
        checks.Check("words", "> 0", "SELECT count(*) FROM learning.word"),
        checks.Check("martians", "> 0", "SELECT count(*) FROM learning.word WHERE lemma = 'zrx'"),
    )
    result = run(live, tmp_path, questions=asked)
    assert [(step.name, step.seen) for step in result.steps if not step.ok] == [
        ("checks", "martians: expected > 0, got 0")
    ]


def test_a_drill_on_a_broken_sandbox_says_how_to_get_a_sound_one(live: Target, tmp_path: Path) -> None:
    damage.break_database(live)
    with pytest.raises(OpsError, match="the writer did not start") as caught:
        run(live, tmp_path)
    assert "`invoke sandbox.down`" in caught.value.hint
    assert catalog.scan(tmp_path / "backups", "sandbox").backups == ()
