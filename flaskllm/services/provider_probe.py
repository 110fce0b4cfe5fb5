"""A server that somebody wants to add by its address alone: what models it lists, and what they can do.

Looking costs nothing: the list of models is asked for, and nothing else. Trying out is a few short questions, which are
booked like all others under the name that the provider is to have. Nothing is kept until somebody says so, but for the
key, which goes back to the page sealed: bound to who sent it and to the address it is for, and for an hour.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from flaskllm.adapters.base import ListedModel, ProviderAdapter
from flaskllm.domain.call import CallContext
from flaskllm.domain.catalogue import Candidate, Endpoint, Key, Model, Provider, origin_of
from flaskllm.domain.provider import CHOICES, LONGEST_KEY, MODEL_ID, MOST_MODELS
from flaskllm.errors import InvalidRequest, ProviderFailure, ProviderKeyRejected, ProviderTimeout, invalid
from flaskllm.net.addresses import parse_url
from flaskllm.security import Undecryptable, Vault
from flaskllm.services.provider_check import FURTHER, QUESTIONS, CheckReport, ProviderCheck, in_words
from flaskllm.services.provider_connection import AddressRule
from flaskllm.services.provider_factory import ProviderFactory

LOOK_SECONDS = 10.0
"""For the list of models, connecting included."""
TRY_SECONDS = 15.0
"""For each question."""
KEPT_SECONDS = 3600
"""How long a page may be looked at before its key has to be given anew."""
ADDRESS, KEY = "api_base", "api_key"
"""The fields that faults are told at."""
KIND = "openai_compatible"
_NOT_IN_AN_ID = re.compile(r"[^a-z0-9]+")
_USUAL_LABELS = frozenset(
    {"api", "www", "openai", "ai", "llm", "inference", "gateway", "com", "net", "org", "io", "dev"}
)


@dataclass(frozen=True, slots=True)
class Found:
    """What a server lists. ``models``: those that can be taken, at most `MOST_MODELS`; ``fitting`` how many there are
    of them. ``unfit``: names that no model here can have. ``other``: what is neither chat, vectors nor images."""

    address: str
    listed: int
    fitting: int
    models: tuple[ListedModel, ...]
    unfit: tuple[str, ...]
    other: tuple[str, ...]
    seconds: float

    def first(self, kind: str) -> ListedModel | None:
        return next((model for model in self.models if model.type == kind), None)


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of one question: whether the ability was shown, and in which words, time and cost."""

    ability: str
    report: CheckReport


class ProviderProbe:
    """``addresses`` holds as for every provider whose address an administrator enters. ``look_seconds``: for the list
    of models, connecting included."""

    def __init__(
        self,
        factory: ProviderFactory,
        check: ProviderCheck,
        addresses: AddressRule,
        vault: Vault,
        *,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._look_seconds = look_seconds
        self._factory = factory
        self._check = check
        self._addresses = addresses
        self._vault = vault

    # -- looking ------------------------------------------------------------------------------------------------------

    def look(self, address: str, key: str | None, *, match: str = "") -> Found:
        """The server's list of models; those alone whose names hold ``match``.

        Raises `InvalidRequest`, at the address or at the key, for all that can be wrong with either.
        """
        server = self._server(address, key)
        began = time.monotonic()
        try:
            with self._factory.passing(server) as adapter:
                listed = adapter.listed_models(_way(server), began + self._look_seconds)
        except ProviderFailure as failure:
            raise _told(failure, self._look_seconds, with_key=key is not None) from None
        chosen = [model for model in listed if match.casefold() in model.name.casefold()]
        fitting = [model for model in chosen if model.type and _can_be_named(model.name)]
        return Found(
            address=server.endpoints[0].base_url,
            listed=len(listed),
            fitting=len(fitting),
            models=tuple(fitting[:MOST_MODELS]),
            unfit=tuple(model.name for model in chosen if model.type and not _can_be_named(model.name)),
            other=tuple(model.name for model in chosen if not model.type),
            seconds=time.monotonic() - began,
        )

    def _server(self, address: str, key: str | None, provider_id: str = "new") -> Provider:
        if not address:
            raise invalid(ADDRESS, "is missing")
        if key is not None and (len(key) > LONGEST_KEY or not re.fullmatch(r"[\x21-\x7e]+", key)):
            raise invalid(KEY, "must be the key itself, in printable ASCII without spaces")
        base = self._addresses.checked(address, ADDRESS)
        keys = (Key(f"{provider_id}:new", key),) if key is not None else ()
        return Provider(provider_id, KIND, endpoints=(Endpoint("main", base, keys),), own_address=True)

    # -- trying out ---------------------------------------------------------------------------------------------------

    def try_out(self, found: Found, key: str | None, call: CallContext, *, provider_id: str) -> list[Tried]:
        """A word, and where that comes also a stream, a tool and a schema, of the first chat model; a vector of the
        first model for those. Raises our own refusals (budgets, a database that is away)."""
        server = self._server(found.address, key, provider_id)
        with self._factory.passing(server) as adapter:
            return [*self._chat(adapter, server, found.first("chat"), call),
                    *self._vectors(adapter, server, found.first("embedding"), call)]  # fmt: skip

    def _chat(
        self, adapter: ProviderAdapter, server: Provider, model: ListedModel | None, call: CallContext
    ) -> list[Tried]:
        if model is None:
            return []
        found = [self._asked("chat", adapter, server, model, call)]
        if found[0].report.works:
            found += [self._asked(ability, adapter, server, model, call) for ability in FURTHER]
        return found

    def _vectors(
        self, adapter: ProviderAdapter, server: Provider, model: ListedModel | None, call: CallContext
    ) -> list[Tried]:
        return [] if model is None else [self._asked("embeddings", adapter, server, model, call)]

    def _asked(
        self, ability: str, adapter: ProviderAdapter, server: Provider, model: ListedModel, call: CallContext
    ) -> Tried:
        make = FURTHER.get(ability) or QUESTIONS[model.type or "chat"]
        candidate = _way(server, model)
        question = make(server.id, model.name)
        report = self._check.try_out(question, candidate, call, adapter=adapter, seconds=TRY_SECONDS)
        return Tried(ability, report)

    # -- the key between two pages ------------------------------------------------------------------------------------

    def sealed(self, key: str, address: str, owner: str) -> str:
        """The key as a page may carry it: of use to nobody but us, this person and this address."""
        return self._vault.encrypt(f"{int(time.time()) + KEPT_SECONDS}:{key}", context=_seal(address, owner))

    def opened(self, sealed: str, address: str, owner: str) -> str:
        """Raises `InvalidRequest`, at the key, for what is not for this person and address, or too old."""
        try:
            until, _, key = self._vault.decrypt(sealed, context=_seal(address, owner)).partition(":")
        except (Undecryptable, InvalidRequest):
            until, key = "0", ""
        if int(until) < time.time():
            raise invalid(KEY, "is needed once more: it was given for another address, or too long ago")
        return key


def proposed_id(address: str) -> str:
    """What a provider at this address could be called.

    >>> proposed_id("https://api.groq.com/openai/v1"), proposed_id("http://127.0.0.1:8000/v1")
    ('groq', 'server-8000')
    """
    target = parse_url(address, ADDRESS)
    if target.literal is not None or "." not in target.host:
        return f"server-{target.port}"
    labels = [label for label in target.host.split(".") if label not in _USUAL_LABELS]
    return _NOT_IN_AN_ID.sub("-", labels[-1] if labels else target.host).strip("-")[:64] or "server"


def _way(server: Provider, model: ListedModel | None = None) -> Candidate:
    name = model.name if model else "-"
    entry = Model(f"{server.id}/{name}", server.id, name, name, type=(model.type if model else None) or "chat")
    endpoint = server.endpoints[0]
    return Candidate(server, entry, endpoint, endpoint.keys[0] if endpoint.keys else None)


def _can_be_named(name: str) -> bool:
    return name not in CHOICES and re.fullmatch(MODEL_ID, name) is not None


def _seal(address: str, owner: str) -> str:
    """What a key is bound to: who sent it, and the scheme, host and port it is for."""
    scheme, host, port = origin_of(parse_url(address, ADDRESS).url)
    return f"provider_probe:{owner}:{scheme}://{host}:{port}"


def _told(failure: ProviderFailure, seconds: float, *, with_key: bool) -> InvalidRequest:
    """At which field, and in which words."""
    if isinstance(failure, ProviderKeyRejected):
        lacks = "It does not accept this key." if with_key else "It asks for a key."
        return invalid(KEY, f"{lacks} ({failure.message})")
    if isinstance(failure, ProviderTimeout):
        return invalid(ADDRESS, f"It did not answer within {seconds:g} s: is that the address, is it open?")
    return invalid(ADDRESS, in_words(failure))


LABELS: Mapping[str, str] = {
    "chat": "Answers",
    "stream": "Streams",
    "tools": "Calls tools",
    "json_schema": "Keeps to a JSON schema",
    "embeddings": "Makes vectors",
}
"""Abilities that are tried, in words."""
