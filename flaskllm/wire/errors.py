"""One domain error, three bodies: OpenAI's, Anthropic's, ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flaskllm.errors import DomainError

OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    502: "server_error",
    503: "server_error",
    504: "timeout_error",
}
ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def openai(error: DomainError, _request_id: str) -> dict[str, Any]:
    """``{"error": {"message", "type", "param", "code"}}``: all four keys always."""
    kind = OPENAI_TYPES.get(error.status, "server_error")
    if error.code == "budget_exceeded":
        kind = "insufficient_quota"
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def anthropic(error: DomainError, request_id: str) -> dict[str, Any]:
    """``{"type": "error", "error": {"type", "message"}, "request_id"}``."""
    kind = ANTHROPIC_TYPES.get(error.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id}


def house(error: DomainError, request_id: str) -> dict[str, Any]:
    """``{"status": "error", "error": {"code", "message", "details", "request_id"}}``."""
    return {
        "status": "error",
        "error": {
            "code": error.code,
            "message": error.message,
            "details": error.details,
            "request_id": request_id,
        },
    }


Dialect = Callable[[DomainError, str], dict[str, Any]]
DIALECTS: dict[str, Dialect] = {"openai": openai, "anthropic": anthropic, "house": house}
