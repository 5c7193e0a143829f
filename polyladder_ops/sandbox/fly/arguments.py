"""The command line as flyctl reads it: words of the command, positional arguments, flags with one or two dashes."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Call", "FlyError", "parse"]


class FlyError(Exception):
    """What flyctl prints as `Error: …` on stderr, and its exit code (contract 0.1)."""

    def __init__(self, text: str, code: int = 1, *, stdout: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.stdout = stdout


@dataclass
class Call:
    """One command: its words, what stands alone, and the texts of each flag in their order."""

    command: tuple[str, ...]
    arguments: list[str] = field(default_factory=list)
    flags: dict[str, list[str]] = field(default_factory=dict)

    def text(self, name: str, default: str = "") -> str:
        """Return what a flag was given last."""
        return self.flags.get(name, [default])[-1]

    def is_set(self, name: str) -> bool:
        """Whether a boolean flag is true."""
        return self.text(name, "false").lower() in ("true", "1", "t")


_SHORT = {
    "a": "app", "j": "json", "c": "config", "t": "access-token", "y": "yes", "q": "quiet", "w": "wait-timeout",
    "g": "process-group", "r": "region", "o": "org", "i": "image", "s": "signal", "m": "metadata", "f": "force", "e": "env",
    "b": "bind-addr", "u": "username", "d": "dotssh", "C": "command",
}  # fmt: skip
_SHORT_OF: dict[tuple[str, ...], dict[str, str]] = {("volumes", "extend"): {"s": "size"}}
_BOOLEAN = {"json", "yes", "quiet", "verbose", "debug", "all", "skip-start", "skip-health-checks", "stage", "detach",
            "force", "with-new-volumes", "autostart", "watch", "select", "watch-stdin", "overwrite", "agent", "dotssh", "pty"}  # fmt: skip
_EVERYWHERE = {"app", "config", "json", "access-token", "verbose", "debug", "help"}
_SIZES = {"vm-size", "vm-memory", "vm-cpus", "vm-cpu-kind"}
_FLAGS: dict[tuple[str, ...], set[str]] = {
    ("version",): set(),
    ("auth", "whoami"): set(),
    ("status",): {"all", "watch"},
    ("machine", "list"): {"quiet"},
    ("machine", "stop"): {"signal", "timeout", "wait-timeout"},
    ("machine", "start"): set(),
    ("machine", "destroy"): {"force"},
    ("machine", "update"): {
        *("autostart", "autostop", "skip-start", "skip-health-checks", "restart", "image", "metadata"),
        *("wait-timeout", "yes", "env"),
        *_SIZES,
    },
    ("scale", "show"): set(),
    ("scale", "count"): {
        "yes",
        "process-group",
        "region",
        "max-per-region",
        "with-new-volumes",
        "env",
        *_SIZES,
    },
    ("releases",): {"image"},
    ("checks", "list"): {"check-name"},
    ("config", "show"): set(),
    ("volumes", "list"): set(),
    ("volumes", "extend"): {"size", "yes"},
    ("secrets", "list"): set(),
    ("secrets", "set"): {"stage", "detach"},
    ("secrets", "unset"): {"stage", "detach"},
    ("secrets", "import"): {"stage", "detach"},
    ("secrets", "deploy"): {"detach"},
    ("secrets", "sync"): set(),
    ("ssh", "issue"): {"agent", "dotssh", "hours", "overwrite", "username", "org"},
    ("ssh", "console"): {
        "command",
        "machine",
        "select",
        "region",
        "process-group",
        "quiet",
        "address",
        "pty",
        "user",
        "org",
    },
    ("mpg", "list"): {"org", "deleted"},
    ("proxy",): {"org", "select", "quiet", "bind-addr", "watch-stdin"},
}
_ALIASES = {
    "m": "machine",
    "machines": "machine",
    "ls": "list",
    "vols": "volumes",
    "vol": "volumes",
    "volume": "volumes",
    "remove": "destroy",
    "rm": "destroy",
}


def parse(argv: list[str]) -> Call:
    """Return the command. Raise FlyError for an unknown command or flag, as cobra says it."""
    words = [_ALIASES.get(word, word) for word in argv]
    command = next((known for known in _FLAGS if tuple(words[: len(known)]) == known), None)
    if command is None:
        name = argv[0] if argv else ""
        raise FlyError(f'unknown command "{name}" for "flyctl"', stdout="Run 'flyctl --help' for usage.\n\n")
    call = Call(command)
    known = _EVERYWHERE | _FLAGS[command]
    rest = argv[len(command) :]
    while rest:
        word = rest.pop(0)
        if word == "--":
            call.arguments += rest
            break
        if not word.startswith("-") or word == "-":
            call.arguments.append(word)
            continue
        _take(call, word, rest, known)
    return call


def _take(call: Call, word: str, rest: list[str], known: set[str]) -> None:
    """Read one flag, with its value from the same word or the next one; a boolean's value needs `=` (contract 1.11)."""
    name, has_value, value = word.partition("=")
    if not name.startswith("--"):
        short, value = name[1], value if has_value else name[2:]
        meant = {**_SHORT, **_SHORT_OF.get(call.command, {})}
        if meant.get(short) not in known:
            raise FlyError(f"unknown shorthand flag: '{short}' in {word}")
        name, has_value = meant[short], has_value or ("=" if value else "")
    name = name.removeprefix("--")
    if name not in known:
        raise FlyError(f"unknown flag: --{name}")
    if name in _BOOLEAN or (name == "image" and call.command == ("releases",)):
        call.flags.setdefault(name, []).append(value if has_value else "true")
    elif has_value:
        call.flags.setdefault(name, []).append(value)
    elif rest:
        call.flags.setdefault(name, []).append(rest.pop(0))
    else:
        raise FlyError(f"flag needs an argument: --{name}")
