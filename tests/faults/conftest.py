"""Places to back up from and to, and the servers that are in the way of it."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import portable
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.sandbox import place as places_of_servers
from polyladder_ops.sandbox import server as servers
from tests.faults.places import Place, database, login, notes, say, with_other

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEBIAN = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture(scope="module")
def role(server: servers.Server) -> Iterator[Target]:
    """A superuser of the server whose name and password need every kind of quoting, gone after the module."""
    made = login(server.target(), "SUPERUSER")
    yield made
    say(server.target(), "DROP ROLE {}", made.user)


@pytest.fixture(scope="module")
def shared(role: Target) -> Iterator[Target]:
    """A database with a table of 4 MB, which the tests of a module leave as it is."""
    with database(role, notes) as target:
        yield target


@pytest.fixture
def place(shared: Target, tmp_path: Path) -> Place:
    """The shared database, and folders that are not there yet."""
    return Place(shared, tmp_path / "backups", tmp_path / "state" / "runs")


@pytest.fixture
def own_place(role: Target, tmp_path: Path) -> Iterator[Place]:
    """The same with a database that the test may change."""
    with database(role, notes) as target:
        yield Place(target, tmp_path / "backups", tmp_path / "state" / "runs")


@pytest.fixture(scope="module")
def standby(server: servers.Server) -> Iterator[Target]:
    """A standby of the server, as its superuser; gone after the module, since it stands in the way of every restore."""
    primary = server.target()
    account = portable.owner(server._home)
    passfile = server._home / "standby.password"
    portable.write_private(passfile, f"*:*:*:*:{primary.password}\n")
    portable.give_to(passfile, account)
    port = places_of_servers.free_port()

    def call(*argv: str) -> None:
        code, said = server._run(*argv, timeout_s=60)
        assert code == 0, said

    login = f"host={primary.host} port={primary.port} user={primary.user} passfile={passfile}"
    call("pg_basebackup", "-D", "standby", "-d", login, "-R", "--checkpoint=fast", "--no-sync")
    options = f"-p {port} -c unix_socket_directories= -c cluster_name=standby -c shared_buffers=16MB"
    call("pg_ctl", "start", "-w", "-D", "standby", "-l", "standby.log", "-o", options)
    yield with_other(primary, port=port)
    call("pg_ctl", "stop", "-m", "immediate", "-D", "standby")
    places_of_servers.delete(server._home / "standby")
    passfile.unlink()


@pytest.fixture(scope="session")
def few_locks() -> Iterator[servers.Server]:
    """A server whose lock table is as small as it can be."""
    with own_server(max_locks_per_transaction="10", max_connections="8", autovacuum="off") as made:
        yield made


@contextmanager
def own_server(**settings: str) -> Iterator[servers.Server]:
    folder = Path(tempfile.mkdtemp(prefix="plt-"))
    made = servers.create(folder, settings={"fsync": "off", "full_page_writes": "off", **settings})
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="session")
def tls_server(need: Callable[[object, str], None]) -> Iterator[Target]:
    """A PostgreSQL 15 that takes TLS connections only; `sslrootcert` of the target is its certificate."""
    need(sys.platform == "linux" and DEBIAN.is_dir(), f"no {DEBIAN} (apt-get install postgresql-15)")
    need(shutil.which("openssl"), "no openssl")
    account = portable.system_account(places_of_servers.ACCOUNT)
    folder = Path(tempfile.mkdtemp(prefix="plt-"))
    portable.give_to(folder, account)
    folder.chmod(0o711)
    port, password = places_of_servers.free_port(), secrets.token_urlsafe()

    def call(program: str, *argv: str) -> None:
        with (folder / "said").open("wb") as said:
            done = subprocess.run(
                [program, *argv], cwd=folder, env=portable.clean_environment(), stdout=said, stderr=said,
                check=False, **portable.acting_as(account),
            )  # fmt: skip
        assert done.returncode == 0, (folder / "said").read_text()

    portable.write_private(folder / "password", password)
    portable.give_to(folder / "password", account)
    call("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", "key.pem", "-out", "certificate.pem", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1")  # fmt: skip
    call(str(DEBIAN / "initdb"), "-D", "data", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-N",
         "--auth=scram-sha-256", "--pwfile=password")  # fmt: skip
    (folder / "data" / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
    call(str(DEBIAN / "pg_ctl"), "start", "-w", "-D", "data", "-l", "log", "-o",
         f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off -c ssl=on"
         f" -c ssl_cert_file={folder}/certificate.pem -c ssl_key_file={folder}/key.pem")  # fmt: skip
    yield Target.of(
        host="127.0.0.1",
        port=port,
        user="postgres",
        password=password,
        dbname="postgres",
        sslrootcert=str(folder / "certificate.pem"),
    )
    call(str(DEBIAN / "pg_ctl"), "stop", "-m", "immediate", "-D", "data")
    shutil.rmtree(folder)
