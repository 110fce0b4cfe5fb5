"""In which order the targets of a route are asked."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.route import Route
from flaskllm.services.pace import Pace

Rests = Callable[[Candidate], bool]
PER_PROVIDER, IN_ALL = 2, 4
"""Most candidates (``docs/promises.md``)."""


@dataclass(frozen=True, slots=True)
class Seat:
    """One target that may answer: its weight, and every way to it (address and key), the next in turn first."""

    weight: int
    ways: Sequence[Candidate]


@dataclass(frozen=True, slots=True)
class Asking:
    """What an order may hang on: whether it is a stream, and what it will cost about with a candidate (10⁻⁹ dollar;
    None: nobody knows)."""

    streamed: bool
    cost: Callable[[Candidate], int | None]


class RouteOrder:
    """The four strategies. Ways that rest (`CircuitBoard`) stand behind all others, whatever the strategy.

    ``draw``: what chance decides.
    """

    def __init__(self, pace: Pace, rests: Rests, *, draw: random.Random | None = None) -> None:
        self._pace = pace
        self._rests = rests
        self._draw = draw or random.Random()  # noqa: S311  (no secret)

    def of(self, route: Route, seats: Sequence[Seat], asking: Asking, *, for_real: bool = True) -> list[Candidate]:
        """The ways that are asked, in order; of each provider and in all as many as there may be.

        Every target gets one of these places before any gets a second; with `fastest` the fastest ways do.
        ``for_real`` False: nothing is drawn, for who only wants to know.
        """
        seats = [Seat(seat.weight, self._ready_first(seat.ways)) for seat in seats]
        if route.strategy == "fastest":
            ways = self._pace.ordered(_in_rounds(seats), streamed=asking.streamed, exploring=for_real)
            return kept(self._ready_first(ways))
        if route.strategy == "cheapest":
            seats.sort(key=lambda seat: _cost(seat, asking))
        elif route.strategy == "weighted":
            seats = self._drawn(seats) if for_real else _heaviest_first(seats)
        chosen = kept(self._ready_first(_in_rounds(seats)))
        return self._ready_first([way for seat in seats for way in seat.ways if way in chosen])

    def _ready_first(self, ways: Sequence[Candidate]) -> list[Candidate]:
        return sorted(ways, key=self._rests)

    def _drawn(self, seats: list[Seat]) -> list[Seat]:
        """The first by chance, in the measure of the weights of those that are well; the others by weight."""
        well = [seat for seat in seats if not self._rests(seat.ways[0])]
        weights = [seat.weight for seat in well]
        if not any(weights):
            return _heaviest_first(seats)
        (first,) = self._draw.choices(well, weights)
        return [first, *_heaviest_first([seat for seat in seats if seat is not first])]


def kept(ways: Iterable[Candidate]) -> list[Candidate]:
    """The first of them, `PER_PROVIDER` of each provider and `IN_ALL` in all."""
    found: list[Candidate] = []
    of_provider: Counter[str] = Counter()
    for way in ways:
        if of_provider[way.provider.id] < PER_PROVIDER and len(found) < IN_ALL:
            of_provider[way.provider.id] += 1
            found.append(way)
    return found


def _heaviest_first(seats: Sequence[Seat]) -> list[Seat]:
    return sorted(seats, key=lambda seat: -seat.weight)


def _cost(seat: Seat, asking: Asking) -> tuple[bool, int]:
    """What nobody knows the price of stands last."""
    cost = asking.cost(seat.ways[0])
    return (cost is None, cost or 0)


def _in_rounds(seats: Sequence[Seat]) -> list[Candidate]:
    """The best way to each target, then the second best to each, and so on."""
    longest = max((len(seat.ways) for seat in seats), default=0)
    return [seat.ways[turn] for turn in range(longest) for seat in seats if turn < len(seat.ways)]
