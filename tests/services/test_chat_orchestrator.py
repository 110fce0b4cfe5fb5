"""A whole answer: whatever the provider says or we break, the attempt is settled once and the call has its row."""

from __future__ import annotations

import time
from typing import Any

import pytest
from flask import Flask

from flaskllm.adapters.openai import OpenAIAdapter
from flaskllm.domain.call import CallContext
from flaskllm.domain.chat import ChatRequest
from flaskllm.errors import ProviderError, ProviderTimeout
from tests.conftest import MakeApp, provider_environment
from tests.services.test_chat_stream import SOMEBODY, rows
from tests.upstream import Upstream, faults


def complete(app: Flask, *, model: str = "gpt-4o", seconds: float = 30) -> Any:
    request = ChatRequest(model=model, messages=[{"role": "user", "content": "hello"}])
    call = CallContext(SOMEBODY, "req-1", "test", deadline=time.monotonic() + seconds)
    return app.extensions["flaskllm"].chat.complete(request, call)


@pytest.fixture
def app(make_app: MakeApp, upstream: Upstream) -> Flask:
    return make_app(**provider_environment(upstream, "openai"))


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": {"content": 5}}]},
        {"choices": [{"message": "text"}]},
        {"choices": [3]},
        {"choices": {"a": 1}},
        {"choices": [{"message": {"tool_calls": 7}}]},
        {"choices": [{"message": {"tool_calls": [{"function": "f"}]}}]},
    ],
)
def test_an_answer_of_the_wrong_shape_is_the_providers_fault_and_settled_by_its_length(
    app: Flask, upstream: Upstream, body: Any
) -> None:
    upstream.script(faults.raw(body), vendor="openai")
    with pytest.raises(ProviderError):
        complete(app)
    ((state, tokens, estimated),) = rows(app, "SELECT state, completion_tokens, estimated FROM attempts")
    assert (state, estimated) == ("settled", 1)
    assert 0 < tokens < 30
    assert rows(app, "SELECT status, error_code FROM calls") == [(502, "provider_error")]


@pytest.mark.parametrize("fault", [faults.html(), faults.empty_body()], ids=["html", "empty"])
def test_where_nothing_can_have_been_generated_nothing_is_charged(
    app: Flask, upstream: Upstream, fault: faults.Behaviour
) -> None:
    upstream.script(fault, vendor="openai")
    with pytest.raises(ProviderError):
        complete(app)
    assert {row[0] for row in rows(app, "SELECT cost FROM attempts")} == {0}


def test_a_fault_of_our_own_after_the_question_went_out_is_not_for_free(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenAIAdapter, "decode", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        complete(app)
    assert rows(app, "SELECT state, cost > 0 FROM attempts") == [("settled", 1)]
    assert rows(app, "SELECT status, error_code FROM calls") == [(500, "internal_error")]


def test_a_call_whose_time_is_over_before_the_second_is_asked_has_its_row(
    make_app: MakeApp, upstream: Upstream, tmp_path: Any
) -> None:
    overlay = tmp_path / "models.yaml"
    overlay.write_text(
        "models:\n  first: {provider: openai, model_name: gpt-4o, aliases: [both], timeout_s: 1}\n"
        "  second: {provider: llama, model_name: second, aliases: [both]}\n"
    )
    app = make_app(LLM_GATEWAY_CONFIG_PATH=str(overlay), **provider_environment(upstream, "openai", "llama"))
    app.test_cli_runner().invoke(args=["seed"])
    upstream.script(faults.hang(), vendor="openai")
    with pytest.raises(ProviderTimeout):
        complete(app, model="both", seconds=0.5)
    assert rows(app, "SELECT status, error_code, attempts FROM calls") == [(504, "provider_timeout", 1)]


def test_asking_for_the_window_takes_nobodys_turn(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(**provider_environment(upstream, "openai", "azure_openai"))
    services = app.extensions["flaskllm"]
    request = ChatRequest(model="gpt-4o", messages=[{"role": "user", "content": "hello"}])
    before = {name: repr(turns) for name, turns in services.router._turns.items()}
    assert services.chat.window(request, SOMEBODY)
    assert {name: repr(turns) for name, turns in services.router._turns.items()} == before
