"""Where the first of two providers fails, the second answers: the same in each door."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text
from werkzeug.test import TestResponse

from flaskllm.extensions import db
from tests.actors import Caller, calls_of, frames, story_of
from tests.conftest import MakeApp, provider_environment
from tests.doors.two_providers import FIRST_FAILS, read_events, two_providers
from tests.upstream import Upstream, faults


def completion(caller: Caller) -> tuple[TestResponse, str]:
    response = caller.chat(model="both")
    return response, response.json["choices"][0]["message"]["content"]


def streamed_completion(caller: Caller) -> tuple[TestResponse, str]:
    response = caller.chat(model="both", stream=True)
    *chunks, done = frames(response.get_data())
    assert done == "[DONE]"
    return response, "".join(one["choices"][0]["delta"].get("content") or "" for one in chunks)


def conversation(caller: Caller) -> tuple[TestResponse, str]:
    response = caller.post("/llm/chat", {"message": "hello", "model": "both"})
    return response, response.json["data"]["text"]


def streamed_conversation(caller: Caller) -> tuple[TestResponse, str]:
    response = caller.post("/llm/chat", {"message": "hello", "model": "both", "stream": True})
    *deltas, (last, whole) = read_events(response.get_data())
    assert (last, whole["text"]) == ("done", "".join(delta["text"] for _, delta in deltas))
    return response, whole["text"]


def webhook(caller: Caller) -> tuple[TestResponse, str]:
    response = caller.post("/api/v1/webhook", {"prompt": "hello", "model": "both"})
    return response, response.json["summary"]


Door = Callable[[Caller], tuple[TestResponse, str]]
DOORS = [completion, streamed_completion, conversation, streamed_conversation, webhook]
each_door = pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)


@pytest.fixture
def pair(make_app: MakeApp, upstream: Upstream, tmp_path: Path) -> Flask:
    return two_providers(make_app, upstream, tmp_path)


def attempts(app: Flask) -> list[Any]:
    with app.app_context(), db.engine.connect() as connection:
        query = text("SELECT provider, state != 'reserved' FROM attempts ORDER BY number")
        return [tuple(row) for row in connection.execute(query)]


def check(response: TestResponse, said: str, app: Flask) -> None:
    assert said == "echo: hello"
    assert calls_of(response.headers) == 2
    assert response.headers["X-FlaskLLM-Provider"] == "llama"
    assert attempts(app) == [("openai", 1), ("llama", 1)]


@each_door
@pytest.mark.parametrize("fault", FIRST_FAILS.values(), ids=FIRST_FAILS)
def test_where_the_first_fails_the_second_answers(
    pair: Flask, upstream: Upstream, fault: faults.Behaviour, door: Door
) -> None:
    upstream.script(fault, vendor="openai")
    check(*door(Caller.on(pair)), pair)
    assert [seen.vendor for seen in upstream.requests] == ["openai", "llama"]


@each_door
def test_where_the_first_refuses_the_connection_the_second_answers(
    make_app: MakeApp, upstream: Upstream, tmp_path: Path, door: Door
) -> None:
    app = two_providers(make_app, upstream, tmp_path, OPENAI_BASE_URL=upstream.endpoint("closed"))
    check(*door(Caller.on(app)), app)


@each_door
def test_where_the_first_never_answers_the_handshake_the_second_answers(
    make_app: MakeApp, upstream: Upstream, tmp_path: Path, door: Door
) -> None:
    app = two_providers(make_app, upstream, tmp_path, OPENAI_BASE_URL=upstream.endpoint("black_hole"))
    check(*door(Caller.on(app)), app)


@pytest.mark.alone
@pytest.mark.parametrize("door", [completion, streamed_conversation])
def test_without_a_time_of_its_own_a_first_that_hangs_leaves_room_for_the_second(
    make_app: MakeApp, upstream: Upstream, tmp_path: Path, door: Door
) -> None:
    app = two_providers(make_app, upstream, tmp_path, patience=None, REQUEST_TIMEOUT="3")
    upstream.script(faults.hang(), vendor="openai")
    caller, began = Caller.on(app), time.monotonic()
    check(*door(caller), app)
    assert time.monotonic() - began < 3


def test_after_the_first_frame_nobody_else_is_asked(make_app: MakeApp, upstream: Upstream, tmp_path: Path) -> None:
    pair = two_providers(make_app, upstream, tmp_path, patience=None)
    upstream.script(faults.text("one two three four") + faults.reset_after(3), vendor="openai")
    asked = {"message": "hello", "model": "both", "stream": True}
    *deltas, (last, told) = read_events(Caller.on(pair).post("/llm/chat", asked).get_data())
    assert "".join(delta["text"] for _, delta in deltas).startswith("one")
    assert (last, told["error"]["code"]) == ("error", "provider_error")
    assert attempts(pair) == [("openai", 1)]


@pytest.fixture
def patient(make_app: MakeApp, upstream: Upstream, tmp_path: Path) -> Flask:
    """Where nobody is given up, however slow this machine is."""
    return two_providers(make_app, upstream, tmp_path, patience=None)


def test_the_header_tells_the_story(patient: Flask, upstream: Upstream) -> None:
    caller = Caller.on(patient)
    for fault, outcome in [(faults.status(500), "error"), (faults.status(401), "key_rejected")]:
        upstream.script(fault, vendor="openai", times=1)
        told = caller.chat(model="both").headers
        assert story_of(told) == [("openai/first", "main", outcome), ("llama/second", "main", "ok")]


def test_a_streams_story_goes_on_when_its_headers_go_out(patient: Flask, upstream: Upstream) -> None:
    upstream.script(faults.status(500), vendor="openai")
    response = Caller.on(patient).chat(model="both", stream=True)
    response.get_data()
    assert story_of(response.headers) == [("openai/first", "main", "error"), ("llama/second", "main", "open")]


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_tells_the_story_too(patient: Flask, upstream: Upstream, stream: bool) -> None:
    upstream.script(faults.status(500), vendor="openai")
    upstream.script(faults.status(403), vendor="llama")
    response = Caller.on(patient).chat(model="both", stream=stream, status=502)
    assert story_of(response.headers) == [("openai/first", "main", "error"), ("llama/second", "main", "key_rejected")]


def test_a_refused_request_tells_who_refused_it(patient: Flask, upstream: Upstream) -> None:
    upstream.script(faults.status(400), vendor="openai")
    response = Caller.on(patient).chat(model="both", status=400)
    assert story_of(response.headers) == [("openai/first", "main", "refused")]


def test_where_an_account_has_no_credit_its_key_is_put_aside_and_the_second_answers(
    make_app: MakeApp, upstream: Upstream, tmp_path: Path
) -> None:
    overlay = tmp_path / "models.yaml"
    overlay.write_text(
        "models:\n  first: {provider: anthropic, model_name: claude-sonnet-5, aliases: [both]}\n"
        "  second: {provider: llama, aliases: [both]}\n"
    )
    environment = provider_environment(upstream, "anthropic", "llama")
    app = make_app(LLM_GATEWAY_CONFIG_PATH=str(overlay), **environment)
    app.test_cli_runner().invoke(args=["seed"])
    upstream.script("insufficient_quota", vendor="anthropic")
    caller = Caller.on(app)
    stories = [story_of(caller.chat(model="both").headers) for _ in range(2)]
    assert stories[0] == [("anthropic/first", "main", "key_rejected"), ("llama/second", "main", "ok")]
    assert stories[1] == [("llama/second", "main", "ok")]
    assert caller.chat(model="anthropic/first", status=502).json["error"]["code"] == "provider_error"
