"""Breakers: what opens them, who tries again and when, and that every process sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from flaskllm.domain.call import CallContext
from flaskllm.domain.catalogue import Candidate, Endpoint, Key
from flaskllm.domain.principal import Principal
from flaskllm.errors import (
    PromptFiltered,
    ProviderError,
    ProviderFailure,
    ProviderKeyRejected,
    ProviderRateLimited,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnreachable,
    Unavailable,
)
from flaskllm.services.attempts import Attempts
from flaskllm.services.circuit_board import IN_A_ROW, PROBE_EVERY_S, SAMPLE, WINDOW_S, CircuitBoard
from flaskllm.services.key_ring import KeyRing
from tests.services.catalogue_world import Clock, World, world

FAILS = ProviderError("The provider failed with status 500.")
VALUE = "sk-0123456789abcdef"


@dataclass
class Process:
    """One process of several on one database."""

    world: World
    board: CircuitBoard

    def candidate(self, endpoint: str = "main", *, address: str = "", value: str = VALUE) -> Candidate:
        provider = self.world.cache.current().by_id["openai"]
        return Candidate(provider, provider.models[0], Endpoint(endpoint, address), Key("env:openai:main", value))

    def fail(self, times: int = IN_A_ROW, failure: ProviderFailure = FAILS) -> None:
        for _ in range(times):
            self.board.failed(self.candidate(), failure)

    @property
    def is_shut(self) -> bool:
        return self.board.is_shut(self.candidate())


Start = Callable[[], Process]


@pytest.fixture
def clock() -> Clock:
    return Clock(5_000.0)


@pytest.fixture
def start(tmp_path: Path, clock: Clock) -> Start:
    def make() -> Process:
        here = world(tmp_path, OPENAI_API_KEY=VALUE)
        board = CircuitBoard(here.database, here.cache, KeyRing(here.database, here.cache), clock=clock)
        return Process(here, board)

    return make


def rows(process: Process) -> list[tuple[str, str]]:
    with process.world.database.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text("SELECT provider_id, error FROM circuits"))]


@pytest.mark.parametrize("failure", [FAILS, ProviderUnreachable("refused"), ProviderTimeout("hung")])
def test_failures_in_a_row_open_it_in_every_process(start: Start, failure: ProviderFailure) -> None:
    one, other = start(), start()
    one.fail(IN_A_ROW - 1, failure)
    assert not one.is_shut
    one.fail(1, failure)
    assert one.is_shut
    assert other.is_shut
    assert rows(one) == [("openai", failure.message)]


@pytest.mark.parametrize(
    "failure",
    [
        ProviderRefused("bad request"),
        PromptFiltered("no"),
        ProviderRateLimited("slow down", retry_after=1),
        ProviderKeyRejected("status 404"),
    ],
)
def test_what_the_provider_answers_opens_nothing(start: Start, failure: ProviderFailure) -> None:
    process = start()
    process.fail(SAMPLE * 2, failure)
    assert not process.is_shut


def test_who_wants_none_has_none(tmp_path: Path) -> None:
    here = world(tmp_path, OPENAI_API_KEY=VALUE)
    process = Process(here, CircuitBoard(here.database, here.cache, KeyRing(here.database, here.cache), in_a_row=0))
    process.fail(SAMPLE * 2)
    assert not process.is_shut


def test_an_answer_between_them_begins_the_row_again(start: Start) -> None:
    process = start()
    process.fail(IN_A_ROW - 1)
    process.board.worked(process.candidate())
    process.fail(IN_A_ROW - 1)
    assert not process.is_shut


def test_half_of_a_sample_opens_it_too_and_less_does_not(start: Start) -> None:
    steady, shaky = start(), start()
    for _ in range(SAMPLE):
        steady.fail(1)
        steady.board.worked(steady.candidate())
        steady.board.worked(steady.candidate())
    assert not steady.is_shut
    for _ in range(SAMPLE // 2):
        shaky.board.worked(shaky.candidate())
        shaky.fail(1)
    assert shaky.is_shut


def test_failures_far_apart_open_nothing(start: Start, clock: Clock) -> None:
    process = start()
    for _ in range(IN_A_ROW * 2):
        process.fail(1)
        clock.moment += WINDOW_S / 2 + 1
    assert not process.is_shut


def test_another_region_address_and_key_go_on(start: Start) -> None:
    process = start()
    process.fail()
    for other in (
        process.candidate("west"),
        process.candidate(address="https://elsewhere.example.org/v1"),
        process.candidate(value="sk-the-operator-replaced-it"),
    ):
        assert not process.board.is_shut(other)


def test_one_try_every_ten_seconds_in_each_process(start: Start, clock: Clock) -> None:
    processes = [start(), start()]
    processes[0].fail()
    admitted = {0: 0, 1: 0}
    for _ in range(60):
        for number, process in enumerate(processes):
            if process.board.admits(process.candidate()):
                admitted[number] += 1
                process.fail(1)
        clock.moment += 1
    assert admitted == {0: 5, 1: 5}


def test_of_many_at_once_one_tries(start: Start, clock: Clock) -> None:
    process = start()
    process.fail()
    clock.moment += PROBE_EVERY_S
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: process.board.admits(process.candidate()), range(40)))
    assert sum(found) == 1


@pytest.mark.parametrize("answer", [None, ProviderRefused("bad request"), ProviderRateLimited("slow down")])
def test_an_answer_closes_it_everywhere(start: Start, clock: Clock, answer: ProviderFailure | None) -> None:
    one, other = start(), start()
    one.fail()
    assert other.is_shut
    clock.moment += PROBE_EVERY_S
    assert other.board.admits(other.candidate())
    if answer is None:
        other.board.worked(other.candidate())
    else:
        other.board.failed(other.candidate(), answer)
    assert rows(one) == []
    assert not one.is_shut
    one.fail(IN_A_ROW - 1)
    assert not one.is_shut


def test_many_failures_at_once_are_one_row(start: Start) -> None:
    processes = [start() for _ in range(3)]
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda n: processes[n % 3].fail(), range(24)))
    assert len(rows(processes[0])) == 1


def test_calls_that_go_well_write_nothing(start: Start) -> None:
    process = start()
    version = process.world.cache.current().version
    for _ in range(3):
        assert process.board.admits(process.candidate())
        process.board.begun(process.candidate())
        process.board.worked(process.candidate())
    assert process.world.cache.refresh().version == version


def test_a_wall_clock_that_steps_keeps_nobody_out(start: Start, clock: Clock) -> None:
    process = start()
    process.fail()
    with process.world.database.transaction() as session:
        session.execute(text("UPDATE circuits SET opened_at = '2099-01-01 00:00:00.000000'"))
        session.execute(text("UPDATE meta SET value = value + 1 WHERE name = 'catalogue_version'"))
    process.world.cache.refresh()
    assert process.is_shut
    clock.moment += PROBE_EVERY_S
    assert process.board.admits(process.candidate())


def test_a_database_that_is_away_fails_no_call(start: Start) -> None:
    process = start()
    with process.world.database.engine.connect() as connection:
        connection.execute(text("BEGIN EXCLUSIVE"))
        process.fail()
    assert not process.is_shut
    process.fail()
    assert process.is_shut


def test_who_asked_for_time_stands_behind_the_others_for_it(start: Start, clock: Clock) -> None:
    process = start()
    process.fail(1, ProviderRateLimited("slow down", retry_after=7))
    assert process.board.rests(process.candidate())
    assert not process.is_shut
    clock.moment += 7
    assert not process.board.rests(process.candidate())


def test_whoever_is_turned_away_is_told_when_to_come_and_what_went_wrong(start: Start, clock: Clock) -> None:
    process = start()
    process.fail()
    clock.moment += PROBE_EVERY_S
    assert process.board.admits(process.candidate())
    process.fail(1, ProviderUnreachable("It refuses the connection."))
    attempts = Attempts([process.candidate()], a_call(), process.board)
    assert attempts.next() is None
    told = attempts.verdict()
    assert isinstance(told, Unavailable)
    assert "It refuses the connection." in told.message
    assert told.retry_after is not None
    assert PROBE_EVERY_S <= told.retry_after <= PROBE_EVERY_S + 1


def test_an_administrators_check_asks_all_the_same(start: Start) -> None:
    process = start()
    process.fail()
    attempts = Attempts([process.candidate()], a_call(), process.board, asks_anyway=True)
    assert attempts.next() is not None
    attempts.worked()
    assert not process.is_shut


def test_what_is_told_of_addresses(start: Start) -> None:
    process = start()
    assert process.board.state()["openai", "main"] == 0
    real = process.world.ask("openai/gpt-4o")[0]
    for _ in range(IN_A_ROW):
        process.board.failed(real, FAILS)
    assert process.board.state()["openai", "main"] == 1


def test_when_all_is_well_it_costs_little(start: Start) -> None:
    process = start()
    process.world.cache._max_age = 3600.0
    candidate, board = process.candidate(), process.board
    best = min(_seconds(lambda: _one_call(board, candidate), 500) for _ in range(5))
    assert best < 50e-6, f"{best * 1e6:.1f} µs"  # some 5 µs on an idle machine


def _one_call(board: CircuitBoard, candidate: Candidate) -> None:
    board.rests(candidate)
    board.admits(candidate)
    board.begun(candidate)
    board.worked(candidate)


def _seconds(run: Callable[[], None], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - began) / times


def a_call(seconds: float = 30) -> CallContext:
    return CallContext(Principal("u", "u"), "req-1", "test", deadline=time.monotonic() + seconds)
