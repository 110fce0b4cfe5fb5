"""Seed 4: its printed ``config/models.yaml`` as the catalogue, its endpoints, its fields of every log line and row.

Its batches come with their own doors.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from flaskllm.extensions import db
from tests.actors import Caller
from tests.conftest import MakeApp, provider_environment
from tests.upstream import Upstream

PRINTED = Path(__file__).parent / "examples" / "s4_models.yaml"
MODELS = {
    "llama-7b": ("small", "Llama 7B", "llama-7b-instruct", "llama"),
    "gpt-4-mini": ("medium", "GPT-4 Mini", "gpt-4-mini", "openai"),
    "gemini-2.5-flash": ("large", "Gemini 2.5 Flash", "gemini-2.5-flash", "gemini"),
}
FIELDS = (
    "request_id", "model", "backend_model", "provider", "started_at", "finished_at", "latency_ms", "prompt_tokens",
    "completion_tokens", "status", "error_code", "metadata",
)  # fmt: skip


@pytest.fixture
def app(make_app: MakeApp, upstream: Upstream) -> Flask:
    """The seed's file as it is printed; OpenAI's address is moved by its variable."""
    made = make_app(
        **provider_environment(upstream, "openai", "llama"),
        GEMINI_API_URL=upstream.llama_base,
        GEMINI_API_KEY=upstream.keys["llama"],
        LLM_GATEWAY_CONFIG_PATH=str(PRINTED),
    )
    seeded = made.test_cli_runner().invoke(args=["seed"])
    assert seeded.exit_code == 0, seeded.output
    return made


def test_its_models_are_listed_under_their_names_and_tiers(app: Flask) -> None:
    listed = {one["id"]: one for one in Caller.on(app).get("/v1/models").json["data"]}
    for name, (tier, shown, _, _) in MODELS.items():
        assert (listed[name]["tier"], listed[name]["display_name"]) == (tier, shown)


@pytest.mark.parametrize("name", MODELS)
def test_each_answers_by_its_name_and_leads_its_tier(app: Flask, upstream: Upstream, name: str) -> None:
    tier, _, backend, _ = MODELS[name]
    caller = Caller.on(app)
    for asked in (name, tier):
        answer = caller.chat("hello", model=asked).json
        assert answer["choices"][0]["message"]["content"]
        assert upstream.requests[-1].model == backend


def test_each_request_is_told_in_its_fields(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    caller = Caller.on(app)
    body: dict[str, Any] = {
        "model": "llama-7b",
        "messages": [{"role": "user", "content": "hi"}],
        "metadata": {"job": "7"},
    }
    response = caller.post("/v1/chat/completions", body)
    [line] = [record.fields for record in caplog.records if record.getMessage() == "llm_request"]  # type: ignore[attr-defined]
    assert set(FIELDS) <= set(line)
    assert (line["model"], line["backend_model"], line["status"]) == ("llama-7b", "llama-7b-instruct", 200)
    assert line["request_id"] == response.headers["X-Request-Id"]
    assert line["metadata"] == {"job": "7"}
    with app.app_context(), db.engine.connect() as connection:
        row = connection.execute(text(f"SELECT {', '.join(FIELDS)} FROM calls")).mappings().one()
    assert row["backend_model"] == "llama-7b-instruct"
    assert row["latency_ms"] >= 0


def test_its_health_is_open(app: Flask) -> None:
    assert app.test_client().get("/health").json["status"] == "ok"


def test_keys_are_bearers_and_limited_each(app: Flask) -> None:
    assert app.test_client().get("/v1/models").status_code == 401
    slow, quick = Caller.on(app, name="slow", requests_per_minute=1), Caller.on(app, name="quick")
    slow.chat("one", model="llama-7b")
    assert slow.chat("two", model="llama-7b", status=429).headers["Retry-After"]
    quick.chat("one", model="llama-7b")
