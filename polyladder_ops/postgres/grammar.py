r"""What pg_dump writes, as regular expressions over the bones of a statement (`skeleton`): the table behind `forms`."""

from __future__ import annotations

import re

__all__ = ["LONG", "forms_like", "head"]

_HEAD = re.compile(rb"[A-Z]++(?: [A-Z]++)*+")
_FIRST_WORDS = re.compile(
    rb"([A-Z]+)(?: (?:OR REPLACE |UNIQUE |UNLOGGED |CONSTRAINT |DEFAULT |TRUSTED |PROCEDURAL )*+([A-Z]+))?"
)


def _things(after_kind: str) -> str:
    """Return what is commented, labelled, given away and dropped, with something between its kind and its name."""
    return (
        f"(?:{{PLAIN}} {after_kind}{{Q}}|(?:AGGREGATE|FUNCTION|PROCEDURE) {after_kind}{{Q}} ?{{GROUP}}"
        f"|OPERATOR {after_kind}{{OP}} {{GROUP}}|OPERATOR (?:CLASS|FAMILY) {after_kind}{{Q}} USING {{N}}"
        f"|CAST {after_kind}{{GROUP}}|TRANSFORM {after_kind}FOR {{TYPE}} LANGUAGE {{N}}"
        f"|CONSTRAINT {{N}} ON (?:DOMAIN )?{{Q}}|(?:TRIGGER|RULE|POLICY) {after_kind}{{N}} ON {{Q}}"
        f"|LARGE OBJECT \\d++|USER MAPPING {after_kind}FOR {{ROLE}} SERVER {{N}})"
    )


_PIECES: dict[str, str] = {
    # Words. Keywords are in capitals, names without quotes are not.
    "N": r"""(?:[a-z_][a-z0-9_]*+|")""",
    "Q": r"(?:{N}(?:\.{N})*+)",
    "OP": r"(?:(?:{N}\.)*+[-+*/<>=~!@#%^&|`?]++)",
    "INT": r"-?\d++",
    "NUMBER": r"[-+]?[\d.][\d.e+-]*+",
    "TYPE": r"(?:SETOF )?{N}(?:\.{N})?(?: ?\(-?\d+(?:, ?-?\d+)?\))?(?: [a-z]++(?:\(\d+\))?)*+(?:\[\])*+",
    "ROLE": r"(?:{N}|PUBLIC|CURRENT_USER|SESSION_USER)",
    # A pair of parentheses with anything in it, and expressions; neither holds a semicolon.
    "GROUP": r"\([^();]*+\)",
    "EXPR": r"(?:[^;,()\[\]]++|\([^();]*+\)|\[[^\[\];]*+\])++",  # one, without a comma outside of parentheses
    "ANY": r"(?:[^;()\[\]]++|\([^();]*+\)|\[[^\[\];]*+\])++",
    # Values that are nothing but values.
    "LITERAL": r"(?:[BX]?'|{NUMBER}|NULL|true|false)",
    "LITERALS": r"{LITERAL}(?:, ?{LITERAL})*+",
    "SETTING": r"(?:'|{NUMBER}|{N}|DEFAULT)(?:, ?(?:'|{NUMBER}|{N}))*+",
    "OPTIONS": r"(?: OPTIONS {GROUP})?",
    "IF": r"(?:IF EXISTS )?",
    "BOUND": r"(?:DEFAULT|FOR VALUES (?:IN \({LITERALS}\)|FROM \({EDGE}(?:, ?{EDGE})*+\) TO \({EDGE}(?:, ?{EDGE})*+\)"
    r"|WITH \((?i:modulus) \d++, ?(?i:remainder) \d++\)))",
    "EDGE": r"(?:{LITERAL}|MINVALUE|MAXVALUE|UNBOUNDED)",
    "PLAIN": r"(?:(?:FOREIGN )?TABLE|(?:MATERIALIZED )?VIEW|INDEX|SEQUENCE|STATISTICS|ACCESS METHOD|COLLATION|CONVERSION|DOMAIN"
    r"|EVENT TRIGGER|EXTENSION|FOREIGN DATA WRAPPER|(?:PROCEDURAL )?LANGUAGE|PUBLICATION|SCHEMA|SERVER|SUBSCRIPTION|TYPE"
    r"|TEXT SEARCH (?:CONFIGURATION|DICTIONARY|PARSER|TEMPLATE)|COLUMN)",
    "THING": _things(""),
    "DROPPED": _things("{IF}"),
    "PRIVILEGE": r"[A-Z]+(?: [A-Z]+)*(?:\({N}(?:, ?{N})*+\))?",
    "PRIVILEGES": r"{PRIVILEGE}(?:, ?{PRIVILEGE})*",
    "GRANTED": r"(?:(?:TABLE|SEQUENCE|SCHEMA|TYPE|DOMAIN|(?:PROCEDURAL )?LANGUAGE|FOREIGN DATA WRAPPER|FOREIGN SERVER) {Q}"
    r"|(?:FUNCTION|PROCEDURE) {Q} ?{GROUP}|LARGE OBJECT \d++)",
    "GRANTEES": r"(?:TO|FROM) {ROLE}(?:, ?{ROLE})*+(?: WITH GRANT OPTION)?(?: GRANTED BY {ROLE})?",
    # Parts of tables.
    "DEFERRABLE": r"(?: (?:NOT )?DEFERRABLE)?(?: INITIALLY (?:DEFERRED|IMMEDIATE))?",
    "ACTION": r"(?:NO ACTION|RESTRICT|CASCADE|SET NULL|SET DEFAULT)(?: \({N}(?:, ?{N})*+\))?",
    "CHECK": r"CHECK {GROUP}(?: NO INHERIT)?(?: NOT VALID)?(?: NOT ENFORCED)?",
    "CONSTRAINT": r"(?:(?:PRIMARY KEY|UNIQUE)(?: NULLS NOT DISTINCT)? {GROUP}(?: INCLUDE {GROUP})?(?: WITH {GROUP})?"
    r"(?: USING INDEX TABLESPACE {N})?{DEFERRABLE}"
    r"|FOREIGN KEY {GROUP} REFERENCES {Q} ?(?:{GROUP})?(?: MATCH FULL)?(?: ON UPDATE {ACTION})?(?: ON DELETE {ACTION})?"
    r"{DEFERRABLE}(?: NOT VALID)?(?: NOT ENFORCED)?"
    r"|{CHECK}|EXCLUDE USING {N} {GROUP}(?: INCLUDE {GROUP})?(?: WITH {GROUP})?(?: USING INDEX TABLESPACE {N})?"
    r"(?: WHERE {GROUP})?{DEFERRABLE}|NOT NULL {N}(?: NO INHERIT)?(?: NOT VALID)?)",
    "OF_COLUMN": r"ALTER (?:COLUMN )?{N} (?:SET DEFAULT {EXPR}|DROP DEFAULT|(?:SET|DROP) NOT NULL|SET STATISTICS {INT}"
    r"|SET STORAGE [A-Z]+|SET COMPRESSION [a-z0-9]+|SET {GROUP}|OPTIONS {GROUP}|DROP IDENTITY(?: IF EXISTS)?"
    r"|ADD GENERATED (?:ALWAYS|BY DEFAULT) AS IDENTITY \(SEQUENCE NAME {Q}(?: (?:UNLOGGED|LOGGED))? {COUNTS}\))",
    "COUNTS": r"START WITH {INT} INCREMENT BY {INT} (?:NO MINVALUE|MINVALUE {INT}) (?:NO MAXVALUE|MAXVALUE {INT})"
    r" CACHE {INT}(?: (?:NO )?CYCLE)?",
    "OF_TABLE": r"(?:ADD CONSTRAINT {N} {CONSTRAINT}|DROP CONSTRAINT {IF}{N}|{OF_COLUMN}|ATTACH PARTITION {Q} {BOUND}"
    r"|DETACH PARTITION {Q}|CLUSTER ON {N}|(?:ENABLE|DISABLE|FORCE|NO FORCE) ROW LEVEL SECURITY"
    r"|REPLICA IDENTITY (?:DEFAULT|FULL|NOTHING|USING INDEX {N})|INHERIT {Q}|SET ACCESS METHOD {N}"
    r"|(?:ENABLE|DISABLE)(?: ALWAYS| REPLICA)? (?:TRIGGER|RULE) (?:{N}|ALL))",
    "RELATION": r"(?:TABLE|FOREIGN TABLE|VIEW|MATERIALIZED VIEW|SEQUENCE|INDEX)",
    "AFTER_COLUMNS": r"(?: INHERITS \({Q}(?:, ?{Q})*+\))?(?: {BOUND})?(?: PARTITION BY (?:RANGE|LIST|HASH) {GROUP})?"
    r"(?: USING {N})?(?: WITH {GROUP})?(?: TABLESPACE {N})?",
    # Parts of code.
    "ATTRIBUTE": r"(?: (?:WINDOW|IMMUTABLE|STABLE|VOLATILE|STRICT|CALLED ON NULL INPUT|SECURITY DEFINER|(?:NOT )?LEAKPROOF"
    r"|COST {NUMBER}|ROWS {NUMBER}|SUPPORT {Q}|PARALLEL (?:SAFE|RESTRICTED|UNSAFE)|SET {Q} (?:TO|=) {SETTING}))*+",
    "BODY": r"(?:AS '(?:, ')?|(?P<body>RETURN {EXPR}|BEGIN ATOMIC (?:(?!(?i:end)\b){ANY}; ?)*+END))",
    "EVENT": r"(?:INSERT|DELETE|TRUNCATE|UPDATE(?: OF {N}(?:, ?{N})*+)?)",
    "MEMBERS": r"{MEMBER}(?: ?, ?{MEMBER})*+",
    "MEMBER": r"(?:STORAGE {TYPE}|OPERATOR \d++ {OP} ?{GROUP}(?: FOR (?:SEARCH|ORDER BY {Q}))?"
    r"|FUNCTION \d++ {GROUP} {Q} ?{GROUP})",
    "ROUTINE": r"(?:{Q}|-)",
    "AGGREGATED": r"(?:[A-Za-z_]+ = [^,;()]++|M?FINALFUNC_EXTRA|HYPOTHETICAL)",
    "KNOWN": r"{N} = (?:'|{Q}|{NUMBER})",
    "PART": r"(?:[A-Za-z_]+ = [^,';()]++|HASHES|MERGES)",
}


def _pattern(text: str) -> re.Pattern[bytes]:
    """Return a form with its pieces put in, and those with theirs."""
    while (whole := re.sub(r"\{([A-Z_]+)\}", lambda piece: _PIECES[piece[1]], text)) != text:
        text = whole
    return re.compile(text.encode())


# By the words that begin it, without such as OR REPLACE, and by name.
_FORMS: tuple[tuple[str, str, str], ...] = (
    ("BEGIN|COMMIT", "begin", "BEGIN|COMMIT"),
    (
        "SET",
        "set",
        (
            "SET (?:statement_timeout|lock_timeout|idle_in_transaction_session_timeout|transaction_timeout|client_encoding"
            "|standard_conforming_strings|escape_string_warning|check_function_bodies|xmloption|client_min_messages|row_security"
            "|search_path|default_tablespace|default_table_access_method|default_with_oids|default_toast_compression)"
            " (?:=|TO) {SETTING}"
        ),
    ),
    (
        "SET SESSION|RESET SESSION",
        "set session authorization",
        "SET SESSION AUTHORIZATION (?:'|{N}|DEFAULT)|RESET SESSION AUTHORIZATION",
    ),
    ("CREATE SCHEMA", "create schema", "CREATE SCHEMA {N}(?: AUTHORIZATION {N})?"),
    (
        "CREATE EXTENSION",
        "create extension",
        "CREATE EXTENSION (?:IF NOT EXISTS )?{N}(?: (?:WITH )?SCHEMA {N})?",
    ),
    (
        "CREATE TABLE",
        "create table",
        "CREATE (?:UNLOGGED )?TABLE {Q}(?: OF {Q})?(?: {GROUP})?{AFTER_COLUMNS}",
    ),
    (
        "CREATE TABLE",
        "create table",
        "CREATE (?:UNLOGGED )?TABLE {Q} PARTITION OF {Q}(?: {GROUP})? {BOUND}{AFTER_COLUMNS}",
    ),
    (
        "CREATE FOREIGN",
        "create foreign table",
        (
            "CREATE FOREIGN TABLE {Q}(?P<parent> PARTITION OF {Q})? ?(?P<free>{GROUP})?(?: INHERITS \\({Q}(?:, ?{Q})*+\\))?(?: {BOUND})?"
            " SERVER {N}{OPTIONS}"
        ),
    ),
    (
        "CREATE SEQUENCE",
        "create sequence",
        (
            "CREATE (?:UNLOGGED )?SEQUENCE {Q}(?: AS {TYPE})?(?: START WITH {INT})?(?: INCREMENT BY {INT})?"
            "(?: (?:NO MINVALUE|MINVALUE {INT}))?(?: (?:NO MAXVALUE|MAXVALUE {INT}))?(?: CACHE {INT})?(?: CYCLE)?"
        ),
    ),
    ("CREATE VIEW", "create view", "CREATE (?:OR REPLACE )?VIEW {Q}(?: WITH {GROUP})? AS {ANY}"),
    (
        "CREATE MATERIALIZED",
        "create materialized view",
        (
            "CREATE MATERIALIZED VIEW {Q}(?: USING {N})?(?: WITH {GROUP})?(?: TABLESPACE {N})? AS "
            "(?:[^;()\\[\\]]|\\([^();]*+\\)|\\[[^\\[\\];]*+\\])++(?<= WITH NO DATA)"
        ),
    ),
    ("REFRESH MATERIALIZED", "refresh materialized view", "REFRESH MATERIALIZED VIEW {Q}"),
    (
        "CREATE INDEX",
        "create index",
        (
            "CREATE (?:UNIQUE )?INDEX {N} ON (?:ONLY )?{Q} USING {N} {GROUP}(?: INCLUDE {GROUP})?(?: NULLS NOT DISTINCT)?"
            "(?: WITH {GROUP})?(?: TABLESPACE {N})?(?: WHERE {EXPR})?"
        ),
    ),
    (
        "CREATE STATISTICS",
        "create statistics",
        "CREATE STATISTICS {Q}(?: \\([a-z]+(?:, ?[a-z]+)*\\))? ON {ANY}",
    ),
    (
        "CREATE FUNCTION|CREATE PROCEDURE",
        "create function",
        (
            "CREATE (?:OR REPLACE )?(?:FUNCTION|PROCEDURE) {Q} ?(?P<arguments>{GROUP})(?: RETURNS (?:TABLE ?{GROUP}|{TYPE}))?"
            " LANGUAGE (?P<language>{N})(?: TRANSFORM FOR TYPE {TYPE}(?:, ?FOR TYPE {TYPE})*)?{ATTRIBUTE} {BODY}"
        ),
    ),
    (
        "CREATE AGGREGATE",
        "create aggregate",
        (
            "CREATE AGGREGATE {Q} ?(?P<arguments>{GROUP}) \\((?:(?=[^()]*\\b(?P<initial>(?i:m?initcond)) =))?"
            "{AGGREGATED}(?:, ?{AGGREGATED})*+\\)"
        ),
    ),
    ("CREATE TYPE", "create shell type", "CREATE TYPE {Q}"),
    ("CREATE TYPE", "create enum type", "CREATE TYPE {Q} AS ENUM \\((?:'(?:, ?')*+)?\\)"),
    ("CREATE TYPE", "create composite type", "CREATE TYPE {Q} AS \\([^();']*+\\)"),
    (
        "CREATE TYPE",
        "create range type",
        "CREATE TYPE {Q} AS RANGE \\((?:(?=[^()]*(?P<canonical>canonical = )))?[^();']*+\\)",
    ),
    ("CREATE TYPE", "create base type", "CREATE TYPE {Q} \\([^();]*+\\)"),
    ("CREATE DOMAIN", "create domain", "CREATE DOMAIN {Q} AS {EXPR}"),
    (
        "ALTER DOMAIN",
        "alter domain",
        "ALTER DOMAIN {IF}{Q} (?:ADD CONSTRAINT {N} (?:{CHECK}|NOT NULL)|DROP CONSTRAINT {IF}{N})",
    ),
    (
        "CREATE CAST",
        "create cast",
        "CREATE CAST {GROUP} (?:WITH FUNCTION {Q} ?{GROUP}|WITHOUT FUNCTION|WITH INOUT)(?: AS (?:ASSIGNMENT|IMPLICIT))?",
    ),
    ("CREATE TRANSFORM", "create transform", "CREATE TRANSFORM FOR {TYPE} LANGUAGE {N} \\([^();']*+\\)"),
    ("CREATE OPERATOR", "create operator", "CREATE OPERATOR {OP} \\({PART}(?:, ?{PART})*+\\)"),
    ("CREATE OPERATOR", "create operator family", "CREATE OPERATOR FAMILY {Q} USING {N}"),
    (
        "CREATE OPERATOR",
        "create operator class",
        "CREATE OPERATOR CLASS {Q}(?: DEFAULT)? FOR TYPE {TYPE} USING {N}(?: FAMILY {Q})? AS {MEMBERS}",
    ),
    ("ALTER OPERATOR", "alter operator family", "ALTER OPERATOR FAMILY {Q} USING {N} ADD {MEMBERS}"),
    ("CREATE COLLATION", "create collation", "CREATE COLLATION {Q} \\({KNOWN}(?:, ?{KNOWN})*+\\)"),
    ("CREATE CONVERSION", "create conversion", "CREATE (?:DEFAULT )?CONVERSION {Q} FOR ' TO ' FROM {Q}"),
    ("CREATE TEXT", "create text search parser", "CREATE TEXT SEARCH PARSER {Q} \\({PART}(?:, ?{PART})*+\\)"),
    (
        "CREATE TEXT",
        "create text search template",
        "CREATE TEXT SEARCH TEMPLATE {Q} \\({PART}(?:, ?{PART})*+\\)",
    ),
    (
        "CREATE TEXT",
        "create text search dictionary",
        "CREATE TEXT SEARCH DICTIONARY {Q} \\(TEMPLATE = {Q}(?:, ?{KNOWN})*+\\)",
    ),
    ("CREATE TEXT", "create text search configuration", "CREATE TEXT SEARCH CONFIGURATION {Q} \\({PART}\\)"),
    (
        "ALTER TEXT",
        "alter text search configuration",
        "ALTER TEXT SEARCH CONFIGURATION {Q} ADD MAPPING FOR {N}(?:, ?{N})*+ WITH {Q}(?:, ?{Q})*+",
    ),
    (
        "CREATE LANGUAGE",
        "create language",
        (
            "CREATE (?:OR REPLACE )?(?:TRUSTED )?(?:PROCEDURAL )?LANGUAGE {N}(?: HANDLER {Q}(?: INLINE {Q})?"
            "(?: VALIDATOR (?P<validator>{Q}))?)?"
        ),
    ),
    ("CREATE ACCESS", "create access method", "CREATE ACCESS METHOD {N} TYPE (?:TABLE|INDEX) HANDLER {Q}"),
    (
        "CREATE FOREIGN",
        "create foreign data wrapper",
        "CREATE FOREIGN DATA WRAPPER {N}(?: HANDLER {Q})?(?: VALIDATOR (?P<validator>{Q}))?{OPTIONS}",
    ),
    (
        "CREATE SERVER",
        "create server",
        "CREATE SERVER {N}(?: TYPE ')?(?: VERSION ')? FOREIGN DATA WRAPPER {N}{OPTIONS}",
    ),
    ("CREATE USER", "create user mapping", "CREATE USER MAPPING FOR {ROLE} SERVER {N}{OPTIONS}"),
    (
        "CREATE PUBLICATION",
        "create publication",
        "CREATE PUBLICATION {N}(?: FOR ALL TABLES)?(?: WITH {GROUP})?",
    ),
    (
        "ALTER PUBLICATION",
        "alter publication",
        (
            "ALTER PUBLICATION {N} (?:ADD TABLE (?:ONLY )?{Q}(?: \\({N}(?:, ?{N})*+\\))?(?: WHERE (?P<guard>{GROUP}))?"
            "|ADD TABLES IN SCHEMA {N}|ADD ALL TABLES IN SCHEMA {N}|DROP TABLE (?:ONLY )?{Q}|DROP TABLES IN SCHEMA {N})"
        ),
    ),
    (
        "CREATE SUBSCRIPTION",
        "create subscription",
        (
            "CREATE SUBSCRIPTION {N} CONNECTION ' PUBLICATION {N}(?:, ?{N})*+"
            " WITH \\(connect = false(?:, ?(?!connect\\b|\")[a-z_]+ = (?:'|NONE|{N}))*+\\)"
        ),
    ),
    (
        "CREATE EVENT",
        "create event trigger",
        "CREATE EVENT TRIGGER {N} ON {N}(?: WHEN TAG IN \\('(?:, ?')*+\\))? EXECUTE (?:FUNCTION|PROCEDURE) {Q} ?\\(\\)",
    ),
    ("ALTER EVENT", "alter event trigger", "ALTER EVENT TRIGGER {N} (?:DISABLE|ENABLE(?: ALWAYS| REPLICA)?)"),
    (
        "CREATE POLICY",
        "create policy",
        (
            "CREATE POLICY {N} ON {Q}(?: AS (?:RESTRICTIVE|PERMISSIVE))?(?: FOR (?:ALL|SELECT|INSERT|UPDATE|DELETE))?"
            "(?: TO {ROLE}(?:, ?{ROLE})*+)?(?: USING {GROUP})?(?: WITH CHECK {GROUP})?"
        ),
    ),
    (
        "CREATE RULE",
        "create rule",
        (
            "CREATE (?:OR REPLACE )?RULE {N} AS ON (?:SELECT|INSERT|UPDATE|DELETE) TO {Q}(?: WHERE)? "
            "(?:[^;()\\[\\]]++|\\([^()]*+\\)|\\[[^\\[\\];]*+\\])++"
        ),
    ),
    (
        "CREATE TRIGGER",
        "create trigger",
        (
            "CREATE (?:CONSTRAINT )?TRIGGER {N} (?:BEFORE|AFTER|INSTEAD OF) {EVENT}(?: OR {EVENT})*+ ON {Q}(?: FROM {Q})?"
            "{DEFERRABLE}(?: REFERENCING(?: (?:OLD|NEW) TABLE AS {N})++)?(?: FOR EACH (?:ROW|STATEMENT))?(?: WHEN (?P<guard>{GROUP}))?"
            " EXECUTE (?:FUNCTION|PROCEDURE) {Q} ?\\((?:'(?:, ?')*+)?\\)"
        ),
    ),
    (
        "ALTER TABLE|ALTER FOREIGN|ALTER VIEW|ALTER MATERIALIZED|ALTER SEQUENCE|ALTER INDEX",
        "alter relation",
        "ALTER {RELATION} {IF}(?:ONLY )?{Q} {OF_TABLE}",
    ),
    (
        "ALTER INDEX",
        "alter index",
        "ALTER INDEX {Q} (?:ATTACH PARTITION {Q}|ALTER COLUMN \\d+ SET STATISTICS {INT})",
    ),
    ("ALTER STATISTICS", "alter statistics", "ALTER STATISTICS {Q} SET STATISTICS {INT}"),
    ("ALTER SEQUENCE", "alter sequence", "ALTER SEQUENCE {Q} (?:OWNED BY {Q}|SET (?:LOGGED|UNLOGGED))"),
    ("ALTER", "alter depends on extension", "ALTER {THING} DEPENDS ON EXTENSION {N}"),
    ("ALTER", "alter owner", "ALTER {THING} OWNER TO {ROLE}"),
    (
        "ALTER PRIVILEGES",
        "alter default privileges",
        (
            "ALTER DEFAULT PRIVILEGES FOR (?:ROLE|USER) {N}(?: IN SCHEMA {N})? (?:GRANT|REVOKE) {PRIVILEGES}"
            " ON (?:TABLES|SEQUENCES|FUNCTIONS|ROUTINES|TYPES|SCHEMAS|LARGE OBJECTS) {GRANTEES}"
        ),
    ),
    ("COMMENT ON", "comment on", "COMMENT ON {THING} IS (?:'|NULL)"),
    ("SECURITY LABEL", "security label", "SECURITY LABEL (?:FOR (?:{N}|') )?ON {THING} IS (?:'|NULL)"),
    ("GRANT|REVOKE", "grant", "(?:GRANT|REVOKE) {PRIVILEGES} ON {GRANTED} {GRANTEES}"),
    ("DROP", "drop", "DROP {DROPPED}|DROP TYPE {IF}{Q} CASCADE"),
)


def _found_by_words() -> dict[bytes, tuple[tuple[str, re.Pattern[bytes]], ...]]:
    """Return the forms by the words that begin them; what has one word only stands behind those of two."""
    found: dict[bytes, tuple[tuple[str, re.Pattern[bytes]], ...]] = {}
    for words, name, text in sorted(_FORMS, key=lambda form: form[0].count(" "), reverse=True):
        pattern = _pattern(text)
        for word in words.split("|"):
            key = word.encode()
            for begun in {key, *(other for other in found if other.startswith(key + b" "))}:
                found[begun] = (*found.get(begun, ()), (name, pattern))
    return found


_BY_WORDS = _found_by_words()


def forms_like(bones: bytes) -> tuple[tuple[str, re.Pattern[bytes]], ...]:
    """Return the forms, each with its name, that begin as a statement does."""
    words = _FIRST_WORDS.match(bones)
    if words is None:
        return ()
    both = b" ".join(filter(None, words.groups()))
    return _BY_WORDS.get(both) or _BY_WORDS.get(words[1], ())


def head(text: bytes) -> bytes:
    """Return the words in capitals that a statement begins with, one space between them: by these others know it, too."""
    words = _HEAD.match(text)
    return words[0] if words else b""


def _literals(text: bytes) -> dict[bytes, tuple[tuple[str, re.Pattern[bytes]], ...]]:
    """Return what a SELECT and an INSERT of pg_dump's are, if the text of a literal is this.

    They are matched as they stand: they may be megabytes long.
    """
    name = rb'(?:[A-Za-z_\x80-\xff][\w$\x80-\xff]*|"(?:[^"]|"")+")'
    number = rb"[-+]?[\d.][\d.eE+-]*+"
    value = rb"(?:[BX]?'%b'|%b|NULL|DEFAULT|true|false)" % (text, number)
    values = rb"\(%b(?:,\s*+%b)*+\)" % (value, value)
    typed = rb"%b(?:::(?:integer|real|bigint|smallint|boolean|text|name|regclass|oid)(?:\[\])?)?" % value
    select = (
        rb"SELECT (?:pg_catalog\.)?(?:setval|lo_create|lo_open|lowrite|lo_close|lo_unlink)%b"
        rb"|SELECT pg_catalog\.set_config\('search_path', '%b', false\)"
        rb"|SELECT pg_catalog\.lo_unlink\(oid\) FROM pg_catalog\.pg_largeobject_metadata WHERE oid = '\d+'"
        rb"|SELECT (?:\* FROM )?pg_catalog\.pg_restore_(?:relation|attribute|extended)_stats\(\s*+%b(?:,\s*+%b)*+\s*+\)"
    ) % (values, text, typed, typed)
    insert = (
        rb"INSERT INTO %(name)b(?:\.%(name)b)*(?: \(%(name)b(?:, ?%(name)b)*+\))?(?: OVERRIDING (?:SYSTEM|USER) VALUE)?"
        rb"(?: DEFAULT VALUES|\s+VALUES\s*+%(values)b(?:,\s*+%(values)b)*+)(?:\s+ON CONFLICT DO NOTHING)?"
    ) % {b"name": name, b"values": values}
    return {b"SELECT": (("select", re.compile(select)),), b"INSERT": (("insert", re.compile(insert)),)}


# A backslash is a letter like others, or with standard_conforming_strings = off, where pg_dump doubles it, only a pair is.
LONG = {False: _literals(rb"(?:[^']|'')*+"), True: _literals(rb"(?:[^'\\]|''|\\\\)*+")}
"""By whether backslashes escape, then by the first word: what is no longer looked at as bones."""
