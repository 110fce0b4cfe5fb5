"""What was said in calls, sealed anew under a new key of ours: all of it, in pieces, whatever happens meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete, select, text, update
from sqlalchemy.exc import DBAPIError

from flaskllm.domain.audit import at_the_shell
from flaskllm.domain.body import Body, Transcript
from flaskllm.domain.chat import ChatRequest
from flaskllm.models.audit import AuditRow
from flaskllm.models.body import BodyRow
from flaskllm.models.ledger import CallRow
from flaskllm.repositories import bodies as repository
from flaskllm.repositories.committer import GroupCommitter
from flaskllm.repositories.database import Database
from flaskllm.repositories.ledger import Record
from flaskllm.repositories.writes import write
from flaskllm.security import ChainKeys, Undecryptable, Vault
from flaskllm.services.audit import AuditTrail
from flaskllm.services.bodies import LOOKED_AT, RENEWED, BodyService, Resealing, Sealer
from tests.databases import database_addresses, with_tables
from tests.repositories.test_bodies import call

OLD, NEW, OTHER = (f"{name}-key-of-this-gateway-0123456789" for name in ("old", "new", "other"))
STOP = {
    "sqlite": "CREATE TRIGGER stop BEFORE UPDATE ON bodies WHEN NEW.call_id = {at} "
    "BEGIN SELECT RAISE(ABORT, 'stopped'); END",
    "postgresql": "CREATE FUNCTION stop() RETURNS trigger AS $$ BEGIN RAISE 'stopped'; END $$ LANGUAGE plpgsql;"
    "CREATE TRIGGER stop BEFORE UPDATE ON bodies FOR EACH ROW WHEN (NEW.call_id = {at}) EXECUTE FUNCTION stop()",
}
GO_ON = {
    "sqlite": "DROP TRIGGER stop",
    "postgresql": "DROP TRIGGER stop ON bodies; DROP FUNCTION stop()",
}


@pytest.fixture(params=database_addresses())
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with with_tables(request.param(tmp_path)) as made:
        yield made


@pytest.fixture
def committer(database: Database) -> Iterator[GroupCommitter]:
    running = GroupCommitter(database.engine, write)
    yield running
    running.stop()


def bodies(database: Database, *keys: str) -> BodyService:
    """The service of a process with these encryption keys."""
    trail = AuditTrail(database, ChainKeys(keys))
    return BodyService(database, Sealer(Vault(keys)), trail, is_on=True, days=30)


def said(number: int) -> ChatRequest:
    return ChatRequest(messages=[{"role": "user", "content": f"question {number}"}], model="demo")


def store(committer: GroupCommitter, numbers: range, *keys: str) -> None:
    """Calls with these ids and their bodies, as a process with these keys writes them."""
    sealer = Sealer(Vault(keys))
    for number in numbers:
        sealed = sealer.seal(said(number), Transcript(), user_id="u", request_id=f"r{number}")
        committer.run(Record(call(number, sealed=sealed)))


def rotate(database: Database, *keys: str) -> Resealing:
    return bodies(database, *keys).rotate(at_the_shell())


def opened(database: Database, *keys: str) -> dict[int, Body | None]:
    """Each call's body as these keys open it; None: they do not."""
    sealer = Sealer(Vault(keys))
    found: dict[int, Body | None] = {}
    with database.reading() as session:
        for body, row in session.execute(select(BodyRow, CallRow).join(CallRow, CallRow.id == BodyRow.call_id)):
            try:
                found[row.id] = sealer.open(body.sealed, user_id=row.user_id, request_id=row.request_id)
            except Undecryptable:
                found[row.id] = None
    return found


def questions(database: Database, *keys: str) -> dict[int, str | None]:
    return {number: body and body.question[0].text for number, body in opened(database, *keys).items()}


def asked(numbers: range) -> dict[int, str]:
    return {number: f"question {number}" for number in numbers}


def sealed(database: Database) -> list[str]:
    with database.reading() as session:
        return list(session.scalars(select(BodyRow.sealed).order_by(BodyRow.call_id)))


def trail_of(database: Database) -> list[tuple[str, str | None]]:
    with database.reading() as session:
        return [(row.action, row.after) for row in session.scalars(select(AuditRow).order_by(AuditRow.number))]


def run(database: Database, statement: str) -> None:
    with database.engine.begin() as connection:
        connection.execute(text(statement))


def test_all_of_it_is_sealed_anew_and_says_what_it_said(database: Database, committer: GroupCommitter) -> None:
    """More than one query looks at, and than one transaction writes."""
    numbers = range(1, LOOKED_AT + 2 * RENEWED + 2)
    store(committer, numbers, OLD)
    assert rotate(database, NEW, OLD) == Resealing(renewed=len(numbers))
    assert questions(database, NEW) == asked(numbers)
    assert set(questions(database, OLD).values()) == {None}
    assert trail_of(database) == [("bodies.rotate", f'{{"renewed":{len(numbers)}}}')]


def test_a_second_time_nothing_is_written(database: Database, committer: GroupCommitter) -> None:
    store(committer, range(1, 4), OLD)
    store(committer, range(4, 6), NEW)
    assert rotate(database, NEW, OLD) == Resealing(renewed=3, current=2)
    before, told = sealed(database), trail_of(database)
    assert rotate(database, NEW, OLD) == Resealing(current=5)
    assert (sealed(database), trail_of(database)) == (before, told)


def test_where_nothing_is_stored_nothing_is_done(database: Database) -> None:
    assert rotate(database, NEW, OLD) == Resealing()
    assert trail_of(database) == []


def test_broken_off_it_keeps_what_it_has_and_goes_on_from_there(database: Database, committer: GroupCommitter) -> None:
    numbers = range(1, 3 * RENEWED + 1)
    store(committer, numbers, OLD)
    run(database, STOP[database.engine.dialect.name].format(at=2 * RENEWED))
    with pytest.raises(DBAPIError, match="stopped"):
        rotate(database, NEW, OLD)
    kept = {number for number, words in questions(database, NEW).items() if words is not None}
    assert kept == set(range(1, RENEWED + 1)), "the transaction that failed has written nothing"
    assert questions(database, NEW, OLD) == asked(numbers)
    assert trail_of(database) == [("bodies.rotate", f'{{"renewed":{RENEWED}}}')]
    run(database, GO_ON[database.engine.dialect.name])
    assert rotate(database, NEW, OLD) == Resealing(renewed=2 * RENEWED, current=RENEWED)
    assert questions(database, NEW) == asked(numbers)


def test_what_nobody_can_open_is_counted_and_left_as_it_is(database: Database, committer: GroupCommitter) -> None:
    """Under a key that is gone; damaged; another call's; of a call that is not there."""
    store(committer, range(1, 6), OLD)
    store(committer, range(6, 8), OTHER)
    whole = sealed(database)
    with database.transaction() as session:
        session.execute(update(BodyRow).where(BodyRow.call_id == 1).values(sealed=whole[0][:-9]))
        session.execute(update(BodyRow).where(BodyRow.call_id == 2).values(sealed=whole[2]))
        session.execute(delete(CallRow).where(CallRow.id == 4))
    before = sealed(database)
    assert rotate(database, NEW, OLD) == Resealing(renewed=2, lost=5)
    after = sealed(database)
    assert [number for number, pair in enumerate(zip(before, after, strict=True), 1) if len(set(pair)) > 1] == [3, 5]
    assert rotate(database, NEW, OLD) == Resealing(current=2, lost=5)


def test_what_was_changed_or_forgotten_meanwhile_is_left_to_who_did_it(
    database: Database, committer: GroupCommitter
) -> None:
    store(committer, range(1, 2), OLD)
    (old,) = sealed(database)
    with database.transaction() as session:
        assert repository.swap_sealed(session, 1, old, "theirs")
        assert not repository.swap_sealed(session, 1, old, "ours")
        assert not repository.swap_sealed(session, 2, old, "ours")
    assert sealed(database) == ["theirs"]


def test_what_is_said_meanwhile_is_stored_and_comes_to_be_under_the_new_key(
    database: Database, committer: GroupCommitter
) -> None:
    """One process has the new key already, another has not; and two sit down to seal at the same time."""
    old = range(1, 20 * RENEWED + 1)
    store(committer, old, OLD)
    done, written = list[Resealing](), old.stop

    def seal() -> None:
        done.append(rotate(database, NEW, OLD))

    workers = [threading.Thread(target=seal) for _ in range(2)]
    for worker in workers:
        worker.start()
    while written < old.stop + 20 or any(worker.is_alive() for worker in workers):
        store(committer, range(written, written + 1), NEW, OLD)
        store(committer, range(written + 1, written + 2), OLD)
        written += 2
    everything = range(1, written)
    assert [found.lost for found in done] == [0, 0]
    assert sum(found.renewed for found in done) >= len(old)
    assert questions(database, NEW, OLD) == asked(everything)
    last = rotate(database, NEW, OLD)
    assert sum(found.renewed for found in [*done, last]) == len(old) + (written - old.stop) // 2
    assert questions(database, NEW) == asked(everything)
