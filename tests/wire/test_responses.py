"""OpenAI's Responses dialect: what is taken, how it becomes a chat, and what is refused by name."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from flaskllm.domain.response import Opaque, lines_of, seal
from flaskllm.errors import InvalidRequest
from flaskllm.wire.response_forms import BODY
from flaskllm.wire.responses import read_response

FORM = Draft202012Validator(BODY)
TOOL = {"type": "function", "name": "clock", "parameters": {"type": "object"}}
CALL = {"type": "function_call", "call_id": "c1", "name": "clock", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "noon"}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "s"}
LONG = "x" * (2**25 + 1)


def read(**body: Any) -> Any:
    return read_response({"input": "hi", **body})


def messages(*items: Any) -> list[Any]:
    asked = read(input=list(items))
    return [line.message for line in lines_of(zip(asked.places, asked.items, strict=True), provider="mine")]


# -- what is taken -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, name, value",
    [
        ({"max_output_tokens": 9}, "max_completion_tokens", 9),
        ({"temperature": 0}, "temperature", 0),
        ({"top_p": 0.5}, "top_p", 0.5),
        ({"user": "u"}, "user", "u"),
        ({"reasoning": {"effort": "low"}}, "reasoning_effort", "low"),
        ({"text": {"verbosity": "low"}}, "verbosity", "low"),
        ({"text": {"format": {"type": "json_object"}}}, "response_format", {"type": "json_object"}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}}},
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": True}},
        ),
        ({"top_logprobs": 3}, "top_logprobs", 3),
        ({"top_logprobs": 3}, "logprobs", True),
        ({"include": ["message.output_text.logprobs"]}, "logprobs", True),
        (
            {"tools": [TOOL]},
            "tools",
            [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}],
        ),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice", "required"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "name": "clock"}},
            "tool_choice",
            {"type": "function", "function": {"name": "clock"}},
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [TOOL]}},
            "tool_choice",
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "clock"}}]},
            },
        ),
        ({"tools": [TOOL], "parallel_tool_calls": False}, "parallel_tool_calls", False),
        ({"prompt_cache_key": "k"}, "prompt_cache_key", "k"),
        ({"safety_identifier": "k"}, "safety_identifier", "k"),
        ({"service_tier": "flex"}, "service_tier", "flex"),
    ],
)
def test_a_parameter_is_a_chats_under_its_own_name(given: dict[str, Any], name: str, value: Any) -> None:
    assert read(**given).request.params[name] == value
    assert FORM.is_valid({"input": "hi", **given})


def test_what_asks_for_what_happens_anyway_is_no_parameter() -> None:
    anyway: dict[str, Any] = {
        "text": {"format": {"type": "text"}, "verbosity": "medium"}, "background": False, "truncation": "disabled",
        "top_logprobs": 0, "max_tool_calls": 3, "tools": [], "tool_choice": "auto", "parallel_tool_calls": True,
        "stream_options": {"include_obfuscation": False}, "include": [], "reasoning": {}, "store": True,
    }  # fmt: skip
    assert read(**anyway).request.params == {}
    assert FORM.is_valid({"input": "hi", **anyway})


def test_null_counts_as_absent() -> None:
    names = BODY["properties"].keys() - {"input"}
    assert read(**dict.fromkeys(names)) == read()
    assert FORM.is_valid({"input": "hi", **dict.fromkeys(names)})


def test_every_parameter_is_said_again() -> None:
    given = {"temperature": 0.5, "metadata": {"a": "b"}, "instructions": "Be brief.", "max_output_tokens": 5}
    said = read(**given, tools=[TOOL]).said
    assert {name: said[name] for name in given} == given
    assert said["tools"] == [{**TOOL, "description": None, "strict": False}]
    assert (said["top_p"], said["truncation"], said["text"]["format"]) == (1.0, "disabled", {"type": "text"})


# -- items into messages -----------------------------------------------------------------------------------------------


def test_a_text_is_a_users_message() -> None:
    asked = read(input="hello")
    assert lines_of(zip(asked.places, asked.items, strict=True))[0].message == {"role": "user", "content": "hello"}


def test_parts_become_a_chats_parts() -> None:
    parts = [
        {"type": "input_text", "text": "look"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low", "file_id": None},
        {"type": "input_file", "file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
    ]
    assert messages({"role": "user", "content": parts})[0]["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"}},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
    ]


def test_what_was_said_and_called_in_one_breath_is_one_message() -> None:
    spoken = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Wait."}]}
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    thought["encrypted_content"] = seal(Opaque("mine"))
    other = {**CALL, "call_id": "c2"}
    made = messages(
        {"role": "user", "content": "time?"}, thought, spoken, CALL, other, RESULT, {**RESULT, "call_id": "c2"}
    )
    function = {"name": "clock", "arguments": "{}"}
    assert made[1] == {
        "role": "assistant", "content": "Wait.", "reasoning_content": "hm",
        "tool_calls": [{"id": name, "type": "function", "function": function} for name in ("c1", "c2")],
    }  # fmt: skip
    assert made[2:] == [{"role": "tool", "tool_call_id": name, "content": "noon"} for name in ("c1", "c2")]


def test_two_texts_of_the_model_are_two_messages() -> None:
    said = [{"role": "assistant", "content": text} for text in "ab"]
    assert [message["content"] for message in messages(*said)] == ["a", "b"]


def test_opaque_fields_come_back_to_where_they_were_and_to_nobody_else() -> None:
    said = {"role": "assistant", "content": "so", "encrypted_content": seal(Opaque("mine", signature="text"))}
    for provider, mine in (("mine", True), ("another", False)):
        thought = {"type": "reasoning", "summary": [], "encrypted_content": seal(Opaque(provider, thoughts=(THOUGHT,)))}
        call = {**CALL, "encrypted_content": seal(Opaque(provider, signature="signed"))}
        (message, _) = messages(thought, call, RESULT)
        assert message.get("thinking_blocks") == ([THOUGHT] if mine else None)
        signed = {"google": {"thought_signature": "signed"}} if mine else None
        assert message["tool_calls"][0].get("extra_content") == signed
    assert messages(said)[0]["extra_content"] == {"google": {"thought_signature": "text"}}


def test_thoughts_that_led_to_nothing_are_left_out() -> None:
    assert messages({"type": "reasoning", "summary": []}, {"role": "user", "content": "hi"}) == [
        {"role": "user", "content": "hi"}
    ]


@pytest.mark.parametrize(
    "items, field", [([RESULT], "input[0].call_id"), ([CALL], "input"), ([RESULT, CALL], "input[0].call_id")]
)
def test_a_call_and_its_output_belong_together(items: list[Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        messages(*items)
    assert caught.value.param == field


# -- what is refused ---------------------------------------------------------------------------------------------------

NO_TEXTS: list[Any] = [5, 1.5, True, [], {}, "x\x00y"]
NO_NUMBERS: list[Any] = ["1", True, [], {}, -1, 2**70, 1e300]
NO_FLAGS: list[Any] = ["true", 0, 1, [], {}]
NOT_OFFERED = (
    "access_programs", "context_management", "conversation", "image", "moderation", "prompt", "prompt_cache_options",
    "prompt_cache_retention",
)  # fmt: skip
FAULTS: dict[str, list[Any]] = {
    "model": [*NO_TEXTS, "", "x" * 257],
    "instructions": [*NO_TEXTS, LONG],
    "input": [5, True, {}, [], "x\x00y", LONG],
    "previous_response_id": [*NO_TEXTS, "", "x" * 513],
    "max_output_tokens": [*NO_NUMBERS, 0, 1.5],
    "max_tool_calls": [*NO_NUMBERS, 0],
    "temperature": [*NO_NUMBERS, 2.1],
    "top_p": [*NO_NUMBERS, 1.1],
    "top_logprobs": [*NO_NUMBERS, 21],
    "background": [True, "false", 0, []],
    "store": NO_FLAGS,
    "stream": NO_FLAGS,
    "drop_params": NO_FLAGS,
    "parallel_tool_calls": NO_FLAGS,
    "stream_options": [5, [], {"include_obfuscation": 1}],
    "truncation": [5, "", "none", [], {}],
    "user": [*NO_TEXTS, "x" * 513],
    "service_tier": [*NO_TEXTS, "x" * 33],
    "safety_identifier": [*NO_TEXTS, "x" * 513],
    "prompt_cache_key": [*NO_TEXTS, "x" * 1025],
    "metadata": [5, [], "a", {"a": 1}, {"a": None}, {"x" * 65: "v"}, {"k": "v" * 513}, {str(n): "" for n in range(17)}],
    "include": [5, "reasoning.encrypted_content", [5], ["everything"], {}, ["reasoning.encrypted_content"] * 33],
    "tools": [5, "x", {}, [{**TOOL}] * 1001],
    "tool_choice": [5, [], "always", "required"],
    "text": [5, [], "text"],
    "reasoning": [5, [], "low"],
    **{name: [{}, "x", 1, [1]] for name in NOT_OFFERED},
    **{name: [1, "x"] for name in ("mirostat", "messages", "api_base", "api_key", "extra_body", "max_tokens", "n", "")},
}


@pytest.mark.parametrize("field", FAULTS)
def test_a_bad_parameter_is_named(field: str) -> None:
    for value in FAULTS[field]:
        body = {"input": "hi", field: value}
        with pytest.raises(InvalidRequest) as caught:
            read_response(body)
        assert caught.value.param == field, value
        if value != "required":  # which the form takes: whether there are tools is no matter of one field
            assert len(str(value)) > 2**20 or not FORM.is_valid(body), (field, value)


def item(**fields: Any) -> dict[str, Any]:
    return {"input": [fields]}


def packed(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


def thinking(block: Any) -> dict[str, Any]:
    return {"provider": "mine", "signature": "", "thoughts": [block]}


def part(**fields: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": [fields]}]}


def tool(**fields: Any) -> dict[str, Any]:
    return {"tools": [{**TOOL, **fields}]}


INNER: list[tuple[dict[str, Any], str]] = [
    ({"input": [5]}, "input[0]"),
    ({"input": [{"role": "user", "content": "a"}, None]}, "input[1]"),
    (item(), "input[0].role"),
    (item(role="robot", content="x"), "input[0].role"),
    (item(role=["user"], content="x"), "input[0].role"),
    (item(role="user"), "input[0].content"),
    (item(role="user", content=None), "input[0].content"),
    (item(role="user", content=[]), "input[0].content"),
    (item(role="user", content=5), "input[0].content"),
    (item(role="user", content="x\x00"), "input[0].content"),
    (item(role="user", content="x", id=5), "input[0].id"),
    (item(role="user", content="x", id="x" * 513), "input[0].id"),
    (item(type="web_search_call", id="x"), "input[0].type"),
    (item(type=5, role="user", content="x"), "input[0].type"),
    (item(type=["message"], role="user", content="x"), "input[0].type"),
    (part(), "input[0].content[0].type"),
    (part(type="output_text", text="x"), "input[0].content[0].type"),
    (part(type="input_video"), "input[0].content[0].type"),
    (part(type={}), "input[0].content[0].type"),
    ({"input": [{"role": "user", "content": ["x"]}]}, "input[0].content[0].type"),
    ({"input": [{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}]}, "input[0].content[0].type"),
    (part(type="input_text"), "input[0].content[0].text"),
    (part(type="input_text", text=5), "input[0].content[0].text"),
    (part(type="input_image"), "input[0].content[0].image_url"),
    (part(type="input_image", image_url="file:///etc/passwd"), "input[0].content[0].image_url"),
    (part(type="input_image", image_url={"url": "https://x"}), "input[0].content[0].image_url"),
    (part(type="input_image", image_url="https://x", detail="huge"), "input[0].content[0].detail"),
    (part(type="input_image", file_id="file-1"), "input[0].content[0].file_id"),
    (part(type="input_file"), "input[0].content[0]"),
    (part(type="input_file", file_id="file-1"), "input[0].content[0].file_id"),
    (part(type="input_file", file_data=5), "input[0].content[0].file_data"),
    (part(type="input_file", file_data="x", filename=5), "input[0].content[0].filename"),
    (part(type="input_audio", input_audio="x"), "input[0].content[0].input_audio"),
    (item(**{**CALL, "call_id": None}), "input[0].call_id"),
    (item(**{**CALL, "call_id": ""}), "input[0].call_id"),
    (item(**{**CALL, "name": 5}), "input[0].name"),
    (item(**{**CALL, "name": "x" * 129}), "input[0].name"),
    (item(**{**CALL, "arguments": {}}), "input[0].arguments"),
    (item(**CALL, encrypted_content="nonsense"), "input[0].encrypted_content"),
    (item(**CALL, encrypted_content=packed({"provider": "mine", "signature": "s"})), "input[0].encrypted_content"),
    (item(**{**RESULT, "call_id": 5}), "input[0].call_id"),
    (item(**{**RESULT, "output": None}), "input[0].output"),
    (item(**{**RESULT, "output": 5}), "input[0].output"),
    (item(**{**RESULT, "output": [{"type": "x"}]}), "input[0].output[0].type"),
    (item(type="reasoning", summary="x"), "input[0].summary"),
    (item(type="reasoning", summary=[{"type": "text", "text": "x"}]), "input[0].summary[0].type"),
    (item(type="reasoning", content=[{"type": "reasoning_text"}]), "input[0].content[0].text"),
    (item(type="reasoning", encrypted_content=5), "input[0].encrypted_content"),
    (item(type="reasoning", encrypted_content="gAAAAA"), "input[0].encrypted_content"),
    (item(type="reasoning", encrypted_content=packed([])), "input[0].encrypted_content"),
    (
        item(type="reasoning", encrypted_content=packed(thinking({"type": "text", "text": "x"}))),
        "input[0].encrypted_content",
    ),
    (
        item(type="reasoning", encrypted_content=packed(thinking({**THOUGHT, "more": "x"}))),
        "input[0].encrypted_content",
    ),
    (
        item(type="reasoning", encrypted_content=packed(thinking({**THOUGHT, "signature": 5}))),
        "input[0].encrypted_content",
    ),
    (item(type="item_reference"), "input[0].id"),
    (item(type="item_reference", id=5), "input[0].id"),
    ({"tools": [5]}, "tools[0]"),
    ({"tools": [{}]}, "tools[0].type"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type"),
    ({"tools": [TOOL, {"type": ["mcp"]}]}, "tools[1].type"),
    ({"tools": [{"type": "function", "function": {"name": "nested"}}]}, "tools[0].name"),
    (tool(name=""), "tools[0].name"),
    (tool(name="x" * 129), "tools[0].name"),
    (tool(parameters=[]), "tools[0].parameters"),
    (tool(strict="yes"), "tools[0].strict"),
    (tool(description=5), "tools[0].description"),
    ({"tool_choice": {}}, "tool_choice.type"),
    ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice.type"),
    ({"tool_choice": {"type": "function"}, "tools": [TOOL]}, "tool_choice.name"),
    ({"tool_choice": {"type": "function", "name": ["x"]}, "tools": [TOOL]}, "tool_choice.name"),
    ({"tool_choice": {"type": "function", "name": "none"}, "tools": [TOOL]}, "tool_choice.name"),
    ({"tool_choice": {"type": "allowed_tools"}, "tools": [TOOL]}, "tool_choice.tools"),
    ({"tool_choice": {"type": "allowed_tools", "tools": [5]}, "tools": [TOOL]}, "tool_choice.tools[0]"),
    ({"tool_choice": {"type": "allowed_tools", "tools": [TOOL], "mode": "x"}, "tools": [TOOL]}, "tool_choice.mode"),
    ({"text": {"style": "terse"}}, "text.style"),
    ({"text": {"verbosity": "loud"}}, "text.verbosity"),
    ({"text": {"format": "json"}}, "text.format"),
    ({"text": {"format": {}}}, "text.format.type"),
    ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    ({"text": {"format": {"type": "json_schema", "name": "x", "schema": []}}}, "text.format.schema"),
    ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {}, "strict": 1}}}, "text.format.strict"),
    ({"reasoning": {"effort": "very"}}, "reasoning.effort"),
    ({"reasoning": {"effort": ["low"]}}, "reasoning.effort"),
    ({"reasoning": {"summary": True}}, "reasoning.summary"),
    ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
]


@pytest.mark.parametrize("given, field", INNER, ids=[f"{place}-{field}" for place, (_, field) in enumerate(INNER)])
def test_what_is_wrong_inside_is_named_by_its_place(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(**given)
    assert caught.value.param == field
    assert caught.value.message.startswith(f"{field}: ")
    names_a_tool = (
        field.startswith("tool_choice") and field.endswith("name") and isinstance(given["tool_choice"].get("name"), str)
    )
    ours = "encrypted_content" in field
    assert ours or FORM.is_valid({"input": "hi", **given}) is names_a_tool


def test_input_may_not_be_missing() -> None:
    for body in ({}, {"input": None}, {"model": "demo"}):
        with pytest.raises(InvalidRequest) as caught:
            read_response(body)
        assert caught.value.param == "input"


def test_many_faults_are_told_at_once_but_not_without_end() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(model=5, temperature="hot", **{f"field{number}": 1 for number in range(100)})
    assert len(caught.value.details) == 20
    with pytest.raises(InvalidRequest):
        read_response({f"field{number}": 1 for number in range(1001)})


@pytest.mark.parametrize(
    "body",
    [
        {"input": [{"role": "user", "content": "hi"}]},
        {"input": [{"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "hi"}]}]},
        {"input": [CALL, RESULT]},
        {"input": [CALL, {**RESULT, "output": []}]},
        {"input": [{"type": "reasoning", "summary": [], "encrypted_content": None}, {"role": "user", "content": ""}]},
        {"input": [{"type": "item_reference", "id": "rs_1"}]},
        {"input": "hi", "tools": [{**TOOL, "parameters": None, "description": None}]},
        {"input": "hi", "tool_choice": None, "text": {"format": None}, "reasoning": {"summary": "auto"}},
    ],
)
def test_the_form_takes_what_the_reader_takes(body: dict[str, Any]) -> None:
    assert read_response(body)
    assert FORM.is_valid(body)
