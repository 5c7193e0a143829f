"""The sandbox's app on the stand-in for Fly, and the second practice site, whose settings are as those of production.

Site sandbox ignores what leads to production, so what a token or an address does can't be seen there. Site `rehearsal` is an
ordinary one: its settings, in a file that a person links to ``.env.rehearsal``, lead to the same server and the same stand-in.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING
from urllib.parse import quote

from polyladder_ops import portable
from polyladder_ops.postgres import clients
from polyladder_ops.redaction import hide
from polyladder_ops.sandbox import place, seed
from polyladder_ops.sandbox.fly.cloud import Cloud

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server
    from polyladder_ops.settings import Settings

__all__ = ["REHEARSAL", "bring_up", "rehearsal_of", "take_down"]

REHEARSAL = "rehearsal"
_APP = ("-m", "polyladder_ops.sandbox.app")


def bring_up(settings: Settings, server: Server) -> str:
    """Return where the app answers; the stand-in for Fly is made where it is missing, and the settings of site rehearsal."""
    cloud = Cloud(settings.sandbox_cloud)
    as_app = {"DATABASE_URL": _url(server.target(place.DATABASE), seed.APP_ROLE)}
    if cloud.exists():
        cloud.tell(settings.app, as_app)  # the server may have got another port
    else:
        cloud.make(app=settings.app, db_app=settings.db_app, program=[sys.executable, *_APP], secrets=as_app)
    hide(cloud.token)
    cloud.start(settings.app)
    _write_rehearsal(settings, cloud, _road(settings, server, cloud))
    return cloud.url


def _road(settings: Settings, server: Server, cloud: Cloud) -> dict[str, str]:
    """Return the settings that lead site rehearsal to the database: by the stand-in's SSH, or where that can't be, by its address."""
    target = server.target(place.DATABASE)
    if not (server.socket_folder and importlib.util.find_spec("asyncssh")):
        return {"DATABASE_URL": _url(target)}
    programs = clients.embedded_folder()
    cloud.put_behind(settings.db_app, server.port, (target.host, server.port))
    machine = {
        "PATH": os.pathsep.join(
            [*([str(programs)] if programs else []), portable.clean_environment().get("PATH", os.defpath)]
        ),
        "PGDATA": f"{server.folder}/postgresql",
        "PGHOST": server.socket_folder,
        "PG_PORT": str(server.port),
        "OPERATOR_PASSWORD": target.password,
    }
    cloud.open_ssh(settings.db_app, machine)
    return {
        "POLYLADDER_ROUTE": "fly",
        "POLYLADDER_DATABASE": place.DATABASE,
        "FLY_API_BASE_URL": cloud.start_api(),
    }


def take_down(settings: Settings) -> None:
    """End and delete the stand-in, and what site rehearsal was."""
    Cloud(settings.sandbox_cloud).remove()
    rehearsal_of(settings).unlink(missing_ok=True)


def rehearsal_of(settings: Settings) -> Path:
    """Return the file with the settings of site rehearsal."""
    return settings.sandbox_cloud.parent / f"{REHEARSAL}.env"


def _write_rehearsal(settings: Settings, cloud: Cloud, road: dict[str, str]) -> None:
    values = {
        **road,
        "BACKUP_DIR": settings.sandbox_cloud.parent / "rehearsal-backups",
        "POLYLADDER_STATE_DIR": settings.state_dir,
        "POLYLADDER_CHECKS": settings.checks,
        "POLYLADDER_APP": settings.app,
        "POLYLADDER_DB_APP": settings.db_app,
        "POLYLADDER_FLYCTL": cloud.program,
        "FLY_API_TOKEN": cloud.token,
        "POLYLADDER_HEALTH_URL": f"{cloud.url}/health",
        "POLYLADDER_APP_DIR": settings.app_dir,
        "POLYLADDER_MIGRATE_COMMAND": settings.migrate_command,
    }
    file = rehearsal_of(settings)
    file.unlink(missing_ok=True)
    portable.write_private(
        file, "".join(f"{name}='{value}'\n" for name, value in values.items() if value is not None)
    )


def _url(target: Target, user: str = "") -> str:
    login = f"{quote(user or target.user, safe='')}:{quote(target.password, safe='')}"
    return f"postgres://{login}@{target.host}:{target.port}/{quote(target.database, safe='')}?sslmode=disable"
