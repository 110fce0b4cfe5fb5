"""What several processes do to accounts and tokens at once, on both databases: of every race one winner."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import Any

import pytest
from flask import Flask

from flaskllm.errors import Conflict, Unauthenticated
from flaskllm.extensions import db
from flaskllm.repositories.database import Database, set_sqlite_pragmas
from flaskllm.repositories.users import User
from tests.databases import database_addresses, fresh_tables
from tests.people import PASSWORD, People, people

ROUNDS = 15


@pytest.fixture(params=database_addresses())
def processes(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[list[People]]:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = request.param(tmp_path)
    db.init_app(app)
    with app.app_context():
        if db.engine.dialect.name == "sqlite":
            set_sqlite_pragmas(db.engine, journal_mode="WAL", synchronous="NORMAL")
        fresh_tables()
        yield [people(Database(db.engine)) for _ in range(4)]
        db.engine.dispose()


def at_once(processes: list[People], attempt: Callable[[People], Any], *, times: int = 4) -> list[Any]:
    """What each attempt gave; None where it was refused."""

    def guarded(process: People) -> Any:
        try:
            return attempt(process)
        except (Conflict, Unauthenticated):
            return None

    with ThreadPoolExecutor(times) as pool:
        every = cycle(processes)
        return list(pool.map(guarded, [next(every) for _ in range(times)]))


def test_racing_refreshes_never_leave_two_live_families(processes: list[People]):
    here = processes[0]
    user = here.user()
    for _ in range(ROUNDS):
        first = here.accounts._sessions.open(user)
        winners = [won for won in at_once(processes, lambda p, t=first.refresh_token: p.accounts.refresh(t)) if won]
        assert len(winners) <= 1
        for won in winners:
            assert at_once(processes, lambda p, t=won.refresh_token: p.accounts.refresh(t), times=1) == [None]


def test_of_those_who_register_a_name_at_once_one_gets_it(processes: list[People]):
    def register(process: People) -> str:
        return process.accounts.register("alice", "alice@example.com", PASSWORD).id

    assert sum(won is not None for won in at_once(processes, register)) == 1


def test_of_those_who_take_a_name_for_themselves_at_once_one_gets_it(processes: list[People]):
    here = processes[0]
    here.user()
    here.user("bob")
    callers = [here.signed_in(), here.signed_in("bob")]
    pairs = dict(zip(map(id, processes[:2]), callers, strict=True))

    def rename(process: People) -> str:
        changes = {"username": "carol"}
        return process.accounts.change_profile(pairs[id(process)], changes, old_password=None).id  # type: ignore[arg-type]

    assert sum(won is not None for won in at_once(processes[:2], rename, times=2)) == 1


def test_a_name_that_is_being_taken_at_the_moment_is_given_once(processes: list[People]):
    """The other has written it and not committed yet: no look into the table sees it, only the unique index does."""
    here, there = processes[:2]
    user = here.user()
    rival = {"username": "carol", "username_key": "carol", "email": "c@example.com", "email_key": "c@example.com"}
    with ThreadPoolExecutor(1) as pool:
        with there.database.transaction() as session:
            session.execute(
                User.__table__.insert().values(id="rival", role="user", scopes=[], status="active", **rival)
            )
            asked = pool.submit(here.accounts.change_user, user.id, {"username": "carol"})
            time.sleep(0.3)
        with pytest.raises(Conflict):
            asked.result(timeout=10)
    assert here.accounts.get_user(user.id).username == "alice"


def test_administrators_cannot_remove_each_other_at_once(processes: list[People]):
    here = processes[0]
    admins = [here.user(f"root{n}", admin=True).id for n in range(4)]
    ids = dict(zip(map(id, processes), admins, strict=True))
    won = at_once(processes, lambda process: process.accounts.change_user(ids[id(process)], {"role": "user"}))
    assert won.count(None) == 1
    assert [user.role for user in here.accounts.list_users()[0]].count("admin") == 1


def test_the_hundredth_token_is_given_once(processes: list[People]):
    here = processes[0]
    here.user()
    for _ in range(99):
        here.tokens.issue_for_user("alice", {"name": "t"})
    won = at_once(processes, lambda process: process.tokens.issue_for_user("alice", {"name": "t"}))
    assert won.count(None) == 3


def test_rotations_at_once_leave_two_texts_at_the_most(processes: list[People]):
    here = processes[0]
    here.user()
    row, old = here.tokens.issue_for_user("alice", {"name": "t"})
    texts = [old, *(text for _, text in at_once(processes, lambda process: process.tokens.rotate_any(row.id)))]
    here.tokens._recent.forget()
    living = [at_once([here], lambda process, text=text: process.tokens.identify(text), times=1) for text in texts]
    assert living.count([None]) == 3


def test_the_service_user_is_made_once(processes: list[People]):
    made = at_once(processes, lambda process: process.tokens.issue_for_service(name="t", document={}))
    assert len({row.user_id for row, _ in made}) == 1
