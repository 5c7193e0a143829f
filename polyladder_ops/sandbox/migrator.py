"""The sandbox's migrations, run without Node: what node-pg-migrate 8 does with files of SQL, and no more.

`python -m polyladder_ops.sandbox.migrator up|down`, in the package's folder, with DATABASE_URL and PGOPTIONS in the environment. It keeps the
same table `pgmigrations`, takes the same advisory lock, and does all of a run in one transaction.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from polyladder_ops.app.migration_files import File, ordered, parts
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import session
from polyladder_ops.postgres.conninfo import Target, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from polyladder_ops.postgres.session import Connection

__all__ = ["migrate"]

_LOCK = 7241865325823964  # node-pg-migrate's own
_TABLE = (
    "CREATE TABLE IF NOT EXISTS public.pgmigrations"
    " (id SERIAL PRIMARY KEY, name varchar(255) NOT NULL, run_on timestamp NOT NULL)"
)


def migrate(target: Target, folder: Path, direction: str, say: Callable[[str], object]) -> None:
    """Run all pending migrations of a folder (`up`), or take the last one back (`down`). Raise OpsError if that fails."""
    files = ordered([File(path) for path in folder.iterdir() if not path.name.startswith(".")])
    with closing(session.connect(target)) as connection, session.translated("the migration failed"):
        ((is_free,),) = connection.execute(f"SELECT pg_try_advisory_lock({_LOCK})".encode()).fetchall()
        if not is_free:
            raise OpsError("Another migration is already running")
        connection.execute("SET search_path TO public")
        connection.execute(_TABLE)
        rows = connection.execute("SELECT name FROM public.pgmigrations ORDER BY run_on, id").fetchall()
        chosen = _chosen(files, [name for (name,) in rows], direction)
        if not chosen:
            say("No migrations to run!")
        with connection.transaction():
            for file in chosen:
                say(f"### MIGRATION {file.name} ({direction.upper()}) ###")
                _apply(connection, file, direction)
    say("Migrations complete!")


def _chosen(files: Sequence[File], noted: Sequence[str], direction: str) -> list[File]:
    for ran, file in zip(noted, files, strict=False):
        if ran != file.name:
            raise OpsError(f"Not run migration {file.name} is preceding already run migration {ran}")
    if direction == "up":
        return [file for file in files if file.name not in noted]
    return [file for file in files if file.name == noted[-1]] if noted else []


def _apply(connection: Connection, file: File, direction: str) -> None:
    cut = parts(file.text())
    statements = cut.up if direction == "up" else cut.down
    if statements is None:
        raise OpsError(f"User has disabled {direction} migration on file: {file.name}")
    connection.execute(statements.encode())
    if direction == "up":
        connection.execute("INSERT INTO public.pgmigrations (name, run_on) VALUES (%s, now())", [file.name])
    else:
        connection.execute("DELETE FROM public.pgmigrations WHERE name = %s", [file.name])


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("direction", choices=("up", "down"))
    arguments = parser.parse_args()
    target = parse(os.environ.get("DATABASE_URL", ""))
    options = {
        "options": os.environ.get("PGOPTIONS", ""),
        "application_name": os.environ.get("PGAPPNAME", ""),
    }
    with open(1, "wb", buffering=0, closefd=False) as out:

        def say(line: str) -> None:
            out.write(f"{line}\n".encode())

        made = Target.of(**{**target.parameters, **options})
        try:
            migrate(made, Path("migrations"), arguments.direction, say)
        except OpsError as error:
            say(str(error))
            sys.exit(1)


if __name__ == "__main__":
    _main()
