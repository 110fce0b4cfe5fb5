"""The gate's documents, by values: a field at fault is told by its path."""

from __future__ import annotations

from typing import Any

import pytest

from flaskllm.errors import InvalidRequest
from flaskllm.wire import gate

USER = {"role": "user", "content": "hello"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


def asking(*messages: Any, **parameter: Any) -> dict[str, Any]:
    """S2's chat."""
    return {"prompt": {"parameter": parameter, "messages": list(messages) or [USER]}}


WRONG: list[Any] = [None, "", "x", 1, -1, 1.5, True, [], [1], {}, {"a": 1}, 2**63, -(10**30), "\x00", "x" * 300]


def but(*valid: Any) -> list[Any]:
    """All that is wrong, but for what is right here."""
    right = {(type(value), repr(value)) for value in valid}
    return [value for value in WRONG if (type(value), repr(value)) not in right]


def parameter(name: str, value: Any) -> dict[str, Any]:
    return {"prompt": {"messages": [USER], "parameter": {name: value}}}


def message(**fields: Any) -> dict[str, Any]:
    return asking({**USER, **fields})


P, M = "prompt.parameter", "prompt.messages"
BAD: list[tuple[Any, str]] = [
    *(({**asking(), "provider": value}, "provider") for value in but(None, {}, {"a": 1})),
    *(({**asking(), "provider": {"name": value}}, "provider.name") for value in but(None, "x")),
    *(({**asking(), "provider": {"model": value}}, "provider.model") for value in but(None, {}, {"a": 1})),
    *(({**asking(), "provider": {"model": {"name": value}}}, "provider.model.name") for value in but(None, "x")),
    ({**asking(), "provider": {"model": {"name": "x" * 257}}}, "provider.model.name"),
    ({**asking(), "provider": {"api_base": "http://x"}}, "provider.api_base"),
    ({**asking(), "provider": {"model": {"id": "x"}}}, "provider.model.id"),
    ({**asking(), "stream": True}, "stream"),
    ({}, "prompt"),
    *(({"prompt": value}, "prompt") for value in but({}, {"a": 1})),
    ({"prompt": {}}, M),
    ({"prompt": {"messages": [USER], "parameters": {}}}, "prompt.parameters"),
    *(({"prompt": {"messages": value}}, M) for value in but([1])),
    *(({"prompt": {"messages": [USER, value]}}, f"{M}[1]") for value in but({}, {"a": 1})),
    *(({"prompt": {"messages": [USER], "parameter": value}}, P) for value in but(None, {}, {"a": 1})),
    (parameter("max_tokens", 5), f"{P}.max_tokens"),
    (parameter("api_key", "x"), f"{P}.api_key"),
    (parameter("x" * 500, 1), f"{P}.{'x' * 80}"),
    *((parameter("temperature", value), f"{P}.temperature") for value in but(None, 1, 1.5)),
    (parameter("temperature", 2.1), f"{P}.temperature"),
    (parameter("temperature", float("nan")), f"{P}.temperature"),
    *((parameter("topP", value), f"{P}.topP") for value in but(None, 1)),
    *((parameter("maxTokens", value), f"{P}.maxTokens") for value in but(None, 1)),
    (parameter("maxTokens", 0), f"{P}.maxTokens"),
    *((parameter("maxCompletionTokens", value), f"{P}.maxCompletionTokens") for value in but(None, 1)),
    *((parameter("n", value), f"{P}.n") for value in but(None, 1)),
    (parameter("n", 129), f"{P}.n"),
    *((parameter("seed", value), f"{P}.seed") for value in but(None, 1, -1)),
    *((parameter("presencePenalty", value), f"{P}.presencePenalty") for value in but(None, 1, -1, 1.5)),
    *((parameter("frequencyPenalty", value), f"{P}.frequencyPenalty") for value in but(None, 1, -1, 1.5)),
    *((parameter("user", value), f"{P}.user") for value in but(None, "", "x", "x" * 300)),
    *((parameter("reasoningEffort", value), f"{P}.reasoningEffort") for value in but(None, "", "x")),
    *((parameter("verbosity", value), f"{P}.verbosity") for value in but(None, "", "x")),
    *((parameter("dropParams", value), f"{P}.dropParams") for value in but(None, True)),
    *((parameter("parallelToolCalls", value), f"{P}.parallelToolCalls") for value in but(None, True)),
    *((parameter("stop", value), f"{P}.stop") for value in but(None, "", "x", [], "\x00", "x" * 300)),
    (parameter("stop", ["x"] * 5), f"{P}.stop"),
    *((parameter("logitBias", value), f"{P}.logitBias") for value in but(None, {}, {"a": 1})),
    *((parameter("responseFormat", value), f"{P}.responseFormat") for value in but(None)),
    *((parameter("toolChoice", value), f"{P}.toolChoice") for value in but(None)),
    *((parameter("tools", value), f"{P}.tools") for value in but(None, [], [1])),
    (parameter("tools", [1]), f"{P}.tools[0].function.name"),
    (parameter("tools", [{"function": {"name": "f", "parameters": 5}}]), f"{P}.tools[0].function.parameters"),
    *((message(role=value), f"{M}[0].role") for value in WRONG),
    ({"prompt": {"messages": [{"content": "x"}]}}, f"{M}[0].role"),
    ({"prompt": {"messages": [{"role": "user"}]}}, f"{M}[0].content"),
    *((message(content=value), f"{M}[0].content") for value in but("", "x", [1], "\x00", "x" * 300)),
    (message(content=[1]), f"{M}[0].content[0].type"),
    (message(content=[{"type": "text"}]), f"{M}[0].content[0].text"),
    (message(content=[PICTURE, {**PICTURE, "image_url": {"url": "ftp://x"}}]), f"{M}[0].content[1].image_url.url"),
    *((message(name=value), f"{M}[0].name") for value in but(None, "", "x")),
    (message(tool_calls=[CALL]), f"{M}[0].tool_calls"),
    *((message(toolCalls=value), f"{M}[0].toolCalls") for value in but(None, [], [1])),
    (message(toolCalls=[1]), f"{M}[0].toolCalls[0].id"),
    (message(toolCalls=[{"id": "x"}]), f"{M}[0].toolCalls[0].function.name"),
    (asking({"role": "tool", "content": "x"}), f"{M}[0].toolCallId"),
    *((message(role="tool", toolCallId=value), f"{M}[0].toolCallId") for value in but("", "x")),
]  # fmt: skip


@pytest.mark.parametrize("body, field", BAD, ids=[f"{field[:50]}-{number}" for number, (_, field) in enumerate(BAD)])
def test_a_bad_field_of_a_chat_is_named(body: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        gate.read_chat(body)
    assert field in [detail["field"] for detail in refusal.value.details]


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        gate.read_chat({"provider": {"x": 1}, "more": 2, "prompt": {"parameter": {"maxTokens": "50"}, "messages": [3]}})
    assert sorted(detail["field"] for detail in refusal.value.details) == [
        "more", "prompt.messages[0]", "prompt.parameter.maxTokens", "provider.x",
    ]  # fmt: skip


def test_nulls_count_as_left_out() -> None:
    read = gate.read_chat({"provider": None, **asking({**USER, "name": None}, temperature=None, stop=None)})
    assert (read.provider, read.model, read.params, read.messages) == (None, None, {}, [USER])


def test_names_are_turned_and_what_stands_inside_is_not() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "maxItems": 1}}}
    read = gate.read_chat(asking(
        {"role": "assistant", "content": None, "toolCalls": [CALL]},
        {"role": "tool", "toolCallId": "call_1", "content": [PICTURE]},
        tools=[tool], maxTokens=5, logitBias={"aB": 1},
    ))  # fmt: skip
    assert read.params == {"tools": [tool], "max_tokens": 5, "logit_bias": {"aB": 1}}
    assert read.messages == [
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": [PICTURE]},
    ]
