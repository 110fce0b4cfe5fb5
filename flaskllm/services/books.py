"""One call's entries: what is reserved and settled for it, its one row and its one log line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flaskllm.domain.answer import RateStatus
from flaskllm.domain.body import Transcript, transcript_of
from flaskllm.domain.call import CallContext
from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.estimate import tokens_of_chars
from flaskllm.domain.principal import RateLimits
from flaskllm.domain.usage import Usage
from flaskllm.errors import BudgetExceeded, DomainError, ModelFull, ProviderFailure, RateLimited, Unavailable
from flaskllm.repositories.ledger import Settle
from flaskllm.services.attempts import Attempts
from flaskllm.services.ledger import RELEASED, SETTLED, Attempt, Bound, Ledger
from flaskllm.services.limits import Admission, Limits, rate_headers
from flaskllm.services.usage import AnyRequest, Outcome, UsageService

LIMITED = (RateLimited, BudgetExceeded)
"""Refusals of a limit, after which the others have not counted the call."""


class CallBooks:
    """``bound``: what an attempt at a candidate may come to. ``seconds``: what a stream may take beyond its first
    frame, for the lease."""

    def __init__(
        self,
        ledger: Ledger,
        usage: UsageService,
        *,
        request: AnyRequest,
        call: CallContext,
        bound: Callable[[Candidate], Bound],
        seconds: float = 0.0,
        model_limits: Callable[[Candidate], RateLimits | None] = lambda _: None,
    ) -> None:
        self._model_limits = model_limits
        self._ledger, self._usage = ledger, usage
        self._request, self._call = request, call
        self._bound = bound
        self._seconds = seconds
        self._spent = 0
        self._tokens = 0
        self._unsettled: Settle | None = None
        self._refused = False
        self._limits: Limits | None = None
        self._admission = Admission()
        self._of_model = Admission()

    @property
    def rates(self) -> tuple[tuple[str, RateStatus], ...]:
        """How the caller's limits stand: as admitted, and after the end with what was really taken."""
        return self._admission.rates

    def admit(self, limits: Limits, tokens: int) -> None:
        """Count the call, and its prompt by estimate until its end. Raises `RateLimited`."""
        self._admission = limits.admit(self._call, tokens=tokens)
        self._limits = limits

    def _correct_tokens(self) -> None:
        """What was counted by estimate becomes what was taken, once."""
        limits, self._limits = self._limits, None
        if limits is not None:
            self._admission = limits.correct(self._admission, tokens=self._tokens)

    def _free_model(self) -> None:
        """The attempt at the model did not go out: its limits have counted nothing."""
        admission, self._of_model = self._of_model, Admission()
        if self._limits is not None:
            self._limits.take_back(admission)

    def _correct_model(self, tokens: int) -> None:
        """The same for the model that was asked, by what this one attempt took."""
        admission, self._of_model = self._of_model, Admission()
        if self._limits is not None:
            self._limits.correct(admission, tokens=tokens)

    def _take_back(self, error: DomainError) -> None:
        """A budget or another limit refused what these limits had let in: they have not counted it. ``error`` says
        how they stand."""
        if self._limits is not None and isinstance(error, LIMITED):
            self._admission, self._limits = self._limits.take_back(self._admission), None
            error.headers.update(rate_headers(self._admission.rates))

    def reserve(self, candidate: Candidate, number: int) -> Attempt:
        """Commit the attempt's row. A refusal (budget, calls in flight, database) is told and raised.

        It ends the call. Where attempts went out before it, the call has a row. Raises `ModelFull` where it does not
        end it, since another candidate may be asked: the model has as many calls or tokens as it may.
        """
        of_model = self._model_limits(candidate)
        bound = self._bound(candidate)
        if self._limits is not None:
            self._of_model = self._limits.admit_model(candidate.name, of_model, tokens=bound.most.prompt_tokens)
        after, self._unsettled = self._unsettled, None
        try:
            return self._ledger.reserve(
                self._request,
                candidate,
                self._call,
                number=number,
                seconds=self._longest(candidate),
                bound=bound,
                most_of_model=of_model.concurrency if of_model else None,
                after=after,
            )
        except ModelFull:
            self._free_model()
            raise
        except DomainError as error:
            self._free_model()
            self._refused = True
            row = self._refusal(error, candidate=candidate, attempts=number - 1)
            if after is not None and isinstance(error, Unavailable):
                # without the row: it may be settled by now, and would be left out with it
                self._ledger.write_settlement(after)
            if number > 1:
                self._ledger.record(self._usage.with_body(row, self._request, None))
            self._usage.tell(row)
            if number == 1:
                self._take_back(error)
            self._correct_tokens()
            raise

    def _longest(self, candidate: Candidate) -> float:
        """Seconds that an attempt may take at the most, by the caller's deadline and the provider's own times."""
        times, own = candidate.provider.timeouts, candidate.model.timeout_s or candidate.provider.timeout_s
        if not self._seconds:
            return max(self._call.remaining(), own or 0.0)
        first_frame = max(self._call.remaining(), own or 0.0, times.first_byte_s or 0.0)
        return first_frame + max(self._seconds, times.total_s or 0.0)

    def tell_refusal(self, error: DomainError) -> None:
        """A call that never went out has a log line and no row: a flood of refusals must not fill the database."""
        self._usage.tell(self._refusal(error))

    def _refusal(self, error: DomainError, *, candidate: Candidate | None = None, attempts: int = 0) -> dict[str, Any]:
        cost = self._spent if attempts else None
        outcome = Outcome(candidate, Usage(), cost, attempts, error.status, error.code)
        return self._usage.row(self._request, self._call, outcome)

    def pass_on(self, attempt: Attempt, failure: ProviderFailure, seen: Usage | None = None) -> None:
        """This attempt failed and another follows. Once something was paid for, it is settled as the next is reserved.

        So no moment is left in which the process could die and the call be forgotten.
        """
        state, usage = _verdict(attempt, failure, seen, sent=True)
        self._tokens += usage.total_tokens
        self._correct_model(usage.total_tokens)
        if state == RELEASED and not self._spent:
            self._ledger.settle(attempt, state=state, usage=usage, error_code=failure.code)
            return
        self._unsettled = self._ledger.settlement(attempt, state=state, usage=usage, error_code=failure.code)
        self._spent += self._unsettled.values["cost"] or 0

    def close(
        self,
        attempt: Attempt | None,
        attempts: Attempts,
        *,
        usage: Usage | None,
        error: DomainError | None = None,
        sent: bool = True,
        status: int = 200,
        tell: Callable[[int | None], Any] | None = None,
        first_token_ms: int | None = None,
        answer: Transcript | None = None,
    ) -> int | None:
        """The call is over: settle its last attempt, write its row and its line. Gives the cost of all attempts.

        ``usage``: the provider's word or an estimate of what came; ``sent``: whether the question had gone out.
        ``answer``: what came in words, where `keeps_bodies`.
        ``tell``: the answer, out of its cost, for whoever wants it written with its settlement (`CallContext.keep`).
        ``first_token_ms``: of a stream, until its first content was handed on.
        """
        try:
            return self._close(
                attempt,
                attempts,
                usage=usage,
                error=error,
                sent=sent,
                status=status,
                tell=tell,
                first_token_ms=first_token_ms,
                answer=answer,
            )
        finally:
            self._correct_tokens()

    def _close(
        self,
        attempt: Attempt | None,
        attempts: Attempts,
        *,
        usage: Usage | None,
        error: DomainError | None,
        sent: bool,
        status: int,
        tell: Callable[[int | None], Any] | None,
        first_token_ms: int | None,
        answer: Transcript | None,
    ) -> int | None:
        if error is None and status < 400:
            attempts.worked()
        if self._refused:
            return self._spent
        if attempt is None:
            return self._close_without_attempt(attempts, error, status)
        state, taken = _verdict(attempt, error, usage, sent=sent)
        self._tokens += taken.total_tokens
        self._correct_model(taken.total_tokens)
        cost = self._ledger.price(attempt, state, taken)
        total = None if cost is None else cost + self._spent
        code = error.code if error else "client_closed" if status >= 400 else None
        outcome = Outcome(attempt.candidate, taken, total, attempts.number, status, code, first_token_ms=first_token_ms)
        row = self._row(outcome, answer)
        keep = self._call.keep
        beside = keep(tell(total)) if keep and tell else None
        self._ledger.settle(attempt, state=state, usage=taken, error_code=code, call=row, beside=beside)
        self._usage.tell(row)
        return total

    @property
    def keeps_bodies(self) -> bool:
        """Whether it is worth gathering what is said."""
        return self._usage.keeps_bodies

    def _row(self, outcome: Outcome, answer: Transcript | None = None) -> dict[str, Any]:
        """The row of a call that will be written."""
        return self._usage.with_body(self._usage.row(self._request, self._call, outcome), self._request, answer)

    def close_from_cache(self, candidate: Candidate, saved: int | None, answer: Any) -> None:
        """Nobody was asked and nothing was spent; ``saved``: what the answer had cost before."""
        words = transcript_of(answer) if self.keeps_bodies else None
        row = self._row(Outcome(candidate, Usage(), 0, 0, saved=saved), words)
        self._ledger.record(row)
        self._usage.tell(row, from_cache=True)
        self._correct_tokens()

    def _close_without_attempt(self, attempts: Attempts, error: DomainError | None, status: int) -> int | None:
        outcome = Outcome(
            attempts.candidate, Usage(), self._spent, attempts.number, status, error.code if error else None
        )
        row = self._row(outcome)
        if self._unsettled is not None:
            self._unsettled.call = row
            self._ledger.write_settlement(self._unsettled)
        elif attempts.number:
            self._ledger.record(row)
        elif error is not None:
            self._take_back(error)
        self._usage.tell(row)
        return self._spent


def _verdict(attempt: Attempt, error: DomainError | None, usage: Usage | None, *, sent: bool) -> tuple[str, Usage]:
    """Released where nothing can have been generated; else what came, or the bound where nobody knows.

    An answer that came and cannot be used is estimated by its length: nothing may have been generated if it is empty.
    """
    if usage is not None:
        return SETTLED, usage
    if isinstance(error, ProviderFailure):
        if (taken := attempt.believed(error.taken)) is not None and not _is_paid_by_the_piece(attempt):
            return SETTLED, taken
        if not error.may_be_billed or error.received == 0:
            return RELEASED, Usage()
        words = attempt.most.output
        if error.received is not None:
            words = min(tokens_of_chars(error.received), words)
        return SETTLED, replace(attempt.most, output=words)
    if not sent:
        return RELEASED, Usage()
    return SETTLED, replace(attempt.most, output=0)


def _is_paid_by_the_piece(attempt: Attempt) -> bool:
    return attempt.price is not None and attempt.price.images is not None
