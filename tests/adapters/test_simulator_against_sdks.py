"""The simulator held to the vendors' own SDKs: what they send is accepted, what it answers they parse, and what the
real services refuse it refuses. Only when this holds do the other tests' upstream answers mean anything."""

from __future__ import annotations

import base64
import json
import random
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai
from google.genai import errors as genai_errors
from google.genai import types
from jsonschema import validate

from tests.upstream import RemoteUpstream, Upstream, faults
from tests.upstream.images import PIXEL

SYSTEM_TRUST = ssl.create_default_context()
GPT, CLAUDE, GEMINI = "gpt-4o", "claude-sonnet-5", "gemini-2.5-flash"
PLACE: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
CLOSED_PLACE = {**PLACE, "additionalProperties": False}
DATA_URL = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
IMAGE_NOTE = f"image image/png {len(PIXEL)} bytes"
HI: list[Any] = [{"role": "user", "content": "hello there"}]
OPENAI_TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "parameters": PLACE}},
    {"type": "function", "function": {"name": "clock", "parameters": PLACE}},
]
CLAUDE_TOOLS: list[Any] = [{"name": name, "input_schema": PLACE} for name in ("weather", "clock")]
GEMINI_SCHEMA = {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]}
GEMINI_TOOLS: list[Any] = [
    {
        "functionDeclarations": [
            {"name": "weather", "parameters": GEMINI_SCHEMA},
            {"name": "clock", "parameters": GEMINI_SCHEMA},
        ]
    }
]


@pytest.fixture(scope="module")
def running() -> Iterator[Upstream]:
    with Upstream() as up:
        yield up


@pytest.fixture
def up(running: Upstream) -> Upstream:
    running.reset()
    return running


@pytest.fixture
def gpt(up: Upstream) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=up.openai_base, api_key=up.keys["openai"], max_retries=0) as client:
        yield client


@pytest.fixture
def claude(up: Upstream) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=up.anthropic_base, api_key=up.keys["anthropic"], max_retries=0) as client:
        yield client


@pytest.fixture
def gemini(up: Upstream) -> Iterator[genai.Client]:
    options = types.HttpOptions(base_url=up.gemini_base, api_version="v1beta")
    with genai.Client(api_key=up.keys["gemini"], http_options=options) as client:
        yield client


def plain_client(timeout: float = 5) -> httpx2.Client:
    """A client for bare HTTP; the shared context saves reading the system's certificates for each."""
    return httpx2.Client(timeout=timeout, trust_env=False, verify=SYSTEM_TRUST)


@pytest.fixture
def http() -> Iterator[httpx2.Client]:
    with plain_client() as client:
        yield client


def azure(up: Upstream, region: str = "") -> openai.AzureOpenAI:
    endpoint, key = up.azure_region(region) if region else (up.azure_endpoint, up.keys["azure"])
    return openai.AzureOpenAI(azure_endpoint=endpoint, api_key=key, api_version="2025-04-01-preview", max_retries=0)


def tool_config(**config: Any) -> types.GenerateContentConfig:
    return types.GenerateContentConfig(
        tools=[types.Tool.model_validate(tool) for tool in GEMINI_TOOLS],
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        **config,
    )


# --- OpenAI -------------------------------------------------------------------------------------------------------


def test_openai_sdk_reads_a_plain_answer_with_its_usage(gpt: openai.OpenAI) -> None:
    answer = gpt.chat.completions.create(model=GPT, messages=HI)
    assert answer.choices[0].message.content == "echo: hello there"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (2, 3, 5)


def test_openai_sdk_reads_a_stream_and_the_usage_only_when_asked(gpt: openai.OpenAI) -> None:
    bare = list(gpt.chat.completions.create(model=GPT, messages=HI, stream=True))
    asked = list(
        gpt.chat.completions.create(model=GPT, messages=HI, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in bare) == "echo: hello there"
    assert all(chunk.usage is None for chunk in [*bare, *asked[:-1]])
    assert asked[-1].choices == []
    assert asked[-1].usage is not None
    assert asked[-1].usage.completion_tokens == 3


@pytest.mark.parametrize("text,names", [("use a tool", ["weather"]), ("use two tools", ["weather", "clock"])])
def test_openai_sdk_reads_tool_calls(gpt: openai.OpenAI, text: str, names: list[str]) -> None:
    answer = gpt.chat.completions.create(model=GPT, messages=[{"role": "user", "content": text}], tools=OPENAI_TOOLS)
    calls = answer.choices[0].message.tool_calls or []
    assert [call.function.name for call in calls if call.type == "function"] == names
    assert answer.choices[0].finish_reason == "tool_calls"
    for call in calls:
        validate(json.loads(call.function.arguments), PLACE)


def test_openai_sdk_gathers_streamed_tool_calls(gpt: openai.OpenAI) -> None:
    with gpt.chat.completions.stream(
        model=GPT, messages=[{"role": "user", "content": "use two tools"}], tools=OPENAI_TOOLS
    ) as stream:
        answer = stream.get_final_completion()
    calls = answer.choices[0].message.tool_calls or []
    assert [call.function.name for call in calls] == ["weather", "clock"]
    assert json.loads(calls[1].function.arguments) == {"city": "sample", "days": 1}


def test_openai_sdk_carries_tool_results_back(gpt: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "use two tools"}]
    first = gpt.chat.completions.create(model=GPT, messages=messages, tools=OPENAI_TOOLS).choices[0].message
    messages.append(first.to_dict())
    for number, call in enumerate(first.tool_calls or []):
        messages.append({"role": "tool", "tool_call_id": call.id, "content": f"result {number}"})
    second = gpt.chat.completions.create(model=GPT, messages=messages, tools=OPENAI_TOOLS)
    assert second.choices[0].message.content == "results: result 0; result 1"


def test_openai_sdk_forces_and_forbids_a_tool(gpt: openai.OpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "clock"}}
    forced = gpt.chat.completions.create(model=GPT, messages=HI, tools=OPENAI_TOOLS, tool_choice=named)
    assert forced.choices[0].message.tool_calls[0].function.name == "clock"
    talk: Any = [{"role": "user", "content": "use a tool"}]
    free = gpt.chat.completions.create(model=GPT, messages=talk, tools=OPENAI_TOOLS, tool_choice="none")
    assert free.choices[0].message.content == "echo: use a tool"


def test_openai_sdk_gets_json_that_fits_a_strict_schema(gpt: openai.OpenAI) -> None:
    shape: Any = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": CLOSED_PLACE}}
    answer = gpt.chat.completions.create(model=GPT, messages=HI, response_format=shape)
    validate(json.loads(answer.choices[0].message.content or ""), CLOSED_PLACE)


@pytest.mark.parametrize(
    "url,note", [(DATA_URL, IMAGE_NOTE), ("https://x.test/a.png", "image url https://x.test/a.png")]
)
def test_openai_sdk_sends_images(gpt: openai.OpenAI, url: str, note: str) -> None:
    content: Any = [{"type": "text", "text": "what is it"}, {"type": "image_url", "image_url": {"url": url}}]
    answer = gpt.chat.completions.create(model=GPT, messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content == note
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3 + 85


def test_openai_sdk_sees_a_cut_answer(gpt: openai.OpenAI) -> None:
    answer = gpt.chat.completions.create(model=GPT, messages=HI, max_tokens=2)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("echo: hello", "length")


def test_openai_sdk_reads_usage_buckets(up: Upstream, gpt: openai.OpenAI) -> None:
    up.script(faults.usage(input=10, cached=30, output=5, reasoning=7), times=1)
    usage = gpt.chat.completions.create(model=GPT, messages=HI).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (40, 12)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 30
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 7


def test_openai_sdk_raises_for_a_wrong_key_and_an_unknown_model(up: Upstream, gpt: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        gpt.chat.completions.create(model="no-such-model", messages=HI)
    up.revoke_key(up.keys["openai"])
    with pytest.raises(openai.AuthenticationError) as caught:
        gpt.chat.completions.create(model=GPT, messages=HI)
    assert caught.value.code == "invalid_api_key"
    assert up.keys["openai"] not in str(caught.value)


def test_openai_sdk_lists_embeds_and_draws(gpt: openai.OpenAI) -> None:
    assert GPT in [model.id for model in gpt.models.list()]
    packed = gpt.embeddings.create(model="text-embedding-3-small", input=["a b", "c"], dimensions=8)
    plain = gpt.embeddings.create(model="text-embedding-3-small", input="a b", dimensions=8, encoding_format="float")
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert packed.usage.prompt_tokens == 3
    drawn = gpt.images.generate(model="gpt-image-1", prompt="a red dot")
    assert drawn.data is not None
    assert base64.b64decode(drawn.data[0].b64_json or "") == PIXEL
    assert drawn.usage is not None
    assert (drawn.size, drawn.output_format, drawn.usage.total_tokens) == ("1024x1024", "png", 88)


def test_openai_sdk_draws_by_address_and_in_bytes(gpt: openai.OpenAI, http: httpx2.Client) -> None:
    kept = gpt.images.generate(model="dall-e-3", prompt="a red dot", size="1792x1024", quality="hd", style="vivid")
    assert kept.data is not None
    assert (kept.data[0].b64_json, kept.data[0].revised_prompt, kept.usage) == (None, "as it was drawn", None)
    assert http.get(kept.data[0].url or "").content == PIXEL
    sent = gpt.images.generate(model="dall-e-2", prompt="a red dot", n=2, size="256x256", response_format="b64_json")
    assert [base64.b64decode(image.b64_json or "") for image in sent.data or ()] == [PIXEL, PIXEL]


MEDIA_REFUSES: list[tuple[str, dict[str, Any], str, str]] = [
    ("embeddings", {"input": ""}, "'$.input' is invalid", ""),
    ("embeddings", {"input": ["a", ""]}, "'$.input' is invalid", ""),
    ("embeddings", {"input": [[1], []]}, "'$.input' is invalid", ""),
    ("embeddings", {"input": ["a"] * 2049}, "maximum length 2048", "array_above_max_length"),
    ("embeddings", {"encoding_format": "hex"}, "'float', 'base64'", "invalid_value"),
    ("embeddings", {"dimensions": 1537}, "Expected a value <= 1536", "integer_above_max_value"),
    ("embeddings", {"dimensions": 1.5}, "expected an integer", "invalid_type"),
    ("embeddings", {"model": "text-embedding-ada-002", "dimensions": 8}, "does not support specifying", ""),
    ("embeddings", {"truncate": True}, "Unknown parameter: 'truncate'.", "unknown_parameter"),
    ("images/generations", {"prompt": ""}, "Missing required parameter: 'prompt'.", "missing_required_parameter"),
    ("images/generations", {"prompt": "x" * 1001}, "maximum length 1000", "string_above_max_length"),
    ("images/generations", {"n": 11}, "Expected a value <= 10", "integer_above_max_value"),
    ("images/generations", {"model": "dall-e-3", "n": 2}, "Expected a value <= 1", "integer_above_max_value"),
    ("images/generations", {"size": "333x444"}, "'256x256', '512x512', '1024x1024'", "invalid_value"),
    ("images/generations", {"quality": "hd"}, "Supported values are: 'standard'", "invalid_value"),
    ("images/generations", {"style": "vivid"}, "Unknown parameter: 'style'.", "unknown_parameter"),
    ("images/generations", {"background": "opaque"}, "Unknown parameter: 'background'.", "unknown_parameter"),
    (
        "images/generations",
        {"model": "gpt-image-1", "response_format": "url"},
        "'response_format'",
        "unknown_parameter",
    ),
    ("images/generations", {"model": "gpt-image-1", "output_compression": 101}, "<= 100", "integer_above_max_value"),
    ("images/generations", {"model": "gpt-image-1", "quality": "hd"}, "'low', 'medium', 'high'", "invalid_value"),
]


@pytest.mark.parametrize("path,change,message,code", MEDIA_REFUSES)
def test_openai_refuses_beside_the_chat(
    up: Upstream, http: httpx2.Client, path: str, change: dict[str, Any], message: str, code: str
) -> None:
    usual = {"embeddings": {"model": "text-embedding-3-small", "input": "a"}}
    body = {**usual.get(path, {"model": "dall-e-2", "prompt": "a"}), **change}
    answer = http.post(f"{up.openai_base}/{path}", json=body, headers={"authorization": f"Bearer {up.keys['openai']}"})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
    assert answer.json()["error"]["code"] == (code or None)


# --- Azure --------------------------------------------------------------------------------------------------------


def test_azure_sdk_talks_to_a_deployment_and_meets_the_startup_chunk(up: Upstream) -> None:
    with azure(up) as client:
        plain = client.chat.completions.create(model="our-deployment", messages=HI)
        chunks = list(client.chat.completions.create(model="our-deployment", messages=HI, stream=True))
    assert plain.choices[0].message.content == "echo: hello there"
    assert chunks[0].choices == []
    assert up.requests[0].path.startswith("/azure/openai/deployments/our-deployment/")


def test_azure_v1_needs_no_api_version(up: Upstream) -> None:
    base = f"{up.azure_endpoint}/openai/v1"
    with openai.OpenAI(base_url=base, api_key=up.keys["azure"], max_retries=0) as client:
        assert (
            client.chat.completions.create(model="dep", messages=HI).choices[0].message.content == "echo: hello there"
        )


def test_azure_regions_have_their_own_keys(up: Upstream) -> None:
    with azure(up, "east") as east, azure(up, "west") as west:
        assert east.chat.completions.create(model="dep", messages=HI).choices
        with pytest.raises(openai.AuthenticationError):
            west.with_options(api_key=up.keys["azure-east"]).chat.completions.create(model="dep", messages=HI)


def test_azure_filter_is_a_400_that_says_why(up: Upstream) -> None:
    up.script("content_filter", vendor="azure", times=1)
    with azure(up) as client, pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="dep", messages=HI)
    assert caught.value.code == "content_filter"
    assert caught.value.body["innererror"]["code"] == "ResponsibleAIPolicyViolation"


# --- Anthropic ----------------------------------------------------------------------------------------------------


def test_anthropic_sdk_reads_a_plain_answer_with_its_usage(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(model=CLAUDE, max_tokens=50, messages=HI, system="be brief")
    assert [block.text for block in answer.content if block.type == "text"] == ["echo: hello there"]
    assert answer.stop_reason == "end_turn"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (4, 3)


def test_anthropic_sdk_reads_a_stream_with_running_usage(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(model=CLAUDE, max_tokens=50, messages=HI) as stream:
        assert list(stream.text_stream) == ["echo: ", "hello ", "there"]
        assert stream.get_final_message().usage.output_tokens == 3


@pytest.mark.parametrize("text,names", [("use a tool", ["weather"]), ("use two tools", ["weather", "clock"])])
def test_anthropic_sdk_reads_tool_calls_plain_and_streamed(
    claude: anthropic.Anthropic, text: str, names: list[str]
) -> None:
    asked: dict[str, Any] = {"model": CLAUDE, "max_tokens": 50, "messages": [{"role": "user", "content": text}]}
    plain = claude.messages.create(**asked, tools=CLAUDE_TOOLS)
    with claude.messages.stream(**asked, tools=CLAUDE_TOOLS) as stream:
        streamed = stream.get_final_message()
    for answer in (plain, streamed):
        assert [(block.name, block.input) for block in answer.content if block.type == "tool_use"] == [
            (name, {"city": "sample", "days": 1}) for name in names
        ]
        assert answer.stop_reason == "tool_use"


def test_anthropic_sdk_carries_tool_results_and_thinking_back(claude: anthropic.Anthropic) -> None:
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    messages: list[Any] = [{"role": "user", "content": "use two tools"}]
    asked: dict[str, Any] = {"model": CLAUDE, "max_tokens": 2000, "tools": CLAUDE_TOOLS, "thinking": thinking}
    first = claude.messages.create(messages=messages, **asked)
    assert first.content[0].type == "thinking"
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": f"done {block.name}"}
        for block in first.content
        if block.type == "tool_use"
    ]
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    second = claude.messages.create(messages=messages, **asked)
    assert second.content[-1].text == "results: done weather; done clock"


def test_anthropic_sdk_gets_json_that_fits_its_schema(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(
        model=CLAUDE,
        max_tokens=50,
        messages=HI,
        output_config={"format": {"type": "json_schema", "schema": CLOSED_PLACE}},
    )
    validate(json.loads(answer.content[0].text), CLOSED_PLACE)


def test_anthropic_sdk_forces_one_tool(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(
        model=CLAUDE, max_tokens=50, messages=HI, tools=CLAUDE_TOOLS, tool_choice={"type": "tool", "name": "clock"}
    )
    assert [block.name for block in answer.content if block.type == "tool_use"] == ["clock"]


def test_anthropic_sdk_sends_an_image(claude: anthropic.Anthropic) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(PIXEL).decode()}
    content: Any = [{"type": "image", "source": source}]
    answer = claude.messages.create(model=CLAUDE, max_tokens=50, messages=[{"role": "user", "content": content}])
    assert answer.content[0].text == IMAGE_NOTE
    assert answer.usage.input_tokens == 85


def test_anthropic_sdk_reads_cache_buckets_that_come_on_top(up: Upstream, claude: anthropic.Anthropic) -> None:
    up.script(faults.usage(input=10, cached=30, cache_write=20, output=5), times=1)
    usage = claude.messages.create(model=CLAUDE, max_tokens=50, messages=HI).usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (10, 30, 20)
    assert usage.cache_creation is not None
    assert usage.cache_creation.ephemeral_5m_input_tokens == 20


def test_anthropic_takes_temperature_only_under_the_old_version(claude: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {"model": CLAUDE, "max_tokens": 5, "messages": HI, "extra_body": {"temperature": 0.5}}
    with pytest.raises(anthropic.BadRequestError, match="temperature: Extra inputs are not permitted"):
        claude.messages.create(**asked)
    assert claude.messages.create(**asked, extra_headers={"anthropic-version": "2023-06-01"}).content


def test_anthropic_sdk_raises_for_a_wrong_key_and_an_overload(up: Upstream, claude: anthropic.Anthropic) -> None:
    up.script(faults.status(529), times=1)
    with pytest.raises(anthropic.InternalServerError, match="overloaded_error"):
        claude.messages.create(model=CLAUDE, max_tokens=5, messages=HI)
    with pytest.raises(anthropic.AuthenticationError, match="invalid x-api-key"):
        claude.with_options(api_key="wrong").messages.create(model=CLAUDE, max_tokens=5, messages=HI)


def test_anthropic_sdk_raises_for_an_error_event_mid_stream(up: Upstream, claude: anthropic.Anthropic) -> None:
    up.script(faults.error_mid_stream(4, 529), times=1)
    with (
        pytest.raises(anthropic.APIStatusError, match="Overloaded"),
        claude.messages.stream(model=CLAUDE, max_tokens=50, messages=HI) as stream,
    ):
        stream.until_done()


def test_anthropic_sdk_counts_and_lists(claude: anthropic.Anthropic) -> None:
    assert claude.messages.count_tokens(model=CLAUDE, messages=HI).input_tokens == 2
    assert CLAUDE in [model.id for model in claude.models.list()]


# --- Gemini -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_gemini_sdk_reads_a_plain_answer_with_its_usage(up: Upstream, version: str) -> None:
    options = types.HttpOptions(base_url=up.gemini_base, api_version=version)
    with genai.Client(api_key=up.keys["gemini"], http_options=options) as client:
        answer = client.models.generate_content(model=GEMINI, contents="hello there")
    assert answer.text == "echo: hello there"
    usage = answer.usage_metadata
    assert usage is not None
    assert (usage.prompt_token_count, usage.candidates_token_count, usage.total_token_count) == (2, 3, 5)


def test_gemini_sdk_reads_a_stream_in_which_every_chunk_has_usage(gemini: genai.Client) -> None:
    chunks = list(gemini.models.generate_content_stream(model=GEMINI, contents="hello there"))
    assert [chunk.text for chunk in chunks] == ["echo: ", "hello ", "there"]
    assert [chunk.usage_metadata.candidates_token_count for chunk in chunks if chunk.usage_metadata] == [1, 2, 3]
    assert chunks[-1].candidates is not None
    assert chunks[-1].candidates[0].finish_reason == types.FinishReason.STOP


@pytest.mark.parametrize("text,names", [("use a tool", ["weather"]), ("use two tools", ["weather", "clock"])])
def test_gemini_sdk_reads_tool_calls_plain_and_streamed(gemini: genai.Client, text: str, names: list[str]) -> None:
    plain = gemini.models.generate_content(model=GEMINI, contents=text, config=tool_config())
    streamed = gemini.models.generate_content_stream(model=GEMINI, contents=text, config=tool_config())
    assert [(call.name, call.args) for call in plain.function_calls or []] == [(n, {"city": "sample"}) for n in names]
    assert [call.name for chunk in streamed for call in chunk.function_calls or []] == names


@pytest.mark.parametrize("model", [GEMINI, "gemini-3-pro"])
def test_gemini_sdk_carries_tool_results_back(gemini: genai.Client, model: str) -> None:
    contents: list[Any] = [types.UserContent("use two tools")]
    first = gemini.models.generate_content(model=model, contents=contents, config=tool_config())
    assert first.candidates is not None
    contents.append(first.candidates[0].content)
    contents.append(
        types.UserContent(
            [
                types.Part.from_function_response(name=str(call.name), response={"is": call.name})
                for call in first.function_calls or []
            ]
        )
    )
    second = gemini.models.generate_content(model=model, contents=contents, config=tool_config())
    assert second.text == "results: {'is': 'weather'}; {'is': 'clock'}"


@pytest.mark.parametrize("field,schema", [("response_schema", GEMINI_SCHEMA), ("response_json_schema", CLOSED_PLACE)])
def test_gemini_sdk_gets_json_that_fits_its_schema(gemini: genai.Client, field: str, schema: dict[str, Any]) -> None:
    config = types.GenerateContentConfig(response_mime_type="application/json", **{field: schema})
    answer = gemini.models.generate_content(model=GEMINI, contents="hello", config=config)
    assert json.loads(answer.text or "")["city"] == "sample"


def test_gemini_sdk_sends_an_image(gemini: genai.Client) -> None:
    image = types.Part.from_bytes(data=PIXEL, mime_type="image/png")
    assert gemini.models.generate_content(model=GEMINI, contents=[image]).text == IMAGE_NOTE


def test_gemini_sdk_reads_thoughts_beside_the_candidates(up: Upstream, gemini: genai.Client) -> None:
    up.script(faults.usage(input=10, cached=30, output=5, reasoning=7), times=1)
    usage = gemini.models.generate_content(model=GEMINI, contents="hi").usage_metadata
    assert usage is not None
    assert (usage.prompt_token_count, usage.cached_content_token_count) == (40, 30)
    assert (usage.candidates_token_count, usage.thoughts_token_count, usage.total_token_count) == (5, 7, 52)


def test_gemini_sdk_sees_a_blocked_prompt_without_candidates(up: Upstream, gemini: genai.Client) -> None:
    up.script("content_filter", vendor="gemini", times=1)
    answer = gemini.models.generate_content(model=GEMINI, contents="hi")
    assert answer.candidates is None
    assert answer.prompt_feedback is not None
    assert answer.prompt_feedback.block_reason == types.BlockedReason.PROHIBITED_CONTENT


def test_gemini_sdk_raises_for_a_wrong_key_as_a_400(up: Upstream, gemini: genai.Client) -> None:
    up.revoke_key(up.keys["gemini"])
    with pytest.raises(genai_errors.ClientError, match="API key not valid") as caught:
        gemini.models.generate_content(model=GEMINI, contents="hi")
    assert caught.value.code == 400


def test_gemini_sdk_counts_lists_and_embeds(gemini: genai.Client) -> None:
    assert gemini.models.count_tokens(model=GEMINI, contents="one two").total_tokens == 2
    assert f"models/{GEMINI}" in [model.name for model in gemini.models.list()]
    embedded = gemini.models.embed_content(model="gemini-embedding-001", contents=["a", "b"]).embeddings
    assert embedded is not None
    assert len(embedded) == 2
    config = types.EmbedContentConfig(output_dimensionality=7, task_type="CLUSTERING")
    short = gemini.models.embed_content(model="gemini-embedding-001", contents=["a"], config=config).embeddings
    assert short is not None
    assert len(short[0].values or ()) == 7
    with pytest.raises(genai_errors.ClientError, match="at most 100"):
        gemini.models.embed_content(model="gemini-embedding-001", contents=["a"] * 101)


def test_gemini_sdk_draws(gemini: genai.Client) -> None:
    config = types.GenerateContentConfig(
        response_modalities=["TEXT", "IMAGE"], image_config=types.ImageConfig(aspect_ratio="16:9")
    )
    answer = gemini.models.generate_content(model="gemini-2.5-flash-image", contents="a red dot", config=config)
    pictures = [part.inline_data.data for part in answer.parts or () if part.inline_data]
    assert pictures == [PIXEL]
    assert answer.usage_metadata is not None
    told = answer.usage_metadata.candidates_tokens_details or []
    assert [(one.modality, one.token_count) for one in told][-1] == (types.MediaModality.IMAGE, 1290)
    with pytest.raises(genai_errors.ClientError, match="combination of response modalities"):
        gemini.models.generate_content(model=GEMINI, contents="a red dot", config=config)
    wrong = types.GenerateContentConfig(
        response_modalities=["IMAGE"], image_config=types.ImageConfig(aspect_ratio="7:5")
    )
    with pytest.raises(genai_errors.ClientError, match="aspect_ratio"):
        gemini.models.generate_content(model="gemini-2.5-flash-image", contents="a red dot", config=wrong)


# --- the compatible ones ------------------------------------------------------------------------------------------


def test_grok_refuses_penalties_on_some_models_and_puts_usage_on_the_last_chunk(up: Upstream) -> None:
    with openai.OpenAI(base_url=up.grok_base, api_key=up.keys["grok"], max_retries=0) as client:
        assert client.chat.completions.create(model="grok-3", messages=HI, presence_penalty=1).choices
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="grok-4", messages=HI, presence_penalty=1)
        assert caught.value.body == "Argument not supported on this model: presencePenalty"
        last = list(client.chat.completions.create(model="grok-4", messages=HI, stream=True))[-1]
        assert last.choices[0].finish_reason == "stop"
        assert last.usage is not None
        assert last.usage.total_tokens == 5
        with pytest.raises(openai.BadRequestError):
            client.with_options(api_key="wrong").models.list()


def test_grok_draws_by_shape_and_not_by_size(up: Upstream) -> None:
    with openai.OpenAI(base_url=up.grok_base, api_key=up.keys["grok"], max_retries=0) as client:
        drawn = client.images.generate(model="grok-imagine-image", prompt="a", extra_body={"aspect_ratio": "16:9"})
        assert drawn.data is not None
        assert drawn.data[0].url
        with pytest.raises(openai.BadRequestError) as caught:
            client.images.generate(model="grok-imagine-image", prompt="a", size="1024x1024")
        assert caught.value.body == "Argument not supported: size"


def test_ngrok_shows_its_page_unless_the_header_is_there(up: Upstream, http: httpx2.Client) -> None:
    body = {"model": "m", "messages": HI}
    page = http.post(f"{up.ngrok_base}/v1/chat/completions", json=body)
    answer = http.post(f"{up.ngrok_base}/v1/chat/completions", json=body, headers={"ngrok-skip-browser-warning": "1"})
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html")
    assert answer.json()["choices"][0]["message"]["content"] == "echo: hello there"


def test_llama_heeds_max_tokens_alone_and_strict_knows_no_stream_options(up: Upstream) -> None:
    with openai.OpenAI(base_url=up.llama_base, api_key="none", max_retries=0) as client:
        ignored = client.chat.completions.create(model="llama", messages=HI, max_completion_tokens=1)
        heeded = client.chat.completions.create(model="llama", messages=HI, max_tokens=1)
        assert ignored.choices[0].message.content == "echo: hello there"
        assert heeded.choices[0].message.content == "echo:"
        with pytest.raises(openai.BadRequestError, match="stream_options"):
            client.chat.completions.create(
                model="llama-strict", messages=HI, stream=True, stream_options={"include_usage": True}
            )


# --- what is refused ----------------------------------------------------------------------------------------------

TOOL_TURN: list[Any] = [
    *HI,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
    },
]
IMAGE_PART = {"type": "image_url", "image_url": {"url": DATA_URL}}
LOOSE_SCHEMA = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": PLACE}}
OPENAI_REFUSES: list[tuple[dict[str, Any], str, str | None]] = [
    ({"nonsense": 1}, "Unrecognized request argument supplied: nonsense", None),
    ({"messages": None}, "Missing required parameter: 'messages'.", "missing_required_parameter"),
    ({"messages": []}, "Invalid 'messages': empty array.", "empty_array"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "Invalid value: 'robot'.", "invalid_value"),
    ({"messages": [{"role": "user", "content": None}]}, "expected a string, got null", None),
    ({"messages": [{"role": "user", "content": 5}]}, "Invalid type for 'messages[0].content'", "invalid_type"),
    ({"messages": [{"role": "user", "content": "x", "extra": 1}]}, "messages[0].extra", "unknown_parameter"),
    ({"messages": TOOL_TURN}, "did not have response messages: call_1", None),
    ({"messages": [*HI, {"role": "tool", "tool_call_id": "call_9", "content": "x"}]}, "must be a response to", None),
    ({"messages": [{"role": "system", "content": [IMAGE_PART]}]}, "Image URLs are only allowed", "invalid_value"),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,!"}}]}
            ]
        },
        "Invalid base64 image_url.",
        "invalid_base64",
    ),
    ({"temperature": 2.5}, "Expected a value <= 2", "decimal_above_max_value"),
    ({"temperature": "warm"}, "Invalid type for 'temperature'", "invalid_type"),
    ({"n": 0}, "Expected a value >= 1", "integer_below_min_value"),
    ({"n": 129}, "Expected a value <= 128", "integer_above_max_value"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "maximum length 4", "array_above_max_length"),
    ({"max_tokens": 5, "max_completion_tokens": 5}, "at the same time", "invalid_parameter_combination"),
    ({"model": "o3", "max_tokens": 5}, "Use 'max_completion_tokens' instead.", "unsupported_parameter"),
    ({"model": "gpt-5-mini", "temperature": 0.5}, "Only the default (1) value", "unsupported_value"),
    ({"reasoning_effort": "low"}, "Unrecognized request argument supplied: reasoning_effort", None),
    ({"stream_options": {"include_usage": True}}, "only allowed when 'stream' is enabled", None),
    ({"tool_choice": "auto"}, "only allowed when 'tools' are specified", None),
    ({"tools": []}, "Invalid 'tools': empty array.", "empty_array"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "does not match pattern", "invalid_value"),
    (
        {"tools": OPENAI_TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}},
        "Tool choice 'other' not found",
        None,
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": CLOSED_PLACE}}},
        "response_format.json_schema.name",
        "missing_required_parameter",
    ),
    ({"response_format": LOOSE_SCHEMA}, "'additionalProperties' is required to be supplied and to be false", None),
    ({"response_format": {"type": "json_object"}}, "must contain the word 'json'", None),
    (
        {
            "messages": [
                *HI,
                {
                    **TOOL_TURN[1],
                    "tool_calls": [{**TOOL_TURN[1]["tool_calls"][0], "function": {"name": "w", "arguments": {}}}],
                },
            ]
        },
        "expected a string, but got an object",
        "invalid_type",
    ),
]


@pytest.mark.parametrize("change,message,code", OPENAI_REFUSES)
def test_openai_refuses(
    up: Upstream, http: httpx2.Client, change: dict[str, Any], message: str, code: str | None
) -> None:
    body = {key: value for key, value in {"model": GPT, "messages": HI, **change}.items() if value is not None}
    answer = http.post(
        f"{up.openai_base}/chat/completions", json=body, headers={"authorization": f"Bearer {up.keys['openai']}"}
    )
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert message in error["message"]
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert set(error) == {"message", "type", "param", "code"}


USE = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}


def claude_turns(*turns: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[index % 2], "content": turn} for index, turn in enumerate(turns)]}


def claude_image(**source: Any) -> dict[str, Any]:
    return claude_turns([{"type": "image", "source": source}])


ANTHROPIC_REFUSES: list[tuple[dict[str, Any], str]] = [
    ({"nonsense": 1}, "nonsense: Extra inputs are not permitted"),
    ({"max_tokens": None}, "max_tokens: Field required"),
    ({"max_tokens": 10**6}, "which is the maximum allowed number of output tokens"),
    ({"messages": [{"role": "assistant", "content": "x"}, *HI]}, 'first message must use the "user" role'),
    ({"messages": [{"role": "system", "content": "x"}, *HI]}, 'Unexpected role "system"'),
    ({"messages": [*HI, {"role": "assistant", "content": "so"}]}, "does not support assistant message prefill"),
    (claude_turns(""), "all messages must have non-empty content"),
    (claude_turns([{"type": "text", "text": ""}]), "text content blocks must be non-empty"),
    (claude_turns(" \n"), "text content blocks must contain non-whitespace text"),
    (claude_turns("hi", [USE]), "`tool_use` ids were found without `tool_result` blocks immediately after: toolu_1"),
    (claude_turns("hi", [USE], "no result"), "`tool_use` ids were found without `tool_result` blocks"),
    (claude_turns("hi", [USE], [{"type": "text", "text": "first"}, RESULT]), "`tool_use` ids were found without"),
    (claude_turns([RESULT]), "unexpected `tool_use_id` found in `tool_result` blocks: toolu_1"),
    (claude_turns("hi", [{**USE, "input": "{}"}], [RESULT]), "input: Input should be a valid dictionary"),
    (claude_turns("hi", [{**USE, "id": "a:b"}], [RESULT]), "String should match pattern"),
    ({"thinking": {"type": "enabled", "budget_tokens": 4096}}, "`max_tokens` must be greater than"),
    ({"thinking": {"type": "enabled", "budget_tokens": 12}}, "greater than or equal to 1024"),
    ({"stop_sequences": [" "]}, "each stop sequence must contain non-whitespace"),
    ({"stop_sequences": list("abcde")}, "at most 4 items"),
    ({"tool_choice": {"type": "auto"}}, "may only be specified while providing tools"),
    ({"tools": CLAUDE_TOOLS, "tool_choice": "auto"}, "tool_choice: Input should be a valid dictionary"),
    ({"tools": CLAUDE_TOOLS, "tool_choice": {"type": "tool", "name": "x"}}, "Tool 'x' not found"),
    ({"tools": [{"name": "a", "input_schema": {}}]}, "input_schema.type: Field required"),
    ({"tools": OPENAI_TOOLS}, "tools.0.custom.name: Field required"),
    (claude_image(type="base64", media_type="image/tiff", data="AAAA"), "media_type: Input should be 'image/jpeg'"),
    (claude_image(type="base64", media_type="image/png", data="!!"), "invalid base64 data"),
    (
        claude_image(type="base64", media_type="image/jpeg", data=base64.b64encode(PIXEL).decode()),
        "the image appears to be a image/png image",
    ),
    (claude_image(type="url", url="http://x.test/a.png"), "Only HTTPS URLs are supported"),
    ({"temperature": 1.5}, "temperature: range: 0..1"),
    ({"output_config": {"format": {"type": "json_schema", "schema": PLACE}}}, "'additionalProperties' must be"),
]


@pytest.mark.parametrize("change,message", ANTHROPIC_REFUSES)
def test_anthropic_refuses(up: Upstream, http: httpx2.Client, change: dict[str, Any], message: str) -> None:
    given = {"model": CLAUDE, "max_tokens": 2048, "messages": HI, **change}
    body = {key: value for key, value in given.items() if value is not None}
    headers = {"x-api-key": up.keys["anthropic"], "anthropic-version": "2023-06-01"}
    answer = http.post(f"{up.anthropic_base}/v1/messages", json=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert message in answer.json()["error"]["message"]


def test_anthropic_merges_neighbours_and_wants_a_known_version(up: Upstream, http: httpx2.Client) -> None:
    body = {"model": CLAUDE, "max_tokens": 9, "messages": [*HI, {"role": "user", "content": "again"}]}
    headers = {"x-api-key": up.keys["anthropic"], "anthropic-version": "2026-10-21"}
    answer = http.post(f"{up.anthropic_base}/v1/messages", json=body, headers=headers)
    assert answer.json()["content"][0]["text"] == "echo: hello there again"
    for version in ({}, {"anthropic-version": "2020-01-01"}):
        answer = http.post(
            f"{up.anthropic_base}/v1/messages",
            json=body,
            headers={**headers, **version} if version else {"x-api-key": up.keys["anthropic"]},
        )
        assert answer.status_code == 400


CALL = {"role": "model", "parts": [{"functionCall": {"name": "weather", "args": {}}}]}
SAID = {"role": "user", "parts": [{"text": "hi"}]}


def gemini_result(*names: str) -> dict[str, Any]:
    return {"role": "user", "parts": [{"functionResponse": {"name": name, "response": {}}} for name in names]}


def gemini_tool(**parameters: Any) -> dict[str, Any]:
    return {"tools": [{"functionDeclarations": [{"name": "weather", "parameters": parameters}]}]}


CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
GEMINI_REFUSES: list[tuple[dict[str, Any], str]] = [
    ({"nonsense": 1}, 'Unknown name "nonsense": Cannot find field.'),
    ({"contents": []}, "contents is not specified"),
    ({"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]}, "Please use a valid role: user, model."),
    ({"contents": [{"role": "user", "parts": []}]}, "contents.parts must not be empty"),
    ({"contents": [{"role": "user", "parts": [{}]}]}, "required oneof field 'data' must have one initialized field"),
    ({"contents": [SAID, CALL, gemini_result("weather", "weather")]}, "number of function response parts is equal"),
    ({"contents": [SAID, CALL, SAID]}, "number of function response parts is equal"),
    ({"contents": [SAID, gemini_result("weather")]}, "comes immediately after a function call turn"),
    ({"contents": [SAID, CALL, gemini_result("filler")]}, "Function response name 'filler'"),
    (gemini_tool(**CITY, additionalProperties=False), 'Unknown name "additionalProperties" at \'tools[0].function'),
    (gemini_tool(**{"$ref": "#/$defs/a"}), 'Unknown name "$ref"'),
    (gemini_tool(type="object", properties={"a": {"type": ["string", "null"]}}), "Proto field is not repeating"),
    (gemini_tool(type="object", properties={}), "should be non-empty for OBJECT type"),
    (gemini_tool(type="object", properties={"a": {"type": "array"}}), "items: missing field"),
    (gemini_tool(**CITY, required=["town"]), "property is not defined"),
    (gemini_tool(type="object", properties={"a": {"type": "string", "format": "uri"}}), "only 'enum' and 'date-time'"),
    ({"generationConfig": {"max_tokens": 5}}, "Unknown name \"max_tokens\" at 'generation_config'"),
    ({"generationConfig": {"temperature": 3}}, "temperature must be in the range"),
    ({"generationConfig": {"maxOutputTokens": "many"}}, "(TYPE_INT32)"),
    ({"generationConfig": {"responseSchema": CITY}}, "only allowed when response_mime_type"),
    ({**gemini_tool(**CITY), "generationConfig": {"responseMimeType": "application/json"}}, "is unsupported"),
    ({"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "!"}}]}]}, "Base64 decoding failed"),
    ({"contents": [{"parts": [{"inlineData": {"mimeType": "image/bmp", "data": "AAAA"}}]}]}, "Unsupported MIME type"),
    ({"contents": [{"parts": [{"fileData": {"fileUri": "http://x.test/a.png"}}]}]}, "unsupported file uri"),
    ({"safetySettings": [{"category": "RUDE", "threshold": "OFF"}]}, "HarmCategory"),
    (
        {**gemini_tool(**CITY), "toolConfig": {"functionCallingConfig": {"allowedFunctionNames": ["weather"]}}},
        "allowed_function_names should only be set",
    ),
]


@pytest.mark.parametrize("change,message", GEMINI_REFUSES)
def test_gemini_refuses(up: Upstream, http: httpx2.Client, change: dict[str, Any], message: str) -> None:
    answer = http.post(
        f"{up.gemini_base}/v1beta/models/{GEMINI}:generateContent",
        json={"contents": [SAID], **change},
        headers={"x-goog-api-key": up.keys["gemini"]},
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert message in error["message"]


def test_gemini_3_wants_the_thought_signature_back(up: Upstream, http: httpx2.Client) -> None:
    answer = http.post(
        f"{up.gemini_base}/v1beta/models/gemini-3-pro:generateContent",
        json={"contents": [SAID, CALL, gemini_result("weather")], **gemini_tool(**CITY)},
        headers={"x-goog-api-key": up.keys["gemini"]},
    )
    assert answer.status_code == 400
    assert "missing a thought_signature" in answer.json()["error"]["message"]


def test_gemini_key_in_the_url_is_no_key_and_a_stream_without_alt_is_an_array(
    up: Upstream, http: httpx2.Client
) -> None:
    url, key = f"{up.gemini_base}/v1beta/models/{GEMINI}:streamGenerateContent", up.keys["gemini"]
    assert http.post(f"{url}?key={key}", json={"contents": [SAID]}).status_code == 403
    array = http.post(url, json={"contents": [SAID]}, headers={"x-goog-api-key": key}).json()
    assert len(array) == 2


def mangled(value: Any, dice: random.Random) -> Any:
    """The value with one random node replaced by something of another kind."""
    if not isinstance(value, (dict, list)) or not value or dice.random() < 0.15:
        return dice.choice([None, 7, "", "x", [], {}, [None], {"type": "x"}, True])
    place = dice.choice(list(value) if isinstance(value, dict) else range(len(value)))
    copy = value.copy()
    copy[place] = mangled(value[place], dice)
    return copy


def test_mangled_bodies_are_refused_and_never_break_the_simulator(up: Upstream, http: httpx2.Client) -> None:
    dice = random.Random(5)
    openai_body = {
        "model": GPT,
        "messages": [*TOOL_TURN, {"role": "tool", "tool_call_id": "call_1", "content": "x"}],
        "tools": OPENAI_TOOLS,
        "stop": ["a"],
        "response_format": LOOSE_SCHEMA,
    }
    claude_body = {
        "model": CLAUDE,
        "max_tokens": 9,
        "tools": CLAUDE_TOOLS,
        **claude_turns("hi", [USE], [RESULT]),
        "metadata": {"user_id": "u"},
        "tool_choice": {"type": "auto"},
        "system": [{"type": "text", "text": "s"}],
    }
    gemini_body = {
        "contents": [SAID, CALL, gemini_result("weather")],
        **gemini_tool(**CITY),
        "generationConfig": {"temperature": 1, "stopSequences": ["a"]},
        "systemInstruction": SAID,
    }
    keys = {
        "authorization": f"Bearer {up.keys['openai']}",
        "x-api-key": up.keys["anthropic"],
        "anthropic-version": "2023-06-01",
        "x-goog-api-key": up.keys["gemini"],
    }
    for url, body in (
        (f"{up.openai_base}/chat/completions", openai_body),
        (f"{up.anthropic_base}/v1/messages", claude_body),
        (f"{up.gemini_base}/v1beta/models/{GEMINI}:generateContent", gemini_body),
    ):
        for _ in range(300):
            answer = http.post(url, json=mangled(body, dice), headers=keys)
            assert answer.status_code in (200, 400)
            assert ("error" in answer.json()) == (answer.status_code == 400)


# --- faults -------------------------------------------------------------------------------------------------------


def chat(up: Upstream, http: httpx2.Client, **more: Any) -> httpx2.Response:
    headers = {"authorization": f"Bearer {up.keys['openai']}"}
    return http.post(f"{up.openai_base}/chat/completions", json={"model": GPT, "messages": HI, **more}, headers=headers)


def events(response: httpx2.Response) -> list[str]:
    return [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]


@pytest.mark.parametrize("fault", ["reset", "eof", "reset_after", "eof_after"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_broken_connection_is_a_transport_error(up: Upstream, http: httpx2.Client, fault: str, stream: bool) -> None:
    up.script(fault, times=1)
    with pytest.raises(httpx2.TransportError):
        chat(up, http, stream=stream)
    assert chat(up, http).status_code == 200


def test_a_hanging_call_is_in_flight_until_the_client_gives_up(up: Upstream) -> None:
    up.script("hang", times=1)
    with plain_client(0.2) as impatient, pytest.raises(httpx2.ReadTimeout):
        chat(up, impatient)
    assert up.wait_idle(2)
    assert up.bill[-1].peer_gone
    assert up.bill[-1].generated == 0


@pytest.mark.parametrize(
    "fault,seconds",
    [
        (faults.delay(0.2), 0.2),
        (faults.pace(50), 0.2),
        (faults.gap(2, 0.3), 0.3),
        (faults.first_delay(0.2), 0.2),
        (faults.drip_headers(0.002), 0.2),
    ],
)
def test_time_passes_where_the_script_says(
    up: Upstream, http: httpx2.Client, fault: faults.Behaviour, seconds: float
) -> None:
    up.script(fault, times=1)
    start = time.monotonic()
    assert events(chat(up, http, stream=True))[-1] == "[DONE]"
    assert time.monotonic() - start >= seconds


@pytest.mark.parametrize(
    "said,header,value",
    [(3, "retry-after", "3"), ("250ms", "retry-after-ms", "250"), ("date+60", "retry-after", "GMT")],
)
def test_a_429_says_when_to_come_back(up: Upstream, http: httpx2.Client, said: Any, header: str, value: str) -> None:
    up.script(faults.status(429, retry_after=said), times=1)
    answer = chat(up, http)
    assert answer.status_code == 429
    assert answer.headers[header].endswith(value)


@pytest.mark.parametrize("name", sorted(faults.CORPUS))
@pytest.mark.parametrize("stream", [False, True])
def test_every_corpus_fault_can_be_played(up: Upstream, name: str, stream: bool) -> None:
    up.script(name, times=1)
    with plain_client(0.3) as client:
        try:
            with client.stream(
                "POST",
                f"{up.openai_base}/chat/completions",
                json={"model": GPT, "messages": HI, "stream": stream},
                headers={"authorization": f"Bearer {up.keys['openai']}"},
            ) as answer:
                next(answer.iter_raw(), b"")
        except httpx2.TransportError:
            pass  # the fault itself; that no thread of the simulator fails is what counts here
    assert up.wait_idle(3)
    assert len(up.bill) == 1


def test_odd_sse_is_still_what_the_sdk_understands(up: Upstream, gpt: openai.OpenAI) -> None:
    text = "Grüße 世界 🙂 ok"
    for odd in (faults.dressed(), faults.dressed("\r"), faults.packets(1), faults.line_ends("\r\n")):
        up.script(faults.text(text) + odd, times=1)
        chunks = list(gpt.chat.completions.create(model=GPT, messages=HI, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text


def test_a_huge_answer_is_as_large_as_said(up: Upstream, http: httpx2.Client) -> None:
    up.script(faults.huge(2), times=1)
    answer = chat(up, http)
    assert len(answer.json()["choices"][0]["message"]["content"]) == 2 * 2**20


def test_impossible_usage_is_told_as_scripted(up: Upstream, http: httpx2.Client) -> None:
    for value, said in (("NaN", "NaN"), (-5, -5), (10**18, 10**18), ("7", "7")):
        up.script(faults.usage_values(value), times=1)
        usage = json.loads(chat(up, http).text, parse_constant=str)["usage"]
        assert usage["prompt_tokens"] == said
    up.script("usage_missing", times=1)
    assert "usage" not in chat(up, http).json()


def test_bytes_no_server_would_send_can_be_sent(up: Upstream, http: httpx2.Client) -> None:
    up.script(faults.on_the_wire(b"HTTP/1.1 99999 x\r\n\r\n"), times=1)
    with pytest.raises(httpx2.RemoteProtocolError):
        chat(up, http)
    up.script(faults.gzipped() + faults.headers({"x-more": "1"}), times=1)
    answer = chat(up, http)
    assert answer.headers["x-more"] == "1"
    assert answer.json()["choices"]


def test_a_pooled_connection_goes_stale(up: Upstream, http: httpx2.Client) -> None:
    up.script(faults.stale(on_reuse=True), times=1)
    assert chat(up, http).status_code == 200
    with pytest.raises(httpx2.TransportError):
        chat(up, http)


def test_the_key_is_echoed_where_asked(up: Upstream, http: httpx2.Client) -> None:
    up.script("echo_key", times=1)
    assert up.keys["openai"] in chat(up, http).json()["error"]["message"]


def test_a_finish_word_of_the_vendors_own_passes_through(up: Upstream, claude: anthropic.Anthropic) -> None:
    for reason in ("pause_turn", "refusal", "model_context_window_exceeded"):
        up.script(faults.finish(reason), times=1)
        assert claude.messages.create(model=CLAUDE, max_tokens=9, messages=HI).stop_reason == reason


def test_scripts_wait_for_their_vendor_model_and_turn(up: Upstream, http: httpx2.Client) -> None:
    up.script(faults.text("for ever"), vendor="openai")
    up.script(faults.text("first"), model=GPT, times=1)
    up.script(faults.text("never"), vendor="anthropic", times=1)
    texts = [chat(up, http).json()["choices"][0]["message"]["content"] for _ in range(3)]
    assert texts == ["first", "for ever", "for ever"]


def test_a_refused_request_uses_no_script_up(up: Upstream, http: httpx2.Client) -> None:
    up.script(faults.text("kept"), times=1)
    assert chat(up, http, nonsense=1).status_code == 400
    assert chat(up, http).json()["choices"][0]["message"]["content"] == "kept"


# --- books --------------------------------------------------------------------------------------------------------


def test_the_bill_has_one_row_a_call_and_agrees_with_what_was_reported(up: Upstream, http: httpx2.Client) -> None:
    chat(up, http)
    chat(up, http, stream=True, stream_options={"include_usage": True})
    chat(up, http, nonsense=1)
    plain, streamed, refused = up.bill
    assert [row.status for row in up.bill] == [200, 200, 400]
    for row in (plain, streamed):
        assert row.reported is not None
        assert row.complete
        assert (row.reported["prompt_tokens"], row.reported["completion_tokens"]) == (row.input, row.output)
        assert row.generated == row.output == 3
    assert (refused.input, refused.output, refused.reported) == (0, 0, None)


def test_the_bill_of_a_broken_stream_counts_the_words_that_left(up: Upstream, http: httpx2.Client) -> None:
    up.script(faults.eof_after(3), times=1)
    with pytest.raises(httpx2.TransportError):
        chat(up, http, stream=True)
    assert up.wait_idle()
    assert (up.bill[0].generated, up.bill[0].complete, up.bill[0].reported) == (2, False, None)


def test_requests_are_remembered_whole(up: Upstream, http: httpx2.Client) -> None:
    chat(up, http, temperature=0.5)
    seen = up.requests[-1]
    assert (seen.vendor, seen.model, seen.route, seen.status) == ("openai", GPT, "chat", 200)
    assert (seen.body["temperature"], seen.key) == (0.5, up.keys["openai"])
    assert up.stats["requests"] == {"openai": 1}


def test_images_are_served_and_one_is_none(up: Upstream, http: httpx2.Client) -> None:
    pixel = http.get(f"{up.url}/images/pixel.png")
    assert (pixel.content, pixel.headers["content-type"]) == (PIXEL, "image/png")
    assert http.get(f"{up.url}/images/page.html").headers["content-type"].startswith("text/html")
    with http.stream("GET", f"{up.url}/images/huge.png") as huge:
        assert int(huge.headers["content-length"]) > 32 * 2**20


def test_the_bad_addresses_are_bad_in_their_own_ways(up: Upstream) -> None:
    with plain_client(0.3) as client:
        for kind, error in (
            ("closed", httpx2.ConnectError),
            ("silent", httpx2.ReadTimeout),
            ("black_hole", httpx2.ConnectTimeout),
        ):
            with pytest.raises(error):
                client.get(up.endpoint(kind))
        with pytest.raises(httpx2.ConnectTimeout):
            client.get(up.endpoint("silent").replace("http:", "https:"))


def test_tls_is_trusted_with_its_own_authority_only() -> None:
    with Upstream(tls=True) as up:
        context = ssl.create_default_context(cafile=str(up.ca_file))
        with httpx2.Client(verify=context, trust_env=False) as client:
            assert chat(up, client).status_code == 200
        with plain_client() as stranger, pytest.raises(httpx2.ConnectError):
            chat(up, stranger)


def test_a_thousand_connections_are_served_at_once(up: Upstream) -> None:
    up.script(faults.delay(1.0))
    host, port = "127.0.0.1", up.port
    body = json.dumps({"model": GPT, "messages": HI}).encode()
    head = (
        f"POST /openai/v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {up.keys['openai']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    sockets = [socket.create_connection((host, port), timeout=20) for _ in range(1000)]
    try:
        for sock in sockets:
            sock.sendall(head + body)
        assert all(sock.recv(12) == b"HTTP/1.1 200" for sock in sockets)
    finally:
        for sock in sockets:
            sock.close()
    assert up.stats["peak_in_flight"] > 500


def test_out_of_process_it_can_do_the_same(http: httpx2.Client) -> None:
    with subprocess.Popen([sys.executable, "-m", "tests.upstream"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            up: Any = RemoteUpstream(json.loads(process.stdout.readline())["url"])
            up.script(faults.raw(b"\xff\x00") + faults.delay(0.01), vendor="openai", times=1)
            assert chat(up, http).content == b"\xff\x00"
            assert chat(up, http).status_code == 200
            assert [row.status for row in up.bill] == [200, 200]
            assert up.requests[0].body["model"] == GPT
            assert up.wait_idle()
            assert up.endpoint("closed")
            up.revoke_key(up.keys["openai"])
            assert chat(up, http).status_code == 401
            up.reset()
            assert up.stats["requests"] == {}
            assert up.bill == []
        finally:
            process.terminate()
