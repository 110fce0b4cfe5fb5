"""``/metrics``: who may read it, and what stands there."""

from __future__ import annotations

import pytest
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families

from tests.actors import Caller, access_token
from tests.conftest import MakeApp

TOKEN = "metrics-token-of-forty-characters-0123456789"


def counts(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def count(text: str, name: str, **labels: str) -> float:
    """The sum of the samples that bear these labels."""
    wanted = set(labels.items())
    return sum(value for (found, has), value in counts(text).items() if found == name and wanted <= has)


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return make_app(METRICS_TOKEN=TOKEN)


@pytest.mark.parametrize("headers", [{"Authorization": f"Bearer {TOKEN}"}, {"X-API-Token": TOKEN}])
def test_the_operators_token_reads_the_counts(app: Flask, headers: dict[str, str]) -> None:
    response = app.test_client().get("/metrics", headers=headers)
    assert response.status_code == 200
    assert response.content_type.startswith("text/plain; version=")
    assert "flaskllm_build{version=" in response.text


def test_it_opens_no_other_door(app: Flask) -> None:
    for path in ("/v1/models", "/api/usage", "/llm/conversations"):
        assert app.test_client().get(path, headers={"X-API-Token": TOKEN}).status_code == 401


def test_nobody_reads_them_for_being_near(app: Flask) -> None:
    client = app.test_client()
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"X-API-Token": TOKEN[:-1]}):
        assert client.get("/metrics", headers=headers, environ_base={"REMOTE_ADDR": "127.0.0.1"}).status_code == 401
    both = {"Authorization": f"Bearer {TOKEN}", "X-API-Token": "other"}
    assert client.get("/metrics", headers=both).status_code == 400


def test_administrators_read_them_and_users_do_not(make_app: MakeApp) -> None:
    app = make_app()
    Caller(app.test_client(), access_token(app, "boss", admin=True)).get("/metrics")
    Caller(app.test_client(), access_token(app, "alice")).get("/metrics", status=403)
    Caller.on(app).get("/metrics", status=403)


def test_calls_are_counted_with_tokens_and_money_and_without_names(app: Flask) -> None:
    caller = Caller.on(app, name="metered")
    answer = caller.chat("one two three", model="demo").json
    caller.stream("one two three", model="demo")
    caller.chat("one two three", model="no-such-model", status=404)

    text = app.test_client().get("/metrics", headers={"X-API-Token": TOKEN}).text
    assert count(text, "flaskllm_model_calls_total", provider="demo", status="200") == 2
    assert count(text, "flaskllm_model_calls_total", provider="none", status="404") == 1
    prompt = count(text, "flaskllm_tokens_total", provider="demo", direction="prompt")
    assert prompt == 2 * answer["usage"]["prompt_tokens"]
    assert count(text, "flaskllm_upstream_attempts_total") == 2
    assert count(text, "flaskllm_http_requests_total", route="/v1/chat/completions", status="200") == 2
    assert count(text, "flaskllm_model_call_duration_seconds_count", provider="demo") == 2
    assert "metered" not in text
    assert "no-such-model" not in text


def test_a_path_that_is_no_route_makes_no_new_series(app: Flask) -> None:
    client = app.test_client()
    for number in range(5):
        client.open(f"/nowhere/{number}", method="BREW" if number % 2 else "GET")
    text = client.get("/metrics", headers={"X-API-Token": TOKEN}).text
    assert count(text, "flaskllm_http_requests_total", route="unknown", method="other", status="404") == 5
    assert "/nowhere" not in text
