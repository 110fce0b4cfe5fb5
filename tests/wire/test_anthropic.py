"""Anthropic's dialect in our words and back: what is said how, and in which order events come."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaskllm.domain.answer import Answer
from flaskllm.domain.catalogue import Candidate, Endpoint, Model, Provider
from flaskllm.domain.chat import ChatResult, Chunk
from flaskllm.domain.usage import Usage
from flaskllm.errors import DomainError, InvalidRequest, invalid
from flaskllm.wire import anthropic as wire
from flaskllm.wire import anthropic_answers as answers
from flaskllm.wire.carried import call_of, signed_id

CANDIDATE = Candidate(Provider("p", "openai"), Model("m", "p", "m", "m"), Endpoint("main", ""))


def read(messages: list[dict[str, Any]], **more: Any) -> wire.Asked:
    return wire.read_messages({"model": "m", "max_tokens": 9, "messages": messages, **more})


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def said(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


# -- in ----------------------------------------------------------------------------------------------------------------


def test_results_come_first_each_as_a_message_of_its_own() -> None:
    results = [{"type": "tool_result", "tool_use_id": f"t{n}", "content": [text("a"), text("b")]} for n in (1, 2)]
    asked = read([user(text("before"), *results)], system="be kind")
    assert asked.chat.messages == [
        {"role": "system", "content": "be kind"},
        {"role": "tool", "tool_call_id": "t1", "content": "a\nb"},
        {"role": "tool", "tool_call_id": "t2", "content": "a\nb"},
        {"role": "user", "content": "before"},
    ]


def test_an_image_in_a_result_is_shown_after_it() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [image], "is_error": True}
    tool, shown = read([user(result, text("see"))]).chat.messages
    assert tool == {"role": "tool", "tool_call_id": "t1", "content": "", "is_error": True}
    assert [part["type"] for part in shown["content"]] == ["text", "image_url", "text"]


@pytest.mark.parametrize("block, part", [
    ({"type": "document", "title": "T", "source": {"type": "text", "data": "long"}}, "T\n\nlong"),
    ({"type": "search_result", "title": "T", "source": "s", "content": [text("a"), text("b")]}, "T (s)\n\na\n\nb"),
    ({"type": "document", "source": {"type": "url", "url": "https://x/a.pdf"}},
     [{"type": "file", "file": {"filename": "document.pdf", "file_url": "https://x/a.pdf"}}]),
    ({"type": "document", "title": "T", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVA="}},
     [{"type": "file", "file": {"filename": "T", "file_data": "data:application/pdf;base64,JVA="}}]),
])  # fmt: skip
def test_what_is_shown_has_a_part(block: dict[str, Any], part: Any) -> None:
    assert read([user(block)]).chat.messages[0]["content"] == part


def test_calls_thoughts_and_texts_of_the_models() -> None:
    call = {"type": "tool_use", "id": "t1", "name": "clock", "input": {"zone": "ü"}}
    thought = {"type": "thinking", "thinking": "hm", "signature": "sig"}
    hidden = {"type": "redacted_thinking", "data": "x"}
    (message,) = read([said(thought, hidden, text("a"), call, text("b"))]).chat.messages
    assert message == {
        "role": "assistant", "content": "ab", "reasoning_content": "hm", "thinking_blocks": [thought, hidden],
        "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "ü"}'}}],
    }  # fmt: skip


@pytest.mark.parametrize("choice, params", [
    ({"type": "auto"}, {"tool_choice": "auto"}),
    ({"type": "any", "disable_parallel_tool_use": True}, {"tool_choice": "required", "parallel_tool_calls": False}),
    ({"type": "none"}, {"tool_choice": "none"}),
    ({"type": "tool", "name": "f"}, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
])  # fmt: skip
def test_a_choice_of_tools_in_our_words(choice: dict[str, Any], params: dict[str, Any]) -> None:
    tools = [{"name": "f", "description": "d", "input_schema": {}, "strict": True}]
    function = {"name": "f", "parameters": {}, "description": "d", "strict": True}
    found = read([user(text("x"))], tools=tools, tool_choice=choice).chat.params
    assert found == {"max_tokens": 9, "tools": [{"type": "function", "function": function}], **params}
    if choice["type"] in ("auto", "none"):
        assert read([user(text("x"))], tool_choice=choice).chat.params == {"max_tokens": 9}


@pytest.mark.parametrize("block", [
    {"type": "thinking", "thinking": "x", "signature": ""},
    {"type": "thinking", "thinking": "x", "signature": "google:abc"},
    {"type": "tool_use", "id": "call_1__google_YWJj", "name": "f", "input": {}},
    {"type": "tool_use", "id": "functions.f:0", "name": "f", "input": {}},
])  # fmt: skip
def test_what_other_vendors_made_does_not_go_to_anthropic_as_it_came(block: dict[str, Any]) -> None:
    native = read([user(text("x")), said(block)]).chat.native
    assert native is not None
    assert native.body is None


def test_a_body_of_anthropics_own_goes_on_but_for_what_is_ours() -> None:
    native = read([user(text("x"))], drop_params=True, stream=None, speed="fast").chat.native
    assert native is not None
    assert native.body == {"model": "m", "max_tokens": 9, "messages": [user(text("x"))], "speed": "fast"}


@pytest.mark.parametrize("ours, theirs", [
    ("messages[1].content[0].image_url.url", "messages[0].content[0].source.url"),
    ("messages[1].content[2].file.file_data", "messages[0].content[2].source.data"),
    ("messages[2]", "messages[1]"), ("messages[0].content", "system.content"), ("stop", "stop_sequences"),
    ("response_format", "output_config.format"), ("reasoning_effort", "thinking"), ("user", "metadata.user_id"),
    ("tools[3].function", "tools[3].function"), ("model", "model"), ("", ""),
])  # fmt: skip
def test_names_of_fields_are_the_callers(ours: str, theirs: str) -> None:
    image = {"type": "image", "source": {"type": "url", "url": "http://x/a.png"}}
    asked = read([user(image, text("a"), image), said(text("b"))], system="s")
    error: DomainError = invalid(ours, "is wrong")
    told = wire.in_callers_words(error, asked)
    assert (told.message, told.param) == (f"{theirs}: is wrong", theirs)


def test_a_field_that_nobody_sends_is_bounded() -> None:
    with pytest.raises(InvalidRequest):
        wire.read_messages({f"k{number}": 0 for number in range(1001)})


@given(st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True), st.binary(min_size=1, max_size=200))
def test_a_signature_in_an_id_comes_out_again(call_id: str, raw: bytes) -> None:
    signature = base64.b64encode(raw).decode()
    packed = signed_id(call_id, signature)
    assert packed.replace("_", "").replace("-", "").isalnum() or set(packed) <= {"_", "-"}
    assert call_of(packed) == (call_id, signature)


@pytest.mark.parametrize("call_id", ["call_1", "__google_", "a__google_!", "a__google_x", "toolu_01__google"])
def test_an_id_without_a_signature_is_left_alone(call_id: str) -> None:
    assert call_of(call_id) == (call_id, None)
    assert signed_id(call_id, "no base64!") == call_id


# -- out ---------------------------------------------------------------------------------------------------------------


def whole(message: dict[str, Any], reason: str = "stop", **more: Any) -> dict[str, Any]:
    body = {"id": "chatcmpl-1", "model": "m", "choices": [{"message": message, "finish_reason": reason, **more}]}
    usage = Usage(input=3, cache_read=2, cache_write_5m=1, cache_write_1h=4, output=5, reasoning=6, image_input=7)
    return dict(orjson.loads(answers.write_message(Answer(ChatResult(body, usage), CANDIDATE, usage, None))))


def test_counts_are_anthropics() -> None:
    assert whole({"content": "x"})["usage"] == {
        "input_tokens": 10, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 11,
        "cache_creation": {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 4},
    }  # fmt: skip


@pytest.mark.parametrize("message, reason, native, stop", [
    ({"content": "x"}, "stop", None, "end_turn"), ({"content": "x"}, "stop", "pause_turn", "pause_turn"),
    ({"content": "x"}, "stop", "STOP", "end_turn"), ({"content": "x"}, "something", None, "end_turn"),
    ({"refusal": "no"}, "stop", None, "refusal"), ({"content": "x"}, "length", None, "max_tokens"),
    ({"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": ""}}]}, "stop", None, "tool_use"),
])  # fmt: skip
def test_why_it_ended(message: dict[str, Any], reason: str, native: str | None, stop: str) -> None:
    assert whole(message, reason, native_finish_reason=native)["stop_reason"] == stop


def test_arguments_that_are_no_object_are_kept_under_a_name_that_says_so() -> None:
    calls = [{"id": "a", "function": {"name": "f", "arguments": words}} for words in ("{broken", "[1]", "", "{}")]
    assert [block["input"] for block in whole({"tool_calls": calls})["content"]] == [
        {"invalid_arguments": "{broken"}, {"invalid_arguments": "[1]"}, {}, {},
    ]  # fmt: skip


class Played:
    """A stream that says these deltas."""

    error = None

    def __init__(self, *deltas: dict[str, Any], usage: Usage | None = None) -> None:
        self._chunks = [Chunk({"id": "1", "model": "m", "choices": [{"index": 0, "delta": one}]}) for one in deltas]
        self.usage = usage or Usage(input=1, output=2)

    def __iter__(self) -> Any:
        return iter(self._chunks)

    def at_hand(self) -> None:
        return None


def events(*deltas: dict[str, Any]) -> list[dict[str, Any]]:
    raw = b"".join(answers.write_events(Played(*deltas), read([user(text("x"))]), "r"))
    return [orjson.loads(line[6:]) for line in raw.split(b"\n") if line.startswith(b"data: ")]


def call(index: int | None, arguments: str, call_id: str | None = None) -> dict[str, Any]:
    head = {"id": call_id, "type": "function"} if call_id else {}
    place = {} if index is None else {"index": index}
    name = {"name": f"f{call_id}"} if call_id else {}
    return {"tool_calls": [{**place, **head, "function": {**name, "arguments": arguments}}]}


def inputs(found: list[dict[str, Any]]) -> dict[str, str]:
    """Each call's arguments; on the way it is seen that a block ends before the next begins."""
    made: dict[str, str] = {}
    open_block: str | None = None
    for one in found:
        if one["type"] == "content_block_start":
            assert open_block is None
            open_block = one["content_block"].get("id") or one["content_block"]["type"]
            made[open_block] = ""
        elif one["type"] == "content_block_delta":
            assert open_block is not None
            made[open_block] += one["delta"].get("partial_json", "")
        elif one["type"] == "content_block_stop":
            open_block = None
    return made


@pytest.mark.parametrize("deltas", [
    [call(0, "", "a"), call(0, '{"x"'), call(0, ": 1}"), call(1, "", "b"), call(1, "{}")],
    [call(0, "", "a"), call(1, "", "b"), call(0, '{"x"'), call(1, "{"), call(0, ": 1}"), call(1, "}")],
    [call(0, '{"x": 1}', "a"), call(1, "{}", "b")],
    [call(None, '{"x": 1}', "a"), call(None, "{", "b"), call(None, "}")],
], ids=["in turn", "mixed", "whole", "unnumbered"])  # fmt: skip
def test_calls_come_one_after_the_other_however_they_were_sent(deltas: list[dict[str, Any]]) -> None:
    found = events({"content": "hm"}, *deltas)
    assert inputs(found) == {"text": "", "a": '{"x": 1}', "b": "{}"}
    assert found[-2]["delta"]["stop_reason"] == "tool_use"


def test_a_thought_is_signed_where_its_words_were() -> None:
    signed = {"index": 0, "type": "thinking", "thinking": "let me", "signature": "s"}
    hidden = {"index": 1, "type": "redacted_thinking", "data": "x"}
    deltas = [{"reasoning_content": "let "}, {"reasoning_content": "me"}, {"thinking_blocks": [signed]}]
    found = events(*deltas, {"thinking_blocks": [hidden]}, {"content": "so"})
    blocks = [one["content_block"] for one in found if one["type"] == "content_block_start"]
    assert [block["type"] for block in blocks] == ["thinking", "redacted_thinking", "text"]
    assert [one["delta"] for one in found if one["type"] == "content_block_delta"][2] == {
        "type": "signature_delta", "signature": "s",
    }  # fmt: skip


def test_an_answer_of_nothing_is_a_whole_message_all_the_same() -> None:
    assert [one["type"] for one in events()] == ["message_start", "message_delta", "message_stop"]


@pytest.mark.parametrize("delta", [
    {"content": ["x"]}, {"tool_calls": [{"index": [], "id": 3, "function": {"name": [], "arguments": {}}}]},
    {"thinking_blocks": [3]}, {"extra_content": 3, "reasoning_content": {}},
])  # fmt: skip
def test_nonsense_of_a_provider_breaks_no_stream(delta: dict[str, Any]) -> None:
    assert events(delta)[-1]["type"] == "message_stop"
