"""The link of the benchmark: it is as slow as it says, shared by all who use it, and changes no byte."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.bench import link
from polyladder_ops.bench.plan import Link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the benchmark needs bash, and a finer clock")

HOST = "127.0.0.1"
MB = 1_000_000


@contextlib.contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """Within the block a server that answers so to each connection, and hangs up then."""

    def one(joined: socket.socket) -> None:
        with joined:
            answer(joined)
            joined.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def send_back(one: socket.socket) -> None:
    while block := one.recv(1 << 16):
        one.sendall(block)


def take(one: socket.socket) -> None:
    while one.recv(1 << 16):
        pass


def give(one: socket.socket) -> None:
    one.sendall(bytes(MB))


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    with serving(send_back) as address:
        yield address


def _say(one: socket.socket, data: bytes) -> None:
    one.sendall(data)
    one.shutdown(socket.SHUT_WR)


def swallow(port: int, data: bytes) -> bytes:
    """Send everything, and return what comes back until the other end hangs up."""
    with socket.create_connection((HOST, port)) as one:
        sender = threading.Thread(target=_say, args=(one, data))
        sender.start()
        got = b"".join(iter(lambda: one.recv(1 << 16), b""))
        sender.join()
    return got


def test_a_question_and_its_answer_take_a_round_trip_and_a_new_connection_one_more(
    echo: tuple[str, int], tmp_path: Path
) -> None:
    with link.between(echo, Link(0.1, 10 * MB), tmp_path) as port, socket.create_connection((HOST, port)) as one:  # fmt: skip
        times = []
        for _ in range(4):
            began = time.monotonic()
            one.sendall(b"question")
            assert one.recv(100) == b"question"
            times.append(time.monotonic() - began)
    assert times[0] >= 0.199
    assert min(times[1:]) >= 0.099
    assert min(times[1:]) < 0.15


def test_bytes_come_as_fast_as_the_link_is_and_as_they_were_sent(
    echo: tuple[str, int], tmp_path: Path
) -> None:
    data = os.urandom(3 * MB)
    with link.between(echo, Link(0.02, 5 * MB), tmp_path) as port:
        began = time.monotonic()
        assert hashlib.sha256(swallow(port, data)).digest() == hashlib.sha256(data).digest()
        took = time.monotonic() - began
    assert 0.6 <= took < 1.2  # there and back at the same time, as on a link that carries both


@pytest.mark.parametrize(("answer", "sent", "got"), [(take, MB, 0), (give, 0, MB)])
def test_all_connections_share_each_direction(
    answer: Callable[[socket.socket], None], sent: int, got: int, tmp_path: Path
) -> None:
    with (
        serving(answer) as address,
        link.between(address, Link(0.02, 5 * MB), tmp_path) as port,
        ThreadPoolExecutor(3) as pool,
    ):
        began = time.monotonic()
        assert list(pool.map(lambda _: len(swallow(port, bytes(sent))), range(3))) == [got] * 3
        assert time.monotonic() - began >= 0.6


def test_a_server_that_is_not_there_hangs_up(tmp_path: Path) -> None:
    with closing(socket.create_server((HOST, 0))) as nobody:
        address = nobody.getsockname()
    with (
        link.between(address, Link(0.01, MB), tmp_path) as port,
        socket.create_connection((HOST, port)) as one,
    ):
        one.settimeout(10)
        assert one.recv(1) == b""


def test_the_link_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """A benchmark that is killed closes its end of the pipe."""
    job = json.dumps({"server": [HOST, 1], "link": {}, "file": str(tmp_path / "port")}) + "\n"
    argv = [sys.executable, "-m", "polyladder_ops.bench.link"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(job.encode())
        process.stdin.flush()
        deadline = time.monotonic() + 20
        while not (tmp_path / "port").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.stdin.close()
        assert process.wait(20) == 0
