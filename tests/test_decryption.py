"""The process that decrypts a large file: what it is told stays secret, and however it ends, that is heard."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import decryption, encryption, storage
from polyladder_ops.errors import OpsError
from polyladder_ops.storage import Damaged, Stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pyrage = pytest.importorskip("pyrage", reason="there is no age for this system")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

SQL = random.Random(5).randbytes(
    6_000_000
)  # gzip makes nothing of it: far more than fits into pipes and queues


@pytest.fixture(scope="module")
def pair() -> tuple[str, str]:
    return encryption.new_pair()


@pytest.fixture(scope="module")
def sealed(pair: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sealed") / "polyladder_1.sql.gz.age"
    path.write_bytes(pyrage.encrypt(gzip.compress(SQL, 1), encryption.recipients([pair[0]])))
    assert path.stat().st_size > decryption.SMALL
    return path


@pytest.fixture
def keys(pair: tuple[str, str]) -> list[encryption.PrivateKey]:
    return [encryption.PrivateKey(pair[1])]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before
    assert not decrypting()


def decrypting(parent: int | None = None) -> list[int]:
    """Return the processes that decrypt for this one, or for another."""
    if sys.platform != "linux":
        return []
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = folder.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1] == str(
                parent or os.getpid()
            )
            if ours and b"polyladder_ops.decryptor" in folder.joinpath("cmdline").read_bytes():
                found.append(int(folder.name))
        except (OSError, IndexError):
            continue
    return found


def once(act: Callable[[], object]) -> Callable[[bytes], None]:
    """Return a sink that acts at the first block."""
    done: list[object] = []

    def sink(_block: bytes) -> None:
        if not done:
            done.append(True)
            act()

    return sink


def test_several_readers_at_once_read_the_same(sealed: Path, keys: list[encryption.PrivateKey]) -> None:
    raw = sealed.read_bytes()
    whole = Stored(len(raw), hashlib.sha256(raw).hexdigest(), len(SQL))
    found: dict[int, tuple[bytes, Stored]] = {}

    def reading(number: int) -> None:
        data = bytearray()
        told = storage.read(sealed, data.extend, keys=keys, encrypted=True, hashed=not number)
        found[number] = bytes(data), told

    threads = [threading.Thread(target=reading, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    unhashed = Stored(whole.size_bytes, "", whole.plain_bytes)
    assert found == {0: (SQL, whole), **dict.fromkeys((1, 2, 3), (SQL, unhashed))}


@on_linux
def test_the_key_is_in_no_argv_and_no_environment(
    sealed: Path, keys: list[encryption.PrivateKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:canary@h/d")
    seen = []

    def look() -> None:
        (pid,) = decrypting()
        seen.append(Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes())

    storage.read(sealed, once(look), keys=keys, encrypted=True)
    assert keys[0].text.encode() not in seen[0]
    assert b"canary" not in seen[0]
    assert keys[0].text not in repr(keys)


@on_linux
@pytest.mark.parametrize("hashed", [True, False])
def test_a_process_that_is_killed_is_no_verdict_on_the_bytes(
    hashed: bool, sealed: Path, keys: list[encryption.PrivateKey]
) -> None:
    def kill() -> None:
        os.kill(decrypting()[0], getattr(signal, "SIGKILL", signal.SIGTERM))

    with pytest.raises(
        OpsError, match="the process that decrypts the backup was killed by signal 9"
    ) as caught:
        storage.read(sealed, once(kill), keys=keys, encrypted=True, hashed=hashed)
    assert not isinstance(caught.value, Damaged)
    assert caught.value.detail == "It said nothing."
    assert "try again" in caught.value.hint


def test_a_process_that_can_not_do_its_work_says_why(
    sealed: Path, keys: list[encryption.PrivateKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decryption, "_PROGRAM", "raise MemoryError('too little')")
    with pytest.raises(OpsError, match="ended with exit code 1") as caught:
        storage.read(sealed, lambda _: None, keys=keys, encrypted=True)
    assert caught.value.detail == "It said: MemoryError: too little"


def test_a_process_that_ends_well_without_a_verdict_is_not_believed(
    sealed: Path, keys: list[encryption.PrivateKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gzip.compress(b"SELECT 1;\n")
    monkeypatch.setattr(decryption, "_PROGRAM", f"import os; os.write(1, {whole!r})")
    with pytest.raises(OpsError, match="ended with exit code 0"):
        storage.read(sealed, lambda _: None, keys=keys, encrypted=True)


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_who_stops_reading_half_way_leaves_no_process(
    error: type[BaseException], hashed: bool, sealed: Path, keys: list[encryption.PrivateKey]
) -> None:
    def stop() -> None:
        raise error("enough")

    begun = time.monotonic()
    with pytest.raises(error, match="enough"):
        storage.read(sealed, once(stop), keys=keys, encrypted=True, hashed=hashed)
    assert time.monotonic() - begun < 5


READER = """
import sys, time
from pathlib import Path
from polyladder_ops import encryption, storage
def sink(block):
    print("reading", flush=True)
    time.sleep(60)
storage.read(Path(sys.argv[1]), sink, keys=[encryption.PrivateKey(sys.stdin.readline().strip())], encrypted=True)
"""


@on_linux
def test_the_process_ends_when_its_reader_is_killed(sealed: Path, keys: list[encryption.PrivateKey]) -> None:
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(sealed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert reader.stdin is not None
    assert reader.stdout is not None
    with reader.stdin, reader.stdout:
        reader.stdin.write(keys[0].text.encode() + b"\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == b"reading\n"
        (child,) = decrypting(reader.pid)
        reader.kill()
        reader.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/fd").exists() and _lives(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
