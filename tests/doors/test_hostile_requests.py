"""What clients send that no client should: broken frames, odd methods, unknown parameters, numbers out of range."""

from __future__ import annotations

import io
import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flaskllm.blueprints import DOORS
from tests.actors import AN_ID, Caller
from tests.doors.accounts_world import Person
from tests.test_doors import routes

ASKED = b'{"messages": [{"role": "user", "content": "hello"}]}'


class ChunkError(Exception):
    """As gunicorn's: no `OSError`, and known to nobody but the server."""


class BrokenChunks(io.RawIOBase):
    def readinto(self, _buffer: object) -> int:
        raise ChunkError

    def tell(self) -> int:  # werkzeug's client asks
        return 0

    def seek(self, *_where: int) -> int:
        return 0


def test_a_broken_chunk_is_the_callers_fault(caller: Caller) -> None:
    answer = caller.http.post(
        "/v1/chat/completions",
        input_stream=BrokenChunks(),
        headers={**caller.headers, "Content-Type": "application/json", "Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "invalid_request")


def test_a_body_that_ends_early_is_refused(caller: Caller) -> None:
    answer = caller.http.post(
        "/v1/chat/completions",
        input_stream=io.BytesIO(ASKED),
        headers={**caller.headers, "Content-Type": "application/json"},
        environ_overrides={"wsgi.input_terminated": True, "CONTENT_LENGTH": str(len(ASKED) + 100)},
    )
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("name", ["temperature", "top_p", "frequency_penalty", "presence_penalty"])
def test_a_whole_number_beyond_every_float_is_named(caller: Caller, name: str) -> None:
    error = caller.chat(status=400, **{name: 10**400}).json["error"]
    assert name in error["message"]


@pytest.mark.parametrize(
    "query", ["to=9999-12-31", "from=9999-12-31T23:59:59-14:00", "from=0001-01-01T00:00:00%2B14:00", "to=99991231"]
)
def test_a_span_that_leads_out_of_the_calendar_is_named(app: Flask, query: str) -> None:
    answer = Person(app).call("GET", f"/api/usage?{query}")
    assert (answer.status_code, answer.json["error"]["details"][0]["field"]) == (400, query[: query.index("=")])


@pytest.mark.parametrize("day", ["2026-11-21", "20261121", "2026-W47-6"])
def test_a_day_is_taken_to_its_end_however_it_is_written(app: Flask, day: str) -> None:
    answer = Person(app).call("GET", f"/api/usage?to={day}")
    assert answer.json["data"]["to"] == "2026-11-22T00:00:00Z"


def test_every_door_outside_v1_names_a_parameter_it_does_not_know(app: Flask) -> None:
    person = Person(app, admin=True)
    for method, rule in routes(app):
        if rule.endpoint != "static" and not rule.rule.startswith(("/v1/", "/openai/")):
            path = re.sub(r"<[^>]+>", AN_ID, rule.rule)
            answer = person.call(method, f"{path}?nonsense=1", {} if method in ("POST", "PATCH", "PUT") else None)
            assert (rule.rule, answer.status_code) == (rule.rule, 400)
            assert answer.json["error"]["details"] == [{"field": "nonsense", "message": "is not a known parameter"}]


def test_the_table_of_doors_names_no_view_that_is_not_there(app: Flask) -> None:
    views = {rule.endpoint for rule in app.url_map.iter_rules()}
    assert {f"{door.blueprint.name}.{view}" for door in DOORS for view in (*door.rules, *(door.asks or ()))} <= views


@pytest.mark.parametrize("path", ["/", "/v1/models", "/nowhere"])
@pytest.mark.parametrize("method", ["TRACE", "TRACK", "CONNECT"])
def test_a_method_that_echoes_or_tunnels_is_taken_nowhere(client: FlaskClient, method: str, path: str) -> None:
    answer = client.open(path, method=method)
    assert answer.status_code == 405
    assert ("GET" in answer.headers["Allow"]) is (path == "/v1/models")


@pytest.mark.parametrize("path", ["/v1//models", "/api//tokens", "/llm//conversations", "/api/v1//templates"])
def test_a_doubled_slash_sends_nobody_to_another_host(client: FlaskClient, path: str) -> None:
    answer = client.get(path, headers={"Host": "evil.example"})
    assert (answer.status_code, answer.mimetype) == (404, "application/json")
    assert b"evil" not in answer.data


def test_no_rule_of_ours_makes_werkzeug_redirect(app: Flask) -> None:
    """Its redirects are pages of HTML that name the host which the caller wrote: to a rule that ends with a slash."""
    assert not app.url_map.merge_slashes
    rules = {rule.rule for rule in app.url_map.iter_rules()}
    assert not [rule for rule in rules if rule.endswith("/") and rule.rstrip("/") not in rules]


@pytest.mark.parametrize("value", [[], {}, [None], {"type": "x"}, 1, None, True])
@pytest.mark.parametrize("field", ["role", "content", "part"])
def test_a_value_of_any_type_is_told_by_its_place(caller: Caller, field: str, value: object) -> None:
    part = {"type": value, "text": "x"}
    message = {"role": "user", "content": [part]} if field == "part" else {"role": "user", "content": "x", field: value}
    answer = caller.post("/v1/chat/completions", {"messages": [message]}, status=400)
    assert answer.json["error"]["param"].startswith("messages[0]")


@pytest.mark.parametrize(
    "name, value",
    [
        ("model", ""),
        ("model", "demo\x00"),
        ("stream_options", {"include_usage": "yes"}),
        ("metadata", {"a": "\x00"}),
        ("metadata", {"a\x00": "b"}),
        ("tools", [{"type": "function", "function": {"name": "f"}}] * 1001),
        ("messages", [{"role": "user", "content": "x"}] * 100_001),
    ],
)
def test_a_value_out_of_bounds_is_named(caller: Caller, name: str, value: object) -> None:
    answer = caller.post(
        "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], name: value}, status=400
    )
    assert answer.json["error"]["param"] == name


def test_a_body_of_endless_fields_is_refused(caller: Caller) -> None:
    caller.chat(status=400, **{f"k{number}": 0 for number in range(1001)})


def test_the_demo_model_does_not_say_a_long_text_many_times(caller: Caller) -> None:
    assert caller.chat("x" * 10_000_000, status=400, n=128).json["error"]["param"] == "n"
