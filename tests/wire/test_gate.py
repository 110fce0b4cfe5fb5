"""The gate's documents, by values: a field at fault is told by its path."""

from __future__ import annotations

from typing import Any

import pytest

from flaskllm.domain.embedding import EmbedResult
from flaskllm.domain.image import ImageResult
from flaskllm.domain.usage import Usage
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


IMAGE = {"prompt": {"message": "A cat wearing a hat"}}


def image(name: str, value: Any) -> dict[str, Any]:
    return {"prompt": {"message": "A cat", "parameter": {name: value}}}


BAD_IMAGES: list[tuple[Any, str]] = [
    ({}, "prompt"),
    *(({"prompt": value}, "prompt") for value in but({}, {"a": 1})),
    ({"prompt": {}}, "prompt.message"),
    *(({"prompt": {"message": value}}, "prompt.message") for value in but("x", "x" * 300)),
    ({"prompt": {"message": "  "}}, "prompt.message"),
    ({"prompt": {"message": "x", "messages": []}}, "prompt.messages"),
    *(({**IMAGE, "provider": value}, "provider") for value in but(None, {}, {"a": 1})),
    *(({"prompt": {"message": "x", "parameter": value}}, P) for value in but(None, {}, {"a": 1})),
    (image("response_format", "url"), f"{P}.response_format"),
    *((image("n", value), f"{P}.n") for value in but(None, 1)),
    (image("n", 0), f"{P}.n"),
    (image("n", 11), f"{P}.n"),
    *((image("size", value), f"{P}.size") for value in but(None)),
    *((image("size", value), f"{P}.size") for value in ("1024", "1024X1024", "0x0", "1024x1024x1", "9" * 9 + "x1")),
    *((image("quality", value), f"{P}.quality") for value in but(None, "x")),
    *((image("style", value), f"{P}.style") for value in but(None, "x")),
    *((image("user", value), f"{P}.user") for value in but(None, "", "x", "x" * 300)),
    *((image("dropParams", value), f"{P}.dropParams") for value in but(None, True)),
]  # fmt: skip
EMBED = {"input": "hello"}
BAD_EMBEDDINGS: list[tuple[Any, str]] = [
    ({}, "input"),
    *(({"input": value}, "input") for value in but("x", "x" * 300, [1])),
    *(({"input": ["x", value]}, "input[1]") for value in but("x", "x" * 300)),
    ({"input": ["x"] * 2049}, "input"),
    *(({**EMBED, "provider": value}, "provider") for value in but(None, {}, {"a": 1})),
    *(({**EMBED, "parameter": value}, "parameter") for value in but(None, {}, {"a": 1})),
    *(({**EMBED, "parameter": {"dimensions": value}}, "parameter.dimensions") for value in but(None, 1)),
    ({**EMBED, "parameter": {"dimensions": 0}}, "parameter.dimensions"),
    *(({**EMBED, "parameter": {"user": value}}, "parameter.user") for value in but(None, "", "x", "x" * 300)),
    *(({**EMBED, "parameter": {"dropParams": value}}, "parameter.dropParams") for value in but(None, True)),
    ({**EMBED, "prompt": {}}, "prompt"),
    ({**EMBED, "encoding_format": "base64"}, "encoding_format"),
]


@pytest.mark.parametrize("body, field", BAD_IMAGES)
def test_a_bad_field_of_an_image_is_named(body: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        gate.read_images(body)
    assert field in [detail["field"] for detail in refusal.value.details]


@pytest.mark.parametrize("body, field", BAD_EMBEDDINGS)
def test_a_bad_field_of_embeddings_is_named(body: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        gate.read_embeddings(body)
    assert field in [detail["field"] for detail in refusal.value.details]


def test_an_image_is_read_as_the_seed_prints_it() -> None:
    body = {
        "provider": {"name": "azure_openai", "model": {"name": "dall-e-3"}},
        "prompt": {"message": "A cat", "parameter": {"n": 1, "size": "1024x1024", "quality": "HD", "style": None}},
    }
    read = gate.read_images(body)
    assert (read.provider, read.model, read.prompt) == ("azure_openai", "dall-e-3", "A cat")
    assert read.params == {"n": 1, "size": "1024x1024", "quality": "hd"}


@pytest.mark.parametrize(
    "encoded, url",
    [
        ("iVBORw0KGgoAAA", "data:image/png;base64,iVBORw0KGgoAAA"),
        ("/9j/4AAQ", "data:image/jpeg;base64,/9j/4AAQ"),
        ("UklGRiQA", "data:image/webp;base64,UklGRiQA"),
    ],
)
def test_an_image_that_came_as_data_is_a_data_url(encoded: str, url: str) -> None:
    drawn = ImageResult(images=[{"url": "https://x/y.png", "revised_prompt": "z"}, {"b64_json": encoded}], usage=None)
    assert gate.write_images(drawn) == {"data": [{"url": "https://x/y.png"}, {"url": url}]}


def test_texts_to_embed_are_a_list_and_vectors_come_in_their_order() -> None:
    one = gate.read_embeddings({"input": "a", "parameter": {"dimensions": 3, "dropParams": True}})
    assert (one.inputs, one.params, one.drop_params) == (["a"], {"dimensions": 3}, True)
    assert gate.read_embeddings({"input": ["a", "a"]}).inputs == ["a", "a"]
    written = gate.write_embeddings(EmbedResult(vectors=[[0.5], [1.0]], usage=None), Usage(input=2))
    assert written == {
        "data": [{"index": 0, "embedding": [0.5]}, {"index": 1, "embedding": [1.0]}],
        "usage": {"completionTokens": 0, "promptTokens": 2, "totalTokens": 2},
    }


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
