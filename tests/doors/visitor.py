"""Somebody in a browser, as the server sees them: cookies, forms with their token, and pages that are read as text."""

from __future__ import annotations

import html
import re
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.people import PASSWORD


class Visitor:
    """``Visitor.admin(app)`` has signed in; a bare one has not."""

    def __init__(self, app: Flask, **client: Any) -> None:
        self.app = app
        self.services = app.extensions["flaskllm"]
        self.http: FlaskClient = app.test_client(**client)

    @classmethod
    def admin(cls, app: Flask, name: str = "root") -> Visitor:
        visitor = cls(app)
        visitor.services.accounts.create_user(name, f"{name}@example.com", PASSWORD, admin=True)
        assert visitor.sign_in(name).status_code == 303
        return visitor

    def sign_in(self, name: str = "root", password: str = PASSWORD, **more: str) -> TestResponse:
        return self.post("/admin/sign-in", {"username": name, "password": password, **more}, at="/admin/sign-in")

    def get(self, path: str, *, status: int = 200, **more: Any) -> TestResponse:
        response = self.http.get(path, **more)
        assert response.status_code == status, response.text
        return response

    def post(self, path: str, form: dict[str, Any] | None = None, *, at: str = "/admin/session") -> TestResponse:
        """Send a form as the page ``at`` would, with its token."""
        return self.http.post(path, data={"csrf": self.token(at), **(form or {})})

    def token(self, at: str = "/admin/session") -> str:
        found = re.search(r'name="csrf" value="([0-9a-f]+)"', self.http.get(at).text)
        assert found is not None
        return found[1]

    @property
    def cookie(self) -> str | None:
        held = self.http.get_cookie("flaskllm-admin")
        return held.value if held else None


def words(response: TestResponse) -> str:
    """What a person reads of a page: without tags and line breaks."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", response.text)).split())
