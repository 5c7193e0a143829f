"""A backup by the road to Fly, behind the stand-in's tunnel and SSH: against OpenSSH there, and against a pg_dump of this machine.

Both ways of a pair go through the same `fly proxy`, which stands before; each logs in by itself. Without a link the far end
is this machine, too, so that all share its cores; over the link what counts is how little travels, and how often.
"""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from polyladder_ops import backups, portable, usage
from polyladder_ops.bench import link, linked, targets
from polyladder_ops.bench.stage import SITE, Stage
from polyladder_ops.errors import OpsError
from polyladder_ops.fly import certificates, dumping, entrances, primary, tunnel
from polyladder_ops.fly.flyctl import Flyctl
from polyladder_ops.fly.primary import USER
from polyladder_ops.fly.remote import logged_in
from polyladder_ops.fly.road import Road
from polyladder_ops.fly.shell import wrapped
from polyladder_ops.sandbox.fly import world
from polyladder_ops.sandbox.fly.cloud import Cloud
from polyladder_ops.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.bench.plan import Link
    from polyladder_ops.postgres.conninfo import Target

__all__ = ["ByRoad", "OverLink"]

_APP, _DB_APP = "bench", "bench-db"
_SSH_PORT = 22
_SSH = (
    'exec ssh -p "$1" -i "$2" -o IdentitiesOnly=yes -o IdentityAgent=none -o BatchMode=yes -o StrictHostKeyChecking=no'
    ' -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -F none "root@$3" "$4" > "$5"'
)


class _Far:
    """The stand-in's machine with the server's own socket, and a tunnel to it that stands until `ends`."""

    def __init__(self, stage: Stage, scale: float, asked: Link | None, ends: ExitStack) -> None:
        self.stage = stage
        self.source = stage.filled(scale)
        self.backups = stage.folder / "by-road"
        self._cloud = self._made(stage.folder / f"fly-{'far' if asked else 'near'}", ends)
        if asked:
            self._put_behind(asked, ends)
        flyctl = Flyctl(str(self._cloud.program), self._cloud.token, stage.folder / "fly-config")
        self._certificate = certificates.obtained(flyctl, None, _DB_APP, stage.folder / "fly-runs")
        self._way = ends.enter_context(
            tunnel.opened(
                flyctl, _DB_APP, primary.find(flyctl, _DB_APP), _SSH_PORT, answers=tunnel.ssh_answers
            )
        )

    def _made(self, folder: Path, ends: ExitStack) -> Cloud:
        state = self.stage.state()
        cloud = Cloud(folder)
        ends.callback(cloud.remove)
        cloud.make(app=_APP, db_app=_DB_APP, moment_s=0.05)
        path = f"{self.stage.client.program.parent}:{portable.clean_environment().get('PATH', '')}"
        home = Path(state.home)
        cloud.open_ssh(
            _DB_APP,
            {"PGHOST": state.sockets, "PG_PORT": str(state.port), "PGDATA": f"{home}/data", "PATH": path},
        )
        return cloud

    def _put_behind(self, asked: Link, ends: ExitStack) -> None:
        """Have whoever comes to the machine's SSH go over the link."""
        with world.changing(self._cloud.folder) as here:
            (machine,) = here.machines(_DB_APP)
            host, port = machine["behind"][str(_SSH_PORT)]
        between = ends.enter_context(link.between((host, port), asked, self.stage.folder))
        with world.changing(self._cloud.folder) as here:
            (machine,) = here.machines(_DB_APP)
            machine["behind"][str(_SSH_PORT)] = [host, between]

    @contextmanager
    def road(self) -> Iterator[tuple[Road, Target]]:
        """Within the block the road, and the database by it."""
        with logged_in(self._way, self._certificate) as remote:
            seen = primary.look(remote)
            with entrances.by_socket(remote, seen, _DB_APP, self.stage.folder) as server:
                yield (
                    Road(self._way.machine, seen, remote, server, ()),
                    server.with_database(self.source.database),
                )

    def backup(self, *, far: bool) -> tuple[Usage, int]:
        """Return what a backup took, by the machine's own pg_dump or by one of ours; and the bytes of its SQL."""
        began, cpu = time.perf_counter(), usage.cpu_seconds()
        with self.road() as (road, target):
            options = backups.Options(dumper=dumping.there(road) if far else None)
            made = backups.take(
                target, self.backups, site=SITE, private=self.stage.folder / "state", options=options
            )
        seconds, after = time.perf_counter() - began, usage.cpu_seconds()
        took = Usage(0, seconds, None if cpu is None or after is None else after - cpu)
        return took, made.manifest.plain_bytes

    def ssh(self, file: Path) -> Usage:
        """Return what OpenSSH took to bring a compressed dump into a file."""
        key = self.stage.folder / "ssh-key"
        if not key.exists():
            portable.write_private(key, f"{self._certificate.key}\n")
            portable.write_private(key.with_name("ssh-key-cert.pub"), f"{self._certificate.text}\n")
        state = self.stage.state()
        dump = f"pg_dump -h {quote(state.sockets)} -p {state.port} -U {USER} {quote(self.source.database)}"
        command = wrapped(f"set -o pipefail; {dump} | gzip -1")
        words = (str(self._way.port), str(key), tunnel.HOST, command, str(file))
        return self.stage.script(_SSH, *words)

    def tidy(self) -> None:
        shutil.rmtree(self.backups, ignore_errors=True)


class ByRoad:
    """Ours against OpenSSH, each once a pair."""

    def __init__(self, stage: Stage, scale: float, ends: ExitStack) -> None:
        self.plain_bytes = 0
        self._far = _Far(stage, scale, None, ends)
        self._file = stage.folder / "ssh.sql.gz"

    def ways(self) -> dict[str, Callable[[], Usage]]:
        """Return what is run, in its order."""
        return {targets.ROAD: self._ours, targets.SSH: self._ssh}

    def tidy(self) -> None:
        """Remove what a pair made."""
        self._far.tidy()
        self._file.unlink()

    def _ours(self) -> Usage:
        took, self.plain_bytes = self._far.backup(far=True)
        return took

    def _ssh(self) -> Usage:
        took = self._far.ssh(self._file)
        _expect_whole(self._file)
        return took


class OverLink:
    """Ours against our own with a pg_dump of this machine, both over the link, each once a pair."""

    def __init__(self, stage: Stage, scale: float, asked: Link, ends: ExitStack) -> None:
        self.plain_bytes = 0
        self._asked = asked
        self._far = _Far(stage, scale, asked, ends)

    def ways(self) -> dict[str, Callable[[], Usage]]:
        """Return what is run, in its order."""
        return {
            targets.ROAD_LINKED: lambda: self._backup(far=True),
            targets.NEAR_LINKED: lambda: self._backup(far=False),
        }

    def tidy(self) -> None:
        """Remove what a pair made."""
        self._far.tidy()

    def seen(self) -> str:
        """Return what the link is seen to do."""
        with self._far.road() as (_, target):
            return linked.seen(target, self._asked)

    def _backup(self, *, far: bool) -> Usage:
        took, self.plain_bytes = self._far.backup(far=far)
        return took


def _expect_whole(file: Path) -> None:
    """Raise OpsError unless the file is a whole dump: a time of less is worth nothing."""
    from polyladder_ops import storage

    last = bytearray()

    def keep(block: bytes) -> None:
        last[:] = (last + block)[-2000:]

    storage.read(file, keep)
    if b"\n-- PostgreSQL database dump complete\n" not in last:
        raise OpsError("what OpenSSH brought is no whole dump, so there is nothing to measure")
