"""What README says that it does not protect from, as far as one can show it: each sentence there has a test that would fail if it became untrue.

The others have theirs: `test_inplace_rights` and `test_login` (whose rights rows have where no login loads), `test_alone` (who
gets into a copy, who asks the checks), `test_strangers` (who holds the lock), `test_calls` (operators without a name),
`test_not_included` (what pg_dump passes over), `test_whose_code` (sequences), `test_marks` (who can write a mark),
`test_inplace_meanwhile` (an instant of `--in-place`), `test_login_trigger` (whose login triggers run in our sessions),
`test_since` (what is not counted), `test_leftovers` (rows added to a half-made copy).
"""

from __future__ import annotations

import re
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import loading, oldfiles, restoring, verification
from polyladder_ops.postgres import properties, session
from tests.conftest import numbers, run
from tests.dumps import dump
from tests.faults.test_lossy_client import source, taken  # noqa: F401 - fixtures
from tests.test_boundary import invoke
from tests.test_login import execute, take

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server


def says(sentence: str) -> None:
    """README has this sentence, in whichever lines."""
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    limits = text.partition("## What it does not protect from")[2]
    assert sentence in re.sub(r"\s+", " ", limits)


@pytest.fixture
def mal(server: Server) -> Iterator[str]:
    name = f"mal_{next(numbers)}"
    run(server.target(), "CREATE ROLE %I", name)
    yield name
    run(server.target(), "DROP ROLE %I", name)


TELLS = """
CREATE TABLE public.users (name text); INSERT INTO public.users VALUES ('ann'), ('bob');
CREATE SCHEMA z AUTHORIZATION {mal};
CREATE FUNCTION z.tells(a int) RETURNS bool LANGUAGE plpgsql AS $f$
BEGIN
  IF session_user LIKE 'polyladder%' THEN
    PERFORM set_config('application_name', 'told ' || (SELECT string_agg(name, ',') FROM public.users), false), pg_sleep(2);
  END IF;
  RETURN true;
END $f$;
CREATE TABLE z.t (a int CHECK (z.tells(a))); INSERT INTO z.t VALUES (1);
ALTER TABLE z.t OWNER TO {mal}; ALTER FUNCTION z.tells OWNER TO {mal}
"""


def test_code_that_rows_run_reads_what_is_in_the_copy_and_tells_it_on(
    database: Target, mal: str, tmp_path: Path
) -> None:
    says("while a backup loads, that code may read everything in the copy, as its login does, and tell it on")
    execute(database, TELLS.format(mal=mal))
    backup = take(database, tmp_path)
    heard: set[str] = set()
    done = threading.Event()

    def listen() -> None:
        with closing(session.connect(database)) as connection:
            while not done.is_set():
                names = connection.execute("SELECT application_name FROM pg_stat_activity").fetchall()
                heard.update(name for (name,) in names if name.startswith("told"))
                time.sleep(0.1)

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        server = database.with_database("postgres")
        assert verification.verify_by_restore(backup, [], server, trusted=False).passed
    finally:
        done.set()
        thread.join()
    assert heard == {"told ann,bob"}
    execute(database, "DROP SCHEMA z CASCADE")


def test_a_row_that_pg_dump_loses_is_not_missed(
    taken: Callable[[tuple[str, str, str]], Backup],  # noqa: F811
    source: Target,  # noqa: F811
) -> None:
    says("that each row, value and sequence's position in the dump is the source's is pg_dump's word")
    backup = taken((r"\n1\t1\tn\n", "\n", ""))
    assert verification.verify_by_restore(backup, [], source.with_database("postgres"), trusted=False).passed


def test_a_bare_file_makes_functions_that_have_our_rights(server: Server, tmp_path: Path) -> None:
    says(
        "It may still make extensions that reach out, event triggers, and SECURITY DEFINER functions of yours."
    )
    path = tmp_path / "bare.sql"
    path.write_bytes(
        dump(
            b"CREATE EXTENSION IF NOT EXISTS dblink WITH SCHEMA public;\n"
            b"CREATE FUNCTION public.f() RETURNS integer\n    LANGUAGE sql SECURITY DEFINER\n    AS $$SELECT 1$$;\n"
        )
    )
    with closing(session.connect(server.target())) as connection:
        like = properties.read(connection, "postgres")
    backup = oldfiles.describe(path, [], site="test", like=like)
    with restoring.temporary_database(server.target(), backup.manifest, purpose="test") as target:
        assert loading.load(target, backup, []).accepted == ()
        with closing(session.connect(target)) as connection:
            made = connection.execute(
                "SELECT prosecdef, proowner::regrole::text FROM pg_proc WHERE proname = 'f'"
            )
            assert made.fetchall() == [(True, "postgres")]
            assert connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'dblink'").fetchone()


def test_what_is_computed_is_not_compared_by_its_values(database: Target, tmp_path: Path) -> None:
    says("its proof compares that definition, not their values")
    execute(
        database,
        "CREATE TABLE public.t (a int); INSERT INTO public.t VALUES (1); CREATE MATERIALIZED VIEW public.v AS SELECT a FROM public.t",
        "INSERT INTO public.t VALUES (2)",
    )
    backup = take(database, tmp_path)
    with restoring.temporary_database(
        database.with_database("postgres"), backup.manifest, purpose="test"
    ) as target:
        loaded = loading.load(target, backup, [])
        server = database.with_database("postgres")
        assert restoring.prove(server, target.database, backup, [], loaded=loaded) == []
        with closing(session.connect(target)) as connection:
            assert connection.execute("SELECT count(*) FROM public.v").fetchone() == (2,)


def test_what_invoke_reads_before_the_tasks_is_told_by_invoke(tmp_path: Path) -> None:
    says("it reads them before it looks for `tasks.py`")
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    (tmp_path / "tasks.py").write_text("raise SystemExit('the tasks were reached')\n")

    def is_before(*words: str) -> bool:
        code, _, err = invoke(tmp_path, *words, env=home)
        assert code == 1
        return "Traceback" in err and "reached" not in err

    assert not is_before("--list")
    assert is_before("-T", "abc", "--list")
    (tmp_path / ".invoke.yaml").write_text("a: [1\n")
    assert is_before("--list")
