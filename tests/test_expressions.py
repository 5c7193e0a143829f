"""The source's own texts in a manifest: they come back, lie sealed beside an encrypted backup, and old manifests have none."""

from __future__ import annotations

import base64
import gzip
import json
from contextlib import closing
from typing import TYPE_CHECKING

import pyrage
import pytest

from polyladder_ops import backups, encryption, expressions, restoring, verification
from polyladder_ops.errors import OpsError
from polyladder_ops.manifest import load, read_head
from polyladder_ops.postgres import session
from tests.factories import manifest, put
from tests.forging import lying

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server
    from tests.forging import Fields

KEY = pyrage.x25519.Identity.generate()
TEXTS = {
    ("view", "public.seen", "query"): " SELECT 'canary ü'::text;",
    ("policy", 'p on public."t ; x"', "using"): "(a = E'\\n')",
}


def age() -> list[object]:
    return encryption.recipients([str(KEY.to_public())])


def as_before(fields: Fields) -> None:
    """Make of a manifest's fields what a version wrote that kept no texts."""
    del fields["expressions"]
    for entry in fields["objects"]:
        del entry["exact"]


def test_texts_come_back_as_they_were(tmp_path: Path) -> None:
    for encrypted in (False, True):
        packed = expressions.packed(TEXTS, age() if encrypted else [])
        made = put(tmp_path, expressions=packed, encrypted=encrypted)
        found = load(tmp_path / f"{made.file}.json")
        assert expressions.unpacked(found, [KEY]) == TEXTS
        assert list(json.loads((tmp_path / f"{made.file}.json").read_text()))[-3:] == [
            "expressions",
            "sealed",
            "whole",
        ]
        assert read_head(tmp_path, f"{made.file}.json") == (made.site, made.taken_at)


def test_no_texts_at_all_are_not_taken_for_a_manifest_without_them() -> None:
    assert expressions.unpacked(manifest(expressions=expressions.packed({}, [])), []) == {}
    assert expressions.unpacked(manifest(), []) is None


def test_beside_an_encrypted_backup_nobody_reads_them_without_a_key() -> None:
    sealed = manifest(encrypted=True, expressions=expressions.packed(TEXTS, age()))
    raw = base64.b64decode(sealed.expressions)
    assert raw.startswith(b"age-encryption.org")
    with pytest.raises(OpsError, match="none of our keys"):
        expressions.unpacked(sealed, [pyrage.x25519.Identity.generate()])


DAMAGED = {
    "no base64": "*",
    "no gzip": base64.b64encode(b"x" * 40).decode(),
    "cut": expressions.packed(TEXTS, [])[:40],
    "no JSON": base64.b64encode(gzip.compress(b"{")).decode(),
    "other JSON": base64.b64encode(gzip.compress(b"[[1, 2]]")).decode(),
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("encrypted", [False, True])
def test_damaged_texts_are_named(text: str, encrypted: bool) -> None:
    with pytest.raises(OpsError, match="are damaged"):
        expressions.unpacked(manifest(expressions=text, encrypted=encrypted), [KEY])


@pytest.fixture
def taken(database: Target, tmp_path: Path) -> Backup:
    with closing(session.connect(database, settings={"search_path": "public"})) as connection:
        connection.execute("CREATE TABLE t (a varchar CHECK (a IN ('x', 'y')), canary7 int DEFAULT 77007)")
    options = backups.Options(recipients=(str(KEY.to_public()),))
    return backups.take(
        database, tmp_path / "backups", site="test", private=tmp_path / "private", options=options
    )


def test_a_manifest_of_an_encrypted_backup_holds_no_definition_in_clear(
    taken: Backup, server: Server
) -> None:
    text = taken.path.with_name(f"{taken.path.name}.json").read_bytes()
    assert b"77007" not in text
    for field in json.loads(text)["expressions"].split():
        assert b"77007" not in base64.b64decode(field)
    assert ("table", "public.t", "default of canary7") in (expressions.unpacked(taken.manifest, [KEY]) or {})
    verdict = verification.verify_by_restore(taken, [KEY], server.target(), trusted=True)
    assert (verdict.verdict, verdict.reasons) == ("passed", ())


def test_damaged_texts_fail_the_first_look_at_a_backup(taken: Backup, tmp_path: Path) -> None:
    def damage(fields: Fields) -> None:
        fields["expressions"] = fields["expressions"][:-8]

    verdict = verification.verify_stored(lying(taken, tmp_path / "lying", damage), [KEY])
    assert verdict.verdict == "failed"
    assert "are damaged" in verdict.reasons[0]


def test_a_backup_of_before_is_compared_with_its_dump_only_and_that_is_said(
    taken: Backup, server: Server, tmp_path: Path
) -> None:
    old = lying(taken, tmp_path / "lying", as_before)
    assert old.manifest.expressions == ""
    verdict = verification.verify_by_restore(old, [KEY], server.target(), trusted=True)
    assert verdict.verdict == "not proved"
    assert verdict.reasons == restoring.limits(old.manifest)
    assert "compared with the dump only" in verdict.reasons[0]
