"""What Fly's API may answer, and what is made of it: by a server that gives one answer after the other."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops.fly import certificates
from polyladder_ops.fly.api import Api
from polyladder_ops.fly.failures import FlyError
from tests.fly.conftest import DB

if TYPE_CHECKING:
    from collections.abc import Iterator

ORGANISATION = {"data": {"app": {"organization": {"id": "T3Jn"}}}}


@contextmanager
def answering(*replies: tuple[int, bytes]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Within the block an API that gives these answers; its address, and the headers that it was asked with."""
    left, asked = list(replies), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(dict(self.headers))
            status, body = left.pop(0)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


def document(**parts: Any) -> bytes:
    return json.dumps(parts).encode()


@pytest.mark.parametrize(
    ("status", "body", "name", "said"),
    [
        (403, b"", "token-refused", "status code: 403"),
        (401, b"<html>", "token-refused", "status code: 401"),
        (429, b"", "busy", "429"),
        (500, b"<html>", "network-refused", "500"),
        (502, b"[1]", "", "502"),
        (200, b"no JSON", "", "200"),
        (200, document(data=None), "", "without data"),
        (200, document(data={"app": {}}, errors=[{"message": "half of it"}]), "", "half of it"),
        (200, document(data={"app": None}), "unknown-app", f"Could not find App {DB}"),
        (200, document(data={"app": {"organization": None}}), "unknown-app", "Could not find App"),
    ],
)
def test_an_answer_that_is_no_certificate_is_told_as_what_it_is(
    status: int, body: bytes, name: str, said: str
) -> None:
    with answering((status, body)) as (base, _), pytest.raises(FlyError) as raised:
        certificates.of_app(Api("token", base, timeout_s=10), DB)
    assert raised.value.message == "Fly's API gave no certificate for SSH"
    assert (raised.value.name, raised.value.passes) == (name, name == "busy")
    assert said in raised.value.detail
    assert ("status.flyio.net" in raised.value.hint) == (not name)
    assert raised.value.hint


def test_a_certificate_that_is_empty_is_none() -> None:
    empty = document(data={"issueCertificate": {"certificate": None}})
    with (
        answering((200, json.dumps(ORGANISATION).encode()), (200, empty)) as (base, _),
        pytest.raises(FlyError, match="useless") as raised,
    ):
        certificates.of_app(Api("token", base, timeout_s=10), DB)
    assert raised.value.detail == "The certificate is empty."


def test_a_secret_in_what_the_api_says_is_taken_out_before_the_text_is_cut() -> None:
    said = "x" * 372 + " postgres://polyladder:s3cret-password@db.internal:5432/polyladder"
    with (
        answering((200, document(errors=[{"message": said}]))) as (base, _),
        pytest.raises(FlyError) as raised,
    ):
        certificates.of_app(Api("token", base, timeout_s=10), DB)
    assert "s3c" not in str(raised.value)


@pytest.mark.parametrize(
    ("token", "header"),
    [
        ("fo1_old", "Bearer fo1_old"),
        ("fm2_new\n", "FlyV1 fm2_new"),
        ("FlyV1 fm2_new", "FlyV1 fm2_new"),
        ("Bearer fo1_old", "Bearer fo1_old"),
    ],
)
def test_a_token_is_given_under_the_name_of_its_kind(token: str, header: str) -> None:
    with answering((401, b"")) as (base, asked), pytest.raises(FlyError):
        certificates.of_app(Api(token, base, timeout_s=10), DB)
    assert [each["Authorization"] for each in asked] == [header]
    assert token.strip() not in repr(Api(token))
