"""One real call to a provider, and what came of it in plain words."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from flaskllm.domain.call import CallContext
from flaskllm.domain.catalogue import Candidate, Catalogue
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.estimate import prompt_estimate, tokens_of_chars
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
from flaskllm.services.ledger import Attempt, Ledger, chat_bound
from flaskllm.services.model_router import ModelRouter
from flaskllm.services.provider_factory import ProviderFactory
from flaskllm.services.usage import UsageService

QUESTION = "Answer with the word OK."
MOST_TOKENS = 64
"""Enough for a word, also from a model that thinks first; at list prices well under a cent."""
TRY_SECONDS = 30.0
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


class ProviderCheck:
    """Asks a provider's default chat model one short question, past caches and limits, and books it like any call."""

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
        request = ChatRequest(
            model=model,
            messages=[{"role": "user", "content": QUESTION}],
            params={"max_tokens": MOST_TOKENS},
            provider=provider_id,
        )
        try:
            candidate = self._router.candidates(request, call.principal)[0]
        except NotFound as error:
            if provider.on and model is not None:
                raise
            return CheckReport(provider_id, works=False, message=error.message)
        return self._ask(request, candidate, call)

    def _ask(self, request: ChatRequest, candidate: Candidate, call: CallContext) -> CheckReport:
        prompt_tokens = prompt_estimate(request.messages)
        books = CallBooks(
            self._ledger,
            self._usage,
            request=request,
            call=call,
            bound=lambda one: chat_bound(request, one, prompt_tokens),
        )
        attempts = Attempts([candidate], call, self._watch, asks_anyway=True)
        attempts.next()
        attempt = books.reserve(candidate, attempts.number)
        started = time.monotonic()
        try:
            text, usage = self._answer(request, attempt, started + TRY_SECONDS)
        except ProviderFailure as failure:
            attempts.failed(failure)
            cost = books.close(attempt, attempts, usage=None, error=failure, status=failure.status)
            return _report(candidate, started, works=False, message=_in_words(failure), cost=cost)
        except BaseException as error:
            told = error if isinstance(error, DomainError) else InternalError("The call broke off.")
            sent = not isinstance(error, DomainError)
            cost = books.close(attempt, attempts, usage=None, error=told, sent=sent, status=told.status)
            if sent:
                raise
            return _report(candidate, started, works=False, message=told.message, cost=cost)
        cost = books.close(attempt, attempts, usage=usage)
        said = f"It works: {text.strip()[:80]!r}" if text.strip() else "It works, and answered with an empty text."
        return _report(candidate, started, works=True, message=said, usage=usage, cost=cost)

    def _answer(self, request: ChatRequest, attempt: Attempt, deadline: float) -> tuple[str, Usage]:
        result = self._factory.adapter_for(attempt.candidate).chat(request, attempt.candidate, deadline)
        output = tokens_of_chars(len(result.text))
        return result.text, result.usage or Usage(input=attempt.prompt_tokens, output=output, estimated=True)


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


def _in_words(failure: DomainError) -> str:
    reason = next((words for kind, words in REASONS if isinstance(failure, kind)), "")
    return f"{reason} ({failure.message})" if reason else failure.message
