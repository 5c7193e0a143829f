"""Where statements end: psql's rules one by one, and the real psql as the judge of thousands of mixtures of them."""

from __future__ import annotations

import random
import re
import socket
import struct
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import portable
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.lexer import DumpError, Lexer
from polyladder_ops.sandbox import server as servers
from tests.dumps import Heard, dump, listen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def split(sql: bytes) -> list[bytes]:
    """Return the statements of a dump with this SQL in it, looked at in one piece and byte by byte."""
    found = listen(dump(sql)).statements
    assert listen(dump(sql), size=1).statements == found
    return found


ONE_STATEMENT = {
    "a semicolon in a string": b"SELECT 'a;b'",
    "a doubled quote": b"SELECT 'it''s; '",
    "a backslash in a plain string": rb"SELECT 'a\'",
    "an escaped quote": rb"SELECT E'it\'s; '",
    "an escaped backslash, then the end": rb"SELECT e'a;\\'",
    "a doubled quote in an escape string": rb"SELECT E'a'';\''",
    "an escaped line break": b"SELECT E'a;\\\n'",
    "an escape string over lines": b"SELECT E'a;\n\\';\nb'",
    "a string with unicode escapes": rb"SELECT U&'d\0061t;'",
    "a name with unicode escapes": rb'SELECT U&"d\0061t;"',
    "a bit string": b"SELECT B'1;', x'1;', N'a;'",
    "a string that goes on in the next line": b"SELECT 'a;'\n  'b;'",
    "a quoted name": b'SELECT "a;""b;"',
    "a quoted name over lines": b'SELECT "a;\n;b"',
    "a backslash in a quoted name": rb'SELECT "a\;b"',
    "a comment sign in a string": b"SELECT '--;', '/*;'",
    "a dollar body": b"CREATE FUNCTION f() AS $$ BEGIN; ' END; $$ LANGUAGE plpgsql",
    "dollar tags inside dollar tags": b"SELECT $a$ ; $b$ ; $$ ; $b$ ; $a$",
    "half a tag inside": b"SELECT $a$ $ab$ $a b$ $$; $a$",
    "a tag that another one runs into": b"SELECT $a$ $b$a$",
    "a tag with letters beyond ASCII": "SELECT $grün$;$grün$".encode(),
    "a tag behind a number": b"SELECT 1$a$;$a$",
    "a parameter": b"SELECT $1, $2",
    "a name that holds dollar signs": b"SELECT a$b$, c$b$ FROM d$$",
    "a name beyond ASCII that holds a dollar sign": "SELECT ü$b$, ü$b$".encode(),
    "a name that ends in E": b"SELECT some'\\'",
    "a number that ends in E": b"SELECT 1E'\\'",
    "numbers before a comment": b"SELECT 1.5e1-- ';\n + 0x1e-- ;\n + a1e-- ;\n + 2-- ;\n",
    "a nested comment": b"SELECT /* a; /* b; ' */ c; \" */ 1",
    "a nested comment over lines": b"SELECT /* a;\n /* b;\n '\n */ c;\n */ 1",
    "a comment of stars and slashes": b"SELECT /***/ 1 /*/*;*/**/ + /*//*;*/;*/ 2",
    "a comment that begins behind an operator": b"SELECT 1 */* ; */ 2",
    "a line comment inside": b"SELECT 1 -- a; 'b\n + 2",
    "a line comment inside, closed by a carriage return": b"SELECT 1 -- a; 'b\r + 2",
    "parentheses": b"CREATE RULE r AS ON INSERT TO t DO (SELECT 1; (SELECT 2;); SELECT 3)",
    "a closing parenthesis too many": b"SELECT 1) ) ) (;)",
    "an atomic body": b"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END",
    "an atomic body with CASE": b"CREATE OR REPLACE PROCEDURE p()\n BEGIN ATOMIC\n SELECT CASE WHEN a THEN CASE b"
    b" WHEN c THEN d END ELSE e END; SELECT 2;\nEND",
    "an atomic body in small letters": b"create function f() begin atomic select 1; end",
    "an atomic body on two lines": b"CREATE FUNCTION f() BEGIN\n  /* c */ ATOMIC SELECT 1; END",
    "a quoted end in an atomic body": b'CREATE FUNCTION f() BEGIN ATOMIC SELECT a."end"; SELECT b$end; END',
    "a column named begin in an atomic body": b"CREATE FUNCTION f() BEGIN ATOMIC SELECT t.begin; SELECT 1; END",
    "a parenthesised begin in the arguments": b"CREATE FUNCTION f(begin date) RETURNS int AS 'x'",
}


@pytest.mark.parametrize("sql", ONE_STATEMENT.values(), ids=ONE_STATEMENT)
def test_a_semicolon_does_not_end_a_statement_in(sql: bytes) -> None:
    assert split(sql + b";\nSELECT 2;") == [sql, b"SELECT 2"]


TWO_STATEMENTS = {
    "a comment between them": (b"SELECT 1; -- a; b\nSELECT 2", b"SELECT 1", b"SELECT 2"),
    "a comment with a quote": (b"SELECT 1; -- it's\n/* isn't /* it */ */ SELECT 2", b"SELECT 1", b"SELECT 2"),
    "a line comment ended by a carriage return": (
        b"-- a\rSELECT 1; -- b\rSELECT 2",
        b"SELECT 1",
        b"SELECT 2",
    ),
    "no white space": (b"SELECT 1;SELECT 2", b"SELECT 1", b"SELECT 2"),
    "a comment over lines behind the first": (
        b"SELECT 1; /* a;\n b */ SELECT 2; /* c\n */",
        b"SELECT 1",
        b"SELECT 2",
    ),
    "an atomic body on two lines behind the first": (
        b"SELECT 1; CREATE FUNCTION f() BEGIN\n ATOMIC SELECT 1; END",
        b"SELECT 1",
        b"CREATE FUNCTION f() BEGIN\n ATOMIC SELECT 1; END",
    ),
    "carriage returns": (b"SELECT\r\n1;\r\n\r\nSELECT 2", b"SELECT\r\n1", b"SELECT 2"),
    "empty ones among them": (b";; SELECT 1;;\n;SELECT 2;", b"SELECT 1", b"SELECT 2"),
    "a quote in a tag": (b"SELECT $q$'$q$; SELECT ''", b"SELECT $q$'$q$", b"SELECT ''"),
    "a backslash before the closing quote": (rb"SELECT 'a\'; SELECT 'b'", rb"SELECT 'a\'", b"SELECT 'b'"),
    "a begin that is no body": (
        b"BEGIN; SELECT CASE a WHEN b THEN c END",
        b"BEGIN",
        b"SELECT CASE a WHEN b THEN c END",
    ),
    "a function named begin": (
        b"CREATE FUNCTION public.begin() AS $$x$$; ALTER FUNCTION public.begin() OWNER TO a",
        b"CREATE FUNCTION public.begin() AS $$x$$",
        b"ALTER FUNCTION public.begin() OWNER TO a",
    ),
    "a function named atomic in a schema named begin": (
        b"CREATE FUNCTION begin.atomic() AS $$x$$; SELECT 2",
        b"CREATE FUNCTION begin.atomic() AS $$x$$",
        b"SELECT 2",
    ),
    "atomic words in another statement": (
        b"CREATE TABLE begin (atomic int); SELECT 2",
        b"CREATE TABLE begin (atomic int)",
        b"SELECT 2",
    ),
    "a function's words too late": (
        b"COMMENT ON COLUMN x.create IS 'f'; SELECT 2",
        b"COMMENT ON COLUMN x.create IS 'f'",
        b"SELECT 2",
    ),
    "a line comment before the semicolon": (b"SELECT 1 -- a\n; SELECT 2", b"SELECT 1 -- a\n", b"SELECT 2"),
}


@pytest.mark.parametrize("case", TWO_STATEMENTS.values(), ids=TWO_STATEMENTS)
def test_statements_are_told_apart_with(case: tuple[bytes, ...]) -> None:
    sql, *expected = case
    assert split(sql + b";") == expected


OFF = b"SET standard_conforming_strings = off;\n"


@pytest.mark.parametrize(
    "sql",
    [
        rb"SELECT 'it\'s; '",
        rb"SELECT 'a\\'",
        b"SELECT B'1\\', X'\\'",
        rb"SELECT U&'a\'",
        rb"SELECT N'\';'",
        rb'SELECT "a\"',
    ],
)
def test_backslashes_escape_where_standard_conforming_strings_are_off(sql: bytes) -> None:
    assert split(OFF + sql + b";\nSELECT 2;") == [OFF[:-2], sql, b"SELECT 2"]
    back_on = OFF + sql + b";\nSET standard_conforming_strings = on;\n" + rb"SELECT '\';" + b"\nSELECT 2;"
    assert split(back_on)[-2:] == [rb"SELECT '\'", b"SELECT 2"]


REFUSED = {
    "a prefixed literal that goes on": (rb"SELECT E'a'" + b"\n" + rb"'b\'; '", "may read differently"),
    "the same behind a statement": (rb"SELECT 1; SELECT E'a'" + b"\n" + rb"'b\'; '", "may read differently"),
    "the same behind a comment": (rb"SELECT E'a' -- c" + b"\n" + rb"'b\'; '", "may read differently"),
    "the same with a carriage return": (b"SELECT U&'a'\r'b'", "may read differently"),
    "a number that runs into a comment": (b"SELECT 1.5e-- '\n + 1", "may read differently"),
    "a zero byte": (b"SELECT 1\0; SELECT 2", "zero byte"),
    "a lone dollar sign": (b"SELECT $, $E'a'", "dollar sign"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_psql_and_the_server_may_read_differently_is_refused(case: tuple[bytes, str]) -> None:
    for size in (1, 1 << 20):
        with pytest.raises(DumpError, match=case[1]):
            listen(dump(case[0] + b";"), size=size)


def test_a_prefixed_literal_may_stand_before_another_one() -> None:
    assert split(rb"SELECT E'a' 'b;', E'c'," + b"\n 'd;' || B'1'\n || 'e';") == [
        rb"SELECT E'a' 'b;', E'c'," + b"\n 'd;' || B'1'\n || 'e'"
    ]


# The judge -----------------------------------------------------------------------------------------------------------


class Recorder:
    """Speaks the server's side of PostgreSQL's protocol to one client, and remembers each query and its rows.

    It stands in for a server because no server tells exactly what it was sent: that is what psql is asked about.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.queries: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._thread.join(30)
        self._listener.close()

    def _serve(self) -> None:
        with self._listener.accept()[0] as client, client.makefile("rb") as source:
            while (length := struct.unpack("!I", source.read(4))[0]) and source.read(length - 4)[
                :4
            ] == b"\x04\xd2\x16/":
                client.sendall(b"N")  # no TLS
            client.sendall(_message(b"R", struct.pack("!I", 0)) + _says(b"client_encoding", b"UTF8"))
            client.sendall(
                _says(b"standard_conforming_strings", b"on") + _says(b"server_version", b"18.1") + READY
            )
            while kind := source.read(1):
                body = source.read(struct.unpack("!I", source.read(4))[0] - 4)
                client.sendall(self._answer(kind, body))

    def _answer(self, kind: bytes, body: bytes) -> bytes:
        if kind == b"Q":
            self.queries.append(body[:-1])
            if beheaded(body[:-1]) == b"COPY t FROM stdin;":
                return _message(b"G", b"\0\0\0")
            setting = re.match(rb"SET (standard_conforming_strings) = (on|off)", body)
            return (_says(*setting.groups()) if setting else b"") + DONE
        if kind == b"d":
            self.queries[-1] += b"\nROWS:" + body
        return DONE if kind in b"cf" else b""


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def _says(name: bytes, value: bytes) -> bytes:
    return _message(b"S", name + b"\0" + value + b"\0")


READY = _message(b"Z", b"I")
DONE = _message(b"C", b"OK\0") + READY

# Each is a place where a careless splitter loses its way; comments end their line, so that they can be taken out again.
COMMENTS = [b"-- c ' ;\n", b'-- $a$ " /*\n', b"--\n"]
FRAGMENTS = [
    *COMMENTS,
    *[b";", b"; ", b";\n", b"\n", b" ", b"\r\n", b"\r"],
    *[b"'", b"''", b"'a'", b"E'", b"e'a\\'b'", b"B'", b"U&'", b'"', b'U&"', b"\\'", b"\\\\'", b"N'"],
    *[b"$$", b"$a$", b"$b$", b"a$b$", b"$1", b"1$a$", b"$ab", b"1E'"],
    *[b"'a;b'", b"E'\\';'", b'"a;b"', b"$a$;$b$;$a$", b"(;)", b"/* ; */"],
    *[b"/*", b"*/", b"/", b"*", b"/*/", b"**/", b"@", b"+"],
    *[b"(", b")", b"a", b"E", b"U&", b"1", b"1.5e", b"x", b"\xc3\xbc", b",", b"::"],
    *[
        b"CREATE ",
        b"OR ",
        b"REPLACE ",
        b"FUNCTION ",
        b"PROCEDURE f() ",
        b"CREATE FUNCTION f() ",
        b"BEGIN ATOMIC ",
    ],
    *[b"SELECT 1;", b" CASE ", b" END ", b" END;", b" case a when b then c end "],
    *[
        b";\nCOPY t FROM stdin;\n1\n\\.\nSELECT 3;\n",
        b";\nCOPY t FROM stdin;\n;'\n\\.x\n \\.\n\\\\.\n\\.\r\nSELECT 4;",
    ],
    *[b"\\echo CANARY\n", b"\\\\", b"\\;", b"\\x"],
    *[b";\nSET standard_conforming_strings = off;\n", b";\nSET standard_conforming_strings = on;\n"],
]


def mixtures(count: int, seed: int) -> Iterator[bytes]:
    chance = random.Random(seed)
    weights = [1 if b"\\" in fragment else 12 if b";" in fragment else 4 for fragment in FRAGMENTS]
    for _ in range(count):
        yield b"".join(chance.choices(FRAGMENTS, weights, k=chance.randint(2, 16))) + b"\n"


def beheaded(query: bytes) -> bytes:
    """Return a query without what psql may leave out: comments before its first word, empty lines."""
    query = re.sub(rb"\n+", b"\n", query)
    while (rest := re.sub(rb"\A(\s+|--[^\r\n]*)", b"", query)).startswith(b"/*") or rest != query:
        depth = 0
        for token in re.finditer(rb"/\*|\*/", rest) if rest.startswith(b"/*") else ():
            depth += 1 if token[0] == b"/*" else -1
            if not depth:
                rest = rest[token.end() :]
                break
        else:
            if rest.startswith(b"/*"):
                return b""
        query = rest
    return query


def ours(sql: bytes) -> tuple[list[bytes], bool]:
    """Return the statements that the lexer passes on, each COPY with its rows, and whether it refused the rest."""
    heard = Heard()
    lexer = Lexer(heard)
    refused = False
    try:
        lexer.feed(sql)
    except DumpError:
        refused = True
    texts: list[bytes] = []
    for kind, text, *_ in heard.events:
        if kind == b"rows":
            texts[-1] += b"\nROWS:" + text
        elif kind != b"comment":
            texts.append(text + b";")
    return texts, refused


def judged(cases: list[bytes], folder: Path) -> list[tuple[list[bytes], bytes]]:
    """Return for each piece of SQL the queries that psql made of it, and what it said itself."""
    program = servers.programs() / "psql"
    recorder = Recorder()
    argv = [str(program), "-X", "-q", "-w", "-h", "127.0.0.1", "-p", str(recorder.port), "-U", "u", "-d", "d"]
    for number, sql in enumerate(cases):
        path = folder / f"{number}.sql"
        path.write_bytes(sql)
        argv += ["-f", str(path), "-c", f"\\echo DONE{number}"]
        argv += ["-c", "SET standard_conforming_strings = on", "-c", f"MARK {number}"]
    env = portable.clean_environment({"PGSSLMODE": "disable", "PGGSSENCMODE": "disable"})
    done = subprocess.run(argv, capture_output=True, env=env, timeout=60, check=False)
    recorder.close()
    verdicts, queries, said = [], iter(recorder.queries), done.stdout
    for number in range(len(cases)):
        own, _, said = said.partition(f"DONE{number}\n".encode())
        made = []
        for query in queries:
            if query == f"MARK {number}".encode():
                break
            made.append(query)
        verdicts.append((made[:-1], own))
    return verdicts


@pytest.fixture
def psql(need: Callable[[object, str], None]) -> None:
    try:
        servers.programs()
    except OpsError as error:
        need(None, str(error))


def until_lost(queries: list[bytes]) -> list[bytes]:
    """Return the queries before one that psql takes for a failed COPY: it then passes over what follows, as rows."""
    lost = (place for place, query in enumerate(queries) if b"FROM stdin" in query and query[:4] != b"COPY")
    return queries[: next(lost, None)]


@pytest.mark.parametrize("seed", range(4))
def test_the_lexer_splits_as_the_real_psql_does(seed: int, psql: None, tmp_path: Path) -> None:
    cases = list(mixtures(700, seed))
    compared = 0
    for sql, (queries, said) in zip(cases, judged(cases, tmp_path), strict=True):
        texts, refused = ours(sql)
        assert refused or b"CANARY" not in said, f"psql ran a command that the lexer did not see: {sql!r}"
        whole = [query for query in map(beheaded, queries) if query not in (b"", b";")]
        expected = until_lost(whole)
        found = until_lost([beheaded(text) for text in texts])
        assert found == expected[: len(found)], sql
        # What has no semicolon at the end of the file is sent all the same.
        assert refused or len(expected) < len(whole) or len(expected) - len(found) <= 1, sql
        compared += len(found)
    assert compared > 500
