"""What the tests of accounts and tokens share: people over HTTP, the corpus' cases, and forged access tokens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flaskllm.config import Settings
from tests.people import PASSWORD, make_account

CORPUS = {
    case["id"]: case
    for case in json.loads((Path(__file__).parents[1] / "corpus" / "accounts.json").read_text(encoding="utf-8"))
}


def corpus(*ids: str) -> pytest.MarkDecorator:
    """The test is the proof of these cases, whose ids then stand in the report."""
    assert set(ids) <= set(CORPUS)
    return pytest.mark.parametrize("case", ids)


def cases(group: str, *keys: str) -> list[Any]:
    """The cases of a group whose input has nothing but these keys."""
    found = [case for case in CORPUS.values() if case["group"] == group and set(case["input"]) <= set(keys)]
    return [pytest.param(case, id=case["id"]) for case in found]


def expanded(value: Any) -> Any:
    """The corpus' way to write long values."""
    if isinstance(value, dict):
        long = value.get("$repeat", value.get("repeat"))
        if isinstance(long, str) and "times" in value:
            return value.get("prefix", "") + long * value["times"] + value.get("suffix", "")
        return {name: expanded(inner) for name, inner in value.items()}
    return [expanded(inner) for inner in value] if isinstance(value, list) else value


def check(response: TestResponse, case: dict[str, Any]) -> None:
    """Status, code and envelope as the case expects them."""
    expect = case["expect"]
    assert response.status_code in expect["status"], response.get_data(as_text=True)
    if response.status_code < 400:
        return
    error = response.json["error"] if response.json else {}
    assert expect.get("code") in (None, error["code"])
    for name in expect["assert"]:
        if name.startswith("details.names:"):
            assert name.partition(":")[2] in [detail["field"] for detail in error["details"]]
    if response.status_code == 401:
        assert response.headers["WWW-Authenticate"] == "Bearer"
    assert error.get("request_id", response.headers["X-Request-Id"]) == response.headers["X-Request-Id"]


class Person:
    """Somebody with an account, over HTTP."""

    def __init__(self, app: Flask, name: str = "alice", *, admin: bool = False) -> None:
        self.services = app.extensions["flaskllm"]
        self.http: FlaskClient = app.test_client()
        self.name = name
        self.user = make_account(app, name, admin=admin)
        self.login()

    def login(self) -> None:
        given = self.services.accounts.login(self.name, PASSWORD)
        self.access, self.refresh = given.access_token, given.refresh_token

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.access}"}

    def call(self, method: str, path: str, body: Any = None, **more: Any) -> TestResponse:
        headers = {**self.headers, **more.pop("headers", {})}
        return self.http.open(path, method=method, json=body, headers=headers, **more)

    def token(self, **fields: Any) -> tuple[str, str]:
        """A token of this person: its id and its text."""
        row, text = self.services.tokens.issue_for_user(self.name, {"name": "t", **fields})
        return row.id, text


def forge(app: Flask, person: Person, case: dict[str, Any]) -> str:
    """The bearer that a case of ``auth.jwt`` describes, by hand: libraries do not write what attackers write."""
    bearer = case["input"]["bearer"]
    if "raw" in bearer:
        return str(bearer["raw"])
    if "raw_gen" in bearer:
        made = bearer["raw_gen"]
        return "." * made["segments"] if "segments" in made else made["repeat"] * made["times"]
    settings: Settings = app.extensions["flaskllm_settings"]
    server = settings.jwt_secret_keys[0].reveal()
    key = {"server": server, "attacker rsa": "-----BEGIN PUBLIC KEY-----"}.get(
        bearer.get("key"), bearer.get("key", server)
    )
    head = {"alg": "HS256", "typ": "JWT", **bearer.get("header", {})}
    body = ".".join(_b64(json.dumps(part).encode()) for part in (head, _claims(person, bearer["claims"])))
    if bearer.get("sig") is not None:
        return body + "."
    return f"{body}.{_b64(hmac.new(key.encode(), body.encode(), hashlib.sha256).digest())}"


def _claims(person: Person, said: Any) -> dict[str, Any]:
    """Sound claims of this person, but for what the case changes."""
    now = int(time.time())
    session_id = person.services.accounts.identify(person.access).session_id
    claims: dict[str, Any] = {
        "iss": "flaskllm", "aud": "flaskllm", "sub": person.user.id, "sid": session_id, "typ": "access",
        "iat": now - 60, "exp": now + 900,
    }  # fmt: skip
    for name, value in (said if isinstance(said, dict) else {}).items():
        if value == "absent":
            del claims[name]
        elif name == "exp" and isinstance(value, str) and value.startswith("-"):
            past = int(value.strip("-s"))
            claims["exp"] = now - (past if past > 5 else past + 30)  # the leeway is 30 s
        elif value != "alice":
            claims[name] = value
    return claims


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
