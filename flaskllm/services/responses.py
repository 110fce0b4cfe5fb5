"""OpenAI's Responses: threads that the caller goes on from by the id of their last answer.

An answer is stored after its money is settled. Where it cannot be stored it is told all the same, marked ``store:
false``: it is paid for, and the caller sees that nothing can go on from it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from flaskllm.domain.answer import Answer
from flaskllm.domain.call import CallContext
from flaskllm.domain.chat import ChatRequest, Chunk
from flaskllm.domain.estimate import prompt_estimate
from flaskllm.domain.principal import Principal
from flaskllm.domain.response import (
    Asked,
    Item,
    Line,
    Response,
    Step,
    in_our_names,
    in_our_words,
    is_response_id,
    lines_of,
    named_input,
    new_response_id,
    newest,
    response_of,
)
from flaskllm.domain.response_output import Output, usage_of
from flaskllm.domain.text import holdable
from flaskllm.domain.usage import Usage
from flaskllm.errors import ContextLengthExceeded, Detail, DomainError, InvalidRequest, NotFound, invalid
from flaskllm.repositories.responses import NO_THREAD, SWEEP, ResponseStore, Thread, missing
from flaskllm.services.chat_orchestrator import ChatOrchestrator
from flaskllm.services.chat_stream import ChatStream, StreamHeaders
from flaskllm.services.response_cache import ReplayedStream

log = logging.getLogger(__name__)

MOST_DEPTH, MOST_SIZE = 1_000, 20 * 2**20
"""Responses and characters of a thread that go into one question."""
MOST_RECALLED = 100
"""Responses that the items of one question may refer to."""
MOST_TRIES = 3
"""A thread that a model finds too long is halved and sent again: our count of tokens is a guess."""
RESERVE = 1_024
"""Tokens kept for the answer where the caller names no bound."""
MOST_SWEEPS = 20
OPAQUE = "encrypted_content"
PREVIOUS = "previous_response_id"

Told = TypeVar("Told", Answer, ChatStream | ReplayedStream)


class ResponseService:
    """Responses of callers, each its owner's alone."""

    def __init__(self, store: ResponseStore, orchestrator: ChatOrchestrator) -> None:
        self._store = store
        self._chat = orchestrator

    def create(self, asked: Asked, call: CallContext) -> tuple[Response, Answer]:
        """One answer, stored if it is to be.

        Raises `NotFound` for a previous response that is not the caller's or not there, `InvalidRequest` naming what
        cannot be asked, and what `ChatOrchestrator.complete` raises; nothing is stored then.
        """
        talk = self._prepare(asked, call)
        answer = self._fitting(lambda request: self._chat.complete(request, call), talk, call)
        choice = answer.result.body["choices"][0]
        output = Output(talk.response_id, summarised=asked.summarised)
        output.provider = answer.candidate.provider.id
        for _ in (*output.take(choice["message"], choice.get("logprobs")), *output.end(answer.result.finish_reason)):
            pass
        response = talk.keep(output, answer.model, answer.usage, answer.cost)
        return response, replace(answer, dropped=in_our_names(answer.dropped))

    def stream(self, asked: Asked, call: CallContext) -> ResponseStream:
        """The same, step by step; comes back when `ChatOrchestrator.stream` does, and raises like it."""
        talk = self._prepare(asked, call)
        return ResponseStream(self._fitting(lambda request: self._chat.stream(request, call), talk, call), talk)

    def read(self, response_id: str, principal: Principal) -> tuple[Response, list[Item]]:
        """A stored response and the items that it answers.

        Raises `NotFound`, the same for never, gone and somebody else's.
        """
        return self._store.read(principal.user_id, _known(response_id))

    def delete(self, response_id: str, principal: Principal) -> None:
        """Raises `NotFound`."""
        self._store.delete(principal.user_id, _known(response_id))

    # -- what is asked -----------------------------------------------------------------------------------------------

    def _prepare(self, asked: Asked, call: CallContext) -> _Talk:
        """What will be asked, and where the answer goes. The store is read first: with it away nothing is spent."""
        owner_id = call.principal.user_id
        thread = self._thread(asked, owner_id)
        items = self._recalled(asked, owner_id)
        before = [(PREVIOUS, item) for item in thread.items]
        told = [*before, *zip(asked.places, items, strict=True)]
        lines = lines_of(told)
        head = [Line({"role": "system", "content": asked.instructions}, "instructions")] if asked.instructions else []
        talk = _Talk(self._store, owner_id, asked, items, thread, head, lines)
        if any(OPAQUE in item for _, item in told):
            who = self._chat.providers(talk.request(lines), call.principal)
            return replace(talk, lines=lines_of(told, provider=next(iter(who)))) if len(who) == 1 else talk
        return talk

    def _thread(self, asked: Asked, owner_id: str) -> Thread:
        if asked.previous_id is None:
            return NO_THREAD
        bounds = {"most_depth": MOST_DEPTH, "most_size": MOST_SIZE}
        try:
            thread = self._store.thread(owner_id, _known(asked.previous_id), **bounds)
        except NotFound:
            what = "is no response of yours, or one before it is gone"
            raise NotFound(f"{PREVIOUS}: {what}", details=[Detail(field=PREVIOUS, message=what)]) from None
        if not thread.is_whole and not asked.cuts:
            what = f"has more than {MOST_DEPTH} responses or {MOST_SIZE} characters before it; send truncation: auto"
            raise ContextLengthExceeded(what, details=[Detail(field=PREVIOUS, message=what)])
        return thread

    def _recalled(self, asked: Asked, owner_id: str) -> list[Item]:
        """The items with those that are only referred to, and with what was opaque in those that came back without.

        Raises `InvalidRequest` for a reference to nothing.
        """
        wanted = {name for item in asked.items if _is_to_recall(item) and (name := response_of(item.get("id")))}
        if len(wanted) > MOST_RECALLED:
            raise invalid("input", f"refers to items of more than {MOST_RECALLED} responses")
        known = self._store.items(owner_id, wanted) if wanted else {}
        return [_recall(item, place, known) for place, item in zip(asked.places, asked.items, strict=True)]

    def _fitting(self, ask: Callable[[ChatRequest], Told], talk: _Talk, call: CallContext) -> Told:
        """Ask with the whole of it, or, where the caller wants that, with as much as the model takes."""
        lines, tries_left = self._first_try(talk, call), MOST_TRIES if talk.asked.cuts else 1
        while True:
            try:
                return ask(talk.request(lines))
            except DomainError as error:
                tries_left -= 1
                if tries_left and error.code == ContextLengthExceeded.code and len(lines) > 1:
                    lines = newest(lines, prompt_estimate(line.message for line in lines) // 2)
                elif isinstance(error, InvalidRequest):
                    raise in_our_words(error, talk.places(lines)) from error
                else:
                    raise

    def _first_try(self, talk: _Talk, call: CallContext) -> list[Line]:
        if not talk.asked.cuts:
            return talk.lines
        request = talk.request(talk.lines)
        window = self._chat.window(request, call.principal)
        if window is None:
            return talk.lines
        reserve = min(request.output_cap or RESERVE, window // 2)
        return newest(talk.lines, window - reserve - prompt_estimate(line.message for line in talk.head))

    def sweep(self) -> int:
        """Forget what has expired, a bounded number at once. Gives how many."""
        gone = 0
        for _ in range(MOST_SWEEPS):
            swept = self._store.sweep()
            gone += swept
            if swept < SWEEP:
                break
        return gone


def _known(response_id: str) -> str:
    if not is_response_id(response_id):
        raise missing()
    return response_id


def _is_to_recall(item: Item) -> bool:
    """References, and what a vendor may have signed."""
    kind = item.get("type")
    is_a_models = kind in ("reasoning", "function_call") or item.get("role") == "assistant"
    return kind == "item_reference" or (is_a_models and not item.get(OPAQUE))


def _recall(item: Item, place: str, known: Mapping[str, Item]) -> Item:
    """The item, or what it stands for, or what it was when it was said."""
    stored = known.get(item.get("id") or "")
    if item.get("type") == "item_reference":
        if stored is None:
            raise invalid(f"{place}.id", "refers to no stored item of yours")
        return stored
    if stored is None or not _is_to_recall(item) or not _is_same(item, stored):
        return item
    return {**item, OPAQUE: stored[OPAQUE]} if OPAQUE in stored else item


def _is_same(item: Item, stored: Item) -> bool:
    return (item.get("type") or "message") == stored["type"] and item.get("call_id") == stored.get("call_id")


@dataclass(frozen=True, slots=True)
class _Talk:
    """One question on its way: what it is made of, and where its answer is kept."""

    store: ResponseStore
    owner_id: str
    asked: Asked
    items: list[Item]
    thread: Thread
    head: list[Line]
    lines: list[Line]
    response_id: str = field(default_factory=new_response_id)
    created_at: int = field(default_factory=lambda: int(time.time()))

    def request(self, lines: list[Line]) -> ChatRequest:
        return replace(self.asked.request, messages=[line.message for line in (*self.head, *lines)])

    def places(self, lines: list[Line]) -> list[str]:
        return [line.place for line in (*self.head, *lines)]

    def begun(self, model: str) -> Response:
        """The response while it is being made."""
        asked = self.asked
        return Response(
            self.response_id, self.created_at, "in_progress", holdable(model), asked.said, asked.store, asked.sealed
        )

    def keep(self, output: Output, model: str, usage: Usage, cost: int | None) -> Response:
        """The response as it ended, stored where it is to be."""
        response = replace(
            self.begun(model),
            status=output.status,
            reason=output.reason,
            output=output.items,
            completed_at=int(time.time()) if output.status == "completed" else None,
            usage=usage_of(usage, cost),
        )
        return response if not response.store or self._save(response) else replace(response, store=False)

    def _save(self, response: Response) -> bool:
        given = named_input(self.items, self.response_id)
        try:
            self.store.save(self.owner_id, response, given, self.asked.previous_id, self.thread)
        except Exception as error:  # noqa: BLE001  (the answer is paid for, and has to be told whatever is wrong here)
            log.error("a response could not be stored: %s", type(error).__name__)
            return False
        return True


class ResponseStream(StreamHeaders):
    """Iterate for lists of `Step`, None (silence: write a comment), and last a `Response` or a `DomainError`.

    The response is stored before it comes out. Where the caller hangs up, or the provider breaks off, nothing is.
    """

    def __init__(self, stream: ChatStream | ReplayedStream, talk: _Talk) -> None:
        super().__init__(stream)
        self._talk = talk
        self._output = Output(talk.response_id, summarised=talk.asked.summarised)
        self._ended = False

    def __iter__(self) -> Iterator[list[Step] | Response | DomainError | None]:
        return self

    def __next__(self) -> list[Step] | Response | DomainError | None:
        if self._ended:
            raise StopIteration
        try:
            item = next(self._stream)
        except StopIteration:
            return self._end()
        if isinstance(item, Chunk):
            return [step for chunk in self._joined(item) for step in self._steps(chunk)]
        self._ended = item is not None
        return item

    def _joined(self, first: Chunk) -> Iterator[Chunk]:
        """The frame and those that are at hand behind it, so that a burst is one write."""
        yield first
        yield from iter(self._stream.at_hand, None)

    def _steps(self, chunk: Chunk) -> Iterator[Step]:
        for choice in chunk.body.get("choices") or ():
            if not choice.get("index"):
                self._output.provider = self._stream.candidate.provider.id if self._stream.candidate else ""
                yield from self._output.take(choice.get("delta") or {}, choice.get("logprobs"))

    def _end(self) -> list[Step] | Response:
        """All frames are read and settled: first what closes the items, then the response."""
        if self._output.status == "in_progress":
            return list(self._output.end(self._stream.finish_reason))
        self._ended = True
        return self._talk.keep(self._output, self.begun().model, self._stream.usage or Usage(), self._stream.cost)

    def begun(self) -> Response:
        """The response as it is while it is being made."""
        candidate = self._stream.candidate
        named = candidate.model.name if candidate else self._talk.asked.request.model
        return self._talk.begun(str(self._stream.head.get("model") or named or ""))

    def failed(self, error: Mapping[str, str]) -> Response:
        """The response as far as it came; ``error``: ``{code, message}``."""
        return replace(self.begun(), status="failed", error=error, output=self._output.so_far(), store=False)

    def close(self) -> None:
        """The door is done with it; any number of times."""
        self._ended = True
        self._stream.close()

    @property
    def dropped(self) -> tuple[str, ...]:
        return in_our_names(super().dropped)
