"""Second tries: a tenth of the calls, and three a second however few there are."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from flaskllm.services.retry_budget import FLOOR, SHARE, WINDOW_S, RetryBudget


@dataclass
class Clock:
    moment: float = 100.0

    def __call__(self) -> float:
        return self.moment


def test_three_a_second_are_always_free() -> None:
    clock = Clock()
    budget = RetryBudget(clock=clock)
    assert [budget.take() for _ in range(FLOOR + 2)] == [True] * FLOOR + [False] * 2
    clock.moment += 1
    assert budget.take()


def test_beyond_them_a_tenth_of_the_calls() -> None:
    budget = RetryBudget(clock=Clock())
    for _ in range(200):
        budget.count()
    assert sum(budget.take() for _ in range(200)) == 200 * SHARE


def test_what_was_long_ago_gives_no_room() -> None:
    clock = Clock()
    budget = RetryBudget(clock=clock)
    for _ in range(1000):
        budget.count()
    clock.moment += WINDOW_S
    assert sum(budget.take() for _ in range(100)) == FLOOR


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.sampled_from([0.0, 0.5, 1.0, 7.0]))))
def test_a_window_never_holds_more_than_its_share_or_the_floor(steps: list[tuple[int, int, float]]) -> None:
    clock = Clock()
    budget = RetryBudget(clock=clock)
    calls: list[float] = []
    taken: list[float] = []
    for count, tries, pause in steps:
        for _ in range(count):
            budget.count()
            calls.append(clock.moment)
        taken += [clock.moment for _ in range(tries) if budget.take()]
        clock.moment += pause
    for moment in taken:
        known = [at for at in calls if moment - WINDOW_S <= at <= moment]
        earlier = [at for at in taken if int(moment) - WINDOW_S < int(at) <= int(moment)]
        assert len(earlier) <= max(SHARE * len(known) + 1, FLOOR * WINDOW_S + SHARE * len(known) + 1)
