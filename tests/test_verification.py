"""Verification believes no file: every byte against the manifest, and the whole by a restore, or it is not proved."""

from __future__ import annotations

import gzip
import hashlib
import random
import shutil
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyrage
import pytest

from polyladder_ops import backups, catalog, encryption
from polyladder_ops.errors import OpsError, SettingsError
from polyladder_ops.postgres import session
from polyladder_ops.verification import verify_by_restore, verify_stored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server


@pytest.fixture(scope="module")
def original(sample: Target, tmp_path_factory: pytest.TempPathFactory) -> Backup:
    folder = tmp_path_factory.mktemp("verification")
    return backups.take(sample, folder / "backups", site="test", private=folder / "private")


@pytest.fixture
def backup(original: Backup, tmp_path: Path) -> Backup:
    """A copy of a backup that a test may spoil."""
    for path in (original.path, original.path.with_name(f"{original.path.name}.json")):
        shutil.copy(path, tmp_path)
    return catalog.open_backup(tmp_path / original.path.name)


def rewritten(backup: Backup, data: bytes) -> Backup:
    backup.path.write_bytes(data)
    return catalog.open_backup(backup.path)


def described(backup: Backup, **changes: Any) -> Backup:
    """Return the backup with a manifest that says something else."""
    told = backup.manifest.model_copy(update=changes)
    backup.path.with_name(f"{backup.path.name}.json").write_text(told.to_json(), encoding="utf-8")
    return catalog.open_backup(backup.path)


def test_a_sound_backup_passes_and_is_verified_from_then_on(backup: Backup) -> None:
    assert not backup.verified
    assert verify_stored(backup, []).passed
    assert catalog.open_backup(backup.path).verified


def test_a_later_failure_takes_the_word_back(backup: Backup) -> None:
    assert verify_stored(backup, []).passed
    sound = backup.path.read_bytes()
    flipped = rewritten(backup, sound[:5000] + bytes([sound[5000] ^ 1]) + sound[5001:])
    assert verify_stored(flipped, []).verdict == "failed"
    assert not catalog.open_backup(backup.path).verified


def test_no_flipped_bit_passes(backup: Backup) -> None:
    sound = backup.path.read_bytes()
    chosen = random.Random(1)  # noqa: S311 - the same places each time
    places = [
        *range(30),
        *(chosen.randrange(len(sound)) for _ in range(40)),
        *range(len(sound) - 12, len(sound)),
    ]
    for place in places:
        spoiled = sound[:place] + bytes([sound[place] ^ (1 << chosen.randrange(8))]) + sound[place + 1 :]
        assert verify_stored(rewritten(backup, spoiled), []).verdict == "failed", place


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.99, 0.99999])
def test_a_cut_file_fails(part: float, backup: Backup) -> None:
    sound = backup.path.read_bytes()
    assert verify_stored(rewritten(backup, sound[: int(len(sound) * part)]), []).verdict == "failed"


def test_a_file_with_something_behind_it_fails(backup: Backup) -> None:
    assert verify_stored(rewritten(backup, backup.path.read_bytes() + b"\0"), []).verdict == "failed"


def test_a_missing_file_fails(backup: Backup) -> None:
    backup.path.unlink()
    verdict = verify_stored(catalog.open_backup(backup.path), [])
    assert (verdict.verdict, verdict.reasons) == ("failed", ("its data file is missing",))


def lie(backup: Backup, what: str) -> dict[str, Any]:
    manifest = backup.manifest
    first, *others = manifest.tables
    sequence, *sequences = manifest.sequences
    large, *objects = manifest.large_objects
    return {
        "rows": {"tables": (replace(first, rows=first.rows + 1), *others)},
        "digest": {"tables": (replace(first, digest="0" * 32), *others)},
        "table less": {"tables": tuple(others)},
        "sequence": {"sequences": (replace(sequence, value=sequence.value + 1), *sequences)},
        "large object": {"large_objects": (replace(large, digest="0" * 32), *objects)},
        "size_bytes": {"size_bytes": manifest.size_bytes + 1},
        "sha256": {"sha256": "0" * 64},
        "plain_bytes": {"plain_bytes": manifest.plain_bytes - 1},
        "encoding": {"encoding": "LATIN1"},
        "digest_algorithm": {"digest_algorithm": "crc32"},
    }[what]


SAID = {
    "rows": "rows instead of",
    "digest": "are not the rows that were dumped",
    "table less": "it was not dumped",
    "sequence": "it stands at",
    "large object": "bytes that were dumped",
    "size_bytes": "the manifest says",
    "sha256": "sha256 is not the one",
    "plain_bytes": "the dump has",
    "encoding": "the manifest says LATIN1",
    "digest_algorithm": "crc32",
}


@pytest.mark.parametrize("what", SAID)
def test_a_manifest_that_lies_is_found_out(what: str, backup: Backup) -> None:
    verdict = verify_stored(described(backup, **lie(backup, what)), [])
    assert verdict.verdict == "failed"
    assert any(SAID[what] in reason for reason in verdict.reasons), verdict.reasons


def forged(backup: Backup, dump: bytes) -> Backup:
    """Return a backup whose file and manifest were both rewritten to agree, as a forger would."""
    data = gzip.compress(dump)

    sha256 = hashlib.sha256(data).hexdigest()
    rewritten(backup, data)
    return described(backup, size_bytes=len(data), sha256=sha256, plain_bytes=len(dump))


@pytest.mark.parametrize(
    "command", [b"\\! touch /tmp/owned\n", b"SELECT 1 \\g /tmp/owned\n", b"COPY pg_class TO PROGRAM 'sh';\n"]
)
def test_a_consistent_forgery_with_a_command_in_it_fails(command: bytes, backup: Backup) -> None:
    dump = gzip.decompress(backup.path.read_bytes())
    at = dump.index(b"\nCREATE TABLE ") + 1
    verdict = verify_stored(forged(backup, dump[:at] + command + dump[at:]), [])
    assert verdict.verdict == "failed"
    assert "the dump holds a" in verdict.reasons[0]


@pytest.fixture
def keys() -> list[Any]:
    return [pyrage.x25519.Identity.generate()]


@pytest.fixture
def encrypted(sample: Target, tmp_path: Path, keys: list[Any]) -> Backup:
    options = backups.Options(recipients=(str(keys[0].to_public()),))
    return backups.take(sample, tmp_path / "b", site="test", private=tmp_path / "p", options=options)


def test_an_encrypted_backup_passes_with_its_key(encrypted: Backup, keys: list[Any], server: Server) -> None:
    assert encrypted.manifest.encrypted
    assert verify_stored(encrypted, keys).passed
    assert verify_by_restore(encrypted, keys, server.target(), trusted=True).passed
    assert b"CREATE TABLE" not in encrypted.path.read_bytes()


def test_a_wrong_key_is_no_verdict(encrypted: Backup) -> None:
    with pytest.raises(OpsError, match="none of our keys"):
        verify_stored(encrypted, [pyrage.x25519.Identity.generate()])
    with pytest.raises(SettingsError, match="no private key is named"):
        encryption.identities(None)
    assert catalog.open_backup(encrypted.path).records == ()


# By restore ------------------------------------------------------------------------------------------------------


def left_behind(server: Target) -> tuple[set[str], set[str]]:
    with closing(session.connect(server)) as connection:
        roles = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
    return set(session.database_sizes(server)), roles


@pytest.fixture
def other_server(tmp_path: Path, server: Server) -> Iterator[Server]:
    """A server of the same major that has none of the source's roles."""
    from polyladder_ops.sandbox import server as servers

    made = servers.create(tmp_path / "other", settings={"fsync": "off"})
    yield made
    made.remove()


def test_a_restore_proves_the_backup_and_leaves_nothing(backup: Backup, other_server: Server) -> None:
    before = left_behind(other_server.target())
    verdict = verify_by_restore(backup, [], other_server.target(), trusted=True)
    assert (verdict.verdict, verdict.reasons) == ("passed", ())
    assert left_behind(other_server.target()) == before


def test_a_failed_proof_leaves_nothing_either(backup: Backup, server: Server) -> None:
    entry, *entries = backup.manifest.objects
    lying = described(backup, objects=(replace(entry, owner="somebody_else"), *entries))
    before = left_behind(server.target())
    verdict = verify_by_restore(lying, [], server.target(), trusted=True)
    assert verdict.verdict == "failed"
    assert any("its owner is" in reason for reason in verdict.reasons)
    assert left_behind(server.target()) == before


def test_another_major_is_not_proved(backup: Backup, older_server: Target) -> None:
    before = left_behind(older_server)
    verdict = verify_by_restore(backup, [], older_server, trusted=True)
    assert verdict.verdict == "not proved"
    assert any("major version is 1" in reason for reason in verdict.reasons)
    assert left_behind(older_server) == before
    assert not catalog.open_backup(backup.path).verified


def test_a_missing_extension_is_not_proved_and_named(backup: Backup, server: Server) -> None:
    extension = replace(backup.manifest.extensions[0], name="no_such_extension")
    verdict = verify_by_restore(
        described(backup, extensions=(*backup.manifest.extensions, extension)),
        [],
        server.target(),
        trusted=True,
    )
    assert verdict.verdict == "not proved"
    assert verdict.reasons[0] == "the extension no_such_extension is not available"


def test_another_version_of_an_extension_is_not_proved(backup: Backup, server: Server) -> None:
    first, *others = backup.manifest.extensions
    verdict = verify_by_restore(
        described(backup, extensions=(replace(first, version="0.1"), *others)),
        [],
        server.target(),
        trusted=True,
    )
    assert verdict.verdict == "not proved"
    assert f"the extension {first.name} would be" in verdict.reasons[0]


@pytest.mark.parametrize(
    "change", [{"collate": "xx_XX.UTF-8"}, {"locale_provider": "icu", "locale": "de-x-nowhere"}]
)
def test_a_missing_locale_is_not_proved(change: dict[str, str], backup: Backup, server: Server) -> None:
    properties = replace(backup.manifest.properties, **change)
    verdict = verify_by_restore(described(backup, properties=properties), [], server.target(), trusted=True)
    assert verdict.verdict == "not proved"
    assert "locale" in verdict.reasons[0]


def test_a_dump_that_the_server_refuses_is_a_failure(backup: Backup, server: Server) -> None:
    dump = gzip.decompress(backup.path.read_bytes())
    at = dump.index(b"\nCREATE TABLE ") + 1
    broken = forged(backup, dump[:at] + b"CREATE TABLE nowhere.at_all ();\n" + dump[at:])
    verdict = verify_by_restore(broken, [], server.target(), trusted=True)
    assert verdict.verdict == "failed"
    assert "nowhere" in verdict.reasons[0]


def test_an_interrupt_leaves_nothing(backup: Backup, server: Server) -> None:
    before = left_behind(server.target())

    def interrupt(_size: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify_by_restore(backup, [], server.target(), trusted=True, progress=interrupt)
    assert left_behind(server.target()) == before
