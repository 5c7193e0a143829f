"""Which server and database is dumped: the one that DATABASE_URL names, while it is the right one, or none."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.postgres import clients
from polyladder_ops.postgres.session import connect
from tests.faults.places import ROWS, Place, ask, database, notes, rows_of, say, with_other
from tests.faults.tunnel import tunnel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox import server as servers


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_nothing_in_the_environment_leads_elsewhere(place: Place) -> None:
    home = place.private.parent / "project"
    home.mkdir(parents=True)
    wrong = "*:*:*:*:not-the-password\n"
    for name, text in ((".pgpass", wrong), ("passfile", wrong), ("services", "[decoy]\nhost=127.0.0.99\n")):
        (home / name).write_text(text)
        (home / name).chmod(0o600)
    with database(place.target, lambda c: c.execute("CREATE TABLE decoy ()")) as decoy:
        ended = place.invoke(
            "backup",
            "--json",
            PGHOST="127.0.0.99",
            PGHOSTADDR="127.0.0.99",
            PGPORT=str(free_port()),
            PGDATABASE=decoy.database,
            PGUSER="nobody",
            PGPASSWORD="not-the-password",
            PGPASSFILE=str(home / "passfile"),
            PGSERVICE="decoy",
            PGSERVICEFILE=str(home / "services"),
            PGSSLMODE="verify-full",
            PGREQUIREAUTH="none",
            PGCLIENTENCODING="EUC_JP",
            PGOPTIONS="-c default_transaction_read_only=on -c statement_timeout=1 -c no_such_setting=1",
        )
    assert ended.code == 0, ended.said
    assert json.loads(ended.out)["database"] == place.target.database
    assert rows_of(place.catalog.backups[0]) == {"public.note": ROWS}


def test_a_password_that_the_url_lacks_is_not_found_elsewhere(place: Place) -> None:
    home = place.private.parent / "project"
    home.mkdir(parents=True)
    password = place.target.password.replace("\\", "\\\\").replace(":", "\\:")
    (home / ".pgpass").write_text(f"*:*:*:*:{password}\n")
    (home / ".pgpass").chmod(0o600)
    bare = place.url().replace(f":{quote(place.target.password, safe='')}@", "@")
    ended = place.invoke("backup", DATABASE_URL=bare, PGPASSWORD=place.target.password)
    assert ended.code == 1
    assert "no password supplied" in ended.err
    assert "hint: Put the password into the URL" in ended.err
    place.holds()


@pytest.mark.parametrize(
    "change",
    [
        lambda url: url.replace("postgres://", "postgres+asyncpg://"),
        lambda url: url.replace("Canary7", "%zzCanary7"),
        lambda url: url.rpartition("/")[0],
        lambda url: url.replace("@127.0.0.1", "@127.0.0.1,127.0.0.1"),
        lambda url: url.replace("%40", "@"),
    ],
)
def test_a_url_that_is_no_sure_way_to_one_database_is_wrong_usage(
    change: Callable[[str], str], place: Place
) -> None:
    ended = place.invoke("backup", DATABASE_URL=change(place.url()))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: DATABASE_URL is unusable\ndetail: ")
    assert "\nhint: " in ended.err
    place.holds()


def test_a_server_behind_a_socket_is_dumped(place: Place, server: servers.Server) -> None:
    folder = server._state.sockets
    login = place.url().partition("://")[2].rpartition("@")[0]
    url = f"postgres://{login}@{quote(folder, safe='')}/{place.target.database}?port={place.target.port}"
    ended = place.invoke("backup", "--json", DATABASE_URL=f"{url}&keepalives_idle=30&application_name=it's")
    assert ended.code == 0, ended.said
    assert rows_of(place.catalog.backups[0]) == {"public.note": ROWS}


def test_a_server_that_is_down_is_named(place: Place) -> None:
    port = free_port()
    error = place.fails(OpsError, with_other(place.target, port=port))
    assert f"127.0.0.1:{port}" in error.message
    assert "refused" in error.detail
    assert "Start the server" in error.hint
    place.succeeds()


def test_a_host_that_never_answers_is_given_up(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = with_other(place.target, port=silent.getsockname()[1], connect_timeout=2)
        error = place.fails(OpsError, target)
    assert "timeout expired" in error.detail
    place.succeeds()


def test_a_wrong_password_is_said_and_not_shown(place: Place) -> None:
    place.hide("no: such'password")
    error = place.fails(OpsError, with_other(place.target, password="no: such'password"))
    assert "password authentication failed" in error.detail
    assert "%40" in error.hint
    place.succeeds()


def test_an_unknown_database_is_named(place: Place) -> None:
    error = place.fails(OpsError, place.target.with_database("no such database"))
    assert '"no such database" does not exist' in error.detail
    place.succeeds()


def test_a_standby_is_refused(place: Place, standby: Target) -> None:
    place.hide(standby.password)
    error = place.fails(Refused, standby)
    assert error.message == "the server is a standby"
    assert "primary" in error.hint
    assert error.exit_code == 4
    place.succeeds()


def test_what_balances_between_servers_is_no_way_to_a_backup(place: Place, standby: Target) -> None:
    with tunnel(place.target.port, standby.port) as balanced:
        place.wait_for(lambda: has(standby, place.target.database))
        error = place.fails(OpsError, with_other(place.target, port=balanced.port))
    assert "snapshot" in error.detail
    assert "not through something that balances" in error.hint
    place.succeeds()


def has(target: Target, name: str) -> bool:
    with closing(connect(target)) as connection:
        found = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone()
    return found is not None


def test_another_database_than_last_time_is_refused_until_somebody_says_so(place: Place) -> None:
    first = place.succeeds()
    with database(place.target) as other:
        error = place.fails(Refused, other)
        assert place.target.database in error.detail
        assert other.database in error.detail
        assert "--new-source" in error.hint
        second = place.succeeds(other, new_source=True)
        assert place.succeeds(other).manifest.source == second.manifest.source
    place.fails(Refused)
    back = place.succeeds(new_source=True)
    assert back.manifest.source == first.manifest.source


def test_a_database_of_the_same_name_on_another_server_is_refused(place: Place, older_server: Target) -> None:
    place.succeeds()
    place.hide(older_server.password)
    with database(older_server, name=place.target.database) as other:
        error = place.fails(Refused, other)
        assert "system" in error.detail
        assert place.succeeds(other, new_source=True).manifest.source.server_major < 18
    place.fails(Refused)


def test_the_flag_and_the_exit_code_of_another_source_are_the_task_s(place: Place) -> None:
    place.succeeds()
    with database(place.target) as other:
        url = place.url().replace(place.target.database, other.database)
        refused = place.invoke("backup", DATABASE_URL=url)
        assert (refused.code, refused.out) == (4, "")
        assert [line.split(":")[0] for line in refused.err.splitlines()[-3:]] == ["error", "detail", "hint"]
        assert place.invoke("backup", "--new-source", DATABASE_URL=url).code == 0


def test_a_pg_dump_without_tls_is_not_used_where_the_session_has_it(place: Place, tls_server: Target) -> None:
    place.hide(tls_server.password)
    without = [client for client in clients.find_clients() if not client.speaks_tls]
    error = place.fails(OpsError, tls_server, clients=without)
    assert error.message == "the connection uses TLS and no pg_dump here speaks it"
    assert without[0].version in error.detail
    assert "postgresql-client-15" in error.hint


def test_a_server_that_wants_tls_is_dumped_over_tls(place: Place, tls_server: Target) -> None:
    place.hide(tls_server.password)
    seen: set[tuple[bool, ...]] = set()

    def look(_size: int) -> None:
        if seen:
            return
        question = (
            "SELECT array_agg(s.ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)"
            " WHERE a.application_name LIKE 'polyladder-ops%' AND a.pid <> pg_backend_pid()"
        )
        seen.add(tuple(ask(tls_server, question)))

    with database(tls_server, notes) as target:
        for mode in ("prefer", "verify-full"):
            seen.clear()
            place.succeeds(with_other(target, sslmode=mode), progress=look)
            assert seen == {(True, True)}  # our session and pg_dump's


def test_a_certificate_that_is_not_the_server_s_ends_it(
    place: Place, tls_server: Target, tmp_path: Path
) -> None:
    place.hide(tls_server.password)
    error = place.fails(OpsError, with_other(tls_server, sslmode="verify-full", sslrootcert="system"))
    assert "certificate verify failed" in error.detail
    error = place.fails(OpsError, with_other(tls_server, sslmode="disable"))
    assert "no encryption" in error.detail
    assert "sslmode=require" in error.hint


def test_a_session_that_is_ended_by_an_administrator_ends_the_backup(
    place: Place, server: servers.Server
) -> None:
    def end_sessions(_event: object) -> None:
        say(
            server.target(),
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'polyladder-ops'"
            " AND pid <> pg_backend_pid()",
        )

    error = place.fails(OpsError, exported=end_sessions)
    assert "administrator" in error.detail
    for moment in ("progress", "dumped"):
        hooked: dict[str, Any] = {moment: end_sessions}
        error = place.fails(OpsError, **hooked)
        assert "connection" in error.detail
    place.succeeds()


def test_a_server_that_dies_during_the_dump_ends_the_backup(place: Place) -> None:
    with tunnel(place.target.port, hold_after=1_000_000) as cut:

        def die(_size: int) -> None:
            if cut.held.is_set():
                cut.close()

        place.fails(OpsError, with_other(place.target, port=cut.port), progress=die)
    place.succeeds()
