"""What a provider told of its usage is what is paid, also where its answer cannot be used or breaks off; a running
total is marked as the estimate that it is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from flaskllm.extensions import db
from tests.actors import Caller
from tests.conftest import MakeApp, provider_environment
from tests.upstream import Upstream, faults

VENDORS = ("openai", "anthropic", "gemini")
TOLD = faults.usage(input=500, cached=40, output=70)
OVERLAY = """
models:
  openai/told: {provider: openai, model_name: gpt-4o}
  anthropic/told: {provider: anthropic, model_name: claude-haiku-4-5, max_tokens: 1000}
  gemini/told: {provider: gemini, model_name: gemini-2.5-flash}
"""


@pytest.fixture
def app(make_app: MakeApp, upstream: Upstream, tmp_path: Path) -> Flask:
    (tmp_path / "models.yaml").write_text(OVERLAY)
    keys = provider_environment(upstream, *VENDORS)
    made = make_app(LLM_GATEWAY_CONFIG_PATH=str(tmp_path / "models.yaml"), **keys)
    made.test_cli_runner().invoke(args=["seed"])
    return made


def attempts(app: Flask) -> list[Any]:
    query = "SELECT state, prompt_tokens, completion_tokens, estimated FROM attempts ORDER BY id"
    until = time.monotonic() + 10
    while True:
        with app.app_context(), db.engine.connect() as connection:
            found = [tuple(row) for row in connection.execute(text(query))]
        if time.monotonic() > until or all(row[0] != "reserved" for row in found):
            return found
        time.sleep(0.02)


@pytest.mark.parametrize("vendor", VENDORS)
def test_an_answer_without_choices_costs_what_it_says(app: Flask, upstream: Upstream, vendor: str) -> None:
    upstream.script(TOLD + faults.no_choices())
    Caller.on(app).post("/v1/chat/completions", asked(vendor), status=200 if vendor == "anthropic" else 502)
    assert {(row[0], *row[1:3]) for row in attempts(app)} == {("settled", 540, 70)}


def asked(vendor: str, **more: Any) -> dict[str, Any]:
    return {"model": f"{vendor}/told", "messages": [{"role": "user", "content": "one two three"}], **more}


def test_a_prompt_that_gemini_blocks_costs_what_it_says(app: Flask, upstream: Upstream) -> None:
    upstream.script(faults.content_filter())
    Caller.on(app).post("/v1/chat/completions", asked("gemini"), status=400)
    assert attempts(app) == [("settled", 3, 0, 0)]


def test_a_providers_408_costs_nothing(app: Flask, upstream: Upstream) -> None:
    upstream.script(faults.status(408))
    Caller.on(app).post("/v1/chat/completions", asked("openai"), status=504)
    assert attempts(app) == [("released", 0, 0, 0)]


@pytest.mark.parametrize("vendor", ["anthropic", "gemini"])
def test_of_a_stream_that_breaks_off_the_prompt_is_paid_as_told_and_marked(
    app: Flask, upstream: Upstream, vendor: str
) -> None:
    upstream.script(TOLD + faults.text("word " * 40) + faults.usage(output=70) + faults.reset_after(20))
    Caller.on(app).post("/v1/chat/completions", asked(vendor, stream=True)).get_data()
    ((state, prompt, completion, estimated),) = attempts(app)
    assert (state, prompt, estimated) == ("settled", 540, 1)
    assert 10 <= completion < 70


def test_a_running_total_that_breaks_off_is_marked_and_never_below_the_text(app: Flask, upstream: Upstream) -> None:
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    frames = [
        {
            **chunk,
            "choices": [{"index": 0, "delta": {"content": "twelve chars"}, "finish_reason": None}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
        }
    ] * 5
    upstream.script(faults.frames(frames) + faults.eof_after(4))
    Caller.on(app).post("/v1/chat/completions", asked("openai", stream=True)).get_data()
    assert attempts(app) == [("settled", 9, 10, 1)]


def test_what_gemini_sends_after_its_end_lowers_nothing(app: Flask, upstream: Upstream) -> None:
    upstream.script(TOLD + faults.done_then_more())
    Caller.on(app).post("/v1/chat/completions", asked("gemini", stream=True)).get_data()
    assert attempts(app) == [("settled", 540, 70, 0)]
