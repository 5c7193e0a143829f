"""A site: the database, the folder of backups and the scratch server that the settings name, each opened late."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from polyladder_ops import portable, runs
from polyladder_ops.errors import Interrupted, OpsError, Refused, SettingsError
from polyladder_ops.interrupts import held
from polyladder_ops.redaction import hide
from polyladder_ops.route import Route
from polyladder_ops.route import choose as choose_route
from polyladder_ops.sandbox import installations, place, scratch, server
from polyladder_ops.sandbox.fly import cloud as clouds
from polyladder_ops.undoing import at_work, standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from datetime import datetime
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.fly.fleet import Fleet
    from polyladder_ops.fly.flyctl import Flyctl
    from polyladder_ops.fly.road import Road
    from polyladder_ops.fly.volumes import Host
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.programs import Program
    from polyladder_ops.route import Choice
    from polyladder_ops.sandbox.fly.cloud import Cloud
    from polyladder_ops.sandbox.installations import Installation
    from polyladder_ops.settings import Settings

__all__ = ["ASIDE", "Scratch", "Site"]

ASIDE = "-aside"
"""What the site of backups of set-aside databases has behind the name of the site that they were live at."""

_PRODUCTION = "production"
_READ_ONLY = (
    "Fly lets nobody write to the databases of {app}: their disk is full to 90 %. It lifts that by itself when there is room"
    " (`fly volumes extend`); what is restored is not under it"
)
# A server that is thrown away needs no durability, room for many locks, and no triggers that answer what we do.
_SCRATCH = {"fsync": "off", "max_locks_per_transaction": "256", "event_triggers": "off"}
_SINCE = {"event_triggers": 17}


@dataclass(frozen=True)
class Scratch:
    """A server where databases may be made and dropped; `trusted` if it is ours alone and thrown away."""

    target: Target
    trusted: bool


def _nothing(_sentence: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Site:
    """What the settings name; `say` hears what is opened, and which way it takes."""

    settings: Settings
    say: Callable[[str], None] = field(default=_nothing, compare=False)

    @property
    def name(self) -> str:
        """The site's name, which its backups carry."""
        return self.settings.site

    @property
    def folder(self) -> Path:
        """Where the backups lie."""
        return self.settings.backup_dir

    @property
    def private(self) -> Path:
        """Where a run keeps what must not lie beside backups."""
        return self.settings.state_dir / "runs"

    def target(self) -> Target:
        """Return the database of the site; at site sandbox the one in our own server, whatever is exported.

        By Fly the way there is opened, and kept open until the command ends.
        Raise Refused at a site of backups of set-aside databases, where DATABASE_URL is that of what is live now; SettingsError
        if it is unset or unusable, OpsError if there is no sandbox.
        """
        if self.name.endswith(ASIDE):
            plain = self.name.removesuffix(ASIDE)
            raise Refused(
                f"site {self.name} has backups and no database of its own",
                detail=f"They are of what restores set aside at site {plain}; DATABASE_URL leads to what is live.",
                hint=f"Say --site={plain}, and a backup of {self.name} by its whole id.",
            )
        return self._target()

    def _target(self) -> Target:
        if self.settings.is_sandbox:
            opened = server.open_server(self.settings.sandbox_server)
            if not opened.is_running():
                raise OpsError("the sandbox does not run", hint="Start it with `invoke sandbox.up`.")
            return opened.target(place.DATABASE)
        if self.road():
            return self._by_fly()
        from polyladder_ops.postgres.conninfo import parse  # late: looking at files needs no client library

        return parse(self.settings.needed("DATABASE_URL"))

    def _by_fly(self) -> Target:
        from polyladder_ops.fly import databases

        road, settings = self.road(), self.settings
        assert road is not None
        name = databases.choose(settings.database, settings.app, road.databases)
        if road.seen.is_read_only:
            runs.kept(("said", _READ_ONLY), lambda: self._telling(_READ_ONLY.format(app=settings.db_app)))
        if name not in (settings.database, settings.app):
            self.say(f"the database is {name} of {settings.db_app}")
        return road.target(name)

    def road(self) -> Road | None:
        """Return the way to the database's machine on Fly, opened once in a command; None where the site goes by DATABASE_URL.

        Raise SettingsError if nothing says which app's database is meant, OpsError or Refused if there is no such way now.
        """
        settings, choice = self.settings, self.choice()
        if choice is None:
            return None
        if choice.said:
            runs.kept(("said", choice.said), lambda: self._telling(choice.said))
        if choice.route is not Route.FLY:
            return None
        self._expect_own_database()
        return runs.kept(("road", settings.db_app), self._opened_road)

    def dumper(self) -> Program | None:
        """Return the pg_dump of the database's machine, which is nearer to it than ours; None where ours is to dump.

        Raise what `road` raises.
        """
        from polyladder_ops.fly import dumping

        road = self.road()
        return dumping.there(road, say=self.say) if road else None

    def choice(self) -> Choice | None:
        """Return which way leads to the database, and why; None at site sandbox, which has its own."""
        settings = self.settings
        if settings.is_sandbox:
            return None
        return choose_route(settings.route, has_url=bool(settings.database_url), has_fly=self.has_fly)

    @contextlib.contextmanager
    def _telling(self, sentence: str) -> Iterator[None]:
        self.say(f"note: {sentence}")
        yield

    def _opened_road(self) -> AbstractContextManager[Road]:
        from polyladder_ops.fly import road
        from polyladder_ops.fly.api import Api

        settings = self.settings
        api = Api(settings.fly_api_token, settings.fly_api_base_url) if settings.fly_api_token else None
        flyctl = self.flyctl(self.say)
        return road.opened(
            flyctl,
            api,
            settings.db_app,
            self.private,
            say=self.say,
            organisation=partial(self._organisation, flyctl),
        )

    def _organisation(self, flyctl: Flyctl) -> str:
        from polyladder_ops.fly import certificates

        return self.settings.org or certificates.organisation(flyctl, self.settings.app)

    def host(self, agree: Callable[[str], bool] = lambda _question: False) -> Host | None:
        """Return the database's machine as something that can be given more; None where the site goes by DATABASE_URL.

        `agree` is asked before its volume is enlarged.
        """
        from polyladder_ops.fly.volumes import Host

        road = self.road()
        return (
            Host(self.flyctl(self.say), self.settings.db_app, road.machine.id, agree, self.say)
            if road
            else None
        )

    def _expect_own_database(self) -> None:
        """Return if a site other than production names its database's app: a slip in `--site` would mean production's.

        What is said for all sites (invoke.yaml, an export) counts only where the site itself is said in the same place.
        """
        settings = self.settings
        source = settings.sources.get("POLYLADDER_DB_APP", "default")
        is_the_sites = source.startswith(".env") or source == settings.sources.get("POLYLADDER_SITE")
        if settings.site != _PRODUCTION and (source == "default" or not is_the_sites):
            raise SettingsError(
                f"POLYLADDER_DB_APP is not set for site {settings.site}",
                detail=f"By Fly it would lead to {settings.db_app} ({source}), which may be production's.",
                hint=f"Write it into .env.{settings.site}, or set DATABASE_URL there.",
            )

    def clock(self) -> datetime | None:
        """Return the server's present by its own clock; None if it can't be asked."""
        from polyladder_ops.postgres import clock  # late: looking at files needs no client library

        try:
            return clock.read(self._target())
        except Interrupted:
            raise
        except OpsError:
            return None

    @property
    def has_fly(self) -> bool:
        """Whether Fly is to be asked about this site at all."""
        from polyladder_ops.fly.flyctl import is_set_up

        return self.settings.is_sandbox or is_set_up(self.settings.flyctl, self.settings.fly_api_token)

    def flyctl(self, say: Callable[[str], None] = lambda _sentence: None) -> Flyctl:
        """Return our caller of flyctl; at site sandbox that of the stand-in, whatever is exported. `say` hears of a slow call.

        Raise SettingsError if there is no flyctl, OpsError if there is no sandbox.
        """
        from polyladder_ops.fly.flyctl import Flyctl, find

        config, deadline_s = (
            self.settings.shapes / "config",
            min(Flyctl.deadline_s, _each_s(Flyctl.deadline_s)),
        )
        if self.settings.is_sandbox:
            cloud = self._cloud()
            return Flyctl(str(cloud.program), cloud.token, config, deadline_s, say)
        return Flyctl(find(self.settings.flyctl), self.settings.fly_api_token, config, deadline_s, say)

    def fleet(self, flags: str = "", say: Callable[[str], None] = lambda _sentence: None) -> Fleet:
        """Return the app's machines; `flags` are what the commands in its hints need, `say` hears what it does.

        Raise SettingsError if POLYLADDER_APP is the database's app, which is never touched.
        """
        from polyladder_ops.fly.fleet import Fleet, Pace

        if self.settings.app == self.settings.db_app:
            raise SettingsError(
                f"POLYLADDER_APP and POLYLADDER_DB_APP are both {self.settings.app}",
                detail="The database's app is never stopped or scaled.",
                hint="Name the web app in POLYLADDER_APP.",
            )
        pace = Pace(limit_s=_each_s(Pace.limit_s))
        return Fleet(self.flyctl(say), self.settings.app, self.settings.shapes, flags, say, pace)

    def health_url(self) -> str:
        """Return where the app says how it is: POLYLADDER_HEALTH_URL, the sandbox's edge, else /health at Fly's host name.

        Raise SettingsError if it is not set and no flyctl is set up, OpsError if Fly does not tell the host name.
        """
        if self.settings.is_sandbox:
            return f"{self._cloud().url}/health"
        if self.settings.health_url or not self.has_fly:
            return self.settings.needed("POLYLADDER_HEALTH_URL")
        from polyladder_ops.fly.flyctl import hostname

        return f"https://{hostname(self.flyctl(), self.settings.app)}/health"

    def _cloud(self) -> Cloud:
        cloud = clouds.Cloud(self.settings.sandbox_cloud)
        if not cloud.exists():
            raise OpsError("the sandbox has no Fly", hint="Start it with `invoke sandbox.up`.")
        hide(cloud.token)
        return cloud

    def keys(self, *, encrypted: bool) -> list[Any]:
        """Return the private keys for an encrypted backup, none for a plain one. Raise SettingsError if they lack."""
        if not encrypted:
            return []
        from polyladder_ops import encryption

        return encryption.identities(self.settings.backup_age_identity_file)

    def known(self, backup: Backup) -> Backup:
        """Return the backup with its whole manifest; as it is if that is sealed and no key for it is here.

        Raise OpsError if what is sealed is damaged, SettingsError if the key's file is unusable.
        """
        from polyladder_ops import encryption, seal

        if not backup.manifest.is_sealed or self.settings.backup_age_identity_file is None:
            return backup
        with contextlib.suppress(encryption.NoKey):
            return seal.known(backup, self.keys(encrypted=True))
        return backup

    def each_known(
        self, backups: Iterable[Backup], damaged: list[OpsError] | None = None
    ) -> Iterator[Backup]:
        """Yield the backups as `known` does; what is wrong with a sealed part is added to `damaged`, if that is wanted."""
        for backup in backups:
            try:
                yield self.known(backup)
            except OpsError as error:
                if damaged is not None:
                    damaged.append(error)
                yield backup

    def expect_scratch(self, major: int) -> None:
        """Return if `scratch` could give a server of this major; nothing is started.

        Raise OpsError if not: what comes out on another major proves nothing.
        """
        where, found = self.scratch_major(major)
        if found != major:
            raise OpsError(
                f"{where} has version {found}, the backup's server {major}",
                hint=installations.how_to_install(major),
            )

    def scratch_major(self, major: int) -> tuple[str, int]:
        """Return where `scratch` would have a server for this major, and which major that is; nothing is started.

        Raise OpsError if there is none, or if it can't be reached.
        """
        if not self.settings.scratch_url:
            chosen = _installed(major)
            return str(chosen), chosen.major
        from polyladder_ops.postgres import session
        from polyladder_ops.postgres.conninfo import parse

        named = parse(self.settings.scratch_url, variable="POLYLADDER_SCRATCH_URL")
        with contextlib.closing(session.connect(named)) as connection:
            return "POLYLADDER_SCRATCH_URL", session.identify(connection).major

    @contextlib.contextmanager
    def scratch(self, major: int) -> Iterator[Scratch]:
        """Within the block a server for proofs of backups of this major: POLYLADDER_SCRATCH_URL, or one that is gone afterwards.

        That one is of a local installation of the major, else the embedded one. Raise OpsError if there is neither.
        """
        if self.settings.scratch_url:
            from polyladder_ops.postgres.conninfo import parse

            yield Scratch(parse(self.settings.scratch_url, variable="POLYLADDER_SCRATCH_URL"), trusted=False)
            return
        chosen = _installed(major)
        settings = {name: value for name, value in _SCRATCH.items() if chosen.major >= _SINCE.get(name, 0)}
        with scratch.reserved(self.settings.state_dir / "scratch") as folder:
            with standing(f"Perhaps still there: the scratch server in {folder}"):
                made = server.create(folder, settings=settings, installation=chosen)
                try:
                    yield Scratch(made.target(), trusted=True)
                except BaseException as error:
                    with at_work("removing the scratch server", error):
                        made.remove()
                    raise
                with at_work("removing the scratch server"):
                    made.remove()
            held()


def _installed(major: int) -> Installation:
    return installations.choose(installations.find(portable.system_account(place.ACCOUNT)), major)


def _each_s(usual_s: float) -> float:
    """Return how many seconds a wait for Fly may take: what -T allows, else what is usual."""
    from polyladder_ops.postgres import silence

    return silence.limits().each_s or usual_s
