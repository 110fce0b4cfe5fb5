"""An adapter sends what the vendor's own SDK sends for the same call, but for differences that are named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from google.genai import types

from tests.adapters.candidates import Asker, asker
from tests.upstream import Upstream
from tests.upstream.ledger import Seen

HI: list[Any] = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello there"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[Any] = [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": CITY}}]
CALLED: list[Any] = [
    {"role": "user", "content": "use the tool"},
    {
        "role": "assistant",
        "content": "a moment",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "rain"},
]
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PICTURE: list[Any] = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "what is it"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        ],
    }
]
CLOSED = {**CITY, "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": CLOSED}}
OPENAI_CALLS: list[dict[str, Any]] = [
    {"messages": HI},
    {"messages": HI, "temperature": 0.3, "stop": ["x"], "seed": 4, "n": 2, "user": "u", "max_tokens": 5},
    {"messages": CALLED, "tools": TOOLS, "tool_choice": "auto", "parallel_tool_calls": False},
    {"messages": PICTURE},
    {"messages": HI, "response_format": FORMAT, "max_completion_tokens": 7},
]


def last(upstream: Upstream) -> Seen:
    return upstream.requests[-1]


def ours(made: Asker, upstream: Upstream, asked: dict[str, Any]) -> Seen:
    made.chat(**asked)
    return last(upstream)


@pytest.mark.parametrize("asked", OPENAI_CALLS)
@pytest.mark.parametrize("name", ["openai", "azure classic"])
def test_openai_s_requests_are_its_sdk_s(upstream: Upstream, name: str, asked: dict[str, Any]) -> None:
    sent = ours(asker(name, upstream), upstream, asked)
    with _client(name, upstream) as client:
        client.chat.completions.create(model="gpt-4o-mini", **asked)
    wanted = last(upstream)
    assert (sent.path, sent.query, sent.body) == (wanted.path, wanted.query, wanted.body)
    header = "api-key" if name.startswith("azure") else "authorization"
    assert sent.headers[header] == wanted.headers[header]


def _client(name: str, upstream: Upstream) -> openai.OpenAI:
    if name == "openai":
        return openai.OpenAI(base_url=upstream.openai_base, api_key=upstream.keys["openai"], max_retries=0)
    return openai.AzureOpenAI(
        azure_endpoint=upstream.azure_endpoint,
        api_key=upstream.keys["azure"],
        api_version="2024-10-21",
        max_retries=0,
    )


def test_a_stream_asks_for_its_usage_besides(upstream: Upstream) -> None:
    made = asker("openai", upstream)
    made.stream(HI)
    sent = last(upstream)
    with _client("openai", upstream) as client:
        list(client.chat.completions.create(model="gpt-4o-mini", messages=HI, stream=True))
    assert sent.body == {**last(upstream).body, "stream_options": {"include_usage": True}}


CLAUDE_TOOL = {"name": "weather", "description": "d", "input_schema": CITY}
ANTHROPIC_CALLS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"messages": HI}, {"system": "be kind", "messages": HI[1:], "max_tokens": 4096}),
    (
        {"messages": HI, "max_tokens": 5, "stop": "x", "user": "u"},
        {
            "system": "be kind",
            "messages": HI[1:],
            "max_tokens": 5,
            "stop_sequences": ["x"],
            "metadata": {"user_id": "u"},
        },
    ),
    (
        {"messages": HI, "temperature": 0.3, "top_p": 0.9},
        {
            "system": "be kind",
            "messages": HI[1:],
            "max_tokens": 4096,
            "extra_body": {"temperature": 0.3, "top_p": 0.9},
            "extra_headers": {"anthropic-version": "2023-06-01"},
        },
    ),
    (
        {"messages": CALLED, "tools": TOOLS, "tool_choice": "auto", "parallel_tool_calls": False},
        {
            "max_tokens": 4096,
            "tools": [CLAUDE_TOOL],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
            "messages": [
                {"role": "user", "content": "use the tool"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": "a moment"},
                        {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Ulm"}},
                    ],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "rain"}]},
            ],
        },
    ),
    (
        {"messages": PICTURE},
        {
            "max_tokens": 4096,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "what is it"},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                    ],
                }
            ],
        },
    ),
    (
        {"messages": HI, "response_format": FORMAT},
        {
            "system": "be kind",
            "messages": HI[1:],
            "max_tokens": 4096,
            "output_config": {"format": {"type": "json_schema", "schema": CLOSED}},
        },
    ),
    (
        {"messages": HI[1:], "reasoning_effort": "low"},
        {"messages": HI[1:], "max_tokens": 4096, "thinking": {"type": "enabled", "budget_tokens": 2048}},
    ),
]


@pytest.mark.parametrize("asked, same", ANTHROPIC_CALLS)
def test_anthropic_s_requests_are_its_sdk_s(upstream: Upstream, asked: dict[str, Any], same: dict[str, Any]) -> None:
    sent = ours(asker("anthropic", upstream), upstream, asked)
    with anthropic.Anthropic(
        base_url=upstream.anthropic_base, api_key=upstream.keys["anthropic"], max_retries=0
    ) as client:
        client.messages.create(model="claude-haiku-4-5", **same)
    wanted = last(upstream)
    assert (sent.path, sent.body) == (wanted.path, wanted.body)
    assert sent.headers["anthropic-version"] == wanted.headers["anthropic-version"]
    assert sent.headers["x-api-key"] == upstream.keys["anthropic"], "the SDK of 2.x sends the same key as a bearer"


@pytest.fixture
def gemini(upstream: Upstream) -> Iterator[genai.Client]:
    options = types.HttpOptions(base_url=upstream.gemini_base, api_version="v1beta")
    with genai.Client(api_key=upstream.keys["gemini"], http_options=options) as client:
        yield client


def content(role: str, *parts: types.Part) -> types.Content:
    return types.Content(role=role, parts=list(parts))


HELLO = content("user", types.Part(text="hello there"))
SCHEMA = types.Schema(
    type=types.Type.OBJECT, properties={"city": types.Schema(type=types.Type.STRING)}, required=["city"]
)
WEATHER = types.FunctionDeclaration(name="weather", description="d", parameters=SCHEMA)
QUIET = types.AutomaticFunctionCallingConfig(disable=True)
KIND = "be kind"
GEMINI_CALLS: list[tuple[dict[str, Any], Any, types.GenerateContentConfig]] = [
    ({"messages": HI}, [HELLO], types.GenerateContentConfig(system_instruction=KIND)),
    (
        {
            "messages": HI,
            "temperature": 1.3,
            "top_p": 0.5,
            "max_tokens": 9,
            "stop": "x",
            "seed": 3,
            "n": 2,
            "presence_penalty": 0.5,
            "frequency_penalty": 0.25,
        },
        [HELLO],
        types.GenerateContentConfig(
            system_instruction=KIND,
            temperature=1.3,
            top_p=0.5,
            max_output_tokens=9,
            stop_sequences=["x"],
            seed=3,
            candidate_count=2,
            presence_penalty=0.5,
            frequency_penalty=0.25,
        ),
    ),
    (
        {
            "messages": CALLED,
            "tools": TOOLS,
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
        },
        [
            content("user", types.Part(text="use the tool")),
            content(
                "model",
                types.Part(text="a moment"),
                types.Part(function_call=types.FunctionCall(name="weather", args={"city": "Ulm"})),
            ),
            content(
                "user",
                types.Part(function_response=types.FunctionResponse(name="weather", response={"result": "rain"})),
            ),
        ],
        types.GenerateContentConfig(
            automatic_function_calling=QUIET,
            tools=[types.Tool(function_declarations=[WEATHER])],
            tool_config=types.ToolConfig(
                function_calling_config=types.FunctionCallingConfig(
                    mode=types.FunctionCallingConfigMode.ANY, allowed_function_names=["weather"]
                )
            ),
        ),
    ),
    (
        {"messages": HI, "response_format": FORMAT},
        [HELLO],
        types.GenerateContentConfig(
            system_instruction=KIND, response_mime_type="application/json", response_schema=SCHEMA
        ),
    ),
    (
        {"messages": HI, "reasoning_effort": "low"},
        [HELLO],
        types.GenerateContentConfig(
            system_instruction=KIND, thinking_config=types.ThinkingConfig(thinking_budget=1024)
        ),
    ),
]


@pytest.mark.parametrize("asked, contents, config", GEMINI_CALLS)
def test_gemini_s_requests_are_its_sdk_s(
    upstream: Upstream,
    gemini: genai.Client,
    asked: dict[str, Any],
    contents: Any,
    config: types.GenerateContentConfig,
) -> None:
    sent = ours(asker("gemini", upstream), upstream, asked)
    gemini.models.generate_content(model="gemini-2.5-flash", contents=contents, config=config)
    wanted = last(upstream)
    assert (sent.path, sent.body) == (wanted.path, _without_its_own(wanted.body))
    assert sent.headers["x-goog-api-key"] == wanted.headers["x-goog-api-key"]


def _without_its_own(body: dict[str, Any]) -> dict[str, Any]:
    """The SDK sends a role with the system's instruction, an empty configuration, and some names as protocol buffers
    write them; the service takes both."""
    config = {**body.get("generationConfig", {})}
    if thinking := config.get("thinkingConfig"):
        config["thinkingConfig"] = {"thinkingBudget": thinking["thinking_budget"]}
    rest = {name: value for name, value in body.items() if name != "generationConfig"}
    if "systemInstruction" in rest:
        rest["systemInstruction"] = {"parts": rest["systemInstruction"]["parts"]}
    return {**rest, "generationConfig": config} if config else rest
