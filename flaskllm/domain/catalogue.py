"""Providers, models, keys and prices as one immutable whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from flaskllm.domain.pricing import Price
from flaskllm.domain.route import Route

TIERS = ("small", "medium", "large")
AUTO = "auto"
MODEL_TYPES = ("chat", "embedding", "image")
ABILITIES = ("chat", "stream", "tools", "json_schema", "images", "reasoning", "embeddings", "image_generation")
OF_TYPE = {
    "chat": frozenset({"chat", "stream"}),
    "embedding": frozenset({"embeddings"}),
    "image": frozenset({"image_generation"}),
}
"""What a model of a type can do without its row saying so."""
UNLISTED = {"chat": frozenset({"tools", "json_schema", "images"})}
"""What else is believed of a model that lists no abilities: the provider knows better and may refuse."""


@dataclass(frozen=True, slots=True)
class Key:
    """A provider's key, in clear; never in a repr."""

    id: str
    value: str = field(repr=False)

    @property
    def hint(self) -> str:
        return "••••" + self.value[-4:] if len(self.value) > 8 else "••••"


@dataclass(frozen=True, slots=True)
class KeyRest:
    """A key put aside: ``until`` in seconds since 1970, ``strikes`` pauses in a row, the provider's words, masked."""

    key_id: str
    hint: str
    until: float
    strikes: int
    error: str


@dataclass(frozen=True, slots=True)
class Circuit:
    """A way to a provider that nobody takes while it fails: since when (seconds since 1970), and its first words."""

    id: str
    opened_at: float
    error: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of a provider: the only one, or a region. ``keys`` are used in turn."""

    id: str
    base_url: str
    keys: tuple[Key, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """A model as it is asked for (``name``) and as it is called (``backend_model``).

    ``max_tokens``: most output tokens; ``context_window``: most tokens in all; ``timeout_s``: seconds.
    ``params``: this model's own parameter rules, by OpenAI's name: ``"drop"``, ``"refuse"`` or another name.
    ``tier_head``: comes first when its tier is asked for. ``prices``: the price list as documents show it.
    """

    id: str
    provider_id: str
    name: str
    backend_model: str
    display_name: str = ""
    description: str = ""
    type: str = "chat"
    tier: str | None = None
    tier_head: bool = False
    aliases: tuple[str, ...] = ()
    context_window: int | None = None
    max_tokens: int | None = None
    abilities: frozenset[str] = frozenset()
    price: Price | None = None
    prices: tuple[Mapping[str, Any], ...] = ()
    timeout_s: float | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    training_data: str | None = None
    enabled: bool = True

    def has(self, ability: str) -> bool:
        """Whether the model can do it; a model that lists no abilities is taken to be able to do all of its type."""
        own = self.abilities or UNLISTED.get(self.type, frozenset())
        return ability in own or ability in OF_TYPE.get(self.type, frozenset())

    def answers_to(self, name: str) -> bool:
        """Whether it bears that name or alias."""
        return name == self.name or name in self.aliases


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that one call to a provider may take; None: as everywhere.

    ``connect_s``: until it is connected, the handshake too. ``first_byte_s``: from the question to the answer's first
    byte, of a stream to its first frame. ``idle_s``: between two frames of a stream. ``total_s``: all together.
    """

    connect_s: float | None = None
    first_byte_s: float | None = None
    idle_s: float | None = None
    total_s: float | None = None


TIMEOUTS = ("connect_s", "first_byte_s", "idle_s", "total_s")
LONGEST_S = 600
"""For each of them, and for a ``timeout_s``."""


@dataclass(frozen=True, slots=True)
class Provider:
    """Somebody who answers: its kind of wire, its addresses, its models.

    ``uid``: the id that S2's document prints. ``rank``: its place in the order of the default.
    ``last_resort``: answers unnamed requests only where nobody else is on (`demo`). ``switch``: what to set where it
    is off. ``own_address``: an administrator entered it, over HTTP; the operator's words are trusted further.
    """

    id: str
    kind: str
    uid: str = ""
    rank: int = 1000
    last_resort: bool = False
    display_name: str = ""
    description: str = ""
    on: bool = True
    endpoints: tuple[Endpoint, ...] = ()
    connection: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[Model, ...] = ()
    default_model: str | None = None
    timeout_s: float | None = None
    timeouts: Timeouts = Timeouts()
    switch: str = ""
    own_address: bool = False

    def model(self, name: str) -> Model | None:
        """The enabled model of that name or alias."""
        named = next((model for model in self.models if model.enabled and model.name == name), None)
        return named or next((model for model in self.models if model.enabled and name in model.aliases), None)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to answer one request: this model, at this address, with this key."""

    provider: Provider
    model: Model
    endpoint: Endpoint
    key: Key | None = None

    @property
    def name(self) -> str:
        return f"{self.provider.id}/{self.model.name}"


@dataclass(frozen=True)
class Catalogue:
    """All there is to choose from, at one version; replaced whole and never changed.

    ``rests``: the keys that are put aside, by their ids. ``circuits``: the breakers that are open, by theirs.
    ``routes``: by their names.
    """

    version: int
    providers: tuple[Provider, ...]
    rests: Mapping[str, KeyRest] = field(default_factory=dict)
    circuits: Mapping[str, Circuit] = field(default_factory=dict)
    routes: Mapping[str, Route] = field(default_factory=dict)

    @cached_property
    def by_id(self) -> dict[str, Provider]:
        return {provider.id: provider for provider in self.providers}

    @cached_property
    def ordered(self) -> tuple[Provider, ...]:
        """In the order of the default: the shipped ones as ``docs/api.md`` lists them, others, last resorts."""
        return tuple(sorted(self.providers, key=lambda one: (one.last_resort, one.rank, one.id)))

    @cached_property
    def on(self) -> tuple[Provider, ...]:
        return tuple(provider for provider in self.ordered if provider.on)

    @cached_property
    def by_name(self) -> dict[str, tuple[tuple[Provider, Model], ...]]:
        """Each name to the models that bear it, names before aliases, providers in order."""
        found: dict[str, list[tuple[Provider, Model]]] = {}
        for provider, model in self.models():
            found.setdefault(model.name, []).append((provider, model))
        for provider, model in self.models():
            for alias in model.aliases:
                found.setdefault(alias, []).append((provider, model))
        return {name: tuple(places) for name, places in found.items()}

    def models(self) -> Iterator[tuple[Provider, Model]]:
        """Every enabled model of every provider that is on."""
        for provider in self.on:
            for model in provider.models:
                if model.enabled:
                    yield provider, model


def origin_of(address: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: what a key is given to. ``("", "", None)`` for no address.

    >>> origin_of("HTTPS://api.example.org/v1") == origin_of("https://api.example.org:443")
    True
    """
    parts = urlsplit(address)
    return (parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme))
