"""What happens round every request: its id, its guard, its headers, its log line."""

from __future__ import annotations

import logging
import re
import time
from uuid import uuid4

from flask import Flask, Response, g, request

from flaskllm.blueprints._claims import claims_for_log, return_claims
from flaskllm.extensions import services
from flaskllm.observability import request_id

log = logging.getLogger("flaskllm.http_request")

WELL_FORMED_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")


def register_hooks(app: Flask, *, hsts: bool) -> None:
    app.before_request(_begin)
    app.after_request(_finish)
    app.teardown_request(_forget)
    if hsts:
        app.after_request(_strict_transport)


def _begin() -> None:
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if WELL_FORMED_ID.fullmatch(given) else str(uuid4())
    g.started = time.monotonic()
    request_id.set(g.request_id)
    services.housekeeper.wake()


def _finish(response: Response) -> Response:
    headers = response.headers
    headers["X-Request-Id"] = g.get("request_id", "")
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "no-referrer"
    if "principal" in g:  # no proxy knows that X-API-Token is a credential, and may keep what has no word on it
        headers.setdefault("Cache-Control", "no-store")
    return_claims(response)
    _tell(response)
    return response


def _strict_transport(response: Response) -> Response:
    if request.is_secure:
        response.headers["Strict-Transport-Security"] = "max-age=31536000; includeSubDomains"
    return response


def _tell(response: Response) -> None:
    """One line a request, and its counts; the route's rule and never the path or query, where secrets may stand.

    A model call that was answered has a line of its own (``llm_request``).
    """
    route, seconds = request.url_rule.rule if request.url_rule else None, time.monotonic() - g.get("started", 0.0)
    services.metrics.request(method=request.method, route=route, status=response.status_code, seconds=seconds)
    if "model_call" in g and response.status_code < 400:
        return
    principal = g.get("principal")
    fields = {
        "method": request.method,
        "route": route,
        "status": response.status_code,
        "ms": round(seconds * 1000, 1),
        "user": principal.user_id if principal else None,
        **claims_for_log(),
    }
    if host := g.get("target_host"):
        fields["target_host"] = host
    if code := g.get("error_code"):
        fields["error_code"] = code
    log.info("http_request", extra={"fields": fields})


def _forget(_: BaseException | None) -> None:
    request_id.set(None)
