"""`verify` at level stored: it passes what was dumped, fails everything else with the reason, and keeps the verdict."""

from __future__ import annotations

import gzip
import hashlib
import random
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyrage
import pytest

from polyladder_ops import backups, catalog, report, verification
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.session import connect
from tests.conftest import run
from tests.dumps import dump
from tests.forging import damaged, dump_of, forged, lying

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.sandbox.server import Server
    from tests.forging import Fields

KEY = pyrage.x25519.Identity.generate()
SMALL = b"""
CREATE TABLE public.word (id serial PRIMARY KEY, lemma text);
INSERT INTO public.word (lemma) SELECT 'wort ' || i || E'\\n\\\\.' FROM generate_series(1, 200) i;
CREATE TABLE public.empty (a int);
SELECT lo_from_bytea(4711, decode(repeat('c0ffee', 500), 'hex'));
"""


@pytest.fixture(scope="module")
def small(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Backup]:
    """One small database twice: a plain and an encrypted backup, to read only."""
    target = server.target("small")
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0", "small")
    with closing(connect(target)) as connection:
        connection.execute(SMALL)
    folder = tmp_path_factory.mktemp("small")
    encrypted = backups.Options(recipients=(str(KEY.to_public()),))
    taken = {
        "plain": backups.take(target, folder / "plain", site="test", private=folder / "private"),
        "encrypted": backups.take(
            target, folder / "encrypted", site="test", private=folder / "private", options=encrypted
        ),
    }
    run(server.target(), "DROP DATABASE %I", "small")
    return taken


@pytest.fixture
def plain(small: dict[str, Backup]) -> Backup:
    return small["plain"]


def reasons(backup: Backup, *keys: Any) -> tuple[str, ...]:
    """Return why the backup failed; none if it passed."""
    found = verification.verify_stored(backup, keys)
    assert (found.verdict == "failed") == bool(found.reasons)
    return found.reasons


def listed(backup: Backup) -> Backup:
    """Return the backup as its folder lists it now."""
    (found,) = catalog.scan(backup.path.parent, "test").backups
    return found


def verified_column(backup: Backup) -> str:
    """Return what a person reads of the backup under the heading verified."""
    header, line = report.listed([listed(backup)], datetime.now(UTC)).splitlines()
    at = header.index("verified")
    return line[at:].split()[0]


def first(name: str, field: str, value: object) -> Callable[[Fields], object]:
    return lambda fields: fields[name][0].__setitem__(field, value)


def put(field: str, value: object) -> Callable[[Fields], object]:
    return lambda fields: fields.__setitem__(field, value)


@pytest.mark.parametrize("kind", ["plain", "encrypted"])
def test_a_sound_backup_passes_and_counts_as_verified_from_then_on(
    kind: str, small: dict[str, Backup], tmp_path: Path
) -> None:
    backup = damaged(small[kind], tmp_path / "folder", small[kind].path.read_bytes())
    assert not listed(backup).verified
    assert verified_column(backup) == "no"
    assert reasons(backup, KEY) == ()
    (record,) = listed(backup).records
    assert (record.kind, record.level, record.verdict, record.sha256) == (
        "verify", "stored", "passed", backup.manifest.sha256,
    )  # fmt: skip
    assert listed(backup).verified
    assert verified_column(backup) == "bytes"


@pytest.mark.parametrize("kind", ["plain", "encrypted"])
def test_a_file_that_is_cut_anywhere_fails(kind: str, small: dict[str, Backup], tmp_path: Path) -> None:
    data = small[kind].path.read_bytes()
    places = {*random.Random(1).sample(range(1, len(data)), 100), *range(len(data) - 24, len(data)), 1, 2, 9}
    for place in places:
        backup = damaged(small[kind], tmp_path / "folder", data[:place])
        assert f"the file has {place} bytes" in reasons(backup, KEY)[0]
        assert not backup.complete


@pytest.mark.parametrize("kind", ["plain", "encrypted"])
def test_one_bit_flipped_anywhere_fails(kind: str, small: dict[str, Backup], tmp_path: Path) -> None:
    data = small[kind].path.read_bytes()
    chance = random.Random(2)
    for _ in range(300):
        flipped = bytearray(data)
        flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        said = reasons(damaged(small[kind], tmp_path / "folder", bytes(flipped)), KEY)
        assert said[0] == "the file's sha256 is not the one in the manifest"


def test_a_flip_is_found_without_the_sha256_too(plain: Backup, tmp_path: Path) -> None:
    data, dumped = plain.path.read_bytes(), dump_of(plain)
    chance = random.Random(3)
    for _ in range(200):
        flipped = bytearray(data)
        flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        sha256 = hashlib.sha256(flipped).hexdigest()
        backup = lying(plain, tmp_path / "folder", put("sha256", sha256), bytes(flipped))
        # Four fields of a gzip header (time, system, effort, kind of text) mean nothing.
        assert reasons(backup) or gzip.decompress(flipped) == dumped


def test_whatever_stands_in_the_dump_there_is_a_verdict(plain: Backup, tmp_path: Path) -> None:
    dumped = dump_of(plain)
    begin = dumped.index(b"stdin;\n", dumped.index(b"COPY public.word")) + 7
    rows = range(begin, dumped.index(b"\n\\.\n", begin))
    chance = random.Random(4)
    for _ in range(200):
        changed, place = bytearray(dumped), chance.randrange(len(dumped))
        changed[place] = chance.choice(
            b"\0\n\t\\'\"$();-/9aZ\x80\xff".replace(dumped[place : place + 1], b"")
        )
        data = gzip.compress(changed, 1)
        agreeing = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        found = reasons(lying(plain, tmp_path / "folder", lambda f, a=agreeing: f.update(a), data))  # type: ignore[misc]
        assert found or place not in rows, bytes(changed[place - 20 : place + 20])


def test_a_failure_takes_back_what_an_earlier_pass_had_said(plain: Backup, tmp_path: Path) -> None:
    backup = damaged(plain, tmp_path / "folder", plain.path.read_bytes())
    assert reasons(backup) == ()
    data = bytearray(plain.path.read_bytes())
    data[len(data) // 2] ^= 1
    backup.path.write_bytes(data)
    assert reasons(backup)
    assert [record.verdict for record in listed(backup).records] == ["passed", "failed"]
    assert not listed(backup).verified
    assert verified_column(backup) == "FAILED"


OTHER_BYTES: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "missing": (lambda _: None, "its data file is missing"),
    "empty": (lambda _: b"", "the file is empty"),
    "a gzip of nothing": (lambda _: gzip.compress(b""), "the dump has no end"),
    "zeros of the same length": (lambda data: b"\0" * len(data), "the file is not gzip"),
    "garbage behind it": (lambda data: data + b"garbage", "something stands behind the gzip data"),
    "one byte behind it": (lambda data: data + b"\x1f", "something stands behind the gzip data"),
    "a gzip member behind it": (lambda data: data + gzip.compress(b"DROP TABLE x;\n"), "after its end"),
    "itself twice": (lambda data: data * 2, "command out of place"),
    "the SQL itself": (gzip.decompress, "the file is not gzip"),
    "gzipped anew": (lambda data: gzip.compress(gzip.decompress(data), 9), "sha256"),
    "without its last member": (
        lambda data: gzip.compress(gzip.decompress(data)[:2000]),
        "the dump ends inside",
    ),
    "half of it in each of two members": (
        lambda data: b"".join(gzip.compress(half) for half in _halves(gzip.decompress(data))),
        "sha256",
    ),
}


def _halves(data: bytes) -> tuple[bytes, bytes]:
    return data[: len(data) // 2], data[len(data) // 2 :]


@pytest.mark.parametrize("other", OTHER_BYTES)
def test_other_bytes_under_the_name_fail(other: str, plain: Backup, tmp_path: Path) -> None:
    make, said = OTHER_BYTES[other]
    backup = damaged(plain, tmp_path / "folder", make(plain.path.read_bytes()))
    found = reasons(backup)
    assert any(said in reason for reason in found), found
    assert listed(backup).records[-1].details == found


def test_another_backups_file_under_the_name_fails(
    plain: Backup, small: dict[str, Backup], tmp_path: Path
) -> None:
    backup = damaged(plain, tmp_path / "folder", small["encrypted"].path.read_bytes())
    assert reasons(backup)[-1].startswith("the file is not gzip")
    backup = damaged(small["encrypted"], tmp_path / "other", plain.path.read_bytes())
    assert reasons(backup, KEY)[-1].startswith("the encrypted bytes are damaged")


LIES: dict[str, tuple[Callable[[Fields], object], str]] = {
    "a row more": (first("tables", "rows", 1), "table public.empty: it has 0 rows instead of 1"),
    "another digest": (
        lambda f: f["tables"][1].__setitem__("digest", "0" * 32),
        "table public.word: its 200 rows are not the rows that were dumped",
    ),
    "fewer bytes": (
        lambda f: f["tables"][1].__setitem__("size_bytes", 5),
        "table public.word: its 200 rows are not",
    ),
    "other columns": (first("tables", "columns", "(b)"), "table public.empty: its columns are not the columns that were dumped"),
    "a table less": (lambda f: f["tables"].pop(), "table public.word: it was not dumped"),
    "a table more": (
        lambda f: f["tables"].append({**f["tables"][0], "name": "public.ghost"}),
        "table public.ghost: it is missing",
    ),
    "a table twice": (lambda f: f["tables"].append(f["tables"][0]), "in another order, or twice"),
    "another order": (lambda f: f["tables"].reverse(), "in another order, or twice"),
    "a sequence's value": (
        first("sequences", "value", 7),
        "sequence public.word_id_seq: it stands at 200 (called) instead of 7 (called)",
    ),
    "a sequence not called": (first("sequences", "called", False), "instead of 200 (not called)"),
    "no sequence": (put("sequences", []), "sequence public.word_id_seq: it was not dumped"),
    "a large object's size": (
        first("large_objects", "size_bytes", 3),
        "large object 4711: it has 1500 bytes instead of 3",
    ),
    "a large object's bytes": (first("large_objects", "digest", "f" * 32), "large object 4711: its 1500 bytes are not the bytes"),
    "no large object": (put("large_objects", []), "large object 4711: it was not dumped"),
    "sha256": (put("sha256", "0" * 64), "the file's sha256 is not the one in the manifest"),
    "the stored size": (put("size_bytes", 1), "bytes, the manifest says 1"),
    "the dump's size": (put("plain_bytes", 1), "bytes, the manifest says 1"),
    "the encoding": (put("encoding", "LATIN1"), "the dump is in UTF8, the manifest says LATIN1"),
    "the algorithm": (put("digest_algorithm", "rot13"), "its digests are 'rot13', this version knows"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies_is_told_so(lie: str, plain: Backup, tmp_path: Path) -> None:
    change, said = LIES[lie]
    found = reasons(lying(plain, tmp_path / "folder", change))
    assert len(found) == 1, found
    assert said in found[0]


def test_a_key_that_does_not_fit_is_no_verdict(small: dict[str, Backup], tmp_path: Path) -> None:
    backup = damaged(small["encrypted"], tmp_path / "folder", small["encrypted"].path.read_bytes())
    for keys in ([pyrage.x25519.Identity.generate()], []):
        with pytest.raises(OpsError, match="none of our keys") as caught:
            verification.verify_stored(backup, keys)
        assert "BACKUP_AGE_IDENTITY_FILE" in caught.value.hint
    assert listed(backup).records == ()


def test_other_bytes_fail_without_a_key_too(small: dict[str, Backup], tmp_path: Path) -> None:
    data = small["encrypted"].path.read_bytes()
    backup = damaged(small["encrypted"], tmp_path / "folder", data[:-1] + b"\0")
    assert "sha256" in reasons(backup, pyrage.x25519.Identity.generate())[0]


HOSTILE = {
    "a shell command": b"\\! touch canary",
    "a shell command in the name of unrestrict": b"\\unrestrict `touch canary`",
    "a backquoted variable": b"\\set x `touch canary`",
    "another database": b"\\connect postgres",
    "another file": b"\\i /etc/passwd",
    "a copy to a program": b"\\copy public.word to program 'touch canary'",
    "a copy from a program": b"COPY public.word FROM PROGRAM 'touch canary';",
    "a copy to a file": b"COPY public.word TO '/tmp/canary';",
    "a copy with options": b"COPY public.word (lemma) FROM stdin WITH (FORMAT csv);\nx\n\\.",
    "a copy of a query": b"COPY (SELECT 1) TO stdout;",
    "rows that do not end": b"COPY public.word (lemma) FROM stdin;\nx",
    "a statement behind the rows' beginning": b"COPY public.word (lemma) FROM stdin; DROP TABLE x;\nx\n\\.",
    "strings by other rules": b"SELECT pg_catalog.set_config('standard_conforming_strings', 'off', false);",
    "letters by other rules": b"SET client_encoding = 'SJIS';",
    "half a byte of a large object": b"SELECT pg_catalog.lo_open('4711', 131072);\n"
    b"SELECT pg_catalog.lowrite(0, '\\x414');\nSELECT pg_catalog.lo_close(0);\nSELECT 1/0",
    "a large object out of nowhere": b"SELECT pg_catalog.lowrite(0, '\\x41');",
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_dump_that_would_do_more_than_restore_fails_though_its_manifest_agrees(
    hostile: str, plain: Backup, tmp_path: Path
) -> None:
    backup = forged(plain, tmp_path / "folder", dump(HOSTILE[hostile]))
    (reason,) = reasons(backup)
    assert "sha256" not in reason


def test_a_forged_dump_that_is_harmless_passes_at_this_level(plain: Backup, tmp_path: Path) -> None:
    """The test above would prove nothing if every forged dump failed; only a restore, or a signature, tells this one."""
    assert reasons(forged(plain, tmp_path / "folder", dump_of(plain))) == ()
    assert reasons(forged(plain, tmp_path / "folder", dump(b"CREATE TABLE public.other ();"))) == ()


def test_a_manifest_that_is_changed_while_it_is_looked_at_has_not_passed(
    plain: Backup, tmp_path: Path
) -> None:
    made = damaged(plain, tmp_path / "changed", plain.path.read_bytes())
    manifest = made.path.with_name(f"{made.path.name}.json")

    def change(_read: int, _whole: int | None = None) -> None:
        manifest.write_text(manifest.read_text().replace('"site"', ' "site"'))

    verdict = verification.verify_stored(made, [], progress=change)
    assert (verdict.verdict, verdict.reasons) == (
        "failed",
        ("somebody changed its manifest while it was looked at",),
    )
    assert catalog.open_backup(made.path).failed


def test_a_verdict_that_can_not_be_kept_is_an_error_that_tells_it(plain: Backup, tmp_path: Path) -> None:
    long_name = "polyladder_" + "x" * 225
    data = plain.path.read_bytes()
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / f"{long_name}.sql.gz"
    path.write_bytes(data)
    manifest = plain.manifest.model_copy(update={"id": long_name, "file": path.name})
    path.with_name(f"{path.name}.json").write_text(manifest.to_json(), encoding="utf-8")
    with pytest.raises(OpsError, match="is passed, but that could not be recorded"):
        verification.verify_stored(catalog.open_backup(path), [])
