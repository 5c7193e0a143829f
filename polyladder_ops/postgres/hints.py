"""What to try next after an error of the server or of libpq, told by the words in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyladder_ops.postgres import poolers
from polyladder_ops.terminal import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

__all__ = ["ASK_DOCTOR", "following"]

ASK_DOCTOR = "Run `invoke doctor`."
"""The hint where nothing more is known."""


def following(error: psycopg.Error, databases: Sequence[str] = ()) -> str:
    """Return the next thing to try after this error of the server or of libpq; empty if nothing is known."""
    text = str(error)
    known = {
        "unsupported startup parameter": poolers.REFUSES_OPTIONS,
        "support command-line options": poolers.REFUSES_OPTIONS,
        "password authentication failed": "Check user and password; in a URL write @ as %40 and % as %25.",
        "no password supplied": "Put the password into the URL; PGPASSWORD and ~/.pgpass are not read.",
        "no encryption": "pg_hba.conf lets this role into this database in no such way: add sslmode=require to the URL if the"
        " server speaks TLS; else an entry is missing there.",
        "SSL": "Compare sslmode in the URL with what the server offers.",
        "Connection refused": "Start the server, or the tunnel to it; check host and port.",
        "Network is unreachable": "Look at this machine's network, the tunnel or the VPN, then try again.",
        "No route to host": "Look at this machine's network, the tunnel or the VPN, then try again.",
        "could not translate host name": "Check the host; in a URL an @ in the password is written %40.",
        "failed to resolve host": "Check the host; in a URL an @ in the password is written %40.",
        "not currently accepting connections": "If it was set aside, `invoke restore.status` shows how to look into it; if a restore"
        " died here, `invoke restore.abort` opens it again.",
        "FATAL:  database": f"The server has {', '.join(map(quoted, databases))}; POLYLADDER_DATABASE names one."
        if databases
        else "List the names with `psql -l`, or check the URL.",
        "lock timeout": "Another session holds a lock that this waits for: wait until it is done, or end it, then try again.",
        "the link in between is silent": "Look at the network or the tunnel in between, then try again.",
        "nothing came from the server": "Look at the network or the tunnel in between, then try again.",
        "max_locks_per_transaction": "Raise max_locks_per_transaction on the server and restart it.",
        "No space left": "Free space on the server's disk.",
        "timeout": "Check that the address is right and that no firewall is in between.",
    }
    return next((hint for piece, hint in known.items() if piece in text), ASK_DOCTOR)
