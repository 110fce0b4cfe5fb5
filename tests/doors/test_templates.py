"""``/api/v1/templates``: administrators write, callers use, and a value is never run."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from flask import Flask

from tests.actors import Caller, access_token
from tests.conftest import MakeApp

HAIKU = {
    "name": "haiku",
    "type": "custom",
    "system_text": "You are a {{ mood }} poet.",
    "user_text": "Write about {{ topic }}.",
    "variables": [{"name": "topic", "default": None}, {"name": "mood", "default": "calm"}],
    "parameters": {"temperature": 0.2},
}


@pytest.fixture
def admin(app: Flask) -> Caller:
    return Caller(app.test_client(), access_token(app, "boss", admin=True))


@pytest.fixture
def caller(app: Flask) -> Caller:
    return Caller.on(app)


def ask(caller: Caller, status: int = 200, **body: Any) -> Any:
    return caller.post("/api/v1/webhook", body, status=status).json


def put(admin: Caller, name: str, body: Any, status: int = 200) -> Any:
    response = admin.http.put(f"/api/v1/templates/{name}", json=body, headers=admin.headers)
    assert response.status_code == status, response.text
    return response.json


def delete(admin: Caller, name: str, status: int = 204) -> None:
    response = admin.http.delete(f"/api/v1/templates/{name}", headers=admin.headers)
    assert response.status_code == status, response.text


def test_a_template_is_written_and_used(admin: Caller, caller: Caller) -> None:
    made = admin.post("/api/v1/templates", HAIKU, status=201).json
    assert made == {**HAIKU, "description": "", "model": None, "cache": False, "version": 1, "shipped": False}
    assert caller.get("/api/v1/templates/haiku").json == made
    told = ask(caller, template="haiku", variables={"topic": "{{ mood }} {{ 7*7 }}"})
    assert told["summary"] == "[demo] Write about {{ mood }} {{ 7*7 }}."


def test_what_the_texts_use_is_declared_where_nothing_is(admin: Caller, caller: Caller) -> None:
    body = {"name": "plain", "user_text": "{{ text }} in {{ style }}"}
    made = admin.post("/api/v1/templates", body, status=201).json
    assert [one["name"] for one in made["variables"]] == ["text", "style"]
    fault = ask(caller, 400, template="plain", prompt="x")
    assert fault["error"]["details"][0]["field"] == "variables.style"
    assert ask(caller, template="plain", prompt="x", variables={"style": "y"})["summary"] == "[demo] x in y"


def test_each_change_is_a_version(admin: Caller, caller: Caller) -> None:
    admin.post("/api/v1/templates", HAIKU, status=201)
    assert put(admin, "haiku", {"user_text": "Sing of {{ topic }}."})["version"] == 2
    listed = caller.get("/api/v1/templates/haiku/versions").json["data"]
    assert [(one["version"], one["user_text"]) for one in listed] == [
        (2, "Sing of {{ topic }}."), (1, "Write about {{ topic }}."),
    ]  # fmt: skip
    assert ask(caller, template="haiku", variables={"topic": "rain"})["summary"] == "[demo] Sing of rain."


def test_a_shipped_template_can_be_changed_and_comes_back(admin: Caller, caller: Caller) -> None:
    before = caller.get("/api/v1/templates/summary").json
    delete(admin, "summary", 409)
    changed = put(admin, "summary", {"system_text": "", "user_text": "Shorten: {{ text }}"})
    assert (changed["version"], changed["shipped"]) == (2, False)
    assert ask(caller, type="summary", prompt="a b")["summary"] == "[demo] Shorten: a b"
    delete(admin, "summary")
    assert caller.get("/api/v1/templates/summary").json == before
    assert put(admin, "summary", {"description": "mine"})["version"] == 4  # a number is never used twice


def test_a_deleted_template_is_gone(admin: Caller, caller: Caller) -> None:
    admin.post("/api/v1/templates", HAIKU, status=201)
    delete(admin, "haiku")
    caller.get("/api/v1/templates/haiku", status=404)
    ask(caller, 404, template="haiku", variables={"topic": "x"})
    delete(admin, "haiku", 404)
    put(admin, "haiku", {"user_text": "x"}, 404)
    assert admin.post("/api/v1/templates", HAIKU, status=201).json["version"] == 3


def test_only_administrators_write(app: Flask, caller: Caller) -> None:
    caller.post("/api/v1/templates", HAIKU, status=403)
    put(caller, "summary", {"user_text": "x"}, 403)
    delete(caller, "summary", 403)
    user = Caller(app.test_client(), access_token(app, "alice"))
    user.post("/api/v1/templates", HAIKU, status=403)


def test_nothing_that_an_administrator_does_hangs_on_an_address(app: Flask, admin: Caller) -> None:
    client = app.test_client()
    assert client.post(f"/api/v1/templates?api_token={admin.token}", json=HAIKU).status_code == 401
    assert client.delete(f"/api/v1/templates/summary?api_token={admin.token}").status_code == 401


def test_a_workbook_token_sees_its_own_alone(app: Flask, admin: Caller) -> None:
    admin.post("/api/v1/templates", HAIKU, status=201)
    narrow = Caller.on(app, name="workbook", templates=["haiku"])
    assert [one["name"] for one in narrow.get("/api/v1/templates").json["data"]] == ["haiku"]
    told = [narrow.get(f"/api/v1/templates/{name}", status=404).json["error"] for name in ("nowhere", "summary")]
    missing, hidden = ({**one, "request_id": ""} for one in told)
    assert missing == hidden
    narrow.get("/api/v1/templates/summary/versions", status=404)


def test_the_same_name_twice_is_a_conflict(admin: Caller) -> None:
    admin.post("/api/v1/templates", HAIKU, status=201)
    admin.post("/api/v1/templates", HAIKU, status=409)
    admin.post("/api/v1/templates", {**HAIKU, "name": "summary"}, status=409)


BAD = [
    ("name", None), ("name", ""), ("name", "a b"), ("name", "../x"), ("name", "x" * 65), ("name", 7),
    ("name", "\ud800"), ("type", "poem"), ("type", None), ("description", "x" * 1001), ("system_text", 7),
    ("system_text", None), ("user_text", ""), ("user_text", None), ("user_text", ["x"]), ("user_text", "x\0"),
    ("user_text", "x" * 100_001), ("variables", {}), ("variables", None), ("variables[0].name", [{}]),
    ("variables[0].name", [{"name": "a b"}]), ("variables[0].default", [{"name": "topic", "default": 7}]),
    ("variables[1].name", [{"name": "topic"}, {"name": "topic"}]),
    ("variables", [{"name": f"v{number}"} for number in range(33)]),
    ("variables[0].more", [{"name": "topic", "more": 1}]), ("user_text", "{{ undeclared }}"), ("model", ""),
    ("model", 7), ("parameters", []), ("parameters.temperature", {"temperature": 9}),
    ("parameters.temperature", {"temperature": "1"}), ("parameters.messages", {"messages": []}),
    ("parameters.max_tokens", {"max_tokens": -1}), ("unheard_of", 1),
]  # fmt: skip


@pytest.mark.parametrize("field, value", BAD)
def test_bad_input_names_its_field_and_writes_nothing(admin: Caller, field: str, value: Any) -> None:
    name = field.partition("[")[0].partition(".")[0]
    fault = admin.post("/api/v1/templates", {**HAIKU, name: value}, status=400).json["error"]
    assert fault["code"] == "invalid_request"
    if value != "\ud800":  # half a character is refused with the body, before there are fields
        assert field in [detail["field"] for detail in fault["details"]]
    if field.partition("[")[0] != "name":
        changed = put(admin, "summary", {name: value}, 400)["error"]
        assert field in [detail["field"] for detail in changed["details"]]
    assert len(admin.get("/api/v1/templates").json["data"]) == 6
    assert admin.get("/api/v1/templates/summary").json["version"] == 1


def test_an_empty_change_is_refused(admin: Caller) -> None:
    put(admin, "summary", {}, 400)


def test_changes_stand_in_the_audit_trail(admin: Caller) -> None:
    admin.post("/api/v1/templates", HAIKU, status=201)
    put(admin, "haiku", {"model": "demo"})
    delete(admin, "haiku")
    rows = [row for row in admin.get("/audit").json["data"] if row["target"] == "template:haiku"]
    assert [row["action"] for row in rows] == ["template.delete", "template.update", "template.create"]
    assert rows[1]["after"]["model"] == "demo"


def test_a_change_is_seen_by_another_process(make_app: MakeApp) -> None:
    """Two applications on one database, as two processes are."""
    first = make_app()
    url = first.config["SQLALCHEMY_DATABASE_URI"]
    second = make_app(DATABASE_URL=url)
    there = Caller.on(second)
    assert "haiku" not in str(there.get("/api/v1/templates").json)
    Caller(first.test_client(), access_token(first, "boss", admin=True)).post("/api/v1/templates", HAIKU, status=201)
    time.sleep(1)
    assert there.get("/api/v1/templates/haiku").json["version"] == 1


def test_of_two_who_change_a_template_at_once_none_undoes_the_other(app: Flask, admin: Caller) -> None:
    admin.post("/api/v1/templates", HAIKU, status=201)

    def change(number: int) -> int:
        body = {"description": str(number)} if number % 2 else {"system_text": str(number)}
        answer = app.test_client().put("/api/v1/templates/haiku", json=body, headers=admin.headers)
        return answer.status_code

    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(change, range(40)))
    assert set(statuses) <= {200, 409}
    rows = admin.get("/audit?action=template.update").json["data"][::-1]
    assert len(rows) == statuses.count(200)
    for row, following in pairwise(rows):
        assert row["after"] == following["before"]
