"""``/api/auth/*`` and ``/api/profile`` over HTTP, and the cases of the corpus about them."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from flaskllm.extensions import db
from tests.clock import quickest
from tests.conftest import MakeApp
from tests.doors.accounts_world import Person, cases, check, corpus, expanded, forge
from tests.people import NEW_PASSWORD, PASSWORD

REGISTRATION = {"username": "user", "email": "user@example.com", "password": PASSWORD}


@pytest.fixture
def alice(app: Flask) -> Person:
    return Person(app)


def rows(app: Flask, table: str) -> int:
    with app.app_context():
        return int(db.session.scalar(text(f"SELECT count(*) FROM {table}")) or 0)


def register(client: FlaskClient, **changed: Any) -> Any:
    return client.post("/api/auth/register", json={**REGISTRATION, **changed})


# -- registering ------------------------------------------------------------------------------------------------------


@corpus("AUTH-REGISTER-061")
def test_registering_gives_the_account(client: FlaskClient, case: str):
    answer = register(client)
    assert answer.status_code == 201
    user = answer.json["data"]["user"]
    assert set(user) == {"id", "username", "email", "role", "scopes", "created_at"}
    assert (user["username"], user["role"]) == ("user", "user")
    assert user["created_at"].endswith("Z")


@pytest.mark.parametrize("case", cases("auth.register", "json", "setup"))
def test_corpus_registration(app: Flask, client: FlaskClient, case: dict[str, Any]):
    if "admin" in case["input"].get("setup", ""):
        Person(app, "admin")
    before = rows(app, "users")
    answer = client.post("/api/auth/register", json=expanded(case["input"]["json"]))
    check(answer, case)
    if answer.status_code != 201:
        assert rows(app, "users") == before


@pytest.mark.alone
@corpus("AUTH-REGISTER-020")
def test_a_huge_password_is_refused_before_it_is_read(client: FlaskClient, case: str):
    refused = []
    assert quickest(lambda: refused.append(register(client, password="A1a" * 400_000).status_code)) < 0.2
    assert set(refused) == {413}


@corpus("AUTH-REGISTER-022")
def test_passwords_alike_in_72_bytes_are_different(client: FlaskClient, case: str):
    register(client, password="Aa1" * 24 + "X")
    wrong = client.post("/api/auth/login", json={"username": "user", "password": "Aa1" * 24 + "Y"})
    assert wrong.status_code == 401


def test_a_closed_house_registers_nobody(make_app: MakeApp):
    assert register(make_app(REGISTRATION="closed").test_client()).status_code == 403


def test_where_approval_is_needed_one_may_log_in_but_not_spend(make_app: MakeApp):
    client = make_app(REGISTRATION="approval").test_client()
    register(client)
    login = client.post("/api/auth/login", json={"username": "user", "password": PASSWORD}).json["data"]
    headers = {"Authorization": f"Bearer {login['access_token']}"}
    assert client.get("/api/profile", headers=headers).status_code == 200
    spent = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}]}, headers=headers)
    assert spent.status_code == 403


# -- logging in -------------------------------------------------------------------------------------------------------


def test_logging_in_gives_both_tokens_and_the_account(alice: Person):
    answer = alice.http.post("/api/auth/login", json={"username": "alice@example.com", "password": PASSWORD})
    data = answer.json["data"]
    assert (answer.json["status"], data["token_type"], data["expires_in"]) == ("success", "Bearer", 900)
    assert data["user"]["username"] == "alice"
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("case", cases("auth.login", "json"))
def test_corpus_login(alice: Person, case: dict[str, Any]):
    check(alice.http.post("/api/auth/login", json=expanded(case["input"]["json"])), case)


@corpus("AUTH-LOGIN-004")
def test_unknown_wrong_and_disabled_get_the_same_bytes(app: Flask, alice: Person, case: str):
    dora = Person(app, "dora")
    dora.services.accounts.change_user(dora.user.id, {"status": "disabled"})
    headers = {"X-Request-Id": "the-same-one"}
    told = {
        (answer.status_code, answer.data, tuple(sorted(answer.headers.items())))
        for name, password in (("nobody", "x"), ("alice", "x"), ("dora", PASSWORD))
        for answer in [
            alice.http.post("/api/auth/login", json={"username": name, "password": password}, headers=headers)
        ]
    }
    assert len(told) == 1
    assert told.pop()[0] == 401


@pytest.mark.alone
@corpus("AUTH-LOGIN-003")
def test_unknown_and_wrong_take_the_same_time(alice: Person, case: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(alice.services.accounts._guesses, "_throttle", lambda key, limit, seconds: 0.0)
    alice.services.accounts.reset_password(alice.user.id, PASSWORD)  # hashed as costly as the gateway does it

    def seconds(name: str) -> float:
        started = time.perf_counter()
        alice.http.post("/api/auth/login", json={"username": name, "password": "w"})
        return time.perf_counter() - started

    pairs = [(seconds("alice"), seconds("nobody")) for _ in range(15)]
    known, unknown = (sorted(times)[4] for times in zip(*pairs, strict=True))
    assert 0.7 < known / unknown < 1.4


@corpus("AUTH-LOGIN-023", "AUTH-LOGIN-024")
def test_a_forged_address_does_not_reset_the_count(alice: Person, case: str):
    header = "X-Forwarded-For" if case == "AUTH-LOGIN-023" else "X_Forwarded_For"
    told = [
        alice.http.post(
            "/api/auth/login",
            json={"username": "alice", "password": "wrong"},
            headers={header: f"10.9.8.{n}"},
            environ_overrides={"REMOTE_ADDR": "192.0.2.1"},
        )
        for n in range(13)
    ]
    assert [answer.status_code for answer in told] == [401] * 9 + [429] * 4  # her own login was the first of the ten
    assert int(told[-1].headers["Retry-After"]) >= 1


@corpus("AUTH-LOGIN-022")
def test_spraying_one_password_over_many_names_is_slowed_down(
    alice: Person, case: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(alice.services.accounts._passwords, "verify", lambda password, known: False)
    told = [
        alice.http.post("/api/auth/login", json={"username": f"user{n}", "password": "Winter2026"}).status_code
        for n in range(62)
    ]
    assert told[:60] == [401] * 60
    assert told[60:] == [429] * 2


@corpus("AUTH-LOGIN-025")
def test_the_owner_still_gets_in_from_a_quiet_address(alice: Person, case: str):
    for _ in range(11):
        alice.http.post("/api/auth/login", json={"username": "alice", "password": "wrong"})
    quiet = alice.http.post(
        "/api/auth/login",
        json={"username": "alice", "password": PASSWORD},
        environ_overrides={"REMOTE_ADDR": "192.0.2.7"},
    )
    assert quiet.status_code == 200


# -- access tokens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("auth.jwt", "bearer"))
def test_corpus_access_token(app: Flask, alice: Person, case: dict[str, Any]):
    forged = forge(app, alice, case)
    header = f"Bearer {forged}".encode().decode("latin-1")
    answers = []
    assert quickest(lambda: answers.append(alice.http.get("/api/profile", headers={"Authorization": header}))) < 0.5
    for answer in answers:
        check(answer, case)


@corpus("AUTH-JWT-054")
def test_two_tokens_in_one_header_are_none(app: Flask, alice: Person, case: str):
    bob = Person(app, "bob")
    header = f"Bearer {alice.access}, Bearer {bob.access}"
    assert alice.http.get("/api/profile", headers={"Authorization": header}).status_code in (400, 401)


@corpus("AUTH-SESSION-006", "AUTH-SESSION-007")
def test_signing_keys_are_exchanged_with_an_overlap(make_app: MakeApp, case: str):
    old, new = "o" + "Yr9vQ2mZ7pX4tB8nL1wS6dF0hJ5cGa3k", "n" + "Yr9vQ2mZ7pX4tB8nL1wS6dF0hJ5cGa3k"
    first = make_app(JWT_SECRET_KEY=old)
    person = Person(first)
    keys = f"{new},{old}" if case == "AUTH-SESSION-006" else new
    later = make_app(JWT_SECRET_KEY=keys, DATABASE_URL=first.config["SQLALCHEMY_DATABASE_URI"])
    answer = later.test_client().get("/api/profile", headers=person.headers)
    assert answer.status_code == (200 if case == "AUTH-SESSION-006" else 401)


# -- sessions ---------------------------------------------------------------------------------------------------------


def refreshed(alice: Person, token: str | None = None, **more: Any) -> Any:
    return alice.http.post("/api/auth/refresh", json={"refresh_token": token or alice.refresh}, **more)


@corpus("AUTH-SESSION-001")
def test_logging_out_revokes_the_session_at_once(alice: Person, case: str):
    assert alice.call("POST", "/api/auth/logout").json == {"status": "success", "data": {}}
    answer = alice.call("GET", "/api/profile")
    assert (answer.status_code, answer.json["error"]["code"]) == (401, "token_revoked")


@corpus("AUTH-REFRESH-001", "AUTH-REFRESH-002")
def test_a_refresh_token_used_twice_kills_its_family(alice: Person, case: str):
    latest = refreshed(alice).json["data"]["refresh_token"]
    if case == "AUTH-REFRESH-002":
        latest = refreshed(alice, latest).json["data"]["refresh_token"]
    assert refreshed(alice).status_code == 401
    assert refreshed(alice, latest).status_code == 401
    assert alice.call("GET", "/api/profile").status_code == 401


def test_the_refresh_token_may_come_as_the_bearer(alice: Person):
    headers = {"Authorization": f"Bearer {alice.refresh}"}
    assert alice.http.post("/api/auth/refresh", headers=headers).status_code == 200


@corpus("AUTH-REFRESH-004")
def test_logging_out_ends_the_refresh_token(alice: Person, case: str):
    alice.call("POST", "/api/auth/logout")
    assert refreshed(alice).status_code == 401


@corpus("AUTH-REFRESH-005")
def test_a_disabled_user_refreshes_nothing(alice: Person, case: str):
    alice.services.accounts.change_user(alice.user.id, {"status": "disabled"})
    assert refreshed(alice).status_code == 401


@corpus("AUTH-REFRESH-007")
def test_an_access_token_refreshes_nothing(alice: Person, case: str):
    assert refreshed(alice, alice.access).status_code == 401


@corpus("AUTH-REFRESH-008")
def test_two_principals_refresh_nothing(app: Flask, alice: Person, case: str):
    assert refreshed(alice, headers=Person(app, "bob").headers).status_code == 400
    assert refreshed(alice).status_code == 200


@pytest.mark.parametrize("case", cases("auth.refresh", "json"))
def test_corpus_refresh(app: Flask, client: FlaskClient, case: dict[str, Any]):
    answer = client.post("/api/auth/refresh", json=expanded(case["input"]["json"]))
    if case["id"] == "AUTH-REFRESH-017":  # 100 kB: the contract's limit of 64 KiB goes before the corpus' answer
        assert answer.status_code == 413
    else:
        check(answer, case)
    assert rows(app, "refresh_tokens") == 0


def test_without_any_refresh_token_the_field_is_named(client: FlaskClient):
    answer = client.post("/api/auth/refresh", json={})
    assert (answer.status_code, answer.json["error"]["details"][0]["field"]) == (400, "refresh_token")


# -- the profile ------------------------------------------------------------------------------------------------------


def test_the_profile_is_the_callers_account(alice: Person):
    data = alice.call("GET", "/api/profile").json["data"]
    assert (data["id"], data["username"], data["email"]) == (alice.user.id, "alice", "alice@example.com")


@pytest.mark.parametrize(
    "body",
    [{"role": "admin"}, {"id": "x"}, {"budget": 1e9}, {"password_hash": "x"}, {"status": "active"},
     {"token_version": 0}, {"email": "new@example.com"}, {"password": NEW_PASSWORD}, {"scopes": ["admin"]}],
)  # fmt: skip
def test_what_is_not_theirs_or_lacks_the_old_password_is_refused(alice: Person, body: dict[str, Any]):
    before = alice.call("GET", "/api/profile").data
    assert alice.call("PATCH", "/api/profile", body).status_code == 400
    assert alice.call("GET", "/api/profile").data == before


def test_a_wrong_old_password_is_a_403(alice: Person):
    assert alice.call("PATCH", "/api/profile", {"email": "n@example.com", "old_password": "wrong"}).status_code == 403


def test_a_new_password_ends_the_session_it_was_changed_in(alice: Person):
    changed = alice.call("PATCH", "/api/profile", {"password": NEW_PASSWORD, "old_password": PASSWORD})
    assert changed.status_code == 200
    assert alice.call("GET", "/api/profile").json["error"]["code"] == "token_revoked"
    assert refreshed(alice).status_code == 401


# -- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["register", "login", "refresh"])
@pytest.mark.parametrize(
    "body", [b"null", b"[1]", b'{"a":"\\ud800"}', b'"x"', b"{", b'{"username":"a","username":"b"}']
)
def test_bodies_are_read_strictly(client: FlaskClient, path: str, body: bytes):
    answer = client.post(f"/api/auth/{path}", data=body, content_type="application/json")
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "application/json; charset=latin-1", "",
     "multipart/form-data"],
)  # fmt: skip
def test_only_json_is_taken(client: FlaskClient, content_type: str):
    answer = client.post("/api/auth/login", data=b"{}", content_type=content_type)
    assert (answer.status_code, answer.json["error"]["code"]) == (415, "unsupported_media_type")


def test_a_compressed_body_is_not_taken(client: FlaskClient):
    answer = client.post(
        "/api/auth/login", data=b"{}", content_type="application/json", headers={"Content-Encoding": "gzip"}
    )
    assert answer.status_code == 415


def test_a_body_over_64_kib_is_refused(client: FlaskClient):
    answer = client.post("/api/auth/login", data=b" " * 65_537, content_type="application/json")
    assert (answer.status_code, answer.json["error"]["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize("more, status", [(0, 401), (1, 413)])
def test_a_body_whose_length_is_not_announced_is_not_cut_but_refused(client: FlaskClient, more: int, status: int):
    body = b'{"username": "nobody", "password": "x"}'
    body += b" " * (65_536 - len(body) + more)
    answer = client.post(
        "/api/auth/login",
        input_stream=io.BytesIO(body),
        content_type="application/json",
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert answer.status_code == status


@pytest.mark.parametrize("path", ["/api/profile", "/api/tokens", "/v1/models"])
def test_without_a_credential_one_is_asked_for(client: FlaskClient, path: str):
    answer = client.get(path)
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
