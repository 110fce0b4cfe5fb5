"""Equal questions asked once: exact, opted into with each call, and never from one caller to another unless shared."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from flaskllm.domain.answer import Answer, RateStatus, Tried
from flaskllm.domain.call import CallContext
from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.chat import ChatRequest, ChatResult, Chunk
from flaskllm.domain.usage import Usage
from flaskllm.errors import DomainError, Unavailable
from flaskllm.repositories.answers import AnswerStore

log = logging.getLogger(__name__)

MakeFrames = Callable[[ChatResult], Iterator[Chunk]]
"""A whole answer as the stream it might have been."""
WHOLE = frozenset({"stop", "tool_calls"})
"""How a complete answer ends; one that was cut or filtered may be whole the next time."""
LARGEST = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Cached:
    """An answer from the cache, and what it cost when it was asked for."""

    result: ChatResult
    cost: int | None


class ResponseCache:
    """``kept_s``: how long an answer serves; 0 switches the cache off. ``shared``: it serves every caller."""

    def __init__(self, store: AnswerStore, *, frames: MakeFrames, kept_s: float, shared: bool) -> None:
        self._store, self._frames, self._kept_s, self._shared = store, frames, kept_s, shared
        self._flights: dict[str, _Flight] = {}
        self._lock = threading.Lock()

    def key(self, request: ChatRequest, candidate: Candidate, call: CallContext) -> str | None:
        """A hash of the question and of who asks whom; None where the caller did not opt in, or there is no cache."""
        if not call.uses_cache or not self._kept_s:
            return None
        native = request.native
        asked = {
            "whose": None if self._shared else call.principal.subject,
            "asked": [request.model, request.provider],
            "of": [candidate.provider.id, candidate.model.name, candidate.model.backend_model],
            "messages": request.messages,
            "params": request.params,
            "extras": request.extras,
            "rules": [request.drop_params, sorted(request.hints)],
            "native": native and [native.wire, _unstreamed(native.body), dict(native.headers), list(native.only)],
        }
        text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(b"flaskllm cached answer\x00" + text.encode()).hexdigest()

    @contextmanager
    def flight(self, key: str, patience_s: float) -> Iterator[None]:
        """One at a time in this process, so that who comes second finds the answer. Patience over: on without it."""
        with self._lock:
            flight = self._flights.setdefault(key, _Flight())
            flight.aboard += 1
        holds = flight.lock.acquire(timeout=patience_s)
        try:
            yield
        finally:
            if holds:
                flight.lock.release()
            with self._lock:
                flight.aboard -= 1
                if not flight.aboard:
                    del self._flights[key]

    def get(self, key: str) -> Cached | None:
        """A cache that is away is an empty one."""
        try:
            raw = self._store.get(key)
        except Unavailable:
            return None
        return None if raw is None else _read(raw)

    def put(self, key: str, answer: Answer) -> None:
        """Keep a complete answer; the answer of another model than was asked first is not one to this question."""
        result = answer.result
        endings = {choice.get("finish_reason") for choice in result.body.get("choices") or [{}]}
        written = _write(Cached(result, answer.cost))
        if not endings <= WHOLE or len(written) > LARGEST:
            return
        try:
            self._store.put(key, written, kept_s=self._kept_s)
        except Unavailable:
            log.warning("an answer could not be put into the cache")

    def replay(
        self,
        request: ChatRequest,
        call: CallContext,
        cached: Cached,
        *,
        candidate: Candidate,
        rates: tuple[tuple[str, RateStatus], ...],
    ) -> ReplayedStream:
        """An answer for a caller who wants a stream."""
        return ReplayedStream(request, call, cached, candidate=candidate, frames=self._frames, rates=rates)


def _unstreamed(body: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A question in its own words, less how its answer is to come."""
    return None if body is None else {name: held for name, held in body.items() if name != "stream"}


class _Flight:
    """A lock, and how many hold or want it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.aboard = 0


def _write(cached: Cached) -> bytes:
    result = cached.result
    held = {
        "cost": cached.cost,
        "body": result.body,
        "usage": asdict(result.usage) if result.usage else None,
        "dropped": list(result.dropped),
        "raw": result.raw.decode() if result.raw is not None else None,
        "own": result.own.decode() if result.own is not None else None,
    }
    return json.dumps(held, separators=(",", ":")).encode()


def _read(raw: bytes) -> Cached:
    held = json.loads(raw)
    result = ChatResult(
        body=held["body"],
        usage=Usage(**held["usage"]) if held["usage"] else None,
        raw=held["raw"].encode() if held["raw"] is not None else None,
        dropped=tuple(held["dropped"]),
        own=held["own"].encode() if held["own"] is not None else None,
    )
    return Cached(result, held["cost"])


class ReplayedStream:
    """An answer from the cache as the stream it might have been; to a door it is a `ChatStream` that never waits."""

    cache, attempts, cost = "hit", 0, 0
    story: tuple[Tried, ...] = ()
    error: DomainError | None = None

    def __init__(
        self,
        request: ChatRequest,
        call: CallContext,
        cached: Cached,
        *,
        candidate: Candidate,
        frames: MakeFrames,
        rates: tuple[tuple[str, RateStatus], ...],
    ) -> None:
        body = cached.result.body
        self.request, self.call, self.candidate, self.rates = request, call, candidate, rates
        self.dropped = tuple(cached.result.dropped)
        self.usage = cached.result.usage
        self.finish_reason = cached.result.finish_reason
        self.head: dict[str, Any] = {name: body.get(name) for name in ("id", "created", "model")}
        self._frames = (chunk for chunk in frames(cached.result) if chunk.body.get("choices"))

    def __iter__(self) -> Iterator[Chunk | DomainError | None]:
        return self

    def __next__(self) -> Chunk | DomainError | None:
        return next(self._frames)

    def at_hand(self) -> Chunk | None:
        """The next frame: all of them are."""
        return next(self._frames, None)

    def close(self) -> None:
        """There is nothing to let go."""
