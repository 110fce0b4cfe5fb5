"""The ledger as a service: a call's money, also while its database goes away and comes back."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from flask import Flask
from sqlalchemy import text

from flaskllm.domain.call import CallContext
from flaskllm.domain.catalogue import Candidate, Endpoint, Model, Provider
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.pricing import Price
from flaskllm.domain.principal import Budget, Principal
from flaskllm.domain.usage import Usage
from flaskllm.errors import BudgetExceeded, ProviderError, ProviderTimeout, RateLimited, Unavailable
from flaskllm.extensions import db
from flaskllm.repositories import committer as committer_module
from flaskllm.repositories.committer import GroupCommitter
from flaskllm.repositories.database import Database, set_sqlite_pragmas
from flaskllm.repositories.ledger import apply
from flaskllm.services.attempts import Attempts
from flaskllm.services.books import CallBooks
from flaskllm.services.ledger import RELEASED, SETTLED, Attempt, Ledger, chat_bound
from flaskllm.services.metrics import Metrics
from flaskllm.services.usage import Outcome, UsageService
from tests.databases import fresh_tables

PRICE = Price(input=1_000_000, output=2_000_000)
MODEL = Model(id="m", provider_id="p", name="m", backend_model="m", price=PRICE, max_tokens=100)
CANDIDATE = Candidate(Provider(id="p", kind="demo"), MODEL, Endpoint("main", ""), None)
REQUEST = ChatRequest(model="m", messages=[{"role": "user", "content": "hello"}])
TOKEN = Budget("token:t", 1000, "month")


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    made = Flask(__name__)
    made.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path / 'test.db'}"
    db.init_app(made)
    with made.app_context():
        set_sqlite_pragmas(db.engine, journal_mode="WAL", synchronous="NORMAL")
        fresh_tables()
        yield made
        db.engine.dispose()


@pytest.fixture
def ledger(app: Flask) -> Iterator[Ledger]:
    committer = GroupCommitter(db.engine, apply)
    yield Ledger(committer.run, zone=ZoneInfo("UTC"), lease_s=0.2)
    committer.stop()


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    """While somebody else holds its only lock, the database is as good as gone."""
    monkeypatch.setattr(committer_module, "WAIT_SECONDS", 0.2)
    connection = sqlite3.connect(tmp_path / "test.db", isolation_level=None, check_same_thread=False)
    yield connection
    connection.close()


def call(*budgets: Budget, **more: Any) -> CallContext:
    principal = Principal("u", "u", token_id="t", budgets=budgets, **more)
    return CallContext(principal, "req-1", "test", deadline=time.monotonic() + 30)


def reserve(ledger: Ledger, *budgets: Budget, seconds: float = 30, request: ChatRequest = REQUEST) -> Attempt:
    bound = chat_bound(request, CANDIDATE, 10)
    return ledger.reserve(request, CANDIDATE, call(*budgets), number=1, seconds=seconds, bound=bound)


def rows(query: str) -> list[Any]:
    with db.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def books(ledger: Ledger, *budgets: Budget) -> CallBooks:
    usage = UsageService(Database(db.engine), Metrics(version="test"))
    return CallBooks(
        ledger,
        usage,
        request=REQUEST,
        call=call(*budgets),
        bound=lambda candidate: chat_bound(REQUEST, candidate, 10),
    )


BUDGETS = "SELECT spent, reserved FROM budgets"


def test_the_bound_is_held_and_what_was_taken_is_spent(ledger: Ledger) -> None:
    attempt = reserve(ledger, TOKEN)
    assert rows(BUDGETS) == [(0, 210)]
    assert ledger.settle(attempt, state=SETTLED, usage=Usage(input=10, output=5)) == 20
    assert rows(BUDGETS) == [(20, 0)]


def test_what_is_released_costs_nothing(ledger: Ledger) -> None:
    attempt = reserve(ledger, TOKEN)
    assert ledger.settle(attempt, state=RELEASED, usage=Usage()) == 0
    assert rows(BUDGETS) == [(0, 0)]
    assert rows("SELECT state, cost FROM attempts") == [("released", 0)]


def test_a_second_settlement_changes_nothing(ledger: Ledger) -> None:
    attempt = reserve(ledger, TOKEN)
    for _ in range(2):
        ledger.settle(attempt, state=SETTLED, usage=Usage(input=10, output=5))
    assert rows(BUDGETS) == [(20, 0)]


def test_a_budget_says_when_it_begins_anew(ledger: Ledger) -> None:
    for _ in range(4):
        reserve(ledger, TOKEN)
    with pytest.raises(BudgetExceeded) as caught:
        reserve(ledger, TOKEN)
    assert 0 < (caught.value.retry_after or 0) <= 31 * 86400
    assert not caught.value.retryable


def test_calls_in_flight_are_bounded_by_token(ledger: Ledger) -> None:
    asked = call(concurrency=1)
    bound = chat_bound(REQUEST, CANDIDATE, 1)
    attempt = ledger.reserve(REQUEST, CANDIDATE, asked, number=1, seconds=30, bound=bound)
    with pytest.raises(RateLimited):
        ledger.reserve(REQUEST, CANDIDATE, asked, number=1, seconds=30, bound=bound)
    ledger.settle(attempt, state=SETTLED, usage=Usage())
    ledger.reserve(REQUEST, CANDIDATE, asked, number=1, seconds=30, bound=bound)


def test_a_settlement_in_another_month_goes_to_the_month_that_holds_it(ledger: Ledger) -> None:
    attempt = reserve(ledger, TOKEN)
    with db.engine.begin() as connection:
        connection.execute(text("INSERT INTO budgets VALUES ('token:t', '2099-01', 0, 0)"))
    ledger.settle(attempt, state=SETTLED, usage=Usage(input=10, output=5))
    assert sorted(rows(BUDGETS)) == [(0, 0), (20, 0)]


def test_a_dead_processs_attempt_is_settled_at_its_bound_and_says_so(ledger: Ledger) -> None:
    attempt = reserve(ledger, TOKEN, seconds=0)
    assert ledger.reap() == 0
    time.sleep(0.25)
    assert ledger.reap() == 1
    assert rows(BUDGETS) == [(210, 0)]
    assert rows("SELECT state, cost, estimated FROM attempts") == [("interrupted", 210, 1)]
    assert rows("SELECT request_id, status, error_code, cost FROM calls") == [("req-1", 499, "interrupted", 210)]
    ledger.settle(attempt, state=SETTLED, usage=Usage(input=10, output=5), call=None)
    assert rows(BUDGETS) == [(210, 0)]


def test_with_the_database_away_nothing_is_reserved_and_nothing_stays_behind(
    ledger: Ledger, away: sqlite3.Connection
) -> None:
    reserve(ledger, TOKEN)
    away.execute("BEGIN IMMEDIATE")
    for _ in range(3):
        with pytest.raises(Unavailable) as caught:
            reserve(ledger, TOKEN)
        assert (caught.value.retry_after or 9) <= 2
    away.execute("ROLLBACK")
    wait_until_back(ledger)
    write_late(ledger)
    assert rows("SELECT count(*) FROM attempts WHERE state = 'reserved' AND holds != '[]'") == [(1,)]
    assert rows(BUDGETS) == [(0, 210)]


@pytest.mark.alone
def test_a_settlement_that_finds_the_database_away_is_done_when_it_is_back(
    ledger: Ledger, away: sqlite3.Connection
) -> None:
    attempts = [reserve(ledger, TOKEN) for _ in range(3)]
    away.execute("BEGIN IMMEDIATE")
    for attempt in attempts:
        ledger.settle(attempt, state=SETTLED, usage=Usage(input=10, output=5))
    began = time.monotonic()
    assert ledger.retry_late() == 3
    assert time.monotonic() - began < 0.5
    away.execute("ROLLBACK")
    write_late(ledger)
    assert rows(BUDGETS) == [(60, 0)]
    assert rows("SELECT DISTINCT state FROM attempts") == [("settled",)]


def wait_until_back(ledger: Ledger) -> None:
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            reserve(ledger)
        except Unavailable:
            time.sleep(0.05)
        else:
            return


@pytest.mark.parametrize(
    "failure, received, state, tokens",
    [
        (ProviderError("no answer", may_be_billed=False), None, "released", 0),
        (ProviderError("empty", may_be_billed=True), 0, "released", 0),
        (ProviderError("half", may_be_billed=True), 40, "settled", 10),
        (ProviderError("long", may_be_billed=True), 10**9, "settled", 100),
        (ProviderTimeout("nothing"), None, "settled", 100),
    ],
)
def test_what_a_failed_attempt_costs(
    ledger: Ledger, failure: ProviderError, received: int | None, state: str, tokens: int
) -> None:
    failure.received = received
    kept = books(ledger, TOKEN)
    attempts = Attempts([CANDIDATE], call())
    attempts.next()
    attempt = kept.reserve(CANDIDATE, 1)
    kept.close(attempt, attempts, usage=None, error=failure, status=502)
    assert rows("SELECT state, completion_tokens FROM attempts") == [(state, tokens)]


def test_the_bound_of_several_choices_is_all_of_theirs(ledger: Ledger) -> None:
    several = ChatRequest(model="m", messages=REQUEST.messages, params={"n": 3})
    attempt = reserve(ledger, TOKEN, request=several)
    assert (attempt.amount, attempt.most.output) == (610, 300)


def test_a_refusal_after_a_first_attempt_leaves_the_calls_row(ledger: Ledger) -> None:
    kept, attempts = books(ledger, TOKEN), Attempts([CANDIDATE], call())
    attempts.next()
    kept.pass_on(kept.reserve(CANDIDATE, 1), ProviderTimeout("hung"))
    for _ in range(3):
        reserve(ledger, TOKEN)
    with pytest.raises(BudgetExceeded) as caught:
        kept.reserve(CANDIDATE, 2)
    kept.close(None, attempts, usage=None, error=caught.value, status=429)
    assert rows("SELECT status, error_code, attempts, cost FROM calls") == [(429, "budget_exceeded", 1, 210)]


def test_an_attempt_that_was_paid_is_settled_with_the_reservation_of_the_next(ledger: Ledger) -> None:
    kept, attempts = books(ledger, TOKEN), Attempts([CANDIDATE], call())
    attempts.next()
    kept.pass_on(kept.reserve(CANDIDATE, 1), ProviderTimeout("hung"))
    assert rows("SELECT state FROM attempts") == [("reserved",)]
    second = kept.reserve(CANDIDATE, 2)
    assert rows("SELECT state, cost FROM attempts ORDER BY number") == [("settled", 210), ("reserved", None)]
    kept.close(second, attempts, usage=Usage(input=10, output=5))
    assert rows("SELECT cost FROM calls") == [(230,)]
    assert rows(BUDGETS) == [(230, 0)]


def test_a_paid_attempt_that_nobody_followed_is_settled_with_its_calls_row(ledger: Ledger) -> None:
    kept, attempts = books(ledger, TOKEN), Attempts([CANDIDATE], call())
    attempts.next()
    kept.pass_on(kept.reserve(CANDIDATE, 1), ProviderTimeout("hung"))
    kept.close(None, attempts, usage=None, error=ProviderTimeout("no time left"), status=504)
    assert rows("SELECT state, cost FROM attempts") == [("settled", 210)]
    assert rows("SELECT status, cost FROM calls") == [(504, 210)]
    assert rows(BUDGETS) == [(210, 0)]


def test_a_dead_processs_call_costs_what_its_earlier_attempts_cost_too(ledger: Ledger) -> None:
    earlier, attempts = books(ledger, TOKEN), Attempts([CANDIDATE], call())
    attempts.next()
    earlier.close(earlier.reserve(CANDIDATE, 1), attempts, usage=Usage(input=10, output=5))  # its id is used again
    time.sleep(0.002)
    kept = books(ledger, TOKEN)
    kept.pass_on(kept.reserve(CANDIDATE, 1), ProviderTimeout("hung"))
    time.sleep(0.002)  # ids grow by the millisecond
    kept.reserve(CANDIDATE, 2)
    with db.engine.begin() as connection:
        connection.execute(text("UPDATE attempts SET lease_until = 1 WHERE state = 'reserved'"))
    assert ledger.reap() == 1
    assert rows("SELECT error_code, cost FROM calls ORDER BY id") == [(None, 20), ("interrupted", 420)]
    assert rows(BUDGETS) == [(440, 0)]


def test_a_call_whose_second_reservation_finds_the_database_away_is_written_when_it_is_back(
    ledger: Ledger, away: sqlite3.Connection
) -> None:
    kept, attempts = books(ledger, TOKEN), Attempts([CANDIDATE], call())
    attempts.next()
    kept.pass_on(kept.reserve(CANDIDATE, 1), ProviderTimeout("hung"))
    away.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable) as caught:
        kept.reserve(CANDIDATE, 2)
    kept.close(None, attempts, usage=None, error=caught.value, status=503)
    away.execute("ROLLBACK")
    write_late(ledger)
    assert rows(BUDGETS) == [(210, 0)]
    assert rows("SELECT status, cost FROM calls") == [(503, 210)]
    assert rows("SELECT count(*) FROM attempts WHERE state = 'reserved'") == [(0,)]


def test_a_refused_calls_row_that_finds_the_database_away_is_written_once_when_it_is_back(
    ledger: Ledger, away: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer_module, "WAIT_SECONDS", 10)
    row = UsageService(Database(db.engine), Metrics(version="test")).row(
        REQUEST, call(), Outcome(CANDIDATE, Usage(), 5, 1, 504)
    )
    away.execute("BEGIN IMMEDIATE")
    ledger.record(row)
    away.execute("ROLLBACK")
    write_late(ledger)
    assert rows("SELECT cost FROM calls") == [(5,)]


def write_late(ledger: Ledger) -> None:
    until = time.monotonic() + 10
    while ledger.retry_late() and time.monotonic() < until:
        time.sleep(0.05)
