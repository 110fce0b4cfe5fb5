"""Somebody in a browser, as the server sees them: cookies, forms with their token, and pages that are read as text."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.people import PASSWORD, make_account


class Visitor:
    """``Visitor.admin(app)`` has signed in; a bare one has not."""

    def __init__(self, app: Flask, **client: Any) -> None:
        self.app = app
        self.services = app.extensions["flaskllm"]
        self.http: FlaskClient = app.test_client(**client)

    @classmethod
    def admin(cls, app: Flask, name: str = "root") -> Visitor:
        visitor = cls(app)
        make_account(app, name, admin=True)
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

    def sure(self, path: str, form: dict[str, Any] | None = None, *, at: str = "/admin/session") -> TestResponse:
        """The same, where the form's question was answered with yes."""
        return self.post(path, {"confirmed": "yes", **(form or {})}, at=at)

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


def navigation(visitor: Visitor) -> list[str]:
    """The addresses in the column at the side, as a page has them."""
    (column,) = re.findall(r'<nav aria-label="Pages">(.*?)</nav>', visitor.get("/admin/session").text, re.DOTALL)
    return re.findall(r'href="([^"]+)"', column)


class _Parts(HTMLParser):
    """Collects what of a page could do something that its author did not mean."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        elsewhere = re.compile(r"\s*(javascript:|data:|https?:|//)", re.IGNORECASE)
        acts = [name for name in given if name.startswith("on") or name in ("style", "srcdoc", "http-equiv")]
        leads = [name for name in ("src", "href", "action", "formaction") if elsewhere.match(given.get(name) or "")]
        if acts or leads or (tag == "script" and not given.get("src")) or tag in ("style", "iframe", "object", "embed"):
            self.found.append(f"<{tag} {given}>")


def live_parts(page: str) -> list[str]:
    """Tags that run something or lead away: no page has any of its own."""
    parser = _Parts()
    parser.feed(page)
    return parser.found
