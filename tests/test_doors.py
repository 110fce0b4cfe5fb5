"""Nothing escapes the table of doors: every route has a guard, a dialect and a call in ``requests/``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.routing import Rule

from flaskllm.blueprints import DOORS
from flaskllm.blueprints._errors import dialect
from flaskllm.blueprints._guard import open_to_all
from flaskllm.errors import Unauthenticated
from flaskllm.wire.errors import DIALECTS
from tests.actors import AN_ID

ROOT = Path(__file__).parent.parent
OPEN = {
    "/health", "/health/live", "/health/ready", "/api/health", "/api/v1/health", "/api/auth/register",
    "/api/auth/login", "/api/auth/refresh", "/llm-gate/v1/health", "/openapi.json",
    "/docs", "/llm-gate/openapi.json", "/llm-gate/docs", "/excel", "/excel/<name>", "/chat", "/chat/<name>",
}  # fmt: skip
"""Paths that need no credential, each a decision."""


def routes(app: Flask) -> Iterator[tuple[str, Rule]]:
    """Those of the API; the pages, which a cookie opens, are in ``tests/doors/test_admin_entrance.py``."""
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith("admin."):
            continue
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield method, rule


def test_every_route_stands_behind_a_door(app: Flask) -> None:
    known = {door.blueprint.name for door in DOORS}
    assert {rule.endpoint.partition(".")[0] for _, rule in routes(app)} - known == {"static"}


def test_only_these_paths_are_open(app: Flask) -> None:
    doors = {door.blueprint.name: door for door in DOORS}
    found = {
        rule.rule
        for _, rule in routes(app)
        if rule.endpoint != "static" and doors[rule.endpoint.partition(".")[0]].policy(rule.endpoint) is open_to_all
    }
    assert found == OPEN


def test_every_other_path_asks_for_a_credential_before_it_does_anything(app: Flask) -> None:
    client = app.test_client()
    for method, rule in routes(app):
        if rule.rule not in OPEN and rule.endpoint != "static":
            response = client.open(re.sub(r"<[^>]+>", AN_ID, rule.rule), method=method)
            assert (response.status_code, rule.rule) == (401, rule.rule)


@pytest.mark.parametrize("path, keys", [("/v1/models", {"error"}), ("/llm/conversations", {"status", "error"})])
def test_a_refusal_speaks_the_dialect_of_its_family(app: Flask, path: str, keys: set[str]) -> None:
    assert set(app.test_client().get(path).json or {}) == keys


def test_every_route_refuses_in_the_dialect_that_the_document_says(app: Flask) -> None:
    client = app.test_client()
    for method, rule in routes(app):
        if rule.rule not in OPEN and rule.endpoint != "static":
            refused = client.open(re.sub(r"<[^>]+>", AN_ID, rule.rule), method=method)
            form = DIALECTS[dialect(rule.rule)](Unauthenticated("x"), "x")
            assert shape(refused.json) == shape(form), rule.rule


def test_every_route_is_in_the_document(app: Flask) -> None:
    paths = app.test_client().get("/openapi.json").json["paths"]
    for method, rule in routes(app):
        if rule.endpoint != "static":
            assert method.lower() in paths[re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", rule.rule)], rule.rule


def shape(document: Any) -> Any:
    """Its keys, all the way down."""
    return {name: shape(held) for name, held in document.items()} if isinstance(document, dict) else None


def test_every_route_has_a_call_in_requests(app: Flask) -> None:
    written = "\n".join(path.read_text() for path in (ROOT / "requests").glob("*.rest"))
    for method, rule in routes(app):
        if rule.endpoint != "static":
            pattern = re.escape(method) + r" \{\{host\}\}" + re.sub(r"<[^>]+>", r"[^/\\s]+", rule.rule) + r"(\?\S*)?$"
            assert re.search(pattern, written, re.MULTILINE), f"no call of {method} {rule.rule} in requests/*.rest"
