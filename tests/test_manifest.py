"""Manifests come back as they were written; what lies, is cut, or is newer than we are is refused by name."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import UTC, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyladder_ops import catalog, encryption, seal
from polyladder_ops.errors import OpsError
from polyladder_ops.manifest import FORMAT, Manifest, load
from tests.factories import NIGHT, manifest, put, table, unchecked

if TYPE_CHECKING:
    from pathlib import Path

NAME = "polyladder_20260105_020000.sql.gz.json"


def write(folder: Path, text: str | bytes, name: str = NAME) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def changed(**changes: Any) -> str:
    """Return a manifest's text with these fields changed; None takes a field away."""
    fields = {**json.loads(unchecked(manifest().to_json())), **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not None})


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    for made in (
        manifest(),
        manifest(encrypted=True, migration_head=None),
        manifest(tables=(table('public."grün, \\x (é)"', 2**40),), warnings=("a\nb",)),
    ):
        path = write(tmp_path, made.to_json(), f"{made.file}.json")
        assert load(path) == made


def test_the_text_is_json_with_the_fields_that_the_readme_names(tmp_path: Path) -> None:
    fields = json.loads(manifest().to_json())
    assert fields["format"] == FORMAT == 1
    assert fields["taken_at"] == "2026-01-05T02:00:00Z"
    assert fields["source"]["system_identifier"] == "7400000000000000001"
    assert fields["tables"][0] == {
        "name": "public.decks", "columns": "(id, title)", "rows": 3, "size_bytes": 30, "digest": "0" * 32, "order_free": False,
        "has_huge_rows": False,
    }  # fmt: skip
    assert manifest().rows == manifest().contents.rows == 3


def test_a_manifest_that_does_not_say_how_long_its_rows_are_is_read_as_if_they_were_huge(
    tmp_path: Path,
) -> None:
    fields = json.loads(unchecked(manifest().to_json()))
    del fields["tables"][0]["has_huge_rows"]
    assert load(write(tmp_path, json.dumps(fields))).tables[0].has_huge_rows


def test_times_are_utc_whatever_zone_they_are_written_in(tmp_path: Path) -> None:
    made = manifest(taken_at=NIGHT.astimezone(timezone(timedelta(hours=9))))
    assert made.taken_at == NIGHT
    assert made.taken_at.tzinfo is UTC
    found = load(write(tmp_path, changed(taken_at="2026-01-05T03:00:00+01:00")))
    assert found.taken_at == NIGHT


LIES = {
    "another file": (changed(file="polyladder_20260104_020000.sql.gz"), "speaks of another file"),
    "another id": (changed(id="polyladder_20260104_020000"), "speaks of another file"),
    "a path out of the folder": (
        changed(file="../polyladder_20260105_020000.sql.gz"),
        "speaks of another file",
    ),
    "an absolute path": (changed(file="/etc/passwd"), "speaks of another file"),
    "an id with a folder in it": (changed(id="x/polyladder_20260105_020000"), "speaks of another file"),
    "a flag that says encrypted": (changed(encrypted=True), "contradict"),
    "a name that says encrypted": (
        changed(file="polyladder_20260105_020000.sql.gz.age"),
        "speaks of another file",
    ),
    "a time without a zone": (changed(taken_at="2026-01-05T02:00:00"), "taken_at: .*no time zone"),
    "a time that is none": (changed(taken_at="yesterday"), "taken_at"),
    "a size that is a word": (changed(size_bytes="large"), "size_bytes"),
    "a table without its digest": (
        changed(tables=[{"name": "a", "columns": "", "rows": 1, "size_bytes": 1}]),
        "tables.0.digest",
    ),
    "no checksum": (changed(sha256=None), "sha256"),
    "no tables": (changed(tables=None), "tables"),
    "no format": (changed(format=None), "does not say its format"),
    "a format that is a word": (changed(format="1"), "does not say its format"),
    "a format that is yes": (changed(format=True), "does not say its format"),
    "format 0": (changed(format=0), "does not say its format"),
    "nothing": ("", "JSON"),
    "a list": ("[]", "should be an object"),
    "half of it": (manifest().to_json()[:300], "JSON"),
    "bytes that are not UTF-8": (b'{"format": 1, "id": "\xff"}', "unicode"),
    "brackets without end": ("[" * 100_000, "JSON"),
}


@pytest.mark.parametrize("case", LIES.values(), ids=LIES)
def test_a_manifest_is_refused_that_holds(case: tuple[str | bytes, str], tmp_path: Path) -> None:
    text, words = case
    with pytest.raises(OpsError, match="is unusable") as caught:
        load(write(tmp_path, text))
    assert NAME in caught.value.message
    assert re.search(words, caught.value.detail, re.DOTALL), caught.value.detail
    assert "backup.list" in caught.value.hint
    assert len(caught.value.detail) < 600


def test_a_newer_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(OpsError, match="is unusable") as caught:
        load(write(tmp_path, changed(format=3, tables=None, new={"x": 1})))
    assert "format 3" in caught.value.detail
    assert "Upgrade" in caught.value.hint


def test_a_field_that_a_later_version_added_to_this_format_does_no_harm(tmp_path: Path) -> None:
    text = changed(later="x", source={**json.loads(manifest().to_json())["source"], "later": 1})
    assert load(write(tmp_path, text)) == manifest()


def test_a_missing_manifest_is_said_by_name(tmp_path: Path) -> None:
    with pytest.raises(OpsError, match=r"the manifest gone\.json is unusable"):
        load(tmp_path / "gone.json")


def test_a_renamed_pair_is_refused(tmp_path: Path) -> None:
    made = put(tmp_path)
    renamed = (tmp_path / f"{made.file}.json").rename(tmp_path / "polyladder_20270101_000000.sql.gz.json")
    with pytest.raises(OpsError, match="is unusable"):
        load(renamed)


@given(st.data())
@settings(deadline=None)  # a busy machine is no failure
def test_a_manifest_cut_anywhere_is_refused(data: st.DataObject) -> None:
    text = manifest().to_json().rstrip()
    with pytest.raises(ValueError):
        Manifest.model_validate_json(text[: data.draw(st.integers(0, len(text) - 1))])


def test_what_is_wrong_is_told_without_the_values(tmp_path: Path) -> None:
    with pytest.raises(OpsError) as caught:
        load(write(tmp_path, changed(size_bytes="canary-79", sha256={"canary-79": 1})))
    assert "canary-79" not in f"{caught.value} {caught.value.__cause__}"


def test_a_manifest_can_not_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(manifest(), "size_bytes", 1)  # noqa: B010 - the type checker knows it too


# Whether it is what was written ---------------------------------------------------------------------------------------


def described(sealed: bool) -> Manifest:
    if not sealed:
        return manifest(tables=(table('public."whole"'),), warnings=("whole",))
    key = pyrage.x25519.Identity.generate().to_public()
    return seal.closed(manifest(encrypted=True), encryption.recipients([str(key)]))


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_a_manifest_of_which_any_one_character_has_rotted_is_refused_or_says_the_same(
    sealed: bool, tmp_path: Path
) -> None:
    """What is read nevertheless is what was written: in blanks, and in the name of the digest, nothing is lost."""
    made = described(sealed)
    text = made.to_json().encode()
    read = []
    for at in range(len(text)):
        for flipped in (1, 0x10):
            rotten = bytearray(text)
            rotten[at] ^= flipped
            path = write(tmp_path, bytes(rotten), f"{made.file}.json")
            with suppress(OpsError):
                assert load(path) == made, at
                read.append(at)
    named = range(text.rindex(b'"whole"'), text.rindex(b'"whole"') + 7)
    assert {at for at in read if not text[at : at + 1].isspace()} <= set(named)


def test_a_manifest_of_which_a_word_has_rotted_is_said_to_be_so_and_what_to_do(tmp_path: Path) -> None:
    path = write(tmp_path, manifest().to_json().replace("0042_decks", "0043_decks"))
    with pytest.raises(OpsError, match="is unusable") as caught:
        load(path)
    assert "something in it has rotted or was changed" in caught.value.detail
    assert "backup.list" in caught.value.hint
    assert "--backup=./FILE" in caught.value.hint


@pytest.mark.parametrize("how", ["line ends of Windows", "other indents", "one line"])
def test_a_manifest_whose_blanks_another_program_set_is_read(how: str, tmp_path: Path) -> None:
    text = manifest().to_json()
    if how == "line ends of Windows":
        text = text.replace("\n", "\r\n")
    else:
        text = json.dumps(json.loads(text), indent=4 if how == "other indents" else None)
    assert load(write(tmp_path, text)) == manifest()


def test_a_manifest_from_before_it_had_a_digest_of_itself_is_read(tmp_path: Path) -> None:
    made = described(sealed=False)
    text = unchecked(made.to_json())
    assert '"whole":' not in text
    assert load(write(tmp_path, text)) == made


def test_a_newest_backup_whose_manifest_has_rotted_is_not_latest_and_is_named(tmp_path: Path) -> None:
    older, newest = put(tmp_path, taken_at=NIGHT - timedelta(days=1)), put(tmp_path)
    path = tmp_path / f"{newest.file}.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"rows": 3', '"rows": 2'), encoding="utf-8")
    seen = catalog.scan(tmp_path, "production")
    assert seen.latest is not None
    assert seen.latest.id == older.id
    assert [error.message for error in seen.unusable] == [f"the manifest {path.name} is unusable"]
