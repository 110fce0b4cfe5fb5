"""A token with ``drop_params`` asks once, for all doors, what ``drop_params`` asks for one call."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from flask import Flask

from tests.actors import Caller

CLAUDE, GPT = "anthropic/claude-sonnet-5-5", "openai/gpt-4o"
TALK = [{"role": "user", "content": "hello"}]
GATE = {"X-Correlation-Id": str(uuid.uuid4()), "X-User-Id": "u1", "X-Client-Id": "c1"}
LOGIT = {"logit_bias": {"1": 5}}


def in_the_gate(vendor: str, model: str) -> dict[str, Any]:
    return {"provider": {"name": vendor, "model": {"name": model}}}


ASKED = {
    "chat": ("/v1/chat/completions", {"model": CLAUDE, "messages": TALK, **LOGIT}, "logit_bias"),
    "stream": ("/v1/chat/completions", {"model": CLAUDE, "messages": TALK, "stream": True, **LOGIT}, "logit_bias"),
    "deployment": (f"/openai/deployments/{CLAUDE}/chat/completions", {"messages": TALK, **LOGIT}, "logit_bias"),
    "messages": ("/v1/messages", {"model": GPT, "max_tokens": 9, "messages": TALK, "container": "c"}, "container"),
    "responses": ("/v1/responses", {"model": CLAUDE, "input": "a", "text": {"verbosity": "low"}}, "text.verbosity"),
    "embeddings": ("/v1/embeddings", {"model": "gemini-embedding-001", "input": "one", "user": "me"}, "user"),
    "gate": (
        "/llm-gate/v1/chat",
        {**in_the_gate("anthropic", "claude-sonnet-5-5"), "prompt": {"messages": TALK, "parameter": {"seed": 7}}},
        "seed",
    ),
}


@pytest.mark.parametrize("path, body, field", ASKED.values(), ids=ASKED)
def test_what_a_provider_lacks_is_left_out_and_named(gateway: Flask, path: str, body: Any, field: str) -> None:
    refused = Caller.on(gateway).post(path, body, status=400, headers=GATE)
    assert field.rpartition(".")[2] in refused.get_data(as_text=True)
    answered = Caller.on(gateway, name="lenient", drop_params=True).post(path, body, headers=GATE)
    assert answered.headers["X-FlaskLLM-Dropped-Params"] == field
    answered.get_data()
