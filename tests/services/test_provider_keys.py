"""Encrypting the stored keys anew: what is written, what is left, and what the command says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from flaskllm.domain.audit import Actor
from flaskllm.extensions import db
from flaskllm.repositories.providers import swap_ciphertext
from flaskllm.security import Vault
from flaskllm.services.provider_keys import AT_ONCE
from tests.conftest import MakeApp
from tests.people import database_of

OLD, NEW = "cmFuZG9tLWxvb2tpbmctYnV0LWZpeGVkLWtleS0wMDE=", "cmFuZG9tLWxvb2tpbmctYnV0LWZpeGVkLWtleS0wMDI="
SOMEBODY = Actor("u1", "boss", "127.0.0.1", "request-1")
NO_BODIES = {"renewed": 0, "current": 0, "lost": 0}
KEYS = [f"sk-number-{number:03}-0123456789" for number in range(3)]


@pytest.fixture
def old(make_app: MakeApp) -> Flask:
    """A gateway with three keys under the old encryption key."""
    app = make_app(LLM_GATEWAY_ENCRYPTION_KEY=OLD)
    for key in KEYS:
        app.extensions["flaskllm"].provider_keys.add("openai", {"key_value": key}, SOMEBODY)
    return app


def restarted(make_app: MakeApp, app: Flask, encryption_keys: str) -> Flask:
    """The same installation, started again with other encryption keys."""
    return make_app(LLM_GATEWAY_ENCRYPTION_KEY=encryption_keys, DATABASE_URL=app.config["SQLALCHEMY_DATABASE_URI"])


def rotate(app: Flask, *, status: int = 0) -> dict[str, Any]:
    done = app.test_cli_runner().invoke(args=["keys", "rotate", "--json"])
    assert done.exit_code == status, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def ciphertexts(app: Flask) -> list[str]:
    with app.app_context(), db.engine.connect() as connection:
        return list(connection.execute(text("SELECT ciphertext FROM provider_keys ORDER BY created_at")).scalars())


def opened_by(key: str, app: Flask) -> list[str]:
    vault = Vault([key])
    return [vault.decrypt(each, context="provider_keys.ciphertext:openai") for each in ciphertexts(app)]


def in_use(app: Flask) -> list[str]:
    provider = app.extensions["flaskllm"].catalogue.refresh().by_id["openai"]
    return [key.value for endpoint in provider.endpoints for key in endpoint.keys]


def test_every_key_is_encrypted_anew_and_stays_what_it_is(make_app: MakeApp, old: Flask) -> None:
    app = restarted(make_app, old, f"{NEW},{OLD}")
    assert rotate(app) == {"renewed": 3, "current": 0, "lost": [], "bodies": NO_BODIES}
    assert opened_by(NEW, app) == KEYS
    assert in_use(restarted(make_app, old, NEW)) == KEYS


def test_a_second_time_nothing_is_left_to_do(make_app: MakeApp, old: Flask) -> None:
    app = restarted(make_app, old, f"{NEW},{OLD}")
    rotate(app)
    before = ciphertexts(app)
    assert rotate(app) == {"renewed": 0, "current": 3, "lost": [], "bodies": NO_BODIES}
    assert ciphertexts(app) == before


def test_a_process_that_lacks_the_new_key_goes_on_with_what_it_has_opened(make_app: MakeApp, old: Flask) -> None:
    assert in_use(old) == KEYS
    app = restarted(make_app, old, f"{NEW},{OLD}")
    rotate(app)
    app.extensions["flaskllm"].providers.change("openai", {"display_name": "changed"}, SOMEBODY)
    assert old.extensions["flaskllm"].catalogue.refresh().by_id["openai"].display_name == "changed"
    assert in_use(old) == KEYS


def test_keys_that_nobody_can_open_are_named(make_app: MakeApp, old: Flask) -> None:
    app = restarted(make_app, old, NEW)
    found = rotate(app, status=1)
    assert (found["renewed"], len(found["lost"])) == (0, 3)
    told = app.test_cli_runner().invoke(args=["keys", "rotate"])
    assert told.exit_code == 1
    assert "cannot be opened" in told.output
    assert opened_by(OLD, app) == KEYS


def test_more_than_one_transaction_holds_are_done_too(make_app: MakeApp, old: Flask) -> None:
    services = old.extensions["flaskllm"]
    for provider_id in ("anthropic", "gemini", "grok"):
        for number in range(AT_ONCE // 3 + 1):
            services.provider_keys.add(provider_id, {"key_value": f"sk-{provider_id}-{number}-0123456789"}, SOMEBODY)
    app = restarted(make_app, old, f"{NEW},{OLD}")
    assert rotate(app)["renewed"] == 3 + 3 * (AT_ONCE // 3 + 1) > AT_ONCE
    with app.app_context(), db.engine.connect() as connection:
        told = connection.execute(text("SELECT count(*) FROM audit WHERE action = 'keys.rotate'")).scalar()
    assert told == 2


def test_a_key_that_somebody_changed_meanwhile_is_left_to_them(old: Flask) -> None:
    (first, *_), found = old.extensions["flaskllm"].provider_keys.of("openai"), ciphertexts(old)
    database = database_of(old)
    with database.transaction() as session:
        assert swap_ciphertext(session, first.id, found[0], "theirs")
        assert not swap_ciphertext(session, first.id, found[0], "ours")
    assert ciphertexts(old)[0] == "theirs"


def test_the_command_speaks_plainly(make_app: MakeApp, old: Flask) -> None:
    done = restarted(make_app, old, f"{NEW},{OLD}").test_cli_runner().invoke(args=["keys", "rotate"])
    assert done.output.splitlines() == [
        "Keys of providers: 3 encrypted anew, 0 were so already.",
        "Questions and answers: 0 encrypted anew, 0 were so already.",
    ]
