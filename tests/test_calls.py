"""What an expression calls is held against the source, too: SQL does not write every operator that it means."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import backups, verification
from polyladder_ops.postgres import session
from tests import majors
from tests.conftest import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target

MAKE = b"""
CREATE EXTENSION citext SCHEMA public;
SET search_path = public;
CREATE TABLE users (email citext, old citext);
INSERT INTO users VALUES ('a', 'a');
"""
# Each compares without regard to case in the source, and with it where the same text is read under another search_path.
HIDDEN = {
    "view public.v": "CREATE VIEW v AS SELECT email IS DISTINCT FROM old AS changed FROM users",
    "constraint c on public.users": "ALTER TABLE users ADD CONSTRAINT c CHECK (NOT email IS DISTINCT FROM old)",
    "policy p on public.users": "CREATE POLICY p ON users USING (CASE email WHEN old THEN true ELSE false END)",
    "index public.i": "CREATE INDEX i ON users (email) WHERE email IS DISTINCT FROM old",
    # Typed without quotes it means public; pg_dump writes what was typed, with quotes.
    "function public.f()": "SELECT set_config('search_path', 'Public, pg_catalog', false);"
    " CREATE FUNCTION public.f() RETURNS int LANGUAGE sql SET search_path FROM CURRENT AS 'SELECT 1'",
    "materialized view public.v": "CREATE MATERIALIZED VIEW v AS SELECT NULLIF(email, old) AS n FROM users",
}


@pytest.fixture(scope="module", params=[13, 18])
def cluster(request: pytest.FixtureRequest, need: Callable[[object, str], None]) -> Iterator[Target]:
    if request.param == 18:
        yield request.getfixturevalue("server").target()
        return
    need(sys.platform == "linux" and majors.programs(request.param), f"no PostgreSQL {request.param}")
    with majors.running(request.param) as target:
        yield target


@pytest.mark.parametrize("named", [*HIDDEN, ""], ids=[*HIDDEN, "nothing hidden"])
def test_an_operator_that_no_text_names_is_missed_where_another_one_came_back(
    cluster: Target, named: str, tmp_path: Path
) -> None:
    run(cluster, "CREATE DATABASE %I TEMPLATE template0", "hidden")
    target = cluster.with_database("hidden")
    with closing(session.connect(target)) as connection:
        connection.execute(
            MAKE + HIDDEN.get(named, "CREATE VIEW v AS SELECT email = old AS same FROM users").encode()
        )
    backup = backups.take(target, tmp_path / "backups", site="test", private=tmp_path / "private")
    run(cluster, "DROP DATABASE %I", "hidden")
    verdict = verification.verify_by_restore(backup, [], cluster, trusted=False)
    if named:
        assert (verdict.verdict, len(verdict.reasons)) == ("failed", 1)
        assert verdict.reasons[0].startswith(f"{named}: its definition is not the one that was dumped")
    else:
        assert (verdict.verdict, verdict.reasons) == ("passed", ())
