"""``Idempotency-Key`` at every door that spends money."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text
from werkzeug.test import TestResponse

from flaskllm.extensions import db
from flaskllm.models.types import now
from tests.actors import Caller, access_token, frames
from tests.conftest import MakeApp, provider_environment
from tests.upstream import Upstream, faults

HELLO = [{"role": "user", "content": "hello"}]
CHAT = {"model": "gpt-4o", "messages": HELLO}
TEXTS = {"model": "openai/text-embedding-3-small", "input": "hello"}
PICTURE = {"model": "openai/gpt-image-1-mini", "prompt": "a kite"}
THREE = {"X-Correlation-Id": "7f1f8a3c-3c0e-4a9e-9a51-7a1f3a2b4c5d", "X-User-Id": "ana", "X-Client-Id": "app"}
DOORS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT),
    ("/v1/messages", {**CHAT, "max_tokens": 50}),
    ("/v1/responses", {"model": "gpt-4o", "input": "hello"}),
    ("/v1/embeddings", TEXTS),
    ("/v1/images/generations", PICTURE),
    ("/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21", {"messages": HELLO}),
    ("/openai/deployments/openai/text-embedding-3-small/embeddings", {"input": "hello"}),
    ("/openai/deployments/openai/gpt-image-1-mini/images/generations", {"prompt": "a kite"}),
    ("/api/v1/webhook", {"prompt": "hello", "model": "gpt-4o"}),
    ("/llm/chat", {"message": "hello", "model": "gpt-4o"}),
    ("/llm-gate/v1/chat", {"provider": {"model": {"name": "gpt-4o"}}, "prompt": {"messages": HELLO}}),
    ("/llm-gate/v1/embeddings", {"provider": {"model": {"name": "text-embedding-3-small"}}, "input": "hello"}),
    (
        "/llm-gate/v1/images/generations",
        {"provider": {"model": {"name": "gpt-image-1-mini"}}, "prompt": {"message": "a kite"}},
    ),
]


def ask(caller: Caller, key: str = "k-1", body: Any = None, path: str = "/v1/chat/completions", **more: Any) -> Any:
    return caller.post(path, CHAT if body is None else body, headers={"Idempotency-Key": key, **THREE}, **more)


def asked(upstream: Upstream) -> int:
    return len(upstream.requests)


def change(app: Flask, statement: str, **values: Any) -> None:
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(text(statement), values)


def count(app: Flask, table: str) -> int:
    with app.app_context(), db.engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


@pytest.fixture
def openai(make_app: MakeApp, upstream: Upstream) -> Flask:
    return make_app(**provider_environment(upstream, "openai"))


@pytest.mark.parametrize("path, body", DOORS, ids=[path for path, _ in DOORS])
def test_the_same_request_is_answered_once(openai: Flask, upstream: Upstream, path: str, body: dict[str, Any]) -> None:
    caller = Caller.on(openai)
    first, second = (ask(caller, body=body, path=path) for _ in range(2))
    assert asked(upstream) == 1
    assert second.data == first.data
    assert second.content_type == first.content_type
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    assert (first.headers["X-FlaskLLM-Cache"], second.headers["X-FlaskLLM-Cache"]) == ("none", "hit")
    assert (second.headers["X-FlaskLLM-Cost"], second.headers["X-FlaskLLM-Attempts"]) == ("0", "0")
    assert second.headers["X-FlaskLLM-Model"] == first.headers["X-FlaskLLM-Model"]
    assert second.headers["X-Request-Id"] != first.headers["X-Request-Id"]
    assert (count(openai, "calls"), count(openai, "attempts")) == (1, 1)


def test_every_door_to_a_model_takes_a_key(openai: Flask) -> None:
    """But the one that spends nothing. The document says which do."""
    document = openai.test_client().get("/openapi.json").json
    doors = {
        path: {one["name"] for one in each["post"].get("parameters", [])}
        for path, each in document["paths"].items()
        if "402" in each.get("post", {}).get("responses", {})
    }
    assert [path for path, names in doors.items() if "Idempotency-Key" not in names] == ["/v1/messages/count_tokens"]
    assert len(doors) == len(DOORS) + 2, "and a range, of which tests/doors/test_ranges.py tells"
    assert all("409" in document["paths"][path]["post"]["responses"] for path in doors if "count_tokens" not in path)


def test_the_order_of_fields_is_not_another_body(openai: Flask, upstream: Upstream) -> None:
    caller = Caller.on(openai)
    ask(caller, body=CHAT)
    ask(caller, body=dict(reversed(CHAT.items())))
    assert asked(upstream) == 1


@pytest.mark.parametrize(
    "path, body", [("/v1/chat/completions", {**CHAT, "seed": 1}), ("/v1/responses", {"input": "hello"})]
)
def test_another_request_under_the_key_is_a_409(
    openai: Flask, upstream: Upstream, path: str, body: dict[str, Any]
) -> None:
    caller = Caller.on(openai)
    ask(caller)
    refused = ask(caller, body=body, path=path, status=409)
    assert refused.json["error"]["code"] == refused.headers["X-FlaskLLM-Error"] == "idempotency_conflict"
    assert refused.headers["x-should-retry"] == "false"
    assert asked(upstream) == 1


def test_a_key_belongs_to_its_token(openai: Flask, upstream: Upstream) -> None:
    ask(Caller.on(openai, name="one"))
    answer = ask(Caller.on(openai, name="two"), body={**CHAT, "seed": 1})
    assert "Idempotency-Replayed" not in answer.headers
    assert asked(upstream) == 2


def test_a_key_belongs_to_the_user_of_a_session(openai: Flask, upstream: Upstream) -> None:
    ana, eve = (Caller(openai.test_client(), access_token(openai, name)) for name in ("ana", "eve"))
    ask(ana)
    assert "Idempotency-Replayed" in ask(ana).headers
    assert "Idempotency-Replayed" not in ask(eve).headers
    assert asked(upstream) == 2


def test_who_lost_the_right_is_not_answered_from_the_store(openai: Flask) -> None:
    tokens = openai.extensions["flaskllm"].tokens
    caller = Caller.on(openai)
    ask(caller)
    tokens.revoke_any(tokens.identify(caller.token).token_id)
    assert "Idempotency-Replayed" not in ask(caller, status=401).headers


@pytest.mark.parametrize("key", ["", " ", "é", "a\tb", "k" * 256])
def test_a_key_that_is_none_is_told_by_name(openai: Flask, upstream: Upstream, key: str) -> None:
    refused = ask(Caller.on(openai), key, status=400)
    assert refused.json["error"]["param"] == "Idempotency-Key"
    assert asked(upstream) == 0


def test_the_longest_key_is_taken(openai: Flask) -> None:
    caller = Caller.on(openai)
    ask(caller, "k" * 255)
    assert "Idempotency-Replayed" in ask(caller, "k" * 255).headers


def test_a_beta_of_anthropics_is_part_of_the_request(openai: Flask) -> None:
    caller = Caller.on(openai)
    body, key = {**CHAT, "max_tokens": 50}, {"Idempotency-Key": "k"}
    caller.post("/v1/messages", body, headers=key)
    refused = caller.post("/v1/messages", body, headers={**key, "anthropic-beta": "some-2026"}, status=409)
    assert refused.headers["X-FlaskLLM-Error"] == "idempotency_conflict"


def test_a_stream_takes_no_notice_of_it(openai: Flask, upstream: Upstream) -> None:
    caller = Caller.on(openai)
    for _ in range(2):
        answer = ask(caller, body={**CHAT, "stream": True})
        assert frames(answer.get_data())[-1] == "[DONE]"
        assert "Idempotency-Replayed" not in answer.headers
    assert (asked(upstream), count(openai, "answers")) == (2, 0)


def test_while_it_runs_a_repeat_is_told_to_wait(openai: Flask, upstream: Upstream) -> None:
    upstream.script(faults.delay(0.7), vendor="openai")
    caller = Caller.on(openai)

    def one(_: int) -> TestResponse:
        return Caller(openai.test_client(), caller.token).http.post(
            "/v1/chat/completions", json=CHAT, headers={**caller.headers, "Idempotency-Key": "k"}
        )

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, range(8)))
    assert sorted(each.status_code for each in answers) == [200] + [409] * 7
    for waiting in (each for each in answers if each.status_code == 409):
        assert waiting.json["error"]["code"] == "conflict"
        assert int(waiting.headers["Retry-After"]) >= 1
        assert "x-should-retry" not in waiting.headers
    assert asked(upstream) == 1


@pytest.mark.parametrize(
    "fault, status", [(faults.status(500), 502), (faults.status(429), 429), (faults.status(401), 502)]
)
def test_a_failure_that_may_pass_frees_the_key(openai: Flask, upstream: Upstream, fault: Any, status: int) -> None:
    caller = Caller.on(openai)
    upstream.script(fault, vendor="openai")
    ask(caller, status=status)
    upstream.reset()
    assert "Idempotency-Replayed" not in ask(caller).headers


def test_what_was_refused_before_a_call_frees_the_key(openai: Flask) -> None:
    caller = Caller.on(openai)
    ask(caller, body={"messages": "hi"}, status=400)
    ask(caller, body={**CHAT, "model": "gpt-99"}, status=404)
    ask(caller)
    assert count(openai, "answers") == 1


def test_a_providers_refusal_is_an_answer(openai: Flask, upstream: Upstream) -> None:
    caller = Caller.on(openai)
    upstream.script(faults.status(422), vendor="openai")
    first = ask(caller, status=400)
    second = ask(caller, status=400)
    assert asked(upstream) == 1
    assert second.data == first.data
    assert second.headers["X-FlaskLLM-Error"] == "invalid_request"
    assert second.headers["Idempotency-Replayed"] == "true"


def test_a_repeat_counts_as_a_request(openai: Flask) -> None:
    caller = Caller.on(openai, requests_per_minute=2)
    ask(caller)
    assert ask(caller).headers["x-ratelimit-remaining-requests"] == "0"
    assert ask(caller, status=429).json["error"]["code"] == "rate_limited"


def test_a_process_that_died_leaves_a_lease_that_ends(openai: Flask, upstream: Upstream) -> None:
    caller = Caller.on(openai)
    ask(caller)
    change(openai, "UPDATE answers SET status = NULL, body = NULL")
    assert ask(caller, status=409).json["error"]["code"] == "conflict"
    change(openai, "UPDATE answers SET lease_ends = :then", then=now().replace(tzinfo=None) - timedelta(seconds=1))
    ask(caller)
    assert asked(upstream) == 2


def test_after_a_day_it_is_gone(openai: Flask, upstream: Upstream) -> None:
    caller = Caller.on(openai)
    ask(caller)
    change(openai, "UPDATE answers SET expires_at = :then", then=now().replace(tzinfo=None) - timedelta(seconds=1))
    assert openai.extensions["flaskllm"].idempotency.sweep() == 1
    assert count(openai, "answers") == 0
    ask(caller, body={**CHAT, "seed": 1})
    assert asked(upstream) == 2


def test_what_is_kept_is_kept_for_a_day_without_key_or_question(openai: Flask) -> None:
    asked = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x-marks"}]}
    ask(Caller.on(openai), "my-own-name", body=asked)
    with openai.app_context(), db.engine.connect() as connection:
        row = connection.execute(text("SELECT * FROM answers")).mappings().one()
    said = str({name: value for name, value in row.items() if name != "body"})
    assert "my-own-name" not in said
    assert "x-marks" not in said
    assert openai.extensions["flaskllm"].idempotency.sweep() == 0
    assert str(row["expires_at"])[:10] == str((now() + timedelta(days=1)).date())


def test_of_an_answer_that_was_too_large_to_keep_it_is_told(openai: Flask, upstream: Upstream) -> None:
    caller = Caller.on(openai)
    ask(caller)
    change(openai, "UPDATE answers SET body = NULL")
    refused = ask(caller, status=409)
    assert "too large" in refused.json["error"]["message"]
    assert refused.headers["x-should-retry"] == "false"
    assert asked(upstream) == 1
