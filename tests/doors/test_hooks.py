"""What every answer carries: its id, its headers, its line in the log, and what a browser may read of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flask import Flask

from tests.actors import Caller
from tests.conftest import MakeApp

PREFLIGHT = {"Origin": "https://sheet.example", "Access-Control-Request-Method": "POST"}


@pytest.mark.parametrize("path", ["/api/v1/webhook", "/v1/chat/completions", "/llm/chat"])
def test_a_preflight_passes_without_a_token_and_names_every_header(app: Flask, path: str) -> None:
    response = app.test_client().options(path, headers=PREFLIGHT)
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    named = response.headers["Access-Control-Allow-Headers"]
    assert all(name in named for name in ("Authorization", "X-API-Token", "Content-Type"))
    assert int(response.headers["Access-Control-Max-Age"]) > 0


def test_an_error_carries_the_cors_headers_too(app: Flask) -> None:
    response = app.test_client().post("/api/v1/webhook", json={}, headers={"Origin": "https://sheet.example"})
    assert response.status_code == 401
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "Retry-After" in response.headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Credentials" not in response.headers


def test_with_origins_named_only_these_may_call(make_app: MakeApp) -> None:
    client = make_app(ALLOWED_ORIGINS="https://good.example").test_client()
    good = client.get("/health", headers={"Origin": "https://good.example"})
    bad = client.get("/health", headers={"Origin": "https://bad.example"})
    assert good.headers["Access-Control-Allow-Origin"] == "https://good.example"
    assert "Access-Control-Allow-Origin" not in bad.headers


def test_a_well_formed_request_id_is_kept_and_another_is_replaced(app: Flask) -> None:
    client = app.test_client()
    assert client.get("/health", headers={"X-Request-Id": "my-id-0001"}).headers["X-Request-Id"] == "my-id-0001"
    for odd in ("x", "a" * 200, "<script>alert(1)</script>", "two words here"):
        assert client.get("/health", headers={"X-Request-Id": odd}).headers["X-Request-Id"] != odd


def test_every_answer_has_the_safety_headers(app: Flask) -> None:
    for path in ("/health", "/nowhere", "/v1/models"):
        headers = app.test_client().get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/nowhere", "/v1/nowhere", "/api/nowhere", "/llm/nowhere"])
def test_an_unknown_path_is_json_and_never_a_page(app: Flask, path: str) -> None:
    response = app.test_client().get(path)
    assert (response.status_code, response.mimetype) == (404, "application/json")


def test_a_model_call_is_one_line_and_another_request_too_without_a_secret(make_app: MakeApp, tmp_path: Path) -> None:
    app = make_app(LOG_DIR=str(tmp_path / "logs"))
    caller = Caller.on(app)
    caller.post(
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "a secret prompt"}], "metadata": {"sheet": "A"}},
        headers={"X-Correlation-Id": "c-1", "X-Client-Id": "excel"},
    )
    caller.get("/v1/models")
    text = (tmp_path / "logs" / "app.log").read_text()
    call, request = map(json.loads, text.splitlines())
    assert (call["event"], request["event"]) == ("llm_request", "http_request")
    assert {"request_id", "model", "backend_model", "provider", "started_at", "finished_at", "latency_ms"} <= set(call)
    assert {"prompt_tokens", "completion_tokens", "status", "error_code", "metadata"} <= set(call)
    assert (call["metadata"], call["client_id"], call["correlation_id"]) == ({"sheet": "A"}, "excel", "c-1")
    assert (request["method"], request["route"], request["status"]) == ("GET", "/v1/models", 200)
    assert caller.token not in text
    assert "a secret prompt" not in text


def test_a_log_folder_that_cannot_be_written_fails_no_request(make_app: MakeApp, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert make_app(LOG_DIR=str(tmp_path / "file")).test_client().get("/health").status_code == 200


def test_a_body_over_the_limit_is_a_413(make_app: MakeApp) -> None:
    caller = Caller.on(make_app(MAX_BODY_BYTES="2048"))
    assert caller.chat("x" * 4096, status=413).json["error"]["code"] == "payload_too_large"


def test_another_content_type_is_a_415(caller: Caller) -> None:
    response = caller.http.post("/v1/chat/completions", data="{}", content_type="text/plain", headers=caller.headers)
    assert (response.status_code, response.json["error"]["code"]) == (415, "unsupported_media_type")
