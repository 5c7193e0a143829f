"""Checks: questions are read or refused with their lines, asked without changing anything, and judged without leniency."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops import checks, expectations, redaction
from polyladder_ops.checks import Answer, Check
from polyladder_ops.errors import OpsError, SettingsError
from polyladder_ops.postgres import session
from polyladder_ops.postgres.questions import Reply
from polyladder_ops.sandbox import damage
from polyladder_ops.settings import load

if TYPE_CHECKING:
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server

NOW = datetime(2026, 1, 5, 2, 0, tzinfo=UTC)
SANDBOX = Path(checks.__file__).parent / "sandbox" / "checks.sql"
WHOLE = """\
-- What must hold of our data; a comment like this is passed over.

-- check: there are users
-- expect: > 0
SELECT count(*) FROM public.users;

-- check: a semicolon in quotes ends nothing
-- a remark
-- expect: 'a;b'
SELECT 'a;b' -- and a remark;
    AS "x;y"
    /* one; more */;
--check:tight
--   EXPECT :   t
WITH x AS (SELECT true) TABLE x;
"""


def file(folder: Path, text: str) -> Path:
    path = folder / "checks.sql"
    path.write_text(text, encoding="utf-8")
    return path


def faults(folder: Path, text: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        checks.read(file(folder, text))
    assert caught.value.exit_code == 2
    return [line.strip() for line in caught.value.detail.splitlines()]


def asked(target: Target, question: str, expect: str = "t", timeout_s: float = 10) -> Answer:
    (answer,) = checks.run(target, [Check("it", expect, question)], timeout_s=timeout_s)
    return answer


# The file -----------------------------------------------------------------------------------------------------------


def test_a_file_is_read_in_its_order(tmp_path: Path) -> None:
    found = checks.read(file(tmp_path, WHOLE))
    assert [(c.name, c.expect) for c in found] == [
        ("there are users", "> 0"),
        ("a semicolon in quotes ends nothing", "'a;b'"),
        ("tight", "t"),
    ]
    assert found[0].question == "SELECT count(*) FROM public.users"
    assert found[1].question.endswith("/* one; more */")


def test_a_file_of_windows_is_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "checks.sql"
    path.write_bytes(b"\xef\xbb\xbf" + WHOLE.replace("\n", "\r\n").encode())
    assert checks.read(path) == checks.read(file(tmp_path, WHOLE))


def test_all_faults_are_said_at_once_with_their_lines(tmp_path: Path) -> None:
    found = faults(
        tmp_path,
        """SELECT 1;
-- check: one
SELECT 1;
-- check: two
-- expect: about 5
-- expect: 5
SELECT 5;
-- check: one
-- expect: 1
SELECT 1; SELECT 2;
-- check: five
-- expect: 1
DELETE FROM public.users;
-- check: six
-- expect: 1
SELECT 1
""",
    )
    assert [fault.partition(":")[0] for fault in found] == [
        "line 1", "line 2", "line 4", "line 5", "line 8", "line 8", "line 11", "line 14",
    ]  # fmt: skip
    for fault, said in zip(
        found,
        ["belongs to no check", "no `-- expect:`", "2 `-- expect:`", "'about 5'", "2 statements", "taken by line 2",
         "no question", "no end"],
        strict=True,
    ):  # fmt: skip
        assert said in fault


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no check"),
        ("-- nothing but a comment\n", "there is no check"),
        ("-- expect: 1\nSELECT 1;\n", "belongs to no check"),
        ("-- check:\n-- expect: 1\nSELECT 1;\n", "write a name"),
        ("-- check: a, b\n-- expect: 1\nSELECT 1;\n", "write a name without commas"),
        ("-- check: a\n-- expect: 1\n", "no statements"),
        ("-- check: a\n-- expect: 1\nSELECT 1;;;\n-- check: b\n-- expect:\nSELECT 1;", "no answer can be expected"),
        ("-- check: a\n-- expect: 1\n\\! touch x\nSELECT 1;\n", "a psql command"),
        ("-- check: a\n-- expect: 1\nSELECT 1 \\gexec\n", "a psql command"),
        ("-- check: a\n-- expect: 1\nSELECT 'it\n-- check: b\n-- expect: 1\nSELECT 1;\n", "has no end"),
        ("-- check: a\n-- expect: 1\nSELECT $$;\n", "has no end"),
        ("-- check: a\nSELECT 1;\n-- expect: 1\n", "stands below its question"),
        *(
            (f"-- check: a\n-- expect: 1\n{statement};\n", "no question")
            for statement in ("INSERT INTO t VALUES (1)", "DO $$ BEGIN END $$", "CALL p()", "SET work_mem = 1", "COMMIT")
        ),
    ],
)  # fmt: skip
def test_what_is_no_question_with_one_answer_is_refused(text: str, said: str, tmp_path: Path) -> None:
    assert any(said in fault for fault in faults(tmp_path, text)), faults(tmp_path, text)


def test_a_file_that_is_not_there_or_not_text_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="can't be read"):
        checks.read(tmp_path / "missing.sql")
    (tmp_path / "binary.sql").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="can't be read"):
        checks.read(tmp_path / "binary.sql")


# What is expected ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expect", "rows", "ok"),
    [
        ("12", [[12]], True),
        ("12", [[12.0]], True),
        ("12", [[Decimal("12.00")]], True),
        ("12", [[13]], False),
        ("12", [["12"]], False),
        ("12", [[12], [12]], False),
        ("12", [[12, 12]], False),
        ("12", [], False),
        ("1", [[True]], False),
        ("-0.5", [[-0.5]], True),
        ("> 0", [[1]], True),
        ("> 0", [[0]], False),
        (">= 0", [[0]], True),
        ("< 3", [[3]], False),
        ("<= 3", [[3]], True),
        ("> 0", [[None]], False),
        ("> 0", [[True]], False),
        ("> 0", [["1"]], False),
        ("> 0", [[float("nan")]], False),
        ("> 0", [[float("inf")]], True),
        ("> 0", [[1], [1]], False),
        ("> 0", [], False),
        ("t", [[True]], True),
        ("true", [[True]], True),
        ("t", [[False]], False),
        ("t", [["t"]], False),
        ("t", [[1]], False),
        ("f", [[False]], True),
        ("f", [[None]], False),
        ("f", [], False),
        ("null", [[None]], True),
        ("null", [], False),
        ("none", [], True),
        ("none", [[None]], False),
        ("'none'", [["none"]], True),
        ("'it''s'", [["it's"]], True),
        ("'12'", [[12]], False),
        ("''", [[""]], True),
        ("''", [[None]], False),
        ('[["de", 3, true, null], ["fr", 4.5, false, "x"]]', [["de", 3, True, None], ["fr", 4.5, False, "x"]], True),
        ('[["fr", 4], ["de", 3]]', [["de", 3], ["fr", 4]], False),
        ('[["de", 3]]', [["de", 3], ["fr", 4]], False),
        ('[["de", "3"]]', [["de", 3]], False),
        ("[[1]]", [[True]], False),
        ("at most 36 h ago", [[NOW - timedelta(hours=36)]], True),
        ("at most 36 h ago", [[NOW - timedelta(hours=36, seconds=1)]], False),
        ("at most 36 h ago", [[(NOW - timedelta(hours=35)).replace(tzinfo=None)]], True),
        ("at most 36 h ago", [[NOW + timedelta(minutes=4)]], True),
        ("at most 36 h ago", [[NOW + timedelta(minutes=6)]], False),
        ("at most 30 min ago", [[NOW - timedelta(minutes=31)]], False),
        ("at most 2 d ago", [[date(2026, 1, 4)]], True),
        ("at most 2 d ago", [[date(2026, 1, 3)]], False),
        ("at most 2 d ago", [[None]], False),
        ("at most 2 d ago", [["2026-01-05"]], False),
        ("at most 2 d ago", [], False),
    ],
)  # fmt: skip
def test_an_answer_is_the_expected_one_or_not(expect: str, rows: list[list[Any]], ok: bool) -> None:
    fits = expectations.parse(expect)
    assert fits is not None
    assert fits(Reply(tuple(map(tuple, rows)), NOW)) is ok


@pytest.mark.parametrize(
    "expect",
    ["", "some", "about 5", "= 5", "!= 5", "> x", "> 0 rows", "'open", "it's", "at most a day ago", "at most 5 w ago",
     "[]", "[1]", "[[]]", "[[[1]]]", '[[{"a": 1}]]', "[[NaN]]", "[[1]", '{"a": 1}', "NONE", "1e3"],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_is_not_expected(expect: str) -> None:
    assert expectations.parse(expect) is None


# The answers --------------------------------------------------------------------------------------------------------


def test_the_sandboxs_own_checks_hold_on_its_data_and_notice_its_breaking(sample_database: Target) -> None:
    wanted = checks.read(SANDBOX)
    answers = checks.run(sample_database, wanted)
    assert [answer.said for answer in answers if not answer.ok] == []
    assert len(answers) == len(wanted) >= 5
    damage.break_database(sample_database)
    wrong = {answer.check.name for answer in checks.run(sample_database, wanted) if not answer.ok}
    assert wrong == {"users have their names", "the newest migration is the one that this release knows"}


@pytest.mark.parametrize(
    ("question", "expect", "seen"),
    [
        ("SELECT 25", "> 0", "got 25"),
        ("SELECT NULL::int", "null", "got null"),
        ("SELECT 'x' WHERE false", "none", "got no rows"),
        ("SHOW transaction_read_only", "'on'", "got 'on'"),
        ("VALUES (1, 'a'), (2, 'b')", '[[1, "a"], [2, "b"]]', "got [[1, 'a'], [2, 'b']]"),
        ("SELECT repeat('x', 100)", "'x'", "got a text of 102 characters"),
        ("SELECT generate_series(1, 60)", "none", "got 60 rows"),
        ("SELECT generate_series(1, 5000)", "none", "got more than 1000 rows"),
        ("SELECT 'a' || chr(27) || '[2J'", "'x'", "got 'a\\x1b[2J'"),
        ("SELECT 'postgres://u:geheim99@h/d'", "'x'", "got a text with a secret in it"),
        ("SELECT 'hidden-word'", "'x'", "got a text with a secret in it"),
        ("SELECT clock_timestamp() - interval '1 h'", "at most 2 h ago", None),
        ("SELECT '%s %'", "'%s %'", "got '%s %'"),
    ],
)
def test_what_was_seen_is_told_as_far_as_it_may_be(
    question: str, expect: str, seen: str | None, server: Server
) -> None:
    redaction.hide("hidden-word")
    answer = asked(server.target(), question, expect)
    assert seen is None or answer.seen == seen
    assert answer.ok is not (expect == "'x'" or answer.seen.endswith("0 rows"))


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("SELECT nonsense", 'column "nonsense" does not exist'),
        (
            "SELECT 1 FROM users",
            'relation "users" does not exist; names need their schema here, as in public.users',
        ),
        ("SELECT 'geheim'::int", 'invalid input syntax for type integer: "…"'),
        ("SELECT 1/0", "division by zero"),
        ("SELECT pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid())", "terminating connection"),
        ("SELECT pg_catalog.pg_sleep(30)", "canceling statement due to statement timeout"),
        (
            "WITH gone AS (DELETE FROM public.t RETURNING 1) SELECT count(*) FROM gone",
            "read-only transaction",
        ),
        ("EXPLAIN ANALYZE INSERT INTO public.t VALUES (2)", "read-only transaction"),
        ("SELECT pg_catalog.nextval('public.s')", "read-only transaction"),
        ("SELECT * INTO public.u FROM public.t", "read-only transaction"),
        ("SELECT 1; DROP TABLE public.t", "multiple commands"),
        ("SELECT 1; COMMIT", "multiple commands"),
        ("SELECT pg_catalog.set_config('transaction_read_only', 'off', false)", "before any query"),
    ],
)
def test_a_question_that_fails_is_an_answer_and_changes_nothing(
    question: str, said: str, database: Target
) -> None:
    with closing(session.connect(database)) as connection:
        connection.execute(
            "CREATE TABLE public.t (a int); INSERT INTO public.t VALUES (1); CREATE SEQUENCE public.s"
        )
    before, then = (
        Check("before", "1", "SELECT count(*) FROM public.t"),
        Check("then", "f", "SELECT is_called FROM public.s"),
    )
    answers = checks.run(database, [before, Check("it", "t", question), before, then], timeout_s=0.5)
    assert [answer.ok for answer in answers] == [True, False, True, True]
    assert answers[1].seen.startswith("failed: ")
    assert said in answers[1].seen
    assert "geheim" not in answers[1].said


def test_what_a_question_notifies_or_keeps_is_rolled_back(database: Target) -> None:
    """A read-only transaction may notify and set, if it is committed."""
    with closing(session.connect(database)) as connection:
        connection.execute("LISTEN told")
        assert asked(database, "SELECT pg_catalog.pg_notify('told', 'x') IS NULL", "f").ok
        assert list(connection.notifies(timeout=0.3)) == []


def test_the_searchpath_of_a_question_is_empty(database: Target) -> None:
    with closing(session.connect(database)) as connection:
        connection.execute("CREATE FUNCTION public.trap() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        connection.execute(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public', current_database()); END $$"
        )
    assert "trap() does not exist" in asked(database, "SELECT trap()").seen
    assert asked(database, "SELECT public.trap()", "1").ok


def test_a_server_that_is_not_there_is_no_answer() -> None:
    from polyladder_ops.postgres.conninfo import Target

    nowhere = Target.of(host="127.0.0.1", port=1, user="x", password="x", dbname="x")
    with pytest.raises(OpsError, match="could not connect"):
        asked(nowhere, "SELECT 1")


# The setting --------------------------------------------------------------------------------------------------------


def test_the_sandbox_has_checks_of_its_own_and_other_sites_none(tmp_path: Path) -> None:
    assert load({"site": "sandbox"}, environ={}, root=tmp_path).checks == SANDBOX
    assert load({}, environ={}, root=tmp_path).checks is None
    named = load({}, environ={"POLYLADDER_CHECKS": "ops/checks.sql"}, root=tmp_path)
    assert named.checks == tmp_path / "ops" / "checks.sql"
