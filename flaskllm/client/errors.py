"""What may go wrong, one class for each code of the gateway (``docs/api.md``, Errors)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class GatewayError(Exception):
    """The gateway refused or failed.

    ``status``: the HTTP status, 0 where there was no answer. ``code``: the gateway's word for it. ``details``: which
    field and why, where fields are at fault. ``request_id``: what the gateway's log knows the call by.
    ``retry_after``: seconds, where the gateway named them. ``should_retry``: False where the same would fail again.
    """

    code: ClassVar[str] = "error"

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str | None = None,
        details: Sequence[Mapping[str, Any]] = (),
        request_id: str | None = None,
        retry_after: float | None = None,
        should_retry: bool = True,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.given_code = code or self.code
        self.details = list(details)
        self.request_id = request_id
        self.retry_after = retry_after
        self.should_retry = should_retry


class GatewayUnreachable(GatewayError):
    """No connection, or it broke off before an answer."""

    code = "unreachable"


class InvalidRequest(GatewayError):
    code = "invalid_request"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class ContentFiltered(InvalidRequest):
    code = "content_filtered"


class Unauthenticated(GatewayError):
    code = "unauthenticated"


class TokenExpired(Unauthenticated):
    code = "token_expired"


class TokenRevoked(Unauthenticated):
    code = "token_revoked"


class UnpricedModel(GatewayError):
    code = "unpriced_model"


class Forbidden(GatewayError):
    code = "forbidden"


class ForbiddenTarget(Forbidden):
    code = "forbidden_target"


class NotFound(GatewayError):
    code = "not_found"


class MethodNotAllowed(GatewayError):
    code = "method_not_allowed"


class Conflict(GatewayError):
    code = "conflict"


class IdempotencyConflict(Conflict):
    code = "idempotency_conflict"


class PayloadTooLarge(GatewayError):
    code = "payload_too_large"


class UnsupportedMediaType(GatewayError):
    code = "unsupported_media_type"


class RateLimited(GatewayError):
    code = "rate_limited"


class BudgetExceeded(GatewayError):
    code = "budget_exceeded"


class ExternalError(GatewayError):
    code = "external_error"


class ProviderError(GatewayError):
    code = "provider_error"


class ProviderTimeout(ProviderError):
    code = "provider_timeout"


class Unavailable(GatewayError):
    code = "unavailable"


class InternalError(GatewayError):
    code = "internal_error"


BY_CODE: dict[str, type[GatewayError]] = {
    kind.code: kind
    for kind in (
        InvalidRequest, ContextLengthExceeded, ContentFiltered, Unauthenticated, TokenExpired, TokenRevoked,
        UnpricedModel, Forbidden, ForbiddenTarget, NotFound, MethodNotAllowed, Conflict, IdempotencyConflict,
        PayloadTooLarge, UnsupportedMediaType, RateLimited, BudgetExceeded, ExternalError, ProviderError,
        ProviderTimeout, Unavailable, InternalError,
    )
}  # fmt: skip


def from_answer(status: int, headers: Mapping[str, str], document: Any) -> GatewayError:
    """The error that an answer tells, in whichever of the gateway's dialects; also one that is not the gateway's."""
    told = document.get("error") if isinstance(document, dict) else None
    told = told if isinstance(told, dict) else {}
    code = headers.get("X-FlaskLLM-Error") or str(told.get("code") or "")
    kind = BY_CODE.get(code, GatewayError)
    details = told.get("details")
    return kind(
        str(told.get("message") or f"The gateway answered with the status {status}."),
        status=status,
        code=code or None,
        details=details if isinstance(details, list) else (),
        request_id=headers.get("X-Request-Id"),
        retry_after=seconds(headers.get("Retry-After")),
        should_retry=headers.get("x-should-retry") != "false",
    )


def seconds(text: str | None) -> float | None:
    """``Retry-After`` as the gateway writes it: whole seconds."""
    return float(text) if text and text.isdecimal() else None
