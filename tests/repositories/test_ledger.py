"""The ledger's statements: what is held is never more than the cap, and what is settled is settled once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from flaskllm.errors import Unavailable
from flaskllm.extensions import db
from flaskllm.repositories.committer import GroupCommitter
from flaskllm.repositories.ledger import Count, Expired, Hold, InFlight, Reserve, Settle, apply, new_row_id, now_ms
from tests.databases import database_addresses, fresh_tables

TOKEN, USER = Hold("token:t", "2026-11", 40), Hold("user:u", "2026-11", 1000)


@pytest.fixture(params=database_addresses())
def committer(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[GroupCommitter]:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = request.param(tmp_path)
    db.init_app(app)
    with app.app_context():
        fresh_tables()
        made = GroupCommitter(db.engine, apply)
        yield made
        made.stop()
        db.engine.dispose()


def reserve(amount: int = 10, *holds: Hold, in_flight: InFlight | None = None, lease: int = 60_000) -> Reserve:
    row = {
        "id": new_row_id(), "request_id": "r", "number": 1, "user_id": "u", "token_id": "t", "door": "test",
        "model": "m", "backend_model": "b", "provider": "p", "endpoint": "", "price_version": "", "reserved": amount,
        "priced": True, "holds": "[]", "no": False, "started_at": now_ms(), "lease_until": now_ms() + lease,
        "tags": None,
    }  # fmt: skip
    return Reserve(row, amount, holds, (in_flight,) if in_flight else ())


def settle(reserved: Reserve, spent: int) -> Settle:
    values = {
        "id": reserved.row["id"], "state": "settled", "cost": spent, "prompt_tokens": 1, "completion_tokens": 1,
        "usage": "{}", "estimated": False, "error_code": None, "settled_at": now_ms(),
    }  # fmt: skip
    return Settle(values, reserved.amount, spent, reserved.holds)


def budgets() -> dict[str, tuple[int, int]]:
    with db.engine.connect() as connection:
        return {row.id: (row.spent, row.reserved) for row in connection.execute(text("SELECT * FROM budgets"))}


def at_once(count: int, work: Any) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_of_200_calls_at_once_on_a_budget_for_4_exactly_4_are_admitted(committer: GroupCommitter) -> None:
    admitted: list[Reserve] = []

    def ask() -> None:
        one = reserve(10, TOKEN, USER)
        if committer.run(one) is None:
            admitted.append(one)

    at_once(200, ask)
    assert len(admitted) == 4
    assert budgets() == {"token:t": (0, 40), "user:u": (0, 40)}


def test_what_was_reserved_is_given_back_and_what_was_spent_stays(committer: GroupCommitter) -> None:
    one = reserve(10, TOKEN, USER)
    committer.run(one)
    assert committer.run(settle(one, 7)) is True
    assert budgets() == {"token:t": (7, 0), "user:u": (7, 0)}


def test_a_second_settlement_moves_nothing(committer: GroupCommitter) -> None:
    one = reserve(10, TOKEN)
    committer.run(one)
    committer.run(settle(one, 7))
    assert committer.run(settle(one, 7)) is False
    assert budgets() == {"token:t": (7, 0)}


def test_a_refused_reservation_leaves_no_row_and_no_hold_in_any_budget_of_the_chain(committer: GroupCommitter) -> None:
    refused = committer.run(reserve(41, USER, TOKEN))
    assert refused == TOKEN
    assert budgets() == {"token:t": (0, 0), "user:u": (0, 0)}
    assert committer.run(Expired(now_ms() + 10**9)) == []


@pytest.mark.parametrize("bound", [InFlight("token", "t", 3), InFlight("user", "u", 3), InFlight("model", "p/b", 3)])
def test_nobody_has_more_calls_in_flight_than_he_may(committer: GroupCommitter, bound: InFlight) -> None:
    results: list[Any] = []
    at_once(20, lambda: results.append(committer.run(reserve(0, in_flight=bound))))
    assert results.count(None) == 3
    assert results.count(bound) == 17


def test_what_is_told_of_a_budget_is_written_once_with_the_spending(committer: GroupCommitter) -> None:
    hold = Hold("quota:tag:x", "2026-11", 1000, amount=1000, alert=100)
    for spent in (60, 60, 60):
        asked = reserve(80, hold)
        assert committer.run(asked) is None
        committer.run(settle(asked, spent))
    for _ in range(2):
        assert committer.run(reserve(5000, hold)) == hold
    with db.engine.connect() as connection:
        found = connection.execute(text("SELECT event, spent FROM alerts ORDER BY event")).all()
    assert [tuple(row) for row in found] == [("budget.exhausted", 180), ("budget.reached", 120)]


def test_a_counter_gives_each_of_100_callers_its_own_number(committer: GroupCommitter) -> None:
    seen: list[int] = []
    at_once(100, lambda: seen.append(committer.run(Count("rpm", 1, 60_000))[0]))
    assert sorted(seen) == list(range(1, 101))


def test_a_window_that_has_ended_begins_again_at_the_next_hit(committer: GroupCommitter) -> None:
    committer.run(Count("rpm", 5, -1))
    assert committer.run(Count("rpm", 1, 60_000))[0] == 1


def test_a_poisoned_operation_does_not_fail_its_neighbours(committer: GroupCommitter) -> None:
    poisoned = reserve(0)
    poisoned.row["model"] = None
    outcomes: list[str] = []

    def run(operation: Reserve) -> None:
        try:
            committer.run(operation)
            outcomes.append("in")
        except Unavailable:
            outcomes.append("out")

    work = iter([poisoned, *(reserve(0) for _ in range(9))])
    at_once(10, lambda: run(next(work)))
    assert sorted(outcomes) == ["in"] * 9 + ["out"]


def test_only_what_is_past_its_lease_is_handed_to_the_reaper(committer: GroupCommitter) -> None:
    late = reserve(10, TOKEN, lease=-1)
    committer.run(late)
    committer.run(reserve(10, TOKEN))
    assert [row["id"] for row in committer.run(Expired(now_ms()))] == [late.row["id"]]


def test_who_was_refused_in_a_transaction_that_failed_and_admitted_in_its_own_is_told_so(
    committer: GroupCommitter,
) -> None:
    """Together there is no room for the second; a poisoned neighbour undoes both; alone there is room."""
    poisoned, second = reserve(30, TOKEN), reserve(30, TOKEN)
    poisoned.row["model"] = None
    committer.run(reserve(0))
    connection = committer._connected()
    connection.begin()
    with pytest.raises(Exception, match="model"):
        apply(connection, [poisoned, second])
    connection.rollback()
    assert second.result == TOKEN
    assert committer.run(second) is None
    assert budgets() == {"token:t": (0, 30)}


def test_a_reservation_that_was_committed_unheard_is_found_and_held_once(committer: GroupCommitter) -> None:
    one = reserve(10, TOKEN)
    committer.run(one)
    one.look()
    assert committer.run(one) is None
    assert budgets() == {"token:t": (0, 10)}


def test_a_group_in_which_the_reaper_was_first_with_one_moves_the_others_money(committer: GroupCommitter) -> None:
    ones = [reserve(10, TOKEN) for _ in range(3)]
    for one in ones:
        committer.run(one)
    committer.run(settle(ones[1], 10))
    results: list[bool] = []
    waiting = iter(ones)
    at_once(3, lambda: results.append(committer.run(settle(next(waiting), 7))))
    assert sorted(results) == [False, True, True]
    assert budgets() == {"token:t": (24, 0)}


def test_absurd_costs_stay_within_64_bits(committer: GroupCommitter) -> None:
    wide = Hold("token:wide", "2026-11", 2**62)
    for _ in range(3):
        one = reserve(10, wide)
        if committer.run(one) is None:
            committer.run(settle(one, 2**62))
    results: list[Any] = []
    at_once(5, lambda: results.append(committer.run(reserve(2**62, wide))))
    assert budgets() == {"token:wide": (2**62, 0)}
    assert results == [wide] * 5


def test_a_clock_that_was_set_back_locks_nobody_out(committer: GroupCommitter, monkeypatch: pytest.MonkeyPatch) -> None:
    committer.run(Count("rpm", 5, 60_000))
    monkeypatch.setattr("flaskllm.repositories.ledger.now_ms", lambda: now_ms() - 3_600_000)
    assert committer.run(Count("rpm", 1, 60_000))[0] == 1
    assert committer.run(Count("rpm", 1, 60_000))[0] == 2


def test_a_window_may_be_of_another_process_whose_clock_is_a_little_ahead(
    committer: GroupCommitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    committer.run(Count("rpm", 5, 60_000))
    monkeypatch.setattr("flaskllm.repositories.ledger.now_ms", lambda: now_ms() - 5_000)
    assert committer.run(Count("rpm", 1, 60_000))[0] == 6
