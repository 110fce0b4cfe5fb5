"""Adapters on the simulator: every kind with its address, key and a model that its vendor knows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from flaskllm.adapters import load_adapter
from flaskllm.adapters.base import ChunkSource, ProviderAdapter
from flaskllm.adapters.http import Transport
from flaskllm.domain.catalogue import Candidate, Endpoint, Key, Model, Provider
from flaskllm.domain.chat import ChatRequest, ChatResult, Chunk
from flaskllm.domain.usage import Usage
from tests.upstream import Upstream

SECONDS = 10.0


@dataclass(frozen=True)
class Place:
    """A kind at the simulator: ``vendor`` is its prefix there."""

    kind: str
    vendor: str = ""
    path: str = ""
    model: str = "a-model"
    connection: tuple[tuple[str, Any], ...] = ()


PLACES = {
    "openai": Place("openai", "openai", "/openai/v1", "gpt-4o-mini"),
    "azure classic": Place("azure_openai", "azure", "/azure", "gpt-4o-mini"),
    "azure v1": Place("azure_openai", "azure", "/azure", "gpt-4o-mini", (("api_version", ""),)),
    "anthropic": Place("anthropic", "anthropic", "/anthropic", "claude-haiku-4-5"),
    "gemini": Place("gemini", "gemini", "/gemini", "gemini-2.5-flash"),
    "grok": Place("grok", "grok", "/grok/v1", "grok-3"),
    "ngrok": Place("ngrok", "ngrok", "/ngrok", "llama3"),
    "openai_compatible": Place("openai_compatible", "llama", "/llama/v1", "llama3"),
    "demo": Place("demo", model="demo"),
}
WITH_WIRE = [name for name in PLACES if name != "demo"]


_made: list[Asker] = []


def close_all() -> None:
    """Drop every connection that was kept; each test ends so."""
    while _made:
        _made.pop().adapter.transport.close()


class Asker:
    """One adapter, its candidate, and short ways to ask it."""

    def __init__(self, adapter: ProviderAdapter, candidate: Candidate) -> None:
        self.adapter = adapter
        self.candidate = candidate
        _made.append(self)

    def request(self, messages: str | list[dict[str, Any]], **params: Any) -> ChatRequest:
        said = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        own = {name: params.pop(name) for name in ("extras", "drop_params") if name in params}
        return ChatRequest(self.candidate.model.name, said, params, **own)

    def chat(self, messages: str | list[dict[str, Any]], *, until: float | None = None, **params: Any) -> ChatResult:
        request = self.request(messages, **params)
        return self.adapter.chat(request, self.candidate, until or time.monotonic() + SECONDS)

    def open(self, messages: str | list[dict[str, Any]], *, until: float | None = None, **params: Any) -> ChunkSource:
        request = replace(self.request(messages, **params), stream=True)
        return self.adapter.stream(request, self.candidate, until or time.monotonic() + SECONDS)

    def stream(self, messages: str | list[dict[str, Any]], **params: Any) -> list[Chunk]:
        return drained(self.open(messages, **params))

    def joined(self, messages: str | list[dict[str, Any]], **params: Any) -> Joined:
        return join(self.stream(messages, **params))

    @property
    def kept(self) -> int:
        """Connections that wait for the next call."""
        return sum(len(idle) for idle in self.adapter.transport._idle.values())


def asker(
    name: str,
    upstream: Upstream,
    *,
    base: str | None = None,
    model: Mapping[str, Any] | None = None,
    connection: Mapping[str, Any] | None = None,
) -> Asker:
    """A kind of `PLACES` on the simulator, or at another ``base``; ``model``: other fields of its row."""
    place = PLACES[name]
    fields = {"name": place.model, "backend_model": place.model, **(model or {})}
    row = Model(id="m", provider_id=place.kind, **fields)
    address = base or (f"{upstream.url}{place.path}" if place.vendor else "")
    key = Key("k", upstream.keys[place.vendor]) if place.vendor else None
    endpoint = Endpoint("e", address, (key,) if key else ())
    held = {**dict(place.connection), **(connection or {})}
    provider = Provider(place.kind, place.kind, endpoints=(endpoint,), connection=held, models=(row,))
    return Asker(load_adapter(place.kind)(provider, Transport()), Candidate(provider, row, endpoint, key))


def drained(source: ChunkSource, until: float | None = None, into: list[Chunk] | None = None) -> list[Chunk]:
    """All chunks of a stream; a failure is the caller's, what came before it stands in ``into``."""
    chunks = [] if into is None else into
    while (found := source.read(until or time.monotonic() + SECONDS)) is not None:
        chunks += found
    source.close()
    return chunks


@dataclass
class Joined:
    """A stream put together as a client does."""

    text: str
    reasoning: str
    calls: list[dict[str, str]]
    finish_reason: str | None
    usage: Usage | None
    heads: set[tuple[Any, ...]]


def join(chunks: list[Chunk], index: int = 0) -> Joined:
    joined = Joined("", "", [], None, None, set())
    for chunk in chunks:
        joined.usage = chunk.usage or joined.usage
        joined.heads.add(tuple(chunk.body.get(name) for name in ("id", "created", "model", "object")))
        for choice in chunk.body.get("choices") or ():
            if choice["index"] == index:
                _add(joined, choice)
    return joined


def _add(joined: Joined, choice: dict[str, Any]) -> None:
    delta = choice.get("delta") or {}
    joined.text += delta.get("content") or ""
    joined.reasoning += delta.get("reasoning_content") or ""
    joined.finish_reason = choice.get("finish_reason") or joined.finish_reason
    for call in delta.get("tool_calls") or ():
        if call["index"] == len(joined.calls):
            joined.calls.append({"id": call["id"], "name": call["function"]["name"], "arguments": ""})
        joined.calls[call["index"]]["arguments"] += call["function"].get("arguments") or ""


def calls_in(result: ChatResult) -> list[dict[str, str]]:
    message = result.body["choices"][0]["message"]
    return [{"id": call["id"], **call["function"]} for call in message.get("tool_calls") or ()]
