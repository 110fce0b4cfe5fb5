"""Routes: one name for several models, in which order they are asked, and who is asked instead where they refuse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

STRATEGIES = ("priority", "weighted", "cheapest", "fastest")
CONTEXT_WINDOW, CONTENT_FILTER = "context_window", "content_filter"
FALLBACKS = (CONTEXT_WINDOW, CONTENT_FILTER)
"""What may send a request on to other models: it is too long for these, or their filter refuses it."""
MOST_TARGETS, MOST_FALLBACKS, MOST_WEIGHT = 16, 8, 1000


@dataclass(frozen=True, slots=True)
class Target:
    """One model of a route, as ``provider/model``. ``weight``: its share of the first choices; 0: a fall-back only."""

    model: str
    weight: int = 1

    @property
    def provider_id(self) -> str:
        return self.model.partition("/")[0]

    @property
    def name(self) -> str:
        """The model's own, or an alias of it at that provider."""
        return self.model.partition("/")[2]


@dataclass(frozen=True, slots=True)
class Route:
    """``fallbacks``: by one of `FALLBACKS`, the models that are asked then, each by ``provider/model`` or an alias."""

    name: str
    strategy: str
    targets: tuple[Target, ...]
    fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class TargetFields(TypedDict, total=False):
    model: str
    weight: int


class RouteFields(TypedDict, total=False):
    """A route on its way in."""

    name: str
    strategy: str
    targets: Sequence[TargetFields]
    fallbacks: Mapping[str, Sequence[str]]


def route_of(
    name: str, strategy: str, targets: Iterable[TargetFields], fallbacks: Mapping[str, Sequence[str]]
) -> Route:
    """A route as its row has it."""
    return Route(
        name,
        strategy,
        tuple(Target(target["model"], int(target.get("weight", 1))) for target in targets),
        {kind: tuple(names) for kind, names in fallbacks.items() if names},
    )
