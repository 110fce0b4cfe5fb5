"""One real call, against the simulator, what is said of it, and that it is booked."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from flaskllm.domain.call import CallContext
from flaskllm.errors import NotFound
from flaskllm.extensions import db
from flaskllm.services.provider_check import OPERATOR, CheckReport
from tests.conftest import MakeApp, provider_environment
from tests.upstream import Upstream, faults


def check(app: Flask, provider_id: str, model: str | None = None) -> CheckReport:
    call = CallContext(OPERATOR, "request-1", "cli", time.monotonic() + 30)
    return app.extensions["flaskllm"].provider_check.run(provider_id, call, model)


@pytest.fixture
def openai(make_app: MakeApp, upstream: Upstream) -> Flask:
    return make_app(**provider_environment(upstream, "openai"))


def rows(app: Flask, query: str) -> list[Any]:
    app.extensions["flaskllm"].shutdown.stop()
    with app.app_context(), db.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def test_what_works_says_so_and_how_fast(openai: Flask) -> None:
    report = check(openai, "openai")
    assert report.works
    assert report.message.startswith("It works")
    assert report.seconds is not None


def test_it_is_booked_like_any_call(openai: Flask) -> None:
    report = check(openai, "openai")
    assert report.cost
    assert rows(openai, "SELECT state, cost FROM attempts") == [("settled", report.cost)]
    assert rows(openai, "SELECT user_id, door, cost FROM calls") == [("operator", "cli", report.cost)]


def test_it_spends_a_few_tokens_at_the_most(openai: Flask, upstream: Upstream) -> None:
    check(openai, "openai")
    (seen,) = upstream.requests
    assert seen.body["max_tokens"] <= 64


def test_a_wrong_key_is_told_in_plain_words_and_not_shown(make_app: MakeApp, upstream: Upstream) -> None:
    environment = {**provider_environment(upstream, "openai"), "OPENAI_API_KEY": "sk-wrong-canary-0123456789"}
    report = check(make_app(**environment), "openai")
    assert not report.works
    assert "does not accept the key" in report.message
    assert "canary" not in report.message


def test_a_failure_is_booked_as_released(openai: Flask, upstream: Upstream) -> None:
    upstream.script(faults.status(401))
    assert not check(openai, "openai").works
    assert rows(openai, "SELECT state, cost FROM attempts") == [("released", 0)]


def test_a_spent_limit_is_told(openai: Flask, upstream: Upstream) -> None:
    upstream.script(faults.status(429, retry_after=2), vendor="openai", times=1)
    assert "rate limit or quota" in check(openai, "openai").message


def test_nobody_there_is_told(make_app: MakeApp) -> None:
    assert "cannot be reached" in check(make_app(LLAMA_API_URL="http://127.0.0.1:1/v1"), "llama").message


def test_demo_always_works(app: Flask) -> None:
    assert check(app, "demo").works


def test_a_provider_that_is_off_names_its_switch(app: Flask) -> None:
    report = check(app, "grok")
    assert not report.works
    assert "GROK_API_KEY" in report.message


@pytest.mark.parametrize("provider_id, model", [("nobody", None), ("openai", "no-such-thing")])
def test_what_is_not_there_is_not_found(openai: Flask, provider_id: str, model: str | None) -> None:
    with pytest.raises(NotFound):
        check(openai, provider_id, model)


ONLY = """
providers:
  studio: {kind: openai_compatible, base_url: "%s", api_key: "${STUDIO_KEY}"}
models:
  studio/%s: {type: %s, model_name: %s}
"""


@pytest.mark.parametrize(
    "name, kind, path, said",
    [
        ("text-embedding-3-small", "embedding", "/v1/embeddings", "a vector of"),
        ("gpt-image-1", "image", "/v1/images/generations", "an image"),
    ],
)
def test_a_provider_without_a_chat_model_is_asked_for_what_it_has(
    make_app: MakeApp, upstream: Upstream, tmp_path: Path, name: str, kind: str, path: str, said: str
) -> None:
    overlay = tmp_path / "models.yaml"
    overlay.write_text(ONLY % (upstream.openai_base, name, kind, name))
    app = make_app(LLM_GATEWAY_CONFIG_PATH=str(overlay), STUDIO_KEY=upstream.keys["openai"])
    app.test_cli_runner().invoke(args=["seed"])
    for model in (None, name, f"studio/{name}"):
        report = check(app, "studio", model)
        assert report.works, report.message
        assert said in report.message
    assert {seen.path for seen in upstream.requests} == {f"/openai{path}"}
    assert rows(app, "SELECT DISTINCT state FROM attempts") == [("settled",)]
