"""Promise A2, generated from the map of routes: route × carrier × everybody who may or may not enter.

What each may is worked out here from what the documents say of scopes and roles, not asked of the guard's own code.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import update
from urllib3 import encode_multipart_formdata

from flaskllm.app import create_app
from flaskllm.blueprints import DOORS
from flaskllm.blueprints._guard import open_to_all
from flaskllm.config import Settings
from flaskllm.domain.principal import SCOPES
from flaskllm.extensions import Base, db
from flaskllm.models.account import ApiToken
from flaskllm.models.types import now
from tests.actors import AN_ID
from tests.conftest import plain_environment
from tests.doors.accounts_world import Person

METRICS_TOKEN = "metrics-0123456789-0123456789-0123456789"
API_TOKEN = "environment-0123456789-0123456789-0123"
CARRIERS = ("Authorization", "X-API-Token", "api-key", "x-api-key")
USUAL = {"chat", "embeddings", "images", "batch", "webhook"}
ASKED = {
    r"\w+ /metrics$": "metrics",
    r"\w+ /(users|tokens|usage|audit|providers|routes|quotas)\b": "admin",
    r"(POST|PUT|DELETE) /api/v1/templates": "admin",
    r"\w+ /api/v1/(templates|webhook|range)": "webhook",
    r"\w+ /api/external/": "external",
    r"\w+ /api/": "signed in",
    r"GET /llm-gate/v1/providers$": "signed in",
    r"\w+ .*/embeddings$": "embeddings",
    r"\w+ .*/images": "images",
    r"\w+ /v1/(batch|batches|files)\b": "batch",
    r"\w+ /(v1|llm|llm-gate|openai)/": "chat",
}
"""The first that fits; a path that none does is nobody's decision yet."""


@dataclass(frozen=True)
class Somebody:
    """Who calls: ``status`` where they may enter nowhere at all, else what they may do."""

    name: str
    credential: str | None
    status: int | None = None
    scopes: frozenset[str] = frozenset()
    administers: bool = False
    is_metrics: bool = False
    workbook: bool = False
    carriers: tuple[str, ...] = CARRIERS


@dataclass(frozen=True)
class Route:
    """One method of one rule, with something in the places of its ids."""

    method: str
    rule: str
    path: str

    @property
    def asks(self) -> str:
        """What docs/api.md says of the path: ``signed in``, ``admin``, ``metrics``, or a scope."""
        call = f"{self.method} {self.rule}"
        return next(asked for pattern, asked in ASKED.items() if re.match(pattern, call))


@pytest.fixture(scope="module")
def world(template_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """One gateway for all: whoever is refused leaves nothing behind, which is what is looked at."""
    folder = tmp_path_factory.mktemp("matrix")
    (folder / "instance").mkdir()
    shutil.copy(template_database, folder / "instance" / "app.db")
    settings = plain_environment(folder, METRICS_TOKEN=METRICS_TOKEN, API_TOKEN=API_TOKEN)
    app = create_app(Settings.load(settings, root=folder))
    yield app
    app.extensions["flaskllm"].shutdown.stop()
    with app.app_context():
        db.engine.dispose()


@pytest.fixture(scope="module")
def routes(world: Flask) -> list[Route]:
    doors = {door.blueprint.name: door for door in DOORS}
    found = []
    for rule in world.url_map.iter_rules():
        door = doors.get(rule.endpoint.partition(".")[0])
        if door is None or door.blueprint.name == "admin":  # pages: tests/doors/test_admin_entrance.py
            continue
        if door.policy(rule.endpoint) is not open_to_all:
            path = re.sub(r"<[^>]+>", AN_ID, rule.rule)
            methods = sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
            found += [Route(method, rule.rule, path) for method in methods]
    assert len(found) > 60
    return found


@pytest.fixture(scope="module")
def everybody(world: Flask) -> list[Somebody]:
    root, alice = Person(world, "root", admin=True), Person(world, "alice")
    barred, waiting, boss = Person(world, "barred"), Person(world, "waiting"), Person(world, "boss", admin=True)
    services = world.extensions["flaskllm"]
    every = frozenset(SCOPES)
    services.tokens.identify(API_TOKEN)  # its user is made where it is first needed
    services.accounts.change_user(alice.user.id, {"scopes": sorted(every)})  # the scope admin, and not the role
    alice.login()
    dead = {name: alice.token(scopes=["chat"]) for name in ("revoked", "expired")}
    services.tokens.revoke_any(dead["revoked"][0])
    with world.app_context():
        db.session.execute(update(ApiToken).where(ApiToken.id == dead["expired"][0]).values(expires_at=now()))
        db.session.commit()
    disabled_token = barred.token(scopes=["chat"])[1]
    services.accounts.change_user(barred.user.id, {"status": "disabled"})
    waiting_token = waiting.token(scopes=["chat"])[1]
    services.accounts.change_user(waiting.user.id, {"status": "waiting"})
    services.accounts.change_user(boss.user.id, {"status": "waiting"})
    workbook = {"scopes": sorted(every), "templates": ["summary"]}
    bearer = ("Authorization",)
    return [
        Somebody("nobody", None, 401, carriers=bearer),
        Somebody("an invented token", "fl_" + "x" * 49, 401),
        Somebody("a revoked token", dead["revoked"][1], 401),
        Somebody("an expired token", dead["expired"][1], 401),
        Somebody("a disabled account", barred.access, 401, carriers=bearer),
        Somebody("a disabled account's token", disabled_token, 401),
        Somebody("a token from elsewhere", root.token(scopes=sorted(every), allowed_ips=["10.9.8.7"])[1], 403),
        Somebody("a waiting account", waiting.access, carriers=bearer),
        Somebody("a waiting account's token", waiting_token),
        Somebody("a waiting administrator", boss.access, carriers=bearer),
        Somebody("a user", alice.access, scopes=every, carriers=bearer),
        *(
            Somebody(f"a user's token for {one}", alice.token(scopes=[one])[1], scopes=frozenset({one}))
            for one in SCOPES
        ),
        Somebody("a user's workbook token", alice.token(**workbook)[1], scopes=every, workbook=True),
        Somebody("a token for one model", alice.token(scopes=["chat"], models=["demo"])[1], scopes=frozenset({"chat"})),
        Somebody("an administrator", root.access, scopes=every, administers=True, carriers=bearer),
        Somebody("an administrator's token", root.token(scopes=sorted(USUAL))[1], scopes=frozenset(USUAL)),
        Somebody("an administrator's token for it", root.token(scopes=["admin"])[1], administers=True),
        Somebody("an administrator's workbook token", root.token(**workbook)[1], scopes=every, workbook=True),
        Somebody("the environment's token", API_TOKEN, scopes=frozenset({"chat", "webhook"})),
        Somebody("Prometheus", METRICS_TOKEN, 401, is_metrics=True),
    ]


def expected(who: Somebody, route: Route) -> int | None:
    """The status of a refusal; None where the guard has to let them pass."""
    asked = route.asks
    if who.is_metrics and asked == "metrics":
        return None
    if who.status is not None:
        return who.status
    if asked == "signed in":
        return 403 if who.workbook else None
    if asked in ("admin", "metrics"):
        return None if who.administers else 403
    if who.workbook and asked != "webhook":
        return 403
    return None if asked in who.scopes else 403


def everything(app: Flask) -> dict[str, list[Any]]:
    """Every row of every table, but for when a token was last used, and for windows that end by themselves."""
    with app.app_context(), db.engine.connect() as connection:
        found = {}
        for table in Base.metadata.sorted_tables:
            columns = [column for column in table.columns if column.name != "last_used_at"]
            if table.name == "counters":
                continue
            rows = connection.execute(table.select().with_only_columns(*columns))
            found[table.name] = sorted(map(str, rows))
        return found


def knocked(app: Flask, who: Somebody, route: Route, carrier: str) -> Any:
    prefix = "Bearer " if carrier == "Authorization" else ""
    headers = {} if who.credential is None else {carrier: prefix + who.credential}
    return app.test_client().open(route.path, method=route.method, json={}, headers=headers)


def test_who_is_refused_is_refused_on_every_route_by_every_carrier_and_changes_nothing(
    world: Flask, routes: list[Route], everybody: list[Somebody]
) -> None:
    before = everything(world)
    wrong = []
    for who in everybody:
        for route in routes:
            status = expected(who, route)
            for carrier in who.carriers if status is not None else ():
                answer = knocked(world, who, route, carrier)
                if answer.status_code != status:
                    wrong.append((who.name, carrier, route.method, route.rule, answer.status_code, status))
    assert wrong == []
    assert everything(world) == before


def test_who_may_enter_passes_the_guard(world: Flask, routes: list[Route], everybody: list[Somebody]) -> None:
    """An empty body or an id of nothing is as far as they come: that is told in the path's own words."""
    wrong = []
    for who in everybody:
        for route in routes:
            if expected(who, route) is None and route.rule not in ("/api/auth/logout", "/api/logout"):
                answer = knocked(world, who, route, who.carriers[0])
                may_refuse_itself = route.asks == "signed in" or who.workbook  # tokens make no tokens
                if answer.status_code in (401, 500) or (answer.status_code == 403 and not may_refuse_itself):
                    wrong.append((who.name, route.method, route.rule, answer.status_code, answer.text[:100]))
    assert wrong == []


def test_what_is_told_to_somebody_is_kept_by_no_cache(
    world: Flask, routes: list[Route], everybody: list[Somebody]
) -> None:
    """A proxy knows Authorization; of X-API-Token it knows nothing, and keeps what it is not told to leave."""
    root = next(who for who in everybody if who.name == "an administrator's token for it")
    for route in routes:
        if route.method == "GET" and expected(root, route) is None:
            answer = knocked(world, root, route, "X-API-Token")
            assert answer.headers["Cache-Control"] == "no-store", route.rule


def test_somebody_elses_thing_answers_on_every_route_as_one_that_is_not_there(
    world: Flask, routes: list[Route], everybody: list[Somebody]
) -> None:
    """Promise A3: byte for byte, but for the id that was asked for."""
    owner, other = Person(world, "owner"), Person(world, "other")
    things = [
        owner.token()[0],
        owner.call("POST", "/llm/chat", {"message": "hello"}).json["data"]["conversation_id"],
        owner.call("POST", "/v1/responses", {"input": "hello"}).json["id"],
        owner.call("POST", "/v1/batch/generate", {"prompts": ["hello"]}).json["job_id"],
        *a_file_and_its_batch(owner),
    ]
    reads = [(route, thing) for route in by_id(routes) if route.method == "GET" for thing in things]
    before = [reply(owner, route, thing) for route, thing in reads]
    assert [status for status, _ in before].count(200) == 9
    for route in by_id(routes):
        for thing in things:
            missing = thing[:-6] + ("000000" if thing[-6:] != "000000" else "111111")
            found, told = reply(other, route, thing), reply(other, route, missing)
            assert found == told, (route.method, route.rule)
            assert found[0] in (400, 404), (route.method, route.rule)
    assert [reply(owner, route, thing) for route, thing in reads] == before


def a_file_and_its_batch(owner: Person) -> tuple[str, str]:
    body, media = encode_multipart_formdata({"purpose": "batch", "file": ("in.jsonl", b"no request")})
    file_id = owner.http.post("/v1/files", data=body, content_type=media, headers=owner.headers).json["id"]
    asked = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    return file_id, owner.call("POST", "/v1/batches", asked).json["id"]


def by_id(routes: list[Route]) -> list[Route]:
    """Everybody's own routes that take an id."""
    found = [route for route in routes if "<" in route.rule and route.asks not in ("admin", "metrics")]
    assert {route.rule.split("<")[0] for route in found} >= {
        "/api/tokens/",
        "/llm/conversations/",
        "/v1/responses/",
        "/v1/batch/",
        "/v1/batches/",
        "/v1/files/",
    }
    return found


def reply(who: Person, route: Route, thing: str) -> tuple[int, str]:
    """Status and body, without the id and without what differs from one request to the next."""
    headers = {"X-Request-Id": "request-0001", "X-Correlation-Id": "11111111-1111-4111-8111-111111111111"}
    answer = who.call(
        route.method,
        re.sub(r"<[^>]+>", thing, route.rule),
        None if route.method in ("GET", "DELETE") else {},
        headers={**headers, "X-User-Id": "u", "X-Client-Id": "c"},
    )
    return answer.status_code, answer.text.replace(thing, "ID")
