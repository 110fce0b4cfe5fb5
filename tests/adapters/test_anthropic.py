"""Anthropic's particulars: what is mapped, kept, clamped and refused by name."""

from __future__ import annotations

import time
from typing import Any

import pytest

from flaskllm.adapters.anthropic_answers import usage_of
from flaskllm.errors import InvalidRequest
from tests.adapters.candidates import Asker, asker, calls_in
from tests.upstream import Upstream, faults

TOOL = {"type": "function", "function": {"name": "clock"}}


@pytest.fixture
def claude(upstream: Upstream) -> Asker:
    return asker("anthropic", upstream)


def body_of(made: Asker, messages: Any = "hello", **params: Any) -> dict[str, Any]:
    request = made.request(messages, **params)
    return made.adapter.encode(request, made.candidate, made.adapter.map_params(request, made.candidate))


def test_results_of_one_turn_stand_in_one_message_before_the_text(claude: Asker) -> None:
    calls = [{"id": f"c{n}", "type": "function", "function": {"name": "clock", "arguments": ""}} for n in (1, 2)]
    messages = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        {"role": "user", "content": "and now"},
    ]
    last = body_of(claude, messages)["messages"][-1]
    assert [block["type"] for block in last["content"]] == ["tool_result", "tool_result", "text"]


def test_a_temperature_over_one_is_clamped_and_named(claude: Asker, upstream: Upstream) -> None:
    answer = claude.chat("hello", temperature=1.6)
    assert list(answer.dropped) == ["temperature"]
    assert upstream.requests[-1].body["temperature"] == 1
    assert claude.chat("hello", temperature=0.6).dropped == []


@pytest.mark.parametrize("pinned, params, version", [
    ({}, {}, "2026-10-21"),
    ({}, {"top_p": 0.5}, "2023-06-01"),
    ({}, {"extras": {"top_k": 4}}, "2023-06-01"),
    ({"api_version": "2023-06-01"}, {}, "2023-06-01"),
])  # fmt: skip
def test_sampling_goes_out_under_the_version_that_knows_it(
    upstream: Upstream, pinned: dict[str, Any], params: dict[str, Any], version: str
) -> None:
    asker("anthropic", upstream, connection=pinned).chat("hello", **params)
    assert upstream.requests[-1].headers["anthropic-version"] == version


@pytest.mark.parametrize("row, params, cap", [
    ({}, {}, 4096),
    ({"max_tokens": 900}, {}, 900),
    ({"max_tokens": 900}, {"max_tokens": 7}, 7),
    ({}, {"max_tokens": 7, "max_completion_tokens": 8}, 8),
])  # fmt: skip
def test_a_cap_is_always_sent(upstream: Upstream, row: dict[str, Any], params: dict[str, Any], cap: int) -> None:
    assert body_of(asker("anthropic", upstream, model=row), **params)["max_tokens"] == cap


@pytest.mark.parametrize("name, value", [("n", 2), ("seed", 1), ("logprobs", True), ("logit_bias", {"1": 2})])
def test_what_it_lacks_is_refused_by_name_or_dropped(claude: Asker, name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        claude.chat("hello", **{name: value})
    assert caught.value.param == name
    assert claude.chat("hello", drop_params=True, **{name: value}).dropped == [name]


def test_unknown_fields_are_refused_by_name(claude: Asker) -> None:
    with pytest.raises(InvalidRequest) as caught:
        claude.chat("hello", extras={"min_p": 0.1})
    assert caught.value.param == "min_p"


@pytest.mark.parametrize("effort, cap, budget", [("low", 4096, 2048), ("high", 4096, 4095), ("medium", 64000, 8192)])
def test_an_effort_is_a_budget_below_the_cap(claude: Asker, effort: str, cap: int, budget: int) -> None:
    body = body_of(claude, reasoning_effort=effort, max_tokens=cap)
    assert body["thinking"] == {"type": "enabled", "budget_tokens": budget}


@pytest.mark.parametrize("effort", ["none", "minimal"])
def test_no_effort_is_no_thinking(claude: Asker, effort: str) -> None:
    assert "thinking" not in body_of(claude, reasoning_effort=effort)


def test_models_that_lost_sampling_think_by_effort(upstream: Upstream) -> None:
    made = asker("anthropic", upstream, model={"params": {"temperature": "refuse"}})
    body = body_of(made, reasoning_effort="high")
    assert body["thinking"] == {"type": "adaptive"}
    assert body["output_config"] == {"effort": "high"}
    assert made.chat("hello", reasoning_effort="high").text


def test_a_cap_too_small_to_think_names_what_was_left_out(claude: Asker) -> None:
    assert claude.chat("hello", reasoning_effort="low", max_tokens=20).dropped == ["reasoning_effort"]


def test_thoughts_come_back_with_their_signatures(claude: Asker) -> None:
    asked = {"tools": [TOOL], "reasoning_effort": "low"}
    message = claude.chat("use the tool", **asked).body["choices"][0]["message"]
    assert message["reasoning_content"] == "let me think"
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "noon"}
    answer = claude.chat([{"role": "user", "content": "use the tool"}, message, result], **asked)
    assert (answer.text, answer.dropped) == ("results: noon", [])


def test_streamed_thoughts_come_back_too(claude: Asker) -> None:
    chunks = claude.stream("use the tool", tools=[TOOL], reasoning_effort="low")
    deltas = [choice["delta"] for chunk in chunks for choice in chunk.body["choices"]]
    (thought,) = [block for delta in deltas for block in delta.get("thinking_blocks", ())]
    whole = claude.chat("use the tool", tools=[TOOL], reasoning_effort="low").body["choices"][0]["message"]
    assert {name: thought[name] for name in ("type", "thinking", "signature")} == whole["thinking_blocks"][0]


def test_without_its_thoughts_a_round_of_tools_goes_on_unthinking(claude: Asker) -> None:
    (call,) = calls_in(claude.chat("use the tool", tools=[TOOL], reasoning_effort="low"))
    asked = {"id": call["id"], "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "use the tool"},
        {"role": "assistant", "content": None, "tool_calls": [asked]},
        {"role": "tool", "tool_call_id": call["id"], "content": "noon"},
    ]
    answer = claude.chat(messages, tools=[TOOL], reasoning_effort="low")
    assert (answer.text, answer.dropped) == ("results: noon", ["reasoning_effort"])


def test_ids_of_other_vendors_are_made_to_fit(claude: Asker) -> None:
    call = {"id": "functions.clock:0", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "functions.clock:0", "content": "noon"},
    ]
    assert claude.chat(messages, tools=[TOOL]).text == "results: noon"


def test_what_is_to_be_cached_stays_marked(claude: Asker) -> None:
    mark = {"type": "ephemeral"}
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "long", "cache_control": mark}]},
        {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": mark}]},
    ]
    body = body_of(claude, messages)
    assert body["system"][0]["cache_control"] == mark
    assert body["messages"][0]["content"][0]["cache_control"] == mark


def test_an_address_is_passed_on_and_a_wrong_type_put_right(claude: Asker) -> None:
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    parts = [
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{png}"}},
    ]
    first, second = body_of(claude, [{"role": "user", "content": parts}])["messages"][0]["content"]
    assert first["source"] == {"type": "url", "url": "https://example.com/a.png"}
    assert second["source"]["media_type"] == "image/png"


def test_allowed_tools_are_the_only_ones_sent(claude: Asker) -> None:
    other = {"type": "function", "function": {"name": "other"}}
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "clock"}}]}
    body = body_of(claude, tools=[other, TOOL], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert [tool["name"] for tool in body["tools"]] == ["clock"]
    assert body["tool_choice"] == {"type": "any"}


def test_bounds_of_a_schema_are_described_where_they_are_refused(claude: Asker) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 1}}, "required": ["age"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    sent = body_of(claude, response_format=wanted)["output_config"]["format"]["schema"]
    assert sent["properties"]["age"] == {"type": "integer", "description": "{minimum: 1}"}
    assert sent["additionalProperties"] is False
    assert claude.chat("hello", response_format=wanted).text == '{"age": 1}'


@pytest.mark.parametrize("native, ours", [
    ("pause_turn", "stop"),
    ("refusal", "content_filter"),
    ("model_context_window_exceeded", "length"),
    ("something_new", "stop"),
])  # fmt: skip
def test_reasons_are_openai_s_and_the_native_one_is_kept(
    claude: Asker, upstream: Upstream, native: str, ours: str
) -> None:
    upstream.script(faults.finish(native))
    choice = claude.chat("hello").body["choices"][0]
    assert (choice["finish_reason"], choice["native_finish_reason"]) == (ours, native)
    assert claude.joined("hello").finish_reason == ours


def test_what_was_written_to_the_cache_is_split_by_age() -> None:
    raw = {"input_tokens": 5, "output_tokens": 9, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 10}
    split = {"cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 6}}
    whole, parted = usage_of(raw), usage_of({**raw, **split})
    assert whole is not None
    assert parted is not None
    assert (whole.input, whole.cache_read, whole.cache_write_5m, whole.cache_write_1h) == (5, 3, 10, 0)
    assert (parted.cache_write_5m, parted.cache_write_1h) == (4, 6)


@pytest.mark.parametrize("base", ["/anthropic", "/anthropic/", "/anthropic/v1"])
def test_an_address_may_have_its_version_or_not(upstream: Upstream, base: str) -> None:
    assert asker("anthropic", upstream, base=upstream.url + base).chat("hello").text


def test_streams_are_cut_into_fragments_with_a_steady_index(claude: Asker) -> None:
    chunks = claude.stream("use two tools", tools=[TOOL, {"type": "function", "function": {"name": "other"}}])
    calls = [
        call for chunk in chunks for choice in chunk.body["choices"] for call in choice["delta"].get("tool_calls", ())
    ]
    assert [call["index"] for call in calls if "id" in call] == [0, 1]
    assert all("id" not in call for call in calls if call["function"]["arguments"])


def test_a_source_can_be_polled_before_its_headers(claude: Asker, upstream: Upstream) -> None:
    upstream.script(faults.delay(0.3))
    source = claude.open("hello")
    assert isinstance(source.fileno(), int)
    assert not source.ready()
    assert source.read(time.monotonic() + 5) == []
    source.close()
