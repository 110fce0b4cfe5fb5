"""The cache where an answer is not one to keep, was kept by another version, or a name stands for several models."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from flaskllm.extensions import db
from tests.actors import Caller, access_token, frames
from tests.conftest import MakeApp, provider_environment
from tests.upstream import Upstream, faults

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
OTHER_VERSIONS = ["{", "{}", '{"cost":0,"body":{},"usage":{"no_such":1},"dropped":[],"raw":null,"own":null}']


def ask(app: Flask, caller: Caller, **more: Any) -> Any:
    """Whatever comes of it, read to its end; each over a client of its own."""
    headers = {**caller.headers, "X-FlaskLLM-Cache": "use"}
    answer = app.test_client().post("/v1/chat/completions", json=CHAT | more, headers=headers)
    answer.get_data()
    return answer


def said(answer: Any) -> str:
    return str(answer.headers.get("X-FlaskLLM-Cache"))


@pytest.fixture
def openai(make_app: MakeApp, upstream: Upstream) -> Flask:
    return make_app(**provider_environment(upstream, "openai"))


@pytest.mark.parametrize("held", OTHER_VERSIONS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_row_of_another_version_is_a_miss(openai: Flask, upstream: Upstream, held: str, stream: bool) -> None:
    caller = Caller.on(openai, concurrency=1)
    ask(openai, caller)
    with openai.app_context(), db.engine.begin() as connection:
        connection.execute(text("UPDATE answers SET body = :held"), {"held": held.encode()})
    answer = ask(openai, caller, stream=stream)
    assert (answer.status_code, said(answer), len(upstream.requests)) == (200, "miss", 2)


@pytest.mark.parametrize("ending", [faults.finish("length"), faults.status(400)])
def test_equal_questions_whose_answer_is_not_kept_do_not_queue_up(
    openai: Flask, upstream: Upstream, ending: faults.Behaviour
) -> None:
    upstream.script(faults.delay(0.5) + ending, vendor="openai")
    caller = Caller.on(openai)
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: ask(openai, caller), range(8)))
    assert time.monotonic() - began < 3  # one after the other: 4 s and more


def test_of_many_equal_streams_at_once_one_is_asked(openai: Flask, upstream: Upstream) -> None:
    upstream.script(faults.delay(0.3), vendor="openai")
    caller = Caller.on(openai)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(openai, caller, stream=True), range(8)))
    assert {frames(answer.get_data())[-1] for answer in answers} == {"[DONE]"}
    assert len(upstream.requests) == 1


def test_what_was_streamed_is_kept(openai: Flask, upstream: Upstream) -> None:
    caller = Caller.on(openai)
    ask(openai, caller, stream=True)
    assert said(ask(openai, caller)) == "hit"
    assert len(upstream.requests) == 1


def test_a_name_for_several_models_is_one_question(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(**provider_environment(upstream, "openai"))
    admin = Caller(app.test_client(), access_token(app, "boss", admin=True))
    targets = [{"model": "openai/gpt-4o"}, {"model": "openai/gpt-4o-mini"}]
    admin.post("/routes", {"name": "r", "strategy": "weighted", "targets": targets}, status=201)
    caller = Caller.on(app)
    assert [said(ask(app, caller, model="r")) for _ in range(12)].count("miss") == 1


def test_a_route_that_was_changed_is_another_question(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(**provider_environment(upstream, "openai"))
    admin = Caller(app.test_client(), access_token(app, "boss", admin=True))
    admin.post("/routes", {"name": "r", "targets": [{"model": "openai/gpt-4o"}]}, status=201)
    caller = Caller.on(app)
    ask(app, caller, model="r")
    changed = admin.http.put("/routes/r", json={"targets": [{"model": "openai/gpt-4o-mini"}]}, headers=admin.headers)
    assert changed.status_code == 200
    assert [said(ask(app, caller, model="r")) for _ in range(2)] == ["miss", "hit"]


def test_who_stood_in_is_not_kept(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(**provider_environment(upstream, "openai", "anthropic"))
    caller = Caller.on(app)
    upstream.script(faults.status(500), vendor="openai")
    answers = [ask(app, caller, model="auto") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert [said(answer) for answer in answers] == ["miss", "miss"]


def test_what_was_streamed_comes_back_word_for_word(openai: Flask, upstream: Upstream) -> None:
    caller = Caller.on(openai)
    streamed = frames(ask(openai, caller, stream=True).get_data())[:-1]
    words = "".join(one["choices"][0]["delta"].get("content") or "" for one in streamed)
    whole = ask(openai, caller)
    assert said(whole) == "hit"
    assert whole.json["choices"][0]["message"] == {"role": "assistant", "content": words}
    assert (whole.json["id"], whole.json["object"]) == (streamed[0]["id"], "chat.completion")
    assert whole.json["usage"]["total_tokens"] > 0


def test_a_stream_that_breaks_off_is_not_kept_and_holds_nobody_up(openai: Flask, upstream: Upstream) -> None:
    caller = Caller.on(openai)
    upstream.script(faults.status(400), vendor="openai")
    assert ask(openai, caller, stream=True).status_code == 400
    upstream.reset()
    assert said(ask(openai, caller)) == "miss"


def test_a_hit_needs_no_provider(openai: Flask, upstream: Upstream) -> None:
    caller = Caller.on(openai)
    ask(openai, caller)
    upstream.script(faults.status(500), vendor="openai")
    for number in range(6):
        ask(openai, caller, messages=[{"role": "user", "content": str(number)}])
    assert said(ask(openai, caller)) == "hit"
