"""The order of things for every call to a model: admit, route, try, fall back, account."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace

from flaskllm.adapters.base import ChunkSource
from flaskllm.domain.answer import Answer, RateStatus
from flaskllm.domain.call import CallContext
from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.chat import ChatRequest, ChatResult, output_chars
from flaskllm.domain.estimate import estimate_tokens, prompt_estimate, tokens_of_chars
from flaskllm.domain.principal import Principal
from flaskllm.domain.usage import Usage
from flaskllm.errors import DomainError, Forbidden, InternalError, ProviderFailure, Unavailable, UnpricedModel
from flaskllm.services.attempts import Attempts, KeyWatch
from flaskllm.services.books import CallBooks
from flaskllm.services.chat_stream import ChatStream, Drains, StreamTimes
from flaskllm.services.images import ImageInliner
from flaskllm.services.ledger import Attempt, Ledger, output_cap
from flaskllm.services.limits import Limits
from flaskllm.services.model_router import ModelRouter
from flaskllm.services.provider_factory import ProviderFactory
from flaskllm.services.shutdown import Shutdown
from flaskllm.services.usage import UsageService

Rates = tuple[tuple[str, RateStatus], ...]


class ChatOrchestrator:
    """The one way to a model, for every door and every worker."""

    def __init__(
        self,
        *,
        router: ModelRouter,
        factory: ProviderFactory,
        ledger: Ledger,
        limits: Limits,
        usage: UsageService,
        images: ImageInliner,
        shutdown: Shutdown,
        times: StreamTimes,
        drains: Drains,
        most_streams: int | None,
        refuse_unpriced: bool = False,
        keys: KeyWatch | None = None,
    ) -> None:
        self._keys = keys
        self._router, self._factory, self._ledger, self._limits = router, factory, ledger, limits
        self._usage, self._images, self._shutdown = usage, images, shutdown
        self._times, self._drains = times, drains
        self._slots = threading.BoundedSemaphore(most_streams) if most_streams else None
        self._refuse_unpriced = refuse_unpriced

    def complete(self, request: ChatRequest, call: CallContext) -> Answer:
        """Answer once, from the first candidate that can.

        Raises what the contract's table of errors has for it.
        """
        books, attempts, rates = self._admit(request, call)
        while (candidate := attempts.next()) is not None:
            attempt = books.reserve(candidate, attempts.number)
            try:
                result, usage = self._ask(request, attempt, call, attempts.deadline(candidate))
            except ProviderFailure as failure:
                attempts.failed(failure)
                if attempts.is_over:
                    verdict = attempts.verdict()
                    books.close(attempt, attempts, usage=None, error=failure, status=verdict.status)
                    raise verdict from failure
                books.pass_on(attempt, failure)
            except BaseException as error:
                is_refusal = isinstance(error, DomainError)  # ours, before it was sent; anything else may be billed
                told = error if isinstance(error, DomainError) else InternalError("The call broke off.")
                books.close(attempt, attempts, usage=None, error=told, sent=not is_refusal, status=told.status)
                raise
            else:
                cost = books.close(attempt, attempts, usage=usage)
                return Answer(result, candidate, usage, cost, attempts.number, tuple(result.dropped), rates)
        verdict = attempts.verdict()
        books.close(None, attempts, usage=None, error=verdict, status=verdict.status)
        raise verdict

    def _ask(
        self, request: ChatRequest, attempt: Attempt, call: CallContext, deadline: float
    ) -> tuple[ChatResult, Usage]:
        """The answer, and its usage as told or estimated."""
        candidate = attempt.candidate
        asked = self._prepare(request, candidate, call, deadline)
        result = self._factory.adapter_for(candidate).chat(asked, candidate, deadline)
        if result.usage is not None:
            return result, result.usage
        output = tokens_of_chars(output_chars(result.body))
        return result, Usage(input=attempt.prompt_tokens, output=output, estimated=True)

    def stream(self, request: ChatRequest, call: CallContext) -> ChatStream:
        """Answer frame by frame; comes back with the first frame in hand, or when headers must go out.

        Raises like `complete` until then.
        """
        request = replace(request, stream=True)
        books, attempts, rates = self._admit(request, call)
        stream = ChatStream(
            request,
            call,
            attempts=attempts,
            books=books,
            ask=lambda candidate, deadline: self._open(request, candidate, call, deadline),
            times=self._times,
            shutdown=self._shutdown,
            drains=self._drains,
            rates=rates,
            on_over=self._take_slot(),
        )
        stream.start()
        return stream

    def _open(self, request: ChatRequest, candidate: Candidate, call: CallContext, deadline: float) -> ChunkSource:
        asked = self._prepare(request, candidate, call, deadline)
        return self._factory.adapter_for(candidate).stream(asked, candidate, deadline)

    def window(self, request: ChatRequest, principal: Principal) -> int | None:
        """The smallest context window, in tokens, of the models that may answer; None where none is known."""
        known = [model.context_window for model in self._router.models(request, principal)]
        return min((size for size in known if size), default=None)

    def providers(self, request: ChatRequest, principal: Principal) -> frozenset[str]:
        """The ids of the providers that may answer; none where the call will be refused."""
        try:
            return frozenset(model.provider_id for model in self._router.models(request, principal))
        except DomainError:
            return frozenset()

    def count_tokens(self, request: ChatRequest, call: CallContext) -> int:
        """How many tokens the prompt is: its model's vendor says so, or we guess. Nothing is spent and nothing written.

        Raises like `complete`, for who may ask which model and for what a vendor refuses.
        """
        if self._shutdown.draining:
            raise Unavailable("The gateway is restarting.", retry_after=1)
        self._limits.admit_request(call.principal)
        failed: ProviderFailure | None = None
        for candidate in self._router.candidates(request, call.principal):
            try:
                asked = self._prepare(request, candidate, call, call.deadline)
                counted = self._factory.adapter_for(candidate).count_tokens(asked, candidate, call.deadline)
            except ProviderFailure as failure:
                if not failure.try_elsewhere:
                    raise
                failed = failure
            else:
                return _guessed(request) if counted is None else counted
        assert failed is not None, "there is always a candidate"
        raise failed

    def _take_slot(self) -> Callable[[], None]:
        """Each open stream holds a thread; some are kept for health, administration and plain calls."""
        if self._slots is None:
            return lambda: None
        if not self._slots.acquire(blocking=False):
            raise Unavailable("This process has as many open streams as it may.", retry_after=1)
        return self._slots.release

    def _admit(self, request: ChatRequest, call: CallContext) -> tuple[CallBooks, Attempts, Rates]:
        """Who may answer, how long the prompt is, and whether there is room."""
        if self._shutdown.draining:
            raise Unavailable("The gateway is restarting.", retry_after=1)
        if not call.principal.approved:
            raise Forbidden("This account waits for an administrator's approval.")
        prompt_tokens = prompt_estimate(request.messages)
        seconds = self._times.most if request.stream else 0.0
        books = CallBooks(
            self._ledger, self._usage, request=request, call=call, prompt_tokens=prompt_tokens, seconds=seconds
        )
        try:
            candidates = self._router.candidates(request, call.principal)
            if self._refuse_unpriced:
                candidates = _priced(candidates)
            rates = self._limits.admit(call, tokens=prompt_tokens)
        except DomainError as error:
            books.tell_refusal(error)
            raise
        return books, Attempts(candidates, call, self._keys), rates

    def _prepare(self, request: ChatRequest, candidate: Candidate, call: CallContext, deadline: float) -> ChatRequest:
        """What this candidate needs: images inlined where it cannot fetch, the bound that was reserved where a budget
        must be kept."""
        abilities = self._factory.adapter_for(candidate).ABILITIES
        if "image_http" not in abilities:
            messages = self._images.inline(request.messages, deadline, secure_stays="image_url" in abilities)
            if request.native and messages != request.messages:  # as it came it names what cannot be fetched
                request = replace(request, native=replace(request.native, body=None))
            request = replace(request, messages=messages)
        if call.principal.budgets and request.output_cap is None:
            request = replace(request, params={**request.params, "max_tokens": output_cap(request, candidate)})
        return request


def _guessed(request: ChatRequest) -> int:
    """What is shown to the model: messages, and tools as the JSON they are."""
    tools = request.params.get("tools") or []
    return prompt_estimate(request.messages) + estimate_tokens(json.dumps(tools, ensure_ascii=False) if tools else "")


def _priced(candidates: list[Candidate]) -> list[Candidate]:
    found = [candidate for candidate in candidates if candidate.model.price is not None]
    if not found:
        raise UnpricedModel(f"The model {candidates[0].name} has no price, and this gateway refuses unpriced models.")
    return found
