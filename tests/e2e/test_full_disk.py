"""A disk that is full while the gateway runs: writes are refused clearly, reads go on, nothing is half written, nobody
dies, and everything works again by itself. The disk is a small one of the test's own, in a namespace of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import provider_environment
from tests.e2e.disks import disk, full, on_a_small_disk, rows_on
from tests.e2e.outages import eventually
from tests.e2e.servers import Gateway
from tests.upstream import RemoteUpstream

pytestmark = pytest.mark.e2e
ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello " * 500}]}
ROUNDS = int(os.environ.get("FULL_DISKS", "3"))
ACCOUNT = {"username": "bob", "email": "bob@example.com", "password": "Password123"}


@pytest.fixture
def gateway(remote_simulator: RemoteUpstream, upstream: RemoteUpstream, tmp_path: Path) -> Iterator[Gateway]:
    """Two processes on six megabytes."""
    environment = provider_environment(remote_simulator, "openai")  # type: ignore[arg-type]
    with on_a_small_disk(tmp_path, 6, WEB_CONCURRENCY="2", **environment) as made:
        yield made


def refuses_writes(gateway: Gateway, token: str) -> bool:
    """What room the database had within its files may take a few rows yet; nothing else is answered, ever."""
    status, body, headers = gateway.post("/v1/chat/completions", ASK, token)
    assert status in (200, 503), body
    if status == 503:
        assert body["error"]["code"] == headers["x-flaskllm-error"] == "unavailable"
        assert int(headers["retry-after"]) >= 1
    return status == 503


def test_writes_are_refused_reads_go_on_and_all_is_well_when_there_is_room_again(
    gateway: Gateway, upstream: RemoteUpstream
) -> None:
    token, processes = (gateway.folder / "token").read_text(), gateway.children()
    registered: list[int] = []
    for _ in range(ROUNDS):
        eventually(lambda: not refuses_writes(gateway, token), 10)
        with full(disk(gateway)):
            eventually(lambda: refuses_writes(gateway, token), 20)
            for _ in range(4):  # both processes
                refuses_writes(gateway, token)
                registered.append(gateway.post("/api/auth/register", ACCOUNT)[0])
                for path in ("/v1/models", "/api/usage", "/llm/conversations", "/api/v1/templates", "/health/live"):
                    assert gateway.get(path, token)[0] == 200, path
    eventually(lambda: not refuses_writes(gateway, token), 10)
    assert gateway.children() == processes
    assert rows_on(gateway, "PRAGMA integrity_check") == [("ok",)]
    eventually(lambda: not rows_on(gateway, "SELECT 1 FROM attempts WHERE state = 'reserved'"), 30)
    assert rows_on(gateway, "SELECT count(*) FROM attempts WHERE state = 'settled'") == [(len(upstream.requests),)]
    assert rows_on(gateway, "SELECT count(*) FROM calls WHERE status = 200") == [(len(upstream.requests),)]
    assert set(registered) <= {201, 409, 503}
    assert rows_on(gateway, "SELECT count(*) FROM users WHERE username = 'bob'") == [(registered.count(201),)]
