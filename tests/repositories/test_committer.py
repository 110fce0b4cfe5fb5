"""Grouped commits when things go wrong: callers never sleep for ever, and nothing is written that was refused."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine

from flaskllm.errors import RateLimited, Unavailable
from flaskllm.repositories import committer as committer_module
from flaskllm.repositories.committer import Connection, GroupCommitter
from flaskllm.repositories.database import set_sqlite_pragmas
from tests.clock import quickest
from tests.databases import database_addresses

CREATE = "CREATE TABLE lines (id INTEGER PRIMARY KEY, word VARCHAR(20))"


@dataclass
class Line:
    """One line to be written."""

    id: int
    word: str = "hello"
    result: Any = None
    tries: int = 0
    looks: int = 0

    def renew(self) -> None:
        self.tries += 1

    def look(self) -> None:
        self.looks += 1


def write(connection: Connection, operations: Sequence[Line]) -> None:
    for one in operations:
        if one.word == "poison":
            raise ValueError("poison")
        if one.word == "fatal":
            raise SystemExit(3)
        if one.looks and connection.execute("SELECT 1 FROM lines WHERE id = :id", {"id": one.id}).fetchone():
            continue
        connection.execute("INSERT INTO lines (id, word) VALUES (:id, :word)", {"id": one.id, "word": one.word})
        one.result = "written"


@pytest.fixture(params=database_addresses())
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    made = create_engine(request.param(tmp_path))
    yield from _with_table(made)


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[Engine]:
    made = create_engine(f"sqlite:///{tmp_path / 'test.db'}")
    set_sqlite_pragmas(made, journal_mode="WAL", synchronous="NORMAL")
    yield from _with_table(made)


def _with_table(engine: Engine) -> Iterator[Engine]:
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS lines")
        connection.exec_driver_sql(CREATE)
    yield engine
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE lines")
    engine.dispose()


@pytest.fixture
def made(engine: Engine) -> Iterator[GroupCommitter]:
    committer = GroupCommitter(engine, write)
    yield committer
    committer.stop()


def ids(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return [row[0] for row in connection.exec_driver_sql("SELECT id FROM lines ORDER BY id")]


def outcomes_of(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What each of so many threads was given, in order; its exception where it got one."""
    found: list[Any] = [None] * count

    def run(number: int) -> None:
        try:
            found[number] = work(number)
        except Exception as error:  # noqa: BLE001  (whatever it was given)
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_callers_at_once_share_a_commit_and_each_gets_its_own_result(made: GroupCommitter, engine: Engine) -> None:
    assert outcomes_of(50, lambda number: made.run(Line(number))) == ["written"] * 50
    assert ids(engine) == list(range(50))


def test_a_poisoned_one_is_told_and_its_neighbours_are_written(made: GroupCommitter, engine: Engine) -> None:
    words = ["poison" if number == 3 else "hello" for number in range(10)]
    found = outcomes_of(10, lambda number: made.run(Line(number, words[number])))
    assert isinstance(found.pop(3), Unavailable)
    assert found == ["written"] * 9
    assert 3 not in ids(engine)


def test_its_own_refusal_reaches_its_caller_as_it_is(engine: Engine) -> None:
    def refuse(_connection: Connection, _operations: Sequence[Line]) -> None:
        raise RateLimited("too many")

    committer = GroupCommitter(engine, refuse)
    with pytest.raises(RateLimited):
        committer.run(Line(1))
    committer.stop()


def test_a_writer_that_meets_its_end_wakes_its_callers_and_has_a_successor(
    made: GroupCommitter, engine: Engine
) -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable):
        made.run(Line(1, "fatal"))
    assert time.monotonic() - began < committer_module.WAIT_SECONDS / 2
    assert made.run(Line(2)) == "written"
    assert ids(engine) == [2]


def test_a_connection_that_died_while_idle_is_made_anew_and_nobody_notices(
    made: GroupCommitter, engine: Engine
) -> None:
    made.run(Line(1))
    assert made._connection is not None
    made._connection.raw.close()
    assert made.run(Line(2)) == "written"
    assert ids(engine) == [1, 2]


def test_a_commit_whose_outcome_is_unknown_is_looked_for_and_not_done_twice(
    made: GroupCommitter, engine: Engine
) -> None:
    """The connection breaks after the database has committed and before it said so."""
    made.run(Line(1))
    assert made._connection is not None
    commit = made._connection.commit

    def commit_unheard() -> None:
        commit()
        raise ConnectionResetError

    made._connection.commit = commit_unheard  # type: ignore[method-assign]
    line = Line(2)
    made.run(line)
    assert (line.looks, line.tries) == (1, 0)
    assert ids(engine) == [1, 2]


@pytest.mark.alone
def test_a_locked_database_is_told_once_for_all_who_wait(sqlite_engine: Engine) -> None:
    committer = GroupCommitter(sqlite_engine, write)
    committer.run(Line(0))
    with locked(sqlite_engine):
        began = time.monotonic()
        found = outcomes_of(20, lambda number: committer.run(Line(number + 1)))
        assert all(isinstance(one, Unavailable) for one in found)
        assert time.monotonic() - began < 6
    assert committer.run(Line(99)) == "written"
    committer.stop()


@pytest.mark.alone
def test_who_comes_while_the_others_find_no_database_is_told_with_them(sqlite_engine: Engine) -> None:
    """And does not wait for the lock all over again."""
    committer, ended = GroupCommitter(sqlite_engine, write), {}
    committer.run(Line(0))

    def run(number: int) -> None:
        with pytest.raises(Unavailable):
            committer.run(Line(number))
        ended[number] = time.monotonic()

    with locked(sqlite_engine):
        threads = [threading.Thread(target=run, args=(number,)) for number in (1, 2)]
        threads[0].start()
        time.sleep(0.5)
        threads[1].start()
        for thread in threads:
            thread.join()
    assert abs(ended[2] - ended[1]) < 1
    committer.stop()


@pytest.mark.alone
def test_what_its_caller_has_given_up_is_not_written_later(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reservation whose caller was told 503 would hold money for a call that never goes out."""
    monkeypatch.setattr(committer_module, "WAIT_SECONDS", 0.3)
    committer = GroupCommitter(sqlite_engine, write)
    committer.run(Line(0))
    with locked(sqlite_engine):
        first = threading.Thread(target=outcomes_of, args=(1, lambda _: committer.run(Line(1))))
        first.start()
        time.sleep(0.1)
        assert isinstance(outcomes_of(1, lambda _: committer.run(Line(2)))[0], Unavailable)
        first.join()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and isinstance(outcomes_of(1, lambda _: committer.run(Line(3)))[0], Unavailable):
        time.sleep(0.05)
    assert 2 not in ids(sqlite_engine)
    assert 3 in ids(sqlite_engine)
    committer.stop()


@pytest.mark.alone
def test_behind_a_database_that_hangs_nobody_queues_up(sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer_module, "WAIT_SECONDS", 0.3)
    committer = GroupCommitter(sqlite_engine, write)
    committer.run(Line(0))
    with locked(sqlite_engine):
        outcomes_of(1, lambda _: committer.run(Line(1)))
        time.sleep(0.1)
        refused: list[object] = []
        assert quickest(lambda: refused.extend(outcomes_of(1, lambda _: committer.run(Line(2))))) < 0.1
        assert all(isinstance(one, Unavailable) for one in refused)
    committer.stop()


def test_stopping_lets_those_who_wait_be_written(made: GroupCommitter, engine: Engine) -> None:
    def run(number: int) -> Any:
        if number == 10:
            return made.stop()
        return made.run(Line(number))

    found = outcomes_of(20, run)
    assert found.count("written") == 19
    assert len(ids(engine)) == 19


def test_without_threads_it_commits_at_once(engine: Engine) -> None:
    committer = GroupCommitter(engine, write, threads=False)
    before = threading.active_count()
    assert committer.run(Line(1)) == "written"
    assert threading.active_count() == before
    committer.stop()


class locked:  # noqa: N801  (reads as a word where it is used)
    """Another process holds SQLite's one write lock."""

    def __init__(self, engine: Engine) -> None:
        self._path = engine.url.database

    def __enter__(self) -> None:
        self._connection = sqlite3.connect(str(self._path), isolation_level=None)
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_: object) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()
