"""One real call to a provider, and what came of it in plain words."""

from __future__ import annotations

import time
from dataclasses import dataclass

from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.principal import Principal
from flaskllm.errors import (
    DomainError,
    ProviderError,
    ProviderKeyRejected,
    ProviderRateLimited,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnreachable,
)
from flaskllm.services.model_router import ModelRouter
from flaskllm.services.provider_factory import ProviderFactory

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
    """``seconds`` until the whole answer; ``message`` is for people."""

    provider: str
    works: bool
    message: str
    model: str | None = None
    endpoint: str | None = None
    seconds: float | None = None


class ProviderCheck:
    """Asks a provider's default chat model one short question, past caches, limits and budgets."""

    def __init__(self, router: ModelRouter, factory: ProviderFactory) -> None:
        self._router = router
        self._factory = factory

    def run(self, provider_id: str, model: str | None = None) -> CheckReport:
        """Never raises for what is wrong with a provider: that is its answer. An unknown id is `NotFound`."""
        request = ChatRequest(
            model=model,
            messages=[{"role": "user", "content": QUESTION}],
            params={"max_tokens": MOST_TOKENS},
            provider=provider_id,
        )
        candidate = self._router.candidates(request, OPERATOR)[0]
        started = time.monotonic()
        try:
            text = self._factory.adapter_for(candidate).chat(request, candidate, started + TRY_SECONDS).text
        except DomainError as failure:
            return _report(candidate, started, works=False, message=_in_words(failure))
        return _report(candidate, started, works=True, message=f"It works: {text.strip()[:80]!r}")


def _report(candidate: Candidate, started: float, *, works: bool, message: str) -> CheckReport:
    return CheckReport(
        provider=candidate.provider.id,
        works=works,
        message=message,
        model=candidate.model.name,
        endpoint=candidate.endpoint.id,
        seconds=round(time.monotonic() - started, 3),
    )


def _in_words(failure: DomainError) -> str:
    reason = next((words for kind, words in REASONS if isinstance(failure, kind)), "")
    return f"{reason} ({failure.message})" if reason else failure.message
