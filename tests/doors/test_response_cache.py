"""The exact cache: opted into by a header, exact in what it takes for equal, silent towards others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from flaskllm.extensions import db
from flaskllm.models.types import now
from tests.actors import Caller, access_token, frames
from tests.conftest import MakeApp, provider_environment
from tests.doors.test_gate import ROOT as GATE
from tests.doors.test_gate import THREE
from tests.doors.test_metrics import TOKEN as METRICS_TOKEN
from tests.doors.test_metrics import count as counted
from tests.upstream import Upstream, faults

HELLO = [{"role": "user", "content": "hello"}]
CHAT = {"model": "gpt-4o", "messages": HELLO}
USE = {"X-FlaskLLM-Cache": "use"}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


def ask(caller: Caller, body: Any = None, path: str = "/v1/chat/completions", **more: Any) -> Any:
    return caller.post(path, CHAT | (body or {}) if path.startswith("/v1/chat") else body, headers=USE, **more)


def said(answer: Any) -> str:
    return str(answer.headers["X-FlaskLLM-Cache"])


def asked(upstream: Upstream) -> int:
    return len(upstream.requests)


def count(app: Flask, table: str) -> int:
    with app.app_context(), db.engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


@pytest.fixture
def openai(make_app: MakeApp, upstream: Upstream) -> Flask:
    return make_app(**provider_environment(upstream, "openai"))


def test_an_equal_question_is_not_asked_again_and_costs_nothing(openai: Flask, upstream: Upstream) -> None:
    caller = Caller.on(openai)
    first, second = ask(caller), ask(caller)
    assert (said(first), said(second)) == ("miss", "hit")
    assert second.data == first.data
    assert (second.headers["X-FlaskLLM-Cost"], second.headers["X-FlaskLLM-Attempts"]) == ("0", "0")
    assert (asked(upstream), count(openai, "attempts"), count(openai, "calls")) == (1, 1, 2)


def test_what_was_saved_is_reported(openai: Flask) -> None:
    caller = Caller.on(openai)
    for _ in range(3):
        ask(caller)
    usage = caller.get("/api/usage").json["data"]
    assert usage["cost"] > 0
    assert usage["saved"] == pytest.approx(2 * usage["cost"])
    assert usage["requests"] == 3


def test_without_asking_for_it_nothing_is_kept_or_served(openai: Flask, upstream: Upstream) -> None:
    caller = Caller.on(openai)
    assert said(caller.chat(model="gpt-4o")) == "none"
    assert count(openai, "answers") == 0
    ask(caller, {"messages": HELLO})
    assert said(caller.chat("hello", model="gpt-4o")) == "none"
    assert said(caller.post("/v1/chat/completions", CHAT, headers={"X-FlaskLLM-Cache": "none"})) == "none"
    assert asked(upstream) == 4


def test_another_word_in_the_header_is_told_by_name(openai: Flask) -> None:
    refused = Caller.on(openai).post("/v1/chat/completions", CHAT, status=400, headers={"X-FlaskLLM-Cache": "yes"})
    assert refused.json["error"]["param"] == "X-FlaskLLM-Cache"


@pytest.mark.parametrize(
    "other",
    [
        {"messages": [{"role": "user", "content": "hello "}]},
        {"messages": [{"role": "system", "content": "be brief"}, *HELLO]},
        {"temperature": 0.5},
        {"seed": 1},
        {"max_tokens": 50},
        {"model": "gpt-4o-mini"},
        {"model": "openai/gpt-4o"},
        {"tools": TOOLS},
    ],
)
def test_what_differs_is_another_question(openai: Flask, upstream: Upstream, other: dict[str, Any]) -> None:
    caller = Caller.on(openai)
    ask(caller)
    assert said(ask(caller, other)) == "miss"
    assert asked(upstream) == 2


def test_a_token_may_always_use_it(openai: Flask, upstream: Upstream) -> None:
    caller = Caller.on(openai, cache=True)
    assert [said(caller.chat(model="gpt-4o")) for _ in range(2)] == ["miss", "hit"]
    assert said(caller.post("/v1/chat/completions", CHAT, headers={"X-FlaskLLM-Cache": "none"})) == "none"
    assert asked(upstream) == 2


def test_what_a_token_is_set_to_does_not_unset_the_rest(openai: Flask) -> None:
    ana = Caller(openai.test_client(), access_token(openai, "ana"))
    made = ana.post("/api/tokens", {"name": "sheet", "drop_params": True}, status=201).json["data"]
    path = f"/api/tokens/{made['id']}"
    changed = ana.http.patch(path, json={"cache": True}, headers=ana.headers).json["data"]
    assert (changed["drop_params"], changed["cache"]) == (True, True)
    assert ana.http.patch(path, json={"cache": False}, headers=ana.headers).json["data"]["drop_params"] is True


def test_an_answer_is_its_callers_alone(openai: Flask, upstream: Upstream) -> None:
    ask(Caller.on(openai, name="one"))
    assert said(ask(Caller.on(openai, name="two"))) == "miss"
    assert asked(upstream) == 2


def test_the_administrator_may_share_it(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(RESPONSE_CACHE_SHARED="true", **provider_environment(upstream, "openai"))
    ask(Caller.on(app, name="one"))
    assert said(ask(Caller.on(app, name="two"))) == "hit"
    refused = ask(Caller.on(app, name="three", models=["gpt-4o-mini"]), status=403)
    assert refused.json["error"]["code"] == "forbidden"


def test_the_administrator_may_switch_it_off(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(RESPONSE_CACHE_TTL="0", **provider_environment(upstream, "openai"))
    caller = Caller.on(app)
    assert {said(ask(caller)) for _ in range(2)} == {"none"}
    assert (asked(upstream), count(app, "answers")) == (2, 0)


def test_a_hit_counts_as_a_request(openai: Flask) -> None:
    caller = Caller.on(openai, requests_per_minute=2)
    ask(caller)
    assert ask(caller).headers["x-ratelimit-remaining-requests"] == "0"
    ask(caller, status=429)


def test_it_is_forgotten_in_its_time(openai: Flask) -> None:
    caller = Caller.on(openai)
    ask(caller)
    with openai.app_context(), db.engine.begin() as connection:
        then = now().replace(tzinfo=None) - timedelta(seconds=1)
        connection.execute(text("UPDATE answers SET expires_at = :then"), {"then": then})
    assert said(ask(caller)) == "miss"
    assert said(ask(caller)) == "hit"


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_an_answer_that_was_cut_is_not_kept(openai: Flask, upstream: Upstream, reason: str) -> None:
    caller = Caller.on(openai)
    upstream.script(faults.finish(reason), vendor="openai")
    ask(caller)
    assert count(openai, "answers") == 0


def test_a_failure_is_not_kept(openai: Flask, upstream: Upstream) -> None:
    caller = Caller.on(openai)
    upstream.script(faults.status(500), vendor="openai")
    ask(caller, status=502)
    upstream.reset()
    assert said(ask(caller)) == "miss"


def test_the_question_is_not_kept(openai: Flask) -> None:
    ask(
        Caller.on(openai),
        {"messages": [{"role": "user", "content": "hello"}, {"role": "system", "content": "x-marks"}]},
    )
    with openai.app_context(), db.engine.connect() as connection:
        row = connection.execute(text("SELECT * FROM answers")).mappings().one()
    assert "x-marks" not in str(dict(row))


def test_a_stream_is_replayed(openai: Flask, upstream: Upstream) -> None:
    caller = Caller.on(openai)
    whole = ask(caller).json
    answer = ask(caller, {"stream": True, "stream_options": {"include_usage": True}})
    assert said(answer) == "hit"
    *chunks, usage, done = frames(answer.get_data())
    assert done == "[DONE]"
    words = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert words == whole["choices"][0]["message"]["content"]
    assert {chunk["id"] for chunk in chunks} == {whole["id"]}
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert (usage["usage"]["total_tokens"], usage["usage"]["cost"]) == (whole["usage"]["total_tokens"], 0)
    assert (asked(upstream), count(openai, "calls"), count(openai, "attempts")) == (1, 2, 1)


def test_calls_of_tools_are_replayed(openai: Flask, upstream: Upstream) -> None:
    caller = Caller.on(openai)
    upstream.script(faults.tool_calls([["look", {}]]), vendor="openai")
    whole = ask(caller, {"tools": TOOLS}).json["choices"][0]
    *chunks, _ = frames(ask(caller, {"tools": TOOLS, "stream": True}).get_data())
    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert calls[0]["function"]["name"] == whole["message"]["tool_calls"][0]["function"]["name"] == "look"
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_stream_that_is_no_hit_says_so(openai: Flask) -> None:
    answer = ask(Caller.on(openai), {"stream": True})
    assert frames(answer.get_data())[-1] == "[DONE]"
    assert said(answer) == "miss"


@pytest.mark.parametrize(
    "path, body",
    [
        ("/v1/messages", {**CHAT, "max_tokens": 50}),
        ("/v1/responses", {"model": "gpt-4o", "input": "hello"}),
        ("/api/v1/webhook", {"model": "gpt-4o", "prompt": "hello"}),
        ("/llm/chat", {"model": "gpt-4o", "message": "hello"}),
    ],
)
def test_every_door_to_a_chat_has_it(openai: Flask, upstream: Upstream, path: str, body: dict[str, Any]) -> None:
    caller = Caller.on(openai)
    assert [said(ask(caller, body, path)) for _ in range(2)] == ["miss", "hit"]
    assert asked(upstream) == 1


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/llm/chat"])
def test_every_stream_is_replayed_in_its_dialect(openai: Flask, upstream: Upstream, path: str) -> None:
    bodies = {
        "/v1/messages": {**CHAT, "max_tokens": 50},
        "/v1/responses": {"model": "gpt-4o", "input": "hello"},
        "/llm/chat": {"model": "gpt-4o", "message": "hello"},
    }
    caller = Caller.on(openai)
    ask(caller, bodies[path], path)
    answer = ask(caller, {**bodies[path], "stream": True}, path)
    assert said(answer) == "hit"
    assert b"error" not in answer.get_data().replace(b'"error":null', b"")
    assert asked(upstream) == 1


def test_claudes_own_bytes_come_back(make_app: MakeApp, upstream: Upstream) -> None:
    caller = Caller.on(make_app(**provider_environment(upstream, "anthropic")))
    body = {"model": "anthropic/claude-sonnet-4-5", "max_tokens": 50, "messages": HELLO}
    first, second = (ask(caller, body, "/v1/messages") for _ in range(2))
    assert said(second) == "hit"
    assert second.data == first.data


def test_of_many_at_once_one_is_asked(openai: Flask, upstream: Upstream) -> None:
    upstream.script(faults.delay(0.3), vendor="openai")
    caller = Caller.on(openai)

    def one(_: int) -> str:
        return said(ask(Caller(openai.test_client(), caller.token)))

    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(one, range(100)))
    assert sorted(answers) == ["hit"] * 99 + ["miss"]
    assert asked(upstream) == 1


def test_a_template_may_say_that_an_answer_before_will_do(openai: Flask, upstream: Upstream) -> None:
    admin = Caller(openai.test_client(), access_token(openai, "boss", admin=True))
    caller, other = Caller.on(openai), Caller.on(openai, name="other")
    made = {"name": "brief", "user_text": "In short: {{text}}", "model": "gpt-4o", "cache": True}
    assert admin.post("/api/v1/templates", made, status=201).json["cache"] is True
    prompt = {"prompt": "the whole story", "template": "brief"}

    def answered(who: Caller, **headers: str) -> str:
        return said(who.post("/api/v1/webhook", prompt, headers=headers or None))

    assert [answered(caller), answered(caller)] == ["miss", "hit"]
    assert asked(upstream) == 1
    assert answered(other) == "miss", "somebody else's answers are not his"
    assert answered(caller, **{"X-FlaskLLM-Cache": "none"}) == "none"
    changed = admin.http.put("/api/v1/templates/brief", json={"cache": False}, headers=admin.headers)
    assert changed.json["cache"] is False
    assert answered(caller) == "none"
    assert admin.http.put("/api/v1/templates/brief", json={"cache": "yes"}, headers=admin.headers).status_code == 400


def test_a_revoked_token_gets_nothing_from_the_cache(openai: Flask, upstream: Upstream) -> None:
    caller = Caller.on(openai)
    ask(caller)
    tokens = openai.extensions["flaskllm"].tokens
    token_id = tokens.identify(caller.token).token_id
    tokens.revoke_any(token_id)
    assert "X-FlaskLLM-Cache" not in ask(caller, status=401).headers


def test_a_key_and_the_cache_agree(openai: Flask, upstream: Upstream) -> None:
    caller = Caller.on(openai)
    ask(caller)
    keyed = {**USE, "Idempotency-Key": "once"}
    first, second = (caller.post("/v1/chat/completions", CHAT, headers=keyed) for _ in range(2))
    assert first.data == second.data
    assert second.headers["Idempotency-Replayed"] == "true"
    assert asked(upstream) == 1


def test_what_is_too_old_is_swept_by_the_housekeeper(openai: Flask) -> None:
    caller = Caller.on(openai)
    ask(caller)
    assert count(openai, "answers") == 1
    with openai.app_context(), db.engine.begin() as connection:
        connection.execute(text("UPDATE answers SET expires_at = :past"), {"past": "2020-01-01 00:00:00.000000"})
    keeper = openai.extensions["flaskllm"].housekeeper
    for chore in keeper._chores:
        if chore.name == "idempotent answers":
            chore.do()
    assert count(openai, "answers") == 0


def test_hits_and_what_they_saved_are_counted(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(METRICS_TOKEN=METRICS_TOKEN, **provider_environment(upstream, "openai"))
    caller = Caller.on(app)
    cost = float(ask(caller).headers["X-FlaskLLM-Cost"])
    ask(caller)
    ask(caller, {"stream": True}).get_data()
    ask(caller, {"seed": 1})
    told = app.test_client().get("/metrics", headers={"X-API-Token": METRICS_TOKEN}).text
    of = {"provider": "openai", "model": "gpt-4o"}
    assert counted(told, "flaskllm_cache_hits_total", **of) == 2
    assert counted(told, "flaskllm_cache_saved_dollars_total", **of) == pytest.approx(2 * cost)
    assert counted(told, "flaskllm_model_calls_total", **of) == 4
    assert counted(told, "flaskllm_upstream_attempts_total") == 2


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_larger_than_the_setting_is_not_kept(make_app: MakeApp, upstream: Upstream, stream: bool) -> None:
    app = make_app(RESPONSE_CACHE_MAX_BYTES="2000", **provider_environment(upstream, "openai"))
    caller = Caller.on(app)
    ask(caller, {"stream": stream}).get_data()
    assert count(app, "answers") == 1
    long = {"messages": [{"role": "user", "content": "long"}], "stream": stream}
    upstream.script(faults.text("word " * 500), vendor="openai")
    for _ in range(2):
        answer = ask(caller, long)
        assert said(answer) == "miss"
        answer.get_data()
    assert count(app, "answers") == 1


@pytest.mark.parametrize(
    "path, body",
    [
        (f"{GATE}/chat", {"prompt": {"messages": HELLO}}),
        ("/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21", {"messages": HELLO}),
    ],
)
def test_the_gate_and_azures_path_have_it(gateway: Flask, upstream: Upstream, path: str, body: dict[str, Any]) -> None:
    caller = Caller.on(gateway)
    answers = [caller.post(path, body, headers={**USE, **THREE}) for _ in range(2)]
    assert [said(answer) for answer in answers] == ["miss", "hit"]
    assert asked(upstream) == 1


def test_a_typed_answer_is_read_again_from_what_is_kept(openai: Flask, upstream: Upstream) -> None:
    admin = Caller(openai.test_client(), access_token(openai, "boss", admin=True))
    made = {"name": "often", "user_text": "{{text}}", "type": "keywords", "model": "gpt-4o", "cache": True}
    admin.post("/api/v1/templates", made, status=201)
    upstream.script(faults.text('["one", "two"]'), vendor="openai")
    caller = Caller.on(openai)
    answers = [caller.post("/api/v1/webhook", {"prompt": "all of it", "template": "often"}) for _ in range(2)]
    assert [said(answer) for answer in answers] == ["miss", "hit"]
    assert [answer.json["result"] for answer in answers] == [["one", "two"]] * 2
    assert asked(upstream) == 1


def test_a_typed_answer_that_cannot_be_read_is_kept_with_its_second_asking(openai: Flask, upstream: Upstream) -> None:
    upstream.script(faults.text("nothing of the kind"), vendor="openai")
    caller = Caller.on(openai)
    body = {"prompt": "all of it", "template": "keywords", "model": "gpt-4o"}
    answers = [caller.post("/api/v1/webhook", body, headers=USE) for _ in range(2)]
    assert [said(answer) for answer in answers] == ["miss", "hit"]
    assert [answer.json["result"] for answer in answers] == [None, None]
    assert asked(upstream) == 2


def test_a_response_from_the_cache_is_stored_as_one_of_its_own(openai: Flask, upstream: Upstream) -> None:
    caller = Caller.on(openai)
    first, second = (ask(caller, {"model": "gpt-4o", "input": "hello"}, "/v1/responses").json for _ in range(2))
    assert first["id"] != second["id"]
    follow = {"model": "gpt-4o", "input": "and then?"}
    for one in (first, second):
        assert caller.get(f"/v1/responses/{one['id']}").json["output"] == one["output"]
        ask(caller, {**follow, "previous_response_id": one["id"]}, "/v1/responses")
    assert asked(upstream) == 2, "both threads hold the same messages: one question"
