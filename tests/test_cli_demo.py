"""``flask demo-data``: a month that holds as a real one would, on both databases."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, text

from flaskllm.domain.audit import SYSTEM
from flaskllm.domain.pricing import cost_of_breakdown
from flaskllm.errors import Unauthenticated
from flaskllm.extensions import Base, db
from flaskllm.services.demo_data import facts, targets_of
from flaskllm.services.demo_traffic import Planned, Span, Traffic
from flaskllm.wiring import prepare_database
from tests.actors import Caller
from tests.conftest import MakeApp
from tests.databases import MISSING, database_of_its_own
from tests.people import PASSWORD
from tests.test_cli import flask

FRIDAY = datetime(2026, 11, 20, 18, tzinfo=UTC)
SECONDS = 20
"""For the twenty thousand calls of a usual month."""


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, make_app: MakeApp) -> Flask:
    """A gateway that nobody has used, on this database."""
    if request.param == "sqlite":
        return make_app()
    address = database_of_its_own()
    if address is None:
        pytest.skip(MISSING)
    app = make_app(DATABASE_URL=address)
    prepare_database(app)
    return app


def rows(app: Flask, table: str) -> list[dict[str, Any]]:
    with app.app_context(), db.engine.connect() as connection:
        return [dict(row) for row in connection.execute(select(Base.metadata.tables[table])).mappings()]


def make(app: Flask, *arguments: str, **more: Any) -> str:
    return flask(app, "demo-data", "--calls", "1500", *arguments, **more).output


def test_the_month_holds_as_a_real_one_would(empty: Flask) -> None:
    """Each row recomputes, budgets have spent what their attempts cost, and the audit trail is sound."""
    assert "1500 calls" in make(empty)
    attempts, calls = rows(empty, "attempts"), rows(empty, "calls")
    assert len(calls) == 1500

    costs: dict[str, list[int | None]] = defaultdict(list)
    held: Counter[tuple[str, str]] = Counter()
    for row in attempts:
        priced = cost_of_breakdown(json.loads(row["usage"])) if row["priced"] or row["state"] == "released" else None
        assert row["cost"] == priced
        costs[row["request_id"]].append(row["cost"])
        for budget_id, period in json.loads(row["holds"]):
            held[budget_id, period] += row["cost"] or 0
    for call in calls:
        whole = costs[call["request_id"]]
        assert call["cost"] == (None if None in whole else sum(whole))
        assert call["attempts"] == len(whole)
        assert (call["saved"] is not None) <= (call["attempts"] == 0)
    spent = {(row["id"], row["period"]): row["spent"] for row in rows(empty, "budgets")}
    assert spent == held
    assert all(row["reserved"] == 0 for row in rows(empty, "budgets"))
    caps = {f"token:{row['id']}": row["budget_amount"] for row in rows(empty, "api_tokens")}
    caps |= {f"user:{row['id']}": row["budget_amount"] for row in rows(empty, "users")}
    bound = {name for name, amount in caps.items() if amount}
    assert bound == {name for name, _ in spent if name in caps}
    assert all(amount <= caps[name] for (name, _), amount in spent.items() if name in bound)

    services = empty.extensions["flaskllm"]
    with empty.app_context():
        verdict, report = services.audit.verify(), services.usage.report(None, None, None, by=["day"])
    assert (report.totals.requests, report.totals.cost) == (1500, sum(call["cost"] or 0 for call in calls))
    assert all(call["rolled"] for call in calls)
    assert all((call["first_token_ms"] is None) or call["streamed"] for call in calls)
    assert all((call["first_token_ms"] or 0) <= call["latency_ms"] for call in calls)
    assert any(call["first_token_ms"] for call in calls)
    trail = sorted(rows(empty, "audit"), key=lambda row: row["number"])
    assert verdict.is_sound
    assert verdict.count == len(trail) > 40
    assert all(one["at"] <= other["at"] <= time.time() * 1000 for one, other in pairwise(trail))


def test_there_is_something_of_everything(empty: Flask) -> None:
    make(empty)
    calls = rows(empty, "calls")
    assert {row["door"] for row in calls} >= {"openai", "messages", "responses", "webhook", "batch", "conversations"}
    assert {row["status"] for row in calls} >= {200, 400, 499, 502}
    assert any(row["saved"] for row in calls)
    assert any(row["streamed"] for row in calls)
    assert any(row["attempts"] > 1 for row in calls)
    assert {row["status"] for row in rows(empty, "batch_jobs")} == {"completed", "running", "cancelled"}
    assert [row["event"] for row in rows(empty, "alerts")] == ["budget.reached"]
    assert len(rows(empty, "conversations")) == len(facts()["conversations"])
    assert max(row["version"] for row in rows(empty, "prompt_versions")) == 3
    assert {row["status"] for row in rows(empty, "users")} == {"active", "waiting", "disabled"}
    made = {row["id"]: row["created_at"].replace(tzinfo=UTC).timestamp() * 1000 for row in rows(empty, "api_tokens")}
    assert all(row["started_at"] > made[row["token_id"]] for row in calls if row["token_id"])


def test_the_job_that_is_not_over_is_never_asked(empty: Flask) -> None:
    """No provider is called: also not by a worker that finds open questions."""
    make(empty)
    flask(empty, "worker", "--once")
    assert len(rows(empty, "calls")) == 1500
    (running,) = [row for row in rows(empty, "batch_jobs") if row["status"] == "running"]
    assert running["completed"] + running["failed"] < running["total"]


def test_nobody_can_log_in_unless_a_password_is_given(make_app: MakeApp) -> None:
    app = make_app()
    assert "without a password" in make(app)
    assert {row["password_hash"] for row in rows(app, "users")} == {None}
    with app.app_context(), pytest.raises(Unauthenticated):
        app.extensions["flaskllm"].accounts.login("mara.lindqvist", PASSWORD)


def test_with_a_password_all_have_it_and_it_is_told_nowhere(make_app: MakeApp) -> None:
    app = make_app()
    told = make(app, "--password-stdin", typed=PASSWORD + "\n")
    assert PASSWORD not in told
    with app.app_context():
        login = app.extensions["flaskllm"].accounts.login("mara.lindqvist", PASSWORD)
    assert login.user.role == "admin"


# -- refusals ---------------------------------------------------------------------------------------------------------


def counts(app: Flask) -> dict[str, int]:
    return {name: len(rows(app, name)) for name in ("users", "api_tokens", "calls", "audit", "meta", "budgets")}


def refused(app: Flask, *arguments: str, **more: Any) -> str:
    """What was said; and nothing was written."""
    before = counts(app)
    result = flask(app, "demo-data", "--calls", "100", *arguments, status=1, **more)
    assert counts(app) == before
    return result.stderr


def test_a_second_run_is_refused_and_changes_nothing(empty: Flask) -> None:
    make(empty)
    assert "demo data here already" in refused(empty)
    assert "demo data here already" in refused(empty, "--beside-real-calls")


def test_real_calls_are_not_mixed_with_unless_asked_twice(make_app: MakeApp) -> None:
    app = make_app()
    caller = Caller.on(app)
    assert caller.chat("hello").status_code == 200
    assert "real calls" in refused(app)
    make(app, "--beside-real-calls")
    assert len(rows(app, "calls")) == 1501


def test_a_name_that_is_taken_is_told(make_app: MakeApp) -> None:
    app = make_app()
    app.extensions["flaskllm"].accounts.create_user("Mara.Lindqvist", "mara@example.org", PASSWORD, actor=SYSTEM)
    assert "the account Mara.Lindqvist" in refused(app)


def test_a_catalogue_without_its_models_is_told_and_nothing_is_written(make_app: MakeApp) -> None:
    app = make_app()
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(text("DELETE FROM provider_models"))
        connection.execute(text("UPDATE meta SET value = '99' WHERE name = 'catalogue_version'"))
    assert "`flask seed` brings the shipped models" in refused(app)


def test_a_weak_password_is_refused(make_app: MakeApp) -> None:
    assert "password" in refused(make_app(), "--password-stdin", typed="weak\n")


def test_a_run_that_broke_off_is_told(make_app: MakeApp) -> None:
    app = make_app()
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(Base.metadata.tables["meta"].insert(), {"name": "demo_data", "value": '{"whole": false}'})
    assert "broke off" in refused(app)


def test_there_is_none_in_production(make_app: MakeApp) -> None:
    app = make_app(
        ENVIRONMENT="production", SECRET_KEY="aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xY",
        JWT_SECRET_KEY="bC4eF6gH8jK0lM2nP3qR5sT7uV9wX1yZ",
        LLM_GATEWAY_ENCRYPTION_KEY="cD5fG7hJ9kL1mN3pQ4rS6tU8vW0xY2zA", API_TOKEN="dE6gH8jK0lM2nP4qR5sT7uV9wX1yZ3aB",
    )  # fmt: skip
    assert "production" in refused(app)
    assert "production" in refused(app, "--beside-real-calls")


# -- the drawing ------------------------------------------------------------------------------------------------------


def drawn(app: Flask, *, seed: int = 1, calls: int = 3000) -> list[Planned]:
    with app.app_context():
        targets = targets_of(app.extensions["flaskllm"].catalogue.refresh())
    return Traffic(facts(), targets, Span(FRIDAY, 30), seed=seed).calls(calls)


def test_a_seed_draws_the_same_month_again_and_another_one_another(app: Flask) -> None:
    assert drawn(app) == drawn(app)
    assert drawn(app) != drawn(app, seed=2)


def test_every_model_of_the_month_is_shipped_and_all_but_ones_own_server_have_a_price(app: Flask) -> None:
    with app.app_context():
        targets = targets_of(app.extensions["flaskllm"].catalogue.refresh())
    assert targets.keys() == facts()["models"].keys()
    assert {name for name, target in targets.items() if target.price is None} == {"llama/llama-7b-instruct"}
    asked = {name for program in facts()["programs"] for name in program["models"]}
    assert asked <= targets.keys()


def test_weekends_are_quieter_and_there_is_more_at_the_end(app: Flask) -> None:
    days = Counter(datetime.fromtimestamp(one.call["started_at"] / 1000, UTC).date() for one in drawn(app))
    weekdays, weekends = (
        [count for day, count in days.items() if (day.weekday() >= 5) is late] for late in (False, True)
    )
    assert sum(weekends) / len(weekends) < 0.5 * sum(weekdays) / len(weekdays)
    first, last = (FRIDAY.date() - timedelta(days=28), FRIDAY.date() - timedelta(days=7))
    assert sum(days[last + timedelta(days=n)] for n in range(7)) > 1.2 * sum(
        days[first + timedelta(days=n)] for n in range(7)
    )


def test_on_one_afternoon_a_provider_fails_and_others_answer_for_it(app: Flask) -> None:
    begins = datetime(2026, 11, 11, 13, 12, tzinfo=UTC).timestamp() * 1000
    during = [one for one in drawn(app, calls=20_000) if begins <= one.call["started_at"] < begins + 3.5 * 3_600_000]
    failed = [one for one in during if any(row["error_code"] == "provider_error" for row in one.attempts)]
    assert len(failed) > 40
    assert {one.attempts[0]["provider"] for one in failed} >= {facts()["outage"]["provider"]}
    answered = [one for one in failed if one.call["status"] == 200]
    assert any(one.call["provider"] != one.attempts[0]["provider"] for one in answered)


@pytest.mark.alone
def test_a_usual_month_is_made_quickly(empty: Flask) -> None:
    begun = time.monotonic()
    assert "20000 calls" in flask(empty, "demo-data").output
    assert time.monotonic() - begun < SECONDS
