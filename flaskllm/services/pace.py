"""How fast each way to a model has been, as this process saw it, and whom to ask first for it.

A stream counts by its time to the first token, any other call by its time to the whole answer: the two are never
compared. What fails is no figure at all, however fast it failed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flaskllm.domain.catalogue import Candidate

SMOOTHING = 0.3
"""The newest figure's share of the smoothed one."""
EXPLORES = 0.1
"""Of the calls that find a way whose pace nobody knows (any more), the share that tries one such way first."""
STALE_S = 60.0
"""After so long a figure says little: a way that was slow once is tried again."""
MOST_WAYS = 4096

Way = tuple[str, str, str, bool]


@dataclass(frozen=True, slots=True)
class _Figure:
    seconds: float
    at: float


class Pace:
    """Exponentially smoothed seconds by provider, model, endpoint, and whether it was a stream.

    ``clock``: monotonic seconds. ``draw``: who is explored.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, draw: random.Random | None = None) -> None:
        self._clock = clock
        self._draw = draw or random.Random()  # noqa: S311  (no secret)
        self._figures: dict[Way, _Figure] = {}

    def note(self, candidate: Candidate, seconds: float, *, streamed: bool) -> None:
        """An answer, or a stream's first token, came after so many seconds."""
        way = _way(candidate, streamed)
        before = self._figures.get(way)
        if before is None and len(self._figures) >= MOST_WAYS:  # models that were changed that often: begin again
            self._figures = {}
        smooth = seconds if before is None else before.seconds + SMOOTHING * (seconds - before.seconds)
        self._figures[way] = _Figure(smooth, self._clock())

    def seconds(self, candidate: Candidate, *, streamed: bool) -> float | None:
        """The smoothed figure; None where there is none yet."""
        figure = self._figures.get(_way(candidate, streamed))
        return figure.seconds if figure else None

    def ordered(self, ways: Sequence[Candidate], *, streamed: bool, exploring: bool = True) -> list[Candidate]:
        """The fastest first, then those that nobody has tried, in the order given.

        Now and then one that is unknown, or was not asked for a minute, goes before all.
        """
        figures = {id(way): self._figures.get(_way(way, streamed)) for way in ways}
        known = [(figure.seconds, place) for place, way in enumerate(ways) if (figure := figures[id(way)])]
        unknown = [way for way in ways if figures[id(way)] is None]
        found = [ways[place] for _, place in sorted(known)] + unknown
        if exploring and known and (first := self._explored(ways, streamed)) is not None:
            found.remove(first)
            found.insert(0, first)
        return found

    def _explored(self, ways: Sequence[Candidate], streamed: bool) -> Candidate | None:
        moment = self._clock()
        figures = ((way, self._figures.get(_way(way, streamed))) for way in ways)
        dim = [way for way, figure in figures if figure is None or moment - figure.at > STALE_S]
        return self._draw.choice(dim) if dim and self._draw.random() < EXPLORES else None


def _way(candidate: Candidate, streamed: bool) -> Way:
    return (candidate.provider.id, candidate.model.name, candidate.endpoint.id, streamed)
