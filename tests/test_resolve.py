"""The addresses of a host: a name server that says nothing keeps nobody from ending a run, and all addresses share one time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import resolve, session
from polyladder_ops.postgres.conninfo import Target
from tests.faults.places import with_other

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.sandbox.server import Server

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("host", ["", "/var/run/postgresql", "@abstract", "127.0.0.1", "::1", "fe80::1%lo"])
def test_what_is_no_name_needs_no_name_server(host: str) -> None:
    assert resolve.addresses(host, "5432", within_s=0.001) == ()


def test_a_name_becomes_its_addresses() -> None:
    assert set(resolve.addresses("localhost", "5432", within_s=60)) <= {"127.0.0.1", "::1"}


def test_a_name_that_nobody_knows_is_said_as_psycopg_says_it() -> None:
    with pytest.raises(OpsError) as caught:
        session.connect(Target.of(host="nobody.invalid", user="x", dbname="x"), timeout_s=60)
    assert "failed to resolve host 'nobody.invalid'" in caught.value.detail
    assert "Check the host" in caught.value.hint


@contextmanager
def answering(monkeypatch: pytest.MonkeyPatch, *addresses: str, silent: bool = False) -> Iterator[None]:
    """Within the block every name has these addresses, or the name server says nothing."""
    over = threading.Event()

    def answer(host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        if silent:
            over.wait(60)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    try:
        yield
    finally:
        over.set()


def test_a_silent_name_server_is_not_waited_for_longer_than_for_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (
        answering(monkeypatch, silent=True),
        pytest.raises(psycopg.OperationalError, match="no name server answered within 1 s"),
    ):
        resolve.addresses("far.example", "5432", within_s=1)


def test_each_address_is_tried_until_one_answers(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """127.1.1.1 has nobody at this port."""
    target = with_other(server.target(), host="far.example")
    with answering(monkeypatch, "127.1.1.1", "127.0.0.1"), session.connect(target) as connection:
        assert connection.info.hostaddr == "127.0.0.1"


def test_all_addresses_of_a_host_share_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of eight would wait for sixteen seconds otherwise: they take connections, and say nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as mute:
        target = Target.of(
            host="far.example", port=mute.getsockname()[1], user="x", dbname="x", sslmode="disable"
        )
        began = time.monotonic()
        with answering(monkeypatch, *["127.0.0.1"] * 8), pytest.raises(OpsError):
            session.connect(target, timeout_s=16)
        assert time.monotonic() - began < 60


SILENT = """
import os, signal, socket, sys
from polyladder_ops.interrupts import stop_on_signals
from polyladder_ops.postgres import session
from polyladder_ops.postgres.conninfo import Target

def says_nothing(*_, **__):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    os.write(1, b"asked" + b" " * 10_000_000)  # one wait in C that no signal ends, as getaddrinfo's: nobody reads it all

socket.getaddrinfo = says_nothing
try:
    with stop_on_signals():
        session.connect(Target.of(host="far.example", user="x", dbname="x"), timeout_s=600)
except KeyboardInterrupt:
    print("heard", file=sys.stderr)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no such signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_is_heard_while_a_name_server_says_nothing(name: str) -> None:
    """By itself it would wait for ten minutes; heard is what it is within the test's time."""
    process = subprocess.Popen(
        [sys.executable, "-c", SILENT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert os.read(process.stdout.fileno(), 5) == b"asked"  # so it waits now
        process.send_signal(signal.Signals[name])
        try:
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
        assert process.stderr.read() == b"heard\n"
