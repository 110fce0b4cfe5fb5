"""``/v1/messages`` and its count over HTTP: Anthropic's dialect, whoever answers."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text
from werkzeug.test import TestResponse

from flaskllm.app import create_app
from flaskllm.config import Settings
from flaskllm.extensions import db
from tests.actors import Caller, calls_of
from tests.conftest import MakeApp, plain_environment, provider_environment
from tests.upstream import Upstream, faults
from tests.upstream.anthropic_rules import signature_of

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
CLAUDE, OPENAI, LLAMA = "claude-haiku-4-5", "openai/gpt-4o", "llama/llama-7b-instruct"
GEMINI, GEMINI_3 = "gemini/gemini-2.5-flash", "gemini/gemini-3-flash-preview"
CLOCK = {"name": "clock", "input_schema": {"type": "object", "properties": {}}}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
NEVER_TOLD = ("fl_", "sk-sim", "Traceback", "<html")


@pytest.fixture(scope="module")
def anybody(tmp_path_factory: pytest.TempPathFactory, template_database: Path) -> Iterator[Caller]:
    """Somebody on one plain gateway, for the many questions that change nothing."""
    folder = tmp_path_factory.mktemp("messages")
    (folder / "instance").mkdir()
    shutil.copy(template_database, folder / "instance" / "app.db")
    app = create_app(Settings.load(plain_environment(folder), root=folder))
    yield Caller.on(app)
    assert rows(app, "SELECT count(*) FROM attempts WHERE state <> 'released'") == [(0,)]
    app.extensions["flaskllm"].shutdown.stop()
    with app.app_context():
        db.engine.dispose()


def body_of(content: Any = "hello there", **more: Any) -> dict[str, Any]:
    return {"model": "demo", "max_tokens": 100, "messages": [{"role": "user", "content": content}], **more}


def ask(caller: Caller, content: Any = "hello there", *, status: int = 200, path: str = MESSAGES, **more: Any) -> Any:
    """One question; the answer's document."""
    return post(caller, body_of(content, **more), status=status, path=path).json


def post(caller: Caller, body: Any, *, status: int = 200, path: str = MESSAGES, **headers: str) -> TestResponse:
    response = caller.http.post(path, json=body, headers={"x-api-key": caller.token, **headers})
    assert response.status_code == status, response.get_data(as_text=True)
    return response


def events(raw: bytes) -> list[dict[str, Any]]:
    """The events of a stream, pings left out; each one's name has to be its data's type."""
    found = []
    for block in raw.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if fields and fields["event"] != "ping":
            found.append(json.loads(fields["data"]))
            assert found[-1]["type"] == fields["event"]
    return found


def stream(caller: Caller, content: Any = "hello there", **more: Any) -> list[dict[str, Any]]:
    return events(post(caller, body_of(content, stream=True, **more)).get_data())


def rows(app: Flask, query: str) -> list[Any]:
    with app.app_context(), db.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def message_of(error: Any) -> str:
    assert set(error) == {"type", "error", "request_id"}
    assert set(error["error"]) == {"type", "message"}
    return str(error["error"]["message"])


# -- an answer ---------------------------------------------------------------------------------------------------------


def test_demo_answers_in_the_dialect(caller: Caller) -> None:
    answer = ask(caller, "hello")
    assert answer.pop("id").startswith("msg_")
    assert answer.pop("usage")["output_tokens"] == 2
    assert answer == {
        "type": "message", "role": "assistant", "model": "demo", "content": [{"type": "text", "text": "[demo] hello"}],
        "stop_reason": "end_turn", "stop_sequence": None,
    }  # fmt: skip


def test_an_answer_says_who_gave_it_what_it_cost_and_its_id(gateway: Flask) -> None:
    response = post(Caller.on(gateway), body_of(model=OPENAI), **{"X-Request-Id": "my-request-1"})
    headers = response.headers
    assert (headers["X-FlaskLLM-Provider"], calls_of(headers)) == ("openai", 1)
    assert float(headers["X-FlaskLLM-Cost"]) > 0
    assert headers["request-id"] == headers["X-Request-Id"] == "my-request-1"


def test_a_stream_is_a_message_event_by_event(gateway: Flask) -> None:
    found = stream(Caller.on(gateway), "a b", model=OPENAI)
    kinds = [one["type"] for one in found]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert found[0]["message"]["content"] == []
    assert found[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert found[-2]["usage"]["output_tokens"] > 0


@pytest.mark.parametrize("reason, stop", [
    ("stop", "end_turn"), ("length", "max_tokens"), ("filter", "refusal"),
])  # fmt: skip
@pytest.mark.parametrize("model", [OPENAI, CLAUDE, GEMINI])
def test_why_it_ended_is_said_in_anthropics_words(
    gateway: Flask, upstream: Upstream, model: str, reason: str, stop: str
) -> None:
    upstream.script(faults.finish(reason))
    caller = Caller.on(gateway)
    assert ask(caller, model=model)["stop_reason"] == stop
    assert stream(caller, model=model)[-2]["delta"]["stop_reason"] == stop


def test_thoughts_that_nobody_signed_are_shown(gateway: Flask, upstream: Upstream) -> None:
    upstream.script(faults.thinking("let me see"))
    caller = Caller.on(gateway)
    thought = {"type": "thinking", "thinking": "let me see", "signature": ""}
    assert ask(caller, model=GEMINI)["content"][0] == thought
    found = stream(caller, model=GEMINI)
    assert found[1]["content_block"]["type"] == "thinking"
    assert "".join(one["delta"].get("thinking", "") for one in found if "delta" in one) == "let me see"


def test_every_call_leaves_one_settled_attempt_and_one_row(gateway: Flask) -> None:
    caller = Caller.on(gateway)
    for model in (CLAUDE, OPENAI):
        ask(caller, "one two", model=model, metadata={"user_id": "u-1"})
        stream(caller, "one two", model=model)
    assert rows(gateway, "SELECT state, reserved > 0, cost > 0 FROM attempts") == [("settled", 1, 1)] * 4
    assert rows(gateway, "SELECT DISTINCT status, estimated, metadata FROM calls WHERE metadata IS NOT NULL") == [
        (200, 0, '{"user_id": "u-1"}')
    ]


# -- Anthropic behind it -----------------------------------------------------------------------------------------------


def test_anthropic_is_sent_what_came(gateway: Flask, upstream: Upstream) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    body = {
        "model": CLAUDE, "max_tokens": 3000, "thinking": {"type": "enabled", "budget_tokens": 1024},
        "system": [{"type": "text", "text": "be kind", **mark}], "stop_sequences": ["END"],
        "metadata": {"user_id": "u-1"}, "service_tier": "standard_only", "cache_control": {"type": "ephemeral"},
        "tools": [{**CLOCK, "description": "tells", "input_examples": [{}], **mark}], "inference_geo": "us",
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "messages": [
            {"role": "user", "content": [
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "long"},
                 "title": "A", "context": "B", "citations": {"enabled": True}, **mark},
                {"type": "text", "text": "use it"}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": signature_of("hm")},
                {"type": "text", "text": "first"}, {"type": "tool_use", "id": "toolu_1", "name": "clock", "input": {}},
            ]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "is_error": True,
                                          "content": [{"type": "image", "source": {
                                              "type": "base64", "media_type": "image/png", "data": PNG}}]}]},
        ],
    }  # fmt: skip
    post(Caller.on(gateway), body)
    assert upstream.requests[-1].body == body


def test_anthropics_answer_comes_back_as_it_was_given(gateway: Flask, upstream: Upstream) -> None:
    upstream.script(faults.usage(input=5, cached=7, cache_write=9))
    answer = post(Caller.on(gateway), body_of(model=CLAUDE))
    assert answer.json["usage"] | {} == {
        "input_tokens": 5, "cache_creation_input_tokens": 9, "cache_read_input_tokens": 7, "output_tokens": 3,
        "cache_creation": {"ephemeral_5m_input_tokens": 9, "ephemeral_1h_input_tokens": 0}, "service_tier": "standard",
    }  # fmt: skip
    found = stream(Caller.on(gateway), model=CLAUDE)
    assert found[0]["message"]["usage"]["cache_read_input_tokens"] == 7
    assert rows(gateway, "SELECT DISTINCT prompt_tokens FROM calls") == [(21,)]


def test_events_that_only_anthropic_knows_reach_the_caller(gateway: Flask, upstream: Upstream) -> None:
    started = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": []}
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
    found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [{"type": "web_search_result"}]}
    citation = {"type": "citations_delta", "citation": {"type": "char_location", "cited_text": "x"}}
    sent: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**started, "usage": {"input_tokens": 1, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": search},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": '{"q"'}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": ": 1}"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": found},
        {"type": "content_block_stop", "index": 1},
        {"type": "content_block_start", "index": 2, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 2, "delta": citation},
        {"type": "content_block_delta", "index": 2, "delta": {"type": "text_delta", "text": "It rains."}},
        {"type": "content_block_stop", "index": 2},
        {"type": "something_new", "index": 2},
        {"type": "message_delta", "delta": {"stop_reason": "pause_turn", "stop_sequence": None},
         "usage": {"output_tokens": 9, "server_tool_use": {"web_search_requests": 1}}},
        {"type": "message_stop"},
    ]  # fmt: skip
    upstream.script(faults.frames(sent))
    assert stream(Caller.on(gateway), model=CLAUDE) == sent


@pytest.mark.parametrize("fault", [faults.usage_missing(), faults.usage_values("NaN"), faults.usage_values(-5)])
def test_counts_that_are_none_are_not_shown(gateway: Flask, upstream: Upstream, fault: Any) -> None:
    upstream.script(fault)
    caller = Caller.on(gateway)
    usage = ask(caller, model=CLAUDE)["usage"]
    assert usage["input_tokens"] > 0
    assert usage["output_tokens"] > 0
    start, *_, delta, _ = stream(caller, model=CLAUDE)
    for told in (start["message"]["usage"], delta["usage"]):
        assert all((value or 0) >= 0 for name, value in told.items() if name.endswith("_tokens"))
        assert "output_tokens" in told
    assert rows(gateway, "SELECT DISTINCT estimated FROM calls") == [(1,)]


@pytest.mark.parametrize("betas, goes_on", [("files-api-2025-04-14,context-1m-2025-08-07", True), (None, False)])
def test_betas_go_on_to_anthropic_alone(gateway: Flask, upstream: Upstream, betas: str | None, goes_on: bool) -> None:
    headers = {"anthropic-version": "2023-06-01", **({"anthropic-beta": betas} if betas else {})}
    post(Caller.on(gateway), body_of(model=CLAUDE), **headers)
    assert upstream.requests[-1].headers.get("anthropic-beta") == betas
    post(Caller.on(gateway), body_of(model=OPENAI), **headers)
    assert "anthropic-beta" not in upstream.requests[-1].headers


def test_a_beta_that_is_no_name_is_refused(caller: Caller) -> None:
    error = post(caller, body_of(), status=400, **{"anthropic-beta": "a;b"}).json
    assert message_of(error).startswith("anthropic-beta: ")


def test_an_address_that_anthropic_does_not_fetch_is_put_into_the_message(gateway: Flask, upstream: Upstream) -> None:
    image = {"type": "image", "source": {"type": "url", "url": f"{upstream.url}/images/pixel.png"}}
    ask(Caller.on(gateway), [image, {"type": "text", "text": "look"}], model=CLAUDE, system="be kind")
    sent = upstream.requests[-1].body
    assert sent["messages"][0]["content"][0]["source"]["type"] == "base64"
    assert sent["system"] == "be kind"


def test_unknown_fields_go_on_to_anthropic_and_nobody_else(gateway: Flask, upstream: Upstream) -> None:
    caller = Caller.on(gateway)
    ask(caller, model=CLAUDE, user_profile_id="p", status=400)  # the simulator knows no such field, and says so
    assert upstream.requests[-1].body["user_profile_id"] == "p"
    seen = len(upstream.requests)
    for model in (OPENAI, GEMINI, LLAMA, "demo"):
        assert message_of(ask(caller, model=model, user_profile_id="p", status=400)).startswith("user_profile_id: ")
    assert len(upstream.requests) == seen


def test_what_another_lacks_can_be_left_out(gateway: Flask) -> None:
    response = post(Caller.on(gateway), body_of(model=OPENAI, container="c", drop_params=True))
    assert response.headers["X-FlaskLLM-Dropped-Params"] == "container"


def test_who_asks_is_no_reason_to_refuse(gateway: Flask, upstream: Upstream) -> None:
    caller, more = Caller.on(gateway), {"metadata": {"user_id": "u"}, "cache_control": {"type": "ephemeral"}}
    response = post(caller, body_of(model=GEMINI, **more))
    assert response.headers["X-FlaskLLM-Dropped-Params"] == "user, cache_control"
    post(caller, body_of(model=OPENAI, **more))
    assert upstream.requests[-1].body["user"] == "u"


@pytest.mark.parametrize("model, name", [(LLAMA, "top_k"), (GEMINI, "generationConfig")])
def test_top_k_reaches_who_knows_it(gateway: Flask, upstream: Upstream, model: str, name: str) -> None:
    caller = Caller.on(gateway)
    ask(caller, model=model, top_k=4)
    found = upstream.requests[-1].body[name]
    assert found == 4 or found["topK"] == 4
    assert message_of(ask(caller, model=OPENAI, top_k=4, status=400)).startswith("top_k: ")


@pytest.mark.parametrize("content, field", [
    ([{"type": "container_upload", "file_id": "f"}], "messages[0].content[0]"),
    ([{"type": "image", "source": {"type": "file", "file_id": "f"}}], "messages[0].content[0]"),
    ([{"type": "text", "text": "x"}, {"type": "document", "source": {"type": "content", "content": "x"}}],
     "messages[0].content[1]"),
])  # fmt: skip
def test_blocks_that_only_anthropic_has_are_refused_for_others(gateway: Flask, content: Any, field: str) -> None:
    for model in (OPENAI, GEMINI, "demo"):
        assert message_of(ask(Caller.on(gateway), content, model=model, status=400)).startswith(f"{field}: ")


def test_tools_that_anthropic_runs_are_refused_for_others(gateway: Flask, upstream: Upstream) -> None:
    caller, tools = Caller.on(gateway), [CLOCK, {"type": "web_search_20250305", "name": "web_search"}]
    assert message_of(ask(caller, model=OPENAI, tools=tools, status=400)).startswith("tools[1]: ")
    ask(caller, model=CLAUDE, tools=tools, status=400)  # the simulator has no such tool; the vendor does
    assert upstream.requests[-1].body["tools"] == tools


@pytest.mark.parametrize("thinking, effort", [
    ({"type": "enabled", "budget_tokens": 1024}, "low"),
    ({"type": "enabled", "budget_tokens": 8000}, "medium"),
    ({"type": "enabled", "budget_tokens": 60000}, "high"),
    ({"type": "disabled"}, None),
    ({"type": "adaptive"}, None),
])  # fmt: skip
def test_a_budget_is_an_effort_elsewhere(gateway: Flask, upstream: Upstream, thinking: Any, effort: str | None) -> None:
    ask(Caller.on(gateway), model="openai/gpt-5", thinking=thinking, max_tokens=64000)
    assert upstream.requests[-1].body.get("reasoning_effort") == effort


# -- signatures --------------------------------------------------------------------------------------------------------


def tool_round(caller: Caller, model: str, to: str, *, streamed: bool = False, **more: Any) -> Any:
    """A call by one model, its result to another: the second answer."""
    question = {"role": "user", "content": "use the tool"}
    more |= {"tools": [CLOCK], "max_tokens": 4000}
    first = whole_of(stream(caller, "use the tool", model=model, **more)) if streamed else ask(
        caller, "use the tool", model=model, **more)["content"]  # fmt: skip
    call = next(block for block in first if block["type"] == "tool_use")
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": "noon"}
    turns = [question, {"role": "assistant", "content": first}, {"role": "user", "content": [result]}]
    return ask(caller, model=to, messages=turns, **more)


def whole_of(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The content of a stream, as an SDK puts it together."""
    blocks: list[dict[str, Any]] = []
    said: dict[int, str] = {}
    for one in found:
        if one["type"] == "content_block_start":
            blocks.append(one["content_block"])
        elif one["type"] == "content_block_delta":
            delta, block = one["delta"], blocks[one["index"]]
            said[one["index"]] = said.get(one["index"], "") + delta.get("partial_json", "")
            for name in ("text", "thinking", "signature"):
                if name in delta:
                    block[name] = block[name] + delta[name]
    for index, raw in said.items():
        if blocks[index]["type"] == "tool_use":
            blocks[index]["input"] = json.loads(raw or "{}")
    return blocks


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("model", [CLAUDE, GEMINI_3])
def test_signatures_come_back_to_who_gave_them(gateway: Flask, upstream: Upstream, model: str, streamed: bool) -> None:
    more = {"thinking": {"type": "enabled", "budget_tokens": 2000}} if model == CLAUDE else {}
    assert "noon" in tool_round(Caller.on(gateway), model, model, streamed=streamed, **more)["content"][-1]["text"]
    assert "skip_thought" not in str(upstream.requests[-1].body)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("to", [CLAUDE, OPENAI, LLAMA, GEMINI_3, "grok-4"])
@pytest.mark.parametrize("model", [CLAUDE, GEMINI_3, OPENAI])
def test_a_conversation_may_go_on_with_another_model(
    gateway: Flask, upstream: Upstream, model: str, to: str, streamed: bool
) -> None:
    upstream.script(faults.thinking("let me see"), model=model.rpartition("/")[2], times=1)
    answer = tool_round(Caller.on(gateway), model, to, streamed=streamed)
    assert "noon" in answer["content"][-1]["text"]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_signed_text_of_geminis_comes_back_signed(gateway: Flask, upstream: Upstream, streamed: bool) -> None:
    caller = Caller.on(gateway)
    first = whole_of(stream(caller, "hi", model=GEMINI_3)) if streamed else ask(caller, "hi", model=GEMINI_3)["content"]
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": first}]
    ask(caller, model=GEMINI_3, messages=[*turns, {"role": "user", "content": "and?"}])
    (part,) = upstream.requests[-1].body["contents"][1]["parts"]
    assert (part["text"], bool(part["thoughtSignature"])) == ("echo: hi", True)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("model", [CLAUDE, GEMINI_3])
def test_openais_clients_bring_signatures_back_too(
    gateway: Flask, upstream: Upstream, model: str, streamed: bool
) -> None:
    caller, more = Caller.on(gateway), {"tools": [{"type": "function", "function": {"name": "clock"}}]}
    if model == CLAUDE:
        more |= {"reasoning_effort": "low"}  # type: ignore[dict-item]
    if streamed:
        message: dict[str, Any] = {"role": "assistant", "content": None}
        for frame in caller.stream("use the tool", model=model, **more)[:-1]:
            for name, value in (frame["choices"][0]["delta"] if frame["choices"] else {}).items():
                if name == "tool_calls":
                    calls = message.setdefault("tool_calls", [])
                    calls += [call for call in value if call.get("id")]
                elif name == "thinking_blocks":
                    message[name] = value
        for call in message["tool_calls"]:
            call.pop("index")
            call["function"]["arguments"] = "{}"
    else:
        message = caller.chat("use the tool", model=model, **more).json["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "noon"}
    turns = [{"role": "user", "content": "use the tool"}, message, result]
    answer = caller.post("/v1/chat/completions", {"model": model, "messages": turns, **more})
    assert "noon" in answer.json["choices"][0]["message"]["content"]
    assert "X-FlaskLLM-Dropped-Params" not in answer.headers
    sent = str(upstream.requests[-1].body)
    assert "signature" in sent.lower()
    assert "skip_thought" not in sent


@pytest.mark.parametrize("model, field", [
    (CLAUDE, {"thinking_blocks": [3]}), (CLAUDE, {"thinking_blocks": "x"}),
    (GEMINI_3, {"extra_content": 3}), (GEMINI_3, {"extra_content": {"google": [1]}}),
    (GEMINI_3, {"extra_content": {"google": {"thought_signature": 3}}}),
])  # fmt: skip
def test_what_cannot_have_come_with_an_answer_is_named(gateway: Flask, model: str, field: dict[str, Any]) -> None:
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", **field}]
    body = {"model": model, "messages": [*turns, {"role": "user", "content": "z"}]}
    error = Caller.on(gateway).post("/v1/chat/completions", body, status=400).json["error"]
    assert error["param"].startswith(f"messages[1].{next(iter(field))}")


# -- counting ----------------------------------------------------------------------------------------------------------


def test_anthropic_counts_for_its_own_models(gateway: Flask, upstream: Upstream) -> None:
    body = body_of("one two three", model=CLAUDE, system="be kind", stop_sequences=["x"], temperature=0.5)
    assert ask(Caller.on(gateway), path=COUNT, **body)["input_tokens"] == 5
    assert upstream.requests[-1].path.endswith("/v1/messages/count_tokens")


@pytest.mark.parametrize("model", [OPENAI, GEMINI, LLAMA, "demo"])
def test_for_others_it_is_an_estimate(gateway: Flask, upstream: Upstream, model: str) -> None:
    body = body_of("word " * 100, model=model)
    body.pop("max_tokens")
    assert 100 <= post(Caller.on(gateway), body, path=COUNT).json["input_tokens"] <= 200
    assert upstream.requests == []


def test_counting_costs_nothing_and_writes_nothing(gateway: Flask) -> None:
    caller = Caller.on(gateway, budget={"amount": 0.000001, "period": "day"})
    for model in (CLAUDE, OPENAI):
        ask(caller, path=COUNT, model=model)
    assert rows(gateway, "SELECT count(*) FROM attempts") == rows(gateway, "SELECT count(*) FROM calls") == [(0,)]


def test_counting_asks_for_scope_and_model_too(gateway: Flask) -> None:
    assert ask(Caller.on(gateway, scopes=["webhook"]), path=COUNT, status=403)["error"]["type"] == "permission_error"
    limited = Caller.on(gateway, models=["gpt-4o"])
    assert ask(limited, path=COUNT, model=CLAUDE, status=403)["error"]["type"] == "permission_error"
    assert ask(limited, path=COUNT, model="nothing", status=404)["error"]["type"] == "not_found_error"
    slow = Caller.on(gateway, requests_per_minute=1)
    ask(slow, path=COUNT, model=OPENAI)
    assert ask(slow, path=COUNT, model=OPENAI, status=429)["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize("fault, status", [
    (faults.status(500), 502), (faults.status(401), 502), (faults.html(), 502),
    (faults.status(429, retry_after=7), 429),
    (faults.status(400, message="too odd"), 400), (faults.hang(), 504), (faults.raw({"input_tokens": -1}), 502),
    (faults.raw([1]), 502),
])  # fmt: skip
def test_a_count_that_fails_is_told(make_app: MakeApp, upstream: Upstream, fault: Any, status: int) -> None:
    app = make_app(REQUEST_TIMEOUT="1" if status == 504 else "30", **provider_environment(upstream, "anthropic"))
    upstream.script(fault, route="count_tokens")
    error = ask(Caller.on(app), path=COUNT, model=CLAUDE, status=status)
    assert not any(never in json.dumps(error) for never in NEVER_TOLD)


# -- bad input ---------------------------------------------------------------------------------------------------------

DEEP: Any = []
for _ in range(70):
    DEEP = [DEEP]
FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("model", {"model": None}), ("model", {"model": 7}), ("model", {"model": ""}), ("model", {"model": "x" * 300}),
    ("model", {"model": "demo\x00"}), ("messages", {"messages": None}), ("messages", {"messages": []}),
    ("messages", {"messages": "hi"}), ("messages", {"messages": [{"role": "user", "content": "x"}] * 100_001}),
    ("messages[0]", {"messages": [3]}), ("messages[0].role", {"messages": [{"content": "x"}]}),
    ("messages[0].role", {"messages": [{"role": "system", "content": "x"}]}),
    ("messages[0].role", {"messages": [{"role": ["user"], "content": "x"}]}),
    ("messages[0].content", {"messages": [{"role": "user"}]}),
    ("messages[0].content", {"messages": [{"role": "user", "content": ""}]}),
    ("messages[0].content", {"messages": [{"role": "user", "content": []}]}),
    ("messages[0].content", {"messages": [{"role": "user", "content": 3}]}),
    ("max_tokens", {"max_tokens": 0}), ("max_tokens", {"max_tokens": -1}),
    ("max_tokens", {"max_tokens": 2**60}), ("max_tokens", {"max_tokens": 1.5}), ("max_tokens", {"max_tokens": "9"}),
    ("max_tokens", {"max_tokens": True}), ("stream", {"stream": "yes"}), ("drop_params", {"drop_params": 1}),
    ("temperature", {"temperature": -0.1}), ("temperature", {"temperature": 1.1}),
    ("temperature", {"temperature": "x"}),
    ("top_p", {"top_p": 2}), ("top_k", {"top_k": -1}), ("top_k", {"top_k": 1.5}), ("top_k", {"top_k": 2**60}),
    ("stop_sequences", {"stop_sequences": "x"}), ("stop_sequences", {"stop_sequences": [3]}),
    ("stop_sequences", {"stop_sequences": ["x"] * 65}), ("metadata", {"metadata": "x"}),
    ("metadata", {"metadata": {"user_id": 3}}), ("metadata", {"metadata": {"user_id": "x" * 513}}),
    ("metadata", {"metadata": {"user_id": "\x00"}}), ("service_tier", {"service_tier": "gold"}),
    ("service_tier", {"service_tier": ["auto"]}), ("system", {"system": 3}), ("system", {"system": [3]}),
    ("system", {"system": [{"type": "image"}]}), ("system", {"system": [{"type": "text", "text": 3}]}),
    ("thinking", {"thinking": "on"}), ("thinking", {"thinking": {"type": "deep"}}),
    ("thinking", {"thinking": {"type": ["enabled"]}}), ("thinking", {"thinking": {"type": "enabled"}}),
    ("thinking", {"thinking": {"type": "enabled", "budget_tokens": 5}}),
    ("output_config", {"output_config": 3}), ("output_config", {"output_config": {"effort": "huge"}}),
    ("output_config", {"output_config": {"effort": {}}}), ("output_config", {"output_config": {"format": 3}}),
    ("output_config", {"output_config": {"format": {"type": "json_schema"}}}),
    ("cache_control", {"cache_control": "x"}), ("tool_choice", {"tool_choice": "auto"}),
    ("tool_choice", {"tool_choice": {"type": "maybe"}}), ("tool_choice", {"tool_choice": {"type": "tool"}}),
    ("tool_choice", {"tool_choice": {"type": ["any"]}}),
    ("tool_choice", {"tool_choice": {"type": "auto", "disable_parallel_tool_use": 3}}),
    ("tools", {"tools": {}}), ("tools", {"tools": [CLOCK] * 1001}), ("tools[0]", {"tools": [3]}),
    ("tools[0].type", {"tools": [{"type": 3}]}), ("tools[0].name", {"tools": [{"input_schema": {}}]}),
    ("tools[0].input_schema", {"tools": [{"name": "x"}]}),
    ("tools[0].input_schema", {"tools": [{"name": "x", "input_schema": []}]}),
    ("tools[0].description", {"tools": [{**CLOCK, "description": 3}]}),
    ("api_base", {"api_base": "http://evil.test"}), ("base_url", {"base_url": "x"}), ("headers", {"headers": {}}),
    ("api_key", {"api_key": "x"}), ("timeout", {"timeout": 1}), ("extra_body", {"extra_body": {}}),
    ("nonsense", {"nonsense": 1}),
]  # fmt: skip


@pytest.mark.parametrize("path", [MESSAGES, COUNT])
@pytest.mark.parametrize("field, more", FAULTS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_field_at_fault_is_named(anybody: Caller, field: str, more: dict[str, Any], path: str) -> None:
    body = body_of(**more)
    error = post(anybody, body, status=400, path=path).json
    assert message_of(error).startswith(f"{field}: "), message_of(error)
    assert error["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("absent", [None, ...], ids=["null", "missing"])
@pytest.mark.parametrize("path, field", [
    (MESSAGES, "model"), (MESSAGES, "max_tokens"), (MESSAGES, "messages"), (COUNT, "model"), (COUNT, "messages"),
])  # fmt: skip
def test_a_field_that_has_to_be_there_is_named(anybody: Caller, path: str, field: str, absent: Any) -> None:
    body = {name: value for name, value in body_of(**{field: absent}).items() if value is not ...}
    assert message_of(post(anybody, body, status=400, path=path).json) == f"{field}: is missing"


IMAGE = {"type": "base64", "media_type": "image/png", "data": PNG}
BLOCK_FAULTS: list[tuple[str, Any]] = [
    ("", 3), (".type", {}), (".type", {"type": ["text"]}), (".text", {"type": "text"}),
    (".text", {"type": "text", "text": None}), (".source", {"type": "image"}),
    (".source", {"type": "image", "source": 3}),
    (".source.type", {"type": "image", "source": {}}),
    (".source.media_type", {"type": "image", "source": {**IMAGE, "media_type": "image/svg+xml"}}),
    (".source.media_type", {"type": "image", "source": {**IMAGE, "media_type": ["image/png"]}}),
    (".source.data", {"type": "image", "source": {**IMAGE, "data": ""}}),
    (".source.data", {"type": "image", "source": {**IMAGE, "data": 3}}),
    (".source.url", {"type": "image", "source": {"type": "url", "url": "file:///etc/passwd"}}),
    (".source.url", {"type": "image", "source": {"type": "url"}}),
    (".source.url", {"type": "document", "source": {"type": "url", "url": "x"}}),
    (".source.media_type", {"type": "document", "source": IMAGE}),
    (".source.data", {"type": "document", "source": {"type": "text", "data": 3}}),
    (".title", {"type": "document", "title": 3, "source": {"type": "text", "data": "x"}}),
    (".tool_use_id", {"type": "tool_result"}), (".tool_use_id", {"type": "tool_result", "tool_use_id": ""}),
    (".content", {"type": "tool_result", "tool_use_id": "x", "content": 3}),
    (".is_error", {"type": "tool_result", "tool_use_id": "x", "is_error": "no"}),
    (".content[0].text", {"type": "tool_result", "tool_use_id": "x", "content": [{"type": "text"}]}),
    (".content", {"type": "search_result", "source": "x", "title": "x"}),
    (".content[0].text", {"type": "search_result", "source": "x", "title": "x", "content": [{"type": "text"}]}),
    (".title", {"type": "search_result", "source": "x", "content": []}),
]  # fmt: skip
SAID_FAULTS: list[tuple[str, Any]] = [
    (".text", {"type": "text"}), (".id", {"type": "tool_use"}), (".id", {"type": "tool_use", "id": 3}),
    (".input", {"type": "tool_use", "id": "x", "name": "x"}),
    (".input", {"type": "tool_use", "id": "x", "name": "x", "input": "{}"}),
    (".name", {"type": "tool_use", "id": "x", "input": {}}), (".thinking", {"type": "thinking"}),
    (".signature", {"type": "thinking", "thinking": "x"}), (".data", {"type": "redacted_thinking"}),
]  # fmt: skip


@pytest.mark.parametrize("field, block", BLOCK_FAULTS)
def test_a_block_at_fault_is_named_by_its_place(anybody: Caller, field: str, block: Any) -> None:
    error = ask(anybody, [{"type": "text", "text": "x"}, block], status=400)
    assert message_of(error).startswith(f"messages[0].content[1]{field}: ")


@pytest.mark.parametrize("field, block", SAID_FAULTS)
def test_a_block_of_the_models_at_fault_is_named_by_its_place(anybody: Caller, field: str, block: Any) -> None:
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": [block]}]
    error = ask(anybody, status=400, messages=turns)
    assert message_of(error).startswith(f"messages[1].content[0]{field}: ")


@pytest.mark.parametrize("raw", [b"", b"[1]", b"{", b'{"a": 1, "a": 2}', b'{"a": NaN}', b"\xff", b'{"a": "\\ud800"}',
                                 json.dumps({"messages": DEEP}).encode()])  # fmt: skip
def test_a_body_that_is_none_is_refused_in_the_dialect(anybody: Caller, raw: bytes) -> None:
    headers = {"x-api-key": anybody.token, "Content-Type": "application/json"}
    response = anybody.http.post(MESSAGES, data=raw, headers=headers)
    assert response.status_code == 400
    assert message_of(response.json)


def test_names_of_the_hall_are_told_as_the_caller_wrote_them(gateway: Flask, upstream: Upstream) -> None:
    caller = Caller.on(gateway)
    image = {"type": "image", "source": {"type": "url", "url": "http://169.254.169.254/latest"}}
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"},
             {"role": "user", "content": [{"type": "text", "text": "z"}, image]}]  # fmt: skip
    error = ask(caller, model=GEMINI, messages=turns, system="be kind", status=403)
    assert message_of(error).startswith("messages[2].content[1].source.url: ")
    choice = {"type": "any", "disable_parallel_tool_use": True}
    error = ask(caller, model=GEMINI, tools=[CLOCK], tool_choice=choice, status=400)
    assert message_of(error).startswith("tool_choice.disable_parallel_tool_use: ")
    assert upstream.requests == []


def test_a_document_by_its_address_is_fetched_for_who_cannot(gateway: Flask, upstream: Upstream) -> None:
    source = {"type": "url", "url": f"{upstream.url}/images/pixel.png"}
    error = ask(Caller.on(gateway), [{"type": "document", "source": source}], model=OPENAI, status=400)
    assert message_of(error) == "messages[0].content[0].source.url: must be a PDF"


# -- errors, faults, hang-ups ------------------------------------------------------------------------------------------


def test_every_refusal_speaks_the_dialect(app: Flask) -> None:
    caller, anonymous = Caller.on(app), app.test_client()
    nobody = anonymous.post(MESSAGES, json={})
    assert (nobody.status_code, nobody.json["error"]["type"]) == (401, "authentication_error")
    assert nobody.headers["request-id"] == nobody.json["request_id"]
    assert ask(Caller.on(app, scopes=["webhook"]), status=403)["error"]["type"] == "permission_error"
    assert ask(caller, model="nothing", status=404)["error"]["type"] == "not_found_error"
    headers = {"x-api-key": caller.token}
    assert anonymous.get(MESSAGES, headers=headers).json["type"] == "error"
    assert anonymous.post("/v1/messages/batches", json={}, headers=headers).json["error"]["type"] == "not_found_error"
    wrong = anonymous.post(MESSAGES, data="x", headers=headers)
    assert (wrong.status_code, wrong.json["error"]["type"]) == (415, "invalid_request_error")
    spent = Caller.on(app, requests_per_minute=1)
    ask(spent)
    assert ask(spent, status=429)["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize("model", [CLAUDE, "gpt-4o"])
@pytest.mark.parametrize("fault, status, kind", [
    (faults.status(429, retry_after=7), 429, "rate_limit_error"), (faults.status(401), 502, "api_error"),
    (faults.status(500), 502, "api_error"), (faults.hang(), 504, "timeout_error"), (faults.html(), 502, "api_error"),
    (faults.status(400, message="no"), 400, "invalid_request_error"),
    (faults.echo_key(400), 400, "invalid_request_error"),
    (faults.error_in_200(), 502, "api_error"), (faults.reset(), 502, "api_error"),
])  # fmt: skip
def test_what_a_provider_does_wrong_is_told(
    make_app: MakeApp, upstream: Upstream, model: str, fault: Any, status: int, kind: str
) -> None:
    app = make_app(
        REQUEST_TIMEOUT="1" if status == 504 else "30", **provider_environment(upstream, "anthropic", "openai")
    )
    upstream.script(fault)
    for streamed in (False, True):
        response = post(Caller.on(app), body_of(model=model, stream=streamed), status=status)
        assert response.json["error"]["type"] == kind
        assert not any(never in response.get_data(as_text=True) for never in NEVER_TOLD)
    assert rows(app, "SELECT count(*) FROM attempts WHERE state = 'reserved'") == [(0,)]


@pytest.mark.parametrize("model", [CLAUDE, "gpt-4o", GEMINI])
@pytest.mark.parametrize("fault", [
    faults.reset_after(5), faults.eof_after(5), faults.half_line(5), faults.hang_after(5), faults.chunk_garbage(5),
])  # fmt: skip
def test_a_stream_that_breaks_keeps_its_text_and_ends_with_one_error(
    make_app: MakeApp, upstream: Upstream, model: str, fault: Any
) -> None:
    app = make_app(STREAM_IDLE_TIMEOUT="1", **provider_environment(upstream, "anthropic", "openai", "gemini"))
    upstream.script(faults.text("a b c d e f g h") + fault)
    *before, error = stream(Caller.on(app), model=model)
    assert error["error"]["type"] in ("api_error", "timeout_error")
    assert any(one.get("delta", {}).get("text") for one in before)
    assert rows(app, "SELECT state, estimated, completion_tokens > 0 FROM attempts") == [("settled", 1, 1)]


@pytest.mark.parametrize("model", [CLAUDE, "gpt-4o"])
def test_silence_is_bridged_by_pings(make_app: MakeApp, upstream: Upstream, model: str) -> None:
    environment = provider_environment(upstream, "anthropic", "openai")
    app = make_app(STREAM_PING_AFTER="0.2", STREAM_PING_EVERY="0.1", **environment)
    upstream.script(faults.first_delay(0.8))
    raw = post(Caller.on(app), body_of(model=model, stream=True)).get_data()
    assert raw.count(b'event: ping\ndata: {"type": "ping"}\n\n') >= 3
    assert events(raw)[-1]["type"] == "message_stop"


@pytest.mark.parametrize("frames", range(1, 9))
@pytest.mark.parametrize("model", [CLAUDE, "gpt-4o", GEMINI])
def test_who_hangs_up_pays_what_was_generated(make_app: MakeApp, upstream: Upstream, model: str, frames: int) -> None:
    app = make_app(**provider_environment(upstream, "anthropic", "openai", "gemini"))
    upstream.script(faults.text("a b c d e f") + faults.pace(4))
    response = post(Caller.on(app), body_of(model=model, stream=True))
    for _, _ in zip(range(frames), response.response, strict=False):
        pass
    response.close()
    until = time.monotonic() + 5
    while time.monotonic() < until and rows(app, "SELECT 1 FROM attempts WHERE state = 'reserved'"):
        time.sleep(0.02)
    assert rows(app, "SELECT state, completion_tokens, estimated FROM attempts") == [("settled", 6, 0)]


def test_before_the_first_word_another_provider_may_answer(make_app: MakeApp, upstream: Upstream) -> None:
    """Events of the first one that have been held back are not mixed into the second one's."""
    app = make_app(**provider_environment(upstream, "anthropic", "openai"))
    upstream.script(faults.error_mid_stream(1, 529), vendor="anthropic")
    upstream.script(faults.error_mid_stream(1, 500), vendor="openai", times=1)
    found = stream(Caller.on(app), model="auto")
    assert [one["type"] for one in found].count("message_start") == 1
    assert found[-1]["type"] in ("message_stop", "error")


def test_a_spent_budget_asks_not_to_be_tried_again(gateway: Flask) -> None:
    caller = Caller.on(gateway, budget={"amount": 0.000001, "period": "day"})
    response = post(caller, body_of(model=CLAUDE), status=429)
    assert response.headers["x-should-retry"] == "false"
    assert response.json["error"]["type"] == "rate_limit_error"
