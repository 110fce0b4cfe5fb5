"""Tokens a minute over HTTP: counted by estimate before a call, and to the number of what it took after it."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from flaskllm.extensions import db
from tests.actors import Caller
from tests.conftest import MakeApp, provider_environment
from tests.upstream import Upstream, faults

LIMIT = 10_000


@pytest.fixture
def caller(make_app: MakeApp, upstream: Upstream) -> Caller:
    app = make_app(**provider_environment(upstream, "openai", "llama"))
    return Caller.on(app, tokens_per_minute=LIMIT)


def left(caller: Caller) -> int:
    """What a question that costs nobody anything is told is left: its own prompt, which is refused, takes nothing."""
    response = caller.chat("x" * 20 * LIMIT, model="gpt-4o", status=429)
    assert response.headers["X-FlaskLLM-Error"] == "rate_limited"
    return int(response.headers["x-ratelimit-remaining-tokens"])


def test_an_answer_says_what_is_left_after_it(caller: Caller, upstream: Upstream) -> None:
    upstream.script(faults.usage(input=700, output=300), vendor="openai")
    response = caller.chat(model="gpt-4o")
    assert response.json["usage"]["total_tokens"] == 1000
    assert response.headers["x-ratelimit-limit-tokens"] == str(LIMIT)
    assert response.headers["x-ratelimit-remaining-tokens"] == str(LIMIT - 1000)
    assert left(caller) == LIMIT - 1000


def test_cached_and_reasoning_tokens_count_once(caller: Caller, upstream: Upstream) -> None:
    upstream.script(faults.usage(input=100, cached=600, output=100, reasoning=200), vendor="openai")
    assert caller.chat(model="gpt-4o").headers["x-ratelimit-remaining-tokens"] == str(LIMIT - 1000)


def test_a_stream_is_counted_at_its_end(caller: Caller, upstream: Upstream) -> None:
    upstream.script(faults.usage(input=700, output=300), vendor="openai")
    caller.stream(model="gpt-4o")
    assert left(caller) == LIMIT - 1000


def test_a_stream_that_is_left_is_counted_by_its_bill(caller: Caller, upstream: Upstream) -> None:
    upstream.script(faults.usage(input=700, output=300), vendor="openai")
    response = caller.chat(model="gpt-4o", stream=True)
    next(response.response.__iter__())
    response.close()
    caller.http.application.extensions["flaskllm"].chat._drains.wait(10)
    assert left(caller) == LIMIT - 1000


@pytest.mark.parametrize("stream", [False, True])
def test_a_provider_that_fails_takes_no_tokens(caller: Caller, upstream: Upstream, stream: bool) -> None:
    upstream.script(faults.status(500), vendor="openai")
    caller.chat("a prompt of some words", model="gpt-4o", stream=stream, status=502)
    assert left(caller) == LIMIT


def test_one_that_a_budget_refuses_takes_none_either(caller: Caller) -> None:
    poor = Caller.on(caller.http.application, tokens_per_minute=LIMIT, budget={"amount": 0.000001, "period": "day"})
    poor.chat("a prompt of some words", model="gpt-4o", status=429)
    assert left(poor) == LIMIT


def test_an_answer_that_cannot_be_used_counts_as_it_is_booked(caller: Caller, upstream: Upstream) -> None:
    upstream.script(faults.raw({"choices": [{"message": {"content": 5}}]}), vendor="openai")
    caller.chat(model="gpt-4o", status=502)
    with caller.http.application.app_context(), db.engine.connect() as connection:
        taken = connection.execute(text("SELECT sum(prompt_tokens + completion_tokens) FROM attempts")).scalar()
    assert taken > 0
    assert left(caller) == LIMIT - taken


def test_every_door_takes_from_the_same_window(caller: Caller, upstream: Upstream) -> None:
    for _ in range(4):
        upstream.script(faults.usage(input=70, output=30), vendor="openai")
    caller.chat(model="gpt-4o")
    caller.post("/v1/messages", {
        "model": "gpt-4o", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}],
    })  # fmt: skip
    caller.post("/api/v1/webhook", {"prompt": "hi", "model": "gpt-4o"})
    caller.post("/llm/chat", {"message": "hi", "model": "gpt-4o"})
    assert left(caller) == LIMIT - 400


def test_where_all_tokens_are_taken_the_next_call_waits(caller: Caller, upstream: Upstream) -> None:
    upstream.script(faults.usage(input=700, output=LIMIT), vendor="openai")
    assert caller.chat(model="gpt-4o").headers["x-ratelimit-remaining-tokens"] == "0"
    response = caller.chat("hi", model="gpt-4o", status=429)
    assert 1 <= int(response.headers["Retry-After"]) <= 60
