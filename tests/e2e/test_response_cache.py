"""Two processes and one cache: what one of them was answered serves the other, and those that come after both."""

from __future__ import annotations

import os
import signal
import time
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
PROCESSES = 2
AT_ONCE = 100
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
TEXTS = {"model": "text-embedding-3-small", "input": ["one", "two"]}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def gateway(
    request: pytest.FixtureRequest, remote_simulator: RemoteUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("cache")
    environment = provider_environment(remote_simulator, "openai")  # type: ignore[arg-type]
    environment |= {"WEB_CONCURRENCY": str(PROCESSES), "DATABASE_URL": address(request.param, folder)}
    with gunicorn(folder, **environment) as running:
        yield running


def address(kind: str, folder: Path) -> str:
    if kind == "sqlite":
        return f"sqlite:///{folder / 'cache.db'}"
    return database_of_its_own() or lacking(MISSING)


def ask(gateway: Gateway, token: str, path: str, body: Any) -> tuple[str, Any]:
    """What the answer's header says, and the answer."""
    status, answer, headers = gateway.post(path, body, token, **{"X-FlaskLLM-Cache": "use"})
    assert status == 200, answer
    return headers["x-flaskllm-cache"], answer


def replace_processes(gateway: Gateway) -> None:
    """Nobody is left who has seen a question."""
    before = set(gateway.children())
    for process in before:
        os.kill(process, signal.SIGKILL)
    ends = time.monotonic() + 40
    while before & set(gateway.children()) or len(gateway.children()) < PROCESSES:
        assert time.monotonic() < ends, "no other processes came"
        time.sleep(0.05)
    gateway.wait_until_alive()


@pytest.fixture(scope="module")
def token(gateway: Gateway) -> str:
    return gateway.token()


def test_an_answer_outlives_the_process_that_asked(
    gateway: Gateway, token: str, remote_simulator: RemoteUpstream
) -> None:
    remote_simulator.reset()
    questions = [("/v1/chat/completions", CHAT), ("/v1/embeddings", TEXTS)]
    first = [ask(gateway, token, *question) for question in questions]
    assert [said for said, _ in first] == ["miss", "miss"]
    replace_processes(gateway)
    for question, (_, answer) in zip(questions, first, strict=True):
        assert [ask(gateway, token, *question) for _ in range(10)] == [("hit", answer)] * 10
    assert len(remote_simulator.requests) == 2


def test_of_a_hundred_at_once_each_process_asks_once(
    gateway: Gateway, token: str, remote_simulator: RemoteUpstream
) -> None:
    remote_simulator.reset()
    remote_simulator.script(faults.delay(1.0), vendor="openai")
    other = {**CHAT, "seed": 1}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda _: ask(gateway, token, "/v1/chat/completions", other), range(AT_ONCE)))
    said = Counter(word for word, _ in answers)
    assert set(said) == {"hit", "miss"}
    assert said["miss"] == len(remote_simulator.requests) <= PROCESSES
