"""A provider's own times, of four kinds: each ends what it is for long before REQUEST_TIMEOUT (30 s) would."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from flaskllm.extensions import db
from tests.actors import Caller, access_token, story_of
from tests.conftest import MakeApp
from tests.upstream import Upstream, faults

SOON_S = 8.0
"""Far more than the times below and far less than what they stand in the place of, on any machine."""
HURRIED = """
providers:
  first:
    kind: openai_compatible
    base_url: ADDRESS
    api_key: "${FIRST_KEY}"
    connection: {timeouts: {first_byte_s: 0.3}}
models:
  first/m: {}
  second: {provider: llama}
routes:
  both: {targets: [first/m, llama/second]}
"""
WORDS = faults.text(" ".join(["word"] * 40))


def slow_one(app: Flask, upstream: Upstream, base: str | None = None, **timeouts: float) -> Caller:
    """A caller where the provider `slow`, of one model `m`, has these times."""
    admin = Caller(app.test_client(), access_token(app, "boss", admin=True))
    body = {
        "provider_id": "slow",
        "provider_type": "openai_compatible",
        "connection_params": {"api_base": base or upstream.llama_base, "timeouts": timeouts},
        "models": [{"model_id": "m"}],
    }
    admin.post("/providers", body, status=201)
    return Caller.on(app)


def took(caller: Caller, *, stream: bool, status: int) -> tuple[float, Any]:
    began = time.monotonic()
    response = caller.chat(model="slow/m", stream=stream, status=status)
    response.get_data()
    return time.monotonic() - began, response


both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@both
@pytest.mark.parametrize("kind", ["black_hole", "silent"])
def test_connect_s_ends_a_black_hole_and_a_handshake_that_stalls(
    app: Flask, upstream: Upstream, kind: str, stream: bool
) -> None:
    address = upstream.endpoint(kind)
    if kind == "silent":  # it takes the connection, and says nothing to a client's hello
        address = address.replace("http://", "https://")
    seconds, response = took(slow_one(app, upstream, address, connect_s=0.3), stream=stream, status=504)
    assert 0.3 <= seconds < 4.9  # without it, five seconds
    assert [outcome for _, _, outcome in story_of(response.headers)] == ["timeout"]


@both
def test_first_byte_s_ends_a_silence_before_the_answer(app: Flask, upstream: Upstream, stream: bool) -> None:
    upstream.script(faults.hang())
    seconds, _ = took(slow_one(app, upstream, first_byte_s=0.3), stream=stream, status=504)
    assert 0.3 <= seconds < SOON_S


def test_first_byte_s_ends_a_stream_whose_first_frame_does_not_come(app: Flask, upstream: Upstream) -> None:
    upstream.script(faults.first_delay(60))
    seconds, _ = took(slow_one(app, upstream, first_byte_s=0.3), stream=True, status=504)
    assert 0.3 <= seconds < SOON_S


def test_first_byte_s_says_nothing_of_what_comes_after(app: Flask, upstream: Upstream) -> None:
    caller = slow_one(app, upstream, first_byte_s=1.5)
    upstream.script(WORDS + faults.pace(45))
    seconds, response = took(caller, stream=True, status=200)
    assert seconds > 1.5
    assert response.get_data().rstrip().endswith(b"[DONE]")
    assert b'"error"' not in response.get_data()


def test_idle_s_ends_a_stream_that_falls_silent(app: Flask, upstream: Upstream) -> None:
    upstream.script(WORDS + faults.gap(3, 60))
    seconds, response = took(slow_one(app, upstream, idle_s=0.4), stream=True, status=200)
    assert 0.4 <= seconds < SOON_S
    assert b'"provider_timeout"' in response.get_data()


def test_total_s_ends_a_drip(app: Flask, upstream: Upstream) -> None:
    upstream.script(faults.drip(0.1))
    seconds, _ = took(slow_one(app, upstream, total_s=0.6), stream=False, status=504)
    assert 0.6 <= seconds < SOON_S


def test_total_s_ends_a_stream_that_never_does(app: Flask, upstream: Upstream) -> None:
    upstream.script(faults.endless(100_000) + faults.pace(20))
    seconds, response = took(slow_one(app, upstream, total_s=0.8, idle_s=30), stream=True, status=200)
    assert 0.8 <= seconds < SOON_S
    assert b'"provider_timeout"' in response.get_data()


def test_a_whole_answers_times_end_with_the_callers_and_a_streams_first_frame_may_take_longer(
    make_app: MakeApp, upstream: Upstream
) -> None:
    app = make_app(REQUEST_TIMEOUT="1")
    caller = slow_one(app, upstream, first_byte_s=60, total_s=120)
    upstream.script(faults.first_delay(2), times=1)
    assert took(caller, stream=True, status=200)[0] >= 2
    upstream.script(faults.hang())
    assert took(caller, stream=False, status=504)[0] < SOON_S


def test_what_is_given_up_early_leaves_time_for_others(make_app: MakeApp, upstream: Upstream, tmp_path: Path) -> None:
    overlay = tmp_path / "models.yaml"
    overlay.write_text(HURRIED.replace("ADDRESS", upstream.openai_base))
    app = make_app(
        LLM_GATEWAY_CONFIG_PATH=str(overlay), FIRST_KEY=upstream.keys["openai"], LLAMA_API_URL=upstream.llama_base
    )
    app.test_cli_runner().invoke(args=["seed"])
    upstream.script(faults.hang(), vendor="openai")
    response = Caller.on(app).chat(model="both")
    assert [(name, outcome) for name, _, outcome in story_of(response.headers)] == [
        ("first/m", "timeout"),
        ("llama/second", "ok"),
    ]


def test_a_row_is_held_as_long_as_its_call_may_take(app: Flask, upstream: Upstream) -> None:
    caller = slow_one(app, upstream, first_byte_s=200, total_s=600)
    took(caller, stream=True, status=200)
    with app.app_context(), db.engine.connect() as connection:
        begun, until = connection.execute(text("SELECT started_at, lease_until FROM attempts")).one()
    assert (until - begun) / 1000 >= 800


@pytest.mark.parametrize(
    "timeouts, field",
    [
        ({"connect_s": 0}, "connect_s"),
        ({"idle_s": 601}, "idle_s"),
        ({"total_s": "5"}, "total_s"),
        ({"first_byte_s": True}, "first_byte_s"),
        ({"read_s": 5}, "read_s"),
        ([5], ""),
    ],
)
def test_what_is_no_time_is_refused_by_name(app: Flask, upstream: Upstream, timeouts: Any, field: str) -> None:
    admin = Caller(app.test_client(), access_token(app, "boss", admin=True))
    body = {
        "provider_id": "slow",
        "provider_type": "openai_compatible",
        "connection_params": {"api_base": upstream.llama_base, "timeouts": timeouts},
    }
    where = f"connection_params.timeouts{'.' if field else ''}{field}"
    refused = admin.post("/providers", body, status=400)
    assert [detail["field"] for detail in refused.json["error"]["details"]] == [where]


@pytest.mark.parametrize("given", ["{read_s: 5}", "{idle_s: 0}", "[5]", "{total_s: long}"])
def test_a_file_with_what_is_no_time_is_refused_by_name(make_app: MakeApp, tmp_path: Path, given: str) -> None:
    overlay = tmp_path / "models.yaml"
    overlay.write_text(f"providers:\n  x: {{kind: openai_compatible, connection: {{timeouts: {given}}}}}\n")
    result = make_app(LLM_GATEWAY_CONFIG_PATH=str(overlay)).test_cli_runner().invoke(args=["seed"])
    assert result.exit_code != 0
    assert "providers.x: connection: expected a mapping" in result.output + str(result.exception)
