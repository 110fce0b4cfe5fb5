"""From a request to a call, and from its answer to headers: what all doors to a model share."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from flask import Response, current_app, g, request

from flaskllm.blueprints._claims import claims
from flaskllm.blueprints._guard import current_principal
from flaskllm.domain.call import CallContext
from flaskllm.domain.pricing import dollars_text
from flaskllm.errors import invalid
from flaskllm.services.attempts import ATTEMPTS, story_header
from flaskllm.services.limits import rate_headers

CACHE = "X-FlaskLLM-Cache"
CACHE_HEADER = {
    "name": CACHE,
    "in": "header",
    "description": "`use`: the answer to an equal question will do, and this one is kept; else as the token is set. "
    "Chats and vectors are kept",
    "required": False,
    "schema": {"type": "string", "enum": ["use", "none"]},
}
SSE_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def new_call(door: str, *, metadata: Mapping[str, str] | None = None) -> CallContext:
    """The context of the call that this request asks for."""
    started = time.monotonic()
    g.model_call = True
    return CallContext(
        principal=current_principal(),
        request_id=g.request_id,
        door=door,
        deadline=started + current_app.config["REQUEST_TIMEOUT"],
        started=started,
        claims=claims(),
        address=request.remote_addr,
        client_fd=_client_fd(),
        metadata=metadata or {},
        uses_cache=_uses_cache(),
    )


def _uses_cache() -> bool | None:
    """Whether an equal question's answer is good enough: by this request's word, else by its token's.

    None where neither says so, and a template may. Raises `InvalidRequest`.
    """
    asked = request.headers.get(CACHE)
    if asked not in (None, "use", "none"):
        raise invalid(CACHE, "must be use or none")
    return (current_principal().cache or None) if asked is None else asked == "use"


def _client_fd() -> int | None:
    """The descriptor of the caller's connection, where the server tells it: gunicorn and uWSGI do."""
    sock = request.environ.get("gunicorn.socket")
    if sock is not None:
        return int(sock.fileno())
    if "uwsgi.version" in request.environ:
        import uwsgi

        return int(uwsgi.connection_fd())
    return None


def call_headers(told: Any) -> dict[str, str]:
    """What is known of an `Answer` or a `ChatStream` when its headers go out."""
    headers = {
        ATTEMPTS: story_header(told.attempts, told.story),
        CACHE: told.cache,
        **rate_headers(told.rates),
    }
    if told.candidate is not None:
        headers["X-FlaskLLM-Provider"] = told.candidate.provider.id
        headers["X-FlaskLLM-Model"] = told.candidate.model.name
    if told.dropped:
        headers["X-FlaskLLM-Dropped-Params"] = ", ".join(told.dropped)
    if told.cost is not None:
        headers["X-FlaskLLM-Cost"] = dollars_text(told.cost)
    return headers


def answer_response(body: bytes, answer: Any) -> Response:
    """A whole answer as JSON."""
    return Response(body, headers=call_headers(answer), content_type="application/json")


def stream_response(frames: Iterator[bytes], stream: Any) -> Response:
    """A streamed answer. ``close`` hangs on the response too: a generator that never started runs no ``finally``."""
    response = Response(frames, headers={**call_headers(stream), **SSE_HEADERS}, content_type="text/event-stream")
    response.call_on_close(stream.close)
    return response
