"""The ledger of a dump: rows and digests of tables, sequence values, large objects, whatever the blocks and encodings."""

from __future__ import annotations

import random
import tracemalloc

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from polyladder_ops.postgres import contents as module
from polyladder_ops.postgres.contents import (
    Contents,
    LargeObject,
    Ledger,
    RowDigest,
    SequenceValue,
    TableData,
    decode,
)
from polyladder_ops.postgres.lexer import DumpError, Lexer
from tests.dumps import blocks, dump

MADE = b"CREATE TABLE public.decks (\n    id bigint\n);"
ROOT = b"-- load via partition root public.events\n"


def rows(table: bytes, columns: bytes, *lines: bytes) -> bytes:
    return b"COPY %b %b FROM stdin;\n" % (table, columns) + b"".join(line + b"\n" for line in lines) + b"\\."


def contents(*pieces: bytes, size: int = 1 << 20) -> Contents:
    ledger = Ledger()
    lexer = Lexer(ledger)
    for block in blocks(dump(*pieces), size):
        lexer.feed(block)
    lexer.close()
    return ledger.contents


def only(found: Contents) -> TableData:
    (table,) = found.tables
    return table


def test_a_table_has_the_digest_of_its_rows_as_copy_writes_them() -> None:
    table = only(contents(MADE, rows(b"public.decks", b"(id, title)", b"1\ta", b"2\t\\N")))
    text = b"1\ta\n2\t\\N\n"
    assert table == TableData("public.decks", "(id, title)", 2, len(text), xxhash.xxh3_128_hexdigest(text))


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_the_size_of_the_blocks_does_not_matter(size: int) -> None:
    pieces = (
        MADE,
        rows(b"public.decks", b"(id)", *(b"%d" % n for n in range(50))),
        ROOT + rows(b"public.events", b"(id, at)", b"1\ta", b"2\tb"),
        ROOT + rows(b"public.events", b"(at, id)", b"c\t3"),
        b"SELECT pg_catalog.lo_open('7', 131072);\nSELECT pg_catalog.lowrite(0, '\\x00ff');\nSELECT pg_catalog.lo_close(0);",
    )
    assert contents(*pieces, size=size) == contents(*pieces)
    assert contents(*pieces).rows == 53


def test_an_empty_table_and_a_table_without_columns_are_counted() -> None:
    found = contents(
        b"CREATE TABLE a (\n);", b"CREATE TABLE b (\n);", b"COPY a  FROM stdin;\n\n\n\\.", rows(b"b", b"(x)")
    )
    assert [(table.name, table.columns, table.rows, table.size_bytes) for table in found.tables] == [
        ("a", "", 2, 2),
        ("b", "(x)", 0, 0),
    ]
    assert found.rows == 2


def test_one_changed_byte_changes_the_digest_and_so_does_the_order() -> None:
    first = only(contents(MADE, rows(b"public.decks", b"(id)", b"1", b"2")))
    assert only(contents(MADE, rows(b"public.decks", b"(id)", b"1", b"3"))).digest != first.digest
    assert only(contents(MADE, rows(b"public.decks", b"(id)", b"2", b"1"))).digest != first.digest


def test_rows_of_two_tables_do_not_mix() -> None:
    found = contents(
        MADE, b"CREATE TABLE t (\n);", rows(b"public.decks", b"(id)", b"1"), rows(b"t", b"(id)", b"1")
    )
    assert [table.name for table in found.tables] == ["public.decks", "t"]
    assert found.tables[0].digest == found.tables[1].digest


def test_two_copies_of_one_table_are_one_table() -> None:
    whole = contents(MADE, rows(b"public.decks", b"(id)", b"1", b"2"))
    assert contents(MADE, rows(b"public.decks", b"(id)", b"1"), rows(b"public.decks", b"(id)", b"2")) == whole


def test_a_table_filled_in_two_ways_is_refused() -> None:
    with pytest.raises(DumpError, match=r"fills public\.decks twice"):
        contents(MADE, rows(b"public.decks", b"(id)", b"1"), rows(b"public.decks", b"(title)", b"2"))
    with pytest.raises(DumpError, match=r"fills public\.decks twice"):
        contents(MADE, rows(b"public.decks", b"(id)", b"1"), ROOT + rows(b"public.decks", b"(id)", b"2"))


def test_rows_of_a_partition_root_count_in_any_order_and_from_any_leaf() -> None:
    one = only(
        contents(
            ROOT + rows(b"public.events", b"(id, at)", b"1\ta", b"2\tb"),
            ROOT + rows(b"public.events", b"(id, at)", b"3\tc"),
        )
    )
    other = only(
        contents(
            ROOT + rows(b"public.events", b"(id, at)", b"3\tc", b"2\tb"),
            ROOT + rows(b"public.events", b"(id, at)", b"1\ta"),
        )
    )
    assert one == other
    assert (one.order_free, one.rows, one.size_bytes) == (True, 3, 12)
    changed = only(contents(ROOT + rows(b"public.events", b"(id, at)", b"1\ta", b"2\tb", b"3\tC")))
    assert changed.digest != one.digest


def test_leaves_with_their_columns_in_another_order_are_put_in_the_first_ones_order() -> None:
    columns = b'(id, "at, (x)", "a ""b""")'
    swapped = b'("a ""b""", id, "at, (x)")'
    one = only(contents(ROOT + rows(b"e", columns, b"1\ta\tx", b"2\tb\ty")))
    other = only(contents(ROOT + rows(b"e", columns, b"1\ta\tx"), ROOT + rows(b"e", swapped, b"y\t2\tb")))
    assert one == other


def test_leaves_with_other_columns_and_rows_with_too_few_are_refused() -> None:
    with pytest.raises(DumpError, match="different columns"):
        contents(ROOT + rows(b"e", b"(a, b)", b"1\t2"), ROOT + rows(b"e", b"(a, c)", b"1\t2"))
    with pytest.raises(DumpError, match="different columns"):
        contents(ROOT + rows(b"e", b"(a, b)", b"1\t2"), ROOT + rows(b"e", b"(a, b, c)", b"1\t2\t3"))
    with pytest.raises(DumpError, match="more or fewer columns"):
        contents(ROOT + rows(b"e", b"(a, b)", b"1\t2"), ROOT + rows(b"e", b"(b, a)", b"1"))


def test_equal_rows_in_another_number_are_another_digest() -> None:
    twice = only(contents(ROOT + rows(b"e", b"(a)", b"1", b"1")))
    thrice = only(contents(ROOT + rows(b"e", b"(a)", b"1", b"1", b"1")))
    never = only(contents(ROOT + rows(b"e", b"(a)")))
    assert len({twice.digest, thrice.digest, never.digest}) == 3


def test_the_word_about_the_root_counts_for_the_next_rows_only() -> None:
    found = contents(MADE, ROOT + rows(b"public.events", b"(id)", b"1"), rows(b"public.decks", b"(id)", b"1"))
    assert [table.order_free for table in found.tables] == [True, False]
    found = contents(MADE, ROOT + b"SELECT 1;", rows(b"public.decks", b"(id)", b"1"))
    assert [table.order_free for table in found.tables] == [False]


def test_rows_of_a_table_that_an_extension_made_count_in_any_order() -> None:
    one = only(contents(rows(b"ext.settings", b"(id)", b"1", b"2")))
    assert one.order_free
    assert one == only(contents(rows(b"ext.settings", b"(id)", b"2", b"1")))


@pytest.mark.parametrize(
    "made", [b'CREATE TABLE a."b (""c" (\n);', b'CREATE UNLOGGED TABLE a."b (""c" (\n);']
)
def test_a_table_that_the_dump_makes_keeps_its_order(made: bytes) -> None:
    assert not only(contents(made, rows(b'a."b (""c"', b"(id)", b"1"))).order_free


lines = st.lists(st.binary(max_size=9).map(lambda data: data.replace(b"\n", b"")), max_size=12)


@given(lines, st.randoms(use_true_random=False), st.integers(1, 11))
@settings(deadline=None)  # a busy machine is no failure
def test_an_order_free_digest_is_that_of_the_rows_in_any_order_and_blocks(
    some: list[bytes], chance: random.Random, size: int
) -> None:
    def digest(each: list[bytes]) -> tuple[int, int, str]:
        made = RowDigest(order_free=True)
        made.begin(None)
        for block in blocks(b"".join(line + b"\n" for line in each), size):
            made.update(block)
        return made.rows, made.size_bytes, made.hexdigest()

    shuffled = list(some)
    chance.shuffle(shuffled)
    assert digest(some) == digest(shuffled)
    assert digest(some)[0] == len(some)
    assert digest([*some, b"x"])[2] != digest(some)[2]


@pytest.mark.parametrize("order_free", [True, False])
def test_a_huge_row_is_digested_as_it_comes(order_free: bool) -> None:
    block, count = b"x" * 100_000, 300
    digest = RowDigest(order_free=order_free)
    tracemalloc.start()
    for _ in range(count):
        digest.update(block)
    digest.update(b"\n")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (digest.rows, digest.size_bytes) == (1, 30_000_001)
    assert peak < 1_000_000
    text = block * count + (b"" if order_free else b"\n")
    assert digest.hexdigest() == xxhash.xxh3_128_hexdigest(text)
    assert digest.has_huge_rows


@given(st.lists(st.integers(0, 40), max_size=8), st.integers(1, 20))
def test_a_row_is_huge_by_its_own_length_however_blocks_cut_it(lengths: list[int], block: int) -> None:
    text = b"".join(b"x" * length + b"\n" for length in lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_HUGE", 20)
        digest = RowDigest(order_free=False)
        for at in range(0, len(text), block):
            digest.update(text[at : at + block])
    assert digest.has_huge_rows == any(length >= 20 for length in lengths)


def test_a_huge_row_that_is_put_in_order_is_joined_once() -> None:
    block, count = b"x" * 100_000, 300
    digest = RowDigest(order_free=True)
    digest.begin([1, 0])
    tracemalloc.start()
    digest.update(b"a\t")
    for _ in range(count):
        digest.update(block)
    digest.update(b"\nb\tc\n")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(block) * count
    expected = xxhash.xxh3_128_intdigest(block * count + b"\ta") + xxhash.xxh3_128_intdigest(b"c\tb")
    assert digest.hexdigest() == f"{expected % (1 << 128):032x}"


def test_sequences_keep_their_last_value_and_their_names_are_read_as_sql() -> None:
    found = contents(
        b"SELECT pg_catalog.setval('public.decks_id_seq', 41, true);",
        b"SELECT pg_catalog.setval('public.\"it''s ; \\odd\"', -9223372036854775808, false);",
        b"SELECT pg_catalog.setval('public.decks_id_seq', 42, true);",
    )
    assert found.sequences == (
        SequenceValue("public.decks_id_seq", 42, called=True),
        SequenceValue('public."it\'s ; \\odd"', -9223372036854775808, called=False),
    )


def test_backslashes_in_names_are_single_ones_whatever_the_server_makes_of_strings() -> None:
    off = b"SET standard_conforming_strings = off;\n"
    found = contents(off + b"SELECT pg_catalog.setval('public.\"a\\\\b\"', 1, true);")
    assert found == contents(b"SELECT pg_catalog.setval('public.\"a\\b\"', 1, true);")


def test_large_objects_are_digested_over_all_their_pieces() -> None:
    data = random.Random(1).randbytes(5000)
    pieces = [
        b"SELECT pg_catalog.lowrite(0, '\\x%b');" % data[at : at + 2048].hex().encode()
        for at in range(0, 5000, 2048)
    ]
    found = contents(
        b"BEGIN;",
        b"SELECT pg_catalog.lo_open('4294967295', 131072);",
        *pieces,
        b"SELECT pg_catalog.lo_close(0);",
        b"SELECT pg_catalog.lo_open('16400', 131072);\nSELECT pg_catalog.lo_close(0);\nCOMMIT;",
        size=100,
    )
    assert found.large_objects == (
        LargeObject(16400, 0, xxhash.xxh3_128_hexdigest(b"")),
        LargeObject(4294967295, 5000, xxhash.xxh3_128_hexdigest(data)),
    )


def test_large_objects_are_read_where_backslashes_are_doubled() -> None:
    off = b"SET standard_conforming_strings = off;\nSELECT pg_catalog.lo_open('1', 131072);\n"
    (one,) = contents(off + b"SELECT pg_catalog.lowrite(0, '\\\\x6869');").large_objects
    assert one == LargeObject(1, 2, xxhash.xxh3_128_hexdigest(b"hi"))


@pytest.mark.parametrize(
    ("piece", "words"),
    [
        (b"SELECT pg_catalog.lowrite(0, '\\x00');", "not opened"),
        (
            b"SELECT pg_catalog.lo_open('1', 131072);\nSELECT pg_catalog.lo_close(0);\nSELECT pg_catalog.lowrite(0, '\\x00');",
            "not opened",
        ),
        (
            b"SELECT pg_catalog.lo_open('1', 131072);\nSELECT pg_catalog.lo_open('1', 131072);",
            "large object 1 twice",
        ),
    ],
)
def test_large_objects_that_no_pg_dump_writes_are_refused(piece: bytes, words: str) -> None:
    with pytest.raises(DumpError, match=words):
        contents(piece)


@pytest.mark.parametrize(
    ("encoding", "name", "text"),
    [
        ("UTF8", "grün".encode(), "grün"),
        ("UTF8", b"gr\xfcn", "gr\\xfcn"),
        ("SQL_ASCII", "grün".encode(), "grün"),
        ("SQL_ASCII", b"gr\xfcn", "gr\\xfcn"),
        ("LATIN1", b"gr\xfcn", "grün"),
        ("LATIN2", b"\xb9", "š"),
        ("LATIN5", b"\xf0", "ğ"),
        ("LATIN7", b"\xd8", "Ų"),
        ("LATIN9", b"\xa4", "€"),
        ("LATIN10", b"\xaa", "Ș"),
        ("WIN1252", b"\x80", "€"),
        ("WIN866", b"\x80", "А"),  # noqa: RUF001 - it is the Cyrillic letter
        ("KOI8R", b"\xe1", "А"),  # noqa: RUF001 - the same
        ("ISO_8859_5", b"\xb0", "А"),  # noqa: RUF001 - the same
        ("EUC_JP", b"\xa4\xa2", "あ"),
        ("EUC_KR", b"\xb0\xa1", "가"),
        ("EUC_TW", b"a\xa4\xa2", "a\\xa4\\xa2"),
    ],
)
def test_names_are_read_in_the_dumps_encoding(encoding: str, name: bytes, text: str) -> None:
    assert decode(name, encoding) == text
    utf8 = dump(b"CREATE TABLE %b (\n);" % name, rows(name, b"(" + name + b")"))
    ledger = Ledger()
    Lexer(ledger).feed(utf8.replace(b"'UTF8'", f"'{encoding}'".encode()))
    found = ledger.contents
    assert (found.encoding, only(found).name, only(found).columns) == (encoding, text, f"({text})")
