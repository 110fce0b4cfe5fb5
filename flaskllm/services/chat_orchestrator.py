"""The order of things for every call to a model: admit, route, try, fall back, account."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

from flaskllm.adapters.base import ChunkSource
from flaskllm.domain.answer import Answer, Told
from flaskllm.domain.body import transcript_of
from flaskllm.domain.call import CallContext
from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.chat import ChatRequest, ChatResult, output_chars
from flaskllm.domain.embedding import EmbedRequest, EmbedResult
from flaskllm.domain.estimate import answer_tokens, estimate_tokens, prompt_estimate
from flaskllm.domain.image import ImageRequest, ImageResult
from flaskllm.domain.pricing import cost_of
from flaskllm.domain.principal import Principal, RateLimits
from flaskllm.domain.route import CONTEXT_WINDOW
from flaskllm.domain.usage import Usage
from flaskllm.errors import (
    DomainError,
    Forbidden,
    InternalError,
    ModelFull,
    ProviderFailure,
    Unavailable,
    UnpricedModel,
)
from flaskllm.services import crash
from flaskllm.services.attempts import Attempts, Watch
from flaskllm.services.books import CallBooks
from flaskllm.services.cached import VECTORS, WORDS, Form
from flaskllm.services.cached import Result as CachedResult
from flaskllm.services.chat_stream import ChatStream, Drains, StreamTimes
from flaskllm.services.images import ImageInliner
from flaskllm.services.ledger import Attempt, Bound, Ledger, chat_bound, output_cap
from flaskllm.services.limits import Limits
from flaskllm.services.media_bounds import images_bound, price_of_drawn, usage_of_drawn, vectors_bound
from flaskllm.services.model_router import ModelRouter, Plan
from flaskllm.services.pace import Pace
from flaskllm.services.provider_factory import ProviderFactory
from flaskllm.services.response_cache import ReplayedStream, ResponseCache
from flaskllm.services.shutdown import Shutdown
from flaskllm.services.usage import AnyRequest, UsageService

Result = TypeVar("Result")
SURE = 0.5
"""Of our estimate of a prompt's tokens: so many it has at the least (text of eight characters a token is rare)."""
USUAL_OUTPUT = 1000
"""Output tokens by which prices are compared where the caller sets no bound."""
OneRequest = TypeVar("OneRequest", ChatRequest, EmbedRequest, ImageRequest)


@dataclass(frozen=True, slots=True)
class Work(Generic[Result]):
    """One call of any kind, as admission, fall-back and the books have to know it.

    ``bound``: what an attempt at a candidate may come to. ``ask``: ask the attempt's candidate until a deadline; gives
    the answer, its usage as told or estimated, and the attempt, whose price may hang on what was drawn.
    """

    request: AnyRequest
    ability: str
    prompt_tokens: int
    bound: Callable[[Candidate], Bound]
    ask: Callable[[Attempt, float], tuple[Result, Usage, Attempt]]

    def expected(self, candidate: Candidate) -> int | None:
        """What it will cost about, in 10⁻⁹ dollar: by the caller's own bound of the output, the same for each."""
        if not isinstance(self.request, ChatRequest):
            bound = self.bound(candidate)
            return None if bound.price is None else bound.amount
        output = (self.request.output_cap or USUAL_OUTPUT) * self.request.choices
        return cost_of(Usage(input=self.prompt_tokens, output=output), candidate.model.price)


class Places:
    """So many at once in this process, and no queue: the server in front of us has one. ``most`` None: any number."""

    def __init__(self, most: int | None, refusal: str) -> None:
        self._left = threading.BoundedSemaphore(most) if most else None
        self._refusal = refusal

    def take(self) -> Callable[[], None]:
        """Gives what to call when it is over. Raises `Unavailable` where all are taken."""
        if self._left is None:
            return lambda: None
        if not self._left.acquire(blocking=False):
            raise Unavailable(self._refusal, retry_after=1)
        return self._left.release


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
        cache: ResponseCache,
        watch: Watch | None = None,
        most_calls: int | None = None,
        pace: Pace | None = None,
        model_limits: Callable[[Candidate], RateLimits | None] = lambda _: None,
    ) -> None:
        self._model_limits = model_limits
        self._watch, self._pace, self._cache = watch, pace, cache
        self._places = Places(most_calls, "This process has as many calls in flight as it may.")
        self._router, self._factory, self._ledger, self._limits = router, factory, ledger, limits
        self._usage, self._images, self._shutdown = usage, images, shutdown
        self._times, self._drains = times, drains
        self._slots = Places(most_streams, "This process has as many open streams as it may.")
        self._refuse_unpriced = refuse_unpriced

    def complete(self, request: ChatRequest, call: CallContext) -> Answer:
        """Answer once, from the first candidate that can.

        Raises what the contract's table of errors has for it.
        """
        asked = _as_the_token_says(request, call)
        return Answer(**vars(self._cached_or_asked(self._chat(asked, call), asked, WORDS, call)))

    def _cached_or_asked(
        self, work: Work[CachedResult], request: ChatRequest | EmbedRequest, form: Form[CachedResult], call: CallContext
    ) -> Told[CachedResult]:
        """From the cache, where the caller wants that and it has an equal question's answer."""
        with self._place():
            books, attempts, plan = self._admit(work, call)
            asking = self._cache.inquire(request, plan, call, form=form, patience_s=call.remaining())
            with closing(asking) as inquiry:
                if (cached := inquiry.cached) is not None:
                    result, candidate = cached.result, plan.place(cached.by) or attempts.first
                    books.close_from_cache(candidate, cached.cost, result)
                    return Told(result, candidate, Usage(), 0, 0, tuple(result.dropped), books.rates, cache="hit")
                told = replace(self._ask_each(work, books, attempts), cache=inquiry.said)
                inquiry.answered(told.result, told.cost, told.candidate)
            return told

    def embed(self, request: EmbedRequest, call: CallContext) -> Told[EmbedResult]:
        """One vector for each input. Raises like `complete`. What it took is told of an answer from the cache too."""
        request = _as_the_token_says(request, call)
        tokens = sum(estimate_tokens(one) if isinstance(one, str) else len(one) for one in request.inputs)

        def ask(attempt: Attempt, deadline: float) -> tuple[EmbedResult, Usage, Attempt]:
            adapter = self._factory.adapter_for(attempt.candidate)
            result = adapter.embed(request, attempt.candidate, deadline)
            usage = attempt.believed(result.usage, pieces=len(request.inputs)) or Usage(input=tokens, estimated=True)
            return replace(result, usage=usage), usage, attempt

        work = Work(request, "embeddings", tokens, lambda one: vectors_bound(one, tokens), ask)
        told = self._cached_or_asked(work, request, VECTORS, call)
        return replace(told, usage=told.result.usage or told.usage)

    def create_images(self, request: ImageRequest, call: CallContext) -> Told[ImageResult]:
        """Draw. Raises like `complete`."""
        request = _as_the_token_says(request, call)
        tokens = estimate_tokens(request.prompt)

        def ask(attempt: Attempt, deadline: float) -> tuple[ImageResult, Usage, Attempt]:
            adapter = self._factory.adapter_for(attempt.candidate)
            result = adapter.create_images(request, attempt.candidate, deadline)
            attempt = replace(attempt, price=price_of_drawn(request, result, attempt.candidate))
            return result, usage_of_drawn(result, attempt), attempt

        work = Work(request, "image_generation", tokens, lambda one: images_bound(request, one, tokens), ask)
        return self._run(work, call)

    def _run(self, work: Work[Result], call: CallContext) -> Told[Result]:
        """Ask one candidate after the other, and account for each."""
        with self._place():
            books, attempts, _ = self._admit(work, call)
            return self._ask_each(work, books, attempts)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of the calls that this process may have in flight."""
        release = self._places.take()
        try:
            yield
        finally:
            release()

    def _ask_each(self, work: Work[Result], books: CallBooks, attempts: Attempts) -> Told[Result]:
        try:
            return self._first_answer(work, books, attempts)
        except DomainError as error:
            attempts.tell(error)
            raise

    def _first_answer(self, work: Work[Result], books: CallBooks, attempts: Attempts) -> Told[Result]:
        while (candidate := attempts.next()) is not None:
            try:
                attempt = books.reserve(candidate, attempts.number)
            except ModelFull as full:
                attempts.take_back(full)
                continue
            crash.point(crash.BEFORE_UPSTREAM)
            try:
                result, usage, attempt = work.ask(attempt, attempts.deadline(candidate))
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
                crash.point(crash.AFTER_UPSTREAM)
                attempts.began_to_answer(streamed=False)
                tell = partial(_told, result, candidate, usage, attempts, books)
                words = transcript_of(result) if books.keeps_bodies else None
                return tell(books.close(attempt, attempts, usage=usage, tell=tell, answer=words))
        verdict = attempts.verdict()
        books.close(None, attempts, usage=None, error=verdict, status=verdict.status)
        raise verdict

    def _chat(self, request: ChatRequest, call: CallContext) -> Work[ChatResult]:
        prompt_tokens = prompt_estimate(request.messages)
        return Work(
            request,
            "chat",
            prompt_tokens,
            lambda candidate: chat_bound(request, candidate, prompt_tokens),
            lambda attempt, deadline: self._ask(request, attempt, call, deadline),
        )

    def _ask(
        self, request: ChatRequest, attempt: Attempt, call: CallContext, deadline: float
    ) -> tuple[ChatResult, Usage, Attempt]:
        candidate = attempt.candidate
        asked = self._prepare(request, candidate, call, deadline)
        result = self._factory.adapter_for(candidate).chat(asked, candidate, deadline)
        if (told := attempt.believed(result.usage, pieces=request.choices)) is not None:
            return result, told, attempt
        output = answer_tokens(output_chars(result.body))
        return result, Usage(input=attempt.prompt_tokens, output=output, estimated=True), attempt

    def stream(self, request: ChatRequest, call: CallContext) -> ChatStream | ReplayedStream:
        """Answer frame by frame; comes back with the first frame in hand, or when headers must go out.

        Raises like `complete` until then.
        """
        request = replace(_as_the_token_says(request, call), stream=True)
        release = self._take_slot()
        try:
            books, attempts, plan = self._admit(self._chat(request, call), call)
            patience_s = min(self._times.ping_after, call.remaining())  # headers must go out then
            inquiry = self._cache.inquire(request, plan, call, form=WORDS, patience_s=patience_s)
        except BaseException:
            release()
            raise
        if (cached := inquiry.cached) is not None:
            release()
            candidate = plan.place(cached.by) or attempts.first
            books.close_from_cache(candidate, cached.cost, cached.result)
            return self._cache.replay(request, call, cached, candidate=candidate, rates=books.rates)
        stream = ChatStream(
            request,
            call,
            attempts=attempts,
            books=books,
            ask=lambda candidate, deadline: self._open(request, candidate, call, deadline),
            times=self._times,
            shutdown=self._shutdown,
            drains=self._drains,
            on_over=release,
            recording=self._cache.recording(inquiry),
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
        request = _as_the_token_says(request, call)
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
        """Each call holds a thread, a stream for long; some are kept for plain calls, and some for no call at all."""
        of_streams = self._slots.take()
        try:
            of_calls = self._places.take()
        except Unavailable:
            of_streams()
            raise

        def release() -> None:
            of_calls()
            of_streams()

        return release

    def _admit(self, work: Work[Any], call: CallContext) -> tuple[CallBooks, Attempts, Plan]:
        """Who may answer, how long the prompt is, and whether there is room."""
        if self._shutdown.draining:
            raise Unavailable("The gateway is restarting.", retry_after=1)
        if not call.principal.approved:
            raise Forbidden("This account waits for an administrator's approval.")
        books = CallBooks(
            self._ledger,
            self._usage,
            request=work.request,
            call=call,
            bound=work.bound,
            seconds=self._times.most if work.request.stream else 0.0,
            model_limits=self._model_limits,
        )
        try:
            plan = self._router.plan(work.request, call.principal, ability=work.ability, cost=work.expected)
            if self._refuse_unpriced:
                plan = _priced(plan, work)
            candidates, too_small = _that_hold(plan, work.prompt_tokens)
            books.admit(self._limits, work.prompt_tokens)
        except DomainError as error:
            books.tell_refusal(error)
            raise
        attempts = Attempts(candidates, call, self._watch, instead=plan.instead, passed_over=too_small, pace=self._pace)
        return books, attempts, plan

    def _prepare(self, request: ChatRequest, candidate: Candidate, call: CallContext, deadline: float) -> ChatRequest:
        """What this candidate needs: images inlined where it cannot fetch, the bound that was reserved where a budget
        must be kept."""
        abilities = self._factory.adapter_for(candidate).ABILITIES
        fetches = "image_http" in abilities
        secure_stays = "image_url" in abilities and not fetches
        messages = self._images.inline(request.messages, deadline, secure_stays=secure_stays, images_stay=fetches)
        if messages != request.messages:
            native = replace(request.native, body=None) if request.native else None  # it names what cannot be fetched
            request = replace(request, messages=messages, native=native)
        if call.principal.budgets and request.output_cap is None:
            request = replace(request, params={**request.params, "max_tokens": output_cap(request, candidate)})
        return request


def _as_the_token_says(request: OneRequest, call: CallContext) -> OneRequest:
    """A token may ask once for what `drop_params` asks for each call."""
    return replace(request, drop_params=True) if call.principal.drop_params else request


def _told(
    result: Result,
    candidate: Candidate,
    usage: Usage,
    attempts: Attempts,
    books: CallBooks,
    cost: int | None,
) -> Told[Result]:
    """An answer, once it is known what it cost, and with what is left of the limits then."""
    dropped = tuple(getattr(result, "dropped", ()))
    return Told(result, candidate, usage, cost, attempts.number, dropped, books.rates, attempts.story)


def _guessed(request: ChatRequest) -> int:
    """What is shown to the model: messages, and tools as the JSON they are."""
    tools = request.params.get("tools") or []
    return prompt_estimate(request.messages) + estimate_tokens(json.dumps(tools, ensure_ascii=False) if tools else "")


def _priced(plan: Plan, work: Work[Any]) -> Plan:
    """Those of which it is known what this call costs."""

    def of(candidates: list[Candidate]) -> list[Candidate]:
        return [candidate for candidate in candidates if work.bound(candidate).price is not None]

    if not (found := of(plan.candidates)):
        name = plan.candidates[0].name
        raise UnpricedModel(f"The model {name} has no price, and this gateway refuses unpriced models.")
    return plan._replace(candidates=found, instead={kind: of(chain) for kind, chain in plan.instead.items()})


def _that_hold(plan: Plan, prompt_tokens: int) -> tuple[list[Candidate], list[Candidate]]:
    """Who is asked, and who is passed over: where a route names others for it, a model whose window the prompt
    surely exceeds. Our count is a guess, so that only half of it is sure."""
    instead = plan.instead.get(CONTEXT_WINDOW)
    if not instead:
        return plan.candidates, []
    too_small = [one for one in plan.candidates if (one.model.context_window or prompt_tokens) < prompt_tokens * SURE]
    kept = [one for one in plan.candidates if one not in too_small]
    return kept or instead, too_small
