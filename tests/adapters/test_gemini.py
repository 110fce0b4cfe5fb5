"""Gemini's particulars: names for ids, schemas in its own words, signatures, reasons."""

from __future__ import annotations

from typing import Any

import pytest

from flaskllm.adapters.gemini_answers import usage_of
from flaskllm.adapters.schemas import Unsayable, for_gemini
from flaskllm.errors import InvalidRequest, ProviderError
from tests.adapters.candidates import Asker, asker, drained
from tests.upstream import Upstream, faults

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("clock", "weather")]


@pytest.fixture
def gemini(upstream: Upstream) -> Asker:
    return asker("gemini", upstream)


@pytest.fixture
def newer(upstream: Upstream) -> Asker:
    """A model that insists on the signatures of its calls."""
    return asker("gemini", upstream, model={"backend_model": "gemini-3-flash-preview"})


def body_of(made: Asker, messages: Any = "hello", **params: Any) -> dict[str, Any]:
    request = made.request(messages, **params)
    return made.adapter.encode(request, made.candidate, made.adapter.map_params(request, made.candidate))


def round_trip(made: Asker, *, keep_signatures: bool) -> str:
    message = made.chat("use two tools", tools=TOOLS).body["choices"][0]["message"]
    calls = message["tool_calls"]
    if not keep_signatures:
        calls = [{name: call[name] for name in ("id", "type", "function")} for call in calls]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": call["function"]["name"]} for call in calls]
    said = {"role": "assistant", "content": None, "tool_calls": calls}
    return made.chat([{"role": "user", "content": "use two tools"}, said, *reversed(results)], tools=TOOLS).text


def test_results_carry_names_in_the_order_of_their_calls(gemini: Asker, upstream: Upstream) -> None:
    round_trip(gemini, keep_signatures=True)
    parts = upstream.requests[-1].body["contents"][-1]["parts"]
    assert [part["functionResponse"]["name"] for part in parts] == ["clock", "weather"]


@pytest.mark.parametrize("keep", [True, False])
def test_signatures_go_back_or_are_stood_in_for(newer: Asker, upstream: Upstream, keep: bool) -> None:
    assert round_trip(newer, keep_signatures=keep)
    assert upstream.requests[-1].status == 200


def test_a_result_without_its_call_is_refused_by_name(gemini: Asker) -> None:
    with pytest.raises(InvalidRequest) as caught:
        gemini.chat([{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "c9", "content": "y"}])
    assert caught.value.param == "messages[1].tool_call_id"


def test_an_address_is_not_fetched_here(gemini: Asker) -> None:
    assert "image_url" not in gemini.adapter.ABILITIES
    part = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    with pytest.raises(InvalidRequest) as caught:
        gemini.chat([{"role": "user", "content": [part]}])
    assert caught.value.param == "messages[0].content[0].image_url.url"


def test_a_schema_is_said_in_gemini_s_words() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "a": {"$ref": "#/$defs/tag", "description": "first"},
            "b": {"type": ["integer", "null"], "minimum": 1, "exclusiveMaximum": 9},
            "c": {"anyOf": [{"type": "string", "format": "uuid"}, {"type": "null"}]},
            "d": {"type": "array", "items": {"const": "x"}},
        },
        "required": ["a", "b"],
        "additionalProperties": False,
        "$defs": {"tag": {"type": "string", "enum": ["x", "y"]}},
    }
    assert for_gemini(schema) == {
        "type": "OBJECT",
        "properties": {
            "a": {"type": "STRING", "enum": ["x", "y"], "format": "enum", "description": "first"},
            "b": {"type": "INTEGER", "nullable": True, "minimum": 1},
            "c": {"type": "STRING", "nullable": True},
            "d": {"type": "ARRAY", "items": {"type": "STRING", "enum": ["x"], "format": "enum"}},
        },
        "required": ["a", "b"],
    }


FREE = {"type": "object", "properties": {"any": {"type": "object"}}, "required": ["any"]}
RECURSIVE = {
    "type": "object",
    "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["next"],
    "strict": True,
}


@pytest.mark.parametrize("schema", [FREE, RECURSIVE, {"type": "object", "properties": {"n": {"enum": [1, 2]}}}])
def test_what_it_cannot_say_goes_as_plain_json_schema(gemini: Asker, schema: dict[str, Any]) -> None:
    with pytest.raises(Unsayable):
        for_gemini(schema)
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    config = body_of(gemini, response_format=wanted)["generationConfig"]
    assert config["responseJsonSchema"] == {name: part for name, part in schema.items() if name != "strict"}
    assert "responseSchema" not in config


def test_deep_and_tool_schemas_are_taken(gemini: Asker) -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(40):
        deep = {"type": "object", "properties": {"inner": deep}, "required": ["inner"]}
    tool = {"type": "function", "function": {"name": "dig", "parameters": deep}}
    assert "parametersJsonSchema" in body_of(gemini, tools=[tool])["tools"][0]["functionDeclarations"][0]


@pytest.mark.parametrize("model, config", [
    ("gemini-2.5-flash", {"thinkingBudget": 8192}),
    ("gemini-3-flash-preview", {"thinkingLevel": "MEDIUM"}),
])  # fmt: skip
def test_effort_is_a_budget_or_a_level(upstream: Upstream, model: str, config: dict[str, Any]) -> None:
    made = asker("gemini", upstream, model={"backend_model": model})
    assert body_of(made, reasoning_effort="medium")["generationConfig"]["thinkingConfig"] == config
    assert made.chat("hello", reasoning_effort="medium").text


@pytest.mark.parametrize("native", ["SAFETY", "SPII", "BLOCKLIST", "PROHIBITED_CONTENT", "IMAGE_SAFETY", "LANGUAGE"])
def test_filters_are_filters(gemini: Asker, upstream: Upstream, native: str) -> None:
    upstream.script(faults.finish(native))
    choice = gemini.chat("hello").body["choices"][0]
    assert (choice["finish_reason"], choice["native_finish_reason"]) == ("content_filter", native)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_malformed_call_is_a_failure(gemini: Asker, upstream: Upstream, streamed: bool) -> None:
    upstream.script(faults.finish("MALFORMED_FUNCTION_CALL"))
    with pytest.raises(ProviderError, match="MALFORMED_FUNCTION_CALL"):
        drained(gemini.open("hello")) if streamed else gemini.chat("hello")


def test_a_blocked_prompt_is_counted_before_it_is_told(gemini: Asker, upstream: Upstream) -> None:
    upstream.script("content_filter")
    source = gemini.open("one two three")
    (chunk,) = source.read(10**9) or []
    assert chunk.usage is not None
    assert (chunk.usage.prompt_tokens, chunk.usage.completion_tokens) == (3, 0)
    source.close()


def test_thoughts_are_beside_the_candidates_and_caches_inside_the_prompt() -> None:
    usage = usage_of(
        {
            "promptTokenCount": 100,
            "cachedContentTokenCount": 60,
            "candidatesTokenCount": 10,
            "thoughtsTokenCount": 7,
            "toolUsePromptTokenCount": 5,
        }
    )
    assert usage is not None
    assert (usage.input, usage.cache_read, usage.output, usage.reasoning) == (45, 60, 10, 7)


def test_the_key_is_never_in_the_address(gemini: Asker, upstream: Upstream) -> None:
    gemini.stream("hello")
    seen = upstream.requests[-1]
    assert seen.query == {"alt": "sse"}
    assert seen.path == "/gemini/v1beta/models/gemini-2.5-flash:streamGenerateContent"


def test_the_version_can_be_set(upstream: Upstream) -> None:
    asker("gemini", upstream, connection={"api_version": "v1"}).chat("hello")
    assert upstream.requests[-1].path.startswith("/gemini/v1/models/")


def test_a_large_seed_is_folded(gemini: Asker, upstream: Upstream) -> None:
    gemini.chat("hello", seed=2**40 + 5)
    assert upstream.requests[-1].body["generationConfig"]["seed"] == 5
