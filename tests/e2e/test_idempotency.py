"""Four processes and a hundred equal requests at once: one call goes out, on either database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import provider_environment
from tests.databases import MISSING, database_of_its_own
from tests.e2e.servers import Gateway, gunicorn, lacking
from tests.upstream import RemoteUpstream, faults

pytestmark = pytest.mark.e2e
REPEATS = 100
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def gateway(
    request: pytest.FixtureRequest, remote_simulator: RemoteUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("once")
    environment = provider_environment(remote_simulator, "openai")  # type: ignore[arg-type]
    with gunicorn(folder, WEB_CONCURRENCY="4", DATABASE_URL=address(request.param, folder), **environment) as running:
        yield running


def address(kind: str, folder: Path) -> str:
    if kind == "sqlite":
        return f"sqlite:///{folder / 'once.db'}"
    return database_of_its_own() or lacking(MISSING)


def test_a_hundred_repeats_at_once_are_one_call(gateway: Gateway, remote_simulator: RemoteUpstream) -> None:
    remote_simulator.reset()
    remote_simulator.script(faults.delay(1.5), vendor="openai")
    token = gateway.token()

    def ask(body: Any) -> tuple[int, Any, dict[str, str]]:
        return gateway.post("/v1/chat/completions", body, token, **{"Idempotency-Key": "one"})

    with ThreadPoolExecutor(REPEATS) as pool:
        answers = list(pool.map(ask, [CHAT] * REPEATS))
    statuses = Counter(status for status, _, _ in answers)
    assert set(statuses) == {200, 409}, statuses
    assert len([1 for status, _, headers in answers if status == 200 and "idempotency-replayed" not in headers]) == 1
    assert all("retry-after" in headers for status, _, headers in answers if status == 409)
    again, told, headers = ask(CHAT)
    assert (again, headers["idempotency-replayed"]) == (200, "true")
    assert all(body == told for status, body, _ in answers if status == 200)
    assert ask({**CHAT, "seed": 1})[1]["error"]["code"] == "idempotency_conflict"
    assert len(remote_simulator.requests) == 1
