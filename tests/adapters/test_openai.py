"""OpenAI's wire in its dialects: OpenAI, Azure, xAI, tunnels and local servers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flaskllm.adapters.openai import OpenAIDecoder
from flaskllm.adapters.sse import Event
from flaskllm.domain.usage import usage_from_openai
from flaskllm.errors import InvalidRequest, ProviderError, ProviderFailure
from tests.adapters.candidates import asker, drained
from tests.upstream import Upstream, faults

REASONER = {"backend_model": "gpt-5-mini", "abilities": frozenset({"reasoning"}), "params": {"temperature": "refuse"}}


def test_reasoning_models_get_the_new_cap(upstream: Upstream) -> None:
    made = asker("openai", upstream, model=REASONER)
    made.chat("hello", max_tokens=9)
    assert upstream.requests[-1].body["max_completion_tokens"] == 9
    assert "max_tokens" not in upstream.requests[-1].body


def test_a_model_s_row_refuses_and_drops_by_name(upstream: Upstream) -> None:
    made = asker("openai", upstream, model=REASONER)
    with pytest.raises(InvalidRequest) as caught:
        made.chat("hello", temperature=0.2)
    assert caught.value.param == "temperature"
    assert made.chat("hello", temperature=0.2, drop_params=True).dropped == ["temperature"]
    dropping = asker("openai", upstream, model={**REASONER, "params": {"temperature": "drop"}})
    assert dropping.chat("hello", temperature=0.2).dropped == ["temperature"]


@pytest.mark.parametrize("name", ["openai_compatible", "ngrok"])
def test_local_servers_get_the_old_cap(upstream: Upstream, name: str) -> None:
    asker(name, upstream).chat("hello", max_completion_tokens=9)
    assert upstream.requests[-1].body["max_tokens"] == 9
    assert "max_completion_tokens" not in upstream.requests[-1].body


def test_fields_that_nobody_knows_pass(upstream: Upstream) -> None:
    asker("openai_compatible", upstream).chat("hello", extras={"min_p": 0.1})
    assert upstream.requests[-1].body["min_p"] == 0.1


def test_stream_options_are_left_out_where_a_server_refuses_them(upstream: Upstream) -> None:
    made = asker("openai_compatible", upstream, model={"backend_model": "llama-strict"})
    with pytest.raises(ProviderFailure):
        made.stream("hello")
    knowing = asker(
        "openai_compatible",
        upstream,
        model={"backend_model": "llama-strict"},
        connection={"stream_options": False},
    )
    assert knowing.joined("hello").text == "echo: hello"


@pytest.mark.parametrize("name, path, query", [
    ("azure classic", "/azure/openai/deployments/gpt-4o-mini/chat/completions", {"api-version": "2024-10-21"}),
    ("azure v1", "/azure/openai/v1/chat/completions", {}),
])  # fmt: skip
def test_azure_has_two_addresses(upstream: Upstream, name: str, path: str, query: dict[str, str]) -> None:
    asker(name, upstream).chat("hello")
    assert (upstream.requests[-1].path, upstream.requests[-1].query) == (path, query)


def test_azure_s_deployments_may_bear_other_names(upstream: Upstream) -> None:
    asker("azure classic", upstream, connection={"deployments": {"gpt-4o-mini": "mine"}}).chat("hello")
    assert "/deployments/mine/" in upstream.requests[-1].path


def test_azure_s_notes_do_not_come_as_a_frame_without_choices(upstream: Upstream) -> None:
    chunks = asker("azure classic", upstream).stream("hello")
    assert all(chunk.body["choices"] or chunk.usage for chunk in chunks)
    assert "prompt_filter_results" in chunks[0].body


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tunnel_s_page_is_told_as_such(upstream: Upstream, streamed: bool) -> None:
    made = asker("ngrok", upstream)
    for fault in ("dead_tunnel", "html"):
        upstream.script(fault, times=1)
        with pytest.raises(ProviderError, match=r"tunnel answered with a page"):
            drained(made.open("hello")) if streamed else made.chat("hello")


def test_a_tunnel_s_warning_is_skipped(upstream: Upstream) -> None:
    asker("ngrok", upstream).chat("hello")
    assert upstream.requests[-1].headers["ngrok-skip-browser-warning"] == "true"


def test_grok_s_reasoning_is_counted_though_it_leaves_it_out(upstream: Upstream) -> None:
    upstream.script(faults.thinking("one two three"))
    usage = asker("grok", upstream).chat("hello there").usage
    assert usage is not None
    assert (usage.output, usage.reasoning, usage.completion_tokens) == (3, 3, 6)


def test_a_role_that_was_left_out_is_given_to_the_first_delta(upstream: Upstream) -> None:
    upstream.script("no_role")
    chunks = asker("openai_compatible", upstream).stream("hello there")
    roles = [choice["delta"].get("role") for chunk in chunks for choice in chunk.body["choices"]]
    assert roles[0] == "assistant"
    assert not any(roles[1:])
    assert json.loads(chunks[0].raw or b"")["choices"][0]["delta"]["role"] == "assistant"


def test_choices_that_come_in_turns_keep_apart(upstream: Upstream) -> None:
    upstream.script("two_choices")
    chunks = asker("openai", upstream).stream("hello there")
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.body["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + (choice["delta"].get("content") or "")
    assert texts == {0: "echo: hello there", 1: "echo: hello there"}


def test_bytes_pass_as_they_came(upstream: Upstream) -> None:
    frame = b'{"id": "a",  "choices":[{"index":0, "delta": {"role": "assistant", "content":"x"}}], "odd": 1.50}'
    (chunk,) = OpenAIDecoder((), usage_from_openai).decode(Event("", frame))
    assert chunk.raw == frame


@pytest.mark.parametrize("error", [{"message": "no", "code": 429}, "no"])
def test_an_error_frame_is_a_failure(error: Any) -> None:
    with pytest.raises(ProviderFailure):
        OpenAIDecoder((), usage_from_openai).decode(Event("", json.dumps({"error": error}).encode()))
