"""What pg_dump 13 to 18 writes of every shape, in every way to write it: no statement of it is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from psycopg import sql

from polyladder_ops import portable
from polyladder_ops.postgres import queries, session
from tests import majors, shapes
from tests.dumps import listen
from tests.test_permitted import FORMS, Refused

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the packages of other majors are Linux's")

PAIRS = [(major, major) for major in majors.CLIENTS] + [(13, 18), (14, 17)]
WAYS = {**FORMS, "--no-comments": ("--no-comments", "--no-publications", "--strict-names", "--schema=more")}


def fill(target: Target) -> None:
    """Make what the file beside this one says, as far as this major knows of it."""
    text = (shapes.HERE / "permitted_shapes.sql").read_text(encoding="utf-8")
    with closing(session.connect(target, settings={"standard_conforming_strings": "on"})) as connection:
        major = connection.info.server_version // 10000
        connection.execute(queries.for_server(text, major=major, superuser=True).encode())


def output(target: Target, program: Path, *argv: str, given: bytes = b"") -> bytes:
    known = {"PGHOST": target.host, "PGPORT": str(target.port), "PGUSER": target.user}
    environment = portable.clean_environment({**known, "PGPASSWORD": target.password})
    done = subprocess.run([program, *argv], env=environment, input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(dump: bytes) -> list[bytes]:
    heard = Refused()
    for event in listen(dump).events:
        if event[0] == b"statement":
            heard.statement(event[1])
    assert heard.statements > 30
    return heard.refused


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"of {pair[0]} by {pair[1]}")
def test_nothing_that_pg_dump_of_any_major_writes_is_refused(
    pair: tuple[int, int], need: Callable[[object, str], None]
) -> None:
    server, client = majors.programs(pair[0]), majors.client(pair[1])
    need(server, f"no PostgreSQL {pair[0]} (python -m tests.majors fetches it)")
    need(client, f"no pg_dump {pair[1]} (python -m tests.majors fetches it)")
    assert client is not None
    ways = {**WAYS, **({"--statistics": ("--statistics",)} if pair[1] >= 18 else {})}
    with majors.running(pair[0]) as there:
        shapes.make_roles(there)
        sources = [there.with_database(name) for name in ("shapes", "everything", "more")]
        with closing(session.connect(there)) as connection:
            for source in sources:
                name = sql.Identifier(source.database)
                connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(name))
        shapes.fill(sources[0], [shape for shape in shapes.SHAPES if shape != shapes.EVERYTHING])
        shapes.fill(sources[1], [shapes.EVERYTHING])
        fill(sources[2])
        for source in sources:
            for way, options in ways.items():
                if "--schema=more" in options and source.database != "more":
                    continue
                dump = output(source, client.program, *options, source.database)
                assert refused(dump) == [], f"{source.database} {way}"
        restore = client.program.resolve().parent / "pg_restore"
        if os.access(restore, os.X_OK):
            for source in sources:
                archive = output(source, client.program, "--format=custom", source.database)
                for options in (("-f", "-"), ("-f", "-", "--clean", "--if-exists", "--no-owner")):
                    assert refused(output(source, restore, *options, given=archive)) == [], source.database
