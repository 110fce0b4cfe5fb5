"""Accounts and tokens at the administrators' pages: the same services and the same trail as at the JSON doors."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from flaskllm.domain import api_token
from tests.doors.visitor import Visitor, words
from tests.people import PASSWORD

PAYLOADS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</textarea></pre><svg onload=alert(1)>",
    "{{ 7 * 7 }}${alert(1)}",
)


@pytest.fixture
def root(app: Flask) -> Visitor:
    return Visitor.admin(app)


def person(visitor: Visitor, **form: Any) -> TestResponse:
    asked = {"username": "alice", "email": "alice@example.com", "role": "user", "status": "active", **form}
    return visitor.post("/admin/people/new", asked)


def token(visitor: Visitor, **form: Any) -> TestResponse:
    return visitor.post("/admin/tokens/new", {"name": "report", "user_id": "root", **form})


def text_of(made: TestResponse) -> str:
    found = re.search(r'<code id="token">(fl_\w+)</code>', made.text)
    assert found is not None, words(made)
    return found[1]


def last_entry(visitor: Visitor) -> Any:
    return visitor.services.audit.list(limit=1)[0][0]


# -- accounts ---------------------------------------------------------------------------------------------------------


def test_an_account_is_made_and_told_in_the_trail_under_the_administrators_name(root: Visitor) -> None:
    made = person(root, password=PASSWORD, budget_amount="2.50", budget_period="day", scopes=["chat", "webhook"])
    user = root.services.accounts.find_user("alice")
    assert (made.status_code, made.headers["Location"]) == (303, f"/admin/people/{user.id}")
    assert (user.role, user.scopes, user.budget_amount, user.budget_period) == (
        "user", ["chat", "webhook"], 2_500_000_000, "day",
    )  # fmt: skip
    entry = last_entry(root)
    assert (entry.actor_name, entry.action, entry.target) == ("root", "user.create", f"user:{user.id}")
    assert root.services.accounts.login("alice", PASSWORD)
    assert "$2.50 a day" in words(root.get("/admin/people"))


@pytest.mark.parametrize(
    "field, value, at",
    [
        ("username", "a b", "username"), ("username", "", "username"), ("email", "none", "email"),
        ("password", "weak", "password"), ("role", "emperor", "role"), ("status", "closed", "status"),
        ("scopes", "everything", "scopes"), ("budget_amount", "-1", "budget_amount"),
        ("budget_amount", "much", "budget_amount"), ("budget_amount", "1e5", "budget_amount"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_at_its_field_and_nothing_is_made(root: Visitor, field: str, value: str, at: str) -> None:
    refused = person(root, **{"password": PASSWORD, "budget_period": "month", field: value})
    if field == "scopes":  # not one of the boxes: as if it were not ticked
        assert refused.status_code == 303
        return
    assert refused.status_code == 400, words(refused)
    assert re.search(rf'id="f-{at}"[^>]*aria-invalid="true"', refused.text)
    assert PASSWORD not in refused.text
    assert 'value="alice@example.com"' in refused.text or field == "email"
    assert len(root.services.accounts.list_users()[0]) == 1


def test_a_taken_name_is_told_at_its_field(root: Visitor) -> None:
    refused = person(root, username="root")
    assert refused.status_code == 409
    assert re.search(r'id="f-username"[^>]*aria-invalid="true"', refused.text)


def test_a_change_writes_what_differs_and_nothing_else(root: Visitor) -> None:
    person(root, password=PASSWORD)
    user = root.services.accounts.find_user("alice")
    path = f"/admin/people/{user.id}"
    same = {
        "email": user.email, "role": "user", "status": "active", "scopes": user.scopes,
        "budget_amount": "10.0", "budget_period": "month",
    }  # fmt: skip
    before = last_entry(root).number
    assert root.post(path, same).status_code == 303
    assert last_entry(root).number == before
    assert root.post(path, {**same, "role": "admin", "budget_amount": ""}).status_code == 303
    entry = last_entry(root)
    assert set(json.loads(entry.after)) == {"role", "scopes", "budget"}
    changed = root.services.accounts.get_user(user.id)
    assert (changed.role, changed.budget_amount, "admin" in changed.scopes) == ("admin", None, True)
    assert root.services.accounts.login("alice", PASSWORD)


def test_disabling_acts_and_the_last_administrator_stays(root: Visitor) -> None:
    me = root.services.accounts.find_user("root")
    form = {"email": me.email, "role": "admin", "status": "disabled", "scopes": me.scopes}
    refused = root.post(f"/admin/people/{me.id}", form)
    assert (refused.status_code, "last administrator" in words(refused)) == (409, True)
    assert root.sure(f"/admin/people/{me.id}/close").status_code == 409
    person(root, password=PASSWORD)
    alice = root.services.accounts.find_user("alice")
    barred = {"email": alice.email, "role": "user", "status": "disabled", "scopes": alice.scopes, "budget_amount": ""}
    assert root.post(f"/admin/people/{alice.id}", barred).status_code == 303
    assert root.http.post("/api/auth/login", json={"username": "alice", "password": PASSWORD}).status_code == 401
    assert root.sure(f"/admin/people/{alice.id}/close").status_code == 303
    assert "alice" not in words(root.get("/admin/people"))
    assert "alice" in words(root.get("/admin/people?status=closed"))
    assert root.get(f"/admin/people/{alice.id}", status=404).mimetype == "text/html"


def test_the_list_is_paged_and_searched(root: Visitor) -> None:
    for number in range(3):
        person(root, username=f"user{number}", email=f"user{number}@example.com")
    first = root.get("/admin/people?limit=2")
    following = re.search(r'href="(/admin/people\?after=[0-9a-f-]+)"', first.text)
    assert ("user0" in first.text, "user1" in first.text, following is not None) == (True, False, True)
    assert "user2" in root.get(following[1]).text if following else False
    found = words(root.get("/admin/people?search=USER1&role=&status="))
    assert ("user1@example.com" in found, "user2@example.com" in found) == (True, False)


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_a_token_is_shown_once_with_what_to_paste_and_works_within_its_limits(root: Visitor) -> None:
    made = token(
        root, scopes=["chat", "webhook"], models="demo", requests_per_minute="7", budget_amount="5",
        budget_period="week", expires_at="2099-01-31", allowed_ips="127.0.0.0/8\n::1", tags="a, b",
    )  # fmt: skip
    text = text_of(made)
    assert api_token.looks_valid(text)
    assert made.headers["Cache-Control"] == "no-store"
    assert made.text.count(text) == 5  # itself, curl, Python, JavaScript, Office Script
    row = root.services.tokens.list(None)[0][0]
    assert (row.models, row.requests_per_minute, row.budget_amount, row.budget_period) == (
        ["demo"], 7, 5_000_000_000, "week",
    )  # fmt: skip
    assert (row.allowed_ips, row.tags, row.expires_at.isoformat()) == (
        ["127.0.0.0/8", "::1/128"], ["a", "b"], "2099-01-31T23:59:59+00:00",
    )  # fmt: skip
    assert (last_entry(root).action, last_entry(root).actor_name) == ("token.create", "root")
    body = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}
    asked = root.app.test_client().post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {text}"})
    assert asked.status_code == 200
    for path in ("/admin/tokens", f"/admin/tokens/{row.id}", "/admin/audit"):
        assert text not in root.get(path).text


@pytest.mark.parametrize(
    "field, value",
    [
        ("name", ""), ("user_id", "nobody"), ("user_id", ""), ("requests_per_minute", "0"),
        ("requests_per_minute", "many"), ("tokens_per_minute", "1.5"), ("concurrency", "-1"), ("budget_amount", "x"),
        ("expires_at", "2001-01-01"), ("expires_at", "soon"), ("allowed_ips", "everywhere"), ("tags", "x" * 65),
    ],
)  # fmt: skip
def test_a_token_that_cannot_be_is_told_at_its_field_and_not_made(root: Visitor, field: str, value: str) -> None:
    refused = token(root, **{"budget_period": "day", "models": "kept", field: value})
    assert refused.status_code == 400, words(refused)
    assert re.search(rf'id="f-{field}"[^>]*aria-invalid="true"', refused.text)
    assert ">kept</textarea>" in refused.text
    assert root.services.tokens.list(None)[0] == []


def test_a_token_gets_no_more_than_its_owner_has(root: Visitor) -> None:
    person(root, scopes=["chat"])
    refused = token(root, user_id="alice", scopes=["chat", "images"])
    assert refused.status_code == 403
    assert root.services.tokens.list(None)[0] == []


def test_a_workbooks_token_is_bound_to_templates_money_and_an_end(root: Visitor) -> None:
    shown = root.get("/admin/tokens/new?workbook=1&user=root")
    assert re.search(r'id="f-budget_amount"[^>]* value="1"', shown.text)
    assert re.search(r'value="webhook" checked', shown.text)
    form = {"workbook": "1", "scopes": "webhook", "budget_amount": "1", "budget_period": "day"}
    assert token(root, **form).status_code == 400
    made = token(root, **form, templates="summary")
    assert "/v1/chat/completions" not in made.text
    headers = {"X-API-Token": text_of(made)}
    client = root.app.test_client()
    assert (
        client.post("/api/v1/webhook", json={"template": "summary", "prompt": "x"}, headers=headers).status_code == 200
    )
    assert client.get("/v1/models", headers=headers).status_code == 403


def test_a_token_is_changed_rotated_and_revoked(root: Visitor) -> None:
    old = text_of(token(root, scopes=["chat"], expires_at="2099-01-31"))
    row = root.services.tokens.list(None)[0][0]
    path = f"/admin/tokens/{row.id}"
    before = last_entry(root).number
    same = {"name": "report", "scopes": ["chat"], "expires_at": "2099-01-31"}
    assert root.post(path, same).status_code == 303
    assert last_entry(root).number == before
    assert root.post(path, {**same, "concurrency": "3", "expires_at": ""}).status_code == 303
    changed = root.services.tokens.get(None, row.id)
    assert (changed.concurrency, changed.expires_at) == (3, None)
    assert root.post(path, {**same, "concurrency": "none"}).status_code == 400
    fresh = text_of(root.post(f"{path}/rotate", {"grace_s": "0"}))
    assert root.post(f"{path}/rotate", {"grace_s": "soon"}).status_code == 400
    client = root.app.test_client()
    assert [client.get("/v1/models", headers={"X-API-Token": one}).status_code for one in (old, fresh)] == [401, 200]
    assert root.sure(f"{path}/revoke").status_code == 303
    assert client.get("/v1/models", headers={"X-API-Token": fresh}).status_code == 401
    assert "revoked" in words(root.get(path))
    assert "Rotate" not in words(root.get(path))


def test_what_is_not_there_is_a_page_that_says_so(root: Visitor) -> None:
    for path in ("/admin/people/none", "/admin/tokens/none", "/admin/tokens?user_id=none"):
        assert root.get(path, status=404).mimetype == "text/html"
    for path in ("/admin/people/none", "/admin/people/none/close", "/admin/tokens/none", "/admin/tokens/none/revoke"):
        assert root.sure(path).status_code == 404
    assert root.get("/admin/people?after=none", status=400).mimetype == "text/html"


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_was_stored_is_shown_as_it_is_and_never_as_markup(root: Visitor, payload: str) -> None:
    made = token(root, name=payload, models=payload, templates=payload, tags=payload[:60], scopes=["webhook"])
    assert made.status_code == 200
    row = root.services.tokens.list(None)[0][0]
    pages = [made, *(root.get(path) for path in ("/admin/tokens", f"/admin/tokens/{row.id}", "/admin/audit"))]
    pages.append(token(root, name=payload, user_id=payload))
    for page in pages:
        assert not re.search(r"<script>|<img|<svg|onerror=alert\(1\)>", page.text)
        assert "49${alert(1)}" not in page.text
    assert " ".join(payload.split()) in words(pages[1])
