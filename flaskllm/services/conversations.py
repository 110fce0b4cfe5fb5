"""Conversations: what of one is sent to a model, and how two writers of one are put in order.

A question is stored with its answer, in one step, after the answer is known. So a failure leaves no half turn, and two
messages sent at once both end up in the conversation, each with its own answer behind it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from flaskllm.domain.answer import Answer
from flaskllm.domain.call import CallContext
from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.chat import ChatRequest, Gathered
from flaskllm.domain.conversation import (
    Carried,
    Conversation,
    Cursor,
    Page,
    Reply,
    Said,
    Turn,
    canonical,
    is_ours,
    new_name,
    title_of,
    trim_to_window,
)
from flaskllm.domain.estimate import prompt_estimate
from flaskllm.domain.principal import Principal
from flaskllm.domain.text import holdable
from flaskllm.domain.usage import Usage
from flaskllm.errors import ContextLengthExceeded, DomainError, NotFound, invalid
from flaskllm.repositories.conversations import ConversationStore, missing
from flaskllm.services.chat_orchestrator import ChatOrchestrator
from flaskllm.services.chat_stream import ChatStream, StreamHeaders
from flaskllm.services.response_cache import ReplayedStream

log = logging.getLogger(__name__)

MOST_TURNS = 2_000
"""Turns of a conversation that are looked at for one call."""
MOST_TRIES = 3
"""A conversation that a model finds too long is halved and sent again: our count of tokens is a guess."""
ALWAYS_FITS = 2_000
"""Tokens that every chat model holds: so short a conversation need not be measured against one."""
RESERVE = 1_024
"""Tokens kept for the answer where the caller names no bound."""

Told = TypeVar("Told", Answer, ChatStream | ReplayedStream)
Window = Callable[[ChatRequest, Principal], int | None]
"""How many tokens the models that may answer can hold; None where nobody knows."""
Providers = Callable[[ChatRequest, Principal], frozenset[str]]
"""Who may answer, by the ids of providers."""


class ConversationService:
    """Conversations of callers, each in its owner's name space."""

    def __init__(
        self,
        store: ConversationStore,
        orchestrator: ChatOrchestrator,
        *,
        window: Window = lambda *_: None,
        providers: Providers = lambda *_: frozenset(),
    ) -> None:
        self._store = store
        self._chat = orchestrator
        self._window = window
        self._providers = providers

    def say(self, said: Said, call: CallContext) -> Reply:
        """One message and its answer, both stored.

        Raises `NotFound` for an id that we did not give out, `Unavailable` with the store away, and what
        `ChatOrchestrator.complete` raises; nothing is stored then.
        """
        place, request, turns = self._prepare(said, call)
        answer = self._fitting(lambda fitted: self._chat.complete(fitted, call), request, turns, place, call)
        gathered = Gathered()
        gathered.note((answer.result.body.get("choices") or [{}])[0].get("message") or {})
        place.keep(_answered(answer.text, answer.candidate, gathered))
        text, provider = holdable(answer.text), answer.candidate.provider.id
        return Reply(place.name, text, answer.model, provider, answer.usage, answer.cost, answer)

    def say_streamed(self, said: Said, call: CallContext) -> ConversationStream:
        """The same, piece by piece; comes back when `ChatOrchestrator.stream` does, and raises like it."""
        place, request, turns = self._prepare(said, call)
        stream = self._fitting(lambda fitted: self._chat.stream(fitted, call), request, turns, place, call)
        return ConversationStream(stream, place)

    def _prepare(self, said: Said, call: CallContext) -> tuple[_Place, ChatRequest, list[Turn]]:
        """Where the turn will go, and what is asked. The store is read first: with it away nothing is spent."""
        place = _Place(self._store, call.principal.user_id, said)
        before = [turn for turn in place.read() if turn.content]  # some providers refuse empty messages
        request = ChatRequest(said.model, [], dict(said.params), provider=said.provider, stream=said.stream)
        return place, request, [*self._for_whom_they_are(before, request, call), Turn("user", said.message)]

    def _for_whom_they_are(self, turns: list[Turn], request: ChatRequest, call: CallContext) -> list[Turn]:
        """Signed thoughts go to the provider that signed them, and nowhere where another may answer."""
        if not any(turn.carried for turn in turns):
            return turns
        asked = self._providers(request, call.principal)
        is_theirs = [turn.carried is not None and {turn.carried.provider} == asked for turn in turns]
        return [turn if theirs else replace(turn, carried=None) for turn, theirs in zip(turns, is_theirs, strict=True)]

    def _fitting(
        self,
        ask: Callable[[ChatRequest], Told],
        request: ChatRequest,
        turns: list[Turn],
        place: _Place,
        call: CallContext,
    ) -> Told:
        """Ask with as much of the conversation as the model takes."""
        whole = trim_to_window(turns, None, system=place.system)
        short = prompt_estimate(whole) <= ALWAYS_FITS
        window = None if short else self._window(replace(request, messages=whole), call.principal)
        reserve = _reserve(request, window)
        for tries_left in reversed(range(MOST_TRIES)):
            messages = trim_to_window(turns, window, system=place.system, reserve=reserve)
            try:
                return ask(replace(request, messages=messages))
            except DomainError as error:
                alone = all(message["role"] == "system" for message in messages[:-1])
                if error.code != ContextLengthExceeded.code or alone or not tries_left:
                    raise
                window = prompt_estimate(messages) // 2 + reserve
        raise AssertionError("the last try raises")

    # -- what is there -----------------------------------------------------------------------------------------------

    def read(self, conversation_id: str, principal: Principal) -> tuple[Conversation, list[Turn]]:
        """A conversation with all its turns. Raises `NotFound`, the same for never, gone and somebody else's."""
        return self._store.read(principal.user_id, _known(conversation_id))

    def page(self, principal: Principal, *, limit: int, search: str | None = None, after: Cursor | None = None) -> Page:
        """The caller's conversations, newest first."""
        return self._store.page(principal.user_id, limit=limit, search=search, after=after)

    def rename(self, conversation_id: str, title: str, principal: Principal) -> Conversation:
        """Raises `NotFound`."""
        return self._store.rename(principal.user_id, _known(conversation_id), title)

    def delete(self, conversation_id: str, principal: Principal) -> None:
        """Raises `NotFound`."""
        self._store.delete(principal.user_id, _known(conversation_id))


def _answered(text: str, candidate: Candidate, gathered: Gathered) -> Turn:
    fields = gathered.fields()
    return Turn("assistant", text, carried=Carried(candidate.provider.id, fields) if fields else None)


def _known(conversation_id: str) -> str:
    name = canonical(conversation_id)
    if name is None:
        raise missing()
    return name


def _reserve(request: ChatRequest, window: int | None) -> int:
    """Room for the answer: at most half of the window."""
    wanted = request.output_cap or RESERVE
    return min(wanted, window // 2) if window else 0


class _Place:
    """Where a turn goes: into which conversation, and whether it may begin there.

    An id that only we give out never begins one, so that nobody can sit on an id that somebody else will be given.
    """

    def __init__(self, store: ConversationStore, owner_id: str, said: Said) -> None:
        self._store, self._owner_id, self._said = store, owner_id, said
        self.system = said.system
        given = said.conversation_id
        name = new_name() if given is None else canonical(given)
        if name is None:
            raise invalid("conversation_id", "must be an id of ours, or 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'")
        self.name = name
        self._begins = given is None or not is_ours(name)

    def read(self) -> list[Turn]:
        """The turns so far, none where the conversation begins here. Raises `NotFound`, `Unavailable`."""
        try:
            conversation, turns = self._store.read(self._owner_id, self.name, last=MOST_TURNS)
        except NotFound:
            if not self._begins:
                raise
            return []
        if self.system is None:
            self.system = conversation.system
        return turns

    def keep(self, answer: Turn) -> None:
        """Store the question and this answer. A conversation that was deleted meanwhile stays deleted."""
        message = self._said.message
        turns = [Turn("user", message), answer]
        kept = self._store.append(
            self._owner_id,
            self.name,
            turns,
            title=title_of(message),
            system=self._said.system,
            begin=self._begins,
        )
        if not kept:
            log.info("a conversation was deleted while it was being answered")


class ConversationStream(StreamHeaders):
    """Iterate for pieces of text, None (silence: write a comment), and last a `Reply` or a `DomainError`.

    The turn is stored before the `Reply` comes out. Where the caller hangs up in the middle, what was said until then
    is stored and marked; where the provider breaks off, nothing is: the caller was told so and will ask again.
    """

    def __init__(self, stream: ChatStream | ReplayedStream, place: _Place) -> None:
        super().__init__(stream)
        self._place = place
        self._said: list[str] = []
        self._gathered = Gathered()
        self._ended = False

    def __iter__(self) -> Iterator[str | Reply | DomainError | None]:
        return self

    def __next__(self) -> str | Reply | DomainError | None:
        while not self._ended:
            try:
                item = next(self._stream)
            except StopIteration:
                return self._end()
            if item is None or isinstance(item, DomainError):
                self._ended = item is not None
                return item
            for choice in (item.body.get("choices") or ())[:1]:
                self._gathered.note(choice.get("delta") or {})
            if text := holdable(item.text):
                self._said.append(text)
                return text
        raise StopIteration

    def _end(self) -> Reply | DomainError:
        """The regular end: store, then say so."""
        self._ended = True
        text, stream = "".join(self._said), self._stream
        candidate = stream.candidate
        assert candidate is not None, "a stream that ended well was answered by somebody"
        try:
            self._place.keep(_answered(text, candidate, self._gathered))
        except DomainError as error:
            return error
        model = str(stream.head.get("model") or candidate.model.name)
        return Reply(self._place.name, text, model, candidate.provider.id, stream.usage or Usage(), stream.cost)

    def close(self) -> None:
        """The door is done with it; any number of times."""
        hung_up, self._ended = not self._ended and bool(self._said), True
        try:
            if hung_up:
                self._place.keep(Turn("assistant", "".join(self._said), interrupted=True))
        except DomainError as error:
            log.warning("an interrupted turn could not be stored: %s", error.code)
        finally:
            self._stream.close()
