"""Equal questions asked once: exact, opted into with each call, and never from one caller to another unless shared."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Generic

from flaskllm.domain.answer import RateStatus, Tried
from flaskllm.domain.call import CallContext
from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.chat import ChatRequest, ChatResult, Chunk
from flaskllm.domain.embedding import EmbedRequest
from flaskllm.domain.streamed import Streamed
from flaskllm.domain.usage import Usage
from flaskllm.errors import DomainError, Unavailable
from flaskllm.repositories.answers import AnswerStore
from flaskllm.services.cached import Cached, Form, Result
from flaskllm.services.model_router import Plan

log = logging.getLogger(__name__)

MakeFrames = Callable[[ChatResult], Iterator[Chunk]]
"""A whole answer as the stream it might have been."""
Question = ChatRequest | EmbedRequest


class ResponseCache:
    """``kept_s``: how long an answer serves; 0 switches the cache off. ``shared``: it serves every caller.

    ``largest``: bytes of an answer that is kept.
    """

    def __init__(self, store: AnswerStore, *, frames: MakeFrames, kept_s: float, shared: bool, largest: int) -> None:
        self._store, self._frames, self._kept_s, self._shared = store, frames, kept_s, shared
        self._largest = largest
        self._flights: dict[str, _Flight[Any]] = {}
        self._lock = threading.Lock()

    def inquire(
        self, request: Question, plan: Plan, call: CallContext, *, form: Form[Result], patience_s: float
    ) -> Inquiry[Result]:
        """Look for an equal question's answer. Where somebody in this process asks it just now, wait for theirs.

        Waits at most ``patience_s`` seconds; who finds nothing then, or whose leader failed, asks by themselves, all
        at once. Raises nothing: a cache that is away is an empty one.
        """
        key = self._key(request, plan, call)
        if key is None:
            return Inquiry(self, None, plan, form)
        flight: _Flight[Result]
        flight, leads = self._board(key)
        if not leads:
            flight.over.wait(patience_s)
            return Inquiry(self, key, plan, form, cached=flight.answer)
        inquiry = Inquiry(self, key, plan, form, flight=flight)
        if (cached := self._get(key, form)) is not None:
            inquiry.cached = cached
            self.land(key, flight, cached)
        return inquiry

    def _key(self, request: Question, plan: Plan, call: CallContext) -> str | None:
        """A hash of the question and of who asks whom; None where the caller did not opt in, or there is no cache.

        Whom: the name as it was asked, and what it stands for now, which no chance, price or breaker changes.
        """
        if not call.uses_cache or not self._kept_s:
            return None
        asked = {
            "whose": None if self._shared else call.principal.subject,
            "asked": [request.model, request.provider],
            "of": [[provider.id, model.name, model.backend_model] for provider, model in plan.named],
            "route": plan.route and asdict(plan.route),
            "params": request.params,
            "extras": request.extras,
            "rules": [request.drop_params, sorted(request.hints)],
            **_put(request),
        }
        text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(b"flaskllm cached answer\x00" + text.encode()).hexdigest()

    def _board(self, key: str) -> tuple[_Flight[Any], bool]:
        """The flight of that question, and whether it is the caller's own to lead."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                return flight, False
            flight = self._flights[key] = _Flight()
            return flight, True

    def land(self, key: str, flight: _Flight[Result], answer: Cached[Result] | None) -> None:
        """The leader's question is answered, or will not be: all who wait go on."""
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]
        flight.answer = answer
        flight.over.set()

    def _get(self, key: str, form: Form[Result]) -> Cached[Result] | None:
        try:
            raw = self._store.get(key)
        except Unavailable:
            return None
        return None if raw is None else form.read(raw)

    def put(self, key: str, cached: Cached[Result], form: Form[Result]) -> None:
        """Keep a complete answer."""
        written = form.write(cached) if form.is_whole(cached.result) else None
        if written is None or len(written) > self._largest:
            return
        try:
            self._store.put(key, written, kept_s=self._kept_s)
        except Unavailable:
            log.warning("an answer could not be put into the cache")

    def recording(self, inquiry: Inquiry[ChatResult]) -> Recording | None:
        """For a question whose answer comes frame by frame; None where it is not for the cache."""
        return Recording(inquiry, most=self._largest) if inquiry.is_asked else None

    def replay(
        self,
        request: ChatRequest,
        call: CallContext,
        cached: Cached[ChatResult],
        *,
        candidate: Candidate,
        rates: tuple[tuple[str, RateStatus], ...],
    ) -> ReplayedStream:
        """An answer for a caller who wants a stream."""
        return ReplayedStream(request, call, cached, candidate=candidate, frames=self._frames, rates=rates)


def _put(request: Question) -> dict[str, Any]:
    """What a question asks about, by its kind."""
    if isinstance(request, EmbedRequest):
        return {"inputs": request.inputs}
    native = request.native
    return {
        "messages": request.messages,
        "native": native and [native.wire, _unstreamed(native.body), dict(native.headers), list(native.only)],
    }


def _unstreamed(body: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A question in its own words, less how its answer is to come."""
    return None if body is None else {name: held for name, held in body.items() if name != "stream"}


class _Flight(Generic[Result]):
    """A question that somebody asks just now; ``answer`` is there, or is not to be had, once it is ``over``."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.answer: Cached[Result] | None = None


class Inquiry(Generic[Result]):
    """One caller's question to the cache. ``cached``: the answer, where there is one; else the caller asks, and tells
    what came of it by `answered` or `close`, so that who waits for it goes on."""

    def __init__(
        self,
        cache: ResponseCache,
        key: str | None,
        plan: Plan,
        form: Form[Result],
        *,
        flight: _Flight[Result] | None = None,
        cached: Cached[Result] | None = None,
    ) -> None:
        self._cache, self._key, self._plan = cache, key, plan
        self._form: Form[Result] = form
        self._flight: _Flight[Result] | None = flight
        self.cached: Cached[Result] | None = cached

    @property
    def is_asked(self) -> bool:
        """Whether the caller opted in, and there is a cache."""
        return self._key is not None

    @property
    def said(self) -> str:
        """What the answer's header says of a question that was asked."""
        return "miss" if self.is_asked else "none"

    def answered(self, result: Result, cost: int | None, by: Candidate) -> None:
        """Keep it where it is complete, and give it to who waits also where it is not.

        Not where somebody stood in for whom the name stands for: that is no answer to this question, and who waits
        may not be allowed to ask them.
        """
        if self._key is not None and self._plan.names(by) and self._form.is_readable(result):
            cached = Cached(result, cost, by.name)
            try:
                self._cache.put(self._key, cached, self._form)
            finally:
                self._land(cached)
        self.close()

    def close(self) -> None:
        """There is no answer to give. A second time it does nothing."""
        self._land(None)

    def _land(self, cached: Cached[Result] | None) -> None:
        flight, self._flight = self._flight, None
        if flight is not None and self._key is not None:
            self._cache.land(self._key, flight, cached)


class Recording:
    """A streamed answer on its way into the cache. Nobody waits any longer for one that cannot be put together.

    ``most``: characters of one that can be.
    """

    def __init__(self, inquiry: Inquiry[ChatResult], *, most: int) -> None:
        self._inquiry, self._most = inquiry, most
        self._streamed: Streamed | None = Streamed(most=most)

    def note(self, chunk: Chunk) -> None:
        """One frame of it."""
        if self._streamed is not None and not self._streamed.note(chunk):
            self.broke_off()

    def again(self) -> None:
        """Somebody else is asked: what has come so far is not the answer."""
        if self._streamed is not None:
            self._streamed = Streamed(most=self._most)

    def ended(self, usage: Usage | None, dropped: Sequence[str], cost: int | None, by: Candidate) -> None:
        """It came to its own end."""
        result = None if self._streamed is None else self._streamed.result(usage, dropped)
        if result is not None:
            self._inquiry.answered(result, cost, by)
        self._inquiry.close()

    def broke_off(self) -> None:
        """It came to another."""
        self._streamed = None
        self._inquiry.close()


class ReplayedStream:
    """An answer from the cache as the stream it might have been; to a door it is a `ChatStream` that never waits."""

    cache, attempts, cost = "hit", 0, 0
    story: tuple[Tried, ...] = ()
    error: DomainError | None = None

    def __init__(
        self,
        request: ChatRequest,
        call: CallContext,
        cached: Cached[ChatResult],
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
