"""The engine of batches: accepted whole, claimed under leases, each item with exactly one result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from sqlalchemy import text

from flaskllm.domain.api_token import TokenFields
from flaskllm.domain.audit import SYSTEM
from flaskllm.domain.batch import Ended, NewItem, Submission, question_to_json
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.principal import Principal
from flaskllm.errors import Conflict, NotFound
from flaskllm.extensions import db
from flaskllm.repositories.batches import CHUNK, GiveBack, Reap, Renew, Store, Take
from flaskllm.repositories.ledger import now_ms
from flaskllm.services import Services
from flaskllm.services.batch_worker import Bounds
from flaskllm.services.batches import SAME_MS, WRITTEN_AT_ONCE
from flaskllm.wire.batches import write_job
from tests.conftest import MakeApp, provider_environment
from tests.databases import database_addresses, fresh_tables
from tests.receivers import SECRET
from tests.upstream import Upstream, faults


def asked(words: str, **params: Any) -> NewItem:
    request = ChatRequest(None, [{"role": "user", "content": words}], params=params)
    return NewItem(question_to_json(request, whole=False))


SUBMISSION = Submission(kind="chat", door="batch", scope="batch")


@pytest.fixture(params=database_addresses())
def here(request: Any, make_app: MakeApp, upstream: Upstream, tmp_path: Any) -> Iterator[Flask]:
    environment = {**provider_environment(upstream, "openai"), "WEBHOOK_SECRET": SECRET}
    app = make_app(**environment, DATABASE_URL=request.param(tmp_path))
    with app.app_context():
        fresh_tables()
        from flaskllm.wiring import seeder

        seeder(app).run()
        yield app
        db.session.remove()


@pytest.fixture
def hall(here: Flask) -> Services:
    found: Services = here.extensions["flaskllm"]
    return found


@pytest.fixture
def caller(hall: Services) -> Principal:
    document: TokenFields = {"scopes": ["batch", "chat"]}  # type: ignore[typeddict-item]
    _, token = hall.tokens.issue_for_service(name="t", document=document)
    return hall.tokens.identify(token)


def rows(query: str, **values: Any) -> list[tuple[Any, ...]]:
    with db.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query), values)]


def run(hall: Services, operation: Any) -> Any:
    return hall.ledger._run(operation)


def test_every_item_is_answered_once_in_order_and_paid(hall: Services, caller: Principal, upstream: Upstream) -> None:
    job = hall.batches.submit(caller, SUBMISSION, (asked(f"number {n}") for n in range(40)))
    assert (job.status, job.total, job.eta(0)) == ("queued", 40, None)
    assert hall.batch_worker.work(Bounds()) == 40
    job = hall.batches.get(caller, job.id)
    assert (job.status, job.completed, job.failed) == ("completed", 40, 0)
    items = list(hall.batches.all_items(job))
    assert [item.index for item in items] == list(range(40))
    assert all(item.result and item.result.text and item.result.prompt_tokens for item in items)
    assert len(upstream.requests) == 40
    ((attempts, spent),) = rows("SELECT count(*), sum(cost) FROM attempts WHERE state = 'settled'")
    assert attempts == 40
    assert job.cost == spent == sum(item.result.cost for item in items)  # type: ignore[union-attr,misc]


def test_a_dead_workers_items_are_free_again_and_its_late_result_is_refused(hall: Services, caller: Principal) -> None:
    job = hall.batches.submit(caller, SUBMISSION, [asked("one")])
    (held,) = run(hall, Take("a worker that stops", 5, -1))
    assert run(hall, Take("another", 5, 1000)) == []
    assert run(hall, Reap()) == (1, 0)
    (again,) = run(hall, Take("another", 5, 60_000, tries=1))
    assert (again.index, again.fence, again.tries) == (0, held.fence + 1, 1)
    assert run(hall, Store(job.id, 0, held.fence, Ended("completed", text="too late"))) is False
    assert run(hall, Store(job.id, 0, again.fence, Ended("completed", text="in time"))) is True
    assert run(hall, Store(job.id, 0, again.fence, Ended("completed", text="twice"))) is False
    (item,) = hall.batches.items(job)
    assert item.result is not None
    assert item.result.text == "in time"
    assert hall.batches.get(caller, job.id).completed == 1


def test_what_a_worker_no_longer_holds_is_freed_while_it_works_on(hall: Services, caller: Principal) -> None:
    """Its result could not be stored, or the answer to its claim was lost: renewing the others does not keep it."""
    hall.batches.submit(caller, SUBMISSION, [asked("kept"), asked("let go")])
    kept, let_go = run(hall, Take("w", 2, -1))
    assert run(hall, Renew([kept], 60_000)) == 1
    assert run(hall, Reap()) == (1, 0)
    assert rows("SELECT idx, state, tries FROM batch_items ORDER BY idx") == [(0, "claimed", 0), (1, "open", 1)]
    (again,) = run(hall, Take("another", 2, 60_000, tries=1))
    assert run(hall, Renew([let_go, again, kept], 60_000)) == 2, "an old fence renews nothing"


def test_one_submission_at_two_tries_is_one_job(hall: Services, caller: Principal) -> None:
    """The process of the first died before it could answer, or it stood still in the middle."""
    same = str(uuid4())

    def stands_still() -> Iterator[NewItem]:
        yield asked("one")
        assert hall.batches.submit(caller, SUBMISSION, [asked("one"), asked("two")], job_id=same).total == 2
        yield asked("two")

    with pytest.raises(Conflict):
        hall.batches.submit(caller, SUBMISSION, stands_still(), job_id=same)
    again = hall.batches.submit(caller, SUBMISSION, [asked("one"), asked("two")], job_id=same)
    assert (again.id, again.total) == (same, 2)
    assert rows("SELECT count(*) FROM batch_jobs") == [(1,)]
    assert rows("SELECT count(*) FROM batch_items") == [(2,)]


def test_what_broke_off_is_sent_again_from_its_beginning(hall: Services, caller: Principal) -> None:
    same = str(uuid4())

    def breaks() -> Iterator[NewItem]:
        yield from (asked(str(n)) for n in range(WRITTEN_AT_ONCE))
        raise RuntimeError("the process is gone")

    with pytest.raises(RuntimeError):
        hall.batches.submit(caller, SUBMISSION, breaks(), job_id=same)
    assert rows("SELECT count(*) FROM batch_items") == [(WRITTEN_AT_ONCE,)]
    job = hall.batches.submit(caller, SUBMISSION, [asked("one")], job_id=same)
    assert (job.id, job.total) == (same, 1)
    assert rows("SELECT count(*) FROM batch_items") == [(1,)]


def test_a_day_later_the_same_key_is_another_submission(hall: Services, caller: Principal) -> None:
    first = hall.batches.submit(caller, SUBMISSION, [asked("one")], job_id=str(uuid4()))
    with db.engine.begin() as connection:
        connection.execute(text("UPDATE batch_jobs SET created_at = :at"), {"at": now_ms() - SAME_MS - 1000})
    second = hall.batches.submit(caller, SUBMISSION, [asked("one")], job_id=first.id)
    assert second.id != first.id
    assert rows("SELECT count(*) FROM batch_jobs") == [(2,)]


def test_of_two_reapers_one_frees(hall: Services, caller: Principal) -> None:
    hall.batches.submit(caller, SUBMISSION, [asked("one")])
    run(hall, Take("a worker that dies", 5, -1))
    assert [run(hall, Reap()), run(hall, Reap())] == [(1, 0), (0, 0)]


def test_no_more_than_max_concurrency_are_in_hand_over_all_workers(hall: Services, caller: Principal) -> None:
    hall.batches.submit(caller, replace(SUBMISSION, max_concurrency=3), [asked(str(n)) for n in range(9)])
    held = run(hall, Take("one", 2, 60_000)) + run(hall, Take("two", 9, 60_000)) + run(hall, Take("three", 9, 60_000))
    assert [item.index for item in held] == [0, 1, 2]
    run(hall, GiveBack(held[:1]))
    assert [item.index for item in run(hall, Take("three", 9, 60_000))] == [0]


def test_a_result_and_what_takes_its_place_are_one_transaction(hall: Services, caller: Principal) -> None:
    job = hall.batches.submit(caller, replace(SUBMISSION, max_concurrency=2), [asked(str(n)) for n in range(5)])
    held = run(hall, Take("one", 9, 60_000))
    stored = Store(job.id, 0, held[0].fence, Ended("completed"), Take("one", 1, 60_000))
    assert run(hall, stored) is True
    assert stored.then is not None
    assert [item.index for item in stored.then.result] == [2]
    late = Store(job.id, 1, held[1].fence + 1, Ended("completed"), Take("one", 1, 60_000))
    assert run(hall, late) is False
    assert late.then is not None
    assert late.then.result == [], "what is refused makes no room"
    assert run(hall, Take("two", 9, 60_000)) == []


def test_users_take_turns_and_the_urgent_goes_first(hall: Services, caller: Principal) -> None:
    other = replace(caller, user_id="somebody else")
    many = [asked(str(n)) for n in range(40)]
    first, second = hall.batches.submit(caller, SUBMISSION, many), hall.batches.submit(caller, SUBMISSION, many)
    theirs = hall.batches.submit(other, SUBMISSION, many)
    turns = [run(hall, Take("w", 2, 60_000))[0].job.id for _ in range(4)]
    assert [turns.count(theirs.id), turns.count(first.id) + turns.count(second.id)] == [2, 2]
    urgent = hall.batches.submit(caller, replace(SUBMISSION, priority=10), many)
    assert run(hall, Take("w", 2, 60_000))[0].job.id == urgent.id


def test_a_revoked_tokens_items_fail_and_say_so(hall: Services, caller: Principal, upstream: Upstream) -> None:
    job = hall.batches.submit(caller, SUBMISSION, [asked("one"), asked("two")])
    hall.tokens.revoke_any(caller.token_id or "")
    hall.batch_worker.work(Bounds())
    job = hall.batches.get(caller, job.id)
    assert (job.status, job.failed) == ("failed", 2)
    assert {item.result.error_code for item in hall.batches.items(job) if item.result} == {"token_revoked"}
    assert not upstream.requests


def test_rate_limited_items_wait_and_do_not_fail(hall: Services, upstream: Upstream) -> None:
    document: Any = {"scopes": ["batch"], "requests_per_minute": 3}
    _, token = hall.tokens.issue_for_service(name="slow", document=document)
    caller = hall.tokens.identify(token)
    job = hall.batches.submit(caller, replace(SUBMISSION, max_concurrency=2), [asked(str(n)) for n in range(8)])
    hall.batch_worker.work(Bounds(seconds=20))  # it ends by itself, once nothing may be asked
    job = hall.batches.get(caller, job.id)
    assert (job.status, job.completed, job.failed) == ("running", 3, 0)
    ((wait,),) = rows("SELECT resumes_at FROM batch_jobs")
    assert wait > now_ms() + 20_000, "nobody looks again before the minute is over"


def test_a_spent_budget_fails_the_item_with_that_code(hall: Services, upstream: Upstream) -> None:
    document: Any = {"scopes": ["batch"], "budget": {"amount": 0, "period": "day"}}
    _, token = hall.tokens.issue_for_service(name="poor", document=document)
    caller = hall.tokens.identify(token)
    job = hall.batches.submit(caller, SUBMISSION, [asked("one")])
    hall.batch_worker.work(Bounds())
    (item,) = hall.batches.items(hall.batches.get(caller, job.id))
    assert item.result is not None
    assert item.result.error_code == "budget_exceeded"
    assert not upstream.requests


def test_a_quota_holds_for_items_too(hall: Services, caller: Principal) -> None:
    budgets = [{"amount": 0, "period": "day"}]
    hall.quotas.put("installation", {"budgets": budgets}, SYSTEM)  # type: ignore[typeddict-item]
    job = hall.batches.submit(caller, SUBMISSION, [asked("one")])
    hall.batch_worker.work(Bounds())
    (item,) = hall.batches.items(job)
    assert item.result is not None
    assert item.result.error_code == "budget_exceeded"


def test_failed_items_and_only_they_are_asked_again(hall: Services, caller: Principal, upstream: Upstream) -> None:
    upstream.script(faults.status(400), vendor="openai", times=1)
    job = hall.batches.submit(caller, replace(SUBMISSION, max_concurrency=1), [asked(str(n)) for n in range(4)])
    hall.batch_worker.work(Bounds())
    job = hall.batches.get(caller, job.id)
    assert (job.status, job.completed, job.failed) == ("completed", 3, 1)
    asked_before = len(upstream.requests)
    job = hall.batches.retry(caller, job.id)
    assert (job.status, job.failed, job.finished_at) == ("queued", 0, None)
    with pytest.raises(Conflict):
        hall.batches.retry(caller, job.id)
    hall.batch_worker.work(Bounds())
    job = hall.batches.get(caller, job.id)
    assert (job.status, job.completed, job.failed) == ("completed", 4, 0)
    assert len(upstream.requests) == asked_before + 1


def test_a_cancelled_job_asks_no_more_and_keeps_what_it_has(hall: Services, caller: Principal) -> None:
    job = hall.batches.submit(caller, SUBMISSION, [asked(str(n)) for n in range(5)])
    (held,) = run(hall, Take("w", 1, 60_000))
    job = hall.batches.cancel(caller, job.id)
    assert (job.status, job.cancelled) == ("cancelling", 4)
    assert run(hall, Take("w", 9, 60_000)) == []
    run(hall, Store(job.id, held.index, held.fence, Ended("completed", text="was in flight")))
    job = hall.batches.get(caller, job.id)
    assert (job.status, job.completed, job.cancelled) == ("cancelled", 1, 4)
    with pytest.raises(Conflict):
        hall.batches.cancel(caller, job.id)


def test_a_cancelled_job_stays_one_when_what_had_failed_is_asked_again(hall: Services, caller: Principal) -> None:
    job = hall.batches.submit(caller, SUBMISSION, [asked("one"), asked("two"), asked("three")])
    (held,) = run(hall, Take("w", 1, 60_000))
    run(hall, Store(job.id, held.index, held.fence, Ended("failed", error_code="invalid_request")))
    assert hall.batches.cancel(caller, job.id).status == "cancelled"
    assert hall.batches.retry(caller, job.id).status == "queued"
    assert hall.batch_worker.work(Bounds()) == 1
    job = hall.batches.get(caller, job.id)
    assert (job.status, job.completed, job.failed, job.cancelled) == ("cancelled", 1, 0, 2)


def test_what_is_not_asked_in_its_time_expires(hall: Services, caller: Principal) -> None:
    job = hall.batches.submit(caller, SUBMISSION, [asked(str(n)) for n in range(3)])
    with db.engine.begin() as connection:
        connection.execute(text("UPDATE batch_jobs SET expires_at = 1"))
    assert run(hall, Take("w", 9, 60_000)) == []
    hall.batches.reap()
    job = hall.batches.get(caller, job.id)
    assert (job.status, job.failed) == ("expired", 3)
    assert {item.result.error_code for item in hall.batches.items(job) if item.result} == {"expired"}


def test_old_jobs_and_broken_submissions_are_forgotten(hall: Services, caller: Principal) -> None:
    job = hall.batches.submit(caller, SUBMISSION, [asked("one")])
    hall.batch_worker.work(Bounds())

    def breaks() -> Iterator[NewItem]:
        yield asked("two")
        raise RuntimeError("the caller is gone")

    with pytest.raises(RuntimeError):
        hall.batches.submit(caller, SUBMISSION, breaks())
    assert len(hall.batches.list(caller, "batch", limit=10)[0]) == 1, "what is not whole is not seen"
    with db.engine.begin() as connection:
        connection.execute(text("UPDATE batch_jobs SET created_at = 1, finished_at = 1 WHERE finished_at IS NOT NULL"))
        connection.execute(text("UPDATE batch_jobs SET created_at = 1 WHERE finished_at IS NULL"))
    hall.batches.sweep()
    assert rows("SELECT count(*) FROM batch_jobs") == rows("SELECT count(*) FROM batch_items") == [(0,)]
    with pytest.raises(NotFound):
        hall.batches.get(caller, job.id)


WANTS_WORD = replace(SUBMISSION, callback_url="http://127.0.0.1:8000/told")


@pytest.mark.parametrize("ending", ["completed", "failed", "cancelled", "expired"])
def test_the_end_of_a_job_is_told_once(hall: Services, caller: Principal, upstream: Upstream, ending: str) -> None:
    if ending == "failed":
        upstream.script(faults.status(400), vendor="openai")
    job = hall.batches.submit(caller, WANTS_WORD, [asked(f"number {n}") for n in range(3)])
    if ending == "cancelled":
        hall.batches.cancel(caller, job.id)
    if ending == "expired":
        with db.engine.begin() as connection:
            connection.execute(text("UPDATE batch_jobs SET expires_at = 1"))
    assert rows("SELECT 1 FROM outbox") == ([(1,)] if ending == "cancelled" else [])
    hall.batch_worker.work(Bounds())
    hall.batches.reap()
    ((url, lane, body),) = rows("SELECT url, lane, body FROM outbox")
    assert (url, lane) == (WANTS_WORD.callback_url, caller.user_id)
    told, job = json.loads(body), hall.batches.get(caller, job.id)
    assert job.status == ending
    assert told["type"] == f"batch.{ending}"
    assert told["data"] == write_job(job, 0)
    assert told["timestamp"] == told["data"]["finished_at"]
    assert "number 1" not in body, "nothing that was asked"


def test_a_job_that_ends_again_is_told_again(hall: Services, caller: Principal, upstream: Upstream) -> None:
    upstream.script(faults.status(400), vendor="openai", times=1)
    submission = replace(WANTS_WORD, max_concurrency=1)
    job = hall.batches.submit(caller, submission, [asked("one"), asked("two")])
    hall.batch_worker.work(Bounds())
    hall.batches.retry(caller, job.id)
    hall.batch_worker.work(Bounds())
    found = rows("SELECT id, body FROM outbox")
    assert len({name for name, _ in found}) == 2
    failed = sorted(json.loads(body)["data"]["progress"]["failed"] for _, body in found)
    assert failed == [0, 1]


def test_who_wants_no_word_gets_none(hall: Services, caller: Principal) -> None:
    hall.batches.submit(caller, SUBMISSION, [asked("one")])
    hall.batch_worker.work(Bounds())
    assert rows("SELECT 1 FROM outbox") == []


def test_counts_of_a_job_are_the_sums_of_its_items(hall: Services, caller: Principal, upstream: Upstream) -> None:
    upstream.script(faults.status(400), vendor="openai", times=2)
    hall.batches.submit(caller, SUBMISSION, [asked(str(n)) for n in range(12)])
    hall.batch_worker.work(Bounds())
    counted = rows("SELECT completed, failed, cancelled, prompt_tokens, completion_tokens, cost FROM batch_jobs")
    of = "sum(CASE WHEN state = '{}' THEN 1 ELSE 0 END)"
    sums = ", ".join(of.format(state) for state in ("completed", "failed", "cancelled"))
    tokens = "sum(prompt_tokens), sum(completion_tokens), sum(cost)"
    assert [tuple(map(int, row)) for row in rows(f"SELECT {sums}, {tokens} FROM batch_items")] == counted


def test_an_administrator_stops_anybodys_job_and_has_failed_items_asked_again(
    hall: Services, caller: Principal
) -> None:
    failed = Ended("failed", error_code="provider_error", error_message="The provider broke off.")
    items = [replace(asked(str(place)), ended=failed) for place in range(CHUNK)] + [asked("open")]
    job = hall.batches.submit(caller, SUBMISSION, items)
    assert [owned.job.id for owned in hall.batch_desk.list(limit=5, states=("queued",))[0]] == [job.id]
    before = hall.audit.list(limit=1)[0][0].number
    assert hall.batch_desk.cancel(job.id, actor=SYSTEM).job.status == "cancelled"
    again = hall.batch_desk.retry(job.id, actor=SYSTEM).job
    assert (again.status, again.failed, again.cancelled) == ("queued", 0, 1)
    told, _ = hall.audit.list(limit=5)
    assert [row.action for row in told if row.number > before] == ["batch.retry", "batch.cancel"]
    assert hall.audit.verify().is_sound
    assert len(run(hall, Take("w", 5, 60_000))) == 5
