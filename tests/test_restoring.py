"""`verify --level=restore`: it passes only what comes back equal, says what a server lacks, and leaves nothing there."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyrage
import pytest

from polyladder_ops import backups, catalog, loading, restoring, verification
from polyladder_ops.errors import Interrupted, OpsError
from polyladder_ops.postgres import databases, properties, session
from tests.conftest import numbers, run
from tests.forging import damaged, dump_of, forged, lying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server
    from polyladder_ops.verification import Verdict
    from tests.forging import Fields

OWNER = "restoring_owner"
CONTENTS = f"""
CREATE EXTENSION pg_trgm WITH SCHEMA public;
CREATE TABLE public.word (id serial PRIMARY KEY, lemma text, kind varchar(9) CHECK (kind IN ('noun', 'verb')));
INSERT INTO public.word (lemma, kind) SELECT 'wort ' || i, 'noun' FROM generate_series(1, 3000) i;
CREATE INDEX word_lemma ON public.word USING gin (lemma public.gin_trgm_ops);
ALTER TABLE public.word OWNER TO {OWNER};
GRANT SELECT ON public.word TO restoring_reader;
CREATE TABLE public.plain (a text DEFAULT 'x');
"""


@dataclass(frozen=True)
class Scratch:
    """A server of one's own for proofs, and what must be there as before after each."""

    target: Target

    def things(self) -> tuple[set[str], set[str], list[tuple[object, ...]]]:
        """Return the names of its databases and roles, and who else is connected."""
        with closing(session.connect(self.target)) as connection:
            roles = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles")}
            others = connection.execute(
                "SELECT datname, query FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND datname ~ '^polyladder_'"
            ).fetchall()
        return set(session.database_sizes(self.target)), roles, others


@pytest.fixture(scope="module")
def taken(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Backup:
    """A backup whose database and roles are gone from the server."""
    folder = tmp_path_factory.mktemp("taken")
    with source(server.target(), "gone") as target:
        return backups.take(target, folder / "backups", site="test", private=folder / "private")


class source:  # noqa: N801 - reads as a block
    """Within the block a database with contents and with the roles that it needs; both are gone afterwards."""

    def __init__(self, server: Target, name: str, options: str = "") -> None:
        self.server, self.name, self.options = server, name, options

    def __enter__(self) -> Target:
        for role in (OWNER, "restoring_reader"):
            run(self.server, "CREATE ROLE %I LOGIN PASSWORD 'sesame'", role)
        run(self.server, f"CREATE DATABASE %I TEMPLATE template0 {self.options}", self.name)
        target = self.server.with_database(self.name)
        with closing(session.connect(target)) as connection:
            connection.execute(CONTENTS.encode())
            for change in (f"OWNER TO {OWNER}", "SET work_mem = '5MB'", "SET statement_timeout = 1"):
                connection.execute(f"ALTER DATABASE {self.name} {change}".encode())
        return target

    def __exit__(self, *_: object) -> None:
        databases.drop(self.server, self.name)
        for role in (OWNER, "restoring_reader"):
            run(self.server, "DROP ROLE %I", role)


@pytest.fixture
def backup(taken: Backup, tmp_path: Path) -> Backup:
    """The backup in a folder of the test's own."""
    return damaged(taken, tmp_path / "backups", taken.path.read_bytes())


@pytest.fixture
def scratch(server: Server) -> Iterator[Scratch]:
    """The server; whatever a test does to a proof there, afterwards there is what was there before."""
    scratch = Scratch(server.target())
    before = scratch.things()
    yield scratch
    assert scratch.things() == before


def verify(backup: Backup, scratch: Scratch, progress: Callable[[int], None] | None = None) -> Verdict:
    return verification.verify_by_restore(backup, [], scratch.target, trusted=False, progress=progress)


def recorded(backup: Backup) -> list[tuple[str, str]]:
    return [(r.level, r.verdict) for r in catalog.open_backup(backup.path).records]


def test_a_backup_restores_to_what_was_dumped_on_a_server_without_its_roles(
    backup: Backup, scratch: Scratch
) -> None:
    found = verify(backup, scratch)
    assert (found.verdict, found.reasons) == ("passed", ())
    assert recorded(backup) == [("restore", "passed")]
    assert catalog.open_backup(backup.path).verified


def test_the_sandboxs_backup_restores_to_what_was_dumped(
    sample: Target, scratch: Scratch, tmp_path: Path
) -> None:
    taken = backups.take(sample, tmp_path / "backups", site="test", private=tmp_path / "private")
    found = verify(taken, scratch)
    assert (found.verdict, found.reasons) == ("passed", ())


def test_an_encrypted_backup_restores_with_its_key_only(
    sample: Target, scratch: Scratch, tmp_path: Path
) -> None:
    key = pyrage.x25519.Identity.generate()
    options = backups.Options(recipients=(str(key.to_public()),))
    taken = backups.take(
        sample, tmp_path / "backups", site="test", private=tmp_path / "private", options=options
    )
    assert verification.verify_by_restore(taken, [key], scratch.target, trusted=False).passed
    with pytest.raises(OpsError, match="none of our keys"):
        verification.verify_by_restore(taken, [], scratch.target, trusted=False)
    assert recorded(taken) == [("restore", "passed")]


def test_roles_that_are_made_can_not_log_in_meanwhile(backup: Backup, scratch: Scratch) -> None:
    seen: list[bool] = []

    def look(_size: int) -> None:
        with closing(session.connect(scratch.target)) as connection:
            rows = connection.execute("SELECT rolcanlogin FROM pg_roles WHERE rolname ~ '^restoring_'")
            seen.extend(can for (can,) in rows)

    assert verify(backup, scratch, look).passed
    assert seen
    assert not any(seen)


def test_stored_bytes_that_are_damaged_are_not_restored(backup: Backup, scratch: Scratch) -> None:
    backup.path.write_bytes(backup.path.read_bytes()[:-1])
    found = verify(backup, scratch)
    assert found.verdict == "failed"
    assert "bytes, the manifest says" in found.reasons[0]
    assert recorded(backup) == [("restore", "failed")]


# What only a restore can find: dump and manifest agree in all that the stored bytes tell.
FORGERIES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a statement that fails": (
        lambda d: d.replace(b"CREATE TABLE public.word", b"CREATE TABLE nowhere.t ();\nCREATE TABLE public.word"),
        'the server refused a part of the dump: schema "nowhere" does not exist. It was: CREATE TABLE nowhere.t ()',
    ),
    "no index": (
        lambda d: d.replace(b"CREATE INDEX word_lemma ", b"COMMENT ON COLUMN public.word.id IS NULL; -- "),
        "index public.word_lemma: it is missing",
    ),
    "a table more": (
        lambda d: d.replace(b"CREATE INDEX", b"CREATE TABLE public.spy ();\nCREATE INDEX"),
        "table public.spy: it was not in the source",
    ),
    "a trigger more": (
        lambda d: d.replace(
            b"CREATE INDEX",
            b"CREATE FUNCTION public.spy() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';\n"
            b"CREATE TRIGGER spy BEFORE INSERT ON public.word FOR EACH ROW EXECUTE FUNCTION public.spy();\nCREATE INDEX",
        ),
        "trigger spy on public.word: it was not in the source",
    ),
    "another owner": (
        lambda d: d.replace(b"public.plain OWNER TO postgres", b"public.plain OWNER TO restoring_reader"),
        "table public.plain: its owner is restoring_reader instead of postgres",
    ),
    "a grant more": (
        lambda d: d.replace(b"GRANT SELECT ON TABLE", b"GRANT SELECT, DELETE ON TABLE"),
        "table public.word: its grants differ",
    ),
    "rows changed behind the copy": (
        lambda d: d.replace(b"CREATE INDEX", b"INSERT INTO public.word VALUES (0, 'x', 'noun');\nCREATE INDEX"),
        "table public.word: it has 3001 rows instead of 3000",
    ),
    "a sequence moved behind its value": (
        lambda d: d.replace(b"CREATE INDEX", b"INSERT INTO public.word DEFAULT VALUES;\nCREATE INDEX"),
        "sequence public.word_id_seq: it stands at 3001 (",
    ),
    "a large object more": (
        lambda d: d.replace(b"CREATE INDEX", b"SELECT pg_catalog.lo_create('4711');\nCREATE INDEX"),
        "large object 4711: it was not in the source",
    ),
    "an extension elsewhere": (
        lambda d: d.replace(b"pg_trgm WITH SCHEMA public", b"pg_trgm WITH SCHEMA pg_catalog").replace(
            b"public.gin_trgm_ops", b"gin_trgm_ops"
        ),
        "extension pg_trgm: its definition is not the one that was dumped",
    ),
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
def test_what_does_not_come_back_equal_fails(
    forgery: str, taken: Backup, scratch: Scratch, tmp_path: Path
) -> None:
    change, said = FORGERIES[forgery]
    dumped = dump_of(taken)
    assert change(dumped) != dumped
    backup = forged(taken, tmp_path / "forged", change(dumped))
    found = verify(backup, scratch)
    assert found.verdict == "failed"
    assert any(reason.startswith(said) for reason in found.reasons), found.reasons
    assert recorded(backup) == [("restore", "failed")]


def manifest_with(backup: Backup, folder: Path, lie: Callable[[Fields], object]) -> Backup:
    return lying(backup, folder / "lying", lie)


def put(*path: str, value: object) -> Callable[[Fields], object]:
    def change(fields: Fields) -> None:
        for step in path[:-1]:
            fields = fields[step]
        fields[path[-1]] = value

    return change


LACKS: dict[str, tuple[Callable[[Fields], object], str]] = {
    "an extension": (
        lambda f: f["extensions"].append({"name": "postgis", "version": "3.5", "schema": "public"}),
        "the extension postgis is not available",
    ),
    "an extension's version": (
        lambda f: f["extensions"][0].update(version="1.5"),
        "the extension pg_trgm would be 1.6 instead of 1.5",
    ),
    "the major version": (
        put("source", "server_major", value=16),
        "the server's major version is 18, the source's was 16",
    ),
    "ICU": (
        lambda f: f["properties"].update(locale_provider="icu", locale="de-DE"),
        "the server lacks the locale of the source: ICU is not supported in this build.",
    ),
    "a locale": (
        lambda f: f["properties"].update(locale_provider="libc", locale="", collate="xx_XX.utf8", ctype="xx_XX.utf8"),
        'the server lacks the locale of the source: invalid LC_COLLATE locale name: "xx_XX.utf8".',
    ),
    "a tablespace": (put("properties", "tablespace", value="fast"), "the tablespace fast is missing"),
    "a setting": (
        lambda f: f["properties"]["settings"].append(["", "lc_monetary", "xx_XX.utf8"]),
        "the setting lc_monetary is missing",
    ),
    "a label's provider": (
        lambda f: f["properties"].update(security_labels=[["selinux", "secret"]]),
        "the security labels differ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LACKS)
def test_what_the_server_lacks_is_named_and_never_a_pass(
    what: str, taken: Backup, scratch: Scratch, tmp_path: Path
) -> None:
    lie, said = LACKS[what]
    backup = manifest_with(taken, tmp_path, lie)
    found = verify(backup, scratch)
    assert found.verdict == "not proved"
    assert found.reasons[0] == said
    assert recorded(backup) == [("restore", "not proved")]
    assert not catalog.open_backup(backup.path).verified


def test_what_the_dump_needs_and_the_server_lacks_is_named_too(
    taken: Backup, scratch: Scratch, tmp_path: Path
) -> None:
    function = (
        b"CREATE FUNCTION public.f() RETURNS integer LANGUAGE c AS '$libdir/postgis-3', 'f';\nCREATE INDEX"
    )
    found = verify(
        forged(taken, tmp_path / "forged", dump_of(taken).replace(b"CREATE INDEX", function)), scratch
    )
    assert found.verdict == "not proved"
    assert 'could not access file "postgis-3"' in found.reasons[0]


def test_a_missing_locale_of_money_matters_only_if_something_comes_out_otherwise(
    taken: Backup, scratch: Scratch, tmp_path: Path
) -> None:
    missing = put("session", "lc_monetary", value="xx_XX.utf8")
    assert verify(manifest_with(taken, tmp_path, missing), scratch).passed
    more = b"INSERT INTO public.word VALUES (0, 'x', 'noun');\nCREATE INDEX"
    changed = dump_of(taken).replace(b"CREATE INDEX", more)
    found = verify(forged(taken, tmp_path / "forged", changed, missing), scratch)
    assert found.verdict == "not proved"
    assert found.reasons[0] == "the locale xx_XX.utf8, by which money was written, is missing"
    assert found.reasons[1].startswith("table public.word: it has 3001 rows")


def test_a_backup_of_an_older_server_is_not_proved_on_a_newer_one(
    older_server: Target, scratch: Scratch, tmp_path: Path
) -> None:
    with source(older_server, "older") as target:
        taken = backups.take(target, tmp_path / "backups", site="test", private=tmp_path / "private")
    found = verify(taken, scratch)
    major = taken.manifest.source.server_major
    assert found.verdict == "not proved"
    assert found.reasons[0] == f"the server's major version is 18, the source's was {major}"
    assert not [reason for reason in found.reasons if "rows" in reason or "missing" in reason.split(":")[0]]


def test_a_backup_of_a_newer_server_is_not_proved_on_an_older_one(
    older_server: Target, server: Server, tmp_path: Path
) -> None:
    """All rows come back, though the dump holds a line that the older server does not know."""
    older = Scratch(older_server)
    before = older.things()
    with source(server.target(), "newer", "LOCALE_PROVIDER libc LOCALE 'C.UTF-8'") as target:
        taken = backups.take(target, tmp_path / "backups", site="test", private=tmp_path / "private")
    assert b"SET transaction_timeout = 0;" in dump_of(taken)
    found = verify(taken, older)
    assert found.verdict == "not proved"
    assert found.reasons[0].endswith("the source's was 18")
    assert not [reason for reason in found.reasons if "rows" in reason or "refused" in reason], found.reasons
    assert older.things() == before


def test_a_role_without_rights_proves_nothing_and_breaks_nothing(
    backup: Backup, scratch: Scratch, server: Server
) -> None:
    name = f"verifier_{next(numbers)}"
    run(server.target(), "CREATE ROLE %I LOGIN PASSWORD 'x' CREATEDB CREATEROLE", name)
    login = Scratch(type(scratch.target).of(**{**scratch.target.parameters, "user": name, "password": "x"}))
    found = verify(backup, login)
    run(server.target(), "DROP ROLE %I", name)
    assert found.verdict == "not proved"
    assert any("permission denied" in reason or "must be" in reason for reason in found.reasons), (
        found.reasons
    )


# Nothing is left, whatever happens -------------------------------------------------------------------------------------


def interrupt(_size: int) -> None:
    raise KeyboardInterrupt("SIGTERM")


def test_an_interrupt_among_the_rows_leaves_nothing(backup: Backup, scratch: Scratch) -> None:
    with pytest.raises(KeyboardInterrupt):
        verify(backup, scratch, interrupt)
    assert recorded(backup) == []


def test_a_bug_leaves_nothing(backup: Backup, scratch: Scratch) -> None:
    with pytest.raises(ZeroDivisionError):
        verify(backup, scratch, lambda size: size // 0)  # type: ignore[arg-type]
    assert recorded(backup) == []


def test_a_server_that_drops_our_connection_gives_no_verdict_and_is_left_clean(
    backup: Backup, scratch: Scratch
) -> None:
    def terminate(_size: int) -> None:
        with closing(session.connect(scratch.target)) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname ~ '^polyladder_verify_'"
            )

    with pytest.raises(OpsError, match="the server failed while it loaded"):
        verify(backup, scratch, terminate)
    assert recorded(backup) == []


def test_what_can_not_be_dropped_is_told_beside_the_interrupt_and_dropped_by_the_next_proof(
    backup: Backup, scratch: Scratch
) -> None:
    stuck: list[Target] = []

    def hold_on(_size: int) -> None:
        """Prepare a transaction in the database, which keeps it from being dropped."""
        (name,) = [n for n in session.database_sizes(scratch.target) if n.startswith("polyladder_verify_")]
        stuck.append(scratch.target.with_database(name))
        with closing(session.connect(stuck[0])) as connection:
            connection.execute(b"BEGIN; CREATE TABLE public.stuck (); PREPARE TRANSACTION 'stuck'")
        interrupt(0)

    with pytest.raises(Interrupted) as caught:
        verify(backup, scratch, hold_on)
    assert caught.value.message == "interrupted by SIGTERM"
    assert f"the database {stuck[0].database} is still there" in caught.value.detail
    with closing(session.connect(stuck[0])) as connection:
        connection.execute(b"ROLLBACK PREPARED 'stuck'")
    assert stuck[0].database in session.database_sizes(scratch.target)
    assert verify(backup, scratch).passed


def test_two_proofs_on_one_server_at_once_pass_both(backup: Backup, scratch: Scratch) -> None:
    both = threading.Barrier(2, timeout=60)
    found: list[Verdict] = []
    failed: list[Exception] = []

    def one() -> None:
        waited: list[int] = []

        def wait(size: int) -> None:
            if not waited:
                waited.append(size)
                both.wait()

        try:
            found.append(verify(backup, scratch, wait))
        except Exception as error:  # told below, with what it says
            failed.append(error)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [repr(error) + str(error) for error in failed] == []
    assert [(v.verdict, v.reasons) for v in found] == [("passed", ())] * 2


def test_a_backup_that_changes_after_it_was_verified_is_not_taken_for_restored(
    backup: Backup, scratch: Scratch, taken: Backup
) -> None:
    other = forged(taken, backup.path.parent / "other", dump_of(taken).replace(b"wort 7\t", b"WORT 7\t"))
    backup.path.write_bytes(other.path.read_bytes())
    with (
        pytest.raises(OpsError, match="changed since it was taken"),
        restoring.temporary_database(scratch.target, backup.manifest, purpose="test", roles="made") as target,
    ):
        loading.load(target, backup, [])


def test_a_database_that_can_not_get_all_its_properties_says_which(taken: Backup, server: Server) -> None:
    """The roles are not there, so it can't get its owner."""
    with restoring.temporary_database(server.target(), taken.manifest, purpose="test") as target:
        lacking = restoring.lacking(server.target(), target.database, taken.manifest)
        assert lacking[0] == f"the owner is 'postgres', not '{OWNER}'"


def test_read_only_is_never_carried_over(taken: Backup, server: Server) -> None:
    settings = (*taken.manifest.properties.settings, ("", "default_transaction_read_only", "on"))
    wanted = replace(taken.manifest.properties, settings=settings)
    manifest = taken.manifest.model_copy(update={"properties": wanted})
    with (
        restoring.temporary_database(server.target(), manifest, purpose="test", roles="made") as target,
    ):
        assert restoring.lacking(server.target(), target.database, manifest) == ()
        with closing(session.connect(server.target())) as connection:
            properties.apply(connection, target.database, wanted)
        with closing(session.connect(target)) as connection:
            assert connection.execute("SELECT current_setting('work_mem')").fetchone() == ("5MB",)
            rows = connection.execute("SELECT setconfig FROM pg_db_role_setting").fetchall()
    assert not [row for row in rows if "read_only" in str(row)]


def test_what_a_database_can_get_is_looked_at_and_it_stays_ours_alone(taken: Backup, server: Server) -> None:
    with (
        restoring.temporary_database(server.target(), taken.manifest, purpose="test", roles="made") as target,
        closing(session.connect(server.target())) as connection,
    ):
        before = properties.read(connection, target.database)
        assert restoring.properties_differ(connection, target.database, taken.manifest) == []
        assert properties.read(connection, target.database) == before
        assert (before.owner, before.comment) == ("postgres", "")
        assert before.settings == (
            ("", "statement_timeout", "1"),
            ("", "work_mem", "5MB"),
        )  # they let nobody in
        assert before.grants == ("postgres=CREATE,CONNECT,TEMPORARY/postgres",)
