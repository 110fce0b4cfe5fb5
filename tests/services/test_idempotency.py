"""Idempotency keys without HTTP: leases that are renewed, answers that are too large, a database that goes away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, select, update

from flaskllm.domain.answer import KeptAnswer
from flaskllm.domain.principal import Principal
from flaskllm.errors import Conflict, IdempotencyConflict, StillRunning, Unavailable
from flaskllm.models.answer import AnswerRow
from flaskllm.models.types import now
from flaskllm.repositories.answers import AnswerStore, Claim
from flaskllm.repositories.database import Database
from flaskllm.services.idempotency import LEASE_S, LEASE_UNRENEWED_S, Idempotency

ANA = Principal("ana", "ana")
ANSWER = KeptAnswer(200, {}, b"0123456789")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = create_engine(f"sqlite:///{tmp_path}/test.db")
    AnswerRow.__table__.create(made)
    yield made
    made.dispose()


def service(engine: Engine, **more: Any) -> Idempotency:
    return Idempotency(AnswerStore(Database(engine)), **{"threads": True, **more})


def begin(service: Idempotency, key: str = "k", body: Any = None, place: str = "/v1/x") -> Claim | KeptAnswer:
    return service.begin(ANA, key, place=place, body=body or {"a": 1})


def claimed(service: Idempotency, **more: Any) -> Claim:
    got = begin(service, **more)
    assert isinstance(got, Claim)
    return got


def lease_left(engine: Engine) -> float:
    with Database(engine).reading() as session:
        return (session.scalars(select(AnswerRow.lease_ends)).one() - now()).total_seconds()


def age_the_lease(engine: Engine) -> None:
    with Database(engine).transaction() as session:
        session.execute(update(AnswerRow).values(lease_ends=now()))


def test_the_place_is_part_of_the_question(engine: Engine) -> None:
    service_ = service(engine)
    service_.keep(claimed(service_), ANSWER)
    assert begin(service_) == ANSWER
    with pytest.raises(IdempotencyConflict):
        begin(service_, place="/v1/y")


@pytest.mark.parametrize("one, other", [({"a": 1}, {"a": "1"}), ({"a": 1}, {"a": True}), ({"a": 1}, {"a": 1.5})])
def test_values_of_another_type_are_another_question(engine: Engine, one: Any, other: Any) -> None:
    service_ = service(engine)
    service_.keep(claimed(service_, body=one), ANSWER)
    with pytest.raises(IdempotencyConflict):
        begin(service_, body=other)


def test_a_number_beyond_64_bits_is_a_question_too(engine: Engine) -> None:
    assert isinstance(begin(service(engine), body={"seed": 2**100, "text": "\ud83d\ude00"}), Claim)


def test_what_runs_is_renewed_and_what_is_over_is_not(engine: Engine) -> None:
    service_ = service(engine)
    held = claimed(service_)
    age_the_lease(engine)
    service_.renew()
    assert LEASE_S - 5 < lease_left(engine) <= LEASE_S
    with pytest.raises(StillRunning):
        begin(service_)
    service_.keep(held, ANSWER)
    age_the_lease(engine)
    service_.renew()
    assert lease_left(engine) <= 0


def test_a_process_that_died_renews_nothing(engine: Engine) -> None:
    claimed(service(engine))
    age_the_lease(engine)
    other = service(engine)
    other.renew()
    assert isinstance(begin(other), Claim)


def test_without_threads_a_lease_outlives_every_call(engine: Engine) -> None:
    claimed(service(engine, threads=False))
    assert LEASE_UNRENEWED_S - 5 < lease_left(engine) <= LEASE_UNRENEWED_S


def test_an_answer_too_large_is_told_of_and_not_given_again(engine: Engine) -> None:
    fits, too_large = service(engine, largest=10), service(engine, largest=9)
    fits.keep(claimed(fits, key="fits"), ANSWER)
    assert begin(fits, "fits") == ANSWER
    too_large.keep(claimed(too_large), ANSWER)
    with pytest.raises(Conflict, match="too large"):
        begin(too_large)


def test_without_a_database_no_work_is_begun_and_none_is_lost(engine: Engine) -> None:
    service_ = service(engine)
    one, other = claimed(service_, key="one"), claimed(service_, key="other")
    AnswerRow.__table__.drop(engine)
    service_.keep(one, ANSWER)
    service_.give_up(other)
    with pytest.raises(Unavailable):
        begin(service_)
