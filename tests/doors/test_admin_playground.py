"""The playground's doors: whole answers without scripts, streamed ones for the page's own, and the chat as code."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest
from werkzeug.test import TestResponse

from flaskllm.domain.audit import SYSTEM
from flaskllm.extensions import db
from flaskllm.models.ledger import CallRow
from flaskllm.wire.quotas import read_quota
from tests.conftest import MakeApp, provider_environment
from tests.doors.test_admin_people import PAYLOADS
from tests.doors.visitor import Visitor, words
from tests.upstream import Upstream, faults

HELLO = [{"role": "user", "content": "Hello"}]
STREAMED = {"messages": HELLO, "model": "gpt-4o", "stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture
def root(make_app: MakeApp, upstream: Upstream) -> Visitor:
    return Visitor.admin(make_app(**provider_environment(upstream, "openai", "llama")))


def ask(visitor: Visitor, path: str = "", **form: Any) -> TestResponse:
    return visitor.post(f"/admin/playground{path}", {"model": "gpt-4o", "second": "none", "message": "Hello", **form})


def stream(visitor: Visitor, body: Any, **headers: str) -> TestResponse:
    """Read to its end."""
    carried = {"X-CSRF-Token": visitor.token(), **headers}
    return visitor.http.post("/admin/playground/stream", json=body, headers=carried, buffered=True)


def events(answer: TestResponse) -> list[Any]:
    found = re.findall(r"^data: (.*)$", answer.text, re.MULTILINE)
    assert found[-1] == "[DONE]"
    return [json.loads(one) for one in found[:-1]]


def a_model_of(visitor: Visitor, provider: str) -> str:
    """The name of one that the page offers."""
    offered = visitor.services.router.visible(visitor.services.accounts.identify_page(visitor.cookie or ""))
    return next(entry.name for entry in offered if entry.provider.id == provider)


def history(page: TestResponse, place: int) -> Any:
    found = re.search(rf'name="history\.{place}" value="([^"]*)"', page.text)
    assert found is not None
    return json.loads(html.unescape(found[1]))


# -- without scripts --------------------------------------------------------------------------------------------------


def test_a_chat_goes_on_from_one_form_to_the_next(root: Visitor, upstream: Upstream) -> None:
    upstream.script(faults.text("Good day."), times=1)
    first = ask(root, system="Be brief.", temperature="0.3", max_tokens="50")
    assert "Good day." in words(first)
    assert re.search(r"openai/gpt-4o · \d+\.\d\d s in all · \d+ tokens in, \d+ out · \$0\.0\d+", words(first))
    asked = upstream.requests[-1].body
    assert (asked["temperature"], asked["messages"][0]) == (0.3, {"role": "system", "content": "Be brief."})
    said = history(first, 0)
    assert said == [*HELLO, {"role": "assistant", "content": "Good day."}]
    ask(root, message="And you?", **{"history.0": json.dumps(said)})
    assert upstream.requests[-1].body["messages"] == [*said, {"role": "user", "content": "And you?"}]


def test_two_models_answer_side_by_side_each_with_its_own_chat(root: Visitor, upstream: Upstream) -> None:
    upstream.script(faults.text("I am the first."), vendor="openai")
    upstream.script(faults.text("I am the second."), vendor="llama")
    page = ask(root, second=a_model_of(root, "llama"))
    assert [history(page, place)[-1]["content"] for place in (0, 1)] == ["I am the first.", "I am the second."]
    assert words(page).count("s in all") == 2
    assert not re.search(r'id="pane-1"[^>]* hidden', page.text)


def test_one_that_fails_is_told_in_its_column_and_the_question_is_kept(root: Visitor, upstream: Upstream) -> None:
    upstream.script(faults.status(500), vendor="openai")
    page = ask(root, second=a_model_of(root, "llama"), message="kept words")
    assert page.status_code == 200
    assert 'class="fault"' in page.text
    assert "kept words</textarea>" in page.text
    assert (history(page, 0), len(history(page, 1))) == ([], 2)


@pytest.mark.parametrize(
    "field, value, at",
    [("temperature", "hot", "temperature"), ("temperature", "3", "temperature"), ("max_tokens", "0", "max_tokens")],
)
def test_a_parameter_that_cannot_be_is_told_at_its_field(
    root: Visitor, upstream: Upstream, field: str, value: str, at: str
) -> None:
    for path in ("", "/code"):
        refused = ask(root, path, **{field: value, "message": "kept words"})
        assert refused.status_code == 400
        assert re.search(rf'id="f-{at}"[^>]*aria-invalid="true"', refused.text), words(refused)
        assert "kept words</textarea>" in refused.text
    assert upstream.requests == []


@pytest.mark.parametrize(
    "value",
    [
        "x",
        "{}",
        '["x"]',
        '[{"role": "user"}]',
        '[{"role": "system", "content": "x"}]',
        '[{"role": "user", "content": "\\ud800"}]',
    ],
)
def test_a_history_that_is_none_is_refused(root: Visitor, upstream: Upstream, value: str) -> None:
    assert ask(root, **{"history.0": value}).status_code == 400
    assert upstream.requests == []


# -- streamed ---------------------------------------------------------------------------------------------------------


def test_the_page_s_own_door_streams_with_usage_and_cost_and_is_kept_by_nobody(
    root: Visitor, upstream: Upstream
) -> None:
    upstream.script(faults.text("one two three"))
    answer = stream(root, STREAMED)
    assert (answer.status_code, answer.mimetype) == (200, "text/event-stream")
    assert (answer.headers["Cache-Control"], answer.headers["X-Accel-Buffering"]) == ("no-store", "no")
    frames = events(answer)
    said = "".join(choice["delta"].get("content") or "" for frame in frames for choice in frame["choices"])
    assert said == "one two three"
    assert frames[-1]["usage"]["cost"] > 0
    with root.app.app_context():
        row = db.session.query(CallRow).one()
        assert (row.door, row.token_id, row.status) == ("playground", None, 200)


def test_refusals_are_json_in_the_gateways_words(root: Visitor, upstream: Upstream) -> None:
    for body, status in (
        ({**STREAMED, "model": "gpt-none"}, 404),
        ({**STREAMED, "temperature": "hot"}, 400),
        ([], 400),
    ):
        refused = stream(root, body)
        assert (refused.status_code, refused.headers["Cache-Control"]) == (status, "no-store")
        assert refused.json["error"]["message"]
    upstream.script(faults.status(500))
    assert stream(root, STREAMED).status_code == 502
    me = root.services.accounts.find_user("root")
    root.services.accounts.change_user(me.id, {"budget": {"amount": 1e-06, "period": "day"}})
    spent = stream(root, STREAMED)
    assert (spent.status_code, spent.json["error"]["code"]) == (429, "budget_exceeded")


def test_an_administrators_own_limits_hold(root: Visitor, upstream: Upstream) -> None:
    me = root.services.accounts.find_user("root")
    root.services.quotas.put(f"user:{me.id}", read_quota({"requests_per_minute": 2}), SYSTEM)
    asked = [stream(root, STREAMED).status_code, ask(root).status_code, stream(root, STREAMED).status_code]
    assert (asked, len(upstream.requests)) == ([200, 200, 429], 2)


def test_an_error_in_mid_stream_is_a_frame(root: Visitor, upstream: Upstream) -> None:
    upstream.script(faults.text("one two three four five") + faults.error_mid_stream(4))
    frames = events(stream(root, STREAMED))
    assert frames[-1]["error"]["message"]


def test_the_cookie_alone_opens_neither_this_door_nor_the_api(root: Visitor, upstream: Upstream) -> None:
    assert root.http.post("/admin/playground/stream", json=STREAMED).status_code == 403
    assert stream(root, STREAMED, Origin="https://evil.example").status_code == 403
    assert root.http.post("/v1/chat/completions", json=STREAMED).status_code == 401
    gone = root.app.test_client().post("/admin/playground/stream", json=STREAMED, headers={"HX-Request": "true"})
    assert gone.status_code == 401
    assert upstream.requests == []


def test_a_long_chat_is_taken_and_an_endless_one_refused(root: Visitor) -> None:
    long = {**STREAMED, "messages": [{"role": "user", "content": "x" * 1_000_000}]}
    assert stream(root, long).status_code != 413
    assert stream(root, {**STREAMED, "messages": [{"role": "user", "content": "x" * 3_000_000}]}).status_code == 413


# -- as code ----------------------------------------------------------------------------------------------------------


def test_the_chat_is_shown_as_code_with_a_placeholder_for_the_token(root: Visitor, upstream: Upstream) -> None:
    said = [{"role": "user", "content": "First"}, {"role": "assistant", "content": "Yes."}]
    page = ask(root, "/code", system="Be brief.", message="Then?", temperature="0.5", **{"history.0": json.dumps(said)})
    found = {
        name: html.unescape(text)
        for name, text in re.findall(r'<pre id="s-(\w+)"[^>]*>(.*?)</pre>', page.text, re.DOTALL)
    }
    assert set(found) == {"curl", "python", "javascript"}
    for code in found.values():
        for part in ("YOUR_TOKEN", "http://localhost/v1", "gpt-4o", "Be brief.", "First", "Yes.", "Then?", "0.5"):
            assert part in code, part
    assert "fl_" not in "".join(found.values())
    assert "Then?</textarea>" in page.text
    assert upstream.requests == []
    assert "Hello" in words(ask(root, "/code", message=""))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_is_asked_and_answered_is_shown_as_it_is_and_never_as_markup(
    root: Visitor, upstream: Upstream, payload: str
) -> None:
    upstream.script(faults.text(payload))
    asked = ask(root, message=payload, system=payload, second=payload)
    code = ask(root, "/code", message=payload, system=payload, model="demo")
    for page in (asked, code):
        assert not re.search(r"<script>|<img|<svg|onerror=alert\(1\)>", page.text)
        assert "49${alert(1)}" not in page.text
        assert " ".join(payload.split()) in words(page)
    assert history(asked, 0)[-1]["content"] == payload
