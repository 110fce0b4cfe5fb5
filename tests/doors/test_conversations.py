"""``/llm/*`` over HTTP."""

from __future__ import annotations

import json
import re
from typing import Any
from uuid import UUID

import pytest
from flask import Flask

from tests.actors import Caller
from tests.conftest import MakeApp, provider_environment
from tests.upstream import Upstream, faults

MADE_UP = "11111111-1111-4111-8111-111111111111"


pytestmark = pytest.mark.usefixtures("drained")


@pytest.fixture
def app(make_app: MakeApp, upstream: Upstream) -> Flask:
    return make_app(**provider_environment(upstream, "openai"))


@pytest.fixture
def ann(app: Flask) -> Caller:
    return Caller.on(app, scopes=["chat"])


@pytest.fixture
def bob(app: Flask) -> Caller:
    """Somebody else: a token of another user."""
    return other_user(app, "bob")


def other_user(app: Flask, name: str) -> Caller:
    http = app.test_client()
    account = {"username": name, "email": f"{name}@example.com", "password": "Password123"}
    assert http.post("/api/auth/register", json=account).status_code == 201
    data = http.post("/api/auth/login", json={"username": name, "password": "Password123"}).json["data"]
    return Caller(http, data["access_token"])


def say(caller: Caller, message: str = "Hello", **body: Any) -> dict[str, Any]:
    return caller.post("/llm/chat", {"message": message, **body}).json["data"]


def read_events(raw: bytes) -> list[tuple[str, Any]]:
    found = re.findall(r"event: (\w+)\ndata: (.*)\n\n", raw.decode())
    return [(name, json.loads(data)) for name, data in found]


def test_the_answer_is_the_seeds_and_more(ann, upstream):
    upstream.script(faults.text("I'm doing well, thank you!"))
    response = ann.post("/llm/chat", {"message": "Hello, how are you?"})
    assert response.json["status"] == "success"
    data = response.json["data"]
    assert list(data) == ["text", "conversation_id", "model", "tokens_used", "provider", "usage", "cost"]
    assert data["text"] == "I'm doing well, thank you!"
    assert data["tokens_used"] == data["usage"]["total_tokens"]
    assert str(UUID(data["conversation_id"])) == data["conversation_id"]
    assert response.headers["X-FlaskLLM-Provider"] == data["provider"] == "openai"


def test_a_conversation_goes_on(ann, upstream):
    name = say(ann, "I am Ann.")["conversation_id"]
    say(ann, "Who am I?", conversation_id=name)
    assert len(upstream.requests[-1].body["messages"]) == 3
    history = ann.get(f"/llm/get-conversation-history?conversation_id={name}").json["data"]
    assert history["conversation_id"] == name
    assert [set(message) for message in history["messages"]] == [{"role", "content"}] * 4


@pytest.mark.parametrize(
    "text", ["\u202e\u2066abc", "\x1b[2J\x1b]0;x\x07", "\uffff\ufffe", "\U0010ffff", "a\u0300", "العربية 中文"]
)
def test_every_text_comes_back_as_it_was_sent(ann, text):
    name = say(ann, text)["conversation_id"]
    messages = ann.get(f"/llm/get-conversation-history?conversation_id={name}").json["data"]["messages"]
    assert messages[0]["content"] == text


def test_a_made_up_uuid_begins_nothing(ann, upstream):
    error = ann.post("/llm/chat", {"message": "hi", "conversation_id": MADE_UP}, status=404).json["error"]
    assert error["code"] == "not_found"
    assert upstream.requests == []
    assert ann.get("/llm/conversations").json["data"] == []


def without_id(response: Any) -> Any:
    body = response.json
    body["error"].pop("request_id")
    return body


@pytest.mark.parametrize(
    "method, path, body",
    [
        ("GET", "/llm/conversations/{id}", None),
        ("PATCH", "/llm/conversations/{id}", {"title": "mine"}),
        ("DELETE", "/llm/conversations/{id}", None),
        ("GET", "/llm/get-conversation-history?conversation_id={id}", None),
        ("POST", "/llm/chat", {"message": "hi", "conversation_id": "{id}"}),
    ],
)
def test_somebody_elses_is_the_same_404_as_none(ann, bob, method, path, body):
    theirs = say(bob)["conversation_id"]

    def call(name: str) -> Any:
        filled = json.loads(json.dumps(body).replace("{id}", name))
        return ann.http.open(path.replace("{id}", name), method=method, json=filled, headers=ann.headers)

    other, none = call(theirs), call(MADE_UP)
    assert other.status_code == none.status_code == 404
    assert without_id(other) == without_id(none)
    assert len(bob.get(f"/llm/conversations/{theirs}").json["data"]["messages"]) == 2


@pytest.mark.parametrize(
    "name", ["*", "conv:*", "..%2F" + MADE_UP, MADE_UP + "%00", "a,b", "-1", "1 OR 1=1", "null", "x" * 65]
)
def test_odd_ids_are_404(ann, name):
    say(ann)
    assert ann.get(f"/llm/conversations/{name}", status=404).json["error"]["code"] == "not_found"


def test_a_history_without_an_id_names_it(ann):
    error = ann.get("/llm/get-conversation-history", status=400).json["error"]
    assert error["details"][0]["field"] == "conversation_id"


def test_the_list_is_newest_first_and_paged(ann):
    for number in range(5):
        say(ann, f"message {number}", conversation_id=f"c{number}")
    first = ann.get("/llm/conversations?limit=2").json
    second = ann.get(f"/llm/conversations?limit=2&after={first['next']}").json
    third = ann.get(f"/llm/conversations?limit=2&after={second['next']}").json
    found = [one["id"] for page in (first, second, third) for one in page["data"]]
    assert found == ["c4", "c3", "c2", "c1", "c0"]
    assert third["next"] is None


def test_the_list_is_searched_by_title(ann):
    say(ann, "100% sure", conversation_id="a")
    say(ann, "nothing", conversation_id="b")
    assert [one["id"] for one in ann.get("/llm/conversations?search=%25").json["data"]] == ["a"]
    assert ann.get("/llm/conversations?search=" + "_" * 100).json["data"] == []


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=1_0", "limit=x", "after=x", "colour=red", "search=%00", "search=" + "x" * 201],
)
def test_a_bad_query_is_refused_by_name(ann, query):
    error = ann.get(f"/llm/conversations?{query}", status=400).json["error"]
    assert error["details"][0]["field"] == query.partition("=")[0]


def test_a_title_is_the_beginning_of_the_first_message_unless_renamed(ann):
    name = say(ann, "x" * 100)["conversation_id"]
    assert ann.get(f"/llm/conversations/{name}").json["data"]["title"] == "x" * 80
    path = f"/llm/conversations/{name}"
    renamed = ann.http.patch(path, json={"title": "Greetings"}, headers=ann.headers)
    assert (renamed.status_code, renamed.json["data"]["title"]) == (200, "Greetings")
    say(ann, "more", conversation_id=name)
    assert ann.get(path).json["data"]["title"] == "Greetings"


def test_what_is_deleted_is_gone(ann):
    say(ann, conversation_id="a")
    assert ann.http.delete("/llm/conversations/a", headers=ann.headers).status_code == 204
    ann.get("/llm/conversations/a", status=404)
    assert ann.http.delete("/llm/conversations/a", headers=ann.headers).status_code == 404


@pytest.mark.parametrize(
    "body, field",
    [
        ({}, "message"),
        ({"message": ""}, "message"),
        ({"message": 1}, "message"),
        ({"message": "hi", "more": 1}, "more"),
    ],
)
def test_what_is_wrong_is_named(ann, upstream, body, field):
    error = ann.post("/llm/chat", body, status=400).json["error"]
    assert field in [detail["field"] for detail in error["details"]]
    assert upstream.requests == []


def test_a_stream_is_events_that_end_with_the_whole(ann, upstream):
    upstream.script(faults.text("one two three"))
    response = ann.post("/llm/chat", {"message": "hi", "stream": True})
    assert response.mimetype == "text/event-stream"
    *deltas, (last, data) = read_events(response.get_data())
    assert [name for name, _ in deltas] == ["delta"] * len(deltas)
    assert "".join(data["text"] for _, data in deltas) == "one two three" == data["text"]
    assert last == "done"
    assert set(data) == {"text", "conversation_id", "model", "tokens_used", "provider", "usage", "cost"}
    assert len(ann.get(f"/llm/conversations/{data['conversation_id']}").json["data"]["messages"]) == 2


def test_a_stream_that_breaks_off_ends_with_an_error(ann, upstream):
    upstream.script(faults.text("one two three four") + faults.reset_after(3))
    events = read_events(ann.post("/llm/chat", {"message": "hi", "stream": True, "conversation_id": "a"}).get_data())
    name, data = events[-1]
    assert (name, data["error"]["code"]) == ("error", "provider_error")
    ann.get("/llm/conversations/a", status=404)


def test_a_stream_that_cannot_begin_keeps_its_status(ann, upstream):
    upstream.script(faults.status(500))
    ann.post("/llm/chat", {"message": "hi", "stream": True}, status=502)


def test_a_hang_up_stores_what_was_said(ann, upstream):
    upstream.script(faults.text("one two three four five six seven eight") + faults.pace(50))
    response = ann.http.post(
        "/llm/chat", json={"message": "hi", "stream": True, "conversation_id": "a"}, headers=ann.headers, buffered=False
    )
    next(response.response)
    response.close()
    *_, last = ann.get("/llm/conversations/a").json["data"]["messages"]
    assert last["interrupted"] is True
    assert "one two three four five six seven eight".startswith(last["content"].strip())


def test_with_redis_away_it_is_a_503_and_nothing_is_spent(make_app, upstream):
    app = make_app(**provider_environment(upstream, "openai"), REDIS_URL="redis://127.0.0.1:9/0")
    caller = Caller.on(app)
    response = caller.post("/llm/chat", {"message": "hi"}, status=503)
    assert response.json["error"]["code"] == "unavailable"
    assert int(response.headers["Retry-After"]) >= 1
    caller.get("/llm/conversations", status=503)
    assert upstream.requests == []
