"""In which order the targets of a route are asked: four strategies, and who rests stands last in each."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from flaskllm.domain.catalogue import Candidate, Endpoint, Model, Provider
from flaskllm.domain.pricing import Price, cost_of
from flaskllm.domain.route import Route, Target
from flaskllm.domain.usage import Usage
from flaskllm.services.pace import Pace
from flaskllm.services.route_order import IN_ALL, PER_PROVIDER, Asking, RouteOrder, Seat

PROVIDERS: dict[str, Provider] = {}


def seat(name: str, *endpoints: str, weight: int = 1, price: Price | None = None) -> Seat:
    """A target ``provider/model``, with these ways to it."""
    owner, _, model_name = name.partition("/")
    provider = PROVIDERS.setdefault(owner, Provider(id=owner, kind="demo"))
    model = Model(id=name, provider_id=owner, name=model_name, backend_model="m", price=price)
    return Seat(weight, [Candidate(provider, model, Endpoint(at, "")) for at in endpoints or ("main",)])


def by_price(candidate: Candidate) -> int | None:
    return cost_of(Usage(input=1000, output=100), candidate.model.price)


def order(
    strategy: str,
    seats: Sequence[Seat],
    *,
    resting: Sequence[str] = (),
    pace: Pace | None = None,
    draw: random.Random | None = None,
) -> list[str]:
    """The ways in order, as ``provider/model@endpoint``; ``resting`` names those that rest."""

    def told(way: Candidate) -> str:
        return f"{way.name}@{way.endpoint.id}"

    made = RouteOrder(pace or Pace(), lambda way: told(way) in resting, draw=draw)
    route = Route("r", strategy, (Target("x/y"),))
    return [told(way) for way in made.of(route, seats, Asking(streamed=True, cost=by_price))]


def test_priority_is_the_order_given() -> None:
    found = order("priority", [seat("b/x"), seat("a/x"), seat("c/x")])
    assert found == ["b/x@main", "a/x@main", "c/x@main"]


def test_a_target_is_asked_at_all_its_places_before_the_next() -> None:
    assert order("priority", [seat("a/x", "east", "west"), seat("b/x")]) == ["a/x@east", "a/x@west", "b/x@main"]


def test_every_target_has_a_place_before_any_has_two() -> None:
    found = order("priority", [seat("a/x", "east", "west"), seat("a/y", "east", "west"), seat("b/x", "n", "s")])
    assert found == ["a/x@east", "a/y@east", "b/x@n", "b/x@s"]


@pytest.mark.parametrize("strategy", ["priority", "weighted", "cheapest", "fastest"])
def test_never_more_than_promised(strategy: str) -> None:
    seats = [seat(f"{name}/{model}", "1", "2", "3") for name in "abc" for model in "xyz"]
    found = order(strategy, seats)
    assert len(found) == IN_ALL
    assert max(Counter(one[0] for one in found).values()) <= PER_PROVIDER


@pytest.mark.parametrize("strategy", ["priority", "weighted", "cheapest", "fastest"])
def test_who_rests_stands_last(strategy: str) -> None:
    seats = [seat("a/x", weight=1000, price=Price(0)), seat("b/x", price=Price(9)), seat("c/x", price=Price(99))]
    found = order(strategy, seats, resting=["a/x@main"])
    assert (sorted(found[:2]), found[2:]) == (["b/x@main", "c/x@main"], ["a/x@main"])


def test_a_place_that_rests_is_passed_over_for_another_of_the_same_target() -> None:
    seats = [seat("a/x", "east", "west"), seat("b/x")]
    assert order("priority", seats, resting=["a/x@east"]) == ["a/x@west", "b/x@main", "a/x@east"]


def test_weights_are_shares_of_the_first_choices_and_the_rest_go_by_weight() -> None:
    weights, rounds = {"a": 6, "b": 3, "c": 1, "d": 0}, 6000
    seats = [seat(f"{name}/x", weight=weight) for name, weight in weights.items()]
    draw = random.Random(20261121)
    found = [order("weighted", seats, draw=draw) for _ in range(rounds)]
    counts = Counter(one[0][0] for one in found)
    expected = {name: rounds * weight / 10 for name, weight in weights.items() if weight}
    chi_square = sum((counts[name] - share) ** 2 / share for name, share in expected.items())
    assert chi_square < 13.8  # two degrees of freedom, p = 0.001
    assert counts["d"] == 0
    assert {tuple(way[0] for way in one) for one in found} == {tuple("abcd"), tuple("bacd"), tuple("cabd")}


def test_the_share_of_one_that_rests_goes_to_the_others_in_their_measure() -> None:
    seats = [seat("a/x", weight=6), seat("b/x", weight=3), seat("c/x", weight=1)]
    draw = random.Random(7)
    counts = Counter(order("weighted", seats, resting=["a/x@main"], draw=draw)[0][0] for _ in range(4000))
    assert counts["b"] / 4000 == pytest.approx(0.75, abs=0.03)
    assert counts["a"] == 0


def test_the_cheapest_for_this_request_goes_first_and_what_has_no_price_last() -> None:
    dear_output, dear_input = Price(input=1_000, output=100_000), Price(input=20_000, output=2_000)
    seats = [seat("a/x"), seat("b/x", price=dear_input), seat("c/x", price=dear_output), seat("d/x", price=Price(0))]
    assert order("cheapest", seats) == ["d/x@main", "c/x@main", "b/x@main", "a/x@main"]


def test_the_fastest_goes_first_by_endpoint() -> None:
    pace, seats = Pace(draw=random.Random(1)), [seat("a/x", "east", "west"), seat("b/x")]
    (east, west), (other,) = (one.ways for one in seats)
    for way, seconds in ((east, 0.9), (west, 0.1), (other, 0.5)):
        pace.note(way, seconds, streamed=True)
    assert order("fastest", seats, pace=pace) == ["a/x@west", "b/x@main", "a/x@east"]
