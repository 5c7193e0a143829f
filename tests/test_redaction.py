"""No secret comes out, in whatever form it is written, and what is no secret stays readable."""

from __future__ import annotations

import json
import time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyladder_ops.postgres.conninfo import parse
from polyladder_ops.redaction import MASK, hide, hide_url, redact

PASSWORD = "pä55/w:o r'd\"#\\?@%41"


def test_a_hidden_secret_is_masked_in_every_form_it_is_written_in() -> None:
    hide(PASSWORD)
    forms = [
        PASSWORD,
        quote(PASSWORD),
        quote(PASSWORD, safe=""),
        quote(PASSWORD, safe="").lower(),
        quote_plus(PASSWORD),
        json.dumps(PASSWORD)[1:-1],
        json.dumps(PASSWORD, ensure_ascii=False)[1:-1],
        repr(PASSWORD)[1:-1],
        PASSWORD.replace("'", "''"),
        PASSWORD.replace("\\", "\\\\").replace(":", "\\:"),
    ]
    for form in forms:
        assert redact(f"before {form} after") == f"before {MASK} after", form


@pytest.mark.parametrize(
    ("url", "password"),
    [
        ("postgres://user:canary-a%2Fb@host:5432/db", "canary-a/b"),
        ("postgres://user:canary@my-canary@host/db", "canary@my-canary"),
        ("postgres://user:a/canary#b?canary@host/db", "a/canary#b?canary"),
        ("postgresql://host/db?user=u&password=canary%20e", "canary e"),
        ("host=h password='canary f' dbname=d", "canary f"),
        ("host=h password=canary-g", "canary-g"),
        ("postgres+asyncpg://u:canary-h@h1,h2/db", "canary-h"),
    ],
)
def test_the_password_of_a_connection_string_is_hidden_by_itself(url: str, password: str) -> None:
    hide_url(url)
    assert redact(f'could not translate host name "{password}"') == f'could not translate host name "{MASK}"'
    assert "canary" not in redact(url)


@pytest.mark.parametrize(
    "text",
    [
        "tried postgres://app:sesame@host/db",
        "tried postgres://app:se@sa/me'x\"@host/db and failed",
        "tried redis://:sesame@host",
        "postgres://h1/db,postgres://u:sesame@h2/db",
        "fetch http://sesame@host/x failed",
        "GET https://sesame:@host/x?y=1",
        "git clone https://sesame:x-oauth-basic@github.com/o/r",
        "git clone https://x-access-token:sesame@github.com/o/r",
        "npm i git+https://sesame@github.com/o/r",
        "wss://sesame@host",
        "https://host/p?token=sesame&x=1",
        "https://host/p#access_token=sesame",
        "https://host/p?x=1&key=sesame",
        "conninfo host=h password=sesame dbname=x",
        "conninfo host=h password='ses\\'ame x' dbname=y",
        "host/db?sslpassword=sesame&x=1",
        "PGPASSWORD=sesame pg_dump",
        "ALTER ROLE app PASSWORD 'sesame';",
        "Authorization: Bearer sesame",
        "{'Authorization': 'Basic sesame'}",
        "AGE-SECRET-KEY-1SESAME7",
        "age-secret-key-1sesame7",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nsesame\nsesame\n-----END OPENSSH PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nsesame (cut",
        "FlyV1 fm2_sesame0000,fm2_sesame1111==",
        "ghp_sesame000000",
        "SCRAM-SHA-256$4096:sesame$sesame:sesame",
    ],
)
def test_what_has_the_shape_of_a_secret_is_masked_though_nobody_told_us(text: str) -> None:
    masked = redact(text).casefold()
    assert "sesame" not in masked
    assert "ame x" not in masked
    assert MASK in masked


@pytest.mark.parametrize(
    "text",
    [
        "password authentication failed for user app",
        "https://host:8080/health answered 503",
        "file:///var/backups/x.sql.gz",
        "tried postgres://app@host/db, as app",
        "git clone ssh://git@github.com/o/r",
        "https://host/a, or write to ops@example.org",
        "https://host/p?x=1&monkey=2&mail=ops@example.org",
        "https://registry.example.org/@scope/package",
        "write to ops@example.org: it is down",
        "hint: Write it as postgres://user:password@host:5432/database.",
        "the backup is encrypted to age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
        "authorization denied",
    ],
)
def test_what_is_no_secret_stays_readable(text: str) -> None:
    assert redact(text) == text


def test_short_and_empty_secrets_would_hide_everything_and_are_passed_over() -> None:
    for secret in (None, "", "a", "abc"):
        hide(secret)
        hide_url(secret)
    assert redact("a bc abc") == "a bc abc"


@pytest.mark.parametrize(
    "text",
    [
        "renames the table rename_log",
        "public.name and name.title",
        "filename: polyladder_20260105_020000.sql.gz",
        "Run `invoke name --name=x`, `invoke name.undo` or `invoke restore --name-of=x`.",
    ],
)
def test_a_password_that_is_a_plain_word_stays_within_longer_names_and_our_commands(text: str) -> None:
    hide("name")
    assert redact(text) == text


@pytest.mark.parametrize(
    "text",
    [
        'could not translate host name: "{}"',
        "it is {}.",
        "{}-",
        "--x={}",
        "'%20{}'",
        "b'a\\n{}'",
        "(x,{}",
        "`invoke x --database={}`",
    ],
)
def test_a_password_that_is_a_plain_word_is_masked_where_it_stands_by_itself(text: str) -> None:
    hide("users")
    assert redact(text.format("users")) == text.format(MASK)


@pytest.mark.parametrize(
    "url",
    [
        "postgres://lerner:lerner@host/shop",
        "postgres://app:lerner@host:5432/lerner?sslmode=require",
        "postgres://app:lerner@lerner/db",
        "host=h user=lerner password=lerner dbname=db",
    ],
)
def test_a_password_that_is_a_name_beside_it_is_masked_only_where_a_password_stands(url: str) -> None:
    """Stars where everybody knows which name must stand would tell the password."""
    hide_url(url)
    parse(url)
    assert redact('the role "lerner" on lerner') == 'the role "lerner" on lerner'
    for text in (url, "postgres://other:lerner@host/x", "PGPASSWORD=lerner", "password='lerner'"):
        assert MASK in redact(text)
        assert ":lerner@" not in redact(text)
        assert not redact(text).lower().startswith("pgpassword=lerner")


def test_the_longer_of_two_secrets_is_masked_whole() -> None:
    hide("nested-s")
    hide("nested-secret-9")
    assert redact("x nested-secret-9 y") == f"x {MASK} y"


@given(password=st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=4, max_size=20))
def test_no_password_in_a_url_comes_out(password: str) -> None:
    marked = f"mark{password}mark"
    hide_url(f"postgres://user:{quote(marked, safe='')}@host/db")
    for form in (marked, quote(marked), json.dumps(marked), repr(marked), quote_plus(marked)):
        assert "mark" not in redact(form)


@pytest.mark.parametrize(
    "text",
    [
        "waiting for https://app.example/health?token=geheim-geheim",
        "https://app.example/health?a=1&api_key=geheim-geheim#top",
        "node migrate.js --access-token=geheim-geheim up",
        "node migrate.js --secret geheim-geheim up",
    ],
)
def test_a_secret_in_a_query_or_an_option_is_hidden_though_nobody_told(text: str) -> None:
    shown = redact(text)
    assert "geheim" not in shown
    assert MASK in shown


def test_a_query_without_a_secret_and_our_own_flags_stay() -> None:
    for text in ("https://app.example/health?deep=1&region=fra", "--accept=rights --backup=latest --json"):
        assert redact(text) == text


@pytest.mark.parametrize(
    "piece",
    [
        "x",
        "?auth",
        "--auth ",
        "://a:",
        "@://a:",
        "password='",
        "authorization: ",
        "SECRET_KEY",
        "-----BEGIN PRIVATE KEY-----",
    ],
)
def test_a_megabyte_without_end_keeps_nobody_waiting(piece: str) -> None:
    """A program's line of 400,000 letters took the run's only core for hours, and its lock was lost meanwhile."""
    began = time.monotonic()
    redact(piece * (1_000_000 // len(piece)))
    assert time.monotonic() - began < 20  # a third of a second; what looks on from each letter takes hours


@pytest.mark.parametrize(
    "value",
    ["FlyV1 fm1a_canary0123456789", "Bearer canary0123456789abc", "canary0123456789one,canary0123456789two"],
)
def test_each_token_of_a_list_is_hidden_by_itself(value: str) -> None:
    hide(value)
    for token in value.replace(",", " ").split():
        if "canary" in token:
            assert redact(f"bad token {token}.") == f"bad token {MASK}."


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("env: SESSION_SECRET=canary and more", f"env: SESSION_SECRET={MASK} and more"),
        ('"JWT_KEY": "canarycanary1"', f'"JWT_KEY": "{MASK}"'),
        ("AWS_SECRET_ACCESS_KEY='canary'", f"AWS_SECRET_ACCESS_KEY='{MASK}'"),
        ("FLY_API_TOKEN=$(fly tokens create org)", "FLY_API_TOKEN=$(fly tokens create org)"),
        ("a fm1r_canary0123 and fm2_canary0123", f"a {MASK} and {MASK}"),
        ("Set it, or leave --with-passwords out.", "Set it, or leave --with-passwords out."),
        (
            "has no line that begins with AGE-SECRET-KEY-, or",
            "has no line that begins with AGE-SECRET-KEY-, or",
        ),
    ],
)
def test_what_an_environment_lists_is_hidden_and_what_is_no_secret_is_not(text: str, shown: str) -> None:
    assert redact(text) == shown
