"""Who is asked next, until when, and what a call comes to when nobody answers."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaskllm.domain.call import CallContext
from flaskllm.domain.catalogue import Candidate, Endpoint, Model, Provider
from flaskllm.domain.principal import Principal
from flaskllm.errors import (
    PromptFiltered,
    PromptTooLong,
    ProviderError,
    ProviderFailure,
    ProviderKeyRejected,
    ProviderRateLimited,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnreachable,
    RateLimited,
)
from flaskllm.services.attempts import MOST_IN_ALL, MOST_PER_PROVIDER, Attempts

FAILS = ProviderError("it failed")
HUNG = ProviderTimeout("it hung")


def candidate(provider: str, *, timeout_s: float | None = None) -> Candidate:
    model = Model(id="m", provider_id=provider, name="m", backend_model="m", timeout_s=timeout_s)
    return Candidate(Provider(id=provider, kind="demo"), model, Endpoint("main", ""))


def call(seconds: float = 30) -> CallContext:
    return CallContext(Principal("u", "u"), "req-1", "test", deadline=time.monotonic() + seconds)


def asked(providers: str, *failures: ProviderFailure, seconds: float = 30) -> tuple[str, Attempts]:
    """The providers asked, in order, where the first fails by the first failure, and so on; the last for all others."""
    attempts, found = Attempts([candidate(name) for name in providers], call(seconds)), ""
    while (one := attempts.next()) is not None and len(found) < 20:
        found += one.provider.id
        attempts.failed(failures[min(len(found), len(failures)) - 1])
    return found, attempts


@pytest.mark.parametrize(
    "providers, failure, order",
    [
        ("a", FAILS, "aa"),
        ("ab", FAILS, "abb"),
        ("aaa", FAILS, "aa"),
        ("aabb", FAILS, "aabb"),
        ("abcde", FAILS, "abcd"),
        ("a", HUNG, "a"),
        ("ab", HUNG, "ab"),
        ("a", ProviderError("half", may_be_billed=True), "a"),
        ("a", ProviderUnreachable("refused"), "a"),
        ("a", ProviderRateLimited("slow down"), "a"),
        ("ab", ProviderKeyRejected("no"), "ab"),
        ("ab", ProviderRefused("bad request"), "a"),
    ],
)
def test_who_is_asked(providers: str, failure: ProviderFailure, order: str) -> None:
    assert asked(providers, failure)[0] == order


@given(st.text("abc", min_size=1, max_size=6), st.lists(st.sampled_from([FAILS, HUNG]), min_size=1, max_size=6))
def test_nobody_is_asked_more_often_than_promised(providers: str, failures: list[ProviderFailure]) -> None:
    attempts, found = Attempts([candidate(name) for name in providers], call(0.001)), ""
    attempts._call = call(30)
    attempts._helps_again, helps = (lambda *_: False), attempts._helps_again  # the pause before a second try is no help
    while (one := attempts.next()) is not None:
        found += one.provider.id
        assert helps(FAILS, one) == (found.count(one.provider.id) < MOST_PER_PROVIDER and len(found) < MOST_IN_ALL)
        attempts.failed(failures[(len(found) - 1) % len(failures)])
    assert len(found) <= MOST_IN_ALL
    assert all(found.count(name) <= MOST_PER_PROVIDER for name in found)


def test_when_the_time_is_over_nobody_else_is_asked() -> None:
    assert asked("ab", HUNG, seconds=0)[0] == "a"


def test_the_first_leaves_time_for_the_second_and_the_last_has_all_that_is_left() -> None:
    attempts = Attempts([candidate("a"), candidate("b")], call(30))
    first = attempts.next()
    assert first is not None
    assert attempts.deadline(first) - time.monotonic() == pytest.approx(20, abs=0.1)
    attempts.failed(FAILS)
    second = attempts.next()
    assert second is not None
    assert attempts.deadline(second) - time.monotonic() == pytest.approx(30, abs=0.1)


def test_a_models_own_time_goes_before_and_has_its_bound() -> None:
    attempts = Attempts([], call(30))
    assert attempts.deadline(candidate("a", timeout_s=90)) - time.monotonic() == pytest.approx(90, abs=0.1)
    assert attempts.deadline(candidate("a", timeout_s=9000)) - time.monotonic() == pytest.approx(600, abs=0.1)


@pytest.mark.parametrize(
    "failures, kind, status",
    [
        ((HUNG, HUNG), ProviderTimeout, 504),
        ((FAILS, HUNG), ProviderError, 502),
        ((HUNG, FAILS), ProviderError, 502),
        ((ProviderRateLimited("a"), ProviderRateLimited("b")), RateLimited, 429),
        ((ProviderRateLimited("a"), HUNG), ProviderError, 502),
        ((HUNG, ProviderRefused("bad")), ProviderRefused, 400),
        ((ProviderKeyRejected("no"), HUNG), ProviderKeyRejected, 502),
    ],
)
def test_what_the_caller_is_told(failures: tuple[ProviderFailure, ...], kind: type, status: int) -> None:
    told = asked("ab", *failures)[1].verdict()
    assert isinstance(told, kind)
    assert told.status == status


def test_of_several_waits_the_shortest_is_passed_on() -> None:
    waits = ProviderRateLimited("a", retry_after=40), ProviderRateLimited("b", retry_after=7)
    assert asked("ab", *waits)[1].verdict().retry_after == 7


def test_without_an_attempt_it_is_a_time_out_that_costs_nothing() -> None:
    told = Attempts([], call()).verdict()
    assert (told.status, getattr(told, "may_be_billed", None)) == (504, False)


# -- whom a route names for a refusal ---------------------------------------------------------------------------------

TOO_LONG, FILTERED = PromptTooLong("too long"), PromptFiltered("no")


def with_chains(failures: str, *, context: str = "", filtered: str = "") -> tuple[str, Attempts]:
    """Who is asked, of `a` and `b`, where attempts fail so, one letter each: (l)ong, (f)iltered, (e)rror."""
    chains = {"context_window": [candidate(one) for one in context], "content_filter": [candidate(x) for x in filtered]}
    attempts, found = Attempts([candidate("a"), candidate("b")], call(), instead=chains), ""
    while (one := attempts.next()) is not None:
        failure = {"l": TOO_LONG, "f": FILTERED, "e": ProviderUnreachable("e")}[failures[len(found)]]
        found += one.provider.id
        attempts.failed(failure)
    return found, attempts


@pytest.mark.parametrize(
    "failures, context, filtered, order, kind",
    [
        ("l", "", "", "a", PromptTooLong),
        ("l", "", "c", "a", PromptTooLong),
        ("ll", "c", "", "ac", PromptTooLong),
        ("el", "", "c", "ab", PromptTooLong),
        ("elee", "cd", "", "abcd", ProviderUnreachable),
        ("lf", "c", "", "ac", PromptFiltered),
        ("lff", "c", "d", "acd", PromptFiltered),
        ("llll", "bcd", "", "ab", PromptTooLong),
        ("leee", "acde", "", "acde", ProviderUnreachable),
        ("leee", "ccde", "", "accd", ProviderUnreachable),
    ],
)
def test_a_refusal_goes_on_once_to_those_that_were_named(
    failures: str, context: str, filtered: str, order: str, kind: type
) -> None:
    found, attempts = with_chains(failures, context=context, filtered=filtered)
    assert found == order
    assert isinstance(attempts.verdict(), kind)
    assert len(attempts.story) == len(order)
