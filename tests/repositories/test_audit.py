"""Several processes at once, on both databases: one chain, and always an administrator left."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from flaskllm.domain.audit import Actor
from flaskllm.errors import Conflict
from flaskllm.extensions import Base
from flaskllm.repositories.database import Database, set_sqlite_pragmas
from tests.databases import database_addresses
from tests.people import People, people

PROCESSES, ROWS, ROUNDS = 3, 15, 4
PATIENCE_S = 60


def opened(address: str) -> Database:
    engine = create_engine(address)
    if engine.dialect.name == "sqlite":
        set_sqlite_pragmas(engine, journal_mode="wal", synchronous="NORMAL")
    return Database(engine)


@pytest.fixture(params=database_addresses())
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    import flaskllm.models

    assert flaskllm.models.__all__
    found = str(request.param(tmp_path))
    engine = create_engine(found)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    yield found
    Base.metadata.drop_all(engine)
    engine.dispose()


def in_processes(work: Callable[..., None], address: str, *arguments: Any) -> list[Any]:
    """Run it in as many processes as there are arguments; what each has told, in their order."""
    spawning = multiprocessing.get_context("spawn")
    barrier, told = spawning.Barrier(len(arguments)), spawning.Queue()
    running = [
        spawning.Process(target=work, args=(address, barrier, told, place, given), daemon=True)
        for place, given in enumerate(arguments)
    ]
    for process in running:
        process.start()
    answers = dict(told.get(timeout=PATIENCE_S) for _ in running)
    for process in running:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in running] == [0] * len(running)
    return [answers[place] for place in range(len(running))]


def write_rows(address: str, barrier: Barrier, told: Any, place: int, name: str) -> None:
    here = people(opened(address))
    barrier.wait(PATIENCE_S)
    for number in range(ROWS):
        with here.database.transaction() as session:
            here.audit.record(session, Actor(None, name, None, None), "test", str(number), None, {"number": number})
    told.put((place, here.audit.verify().is_sound))


def step_down(address: str, barrier: Barrier, told: Any, place: int, given: tuple[str, dict[str, str]]) -> None:
    """Ask for one's own end as an administrator, together with the others, again and again."""
    here, (user_id, change) = people(opened(address)), given
    done = []
    for _ in range(ROUNDS):
        barrier.wait(PATIENCE_S)
        try:
            here.accounts.change_user(user_id, change)  # type: ignore[arg-type]
            done.append(True)
        except Conflict:
            done.append(False)
        barrier.wait(PATIENCE_S)
        here.accounts.change_user(user_id, {"role": "admin", "status": "active"})
    told.put((place, done))


def test_processes_at_once_write_one_chain(address: str) -> None:
    names = [f"process {number}" for number in range(PROCESSES)]
    assert in_processes(write_rows, address, *names) == [True] * PROCESSES
    here = people(opened(address))
    rows, _ = here.audit.list(limit=1000)
    assert [row.number for row in rows] == list(range(PROCESSES * ROWS, 0, -1))
    assert (here.audit.verify().is_sound, here.audit.verify().count) == (True, PROCESSES * ROWS)
    for name in names:
        assert [row.target for row in rows if row.actor_name == name][::-1] == [str(number) for number in range(ROWS)]
    here.database.engine.dispose()


def test_of_administrators_who_step_down_at_once_one_stays(address: str) -> None:
    here: People = people(opened(address))
    users = [here.user(name, admin=True) for name in ("anna", "bert")]
    changes = [{"role": "user"}, {"status": "disabled"}]
    answers = in_processes(
        step_down, address, *((user.id, change) for user, change in zip(users, changes, strict=True))
    )
    assert [sum(done) for done in zip(*answers, strict=True)] == [1] * ROUNDS
    assert here.audit.verify().is_sound
    here.database.engine.dispose()
