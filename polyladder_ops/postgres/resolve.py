"""The addresses of a host, asked for in a thread: a name server that says nothing keeps whoever asks from hearing a Ctrl-C."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time

import psycopg

__all__ = ["addresses"]

_LOOK_S = 0.1  # on Windows a Ctrl-C gets through only between two waits


def addresses(host: str, port: str, *, within_s: float) -> tuple[str, ...]:
    """Return a host's numeric addresses in the system's order; nothing if it needs no name server (a folder, a number).

    Raise psycopg.OperationalError, as psycopg does, if it is unknown, or if there is no answer in so many seconds.
    """
    if not host or host.startswith(("/", "@")) or _is_number(host):
        return ()
    found: list[str] = []
    failed: list[OSError | UnicodeError] = []

    def ask() -> None:
        try:
            answers = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
            found.extend(dict.fromkeys(str(address[0]) for *_, address in answers))
        except (OSError, UnicodeError) as error:
            failed.append(error)

    thread = threading.Thread(target=ask, daemon=True, name="name server")
    thread.start()
    deadline = time.monotonic() + within_s
    while thread.is_alive() and time.monotonic() < deadline:
        thread.join(_LOOK_S)
    if failed:
        raise psycopg.OperationalError(f"failed to resolve host {host!r}: {failed[0]}")
    if not found:
        raise psycopg.OperationalError(
            f"failed to resolve host {host!r}: no name server answered within {within_s:.0f} s (timeout)"
        )
    return tuple(found)


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
