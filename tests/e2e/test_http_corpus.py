"""The corpus' raw requests (``tests/corpus/http.json``) at the shipped gunicorn, each over a socket of its own."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.doors.accounts_world import expanded
from tests.e2e.servers import Gateway, gunicorn

CASES = json.loads((Path(__file__).parent.parent / "corpus" / "http.json").read_text(encoding="utf-8"))
BODY = b'{"model":"demo","messages":[{"role":"user","content":"hi"}]}'
SERVERS_OWN = {
    "HTTP-004", "HTTP-009", "HTTP-011", "HTTP-017", "HTTP-018", "HTTP-020", "HTTP-027", "HTTP-033",
}  # fmt: skip
"""What gunicorn itself refuses, and with a page of its own."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, str]]:
    with gunicorn(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway, gateway.token()


@pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in CASES])
def test_case(served: tuple[Gateway, str], case: dict[str, Any]) -> None:
    gateway, token = served
    workers = gateway.children()
    answer = exchange(gateway.port, *written(expanded(case["input"]), token))
    assert status_of(answer) in case["expect"]["status"], answer[:500]
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"Traceback" not in answer
    assert b"evil.example" not in answer
    assert b"<html" not in answer or case["id"] in SERVERS_OWN
    assert gateway.get("/health/live")[0] == 200
    assert gateway.children() == workers


@pytest.mark.parametrize("chunk", ["zz\r\n{}", "-2\r\n{}", "0x2\r\n{}", "2\r\n{}XX", "ff\r\n{}"])
def test_what_stands_behind_a_broken_chunk_is_no_request(served: tuple[Gateway, str], chunk: str) -> None:
    gateway, token = served
    head = lines("POST /v1/chat/completions HTTP/1.1", *headers(token), "Transfer-Encoding: chunked")
    behind = lines("GET /health/live HTTP/1.1", "Host: x")
    answer = exchange(gateway.port, head + f"{chunk}\r\n0\r\n\r\n".encode() + behind, closes=True)
    assert status_of(answer) == 400
    assert answer.count(b"HTTP/1.1 ") == 1


def written(said: dict[str, Any], token: str) -> tuple[bytes, bool]:
    """The bytes that a case describes, and whether the client closes its side behind them."""
    request = said.get("request_line", "POST /v1/chat/completions HTTP/1.1")
    more = [*said.get("raw_headers", ()), *(f"{name}: {value}" for name, value in said.get("headers", {}).items())]
    body, framing = BODY if request.startswith("POST") else b"", "Content-Length"
    if "chunk" in said:
        body, framing = said["chunk"].encode() + b"\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding"
        more.append("Transfer-Encoding: chunked")
    elif "content_length" in said:
        body = b""
        more.append(f"Content-Length: {said['content_length'].partition(' ')[0]}")
    if framing not in " ".join(more):
        more.append(f"Content-Length: {len(body)}")
    own = [line for line in headers(token) if not (line.startswith("Host") and any(x.startswith("Host") for x in more))]
    return lines(request, *own, *more, "Connection: close") + body, "half_close" in said


def headers(token: str) -> list[str]:
    return ["Host: x", f"Authorization: Bearer {token}", "Content-Type: application/json"]


def lines(*written: str) -> bytes:
    return ("\r\n".join(written) + "\r\n\r\n").encode("latin-1")


def exchange(port: int, data: bytes, closes: bool = False) -> bytes:
    found = b""
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        try:
            sock.sendall(data)
            if closes:
                sock.shutdown(socket.SHUT_WR)
            while piece := sock.recv(65_536):
                found += piece
        except ConnectionError:  # refused before it was read to its end
            pass
    return found


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])
