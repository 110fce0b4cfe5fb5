"""One real call to a provider, and what came of it in plain words."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol

from flaskllm.adapters.base import ProviderAdapter
from flaskllm.domain.call import CallContext
from flaskllm.domain.catalogue import Candidate, Catalogue, Provider
from flaskllm.domain.chat import ChatRequest, ChatResult
from flaskllm.domain.embedding import EmbedRequest
from flaskllm.domain.estimate import answer_chars, answer_tokens, estimate_tokens, prompt_estimate
from flaskllm.domain.image import ImageRequest
from flaskllm.domain.principal import Principal
from flaskllm.domain.usage import Usage
from flaskllm.errors import (
    DomainError,
    InternalError,
    NotFound,
    ProviderError,
    ProviderFailure,
    ProviderKeyRejected,
    ProviderRateLimited,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnreachable,
)
from flaskllm.services.attempts import Attempts, Watch
from flaskllm.services.books import CallBooks
from flaskllm.services.ledger import Attempt, Bound, Ledger, chat_bound
from flaskllm.services.media_bounds import images_bound, price_of_drawn, usage_of_drawn, vectors_bound
from flaskllm.services.model_router import ModelRouter
from flaskllm.services.provider_factory import ProviderFactory
from flaskllm.services.usage import AnyRequest, UsageService

QUESTION = "Answer with the word OK."
A_WORD = {
    "type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"], "additionalProperties": False,
}  # fmt: skip
PICTURE = "A plain grey square."
MOST_TOKENS = 64
"""Enough for a word, also from a model that thinks first; at list prices well under a cent."""
MOST_FRAMES = 1000
"""Of a stream that is looked at: one that does not keep to `MOST_TOKENS` is cut."""
TRY_SECONDS, LONGEST_TRY_S = 30.0, 120.0
"""For a model that has no ``timeout_s`` of its own, and at the most for one that has: pictures take their time."""
OPERATOR = Principal(user_id="operator", username="operator", role="admin")

REASONS: tuple[tuple[type[DomainError], str], ...] = (
    (ProviderKeyRejected, "It does not accept the key, or the model is not there for this key."),
    (ProviderUnreachable, "It cannot be reached: check the address, the network and the certificate."),
    (ProviderTimeout, "It did not answer in time: wrong port, a firewall, or a model that is still loading."),
    (ProviderRateLimited, "It answers, but its rate limit or quota is used up."),
    (ProviderRefused, "It answers, but refuses the request."),
    (ProviderError, "It answers, but not as its wire should: is this the right kind of provider, and the right path?"),
)


@dataclass(frozen=True, slots=True)
class CheckReport:
    """``seconds`` until the whole answer; ``message`` is for people; ``key`` a mask; ``cost`` in 10⁻⁹ dollar."""

    provider: str
    works: bool
    message: str
    model: str | None = None
    endpoint: str | None = None
    seconds: float | None = None
    key: str | None = None
    usage: Usage | None = None
    cost: int | None = None


class Answered(NamedTuple):
    """What came of a question. ``able``: whether the answer shows what the question is there to find out."""

    words: str
    usage: Usage
    attempt: Attempt
    able: bool = True


class Question(Protocol):
    """One small question of a kind: what an attempt may come to, how it is asked, and what came of it in words."""

    ability: ClassVar[str]

    @property
    def request(self) -> AnyRequest: ...

    def bound(self, candidate: Candidate) -> Bound: ...

    def ask(self, adapter: ProviderAdapter, attempt: Attempt, deadline: float) -> Answered: ...


class _Word:
    """A word of a chat model; others ask for more than that."""

    ability: ClassVar[str] = "chat"
    QUESTION: ClassVar[str] = QUESTION
    PARAMS: ClassVar[Mapping[str, Any]] = {}
    STREAMED: ClassVar[bool] = False

    def __init__(self, provider_id: str, model: str | None) -> None:
        messages = [{"role": "user", "content": self.QUESTION}]
        params = {"max_tokens": MOST_TOKENS, **self.PARAMS}
        self.request = ChatRequest(model, messages, params=params, provider=provider_id, stream=self.STREAMED)

    def bound(self, candidate: Candidate) -> Bound:
        return chat_bound(self.request, candidate, prompt_estimate(self.request.messages))

    def ask(self, adapter: ProviderAdapter, attempt: Attempt, deadline: float) -> Answered:
        result = adapter.chat(self.request, attempt.candidate, deadline)
        words, able = self.judged(result)
        return Answered(words, _taken(attempt, result.usage, result.text), attempt, able)

    def judged(self, result: ChatResult) -> tuple[str, bool]:
        said = result.text.strip()
        return f"It works: {said[:80]!r}" if said else "It works, and answered with an empty text.", True


class _Streamed(_Word):
    """The same word, piece by piece."""

    STREAMED = True

    def ask(self, adapter: ProviderAdapter, attempt: Attempt, deadline: float) -> Answered:
        source = adapter.stream(self.request, attempt.candidate, deadline)
        said, frames, told = "", 0, None
        try:
            while frames < MOST_FRAMES and (chunks := source.read(deadline)) is not None:
                frames += len(chunks)
                said += "".join(chunk.text for chunk in chunks)
                told = next((chunk.usage for chunk in chunks if chunk.usage is not None), told)
        finally:
            source.close()
        return Answered(f"It streams: {frames} frames.", _taken(attempt, told, said), attempt, frames > 0)


class _Tool(_Word):
    """Whether it calls a tool that it is given."""

    QUESTION = "Call the tool note with the word OK."
    PARAMS: ClassVar[Mapping[str, Any]] = {
        "tools": [
            {"type": "function", "function": {"name": "note", "description": "Notes a word.", "parameters": A_WORD}}
        ]
    }

    def judged(self, result: ChatResult) -> tuple[str, bool]:
        choices = result.body.get("choices") or [{}]
        calls = (choices[0].get("message") or {}).get("tool_calls")
        return ("It called the tool.", True) if calls else ("It took the tool, and did not call it.", False)


class _Schema(_Word):
    """Whether its answer keeps to a schema."""

    QUESTION = "Answer with the word OK, as JSON."
    PARAMS: ClassVar[Mapping[str, Any]] = {
        "response_format": {"type": "json_schema", "json_schema": {"name": "word", "strict": True, "schema": A_WORD}}
    }

    def judged(self, result: ChatResult) -> tuple[str, bool]:
        try:
            found = json.loads(result.text)
        except ValueError:
            return "It took the schema, and did not answer in JSON.", False
        keeps = isinstance(found, dict) and isinstance(found.get("word"), str)
        return "Its answer keeps to the schema." if keeps else "Its JSON does not keep to the schema.", keeps


class _Vector:
    ability: ClassVar[str] = "embeddings"

    def __init__(self, provider_id: str, model: str | None) -> None:
        self.request = EmbedRequest(inputs=[QUESTION], model=model, provider=provider_id)

    def bound(self, candidate: Candidate) -> Bound:
        return vectors_bound(candidate, estimate_tokens(QUESTION))

    def ask(self, adapter: ProviderAdapter, attempt: Attempt, deadline: float) -> Answered:
        result = adapter.embed(self.request, attempt.candidate, deadline)
        usage = attempt.believed(result.usage) or Usage(input=attempt.prompt_tokens, estimated=True)
        return Answered(f"It works: a vector of {len(result.vectors[0])} numbers.", usage, attempt)


class _Picture:
    ability: ClassVar[str] = "image_generation"

    def __init__(self, provider_id: str, model: str | None) -> None:
        self.request = ImageRequest(prompt=PICTURE, model=model, provider=provider_id)

    def bound(self, candidate: Candidate) -> Bound:
        return images_bound(self.request, candidate, estimate_tokens(PICTURE))

    def ask(self, adapter: ProviderAdapter, attempt: Attempt, deadline: float) -> Answered:
        result = adapter.create_images(self.request, attempt.candidate, deadline)
        attempt = replace(attempt, price=price_of_drawn(self.request, result, attempt.candidate))
        return Answered("It works: it drew an image.", usage_of_drawn(result, attempt), attempt)


QUESTIONS: Mapping[str, Callable[[str, str | None], Question]] = {
    "chat": _Word, "embedding": _Vector, "image": _Picture,
}  # fmt: skip
"""By type of model, in the order in which they are chosen: a word is the cheapest, and nearly all can answer one."""


FURTHER: Mapping[str, Callable[[str, str | None], Question]] = {
    "stream": _Streamed,
    "tools": _Tool,
    "json_schema": _Schema,
}
"""What else a chat model may be able to do, and the question that shows it."""


def question_for(provider: Provider, model: str | None) -> Question:
    """What the named model can do, or else the provider's default or any of its models."""
    named = provider.model(model.removeprefix(f"{provider.id}/")) if model else None
    types = {named.type} if named else {one.type for one in provider.models if one.enabled}
    kind = next((kind for kind in QUESTIONS if kind in types), "chat")
    return QUESTIONS[kind](provider.id, model)


class ProviderCheck:
    """Asks a provider one short question, past caches and limits, and books it like any call: its default chat model,
    or where it has none a vector or an image."""

    def __init__(
        self,
        router: ModelRouter,
        factory: ProviderFactory,
        *,
        catalogue: Callable[[], Catalogue],
        ledger: Ledger,
        usage: UsageService,
        watch: Watch | None = None,
    ) -> None:
        self._router = router
        self._factory = factory
        self._catalogue = catalogue
        self._ledger = ledger
        self._usage = usage
        self._watch = watch

    def run(self, provider_id: str, call: CallContext, model: str | None = None) -> CheckReport:
        """Never raises for what is wrong with a provider: that is its answer.

        An unknown provider or model is `NotFound`; our own refusals (budgets, a database that is away) are raised too.
        """
        provider = self._catalogue().by_id.get(provider_id)
        if provider is None:
            raise NotFound(f"There is no provider {provider_id[:80]!r}.")
        question = question_for(provider, model)
        try:
            candidate = self._router.candidates(question.request, call.principal, ability=question.ability)[0]
        except NotFound as error:
            if provider.on and model is not None:
                raise
            return CheckReport(provider_id, works=False, message=error.message)
        return self._ask(question, candidate, call)

    def try_out(
        self, question: Question, candidate: Candidate, call: CallContext, *, adapter: ProviderAdapter, seconds: float
    ) -> CheckReport:
        """One question to a provider that is not in the catalogue (yet): booked all the same, and no breaker's."""
        return self._ask(question, candidate, call, stranger=adapter, seconds=seconds)

    def _ask(
        self,
        question: Question,
        candidate: Candidate,
        call: CallContext,
        *,
        stranger: ProviderAdapter | None = None,
        seconds: float = LONGEST_TRY_S,
    ) -> CheckReport:
        books = CallBooks(
            self._ledger,
            self._usage,
            request=question.request,
            call=call,
            bound=question.bound,
        )
        attempts = Attempts([candidate], call, self._watch if stranger is None else None, asks_anyway=True)
        attempts.next()
        attempt = books.reserve(candidate, attempts.number)
        started = time.monotonic()
        try:
            seconds = min(max(TRY_SECONDS, candidate.model.timeout_s or 0.0), seconds)
            adapter = self._factory.adapter_for(candidate) if stranger is None else stranger
            answered = question.ask(adapter, attempt, started + seconds)
            attempt = answered.attempt
        except ProviderFailure as failure:
            attempts.failed(failure)
            cost = books.close(attempt, attempts, usage=None, error=failure, status=failure.status)
            return _report(candidate, started, works=False, message=in_words(failure), cost=cost)
        except BaseException as error:
            told = error if isinstance(error, DomainError) else InternalError("The call broke off.")
            sent = not isinstance(error, DomainError)
            cost = books.close(attempt, attempts, usage=None, error=told, sent=sent, status=told.status)
            if sent:
                raise
            return _report(candidate, started, works=False, message=told.message, cost=cost)
        usage = answered.usage
        cost = books.close(attempt, attempts, usage=usage)
        return _report(candidate, started, works=answered.able, message=answered.words, usage=usage, cost=cost)


def _taken(attempt: Attempt, told: Usage | None, said: str) -> Usage:
    """The provider's word where it can be believed, else by what came."""
    output = answer_tokens(answer_chars(said))
    return attempt.believed(told) or Usage(input=attempt.prompt_tokens, output=output, estimated=True)


def _report(
    candidate: Candidate,
    started: float,
    *,
    works: bool,
    message: str,
    usage: Usage | None = None,
    cost: int | None = None,
) -> CheckReport:
    return CheckReport(
        provider=candidate.provider.id,
        works=works,
        message=message,
        model=candidate.model.name,
        endpoint=candidate.endpoint.id,
        seconds=round(time.monotonic() - started, 3),
        key=candidate.key.hint if candidate.key else None,
        usage=usage,
        cost=cost,
    )


def in_words(failure: DomainError) -> str:
    reason = next((words for kind, words in REASONS if isinstance(failure, kind)), "")
    return f"{reason} ({failure.message})" if reason else failure.message
