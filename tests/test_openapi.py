"""``/openapi.json``: valid, whole, and true of guard and dialect; what its answers hold is schemathesis's to try."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from flask import Flask
from flask.testing import FlaskClient
from marshmallow import Schema
from openapi_spec_validator import OpenAPIV31SpecValidator

from flaskllm.blueprints import DOORS
from flaskllm.blueprints._errors import dialect
from flaskllm.blueprints._examples import BODIES
from flaskllm.blueprints._guard import open_to_all
from flaskllm.blueprints.docs import CARRIERS, routes
from flaskllm.wire import fields
from flaskllm.wire.openapi import ERRORS, About, Operation, write_document
from flaskllm.wire.shapes import STRING, record
from tests.actors import Caller
from tests.conftest import MakeApp

Described = tuple[str, str, dict[str, Any]]


@pytest.fixture
def document(client: FlaskClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json
    return found


def operations(document: dict[str, Any]) -> Iterator[Described]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def resolved(document: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """What a reference leads to, as deep as it is one."""
    while "$ref" in part:
        found: Any = document
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        part = found
    return part


def template(rule: str) -> str:
    return re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", rule)


def test_it_is_openapi_3_1_and_valid(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()


def test_every_schema_in_it_is_one_of_json_schema(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_it_has_every_route_and_nothing_else(app: Flask, document: dict[str, Any]) -> None:
    written = {(path, method.upper()) for path, method, _ in operations(document)}
    assert written == {(template(rule.rule), method) for rule, method in routes(app)}


def test_every_view_describes_itself(app: Flask) -> None:
    assert [rule.rule for rule, _ in routes(app) if not hasattr(app.view_functions[rule.endpoint], "api_doc")] == []


def test_each_operation_asks_for_what_its_guard_asks(app: Flask, document: dict[str, Any]) -> None:
    doors = {door.blueprint.name: door for door in DOORS}
    for rule, method in routes(app):
        policy = doors[rule.endpoint.partition(".")[0]].policy(rule.endpoint)
        asked = document["paths"][template(rule.rule)][method.lower()]["security"]
        if policy is open_to_all:
            assert asked == [] or {} in asked, rule.rule
        else:
            assert {name for each in asked for name in each} >= set(CARRIERS), rule.rule
            assert [each for each in asked if each.get("accessToken") == [getattr(policy, "scope", "")]] or not hasattr(
                policy, "scope"
            ), rule.rule


def test_each_credential_it_names_is_told_of(document: dict[str, Any]) -> None:
    named = {name for _, _, operation in operations(document) for each in operation["security"] for name in each}
    assert named == set(document["components"]["securitySchemes"])


def test_the_query_carries_a_token_where_it_may(make_app: MakeApp) -> None:
    def paths(**environment: str) -> set[str]:
        found = make_app(**environment).test_client().get("/openapi.json").json
        return {path for path, _, told in operations(found) if any("queryToken" in each for each in told["security"])}

    with_it = paths(ALLOW_QUERY_TOKEN="true")
    assert with_it
    assert all(path.startswith("/api/v1/") for path in with_it)
    assert paths(ALLOW_QUERY_TOKEN="false") == set()


def test_each_operation_tells_its_errors_in_the_dialect_of_its_path(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        form = f"#/components/schemas/{ERRORS[dialect(path)]['title']}"
        told = {status: resolved(document, answer) for status, answer in operation["responses"].items()}
        errors = {status for status in told if status >= "400"}
        assert errors >= {"400", "500", "503"}, (path, method)
        assert {} in operation["security"] or operation["security"] == [] or errors >= {"401", "403"}, (path, method)
        assert "{" not in path or "404" in errors, (path, method)
        assert "requestBody" not in operation or errors >= {"413", "415"}, (path, method)
        of_others = {"414", "503"} if path == "/health/ready" else {"414"}
        for status in errors - of_others:
            assert told[status]["content"]["application/json"]["schema"] == {"$ref": form}, (path, status)
            assert "X-Request-Id" in told[status]["headers"]


def test_each_operation_tells_its_answer(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        good = {status: answer for status, answer in operation["responses"].items() if status < "300"}
        assert good, (path, method)
        for status, answer in good.items():
            assert (status == "204") == ("content" not in answer), (path, method)
            assert all(held["schema"] for held in answer.get("content", {}).values()), (path, method)
            assert "X-Request-Id" in answer["headers"]


def test_every_operation_has_a_name_a_family_and_a_summary(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))
    families = {tag["name"] for tag in document["tags"] if tag["description"]}
    for path, method, operation in operations(document):
        assert set(operation["tags"]) <= families, (path, method)
        assert operation["summary"], (path, method)


def test_every_reference_leads_somewhere_and_every_component_is_used(document: dict[str, Any]) -> None:
    found: set[str] = set()

    def look(part: Any) -> None:
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                found.add(part["$ref"])
                resolved(document, part)
            for held in part.values():
                look(held)
        elif isinstance(part, list):
            for held in part:
                look(held)

    look(document)
    kinds = ("schemas", "responses", "headers")
    assert found == {f"#/components/{kind}/{name}" for kind in kinds for name in document["components"][kind]}


def test_every_example_is_one_of_its_form(app: Flask, document: dict[str, Any]) -> None:
    shown = [
        (path, held)
        for path, _, operation in operations(document)
        for held in operation.get("requestBody", {}).get("content", {}).values()
        if "example" in held
    ]
    assert len(shown) == len(BODIES)
    for path, held in shown:
        form = {**held["schema"], "components": document["components"]}
        assert list(jsonschema.Draft202012Validator(form).iter_errors(held["example"])) == [], path


def test_it_is_sent_once(client: FlaskClient) -> None:
    first = client.get("/openapi.json")
    again = client.get("/openapi.json", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert client.get("/openapi.json", headers={"If-None-Match": '"other"'}).status_code == 200


def test_it_holds_no_secret_of_the_installation(make_app: MakeApp) -> None:
    secret = "kT7vQ2mX9rLw4ZpB8sNd3HfJ6gYc1AeUqVoRiWtK5xM0"
    app = make_app(METRICS_TOKEN=secret, API_TOKEN=secret, OPENAI_API_KEY=secret, JWT_SECRET_KEY=secret)
    assert secret not in app.test_client().get("/openapi.json").text


def test_the_gate_has_its_part_under_its_own_path_and_title(make_app: MakeApp) -> None:
    app = make_app(HEIMDALL_API_PATH="/ai", HEIMDALL_API_TITLE="Ours", HEIMDALL_API_DESCRIPTION="Models & <more>")
    part = app.test_client().get("/ai/openapi.json").json
    OpenAPIV31SpecValidator(part).validate()
    assert part["info"]["title"] == "Ours"
    assert part["info"]["description"] == "Models & <more>"
    assert "/ai/v1/chat" in part["paths"]
    assert {path for path in part["paths"] if not path.startswith("/ai/")} == set()
    assert "OpenAIError" not in part["components"]["schemas"]


@pytest.mark.parametrize("path", ["/docs", "/llm-gate/docs"])
def test_the_page_is_strict(client: FlaskClient, path: str) -> None:
    page = client.get(path)
    assert page.mimetype == "text/html"
    policy = page.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert {part.split()[0] for part in policy.split(";")} >= {
        "default-src",
        "frame-ancestors",
        "base-uri",
        "form-action",
    }
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son[a-z]+=|<style|\sstyle=|https?://", page.text)
    for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        with client.get(address) as part:
            assert part.status_code == 200, address


def test_a_title_is_text_and_no_markup(make_app: MakeApp) -> None:
    page = make_app(HEIMDALL_API_TITLE="<script>alert(1)</script>").test_client().get("/llm-gate/docs")
    assert "<script>alert" not in page.text


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_head_and_options_are_taken(client: FlaskClient, path: str) -> None:
    head = client.head(path)
    assert (head.status_code, head.data) == (200, b"")
    assert client.options(path).status_code == 200


def test_static_files_may_be_kept_and_asked_after(client: FlaskClient) -> None:
    with client.get("/static/swagger/init.js") as first:
        assert first.cache_control.max_age == 86_400
        known = first.headers["ETag"]
    with client.get("/static/swagger/init.js", headers={"If-None-Match": known}) as again:
        assert again.status_code == 304
    assert client.get("/static/../wiring.py").status_code == 404


# -- forms of fields --------------------------------------------------------------------------------------------------


class Sample(Schema):
    name = fields.Text(most=8, least=2, pattern="[a-z]+", required=True)
    words = fields.Several(fields.Text(most=4), most=3, least=1, allow_none=True)
    kind = fields.Choice("a", "b", allow_none=True)
    count = fields.Whole(least=1, most=9)
    share = fields.Number(least=0, most=1)
    price = fields.Dollars(most=10)
    on = fields.Flag()
    at = fields.Moment(allow_none=True)
    net = fields.Network()


def form_of_sample() -> dict[str, Any]:
    about = About("T", "1", "", {"F": "f"}, {})
    operation = Operation(
        path="/x", method="post", name="x", summary="x", family="F", dialect="house", body=Sample, answers={200: {}}
    )
    document = write_document(about, [operation])
    content = document["paths"]["/x"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return resolved(document, content)


@pytest.mark.parametrize(
    "body, fits",
    [
        ({"name": "ab"}, True),
        ({}, False),
        ({"name": "a"}, False),
        ({"name": "abcdefghi"}, False),
        ({"name": "AB"}, False),
        ({"name": None}, False),
        ({"name": "ab", "other": 1}, False),
        ({"name": "ab", "words": ["x"]}, True),
        ({"name": "ab", "words": None}, True),
        ({"name": "ab", "words": []}, False),
        ({"name": "ab", "words": ["\0"]}, False),
        ({"name": "ab", "words": ["1", "2", "3", "4"]}, False),
        ({"name": "ab", "kind": "a"}, True),
        ({"name": "ab", "kind": None}, True),
        ({"name": "ab", "kind": "c"}, False),
        ({"name": "ab", "count": 9}, True),
        ({"name": "ab", "count": 10}, False),
        ({"name": "ab", "count": "9"}, False),
        ({"name": "ab", "count": True}, False),
        ({"name": "ab", "share": 0.5}, True),
        ({"name": "ab", "share": 2}, False),
        ({"name": "ab", "price": 1.5}, True),
        ({"name": "ab", "price": -1}, False),
        ({"name": "ab", "on": True}, True),
        ({"name": "ab", "on": 1}, False),
        ({"name": "ab", "at": "2026-11-21T12:00:00Z"}, True),
        ({"name": "ab", "at": 5}, False),
        ({"name": "ab", "net": "10.0.0.0/8"}, True),
        ({"name": "ab", "net": "10.0.0.1"}, True),
        ({"name": "ab", "net": 7}, False),
    ],
)
def test_a_form_takes_what_the_reader_takes(body: dict[str, Any], fits: bool) -> None:
    assert jsonschema.Draft202012Validator(form_of_sample()).is_valid(body) is fits
    assert (Sample().validate(body) == {}) is fits


def test_two_forms_with_one_title_are_a_mistake() -> None:
    def operation(path: str, form: dict[str, Any]) -> Operation:
        return Operation(
            path=path, method="get", name=path, summary="x", family="F", dialect="house",
            answers={200: {"application/json": form}},
        )  # fmt: skip

    forms = [operation("/a", record("Thing", id=STRING)), operation("/b", record("Thing", name=STRING))]
    with pytest.raises(ValueError, match="Thing"):
        write_document(About("T", "1", "", {"F": "f"}, {}), forms)


def test_an_answer_of_a_model_is_as_the_document_says(caller: Caller, document: dict[str, Any]) -> None:
    answer = caller.chat("hello")
    told = document["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]
    form = resolved(document, told["content"]["application/json"]["schema"])
    jsonschema.Draft202012Validator(form).validate(answer.json)
    assert set(told["headers"]) >= {name for name, _ in answer.headers if name.startswith("X-FlaskLLM")}
