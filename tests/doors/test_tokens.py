"""``/api/tokens``, the carriers of a credential, and the cases of the corpus about them."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event, update
from werkzeug.test import TestResponse

from flaskllm.blueprints._wsgi import QueryTokenFilter
from flaskllm.domain import api_token
from flaskllm.extensions import db
from flaskllm.models.account import ApiToken
from flaskllm.models.types import now
from tests.conftest import MakeApp
from tests.doors.accounts_world import Person, cases, check, corpus, expanded

WEBHOOK = "/api/v1/webhook"
HEALTHY = "/api/v1/templates"


@pytest.fixture
def alice(app: Flask) -> Person:
    return Person(app)


# -- the document -----------------------------------------------------------------------------------------------------


@corpus("TOKEN-MANAGE-019")
def test_a_token_is_shown_once(alice: Person, case: str):
    made = alice.call("POST", "/api/tokens", {"name": "mine"})
    document = made.json["data"]
    assert (made.status_code, made.headers["Cache-Control"]) == (201, "no-store")
    assert api_token.looks_valid(document["token"])
    read = alice.call("GET", f"/api/tokens/{document['id']}").json["data"]
    assert {**read, "token": document["token"]} == document
    assert set(read) >= {
        "id", "name", "prefix", "last4", "scopes", "models", "templates", "requests_per_minute", "tokens_per_minute",
        "concurrency", "budget", "expires_at", "allowed_ips", "tags", "created_at", "last_used_at", "revoked_at",
    }  # fmt: skip


def test_a_whole_document_is_kept(alice: Person):
    body = {
        "name": "workbook", "scopes": ["webhook"], "models": ["gpt-4o"], "templates": ["summary"],
        "requests_per_minute": 5, "tokens_per_minute": 1000, "concurrency": 2,
        "budget": {"amount": 0.5, "period": "day"}, "expires_at": "2099-01-01T00:00:00Z",
        "allowed_ips": ["10.0.0.0/8"], "tags": ["sales"],
    }  # fmt: skip
    made = alice.call("POST", "/api/tokens", body).json["data"]
    assert {name: made[name] for name in body} == body


def test_a_change_leaves_the_rest_and_null_lifts_a_limit(alice: Person):
    made = alice.call("POST", "/api/tokens", {"name": "a", "requests_per_minute": 5, "tags": ["x"]}).json["data"]
    changed = alice.call("PATCH", f"/api/tokens/{made['id']}", {"name": "b", "requests_per_minute": None}).json["data"]
    assert (changed["name"], changed["requests_per_minute"], changed["tags"]) == ("b", None, ["x"])


def test_tokens_are_listed_in_pages(alice: Person):
    made = [alice.token()[0] for _ in range(3)][::-1]
    first = alice.call("GET", "/api/tokens?limit=2").json
    second = alice.call("GET", f"/api/tokens?limit=2&after={first['next']}").json
    assert [row["id"] for row in first["data"] + second["data"]] == made
    assert second["next"] is None


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=abc", "limit=1_0", "limit=%D9%A1", "limit=" + "9" * 5000, "limit=1&limit=2",
     "page=1", "after=nothing", "after=%00", "limit=", "limit=+1"],
)  # fmt: skip
def test_a_query_is_read_strictly(alice: Person, query: str):
    answer = alice.call("GET", f"/api/tokens?{query}")
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "invalid_request")
    assert answer.json["error"]["details"][0]["field"] == query.partition("=")[0]


@pytest.mark.parametrize("case", cases("token.manage", "json"))
def test_corpus_token_document(alice: Person, case: dict[str, Any]):
    check(alice.call("POST", "/api/tokens", expanded(case["input"]["json"])), case)


def test_scopes_beyond_the_account_are_forbidden(alice: Person):
    answer = alice.call("POST", "/api/tokens", {"name": "t", "scopes": ["admin"]})
    assert (answer.status_code, answer.json["error"]["details"][0]["field"]) == (403, "scopes")


@corpus("TOKEN-MANAGE-022", "TOKEN-MANAGE-024")
def test_a_rotation_leaves_the_token_before_it_for_a_while(alice: Person, case: str):
    token_id, first = alice.token(scopes=["chat"])
    answers = [alice.call("POST", f"/api/tokens/{token_id}/rotate")]
    if case == "TOKEN-MANAGE-024":
        answers.append(alice.call("POST", f"/api/tokens/{token_id}/rotate", {"grace_s": 60}))
    assert [answer.status_code for answer in answers] == [201] * len(answers)
    assert models(alice.http, {"X-API-Token": first}).status_code == (200 if case == "TOKEN-MANAGE-022" else 401)
    assert models(alice.http, {"X-API-Token": answers[-1].json["data"]["token"]}).status_code == 200


@corpus("TOKEN-MANAGE-028")
def test_somebody_elses_token_answers_as_a_missing_one(app: Flask, alice: Person, case: str):
    token_id, token = Person(app, "bob").token()
    for method, tail, body in (
        ("GET", "", None), ("PATCH", "", {"name": "x"}), ("DELETE", "", None), ("POST", "/rotate", {}),
    ):  # fmt: skip
        headers = {"X-Request-Id": "the-same-one"}
        foreign = alice.call(method, f"/api/tokens/{token_id}{tail}", body, headers=headers)
        missing = alice.call(method, f"/api/tokens/{'0' * 36}{tail}", body, headers=headers)
        assert (foreign.status_code, foreign.data) == (missing.status_code, missing.data) == (404, missing.data)
    assert models(alice.http, {"X-API-Token": token}).status_code == 200


@corpus("TOKEN-MANAGE-031")
def test_nobody_makes_tokens_without_end(alice: Person, case: str):
    told = [alice.call("POST", "/api/tokens", {"name": "t"}).status_code for _ in range(102)]
    assert told == [201] * 100 + [409] * 2


def test_a_token_makes_no_tokens(alice: Person):
    token_id, token = alice.token()
    headers = {"X-API-Token": token}
    for method, path, body in (
        ("POST", "/api/tokens", {"name": "more"}), ("PATCH", f"/api/tokens/{token_id}", {"budget": None}),
        ("POST", f"/api/tokens/{token_id}/rotate", {}), ("DELETE", f"/api/tokens/{token_id}", None),
    ):  # fmt: skip
        assert alice.http.open(path, method=method, json=body, headers=headers).status_code == 403


def test_a_revoked_token_is_gone_and_stays_listed(alice: Person):
    token_id, token = alice.token()
    assert alice.call("DELETE", f"/api/tokens/{token_id}").status_code == 204
    answer = models(alice.http, {"X-API-Token": token})
    assert (answer.status_code, answer.json["error"]["code"]) == (401, "token_revoked")
    assert alice.call("GET", f"/api/tokens/{token_id}").json["data"]["revoked_at"]


# -- bad tokens -------------------------------------------------------------------------------------------------------


def models(client: FlaskClient, headers: dict[str, str]) -> TestResponse:
    return client.get("/v1/models", headers=headers)


def filled(alice: Person, value: str) -> str:
    """The corpus' fixtures in a header."""
    token_id, token = alice.token(scopes=["chat"])
    if "REVOKED" in value:
        alice.services.tokens.revoke_any(token_id)
        return value.replace("${REVOKED}", token)
    if "EXPIRED" in value:
        with alice.http.application.app_context():
            db.session.execute(update(ApiToken).values(expires_at=now() - timedelta(seconds=1)))
            db.session.commit()
        return value.replace("${EXPIRED}", token)
    fixtures = {
        "${A.token}": token,
        "${A.token[:-1]}": token[:-1],
        "${A.token_hash}": api_token.hash_of(token),
        "fl_unknownbutwellformed+goodchecksum": api_token.make(),
    }
    for name, real in fixtures.items():
        value = value.replace(name, real)
    return value.encode().decode("latin-1")


@pytest.mark.parametrize("case", cases("token.bad", "headers"))
def test_corpus_bad_token(app: Flask, alice: Person, case: dict[str, Any]):
    headers = {name: filled(alice, value) for name, value in case["input"]["headers"].items()}
    queries: list[str] = []
    with app.app_context():
        event.listen(db.engine, "before_cursor_execute", lambda *given: queries.append(given[2]))
    answer = models(alice.http, headers)
    check_openai(answer, case)
    if "db.queries==0" in case["expect"]["assert"]:
        assert queries == []


def check_openai(answer: TestResponse, case: dict[str, Any]) -> None:
    assert answer.status_code in case["expect"]["status"]
    if answer.status_code == 401:
        assert answer.json["error"]["type"] == "authentication_error"
        assert answer.headers["WWW-Authenticate"] == "Bearer"


# -- carriers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["Authorization", "X-API-Token", "api-key", "x-api-key"])
def test_every_header_carries_a_token(alice: Person, header: str):
    _, token = alice.token()
    value = f"bearer {token}" if header == "Authorization" else f" {token} "
    assert models(alice.http, {header: value}).status_code == 200


def test_the_same_token_in_several_places_is_one_credential(alice: Person):
    _, token = alice.token()
    headers = {"Authorization": f"Bearer {token}", "X-API-Token": token, "api-key": token}
    answer = alice.http.get(f"{HEALTHY}?api_token={token}&api_token={token}", headers=headers)
    assert answer.status_code == 200


def test_another_scheme_is_not_ours_to_judge(alice: Person):
    _, token = alice.token()
    assert models(alice.http, {"Authorization": "Basic eDp5", "X-API-Token": token}).status_code == 200
    assert models(alice.http, {"Authorization": "Basic eDp5"}).status_code == 401


@corpus("TOKEN-CARRIER-003", "TOKEN-CARRIER-006", "TOKEN-CARRIER-009")
def test_two_credentials_are_one_too_many(app: Flask, alice: Person, case: str):
    (_, mine), (_, bobs) = alice.token(), Person(app, "bob").token()
    query, headers = {
        "TOKEN-CARRIER-003": (f"?api_token={mine}&api_token={bobs}", {}),
        "TOKEN-CARRIER-006": ("", {**alice.headers, "X-API-Token": bobs}),
        "TOKEN-CARRIER-009": ("", {"X-API-Token": f"{mine},{bobs}"}),  # as servers join a repeated header
    }[case]
    answer = alice.http.post(WEBHOOK + query, json={"prompt": "hi"}, headers=headers)
    assert answer.status_code == (401 if case == "TOKEN-CARRIER-009" else 400)


def test_the_query_carries_a_token_on_s3s_paths_only(alice: Person):
    _, token = alice.token()
    assert alice.http.get(f"{HEALTHY}?api_token={token}").status_code == 200
    for path in ("/v1/models", "/api/profile", "/api/tokens"):
        assert alice.http.get(f"{path}?api_token={token}").status_code == 401


def test_where_it_is_not_taken_it_is_an_unknown_parameter(alice: Person):
    answer = alice.call("GET", f"/api/tokens?api_token={alice.token()[1]}")
    assert (answer.status_code, answer.json["error"]["details"][0]["field"]) == (400, "api_token")


@corpus("TOKEN-CARRIER-002")
def test_query_tokens_can_be_switched_off(make_app: MakeApp, case: str):
    alice = Person(make_app(ALLOW_QUERY_TOKEN="false"))
    _, token = alice.token()
    assert alice.http.post(f"{WEBHOOK}?api_token={token}", json={"prompt": "hi"}).status_code == 401


@corpus("TOKEN-CARRIER-010")
def test_an_underscore_is_no_hyphen(alice: Person, case: str):
    """Servers drop such names; what arrives under another variable is not looked at either."""
    _, token = alice.token()
    answer = alice.http.post(
        WEBHOOK, json={"prompt": "hi"}, environ_overrides={"X_API_TOKEN": token, "HTTP_API_TOKEN": token}
    )
    assert answer.status_code == 401


@corpus("TOKEN-CARRIER-011")
def test_ip_rules_go_by_the_peer(alice: Person, case: str):
    _, token = alice.token(allowed_ips=["10.0.0.0/8"])
    headers = {"X-API-Token": token, "X-Forwarded-For": "10.0.0.1"}
    assert alice.http.get(HEALTHY, headers=headers).status_code == 403
    inside = {"REMOTE_ADDR": "10.1.2.3"}
    assert alice.http.get(HEALTHY, headers=headers, environ_overrides=inside).status_code == 200


def test_behind_the_operators_own_proxy_ip_rules_go_by_what_it_tells(make_app: MakeApp):
    alice = Person(make_app(PROXY_HOPS="1"))
    _, token = alice.token(allowed_ips=["10.0.0.0/8"])
    told = {"X-API-Token": token, "X-Forwarded-For": "192.0.2.1, 10.0.0.1"}
    forged = {"X-API-Token": token, "X-Forwarded-For": "10.0.0.1, 192.0.2.1"}
    assert alice.http.get(HEALTHY, headers=told).status_code == 200
    assert alice.http.get(HEALTHY, headers=forged).status_code == 403


@corpus("TOKEN-CARRIER-014", "TOKEN-CARRIER-016")
def test_the_scope_rule_is_the_same_on_every_carrier(alice: Person, case: str):
    _, token = alice.token(scopes=["webhook"])
    header = "X-API-Token" if case == "TOKEN-CARRIER-014" else "api-key"
    body = {"model": "demo", "messages": [{"role": "user", "content": "x"}]}
    answer = alice.http.post("/v1/chat/completions", json=body, headers={header: token})
    assert (answer.status_code, answer.json["error"]["type"]) == (403, "permission_error")


def test_a_token_in_a_simple_request_is_taken_where_that_is_switched_on(make_app: MakeApp):
    alice = Person(make_app(ALLOW_BODY_TOKEN="true"))
    _, token = alice.token()
    body = {"api_token": token, "prompt": "hi"}

    def sent(content_type: str, path: str = WEBHOOK, **changed: Any) -> int:
        raw = json.dumps({**body, **changed})
        return alice.http.post(path, data=raw, content_type=content_type).status_code

    assert sent("text/plain;charset=UTF-8") == 200
    assert sent("text/plain", api_token="fl_x") == 401
    assert sent("text/plain", api_token=7) == 400
    assert sent("application/json") == 401
    assert sent("text/plain", "/llm/chat") == 401


def test_a_token_in_a_simple_request_is_nothing_by_itself(alice: Person):
    answer = alice.http.post(
        WEBHOOK, data=f'{{"api_token": "{alice.token()[1]}", "prompt": "hi"}}', content_type="text/plain"
    )
    assert answer.status_code == 401


# -- the address ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query, kept, found",
    [
        ("api_token=x", "", ["x"]),
        ("a=1&api_token=x&b=2", "a=1&b=2", ["x"]),
        ("api%5Ftoken=x%2B&api_token=y", "", ["x+", "y"]),
        ("a=api_token", "a=api_token", None),
        ("my_api_token=x", "my_api_token=x", None),
        ("api_token", "", [""]),
    ],
)
def test_the_token_leaves_the_address_before_anything_can_log_it(query: str, kept: str, found: list[str] | None):
    seen: dict[str, Any] = {}
    environ = {"QUERY_STRING": query, "RAW_URI": f"/p?{query}", "REQUEST_URI": f"/p?{query}"}
    QueryTokenFilter(lambda inner, start: seen.update(inner) or [])(environ, None)
    address = f"/p?{kept}" if kept else "/p"
    assert (environ["QUERY_STRING"], environ["RAW_URI"], environ["REQUEST_URI"]) == (kept, address, address)
    assert seen.get("flaskllm.query_token") == found


# -- the operator's own -----------------------------------------------------------------------------------------------


def test_the_environments_token_opens_webhook_and_chat_only(make_app: MakeApp):
    text = "operators.own.Text9vQ2mZ7pX4tB8nL1wS6dF0"
    client = make_app(API_TOKEN=text).test_client()
    headers = {"X-API-Token": text}
    assert client.get(HEALTHY, headers=headers).status_code == 200
    assert models(client, headers).status_code == 200
    assert client.post("/api/tokens", json={"name": "t"}, headers=headers).status_code == 403
    assert client.get(HEALTHY, headers={"X-API-Token": text[:-1]}).status_code == 401
