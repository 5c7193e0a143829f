"""Privileges as sentences: what the server writes in letters, in every spelling of a role's name."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import backups, verification
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import clients, grants, session
from polyladder_ops.postgres.grants import Grant
from tests import majors
from tests.conftest import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ("app=ra*/owner", "app=SELECT,INSERT*/owner"),
        ("=Tc/owner", "PUBLIC=CONNECT,TEMPORARY/owner"),
        (
            "owner=arwdDxtm/owner",
            "owner=SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER,MAINTAIN/owner",
        ),
        ('"a=b/c ""d"""=X/"O w"', '"a=b/c ""d"""=EXECUTE/"O w"'),
        ("PUBLIC=r/Röle", '"PUBLIC"=SELECT/"Röle"'),
        ('"new\nline"=U/o', '"new\nline"=USAGE/o'),
        ("app=/owner", "app=/owner"),
    ],
)
def test_an_item_of_an_acl_becomes_one_sentence_and_can_be_read_again(item: str, sentence: str) -> None:
    assert grants.canonical([item]) == (sentence,)
    if "=/" not in item:
        assert str(grants.parse(sentence)) == sentence


def test_everybody_is_not_the_role_called_public() -> None:
    assert grants.parse("PUBLIC=CONNECT/o") == Grant("", ("CONNECT",), "o")
    assert grants.parse('"PUBLIC"=CONNECT/o') == Grant("PUBLIC", ("CONNECT",), "o")


def test_the_owner_of_what_nobody_dumps_is_called_so() -> None:
    assert grants.canonical(["postgres=X/postgres", "app=X/postgres"], owner="postgres") == (
        "<owner>=EXECUTE/<owner>",
        "app=EXECUTE/<owner>",
    )


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        "app",
        "app=SELECT",
        "app=SELECT; DROP TABLE x/owner",
        "app=NOTHING/owner",
        'a"b=SELECT/o',
        "(a) b=/o/p",
    ],
)
def test_what_is_no_grant_is_refused(sentence: str) -> None:
    with pytest.raises(OpsError, match="is not a grant"):
        grants.parse(sentence)


ALL = "SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER"


def test_an_older_major_knows_no_maintain() -> None:
    new = (
        "(maintain) a=SELECT/o",
        f"a={ALL},MAINTAIN/o",
        f'b={ALL},MAINTAIN/"MAINTAIN"',
        "o=TRIGGER,MAINTAIN/o",
    )
    then = ("(maintain) a=SELECT/o", f"a={ALL}/o", f'b={ALL}/"MAINTAIN"', "o=TRIGGER/o")
    assert grants.as_of(new, 16) == then
    assert grants.as_of(new, 17) == new


@pytest.mark.parametrize(
    "meant", ["PUBLIC=MAINTAIN/o", "a=SELECT,MAINTAIN/o", f"a={ALL},MAINTAIN*/o", "a=MAINTAIN*/o"]
)
def test_what_somebody_was_given_since_stays(meant: str) -> None:
    assert grants.as_of((meant,), 16) == (meant,)


SOURCE = """
CREATE TABLE little (a int); GRANT SELECT ON little TO pg_monitor;
CREATE TABLE whole (a int); GRANT ALL ON whole TO pg_monitor;
CREATE TABLE passed_on (a int); GRANT ALL ON passed_on TO pg_monitor WITH GRANT OPTION;
CREATE TABLE mixed (a int); GRANT ALL ON mixed TO pg_monitor; GRANT SELECT ON mixed TO pg_monitor WITH GRANT OPTION;
CREATE TABLE less (a int); REVOKE DELETE ON less FROM CURRENT_USER;
CREATE TABLE anybody (a int); GRANT ALL ON anybody TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO pg_monitor;
"""
ADDED = {
    "nothing": ("", ()),
    "everybody": ("GRANT MAINTAIN ON TABLE public.little TO PUBLIC;", ("added PUBLIC=MAINTAIN/",)),
    "a role": (
        "GRANT MAINTAIN ON TABLE public.little TO pg_monitor;",
        ("added pg_monitor=SELECT,MAINTAIN/",),
    ),
}


@pytest.fixture(scope="module")
def older(need: Callable[[object, str], None]) -> Iterator[Target]:
    """A database of a server that knows no MAINTAIN."""
    need(sys.platform == "linux" and majors.programs(16), "no PostgreSQL 16")
    with majors.running(16) as there:
        run(there, "CREATE DATABASE granted TEMPLATE template0")
        target = there.with_database("granted")
        with closing(session.connect(target, settings={"search_path": "public"})) as connection:
            connection.execute(SOURCE.encode())
        yield target


@pytest.fixture(params=[16, 17, 18])
def client(request: pytest.FixtureRequest, need: Callable[[object, str], None]) -> clients.Client:
    found = majors.client(request.param)
    need(found, f"no pg_dump {request.param}")
    assert found is not None
    return found


@pytest.mark.parametrize("added", ADDED)
def test_a_newer_server_is_excused_for_what_no_dump_added(
    added: str, client: clients.Client, older: Target, server: Server, tmp_path: Path
) -> None:
    statement, named = ADDED[added]
    grant, stand_in = "GRANT SELECT ON TABLE public.little TO pg_monitor;", tmp_path / "pg_dump"
    stand_in.write_text(f'#!/bin/bash\n"{client.program}" "$@" | sed "s/^{grant}/&\\n{statement}/"\n')
    stand_in.chmod(0o755)
    options = backups.Options(clients=clients.find_clients([stand_in]))
    backup = backups.take(
        older, tmp_path / "backups", site="test", private=tmp_path / "private", options=options
    )
    verdict = verification.verify_by_restore(backup, [], server.target(), trusted=True)
    reasons = [reason for reason in verdict.reasons if "the server's major version" not in reason]
    assert len(reasons) == len(named), reasons
    assert all(words in reason for words, reason in zip(named, reasons, strict=True)), reasons
