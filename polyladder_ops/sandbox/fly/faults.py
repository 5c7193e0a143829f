"""What can be made to go wrong, by name: each is something that Fly or flyctl was seen to do."""

from __future__ import annotations

__all__ = ["FAULTS"]

FAULTS = {
    "no-token": "Nobody is logged in.",
    "expired-token": "The token is expired or revoked.",
    "wrong-scope": "The token has no right on the app.",
    "api-down": "Fly's API can't be reached.",
    "rate-limited": "Fly's API answers 429.",
    "slow": "Each call takes a second longer.",
    "hang": "A call never ends.",
    "frozen": "A call that changes a machine takes its lease and never ends.",
    "panic": "flyctl crashes: exit code 3.",
    "noise": "A warning stands on stdout before the answer.",
    "english": "An empty list or object is an English sentence, with exit code 0.",
    "headless": "The status has no word of machines.",
    "cut": "The JSON ends in its middle, with exit code 0.",
    "old-version": "flyctl is too old.",
    "lease-held": "A deploy holds the lease of every machine.",
    "no-capacity": "The host of a stopped machine has no room to start it.",
    "unreachable": "The host of every machine is unreachable; their config is missing.",
    "woken": "A request wakes a machine just after it was stopped.",
    "replaced": "A deploy replaces each machine between a look and the next act.",
    "stuck": "A machine that is updated stays in the state replacing.",
    "stop-lies": "A stop is accepted, and the machine runs on.",
    "update-lies": "An update says that it was done, and nothing changed.",
    "failed-release": "The newest release is one that failed, with another image.",
    "no-release": "The app has no release.",
    "no-network": "Fly's API answers 500 to who asks for the app's network.",
    "no-tunnel": "No tunnel into the organisation's network comes up.",
    "api-500": "Fly's API answers 500 to who asks it itself.",
    "no-certificate": "The token gets no certificate for SSH.",
    "no-own-certificate": "Only flyctl's own console gets a certificate for SSH.",
    "ssh-denies": "A machine lets nobody in by SSH but flyctl's own console.",
    "crlf": "What `fly ssh console` prints has a terminal's line ends, both streams in one.",
    "output-cut": "What `fly ssh console` prints ends in its middle, with exit code 0.",
    "extend-waits": "A volume that is extended is not larger for its machine before that is stopped and started.",
    "extend-lies": "An extension of a volume says that it was done, and nothing changed.",
    "tunnel-closes": "A tunnel takes each connection and closes it at once.",
    "tunnel-stalls": "Nothing passes a tunnel any more once 256 KB came down.",
    "tunnel-cuts": "A tunnel cuts each connection once 256 KB came down.",
}
"""By name what then happens."""
