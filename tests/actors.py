"""People who use the gateway: their calls assert the status and the content type in one place."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.people import PASSWORD, make_account

AN_ID = "00000000-0000-4000-8000-000000000000"
"""Nobody's, of a form that every path takes."""


@dataclass
class Caller:
    """A program with an API token."""

    http: FlaskClient
    token: str

    @classmethod
    def on(cls, app: Flask, *, name: str = "test", **document: Any) -> Self:
        """A caller with a fresh token of the service user; ``document`` as in ``POST /api/tokens``."""
        services = app.extensions["flaskllm"]
        document.setdefault("scopes", ["chat", "embeddings", "images", "batch", "webhook"])
        _, token = services.tokens.issue_for_service(name=name, document=document)
        return cls(app.test_client(), token)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def post(self, path: str, body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> TestResponse:
        response = self.http.post(path, json=body, headers={**self.headers, **(headers or {})})
        assert response.status_code == status, response.get_data(as_text=True)
        return response

    def get(self, path: str, *, status: int = 200) -> TestResponse:
        response = self.http.get(path, headers=self.headers)
        assert response.status_code == status, response.get_data(as_text=True)
        return response

    def chat(self, text: str = "hello", *, status: int = 200, **body: Any) -> TestResponse:
        """One question to ``/v1/chat/completions``."""
        asked = {"messages": [{"role": "user", "content": text}], **body}
        response = self.post("/v1/chat/completions", asked, status=status)
        assert response.mimetype == (
            "text/event-stream" if body.get("stream") and status == 200 else "application/json"
        )
        return response

    def stream(self, text: str = "hello", **body: Any) -> list[Any]:
        """The data of each frame, decoded; ``"[DONE]"`` as it is."""
        return frames(self.chat(text, stream=True, **body).get_data())


def calls_of(headers: Mapping[str, str]) -> int:
    """How many calls went out for an answer, by its header."""
    return int(headers["X-FlaskLLM-Attempts"].partition(",")[0])


def story_of(headers: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """How each went: ``provider/model``, endpoint and outcome; one that never went out ends in ``;unsent``."""
    number, *told = headers["X-FlaskLLM-Attempts"].split(", ")
    found = [re.fullmatch(r'"(.+)";at="(.+)";is=([a-z_]+(?:;unsent)?)', one) for one in told]
    assert all(found), headers["X-FlaskLLM-Attempts"]
    story = [(one[1], one[2], one[3]) for one in found if one]
    assert int(number) == sum(not outcome.endswith(";unsent") for _, _, outcome in story)
    return story


def access_token(app: Flask, name: str, **more: Any) -> str:
    """The JWT of a fresh account; ``more`` as for `AccountService.create_user`: ``admin``."""
    make_account(app, name, **more)
    token: str = app.extensions["flaskllm"].accounts.login(name, PASSWORD).access_token
    return token


def frames(raw: bytes) -> list[Any]:
    """The data of server-sent events; comments are left out."""
    found = [line[6:] for line in raw.decode().split("\n") if line.startswith("data: ")]
    return [data if data == "[DONE]" else json.loads(data) for data in found]
