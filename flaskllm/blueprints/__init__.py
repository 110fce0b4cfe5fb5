"""The doors: which there are, who may enter each, and in which dialect it speaks of errors.

One table and one hook; a test proves that no route escapes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flask import Blueprint, Flask, request

from flaskllm.blueprints import auth, conversations, openai, ops, tokens, usage, webhook
from flaskllm.blueprints._guard import Policy, enter, needs, open_to_all, signed_in


@dataclass(frozen=True, slots=True)
class Door:
    """A blueprint, its prefix and its guard; ``rules`` names the views that have another."""

    blueprint: Blueprint
    prefix: str
    guard: Policy
    rules: Mapping[str, Policy] = field(default_factory=dict)

    def policy(self, endpoint: str) -> Policy:
        return self.rules.get(endpoint.rpartition(".")[2], self.guard)


DOORS = (
    Door(auth.bp, "/api", signed_in, {"register": open_to_all, "login": open_to_all, "refresh": open_to_all}),
    Door(tokens.bp, "/api/tokens", signed_in),
    Door(usage.bp, "/api/usage", signed_in),
    Door(conversations.bp, "/llm", needs("chat")),
    Door(webhook.bp, "/api/v1", needs("webhook"), {"health": open_to_all}),
    Door(openai.bp, "/v1", needs("chat")),
    Door(ops.bp, "", open_to_all),
)
_BY_NAME = {door.blueprint.name: door for door in DOORS}


def register_doors(app: Flask) -> None:
    """Put every door in place behind one guard. A path without a door is a 404 before it is a 401."""
    for door in DOORS:
        app.register_blueprint(door.blueprint, url_prefix=door.prefix or None)
    app.before_request(_guard)


def _guard() -> None:
    door = _BY_NAME.get(request.blueprint or "")
    if door is not None and request.method != "OPTIONS":
        enter(door.policy(request.endpoint or ""))
