"""Seed 2's gate: its three headers, its documents, and every field at fault told by its path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from jsonschema import Draft202012Validator

from flaskllm.extensions import db
from tests.actors import Caller, calls_of
from tests.conftest import MakeApp, provider_environment
from tests.upstream import Upstream, faults
from tests.wire.test_gate import BAD, BAD_EMBEDDINGS, BAD_IMAGES

ROOT = "/llm-gate/v1"
CORRELATION = "7b1f3c2e-5d4a-4f6b-8c9d-0e1f2a3b4c5d"
THREE = {"X-Correlation-Id": CORRELATION, "X-User-Id": "ana", "client_id": "budget-app"}
EXAMPLE = json.loads((Path(__file__).parent.parent / "services" / "s2_providers.json").read_text(encoding="utf-8"))
USER = {"role": "user", "content": "hello"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def azure(make_app: MakeApp, upstream: Upstream) -> Flask:
    """A gateway where nobody but Azure is on, as S2's `.env` has it."""
    return make_app(**provider_environment(upstream, "azure_openai"))


def asking(*messages: Any, **parameter: Any) -> dict[str, Any]:
    """S2's chat."""
    return {"prompt": {"parameter": parameter, "messages": list(messages) or [USER]}}


def drawing(model: str, **parameter: Any) -> dict[str, Any]:
    """S2's image."""
    provider = {"name": "azure_openai", "model": {"name": model}}
    return {"provider": provider, "prompt": {"message": "A cat wearing a hat", "parameter": parameter}}


def ask(caller: Caller, body: Any, *, status: int = 200, path: str = "/chat", **headers: str) -> Any:
    return caller.post(ROOT + path, body, status=status, headers={**THREE, **headers})


def details(response: Any) -> list[str]:
    return [detail["field"] for detail in response.json["error"]["details"]]


# -- the three headers -------------------------------------------------------------------------------------------------

PATHS = [("GET", "/providers"), ("POST", "/chat"), ("POST", "/images/generations"), ("POST", "/embeddings")]


@pytest.mark.parametrize("method, path", PATHS)
@pytest.mark.parametrize(
    "headers, named",
    [
        ({}, ["X-Correlation-Id", "X-User-Id", "client_id"]),
        ({"X-Correlation-Id": None}, ["X-Correlation-Id"]),
        ({"X-Correlation-Id": ""}, ["X-Correlation-Id"]),
        ({"X-Correlation-Id": "not-a-uuid"}, ["X-Correlation-Id"]),
        ({"X-Correlation-Id": CORRELATION.replace("-", "")}, ["X-Correlation-Id"]),
        ({"X-Correlation-Id": f"{{{CORRELATION}}}"}, ["X-Correlation-Id"]),
        ({"X-Correlation-Id": f"{CORRELATION}, {CORRELATION}"}, ["X-Correlation-Id"]),
        ({"X-Correlation-Id": CORRELATION.replace("7", "７")}, ["X-Correlation-Id"]),
        ({"X-User-Id": None}, ["X-User-Id"]),
        ({"X-User-Id": "  "}, ["X-User-Id"]),
        ({"X-User-Id": "x" * 129}, ["X-User-Id"]),
        ({"X-User-Id": "a\tb"}, ["X-User-Id"]),
        ({"X-User-Id": "zoë"}, ["X-User-Id"]),
        ({"client_id": None}, ["client_id"]),
        ({"client_id": "x" * 10_000}, ["client_id"]),
        ({"client_id": "c1\nINFO forged"}, ["client_id"]),
        ({"client_id": "a", "X-Client-Id": "b"}, ["client_id"]),
        ({"client_id": None, "X-Client-Id": "\x01"}, ["client_id"]),
    ],
)
def test_a_header_that_is_missing_or_malformed_is_named(
    azure: Flask, method: str, path: str, headers: dict[str, str | None], named: list[str]
) -> None:
    caller = Caller.on(azure)
    sent = {**THREE, **headers} if headers else {}
    environ = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in sent.items() if value is not None}
    response = caller.http.open(
        ROOT + path, method=method, json=asking() if method == "POST" else None, headers=caller.headers,
        environ_overrides=environ,
    )  # fmt: skip
    assert (response.status_code, details(response)) == (400, named)
    assert response.json["status"] == "error"


def test_they_are_returned_recorded_and_logged(azure: Flask) -> None:
    response = ask(Caller.on(azure), asking())
    told = {name: response.headers[name] for name in (*THREE, "X-Client-Id")}
    assert told == {**THREE, "X-Client-Id": "budget-app"}
    with azure.app_context():
        query = db.text("SELECT door, correlation_id, claimed_user, client_id FROM calls")
        assert db.session.execute(query).all() == [("gate", CORRELATION, "ana", "budget-app")]
    lines = [json.loads(line) for line in (Path(azure.instance_path).parent / "logs/app.log").read_text().splitlines()]
    line = next(line for line in lines if line["event"] == "llm_request")
    assert (line["correlation_id"], line["claimed_user"], line["client_id"]) == (CORRELATION, "ana", "budget-app")


def test_they_are_returned_with_an_error_too(azure: Flask) -> None:
    response = ask(Caller.on(azure), {}, status=400)
    assert {name: response.headers[name] for name in THREE} == THREE


def test_x_client_id_is_the_same_header(azure: Flask) -> None:
    caller = Caller.on(azure)
    sent = {name: value for name, value in THREE.items() if name != "client_id"}
    response = caller.post(f"{ROOT}/chat", asking(), headers={**sent, "X-Client-Id": "budget-app"})
    assert response.headers["X-Client-Id"] == "budget-app"
    assert "client_id" not in response.headers
    both = ask(caller, asking(), **{"X-Client-Id": "budget-app"})
    assert both.headers["client_id"] == "budget-app"


def test_elsewhere_they_may_be_left_out_and_what_cannot_be_held_is_left_out(azure: Flask) -> None:
    caller = Caller.on(azure)
    assert caller.http.get("/v1/models", headers={**caller.headers, "X-User-Id": "ana"}).headers["X-User-Id"] == "ana"
    odd = caller.http.get(
        "/v1/models", headers=caller.headers, environ_overrides={"HTTP_X_CORRELATION_ID": "a\r\nSet-Cookie: x=1"}
    )
    assert odd.status_code == 200
    assert "X-Correlation-Id" not in odd.headers


def test_a_page_may_send_and_read_them(azure: Flask) -> None:
    response = azure.test_client().options(
        f"{ROOT}/chat", headers={"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    )
    assert response.status_code == 200
    allowed = response.headers["Access-Control-Allow-Headers"]
    assert all(name in allowed for name in (*THREE, "X-Client-Id"))


# -- who may enter, and where ------------------------------------------------------------------------------------------


def test_a_credential_is_asked_for_before_the_headers(azure: Flask) -> None:
    for method, path in PATHS:
        assert azure.test_client().open(ROOT + path, method=method).status_code == 401


def test_health_is_open_and_needs_no_headers(azure: Flask) -> None:
    response = azure.test_client().get(f"{ROOT}/health")
    assert (response.status_code, response.json["status"], set(response.json)) == (200, "ok", {"status", "version"})


def test_providers_need_no_scope_and_a_chat_does(azure: Flask) -> None:
    caller = Caller.on(azure, scopes=["webhook"])
    assert caller.http.get(f"{ROOT}/providers", headers={**caller.headers, **THREE}).status_code == 200
    assert ask(caller, asking(), status=403).json["error"]["code"] == "forbidden"


def test_an_unknown_query_parameter_is_named(azure: Flask) -> None:
    caller = Caller.on(azure)
    response = caller.http.get(f"{ROOT}/providers?limit=5", headers={**caller.headers, **THREE})
    assert (response.status_code, details(response)) == (400, ["limit"])


@pytest.mark.parametrize("path", ["/genai", "/a/b/c", "/v1x"])
def test_the_setting_moves_the_gate_and_nothing_else(make_app: MakeApp, path: str) -> None:
    caller = Caller.on(make_app(HEIMDALL_API_PATH=path))
    assert caller.http.get(f"{path}/v1/health").status_code == 200
    assert caller.http.get(f"{path}/v1/providers", headers={**caller.headers, **THREE}).status_code == 200
    missing = caller.http.get(f"{path}/v1/nothing")
    assert (missing.status_code, missing.json["status"]) == (404, "error")
    assert caller.http.get("/llm-gate/v1/health").status_code == 404
    assert caller.http.get("/health").status_code == 200
    assert caller.http.get("/v1/models", headers=caller.headers).status_code == 200


# -- providers ---------------------------------------------------------------------------------------------------------


def providers(caller: Caller) -> list[dict[str, Any]]:
    response = caller.http.get(f"{ROOT}/providers", headers={**caller.headers, **THREE})
    assert response.status_code == 200
    assert set(response.json) == {"data"}
    return response.json["data"]


def as_printed(provider: dict[str, Any]) -> dict[str, Any]:
    """Without the right spelling that stands beside S2's own."""
    models = [{name: held for name, held in model.items() if name != "trainingData"} for model in provider["model"]]
    return {**provider, "model": models}


def test_the_seeds_document_comes_back_to_the_field(azure: Flask) -> None:
    found = providers(Caller.on(azure))
    assert [as_printed(provider) for provider in found] == EXAMPLE["data"]
    assert [list(as_printed(provider)) for provider in found] == [list(provider) for provider in EXAMPLE["data"]]
    for model, printed in zip(found[0]["model"], EXAMPLE["data"][0]["model"], strict=True):
        assert [name for name in model if name != "trainingData"] == list(printed)
        assert model.get("trainingData") == printed.get("tranningData")


def test_whoever_is_off_is_not_offered_and_the_others_stand_in_order(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(**provider_environment(upstream, "gemini", "azure_openai", "openai"))
    assert [provider["name"] for provider in providers(Caller.on(app))] == ["openai", "azure_openai", "gemini"]


def test_a_gateway_without_any_offers_its_last_resort(app: Flask) -> None:
    assert [provider["name"] for provider in providers(Caller.on(app))] == ["demo"]


def test_a_token_sees_only_what_it_may_use(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(**provider_environment(upstream, "azure_openai", "gemini"))
    found = providers(Caller.on(app, models=["azure_openai/gpt-4", "dall-e-2"]))
    assert [(each["name"], [model["name"] for model in each["model"]]) for each in found] == [
        ("azure_openai", ["gpt-4", "dall-e-2"])
    ]


# -- chat --------------------------------------------------------------------------------------------------------------


def test_the_parameters_arrive_under_openais_names(azure: Flask, upstream: Upstream) -> None:
    body = asking(
        {"role": "system", "content": "Be brief."}, USER,
        temperature=0.7, maxTokens=50, topP=0.5, presencePenalty=0.1, frequencyPenalty=0.2, stop=["x"], seed=7,
        user="ana", toolChoice=None,
    )  # fmt: skip
    ask(Caller.on(azure), {"provider": {"name": "azure_openai", "model": {"name": "gpt-4o"}}, **body})
    sent = upstream.requests[-1].body
    known = {
        "temperature": 0.7, "max_tokens": 50, "top_p": 0.5, "presence_penalty": 0.1, "frequency_penalty": 0.2,
        "stop": ["x"], "seed": 7, "user": "ana",
    }  # fmt: skip
    assert {name: sent.get(name) for name in known} == known
    assert "tool_choice" not in sent
    assert sent["messages"] == body["prompt"]["messages"]


def test_several_choices_are_several_messages(azure: Flask) -> None:
    answer = ask(Caller.on(azure), {"provider": {"model": {"name": "gpt-4o"}}, **asking(n=3)}).json
    assert answer["messages"] == [{"role": "assistant", "content": "echo: hello"}] * 3
    assert set(answer) == {"usage", "messages", "cost"}


def test_an_answer_of_tool_calls_has_them_and_no_content(azure: Flask, upstream: Upstream) -> None:
    upstream.script(faults.tool_calls([["weather", {"city": "Rome"}]]), times=1)
    named = {"provider": {"model": {"name": "gpt-4o"}}}
    first = ask(Caller.on(azure), {**named, **asking(USER, tools=[TOOL], toolChoice="required")}).json
    (message,) = first["messages"]
    assert (message["role"], message["content"]) == ("assistant", None)
    assert message["toolCalls"][0]["function"]["name"] == "weather"
    result = {"role": "tool", "toolCallId": message["toolCalls"][0]["id"], "content": "sunny"}
    second = ask(Caller.on(azure), {**named, **asking(USER, message, result, tools=[TOOL])}).json
    assert second["messages"][0]["content"]
    assert upstream.requests[-1].body["messages"][2]["tool_call_id"] == result["toolCallId"]
    assert upstream.requests[-1].body["messages"][1]["tool_calls"] == message["toolCalls"]


@pytest.mark.parametrize("provider", [None, {}, {"name": None}, {"model": None}, {"name": "azure_openai", "model": {}}])
def test_without_a_name_the_default_answers(azure: Flask, provider: Any) -> None:
    response = ask(Caller.on(azure), {"provider": provider, **asking()})
    assert response.headers["X-FlaskLLM-Provider"] == "azure_openai"


@pytest.mark.parametrize(
    "provider", [{"name": "nobody"}, {"name": "gemini"}, {"name": "azure_openai", "model": {"name": "gpt-99"}}]
)
def test_who_is_not_there_is_a_404(azure: Flask, provider: Any) -> None:
    assert ask(Caller.on(azure), {"provider": provider, **asking()}, status=404).json["error"]["code"] == "not_found"


def test_a_model_that_does_not_chat_is_told_so(azure: Flask) -> None:
    body = {"provider": {"name": "azure_openai", "model": {"name": "dall-e-2"}}, **asking()}
    assert ask(Caller.on(azure), body, status=400).json["error"]["code"] == "invalid_request"


def test_nothing_is_written_where_a_field_is_at_fault(azure: Flask, upstream: Upstream) -> None:
    response = ask(Caller.on(azure), {"provider": {"x": 1}, **asking(maxTokens="50")}, status=400)
    assert details(response) == ["provider.x", "prompt.parameter.maxTokens"]
    assert response.json["error"]["code"] == "invalid_request"
    assert not upstream.requests
    with azure.app_context():
        assert db.session.execute(db.text("SELECT count(*) FROM calls")).scalar() == 0


@pytest.mark.parametrize("body", ["[1]", "null", "{", '{"prompt": {}, "prompt": {}}', '{"prompt": NaN}'])
def test_a_body_that_is_no_object_of_json_is_refused(azure: Flask, body: str) -> None:
    caller = Caller.on(azure)
    headers = {**caller.headers, **THREE, "Content-Type": "application/json"}
    response = caller.http.post(f"{ROOT}/chat", data=body, headers=headers)
    assert (response.status_code, response.json["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    "path, bad, good",
    [
        ("/chat", BAD, asking(USER, {"role": "assistant", "toolCalls": []}, temperature=1, stop="x", tools=[TOOL])),
        ("/images/generations", BAD_IMAGES, drawing("dall-e-2", n=1, size="auto", quality=None)),
        ("/embeddings", BAD_EMBEDDINGS, {"input": ["x", "y"], "parameter": {"dimensions": 5}}),
    ],
)
def test_the_document_takes_no_body_that_the_gate_refuses(app: Flask, path: str, bad: Any, good: Any) -> None:
    document = app.test_client().get("/openapi.json").json
    form = document["paths"][f"{ROOT}{path}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    validator = Draft202012Validator({**form, "components": document["components"]})
    assert [body for body, _ in bad if validator.is_valid(body) and "nan" not in repr(body)] == []
    assert validator.is_valid(good)


# -- images and embeddings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model, parameter, cost",
    [
        ("dall-e-2", {"n": 1, "size": "1024x1024"}, "0.02"),
        ("dall-e-2", {"n": 2, "size": "512x512"}, "0.036"),
        ("dall-e-2", {"size": "256x256"}, "0.016"),
        ("dall-e-3", {"size": "1024x1024"}, "0.04"),
        ("dall-e-3", {"size": "1792x1024", "quality": "Standard"}, "0.08"),
        ("dall-e-3", {"size": "1792x1024", "quality": "HD"}, "0.12"),
    ],
)
def test_images_cost_by_size_and_quality(azure: Flask, model: str, parameter: dict[str, Any], cost: str) -> None:
    response = ask(Caller.on(azure), drawing(model, **parameter), path="/images/generations")
    assert [set(image) for image in response.json["data"]] == [{"url"}] * parameter.get("n", 1)
    assert set(response.json) == {"data"}
    assert response.headers["X-FlaskLLM-Cost"] == cost


def test_texts_are_embedded_in_their_order(azure: Flask, upstream: Upstream) -> None:
    provider = {"name": "azure_openai", "model": {"name": "text-embedding-ada-002"}}
    response = ask(Caller.on(azure), {"provider": provider, "input": ["one", "two three"]}, path="/embeddings")
    assert [row["index"] for row in response.json["data"]] == [0, 1]
    assert all(row["embedding"] for row in response.json["data"])
    assert response.json["usage"] == {"completionTokens": 0, "promptTokens": 3, "totalTokens": 3}
    assert response.headers["X-FlaskLLM-Cost"] == "0.0000003"
    assert upstream.requests[-1].body["input"] == ["one", "two three"]


def test_each_kind_needs_its_own_scope(azure: Flask) -> None:
    chats = Caller.on(azure, scopes=["chat"])
    assert ask(chats, drawing("dall-e-2"), path="/images/generations", status=403)
    assert ask(chats, {"input": "x"}, path="/embeddings", status=403)
    draws = Caller.on(azure, scopes=["images"])
    assert ask(draws, drawing("dall-e-2"), path="/images/generations")
    assert ask(draws, asking(), status=403)


@pytest.mark.parametrize("path, body", [("/images/generations", drawing("gpt-4")), ("/embeddings", {
    "provider": {"model": {"name": "gpt-4"}}, "input": "x",
})])  # fmt: skip
def test_a_model_of_another_kind_is_told_so(azure: Flask, path: str, body: Any) -> None:
    assert ask(Caller.on(azure), body, path=path, status=400).json["error"]["code"] == "invalid_request"


# -- Azure's regions ---------------------------------------------------------------------------------------------------


def two_regions(upstream: Upstream, **more: str) -> dict[str, str]:
    """S2's `.env`: two regions, both on the simulator."""
    found = {}
    for name in ("west", "east"):
        endpoint, key = upstream.azure_region(name)
        found |= {f"AZURE_OPENAI_{name.upper()}_US_ENDPOINT": endpoint, f"AZURE_OPENAI_{name.upper()}_US_API_KEY": key}
    return {**found, **more}


def test_two_regions_take_turns(make_app: MakeApp, upstream: Upstream) -> None:
    caller = Caller.on(make_app(**two_regions(upstream)))
    tries = {calls_of(ask(caller, asking()).headers) for _ in range(4)}
    assert tries == {1}
    assert sorted(seen.vendor for seen in upstream.requests) == ["azure-east"] * 2 + ["azure-west"] * 2


@pytest.mark.parametrize("down", ["west", "east"])
@pytest.mark.parametrize("fault", [faults.status(500), faults.status(429), faults.reset()], ids=["500", "429", "reset"])
def test_a_region_that_fails_is_passed_over(make_app: MakeApp, upstream: Upstream, down: str, fault: Any) -> None:
    upstream.script(fault, vendor=f"azure-{down}")
    caller = Caller.on(make_app(**two_regions(upstream)))
    found = [ask(caller, asking()) for _ in range(2)]
    assert [response.json["messages"][0]["content"] for response in found] == ["echo: hello"] * 2
    assert 2 in [calls_of(response.headers) for response in found]


def test_a_region_that_refuses_connections_is_passed_over(make_app: MakeApp, upstream: Upstream) -> None:
    closed = {"AZURE_OPENAI_WEST_US_ENDPOINT": upstream.endpoint("closed")}
    caller = Caller.on(make_app(**two_regions(upstream, **closed)))
    tries = [calls_of(ask(caller, asking()).headers) for _ in range(2)]
    assert 2 in tries


def test_with_both_regions_down_it_is_a_502_in_the_houses_dialect(make_app: MakeApp, upstream: Upstream) -> None:
    upstream.script(faults.status(500))
    response = ask(Caller.on(make_app(**two_regions(upstream))), asking(), status=502)
    assert response.json["error"]["code"] == "provider_error"
