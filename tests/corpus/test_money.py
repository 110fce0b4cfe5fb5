"""Every case of ``money.json`` (budgets and rate limits under load, faults and clocks), by its id.

What such a case does stands here in code; its three assertions about money are `in_order`, asked after each.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from flask import Flask
from sqlalchemy import text
from werkzeug.test import TestResponse

from flaskllm.domain.call import CallContext
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.period import period_end, period_key
from flaskllm.extensions import db
from flaskllm.repositories.committer import GroupCommitter
from flaskllm.repositories.ledger import Hold, Reserve, Settle, apply, new_row_id, now_ms
from flaskllm.services.ledger import chat_bound
from tests.actors import Caller
from tests.conftest import MakeApp, provider_environment
from tests.doors.accounts_world import Person
from tests.services.test_limits import Valkey
from tests.upstream import Upstream, faults

CASES = {one["id"]: one for one in json.loads((Path(__file__).parent / "money.json").read_text(encoding="utf-8"))}
PLAYED: set[str] = set()
DOLLAR = 10**9
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
OVERLAY = """
models:
  costly:
    provider: openai
    model_name: gpt-4o
    max_tokens: 1000
    prices: [{unitOfMeasure: 1000000, currency: USD, token: {inputValue: 10, outputValue: 1000}}]
"""
"""A dollar for an answer of a thousand tokens, ten for a million tokens of prompt."""


def case(name: str) -> pytest.MarkDecorator:
    """The test plays this case; its id stands in the report."""
    PLAYED.add(name)
    return pytest.mark.parametrize("case", [pytest.param(CASES[name], id=name)])


@pytest.fixture
def gateway(make_app: MakeApp, upstream: Upstream, tmp_path: Path) -> Flask:
    """One with a model whose answers cost a dollar."""
    overlay = tmp_path / "models.yaml"
    overlay.write_text(OVERLAY)
    app = make_app(LLM_GATEWAY_CONFIG_PATH=str(overlay), **provider_environment(upstream, "openai"))
    app.test_cli_runner().invoke(args=["seed"])
    return app


def with_budget(app: Flask, dollars: float, period: str = "total") -> Caller:
    return Caller.on(app, name=f"{dollars} a {period}", budget={"amount": dollars, "period": period})


def ask(caller: Caller, path: str = "/v1/chat/completions", **more: Any) -> TestResponse:
    return caller.http.post(path, json={"model": "costly", "max_tokens": 1000, **CHAT, **more}, headers=caller.headers)


def query(app: Flask, words: str, **values: Any) -> list[Any]:
    with app.app_context(), db.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(words), values)]


def in_order(app: Flask, upstream: Upstream, *, cap: int | None = None) -> None:
    """``ledger.exact``, ``budget.overspend<=bound`` and ``upstream.calls==ledger.rows``; nothing stays reserved."""
    spent, reserved = query(app, "SELECT coalesce(sum(spent), 0), coalesce(sum(reserved), 0) FROM budgets")[0]
    ((costs, open_rows),) = query(
        app, "SELECT coalesce(sum(cost), 0), coalesce(sum(state = 'reserved'), 0) FROM attempts"
    )
    assert (spent, reserved, open_rows) == (costs, 0, 0)
    assert cap is None or spent <= cap
    assert len(query(app, "SELECT id FROM attempts")) == len(upstream.requests)


def at_once(count: int, work: Callable[[], TestResponse]) -> Counter[int]:
    with ThreadPoolExecutor(count) as pool:
        return Counter(answer.status_code for answer in pool.map(lambda _: work(), range(count)))


# -- budgets ----------------------------------------------------------------------------------------------------------


@case("BUDGET-002")
def test_the_first_calls_of_a_period_nobody_has_seen(case: Any, gateway: Flask, upstream: Upstream) -> None:
    upstream.script(faults.usage(input=0, output=1000) + faults.delay(0.2), vendor="openai")
    caller = with_budget(gateway, 4.1, "day")
    assert not query(gateway, "SELECT * FROM budgets WHERE id LIKE 'token:%'")
    found = at_once(case["input"]["concurrent"], lambda: ask(Caller(gateway.test_client(), caller.token)))
    assert found == {200: 4, 429: case["input"]["concurrent"] - 4}
    in_order(gateway, upstream, cap=4 * DOLLAR)


@case("BUDGET-003")
def test_without_max_tokens_the_models_most_is_held_and_sent_on(case: Any, gateway: Flask, upstream: Upstream) -> None:
    assert ask(with_budget(gateway, 0.9), max_tokens=None).status_code == 429
    assert not upstream.requests
    assert ask(with_budget(gateway, 1.1), max_tokens=None).status_code == 200
    (seen,) = upstream.requests
    assert seen.body.get("max_completion_tokens", seen.body.get("max_tokens")) == 1000
    in_order(gateway, upstream, cap=DOLLAR)


@case("BUDGET-004")
def test_a_long_prompt_is_part_of_what_is_held(case: Any, gateway: Flask, upstream: Upstream) -> None:
    """A megabyte is a quarter of a million tokens, 2.50 dollars; its answer a tenth of a cent."""
    words = [{"role": "user", "content": "word " * 200_000}]
    refused = ask(with_budget(gateway, 1), messages=words, max_tokens=1)
    assert (refused.status_code, refused.json["error"]["code"]) == (429, "budget_exceeded")
    in_order(gateway, upstream, cap=0)


@case("BUDGET-006")
def test_a_provider_that_bills_beyond_max_tokens(
    case: Any, gateway: Flask, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    """That call is paid, the next one refused, and the log has an error that says whose fault it is."""
    upstream.script(faults.usage(input=0, output=3000), vendor="openai")
    caller = with_budget(gateway, 2.5)
    assert ask(caller).status_code == 200
    assert ask(caller).status_code == 429
    (alarm,) = [one for one in caplog.records if one.levelname == "ERROR"]
    assert alarm.getMessage().startswith("a provider billed beyond max_tokens")
    assert alarm.fields | {"attempt": 0} == {
        "attempt": 0, "provider": "openai", "model": "openai/costly", "most": 1000, "completion_tokens": 3000,
    }  # fmt: skip
    in_order(gateway, upstream, cap=3 * DOLLAR)


@case("BUDGET-007")
def test_a_worker_that_dies_before_its_call(case: Any, gateway: Flask, upstream: Upstream) -> None:
    """What it held is let go when the lease ends: at the bound, since nobody knows whether the call went out."""
    caller, services = with_budget(gateway, 1.1), gateway.extensions["flaskllm"]
    request = ChatRequest(messages=CHAT["messages"], model="costly", params={"max_tokens": 1000})
    principal = services.tokens.identify(caller.token)
    candidate = services.router.plan(request, principal).candidates[0]
    call = CallContext(principal, "dead", "test", deadline=time.monotonic())
    bound = chat_bound(request, candidate, 0)
    services.ledger.reserve(request, candidate, call, number=1, seconds=-3600, bound=bound)
    assert query(gateway, "SELECT sum(reserved) FROM budgets WHERE id LIKE 'token:%'") == [(DOLLAR,)]
    assert services.ledger.reap() == 1
    assert query(gateway, "SELECT state, cost, estimated FROM attempts") == [("interrupted", DOLLAR, True)]
    assert query(gateway, "SELECT sum(reserved), sum(spent) FROM budgets WHERE id LIKE 'token:%'") == [(0, DOLLAR)]
    assert ask(caller).status_code == 429
    assert services.ledger.reap() == 0
    assert not upstream.requests


@case("BUDGET-010")
def test_a_database_that_cannot_be_written(case: Any, gateway: Flask, upstream: Upstream) -> None:
    caller = with_budget(gateway, 4)
    with gateway.app_context():
        address = db.engine.url.database
    blocker = sqlite3.connect(str(address), isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    try:
        refused = ask(caller)
    finally:
        blocker.execute("ROLLBACK")
        blocker.close()
    assert (refused.status_code, refused.json["error"]["code"]) == (503, "unavailable")
    assert int(refused.headers["Retry-After"]) >= 1
    in_order(gateway, upstream, cap=0)


@case("BUDGET-012")
def test_a_price_that_changes_while_a_call_runs(case: Any, gateway: Flask, upstream: Upstream) -> None:
    upstream.script(faults.usage(input=0, output=1000) + faults.delay(1), vendor="openai")
    root = Person(gateway, "root", admin=True)
    caller = with_budget(gateway, 100)
    first = threading.Thread(target=lambda: ask(Caller(gateway.test_client(), caller.token)))
    first.start()
    until = time.monotonic() + 10
    while not upstream.requests and time.monotonic() < until:
        time.sleep(0.01)
    prices = [{"unitOfMeasure": 1000000, "currency": "USD", "token": {"inputValue": 10, "outputValue": 2000}}]
    assert root.call("PUT", "/providers/openai/models/costly", {"prices": prices}).status_code == 200
    assert ask(caller).status_code == 200
    first.join(10)
    costs = query(gateway, "SELECT cost FROM attempts ORDER BY started_at")
    assert costs == [(DOLLAR,), (2 * DOLLAR,)]
    in_order(gateway, upstream, cap=3 * DOLLAR)


def hours(zone: tzinfo, first: datetime, last: datetime) -> Sequence[datetime]:
    count = int((last - first).total_seconds() // 3600)
    return [(first + timedelta(hours=number)).astimezone(zone) for number in range(count)]


@case("BUDGET-013")
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York"])
def test_turns_of_day_month_and_clocks(case: Any, zone: str) -> None:
    """Over two years of hours, a leap day and four changes of clocks among them: each period once, each in its turn,
    and the end of one is the beginning of the next."""
    moments = hours(ZoneInfo(zone), datetime(2027, 12, 1, tzinfo=UTC), datetime(2029, 12, 1, tzinfo=UTC))
    for period in ("day", "week", "month"):
        keys = [period_key(period, at) for at in moments]
        turns = [(at, key) for at, key, before in zip(moments[1:], keys[1:], keys, strict=False) if key != before]
        assert len({key for _, key in turns}) == len(turns)
        for (begun, key), (following, after) in pairwise(turns):
            end = period_end(period, begun)
            assert end is not None
            assert end.timestamp() <= following.timestamp() < end.timestamp() + 3600
            assert period_key(period, end) == after != key
    assert "2028-02-29" in {period_key("day", at) for at in moments}


@case("BUDGET-016")
def test_tiny_costs_are_summed_without_drift(case: Any, gateway: Flask) -> None:
    """A tenth of a millionth of a dollar ten million times is one dollar; the last two thousand are settled here."""
    tiny, count, here = 100, 10_000_000, 2000
    budget = Hold("token:tiny", "total", DOLLAR)
    with gateway.app_context():
        committer = GroupCommitter(db.engine, apply)
        first = _reserve((count - here) * tiny, budget)
        assert committer.run(first) is None
        assert committer.run(_settle(first, first.amount))
        with ThreadPoolExecutor(32) as pool:
            made = list(pool.map(lambda _: _spend(committer, tiny, budget), range(here)))
        assert made == [None] * here
        assert committer.run(_reserve(1, budget)) == budget
        committer.stop()
    assert query(gateway, "SELECT spent, reserved FROM budgets WHERE id = 'token:tiny'") == [(DOLLAR, 0)]
    assert query(gateway, "SELECT sum(cost) FROM attempts") == [(DOLLAR,)]


def _spend(committer: GroupCommitter, amount: int, budget: Hold) -> Any:
    one = _reserve(amount, budget)
    lacking = committer.run(one)
    return lacking if lacking is not None or committer.run(_settle(one, amount)) else "settled already"


def _reserve(amount: int, budget: Hold) -> Reserve:
    row = {
        "id": new_row_id(), "request_id": "r", "number": 1, "user_id": "u", "token_id": None, "door": "test",
        "model": "m", "backend_model": "b", "provider": "p", "endpoint": "", "price_version": "", "reserved": amount,
        "priced": True, "holds": "[]", "no": False, "started_at": now_ms(), "lease_until": now_ms() + 60_000,
        "tags": None,
    }  # fmt: skip
    return Reserve(row, amount, (budget,))


def _settle(one: Reserve, spent: int) -> Settle:
    values = {
        "id": one.row["id"], "state": "settled", "cost": spent, "prompt_tokens": 1, "completion_tokens": 1,
        "usage": "{}", "estimated": False, "error_code": None, "settled_at": now_ms(),
    }  # fmt: skip
    return Settle(values, one.amount, spent, one.holds)


# -- rate limits ------------------------------------------------------------------------------------------------------


def limited(app: Flask, per_minute: int) -> Caller:
    return Caller.on(app, requests_per_minute=per_minute)


def statuses(answers: Sequence[TestResponse]) -> list[int]:
    """Of all of them; ``count.status:5xx==0``."""
    found = [answer.status_code for answer in answers]
    assert max(found) < 500
    return found


@case("RATELIMIT-004")
def test_spellings_of_a_path_have_one_counter(case: Any, app: Flask) -> None:
    caller = limited(app, 5)
    paths = ["/v1/chat/completions", "/v1/chat/completions?a=1", "/v1/chat/completions?b=2&x", "/v1//chat/completions",
             "/V1/chat/completions", "/v1/chat/completions/"]  # fmt: skip
    found = [(path, ask(caller, path, model=None).status_code) for _ in range(4) for path in paths]
    assert {status for _, status in found} <= {200, 404, 429}
    assert sum(status == 200 for _, status in found) == 5
    assert {status for path, status in found[12:] if path.startswith("/v1/chat/completions?")} == {429}


@case("RATELIMIT-005")
def test_four_carriers_of_one_token_have_one_counter(case: Any, app: Flask) -> None:
    caller = limited(app, 4)
    carriers = [{"Authorization": f"Bearer {caller.token}"}] + [
        {name: caller.token} for name in ("X-API-Token", "api-key", "x-api-key")
    ]
    answers = [app.test_client().post("/v1/chat/completions", json=CHAT, headers=each) for each in carriers * 2]
    assert statuses(answers) == [200] * 4 + [429] * 4
    left = [answer.headers["x-ratelimit-remaining-requests"] for answer in answers[:4]]
    assert left == ["3", "2", "1", "0"]


@case("RATELIMIT-007")
def test_with_redis_away_the_limit_holds_to_the_number(case: Any, make_app: MakeApp, tmp_path: Path) -> None:
    """Counted in SQL, where every process sees it: not a share of the limit each, and never without limit."""
    app = make_app(REDIS_URL=f"unix://{tmp_path / 'nobody.sock'}")
    caller = limited(app, 10)
    found = at_once(30, lambda: ask(Caller(app.test_client(), caller.token), model=None))
    assert found == {200: 10, 429: 20}


@case("RATELIMIT-008")
def test_a_redis_that_is_wiped_costs_one_window_more_at_the_most(case: Any, make_app: MakeApp, tmp_path: Path) -> None:
    valkey = Valkey(tmp_path)
    try:
        caller = limited(make_app(REDIS_URL=f"unix://{valkey.path}"), 3)
        before = statuses([ask(caller, model=None) for _ in range(5)])
        client = valkey.client()
        client.flushall()
        client.close()
        after = statuses([ask(caller, model=None) for _ in range(5)])
    finally:
        valkey.kill()
    assert before == after == [200] * 3 + [429] * 2


@case("RATELIMIT-009")
def test_a_clock_that_is_set_back_an_hour_locks_nobody_out(case: Any, app: Flask) -> None:
    """To the counter's rows it is the same whether the clock goes back or they lie ahead. One window begins anew."""
    caller = limited(app, 3)
    assert statuses([ask(caller, model=None) for _ in range(4)]) == [200] * 3 + [429]
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(text("UPDATE counters SET expires_at = expires_at + 3600000"))
    answers = [ask(caller, model=None) for _ in range(5)]
    assert statuses(answers) == [200] * 3 + [429] * 2
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60


@case("RATELIMIT-010")
def test_headers_are_never_negative_and_a_wait_never_nothing(case: Any, app: Flask) -> None:
    caller = limited(app, 2)
    answers = [ask(caller, model=None) for _ in range(5)]
    assert statuses(answers) == [200] * 2 + [429] * 3
    assert [int(answer.headers["x-ratelimit-remaining-requests"]) for answer in answers] == [1, 0, 0, 0, 0]
    assert all(answer.headers["x-ratelimit-limit-requests"] == "2" for answer in answers)
    assert all(0 < float(answer.headers["x-ratelimit-reset-requests"][:-1]) <= 60 for answer in answers)
    assert all(1 <= int(answer.headers["Retry-After"]) <= 60 for answer in answers[2:])


def test_every_case_is_played() -> None:
    assert set(CASES) == PLAYED
