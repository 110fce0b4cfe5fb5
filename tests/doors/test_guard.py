"""Policies: who may enter, decided on the principal alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from flask.testing import FlaskClient

from flaskllm.blueprints._guard import Policy, admin_only, needs, signed_in
from flaskllm.domain.principal import Principal
from flaskllm.errors import Forbidden

USER = Principal(user_id="u", username="u", scopes=frozenset({"chat", "webhook"}), session_id="s")
ADMIN = replace(USER, role="admin")
TOKEN_OF_ADMIN = replace(ADMIN, session_id=None, token_id="t")
ADMIN_TOKEN = replace(TOKEN_OF_ADMIN, scopes=frozenset({"admin"}))
WORKBOOK = replace(USER, session_id=None, token_id="t", templates=("sum",))
WAITING = replace(USER, approved=False)


def may(policy: Policy, principal: Principal) -> bool:
    try:
        policy(principal)
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize(
    "principal, chat, webhook, external, administers",
    [
        (USER, True, True, False, False),
        (ADMIN, True, True, False, True),
        (TOKEN_OF_ADMIN, True, True, False, False),
        (ADMIN_TOKEN, False, False, False, True),
        (replace(USER, token_id="t", scopes=frozenset({"admin"})), False, False, False, False),
        (WORKBOOK, False, True, False, False),
        (replace(ADMIN_TOKEN, templates=("sum",)), False, False, False, False),
        (WAITING, False, False, False, False),
        (replace(ADMIN, approved=False), False, False, False, False),
    ],
)
def test_who_may_enter(principal: Principal, *, chat: bool, webhook: bool, external: bool, administers: bool):
    entered = tuple(
        may(policy, principal) for policy in (needs("chat"), needs("webhook"), needs("external"), admin_only)
    )
    assert entered == (chat, webhook, external, administers)


def test_whoever_we_know_is_signed_in():
    assert may(signed_in, WAITING)
    assert not may(signed_in, WORKBOOK)


def test_a_credential_longer_than_any_of_ours_is_not_even_looked_up(client: FlaskClient):
    for name in ("X-API-Token", "api-key"):
        assert client.get("/v1/models", headers={name: "x" * 10_000}).status_code == 401
