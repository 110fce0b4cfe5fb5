"""Which pages may call: flask-cors, and the two things in which spreadsheets need more than it gives.

Their runtimes' origin changes, so where everybody may call the answer is ``*`` and never an echo; and a wildcard of
headers does not cover ``Authorization``, so a preflight is told every header by name, whatever it asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from flask import Flask, Response, request

from flaskllm.extensions import cors

MAX_AGE_S = 3600
SHARED = r"/(?!admin(?:/|$)).*"
"""All but the pages that a cookie opens: those are no other site's to read."""
ALLOWED = (
    "Authorization", "Content-Type", "X-API-Token", "X-Request-Id", "X-Correlation-Id", "X-User-Id", "X-Client-Id",
    "client_id", "api-key", "x-api-key", "anthropic-version", "anthropic-beta", "Idempotency-Key",
    "X-FlaskLLM-Cache",
)  # fmt: skip
EXPOSED = (
    "X-Request-Id", "X-Correlation-Id", "X-User-Id", "X-Client-Id", "client_id", "X-FlaskLLM-Error",
    "X-FlaskLLM-Provider", "X-FlaskLLM-Model",
    "X-FlaskLLM-Cost", "X-FlaskLLM-Cache", "X-FlaskLLM-Attempts", "X-FlaskLLM-Dropped-Params",
    "Idempotency-Replayed", "Retry-After", "x-should-retry",
    "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
)  # fmt: skip
"""What a page may send, and what it may read (``docs/api.md``, "Who is calling")."""


def share_with_browsers(app: Flask, *, origins: Sequence[str]) -> None:
    app.after_request(_name_every_header)  # before flask-cors: the last registered runs first
    if "*" not in origins:
        app.after_request(_say_that_it_varies)
    cors.init_app(
        app,
        resources=SHARED,
        origins=list(origins),
        send_wildcard="*" in origins,
        expose_headers=list(EXPOSED),
        allow_headers=list(ALLOWED),
        max_age=MAX_AGE_S,
    )


def _name_every_header(response: Response) -> Response:
    if request.method == "OPTIONS" and "Access-Control-Allow-Origin" in response.headers:
        response.headers["Access-Control-Allow-Headers"] = ", ".join(ALLOWED)
        response.headers.pop("Content-Type", None)
    return response


def _say_that_it_varies(response: Response) -> Response:
    """Where only some may call, a cache must not give one's answer to another; flask-cors says so from two on."""
    if re.match(SHARED, request.path):
        response.vary.add("Origin")
    return response
