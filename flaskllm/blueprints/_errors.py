"""Every failure in the dialect of its path: routing errors too, and never a page of HTML on an API path."""

from __future__ import annotations

import logging
import math

import orjson
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from flaskllm.blueprints.admin import error_page
from flaskllm.errors import (
    Conflict,
    DomainError,
    Forbidden,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from flaskllm.wire.errors import DIALECTS

log = logging.getLogger(__name__)

BY_STATUS: dict[int, type[DomainError]] = {
    kind.status: kind
    for kind in (
        InvalidRequest, Unauthenticated, Forbidden, NotFound, MethodNotAllowed, Conflict, PayloadTooLarge,
        UnsupportedMediaType, Unavailable,
    )
}  # fmt: skip
PAGES = "/admin"
WORDS = {
    404: "There is no such path.",
    405: "This path does not take this method.",
    413: "The body is larger than this path takes.",
    415: "The content type is not one this path takes.",
}


def register_error_handlers(app: Flask) -> None:
    app.register_error_handler(DomainError, render)
    app.register_error_handler(HTTPException, _from_werkzeug)
    app.register_error_handler(Exception, _from_a_fault_of_ours)


def render(error: DomainError, *, status: int | None = None) -> Response:
    """The error in the dialect of the path, with its headers; at `PAGES` it is a page."""
    response = error_page(error) if is_page(request.path) else _document(error, status or error.status)
    response.headers["X-FlaskLLM-Error"] = error.code
    response.headers.update(error.headers)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if not error.retryable:
        response.headers["x-should-retry"] = "false"
    g.error_code = error.code
    return response


def _document(error: DomainError, status: int) -> Response:
    body = DIALECTS[dialect(request.path)](error, g.get("request_id", ""))
    response = Response(orjson.dumps(body), status=status, content_type="application/json")
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _from_werkzeug(error: HTTPException) -> Response:
    status = error.code or 500
    if status < 400 and error.response is not None:
        return error.get_response()  # type: ignore[return-value]
    kind = BY_STATUS.get(status, InvalidRequest if status < 500 else InternalError)
    response = render(kind(WORDS.get(status, error.description or "The request cannot be taken.")), status=status)
    for name, value in error.get_headers():
        if name.lower() in ("allow", "retry-after"):
            response.headers[name] = value
    return response


def _from_a_fault_of_ours(error: Exception) -> Response:
    log.error("unhandled %s", type(error).__name__, exc_info=error)
    return render(InternalError("Something went wrong here; the log has more under this request id."))


def is_page(path: str) -> bool:
    """Whether people look at it in a browser."""
    return path == PAGES or path.startswith(PAGES + "/")


def dialect(path: str) -> str:
    """The family of a path, by which its errors are written."""
    if path.startswith("/v1/messages"):
        return "anthropic"
    if path == "/v1" or path.startswith(("/v1/", "/openai/")):
        return "openai"
    return "house"
