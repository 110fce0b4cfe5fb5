"""One contract for every kind of provider: what is asked is understood by a strict service, what it answers is
OpenAI's, and what goes wrong has one name whatever the vendor called it."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jsonschema
import pytest

from flaskllm.domain.chat import Chunk
from flaskllm.errors import (
    InvalidRequest,
    PromptFiltered,
    ProviderError,
    ProviderFailure,
    ProviderKeyRejected,
    ProviderRateLimited,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnreachable,
)
from tests.adapters.candidates import PLACES, WITH_WIRE, Asker, asker, calls_in, drained, join
from tests.upstream import Upstream, faults
from tests.upstream.images import PIXEL

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Where"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "clock"}},
]
ANSWER = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": ["integer", "null"]},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
    "$defs": {"tag": {"type": "string", "enum": ["a", "b"]}},
}
AS_ANSWER = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": ANSWER}}
DATA_URL = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
PICTURE = [
    {
        "role": "user",
        "content": [{"type": "text", "text": "what is it"}, {"type": "image_url", "image_url": {"url": DATA_URL}}],
    }
]
CUT_SECONDS = 0.4


@pytest.fixture(params=PLACES)
def any_kind(request: pytest.FixtureRequest, upstream: Upstream) -> Asker:
    return asker(request.param, upstream)


@pytest.fixture(params=WITH_WIRE)
def kind(request: pytest.FixtureRequest, upstream: Upstream) -> Asker:
    return asker(request.param, upstream)


def turns(call: dict[str, str]) -> list[dict[str, Any]]:
    """A tool round trip up to the result."""
    function = {"name": call["name"], "arguments": call["arguments"]}
    return [
        {"role": "user", "content": "use the tool"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": call["id"], "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": call["id"], "content": "sunny spells"},
    ]


# -- what is answered --------------------------------------------------------------------------------------------------


def test_text_is_answered_with_usage_and_an_end(any_kind: Asker) -> None:
    answer = any_kind.chat("hello there")
    assert "hello there" in answer.text
    assert answer.finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 3)
    assert answer.body["usage"]["total_tokens"] == 5


def test_an_answer_has_the_shape_of_openai_s(any_kind: Asker) -> None:
    body = any_kind.chat("hello").body
    assert body["object"] == "chat.completion"
    assert body["id"]
    assert isinstance(body["created"], int)
    assert body["choices"][0]["message"]["role"] == "assistant"


def test_system_and_developer_reach_the_model_and_count(any_kind: Asker) -> None:
    messages = [
        {"role": "system", "content": "one two"},
        {"role": "developer", "content": "three"},
        {"role": "user", "content": "hi"},
    ]
    answer = any_kind.chat(messages)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 4


def test_neighbours_of_one_role_and_empty_ones_are_taken(any_kind: Asker) -> None:
    messages = [
        {"role": "user", "content": "first"},
        {"role": "user", "content": "second"},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [{"type": "text", "text": "third"}]},
    ]
    assert "third" in any_kind.chat(messages).text


def test_a_conversation_may_begin_with_the_assistant(any_kind: Asker) -> None:
    messages = [{"role": "assistant", "content": "welcome"}, {"role": "user", "content": "thanks"}]
    assert "thanks" in any_kind.chat(messages).text


def test_one_tool_is_called(any_kind: Asker) -> None:
    answer = any_kind.chat("use the tool", tools=TOOLS)
    (call,) = calls_in(answer)
    assert (call["name"], answer.finish_reason) == ("weather", "tool_calls")
    jsonschema.validate(json.loads(call["arguments"]), WEATHER)
    assert call["id"]


def test_two_tools_are_called_at_once_under_different_ids(kind: Asker) -> None:
    calls = calls_in(kind.chat("use two tools", tools=TOOLS))
    assert [call["name"] for call in calls] == ["weather", "clock"]
    assert calls[1]["arguments"] == "{}"
    assert len({call["id"] for call in calls}) == 2


def test_a_tool_s_result_is_understood(any_kind: Asker) -> None:
    call = calls_in(any_kind.chat("use the tool", tools=TOOLS))[0]
    assert "sunny spells" in any_kind.chat(turns(call), tools=TOOLS).text


def test_results_of_one_turn_go_together_whatever_their_order(kind: Asker) -> None:
    calls = calls_in(kind.chat("use two tools", tools=TOOLS))
    asked = [
        {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
        for call in calls
    ]
    messages = [
        {"role": "user", "content": "use two tools"},
        {"role": "assistant", "content": "let me see", "tool_calls": asked},
        {"role": "tool", "tool_call_id": calls[1]["id"], "content": "noon"},
        {"role": "tool", "tool_call_id": calls[0]["id"], "content": [{"type": "text", "text": "rain"}]},
        {"role": "user", "content": "go on"},
    ]
    answer = kind.chat(messages, tools=TOOLS).text
    assert answer


def test_no_tool_is_called_where_none_is_wanted(any_kind: Asker) -> None:
    assert calls_in(any_kind.chat("use the tool", tools=TOOLS, tool_choice="none")) == []


@pytest.mark.parametrize("choice, name", [
    ("required", "weather"),
    ({"type": "function", "function": {"name": "clock"}}, "clock"),
])  # fmt: skip
def test_a_tool_is_called_where_one_must_be(any_kind: Asker, choice: Any, name: str) -> None:
    calls = calls_in(any_kind.chat("hello", tools=TOOLS, tool_choice=choice))
    assert [call["name"] for call in calls] == [name]


@pytest.mark.parametrize("name", ["openai", "azure classic", "anthropic", "grok", "openai_compatible"])
def test_calls_one_at_a_time_where_asked(name: str, upstream: Upstream) -> None:
    made = asker(name, upstream)
    assert len(calls_in(made.chat("use two tools", tools=TOOLS, parallel_tool_calls=False))) == 1


def test_an_answer_keeps_to_its_schema(any_kind: Asker) -> None:
    jsonschema.validate(json.loads(any_kind.chat("hello", response_format=AS_ANSWER).text), ANSWER)


def test_an_answer_is_json_where_only_that_is_asked(any_kind: Asker) -> None:
    assert any_kind.chat("answer in json", response_format={"type": "json_object"}).text


def test_an_image_is_seen(any_kind: Asker) -> None:
    answer = any_kind.chat(PICTURE)
    assert "image/png" in answer.text
    assert f"{len(PIXEL)} bytes" in answer.text


def test_a_stop_word_stops(any_kind: Asker) -> None:
    answer = any_kind.chat("one HALT two", stop="HALT")
    assert answer.text.endswith("one ")
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_cap_cuts(any_kind: Asker, name: str) -> None:
    answer = any_kind.chat("one two three four five", **{name: 2})
    assert len(answer.text.split()) == 2
    assert answer.finish_reason == "length"


def test_of_two_caps_the_newer_one_counts(any_kind: Asker) -> None:
    assert len(any_kind.chat("one two three four", max_tokens=4, max_completion_tokens=2).text.split()) == 2


@pytest.mark.parametrize("name", ["openai", "azure classic", "gemini", "grok", "openai_compatible", "demo"])
def test_several_answers_are_counted_together(name: str, upstream: Upstream) -> None:
    made = asker(name, upstream)
    answer = made.chat("hello there", n=2)
    assert [choice["index"] for choice in answer.body["choices"]] == [0, 1]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6


def test_a_parameter_that_asks_for_nothing_is_never_refused(any_kind: Asker) -> None:
    assert any_kind.chat("hello", n=1, top_p=1, temperature=1, presence_penalty=0, frequency_penalty=0).text


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [
    {"messages": "hello there, dear world"},
    {"messages": "use two tools", "tools": TOOLS},
    {"messages": "hello", "tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "clock"}}},
    {"messages": "hello", "response_format": AS_ANSWER},
    {"messages": "one two three", "max_tokens": 2},
    {"messages": "one HALT two", "stop": ["HALT"]},
    {"messages": PICTURE},
])  # fmt: skip
def test_streamed_equals_unstreamed(any_kind: Asker, asked: dict[str, Any]) -> None:
    whole, streamed = any_kind.chat(**asked), any_kind.joined(**asked)
    assert streamed.text == whole.text
    assert streamed.finish_reason == whole.finish_reason
    assert streamed.usage == whole.usage
    assert [(call["name"], call["arguments"]) for call in streamed.calls] == [
        (call["name"], call["arguments"]) for call in calls_in(whole)
    ]


def test_a_stream_has_one_head_a_role_first_and_the_usage_last(any_kind: Asker) -> None:
    chunks = any_kind.stream("hello there")
    assert len(join(chunks).heads) == 1
    assert chunks[0].body["choices"][0]["delta"]["role"] == "assistant"
    assert not chunks[0].has_content
    assert chunks[-1].usage is not None
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk.body["choices"]]
    assert [reason for reason in reasons if reason] == ["stop"]


def test_raw_bytes_say_what_the_frame_says(any_kind: Asker) -> None:
    for chunk in any_kind.stream("hello"):
        assert chunk.raw is None or json.loads(chunk.raw) == chunk.body


def test_a_finished_stream_leaves_its_connection_for_the_next(kind: Asker, upstream: Upstream) -> None:
    kind.stream("hello")
    kind.chat("hello")
    kind.stream("hello")
    assert upstream.stats["connections"] == kind.kept == 1 or kind.kept == 1


def test_closing_early_frees_the_connection(kind: Asker, upstream: Upstream) -> None:
    upstream.script(faults.endless() + faults.pace(5))
    source = kind.open("hello there")
    while not any(chunk.has_content for chunk in source.read(time.monotonic() + 5) or ()):
        pass
    source.close()
    source.close()
    assert upstream.wait_idle(3)
    assert kind.kept == 0


def test_a_stream_of_the_oddest_framing_reads_the_same(kind: Asker, upstream: Upstream) -> None:
    upstream.script(faults.text("Grüße 世界 🙂 ok") + faults.dressed() + faults.packets(1))
    assert kind.joined("hello").text == "Grüße 世界 🙂 ok"


@pytest.mark.parametrize("name", [name for name in WITH_WIRE if name != "gemini"])  # whose only end mark is the end
def test_data_after_the_end_is_not_read(name: str, upstream: Upstream) -> None:
    upstream.script("done_then_more")
    assert asker(name, upstream).joined("hello there").text == "echo: hello there"


def test_the_last_usage_counts(kind: Asker, upstream: Upstream) -> None:
    upstream.script("usage_twice")
    usage = kind.joined("hello there").usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (2, 3)


def test_a_whole_answer_to_a_stream_is_streamed_on(kind: Asker, upstream: Upstream) -> None:
    upstream.script("plain_body")
    streamed = kind.joined("hello there")
    assert (streamed.text, streamed.finish_reason) == ("echo: hello there", "stop")
    assert streamed.usage is not None


def test_thinking_is_counted_apart(kind: Asker, upstream: Upstream) -> None:
    upstream.script(faults.thinking("let me see"))
    whole, streamed = kind.chat("hello there"), kind.joined("hello there")
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 6
    assert streamed.usage == whole.usage


def test_cached_tokens_are_counted_once(kind: Asker, upstream: Upstream) -> None:
    upstream.script(faults.usage(input=5, cached=7))
    usage = kind.chat("hello there").usage
    assert usage is not None
    assert (usage.input, usage.cache_read, usage.prompt_tokens) == (5, 7, 12)


def test_text_before_a_failure_is_handed_on(kind: Asker, upstream: Upstream) -> None:
    upstream.script(faults.text("a b c d e f g") + faults.error_mid_stream(6, 500))
    source = kind.open("hello")
    chunks: list[Chunk] = []
    with pytest.raises(ProviderError):
        drained(source, into=chunks)
    assert "".join(chunk.text for chunk in chunks).startswith("a b")


# -- faults ------------------------------------------------------------------------------------------------------------


def failure_of(kind: Asker, *, streamed: bool, until: float | None = None) -> ProviderFailure:
    until = time.monotonic() + 10 if until is None else until
    with pytest.raises(ProviderFailure) as caught:
        drained(kind.open("hi there", until=until), until) if streamed else kind.chat("hi there", until=until)
    return caught.value


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("fault, expected", [
    ("reset", ProviderError),
    ("eof", ProviderError),
    ("reset_after", ProviderError),
    ("eof_after", ProviderError),
    ("half_json", ProviderError),
    ("not_json", ProviderError),
    ("null_body", ProviderError),
    ("empty_body", ProviderError),
    ("html", ProviderError),
    ("error_in_200", ProviderError),
    ("redirect", ProviderError),
    ("500", ProviderError),
    ("503 with Retry-After", ProviderError),
    ("529", ProviderError),
    ("401 (our key is bad)", ProviderKeyRejected),
    ("402", ProviderKeyRejected),
    ("403", ProviderKeyRejected),
    ("404 (model gone)", ProviderKeyRejected),
    ("422", ProviderRefused),
    ("413", ProviderRefused),
    ("408", ProviderTimeout),
])  # fmt: skip
def test_faults_have_one_name_whatever_the_vendor(
    kind: Asker, upstream: Upstream, fault: str, expected: type[ProviderFailure], streamed: bool
) -> None:
    upstream.script(fault)
    assert type(failure_of(kind, streamed=streamed)) is expected
    assert kind.kept in (0, 1)


@pytest.mark.parametrize("fault", ["half_line", "ends_early", "reset_after", "chunk_garbage", "invalid_utf8"])
def test_a_stream_that_breaks_off_is_told_after_its_text(kind: Asker, upstream: Upstream, fault: str) -> None:
    upstream.script(fault)
    failure = failure_of(kind, streamed=True)
    assert isinstance(failure, ProviderError)
    assert failure.may_be_billed


@pytest.mark.parametrize("code, expected", [
    (529, ProviderError),
    (429, ProviderRateLimited),
    (500, ProviderError),
])  # fmt: skip
def test_an_error_frame_in_mid_stream_ends_it(
    kind: Asker, upstream: Upstream, code: int, expected: type[ProviderFailure]
) -> None:
    upstream.script(faults.error_mid_stream(3, code))
    assert isinstance(failure_of(kind, streamed=True), ProviderError | expected)


@pytest.mark.parametrize("fault", ["hang", "drip", "drip_headers"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_silence_and_drips_end_at_the_deadline(kind: Asker, upstream: Upstream, fault: str, streamed: bool) -> None:
    upstream.script(fault)
    started = time.monotonic()
    assert type(failure_of(kind, streamed=streamed, until=started + CUT_SECONDS)) is ProviderTimeout
    assert time.monotonic() - started < CUT_SECONDS + 1
    assert kind.kept == 0


@pytest.mark.parametrize("said, seconds", [(7, 7.0), ("date+60", 60.0), ("2500ms", 2.5)])
def test_a_rate_limit_tells_when_to_come_again(kind: Asker, upstream: Upstream, said: Any, seconds: float) -> None:
    upstream.script(faults.status(429, retry_after=said))
    failure = failure_of(kind, streamed=False)
    assert isinstance(failure, ProviderRateLimited)
    assert failure.retry_after == pytest.approx(seconds, abs=2)


def test_no_waiting_helps_where_money_ran_out(kind: Asker, upstream: Upstream) -> None:
    upstream.script("insufficient_quota")
    failure = failure_of(kind, streamed=False)
    assert isinstance(failure, ProviderRateLimited | ProviderKeyRejected)
    assert failure.retry_after is None


def test_a_refusal_keeps_the_provider_s_words(kind: Asker, upstream: Upstream) -> None:
    upstream.script(faults.status(400, message="max_tokens is too large: 999999. sk-sim-leaked-key-of-somebody"))
    failure = failure_of(kind, streamed=False)
    assert isinstance(failure, ProviderRefused)
    assert "max_tokens is too large: 999999" in failure.message
    assert "leaked" not in failure.message


@pytest.mark.parametrize("code", [400, 401, 429, 500])
def test_our_key_is_never_quoted(kind: Asker, upstream: Upstream, code: int) -> None:
    upstream.script(faults.echo_key(code))
    key = kind.candidate.key
    assert key is not None
    assert key.value not in failure_of(kind, streamed=False).message


@pytest.mark.parametrize("name", ["azure classic", "anthropic", "gemini"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_filtered_prompt_is_told_as_such(name: str, upstream: Upstream, streamed: bool) -> None:
    upstream.script("content_filter")
    made = asker(name, upstream)
    assert type(failure_of(made, streamed=streamed)) is PromptFiltered


def test_a_filtered_answer_ends_with_content_filter(kind: Asker, upstream: Upstream) -> None:
    upstream.script(faults.finish("filter"))
    assert kind.chat("hello").finish_reason == "content_filter"
    assert kind.joined("hello").finish_reason == "content_filter"


@pytest.mark.parametrize("fault", [
    "usage_missing", faults.usage_values("NaN"), faults.usage_values(-5), faults.usage_values(10**18)
])  # fmt: skip
def test_nonsense_for_usage_is_no_usage_and_not_shown(kind: Asker, upstream: Upstream, fault: Any) -> None:
    upstream.script(fault)
    answer = kind.chat("hello there")
    assert answer.usage is None
    assert "usage" not in answer.body
    assert answer.raw is None or "usage" not in json.loads(answer.raw)


def test_counts_in_strings_are_counts(kind: Asker, upstream: Upstream) -> None:
    upstream.script("usage_strings")
    usage = kind.chat("hello there").usage
    assert usage is not None
    assert usage.total_tokens == 5


def test_a_huge_answer_is_refused(upstream: Upstream) -> None:
    upstream.script(faults.huge(30), times=1)
    made = asker("openai", upstream)
    assert isinstance(failure_of(made, streamed=False), ProviderError)


@pytest.mark.parametrize("name", [name for name in WITH_WIRE if name not in ("openai_compatible", "ngrok")])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_wrong_key_is_our_fault_and_never_the_caller_s(name: str, upstream: Upstream, streamed: bool) -> None:
    kind = asker(name, upstream)
    key = kind.candidate.key
    assert key is not None
    upstream.revoke_key(key.value)
    assert type(failure_of(kind, streamed=streamed)) is ProviderKeyRejected


@pytest.mark.parametrize("name", WITH_WIRE)
def test_a_refused_port_is_told_at_once(name: str, upstream: Upstream) -> None:
    made = asker(name, upstream, base=upstream.endpoint("closed"))
    started = time.monotonic()
    assert type(failure_of(made, streamed=False)) is ProviderUnreachable
    assert time.monotonic() - started < 2


def test_a_name_that_nobody_knows_is_unreachable(upstream: Upstream) -> None:
    made = asker("openai", upstream, base="http://no-such-host.invalid/v1")
    assert type(failure_of(made, streamed=False)) is ProviderUnreachable


def test_broken_arguments_are_refused_by_name(upstream: Upstream) -> None:
    call = {"id": "c1", "name": "weather", "arguments": "{broken"}
    for name in ("anthropic", "gemini"):
        with pytest.raises(InvalidRequest) as caught:
            asker(name, upstream).chat(turns(call), tools=TOOLS)
        assert caught.value.param == "messages[1].tool_calls[0].function.arguments"
    assert upstream.requests == []


def test_no_arguments_are_an_empty_object(kind: Asker) -> None:
    call = {"id": "c1", "name": "clock", "arguments": ""}
    assert "sunny spells" in kind.chat(turns(call), tools=TOOLS).text
