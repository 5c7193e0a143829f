"""Connection strings: what they name is exactly what is named, what leaves a doubt is refused, and nothing is shown."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg import conninfo

from polyladder_ops.errors import SettingsError
from polyladder_ops.postgres.conninfo import Target, parse

CANARY = "canary79"
H = "postgres://u:canary79@h:1234"

ACCEPTED = {
    "postgres://u:canary79@h:5433/d": ("h", 5433, "u", CANARY, "d"),
    "postgresql://u:canary79@h/d": ("h", 5432, "u", CANARY, "d"),
    "  postgres://u:canary79@h/d\n": ("h", 5432, "u", CANARY, "d"),
    "postgres://u@h/d": ("h", 5432, "u", "", "d"),
    "postgres://h/d": ("h", 5432, "", "", "d"),
    "postgres://u:@h:/d": ("h", 5432, "u", "", "d"),
    "postgres://u:canary%2379%3F%2F%40%25%3A@h/d": ("h", 5432, "u", "canary#79?/@%:", "d"),
    "postgres://u:canary#79@h/d": ("h", 5432, "u", "canary#79", "d"),
    "postgres://u:canary?79@h/d": ("h", 5432, "u", "canary?79", "d"),
    "postgres://u:canary?schema=79&x@h/d": ("h", 5432, "u", "canary?schema=79&x", "d"),
    "postgres://u:can[ary79@h/d": ("h", 5432, "u", "can[ary79", "d"),
    "postgres://u:canary:79@h/d": ("h", 5432, "u", "canary:79", "d"),
    "postgres://u:canary'79\\@h/d": ("h", 5432, "u", "canary'79\\", "d"),
    "postgres://u:%C3%BC%20x@h/%C3%A4%20b": ("h", 5432, "u", "ü x", "ä b"),
    "postgres://u:canary79@[2001:db8::1]:99/d": ("2001:db8::1", 99, "u", CANARY, "d"),
    "postgres://u:canary79@/d?host=/var/run/postgresql": ("/var/run/postgresql", 5432, "u", CANARY, "d"),
    "postgres://u:canary79@%2Fvar%2Frun/d": ("/var/run", 5432, "u", CANARY, "d"),
    "postgres://u:canary79@h/d?schema=public": ("h", 5432, "u", CANARY, "d"),
    "postgres://u:canary79@h/d?schema=public&sslmode=require&connection_limit=5": (
        "h",
        5432,
        "u",
        CANARY,
        "d",
    ),
    "postgres://u:canary79@h/d?pgbouncer=false&": ("h", 5432, "u", CANARY, "d"),
    "postgres://h/d?user=u&password=canary79": ("h", 5432, "u", CANARY, "d"),
    "postgres://u:canary79@h/a%40b": ("h", 5432, "u", CANARY, "a@b"),
    "postgres://u:canary79@h/d?client_encoding=utf8": ("h", 5432, "u", CANARY, "d"),
    "postgres://u:canary79@/d?hostaddr=10.0.0.1": ("10.0.0.1", 5432, "u", CANARY, "d"),
    "host=h port=99 user=u password='canary 79?schema=x' dbname=d": ("h", 99, "u", "canary 79?schema=x", "d"),
    r"host=h user=u password='canary \'79\\' dbname=d": ("h", 5432, "u", "canary '79\\", "d"),
    "host=h dbname=d password=canary79://x@y/z?": ("h", 5432, "", "canary79://x@y/z?", "d"),
}


@pytest.mark.parametrize("url", ACCEPTED)
def test_what_is_named_is_what_is_reached(url: str) -> None:
    target = parse(url)
    assert (target.host, target.port, target.user, target.password, target.database) == ACCEPTED[url]


@pytest.mark.parametrize("url", ACCEPTED)
def test_libpq_reads_the_same_from_the_target_whatever_the_environment_says(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGSERVICE", "PGUSER", "PGPASSFILE"):
        monkeypatch.setenv(name, "1")
    target = parse(url)
    text = conninfo.make_conninfo(**target.parameters)
    found = conninfo.conninfo_to_dict(text)
    assert found["dbname"] == target.database
    assert found["port"] == str(target.port)
    assert found["passfile"] != "1"
    assert found.get("host", found.get("hostaddr")) == target.host


REFUSED = {
    "nothing": ("", "empty"),
    "blanks": (" \n", "empty"),
    "another scheme": ("mysql://u:canary79@h/d", "'mysql://' is not PostgreSQL's"),
    "a driver's scheme": ("postgres+asyncpg://u:canary79@h/d", "is not PostgreSQL's"),
    "a scheme in capitals": ("POSTGRES://u:canary79@h/d", "is not PostgreSQL's"),
    "a scheme with one slash": ("postgres:/u:canary79@h/d", "can't read"),
    "no scheme": ("u:canary79@h/d", "can't read"),
    "a word": (CANARY, "can't read"),
    "no database": ("postgres://u:canary79@h", "names no database"),
    "no database, but a slash": ("postgres://u:canary79@h:1/", "names no database"),
    "no database in words": ("host=h user=u password=canary79", "names no database"),
    "no host": ("postgres:///d", "names no host"),
    "no host, but a login": ("postgres://u:canary79@/d", "names no host"),
    "no host in words": ("dbname=d user=u password=canary79", "names no host"),
    "several hosts": ("postgres://u:canary79@h,h2/d", "several hosts"),
    "several hosts with ports": ("postgres://u:canary79@h:1,h2:2/d", "several hosts"),
    "several addresses": ("host=h hostaddr=1.1.1.1,2.2.2.2 dbname=d", "several hosts"),
    "a percent sign that encodes nothing": ("postgres://u:canary79%zz@h/d", "percent sign"),
    "a percent sign at the end": ("postgres://u:canary79%@h/d", "percent sign"),
    "an encoded zero": ("postgres://u:canary79%00@h/d", "percent sign"),
    "an encoded line feed": ("postgres://u:canary79%0A@h/d", "control character"),
    "an encoded byte that is no UTF-8": ("postgres://u:canary79%FF@h/d", "not UTF-8"),
    "a byte that is no UTF-8": ("postgres://u:canary79\udcff@h/d", "not UTF-8"),
    "a line feed": ("postgres://u:canary79\n@h/d", "control character"),
    "a zero": ("postgres://u:canary79\0@h/d", "control character"),
    "an @ in the password": ("postgres://u:canary79@x@h/d", "not encoded"),
    "a / in the password": ("postgres://u:canary79/x@h/d", "not encoded|port"),
    "a / in a password of digits": ("postgres://u:12/canary79@h", "not encoded"),
    "a / and a ? in the password": ("postgres://u:1/a?canary79=x@h/d", "does not know"),
    "a bracket that is not closed": ("postgres://u:canary79@[::1/d", "can't read"),
    "a port that is a word": ("postgres://u:canary79@h:canary79/d", "port"),
    "a port too large": ("postgres://u:canary79@h:65536/d", "port"),
    "port 0": ("postgres://u:canary79@h:0/d", "port"),
    "a port in other digits": ("postgres://u:canary79@h:٥٤٣٢/d", "port"),
    "two ports": ("postgres://u:canary79@h:1:2/d", "port"),
    "a fragment": ("postgres://u:canary79@h/d#frag", "database's name"),
    "a database that is a string of its own": ("postgres://h/host%3Dx", "database's name"),
    "a database with a slash": ("postgres://h/a/b", "database's name"),
    "a database that is a URL": ("host=h dbname='postgres://u:canary79@x/y'", "database's name"),
    "a service": ("postgres://u:canary79@h/d?service=canary79", "service file"),
    "a service in words": ("service=production", "service file"),
    "a pooler": ("postgres://u:canary79@h/d?pgbouncer=true", "pooler"),
    "a pooler behind others": ("postgres://u:canary79@h/d?schema=x&pgbouncer=1", "pooler"),
    "replication": ("postgres://u:canary79@h/d?replication=database", "replication"),
    "a passphrase": ("postgres://u@h/d?sslpassword=canary79", "sslpassword"),
    "a key for SCRAM": ("host=h dbname=d scram_client_key=canary79", "SCRAM"),
    "an unknown parameter": ("postgres://u:canary79@h/d?canary79=1", "does not know[.]"),
    "an application's parameter": (
        "postgres://u:canary79@h/d?currentSchema=x",
        "does not know: currentSchema",
    ),
    "an unknown word": ("host=h dbname=d password=my canary79=x", "does not know[.]"),
    "a word without a value": ("host=h dbname=d password=my canary79", "can't read"),
    "a quote that is not closed": ("host=h dbname=d password='canary79", "can't read"),
    "a host twice": ("postgres://u:canary79@h/d?host=other", "host twice"),
    "a host twice, encoded": ("postgres://u:canary79@h/d?h%6Fst=other", "host twice"),
    "a port twice": (f"{H}/d?port=5", "port twice"),
    "a database twice": (f"{H}/d?dbname=e", "dbname twice"),
    "a password twice": (f"{H}/d?password=x", "password twice"),
    "a parameter twice": ("postgres://h/d?sslmode=require&sslmode=disable", "sslmode twice"),
    "a host twice in words": ("host=h host=i dbname=d password=canary79", "host twice"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_a_string_is_refused_without_being_shown_that_has(case: tuple[str, str]) -> None:
    url, words = case
    with pytest.raises(SettingsError, match="DATABASE_URL is unusable") as caught:
        parse(url)
    error = caught.value
    assert re.search(words, error.detail), error.detail
    assert error.detail.endswith(".")
    assert error.hint.endswith(".")
    shown = (
        f"{error} {error!r} {error.__cause__!r} {error.__context__ if not error.__suppress_context__ else ''}"
    )
    assert CANARY not in shown
    assert error.exit_code == 2


def test_the_variable_that_was_wrong_is_named() -> None:
    with pytest.raises(SettingsError, match="POLYLADDER_SCRATCH_URL is unusable"):
        parse("x", variable="POLYLADDER_SCRATCH_URL")


def test_a_target_shows_its_place_and_never_its_password() -> None:
    target = parse("postgres://u:canary79@h:99/d?hostaddr=10.0.0.1&sslmode=require")
    assert str(target) == "d on h (10.0.0.1):99"
    assert repr(target) == "Target(d on h (10.0.0.1):99)"
    assert f"{Target.of(host='h', dbname='d', password=CANARY)}" == "d on h:5432"
    assert target.parameters["sslmode"] == "require"


def test_another_database_on_the_same_server_keeps_everything_else() -> None:
    target = parse("postgres://u:canary79@h:99/d?sslmode=require")
    other = target.with_database("e; f")
    assert other.database == "e; f"
    assert {**other.parameters, "dbname": "d"} == dict(target.parameters)


def outcome(url: str) -> str:
    """Return what a person would see: the target or the error."""
    try:
        return str(parse(url))
    except SettingsError as error:
        return str(error)


@given(st.text(st.characters(codec="utf-8"), max_size=30))
@settings(deadline=None)  # a busy machine is no failure
def test_no_text_brings_anything_but_a_target_or_a_settings_error(text: str) -> None:
    for url in (text, f"postgres://u:{text}@h/d", f"postgres://{text}", f"host=h dbname=d password={text}"):
        assert outcome(url)


signs = st.text(st.sampled_from("ab%@/?#&=:[],' \\2"), max_size=8)


@given(signs, signs)
@example("a/b?", "=x")
@example("1/", "?a=")
@example("1/a?x=1&", "")
@settings(max_examples=500, deadline=None)
def test_a_password_that_is_not_encoded_is_not_shown(before: str, after: str) -> None:
    assert CANARY not in outcome(f"postgres://u:{before}{CANARY}{after}@h/d")
    assert CANARY not in outcome(f"host=h dbname=d password={before}{CANARY}{after}")


password = st.text(
    st.characters(min_codepoint=32, exclude_characters="\x7f", codec="utf-8"), min_size=1, max_size=20
)


@given(password)
@settings(deadline=None)  # a busy machine is no failure
def test_every_password_comes_through_when_it_is_encoded(text: str) -> None:
    assert parse(f"postgres://u:{quote(text, safe='')}@h/d").password == text
