"""Roll-ups: whatever is asked of them is what the ledger says, whoever adds up, and whatever comes late or dies."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, func, select, text

from flaskllm.domain.histogram import GROWTH, Histogram
from flaskllm.domain.usage import PARTS
from flaskllm.extensions import Base, db
from flaskllm.models.ledger import CallRow
from flaskllm.models.rollup import RollupRow, RollupStateRow
from flaskllm.repositories import rollups
from flaskllm.repositories.database import Database
from flaskllm.repositories.usage import Span, UsageTotals, series
from flaskllm.services.rollups import Rollups
from tests.databases import database_addresses, fresh_tables

BERLIN, KOLKATA = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kolkata")
NOW = datetime.now(UTC).replace(microsecond=0)
MOST = 100_000
BYS: list[tuple[str, ...]] = [
    (), ("day",), ("user",), ("token",), ("model",), ("provider",), ("tag",), ("day", "user"), ("tag", "day"),
    ("model", "day"), ("user", "model"),
]  # fmt: skip


@pytest.fixture(params=database_addresses())
def database(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Database]:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = request.param(tmp_path)
    db.init_app(app)
    with app.app_context():
        fresh_tables()
        yield Database(db.engine)
        db.session.remove()
        db.engine.dispose()


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def some_calls(chance: random.Random, count: int, *, first_id: int = 1, within: float = 400.0) -> list[dict[str, Any]]:
    """Calls of the last so many days, some of them of the last hours; ids in no order of time."""
    made = []
    for number in range(first_id, first_id + count):
        ago = chance.choice([chance.random() * within, chance.random() * 4, chance.random() * 70])
        at = ms(NOW - timedelta(days=min(ago, within)))
        status = chance.choice([200, 200, 200, 404, 502])
        tags = chance.choice([None, ["sales"], ["emea", "sales"], ['"quoted" & <b>']])
        made.append({
            "id": number, "request_id": f"r{number}", "user_id": chance.choice(["u1", "u2", "u3"]),
            "token_id": chance.choice([None, "t1", "t2"]), "door": "openai", "model": chance.choice(["small", "large"]),
            "backend_model": chance.choice([None, "gpt-4o", "haiku"]), "provider": chance.choice([None, "openai", "x"]),
            "started_at": at, "finished_at": at + 5, "latency_ms": chance.choice([0, 1, 17, 900, 61_000]),
            "prompt_tokens": chance.choice([0, 10, 2**53 - 1]), "completion_tokens": chance.randrange(1000),
            "cost": chance.choice([None, 0, 10**9, 2**61]), "saved": chance.choice([None, 5]), "status": status,
            "error_code": chance.choice([None, "interrupted"]), "attempts": chance.choice([0, 1, 2]),
            "streamed": True, "estimated": chance.choice([True, False]),
            "tags": None if tags is None else json.dumps(tags, separators=(",", ":")),
            "first_token_ms": chance.choice([None, 3, 250]),
            **{name: chance.choice([None, 7]) for name in PARTS},
        })  # fmt: skip
    return made


def write(calls: list[dict[str, Any]]) -> None:
    with db.engine.begin() as connection:
        connection.execute(Base.metadata.tables["calls"].insert(), calls)


def roll_all(database: Database, zone: ZoneInfo = BERLIN, *, most: int = 1000) -> None:
    while True:
        with database.transaction() as session:
            if not rollups.roll(session, zone, most=most):
                return


def by_tag_apart(found: list[tuple[tuple[Any, ...], UsageTotals]], by: tuple[str, ...]) -> dict[Any, UsageTotals]:
    """The ledger's groups, in which several tags are one group, as groups of one tag each."""
    told: dict[Any, UsageTotals] = {}
    for keys, held in found:
        for each in rollups._one_tag_each(keys, by):
            told[each] = told.get(each, UsageTotals()) + held
    return told


def both_ways(database: Database, span: Span, by: tuple[str, ...], zone: ZoneInfo) -> tuple[Any, Any]:
    """What the roll-ups and what the ledger say."""
    with database.snapshot() as session:
        of_sums = rollups.rolled_series(session, span, by, most=MOST, zone=zone)
        of_ledger = series(session, span, by, most=MOST, zone=zone)
    return None if of_sums is None else dict(of_sums), by_tag_apart(of_ledger, by)


def spans(chance: random.Random) -> Iterator[Span]:
    yield Span()
    for days in (0.4, 40, 390):
        until = NOW - timedelta(days=chance.random() * 5, milliseconds=chance.randrange(10_000))
        yield Span(since=until - timedelta(days=days), until=until)
        yield Span(since=until - timedelta(days=days))
        yield Span(until=until - timedelta(days=days), user_id="u1")
    yield Span(since=NOW - timedelta(days=100), tag="sales")
    yield Span(since=NOW - timedelta(days=100), model="haiku")
    yield Span(token_id="t1", user_id="u1")


@pytest.mark.parametrize("zone", [BERLIN, KOLKATA], ids=str)
def test_sums_say_what_the_ledger_says_of_any_span_and_group(database: Database, zone: ZoneInfo) -> None:
    chance = random.Random(7)
    write(some_calls(chance, 200))
    roll_all(database, zone, most=97)
    write(some_calls(chance, 50, first_id=1000))  # what nobody has added up yet
    told = 0
    for span in spans(chance):
        for by in chance.sample(BYS, 4):
            of_sums, of_ledger = both_ways(database, span, by, zone)
            if of_sums is not None:
                assert of_sums == of_ledger, (span, by)
                told += 1
    assert told > 30


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    first=st.integers(0, 400 * 86_400_000),
    length=st.integers(1, 400 * 86_400_000),
    by=st.sampled_from(BYS[:-1]),
)
def test_sums_say_what_the_ledger_says_to_the_millisecond(
    database: Database, seed: int, first: int, length: int, by: tuple[str, ...]
) -> None:
    chance = random.Random(seed)
    with db.engine.begin() as connection:
        for table in ("calls", "rollups", "rollup_state"):
            connection.execute(text(f"DELETE FROM {table}"))
    write(some_calls(chance, 60))
    roll_all(database, KOLKATA, most=chance.choice([7, 1000]))
    since = NOW - timedelta(days=400) + timedelta(milliseconds=first)
    of_sums, of_ledger = both_ways(
        database, Span(since=since, until=since + timedelta(milliseconds=length)), by, KOLKATA
    )
    assert of_sums == of_ledger


def test_what_the_sums_do_not_tell_is_left_to_the_ledger(database: Database) -> None:
    write(some_calls(random.Random(1), 20))
    assert both_ways(database, Span(), (), BERLIN)[0] is None  # nobody has added up yet
    roll_all(database)
    assert both_ways(database, Span(), (), BERLIN)[0] is not None
    assert both_ways(database, Span(), ("user", "model"), BERLIN)[0] is None
    assert both_ways(database, Span(user_id="u1"), ("model",), BERLIN)[0] is None
    assert both_ways(database, Span(tag="sales"), ("tag",), BERLIN)[0] is None
    assert both_ways(database, Span(), (), KOLKATA)[0] is None  # other days


def test_a_call_that_is_committed_late_is_counted_whatever_its_id(database: Database) -> None:
    chance = random.Random(3)
    write(some_calls(chance, 30, first_id=10_000))
    roll_all(database)
    write(some_calls(chance, 30, first_id=1))
    roll_all(database)
    with database.reading() as session:
        assert session.scalar(select(func.count()).where(CallRow.rolled.is_(None))) == 0
    of_sums, of_ledger = both_ways(database, Span(), (), BERLIN)
    assert of_sums == of_ledger
    assert of_sums[()].requests == 60


def test_many_at_once_add_each_call_once(database: Database) -> None:
    """While calls are still written, and while somebody reads: every report is of one moment."""
    chance = random.Random(5)
    write(some_calls(chance, 300))
    faults: list[BaseException] = []
    keepers = [Rollups(database, zone=BERLIN) for _ in range(3)]

    def work(keeper: Rollups) -> None:
        try:
            for _ in keeper.finish():
                pass
        except BaseException as error:  # noqa: BLE001
            faults.append(error)

    threads = [threading.Thread(target=work, args=(keeper,)) for keeper in keepers]
    for thread in threads:
        thread.start()
    for number in range(5):
        write(some_calls(chance, 40, first_id=1000 + 100 * number))
        of_sums, of_ledger = both_ways(database, Span(), (), BERLIN)
        assert of_sums in (None, of_ledger)
    for thread in threads:
        thread.join(60)
    roll_all(database)
    assert faults == []
    of_sums, of_ledger = both_ways(database, Span(), ("model",), BERLIN)
    assert of_sums == of_ledger
    assert sum(held.requests for held in of_sums.values()) == 500


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a process that was forked")
def test_who_dies_in_the_middle_has_added_nothing(database: Database) -> None:
    """Killed after its last statement and before its commit; the next one adds these calls."""
    write(some_calls(random.Random(9), 100))
    db.engine.dispose()
    child = os.fork()
    if child == 0:

        @event.listens_for(db.engine, "commit")
        def _die(_connection: Any) -> None:
            os.kill(os.getpid(), 9)

        with database.transaction() as session:
            rollups.roll(session, BERLIN, most=50)
        os._exit(0)  # not reached
    _, ended = os.waitpid(child, 0)
    assert os.WTERMSIG(ended) == 9
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(RollupRow)) == 0
    roll_all(database)
    of_sums, of_ledger = both_ways(database, Span(), (), BERLIN)
    assert of_sums == of_ledger


def test_everything_is_made_anew_and_goes_on_where_it_was_broken_off(database: Database) -> None:
    chance = random.Random(11)
    write(some_calls(chance, 200))
    roll_all(database)
    with db.engine.begin() as connection:
        connection.execute(text("UPDATE rollups SET requests = requests + 1"))
    assert both_ways(database, Span(), (), BERLIN)[0] != both_ways(database, Span(), (), BERLIN)[1]
    with database.transaction() as session:
        assert rollups.begin_anew(session, BERLIN)
    with database.transaction() as session:
        rollups.roll(session, BERLIN, most=50)  # and here it ends, for now
    write(some_calls(chance, 10, first_id=500))
    assert both_ways(database, Span(), (), BERLIN)[0] is None
    roll_all(database, most=50)
    of_sums, of_ledger = both_ways(database, Span(), ("user",), BERLIN)
    assert of_sums == of_ledger


def test_another_zone_makes_the_sums_anew(database: Database) -> None:
    write(some_calls(random.Random(13), 100))
    roll_all(database, BERLIN)
    roll_all(database, KOLKATA)
    of_sums, of_ledger = both_ways(database, Span(), ("day",), KOLKATA)
    assert of_sums == of_ledger
    assert of_sums


def test_fine_sums_are_let_go_and_old_spans_stay_exact(database: Database) -> None:
    """As if a hundred days had passed: what was fine then is told by the ledger now."""
    write(some_calls(random.Random(17), 200, within=3))
    roll_all(database)
    with db.engine.begin() as connection:
        ahead = ms(NOW + timedelta(days=100)) // rollups.HOUR_MS * rollups.HOUR_MS
        before = {"fine": ahead - rollups.FINE_KEPT_MS, "hour": ahead - rollups.HOUR_KEPT_MS}
        connection.execute(text("UPDATE rollup_state SET fine_from = :fine, hour_from = :hour"), before)
        connection.execute(text("DELETE FROM rollups WHERE grain < 2"))
    for hours in (1, 7, 50):
        span = Span(since=NOW - timedelta(hours=hours, seconds=7), until=NOW - timedelta(minutes=3))
        of_sums, of_ledger = both_ways(database, span, ("day",), BERLIN)
        assert of_sums == of_ledger


def test_hours_and_minutes_are_not_kept_for_good(database: Database) -> None:
    write(some_calls(random.Random(19), 200))
    roll_all(database)
    with db.engine.begin() as connection:
        early = "UPDATE rollup_state SET fine_from = fine_from - 7200000, hour_from = hour_from - 7200000"
        connection.execute(text(early))
        counts = ", ".join(rollups.COUNTS)
        for grain in ("0, fine_from", "1, hour_from"):
            connection.execute(text(
                f"INSERT INTO rollups (grain, slot, subject, item, {counts}) "
                f"SELECT {grain}, 'all', '', {', '.join('1' for _ in rollups.COUNTS)} FROM rollup_state"
            ))  # fmt: skip
    roll_all(database)
    with database.reading() as session:
        state = session.execute(select(RollupStateRow)).scalar_one()
        for grain, first in ((rollups.FINE, state.fine_from), (rollups.HOUR, state.hour_from)):
            assert session.scalar(select(func.min(RollupRow.slot)).where(RollupRow.grain == grain)) >= first


def test_times_of_a_span_are_told_within_ten_percent(database: Database) -> None:
    chance = random.Random(23)
    calls = some_calls(chance, 200, within=50)
    for call in calls:
        call["latency_ms"], call["status"] = int(chance.lognormvariate(6.5, 1.2)), 200
    write(calls)
    roll_all(database, most=70)
    with database.snapshot() as session:
        state = rollups.read_state(session, BERLIN)
        assert state is not None
        pieces = rollups.cover(rollups.FIRST, rollups.LAST, state, rollups.calendar_of(BERLIN))
        held = rollups.Sums()
        for kept in rollups.read_slots(session, pieces, rollups.ALL):
            held.add_kept(kept)
    times = sorted(call["latency_ms"] for call in calls)
    for share in (0.5, 0.95, 0.99):
        true, told = times[int(share * 200) - 1], held.latency.percentile(share)
        assert told is not None
        assert true / GROWTH**0.5 <= told * 1.0001
        assert told <= true * GROWTH**0.5 * 1.0001
    assert held.first_token.total() == sum(call["first_token_ms"] is not None for call in calls)


@given(st.lists(st.integers(1, 10**8), min_size=1), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_percentile_is_within_ten_percent_of_the_true_one(times: list[int], share: float) -> None:
    told = Histogram.from_json(Histogram.of(times).to_json()).percentile(share)
    true = sorted(times)[max(1, -int(-share * len(times) // 1)) - 1]
    assert told is not None
    assert abs(told - true) <= 0.1 * true


def test_no_times_have_no_percentile() -> None:
    assert Histogram().percentile(0.5) is None
    assert Histogram().to_json() is None
