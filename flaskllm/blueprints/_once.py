"""``Idempotency-Key``: a view that spends money answers a repeated request without doing its work again."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import Response, g, request

from flaskllm.blueprints._calls import CACHE
from flaskllm.blueprints._errors import render
from flaskllm.blueprints._guard import current_principal
from flaskllm.blueprints._http import json_body
from flaskllm.domain.answer import KeptAnswer
from flaskllm.errors import ProviderRefused, invalid
from flaskllm.extensions import services
from flaskllm.services.limits import rate_headers

View = Callable[..., Response]

NAME, REPLAYED = "Idempotency-Key", "Idempotency-Replayed"
HEADER = {
    "name": NAME,
    "in": "header",
    "description": "A name of your own for this request: sent again with it, it is answered from what was kept for "
    "24 hours and costs nothing. Ignored on a stream",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
}
_KEY = re.compile(r"[ -~]{1,255}")
_KEPT = re.compile(r"content-type|x-flaskllm-.*|x-should-retry", re.IGNORECASE)
"""Headers that belong to the answer, and not to the request that it was given to."""
NOTHING_SPENT = {"X-FlaskLLM-Cost": "0", "X-FlaskLLM-Attempts": "0", "X-FlaskLLM-Cache": "hit"}


def once(view: View) -> View:
    """Mark a view whose answer is kept under the caller's ``Idempotency-Key``; stands below `documented`.

    What is kept is an answer that went well and a provider's refusal of the request itself. After anything else, which
    may go otherwise the next time, the key is free again.
    """

    @wraps(view)
    def answer(*args: Any, **named: Any) -> Response:
        if NAME not in request.headers:
            return view(*args, **named)
        key = _key()
        g.body = body = json_body()
        if body.get("stream") is True:
            return view(*args, **named)
        got = services.idempotency.begin(current_principal(), key, place=_place(), body=body)
        if isinstance(got, KeptAnswer):
            return _replay(got)
        try:
            response = view(*args, **named)
        except ProviderRefused as refusal:
            response = render(refusal)
        except BaseException:
            services.idempotency.give_up(got)
            raise
        services.idempotency.keep(got, _kept(response))
        return response

    answer.takes_a_key = True  # type: ignore[attr-defined]  # for the document
    return answer


def _key() -> str:
    key = request.headers[NAME].strip()
    if not _KEY.fullmatch(key):
        raise invalid(NAME, "must have 1 to 255 printable ASCII characters")
    return key


def _place() -> str:
    """What is asked beside the body: path and query, and headers that make another question of it."""
    return " ".join([request.full_path, *(request.headers.get(name, "") for name in ("anthropic-beta", CACHE))])


def _kept(response: Response) -> KeptAnswer:
    headers = {name: value for name, value in response.headers.items() if _KEPT.fullmatch(name)}
    return KeptAnswer(response.status_code, headers, response.get_data())


def _replay(kept: KeptAnswer) -> Response:
    """The same bytes, marked. It counts as a request against the caller's limit, and costs nothing."""
    rates = services.limits.admit_request(current_principal())
    response = Response(kept.body, status=kept.status, headers=dict(kept.headers))
    response.headers.update({**rate_headers(rates), REPLAYED: "true"})
    if kept.status < 400:
        response.headers.update(NOTHING_SPENT)
    return response
