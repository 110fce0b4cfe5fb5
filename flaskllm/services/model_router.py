"""Which models this caller may get for this name, and in which order.

A name is a model's name, ``provider/name``, an alias, a tier, ``auto``, or nothing at all (``docs/api.md``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from flaskllm.domain.catalogue import AUTO, TIERS, Candidate, Catalogue, Endpoint, Key, Model, Provider
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.pricing import cost_of
from flaskllm.domain.principal import Principal
from flaskllm.domain.route import Route
from flaskllm.domain.usage import Usage
from flaskllm.errors import Forbidden, InvalidRequest, NotFound, invalid
from flaskllm.services.pace import Pace
from flaskllm.services.route_order import Asking, RouteOrder, Seat, kept

USUAL_TOKENS = Usage(input=1000, output=1000)
"""What a call is taken to need where somebody asks for an order and has no question yet."""
NEEDS = {
    "tools": "tools",
    "json_schema": "response_format",
    "images": "messages",
    "chat": "model",
    "stream": "stream",
    "embeddings": "model",
    "image_generation": "model",
}
"""What a request may need of a model, to the field that is named where the model cannot do it."""
IMAGE_PARTS = frozenset({"image_url", "input_image"})

MAIN = Endpoint("main", "")
"""Where a provider that lists no address is asked."""

Place = tuple[Provider, Model]
Cost = Callable[[Candidate], int | None]
"""What a call will cost about with a candidate, in 10⁻⁹ dollar; None: nobody knows."""


class Asked(Protocol):
    """What every kind of request says of the model it wants."""

    @property
    def model(self) -> str | None: ...

    @property
    def provider(self) -> str | None: ...


class Visible(NamedTuple):
    """A model under the name that `/v1/models` lists it by."""

    name: str
    provider: Provider
    model: Model


class Plan(NamedTuple):
    """Who is asked, in order; and ``instead``, who is asked where the request is refused, by why (`route.FALLBACKS`):
    empty but for a route that asks for it.

    ``named``: whose answers are those to the name, in no order that changes with the hour: all targets of a ``route``
    that the caller may use, else the model that goes first while all are well.
    """

    candidates: list[Candidate]
    instead: Mapping[str, list[Candidate]]
    named: tuple[Place, ...]
    route: Route | None = None

    def names(self, candidate: Candidate) -> bool:
        """Whether it is one that the name stands for, and not one who stood in."""
        return (candidate.provider.id, candidate.model.id) in {
            (provider.id, model.id) for provider, model in self.named
        }

    def place(self, name: str) -> Candidate | None:
        """The way to ``provider/model``, where it is one that the name stands for; no key comes with it."""
        for provider, model in self.named:
            found = Candidate(provider, model, (provider.endpoints or (MAIN,))[0])
            if found.name == name:
                return found
        return None


def _usual_cost(candidate: Candidate) -> int | None:
    return cost_of(USUAL_TOKENS, candidate.model.price)


class ModelRouter:
    """Turns what was asked for into candidates.

    ``rests`` says of a candidate that it had better not be tried now (`CircuitBoard`): it goes behind the others, so
    that the few that are kept are those that may answer. ``order``: in which order a route's targets are asked.
    """

    def __init__(
        self,
        catalogue: Callable[[], Catalogue],
        *,
        default_provider: str | None = None,
        rests: Callable[[Candidate], bool] = lambda _: False,
        order: RouteOrder | None = None,
    ) -> None:
        self._order = order or RouteOrder(Pace(), rests)
        self._catalogue = catalogue
        self._default_provider = default_provider
        self._rests = rests
        self._turns: dict[str, Iterator[int]] = {}

    def candidates(self, request: Asked, principal: Principal, *, ability: str = "chat") -> list[Candidate]:
        """At most four ways to answer, best first, never none.

        Raises `NotFound` for an unknown name or one whose provider is off, `Forbidden` for a model that the token may
        not use, `InvalidRequest` naming the field that a named model cannot serve.
        """
        return self.plan(request, principal, ability=ability).candidates

    def plan(
        self,
        request: Asked,
        principal: Principal,
        *,
        ability: str = "chat",
        cost: Cost = _usual_cost,
        for_real: bool = True,
    ) -> Plan:
        """The same, and who is asked instead where a route says so. ``cost``: for the route that asks the cheapest.

        ``for_real`` False: nobody's turn is taken and nothing is drawn, for who only wants to know.
        """
        choice = self._choice(request, principal, ability)
        route = choice.route()
        if route is None:
            places = choice.places()
            return Plan(self._spread(places, taking_turns=for_real), {}, tuple(places[:1]))
        asking = Asking(needs_a_stream(request), cost)
        targets = choice.targets(route)
        found = self._order.of(route, self._seats(targets, taking_turns=for_real), asking, for_real=for_real)
        chains = {kind: choice.chain(route, names) for kind, names in route.fallbacks.items()}
        instead = {kind: self._spread(chain, taking_turns=False) for kind, chain in chains.items()}
        return Plan(found, instead, tuple(place for place, _ in targets), route)

    def named(self, request: Asked, principal: Principal) -> tuple[tuple[Place, ...], Route | None]:
        """`Plan.named` and `Plan.route` of a chat, without taking anybody's turn. Raises the same."""
        choice = self._choice(request, principal, "chat")
        if (route := choice.route()) is None:
            return tuple(choice.places()[:1]), None
        return tuple(place for place, _ in choice.targets(route)), route

    def models(self, request: Asked, principal: Principal, *, ability: str = "chat") -> list[Model]:
        """The models of `candidates`, without taking anybody's turn: for who only wants to know. Raises the same."""
        plan = self.plan(request, principal, ability=ability, for_real=False)
        return [candidate.model for candidate in plan.candidates]

    def _choice(self, request: Asked, principal: Principal, ability: str) -> _Choice:
        needs = needs_of(request, ability)
        return _Choice(self._catalogue(), request, principal, needs, self._default_provider)

    def visible(self, principal: Principal) -> list[Visible]:
        """Every model that this caller may use, each name once, owned by the provider that the bare name goes to.

        Aliases and routes are names, a route owned by the first of its targets; tiers and ``auto`` are choices and are
        not listed.
        """
        catalogue = self._catalogue()
        found = {entry.name: entry for entry in _visible_routes(catalogue, principal)}
        for provider, model in catalogue.models():
            for name in (model.name, *model.aliases):
                owner = _bare(catalogue, name)[0]
                is_its = owner == (provider, model) and name not in catalogue.routes
                public = name if is_its else f"{provider.id}/{name}"
                if may_use(principal, public, provider, model):
                    found.setdefault(public, Visible(public, provider, model))
        return list(found.values())

    def offered(self, principal: Principal) -> list[Provider]:
        """Each provider that is on, with those of its models that this caller may use, switched off ones too.

        A last resort is offered only where nobody else is on.
        """
        on = self._catalogue().on
        found = [provider for provider in on if not provider.last_resort] or on
        cut = [replace(provider, models=_usable(principal, provider)) for provider in found]
        return [provider for provider in cut if provider.models]

    # -- places into candidates ---------------------------------------------------------------------------------------

    def _spread(self, places: Sequence[Place], *, taking_turns: bool = True) -> list[Candidate]:
        """Endpoints and keys of each provider in turn; two a provider and four in all, the resting ones last."""
        turns = {provider.id: self._in_turn(provider, taking=taking_turns) for provider, _ in places}
        ways = [Candidate(provider, model, *pair) for provider, model in places for pair in turns[provider.id]]
        return kept(sorted(ways, key=self._rests))

    def _seats(self, targets: Sequence[tuple[Place, int]], *, taking_turns: bool = True) -> list[Seat]:
        """The targets of a route, each with every way to it."""
        providers = {provider.id: provider for (provider, _), _ in targets}
        turns = {name: self._in_turn(provider, taking=taking_turns) for name, provider in providers.items()}
        return [
            Seat(weight, [Candidate(provider, model, *pair) for pair in turns[provider.id]])
            for (provider, model), weight in targets
        ]

    def _in_turn(self, provider: Provider, *, taking: bool) -> list[tuple[Endpoint, Key | None]]:
        """Every endpoint with each of its keys, begun one further each time; another endpoint before another key."""
        pairs = _pairs(provider.endpoints or (MAIN,))
        turn = next(self._turns.setdefault(provider.id, itertools.count())) % len(pairs) if taking else 0
        first, *rest = pairs[turn:] + pairs[:turn]
        return [first, *sorted(rest, key=lambda pair: pair[0].id == first[0].id)]


def _pairs(endpoints: Sequence[Endpoint]) -> list[tuple[Endpoint, Key | None]]:
    rounds = itertools.zip_longest(*([(endpoint, key) for key in endpoint.keys or (None,)] for endpoint in endpoints))
    return [pair for each in rounds for pair in each if pair is not None]


def needs_of(request: Asked, ability: str) -> tuple[str, ...]:
    """What a model must be able to do for this request."""
    if not isinstance(request, ChatRequest):
        return (ability,)
    params: Mapping[str, Any] = request.params
    found = [ability]
    if request.stream:
        found.append("stream")
    if params.get("tools"):
        found.append("tools")
    response_format = params.get("response_format")
    if isinstance(response_format, dict) and response_format.get("type") == "json_schema":
        found.append("json_schema")
    if any(part.get("type") in IMAGE_PARTS for part in _parts(request.messages)):
        found.append("images")
    return tuple(found)


def _parts(messages: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            yield from (part for part in content if isinstance(part, dict))


def may_use(principal: Principal, asked: str | None, provider: Provider, model: Model) -> bool:
    """Whether the token's list of models, if it has one, holds what was asked for or what that turned out to be."""
    if principal.models is None:
        return True
    names = {asked, model.name, f"{provider.id}/{model.name}", *model.aliases}
    return not names.isdisjoint(principal.models)


def needs_a_stream(request: Asked) -> bool:
    """Whether its answer comes frame by frame."""
    return isinstance(request, ChatRequest) and request.stream


def opens(principal: Principal, route: Route, catalogue: Catalogue) -> bool:
    """Whether the token's list of models, if it has one, holds the route's own name, which opens all its targets.

    Not where models bear that name too: whoever listed it may have meant those, and a route must not widen that.
    """
    return principal.models is None or (route.name in principal.models and route.name not in catalogue.by_name)


def _target_place(catalogue: Catalogue, provider_id: str, name: str) -> Place | None:
    """The enabled model of that name or alias, where its provider is on."""
    provider = catalogue.by_id.get(provider_id)
    model = provider.model(name) if provider and provider.on else None
    return (provider, model) if provider and model else None


def _visible_routes(catalogue: Catalogue, principal: Principal) -> Iterator[Visible]:
    """Each route of which this caller may use a target that is on, under its name."""
    for route in catalogue.routes.values():
        targets = (_target_place(catalogue, target.provider_id, target.name) for target in route.targets)
        places = [place for place in targets if place is not None]
        if not opens(principal, route, catalogue):
            places = [place for place in places if may_use(principal, None, *place)]
        if places:
            yield Visible(route.name, *places[0])


def _usable(principal: Principal, provider: Provider) -> tuple[Model, ...]:
    return tuple(model for model in provider.models if may_use(principal, None, provider, model))


def _bare(catalogue: Catalogue, name: str) -> tuple[Place, ...]:
    """The models of a bare name. A last resort stands aside where another provider bears the same name."""
    places = catalogue.by_name.get(name, ())
    return tuple(place for place in places if not place[0].last_resort) or places


class _Choice:
    """One request's way from a name to models."""

    def __init__(
        self,
        catalogue: Catalogue,
        request: Asked,
        principal: Principal,
        needs: tuple[str, ...],
        default_provider: str | None,
    ) -> None:
        self._catalogue = catalogue
        self._name = request.model or None
        self._narrow = request.provider or None
        self._principal = principal
        self._needs = needs
        self._default_provider = default_provider

    def places(self) -> list[Place]:
        if self._narrow:
            self._provider(self._narrow)
        if self._name is None:
            return self._checked([self._default()])
        if self._name == AUTO or (self._name in TIERS and self._name not in self._catalogue.by_name):
            return self._chosen(None if self._name == AUTO else self._name)
        return self._checked(self._named(self._name))

    # -- by route -----------------------------------------------------------------------------------------------------

    def route(self) -> Route | None:
        """The route of the name that was asked for. It goes before a model of that name, and an alias."""
        if self._narrow:
            self._provider(self._narrow)
        return self._catalogue.routes.get(self._name) if self._name else None

    def targets(self, route: Route) -> list[tuple[Place, int]]:
        """Its targets that are on, that the caller may use and that can do it, each with its weight, in order.

        Raises what is wrong with all of them, as for a model that is named.
        """
        found: dict[str, tuple[Place, int]] = {}
        for target in route.targets:
            if place := _target_place(self._catalogue, target.provider_id, target.name):
                found.setdefault(place[1].id, (place, target.weight))
        inside = self._narrowed(place for place, _ in found.values())
        if not inside:
            where = f" at {self._narrow}" if self._narrow else ""
            raise NotFound(f"The route {route.name} has no target that is on{where}; GET /v1/models lists the models.")
        allowed = self._allowed(route, inside)
        if not allowed:
            raise Forbidden(f"This token may not use {route.name}; GET /v1/models lists what it may.")
        able = [place for place in allowed if self._can(place)] or self._unable(allowed[0])
        return [found[model.id] for _, model in able]

    def chain(self, route: Route, names: Iterable[str]) -> list[Place]:
        """Those that are asked instead, by ``provider/model`` or an alias: all that may and can, maybe nobody."""
        found: dict[str, Place] = {}
        for name in names:
            prefix, _, rest = name.partition("/")
            exact = _target_place(self._catalogue, prefix, rest)
            found |= {place[1].id: place for place in ([exact] if exact else _bare(self._catalogue, name))}
        return [place for place in self._allowed(route, self._narrowed(found.values())) if self._can(place)]

    def _allowed(self, route: Route, places: Sequence[Place]) -> list[Place]:
        is_open = opens(self._principal, route, self._catalogue)
        return [place for place in places if is_open or may_use(self._principal, None, *place)]

    def _can(self, place: Place) -> bool:
        return all(place[1].has(need) for need in self._needs)

    # -- by name ------------------------------------------------------------------------------------------------------

    def _named(self, name: str) -> list[Place]:
        prefix, slash, rest = name.partition("/")
        owner = self._catalogue.by_id.get(prefix) if slash else None
        exact = owner.model(rest) if owner and owner.on else None
        found = [(owner, exact)] if owner and exact else self._within(name)
        return self._narrowed(found) or self._nowhere(name)

    def _within(self, name: str) -> Sequence[Place]:
        if not self._narrow:
            return _bare(self._catalogue, name)
        provider = self._catalogue.by_id[self._narrow]
        model = provider.model(name)
        return [(provider, model)] if model else []

    def _narrowed(self, places: Iterable[Place]) -> list[Place]:
        return [place for place in places if self._narrow in (None, place[0].id)]

    def _nowhere(self, name: str) -> list[Place]:
        """Nobody who is on has it. Say what to do: switch its provider on, or choose another."""
        prefix, _, rest = name.partition("/")
        for provider in self._catalogue.ordered:
            if not provider.on and (provider.model(name) or (provider.id == prefix and provider.model(rest))):
                raise NotFound(f"The model {name[:80]!r} is {provider.id}'s, which is off: {_how_to(provider)}")
        where = f" at {self._narrow}" if self._narrow else ""
        raise NotFound(f"There is no model {name[:80]!r}{where}; GET /v1/models lists those that you may use.")

    def _provider(self, provider_id: str) -> Provider:
        provider = self._catalogue.by_id.get(provider_id)
        if provider is None:
            known = ", ".join(one.id for one in self._catalogue.on)
            raise NotFound(f"There is no provider {provider_id[:80]!r}; those that are on: {known}.")
        if not provider.on:
            raise NotFound(f"The provider {provider.id} is off: {_how_to(provider)}")
        return provider

    def _checked(self, places: Sequence[Place]) -> list[Place]:
        """Of named models: those that the caller may use and that can do it, or what is wrong with all of them."""
        allowed = [place for place in places if may_use(self._principal, self._name, *place)]
        if not allowed:
            asked = self._name or f"the default, {places[0][1].name}"
            raise Forbidden(f"This token may not use {asked[:80]}; GET /v1/models lists what it may.")
        return [place for place in allowed if self._can(place)] or self._unable(allowed[0])

    def _unable(self, place: Place) -> list[Place]:
        provider, model = place
        lacking = next(need for need in self._needs if not model.has(need))
        raise invalid(NEEDS.get(lacking, "model"), f"{provider.id}/{model.name} cannot do this ({lacking})")

    # -- by choice ----------------------------------------------------------------------------------------------------

    def _chosen(self, tier: str | None) -> list[Place]:
        """Every model of a tier, or of all, that can do what is asked, heads of the tier first."""
        fitting = [place for place in self._answering() if tier in (None, place[1].tier) or place[0].last_resort]
        if tier is None:
            fitting = self._defaults_first(fitting)
        able = [place for place in self._narrowed(fitting) if self._can(place)]
        allowed = [place for place in able if may_use(self._principal, self._name, *place)]
        if able and not allowed:
            raise Forbidden(f"This token may use no model of {self._name}; GET /v1/models lists what it may.")
        if not allowed:
            raise self._nothing_fits()
        heads_first = sorted(allowed, key=lambda place: tier is not None and not place[1].tier_head)
        return _providers_in_turn(heads_first)

    def _nothing_fits(self) -> NotFound | InvalidRequest:
        extra = [need for need in self._needs if need not in ("chat", "stream")]
        message = f"no model that is on and in {self._name} can do what is asked"
        if not extra:
            return NotFound(f"For {self._name} there is {message}; GET /v1/models lists the models.")
        return invalid(NEEDS.get(extra[0], "model"), f"{message} ({', '.join(extra)})")

    def _answering(self) -> Iterator[Place]:
        """The models of all that are on; a last resort only where nobody else is, or where it was asked for."""
        others = any(not provider.last_resort for provider in self._catalogue.on)
        for provider, model in self._catalogue.models():
            if not (provider.last_resort and others) or provider.id == self._narrow:
                yield provider, model

    def _defaults_first(self, places: Sequence[Place]) -> list[Place]:
        """``auto`` begins where the default would: each provider's own default model before its others."""
        order = {provider.id: number for number, provider in enumerate(self._catalogue.on)}
        return sorted(places, key=lambda at: (order[at[0].id], not at[1].answers_to(at[0].default_model or "")))

    def _default(self) -> Place:
        for provider in self._default_providers():
            if model := self._default_model(provider):
                return provider, model
        raise NotFound("No provider that is on can do this; GET /v1/models lists the models there are.")

    def _default_providers(self) -> Iterable[Provider]:
        chosen = self._narrow or self._default_provider
        if chosen and (self._needs[0] == "chat" or self._narrow):
            return [self._provider(chosen)]
        return sorted(self._catalogue.on, key=lambda one: one.id != chosen)

    def _default_model(self, provider: Provider) -> Model | None:
        """The provider's default where it is of the right kind, else its first row that is."""
        own = provider.model(provider.default_model) if provider.default_model else None
        rows = (own, *provider.models)
        return next((model for model in rows if model and model.enabled and model.has(self._needs[0])), None)


def _providers_in_turn(places: Iterable[Place]) -> list[Place]:
    """Each provider's best first, then each one's second best: who is down takes only one of the few tries."""
    seen: dict[str, int] = {}
    rounds = []
    for provider, model in places:
        seen[provider.id] = seen.get(provider.id, 0) + 1
        rounds.append((seen[provider.id], (provider, model)))
    return [place for _, place in sorted(rounds, key=lambda each: each[0])]


def _how_to(provider: Provider) -> str:
    if provider.switch:
        return f"set {provider.switch}."
    return f"an administrator can switch it on, or give it a key, at /providers/{provider.id}."
