"""How fast each way has been, and whom that puts first."""

from __future__ import annotations

import random

import pytest

from flaskllm.domain.catalogue import Candidate, Endpoint, Model, Provider
from flaskllm.services.pace import EXPLORES, STALE_S, Pace


def way(name: str, endpoint: str = "main") -> Candidate:
    model = Model(id=name, provider_id=name, name=name, backend_model=name)
    return Candidate(Provider(id=name, kind="demo"), model, Endpoint(endpoint, ""))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


A, B, C = way("a"), way("b"), way("c")


def first(pace: Pace, *ways: Candidate, streamed: bool = True, exploring: bool = False) -> str:
    return pace.ordered(ways, streamed=streamed, exploring=exploring)[0].provider.id


def test_without_figures_the_order_given_stays() -> None:
    assert [one.provider.id for one in Pace().ordered([B, A, C], streamed=True)] == ["b", "a", "c"]


def test_the_fastest_goes_first_and_the_unknown_last() -> None:
    pace = Pace()
    pace.note(A, 0.5, streamed=True)
    pace.note(B, 0.2, streamed=True)
    assert [one.provider.id for one in pace.ordered([C, A, B], streamed=True, exploring=False)] == ["b", "a", "c"]


def test_figures_are_smoothed() -> None:
    pace = Pace()
    pace.note(A, 1.0, streamed=True)
    pace.note(A, 2.0, streamed=True)
    assert pace.seconds(A, streamed=True) == pytest.approx(1.3)
    pace.note(B, 1.2, streamed=True)
    assert first(pace, A, B) == "b"
    for _ in range(3):
        pace.note(A, 0.1, streamed=True)
    assert first(pace, A, B) == "a"


def test_streams_and_whole_answers_are_not_compared() -> None:
    pace = Pace()
    pace.note(A, 9.0, streamed=False)
    pace.note(B, 0.1, streamed=True)
    assert first(pace, A, B, streamed=True) == "b"
    assert first(pace, A, B, streamed=False) == "a"


def test_endpoints_are_ways_of_their_own() -> None:
    pace, east, west = Pace(), way("a", "east"), way("a", "west")
    pace.note(east, 0.5, streamed=True)
    pace.note(west, 0.2, streamed=True)
    assert pace.ordered([east, west], streamed=True, exploring=False) == [west, east]


def explored(pace: Pace, *ways: Candidate, other_than: str) -> float:
    rounds = 4000
    return sum(first(pace, *ways, exploring=True) != other_than for _ in range(rounds)) / rounds


def test_an_unknown_way_is_explored_a_little() -> None:
    pace = Pace(draw=random.Random(7))
    pace.note(A, 0.1, streamed=True)
    assert explored(pace, A, B, C, other_than="a") == pytest.approx(EXPLORES, abs=0.02)


def test_a_way_that_was_slow_once_is_tried_again_after_a_while() -> None:
    clock = Clock()
    pace = Pace(clock=clock, draw=random.Random(7))
    pace.note(B, 5.0, streamed=True)
    pace.note(A, 0.1, streamed=True)
    assert explored(pace, A, B, other_than="a") == 0
    clock.now = STALE_S + 1
    pace.note(A, 0.1, streamed=True)
    assert explored(pace, A, B, other_than="a") == pytest.approx(EXPLORES, abs=0.02)
