"""The built-in answerer keeps to the paragraph that promises it (``docs/api.md``, section 4)."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jsonschema
import pytest

from flaskllm.adapters.instance import smallest_instance
from flaskllm.errors import InvalidRequest
from tests.adapters.candidates import Asker, asker, calls_in
from tests.upstream import Upstream
from tests.upstream.images import PIXEL

TOOL = {
    "type": "function",
    "function": {
        "name": "book",
        "parameters": {
            "type": "object",
            "properties": {"seats": {"type": "integer", "minimum": 2}},
            "required": ["seats"],
        },
    },
}
SECOND = {"type": "function", "function": {"name": "cancel"}}


@pytest.fixture
def demo(upstream: Upstream) -> Asker:
    return asker("demo", upstream)


def test_it_echoes_the_last_user_text(demo: Asker) -> None:
    messages = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": "last"},
    ]
    assert demo.chat(messages).text == "[demo] last"


def test_streamed_it_comes_word_by_word(demo: Asker) -> None:
    words = [chunk.text for chunk in demo.stream("one  two\nthree") if chunk.text]
    assert words == ["[demo]", " one", "  two", "\nthree"]


def test_the_same_question_has_the_same_answer(demo: Asker) -> None:
    first, second = demo.chat("use a tool", tools=[TOOL]), demo.chat("use a tool", tools=[TOOL])
    assert first.body["choices"] == second.body["choices"]
    assert first.body["usage"] == second.body["usage"]


def test_a_source_is_read_frame_by_frame_and_never_waits(demo: Asker) -> None:
    source = demo.open("hello")
    assert source.fileno() is None
    assert source.ready()
    assert len(source.read(0.0) or []) == 1
    source.close()
    assert source.read(0.0) is None


@pytest.mark.parametrize("text, choice, name", [
    ("use a tool", "auto", "book"),
    ("which Tools are there", "auto", "book"),
    ("hello", "required", "book"),
    ("hello", {"type": "function", "function": {"name": "cancel"}}, "cancel"),
])  # fmt: skip
def test_it_calls_a_tool_where_asked(demo: Asker, text: str, choice: Any, name: str) -> None:
    answer = demo.chat(text, tools=[TOOL, SECOND], tool_choice=choice)
    assert [call["name"] for call in calls_in(answer)] == [name]


@pytest.mark.parametrize("text, choice", [("use a tool", "none"), ("toolbox", "auto"), ("hello", "auto")])
def test_it_calls_none_where_not(demo: Asker, text: str, choice: str) -> None:
    assert demo.chat(text, tools=[TOOL], tool_choice=choice).text == f"[demo] {text}"


def test_arguments_follow_the_tool_s_schema(demo: Asker) -> None:
    (call,) = calls_in(demo.chat("use a tool", tools=[TOOL]))
    assert json.loads(call["arguments"]) == {"seats": 2}


def test_a_tool_that_is_not_there_is_refused_by_name(demo: Asker) -> None:
    with pytest.raises(InvalidRequest) as caught:
        demo.chat("hello", tools=[TOOL], tool_choice={"type": "function", "function": {"name": "fly"}})
    assert caught.value.param == "tool_choice"


def test_a_result_is_quoted_and_no_tool_called_again(demo: Asker) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "book", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "use a tool"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "two seats booked"},
    ]
    text = demo.chat(messages, tools=[TOOL]).text
    assert text.startswith("[demo]")
    assert "two seats booked" in text


def test_an_image_is_named_by_type_and_size(demo: Asker) -> None:
    url = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
    text = demo.chat([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]).text
    assert text == f"[demo] (image/png, 1×1 pixels, {len(PIXEL)} bytes)"


def test_a_broken_image_is_refused_by_name(demo: Asker) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,?"}}
    with pytest.raises(InvalidRequest) as caught:
        demo.chat([{"role": "user", "content": [part]}])
    assert caught.value.param == "messages[0].content[0].image_url.url"


def test_it_counts_a_token_a_word_and_costs_nothing(demo: Asker) -> None:
    usage = demo.chat([{"role": "system", "content": "a b"}, {"role": "user", "content": "c"}], n=3).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, 6)


def test_no_text_is_answered_too(demo: Asker) -> None:
    assert demo.chat([{"role": "system", "content": "be brief"}]).text == "[demo]"


NODE = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
    "required": ["name", "next"],
    "additionalProperties": False,
}
SCHEMAS: list[dict[str, Any]] = [
    {},
    {"type": "object", "properties": {"a": {"type": "string"}}},
    {"$ref": "#/$defs/node", "$defs": {"node": NODE}},
    {"type": "array", "minItems": 3, "items": {"type": "integer", "exclusiveMinimum": 3, "multipleOf": 5}},
    {"type": "array", "minItems": 3, "uniqueItems": True, "items": {"type": "string", "minLength": 2}},
    {"type": "array", "minItems": 2, "uniqueItems": True, "items": {"enum": ["a", "b"]}},
    {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "minItems": 3, "items": {"const": 1}},
    {"allOf": [{"properties": {"a": {"minimum": 2.5}}, "required": ["a"]}, {"type": "object", "required": ["b"]}]},
    {"allOf": [{"type": "number", "minimum": 1}, {"type": "integer", "minimum": 3}]},
    {"oneOf": [{"type": "string", "minLength": 5}, {"type": "integer"}]},
    {"type": ["null", "integer"], "minimum": 4},
    {"type": "string", "enum": ["x", "y"]},
    {"type": "string", "minLength": 3, "maxLength": 3},
    {"type": "string", "format": "date-time"},
    {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5},
    {"type": "integer", "minimum": 1.2},
    {"type": "number", "maximum": -0.5},
    {"type": "object", "minProperties": 2, "properties": {"a": {"type": "string"}}},
    {"type": "object", "required": ["x"], "additionalProperties": {"type": "boolean"}},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
def test_an_instance_validates(schema: dict[str, Any]) -> None:
    jsonschema.validate(smallest_instance(schema, "schema"), schema)


def test_an_instance_is_small() -> None:
    assert smallest_instance({"$ref": "#/$defs/node", "$defs": {"node": NODE}}, "s") == {"name": "", "next": None}


@pytest.mark.parametrize("schema", [
    {"$ref": "#/$defs/missing"},
    {"type": "object", "properties": {"self": {"$ref": "#"}}, "required": ["self"]},
    {"type": "string", "minLength": 4, "maxLength": 2},
    {"enum": []},
    {"type": "word"},
    {"anyOf": [{"$ref": "#"}] * 9},
])  # fmt: skip
def test_a_schema_without_instance_is_refused_by_name(demo: Asker, schema: dict[str, Any]) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(InvalidRequest) as caught:
        demo.chat("hello", response_format=wanted)
    assert caught.value.param == "response_format.json_schema.schema"


LONG = "x" * 100_000
GREEDY: list[dict[str, Any]] = [
    {"type": "string", "minLength": 10**9},
    {"type": "string", "minLength": 10**400},
    {"type": "integer", "minimum": 10**400},
    {"type": "array", "minItems": 1000, "items": {"type": "string", "minLength": 10**5}},
    {"type": "array", "minItems": 1000, "items": {"const": LONG}},
    {"type": "array", "minItems": 1000, "items": {"enum": [LONG]}},
    {"type": "array", "minItems": 1000, "uniqueItems": True, "items": {"type": "string", "minLength": 10**5}},
    {"type": "array", "minItems": 1000, "items": {"type": "object", "required": [LONG]}},
    {"allOf": [{"anyOf": [{}] * 100}] * 6},
    {"allOf": [{"enum": list(range(9_000))}, {"enum": list(range(9_000, 18_000))}]},
]


@pytest.mark.parametrize("schema", GREEDY, ids=range(len(GREEDY)))
def test_a_schema_that_asks_for_a_mountain_is_refused_at_once(schema: dict[str, Any]) -> None:
    began = time.monotonic()
    with pytest.raises(InvalidRequest):
        smallest_instance(schema, "schema")
    assert time.monotonic() - began < 2
