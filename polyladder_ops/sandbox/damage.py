"""The accident to practise on: what a bad migration does to the sandbox's database in one evening."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyladder_ops.postgres.session import connect, translated

if TYPE_CHECKING:
    from polyladder_ops.postgres.conninfo import Target

__all__ = ["SPOILS", "break_database", "spoil"]

_MIGRATION = "1767578400000_drop-unused-translations"
# Each deed with the sentence that tells of it; {} is the number of rows it touched.
_DEEDS = (
    (
        "SELECT count(*) FROM learning.translation",
        "Dropped the table learning.translation with its {} rows.",
    ),
    ("DROP TABLE learning.translation CASCADE", ""),
    (
        "UPDATE public.users SET display_name = 'undefined', preferences = '{}' WHERE number % 3 = 0",
        "Wrote 'undefined' over the name and emptied the preferences of {} users.",
    ),
    (
        "UPDATE learning.word SET lemma = convert_from(convert_to(lemma, 'UTF8'), 'LATIN1') WHERE lemma ~ '[^ -~]'",
        "Encoded the umlauts of {} words twice.",
    ),
    ("DELETE FROM learning.review WHERE grade >= 4", "Deleted {} reviews, all the good ones."),
    (
        "UPDATE public.payment SET status = 'refunded' WHERE status = 'paid' AND reference <> ''",
        "Marked {} payments as refunded.",
    ),
    ("DROP INDEX learning.word_lemma_trgm_idx", "Dropped the index learning.word_lemma_trgm_idx."),
    (
        "SELECT setval('learning.progress_event_id_seq', 1)",
        "Set the sequence learning.progress_event_id_seq back to 1.",
    ),
    ("SELECT lo_unlink(91003)", "Deleted the large object 91003, a recording."),
    (
        f"INSERT INTO public.pgmigrations (name, run_on) VALUES ('{_MIGRATION}', '2026-01-05 02:00')",
        f"Noted the migration {_MIGRATION} as done.",
    ),
)

# The smallest things that can be wrong with a restored copy, each by one statement.
SPOILS = {
    "row": "UPDATE learning.word SET lemma = overlay(lemma placing '~' from 1 for 1) WHERE id = 7",
    "sequence": "SELECT nextval('learning.word_id_seq')",
    "grant": "REVOKE SELECT ON learning.word FROM polyladder_readonly",
    "index": "DROP INDEX learning.word_lemma_trgm_idx",
    "large-object": "SELECT lo_put(91003, 0, '\\x00')",
}


def break_database(target: Target) -> list[str]:
    """Drop a table and spoil rows in the sandbox's database; return what was done, in sentences.

    Only for a server that is known to be the sandbox: nothing is asked here. Raise OpsError if it is broken already;
    then nothing more happens.
    """
    done = []
    with connect(target) as connection, translated(f"could not break {target}"), connection.transaction():
        for statement, sentence in _DEEDS:
            cursor = connection.execute(statement.encode())
            counted = cursor.fetchone() if cursor.description else None
            number = counted[0] if counted and "count" in statement else cursor.rowcount
            done += [sentence.replace("{}", f"{number:,}")] if sentence else []
    return done


def spoil(target: Target, kind: str) -> None:
    """Change one small thing in a restored copy, so that a proof of it must fail; `kind` is one of `SPOILS`."""
    with connect(target) as connection, translated(f"could not spoil {target}"):
        connection.execute(SPOILS[kind].encode())
