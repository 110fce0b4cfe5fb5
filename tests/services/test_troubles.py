"""What is wrong right now, in plain words; and whether somebody works on batches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from flaskllm.domain.account import WAITING
from flaskllm.domain.audit import SYSTEM
from flaskllm.extensions import db
from flaskllm.services import Services, troubles, workers
from tests.actors import Caller
from tests.conftest import MakeApp, provider_environment
from tests.databases import database_addresses, fresh_tables
from tests.people import PASSWORD
from tests.upstream import Upstream, faults


@pytest.fixture(params=database_addresses())
def app(request: Any, make_app: MakeApp, upstream: Upstream, tmp_path: Any) -> Iterator[Flask]:
    made = make_app(**provider_environment(upstream, "openai"), DATABASE_URL=request.param(tmp_path))
    with made.app_context():
        fresh_tables()
        from flaskllm.wiring import seeder

        seeder(made).run()
        yield made
        db.session.remove()


@pytest.fixture
def services(app: Flask) -> Services:
    found: Services = app.extensions["flaskllm"]
    return found


def told(services: Services, about: str) -> list[troubles.Trouble]:
    return [trouble for trouble in services.troubles.look().troubles if trouble.about == about]


def change(statement: str, **values: Any) -> None:
    with db.engine.begin() as connection:
        assert connection.execute(text(statement), values).rowcount == 1


def age_the_job(job_id: str) -> None:
    change(
        "UPDATE batch_jobs SET created_at = created_at - :gone WHERE id = :id", gone=workers.ABSENT_MS + 1, id=job_id
    )


def test_a_gateway_where_all_is_well_has_nothing_to_tell(services: Services) -> None:
    state = services.troubles.look()
    assert (state.mode, state.workers) == ("sql", 0)
    assert [trouble.what for trouble in state.troubles if trouble.is_bad] == []


def test_a_provider_that_fails_is_told_with_its_words_and_is_gone_when_mended(
    app: Flask, services: Services, upstream: Upstream
) -> None:
    upstream.script(faults.status(500), vendor="openai")
    caller = Caller.on(app)
    for _ in range(6):
        caller.http.post(
            "/v1/chat/completions",
            json={"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]},
            headers=caller.headers,
        )
    found = [one for one in told(services, "provider") if one.is_bad]
    assert [one.subject for one in found] == ["openai"]
    assert "is left alone since" in found[0].what
    assert "status 500" in found[0].what


def test_a_key_that_is_refused_is_told_by_its_last_letters(app: Flask, services: Services, upstream: Upstream) -> None:
    upstream.script(faults.status(401), vendor="openai")
    Caller.on(app).chat(model="gpt-4o", status=502)
    found = [one for one in told(services, "provider") if one.is_bad]
    assert [one.subject for one in found] == ["openai"]
    assert f"••••{upstream.keys['openai'][-4:]}" in found[0].what
    assert upstream.keys["openai"] not in found[0].what


def test_budgets_that_are_nearly_spent_are_told_the_fullest_first(services: Services) -> None:
    user = services.accounts.create_user(
        "ann", "ann@example.com", PASSWORD, fields={"budget": {"amount": 10, "period": "total"}}
    )
    other = services.accounts.create_user(
        "bob", "bob@example.com", PASSWORD, fields={"budget": {"amount": 10, "period": "total"}}
    )
    services.quotas.put("tag:sales", {"budgets": [{"amount": 1, "period": "total"}]}, SYSTEM)
    services.quotas.put(f"user:{user.id}", {"budgets": [{"amount": 5, "period": "total"}]}, SYSTEM)
    for name, spent in (
        (f"user:{user.id}", 9_100_000_000), (f"user:{other.id}", 8_900_000_000),
        ("quota:tag:sales", 1_000_000_000), (f"quota:user:{user.id}", 4_600_000_000),
    ):  # fmt: skip
        change(
            "INSERT INTO budgets (id, period, spent, reserved) VALUES (:id, 'total', :spent, 0)", id=name, spent=spent
        )
    found = [one for one in services.troubles.look().troubles if "budget of" in one.what]
    assert [(one.what.partition(" of its")[0], one.is_bad) for one in found] == [
        ("The tag sales has spent 100%", True),
        ("The user ann has spent 92%", False),
        ("The account ann has spent 91%", False),
    ]
    assert "budget of $10.00 in all" in found[2].what


def test_an_account_that_waits_is_told(services: Services) -> None:
    services.accounts.create_user("ann", "ann@example.com", PASSWORD, fields={"status": WAITING})
    assert [one.what for one in told(services, "people")] == ["1 account waits for approval."]


@pytest.mark.parametrize(
    "free, total, low",
    [(2**30, 2**40, False), (2**30 - 1, 2**40, True), (2**28, 10 * 2**30, True), (2**20, 10 * 2**20, False)],
)
def test_a_disk_is_low_below_a_gibibyte_or_a_twentieth_of_a_small_one(free: int, total: int, low: bool) -> None:
    assert troubles.is_low(free, total) == low


def test_work_that_waits_in_vain_is_told_and_a_worker_mends_it(app: Flask, services: Services) -> None:
    assert services.workers.look().state == "off"
    job_id = Caller.on(app).post("/v1/batch/generate", {"prompts": ["hello"]}, status=202).json["job_id"]
    assert services.workers.look().state == "off", "it may well be taken in the next second"
    age_the_job(job_id)
    assert (services.workers.look().state, services.health.ready()["checks"]["worker"]) == ("down", "down")
    assert [one.what for one in told(services, "batches")] == ["1 batch waits and no worker is there."]
    services.workers.beat()
    assert (services.workers.look().state, told(services, "batches")) == ("ok", [])
    assert services.troubles.look().workers == 1


def test_a_worker_that_said_nothing_for_a_minute_is_not_there(services: Services) -> None:
    services.workers.beat()
    services.workers.beat()
    services.workers.beat(pid=1)
    assert services.workers.look().workers == 2
    change("UPDATE workers SET seen_at = seen_at - :gone WHERE id LIKE :name", gone=workers.ABSENT_MS + 1, name="%:1")
    assert services.workers.look().workers == 1
    change("UPDATE workers SET seen_at = seen_at - :gone WHERE id LIKE :name", gone=workers.FORGOTTEN_MS, name="%:1")
    services.workers.beat()
    with db.engine.connect() as connection:
        names = connection.execute(text("SELECT id FROM workers")).scalars().all()
    assert [name.rpartition(":")[2] for name in names] == [str(os.getpid())]


def test_the_command_that_works_once_says_that_it_was_there(app: Flask, services: Services) -> None:
    job_id = Caller.on(app).post("/v1/batch/generate", {"prompts": ["hello"]}, status=202).json["job_id"]
    age_the_job(job_id)
    assert app.test_cli_runner().invoke(args=["worker", "--once"]).exit_code == 0
    assert services.workers.look().state == "ok"


def test_models_without_a_price_are_told_together(app: Flask, services: Services) -> None:
    assert told(services, "providers") == []
    with db.engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE provider_models SET name = 'own-' || name, backend_model = 'own-' || name "
                "WHERE provider_id = 'openai' AND type = 'chat'"
            )
        )
        connection.execute(text("UPDATE meta SET value = '99' WHERE name = 'catalogue_version'"))
    services.catalogue.refresh()
    (found,) = told(services, "providers")
    assert "models have no price, so what they cost is not counted: openai/own-" in found.what
    assert not found.is_bad
