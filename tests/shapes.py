"""What a database can hold, by name, from the SQL files beside this module: `-- shape: NAME` begins each.

A shape fills a schema of its own, so that all of them fit into one database; only `EVERYTHING` wants one for itself.
"""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg import sql

from polyladder_ops.postgres import queries, session

if TYPE_CHECKING:
    from collections.abc import Iterable

    from polyladder_ops.postgres.conninfo import Target

HERE = Path(__file__).parent
ROLES = ("inv_owner", "inv_app", 'inv Rôle/="x"')
EVERYTHING = "one of every kind of object"


def _read() -> dict[str, str]:
    found: dict[str, str] = {}
    for file in sorted(HERE.glob("shapes_*.sql")):
        _, *parts = re.split(r"^-- shape: (.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
        found |= dict(zip(parts[::2], parts[1::2], strict=True))
    return found


SHAPES = _read()


def make_roles(server: Target) -> None:
    """Make sure that the roles which the shapes name are there."""
    with closing(session.connect(server)) as connection:
        for role in ROLES:
            if not connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).fetchall():
                connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))


def drop_roles(server: Target) -> None:
    """Drop them again; no database may need them."""
    with closing(session.connect(server)) as connection:
        for role in ROLES:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def fill(target: Target, names: Iterable[str]) -> None:
    """Make these shapes in a database, as far as its server's major knows of what is in them."""
    for name in names:
        with closing(session.connect(target, settings={"standard_conforming_strings": "on"})) as connection:
            text = SHAPES.get(name) or (HERE / "inventory_shapes.sql").read_text(encoding="utf-8")
            if name != EVERYTHING:
                schema = f"shape_{list(SHAPES).index(name)}"
                connection.execute(f"CREATE SCHEMA {schema}; SET search_path = {schema}, public".encode())
            major = connection.info.server_version // 10000
            connection.execute(queries.for_server(text, major=major, superuser=True).encode())
