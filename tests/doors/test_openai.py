"""``/v1/chat/completions`` and ``/v1/models`` over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from flaskllm.extensions import db
from tests.actors import Caller, story_of
from tests.conftest import MakeApp, provider_environment
from tests.upstream import Upstream, faults

NEVER_TOLD = ("fl_", "sk-sim", "Traceback", "<html")


def rows(app: Flask, query: str) -> list[Any]:
    with app.app_context(), db.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def test_demo_answers_without_any_key(caller: Caller) -> None:
    body = caller.chat("hello").json
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "[demo] hello", "refusal": None}
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]


def test_an_answer_says_who_gave_it_and_what_it_cost(gateway: Flask) -> None:
    headers = Caller.on(gateway).chat(model="gpt-4o").headers
    assert headers["X-FlaskLLM-Provider"] == "openai"
    assert headers["X-FlaskLLM-Model"] == "gpt-4o"
    assert story_of(headers) == [("openai/gpt-4o", "main", "ok")]
    assert float(headers["X-FlaskLLM-Cost"]) > 0
    assert headers["x-ratelimit-limit-requests"] == "100000"


def test_the_providers_own_bytes_are_passed_on(gateway: Flask) -> None:
    body = Caller.on(gateway).chat(model="gpt-4o").json
    assert body["system_fingerprint"] == "fp_sim"


def test_a_field_nobody_knows_reaches_a_provider_of_the_same_wire(gateway: Flask, upstream: Upstream) -> None:
    Caller.on(gateway).chat(model="llama/llama-7b-instruct", mirostat=2)
    assert upstream.requests[-1].body["mirostat"] == 2


def test_a_field_nobody_knows_is_refused_by_name_for_another_wire(gateway: Flask) -> None:
    body = Caller.on(gateway).chat(model="gemini/gemini-2.5-flash", mirostat=2, status=400).json
    assert body["error"]["param"] == "mirostat"


@pytest.mark.parametrize("name", ["api_base", "base_url", "headers", "api_key", "timeout", "extra_body"])
def test_routing_is_not_a_callers_to_set(gateway: Flask, upstream: Upstream, name: str) -> None:
    body = Caller.on(gateway).chat(model="gpt-4o", status=400, **{name: "http://evil.test"}).json
    assert body["error"]["param"] == name
    assert upstream.requests == []


@pytest.mark.parametrize(
    "body, field",
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [3]}, "messages[0]"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": "x"}], "temperature": "hot"}, "temperature"),
        ({"messages": [{"role": "user", "content": "x"}], "temperature": 3}, "temperature"),
        ({"messages": [{"role": "user", "content": "x"}], "temperature": True}, "temperature"),
        ({"messages": [{"role": "user", "content": "x"}], "n": 0}, "n"),
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": -1}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": 2**60}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "x"}], "stream": "yes"}, "stream"),
        ({"messages": [{"role": "user", "content": "x"}], "stop": ["a"] * 5}, "stop"),
        ({"messages": [{"role": "user", "content": "x"}], "metadata": {"a": 1}}, "metadata"),
        ({"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]}, "tools[0].function.name"),
        ({"messages": [{"role": "user", "content": "x"}], "model": 7}, "model"),
    ],
)
def test_bad_input_is_told_by_field(caller: Caller, body: dict[str, Any], field: str) -> None:
    response = caller.post("/v1/chat/completions", body, status=400)
    error = response.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["param"], error["code"], error["type"]) == (field, "invalid_request", "invalid_request_error")
    assert response.headers["X-FlaskLLM-Error"] == "invalid_request"


@pytest.mark.parametrize("text", [{}, [None, None], 5, None])
def test_a_text_that_is_none_in_a_part_of_another_type_is_not_read(caller: Caller, text: Any) -> None:
    parts = [{"type": "text", "text": "hello"}, {"type": "file", "file": {}, "text": text}]
    answer = caller.post("/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]})
    assert answer.json["choices"][0]["message"]["content"] == "[demo] hello"


def test_an_unknown_model_is_a_404_in_the_dialect(caller: Caller) -> None:
    error = caller.chat(model="gpt-99", status=404).json["error"]
    assert (error["code"], error["type"]) == ("not_found", "not_found_error")


def test_a_model_whose_provider_is_off_names_the_variable_to_set(caller: Caller) -> None:
    assert "OPENAI_API_KEY" in caller.chat(model="openai/gpt-4o", status=404).json["error"]["message"]


def test_a_stream_ends_with_done_and_speaks_of_usage_only_if_asked(gateway: Flask) -> None:
    caller = Caller.on(gateway)
    assert not any("usage" in frame for frame in caller.stream(model="gpt-4o")[:-1])
    *_, last, done = caller.stream(model="gpt-4o", stream_options={"include_usage": True})
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] > 0
    assert last["usage"]["cost"] > 0


def test_every_call_leaves_one_settled_attempt_and_one_row(gateway: Flask) -> None:
    caller = Caller.on(gateway)
    caller.chat("one two", model="gpt-4o", metadata={"sheet": "A"})
    caller.stream("one two", model="gpt-4o")
    assert rows(gateway, "SELECT state, reserved > 0, cost > 0 FROM attempts") == [("settled", 1, 1)] * 2
    calls = rows(
        gateway, "SELECT model, backend_model, provider, status, prompt_tokens, completion_tokens, metadata FROM calls"
    )
    assert calls == [
        ("gpt-4o", "gpt-4o", "openai", 200, 2, 3, '{"sheet": "A"}'),
        ("gpt-4o", "gpt-4o", "openai", 200, 2, 3, None),
    ]


# -- upstream faults ---------------------------------------------------------------------------------------------------

PLAIN_FAULTS: list[tuple[Any, int, str]] = [
    (faults.hang(), 504, "provider_timeout"),
    (faults.drip(), 504, "provider_timeout"),
    (faults.reset(), 502, "provider_error"),
    (faults.half_json(), 502, "provider_error"),
    (faults.html(), 502, "provider_error"),
    (faults.invalid_utf8(), 502, "provider_error"),
    (faults.empty_body(), 502, "provider_error"),
    (faults.null_body(), 502, "provider_error"),
    (faults.no_choices(), 502, "provider_error"),
    (faults.error_in_200(), 502, "provider_error"),
    (faults.huge(21), 502, "provider_error"),
    (faults.redirect("/elsewhere"), 502, "provider_error"),
    (faults.status(401), 502, "provider_error"),
    (faults.status(402), 502, "provider_error"),
    (faults.status(403), 502, "provider_error"),
    (faults.status(404), 502, "provider_error"),
    (faults.status(408), 504, "provider_timeout"),
    (faults.status(413), 400, "invalid_request"),
    (faults.status(422), 400, "invalid_request"),
    (faults.status(500), 502, "provider_error"),
    (faults.status(529), 502, "provider_error"),
    (faults.echo_key(400), 400, "invalid_request"),
]


@pytest.mark.parametrize(
    "fault, status, code", PLAIN_FAULTS, ids=lambda value: getattr(value, "to_json", lambda: value)()
)
def test_what_a_provider_does_wrong_is_told_in_the_dialect(
    make_app: MakeApp, upstream: Upstream, fault: Any, status: int, code: str
) -> None:
    app = make_app(REQUEST_TIMEOUT="1" if status == 504 else "30", **provider_environment(upstream, "openai"))
    upstream.script(fault, vendor="openai")
    response = Caller.on(app).chat(model="gpt-4o", status=status)
    assert response.json["error"]["code"] == code
    assert not any(never in response.get_data(as_text=True) for never in NEVER_TOLD)
    assert rows(app, "SELECT count(*) FROM attempts WHERE state = 'reserved'") == [(0,)]


def test_a_providers_rate_limit_is_passed_on_with_its_wait(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(**provider_environment(upstream, "openai"))
    upstream.script(faults.status(429, retry_after=7), vendor="openai")
    response = Caller.on(app).chat(model="gpt-4o", status=429)
    assert response.headers["Retry-After"] == "7"


@pytest.mark.parametrize(
    "fault",
    [faults.usage_missing(), *(faults.usage_values(value) for value in ("NaN", -5, 10**18, 2**53 - 1, 10**7))],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_absurd_usage_is_an_answer_whose_usage_is_estimated(
    make_app: MakeApp, upstream: Upstream, fault: Any, stream: bool
) -> None:
    app = make_app(**provider_environment(upstream, "openai"))
    upstream.script(fault, vendor="openai")
    Caller.on(app).chat(model="gpt-4o", stream=stream).get_data()
    assert rows(app, "SELECT status, estimated, completion_tokens > 0 FROM calls") == [(200, 1, 1)]


@pytest.mark.parametrize(
    "fault",
    [
        faults.reset_after(3),
        faults.eof_after(3),
        faults.half_line(3),
        faults.error_mid_stream(3),
        faults.hang_after(3),
        faults.chunk_garbage(3),
    ],
)
def test_a_stream_that_breaks_keeps_its_text_and_ends_with_one_error_frame(
    make_app: MakeApp, upstream: Upstream, fault: Any
) -> None:
    app = make_app(STREAM_IDLE_TIMEOUT="1", **provider_environment(upstream, "openai"))
    upstream.script(fault, vendor="openai")
    *before, error, done = Caller.on(app).stream("a b c d", model="gpt-4o")
    assert done == "[DONE]"
    assert error["error"]["code"] in ("provider_error", "provider_timeout")
    assert any(frame["choices"][0]["delta"].get("content") for frame in before)
    assert rows(app, "SELECT state, estimated, completion_tokens > 0 FROM attempts") == [("settled", 1, 1)]


def test_silence_is_bridged_by_comment_lines(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(STREAM_PING_AFTER="0.2", STREAM_PING_EVERY="0.1", **provider_environment(upstream, "openai"))
    upstream.script(faults.first_delay(0.8), vendor="openai")
    raw = Caller.on(app).chat(model="gpt-4o", stream=True).get_data()
    assert raw.startswith(b": ping\n\n")
    assert raw.count(b": ping") >= 3
    assert raw.endswith(b"data: [DONE]\n\n")


# -- who may ---------------------------------------------------------------------------------------------------------


def test_without_a_credential_it_is_a_401_that_says_how(app: Flask) -> None:
    response = app.test_client().post("/v1/chat/completions", json={})
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.json["error"]["type"] == "authentication_error"


def test_a_token_without_the_scope_is_a_403(app: Flask) -> None:
    caller = Caller.on(app, scopes=["webhook"])
    assert caller.chat(status=403).json["error"]["code"] == "forbidden"


def test_a_spent_budget_is_a_429_that_asks_not_to_be_tried_again(gateway: Flask) -> None:
    caller = Caller.on(gateway, budget={"amount": 0.000001, "period": "day"})
    response = caller.chat(model="gpt-4o", status=429)
    assert response.json["error"] | {"message": ""} == {
        "message": "", "type": "insufficient_quota", "param": None, "code": "budget_exceeded",
    }  # fmt: skip
    assert response.headers["x-should-retry"] == "false"
    assert 1 <= int(response.headers["Retry-After"]) <= 86400


def test_the_limit_of_a_token_is_held_to_the_number(app: Flask) -> None:
    caller = Caller.on(app, requests_per_minute=3)
    for left in (2, 1, 0):
        assert caller.chat().headers["x-ratelimit-remaining-requests"] == str(left)
    refused = caller.chat(status=429)
    assert refused.json["error"]["code"] == "rate_limited"
    assert 1 <= int(refused.headers["Retry-After"]) <= 60


def test_models_are_listed_as_openai_lists_them(gateway: Flask) -> None:
    listed = Caller.on(gateway).get("/v1/models").json
    assert listed["object"] == "list"
    names = [one["id"] for one in listed["data"]]
    assert len(names) == len(set(names))
    assert {"id", "object", "created", "owned_by", "display_name", "tier", "context_window"} <= set(listed["data"][0])


def test_an_unknown_path_speaks_the_dialect_too(caller: Caller) -> None:
    assert caller.get("/v1/nothing", status=404).json["error"]["type"] == "not_found_error"
    response = caller.http.get("/v1/chat/completions", headers=caller.headers)
    assert (response.status_code, response.json["error"]["code"]) == (405, "method_not_allowed")
    assert "POST" in response.headers["Allow"]


def test_a_token_limited_to_templates_has_no_other_way_to_a_model(app: Flask) -> None:
    caller = Caller.on(app, scopes=["chat", "webhook"], templates=["summary"])
    caller.chat(status=403)
    caller.post("/llm/chat", {"message": "hi"}, status=403)
    caller.post("/api/v1/webhook", {"prompt": "hi"}, status=403)
    caller.post("/api/v1/webhook", {"prompt": "hi", "type": "summary"})
