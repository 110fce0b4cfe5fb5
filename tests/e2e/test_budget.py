"""Four processes and a storm of calls on one token: its budget is held to the last of them, on either database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from tests.conftest import provider_environment
from tests.databases import MISSING, database_of_its_own
from tests.e2e.servers import Gateway, gunicorn, lacking
from tests.upstream import RemoteUpstream, faults

pytestmark = pytest.mark.e2e
CALLS = 200
DOLLAR = 10**9
A_DOLLAR_AN_ANSWER = """
models:
  costly:
    provider: openai
    model_name: gpt-4o
    max_tokens: 1000
    prices: [{unitOfMeasure: 1000000, currency: USD, token: {inputValue: 0, outputValue: 1000}}]
"""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def gateway(
    request: pytest.FixtureRequest, remote_simulator: RemoteUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("budget")
    overlay = folder / "models.yaml"
    overlay.write_text(A_DOLLAR_AN_ANSWER)
    environment = provider_environment(remote_simulator, "openai")  # type: ignore[arg-type]
    environment |= {"LLM_GATEWAY_CONFIG_PATH": str(overlay), "DATABASE_URL": address(request.param, folder)}
    with gunicorn(folder, WEB_CONCURRENCY="4", **environment) as running:
        yield running


def address(kind: str, folder: Path) -> str:
    if kind == "sqlite":
        return f"sqlite:///{folder / 'budget.db'}"
    return database_of_its_own() or lacking(MISSING)


def storm(gateway: Gateway, token: str, **more: Any) -> list[tuple[int, Any, dict[str, str]]]:
    """All calls at once, each over a connection of its own."""
    ask = {"model": "costly", "max_tokens": 1000, "messages": [{"role": "user", "content": "hi"}], **more}
    with ThreadPoolExecutor(CALLS) as pool:
        return list(pool.map(lambda _: gateway.post("/v1/chat/completions", ask, token), range(CALLS)))


def books(gateway: Gateway, query: str) -> list[Any]:
    engine = create_engine(gateway.environment["DATABASE_URL"])
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(text(query))]
    engine.dispose()
    return found


def budget_of(gateway: Gateway, token_id: str) -> tuple[int, int]:
    found = books(gateway, f"SELECT spent, reserved FROM budgets WHERE id = 'token:{token_id}'")
    return found[0]


@pytest.fixture
def token(gateway: Gateway) -> str:
    return gateway.token("--budget", "4", "--period", "total")


def id_of(gateway: Gateway, token: str) -> str:
    return books(gateway, f"SELECT id FROM api_tokens WHERE last4 = '{token[-4:]}'")[0][0]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_of_two_hundred_calls_the_four_that_fit_are_answered(gateway, upstream, token, stream):
    upstream.script(faults.usage(output=1000) + faults.delay(0.3), vendor="openai")
    found = storm(gateway, token, stream=stream)
    assert Counter(status for status, _, _ in found) == {200: 4, 429: CALLS - 4}
    assert {body["error"]["code"] for status, body, _ in found if status == 429} == {"budget_exceeded"}
    assert len(upstream.requests) == 4
    assert budget_of(gateway, id_of(gateway, token)) == (4 * DOLLAR, 0)


def test_what_an_answer_did_not_take_is_given_back(gateway, upstream, token):
    upstream.script(faults.usage(output=500) + faults.delay(0.3), vendor="openai")
    answered = Counter(status for status, _, _ in storm(gateway, token))
    assert set(answered) <= {200, 429}
    assert 4 <= answered[200] <= 7
    assert budget_of(gateway, id_of(gateway, token)) == (answered[200] * DOLLAR // 2, 0)


def test_calls_that_fail_cost_nothing(gateway, upstream, token):
    upstream.script(faults.status(401), vendor="openai")
    assert set(Counter(status for status, _, _ in storm(gateway, token))) <= {429, 502}
    assert budget_of(gateway, id_of(gateway, token)) == (0, 0)
