"""Prices through time: a change opens a row, history stays, and each attempt can be recomputed from its own row."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema
import pytest
from flask import Flask
from sqlalchemy import text

from flaskllm.domain.pricing import cost_of_breakdown
from flaskllm.extensions import db
from flaskllm.services.price_book import book_version
from flaskllm.wiring import prepare_database, seeder
from tests.actors import Caller
from tests.conftest import MakeApp, provider_environment
from tests.databases import MISSING, database_of_its_own
from tests.doors.accounts_world import Person
from tests.upstream import Upstream, faults

MODEL = "/providers/openai/models/gpt-4o-mini"
PRICES = "/providers/openai/prices?model=gpt-4o-mini"


def of(dollars: float) -> list[dict[str, Any]]:
    """A price list: so many dollars for a million tokens in, and twice as many for those out."""
    return [{"token": {"inputValue": dollars, "outputValue": 2 * dollars}}]


@pytest.fixture(params=["sqlite", "postgresql"])
def admin(request: pytest.FixtureRequest, make_app: MakeApp, upstream: Upstream) -> Person:
    """An administrator of a gateway with OpenAI on the simulator, on this database."""
    environment = provider_environment(upstream, "openai")
    if request.param == "sqlite":
        return Person(make_app(**environment), "root", admin=True)
    address = database_of_its_own()
    if address is None:
        pytest.skip(MISSING)
    app = make_app(DATABASE_URL=address, **environment)
    prepare_database(app)
    return Person(app, "root", admin=True)


@pytest.fixture
def root(make_app: MakeApp, upstream: Upstream) -> Person:
    return Person(make_app(**provider_environment(upstream, "openai")), "root", admin=True)


def ok(person: Person, method: str, path: str, body: Any = None, status: int = 200) -> Any:
    answer = person.call(method, path, body)
    assert answer.status_code == status, answer.get_data(as_text=True)
    return answer.json


def history(person: Person, model: str = "gpt-4o-mini") -> list[dict[str, Any]]:
    return list(ok(person, "GET", f"/providers/openai/prices?model={model}")["data"])


def attempts(app: Flask) -> list[Any]:
    with app.app_context(), db.engine.connect() as connection:
        return list(connection.execute(text("SELECT * FROM attempts ORDER BY id")))


def ahead(**by: float) -> str:
    return (datetime.now(UTC) + timedelta(**by)).isoformat()


def test_a_change_opens_a_row_and_rewrites_none(admin: Person) -> None:
    app = admin.http.application
    caller = Caller.on(app)
    first = history(admin)
    assert [(row["state"], row["version"], row["valid_until"]) for row in first] == [("in_force", book_version(), None)]
    caller.chat(model="gpt-4o-mini")
    before = attempts(app)
    ok(admin, "PUT", MODEL, {"prices": of(100)})
    newest, oldest = history(admin)
    assert (newest["state"], newest["prices"], newest["rates"]["output"]) == ("in_force", of(100), 200)
    assert (oldest["id"], oldest["state"], oldest["valid_until"]) == (first[0]["id"], "past", newest["valid_from"])
    caller.chat(model="gpt-4o-mini")
    assert attempts(app)[:1] == before
    assert [row.price_version for row in attempts(app)] == [oldest["version"], newest["version"]]
    assert attempts(app)[1].cost == cost_of_breakdown(json.loads(attempts(app)[1].usage))


def test_a_price_may_be_given_for_a_moment_ahead(admin: Person) -> None:
    """It comes in force by itself, for documents and for calls, without a further change."""
    app = admin.http.application
    caller = Caller.on(app)
    ok(admin, "PUT", MODEL, {"prices": of(1)})
    ok(admin, "PUT", MODEL, {"prices": of(500), "valid_from": ahead(seconds=2)})
    assert ok(admin, "GET", MODEL)["prices"] == of(1)
    assert [row["state"] for row in history(admin)] == ["scheduled", "in_force", "past"]
    caller.chat(model="gpt-4o-mini")
    until = time.monotonic() + 20
    while ok(admin, "GET", MODEL)["prices"] != of(500):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert [row["state"] for row in history(admin)] == ["in_force", "past", "past"]
    while attempts(app)[-1].price_version != history(admin)[0]["version"]:
        assert time.monotonic() < until
        caller.chat(model="gpt-4o-mini")
        time.sleep(0.1)
    assert attempts(app)[0].price_version == history(admin)[1]["version"]


def test_what_is_to_come_can_be_replaced_and_stands_in_the_trail(root: Person) -> None:
    moment = ahead(days=3)
    for dollars in (7, 8):
        ok(root, "PUT", MODEL, {"prices": of(dollars), "valid_from": moment})
    assert [row["prices"] for row in history(root) if row["state"] == "scheduled"] == [of(8)]
    rows = ok(root, "GET", "/audit?action=model.update")["data"]
    assert [row["after"]["prices_of_gpt-4o-mini"]["prices"] for row in rows] == [of(8), of(7)]


@pytest.mark.parametrize(
    "body, field",
    [
        ({"prices": of(1), "valid_from": "2020-01-01T00:00:00Z"}, "valid_from"),
        ({"prices": of(1), "valid_from": "tomorrow"}, "valid_from"),
        ({"prices": of(1), "valid_from": "2030-01-01"}, "valid_from"),
        ({"prices": of(1), "valid_from": None}, "valid_from"),
        ({"valid_from": "2099-01-01T00:00:00Z"}, "valid_from"),
        ({"prices": [{"token": {"inputValue": -1}}]}, "prices[0].token.inputValue"),
    ],
)
def test_a_price_that_cannot_hold_is_refused_and_nothing_is_written(root: Person, body: Any, field: str) -> None:
    before = history(root)
    error = ok(root, "PUT", MODEL, body, status=400)["error"]
    assert [detail["field"] for detail in error["details"]] == [field]
    assert history(root) == before


def test_the_history_of_a_model_outlives_it(root: Person) -> None:
    ok(root, "POST", "/providers/openai/models", {"model_id": "mine", "prices": of(3)}, status=201)
    ok(root, "DELETE", "/providers/openai/models/mine", status=204)
    assert root.call("GET", "/providers/openai/prices?model=mine").status_code == 404
    ok(root, "POST", "/providers/openai/models", {"model_id": "mine"}, status=201)
    assert [row["prices"] for row in history(root, "mine")] == [None, of(3)]


def test_models_sent_with_their_provider_keep_their_history_too(root: Person) -> None:
    models = [{"model_id": "gpt-4o-mini", "prices": of(4)}, {"model_id": "other", "prices": of(5)}]
    ok(root, "PUT", "/providers/openai", {"models": models})
    assert [row["prices"] for row in history(root)] == [of(4), None]
    later = [{**models[0], "prices": of(6), "valid_from": ahead(days=1)}, models[1]]
    ok(root, "PUT", "/providers/openai", {"models": later})
    assert [row["prices"] for row in history(root)] == [of(6), of(4), None]
    assert len(history(root, "other")) == 1


def test_a_new_price_book_opens_a_row_for_each_model_that_it_prices(root: Person) -> None:
    app = root.http.application
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(text("UPDATE model_prices SET version = 'genai-prices:0.0.1' WHERE model = 'gpt-4o-mini'"))
    for _ in range(2):
        seeder(app).run()
    newest, oldest = history(root)
    assert (newest["version"], newest["state"], newest["rates"]["input"] > 0) == (book_version(), "in_force", True)
    assert (oldest["version"], oldest["state"], oldest["rates"]) == ("genai-prices:0.0.1", "past", None)


def test_a_history_is_read_in_pages(root: Person) -> None:
    for dollars in (1, 2, 3):
        ok(root, "PUT", MODEL, {"prices": of(dollars)})
    whole = ok(root, "GET", PRICES)
    form = root.http.application.view_functions["providers.list_prices"].api_doc.answer  # type: ignore[attr-defined]
    jsonschema.validate(whole, form)
    first = ok(root, "GET", f"{PRICES}&limit=3")
    second = ok(root, "GET", f"{PRICES}&limit=3&after={first['next']}")
    assert (first["data"] + second["data"], second["next"], whole["next"]) == (whole["data"], None, None)
    assert ok(root, "GET", f"{PRICES}&after=nothing")["data"] == []
    assert root.call("GET", "/providers/openai/prices?model=none").status_code == 404
    for wrong, field in ((f"{PRICES}&page=2", "page"), ("/providers/openai/prices", "model")):
        assert ok(root, "GET", wrong, status=400)["error"]["details"][0]["field"] == field


# -- the rows ---------------------------------------------------------------------------------------------------------


def test_every_attempt_is_recomputed_from_its_own_row(make_app: MakeApp, upstream: Upstream) -> None:
    """Plain, streamed, of every dialect, vectors, images, failed: whatever prices are now."""
    app = make_app(**provider_environment(upstream))
    root, caller = Person(app, "root", admin=True), Caller.on(app)
    for model in ("gpt-4o-mini", "anthropic/claude-haiku-4-5", "gemini/gemini-2.5-flash", "grok/grok-4"):
        caller.chat("how much is it", model=model)
        caller.stream("and streamed", model=model)
    upstream.script(faults.text("one two three four") + faults.reset_after(3), vendor="openai", times=1)
    caller.stream("and cut", model="gpt-4o-mini")
    caller.post("/v1/embeddings", {"model": "text-embedding-3-small", "input": ["a", "b"]})
    caller.post("/v1/images/generations", {"model": "gpt-image-1-mini", "prompt": "a cat"})
    ok(root, "PUT", MODEL, {"prices": of(100)})
    caller.chat("once more", model="gpt-4o-mini")
    rows = attempts(app)
    assert {row.provider for row in rows} == {"openai", "anthropic", "gemini", "grok"}
    for row in rows:
        if row.priced:
            assert row.cost == cost_of_breakdown(json.loads(row.usage)), (row.provider, row.backend_model)
        else:
            assert row.cost is None
    assert sum(row.priced and row.cost > 0 for row in rows) >= 8
