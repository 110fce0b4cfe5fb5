"""The store of answers on SQLite and PostgreSQL: one of many claims a name, leases end, answers expire."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import create_engine, func, select

from flaskllm.domain.answer import KeptAnswer
from flaskllm.models.answer import AnswerRow
from flaskllm.repositories.answers import AnswerStore, Claim, Found
from flaskllm.repositories.database import Database, set_sqlite_pragmas
from tests.databases import database_addresses

AT_ONCE = 16
ANSWER = KeptAnswer(200, {"Content-Type": "application/json"}, b'{"text": "\xc3\xa9\x00"}')


@pytest.fixture(params=database_addresses())
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    engine = create_engine(request.param(tmp_path), pool_size=AT_ONCE)
    if engine.dialect.name == "sqlite":
        set_sqlite_pragmas(engine, journal_mode="WAL", synchronous="NORMAL")
    AnswerRow.__table__.drop(engine, checkfirst=True)
    AnswerRow.__table__.create(engine)
    yield Database(engine)
    engine.dispose()


@pytest.fixture
def store(database: Database) -> AnswerStore:
    return AnswerStore(database)


def claim(
    store: AnswerStore, name: str = "a", question: str = "q", *, lease_s: float = 60, kept_s: float = 60
) -> Claim | Found:
    return store.claim(name, question, lease_s=lease_s, kept_s=kept_s)


def taken(store: AnswerStore, name: str = "a", question: str = "q", **times: float) -> Claim:
    got = claim(store, name, question, **times)
    assert isinstance(got, Claim)
    return got


def at_once(work: Callable[[], object]) -> list[object]:
    barrier = Barrier(AT_ONCE)

    def one(_: int) -> object:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, range(AT_ONCE)))


def test_of_many_at_once_one_has_the_claim(store: AnswerStore) -> None:
    got = at_once(lambda: claim(store))
    assert sorted(type(each).__name__ for each in got) == ["Claim"] + ["Found"] * (AT_ONCE - 1)
    assert {each for each in got if isinstance(each, Found)} == {Found("q", None)}


def test_of_many_who_find_a_dead_lease_one_has_the_claim(store: AnswerStore) -> None:
    taken(store, lease_s=-1)
    got = at_once(lambda: claim(store))
    assert sum(isinstance(each, Claim) for each in got) == 1


def test_what_was_kept_is_found_as_it_was(store: AnswerStore) -> None:
    assert store.keep(taken(store), ANSWER)
    assert claim(store) == Found("q", ANSWER)
    assert claim(store, question="another") == Found("q", ANSWER)


def test_what_was_given_up_is_free(store: AnswerStore) -> None:
    store.give_up(taken(store))
    taken(store, question="another")


def test_an_answer_is_not_given_up(store: AnswerStore) -> None:
    held = taken(store)
    store.keep(held, ANSWER)
    store.give_up(held)
    assert claim(store) == Found("q", ANSWER)


def test_a_dead_lease_is_taken_over_for_the_same_question_only(store: AnswerStore) -> None:
    dead = taken(store, lease_s=-1)
    assert claim(store, question="another") == Found("q", None)
    heir = taken(store)
    assert not store.keep(dead, KeptAnswer(200, {}, b"late"))
    store.give_up(dead)
    assert store.keep(heir, ANSWER)
    assert claim(store) == Found("q", ANSWER)


@pytest.mark.alone
def test_a_lease_that_is_renewed_is_not_over(store: AnswerStore) -> None:
    held = taken(store, lease_s=0.05)
    store.renew([held], lease_s=60)
    time.sleep(0.1)
    assert claim(store) == Found("q", None)


def test_what_has_expired_is_free_and_swept(store: AnswerStore, database: Database) -> None:
    store.keep(taken(store, kept_s=-1), ANSWER)
    store.keep(taken(store, "b"), ANSWER)
    store.keep(taken(store, "c", kept_s=-1), ANSWER)
    taken(store, question="another")
    assert store.sweep() == 1
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(AnswerRow)) == 2
    assert claim(store, "b") == Found("q", ANSWER)
