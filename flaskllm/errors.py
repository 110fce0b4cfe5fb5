"""Every way a request can fail, once; each dialect renders it (``wire/errors.py``).

    DomainError                      status, code
    ├── InvalidRequest               400  invalid_request
    │   ├── ContextLengthExceeded    400  context_length_exceeded
    │   └── ContentFiltered          400  content_filtered
    ├── Unauthenticated              401  unauthenticated
    │   ├── TokenExpired             401  token_expired
    │   └── TokenRevoked             401  token_revoked
    ├── UnpricedModel                402  unpriced_model
    ├── Forbidden                    403  forbidden
    │   └── ForbiddenTarget          403  forbidden_target
    ├── NotFound                     404  not_found
    ├── MethodNotAllowed             405  method_not_allowed
    ├── Conflict                     409  conflict
    │   ├── IdempotencyConflict      409  idempotency_conflict
    │   └── StillRunning             409  conflict         (an invitation to ask again)
    ├── PayloadTooLarge              413  payload_too_large
    ├── UnsupportedMediaType         415  unsupported_media_type
    ├── RateLimited                  429  rate_limited
    │   └── ProvidersBusy            429  rate_limited     (not by a limit of ours)
    ├── BudgetExceeded               429  budget_exceeded
    ├── ExternalError                502  external_error
    │   └── ExternalTimeout          504  external_error
    ├── Unavailable                  503  unavailable
    │   └── NobodyWell               503  unavailable      (every breaker is open)
    ├── InternalError                500  internal_error
    └── ProviderFailure              what one attempt at a provider ended in
        ├── ProviderError            502  provider_error
        ├── ProviderUnreachable      502  provider_error   (nothing was sent)
        ├── ProviderTimeout          504  provider_timeout
        ├── ProviderKeyRejected      502  provider_error   (our key, never the caller's)
        ├── ProviderRateLimited      429  rate_limited
        │   ├── ModelFull            429  rate_limited     (by our own limit; it was not asked)
        │   └── QuotaSpent           429  rate_limited     (our account's; no short wait heals it)
        ├── ProviderRefused          400  invalid_request
        ├── PromptTooLong            400  context_length_exceeded
        └── PromptFiltered           400  content_filtered

The source of statuses and codes is ``docs/api.md``, section "Errors".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, TypedDict

MOST_TOLD = 20
"""Faults of one body that are told."""


class Detail(TypedDict):
    """One fault in a body: which field, and what was expected of it."""

    field: str
    message: str


class DomainError(Exception):
    """A failure the caller may be told about, in words without secrets."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = True

    def __init__(
        self,
        message: str,
        *,
        details: Sequence[Detail] = (),
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = list(details)
        self.retry_after = retry_after
        self.headers = dict(headers or {})

    @property
    def param(self) -> str | None:
        """The first field at fault, for OpenAI's ``param``."""
        return self.details[0]["field"] if self.details else None


def invalid(field: str, message: str) -> InvalidRequest:
    """One field at fault.

    >>> str(invalid("temperature", "must be a number"))
    'temperature: must be a number'
    """
    return InvalidRequest(f"{field}: {message}", details=[{"field": field, "message": message}])


def invalid_for(faults: Sequence[Detail]) -> InvalidRequest:
    """Several fields at fault, at least one: the message tells the first, the details the first `MOST_TOLD`."""
    first = faults[0]
    return InvalidRequest(f"{first['field']}: {first['message']}", details=faults[:MOST_TOLD])


def refuse(faults: Iterable[Detail]) -> None:
    """Raises `InvalidRequest` where there is any fault."""
    if told := list(islice(faults, MOST_TOLD)):
        raise invalid_for(told)


class InternalError(DomainError):
    """Our own fault; the log has the rest."""


class InvalidRequest(DomainError):
    status, code, retryable = 400, "invalid_request", False


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class ContentFiltered(InvalidRequest):
    code = "content_filtered"


class Unauthenticated(DomainError):
    status, code, retryable = 401, "unauthenticated", False


class TokenExpired(Unauthenticated):
    code = "token_expired"


class TokenRevoked(Unauthenticated):
    code = "token_revoked"


class UnpricedModel(DomainError):
    status, code, retryable = 402, "unpriced_model", False


class Forbidden(DomainError):
    status, code, retryable = 403, "forbidden", False


class ForbiddenTarget(Forbidden):
    """A place we do not call for anybody; never says which address a name resolved to."""

    code = "forbidden_target"


class NotFound(DomainError):
    status, code, retryable = 404, "not_found", False


class MethodNotAllowed(DomainError):
    status, code, retryable = 405, "method_not_allowed", False


class Conflict(DomainError):
    status, code, retryable = 409, "conflict", False


class IdempotencyConflict(Conflict):
    code = "idempotency_conflict"


class StillRunning(Conflict):
    """The same request is being answered for somebody who sent it before."""

    retryable = True


class PayloadTooLarge(DomainError):
    status, code, retryable = 413, "payload_too_large", False


class UnsupportedMediaType(DomainError):
    status, code, retryable = 415, "unsupported_media_type", False


class RateLimited(DomainError):
    status, code = 429, "rate_limited"


class ProvidersBusy(RateLimited):
    """Every provider that was asked says that it is asked too much."""


class BudgetExceeded(DomainError):
    """Spent until the period ends: not an invitation to try again."""

    status, code, retryable = 429, "budget_exceeded", False


class ExternalError(DomainError):
    """A call to the outside that is no model's: its target failed, or answered nonsense."""

    status, code = 502, "external_error"


class ExternalTimeout(ExternalError):
    """The target did not answer before the deadline."""

    status = 504


class Unavailable(DomainError):
    """``may_be_written``: what was to be committed may stand in the database all the same."""

    status, code = 503, "unavailable"
    may_be_written: bool = False


class NobodyWell(Unavailable):
    """None of those who could answer may be asked now: their breakers are open."""


class ProviderFailure(DomainError):
    """One attempt at one provider has failed.

    ``try_elsewhere``: another candidate may well answer.
    ``try_again``: the same candidate may answer a second time.
    ``may_be_billed``: the provider may have generated something, so the
    attempt is settled at its bound and flagged, not released.
    ``received``: the length of an answer that came whole and cannot be used; the
    attempt is settled by it instead.
    ``taken``: the `Usage` that the provider told all the same, or that earlier calls of the attempt told where no other
    call of it is billed; the attempt is settled at that.
    ``key_at_fault``: it is our key or its quota; another key of the same
    provider may answer.
    ``outcome``: the word for it in the story of a call (``X-FlaskLLM-Attempts``).
    """

    status, code = 502, "provider_error"
    outcome: ClassVar[str] = "error"
    try_elsewhere: ClassVar[bool] = True
    try_again: ClassVar[bool] = False
    may_be_billed: bool = False
    received: int | None = None
    taken: Any = None
    key_at_fault: bool = False

    def __init__(self, message: str, *, may_be_billed: bool | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        if may_be_billed is not None:
            self.may_be_billed = may_be_billed


class ProviderError(ProviderFailure):
    """A 5xx, a cut, or nonsense where an answer should be."""

    try_again = True


class ProviderUnreachable(ProviderFailure):
    """Refused, unknown name, bad certificate: nothing was sent."""

    outcome = "unreachable"


class ProviderTimeout(ProviderFailure):
    status, code, outcome = 504, "provider_timeout", "timeout"
    may_be_billed = True


class ProviderKeyRejected(ProviderFailure):
    """401, 402, 403 or 404 from a provider: our configuration is at fault, not the caller."""

    outcome = "key_rejected"


class ProviderRateLimited(ProviderFailure):
    status, code, outcome = 429, "rate_limited", "rate_limited"


class ModelFull(ProviderRateLimited):
    """Our own limit of a model, for everybody: it is not asked, and another candidate may be."""

    outcome = "full"


class QuotaSpent(ProviderRateLimited):
    """Our account has used up what it may: its key is put aside, and asking again soon is no use."""

    retryable = False
    key_at_fault = True


class ProviderRefused(ProviderFailure):
    """The provider refuses the request itself; nobody else is asked."""

    status, code, outcome = 400, "invalid_request", "refused"
    retryable = False
    try_elsewhere = False


class PromptTooLong(ProviderRefused):
    code, outcome = "context_length_exceeded", "too_long"


class PromptFiltered(ProviderRefused):
    code, outcome = "content_filtered", "filtered"
