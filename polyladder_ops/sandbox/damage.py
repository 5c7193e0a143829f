"""The accident to practise on: what a bad migration does to the sandbox's database in one evening."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from polyladder_ops.postgres.session import connect, translated
from polyladder_ops.sandbox import checkout

if TYPE_CHECKING:
    from polyladder_ops.postgres.conninfo import Target

__all__ = ["SPOILS", "break_database", "spoil"]

_DEED = re.compile(r"^(?:-- deed: (.*)\n)?(\w.*);$", re.MULTILINE)
_NOTE = "INSERT INTO public.pgmigrations (name, run_on) VALUES (%s, '2026-01-05 02:00')"

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
        # Each deed with the sentence that tells of it; {} is the number of rows it touched.
        for sentence, statement in _DEED.findall(checkout.bad_migration()):
            cursor = connection.execute(statement.encode())
            counted = cursor.fetchone() if cursor.description else None
            number = counted[0] if counted and "count" in statement else cursor.rowcount
            done += [sentence.replace("{}", f"{number:,}")] if sentence else []
        connection.execute(_NOTE, [checkout.BAD])
    return [*done, f"Noted the migration {checkout.BAD} as done."]


def spoil(target: Target, kind: str) -> None:
    """Change one small thing in a restored copy, so that a proof of it must fail; `kind` is one of `SPOILS`."""
    with connect(target) as connection, translated(f"could not spoil {target}"):
        connection.execute(SPOILS[kind].encode())
