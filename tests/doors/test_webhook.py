"""``/api/v1/webhook``, ``/templates`` and ``/health`` over HTTP."""

from __future__ import annotations

import json

import pytest
from flask import Flask
from sqlalchemy import text

from flaskllm import __version__
from flaskllm.domain.prompt import PromptKind
from flaskllm.extensions import db
from tests.actors import Caller
from tests.conftest import MakeApp, provider_environment
from tests.upstream import Upstream, faults

PATH = "/api/v1/webhook"


@pytest.fixture
def excel(make_app: MakeApp, upstream: Upstream) -> Caller:
    return Caller.on(make_app(**provider_environment(upstream, "openai")), scopes=["webhook"])


def test_a_prompt_is_answered_with_the_seeds_fields_and_more(excel, upstream):
    upstream.script(faults.text("They hire less."))
    response = excel.post(PATH, {"prompt": "Summarize this.", "type": "summary"})
    body = response.json
    assert list(body) == ["summary", "processing_time", "type", "model", "result", "usage", "request_id"]
    assert (body["summary"], body["type"], body["result"]) == ("They hire less.", "summary", None)
    assert isinstance(body["processing_time"], float)
    assert body["request_id"] == response.headers["X-Request-Id"]
    assert response.headers["X-FlaskLLM-Provider"] == "openai"


def test_a_typed_answer_is_typed(excel, upstream):
    upstream.script(faults.text("```json\n['a', 'b',]\n```"))
    assert excel.post(PATH, {"prompt": "x", "type": "keywords"}).json["result"] == ["a", "b"]


@pytest.mark.parametrize("behaviour", ["text_five", "huge", "deep"])
def test_whatever_the_model_says_the_answer_is_json(excel, upstream, behaviour):
    words = {"text_five": '{"keywords": 5}', "huge": '["' + "x" * 1_000_000 + '"]', "deep": "[" * 10_000}[behaviour]
    upstream.script(faults.text(words))
    body = excel.post(PATH, {"prompt": "x", "type": "keywords"}).json
    assert body["result"] is None
    assert body["summary"] == words


@pytest.mark.parametrize("header", ["X-API-Token", "x-api-key", "api-key"])
def test_the_token_comes_in_several_headers(excel, header):
    response = excel.http.post(PATH, json={"prompt": "hi"}, headers={header: excel.token})
    assert response.status_code == 200


def test_the_token_may_stand_in_the_query(excel):
    assert excel.http.post(f"{PATH}?api_token={excel.token}", json={"prompt": "hi"}).status_code == 200


def test_without_a_token_it_is_a_401(excel, upstream):
    response = excel.http.post(PATH, json={"prompt": "hi"})
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert upstream.requests == []


def test_another_scope_does_not_do(excel):
    other = Caller.on(excel.http.application, scopes=["chat"])
    assert other.post(PATH, {"prompt": "hi"}, status=403).json["error"]["code"] == "forbidden"


@pytest.mark.parametrize(
    "body, field",
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "x" * 4001}, "prompt"),
        ({"prompt": "hi", "type": "nope"}, "type"),
        ({"prompt": "hi", "language": "xx-invalid"}, "language"),
        ({"prompt": "hi", "type": "translation"}, "language"),
        ({"prompt": "hi", "source": "fax"}, "source"),
        ({"prompt": "hi", "unknown": 1}, "unknown"),
    ],
)
def test_what_is_wrong_is_named(excel, upstream, body, field):
    error = excel.post(PATH, body, status=400).json["error"]
    assert error["code"] == "invalid_request"
    assert field in [detail["field"] for detail in error["details"]]
    assert upstream.requests == []


def test_the_longest_prompt_is_a_setting(make_app, upstream):
    caller = Caller.on(make_app(**provider_environment(upstream, "openai"), MAX_PROMPT_LENGTH="10"))
    caller.post(PATH, {"prompt": "x" * 10})
    caller.post(PATH, {"prompt": "x" * 11}, status=400)


@pytest.mark.parametrize("template", ["../../secret", "nope"])
def test_an_unknown_template_is_a_404(excel, template):
    assert excel.post(PATH, {"prompt": "hi", "template": template}, status=404).json["error"]["code"] == "not_found"


def test_elsewhere_a_silent_provider_stays_a_504(make_app, upstream):
    app = make_app(**provider_environment(upstream, "openai"), REQUEST_TIMEOUT="1")
    upstream.script(faults.hang())
    Caller.on(app).chat("hi", status=504)


def test_a_workbook_token_is_held_to_its_templates(excel, upstream):
    workbook = Caller.on(excel.http.application, scopes=["webhook"], templates=["keywords"])
    upstream.script(faults.text('["a"]'))
    workbook.post(PATH, {"prompt": "hi", "type": "keywords"})
    workbook.post(PATH, {"prompt": "hi", "type": "summary"}, status=403)
    workbook.post(PATH, {"prompt": "hi"}, status=403)
    assert [one["name"] for one in workbook.get("/api/v1/templates").json["data"]] == ["keywords"]


def test_the_templates_are_listed(excel):
    body = excel.get("/api/v1/templates").json
    assert [one["name"] for one in body["data"]] == [kind.value for kind in PromptKind]
    assert body["next"] is None
    assert {"name": "text", "default": None} in body["data"][0]["variables"]


def test_an_unknown_query_parameter_is_refused_by_name(excel):
    assert excel.get("/api/v1/templates?colour=red", status=400).json["error"]["details"][0]["field"] == "colour"


def test_health_is_open_and_the_seeds(client):
    response = client.get("/api/v1/health")
    assert response.json == {"status": "ok", "version": __version__, "environment": "testing"}


def test_the_usage_row_holds_what_kind_of_prompt_it_was(gateway: Flask):
    Caller.on(gateway).post(PATH, {"prompt": "hi", "type": "summary", "source": "email"})
    with gateway.app_context():
        held = db.session.execute(text("SELECT metadata, door FROM calls")).one()
        db.session.remove()
    assert json.loads(held.metadata) == {"template": "summary", "source": "email"}
    assert held.door == "webhook"
