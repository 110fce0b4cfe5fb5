"""Keys put aside: for how long, by whom they are tried again, and that every process sees it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from flaskllm.domain.catalogue import Candidate, Endpoint, Key
from flaskllm.domain.chat import ChatRequest
from flaskllm.errors import ProviderError, ProviderFailure, ProviderKeyRejected
from flaskllm.services.key_ring import LONGEST_S, PROBE_EVERY_S, KeyRing
from flaskllm.services.model_router import ModelRouter
from tests.services.catalogue_world import ANYBODY, Clock, World, world

PAUSE = 60.0


@dataclass
class Process:
    """One process of several on one database."""

    world: World
    ring: KeyRing

    def candidate(self, key: str = "env:openai:main", value: str = "sk-0123456789abcdef") -> Candidate:
        provider = self.world.cache.current().by_id["openai"]
        return Candidate(provider, provider.models[0], Endpoint("main", ""), Key(key, value))


Start = Callable[[], Process]


@pytest.fixture
def clock() -> Clock:
    return Clock(1_800_000_000.0)


@pytest.fixture
def start(tmp_path: Path, clock: Clock) -> Start:
    def make() -> Process:
        here = world(tmp_path, OPENAI_API_KEY="sk-0123456789abcdef")
        return Process(here, KeyRing(here.database, here.cache, pause_s=PAUSE, clock=clock))

    return make


def refused() -> ProviderFailure:
    failure = ProviderKeyRejected("The provider refused the gateway's own call with status 401.")
    failure.key_at_fault = True
    return failure


def rows(process: Process) -> list[tuple[int, str]]:
    with process.world.database.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text("SELECT strikes, key_id FROM key_rests"))]


def test_a_refused_key_rests_in_every_process(start: Start) -> None:
    one, other = start(), start()
    one.ring.failed(one.candidate(), refused())
    assert one.ring.rests(one.candidate())
    assert other.ring.rests(other.candidate())


def test_what_is_not_the_keys_fault_puts_nothing_aside(start: Start) -> None:
    process = start()
    process.ring.failed(process.candidate(), ProviderError("The provider failed with status 500."))
    assert not process.ring.rests(process.candidate())


def test_another_key_of_the_provider_goes_on(start: Start) -> None:
    process = start()
    process.ring.failed(process.candidate(), refused())
    assert not process.ring.rests(process.candidate("k2", "sk-another-key-of-ours"))


def test_a_key_in_the_place_of_the_refused_one_begins_afresh(start: Start) -> None:
    process = start()
    process.ring.failed(process.candidate(), refused())
    assert not process.ring.rests(process.candidate(value="sk-the-operator-replaced-it"))


def test_each_refusal_in_a_row_doubles_the_pause(start: Start, clock: Clock) -> None:
    process, pauses = start(), []
    for _ in range(9):
        process.ring.failed(process.candidate(), refused())
        rest = process.world.cache.current().rests["env:openai:main"]
        pauses.append(rest.until - clock())
        clock.moment = rest.until
    assert pauses == [60, 120, 240, 480, 960, 1920, LONGEST_S, LONGEST_S, LONGEST_S]


def test_failures_during_a_pause_do_not_lengthen_it(start: Start, clock: Clock) -> None:
    one, other = start(), start()
    one.ring.failed(one.candidate(), refused())
    clock.moment += 1
    for process in (one, other):
        process.ring.failed(process.candidate(), refused())
    assert rows(one) == [(1, "env:openai:main")]


def test_many_failures_at_once_are_one_pause(start: Start) -> None:
    processes = [start() for _ in range(3)]
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda n: processes[n % 3].ring.failed(processes[n % 3].candidate(), refused()), range(24)))
    assert rows(processes[0]) == [(1, "env:openai:main")]


def test_after_the_pause_one_call_tries_it_and_the_others_wait(start: Start, clock: Clock) -> None:
    process = start()
    process.ring.failed(process.candidate(), refused())
    clock.moment += PAUSE
    assert not process.ring.rests(process.candidate())
    process.ring.begun(process.candidate())
    assert process.ring.rests(process.candidate())
    clock.moment += PROBE_EVERY_S
    assert not process.ring.rests(process.candidate())


def test_an_answer_brings_it_back_everywhere(start: Start, clock: Clock) -> None:
    one, other = start(), start()
    one.ring.failed(one.candidate(), refused())
    clock.moment += PAUSE
    other.ring.begun(other.candidate())
    other.ring.worked(other.candidate())
    assert not one.ring.rests(one.candidate())
    assert rows(one) == []


def test_an_answer_of_a_key_that_never_failed_writes_nothing(start: Start) -> None:
    process = start()
    version = process.world.cache.current().version
    process.ring.begun(process.candidate())
    process.ring.worked(process.candidate())
    assert process.world.cache.refresh().version == version


def test_a_database_that_is_away_fails_no_call(start: Start) -> None:
    process = start()
    candidate = process.candidate()
    with process.world.database.engine.connect() as connection:
        connection.execute(text("BEGIN EXCLUSIVE"))
        process.ring.failed(candidate, refused())
    assert not process.ring.rests(candidate)


def test_the_router_asks_keys_that_rest_last_and_still_asks_them(start: Start) -> None:
    process = start()
    here = process.world
    here.own_provider("mine", "m")
    here.own_key("mine", "sk-first-0123456789ab")
    here.own_key("mine", "sk-second-0123456789a")
    router = ModelRouter(here.cache.current, rests=process.ring.rests)
    ask = ChatRequest(model="m", messages=[{"role": "user", "content": "hi"}])
    bad = next(one for one in router.candidates(ask, ANYBODY) if one.key and one.key.value.startswith("sk-first"))
    process.ring.failed(bad, refused())
    for _ in range(4):
        order = [one.key.value[:9] for one in router.candidates(ask, ANYBODY) if one.key]
        assert order == ["sk-second", "sk-first-"]
