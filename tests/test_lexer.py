"""What a dump may hold and what it may not: whole ones pass, cut and hostile ones are refused before anything runs."""

from __future__ import annotations

import itertools
import re
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from polyladder_ops.postgres.lexer import DumpError, Lexer, is_copy_target, setting_of
from tests.dumps import HEAD, KEY, TAIL, Heard, blocks, dump, listen, old_dump

ROWS = b"""COPY public.decks (id, title) FROM stdin;
1\tHallo; it's me -- $a$ "
2\t\\N
3\t\\\\.
\\.x
 \\.
4\tx\\
\\.
"""
EMPTY = b'COPY public."odd ""name""\n(x); y" ("a b", "c,d") FROM stdin;\n\\.\n'
PIECES = (
    b"CREATE TABLE public.decks (\n    id bigint NOT NULL,\n    title text DEFAULT 'a;b'::text\n);",
    b"CREATE FUNCTION public.f() RETURNS int\n    LANGUAGE plpgsql\n    AS $$ BEGIN; -- it's\n END; $$;",
    b"CREATE FUNCTION public.g() RETURNS int\n    BEGIN ATOMIC\n SELECT CASE WHEN a THEN 1 END;\nEND;",
    b"-- load via partition root public.decks",
    ROWS,
    EMPTY,
    b"SELECT pg_catalog.setval('public.decks_id_seq', 3, true);",
    b"COMMENT ON TABLE public.decks IS 'PostgreSQL''s \\ ; -- $a$';",
)
WHOLE = dump(*PIECES)


def refused(data: bytes, words: str) -> None:
    """Assert that these bytes are refused with these words, in one block and byte by byte."""
    for size in (1 << 20, 1):
        with pytest.raises(DumpError, match=words):
            listen(data, size=size)


def test_a_whole_dump_is_told_piece_by_piece_in_its_order() -> None:
    heard = listen(WHOLE)
    kinds = b" ".join(event[0] for event in heard.events if event[0] != b"comment").decode()
    assert (
        kinds
        == "statement statement statement statement statement statement statement copy rows copy rows statement statement"
    )
    assert heard.of(b"rows") == [ROWS.split(b"\n", 1)[1][: -len(b"\\.\n")], b""]
    assert (b"comment", b"-- load via partition root public.decks") in heard.events
    copies = [event[2:] for event in heard.events if event[0] == b"copy"]
    assert copies == [
        (b"public.decks", b"(id, title)"),
        (b'public."odd ""name""\n(x); y"', b'("a b", "c,d")'),
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64, 1000, 16384])
def test_the_size_of_the_blocks_does_not_matter(size: int) -> None:
    assert listen(WHOLE, size=size).events == listen(WHOLE).events


@given(st.lists(st.integers(0, len(WHOLE)), max_size=40))
@settings(deadline=None)  # a busy machine is no failure
def test_where_the_blocks_are_cut_does_not_matter(cuts: list[int]) -> None:
    heard = Heard()
    lexer = Lexer(heard)
    for begin, end in itertools.pairwise([0, *sorted(cuts), len(WHOLE)]):
        lexer.feed(WHOLE[begin:end])
    lexer.close()
    assert heard.events == listen(WHOLE).events


row = (
    st.binary(max_size=12)
    .map(lambda data: data.replace(b"\n", b"\\n"))
    .filter(lambda data: not re.fullmatch(rb"\\\.\r?", data))
)


@given(st.lists(row, max_size=8), st.integers(1, 9), st.sampled_from([b"\n", b"\r\n"]))
@settings(deadline=None)  # a busy machine is no failure
@example([b"\\", b"\\.x", b"\\. ", b" \\.", b"", b"\\.\r\r", b"\r"], 1, b"\r\n")
def test_rows_come_through_byte_by_byte_whatever_they_hold(
    rows: list[bytes], size: int, line_end: bytes
) -> None:
    text = b"".join(each + b"\n" for each in rows)
    heard = listen(dump(b"COPY t (a) FROM stdin;\n" + text + b"\\." + line_end + b"SELECT 2;"), size=size)
    assert heard.of(b"rows") == [text]
    assert heard.statements[-1] == b"SELECT 2"


def test_rows_that_look_like_sql_or_like_the_end_are_rows() -> None:
    rows = (
        b"DROP TABLE x;\n-- PostgreSQL database dump complete\n\\\\.\n\\restrict %b\n\\unrestrict %b\n\\! touch canary\n"
        % (KEY, KEY)
    )
    heard = listen(dump(b"COPY public.t (a) FROM stdin;\n" + rows + b"\\."), size=3)
    assert heard.of(b"rows") == [rows]


def test_a_literal_that_holds_the_end_of_a_dump_does_not_end_it() -> None:
    body = (
        b"CREATE FUNCTION f() AS $$\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict %b\n\n$$;"
        % KEY
    )
    assert len(listen(dump(body, b"SELECT 2;")).statements) == 2
    refused(HEAD + body + b"\n\n", "has no end")


@pytest.mark.parametrize(
    "whole", [WHOLE, old_dump(*PIECES), WHOLE.replace(b"\n", b"\r\n")], ids=["18", "old", "CRLF"]
)
def test_a_dump_cut_anywhere_is_refused(whole: bytes) -> None:
    listen(whole)
    for length in range(len(whole)):
        with pytest.raises(DumpError):
            listen(whole[:length])


def test_a_dump_that_ends_inside_rows_says_so() -> None:
    refused(WHOLE[: WHOLE.index(b"3\t")], "ends inside the rows of a table")
    refused(WHOLE[: WHOLE.index(b"\\.\n\n\nCOPY") + 2], "ends inside the rows of a table")
    refused(WHOLE[: WHOLE.index(b"END; $$")], "ends inside a statement or a comment")
    refused(b"", "has no end")


APPENDED = {
    "a statement": b"DROP TABLE x;\n",
    "a statement without a semicolon": b"DROP TABLE x\n",
    "rows": b"COPY t FROM stdin;\n1\n\\.\n",
    "a second end": TAIL,
    "a second dump": WHOLE,
    "a command": b"\\! touch canary\n",
    "an open comment": b"/* ",
}


@pytest.mark.parametrize("more", APPENDED.values(), ids=APPENDED)
@pytest.mark.parametrize("whole", [WHOLE, old_dump(*PIECES)], ids=["18", "old"])
def test_nothing_may_follow_the_end(whole: bytes, more: bytes) -> None:
    refused(whole + more, "the dump (goes on|holds|ends inside)")


def test_carriage_returns_before_line_feeds_change_nothing() -> None:
    heard, twin = listen(WHOLE.replace(b"\n", b"\r\n"), size=1), listen(WHOLE)
    assert [event[0] for event in heard.events] == [event[0] for event in twin.events]
    assert heard.of(b"comment") == twin.of(b"comment")


def test_a_comment_may_hold_anything_but_is_never_a_command() -> None:
    heard = listen(dump(b"-- ; ' \\! touch canary $a$", b"/* ; ' \\! touch canary\n */ SELECT 1;"))
    assert heard.statements == [b"SELECT 1"]
    assert b"-- ; ' \\! touch canary $a$" in heard.of(b"comment")


HOSTILE = {
    "a shell command": b"\\! touch canary",
    "a shell command behind a statement": b"SELECT 1; \\! touch canary",
    "a shell command inside a statement": b"SELECT 1\n\\! touch canary\n;",
    "a shell command inside parentheses": b"SELECT (\n\\! touch canary\n);",
    "a shell command inside an atomic body": b"CREATE FUNCTION f() BEGIN ATOMIC\n\\! touch canary\nEND;",
    "a shell command behind a carriage return in a comment": b"-- harmless\r\\! touch canary",
    "a name with a line feed in a comment (CVE-2025-8715)": b'-- load via partition root public."x\n\\! touch canary\n";',
    "\\g": b"SELECT 1 \\g |touch canary",
    "\\gexec": b"SELECT 'DROP TABLE x' \\gexec",
    "\\copy": b"\\copy t from program 'touch canary'",
    "\\connect": b"\\connect production",
    "\\set with a command": b"\\set x `touch canary`",
    "\\i": b"\\i /etc/passwd",
    "an escaped semicolon": b"SELECT 1\\; SELECT 2;",
    "the end of rows outside rows": b"\\.",
    "a second \\restrict": b"\\restrict %b" % KEY,
    "\\unrestrict too early, and then more": b"\\unrestrict %b\nSELECT 1;" % KEY,
    "\\unrestrict with another key": b"\\unrestrict abc",
    "\\unrestrict with a command (CVE-2026-18408)": b"\\unrestrict `touch canary`",
    "\\unrestrict with more behind it": b"\\unrestrict %b \\! touch canary" % KEY,
    "\\unrestrict inside a statement": b"SELECT 1\n\\unrestrict %b\n;" % KEY,
    "\\unrestrict that does not begin its line": b"SELECT 1; \\unrestrict %b" % KEY,
    "another \\restrict": b"\\restrictive",
    "SQL behind COPY on its line": b"COPY t FROM stdin; DROP TABLE x;\n1\n\\.",
    "a command behind COPY on its line": b"COPY t FROM stdin; \\! touch canary\n1\n\\.",
    "COPY to a program": b"COPY t TO PROGRAM 'touch canary';",
    "COPY from a program": b"COPY t FROM PROGRAM 'touch canary';",
    "COPY from a file": b"COPY t FROM '/etc/passwd';",
    "COPY to stdout": b"COPY t TO stdout;",
    "COPY of a query": b"COPY (SELECT 1) TO PROGRAM 'touch canary';",
    "COPY with options": b"COPY t FROM stdin WITH (FORMAT csv);\n1\n\\.",
    "COPY with a comment": b"COPY/**/t FROM stdin;\n1\n\\.",
    "COPY in two statements' clothes": b"COPY t (a) FROM stdin (b) FROM stdin;\n1\n\\.",
    "an encoding that hides quotes": b"SET client_encoding = 'SJIS';",
    "the same in other words": b"SET NAMES 'SJIS';",
    "the same for the session": b"set session client_encoding to sjis;",
    "the same by a function": b"SELECT pg_catalog.set_config('client_encoding', 'GBK', false);",
    "other strings by a function": b"SELECT set_config('standard_conforming_strings', 'off', false);",
    "other strings until the transaction's end": b"SET LOCAL standard_conforming_strings = off;",
    "other strings by a reset": b"RESET standard_conforming_strings;",
    "other strings on the same line": b"SET standard_conforming_strings = off; SELECT 'a\\';",
    "an encoding without a name": b"SET client_encoding = DEFAULT;",
}


@pytest.mark.parametrize("piece", HOSTILE.values(), ids=HOSTILE)
def test_a_dump_is_refused_that_holds(piece: bytes) -> None:
    refused(dump(b"SELECT 1;", piece), "the dump (holds|changes|goes on)")


def test_restrict_may_only_come_first_and_with_its_pair() -> None:
    late = WHOLE.replace(b"\\restrict %b\n" % KEY, b"", 1).replace(
        b"CREATE TABLE", b"\\restrict %b\nCREATE TABLE" % KEY
    )
    refused(late, "out of place")
    refused(WHOLE.replace(b"\\restrict %b\n" % KEY, b"", 1), "out of place")
    refused(WHOLE.replace(b"\\unrestrict %b\n" % KEY, b""), "closing `.unrestrict` is missing|has no end")
    refused(WHOLE.replace(b"\\restrict %b" % KEY, b"\\restrict other"), "out of place")


def test_a_message_shows_what_was_found_in_ascii_and_not_all_of_it() -> None:
    with pytest.raises(DumpError) as caught:
        listen(dump("\\! curl 'http://böse.example' ".encode() + b"x" * 1000))
    assert "\\! curl" in caught.value.detail
    assert caught.value.detail.isascii()
    assert len(caught.value.detail) < 120
    assert "invoke backup.list" in caught.value.hint


words = st.sampled_from(
    [
        b"'",
        b'"',
        b"$$",
        b"$a$",
        b"\\",
        b"\\!",
        b"--",
        b"/*",
        b"*/",
        b"(",
        b")",
        b";",
        b"\n",
        b"\r",
        b"E'",
        b"\\.",
        b"COPY t FROM stdin;\n",
        b"x",
        b" ",
        b"BEGIN ATOMIC",
        b"CREATE FUNCTION f() ",
    ]
)


@given(st.lists(words, max_size=25).map(b"".join), st.integers(1, 40))
@settings(max_examples=300, deadline=None)
def test_nothing_that_is_passed_on_holds_a_command(sql: bytes, size: int) -> None:
    heard = Heard()
    lexer = Lexer(heard)
    try:
        for block in blocks(sql + b"\n", size):
            lexer.feed(block)
    except DumpError:
        pass
    for text in heard.of(b"statement"):
        assert b"\\" not in without_literals(text), text


def without_literals(text: bytes) -> bytes:
    """Return SQL without its literals and comments, by one expression that owes nothing to the lexer."""
    return re.sub(
        rb"(?:(?<![\w$])[eE]'(?:\\.|''|[^'\\])*'|'[^']*'|\"[^\"]*\"|(?<![\w$])(\$\w*\$).*?\1|--[^\r\n]*|/\*.*\*/)",
        b" ",
        text,
        flags=re.DOTALL,
    )


def test_memory_stays_flat_while_rows_and_large_statements_pass() -> None:
    block = b"x" * 999 + b"\n"
    lexer = Lexer(Ear())
    lexer.feed(HEAD + b"COPY t (a) FROM stdin;\n")
    tracemalloc.start()
    for _ in range(200):
        lexer.feed(block * 100)
    lexer.feed(b"\\.\n")
    for _ in range(2000):
        lexer.feed(b"SELECT pg_catalog.lowrite(0, '\\x" + b"ab" * 8000 + b"');\n")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


class Ear:
    """A handler that keeps nothing."""

    def statement(self, text: bytes) -> None: ...
    def comment(self, text: bytes) -> None: ...
    def copy_begin(self, statement: bytes, table: bytes, columns: bytes) -> None: ...
    def copy_data(self, data: bytes) -> None: ...
    def copy_end(self) -> None: ...


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (b"SET standard_conforming_strings = off", (b"standard_conforming_strings", b"off")),
        (b"set standard_conforming_strings to 'FALSE'", (b"standard_conforming_strings", b"off")),
        (b"SET standard_conforming_strings = on", (b"standard_conforming_strings", b"on")),
        (b"SET client_encoding = 'LATIN1'", (b"client_encoding", b"latin1")),
        (b"SET statement_timeout = 0", None),
        (b"SET client_encoding = 'UTF8', 'x'", None),
        (b"SELECT 1", None),
    ],
)
def test_settings_that_change_how_a_dump_is_read_are_known(
    statement: bytes, expected: tuple[bytes, bytes] | None
) -> None:
    assert setting_of(statement) == expected


@pytest.mark.parametrize(
    "encoding", ["UTF8", "SQL_ASCII", "LATIN1", "WIN1252", "EUC_JIS_2004", "KOI8R", "ISO_8859_5"]
)
def test_every_encoding_of_a_server_is_taken(encoding: str) -> None:
    listen(WHOLE.replace(b"'UTF8'", f"'{encoding}'".encode()))


def test_only_names_and_columns_make_a_table_to_copy() -> None:
    assert is_copy_target("public.decks", "(id, title)")
    assert is_copy_target('public."odd ""name"" (x); --"', '("a, b", c)')
    assert is_copy_target("grün.öl", "")
    for table, columns in [
        ("public.decks (id)", ""),
        ("public.decks; DROP TABLE x", ""),
        ("public.decks TO stdout --", ""),
        ("(SELECT 1)", ""),
        ("a.b.c", ""),
        ("", ""),
        ("public.decks", "(id) TO PROGRAM 'x'"),
        ("public.decks", "id"),
        ("public.decks", "()"),
        ('public."de"cks"', ""),
    ]:
        assert not is_copy_target(table, columns), (table, columns)
