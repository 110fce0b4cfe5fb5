"""Four processes and a storm: limits and budgets of users, models and tags are held to the last call, over all that
fall under them together; counted in SQL and in Redis."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import provider_environment
from tests.e2e.servers import Gateway, gunicorn, redis_server
from tests.e2e.test_budget import A_DOLLAR_AN_ANSWER
from tests.people import PASSWORD
from tests.upstream import RemoteUpstream, faults

pytestmark = pytest.mark.e2e
CALLS = 40
MOST = 7
"""Calls that each limit lets through."""
Storm = Counter[tuple[int, str]]


@dataclass(frozen=True)
class World:
    gateway: Gateway
    administrator: str

    def put(self, subject: str, **quota: Any) -> None:
        status, body, _ = self.gateway.call("PUT", f"/quotas/{subject}", quota, self.administrator)
        assert status == 201, body
        time.sleep(1)  # every process knows it by then

    def user(self, name: str) -> str:
        account = {"username": name, "email": f"{name}@example.com", "password": PASSWORD, "scopes": ["chat"]}
        status, body, _ = self.gateway.post("/users", account, self.administrator)
        assert status == 201, body
        return str(body["id"])

    def token(self, user_id: str, **more: Any) -> str:
        asked = {"user_id": user_id, "name": "storm", "scopes": ["chat"], **more}
        status, body, _ = self.gateway.post("/tokens", asked, self.administrator)
        assert status == 201, body
        return str(body["token"])

    def storm(self, tokens: list[str], model: str = "costly") -> Storm:
        """All at once, each over a connection of its own, the tokens in turn: how often which status and code."""
        ask = {"model": model, "max_tokens": 1000, "messages": [{"role": "user", "content": "hi"}]}

        def call(number: int) -> tuple[int, str]:
            status, _, headers = self.gateway.post("/v1/chat/completions", ask, tokens[number % len(tokens)])
            return status, headers.get("x-flaskllm-error", "")

        with ThreadPoolExecutor(CALLS) as pool:
            return Counter(pool.map(call, range(CALLS)))


@pytest.fixture(scope="module", params=["sql", "redis"])
def world(
    request: pytest.FixtureRequest, remote_simulator: RemoteUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("limits")
    overlay = folder / "models.yaml"
    overlay.write_text(A_DOLLAR_AN_ANSWER)
    environment = provider_environment(remote_simulator, "openai")  # type: ignore[arg-type]
    environment |= {"LLM_GATEWAY_CONFIG_PATH": str(overlay)}
    with contextlib.ExitStack() as stack:
        if request.param == "redis":
            environment["REDIS_URL"] = stack.enter_context(redis_server(short_folder(folder)))
        gateway = stack.enter_context(gunicorn(folder, WEB_CONCURRENCY="4", **environment))
        gateway.administrator("boss")
        account = {"username": "boss", "password": PASSWORD}
        yield World(gateway, gateway.post("/api/auth/login", account)[1]["data"]["access_token"])


def short_folder(folder: Path) -> Path:
    made = folder / "v"
    made.mkdir()
    return made


def test_requests_a_minute_of_a_user_over_all_its_tokens(world: World) -> None:
    user = world.user("ann")
    world.put(f"user:{user}", requests_per_minute=MOST)
    tokens = [world.token(user) for _ in range(3)]
    assert world.storm(tokens) == {(200, ""): MOST, (429, "rate_limited"): CALLS - MOST}


def test_requests_a_minute_of_a_model_over_all_its_callers(world: World) -> None:
    world.put("model:openai/gpt-4o-mini", requests_per_minute=MOST)
    tokens = [world.token(world.user(name)) for name in ("bob", "cid")]
    assert world.storm(tokens, "gpt-4o-mini") == {(200, ""): MOST, (429, "rate_limited"): CALLS - MOST}


def test_calls_in_flight_of_a_user_and_of_a_model(world: World, upstream: RemoteUpstream) -> None:
    dan, hal = world.user("dan"), world.user("hal")
    world.put(f"user:{dan}", concurrency=MOST)
    world.put("model:openai/gpt-4.1", concurrency=MOST)
    tokens = {"costly": [world.token(dan) for _ in range(3)], "gpt-4.1": [world.token(hal) for _ in range(3)]}
    upstream.script(faults.text("slowly") + faults.delay(6))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda model: world.storm(tokens[model], model), tokens))
    assert found == [{(200, ""): MOST, (429, "rate_limited"): CALLS - MOST}] * 2


def test_the_budget_of_a_user_over_all_its_tokens(world: World, upstream: RemoteUpstream) -> None:
    upstream.script(faults.usage(input=0, output=1000))
    user = world.user("eve")
    world.put(f"user:{user}", budgets=[{"amount": MOST, "period": "total"}])
    tokens = [world.token(user) for _ in range(3)]
    assert world.storm(tokens) == {(200, ""): MOST, (429, "budget_exceeded"): CALLS - MOST}


def test_the_budget_of_a_tag_over_all_who_carry_it(world: World, upstream: RemoteUpstream) -> None:
    upstream.script(faults.usage(input=0, output=1000))
    world.put("tag:crowd", budgets=[{"amount": MOST, "period": "total"}])
    tokens = [world.token(world.user(name), tags=["crowd"]) for name in ("fay", "gus")]
    assert world.storm(tokens) == {(200, ""): MOST, (429, "budget_exceeded"): CALLS - MOST}
