"""``/routes``: one name for several models, what it takes, who may use it, and who is asked instead."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from flask import Flask
from sqlalchemy import text
from werkzeug.test import TestResponse

from flaskllm.extensions import db
from flaskllm.wire import routes as wire
from tests.actors import Caller, access_token, story_of
from tests.conftest import MakeApp, provider_environment
from tests.upstream import Upstream, faults

OVERLAY = """
routes:
  house:
    strategy: weighted
    targets: [{model: openai/one, weight: 3}, anthropic/two]
    fallbacks: {content_filter: [three]}
models:
  one: {provider: openai, model_name: gpt-4o, context_window: 1000}
  two: {provider: anthropic, model_name: claude-sonnet-5, context_window: 1000}
  three: {provider: llama, aliases: [big], context_window: 100000, abilities: [chat]}
"""
ONE, TWO, THREE = "openai/one", "anthropic/two", "llama/three"
TOO_LONG = faults.status(400, message="This model's maximum context length is 1000 tokens.")
FILTERED = faults.status(400, message="The response was filtered by the content management policy.")


@pytest.fixture
def seeded(make_app: MakeApp, upstream: Upstream, tmp_path: Path) -> Flask:
    overlay = tmp_path / "models.yaml"
    overlay.write_text(OVERLAY)
    environment = provider_environment(upstream, "openai", "anthropic", "llama")
    app = make_app(LLM_GATEWAY_CONFIG_PATH=str(overlay), **environment)
    app.test_cli_runner().invoke(args=["seed"])
    return app


@pytest.fixture
def admin(seeded: Flask) -> Caller:
    return Caller(seeded.test_client(), access_token(seeded, "boss", admin=True))


def send(caller: Caller, method: str, path: str, body: Any = None, *, status: int = 200) -> TestResponse:
    response = caller.http.open(path, method=method, json=body, headers=caller.headers)
    assert response.status_code == status, response.get_data(as_text=True)
    return response


def add(admin: Caller, *targets: str, name: str = "r", **more: Any) -> Any:
    body = {"name": name, "targets": [{"model": model} for model in targets], **more}
    return send(admin, "POST", "/routes", body, status=201).json


def story(caller: Caller, model: str = "r", *, said: str = "hello", status: int = 200, **more: Any) -> list[Any]:
    response = caller.chat(said, model=model, status=status, **more)
    response.get_data()
    return [(name, outcome) for name, _, outcome in story_of(response.headers)]


# -- the documents ----------------------------------------------------------------------------------------------------


def test_what_is_made_is_read_listed_changed_and_deleted(admin: Caller) -> None:
    made = add(admin, ONE, TWO, strategy="fastest", fallbacks={"context_window": ["big"], "content_filter": []})
    jsonschema.validate(made, wire.ROUTE_SHOWN)
    plain = {own: value for own, value in made.items() if not own.endswith("_at")}
    assert plain == {
        "name": "r", "strategy": "fastest", "targets": [{"model": ONE, "weight": 1}, {"model": TWO, "weight": 1}],
        "fallbacks": {"context_window": ["big"]}, "unavailable": [], "origin": "own",
    }  # fmt: skip
    assert admin.get("/routes/r").json == made
    assert [one["name"] for one in admin.get("/routes").json["data"]] == ["house", "r"]
    changed = send(admin, "PUT", "/routes/r", {"strategy": "weighted"}).json
    assert (changed["strategy"], changed["targets"]) == ("weighted", made["targets"])
    assert send(admin, "DELETE", "/routes/r", status=204).get_data() == b""
    send(admin, "GET", "/routes/r", status=404)
    send(admin, "PUT", "/routes/r", {"strategy": "priority"}, status=404)
    send(admin, "DELETE", "/routes/r", status=404)


def test_the_list_has_pages(admin: Caller) -> None:
    for name in ("a", "b", "c"):
        add(admin, ONE, name=name)
    first = admin.get("/routes?limit=3").json
    assert ([one["name"] for one in first["data"]], first["next"]) == (["a", "b", "c"], "c")
    assert [one["name"] for one in admin.get("/routes?after=c").json["data"]] == ["house"]
    send(admin, "GET", "/routes?page=2", status=400)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({"name": None}, "name"),
    "a slash": ({"name": "openai/x"}, "name"),
    "a tier": ({"name": "large"}, "name"),
    "auto": ({"name": "auto"}, "name"),
    "no target": ({"targets": []}, "targets"),
    "targets is no list": ({"targets": {"model": ONE}}, "targets"),
    "too many": ({"targets": [{"model": ONE}] * 17}, "targets"),
    "a bare name": ({"targets": [{"model": "one"}]}, "targets[0].model"),
    "nobody's": ({"targets": [{"model": ONE}, {"model": "openai/nothing"}]}, "targets[1].model"),
    "twice": ({"targets": [{"model": ONE}, {"model": ONE}]}, "targets[1].model"),
    "a negative weight": ({"targets": [{"model": ONE, "weight": -1}]}, "targets[0].weight"),
    "a heavy weight": ({"targets": [{"model": ONE, "weight": 1001}]}, "targets[0].weight"),
    "half a weight": ({"targets": [{"model": ONE, "weight": 0.5}]}, "targets[0].weight"),
    "all weights 0": ({"strategy": "weighted", "targets": [{"model": ONE, "weight": 0}]}, "targets"),
    "a strategy of one's own": ({"strategy": "random"}, "strategy"),
    "a fallback of one's own": ({"fallbacks": {"timeout": [ONE]}}, "fallbacks.timeout"),
    "a fallback to nobody": ({"fallbacks": {"context_window": ["nothing"]}}, "fallbacks.context_window[0]"),
    "a fallback to a route": ({"fallbacks": {"content_filter": ["house"]}}, "fallbacks.content_filter[0]"),
    "an unknown field": ({"targts": []}, "targts"),
}


@pytest.mark.parametrize("more, field", BAD.values(), ids=BAD)
def test_what_is_wrong_is_named_and_nothing_is_written(
    seeded: Flask, admin: Caller, more: dict[str, Any], field: str
) -> None:
    def kept() -> Any:
        with seeded.app_context(), db.engine.connect() as connection:
            rows = connection.execute(text("SELECT * FROM routes")).fetchall()
            return rows, connection.execute(text("SELECT count(*) FROM audit")).scalar()

    before = kept()
    refused = send(admin, "POST", "/routes", {"name": "r", "targets": [{"model": ONE}]} | more, status=400)
    assert [detail["field"] for detail in refused.json["error"]["details"]] == [field]
    assert kept() == before


def test_a_name_that_is_taken_is_a_conflict(admin: Caller) -> None:
    for name in ("house", "one"):
        refused = send(admin, "POST", "/routes", {"name": name, "targets": [{"model": ONE}]}, status=409)
        assert refused.json["error"]["details"][0]["field"] == "name"
    add(admin, ONE)
    assert send(admin, "PUT", "/routes/r", {"name": "other"}, status=400).json["error"]["details"][0]["field"] == "name"


def test_every_change_is_in_the_audit_trail(admin: Caller) -> None:
    add(admin, ONE)
    send(admin, "PUT", "/routes/r", {"targets": [{"model": TWO, "weight": 2}]})
    send(admin, "PUT", "/routes/r", {"targets": [{"model": TWO, "weight": 2}]})
    send(admin, "DELETE", "/routes/r", status=204)
    rows = [row for row in admin.get("/audit").json["data"] if row["target"] == "route:r"]
    assert [row["action"] for row in rows] == ["route.delete", "route.update", "route.create"]
    assert rows[1]["after"] == {"targets": [{"model": TWO, "weight": 2}]}


def test_other_processes_know_of_it_within_a_second(
    seeded: Flask, admin: Caller, make_app: MakeApp, upstream: Upstream
) -> None:
    elsewhere = make_app(
        DATABASE_URL=seeded.config["SQLALCHEMY_DATABASE_URI"], **provider_environment(upstream, "openai")
    )
    caller = Caller.on(elsewhere)
    caller.chat(model="r", status=404)
    add(admin, ONE)
    began = time.monotonic()
    while (
        caller.http.post(
            "/v1/chat/completions",
            json={"model": "r", "messages": [{"role": "user", "content": "hi"}]},
            headers=caller.headers,
        ).status_code
        != 200
    ):
        assert time.monotonic() - began < 3
        time.sleep(0.05)


# -- an operator's file -----------------------------------------------------------------------------------------------


def test_a_route_of_the_file_works_and_stays_an_administrators_once_it_was_changed(
    seeded: Flask, admin: Caller
) -> None:
    shipped = admin.get("/routes/house").json
    assert (shipped["origin"], shipped["targets"][0]) == ("shipped", {"model": ONE, "weight": 3})
    assert Caller.on(seeded).chat(model="house").status_code == 200
    send(admin, "PUT", "/routes/house", {"strategy": "priority"})
    seeded.test_cli_runner().invoke(args=["seed"])
    assert admin.get("/routes/house").json["strategy"] == "priority"
    send(admin, "DELETE", "/routes/house", status=204)
    seeded.test_cli_runner().invoke(args=["seed"])
    send(admin, "GET", "/routes/house", status=404)
    assert add(admin, ONE, name="house")["origin"] == "touched"


@pytest.mark.parametrize(
    "entry, told",
    [
        ("r: {targets: [openai/gpt-4o], strategy: best}", "strategy: expected one of priority"),
        ("r: {targets: [gpt-4o]}", "targets: expected a list"),
        ("r: {strategy: priority}", "targets: missing"),
        ("large: {targets: [openai/gpt-4o]}", "routes.large"),
        ("r: {targets: [openai/gpt-4o], fallbacks: {slow: [x]}}", "fallbacks: expected lists"),
        ("r: {targets: [openai/gpt-4o], weight: 1}", "unknown field weight"),
    ],
)
def test_what_is_wrong_in_the_file_stops_the_seeding_by_name(
    make_app: MakeApp, tmp_path: Path, entry: str, told: str
) -> None:
    overlay = tmp_path / "models.yaml"
    overlay.write_text(f"routes:\n  {entry}\n")
    result = make_app(LLM_GATEWAY_CONFIG_PATH=str(overlay)).test_cli_runner().invoke(args=["seed"])
    assert result.exit_code != 0
    assert told in result.output + str(result.exception)


# -- who may use it, and where it is listed ---------------------------------------------------------------------------


def listed(caller: Caller) -> dict[str, str]:
    return {one["id"]: one["owned_by"] for one in caller.get("/v1/models").json["data"]}


def test_a_route_is_listed_by_its_name_and_owned_by_its_first_target(seeded: Flask, admin: Caller) -> None:
    add(admin, TWO, ONE)
    caller = Caller.on(seeded)
    assert listed(caller)["r"] == "anthropic"
    assert caller.get("/v1/models/r").json["context_window"] == 1000
    send(admin, "DELETE", "/routes/r", status=204)
    assert "r" not in listed(caller)


def test_a_token_that_lists_the_route_may_use_all_its_targets_and_nothing_else(seeded: Flask, admin: Caller) -> None:
    add(admin, ONE, TWO, fallbacks={"content_filter": [THREE]})
    caller = Caller.on(seeded, models=["r"])
    assert story(caller) == [(ONE, "ok")]
    assert listed(caller) == {"r": "openai"}
    for model in (ONE, "one", TWO, THREE):
        caller.chat(model=model, status=403)


def test_a_token_that_lists_a_target_gets_that_target_alone(seeded: Flask, admin: Caller, upstream: Upstream) -> None:
    add(admin, ONE, TWO, fallbacks={"content_filter": [THREE]})
    caller = Caller.on(seeded, models=[TWO])
    assert story(caller) == [(TWO, "ok")]
    upstream.script(FILTERED, vendor="anthropic")
    assert story(caller, status=400) == [(TWO, "filtered")]
    Caller.on(seeded, name="other", models=["gpt-4.1"]).chat(model="r", status=403)


def test_a_route_of_the_name_of_an_alias_goes_before_it_and_opens_nothing(seeded: Flask, admin: Caller) -> None:
    caller = Caller.on(seeded, models=["big"])
    assert story(caller, "big") == [(THREE, "ok")]
    add(admin, ONE, name="big")
    assert story(Caller.on(seeded, name="free"), "big") == [(ONE, "ok")]
    caller.chat(model="big", status=403)
    assert listed(Caller.on(seeded, name="free too"))["llama/big"] == "llama"


def test_where_no_target_is_on_it_is_a_404_and_told_in_the_document(
    make_app: MakeApp, admin: Caller, seeded: Flask
) -> None:
    add(admin, ONE)
    send(admin, "PUT", "/providers/openai", {"enabled": False})
    assert admin.get("/routes/r").json["unavailable"] == [ONE]
    refused = Caller.on(seeded).chat(model="r", status=404)
    assert "no target that is on" in refused.json["error"]["message"]


def test_a_target_that_cannot_do_it_is_passed_over(seeded: Flask, admin: Caller) -> None:
    add(admin, THREE, ONE)
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    assert story(Caller.on(seeded), tools=tools) == [(ONE, "ok")]


# -- in which order ---------------------------------------------------------------------------------------------------


def test_priority_falls_on_to_the_next(seeded: Flask, admin: Caller, upstream: Upstream) -> None:
    add(admin, TWO, ONE, THREE)
    upstream.script(faults.status(500), vendor="anthropic")
    upstream.script(faults.status(429), vendor="openai")
    assert story(Caller.on(seeded)) == [(TWO, "error"), (ONE, "rate_limited"), (THREE, "ok")]


def test_the_cheapest_is_asked_and_prices_may_change(seeded: Flask, admin: Caller) -> None:
    def price(provider: str, model: str, dollars: float) -> None:
        prices = [{"token": {"inputValue": dollars, "outputValue": dollars}}]
        send(admin, "PUT", f"/providers/{provider}/models/{model}", {"prices": prices})

    price("openai", "one", 9)
    price("anthropic", "two", 3)
    add(admin, THREE, ONE, TWO, strategy="cheapest")
    caller = Caller.on(seeded)
    assert story(caller) == [(TWO, "ok")]
    price("openai", "one", 1)
    assert story(caller) == [(ONE, "ok")]


@pytest.mark.parametrize("stream", [True, False])
def test_the_fastest_is_asked_and_a_fast_failure_is_no_speed(
    seeded: Flask, admin: Caller, upstream: Upstream, stream: bool
) -> None:
    add(admin, ONE, TWO, strategy="fastest")
    upstream.script(faults.first_delay(1) if stream else faults.delay(1), vendor="openai")
    caller = Caller.on(seeded)
    for model in (ONE, TWO):  # by whatever name a model is called: its pace is known from then on
        story(caller, model, stream=stream)
    assert {story(caller, stream=stream)[0][0] for _ in range(10)} == {TWO}
    upstream.script(faults.status(500), vendor="anthropic", times=1)
    assert [name for name, _ in story(caller, stream=stream)] == [TWO, ONE]
    assert story(caller, stream=stream)[0][0] == TWO


# -- who is asked instead ---------------------------------------------------------------------------------------------

Ask = Callable[[Caller], TestResponse]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "refusal, kind, outcome", [(TOO_LONG, "context_window", "too_long"), (FILTERED, "content_filter", "filtered")]
)
def test_a_refusal_goes_on_to_those_that_the_route_names(
    seeded: Flask, admin: Caller, upstream: Upstream, refusal: Any, kind: str, outcome: str, stream: bool
) -> None:
    add(admin, ONE, TWO, fallbacks={kind: ["big", TWO]})
    upstream.script(refusal, vendor="openai")
    caller = Caller.on(seeded)
    answered = "open" if stream else "ok"
    assert story(caller, stream=stream) == [(ONE, outcome), (THREE, answered)]
    upstream.script(faults.status(500), vendor="llama")
    assert story(caller, stream=stream) == [(ONE, outcome), (THREE, "error"), (TWO, answered)]
    with seeded.app_context(), db.engine.connect() as connection:
        states = connection.execute(text("SELECT DISTINCT state FROM attempts WHERE provider = 'openai'")).fetchall()
    assert [tuple(state) for state in states] == [("released",)]


@pytest.mark.parametrize("stream", [False, True])
def test_without_the_routes_word_a_refusal_stays_one(
    seeded: Flask, admin: Caller, upstream: Upstream, stream: bool
) -> None:
    add(admin, ONE, TWO, fallbacks={"context_window": [THREE]})
    upstream.script(FILTERED, vendor="openai")
    assert story(Caller.on(seeded), stream=stream, status=400) == [(ONE, "filtered")]


def test_where_those_refuse_it_too_the_last_refusal_is_told(seeded: Flask, admin: Caller, upstream: Upstream) -> None:
    add(admin, ONE, fallbacks={"context_window": [TWO]})
    for vendor in ("openai", "anthropic"):
        upstream.script(TOO_LONG, vendor=vendor)
    refused = Caller.on(seeded).chat(model="r", status=400)
    assert refused.json["error"]["code"] == "context_length_exceeded"
    assert [outcome for _, _, outcome in story_of(refused.headers)] == ["too_long", "too_long"]


def test_a_prompt_that_surely_does_not_fit_is_not_even_sent(seeded: Flask, admin: Caller, upstream: Upstream) -> None:
    add(admin, ONE, TWO, fallbacks={"context_window": ["big"]})
    caller = Caller.on(seeded)
    unsure, sure = "word " * 1500, "word " * 1700  # by our count 1,875 and 2,125 tokens, of which half are sure
    assert story(caller, said=unsure) == [(ONE, "ok")]
    upstream.script(faults.status(400), vendor="openai")
    assert story(caller, said=sure) == [(ONE, "too_long;unsent"), (TWO, "too_long;unsent"), (THREE, "ok")]
    send(admin, "PUT", "/routes/r", {"fallbacks": {}})
    assert story(caller, said=sure, status=400) == [(ONE, "refused")]


def test_after_the_first_frame_nobody_else_is_asked(seeded: Flask, admin: Caller, upstream: Upstream) -> None:
    add(admin, ONE, TWO, fallbacks={"content_filter": [THREE]})
    upstream.script(faults.text("one two three four") + faults.reset_after(3), vendor="openai")
    caller = Caller.on(seeded)
    assert story(caller, stream=True) == [(ONE, "open")]
    assert {seen.vendor for seen in upstream.requests} == {"openai"}


def test_a_route_serves_vectors_too(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(**provider_environment(upstream, "openai", "gemini"))
    admin = Caller(app.test_client(), access_token(app, "boss", admin=True))
    add(admin, "openai/text-embedding-3-small", "gemini/gemini-embedding-001", name="vectors", strategy="cheapest")
    answer = Caller.on(app).post("/v1/embeddings", {"model": "vectors", "input": "one"})
    assert story_of(answer.headers)[0][2] == "ok"
