"""``/v1/responses`` over HTTP: who may read what, what is stored, how threads go on, and what breaks."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from jsonschema import Draft202012Validator
from sqlalchemy import select, text

from flaskllm.domain.response import unseal
from flaskllm.extensions import db
from flaskllm.models.response import ResponseRow
from flaskllm.services import responses as service
from flaskllm.wire import response_answers as answers
from flaskllm.wiring import prepare_database
from tests.actors import Caller, access_token, calls_of
from tests.conftest import MakeApp, provider_environment
from tests.databases import MISSING, database_of_its_own
from tests.doors.two_providers import two_providers
from tests.upstream import Upstream, faults

PATH = "/v1/responses"
NOBODYS = f"resp_{'0' * 32}"
TOOL = {
    "type": "function",
    "name": "clock",
    "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]},
}
CLAUDE, GEMINI, GPT = "claude-haiku-4-5", "gemini/gemini-3-flash-preview", "openai/gpt-4o"


pytestmark = pytest.mark.usefixtures("drained")


@pytest.fixture(params=["sqlite", "postgresql"])
def on_each(request: pytest.FixtureRequest, make_app: MakeApp) -> Flask:
    """A gateway on this database."""
    if request.param == "sqlite":
        return make_app()
    address = database_of_its_own()
    if address is None:
        pytest.skip(MISSING)
    app = make_app(DATABASE_URL=address)
    prepare_database(app)
    return app


def ask(caller: Caller, given: Any = "hello", *, status: int = 200, **body: Any) -> Any:
    return caller.post(PATH, {"input": given, **body}, status=status).json


def events(caller: Caller, given: Any = "hello", **body: Any) -> list[Any]:
    response = caller.post(PATH, {"input": given, "stream": True, **body})
    assert response.mimetype == "text/event-stream"
    found = []
    for block in response.get_data(as_text=True).split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            name, data = lines
            found.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {found[-1]['type']}"
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def rows(app: Flask, query: str) -> list[Any]:
    with app.app_context(), db.engine.begin() as connection:
        done = connection.execute(text(query))
        return [tuple(row) for row in done] if done.returns_rows else []


def stored(app: Flask) -> int:
    return int(rows(app, "SELECT count(*) FROM responses")[0][0])


def sent(upstream: Upstream) -> list[Any]:
    return list(upstream.requests[-1].body["messages"])


def valid(form: dict[str, Any], document: Any) -> None:
    Draft202012Validator(form).validate(document)


# -- stored responses, on each database --------------------------------------------------------------------------------


def test_what_was_answered_is_read_again_to_the_byte(on_each: Flask) -> None:
    caller = Caller.on(on_each)
    told = "a\u2028b 😀 \x7f"
    answer = caller.post(PATH, {"input": told, "metadata": {"k": "v"}, "tools": [TOOL], "temperature": 0.5})
    again = caller.get(f"{PATH}/{answer.json['id']}")
    assert again.get_data() == answer.get_data()
    valid(answers.RESPONSE, again.json)
    assert told in again.json["output"][0]["content"][0]["text"]


def test_somebody_elses_is_the_same_as_none_to_the_byte(on_each: Flask) -> None:
    mine, other = Caller.on(on_each), Caller(on_each.test_client(), access_token(on_each, "other"))
    answer_id = ask(mine)["id"]
    gone_id = ask(other)["id"]
    other.http.delete(f"{PATH}/{gone_id}", headers=other.headers)
    wrong = [NOBODYS, gone_id, "nothing", "resp_x", "x" * 3000, "%F0%9F%92%A9", "'--", answer_id.upper()]
    for method, tail in (("GET", ""), ("DELETE", ""), ("GET", "/input_items")):
        found = {
            (response.status_code, response.get_data())
            for name in (answer_id, *wrong)
            if (response := other.http.open(f"{PATH}/{name}{tail}", method=method, headers=other.headers))
        }
        assert len(found) == 1, found
        assert found.pop()[0] == 404
    refused = {json.dumps(ask(other, status=404, previous_response_id=name)) for name in (answer_id, NOBODYS, "x")}
    assert len(refused) == 1
    assert json.loads(refused.pop())["error"]["param"] == "previous_response_id"
    mine.get(f"{PATH}/{answer_id}")
    reference = [{"type": "item_reference", "id": f"msg_{answer_id[5:]}_0"}]
    assert ask(other, reference, status=400)["error"]["param"] == "input[0].id"


def test_a_thread_is_told_whole_and_in_order(on_each: Flask) -> None:
    caller = Caller.on(on_each)
    last = ask(caller, "0")
    for number in range(1, 12):
        last = ask(caller, str(number), previous_response_id=last["id"])
    # the demo model counts a token a word: 12 questions of 1, 11 answers of 2
    assert last["usage"]["input_tokens"] == 34


def test_a_thread_whose_middle_is_gone_goes_on_no_more(on_each: Flask) -> None:
    caller = Caller.on(on_each)
    first = ask(caller)
    second = ask(caller, previous_response_id=first["id"])
    deleted = caller.http.delete(f"{PATH}/{first['id']}", headers=caller.headers).json
    assert deleted == {"id": first["id"], "object": "response", "deleted": True}
    caller.get(f"{PATH}/{second['id']}")
    assert ask(caller, status=404, previous_response_id=second["id"])["error"]["code"] == "not_found"


def test_after_its_days_a_response_is_gone_and_then_swept(on_each: Flask) -> None:
    caller, keeper = Caller.on(on_each), on_each.extensions["flaskllm"].responses
    old, new = ask(caller), ask(caller)
    with on_each.app_context():
        row = db.session.scalars(select(ResponseRow)).first()
    assert row is not None
    assert (row.expires_at - row.created_at).days == 30
    rows(on_each, f"UPDATE responses SET expires_at = '2020-01-01 00:00:00' WHERE id = '{old['id']}'")
    caller.get(f"{PATH}/{old['id']}", status=404)
    ask(caller, status=404, previous_response_id=old["id"])
    assert keeper.sweep() == 1
    assert stored(on_each) == 1
    caller.get(f"{PATH}/{new['id']}")


def test_the_bounds_of_a_thread(on_each: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    caller = Caller.on(on_each)
    last = ask(caller, "one")
    for given in ("two", "three", "four"):
        last = ask(caller, given, previous_response_id=last["id"])
    for bound, value in (("MOST_DEPTH", 2), ("MOST_SIZE", 800)):
        with monkeypatch.context() as patch:
            patch.setattr(service, bound, value)
            error = ask(caller, "five", status=400, previous_response_id=last["id"])["error"]
            assert (error["code"], error["param"]) == ("context_length_exceeded", "previous_response_id")
            cut = ask(caller, "five", previous_response_id=last["id"], truncation="auto")
            assert 1 + 2 < cut["usage"]["input_tokens"] < 1 + 4 * 3
            again = ask(caller, "six", previous_response_id=cut["id"], truncation="auto")
            assert again["status"] == "completed"


# -- what is stored ----------------------------------------------------------------------------------------------------


def keep_house(app: Flask) -> None:
    """Do every chore now, whenever its thread did it last."""
    housekeeper = app.extensions["flaskllm"].housekeeper
    housekeeper._due.update(dict.fromkeys(housekeeper._due, 0.0))
    housekeeper.run_due()


def test_what_was_deleted_stands_in_no_file(app: Flask, caller: Caller) -> None:
    """Not in free pages and not in the write-ahead log either, once that was tidied."""
    secret = "correct-horse-battery"
    answer = ask(caller, f"{secret} " * 2000, instructions=secret, user=secret)
    kept = ask(caller, "kept for good")
    caller.http.delete(f"{PATH}/{answer['id']}", headers=caller.headers)
    keep_house(app)
    with app.app_context():
        folder = Path(str(db.engine.url.database)).parent
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert b"kept for good" in found["app.db"]
    assert [name for name, held in found.items() if secret.encode() in held] == []
    assert caller.get(f"{PATH}/{kept['id']}").json["id"] == kept["id"]


@pytest.mark.alone
def test_a_log_that_somebody_reads_is_tidied_later(app: Flask, caller: Caller) -> None:
    """Without waiting: writers would wait too."""
    ask(caller, "hello")
    with app.app_context(), db.engine.connect() as reader:
        reader.exec_driver_sql("BEGIN")
        assert reader.execute(text("SELECT count(*) FROM responses")).scalar() == 1
        ask(caller, "hello")
        begun = time.monotonic()
        keep_house(app)
        assert time.monotonic() - begun < 1
    ask(caller, "hello")
    assert stored(app) == 3


def test_store_false_leaves_nothing_behind(app: Flask, caller: Caller) -> None:
    answer = ask(caller, "secret words", store=False)
    assert answer["store"] is False
    assert stored(app) == 0
    assert events(caller, "secret words", store=False)[-1]["response"]["store"] is False
    assert stored(app) == 0


def test_a_refused_body_costs_and_leaves_nothing(gateway: Flask, upstream: Upstream) -> None:
    caller = Caller.on(gateway)
    bodies = [
        {}, {"input": 5}, {"input": "x", "model": 5}, {"input": "x", "tools": [{"type": "web_search"}]},
        {"input": "x", "previous_response_id": NOBODYS}, {"input": "x", "background": True},
        {"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, {"input": "x", "mirostat": 2},
    ]  # fmt: skip
    for body in bodies:
        response = caller.http.post(PATH, json=body, headers=caller.headers)
        assert response.status_code == (404 if "previous_response_id" in body else 400)
        assert set(response.json["error"]) == {"message", "type", "param", "code"}
        assert response.headers["X-FlaskLLM-Error"] in ("invalid_request", "not_found")
    raw = [
        '{"input": "\\ud800"}',
        '{"input": "a", "input": "b"}',
        '{"input": NaN}',
        '{"input": ' + "[" * 70 + "]" * 70 + "}",
    ]
    for broken in raw:
        response = caller.http.post(PATH, data=broken, headers={**caller.headers, "Content-Type": "application/json"})
        assert (response.status_code, response.json["error"]["code"]) == (400, "invalid_request")
    assert upstream.requests == []
    assert stored(gateway) == 0
    assert rows(gateway, "SELECT count(*) FROM attempts") == [(0,)]


def test_numbers_beyond_64_bits_are_sent_stored_and_told_again(gateway: Flask, upstream: Upstream) -> None:
    """Found by schemathesis: what one library reads another would not write."""
    caller, huge = Caller.on(gateway), 2**70
    tool = {**TOOL, "parameters": {"type": "object", "properties": {"n": {"type": "number", "maximum": huge}}}}
    answer = ask(caller, [{"role": "user", "content": "hi", "more": [huge]}], model=GPT, tools=[tool])
    assert answer["tools"][0]["parameters"]["properties"]["n"]["maximum"] == huge
    assert caller.get(f"{PATH}/{answer['id']}").json == answer
    assert caller.get(f"{PATH}/{answer['id']}/input_items").json["data"][0]["more"] == [huge]
    caller.chat(model=GPT, tools=[{"type": "function", "function": {"name": "f", "parameters": tool["parameters"]}}])


def test_an_answer_that_cannot_be_stored_is_told_and_says_so(app: Flask, caller: Caller) -> None:
    rows(app, "CREATE TRIGGER full BEFORE INSERT ON responses BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    answer = ask(caller, "hello")
    assert (answer["status"], answer["store"]) == ("completed", False)
    end = events(caller, "hello")[-1]
    assert (end["type"], end["response"]["store"]) == ("response.completed", False)
    assert rows(app, "SELECT state FROM attempts") == [("settled",)] * 2


def test_a_hang_up_stores_nothing(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(**provider_environment(upstream, "openai"))
    upstream.script(faults.gap(3, 0.3), vendor="openai")
    caller = Caller.on(app)
    response = caller.http.post(
        PATH, json={"input": "a b c d", "stream": True, "model": GPT}, headers=caller.headers, buffered=False
    )
    assert b"response.created" in next(iter(response.response))
    response.close()
    until = time.monotonic() + 10
    while rows(app, "SELECT state FROM attempts") != [("settled",)] and time.monotonic() < until:
        time.sleep(0.02)
    assert rows(app, "SELECT status FROM calls") == [(499,)]
    assert stored(app) == 0


# -- items -------------------------------------------------------------------------------------------------------------


def test_the_items_of_a_response_are_listed_in_pages(caller: Caller) -> None:
    given = [{"role": "user", "content": str(number)} for number in range(5)]
    answer_id = ask(caller, given)["id"]
    first = caller.get(f"{PATH}/{answer_id}/input_items?limit=2").json
    valid(answers.ITEMS, first)
    assert [item["content"] for item in first["data"]] == ["4", "3"]
    assert first["has_more"]
    rest = caller.get(f"{PATH}/{answer_id}/input_items?limit=100&after={first['last_id']}").json
    assert [item["content"] for item in rest["data"]] == ["2", "1", "0"]
    assert not rest["has_more"]
    for wrong in ("limit=0", "limit=101", "limit=x", "limit=1_0", "order=up"):
        error = caller.get(f"{PATH}/{answer_id}/input_items?{wrong}", status=400).json["error"]
        assert error["param"] == wrong.partition("=")[0]
    assert caller.get(f"{PATH}/{answer_id}?stream=true", status=400).json["error"]["param"] == "stream"


def test_an_item_may_be_referred_to(gateway: Flask, upstream: Upstream) -> None:
    caller = Caller.on(gateway)
    first = ask(caller, "say something", model=GPT)
    ask(
        caller,
        [{"type": "item_reference", "id": first["output"][0]["id"]}, {"role": "user", "content": "b"}],
        model=GPT,
    )
    said = first["output"][0]["content"][0]["text"]
    assert sent(upstream) == [{"role": "assistant", "content": said}, {"role": "user", "content": "b"}]


@pytest.mark.parametrize(
    "given, field",
    [
        ([{"type": "item_reference", "id": "msg_x"}], "input[0].id"),
        ([{"type": "item_reference", "id": f"msg_{'0' * 32}_0"}], "input[0].id"),
        (
            [{"role": "user", "content": "a"}, {"type": "function_call_output", "call_id": "c", "output": ""}],
            "input[1].call_id",
        ),
        ([{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}], "input"),
    ],
)
def test_what_leads_nowhere_is_named(caller: Caller, given: Any, field: str) -> None:
    assert ask(caller, given, status=400)["error"]["param"] == field


def test_a_fault_that_a_provider_finds_is_named_in_this_dialects_words(gateway: Flask) -> None:
    caller = Caller.on(gateway)
    broken = [{"type": "input_image", "image_url": "data:image/png,x"}]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"input": [{"role": "user", "content": "a"}, {"role": "user", "content": broken}]}, "input[1].content[0]"),
        ({"input": "a", "text": {"verbosity": "low"}}, "text.verbosity"),
        ({"input": "a", "reasoning": {"effort": "high"}, "model": "demo"}, ""),
        ({"input": "a", "prompt_cache_key": "k"}, "prompt_cache_key"),
        ({"input": "a", "top_logprobs": 2}, "top_logprobs"),
    ]
    for body, field in cases:
        response = caller.http.post(PATH, json={"model": CLAUDE, **body}, headers=caller.headers)
        assert response.status_code == (400 if field else 200), response.json
        if field:
            assert response.json["error"]["param"] == field
    asked = {"input": "a", "model": CLAUDE, "text": {"verbosity": "low"}, "drop_params": True}
    for streamed in (False, True):
        dropped = caller.post(PATH, {**asked, "stream": streamed})
        assert dropped.headers["X-FlaskLLM-Dropped-Params"] == "text.verbosity"
        assert dropped.get_data()


# -- what vendors want back --------------------------------------------------------------------------------------------

HOW = ["by the previous response", "by items that are stored", "by items that are not", "by references"]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("model", [CLAUDE, GEMINI])
def test_thoughts_and_signatures_come_back(
    gateway: Flask, upstream: Upstream, model: str, how: str, streamed: bool
) -> None:
    caller = Caller.on(gateway)
    asked: dict[str, Any] = {"model": model, "tools": [TOOL], "reasoning": {"effort": "low"}, "max_output_tokens": 9000}
    stateless = how == HOW[2]
    if stateless:
        asked |= {"store": False, "include": ["reasoning.encrypted_content"]}
    given: list[Any] = [{"role": "user", "content": "use the tool"}]
    first = events(caller, given, **asked)[-1]["response"] if streamed else ask(caller, given, **asked)
    assert any("encrypted_content" in item for item in first["output"]) is stateless
    (call,) = [item for item in first["output"] if item["type"] == "function_call"]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "noon"}
    if how == HOW[0]:
        second = ask(caller, [output], **asked, previous_response_id=first["id"])
    else:
        by_name = [{"type": "item_reference", "id": item["id"]} for item in first["output"]]
        second = ask(caller, [*given, *(by_name if how == HOW[3] else first["output"]), output], **asked)
    assert "noon" in second["output"][-1]["content"][0]["text"]
    went = json.dumps(upstream.requests[-1].body)
    assert ('"signature"' if model == CLAUDE else '"thoughtSignature"') in went
    assert "skip_thought" not in went


def test_a_thread_may_go_on_with_another_vendor(gateway: Flask) -> None:
    caller = Caller.on(gateway)
    more: dict[str, Any] = {"tools": [TOOL], "max_output_tokens": 9000}
    last = ask(caller, "use the tool", model=CLAUDE, reasoning={"effort": "low"}, **more)
    for model in (GPT, GEMINI, "grok-4", "llama/llama-7b-instruct", "azure_openai/gpt-4o", CLAUDE):
        outputs = [
            {"type": "function_call_output", "call_id": item["call_id"], "output": "noon"}
            for item in last["output"]
            if item["type"] == "function_call"
        ]
        asked = [*outputs, {"role": "user", "content": "use the tool"}]
        last = ask(caller, asked, model=model, previous_response_id=last["id"], **more)


@pytest.mark.parametrize("summary", [None, "auto"])
def test_thoughts_are_told_as_text_or_summary(gateway: Flask, summary: str | None) -> None:
    caller = Caller.on(gateway)
    thinks = {"effort": "low", "summary": summary}
    asked: dict[str, Any] = {"model": CLAUDE, "reasoning": thinks, "max_output_tokens": 9000}
    thought, message = ask(caller, **asked)["output"]
    assert (thought["type"], message["type"]) == ("reasoning", "message")
    part = {"type": "summary_text" if summary else "reasoning_text", "text": "let me think"}
    assert thought["summary" if summary else "content"] == [part]
    found = events(caller, **asked)
    name = "reasoning_summary" if summary else "reasoning"
    assert (
        "".join(event["delta"] for event in found if event["type"] == f"response.{name}_text.delta") == "let me think"
    )
    done = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert done == found[-1]["response"]["output"]
    valid(answers.RESPONSE, found[-1]["response"])


def test_the_opaque_field_holds_the_vendors_own_word(gateway: Flask) -> None:
    asked: dict[str, Any] = {"model": CLAUDE, "reasoning": {"effort": "low"}, "max_output_tokens": 9000}
    answer = ask(Caller.on(gateway), include=["reasoning.encrypted_content"], **asked)
    opaque = unseal(answer["output"][0]["encrypted_content"])
    assert opaque is not None
    assert (opaque.provider, opaque.thoughts[0]["thinking"]) == ("anthropic", "let me think")


# -- answers of every kind ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault, status, reason, kinds",
    [
        (faults.finish("length"), "incomplete", "max_output_tokens", ["message"]),
        (faults.finish("filter"), "incomplete", "content_filter", ["message"]),
        (faults.text(""), "completed", None, ["message"]),
        (faults.tool_calls([["clock", ""]]), "completed", None, ["function_call"]),
    ],
    ids=["length", "filter", "nothing", "no arguments"],
)
def test_every_ending(
    make_app: MakeApp, upstream: Upstream, fault: Any, status: str, reason: str | None, kinds: list[str]
) -> None:
    app = make_app(**provider_environment(upstream, "openai"))
    upstream.script(fault, vendor="openai")
    caller = Caller.on(app)
    whole = ask(caller, model=GPT, tools=[TOOL])
    *_, end = events(caller, model=GPT, tools=[TOOL])
    assert end["type"] == f"response.{status}"
    for answer in (whole, end["response"]):
        valid(answers.RESPONSE, answer)
        assert answer["status"] == status
        assert (answer["incomplete_details"] or {}).get("reason") == reason
        assert [item["type"] for item in answer["output"]] == kinds
        assert answer["output"][-1]["status"] == status
        assert caller.get(f"{PATH}/{answer['id']}").json == answer
    if kinds == ["function_call"]:
        assert whole["output"][0]["arguments"] == "{}" == end["response"]["output"][0]["arguments"]


def frame(**delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": delta.pop("finish_reason", None)}
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


@pytest.mark.parametrize(
    "delta",
    [
        {"content": [{"type": "text", "text": "hi"}, 5]},
        {"content": "hi", "thinking_blocks": [5, {"type": "thinking"}, {"type": "text"}]},
        {"content": "hi", "reasoning": {"a": 1}},
        {"content": "hi", "tool_calls": [{"index": [1], "id": 5, "function": {"name": "f", "arguments": ""}}]},
        {"content": "hi", "tool_calls": [{"index": 0, "extra_content": "x", "function": {"name": "f"}}]},
        {"content": "hi \x00 there", "refusal": "no"},
    ],
)
def test_deltas_of_odd_shapes_are_read_as_far_as_they_make_sense(
    make_app: MakeApp, upstream: Upstream, delta: dict[str, Any]
) -> None:
    app = make_app(**provider_environment(upstream, "openai"))
    upstream.script(faults.frames([frame(**delta), frame(finish_reason="stop"), "[DONE]"]), vendor="openai")
    *_, end = events(Caller.on(app), model=GPT)
    assert end["type"] == "response.completed", end
    valid(answers.RESPONSE, end["response"])
    assert "hi" in json.dumps(end["response"]["output"])


def test_text_between_calls_makes_items_in_their_order(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(**provider_environment(upstream, "openai"))
    call = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": '}}
    other = {"id": "c2", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    deltas = [
        frame(content="first"), frame(tool_calls=[{"index": 0, **call}]), frame(content="second"),
        frame(tool_calls=[{"index": 1, **other}]),
        frame(tool_calls=[{"index": 0, "function": {"arguments": '"UTC"}'}}]), frame(finish_reason="tool_calls"),
        "[DONE]",
    ]  # fmt: skip
    upstream.script(faults.frames(deltas), vendor="openai")
    caller = Caller.on(app)
    answer = events(caller, model=GPT, tools=[TOOL])[-1]["response"]
    assert [item["type"] for item in answer["output"]] == ["message", "function_call", "message", "function_call"]
    assert answer["output"][1]["arguments"] == '{"zone": "UTC"}'
    upstream.reset()
    outputs = [{"type": "function_call_output", "call_id": name, "output": "noon"} for name in ("c1", "c2")]
    ask(caller, outputs, model=GPT, tools=[TOOL], previous_response_id=answer["id"])
    roles = [message["role"] for message in sent(upstream)]
    assert roles == ["user", "assistant", "tool", "tool"]


# -- streams -----------------------------------------------------------------------------------------------------------


def test_headers_tell_of_the_call_as_everywhere(gateway: Flask) -> None:
    caller = Caller.on(gateway)
    headers = caller.post(PATH, {"input": "hi", "model": GPT}).headers
    assert (headers["X-FlaskLLM-Provider"], calls_of(headers)) == ("openai", 1)
    assert float(headers["X-FlaskLLM-Cost"]) > 0
    response = caller.post(PATH, {"input": "hi", "model": GPT, "stream": True})
    assert "X-FlaskLLM-Cost" not in response.headers
    assert response.headers["X-Accel-Buffering"] == "no"
    end = json.loads(response.get_data(as_text=True).strip().rpartition("data: ")[2])
    assert end["response"]["usage"]["cost"] > 0


@pytest.mark.parametrize(
    "fault",
    [
        faults.reset_after(3), faults.eof_after(3), faults.half_line(3), faults.error_mid_stream(3),
        faults.hang_after(3), faults.chunk_garbage(3),
    ],
)  # fmt: skip
def test_a_stream_that_breaks_keeps_its_text_and_ends_as_failed(
    make_app: MakeApp, upstream: Upstream, fault: Any
) -> None:
    app = make_app(STREAM_IDLE_TIMEOUT="1", **provider_environment(upstream, "openai"))
    upstream.script(fault, vendor="openai")
    caller = Caller.on(app)
    *before, end = events(caller, "a b c d", model=GPT)
    assert end["type"] == "response.failed"
    assert (end["response"]["status"], end["response"]["error"]["code"]) == ("failed", "server_error")
    said = "".join(event["delta"] for event in before if event["type"] == "response.output_text.delta")
    assert said
    assert end["response"]["output"][0]["content"][0]["text"] == said
    assert end["response"]["output"][0]["status"] == "incomplete"
    valid(answers.RESPONSE, end["response"])
    caller.get(f"{PATH}/{end['response']['id']}", status=404)
    assert rows(app, "SELECT state FROM attempts") == [("settled",)]


def test_silence_is_bridged_by_comment_lines(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(STREAM_PING_AFTER="0.2", STREAM_PING_EVERY="0.1", **provider_environment(upstream, "openai"))
    upstream.script(faults.first_delay(0.8), vendor="openai")
    raw = Caller.on(app).post(PATH, {"input": "hi", "model": GPT, "stream": True}).get_data()
    assert raw.startswith(b": ping\n\n")
    assert raw.count(b": ping") >= 3
    assert b"event: response.completed" in raw


def test_a_failure_before_anything_was_said_is_one_error_event(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(
        STREAM_PING_AFTER="0.2",
        STREAM_PING_EVERY="0.1",
        REQUEST_TIMEOUT="1",
        **provider_environment(upstream, "openai"),
    )
    upstream.script(faults.first_delay(30), vendor="openai")
    (error,) = events(Caller.on(app), model=GPT)
    assert (error["type"], error["code"]) == ("error", "provider_timeout")
    assert error["error"]["message"] == error["message"]


def test_another_provider_answers_where_the_first_fails(make_app: MakeApp, upstream: Upstream, tmp_path: Any) -> None:
    app = two_providers(make_app, upstream, tmp_path)
    upstream.script(faults.status(500), vendor="openai")
    caller = Caller.on(app)
    response = caller.post(PATH, {"input": "hi", "model": "both"})
    assert (response.headers["X-FlaskLLM-Provider"], calls_of(response.headers)) == ("llama", 2)
    assert events(caller, model="both")[-1]["type"] == "response.completed"


# -- who may -----------------------------------------------------------------------------------------------------------


def test_the_door_asks_for_the_scope_chat(app: Flask) -> None:
    caller = Caller.on(app, scopes=["webhook"])
    assert ask(caller, status=403)["error"]["code"] == "forbidden"
    assert caller.get(f"{PATH}/{NOBODYS}", status=403).json["error"]["type"] == "permission_error"
    assert app.test_client().post(PATH, json={"input": "hi"}).status_code == 401


def test_a_prompt_too_long_for_its_window_is_cut_only_where_asked(
    make_app: MakeApp, upstream: Upstream, tmp_path: Any
) -> None:
    overlay = tmp_path / "models.yaml"
    overlay.write_text("models:\n  tiny: {provider: llama, model_name: tiny, max_tokens: 50, context_window: 200}\n")
    app = make_app(LLM_GATEWAY_CONFIG_PATH=str(overlay), **provider_environment(upstream, "llama"))
    app.test_cli_runner().invoke(args=["seed"])
    caller = Caller.on(app)
    given = [{"role": "user", "content": f"{number} " + "word " * 30} for number in range(20)]
    answer = ask(caller, given, model="tiny", truncation="auto", instructions="Be brief.")
    first, *rest = sent(upstream)
    assert first == {"role": "system", "content": "Be brief."}
    assert 0 < len(rest) < 20
    assert rest[-1]["content"].startswith("19 ")
    assert answer["truncation"] == "auto"
    ask(caller, given, model="tiny")
    assert len(sent(upstream)) == 20
