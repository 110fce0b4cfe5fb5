"""``/users``, ``/tokens``, ``/usage`` and ``/audit``: what administrators may, and what nobody else may."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema
import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from werkzeug.test import TestResponse

from flaskllm.domain import api_token
from flaskllm.extensions import Base, db
from tests.actors import Caller
from tests.conftest import MakeApp
from tests.databases import MISSING, database_of_its_own
from tests.doors.accounts_world import Person
from tests.people import NEW_PASSWORD, PASSWORD

HENRY = {"username": "henry", "email": "henry@example.com", "password": PASSWORD}


@pytest.fixture
def root(app: Flask) -> Person:
    return Person(app, "root", admin=True)


@pytest.fixture
def alice(app: Flask, root: Person) -> Person:
    return Person(app, "alice")


def made(answer: TestResponse, status: int = 201) -> dict[str, Any]:
    assert answer.status_code == status, answer.get_data(as_text=True)
    return dict(answer.json or {})


def everything(app: Flask, *, but: tuple[str, ...] = ()) -> dict[str, list[Any]]:
    """Every row of every table."""
    with app.app_context(), db.engine.connect() as connection:
        tables = [table for table in Base.metadata.sorted_tables if table.name not in but]
        return {table.name: sorted(map(str, connection.execute(table.select()))) for table in tables}


def document_of(app: Flask, endpoint: str) -> Any:
    return app.view_functions[f"administration.{endpoint}"].api_doc  # type: ignore[attr-defined]


def trail(root: Person, query: str = "limit=200") -> list[dict[str, Any]]:
    return list(made(root.call("GET", f"/audit?{query}"), 200)["data"])


# -- who may enter ----------------------------------------------------------------------------------------------------


def routes(app: Flask) -> Iterator[tuple[str, str]]:
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith("administration."):
            path = rule.rule.replace("<user_id>", "nobody").replace("<token_id>", "none")
            yield from ((method, path) for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}))


def test_nobody_but_an_administrator_passes_any_of_these_doors(app: Flask, root: Person, alice: Person) -> None:
    waiting = Person(app, "second", admin=True)
    root.call("PATCH", f"/users/{waiting.user.id}", {"status": "waiting"})
    without = root.token(scopes=["chat"])[1]
    carriers = {
        "nobody": ({}, 401),
        "a user": (alice.headers, 403),
        "a user's token": ({"X-API-Token": alice.token()[1]}, 403),
        "an administrator's token without the scope": ({"X-API-Token": without}, 403),
        "an administrator who waits": (waiting.headers, 403),
    }
    before = everything(app, but=("api_tokens",))
    found = sorted(routes(app))
    assert len(found) == 13
    for method, path in found:
        for who, (headers, status) in carriers.items():
            answer = app.test_client().open(path, method=method, json={}, headers=headers)
            assert (answer.status_code, who) == (status, who), (method, path)
            assert answer.json["status"] == "error"
    assert everything(app, but=("api_tokens",)) == before


def test_an_administrator_enters_in_person_or_by_a_token_with_the_scope(app: Flask, root: Person) -> None:
    for headers in (root.headers, {"X-API-Token": root.token(scopes=["admin"])[1]}):
        for method, path in routes(app):
            answer = app.test_client().open(path, method=method, json={}, headers=headers)
            assert answer.status_code in {200, 400, 404}, (method, path)


def test_the_scope_alone_makes_nobody_an_administrator(app: Flask, root: Person, alice: Person) -> None:
    made(root.call("PATCH", f"/users/{alice.user.id}", {"scopes": ["chat", "admin"]}), 200)
    token = alice.token(scopes=["admin"])[1]
    assert app.test_client().get("/users", headers={"X-API-Token": token}).status_code == 403


def test_a_demoted_administrator_loses_the_scope_with_the_role(app: Flask, root: Person) -> None:
    second = Person(app, "second", admin=True)
    token = second.token(scopes=["admin", "chat"])[1]
    changed = made(root.call("PATCH", f"/users/{second.user.id}", {"role": "user"}), 200)
    assert (changed["role"], "admin" in changed["scopes"]) == ("user", False)
    assert second.services.tokens._load(api_token.hash_of(token)).scopes == {"chat"}
    assert made(root.call("PATCH", f"/users/{second.user.id}", {"role": "admin"}), 200)["scopes"][-1] == "admin"


@pytest.mark.parametrize("field, value", [("role", "admin"), ("scopes", ["admin"]), ("status", "active"),
                                          ("budget", None)])  # fmt: skip
def test_nobody_raises_themselves_at_another_door(app: Flask, alice: Person, field: str, value: Any) -> None:
    before = everything(app)
    answers = [
        alice.call("PATCH", "/api/profile", {field: value, "old_password": PASSWORD}),
        alice.call("POST", "/api/auth/register", {**HENRY, field: value}),
        alice.call("PATCH", f"/users/{alice.user.id}", {field: value}),
    ]
    assert [answer.status_code for answer in answers] == [400, 400, 403]
    assert alice.call("POST", "/api/tokens", {"name": "t", "scopes": ["admin"]}).status_code == 403
    assert everything(app) == before


# -- accounts ---------------------------------------------------------------------------------------------------------


def test_an_account_is_made_as_asked(app: Flask, root: Person) -> None:
    said = {
        "role": "user",
        "scopes": ["webhook", "external"],
        "status": "waiting",
        "budget": {"amount": 2.5, "period": "day"},
    }
    user = made(root.call("POST", "/users", {**HENRY, **said}))
    jsonschema.validate(user, document_of(app, "create_user").answer)
    assert {name: user[name] for name in said} == said
    assert user == made(root.call("GET", f"/users/{user['id']}"), 200)
    assert root.services.accounts.login("henry", PASSWORD).user.id == user["id"]


def test_an_account_has_the_usual_scopes_and_budget_where_nothing_is_said(make_app: MakeApp) -> None:
    app = make_app(DEFAULT_USER_BUDGET="3", DEFAULT_USER_SCOPES="chat")
    root = Person(app, "root", admin=True)
    user = made(root.call("POST", "/users", HENRY))
    assert (user["role"], user["status"], user["scopes"]) == ("user", "active", ["chat"])
    assert user["budget"] == {"amount": 3.0, "period": "month"}
    unbound = made(root.call("POST", "/users", {"username": "free", "email": "free@example.com", "budget": None}))
    assert unbound["budget"] is None


def test_without_a_password_nobody_logs_in_until_one_is_given(app: Flask, root: Person) -> None:
    user = made(root.call("POST", "/users", {"username": "henry", "email": "henry@example.com"}))
    login = {"username": "henry", "password": PASSWORD}
    assert app.test_client().post("/api/auth/login", json=login).status_code == 401
    made(root.call("PATCH", f"/users/{user['id']}", {"password": PASSWORD}), 200)
    assert app.test_client().post("/api/auth/login", json=login).status_code == 200


def test_accounts_are_listed_in_pages(app: Flask, root: Person) -> None:
    ids = [root.user.id, *(Person(app, f"user{number}").user.id for number in range(3))]
    first = made(root.call("GET", "/users?limit=2"), 200)
    second = made(root.call("GET", f"/users?limit=2&after={first['next']}"), 200)
    jsonschema.validate(first, document_of(app, "list_users").answer)
    assert [row["id"] for row in first["data"] + second["data"]] == ids
    assert second["next"] is None


@pytest.mark.parametrize(
    "query, names",
    [("search=ALIC", ["alice"]), ("search=example.com", ["root", "alice", "bob"]), ("search=%25", []), ("search=_", []),
     ("search=' OR 1=1--", []), ("role=admin", ["root"]), ("status=waiting", ["bob"]), ("status=closed", []),
     ("role=user&status=active", ["alice"])],
)  # fmt: skip
def test_accounts_are_looked_for(app: Flask, root: Person, alice: Person, query: str, names: list[str]) -> None:
    root.services.accounts.change_user(Person(app, "bob").user.id, {"status": "waiting"})
    assert [row["username"] for row in made(root.call("GET", f"/users?{query}"), 200)["data"]] == names


def test_a_change_leaves_the_rest(root: Person, alice: Person) -> None:
    before = made(root.call("GET", f"/users/{alice.user.id}"), 200)
    after = made(root.call("PATCH", f"/users/{alice.user.id}", {"username": "alicia", "email": "al@example.com"}), 200)
    assert after == {**before, "username": "alicia", "email": "al@example.com"}
    assert alice.call("GET", "/api/profile").json["data"]["username"] == "alicia"


@pytest.mark.parametrize("change", [{"password": NEW_PASSWORD}, {"status": "disabled"}])
def test_what_bars_somebody_ends_their_sessions(root: Person, alice: Person, change: dict[str, str]) -> None:
    made(root.call("PATCH", f"/users/{alice.user.id}", change), 200)
    assert alice.call("GET", "/api/profile").status_code == 401


def test_a_waiting_account_is_approved(make_app: MakeApp) -> None:
    app = make_app(REGISTRATION="approval")
    root, registered = Person(app, "root", admin=True), app.test_client().post("/api/auth/register", json=HENRY)
    user_id = registered.json["data"]["user"]["id"]
    assert made(root.call("GET", "/users?status=waiting"), 200)["data"][0]["id"] == user_id
    henry = root.services.accounts.login("henry", PASSWORD).access_token
    asked = {"headers": {"Authorization": f"Bearer {henry}"}, "json": {"message": "hi"}}
    assert app.test_client().post("/llm/chat", **asked).status_code == 403
    made(root.call("PATCH", f"/users/{user_id}", {"status": "active"}), 200)
    root.services.accounts._sessions.forget()
    assert app.test_client().post("/llm/chat", **asked).status_code == 200


@pytest.mark.parametrize("field", ["username", "email"])
def test_a_name_that_is_taken_is_a_conflict(app: Flask, root: Person, alice: Person, field: str) -> None:
    taken = {"username": "ALICE", "email": "Alice@Example.com"}[field]
    before = everything(app)
    for answer in (
        root.call("POST", "/users", {**HENRY, field: taken}),
        root.call("PATCH", f"/users/{root.user.id}", {field: taken}),
    ):
        assert (answer.status_code, answer.json["error"]["details"][0]["field"]) == (409, field)
    assert everything(app) == before


def test_a_closed_account_is_gone_but_for_its_name_and_its_usage(app: Flask, root: Person, alice: Person) -> None:
    token = alice.token()[1]
    Caller(app.test_client(), token).chat("hello")
    assert root.call("DELETE", f"/users/{alice.user.id}").status_code == 204
    alice.services.tokens._recent.forget()
    assert alice.call("GET", "/api/profile").status_code == 401
    assert app.test_client().get("/v1/models", headers={"X-API-Token": token}).status_code == 401
    refreshed = app.test_client().post("/api/auth/refresh", json={"refresh_token": alice.refresh})
    assert refreshed.status_code == 401
    for login in ("alice", "alice@example.com"):
        answer = app.test_client().post("/api/auth/login", json={"username": login, "password": PASSWORD})
        assert answer.status_code == 401
    for method, body in (("GET", None), ("PATCH", {"status": "active"}), ("DELETE", None)):
        assert root.call(method, f"/users/{alice.user.id}", body).status_code == 404
    made(root.call("POST", "/tokens", {"user_id": alice.user.id, "name": "t"}), 404)
    assert made(root.call("GET", "/usage?group_by=user"), 200)["series"][0]["username"] == "alice"
    assert [row["username"] for row in made(root.call("GET", "/users?status=closed"), 200)["data"]] == ["alice"]


def test_a_closed_account_s_name_is_never_given_again_and_its_e_mail_is(root: Person, alice: Person) -> None:
    root.call("DELETE", f"/users/{alice.user.id}")
    again = {"username": "alice", "email": "alice@example.com", "password": PASSWORD}
    assert root.call("POST", "/users", again).status_code == 409
    assert root.http.post("/api/auth/register", json=again).status_code == 409
    made(root.call("POST", "/users", {**again, "username": "alice2"}))


LAST = [
    ("PATCH", {"role": "user"}),
    ("PATCH", {"status": "disabled"}),
    ("PATCH", {"status": "waiting"}),
    ("DELETE", None),
]


@pytest.mark.parametrize("method, body", LAST)
def test_the_last_administrator_stays(app: Flask, root: Person, method: str, body: Any) -> None:
    Person(app, "second", admin=True)
    second = root.services.accounts.find_user("second").id
    assert root.call("PATCH", f"/users/{second}", {"status": "disabled"}).status_code == 200
    before = everything(app)
    answer = root.call(method, f"/users/{root.user.id}", body)
    assert (answer.status_code, answer.json["error"]["code"]) == (409, "conflict")
    assert everything(app) == before


@pytest.mark.parametrize("method, body", LAST)
def test_an_administrator_who_cannot_log_in_yet_is_no_other(app: Flask, root: Person, method: str, body: Any) -> None:
    ghost = made(root.call("POST", "/users", {"username": "ghost", "email": "g@example.com", "role": "admin"}))
    before = everything(app)
    assert root.call(method, f"/users/{root.user.id}", body).status_code == 409
    assert everything(app) == before
    made(root.call("PATCH", f"/users/{ghost['id']}", {"password": NEW_PASSWORD}), 200)
    assert root.call(method, f"/users/{root.user.id}", body).status_code in {200, 204}


@pytest.mark.parametrize("method, body", LAST)
def test_an_administrator_who_is_not_the_last_may_go(app: Flask, root: Person, method: str, body: Any) -> None:
    Person(app, "second", admin=True)
    assert root.call(method, f"/users/{root.user.id}", body).status_code in {200, 204}


@pytest.mark.parametrize(
    "body",
    [{"role": "user"}, {"username": "servant"}, {"email": "a@b.cd"}, {"password": PASSWORD}, {"scopes": []}, None],
)
def test_the_service_user_stays_what_it_is(app: Flask, root: Person, body: Any) -> None:
    Caller.on(app)
    service = root.services.accounts.find_user("service").id
    before = everything(app)
    assert root.call("PATCH" if body else "DELETE", f"/users/{service}", body).status_code == 409
    assert everything(app) == before
    assert root.call("PATCH", f"/users/{service}", {"budget": {"amount": 1, "period": "day"}}).status_code == 200


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_a_token_is_made_for_somebody_and_shown_once(app: Flask, root: Person, alice: Person) -> None:
    asked = {
        "name": "sheet", "scopes": ["webhook"], "models": ["demo"], "templates": ["summary"], "requests_per_minute": 5,
        "tokens_per_minute": 100, "concurrency": 1, "budget": {"amount": 0.5, "period": "day"},
        "expires_at": "2099-01-01T00:00:00Z", "allowed_ips": ["10.0.0.0/8"], "tags": ["sales"], "drop_params": True,
    }  # fmt: skip
    answer = root.call("POST", "/tokens", {"user_id": alice.user.id, **asked})
    token = made(answer)
    jsonschema.validate(token, document_of(app, "create_token").answer)
    assert answer.headers["Cache-Control"] == "no-store"
    assert {name: token[name] for name in asked} == asked
    assert token["user"] == {"id": alice.user.id, "username": "alice"}
    read = made(root.call("GET", f"/tokens/{token['id']}"), 200)
    jsonschema.validate(read, document_of(app, "read_token").answer)
    assert {**read, "token": token["token"]} == token
    assert root.services.tokens.identify(token["token"]).user_id == alice.user.id


def test_no_token_has_more_than_its_owner(app: Flask, root: Person, alice: Person) -> None:
    token_id, _ = alice.token()
    before = everything(app)
    for method, path, body in (
        ("POST", "/tokens", {"user_id": alice.user.id, "name": "t", "scopes": ["admin"]}),
        ("PATCH", f"/tokens/{token_id}", {"scopes": ["chat", "admin"]}),
    ):
        answer = root.call(method, path, body)
        assert (answer.status_code, answer.json["error"]["details"][0]["field"]) == (403, "scopes")
    assert everything(app) == before


def test_every_token_of_everybody_is_listed(app: Flask, root: Person, alice: Person) -> None:
    ids = [root.token()[0], alice.token()[0], alice.token()[0]][::-1]
    first = made(root.call("GET", "/tokens?limit=2"), 200)
    second = made(root.call("GET", f"/tokens?limit=2&after={first['next']}"), 200)
    jsonschema.validate(first, document_of(app, "list_tokens").answer)
    assert [row["id"] for row in first["data"] + second["data"]] == ids
    hers = made(root.call("GET", f"/tokens?user_id={alice.user.id}"), 200)["data"]
    assert [row["id"] for row in hers] == ids[:2]
    assert made(root.call("GET", "/tokens?user_id=nobody"), 200)["data"] == []


def test_somebody_s_token_is_changed_rotated_and_revoked(app: Flask, root: Person, alice: Person) -> None:
    token_id, old = alice.token()
    assert made(root.call("PATCH", f"/tokens/{token_id}", {"name": "n", "concurrency": 3}), 200)["concurrency"] == 3
    rotated = made(root.call("POST", f"/tokens/{token_id}/rotate", {"grace_s": 0}))
    jsonschema.validate(rotated, document_of(app, "rotate_token").answer)
    statuses = [
        app.test_client().get("/api/profile", headers={"X-API-Token": t}).status_code for t in (old, rotated["token"])
    ]
    assert statuses == [401, 200]
    for _ in range(2):
        assert root.call("DELETE", f"/tokens/{token_id}").status_code == 204
    assert app.test_client().get("/api/profile", headers={"X-API-Token": rotated["token"]}).status_code == 401
    for method, path, body in (("PATCH", "", {"name": "x"}), ("POST", "/rotate", {})):
        assert root.call(method, f"/tokens/{token_id}{path}", body).status_code == 409


# -- what does not exist ----------------------------------------------------------------------------------------------

NO_IDS = ["nothing", "%00", "..%2f", "11111111-1111-4111-8111-111111111111", "x" * 3000, "%F0%9F%92%A9", "'--"]


@pytest.fixture(params=["sqlite", "postgresql"])
def on_each(request: pytest.FixtureRequest, make_app: MakeApp) -> Person:
    """An administrator of a gateway on this database."""
    from flaskllm.wiring import prepare_database

    if request.param == "sqlite":
        return Person(make_app(), "root", admin=True)
    address = database_of_its_own()
    if address is None:
        pytest.skip(MISSING)
    app = make_app(DATABASE_URL=address)
    prepare_database(app)
    return Person(app, "root", admin=True)


def test_an_id_of_nothing_is_not_found_on_any_database(on_each: Person) -> None:
    for wrong in NO_IDS:
        for path in ("/users/", "/tokens/"):
            for method, body in (("GET", None), ("PATCH", {}), ("DELETE", None)):
                answer = on_each.call(method, path + wrong, body)
                assert (answer.status_code, answer.json["error"]["code"]) == (404, "not_found"), (method, path, wrong)
        assert on_each.call("POST", f"/tokens/{wrong}/rotate").status_code == 404


# -- bad input --------------------------------------------------------------------------------------------------------

HALF = "\ud800"
BUDGETS = [
    5, "10", [], {}, True, {"amount": 1}, {"period": "day"}, {"amount": -1, "period": "day"},
    {"amount": "1", "period": "day"},
    {"amount": 1e30, "period": "day"}, {"amount": True, "period": "day"}, {"amount": None, "period": "day"},
    {"amount": 1, "period": "year"}, {"amount": 1, "period": None}, {"amount": 1, "period": "day", "x": 1},
]  # fmt: skip
USER_FAULTS: dict[str, list[Any]] = {
    "username": [None, 5, True, [], {}, "", "ab", "a" * 65, "a" * 100_000, "a b", "a@x.yz", "x\x00y", "Ａdmin", HALF],
    "email": [None, 5, "", "no-mail", "a@b", "a" * 250 + "@b.cd", ["a@b.cd"], "a@b.cd\x00", HALF + "@b.cd"],
    "password": [None, 5, "", "Short1", "a" * 257, "nouppercase1", "NoDigitsHere", {}, PASSWORD + "\x00", HALF],
    "role": [None, "root", 5, ["admin"], "", "Admin", {}],
    "scopes": [None, "chat", ["everything"], [5], [None], {"chat": 1}, ["chat"] * 8, [["chat"]], "/*"],
    "status": [None, "closed", "asleep", 5, [], True],
    "budget": BUDGETS,
    **{name: ["x"] for name in ("id", "password_hash", "created_at", "username_key", "token_version", "budget_amount")},
    "": ["x"],
}  # fmt: skip
NUMBERS = [0, -1, 1.5, "5", True, [], 2**63, 1e3]
TOKEN_FAULTS: dict[str, list[Any]] = {
    "name": [None, "", 5, "a" * 129, "x\x00", HALF, [], {}],
    "scopes": [None, [], "chat", ["/*"], [5], ["chat"] * 8, {}],
    "models": ["demo", [""], [5], ["m" * 201], ["m"] * 201, {}],
    "templates": ["t", [""], [5], ["t" * 129], ["t"] * 201, {}],
    "requests_per_minute": NUMBERS,
    "tokens_per_minute": NUMBERS,
    "concurrency": [*NUMBERS, 100_001],
    "budget": BUDGETS,
    "expires_at": ["", "soon", 5, "2020-01-01T00:00:00Z", "2099-01-01T00:00:00", "9999-12-31T23:59:59+99:99", []],
    "allowed_ips": [None, "10.0.0.1", ["10.0.0.1/33"], ["fe80::1%eth0"], ["x"], [5], ["10.0.0.1"] * 101],
    "tags": [None, "a", [""], ["x" * 65], [5], ["a"] * 17, {}],
    "drop_params": [None, "yes", 1, []],
    **{name: ["x"] for name in ("id", "hash", "token", "revoked_at", "owner_id", "last_used_at")},
}  # fmt: skip
OWNER_FAULTS: dict[str, list[Any]] = {"user_id": [None, 5, "", "x" * 65, "a\x00", HALF, [], {}]}
ROTATION_FAULTS: dict[str, list[Any]] = {
    "grace_s": [None, -1, 1.5, "1", True, 2_592_001, 10**20, []], "token": ["x"]
}  # fmt: skip


@pytest.fixture
def places(root: Person, alice: Person) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Each way in: method, path, and a body that is good."""
    token_id = alice.token()[0]
    return {
        "make a user": ("POST", "/users", HENRY),
        "change a user": ("PATCH", f"/users/{alice.user.id}", {}),
        "make a token": ("POST", "/tokens", {"user_id": alice.user.id, "name": "t"}),
        "change a token": ("PATCH", f"/tokens/{token_id}", {}),
        "rotate a token": ("POST", f"/tokens/{token_id}/rotate", {}),
    }


FAULTS = {
    "make a user": USER_FAULTS,
    "change a user": USER_FAULTS,
    "make a token": TOKEN_FAULTS | OWNER_FAULTS,
    "change a token": TOKEN_FAULTS | {"user_id": ["x"]},
    "rotate a token": ROTATION_FAULTS,
}


@pytest.mark.parametrize("door, field", [(door, field) for door, faults in FAULTS.items() for field in faults])
def test_a_field_at_fault_is_named_and_nothing_is_written(
    app: Flask, root: Person, places: Any, door: str, field: str
) -> None:
    method, path, good = places[door]
    before = everything(app)
    for value in FAULTS[door][field]:
        raw = json.dumps({**good, field: value})
        answer = root.http.open(path, method=method, data=raw, headers=root.headers, content_type="application/json")
        assert answer.status_code == 400, (field, value, answer.get_data(as_text=True))
        error = answer.json["error"]
        assert error["code"] == "invalid_request"
        if "\\ud800" not in raw:  # no JSON that could be passed on: refused as a whole, before any field is looked at
            assert error["details"][0]["field"].split(".")[0].split("[")[0] == (field or "body"), (value, error)
        assert str(value)[:500] not in error["message"] or len(str(value)) < 20
    assert everything(app) == before


@pytest.mark.parametrize(
    "door, field",
    [("make a user", "username"), ("make a user", "email"), ("make a token", "name"), ("make a token", "user_id")],
)
def test_a_missing_field_is_named(app: Flask, root: Person, places: Any, door: str, field: str) -> None:
    method, path, good = places[door]
    before = everything(app)
    answer = root.call(method, path, {name: value for name, value in good.items() if name != field})
    assert (answer.status_code, answer.json["error"]["details"][0]["field"]) == (400, field)
    assert everything(app) == before


RAW = [
    (b"", 400), (b"[]", 400), (b"null", 400), (b'"x"', 400), (b"{", 400), (b'{"name": NaN}', 400), (b"\xff{}", 400),
    (b'{"name": "a", "name": "b"}', 400), (b'{"x": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400),
]  # fmt: skip


@pytest.mark.parametrize("raw, status", RAW)
def test_a_body_that_is_none_is_refused(app: Flask, root: Person, places: Any, raw: bytes, status: int) -> None:
    before = everything(app)
    for method, path, _ in places.values():
        if raw or not path.endswith("/rotate"):
            answer = root.http.open(
                path, method=method, data=raw, headers=root.headers, content_type="application/json"
            )
            assert (answer.status_code, path) == (status, path)
        answer = root.http.open(path, method=method, data=raw or b"{}", headers=root.headers, content_type="text/plain")
        assert answer.status_code == 415
    assert everything(app) == before


@pytest.mark.parametrize(
    "path, field",
    [(f"/{path}?{query}", query.partition("=")[0]) for path in ("users", "tokens", "audit") for query in (
        "limit=0", "limit=201", "limit=abc", "limit=1_0", "limit=%D9%A1", "limit=", "limit=1&limit=2", "page=1",
        "after=", "after=nothing", "after=%00", "after=-1", "after=1e3",
    )]
    + [(f"/usage?{query}", query.partition("=")[0]) for query in (
        "limit=1", "from=yesterday", "from=-9999999999", "to=2026-13-01", "from=9999-12-31&to=0001-01-01", "group_by=",
        "group_by=hour", "group_by=day,day", "group_by=day,hour,model", "group_by=day%20", "format=xml", "format=",
        "group_by=user_id;drop", "from=2026-01-01&from=2026-01-02",
    )]
    + [(f"/users?{query}", query.partition("=")[0]) for query in ("role=root", "status=gone", "role=", "search=%00",
                                                                  "search=" + "x" * 1001)]
    + [("/audit?from=x", "from"), ("/audit?to=x", "to"), ("/audit?actor=%00", "actor"),
       ("/audit?action=" + "x" * 1001, "action"),
       ("/tokens?user_id=%00", "user_id"), ("/users/x?verbose=1", "verbose"), ("/tokens/x?verbose=1", "verbose")],
)  # fmt: skip
def test_a_query_is_read_strictly(root: Person, path: str, field: str) -> None:
    answer = root.call("GET", path)
    assert answer.status_code == 400, answer.get_data(as_text=True)
    named = answer.json["error"]["details"][0]["field"]
    assert named == ("to" if "0001-01-01" in path else field)


# -- usage ------------------------------------------------------------------------------------------------------------


def call_row(app: Flask, number: int, **more: Any) -> None:
    """A call as the ledger writes it."""
    values = {
        "id": number, "request_id": f"r{number}", "user_id": "u", "token_id": None, "door": "openai", "model": "small",
        "backend_model": "gpt-4o", "provider": "openai", "started_at": 0, "finished_at": 0, "latency_ms": 1,
        "prompt_tokens": 10, "completion_tokens": 5, "cost": 1_000_000, "status": 200, "error_code": None,
        "attempts": 1, "streamed": False, "estimated": False, **more,
    }  # fmt: skip
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(Base.metadata.tables["calls"].insert(), values)


def day(number: int) -> int:
    """Noon of a day of November 2026, in milliseconds."""
    return int(datetime(2026, 11, number, 12, tzinfo=UTC).timestamp() * 1000)


@pytest.fixture
def used(app: Flask, root: Person, alice: Person) -> dict[str, str]:
    """Four calls of two people on two days; their ids by name."""
    sheet, _ = alice.token(name="sheet", tags=["sales", "=emea"])
    plain, _ = root.token(name="plain")
    tagged = {"user_id": alice.user.id, "token_id": sheet, "tags": '["=emea","sales"]'}
    call_row(app, 1, **tagged, started_at=day(1))
    call_row(app, 2, **tagged, started_at=day(2), cost=None)
    call_row(app, 3, user_id=root.user.id, token_id=plain, started_at=day(2), provider="gemini", backend_model="flash")
    call_row(
        app, 4, user_id=root.user.id, started_at=day(2), provider=None, backend_model=None, model="lost", status=502,
        cost=0, prompt_tokens=0, completion_tokens=0, estimated=True,
    )  # fmt: skip
    return {"alice": alice.user.id, "root": root.user.id, "sheet": sheet, "plain": plain}


def test_usage_adds_up_over_everybody(app: Flask, root: Person, used: Any) -> None:
    report = made(root.call("GET", "/usage"), 200)
    jsonschema.validate(report, document_of(app, "read_usage").answer)
    assert {name: report[name] for name in ("requests", "errors", "total_tokens", "cost", "unpriced_requests")} == {
        "requests": 4, "errors": 1, "total_tokens": 45, "cost": 0.002, "unpriced_requests": 1
    }  # fmt: skip
    assert [(row["day"], row["requests"]) for row in report["series"]] == [("2026-11-01", 1), ("2026-11-02", 3)]


@pytest.mark.parametrize(
    "groups, expected",
    [
        ("user", [("alice", 2), ("root", 2)]),
        ("token", [("plain", 1), ("sheet", 2), (None, 1)]),
        ("model", [("flash", 1), ("gpt-4o", 2), ("lost", 1)]),
        ("provider", [("gemini", 1), ("openai", 2), (None, 1)]),
        ("tag", [("=emea", 2), ("sales", 2), (None, 2)]),
        ("provider,day", [("gemini", 1), ("openai", 1), ("openai", 1), (None, 1)]),
        ("tag,user", [("=emea", 2), ("sales", 2), (None, 2)]),
        ("user,tag", [("alice", 2), ("alice", 2), ("root", 2)]),
    ],
)
def test_usage_is_told_by_group(app: Flask, root: Person, used: Any, groups: str, expected: list[Any]) -> None:
    report = made(root.call("GET", f"/usage?group_by={groups}"), 200)
    jsonschema.validate(report, document_of(app, "read_usage").answer)
    first = {"user": "username", "token": "token_name"}.get(groups.partition(",")[0], groups.partition(",")[0])
    assert sorted((row[first] or "~", row["requests"]) for row in report["series"]) == [
        (name or "~", count) for name, count in expected
    ]
    if "tag" not in groups:  # a call stands under each of its token's tags
        assert sum(row["requests"] for row in report["series"]) == report["requests"] == 4


@pytest.mark.parametrize(
    "span, requests",
    [("from=2026-11-02", 3), ("to=2026-11-01", 1), ("from=2026-11-01&to=2026-11-02", 4), ("from=2027-01-01", 0),
     ("from=2026-11-02T12:00:00%2B01:00", 3), ("to=2026-11-02T12:00:00Z", 1)],
)  # fmt: skip
def test_usage_of_a_span(root: Person, used: Any, span: str, requests: int) -> None:
    report = made(root.call("GET", f"/usage?{span}"), 200)
    assert report["requests"] == sum(row["requests"] for row in report["series"]) == requests


def test_usage_as_a_table_starts_no_formula(app: Flask, root: Person, used: Any) -> None:
    starts = [
        "=1+1",
        "+1",
        "-2",
        "@SUM(1)",
        "\t=1",
        "＝1",
        "－1",
        "＠1",
        "\n=1",
        ";=1",
        "\ufeff=1",
        "'=1",
        '"=1',
        'plain, and "quoted"',
    ]
    for number, name in enumerate(starts):
        call_row(app, 10 + number, started_at=day(3), backend_model=name)
    answer = root.call("GET", "/usage?group_by=model&format=csv&from=2026-11-03")
    assert (answer.mimetype, answer.headers["X-Content-Type-Options"]) == ("text/csv", "nosniff")
    assert "attachment" in answer.headers["Content-Disposition"]
    head, *rows = csv.reader(io.StringIO(answer.get_data(as_text=True), newline=""), strict=True)
    assert head[:3] == ["model", "requests", "errors"]
    safe = [f"'{name[0]}'=1" if name in ("\t=1", "\n=1", ";=1") else f"'{name}" for name in starts[:-1]]
    assert sorted(row[0] for row in rows) == sorted(safe + starts[-1:])
    assert '""quoted""' in answer.get_data(as_text=True)


def test_absurd_counts_do_not_break_the_report(on_each: Person) -> None:
    app = on_each.http.application
    for number in range(4):
        call_row(app, number, cost=2**62, prompt_tokens=2**62, started_at=day(1))
    report = made(on_each.call("GET", "/usage?group_by=day,model"), 200)
    assert report["prompt_tokens"] == report["total_tokens"] == 2**63 - 1
    assert report["series"][0]["cost"] == report["cost"] > 10**9


def test_people_see_their_own_usage_and_nobody_else_s(app: Flask, alice: Person, used: Any) -> None:
    for groups, count in (("day", 2), ("model", 1), ("token", 1), ("day,model", 2)):
        report = made(alice.call("GET", f"/api/usage?group_by={groups}"), 200)["data"]
        assert (report["requests"], len(report["series"])) == (2, count)
    assert alice.call("GET", "/api/usage?group_by=user").status_code == 400
    table = alice.call("GET", "/api/usage?format=csv").get_data(as_text=True)
    assert len(table.splitlines()) == 3


def test_a_report_that_nobody_would_read_is_refused(
    app: Flask, root: Person, used: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flaskllm.services.usage.MOST_GROUPS", 2)
    answer = root.call("GET", "/usage?group_by=model")
    assert (answer.status_code, answer.json["error"]["details"][0]["field"]) == (400, "group_by")


# -- the audit trail --------------------------------------------------------------------------------------------------


def test_every_change_stands_in_the_trail(app: Flask, root: Person) -> None:
    user = made(root.call("POST", "/users", HENRY))
    path = f"/users/{user['id']}"
    made(root.call("PATCH", path, {"scopes": ["chat"], "budget": None}), 200)
    made(root.call("PATCH", path, {"password": NEW_PASSWORD}), 200)
    token = made(root.call("POST", "/tokens", {"user_id": user["id"], "name": "t"}))
    made(root.call("PATCH", f"/tokens/{token['id']}", {"name": "u"}), 200)
    rotated = made(root.call("POST", f"/tokens/{token['id']}/rotate"))
    root.call("DELETE", f"/tokens/{token['id']}")
    last = root.call("DELETE", path)
    rows = trail(root)[:8]
    jsonschema.validate({"data": rows, "next": None}, document_of(app, "list_audit").answer)
    assert [(row["action"], row["target"].partition(":")[2]) for row in reversed(rows)] == [
        ("user.create", user["id"]), ("user.change", user["id"]), ("user.change", user["id"]),
        ("token.create", token["id"]), ("token.change", token["id"]), ("token.rotate", token["id"]),
        ("token.revoke", token["id"]), ("user.delete", user["id"]),
    ]  # fmt: skip
    for row in rows:
        assert (row["actor"], row["address"]) == ({"id": root.user.id, "name": "root"}, "127.0.0.1")
    assert rows[0]["request_id"] == last.headers["X-Request-Id"]
    change, password = rows[6], rows[5]
    assert (set(change["before"]), change["after"]) == ({"scopes", "budget"}, {"scopes": ["chat"], "budget": None})
    assert (password["before"], password["after"]) == ({}, {"password": "••••"})
    assert (rows[3]["before"], rows[3]["after"]) == ({"name": "t"}, {"name": "u"})
    assert rows[2]["before"]["last4"] == token["last4"] != rows[2]["after"]["last4"] == rotated["last4"]
    written = json.dumps(rows) + str(everything(app)["audit"])
    for secret in (
        PASSWORD,
        NEW_PASSWORD,
        token["token"],
        rotated["token"],
        "argon2",
        api_token.hash_of(token["token"]),
    ):
        assert secret not in written


def test_what_people_do_themselves_stands_in_the_trail_too(app: Flask, root: Person) -> None:
    registered = app.test_client().post("/api/auth/register", json=HENRY).json["data"]["user"]["id"]
    access = root.services.accounts.login("henry", PASSWORD).access_token
    http, headers = app.test_client(), {"Authorization": f"Bearer {access}"}
    token = made(http.post("/api/tokens", json={"name": "t"}, headers=headers))["data"]["id"]
    http.patch(f"/api/tokens/{token}", json={"tags": ["x"]}, headers=headers)
    http.post(f"/api/tokens/{token}/rotate", headers=headers)
    http.delete(f"/api/tokens/{token}", headers=headers)
    http.patch("/api/profile", json={"email": "h@example.com", "old_password": PASSWORD}, headers=headers)
    rows = trail(root, f"actor={registered}")[::-1]
    assert [row["action"] for row in rows] == [
        "user.register", "token.create", "token.change", "token.rotate", "token.revoke", "user.change"
    ]  # fmt: skip
    assert {row["actor"]["name"] for row in rows} == {"henry"}
    assert rows[-1]["before"] == {"email": "henry@example.com"}


def test_a_migrated_database_refuses_to_change_its_trail(on_each: Person) -> None:
    for statement in ("UPDATE audit SET action = 'x'", "DELETE FROM audit WHERE number = 1"):
        with on_each.http.application.app_context():
            with pytest.raises(DBAPIError, match="never changed"):
                db.session.execute(text(statement))
            db.session.rollback()
    assert on_each.services.audit.verify().count == len(trail(on_each)) == 1


def test_what_changes_nothing_leaves_no_row(root: Person, alice: Person) -> None:
    token_id, _ = alice.token()
    count = len(trail(root))
    made(root.call("PATCH", f"/users/{alice.user.id}", {"role": "user"}), 200)
    made(root.call("PATCH", f"/tokens/{token_id}", {"name": "t"}), 200)
    assert root.call("PATCH", f"/users/{alice.user.id}", {"role": "x"}).status_code == 400
    assert len(trail(root)) == count


def test_the_trail_is_read_in_pages_and_by_filters(app: Flask, root: Person, alice: Person) -> None:
    for number in range(3):
        made(root.call("PATCH", f"/users/{alice.user.id}", {"budget": {"amount": number, "period": "day"}}), 200)
    first = made(root.call("GET", "/audit?limit=2&actor=root"), 200)
    second = made(root.call("GET", f"/audit?limit=2&actor=root&after={first['next']}"), 200)
    numbers = [row["number"] for row in first["data"] + second["data"]]
    assert (numbers, second["next"]) == (sorted(numbers, reverse=True), None)
    assert len(trail(root, f"target=user:{alice.user.id}&action=user.change")) == 3
    assert len(trail(root, f"actor={root.user.id}")) == 3
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
    assert trail(root, f"from={tomorrow}") == []
    assert len(trail(root, f"to={tomorrow}&action=user.create")) == 2
    assert trail(root, "actor=' OR 1=1--") == []


def test_the_command_line_says_who_was_at_the_shell_and_verifies(app: Flask, root: Person) -> None:
    run = app.test_cli_runner().invoke
    run(args=["users", "create", "henry", "h@example.com", "--password-stdin"], input=PASSWORD + "\n")
    run(args=["users", "disable", "henry"])
    token = run(args=["tokens", "create", "ci"]).stdout.strip()
    rows = trail(root)[:3]
    assert [row["action"] for row in rows] == ["token.create", "user.change", "user.create"]
    assert all(row["actor"]["id"] is None and row["actor"]["name"].startswith("cli:") for row in rows)
    assert token not in json.dumps(rows)
    sound = run(args=["audit", "verify"])
    assert (sound.exit_code, sound.stdout.split()[0]) == (0, str(rows[0]["number"]))
    as_json = json.loads(run(args=["audit", "verify", "--json"]).stdout)
    assert (as_json["ok"], as_json["head"]) == (True, f"{rows[0]['number']}:{rows[0]['mac']}")


def test_the_command_line_names_the_first_row_that_somebody_has_been_at(
    app: Flask, root: Person, alice: Person
) -> None:
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(text("DROP TRIGGER audit_no_update"))
        connection.execute(text("UPDATE audit SET actor_name = 'mallory' WHERE number = 2"))
    run = app.test_cli_runner().invoke
    found = run(args=["audit", "verify"])
    assert (found.exit_code, found.stderr.split(":")[0]) == (1, "Row 2 is not sound")
    as_json = run(args=["audit", "verify", "--json"])
    told = json.loads(as_json.stdout)
    assert (as_json.exit_code, told["ok"], told["broken"], told["count"]) == (1, False, 2, 1)
