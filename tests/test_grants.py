"""Privileges as sentences: what the server writes in letters, in every spelling of a role's name."""

from __future__ import annotations

import pytest

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import grants
from polyladder_ops.postgres.grants import Grant


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ("app=ra*/owner", "app=SELECT,INSERT*/owner"),
        ("=Tc/owner", "PUBLIC=CONNECT,TEMPORARY/owner"),
        (
            "owner=arwdDxtm/owner",
            "owner=SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER,MAINTAIN/owner",
        ),
        ('"a=b/c ""d"""=X/"O w"', '"a=b/c ""d"""=EXECUTE/"O w"'),
        ("PUBLIC=r/Röle", '"PUBLIC"=SELECT/"Röle"'),
        ('"new\nline"=U/o', '"new\nline"=USAGE/o'),
        ("app=/owner", "app=/owner"),
    ],
)
def test_an_item_of_an_acl_becomes_one_sentence_and_can_be_read_again(item: str, sentence: str) -> None:
    assert grants.canonical([item]) == (sentence,)
    if "=/" not in item:
        assert str(grants.parse(sentence)) == sentence


def test_everybody_is_not_the_role_called_public() -> None:
    assert grants.parse("PUBLIC=CONNECT/o") == Grant("", ("CONNECT",), "o")
    assert grants.parse('"PUBLIC"=CONNECT/o') == Grant("PUBLIC", ("CONNECT",), "o")


def test_the_owner_of_what_nobody_dumps_is_called_so() -> None:
    assert grants.canonical(["postgres=X/postgres", "app=X/postgres"], owner="postgres") == (
        "<owner>=EXECUTE/<owner>",
        "app=EXECUTE/<owner>",
    )


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        "app",
        "app=SELECT",
        "app=SELECT; DROP TABLE x/owner",
        "app=NOTHING/owner",
        'a"b=SELECT/o',
        "(a) b=/o/p",
    ],
)
def test_what_is_no_grant_is_refused(sentence: str) -> None:
    with pytest.raises(OpsError, match="is not a grant"):
        grants.parse(sentence)


def test_an_older_major_knows_no_maintain() -> None:
    new = ("(maintain) a=SELECT/o", "a=MAINTAIN/o", 'b=SELECT,MAINTAIN*/"MAINTAIN"', "o=TRIGGER,MAINTAIN/o")
    assert grants.as_of(new, 16) == ("(maintain) a=SELECT/o", 'b=SELECT/"MAINTAIN"', "o=TRIGGER/o")
    assert grants.as_of(new, 17) == new
