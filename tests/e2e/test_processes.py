"""``WEB_CONCURRENCY=4``: what is taken back is taken back in every process within a second."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.servers import Gateway, gunicorn

pytestmark = pytest.mark.e2e
ASKED = 40
"""Connections spread over four processes by the kernel: enough to reach each of them."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gunicorn(tmp_path_factory.mktemp("four"), WEB_CONCURRENCY="4") as running:
        yield running


def statuses(gateway: Gateway, credential: str) -> set[int]:
    return {gateway.get("/api/profile", credential)[0] for _ in range(ASKED)}


def registered(gateway: Gateway, name: str) -> dict[str, Any]:
    account = {"username": name, "email": f"{name}@example.com", "password": "Password123"}
    assert gateway.post("/api/auth/register", account)[0] == 201
    return log_in(gateway, name)


def log_in(gateway: Gateway, name: str) -> dict[str, Any]:
    status, body, _ = gateway.post("/api/auth/login", {"username": name, "password": "Password123"})
    assert status == 200, body
    return body["data"]


def test_a_revoked_token_is_refused_everywhere(gateway: Gateway) -> None:
    session = registered(gateway, "revoker")
    _, made, _ = gateway.post("/api/tokens", {"name": "short"}, session["access_token"])
    token = made["data"]["token"]
    assert statuses(gateway, token) == {200}
    gateway.call("DELETE", f"/api/tokens/{made['data']['id']}", None, session["access_token"])
    time.sleep(1)
    assert statuses(gateway, token) == {401}


def test_a_disabled_user_is_refused_everywhere(gateway: Gateway) -> None:
    access = registered(gateway, "disabled")["access_token"]
    assert statuses(gateway, access) == {200}
    gateway.flask("users", "disable", "disabled")
    time.sleep(1)
    assert statuses(gateway, access) == {401}


def test_a_changed_password_ends_the_sessions_everywhere(gateway: Gateway) -> None:
    access = registered(gateway, "changer")["access_token"]
    assert statuses(gateway, access) == {200}
    change = {"old_password": "Password123", "password": "Password456"}
    status, body, _ = gateway.call("PATCH", "/api/profile", change, access)
    assert status == 200, body
    time.sleep(1)
    assert statuses(gateway, access) == {401}


def test_a_session_that_is_logged_out_is_refused_everywhere(gateway: Gateway) -> None:
    access = registered(gateway, "leaver")["access_token"]
    assert statuses(gateway, access) == {200}
    assert gateway.post("/api/auth/logout", {}, access)[0] in (200, 204)
    time.sleep(1)
    assert statuses(gateway, access) == {401}


def test_a_refresh_token_used_twice_ends_its_whole_family(gateway: Gateway) -> None:
    first = registered(gateway, "reuser")
    status, body, _ = gateway.post("/api/auth/refresh", {"refresh_token": first["refresh_token"]})
    assert status == 200, body
    assert gateway.post("/api/auth/refresh", {"refresh_token": first["refresh_token"]})[0] == 401
    time.sleep(1)
    assert statuses(gateway, body["data"]["access_token"]) == {401}
    assert gateway.post("/api/auth/refresh", {"refresh_token": body["data"]["refresh_token"]})[0] == 401


def test_a_limit_of_fifty_a_minute_lets_fifty_through_over_all_processes(gateway: Gateway) -> None:
    token = gateway.token("--rpm", "50")
    ask = {"messages": [{"role": "user", "content": "hi"}]}
    found = [gateway.post("/v1/chat/completions", ask, token) for _ in range(70)]
    assert [status for status, _, _ in found].count(200) == 50
    assert all(1 <= int(headers["retry-after"]) <= 60 for status, _, headers in found if status == 429)


def test_the_counts_are_those_of_all_processes(gateway: Gateway) -> None:
    gateway.flask(
        "users", "create", "prometheus", "prometheus@example.com", "--admin", "--password-stdin", stdin="Password123"
    )
    administrator = log_in(gateway, "prometheus")["access_token"]
    token = gateway.token("--scope", "chat")
    before = counted(gateway, administrator)
    for _ in range(ASKED):
        assert gateway.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}, token)[0] == 200
    assert counted(gateway, administrator) - before == ASKED
    assert counted(gateway, administrator) - before == ASKED  # whichever process is asked


def counted(gateway: Gateway, token: str) -> float:
    _, text, _ = gateway.get("/metrics", token)
    lines = (line for line in str(text).splitlines() if line.startswith("flaskllm_model_calls_total{"))
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
