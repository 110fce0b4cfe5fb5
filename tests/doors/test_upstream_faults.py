"""What a provider does wrong, told by ``/llm/chat`` and the webhook (``docs/promises.md``, "Upstream faults")."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text
from werkzeug.test import TestResponse

from flaskllm.extensions import db
from tests.actors import Caller
from tests.conftest import MakeApp, provider_environment
from tests.doors.two_providers import read_events
from tests.upstream import Upstream, faults
from tests.upstream.server import CANARY_KEYS

ERROR, TIMEOUT, LIMITED, REFUSED = "provider_error", "provider_timeout", "rate_limited", "invalid_request"
NEVER_TOLD = ("fl_", "Traceback", "<html", "<!DOCTYPE", "Bearer", "127.0.0.1", *CANARY_KEYS.values())

BEFORE_ANYTHING: dict[str, tuple[faults.Behaviour, int, str]] = {
    "hangs": (faults.hang(), 504, TIMEOUT),
    "hangs after its headers": (faults.first_delay(30), 504, TIMEOUT),
    "drips its headers": (faults.drip_headers(), 504, TIMEOUT),
    "resets": (faults.reset(), 502, ERROR),
    "ends": (faults.eof(), 502, ERROR),
    "resets after its headers": (faults.reset_after(0), 502, ERROR),
    "page": (faults.html(), 502, ERROR),
    "page, 502": (faults.html(502), 502, ERROR),
    "dead tunnel": (faults.dead_tunnel(), 502, ERROR),
    "empty": (faults.empty_body(), 502, ERROR),
    "null": (faults.null_body(), 502, ERROR),
    "error in a 200": (faults.error_in_200(), 502, ERROR),
    "error with our key in a 200": (faults.error_in_200(401), 502, ERROR),
    "redirect": (faults.redirect(), 502, ERROR),
    "no framing at all": (faults.on_the_wire(b"SSH-2.0-OpenSSH_9.6\r\n"), 502, ERROR),
    "401": (faults.status(401), 502, ERROR),
    "402": (faults.status(402), 502, ERROR),
    "403": (faults.status(403), 502, ERROR),
    "404": (faults.status(404), 502, ERROR),
    "408": (faults.status(408), 504, TIMEOUT),
    "400": (faults.status(400), 400, REFUSED),
    "413": (faults.status(413), 400, REFUSED),
    "422": (faults.status(422), 400, REFUSED),
    "429": (faults.status(429, retry_after=7), 429, LIMITED),
    "out of quota": (faults.insufficient_quota(), 429, LIMITED),
    "500": (faults.status(500), 502, ERROR),
    "503": (faults.status(503, retry_after=1), 502, ERROR),
    "529": (faults.status(529), 502, ERROR),
    "400 with our key": (faults.echo_key(400), 400, REFUSED),
    "401 with our key": (faults.echo_key(401), 502, ERROR),
    "500 with our key": (faults.echo_key(500), 502, ERROR),
    "filter": (faults.raw({"error": {"code": "content_filter"}}, code=400), 400, "content_filtered"),
}
IN_A_BODY: dict[str, tuple[faults.Behaviour, int, str]] = {
    "drips": (faults.drip(), 504, TIMEOUT),
    "hangs in the body": (faults.hang_after(20), 504, TIMEOUT),
    "resets in the body": (faults.reset_after(), 502, ERROR),
    "ends in the body": (faults.eof_after(), 502, ERROR),
    "half a JSON": (faults.half_json(), 502, ERROR),
    "no JSON": (faults.not_json(), 502, ERROR),
    "no UTF-8": (faults.invalid_utf8(), 502, ERROR),
    "no choices": (faults.no_choices(), 502, ERROR),
    "21 MB": (faults.huge(21), 502, ERROR),
}
IN_A_STREAM: dict[str, tuple[faults.Behaviour, str]] = {
    "hangs": (faults.hang_after(3), TIMEOUT),
    "resets": (faults.reset_after(3), ERROR),
    "ends": (faults.eof_after(3), ERROR),
    "ends in order, without its mark": (faults.ends_early(3), ERROR),
    "half a line": (faults.half_line(3), ERROR),
    "half a JSON": (faults.half_json(), ERROR),
    "no JSON": (faults.not_json(), ERROR),
    "broken chunks": (faults.chunk_garbage(3), ERROR),
    "error frame": (faults.error_mid_stream(3), ERROR),
    "error frame with a 401": (faults.error_mid_stream(3, 401), ERROR),
}
PLAIN = BEFORE_ANYTHING | IN_A_BODY


@pytest.fixture
def app(make_app: MakeApp, upstream: Upstream, request: pytest.FixtureRequest) -> Flask:
    """A gateway that is impatient within a stream where the test waits for that, and nowhere else."""
    waits = request.node.callspec.params.get("code") == TIMEOUT
    return make_app(STREAM_IDLE_TIMEOUT="0.5" if waits else "30", **provider_environment(upstream, "openai"))


@pytest.fixture
def ann(app: Flask, request: pytest.FixtureRequest) -> Caller:
    """Somebody with a budget and a conversation of two messages, on a gateway that soon gives up from then on."""
    caller = Caller.on(app, budget={"amount": 10, "period": "day"})
    caller.post("/llm/chat", {"message": "hi", "conversation_id": "old"})
    if request.node.callspec.params.get("code") == TIMEOUT:
        app.config["REQUEST_TIMEOUT"] = 0.4
    return caller


def every(table: dict[str, Any], names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(names, table.values(), ids=table)


def check_refusal(response: TestResponse, code: str) -> None:
    """House envelope, its headers, and nothing that is nobody's business."""
    assert response.mimetype == "application/json"
    assert set(response.json) == {"status", "error"}
    check_error(response.json, response, code)
    assert response.headers["X-FlaskLLM-Error"] == code


def check_error(told: Any, response: TestResponse, code: str) -> None:
    assert told["status"] == "error"
    assert set(told["error"]) == {"code", "message", "details", "request_id"}
    assert (told["error"]["code"], told["error"]["request_id"]) == (code, response.headers["X-Request-Id"])
    assert told["error"]["message"]
    assert not any(never in response.get_data(as_text=True) for never in NEVER_TOLD)


def check_books(app: Flask, caller: Caller, *, conversations: int = 1) -> None:
    """Nothing is held any more, and the conversation is as it was."""
    with app.app_context(), db.engine.connect() as connection:
        held = connection.execute(
            text("SELECT (SELECT count(*) FROM attempts WHERE state = 'reserved'), sum(reserved) FROM budgets")
        ).one()
    assert tuple(held) == (0, 0)
    listed = caller.get("/llm/conversations").json["data"]
    assert [one["length"] for one in listed] == [2] * conversations


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/llm/chat"])
@pytest.mark.parametrize("code", [LIMITED])
def test_a_quota_that_no_waiting_heals_invites_nobody_to_try_again(
    app: Flask, ann: Caller, upstream: Upstream, path: str, stream: bool, code: str
) -> None:
    """A rate limit that passes says how long it takes, and may be tried again."""
    said = [{"role": "user", "content": "hi"}]
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"model": "gpt-4o", "messages": said},
        "/v1/messages": {"model": "gpt-4o", "messages": said, "max_tokens": 5},
        "/v1/responses": {"model": "gpt-4o", "input": "hi"},
        "/llm/chat": {"message": "hi"},
    }
    for fault, wait, should_retry in (
        (faults.status(429, retry_after=7), range(1, 8), None),
        (faults.insufficient_quota(), range(2, 3601), "false"),
    ):
        upstream.script(fault)
        told = ann.http.post(path, json={**bodies[path], "stream": stream}, headers=ann.headers)
        assert (told.status_code, told.headers["X-FlaskLLM-Error"]) == (429, code)
        assert int(told.headers["Retry-After"]) in wait
        assert told.headers.get("x-should-retry") == should_retry


@every(PLAIN, "fault, status, code")
def test_a_conversation_says_so_in_the_house_envelope(app, ann, upstream, fault, status, code):
    upstream.script(fault, vendor="openai")
    check_refusal(ann.post("/llm/chat", {"message": "hi", "conversation_id": "old"}, status=status), code)
    check_refusal(ann.post("/llm/chat", {"message": "hi", "conversation_id": "new"}, status=status), code)
    check_books(app, ann)


@every(BEFORE_ANYTHING, "fault, status, code")
def test_a_stream_that_cannot_begin_is_answered_like_a_plain_call(app, ann, upstream, fault, status, code):
    upstream.script(fault, vendor="openai")
    asked = {"message": "hi", "conversation_id": "old", "stream": True}
    check_refusal(ann.post("/llm/chat", asked, status=status), code)
    check_books(app, ann)


@every(IN_A_STREAM, "fault, code")
def test_a_stream_that_breaks_tells_its_text_and_one_error_and_ends(app, ann, upstream, fault, code):
    upstream.script(faults.text("one two three four") + fault, vendor="openai")
    asked = {"message": "hi", "conversation_id": "old", "stream": True}
    response = ann.post("/llm/chat", asked)
    *deltas, (last, told) = read_events(response.get_data())
    assert {name for name, _ in deltas} == {"delta"}
    assert "one two three four".startswith("".join(data["text"] for _, data in deltas).strip())
    assert last == "error"
    check_error(told, response, code)
    check_books(app, ann)


@every(PLAIN, "fault, status, code")
def test_the_webhook_knows_no_504(app, ann, upstream, fault, status, code):
    upstream.script(fault, vendor="openai")
    check_refusal(ann.post("/api/v1/webhook", {"prompt": "hi"}, status=502 if status == 504 else status), code)
    check_books(app, ann)


@pytest.mark.parametrize("kind, status, code", [("closed", 502, ERROR), ("silent", 504, TIMEOUT)])
def test_an_absent_provider_is_told_the_same_way(make_app, upstream, kind, status, code):
    environment = {"OPENAI_API_KEY": CANARY_KEYS["openai"], "OPENAI_BASE_URL": upstream.endpoint(kind)}
    app = make_app(REQUEST_TIMEOUT="0.5" if code == TIMEOUT else "5", **environment)
    caller = Caller.on(app, budget={"amount": 10, "period": "day"})
    for stream in (False, True):
        check_refusal(caller.post("/llm/chat", {"message": "hi", "stream": stream}, status=status), code)
    check_refusal(caller.post("/api/v1/webhook", {"prompt": "hi"}, status=502), code)
    check_books(app, caller, conversations=0)


@pytest.mark.parametrize("path, body", [("/llm/chat", {"message": "hi"}), ("/api/v1/webhook", {"prompt": "hi"})])
def test_a_providers_wait_is_passed_on(ann, upstream, path, body):
    upstream.script(faults.status(429, retry_after=7), vendor="openai")
    assert ann.post(path, body, status=429).headers["Retry-After"] == "7"


@pytest.mark.parametrize("path, body", [("/llm/chat", {"message": "hi"}), ("/api/v1/webhook", {"prompt": "hi"})])
@pytest.mark.parametrize("value", ["NaN", -5, 10**18, 2**53 - 1, "12", None])
def test_an_absurd_usage_is_an_answer_all_the_same(app, ann, upstream, path, body, value):
    upstream.script(faults.usage_values(value), vendor="openai")
    told = ann.post(path, body).json
    usage = told.get("data", told)["usage"]
    assert 0 < usage["total_tokens"] < 1000


@pytest.mark.parametrize(
    "fault, time, code",
    [(faults.first_delay(30), "1.5", TIMEOUT), (faults.delay(0.4) + faults.status(500), "30", ERROR)],
)
@pytest.mark.alone
def test_a_failure_after_the_first_ping_is_an_event(make_app, upstream, fault, time, code):
    environment = {"REQUEST_TIMEOUT": time, "STREAM_PING_AFTER": "0.2", "STREAM_PING_EVERY": "0.1"}
    app = make_app(**environment, **provider_environment(upstream, "openai"))
    caller = Caller.on(app, budget={"amount": 10, "period": "day"})
    upstream.script(fault, vendor="openai")
    response = caller.post("/llm/chat", {"message": "hi", "stream": True})
    assert response.get_data().startswith(b": ping\n\n")
    [(name, told)] = read_events(response.get_data())
    assert name == "error"
    check_error(told, response, code)
    check_books(app, caller, conversations=0)


MEDIA: dict[str, tuple[str, dict[str, Any]]] = {
    "embeddings": ("/v1/embeddings", {"model": "azure_openai/text-embedding-ada-002", "input": ["hi", "there"]}),
    "images": ("/v1/images/generations", {"model": "azure_openai/dall-e-2", "prompt": "hi", "n": 2}),
}
"""By door: its path, and what is asked of it."""
SHOWS_NO_MEDIA = ("no UTF-8", "no choices", "21 MB")
"""Faults in words and choices, which vectors and pictures do not have."""


@pytest.mark.parametrize("path, body", MEDIA.values(), ids=MEDIA)
@every({name: told for name, told in PLAIN.items() if name not in SHOWS_NO_MEDIA}, "fault, status, code")
def test_vectors_and_pictures_are_told_in_openais_words(make_app, upstream, path, body, fault, status, code):
    patience = "1.5" if code == TIMEOUT else "30"
    app = make_app(REQUEST_TIMEOUT=patience, **provider_environment(upstream, "azure_openai"))
    caller = Caller.on(app, budget={"amount": 10, "period": "day"})
    upstream.script(fault)
    response = caller.post(path, body, status=status)
    assert set(response.json) == {"error"}
    assert set(response.json["error"]) == {"message", "type", "param", "code"}
    assert response.json["error"]["code"] == response.headers["X-FlaskLLM-Error"] == code
    assert not any(never in response.get_data(as_text=True) for never in NEVER_TOLD)
    upstream.wait_idle()
    with app.app_context(), db.engine.connect() as connection:
        attempts = connection.execute(text("SELECT state, cost, reserved FROM attempts")).all()
        budgets = connection.execute(text("SELECT spent, reserved FROM budgets")).all()
    settled = [one for one in attempts if one.state == "settled"]
    # Fewer than have a row arrive where the machine was so busy that the time was up before.
    assert len(settled) <= len(upstream.bill) <= len(attempts), "each call to the provider has a row"
    assert {(state, cost) for state, cost, reserved in attempts} <= {("released", 0), ("settled", attempts[0].reserved)}
    assert [tuple(one) for one in budgets] == [(sum(one.cost for one in attempts), 0)]
