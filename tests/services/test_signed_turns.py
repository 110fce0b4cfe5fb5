"""Conversations keep what a model signed, and give it back to nobody but its provider."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from tests.actors import Caller, frames
from tests.upstream import Upstream, faults

THINKS = faults.thinking("let me see")
CLAUDE, GEMINI = "claude-haiku-4-5", "gemini/gemini-3-flash-preview"


def say(caller: Caller, message: str, model: str, *, stream: bool = False, conversation: str = "notes") -> None:
    body = {"message": message, "model": model, "conversation_id": conversation, "stream": stream}
    response = caller.post("/llm/chat", body)
    if stream:
        assert "tokens_used" in frames(response.get_data())[-1]


def last_turn(upstream: Upstream, field: str) -> Any:
    """The model's turn before the last question, as the provider was sent it."""
    return upstream.requests[-1].body[field][-2]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_claudes_thoughts_come_back_signed(gateway: Flask, upstream: Upstream, stream: bool) -> None:
    caller = Caller.on(gateway)
    upstream.script(THINKS, times=1)
    say(caller, "one", CLAUDE, stream=stream)
    say(caller, "two", CLAUDE)
    thought, text = last_turn(upstream, "messages")["content"]
    assert (thought["thinking"], text["text"]) == ("let me see", "echo: one")
    assert thought["signature"].startswith("sim")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_geminis_text_comes_back_signed(gateway: Flask, upstream: Upstream, stream: bool) -> None:
    caller = Caller.on(gateway)
    say(caller, "one", GEMINI, stream=stream)
    say(caller, "two", GEMINI)
    (part,) = last_turn(upstream, "contents")["parts"]
    assert part["text"] == "echo: one"
    assert part["thoughtSignature"]


@pytest.mark.parametrize("model", ["openai/gpt-4o", "llama/llama-7b-instruct", GEMINI])
def test_nobody_else_is_given_them(gateway: Flask, upstream: Upstream, model: str) -> None:
    caller = Caller.on(gateway)
    upstream.script(THINKS, times=1)
    say(caller, "one", CLAUDE)
    say(caller, "two", model)
    assert "signature" not in str(upstream.requests[-1].body).lower()


def test_the_history_does_not_show_them(gateway: Flask, upstream: Upstream) -> None:
    caller = Caller.on(gateway)
    upstream.script(THINKS, times=1)
    say(caller, "one", CLAUDE)
    told = caller.get("/llm/get-conversation-history?conversation_id=notes").get_data(as_text=True)
    assert "echo: one" in told
    assert "let me see" not in told
