"""Every knob once: its variable, its type, its default, its sentence; read from six places, all errors at once.

The order is flag, environment, ``.env.<site>``, ``.env``, ``invoke.yaml`` (section ``polyladder``, keys are the variables
in lower case), default; empty text counts as unset. Secrets come from the environment or a ``.env`` file only, and none of
our values has an ``INVOKE_*`` name: Invoke prints those with ``-d``.

Site ``sandbox`` is closed: what could lead to production is not read there, and `Settings.ignored` names it.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping  # noqa: TC003 - pydantic reads the annotations
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from platformdirs import user_state_path
from pydantic import BaseModel, ConfigDict, ValidationError

from polyladder_ops import sources
from polyladder_ops.errors import SettingsError
from polyladder_ops.redaction import MASK, hide, hide_url, redact
from polyladder_ops.sources import Layer, Variable
from polyladder_ops.values import (
    AbsolutePath,
    Bucket,
    Count,
    DatabaseName,
    Days,
    ExistingFile,
    FlyName,
    Recipients,
    RouteName,
    SiteName,
    WebUrl,
    is_site,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["SANDBOX", "VARIABLES", "Row", "Settings", "Variable", "describe", "load"]

SANDBOX = "sandbox"
_SANDBOX_CHECKS = Path(__file__).parent / SANDBOX / "checks.sql"
# What site sandbox does not read: all that could lead to production.
_CLOSED = re.compile(
    r"DATABASE_URL|POLYLADDER_(?:ROUTE|DATABASE|SCRATCH_URL|HEALTH_URL|FLYCTL|APP_DIR|MIGRATE_COMMAND)|FLY_.+"
    r"|AWS_(?!CA_BUNDLE$|PAGER$).+"
)
# Not settings of ours, but the programs and libraries below us read them and may quote them.
# What leads to one site's database and app: `.env` says it for the site that it names, or production.
_OF_ONE_SITE = re.compile(r"DATABASE_URL|POLYLADDER_(?:ROUTE|DATABASE|HEALTH_URL|APP|DB_APP)|FLY_.+")
_OTHER_SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "FLY_ACCESS_TOKEN",
    "GH_TOKEN",
    "GITHUB_TOKEN",
    "PGPASSWORD",
)


@dataclass(frozen=True)
class Row:
    """One setting for a person's eyes: the value is masked if it is a secret."""

    variable: str
    value: str
    source: str
    help: str


class Settings(BaseModel):
    """What the settings say, checked; paths are absolute, what is unset and has no default is None (or empty).

    `sources` tells per variable where its value came from, `ignored` what was set but is not read at site sandbox,
    `unknown` which BACKUP_* names are not ours and may be typos.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    site: Annotated[
        SiteName,
        Variable("POLYLADDER_SITE", "The place meant: production, staging, sandbox, …", "production"),
    ]
    database_url: Annotated[
        str | None,
        Variable(
            "DATABASE_URL",
            "The database: postgres://user:password@host:5432/database; for one on Fly FLY_API_TOKEN, or `fly auth login`, will do.",
            needed_by="backup, restore",
            is_secret=True,
        ),
    ] = None
    route: Annotated[
        RouteName | None,
        Variable(
            "POLYLADDER_ROUTE",
            "How the database is reached: direct (DATABASE_URL) or fly (SSH, no password); unset: direct if there is a URL.",
        ),
    ] = None
    database: Annotated[
        DatabaseName | None,
        Variable(
            "POLYLADDER_DATABASE",
            "The database's name, on the way by Fly; unset: the app's name, with _ for -.",
        ),
    ] = None
    backup_dir: Annotated[
        AbsolutePath,
        Variable(
            "BACKUP_DIR",
            "Folder of the backups; at site sandbox the default is in its state folder.",
            "./backups",
        ),
    ]
    backup_retention: Annotated[Days, Variable("BACKUP_RETENTION", "Days for which backups are kept.", "30")]
    backup_keep_verified: Annotated[
        Count,
        Variable("BACKUP_KEEP_VERIFIED", "Best verified backups that stay however old they are.", "3"),
    ]
    aws_s3_bucket: Annotated[
        Bucket | None,
        Variable("AWS_S3_BUCKET", "Bucket for a second copy of each backup.", needed_by="copies in S3"),
    ] = None
    fly_api_token: Annotated[
        str | None, Variable("FLY_API_TOKEN", "Token for Fly's API.", needed_by="work on Fly", is_secret=True)
    ] = None
    state_dir: Annotated[
        AbsolutePath,
        Variable(
            "POLYLADDER_STATE_DIR",
            "Folder of the sandbox, locks and journals; by default the system's place for a user's state.",
        ),
    ]
    app: Annotated[FlyName, Variable("POLYLADDER_APP", "The app's name on Fly.", "polyladder")]
    db_app: Annotated[
        FlyName, Variable("POLYLADDER_DB_APP", "The database app's name on Fly.", "polyladder-db")
    ]
    org: Annotated[
        FlyName | None, Variable("POLYLADDER_ORG", "Organisation on Fly, where the token knows several.")
    ] = None
    fly_api_base_url: Annotated[
        WebUrl, Variable("FLY_API_BASE_URL", "Address of Fly's API.", "https://api.fly.io")
    ]
    flyctl: Annotated[
        AbsolutePath | None,
        Variable("POLYLADDER_FLYCTL", "The program flyctl, where it is not `fly` or `flyctl` on PATH."),
    ] = None
    health_url: Annotated[
        WebUrl | None,
        Variable(
            "POLYLADDER_HEALTH_URL", "Web address that answers when the app is well.", needed_by="health"
        ),
    ] = None
    app_dir: Annotated[
        AbsolutePath | None,
        Variable("POLYLADDER_APP_DIR", "Checkout of the app, with its migrations.", needed_by="migrate"),
    ] = None
    migrate_command: Annotated[
        str | None,
        Variable(
            "POLYLADDER_MIGRATE_COMMAND",
            "What migrates in place of pnpm, run in the migrations' package; `up` or `down` is put behind it.",
        ),
    ] = None
    scratch_url: Annotated[
        str | None,
        Variable(
            "POLYLADDER_SCRATCH_URL",
            "Server for proofs by restore, in place of one made here.",
            needed_by="proofs on your own server",
            is_secret=True,
        ),
    ] = None
    backup_age_recipients: Annotated[
        Recipients,
        Variable(
            "BACKUP_AGE_RECIPIENTS",
            "Public keys (age1… or SSH) that backups are encrypted to; unset means not encrypted.",
            needed_by="encryption",
        ),
    ] = ()
    backup_age_identity_file: Annotated[
        ExistingFile | None,
        Variable(
            "BACKUP_AGE_IDENTITY_FILE",
            "File with the private key that opens encrypted backups.",
            needed_by="verify and restore of encrypted backups",
        ),
    ] = None

    checks: Annotated[
        AbsolutePath | None,
        Variable(
            "POLYLADDER_CHECKS",
            "File of SQL questions with expected answers, asked after each restore and drill; the sandbox has its own.",
            needed_by="restore.check",
        ),
    ] = None

    root: Path
    sources: Mapping[str, str]
    ignored: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Settings(site={self.site!r})"

    __str__ = __repr__

    @property
    def is_sandbox(self) -> bool:
        """Whether this is the closed site of the embedded server."""
        return self.site == SANDBOX

    @property
    def sandbox_server(self) -> Path:
        """Folder of the sandbox's server; the sandbox's backups lie beside it."""
        return self.state_dir / SANDBOX / "server"

    @property
    def sandbox_cloud(self) -> Path:
        """Folder of the sandbox's stand-in for Fly."""
        return self.state_dir / SANDBOX / "fly"

    @property
    def shapes(self) -> Path:
        """Folder of what must come back of the site's machines on Fly."""
        return self.state_dir / "fly" / self.site

    def needed(self, variable: str) -> str:
        """Return the value of a variable that a task can't do without. Raise SettingsError if it is unset."""
        value = getattr(self, _BY_NAME[variable].attribute)
        if value is None or value == ():
            raise SettingsError(
                f"{variable} is not set for site {self.site}",
                detail=f"It is needed here. {_BY_NAME[variable].help}"
                f" The site is from {self.sources.get('POLYLADDER_SITE', 'default')}; --site=NAME means another.",
                hint=f"Export it, or write it into .env.{self.site}; `invoke doctor` shows what is set where.",
            )
        return str(value)


VARIABLES: tuple[Variable, ...] = tuple(
    mark for info in Settings.model_fields.values() for mark in info.metadata if isinstance(mark, Variable)
)
_BY_NAME = {variable.name: variable for variable in VARIABLES}
_DEFAULTS = Layer("default", {variable.name: variable.default for variable in VARIABLES if variable.default})
_BY_FLAG = {variable.attribute: variable for variable in VARIABLES if not variable.is_secret}


def describe(settings: Settings) -> list[Row]:
    """Return each setting in the order of the table, secrets masked."""
    return [
        Row(variable.name, _shown(settings, variable), settings.sources[variable.name], variable.help)
        for variable in VARIABLES
    ]


def _shown(settings: Settings, variable: Variable) -> str:
    value = getattr(settings, variable.attribute)
    if value in (None, ()):
        return ""
    if variable.is_secret:
        return MASK
    return redact(", ".join(value) if isinstance(value, tuple) else str(value))


def load(
    flags: Mapping[str, str], *, environ: Mapping[str, str], root: Path, config: object = None
) -> Settings:
    """Return the settings, and tell their secrets to the redactor.

    `flags` are texts by `Variable.attribute` (a secret is never a flag), `root` is the folder that relative paths and
    ``.env`` files start from, `config` the section of ``invoke.yaml``. Raise SettingsError with every fault there is.
    """
    faults: list[str] = []
    faults_in_files: list[str] = []
    flag = Layer.of("flag", {_BY_FLAG[attribute].name: text for attribute, text in flags.items()})
    environment = Layer.of("environment", environ)
    dotenv = sources.dotenv(root / ".env", faults_in_files)
    yaml = sources.invoke_yaml(config, _BY_NAME, faults)
    site = sources.first("POLYLADDER_SITE", [flag, environment, dotenv, yaml, _DEFAULTS])
    layers = [flag, environment, _site_dotenv(site[0], root, faults_in_files), dotenv, yaml]
    _hide_secrets(layers)
    if site[0] != _led_to_by(dotenv):
        # A slip in --site, or a site without a file, would mean production's database: a restore replaced it so.
        layers[3] = dotenv.without(_OF_ONE_SITE)
    ignored: tuple[str, ...] = ()
    if site[0] == SANDBOX:
        layers = [flag, environment, yaml]
        ignored = _closed_names(layers, root)
        layers = [layer.without(_CLOSED) for layer in layers]
    else:
        faults += faults_in_files
    unknown = sources.unknown(layers, _BY_NAME, faults)
    return _checked(site, layers, root, faults, ignored=ignored, unknown=unknown)


def _led_to_by(dotenv: Layer) -> str:
    """Return the site to whose database a file for all sites leads; the sandbox's own is never written there."""
    named = dotenv.values.get("POLYLADDER_SITE", SANDBOX)
    return _DEFAULTS.values["POLYLADDER_SITE"] if named == SANDBOX else named


def _site_dotenv(site: str, root: Path, faults: list[str]) -> Layer:
    if not is_site(site):
        return Layer("", {})
    layer = sources.dotenv(root / f".env.{site}", faults)
    if layer.values.get("POLYLADDER_SITE", site) != site:
        faults.append(f"POLYLADDER_SITE ({layer.source}) names another site than its file; remove it there.")
    return layer


def _hide_secrets(layers: Iterable[Layer]) -> None:
    for name, text in (pair for layer in layers for pair in layer.values.items()):
        if name in _OTHER_SECRETS:
            hide(text)
        elif name in _BY_NAME and _BY_NAME[name].is_secret:
            hide_url(text)


def _closed_names(layers: Iterable[Layer], root: Path) -> tuple[str, ...]:
    """Return what is set and yet not read at site sandbox: variables, then files."""
    names = {name for layer in layers for name in layer.values if _CLOSED.fullmatch(name)}
    files = [name for name in (".env", f".env.{SANDBOX}") if (root / name).is_file()]
    return (*sorted(names), *files)


def _checked(
    site: tuple[str, str], layers: list[Layer], root: Path, faults: list[str], **rest: tuple[str, ...]
) -> Settings:
    """Return the settings that the layers say. Raise SettingsError if they, or what was read before, are wrong."""
    found = {name: sources.first(name, layers) for name in _BY_NAME} | {"POLYLADDER_SITE": site}
    defaults = [_own_defaults(site[0], found["POLYLADDER_STATE_DIR"][0]), _DEFAULTS]
    found = {name: pair if pair[0] else sources.first(name, defaults) for name, pair in found.items()}
    values = {_BY_NAME[name].attribute: text for name, (text, _) in found.items() if text}
    origins = {name: source for name, (_, source) in found.items()}
    try:
        settings = Settings.model_validate(
            {**values, "root": root, "sources": origins, **rest}, context={"root": root}
        )
    except ValidationError as error:
        raise _unusable([*faults, *_said(error, origins)]) from None  # its text shows values
    if faults:
        raise _unusable(faults)
    return settings


def _own_defaults(site: str, state_dir: str) -> Layer:
    """Return the defaults that depend on the machine and on the site. Raise SettingsError if there is no home folder."""
    try:
        state = state_dir or str(user_state_path("polyladder-ops", appauthor=False))
    except RuntimeError:  # a container's nameless user
        raise SettingsError(
            "POLYLADDER_STATE_DIR is not set, and no home folder is known",
            hint="Set POLYLADDER_STATE_DIR to a folder of your own.",
        ) from None
    own = {
        "BACKUP_DIR": str(Path(state, SANDBOX, "backups")),
        "POLYLADDER_CHECKS": str(_SANDBOX_CHECKS),
        "POLYLADDER_APP_DIR": str(Path(state, SANDBOX, "checkout")),
        "POLYLADDER_MIGRATE_COMMAND": shlex.join([sys.executable, "-m", "polyladder_ops.sandbox.migrator"]),
    }
    return Layer("default", {"POLYLADDER_STATE_DIR": state, **(own if site == SANDBOX else {})})


def _said(error: ValidationError, origins: Mapping[str, str]) -> Iterator[str]:
    names = {variable.attribute: variable.name for variable in VARIABLES}
    for fault in error.errors():
        name = names[str(fault["loc"][0])]
        yield f"{name} ({origins[name]}) {fault['ctx']['error']}"


def _unusable(faults: list[str]) -> SettingsError:
    return SettingsError(
        f"{len(faults)} settings are unusable" if len(faults) > 1 else "a setting is unusable",
        detail="\n        ".join(faults),
        hint="Correct this where it is set, then run `invoke doctor`.",
    )
