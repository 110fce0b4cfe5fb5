"""``/providers`` (S5): for administrators alone, strict, masked, and told in the audit trail."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from flask import Flask
from sqlalchemy import text
from werkzeug.test import TestResponse

from flaskllm.app import create_app
from flaskllm.config import Settings
from flaskllm.domain.provider import MOST_MODELS
from flaskllm.extensions import db
from flaskllm.services.price_book import TOKEN_FIELDS
from flaskllm.wire import providers as wire
from tests.actors import Caller, access_token, frames
from tests.conftest import MakeApp, plain_environment, provider_environment
from tests.upstream import Upstream, faults

ROUTES = [
    ("GET", "/providers"),
    ("POST", "/providers"),
    ("GET", "/providers/openai"),
    ("PUT", "/providers/openai"),
    ("DELETE", "/providers/openai"),
    ("POST", "/providers/openai/test"),
    ("GET", "/providers/openai/models"),
    ("POST", "/providers/openai/models"),
    ("GET", "/providers/openai/models/gpt-4"),
    ("PUT", "/providers/openai/models/gpt-4"),
    ("DELETE", "/providers/openai/models/gpt-4"),
    ("GET", "/providers/openai/keys"),
    ("POST", "/providers/openai/keys"),
    ("DELETE", "/providers/openai/keys/k"),
]
TABLES = ("providers", "provider_models", "provider_keys", "key_rests")
KEY = "sk-canary-of-an-administrator-0123456789abcd"


@pytest.fixture
def admin(app: Flask) -> Caller:
    return admin_of(app)


def admin_of(app: Flask) -> Caller:
    return Caller(app.test_client(), access_token(app, "boss", admin=True))


def send(caller: Caller, method: str, path: str, body: Any = None, *, status: int = 200) -> TestResponse:
    response = caller.http.open(path, method=method, json=body, headers=caller.headers)
    assert response.status_code == status, response.get_data(as_text=True)
    return response


@pytest.fixture(scope="module")
def kept(template_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """One gateway for all that is refused: nothing that is refused may leave anything behind."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "instance").mkdir()
    shutil.copy(template_database, folder / "instance" / "app.db")
    app = create_app(Settings.load(plain_environment(folder), root=folder))
    yield app
    app.extensions["flaskllm"].shutdown.stop()
    with app.app_context():
        db.engine.dispose()


@pytest.fixture(scope="module")
def root(kept: Flask) -> Caller:
    return admin_of(kept)


def own(upstream: Upstream, **more: Any) -> dict[str, Any]:
    """A provider of our own on the simulator's OpenAI-compatible address."""
    return {
        "provider_id": "vllm",
        "provider_type": "openai_compatible",
        "connection_params": {"api_base": upstream.llama_base},
        "models": [{"model_id": "meta-llama/Llama-3"}],
        **more,
    }


def dump(app: Flask) -> str:
    """Every row of the catalogue's tables, and its version, as text."""
    queries = [f"SELECT * FROM {name} ORDER BY 1" for name in TABLES]
    queries.append("SELECT value FROM meta WHERE name = 'catalogue_version'")
    with app.app_context(), db.engine.connect() as connection:
        return repr([list(connection.execute(text(query))) for query in queries])


def audit(admin: Caller, action: str) -> list[dict[str, Any]]:
    return [row for row in admin.get("/audit").json["data"] if row["action"] == action]


# -- who may ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def others(kept: Flask) -> list[str]:
    """A user, and a token with every scope that one can have without being an administrator."""
    return [access_token(kept, "alice"), Caller.on(kept).token]


@pytest.mark.parametrize("method, path", ROUTES)
def test_whoever_is_no_administrator_may_do_nothing(kept: Flask, others: list[str], method: str, path: str) -> None:
    app, before = kept, dump(kept)
    for token in others:
        response = app.test_client().open(path, method=method, json={}, headers={"Authorization": f"Bearer {token}"})
        assert response.status_code == 403, token
        assert response.json["error"]["code"] == "forbidden"
    assert app.test_client().open(path, method=method).status_code == 401
    assert dump(app) == before


# -- providers --------------------------------------------------------------------------------------------------------


def test_a_provider_of_ones_own_answers_at_once(app: Flask, admin: Caller, upstream: Upstream) -> None:
    made = send(admin, "POST", "/providers", own(upstream), status=201).json
    assert (made["on"], made["origin"], made["display_name"]) == (True, "own", "vllm")
    answer = Caller.on(app).chat(model="meta-llama/Llama-3")
    assert answer.headers["X-FlaskLLM-Provider"] == "vllm"
    assert Caller.on(app, name="b").chat(model="vllm/meta-llama/Llama-3").headers["X-FlaskLLM-Provider"] == "vllm"


def test_a_list_is_a_bare_array(admin: Caller) -> None:
    listed = admin.get("/providers").json
    assert listed[0]["provider_id"] == "openai"
    assert isinstance(admin.get("/providers/openai/models").json, list)
    assert admin.get("/providers/openai/keys").json == []


def test_a_key_is_shown_as_a_mask_and_nowhere_written_in_clear(app: Flask, admin: Caller) -> None:
    body = {"provider_id": "openai", "provider_type": "openai", "api_key": {"key_value": KEY, "is_encrypted": False}}
    answers = [send(admin, "POST", "/providers", body, status=201), admin.get("/providers/openai")]
    answers += [admin.get("/providers"), admin.get("/providers/openai/keys"), admin.get("/audit")]
    for answer in answers:
        assert KEY not in answer.get_data(as_text=True)
    assert answers[0].json["api_key"]["key_value"] == "••••abcd"
    assert answers[0].json["api_key"]["is_encrypted"] is True
    assert KEY not in dump(app)


def test_a_shipped_row_is_taken_over_once(admin: Caller) -> None:
    body = {"provider_id": "grok", "provider_type": "grok", "display_name": "My Grok"}
    made = send(admin, "POST", "/providers", body, status=201).json
    assert (made["display_name"], made["origin"]) == ("My Grok", "touched")
    assert len(made["models"]) > 2  # it keeps its models where none are sent
    refused = send(admin, "POST", "/providers", body, status=409).json["error"]
    assert (refused["code"], refused["details"][0]["field"]) == ("conflict", "provider_id")


@pytest.mark.parametrize("first", ["key", "model", "put"])
def test_a_shipped_row_that_somebody_touched_is_not_taken_over(admin: Caller, first: str) -> None:
    touches: dict[str, tuple[str, str, Any, int]] = {
        "key": ("POST", "/providers/grok/keys", {"key_value": KEY}, 201),
        "model": ("POST", "/providers/grok/models", {"model_id": "grok-99"}, 201),
        "put": ("PUT", "/providers/grok", {"description": "ours"}, 200),
    }
    method, path, body, status = touches[first]
    send(admin, method, path, body, status=status)
    send(admin, "POST", "/providers", {"provider_id": "grok", "provider_type": "grok"}, status=409)


def test_the_models_that_are_sent_are_all_that_it_has(app: Flask, admin: Caller, upstream: Upstream) -> None:
    models = [{"model_id": "claude-3-opus-20240229"}, {"model_id": "claude-opus-4-5", "enabled": False}]
    body = {"provider_id": "anthropic", "provider_type": "anthropic", "models": models}
    body |= {"connection_params": {"api_base": upstream.anthropic_base}}
    made = send(admin, "POST", "/providers", {**body, "api_key": {"key_value": KEY}}, status=201).json
    assert [one["model_id"] for one in made["models"]] == ["claude-3-opus-20240229", "claude-opus-4-5"]
    listed = [one["id"] for one in Caller.on(app).get("/v1/models").json["data"] if one["owned_by"] == "anthropic"]
    assert listed == ["claude-3-opus-20240229"]
    app.test_cli_runner().invoke(args=["seed"])
    assert len(admin.get("/providers/anthropic/models").json) == 2


def test_put_changes_what_is_sent_and_keeps_the_rest(admin: Caller, upstream: Upstream) -> None:
    sent = own(upstream, display_name="vLLM", description="ours", api_key={"key_value": KEY})
    before = send(admin, "POST", "/providers", sent, status=201).json
    after = send(admin, "PUT", "/providers/vllm", {"connection_params": {"timeout_s": 30}}).json
    assert after["connection_params"] == {"api_base": upstream.llama_base, "timeout_s": 30.0}
    changed = {"connection_params", "updated_at"}
    assert {n: v for n, v in after.items() if n not in changed} == {n: v for n, v in before.items() if n not in changed}
    gone = send(admin, "PUT", "/providers/vllm", {"connection_params": {"timeout_s": None}}).json
    assert gone["connection_params"] == {"api_base": upstream.llama_base}


def test_a_provider_that_is_switched_off_says_so(app: Flask, admin: Caller, upstream: Upstream) -> None:
    send(admin, "POST", "/providers", own(upstream), status=201)
    off = send(admin, "PUT", "/providers/vllm", {"enabled": False}).json
    assert (off["on"], off["enabled"]) == (False, False)
    assert "switched off" in off["reason"]
    Caller.on(app).chat(model="meta-llama/Llama-3", status=404)


def test_a_deleted_provider_is_gone_for_good(app: Flask, admin: Caller, upstream: Upstream) -> None:
    send(admin, "POST", "/providers", own(upstream, api_key={"key_value": KEY}), status=201)
    for name in ("vllm", "grok"):
        send(admin, "DELETE", f"/providers/{name}", status=204)
        send(admin, "GET", f"/providers/{name}", status=404)
        send(admin, "DELETE", f"/providers/{name}", status=404)
    app.test_cli_runner().invoke(args=["seed"])
    left = [one["provider_id"] for one in admin.get("/providers").json]
    assert "grok" not in left
    assert "vllm" not in left
    assert "vllm" not in dump(app)  # keys, models and all


def test_a_deleted_shipped_provider_can_be_made_again(admin: Caller) -> None:
    send(admin, "POST", "/providers/grok/keys", {"key_value": KEY}, status=201)
    send(admin, "DELETE", "/providers/grok", status=204)
    again = send(admin, "POST", "/providers", {"provider_id": "grok", "provider_type": "grok"}, status=201).json
    assert again["keys"] == []
    assert again["models"]


def test_a_kind_without_an_address_of_its_own_asks_for_one(root: Caller) -> None:
    body = {"provider_id": "mine", "provider_type": "openai_compatible"}
    refused = send(root, "POST", "/providers", body, status=400).json["error"]
    assert refused["details"] == [{"field": "connection_params.api_base", "message": "is missing"}]


def test_the_kinds_are_told_where_one_is_unknown(root: Caller) -> None:
    body = {"provider_id": "mine", "provider_type": "carrier_pigeon"}
    refused = send(root, "POST", "/providers", body, status=400).json["error"]
    assert refused["details"][0]["field"] == "provider_type"
    for kind in ("openai", "azure_openai", "anthropic", "gemini", "grok", "ngrok", "openai_compatible"):
        assert kind in refused["message"]


@pytest.mark.parametrize("provider_id", ["VLLM", "auto", "small"])
def test_an_id_that_means_something_already_is_refused(admin: Caller, upstream: Upstream, provider_id: str) -> None:
    send(admin, "POST", "/providers", own(upstream), status=201)
    status = 409 if provider_id == "VLLM" else 400
    send(admin, "POST", "/providers", own(upstream, provider_id=provider_id), status=status)


def test_an_id_that_models_begin_with_is_refused(admin: Caller, upstream: Upstream) -> None:
    send(admin, "POST", "/providers", own(upstream), status=201)
    refused = send(admin, "POST", "/providers", own(upstream, provider_id="meta-llama"), status=409).json["error"]
    assert "meta-llama/" in refused["message"]


# -- addresses and keys -----------------------------------------------------------------------------------------------

ELSEWHERE = ["https://127.0.0.1:{port}/v1", "http://localhost:{port}/v1", "http://127.0.0.1:1/v1", None]
"""Another scheme, host or port; or back to the vendor's own."""


@pytest.mark.parametrize("address", ELSEWHERE)
def test_a_stored_key_never_follows_to_another_address(admin: Caller, upstream: Upstream, address: str | None) -> None:
    here = {"connection_params": {"api_base": upstream.openai_base}, "api_key": {"key_value": KEY}}
    send(admin, "PUT", "/providers/openai", here)
    port = upstream.openai_base.split(":")[2].split("/")[0]
    moved = {"connection_params": {"api_base": address.format(port=port) if address else None}}
    before = admin.get("/providers/openai").json
    refused = send(admin, "PUT", "/providers/openai", moved, status=400).json["error"]
    assert refused["details"][0]["field"] == "api_key"
    assert admin.get("/providers/openai").json == before
    bare = send(admin, "PUT", "/providers/openai", {**moved, "api_key": None}).json
    assert (bare["keys"], bare["api_key"]) == ([], None)


def test_a_key_that_cannot_be_opened_now_follows_no_more_than_others(make_app: MakeApp, upstream: Upstream) -> None:
    before = make_app(LLM_GATEWAY_ENCRYPTION_KEY="first-" + "k" * 40)
    send(admin_of(before), "POST", "/providers", own(upstream, api_key={"key_value": KEY}), status=201)
    database = before.config["SQLALCHEMY_DATABASE_URI"]
    after = make_app(LLM_GATEWAY_ENCRYPTION_KEY="second-" + "k" * 40, DATABASE_URL=database)
    admin = Caller(after.test_client(), access_token(after, "second", admin=True))
    elsewhere = {"connection_params": {"api_base": "http://127.0.0.1:9/v1"}}
    refused = send(admin, "PUT", "/providers/vllm", elsewhere, status=400).json["error"]
    assert refused["details"][0]["field"] == "api_key"


def test_with_its_own_key_an_address_may_change(app: Flask, admin: Caller, upstream: Upstream) -> None:
    send(admin, "PUT", "/providers/openai", {"api_key": {"key_value": KEY}})
    good = {"connection_params": {"api_base": upstream.openai_base}, "api_key": {"key_value": upstream.keys["openai"]}}
    moved = send(admin, "PUT", "/providers/openai", good).json
    assert len(moved["keys"]) == 1
    Caller.on(app).chat(model="gpt-4")
    assert KEY not in str(upstream.requests)


def test_another_path_of_the_same_host_keeps_the_key(admin: Caller, upstream: Upstream) -> None:
    here = {"connection_params": {"api_base": upstream.openai_base}, "api_key": {"key_value": KEY}}
    send(admin, "PUT", "/providers/openai", here)
    kept = send(admin, "PUT", "/providers/openai", {"connection_params": {"api_base": f"{upstream.openai_base}/v2"}})
    assert kept.json["api_key"]["key_value"] == "••••abcd"


def test_the_environments_key_does_not_follow_either(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(**provider_environment(upstream, "openai"))
    admin = admin_of(app)
    moved = {"connection_params": {"api_base": upstream.llama_base.replace("127.0.0.1", "localhost")}}
    send(admin, "PUT", "/providers/openai", moved, status=400)
    off = send(admin, "PUT", "/providers/openai", {**moved, "api_key": None}).json
    assert (off["on"], off["keys"]) == (False, [])
    same = {"connection_params": {"api_base": upstream.openai_base}}
    assert send(admin, "PUT", "/providers/openai", same).json["on"]  # the environment's own host: its key again
    Caller.on(app).chat(model="gpt-4")


REFUSED_ADDRESSES = [
    "http://169.254.169.254/",
    "http://169.254.169.254/latest/meta-data",
    "http://[fe80::1]/v1",
    "http://[fd00:ec2::254]/v1",
    "http://100.100.100.200/v1",
    "http://0.0.0.0:8000/v1",
    "http://224.0.0.1/v1",
    "file:///etc/passwd",
    "ftp://example.com/v1",
    "//example.com/v1",
    "example.com/v1",
    "http://user:password@example.com/v1",
    "http://127.1/v1",
    "http://0x7f000001/v1",
    "http://2130706433/v1",
    "http://example.com\\@169.254.169.254/v1",
    "http://example.com/v1?key=1",
    "http://example.com/v1#x",
    "http://exa mple.com/v1",
    "http://example.com:99999/v1",
    "http://example.com/\r\nX-Header: 1",
    "http://" + "a" * 3000,
    "http://",
    12,
    True,
    ["http://example.com"],
]


@pytest.mark.parametrize("address", REFUSED_ADDRESSES, ids=lambda address: str(address)[:40])
def test_an_address_that_may_not_be_called_is_refused(kept: Flask, root: Caller, address: Any) -> None:
    before = dump(kept)
    body = {"connection_params": {"api_base": address}, "api_key": {"key_value": KEY}}
    refused = send(root, "PUT", "/providers/openai", body, status=400).json["error"]
    assert refused["details"][0]["field"] == "connection_params.api_base"
    assert dump(kept) == before
    told = audit(root, "provider.update.refused")
    assert told[0]["after"]["fields"] == ["connection_params.api_base"]


PRIVATE = ["http://127.0.0.1:8000/v1", "http://10.0.0.5/v1", "http://[::1]/v1", "http://localhost/v1", "http://gpu/v1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_open_only_by_a_switch(make_app: MakeApp, address: str) -> None:
    body = {"provider_id": "m", "provider_type": "openai_compatible", "connection_params": {"api_base": address}}
    send(admin_of(make_app(ALLOW_PRIVATE_PROVIDERS="true")), "POST", "/providers", body, status=201)
    closed = admin_of(make_app(ALLOW_PRIVATE_PROVIDERS="false"))
    assert "ALLOW_PRIVATE_PROVIDERS" in send(closed, "POST", "/providers", body, status=400).json["error"]["message"]


def test_a_name_that_turns_out_to_be_private_is_not_called(make_app: MakeApp, upstream: Upstream) -> None:
    """A name is looked up when it is called: here one that means this very machine."""
    app = make_app(ALLOW_PRIVATE_PROVIDERS="true")
    admin = admin_of(app)
    base = upstream.llama_base.replace("127.0.0.1", "localhost")
    send(admin, "POST", "/providers", own(upstream, connection_params={"api_base": base}), status=201)
    closed = make_app(ALLOW_PRIVATE_PROVIDERS="false", DATABASE_URL=app.config["SQLALCHEMY_DATABASE_URI"])
    Caller.on(closed).chat(model="meta-llama/Llama-3", status=502)
    assert upstream.requests == []


def test_a_redirect_is_not_followed(app: Flask, admin: Caller, upstream: Upstream) -> None:
    send(admin, "POST", "/providers", own(upstream, api_key={"key_value": KEY}), status=201)
    upstream.script(faults.redirect(to=f"{upstream.openai_base}/chat/completions"))
    Caller.on(app).chat(model="meta-llama/Llama-3", status=502)
    assert {seen.vendor for seen in upstream.requests} == {"llama"}


def test_keys_are_used_in_turn(app: Flask, admin: Caller, upstream: Upstream) -> None:
    keys = [upstream.accept_key("openai", f"sk-turn-{number}-0123456789abcdef") for number in range(3)]
    send(admin, "PUT", "/providers/openai", {"connection_params": {"api_base": upstream.openai_base}})
    for key in keys:
        send(admin, "POST", "/providers/openai/keys", {"key_value": key}, status=201)
    caller = Caller.on(app)
    for _ in range(6):
        caller.chat(model="gpt-4")
    used = [seen.key for seen in upstream.requests]
    assert sorted(used) == sorted(keys * 2)


def test_the_same_key_twice_is_a_conflict(admin: Caller) -> None:
    send(admin, "POST", "/providers/openai/keys", {"key_value": KEY}, status=201)
    send(admin, "POST", "/providers/openai/keys", {"key_value": KEY}, status=409)


def test_a_deleted_key_is_no_more_used(app: Flask, admin: Caller, upstream: Upstream) -> None:
    send(admin, "PUT", "/providers/openai", {"connection_params": {"api_base": upstream.openai_base}})
    good = upstream.keys["openai"]
    made = send(admin, "POST", "/providers/openai/keys", {"key_value": good}, status=201).json
    Caller.on(app).chat(model="gpt-4")
    send(admin, "DELETE", f"/providers/openai/keys/{made['key_id']}", status=204)
    send(admin, "DELETE", f"/providers/openai/keys/{made['key_id']}", status=404)
    Caller.on(app, name="b").chat(model="gpt-4", status=404)


def test_a_key_of_another_provider_is_not_found(admin: Caller) -> None:
    made = send(admin, "POST", "/providers/openai/keys", {"key_value": KEY}, status=201).json
    send(admin, "DELETE", f"/providers/grok/keys/{made['key_id']}", status=404)


def test_the_environments_key_is_listed_and_cannot_be_deleted_here(make_app: MakeApp, upstream: Upstream) -> None:
    admin = admin_of(make_app(**provider_environment(upstream, "openai")))
    (key,) = admin.get("/providers/openai/keys").json
    assert (key["source"], key["status"]) == ("environment", "active")
    assert upstream.keys["openai"] not in str(key)
    send(admin, "DELETE", f"/providers/openai/keys/{key['key_id']}", status=409)


def test_a_key_for_one_region_goes_to_that_region_alone(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(**provider_environment(upstream, "azure_openai"))
    admin = admin_of(app)
    (region,) = admin.get("/providers/azure_openai").json["endpoints"]
    wrong = send(admin, "POST", "/providers/azure_openai/keys", {"key_value": KEY, "endpoint": "moon"}, status=400)
    assert wrong.json["error"]["details"][0]["field"] == "endpoint"
    made = send(admin, "POST", "/providers/azure_openai/keys", {"key_value": KEY, "endpoint": region}, status=201)
    assert made.json["endpoint"] == region


# -- models -----------------------------------------------------------------------------------------------------------


def test_a_model_with_slashes_is_read_changed_and_deleted(admin: Caller, upstream: Upstream) -> None:
    send(admin, "POST", "/providers", own(upstream), status=201)
    path = "/providers/vllm/models/meta-llama/Llama-3"
    assert send(admin, "GET", path).json["model_id"] == "meta-llama/Llama-3"
    assert send(admin, "PUT", path, {"context_window": 8192}).json["context_window"] == 8192
    send(admin, "DELETE", path, status=204)
    send(admin, "GET", path, status=404)


def test_prices_are_charged_from_then_on(app: Flask, admin: Caller, upstream: Upstream) -> None:
    send(admin, "POST", "/providers", own(upstream), status=201)
    prices = [{"unitOfMeasure": 1000, "currency": "USD", "token": {"inputValue": 1, "outputValue": 2.5}}]
    put = send(admin, "PUT", "/providers/vllm/models/meta-llama/Llama-3", {"prices": prices}).json
    assert put["prices"] == prices
    upstream.script(faults.usage(input=1000, output=2000), times=1)
    assert Caller.on(app).chat(model="meta-llama/Llama-3").headers["X-FlaskLLM-Cost"] == "6"
    send(admin, "PUT", "/providers/vllm/models/meta-llama/Llama-3", {"prices": None})
    assert "X-FlaskLLM-Cost" not in Caller.on(app, name="b").chat(model="meta-llama/Llama-3").headers


def test_a_shipped_model_that_is_deleted_stays_away(app: Flask, admin: Caller) -> None:
    send(admin, "DELETE", "/providers/openai/models/gpt-4o", status=204)
    app.test_cli_runner().invoke(args=["seed"])
    send(admin, "GET", "/providers/openai/models/gpt-4o", status=404)
    send(admin, "POST", "/providers/openai/models", {"model_id": "gpt-4o"}, status=201)


def test_a_changed_shipped_model_is_not_overwritten(app: Flask, admin: Caller) -> None:
    send(admin, "PUT", "/providers/openai/models/gpt-4o", {"context_window": 77})
    app.test_cli_runner().invoke(args=["seed"])
    assert admin.get("/providers/openai/models/gpt-4o").json["context_window"] == 77


def test_a_model_of_ones_own_is_made_once(admin: Caller) -> None:
    send(admin, "POST", "/providers/openai/models", {"model_id": "gpt-99"}, status=201)
    send(admin, "POST", "/providers/openai/models", {"model_id": "gpt-99"}, status=409)


def test_an_alias_falls_back_where_providers_share_it(app: Flask, admin: Caller, upstream: Upstream) -> None:
    for name in ("one", "two"):
        models = [{"model_id": f"{name}-model", "aliases": ["both"]}]
        send(admin, "POST", "/providers", own(upstream, provider_id=name, models=models), status=201)
    upstream.script(faults.status(500), times=1)
    assert Caller.on(app).chat(model="both").headers["X-FlaskLLM-Provider"] == "two"


TAKEN = [("gpt-4o", 409), ("gpt-4-mini", 409), ("claude-opus-4-5", 409), ("small", 400), ("auto", 400), ("mine", 400)]


@pytest.mark.parametrize("alias, status", TAKEN)
def test_an_alias_that_means_something_else_is_refused(root: Caller, alias: str, status: int) -> None:
    body = {"model_id": "mine", "aliases": ["free", alias]}
    refused = send(root, "POST", "/providers/openai/models", body, status=status).json["error"]
    assert refused["details"][0]["field"] == "aliases[1]"
    send(root, "GET", "/providers/openai/models/mine", status=404)


@pytest.mark.parametrize("name", ["gpt-4-mini", "auto"])
def test_a_models_name_that_means_something_else_is_refused(root: Caller, name: str) -> None:
    status = 400 if name == "auto" else 409
    refused = send(root, "POST", "/providers/openai/models", {"model_id": name}, status=status).json["error"]
    assert refused["details"][0]["field"] == "model_id"


def test_the_default_model_must_be_there(app: Flask, admin: Caller, upstream: Upstream) -> None:
    models = [{"model_id": "a"}, {"model_id": "b"}]
    send(admin, "POST", "/providers", own(upstream, models=models, default_model="b"), status=201)
    assert Caller.on(app).chat().headers["X-FlaskLLM-Model"] == "b"
    refused = send(admin, "PUT", "/providers/vllm", {"default_model": "c"}, status=400).json["error"]
    assert refused["details"][0]["field"] == "default_model"
    send(admin, "DELETE", "/providers/vllm/models/b", status=204)
    assert admin.get("/providers/vllm").json["default_model"] is None


# -- the one real call ------------------------------------------------------------------------------------------------


def test_the_test_says_what_works_and_how_fast(admin: Caller, upstream: Upstream) -> None:
    send(admin, "POST", "/providers", own(upstream), status=201)
    report = send(admin, "POST", "/providers/vllm/test").json
    assert report["ok"] is True
    assert report["model"] == "meta-llama/Llama-3"
    assert report["seconds"] >= 0
    assert report["usage"]["total_tokens"] > 0
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "fault, words",
    [
        (faults.status(401), "does not accept the key"),
        (faults.status(429), "limit or quota"),
        (faults.status(500), "not as its wire should"),
        (faults.html(), "not as its wire should"),
        (faults.reset(), "not as its wire should"),
        (faults.echo_key(), "does not accept the key"),
    ],
)
def test_what_is_wrong_is_told_in_plain_words(admin: Caller, upstream: Upstream, fault: Any, words: str) -> None:
    send(admin, "POST", "/providers", own(upstream, api_key={"key_value": KEY}), status=201)
    upstream.script(fault)
    report = send(admin, "POST", "/providers/vllm/test", {})
    assert (report.json["ok"], words in report.json["message"]) == (False, True)
    assert KEY not in report.get_data(as_text=True)
    assert len(upstream.requests) == 1


def test_a_provider_that_is_off_is_told_what_it_lacks(admin: Caller) -> None:
    report = send(admin, "POST", "/providers/grok/test", {}).json
    assert (report["ok"], "GROK_API_KEY" in report["message"]) == (False, True)


def test_what_is_not_there_cannot_be_tested(admin: Caller, upstream: Upstream) -> None:
    send(admin, "POST", "/providers", own(upstream), status=201)
    send(admin, "POST", "/providers/nobody/test", {}, status=404)
    send(admin, "POST", "/providers/vllm/test", {"model": "nothing"}, status=404)


# -- keys put aside ---------------------------------------------------------------------------------------------------


def test_a_key_that_is_refused_is_put_aside_and_comes_back(app: Flask, admin: Caller, upstream: Upstream) -> None:
    good = upstream.keys["openai"]
    bad = upstream.accept_key("openai", "sk-soon-revoked-0123456789abcdef")
    send(admin, "PUT", "/providers/openai", {"connection_params": {"api_base": upstream.openai_base}})
    for key in (bad, good):
        send(admin, "POST", "/providers/openai/keys", {"key_value": key}, status=201)
    upstream.revoke_key(bad)
    caller = Caller.on(app)
    for _ in range(8):
        caller.chat(model="gpt-4")
    assert [seen.key for seen in upstream.requests].count(bad) == 1
    aside, active = admin.get("/providers/openai/keys").json
    assert (aside["status"], active["status"], active["last_error"]) == ("aside", "active", None)
    assert "status 401" in aside["last_error"]
    assert aside["aside_until"]
    send(admin, "DELETE", f"/providers/openai/keys/{aside['key_id']}", status=204)
    assert [key["status"] for key in admin.get("/providers/openai/keys").json] == ["active"]


def test_the_last_key_is_tried_all_the_same(app: Flask, admin: Caller, upstream: Upstream) -> None:
    send(admin, "PUT", "/providers/openai", {"connection_params": {"api_base": upstream.openai_base}})
    send(admin, "POST", "/providers/openai/keys", {"key_value": KEY}, status=201)
    caller = Caller.on(app)
    for _ in range(3):
        refused = caller.chat(model="gpt-4", status=502).json["error"]
        assert "401" in refused["message"]
    assert [key["status"] for key in admin.get("/providers/openai/keys").json] == ["aside"]
    upstream.accept_key("openai", KEY)
    caller.chat(model="gpt-4")  # it works again, so it is no longer aside
    assert [key["status"] for key in admin.get("/providers/openai/keys").json] == ["active"]


@pytest.mark.parametrize(
    "fault, status",
    [
        (faults.status(401), "aside"),
        (faults.status(402), "aside"),
        (faults.status(403), "aside"),
        (faults.insufficient_quota(), "aside"),
        (faults.status(404), "active"),
        (faults.status(429), "active"),
        (faults.status(500), "active"),
        (faults.status(400), "active"),
        (faults.status(400, message="Billing hard limit has been reached."), "aside"),
        (faults.status(400, message="Invalid value: 'billing hard limit'."), "active"),
    ],
)
def test_a_key_is_put_aside_for_its_own_faults_alone(
    app: Flask, admin: Caller, upstream: Upstream, fault: faults.Behaviour, status: str
) -> None:
    send(admin, "POST", "/providers", own(upstream, api_key={"key_value": KEY}), status=201)
    upstream.script(fault)
    asked = {"model": "meta-llama/Llama-3", "messages": [{"role": "user", "content": "hi"}]}
    app.test_client().post("/v1/chat/completions", json=asked, headers=Caller.on(app).headers)
    assert [key["status"] for key in admin.get("/providers/vllm/keys").json] == [status]


def test_answers_have_the_form_that_the_document_tells(admin: Caller, upstream: Upstream) -> None:
    made = send(admin, "POST", "/providers", own(upstream, api_key={"key_value": KEY}), status=201).json
    for document in (made, *admin.get("/providers").json):
        jsonschema.validate(document, wire.PROVIDER_SHOWN)
    for path in ("/providers/vllm/test", "/providers/grok/test"):
        jsonschema.validate(send(admin, "POST", path).json, wire.CHECK_SHOWN)


def test_every_price_that_the_ledger_knows_can_be_written() -> None:
    known = {field.data_key for field in wire.TokenPriceSchema().fields.values()}
    assert known == set(TOKEN_FIELDS)


# -- bad input --------------------------------------------------------------------------------------------------------

LONG = "x" * 5000
NUL = "a\x00b"
PROVIDER = {"provider_id": "p", "provider_type": "openai"}


def connection(name: str, value: Any) -> tuple[dict[str, Any], str]:
    return {**PROVIDER, "connection_params": {name: value}}, f"connection_params.{name}"


def api_key(value: Any) -> tuple[dict[str, Any], str]:
    return {**PROVIDER, "api_key": {"key_value": value}}, "api_key.key_value"


BAD_PROVIDERS: list[tuple[dict[str, Any], str]] = [
    ({"provider_type": "openai"}, "provider_id"),
    ({"provider_id": "p"}, "provider_type"),
    *(({**PROVIDER, "provider_id": bad}, "provider_id") for bad in (None, "", 1, "a/b", "a b", "é", ".a", "a" * 65)),
    *(({**PROVIDER, "provider_type": bad}, "provider_type") for bad in (None, "", 1, [], NUL, LONG, "nothing")),
    *(({**PROVIDER, "display_name": bad}, "display_name") for bad in (None, "", 1, NUL, LONG)),
    *(({**PROVIDER, "description": bad}, "description") for bad in (None, 1, NUL, LONG)),
    *(({**PROVIDER, "enabled": bad}, "enabled") for bad in (None, "yes", 1)),
    *(({**PROVIDER, "connection_params": bad}, "connection_params") for bad in (None, [], "x", {NUL: 1})),
    *(connection("timeout_s", bad) for bad in ("1", 0, -1, 601, True)),
    *(connection("organization", bad) for bad in (1, "a\r\nX: y", NUL, "é", LONG)),
    connection("stream_options", "yes"),
    connection("nonsense", 1),
    *(({**PROVIDER, "models": bad}, "models") for bad in (None, {}, "x", [{"model_id": f"m{n}"} for n in range(501)])),
    ({**PROVIDER, "models": [1]}, "models[0]"),
    ({**PROVIDER, "models": [{}]}, "models[0].model_id"),
    ({**PROVIDER, "models": [{"model_id": "a"}, {"model_id": "a"}]}, "models[1].model_id"),
    ({**PROVIDER, "models": [{"model_id": "a", "provider_id": "q"}]}, "models[0].provider_id"),
    *(({**PROVIDER, "api_key": bad}, "api_key") for bad in ("sk", 1, [])),
    ({**PROVIDER, "api_key": {}}, "api_key.key_value"),
    ({**PROVIDER, "api_key": {"key_value": "k", "endpoint": "moon"}}, "api_key.endpoint"),
    ({**PROVIDER, "api_key": {"key_value": "k", "surprise": 1}}, "api_key.surprise"),
    *(api_key(bad) for bad in (None, "", 1, "a b", "••••abcd", "a\r\n", NUL, LONG)),
    *(({**PROVIDER, "default_model": bad}, "default_model") for bad in (1, "", LONG, "not-there")),
    ({**PROVIDER, "stored_key": "kept"}, "stored_key"),
]  # fmt: skip


@pytest.mark.parametrize("body, field", BAD_PROVIDERS, ids=lambda given: str(given)[-60:])
def test_a_bad_field_of_a_provider_is_named_and_nothing_is_written(
    kept: Flask, root: Caller, body: dict[str, Any], field: str
) -> None:
    before = dump(kept)
    refused = send(root, "POST", "/providers", body, status=400).json["error"]
    assert (refused["code"], field in [one["field"] for one in refused["details"]]) == ("invalid_request", True), (
        refused
    )
    changes = {name: value for name, value in body.items() if name == field.partition(".")[0].partition("[")[0]}
    if changes and field not in ("provider_id", "default_model"):
        changed = send(root, "PUT", "/providers/openai", changes, status=400).json["error"]
        assert field in [one["field"] for one in changed["details"]], changed
    assert dump(kept) == before


def token(**prices: Any) -> list[Any]:
    return [{"token": prices}]


BAD_MODELS: list[tuple[dict[str, Any], str]] = [
    *(({"model_id": bad}, "model_id") for bad in (None, "", 1, "a b", "a,b", "é", NUL, LONG)),
    *(({"model_id": bad}, "model_id") for bad in ("../x", "a//b", "a/", "a/../b", "a/.")),
    *(({"model_type": bad}, "model_type") for bad in (None, "video", 1)),
    *(({"context_window": bad}, "context_window") for bad in (0, -1, 1.5, "8k", True, 2**31, 10**30)),
    *(({"max_tokens": bad}, "max_tokens") for bad in (0, -1, 1.5, "8k", 2**31)),
    *(({"enabled": bad}, "enabled") for bad in (None, 1, "on")),
    *(({"display_name": bad}, "display_name") for bad in (None, 1, "", NUL, LONG)),
    *(({"description": bad}, "description") for bad in (None, 1, NUL, LONG)),
    *(({"backend_model": bad}, "backend_model") for bad in (None, "", 1, "a b", NUL, LONG)),
    *(({"tier": bad}, "tier") for bad in ("huge", 1)),
    *(({"tier_head": bad}, "tier_head") for bad in (None, 1)),
    *(({"aliases": bad}, "aliases") for bad in (None, "x", {}, [f"a{n}" for n in range(33)])),
    ({"aliases": ["ok", 1]}, "aliases[1]"),
    ({"aliases": ["a b"]}, "aliases[0]"),
    ({"capabilities": ["fly"]}, "capabilities[0]"),
    ({"capabilities": None}, "capabilities"),
    *(({"timeout_s": bad}, "timeout_s") for bad in (0, -1, 601, "1")),
    *(({"params": bad}, "params") for bad in (None, [], {"a": 1}, {"a": ""}, {NUL: "drop"})),
    *(({"training_data": bad}, "training_data") for bad in (1, "", LONG)),
    *(({"prices": bad}, "prices") for bad in ({}, "x", 1)),
    ({"prices": [1]}, "prices[0]"),
    ({"prices": [{}]}, "prices[0]"),
    ({"prices": [{"token": {}}]}, "prices[0]"),
    ({"prices": [{"currency": "EUR", "token": {"inputValue": 1}}]}, "prices[0].currency"),
    ({"prices": [{"unitOfMeasure": 0, "token": {"inputValue": 1}}]}, "prices[0].unitOfMeasure"),
    ({"prices": token(inputValue=-1)}, "prices[0].token.inputValue"),
    ({"prices": token(inputValue="1")}, "prices[0].token.inputValue"),
    ({"prices": token(inputValue=1e300)}, "prices[0].token.inputValue"),
    ({"prices": token(surprise=1)}, "prices[0].token.surprise"),
    ({"prices": [{"unitOfMeasure": 1, "token": {"inputValue": 1000}}]}, "prices"),
    ({"prices": [{"pixel": {"width": 1, "height": 1}}]}, "prices[0].pixel.value"),
    ({"prices": [{"pixel": {"width": 0, "height": 1, "value": 1}}]}, "prices[0].pixel.width"),
    ({"prices": [{"pixel": {"width": 1, "height": 1, "value": -1}}]}, "prices[0].pixel.value"),
    ({"surprise": 1}, "surprise"),
]  # fmt: skip


@pytest.mark.parametrize("body, field", BAD_MODELS, ids=lambda given: str(given)[-60:])
def test_a_bad_field_of_a_model_is_named_and_nothing_is_written(
    kept: Flask, root: Caller, body: dict[str, Any], field: str
) -> None:
    before = dump(kept)
    for method, path in (("POST", "/providers/openai/models"), ("PUT", "/providers/openai/models/gpt-4o")):
        sent = {"model_id": "gpt-99", **body} if method == "POST" else body
        refused = send(root, method, path, sent, status=400).json["error"]
        assert field in [one["field"] for one in refused["details"]], refused
    assert dump(kept) == before


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_none_is_refused(kept: Flask, root: Caller, number: str) -> None:
    raw = '{"prices": [{"token": {"inputValue": NUMBER}}]}'.replace("NUMBER", number)
    response = root.http.put(
        "/providers/openai/models/gpt-4o", data=raw, content_type="application/json", headers=root.headers
    )
    assert response.status_code == 400


@pytest.mark.parametrize("path", ["/providers", "/providers/openai/models", "/providers/openai/keys"])
@pytest.mark.parametrize("raw", ["", "[1]", "null", '{"a": 1, "a": 2}', '{"a": "\\ud800"}', "{", "\xff"])
def test_what_is_no_object_is_refused(kept: Flask, root: Caller, path: str, raw: str) -> None:
    before = dump(kept)
    response = root.http.post(path, data=raw, content_type="application/json", headers=root.headers)
    assert response.status_code == 400
    assert response.json["error"]["code"] == "invalid_request"
    assert dump(kept) == before


@pytest.mark.parametrize("body", [{"model": 1}, {"model": ""}, {"model": LONG}, {"surprise": 1}])
def test_a_bad_test_is_refused(root: Caller, body: dict[str, Any]) -> None:
    refused = send(root, "POST", "/providers/demo/test", body, status=400).json["error"]
    assert refused["details"][0]["field"] == next(iter(body))


def test_a_query_is_refused_by_name(root: Caller) -> None:
    response = send(root, "GET", "/providers?limit=1", status=400)
    assert response.json["error"]["details"][0]["field"] == "limit"


# -- the audit trail --------------------------------------------------------------------------------------------------


def test_every_change_is_told_with_before_and_after(admin: Caller, upstream: Upstream) -> None:
    send(admin, "POST", "/providers", own(upstream), status=201)
    send(admin, "PUT", "/providers/vllm", {"display_name": "two"})
    send(admin, "POST", "/providers/vllm/models", {"model_id": "m"}, status=201)
    send(admin, "PUT", "/providers/vllm/models/m", {"tier": "small"})
    send(admin, "DELETE", "/providers/vllm/models/m", status=204)
    key = send(admin, "POST", "/providers/vllm/keys", {"key_value": KEY}, status=201).json
    send(admin, "DELETE", f"/providers/vllm/keys/{key['key_id']}", status=204)
    send(admin, "DELETE", "/providers/vllm", status=204)
    rows = [row for row in reversed(admin.get("/audit").json["data"]) if row["actor"]["name"] == "boss"]
    assert [(row["action"], row["target"]) for row in rows] == [
        ("provider.create", "provider:vllm"),
        ("provider.update", "provider:vllm"),
        ("model.create", "model:vllm/m"),
        ("model.update", "model:vllm/m"),
        ("model.delete", "model:vllm/m"),
        ("key.create", "provider:vllm"),
        ("key.delete", "provider:vllm"),
        ("provider.delete", "provider:vllm"),
    ]
    assert (rows[1]["before"], rows[1]["after"]) == ({"display_name": "vllm"}, {"display_name": "two"})
    assert rows[5]["after"]["key_value"] == "••••abcd"
    assert KEY not in json.dumps(rows)


def test_what_changes_nothing_is_not_told(admin: Caller) -> None:
    send(admin, "PUT", "/providers/openai", {"display_name": "Something"})
    send(admin, "PUT", "/providers/openai", {"display_name": "Something"})
    assert len(audit(admin, "provider.update")) == 1


def test_a_key_that_ends_like_the_one_before_it_takes_its_place(app: Flask, admin: Caller, upstream: Upstream) -> None:
    keys = [f"a-key-{number}-of-some-length-abcd" for number in range(2)]
    send(admin, "POST", "/providers", own(upstream, api_key={"key_value": keys[0]}), status=201)
    send(admin, "PUT", "/providers/vllm", {"api_key": {"key_value": keys[1]}})
    provider = app.extensions["flaskllm"].catalogue.current().by_id["vllm"]
    assert [key.value for at in provider.endpoints for key in at.keys] == keys[1:]
    told = audit(admin, "provider.update")[0]
    assert [side["keys"][0]["key_value"] for side in (told["before"], told["after"])] == ["••••abcd"] * 2


@pytest.mark.parametrize("path", ["/providers/openai", "/providers/openai/models/gpt-4o"])
def test_a_row_that_seeding_leaves_alone_from_now_on_is_told(admin: Caller, path: str) -> None:
    send(admin, "PUT", path, {})
    row = admin.get("/audit").json["data"][0]
    assert (row["before"], row["after"]) == ({"origin": "shipped"}, {"origin": "touched"})
    send(admin, "PUT", path, {})
    assert admin.get("/audit").json["data"][0]["number"] == row["number"]


def test_a_list_as_long_as_it_may_be_holds_up_nobody_for_long(admin: Caller, upstream: Upstream) -> None:
    models = [
        {"model_id": f"m{number}", "aliases": [f"a{number}-{each}" for each in range(32)]}
        for number in range(MOST_MODELS)
    ]
    began = time.process_time()
    send(admin, "POST", "/providers", own(upstream, models=models), status=201)
    send(admin, "PUT", "/providers/vllm", {"models": models[::-1]})
    assert time.process_time() - began < 6
    assert [model["model_id"] for model in admin.get("/providers/vllm/models").json][:2] == ["m499", "m498"]


@pytest.mark.parametrize("change", [("DELETE", None, 204), ("PUT", {"connection_params": {"timeout_s": 9}}, 200)])
def test_a_stream_outlives_its_provider(
    app: Flask, admin: Caller, upstream: Upstream, change: tuple[str, Any, int]
) -> None:
    send(admin, "POST", "/providers", own(upstream), status=201)
    asked = {
        "model": "vllm/meta-llama/Llama-3",
        "messages": [{"role": "user", "content": "one two three four five six seven eight nine ten"}],
        "stream": True,
    }
    caller = Caller.on(app)
    answer = caller.http.post("/v1/chat/completions", json=asked, headers=caller.headers, buffered=False)
    stream = answer.iter_encoded()
    first = next(stream)
    method, body, status = change
    send(admin, method, "/providers/vllm", body, status=status)
    if method == "PUT":
        caller.post("/v1/chat/completions", {**asked, "stream": False})  # by the adapter that takes the other's place
    assert frames(first + b"".join(stream))[-1] == "[DONE]"
    answer.close()
    with app.app_context(), db.engine.connect() as connection:
        assert set(connection.execute(text("SELECT state FROM attempts")).scalars()) == {"settled"}
