"""Who would be asked for a name, in which order, and who would not and why: for people who want to see it.

Nobody is asked, nobody's turn is taken and nothing is drawn. The order is the router's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from flaskllm.domain.catalogue import AUTO, TIERS, Candidate, Catalogue, Model, Provider
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.embedding import EmbedRequest
from flaskllm.domain.image import ImageRequest
from flaskllm.domain.pricing import cost_of
from flaskllm.domain.principal import Principal
from flaskllm.domain.route import Route
from flaskllm.errors import DomainError, InvalidRequest
from flaskllm.services.circuit_board import BREAKER, CircuitBoard, Condition
from flaskllm.services.model_router import USUAL_TOKENS, ModelRouter, Plan
from flaskllm.services.pace import Pace

ANYBODY = Principal(user_id="anybody", username="anybody")
"""Somebody whose token leaves nothing out."""
MOST_PASSED = 30
"""Of those that are not asked, so many are told one by one."""
ROUTE, ONE, NAME, TIER, ANY, DEFAULT = "route", "one", "name", "tier", "any", "default"
"""What a name can mean: a route, one provider's model, whoever bears the name, a tier, whoever can do it, nothing said.
"""
OFF, MODEL_OFF, GONE, UNABLE, STANDS_ASIDE, BEYOND = "off", "model off", "gone", "unable", "stands aside", "beyond"
"""Why somebody is not asked: the provider is off, the model is, there is none, it makes no such answers, it is a
last resort, or enough others stand before it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One way that would be asked. ``weight`` and ``share`` (of the first choices, 0 to 1) where the route draws;
    ``cost`` in 10⁻⁹ dollar of 1,000 tokens each way; ``seconds`` as this process measured; ``trouble``: what is wrong
    with the way just now, and ``skipped`` whether it is passed over for that."""

    candidate: Candidate
    weight: int | None = None
    share: float | None = None
    cost: int | None = None
    seconds: float | None = None
    trouble: Condition | None = None

    @property
    def skipped(self) -> bool:
        return self.trouble is not None and self.trouble.kind == BREAKER and self.trouble.seconds > 0


@dataclass(frozen=True, slots=True)
class Passed:
    """One that the name means and that is not asked. ``provider_id`` and ``model`` are empty where there is none."""

    name: str
    reason: str
    provider_id: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """``refusal``: what a caller would be told where nobody can be asked. ``more``: how many of ``passed`` are left
    out. ``instead``: by one of `route.FALLBACKS`."""

    name: str
    meaning: str
    strategy: str | None = None
    steps: tuple[Step, ...] = ()
    passed: tuple[Passed, ...] = ()
    more: int = 0
    instead: dict[str, tuple[Step, ...]] = field(default_factory=dict)
    refusal: str | None = None


class AskingOrder:
    """Draws the pictures. ``catalogue``: as it is now."""

    def __init__(
        self, router: ModelRouter, board: CircuitBoard, pace: Pace, *, catalogue: Callable[[], Catalogue]
    ) -> None:
        self._router = router
        self._board = board
        self._pace = pace
        self._catalogue = catalogue

    def picture(self, name: str) -> Picture:
        """For a name as a client may send it; empty: none was sent. Never raises for a name that nobody bears."""
        catalogue = self._catalogue()
        route = catalogue.routes.get(name)
        meaning = _meaning(catalogue, name)
        plan, refusal = self._plan(name)
        steps = tuple(self._steps(plan.candidates, route)) if plan else ()
        asked = {(step.candidate.provider.id, step.candidate.model.id) for step in steps}
        passed = [one for one in self._others(catalogue, name, meaning, route) if one[0] not in asked]
        chains = plan.instead if plan else {}
        return Picture(
            name=name,
            meaning=meaning,
            strategy=route.strategy if route else None,
            steps=steps,
            passed=tuple(other for _, other in passed[:MOST_PASSED]),
            more=max(0, len(passed) - MOST_PASSED),
            instead={kind: tuple(self._steps(chain, None)) for kind, chain in chains.items()},
            refusal=refusal,
        )

    def _plan(self, name: str) -> tuple[Plan | None, str | None]:
        """As a chat; where the model makes none, as vectors, then as images."""
        model, told = name or None, ""
        questions = (
            (ChatRequest(model, []), "chat"),
            (EmbedRequest(inputs=[""], model=model), "embeddings"),
            (ImageRequest(prompt="", model=model), "image_generation"),
        )
        for request, ability in questions:
            try:
                return self._router.plan(request, ANYBODY, ability=ability, for_real=False), None
            except InvalidRequest as error:
                told = told or error.message
            except DomainError as error:
                return None, error.message
        return None, told

    def _steps(self, candidates: Iterable[Candidate], route: Route | None) -> Iterator[Step]:
        candidates = list(candidates)
        weights = _weights(route, candidates)
        trouble = [self._board.condition(one) for one in candidates]
        well = {one.name for one, wrong in zip(candidates, trouble, strict=True) if wrong is None}
        whole = sum(weight for name, weight in weights.items() if name in well)
        for candidate, wrong in zip(candidates, trouble, strict=True):
            weight = weights.get(candidate.name)
            share = weight / whole if weight is not None and whole and candidate.name in well else None
            yield Step(
                candidate,
                weight=weight,
                share=share,
                cost=cost_of(USUAL_TOKENS, candidate.model.price),
                seconds=self._pace.seconds(candidate, streamed=False),
                trouble=wrong,
            )

    # -- those that are not asked -------------------------------------------------------------------------------------

    def _others(
        self, catalogue: Catalogue, name: str, meaning: str, route: Route | None
    ) -> Iterator[tuple[tuple[str, str], Passed]]:
        """All that the name means, each with its provider's and its own id, and why it is not asked if it is not."""
        if route is not None:
            for target in route.targets:
                yield _target(catalogue, target.model)
        elif meaning == ONE:
            yield _target(catalogue, name)
        elif meaning != DEFAULT:
            tier = name if meaning == TIER else None
            for provider in catalogue.ordered:
                for model in provider.models:
                    if _is_meant(provider, model, name, meaning, tier):
                        yield (provider.id, model.id), _passed(provider, model)


def _meaning(catalogue: Catalogue, name: str) -> str:
    """By the same rules as the router's (``docs/routing.md``)."""
    if not name:
        return DEFAULT
    if name in catalogue.routes:
        return ROUTE
    prefix, slash, _ = name.partition("/")
    if slash and prefix in catalogue.by_id:
        return ONE
    if name == AUTO:
        return ANY
    return TIER if name in TIERS and name not in catalogue.by_name else NAME


def _is_meant(provider: Provider, model: Model, name: str, meaning: str, tier: str | None) -> bool:
    """Of a choice only those on whom it would fall if they were on: chats, and of the tier."""
    if meaning == NAME:
        return model.answers_to(name)
    return model.has("chat") and tier in (None, model.tier) and not provider.last_resort


def _passed(provider: Provider, model: Model) -> Passed:
    name = f"{provider.id}/{model.name}"
    reason = BEYOND
    if not provider.on:
        reason = OFF
    elif not model.enabled:
        reason = MODEL_OFF
    elif provider.last_resort:
        reason = STANDS_ASIDE
    return Passed(name, reason, provider.id, model.name)


def _target(catalogue: Catalogue, name: str) -> tuple[tuple[str, str], Passed]:
    """One ``provider/model``, be it there or not."""
    prefix, _, rest = name.partition("/")
    provider = catalogue.by_id.get(prefix)
    if provider is None:
        return (prefix, rest), Passed(name, GONE)
    model = provider.model(rest) or next((one for one in provider.models if one.answers_to(rest)), None)
    if model is None:
        return (prefix, rest), Passed(name, GONE, provider.id)
    found = _passed(provider, model)
    if found.reason == BEYOND and not model.has("chat"):
        found = Passed(found.name, UNABLE, provider.id, model.name)
    return (provider.id, model.id), found


def _weights(route: Route | None, candidates: Iterable[Candidate]) -> dict[str, int]:
    """Of those that are asked, by ``provider/model``; empty where nothing is drawn."""
    if route is None or route.strategy != "weighted":
        return {}
    given = {(target.provider_id, target.name): target.weight for target in route.targets}
    return {
        one.name: weight
        for one in candidates
        for (provider_id, name), weight in given.items()
        if provider_id == one.provider.id and one.model.answers_to(name)
    }
