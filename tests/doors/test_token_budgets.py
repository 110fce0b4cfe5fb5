"""A token's budget may be changed by its owner and by administrators; what was spent of it stays spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from tests.actors import Caller
from tests.conftest import MakeApp, provider_environment
from tests.doors.accounts_world import Person
from tests.upstream import Upstream, faults

A_DOLLAR_AN_ANSWER = """
models:
  costly:
    provider: openai
    model_name: gpt-4o
    max_tokens: 1000
    prices: [{unitOfMeasure: 1000000, currency: USD, token: {inputValue: 0, outputValue: 1000}}]
"""


@pytest.fixture
def gateway(make_app: MakeApp, upstream: Upstream, tmp_path: Path) -> Flask:
    overlay = tmp_path / "models.yaml"
    overlay.write_text(A_DOLLAR_AN_ANSWER)
    app = make_app(LLM_GATEWAY_CONFIG_PATH=str(overlay), **provider_environment(upstream, "openai"))
    app.test_cli_runner().invoke(args=["seed"])
    upstream.script(faults.usage(input=0, output=1000), vendor="openai")
    return app


@pytest.mark.parametrize("path", ["/api/tokens", "/tokens"])
def test_a_changed_budget_keeps_what_is_spent(gateway: Flask, path: str) -> None:
    root = Person(gateway, "root", admin=True)
    token_id, token = root.token(budget={"amount": 2, "period": "month"})
    caller = Caller(gateway.test_client(), token)

    def change(budget: dict[str, Any]) -> None:
        assert root.call("PATCH", f"{path}/{token_id}", {"budget": budget}).status_code == 200

    caller.chat(model="costly")
    change({"amount": 1.5, "period": "month"})
    assert caller.chat(model="costly", status=429).headers["X-FlaskLLM-Error"] == "budget_exceeded"
    change({"amount": 3, "period": "month"})
    caller.chat(model="costly")
    caller.chat(model="costly")
    refused = caller.chat(model="costly", status=429)
    assert refused.headers["x-should-retry"] == "false"
    assert int(refused.headers["Retry-After"]) >= 1
