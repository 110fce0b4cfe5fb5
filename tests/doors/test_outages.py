"""Providers that are down for longer: what callers are told, how often they are asked, and when they are back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from flask import Flask

from flaskllm.services import circuit_board
from tests.actors import Caller, calls_of, story_of
from tests.conftest import MakeApp, provider_environment
from tests.doors.two_providers import two_providers
from tests.upstream import Upstream, faults

CALLS = 60


@pytest.fixture
def pair(make_app: MakeApp, upstream: Upstream, tmp_path: Path) -> Flask:
    return two_providers(make_app, upstream, tmp_path)


def outcome(caller: Caller, **more: object) -> tuple[int, float]:
    began = time.monotonic()
    body = {"model": "both", "messages": [{"role": "user", "content": "hello"}], **more}
    response = caller.http.post("/v1/chat/completions", json=body, headers=caller.headers)
    response.get_data()
    return response.status_code, time.monotonic() - began


@pytest.mark.alone
@pytest.mark.parametrize("stream", [False, True])
def test_all_providers_down(pair: Flask, upstream: Upstream, stream: bool) -> None:
    for vendor in ("openai", "llama"):
        upstream.script(faults.status(500), vendor=vendor)
    caller = Caller.on(pair)
    told = [outcome(caller, stream=stream) for _ in range(CALLS)]
    statuses = [status for status, _ in told]
    first = statuses.index(503)
    assert set(statuses[:first]) == {502}
    assert set(statuses[first:]) == {503}
    assert sorted(seconds for _, seconds in told[first:])[CALLS // 2 - first] < 0.05
    assert len(upstream.requests) <= 1.1 * CALLS
    assert len(upstream.requests) <= 2 * circuit_board.IN_A_ROW
    response = caller.chat(model="both", status=503)
    assert response.json["error"]["code"] == "unavailable"
    assert "status 500" in response.json["error"]["message"]
    assert 1 <= int(response.headers["Retry-After"]) <= circuit_board.PROBE_EVERY_S + 2
    assert story_of(response.headers) == [
        ("openai/first", "main", "resting;unsent"),
        ("llama/second", "main", "resting;unsent"),
    ]


def test_it_is_back_within_fifteen_seconds(pair: Flask, upstream: Upstream) -> None:
    for vendor in ("openai", "llama"):
        upstream.script(faults.status(500), vendor=vendor)
    caller = Caller.on(pair)
    while outcome(caller)[0] != 503:
        pass
    upstream.reset()
    began = time.monotonic()
    while outcome(caller)[0] != 200:
        assert time.monotonic() - began < 15
        time.sleep(0.1)
    assert outcome(caller)[0] == 200


def test_one_provider_down_is_nobodys_error_and_it_is_soon_left_alone(pair: Flask, upstream: Upstream) -> None:
    upstream.script(faults.status(500), vendor="openai")
    caller = Caller.on(pair)
    assert {outcome(caller)[0] for _ in range(CALLS)} == {200}
    asked = [seen.vendor for seen in upstream.requests]
    assert asked.count("openai") == circuit_board.IN_A_ROW
    assert len(asked) <= 1.1 * CALLS


def test_one_region_down_is_nobodys_error(make_app: MakeApp, upstream: Upstream) -> None:
    _, east_key = upstream.azure_region("east")
    west, west_key = upstream.azure_region("west")
    app = make_app(
        AZURE_OPENAI_EAST_US_ENDPOINT=upstream.endpoint("closed"),
        AZURE_OPENAI_EAST_US_API_KEY=east_key,
        AZURE_OPENAI_WEST_EUROPE_ENDPOINT=west,
        AZURE_OPENAI_WEST_EUROPE_API_KEY=west_key,
    )
    caller = Caller.on(app)
    responses = [caller.chat(model="azure_openai/gpt-4o") for _ in range(20)]
    tried = [calls_of(response.headers) for response in responses]
    assert tried.count(2) == circuit_board.IN_A_ROW
    assert tried[-5:] == [1] * 5
    passed_over = next(response for response in responses if calls_of(response.headers) == 2)
    assert story_of(passed_over.headers) == [
        ("azure_openai/gpt-4o", "east_us", "unreachable"),
        ("azure_openai/gpt-4o", "west_europe", "ok"),
    ]


def test_a_request_that_is_refused_takes_nobody_away(pair: Flask, upstream: Upstream) -> None:
    upstream.script(faults.status(400), vendor="openai")
    caller = Caller.on(pair)
    assert {outcome(caller)[0] for _ in range(circuit_board.IN_A_ROW * 2)} == {400}
    upstream.reset()
    assert outcome(caller)[0] == 200


def test_health_and_metrics_tell_of_it(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(METRICS_TOKEN="m" * 32, **provider_environment(upstream, "openai"))
    caller = Caller.on(app)
    assert told_of(app) == ("ok", "ok", "0.0")
    upstream.script(faults.status(500), vendor="openai")
    while outcome(caller, model="openai/gpt-4o")[0] != 503:
        pass
    time.sleep(1.1)  # readiness is looked at once a second
    assert told_of(app) == ("degraded", "degraded", "1.0")


def told_of(app: Flask) -> tuple[str, str, str]:
    client = app.test_client()
    ready = client.get("/health/ready")
    assert ready.status_code == 200
    scraped = client.get("/metrics", headers={"Authorization": "Bearer " + "m" * 32}).get_data(as_text=True)
    line = next(line for line in scraped.splitlines() if line.startswith("flaskllm_breaker_open{"))
    assert line.startswith('flaskllm_breaker_open{endpoint="main",provider="openai"} ')
    return ready.json["status"], ready.json["checks"]["providers"], line.rpartition(" ")[2]


@pytest.mark.alone
def test_a_short_wait_is_waited_for_where_nobody_else_can_answer(make_app: MakeApp, upstream: Upstream) -> None:
    caller = Caller.on(make_app(**provider_environment(upstream, "openai")))
    for wait in (1, "1500ms"):
        upstream.script(faults.status(429, retry_after=wait), vendor="openai", times=1)
        began = time.monotonic()
        assert calls_of(caller.chat(model="openai/gpt-4o").headers) == 2
        assert 1 <= time.monotonic() - began < 3


@pytest.mark.alone
def test_calls_beyond_the_places_of_a_process_are_refused_at_once(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(WEB_THREADS="9", **provider_environment(upstream, "openai"))
    upstream.script(faults.text("one two three") + faults.gap(2, 3), vendor="openai")
    caller = Caller.on(app)
    body = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    open_stream = caller.http.post("/v1/chat/completions", json=body, headers=caller.headers)
    assert open_stream.status_code == 200
    began = time.monotonic()
    refused = Caller.on(app, name="other").chat(model="openai/gpt-4o", status=503)
    assert time.monotonic() - began < 0.5
    assert refused.headers["Retry-After"] == "1"
    assert app.test_client().get("/health/live").status_code == 200
    open_stream.get_data()
    upstream.reset()
    assert caller.chat(model="openai/gpt-4o").status_code == 200
