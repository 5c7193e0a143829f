"""Whatever is done to a dump's bytes: no psql command gets through, no cut goes unnoticed, no byte is lost.

The dumps are real ones of all shapes, small enough to be cut at every byte. More of it: TEST_SWEEP.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import random
import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyladder_ops import portable
from polyladder_ops.postgres.lexer import DumpError, Lexer
from polyladder_ops.sandbox import server as servers
from tests import shapes
from tests.conftest import run
from tests.dumps import Heard, listen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server

SWEEP = os.environ.get("TEST_SWEEP") == "1"
fuzzed = settings(
    max_examples=5_000 if SWEEP else 300,
    deadline=None,  # a busy machine is no failure
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
BIG = (
    "rows of very different lengths, updated and deleted",
    "1600 columns",
    "large objects with owners, grants and comments",
)
HOSTILE = (b"\\", b"\\! touch x\n", b"\n\\.\n", b"'", b'"', b"$$", b"$a$", b"--", b"/*", b"*/", b"(", b")", b";", b"\n", b"\r", b"\0",
           b"E'", b" begin atomic ", b"\\unrestrict x\n", b"COPY t FROM stdin;\n", b"SET standard_conforming_strings = off;\n",
           b"SET client_encoding = 'SJIS';\n", b"CREATE FUNCTION f() ", b"\xe2\x80\xa8", b"\xa0")  # fmt: skip
GAP = re.compile(rb"(?:[;\s]|(?<=\n)\\\.\n|(?<=\n)\\(?:un)?restrict \w+\n)*")


@pytest.fixture(scope="module")
def real(server: Server) -> dict[str, bytes]:
    """What pg_dump 18 says of databases with all shapes: small ones, and a large one by the name of `big`."""
    shapes.make_roles(server.target())
    small = tuple(name for name in shapes.SHAPES if name not in BIG)
    made = {}
    with database(server, "fuzz", small) as source:
        made["rows"] = dumped(source)
        made["inserts"] = dumped(source, "--inserts")
    with database(server, "fuzz_off", small, "standard_conforming_strings = off") as source:
        made["backslashes that count"] = dumped(source)
    with database(server, "fuzz_big", tuple(shapes.SHAPES)) as source:
        made["big"] = dumped(source)
    shapes.drop_roles(server.target())
    return made


@contextlib.contextmanager
def database(server: Server, name: str, filling: tuple[str, ...], setting: str = "") -> Iterator[Target]:
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0", name)
    if setting:
        run(server.target(), f"ALTER DATABASE %I SET {setting}", name)
    shapes.fill(server.target(name), filling)
    run(server.target(name), "SELECT lo_from_bytea(7, decode('27005c0a', 'hex'))")
    yield server.target(name)
    run(server.target(), "DROP DATABASE %I WITH (FORCE)", name)


def dumped(source: Target, *options: str) -> bytes:
    words = ["-h", source.host, "-p", str(source.port), "-U", source.user, "-d", source.database, *options]
    env = portable.clean_environment({"PGPASSWORD": source.password})
    done = subprocess.run([servers.programs() / "pg_dump", *words], env=env, check=True, capture_output=True)
    return done.stdout.replace(b"\r\n", b"\n") if os.name == "nt" else done.stdout


class Deaf:
    """Hears nothing, and takes no time for it."""

    def statement(self, text: bytes) -> None: ...
    def comment(self, text: bytes) -> None: ...
    def copy_begin(self, statement: bytes, table: bytes, columns: bytes) -> None: ...
    def copy_data(self, data: bytes) -> None: ...
    def copy_end(self) -> None: ...


def told(pieces: Iterable[bytes]) -> tuple[list[tuple[bytes, ...]], str]:
    """Return what a lexer tells of these pieces, and what it says at the end."""
    heard = Heard()
    lexer = Lexer(heard)
    try:
        for piece in pieces:
            lexer.feed(piece)
        lexer.close()
    except DumpError as error:
        return heard.events, str(error)
    return heard.events, ""


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(places)]


NAMES = ("rows", "inserts", "backslashes that count", "big")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_handed_on_is_the_dump(name: str, real: dict[str, bytes]) -> None:
    """Piece by piece in its order, and between them nothing but white space, semicolons and pg_dump's own marks."""
    at, text = 0, real[name]
    for event in listen(text).events:
        gap = GAP.match(text, at)
        at = gap.end() if gap and event[0] != b"rows" else text.index(b";\n", at) + 2
        assert text.startswith(event[1], at), (event[0], text[at : at + 80])
        at += len(event[1])
    assert GAP.fullmatch(text, at)
    assert text.count(b"\n\\.\n") >= len(listen(text).of(b"rows")) > (0 if name != "inserts" else -1)


@pytest.mark.parametrize("name", NAMES[:3])
def test_every_cut_of_a_real_dump_is_noticed(name: str, real: dict[str, bytes]) -> None:
    """At every byte. A lexer that has read so far is asked what it would say if that were all."""
    text = real[name]
    lexer = Lexer(Deaf())
    for place in range(len(text)):
        so_far = copy.deepcopy(lexer)
        with pytest.raises(DumpError):
            so_far.close()
        lexer.feed(text[place : place + 1])
    lexer.close()


def test_random_cuts_of_a_large_dump_are_noticed(real: dict[str, bytes]) -> None:
    text, dice = real["big"], random.Random(7)
    listen(text)
    for place in [dice.randrange(len(text)) for _ in range(2000 if SWEEP else 60)]:
        with pytest.raises(DumpError):
            listen(text[:place], size=dice.choice([1 << 20, 1 << 14, 4099]))


edit = st.tuples(
    st.floats(0, 1, exclude_max=True), st.integers(0, 40), st.sampled_from(HOSTILE) | st.binary(max_size=3)
)


@fuzzed
@given(
    name=st.sampled_from(NAMES[:3]),
    edits=st.lists(edit, max_size=4),
    cuts=st.lists(st.floats(0, 1), max_size=12),
)
def test_nothing_hostile_gets_through_wherever_it_stands(
    name: str, edits: list[tuple[float, int, bytes]], cuts: list[float], real: dict[str, bytes]
) -> None:
    """Bytes taken out and put in anywhere: what is passed on holds no command, however the blocks are cut."""
    data = real[name]
    for place, gone, come in edits:
        at = int(place * len(data))
        data = data[:at] + come + data[at + gone :]
    events, said = told([data])
    escapes = False
    for event in events:
        if event[0] in (b"statement", b"copy"):
            assert b"\\" not in event[1] or b"\\" not in bare(event[1], escapes=escapes), event[1]
            if setting := re.match(rb"SET standard_conforming_strings = (on|off)\Z", event[1]):
                escapes = setting[1] == b"off"
    assert told(split(data, [int(cut * len(data)) for cut in cuts])) == (events, said)
    assert not said or data != real[name]


def bare(text: bytes, *, escapes: bool) -> bytes:
    """Return SQL with a blank for each literal, quoted name and comment, read letter by letter as the documentation tells it."""
    out, at = bytearray(), 0
    ended, own = -1, False  # where the last string ended, and whether backslashes counted in it
    while at < len(text):
        rest = text[at:]
        if tag := re.match(rb"\$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*)?\$", rest):
            inside = re.search(rb"[\w$\x80-\xff]\Z", out)  # in a name dollars are letters
            end = -1 if inside else text.find(tag[0], at + len(tag[0]))
            out += rest[:1] if inside else b" "
            at = at + 1 if inside else (end + len(tag[0]) if end >= 0 else len(text))
        elif rest[:1] in b"'\"":
            if (
                at != ended or text[at - 1 : at] != rest[:1]
            ):  # else it is a doubled quote, and the string goes on
                own = rest[:1] == b"'" and counts(bytes(out[-3:]), escapes)
            at += literal(rest, escapes=own)
            ended = at
            out += b" "
        elif rest.startswith(b"--"):
            at += len(re.split(rb"[\r\n]", rest, maxsplit=1)[0])
            out += b" "
        elif rest.startswith(b"/*"):
            at += comment(rest)
            out += b" "
        else:
            out += rest[:1]
            at += 1
    return bytes(out)


def counts(before: bytes, escapes: bool) -> bool:
    """Whether backslashes count in the string behind these bytes: E says so, B, X and U& deny it."""
    prefix = re.search(rb"(?<![\w$\x80-\xff])(?:[eEbBxX]|[uU]&)\Z", before)
    return prefix[0] in b"eE" if prefix else escapes


def literal(text: bytes, *, escapes: bool) -> int:
    """Return the length of the literal or quoted name that begins here."""
    at = 1
    while at < len(text):
        if escapes and text[at : at + 1] == b"\\":
            at += 2
        elif text[at : at + 1] == text[:1]:
            return at + 1
        else:
            at += 1
    return len(text)


def comment(text: bytes) -> int:
    """Return the length of the comment that begins here; comments nest."""
    depth = 0
    for token in re.finditer(rb"/\*|\*/", text):
        depth += 1 if token[0] == b"/*" else -1
        if not depth:
            return token.end()
    return len(text)
