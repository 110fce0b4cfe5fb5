"""The three doors in each mode: SQLite alone, PostgreSQL with Redis, and uWSGI without threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import provider_environment
from tests.databases import MISSING, database_of_its_own
from tests.e2e.servers import Gateway, gunicorn, lacking, redis_server, uwsgi
from tests.upstream import RemoteUpstream

pytestmark = pytest.mark.e2e
MODES = ("sqlite", "postgresql and redis", "uwsgi")


@pytest.fixture(scope="module", params=MODES)
def gateway(
    request: pytest.FixtureRequest, remote_simulator: RemoteUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("mode")
    environment = provider_environment(remote_simulator, "openai")  # type: ignore[arg-type]
    with ExitStack() as stack:
        if request.param == "uwsgi":
            yield stack.enter_context(uwsgi(folder, **environment))
            return
        if request.param != "sqlite":
            environment |= servers(stack, folder)
        yield stack.enter_context(gunicorn(folder, WEB_CONCURRENCY="2", **environment))


def servers(stack: ExitStack, folder: Path) -> dict[str, str]:
    address = database_of_its_own()
    if address is None:
        lacking(MISSING)
    return {"DATABASE_URL": address, "REDIS_URL": stack.enter_context(redis_server(folder))}


@pytest.fixture(scope="module")
def token(gateway: Gateway) -> str:
    return gateway.token()


def test_openais_dialect_answers_plain(gateway: Gateway, token: str) -> None:
    ask = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello there"}]}
    status, body, headers = gateway.post("/v1/chat/completions", ask, token)
    assert (status, body["choices"][0]["message"]["content"]) == (200, "echo: hello there")
    assert headers["x-flaskllm-provider"] == "openai"


def test_openais_dialect_answers_streamed(gateway: Gateway, token: str) -> None:
    ask = {"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "hello there"}]}
    status, body, _ = gateway.post("/v1/chat/completions", ask, token)
    assert status == 200
    assert body.rstrip().endswith("data: [DONE]")
    assert body.count("chat.completion.chunk") >= 3


def test_a_conversation_remembers(gateway: Gateway, token: str) -> None:
    for _ in range(3):
        status, body, _ = gateway.post("/llm/chat", {"message": "hi", "conversation_id": "mine"}, token)
        assert status == 200, body
    _, history, _ = gateway.get("/llm/get-conversation-history?conversation_id=mine", token)
    assert [one["role"] for one in history["data"]["messages"]] == ["user", "assistant"] * 3


def test_the_webhook_answers(gateway: Gateway, token: str) -> None:
    status, body, _ = gateway.call("POST", "/api/v1/webhook", {"prompt": "hello"}, None, **{"X-API-Token": token})
    assert status == 200
    assert "hello" in body["summary"]


def test_it_is_ready_and_says_its_mode(gateway: Gateway, request: pytest.FixtureRequest) -> None:
    status, body, _ = gateway.get("/health/ready")
    assert (status, body["status"]) == (200, "ok")
    assert body["mode"] == ("full" if "redis" in request.node.name else "sql")
