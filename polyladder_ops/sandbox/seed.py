"""The sandbox's data: roles, database, schema and rows of a language-learning app, always the same for one scale.

The SQL stands beside this module: schema and learning (types and tables), code (what runs inside), rows, finish (what
stands on the rows). Scale 1 is about 50 MB as a plain dump. Equal scales give equal dumps, but for one thing: the
leaves of learning.exercise_result share out its rows by the oid of an enum, which no two databases have in common.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import resources
from typing import TYPE_CHECKING

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.session import Connection, connect, translated
from polyladder_ops.sandbox.place import DATABASE

if TYPE_CHECKING:
    from polyladder_ops.postgres.conninfo import Target

__all__ = ["APP_ROLE", "DATABASE", "READONLY_ROLE", "Progress", "fill", "is_empty", "set_properties"]

APP_ROLE = "polyladder_app"
READONLY_ROLE = "polyladder_readonly"
Progress = Callable[[float, str], None]
"""Called with the share that is done, from 0 to 1, and what is being made now."""

_FILES = ("schema.sql", "learning.sql", "code.sql", "rows.sql", "finish.sql")
# Measured, for an honest bar; what is not named takes no time to speak of.
_WEIGHTS = {
    "users": 34,
    "courses and words": 36,
    "what people did": 27,
    "reviews": 55,
    "progress events": 40,
    "decks, notes and texts": 8,
    "the audit trail": 22,
    "indexes": 25,
    "statistics": 60,
}
_SETTINGS = {
    "session_replication_role": "replica",  # neither triggers nor foreign keys row by row
    "maintenance_work_mem": "128MB",
    "synchronous_commit": "off",
    "jit": "off",
}
# Filled in by the server's format(), which quotes the name.
_PROPERTIES = (
    f"ALTER DATABASE %I OWNER TO {APP_ROLE}",
    "ALTER DATABASE %I SET search_path TO learning, public",
    "ALTER DATABASE %I SET statement_timeout TO '15s'",
    "ALTER DATABASE %I SET timezone TO 'Europe/Berlin'",
    "ALTER DATABASE %I SET polyladder.release TO 'Frühling, it''s \"4.2\"'",
    f"ALTER ROLE {READONLY_ROLE} IN DATABASE %I SET statement_timeout TO '5s'",
    f'ALTER ROLE {APP_ROLE} IN DATABASE %I SET search_path TO public, learning, "Büro"',
    "ALTER DATABASE %I CONNECTION LIMIT 80",
    "REVOKE CONNECT, TEMPORARY ON DATABASE %I FROM PUBLIC",
    f"GRANT CONNECT ON DATABASE %I TO {READONLY_ROLE}",
    "COMMENT ON DATABASE %I IS 'PolyLadder''s practice data; made, not real'",
)


def fill(target: Target, *, scale: float = 1.0, progress: Progress | None = None) -> None:
    """Make the roles, the database that `target` names if it is missing, and all that is in it.

    `target` logs in as a superuser; the application's role gets the same password. Raise OpsError if the database
    has tables already. A failure leaves it as it was.
    """
    _make_roles(target)
    _make_database(target)
    report = progress or (lambda _share, _what: None)
    with connect(target, settings=_SETTINGS) as connection, translated(f"could not fill {target}"):
        if found := _tables(connection):
            raise OpsError(
                f"{target} is not empty",
                detail=f"It has {found} tables, indexes and the like.",
                hint="Name a database that is empty or does not exist.",
            )
        connection.execute("SELECT set_config('polyladder.scale', %s, false)", [str(scale)])
        with connection.transaction():  # nothing half-made, and no autovacuum that changes where rows go
            for statements in _statements(report):
                connection.execute(statements)
        report(1 - _WEIGHTS["statistics"] / sum(_WEIGHTS.values()), "statistics")
        connection.execute("VACUUM (ANALYZE)")  # else it would start by itself in the middle of a measurement
    set_properties(target)
    report(1.0, "done")


def is_empty(target: Target) -> bool:
    """Whether the database, which is there, has no tables yet."""
    with connect(target) as connection:
        return not _tables(connection)


def set_properties(target: Target) -> None:
    """Give the database what is its own and not its content's: owner, rights, settings, comment, limit.

    A clone made with CREATE DATABASE … TEMPLATE lacks exactly these.
    """
    with connect(target) as connection, translated(f"could not set the properties of {target}"):
        for template in _PROPERTIES:
            _run(connection, "SELECT format(%s::text, current_database())", template)


def _run(connection: Connection, question: str, *values: str) -> None:
    """Run the statement that is the answer to a question, if there is one: the server quotes the names in it."""
    for (statement,) in connection.execute(question.encode(), values):
        connection.execute(statement)


def _make_roles(target: Target) -> None:
    with connect(target.with_database("postgres")) as connection, translated("could not make the roles"):
        for role in (APP_ROLE, READONLY_ROLE):
            _run(
                connection,
                "SELECT format('CREATE ROLE %%I', r) FROM unnest(ARRAY[%s::text]) r"
                " WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r)",
                role,
            )
        if target.password:
            # Encoded here, so that the server's log never shows it.
            verifier = connection.pgconn.encrypt_password(
                target.password.encode(), APP_ROLE.encode(), b"scram-sha-256"
            )
            connection.execute(f"ALTER ROLE {APP_ROLE} LOGIN PASSWORD '".encode() + verifier + b"'")


def _make_database(target: Target) -> None:
    with connect(target.with_database("postgres")) as connection, translated(f"could not make {target}"):
        _run(
            connection,
            "SELECT format('CREATE DATABASE %%I TEMPLATE template0', d) FROM unnest(ARRAY[%s::text]) d"
            " WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = d)",
            target.database,
        )
        _run(
            connection,
            f"SELECT format('ALTER DATABASE %%I OWNER TO {APP_ROLE}', %s::text)",
            target.database,
        )


def _tables(connection: Connection) -> int:
    found = connection.execute(
        "SELECT count(*) FROM pg_class WHERE relnamespace IN"
        " (SELECT oid FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema$)')"
    ).fetchone()
    assert found is not None
    return int(found[0])


def _statements(report: Progress) -> Iterator[bytes]:
    """Yield the statements of all files, parted at their "-- step:" lines, and report each step before it."""
    done, total = 0, sum(_WEIGHTS.values())
    for name in _FILES:
        text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
        first, *steps = re.split(r"^-- step: ", text, flags=re.MULTILINE)
        yield first.encode()
        for step in steps:
            what, statements = step.split("\n", 1)
            report(done / total, what)
            yield statements.encode()
            done += _WEIGHTS.get(what, 0)
