"""``/quotas``: what binds a user, a model, a tag and everybody; and who is told when money runs out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from flask import Flask
from sqlalchemy import text
from werkzeug.test import TestResponse

from flaskllm.extensions import db
from flaskllm.wire import quotas as wire
from tests.actors import Caller, access_token, story_of
from tests.conftest import MakeApp, provider_environment
from tests.receivers import SECRET, Receiver, receiving
from tests.upstream import Upstream, faults

CHEAP, DEAR = 0.000001, 100.0
SMALL = {"model": "gpt-4o", "max_tokens": 100}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def app(make_app: MakeApp, upstream: Upstream, receiver: Receiver) -> Flask:
    environment = provider_environment(upstream, "openai", "llama")
    return make_app(ALERT_WEBHOOK_URL=receiver.address, WEBHOOK_SECRET=SECRET, **environment)


@pytest.fixture
def admin(app: Flask) -> Caller:
    return Caller(app.test_client(), access_token(app, "boss", admin=True))


def put(admin: Caller, subject: str, *, status: int | None = None, **quota: Any) -> TestResponse:
    response = admin.http.put(f"/quotas/{subject}", json=quota, headers=admin.headers)
    assert response.status_code in ((200, 201) if status is None else (status,)), response.get_data(as_text=True)
    return response


def hard(amount: float, period: str = "month", **more: Any) -> dict[str, Any]:
    return {"amount": amount, "period": period, **more}


def rows(app: Flask, query: str) -> list[Any]:
    with app.app_context(), db.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def test_a_quota_is_set_read_listed_and_deleted(admin: Caller) -> None:
    made = put(admin, "tag:sales", status=201, budgets=[hard(5), hard(1.5, "day", kind="soft", alert_at=0.5)]).json
    jsonschema.validate(made, wire.QUOTA_SHOWN)
    assert [(one["amount"], one["period"], one["kind"], one["alert_at"]) for one in made["budgets"]] == [
        (5, "month", "hard", None),
        (1.5, "day", "soft", 0.5),
    ]
    assert put(admin, "tag:sales", status=200, budgets=[hard(7)]).json["budgets"][0]["amount"] == 7
    assert admin.get("/quotas/tag:sales").json["subject"] == "tag:sales"
    put(admin, "model:openai/gpt-4o", requests_per_minute=3)
    listed = admin.get("/quotas?limit=1").json
    assert [one["subject"] for one in listed["data"]] == ["model:openai/gpt-4o"]
    assert [one["subject"] for one in admin.get(f"/quotas?after={listed['next']}").json["data"]] == ["tag:sales"]
    assert admin.http.delete("/quotas/tag:sales", headers=admin.headers).status_code == 204
    admin.get("/quotas/tag:sales", status=404)
    actions = [(entry["action"], entry["target"]) for entry in admin.get("/audit").json["data"]]
    assert {("quota.create", "quota:tag:sales"), ("quota.update", "quota:tag:sales")} <= set(actions)
    assert ("quota.delete", "quota:tag:sales") in actions


@pytest.mark.parametrize(
    "subject, body, field",
    [
        ("everybody", {}, "subject"),
        ("tag:", {}, "subject"),
        (f"tag:{'x' * 65}", {}, "subject"),
        ("model:openai/none-such", {}, "subject"),
        ("tag:a", {"requests_per_minute": 1}, "requests_per_minute"),
        ("model:openai/gpt-4o", {"budgets": []}, "budgets"),
        ("installation", {"concurrency": 1}, "concurrency"),
        ("installation", {"budgets": [{"amount": 1}]}, "budgets[0].period"),
        ("installation", {"budgets": [hard(-1)]}, "budgets[0].amount"),
        ("installation", {"budgets": [hard(1, "year")]}, "budgets[0].period"),
        ("installation", {"budgets": [hard(1), hard(2)]}, "budgets[1].period"),
        ("installation", {"budgets": [hard(1, kind="medium")]}, "budgets[0].kind"),
        ("installation", {"budgets": [hard(1, alert_at=1.5)]}, "budgets[0].alert_at"),
        ("installation", {"budgets": "all"}, "budgets"),
        ("installation", {"limit": 1}, "limit"),
        ("model:openai/gpt-4o", {"requests_per_minute": 0}, "requests_per_minute"),
        ("model:openai/gpt-4o", {"tokens_per_minute": True}, "tokens_per_minute"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_kept(admin: Caller, subject: str, body: Any, field: str) -> None:
    refused = put(admin, subject, status=400, **body).json["error"]
    assert field in [detail["field"] for detail in refused["details"]]
    assert admin.get("/quotas").json["data"] == []


def test_a_user_that_there_is_not_is_a_404_and_callers_are_no_administrators(app: Flask, admin: Caller) -> None:
    put(admin, "user:nobody", status=404, concurrency=1)
    caller = Caller.on(app)
    for method in ("get", "put", "delete"):
        assert getattr(caller.http, method)("/quotas/installation", headers=caller.headers).status_code == 403


@pytest.mark.parametrize("subject", ["installation", "tag:sales", "user"])
def test_a_spent_budget_refuses_whoever_falls_under_it(app: Flask, admin: Caller, subject: str) -> None:
    caller = Caller.on(app, tags=["sales", "north"])
    if subject == "user":
        subject = f"user:{rows(app, 'SELECT user_id FROM api_tokens')[0][0]}"
    caller.chat(**SMALL)
    put(admin, subject, budgets=[hard(CHEAP)])
    refused = caller.chat(**SMALL, status=429)
    assert refused.headers["X-FlaskLLM-Error"] == "budget_exceeded"
    assert refused.headers["x-should-retry"] == "false"
    assert int(refused.headers["Retry-After"]) > 0
    put(admin, subject, budgets=[hard(DEAR)])
    caller.chat(**SMALL)
    stand = admin.get(f"/quotas/{subject}").json["budgets"][0]
    assert 0 < stand["spent"] < 1
    assert stand["reserved"] == 0


def test_another_tag_is_not_concerned(app: Flask, admin: Caller) -> None:
    put(admin, "tag:sales", budgets=[hard(CHEAP)])
    Caller.on(app, name="north", tags=["north"]).chat(**SMALL)
    Caller.on(app, name="none").chat(**SMALL)


def test_a_soft_budget_refuses_nothing_and_is_told_once_signed(
    app: Flask, admin: Caller, receiver: Receiver, upstream: Upstream
) -> None:
    put(admin, "installation", budgets=[hard(CHEAP, kind="soft")])
    caller = Caller.on(app)
    for _ in range(3):
        caller.chat(**SMALL)
    receiver.answers = [500]
    for _ in range(3):
        deliver(app)
        make_due(app)
    first, second = receiver.got
    assert (first.id, first.body) == (second.id, second.body), "refused once, then taken"
    told = first.event
    assert (told["type"], told["data"]["subject"]) == ("budget.reached", "installation")
    assert told["data"]["spent"] >= told["data"]["alert"] == told["data"]["amount"] == CHEAP
    assert second.event == told
    assert admin.get("/quotas/installation").json["budgets"][0]["alerted_at"] is not None


def test_a_hard_budget_tells_that_it_is_nearly_spent_and_that_it_refused(
    app: Flask, admin: Caller, receiver: Receiver
) -> None:
    put(admin, "tag:sales", budgets=[hard(DEAR, alert_at=0.0)])
    caller = Caller.on(app, tags=["sales"])
    caller.chat(**SMALL)
    put(admin, "tag:sales", budgets=[hard(CHEAP, alert_at=0.9)])
    for _ in range(2):
        caller.chat(**SMALL, status=429)
    deliver(app)
    assert sorted(one.event["type"] for one in receiver.got) == ["budget.exhausted", "budget.reached"]


def test_without_an_address_alerts_stand_in_the_log(make_app: MakeApp, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app()
    admin = Caller(app.test_client(), access_token(app, "boss", admin=True))
    put(admin, "installation", budgets=[hard(DEAR, alert_at=0.0)])
    Caller.on(app).chat()
    for _ in range(2):
        deliver(app)
        make_due(app)
    assert [record.getMessage() for record in caplog.records].count("budget_alert") == 1


def deliver(app: Flask) -> None:
    app.extensions["flaskllm"].outbox.deliver()
    app.extensions["flaskllm"].outbox.wait(10)


def make_due(app: Flask) -> None:
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(text("UPDATE outbox SET next_at = 0 WHERE next_at IS NOT NULL"))


def test_a_users_limit_holds_over_all_tokens_and_sessions(app: Flask, admin: Caller) -> None:
    first, second = Caller.on(app, name="one"), Caller.on(app, name="two")
    user_id = rows(app, "SELECT user_id FROM api_tokens")[0][0]
    put(admin, f"user:{user_id}", requests_per_minute=3)
    assert first.chat(**SMALL).headers["x-ratelimit-remaining-requests"] == "2"
    assert second.chat(**SMALL).headers["x-ratelimit-remaining-requests"] == "1"
    first.chat(**SMALL)
    refused = second.chat(**SMALL, status=429)
    assert refused.headers["x-ratelimit-limit-requests"] == "3"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert int(refused.headers["Retry-After"]) >= 1


def test_what_one_limit_refuses_takes_nothing_from_another(app: Flask, admin: Caller) -> None:
    caller = Caller.on(app, name="one", requests_per_minute=10, tokens_per_minute=100_000)
    user_id = rows(app, "SELECT user_id FROM api_tokens")[0][0]
    put(admin, f"user:{user_id}", requests_per_minute=2)
    for _ in range(2):
        caller.chat(**SMALL)
    for _ in range(5):
        caller.chat(**SMALL, status=429)
    admin.http.delete(f"/quotas/user:{user_id}", headers=admin.headers)
    assert caller.chat(**SMALL).headers["x-ratelimit-remaining-requests"] == "7"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("second", ["model", "budget", "in flight"])
def test_what_a_later_limit_refuses_stays_counted_in_none_before_it(
    app: Flask, admin: Caller, upstream: Upstream, second: str, stream: bool
) -> None:
    caller = Caller.on(app, name="one", requests_per_minute=10, tokens_per_minute=100_000)
    ask: dict[str, Any] = {**SMALL, "model": "openai/gpt-4o", "stream": stream}
    if second == "model":
        put(admin, "model:openai/gpt-4o", requests_per_minute=1)
        caller.chat(**ask).get_data()
    elif second == "budget":
        put(admin, "installation", budgets=[hard(0.000001)])
    else:
        put(admin, "model:openai/gpt-4o", concurrency=1, requests_per_minute=10)
        upstream.script(faults.text("one two three") + faults.gap(2, 1), vendor="openai", times=1)
        body = {**ask, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        open_one = caller.http.post("/v1/chat/completions", json=body, headers=caller.headers)
    taken = 0 if second == "budget" else 1
    for _ in range(12):
        refused = caller.chat(**ask, status=429)
        assert refused.headers["x-ratelimit-remaining-requests"] == str(10 - taken)
        assert refused.headers["x-ratelimit-limit-tokens"] == "100000"
    if second == "in flight":
        assert rows(app, "SELECT value FROM counters WHERE name = 'rpm:model:openai/gpt-4o'") == [(1,)]
        open_one.get_data()


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_is_full_is_passed_over_or_told(
    app: Flask, admin: Caller, upstream: Upstream, stream: bool
) -> None:
    caller = Caller.on(app)
    put(admin, "model:openai/gpt-4o", requests_per_minute=1)
    ask: dict[str, Any] = {**SMALL, "model": "openai/gpt-4o", "stream": stream}
    caller.chat(**ask).get_data()
    refused = caller.chat(**ask, status=429)
    assert refused.headers["X-FlaskLLM-Error"] == "rate_limited"
    assert int(refused.headers["Retry-After"]) >= 1
    assert story_of(refused.headers)[0][2] == "full;unsent"
    targets = [{"model": "openai/gpt-4o"}, {"model": "llama/llama-7b-instruct"}]
    assert (
        admin.http.post("/routes", json={"name": "both", "targets": targets}, headers=admin.headers).status_code == 201
    )
    answered = caller.chat(**{**ask, "model": "both"})
    assert answered.headers["X-FlaskLLM-Provider"] == "llama"
    answered.get_data()


def test_a_models_tokens_are_counted_by_what_was_taken(app: Flask, admin: Caller, upstream: Upstream) -> None:
    caller = Caller.on(app)
    put(admin, "model:openai/gpt-4o", tokens_per_minute=1000)
    upstream.script(faults.usage(input=700, output=300), vendor="openai", times=1)
    caller.chat(**{**SMALL, "model": "openai/gpt-4o"})
    caller.chat(**{**SMALL, "model": "openai/gpt-4o"}, status=429)


@pytest.mark.parametrize("whose", ["user", "model"])
def test_calls_in_flight_are_bound(app: Flask, admin: Caller, upstream: Upstream, whose: str) -> None:
    caller, other = Caller.on(app, name="one"), Caller.on(app, name="two")
    user_id = rows(app, "SELECT user_id FROM api_tokens")[0][0]
    put(admin, f"user:{user_id}" if whose == "user" else "model:openai/gpt-4o", concurrency=1)
    upstream.script(faults.text("one two three") + faults.gap(2, 1), vendor="openai", times=1)
    ask = {**SMALL, "model": "openai/gpt-4o"}
    open_one = caller.http.post(
        "/v1/chat/completions",
        json={**ask, "stream": True, "messages": [{"role": "user", "content": "hi"}]},
        headers=caller.headers,
    )
    assert other.chat(**ask, status=429).headers["X-FlaskLLM-Error"] == "rate_limited"
    open_one.get_data()
    wait_until_settled(app)
    other.chat(**ask)


def wait_until_settled(app: Flask) -> None:
    until = time.monotonic() + 5
    while time.monotonic() < until and rows(app, "SELECT 1 FROM attempts WHERE state = 'reserved'"):
        time.sleep(0.02)


def test_nothing_stays_reserved(app: Flask, admin: Caller, upstream: Upstream) -> None:
    put(admin, "installation", budgets=[hard(DEAR), hard(DEAR, "day", kind="soft")])
    caller = Caller.on(app, tags=["sales"])
    upstream.script(faults.status(500), vendor="openai", times=2)
    caller.chat(**SMALL, status=502)
    caller.chat(**SMALL)
    assert rows(app, "SELECT sum(reserved) FROM budgets") == [(0,)]
    assert len({spent for _, spent in rows(app, "SELECT id, spent FROM budgets WHERE id LIKE 'quota:%'")}) == 1


def test_an_alert_url_without_a_secret_stops_the_start(make_app: MakeApp, receiver: Receiver) -> None:
    with pytest.raises(Exception, match="WEBHOOK_SECRET"):
        make_app(ALERT_WEBHOOK_URL=receiver.address)
