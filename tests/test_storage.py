"""Bytes on their way to disk and back: whole or refused, plain or encrypted, whatever the disk or a person does."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops import decryption, encryption, storage
from polyladder_ops.errors import Interrupted, OpsError, SettingsError
from polyladder_ops.storage import Damaged, Stored, StoredWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

pyrage = pytest.importorskip("pyrage", reason="there is no age for this system")

SQL = b"".join(b"INSERT INTO decks VALUES (%d, 'title of deck %d');\n" % (n, n * n) for n in range(400))


class Key:
    """A pair of age's keys: what the writer needs, and what the reader needs."""

    def __init__(self) -> None:
        identity = pyrage.x25519.Identity.generate()
        self.text = str(identity)
        self.public = str(identity.to_public())
        self.recipients = encryption.recipients([self.public])
        self.identities = [identity]


KEY = Key()
OTHER = Key()


@pytest.fixture(params=["plain", "age", "age in a process"])
def key(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Key | None:
    """The key that the test's file is encrypted to; None for a plain one. Small files need no process but get one."""
    if request.param == "age in a process":
        monkeypatch.setattr(decryption, "SMALL", -1)
    return None if request.param == "plain" else KEY


def step(key: Key | None) -> int:
    """Return how many bytes are passed over where every byte is tried: a process takes its time."""
    return 1 if key is None else 3 if decryption.SMALL > 0 else 71


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = set(threading.enumerate()) - before
    assert not left, f"still running: {left}"


def store(path: Path, data: bytes, key: Key | None, *, block: int = 1000) -> Stored:
    writer = StoredWriter(path, key.recipients if key else ())
    for at in range(0, len(data), block):
        writer.write(data[at : at + block])
    return writer.finish()


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
def test_what_is_compressed_already_is_kept_between_what_is_not(tmp_path: Path, key: Key | None) -> None:
    path, packed = tmp_path / "data", gzip.compress(b"SELECT 2;\n", 1, mtime=0)
    writer = StoredWriter(path, key.recipients if key else ())
    writer.write(b"SELECT 1;\n")
    for at in range(0, len(packed), 7):
        writer.write_packed(packed[at : at + 7])
    writer.count(10)
    writer.write(b"SELECT 3;\n")
    made = writer.finish()
    plain, found = load(path, key)
    assert plain == b"SELECT 1;\nSELECT 2;\nSELECT 3;\n"
    assert found == made
    assert found.plain_bytes == 30
    assert key or packed in path.read_bytes()


def load(path: Path, key: Key | None) -> tuple[bytes, Stored]:
    blocks: list[bytes] = []
    found = storage.read(path, blocks.append, keys=key.identities if key else (), encrypted=key is not None)
    return b"".join(blocks), found


def stored(folder: Path, key: Key | None, data: bytes = SQL) -> bytes:
    """Return the bytes of a file with this SQL in it."""
    path = folder / "made"
    store(path, data, key)
    made = path.read_bytes()
    path.unlink()
    return made


# Whole -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1000, 3_000_000])
def test_what_was_written_is_what_is_read(size: int, key: Key | None, tmp_path: Path) -> None:
    data = random.Random(size).randbytes(size)
    path = tmp_path / "data"
    told = store(path, data, key, block=70_001)
    raw = path.read_bytes()
    assert told == Stored(len(raw), hashlib.sha256(raw).hexdigest(), size)
    assert load(path, key) == (data, told)
    assert storage.fingerprint(path) == (told.size_bytes, told.sha256)
    assert storage.holds(path, told)


@pytest.mark.skipif(not shutil.which("gunzip"), reason="the gzip program is not installed")
def test_the_gzip_program_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "polyladder_1.sql.gz"
    store(path, SQL, None)
    subprocess.run(["gunzip", "-t", str(path)], check=True)
    assert subprocess.run(["gunzip", "-c", str(path)], capture_output=True, check=True).stdout == SQL


def test_python_and_age_read_what_we_write(tmp_path: Path) -> None:
    assert gzip.decompress(stored(tmp_path, None)) == SQL
    assert gzip.decompress(pyrage.decrypt(stored(tmp_path, KEY), KEY.identities)) == SQL


@pytest.mark.parametrize("level", [1, 6, 9])
def test_files_of_other_gzips_are_read_with_all_their_members(level: int, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(gzip.compress(SQL, level) + gzip.compress(b"", level) + gzip.compress(SQL * 2, level))
    assert load(path, None)[0] == SQL * 3


def test_each_of_several_recipients_can_read(tmp_path: Path) -> None:
    path = tmp_path / "data"
    writer = StoredWriter(path, encryption.recipients([KEY.public, OTHER.public]))
    writer.write(SQL)
    writer.finish()
    assert load(path, KEY)[0] == load(path, OTHER)[0] == SQL


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
def test_only_we_can_read_the_file(key: Key | None, tmp_path: Path) -> None:
    store(tmp_path / "data", SQL, key)
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"precious")
    with pytest.raises(OpsError, match="could not write the backup"):
        StoredWriter(tmp_path / "data")
    assert (tmp_path / "data").read_bytes() == b"precious"


# Damaged ---------------------------------------------------------------------------------------------------------------


def is_noticed(path: Path, raw: bytes, key: Key | None, *, sha256: str = "") -> bool:
    """Whether reading these bytes fails as damage, or gives the whole SQL under another sha256."""
    path.write_bytes(raw)
    try:
        data, found = load(path, key)
    except (Damaged, OpsError):
        return True
    return data == SQL and found.sha256 != sha256 and bool(sha256)


def test_a_cut_at_any_byte_is_refused(key: Key | None, tmp_path: Path) -> None:
    whole = stored(tmp_path, key)
    for length in range(0, len(whole), step(key)):
        assert is_noticed(tmp_path / "cut", whole[:length], key), f"{length} of {len(whole)} bytes"


def test_a_flipped_bit_at_any_byte_is_noticed(key: Key | None, tmp_path: Path) -> None:
    whole = stored(tmp_path, key)
    sha256 = hashlib.sha256(whole).hexdigest()
    chance = random.Random(7)
    unseen = []
    for place in range(0, len(whole), step(key)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << chance.randrange(8)
        assert is_noticed(tmp_path / "flipped", bytes(flipped), key, sha256=sha256), f"byte {place}"
        if is_noticed(tmp_path / "flipped", bytes(flipped), key):
            continue
        unseen.append(place)
    # gzip's header has no checksum: time, flags for a person, name of the system. There sha256 alone sees it.
    assert set(unseen) <= (set(range(3, 10)) if key is None else set())


def test_an_empty_file_is_refused(key: Key | None, tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(Damaged, match="empty" if key is None else "damaged"):
        load(tmp_path / "data", key)


@pytest.mark.parametrize(
    "garbage", [b"\0", b"\x1f", b"x" * 9, b"\x1f\x8b", os.urandom(300_000), b"\0" * 1000]
)
def test_anything_behind_the_end_is_refused(garbage: bytes, key: Key | None, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(stored(tmp_path, key) + garbage)
    with pytest.raises(Damaged):
        load(tmp_path / "data", key)


def test_anything_behind_the_gzip_data_inside_the_encrypted_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(pyrage.encrypt(gzip.compress(SQL) + b"x", KEY.recipients))
    with pytest.raises(Damaged, match="something stands behind the gzip data"):
        load(tmp_path / "data", KEY)


def test_a_missing_member_shows_in_the_plain_size(tmp_path: Path) -> None:
    first, second = gzip.compress(SQL), gzip.compress(SQL * 2)
    (tmp_path / "data").write_bytes(first + second)
    assert load(tmp_path / "data", None)[1].plain_bytes == 3 * len(SQL)
    (tmp_path / "data").write_bytes(first)  # gzip itself can't know that there was another one
    assert load(tmp_path / "data", None)[1].plain_bytes == len(SQL)


@pytest.mark.parametrize(
    ("raw", "words"), [(b"PGDMP\1\2\3", "not gzip"), (b"x", "behind"), (SQL, "not gzip")]
)
def test_a_file_of_another_kind_is_refused(raw: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(raw)
    with pytest.raises(Damaged, match=words):
        load(tmp_path / "data", None)


def test_a_plain_file_is_no_encrypted_one_and_the_other_way_round(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(stored(tmp_path, None))
    with pytest.raises(Damaged):
        load(tmp_path / "data", KEY)
    (tmp_path / "data").write_bytes(stored(tmp_path, KEY))
    with pytest.raises(Damaged, match="not gzip"):
        load(tmp_path / "data", None)


def test_a_bomb_is_read_in_flat_memory(tmp_path: Path) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    raw = b"".join([packer.compress(b"\0" * 10_000_000) for _ in range(10)]) + packer.flush()
    (tmp_path / "data").write_bytes(raw)
    assert len(raw) < 200_000
    largest = 0

    def sink(block: bytes) -> None:
        nonlocal largest
        largest = max(largest, len(block))

    tracemalloc.start()
    assert storage.read(tmp_path / "data", sink).plain_bytes == 100_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest <= 1 << 20
    assert peak < 8_000_000


def test_an_unreadable_file_is_said_by_name(key: Key | None, tmp_path: Path) -> None:
    for look in (lambda path: load(path, key), storage.fingerprint):
        with pytest.raises(OpsError, match="could not read gone") as caught:
            look(tmp_path / "gone")
        assert not isinstance(caught.value, Damaged)
        assert caught.value.hint
        with pytest.raises(OpsError, match="could not read"):
            look(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that opens and can't be read")
def test_a_disk_that_fails_while_it_is_read_is_no_damage(key: Key | None) -> None:
    with pytest.raises(OpsError, match="could not read mem") as caught:
        load(Path("/proc/self/mem"), key)
    assert not isinstance(caught.value, Damaged)
    assert "Input/output error" in caught.value.detail


# Keys ------------------------------------------------------------------------------------------------------------------


def test_a_wrong_key_is_an_error_and_no_verdict_on_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(stored(tmp_path, KEY))
    for keys in (OTHER.identities, []):
        with pytest.raises(encryption.NoKey, match="none of our keys opens the backup") as caught:
            storage.read(tmp_path / "data", lambda _: None, keys=keys, encrypted=True)
        assert not isinstance(caught.value, Damaged)
        assert "BACKUP_AGE_IDENTITY_FILE" in caught.value.hint


def test_private_keys_are_read_among_comments_and_line_ends_of_any_kind(tmp_path: Path) -> None:
    path = tmp_path / "identity.txt"
    path.write_text(
        f"# created: 2026-01-05\r\n# public key: {OTHER.public}\r\n{OTHER.text}\r\n\r\n{KEY.text}", newline=""
    )
    keys = encryption.identities(path)
    assert len(keys) == 2
    (tmp_path / "data").write_bytes(stored(tmp_path, KEY))
    storage.read(tmp_path / "data", lambda _: None, keys=keys, encrypted=True)


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="ssh-keygen is not installed")
@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_ssh_keys_encrypt_and_decrypt(kind: str, tmp_path: Path) -> None:
    path = ssh_key(tmp_path, kind)
    public = path.with_suffix(".pub").read_text().strip()
    writer = StoredWriter(tmp_path / "data", encryption.recipients([public]))
    writer.write(SQL)
    writer.finish()
    found: list[bytes] = []
    storage.read(tmp_path / "data", found.append, keys=encryption.identities(path), encrypted=True)
    assert b"".join(found) == SQL


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="ssh-keygen is not installed")
@pytest.mark.parametrize(("kind", "passphrase"), [("ed25519", "secret"), ("ecdsa", "")])
def test_ssh_keys_that_age_can_not_use_are_said_so(kind: str, passphrase: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="ssh key that age can't use") as caught:
        encryption.identities(ssh_key(tmp_path, kind, passphrase))
    assert "passphrase" in caught.value.hint


def ssh_key(folder: Path, kind: str, passphrase: str = "") -> Path:
    path = folder / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(path)], check=True)
    return path


def test_a_file_without_a_private_key_is_said_so_and_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "identity.txt"
    for text in (
        "",
        "# nothing\n",
        KEY.public,
        KEY.text[:-1],
        KEY.text[:-1] + ("Q" if KEY.text[-1] != "Q" else "P"),
        "hunter2",
    ):
        path.write_text(text)
        with pytest.raises(SettingsError, match="no private key") as caught:
            encryption.identities(path)
        assert KEY.text[20:-1] not in str(caught.value)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(SettingsError, match="can't be read"):
        encryption.identities(tmp_path / "gone")
    with pytest.raises(SettingsError, match="no private key is named"):
        encryption.identities(None)


@pytest.mark.parametrize(
    "bad", ["age1xyz", "", "ssh-ed25519 AAAA", KEY.text], ids=["age", "empty", "ssh", "private"]
)
def test_a_bad_public_key_is_named_by_its_place_only(bad: str) -> None:
    with pytest.raises(SettingsError, match="key 2 is no public key of age") as caught:
        encryption.recipients([KEY.public, bad])
    assert not bad or bad not in str(caught.value)


# Disks and people --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("size", [10, 5_000_000])
def test_a_full_disk_is_an_error_with_a_hint(
    size: int, key: Key | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only a new file is ever written, and a full device is none: the flags are the one thing that is bent here.
    monkeypatch.setattr(storage, "_private", lambda _path, _flags: os.open("/dev/full", os.O_WRONLY))
    writer = StoredWriter(tmp_path / "data", key.recipients if key else ())
    with pytest.raises(OpsError, match="could not write the backup") as caught:
        fill(writer, size)
    assert "No space left on device" in caught.value.detail
    assert "BACKUP_DIR" in caught.value.hint
    writer.abort()


def test_a_disk_that_tells_only_once_what_it_could_not_write_is_heard(
    key: Key | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []

    def fsync(descriptor: int) -> None:
        told.append(descriptor)
        if len(told) == 1:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(storage, "_SYNCED", 1000)
    writer = StoredWriter(tmp_path / "data", key.recipients if key else ())
    deadline = time.monotonic() + 10
    while not told and time.monotonic() < deadline:
        writer.write(os.urandom(100_000))
    with pytest.raises(OpsError, match="could not write the backup") as caught:
        writer.finish()
    assert "Input/output error" in caught.value.detail
    writer.abort()


def fill(writer: StoredWriter, size: int) -> None:
    block = random.Random(1).randbytes(min(size, 100_000))
    for _ in range(0, size, len(block)):
        writer.write(block)
    writer.finish()


LIMITED = """
import os, resource, signal, sys, threading
from pathlib import Path
from polyladder_ops import encryption
from polyladder_ops.errors import OpsError
from polyladder_ops.storage import StoredWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
writer = StoredWriter(Path(sys.argv[1]), encryption.recipients(sys.argv[2:]))
try:
    for _ in range(100):
        writer.write(os.urandom(100_000))
    writer.finish()
except OpsError as error:
    writer.abort()
    print(error, threading.active_count())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on a file's size")
def test_a_file_that_may_not_grow_is_an_error_with_a_hint(key: Key | None, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", LIMITED, str(tmp_path / "data"), *([key.public] if key else [])]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert "File too large" in done.stdout
    assert "BACKUP_DIR" in done.stdout
    assert done.stdout.strip().endswith(" 1"), "a thread is left"


@pytest.mark.parametrize("after", [0, 1, 40])
def test_an_abort_at_any_moment_leaves_no_thread(after: int, key: Key | None, tmp_path: Path) -> None:
    writer = StoredWriter(tmp_path / "data", key.recipients if key else ())
    for _ in range(after):
        writer.write(os.urandom(300_000))
    writer.abort()
    writer.abort()
    with pytest.raises(OpsError, match="aborted"):
        writer.write(b"more")


def test_an_abort_after_the_end_changes_nothing(key: Key | None, tmp_path: Path) -> None:
    writer = StoredWriter(tmp_path / "data", key.recipients if key else ())
    writer.write(SQL)
    writer.finish()
    writer.abort()
    assert load(tmp_path / "data", key)[0] == SQL


class OwnError(Exception):
    pass


@pytest.mark.parametrize(
    "error", [OwnError("mine"), OSError(28, "mine"), Interrupted("by SIGINT"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("at", [1, 3])
def test_a_sinks_own_error_passes_through_unchanged(
    error: BaseException, at: int, key: Key | None, tmp_path: Path
) -> None:
    (tmp_path / "data").write_bytes(stored(tmp_path, key, os.urandom(9_000_000)))
    calls = 0

    def sink(_block: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error

    with pytest.raises(type(error)) as caught:
        storage.read(tmp_path / "data", sink, keys=KEY.identities, encrypted=key is not None)
    assert caught.value is error
    assert calls == at


def test_an_interrupt_while_reading_is_an_interrupt_and_no_damage(key: Key | None, tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows has no timer that interrupts")
    (tmp_path / "data").write_bytes(stored(tmp_path, key, os.urandom(20_000_000)))

    def interrupt(_number: int, _frame: Any) -> None:
        raise Interrupted("by SIGALRM")

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for delay_s in (0.001, 0.002, 0.005, 0.011, 0.02, 0.03):
            with pytest.raises(Interrupted):
                load_for_ever(tmp_path / "data", key, interrupted_after_s=delay_s)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def load_for_ever(path: Path, key: Key | None, *, interrupted_after_s: float) -> None:
    if sys.platform != "win32":  # in here: what waits for the interrupt waits already
        signal.setitimer(signal.ITIMER_REAL, interrupted_after_s)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        load(path, key)


def test_a_writer_keeps_a_few_blocks_only(key: Key | None, tmp_path: Path) -> None:
    block = os.urandom(1 << 18)
    writer = StoredWriter(tmp_path / "data", key.recipients if key else ())
    tracemalloc.start()
    for _ in range(200):
        writer.write(bytes(bytearray(block)))
    writer.finish()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12_000_000
