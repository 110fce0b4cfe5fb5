"""``WEB_CONCURRENCY=1``: a hundred slow streams at once, every third broken off, and nothing left behind; hang-ups
and a shutdown in every dialect."""

from __future__ import annotations

import json
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import provider_environment
from tests.e2e.servers import Gateway, gunicorn
from tests.upstream import RemoteUpstream, faults

pytestmark = [pytest.mark.e2e, pytest.mark.alone]
STREAMS = 100
WORDS = " ".join(f"word{number}" for number in range(30))
ASKED = [{"role": "user", "content": "slowly"}]
DIALECTS: dict[str, tuple[dict[str, Any], bytes, bytes]] = {
    "/v1/chat/completions": ({"messages": ASKED}, b'"content"', b"data: [DONE]"),
    "/v1/messages": ({"messages": ASKED, "max_tokens": 500}, b"text_delta", b"message_stop"),
    "/v1/responses": ({"input": "slowly"}, b"output_text.delta\n", b"response.completed"),
}
"""By door: what is asked beside the model, what stands in each frame with a word, and what ends a whole answer."""


@pytest.fixture(scope="module")
def gateway(remote_simulator: RemoteUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("streams")
    environment = provider_environment(remote_simulator, "openai")  # type: ignore[arg-type]
    with gunicorn(folder, WEB_CONCURRENCY="1", **environment) as running:
        yield running


def read_stream(gateway: Gateway, token: str, *, leave_after: int | None, found: list[str]) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as sock:
        sock.sendall(request("/v1/chat/completions", token))
        seen = b""
        while piece := sock.recv(65536):
            seen += piece
            if leave_after is not None and seen.count(b'"content"') > leave_after:
                found.append("left")
                return
    found.append("whole" if b"data: [DONE]" in seen else "cut")


def rows(folder: Path, query: str) -> list[Any]:
    with sqlite3.connect(folder / "instance" / "app.db") as connection:
        return connection.execute(query).fetchall()


def test_a_hundred_slow_streams_with_hang_ups_leave_nothing_behind(gateway: Gateway, upstream: RemoteUpstream) -> None:
    upstream.script(faults.text(WORDS) + faults.pace(60), vendor="openai")
    token = gateway.token()
    found: list[str] = []
    threads = [
        threading.Thread(
            target=read_stream,
            args=(gateway, token),
            kwargs={"leave_after": 10 if n % 3 == 0 else None, "found": found},
        )
        for n in range(STREAMS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["left"] * 34 + ["whole"] * 66
    wait_for_rest(gateway, upstream)
    settled = rows(gateway.folder, "SELECT state, prompt_tokens, completion_tokens, estimated FROM attempts")
    assert settled == [("settled", 1, 30, 0)] * STREAMS
    calls = rows(gateway.folder, "SELECT status, completion_tokens, streamed, attempts FROM calls ORDER BY status")
    assert calls == [(200, 30, 1, 1)] * 66 + [(499, 30, 1, 1)] * 34


def wait_for_rest(gateway: Gateway, upstream: RemoteUpstream, seconds: float = 30) -> None:
    """Until no row is open, no upstream call in flight, and the threads beyond gunicorn's own have gone."""
    (worker,) = gateway.children()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        is_open = rows(gateway.folder, "SELECT count(*) FROM attempts WHERE state = 'reserved'")[0][0]
        names = [path.read_text().strip() for path in Path(f"/proc/{worker}/task").glob("*/comm")]
        if not is_open and not upstream.stats["in_flight"] and "drain" not in names:
            return
        time.sleep(0.2)
    raise AssertionError(f"not at rest after {seconds} s: {is_open} open rows, {upstream.stats}")


@pytest.mark.parametrize("path", DIALECTS)
def test_who_hangs_up_at_any_frame_pays_what_was_generated(
    gateway: Gateway, upstream: RemoteUpstream, path: str
) -> None:
    upstream.script(faults.text("one two three four five six") + faults.pace(40), vendor="openai")
    token = gateway.token()
    before = rows(gateway.folder, "SELECT count(*) FROM attempts")[0][0]
    threads = [threading.Thread(target=leave, args=(gateway, token, path, words)) for words in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for_rest(gateway, upstream)
    settled = rows(gateway.folder, "SELECT state, prompt_tokens, completion_tokens, estimated FROM attempts")[before:]
    assert settled == [("settled", 1, 6, 0)] * 7
    assert [row.output for row in upstream.bill] == [6] * 7


def leave(gateway: Gateway, token: str, path: str, words: int) -> None:
    """Read on to this many words, then close the connection; with none, as soon as the first byte is there."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as sock:
        sock.sendall(request(path, token))
        seen = b""
        while not seen or seen.count(DIALECTS[path][1]) < words:
            piece = sock.recv(65536)
            assert piece, "the stream ended early"
            seen += piece


def request(path: str, token: str) -> bytes:
    body = json.dumps({"model": "gpt-4o", "stream": True, **DIALECTS[path][0]}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def test_sigterm_ends_every_open_stream_with_an_error_frame_and_an_end(
    remote_simulator: RemoteUpstream, upstream: RemoteUpstream, tmp_path: Path
) -> None:
    environment = provider_environment(remote_simulator, "openai")  # type: ignore[arg-type]
    with gunicorn(tmp_path, WEB_CONCURRENCY="1", GRACEFUL_TIMEOUT="8", **environment) as gateway:
        upstream.script(faults.text(WORDS) + faults.pace(1000), vendor="openai")
        token = gateway.token()
        seen: dict[str, list[bytes]] = {path: [] for path in DIALECTS}
        begun = threading.Semaphore(0)
        threads = [
            threading.Thread(target=read_whole, args=(gateway, token, path, seen[path], begun))
            for path in [*DIALECTS] * 4
        ]
        for thread in threads:
            thread.start()
        assert all(begun.acquire(timeout=20) for _ in threads), "not every stream has begun"
        gateway.stop()
        for thread in threads:
            thread.join()
    assert {path: len(found) for path, found in seen.items()} == dict.fromkeys(DIALECTS, 4)
    for path, (_, word, end) in DIALECTS.items():
        for one in seen[path]:
            assert word in one
            assert one.endswith(b"\r\n0\r\n\r\n"), "the body has no end"
            assert (end in one) is (path == "/v1/chat/completions")
            assert b'"error"' in one or b"response.failed" in one
    assert rows(tmp_path, "SELECT count(*) FROM attempts WHERE state = 'reserved'") == [(0,)]
    assert rows(tmp_path, "SELECT count(*) FROM attempts WHERE completion_tokens = 0") == [(0,)]
    assert rows(tmp_path, "SELECT count(*) FROM responses") == [(0,)]


def read_whole(gateway: Gateway, token: str, path: str, seen: list[bytes], begun: threading.Semaphore) -> None:
    """``begun`` is told of the first word."""
    word, found = DIALECTS[path][1], b""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as sock:
        sock.sendall(request(path, token))
        while piece := sock.recv(65536):
            if word not in found and word in found + piece:
                begun.release()
            found += piece
    seen.append(found)
