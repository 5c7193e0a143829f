"""What node-pg-migrate will run of a migration's file, and what of that is worth a look before it runs.

Version 8 cuts a file of SQL at the first comment that its own regular expression takes for a marker (`sqlMigration.js`): without
an up marker all of it runs upwards, the down part too, and a remark such as ``-- Down migration is impossible`` ends the up part.
What is said here is for people's eyes: a file in TypeScript is a program, of which only words are seen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyladder_ops.app import reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["File", "Parts", "Remark", "is_reversible", "ordered", "parts", "remarks"]

# JavaScript's \s and ^ (with the flag m), letter for letter.
_BLANK = r"[\t-\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]"
_BLANK_OR_DASH = _BLANK.replace("[", "[-", 1)
_LINE = r"(?:\A|(?<=[\n\r\u2028\u2029]))"


def _marker(direction: str) -> re.Pattern[str]:
    return re.compile(
        rf"{_LINE}{_BLANK}*--{_BLANK_OR_DASH}*{direction}{_BLANK}+migration", re.IGNORECASE | re.ASCII
    )


_UP, _DOWN = _marker("up"), _marker("down")
_CLEAN = re.compile(r"\s*--[\s-]*(?:up|down)\s+migration[\s-]*", re.IGNORECASE)
_STAMP = re.compile(r"[0-9]+")
_ENDS, _LEAVES = _HALVING = (
    "ends or begins a transaction: if something fails, half of it stays",
    "leaves the transaction: if something fails, half of it stays",
)
_DROPS, _EVERY_ROW, _DELETES, _WRITES_OVER, _RETYPES, _SETS_BACK, _INSTEAD, _ELSEWHERE = _LOSING = (
    "drops or empties",
    "touches every row",
    "deletes rows",
    "writes over rows",
    "rewrites a column",
    "sets a sequence",
    "does something else than a later statement says",
    "acts on another database",
)


@dataclass(frozen=True)
class File:
    """A migration's file; its name is what the table `pgmigrations` notes."""

    path: Path

    @property
    def name(self) -> str:
        """The file's name without its last extension."""
        return self.path.stem

    @property
    def is_sql(self) -> bool:
        """Whether it is SQL and no program."""
        return self.path.suffix == ".sql"

    def text(self) -> str:
        """Return what is in it. Raise OpsError if it can't be read."""
        return reading.text(self.path)


@dataclass(frozen=True)
class Parts:
    """What runs upwards and downwards (None: nothing can), and where the up part begins in the file."""

    up: str
    down: str | None
    start: int = 0


@dataclass(frozen=True)
class Remark:
    """Something worth a look in a file, at a line; `beyond`: it reaches outside the database that is migrated.

    `loses`: what is in the database now may be lost by it, as far as the words tell. `halves`: if the file fails, half of what
    it did may stay.
    """

    line: int
    said: str
    beyond: bool = False
    loses: bool = False
    halves: bool = False


def ordered(files: list[File]) -> tuple[File, ...]:
    """Return the files as node-pg-migrate orders them: by the number in front (13 or 17 digits), then by name."""
    return tuple(
        sorted(
            files,
            key=lambda file: (_instant(file.name), [_natural(p) for p in re.split(r"(\d+)", file.name)]),
        )
    )


def _natural(piece: str) -> tuple[int, int | str]:
    return (0, int(piece)) if piece.isdecimal() else (1, re.sub(r"[\W_]", "", piece).lower())


def _instant(name: str) -> int:
    """Return milliseconds since 1970 of the number before the first underscore, 0 if there is none."""
    prefix = name.partition("_")[0]
    if not _STAMP.fullmatch(prefix):
        return 0
    if len(prefix) != 17:
        return int(prefix)
    from datetime import UTC, datetime

    try:
        return round(
            datetime.strptime(prefix + "000", "%Y%m%d%H%M%S%f").replace(tzinfo=UTC).timestamp() * 1000
        )
    except ValueError:
        return 0


def parts(text: str) -> Parts:
    """Return what of a file of SQL runs upwards and what downwards, cut exactly as node-pg-migrate 8 does."""
    up, down = (found.start() if (found := marker.search(text)) else -1 for marker in (_UP, _DOWN))
    upward = text[up : None if down < up else down] if up >= 0 else text
    downward = text[down : None if up < down else up] if down >= 0 else None
    return Parts(upward, downward, max(up, 0))


def is_reversible(file: File) -> bool:
    """Whether a file can be taken back, as far as its text tells."""
    if file.is_sql:
        return any(_statements(parts(file.text()).down or ""))
    return re.search(r"\bdown\s*=\s*false\b", file.text()) is None


def remarks(file: File, databases: Sequence[str], *, down: bool = False) -> tuple[Remark, ...]:
    """Return what is worth a look before the file runs; `databases` are names that it should not say; `down`: of its way back."""
    text = file.text()
    named = rf"(?:{'|'.join(map(re.escape, databases))})"
    if not file.is_sql:
        return tuple(_in_a_program(text, named))
    cut = parts(text)
    way = (cut.down or "") if down else cut.up
    first = text[: text.index(way) if way else 0].count("\n") + 1
    return (*_of_markers(text), *_of_statements(way, first, named))


# Markers --------------------------------------------------------------------------------------------------------------


def _of_markers(text: str) -> Iterator[Remark]:
    ups, downs = list(_UP.finditer(text)), list(_DOWN.finditer(text))
    if downs and not ups:
        yield Remark(
            _line(text, downs[0]), "no up marker: all of the file runs, what stands below this line too"
        )
    for found in (*ups, *downs):
        whole = text[found.start() :].lstrip().splitlines()[0]
        if not _CLEAN.fullmatch(whole):
            yield Remark(
                _line(text, found), f"a remark that counts as a marker; the file is cut here: {whole[:60]}"
            )
    for again in (*ups[1:], *downs[1:]):
        yield Remark(_line(text, again), "a marker again; only the first of its kind counts")
    first = min((found.start() for found in (*ups, *downs)), default=0)
    if ups and any(_statements(text[:first])):
        yield Remark(1, "what stands above the first marker does not run")


def _line(text: str, found: re.Match[str]) -> int:
    blank = len(found[0]) - len(found[0].lstrip())
    return text.count("\n", 0, found.start() + blank) + 1


# Statements -----------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"--[^\r\n]*|/\*.*?(?:\*/|\Z)|[eE]'(?:[^'\\]|''|\\.)*(?:'|\Z)|'(?:[^']|'')*(?:'|\Z)|\"(?:[^\"]|\"\")*(?:\"|\Z)"
    r"|\$(?P<tag>\w*)\$(?P<body>.*?)(?:\$(?P=tag)\$|\Z)|;",
    re.DOTALL,
)
_NAME = r'(?:"(?:[^"]|"")+"|[\w$]+)'
_ROLES = r"(?:CREATE|ALTER|DROP)\s+(?:ROLE|GROUP|USER(?!\s+MAPPING))\b|(?:REASSIGN|DROP)\s+OWNED\b"
_DATABASES = (
    r"(?:CREATE|ALTER|DROP)\s+(?:DATABASE|TABLESPACE|SUBSCRIPTION)\b|ALTER\s+SYSTEM\b|\\c(?:onnect)?\b"
)
# To text no value is lost on the way, unless an expression is in between.
_NEW_TYPE = (
    rf"\bALTER\s+(?:COLUMN\s+|ATTRIBUTE\s+)?{_NAME}\s+(?:SET\s+DATA\s+)?TYPE\s++"
    r"(?!(?:text|varchar|character\s+varying)(?:\s*\(\s*\d+\s*\))?\s*(?:[,;'\"`]|\Z))"
)
# Each kind of statement by how it begins, with what is said of it; the first that fits is said.
_STATEMENTS = tuple(
    (re.compile(pattern, re.IGNORECASE), said, beyond)
    for pattern, said, beyond in (
        (rf"{_ROLES}|(?:GRANT|REVOKE)(?!.*\bON\b)", "changes roles, which all databases of the server share", True),
        (r"(?:SET|RESET)\s+(?:LOCAL\s+|SESSION\s+)?(?:ROLE|SESSION\s+AUTHORIZATION)\b", "acts as another role", True),
        (rf"{_DATABASES}|(?:COMMENT|SECURITY\s+LABEL\b.*)\s+ON\s+DATABASE\b|(?:GRANT|REVOKE)\b.*\bON\s+DATABASE\b", "names a database", True),
        (r"(?:BEGIN|START\s+TRANSACTION|COMMIT|END|ROLLBACK(?!\s+TO)|ABORT|PREPARE\s+TRANSACTION)\b", _ENDS, False),
        (r"(?:CREATE|DROP|REINDEX)\b.*\bCONCURRENTLY\b|VACUUM\b", "can't run in a transaction, and node-pg-migrate makes one around it", False),
        (rf"DROP\s+(?!(?:INDEX|TRIGGER|POLICY|RULE)\b)\w+|TRUNCATE\b|ALTER\s+(?:FOREIGN\s+)?TABLE\b.*\bDROP\s+(?:COLUMN\b|(?!(?:CONSTRAINT|DEFAULT|NOT\s+NULL|IDENTITY|EXPRESSION)\b){_NAME})|SELECT\b.*\blo_unlink\b", _DROPS, False),
        (r"ALTER\s+TYPE\b.*\bDROP\s+ATTRIBUTE\b|ALTER\s+(?:FOREIGN\s+)?TABLE\b.*\bDETACH\s+PARTITION\b", _DROPS, False),
        (rf"ALTER\s+(?:FOREIGN\s+TABLE|TABLE|TYPE)\b.*{_NEW_TYPE}", _RETYPES, False),
        (r"(?!CREATE\b).*\bsetval\"?\s*\(|ALTER\s+(?:SEQUENCE|TABLE)\b.*\bRESTART\b", _SETS_BACK, False),
        (r"CREATE\s+(?:OR\s+REPLACE\s+)?RULE\b.*\bDO\s+(?:INSTEAD\b|.*\b(?:DELETE\s+FROM|UPDATE)\b)", _INSTEAD, False),
        (r"(?!CREATE\b).*\bdblink_(?:exec|send_query)\"?\s*\(", _ELSEWHERE, True),
    )
)  # fmt: skip
# The same of what changes rows: of the statement itself and of what a WITH has before it, each without what its brackets hold.
_CLAUSES = tuple(
    (re.compile(pattern, re.IGNORECASE), said, False)
    for pattern, said in (
        (r"(?:DELETE\s+FROM\b|UPDATE\b(?=.*\bSET\b))(?!.*\bWHERE\b)", _EVERY_ROW),
        (r"DELETE\s+FROM\b|MERGE\b.*\bTHEN\s+DELETE\b", _DELETES),
        (r"MERGE\b.*\bTHEN\s+UPDATE\b|INSERT\s+INTO\b.*\bON\s+CONFLICT\b.*\bDO\s+UPDATE\b", _WRITES_OVER),
    )
)
_BEFORE_ITS_VERB = re.compile(r"(?:WITH|EXPLAIN|PREPARE)\b", re.IGNORECASE)
_VERB = re.compile(r"\b(?:DELETE\s+FROM|UPDATE|MERGE\s+INTO|INSERT\s+INTO|SELECT|VALUES)\b", re.IGNORECASE)
_IN_BRACKETS = re.compile(r"\s*(?:DELETE\s+FROM|UPDATE|MERGE\s+INTO|INSERT\s+INTO)\b", re.IGNORECASE)
_WORDS_OF_A_BODY = 60  # `DO LANGUAGE …`, and what stands before the body of a function, is no longer
_NO_COLUMN = r"CONSTRAINT|DEFAULT|NOT\s+NULL|IDENTITY|EXPRESSION|INDEX|TRIGGER|POLICY|RULE"
_GONE = r"TABLE|COLUMN|SCHEMA|TYPE|OWNED|VIEW|MATERIALIZED\s+VIEW|SEQUENCE|EXTENSION|FOREIGN\s+TABLE|DOMAIN|ATTRIBUTE|SERVER"
_CODE = (
    (re.compile(_ROLES + r"|\b(?:create|alter|drop|rename)Role\b|\bgrantRoles\b", re.IGNORECASE), "changes roles, which all databases of the server share", True),
    (re.compile(_DATABASES, re.IGNORECASE), "names a database", True),
    (re.compile(r"\bnoTransaction\b|\bCOMMIT\s*[;'\"`]", re.IGNORECASE), _LEAVES, False),
    (re.compile(r"\bdrop(?:Table|Column|Schema|Type|TypeAttribute|Sequence|View|MaterializedView|Extension|Domain)s?\b"
                rf"|\bDROP\s+(?:{_GONE})\b|\bTRUNCATE\b|\blo_unlink\b|\bDETACH\s+PARTITION\b"
                rf"|\bALTER\s+(?:FOREIGN\s+)?TABLE\b[^;`]{{0,300}}?\bDROP\s+(?!(?:{_NO_COLUMN})\b){_NAME}", re.IGNORECASE), _DROPS, False),
    (re.compile(rf"\bUPDATE\s+(?:ONLY\s+)?{_NAME}(?:\s*\.\s*{_NAME})?(?:\s+(?:AS\s+)?{_NAME})?\s+SET\b(?![^;`]*\bWHERE\b)", re.IGNORECASE), _EVERY_ROW, False),
    (re.compile(r"\bDELETE\s+FROM\b|\bTHEN\s+DELETE\b", re.IGNORECASE), _DELETES, False),
    (re.compile(r"\bTHEN\s+UPDATE\b|\bON\s+CONFLICT\b[^;`]{0,300}?\bDO\s+UPDATE\b", re.IGNORECASE), _WRITES_OVER, False),
    (re.compile(rf"{_NEW_TYPE}|\balterColumn\b[^;]{{0,300}}?(?:\btype['\"]?\s*:\s*+(?!['\"`](?:text|varchar(?:\(\d+\))?)['\"`])|\busing['\"]?\s*:)|\bsetTypeAttribute\b", re.IGNORECASE), _RETYPES, False),
    (re.compile(r"\bsetval\b\"?\s*\(|\bRESTART\s+(?:IDENTITY|WITH|\d)|\bALTER\s+SEQUENCE\b[^;`]{0,300}?\bRESTART\b"
                r"|\balterSequence\b[^;]{0,300}?\brestart\b", re.IGNORECASE), _SETS_BACK, False),
    (re.compile(r"\bCREATE\s+(?:OR\s+REPLACE\s+)?RULE\b[^;`]{0,300}?\bDO\s+INSTEAD\b", re.IGNORECASE), _INSTEAD, False),
    (re.compile(r"\bdblink_(?:exec|send_query)\b\"?\s*\(", re.IGNORECASE), _ELSEWHERE, True),
)  # fmt: skip


_NAMED = ("names this database", True)
# A role may have the database's name.
_ROLE_NAMED = re.compile(r"\b(?:TO|FROM|AUTHORIZATION|FOR\s+ROLE)\s+[\w$]+", re.IGNORECASE)


def _statements(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield each statement's offset, its words without comments and literals, and the bodies that it quotes."""
    bones, bodies, start, at = "", "", 0, 0
    for token in _TOKEN.finditer(text):
        bones += text[at : token.start()]
        at = token.end()
        if token[0] == ";":
            if bones.strip():
                yield start, bones.strip(), bodies
            bones, bodies, start = "", "", at
        elif token[0].startswith('"'):
            bones += token[0]
        elif token["body"] is not None:
            bodies += token["body"]
            bones += " '' "
        elif "'" in token[0][:2]:
            bodies += (
                token[0].partition("'")[2].removesuffix("'").replace("''", "'") + "\n"
                if _is_before_a_body(bones)
                else ""
            )
            bones += " '' "
        else:
            bones += " "
        if not bones.strip():
            start = at
    if (bones + text[at:]).strip():
        yield start, (bones + text[at:]).strip(), bodies


def _is_before_a_body(bones: str) -> bool:
    """Whether a literal that comes now is a program: of DO, or of a function or procedure."""
    end = bones[-_WORDS_OF_A_BODY:].strip()
    if re.fullmatch(r"DO(?:\s+LANGUAGE\s+\S+)?", end, re.IGNORECASE):
        return True
    return bool(
        re.match(r"\s*CREATE\b", bones[:_WORDS_OF_A_BODY], re.IGNORECASE)
        and re.search(r"\bAS$", end, re.IGNORECASE)
    )


def _clauses(flat: str) -> Iterator[str]:
    """Yield the statement, and what of it in brackets changes rows, each from its verb on and without what its own brackets hold."""
    open_, inside = [""], []
    for piece in re.split(r"([()])", flat):
        if piece == "(":
            open_.append("")
        elif piece == ")" and len(open_) > 1:
            inside.append(open_.pop())
            open_[-1] += "()"
        else:
            open_[-1] += piece
    whole = open_[0]
    found = _VERB.search(whole) if _BEFORE_ITS_VERB.match(whole) else None
    yield whole[found.start() :] if found else whole
    yield from (each.lstrip() for each in inside if _IN_BRACKETS.match(each))


def _kinds(flat: str) -> list[tuple[str, bool]]:
    """Return what is to be said of a statement, and whether that reaches beyond the database; the first counts most."""
    whole = [(said, beyond) for kind, said, beyond in _STATEMENTS if kind.match(flat)]
    clauses = list(_clauses(flat))
    return whole + [
        (said, beyond) for kind, said, beyond in _CLAUSES if any(kind.match(clause) for clause in clauses)
    ]


def _of_statements(text: str, first_line: int, named: str) -> Iterator[Remark]:
    is_named = re.compile(rf"(?<![\w.$]){named}(?![\w.$])")
    for offset, bones, bodies in _statements(text):
        blank = len(text[offset:]) - len(text[offset:].lstrip())
        line = first_line + text.count("\n", 0, offset + blank)
        fitting = _kinds(_flat(bones))
        found = fitting[0] if fitting else None
        if found is None and is_named.search(_ROLE_NAMED.sub(" ", bones.replace('"', " "))):
            found = _NAMED
        if found:
            yield Remark(
                line,
                f"{found[0]}: {_flat(bones)[:60]}",
                found[1],
                any(said in _LOSING for said, _ in fitting),
                any(said in _HALVING for said, _ in fitting),
            )
        yield from (
            Remark(line, f"in a body: {r.said}", r.beyond, r.loses, r.halves)
            for r in _in_a_program(bodies, named)
        )


def _flat(text: str) -> str:
    return " ".join(text.split())


def _in_a_program(text: str, named: str) -> Iterator[Remark]:
    for kind, said, beyond in _CODE:
        if found := kind.search(text):
            yield Remark(
                text.count("\n", 0, found.start()) + 1,
                f"{said}: {_flat(found[0])}",
                beyond,
                said in _LOSING,
                said in _HALVING,
            )
    if found := re.search(rf"['\"`\s]{named}['\"`;]", text):
        yield Remark(text.count("\n", 0, found.start() + 1) + 1, *_NAMED)
